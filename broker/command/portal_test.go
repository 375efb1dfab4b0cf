package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/portal/browsertest"
)

// TestVerifierIsMissing: a portal without one serves, and says so; one whose verifier was named, and isn't there or is another, doesn't start.
func TestVerifierIsMissing(t *testing.T) {
	s := newSite(t, time.Hour)
	if !strings.Contains(s.logs.String(), "no browser can check a history") {
		t.Errorf("the operator isn't told:\n%s", s.logs.String())
	}
	res, err := http.Get(s.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if page, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(page, []byte("Ce serveur ne fournit pas de vérificateur")) {
		t.Errorf("%v, %s: %s", err, res.Status, page)
	}
	if csp := res.Header.Get("Content-Security-Policy"); strings.Contains(csp, "script-src") || !strings.Contains(csp, "form-action 'self' "+s.simulator) {
		t.Errorf("policy %q", csp)
	}
	empty, other := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "verifier.sha256"), []byte("00  verifier.wasm\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{empty: "there is no verifier here", other: "the verifier in " + other} {
		i := &Instance{Broker: s.Broker, cfg: new(*s.cfg), log: s.log}
		i.cfg.Portal.Verifier = dir
		if _, err := i.verifier(t.Context()); err == nil || !strings.Contains(err.Error(), "portal.verifier: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestVerifierFollowsKeys: when the log's keys change, pages have browsers check by the new ones; while nobody can say, by those that were known last.
func TestVerifierFollowsKeys(t *testing.T) {
	vkey := func(n byte) string {
		k, err := note.NewEd25519VerifierKey("regard.example/site", bytes.Repeat([]byte{n}, 32))
		if err != nil {
			t.Fatal(err)
		}
		return "log " + k + "\nquorum none\n"
	}
	text, fail := vkey(1), error(nil)
	v := &verifiers{policy: func(context.Context) ([]byte, error) { return []byte(text), fail }, log: slog.New(slog.DiscardHandler), dir: browsertest.Verifier(t)}
	if _, err := v.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	address := func() string {
		t.Helper()
		e, err := v.element("fr", "/historique/fichier", "acces", "")
		if err != nil {
			t.Fatal(err)
		}
		at := regexp.MustCompile(`data-policy="([^"]+)"`).FindStringSubmatch(string(e))
		if at == nil {
			t.Fatalf("no policy: %s", e)
		}
		return at[1]
	}
	get := func(v *verifiers, path string) (int, string) {
		t.Helper()
		w := httptest.NewRecorder()
		v.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	served := func() string {
		t.Helper()
		_, text := get(v, address())
		return text
	}
	// Another broker, of whose own pages nobody asks one.
	other := &verifiers{policy: v.policy, log: v.log, dir: v.dir}
	if _, err := other.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := address()
	if got := served(); got != vkey(1) {
		t.Errorf("%q", got)
	}
	text = vkey(2)
	if got := served(); got != vkey(2) {
		t.Errorf("after a rotation: %q", got)
	}
	second := address()
	for name, x := range map[string]*verifiers{"the broker of the page": v, "another": other} {
		for path, want := range map[string]string{second: vkey(2), first: vkey(1)} { // a page of before the rotation is still open
			if code, got := get(x, path); code != http.StatusOK || got != want {
				t.Errorf("%s, %s: %d %q", name, path, code, got)
			}
		}
		if code, _ := get(x, strings.Replace(first, "/log.policy", "x/log.policy", 1)); code != http.StatusNotFound {
			t.Errorf("%s, keys that never were: %d", name, code)
		}
	}
	text, fail = vkey(3), errors.New("down")
	if got := served(); got != vkey(2) {
		t.Errorf("while nobody can say: %q", got)
	}
	if code, _ := get(other, "/verificateur/x"); code != http.StatusNotFound {
		t.Errorf("what isn't there while nobody can say: %d", code)
	}
}

package identity_test

import (
	"bufio"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/simulator"
)

// stranger starts a provider that others wrote, for a portal, and returns its issuer.
func stranger(t *testing.T, portal string) string {
	t.Helper()
	bin := os.Getenv("REGARD_DEVOIDC")
	if _, err := os.Stat(bin); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("REGARD_DEVOIDC doesn't name the OpenID Connect provider: make devoidc")
		}
		t.Skip("skipped: REGARD_DEVOIDC doesn't name the OpenID Connect provider (make devoidc builds bin/devoidc)")
	}
	cmd := exec.Command(bin, "-redirect", portal+identity.PathCallback, "-logout", portal+identity.PathSignedOut)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the provider: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

var requestID = regexp.MustCompile(`name="id" value="([^"]+)"`)

// A provider that somebody else wrote, and that knows nothing of FranceConnect: RS256, PKCE, max_age.
func TestSignInWithAStranger(t *testing.T) {
	w := newWorld(t, func(w *world, _ *simulator.Config) {
		w.cfg.Issuer, w.cfg.Scopes, w.cfg.Claims, w.cfg.Now = stranger(t, w.portal.URL), []string{"profile"}, nil, time.Now
	})
	b := w.browser()
	login := func(p page) page {
		t.Helper()
		m := requestID.FindStringSubmatch(p.body)
		if m == nil {
			t.Fatalf("not its page: %d %s\n%s\n%s", p.status, p.url, p.body, w.logs)
		}
		return b.post(w.cfg.Issuer+"/login/username", url.Values{"id": {m[1]}, "username": {"camille"}, "password": {"verysecure"}})
	}
	p := login(b.get(w.portal.URL + "/moi"))
	got := parseMe(p.body)
	want := []string{"pivot EXEMPLE ALPHA|CAMILLE INES|1984-03-14|F|75107|99100", "person EXEMPLE ALPHA|CAMILLE INES|1984-03-14|F"}
	if p.status != http.StatusOK || !slices.Equal(got.subjects, want) || got.level != "eidas2" {
		t.Fatalf("%d %s\n%s\n%s", p.status, p.url, p.body, w.logs)
	}
	// A provider that says when somebody signed in, and did so just now, needn't be asked again.
	if p := b.get(w.portal.URL + "/effacer"); p.body != "GET fresh" {
		t.Errorf("%d %s", p.status, p.body)
	}
	// Who has to is asked for the password again, and by max_age; auth_time confirms it.
	p = b.get(w.portal.URL + "/encore")
	if q := b.first.Query(); q.Get("prompt") != "login" || q.Get("max_age") != "300" || q.Has("claims") {
		t.Errorf("asked for %v", q)
	}
	again := parseMe(login(p).body)
	if again.account != got.account || again.forms == got.forms {
		t.Errorf("not signed in anew: %+v\n%s", again, w.logs)
	}
	w.wantNotice(b.post(w.portal.URL+identity.PathSignOut, url.Values{"csrf": {again.csrf}}), identity.SignedOut)
	if b.signedIn() {
		t.Error("not signed out")
	}
}

package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/ledger/ledgertest"
)

// A broker with the simulator: somebody of the demonstration signs in, with the configuration alone, and finds the identifiers that FranceConnect states.
func TestSignInWithTheSimulator(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	file, err := Init(Setup{Dir: dir, Origin: "regard.example/x", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secrets", "franceconnect.secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var handler http.Handler
	portal := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	defer portal.Close()
	addr := ledgertest.FreeAddress(t) // the simulator's, of which it is part of the name, so it has to be known before
	cfg, err := config.Load(config.Source{File: file, Set: []string{
		"portal.url=" + portal.URL, "portal.identity.client_id=regard", "portal.identity.client_secret_file=" + secret, "portal.identity.simulator.listen=" + addr,
		"portal.identity.scopes=identite_pivot,ine", "portal.identity.claims.ine=ine", "portal.identity.acr=eidas2",
	}})
	if err != nil {
		t.Fatal(err)
	}
	i, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := i.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	s, err := NewIdentity(cfg, i.Broker, slog.New(slog.DiscardHandler), identity.Config{Show: func(w http.ResponseWriter, _ *http.Request, n *identity.Notice) {
		w.WriteHeader(n.Status)
		fmt.Fprint(w, n.Code)
	}})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	s.Routes(mux)
	mux.Handle("GET /moi", s.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, _ := identity.From(r.Context())
		for _, x := range sess.Subjects {
			fmt.Fprintln(w, x.Type(), x.Value())
		}
	})))
	handler = s.Middleware(mux)

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Transport: portal.Client().Transport}
	read := func(resp *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	page := read(browser.Get(portal.URL + "/moi"))
	id := regexp.MustCompile(`name="page" value="([0-9a-f]+)"`).FindStringSubmatch(page)
	who := regexp.MustCompile(`value="(\d+)">Jean EXEMPLE FOXTROT<span>né\(e\) le 2001-05-05, commune 67482`).FindStringSubmatch(page)
	if id == nil || who == nil {
		t.Fatalf("not the simulator's page: %s", page)
	}
	got := read(browser.PostForm("http://"+addr+"/api/v2/choix", url.Values{"page": {id[1]}, "personne": {who[1]}}))
	want := "pivot EXEMPLE FOXTROT|JEAN|2001-05-05|M|67482|99100\nperson EXEMPLE FOXTROT|JEAN|2001-05-05|M\nine 0EXEMPLE02B\n"
	if got != want {
		t.Errorf("got %q", got)
	}
	// In production there is no simulator, whatever says so.
	prod := *cfg
	prod.Production = true
	other := &Instance{cfg: &prod, log: slog.New(slog.DiscardHandler), Addresses: map[string]string{}}
	if err := other.simulate(); err == nil || !strings.Contains(err.Error(), "development") {
		t.Errorf("in production: %v", err)
	}
}

package portal_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/peer"
	"github.com/regard-broker/regard/broker/portal"
)

// TestTooManyFiles: one address has only so many files made, is told when to come back, and can; what a request says of itself is believed of proxies alone, and pages go on.
func TestTooManyFiles(t *testing.T) {
	newPortal := func(proxies ...string) *world {
		return newWorld(t, func(_ *broker.Config, c *portal.Config) {
			var err error
			if c.Proxies, err = peer.ParseProxies(proxies); err != nil {
				t.Fatal(err)
			}
			c.Rate = peer.Rate{PerSecond: 0.001, Burst: 3}
		})
	}
	w := newPortal()
	w.signIn("camille", camille)
	for _, path := range []string{"/telecharger/historique.csv", "/historique/fichier", "/releve"} {
		if a := w.get("camille", path); a.StatusCode == http.StatusTooManyRequests {
			t.Fatalf("%s: %s", path, a.Status)
		}
	}
	refused := 0
	for _, path := range []string{"/telecharger/historique.csv", "/historique/fichier", "/historique/fichier?epoques=1-2", "/releve", "/acces/7/preuve"} {
		for lang, words := range map[string]string{"fr": "Trop de demandes depuis votre réseau", "en": "Too many requests from your network"} {
			a := w.get("camille", path, "Cookie", "__Host-langue="+lang, "X-Forwarded-For", "198.51.100."+strconv.Itoa(refused), "Forwarded", "for=198.51.100.9")
			refused++
			if n, err := strconv.Atoi(a.Header.Get("Retry-After")); a.StatusCode != http.StatusTooManyRequests || err != nil || n < 1 || n > 1000 || a.Header.Get("Cache-Control") != "no-store" || !strings.Contains(a.text(), words) || a.Header.Get("Content-Disposition") != "" {
				t.Errorf("%s in %s: %s %v %s", path, lang, a.Status, a.Header, a.text())
			}
		}
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(w.p.Collectors()...)
	all, err := reg.Gather()
	if err != nil || len(all) != 1 || all[0].GetName() != "regard_portal_refused_files_total" || all[0].GetMetric()[0].GetCounter().GetValue() != float64(refused) {
		t.Errorf("counted %v of %d, %v", all, refused, err)
	}
	for _, path := range []string{"/historique", "/telecharger", "/"} {
		if a := w.get("camille", path); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	w.ahead.Add(int64(2000 * time.Second))
	if a := w.get("camille", "/telecharger/historique.csv"); a.StatusCode != http.StatusOK {
		t.Errorf("after the wait: %s", a.Status)
	}
	w = newPortal("192.0.2.0/24") // from where httptest's requests come
	w.signIn("camille", camille)
	for i := range 5 {
		if a := w.get("camille", "/telecharger/historique.csv", "X-Forwarded-For", "198.51.100."+strconv.Itoa(i)); a.StatusCode != http.StatusOK {
			t.Errorf("a proxy's client %d: %s", i, a.Status)
		}
	}
}

// TestForeignHost: without TLS the portal answers under its own name alone, so that no site elsewhere has a browser on this machine read it; with TLS the certificate proves the name.
func TestForeignHost(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	w.cfg.URL = &url.URL{Scheme: "http", Host: "127.0.0.1:8444"}
	var err error
	if w.p, err = portal.New(w.cfg); err != nil {
		t.Fatal(err)
	}
	for host, own := range map[string]bool{
		"127.0.0.1:8444": true, "localhost:8444": false, "evil.example:8444": false, "127.0.0.1": false, "127.0.0.1:80": false, "127.0.0.1.evil.example:8444": false, "": false,
	} {
		for _, path := range []string{"/", "/historique", "/connexion", "/connexion/exemple?as=camille", "/nowhere", "/accessibilite?lang=en"} {
			r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8444"+path, nil)
			r.Host = host
			r.AddCookie(&http.Cookie{Name: "who", Value: "camille"})
			rec := httptest.NewRecorder()
			w.p.ServeHTTP(rec, r)
			if (rec.Code != http.StatusMisdirectedRequest) != own || !own && (len(rec.Result().Cookies()) != 0 || bytes.Contains(rec.Body.Bytes(), []byte("<"))) {
				t.Errorf("%s under %q: %d %s", path, host, rec.Code, rec.Body)
			}
		}
	}
}

// TestTokensOfPages: no two pages hold the same token, and none the key under it: their compressed length tells nothing of it to somebody who has the page repeat what they guess.
func TestTokensOfPages(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	key := formsOf("camille")
	seen := map[string]bool{}
	for range 3 {
		for _, path := range []string{"/historique?q=guess", "/notifications", "/notifications/reglages"} {
			a := w.page("camille", path)
			tokens := a.all(func(n *html.Node) bool { return n.Data == "input" && attr(n, "name") == "csrf" })
			if len(tokens) == 0 {
				t.Errorf("%s has no form", path)
			}
			here := map[string]bool{}
			for _, n := range tokens {
				token := attr(n, "value")
				if !key.Made(token) {
					t.Errorf("%s: %q isn't the session's", path, token)
				}
				here[token] = true
			}
			for token := range here {
				if seen[token] {
					t.Errorf("%s: the token of another page", path)
				}
				seen[token] = true
			}
			if bytes.Contains(a.body, []byte(base64.RawURLEncoding.EncodeToString(key[:])[:20])) {
				t.Errorf("%s holds the key", path)
			}
		}
	}
	for token, want := range map[string]int{csrfOf("camille"): http.StatusSeeOther, csrfOf("pierre"): http.StatusForbidden, base64.RawURLEncoding.EncodeToString(key[:]): http.StatusForbidden, "": http.StatusForbidden} {
		if a := w.post("camille", "/notifications/reglages", url.Values{"csrf": {token}}); a.StatusCode != want {
			t.Errorf("%q: %s", token, a.Status)
		}
	}
	// A session without a key takes no form at all.
	w.sessions.mu.Lock()
	bare := *w.sessions.by["camille"]
	bare.Forms = identity.FormKey{}
	w.sessions.by["camille"] = &bare
	w.sessions.mu.Unlock()
	if a := w.post("camille", "/notifications", url.Values{"csrf": {""}}); a.StatusCode != http.StatusForbidden {
		t.Errorf("without a key: %s", a.Status)
	}
}

// TestNothingHere: wherever there is nothing, people read so on a page in their language; a reload of what a sign-out answered leads home.
func TestNothingHere(t *testing.T) {
	w := newReal(t, jean)
	for _, path := range []string{"/connexion/x", "/connexion/franceconnect/x", "/deconnexion/x", "/annuaire/x", "/verificateur/x", "/ressources/x", "/x", "/mandats/x/y"} {
		for lang, words := range map[string]string{"fr": "Retour à l'accueil", "en": "Back to the home page"} {
			r := httptest.NewRequest(http.MethodGet, w.server.URL+path, nil)
			a := w.world.send("", r, "Cookie", "__Host-langue="+lang)
			if a.StatusCode != http.StatusNotFound || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || !strings.Contains(a.text(), words) || a.Header.Get("Content-Security-Policy") == "" {
				t.Errorf("%s in %s: %s %v\n%s", path, lang, a.Status, a.Header, a.body)
			}
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		if a := w.world.send("", httptest.NewRequest(method, w.server.URL+"/deconnexion", nil)); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/" {
			t.Errorf("%s: %s %v", method, a.Status, a.Header)
		}
	}
	if a := w.world.send("", httptest.NewRequest(http.MethodPost, w.server.URL+"/connexion/retour", nil)); a.StatusCode != http.StatusNotFound || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || a.Header.Get("Allow") != "" {
		t.Errorf("%s %v", a.Status, a.Header)
	}
}

// TestProbing: another site, or another host of the same, can have a browser open somebody's history, and can't choose what is searched in it.
func TestProbing(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	w.disclose("mairie", canteen(camille))
	for _, path := range []string{"/historique?q=mairie", "/historique?page=2", "/telecharger/historique.csv?q=mairie", "/historique/fichier?epoques=0-1", "/releve?du=2020-01-01"} {
		plain, _, _ := strings.Cut(path, "?")
		for _, site := range []string{"cross-site", "same-site", "of tomorrow"} {
			if a := w.get("camille", path, "Sec-Fetch-Site", site); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != plain || len(a.body) != 0 {
				t.Errorf("%s from %q: %s to %q", path, site, a.Status, a.Header.Get("Location"))
			}
			if a := w.get("camille", plain, "Sec-Fetch-Site", site); a.StatusCode == http.StatusSeeOther {
				t.Errorf("%s from %q: %s", plain, site, a.Status)
			}
		}
		for _, site := range []string{"same-origin", "none", ""} {
			if a := w.get("camille", path, "Sec-Fetch-Site", site); a.StatusCode == http.StatusSeeOther {
				t.Errorf("%s from %q: %s", path, site, a.Status)
			}
		}
	}
}

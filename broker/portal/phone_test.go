package portal_test

import (
	"html/template"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/broker/portal/verifier"
	"github.com/regard-broker/regard/ledger/verdict"
)

// openSite is a portal at its own origin with the real verifier, where whoever asks /entrer is signed in as Camille; instead, if it is set, changes the page of her history on its way.
func openSite(t *testing.T, change ...func(*portal.Config)) (w *world, origin string, instead *atomic.Pointer[strings.Replacer]) {
	t.Helper()
	instead = new(atomic.Pointer[strings.Replacer])
	front := httptest.NewUnstartedServer(nil)
	origin = "http://" + front.Listener.Addr().String()
	var checks *verifier.Verifier
	w = newWorld(t, func(_ *broker.Config, c *portal.Config) {
		c.URL = &url.URL{Scheme: "http", Host: front.Listener.Addr().String()}
		c.Verifier = &portal.Verifier{
			Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { checks.ServeHTTP(rw, r) }),
			Hash:    strings.Repeat("0123456789abcdef", 4),
			Element: func(lang, bundle, list, names string) (template.HTML, error) {
				return checks.HTML(verifier.Element{Lang: verdict.Lang(lang), Bundle: bundle, List: list, Names: names})
			},
		}
		for _, f := range change {
			f(c)
		}
	})
	w.signIn("camille", camille)
	front.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if change := instead.Load(); change != nil && r.URL.Path == "/historique" {
			r.Header.Del("Accept-Encoding")
			rec := httptest.NewRecorder()
			w.p.ServeHTTP(rec, r)
			maps.Copy(rw.Header(), rec.Header())
			rw.Header().Del("Content-Length")
			_, _ = change.WriteString(rw, rec.Body.String())
			return
		}
		if r.URL.Path == "/entrer" {
			http.SetCookie(rw, &http.Cookie{Name: "who", Value: "camille", Path: "/", HttpOnly: true})
			http.Redirect(rw, r, "/", http.StatusSeeOther)
			return
		}
		w.p.ServeHTTP(rw, r)
	})
	front.Start()
	t.Cleanup(front.Close)
	keys, err := w.b.PolicyText(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if checks, err = verifier.Load(browsertest.Verifier(t), keys); err != nil {
		t.Fatal(err)
	}
	return w, origin, instead
}

// TestListOnAPhone: an honest page with the real check is green down to each line, and on a phone its list begins within a screen and a half, whatever the verdict has to say above it.
func TestListOnAPhone(t *testing.T) {
	w, origin, instead := openSite(t)
	for range 3 {
		w.disclose("mairie", canteen(camille))
	}
	w.turn()
	w.disclose("mairie", canteen(loic))
	p := browsertest.Open(t, origin)
	p.Goto(origin + "/entrer")
	const done = `!["unverified", "checking"].includes(document.querySelector("#verdict").dataset.state)`
	for _, lang := range []string{"fr", "en"} {
		p.Goto(origin + "/historique?lang=" + lang)
		for _, size := range [][2]int64{{320, 844}, {390, 844}} {
			p.Do(chromedp.EmulateViewport(size[0], size[1]))
			p.Goto(origin + "/historique")
			p.Wait(done)
			if got := p.Text("#verdict [role=status]"); browsertest.Eval[int](p, `document.querySelectorAll("[data-verified=verified]").length`) < 3 || browsertest.Eval[int](p, `document.querySelectorAll("[data-verified=wrong]").length`) > 0 {
				t.Fatalf("%s: %s", lang, got)
			}
			name := lang + " " + strconv.FormatInt(size[0], 10)
			if got := browsertest.Eval[int](p, `Math.round(document.querySelector("#acces tbody tr").getBoundingClientRect().top + scrollY)`); size[0] == 390 && got > 844*3/2 {
				t.Errorf("%s: the first line begins at %d", name, got)
			}
			p.Axe()
		}
	}
	p.Goto(origin + "/donnees-personnelles")
	if over := browsertest.Eval[int](p, `Math.max(...[...document.querySelectorAll(".cookies, .cookies td")].map((e) => e.getBoundingClientRect().right)) - innerWidth`); over > 0 {
		t.Errorf("the table of cookies is %d pixels wider than a phone", over)
	}
	p.Axe()
	for was, other := range map[string]string{
		"Mairie d&#39;Exempleville":         "Mairie d&#39;Exemplebourg",
		"setting the price of school meals": "granting student aid",
		`"/></svg>Released`:                 `"/></svg>Refused by policy`,
		` data-service="`:                   ` data-services="`,
		`<time datetime="`:                  `<time datetime="">0<time datetime="`,
	} {
		instead.Store(strings.NewReplacer(was, other))
		p.Goto(origin + "/historique")
		p.Wait(done)
		if got := browsertest.Eval[string](p, `document.querySelector("#verdict").dataset.state`); got != "refuted" || browsertest.Eval[int](p, `document.querySelectorAll("[data-verified=wrong]").length`) != 3 {
			t.Errorf("%s for %s: %s: %s", other, was, got, p.Text("#verdict [role=status]"))
		}
	}
}

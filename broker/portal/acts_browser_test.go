package portal_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/broker/portal/browsertest"
)

// TestActsInBrowser: somebody contests a request with the keyboard and mouse, reads the answer where the notice leads, and chooses what to be told; no page has a fault of accessibility in either language, nor scrolls
// sideways on a narrow screen.
func TestActsInBrowser(t *testing.T) {
	// Whoever asks /entrer is signed in as Camille.
	front := httptest.NewUnstartedServer(nil)
	origin := "http://" + front.Listener.Addr().String()
	w := newWorld(t, func(c *broker.Config, p *portal.Config) {
		c.SweepEvery, p.URL = 20*time.Millisecond, &url.URL{Scheme: "http", Host: front.Listener.Addr().String()}
	})
	w.signIn("camille", camille)
	front.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/entrer" {
			http.SetCookie(rw, &http.Cookie{Name: "who", Value: "camille", Path: "/", HttpOnly: true})
			http.Redirect(rw, r, "/historique", http.StatusSeeOther)
			return
		}
		w.p.ServeHTTP(rw, r)
	})
	front.Start()
	t.Cleanup(front.Close)
	entry := w.disclose("mairie", canteen(camille))
	w.published(entry)

	page := browsertest.Open(t, origin)
	at := func(path string) {
		page.Wait("location.pathname.startsWith('" + path + "') && document.readyState === 'complete'")
	}
	click := func(css string) {
		t.Helper()
		page.Do(chromedp.Click(chromedp.CSS(css)))
	}
	page.Goto(origin + "/entrer")
	page.Goto(origin + "/?lang=fr")
	page.Goto(origin + "/acces/" + entry.String())
	click(`a[href="/contester/` + entry.String() + `"]`)
	at("/contester/")
	click("#f-texte")
	page.Do(chromedp.SendKeys(chromedp.CSS("#f-texte"), "Je n'ai rien demandé. "))
	click("form[action^='/contester/'] button")
	at("/contestations/")
	if s := page.Text("[role=status]"); s != "Votre contestation est envoyée." {
		t.Errorf("it says %q", s)
	}
	id := strings.TrimPrefix(browsertest.Eval[string](page, "location.pathname"), "/contestations/")
	if code := w.agencyAPI("mairie")("POST", "/v1/contests/"+id+"/answer", `{"outcome":"explained","text":"Pour le tarif."}`, nil); code != http.StatusOK {
		t.Fatal(code)
	}
	until(t, "the notices", func() bool { return w.page("camille", "/notifications", "Cookie", "").unread() == "2" })
	page.Goto(origin + "/historique")
	if s := page.Text(".count"); !strings.HasPrefix(s, "2") {
		t.Errorf("the header says %q", s)
	}
	click(`a[href="/notifications"]`)
	at("/notifications")
	click(`.notices a[href="/contestations/` + id + `"]`)
	at("/contestations/")
	if s := page.Text(".answer"); !strings.Contains(s, "Pour le tarif.") || !strings.Contains(s, "l'explique") {
		t.Errorf("the answer is %q", s)
	}
	page.Goto(origin + "/notifications")
	click("main form button")
	page.Wait("!document.querySelector('.count') && document.querySelector('[role=status]')")
	page.Goto(origin + "/notifications/reglages")
	click("[for='f-site.refusal']")
	click("main form button")
	page.Wait("document.querySelector('[role=status]') && !document.getElementById('f-site.refusal').checked && document.getElementById('f-site.access').checked")

	for _, lang := range []string{"fr", "en"} {
		page.Goto(origin + "/?lang=" + lang)
		for _, path := range []string{"/acces/" + entry.String(), "/contester/" + entry.String(), "/contestations", "/contestations/" + id, "/notifications", "/notifications/reglages", "/notifications/adresse", "/notifications/taire?type=access", "/notifications/confirmer?jeton=x", "/notifications/desabonner?jeton=x"} {
			page.Goto(origin + path)
			page.Axe()
			page.Do(chromedp.EmulateViewport(320, 640))
			if wide := browsertest.Eval[int](page, "document.documentElement.scrollWidth"); wide > 320 {
				t.Errorf("%s in %s is %d px wide", path, lang, wide)
			}
			page.Do(chromedp.EmulateViewport(1280, 900))
		}
	}
}

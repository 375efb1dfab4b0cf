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

// notices are what people read of a sign-in, a session or a form that came to nothing.
var notices = map[string]portal.Notice{
	"refused":         {Code: "refused", Status: http.StatusForbidden, Return: "/historique"},
	"too_low":         {Code: "too_low", Status: http.StatusForbidden, Return: "/historique"},
	"expired":         {Code: "expired", Status: http.StatusBadRequest, Return: "/historique"},
	"unavailable":     {Code: "unavailable", Status: http.StatusBadGateway, Return: "/historique"},
	"too_often":       {Code: "too_often", Status: http.StatusTooManyRequests, RetryAfter: time.Minute},
	"untrusted":       {Code: "untrusted", Status: http.StatusBadGateway},
	"incomplete":      {Code: "incomplete", Status: http.StatusForbidden, Missing: []string{"birthdate"}},
	"other_person":    {Code: "other_person", Status: http.StatusForbidden, Return: "/effacer/demande"},
	"ended":           {Code: "ended", Status: http.StatusUnauthorized, Return: "/historique"},
	"forged":          {Code: "forged", Status: http.StatusForbidden},
	"signed_out_here": {Code: "signed_out_here", Status: http.StatusOK},
}

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
		if code, ok := strings.CutPrefix(r.URL.Path, "/avis/"); ok {
			w.p.Tell(rw, r, notices[code])
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
			if lang == "fr" {
				page.AxeDark()
			}
			page.Do(chromedp.EmulateViewport(320, 640))
			if wide := browsertest.Eval[int](page, "document.documentElement.scrollWidth"); wide > 320 {
				t.Errorf("%s in %s is %d px wide", path, lang, wide)
			}
			page.Do(chromedp.EmulateViewport(1280, 900))
		}
	}
	// What nobody wants to see, in French alone: the words of both languages are tested elsewhere.
	page.Allow("Failed to load resource") // they are no successes
	paths := []string{"/rien", "/acces/999999", "/contester/999999"}
	for code := range notices {
		paths = append(paths, "/avis/"+code)
	}
	page.Goto(origin + "/?lang=fr")
	for _, path := range paths {
		page.Goto(origin + path)
		if page.Text("h1") == "" {
			t.Errorf("%s says nothing", path)
		}
		page.Axe()
		page.AxeDark()
	}
}

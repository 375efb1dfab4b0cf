//go:build screenshots

package command

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdp "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/mail/mailtest"
	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// shot is a page to be taken. visit opens it in a language at the width that is set; without it the path is opened.
type shot struct {
	name, path string
	visit      func(lang string)
}

// photographer takes pages in both languages, two sizes and two themes, and has axe look at each.
type photographer struct {
	t   *testing.T
	out string
	player
}

func (c *photographer) media(p emulation.SetEmulatedMediaParams) {
	c.t.Helper()
	if _, err := chromedp.Call(c.Context, emulation.SetEmulatedMedia, p); err != nil {
		c.t.Fatal(err)
	}
}

func (c *photographer) take(x shot) {
	c.t.Helper()
	for _, lang := range []string{"fr", "en"} {
		for size, is := range map[string][2]int64{"desktop": {1280, 900}, "phone": {390, 844}} {
			c.Do(chromedp.EmulateViewport(is[0], is[1]))
			c.visit(x, lang)
			for _, theme := range []string{"light", "dark"} {
				c.media(emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
				c.Axe()
				c.save(fmt.Sprintf("%s-%s-%s-%s.png", x.name, lang, size, theme), is[0])
			}
			c.media(emulation.SetEmulatedMediaParams{})
		}
	}
}

func (c *photographer) visit(x shot, lang string) {
	c.t.Helper()
	if x.visit != nil {
		x.visit(lang)
	} else {
		c.Goto(c.s.url + "/?lang=" + lang)
		c.Goto(c.s.url + x.path)
	}
	if browsertest.Eval[bool](c.Page, `!!document.querySelector("#verdict[data-bundle]")`) {
		c.s.verdict(c.Page)
	}
}

// save takes what is on the page now.
func (c *photographer) save(name string, width int64) {
	c.t.Helper()
	tall := min(float64(browsertest.Eval[int](c.Page, "document.documentElement.scrollHeight")), 2400)
	shot, err := chromedp.Call(c.Context, cdp.CaptureScreenshot, cdp.CaptureScreenshotParams{CaptureBeyondViewport: new(true), Clip: &cdp.Viewport{Width: float64(width), Height: tall, Scale: 1}})
	if err != nil {
		c.t.Fatal(err)
	}
	small := quantised(c.t, shot.Data)
	if len(small) > 200_000 {
		c.t.Errorf("%s: %d bytes", name, len(small))
	}
	if err := os.WriteFile(filepath.Join(c.out, name), small, 0o644); err != nil { // #nosec G306 -- pictures for everybody
		c.t.Fatal(err)
	}
}

// TestScreenshots makes the pictures of docs/screenshots (make screenshots): every page in both languages, in two sizes and two themes.
func TestScreenshots(t *testing.T) {
	out := os.Getenv("REGARD_SCREENSHOTS")
	if out == "" {
		t.Fatal("REGARD_SCREENSHOTS names no directory")
	}
	post := mailtest.New(t, mailtest.Options{})
	s := newSite(t, 2*time.Second, "portal.verifier="+browsertest.Verifier(t), "mail.smtp="+post.Addr, "mail.tls=none", "mail.from=regard@exemple.invalid")
	p := browsertest.Open(t, s.url, s.simulator)
	c := &photographer{t, out, player{p, s}}
	c.take(shot{name: "connexion", path: "/connexion?retour=/historique"})
	signIn := func() {
		t.Helper()
		p.Goto(s.url + "/connexion?retour=/historique")
		c.click(`main a[href^="/connexion/franceconnect"]`)
		c.again(camillesName, "/historique", "true") // the identity provider may know still
	}
	signIn()
	asked := s.ask("cantine", "tarif-cantine", "crpa-l114-8", "quotient", "enfants")
	s.ask("cantine", "publicite", "crpa-l114-8", "quotient")
	secret := s.ask("enquete", "enquete", "cpp-60-1", "quotient")
	s.settled()
	if _, err := s.Broker.EndDeferral(t.Context(), secret, "fin de l'enquête"); err != nil {
		t.Fatal(err)
	}
	s.settled()
	s.ask("cantine", "tarif-cantine", "crpa-l114-8", "quotient")
	subject, err := camille.Subject()
	if err != nil {
		t.Fatal(err)
	}
	entries, _, err := s.Broker.OwnEntries(t.Context(), subject, 0, 50)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(e broker.OwnEntry) bool { return e.ID == uuid.UUID(asked).String() })
	if i < 0 {
		t.Fatalf("%d entries, and none of the first request", len(entries))
	}
	if _, err := s.Broker.ContestEntry(t.Context(), broker.Account{Pivot: subject, Subjects: []proof.Subject{subject}, Lang: "fr"}, entries[i].Index, "Je n'ai pas d'enfant à la cantine cette année."); err != nil {
		t.Fatal(err)
	}
	delegate, err := sophie.Subject()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Broker.GrantDelegation(t.Context(), broker.Grant{Kind: broker.Guardian, Delegate: delegate, Subjects: []proof.Subject{subject}, Evidence: "jugement du 3 mars 2026, TJ d'Exempleville"}); err != nil {
		t.Fatal(err)
	}
	p.Goto(s.url + "/notifications/adresse")
	p.Do(chromedp.SendKeys(chromedp.CSS("#f-adresse"), camillesMail))
	c.click("main form .buttons button")
	c.at("/notifications/", `document.querySelector("[role=status]")`)
	confirm := link(t, mailsTo(t, post, camillesMail, 1)[0], s.url+"/notifications/confirmer")
	s.settled()
	p.Goto(s.url + "/historique")
	s.verdict(p)
	record := browsertest.Eval[string](p, `document.querySelector("#acces tr[data-outcome=released] a").getAttribute("href")`)
	contest := "/contester/" + browsertest.Eval[string](p, `[...document.querySelectorAll("#acces tr[data-outcome=denied]")].at(-1).dataset.index`)
	contested := browsertest.Eval[string](p, `fetch("/contestations").then((r) => r.text()).then((x) => new DOMParser().parseFromString(x, "text/html").querySelector('main a[href^="/contestations/"]').getAttribute("href"))`)
	// Each epoch more takes the browser longer.
	p.Goto("about:blank")
	s.restart("epoch.length=1h")
	speak := func(lang string) { p.Goto(s.url + "/?lang=" + lang) }
	at := func(address string) func(lang string) {
		return func(lang string) { speak(lang); p.Goto(address) }
	}

	c.take(shot{name: "effacer-demande", visit: func(lang string) {
		speak(lang)
		p.Goto(s.url + "/effacer")
		c.click("main a[href='/effacer/demande']")
		c.again(camillesName, "/effacer/demande", `document.querySelector("form .danger")`)
	}})
	for _, x := range []shot{
		{name: "accueil", path: "/"},
		{name: "historique", path: "/historique"},
		{name: "historique-dense", path: "/historique?vue=dense"},
		{name: "historique-vide", path: "/historique?q=rien+de+tel"},
		{name: "acces", path: record},
		{name: "contester", path: contest},
		{name: "contestations", path: "/contestations"},
		{name: "contestation", path: contested},
		{name: "notifications", path: "/notifications"},
		{name: "notifications-reglages", path: "/notifications/reglages"},
		{name: "notifications-adresse", path: "/notifications/adresse"},
		{name: "identifiants", path: "/identifiants"},
		{name: "mandats", path: "/mandats"},
		{name: "effacer", path: "/effacer"},
		{name: "telecharger", path: "/telecharger"},
		{name: "releve", path: "/releve"},
		{name: "verificateur", path: "/verificateur"},
		{name: "accessibilite", path: "/accessibilite"},
		{name: "mentions-legales", path: "/mentions-legales"},
		{name: "donnees-personnelles", path: "/donnees-personnelles"},
	} {
		c.take(x)
	}
	// On paper.
	for _, lang := range []string{"fr", "en"} {
		p.Do(chromedp.EmulateViewport(794, 1123)) // A4 at 96 dots an inch
		c.visit(shot{path: "/releve"}, lang)
		c.media(emulation.SetEmulatedMediaParams{Media: "print"})
		c.save("releve-papier-"+lang+".png", 794)
		c.media(emulation.SetEmulatedMediaParams{})
	}
	// An address that a link in a mail confirms, and one that another gives up.
	c.take(shot{name: "notifications-confirmer", visit: at(confirm)})
	p.Goto(confirm)
	c.click("main form button")
	c.at("/notifications/confirmer", `document.querySelector("main [role=status]")`)
	s.ask("cantine", "tarif-cantine", "crpa-l114-8", "quotient")
	c.take(shot{name: "notifications-desabonner", visit: at(link(t, mailsTo(t, post, camillesMail, 2)[1], s.url+"/notifications/desabonner"))})
	p.Goto(s.url + record)
	c.take(shot{name: "notifications-taire", path: browsertest.Eval[string](p, `document.querySelector('a[href^="/notifications/taire"]').getAttribute("href")`)})
	// A line that was changed on its way.
	s.altered(func(path string, body []byte) []byte {
		if path == "/historique" {
			body = bytes.Replace(body, []byte(`data-outcome="denied"`), []byte(`data-outcome="empty"`), 1)
		}
		return body
	})
	c.take(shot{name: "refute", path: "/historique"})
	s.altered(nil)
	// Somebody else reads.
	other := &photographer{t, out, player{browsertest.Open(t, s.url, s.simulator), s}}
	other.Goto(s.url + "/connexion?retour=/mandats")
	s.signIn(other.Page, sophiesName)
	other.at("/mandats", `document.querySelector('a[href^="/mandats/"].button')`)
	mandate := browsertest.Eval[string](other.Page, `document.querySelector('a[href^="/mandats/"].button').getAttribute("href")`)
	opened := func(lang string) {
		other.Goto(s.url + "/mandats?lang=" + lang)
		other.click(`a[href="` + mandate + `"]`)
		other.again(sophiesName, mandate, `document.querySelector("main form select")`)
	}
	other.take(shot{name: "mandat", visit: opened})
	other.take(shot{name: "mandat-lu", visit: func(lang string) {
		opened(lang)
		other.click("main form button:not(.second)")
		other.at(mandate, `document.querySelector("tr[data-index]")`)
	}})
	// What isn't there, and a session that ended while somebody wrote.
	p.Allow("404")
	p.Allow("401")
	c.take(shot{name: "introuvable", path: "/nulle-part"})
	c.take(shot{name: "acces-inconnu", path: "/acces/999999"})
	c.take(shot{name: "session-finie", visit: func(lang string) {
		signIn()
		speak(lang)
		p.Goto(s.url + contest)
		browsertest.Eval[bool](p, `(document.querySelector("#f-texte").value = "", true)`) // what is proposed
		p.Do(chromedp.SendKeys(chromedp.CSS("#f-texte"), "Je ne connais pas ce service."))
		browsertest.Eval[bool](p, `fetch("/deconnexion", { method: "POST", redirect: "manual", body: new URLSearchParams({ csrf: document.querySelector("input[name=csrf]").value }) }).then(() => true)`)
		c.click("form[action^='/contester/'] button")
		c.at("/contester/", `document.querySelector("#written")`)
	}})
	c.take(shot{name: "deconnexion", visit: func(lang string) {
		signIn()
		speak(lang)
		c.click(`form[action="/deconnexion"] button`)
		c.at("/deconnexion/retour", "true")
	}})
}

// colours of a picture: pages have few, and few are small.
const colours = 40

// quantised is the same picture with its most frequent colours.
func quantised(t *testing.T, data []byte) []byte {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	b := img.Bounds()
	counts := map[color.RGBA]int{}
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			counts[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)]++
		}
	}
	all := make([]color.RGBA, 0, len(counts))
	for c := range counts {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int { return counts[b] - counts[a] })
	palette := color.Palette{}
	for _, c := range all[:min(len(all), colours)] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	small := image.NewPaletted(b, palette)
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			c := color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)
			i, ok := nearest[c]
			if !ok {
				i = uint8(palette.Index(c)) // #nosec G115 -- at most 40
				nearest[c] = i
			}
			small.SetColorIndex(x, y, i)
		}
	}
	var w bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&w, small); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

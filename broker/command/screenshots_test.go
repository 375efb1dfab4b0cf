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

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/portal/browsertest"
)

// TestScreenshots makes the pictures of docs/screenshots (make screenshots): each page in both languages, in two sizes and two themes.
func TestScreenshots(t *testing.T) {
	out := os.Getenv("REGARD_SCREENSHOTS")
	if out == "" {
		t.Fatal("REGARD_SCREENSHOTS names no directory")
	}
	s := newSite(t, 2*time.Second, "portal.verifier="+browsertest.Verifier(t))
	p := browsertest.Open(t, s.url, s.simulator)
	p.Goto(s.url + "/historique")
	s.signIn(p, "Camille Inès EXEMPLE ALPHA")
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
	account := broker.Account{Pivot: subject, Subjects: nil, Lang: "fr"}
	account.Subjects = append(account.Subjects, subject)
	if _, err := s.Broker.FileContest(t.Context(), account, asked, "Je n'ai pas d'enfant à la cantine cette année."); err != nil {
		t.Fatal(err)
	}
	s.settled()
	p.Goto(s.url + "/historique")
	s.verdict(p)
	record := browsertest.Eval[string](p, `document.querySelector("#acces tr[data-outcome=released] a").getAttribute("href")`)
	contest := "/contester/" + filepath.Base(record)
	contested := browsertest.Eval[string](p, `fetch("/contestations").then((r) => r.text()).then((x) => new DOMParser().parseFromString(x, "text/html").querySelector('main a[href^="/contestations/"]').getAttribute("href"))`)
	pages := []struct{ name, path string }{
		{"accueil", "/"}, {"historique", "/historique"}, {"historique-dense", "/historique?vue=dense"}, {"acces", record}, {"contester", contest}, {"contestations", "/contestations"}, {"contestation", contested},
		{"notifications", "/notifications"}, {"notifications-reglages", "/notifications/reglages"}, {"notifications-adresse", "/notifications/adresse"}, {"identifiants", "/identifiants"}, {"mandats", "/mandats"},
		{"effacer", "/effacer"}, {"telecharger", "/telecharger"}, {"releve", "/releve"}, {"verificateur", "/verificateur"}, {"accessibilite", "/accessibilite"}, {"mentions-legales", "/mentions-legales"},
		{"donnees-personnelles", "/donnees-personnelles"}, {"connexion", "/connexion"}, {"introuvable", "/acces/999999"}, {"refute", "/historique"},
	}
	for _, x := range pages {
		switch x.name {
		case "introuvable":
			p.Allow("404")
		case "refute":
			s.altered(func(path string, body []byte) []byte {
				if path == "/historique" {
					body = bytes.Replace(body, []byte(`data-outcome="denied"`), []byte(`data-outcome="empty"`), 1)
				}
				return body
			})
		}
		for _, look := range []struct{ lang, size, theme string }{{"fr", "desktop", "light"}, {"fr", "phone", "dark"}, {"en", "desktop", "dark"}, {"en", "phone", "light"}} {
			width, height := int64(1280), int64(900)
			if look.size == "phone" {
				width, height = 390, 844
			}
			p.Do(chromedp.EmulateViewport(width, height))
			if _, err := chromedp.Call(p.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.theme}}}); err != nil {
				t.Fatal(err)
			}
			p.Goto(s.url + "/?lang=" + look.lang)
			p.Goto(s.url + x.path)
			if browsertest.Eval[bool](p, `!!document.querySelector("#verdict[data-bundle]")`) {
				s.verdict(p)
			}
			tall := min(float64(browsertest.Eval[int](p, "document.documentElement.scrollHeight")), 2400)
			shot, err := chromedp.Call(p.Context, cdp.CaptureScreenshot, cdp.CaptureScreenshotParams{CaptureBeyondViewport: new(true), Clip: &cdp.Viewport{Width: float64(width), Height: tall, Scale: 1}})
			if err != nil {
				t.Fatal(err)
			}
			small := quantised(t, shot.Data)
			if len(small) > 200_000 {
				t.Errorf("%s: %d bytes", x.name, len(small))
			}
			if err := os.WriteFile(filepath.Join(out, fmt.Sprintf("%s-%s-%s-%s.png", x.name, look.lang, look.size, look.theme)), small, 0o644); err != nil { // #nosec G306 -- pictures for everybody
				t.Fatal(err)
			}
		}
	}
}

// quantised is the same picture with its 256 most frequent colours: pages have few.
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
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	small := image.NewPaletted(b, palette)
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			c := color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)
			i, ok := nearest[c]
			if !ok {
				i = uint8(palette.Index(c)) // #nosec G115 -- at most 256 colours
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

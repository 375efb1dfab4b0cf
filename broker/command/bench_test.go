package command

import (
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/regard-broker/regard/broker/portal/browsertest"
)

// BenchmarkFirstPaint opens pages in Chromium, as somebody does who comes for the first time: nothing is in the browser's cache. It reports the time from the click to the first contentful paint (https://www.w3.org/TR/paint-timing/),
// with the verifier beginning its work meanwhile where there is one. The goal is less than a second.
func BenchmarkFirstPaint(b *testing.B) {
	s := newSite(b, 2*time.Second, "portal.verifier="+browsertest.Verifier(b))
	for range 100 {
		s.ask("cantine", "tarif-cantine", "crpa-l114-8", "quotient")
	}
	s.settled()
	p := browsertest.Open(b, s.url, s.simulator)
	p.Goto(s.url + "/historique?lang=fr")
	s.signIn(p, camillesName)
	s.verdict(p)
	record := browsertest.Eval[string](p, `document.querySelector("#acces tr[data-outcome=released] a").getAttribute("href")`)
	if _, err := chromedp.Call(p.Context, network.SetCacheDisabled, network.SetCacheDisabledParams{CacheDisabled: true}); err != nil {
		b.Fatal(err)
	}
	const painted = `performance.getEntriesByName("first-contentful-paint").length > 0`
	for _, x := range []struct{ name, path string }{{"home", "/"}, {"history", "/historique"}, {"entry", record}} {
		b.Run(x.name, func(b *testing.B) {
			var took []float64
			for b.Loop() {
				p.Goto(s.url + x.path)
				p.Wait(painted)
				took = append(took, browsertest.Eval[float64](p, `performance.getEntriesByName("first-contentful-paint")[0].startTime`))
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2], "p50-ms")
			b.ReportMetric(took[len(took)-1], "max-ms")
		})
	}
}

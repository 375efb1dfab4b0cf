package portal_test

import (
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/broker/portal/browsertest"
)

// TestUnseenTextIsNotHidden: a text that draws nothing, or nothing by itself, isn't taken as hidden by the page, which has room for it at every width.
func TestUnseenTextIsNotHidden(t *testing.T) {
	w, origin, _ := openSite(t, func(c *portal.Config) {
		c.Words = &portal.Words{
			LegalBases: map[string]portal.Law{"crpa-l114-8": {FR: "\u1161", EN: "\u1161", URL: "https://law.invalid/"}}, Purposes: map[string]portal.Text{"tarif-cantine": {FR: "\u0301", EN: "\u0301"}},
		}
	})
	record := "/acces/" + w.disclose("mairie", canteen(camille)).String()
	w.turn()
	p := browsertest.Open(t, origin)
	p.Goto(origin + "/entrer")
	for _, width := range []int64{320, 1280} {
		p.Do(chromedp.EmulateViewport(width, 844))
		for _, path := range []string{record, "/historique"} {
			p.Goto(origin + path)
			p.Wait(`document.querySelector("#verdict").dataset.state !== "checking"`)
			if got := browsertest.Eval[int](p, `document.querySelectorAll("[data-verified=verified]").length`); got != 1 {
				t.Errorf("%s, %d px: %s", path, width, p.Text("#verdict [role=status]"))
			}
		}
		// Such were recorded as they came once; a context of white space alone is recorded no more.
		p.Goto(origin + record)
		if got := browsertest.Eval[float64](p, `(() => { const e = document.querySelector("[data-fact='fact.context']"); e.firstChild.textContent = " "; return e.getBoundingClientRect().height; })()`); got < 2 {
			t.Errorf("%d px: a blank text has a height of %v", width, got)
		}
	}
}

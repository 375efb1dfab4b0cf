package browsertest

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// Axe fails the test for each fault of accessibility that axe-core finds on the page as it stands.
func (p *Page) Axe() {
	p.tb.Helper()
	p.axe("")
}

// AxeDark fails the test for each fault of colours that axe-core finds in the dark theme; the rest of a page is the same in both. It leaves the theme as it was at first, and no other media emulated.
func (p *Page) AxeDark() {
	p.tb.Helper()
	p.media(&emulation.MediaFeature{Name: "prefers-color-scheme", Value: "dark"}, &emulation.MediaFeature{Name: "prefers-reduced-motion", Value: "reduce"})
	p.axe(`, runOnly: ["color-contrast", "link-in-text-block"]`)
	p.media()
}

func (p *Page) media(features ...*emulation.MediaFeature) {
	p.tb.Helper()
	if _, err := chromedp.Call(p.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		p.tb.Fatal(err)
	}
}

// axe runs it with more options, in JavaScript.
func (p *Page) axe(options string) {
	p.tb.Helper()
	path := os.Getenv("REGARD_AXE")
	if path == "" {
		path = filepath.Join(root(), "bin/tools/axe.min.js")
	}
	source, err := os.ReadFile(path) // #nosec G703 -- named by whoever runs the test
	if err != nil {
		missing(p.tb, "axe-core is not there (make test fetches it): "+err.Error())
	}
	p.Do(chromedp.Evaluate[chromedp.Void](string(source) + "\n;0"))
	type violation struct {
		ID     string `json:"id"`
		Impact string `json:"impact"`
		Help   string `json:"help"`
		Nodes  []struct {
			Target  []any  `json:"target"`
			HTML    string `json:"html"`
			Summary string `json:"failureSummary"`
		} `json:"nodes"`
	}
	found := Eval[[]violation](p, `axe.run(document, {resultTypes: ["violations"]`+options+`}).then((r) => r.violations)`)
	for _, v := range found {
		for _, n := range v.Nodes {
			p.tb.Errorf("axe: %s (%s): %s at %v\n%s\n%s", v.ID, v.Impact, v.Help, n.Target, n.HTML, strings.TrimSpace(n.Summary))
		}
	}
}

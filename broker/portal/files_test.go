package portal_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"
	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/broker/portal/browsertest"
)

// TestFilesSayThatTheyAre: a browser saves what a page offers as a file because the file says so, and never because the link does: when the session has ended, another page is there.
func TestFilesSayThatTheyAre(t *testing.T) {
	for name, change := range map[string]func(*portal.Config){"with a verifier": withVerifier, "without": func(c *portal.Config) { c.Verifier = nil }} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(_ *broker.Config, c *portal.Config) { change(c) })
			w.signIn("camille", camille)
			record := "/acces/" + w.disclose("mairie", canteen(camille)).String()
			w.turn()
			files := map[string]bool{}
			for _, path := range everyPage {
				for _, n := range w.get("camille", strings.ReplaceAll(path, "{id}", strings.TrimPrefix(record, "/acces/"))).tag("a") {
					to := attr(n, "href")
					if slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "download" }) {
						t.Errorf("%s: a link that saves whatever is at %s", path, to)
					}
					if !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "/annuaire/") || files[to] { // names are read
						continue
					}
					if a := w.get("camille", to); a.StatusCode == http.StatusOK && a.doc == nil {
						if files[to] = true; !strings.HasPrefix(a.Header.Get("Content-Disposition"), `attachment; filename="`) {
							t.Errorf("%s: %s is no file to save: %v", path, to, a.Header)
						}
					}
				}
			}
			for _, want := range []string{"/historique/fichier", "/telecharger/historique.csv", "/verificateur/politique.txt", record + "/preuve"} {
				if !files[want] {
					t.Errorf("no page offers %s", want)
				}
			}
		})
	}
}

// TestFilesInChromium: a file is saved under its name, from where it is offered; when the session has ended, the browser goes to sign in and saves nothing.
func TestFilesInChromium(t *testing.T) {
	w, origin, _ := openSite(t)
	record := "/acces/" + w.disclose("mairie", canteen(camille)).String()
	w.turn()
	p := browsertest.Open(t, origin)
	dir := t.TempDir()
	if _, err := chromedp.Call(p.Context, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ page, file, name, back string }{
		{"/telecharger", "/historique/fichier", "historique.regard.json", "/telecharger"},
		{"/telecharger", "/telecharger/historique.csv", "historique.csv", "/telecharger"},
		{"/verificateur", "/historique/fichier", "historique.regard.json", "/telecharger"},
		{"/verificateur", "/verificateur/politique.txt", "politique.txt", ""},
		{record, record + "/preuve", "preuve-" + strings.TrimPrefix(record, "/acces/") + ".regard", record},
	} {
		click := func() { p.Do(chromedp.Click(chromedp.CSS(`main a[href="` + c.file + `"]`))) }
		saved := filepath.Join(dir, c.name)
		p.Goto(origin + "/entrer")
		p.Goto(origin + c.page)
		click()
		until(t, c.name, func() bool { _, err := os.Stat(saved); return err == nil })
		if at := browsertest.Eval[string](p, "location.pathname"); at != c.page {
			t.Errorf("%s of %s: the browser is at %s", c.file, c.page, at)
		}
		until(t, "all of "+c.name, func() bool {
			left, err := filepath.Glob(filepath.Join(dir, "*.crdownload"))
			return err == nil && len(left) == 0
		})
		if err := os.Remove(saved); err != nil {
			t.Fatal(err)
		}
		if c.back == "" {
			continue
		}
		w.sessions.mu.Lock()
		ended := w.sessions.by["camille"]
		delete(w.sessions.by, "camille")
		w.sessions.mu.Unlock()
		click()
		p.Wait(`location.pathname === "/connexion" && document.readyState === "complete"`)
		if got := browsertest.Eval[string](p, `new URLSearchParams(location.search).get("retour")`); got != c.back {
			t.Errorf("%s of %s: whoever signs in comes back to %q", c.file, c.page, got)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s of %s: after the session %v is saved (%v)", c.file, c.page, left, err)
		}
		w.sessions.mu.Lock()
		w.sessions.by["camille"] = ended
		w.sessions.mu.Unlock()
	}
}

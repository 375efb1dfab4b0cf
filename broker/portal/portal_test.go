package portal_test

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"html/template"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/ledger/proof"
)

// everyPage of somebody who is signed in; {id} is an entry of theirs.
var everyPage = []string{"/", "/historique", "/historique?vue=dense&q=mairie", "/historique?du=x", "/acces/{id}", "/telecharger", "/releve", "/accessibilite", "/mentions-legales", "/donnees-personnelles", "/verificateur", "/connexion", "/rien", "/acces/0",
	"/contester/{id}", "/contestations", "/notifications", "/notifications/reglages", "/notifications/adresse", "/notifications/taire?type=access&acces={id}", "/notifications/confirmer?jeton=x", "/notifications/desabonner?jeton=x"}

func withVerifier(c *portal.Config) {
	c.Verifier = &portal.Verifier{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "script "+r.URL.Path) }),
		Hash:    strings.Repeat("0123456789abcdef", 4),
		Element: func(lang, bundle, list, names string) (template.HTML, error) {
			return template.HTML(`<div id="verdict" lang="` + lang + `" data-bundle="` + template.HTMLEscapeString(bundle) + `" data-list="` + list + `" data-names="` + names + `"></div><script type="module" src="/verificateur/verify.js"></script>`), nil
		},
	}
}

// TestHeaders: what a browser is told to refuse, on every page and of every file.
func TestHeaders(t *testing.T) {
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) { withVerifier(c) })
	w.signIn("camille", camille)
	i := w.disclose("mairie", canteen(camille))
	w.published(i)
	var css string
	for _, path := range append(slices.Clone(everyPage), "/acces/{id}/preuve", "/telecharger/historique.csv", "/historique/fichier", "/verificateur/politique.txt", "/verificateur/verify.js", "/connexion/exemple", "/deconnexion") {
		a := w.get("camille", strings.ReplaceAll(path, "{id}", i.String()))
		for key, want := range map[string]string{
			"Content-Security-Policy":    "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; style-src 'self'; img-src 'self'; form-action 'self' https://fc.exemple.invalid; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'",
			"X-Content-Type-Options":     "nosniff",
			"Referrer-Policy":            "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin",
			"Cache-Control":              "no-store",
			"Strict-Transport-Security":  "max-age=63072000",
		} {
			if got := a.Header.Get(key); got != want {
				t.Errorf("%s: %s: %q, want %q", path, key, got, want)
			}
		}
		for _, n := range a.tag("link") {
			if attr(n, "rel") == "stylesheet" {
				css = attr(n, "href")
			}
		}
		for _, n := range a.all(func(n *html.Node) bool {
			return n.Data == "script" || n.Data == "link" || n.Data == "img" || n.Data == "use"
		}) {
			for _, key := range []string{"src", "href"} {
				if v := attr(n, key); v != "" && (!strings.HasPrefix(v, "/") || strings.HasPrefix(v, "//")) && !strings.HasPrefix(v, "#") {
					t.Errorf("%s loads %s", path, v)
				}
			}
		}
		if len(a.body) > 60<<10 {
			t.Errorf("%s has %d bytes", path, len(a.body))
		}
	}
	a := w.get("", css)
	if a.StatusCode != http.StatusOK || a.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" || !regexp.MustCompile(`\.[0-9a-f]{16}\.css$`).MatchString(css) {
		t.Errorf("%s: %s, %v", css, a.Status, a.Header)
	}
	if a := w.get("", "/ressources/style.css"); a.StatusCode != http.StatusNotFound {
		t.Errorf("an asset under a name without its hash: %s", a.Status)
	}
	// Without TLS, as on loopback, nothing promises it; without a verifier no script may run.
	plain := newWorld(t, func(_ *broker.Config, c *portal.Config) { c.URL = &url.URL{Scheme: "http", Host: "127.0.0.1"} })
	a = plain.get("", "/")
	if a.Header.Get("Strict-Transport-Security") != "" || strings.Contains(a.Header.Get("Content-Security-Policy"), "script-src") {
		t.Errorf("%v", a.Header)
	}
}

// breakable is where French text may break and must not.
var breakable = regexp.MustCompile(` [:;?!»]|« |n° [0-9]`)

// TestStructure: on every page in both languages one heading of the first rank, a main part, a title, labels at fields, texts at pictures, distinct ids, and links that lead to an id of the page.
func TestStructure(t *testing.T) {
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) { withVerifier(c) })
	w.signIn("camille", camille)
	denied := canteen(camille)
	denied.Purpose = "publicite"
	w.disclose("mairie", denied)
	i := w.disclose("mairie", canteen(camille))
	w.turn()
	titles := map[string]string{}
	for _, path := range everyPage {
		for _, lang := range []string{"fr", "en"} {
			a := w.get("camille", strings.ReplaceAll(path, "{id}", i.String()), "Cookie", "__Host-langue="+lang)
			where := lang + " " + path
			if h := a.tag("html"); len(h) != 1 || attr(h[0], "lang") != lang || a.Header.Get("Content-Language") != lang {
				t.Errorf("%s: the language isn't said", where)
			}
			if len(a.tag("h1")) != 1 || len(a.tag("main")) != 1 || len(a.all(func(n *html.Node) bool { return n.Data == "title" && n.Parent.Data == "head" })) != 1 {
				t.Errorf("%s: %d h1, %d main", where, len(a.tag("h1")), len(a.tag("main")))
			}
			if lang == "fr" {
				titles[path] = text(a.tag("title")[0])
				for n := range a.doc.Descendants() {
					if n.Type == html.TextNode && n.Parent.Data != "textarea" && breakable.MatchString(n.Data) {
						t.Errorf("%s: a line may break in %q", where, n.Data)
					}
				}
			}
			ids := map[string]bool{}
			for _, n := range a.all(func(n *html.Node) bool { return attr(n, "id") != "" }) {
				if id := attr(n, "id"); ids[id] {
					t.Errorf("%s: two elements have the id %s", where, id)
				} else {
					ids[id] = true
				}
			}
			for _, n := range a.all(func(n *html.Node) bool { return true }) {
				for _, key := range []string{"aria-labelledby", "aria-describedby", "for"} {
					for _, id := range strings.Fields(attr(n, key)) {
						if !ids[id] {
							t.Errorf("%s: %s names %s, which isn't there", where, key, id)
						}
					}
				}
				if h := attr(n, "href"); strings.HasPrefix(h, "#") && !ids[h[1:]] {
					t.Errorf("%s: a link to %s", where, h)
				}
				switch n.Data {
				case "input", "select", "textarea":
					if attr(n, "type") != "hidden" && len(a.all(func(l *html.Node) bool { return l.Data == "label" && attr(l, "for") == attr(n, "id") })) != 1 {
						t.Errorf("%s: field %s has no label", where, attr(n, "name"))
					}
				case "svg":
					if attr(n, "aria-hidden") != "true" && (attr(n, "role") != "img" || attr(n, "aria-labelledby") == "") {
						t.Errorf("%s: a picture without a text", where)
					}
				case "a", "button":
					if text(n) == "" {
						t.Errorf("%s: a link without words: %v", where, n.Attr)
					}
				case "th":
					if attr(n, "scope") == "" {
						t.Errorf("%s: a heading of a table without scope", where)
					}
				}
			}
			if strings.Contains(string(a.body), "ZgotmplZ") || strings.Contains(string(a.body), "%!") {
				t.Errorf("%s: a template refused a value", where)
			}
		}
	}
	seen := map[string]string{}
	for path, title := range titles {
		if p, _, _ := strings.Cut(path, "?"); seen[title] != "" && seen[title] != p {
			t.Errorf("%s and %s have one title: %s", path, seen[title], title)
		} else {
			seen[title] = p
		}
	}
}

// TestSignedOut: without a session nothing of anybody is shown, and who signs in comes back.
func TestSignedOut(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	i := w.disclose("mairie", canteen(camille))
	record := "/acces/" + i.String()
	for path, back := range map[string]string{
		"/historique?q=x": "/historique?q=x", record: record, "/telecharger": "/telecharger", "/releve": "/releve",
		// A browser that is sent to a file stays where it was: they come back to where it is offered.
		"/historique/fichier": "/telecharger", "/historique/fichier?epoques=0-1": "/telecharger", "/telecharger/historique.csv": "/telecharger", record + "/preuve": record,
	} {
		for _, who := range []string{"", "forged"} {
			a := w.get(who, path)
			if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/connexion?retour="+url.QueryEscape(back) || len(a.body) != 0 {
				t.Errorf("%s as %q: %s %s %s", path, who, a.Status, a.Header.Get("Location"), a.body)
			}
		}
	}
	if a := w.do(http.MethodPost, "camille", "/historique"); a.StatusCode != http.StatusMethodNotAllowed && a.StatusCode != http.StatusNotFound {
		t.Errorf("POST: %s", a.Status)
	}
	// At sign-out the outline in memory goes, and the session's own handler does its work.
	w.page("camille", "/historique")
	a := w.do(http.MethodPost, "camille", "/deconnexion")
	if w.sessions.out.Load() != 1 || a.StatusCode != http.StatusSeeOther {
		t.Errorf("sign-out: %s", a.Status)
	}
	// Where the sign-in comes back to is a path of this site, whatever the query says.
	for q, want := range map[string]string{"/acces/7": "/acces/7", "": "/historique", "//evil.invalid": "/historique", "https://evil.invalid/": "/historique", `/\evil.invalid`: "/historique", "javascript:alert(1)": "/historique", "/historique?q=a&page=2": "/historique?q=a&page=2"} {
		a := w.page("", "/connexion?retour="+url.QueryEscape(q))
		if len(a.all(func(n *html.Node) bool {
			return n.Data == "a" && attr(n, "href") == "/connexion/exemple?retour="+url.QueryEscape(want)
		})) != 1 {
			t.Errorf("%q:\n%s", q, a.body)
		}
	}
	// A portal without an identity provider says that nobody can sign in.
	cfg := w.cfg
	cfg.Sessions = portal.Nobody{}
	nobody, err := portal.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.p = nobody
	if a := w.page("camille", "/connexion"); !strings.Contains(a.text(), "personne ne peut s'y connecter") {
		t.Errorf("%s", a.text())
	}
	if a := w.get("camille", "/historique"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("%s", a.Status)
	}
}

// TestNotices: each thing that can happen at a sign-in has words in both languages; one without words is an error.
func TestNotices(t *testing.T) {
	w := newWorld(t, nil)
	for _, code := range []string{"refused", "too_low", "expired", "used", "unavailable", "too_often", "untrusted", "incomplete", "other_person", "unconfirmed", "ended", "forged", "signed_out", "signed_out_here", "unheard_of"} {
		for _, lang := range []string{"fr", "en"} {
			r := httptest.NewRequest(http.MethodGet, "https://regard.example/connexion/retour", nil)
			r.Header.Set("Cookie", "__Host-langue="+lang)
			rec := httptest.NewRecorder()
			w.p.Tell(rec, r, portal.Notice{Code: code, Status: http.StatusForbidden, Return: "/acces/7", Missing: []string{hostile}, RetryAfter: 1500 * time.Millisecond})
			a := answer{Response: rec.Result(), body: rec.Body.Bytes()}
			var err error
			if a.doc, err = html.Parse(bytes.NewReader(a.body)); err != nil {
				t.Fatal(err)
			}
			if code == "unheard_of" {
				if a.StatusCode != http.StatusInternalServerError {
					t.Errorf("%s: %s", code, a.Status)
				}
				continue
			}
			again := len(a.all(func(n *html.Node) bool {
				return strings.HasPrefix(attr(n, "href"), "/connexion/exemple?retour=%2Facces%2F7")
			})) == 1
			if a.StatusCode != http.StatusForbidden || a.Header.Get("Retry-After") != "2" || a.Header.Get("Cache-Control") != "no-store" || again == slices.Contains([]string{"untrusted", "incomplete", "signed_out", "signed_out_here"}, code) {
				t.Errorf("%s in %s: %s %v, again: %v", code, lang, a.Status, a.Header, again)
			}
			harmless(t, code, a)
			// Whoever signs out after the session has ended reads it, too: nobody knows whether the provider answers, or has a session.
			if said := a.text(); code == "signed_out_here" && (!strings.Contains(said, map[string]string{"fr": "peut durer encore jusqu'à trente minutes", "en": "may go on for up to thirty minutes"}[lang]) ||
				strings.Contains(said, "ne répond pas") || strings.Contains(said, "doesn't answer")) {
				t.Error(said)
			}
		}
	}
}

// TestMessages are shown on the next page, once, and only if they are the catalogue's.
func TestMessages(t *testing.T) {
	w := newWorld(t, nil)
	said := func(a answer) string {
		for _, n := range a.all(func(n *html.Node) bool { return attr(n, "role") == "status" }) {
			return text(n)
		}
		return ""
	}
	var cookies []string
	for _, c := range w.get("", "/?lang=en").Cookies() {
		if !c.HttpOnly || !c.Secure || c.Path != "/" || c.SameSite != http.SameSiteLaxMode {
			t.Errorf("%+v", c)
		}
		cookies = append(cookies, c.Name+"="+c.Value)
	}
	a := w.page("", "/", "Cookie", strings.Join(cookies, "; "))
	if said(a) != "This site is now in English." || !slices.ContainsFunc(a.Cookies(), func(c *http.Cookie) bool { return c.Name == "__Host-message" && c.MaxAge < 0 }) {
		t.Errorf("%q %v", said(a), a.Cookies())
	}
	for _, forged := range []string{"error.internal.title", "flash.<script>", "x"} {
		if s := said(w.page("", "/", "Cookie", "__Host-message="+forged)); s != "" {
			t.Errorf("a forged message is shown: %s", s)
		}
	}
}

// TestLanguage: the reader's choice, else the browser's, else French.
func TestLanguage(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct{ accept, cookie, want string }{
		{"", "", "fr"}, {"en-GB,en;q=0.9", "", "en"}, {"fr-CA", "", "fr"}, {"de", "", "fr"}, {"de, en;q=0.5", "", "en"}, {"en", "fr", "fr"}, {"fr", "en", "en"}, {"fr", "xx", "fr"}, {"\xff;;", "", "fr"},
	} {
		if got := attr(w.page("", "/", "Accept-Language", c.accept, "Cookie", "__Host-langue="+c.cookie).tag("html")[0], "lang"); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	a := w.get("", "/verificateur?lang=en&x=1")
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/verificateur?x=1" || len(a.Cookies()) != 2 || a.Cookies()[0].Value != "en" {
		t.Errorf("%s %v", a.Status, a.Header)
	}
	for _, evil := range []string{"//evil.invalid/?lang=en", "/%5cevil.invalid/?lang=en", "/%2fevil.invalid/?lang=en"} {
		if at, err := url.Parse(w.get("", evil).Header.Get("Location")); err != nil || at.Host != "" || strings.HasPrefix(w.get("", evil).Header.Get("Location"), "//") || strings.HasPrefix(w.get("", evil).Header.Get("Location"), `/\`) {
			t.Errorf("%s leads to %v", evil, at)
		}
	}
}

// TestCompression: the same page, smaller.
func TestCompression(t *testing.T) {
	w := newWorld(t, nil)
	plain := w.page("", "/verificateur")
	for accept, zipped := range map[string]bool{"gzip": true, "br, gzip;q=0.8": true, "identity": false, "gzip;q=0": false, "": false} {
		a := w.get("", "/verificateur", "Accept-Encoding", accept)
		if (a.Header.Get("Content-Encoding") == "gzip") != zipped {
			t.Errorf("%q: %v", accept, a.Header)
			continue
		}
		if !zipped {
			continue
		}
		z, err := gzip.NewReader(bytes.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(z); err != nil || !bytes.Equal(b, plain.body) || len(a.body) > len(b)/2 || a.Header.Get("Regard-Size") != strconv.Itoa(len(b)) {
			t.Errorf("%q: %v, %d bytes of %d: %v", accept, err, len(a.body), len(b), a.Header)
		}
	}
	if a := w.do(http.MethodHead, "", "/verificateur"); a.StatusCode != http.StatusOK || len(a.body) != 0 {
		t.Errorf("HEAD: %s, %d bytes", a.Status, len(a.body))
	}
}

// TestDownloads: the file verifies by what the portal hands out, the spreadsheet has every entry, and paper and file have one code.
func TestDownloads(t *testing.T) {
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) { withVerifier(c) })
	w.signIn("camille", camille)
	if a := w.get("camille", "/historique/fichier"); a.StatusCode != http.StatusNotFound || !strings.Contains(a.text(), "Pas encore d'historique prouvé") {
		t.Errorf("before any day is closed: %s %s", a.Status, a.text())
	}
	if a := w.page("camille", "/releve"); !strings.Contains(a.text(), "Aucune journée close") {
		t.Errorf("%s", a.text())
	}
	denied := canteen(camille)
	denied.Purpose = "publicite"
	want := []proof.Index{w.disclose("mairie", canteen(camille)), w.disclose("mairie", denied)}
	w.turn()
	want = append(want, w.disclose("mairie", canteen(camille)))
	a := w.get("camille", "/historique/fichier")
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Disposition") != `attachment; filename="historique.regard.json"` {
		t.Fatalf("%s %v", a.Status, a.Header)
	}
	h, err := proof.ParseHistory(a.body)
	if err != nil {
		t.Fatal(err)
	}
	v, err := h.Verify(w.policy(), proof.HistoryOptions{AllowProvisional: true})
	if err != nil || len(v.Entries) != 2 {
		t.Fatalf("%+v, %v", v, err)
	}
	statement := w.page("camille", "/releve")
	if !strings.Contains(statement.text(), v.StatementCode()) || len(statement.rows()) != 2 || !strings.Contains(statement.text(), v.Root.String()) {
		t.Errorf("no %s in\n%s", v.StatementCode(), statement.text())
	}
	if len(statement.all(func(n *html.Node) bool {
		return attr(n, "id") == "verdict" && strings.HasPrefix(attr(n, "data-bundle"), "/historique/fichier?epoques=0-")
	})) != 1 {
		t.Error("the verdict has no place on the statement")
	}
	for query, status := range map[string]int{"0-0": 200, "0-9999": 404, "1-0": 400, "x": 400, "-": 400, "0-": 400, "-1-2": 400} {
		if a := w.get("camille", "/historique/fichier?epoques="+query); a.StatusCode != status {
			t.Errorf("epochs %s: %s", query, a.Status)
		}
	}
	for query, status := range map[string]int{"du=2026-02-30": 400, "du=2030-01-02&au=2030-01-01": 400, "du=1990-01-01&au=1990-12-31": 200} {
		if a := w.get("camille", "/releve?"+query); a.StatusCode != status || status == 400 && len(a.all(func(n *html.Node) bool { return attr(n, "aria-invalid") == "true" })) != 1 {
			t.Errorf("statement %s: %s\n%s", query, a.Status, a.text())
		}
	}
	for lang, comma := range map[string]rune{"fr": ';', "en": ','} {
		a = w.get("camille", "/telecharger/historique.csv", "Cookie", "__Host-langue="+lang)
		r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(a.body, []byte("\ufeff"))))
		r.Comma = comma
		lines, err := r.ReadAll()
		if err != nil || len(lines) != 4 {
			t.Fatalf("%s: %v\n%s", lang, err, a.body)
		}
		var got []string
		for _, l := range lines[1:] {
			got = append(got, l[10])
		}
		if diff := cmp.Diff([]string{want[2].String(), want[1].String(), want[0].String()}, got); diff != "" {
			t.Error(diff)
		}
	}
	if a = w.get("camille", "/telecharger/historique.csv?issue=denied"); bytes.Count(a.body, []byte("\r\n")) != 2 {
		t.Errorf("the filter doesn't apply:\n%s", a.body)
	}
	if a = w.get("camille", "/telecharger/historique.csv?du=x"); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a date that isn't: %s", a.Status)
	}
}

// TestRecordPage: everything but the agency's agent, in words, with a proof that verifies.
func TestRecordPage(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	denied := canteen(camille)
	denied.Purpose = "publicite"
	refused, granted := w.disclose("mairie", denied), w.disclose("mairie", canteen(camille))
	w.turn()
	a := w.page("camille", "/acces/"+granted.String())
	for _, word := range []string{"Mairie d'Exempleville", "Inscription à la cantine", "dossier 42", "calculer le tarif de la cantine", "dites-le-nous une fois", "cantine@1", "Caisse nationale", "Transmis", "Quotient familial", siret, "y était autorisée"} {
		if !strings.Contains(a.text(), word) {
			t.Errorf("no %q in\n%s", word, a.text())
		}
	}
	if bytes.Contains(a.body, []byte("AGENTMARKER")) {
		t.Error("the agency's agent is shown")
	}
	law := a.all(func(n *html.Node) bool {
		return n.Data == "a" && strings.HasPrefix(attr(n, "href"), "https://www.legifrance.gouv.fr/")
	})
	if len(law) == 0 || !strings.Contains(attr(law[0], "rel"), "noreferrer") {
		t.Error("the legal ground has no link to its text")
	}
	// Three drawings, each with its table: register, list, index.
	if svg := a.all(func(n *html.Node) bool { return n.Data == "svg" && attr(n, "class") == "path" }); len(svg) != 3 {
		t.Errorf("%d drawings", len(svg))
	}
	if tables := a.tag("table"); len(tables) != 3 {
		t.Errorf("%d tables", len(tables))
	}
	file := w.get("camille", "/acces/"+granted.String()+"/preuve")
	r, err := proof.ParseReceipt(file.body)
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.Verify(w.policy(), proof.VerifyOptions{AllowProvisional: true})
	if err != nil || v.Index != granted || !v.InRoll {
		t.Errorf("%+v, %v", v, err)
	}
	a = w.page("camille", "/acces/"+refused.String())
	if !strings.Contains(a.text(), "L'habilitation ne couvre pas la finalité « publicite ».") || !strings.Contains(a.text(), "Refusé par la règle") {
		t.Errorf("the refusal isn't explained:\n%s", a.text())
	}
	a = w.page("camille", "/acces/"+refused.String(), "Cookie", "__Host-langue=en")
	if !strings.Contains(a.text(), `The agreement does not cover the purpose "publicite".`) {
		t.Errorf("nor in English:\n%s", a.text())
	}
}

// TestAccessesAndErasures: who opened a record stands in the history, and an erasure takes effect on a page that was made before.
func TestAccessesAndErasures(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	i := w.disclose("mairie", canteen(camille))
	pivot := w.sessions.by["camille"].Subjects[0]
	w.page("camille", "/historique")
	if _, err := w.b.History(t.Context(), pivot, broker.AccessBy{Reader: "uid-1000", Role: proof.RoleOperator, Reason: "appel au guichet"}, broker.HistoryPage{}); err != nil {
		t.Fatal(err)
	}
	a := w.page("camille", "/historique")
	if s := text(a.rows()[0]); len(a.rows()) != 2 || !strings.Contains(s, "Votre dossier a été ouvert") || !strings.Contains(s, "Service d'assistance, agent 1000") || !strings.Contains(s, "appel au guichet") {
		t.Errorf("%s", a.text())
	}
	if s := w.page("camille", "/acces/"+a.indexes()[0].String()).text(); !strings.Contains(s, "appel au guichet") || !strings.Contains(s, "Service d'assistance") {
		t.Error(s)
	}
	e, err := w.b.Erase(t.Context(), pivot, "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	w.published(e.Index)
	a = w.page("camille", "/historique")
	if rows := a.rows(); len(rows) != 3 || !strings.Contains(text(rows[0]), "Effacement") || !strings.Contains(text(rows[2]), "Détails effacés à votre demande") {
		t.Errorf("%s", a.text())
	}
	rec := w.page("camille", "/acces/"+i.String())
	if strings.Contains(rec.text(), "Inscription à la cantine") || !strings.Contains(rec.text(), "effacer ce qui vous identifie") {
		t.Errorf("%s", rec.text())
	}
	if s := w.page("camille", "/acces/"+e.Index.String()).text(); !strings.Contains(s, "article 17") {
		t.Error(s)
	}
}

// TestLogsNameNobody: neither the broker's log nor the portal's holds a name, whatever pages are asked for.
func TestLogsNameNobody(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	i := w.disclose("mairie", canteen(camille))
	w.turn()
	for _, path := range everyPage {
		w.get("camille", strings.ReplaceAll(path, "{id}", i.String()))
	}
	for _, word := range []string{"EXEMPLE ALPHA", "Exemple Alpha", "Camille", "account-camille", "Inscription"} {
		if strings.Contains(w.logs.String(), word) {
			t.Errorf("the log says %q", word)
		}
	}
}

// TestNew refuses what couldn't be served.
func TestNew(t *testing.T) {
	w := newWorld(t, nil)
	for name, change := range map[string]func(*portal.Config){
		"no broker":   func(c *portal.Config) { c.Broker = nil },
		"no sessions": func(c *portal.Config) { c.Sessions = nil },
		"no URL":      func(c *portal.Config) { c.URL = nil },
		"no operator": func(c *portal.Config) { c.Operator.Name = "" },
		"no address":  func(c *portal.Config) { c.Operator.Email = "" },
	} {
		cfg := w.cfg
		change(&cfg)
		if _, err := portal.New(cfg); err == nil {
			t.Error(name)
		}
	}
}

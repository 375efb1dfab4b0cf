package portal_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
	"github.com/regard-broker/regard/policy"
)

// shownOn reads from a page what verify.js does.
func (w *world) shownOn(a answer) verdict.Page {
	w.t.Helper()
	p := verdict.Page{View: viewOf(a.Request.URL)}
	var list *html.Node
	for _, n := range a.all(func(n *html.Node) bool { return attr(n, "id") == "acces" || attr(n, "id") == "verdict" }) {
		if attr(n, "id") == "acces" {
			list = n
			continue
		}
		p.Lang, p.Names = verdict.Lang(attr(n, "lang")), string(w.get("", attr(n, "data-names")).body)
	}
	if list == nil || p.Names == "" {
		w.t.Fatalf("no list or no names:\n%s", a.body)
	}
	if p.Of = attr(list, "data-of"); p.Of == "" {
		w.t.Error("the page doesn't say whose it is")
	}
	if m, ok := find(list, "data-marker"); ok {
		i := w.index(m)
		p.Marker = &i
	}
	for _, table := range a.all(func(n *html.Node) bool { return n.Data == "table" && strings.HasPrefix(attr(n, "class"), "rows") }) {
		var head []string
		for _, th := range a.all(func(n *html.Node) bool { return n.Data == "th" && n.Parent.Parent.Parent == table }) {
			head = append(head, content(th))
		}
		p.Heads = append(p.Heads, head)
	}
	for _, tr := range a.all(func(n *html.Node) bool { return n.Data == "tr" && n.Parent.Data == "tbody" }) {
		r := verdict.Row{Agency: attr(tr, "data-agency"), Service: attr(tr, "data-service"), Outcome: attr(tr, "data-outcome"), At: attr(tr, "data-at")}
		if i, ok := find(tr, "data-index"); ok {
			n := w.index(i)
			r.Index = &n
		}
		if h := above(tr.Parent.Parent); h != nil {
			r.Day = content(h)
			_, r.Open = find(h, "data-open")
		}
		for c := range tr.ChildNodes() {
			r.Cells = append(r.Cells, content(c))
			link := ""
			for n := range c.Descendants() {
				if n.Data == "a" {
					link += attr(n, "href")
				}
			}
			r.Links = append(r.Links, link)
		}
		p.Rows = append(p.Rows, r)
	}
	return p
}

// viewOf is what verify.js reads from the address of a page.
func viewOf(u *url.URL) *verdict.View {
	if u.Path != "/historique" {
		return nil
	}
	q := u.Query()
	return &verdict.View{Agency: q.Get("agence"), Service: q.Get("donnee"), Outcome: q.Get("issue"), Search: q.Get("q"), From: q.Get("du"), To: q.Get("au"), Page: q.Get("page"), Density: q.Get("vue")}
}

func find(n *html.Node, key string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val, true
		}
	}
	return "", false
}

func (w *world) index(text string) proof.Index {
	w.t.Helper()
	i, err := strconv.ParseUint(text, 10, 53)
	if err != nil {
		w.t.Fatal(err)
	}
	return proof.Index(i)
}

// above is the heading right above a table.
func above(table *html.Node) *html.Node {
	h := table.PrevSibling
	for h != nil && h.Type != html.ElementNode {
		h = h.PrevSibling
	}
	if h == nil || len(h.Data) != 2 || h.Data[0] != 'h' {
		return nil
	}
	return h
}

// content is the text of an element without the mark that the check puts there, as it is.
func content(n *html.Node) string {
	if n.Type == html.TextNode {
		return n.Data
	}
	if _, mark := find(n, "data-mark"); mark {
		return ""
	}
	var b strings.Builder
	for c := range n.ChildNodes() {
		b.WriteString(content(c))
	}
	return b.String()
}

// compared is what the check in the browser would say of a page, by the file that it would get.
func (w *world) compared(who string, p verdict.Page, l verdict.Lang, file string) *verdict.Report {
	w.t.Helper()
	return w.comparedWith(w.get(who, file).body, p, l)
}

func (w *world) comparedWith(b []byte, p verdict.Page, l verdict.Lang) *verdict.Report {
	w.t.Helper()
	return w.comparer(b)(p, l)
}

// comparer compares pages with one file.
func (w *world) comparer(b []byte) func(verdict.Page, verdict.Lang) *verdict.Report {
	w.t.Helper()
	h, err := proof.ParseHistory(b)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, b)
	}
	in := verdict.Input{Policy: w.policy(), Digest: sha256.Sum256(b), History: h}
	v, err := h.Verify(in.Policy, proof.HistoryOptions{AllowProvisional: true})
	if err != nil {
		w.t.Fatal(err)
	}
	in.Verdict = &v
	return func(p verdict.Page, l verdict.Lang) *verdict.Report {
		in := in
		in.Lang = l
		r := verdict.New(in)
		r.ComparePage(p, in)
		return r
	}
}

// everything makes a person's history with what there can be in one, in closed epochs and in the open one: Camille is asked about, refused, looked at by everybody who can, told late, and in the answer about somebody who
// lives with her, which may be about a namesake.
func everything(t *testing.T) *world {
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) { withVerifier(c) })
	w.signIn("camille", camille)
	now := time.Now()
	w.agency("parquet", "Parquet d'Exempleville")
	if _, err := w.b.PutAgreement(t.Context(), policy.Agreement{
		ID: "enquete", Agency: "parquet", Service: "quotient-familial", Scopes: []policy.Scope{"quotient"}, Purposes: []policy.Purpose{"enquete"}, LegalBases: []policy.LegalBasis{"cpp-60-1"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10000 * time.Hour),
		Deferral: &policy.Deferral{Authority: "Tribunal judiciaire d'Exempleville", Article: "CPP art. 60-1", Reference: "2026/118", Days: 40},
	}); err != nil {
		t.Fatal(err)
	}
	_, vkey, err := note.GenerateKey(rand.Reader, "cour.example")
	if err != nil {
		t.Fatal(err)
	}
	own := brokertest.NewCurrentIdentity(t, "cour")
	if err := w.b.AddAuditor(t.Context(), "cour", "Cour d'Exemple \u202e& <Cie>", own.Leaf, vkey); err != nil {
		t.Fatal(err)
	}
	auditor, err := w.b.Authenticate(own.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	w.agency("autre", "Agence «  double  »")
	w.agree("autre", "autre", "quotient-familial", "inconnue", "quotient")

	w.disclose("mairie", canteen(camille))
	refused := canteen(camille)
	refused.Purpose = "publicite"
	w.disclose("mairie", refused)
	unknown := canteen(camille)
	unknown.Scopes, unknown.Purpose = []string{"quotient"}, "inconnue"
	w.disclose("autre", unknown)
	secret := canteen(camille)
	secret.Agreement, secret.Purpose, secret.LegalBasis, secret.Scopes = "enquete", "enquete", "cpp-60-1", []string{"quotient"}
	a, err := w.b.Disclose(t.Context(), w.agencies["parquet"], secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Openings(t.Context(), auditor, &broker.OpeningsRequest{Disclosure: a.ID, Reason: "contrôle de  l'enquête", IdempotencyKey: "1"}); err != nil {
		t.Fatal(err)
	}
	w.disclose("mairie", canteen(loic)) // who lives with her: the answer names her
	w.turn()
	w.ahead.Add(int64(72 * time.Hour))
	if _, err := w.b.EndDeferral(t.Context(), a.ID, "mainlevée"); err != nil {
		t.Fatal(err)
	}
	w.look("camille")
	w.turn()
	w.disclose("mairie", canteen(camille))
	w.published(w.disclose("mairie", canteen(camille)))
	return w
}

// look has everybody who can open somebody's history do so.
func (w *world) look(who string) {
	w.t.Helper()
	for _, by := range []broker.AccessBy{
		{Reader: "uid-1000", Role: proof.RoleOperator, Reason: "appel\u200e au \u202eguichet\u2066"}, {Reader: "juge", Role: proof.RoleCourt, Reason: "instruction"},
	} {
		for _, s := range w.sessions.by[who].Subjects {
			if _, err := w.b.History(w.t.Context(), s, by, broker.HistoryPage{Limit: 1}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// TestPagesAgree: every line of an honest page reads as the check in the browser expects, whatever can stand in a history, in both languages, before and after an erasure.
func TestPagesAgree(t *testing.T) {
	w := everything(t)
	w.signIn("nul", unattached) // whom the provider doesn't know
	most := map[string]int{}
	agree := func(who, when string) {
		t.Helper()
		files := map[string][]byte{} // few are made in a short time
		for _, l := range []verdict.Lang{verdict.French, verdict.English} {
			for _, path := range append(filtered(), "/historique", "/historique?vue=dense", "/releve?du=2020-01-01&au=2099-01-01") {
				file := "/historique/fichier"
				a := w.get(who, path, "Cookie", "__Host-langue="+string(l))
				for _, n := range a.all(func(n *html.Node) bool { return attr(n, "id") == "verdict" }) {
					file = attr(n, "data-bundle")
				}
				p := w.shownOn(a)
				if files[file] == nil {
					files[file] = w.get(who, file).body
				}
				r := w.comparedWith(files[file], p, l)
				verified := 0
				for i, m := range r.Rows {
					switch m.State {
					case verdict.RowVerified:
						verified++
					case verdict.RowWrong:
						t.Errorf("%s, %s: %+v", path, m.Text, p.Rows[i])
					}
				}
				for _, x := range r.Limits {
					if strings.Contains(x.Text, map[verdict.Lang]string{verdict.French: "n'est pas comparé", verdict.English: "isn't compared"}[l]) {
						t.Errorf("%s %s: %s", when, path, x.Text)
					}
				}
				if r.Refuted != nil || verified < 1 && !strings.Contains(path, "?") {
					t.Errorf("%s %s: %d of %d rows verified: %s", when, path, verified, len(r.Rows), r.Sentence)
				}
				most[path] = max(most[path], verified)
			}
		}
	}
	agree("camille", "with everything")
	agree("nul", "who is unknown")
	seen := map[string]bool{}
	for _, r := range w.shownOn(w.page("camille", "/historique")).Rows {
		if !r.Open {
			seen[strings.SplitN(r.Cells[5], " Révélé", 2)[0]] = true
		}
	}
	if len(seen) < 5 { // released, refused, delayed, opened by others, of a namesake
		t.Errorf("few outcomes are on the page: %v", seen)
	}
	pivot := w.sessions.by["camille"].Subjects[0]
	e, err := w.b.Erase(t.Context(), pivot, "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	w.published(e.Index)
	agree("camille", "while it is erased")
	w.turn()
	agree("camille", "after the erasure")
	some := 0
	for _, n := range most {
		if n > 0 {
			some++
		}
	}
	if some < 15 { // otherwise little was compared
		t.Errorf("few filters let something through: %v", most)
	}
}

// filtered are addresses of parts of a history, some of which the page can't use as they stand.
func filtered() (out []string) {
	now := time.Now()
	today := now.Format(time.DateOnly)
	for _, q := range []url.Values{
		{"q": {"mairie"}}, {"q": {" MAIRIE  d'exempleville "}}, {"q": {"cour"}}, {"q": {"auditeur"}}, {"q": {"accredited"}}, {"q": {"quotient"}}, {"q": {"quotient-familial"}}, {"q": {"appel au guichet"}}, {"q": {"inconnue"}},
		{"q": {"\u202ecour\u202c"}}, {"q": {"Œ"}}, {"q": {"family"}}, {"q": {"nichts"}}, {"q": {strings.Repeat("x", 101)}}, {"q": {"mairie\ncaisse"}}, {"q": {"agence double"}}, {"q": {"parquet"}}, {"q": {"contrôle"}},
		{"agence": {"mairie"}}, {"agence": {"autre"}}, {"agence": {"?"}}, {"agence": {"cour"}}, {"donnee": {"quotient-familial"}}, {"donnee": {"quotient-familial@1"}},
		{"issue": {"released"}}, {"issue": {"denied"}}, {"issue": {"opened"}}, {"issue": {"access"}}, {"issue": {"homonym"}}, {"issue": {"erased"}}, {"issue": {"erasure"}}, {"issue": {"x"}},
		{"du": {today}}, {"au": {today}}, {"du": {today}, "au": {"2000-01-01"}}, {"du": {"x"}}, {"du": {"0001-01-01"}}, {"au": {"9999-12-31"}}, {"au": {now.AddDate(0, 0, -2).Format(time.DateOnly)}}, {"du": {now.AddDate(0, 0, 2).Format(time.DateOnly)}},
		{"page": {"2"}}, {"page": {"-1"}}, {"page": {"+1"}}, {"page": {"99999999999999999999"}}, {"vue": {"dense"}, "page": {"7"}}, {"agence": {"mairie"}, "q": {"quotient"}, "issue": {"released"}, "du": {today}},
	} {
		out = append(out, "/historique?"+q.Encode())
	}
	return out
}

// TestPagesJoin: pages of a long history show each rank once; one that leaves something out, or shows what belongs on another, is refuted, and so are what is said twice, hidden, or said to be of another part.
func TestPagesJoin(t *testing.T) {
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) { withVerifier(c) })
	w.signIn("camille", camille)
	for range 60 {
		w.disclose("mairie", canteen(camille))
	}
	w.turn()
	open := w.disclose("mairie", canteen(camille))
	w.published(open)
	const file = "/historique/fichier"
	history := w.get("camille", file).body
	page := func(path string) verdict.Page { return w.shownOn(w.page("camille", path)) }
	for path, says := range map[string]string{
		"/historique":                         "Cette page en montre 25 sur 60 : du n° 1 au n° 25, du plus récent au plus ancien, et aucun n'y manque.",
		"/historique?page=2":                  "Cette page en montre 25 sur 60 : du n° 26 au n° 50, du plus récent au plus ancien, et aucun n'y manque.",
		"/historique?page=9":                  "Cette page en montre 10 sur 60 : du n° 51 au n° 60",
		"/historique?vue=dense":               "témoins.",
		"/historique?agence=mairie":           "Cette page en montre 25 sur 60 : ceux que vos filtres laissent passer, du n° 1 au n° 25 sur 60, et aucun n'y manque.",
		"/historique?issue=denied":            "Cette page en montre 0 sur 60 : vos filtres n'en laissent passer aucun.",
		"/historique?q=mairie&vue=dense":      "témoins.",
		"/releve?du=2020-01-01&au=2099-01-01": "témoins.",
	} {
		r := w.comparedWith(history, page(path), verdict.French)
		if r.Refuted != nil || !strings.Contains(r.Sentence, verdict.Typeset(says)) {
			t.Errorf("%s: %s, want %s", path, r.Sentence, says)
		}
		for _, x := range r.Limits {
			if strings.Contains(x.Text, "comparé") {
				t.Errorf("%s: %s", path, x.Text)
			}
		}
	}
	cut := func(p *verdict.Page, i int) { p.Rows = slices.Delete(p.Rows, i, i+1) }
	for name, c := range map[string]struct {
		path   string
		change func(*verdict.Page)
		says   string
	}{
		"the newest closed one is removed": {"/historique", func(p *verdict.Page) { cut(p, 1) }, "la page cache un accès enregistré"},
		"the last one is removed":          {"/historique?page=2", func(p *verdict.Page) { cut(p, 24) }, "la page cache un accès enregistré"},
		"one is removed under a filter":    {"/historique?agence=mairie", func(p *verdict.Page) { cut(p, 5) }, "la page cache un accès enregistré"},
		"one is removed from a statement":  {"/releve?du=2020-01-01&au=2099-01-01", func(p *verdict.Page) { cut(p, 5) }, "la page cache un accès enregistré"},
		"all are removed":                  {"/historique?page=3", func(p *verdict.Page) { p.Rows = nil }, "la page cache un accès enregistré"},
		"pages that overlap":               {"/historique", func(p *verdict.Page) { p.View.Page = "2" }, "la page cache un accès enregistré"},
		"twice":                            {"/historique", func(p *verdict.Page) { p.Rows = append(p.Rows, p.Rows[3]) }, "deux fois le même accès"},
		"one of another page, too":         {"/historique", func(p *verdict.Page) { p.Rows = append(p.Rows, page("/historique?page=2").Rows[0]) }, "pas de cette partie"},
		"another order":                    {"/historique", func(p *verdict.Page) { p.Rows[3], p.Rows[4] = p.Rows[4], p.Rows[3] }, "dans un autre ordre"},
		"hidden":                           {"/historique", func(p *verdict.Page) { p.Rows[3].Hidden = true }, "ne le montre pas"},
		"a row with more in it":            {"/historique", func(p *verdict.Page) { p.Rows[3].Strange = true }, "contient ce qu'un accès n'a pas"},
		"a list with more in it":           {"/historique", func(p *verdict.Page) { p.Strange = 1 }, "contient ce qu'une liste n'a pas"},
		"a row in the head":                {"/historique", func(p *verdict.Page) { p.Heads[0][1] = "Caisse" }, "les colonnes portent d'autres noms"},
		"a link to another entry":          {"/historique", func(p *verdict.Page) { p.Rows[3].Links[2] = "/acces/1" }, "où mènent ses liens"},
		"a link more":                      {"/historique", func(p *verdict.Page) { p.Rows[3].Links[1] = "/acces/1" }, "où mènent ses liens"},
		"another law":                      {"/historique", func(p *verdict.Page) { p.Rows[3].Cells[4] = strings.Replace(p.Rows[3].Cells[4], "114-8", "114-9", 1) }, "(pourquoi)"},
		"a text of another law":            {"/historique", func(p *verdict.Page) { p.Rows[3].Links[4] = "https://example.org/" }, "où mènent ses liens"},
		"the open one under a date":        {"/historique", func(p *verdict.Page) { p.Rows[0].Open, p.Rows[0].Day = false, p.Rows[1].Day }, "d'une journée qui n'est pas close"},
		"the open one under words":         {"/historique", func(p *verdict.Page) { p.Rows[0].Day = p.Rows[1].Day }, "d'une journée qui n'est pas close"},
		"a moment that is none":            {"/historique", func(p *verdict.Page) { i := *p.Marker - 1; p.Marker = &i }, "d'un moment que le registre n'a pas"},
	} {
		p := page(c.path)
		c.change(&p)
		if r := w.comparedWith(history, p, verdict.French); r.State != verdict.Refuted || !strings.Contains(r.Sentence, c.says) {
			t.Errorf("%s: %s %q", name, r.State, r.Sentence)
		}
	}
	if p := page("/historique"); p.Rows[1].Links[4] == "" || !strings.Contains(p.Rows[1].Cells[4], "114-8") {
		t.Errorf("no law beneath the purpose: %+v", p.Rows[1])
	}
	// The file ends before what the page says: an old one isn't enough.
	old := page("/historique")
	w.turn()
	newer := page("/historique")
	if r := w.compared("camille", newer, verdict.French, file+"?epoques=0-0"); r.State != verdict.Unverified || r.Cause != verdict.CauseBehind {
		t.Errorf("a file that ends before the page: %s, %s", r.State, r.Sentence)
	}
	// A page that is older than the file says what it can't have.
	if r := w.compared("camille", old, verdict.French, file); r.Refuted != nil || len(r.Limits) > 0 && strings.Contains(r.Limits[0].Text, "avant la fin d'une journée") {
		t.Errorf("a page of just before: %s", r.Sentence)
	}
	cut(&old, 0)
	if r := w.compared("camille", old, verdict.French, file); r.Refuted != nil || len(r.Limits) != 1 || r.Limits[0].Kind != verdict.Standing || !strings.Contains(r.Limits[0].Text, "avant la fin d'une journée\u00a0: 1 accès") {
		t.Errorf("a page of just before, without its newest: %s, %+v", r.State, r.Limits)
	}
	// Nor is a tab that was left open compared with the history of whoever signed in since.
	w.signIn("pierre", pierre)
	w.disclose("mairie", canteen(pierre))
	w.turn()
	if r := w.comparedWith(w.get("pierre", file).body, old, verdict.French); r.State != verdict.Unverified || r.Cause != verdict.CauseOthers {
		t.Errorf("another person's page: %s, %s", r.State, r.Sentence)
	}
	unclear := page("/historique?agence=mairie")
	unclear.View.Unclear = true
	if r := w.compared("camille", unclear, verdict.French, file); r.Refuted != nil || !strings.Contains(r.Limits[0].Text, "n'est pas comparé") {
		t.Errorf("a filter that can't be told: %s, %+v", r.Sentence, r.Limits)
	}
}

// TestPagesDisagree: whatever else a page says in a line, or leaves out of it, is refuted, and the part is named.
func TestPagesDisagree(t *testing.T) {
	w := everything(t)
	honest := func() verdict.Page { return w.shownOn(w.page("camille", "/historique")) }
	lines := honest().Rows
	at := slices.IndexFunc(lines, func(r verdict.Row) bool { return r.Outcome == "released" && !r.Open })
	delayed := slices.IndexFunc(lines, func(r verdict.Row) bool { return r.Outcome == "opened" })
	if at < 0 || delayed < 0 {
		t.Fatalf("%+v", lines)
	}
	for name, c := range map[string]struct {
		row    int
		change func(*verdict.Row)
		says   string
	}{
		"another time":             {at, func(r *verdict.Row) { r.Cells[0] = "00:61" }, "(heure)"},
		"another agency":           {at, func(r *verdict.Row) { r.Cells[1] = "Caisse d'Exemple" }, "(qui a demandé)"},
		"other data":               {at, func(r *verdict.Row) { r.Cells[2] = "Rien" }, "(quoi)"},
		"another provider":         {at, func(r *verdict.Row) { r.Cells[3] += "s" }, "(auprès de qui)"},
		"another purpose":          {at, func(r *verdict.Row) { r.Cells[4] = "Pourquoi étudier une demande de bourse" }, "(pourquoi)"},
		"no purpose":               {at, func(r *verdict.Row) { r.Cells[4] = "" }, "(pourquoi)"},
		"another outcome in words": {at, func(r *verdict.Row) { r.Cells[5] = "Refusé par la règle" }, "(résultat)"},
		"text from right to left":  {at, func(r *verdict.Row) { r.Cells[1] = "\u202e" + r.Cells[1] }, "(qui a demandé)"},
		"revealed, and wasn't":     {at, func(r *verdict.Row) { r.Cells[5] += " Révélé le " + r.Day }, "(résultat)"},
		"revealed at another time": {delayed, func(r *verdict.Row) { r.Cells[5] = "Accès différé par la loi Révélé le lundi 1er janvier 2024" }, "(résultat)"},
		"another day above it":     {at, func(r *verdict.Row) { r.Day = "lundi 1er janvier 2024" }, "(le jour)"},
		"no day above it":          {at, func(r *verdict.Row) { r.Day = "" }, "(le jour)"},
		"under the open epoch":     {at, func(r *verdict.Row) { r.Day, r.Open = "Journée en cours", true }, "(le jour)"},
		"a cell less":              {at, func(r *verdict.Row) { r.Cells = r.Cells[:5] }, "(ses cases)"},
		"a cell more":              {at, func(r *verdict.Row) { r.Cells = append(r.Cells, "") }, "(ses cases)"},
		"without agency":           {at, func(r *verdict.Row) { r.Agency = "" }, "(ses attributs)"},
		"without service":          {at, func(r *verdict.Row) { r.Service = "" }, "(ses attributs)"},
		"without outcome":          {at, func(r *verdict.Row) { r.Outcome = "" }, "(ses attributs)"},
		"without a time":           {at, func(r *verdict.Row) { r.At = "" }, "(ses attributs)"},
		"without an index":         {at, func(r *verdict.Row) { r.Index = nil }, "sans preuve"},
		"as if it had been erased": {at, func(r *verdict.Row) {
			*r = verdict.Row{Index: r.Index, Day: "Date inconnue", Cells: []string{"–", "–", fmt.Sprint("Inscription n° ", *r.Index), "", "", "Détails effacés à votre demande"}}
		}, "(ses attributs)"},
		"as if it couldn't be read": {at, func(r *verdict.Row) {
			*r = verdict.Row{Index: r.Index, Day: "Date inconnue", Cells: []string{"–", "–", fmt.Sprint("Inscription n° ", *r.Index), "", "", "Illisible"}}
		}, "(ses attributs)"},
	} {
		p := honest()
		c.change(&p.Rows[c.row])
		r := w.compared("camille", p, verdict.French, "/historique/fichier")
		if r.State != verdict.Refuted || !strings.Contains(r.Sentence, c.says) || r.Rows[c.row].State != verdict.RowWrong {
			t.Errorf("%s: %s %q", name, r.State, r.Sentence)
		}
		if strings.Contains(c.says, "(") && !strings.Contains(r.Sentence, fmt.Sprint(time.Now().Year())) {
			t.Errorf("%s: no day is named: %q", name, r.Sentence)
		}
	}
	p := honest()
	p.Names = strings.Replace(p.Names, "agency mairie Mairie d'Exempleville", "agency mairie Caisse d'Exemple", 1)
	if r := w.compared("camille", p, verdict.French, "/historique/fichier"); r.State != verdict.Refuted {
		t.Errorf("names of another file: %s", r.Sentence)
	}
	p.Names = "?"
	if r := w.compared("camille", p, verdict.French, "/historique/fichier"); r.State != verdict.Unverified {
		t.Errorf("no file of names: %s", r.Sentence)
	}
}

// TestNames: the file of names is the same for everybody, has an address of its content, and changes with the registry; that of a page that is still open stays.
func TestNames(t *testing.T) {
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) { withVerifier(c) })
	w.signIn("camille", camille)
	w.signIn("loic", loic)
	address := func(who string) string {
		t.Helper()
		for _, n := range w.page(who, "/historique").all(func(n *html.Node) bool { return attr(n, "id") == "verdict" }) {
			return attr(n, "data-names")
		}
		t.Fatal("no verdict")
		return ""
	}
	was := address("camille")
	if got := address("loic"); got != was {
		t.Errorf("names at %s and %s", was, got)
	}
	w.agency("autre", "Autre agence")
	now := address("camille")
	for path, want := range map[string]bool{was: false, now: true} {
		a := w.get("", path)
		if sum := fmt.Sprintf("%x", sha256.Sum256(a.body)); path != "/annuaire/"+sum+".txt" || a.StatusCode != 200 || strings.Contains(string(a.body), "agency autre Autre agence\n") != want || !strings.Contains(a.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %s\n%s", path, a.Status, a.body)
		}
		n, err := verdict.ParseNames(a.body)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := n.AppendText(nil); err != nil || string(b) != string(a.body) {
			t.Errorf("%v: written again it is\n%s", err, b)
		}
	}
	if a := w.get("", "/annuaire/"+strings.Repeat("0", 64)+".txt"); a.StatusCode != 404 {
		t.Error(a.Status)
	}
	p := w.page("", "/verificateur")
	sum := strings.TrimSuffix(strings.TrimPrefix(now, "/annuaire/"), ".txt")
	if !strings.Contains(strings.ReplaceAll(p.text(), " ", ""), sum) {
		t.Errorf("the digest isn't on %s", p.text())
	}
	again, err := portal.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.p = again
	if a := w.get("", now); a.StatusCode != 200 {
		t.Errorf("after a restart: %s", a.Status)
	}
}

// TestLinksThatAreEncoded: pages of an access under a legal basis whose address isn't written as html/template writes it are sound.
func TestLinksThatAreEncoded(t *testing.T) {
	words, err := portal.ParseWords([]byte("legal_bases:\n  crpa-l114-8: {fr: Rectificatif, en: Corrigendum, url: 'https://eur-lex.europa.eu/legal-content/FR/TXT/?uri=CELEX:32016R0679R(02)'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) { c.Words = words; withVerifier(c) })
	w.signIn("camille", camille)
	i := w.disclose("mairie", canteen(camille))
	w.turn()
	p, file := w.recordOn("camille", w.page("camille", "/acces/"+i.String()))
	if r := w.compared("camille", p, verdict.French, file); r.State == verdict.Refuted {
		t.Errorf("an access: %s", r.Sentence)
	}
	if r := w.compared("camille", w.shownOn(w.page("camille", "/historique")), verdict.French, "/historique/fichier"); r.State == verdict.Refuted {
		t.Errorf("the list: %s", r.Sentence)
	}
}

// meanwhile is a broker of which something happens just before it says where the log stands.
type meanwhile struct {
	portal.Broker
	what atomic.Pointer[func()]
}

func (m *meanwhile) Standing() broker.Standing {
	if f := m.what.Swap(nil); f != nil {
		(*f)()
	}
	return m.Broker.Standing()
}

// TestEpochEndsWhileAPageIsMade: what is recorded, and in an epoch that is closed, while the list is read, isn't missing in a page that says it is of before.
func TestEpochEndsWhileAPageIsMade(t *testing.T) {
	m := &meanwhile{}
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) { c.Broker = m; withVerifier(c) })
	m.Broker = w.b
	w.signIn("camille", camille)
	w.disclose("mairie", canteen(camille))
	w.turn()
	w.page("camille", "/historique")
	m.what.Store(new(func() {
		w.disclose("mairie", canteen(camille))
		w.turn()
	}))
	p := w.shownOn(w.page("camille", "/historique"))
	p.View = viewOf(&url.URL{Path: "/historique"})
	if m.what.Load() != nil {
		t.Fatal("nothing happened meanwhile")
	}
	if r := w.compared("camille", p, verdict.French, "/historique/fichier"); r.State == verdict.Refuted {
		t.Error(r.Sentence)
	}
}

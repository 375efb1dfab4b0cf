package verifier_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"html"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/cmd/regard-audit/audit"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// row is a line of the page.
type row struct {
	index                    string
	agency, service, outcome string
	at                       string
	day                      string
	cells                    []string
	links                    [6]string
	hidden                   string // an attribute
}

// names are those that the site has; other tokens stand for themselves.
const names = "regard/names@v1\nagency mairie-de-lyon Mairie de Lyon & environs\nprovider cnaf Caisse nationale\n"

// namesAt is where they are.
var namesAt = fmt.Sprintf("/annuaire/%x.txt", sha256.Sum256([]byte(names)))

var paris = must(time.LoadLocation("Europe/Paris"))

// shown reads from a history that holds what an honest page shows of it in French, newest first.
func shown(policy *proof.Policy, bundle string) (rows []row, v proof.HistoryVerdict, err error) {
	h, err := proof.ParseHistory([]byte(bundle))
	if err != nil {
		return nil, v, err
	}
	if v, err = h.Verify(policy, proof.HistoryOptions{AllowProvisional: true}); err != nil {
		return nil, v, err
	}
	or := func(a, b string) string {
		if a == "" {
			return b
		}
		return a
	}
	for _, e := range v.Entries {
		field := func(f proof.Field) string {
			b, _ := e.Opening.Value(f)
			return string(b)
		}
		r := row{links: [6]string{2: "/acces/" + e.Index.String()}, index: e.Index.String(), day: "Date inconnue", cells: []string{"–", "–", "Inscription n°\u00a0" + e.Index.String(), "", "", ""}}
		for schema, f := range map[proof.Schema]proof.Field{proof.SchemaDisclosure: proof.DisclosureAskedAt, proof.SchemaAccess: proof.AccessAt, proof.SchemaErasure: proof.ErasureErasedAt} {
			if at, ok := e.Opening.TimeOf(f); ok && e.Opening.Schema() == schema {
				local := at.Time().In(paris)
				r.at, r.cells[0] = at.Time().UTC().Format(time.RFC3339), local.Format("15:04")
				day := fmt.Sprint(local.Day())
				if day == "1" {
					day = "1er"
				}
				r.day = []string{"dimanche", "lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi"}[local.Weekday()] + "\u00a0" + day + " " +
					[]string{"janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre"}[local.Month()-1] + fmt.Sprint(" ", local.Year())
			}
		}
		switch e.Opening.Schema() {
		case proof.SchemaDisclosure:
			r.agency, r.service = field(proof.DisclosureAgency), field(proof.DisclosureService)
			service, _, _ := strings.Cut(r.service, "@")
			r.cells[1], r.cells[2] = or(map[string]string{"mairie-de-lyon": "Mairie de Lyon & environs"}[r.agency], r.agency), service
			if x := field(proof.DisclosureProvider); x != "" {
				r.cells[3] = "Auprès de " + or(map[string]string{"cnaf": "Caisse nationale"}[x], x)
			}
			if x := field(proof.DisclosurePurpose); x != "" {
				r.cells[4] = "Pourquoi " + x
			}
			if x := field(proof.DisclosureLegalBasis); x != "" {
				r.cells[4] += " " + x
			}
		case proof.SchemaAccess:
			r.agency = field(proof.AccessReader)
			r.cells[1], r.cells[2] = r.agency, "Votre enregistrement"
			if field(proof.AccessRole) == proof.RoleAuditor {
				r.cells[1] += ", auditeur accrédité"
			}
			if x := field(proof.AccessReason); x != "" {
				r.cells[4] = "Pourquoi " + x
			}
		}
		namesake := v.Subjects[e.Subject].Type() == proof.TypePerson
		switch {
		case e.Kind == proof.KindErasure:
			r.outcome, r.cells[1], r.cells[2], r.cells[5] = "erasure", "Vous", "Effacement de vos détails", "Effacement"
		case e.State == proof.RecordErased || e.State == proof.RecordErasing:
			r.cells[5] = "Détails effacés à votre demande"
		case namesake:
			r.cells[5] = "Concerne peut-être un homonyme"
		case e.Kind == proof.KindOpened:
			r.outcome, r.cells[5] = "opened", "Accès différé par la loi"
		case e.Kind == proof.KindAccess:
			r.outcome, r.cells[5] = "access", "Votre dossier a été ouvert"
		default:
			r.outcome = field(proof.DisclosureOutcome)
			r.cells[5] = map[string]string{"released": "Transmis", "empty": "Demandé, rien trouvé", "denied": "Refusé par la règle", "failed": "Non abouti"}[r.outcome]
		}
		rows = append([]row{r}, rows...)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return strings.Compare(b.at, a.at) })
	return rows, v, nil
}

// rowsOf are the rows of an honest page.
func rowsOf(t testing.TB, s *site, bundle string) []row {
	t.Helper()
	rows, _, err := shown(s.policy, bundle)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func markup(full string, rows []row) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<div id="acces" %s>`, full)
	for i, r := range rows {
		attribute := func(name, value string) string {
			if value == "" {
				return ""
			}
			return " " + name + `="` + html.EscapeString(value) + `"`
		}
		fmt.Fprintf(&b, `<h3 id="d-%d"%s>%s</h3><table aria-labelledby="d-%d"><thead><tr><th>Heure</th><th>Qui a demandé</th><th>Quoi</th><th>Auprès de</th><th>Pourquoi</th><th>Résultat</th></tr></thead><tbody><tr%s%s%s%s%s %s>`, i, map[bool]string{true: " data-open"}[r.day == "Journée en cours"], html.EscapeString(r.day), i,
			attribute("data-index", r.index), attribute("data-agency", r.agency), attribute("data-service", r.service), attribute("data-outcome", r.outcome), attribute("data-at", r.at), r.hidden)
		for k, c := range r.cells {
			mark := ""
			if k == len(r.cells)-1 {
				mark = " <span data-mark>Vérifié, dit le serveur</span>"
			}
			c = html.EscapeString(c)
			if r.links[k] != "" {
				c = `<a href="` + html.EscapeString(r.links[k]) + `">` + c + "</a>"
			}
			fmt.Fprintf(&b, "<td>%s%s</td>", c, mark)
		}
		b.WriteString("</tr></tbody></table>")
	}
	return b.String() + "</div>"
}

// inEnglish puts the page of a published history into English.
var inEnglish = func() *strings.Replacer {
	pairs := []string{"Date inconnue", "Date unknown", "Inscription n°", "Entry no.", ">Vous", ">You", "Effacement de vos détails", "Erasure of your details", "Votre enregistrement", "Your record", "auditeur accrédité", "accredited auditor",
		"lundi", "Monday", "mardi", "Tuesday", "mercredi", "Wednesday", "jeudi", "Thursday", "novembre", "November"}
	for _, code := range []string{"released", "empty", "denied", "failed", "opened", "access", "erasure", "erased", "homonym", "retired", "lost", "damaged"} {
		pairs = append(pairs, verdict.Outcome(code, verdict.French), verdict.Outcome(code, verdict.English))
	}
	for i, head := range verdict.Columns(verdict.French) {
		pairs = append(pairs, ">"+head, ">"+verdict.Columns(verdict.English)[i])
	}
	return strings.NewReplacer(pairs...)
}()

// TestPage: what the page shows is compared with what is verified, line by line.
func TestPage(t *testing.T) {
	s, v, p := open(t)
	bundle := v.Good[0].Text
	rows := rowsOf(t, s, bundle)
	if len(rows) < 6 {
		t.Fatalf("%d rows", len(rows))
	}
	of := func(outcome string) int {
		for i, r := range rows {
			if r.outcome == outcome {
				return i
			}
		}
		t.Fatal("no " + outcome)
		return 0
	}
	say := func(r []row, i, cell int, words string) {
		r[i].cells = slices.Clone(r[i].cells)
		r[i].cells[cell] = words
	}
	with := func(change func(rows []row) []row) []row { return change(append([]row(nil), rows...)) }
	all := func(rows []row) []row { return rows }
	for _, c := range []struct {
		name   string
		full   string
		change func(rows []row) []row
		state  verdict.State
		says   string
	}{
		{"all of it", "", all, verdict.Proven, ""},
		{"some of it", "", func(r []row) []row { return r[1:3] }, verdict.Refuted, "la page cache un accès enregistré"},
		{"a request of the open epoch", "", func(r []row) []row {
			return append([]row{{index: "40000", day: "Journée en cours", agency: "mairie", outcome: "released", cells: make([]string, 6)}}, r...)
		}, verdict.Proven, ""},
		{"one of the open epoch under a date", "", func(r []row) []row {
			return append([]row{{index: "40001", day: r[0].day, agency: "mairie", outcome: "released", cells: make([]string, 6)}}, r...)
		}, verdict.Refuted, "d'une journée qui n'est pas close"},
		{"two entries in a line", "", func(r []row) []row {
			r[0].index += " " + r[1].index
			return append(r[:1], r[2:]...)
		}, verdict.Refuted, "la page montre un accès sans preuve"},
		{"an entry twice", "", func(r []row) []row { return append(r, r[0]) }, verdict.Refuted, "la page montre deux fois le même accès"},
		{"another order", "", func(r []row) []row { r[0], r[1] = r[1], r[0]; return r }, verdict.Refuted, "la page montre des accès dans un autre ordre, "},
		{"hidden by an attribute", "", func(r []row) []row { r[1].hidden = "hidden"; return r }, verdict.Refuted, "ne le montre pas"},
		{"hidden by a class", "", func(r []row) []row { r[1].hidden = `class="unseen"`; return r }, verdict.Refuted, "ne le montre pas"},
		{"a link to another entry", "", func(r []row) []row { r[1].links[2] = "/acces/1"; return r }, verdict.Refuted, "où mènent ses liens"},
		{"one that is hidden", "", func(r []row) []row { return append(r[:2:2], r[3:]...) }, verdict.Refuted, "la page cache un accès enregistré"},
		{"all are hidden", "", func([]row) []row { return nil }, verdict.Refuted, "la page cache un accès enregistré"},
		{"a marker that can't be", `data-marker="1"`, all, verdict.Refuted, "d'un moment que le registre n'a pas"},
		{"one that is invented", "", func(r []row) []row {
			return append(r, row{index: "1", agency: "mairie", outcome: "released", cells: make([]string, 6)})
		}, verdict.Refuted, "la page montre un accès qui n'est pas dans votre liste"},
		{"another agency", "", func(r []row) []row { r[of("released")].agency = "police"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another service", "", func(r []row) []row { r[of("released")].service = "autre@1"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another outcome", "", func(r []row) []row { r[of("released")].outcome = "denied"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"a delay that is not told", "", func(r []row) []row { r[of("opened")].outcome = "released"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another day", "", func(r []row) []row { r[of("released")].at = "2025-11-01T12:00:00Z"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another reader", "", func(r []row) []row { r[of("access")].agency = "personne"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"no service", "", func(r []row) []row { r[of("released")].service = ""; return r }, verdict.Refuted, "autrement qu'il a été enregistré (ses attributs)"},
		{"another agency in words", "", func(r []row) []row { say(r, of("released"), 1, "Police"); return r }, verdict.Refuted, "autrement qu'il a été enregistré (qui a demandé)"},
		{"another purpose in words", "", func(r []row) []row { say(r, of("released"), 4, "Pourquoi rien"); return r }, verdict.Refuted, "autrement qu'il a été enregistré (pourquoi)"},
		{"another outcome in words", "", func(r []row) []row { say(r, of("released"), 5, "Refusé par la règle"); return r }, verdict.Refuted, "autrement qu'il a été enregistré (résultat)"},
		{"another time in words", "", func(r []row) []row { say(r, of("released"), 0, "03:33"); return r }, verdict.Refuted, "autrement qu'il a été enregistré (heure)"},
		{"another day above", "", func(r []row) []row { r[of("released")].day = "lundi 1er janvier 2024"; return r }, verdict.Refuted, "autrement qu'il a été enregistré (le jour)"},
		{"a line without data", "", func(r []row) []row { r[0].index = ""; return r }, verdict.Refuted, "la page montre un accès sans preuve"},
		{"without an index", "", func(r []row) []row { r[0].index = "x"; return r }, verdict.Refuted, "la page montre un accès sans preuve"},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := with(c.change)
			s.set(verdict.French, bundle, markup(c.full, list))
			p.Goto(s.URL + ofDays)
			p.Wait(finished)
			if got := state(p); got != string(c.state) {
				t.Errorf("%s, want %s: %s", got, c.state, p.Text("#verdict"))
			}
			if !strings.Contains(p.Text("#verdict [role=status]"), c.says) {
				t.Errorf("it doesn't say %q: %s", c.says, p.Text("#verdict"))
			}
			if c.state == verdict.Refuted && strings.Contains(c.says, "autrement") && !strings.Contains(p.Text("#verdict [role=status]"), "novembre 2025 à 17\u00a0h\u00a000") {
				t.Error("no day is named: ", p.Text("#verdict [role=status]"))
			}
			marks := browsertest.Eval[[]string](p, `[...document.querySelectorAll("tbody tr")].map((r) => r.dataset.verified + " " + r.querySelector("[data-mark]").textContent)`)
			wrong := 0
			for i, m := range marks {
				want := "verified Vérifié"
				if list[i].index == "40000" {
					want = "open Provisoire"
				}
				if m != want {
					wrong++
				}
			}
			if want := c.state == verdict.Refuted && !strings.Contains(c.says, "cache") && !strings.Contains(c.says, "ordre") && !strings.Contains(c.says, "moment"); len(marks) != len(list) || (wrong == 1) != want || !want && wrong != 0 {
				t.Errorf("%d wrong: %q", wrong, marks)
			}
		})
	}
}

// TestPageOfPages: the address says which part of the history the page has to show, and what a script reads is what can be seen, at the width of a phone as on a desk.
// These histories are old, so that none is without the limit of one that ends too early.
func TestPageOfPages(t *testing.T) {
	s, v, p := open(t)
	rows := rowsOf(t, s, v.Good[0].Text)
	list := func(of ...row) string { return markup("", of) }
	var mairie []row
	agency := ""
	for _, r := range rows {
		if agency == "" && r.service != "" {
			agency = r.agency
		}
		if r.service != "" && r.agency == agency {
			mairie = append(mairie, r)
		}
	}
	if len(mairie) == 0 || len(mairie) == len(rows) {
		t.Fatalf("%d of %d are of the agency", len(mairie), len(rows))
	}
	put := func(in, old, with string) string {
		t.Helper()
		out := strings.Replace(in, old, with, 1)
		if out == in {
			t.Fatalf("no %s in %s", old, in)
		}
		return out
	}
	whole, first := list(rows...), `<tr data-index="`+rows[0].index+`"`
	day := ">" + rows[0].day + "</h3>"
	what := rows[0].cells[2] + "</a>"
	for _, c := range []struct {
		name, query, list string
		state             verdict.State
		says              string
	}{
		{"all", "", whole, verdict.Limited, "sont dans cette liste"},
		{"another page than the last", "?page=7", whole, verdict.Limited, "sont dans cette liste"},
		{"with a filter", "?agence=" + agency, list(mairie...), verdict.Limited, "ceux que vos filtres laissent passer"},
		{"by a search", "?q=" + strings.ToUpper(agency) + "&vue=dense", list(mairie...), verdict.Limited, "ceux que vos filtres laissent passer"},
		{"a hole under a filter", "?agence=" + agency, list(mairie[1:]...), verdict.Refuted, "la page cache un accès enregistré"},
		{"a part without a filter", "", list(mairie...), verdict.Refuted, "la page cache un accès enregistré"},
		{"a query of which nobody knows how the server reads it", "?q=%zz&agence=" + agency, list(mairie...), verdict.Limited, "Cette page en montre"},
		{"a file that ends before the page", "", put(whole, `id="acces"`, `id="acces" data-marker="99999999"`), verdict.Unverified, "s'arrête avant ce que la page montre"},
		{"a closed fold", "", put(whole, "<h3", "<details><h3") + "</details>", verdict.Refuted, "la page contient ce qu'une liste n'a pas"},
		{"a row in the head", "", put(whole, "<th>Qui a demandé</th>", "<th>Caisse</th>"), verdict.Refuted, "les colonnes portent d'autres noms"},
		{"a second row in the head", "", put(whole, "</thead>", "<tr><td>Rien</td></tr></thead>"), verdict.Refuted, "la page contient ce qu'une liste n'a pas"},
		{"a foot", "", put(whole, "</table>", "<tfoot><tr><td>Rien</td></tr></tfoot></table>"), verdict.Refuted, "la page contient ce qu'une liste n'a pas"},
		{"a field in a cell", "", put(whole, what, `<span hidden>`+rows[0].cells[2]+`</span><input value="Rien" aria-label="x"></a>`), verdict.Refuted, ""},
		{"true words that can't be seen", "", put(whole, what, `<span class="unseen">`+rows[0].cells[2]+`</span></a>`), verdict.Refuted, "ne le montre pas"},
		{"true words that can't be seen in what calls itself a label", "", put(put(whole, what, `<span class="unseen">`+rows[0].cells[2]+`</span></a>`), `id="acces"`, `id="acces" class="label"`), verdict.Refuted, "ne le montre pas"},
		{"true words that can't be seen within a label", "", `<section class="label">` + put(whole, what, `<span class="unseen">`+rows[0].cells[2]+`</span></a>`) + "</section>", verdict.Refuted, "ne le montre pas"},
		{"true words that can't be seen in a cell that calls itself a label", "", put(put(whole, what, `<span class="unseen">`+rows[0].cells[2]+`</span></a>`), "<td><a", `<td class="label"><a`), verdict.Refuted, "ne le montre pas"},
		{"a table above the list", "", `<table><tr><td>Rien</td></tr></table>` + whole, verdict.Refuted, "la page contient ce qu'une liste n'a pas"},
		{"rows below the list", "", whole + `<div role="table"><div role="row">Rien</div></div>`, verdict.Refuted, "la page contient ce qu'une liste n'a pas"},
		{"words from right to left", "", put(whole, "<td><a", `<td dir="rtl"><a`), verdict.Refuted, "ce qu'un accès n'a pas"},
		{"a cell over two lines", "", put(whole, "<td><a", `<td rowspan="2"><a`), verdict.Refuted, "ce qu'un accès n'a pas"},
		{"a cell under other heads", "", put(whole, "<td><a", `<td headers="d-0"><a`), verdict.Refuted, "ce qu'un accès n'a pas"},
		{"an icon over the cell before", "", put(whole, what, rows[0].cells[2]+`</a><svg aria-hidden="true" overflow="visible"><use href="#i" x="-300"/></svg>`), verdict.Refuted, "ce qu'un accès n'a pas"},
		{"another person's", "", put(whole, `id="acces"`, `id="acces" data-of="00"`), verdict.Unverified, "ne sont pas des mêmes identifiants"},
		{"words in the shade", "", put(whole, what, `<span><template shadowrootmode="closed">Rien</template>`+rows[0].cells[2]+`</span></a>`), verdict.Refuted, "ne le montre pas"},
		{"a day that can't be seen", "", put(whole, day, "><span hidden>"+rows[0].day+"</span></h3>"), verdict.Refuted, "(le jour)"},
		{"words between the day and the table", "", put(whole, day, day+"<p>mardi 3 mars 2020</p>"), verdict.Refuted, "la page contient ce qu'une liste n'a pas"},
		{"a row that isn't read aloud", "", put(whole, first, `<tr aria-hidden="true" data-index="`+rows[0].index+`"`), verdict.Refuted, "la ligne d'un accès contient ce qu'un accès n'a pas"},
		{"a row that is read aloud as another", "", put(whole, first, `<tr aria-label="Rien" data-index="`+rows[0].index+`"`), verdict.Refuted, "la ligne d'un accès contient ce qu'un accès n'a pas"},
		{"a row that is an image", "", put(whole, first, `<tr role="img" data-index="`+rows[0].index+`"`), verdict.Refuted, "la ligne d'un accès contient ce qu'un accès n'a pas"},
		{"words that aren't read aloud", "", put(whole, what, `<span aria-hidden="true">`+rows[0].cells[2]+`</span></a>`), verdict.Refuted, "la ligne d'un accès contient ce qu'un accès n'a pas"},
		{"words that are read aloud as others", "", put(whole, what, `<span aria-label="Rien">`+rows[0].cells[2]+`</span></a>`), verdict.Refuted, "la ligne d'un accès contient ce qu'un accès n'a pas"},
		{"a cell that is described as another", "", put(whole, "<td>", `<td title="Rien">`), verdict.Refuted, "la ligne d'un accès contient ce qu'un accès n'a pas"},
		{"a list that isn't read aloud", "", put(whole, `id="acces"`, `id="acces" aria-hidden="true"`), verdict.Refuted, "la ligne d'un accès contient ce qu'un accès n'a pas"},
		{"a list that nothing can reach", "", "<section inert>" + whole + "</section>", verdict.Refuted, "la ligne d'un accès contient ce qu'un accès n'a pas"},
		{"a table that is read aloud as another", "", put(whole, "<table", `<table aria-label="Rien"`), verdict.Refuted, "la page contient ce qu'une liste n'a pas"},
		{"a table under the heading of another", "", put(whole, `aria-labelledby="d-0"`, `aria-labelledby="d-1"`), verdict.Refuted, "la page contient ce qu'une liste n'a pas"},
		{"a head that is read aloud as another", "", put(whole, "<th>", `<th aria-label="Rien">`), verdict.Refuted, "la page contient ce qu'une liste n'a pas"},
		{"a day that is read aloud as another", "", put(whole, `<h3 id="d-0"`, `<h3 id="d-0" aria-label="hier"`), verdict.Refuted, "(le jour)"},
		{"an icon that isn't read aloud", "", put(whole, what, rows[0].cells[2]+`</a><svg class="icon" aria-hidden="true"></svg>`), verdict.Limited, "sont dans cette liste"},
		{"an icon that is", "", put(whole, what, rows[0].cells[2]+`</a><svg class="icon" aria-label="Rien"></svg>`), verdict.Refuted, "la ligne d'un accès contient ce qu'un accès n'a pas"},
		{"a row that is hidden where it can be seen", "", put(whole, first, `<tr class="hidden" hidden data-index="`+rows[0].index+`"`), verdict.Refuted, "ne le montre pas"},
	} {
		for _, width := range []int64{390, 1280} {
			s.set(verdict.French, v.Good[0].Text, c.list)
			p.Do(chromedp.EmulateViewport(width, 844))
			p.Goto(s.URL + "/historique" + c.query)
			p.Wait(`document.querySelector("#verdict button") || ` + finished)
			if got := p.Text("#verdict [role=status]"); state(p) != string(c.state) || !strings.Contains(got, c.says) {
				t.Errorf("%s, at %d: %s: %s", c.name, width, state(p), got)
			}
		}
	}
}

// TestMemory: a browser remembers the keys and the largest tree, and nothing else; a change is said, and one that may keep nothing checks as before.
func TestMemory(t *testing.T) {
	s, v, p := open(t)
	served := v.Good[0].Text
	go1 := func(script string) string {
		t.Helper()
		s.set(verdict.French, served, "")
		p.Goto(s.URL + ofDays)
		p.Wait(finished)
		if script != "" {
			browsertest.Eval[bool](p, "("+script+", true)")
			p.Goto(s.URL + ofDays)
			p.Wait(finished)
		}
		return state(p) + " " + browsertest.Eval[string](p, `[...document.querySelectorAll("details")].forEach((d) => d.open = true), document.querySelector("#verdict").innerText`)
	}
	const change = `localStorage.setItem("regard:log", JSON.stringify({...JSON.parse(localStorage.getItem("regard:log")), `
	for _, c := range []struct{ name, script, says string }{
		{"again", "0", "Ce sont les mêmes clés qu'à la dernière vérification de ce navigateur"},
		{"other keys", change + `policy: "00"}))`, "Les clés avec lesquelles ce navigateur vérifie ont changé le"},
		{"a smaller tree", change + `checkpoint: ` + quoted(checkpointOf(t, v.Good[0].Text)) + `}))`, "est plus petit que celui que ce navigateur a vu"},
		{"nothing any more", `localStorage.clear()`, "proven"},
		{"another tree", change + `checkpoint: ` + quoted(checkpointOf(t, v.Good[5].Text)) + `}))`, "refuted"},
		{"another tree that nobody signed", change + `checkpoint: ` + quoted(strings.Replace(checkpointOf(t, v.Good[5].Text), "Lq4v", "Aq4v", 1)) + `}))`, "proven"},
		{"nonsense", `localStorage.setItem("regard:log", "{")`, "proven"},
		{"of another form", `localStorage.setItem("regard:log", '{"policy":1,"size":"x"}')`, "proven"},
		{"a list", `localStorage.setItem("regard:log", "[]")`, "proven"},
	} {
		if served = v.Good[0].Text; c.name == "a smaller tree" {
			served = v.Good[4].Text
		}
		before := s.fetched.Load()
		if got := go1(c.script); !strings.Contains(got, c.says) {
			t.Errorf("%s: no %q in %s", c.name, c.says, got)
		}
		// A smaller tree is fetched again before it is said to be one.
		if got, want := s.fetched.Load()-before, map[bool]int64{false: 2, true: 8}[c.name == "a smaller tree"]; got != want {
			t.Errorf("%s: the file was fetched %d times, want %d", c.name, got, want)
		}
		browsertest.Eval[bool](p, "(localStorage.clear(), true)")
	}
	served = v.Good[0].Text
	go1("")
	if got := browsertest.Eval[string](p, `Object.keys(localStorage).join() + " " + Object.keys(JSON.parse(localStorage.getItem("regard:log"))).sort().join()`); got != "regard:log at,changed,checkpoint,policy" {
		t.Errorf("it remembers %s", got)
	}
	// One that keeps nothing, and a page that says that the state of the log may have any age.
	again := func(script string) {
		browsertest.Eval[bool](p, "("+script+`, document.querySelector("#verdict").dataset.state = "", import(document.querySelector("script[type=module]").src + "?" + Math.random()), true)`)
	}
	again(`Object.defineProperty(globalThis, "localStorage", { get() { throw new DOMException("no", "SecurityError"); } })`)
	p.Wait(`document.querySelector("#verdict").dataset.state === "proven"`)
	again(`document.querySelector("#verdict").dataset.maxAge = "0"`)
	p.Wait(`document.querySelector("#verdict").dataset.state === "unverified"`)
	again(`Object.assign(document.querySelector("#verdict").dataset, { maxAge: "172800", bundle: "https://[" })`)
	p.Wait(`document.querySelector("#verdict").dataset.state === "unverified"`)
}

// TestPageEvidence: what the page showed is in the evidence, and regard-audit says the same of it.
func TestPageEvidence(t *testing.T) {
	s, v, p := open(t)
	rows := rowsOf(t, s, v.Good[0].Text)
	s.set(verdict.French, v.Good[0].Text, markup("", rows[1:]))
	p.Goto(s.URL + ofDays)
	p.Wait(finished)
	said := p.Text("#verdict [role=status]")
	r, code := audited(t, v.Common.Policy, save(p), verdict.French)
	if code != audit.Refused || r.Sentence != said || !strings.Contains(said, "la page cache un accès enregistré") || fmt.Sprint(*r.Refuted.Entry) != rows[0].index {
		t.Errorf("exit code %d, %q, %q", code, r.Sentence, said)
	}
	// In another language, it is the same.
	if other, code := audited(t, v.Common.Policy, save(p), verdict.English); code != audit.Refused || !strings.Contains(other.Sentence, "the page hides a recorded request") {
		t.Errorf("exit code %d, %q", code, other.Sentence)
	}
	if _, code := audited(t, v.Common.Policy, `{"schema":"regard/evidence@v1","page":0}`, verdict.English); code != audit.Input {
		t.Errorf("exit code %d of what is no evidence", code)
	}
}

// TestSplitView: who is shown another tree of a size that they saw before has both in the evidence, and regard-audit finds that the log signed both.
func TestSplitView(t *testing.T) {
	s, v, p := open(t)
	s.set(verdict.French, v.Good[5].Text, "")
	s.visit(p, ofDays)
	p.Wait(finished)
	if got := state(p); got != "proven" {
		t.Fatal(got)
	}
	for name, rows := range map[string]string{"an honest page": "", "one that hides something as well": markup("", rowsOf(t, s, v.Good[0].Text)[1:])} {
		s.set(verdict.French, v.Good[0].Text, rows)
		p.Goto(s.URL + ofDays)
		p.Wait(finished)
		said := p.Text("#verdict [role=status]")
		text := save(p)
		r, code := audited(t, v.Common.Policy, text, verdict.French)
		if code != audit.Refused || r.Sentence != said || !strings.Contains(said, "le registre a montré deux histoires différentes") || !strings.Contains(r.Refuted.Detail, "two trees of 29 entries are signed") {
			t.Errorf("%s: exit code %d, %q, %q", name, code, r.Sentence, said)
		}
		var e struct{ Before, History string }
		if err := json.Unmarshal([]byte(text), &e); err != nil || e.Before != checkpointOf(t, v.Good[5].Text) || e.History != v.Good[0].Text {
			t.Errorf("%s: %v %+v", name, err, e)
		}
	}
}

func checkpointOf(t *testing.T, history string) string {
	t.Helper()
	h, err := proof.ParseHistory([]byte(history))
	if err != nil {
		t.Fatal(err)
	}
	return string(h.Checkpoint)
}

// quoted is a text as a script has it.
func quoted(s string) string { return string(must(json.Marshal(s))) }

// TestNoList: what is to be compared follows from the address. Where the page has it not, says nothing of it, or has something else, nothing is said to be proven, and what the server says by itself is gone.
func TestNoList(t *testing.T) {
	s, v, p := open(t)
	rows := rowsOf(t, s, v.Good[0].Text)
	honest := markup("", rows)
	record := func(index string) string {
		return `<article id="acces" data-record="` + index + `"><h1 data-fact="title">x</h1><span data-mark>Vérifié, dit le serveur</span></article>` + honest
	}
	for _, c := range []struct{ name, list, rows, path string }{
		{"it isn't there", "acces", "<p>Rien</p>", ofDays},
		{"it isn't named", "", honest, ofDays},
		{"it isn't named, nor true", "", markup("", rows[1:]), "/historique"},
		{"another name", "autre", honest, ofDays},
		{"one access in place of the list", "acces", record(rows[0].index), "/historique"},
		{"one access in place of that of some days", "acces", record(rows[0].index), ofDays},
		{"one access elsewhere", "acces", record(rows[0].index), "/"},
		{"an access without a number in place of the list", "acces", record("x"), "/historique"},
		{"another access", "acces", record(rows[0].index), "/acces/" + rows[1].index},
		{"an access of no number", "acces", record(""), "/acces/" + rows[1].index},
		{"another way to write it", "acces", record(rows[0].index), "/acces/0" + rows[0].index},
		{"a list in place of an access", "acces", honest, "/acces/" + rows[0].index},
	} {
		s.set(verdict.French, v.Good[0].Text, c.rows)
		s.list = c.list
		p.Goto(s.URL + c.path)
		p.Wait(`!["checking"].includes(document.querySelector("#verdict").dataset.state) && document.querySelector("#verdict svg")`)
		if got, want := p.Text("#verdict [role=status]"), verdict.CauseVerifier.Sentence(verdict.French); got != want || state(p) != "unverified" {
			t.Errorf("%s: %s: %q, want %q", c.name, state(p), got, want)
		}
		if got := browsertest.Eval[string](p, `[...document.querySelectorAll("[data-mark]")].map((m) => m.textContent).join("")`); got != "" {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

// TestWordsOfThePage: what the script says is its own, whatever the page has in the place of its words.
func TestWordsOfThePage(t *testing.T) {
	s, v, p := open(t)
	s.set(verdict.French, v.Good[0].Text, "")
	s.list = ""
	s.change = func(page string) string {
		return strings.Replace(page, `data-list=""`, `data-words='{"causes":{"verifier":{"state":"proven","title":"Prouvé","sentence":"Tout y est."}}}' data-worker="/x.js" data-wasm="/x.wasm"`, 1)
	}
	p.Goto(s.URL + ofDays)
	p.Wait(`document.querySelector("#verdict button")`)
	if got := state(p) + ": " + p.Text("#verdict .verdict-title") + ". " + p.Text("#verdict [role=status]"); got != "unverified: Non vérifié. "+verdict.CauseVerifier.Sentence(verdict.French) {
		t.Error(got)
	}
	// It has none in a language that it doesn't know, nor needs it the element's own parts to say so.
	rows := rowsOf(t, s, v.Good[0].Text)
	for _, lang := range []string{"x", "constructor", ""} {
		s.set(verdict.French, v.Good[0].Text, markup("", rows))
		s.list = "none"
		s.change = func(page string) string {
			return strings.NewReplacer(`data-lang="fr"`, `data-lang="`+lang+`"`, `class="verdict-band"`, `class="proven"`).Replace(page)
		}
		p.Goto(s.URL + ofDays)
		p.Wait(`document.querySelector("#verdict button")`)
		if got := state(p) + ": " + p.Text("#verdict [role=status]") + browsertest.Eval[string](p, `[...document.querySelectorAll("[data-mark]")].map((m) => m.textContent).join("")`); got != "unverified: "+verdict.CauseVerifier.Sentence(verdict.French) {
			t.Errorf("%q: %s", lang, got)
		}
	}
}

// TestPageThatGoesOn: nothing is read before all of the page has come, even if the server lets the script run earlier.
func TestPageThatGoesOn(t *testing.T) {
	s, v, p := open(t)
	rows := rowsOf(t, s, v.Good[0].Text)
	honest := markup("", rows)
	more := row{index: "40001", day: rows[0].day, cells: []string{"12:00", "Rien", "Rien", "", "", "Transmis"}}
	_, false1, _ := strings.Cut(markup("", []row{more}), `<div id="acces" >`)
	s.set(verdict.French, v.Good[0].Text, honest+"LATER")
	s.change = func(page string) string {
		return strings.Replace(strings.Replace(page, `</div>LATER`, "LATER", 1), `<script type="module"`, `<script type="module" async`, 1)
	}
	s.later = strings.ReplaceAll(strings.Replace(false1, "d-0", "d-x", 2), "<tr", `<tr data-verified="verified"`)
	fetched := s.fetched.Load()
	s.until = func() bool { return s.fetched.Load() > fetched }
	p.Goto(s.URL + ofDays)
	p.Wait(finished)
	if got := state(p); got != "refuted" {
		t.Errorf("%s: %s", got, p.Text("#verdict [role=status]"))
	}
}

// TestOnPaper: paper has the verdict, whose history it is and what isn't proven, and no lines or buttons that lead to nothing; what was opened is there, too.
func TestOnPaper(t *testing.T) {
	s, v, p := open(t)
	p.Do(chromedp.EmulateViewport(390, 844)) // where these are folded
	media := func(name string) {
		if _, err := chromedp.Call(p.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: name}); err != nil {
			t.Fatal(err)
		}
	}
	for _, lang := range []verdict.Lang{verdict.French, verdict.English} {
		s.set(lang, v.Good[0].Text, "")
		s.visit(p, ofDays)
		p.Wait(finished)
		browsertest.Eval[bool](p, `(document.querySelector('[data-check="signature"]').parentElement.open = true, document.querySelector('[data-check="chain"]').open = true)`)
		media("print")
		shown := `(q) => [...document.querySelectorAll("#verdict " + q)].filter((e) => e.checkVisibility({ contentVisibilityAuto: true }) && e.getBoundingClientRect().height > 4).length`
		for q, want := range map[string]int{".verdict-band": 1, ".verdict-whose": 1, ".verdict-limits": 1, "button": 0, "[data-check=chain] ul, [data-check=chain] dl": 1, "[data-check=log]": 0, ".verdict-independent": 0} {
			p.Wait(fmt.Sprintf("(%s)(%q) === %d", shown, q, want))
		}
		media("")
	}
}

// TestOnAPhone: a verdict leaves room for the list on the first screen and a half of a phone, and what it folds there is open where there is room.
func TestOnAPhone(t *testing.T) {
	s, v, p := open(t)
	for _, lang := range []verdict.Lang{verdict.French, verdict.English} {
		s.set(lang, v.Good[0].Text, "")
		for width, opened := range map[int64]bool{390: false, 1280: true} {
			p.Do(chromedp.EmulateViewport(width, 844))
			s.visit(p, ofDays)
			p.Wait(finished)
			if got := state(p); got != "proven" {
				t.Fatal(got)
			}
			if got := browsertest.Eval[int](p, `document.querySelector("#verdict").offsetHeight`); !opened && got > 760 {
				t.Errorf("%s: the verdict is %d pixels high", lang, got)
			}
			// Limits that sound histories have, too, are listed and don't take the room of what matters.
			for fold, opened := range map[string]bool{".verdict-limits": false, ".verdict-whose": opened} {
				if got := browsertest.Eval[bool](p, `document.querySelector("`+fold+`").closest("details").open`); got != opened {
					t.Errorf("%s at %d: %s is open: %v", lang, width, fold, got)
				}
			}
			if got := browsertest.Eval[string](p, `[...document.querySelectorAll(".verdict-limits li")].map((l) => l.dataset.limit).join(" ")`); strings.Trim(strings.ReplaceAll(got, "standing", ""), " ") != "" || got == "" {
				t.Errorf("%s at %d: limits %q", lang, width, got)
			}
			if got := p.Text("#verdict"); !strings.Contains(got, "LEFEVRE") && !strings.Contains(got, "lefevre") {
				t.Errorf("%s at %d: whose history it is isn't said: %s", lang, width, got)
			}
			p.Axe()
			p.Goto(s.URL + ofDays)
			p.Wait(finished)
			if browsertest.Eval[bool](p, `document.querySelector(".verdict-whose").closest("details").open`) {
				t.Errorf("%s at %d: whose it is stands open at each visit", lang, width)
			}
		}
	}
}

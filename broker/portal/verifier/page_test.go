package verifier_test

import (
	"fmt"
	"html"
	"slices"
	"strings"
	"testing"
	"time"

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
}

// names are those that the site has; other tokens stand for themselves.
const names = "regard/names@v1\nagency mairie-de-lyon Mairie de Lyon & environs\nprovider cnaf Caisse nationale\n"

var paris = must(time.LoadLocation("Europe/Paris"))

// shown reads from a history what an honest page shows of it in French, newest first.
func shown(t *testing.T, policy, bundle string) (rows []row, v proof.HistoryVerdict) {
	t.Helper()
	p, err := proof.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	h, err := proof.ParseHistory([]byte(bundle))
	if err != nil {
		t.Fatal(err)
	}
	if v, err = h.Verify(p, proof.HistoryOptions{AllowProvisional: true}); err != nil {
		t.Fatal(err)
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
		r := row{index: e.Index.String(), day: "Date inconnue", cells: []string{"–", "–", "Inscription n°\u00a0" + e.Index.String(), "", "", ""}}
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
				r.cells[3] = "À qui " + or(map[string]string{"cnaf": "Caisse nationale"}[x], x)
			}
			if x := field(proof.DisclosurePurpose); x != "" {
				r.cells[4] = "Pourquoi " + x
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
	return rows, v
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
		fmt.Fprintf(&b, `<h3 id="d-%d">%s</h3><table aria-labelledby="d-%d"><tbody><tr%s%s%s%s%s>`, i, html.EscapeString(r.day), i,
			attribute("data-index", r.index), attribute("data-agency", r.agency), attribute("data-service", r.service), attribute("data-outcome", r.outcome), attribute("data-at", r.at))
		for k, c := range r.cells {
			mark := ""
			if k == len(r.cells)-1 {
				mark = " <span data-mark>Vérifié, dit le serveur</span>"
			}
			fmt.Fprintf(&b, "<td>%s%s</td>", html.EscapeString(c), mark)
		}
		b.WriteString("</tr></tbody></table>")
	}
	return b.String() + "</div>"
}

// TestPage: what the page shows is compared with what is verified, line by line.
func TestPage(t *testing.T) {
	s, v, p := open(t)
	bundle := v.Good[0].Text
	rows, _ := shown(t, v.Common.Policy, bundle)
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
		{"all of it", "data-full", all, verdict.Proven, ""},
		{"some of it", "", func(r []row) []row { return r[1:3] }, verdict.Limited, "Cette page en montre 2 sur "},
		{"a page of it", `data-full data-from="` + rows[2].index + `" data-to="` + rows[1].index + `"`, func(r []row) []row { return r[1:3] }, verdict.Proven, "Cette page en montre 2 sur "},
		{"a request of the open epoch", "data-full", func(r []row) []row {
			return append([]row{{index: "40000", agency: "mairie", outcome: "released", cells: make([]string, 6)}}, r...)
		}, verdict.Proven, ""},
		{"two entries in a line", "data-full", func(r []row) []row {
			r[0].index += " " + r[1].index
			return append(r[:1], r[2:]...)
		}, verdict.Refuted, "la page montre un accès autrement"},
		{"one that is hidden", "data-full", func(r []row) []row { return append(r[:2:2], r[3:]...) }, verdict.Refuted, "la page cache un accès enregistré"},
		{"all are hidden", "data-full", func([]row) []row { return nil }, verdict.Refuted, "la page cache un accès enregistré"},
		{"a range that can't be read", `data-full data-from="x" data-to="-1"`, func(r []row) []row { return r[1:] }, verdict.Refuted, "la page cache un accès enregistré"},
		{"one that is invented", "data-full", func(r []row) []row {
			return append(r, row{index: "1", agency: "mairie", outcome: "released", cells: make([]string, 6)})
		}, verdict.Refuted, "la page montre un accès qui n'est pas dans votre liste"},
		{"another agency", "data-full", func(r []row) []row { r[of("released")].agency = "police"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another service", "", func(r []row) []row { r[of("released")].service = "autre@1"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another outcome", "data-full", func(r []row) []row { r[of("released")].outcome = "denied"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"a delay that is not told", "data-full", func(r []row) []row { r[of("opened")].outcome = "released"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another day", "data-full", func(r []row) []row { r[of("released")].at = "2025-11-01T12:00:00Z"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another reader", "data-full", func(r []row) []row { r[of("access")].agency = "personne"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"no service", "", func(r []row) []row { r[of("released")].service = ""; return r }, verdict.Refuted, "autrement qu'il a été enregistré (ses attributs)"},
		{"another agency in words", "", func(r []row) []row { say(r, of("released"), 1, "Police"); return r }, verdict.Refuted, "autrement qu'il a été enregistré (qui a demandé)"},
		{"another purpose in words", "", func(r []row) []row { say(r, of("released"), 4, "Pourquoi rien"); return r }, verdict.Refuted, "autrement qu'il a été enregistré (pourquoi)"},
		{"another outcome in words", "", func(r []row) []row { say(r, of("released"), 5, "Refusé par la règle"); return r }, verdict.Refuted, "autrement qu'il a été enregistré (issue)"},
		{"another time in words", "", func(r []row) []row { say(r, of("released"), 0, "03:33"); return r }, verdict.Refuted, "autrement qu'il a été enregistré (heure)"},
		{"another day above", "", func(r []row) []row { r[of("released")].day = "lundi 1er janvier 2024"; return r }, verdict.Refuted, "autrement qu'il a été enregistré (le jour)"},
		{"a line without data", "", func(r []row) []row { r[0].index = ""; return r }, verdict.Refuted, "la page montre un accès sans preuve"},
		{"without an index", "", func(r []row) []row { r[0].index = "x"; return r }, verdict.Refuted, "la page montre un accès sans preuve"},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := with(c.change)
			s.set(verdict.French, bundle, markup(c.full, list))
			p.Goto(s.URL)
			p.Wait(finished)
			if got := state(p); got != string(c.state) {
				t.Errorf("%s, want %s: %s", got, c.state, p.Text("#verdict"))
			}
			if !strings.Contains(p.Text("#verdict [role=status]"), c.says) {
				t.Errorf("it doesn't say %q: %s", c.says, p.Text("#verdict"))
			}
			if c.state == verdict.Refuted && strings.Contains(c.says, "autrement") && !strings.Contains(p.Text("#verdict [role=status]"), "novembre 2025 à 17 h 00") {
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
			if want := c.state == verdict.Refuted && !strings.Contains(c.says, "cache"); len(marks) != len(list) || (wrong == 1) != want || !want && wrong != 0 {
				t.Errorf("%d wrong: %q", wrong, marks)
			}
		})
	}
}

// TestPageEvidence: what the page showed is in the evidence, and regard-audit says the same of it.
func TestPageEvidence(t *testing.T) {
	s, v, p := open(t)
	rows, _ := shown(t, v.Common.Policy, v.Good[0].Text)
	s.set(verdict.French, v.Good[0].Text, markup("data-full", rows[1:]))
	p.Goto(s.URL)
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

// TestNoList: where the list is missing that should be compared, nothing is said to be proven.
func TestNoList(t *testing.T) {
	s, v, p := open(t)
	s.set(verdict.French, v.Good[0].Text, "<p>Rien</p>")
	p.Goto(s.URL)
	p.Wait(`document.querySelector("#verdict button")`)
	if got, want := p.Text("#verdict [role=status]"), verdict.CauseVerifier.Sentence(verdict.French); got != want || state(p) != "unverified" {
		t.Errorf("%s: %q, want %q", state(p), got, want)
	}
}

// TestOnAPhone: a verdict leaves room for the list on the first screen and a half of a phone, and what it folds there is open where there is room.
func TestOnAPhone(t *testing.T) {
	s, v, p := open(t)
	for _, lang := range []verdict.Lang{verdict.French, verdict.English} {
		s.set(lang, v.Good[0].Text, "")
		for width, opened := range map[int64]bool{390: false, 1280: true} {
			p.Do(chromedp.EmulateViewport(width, 844))
			p.Goto(s.URL)
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
		}
	}
}

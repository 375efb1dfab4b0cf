package verifier_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
}

// shown reads from a history what an honest page shows of it, newest first.
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
	for _, e := range v.Entries {
		field := func(f proof.Field) string {
			b, _ := e.Opening.Value(f)
			return string(b)
		}
		r := row{index: e.Index.String()}
		for schema, f := range map[proof.Schema]proof.Field{proof.SchemaDisclosure: proof.DisclosureAskedAt, proof.SchemaAccess: proof.AccessAt, proof.SchemaErasure: proof.ErasureErasedAt} {
			if at, ok := e.Opening.TimeOf(f); ok && e.Opening.Schema() == schema {
				r.at = at.Time().UTC().Format(time.RFC3339)
			}
		}
		switch e.Kind {
		case proof.KindDisclosure:
			r.agency, r.service, r.outcome = field(proof.DisclosureAgency), field(proof.DisclosureService), field(proof.DisclosureOutcome)
		case proof.KindOpened:
			r.agency, r.service, r.outcome = field(proof.DisclosureAgency), field(proof.DisclosureService), "opened"
		case proof.KindAccess:
			r.agency, r.outcome = field(proof.AccessReader), "access"
		case proof.KindErasure:
			r.outcome = "erasure"
		}
		rows = append([]row{r}, rows...)
	}
	return rows, v
}

func markup(full string, rows []row) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<ul id="acces" %s>`, full)
	for _, r := range rows {
		fmt.Fprintf(&b, `<li data-index="%s" data-agency="%s" data-service="%s" data-outcome="%s" data-at="%s">%s %s <span data-mark></span></li>`, r.index, r.agency, r.service, r.outcome, r.at, r.agency, r.outcome)
	}
	return b.String() + "</ul>"
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
	with := func(change func(rows []row) []row) []row { return change(append([]row(nil), rows...)) }
	all := func(rows []row) []row { return rows }
	for _, c := range []struct {
		name   string
		full   string
		change func(rows []row) []row
		state  verdict.State
		says   string
	}{
		{"all of it", "data-full", all, verdict.Limited, ""},
		{"some of it", "", func(r []row) []row { return r[1:3] }, verdict.Limited, "Cette page en montre 2 sur "},
		{"a page of it", `data-full data-from="` + rows[2].index + `" data-to="` + rows[1].index + `"`, func(r []row) []row { return r[1:3] }, verdict.Limited, "Cette page en montre 2 sur "},
		{"a service without its version", "data-full", func(r []row) []row {
			r[of("released")].service, _, _ = strings.Cut(r[of("released")].service, "@")
			return r
		}, verdict.Limited, ""},
		{"a request of the open epoch", "data-full", func(r []row) []row { return append([]row{{"40000", "mairie", "", "released", ""}}, r...) }, verdict.Limited, ""},
		{"two entries in a line", "data-full", func(r []row) []row {
			r[0] = row{index: r[0].index + " " + r[1].index}
			return append(r[:1], r[2:]...)
		}, verdict.Limited, ""},
		{"one that is hidden", "data-full", func(r []row) []row { return append(r[:2:2], r[3:]...) }, verdict.Refuted, "la page cache un accès enregistré"},
		{"all are hidden", "data-full", func([]row) []row { return nil }, verdict.Refuted, "la page cache un accès enregistré"},
		{"a range that can't be read", `data-full data-from="x" data-to="-1"`, func(r []row) []row { return r[1:] }, verdict.Refuted, "la page cache un accès enregistré"},
		{"one that is invented", "data-full", func(r []row) []row { return append(r, row{"1", "mairie", "", "released", ""}) }, verdict.Refuted, "la page montre un accès qui n'est pas dans votre liste"},
		{"another agency", "data-full", func(r []row) []row { r[of("released")].agency = "police"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another service", "", func(r []row) []row { r[of("released")].service = "autre@1"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another outcome", "data-full", func(r []row) []row { r[of("released")].outcome = "denied"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"a delay that is not told", "data-full", func(r []row) []row { r[of("opened")].outcome = "released"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another day", "data-full", func(r []row) []row { r[of("released")].at = "2025-11-01T12:00:00Z"; return r }, verdict.Refuted, "la page montre un accès autrement"},
		{"another reader", "data-full", func(r []row) []row { r[of("access")].agency = "personne"; return r }, verdict.Refuted, "la page montre un accès autrement"},
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
			marks := browsertest.Eval[[]string](p, `[...document.querySelectorAll("[data-index]")].map((r) => r.dataset.verified + " " + r.querySelector("[data-mark]").textContent)`)
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
	s.set(verdict.English, v.Good[0].Text, markup("data-full", rows[1:]))
	p.Goto(s.URL)
	p.Wait(finished)
	said := p.Text("#verdict [role=status]")
	r, code := audited(t, v.Common.Policy, save(p), verdict.English)
	if code != audit.Refused || r.Sentence != said || !strings.Contains(said, "the page hides a recorded request") || fmt.Sprint(*r.Refuted.Entry) != rows[0].index {
		t.Errorf("exit code %d, %q, %q", code, r.Sentence, said)
	}
	if _, code := audited(t, v.Common.Policy, `{"schema":"regard/evidence@v1","page":0}`, verdict.English); code != audit.Input {
		t.Errorf("exit code %d of what is no evidence", code)
	}
}

// TestProofDrawing: the drawing of an entry's proof lights up when its entry is verified.
func TestProofDrawing(t *testing.T) {
	s, v, p := open(t)
	rows, _ := shown(t, v.Common.Policy, v.Good[0].Text)
	s.set(verdict.French, v.Good[0].Text, markup("data-full", rows)+`<svg data-proof="`+rows[0].index+`" role="img" aria-label="preuve"></svg><svg data-proof="999999" role="img" aria-label="autre"></svg>`)
	p.Goto(s.URL)
	p.Wait(finished)
	if got := browsertest.Eval[string](p, `[...document.querySelectorAll("[data-proof]")].map((e) => e.dataset.lit ?? "dark").join(" ")`); got != "verified dark" {
		t.Error(got)
	}
	p.Axe()
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

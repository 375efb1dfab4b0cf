package verdict

import (
	"fmt"
	"slices"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// Page is what a page shows of a history, as its markup says.
type Page struct {
	Rows []Row `json:"rows"`
	// Full: the page says that it shows all entries with indexes from From to To, both included. Otherwise it shows some of them.
	Full bool        `json:"full"`
	From proof.Index `json:"from"`
	To   proof.Index `json:"to"`
}

// Row is what a page shows of a request; what is empty isn't shown. docs/verifier.md says what stands in it.
type Row struct {
	Index   []proof.Index `json:"index"` // of its entries: several, if a request is filed under several identifiers
	Agency  string        `json:"agency"`
	Service string        `json:"service"`
	Outcome string        `json:"outcome"`
	At      string        `json:"at,omitempty"` // when it was asked, opened or erased: RFC 3339, UTC, to the second
}

// RowMark is what is said beside a row.
type RowMark struct {
	State RowState `json:"state"`
	Text  string   `json:"text"`
}

// RowState says how a row stands.
type RowState string

// The states of rows.
const (
	RowVerified RowState = "verified"
	RowOpen     RowState = "open"    // of the open epoch: nothing is proven yet
	RowOutside  RowState = "outside" // of before the history
	RowWrong    RowState = "wrong"   // the log says something else
)

// ComparePage compares a page with the history on which a report rests, and turns it into a refutation if the page shows something else. It does nothing to a
// report that proves nothing.
func (r *Report) ComparePage(p Page, in Input) {
	if r.State != Proven && r.State != Limited && r.State != Provisional {
		return
	}
	l, v := in.Lang, in.Verdict
	closed := closer(in.History)
	entries := make(map[proof.Index]*proof.VerifiedEntry, len(v.Entries))
	for i := range v.Entries {
		entries[v.Entries[i].Index] = &v.Entries[i]
	}
	shown := map[proof.Index]bool{}
	var wrong *Refutation
	refute := func(i proof.Index, what string) {
		if wrong == nil {
			wrong = &Refutation{What: what, Entry: &i, Detail: fmt.Sprintf("the page: entry %d", i), Reference: Reference(in.Digest)}
			wrong.When = all(in.History, l)
			if e, ok := in.epochOf(i); ok {
				wrong.Epoch, wrong.When = &e.Epoch, l.span(e.Opened, e.closed)
			}
		}
	}
	for _, row := range p.Rows {
		mark := RowMark{RowVerified, l.pick("Vérifié", "Verified")}
		say := func(s RowState, fr, en string) {
			if mark.State != RowWrong { // whatever else is in the row
				mark = RowMark{s, l.pick(fr, en)}
			}
		}
		if len(row.Index) == 0 {
			say(RowWrong, "Sans preuve", "Without proof")
			refute(closed, l.pick("la page montre un accès sans preuve", "the page shows a request without proof"))
		}
		for _, i := range row.Index {
			shown[i] = true
			e, ok := entries[i]
			switch {
			case i > closed:
				say(RowOpen, "Provisoire", "Provisional")
			case i < marker(in.History.Markers[0]).At():
				say(RowOutside, "Avant la période vérifiée", "Before what was verified")
			case !ok:
				say(RowWrong, "Pas dans le registre", "Not in the log")
				refute(i, l.pick("la page montre un accès qui n'est pas dans votre liste", "the page shows a request that is not in your list"))
			case !agrees(row, e):
				say(RowWrong, "Le registre dit autre chose", "The log says something else")
				refute(i, l.pick("la page montre un accès autrement qu'il a été enregistré", "the page shows a request otherwise than it was recorded"))
			}
		}
		r.Rows = append(r.Rows, mark)
	}
	if p.Full {
		for i := range v.Entries {
			if at := v.Entries[i].Index; at >= p.From && at <= p.To && !shown[at] {
				refute(at, l.pick("la page cache un accès enregistré", "the page hides a recorded request"))
			}
		}
	}
	if wrong != nil {
		r.refuted(wrong, l)
		r.Checks = append(r.Checks, Check{Code: "page", Title: pageTitle(l), State: Failed, Not: []string{wrong.What + ", " + wrong.When + "."}})
		return
	}
	n := map[RowState]int{}
	for _, m := range r.Rows {
		n[m.State]++
	}
	r.partOf(p, in, shown, n[RowOutside])
	r.Checks = append(r.Checks, Check{Code: "page", Title: pageTitle(l), State: Held, Evidence: []Fact{
		{l.pick("accès affichés et comparés", "requests shown and compared"), fmt.Sprint(n[RowVerified])},
		{l.pick("accès de la période en cours", "requests of the current period"), fmt.Sprint(n[RowOpen])},
	}})
}

// partOf says how much of the verified history a page shows: a sentence about all requests must not stand above a list from which some were left out, whoever left them out.
func (r *Report) partOf(p Page, in Input, shown map[proof.Index]bool, outside int) {
	l, v := in.Lang, in.Verdict
	all, there := len(v.Entries), 0
	for i := range v.Entries {
		if shown[v.Entries[i].Index] {
			there++
		}
	}
	limit := func(fr, en, liftFR, liftEN string, args ...any) {
		r.Limits = append(r.Limits, Limit{fmt.Sprintf(l.pick(fr, en), args...), l.pick(liftFR, liftEN)})
		if r.State == Proven {
			r.State, r.Title = Limited, Title(Limited, l)
		}
	}
	if there < all {
		if r.State != Provisional {
			r.Sentence = sentence(v, l, false)
		}
		r.Sentence += " " + fmt.Sprintf(l.pick("Cette page en montre %d sur %d.", "This page shows %d of %d."), there, all)
		if !p.Full {
			limit("Ce que cette page laisse de côté n'est pas comparé.", "What this page leaves out isn't compared.", "Retirez les filtres, ou téléchargez le fichier : il a tout.", "Remove the filters, or download the file: it has all.")
		}
	}
	if outside > 0 {
		limit("Accès affichés qui sont d'avant la période vérifiée : %d.", "Requests shown that are of before the time that was verified: %d.", "Demandez un historique plus long.", "Ask for a longer history.", outside)
	}
}

func pageTitle(l Lang) string {
	return l.pick("La page montre ce que dit le registre", "The page shows what the log says")
}

// agrees reports whether a row shows an entry as its record has it. A part of the row that the record can't confirm any more is not shown by an honest page.
func agrees(row Row, e *proof.VerifiedEntry) bool {
	agency, service, when := "", "", proof.Field(0)
	outcome := e.State.String()
	value := func(f proof.Field) string {
		v, _ := e.Opening.Value(f)
		return string(v)
	}
	if !e.Opening.IsZero() {
		switch e.Opening.Schema() {
		case proof.SchemaDisclosure:
			agency, service, when = value(proof.DisclosureAgency), value(proof.DisclosureService), proof.DisclosureAskedAt
		case proof.SchemaAccess:
			agency, when = value(proof.AccessReader), proof.AccessAt
		case proof.SchemaErasure:
			when = proof.ErasureErasedAt
		}
		// A delayed one has two times, and pages may show either.
		if at, ok := e.Opening.TimeOf(when); ok && row.At != "" && e.Kind != proof.KindOpened && row.At != utc(at) {
			return false
		}
	}
	if e.State == proof.RecordOpen {
		switch e.Kind {
		case proof.KindDisclosure:
			outcome = value(proof.DisclosureOutcome)
		case proof.KindOpened:
			outcome = "opened"
		case proof.KindAccess:
			outcome = "access"
		case proof.KindErasure:
			outcome = "erasure"
		}
	}
	id, _, _ := strings.Cut(service, "@")
	return (row.Agency == "" || row.Agency == agency) && (row.Outcome == "" || row.Outcome == outcome) && (row.Service == "" || row.Service == service || row.Service == id)
}

type closedEpoch struct {
	proof.Marker
	closed proof.Time
}

// epochOf finds the closed epoch in which an index stands. The markers are verified.
func (in Input) epochOf(i proof.Index) (closedEpoch, bool) {
	n, _ := slices.BinarySearchFunc(in.History.Markers, i, func(text []byte, i proof.Index) int {
		if marker(text).At() <= i {
			return -1
		}
		return 1
	})
	if n == 0 || n == len(in.History.Markers) {
		return closedEpoch{}, false
	}
	return closedEpoch{marker(in.History.Markers[n-1]), marker(in.History.Markers[n]).Opened}, true
}

// closer is the index of the marker that closes the last epoch: what comes after it is of an open one.
func closer(h *proof.History) proof.Index { return marker(h.Markers[len(h.Markers)-1]).At() }

func marker(text []byte) proof.Marker {
	e, _ := proof.ParseEntry(text)
	m, _ := e.(proof.Marker)
	return m
}

package verdict

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/regard-broker/regard/ledger/proof"
)

// Page is what a page shows of a history, as its markup says.
type Page struct {
	// Lang is the language of the page.
	Lang Lang `json:"lang"`
	// Names is the file of names by which the page puts tokens of records into words, see ParseNames.
	Names string `json:"names"`
	Rows  []Row  `json:"rows"`
	// Full: the page says that it shows all entries with indexes from From to To, both included. Otherwise it shows some of them.
	Full bool        `json:"full"`
	From proof.Index `json:"from"`
	To   proof.Index `json:"to"`
	// Record is set on the page of one access, which has no rows.
	Record *Record `json:"record,omitempty"`
}

// Row is what a page shows of a request. docs/verifier.md says what stands in it. All of it has to be what the history says.
type Row struct {
	Index   []proof.Index `json:"index"` // of its entries: several, if a request is filed under several identifiers
	Agency  string        `json:"agency"`
	Service string        `json:"service"`
	Outcome string        `json:"outcome"`
	At      string        `json:"at"` // when it was asked, opened or erased: RFC 3339, UTC, to the second
	// Day is the heading above it, and Cells what can be read in it, from the time to the outcome. Open: the heading says that it is of the open epoch.
	Day   string   `json:"day"`
	Cells []string `json:"cells"`
	Open  bool     `json:"open"`
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
	if p.Record != nil {
		r.compareRecord(p, in)
		return
	}
	l, v := in.Lang, in.Verdict
	names, err := ParseNames([]byte(p.Names))
	if err != nil {
		*r = *NotVerified(CauseServer, l)
		return
	}
	digest := sha256.Sum256([]byte(p.Names))
	r.Keys = append(r.Keys, Key{l.pick("noms affichés", "names shown"), l.pick("annuaire de ce portail", "directory of this portal"), groups(digest[:])})
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
			default:
				if what := in.differs(p.Lang, names, row, e); what != "" {
					say(RowWrong, "Le registre dit autre chose", "The log says something else")
					refute(i, fmt.Sprintf(l.pick("la page montre un accès autrement qu'il a été enregistré (%s)", "the page shows a request otherwise than it was recorded (%s)"), what))
				}
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
		r.Limits = append(r.Limits, Limit{fmt.Sprintf(l.pick(fr, en), args...), l.pick(liftFR, liftEN), Worrying})
		r.limited(l)
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

// differs names the part of a row that isn't what the history says of an entry, in the words of a page in this language; "" if all is.
func (in Input) differs(l Lang, names *Names, row Row, e *proof.VerifiedEntry) string {
	x := names.line(e, in.Verdict.Subjects[e.Subject].Type(), l)
	epoch, _ := in.epochOf(e.Index)
	// What was of the open epoch when the page was made may be of the last closed one since.
	today := row.Open && e.Epoch == in.Verdict.Epochs.To
	part := x.differs(row, today, [2]proof.Time{epoch.Opened, epoch.closed})
	return in.Lang.pick(part[0], part[1])
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

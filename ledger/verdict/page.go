package verdict

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Page is what a page shows of a history, as its markup says.
type Page struct {
	// Lang is the language of the page.
	Lang Lang `json:"lang"`
	// Names is the file of names by which the page puts tokens of records into words, see ParseNames.
	Names string `json:"names"`
	Rows  []Row  `json:"rows"`
	// View is the part of the history that the page has to show; nil: all of it.
	View *View `json:"view"`
	// Marker is where the epoch begins that was open when the page was made; nil: the page doesn't say.
	Marker *proof.Index `json:"marker"`
	// Heads are the heads of columns, by table. Strange counts elements in the list that no honest page has.
	Heads   [][]string `json:"heads"`
	Strange int        `json:"strange"`
	// Of is whose page it is, as [Of] has it; empty: the page doesn't say.
	Of string `json:"of,omitempty"`
	// Record is set on the page of one access, which has no rows.
	Record *Record `json:"record,omitempty"`
}

// Row is what a page shows of a request. docs/verifier.md says what stands in it. All of it has to be what the history says.
type Row struct {
	Index   *proof.Index `json:"index"` // of its entry; nil: the page doesn't say, or not of one alone
	Agency  string       `json:"agency"`
	Service string       `json:"service"`
	Outcome string       `json:"outcome"`
	At      string       `json:"at"` // when it was asked, opened or erased: RFC 3339, UTC, to the second
	// Day is the heading right above its table, and Cells what can be read in it, from the time to the outcome. Open: the heading says that it is of the open epoch.
	Day   string   `json:"day"`
	Cells []string `json:"cells"`
	Open  bool     `json:"open"`
	// Links are the addresses to which each cell leads, "" for none.
	Links []string `json:"links"`
	// Hidden: it, or a part of it, isn't there for whoever looks at the page. Strange: it has elements that no honest row has.
	Hidden  bool `json:"hidden"`
	Strange bool `json:"strange"`
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
	RowOutside  RowState = "outside" // of before the history, or of an epoch whose retention has ended
	RowWrong    RowState = "wrong"   // the log says something else
)

// EntryPath is where the page of an entry is; its log index follows.
const EntryPath = "/acces/"

// Columns are the heads of a list's columns.
func Columns(l Lang) []string {
	if l == French {
		return []string{"Heure", "Qui a demandé", "Quoi", "Auprès de", "Pourquoi", "Résultat"}
	}
	return []string{"Time", "Who asked", "What", "From whom", "Why", "Outcome"}
}

// today is the heading of the open epoch.
func today(l Lang) string { return l.pick("Journée en cours", "The current day") }

// refutedBy reports whether a page refutes what holds.
func (r *Report) refutedBy(p Page, in Input) bool {
	r.ComparePage(p, in)
	return r.State == Refuted
}

// comparison is of a page with a history.
type comparison struct {
	*Report
	in      Input
	page    Page
	names   *Names
	closed  proof.Index // of the marker that closes the last epoch
	horizon proof.Index // of the one that opened the epoch that was open when the page was made: what comes after it the page can't know to be closed
	entries map[proof.Index]*proof.VerifiedEntry
	listed  []proof.Index // verified and before the horizon, in the order of the page
	shown   map[proof.Index]bool
	ended   endedRows
	retired int // rows that show details of verified entries whose retention has ended
	wrong   *Refutation
}

// Of names whose page or history something is, for whoever compares two: a digest of the identifiers, whatever their order.
func Of(subjects []proof.Subject) string {
	var lines []string
	for _, s := range subjects {
		lines = append(lines, fmt.Sprintf("%s %q\n", s.Type(), s.Value()))
	}
	slices.Sort(lines)
	return fmt.Sprintf("%x", sha256.Sum256([]byte("regard/page-of/v1\n"+strings.Join(slices.Compact(lines), ""))))
}

// ComparePage compares a page with the history on which a report rests, and turns it into a refutation if the page shows something else, or leaves out what it has to show. It does nothing to a
// report that proves nothing.
func (r *Report) ComparePage(p Page, in Input) {
	if r.Cause == CauseClock {
		// All but the date holds, so that the page can be compared: what it shows otherwise is wrong at any time.
		in.Err = nil
		if held := New(in); held.refutedBy(p, in) {
			*r = *held
		}
		return
	}
	if r.State != Proven && r.State != Limited && r.State != Provisional {
		return
	}
	if p.Of != "" && p.Of != Of(in.Verdict.Subjects) {
		// Somebody else signed in since the page was made, or an identifier was attached.
		*r = *NotVerified(CauseOthers, in.Lang)
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
	c := comparison{Report: r, in: in, page: p, names: names, closed: closer(in.History), entries: make(map[proof.Index]*proof.VerifiedEntry, len(v.Entries)), shown: map[proof.Index]bool{}}
	if c.horizon = c.closed; p.Marker != nil {
		c.horizon = *p.Marker
	}
	if c.horizon > c.closed {
		*r = *NotVerified(CauseBehind, l)
		return
	}
	digest := sha256.Sum256([]byte(p.Names))
	r.Keys = append(r.Keys, Key{l.pick("noms affichés", "names shown"), l.pick("annuaire de ce portail", "directory of this portal"), groups(digest[:])})
	for i := range v.Entries {
		c.entries[v.Entries[i].Index] = &v.Entries[i]
	}
	if !slices.ContainsFunc(in.History.Markers, func(text []byte) bool { return marker(text).At() == c.horizon }) {
		c.refuteAll("la page date la journée en cours d'un moment que le registre n'a pas", "the page dates the current day from a moment that the log doesn't have")
	}
	if p.Strange > 0 {
		c.refuteAll("la page contient ce qu'une liste n'a pas", "the page has what a list hasn't")
	}
	for _, head := range p.Heads {
		if !slices.EqualFunc(head, Columns(p.Lang), reads) {
			c.refuteAll("les colonnes portent d'autres noms", "the columns have other names")
		}
	}
	for _, row := range p.Rows {
		r.Rows = append(r.Rows, c.row(row))
	}
	part := c.part()
	if c.wrong != nil {
		r.refuted(c.wrong, l)
		r.Checks = append(r.Checks, Check{Code: "page", Title: pageTitle(l), State: Failed, Not: []string{c.wrong.What + ", " + c.wrong.When + "."}})
		return
	}
	n := map[RowState]int{}
	for _, m := range r.Rows {
		n[m.State]++
	}
	c.say(part, n[RowOutside]-c.ended.rows-c.retired)
	r.Scope = append(r.Scope, Limit{l.pick("Les noms, ce qui est écrit hors de la liste et l'aspect de cette page sont la parole de ce portail.", "Names, what is written outside of the list, and how this page looks are this portal's word."), "", Standing})
	r.Checks = append(r.Checks, Check{Code: "page", Title: pageTitle(l), State: Held, Evidence: []Fact{
		{l.pick("accès affichés et comparés", "requests shown and compared"), fmt.Sprint(n[RowVerified])},
		{l.pick("accès de la période en cours", "requests of the current period"), fmt.Sprint(n[RowOpen])},
	}})
}

// refute notes what is wrong with an entry; the first counts.
func (c *comparison) refute(i proof.Index, fr, en string, args ...any) {
	if c.wrong != nil {
		return
	}
	c.refuteAll(fr, en, args...)
	c.wrong.Entry, c.wrong.Detail = &i, fmt.Sprintf("the page: entry %d", i)
	if e, ok := c.in.epochOf(i); ok {
		c.wrong.Epoch, c.wrong.When = &e.Epoch, c.in.Lang.span(e.Opened, e.closed)
	}
}

// refuteAll notes what is wrong with the page as a whole.
func (c *comparison) refuteAll(fr, en string, args ...any) {
	if c.wrong == nil {
		c.wrong = &Refutation{What: fmt.Sprintf(c.in.Lang.pick(fr, en), args...), When: all(c.in.History, c.in.Lang), Detail: "the page: " + en, Reference: Reference(c.in.Digest)}
	}
}

// row compares one.
func (c *comparison) row(row Row) RowMark {
	mark := func(s RowState, fr, en string) RowMark { return RowMark{s, c.in.Lang.pick(fr, en)} }
	if row.Index == nil {
		c.refute(c.closed, "la page montre un accès sans preuve", "the page shows a request without proof")
		return mark(RowWrong, "Sans preuve", "Without proof")
	}
	i := *row.Index
	if c.shown[i] {
		c.refute(i, "la page montre deux fois le même accès", "the page shows a request twice")
		return mark(RowWrong, "Deux fois", "Twice")
	}
	c.shown[i] = true
	e, ok := c.entries[i]
	if ok && i < c.horizon {
		c.listed = append(c.listed, i)
	}
	open := row.Open && reads(row.Day, today(c.page.Lang))
	switch {
	case row.Hidden:
		c.refute(i, "la page contient un accès et ne le montre pas", "the page has a request and doesn't show it")
		return mark(RowWrong, "Caché", "Hidden")
	case row.Strange:
		c.refute(i, "la ligne d'un accès contient ce qu'un accès n'a pas", "the line of a request has what a request hasn't")
		return mark(RowWrong, "Le registre dit autre chose", "The log says something else")
	case i > c.closed && !open:
		c.refute(i, "la page date un accès d'une journée qui n'est pas close", "the page shows a request as of a closed day, and its day isn't closed")
		return mark(RowWrong, "Pas dans une journée close", "Not of a closed day")
	case i > c.closed:
		return mark(RowOpen, "Provisoire", "Provisional")
	case i < marker(c.in.History.Markers[0]).At():
		return mark(RowOutside, "Avant la période vérifiée", "Before what was verified")
	case !ok && c.in.ended(i):
		return c.over(row)
	case !ok:
		c.refute(i, "la page montre un accès qui n'est pas dans votre liste", "the page shows a request that is not in your list")
		return mark(RowWrong, "Pas dans le registre", "Not in the log")
	}
	// What was of the open epoch when the page was made may be of a closed one since: its heading has no date.
	if what := c.differs(row, open && i > c.horizon, e); what != "" {
		if e.State == proof.RecordRetired { // the page may have been made a moment before
			c.retired++
			return mark(RowOutside, "Conservation terminée, plus rien n'est prouvé", "Retention over, nothing is proven any more")
		}
		c.refute(i, "la page montre un accès autrement qu'il a été enregistré (%s)", "the page shows a request otherwise than it was recorded (%s)", what)
		return mark(RowWrong, "Le registre dit autre chose", "The log says something else")
	}
	return mark(RowVerified, "Vérifié", "Verified")
}

// part is what a page shows of a history.
type part struct {
	first, last, of int // ranks among what the filters let through
	filtered        bool
	unclear         bool // what it has to show can't be told
	since           int  // entries of epochs that were closed after the page was made, and that aren't on it
}

// part finds out what the page has to show, and refutes one that shows something else: each rank, none twice, in their order.
func (c *comparison) part() (p part) {
	want := c.in.before(c.horizon)
	for i := range c.in.Verdict.Entries {
		if e := &c.in.Verdict.Entries[i]; e.Index >= c.horizon && !c.shown[e.Index] {
			p.since++
		}
	}
	p.last, p.of = len(want), len(want)
	through := want
	if c.page.View != nil {
		v := c.page.View.usable()
		exactly := !v.Unclear
		if p.filtered = v.filters(); p.filtered && exactly {
			want, exactly = c.in.through(v, c.names, c.page.Lang, want)
		}
		if p.unclear = !exactly; p.unclear {
			return p
		}
		p.of, through = len(want), want
		var beside bool
		if p.first, p.last, beside = c.beside(v, want); beside {
			p.unclear = true
			return p
		}
		want = want[p.first:p.last]
		outside := 0
		for _, m := range c.Rows {
			if m.State == RowOutside {
				outside++
			}
		}
		if c.in.Verdict.Epochs.From > 0 && outside > c.ended.rows+c.retired {
			// It goes on before the history, and where its pages end can't be told: that is a limit.
			p.unclear = true
			return p
		}
	}
	if len(c.entries) > MaxListed/2 && len(c.listed) < len(want) { // the list may end before the history does
		p.unclear = true
		want = want[:len(c.listed)]
	}
	if slices.EqualFunc(want, c.listed, sameEntry) {
		return p
	}
	if c.byRetirement(through, want, p) {
		p.unclear = true
		return p
	}
	for _, e := range want {
		if !c.shown[e.Index] {
			c.refute(e.Index, "la page cache un accès enregistré", "the page hides a recorded request")
		}
	}
	for k, i := range c.listed {
		switch {
		case k < len(want) && want[k].Index == i:
		case slices.ContainsFunc(want, func(e *proof.VerifiedEntry) bool { return e.Index == i }):
			c.refute(i, "la page montre des accès dans un autre ordre", "the page shows requests in another order")
		default:
			c.refute(i, "la page montre un accès qui n'est pas de cette partie de votre liste", "the page shows a request that is not of this part of your list")
		}
	}
	return p
}

func sameEntry(e *proof.VerifiedEntry, i proof.Index) bool { return e.Index == i }

// say tells how much of the verified history a page shows: a sentence about all requests must not stand above a list from which some were left out, whoever left them out.
func (c *comparison) say(p part, outside int) {
	l, all, there := c.in.Lang, len(c.entries), 0
	for i := range c.shown {
		if _, ok := c.entries[i]; ok {
			there++
		}
	}
	if there == all && c.State != Provisional {
		c.Sentence = sentence(c.in.Verdict, l, true)
	}
	if there < all {
		c.Sentence += " " + fmt.Sprintf(l.pick("Cette page en montre %d sur %d", "This page shows %d of %d"), there, all)
		if ranks := p.last - p.first; !p.unclear && ranks > 0 {
			if p.filtered {
				c.Sentence += l.pick(" : ceux que vos filtres laissent passer", ": those that your filters let through")
				if ranks < p.of {
					c.Sentence += fmt.Sprintf(l.pick(", du n° %d au n° %d sur %d", ", no. %d to %d of %d"), p.first+1, p.last, p.of)
				}
			} else if ranks < p.of {
				c.Sentence += fmt.Sprintf(l.pick(" : du n° %d au n° %d, du plus récent au plus ancien", ": no. %d to %d, the newest first"), p.first+1, p.last)
			}
			c.Sentence += l.pick(", et aucun n'y manque", ", and none of these is missing")
		} else if !p.unclear && p.filtered && p.of == 0 {
			c.Sentence += l.pick(" : vos filtres n'en laissent passer aucun", ": your filters let none through")
		}
		c.Sentence += "."
	}
	if p.since > 0 {
		c.limit(c.older(), "Cette page est d'avant la fin d'une journée : %d accès enregistrés n'y sont pas encore.", "This page is of before the end of a day: %d recorded requests aren't on it yet.", "Rechargez la page.", "Load the page again.", p.since)
	}
	if p.unclear {
		c.limit(Worrying, "Ce que cette page laisse de côté n'est pas comparé.", "What this page leaves out isn't compared.", "Retirez les filtres, ou téléchargez le fichier : il a tout.", "Remove the filters, or download the file: it has all.")
	}
	if n := c.ended.rows - c.ended.told; n > 0 {
		c.limit(Standing, "Accès affichés dont la conservation est terminée, et dont plus rien n'est prouvé : %d.", "Requests shown whose retention is over, and of which nothing is proven any more: %d.",
			"Un historique que vous avez téléchargé avant les prouve encore.", "A history that you downloaded before still proves them.", n)
	}
	if n := c.ended.told + c.retired; n > 0 {
		c.limit(Worrying, "Accès affichés en détail alors que leur conservation est terminée, et dont plus rien n'est prouvé : %d.", "Requests shown in detail though their retention is over, and of which nothing is proven any more: %d.",
			"Rechargez la page. Si cela dure, demandez-en la raison à l'exploitant, puis à la CNIL.", "Load the page again. If it stays so, ask the operator for the reason, then the data protection authority.", n)
	}
	if outside > 0 {
		c.limit(Worrying, "Accès affichés qui sont d'avant la période vérifiée : %d.", "Requests shown that are of before the time that was verified: %d.", "Demandez un historique plus long.", "Ask for a longer history.", outside)
	}
}

// pageAge is how long after it was made a page may be compared.
const pageAge = proof.Time(10 * time.Minute / time.Millisecond)

// older says what it means that a page is of before the end of an epoch: nothing, if the epoch ended just now. A server can't leave out old days by calling them open.
func (c *comparison) older() LimitKind {
	if e, ok := c.in.epochOf(c.horizon); ok && c.in.Now > e.closed+pageAge {
		return Worrying
	}
	return Standing
}

func (c *comparison) limit(k LimitKind, fr, en, liftFR, liftEN string, args ...any) {
	l := c.in.Lang
	c.addLimit(Limit{fmt.Sprintf(l.pick(fr, en), args...), l.pick(liftFR, liftEN), k}, l)
}

// addLimit adds a limit above the others of its kind.
func (r *Report) addLimit(x Limit, l Lang) {
	at := 0
	if x.Kind == Standing {
		if at = slices.IndexFunc(r.Limits, func(y Limit) bool { return y.Kind == Standing }); at < 0 {
			at = len(r.Limits)
		}
	}
	r.Limits = slices.Insert(r.Limits, at, x)
	r.limited(l)
}

func pageTitle(l Lang) string {
	return l.pick("La page montre ce que dit le registre", "The page shows what the log says")
}

// differs names the part of a row that isn't what the history says of an entry, in the words of a page in this language; "" if all is.
func (c *comparison) differs(row Row, today bool, e *proof.VerifiedEntry) string {
	x := c.names.line(e, c.in.Verdict.Subjects[e.Subject].Type(), c.page.Lang)
	epoch, _ := c.in.epochOf(e.Index)
	part := x.differs(row, today, [2]proof.Time{epoch.Opened, epoch.closed})
	return c.in.Lang.pick(part[0], part[1])
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

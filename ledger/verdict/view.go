package verdict

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/regard-broker/regard/ledger/proof"
)

// Rows of a page of a history, and in the dense view for those who read many.
const (
	PageRows  = 25
	DenseRows = 100
	// MaxSearch bounds what is searched for, in characters.
	MaxSearch = 100
	// MaxListed bounds the entries that pages list. Older ones are in the file.
	MaxListed = 50_000
)

// View is the part of a history that a page has to show, as its address says: values of the query as they stand there. The page of a history is by decreasing time; of the open epoch everything is on its first page.
type View struct {
	Agency  string `json:"agence"`
	Service string `json:"donnee"` // token without version
	Outcome string `json:"issue"`
	Search  string `json:"q"`
	From    string `json:"du"` // days in Paris, both included, YYYY-MM-DD
	To      string `json:"au"`
	Page    string `json:"page"` // from 1
	Density string `json:"vue"`  // "dense"
	// Unclear: the query can be read in several ways.
	Unclear bool `json:"unclear"`
}

// Days are those for which a history was asked, as the address says: values of the query as they stand there, YYYY-MM-DD in Paris, both included. Without a usable last one they are up to today, without a usable first one a year.
type Days struct {
	From string `json:"du"`
	To   string `json:"au"`
}

// span is from when to when they are.
func (d Days) span(now proof.Time) (from, to proof.Time) {
	last, err := time.Parse(time.DateOnly, d.To)
	if err != nil {
		last = paris(now.Time())
	}
	first, err := time.Parse(time.DateOnly, d.From)
	if err != nil || last.Before(first) {
		first = last.AddDate(-1, 0, 0)
	}
	return midnight(first), midnight(last.AddDate(0, 0, 1))
}

// midnight is when a day begins in Paris.
func midnight(day time.Time) proof.Time {
	utc := time.Date(day.Year(), day.Month(), day.Day(), 0, 0, 0, 0, time.UTC)
	_, ahead := paris(utc.Add(-time.Hour)).Zone() // no change is between the two
	return proof.TimeOf(utc.Add(-time.Duration(ahead) * time.Second))
}

// Clean takes out what could change the text around a value that somebody else wrote: control characters and marks of direction (Unicode Standard Annex #9, section 2), which isolation makes needless.
func Clean(s string) string {
	if !strings.ContainsFunc(s, disturbs) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if disturbs(r) {
			return -1
		}
		return r
	}, s)
}

func disturbs(r rune) bool {
	return unicode.IsControl(r) || r > unicode.MaxASCII && unicode.Is(unicode.Bidi_Control, r)
}

// usable is the view without what the portal leaves out of account: it takes what can be used of a query.
func (v View) usable() View {
	for _, token := range []*string{&v.Agency, &v.Service} {
		if !proof.IsToken(*token) {
			*token = ""
		}
	}
	if _, known := outcomes[v.Outcome]; !known {
		v.Outcome = ""
	}
	if v.Search = strings.TrimSpace(Clean(v.Search)); !utf8.ValidString(v.Search) || utf8.RuneCountInString(v.Search) > MaxSearch {
		v.Search = ""
	}
	for _, day := range []*string{&v.From, &v.To} {
		if _, err := time.Parse(time.DateOnly, *day); err != nil {
			*day = ""
		}
	}
	if v.From != "" && v.To != "" && v.To < v.From {
		v.From, v.To = "", ""
	}
	return v
}

// filters reports whether a usable view leaves something out but by pages.
func (v View) filters() bool {
	return v.Agency != "" || v.Service != "" || v.Outcome != "" || v.Search != "" || v.From != "" || v.To != ""
}

// size is how many rows a page has.
func (v View) size() int {
	if v.Density == "dense" {
		return DenseRows
	}
	return PageRows
}

// ranks are those of the page among n entries, from first to before last.
func (v View) ranks(n int) (first, last int) {
	size := v.size()
	page, err := strconv.Atoi(v.Page)
	if err != nil || page < 1 {
		page = 1
	}
	page = min(page, max(1, (n+size-1)/size))
	first = (page - 1) * size
	return first, min(first+size, n)
}

// through finds which of the verified entries a usable view lets through. Not exactly: it depends on what only the portal can tell.
func (in Input) through(v View, names *Names, lang Lang, entries []*proof.VerifiedEntry) (out []*proof.VerifiedEntry, exactly bool) {
	want := proof.FoldName(v.Search)
	exactly = true
	for _, e := range entries {
		o := e.Opening
		status := statusOf(e, in.Verdict.Subjects[e.Subject].Type() == proof.TypePerson && e.Kind != proof.KindErasure)
		if (status == "lost" || status == "damaged") && v.Outcome != "" {
			exactly = false // the broker may not have been able to read it before the log said that it is lost
		}
		disclosure := !o.IsZero() && o.Schema() == proof.SchemaDisclosure
		text := func(f proof.Field) string {
			if !disclosure {
				return ""
			}
			return o.Text(f)
		}
		service, _, _ := strings.Cut(text(proof.DisclosureService), "@")
		if v.Agency != "" && text(proof.DisclosureAgency) != v.Agency || v.Service != "" && service != v.Service || v.Outcome != "" && status != v.Outcome ||
			!v.within(timeOf(e)) || want != "" && !strings.Contains(proof.FoldName(strings.Join(names.searched(o, lang), "\n")), want) {
			continue
		}
		out = append(out, e)
	}
	return out, exactly
}

// within reports whether a time is of the days of a usable view. 0: it isn't known.
func (v View) within(at proof.Time) bool {
	if at == 0 {
		const never = "0001-01-01" // the portal's word for what isn't dated
		return v.To == "" && v.From <= never
	}
	day := paris(at.Time()).Format(time.DateOnly)
	return v.From <= day && (v.To == "" || day <= v.To)
}

// searched are the words of an entry in which a search looks.
func (n *Names) searched(o proof.Opening, l Lang) []string {
	if o.IsZero() {
		return nil
	}
	var out []string
	switch o.Schema() {
	case proof.SchemaDisclosure:
		out = []string{n.or("agency", o.Text(proof.DisclosureAgency)), n.or("provider", o.Text(proof.DisclosureProvider)), n.or("purpose."+l.pick("fr", "en"), o.Text(proof.DisclosurePurpose))}
		if service, _, _ := strings.Cut(o.Text(proof.DisclosureService), "@"); service != "" {
			out = append(out, n.or("service."+l.pick("fr", "en"), service), n.data(o, l))
		}
	case proof.SchemaAccess:
		if o.Text(proof.AccessReader) != "" {
			who, why := n.reader(o, l)
			out = append(out, who, why)
		}
	}
	for i := range out {
		out[i] = Clean(out[i])
	}
	return out
}

// timeOf is when something was asked, opened or erased; 0 if that can't be read.
func timeOf(e *proof.VerifiedEntry) proof.Time {
	o := e.Opening
	if o.IsZero() {
		return 0
	}
	var at proof.Time
	switch o.Schema() {
	case proof.SchemaDisclosure:
		at, _ = o.TimeOf(proof.DisclosureAskedAt)
	case proof.SchemaAccess:
		at, _ = o.TimeOf(proof.AccessAt)
	case proof.SchemaErasure:
		at, _ = o.TimeOf(proof.ErasureErasedAt)
	}
	return at
}

// Newer compares two entries for the order of pages, by when they were asked, opened or erased (0: not known, which is last) and by log index: below zero if the first one comes first.
func Newer(a proof.Time, i proof.Index, b proof.Time, k proof.Index) int {
	return cmp.Or(cmp.Compare(b, a), cmp.Compare(k, i))
}

// before lists the entries with indexes below one, as pages order them.
func (in Input) before(end proof.Index) []*proof.VerifiedEntry {
	var out []*proof.VerifiedEntry
	for i := range in.Verdict.Entries {
		if e := &in.Verdict.Entries[i]; e.Index < end {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *proof.VerifiedEntry) int { return Newer(timeOf(a), a.Index, timeOf(b), b.Index) })
	return out
}

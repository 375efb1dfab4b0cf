package portal

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"html"
	"html/template"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// TestCatalogue: no key lacks a language, a plural or a parameter, none is unused, and no page names one that isn't there.
func TestCatalogue(t *testing.T) {
	fr, err := loadLanguage(languages[0])
	if err != nil {
		t.Fatal(err)
	}
	en, err := loadLanguage(languages[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []struct{ a, b *language }{{fr, en}, {en, fr}} {
		for key := range l.a.keys {
			if !l.b.keys[key] {
				t.Errorf("%s is in %s and not in %s", key, l.a.code, l.b.code)
			}
		}
	}
	sources := map[string]string{}
	err = fs.WalkDir(templates, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var b []byte
			b, err = templates.ReadFile(name)
			sources[name] = string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	name := regexp.MustCompile(`(?:[{(]t|"key") "([a-z0-9_]+\.[a-z0-9_.]*[a-z0-9_])"`)
	for file, text := range sources {
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			used[m[1]] = true
			if !fr.keys[m[1]] {
				t.Errorf("%s shows %s, which the catalogue doesn't have", file, m[1])
			}
		}
	}
	for _, s := range statuses {
		used["status."+s], used["explain."+s] = true, true
		if !fr.keys["status."+s] || !fr.keys["explain."+s] {
			t.Errorf("status %s has no words", s)
		}
	}
	for _, typ := range []proof.SubjectType{proof.TypePivot, proof.TypePerson, proof.TypeNIR, proof.TypeINE, proof.TypeFranceTravail, proof.TypeSIREN} {
		used["identifier."+string(typ)] = true
		if !fr.keys["identifier."+string(typ)] {
			t.Errorf("identifier %s has no words", typ)
		}
	}
	// What the program names stands in it as a whole, or is of a family whose last part comes from a record.
	families := regexp.MustCompile(`^((accessibility|legal|privacy)\.title$|notice|date|csv|path|error|cause|reader|reason|their|delegation|proof\.(left|right)$)`)
	literal := regexp.MustCompile(`"([a-z0-9_]+\.[a-z0-9_.]+)"`)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../../ledger/verdict/record.go") { // which lists the details of a record
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range literal.FindAllSubmatch(b, -1) {
			used[string(m[1])] = true
		}
	}
	for key := range fr.keys {
		if !used[key] && !families.MatchString(key) {
			t.Errorf("%s is shown nowhere", key)
		}
	}
	// Parameters are the same in both languages.
	for key := range fr.keys {
		if fr.fixed[key] == "" != (en.fixed[key] == "") {
			t.Errorf("%s has parameters in one language only", key)
		}
	}
	for _, l := range []*language{fr, en} {
		for _, s := range append(append([]string{}, l.months[:]...), l.days[:]...) {
			if s == "" {
				t.Errorf("%s: a month or day without a name", l.code)
			}
		}
	}
}

// TestText: parameters are isolated, plurals follow the language, and what lacks something is an error.
func TestText(t *testing.T) {
	fr, _ := loadLanguage(languages[0])
	en, _ := loadLanguage(languages[1])
	for _, c := range []struct {
		l      *language
		key    string
		params []any
		want   string
	}{
		{fr, "nav.history", nil, "Historique"},
		{fr, "history.count", []any{"n", 0}, "0 inscription"},
		{fr, "history.found", []any{"n", 1, "all", 12345}, "1 inscription trouvée sur 12\u202f345"},
		{en, "history.found", []any{"n", 0, "all", 12345}, "0 entries found of 12,345"},
		{en, "history.count", []any{"n", uint64(1)}, "1 entry"},
		{fr, "reader.operator", []any{"id", own("7")}, "Service d'assistance, agent 7"},
		{fr, "reader.operator", []any{"id", "a\u202eb\x00"}, "Service d'assistance, agent \u2068ab\u2069"},
	} {
		if got, err := c.l.text(c.key, c.params...); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.key, got, err, c.want)
		}
	}
	for _, c := range [][]any{{"no.such.key"}, {"reader.court"}, {"reader.court", "ids", own("7")}, {"reader.court", "id", 1.5}, {"reader.court", 1, 2}} {
		if s, err := fr.text(c[0].(string), c[1:]...); err == nil {
			t.Errorf("%v gives %q", c, s)
		}
	}
	day := time.Date(2026, 3, 1, 9, 5, 0, 0, time.UTC)
	if got := fr.moment(day); got != "dimanche\u00a01er mars 2026, 09:05" {
		t.Errorf("%q", got)
	}
	if got := en.day(day); got != "Sunday\u00a01 March 2026" {
		t.Errorf("%q", got)
	}
}

// TestRecordWords: the words of the page of one access are those with which the check in the browser compares them.
func TestRecordWords(t *testing.T) {
	for _, tag := range languages {
		l, err := loadLanguage(tag)
		if err != nil {
			t.Fatal(err)
		}
		words := verdict.RecordWords(verdict.Lang(l.code))
		if len(words) < 50 {
			t.Errorf("%s: %d words", l.code, len(words))
		}
		for key, want := range words {
			got, err := l.text(key, "agency", own("{{.agency}}"), "index", own("{{.index}}"), "size", own("{{.size}}"))
			if got, want := strings.Fields(got), strings.Fields(want); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %s is %q, and %q for the verifier (%v)", l.code, key, got, want, err)
			}
		}
	}
}

// TestWords refuses what isn't one line of words at a token.
func TestWords(t *testing.T) {
	w, err := BuiltInWords()
	if err != nil {
		t.Fatal(err)
	}
	if w.LegalBases["crpa-l114-8"].URL == "" || w.Purposes["bourse"].In("en") == "" {
		t.Errorf("%+v", w)
	}
	other, err := ParseWords([]byte("purposes:\n  bourse: {fr: a, en: b}\nlegal_bases:\n  x: {fr: c, en: d, url: https://x.invalid/}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if both := w.With(other); both.Purposes["bourse"].FR != "a" || both.LegalBases["x"].EN != "d" || both.LegalBases["crpa-l114-8"].FR == "" || w.Purposes["bourse"].FR == "a" {
		t.Errorf("%+v", both)
	}
	if empty, err := ParseWords(nil); err != nil || len(empty.Purposes) != 0 {
		t.Errorf("%v", err)
	}
	for name, text := range map[string]string{
		"an unknown key":       "purpose: {}\n",
		"no token":             "purposes: {A B: {fr: a, en: b}}\n",
		"a language missing":   "purposes: {a: {fr: a}}\n",
		"two lines":            "purposes: {a: {fr: \"a\\nb\", en: b}}\n",
		"no https":             "legal_bases: {a: {fr: a, en: b, url: \"http://x.invalid/\"}}\n",
		"a script as address":  "legal_bases: {a: {fr: a, en: b, url: \"javascript:alert(1)\"}}\n",
		"an alias":             "purposes: {a: &x {fr: a, en: b}, b: *x}\n",
		"two documents":        "purposes: {}\n---\npurposes: {}\n",
		"not YAML":             "{",
		"too long":             "purposes: {a: {fr: " + strings.Repeat("a", maxPhrase+1) + ", en: b}}\n",
		"more than the bounds": strings.Repeat(" ", maxWords+1),
	} {
		if _, err := ParseWords([]byte(text)); err == nil {
			t.Error(name)
		}
	}
}

// TestEncoded: an address stands in a page as in the file of names, whatever html/template makes of it.
func TestEncoded(t *testing.T) {
	page := template.Must(template.New("").Parse(`<a href="{{.}}">`))
	for _, u := range []string{"https://x.invalid/a(02)'é%C3%a9%zz%", "https://[::1]:8/~a-b_c.d?e=f&g=h+i,j;k:l@m#n!o$p*q\"r<s>t\\u^v`w{x|y}z\x7f"} {
		var b strings.Builder
		if err := page.Execute(&b, u); err != nil {
			t.Fatal(err)
		}
		href := html.UnescapeString(strings.TrimSuffix(strings.TrimPrefix(b.String(), `<a href="`), `">`))
		if got := encoded(u); got != href || encoded(got) != got {
			t.Errorf("%q for the file, %q in a page", got, href)
		}
	}
}

// TestPeriod: the days of a statement without a first or last one are those that the check in the browser takes it to be about (verdict.Days).
func TestPeriod(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	p := &Portal{zone: paris, now: func() time.Time { return time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC) }}
	for query, want := range map[string]string{
		"":                            "2025-11-27 2026-11-27",
		"au=2026-03-31":               "2025-03-31 2026-03-31",
		"du=&au=2026-03-31":           "2025-03-31 2026-03-31",
		"du=2026-02-01":               "2026-02-01 2026-11-27",
		"du=2026-02-01&au=2026-02-01": "2026-02-01 2026-02-01",
		"du=2027-01-01":               "2025-11-27 2026-11-27",
	} {
		form, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		x := p.period(form)
		if got := x.from.Format(time.DateOnly) + " " + x.to.Format(time.DateOnly); got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
}

func FuzzParseWords(f *testing.F) {
	f.Add(builtInWords)
	f.Add([]byte("purposes: {a: {fr: a, en: b}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := ParseWords(text)
		if err != nil {
			return
		}
		for token, p := range w.Purposes {
			if !proof.IsToken(token) || p.FR == "" || p.EN == "" {
				t.Errorf("%q: %+v", token, p)
			}
		}
	})
}

// FuzzFilter: whatever stands in a query, the filter is of the history's own values, and its links lead to the same filter.
func FuzzFilter(f *testing.F) {
	zone, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		f.Fatal(err)
	}
	p := &Portal{zone: zone}
	f.Add("agence=mairie&donnee=x&issue=denied&du=2026-03-29&au=2026-10-25&q=a%20b&page=2&vue=dense")
	f.Add("du=2026-13-01&q=%ff&page=-1")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		a := p.readFilter(q)
		u, err := url.Parse(a.query("", ""))
		if err != nil {
			t.Fatal(err)
		}
		b := p.readFilter(u.Query())
		a.page, a.mistakes = b.page, nil
		if diff := cmp.Diff(a, b, cmp.AllowUnexported(filter{}, mistake{})); diff != "" {
			t.Error(diff)
		}
	})
}

// heap is a broker with made-up entries.
type heap struct {
	Broker
	mu      sync.Mutex
	entries []broker.OwnEntry // by decreasing index, all under one subject
	reads   int
	fail    error
	lost    []store.Range
	endings store.Endings
	over    map[keys.KeyID]bool // keys that are gone, or of which an end was told
	reading func()              // is called once, when entries have been read; nil: it isn't
}

func (h *heap) Lasting(_ context.Context, of []keys.KeyID) (map[keys.KeyID]bool, error) {
	out := map[keys.KeyID]bool{}
	for _, id := range of {
		out[id] = !h.over[id]
	}
	return out, h.fail
}

func (h *heap) OwnDetails(_ context.Context, _ proof.Subject, from, to proof.Index) (n int, err error) {
	for _, e := range h.entries {
		if from <= e.Index && e.Index <= to && e.State != broker.HistoryRetired {
			n++
		}
	}
	return n, h.fail
}

// drop takes the details of entries of a month away, the oldest first: up to n.
func (h *heap) drop(under keys.KeyID, n int) {
	h.entries = slices.Clone(h.entries)
	for i, e := range slices.Backward(h.entries) {
		if e.Under == under && e.State != broker.HistoryRetired && n > 0 {
			h.entries[i] = broker.OwnEntry{Index: e.Index, Kind: e.Kind, State: broker.HistoryRetired, Under: e.Under}
			n--
		}
	}
}

func (h *heap) Endings(context.Context) (store.Endings, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.endings, h.fail
}

func (h *heap) NewestOwn(context.Context, proof.Subject) (proof.Index, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.entries) == 0 {
		return 0, h.fail
	}
	return h.entries[0].Index, h.fail
}

func (h *heap) OwnEntries(_ context.Context, _ proof.Subject, before proof.Index, limit int) (page []broker.OwnEntry, next proof.Index, err error) {
	if f := h.reading; f != nil {
		h.reading = nil
		defer f()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	for _, e := range h.entries {
		if before != 0 && e.Index >= before {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].Index, h.fail
		}
		e.Scopes = slices.Clone(e.Scopes)
		page = append(page, e)
	}
	return page, 0, h.fail
}

func (h *heap) OwnLost(context.Context) ([]store.Range, error) { return h.lost, nil }

// made are n entries of several agencies and services over some years.
func made(n int) []broker.OwnEntry {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]broker.OwnEntry, n)
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for i := range out {
		out[i] = broker.OwnEntry{
			Index: proof.Index(10*(n-i) + 3), Under: keys.KeyID{byte(at.Year() - 2000), byte(at.Month())}, Kind: proof.KindDisclosure, State: broker.HistoryOpen, At: at, ID: fmt.Sprintf("01a21607-5bbc-7766-8a07-%012d", i), Role: proof.RoleAsked, Agency: fmt.Sprintf("agence-%d", r.IntN(20)), Provider: "cnaf",
			Service: fmt.Sprintf("service-%d@1", r.IntN(10)), Purpose: fmt.Sprintf("but-%d", r.IntN(8)), LegalBasis: "crpa-l114-8", Outcome: statuses[r.IntN(4)], Scopes: []service.Scope{"a", "b"},
		}
		at = at.Add(-time.Duration(r.IntN(9*3600)) * time.Second)
	}
	return out
}

func subject(t testing.TB, name string) proof.Subject {
	t.Helper()
	s, err := proof.Pivot{BirthName: name, GivenNames: "A", BirthDate: "1990-01-01", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"}.Subject()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestJournal: read once, then brought up to date by what is new alone; made anew after an erasure, with other identifiers, and when it is old.
func TestJournal(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	all := made(1000)
	h := &heap{entries: slices.Clone(all[10:])}
	j := newJournals(h, func() time.Time { return now })
	s := &Session{Account: "a", Subjects: []proof.Subject{subject(t, "Un")}}
	read := func() *journal {
		t.Helper()
		x, err := j.of(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(x.entries, func(a, b broker.OwnEntry) int { return b.At.Compare(a.At) }) {
			t.Error("not by time")
		}
		return x
	}
	reads := func(want int, why string) {
		t.Helper()
		if h.reads != want {
			t.Errorf("%s: read %d times, want %d", why, h.reads, want)
		}
		h.reads = 0
	}
	if x := read(); len(x.entries) != 990 || len(x.agencies) != 20 || len(x.services) != 10 || len(x.statuses) != 4 {
		t.Errorf("%d entries", len(x.entries))
	}
	reads(5, "first")
	read()
	reads(0, "again")
	h.entries = all
	if x := read(); len(x.entries) != 1000 || x.entries[0].Index != all[0].Index {
		t.Errorf("%d entries", len(x.entries))
	}
	reads(1, "ten new ones")
	erasure := broker.OwnEntry{Index: all[0].Index + 1, Kind: proof.KindErasure, State: broker.HistoryOpen, At: all[0].At.Add(time.Second)}
	h.entries = append([]broker.OwnEntry{erasure}, all[500:]...)
	if x := read(); len(x.entries) != 501 {
		t.Errorf("after an erasure %d entries", len(x.entries))
	}
	reads(1+3, "an erasure")
	now = now.Add(journalAge + time.Second)
	read()
	reads(3, "an old one")
	s.Subjects = []proof.Subject{subject(t, "Deux")}
	read()
	reads(3, "another identifier")
	if read().lost {
		t.Error("nothing was lost")
	}
	h.lost = []store.Range{{From: 1, To: 2}}
	now = now.Add(journalAge + time.Second)
	if !read().lost {
		t.Error("that something was lost isn't known")
	}
	reads(3, "an old one")
	j.forget("a")
	read()
	reads(3, "after it was forgotten")
	j.forget("a")
	if j.size != 0 || len(j.by) != 0 || j.used.Len() != 0 {
		t.Errorf("something is kept: %d", j.size)
	}
	read()
	reads(3, "after it was forgotten")
	h.fail = errors.New("down")
	if _, err := j.of(t.Context(), s); !errors.Is(err, h.fail) {
		t.Errorf("an error of the store: %v", err)
	}
}

// TestJournalWhileAMonthEnds: what an end of a retention takes away is seen, and nothing is read again but the entries of that month, and these only when some of them lost their details.
func TestJournalWhileAMonthEnds(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	h := &heap{entries: made(1000), over: map[keys.KeyID]bool{}, endings: store.Endings{Kept: 9}}
	j := newJournals(h, func() time.Time { return now })
	s := &Session{Account: "a", Subjects: []proof.Subject{subject(t, "Un")}}
	month := h.entries[999].Under
	of := 0
	for _, e := range h.entries {
		if e.Under == month {
			of++
		}
	}
	if of < 20 || of > journalPage {
		t.Fatalf("%d entries of the oldest month", of)
	}
	shows := func(why string, retired, reads int) {
		t.Helper()
		h.reads = 0
		x, err := j.of(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if len(x.entries) != 1000 || len(x.form) != 1000 || j.size != 1000 {
			t.Fatalf("%s: %d entries", why, len(x.entries))
		}
		got := 0
		for i, e := range x.entries {
			if e.State == broker.HistoryRetired {
				if got++; e.Agency != "" || !e.At.IsZero() || statusOf(x.forms[x.form[i]]) != "retired" {
					t.Errorf("%s: %+v", why, e)
				}
			} else if got > 0 {
				t.Errorf("%s: one with details comes after one without", why)
			}
		}
		if got != retired || h.reads != reads || slices.Contains(x.statuses, "retired") != (retired > 0) {
			t.Errorf("%s: %d are over, read %d times, want %d and %d", why, got, h.reads, retired, reads)
		}
	}
	shows("before", 0, 5)
	h.over[month], h.endings = true, store.Endings{Told: 1, Kept: 9, Underway: true}
	shows("its end is told, which is seen a moment later", 0, 0)
	now = now.Add(journalLook + time.Millisecond)
	shows("its end is told", 0, 1)
	shows("nothing is taken yet", 0, 0)
	now = now.Add(journalLook + time.Millisecond)
	shows("nothing is taken yet, a moment later", 0, 0)
	h.drop(month, 10)
	now = now.Add(journalLook)
	shows("what is taken is seen a moment later", 0, 0)
	now = now.Add(time.Millisecond)
	shows("ten lost their details", 10, 1)
	h.entries = append([]broker.OwnEntry{h.entries[0]}, h.entries[:999]...)
	h.entries[0].Index += 10
	h.drop(month, 1)
	now = now.Add(journalLook + time.Millisecond)
	h.reads = 0
	if x, err := j.of(t.Context(), s); err != nil || len(x.entries) != 1001 || x.entries[0].Index != h.entries[0].Index || h.reads != 2 {
		t.Fatalf("a new entry meanwhile: %v, read %d times", err, h.reads)
	}
	h.entries = h.entries[1:]
	j.forget("a")
	h.entries = append(h.entries, broker.OwnEntry{Index: 1, Kind: proof.KindDisclosure, State: broker.HistoryRetired, Under: month})
	shows("made anew meanwhile", 11, 5)
	h.drop(month, of)
	h.endings = store.Endings{Told: 1, Kept: 8}
	now = now.Add(journalLook + time.Millisecond)
	shows("the month is over", of, 1)
	now = now.Add(journalLook + time.Millisecond)
	shows("and stays so", of, 0)
	// A key that is gone though nobody told is none that lasts.
	next := h.entries[999-of].Under
	h.over[next], h.endings.Kept = true, 7
	now = now.Add(journalLook + time.Millisecond)
	shows("a key is gone", of, 1)
	h.fail = errors.New("down")
	h.endings.Kept--
	now = now.Add(journalLook + time.Millisecond)
	if _, err := j.of(t.Context(), s); !errors.Is(err, h.fail) {
		t.Errorf("an error of the store: %v", err)
	}
}

// TestSweep: what was erased, is old, or can't be looked after isn't kept though no page is asked for; what is new is read, and nothing else.
func TestSweep(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	all := made(1000)
	h := &heap{entries: slices.Clone(all)}
	j := newJournals(h, func() time.Time { return now })
	one := []proof.Subject{subject(t, "Un")}
	open := func() {
		t.Helper()
		if _, err := j.of(t.Context(), &Session{Account: "a", Subjects: one}); err != nil {
			t.Fatal(err)
		}
		h.reads = 0
	}
	keeps := func(entries, reads int, want error) {
		t.Helper()
		if err := j.sweep(t.Context()); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if j.size != entries || h.reads != reads {
			t.Errorf("%d entries are kept after %d reads, want %d and %d", j.size, h.reads, entries, reads)
		}
	}
	keeps(0, 0, nil)
	open()
	keeps(1000, 0, nil)
	h.entries = append([]broker.OwnEntry{{Index: all[0].Index + 1, Kind: proof.KindErasure, State: broker.HistoryOpen, At: all[0].At.Add(time.Second)}}, all[500:]...)
	keeps(501, 1+3, nil)
	h.reads = 0
	h.endings.Told++
	now = now.Add(journalLook + time.Millisecond) // endings are looked for no oftener
	keeps(501, 0, nil)
	h.over = map[keys.KeyID]bool{h.entries[500].Under: true}
	h.drop(h.entries[500].Under, 5)
	h.endings.Kept++
	now = now.Add(journalLook + time.Millisecond)
	keeps(501, 1, nil)
	if x := j.by["a"].Value.(*kept).journal.Load(); x.entries[500].State != broker.HistoryRetired {
		t.Error("details that are over are kept")
	}
	now = now.Add(journalAge + time.Second)
	h.reads = 0
	keeps(0, 0, nil)
	open()
	h.fail = errors.New("down")
	keeps(0, 0, h.fail)
	h.fail = nil
	open()
	now = now.Add(journalIdle + time.Second)
	keeps(0, 0, nil)
}

// TestRenewed: who goes on reading waits once, for the first page; what takes time is done between pages, and hides nothing that comes meanwhile.
func TestRenewed(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	all := made(1000)
	h := &heap{entries: all[10:]}
	j := newJournals(h, func() time.Time { return now })
	s := &Session{Account: "a", Subjects: []proof.Subject{subject(t, "Un")}}
	page := func(what string, entries, reads int) {
		t.Helper()
		h.reads = 0
		x, err := j.of(t.Context(), s)
		if err != nil || len(x.entries) != entries || h.reads != reads || j.size != entries {
			t.Errorf("%s: %d entries after %d reads, want %d after %d; %d are kept, %v", what, len(x.entries), h.reads, entries, reads, j.size, err)
		}
	}
	sweep := func(what string, reads int, want error) {
		t.Helper()
		h.reads = 0
		if err := j.sweep(t.Context()); !errors.Is(err, want) || h.reads != reads {
			t.Errorf("%s: %d reads, want %d, %v", what, h.reads, reads, err)
		}
		if h.reading != nil {
			t.Fatalf("%s: nothing was read", what)
		}
	}
	page("the first", 990, 5)
	for i := range 30 { // minutes, in each of which a page is asked for
		now = now.Add(time.Minute)
		page("one that goes on", 990, 0)
		sweep("between pages", map[bool]int{true: 5}[i%6 == 5], nil)
	}
	// Meanwhile a new entry comes, and another page.
	now = now.Add(journalRenew)
	page("before it", 990, 0)
	h.reading = func() {
		h.entries = all
		page("while it is made anew", 1000, 1)
	}
	sweep("made anew", 5, nil)
	page("after it", 1000, 1)
	// Or an erasure.
	now = now.Add(journalRenew)
	page("before it", 1000, 0)
	h.reading = func() {
		h.entries = append([]broker.OwnEntry{{Index: all[0].Index + 1, Kind: proof.KindErasure, State: broker.HistoryOpen, At: all[0].At.Add(time.Second)}}, all[500:]...)
		page("while it is made anew", 501, 1+3)
	}
	sweep("made anew", 1+3+3, nil)
	page("after it", 501, 1+3)
	// Or another identifier.
	now = now.Add(journalRenew)
	page("before it", 501, 0)
	was := s
	h.reading = func() {
		s = &Session{Account: "a", Subjects: []proof.Subject{subject(t, "Deux")}}
		page("of another identifier", 501, 3)
	}
	sweep("made anew", 2+3, nil)
	page("it isn't put in the place of another's", 501, 0)
	s = was
	// What nobody reads is left to grow old, and what can't be made anew isn't kept.
	page("of the first again", 501, 3)
	now = now.Add(journalRenew)
	sweep("nobody reads", 0, nil)
	now = now.Add(journalAge - journalRenew + 1)
	sweep("it is too old", 0, nil)
	if j.size != 0 {
		t.Errorf("%d entries are kept", j.size)
	}
	page("of who comes back", 501, 3)
	now = now.Add(journalRenew)
	page("before it", 501, 0)
	down := errors.New("down")
	h.reading = func() { h.fail = down }
	sweep("made anew", 2, down)
	if j.size != 0 {
		t.Errorf("%d entries are kept", j.size)
	}
}

// TestJournalsAreBounded: in what one person has, in what all have, and in time.
func TestJournalsAreBounded(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	h := &heap{entries: made(maxJournal + 300)}
	j := newJournals(h, func() time.Time { return now })
	one := []proof.Subject{subject(t, "Un")}
	for i := range maxKept/maxJournal + 2 {
		x, err := j.of(t.Context(), &Session{Account: fmt.Sprint(i), Subjects: one})
		if err != nil || len(x.entries) != maxJournal || !x.cut || x.entries[0].Index != h.entries[0].Index {
			t.Fatalf("%d entries, %v", len(x.entries), err)
		}
		if j.size > maxKept {
			t.Fatalf("%d entries are kept", j.size)
		}
	}
	if _, ok := j.by["0"]; ok || j.used.Len() != maxKept/maxJournal {
		t.Errorf("%d are kept", j.used.Len())
	}
	now = now.Add(journalIdle + time.Second)
	h.entries = h.entries[:1]
	if _, err := j.of(t.Context(), &Session{Account: "new", Subjects: one}); err != nil || j.used.Len() != 1 || j.size != 1 {
		t.Errorf("%v; %d are kept, %d entries", err, j.used.Len(), j.size)
	}
}

// HistoryFile fails: what is tested is who comes so far.
func (h *heap) HistoryFile(context.Context, []proof.Subject, proof.EpochRange) (*broker.HistoryFile, error) {
	return &broker.HistoryFile{}, h.fail
}

// TestPlaces: a few histories are made at a time; others wait for a place, and are told so when there is none.
func TestPlaces(t *testing.T) {
	h := &heap{fail: errors.New("came so far")}
	p := &Portal{cfg: Config{Broker: h}, making: make(chan struct{}, 1), wait: time.Minute}
	r := &request{Request: httptest.NewRequest(http.MethodGet, "/", nil)}
	attempt := func() error {
		return p.makeHistory(r, &Session{}, p.ownFile(r, &Session{}, proof.EpochRange{}), nil)
	}
	for range 3 { // a place is given back
		if err := attempt(); !errors.Is(err, h.fail) {
			t.Fatal(err)
		}
	}
	p.making <- struct{}{}
	done := inBackground(attempt)
	<-p.making // one place becomes free
	if err := <-done; !errors.Is(err, h.fail) {
		t.Error(err)
	}
	p.making <- struct{}{}
	p.wait = time.Millisecond
	if err := attempt(); !errors.Is(err, errBusy) {
		t.Error(err)
	}
	p.wait = time.Minute
	gone, cancel := context.WithCancel(t.Context())
	r.Request = r.WithContext(gone)
	cancel()
	if err := attempt(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestTurns: whoever asks again and again takes one place; the others are for others, and what is made of a history is made in its place.
func TestTurns(t *testing.T) {
	h := &heap{}
	p := &Portal{cfg: Config{Broker: h}, making: make(chan struct{}, 2), wait: time.Minute}
	r := &request{Request: httptest.NewRequest(http.MethodGet, "/", nil)}
	at, on := make(chan struct{}), make(chan struct{})
	first := inBackground(func() error {
		return p.makeHistory(r, &Session{Account: "a"}, p.ownFile(r, &Session{}, proof.EpochRange{}), func(*proof.History) error { close(at); <-on; return nil })
	})
	<-at
	used := func(account string) error {
		return p.makeHistory(r, &Session{Account: account}, p.ownFile(r, &Session{}, proof.EpochRange{}), func(*proof.History) error { return nil })
	}
	if err := used("b"); err != nil {
		t.Error(err)
	}
	p.wait = time.Millisecond
	if err := used("a"); !errors.Is(err, errBusy) {
		t.Errorf("a second place of the same account: %v", err)
	}
	p.wait = time.Minute
	close(on)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := used("a"); err != nil || len(p.turns.by) != 0 || len(p.making) != 0 {
		t.Errorf("%v; %d accounts are kept", err, len(p.turns.by))
	}
}

func inBackground(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// TestJournalOfMany: however many identifiers somebody has, what is in memory while their outline is made is bounded.
func TestJournalOfMany(t *testing.T) {
	h := &heap{entries: made(maxJournal)}
	s := &Session{Account: "a"}
	for i := range 8 {
		s.Subjects = append(s.Subjects, subject(t, "Nom "+string(rune('A'+i))))
	}
	x, err := newJournals(h, time.Now).of(t.Context(), s)
	if err != nil || len(x.entries) != maxJournal || !x.cut || cap(x.entries) > 4*maxJournal {
		t.Errorf("%v; %d entries of %d, cut: %v", err, len(x.entries), cap(x.entries), x.cut)
	}
}

// TestJournalTogether: requests of one account at once share what one of them reads.
func TestJournalTogether(t *testing.T) {
	h := &heap{entries: made(1000)}
	j := newJournals(h, time.Now)
	s := &Session{Account: "a", Subjects: []proof.Subject{subject(t, "Un")}}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if x, err := j.of(t.Context(), s); err != nil || len(x.entries) != 1000 {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if h.reads != 5 {
		t.Errorf("read %d times", h.reads)
	}
}

// TestSpreadsheetLines: whatever separator a spreadsheet splits at, a cell stays one cell, and nothing in it begins a formula.
func TestSpreadsheetLines(t *testing.T) {
	for _, c := range []struct{ cell, want string }{
		{"", `""`},
		{"Mairie d'Exempleville", `"Mairie d'Exempleville"`},
		{`un "mot"`, `"un ""mot"""`},
		{"un ; deux, trois", `"un ; deux, trois"`},
		{"un\tdeux", `"undeux"`},
		{"=1+1", `"'=1+1"`},
		{" @A1", `" '@A1"`},
		{"\uff1d1", "\"'\uff1d1\""},
		{"x;=1+1;y", `"x;'=1+1;y"`},
		{"x, -1", `"x, '-1"`},
		{"x\t=1;\t+2", `"x=1;'+2"`},
		{"saint-denis", `"saint-denis"`},
	} {
		for _, comma := range []string{";", ","} {
			var out strings.Builder
			writeLine(&out, comma, []string{c.cell, "fin"})
			if want := c.want + comma + "\"fin\"\r\n"; out.String() != want {
				t.Errorf("%q: %q, want %q", c.cell, out.String(), want)
			}
			r := csv.NewReader(strings.NewReader(out.String()))
			r.Comma = rune(comma[0])
			if got, err := r.Read(); err != nil || len(got) != 2 || got[0] != harmless(c.cell) {
				t.Errorf("%q is read as %q, %v", c.cell, got, err)
			}
		}
	}
}

// TestOutcomesAreThoseOfTheCheck: a page that says another word for an outcome than the check in the browser expects would be refuted.
func TestOutcomesAreThoseOfTheCheck(t *testing.T) {
	a, err := loadAssets()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := loadLanguages(a)
	if err != nil {
		t.Fatal(err)
	}
	for code, l := range pages {
		for _, s := range statuses {
			if got, want := l.fixed["status."+s], verdict.Outcome(s, verdict.Lang(code)); got != want {
				t.Errorf("%s: %s is %q on pages, and %q in the check", code, s, got, want)
			}
		}
	}
}

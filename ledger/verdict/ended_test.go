package verdict

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// withEnd is a published history after the end of the retention of its epoch 0, the rows that a page shows of it, and the ones that it goes on showing of what has ended.
func withEnd(t *testing.T, lang Lang) (in Input, rows, over []Row) {
	t.Helper()
	v, p := load(t)
	_, in = check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
	in.Verdict.Ended = []proof.EpochRange{{}}
	in.Verdict.Entries = slices.DeleteFunc(in.Verdict.Entries, func(e proof.VerifiedEntry) bool {
		if e.Epoch == 0 {
			over = append(over, honest(in, &proof.VerifiedEntry{Index: e.Index, State: proof.RecordRetired}))
		}
		return e.Epoch == 0
	})
	slices.Reverse(over)
	for _, e := range in.before(closer(in.History)) {
		rows = append(rows, honest(in, e))
	}
	if len(over) == 0 || len(rows) < 3 {
		t.Fatalf("%d rows of epoch 0, and %d others", len(over), len(rows))
	}
	return in, rows, over
}

// TestEnded: a page goes on showing records whose retention has ended, of which nothing is proven any more; that is no refutation, and no way to hide others.
func TestEnded(t *testing.T) {
	for _, lang := range []Lang{French, English} {
		in, rows, over := withEnd(t, lang)
		join := func(parts ...[]Row) []Row { return slices.Concat(parts...) }
		told := over[0]
		told.Outcome = proof.OutcomeReleased
		hidden := over[0]
		hidden.Hidden = true
		next := over[0]
		e, _ := in.epochOf(*next.Index)
		next.At = utc(e.Opened + (e.closed-e.Opened)/2)
		living := honest(in, &proof.VerifiedEntry{Index: *rows[0].Index, State: proof.RecordRetired})
		wrong := *rows[0].Index
		for wrong++; slices.ContainsFunc(rows, func(r Row) bool { return *r.Index == wrong }); wrong++ {
		}
		foreign := honest(in, &proof.VerifiedEntry{Index: wrong, State: proof.RecordRetired})
		for name, c := range map[string]struct {
			rows  []Row
			view  *View
			state State
			says  string // the sentence, or a limit
		}{
			"all":                            {join(rows, over), nil, Proven, lang.pick(fmt.Sprintf("dont la conservation est terminée, et dont plus rien n'est prouvé : %d", len(over)), fmt.Sprintf("whose retention is over, and of which nothing is proven any more: %d", len(over)))},
			"all, of a page of pages":        {join(rows, over), &View{}, Proven, ""},
			"a page of what has ended":       {over, &View{Page: "2"}, Proven, ""},
			"one with details":               {join(rows, []Row{told}), &View{}, Limited, lang.pick("Rechargez la page", "Load the page again")},
			"of a month that isn't this one": {join(rows, []Row{next}), &View{}, Limited, lang.pick("affichés en détail", "shown in detail")},
			"one is left out":                {join(rows[1:], over), &View{}, Refuted, lang.pick("la page cache un accès", "the page hides a recorded request")},
			"the oldest is left out":         {join(rows[:len(rows)-1], over), &View{}, Refuted, lang.pick("la page cache un accès", "the page hides a recorded request")},
			"those alone, as the first page": {over, &View{}, Refuted, lang.pick("la page cache un accès", "the page hides a recorded request")},
			"nothing, as another page":       {nil, &View{Page: "2"}, Refuted, lang.pick("la page cache un accès", "the page hides a recorded request")},
			"one that can't be seen":         {join(rows, []Row{hidden}), &View{}, Refuted, lang.pick("ne le montre pas", "doesn't show it")},
			"one twice":                      {join(rows, over, over[:1]), &View{}, Refuted, lang.pick("deux fois", "twice")},
			"one whose epoch has not ended":  {join([]Row{living}, rows[1:]), &View{}, Refuted, lang.pick("autrement qu'il a été enregistré", "otherwise than it was recorded")},
			"of an epoch that has not ended": {join(rows, []Row{foreign}), &View{}, Refuted, lang.pick("n'est pas dans votre liste", "is not in your list")},
			"in another order":               {join(rows[1:], rows[:1], over), &View{}, Refuted, lang.pick("dans un autre ordre", "in another order")},
		} {
			r := New(in)
			own := len(r.Limits)
			r.ComparePage(Page{Lang: lang, Names: namesHeader + "\n", Rows: c.rows, View: c.view}, in)
			said := r.Sentence + fmt.Sprint(r.Limits)
			if r.State != c.state || !strings.Contains(said, c.says) || c.state != Refuted && len(r.Limits) != own+1 {
				t.Errorf("%s: %s %s", name, r.State, said)
			}
			if c.state == Refuted {
				continue
			}
			for i, m := range r.Rows {
				if ended := slices.ContainsFunc(over, func(o Row) bool { return *o.Index == *c.rows[i].Index }); ended != (m.State == RowOutside) || ended != strings.Contains(m.Text, lang.pick("Conservation terminée", "Retention over")) {
					t.Errorf("%s: row %d is marked %+v", name, i, m)
				}
			}
		}
	}
}

// TestEndedAtMidnight: what was asked in the month that began within an epoch is kept for as long as that month: it has its details, and no list that proves it.
func TestEndedAtMidnight(t *testing.T) {
	in, _, over := withEnd(t, French)
	c := comparison{in: in}
	row := over[0]
	e, _ := in.epochOf(*row.Index)
	for at, want := range map[string]bool{utc(e.Opened): false, utc(e.closed + 1000): false, "": false, "x": false} {
		row.At = at
		if got := c.ofNextMonth(row); got != want {
			t.Errorf("%q: %v", at, got)
		}
	}
	// An epoch that begins on 30 November.
	for i, text := range in.History.Markers {
		m := marker(text)
		m.Opened += 6 * 86_400_000
		m.Until += 6 * 86_400_000
		var err error
		if in.History.Markers[i], err = m.AppendText(nil); err != nil {
			t.Fatal(err)
		}
	}
	row.At = "2025-12-01T02:00:00Z"
	if c.in = in; !c.ofNextMonth(row) {
		t.Error("an hour of the next month isn't one")
	}
	row.At = "2025-11-30T23:00:00Z"
	if c.ofNextMonth(row) {
		t.Error("an hour of this month is one of the next")
	}
}

// TestBesideEnded: nobody can tell how many records of ended epochs stand before one that is undated, or as old: what can only be explained by them is a limit, and nothing else is explained by them.
func TestBesideEnded(t *testing.T) {
	want := make([]*proof.VerifiedEntry, 2*PageRows)
	for i := range want { // undated, as what is lost
		want[i] = &proof.VerifiedEntry{Index: proof.Index(1000 - i), Epoch: 2, State: proof.RecordLost}
	}
	in := Input{Verdict: &proof.HistoryVerdict{Ended: []proof.EpochRange{{}}}}
	for name, c := range map[string]struct {
		from, to, ended int
		page            string
		first, last     int
		beside          bool
	}{
		"as it would be without":              {0, PageRows, 1, "1", 0, PageRows, false},
		"two pushed away":                     {0, PageRows - 2, 2, "1", 0, PageRows, true},
		"three, by two":                       {0, PageRows - 3, 2, "1", 0, PageRows, false},
		"by none":                             {0, PageRows - 2, 0, "1", 0, PageRows, false},
		"all of them":                         {0, 0, PageRows, "1", 0, PageRows, true},
		"behind two of the page before":       {PageRows - 2, 2*PageRows - 3, 1, "2", PageRows, 2 * PageRows, true},
		"behind some that were left out":      {PageRows + 1, 2 * PageRows, 1, "2", PageRows, 2 * PageRows, false},
		"on a page behind all":                {0, 0, 1, "3", 2 * PageRows, 2 * PageRows, false},
		"an empty page behind all":            {0, 0, 0, "3", PageRows, 2 * PageRows, false},
		"the last ones, on a page behind all": {PageRows, 2 * PageRows, 3, "9", PageRows, 2 * PageRows, false},
	} {
		x := comparison{in: in, ended: endedRows{rows: c.ended}}
		for _, e := range want[c.from:c.to] {
			x.listed = append(x.listed, e.Index)
		}
		if first, last, beside := x.beside(View{Page: c.page}, want); first != c.first || last != c.last || beside != c.beside {
			t.Errorf("%s: %d to %d, %v", name, first, last, beside)
		}
		if len(x.listed) < 5 || !c.beside {
			continue
		}
		for what, listed := range map[string][]proof.Index{"a hole": slices.Delete(slices.Clone(x.listed), 2, 3), "another order": append(slices.Clone(x.listed[1:]), x.listed[0])} {
			y := x
			if y.listed = listed; what == "a hole" {
				y.ended.rows++
			}
			if _, _, beside := y.beside(View{Page: c.page}, want); beside {
				t.Errorf("%s: %s is explained", name, what)
			}
		}
	}
	// What is dated after all that has ended comes before it: nothing of it can be pushed away.
	in, _, _ = withEnd(t, French)
	living := in.before(closer(in.History))
	x := comparison{in: in, ended: endedRows{rows: PageRows}}
	if _, _, beside := x.beside(View{}, living); beside || len(living) < 3 {
		t.Errorf("%d dated requests may be left out", len(living))
	}
}

// TestEndedRecord: the page of an access whose retention has ended is neither refuted nor proven.
func TestEndedRecord(t *testing.T) {
	for _, lang := range []Lang{French, English} {
		in, rows, over := withEnd(t, lang)
		report := func(i proof.Index) *Report {
			r := New(in)
			page := honestRecord(t, in, lang, &proof.VerifiedEntry{Index: i, State: proof.RecordRetired})
			r.ComparePage(page, in)
			return r
		}
		r := report(*over[0].Index)
		if r.State != Unverified || r.Title != Title(Unverified, lang) || !strings.Contains(r.Sentence, lang.pick("La conservation de cet accès est terminée", "The retention of this request is over")) ||
			len(r.Limits) != 1 || r.Limits[0].Kind != Standing || len(r.Rows) != 1 || r.Rows[0].State != RowOutside || r.Refuted != nil || r.Covers != "" {
			t.Errorf("%+v", r)
		}
		if r := report(*rows[0].Index); r.State != Refuted {
			t.Errorf("one whose epoch has not ended: %s %s", r.State, r.Sentence)
		}
	}
}

// TestRetiredMeanwhile: a page of a moment before the details of an entry ended is neither proven as a whole nor refuted, whatever its part of the history; what it says of the others still counts.
func TestRetiredMeanwhile(t *testing.T) {
	for _, lang := range []Lang{French, English} {
		v, p := load(t)
		_, in := check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
		names := new(Names)
		list := func(view View) (out []Row) {
			t.Helper()
			entries, exactly := in.through(view.usable(), names, lang, in.before(closer(in.History)))
			if !exactly {
				t.Fatalf("%+v", view)
			}
			for _, e := range entries {
				out = append(out, honest(in, e))
			}
			return out
		}
		before := in.before(closer(in.History))
		at := slices.IndexFunc(before, func(e *proof.VerifiedEntry) bool {
			return !e.Opening.IsZero() && e.Opening.Schema() == proof.SchemaDisclosure && e.Kind == proof.KindDisclosure && timeOf(e) > 0
		})
		e := before[at]
		agency, outcome, day := e.Opening.Text(proof.DisclosureAgency), statusOf(e, false), paris(timeOf(e).Time()).Format("2006-01-02")
		by, of, then, retired := View{Agency: agency}, View{Outcome: outcome}, View{From: day}, View{Outcome: "retired"}
		whole, ofAgency, ofOutcome, ofDay, page := list(View{}), list(by), list(of), list(then), honestRecord(t, in, lang, e)
		if agency == "" || len(ofAgency) < 2 || len(ofOutcome) < 2 || len(ofDay) < 1 || len(whole) < 4 || *whole[at].Index != e.Index {
			t.Fatalf("%q: %d, %d, %d of %d", agency, len(ofAgency), len(ofOutcome), len(ofDay), len(whole))
		}
		without := slices.Delete(slices.Clone(whole), at, at+1)
		e.State, e.Opening, e.Deferred = proof.RecordRetired, proof.Opening{}, nil
		const unclear, red = "n'est pas comparé|isn't compared", "cache un accès|hides a recorded request"
		for name, c := range map[string]struct {
			rows  []Row
			view  *View
			state State
			says  string
		}{
			"of one agency":               {ofAgency, &by, Limited, unclear},
			"of one outcome":              {ofOutcome, &of, Limited, unclear},
			"of some days":                {ofDay, &then, Limited, unclear},
			"of what is retired":          {nil, &retired, Limited, unclear},
			"all":                         {whole, &View{}, Limited, unclear},
			"all of the file":             {whole, nil, Limited, unclear},
			"a moment later, of agency":   {list(by), &by, Proven, ""},
			"a moment later, of retired":  {list(retired), &retired, Proven, ""},
			"a moment later, all":         {list(View{}), &View{}, Proven, ""},
			"one is left out":             {ofAgency[:len(ofAgency)-1], &by, Refuted, red},
			"one of all is left out":      {slices.Concat(whole[:at+1], whole[at+2:]), &View{}, Refuted, red},
			"one of the file is left out": {whole[:len(whole)-1], nil, Refuted, red},
			"itself is left out":          {without, &View{}, Refuted, red},
			"itself is left out of all":   {without, nil, Refuted, red},
			"in another order":            {slices.Concat(whole[at:], whole[:at]), &View{}, Refuted, "dans un autre ordre|in another order"},
			"one of another agency":       {append(slices.Clone(ofAgency), whole[slices.IndexFunc(whole, func(r Row) bool { return r.Agency != agency })]), &by, Refuted, "n'est pas de cette partie|is not of this part"},
		} {
			r := New(in)
			r.ComparePage(Page{Lang: lang, Names: namesHeader + "\n", Rows: c.rows, View: c.view}, in)
			said := r.Sentence + fmt.Sprint(r.Limits)
			fr, en, _ := strings.Cut(c.says, "|")
			if r.State != c.state || !strings.Contains(said, lang.pick(fr, en)) {
				t.Errorf("%s: %s %s", name, r.State, said)
			}
		}
		r := New(in)
		r.ComparePage(page, in)
		if r.State != Unverified || r.Title != Title(Unverified, lang) || r.Refuted != nil || len(r.Limits) != 1 || r.Limits[0].Kind != Worrying || !strings.Contains(r.Limits[0].Lift, lang.pick("Rechargez la page", "Load the page again")) || len(r.Rows) != 1 || r.Rows[0].State != RowOutside {
			t.Errorf("its own page: %+v", r)
		}
		r = New(in)
		r.ComparePage(honestRecord(t, in, lang, e), in)
		if r.Refuted != nil || r.Rows[0].State != RowVerified {
			t.Errorf("its own page, a moment later: %+v", r)
		}
	}
}

// TestRanksOfRetired: by as many ranks as entries are retired, and no more, pages may differ.
func TestRanksOfRetired(t *testing.T) {
	const n, few = 2 * PageRows, 2
	for name, c := range map[string]struct {
		from, to, retired int
		page              string
		want              bool
		gone              int // 0: few
	}{
		"one before":                        {0, PageRows - 1, 1, "1", true, 0},
		"one before, on the next":           {PageRows - 1, 2*PageRows - 1, 0, "2", true, 0},
		"two before, on the next":           {PageRows - 2, 2*PageRows - 2, 0, "2", true, 0},
		"three before, of two":              {PageRows - 3, 2*PageRows - 3, 0, "2", false, 0},
		"the first is left out":             {1, PageRows + 1, 0, "1", false, 0},
		"the page isn't full":               {0, PageRows - 2, 1, "1", false, 0},
		"the rest, behind the others":       {n - 1, n, 1, "3", true, 0},
		"none but them, on a page behind":   {0, 0, 2, "3", true, 0},
		"none at all, on a page behind":     {0, 0, 0, "3", true, 0},
		"none at all, on the first":         {0, 0, 0, "1", false, 0},
		"the last page, of those behind it": {n - 1, n, 1, "9", true, 0},
		"a page of nothing else":            {0, 0, PageRows, "2", true, PageRows},
		"a part of a page of nothing else":  {0, 0, PageRows - 1, "2", false, PageRows},
	} {
		if c.gone == 0 {
			c.gone = few
		}
		entries := make([]proof.VerifiedEntry, n+c.gone)
		living, retired := []*proof.VerifiedEntry{}, []proof.Index{}
		for i := range entries {
			entries[i] = proof.VerifiedEntry{Index: proof.Index(1000 - i), State: proof.RecordLost}
			if i >= n {
				entries[i].State = proof.RecordRetired
				retired = append(retired, entries[i].Index)
			} else {
				living = append(living, &entries[i])
			}
		}
		x := comparison{in: Input{Verdict: &proof.HistoryVerdict{Entries: entries}}, horizon: 1001, entries: map[proof.Index]*proof.VerifiedEntry{}, page: Page{View: &View{Page: c.page}}}
		for i := range entries {
			x.entries[entries[i].Index] = &entries[i]
		}
		for _, e := range living[c.from:c.to] {
			x.listed = append(x.listed, e.Index)
		}
		x.listed = append(x.listed, retired[:c.retired]...)
		if got := x.byRetirement(living, nil, part{filtered: true}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

package verdict

import (
	"slices"
	"strconv"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// The month's key by which labels are proven ends with its retention, as the log says; pages go on listing its records. Of these nothing is proven any more, and nothing is compared but that they say so.

// endedRows counts those of a page that are of an epoch whose retention has ended.
type endedRows struct {
	rows int
	told int // that show more than that
}

// ended reports whether an entry is of an epoch of which the file says, and Verify found the log to agree, that no list can be proven any more.
func (in Input) ended(i proof.Index) bool {
	e, ok := in.epochOf(i)
	return ok && slices.ContainsFunc(in.Verdict.Ended, func(r proof.EpochRange) bool { return r.From <= e.Epoch && e.Epoch <= r.To })
}

// over compares a row of an epoch whose retention has ended. One with details isn't refuted: the page may have been made a moment before that end.
func (c *comparison) over(row Row) RowMark {
	c.ended.rows++
	l := c.in.Lang
	retired := c.names.line(&proof.VerifiedEntry{Index: *row.Index, State: proof.RecordRetired}, proof.TypePivot, c.page.Lang)
	if retired.differs(row, false, [2]proof.Time{}) != (rowPart{}) && !c.ofNextMonth(row) {
		c.ended.told++
	}
	return RowMark{RowOutside, l.pick("Conservation terminée, plus rien n'est prouvé", "Retention over, nothing is proven any more")}
}

// ofNextMonth reports whether a row is of a month that began within its epoch: the record is kept for as long as that month, and the labels of the epoch for as long as the one before.
func (c *comparison) ofNextMonth(row Row) bool {
	at, err := time.Parse(time.RFC3339, row.At)
	e, ok := c.in.epochOf(*row.Index)
	opened := e.Opened.Time().UTC()
	return err == nil && ok && !at.Before(time.Date(opened.Year(), opened.Month()+1, 1, 0, 0, 0, 0, time.UTC)) && proof.TimeOf(at) <= e.closed
}

// beside finds the ranks that a page has to show among these entries, which stand in a list with those of ended epochs. Nobody can tell how many of these there are. As they are the oldest and undated, they are behind the others, so that
// pages of them alone follow; but some entries may come after one of them: beside reports whether the page can only be explained so.
func (c *comparison) beside(v View, want []*proof.VerifiedEntry) (first, last int, beside bool) {
	first, last = v.ranks(len(want))
	if c.ended.rows == 0 {
		return first, last, false
	}
	size := v.size()
	page, err := strconv.Atoi(v.Page)
	if err != nil || page < 1 {
		page = 1
	}
	if page > (len(want)+size-1)/size && len(c.listed) == 0 {
		return len(want), len(want), false
	}
	ranges := c.in.Verdict.Ended
	sure := slices.IndexFunc(want, func(e *proof.VerifiedEntry) bool {
		at := timeOf(e)
		return at == 0 || e.Epoch <= ranges[len(ranges)-1].To
	})
	if sure < 0 || last <= sure {
		return first, last, false
	}
	// They are those of some ranks at least as early, in their order, and what is left of the page is of ended epochs.
	from := first
	if len(c.listed) > 0 {
		from = slices.IndexFunc(want, func(e *proof.VerifiedEntry) bool { return e.Index == c.listed[0] })
	}
	if from < 0 {
		return first, last, false
	}
	to := from + len(c.listed)
	if to > len(want) || !slices.EqualFunc(want[from:to], c.listed, sameEntry) {
		return first, last, false
	}
	early := from == first || from < first && from >= sure
	full := to == last || to < last && to >= sure && len(c.listed)+c.ended.rows >= size
	return first, last, (from != first || to != last) && early && full
}

// byRetirement reports whether a page that differs from what it has to show was right before the retention of some verified entries ended: it may have been made a moment before. These have lost their time, by which lists are ordered, and
// what filters look at, so that the page may show them elsewhere, or without them. Of the others it still shows an unbroken part, at the ranks where it begins but for those that the retired ones took.
func (c *comparison) byRetirement(through, want []*proof.VerifiedEntry, p part) bool {
	retired := func(e *proof.VerifiedEntry) bool { return e.State == proof.RecordRetired }
	gone := 0
	for _, e := range c.in.before(c.horizon) {
		if retired(e) {
			gone++
		}
	}
	if gone == 0 || !p.filtered && len(c.listed)+c.ended.rows < len(want) {
		return false
	}
	living := slices.DeleteFunc(slices.Clone(through), retired)
	listed := slices.DeleteFunc(slices.Clone(c.listed), func(i proof.Index) bool { return retired(c.entries[i]) })
	from := len(living)
	if len(listed) > 0 {
		from = slices.IndexFunc(living, func(e *proof.VerifiedEntry) bool { return e.Index == listed[0] })
	}
	to := from + len(listed)
	if from < 0 || to > len(living) || !slices.EqualFunc(living[from:to], listed, sameEntry) {
		return false
	}
	if c.page.View == nil {
		return from == 0 && to == len(living)
	}
	v := c.page.View.usable()
	full := len(c.listed)+c.ended.rows >= v.size()
	if to < len(living) && !full {
		return false
	}
	// Pages that are behind the last one are the last one: there were at most so many entries more.
	least, _ := v.ranks(len(living))
	most, _ := v.ranks(len(living) + gone)
	for first := least; first <= most; first += v.size() {
		if from <= first && first <= from+gone {
			return true
		}
		// Where none of the others is shown they may begin anywhere; behind a page that isn't full there are none.
		if len(listed) == 0 && first-gone <= len(living) && full {
			return true
		}
	}
	return false
}

// over is the report about an entry whose retention has ended.
func (r *Report) over(in Input, why Limit) {
	l := in.Lang
	r.State, r.Title, r.Covers, r.Next = Unverified, Title(Unverified, l), "", nil
	r.Rows = []RowMark{{RowOutside, l.pick("Conservation terminée, plus rien n'est prouvé", "Retention over, nothing is proven any more")}}
	r.Sentence = l.pick("La conservation de cet accès est terminée, comme le registre l'avait promis : plus rien de ce que dit cette page n'est prouvé.",
		"The retention of this request is over, as the log had promised: nothing that this page says is proven any more.")
	r.Scope, r.Limits = nil, []Limit{why}
}

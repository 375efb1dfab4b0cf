package proof

import (
	"fmt"
	"slices"
)

// inputSchema is the form of decision inputs of which DelayIn knows where they
// speak of a delay (docs/formats.md, section 8).
const inputSchema = "regard/input@v1"

// maxDelay bounds an agreement's delay, in days.
const maxDelay = 36_500

// AgreedDelay is a lawful delay as an agreement has it.
type AgreedDelay struct {
	Authority, Article string
	Days               uint64 // from the request on
}

// DelayIn reads in a decision input which delay the agreement in it has: nil if
// none. It checks of the rest only that it is canonical JSON, in which nothing
// stands twice; whoever has the agreement's digest and the policy checks more. An
// input of another form is an error that wraps ErrUnknown.
func DelayIn(input []byte) (*AgreedDelay, error) {
	root, err := parseJSON("input", input)
	if err != nil {
		return nil, err
	}
	if v, ok := root.member("schema"); !ok || string(v.raw) != `"`+inputSchema+`"` {
		return nil, fmt.Errorf("input: schema is not %s: %w", inputSchema, ErrUnknown)
	}
	agreement, ok := root.member("agreement")
	if !ok {
		return nil, nil
	}
	if agreement.raw[0] != '{' {
		return nil, agreement.errorf("want an object")
	}
	deferral, ok := agreement.member("deferral")
	if !ok {
		return nil, nil
	}
	m, err := deferral.members("", "article", "authority", "days", "reference")
	if err != nil {
		return nil, err
	}
	article, err1 := m[0].text()
	authority, err2 := m[1].text()
	days, err3 := m[2].uint()
	if err3 == nil && (days < 1 || days > maxDelay) {
		err3 = m[2].errorf("not 1 to %d", maxDelay)
	}
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return nil, err
		}
	}
	return &AgreedDelay{Authority: string(authority), Article: string(article), Days: days}, nil
}

// Is reports whether an entry states this delay of what was asked at a time.
func (a *AgreedDelay) Is(asked Time, d Deferred) bool {
	return d.Authority == a.Authority && d.Article == a.Article && d.Month == asked.Time().AddDate(0, 0, int(a.Days)).Format("2006-01") // #nosec G115 -- at most maxDelay
}

// CheckDelay compares when the person is told of a receipt's entry with the
// agreement that its record names: agreed is false if too much of the record is
// hidden or unknown to tell, as for everybody but the person, the agency and
// auditors. An error wraps ErrUnproven: the agreement has another delay, or none,
// or one of an entry that isn't delayed.
func (r *Receipt) CheckDelay() (agreed bool, err error) {
	o := r.Opening()
	switch e := r.Entry().(type) {
	case Deferred:
		return o.delayed(e)
	case Disclosure:
		input, _ := o.Value(DisclosureInput)
		a, err := DelayIn(input)
		if err == nil && a != nil {
			return false, unproven("its person is told at once, and its agreement has a delay")
		}
		return err == nil, nil
	}
	return false, nil
}

// delayed compares a delay with the agreement in a record.
func (o Opening) delayed(d Deferred) (agreed bool, err error) {
	input, there := o.Value(DisclosureInput)
	asked, ok := o.TimeOf(DisclosureAskedAt)
	if there != Present || !ok {
		return false, nil
	}
	a, err := DelayIn(input)
	switch {
	case err != nil:
		return false, nil
	case a == nil:
		return false, unproven("it is delayed, and its record names no agreement that has a delay")
	case !a.Is(asked, d):
		return false, unproven("it is delayed by %s, %s, until %s, and its agreement has another delay", d.Authority, d.Article, d.Month)
	}
	return true, nil
}

// ended compares the delays that ended with what the records say: a disclosure's
// with its agreement, an access's with that of what was opened, which has to be
// told no later.
func (c *historyCheck) ended() error {
	epochs := map[Index]Epoch{} // in which delays ended, by where they began
	for i := range c.v.Entries {
		if e := &c.v.Entries[i]; e.Deferred != nil {
			epochs[e.Began] = e.Epoch
		}
	}
	for i := range c.v.Entries {
		e := &c.v.Entries[i]
		if e.Deferred == nil {
			continue
		}
		c.atEntry(e.Index)
		opener, closing := c.chain[e.Epoch-c.first()], c.chain[e.Epoch-c.first()+1]
		e.Told, e.Late = closing.Opened, monthOver(e.Deferred.Month, opener.Opened)
		var err error
		switch e.Opening.Schema() {
		case SchemaDisclosure:
			e.Agreed, err = e.Opening.delayed(*e.Deferred)
		case SchemaAccess:
			e.Agreed, err = c.accessDelay(e, epochs)
		}
		if err != nil {
			return fmt.Errorf("entry %d (epoch %d): %w", e.Index, e.Epoch, err)
		}
	}
	return nil
}

func (c *historyCheck) accessDelay(e *VerifiedEntry, epochs map[Index]Epoch) (bool, error) {
	v, there := e.Opening.Value(AccessTarget)
	if there != Present {
		return false, nil
	}
	n, _ := parseUint(v)
	target := Index(n)
	d, delayed := c.deferred[target]
	shown := slices.ContainsFunc(c.h.Entries, func(x HistoryEntry) bool { return x.Index == target })
	switch {
	case !delayed && !shown:
		return false, nil
	case !delayed || target >= e.Began:
		return false, unproven("an access that is delayed, to the record of entry %d, which isn't, or is of later", target)
	case d.Authority != e.Deferred.Authority || d.Article != e.Deferred.Article || d.Month != e.Deferred.Month:
		return false, unproven("an access that is delayed otherwise than entry %d, whose record was opened", target)
	case c.lost(target, KindDeferred):
		return false, nil
	}
	if ended, ok := epochs[target]; !ok || ended > e.Epoch {
		return false, unproven("an access that was told before entry %d, whose record was opened", target)
	}
	return true, nil
}

// Delays counts the entries that were told later: those of which that can't be
// compared with what was agreed, and those told after their month.
func (v *HistoryVerdict) Delays() (untold, late int) {
	for i := range v.Entries {
		e := &v.Entries[i]
		if e.Deferred != nil && !e.Agreed && (e.State == RecordOpen || e.State == RecordErased) {
			untold++
		}
		if e.Late {
			late++
		}
	}
	return untold, late
}

// AskedAt is when what was delayed was asked or done, as its record says.
func (e *VerifiedEntry) AskedAt() (Time, bool) {
	if e.Opening.Schema() == SchemaAccess {
		return e.Opening.TimeOf(AccessAt)
	}
	return e.Opening.TimeOf(DisclosureAskedAt)
}

package proof

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxAhead is how far the log's clock may be ahead of the reader's, in
// milliseconds: a day, for clocks that are set to another zone. Beyond it one of
// the two is wrong, and a file can't say which.
const maxAhead = 24 * 60 * 60 * 1000

// Verify checks a history against a policy: that its markers are a chain in the
// log; that in each epoch the rolls of the subjects are those in the index, and
// are open as a whole; that each entry in them is in the log and shows what it
// commits to, or that the log explains why not (docs/formats.md, section 7).
//
// Its error is a *HistoryError, but for the errors ErrAhead, ErrNotWitnessed and
// ErrStale, with which it returns the verdict, too: all of that holds, but a marker
// is of a time that is yet to come by Now, the quorum is missing, or the root is
// older than MaxAge. ErrFork says that this history and Older contradict each other.
func (h *History) Verify(p *Policy, opt HistoryOptions) (HistoryVerdict, error) {
	c := historyCheck{h: h, opt: opt}
	v, err := c.verify(p)
	if err != nil {
		return HistoryVerdict{}, c.refute(fmt.Errorf("history: %w", err))
	}
	ahead := c.ahead
	if opt.Older != nil {
		older := historyCheck{h: opt.Older, opt: HistoryOptions{Now: opt.Now}}
		if _, err := older.verify(p); err != nil {
			return HistoryVerdict{}, older.refute(fmt.Errorf("older history: %w", err))
		}
		c.begin(StepCompare)
		if v.Extends, err = c.compare(&older); err != nil {
			return HistoryVerdict{}, c.refute(fmt.Errorf("history: compared with the older one: %w", err))
		}
		v.Compared = true
		ahead = cmp.Or(ahead, older.ahead)
		if from, end := max(c.first(), older.first()), min(c.last().Epoch, older.last().Epoch); from < end {
			v.Common = []EpochRange{{from, end - 1}}
		}
	}
	switch {
	case ahead != nil: // whatever else is wrong was found before, so nobody hides it behind a date
		return v, fmt.Errorf("history: epoch %d: its marker says %s, which is yet to come by the clock of this machine, %s: %w", ahead.Epoch, ahead.Opened.Time().Format(time.RFC3339), opt.Now.Time().Format(time.RFC3339), ErrAhead)
	case v.State != Witnessed && !opt.AllowProvisional:
		return v, fmt.Errorf("history: %w", ErrNotWitnessed)
	case opt.MaxAge > 0 && opt.Now.Time().Sub(v.RootTime.Time()) > opt.MaxAge:
		return v, fmt.Errorf("history: the root is of %s, older than %s: %w", v.RootTime.Time().Format("2006-01-02T15:04:05Z"), opt.MaxAge, ErrStale)
	}
	return v, nil
}

// historyCheck verifies a history step by step.
type historyCheck struct {
	h   *History
	opt HistoryOptions
	cp  Checkpoint
	v   HistoryVerdict

	step  HistoryStep
	where *Epoch // that is looked at
	which *Index

	chain    []Marker
	outside  map[Epoch]Marker // markers of other epochs, proven like entries
	ahead    *Marker          // the first of a time that is yet to come; nil: none
	parsed   []Entry          // of Entries; nil: of a type not known
	notices  []KeyNotice
	over     []retention // according to notices
	restarts []Restart
	deferred map[Index]Deferred
	rolls    map[Index]rollPlace
	reach    []Index        // of erasures, by subject
	opened   map[Index]bool // deferred entries whose delay ended in a roll of the person
	erasing  Index          // reach of erasures of which nobody can tell whose they are
}

// rollPlace says in whose roll an entry is.
type rollPlace struct {
	epoch   int // position in Epochs
	subject int
}

func (c *historyCheck) verify(p *Policy) (HistoryVerdict, error) {
	h := c.h
	c.begin(StepCheckpoint)
	if h == nil || len(h.Subjects) == 0 || len(h.Markers) < 2 || len(h.Epochs) != len(h.Markers)-1 {
		return HistoryVerdict{}, unproven("no history")
	}
	var err error
	if c.cp, err = VerifyCheckpoint(h.Checkpoint, p); err != nil {
		return HistoryVerdict{}, err
	}
	for _, s := range []struct {
		step  HistoryStep
		check func() error
	}{
		{StepMarkers, c.markers}, {StepTree, c.entries}, {StepTree, c.tree}, {StepTree, c.context}, {StepRolls, c.epochs},
		{StepRecords, c.records}, {StepRecords, c.ended}, {StepRecords, c.lostEntries}, {StepDeferrals, c.deferrals}, {StepAudits, c.audits},
	} {
		c.begin(s.step)
		if err := s.check(); err != nil {
			return HistoryVerdict{}, err
		}
	}
	v := &c.v
	v.State, v.RootTime = Provisional, c.last().Opened
	if c.cp.witnessed {
		v.State, v.RootTime = Witnessed, c.cp.WitnessedAt()
	}
	v.Origin, v.Size, v.Root, v.Witnesses, v.Unverified = c.cp.origin, c.cp.size, c.cp.root, c.cp.Cosignatures(), c.cp.Unverified()
	v.Subjects = slices.Clone(h.Subjects)
	v.Epochs = EpochRange{c.chain[0].Epoch, c.last().Epoch - 1}
	v.Opened, v.Closed, v.Due = c.chain[0].Opened, c.last().Opened, c.last().Until
	return *v, nil
}

// begin notes what is done from here on, for whoever has to say where it ended.
func (c *historyCheck) begin(s HistoryStep) { c.step, c.where, c.which = s, nil, nil }

func (c *historyCheck) atEpoch(e Epoch) { c.where, c.which = &e, nil }

// atEntry notes the entry that is looked at, and its epoch as far as the markers tell.
func (c *historyCheck) atEntry(i Index) {
	c.where, c.which = nil, &i
	n, at := slices.BinarySearchFunc(c.chain, i, func(m Marker, i Index) int { return cmp.Compare(m.At(), i) })
	if at {
		n++
	}
	if n > 0 && n < len(c.chain) {
		c.where = &c.chain[n-1].Epoch
	}
}

// refute says where verifying ended.
func (c *historyCheck) refute(err error) error {
	e := &HistoryError{Step: c.step, Epoch: c.where, Entry: c.which, Err: err}
	if c.step == StepTree && e.Epoch == nil {
		c.narrow(e)
	}
	if e.Epoch == nil || len(c.chain) == 0 || *e.Epoch < c.first() {
		return e
	}
	switch n := int(*e.Epoch - c.first()); { // #nosec G115 -- wrong only beyond the chain
	case n == len(c.chain):
		e.Opened = c.chain[n-1].Until // the marker is missing, or isn't it
	case n >= 0 && n < len(c.chain):
		e.Opened = c.chain[n].Opened
		if n+1 < len(c.chain) {
			e.Closed = c.chain[n+1].Opened
		}
	}
	return e
}

// narrow looks for the epoch that explains why entries are not in the tree: one
// hash over all of them doesn't say which, but what was changed or left out
// often contradicts an opening or a roll as well.
func (c *historyCheck) narrow(e *HistoryError) {
	for _, check := range []func() error{c.context, c.epochs, c.records} {
		c.begin(StepTree)
		if check() != nil {
			e.Epoch, e.Entry = c.where, c.which
			return
		}
	}
}

// last is the marker that closes the last epoch.
func (c *historyCheck) last() *Marker { return &c.chain[len(c.chain)-1] }

// first is the number of the first epoch.
func (c *historyCheck) first() Epoch { return c.chain[0].Epoch }

// markers checks that each marker names the one before it.
func (c *historyCheck) markers() error {
	for i, text := range c.h.Markers {
		m, err := asMarker(text)
		if err != nil {
			return fmt.Errorf("marker %d: %w", i, err)
		}
		if i > 0 {
			last := c.chain[i-1]
			c.atEpoch(last.Epoch + 1)
			switch {
			case m.Epoch <= last.Epoch:
				c.atEpoch(m.Epoch)
				return unproven("epoch %d: a second marker, or one that goes back", m.Epoch)
			case m.Epoch > last.Epoch+1:
				return unproven("epoch %d: skipped, no marker opens it", last.Epoch+1)
			case m.Closed.Previous != LeafHash(c.h.Markers[i-1]) || m.Closed.First != last.At():
				return unproven("epoch %d: its marker does not follow the one before", m.Epoch)
			case m.Opened < last.Opened:
				return unproven("epoch %d: its marker is of an earlier time than the one before", m.Epoch)
			}
		}
		c.chain = append(c.chain, m)
	}
	if at := c.last().At(); uint64(at) >= c.cp.size {
		return unproven("epoch %d: its marker stands at %d, beyond the checkpoint's %d entries", c.last().Epoch, at, c.cp.size)
	}
	return nil
}

// entries reads them, and each must stand in the epoch that it says, as far as the
// markers that are shown can tell.
func (c *historyCheck) entries() error {
	c.outside = map[Epoch]Marker{}
	c.parsed = make([]Entry, len(c.h.Entries))
	for i := range c.h.Entries {
		e := &c.h.Entries[i]
		c.atEntry(e.Index)
		entry, err := ParseEntry(e.Text)
		if err != nil && !errors.Is(err, ErrUnknown) {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		if i > 0 && c.h.Entries[i-1].Index >= e.Index {
			return unproven("entry %d: it stands there twice, or out of order", e.Index)
		}
		c.parsed[i] = entry
		if m, ok := entry.(Marker); ok {
			if _, twice := c.marker(m.Epoch); twice {
				c.atEpoch(m.Epoch)
				return unproven("epoch %d: a second marker, at %d", m.Epoch, e.Index)
			}
			if m.At() != e.Index {
				return unproven("epoch %d: its marker says that it stands at %d and stands at %d", m.Epoch, m.At(), e.Index)
			}
			c.outside[m.Epoch] = m
		}
	}
	shown, err := c.shown()
	if err != nil {
		return err
	}
	for i := range c.h.Entries {
		e := &c.h.Entries[i]
		c.atEntry(e.Index)
		_, epoch, err := ParseHead(e.Text)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		// The first marker behind it; the one before that opened its epoch, or an earlier one.
		n, at := slices.BinarySearchFunc(shown, e.Index, func(m Marker, i Index) int { return cmp.Compare(m.At(), i) })
		if at {
			n++
		}
		if n > 0 && epoch < shown[n-1].Epoch || n < len(shown) && epoch >= shown[n].Epoch {
			return unproven("entry %d: it says epoch %d and stands in another", e.Index, epoch)
		}
	}
	return nil
}

// shown returns all markers of the history by place: epochs and times go on as
// well. It notes the first of a time that hasn't come.
func (c *historyCheck) shown() ([]Marker, error) {
	all := slices.AppendSeq(slices.Clone(c.chain), maps.Values(c.outside))
	slices.SortFunc(all, func(a, b Marker) int { return cmp.Compare(a.Epoch, b.Epoch) })
	for i, m := range all {
		c.atEpoch(m.Epoch)
		if i > 0 && (m.At() <= all[i-1].At() || m.Opened < all[i-1].Opened) {
			return nil, unproven("epoch %d: its marker stands before that of epoch %d, or is of an earlier time", m.Epoch, all[i-1].Epoch)
		}
		if c.ahead == nil && c.opt.Now != 0 && m.Opened > c.opt.Now+maxAhead {
			c.ahead = &m
		}
	}
	return all, nil
}

// newest is the number of the newest epoch of which a marker is shown.
func (c *historyCheck) newest() Epoch {
	n := c.last().Epoch
	for e := range c.outside {
		n = max(n, e)
	}
	return n
}

// has reports whether an epoch is one of those that the history is about.
func (c *historyCheck) has(e Epoch) bool { return e >= c.first() && e < c.last().Epoch }

// marker returns the marker that opens an epoch, if the history has it.
func (c *historyCheck) marker(e Epoch) (Marker, bool) {
	if e >= c.first() && e <= c.last().Epoch {
		return c.chain[e-c.first()], true
	}
	m, ok := c.outside[e]
	return m, ok
}

// tree shows that the last marker and all entries are in the log, and that
// restarts tell the truth about the tree they began from.
func (c *historyCheck) tree() error {
	m := multiproof{size: c.cp.size, nodes: c.h.Nodes}
	last := uint64(c.last().At())
	lastText := c.h.Markers[len(c.h.Markers)-1]
	at := len(c.h.Entries) // position of the last marker
	for i := range c.h.Entries {
		n := uint64(c.h.Entries[i].Index)
		if n >= c.cp.size {
			c.atEntry(c.h.Entries[i].Index)
			return unproven("entry %d: beyond the checkpoint's %d entries", n, c.cp.size)
		}
		if n == last {
			c.atEntry(c.h.Entries[i].Index)
			return unproven("entry %d: a marker of the history stands there", n)
		}
		if n > last && at == len(c.h.Entries) {
			at = i
			m.leaves = append(m.leaves, last)
		}
		m.leaves = append(m.leaves, n)
		if r, ok := c.parsed[i].(Restart); ok {
			if r.Size > n {
				c.atEntry(c.h.Entries[i].Index)
				return unproven("entry %d: a restart from a tree that it does not follow", n)
			}
			m.prefixes = append(m.prefixes, r.Size)
		}
	}
	if at == len(c.h.Entries) {
		m.leaves = append(m.leaves, last)
	}
	slices.Sort(m.prefixes)
	m.prefixes = slices.Compact(m.prefixes)
	root, earlier, ok := m.roots(func(i int) Hash {
		switch {
		case i == at:
			return LeafHash(lastText)
		case i > at:
			i--
		}
		return LeafHash(c.h.Entries[i].Text)
	})
	if !ok || root != c.cp.root {
		return unproven("nodes: the last marker (epoch %d) and the entries are not in the tree of the checkpoint", c.last().Epoch)
	}
	for i := range c.parsed {
		if r, ok := c.parsed[i].(Restart); ok && earlier[below(m.prefixes, r.Size)] != r.Root {
			c.atEntry(c.h.Entries[i].Index)
			return unproven("entry %d: a restart from another tree than the log's", c.h.Entries[i].Index)
		}
	}
	return nil
}

// context sorts out the entries that are in nobody's roll.
func (c *historyCheck) context() error {
	c.deferred = map[Index]Deferred{}
	newest := c.newest()
	seen := map[Epoch]uint64{}  // restarts, by epoch
	noted := map[Epoch]uint64{} // notices about keys
	for i, e := range c.parsed {
		at := c.h.Entries[i].Index
		c.atEntry(at)
		if e == nil || e.Kind().Filed() {
			continue
		}
		if !c.h.Entries[i].Opening.IsZero() {
			return unproven("entry %d: an opening of what nobody may open, or has no record", at)
		}
		switch e := e.(type) {
		case Marker:
		case KeyChanged:
			m, ok := c.marker(e.Epoch)
			if !ok {
				return unproven("entry %d: no marker of its epoch %d is shown, so nobody can tell when it was written", at, e.Epoch)
			}
			// A promise must not be dated back over epochs of which nothing is shown. In the
			// newest epoch that is shown no promise can end: its one time is before or after.
			if _, ok := c.marker(e.Epoch + 1); !ok && e.Epoch < newest {
				return unproven("entry %d: no marker that closes its epoch %d is shown, so it may have been written later", at, e.Epoch)
			}
			c.notices = append(c.notices, KeyNotice{at, m.Opened, e})
			noted[e.Epoch]++
		case Restart:
			c.restarts = append(c.restarts, e)
			seen[e.Epoch]++
		case Deferred:
			c.deferred[at] = e
		default:
			return unproven("entry %d: %s has no place in a history", at, e.Kind())
		}
	}
	c.over = retentionsOver(c.notices)
	c.v.KeysCounted = c.first() == 0
	for i := range c.h.Epochs {
		e := c.first() + Epoch(i)
		c.atEpoch(e)
		if n := c.count(i, KindRestart); n != seen[e] {
			return unproven("epoch %d: %d restarts in the log, %d are shown", e, n, seen[e])
		}
		c.v.KeysCounted = c.v.KeysCounted && c.count(i, KindKey) == noted[e]
	}
	return nil
}

// count returns how many entries of a kind a closed epoch has.
func (c *historyCheck) count(epoch int, k Kind) uint64 {
	for _, n := range c.chain[epoch+1].Closed.Counts {
		if n.Kind == k {
			return n.N
		}
	}
	return 0
}

// epochs checks what the indexes say about the subjects.
func (c *historyCheck) epochs() error {
	c.rolls = map[Index]rollPlace{}
	for i := range c.h.Epochs {
		number := c.first() + Epoch(i)
		c.atEpoch(number)
		if c.opt.Progress != nil {
			c.opt.Progress(i, len(c.h.Epochs))
		}
		if c.h.Epochs[i].Labels == nil {
			if !labelsOver(c.chain[i], c.chain[i+1], c.over) {
				return unproven("epoch %d: left out, and no end of its label key's retention explains that", number)
			}
			c.v.Ended = addEpoch(c.v.Ended, number)
			continue
		}
		if err := c.epoch(i); err != nil {
			return fmt.Errorf("epoch %d: %w", number, err)
		}
	}
	if c.opt.Progress != nil {
		c.opt.Progress(len(c.h.Epochs), len(c.h.Epochs))
	}
	return nil
}

func addEpoch(r []EpochRange, e Epoch) []EpochRange {
	if n := len(r); n > 0 && r[n-1].To+1 == e {
		r[n-1].To = e
		return r
	}
	return append(r, EpochRange{e, e})
}

func (c *historyCheck) epoch(i int) error {
	e, opener, closing := &c.h.Epochs[i], c.chain[i], c.chain[i+1]
	n := len(c.h.Subjects)
	if len(e.Labels) != n || len(e.Rolls) != n {
		return unproven("not a label and a roll for each subject")
	}
	labels := make([]Label, n)
	var numbers []uint64
	for s := range labels {
		var err error
		if labels[s], err = VerifyLabel(opener.VRF, c.h.Subjects[s], opener.Epoch, e.Labels[s]); err != nil {
			return fmt.Errorf("subject %d: %w", s, err)
		}
		numbers = append(numbers, labels[s].BucketNumber(closing.Closed.Bits))
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	if len(e.Buckets) != len(numbers) {
		return unproven("%d buckets, the labels belong in %d", len(e.Buckets), len(numbers))
	}
	buckets, hashes := make([]Bucket, len(numbers)), make([]Hash, len(numbers))
	for b := range buckets {
		buckets[b] = Bucket{Epoch: opener.Epoch, Bits: closing.Closed.Bits, Number: numbers[b], Items: e.Buckets[b]}
		leaf, err := buckets[b].Leaf()
		if err != nil {
			return fmt.Errorf("bucket %d: %w", numbers[b], err)
		}
		hashes[b] = LeafHash(leaf)
	}
	m := multiproof{size: 1 << closing.Closed.Bits, leaves: numbers, nodes: e.Nodes}
	if root, _, ok := m.roots(func(i int) Hash { return hashes[i] }); !ok || root != closing.Closed.Index {
		return unproven("the buckets are not in the index")
	}
	for s := range labels {
		root, has := buckets[below(numbers, labels[s].BucketNumber(closing.Closed.Bits))].Find(labels[s])
		if err := c.roll(i, s, root, has); err != nil {
			return fmt.Errorf("subject %d: %w", s, err)
		}
	}
	return nil
}

// roll checks one subject's roll in one epoch.
func (c *historyCheck) roll(epoch, subject int, root Hash, has bool) error {
	r := &c.h.Epochs[epoch].Rolls[subject]
	opener, closing := &c.chain[epoch], &c.chain[epoch+1]
	switch {
	case r.Lost && (!has || len(r.Leaves) != 0):
		return unproven("the roll that is said to be lost doesn't exist, or is open")
	case r.Lost:
		if !c.lostIn(opener.At(), closing.At()) {
			return unproven("there is a roll, it is not open, and no lost entries explain that")
		}
		c.v.LostRolls++
		return nil
	case !has && len(r.Leaves) != 0:
		return unproven("leaves of a roll that the index does not have")
	case !has:
		return nil
	case len(r.Leaves) == 0:
		return unproven("there is a roll, and it is not open")
	}
	reached, indexes, err := CheckRoll(r.Leaves)
	if err != nil {
		return err
	}
	if reached != root {
		return unproven("the leaves are not the roll in the index: one is left out, added or changed")
	}
	for _, i := range indexes {
		if i <= opener.At() || i >= closing.At() {
			return unproven("entry %d: in the roll, but of another epoch", i)
		}
		if _, twice := c.rolls[i]; twice {
			return unproven("entry %d: in the rolls of two subjects", i)
		}
		c.rolls[i] = rollPlace{epoch, subject}
	}
	return nil
}

// lostIn reports whether entries between two markers were lost.
func (c *historyCheck) lostIn(opener, closing Index) bool {
	return slices.ContainsFunc(c.restarts, func(r Restart) bool { return !r.Lost.IsZero() && r.Lost.From < closing && r.Lost.To > opener })
}

// records checks that the entries are those of the rolls, and what is shown of
// each.
func (c *historyCheck) records() error {
	if err := c.erasures(); err != nil {
		return err
	}
	c.opened = map[Index]bool{}
	found := 0
	for i := range c.h.Entries {
		e, entry := &c.h.Entries[i], c.parsed[i]
		c.atEntry(e.Index)
		place, mine := c.rolls[e.Index]
		switch {
		case mine:
			found++
		case entry != nil && entry.Kind() == KindErasure && (e.Index > c.last().At() || c.lost(e.Index, KindErasure)):
			continue // see erasures
		case entry == nil || entry.Kind().Filed():
			c.step = StepEntries
			return unproven("entry %d: foreign, it is in none of the rolls", e.Index)
		default:
			continue
		}
		kind, epoch, err := ParseHead(e.Text)
		if err != nil {
			return err
		}
		if entry != nil && !kind.Filed() {
			return unproven("entry %d: %s is in a roll, where it has no place", e.Index, kind)
		}
		v := VerifiedEntry{Index: e.Index, Epoch: epoch, Kind: kind, Subject: place.subject, Opening: e.Opening}
		if v.State, err = c.record(e, entry, place, &v); err != nil {
			return fmt.Errorf("entry %d (epoch %d): %w", e.Index, epoch, err)
		}
		c.v.Entries = append(c.v.Entries, v)
	}
	if found == len(c.rolls) {
		return nil
	}
	missing := Index(maxInt)
	for i := range c.rolls {
		if _, ok := slices.BinarySearchFunc(c.h.Entries, i, func(e HistoryEntry, i Index) int { return cmp.Compare(e.Index, i) }); !ok {
			missing = min(missing, i)
		}
	}
	c.step = StepEntries
	c.atEntry(missing)
	return unproven("entry %d (epoch %d): in a roll, and left out", missing, c.first()+Epoch(c.rolls[missing].epoch))
}

// erasures finds out how far erasures reach: only one whose opening is what its
// entry commits to explains anything.
func (c *historyCheck) erasures() error {
	c.reach = make([]Index, len(c.h.Subjects))
	for i := range c.h.Entries {
		e := &c.h.Entries[i]
		x, ok := c.parsed[i].(Erasure)
		if !ok {
			continue
		}
		c.atEntry(e.Index)
		place, mine := c.rolls[e.Index]
		var reach Index
		switch v, p := e.Opening.Value(ErasureReach); {
		case !e.Opening.IsZero() && (e.Opening.Schema() != SchemaErasure || e.Opening.Commitment() != x.Commitment):
			return unproven("entry %d: the opening does not open the entry's commitment", e.Index)
		case p == Present:
			n, _ := parseUint(v)
			if reach = Index(n); reach >= e.Index {
				return unproven("entry %d: an erasure that reaches beyond itself", e.Index)
			}
		case c.lost(e.Index, KindErasure):
			reach = e.Index - 1 // it covered what was there
		}
		if mine {
			c.reach[place.subject] = max(c.reach[place.subject], reach)
		} else {
			c.erasing = max(c.erasing, reach) // records refuses others
		}
	}
	return nil
}

// record says how a record stands, or why that can't be.
func (c *historyCheck) record(e *HistoryEntry, entry Entry, place rollPlace, v *VerifiedEntry) (RecordState, error) {
	o := e.Opening
	if entry == nil {
		if !o.IsZero() {
			return 0, unproven("an opening of a record whose type is not known")
		}
		return RecordUnknown, nil
	}
	opener, closing := c.chain[place.epoch], c.chain[place.epoch+1]
	if x, ok := entry.(Opened); ok {
		d, ok := c.deferred[x.Deferred]
		if !ok || c.opened[x.Deferred] {
			return 0, unproven("the delay that it ends, entry %d, is not shown, or ended before", x.Deferred)
		}
		if d.Commitment != x.Commitment || x.Deferred >= e.Index {
			return 0, unproven("it ends a delay of something else, entry %d", x.Deferred)
		}
		c.opened[x.Deferred], v.Deferred, v.Began = true, &d, x.Deferred
		var ok1, ok2 bool
		opener, ok1 = c.marker(d.Epoch)
		closing, ok2 = c.marker(d.Epoch + 1)
		if !ok1 || !ok2 {
			opener, closing = Marker{}, Marker{} // nothing is over
		}
	}
	if o.IsZero() {
		switch {
		case c.lost(e.Index, entry.Kind()):
			return RecordLost, nil
		case retentionOver(e.Index, opener, closing, c.over):
			return RecordRetired, nil
		}
		return 0, unproven("its record is not open, and neither an end of retention nor a loss in the log explains that")
	}
	commitment, _ := CommitmentOf(entry)
	if !entry.Kind().Takes(o.Schema()) || o.Commitment() != commitment {
		return 0, unproven("the opening does not open the entry's commitment: it is another record's")
	}
	s, err := o.Subject()
	v.Withheld = withheld(o, c.h.Subjects[place.subject].Type(), err == nil)
	switch {
	case err == nil && !s.Equal(c.h.Subjects[place.subject]):
		return 0, unproven("filed under subject %d, about somebody else", place.subject)
	case err == nil:
		return RecordOpen, nil
	case !errors.Is(err, ErrHidden):
		return 0, err
	case entry.Kind() == KindErasure:
		return RecordErased, nil // it covers itself
	case e.Index <= c.reach[place.subject]:
		return RecordErased, nil
	case c.lost(e.Index, entry.Kind()):
		return RecordLost, nil
	case e.Index <= c.erasing:
		return RecordErasing, nil
	case retentionOver(e.Index, opener, closing, c.over):
		return RecordRetired, nil
	}
	return 0, unproven("its person part is not open, and no erasure, end of retention or loss in the log explains that")
}

// withheld counts the hidden fields of a record that may be read in the history
// of a subject of type t; those of the person part only if a part of it is shown.
func withheld(o Opening, t SubjectType, person bool) (n int) {
	for i := range o.fields {
		info := &o.info.fields[i]
		if o.fields[i].presence == Hidden && ForSubject(o.info.schema, info.Field, t) && (person || !info.Person) {
			n++
		}
	}
	return n
}

func (c *historyCheck) lost(i Index, k Kind) bool {
	return slices.ContainsFunc(c.restarts, func(r Restart) bool { return r.Lost.Explains(i, k) })
}

// lostEntries counts what is in nobody's roll. Only a restart within an epoch
// takes entries out of its rolls, or one that gave up what couldn't be read.
func (c *historyCheck) lostEntries() error {
	var lost []Lost // within one epoch each
	for _, r := range c.restarts {
		if r.Lost.IsZero() {
			continue
		}
		for i := range c.h.Epochs {
			opener, closing := c.chain[i].At(), c.chain[i+1].At()
			given := r.Reason == "unreadable" || strings.HasPrefix(r.Reason, "unreadable.")
			from, to := max(r.Lost.From, opener+1), min(r.Lost.To, closing-1)
			if from <= to && (given || r.Size > uint64(opener) && r.Epoch == c.chain[i].Epoch) {
				lost = append(lost, Lost{from, to})
			}
		}
	}
	slices.SortFunc(lost, func(a, b Lost) int { return cmp.Compare(a.From, b.From) })
	var next Index
	for _, x := range lost {
		if from := max(x.From, next); from <= x.To {
			c.v.LostEntries += uint64(x.To - from + 1)
			next = x.To + 1
		}
	}
	return nil
}

// deferrals counts those that weren't opened when the last epoch was closed.
func (c *historyCheck) deferrals() error {
	d := &c.v.Deferrals
	for at, e := range c.deferred {
		if c.opened[at] {
			continue
		}
		if at > c.last().At() {
			c.atEntry(at)
			return unproven("entry %d: a delay that began after the last epoch", at)
		}
		d.Pending++
		switch {
		case c.lost(at, KindDeferred):
			d.Lost++
		case monthOver(e.Month, c.opt.Now):
			d.Overdue++
		}
	}
	if c.first() != 0 {
		return nil
	}
	var began, ended uint64
	for i := range c.h.Epochs {
		began, ended = began+c.count(i, KindDeferred), ended+c.count(i, KindOpened)
	}
	if ended > began || d.Pending != began-ended {
		return unproven("epochs 0 to %d: %d delays began and %d ended, but %d are shown as pending", c.last().Epoch-1, began, ended, d.Pending)
	}
	d.Counted = true
	return nil
}

// audits verifies the cosignatures of auditors.
func (c *historyCheck) audits() error {
	h := c.h
	names := make([]string, len(h.Auditors))
	for i, vkey := range h.Auditors {
		for _, n := range c.notices {
			if n.Key.Use != UseAuditor || n.Key.Public != AuditorKey(vkey) {
				continue
			}
			if n.Key.State == Revoked {
				return unproven("auditor %d: the log revoked the key (entry %d)", i, n.Index)
			}
			if n.Key.State == Active {
				names[i] = n.Key.Key[len(UseAuditor)+1:]
			}
		}
		if names[i] == "" {
			return unproven("auditor %d: no entry of the log registers the key", i)
		}
		key, _, _, _ := splitKey(vkey)
		c.v.Audits = append(c.v.Audits, AuditedIndexes{Auditor: names[i], Key: key})
	}
	audited := map[Epoch]bool{}
	for _, a := range h.Audits {
		c.atEpoch(a.Epoch)
		if a.Auditor < 0 || a.Auditor >= len(h.Auditors) || !c.has(a.Epoch) {
			return unproven("epoch %d: an audit of another epoch or by an auditor who is not named", a.Epoch)
		}
		if err := c.audit(a); err != nil {
			return fmt.Errorf("epoch %d: auditor %q: %w", a.Epoch, names[a.Auditor], err)
		}
		x := &c.v.Audits[a.Auditor]
		x.Epochs = addEpoch(x.Epochs, a.Epoch)
		audited[a.Epoch] = true
	}
	c.v.Unaudited = uint64(len(h.Epochs) - len(audited))
	for i := range h.Epochs {
		if !audited[c.first()+Epoch(i)] && h.Epochs[i].Labels != nil {
			c.v.UnauditedSince = c.chain[i+1].Opened
			break
		}
	}
	return nil
}

func (c *historyCheck) audit(a HistoryAudit) error {
	closing := c.chain[a.Epoch-c.first()+1]
	var filed, unknown uint64
	for _, n := range closing.Closed.Counts {
		switch {
		case n.Kind.Filed():
			filed += n.N
		case !n.Kind.known():
			unknown += n.N // may be filed or not
		}
	}
	if a.Entries < filed || a.Entries > filed+unknown {
		return unproven("found %d filed entries, the marker counts %d", a.Entries, filed)
	}
	vkey := c.h.Auditors[a.Auditor]
	signed, err := a.note(c.cp.origin, closing, vkey)
	if err != nil {
		return err
	}
	if _, err := VerifyIndexAudit(signed, vkey); err != nil {
		return unproven("not signed by the auditor's key (%v)", err)
	}
	return nil
}

// note puts the signed note together again.
func (a HistoryAudit) note(origin string, closing Marker, vkey string) ([]byte, error) {
	text, err := IndexAudit{
		Origin: origin, Epoch: a.Epoch, Marker: closing.At(), Root: closing.Closed.Index, Items: closing.Closed.Items, Entries: a.Entries,
	}.AppendText(nil)
	if err != nil {
		return nil, err
	}
	name, _, _, ok := splitKey(vkey)
	if !ok {
		return nil, formatError("the auditor's key is not a vkey")
	}
	text = append(text, "\n— "+name+" "...)
	text = b64.AppendEncode(text, a.Signature)
	return append(text, '\n'), nil
}

// compare looks for what the older history shows and this one contradicts.
// It reports whether the older tree is shown to be the beginning of this one.
func (c *historyCheck) compare(old *historyCheck) (bool, error) {
	if c.cp.origin != old.cp.origin {
		return false, fmt.Errorf("it is of another log: %w", ErrSubject)
	}
	if !slices.ContainsFunc(c.h.Subjects, func(s Subject) bool { return slices.ContainsFunc(old.h.Subjects, s.Equal) }) {
		return false, fmt.Errorf("it is about somebody else, no identifier is in both: %w", ErrSubject)
	}
	for i, text := range old.h.Markers {
		e := old.chain[i].Epoch
		if e < c.first() || e > c.last().Epoch {
			continue
		}
		if string(c.h.Markers[e-c.first()]) != string(text) {
			c.atEpoch(e)
			return false, fmt.Errorf("epoch %d has two markers: %w", e, ErrFork)
		}
	}
	for i := range old.h.Entries {
		e := &old.h.Entries[i]
		at, ok := slices.BinarySearchFunc(c.h.Entries, e.Index, func(e HistoryEntry, i Index) int { return cmp.Compare(e.Index, i) })
		if ok && string(c.h.Entries[at].Text) != string(e.Text) {
			c.atEntry(e.Index)
			return false, fmt.Errorf("entry %d is two different entries: %w", e.Index, ErrFork)
		}
	}
	switch {
	case c.cp.size == old.cp.size && c.cp.root != old.cp.root:
		return false, fmt.Errorf("two trees of %d entries are signed: %w", c.cp.size, ErrFork)
	case c.cp.size == old.cp.size:
		return true, nil
	case c.opt.Consistent == nil:
		return false, nil
	}
	small, large := old.cp, c.cp
	if small.size > large.size {
		small, large = large, small
	}
	if err := c.opt.Consistent(small, large); err != nil {
		return false, fmt.Errorf("the tree of %d entries is not shown to be the beginning of that of %d: %w", small.size, large.size, err)
	}
	return true, nil
}

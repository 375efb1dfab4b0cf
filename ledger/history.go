package ledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// NewestEpoch stands for the newest epoch that is closed and published.
const NewestEpoch proof.Epoch = math.MaxUint64

// ErrLabelsOver: the key that made the labels of an epoch was destroyed at the end of its retention. A Labeler's errors wrap it then, those of Prove and of RollSeed.
var ErrLabelsOver = errors.New("ledger: the epoch's label key was destroyed at the end of its retention")

// HistoryDraft is a person's history without its entries: markers, labels, buckets and rolls are there, under one published checkpoint. Whoever has the records adds the
// entries that Filed names, with their openings, and what else it takes to explain them; Prove finishes it.
type HistoryDraft struct {
	proof.History
	Under proof.Checkpoint
	// Filed are the entries in the rolls, by increasing index, and of whom.
	Filed []FiledEntry
	// Opens and Closes are the log indexes of the first and last marker.
	Opens, Closes proof.Index

	view *view
}

// FiledEntry is an entry in a roll of a history.
type FiledEntry struct {
	Index   proof.Index
	Subject int // position in Subjects
}

// History begins the history of some subjects, those of one person, in the epochs from to to. It holds no lock of the log, and reads each tile once. ErrNotFound: one of these epochs
// isn't closed and published yet.
func (v *view) History(ctx context.Context, subjects []proof.Subject, from, to proof.Epoch) (*HistoryDraft, error) {
	cp, to, err := v.historyUnder(ctx, from, to)
	if err != nil {
		return nil, err
	}
	d := &HistoryDraft{view: v, Under: cp}
	d.Checkpoint, d.Subjects = cp.Note(), slices.SortedFunc(slices.Values(subjects), proof.CompareSubjects)
	d.Subjects = slices.CompactFunc(d.Subjects, proof.Subject.Equal)
	for n := from; n <= to; n++ {
		c, err := v.cfg.Store.Epoch(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("reading epoch %d: %w", n, err)
		}
		if n == from {
			d.Opens = c.Marker
		}
		d.Closes = c.Closer
		d.Markers = append(d.Markers, c.Text)
		if err := d.addEpoch(ctx, c); err != nil {
			return nil, fmt.Errorf("epoch %d: %w", n, err)
		}
	}
	closing, err := v.entryText(ctx, d.Closes)
	if err != nil {
		return nil, err
	}
	d.Markers = append(d.Markers, closing)
	slices.SortFunc(d.Filed, func(a, b FiledEntry) int {
		if a.Index < b.Index {
			return -1
		}
		return 1
	})
	return d, nil
}

// historyUnder chooses the checkpoint of a history and finds its last epoch: the newest checkpoint that was witnessed, unless there is none or epochs are asked for that only the published one covers.
func (v *view) historyUnder(ctx context.Context, from, to proof.Epoch) (proof.Checkpoint, proof.Epoch, error) {
	published, ok := v.Published()
	if !ok {
		return published, 0, fmt.Errorf("%w: nothing is published yet", ErrNotFound)
	}
	under := []proof.Checkpoint{published}
	if w, ok := v.Witnessed(); ok && !published.Witnessed() {
		under = []proof.Checkpoint{w, published}
	}
	closed := proof.Epoch(0)
	for _, cp := range under {
		var err error
		if closed, err = v.closedUnder(ctx, cp); err != nil {
			return cp, 0, err
		}
		last := to
		if to == NewestEpoch {
			last = closed - 1 // wraps if there is none
		}
		if from <= last && last < closed {
			return cp, last, nil
		}
	}
	return published, 0, fmt.Errorf("%w: epochs %d to %d; %d are closed and published", ErrNotFound, from, to, closed)
}

// closedUnder returns how many epochs are closed by a marker under the checkpoint.
func (v *view) closedUnder(ctx context.Context, cp proof.Checkpoint) (proof.Epoch, error) {
	open := v.OpenEpoch()
	n, marker := open.Number, open.Marker
	for n > 0 && uint64(marker) >= cp.Size() {
		n--
		c, err := v.cfg.Store.Epoch(ctx, n)
		if err != nil {
			return 0, fmt.Errorf("reading epoch %d: %w", n, err)
		}
		marker = c.Marker
	}
	return n, nil
}

func (v *view) entryText(ctx context.Context, index proof.Index) (text []byte, err error) {
	err = v.cfg.Store.Leaves(ctx, index, index+1, func(leaf Leaf) error {
		text = slices.Clone(leaf.Text)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading entry %d: %w", index, err)
	}
	return text, nil
}

// addEpoch proves what the index of a closed epoch says about the subjects.
func (d *HistoryDraft) addEpoch(ctx context.Context, c ClosedEpoch) error {
	var e proof.HistoryEpoch
	var numbers []uint64
	labels := make([]proof.Label, len(d.Subjects))
	for i, s := range d.Subjects {
		z, vrf, err := d.view.cfg.Labeler.Prove(ctx, c.LabelKey, c.Number, s)
		if errors.Is(err, ErrLabelsOver) {
			d.Epochs = append(d.Epochs, proof.HistoryEpoch{})
			return nil
		}
		if err != nil {
			return fmt.Errorf("proving a label: %w", err)
		}
		labels[i] = z
		e.Labels = append(e.Labels, vrf)
		numbers = append(numbers, z.BucketNumber(c.Bits))
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	buckets, err := d.view.buckets(c, numbers, &e)
	if err != nil {
		return err
	}
	for i, z := range labels {
		at, _ := slices.BinarySearch(numbers, z.BucketNumber(c.Bits))
		r, err := d.roll(ctx, c, i, z, buckets[at])
		if err != nil {
			return err
		}
		e.Rolls = append(e.Rolls, r)
	}
	d.Epochs = append(d.Epochs, e)
	return nil
}

// buckets reads buckets of a closed epoch's index with their common proof.
func (v *view) buckets(c ClosedEpoch, numbers []uint64, e *proof.HistoryEpoch) ([]proof.Bucket, error) {
	t := tiles.Tree{Dir: v.indexDir(c.Number), Size: 1 << c.Bits, Root: c.Root}
	nodes, hashes, err := t.Multiproof(numbers, nil)
	if err != nil {
		return nil, fmt.Errorf("reading its index: %w", err)
	}
	e.Nodes = nodes
	var out []proof.Bucket
	for i, n := range numbers {
		leaf, err := t.Entry(n)
		if err == nil && proof.LeafHash(leaf) != hashes[i] {
			err = fmt.Errorf("%w: bucket %d is not what the root says", tiles.ErrCorrupt, n)
		}
		if err != nil {
			return nil, fmt.Errorf("reading its index: %w", err)
		}
		b, err := proof.ParseBucket(leaf)
		if err != nil {
			return nil, fmt.Errorf("reading its index: %w", err)
		}
		out, e.Buckets = append(out, b), append(e.Buckets, b.Items)
	}
	return out, nil
}

// roll opens a subject's roll. One that the store can't make again as it stands in the index is lost: the verdict finds out whether the log explains that.
func (d *HistoryDraft) roll(ctx context.Context, c ClosedEpoch, subject int, z proof.Label, b proof.Bucket) (proof.HistoryRoll, error) {
	root, has := b.Find(z)
	if !has {
		return proof.HistoryRoll{}, nil
	}
	roll, err := d.view.Roll(ctx, c, z)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrLabelsOver) {
		return proof.HistoryRoll{}, err
	}
	if err != nil || roll.Root() != root {
		return proof.HistoryRoll{Lost: true}, nil
	}
	r := proof.HistoryRoll{Leaves: roll.Open()}
	for i := range r.Leaves {
		if !r.Leaves[i].Dummy() {
			d.Filed = append(d.Filed, FiledEntry{r.Leaves[i].Index, subject})
		}
	}
	return r, nil
}

// Add adds an entry. A text that is nil is read from the log's store by Prove.
func (d *HistoryDraft) Add(index proof.Index, text []byte, o proof.Opening) {
	d.Entries = append(d.Entries, proof.HistoryEntry{Index: index, Text: text, Opening: o})
}

// Prove sorts the entries and proves all of them. What the store says of an entry is compared with the log's tree.
func (d *HistoryDraft) Prove(ctx context.Context) (*proof.History, error) {
	slices.SortStableFunc(d.Entries, func(a, b proof.HistoryEntry) int {
		switch {
		case a.Index < b.Index:
			return -1
		case a.Index > b.Index:
			return 1
		}
		return 0
	})
	d.Entries = slices.CompactFunc(d.Entries, func(a, b proof.HistoryEntry) bool { return a.Index == b.Index })
	var leaves, prefixes []uint64
	texts := map[uint64][]byte{uint64(d.Closes): d.Markers[len(d.Markers)-1]}
	for i := range d.Entries {
		e := &d.Entries[i]
		if e.Text == nil {
			var err error
			if e.Text, err = d.view.entryText(ctx, e.Index); err != nil {
				return nil, err
			}
		}
		texts[uint64(e.Index)] = e.Text
		if entry, err := proof.ParseEntry(e.Text); err == nil {
			if r, ok := entry.(proof.Restart); ok {
				prefixes = append(prefixes, r.Size)
			}
		}
	}
	for i := range texts {
		leaves = append(leaves, i)
	}
	slices.Sort(leaves)
	slices.Sort(prefixes)
	t := tiles.Tree{Dir: d.view.cfg.Dir, Size: d.Under.Size(), Root: d.Under.Root()}
	nodes, hashes, err := t.Multiproof(leaves, slices.Compact(prefixes))
	if err != nil {
		return nil, fmt.Errorf("proving the entries: %w", err)
	}
	for i, n := range leaves {
		if proof.LeafHash(texts[n]) != hashes[i] {
			return nil, fmt.Errorf("proving entry %d: the store's text isn't what was signed", n)
		}
	}
	d.Nodes = nodes
	return &d.History, nil
}

package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// errUnsettled says that the roll of the subject, as the store has it, doesn't show what the index of the closed epoch shows: filings were lost with a restoration, the entry was given up, or the
// store is damaged. It never heals by itself.
var errUnsettled = errors.New("the subject's roll in the store isn't the one in the index with this entry in it")

// FreshReceipt is the receipt of entry i of a group right after Append: provisional, under the checkpoint that Append waited for.
func FreshReceipt(a Appended, i int, o proof.Opening) (*proof.Receipt, error) {
	if i < 0 || i >= len(a.Entries) {
		return nil, fmt.Errorf("%w: the group has no entry %d", ErrNotFound, i)
	}
	r, err := proof.NewReceipt(a.Entries[i], o, a.Checkpoint.Note(), nil)
	if err != nil {
		return nil, fmt.Errorf("writing a receipt: %w", err)
	}
	return r, nil
}

// Receipt returns the best receipt of an entry that can be had now: under the published checkpoint with its cosignatures (under an older one with the quorum of witnesses, while the published one lacks it), and settled if the entry is filed, its epoch
// is closed and the opening shows the subject. One that the store can't settle any more is returned unsettled, and counted and logged: its inclusion is proven all the same. ErrNotFound if the entry isn't published yet: that takes seconds after Append.
func (v *view) Receipt(ctx context.Context, index proof.Index, o proof.Opening) (*proof.Receipt, error) {
	cp, ok := v.best(index)
	if !ok {
		return nil, fmt.Errorf("%w: entry %d is not published yet", ErrNotFound, index)
	}
	entry, err := v.prove(ctx, cp, index)
	if err != nil {
		return nil, err
	}
	settlement, err := v.settlement(ctx, cp, entry, o)
	if errors.Is(err, errUnsettled) {
		settlement, err = nil, nil
		v.neverSettles(entry)
	}
	if err != nil {
		return nil, fmt.Errorf("settling entry %d: %w", index, err)
	}
	r, err := proof.NewReceipt(entry, o, cp.Note(), settlement)
	if err != nil {
		return nil, fmt.Errorf("writing a receipt: %w", err)
	}
	return r, nil
}

// neverSettles tells the operator, once for each epoch: which entries are lost is not known here.
func (v *view) neverSettles(entry proof.Proven) {
	v.count.unsettled.Add(1)
	e, err := proof.ParseEntry(entry.Text)
	if err != nil {
		return
	}
	if _, told := v.unsettled.LoadOrStore(e.In(), true); !told {
		v.cfg.Logger.Error("receipts of a closed epoch can't be settled: filings of it are lost. If a backup was restored or an entry skipped since it was opened, that is why; otherwise the store is damaged", "epoch", e.In(), "entry", entry.Index)
	}
}

// prove proves an entry from the published tiles.
func (v *view) prove(ctx context.Context, cp proof.Checkpoint, index proof.Index) (proof.Proven, error) {
	p := proof.Proven{Index: index}
	err := v.cfg.Store.Leaves(ctx, index, index+1, func(leaf Leaf) error {
		p.Text = append([]byte(nil), leaf.Text...)
		return nil
	})
	if err != nil {
		return p, fmt.Errorf("reading entry %d: %w", index, err)
	}
	p.Path, err = tiles.Tree{Dir: v.cfg.Dir, Size: cp.Size(), Root: cp.Root()}.Inclusion(uint64(index))
	if err != nil {
		return p, fmt.Errorf("proving entry %d: %w", index, err)
	}
	// The path comes from checked tiles; this checks the store's text.
	if _, err := proof.VerifyEntry(cp, p); err != nil {
		return p, fmt.Errorf("proving entry %d: the store's text isn't what was signed: %w", index, err)
	}
	return p, nil
}

// settlement proves that an entry stands in its subject's roll; nil without an error if that can't be said yet, or to this reader.
func (v *view) settlement(ctx context.Context, cp proof.Checkpoint, entry proof.Proven, o proof.Opening) (*proof.Settlement, error) {
	e, err := proof.ParseEntry(entry.Text)
	if err != nil {
		return nil, err
	}
	if !e.Kind().Filed() {
		return nil, nil
	}
	subject, err := o.Subject()
	if err != nil {
		return nil, nil // hidden from this reader, or erased
	}
	if c, ok := proof.CommitmentOf(e); !ok || o.Commitment() != c {
		// Another record's opening could ask for the roll of a stranger.
		return nil, fmt.Errorf("%w: the opening isn't of this entry", ErrRefused)
	}
	c, err := v.cfg.Store.Epoch(ctx, e.In())
	if errors.Is(err, ErrNotFound) || err == nil && uint64(c.Closer) >= cp.Size() {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading epoch %d: %w", e.In(), err)
	}
	return v.settle(ctx, cp, c, entry.Index, subject)
}

func (v *view) settle(ctx context.Context, cp proof.Checkpoint, c ClosedEpoch, index proof.Index, subject proof.Subject) (*proof.Settlement, error) {
	s := new(proof.Settlement)
	s.Opener, s.OpenerText = c.Marker, c.Text
	var err error
	if s.Marker, err = v.prove(ctx, cp, c.Closer); err != nil {
		return nil, err
	}
	var label proof.Label
	if label, s.VRFProof, err = v.cfg.Labeler.Prove(ctx, c.LabelKey, c.Number, subject); err != nil {
		return nil, fmt.Errorf("proving the label: %w", err)
	}
	if s.Bucket, s.BucketPath, err = v.Bucket(c, label); err != nil {
		return nil, err
	}
	roll, err := v.Roll(ctx, c, label)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", errUnsettled, err)
	}
	if err != nil {
		return nil, err
	}
	if root, ok := s.Bucket.Find(label); !ok || root != roll.Root() {
		return nil, errUnsettled
	}
	if s.Leaf, err = roll.Leaf(index); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsettled, err)
	}
	return s, nil
}

// Bucket returns the bucket of a label in the index of a closed epoch, with its inclusion path: it shows which roll the label has, or that it has none.
func (v *view) Bucket(c ClosedEpoch, label proof.Label) (proof.Bucket, []proof.Hash, error) {
	n := label.BucketNumber(c.Bits)
	t := tiles.Tree{Dir: v.indexDir(c.Number), Size: 1 << c.Bits, Root: c.Root}
	leaf, err := t.Entry(n)
	if err != nil {
		return proof.Bucket{}, nil, fmt.Errorf("reading the index of epoch %d: %w", c.Number, err)
	}
	b, err := proof.ParseBucket(leaf)
	if err != nil {
		return proof.Bucket{}, nil, fmt.Errorf("reading the index of epoch %d: %w", c.Number, err)
	}
	path, err := t.Inclusion(n)
	if err != nil {
		return proof.Bucket{}, nil, fmt.Errorf("reading the index of epoch %d: %w", c.Number, err)
	}
	if err := proof.VerifyBucket(c.Root, b, path); err != nil {
		return proof.Bucket{}, nil, fmt.Errorf("reading the index of epoch %d: %w", c.Number, err)
	}
	return b, path, nil
}

// Roll returns the roll of a label in a closed epoch: secret, its holder learns all entries of one person. ErrNotFound if the label has none.
func (v *view) Roll(ctx context.Context, c ClosedEpoch, label proof.Label) (*proof.Roll, error) {
	indexes, err := v.cfg.Store.Roll(ctx, c.Number, label)
	if err != nil {
		return nil, fmt.Errorf("reading a roll: %w", err)
	}
	if len(indexes) == 0 {
		return nil, fmt.Errorf("%w: no roll under this label in epoch %d", ErrNotFound, c.Number)
	}
	seed, err := v.cfg.Labeler.RollSeed(ctx, c.LabelKey, c.Number)
	if err != nil {
		return nil, fmt.Errorf("asking for the secret of the rolls: %w", err)
	}
	return proof.NewRoll(seed, label, indexes)
}

package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/regard-broker/regard/ledger/proof"
)

// Rebuild gives Trillian back what it lost, up to all of it, from the order in the Store, and returns the size of its tree. It is for the operator after Open has said that Trillian
// lost entries: a new, empty tree will do. It signs nothing, and it succeeds only if the rebuilt tree is the one that the last signed checkpoint is about. The log must not be open.
func Rebuild(ctx context.Context, cfg Config) (uint64, error) {
	if err := cfg.check(); err != nil {
		return 0, err
	}
	l := &Log{cfg: cfg}
	last, err := cfg.Signed.Last(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: reading the last signed checkpoint: %w", ErrUnavailable, err)
	}
	if len(last) == 0 {
		return 0, fmt.Errorf("%w: no checkpoint was signed, so there is nothing to rebuild towards", ErrNotFound)
	}
	cp, err := l.ours(ctx, last)
	if err != nil {
		return 0, fmt.Errorf("reading the last signed checkpoint: %w", err)
	}
	inTree, root, err := l.trillianRoot(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if inTree > cp.Size() {
		return 0, fmt.Errorf("the tree in Trillian has %d entries, more than the signed checkpoint of %d: nothing to rebuild", inTree, cp.Size())
	}
	l.signed = &signed{}
	if err := l.rebuildTo(ctx, inTree, root, false); err != nil {
		return 0, err
	}
	if err := l.rebuildTo(ctx, cp.Size(), nil, true); err != nil {
		return 0, err
	}
	if l.signed.edge.root() != cp.Root() {
		return 0, l.halt("the store's order doesn't give the signed root at size %d: the store was changed. Restore it, and give Trillian a new tree", cp.Size())
	}
	return cp.Size(), nil
}

// rebuildTo follows the Store's order up to a size; add says that Trillian lacks the leaves. want is the root to be found there, nil for any.
func (l *Log) rebuildTo(ctx context.Context, to uint64, want []byte, add bool) error {
	for e := &l.signed.edge; e.size < to; {
		from, end := e.size, min(e.size+maxAdd, to)
		var leaves []Leaf
		var hashes []proof.Hash
		err := l.cfg.Store.Leaves(ctx, proof.Index(from), proof.Index(end), func(leaf Leaf) error {
			leaves, hashes = append(leaves, leaf), append(hashes, proof.LeafHash(leaf.Text))
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading the order: %w", err)
		}
		if len(leaves) == 0 {
			return errors.New("reading the order: the store gave no leaves")
		}
		if add {
			if _, err := l.integrate(ctx, leaves, hashes, from); err != nil {
				return fmt.Errorf("rebuilding Trillian from entry %d on: %w", from, err)
			}
		}
		*e = e.grow(hashes).after
	}
	if root := l.signed.edge.root(); want != nil && l.signed.edge.size > 0 && string(root[:]) != string(want) {
		return l.halt("what Trillian still has, %d entries, isn't the store's order: give Trillian a new, empty tree", to)
	}
	return nil
}

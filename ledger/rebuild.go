package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/trillian"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// Rebuild gives Trillian back what it lost, up to all of it, from the order in the Store, and returns the size of its tree. It is for the operator after Open has said that Trillian
// lost entries: a new, empty tree will do. It signs nothing, and it succeeds only if the rebuilt tree is the one that the last signed checkpoint is about. The log must not be open.
func Rebuild(ctx context.Context, cfg Config) (uint64, error) {
	if err := cfg.check(); err != nil {
		return 0, err
	}
	l := newLog(cfg)
	cp, _, err := l.standing(ctx)
	if err != nil {
		return 0, err
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

// standing returns the largest checkpoint that this log is known to have signed, and the largest that is smaller, zero if there is none.
func (l *Log) standing(ctx context.Context) (best, other proof.Checkpoint, err error) {
	_, all, err := l.checkpoints(ctx)
	if err != nil {
		return best, other, err
	}
	best = largest(all)
	if best.IsZero() || best.Size() == 0 {
		return best, other, fmt.Errorf("%w: no checkpoint is known that was signed, so there is nothing to rebuild towards: bring the checkpoint store or the published files back", ErrNotFound)
	}
	for _, cp := range all {
		switch {
		case cp.Size() < best.Size() && (other.IsZero() || cp.Size() > other.Size()):
			other = cp
		case cp.Size() == best.Size() && cp.Root() != best.Root():
			return best, other, l.halt("two checkpoints of this log, both of size %d, contradict each other: it was forked. Keep both, and tell the witnesses", best.Size())
		}
	}
	return best, other, nil
}

// A Remainder is what a log signed beyond the order of a Store that is older than it.
type Remainder struct {
	// Checkpoint is the largest one that was signed.
	Checkpoint proof.Checkpoint
	// From is where the Store's order ends, Lost are the entries from there to the checkpoint, none if the order reaches it.
	From proof.Index
	Lost []Leaf
	// Unsigned is how many entries the copy of Trillian's tree has beyond the checkpoint. They are not taken from there, since Trillian is not trusted: after a crash they were never signed. Many
	// of them hint that a larger checkpoint was signed than is known here.
	Unsigned uint64
}

// Recover finds what is missing in the Store up to the last signed checkpoint, in the published files and, as far as these don't reach, in a copy of Trillian's tree, nil if there is none. It
// changes and signs nothing, needs of cfg what a reader does, and fails with ErrHalted unless the Store's order, followed by what it found, gives the signed root: so what it returns is what was signed.
// Identities of leaves are new. Checkpoints that were kept elsewhere are compared, too; one that is larger than the last signed one shows that the latter is an older copy.
func Recover(ctx context.Context, cfg Config, old trillian.TrillianLogClient, oldTree int64, kept ...proof.Checkpoint) (Remainder, error) {
	var r Remainder
	if err := cfg.checkReader(); err != nil {
		return r, err
	}
	l := newLog(cfg)
	best, other, err := l.standing(ctx)
	if err != nil {
		return r, err
	}
	tail, err := cfg.Store.Tail(ctx)
	if err != nil {
		return r, fmt.Errorf("%w: reading the end of the order: %w", ErrUnavailable, err)
	}
	r.Checkpoint, r.From = best, tail.Next
	for _, cp := range kept {
		if cp.Size() > best.Size() {
			return r, l.halt("a checkpoint of %d entries was signed, the stored and the published one know %d: they are older copies. Bring the newest of both back, the published files from a mirror; nothing is signed until then", cp.Size(), best.Size())
		}
	}
	size := best.Size()
	for i := uint64(tail.Next); i < size; i++ {
		text, err := l.fromFiles(i, other, best)
		if err != nil && old != nil {
			text, err = oldLeaf(ctx, old, oldTree, i)
		}
		if err != nil {
			return r, l.halt("entry %d, which was signed, is neither in the backup nor in the published files nor in Trillian (%v): bring back a newer backup, or the published files from a mirror; nothing is signed until then", i, err)
		}
		e, err := proof.ParseEntry(text)
		if err != nil {
			return r, l.halt("entry %d in the published files is damaged (%v): bring them back from a mirror; nothing is signed until then", i, err)
		}
		leaf := Leaf{Index: proof.Index(i), Epoch: e.In(), Kind: e.Kind(), Text: bytes.Clone(text)}
		if _, err := cfg.Rand.Read(leaf.Identity[:]); err != nil {
			return r, fmt.Errorf("reading randomness: %w", err)
		}
		r.Lost = append(r.Lost, leaf)
	}
	if old != nil {
		was := newLog(cfg)
		was.cfg.Trillian, was.cfg.TreeID = old, oldTree
		if n, _, err := was.trillianRoot(ctx); err == nil && n > size {
			r.Unsigned = n - size
		}
	}
	return r, l.adds(ctx, r, append(kept, other))
}

// adds checks that the order and what was lost give the root of the checkpoint, and those of others on the way.
func (l *Log) adds(ctx context.Context, r Remainder, others []proof.Checkpoint) error {
	var e edge
	var hashes []proof.Hash
	flush := func() {
		if len(hashes) > 0 {
			e, hashes = e.grow(hashes).after, nil
		}
	}
	add := func(leaf Leaf) error {
		hashes = append(hashes, proof.LeafHash(leaf.Text))
		at := uint64(leaf.Index) + 1
		for _, cp := range others {
			if cp.IsZero() || cp.Size() != at {
				continue
			}
			if flush(); e.root() != cp.Root() {
				return l.halt("the entries don't give the root of the checkpoint of size %d that was signed: the backup is of another log, was changed, or the published files were. Nothing is signed", at)
			}
		}
		if len(hashes) == maxAdd {
			flush()
		}
		return nil
	}
	size := r.Checkpoint.Size()
	if err := l.cfg.Store.Leaves(ctx, 0, min(r.From, proof.Index(size)), add); err != nil {
		if errors.Is(err, ErrHalted) {
			return err
		}
		return fmt.Errorf("%w: reading the order: %w", ErrUnavailable, err)
	}
	for _, leaf := range r.Lost {
		if err := add(leaf); err != nil {
			return err
		}
	}
	if flush(); e.size != size || e.root() != r.Checkpoint.Root() {
		return l.halt("the entries don't give the root of the checkpoint of size %d that was signed last: the backup is of another log, was changed, or the published files were. Nothing is signed", size)
	}
	return nil
}

// fromFiles reads an entry from the published files, which may be behind the signed checkpoint and ahead of the published one.
func (l *Log) fromFiles(index uint64, checkpoints ...proof.Checkpoint) ([]byte, error) {
	err := errors.New("no checkpoint reaches it")
	for _, cp := range checkpoints {
		if cp.IsZero() || cp.Size() <= index {
			continue
		}
		var text []byte
		if text, err = (tiles.Tree{Dir: l.cfg.Dir, Size: cp.Size(), Root: cp.Root()}).Entry(index); err == nil {
			return text, nil
		}
	}
	return nil, err
}

func oldLeaf(ctx context.Context, old trillian.TrillianLogClient, tree int64, index uint64) ([]byte, error) {
	r, err := old.GetLeavesByRange(ctx, &trillian.GetLeavesByRangeRequest{LogId: tree, StartIndex: int64(index), Count: 1})
	if err != nil {
		return nil, err
	}
	for _, leaf := range r.GetLeaves() {
		if leaf.GetLeafIndex() == int64(index) {
			return leaf.GetLeafValue(), nil
		}
	}
	return nil, errors.New("the tree in Trillian has no such leaf")
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

package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/trillian"
	mproof "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/regard-broker/regard/ledger/proof"
)

// checkpointName is the file in Dir that readers of the log begin with.
const checkpointName = "checkpoint"

// witnessedName is the file in Dir with the last checkpoint that had the quorum, while the published one hasn't. It isn't served.
const witnessedName = "checkpoint.witnessed"

// recover finds out where the log stands, from three places that can contradict each other: the order in the Store, the tree in Trillian, and what was signed (in the
// SignedStore, in the published checkpoint and in Known). It goes on only if the signed tree is a prefix of the other two. A new log gets its first marker here.
func (l *Log) recover(ctx context.Context) error {
	tail, err := l.cfg.Store.Tail(ctx)
	if err != nil {
		return fmt.Errorf("%w: reading the end of the order: %w", ErrUnavailable, err)
	}
	if (tail.Open == nil) != (tail.Next == 0) {
		return l.halt("the store has %d entries but its open epoch doesn't agree: restore the store", tail.Next)
	}
	l.next = tail.Next
	l.order.clock.ahead = max(maxStepAhead, 2*l.cfg.Epoch)
	if tail.Open != nil {
		l.order.open, l.order.counts, l.open = tail.Open, tail.Counts, *tail.Open
		l.order.clock.last = tail.Open.Opened
		if err := l.checkTail(tail); err != nil {
			return err
		}
		if err := l.checkClock(); err != nil {
			return err
		}
	}
	if err := l.recoverSigned(ctx, tail.Next); err != nil {
		return err
	}
	if l.order.open == nil {
		if _, err := l.orderBatch(nil); err != nil {
			return unavailable(err)
		}
	}
	// What was committed but not signed when the log stopped.
	for more := true; more; {
		if more, err = l.signNext(ctx); err != nil {
			return err
		}
	}
	return nil
}

// checkClock compares the clock with the last marker: years ahead, and the first thing a log did would be to close an epoch in the future.
func (l *Log) checkClock() error {
	now := l.cfg.Clock()
	err := l.order.clock.leap(now)
	if err == nil || !l.cfg.ConfirmClock {
		return err
	}
	l.cfg.Logger.Warn("the clock is far ahead of the last marker, and was confirmed by the operator", "clock", now.UTC(), "marker", l.order.clock.last)
	l.order.clock.last = now.UTC()
	return nil
}

// checkTail compares the store's open epoch with the marker that opened it.
func (l *Log) checkTail(tail Tail) error {
	e, err := proof.ParseEntry(tail.Open.Text)
	m, ok := e.(proof.Marker)
	if err != nil || !ok || m.Epoch != tail.Open.Number || m.At() != tail.Open.Marker || m.Opened != proof.TimeOf(tail.Open.Opened) || m.Until != proof.TimeOf(tail.Open.Until) {
		return l.halt("the store's open epoch %d doesn't agree with its marker: restore the store", tail.Open.Number)
	}
	var n uint64
	for _, c := range tail.Counts {
		n += c
	}
	if n != uint64(tail.Next-tail.Open.Marker) {
		return l.halt("the store counts %d entries in epoch %d and has %d: restore the store", n, tail.Open.Number, tail.Next-tail.Open.Marker)
	}
	return nil
}

// checkpoints returns the stored note, and all checkpoints that this log is known to have signed: the stored and the published one, and what the configuration knows.
func (l *Log) checkpoints(ctx context.Context) (last []byte, all []proof.Checkpoint, err error) {
	last, err = l.cfg.Signed.Last(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: reading the last signed checkpoint: %w", ErrUnavailable, err)
	}
	notes := [][]byte{last}
	for _, name := range []string{checkpointName, witnessedName} {
		published, err := os.ReadFile(filepath.Join(l.cfg.Dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("%w: reading the published checkpoint: %w", ErrUnavailable, err)
		}
		notes = append(notes, published)
	}
	for _, n := range append(notes, l.cfg.Known...) {
		if len(n) == 0 {
			continue
		}
		cp, err := l.ours(ctx, n)
		if err != nil {
			return nil, nil, l.halt("a stored or published checkpoint isn't one of this log (%v): give the log the key that signed it, or its own directory", err)
		}
		all = append(all, cp)
	}
	return last, all, nil
}

// largest of checkpoints, the first of several; zero if there is none.
func largest(all []proof.Checkpoint) (best proof.Checkpoint) {
	for _, cp := range all {
		if best.IsZero() || cp.Size() > best.Size() {
			best = cp
		}
	}
	return best
}

// recoverSigned finds the largest checkpoint that this log signed and the edge of its tree.
func (l *Log) recoverSigned(ctx context.Context, next proof.Index) error {
	last, all, err := l.checkpoints(ctx)
	if err != nil {
		return err
	}
	best := largest(all)
	if best.IsZero() || best.Size() == 0 {
		// Only the first marker may exist without a checkpoint: the process ended before it could sign.
		if next > 1 {
			return l.halt("the store has %d entries but no signed checkpoint is there: bring the checkpoint store back, or the published checkpoint", next)
		}
		l.signed = &signed{note: last}
		return nil
	}
	if uint64(next) < best.Size() {
		return l.halt("the store's order ends at %d, a checkpoint was signed for %d entries: the store is an older copy. Put the newest one back, or restore a backup, which goes on from that checkpoint (regard restore); nothing is signed until then", next, best.Size())
	}
	e, err := l.edgeOf(ctx, best)
	if err != nil {
		return err
	}
	for _, cp := range all {
		if err := l.checkConsistent(ctx, cp, best); err != nil {
			return err
		}
	}
	l.signed = &signed{best, best.Note(), e}
	if cp := best.Note(); !bytes.Equal(cp, last) {
		l.cfg.Logger.Warn("the published checkpoint, or a mirror's, is newer than the stored one, which was restored or lost; the log goes on from the newest", "size", best.Size())
		if err := l.cfg.Signed.Swap(ctx, last, cp); err != nil {
			return fmt.Errorf("%w: storing the published checkpoint as the last signed one: %w", ErrUnavailable, err)
		}
	}
	return nil
}

// edgeOf recovers the right edge of a signed tree from Trillian and the Store, and so shows that both have it.
func (l *Log) edgeOf(ctx context.Context, cp proof.Checkpoint) (edge, error) {
	size := cp.Size()
	inTree, _, err := l.trillianRoot(ctx)
	if err != nil {
		return edge{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if inTree < size {
		return edge{}, fmt.Errorf("%w: it has %d entries, the signed checkpoint %d", ErrTreeBehind, inTree, size)
	}
	var leaf proof.Hash
	err = l.cfg.Store.Leaves(ctx, proof.Index(size-1), proof.Index(size), func(x Leaf) error {
		leaf = proof.LeafHash(x.Text)
		return nil
	})
	if err != nil {
		return edge{}, fmt.Errorf("%w: reading the last signed entry: %w", ErrUnavailable, err)
	}
	r, err := l.cfg.Trillian.GetInclusionProof(ctx, &trillian.GetInclusionProofRequest{LogId: l.cfg.TreeID, LeafIndex: int64(size - 1), TreeSize: int64(size)})
	if err != nil {
		return edge{}, fmt.Errorf("%w: asking Trillian for the last signed entry: %w", ErrUnavailable, err)
	}
	root := cp.Root()
	if err := mproof.VerifyInclusion(rfc6962.DefaultHasher, size-1, size, leaf[:], r.GetProof().GetHashes(), root[:]); err != nil {
		return edge{}, l.halt("the last entry of the signed checkpoint of size %d isn't what the store and Trillian have: one of them was changed or belongs to another log. Restore it", size)
	}
	path := make([]proof.Hash, len(r.GetProof().GetHashes()))
	for i, h := range r.GetProof().GetHashes() {
		path[i] = proof.Hash(h)
	}
	e, err := edgeFromLast(size, leaf, path)
	if err != nil || e.root() != root {
		return edge{}, l.halt("the right edge of the tree of size %d doesn't give the signed root", size)
	}
	return e, nil
}

// checkConsistent demands that the larger of two checkpoints of this log extends the other, which may be empty.
func (l *Log) checkConsistent(ctx context.Context, small, large proof.Checkpoint) error {
	if small.Size() == 0 {
		return nil
	}
	r1, r2 := small.Root(), large.Root()
	var path [][]byte
	if small.Size() < large.Size() {
		r, err := l.cfg.Trillian.GetConsistencyProof(ctx, &trillian.GetConsistencyProofRequest{
			LogId: l.cfg.TreeID, FirstTreeSize: int64(small.Size()), SecondTreeSize: int64(large.Size()),
		})
		if err != nil {
			return fmt.Errorf("%w: asking Trillian for a consistency proof: %w", ErrUnavailable, err)
		}
		path = r.GetProof().GetHashes()
	}
	if err := mproof.VerifyConsistency(rfc6962.DefaultHasher, small.Size(), large.Size(), path, r1[:], r2[:]); err != nil {
		return l.halt("two checkpoints of this log, of size %d and %d, contradict each other: it was forked. Keep both, and tell the witnesses", small.Size(), large.Size())
	}
	return nil
}

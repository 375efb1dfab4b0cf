package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/types"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/regard-broker/regard/ledger/proof"
)

// signer is the state of stage B, which only its goroutine (and Open before it) touches.
type signer struct {
	// sure: Trillian's tree is known to be that of the last signed checkpoint.
	sure bool
	// maybe is a checkpoint that was signed, and of which it isn't known whether the SignedStore has it.
	maybe *signed
}

// runSign is stage B.
func (l *Log) runSign() {
	defer close(l.signDone)
	backoff := time.Duration(0)
	for {
		last := false // nothing more will be ordered
		select {
		case <-l.orderDone:
			last = true
		default:
			if backoff > 0 {
				t := time.NewTimer(backoff)
				select {
				case <-t.C:
				case <-l.orderDone:
				}
				t.Stop()
			} else {
				select {
				case <-l.wakeSign:
				case <-l.orderDone:
				}
			}
			select {
			case <-l.orderDone:
				last = true
			default:
			}
		}
		backoff = l.signAll(backoff)
		if last {
			return
		}
	}
}

// signAll signs until nothing waits or it fails; it returns how long to wait after a failure.
func (l *Log) signAll(backoff time.Duration) time.Duration {
	for !l.isHalted() {
		ctx, cancel := context.WithTimeout(l.ctx, l.cfg.Timeout)
		began := time.Now()
		l.answered()
		more, err := l.signNext(ctx)
		l.troubles.ended(&l.troubles.sign, began, err)
		cancel()
		if err != nil {
			l.failed(&l.count.signErrors, "signing failed; nothing is released, and it is tried again from the durable order", err)
			return min(max(2*backoff, minBackoff), maxBackoff)
		}
		backoff = 0
		if !more {
			return 0
		}
	}
	return 0
}

// takePending takes committed batches, up to the limit of a round.
func (l *Log) takePending() (batches []*ordered, first uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, leaves := 0, 0
	for _, o := range l.pending {
		if n > 0 && leaves+len(o.leaves) > l.cfg.MaxBatch {
			break
		}
		n, leaves = n+1, leaves+len(o.leaves)
	}
	batches = append(batches, l.pending[:n]...)
	clear(l.pending[:n])
	l.pending = l.pending[n:]
	if n == 0 {
		return nil, uint64(l.next)
	}
	l.signing = true
	return batches, batches[0].first()
}

// roundEnds lets stage A order the next batch, if it waits for that.
func (l *Log) roundEnds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.signing {
		l.signing = false
		wake(l.wakeOrder)
	}
}

// signNext brings what is committed behind the signed tree into Trillian, signs it and wakes the waiters. more says that it should be called again. After an error
// everybody who waits for a signature is told, and the next call takes the leaves from the Store again: nothing is lost, and nothing can come twice, since each leaf has its index.
func (l *Log) signNext(ctx context.Context) (more bool, err error) {
	var batches []*ordered
	defer l.roundEnds()
	defer func() {
		if err != nil {
			l.sign.sure = false
			err = unavailable(err)
			l.mu.Lock()
			batches = append(batches, l.pending...)
			l.pending = nil
			wake(l.wakeOrder)
			l.mu.Unlock()
			for _, o := range batches {
				o.finish(outcome{err: err})
			}
		}
	}()
	if err := l.settleSigned(ctx); err != nil {
		return false, err
	}
	runtime.Gosched() // for a larger round, as before a batch is ordered
	batches, first := l.takePending()
	have := l.signed.edge.size
	inTree := have
	var treeRoot []byte
	if !l.sign.sure {
		if inTree, treeRoot, err = l.trillianRoot(ctx); err != nil {
			return false, err
		}
		if inTree < have {
			return false, l.halt("Trillian's tree has %d entries, the signed checkpoint %d: Trillian lost some. Restore its database, or rebuild it from the store", inTree, have)
		}
	}
	if first < have {
		return false, l.halt("log index %d waits to be signed, but the signed checkpoint has %d entries", first, have)
	}
	// What an earlier failure left behind comes from the Store.
	var leaves []Leaf
	gap := first
	if limit := max(have+uint64(l.cfg.MaxBatch), inTree); gap > limit {
		gap = limit
		l.mu.Lock()
		l.pending = append(batches, l.pending...)
		l.mu.Unlock()
		batches = nil
	}
	if gap > have {
		err := l.cfg.Store.Leaves(ctx, proof.Index(have), proof.Index(gap), func(leaf Leaf) error {
			leaves = append(leaves, leaf)
			return nil
		})
		if err != nil {
			return false, fmt.Errorf("reading the order: %w", err)
		}
		l.answered()
	}
	hashes := make([]proof.Hash, len(leaves))
	for i := range leaves {
		hashes[i] = proof.LeafHash(leaves[i].Text)
	}
	for _, o := range batches {
		leaves, hashes = append(leaves, o.leaves...), append(hashes, o.hashes...)
	}
	if inTree > have+uint64(len(leaves)) {
		return false, l.halt("Trillian's tree has %d entries, the store's order ends at %d: the store was restored from a backup, or another process writes to Trillian. Give Trillian a new, empty database after a restoration: it is rebuilt from the store", inTree, have+uint64(len(leaves)))
	}
	if !l.sign.sure {
		// Whatever Trillian integrated beyond the signed tree must be what the Store says, before more is added to it.
		root := l.signed.edge.root()
		if inTree > have {
			root = l.signed.edge.grow(hashes[:inTree-have]).root
		}
		if inTree > 0 && !bytes.Equal(root[:], treeRoot) {
			return false, l.halt("Trillian's tree of %d entries isn't the one of the signed checkpoint and the store: rebuild Trillian from the store", inTree)
		}
		l.sign.sure = true
	}
	if len(leaves) == 0 {
		return false, nil
	}
	g, err := l.integrate(ctx, leaves, hashes, inTree)
	if err != nil {
		return false, err
	}
	s, err := l.signTree(ctx, g)
	if err != nil {
		return false, err
	}
	more = l.adopt(s)
	l.count.rounds.Add(1)
	for _, o := range batches {
		o.finish(outcome{cp: s.cp, growth: g})
	}
	return more, nil
}

// trillianRoot returns size and root of Trillian's tree.
func (l *Log) trillianRoot(ctx context.Context) (uint64, []byte, error) {
	r, err := l.cfg.Trillian.GetLatestSignedLogRoot(ctx, &trillian.GetLatestSignedLogRootRequest{LogId: l.cfg.TreeID})
	if err != nil {
		return 0, nil, fmt.Errorf("asking Trillian for its root: %w", err)
	}
	var root types.LogRootV1
	if err := root.UnmarshalBinary(r.GetSignedLogRoot().GetLogRoot()); err != nil {
		return 0, nil, fmt.Errorf("reading Trillian's root: %w", err)
	}
	if len(root.RootHash) != len(proof.Hash{}) {
		// Trillian's PostgreSQL storage takes a failed query for an empty tree. The root of a tree that is empty has a hash.
		return 0, nil, errors.New("reading Trillian's root: it has no hash, so Trillian couldn't read its database")
	}
	l.answered()
	return root.TreeSize, root.RootHash, nil
}

// integrate adds leaves behind the signed tree, of which Trillian has those below inTree already, and returns the grown tree once Trillian has the same.
func (l *Log) integrate(ctx context.Context, leaves []Leaf, hashes []proof.Hash, inTree uint64) (*growth, error) {
	start := time.Now()
	if err := l.addFrom(ctx, leaves, inTree); err != nil {
		return nil, err
	}
	added := time.Now()
	l.count.addNanos.Add(int64(added.Sub(start)))
	g := l.signed.edge.grow(hashes)
	for last := added; ; {
		if l.cfg.Integrate != nil {
			if err := l.cfg.Integrate(ctx); err != nil {
				return nil, fmt.Errorf("integrating: %w", err)
			}
		}
		size, root, err := l.trillianRoot(ctx)
		if err != nil {
			return nil, err
		}
		if size > g.to {
			return nil, l.halt("Trillian's tree has %d entries, of which this log added %d only: another process writes to Trillian", size, g.to)
		}
		if size == g.to {
			if !bytes.Equal(root, g.root[:]) {
				return nil, l.halt("Trillian's tree of %d entries has another root than the order in the store gives: it isn't signed. Rebuild Trillian from the store", size)
			}
			l.count.integrateNanos.Add(int64(time.Since(added)))
			return g, nil
		}
		// Only a signer process (or an integration that does part of the work) gets here. A quarter of the time that it took so far is lost at most.
		select {
		case <-time.After(min(max(time.Since(added)/4, minPoll), maxPoll)):
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for Trillian to integrate %d entries, it has %d: %w", g.to, size, ctx.Err())
		}
		if time.Since(last) > addAgain {
			// A database that was killed may have forgotten leaves that aren't in the tree.
			if err := l.addFrom(ctx, leaves, max(size, l.signed.edge.size)); err != nil {
				return nil, err
			}
			last = time.Now()
		}
	}
}

// How often a signer process is asked for the root, and when leaves that it doesn't integrate are added again.
const (
	minPoll  = 500 * time.Microsecond
	maxPoll  = 50 * time.Millisecond
	addAgain = time.Second
)

// addFrom adds leaves, the first of which follows the signed tree, from index from on.
func (l *Log) addFrom(ctx context.Context, leaves []Leaf, from uint64) error {
	inTree := from
	for rest := leaves[from-l.signed.edge.size:]; len(rest) > 0; {
		n := min(len(rest), maxAdd)
		if err := l.add(ctx, rest[:n], inTree); err != nil {
			return err
		}
		l.answered()
		rest = rest[n:]
	}
	return nil
}

// maxAdd bounds a request to Trillian: its messages are limited to 4 MiB, and an entry is less than 1 KiB.
const maxAdd = 1024

// add adds leaves. A leaf that is there already must be the same one.
func (l *Log) add(ctx context.Context, leaves []Leaf, inTree uint64) error {
	req := &trillian.AddSequencedLeavesRequest{LogId: l.cfg.TreeID, Leaves: make([]*trillian.LogLeaf, len(leaves))}
	for i := range leaves {
		leaf := &leaves[i]
		req.Leaves[i] = &trillian.LogLeaf{LeafIndex: int64(leaf.Index), LeafValue: leaf.Text, LeafIdentityHash: leaf.Identity[:]}
	}
	res, err := l.cfg.Trillian.AddSequencedLeaves(ctx, req)
	if c := status.Code(err); c == codes.AlreadyExists || c == codes.FailedPrecondition {
		// A storage may answer so for the request as a whole. It is all right if all of it is there.
		if n, rerr := l.readBack(ctx, leaves, inTree); rerr != nil {
			return rerr
		} else if n == len(leaves) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("adding leaves to Trillian: %w", err)
	}
	if len(res.GetResults()) != len(leaves) {
		return fmt.Errorf("adding leaves to Trillian: %d results for %d leaves", len(res.GetResults()), len(leaves))
	}
	unknown := false
	for i, r := range res.GetResults() {
		switch codes.Code(r.GetStatus().GetCode()) {
		case codes.OK:
		case codes.AlreadyExists, codes.FailedPrecondition:
			l.count.again.Add(1)
			got := r.GetLeaf()
			if len(got.GetLeafValue()) == 0 { // PostgreSQL doesn't say what is there
				unknown = true
			} else if err := l.sameLeaf(&leaves[i], got); err != nil {
				return err
			}
		default:
			return fmt.Errorf("adding leaf %d to Trillian: %s", leaves[i].Index, r.GetStatus().GetMessage())
		}
	}
	if unknown {
		_, err = l.readBack(ctx, leaves, inTree)
	}
	return err
}

func (l *Log) sameLeaf(want *Leaf, got *trillian.LogLeaf) error {
	if got.GetLeafIndex() != int64(want.Index) || !bytes.Equal(got.GetLeafValue(), want.Text) {
		return l.halt("Trillian has another leaf at log index %d than the store: rebuild Trillian from the store", want.Index)
	}
	return nil
}

// readBack compares leaves with what Trillian has, and returns how many it could compare. Trillian serves leaves beyond its root only in a range that begins below it, and may not serve them at
// all; what isn't compared here shows in the root, which is compared in any case before anything is signed.
func (l *Log) readBack(ctx context.Context, leaves []Leaf, inTree uint64) (n int, err error) {
	first := uint64(leaves[0].Index)
	start := first
	if start >= inTree {
		if inTree == 0 {
			return 0, nil
		}
		start = inTree - 1
	}
	count := first - start + uint64(len(leaves))
	r, err := l.cfg.Trillian.GetLeavesByRange(ctx, &trillian.GetLeavesByRangeRequest{LogId: l.cfg.TreeID, StartIndex: int64(start), Count: int64(count)})
	if err != nil {
		return 0, fmt.Errorf("reading leaves back from Trillian: %w", err)
	}
	for _, got := range r.GetLeaves() {
		if i := got.GetLeafIndex() - int64(first); i >= 0 && i < int64(len(leaves)) {
			if err := l.sameLeaf(&leaves[i], got); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// signTree signs a checkpoint of the grown tree and makes it durable: from here on nothing else is ever signed for this size.
func (l *Log) signTree(ctx context.Context, g *growth) (*signed, error) {
	start := time.Now()
	defer func() { l.count.signNanos.Add(int64(time.Since(start))) }()
	signedNote, err := l.signText(ctx, fmt.Sprintf("%s\n%d\n%s\n", l.cfg.Origin, g.to, g.root))
	if err != nil {
		return nil, err
	}
	l.answered()
	cp, err := l.ours(ctx, signedNote)
	if err != nil {
		return nil, fmt.Errorf("checking the signature of a new checkpoint: %w", err)
	}
	s := &signed{cp, signedNote, g.after}
	l.sign.maybe = s
	if err := l.cfg.Signed.Swap(ctx, l.signed.note, signedNote); err != nil {
		if serr := l.settleSigned(ctx); serr != nil {
			return nil, errors.Join(fmt.Errorf("storing a checkpoint: %w", err), serr)
		}
		if l.signed != s {
			return nil, fmt.Errorf("storing a checkpoint: %w", err)
		}
		l.cfg.Logger.Warn("the checkpoint store reported an error for a checkpoint that it has", "error", err)
	}
	l.sign.maybe = nil
	return s, nil
}

// signText has the signers in force sign. One that is retired between the question and the signature is refused: those that are left sign, and nobody hears of it.
func (l *Log) signText(ctx context.Context, text string) ([]byte, error) {
	var refused error
	var asked []uint32 // the keys of those who were asked before
	for {
		signers, err := l.cfg.Signers(ctx)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("asking for the signers: %w", err), refused)
		}
		if len(signers) == 0 {
			return nil, errors.New("no signer is in force")
		}
		now := make([]uint32, len(signers))
		for i, s := range signers {
			now[i] = s.KeyHash()
		}
		if refused != nil && slices.Equal(now, asked) {
			return nil, fmt.Errorf("signing a checkpoint: %w", refused)
		}
		n, err := note.Sign(&note.Note{Text: text}, signers...)
		if err == nil {
			return n, nil
		}
		asked, refused = now, err
	}
}

// settleSigned finds out whether a checkpoint whose storing failed is stored.
func (l *Log) settleSigned(ctx context.Context) error {
	s := l.sign.maybe
	if s == nil {
		return nil
	}
	got, err := l.cfg.Signed.Last(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("finding out whether the last checkpoint is stored: %w", err)
	case bytes.Equal(got, s.note):
		l.adopt(s)
	case !bytes.Equal(got, l.signed.note):
		return l.halt("the stored checkpoint isn't the one this log signed last: another process signs for this log. Stop that process, then start again")
	}
	l.sign.maybe = nil
	return nil
}

// adopt makes s the last signed checkpoint, and reports whether more is committed than it covers.
func (l *Log) adopt(s *signed) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signed = s
	if l.lagSince.IsZero() {
		l.lagSince = time.Now()
	}
	return uint64(l.next) > s.edge.size
}

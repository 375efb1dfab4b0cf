package embedded

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/trillian"
	"github.com/google/trillian/types"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func open(t testing.TB, path string, change ...func(*Config)) *Log {
	t.Helper()
	cfg := Config{Path: path}
	for _, f := range change {
		f(&cfg)
	}
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// known makes the i-th leaf from its index alone, so that any process can.
func known(i int64) *trillian.LogLeaf {
	value := entry(i)
	id := sha256.Sum256(value)
	return &trillian.LogLeaf{LeafIndex: i, LeafValue: value, LeafIdentityHash: id[:]}
}

func knownLeaves(from, n int64) []*trillian.LogLeaf {
	out := make([]*trillian.LogLeaf, n)
	for i := range out {
		out[i] = known(from + int64(i))
	}
	return out
}

func add(ctx context.Context, l *Log, leaves []*trillian.LogLeaf) ([]codes.Code, error) {
	res, err := l.Client().AddSequencedLeaves(ctx, &trillian.AddSequencedLeavesRequest{LogId: l.TreeID(), Leaves: leaves})
	if err != nil {
		return nil, err
	}
	out := make([]codes.Code, len(res.Results))
	for i, r := range res.Results {
		out[i] = status.FromProto(r.Status).Code()
	}
	return out, nil
}

func mustAdd(t testing.TB, l *Log, leaves []*trillian.LogLeaf, want codes.Code) {
	t.Helper()
	got, err := add(t.Context(), l, leaves)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range got {
		if c != want {
			t.Fatalf("leaf %d: %v, want %v", leaves[i].LeafIndex, c, want)
		}
	}
}

func mustIntegrate(t testing.TB, l *Log) types.LogRootV1 {
	t.Helper()
	if err := l.Integrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	root, err := latest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func latest(ctx context.Context, l *Log) (root types.LogRootV1, err error) {
	r, err := l.Client().GetLatestSignedLogRoot(ctx, &trillian.GetLatestSignedLogRootRequest{LogId: l.TreeID()})
	if err == nil {
		err = root.UnmarshalBinary(r.SignedLogRoot.LogRoot)
	}
	return root, err
}

// expect computes roots the other way: from the leaves.
type expect struct {
	r     *compact.Range
	roots map[uint64][]byte
}

func newExpect() *expect {
	f := &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	return &expect{f.NewEmptyRange(0), map[uint64][]byte{0: rfc6962.DefaultHasher.EmptyRoot()}}
}

func (e *expect) root(t testing.TB, size uint64) []byte {
	t.Helper()
	for e.r.End() < size {
		if err := e.r.Append(rfc6962.DefaultHasher.HashLeaf(known(int64(e.r.End())).LeafValue), nil); err != nil {
			t.Fatal(err)
		}
	}
	if h, ok := e.roots[size]; ok {
		return h
	}
	h, err := e.r.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	e.roots[size] = h
	return h
}

func TestProofsVerify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	l := open(t, path)
	ctx := t.Context()
	e := newExpect()
	rng := rand.New(rand.NewPCG(3, 4))
	sizes := []uint64{}
	size := int64(0)
	for size < 5000 {
		n := rng.Int64N(300) + 1
		mustAdd(t, l, knownLeaves(size, n), codes.OK)
		size += n
		root := mustIntegrate(t, l)
		if root.TreeSize != uint64(size) || !bytes.Equal(root.RootHash, e.root(t, uint64(size))) {
			t.Fatalf("root of size %d is %x, want %d and %x", root.TreeSize, root.RootHash, size, e.root(t, uint64(size)))
		}
		sizes = append(sizes, uint64(size))
	}
	id := l.TreeID()
	l.Close()
	l = open(t, path)
	if l.TreeID() != id {
		t.Errorf("tree id changed from %d to %d", id, l.TreeID())
	}
	for range 300 {
		treeSize := sizes[rng.IntN(len(sizes))]
		i := rng.Uint64N(treeSize)
		r, err := l.Client().GetInclusionProof(ctx, &trillian.GetInclusionProofRequest{LogId: id, LeafIndex: int64(i), TreeSize: int64(treeSize)})
		if err != nil {
			t.Fatal(err)
		}
		hash := rfc6962.DefaultHasher.HashLeaf(known(int64(i)).LeafValue)
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, treeSize, hash, r.Proof.Hashes, e.root(t, treeSize)); err != nil {
			t.Errorf("leaf %d in %d: %v", i, treeSize, err)
		}
		first := sizes[rng.IntN(len(sizes))]
		second := sizes[rng.IntN(len(sizes))]
		first, second = min(first, second), max(first, second)
		c, err := l.Client().GetConsistencyProof(ctx, &trillian.GetConsistencyProofRequest{LogId: id, FirstTreeSize: int64(first), SecondTreeSize: int64(second)})
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, first, second, c.Proof.Hashes, e.root(t, first), e.root(t, second)); err != nil {
			t.Errorf("from %d to %d: %v", first, second, err)
		}
	}
	for got := int64(0); got < size; {
		r, err := l.Client().GetLeavesByRange(ctx, &trillian.GetLeavesByRangeRequest{LogId: id, StartIndex: got, Count: size})
		if err != nil || len(r.Leaves) == 0 {
			t.Fatalf("reading from %d: %d leaves, %v", got, len(r.GetLeaves()), err)
		}
		for _, leaf := range r.Leaves {
			if leaf.LeafIndex != got || !bytes.Equal(leaf.LeafValue, known(got).LeafValue) {
				t.Fatalf("leaf %d is %q", leaf.LeafIndex, leaf.LeafValue)
			}
			got++
		}
	}
	one, err := l.Client().GetEntryAndProof(ctx, &trillian.GetEntryAndProofRequest{LogId: id, LeafIndex: 17, TreeSize: size})
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, 17, uint64(size), rfc6962.DefaultHasher.HashLeaf(one.Leaf.LeafValue), one.Proof.Hashes, e.root(t, uint64(size))); err != nil {
		t.Error(err)
	}
}

func TestLeavesAfterAGapWait(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "log.db"))
	e := newExpect()
	mustAdd(t, l, knownLeaves(0, 10), codes.OK)
	mustAdd(t, l, knownLeaves(20, 10), codes.OK)
	if root := mustIntegrate(t, l); root.TreeSize != 10 || !bytes.Equal(root.RootHash, e.root(t, 10)) {
		t.Errorf("integrated %d leaves before a gap, want 10", root.TreeSize)
	}
	mustAdd(t, l, knownLeaves(10, 10), codes.OK)
	if root := mustIntegrate(t, l); root.TreeSize != 30 || !bytes.Equal(root.RootHash, e.root(t, 30)) {
		t.Errorf("integrated %d leaves, want 30", root.TreeSize)
	}
	before := mustIntegrate(t, l)
	if after := mustIntegrate(t, l); after.TimestampNanos != before.TimestampNanos {
		t.Error("integrating nothing made a new root")
	}
	// More than one transaction's worth.
	for i := int64(31); i < 3*integrateLimit; i += 250 {
		mustAdd(t, l, knownLeaves(i, 250), codes.OK)
	}
	mustAdd(t, l, knownLeaves(30, 1), codes.OK)
	if root, err := latest(t.Context(), l); err != nil || root.TreeSize != 30+integrateLimit {
		t.Errorf("one transaction brought the tree to %d leaves (%v), want %d", root.TreeSize, err, 30+integrateLimit)
	}
	if root := mustIntegrate(t, l); root.TreeSize < 3*integrateLimit || !bytes.Equal(root.RootHash, e.root(t, root.TreeSize)) {
		t.Errorf("integrated %d leaves, want all", root.TreeSize)
	}
}

// TestAddingGrows: leaves are in the tree when they were added, but for those beside a leaf that was refused.
func TestAddingGrows(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "log.db"))
	e := newExpect()
	has := func(n uint64) {
		t.Helper()
		if root, err := latest(t.Context(), l); err != nil || root.TreeSize != n || !bytes.Equal(root.RootHash, e.root(t, n)) {
			t.Errorf("the tree has %d leaves (%v), want %d", root.TreeSize, err, n)
		}
	}
	mustAdd(t, l, knownLeaves(0, 10), codes.OK)
	has(10)
	other := known(99)
	other.LeafIndex = 12
	mustAdd(t, l, []*trillian.LogLeaf{other}, codes.OK)
	got, err := add(t.Context(), l, knownLeaves(10, 5))
	if err != nil || !slices.Equal(got, []codes.Code{codes.OK, codes.OK, codes.FailedPrecondition, codes.OK, codes.OK}) {
		t.Errorf("%v, %v", got, err)
	}
	has(10)
	if root := mustIntegrate(t, l); root.TreeSize != 15 {
		t.Errorf("%d leaves, want 15", root.TreeSize)
	}
}

func TestAnswersPerLeaf(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "log.db"))
	mustAdd(t, l, knownLeaves(0, 5), codes.OK)
	mustAdd(t, l, knownLeaves(0, 5), codes.AlreadyExists)
	other := known(99)
	other.LeafIndex = 4
	mustAdd(t, l, []*trillian.LogLeaf{other}, codes.FailedPrecondition)
	mustIntegrate(t, l)
	mustAdd(t, l, knownLeaves(0, 5), codes.AlreadyExists)
	mustAdd(t, l, []*trillian.LogLeaf{other}, codes.FailedPrecondition)

	ctx, id := t.Context(), l.TreeID()
	hash := rfc6962.DefaultHasher.HashLeaf(known(1).LeafValue)
	if _, err := l.Client().GetInclusionProofByHash(ctx, &trillian.GetInclusionProofByHashRequest{LogId: id, LeafHash: hash, TreeSize: 5}); status.Code(err) != codes.Unimplemented {
		t.Errorf("proof by hash: %v, want Unimplemented", err)
	}
	if _, err := l.Client().QueueLeaf(ctx, &trillian.QueueLeafRequest{LogId: id, Leaf: known(9)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("QueueLeaf: %v, want InvalidArgument", err)
	}
	if _, err := l.Client().GetLatestSignedLogRoot(ctx, &trillian.GetLatestSignedLogRootRequest{LogId: id + 1}); status.Code(err) != codes.NotFound {
		t.Errorf("another tree: %v, want NotFound", err)
	}
}

// Both directions exceed gRPC's default of 4 MiB.
func TestLargeMessages(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "log.db"))
	leaves := make([]*trillian.LogLeaf, 300)
	for i := range leaves {
		leaves[i] = &trillian.LogLeaf{LeafIndex: int64(i), LeafValue: bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 32_000)}
	}
	mustAdd(t, l, leaves, codes.OK)
	mustIntegrate(t, l)
	got := int64(0)
	for got < int64(len(leaves)) {
		r, err := l.Client().GetLeavesByRange(t.Context(), &trillian.GetLeavesByRangeRequest{LogId: l.TreeID(), StartIndex: got, Count: 1 << 40})
		if err != nil || len(r.Leaves) == 0 {
			t.Fatalf("from %d: %d leaves, %v", got, len(r.GetLeaves()), err)
		}
		for _, leaf := range r.Leaves {
			if !bytes.Equal(leaf.LeafValue, leaves[got].LeafValue) {
				t.Fatalf("leaf %d differs", got)
			}
			got++
		}
	}
}

// A log that doesn't add up is not opened.
func TestOpenChecksTheTree(t *testing.T) {
	for _, change := range []string{
		`DELETE FROM Tile`,
		`DELETE FROM Tile WHERE rowid = (SELECT max(rowid) FROM Tile)`,
		`UPDATE Root SET LogRoot = CAST(substr(LogRoot, 1, 20) || CASE substr(LogRoot, 21, 1) WHEN x'00' THEN x'01' ELSE x'00' END || substr(LogRoot, 22) AS BLOB)`,
		`UPDATE Root SET LogRoot = x'0001'`,
		`UPDATE Tile SET Hashes = zeroblob(length(Hashes))`,
		`UPDATE Tree SET Type = 'LOG'`,
		`UPDATE Tree SET Deleted = 1`,
		`INSERT INTO Tree(TreeId, State, Type, DisplayName, Description, CreateMillis, UpdateMillis, MaxRootMillis, HashIndexed)
			VALUES(7, 'ACTIVE', 'PREORDERED_LOG', '', '', 0, 0, 0, 0)`,
	} {
		path := filepath.Join(t.TempDir(), "log.db")
		l := open(t, path)
		mustAdd(t, l, knownLeaves(0, 600), codes.OK)
		mustIntegrate(t, l)
		l.Close()
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(change); err != nil {
			t.Fatal(err)
		}
		db.Close()
		if l, err := Open(t.Context(), Config{Path: path}); err == nil {
			l.Close()
			t.Errorf("opened after %s", change)
		} else if errors.Is(err, ErrLocked) {
			t.Errorf("%s: %v", change, err)
		}
		// The failed attempt must have let go of the file.
		if _, err := Open(t.Context(), Config{Path: path}); errors.Is(err, ErrLocked) {
			t.Errorf("after %s the log stays locked", change)
		}
	}
}

// Proofs are asked for while batches come in; each must verify against the root
// that came with it.
func TestReadersBesideTheWriter(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "log.db"))
	ctx := t.Context()
	e := newExpect()
	const total, step = 6000, 50
	for size := uint64(0); size <= total; size += step {
		e.root(t, size)
	}
	mustAdd(t, l, knownLeaves(0, step), codes.OK)
	mustIntegrate(t, l)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 5))
			for {
				select {
				case <-done:
					return
				default:
				}
				root, err := latest(ctx, l)
				if err != nil {
					t.Error(err)
					return
				}
				i := rng.Uint64N(root.TreeSize)
				r, err := l.Client().GetInclusionProof(ctx, &trillian.GetInclusionProofRequest{LogId: l.TreeID(), LeafIndex: int64(i), TreeSize: int64(root.TreeSize)})
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(root.RootHash, e.roots[root.TreeSize]) {
					t.Errorf("wrong root of size %d", root.TreeSize)
				}
				if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, root.TreeSize, rfc6962.DefaultHasher.HashLeaf(known(int64(i)).LeafValue), r.Proof.Hashes, root.RootHash); err != nil {
					t.Errorf("leaf %d in %d: %v", i, root.TreeSize, err)
				}
			}
		})
	}
	for size := int64(step); size < total; size += step {
		mustAdd(t, l, knownLeaves(size, step), codes.OK)
		var both sync.WaitGroup
		for range 2 { // two callers at once are one after the other
			both.Go(func() {
				if err := l.Integrate(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
	}
	close(done)
	wg.Wait()
	if root := mustIntegrate(t, l); root.TreeSize != total {
		t.Errorf("size %d, want %d", root.TreeSize, total)
	}
}

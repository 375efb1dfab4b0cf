package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/trillian"
	"github.com/google/trillian/log"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/storage"
	"github.com/google/trillian/types"
	"github.com/google/trillian/util/clock"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

func init() { log.InitMetrics(nil) }

func leaf(i int64, tag string) *trillian.LogLeaf {
	value := fmt.Appendf(nil, "leaf %d %s", i, tag)
	id := sha256.Sum256(append([]byte("identity "), value...))
	return &trillian.LogLeaf{
		LeafIndex:        i,
		LeafValue:        value,
		LeafIdentityHash: id[:],
		MerkleLeafHash:   rfc6962.DefaultHasher.HashLeaf(value),
	}
}

func leaves(from, n int64) []*trillian.LogLeaf {
	out := make([]*trillian.LogLeaf, n)
	for i := range out {
		out[i] = leaf(from+int64(i), "")
	}
	return out
}

// rootOf is the root that the first n leaves must have.
func rootOf(t testing.TB, n int64) []byte {
	t.Helper()
	if n == 0 {
		return rfc6962.DefaultHasher.EmptyRoot()
	}
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for i := range n {
		if err := r.Append(leaf(i, "").MerkleLeafHash, nil); err != nil {
			t.Fatal(err)
		}
	}
	h, err := r.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newTree(t testing.TB, s *Storage, change ...func(*trillian.Tree)) *trillian.Tree {
	t.Helper()
	ctx := context.Background()
	tree := &trillian.Tree{
		TreeState:       trillian.TreeState_ACTIVE,
		TreeType:        trillian.TreeType_PREORDERED_LOG,
		MaxRootDuration: durationpb.New(0),
		StorageSettings: WithoutHashIndexes(),
	}
	for _, f := range change {
		f(tree)
	}
	tree, err := storage.CreateTree(ctx, s.Admin(), tree)
	if err != nil {
		t.Fatal(err)
	}
	storeRoot(t, s, tree, &types.LogRootV1{RootHash: rfc6962.DefaultHasher.EmptyRoot(), TimestampNanos: 1})
	return tree
}

func tryRoot(s *Storage, tree *trillian.Tree, root *types.LogRootV1) error {
	raw, err := root.MarshalBinary()
	if err != nil {
		return err
	}
	return s.Log().ReadWriteTransaction(context.Background(), tree, func(ctx context.Context, tx storage.LogTreeTX) error {
		return tx.StoreSignedLogRoot(ctx, &trillian.SignedLogRoot{LogRoot: raw})
	})
}

func storeRoot(t testing.TB, s *Storage, tree *trillian.Tree, root *types.LogRootV1) {
	t.Helper()
	if err := tryRoot(s, tree, root); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, s *Storage, tree *trillian.Tree, ls []*trillian.LogLeaf) []codes.Code {
	t.Helper()
	res, err := s.Log().AddSequencedLeaves(context.Background(), tree, ls, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return codesOf(res)
}

func codesOf(res []*trillian.QueuedLogLeaf) []codes.Code {
	out := make([]codes.Code, len(res))
	for i, r := range res {
		out[i] = status.FromProto(r.Status).Code()
	}
	return out
}

func integrateBatch(s *Storage, tree *trillian.Tree, limit int) (int, error) {
	return log.IntegrateBatch(context.Background(), tree, limit, 0, 0, clock.System, s.Log(), quota.Noop())
}

func tryIntegrate(s *Storage, tree *trillian.Tree) error {
	for {
		if n, err := integrateBatch(s, tree, 500); err != nil || n == 0 {
			return err
		}
	}
}

func integrate(t testing.TB, s *Storage, tree *trillian.Tree) {
	t.Helper()
	if err := tryIntegrate(s, tree); err != nil {
		t.Fatal(err)
	}
}

func latestRoot(t testing.TB, s *Storage, tree *trillian.Tree) types.LogRootV1 {
	t.Helper()
	ctx := context.Background()
	tx, err := s.Log().SnapshotForTree(ctx, tree)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	slr, err := tx.LatestSignedLogRoot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var root types.LogRootV1
	if err := root.UnmarshalBinary(slr.LogRoot); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	return root
}

func wantRoot(t testing.TB, s *Storage, tree *trillian.Tree, n int64) {
	t.Helper()
	root := latestRoot(t, s, tree)
	if root.TreeSize != uint64(n) || !bytes.Equal(root.RootHash, rootOf(t, n)) {
		t.Fatalf("root has size %d and hash %x, want %d and %x", root.TreeSize, root.RootHash, n, rootOf(t, n))
	}
}

// count reads a number through the writer.
func count(t testing.TB, s *Storage, sql string) int64 {
	t.Helper()
	c, err := s.acquire(context.Background(), true)
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	err = c.queryInts(sql, &n)
	if e := s.finish(c, true, false); e != nil || err != nil {
		t.Fatal(err, e)
	}
	return n
}

func reopen(t testing.TB, s *Storage, change ...func(*Config)) *Storage {
	t.Helper()
	s.Close()
	return open(t, append([]func(*Config){func(c *Config) { c.Path = s.path }}, change...)...)
}

func TestAddSequencedLeavesIsIdempotent(t *testing.T) {
	for _, indexed := range []bool{true, false} {
		t.Run(fmt.Sprintf("indexed=%v", indexed), func(t *testing.T) {
			s := open(t)
			tree := newTree(t, s, func(tree *trillian.Tree) {
				if indexed {
					tree.StorageSettings = nil
				}
			})
			ok, there, conflict := codes.OK, codes.AlreadyExists, codes.FailedPrecondition
			changed := leaf(4, "")
			changed.ExtraData = []byte("new")
			wrongHash := leaf(5, "")
			wrongHash.MerkleLeafHash = make([]byte, 32)
			moved := leaf(3, "")
			moved.LeafIndex = 10
			twice := leaf(12, "again")

			steps := []struct {
				what   string
				leaves []*trillian.LogLeaf
				want   []codes.Code
			}{
				{"first", leaves(0, 6), []codes.Code{ok, ok, ok, ok, ok, ok}},
				{"the same again", leaves(0, 6), []codes.Code{there, there, there, there, there, there}},
				{"overlapping", leaves(4, 4), []codes.Code{there, there, ok, ok}},
				{"another value at a taken index", []*trillian.LogLeaf{leaf(7, "other"), leaf(8, "")}, []codes.Code{conflict, ok}},
				{"other extra data, other hash", []*trillian.LogLeaf{changed, wrongHash}, []codes.Code{conflict, conflict}},
				{"a waiting leaf at a second index", []*trillian.LogLeaf{leaf(9, ""), moved}, []codes.Code{ok, conflict}},
				{"one index twice in a batch", []*trillian.LogLeaf{leaf(11, ""), leaf(11, ""), leaf(11, "other")}, []codes.Code{ok, there, conflict}},
				{"one identity twice in a batch", []*trillian.LogLeaf{twice, {LeafIndex: 13, LeafValue: twice.LeafValue,
					LeafIdentityHash: twice.LeafIdentityHash, MerkleLeafHash: twice.MerkleLeafHash}}, []codes.Code{ok, conflict}},
			}
			for _, step := range steps {
				if diff := cmp.Diff(step.want, add(t, s, tree, step.leaves)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", step.what, diff)
				}
			}
			integrate(t, s, tree)
			wantRoot(t, s, tree, 10)
			if diff := cmp.Diff([]codes.Code{there, conflict}, add(t, s, tree, []*trillian.LogLeaf{leaf(0, ""), leaf(1, "other")})); diff != "" {
				t.Errorf("after integration (-want +got):\n%s", diff)
			}
			res, err := s.Log().AddSequencedLeaves(t.Context(), tree, []*trillian.LogLeaf{leaf(1, "other")}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if got, want := res[0].Leaf.GetLeafValue(), leaf(1, "").LeafValue; !bytes.Equal(got, want) {
				t.Errorf("conflict returned leaf %q, want the stored %q", got, want)
			}
		})
	}
}

// TestAddSequencedLeavesThen: what follows is of the same transaction, and isn't done if a leaf is refused.
func TestAddSequencedLeavesThen(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	ls := leaves(0, 3)
	no := errors.New("no")
	then := func(err error) (called bool, got error) {
		_, got = s.Log().AddSequencedLeavesThen(t.Context(), tree, ls, time.Now(), func(ctx context.Context, tx storage.LogTreeTX) error {
			called = true
			if there, err := tx.DequeueLeaves(ctx, 10, time.Now()); err != nil || len(there) != len(ls) {
				t.Errorf("%d leaves, %v", len(there), err)
			}
			return err
		})
		return called, got
	}
	if called, err := then(no); !called || !errors.Is(err, no) {
		t.Errorf("%v, %v", called, err)
	}
	if got := add(t, s, tree, ls); got[0] != codes.OK {
		t.Errorf("after a failure the leaf is %v", got[0])
	}
	if called, err := then(nil); !called || err != nil {
		t.Errorf("leaves that are there: %v, %v", called, err)
	}
	ls[1].LeafValue = []byte("another")
	if called, err := then(nil); called || err != nil {
		t.Errorf("a refused leaf: %v, %v", called, err)
	}
}

func TestAddSequencedLeavesRefuses(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	short, negative, huge := leaf(0, ""), leaf(0, ""), leaf(0, "")
	short.LeafIdentityHash = []byte("short")
	negative.LeafIndex = -1
	huge.LeafIndex = maxLeaves
	for _, tt := range []struct {
		leaf *trillian.LogLeaf
		want codes.Code
	}{{short, codes.InvalidArgument}, {negative, codes.OutOfRange}, {huge, codes.OutOfRange}} {
		_, err := s.Log().AddSequencedLeaves(t.Context(), tree, []*trillian.LogLeaf{leaf(1, ""), tt.leaf}, time.Now())
		if got := status.Code(err); got != tt.want {
			t.Errorf("leaf %d: got %v (%v), want %v", tt.leaf.LeafIndex, got, err, tt.want)
		}
	}
	if n := count(t, s, `SELECT count(*) FROM Leaf`); n != 0 {
		t.Errorf("%d leaves of refused batches were kept", n)
	}
	last := leaf(maxLeaves-1, "")
	if diff := cmp.Diff([]codes.Code{codes.OK}, add(t, s, tree, []*trillian.LogLeaf{last})); diff != "" {
		t.Error(diff)
	}
	other := newTree(t, s)
	tx, err := s.Log().SnapshotForTree(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if got, err := tx.GetLeavesByRange(t.Context(), 0, 10); err != nil || len(got) != 0 {
		t.Errorf("the next tree sees %d leaves of its neighbour (%v)", len(got), err)
	}
}

// Any way of cutting leaves into batches gives the root that the leaves alone
// determine, over the edges of tiles and levels.
func TestRootsOverManyBatches(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	rng := rand.New(rand.NewPCG(1, 2))
	for size := int64(0); size < 70_000; {
		n := rng.Int64N(700) + 1
		if rng.IntN(8) == 0 {
			n += 3000
		}
		add(t, s, tree, leaves(size, n))
		size += n
		integrate(t, s, tree)
		if rng.IntN(20) == 0 {
			wantRoot(t, s, tree, size)
			s = reopen(t, s)
		}
	}
	size := int64(latestRoot(t, s, tree).TreeSize)
	wantRoot(t, s, tree, size)

	// Rows: one a leaf, one a tile that isn't empty, a few roots.
	tiles := int64(0)
	for n := size; n > 0; n /= tileWidth {
		tiles += (n + tileWidth - 1) / tileWidth
	}
	for _, q := range []struct {
		table string
		want  int64
	}{{"Leaf", size}, {"Tile", tiles}, {"Root", rootsKept}, {"Identity", 0}, {"Merkle", 0}, {"Queue", 0}} {
		if got := count(t, s, `SELECT count(*) FROM `+q.table); got != q.want {
			t.Errorf("%s has %d rows, want %d", q.table, got, q.want)
		}
	}
}

func TestRootsOnlyMoveForward(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	hash := make([]byte, 32)
	for i := range uint64(3 * rootsKept) {
		storeRoot(t, s, tree, &types.LogRootV1{RootHash: hash, TimestampNanos: 10 + i, TreeSize: 5 + i})
		if got := latestRoot(t, s, tree); got.TreeSize != 5+i {
			t.Fatalf("latest root has size %d, want %d", got.TreeSize, 5+i)
		}
	}
	s = reopen(t, s)
	last := latestRoot(t, s, tree)
	for _, bad := range []types.LogRootV1{
		{RootHash: hash, TimestampNanos: last.TimestampNanos, TreeSize: last.TreeSize},
		{RootHash: hash, TimestampNanos: last.TimestampNanos - 1, TreeSize: last.TreeSize},
		{RootHash: hash, TimestampNanos: last.TimestampNanos + 1, TreeSize: last.TreeSize - 1},
	} {
		if err := tryRoot(s, tree, &bad); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("root of time %d, size %d: got %v, want FailedPrecondition", bad.TimestampNanos, bad.TreeSize, err)
		}
	}
	if got := latestRoot(t, s, tree); got.TreeSize != last.TreeSize || got.TimestampNanos != last.TimestampNanos {
		t.Error("a refused root was stored")
	}
	if n := count(t, s, `SELECT count(*) FROM Root`); n != rootsKept {
		t.Errorf("%d roots are kept, want %d", n, rootsKept)
	}
}

func TestTransactionsThatEnd(t *testing.T) {
	s := open(t, func(c *Config) { c.Readers = 1 })
	tree := newTree(t, s)
	ctx := t.Context()
	func() {
		defer func() { _ = recover() }()
		_ = s.Log().ReadWriteTransaction(ctx, tree, func(ctx context.Context, tx storage.LogTreeTX) error {
			if _, err := tx.(*logTX).addSequencedLeaves(leaves(0, 3), time.Now()); err != nil {
				t.Error(err)
			}
			panic("a bug in the caller")
		})
	}()
	if n := count(t, s, `SELECT count(*) FROM Leaf`); n != 0 {
		t.Errorf("%d leaves of a transaction that panicked were kept", n)
	}
	tx, err := s.Log().SnapshotForTree(ctx, tree)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Log().SnapshotForTree(short, tree); status.Code(err) != codes.Canceled {
		t.Errorf("waiting for a snapshot with an ended context: %v, want Canceled", err)
	}
	if err := tx.(*logTX).StoreSignedLogRoot(ctx, nil); err == nil {
		t.Error("a snapshot accepted a root")
	}
	if err := tx.Commit(ctx); err != nil {
		t.Error(err)
	}
	if err := tx.Close(); err != nil {
		t.Errorf("Close after Commit: %v", err)
	}
	if _, err := tx.GetLeavesByRange(ctx, 0, 1); err == nil {
		t.Error("an ended snapshot can still be read")
	}
	s.Close()
	if _, err := s.Log().SnapshotForTree(ctx, tree); status.Code(err) != codes.Unavailable {
		t.Errorf("snapshot after Close: %v, want Unavailable", err)
	}
	if err := s.Log().CheckDatabaseAccessible(ctx); status.Code(err) != codes.Unavailable {
		t.Errorf("check after Close: %v, want Unavailable", err)
	}
}

// A snapshot must not see what is written after it began.
func TestSnapshotsAreStable(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	ctx := t.Context()
	add(t, s, tree, leaves(0, 10))
	integrate(t, s, tree)
	tx, err := s.Log().SnapshotForTree(ctx, tree)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	add(t, s, tree, leaves(10, 300))
	integrate(t, s, tree)
	nodes, err := tx.GetMerkleNodes(ctx, compact.RangeNodes(0, 10, nil))
	if err != nil || len(nodes) != 2 {
		t.Fatalf("got %d nodes (%v), want 2", len(nodes), err)
	}
	if ls, err := tx.GetLeavesByRange(ctx, 0, 1000); err != nil || len(ls) != 10 {
		t.Errorf("the snapshot has %d leaves (%v), want 10", len(ls), err)
	}
	if _, err := tx.GetMerkleNodes(ctx, []compact.NodeID{compact.NewNodeID(0, 300)}); err == nil {
		t.Error("the snapshot has a node of the larger tree")
	}
}

func TestNoValuesInErrors(t *testing.T) {
	s := open(t)
	c, err := s.acquire(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.finish(c, true, false)
	for range 2 {
		_, err = c.exec(`INSERT INTO Leaf(Id, Hashes, Value, QueueNanos) VALUES(1, ?, ?, 0)`, []byte("h"), []byte("SECRET"))
	}
	if err == nil || bytes.Contains([]byte(err.Error()), []byte("SECRET")) {
		t.Errorf("got error %v, want one without the value", err)
	}
}

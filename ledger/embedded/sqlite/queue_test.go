package sqlite

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/storage"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// LOG mode from queue to tree, with lookups by hash.
func TestQueuedLog(t *testing.T) {
	s := open(t)
	tree := newTree(t, s, func(tree *trillian.Tree) {
		tree.TreeType = trillian.TreeType_LOG
		tree.StorageSettings = nil
	})
	ctx := t.Context()
	ls := leaves(0, 40)
	res, err := s.Log().QueueLeaves(ctx, tree, append(ls, leaf(7, "")), time.Now().Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range codesOf(res) {
		if want := map[bool]codes.Code{true: codes.OK, false: codes.AlreadyExists}[i < 40]; c != want {
			t.Errorf("leaf %d: %v, want %v", i, c, want)
		}
	}
	integrate(t, s, tree)
	if got := latestRoot(t, s, tree).TreeSize; got != 40 {
		t.Fatalf("tree has %d leaves, want 40", got)
	}
	if res, err = s.Log().QueueLeaves(ctx, tree, leaves(3, 1), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := codesOf(res)[0]; got != codes.AlreadyExists || !bytes.Equal(res[0].Leaf.LeafValue, ls[3].LeafValue) {
		t.Errorf("an integrated leaf queued again: %v with %q", got, res[0].Leaf.GetLeafValue())
	}
	tx, err := s.Log().SnapshotForTree(ctx, tree)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	found, err := tx.GetLeavesByHash(ctx, [][]byte{ls[9].MerkleLeafHash, ls[2].MerkleLeafHash, make([]byte, 32)}, true)
	if err != nil || len(found) != 2 {
		t.Fatalf("GetLeavesByHash found %d leaves (%v), want 2", len(found), err)
	}
	for _, f := range found {
		if !bytes.Equal(f.LeafValue, ls[2].LeafValue) && !bytes.Equal(f.LeafValue, ls[9].LeafValue) {
			t.Errorf("found %q", f.LeafValue)
		}
		if !bytes.Equal(f.MerkleLeafHash, rfc6962.DefaultHasher.HashLeaf(f.LeafValue)) {
			t.Errorf("%q came back with another Merkle hash", f.LeafValue)
		}
		if f.IntegrateTimestamp.AsTime().Unix() <= 0 {
			t.Errorf("%q has no integrate timestamp", f.LeafValue)
		}
	}
	if found[0].LeafIndex > found[1].LeafIndex {
		t.Error("leaves are not in order")
	}
	if n := count(t, s, `SELECT count(*) FROM Queue`); n != 0 {
		t.Errorf("%d leaves are still queued", n)
	}
}

func TestHardDeleteLeavesNothing(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	kept := newTree(t, s)
	add(t, s, kept, leaves(0, 300))
	integrate(t, s, kept)
	for _, change := range []func(*trillian.Tree){
		func(*trillian.Tree) {},
		func(t *trillian.Tree) { t.StorageSettings = nil },
		func(t *trillian.Tree) { t.StorageSettings, t.TreeType = nil, trillian.TreeType_LOG },
	} {
		tree := newTree(t, s, change)
		if tree.TreeType == trillian.TreeType_LOG {
			if _, err := s.Log().QueueLeaves(ctx, tree, leaves(500, 20), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		add(t, s, tree, leaves(0, 20))
		if _, err := storage.SoftDeleteTree(ctx, s.Admin(), tree.TreeId); err != nil {
			t.Fatal(err)
		}
		if err := storage.HardDeleteTree(ctx, s.Admin(), tree.TreeId); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Log().SnapshotForTree(ctx, tree); status.Code(err) != codes.NotFound {
			t.Errorf("snapshot of a deleted tree: %v, want NotFound", err)
		}
	}
	for table, want := range map[string]int64{"Tree": 1, "Leaf": 300, "Tile": 3, "Root": 2, "Identity": 0, "Merkle": 0, "Queue": 0} {
		if got := count(t, s, `SELECT count(*) FROM `+table); got != want {
			t.Errorf("%s has %d rows, want %d", table, got, want)
		}
	}
	wantRoot(t, s, kept, 300)
}

func TestTreesWithoutHashIndexes(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	ctx := t.Context()
	tx, err := s.Log().SnapshotForTree(ctx, tree)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if _, err := tx.GetLeavesByHash(ctx, [][]byte{make([]byte, 32)}, false); status.Code(err) != codes.Unimplemented {
		t.Errorf("GetLeavesByHash: %v, want Unimplemented", err)
	}
	if _, err := s.Log().QueueLeaves(ctx, tree, leaves(0, 1), time.Now()); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("QueueLeaves: %v, want FailedPrecondition", err)
	}
	if _, err := storage.UpdateTree(ctx, s.Admin(), tree.TreeId, func(t *trillian.Tree) { t.StorageSettings = nil }); status.Code(err) != codes.InvalidArgument {
		t.Errorf("changing the settings: %v, want InvalidArgument", err)
	}
	if _, err := storage.CreateTree(ctx, s.Admin(), &trillian.Tree{
		TreeState: trillian.TreeState_ACTIVE, TreeType: trillian.TreeType_LOG,
		MaxRootDuration: durationpb.New(0), StorageSettings: WithoutHashIndexes(),
	}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a LOG tree without indexes: %v, want InvalidArgument", err)
	}
}

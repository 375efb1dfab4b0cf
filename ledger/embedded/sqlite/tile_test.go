package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/google/trillian"
	"github.com/google/trillian/storage"
	trees "github.com/google/trillian/storage/tree"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// A tile that went through the database has every node that a compact range of its
// leaves has, at every size, and none that isn't complete.
func TestTilesRoundTrip(t *testing.T) {
	grown := newTile()
	nodes := make(map[compact.NodeID][]byte)
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for n := 1; n <= tileWidth; n++ {
		h := sha256.Sum256(fmt.Append(nil, n))
		if err := r.Append(h[:], func(id compact.NodeID, hash []byte) { nodes[id] = hash }); err != nil {
			t.Fatal(err)
		}
		if err := grown.set(n-1, h[:]); err != nil {
			t.Fatal(err)
		}
		stored, err := openTile(1, bytes.Clone(grown.seal()))
		if err != nil {
			t.Fatal(err)
		}
		for height := range tileHeight {
			for i := range tileWidth >> height {
				want := nodes[compact.NewNodeID(uint(height), uint64(i))]
				// The one that grows keeps what it computed before.
				if got := grown.node(height, i); !bytes.Equal(got, want) {
					t.Fatalf("%d leaves: node %d of height %d is %x, want %x", n, i, height, got, want)
				}
				if got := stored.node(height, i); !bytes.Equal(got, want) {
					t.Fatalf("%d leaves, stored: node %d of height %d is %x, want %x", n, i, height, got, want)
				}
			}
		}
	}
}

func TestTileForgetsWhatChanged(t *testing.T) {
	l := newTile()
	for i := range 4 {
		if err := l.set(i, bytes.Repeat([]byte{byte(i)}, hashSize)); err != nil {
			t.Fatal(err)
		}
	}
	before := bytes.Clone(l.node(2, 0))
	l.dirty = false
	if err := l.set(1, bytes.Repeat([]byte{1}, hashSize)); err != nil || l.dirty {
		t.Errorf("setting what is there: dirty=%v, %v", l.dirty, err)
	}
	if err := l.set(1, bytes.Repeat([]byte{9}, hashSize)); err != nil || !l.dirty || bytes.Equal(l.node(2, 0), before) {
		t.Errorf("another leaf: dirty=%v, %v, and the node above is the old one or not: %x", l.dirty, err, l.node(2, 0))
	}
}

func TestTileRefusesGaps(t *testing.T) {
	l := newTile()
	if err := l.set(1, make([]byte, hashSize)); err == nil {
		t.Error("a tile with a gap was made")
	}
	if err := l.set(0, make([]byte, hashSize-1)); err == nil {
		t.Error("a short hash was taken")
	}
	if _, err := openTile(1, l.seal()); err == nil {
		t.Error("an empty tile was opened")
	}
}

func TestTileKeysAreDistinct(t *testing.T) {
	seen := make(map[int64]string)
	for _, id := range []compact.NodeID{
		{Level: 0, Index: 0}, {Level: 0, Index: 256}, {Level: 8, Index: 0}, {Level: 8, Index: 256}, {Level: 16}, {Level: 56}, {Level: 0, Index: 256<<levelShift - 1},
	} {
		for _, slot := range []int64{1, 2, maxSlot} {
			k, _, _, err := tileOf(slot, id)
			if err != nil || k < key(slot, 0) || k > key(slot, maxLeaves-1) {
				t.Errorf("slot %d, %+v: key %d (%v)", slot, id, k, err)
			}
			what := fmt.Sprintf("slot %d, %+v", slot, id)
			if other, ok := seen[k]; ok {
				t.Errorf("%s and %s share a key", what, other)
			}
			seen[k] = what
		}
	}
	for _, id := range []compact.NodeID{{Level: 64}, {Level: 0, Index: 256 << levelShift}, {Level: 8, Index: 1 << 63}} {
		if k, _, _, err := tileOf(1, id); err == nil {
			t.Errorf("%+v: key %d, want an error", id, k)
		}
	}
	// All nodes of a tile have its key.
	for height := range uint(tileHeight) {
		k, h, i, err := tileOf(1, compact.NewNodeID(8+height, 3<<(tileHeight-height)|1))
		if want := key(1, 1<<levelShift|3); err != nil || k != want || h != int(height) || i != 1 {
			t.Errorf("height %d: key %d, height %d, index %d (%v)", height, k, h, i, err)
		}
	}
}

// Whatever stands in the row: an error or a tile that is stored as the same bytes.
func FuzzOpenTile(f *testing.F) {
	row := func(n int) []byte {
		l := newTile()
		for i := range n {
			if err := l.set(i, bytes.Repeat([]byte{byte(i)}, hashSize)); err != nil {
				f.Fatal(err)
			}
		}
		return l.seal()
	}
	part := row(3)
	f.Add(row(tileWidth))
	f.Add(part)
	f.Add([]byte{})
	f.Add(part[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := openTile(1, bytes.Clone(b))
		if err != nil {
			return
		}
		for height := range tileHeight {
			for i := range tileWidth >> height {
				if (l.node(height, i) != nil) != ((i+1)<<height <= l.n) {
					t.Fatalf("node %d of height %d among %d leaves", i, height, l.n)
				}
			}
		}
		if !bytes.Equal(l.seal(), b) {
			t.Fatalf("%d leaves: other bytes after a round trip", l.n)
		}
	})
}

// What a transaction changed in memory and then gave up is not what the next one begins with.
func TestGivenUpTransactionLeavesNothing(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	add(t, s, tree, leaves(0, 10))
	integrate(t, s, tree)
	givenUp := errors.New("given up")
	if err := s.Log().ReadWriteTransaction(t.Context(), tree, func(ctx context.Context, tx storage.LogTreeTX) error {
		root := latestRoot(t, s, tree)
		if _, err := tx.GetMerkleNodes(ctx, compact.RangeNodes(0, root.TreeSize, nil)); err != nil {
			return err
		}
		if err := tx.SetMerkleNodes(ctx, []trees.Node{{ID: compact.NewNodeID(0, 10), Hash: make([]byte, hashSize)}}); err != nil {
			return err
		}
		root.TreeSize, root.TimestampNanos = 11, root.TimestampNanos+1
		b, err := root.MarshalBinary()
		if err != nil {
			return err
		}
		if err := tx.StoreSignedLogRoot(ctx, &trillian.SignedLogRoot{LogRoot: b}); err != nil {
			return err
		}
		return givenUp
	}); !errors.Is(err, givenUp) {
		t.Fatal(err)
	}
	add(t, s, tree, leaves(10, 5))
	integrate(t, s, tree)
	wantRoot(t, s, tree, 15)
	wantRoot(t, reopen(t, s), tree, 15)
}

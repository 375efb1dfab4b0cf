package sqlite

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/google/trillian/storage/cache"
	"github.com/google/trillian/storage/storagepb"
	"github.com/google/trillian/storage/tree"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// A tile that went through the database is, to storage/cache, the tile it was:
// every node of it, at every size.
func TestTilesRoundTrip(t *testing.T) {
	for n := int64(1); n <= tileWidth; n++ {
		var nodes []tree.Node
		r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
		for i := range n {
			h := sha256.Sum256(fmt.Append(nil, i))
			if err := r.Append(h[:], func(id compact.NodeID, hash []byte) {
				nodes = append(nodes, tree.Node{ID: id, Hash: hash})
			}); err != nil {
				t.Fatal(err)
			}
		}
		written := cache.NewLogSubtreeCache(rfc6962.DefaultHasher)
		if err := written.SetNodes(nodes, func([][]byte) ([]*storagepb.SubtreeProto, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
		tiles, err := written.UpdatedTiles()
		if err != nil {
			t.Fatal(err)
		}
		rows := make(map[string][]byte)
		for _, tile := range tiles {
			if rows[string(tile.Prefix)], err = encodeTile(nil, tile); err != nil {
				t.Fatal(err)
			}
		}
		read := cache.NewLogSubtreeCache(rfc6962.DefaultHasher)
		ids := make([]compact.NodeID, len(nodes))
		for i := range nodes {
			ids[i] = nodes[i].ID
		}
		got, err := read.GetNodes(ids, func(prefixes [][]byte) (out []*storagepb.SubtreeProto, err error) {
			for _, p := range prefixes {
				tile, err := decodeTile(p, rows[string(p)])
				if err != nil {
					return nil, err
				}
				out = append(out, tile)
			}
			return out, nil
		})
		if err != nil || len(got) != len(nodes) {
			t.Fatalf("%d leaves: %d of %d nodes (%v)", n, len(got), len(nodes), err)
		}
		for i := range got {
			if !bytes.Equal(got[i].Hash, nodes[i].Hash) {
				t.Fatalf("%d leaves: node %+v differs", n, ids[i])
			}
		}
	}
}

func TestEncodeTileRefusesGaps(t *testing.T) {
	gap := &storagepb.SubtreeProto{Depth: tileHeight, Leaves: map[string][]byte{
		suffixes[8][0]: make([]byte, 32), suffixes[8][2]: make([]byte, 32),
	}}
	if _, err := encodeTile(nil, gap); err == nil {
		t.Error("a tile with a gap was encoded")
	}
	if _, err := encodeTile(nil, &storagepb.SubtreeProto{Depth: tileHeight}); err == nil {
		t.Error("an empty tile was encoded")
	}
}

func TestTileKeysAreDistinct(t *testing.T) {
	seen := make(map[int64]string)
	for _, p := range [][]byte{
		{}, {0}, {1}, {0, 0}, {0, 1}, {1, 0}, {0, 0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 1},
	} {
		for _, slot := range []int64{1, 2, maxSlot} {
			k, err := tileKey(slot, p)
			if err != nil || k < key(slot, 0) || k > key(slot, maxLeaves-1) {
				t.Errorf("slot %d, %x: key %d (%v)", slot, p, k, err)
			}
			what := fmt.Sprintf("slot %d, %x", slot, p)
			if other, ok := seen[k]; ok {
				t.Errorf("%s and %s share a key", what, other)
			}
			seen[k] = what
		}
	}
	for _, p := range [][]byte{make([]byte, 8), {0, 0x10, 0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 7)} {
		if k, err := tileKey(1, p); err == nil {
			t.Errorf("%x: key %d, want an error", p, k)
		}
	}
}

// Whatever stands in the row: an error or a tile that is encoded to the same bytes.
func FuzzDecodeTile(f *testing.F) {
	row := func(n int) []byte {
		tile := &storagepb.SubtreeProto{Depth: tileHeight, Leaves: make(map[string][]byte)}
		for i := range n {
			tile.Leaves[suffixes[tileHeight][i]] = bytes.Repeat([]byte{byte(i)}, hashSize)
		}
		b, err := encodeTile(nil, tile)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	part := row(3)
	f.Add(row(tileWidth))
	f.Add(part)
	f.Add([]byte{})
	f.Add(part[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		tile, err := decodeTile([]byte{1}, b)
		if err != nil {
			return
		}
		if err := cache.PopulateLogTile(tile, rfc6962.DefaultHasher); err != nil {
			t.Fatal(err)
		}
		got, err := encodeTile(nil, tile)
		if err != nil {
			t.Fatal(err)
		}
		used := tileHeader + len(tile.Leaves)*hashSize
		if len(got) != tileSize || !bytes.Equal(got[:used], b[:used]) {
			t.Fatalf("%d leaves: other bytes after a round trip", len(tile.Leaves))
		}
	})
}

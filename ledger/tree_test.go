package ledger

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	mproof "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/regard-broker/regard/ledger/proof"
)

func numbered(from, to uint64) []proof.Hash {
	var out []proof.Hash
	for i := from; i < to; i++ {
		out = append(out, proof.LeafHash(binary.BigEndian.AppendUint64(nil, i)))
	}
	return out
}

func slices2(path []proof.Hash) [][]byte {
	var out [][]byte
	for i := range path {
		out = append(out, path[i][:])
	}
	return out
}

// Roots, paths and recovered edges agree with the library that everybody else uses, for many ways to cut a tree into batches.
func TestGrowthAgreesWithMerkleLibrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	for range 60 {
		ref := f.NewEmptyRange(0)
		var e edge
		for e.size < 700 {
			n := 1 + rng.Uint64N(1+rng.Uint64N(200))
			leaves := numbered(e.size, e.size+n)
			g := e.grow(leaves)
			for _, h := range leaves {
				if err := ref.Append(h[:], nil); err != nil {
					t.Fatal(err)
				}
			}
			root, err := ref.GetRootHash(nil)
			if err != nil {
				t.Fatal(err)
			}
			if string(root) != string(g.root[:]) || g.after.root() != g.root {
				t.Fatalf("root of %d+%d leaves differs", e.size, n)
			}
			for i := g.from; i < g.to; i++ {
				path, err := g.path(i)
				if err != nil {
					t.Fatal(err)
				}
				h := leaves[i-g.from]
				if err := mproof.VerifyInclusion(rfc6962.DefaultHasher, i, g.to, h[:], slices2(path), root); err != nil {
					t.Fatalf("path of %d in %d (batch from %d): %v", i, g.to, g.from, err)
				}
			}
			last, err := g.path(g.to - 1)
			if err != nil {
				t.Fatal(err)
			}
			got, err := edgeFromLast(g.to, leaves[len(leaves)-1], last)
			if err != nil || got != g.after {
				t.Fatalf("edge of %d from its last leaf: %v", g.to, err)
			}
			if _, err := g.path(g.to); err == nil {
				t.Fatal("path beyond the end")
			}
			e = g.after
		}
	}
}

func TestEdgeFromLastRefusesWrongLength(t *testing.T) {
	for size := uint64(1); size < 70; size++ {
		if _, err := edgeFromLast(size, proof.Hash{1}, make([]proof.Hash, 20)); err == nil {
			t.Fatalf("size %d: 20 hashes accepted", size)
		}
	}
}

func BenchmarkGrow256AndPaths(b *testing.B) {
	var e edge
	e = e.grow(numbered(0, 100_001)).after
	leaves := numbered(0, 256)
	b.ResetTimer()
	for range b.N {
		g := e.grow(leaves)
		for i := g.from; i < g.to; i++ {
			if _, err := g.path(i); err != nil {
				b.Fatal(err)
			}
		}
	}
}

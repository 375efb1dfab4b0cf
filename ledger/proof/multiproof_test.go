package proof

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// slowRoot is RFC 6962, section 2.1, word by word.
func slowRoot(leaves []Hash) Hash {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	l, r := slowRoot(leaves[:k]), slowRoot(leaves[k:])
	return nodeHash(&l, &r)
}

// TestMultiproof: for trees of all small sizes and random choices of leaves and earlier sizes, the proof reaches all roots, needs each of its hashes, and no other leaf does.
func TestMultiproof(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var leaves []Hash
	for i := range 70 {
		leaves = append(leaves, sha256.Sum256(fmt.Append(nil, i)))
	}
	pick := func(from, n uint64) (out []uint64) {
		for i := from; i < n; i++ {
			if rng.IntN(4) == 0 {
				out = append(out, i)
			}
		}
		return out
	}
	for size := uint64(1); size <= 70; size++ {
		for range 20 {
			m := multiproof{size: size, leaves: pick(0, size), prefixes: pick(1, size)}
			for _, s := range ProofSpans(size, m.leaves, m.prefixes) {
				m.nodes = append(m.nodes, slowRoot(leaves[s.From:s.To]))
			}
			hash := func(i int) Hash { return leaves[m.leaves[i]] }
			root, earlier, ok := m.roots(hash)
			if !ok || root != slowRoot(leaves[:size]) {
				t.Fatalf("size %d, leaves %d, prefixes %d: the proof does not reach the root", size, m.leaves, m.prefixes)
			}
			for i, p := range m.prefixes {
				if earlier[i] != slowRoot(leaves[:p]) {
					t.Fatalf("size %d, leaves %d: another root of size %d", size, m.leaves, p)
				}
			}
			for i := range m.nodes {
				bad := m
				bad.nodes = slices.Delete(slices.Clone(m.nodes), i, i+1)
				if _, _, ok := bad.roots(hash); ok {
					t.Fatalf("size %d: node %d is not needed", size, i)
				}
				bad.nodes = slices.Clone(m.nodes)
				bad.nodes[i][7] ^= 1
				if r, _, ok := bad.roots(hash); ok && r == root {
					t.Fatalf("size %d: node %d does not count", size, i)
				}
			}
			bad := m
			bad.nodes = append(slices.Clone(m.nodes), Hash{1})
			if _, _, ok := bad.roots(hash); ok {
				t.Fatalf("size %d: one hash too many", size)
			}
			if len(m.leaves) > 0 {
				if r, _, _ := m.roots(func(i int) Hash { return leaves[(m.leaves[i]+1)%70] }); r == root {
					t.Fatalf("size %d: other leaves reach the same root", size)
				}
			}
		}
	}
	// Sizes up to 2^63, with the paths that they have.
	for _, size := range []uint64{1 << 30, 1<<62 + 5, 1 << 63} {
		if n := len(ProofSpans(size, []uint64{size / 3}, nil)); n != pathLength(size/3, size) {
			t.Errorf("size %d: %d hashes", size, n)
		}
	}
	if _, _, ok := (multiproof{}).roots(nil); ok {
		t.Error("an empty tree has a root")
	}
}

func pathLength(index, size uint64) int {
	for n := range 65 {
		if _, ok := rootFromPath(index, size, Hash{}, make([]Hash, n)); ok {
			return n
		}
	}
	return -1
}

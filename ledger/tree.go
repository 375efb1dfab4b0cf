package ledger

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"github.com/regard-broker/regard/ledger/proof"
)

// edge is the right edge of a tree: the roots of the perfect subtrees that cover its leaves, by level (RFC 6962, section 2.1). It is all that one has
// to know of a tree to append to it.
type edge struct {
	size  uint64
	nodes [64]proof.Hash // nodes[l] is set if and only if bit l of size is
}

// growth is what one batch added to a tree: the nodes that it completed and those of the old edge, by level. It is enough to prove each new leaf, and
// immutable once sealed, so waiters may compute their proofs at the same time.
type growth struct {
	from, to uint64
	levels   []level
	// partial[l] is the hash of the node of level l that the right end of the tree cuts; unset if there is none.
	partial [65]proof.Hash
	root    proof.Hash
	after   edge
}

type level struct {
	first  uint64 // index of hashes[0] in this level
	hashes []proof.Hash
}

func nodeHash(left, right *proof.Hash) proof.Hash {
	var buf [65]byte
	buf[0] = 1
	copy(buf[1:], left[:])
	copy(buf[33:], right[:])
	return sha256.Sum256(buf[:])
}

// grow appends leaf hashes, one at least, to a tree.
func (e *edge) grow(leaves []proof.Hash) *growth {
	g := &growth{from: e.size, to: e.size + uint64(len(leaves))}
	cur := level{first: e.size, hashes: leaves}
	for l := 0; ; l++ {
		if e.size>>l&1 == 1 { // the old edge is the left neighbour of what is new
			cur = level{cur.first - 1, append([]proof.Hash{e.nodes[l]}, cur.hashes...)}
		}
		g.levels = append(g.levels, cur)
		if len(cur.hashes) < 2 && e.size>>(l+1) == 0 {
			break
		}
		// A parent is complete if both children are; cur.first is even here, or the left child is in a parent that was complete before.
		up := level{first: (cur.first + 1) / 2}
		skip := int(cur.first & 1)
		n := (len(cur.hashes) - skip) / 2
		up.hashes = make([]proof.Hash, 0, max(n, 0)+1)
		for i := range max(n, 0) {
			up.hashes = append(up.hashes, nodeHash(&cur.hashes[skip+2*i], &cur.hashes[skip+2*i+1]))
		}
		cur = up
	}
	g.seal()
	return g
}

// seal computes the nodes that the right end cuts, the root, and the edge for the next batch.
func (g *growth) seal() {
	g.after.size = g.to
	have := false
	var cut proof.Hash
	for l := range bits.Len64(g.to) {
		if have {
			g.partial[l] = cut
		}
		if g.to>>l&1 == 0 {
			continue
		}
		n := g.node(l, g.to>>l-1)
		g.after.nodes[l] = *n
		if have {
			cut = nodeHash(n, &cut)
		} else {
			cut, have = *n, true
		}
	}
	g.root = cut
}

// node returns a complete node, nil if this growth doesn't know it.
func (g *growth) node(l int, index uint64) *proof.Hash {
	if l >= len(g.levels) {
		return nil
	}
	v := &g.levels[l]
	if index < v.first || index-v.first >= uint64(len(v.hashes)) {
		return nil
	}
	return &v.hashes[index-v.first]
}

// path returns the inclusion path (RFC 6962, section 2.1.1) of a leaf of this batch in the tree after it.
func (g *growth) path(index uint64) ([]proof.Hash, error) {
	if index < g.from || index >= g.to {
		return nil, fmt.Errorf("leaf %d is not of the batch [%d, %d)", index, g.from, g.to)
	}
	path := make([]proof.Hash, 0, bits.Len64(g.to-1))
	for l := 0; uint64(1)<<l < g.to; l++ {
		s := index>>l ^ 1
		switch {
		case s<<l >= g.to: // no sibling: the node is carried up as it is
		case (s+1)<<l <= g.to:
			n := g.node(l, s)
			if n == nil {
				return nil, fmt.Errorf("node %d of level %d is not known", s, l)
			}
			path = append(path, *n)
		default:
			path = append(path, g.partial[l])
		}
	}
	return path, nil
}

// edgeFromLast recovers the edge of a tree from its last leaf and that leaf's inclusion path, whose nodes are all left siblings: they are the edge. The caller
// must have verified the path against a root.
func edgeFromLast(size uint64, leaf proof.Hash, path []proof.Hash) (edge, error) {
	e := edge{size: size}
	if size == 0 {
		return e, nil
	}
	if want := bits.OnesCount64(size) - 1 + bits.TrailingZeros64(size); len(path) != want {
		return e, fmt.Errorf("inclusion path of %d hashes, want %d", len(path), want)
	}
	h := leaf
	low := bits.TrailingZeros64(size)
	for i := range low {
		h = nodeHash(&path[i], &h)
	}
	e.nodes[low] = h
	rest := path[low:]
	for l := low + 1; l < 64; l++ {
		if size>>l&1 == 1 {
			e.nodes[l] = rest[0]
			rest = rest[1:]
		}
	}
	return e, nil
}

// root returns the root of the tree; SHA-256 of nothing if it is empty.
func (e *edge) root() proof.Hash {
	var h proof.Hash
	have := false
	for l := range 64 {
		switch {
		case e.size>>l&1 == 0:
		case have:
			h = nodeHash(&e.nodes[l], &h)
		default:
			h, have = e.nodes[l], true
		}
	}
	if !have {
		return sha256.Sum256(nil)
	}
	return h
}

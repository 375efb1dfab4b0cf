package proof

import (
	"crypto/sha256"
	"math/bits"
)

// maxPath is the longest inclusion path of a tree with at most 2^63 leaves.
const maxPath = 63

// LeafHash returns the RFC 6962 leaf hash of an entry's text:
// SHA-256(0x00 ‖ text).
func LeafHash(text []byte) Hash {
	var buf [1 + maxEntry]byte // entries are below 1024 bytes: no allocation
	if len(text) < len(buf) {
		n := copy(buf[1:], text)
		return sha256.Sum256(buf[:1+n])
	}
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(text)
	var out Hash
	h.Sum(out[:0])
	return out
}

// nodeHash returns SHA-256(0x01 ‖ left ‖ right).
func nodeHash(left, right *Hash) Hash {
	var buf [65]byte
	buf[0] = 1
	copy(buf[1:], left[:])
	copy(buf[33:], right[:])
	return sha256.Sum256(buf[:])
}

// rootFromPath returns the root of the tree of the given size that has leaf
// at index, and whether the path has the one length this position can have
// (RFC 6962, section 2.1.1; the algorithm is that of RFC 9162, section
// 2.1.3.2, with the border computed ahead).
func rootFromPath(index, size uint64, leaf Hash, path []Hash) (Hash, bool) {
	if index >= size {
		return Hash{}, false
	}
	inner := bits.Len64(index ^ (size - 1)) // levels at which the right edge isn't reached yet
	border := bits.OnesCount64(index >> inner)
	if len(path) != inner+border {
		return Hash{}, false
	}
	h := leaf
	for i := range path {
		if i >= inner || index>>i&1 == 1 {
			h = nodeHash(&path[i], &h)
		} else {
			h = nodeHash(&h, &path[i])
		}
	}
	return h, true
}

// included reports whether leaf is at index in the tree of that size and root.
func included(index, size uint64, leaf Hash, path []Hash, root Hash) bool {
	h, ok := rootFromPath(index, size, leaf, path)
	return ok && h == root
}

// perfectTree holds all nodes of a tree with a power of two of leaves: nodes[i]
// has the children nodes[2i] and nodes[2i+1], the root is nodes[1].
type perfectTree []Hash

// newPerfectTree computes the tree over leaf hashes; their number must be a
// power of two.
func newPerfectTree(leaves []Hash) perfectTree {
	n := len(leaves)
	t := make(perfectTree, 2*n)
	copy(t[n:], leaves)
	for i := n - 1; i >= 1; i-- {
		t[i] = nodeHash(&t[2*i], &t[2*i+1])
	}
	return t
}

func (t perfectTree) root() Hash { return t[1] }

func (t perfectTree) path(leaf int) []Hash {
	var p []Hash
	for i := len(t)/2 + leaf; i > 1; i /= 2 {
		p = append(p, t[i^1])
	}
	return p
}

// rootStack computes the root of a perfect tree leaf by leaf in memory
// proportional to its height.
type rootStack struct {
	n     uint64
	nodes []Hash
}

func (s *rootStack) add(h Hash) {
	for n := s.n; n&1 == 1; n >>= 1 {
		top := len(s.nodes) - 1
		h = nodeHash(&s.nodes[top], &h)
		s.nodes = s.nodes[:top]
	}
	s.nodes = append(s.nodes, h)
	s.n++
}

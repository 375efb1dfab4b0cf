package proof

import "math/bits"

// A multiproof shows several leaves, and the roots that the tree had at some
// smaller sizes, under one root: it holds each hash once that can't be computed
// from these leaves, from left to right.

// Span is a subtree of an RFC 6962 tree: the leaves From ≤ i < To.
type Span struct{ From, To uint64 }

// ProofSpans lists, from left to right, the subtrees whose hashes make the
// multiproof of leaves and prefixes in a tree of the given size. Both are
// strictly increasing; leaves are below size, prefixes (sizes of earlier
// states of the tree) from 1 to size − 1.
func ProofSpans(size uint64, leaves, prefixes []uint64) []Span {
	var out []Span
	w := treeWalk{
		take: func(s Span) (Hash, bool) { out = append(out, s); return Hash{}, true },
		leaf: func(uint64) Hash { return Hash{} },
		left: func(uint64, Hash) {},
	}
	if size > 0 {
		w.walk(Span{0, size}, leaves, prefixes)
	}
	return out
}

// treeWalk visits the part of a tree that a multiproof is about.
type treeWalk struct {
	take func(Span) (Hash, bool)     // a subtree that holds nothing that is shown
	leaf func(index uint64) Hash     // a leaf that is shown
	left func(prefix uint64, h Hash) // the next subtree, from the left, of the tree of that size
}

func (w *treeWalk) walk(s Span, leaves, prefixes []uint64) (Hash, bool) {
	if len(leaves) == 0 && len(prefixes) == 0 {
		return w.take(s)
	}
	if s.To-s.From == 1 { // no prefix ends within a leaf
		return w.leaf(s.From), true
	}
	mid := s.From + 1<<(bits.Len64(s.To-s.From-1)-1)
	n, low := below(leaves, mid), below(prefixes, mid)
	left, ok := w.walk(Span{s.From, mid}, leaves[:n], prefixes[:low])
	if !ok {
		return Hash{}, false
	}
	high := prefixes[low:]
	for _, p := range high {
		w.left(p, left)
	}
	if len(high) > 0 && high[0] == mid {
		high = high[1:]
	}
	right, ok := w.walk(Span{mid, s.To}, leaves[n:], high)
	return nodeHash(&left, &right), ok
}

// below returns how many of the increasing numbers are less than limit.
func below(numbers []uint64, limit uint64) int {
	lo, hi := 0, len(numbers)
	for lo < hi {
		if m := int(uint(lo+hi) >> 1); numbers[m] < limit {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// multiproof is what shows that leaves and earlier roots belong to a tree.
type multiproof struct {
	size     uint64
	leaves   []uint64 // strictly increasing, below size
	prefixes []uint64 // strictly increasing, from 1 to size − 1
	nodes    []Hash
}

// roots returns the root that the leaves reach, and those of the prefixes;
// false if the nodes are not as many as it takes. hash gives a leaf's hash by
// its position in leaves.
func (m multiproof) roots(hash func(i int) Hash) (root Hash, earlier []Hash, ok bool) {
	if m.size == 0 {
		return Hash{}, nil, false
	}
	used, shown := 0, 0
	parts := make([][]Hash, len(m.prefixes)) // of each prefix: its perfect subtrees
	w := treeWalk{
		take: func(Span) (Hash, bool) {
			if used == len(m.nodes) {
				return Hash{}, false
			}
			used++
			return m.nodes[used-1], true
		},
		leaf: func(uint64) Hash { shown++; return hash(shown - 1) },
		left: func(p uint64, h Hash) {
			i := below(m.prefixes, p)
			parts[i] = append(parts[i], h)
		},
	}
	root, ok = w.walk(Span{0, m.size}, m.leaves, m.prefixes)
	if !ok || used != len(m.nodes) {
		return Hash{}, nil, false
	}
	for _, p := range parts {
		h := p[len(p)-1]
		for i := len(p) - 2; i >= 0; i-- {
			h = nodeHash(&p[i], &h)
		}
		earlier = append(earlier, h)
	}
	return root, earlier, true
}

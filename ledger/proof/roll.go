package proof

import (
	"bytes"
	"crypto/sha256"
	"math/bits"
	"slices"
)

// dummyIndex is the log index of the leaves that pad a roll.
const dummyIndex Index = 1<<64 - 1

// minRoll is the smallest number of leaves of a roll.
const minRoll = 4

// RollSalt derives the salt of a filed entry's leaf from an epoch's secret. The
// operator uses it; nobody else can tell how a salt was made.
func RollSalt(seed [32]byte, i Index) [32]byte {
	const tag = "regard/roll-salt/v1\x00"
	var buf [len(tag) + 8 + 32]byte
	b := u64(append(buf[:0], tag...), uint64(i))
	return sha256.Sum256(append(b, seed[:]...))
}

// rollDummySalt derives the salt of the jth dummy of a label's roll. The label
// is part of it, so two rolls never share one.
func rollDummySalt(seed [32]byte, z Label, j uint64) [32]byte {
	const tag = "regard/roll-dummy/v1\x00"
	var buf [len(tag) + 32 + 8 + 32]byte
	b := append(append(buf[:0], tag...), z[:]...)
	return sha256.Sum256(append(u64(b, j), seed[:]...))
}

// RollLeaf returns the leaf of a roll for a log index: one SHA-256 block.
func RollLeaf(salt [32]byte, i Index) Hash {
	const tag = "regard/roll/v1\x00"
	var buf [len(tag) + 32 + 8]byte
	b := append(append(buf[:0], tag...), salt[:]...)
	return sha256.Sum256(u64(b, uint64(i)))
}

// rollLeafHash is the RFC 6962 leaf hash of a roll's leaf.
func rollLeafHash(leaf Hash) Hash {
	var buf [33]byte
	copy(buf[1:], leaf[:])
	return sha256.Sum256(buf[:])
}

// OpenLeaf is a leaf of a roll with what it hides.
type OpenLeaf struct {
	Index Index // 2^64 − 1 for a dummy
	Salt  [32]byte
}

// Dummy reports whether the leaf only pads.
func (l OpenLeaf) Dummy() bool { return l.Index == dummyIndex }

// LeafProof shows that one entry is in a roll, and nothing about the others
// but the size of the roll.
type LeafProof struct {
	Position uint64
	Size     uint64 // of the roll, a power of two, at least 4
	Salt     [32]byte
	Path     []Hash
}

// Root returns the root that the leaf of entry i reaches by this proof.
func (p LeafProof) Root(i Index) (Hash, error) {
	if !isRollSize(p.Size) {
		return Hash{}, formatError("roll: size is not a power of two of at least %d", minRoll)
	}
	if i > maxInt {
		return Hash{}, unproven("roll: not the index of an entry")
	}
	root, ok := rootFromPath(p.Position, p.Size, rollLeafHash(RollLeaf(p.Salt, i)), p.Path)
	if !ok {
		return Hash{}, unproven("roll: position or path do not fit the size")
	}
	return root, nil
}

func isRollSize(n uint64) bool { return n >= minRoll && n <= 1<<62 && bits.OnesCount64(n) == 1 }

// rollSize returns how many leaves a roll of n entries has.
func rollSize(n int) int { return max(minRoll, 1<<bits.Len(uint(n-1))) }

// Roll is the list of all entries filed under one label, as the operator holds
// it.
type Roll struct {
	label  Label
	leaves []OpenLeaf // in the order of the tree
	tree   perfectTree
	at     map[Index]int
}

// NewRoll makes the roll of a label from the log indexes of all its filed
// entries, in any order, each once, at least one. seed is the epoch's secret.
func NewRoll(seed [32]byte, z Label, indexes []Index) (*Roll, error) {
	if len(indexes) == 0 {
		return nil, formatError("roll: no entries")
	}
	size := rollSize(len(indexes))
	type leaf struct {
		hash Hash
		open OpenLeaf
	}
	all := make([]leaf, 0, size)
	r := &Roll{label: z, leaves: make([]OpenLeaf, size), at: make(map[Index]int, len(indexes))}
	for _, i := range indexes {
		if i > maxInt {
			return nil, formatError("roll: index above 2^63-1")
		}
		if _, twice := r.at[i]; twice {
			return nil, formatError("roll: an entry is filed twice")
		}
		r.at[i] = 0
		salt := RollSalt(seed, i)
		all = append(all, leaf{RollLeaf(salt, i), OpenLeaf{i, salt}})
	}
	for j := uint64(0); len(all) < size; j++ {
		salt := rollDummySalt(seed, z, j)
		all = append(all, leaf{RollLeaf(salt, dummyIndex), OpenLeaf{dummyIndex, salt}})
	}
	slices.SortFunc(all, func(a, b leaf) int { return bytes.Compare(a.hash[:], b.hash[:]) })
	hashes := make([]Hash, size)
	for p, l := range all {
		hashes[p] = rollLeafHash(l.hash)
		r.leaves[p] = l.open
		if !l.open.Dummy() {
			r.at[l.open.Index] = p
		}
	}
	r.tree = newPerfectTree(hashes)
	return r, nil
}

// RollRoot returns the root of NewRoll alone, at a fraction of the cost: for whoever makes the rolls of everybody.
func RollRoot(seed [32]byte, z Label, indexes []Index) (Hash, error) {
	if len(indexes) == 0 || len(indexes) > minRoll {
		r, err := NewRoll(seed, z, indexes)
		if err != nil {
			return Hash{}, err
		}
		return r.Root(), nil
	}
	var row [minRoll]Hash
	for n, i := range indexes {
		if i > maxInt || slices.Contains(indexes[:n], i) {
			return Hash{}, formatError("roll: index above 2^63-1, or an entry is filed twice")
		}
		row[n] = RollLeaf(RollSalt(seed, i), i)
	}
	for j := range minRoll - len(indexes) {
		row[len(indexes)+j] = RollLeaf(rollDummySalt(seed, z, uint64(j)), dummyIndex)
	}
	for i := 1; i < minRoll; i++ {
		for j := i; j > 0 && bytes.Compare(row[j-1][:], row[j][:]) > 0; j-- {
			row[j-1], row[j] = row[j], row[j-1]
		}
	}
	for i := range row {
		row[i] = rollLeafHash(row[i])
	}
	left, right := nodeHash(&row[0], &row[1]), nodeHash(&row[2], &row[3])
	return nodeHash(&left, &right), nil
}

// Label returns the label the roll was made for.
func (r *Roll) Label() Label { return r.label }

// Root returns the root that stands in the index.
func (r *Roll) Root() Hash { return r.tree.root() }

// Item returns the roll's item in the index.
func (r *Roll) Item() Item { return Item{r.label, r.Root()} }

// Leaf returns the proof that entry i is in the roll, for a holder of its
// receipt.
func (r *Roll) Leaf(i Index) (LeafProof, error) {
	p, ok := r.at[i]
	if !ok {
		return LeafProof{}, unproven("roll: the entry is not in it")
	}
	return LeafProof{uint64(p), uint64(len(r.leaves)), r.leaves[p].Salt, r.tree.path(p)}, nil
}

// Open returns every leaf in the order of the tree: for the person, or an
// accredited auditor.
func (r *Roll) Open() []OpenLeaf { return slices.Clone(r.leaves) }

// CheckRoll checks a roll that was opened as a whole: order, padding, each
// entry once. It returns its root, to be compared with the index, and the log
// indexes of its entries in increasing order.
func CheckRoll(leaves []OpenLeaf) (Hash, []Index, error) {
	if !isRollSize(uint64(len(leaves))) {
		return Hash{}, nil, formatError("roll: size is not a power of two of at least %d", minRoll)
	}
	hashes := make([]Hash, len(leaves))
	var indexes []Index
	var last Hash
	for p, l := range leaves {
		if !l.Dummy() {
			if l.Index > maxInt {
				return Hash{}, nil, formatError("roll: index above 2^63-1")
			}
			indexes = append(indexes, l.Index)
		}
		leaf := RollLeaf(l.Salt, l.Index)
		if p > 0 && bytes.Compare(last[:], leaf[:]) >= 0 {
			return Hash{}, nil, formatError("roll: leaves are not in increasing order")
		}
		last = leaf
		hashes[p] = rollLeafHash(leaf)
	}
	slices.Sort(indexes)
	for p := 1; p < len(indexes); p++ {
		if indexes[p-1] == indexes[p] {
			return Hash{}, nil, formatError("roll: an entry is filed twice")
		}
	}
	if len(indexes) == 0 || len(leaves) != rollSize(len(indexes)) {
		return Hash{}, nil, formatError("roll: not padded to the next power of two")
	}
	return newPerfectTree(hashes).root(), indexes, nil
}

package proof

import (
	"bytes"
	"crypto/sha256"
	"slices"
)

// Proven is an entry with its inclusion path in the tree of a checkpoint. That
// it is in the tree is what Verify finds out.
type Proven struct {
	Index Index
	Text  []byte
	Path  []Hash // RFC 6962, section 2.1.1: from the leaf's sibling upwards
}

// SetDigest returns the digest of the commitments of all entries of one
// disclosure, in any order: the associated data under which its answer is
// sealed. SetDigest of none is the zero Hash, which nothing accepts.
func SetDigest(commitments []Commitment) Hash {
	if len(commitments) == 0 {
		return Hash{}
	}
	const tag = "regard/set/v1\x00"
	var sorted [16]Commitment // most answers identify few people
	s := append(sorted[:0], commitments...)
	slices.SortFunc(s, func(a, b Commitment) int { return bytes.Compare(a[:], b[:]) })
	var buf [len(tag) + 32*len(sorted)]byte
	b := append(buf[:0], tag...)
	for i := range s {
		b = append(b, s[i][:]...)
	}
	return sha256.Sum256(b)
}

// Verified says that every entry of a set is in the log under a signed
// checkpoint. Only Verify makes one; whoever opens an answer must demand it and
// use Set as associated data, so that the proof of another set opens nothing.
type Verified struct {
	set        Hash
	checkpoint Checkpoint
}

// Set returns the digest of the set's commitments; ErrUnproven for the zero
// Verified.
func (v Verified) Set() (Hash, error) {
	if v.set.IsZero() || v.checkpoint.IsZero() {
		return Hash{}, unproven("set: nothing was verified")
	}
	return v.set, nil
}

// Witnessed reports whether the checkpoint carries the policy's quorum.
func (v Verified) Witnessed() bool { return v.checkpoint.Witnessed() }

// Checkpoint returns the checkpoint under which the set was verified.
func (v Verified) Checkpoint() Checkpoint { return v.checkpoint }

// Verify shows that all entries of a disclosure are in the tree of cp. They
// must be of kinds that are filed in a person's roll, or Deferred, at distinct
// indexes, and at least one. It checks no signature (VerifyCheckpoint did) and costs one
// hash a level.
func Verify(cp Checkpoint, entries []Proven) (Verified, error) {
	if cp.IsZero() {
		return Verified{}, unproven("set: no verified checkpoint")
	}
	if len(entries) == 0 {
		return Verified{}, unproven("set: no entries")
	}
	var few [16]Commitment
	commitments := few[:0]
	for i := range entries {
		e := &entries[i]
		if len(e.Text) >= maxEntry {
			return Verified{}, formatError("entry of %d bytes, want less than %d", len(e.Text), maxEntry)
		}
		c, err := releaseCommitment(e.Text)
		if err != nil {
			return Verified{}, err
		}
		if !included(uint64(e.Index), cp.size, LeafHash(e.Text), e.Path, cp.root) {
			return Verified{}, unproven("set: entry %d is not in the tree of size %d", e.Index, cp.size)
		}
		commitments = append(commitments, c)
	}
	if repeats(entries) {
		return Verified{}, unproven("set: an index stands there twice")
	}
	return Verified{SetDigest(commitments), cp}, nil
}

func repeats(entries []Proven) bool {
	if len(entries) > 32 {
		seen := make(map[Index]bool, len(entries))
		for i := range entries {
			if seen[entries[i].Index] {
				return true
			}
			seen[entries[i].Index] = true
		}
		return false
	}
	for i := range entries {
		for j := range i {
			if entries[i].Index == entries[j].Index {
				return true
			}
		}
	}
	return false
}

// VerifyEntry shows that one entry of any kind is in the tree of cp and returns
// it parsed.
func VerifyEntry(cp Checkpoint, p Proven) (Entry, error) {
	if cp.IsZero() {
		return nil, unproven("entry: no verified checkpoint")
	}
	e, err := ParseEntry(p.Text)
	if err != nil {
		return nil, err
	}
	if !included(uint64(p.Index), cp.size, LeafHash(p.Text), p.Path, cp.root) {
		return nil, unproven("entry %d is not in the tree of size %d", p.Index, cp.size)
	}
	return e, nil
}

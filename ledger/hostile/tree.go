package hostile

import (
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
)

// tree is an RFC 6962 tree in memory, by x/mod's reference code and not ours.
type tree struct {
	texts  [][]byte
	stored []tlog.Hash
}

// ReadHashes implements tlog.HashReader.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = t.stored[at]
	}
	return out, nil
}

func (t *tree) size() uint64 { return uint64(len(t.texts)) }

func (t *tree) append(text []byte) proof.Index {
	n := len(t.texts)
	t.stored = append(t.stored, must(tlog.StoredHashes(int64(n), text, t))...)
	t.texts = append(t.texts, text)
	return proof.Index(n)
}

func (t *tree) root(size uint64) proof.Hash {
	return proof.Hash(must(tlog.TreeHash(int64(size), t)))
}

func (t *tree) inclusion(i proof.Index, size uint64) []proof.Hash {
	return hashes(must(tlog.ProveRecord(int64(size), int64(i), t)))
}

func (t *tree) consistency(old, size uint64) []proof.Hash {
	if old == 0 {
		return nil
	}
	return hashes(must(tlog.ProveTree(int64(size), int64(old), t)))
}

// span returns the hash of a subtree: RFC 6962, section 2.1.
func (t *tree) span(s proof.Span) proof.Hash {
	if s.To-s.From == 1 {
		return proof.Hash(tlog.RecordHash(t.texts[s.From]))
	}
	mid := s.From + 1<<(bits.Len64(s.To-s.From-1)-1)
	left, right := t.span(proof.Span{From: s.From, To: mid}), t.span(proof.Span{From: mid, To: s.To})
	return proof.Hash(tlog.NodeHash(tlog.Hash(left), tlog.Hash(right)))
}

func (t *tree) clone() tree {
	return tree{slices.Clone(t.texts), slices.Clone(t.stored)}
}

func hashes(p []tlog.Hash) []proof.Hash {
	out := make([]proof.Hash, len(p))
	for i := range p {
		out[i] = proof.Hash(p[i])
	}
	return out
}

// must is for what fails only if this package is wrong: no input comes from outside.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

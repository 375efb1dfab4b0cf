package proof

import (
	"bytes"
	"encoding/binary"
	"iter"
)

const (
	bucketTag  = "regard/bucket/v1\x00"
	bucketHead = len(bucketTag) + 8 + 1 + 8
	itemSize   = 64
	// maxBucketItems keeps a bucket below 65536 bytes, the bound of an entry in
	// tlog-tiles. Labels are uniform, so that a bucket holds 4 on average; one
	// of this size can't come about by chance.
	maxBucketItems = (1<<16 - 1 - bucketHead) / itemSize
)

// Item is a label and the root of its roll.
type Item struct {
	Label Label
	Root  Hash
}

// Bucket is one leaf of the index of an epoch: all its items whose label begins
// with the same bits.
type Bucket struct {
	Epoch  Epoch
	Bits   uint8  // k
	Number uint64 // the first k bits of its labels
	Items  []Item // by strictly increasing label
}

// BucketNumber returns the first k bits of a label.
func (z Label) BucketNumber(k uint8) uint64 {
	if k == 0 {
		return 0
	}
	return binary.BigEndian.Uint64(z[:8]) >> (64 - k)
}

// check reports whether the bucket is well-formed.
func (b Bucket) check() error {
	if b.Bits > maxPath || b.Epoch > maxInt || b.Number>>b.Bits != 0 {
		return formatError("bucket: epoch, bits or number out of range")
	}
	if len(b.Items) > maxBucketItems {
		return formatError("bucket: more than %d items", maxBucketItems)
	}
	for i := range b.Items {
		z := &b.Items[i].Label
		if i > 0 && bytes.Compare(b.Items[i-1].Label[:], z[:]) >= 0 {
			return formatError("bucket: labels are not strictly increasing")
		}
		if z.BucketNumber(b.Bits) != b.Number {
			return formatError("bucket: a label belongs to another bucket")
		}
	}
	return nil
}

// Leaf returns the leaf of the index tree, which is also the entry served in
// its tiles.
func (b Bucket) Leaf() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	return appendBucket(make([]byte, 0, bucketHead+itemSize*len(b.Items)), b), nil
}

func appendBucket(out []byte, b Bucket) []byte {
	out = append(out, bucketTag...)
	out = u64(out, uint64(b.Epoch))
	out = append(out, b.Bits)
	out = u64(out, b.Number)
	for i := range b.Items {
		out = append(out, b.Items[i].Label[:]...)
		out = append(out, b.Items[i].Root[:]...)
	}
	return out
}

// ParseBucket parses a leaf of an index tree.
func ParseBucket(leaf []byte) (Bucket, error) {
	if len(leaf) < bucketHead || string(leaf[:len(bucketTag)]) != bucketTag ||
		(len(leaf)-bucketHead)%itemSize != 0 || len(leaf) >= 1<<16 {
		return Bucket{}, formatError("bucket: wrong head or length")
	}
	h := leaf[len(bucketTag):]
	b := Bucket{Epoch: Epoch(binary.BigEndian.Uint64(h)), Bits: h[8], Number: binary.BigEndian.Uint64(h[9:])}
	rest := leaf[bucketHead:]
	b.Items = make([]Item, len(rest)/itemSize)
	for i := range b.Items {
		copy(b.Items[i].Label[:], rest[itemSize*i:])
		copy(b.Items[i].Root[:], rest[itemSize*i+32:])
	}
	if err := b.check(); err != nil {
		return Bucket{}, err
	}
	return b, nil
}

// Find returns the roll root of a label. false means that the bucket doesn't
// hold it: if the label belongs to this bucket (BucketNumber) and the bucket is
// in the index (VerifyBucket), the label has no roll in the epoch.
func (b Bucket) Find(z Label) (Hash, bool) {
	for i := range b.Items {
		if b.Items[i].Label == z {
			return b.Items[i].Root, true
		}
	}
	return Hash{}, false
}

// VerifyBucket checks that b is well-formed and is the bucket with its number
// in the index of the given root. Epoch, Bits and Items of b are then those of
// that index.
func VerifyBucket(root Hash, b Bucket, path []Hash) error {
	leaf, err := b.Leaf()
	if err != nil {
		return err
	}
	if root.IsZero() || !included(b.Number, 1<<b.Bits, LeafHash(leaf), path, root) {
		return unproven("bucket: not in the index")
	}
	return nil
}

// VerifyIndex answers what a closed epoch's index says about a label: the root
// of its roll, or that it has none (false). marker is the one that closes the
// epoch and must itself be proven to be in the log.
func VerifyIndex(marker Marker, z Label, b Bucket, path []Hash) (Hash, bool, error) {
	c := marker.Closed
	if c == nil || marker.check() != nil {
		return Hash{}, false, unproven("index: the marker closes no epoch")
	}
	if b.Epoch != marker.Epoch-1 || b.Bits != c.Bits || b.Number != z.BucketNumber(c.Bits) {
		return Hash{}, false, unproven("index: not the bucket of this label in this epoch")
	}
	if err := VerifyBucket(c.Index, b, path); err != nil {
		return Hash{}, false, err
	}
	root, ok := b.Find(z)
	return root, ok, nil
}

// IndexSummary is what a marker says about an index.
type IndexSummary struct {
	Items uint64
	Bits  uint8
	Root  Hash
}

// BuildIndex builds the index of an epoch from its items by strictly increasing
// label; their number must be known ahead. It hands each of the 2^Bits leaves
// to leaf (unless that is nil) in order; the slice is reused after the call.
// Memory is bounded by the largest bucket, not by the number of items.
func BuildIndex(epoch Epoch, items uint64, seq iter.Seq2[Label, Hash], leaf func(bucket uint64, leaf []byte) error) (IndexSummary, error) {
	if items > maxInt || epoch > maxInt {
		return IndexSummary{}, formatError("index: epoch or number of items above 2^63-1")
	}
	k := BucketBits(items)
	b := Bucket{Epoch: epoch, Bits: k}
	var (
		tree rootStack
		buf  []byte
		seen uint64
		last Label
		fail error
	)
	flush := func() error {
		if err := b.check(); err != nil {
			return err
		}
		buf = appendBucket(buf[:0], b)
		tree.add(LeafHash(buf))
		number := b.Number
		b.Number, b.Items = number+1, b.Items[:0]
		if leaf == nil {
			return nil
		}
		return leaf(number, buf)
	}
	for z, root := range seq {
		if seen > 0 && bytes.Compare(last[:], z[:]) >= 0 {
			fail = formatError("index: labels are not strictly increasing")
			break
		}
		last = z
		if seen++; seen > items {
			break
		}
		for b.Number < z.BucketNumber(k) {
			if fail = flush(); fail != nil {
				break
			}
		}
		if fail != nil {
			break
		}
		if len(b.Items) == maxBucketItems {
			fail = formatError("index: more than %d items in a bucket", maxBucketItems)
			break
		}
		b.Items = append(b.Items, Item{z, root})
	}
	if fail == nil && seen != items {
		fail = formatError("index: not the number of items announced")
	}
	for fail == nil && b.Number < 1<<k {
		fail = flush()
	}
	if fail != nil {
		return IndexSummary{}, fail
	}
	return IndexSummary{items, k, tree.nodes[0]}, nil
}

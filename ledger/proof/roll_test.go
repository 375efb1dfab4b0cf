package proof_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/transparency-dev/merkle/compact"
	mproof "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// The reference tree of these tests is the one everybody uses.
func TestReferenceTree(t *testing.T) {
	for n := 1; n <= 40; n++ {
		var leaves []proof.Hash
		rf := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
		r := rf.NewEmptyRange(0)
		for i := range n {
			h := proof.LeafHash(fmt.Append(nil, i))
			if !bytes.Equal(h[:], rfc6962.DefaultHasher.HashLeaf(fmt.Append(nil, i))) {
				t.Fatal("LeafHash is not RFC 6962's")
			}
			leaves = append(leaves, h)
			if err := r.Append(h[:], nil); err != nil {
				t.Fatal(err)
			}
		}
		root := refRoot(leaves)
		if want := must(r.GetRootHash(nil)); !bytes.Equal(root[:], want) {
			t.Fatalf("root of %d leaves", n)
		}
		for i := range n {
			var path [][]byte
			for _, h := range refPath(i, leaves) {
				path = append(path, bytes.Clone(h[:]))
			}
			if err := mproof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), uint64(n), leaves[i][:], path, root[:]); err != nil {
				t.Fatalf("path of %d in %d: %v", i, n, err)
			}
		}
	}
	big := bytes.Repeat([]byte("x"), 5000)
	if h := proof.LeafHash(big); !bytes.Equal(h[:], rfc6962.DefaultHasher.HashLeaf(big)) {
		t.Error("LeafHash of a long leaf")
	}
}

func TestRoll(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	seed := hashOf("roll seed")
	for n := 1; n <= 70; n++ {
		var indexes []proof.Index
		for len(indexes) < n {
			i := proof.Index(rng.Uint64N(1 << 40))
			if !slices.Contains(indexes, i) {
				indexes = append(indexes, i)
			}
		}
		z := proof.Label(hashOf(fmt.Sprint("label", n)))
		r, err := proof.NewRoll(seed, z, indexes)
		if err != nil {
			t.Fatal(err)
		}
		open := r.Open()
		want := 4
		for want < n {
			want *= 2
		}
		if len(open) != want {
			t.Errorf("%d entries: %d leaves, want %d", n, len(open), want)
		}
		root, got, err := proof.CheckRoll(open)
		slices.Sort(indexes)
		if err != nil || root != r.Root() || !slices.Equal(got, indexes) {
			t.Fatalf("%d entries: CheckRoll: %v", n, err)
		}
		// The root as specified, from the leaves alone.
		var hashes []proof.Hash
		for _, l := range open {
			leaf := proof.RollLeaf(l.Salt, l.Index)
			hashes = append(hashes, refLeaf(leaf[:]))
		}
		if refRoot(hashes) != root {
			t.Fatalf("%d entries: root is not RFC 6962's", n)
		}
		salts := map[[32]byte]bool{}
		for _, l := range open {
			salts[l.Salt] = true
		}
		if len(salts) != len(open) {
			t.Errorf("%d entries: salts repeat", n)
		}
		// Another order of the same entries is the same roll.
		rng.Shuffle(n, func(a, b int) { indexes[a], indexes[b] = indexes[b], indexes[a] })
		if again := must(proof.NewRoll(seed, z, indexes)); again.Root() != root {
			t.Error("the order of filing shows")
		}
		for _, i := range indexes {
			p, err := r.Leaf(i)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := p.Root(i); err != nil || got != root {
				t.Fatalf("%d entries: leaf of %d: %v", n, i, err)
			}
			if got, err := p.Root(i + 1); err == nil && got == root {
				t.Fatal("the proof holds for another entry")
			}
		}
		if _, err := r.Leaf(1 << 41); !errors.Is(err, proof.ErrUnproven) {
			t.Errorf("leaf of an entry that isn't there: %v", err)
		}
	}
}

// Two rolls share no salt, dummies included: equal salts would show up in two
// people's openings.
func TestRollsShareNoSalt(t *testing.T) {
	seed := hashOf("seed")
	seen := map[[32]byte]bool{}
	for i := range 50 {
		r := must(proof.NewRoll(seed, proof.Label(hashOf(fmt.Sprint(i))), []proof.Index{proof.Index(i)}))
		for _, l := range r.Open() {
			if seen[l.Salt] {
				t.Fatal("a salt is used twice")
			}
			seen[l.Salt] = true
		}
	}
	if proof.RollSalt(seed, 1) == proof.RollSalt(hashOf("other"), 1) || proof.RollSalt(seed, 1) == proof.RollSalt(seed, 2) {
		t.Error("salts depend on too little")
	}
}

func TestRollRefuses(t *testing.T) {
	z := proof.Label(hashOf("z"))
	for name, indexes := range map[string][]proof.Index{"none": nil, "twice": {1, 2, 1}, "a dummy": {1<<64 - 1}, "beyond": {1 << 63}} {
		if _, err := proof.NewRoll(hashOf("s"), z, indexes); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := must(proof.NewRoll(hashOf("s"), z, []proof.Index{1, 2, 3, 4, 5})).Open()
	var real, dummies []proof.OpenLeaf
	for _, l := range good {
		if l.Dummy() {
			dummies = append(dummies, l)
		} else {
			real = append(real, l)
		}
	}
	ordered := func(l ...proof.OpenLeaf) []proof.OpenLeaf {
		slices.SortFunc(l, func(a, b proof.OpenLeaf) int {
			x, y := proof.RollLeaf(a.Salt, a.Index), proof.RollLeaf(b.Salt, b.Index)
			return bytes.Compare(x[:], y[:])
		})
		return l
	}
	swapped := slices.Clone(good)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	twice := slices.Concat(real[:4], dummies[:3])
	twice = append(twice, proof.OpenLeaf{Index: real[0].Index, Salt: hashOf("another salt")})
	for name, l := range map[string][]proof.OpenLeaf{
		"none":               nil,
		"not a power of two": good[:7],
		"two leaves":         good[:2],
		"out of order":       swapped,
		"more dummies than needed": ordered(slices.Concat(real[:2], dummies, []proof.OpenLeaf{
			{Index: 1<<64 - 1, Salt: hashOf("d1")}, {Index: 1<<64 - 1, Salt: hashOf("d2")}, {Index: 1<<64 - 1, Salt: hashOf("d3")}})...),
		"dummies alone":     ordered(append(slices.Clone(dummies), proof.OpenLeaf{Index: 1<<64 - 1, Salt: hashOf("d4")})...),
		"an entry twice":    ordered(twice...),
		"index beyond 2^63": ordered(proof.OpenLeaf{Index: 1 << 63, Salt: hashOf("x")}, dummies[0], dummies[1], dummies[2]),
	} {
		if _, _, err := proof.CheckRoll(l); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%s (%d leaves): %v", name, len(l), err)
		}
	}
	p := must(must(proof.NewRoll(hashOf("s"), z, []proof.Index{7})).Leaf(7))
	for name, f := range map[string]func(*proof.LeafProof){
		"size 3":            func(p *proof.LeafProof) { p.Size = 3 },
		"size 0":            func(p *proof.LeafProof) { p.Size = 0 },
		"size 2":            func(p *proof.LeafProof) { p.Size = 2 },
		"size 8":            func(p *proof.LeafProof) { p.Size = 8 },
		"position":          func(p *proof.LeafProof) { p.Position = 4 },
		"short path":        func(p *proof.LeafProof) { p.Path = p.Path[:1] },
		"size above all":    func(p *proof.LeafProof) { p.Size = 1 << 63 },
		"path of nothing":   func(p *proof.LeafProof) { p.Path = nil },
		"position and size": func(p *proof.LeafProof) { p.Position, p.Size = 1<<62, 1<<63 },
	} {
		bad := p
		f(&bad)
		if _, err := bad.Root(7); err == nil {
			t.Errorf("leaf proof with %s accepted", name)
		}
	}
	if _, err := p.Root(1<<64 - 1); err == nil {
		t.Error("a dummy passes as an entry")
	}
}

func TestIndex(t *testing.T) {
	for _, n := range []int{0, 1, 4, 5, 8, 9, 33, 64, 65, 1000} {
		items := make([]proof.Item, n)
		for i := range items {
			items[i] = proof.Item{Label: proof.Label(hashOf(fmt.Sprint("z", i))), Root: hashOf(fmt.Sprint("r", i))}
		}
		sortItems(items)
		var leaves [][]byte
		var hashes []proof.Hash
		s, err := proof.BuildIndex(812, uint64(n), seq(items), func(b uint64, leaf []byte) error {
			if b != uint64(len(leaves)) {
				t.Fatalf("bucket %d comes as number %d", b, len(leaves))
			}
			leaves = append(leaves, bytes.Clone(leaf))
			hashes = append(hashes, refLeaf(leaf))
			return nil
		})
		if err != nil {
			t.Fatalf("%d items: %v", n, err)
		}
		if len(leaves) != 1<<proof.BucketBits(uint64(n)) || s.Bits != proof.BucketBits(uint64(n)) || s.Items != uint64(n) {
			t.Errorf("%d items: %d buckets, bits %d", n, len(leaves), s.Bits)
		}
		if refRoot(hashes) != s.Root {
			t.Errorf("%d items: root is not RFC 6962's", n)
		}
		if again := must(proof.BuildIndex(812, uint64(n), seq(items), nil)); again != s {
			t.Error("not deterministic")
		}
		found := 0
		for b, leaf := range leaves {
			bucket, err := proof.ParseBucket(leaf)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(leaf, must(bucket.Leaf())); d != "" {
				t.Error(d)
			}
			path := refPath(b, hashes)
			if err := proof.VerifyBucket(s.Root, bucket, path); err != nil {
				t.Fatalf("%d items, bucket %d: %v", n, b, err)
			}
			found += len(bucket.Items)
			if len(leaves) > 1 {
				moved := bucket
				moved.Number ^= 1
				moved.Items = nil
				if proof.VerifyBucket(s.Root, moved, path) == nil {
					t.Error("an empty bucket in the place of another")
				}
			}
			fewer := bucket
			if len(bucket.Items) > 0 {
				fewer.Items = bucket.Items[1:]
				if proof.VerifyBucket(s.Root, fewer, path) == nil {
					t.Error("a bucket with an item hidden")
				}
			}
			later := bucket
			later.Epoch++
			if proof.VerifyBucket(s.Root, later, path) == nil {
				t.Error("a bucket of another epoch")
			}
		}
		if found != n {
			t.Errorf("%d items found, want %d", found, n)
		}
	}
}

func TestIndexRefuses(t *testing.T) {
	items := []proof.Item{{Label: proof.Label{1}}, {Label: proof.Label{2}}, {Label: proof.Label{3}}}
	build := func(n uint64, items ...proof.Item) error {
		_, err := proof.BuildIndex(1, n, seq(items), nil)
		return err
	}
	for name, err := range map[string]error{
		"fewer than announced": build(4, items...),
		"more than announced":  build(2, items...),
		"none announced":       build(0, items...),
		"out of order":         build(3, items[1], items[0], items[2]),
		"twice the same":       build(3, items[0], items[0], items[2]),
		"beyond":               build(1<<63, items...),
	} {
		if !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	boom := errors.New("disk full")
	if _, err := proof.BuildIndex(1, 3, seq(items), func(uint64, []byte) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("an error of the writer is lost: %v", err)
	}
	many := make([]proof.Item, 1100)
	for i := range many {
		many[i].Label[30], many[i].Label[31] = byte(i>>8), byte(i)
	}
	if err := build(1100, many...); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("more items in a bucket than a tile entry holds: %v", err)
	}
	good := must(proof.Bucket{Epoch: 1, Items: items}.Leaf())
	for i := range good[:len("regard/bucket/v1")+1] {
		if _, err := proof.ParseBucket(replaceAt(good, i, good[i]^1)); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("head byte %d: %v", i, err)
		}
	}
	if _, err := proof.ParseBucket(good[:len(good)-1]); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("cut: %v", err)
	}
	wrong := proof.Bucket{Epoch: 1, Bits: 1, Number: 1, Items: items}
	if _, err := wrong.Leaf(); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("labels of another bucket: %v", err)
	}
	if _, err := (proof.Bucket{Bits: 64}).Leaf(); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("64 bits: %v", err)
	}
	if err := proof.VerifyBucket(proof.Hash{}, proof.Bucket{}, nil); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("zero root: %v", err)
	}
}

// A label without entries is shown to be absent, and the answer can't be
// turned around.
func TestVerifyIndex(t *testing.T) {
	w := newWorld()
	e := w.epochs[1]
	closing := must(proof.ParseEntry(w.texts[e.closer])).(proof.Marker)
	nobody := must(proof.SIREN("356000000"))
	z := e.key.Label(nobody, 1)
	b := z.BucketNumber(e.summary.Bits)
	bucket, path := must(proof.ParseBucket(e.buckets[b])), refPath(int(b), e.leaves)
	if _, has, err := proof.VerifyIndex(closing, z, bucket, path); err != nil || has {
		t.Errorf("absent: has %v, %v", has, err)
	}
	for z, roll := range e.rolls {
		b := z.BucketNumber(e.summary.Bits)
		root, has, err := proof.VerifyIndex(closing, z, must(proof.ParseBucket(e.buckets[b])), refPath(int(b), e.leaves))
		if err != nil || !has || root != roll.Root() {
			t.Errorf("present: %v %v", has, err)
		}
		// Another bucket doesn't answer for this label.
		o := b ^ 1
		if _, _, err := proof.VerifyIndex(closing, z, must(proof.ParseBucket(e.buckets[o])), refPath(int(o), e.leaves)); !errors.Is(err, proof.ErrUnproven) {
			t.Errorf("another bucket: %v", err)
		}
	}
	first := must(proof.ParseEntry(w.texts[0])).(proof.Marker)
	if _, _, err := proof.VerifyIndex(first, z, bucket, path); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("a marker that closes nothing: %v", err)
	}
	if _, _, err := proof.VerifyIndex(proof.Marker{}, z, bucket, path); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("zero marker: %v", err)
	}
}

func TestRollRootIsTheRolls(t *testing.T) {
	seed := [32]byte{9}
	for n := range 12 {
		for k := range 50 {
			z := proof.Label{byte(n), byte(k)}
			var indexes []proof.Index
			for i := range n {
				indexes = append(indexes, proof.Index(1000*k+7*i+1))
			}
			root, err := proof.RollRoot(seed, z, indexes)
			r, want := proof.NewRoll(seed, z, indexes)
			if (err == nil) != (want == nil) || err == nil && root != r.Root() {
				t.Fatalf("%d entries: %v, %v", n, err, want)
			}
		}
	}
	for _, bad := range [][]proof.Index{{1, 1}, {1, 2, 1}, {1 << 63}, {3, 1<<64 - 1}} {
		if _, err := proof.RollRoot(seed, proof.Label{}, bad); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func BenchmarkRollRoot(b *testing.B) {
	for i := range b.N {
		if _, err := proof.RollRoot([32]byte{1}, proof.Label{byte(i)}, []proof.Index{proof.Index(i)}); err != nil {
			b.Fatal(err)
		}
	}
}

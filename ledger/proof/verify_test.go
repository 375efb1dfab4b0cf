package proof_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

func TestVerify(t *testing.T) {
	w := newWorld()
	size := len(w.texts)
	cp := w.verified(size)
	var all []proof.Proven
	var commitments []proof.Commitment
	for _, f := range w.filed {
		e := must(proof.ParseEntry(w.texts[f.index]))
		if !e.Kind().Filed() {
			continue
		}
		p := w.proven(f.index, size)
		c, _ := proof.CommitmentOf(e)
		v, err := proof.Verify(cp, []proof.Proven{p})
		if err != nil {
			t.Fatalf("entry %d: %v", f.index, err)
		}
		if set := must(v.Set()); set != proof.SetDigest([]proof.Commitment{c}) {
			t.Errorf("entry %d: another set", f.index)
		}
		all, commitments = append(all, p), append(commitments, c)
		// Another size, and so another root, is another proof.
		if _, err := proof.Verify(w.verified(size-1), []proof.Proven{p}); err == nil && int(f.index) < size-1 && len(refPath(int(f.index), w.hashes[:size-1])) == len(p.Path) {
			t.Errorf("entry %d: verified under another tree", f.index)
		}
	}
	v, err := proof.Verify(cp, all)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(commitments)
	if must(v.Set()) != proof.SetDigest(commitments) {
		t.Error("the set depends on the order")
	}
	if v.Witnessed() || v.Checkpoint().Size() != uint64(size) {
		t.Error("the set does not know its checkpoint")
	}
	if v := must(proof.Verify(w.verified(size, 0, 1), all)); !v.Witnessed() {
		t.Error("the set is not witnessed by the quorum")
	}

	one := all[0]
	with := func(f func(*proof.Proven)) []proof.Proven {
		p := one
		p.Path = slices.Clone(one.Path)
		f(&p)
		return []proof.Proven{p}
	}
	marker, policy, deferred := w.proven(0, size), w.proven(1, size), proof.Proven{}
	for i, text := range w.texts {
		if bytes.HasPrefix(text, []byte("regard/deferred@v1")) {
			deferred = w.proven(proof.Index(i), size)
		}
	}
	// A disclosure that its person learns of later is released on its deferred entry, alone or with others.
	e := must(proof.ParseEntry(deferred.Text))
	c, _ := proof.CommitmentOf(e)
	if v := must(proof.Verify(cp, []proof.Proven{deferred})); must(v.Set()) != proof.SetDigest([]proof.Commitment{c}) {
		t.Error("deferred: another set")
	}
	first, _ := proof.CommitmentOf(must(proof.ParseEntry(one.Text)))
	if v := must(proof.Verify(cp, []proof.Proven{one, deferred})); must(v.Set()) != proof.SetDigest([]proof.Commitment{first, c}) {
		t.Error("deferred with another: another set")
	}
	for name, entries := range map[string][]proof.Proven{
		"none":                nil,
		"empty":               {},
		"twice the same":      {one, one},
		"one of them wrong":   {one, {Index: all[1].Index, Text: all[1].Text, Path: all[2].Path}},
		"marker":              {marker},
		"governance":          {policy},
		"deferred, cut":       {{Index: deferred.Index, Text: deferred.Text[:len(deferred.Text)-1], Path: deferred.Path}},
		"deferred elsewhere":  {{Index: deferred.Index + 1, Text: deferred.Text, Path: deferred.Path}},
		"deferred twice":      {deferred, deferred},
		"a set with a marker": {one, marker},
		"another index":       with(func(p *proof.Proven) { p.Index++ }),
		"index beyond":        with(func(p *proof.Proven) { p.Index = proof.Index(size) }),
		"no path":             with(func(p *proof.Proven) { p.Path = nil }),
		"longer path":         with(func(p *proof.Proven) { p.Path = append(p.Path, proof.Hash{}) }),
		"changed path":        with(func(p *proof.Proven) { p.Path[0][0] ^= 1 }),
		"another text":        with(func(p *proof.Proven) { p.Text = all[1].Text }),
		"no text":             with(func(p *proof.Proven) { p.Text = nil }),
		"long text":           with(func(p *proof.Proven) { p.Text = make([]byte, 5000) }),
		"zero proven":         {{}},
	} {
		v, err := proof.Verify(cp, entries)
		if err == nil {
			t.Errorf("%s: verified", name)
		}
		if _, err := v.Set(); !errors.Is(err, proof.ErrUnproven) {
			t.Errorf("%s: the failed Verified has a set", name)
		}
	}
	many := slices.Repeat(all[:1], 40)
	if _, err := proof.Verify(cp, many); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("forty times the same: %v", err)
	}
}

func TestZeroValuesRefused(t *testing.T) {
	w := newWorld()
	p := w.proven(2, len(w.texts))
	if _, err := proof.Verify(proof.Checkpoint{}, []proof.Proven{p}); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("zero checkpoint: %v", err)
	}
	if _, err := proof.VerifyEntry(proof.Checkpoint{}, p); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("zero checkpoint for an entry: %v", err)
	}
	if _, err := (proof.Verified{}).Set(); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("zero Verified: %v", err)
	}
	if (proof.Verified{}).Witnessed() || (proof.Checkpoint{}).Witnessed() {
		t.Error("zero values are witnessed")
	}
	if !proof.SetDigest(nil).IsZero() {
		t.Error("the empty set has a digest")
	}
	// An entry of one leaf with an empty path under a zero root: the shape a
	// forgotten check would let through.
	if _, err := proof.Verify(proof.Checkpoint{}, []proof.Proven{{Text: p.Text}}); err == nil {
		t.Error("zero checkpoint")
	}
}

func TestSetDigest(t *testing.T) {
	for _, n := range []int{1, 2, 16, 17, 40} {
		var cs []proof.Commitment
		for i := range n {
			cs = append(cs, proof.Commitment(hashOf(fmt.Sprint(i))))
		}
		sorted := slices.Clone(cs)
		slices.SortFunc(sorted, func(a, b proof.Commitment) int { return bytes.Compare(a[:], b[:]) })
		in := []byte("regard/set/v1\x00")
		for _, c := range sorted {
			in = append(in, c[:]...)
		}
		before := slices.Clone(cs)
		if got := proof.SetDigest(cs); got != sha256.Sum256(in) {
			t.Errorf("%d commitments: not as specified", n)
		}
		if !slices.Equal(before, cs) {
			t.Error("SetDigest sorts its caller's slice")
		}
	}
}

func TestVerifyEntry(t *testing.T) {
	w := newWorld()
	size := len(w.texts)
	cp := w.verified(size)
	for i := range w.texts {
		e, err := proof.VerifyEntry(cp, w.proven(proof.Index(i), size))
		if bytes.HasPrefix(w.texts[i], []byte("regard/later@v1\n")) {
			if !errors.Is(err, proof.ErrUnknown) {
				t.Errorf("an entry of a type that isn't known: %v", err)
			}
			if _, err := proof.Verify(cp, []proof.Proven{w.proven(proof.Index(i), size)}); !errors.Is(err, proof.ErrUnproven) {
				t.Errorf("a set with an entry of a type that isn't known: %v", err)
			}
			continue
		}
		if err != nil || string(text(t, e)) != string(w.texts[i]) {
			t.Errorf("entry %d: %v", i, err)
		}
		bad := w.proven(proof.Index(i), size)
		bad.Index ^= 1
		if _, err := proof.VerifyEntry(cp, bad); !errors.Is(err, proof.ErrUnproven) {
			t.Errorf("entry %d at another index: %v", i, err)
		}
	}
}

// Paths of every position in every small tree, and of none but their own.
func TestInclusionEverywhere(t *testing.T) {
	var texts [][]byte
	var hashes []proof.Hash
	w := newWorld()
	for i := range 70 {
		b := text(t, proof.Disclosure{Commitment: proof.Commitment(hashOf(fmt.Sprint("c", i)))})
		texts, hashes = append(texts, b), append(hashes, refLeaf(b))
	}
	for size := 1; size <= len(texts); size++ {
		lw := &world{signer: w.signer, policy: w.policy, hashes: hashes[:size], texts: texts[:size]}
		cp := lw.verified(size)
		for i := range size {
			p := lw.proven(proof.Index(i), size)
			if _, err := proof.Verify(cp, []proof.Proven{p}); err != nil {
				t.Fatalf("%d in %d: %v", i, size, err)
			}
			p.Index = proof.Index((i + 1) % size)
			if _, err := proof.Verify(cp, []proof.Proven{p}); err == nil && size > 1 {
				t.Fatalf("%d in %d: holds for the next index", i, size)
			}
		}
	}
}

func TestBundleDigest(t *testing.T) {
	files := []proof.BundleFile{{Path: "b.rego", Bytes: []byte("bb")}, {Path: "a.rego", Bytes: nil}}
	want := "regard/bundle/v1\x00\x00\x00\x00\x06a.rego\x00\x00\x00\x00\x00\x00\x00\x06b.rego\x00\x00\x00\x02bb"
	got, err := proof.AppendBundle(nil, files)
	if err != nil || string(got) != want {
		t.Errorf("%q %v, want %q", got, err, want)
	}
	if h := must(proof.BundleDigest(files)); h != sha256.Sum256([]byte(want)) {
		t.Error("BundleDigest is not over AppendBundle")
	}
	for _, bad := range [][]proof.BundleFile{{{Path: ""}}, {{Path: "a"}, {Path: "a"}}} {
		if _, err := proof.BundleDigest(bad); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

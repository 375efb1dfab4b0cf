package store

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestPackChangesNothing: whoever reads filings reads the same before, while and after they are packed.
func TestPackChangesNothing(t *testing.T) { EachEngine(t, testPackChangesNothing) }

func testPackChangesNothing(t *testing.T, open Opener) {
	ctx := context.Background()
	s := open(t, t.TempDir())
	o := Order{Store: s}
	rng := rand.New(rand.NewPCG(4, 2))
	var want []ledger.Filing
	next := proof.Index(1)
	add := func(entries int) {
		var z proof.Label
		for i := range z {
			z[i] = byte(rng.Uint32())
		}
		for range entries {
			want = append(want, ledger.Filing{Label: z, Index: next})
			next += proof.Index(1 + rng.IntN(3))
		}
	}
	const people = 4096 // so many that the epoch is packed
	for range people {
		add(1 + rng.IntN(2))
	}
	for _, n := range []int{packStep - 1, packStep, packStep + 1, 3 * packStep} {
		add(n)
	}
	rng.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
	err := s.keep(ctx, func(x *tx) error {
		for number, e := range []struct{ items, closer any }{{people + 4, int64(next)}, {4095, int64(next)}, {nil, nil}} {
			if _, err := x.exec("INSERT INTO epochs (number, marker, text, opened, until, label_key, filed_upto, closer, items) VALUES (?, 0, x'', 0, 0, '', 0, ?, ?)", int64(number), e.closer, e.items); err != nil {
				return err
			}
		}
		for i, f := range want {
			if _, err := x.exec("INSERT INTO filings VALUES (0, ?, ?)", f.Label[:], int64(f.Index)); err != nil {
				return err
			}
			if i < 3 { // a small epoch, and the open one
				if _, err := x.exec("INSERT INTO filings VALUES (1, ?1, ?2), (2, ?1, ?2)", f.Label[:], int64(f.Index)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	order := func(a, b ledger.Filing) int {
		if c := bytes.Compare(a.Label[:], b.Label[:]); c != 0 {
			return c
		}
		return int(a.Index) - int(b.Index)
	}
	slices.SortFunc(want, order)
	check := func(steps int) {
		t.Helper()
		var got []ledger.Filing
		if err := o.Filings(ctx, 0, func(f ledger.Filing) error { got = append(got, f); return nil }); err != nil || !slices.Equal(got, want) {
			t.Fatalf("after %d steps: %d filings, want %d (%v)", steps, len(got), len(want), err)
		}
		if n, err := s.CountFilings(ctx, 0); err != nil || n != uint64(len(want)) {
			t.Fatalf("after %d steps: %d filings are counted, want %d (%v)", steps, n, len(want), err)
		}
		for range 20 {
			i := rng.IntN(len(want))
			z := want[i].Label
			var after []ledger.Filing
			if err := s.FilingsAfter(ctx, 0, &z, func(f ledger.Filing) error { after = append(after, f); return nil }); err != nil {
				t.Fatal(err)
			}
			for i < len(want) && want[i].Label == z {
				i++
			}
			if !slices.Equal(after, want[i:]) {
				t.Fatalf("after %d steps: %d filings behind a label, want %d", steps, len(after), len(want)-i)
			}
			var roll []proof.Index
			for j := i - 1; j >= 0 && want[j].Label == z; j-- { // want is in order
				roll = append(roll, want[j].Index)
			}
			slices.Reverse(roll)
			if got, err := o.Roll(ctx, 0, z); err != nil || !slices.Equal(got, roll) {
				t.Fatalf("after %d steps: a roll of %d entries, want %d (%v)", steps, len(got), len(roll), err)
			}
			z[31]++
			if got, err := o.Roll(ctx, 0, z); err != nil || len(got) != 0 {
				t.Fatalf("after %d steps: nobody's roll has %d entries (%v)", steps, len(got), err)
			}
		}
	}
	stop := errors.New("stop")
	check(0)
	for steps := 1; ; steps++ {
		more, err := s.Pack(ctx)
		if err != nil {
			t.Fatal(err)
		}
		check(steps)
		if err := o.Filings(ctx, 0, func(ledger.Filing) error { return stop }); !errors.Is(err, stop) {
			t.Fatalf("a reader who stops: %v", err)
		}
		if !more {
			break
		}
		if steps > 100 {
			t.Fatal("packing doesn't end")
		}
	}
	left := map[int64]int64{}
	err = s.each(ctx, "SELECT epoch, count(*) FROM filings GROUP BY epoch", func(scan func(...any) error) error {
		var e, n int64
		err := scan(&e, &n)
		left[e] = n
		return err
	})
	if d := cmp.Diff(map[int64]int64{1: 3, 2: 3}, left); err != nil || d != "" {
		t.Errorf("not packed: %v %s", err, d)
	}
	// What is damaged is an error and never another roll.
	if err := s.keep(ctx, func(x *tx) error {
		_, err := x.exec("UPDATE rolls SET packed = substr(packed, 1, length(packed) - 1)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := o.Filings(ctx, 0, func(ledger.Filing) error { return nil }); !errors.Is(err, ErrCorrupt) {
		t.Errorf("damaged rolls: %v", err)
	}
}

// FuzzUnpack: what unpacks packs to the same filings, and nothing makes it read beyond its end.
func FuzzUnpack(f *testing.F) {
	var p packer
	p.add(ledger.Filing{Label: proof.Label{1}, Index: 5})
	p.add(ledger.Filing{Label: proof.Label{2}, Index: 3})
	p.add(ledger.Filing{Label: proof.Label{2}, Index: 900})
	p.close()
	f.Add(p.done[0].packed)
	f.Add([]byte{})
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got, again []ledger.Filing
		if err := unpack(b, nil, func(f ledger.Filing) error { got = append(got, f); return nil }); err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if len(got) > len(b) {
			t.Fatalf("%d filings from %d bytes", len(got), len(b))
		}
		var p packer
		for _, f := range got {
			p.add(f)
		}
		p.close()
		for _, r := range p.done {
			if err := unpack(r.packed, nil, func(f ledger.Filing) error { again = append(again, f); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, again) {
			t.Fatal("other filings after packing them again")
		}
	})
}

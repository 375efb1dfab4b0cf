package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestSignedStore is the contract of a ledger.SignedStore. open is called several times with the same directory, at the same time too.
func TestSignedStore(t *testing.T, open func(t *testing.T, dir string) ledger.SignedStore) {
	ctx := context.Background()
	t.Run("swap", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir)
		if n, err := s.Last(ctx); n != nil || err != nil {
			t.Fatalf("new store: %q, %v; want nil", n, err)
		}
		a, b, c := []byte("a\n\n— x y\n"), []byte("b"), []byte("c")
		if err := s.Swap(ctx, b, a); !errors.Is(err, ledger.ErrHalted) {
			t.Errorf("swap with a wrong old note on an empty store: %v", err)
		}
		for _, step := range []struct {
			old, new []byte
			ok       bool
		}{{nil, a, true}, {nil, b, false}, {b, c, false}, {a, b, true}, {a, c, false}, {b, b, true}, {b, c, true}} {
			before, err := s.Last(ctx)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Swap(ctx, step.old, step.new)
			if step.ok && err != nil || !step.ok && !errors.Is(err, ledger.ErrHalted) {
				t.Errorf("swap %q for %q over %q: %v", step.old, step.new, before, err)
			}
			want := before
			if step.ok {
				want = step.new
			}
			if got, err := s.Last(ctx); err != nil || !bytes.Equal(got, want) {
				t.Errorf("last is %q, want %q (%v)", got, want, err)
			}
		}
		if got, err := open(t, dir).Last(ctx); err != nil || !bytes.Equal(got, c) {
			t.Errorf("opened again: %q, %v", got, err)
		}
	})
	t.Run("one of many wins", func(t *testing.T) {
		dir := t.TempDir()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var won []string
		for i := range 8 {
			s := open(t, dir)
			wg.Go(func() {
				note := fmt.Sprintf("note %d", i)
				if err := s.Swap(ctx, nil, []byte(note)); err == nil {
					mu.Lock()
					won = append(won, note)
					mu.Unlock()
				} else if !errors.Is(err, ledger.ErrHalted) {
					t.Errorf("swap: %v", err)
				}
			})
		}
		wg.Wait()
		got, err := open(t, dir).Last(ctx)
		if err != nil || len(won) != 1 || string(got) != won[0] {
			t.Errorf("%q won, stored is %q (%v)", won, got, err)
		}
	})
	t.Run("two that both believe they lead", func(t *testing.T) { twoLead(t, open) })
	t.Run("cancelled", func(t *testing.T) {
		s := open(t, t.TempDir())
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if err := s.Swap(ctx, nil, []byte("x")); err == nil {
			t.Error("swap with an ended context reports success")
		}
	})
}

// steps keeps what a SignedStore took: which note in the place of which.
type steps struct {
	mu    sync.Mutex
	after map[string]string
	forks int
}

// watchedSigned is one process's way to a SignedStore.
type watchedSigned struct {
	ledger.SignedStore
	*steps
}

// Swap implements ledger.SignedStore.
func (s watchedSigned) Swap(ctx context.Context, old, new []byte) error {
	err := s.SignedStore.Swap(ctx, old, new)
	if err == nil && !bytes.Equal(old, new) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, taken := s.after[string(old)]; taken {
			s.forks++
		}
		s.after[string(old)] = string(new)
	}
	return err
}

// twoLead lets two logs with the same beginning and orders of their own, both of which are told that they lead, sign into one store: one of them halts, and all that was signed and released is one history.
func twoLead(t *testing.T, open func(t *testing.T, dir string) ledger.SignedStore) {
	dir, one, two := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "two")
	first := open(t, dir)
	t.Run("begin", func(t *testing.T) {
		e := NewDurable(t, one)
		e.SignedStore = first
		l := e.Open()
		g, _ := Disclosure(Person(1))
		if _, err := l.Append(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	})
	if err := os.CopyFS(two, os.DirFS(one)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(two, "*.db*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chmod(f, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	signed := &steps{after: map[string]string{}}
	begin, err := first.Last(t.Context())
	if err != nil || len(begin) == 0 {
		t.Fatalf("%q, %v", begin, err)
	}
	var logs []*ledger.Log
	for _, at := range []string{one, two} {
		e := NewDurable(t, at)
		e.SignedStore = watchedSigned{open(t, dir), signed}
		cfg := e.Config()
		cfg.Leads = func() bool { return true }
		logs = append(logs, e.OpenWith(cfg))
	}
	released, errs := make([][]proof.Checkpoint, 2), make([]error, 2)
	var wg sync.WaitGroup
	for i, l := range logs {
		wg.Go(func() {
			for n := 0; n < 20 && errs[i] == nil; n++ {
				g, _ := Disclosure(Person(10*i + n))
				a, err := l.Append(t.Context(), g)
				if errs[i] = err; err == nil {
					released[i] = append(released[i], a.Checkpoint)
				}
			}
		})
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("one of the two has to stop: %v; %v", errs[0], errs[1])
	}
	for i, err := range errs {
		if err != nil && (!errors.Is(err, ledger.ErrHalted) || logs[i].Err() == nil) {
			t.Errorf("the one that stops says %v, and goes on: %v", err, logs[i].Err() == nil)
		}
	}
	signed.mu.Lock()
	defer signed.mu.Unlock()
	stored := map[string]bool{}
	for n, ok := string(begin), true; ok; n, ok = signed.after[n] {
		stored[n] = true
	}
	if signed.forks > 0 || len(stored) != len(signed.after)+1 || len(stored) < 2 {
		t.Errorf("%d of %d checkpoints follow from the first, %d have a rival", len(stored)-1, len(signed.after), signed.forks)
	}
	for i := range released {
		for _, cp := range released[i] {
			if !stored[string(cp.Note())] {
				t.Errorf("log %d released an answer under a checkpoint of %d entries that isn't stored", i, cp.Size())
			}
		}
	}
}

// MarkerText returns the canonical text of a marker for tests of stores.
func markerText(t *testing.T, m proof.Marker) []byte {
	t.Helper()
	l := Labeler{}
	k, err := l.Key("2026-01")
	if err != nil {
		t.Fatal(err)
	}
	m.VRF = k.Public()
	text, err := m.AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// suite makes batches as a log does.
type suite struct {
	t    *testing.T
	s    ledger.Store
	next proof.Index
	open *ledger.OpenEpoch
	all  []ledger.Leaf
}

func (x *suite) leaf(kind proof.Kind, text []byte) ledger.Leaf {
	l := ledger.Leaf{Index: x.next, Epoch: x.open.Number, Kind: kind, Text: text}
	l.Identity[0], l.Identity[1], l.Identity[31] = byte(x.next), byte(x.next>>8), 0xee
	x.next++
	x.all = append(x.all, l)
	return l
}

func (x *suite) disclosure() ledger.Leaf {
	text, err := proof.Disclosure{Epoch: x.open.Number, Commitment: proof.Commitment{1, byte(x.next), byte(x.next >> 8)}}.AppendText(nil)
	if err != nil {
		x.t.Fatal(err)
	}
	return x.leaf(proof.KindDisclosure, text)
}

func (x *suite) epoch(n proof.Epoch) *ledger.OpenEpoch {
	at := time.Date(2026, 1, 1, int(n), 0, 0, 123_000_000, time.UTC)
	o := &ledger.OpenEpoch{Number: n, Marker: x.next, Opened: at, Until: at.Add(time.Hour), LabelKey: fmt.Sprintf("key/%d", n)}
	m := proof.Marker{Epoch: n, Opened: proof.TimeOf(o.Opened), Until: proof.TimeOf(o.Until)}
	if n > 0 {
		m.Closed = &proof.Closed{
			Previous: proof.Hash{1}, First: x.open.Marker, Size: uint64(x.next - x.open.Marker),
			Counts: []proof.Count{{Kind: proof.KindEpoch, N: 1}}, Index: proof.Hash{2},
		}
		if rest := m.Closed.Size - 1; rest > 0 {
			m.Closed.Counts = append([]proof.Count{{Kind: proof.KindDisclosure, N: rest}}, m.Closed.Counts...)
			m.Closed.Items = 1
		}
	}
	o.Text = markerText(x.t, m)
	return o
}

func (x *suite) commit(b *ledger.Batch) {
	x.t.Helper()
	if err := x.s.Commit(context.Background(), b); err != nil {
		x.t.Fatalf("commit at %d: %v", b.First, err)
	}
}

func (x *suite) first() {
	o := x.epoch(0)
	x.open = o
	b := &ledger.Batch{First: 0, Opens: o}
	b.Groups = []ledger.PlacedGroup{{Leaves: []ledger.Leaf{x.leaf(proof.KindEpoch, o.Text)}}}
	x.commit(b)
}

// batch commits groups of the given sizes; the order within the batch is not that of the groups.
func (x *suite) batch(sizes ...int) {
	b := &ledger.Batch{First: x.next, Groups: make([]ledger.PlacedGroup, len(sizes))}
	for left := true; left; {
		left = false
		for g, n := range sizes {
			if len(b.Groups[g].Leaves) < n {
				b.Groups[g].Leaves = append(b.Groups[g].Leaves, x.disclosure())
				left = true
			}
		}
	}
	x.commit(b)
}

func (x *suite) turn(more int) *ledger.ClosedEpoch {
	c := &ledger.ClosedEpoch{OpenEpoch: *x.open, Closer: x.next, Size: uint64(x.next - x.open.Marker), Items: 1, Bits: 0, Root: proof.Hash{2}}
	o := x.epoch(x.open.Number + 1)
	b := &ledger.Batch{First: x.next, Closes: c, Opens: o}
	x.open = o
	b.Groups = append(b.Groups, ledger.PlacedGroup{Leaves: []ledger.Leaf{x.leaf(proof.KindEpoch, o.Text)}})
	for range more {
		b.Groups = append(b.Groups, ledger.PlacedGroup{Leaves: []ledger.Leaf{x.disclosure()}})
	}
	x.commit(b)
	return c
}

// TestStore is the contract of a ledger.Store, but for attachments and for Unfiled, which depend on what the store attaches. open returns an empty store.
func TestStore(t *testing.T, open func(t *testing.T) ledger.Store) {
	ctx := context.Background()
	start := func(t *testing.T) *suite {
		x := &suite{t: t, s: open(t)}
		x.first()
		return x
	}
	t.Run("empty", func(t *testing.T) {
		s := open(t)
		if tail, err := s.Tail(ctx); err != nil || tail.Next != 0 || tail.Open != nil || len(tail.Counts) != 0 {
			t.Errorf("tail of an empty store: %+v, %v", tail, err)
		}
		if next, err := s.Next(ctx); err != nil || next != 0 {
			t.Errorf("next of an empty store: %d, %v", next, err)
		}
		if err := s.Leaves(ctx, 0, 1, func(ledger.Leaf) error { return nil }); err == nil {
			t.Error("leaf 0 of an empty store")
		}
		if err := s.Leaves(ctx, 0, 0, func(ledger.Leaf) error { return errors.New("called") }); err != nil {
			t.Errorf("no leaves: %v", err)
		}
		if _, err := s.EpochOf(ctx, 0); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("epoch of entry 0: %v", err)
		}
		if _, err := s.Epoch(ctx, 0); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("epoch 0: %v", err)
		}
	})
	t.Run("order", func(t *testing.T) {
		x := start(t)
		x.batch(1)
		x.batch(3, 2, 1)
		tail, err := x.s.Tail(ctx)
		if err != nil {
			t.Fatal(err)
		}
		want := ledger.Tail{Next: x.next, Open: x.open, Counts: map[proof.Kind]uint64{proof.KindEpoch: 1, proof.KindDisclosure: 7}}
		if d := cmp.Diff(want, tail); d != "" {
			t.Errorf("tail: %s", d)
		}
		for _, r := range [][2]proof.Index{{0, x.next}, {3, 5}, {2, 2}, {x.next - 1, x.next}} {
			var got []ledger.Leaf
			if err := x.s.Leaves(ctx, r[0], r[1], func(l ledger.Leaf) error {
				l.Text = bytes.Clone(l.Text)
				got = append(got, l)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(append([]ledger.Leaf(nil), x.all[r[0]:r[1]]...), got); d != "" {
				t.Errorf("leaves %v: %s", r, d)
			}
		}
		if err := x.s.Leaves(ctx, 2, x.next+1, func(ledger.Leaf) error { return nil }); err == nil {
			t.Error("a leaf beyond the end")
		}
		stop := errors.New("stop")
		n := 0
		if err := x.s.Leaves(ctx, 0, x.next, func(ledger.Leaf) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
			t.Errorf("leaves with a callback that fails: %v after %d", err, n)
		}
		// The callback may ask the store for something else.
		if err := x.s.Leaves(ctx, 0, 2, func(l ledger.Leaf) error { _, err := x.s.EpochOf(ctx, l.Index); return err }); err != nil {
			t.Errorf("asking within Leaves: %v", err)
		}
	})
	t.Run("wrong first", func(t *testing.T) {
		x := start(t)
		x.batch(2)
		for _, first := range []proof.Index{0, 2, 4} {
			y := &suite{t: t, s: x.s, next: first, open: x.open}
			b := &ledger.Batch{First: first, Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{y.disclosure()}}}}
			if err := x.s.Commit(ctx, b); err == nil {
				t.Errorf("a batch at %d behind entry 2", first)
			}
		}
		if tail, err := x.s.Tail(ctx); err != nil || tail.Next != 3 || tail.Counts[proof.KindDisclosure] != 2 {
			t.Errorf("tail after refused batches: %+v, %v", tail, err)
		}
		if next, err := x.s.Next(ctx); err != nil || next != 3 {
			t.Errorf("next after refused batches: %d, %v", next, err)
		}
		x.batch(1)
	})
	t.Run("cancelled", func(t *testing.T) {
		x := start(t)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		y := &suite{t: t, s: x.s, next: x.next, open: x.open}
		leaf := y.disclosure()
		err := x.s.Commit(ended, &ledger.Batch{First: x.next, Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{leaf}}}})
		tail, terr := x.s.Tail(ctx)
		if terr != nil || err == nil && tail.Next != x.next+1 || tail.Next > x.next+1 {
			t.Errorf("commit with an ended context: %v, tail %d (%v)", err, tail.Next, terr)
		}
	})
	t.Run("epochs", func(t *testing.T) {
		x := start(t)
		x.batch(4)
		want := []*ledger.ClosedEpoch{x.turn(3), x.turn(0), x.turn(1)}
		for n, w := range want {
			got, err := x.s.Epoch(ctx, proof.Epoch(n))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(*w, got); d != "" {
				t.Errorf("epoch %d: %s", n, d)
			}
		}
		if _, err := x.s.Epoch(ctx, 3); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("the open epoch: %v", err)
		}
		if next, err := x.s.Next(ctx); err != nil || next != x.next {
			t.Errorf("next is %d (%v), want %d", next, err, x.next)
		}
		for _, l := range x.all {
			if e, err := x.s.EpochOf(ctx, l.Index); err != nil || e != l.Epoch {
				t.Errorf("epoch of %d is %d (%v), want %d", l.Index, e, err, l.Epoch)
			}
		}
		tail, err := x.s.Tail(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(ledger.Tail{Next: x.next, Open: x.open, Counts: map[proof.Kind]uint64{proof.KindEpoch: 1, proof.KindDisclosure: 1}}, tail); d != "" {
			t.Errorf("tail: %s", d)
		}
	})
	t.Run("filings", func(t *testing.T) {
		x := start(t)
		x.batch(10)
		a, b, c := proof.Label{3}, proof.Label{1}, proof.Label{3, 1}
		file := func(f ...ledger.Filing) {
			t.Helper()
			if err := x.s.File(ctx, 0, f); err != nil {
				t.Fatal(err)
			}
		}
		file()
		file(ledger.Filing{Index: 1, Label: a}, ledger.Filing{Index: 2, Label: b}, ledger.Filing{Index: 3, Label: a})
		file(ledger.Filing{Index: 4, Label: c}, ledger.Filing{Index: 5, Label: b})
		file(ledger.Filing{Index: 4, Label: c}, ledger.Filing{Index: 5, Label: b}) // again: an answer got lost
		collect := func(e proof.Epoch) (got []ledger.Filing) {
			t.Helper()
			if err := x.s.Filings(ctx, e, func(f ledger.Filing) error { got = append(got, f); return nil }); err != nil {
				t.Fatal(err)
			}
			return got
		}
		want := []ledger.Filing{{Index: 2, Label: b}, {Index: 5, Label: b}, {Index: 1, Label: a}, {Index: 3, Label: a}, {Index: 4, Label: c}}
		if d := cmp.Diff(want, collect(0)); d != "" {
			t.Errorf("filings: %s", d)
		}
		if d := cmp.Diff([]proof.Index{1, 3}, must(t)(x.s.Roll(ctx, 0, a))); d != "" {
			t.Errorf("roll: %s", d)
		}
		if r := must(t)(x.s.Roll(ctx, 0, proof.Label{9})); len(r) != 0 {
			t.Errorf("roll of nobody: %v", r)
		}
		if r := must(t)(x.s.Roll(ctx, 1, a)); len(r) != 0 {
			t.Errorf("roll in another epoch: %v", r)
		}
		stop := errors.New("stop")
		if err := x.s.Filings(ctx, 0, func(ledger.Filing) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("filings with a callback that fails: %v", err)
		}
		if got := collect(1); len(got) != 0 {
			t.Errorf("filings of another epoch: %v", got)
		}
		x.turn(1)
		if d := cmp.Diff(want, collect(0)); d != "" {
			t.Errorf("filings after the close: %s", d)
		}
	})
	t.Run("concurrent readers", func(t *testing.T) {
		x := start(t)
		done := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					tail, err := x.s.Tail(ctx)
					if err != nil {
						t.Errorf("tail: %v", err)
						return
					}
					var sum uint64
					for _, n := range tail.Counts {
						sum += n
					}
					if sum != uint64(tail.Next) {
						t.Errorf("a torn tail: %d entries, counts %v", tail.Next, tail.Counts)
						return
					}
					if err := x.s.Leaves(ctx, 0, tail.Next, func(ledger.Leaf) error { return nil }); err != nil {
						t.Errorf("leaves: %v", err)
						return
					}
				}
			})
		}
		for range 20 {
			x.batch(3, 1)
		}
		close(done)
		wg.Wait()
	})
}

func must(t *testing.T) func([]proof.Index, error) []proof.Index {
	return func(i []proof.Index, err error) []proof.Index {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
}

// TestUnfiled is the rest of the contract of a ledger.Store: attach makes what the store takes as the attachment of a group of one entry about s.
func TestUnfiled(t *testing.T, open func(t *testing.T) ledger.Store, attach func(t *testing.T, s proof.Subject) any) {
	ctx := context.Background()
	x := &suite{t: t, s: open(t)}
	x.first()
	check := func(limit int, want ...ledger.Unfiled) {
		t.Helper()
		got, err := x.s.Unfiled(ctx, 0, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%d unfiled entries, want %d", len(got), len(want))
		}
		for i := range got {
			if got[i].Index != want[i].Index || !got[i].Subject.Equal(want[i].Subject) {
				t.Errorf("unfiled %d: entry %d, want %d with its subject", i, got[i].Index, want[i].Index)
			}
		}
	}
	check(10)
	var all []ledger.Unfiled
	b := &ledger.Batch{First: x.next}
	for i := range 5 {
		s := Person(i % 3)
		leaf := x.disclosure()
		all = append(all, ledger.Unfiled{Index: leaf.Index, Subject: s})
		b.Groups = append(b.Groups, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf}, Attach: attach(t, s)})
	}
	text, err := proof.PolicyActivated{Revision: "r", Bundle: proof.Hash{1}}.AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Groups = append(b.Groups, ledger.PlacedGroup{Leaves: []ledger.Leaf{x.leaf(proof.KindPolicy, text)}})
	x.commit(b)
	check(10, all...)
	check(2, all[:2]...)
	if err := x.s.File(ctx, 0, []ledger.Filing{{Index: 1, Label: proof.Label{1}}, {Index: 2, Label: proof.Label{2}}}); err != nil {
		t.Fatal(err)
	}
	check(10, all[2:]...)
	if err := x.s.File(ctx, 0, []ledger.Filing{{Index: 3, Label: proof.Label{3}}, {Index: 4, Label: proof.Label{1}}, {Index: 5, Label: proof.Label{2}}}); err != nil {
		t.Fatal(err)
	}
	check(10)
}

package keystest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/regard-broker/regard/keys"
)

// Roles are Custodians of the same root keys, as different processes hold them: the broker wraps, the sequencer wraps and signs, the operator rotates and retires. They may be one.
type Roles struct {
	Broker, Sequencer, Operator keys.Custodian
}

// TestCustodian is the suite that every Custodian must pass. open makes new root keys each time.
func TestCustodian(t *testing.T, open func(t *testing.T) Roles) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Roles)
	}{
		{"RoundTrip", testRoundTrip},
		{"AssociatedData", testAssociatedData},
		{"Altered", testAltered},
		{"RotateWrap", testRotateWrap},
		{"Sign", testSign},
		{"RotateCheckpoint", testRotateCheckpoint},
		{"Concurrent", testConcurrent},
		{"Check", testCheck},
		{"Cancelled", testCancelled},
		{"Closed", testClosed},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func plains(tb testing.TB, n int) []keys.Plain {
	tb.Helper()
	out := make([]keys.Plain, n)
	for i := range out {
		if _, err := rand.Read(out[i].Key[:]); err != nil {
			tb.Fatal(err)
		}
		out[i].AD = fmt.Appendf(nil, "what key %d is for\x00\xff", i)
	}
	return out
}

func wrapAll(t *testing.T, c keys.Custodian, in []keys.Plain) []keys.WrappedAD {
	t.Helper()
	w, err := c.Wrap(context.Background(), slices.Clone(in))
	if err != nil {
		t.Fatalf("Wrap: %v", err)
	}
	if len(w) != len(in) {
		t.Fatalf("Wrap: %d results for %d keys", len(w), len(in))
	}
	out := make([]keys.WrappedAD, len(in))
	for i := range in {
		if bytes.Contains(w[i], in[i].Key[:]) {
			t.Fatalf("key %d stands in its wrapping", i)
		}
		out[i] = keys.WrappedAD{Wrapped: w[i], AD: in[i].AD}
	}
	return out
}

func unwrapAll(t *testing.T, c keys.Custodian, in []keys.WrappedAD, want []keys.Plain) {
	t.Helper()
	got, err := c.Unwrap(context.Background(), in)
	if err != nil {
		t.Fatalf("Unwrap: %v", err)
	}
	if len(got) != len(want) {
		t.Fatalf("Unwrap: %d results for %d keys", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i].Key {
			t.Errorf("key %d unwraps to another", i)
		}
	}
}

func testRoundTrip(t *testing.T, r Roles) {
	for _, n := range []int{0, 1, 3, 1100} {
		p := plains(t, n)
		w := wrapAll(t, r.Broker, p)
		unwrapAll(t, r.Sequencer, w, p)
	}
	p := plains(t, 1)
	p[0].AD = nil
	unwrapAll(t, r.Broker, wrapAll(t, r.Broker, p), p)
	a, b := wrapAll(t, r.Broker, p), wrapAll(t, r.Broker, p)
	if bytes.Equal(a[0].Wrapped, b[0].Wrapped) {
		t.Error("the same key wraps to the same bytes: it shows in the store")
	}
}

// bad demands that exactly the named items fail, with ErrAltered, and that the others are valid.
func bad(t *testing.T, c keys.Custodian, in []keys.WrappedAD, p []keys.Plain, items ...int) {
	t.Helper()
	got, err := c.Unwrap(context.Background(), in)
	var be *keys.BatchError
	if !errors.As(err, &be) || !errors.Is(err, keys.ErrAltered) {
		t.Fatalf("Unwrap: %v, want a BatchError", err)
	}
	if be.Size != len(in) || len(be.Items) != len(items) {
		t.Errorf("%d of %d items failed, want %d of %d", len(be.Items), be.Size, len(items), len(in))
	}
	for i := range in {
		switch slices.Contains(items, i) {
		case true:
			if !errors.Is(be.Items[i], keys.ErrAltered) {
				t.Errorf("item %d: %v, want ErrAltered", i, be.Items[i])
			}
			if i < len(got) && got[i] == p[i].Key {
				t.Errorf("item %d failed and gave the key", i)
			}
		default:
			if be.Items[i] != nil {
				t.Errorf("item %d: %v", i, be.Items[i])
			} else if len(got) != len(in) || got[i] != p[i].Key {
				t.Errorf("item %d is not valid beside a bad one", i)
			}
		}
	}
	if out, err := c.Rewrap(context.Background(), in); !errors.As(err, &be) || len(be.Items) != len(items) {
		t.Errorf("Rewrap: %d results, %v, want a BatchError of %d items", len(out), err, len(items))
	}
}

func testAssociatedData(t *testing.T, r Roles) {
	p := plains(t, 4)
	w := wrapAll(t, r.Broker, p)
	swapped := slices.Clone(w)
	swapped[1].AD, swapped[2].AD = w[2].AD, w[1].AD
	bad(t, r.Broker, swapped, p, 1, 2)
	none := slices.Clone(w)
	none[0].AD = nil
	bad(t, r.Broker, none, p, 0)
	longer := slices.Clone(w)
	longer[3].AD = append(slices.Clone(w[3].AD), 0)
	bad(t, r.Broker, longer, p, 3)
	bad(t, r.Broker, []keys.WrappedAD{{Wrapped: w[0].Wrapped, AD: []byte("x")}}, p[:1], 0) // all of a batch
	unwrapAll(t, r.Broker, w, p)
}

func testAltered(t *testing.T, r Roles) {
	p := plains(t, 1)
	w := wrapAll(t, r.Broker, p)
	whole := w[0].Wrapped
	for i := range whole {
		b := slices.Clone(whole)
		b[i] ^= 0x04
		got, err := r.Broker.Unwrap(context.Background(), []keys.WrappedAD{{Wrapped: b, AD: p[0].AD}})
		if !errors.Is(err, keys.ErrAltered) || len(got) > 0 && got[0] == p[0].Key {
			t.Fatalf("byte %d altered: %v, want ErrAltered", i, err)
		}
	}
	for _, b := range [][]byte{nil, {}, {0}, whole[:len(whole)-1], append(slices.Clone(whole), 0), []byte("vault:v1:"), []byte("\"}]}"), bytes.Repeat([]byte{0xff}, 500)} {
		bad(t, r.Broker, []keys.WrappedAD{w[0], {Wrapped: b, AD: p[0].AD}}, []keys.Plain{p[0], p[0]}, 1)
	}
}

func testRotateWrap(t *testing.T, r Roles) {
	ctx := context.Background()
	p := plains(t, 3)
	old := wrapAll(t, r.Broker, p)
	v, err := r.Operator.Rotate(ctx, keys.RootWrap)
	if err != nil || v != 2 {
		t.Fatalf("Rotate: version %d, %v; want 2", v, err)
	}
	unwrapAll(t, r.Broker, old, p)
	out, err := r.Broker.Rewrap(ctx, old)
	if err != nil || len(out) != len(old) {
		t.Fatalf("Rewrap: %d results, %v", len(out), err)
	}
	fresh := make([]keys.WrappedAD, len(out))
	for i := range out {
		if bytes.Equal(out[i], old[i].Wrapped) {
			t.Errorf("key %d was not rewrapped", i)
		}
		fresh[i] = keys.WrappedAD{Wrapped: out[i], AD: old[i].AD}
	}
	unwrapAll(t, r.Sequencer, fresh, p)
	again, err := r.Broker.Rewrap(ctx, fresh)
	if err != nil || !slices.EqualFunc(again, out, func(a, b keys.Wrapped) bool { return bytes.Equal(a, b) }) {
		t.Errorf("rewrapping what is at the newest version changed it (%v)", err)
	}
	for oldest, says := range map[int]string{3: "version 2 is the newest", 10: "there is no version 9: the newest is 2", 0: "version 0 can't be the oldest"} {
		if err := r.Operator.Retire(ctx, keys.RootWrap, oldest); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("version %d became the oldest: got %v, want %q", oldest, err, says)
		}
	}
	if err := r.Operator.Retire(ctx, keys.RootWrap, 2); err != nil {
		t.Fatalf("Retire: %v", err)
	}
	if err := r.Broker.Check(ctx); err != nil {
		t.Fatalf("Check after Retire: %v", err)
	}
	bad(t, r.Broker, []keys.WrappedAD{old[0], fresh[1]}, p[:2], 0)
	unwrapAll(t, r.Broker, fresh, p)
	if _, err := r.Operator.Rotate(ctx, "nonsense"); err == nil {
		t.Error("rotated a key that isn't there")
	}
}

func testSign(t *testing.T, r Roles) {
	ctx := context.Background()
	pk, err := r.Sequencer.PublicKeys(ctx)
	if err != nil || len(pk) != 1 || pk[0].Version != 1 || pk[0].Created.IsZero() {
		t.Fatalf("PublicKeys: %v, %v; want version 1 alone", pk, err)
	}
	for _, msg := range [][]byte{nil, []byte("example.org/log\n1\nAAAA\n"), bytes.Repeat([]byte("x"), 10000)} {
		for _, version := range []int{0, 1} {
			sig, err := r.Sequencer.Sign(ctx, version, msg)
			if err != nil {
				t.Fatalf("Sign: %v", err)
			}
			if !ed25519.Verify(pk[0].Key, msg, sig) {
				t.Errorf("version %d: the signature of %d bytes doesn't verify", version, len(msg))
			}
		}
	}
	if _, err := r.Sequencer.Sign(ctx, 7, []byte("x")); !errors.Is(err, keys.ErrDenied) {
		t.Errorf("signing with a version that isn't there: %v, want ErrDenied", err)
	}
}

func testRotateCheckpoint(t *testing.T, r Roles) {
	ctx, msg := context.Background(), []byte("checkpoint")
	before, err := r.Sequencer.PublicKeys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := r.Operator.Rotate(ctx, keys.RootCheckpoint); err != nil || v != 2 {
		t.Fatalf("Rotate: version %d, %v; want 2", v, err)
	}
	pk, err := r.Sequencer.PublicKeys(ctx)
	if err != nil || len(pk) != 2 || pk[0].Version != 2 || pk[1].Version != 1 {
		t.Fatalf("PublicKeys after a rotation: %d keys, %v; want versions 2 and 1", len(pk), err)
	}
	if !pk[1].Key.Equal(before[0].Key) || pk[0].Key.Equal(pk[1].Key) {
		t.Error("the versions' keys aren't the old one and a new one")
	}
	for i, version := range []int{2, 1} {
		if sig, err := r.Sequencer.Sign(ctx, version, msg); err != nil || !ed25519.Verify(pk[i].Key, msg, sig) {
			t.Errorf("version %d doesn't sign during the overlap: %v", version, err)
		}
	}
	if sig, err := r.Sequencer.Sign(ctx, 0, msg); err != nil || !ed25519.Verify(pk[0].Key, msg, sig) {
		t.Errorf("version 0 isn't the newest: %v", err)
	}
	if err := r.Operator.Retire(ctx, keys.RootCheckpoint, 2); err != nil {
		t.Fatalf("Retire: %v", err)
	}
	if after, err := r.Sequencer.PublicKeys(ctx); err != nil || len(after) != 1 || !after[0].Key.Equal(pk[0].Key) {
		t.Errorf("PublicKeys after Retire: %d keys, %v; want the new one", len(after), err)
	}
	if _, err := r.Sequencer.Sign(ctx, 1, msg); !errors.Is(err, keys.ErrDenied) {
		t.Errorf("a retired version signs: %v, want ErrDenied", err)
	}
}

func testConcurrent(t *testing.T, r Roles) {
	ctx := context.Background()
	p := plains(t, 8)
	w := wrapAll(t, r.Broker, p)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 5 {
				got, err := r.Broker.Unwrap(ctx, w[i:i+1])
				if err != nil || got[0] != p[i].Key {
					t.Errorf("Unwrap: %v", err)
				}
				if _, err := r.Broker.Wrap(ctx, []keys.Plain{p[i]}); err != nil {
					t.Errorf("Wrap: %v", err)
				}
				if _, err := r.Sequencer.Sign(ctx, 0, p[i].AD); err != nil {
					t.Errorf("Sign: %v", err)
				}
			}
		})
	}
	wg.Go(func() {
		if _, err := r.Operator.Rotate(ctx, keys.RootWrap); err != nil {
			t.Errorf("Rotate: %v", err)
		}
	})
	wg.Wait()
	unwrapAll(t, r.Broker, w, p)
}

func testCheck(t *testing.T, r Roles) {
	for _, c := range []keys.Custodian{r.Broker, r.Sequencer} {
		if err := c.Check(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

func testCancelled(t *testing.T, r Roles) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Broker.Wrap(ctx, plains(t, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("Wrap: %v, want context.Canceled", err)
	}
}

func testClosed(t *testing.T, r Roles) {
	ctx := context.Background()
	p := plains(t, 1)
	w := wrapAll(t, r.Sequencer, p)
	if err := r.Sequencer.Close(); err != nil {
		t.Fatal(err)
	}
	_, e1 := r.Sequencer.Wrap(ctx, p)
	_, e2 := r.Sequencer.Unwrap(ctx, w)
	_, e3 := r.Sequencer.Rewrap(ctx, w)
	_, e4 := r.Sequencer.Sign(ctx, 0, nil)
	_, e5 := r.Sequencer.PublicKeys(ctx)
	_, e6 := r.Sequencer.Rotate(ctx, keys.RootWrap)
	e7 := r.Sequencer.Retire(ctx, keys.RootWrap, 1)
	e8 := r.Sequencer.Check(ctx)
	for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8} {
		if !errors.Is(err, keys.ErrClosed) {
			t.Errorf("call %d after Close: %v, want ErrClosed", i+1, err)
		}
	}
	if err := r.Sequencer.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

package keys_test

import (
	"context"
	"syscall"
	"testing"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
)

// nothing is a store that knows nobody: what is measured is this package, not a store.
type nothing struct{ *keystest.Store }

func (n nothing) LoadKeys(ctx context.Context, kind keys.Kind, o keys.Owner, period string) ([]keys.StoredKey, error) {
	if kind == keys.KindSubject {
		return nil, nil
	}
	return n.Store.LoadKeys(ctx, kind, o, period)
}

// BenchmarkRelease is what a request about a new person costs here: owner, key, two parts sealed, answer sealed and opened.
func BenchmarkRelease(b *testing.B) {
	r := keystest.NewRing(b, keys.Config{Store: nothing{keystest.NewStore()}})
	v := verified(b, r, proof.Commitment{1})
	set, err := v.Set()
	if err != nil {
		b.Fatal(err)
	}
	s, err := proof.SIREN(bob)
	if err != nil {
		b.Fatal(err)
	}
	person, admin, answer, ad := make([]byte, 300), make([]byte, 1500), make([]byte, 2000), make([]byte, 24)
	now := newClock().now()
	run := func(fail func(...any)) {
		o, err := r.Owner(s)
		if err != nil {
			fail(err)
		}
		k, fresh, err := r.SubjectKey(ctx, o)
		if err != nil || fresh == nil {
			fail("not fresh", err)
		}
		if _, err := r.SealPerson(k, ad, person); err != nil {
			fail(err)
		}
		if _, err := r.SealAdmin(ctx, now, ad, admin); err != nil {
			fail(err)
		}
		sealed, err := r.SealPayload(ctx, set, answer)
		if err != nil {
			fail(err)
		}
		if _, err := r.OpenPayload(ctx, sealed, v); err != nil {
			fail(err)
		}
	}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		defer cpu(b)()
		for b.Loop() {
			run(b.Fatal)
		}
	})
	b.Run("many", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32)
		defer cpu(b)()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				run(b.Error)
			}
		})
	})
}

func BenchmarkSubjectKeyCached(b *testing.B) {
	x := newBench(b)
	o := x.owner(b, alice)
	x.seal(b, x.ring, o, "x")
	b.ReportAllocs()
	for b.Loop() {
		if _, fresh, err := x.ring.SubjectKey(ctx, o); err != nil || fresh != nil {
			b.Fatal("not cached", err)
		}
	}
}

// cpu reports the processor time of an operation, which other processes on the machine change less than the time that passes.
func cpu(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	start := used()
	return func() { b.ReportMetric(float64(used()-start)/float64(b.N), "cpu-ns/op") }
}

package policy

import (
	"fmt"
	"syscall"
	"testing"
)

// BenchmarkDecideGrant is a disclosure's: 10,000 agreements exist, as the broker keeps them, and each request relies on another.
func BenchmarkDecideGrant(b *testing.B) { benchmarkDecide(b, func(*Input) {}) }

func BenchmarkDecideRefusal(b *testing.B) {
	benchmarkDecide(b, func(in *Input) { in.Purpose = "curiosite" })
}

func benchmarkDecide(b *testing.B, change func(*Input)) {
	e := newEngine(b, Config{})
	inputs := make([]Input, 10_000)
	for i := range inputs {
		inputs[i] = fixtureInput()
		a := fixtureAgreement()
		a.ID = AgreementID(fmt.Sprintf("agreement-%d", i))
		inputs[i].rely(a)
		change(&inputs[i])
	}
	b.ReportAllocs()
	before, i := cpuTime(b), 0
	for b.Loop() {
		if _, err := e.Decide(b.Context(), inputs[i%len(inputs)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
	// Of all threads, so with the collector's work; what others do on the machine disturbs it less than the time that passes.
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkDecideFresh decides on a goroutine that has just begun, as those of connections do after each garbage collection.
func BenchmarkDecideFresh(b *testing.B) {
	e, in, done := newEngine(b, Config{}), fixtureInput(), make(chan error)
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		go func() {
			_, err := e.Decide(b.Context(), in)
			done <- err
		}()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkCanonical(b *testing.B) {
	in := fixtureInput()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := in.Canonical(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReplay(b *testing.B) {
	r, err := NewReplayer(b.Context(), builtin(b).Bytes())
	if err != nil {
		b.Fatal(err)
	}
	input := []byte(canonicalInput)
	for b.Loop() {
		if _, err := r.Replay(b.Context(), input); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReload(b *testing.B) {
	for b.Loop() {
		if _, _, err := prepare(b.Context(), builtin(b), 1e9); err != nil {
			b.Fatal(err)
		}
	}
}

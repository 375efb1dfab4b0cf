package policy

import "testing"

func BenchmarkDecideGrant(b *testing.B) { benchmarkDecide(b, fixtureInput()) }

func BenchmarkDecideRefusal(b *testing.B) {
	in := fixtureInput()
	in.Purpose = "curiosite"
	benchmarkDecide(b, in)
}

func benchmarkDecide(b *testing.B, in Input) {
	e := newEngine(b, Config{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Decide(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
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

func BenchmarkValue(b *testing.B) {
	n, err := fixtureInput().normal()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		n.value()
	}
}

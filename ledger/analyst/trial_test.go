package analyst

import (
	"math"
	"math/rand/v2"
	"testing"
)

// population is a trial of units with a hidden trait, in blocks of eight; how much of the trait shows is the caller's affair.
func population(rng *rand.Rand, shows float64) trial {
	const n = 800
	t := trial{name: "test", block: make([]int, n)}
	value := make([]float64, n)
	for i := range n {
		t.block[i] = i / 8
		value[i] = rng.NormFloat64() + shows*float64(i%20)
	}
	for i := range n {
		for j := i + 20; j < n && j < i+100; j += 20 {
			t.pairs = append(t.pairs, [2]int{i, j})
		}
	}
	t.score = func(i, j int) float64 { return -math.Abs(value[i] - value[j]) }
	return t
}

// Without a connection the scores are as the bound of alarm supposes, and half of the pairs win; with one they aren't.
func TestTrial(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var sum, square, auc float64
	const runs = 60
	for range runs {
		r := trialOf(population(rng, 0), rng)
		sum, square, auc = sum+r.Z, square+r.Z*r.Z, auc+r.AUC
		if r.Found() {
			t.Errorf("a false alarm: %+v", r)
		}
	}
	if mean, sd := sum/runs, math.Sqrt(square/runs); math.Abs(mean) > 0.5 || sd < 0.7 || sd > 1.35 || math.Abs(auc/runs-0.5) > 0.01 {
		t.Errorf("by chance: mean %.2f, deviation %.2f, AUC %.3f", mean, sd, auc/runs)
	}
	if r := trialOf(population(rng, 0.2), rng); !r.Found() || r.AUC < 0.55 {
		t.Errorf("a trait that shows isn't found: %+v", r)
	}
}

func trialOf(t trial, rng *rand.Rand) Result { return t.run(rng) }

// What can't be exchanged, or isn't different, is no evidence; what never comes about by chance is.
func TestTrialAtTheEdges(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	one := func(i, j int) float64 { return 1 }
	for name, x := range map[string]trial{
		"nothing":      {},
		"fixed":        {block: []int{-1, -1}, pairs: [][2]int{{0, 1}}, score: one},
		"alone":        {block: []int{0, 1}, pairs: [][2]int{{0, 1}}, score: one},
		"no pairs":     {block: []int{0, 0}, score: one},
		"all the same": {block: []int{0, 0}, pairs: [][2]int{{0, 1}}, score: one},
	} {
		if r := x.run(rng); r.Found() || r.AUC != 0.5 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// Pairs that share what nobody else does, in blocks of many: no exchange brings it about.
	x := trial{block: make([]int, 4000), score: func(i, j int) float64 {
		if j == i+1 && i%1000 == 0 {
			return 1
		}
		return 0
	}}
	for i := 0; i < 4000; i += 1000 {
		x.pairs = append(x.pairs, [2]int{i, i + 1})
	}
	if r := x.run(rng); !r.Found() {
		t.Errorf("what never happens by chance isn't found: %+v", r)
	}
}

func TestRollSizes(t *testing.T) {
	s := RollSizes([]int{1, 2, 3, 4, 5, 8, 9, 16})
	if s.Rolls != 8 || s.Exact != 3 || s.Padded != 0.5 || s.Shown != 1.5 {
		t.Errorf("%+v", s)
	}
	if s := RollSizes(nil); s != (Sizes{}) {
		t.Errorf("of nothing: %+v", s)
	}
}

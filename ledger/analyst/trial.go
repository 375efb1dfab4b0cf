package analyst

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
)

// Result says how well a linker did.
type Result struct {
	Linker string
	// Pairs that belong together.
	Pairs int
	// AUC is the chance that a pair that belongs together scores higher than the same pair after the exchange; one half is chance.
	AUC float64
	// Z is how many standard deviations the pairs score above what they would by chance; beyond Alarm, either way, the linker has found something.
	Z float64
}

// Alarm is the bound of Result.Z. A score by chance is as good as normally distributed here, sums of hundreds of pairs: one beyond comes about once in 10^10 trials, so that all trials of all runs of a test together
// raise no false alarm in the life of a project.
const Alarm = 6.5

// Found reports whether the linker did otherwise than by chance.
func (r Result) Found() bool { return math.Abs(r.Z) > Alarm }

// trial is a test of one linker by permutation.
type trial struct {
	name string
	// block of a unit: the units of a block are exchanged among each other; those of block -1 stay.
	block []int
	// pairs of units that belong together. A pair of a unit with itself tests a unit's own score.
	pairs [][2]int
	score func(i, j int) float64
}

// rounds of exchange; the standard deviation is then known to 7 %.
const rounds = 100

func (t *trial) run(rng *rand.Rand) Result {
	r := Result{Linker: t.name, Pairs: len(t.pairs), AUC: 0.5}
	blocks := map[int][]int{}
	for i, b := range t.block {
		if b >= 0 {
			blocks[b] = append(blocks[b], i)
		}
	}
	moves := false
	place := make([]int, len(t.block))
	for i := range place {
		place[i] = i
	}
	var order [][]int
	for _, b := range slices.Sorted(maps.Keys(blocks)) { // in a fixed order, so that a run can be repeated
		if units := blocks[b]; len(units) > 1 {
			order, moves = append(order, units), true
		}
	}
	if !moves || len(t.pairs) == 0 {
		return r
	}
	real := make([]float64, len(t.pairs))
	total := 0.0
	for k, p := range t.pairs {
		real[k] = t.score(p[0], p[1])
		total += real[k]
	}
	var wins, mean, square float64
	for round := range rounds {
		for _, units := range order {
			rng.Shuffle(len(units), func(i, j int) { place[units[i]], place[units[j]] = place[units[j]], place[units[i]] })
		}
		sum := 0.0
		for k, p := range t.pairs {
			s := t.score(place[p[0]], place[p[1]])
			sum += s
			switch {
			case real[k] > s:
				wins++
			case real[k] == s:
				wins += 0.5
			}
		}
		// Welford's update.
		d := sum - mean
		mean += d / float64(round+1)
		square += d * (sum - mean)
	}
	r.AUC = wins / float64(rounds*len(t.pairs))
	switch sd := math.Sqrt(square / (rounds - 1)); {
	case sd > 1e-9*(1+math.Abs(mean)):
		r.Z = (total - mean) / sd
	case math.Abs(total-mean) > 1e-6*(1+math.Abs(mean)): // never so by chance
		r.Z = math.Copysign(math.Inf(1), total-mean)
	}
	return r
}

package analyst

import "math"

// Sizes says what the size of rolls gives away, which a settled receipt shows: the number of entries about its person in that epoch, rounded up to a power of two of at least 4.
type Sizes struct {
	Rolls int
	// Exact and Shown are the entropies, in bits, of the number of a person's entries and of what is shown of it.
	Exact, Shown float64
	// Padded is the share of rolls of the smallest size, about which a receipt says nothing but "from 1 to 4".
	Padded float64
}

// RollSizes computes it from the numbers of entries of all rolls.
func RollSizes(counts []int) Sizes {
	s := Sizes{Rolls: len(counts)}
	exact, shown := map[int]int{}, map[int]int{}
	for _, n := range counts {
		size := 4
		for size < n {
			size *= 2
		}
		exact[n]++
		shown[size]++
	}
	entropy := func(of map[int]int) (h float64) {
		for _, n := range of {
			p := float64(n) / float64(len(counts))
			h -= p * math.Log2(p)
		}
		return h
	}
	if s.Rolls > 0 {
		s.Exact, s.Shown, s.Padded = entropy(exact), entropy(shown), float64(shown[4])/float64(len(counts))
	}
	return s
}

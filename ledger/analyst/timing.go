package analyst

import "github.com/regard-broker/regard/ledger/proof"

// Batch says what the batches of one size give away to whoever knows where a batch begins and ends: from the times at which checkpoints appeared, or from the receipts of requests in a row.
type Batch struct {
	Batches int
	// Requests in all of them, of which Several identified more than one person.
	Requests, Several int
	// Right and Pairs: of all pairs of disclosures in a batch those that belong to one request.
	Right, Pairs int
}

// Chance is how often the guess is right that two disclosures of a batch belong to one request, so that the two people live together.
func (b Batch) Chance() float64 { return float64(b.Right) / float64(max(1, b.Pairs)) }

// Batches counts them by the number of requests in a batch. Link leaves this out: it is what time says, and no place in a batch adds to it.
func Batches(v *View, t *Truth) map[int]Batch {
	out := map[int]Batch{}
	for first := 0; first < len(v.Entries); {
		end := first + v.Entries[first].Of
		of := map[int]int{} // disclosures of a request
		n := 0
		for i := first; i < end; i++ {
			if v.Entries[i].Kind == proof.KindDisclosure && t.Disclosure[i] >= 0 {
				of[t.Disclosure[i]]++
				n++
			}
		}
		if len(of) > 0 {
			b := out[len(of)]
			b.Batches++
			b.Requests += len(of)
			b.Pairs += n * (n - 1) / 2
			for _, k := range of {
				b.Right += k * (k - 1) / 2
				if k > 1 {
					b.Several++
				}
			}
			out[len(of)] = b
		}
		first = end
	}
	return out
}

// Delays counts the batches with entries of a kind, deferred@v1 or opened@v1, and those in which all of them are of one request: there their number is how many people it concerned.
func Delays(v *View, t *Truth, kind proof.Kind) (batches, single int) {
	for first := 0; first < len(v.Entries); {
		end := first + v.Entries[first].Of
		requests := map[int]bool{}
		for i := first; i < end; i++ {
			if v.Entries[i].Kind == kind {
				requests[t.Disclosure[i]] = true
			}
		}
		if len(requests) > 0 {
			batches++
		}
		if len(requests) == 1 {
			single++
		}
		first = end
	}
	return batches, single
}

// Looks counts the batches with access@v1 entries, and those in which all of them are about one person: there their number is how many of that person's records somebody opened.
func Looks(v *View, t *Truth) (batches, single int) {
	for first := 0; first < len(v.Entries); {
		end := first + v.Entries[first].Of
		people := map[int]bool{}
		for i := first; i < end; i++ {
			if v.Entries[i].Kind == proof.KindAccess {
				people[t.Person[i]] = true
			}
		}
		if len(people) > 0 {
			batches++
		}
		if len(people) == 1 {
			single++
		}
		first = end
	}
	return batches, single
}

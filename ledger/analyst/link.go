package analyst

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/regard-broker/regard/ledger/proof"
)

// maxPairs bounds the pairs of a trial.
const maxPairs = 1500

// Link plays the linkers of these names, or every one if none is named, and says how each did. The seed is that of the exchanges, so that a result can be had again.
func Link(v *View, t *Truth, seed uint64, names ...string) []Result {
	l := &linking{v: v, t: t, names: names, rng: rand.New(rand.NewPCG(seed, 0))} // #nosec G404 -- chooses what is compared with what
	l.held = v.held()
	l.heldItem = make([]bool, len(v.Items))
	for _, h := range v.Held {
		if h.Item >= 0 {
			l.heldItem[h.Item] = true
		}
	}
	l.entries()
	l.labels()
	l.filing()
	l.places()
	return l.out
}

type linking struct {
	v        *View
	t        *Truth
	names    []string
	rng      *rand.Rand
	held     []bool // entries of the agency
	heldItem []bool
	out      []Result
}

func (l *linking) wanted(name string) bool {
	return len(l.names) == 0 || slices.Contains(l.names, name)
}

func (l *linking) try(t trial) {
	if !l.wanted(t.name) {
		return
	}
	if len(t.pairs) > maxPairs {
		l.rng.Shuffle(len(t.pairs), func(i, j int) { t.pairs[i], t.pairs[j] = t.pairs[j], t.pairs[i] })
		t.pairs = t.pairs[:maxPairs]
	}
	l.out = append(l.out, t.run(l.rng))
}

// alike is how alike two values are: the number of bits in which they agree.
func alike(a, b [32]byte) float64 {
	n := 256
	for i := range a {
		n -= bits.OnesCount8(a[i] ^ b[i])
	}
	return float64(n)
}

// sameBytes is the number of bytes in which two values agree, each where it stands.
func sameBytes(a, b [32]byte) (n float64) {
	for i := range a {
		if a[i] == b[i] {
			n++
		}
	}
	return n
}

// scores compare two values that nobody should be able to compare.
var scores = []struct {
	name string
	of   func(a, b [32]byte) float64
}{
	{"bits in common", alike},
	{"bytes in common", sameBytes},
	{"byte sums", func(a, b [32]byte) float64 {
		d := 0
		for i := range a {
			d += int(a[i]) - int(b[i])
		}
		return -math.Abs(float64(d))
	}},
}

// groups lists the units of each group; -1 is none.
func groups(of []int) map[int][]int {
	out := map[int][]int{}
	for i, g := range of {
		if g >= 0 {
			out[g] = append(out[g], i)
		}
	}
	return out
}

// pairsOf gives all pairs within groups that are wanted, in a fixed order; of a large group those of each unit with the next few.
func pairsOf(of []int, want func(i, j int) bool) (out [][2]int) {
	by := groups(of)
	for i, g := range of {
		if g < 0 {
			continue
		}
		n := 0
		for _, j := range by[g] {
			if j > i && n < 16 && want(i, j) {
				out = append(out, [2]int{i, j})
				n++
			}
		}
	}
	return out
}

// batches are the blocks of entries: those about people, of one kind, in one batch (the kind is public). fixed ones stay where they are.
func (l *linking) batches(fixed func(i int) bool) []int {
	ids := map[[2]any]int{}
	out := make([]int, len(l.v.Entries))
	for i := range out {
		e := &l.v.Entries[i]
		if out[i] = -1; !e.Kind.Filed() && e.Kind != proof.KindDeferred || fixed(i) {
			continue
		}
		k := [2]any{e.Batch, e.Kind}
		if _, ok := ids[k]; !ok {
			ids[k] = len(ids)
		}
		out[i] = ids[k]
	}
	return out
}

// entries asks whether what stands in an entry says who it is about: among strangers' entries, and beside the agency's own, whose persons it knows.
func (l *linking) entries() {
	v, t := l.v, l.t
	// A delayed entry and the one that ends its delay have one commitment, as the latter says: it is compared where it is opened.
	opened := slices.Clone(t.Person)
	for i := range opened {
		if v.Entries[i].Kind == proof.KindDeferred {
			opened[i] = -1
		}
	}
	free := l.batches(func(i int) bool { return l.held[i] })
	for _, feature := range []struct {
		name   string
		person []int
		of     func(i int) [32]byte
	}{
		{"commitments", opened, func(i int) [32]byte { return v.Entries[i].Commitment }},
		{"leaf hashes", t.Person, func(i int) [32]byte { return proof.LeafHash(v.Entries[i].Text) }},
		{"identities", t.Person, func(i int) [32]byte { return v.Entries[i].Identity }},
	} {
		values := make([][32]byte, len(v.Entries))
		for i := range values {
			values[i] = feature.of(i)
		}
		among := l.strangers(feature.person)
		beside := pairsOf(feature.person, func(i, j int) bool { return l.held[i] != l.held[j] })
		family := pairsOf(l.households(feature.person), func(i, j int) bool {
			return t.Person[i] != t.Person[j] && v.Entries[i].Batch != v.Entries[j].Batch
		})
		for _, s := range scores {
			score := func(i, j int) float64 { return s.of(values[i], values[j]) }
			l.try(trial{feature.name + ": " + s.name + ", same person", free, among, score})
			l.try(trial{feature.name + ": " + s.name + ", person of a receipt", free, beside, score})
			l.try(trial{feature.name + ": " + s.name + ", same household", free, family, score})
		}
		l.learned(feature.name+": learned bits, same person", values, feature.person, l.held, l.batches, among)
		l.nearest(feature.name+": nearest of a receipt's person", values, feature.person)
	}
	l.try(trial{"texts: length, same person", free, l.strangers(t.Person), func(i, j int) float64 {
		return -math.Abs(float64(len(v.Entries[i].Text) - len(v.Entries[j].Text)))
	}})
}

// strangers are the pairs of one person's entries, of different requests, of which the agency has none.
func (l *linking) strangers(person []int) [][2]int {
	return pairsOf(person, func(i, j int) bool { return !l.held[i] && !l.held[j] && l.t.Disclosure[i] != l.t.Disclosure[j] })
}

// households of units, by their persons.
func (l *linking) households(person []int) []int {
	out := make([]int, len(person))
	for i, p := range person {
		if out[i] = -1; p >= 0 {
			out[i] = l.t.Household[p]
		}
	}
	return out
}

// nearest compares an entry with all that the agency has about a person, and takes the best.
func (l *linking) nearest(name string, values [][32]byte, person []int) {
	known := map[int][]int{}
	for i, p := range person {
		if l.held[i] && p >= 0 {
			known[p] = append(known[p], i)
		}
	}
	// A unit for each person beside those of the entries.
	block := l.batches(func(i int) bool { return l.held[i] })
	people := map[int]int{}
	var who []int
	var pairs [][2]int
	for i, p := range person {
		if p < 0 || l.held[i] || len(known[p]) == 0 {
			continue
		}
		if _, ok := people[p]; !ok {
			people[p] = len(block)
			block, who = append(block, -1), append(who, p)
		}
		pairs = append(pairs, [2]int{people[p], i})
	}
	l.try(trial{name, block, pairs, func(p, i int) float64 {
		best := 0.0
		for _, k := range known[who[p-len(values)]] {
			best = max(best, alike(values[k], values[i]))
		}
		return best
	}})
}

// learned learns from one half of the people in which bits two values of one person agree more often or less often than others, and tries it on the other half.
func (l *linking) learned(name string, values [][32]byte, person []int, held []bool, blocks func(func(int) bool) []int, pairs [][2]int) {
	if !l.wanted(name) {
		return
	}
	known := func(i int) bool { return person[i] >= 0 && person[i]%2 == 0 }
	var test [][2]int
	var n float64
	var agree, chance [256]float64
	rng := l.rng
	for _, p := range pairs {
		if !known(p[0]) {
			test = append(test, p)
			continue
		}
		n++
		q := pairs[rng.IntN(len(pairs))]
		for b := range 256 {
			bit := func(i int) byte { return values[i][b/8] >> (b % 8) & 1 }
			if bit(p[0]) == bit(p[1]) {
				agree[b]++
			}
			if bit(p[0]) == bit(q[1]) {
				chance[b]++
			}
		}
	}
	var weight [256][2]float64 // by: disagree, agree
	for b := range weight {
		a, c := (agree[b]+1)/(n+2), (chance[b]+1)/(n+2)
		weight[b] = [2]float64{math.Log((1 - a) / (1 - c)), math.Log(a / c)}
	}
	l.try(trial{name, blocks(func(i int) bool { return known(i) || held[i] }), test, func(i, j int) float64 {
		s := 0.0
		for k := range 32 {
			x := ^(values[i][k] ^ values[j][k])
			for b := range 8 {
				s += weight[8*k+b][x>>b&1]
			}
		}
		return s
	}})
}

// epochs are the blocks of items.
func (l *linking) epochs(fixed func(i int) bool) []int {
	out := make([]int, len(l.v.Items))
	for i := range out {
		if out[i] = int(l.v.Items[i].Epoch); fixed(i) {
			out[i] = -1
		}
	}
	return out
}

// labels asks whether labels and rolls of different epochs say that they are the same person's, and those of one epoch that they live together.
func (l *linking) labels() {
	v, t := l.v, l.t
	among := pairsOf(t.ItemPerson, func(i, j int) bool { return !l.heldItem[i] && !l.heldItem[j] })
	beside := pairsOf(t.ItemPerson, func(i, j int) bool { return l.heldItem[i] != l.heldItem[j] })
	family := pairsOf(l.households(t.ItemPerson), func(i, j int) bool { return v.Items[i].Epoch == v.Items[j].Epoch })
	free := l.epochs(func(i int) bool { return l.heldItem[i] })
	for _, feature := range []struct {
		name string
		of   func(i int) [32]byte
	}{
		{"labels", func(i int) [32]byte { return v.Items[i].Label }},
		{"roll roots", func(i int) [32]byte { return v.Items[i].Root }},
	} {
		values := make([][32]byte, len(v.Items))
		for i := range values {
			values[i] = feature.of(i)
		}
		for _, s := range scores {
			score := func(i, j int) float64 { return s.of(values[i], values[j]) }
			l.try(trial{feature.name + ": " + s.name + ", same person in other epochs", free, among, score})
			l.try(trial{feature.name + ": " + s.name + ", person of a receipt in other epochs", free, beside, score})
			l.try(trial{feature.name + ": " + s.name + ", same household", free, family, score})
		}
		l.learned(feature.name+": learned bits, same person in other epochs", values, t.ItemPerson, l.heldItem, l.epochs, among)
	}
	near := func(i, j int) float64 {
		a, b := &v.Items[i], &v.Items[j]
		return -math.Abs(float64(a.Rank)/float64(a.Of) - float64(b.Rank)/float64(b.Of))
	}
	l.try(trial{"index: neighbours, same person in other epochs", free, among, near})
	l.try(trial{"index: neighbours, same household", free, family, near})
}

// filing asks whether anything says in which roll an entry stands.
func (l *linking) filing() {
	v, t := l.v, l.t
	n := len(v.Entries)
	block := make([]int, n, n+len(v.Items))
	for i := range block {
		block[i] = -1
	}
	block = append(block, l.epochs(func(i int) bool { return l.heldItem[i] })...)
	var pairs [][2]int
	for i, it := range t.Item {
		if it >= 0 && !l.held[i] {
			pairs = append(pairs, [2]int{i, n + it})
		}
	}
	first, size := map[proof.Epoch]float64{}, map[proof.Epoch]float64{}
	for i := range v.Entries {
		e := &v.Entries[i]
		if size[e.Epoch] == 0 {
			first[e.Epoch] = float64(i)
		}
		size[e.Epoch]++
	}
	for _, f := range []struct {
		name string
		of   func(e *Entry, it *Item) float64
	}{
		{"filing: commitment and label", func(e *Entry, it *Item) float64 { return alike(e.Commitment, it.Label) }},
		{"filing: commitment and roll root", func(e *Entry, it *Item) float64 { return alike(e.Commitment, it.Root) }},
		{"filing: commitment's bytes and label's", func(e *Entry, it *Item) float64 { return sameBytes(e.Commitment, it.Label) }},
		{"filing: leaf hash and roll root", func(e *Entry, it *Item) float64 { return alike(proof.LeafHash(e.Text), it.Root) }},
		{"filing: identity and label", func(e *Entry, it *Item) float64 { return alike(e.Identity, it.Label) }},
		{"filing: place in the log and in the index", func(e *Entry, it *Item) float64 {
			return -math.Abs((float64(e.Index)-first[e.Epoch])/size[e.Epoch] - float64(it.Rank)/float64(it.Of))
		}},
	} {
		l.try(trial{f.name, block, pairs, func(i, j int) float64 { return f.of(&v.Entries[i], &v.Items[j-n]) }})
	}
}

// places asks whether the place within a batch says anything.
func (l *linking) places() {
	v, t := l.v, l.t
	all := l.batches(func(int) bool { return false })
	free := l.batches(func(i int) bool { return l.held[i] })
	together := pairsOf(t.Disclosure, func(i, j int) bool { return true })
	mine := pairsOf(t.Disclosure, func(i, j int) bool { return l.held[i] != l.held[j] })
	near := func(i, j int) float64 { return -math.Abs(float64(v.Entries[i].Place - v.Entries[j].Place)) }
	l.try(trial{"places: neighbours, same request", all, together, near})
	l.try(trial{"places: neighbours, request of a receipt", free, mine, near})
	var inOrder [][2]int // the asked entry and one that only the answer brought
	for _, p := range together {
		if i, j := p[0], p[1]; t.Asked[i] {
			inOrder = append(inOrder, p)
		} else if t.Asked[j] {
			inOrder = append(inOrder, [2]int{j, i})
		}
	}
	l.try(trial{"places: order, asked before answered", all, inOrder, func(i, j int) float64 { return float64(v.Entries[j].Place - v.Entries[i].Place) }})
	// Delayed requests are few, so they are looked at by themselves, too.
	l.try(trial{"places: order, asked before answered, delayed", all, slices.DeleteFunc(slices.Clone(inOrder), func(p [2]int) bool {
		return v.Entries[p[0]].Kind != proof.KindDeferred || v.Entries[p[1]].Kind != proof.KindDeferred
	}), func(i, j int) float64 { return math.Copysign(1, float64(v.Entries[j].Place-v.Entries[i].Place)) }})
	l.try(trial{"places: right behind the asked", all, inOrder, func(i, j int) float64 {
		if d := v.Entries[j].Place - v.Entries[i].Place; d > 0 && d < 4 {
			return 1
		}
		return 0
	}})
	var asked [][2]int
	for i, a := range t.Asked {
		if a {
			asked = append(asked, [2]int{i, i})
		}
	}
	for _, f := range []struct {
		name string
		of   func(e *Entry) float64
	}{
		{"places: how far into the batch, asked", func(e *Entry) float64 { return float64(e.Place) / float64(max(1, e.Of-1)) }},
		{"places: even or odd, asked", func(e *Entry) float64 { return float64(e.Place % 2) }},
		{"places: first of the batch, asked", func(e *Entry) float64 {
			if e.Place == 0 {
				return 1
			}
			return 0
		}},
	} {
		l.try(trial{f.name, all, asked, func(i, _ int) float64 { return f.of(&v.Entries[i]) }})
	}
}

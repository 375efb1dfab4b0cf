package fsck

import (
	"errors"
	"maps"
	"slices"

	"github.com/regard-broker/regard/ledger/proof"
)

// Rules follows the entries of a log, in order from index 0, and says what breaks the rules that the public log alone can show (docs/formats.md, sections 3, 4 and 6). It is a value that marshals to
// JSON, so that whoever follows a log can go on later. What it can't decide without reading something else it hands out as claims.
//
// Memory grows with what is in force: open delays, agreements, services, keys. It doesn't grow with the number of entries or epochs. The zero Rules stands before index 0.
type Rules struct {
	Next       proof.Index              `json:"next"`
	Epoch      *Stretch                 `json:"epoch"` // the open one; nil before index 0
	Deferred   map[proof.Index]Deferral `json:"deferred,omitempty"`
	Agreements map[string]Version       `json:"agreements,omitempty"`
	Services   map[string]Version       `json:"services,omitempty"`
	Keys       map[string]Key           `json:"keys,omitempty"`
	// Untold are keys of markers of which no key@v1 entry told yet that they make labels.
	Untold map[proof.Hash]Untold `json:"untold,omitempty"`
	Lost   []proof.Lost          `json:"lost,omitempty"`
	Kinds  map[proof.Kind]uint64 `json:"kinds,omitempty"` // of all entries
}

// Stretch is the open epoch.
type Stretch struct {
	Number proof.Epoch           `json:"number"`
	Marker proof.Index           `json:"marker"` // that opened it
	Leaf   proof.Hash            `json:"leaf"`   // of the marker
	Opened proof.Time            `json:"opened"`
	Until  proof.Time            `json:"until"`
	VRF    proof.Hash            `json:"vrf"` // the key of its labels
	Counts map[proof.Kind]uint64 `json:"counts"`
	// Gap: some of its entries could not be read, so what a marker says of them can't be compared.
	Gap bool `json:"gap,omitempty"`
}

// Untold is where a key was first used whose key@v1 entry is due.
type Untold struct {
	Marker proof.Index `json:"marker"`
	Opened proof.Time  `json:"opened"`
}

// Deferral is a delay that was not ended yet.
type Deferral struct {
	Commitment proof.Commitment `json:"commitment"`
	Month      string           `json:"month"`
}

// Version is what was said last of an agreement or a service.
type Version struct {
	Version uint64     `json:"version"`
	Digest  proof.Hash `json:"digest"`
}

// Key is what was said of a key.
type Key struct {
	State proof.Status `json:"state"`
	Until proof.Time   `json:"until"` // the greatest promise
}

// Parsed is an entry as far as it can be read, whatever it says and wherever it stands.
type Parsed struct {
	Entry proof.Entry // nil if the type is unknown or the text is malformed
	Kind  proof.Kind  // empty if not even the head can be read
	Epoch proof.Epoch
	Err   error
}

// Parse reads an entry's text.
func Parse(text []byte) Parsed {
	e, err := proof.ParseEntry(text)
	if err == nil {
		return Parsed{Entry: e, Kind: e.Kind(), Epoch: e.In()}
	}
	p := Parsed{Err: err}
	if kind, epoch, err := proof.ParseHead(text); err == nil {
		p.Kind, p.Epoch = kind, epoch
	}
	return p
}

// Claim is what an entry says about something else than the entries before it. Check looks at that.
type Claim struct {
	At proof.Index // of the entry

	Blob    proof.Hash     // something must be served under this digest
	Restart *proof.Restart // its root is that of the tree of its size
	Audit   *proof.Audit   // its ends are at markers
	Closed  *proof.Marker  // the index of the epoch that it closes
}

// Clone returns a copy that goes on on its own.
func (r *Rules) Clone() *Rules {
	c := *r
	if r.Epoch != nil {
		e := *r.Epoch
		e.Counts = maps.Clone(e.Counts)
		c.Epoch = &e
	}
	c.Deferred, c.Agreements, c.Services = maps.Clone(r.Deferred), maps.Clone(r.Agreements), maps.Clone(r.Services)
	c.Keys, c.Kinds, c.Lost, c.Untold = maps.Clone(r.Keys), maps.Clone(r.Kinds), slices.Clone(r.Lost), maps.Clone(r.Untold)
	return &c
}

// maxKinds bounds the types that are counted apart: a marker has no room for more.
const maxKinds = 128

// Step takes the entry at index Next. found gets what is wrong with it, claim what has to be looked at elsewhere.
func (r *Rules) Step(leaf proof.Hash, p Parsed, found func(Finding), claim func(Claim)) {
	i := r.Next
	r.Next++
	count(&r.Kinds, p.Kind)
	place := "entry " + i.String()
	marker, isMarker := p.Entry.(proof.Marker)
	if p.Err != nil {
		r.unreadable(place, p, found)
	}
	switch {
	case isMarker:
		r.marker(i, leaf, marker, found, claim)
		return
	case r.Epoch == nil:
		if i == 0 {
			found(finding(MarkerMissing, place, "it is not the marker of epoch 0"))
		}
		r.Epoch = &Stretch{Gap: true, Counts: map[proof.Kind]uint64{}}
	}
	count(&r.Epoch.Counts, p.Kind)
	if p.Kind == "" {
		return
	}
	if p.Epoch != r.Epoch.Number && !(r.Epoch.Gap && p.Epoch > r.Epoch.Number) {
		found(finding(EntryEpoch, place, "it says epoch %d and stands in epoch %d", p.Epoch, r.Epoch.Number))
	}
	if p.Entry != nil {
		r.govern(i, place, p.Entry, found, claim)
	}
}

// Skip passes over entries that could not be read.
func (r *Rules) Skip(n uint64) {
	r.Next += proof.Index(n)
	if r.Epoch == nil {
		r.Epoch = &Stretch{Counts: map[proof.Kind]uint64{}}
	}
	r.Epoch.Gap = true
	r.Untold = nil // it may have been told there
}

func count(m *map[proof.Kind]uint64, k proof.Kind) {
	if *m == nil {
		*m = map[proof.Kind]uint64{}
	}
	if _, ok := (*m)[k]; !ok && len(*m) >= maxKinds {
		k = "" // as if unreadable: the counts of that epoch differ in any case
	}
	(*m)[k]++
}

func (r *Rules) unreadable(place string, p Parsed, found func(Finding)) {
	if errors.Is(p.Err, proof.ErrUnknown) {
		if r.Kinds[p.Kind] == 1 { // one finding a type; the summary has the counts
			found(finding(EntryUnknown, place, "the first of type %s", p.Kind))
		}
		return
	}
	found(finding(EntryMalformed, place, "%v", p.Err))
	if p.Kind == proof.KindEpoch && r.Epoch != nil {
		r.Epoch.Gap = true // an epoch may have ended here
	}
}

// marker checks a marker against the epoch that it closes, and opens the next.
func (r *Rules) marker(i proof.Index, leaf proof.Hash, m proof.Marker, found func(Finding), claim func(Claim)) {
	place := "entry " + i.String()
	s := r.Epoch
	r.Epoch = &Stretch{Number: m.Epoch, Marker: i, Leaf: leaf, Opened: m.Opened, Until: m.Until, VRF: proof.Hash(m.VRF), Counts: map[proof.Kind]uint64{proof.KindEpoch: 1}}
	r.labels(i, m, s, found)
	if s == nil {
		if m.Closed != nil || i != 0 {
			found(finding(MarkerMissing, place, "the first marker opens epoch %d", m.Epoch))
		}
		return
	}
	if m.Epoch != s.Number+1 && !(s.Gap && m.Epoch > s.Number) {
		found(finding(MarkerOrder, place, "it opens epoch %d after epoch %d", m.Epoch, s.Number))
	}
	if m.Opened < s.Opened {
		found(finding(MarkerTime, place, "it is of %s, the one before of %s", m.Opened.Time(), s.Opened.Time()))
	}
	c := m.Closed
	if c == nil {
		return // a second marker of epoch 0: found above
	}
	sound := true
	if m.At() != i {
		found(finding(MarkerPlace, place, "it says that it stands at %d", m.At()))
		sound = false
	}
	if s.Gap && c.First != s.Marker {
		return // a marker was among what could not be read: nothing here can be compared
	}
	if c.First != s.Marker {
		found(finding(MarkerPlace, place, "it says that the closed epoch begins at %d; it begins at %d", c.First, s.Marker))
		sound = false
	}
	if c.Previous != s.Leaf {
		found(finding(MarkerPrevious, place, "the hash that it gives isn't that of the marker at %d", s.Marker))
	}
	if !s.Gap && !maps.Equal(s.Counts, counts(c.Counts)) {
		found(finding(MarkerCounts, place, "it counts %s; the epoch has %s", describe(counts(c.Counts)), describe(s.Counts)))
		sound = false
	}
	if sound { // otherwise nothing bounds its items
		claim(Claim{At: i, Closed: &m})
	}
}

func counts(list []proof.Count) map[proof.Kind]uint64 {
	m := make(map[proof.Kind]uint64, len(list))
	for _, c := range list {
		m[c.Kind] = c.N
	}
	return m
}

func describe(m map[proof.Kind]uint64) string {
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		name := string(k)
		if k == "" {
			name = "unreadable"
		}
		b = append(b, name...)
		b = append(b, ' ')
		b = append(b, proof.Index(m[k]).String()...)
		if len(b) > 500 {
			return string(b) + "…"
		}
	}
	return string(b)
}

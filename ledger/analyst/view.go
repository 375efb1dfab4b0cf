// Package analyst tries to learn from a log what the log must not tell: who it is that an entry is about, and which entries are about the same person.
//
// It knows what anybody can copy (entries, markers, index trees), and whatever one agency holds: its requests, its receipts, settled ones too. It is even given more, so that what it doesn't find, nobody
// finds with less: where each batch began, and Trillian's leaf identities, which are never published.
//
// What its verdict means. Link plays linkers that compute a score for a pair of entries, labels or places, and asks whether the pairs that belong together score otherwise than the same pairs would if the
// entries of each batch (the labels of each epoch) were exchanged at random among each other. Time is thereby left out: who asks when, and what follows what, is a matter of the batch and not of the place in it. Guess recomputes
// hashes from everything the agency knows and looks for them in the log; one hit is one too many.
//
// What it doesn't. It knows the truth only to judge the linkers, and a linker that nobody thought of isn't there. The tests give it leaky logs, to show that it finds what there is to be found.
package analyst

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// Entry is an entry of the log.
type Entry struct {
	Index      proof.Index
	Epoch      proof.Epoch
	Kind       proof.Kind
	Text       []byte
	Commitment proof.Commitment // zero if it has none
	// Ends is the deferred entry that this one ends, as it says itself: both have one commitment and one record. -1: none.
	Ends int
	// Identity is Trillian's leaf identity; zero if the analyst hasn't got it.
	Identity [32]byte
	// Batch in which it was ordered, and its place among the Of entries there.
	Batch, Place, Of int
}

// Item is an item of the index of a closed epoch.
type Item struct {
	Epoch proof.Epoch
	proof.Item
	Rank, Of int // among the labels of the epoch, in order
}

// Held is a receipt of the agency: it knows the entry and all that the opening says.
type Held struct {
	Entry   int // in View.Entries
	Opening proof.Opening
	// Item is the roll in which it stands, by its place in View.Items, and Leaf the proof; -1 if it isn't settled.
	Item int
	Leaf proof.LeafProof
}

// View is what the analyst has.
type View struct {
	Entries []Entry // by log index
	Items   []Item  // by epoch and label
	Markers []proof.Marker
	Held    []Held
}

// Read reads what is published in dir under a checkpoint.
func Read(dir string, cp proof.Checkpoint) (*View, error) {
	v := &View{}
	log := tiles.Tree{Dir: dir, Size: cp.Size(), Root: cp.Root()}
	for i := range cp.Size() {
		text, err := log.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", i, err)
		}
		parsed, err := proof.ParseEntry(text)
		if err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", i, err)
		}
		e := Entry{Index: proof.Index(i), Epoch: parsed.In(), Kind: parsed.Kind(), Text: text, Ends: -1}
		if o, ok := parsed.(proof.Opened); ok && uint64(o.Deferred) < i {
			e.Ends = int(o.Deferred) // #nosec G115 -- below the size of the log, which is in memory
		}
		e.Commitment, _ = proof.CommitmentOf(parsed)
		v.Entries = append(v.Entries, e)
		if m, ok := parsed.(proof.Marker); ok {
			v.Markers = append(v.Markers, m)
			if m.Closed != nil {
				if err := v.readIndex(dir, m); err != nil {
					return nil, fmt.Errorf("reading the index of epoch %d: %w", m.Epoch-1, err)
				}
			}
		}
	}
	return v, nil
}

func (v *View) readIndex(dir string, m proof.Marker) error {
	epoch := m.Epoch - 1
	t := tiles.Tree{Dir: filepath.Join(dir, "index", epoch.String()), Size: 1 << m.Closed.Bits, Root: m.Closed.Index}
	first := len(v.Items)
	for n := range t.Size {
		leaf, err := t.Entry(n)
		if err != nil {
			return err
		}
		b, err := proof.ParseBucket(leaf)
		if err != nil {
			return err
		}
		for _, it := range b.Items {
			v.Items = append(v.Items, Item{Epoch: epoch, Item: it})
		}
	}
	rank(v.Items[first:])
	return nil
}

// rank numbers the items of one epoch, which come by increasing label.
func rank(items []Item) {
	for i := range items {
		items[i].Rank, items[i].Of = i, len(items)
	}
}

// Hold adds a receipt of the agency's.
func (v *View) Hold(r *proof.Receipt) error {
	if uint64(r.Index()) >= uint64(len(v.Entries)) {
		return errors.New("a receipt of an entry that isn't in the copy of the log")
	}
	h := Held{Entry: int(r.Index()), Opening: r.Opening(), Item: -1}
	if s := r.Settlement(); s != nil {
		h.Leaf = s.Leaf
		root, err := s.Leaf.Root(r.Index())
		if err != nil {
			return err
		}
		for i := range v.Items {
			if it := &v.Items[i]; it.Epoch == s.Bucket.Epoch && it.Root == root {
				h.Item = i
			}
		}
		if h.Item < 0 {
			return errors.New("a receipt that settles in no index")
		}
	}
	v.Held = append(v.Held, h)
	return nil
}

// held says of each entry whether the agency has a receipt of it: of a delayed one, or of the end of its delay, it knows both.
func (v *View) held() []bool {
	out := make([]bool, len(v.Entries))
	for _, h := range v.Held {
		out[h.Entry] = true
	}
	for i := range v.Entries {
		if d := v.Entries[i].Ends; d >= 0 {
			both := out[i] || out[d]
			out[i], out[d] = both, both
		}
	}
	return out
}

// SetBatches says where batches ended: the log index behind each, increasing.
func (v *View) SetBatches(ends []proof.Index) error {
	first := 0
	for n, end := range ends {
		if int(end) < first || int(end) > len(v.Entries) {
			return fmt.Errorf("batch %d ends at %d, which isn't in the log or before its beginning", n, end)
		}
		for i := first; i < int(end); i++ {
			e := &v.Entries[i]
			e.Batch, e.Place, e.Of = n, i-first, int(end)-first
		}
		first = int(end)
	}
	if first != len(v.Entries) {
		return fmt.Errorf("the batches end at %d, the log at %d", first, len(v.Entries))
	}
	return nil
}

// Truth is what the operator knows and the analyst doesn't. All are by the place in View.Entries or View.Items; -1: nobody's, none.
type Truth struct {
	Person     []int // whom an entry is about
	Disclosure []int // the request to which it belongs
	Asked      []bool
	Item       []int // the roll in which it stands, by its place in View.Items
	ItemPerson []int // whose roll an item is
	Household  []int // of a person
}

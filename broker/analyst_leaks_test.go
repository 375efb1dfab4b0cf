package broker_test

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/analyst"
	"github.com/regard-broker/regard/ledger/proof"
)

// leak makes the log of an operator who is careless in one way out of the real one.
type leak struct {
	name string
	make func(*testing.T, *analyst.View, *analyst.Truth)
	// links are linkers that must find it, guesses what must be found by recomputing.
	links, guesses []string
}

func number(domain string, n int) [32]byte {
	m := hmac.New(sha256.New, []byte("the operator's key"))
	m.Write([]byte(domain))
	_ = binary.Write(m, binary.BigEndian, int64(n))
	return [32]byte(m.Sum(nil))
}

var leaks = []leak{
	{
		name: "batches in the order of requests",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			reorder(v, t, func(i, j int) int {
				a := cmp.Compare(t.Disclosure[i], t.Disclosure[j])
				if a == 0 && t.Asked[i] != t.Asked[j] {
					if a = 1; t.Asked[i] {
						a = -1
					}
				}
				return a
			})
		},
		links: []string{"places: neighbours, same request", "places: neighbours, request of a receipt", "places: right behind the asked"},
	},
	{
		name: "the asked entry first",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			reorder(v, t, func(i, j int) int {
				switch {
				case t.Asked[i] == t.Asked[j]:
					return 0
				case t.Asked[i]:
					return -1
				}
				return 1
			})
		},
		links: []string{"places: order, asked before answered", "places: how far into the batch, asked"},
	},
	{
		name: "the asked entry first, where it is delayed",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			first := func(i int) int {
				if v.Entries[i].Kind == proof.KindDeferred && t.Asked[i] {
					return 0
				}
				return 1
			}
			reorder(v, t, func(i, j int) int { return cmp.Compare(first(i), first(j)) })
		},
		links: []string{"places: order, asked before answered, delayed"},
	},
	{
		name: "labels that stay over epochs",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			relabel(v, t, func(n int) proof.Label { return number("label", t.ItemPerson[n]) })
		},
		links: []string{
			"labels: bits in common, same person in other epochs", "labels: bytes in common, person of a receipt in other epochs", "labels: learned bits, same person in other epochs",
			"index: neighbours, same person in other epochs",
		},
	},
	{
		name: "labels in the order of households",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			relabel(v, t, func(n int) proof.Label {
				z := v.Items[n].Label
				binary.BigEndian.PutUint16(z[:], uint16(t.Household[t.ItemPerson[n]]))
				return z
			})
		},
		links: []string{"index: neighbours, same household"},
	},
	{
		name: "labels counted as they come",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			first := map[int]int{}
			for i := len(t.Item) - 1; i >= 0; i-- {
				first[t.Item[i]] = i
			}
			relabel(v, t, func(n int) proof.Label {
				z := v.Items[n].Label
				binary.BigEndian.PutUint64(z[:], uint64(first[n])<<40)
				return z
			})
		},
		links: []string{"filing: place in the log and in the index"},
	},
	{
		name: "pseudonyms instead of commitments",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			commit(v, func(i int) proof.Commitment { return number("commitment", t.Person[i]) })
		},
		links: []string{"commitments: bits in common, same person", "commitments: bytes in common, person of a receipt", "commitments: nearest of a receipt's person", "commitments: learned bits, same person"},
	},
	{
		name: "four bits of a commitment that say who it is about",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			commit(v, func(i int) proof.Commitment {
				c := v.Entries[i].Commitment
				c[17] = c[17]&0xf0 | number("tag", t.Person[i])[0]&0xf
				return c
			})
		},
		links: []string{"commitments: learned bits, same person"},
	},
	{
		name: "commitments that begin as the label does",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			commit(v, func(i int) proof.Commitment {
				c := v.Entries[i].Commitment
				if t.Item[i] >= 0 {
					copy(c[:2], v.Items[t.Item[i]].Label[:2])
				}
				return c
			})
		},
		links: []string{"filing: commitment's bytes and label's"},
	},
	{
		name: "leaf identities made from the person",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			for i := range v.Entries {
				v.Entries[i].Identity = number("identity", t.Person[i])
			}
		},
		links: []string{"identities: bits in common, same person", "identities: nearest of a receipt's person"},
	},
	{
		name: "entries as long as a name",
		make: func(_ *testing.T, v *analyst.View, t *analyst.Truth) {
			for i := range v.Entries {
				if t.Person[i] >= 0 {
					v.Entries[i].Text = append(bytes.Clone(v.Entries[i].Text), strings.Repeat("x", t.Person[i]%7)...)
				}
			}
		},
		links: []string{"texts: length, same person"},
	},
	{
		name: "one seed for all records",
		make: func(t *testing.T, v *analyst.View, truth *analyst.Truth) {
			// Seeds, ids and payload keys all come from a source that is stuck; another agency asked for the same.
			record := func(subject proof.Subject, agency string) *proof.Record {
				rec, err := proof.NewRecord(proof.SchemaDisclosure, strings.NewReader(strings.Repeat("stuck", 20)))
				if err == nil {
					err = rec.SetSubject(subject)
				}
				if err == nil {
					err = rec.SetText(proof.DisclosureAgency, agency)
				}
				if err != nil {
					t.Fatal(err)
				}
				return rec
			}
			own, of := map[int]bool{}, map[int]proof.Subject{}
			for k := range v.Held {
				h := &v.Held[k]
				subject, err := h.Opening.Subject()
				if err != nil {
					continue // erased since
				}
				own[h.Entry], of[truth.Person[h.Entry]] = true, subject
				h.Opening = record(subject, "mairie").Open(proof.ReaderAgency)
			}
			commit(v, func(i int) proof.Commitment {
				subject, known := of[truth.Person[i]]
				if !known || own[i] {
					return v.Entries[i].Commitment
				}
				return record(subject, "departement").Commitment()
			})
		},
		guesses: []string{"two receipts share a salt or digest", "a commitment with the salts of a receipt"},
	},
	{
		name: "rolls under a secret that everybody knows",
		make: func(t *testing.T, v *analyst.View, truth *analyst.Truth) {
			reroll(t, v, truth, func(n int, indexes []proof.Index) *proof.Roll {
				r, err := proof.NewRoll([32]byte{}, v.Items[n].Label, indexes)
				if err != nil {
					t.Fatal(err)
				}
				return r
			})
		},
		guesses: []string{"a roll of one entry under a secret that anybody knows", "a leaf of a roll under a salt made from a known secret"},
	},
	{
		name: "one salt for all leaves of a roll",
		make: func(_ *testing.T, v *analyst.View, truth *analyst.Truth) {
			held := map[int]bool{}
			for _, h := range v.Held {
				held[h.Entry] = true
			}
			for k := range v.Held {
				h := &v.Held[k]
				for i, it := range truth.Item {
					if it == h.Item && it >= 0 && !held[i] {
						leaf := proof.RollLeaf(h.Leaf.Salt, proof.Index(i))
						h.Leaf.Path[0] = sha256.Sum256(append([]byte{0}, leaf[:]...))
					}
				}
			}
		},
		guesses: []string{"a leaf of a roll under a known salt"},
	},
}

// commit gives every filed entry another commitment.
func commit(v *analyst.View, of func(i int) proof.Commitment) {
	for i := range v.Entries {
		if e := &v.Entries[i]; e.Kind.Filed() {
			e.Commitment = of(i)
		}
	}
}

// reorder sorts the entries about people of each batch, which exchange their places; the log indexes stay.
func reorder(v *analyst.View, t *analyst.Truth, compare func(i, j int) int) {
	from := make([]int, len(v.Entries)) // which entry stands here now
	for i := range from {
		from[i] = i
	}
	for first := 0; first < len(from); {
		end := first + v.Entries[first].Of
		var places []int
		for i := first; i < end; i++ {
			if k := v.Entries[i].Kind; k.Filed() || k == proof.KindDeferred {
				places = append(places, i)
			}
		}
		sorted := slices.SortedStableFunc(slices.Values(places), compare)
		for k, p := range places {
			from[p] = sorted[k]
		}
		first = end
	}
	to := make([]int, len(from))
	entries, truth := slices.Clone(v.Entries), *t
	t.Person, t.Disclosure, t.Asked, t.Item = slices.Clone(t.Person), slices.Clone(t.Disclosure), slices.Clone(t.Asked), slices.Clone(t.Item)
	for p, i := range from {
		to[i] = p
		v.Entries[p] = entries[i]
		v.Entries[p].Index, v.Entries[p].Place = entries[p].Index, entries[p].Place
		t.Person[p], t.Disclosure[p], t.Asked[p], t.Item[p] = truth.Person[i], truth.Disclosure[i], truth.Asked[i], truth.Item[i]
	}
	for k := range v.Held {
		v.Held[k].Entry = to[v.Held[k].Entry]
	}
	for i := range v.Entries {
		if e := &v.Entries[i]; e.Ends >= 0 {
			e.Ends = to[e.Ends]
		}
	}
}

// relabel gives every item another label and sorts each epoch's index again.
func relabel(v *analyst.View, t *analyst.Truth, of func(n int) proof.Label) {
	order := make([]int, len(v.Items))
	for n := range order {
		order[n] = n
	}
	labels := make([]proof.Label, len(v.Items))
	for n := range labels {
		labels[n] = of(n)
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(v.Items[a].Epoch, v.Items[b].Epoch), bytes.Compare(labels[a][:], labels[b][:]))
	})
	items, to := slices.Clone(v.Items), make([]int, len(order))
	person := slices.Clone(t.ItemPerson)
	for p, n := range order {
		to[n] = p
		v.Items[p] = items[n]
		v.Items[p].Label, v.Items[p].Rank, v.Items[p].Of = labels[n], items[p].Rank, items[p].Of
		person[p] = t.ItemPerson[n]
	}
	t.ItemPerson = person
	t.Item = slices.Clone(t.Item)
	for i, n := range t.Item {
		if n >= 0 {
			t.Item[i] = to[n]
		}
	}
	for k := range v.Held {
		if v.Held[k].Item >= 0 {
			v.Held[k].Item = to[v.Held[k].Item]
		}
	}
}

// reroll makes all rolls anew.
func reroll(t *testing.T, v *analyst.View, truth *analyst.Truth, of func(n int, indexes []proof.Index) *proof.Roll) {
	rolls := make([]*proof.Roll, len(v.Items))
	entries := map[int][]proof.Index{}
	for i, n := range truth.Item {
		if n >= 0 {
			entries[n] = append(entries[n], proof.Index(i))
		}
	}
	for n := range rolls {
		rolls[n] = of(n, entries[n])
		v.Items[n].Root = rolls[n].Root()
	}
	for k := range v.Held {
		h := &v.Held[k]
		if h.Item < 0 {
			continue
		}
		var err error
		if h.Leaf, err = rolls[h.Item].Leaf(proof.Index(h.Entry)); err != nil {
			t.Fatal(err)
		}
	}
}

// copyOf copies what the leaks change.
func copyOf(v *analyst.View, t *analyst.Truth) (*analyst.View, *analyst.Truth) {
	w, u := *v, *t
	w.Entries, w.Items, w.Held = slices.Clone(v.Entries), slices.Clone(v.Items), slices.Clone(v.Held)
	for k := range w.Held {
		w.Held[k].Leaf.Path = slices.Clone(w.Held[k].Leaf.Path)
	}
	return &w, &u
}

// findsLeaks shows that the analyst finds what there is to find: it is the test of the test.
func findsLeaks(t *testing.T, v *analyst.View, truth *analyst.Truth, effort int) {
	for _, x := range leaks {
		t.Run(x.name, func(t *testing.T) {
			v, truth := copyOf(v, truth)
			x.make(t, v, truth)
			if len(x.links) > 0 {
				found := map[string]analyst.Result{}
				for _, r := range analyst.Link(v, truth, 3, x.links...) {
					found[r.Linker] = r
				}
				for _, name := range x.links {
					r, ok := found[name]
					if !ok || !r.Found() {
						t.Errorf("not found by %q: %+v", name, r)
					}
					t.Logf("%-70s AUC %.3f  z %+.1f", name, r.AUC, r.Z)
				}
			}
			if len(x.guesses) > 0 {
				hits := map[string]int{}
				for _, h := range analyst.Guess(v, analystAgencies, effort) {
					hits[h.Guess]++
				}
				for _, name := range x.guesses {
					if hits[name] == 0 {
						t.Errorf("not found by recomputing: %s (%v)", name, hits)
					}
				}
				t.Log(hits)
			}
		})
	}
}

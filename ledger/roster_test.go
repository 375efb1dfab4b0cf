package ledger

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// rollStore is a Store of filings alone.
type rollStore struct {
	Store
	rolls map[proof.Label][]proof.Index
}

func (s *rollStore) sorted() []proof.Label {
	var labels []proof.Label
	for z := range s.rolls {
		labels = append(labels, z)
	}
	slices.SortFunc(labels, compare)
	return labels
}

func (s *rollStore) Filings(_ context.Context, _ proof.Epoch, fn func(Filing) error) error {
	for _, z := range s.sorted() {
		for _, i := range s.rolls[z] {
			if err := fn(Filing{Index: i, Label: z}); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestRosterIsTheIndex: after any changes a roster has the root that a build from scratch has, and writes the files of that tree.
func TestRosterIsTheIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	label := func() (z proof.Label) {
		for i := 0; i < 32; i += 8 {
			binary.BigEndian.PutUint64(z[i:], rng.Uint64())
		}
		return z
	}
	for _, size := range []int{0, 1, 3, 4, 5, 60, 64, 65, 700, 5000} {
		s := &rollStore{rolls: map[proof.Label][]proof.Index{}}
		next := proof.Index(1)
		file := func(z proof.Label) {
			s.rolls[z] = append(s.rolls[z], next)
			next++
		}
		for range size {
			file(label())
		}
		for _, z := range s.sorted() {
			for rng.IntN(3) == 0 {
				file(z)
			}
		}
		seed := [32]byte{byte(size)}
		l := newLog(Config{Store: s})
		r, err := l.readRoster(t.Context(), 5, seed, 2)
		if err != nil {
			t.Fatal(err)
		}
		for round := range 12 {
			sum, err := r.summary()
			if err != nil {
				t.Fatal(err)
			}
			labels := s.sorted()
			var filings uint64
			want, err := proof.BuildIndex(5, uint64(len(labels)), func(yield func(proof.Label, proof.Hash) bool) {
				for _, z := range labels {
					filings += uint64(len(s.rolls[z]))
					roll, err := proof.NewRoll(seed, z, s.rolls[z])
					if err != nil {
						t.Fatal(err)
					}
					if !yield(z, roll.Root()) {
						return
					}
				}
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if sum != want || r.filings != filings {
				t.Fatalf("%d labels, round %d: %+v and %d filings, want %+v and %d", size, round, sum, r.filings, want, filings)
			}
			if round == 11 {
				dir := t.TempDir()
				if err := r.write(dir, sum.Root, func() {}, nil); err != nil {
					t.Fatal(err)
				}
				if _, err := tiles.Resume(dir, 1<<sum.Bits, sum.Root); err != nil {
					t.Error(err)
				}
				if err := r.write(t.TempDir(), proof.Hash{1}, func() {}, nil); err == nil {
					t.Error("an index of another root is written")
				}
			}
			// Old labels, new ones, and new ones again; now and then as many as it takes for another bucket bit.
			for range 1 + rng.IntN(1+len(labels)/(1+rng.IntN(8))) {
				z := label()
				if len(labels) > 0 && rng.IntN(2) == 0 {
					z = labels[rng.IntN(len(labels))]
				}
				file(z)
				if err := r.set(z, s.rolls[z]); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

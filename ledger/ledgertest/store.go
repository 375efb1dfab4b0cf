// Package ledgertest helps to test what is built on a log: stores in memory and on a file, a Trillian in memory, a labeler with a real VRF key, wrappers that make
// any call fail, whole environments with the real embedded Trillian, and the contract that every ledger.Store and ledger.SignedStore has to meet.
//
// Nothing here is for production: the stores in memory lose everything, and the file of [OpenJournal] is read as a whole at the start and holds subjects in clear.
package ledgertest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Subjects is what the stores of this package accept as Group.Attach: one subject for each entry of the group; zero for entries that aren't filed.
type Subjects []proof.Subject

// Store is a ledger.Store in memory.
type Store struct {
	mu       sync.Mutex
	leaves   []ledger.Leaf
	subjects map[proof.Index]proof.Subject
	open     *ledger.OpenEpoch
	counts   map[proof.Kind]uint64
	closed   []ledger.ClosedEpoch
	rolls    map[proof.Epoch]map[proof.Label][]proof.Index
	labels   map[proof.Index]proof.Label
	unfiled  []proof.Index
	tampered map[proof.Index][]byte // texts that entries to come will have
}

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{
		subjects: map[proof.Index]proof.Subject{}, counts: map[proof.Kind]uint64{},
		rolls: map[proof.Epoch]map[proof.Label][]proof.Index{}, labels: map[proof.Index]proof.Label{}, tampered: map[proof.Index][]byte{},
	}
}

// Clone returns a copy: a backup.
func (s *Store) Clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Store{
		leaves: slices.Clone(s.leaves), subjects: maps.Clone(s.subjects), counts: maps.Clone(s.counts), closed: slices.Clone(s.closed),
		rolls: map[proof.Epoch]map[proof.Label][]proof.Index{}, labels: maps.Clone(s.labels), unfiled: slices.Clone(s.unfiled),
		tampered: maps.Clone(s.tampered),
	}
	if s.open != nil {
		open := *s.open
		c.open = &open
	}
	for e, rolls := range s.rolls {
		c.rolls[e] = map[proof.Label][]proof.Index{}
		for z, r := range rolls {
			c.rolls[e][z] = slices.Clone(r)
		}
	}
	return c
}

// Tamper changes the text of a stored entry, as somebody with access to the database could: at once, or when it is stored.
func (s *Store) Tamper(i proof.Index, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i < proof.Index(len(s.leaves)) {
		s.leaves[i].Text = text
		return
	}
	s.tampered[i] = text
}

// Tail implements ledger.Store.
func (s *Store) Tail(ctx context.Context) (ledger.Tail, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := ledger.Tail{Next: proof.Index(len(s.leaves)), Counts: maps.Clone(s.counts)}
	if s.open != nil {
		open := *s.open
		t.Open = &open
	}
	return t, ctx.Err()
}

// Next implements ledger.Store.
func (s *Store) Next(ctx context.Context) (proof.Index, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return proof.Index(len(s.leaves)), ctx.Err()
}

// Commit implements ledger.Store.
func (s *Store) Commit(ctx context.Context, b *ledger.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(ctx, b); err != nil {
		return err
	}
	s.apply(b)
	return nil
}

func (s *Store) check(ctx context.Context, b *ledger.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.First != proof.Index(len(s.leaves)) {
		return fmt.Errorf("ledgertest: the batch begins at %d, the order ends at %d", b.First, len(s.leaves))
	}
	if (b.Opens == nil) != (b.Closes == nil) && s.open != nil {
		return fmt.Errorf("ledgertest: a batch that closes an epoch opens the next")
	}
	for _, g := range b.Groups {
		if g.Attach == nil {
			continue
		}
		if subjects, ok := g.Attach.(Subjects); !ok || len(subjects) != len(g.Leaves) {
			return fmt.Errorf("%w: ledgertest stores Subjects only, one for each entry", ledger.ErrRefused)
		}
	}
	return nil
}

func (s *Store) apply(b *ledger.Batch) {
	if b.Closes != nil {
		s.closed = append(s.closed, *b.Closes)
	}
	if b.Opens != nil {
		open := *b.Opens
		s.open, s.counts, s.unfiled = &open, map[proof.Kind]uint64{}, nil
	}
	n := len(s.leaves)
	for _, g := range b.Groups {
		n += len(g.Leaves)
	}
	s.leaves = slices.Grow(s.leaves, n-len(s.leaves))[:n]
	var unfiled []proof.Index
	for _, g := range b.Groups {
		subjects, _ := g.Attach.(Subjects)
		for i, leaf := range g.Leaves {
			leaf.Text = bytes.Clone(leaf.Text)
			if text, ok := s.tampered[leaf.Index]; ok {
				leaf.Text = text
			}
			s.leaves[leaf.Index] = leaf
			s.counts[leaf.Kind]++
			if leaf.Kind.Filed() {
				unfiled = append(unfiled, leaf.Index)
				if subjects != nil {
					s.subjects[leaf.Index] = subjects[i]
				}
			}
		}
	}
	slices.Sort(unfiled)
	s.unfiled = append(s.unfiled, unfiled...)
}

// Leaves implements ledger.Store.
func (s *Store) Leaves(ctx context.Context, from, to proof.Index, fn func(ledger.Leaf) error) error {
	for i := from; i < to; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.mu.Lock()
		if i >= proof.Index(len(s.leaves)) {
			s.mu.Unlock()
			return fmt.Errorf("ledgertest: leaf %d is missing", i)
		}
		leaf := s.leaves[i]
		s.mu.Unlock()
		if err := fn(leaf); err != nil {
			return err
		}
	}
	return nil
}

// Unfiled implements ledger.Store.
func (s *Store) Unfiled(ctx context.Context, epoch proof.Epoch, limit int) ([]ledger.Unfiled, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil || s.open.Number != epoch {
		return nil, ctx.Err()
	}
	var out []ledger.Unfiled
	for _, i := range s.unfiled[:min(limit, len(s.unfiled))] {
		if s.subjects[i].IsZero() {
			return nil, fmt.Errorf("ledgertest: entry %d has no subject", i)
		}
		out = append(out, ledger.Unfiled{Index: i, Subject: s.subjects[i]})
	}
	return out, ctx.Err()
}

// File implements ledger.Store.
func (s *Store) File(ctx context.Context, epoch proof.Epoch, filings []ledger.Filing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s.file(epoch, filings)
	return nil
}

func (s *Store) file(epoch proof.Epoch, filings []ledger.Filing) {
	if s.rolls[epoch] == nil {
		s.rolls[epoch] = map[proof.Label][]proof.Index{}
	}
	rolls := s.rolls[epoch]
	for _, f := range filings {
		if at, found := slices.BinarySearch(rolls[f.Label], f.Index); !found {
			rolls[f.Label] = slices.Insert(slices.Clone(rolls[f.Label]), at, f.Index) // readers go on with the old one
		}
		s.labels[f.Index] = f.Label
	}
	s.unfiled = slices.DeleteFunc(s.unfiled, func(i proof.Index) bool {
		_, ok := s.labels[i]
		return ok
	})
}

// Filings implements ledger.Store.
func (s *Store) Filings(ctx context.Context, epoch proof.Epoch, fn func(ledger.Filing) error) error {
	s.mu.Lock()
	rolls := maps.Clone(s.rolls[epoch])
	s.mu.Unlock()
	labels := slices.SortedFunc(maps.Keys(rolls), func(a, b proof.Label) int { return bytes.Compare(a[:], b[:]) })
	for _, z := range labels {
		for _, i := range rolls[z] {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(ledger.Filing{Index: i, Label: z}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Roll implements ledger.Store.
func (s *Store) Roll(ctx context.Context, epoch proof.Epoch, label proof.Label) ([]proof.Index, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rolls[epoch][label]), ctx.Err()
}

// Epoch implements ledger.Store.
func (s *Store) Epoch(ctx context.Context, n proof.Epoch) (ledger.ClosedEpoch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n >= proof.Epoch(len(s.closed)) {
		return ledger.ClosedEpoch{}, fmt.Errorf("%w: epoch %d is open or unknown", ledger.ErrNotFound, n)
	}
	return s.closed[n], ctx.Err()
}

// EpochOf implements ledger.Store.
func (s *Store) EpochOf(ctx context.Context, i proof.Index) (proof.Epoch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i >= proof.Index(len(s.leaves)) {
		return 0, fmt.Errorf("%w: no entry %d", ledger.ErrNotFound, i)
	}
	return s.leaves[i].Epoch, ctx.Err()
}

// Signed is a ledger.SignedStore in memory.
type Signed struct {
	mu   sync.Mutex
	note []byte
	// History is every note that was stored.
	history [][]byte
}

// Last implements ledger.SignedStore.
func (s *Signed) Last(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.note), ctx.Err()
}

// Swap implements ledger.SignedStore.
func (s *Signed) Swap(ctx context.Context, old, new []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !bytes.Equal(s.note, old) {
		return fmt.Errorf("%w: the stored checkpoint is another one", ledger.ErrHalted)
	}
	s.note = bytes.Clone(new)
	s.history = append(s.history, s.note)
	return nil
}

// History returns every note that was stored, oldest first.
func (s *Signed) History() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.history)
}

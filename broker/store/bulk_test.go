package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestForPostgres: parameters have the numbers that SQLite gives them.
func TestForPostgres(t *testing.T) {
	for query, want := range map[string]string{
		"SELECT ?, ?":                                "SELECT $1, $2",
		"a = ?1 OR b = ?1 AND c = ?3 LIMIT ?":        "a = $1 OR b = $1 AND c = $3 LIMIT $4",
		"SET a = ?, b = x'' WHERE c = '?' AND d=?12": "SET a = $1, b = ''::bytea WHERE c = '?' AND d=$12",
		"WHERE name = 'it''s x''?' AND n = ?":        "WHERE name = 'it''s x''?' AND n = $1",
	} {
		if got := forPostgres(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

// TestTripsDoNotGrowWithTheBatch: what a batch costs in ways to the server and back is the same for one and for many.
func TestTripsDoNotGrowWithTheBatch(t *testing.T) {
	s := Databases(t).Open(t, t.TempDir())
	o := Order{Store: s}
	ctx := t.Context()
	number, next := 0, proof.Index(0)
	trips := func(f func() error) int64 {
		t.Helper()
		before := s.Stats().Trips.Load()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		return s.Stats().Trips.Load() - before
	}
	round := func(n int) (begin, order, file int64) {
		t.Helper()
		var jobs []*job
		batch := &ledger.Batch{First: next}
		if next == 0 {
			batch.Opens = &ledger.OpenEpoch{Text: []byte("m"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"}
		}
		for range n {
			number++
			in := &Intent{ID: ID{byte(number), byte(number >> 8)}, Agency: "a", Idem: []byte{byte(number), byte(number >> 8)}, Body: []byte{1}, AskedAt: time.UnixMilli(1), Owner: keys.Owner{byte(number), byte(number >> 8)}, Person: []byte("p"), Admin: []byte("a")}
			in.Key = keys.KeyID{byte(number), byte(number >> 8), 1}
			in.Fresh = []*keys.StoredKey{{ID: in.Key, Kind: keys.KindSubject, Owner: in.Owner, Wrapped: []byte{1}}}
			jobs = append(jobs, &job{begin: &beginning{in: in}})
		}
		begin = trips(func() error { return s.lanes.begins.transact(jobs) })
		var filings []ledger.Filing
		for _, j := range jobs {
			l := ledger.Leaf{Index: next, Kind: proof.KindDisclosure, Identity: [32]byte{byte(next), byte(next >> 8)}, Text: []byte{1}}
			batch.Groups = append(batch.Groups, ledger.PlacedGroup{Leaves: []ledger.Leaf{l}, Attach: &Outcome{Disclosure: j.begin.d.Seq, Payload: []byte{1}, Until: time.UnixMilli(1),
				Records: []Record{{Owner: j.begin.in.Owner, Person: []byte("p"), Admin: []byte("a")}}}})
			filings = append(filings, ledger.Filing{Index: next, Label: proof.Label{byte(next), byte(next >> 8)}})
			next++
		}
		order = trips(func() error { return o.Commit(ctx, batch) })
		file = trips(func() error { return o.File(ctx, 0, filings) })
		return begin, order, file
	}
	round(1) // opens the epoch
	for _, n := range []int{1, 300} {
		if begin, order, file := round(n); begin > 1 || order > 2 || file > 3 {
			t.Errorf("for %d: %d ways to the server to begin, %d to order, %d to file", n, begin, order, file)
		}
	}
	if rows, err := o.UnfiledRows(ctx, 0, 9); err != nil || len(rows) != 0 {
		t.Errorf("%d are unfiled, %v", len(rows), err)
	}
}

// TestMisplacedBatch: a batch of an earlier term, or at a place that is taken, is none of its groups' fault, and nothing of it is stored.
func TestMisplacedBatch(t *testing.T) {
	d, dir := Databases(t), t.TempDir()
	s := d.Open(t, dir)
	ctx := t.Context()
	place := func(term int64, first proof.Index) error {
		b := &ledger.Batch{First: first, Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{{Index: first, Kind: proof.KindDisclosure, Identity: [32]byte{byte(term), byte(first)}, Text: []byte{1}}}}}}
		if first == 0 {
			b.Opens = &ledger.OpenEpoch{Text: []byte("m"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"}
		}
		return Order{Store: s, Term: term}.Commit(ctx, b)
	}
	lead := func(term int) {
		t.Helper()
		if err := d.Cluster.SQL(ctx, d.Name(t, dir), fmt.Sprintf("UPDATE lease SET term = %d", term)); err != nil {
			t.Fatal(err)
		}
	}
	lead(1)
	if err := place(1, 0); err != nil {
		t.Fatal(err)
	}
	lead(2)
	for name, x := range map[string]struct {
		term  int64
		first proof.Index
		want  error // nil: another one
	}{
		"an earlier term": {1, 1, ErrTerm}, "an earlier term, at a place that is taken": {1, 0, ErrTerm},
		"a place that is taken": {2, 0, nil}, "a place beyond the end": {2, 2, nil},
	} {
		err := place(x.term, x.first)
		if err == nil || errors.Is(err, ledger.ErrRefused) || x.want != nil && !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
		if next, err := (Order{Store: s}).Next(ctx); err != nil || next != 1 {
			t.Fatalf("%s: the log ends at %d, %v", name, next, err)
		}
	}
	if err := place(2, 1); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

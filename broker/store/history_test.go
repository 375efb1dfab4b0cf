package store_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

func TestRecordsOfAnOwner(t *testing.T) { store.EachEngine(t, testRecordsOfAnOwner) }

func testRecordsOfAnOwner(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	record := func(owner byte) store.Record {
		return store.Record{Owner: keys.Owner{owner}, Person: []byte{owner, 'p'}, Admin: []byte{owner, 'a'}}
	}
	place := func(i proof.Index, kind proof.Kind, owner byte) ledger.PlacedGroup {
		return ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(i, kind)}, Attach: &store.AccessLogged{Records: []store.Record{record(owner)}, Targets: []proof.Index{0}}}
	}
	both := ledger.PlacedGroup{
		Leaves: []ledger.Leaf{leaf(5, proof.KindAccess), leaf(6, proof.KindAccess)},
		Attach: &store.AccessLogged{Records: []store.Record{record(1), record(1)}, Targets: []proof.Index{0, 0}},
	}
	if err := commit(t, s, 0, place(0, proof.KindDisclosure, 1), place(1, proof.KindDisclosure, 2), place(2, proof.KindAgreement, 3),
		place(3, proof.KindErasure, 1), place(4, proof.KindDisclosure, 1), both); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		kind   proof.Kind
		before proof.Index
		limit  int
		want   []proof.Index
	}{
		{"newest first", "", 0, 10, []proof.Index{6, 5, 4, 3, 0}},
		{"first page", "", 0, 2, []proof.Index{6, 5}},
		{"second page", "", 5, 2, []proof.Index{4, 3}},
		{"last page", "", 3, 2, []proof.Index{0}},
		{"one kind", proof.KindDisclosure, 0, 10, []proof.Index{4, 0}},
		{"deferred can't be asked for", proof.KindDeferred, 0, 10, nil},
		{"beyond every index", "", 1<<64 - 1, 1, []proof.Index{6}},
	} {
		rows, err := s.RecordsOf(ctx, keys.Owner{1}, c.kind, c.before, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []proof.Index
		for _, r := range rows {
			if r.Owner != (keys.Owner{1}) || string(r.Person) != "\x01p" || len(r.Text) != 1 || r.Text[0] != byte(r.Index) {
				t.Errorf("%s: %+v is another's record or text", c.name, r)
			}
			got = append(got, r.Index)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s:\n%s", c.name, d)
		}
	}
	for owner, want := range map[byte]proof.Index{1: 6, 2: 1, 4: 0} {
		if got, err := s.NewestOf(ctx, keys.Owner{owner}); err != nil || got != want {
			t.Errorf("the newest of %d is %d, %v; want %d", owner, got, err, want)
		}
	}
}

func TestAccessIsStoredWholeOrNotAtAll(t *testing.T) {
	store.EachEngine(t, testAccessIsStoredWholeOrNotAtAll)
}

func testAccessIsStoredWholeOrNotAtAll(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	two := []ledger.Leaf{leaf(0, proof.KindAccess), leaf(1, proof.KindAccess)}
	one := store.Record{Owner: keys.Owner{1}, Person: []byte("p"), Admin: []byte("a")}
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: two, Attach: &store.AccessLogged{Records: []store.Record{one}}}); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("two entries with one record: %v, want ErrRefused", err)
	}
	gone := &store.AccessLogged{Records: []store.Record{one, one}, Targets: []proof.Index{0, 0}, Keys: []keys.KeyID{{9}}}
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: two, Attach: gone}); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("sealed under a destroyed key: %v, want ErrNoKey", err)
	}
	rows, err := s.RecordsOf(t.Context(), keys.Owner{1}, "", 0, 10)
	if err != nil || len(rows) != 0 {
		t.Errorf("%d records were stored (%v)", len(rows), err)
	}
}

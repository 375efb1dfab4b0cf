package store

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// blobUnder is what a key with this first byte in its name sealed, as far as the store looks.
func blobUnder(key byte) []byte {
	b := make([]byte, keys.Overhead)
	b[0], b[1], b[2] = 1, 'p', key
	return b
}

func ownedKey(id byte, kind keys.Kind, owner keys.Owner) *keys.StoredKey {
	return &keys.StoredKey{ID: keys.KeyID{id}, Kind: kind, Owner: owner, Wrapped: []byte{id}, Created: time.UnixMilli(1)}
}

func TestDeferrals(t *testing.T) { EachEngine(t, testDeferrals) }

func testDeferrals(t *testing.T, open Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	next := proof.Index(0)
	commit := func(attach any, kinds ...proof.Kind) error {
		t.Helper()
		g := ledger.PlacedGroup{Attach: attach}
		for i, k := range kinds {
			at := next + proof.Index(i)
			g.Leaves = append(g.Leaves, ledger.Leaf{Index: at, Kind: k, Identity: [32]byte{byte(at), 1}, Text: []byte{byte(at)}})
		}
		b := &ledger.Batch{First: next, Groups: []ledger.PlacedGroup{g}}
		if next == 0 {
			b.Opens = &ledger.OpenEpoch{Text: []byte("marker"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"}
		}
		err := Order{Store: s}.Commit(ctx, b)
		if err == nil {
			next += proof.Index(len(kinds))
		}
		return err
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	owner, due := keys.Owner{7}, time.UnixMilli(5000).UTC()
	begin := func(id byte, due time.Time) Seq {
		t.Helper()
		d, _, err := s.Begin(ctx, &Intent{ID: ID{id}, Agency: "a", AskedAt: time.UnixMilli(1), Due: due, Owner: owner, Person: []byte("p"), Admin: []byte("a"), Fresh: []*keys.StoredKey{ownedKey(id, keys.KindDeferred, owner)}})
		ok(err)
		return d.Seq
	}
	record := func(key byte) Record { return Record{Owner: owner, Person: blobUnder(key), Admin: []byte("a")} }
	ok(commit(nil, proof.KindEpoch))
	first, plain := begin(1, due), begin(2, time.Time{})
	// A deferred intent is nobody's business but its own.
	if open, err := s.IntentsOf(ctx, owner); err != nil || len(open) != 1 || open[0] != plain {
		t.Errorf("an erasure waits for %v, %v", open, err)
	}
	if err := commit(&Outcome{Disclosure: plain, Records: []Record{record(2)}}, proof.KindDeferred); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("a delay of what was begun without one: %v", err)
	}
	ok(commit(&Outcome{Disclosure: first, Records: []Record{record(1), record(3)}, Fresh: []*keys.StoredKey{ownedKey(3, keys.KindDeferred, owner)}}, proof.KindDeferred, proof.KindDeferred)) // 1, 2
	ok(commit(&AccessLogged{Records: []Record{record(4)}, Targets: []proof.Index{1}, Fresh: []*keys.StoredKey{ownedKey(4, keys.KindDeferred, owner)}}, proof.KindDeferred))                   // 3
	if err := commit(&AccessLogged{Records: []Record{record(4)}, Targets: []proof.Index{0}}, proof.KindDeferred); !errors.Is(err, ErrOpened) {
		t.Errorf("a deferred access to what isn't: %v", err)
	}

	// Nothing that is looked for under the person finds it.
	if rows, err := s.RecordsOf(ctx, owner, "", 0, 10); err != nil || len(rows) != 0 {
		t.Errorf("%d records, %v", len(rows), err)
	}
	looksUpBy(t, s, "records_owner", selectRecord+" WHERE r.owner = x'' AND r.log_index < 1 ORDER BY r.log_index DESC LIMIT 1")
	if filed, err := s.Filed(ctx, 3); err != nil {
		t.Errorf("%v, %v", filed, err)
	}

	rows, err := s.Records(ctx, first)
	if err != nil || len(rows) != 2 || rows[0].Index != 1 || rows[1].Index != 2 || rows[0].Alone {
		t.Errorf("records of the disclosure: %+v, %v", rows, err)
	}
	if r, err := s.RowAt(ctx, 3); err != nil || r.None || !r.Alone || r.Opened != 0 || r.Kind != proof.KindDeferred {
		t.Errorf("%+v, %v", r, err)
	}
	if n, late, err := s.CountDeferrals(ctx, due.Add(-time.Millisecond)); n != 3 || late != 0 || err != nil {
		t.Errorf("%d, %d, %v", n, late, err)
	}
	dues := func(now time.Time, after Due) []Due {
		t.Helper()
		list, err := s.DueDeferrals(ctx, now, after, 10)
		ok(err)
		return list
	}
	if list := dues(due.Add(-time.Millisecond), Due{}); len(list) != 0 {
		t.Errorf("due before the time: %v", list)
	}
	if d := cmp.Diff([]Due{{first, due}}, dues(due, Due{})); d != "" {
		t.Error(d)
	}
	if list := dues(due, Due{first, due}); len(list) != 0 {
		t.Errorf("behind the last one: %v", list)
	}
	looksUpBy(t, s, "deferrals_due", dueDeferrals, 0, 0, 0, 1)

	// Ending it before the time is for all of it, also for accesses that come now.
	if _, err := s.EndDeferral(ctx, ID{2}, time.UnixMilli(3000), "early"); !errors.Is(err, ErrNotFound) {
		t.Errorf("ended what isn't deferred: %v", err)
	}
	if d, err := s.EndDeferral(ctx, ID{1}, time.UnixMilli(3000), "early"); err != nil || d != first {
		t.Fatal(d, err)
	}
	if _, err := s.EndDeferral(ctx, ID{1}, time.UnixMilli(4000), "later"); err != nil {
		t.Fatal(err)
	}
	ok(commit(&AccessLogged{Records: []Record{record(5)}, Targets: []proof.Index{3}, Fresh: []*keys.StoredKey{ownedKey(5, keys.KindDeferred, owner)}}, proof.KindDeferred)) // 4
	list, err := s.PendingDeferrals(ctx, 0, 10)
	if err != nil || len(list) != 1 || list[0].Entries != 2 || list[0].Accesses != 2 || !list[0].Due.Equal(time.UnixMilli(3000)) || list[0].Ended != "early" || list[0].First != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if d := cmp.Diff([]Due{{first, time.UnixMilli(3000).UTC()}}, dues(due, Due{})); d != "" {
		t.Error(d)
	}

	// Opened once, whole or not at all, under a key that is there.
	all, err := s.Deferrals(ctx, first, 1)
	if err != nil || len(all) != 3 || all[0].Index != 1 || all[1].Index != 2 || all[2].Index != 3 || !all[2].Alone {
		t.Fatalf("%+v, %v", all, err)
	}
	opened := func(deferred ...proof.Index) *DeferralsOpened {
		o := &DeferralsOpened{At: time.UnixMilli(6000)}
		for _, i := range deferred {
			o.Records = append(o.Records, OpenedRecord{i, record(9)})
		}
		return o
	}
	kinds := []proof.Kind{proof.KindOpened, proof.KindOpened, proof.KindOpened}
	gone := opened(1, 2, 3)
	gone.Keys = []keys.KeyID{{9}}
	if err := commit(gone, kinds...); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("under a key that was destroyed: %v", err)
	}
	if err := commit(opened(1, 2, 8), kinds...); !errors.Is(err, ErrOpened) {
		t.Errorf("with one that isn't deferred: %v", err)
	}
	if err := commit(opened(1, 2), kinds...); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("fewer records than entries: %v", err)
	}
	if n, _, err := s.CountDeferrals(ctx, due); n != 4 || err != nil {
		t.Fatalf("%d left, %v", n, err)
	}
	good := opened(1, 2, 3)
	good.Keys, good.Fresh = []keys.KeyID{{9}}, []*keys.StoredKey{ownedKey(9, keys.KindSubject, owner)}
	ok(commit(good, kinds...)) // 5, 6, 7
	if err := commit(opened(1), proof.KindOpened); !errors.Is(err, ErrOpened) {
		t.Errorf("opened twice: %v", err)
	}
	if rows, err = s.Records(ctx, first); err != nil || len(rows) != 2 || rows[0].Index != 5 || rows[1].Index != 6 {
		t.Errorf("records of the disclosure: %+v, %v", rows, err)
	}
	if rows, err = s.RecordsOf(ctx, owner, proof.KindOpened, 0, 10); err != nil || len(rows) != 3 || !rows[0].Alone || rows[1].Alone {
		t.Errorf("the person's: %+v, %v", rows, err)
	}
	if e, err := s.EndedBy(ctx, 7); err != nil || e.Deferred != 3 || e.Early != "early" || !e.At.Equal(time.UnixMilli(6000)) || string(e.Text) != "\x03" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := s.EndedBy(ctx, 3); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if r, err := s.RowAt(ctx, 3); err != nil || !r.None || r.Opened != 7 {
		t.Errorf("%+v, %v", r, err)
	}
	left, err := s.ListKeys(ctx, keys.KindDeferred, keys.KeyID{}, 10)
	if err != nil || len(left) != 2 || left[0].ID != (keys.KeyID{2}) || left[1].ID != (keys.KeyID{5}) { // of the other disclosure, and of the last access
		t.Errorf("keys that are left: %+v, %v", left, err)
	}
	// What came in between is due, too.
	if all, err = s.Deferrals(ctx, first, 10); err != nil || len(all) != 1 || all[0].Index != 4 {
		t.Errorf("%+v, %v", all, err)
	}
	if waits, err := s.DeferredUnder(ctx, []keys.StoredKey{{ID: keys.KeyID{1}}}); err != nil || waits {
		t.Errorf("%v, %v", waits, err)
	}
}

// TestDeferredUnder: the end of a month's retention can tell that something of it is deferred.
func TestDeferredUnder(t *testing.T) { EachEngine(t, testDeferredUnder) }

func testDeferredUnder(t *testing.T, open Opener) {
	s := open(t, t.TempDir())
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(s.do(context.Background(), func(t *tx) error {
		r := Record{Owner: keys.Owner{1}, Person: blobUnder(1), Admin: blobUnder(2)}
		return saveDeferral(t, &r, 1, 1, int64(0), 5000, "")
	}))
	for id, want := range map[keys.KeyID]bool{{1}: false, {2}: true} {
		if got, err := s.DeferredUnder(t.Context(), []keys.StoredKey{{ID: keys.KeyID{9}}, {ID: id}}); err != nil || got != want {
			t.Errorf("key %v: %v, %v", id, got, err)
		}
	}
	// It is asked in every round while a delay is late: no look through all of them.
	looksUpBy(t, s, "deferrals_month", deferredUnder, []byte("k"))
}

// TestKeysOfDelaysAreApart: looking for a person's keys takes the same steps however many records of theirs are deferred, and none if no other record is.
func TestKeysOfDelaysAreApart(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	known, secret := keys.Owner{1}, keys.Owner{2}
	s, err := Open(ctx, Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	save := func(n int, kind keys.Kind, owner keys.Owner) {
		t.Helper()
		ks := make([]keys.StoredKey, n)
		for i := range ks {
			ks[i] = keys.StoredKey{Kind: kind, Owner: owner, Wrapped: []byte("w"), Created: time.UnixMilli(1)}
			_, _ = rand.Read(ks[i].ID[:])
		}
		if err := s.SaveKeys(ctx, ks); err != nil {
			t.Fatal(err)
		}
	}
	// What a look goes through: the rows of the index under its owner.
	steps := func() int {
		t.Helper()
		var n int
		if err := s.r.QueryRowContext(ctx, "SELECT sum(ncell) FROM dbstat WHERE name = 'keys_owner'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	save(2, keys.KindSubject, known)
	before := steps()
	save(1000, keys.KindDeferred, known)
	save(1000, keys.KindDeferred, secret)
	if n := steps(); n != before {
		t.Errorf("the index grew from %d to %d by keys of delays", before, n)
	}
	var plan strings.Builder
	if err := s.each(ctx, "EXPLAIN QUERY PLAN "+ownerKeys, func(scan func(...any) error) error {
		var a, b, c int
		var text string
		err := scan(&a, &b, &c, &text)
		plan.WriteString(text + "\n")
		return err
	}, known[:]); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(plan.String(), "keys_owner") || strings.Contains(plan.String(), "SCAN") {
		t.Errorf("a person's keys are looked for by\n%s", &plan)
	}
	for range 2 {
		if !s.owners.may(known) || s.owners.may(secret) {
			t.Error("the filter knows those who have keys of delays alone, or not the others")
		}
		if ks, err := s.LoadKeys(ctx, keys.KindSubject, known, ""); err != nil || len(ks) != 2 || ks[0].Kind != keys.KindSubject {
			t.Errorf("%d keys, %v", len(ks), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(ctx, Config{Dir: dir}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.LoadKeys(ctx, keys.KindDeferred, known, ""); err == nil {
		t.Error("keys of delays are found by their owner")
	}
}

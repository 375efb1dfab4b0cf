package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// open is for what is about SQLite's files.
func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	return store.OpenSQLite(t, dir)
}

func intent(n byte) *store.Intent {
	return &store.Intent{
		ID: store.ID{15: n}, Agency: "mairie", Idem: []byte{n}, Body: []byte{n, n}, AskedAt: time.UnixMilli(1700000000000),
		Owner: keys.Owner{n}, Person: []byte("sealed person"), Admin: []byte("sealed admin"),
	}
}

func commit(t *testing.T, s *store.Store, first proof.Index, groups ...ledger.PlacedGroup) error {
	t.Helper()
	b := &ledger.Batch{First: first, Groups: groups}
	if first == 0 {
		b.Opens = &ledger.OpenEpoch{Text: []byte("marker"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"}
	}
	return store.Order{Store: s}.Commit(t.Context(), b)
}

func leaf(i proof.Index, kind proof.Kind) ledger.Leaf {
	return ledger.Leaf{Index: i, Kind: kind, Text: []byte{byte(i)}, Identity: [32]byte{byte(i)}}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := store.Open(t.Context(), store.Config{Dir: dir}); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("opening the directory twice: %v, want ErrLocked", err)
	}
}

func TestFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, dir)
	if _, _, err := s.Begin(t.Context(), intent(1)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(dir + "/*")
	if err != nil || len(files) < 2 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range append(files, dir) {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", f, fi.Mode())
		}
	}
}

func TestFileThatOthersReadIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	if err := os.Chmod(filepath.Join(dir, "store.db"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err := store.Open(t.Context(), store.Config{Dir: dir}); err == nil {
		s.Close()
		t.Fatal("a database that everybody can read was opened")
	}
}

func TestDamagedFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "store.db"), []byte("this was a database once, before something else wrote over it, page by page"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := store.Open(t.Context(), store.Config{Dir: dir})
	if !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("opening a damaged file: %v, want ErrCorrupt", err)
	}
}

func TestIdempotencyKeyBelongsToOneAgencyAndOneRequest(t *testing.T) {
	store.EachEngine(t, testIdempotencyKeyBelongsToOneAgencyAndOneRequest)
}

func testIdempotencyKeyBelongsToOneAgencyAndOneRequest(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	first, again, err := s.Begin(ctx, intent(1))
	if err != nil || again {
		t.Fatalf("first: %v, %v", again, err)
	}
	repeat := intent(1)
	repeat.ID = store.ID{15: 2}
	d, again, err := s.Begin(ctx, repeat)
	if err != nil || !again || d.Seq != first.Seq || d.ID != first.ID {
		t.Fatalf("repeat: %+v again=%v %v, want the first disclosure", d, again, err)
	}
	other := intent(1)
	other.ID, other.Body = store.ID{15: 3}, []byte("another")
	if _, _, err := s.Begin(ctx, other); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("another request: %v, want ErrConflict", err)
	}
	foreign := intent(1)
	foreign.ID, foreign.Agency = store.ID{15: 4}, "caf"
	if _, again, err := s.Begin(ctx, foreign); err != nil || again {
		t.Fatalf("another agency: again=%v %v, want a disclosure of its own", again, err)
	}
}

func TestOneFailingWriteDoesNotSpoilOthers(t *testing.T) {
	store.EachEngine(t, testOneFailingWriteDoesNotSpoilOthers)
}

func testOneFailingWriteDoesNotSpoilOthers(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	done := make(chan error, 20)
	for i := range 20 {
		go func() {
			in := intent(byte(i))
			if i%5 == 0 {
				in.ID = store.ID{} // the same id four times: all but one fail
			}
			_, _, err := s.Begin(context.Background(), in)
			done <- err
		}()
	}
	failed := 0
	for range 20 {
		if err := <-done; err != nil {
			failed++
		}
	}
	if failed != 3 {
		t.Errorf("%d writes failed, want the 3 that repeat an id", failed)
	}
	left, err := s.Interrupted(t.Context(), 0, 100)
	if err != nil || len(left) != 17 {
		t.Errorf("%d intents, %v; want 17", len(left), err)
	}
}

func TestOutcomeOnce(t *testing.T) { store.EachEngine(t, testOutcomeOnce) }

func testOutcomeOnce(t *testing.T, open store.Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	d, _, err := s.Begin(ctx, intent(1))
	if err != nil {
		t.Fatal(err)
	}
	out := &store.Outcome{Disclosure: d.Seq, Records: []store.Record{{Owner: d.Owner, Person: []byte("p"), Admin: []byte("a")}},
		Payload: []byte("sealed answer"), Until: time.UnixMilli(5000)}
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, "epoch@v1")}}, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(1, "disclosure@v1")}, Attach: out}); err != nil {
		t.Fatal(err)
	}
	if err := commit(t, s, 2, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(2, "disclosure@v1")}, Attach: out}); err == nil {
		t.Fatal("a second outcome was stored")
	}
	if err := commit(t, s, 4, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(4, "disclosure@v1")}}); err == nil {
		t.Fatal("a batch with a gap before it was stored")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	tail, err := store.Order{Store: s}.Tail(ctx)
	if err != nil || tail.Next != 2 || tail.Counts["disclosure@v1"] != 1 {
		t.Fatalf("tail after reopening: %+v, %v", tail, err)
	}
	recs, err := s.Records(ctx, d.Seq)
	if err != nil || len(recs) != 1 || recs[0].Index != 1 || string(recs[0].Text) != "\x01" {
		t.Fatalf("records: %+v, %v", recs, err)
	}
	got, err := s.Disclosure(ctx, d.ID)
	if err != nil || !got.Done || got.Admin != nil {
		t.Fatalf("disclosure: %+v, %v", got, err)
	}
	if n, err := s.DropPayloads(ctx, time.UnixMilli(4999), 10); err != nil || n != 0 {
		t.Errorf("dropped %d payloads before their time, %v", n, err)
	}
	if n, err := s.DropPayloads(ctx, time.UnixMilli(5000), 10); err != nil || n != 1 {
		t.Errorf("dropped %d payloads in time, %v", n, err)
	}
	if _, _, err := s.Payload(ctx, d.Seq); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("payload afterwards: %v, want ErrNotFound", err)
	}
}

// TestDestroyedKeyIsNowhere looks for the wrapped key's bytes in every file of the store.
func TestDestroyedKeyIsNowhere(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	marker := []byte("WRAPPED-KEY-THAT-MUST-VANISH-0123456789")
	k := keys.StoredKey{ID: keys.KeyID{1}, Kind: keys.KindSubject, Owner: keys.Owner{1}, Wrapped: marker, Created: time.UnixMilli(1)}
	if err := s.SaveKeys(ctx, []keys.StoredKey{k}); err != nil {
		t.Fatal(err)
	}
	if !inFiles(t, dir, marker) {
		t.Fatal("the key isn't in the files before: this test can't see anything")
	}
	if err := s.DestroyKeys(ctx, []keys.KeyID{k.ID}); err != nil {
		t.Fatal(err)
	}
	if inFiles(t, dir, marker) {
		t.Error("the destroyed key is still in a file")
	}
	if ks, err := s.LoadKeys(ctx, keys.KindSubject, k.Owner, ""); err != nil || len(ks) != 0 {
		t.Errorf("keys: %v, %v", ks, err)
	}
}

func TestSharedKeyExistsOnce(t *testing.T) { store.EachEngine(t, testSharedKeyExistsOnce) }

func testSharedKeyExistsOnce(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	a := keys.StoredKey{ID: keys.KeyID{1}, Kind: keys.KindMonth, Period: "2026-11", Wrapped: []byte{1}, Created: time.UnixMilli(1)}
	b := a
	b.ID = keys.KeyID{2}
	if err := s.SaveKeys(ctx, []keys.StoredKey{a}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveKeys(ctx, []keys.StoredKey{b}); !errors.Is(err, keys.ErrKeyExists) {
		t.Errorf("second key of the month: %v, want ErrKeyExists", err)
	}
}

func inFiles(t *testing.T, dir string, marker []byte) bool {
	t.Helper()
	files, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, marker) {
			return true
		}
	}
	return false
}

// TestMayBeInterrupted: one that nobody works on is seen, wherever it stands and whatever its id has become.
func TestMayBeInterrupted(t *testing.T) { store.EachEngine(t, testMayBeInterrupted) }

func testMayBeInterrupted(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	atWork := map[store.ID]bool{}
	var seqs []store.Seq
	for n := range byte(5) {
		d, _, err := s.Begin(t.Context(), intent(n))
		if err != nil {
			t.Fatal(err)
		}
		atWork[d.ID] = true
		seqs = append(seqs, d.Seq)
	}
	look := func(after store.Seq, limit int, wantLeft bool, wantNext store.Seq) {
		t.Helper()
		left, next, err := s.MayBeInterrupted(t.Context(), after, limit, func(id store.ID) bool { return atWork[id] })
		if err != nil || left != wantLeft || next != wantNext {
			t.Errorf("after %d: %v, next %d (%v), want %v, %d", after, left, next, err, wantLeft, wantNext)
		}
	}
	look(0, 9, false, seqs[4])
	look(0, 2, false, seqs[1])
	look(seqs[1], 2, false, seqs[3])
	look(seqs[4], 2, false, 0)
	delete(atWork, intent(2).ID)
	look(0, 9, true, seqs[4])
	look(0, 2, false, seqs[1])
	look(seqs[1], 2, true, seqs[3])
	look(seqs[2], 9, false, seqs[4])
}

// TestIntentsOutliveTheProcess: slots are used again, but never one whose disclosure has no outcome, whoever opens the store.
func TestIntentsOutliveTheProcess(t *testing.T) { store.EachEngine(t, testIntentsOutliveTheProcess) }

func testIntentsOutliveTheProcess(t *testing.T, open store.Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	begin := func(n byte) store.Disclosure {
		t.Helper()
		in := intent(n)
		in.Person, in.Admin = []byte{'p', n}, []byte{'a', n}
		d, _, err := s.Begin(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	next := proof.Index(0)
	end := func(d store.Disclosure) error {
		out := &store.Outcome{Disclosure: d.Seq, Records: []store.Record{{Owner: d.Owner, Person: []byte("p"), Admin: []byte("a")}}}
		err := commit(t, s, next, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(next, "disclosure@v1")}, Attach: out})
		if err == nil {
			next++
		}
		return err
	}
	want := func(left ...byte) {
		t.Helper()
		got, err := s.Interrupted(ctx, 0, 100)
		if err != nil || len(got) != len(left) {
			t.Fatalf("%d intents are open (%v), want %v", len(got), err, left)
		}
		for i, d := range got {
			if d.ID[15] != left[i] || !bytes.Equal(d.Person, []byte{'p', left[i]}) || !bytes.Equal(d.Admin, []byte{'a', left[i]}) {
				t.Fatalf("intent %d of %v: %+v", i, left, d)
			}
			if open, err := s.IntentsOf(ctx, keys.Owner{left[i]}); err != nil || len(open) != 1 {
				t.Fatalf("intents of %d: %v, %v", left[i], open, err)
			}
		}
	}
	one, two, three := begin(1), begin(2), begin(3)
	want(1, 2, 3)
	if err := end(two); err != nil {
		t.Fatal(err)
	}
	if err := end(two); err == nil { // it gives nothing free a second time
		t.Fatal("a second outcome was stored")
	}
	four, five := begin(4), begin(5)
	want(1, 3, 4, 5)
	for _, d := range []store.Disclosure{one, four} {
		if err := end(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	want(3, 5)
	begin(6)
	begin(7)
	begin(8)
	want(3, 5, 6, 7, 8)
	for _, d := range []store.Disclosure{three, five} {
		if err := end(d); err != nil {
			t.Fatal(err)
		}
	}
	want(6, 7, 8)
	if open, err := s.IntentsOf(ctx, keys.Owner{3}); err != nil || len(open) != 0 {
		t.Errorf("intent that is done: %v, %v", open, err)
	}
}

// TestDamagedSlots: where an intent lies is a number in a file. One that can't be kept the store from opening: a slice was as long as it, or was indexed with less than zero.
func TestDamagedSlots(t *testing.T) {
	for _, slot := range []int64{-1, math.MinInt64, 1 << 60, math.MaxInt64} {
		dir := t.TempDir()
		s := open(t, dir)
		ctx := t.Context()
		begin := func(n byte) {
			t.Helper()
			if _, _, err := s.Begin(ctx, intent(n)); err != nil {
				t.Fatal(err)
			}
		}
		begin(1)
		begin(2)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open("sqlite", filepath.Join(dir, "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(ctx, "UPDATE intents SET slot = ? WHERE slot = 1", slot); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		begin(3)
		begin(4)
		got, err := s.Interrupted(ctx, 0, 100)
		if err != nil || len(got) != 4 {
			t.Fatalf("slot %d: %d intents, %v", slot, len(got), err)
		}
		for _, d := range got {
			if len(d.Person) == 0 {
				t.Errorf("slot %d: the intent of disclosure %d is gone", slot, d.Seq)
			}
		}
	}
}

// TestSkippedEntryIsFiledOnce: the filer read an entry before it was given up, and files it afterwards.
func TestSkippedEntryIsFiledOnce(t *testing.T) { store.EachEngine(t, testSkippedEntryIsFiledOnce) }

func testSkippedEntryIsFiledOnce(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	for i := range proof.Index(2) {
		d, _, err := s.Begin(ctx, intent(byte(i+1)))
		if err != nil {
			t.Fatal(err)
		}
		out := &store.Outcome{Disclosure: d.Seq, Records: []store.Record{{Owner: d.Owner, Person: []byte("p"), Admin: []byte("a")}}}
		if err := commit(t, s, i, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(i, proof.KindDisclosure)}, Attach: out}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Skip(ctx, 0, "disk-fault"); err != nil {
		t.Fatal(err)
	}
	o := store.Order{Store: s}
	if err := o.File(ctx, 0, []ledger.Filing{{Index: 0, Label: proof.Label{1}}, {Index: 1, Label: proof.Label{2}}}); err != nil {
		t.Fatal(err)
	}
	labels := map[proof.Index]int{}
	if err := o.Filings(ctx, 0, func(f ledger.Filing) error { labels[f.Index]++; return nil }); err != nil || len(labels) != 2 || labels[0] != 1 || labels[1] != 1 {
		t.Errorf("labels of the entries: %v, %v", labels, err)
	}
}

// TestNothingIsWrittenForNobody: what nobody waits for any more when it is asked for isn't written.
func TestNothingIsWrittenForNobody(t *testing.T) { store.EachEngine(t, testNothingIsWrittenForNobody) }

func testNothingIsWrittenForNobody(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindKey)}}); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		err := store.Order{Store: s}.Commit(gone, &ledger.Batch{First: 1, Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{leaf(1, proof.KindKey)}}}})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if next, err := (store.Order{Store: s}).Next(t.Context()); err != nil || next != 1 {
		t.Errorf("the order ends at %d, %v", next, err)
	}
}

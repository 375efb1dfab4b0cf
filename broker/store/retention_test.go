package store_test

import (
	"bytes"
	"database/sql"
	"os"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// sealedUnder is an administrative part as far as the store looks into it.
func sealedUnder(id keys.KeyID) []byte {
	blob := make([]byte, keys.Overhead+8)
	blob[0], blob[1] = 1, 'a'
	copy(blob[2:], id[:])
	return blob
}

func TestRecordsOfEndedMonthsAreDroppedInBatches(t *testing.T) {
	store.EachEngine(t, testRecordsOfEndedMonthsAreDroppedInBatches)
}

func testRecordsOfEndedMonthsAreDroppedInBatches(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	months := []keys.KeyID{{15: 1}, {15: 2}}
	const n = 10
	for i := range n {
		in := intent(byte(i + 1))
		d, _, err := s.Begin(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		out := &store.Outcome{Disclosure: d.Seq, Records: []store.Record{{Owner: in.Owner, Person: in.Person, Admin: sealedUnder(months[i%2])}}}
		if err := commit(t, s, proof.Index(i), ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(proof.Index(i), proof.KindDisclosure)}, Attach: out}); err != nil {
			t.Fatal(err)
		}
	}
	const upto = n - 3 // 8 and 9 are beyond
	for range 2 {      // again after a crash: from the beginning
		rounds := 0
		for next, more := proof.Index(0), true; more; rounds++ {
			var err error
			if next, more, err = s.DropRecords(ctx, map[keys.KeyID]bool{months[0]: true}, next, upto, 3); err != nil {
				t.Fatal(err)
			}
		}
		if rounds != 3 {
			t.Errorf("%d rounds of 3 for 8 records", rounds)
		}
		for i := range n {
			rows, err := s.RecordsOf(ctx, intent(byte(i+1)).Owner, "", 0, 100)
			if err != nil || len(rows) != 1 {
				t.Fatalf("%d records, %v", len(rows), err)
			}
			r := rows[0]
			gone := i%2 == 0 && i <= upto
			if (len(r.Person) == 0) != gone || len(r.Admin) == 0 || r.Owner.IsZero() {
				t.Errorf("record %d: %d bytes of the person", i, len(r.Person))
			}
			repeat := intent(byte(i + 1))
			repeat.ID = store.ID{0: 1, 15: byte(i)}
			if gone {
				continue
			}
			if d, again, err := s.Begin(ctx, repeat); err != nil || !again || len(d.Body) == 0 {
				t.Errorf("the repeat of %d isn't known any more: %v", i, err)
			}
		}
	}
}

func TestBodiesAreDroppedByAge(t *testing.T) { store.EachEngine(t, testBodiesAreDroppedByAge) }

func testBodiesAreDroppedByAge(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	start := time.UnixMilli(1700000000000)
	for i := range 7 {
		in := intent(byte(i + 1))
		in.AskedAt = start.Add(time.Duration(i) * time.Hour)
		if i == 3 {
			in.Idem, in.Body = nil, nil
		}
		if _, _, err := s.Begin(ctx, in); err != nil {
			t.Fatal(err)
		}
	}
	var counts []int64
	for {
		n, err := s.DropBodies(ctx, start.Add(5*time.Hour), 2)
		if err != nil {
			t.Fatal(err)
		}
		counts = append(counts, n)
		if n == 0 {
			break
		}
	}
	if len(counts) != 4 {
		t.Errorf("rounds of %d", counts)
	}
	for i := range 7 {
		if i == 3 {
			continue
		}
		repeat := intent(byte(i + 1))
		repeat.ID = store.ID{0: 1, 15: byte(i)}
		if d, again, err := s.Begin(ctx, repeat); err != nil || !again || (len(d.Body) == 0) != (i < 5) {
			t.Errorf("%d: again %v, a digest of %d bytes, %v", i, again, len(d.Body), err)
		}
		// Once the digest is gone, another request under a used key is no new one either.
		repeat.Body = []byte("another")
		if _, again, err := s.Begin(ctx, repeat); i < 5 && (err != nil || !again) || i >= 5 && err == nil {
			t.Errorf("%d with another body: again %v, %v", i, again, err)
		}
	}
}

// TestRestoredPeriodLeavesNoIntents: what lay in the slots of intents came back with a backup, sealed under the keys of months that ended since; and an open one of such a month could never be
// recorded, because its key was gone.
func TestRestoredPeriodLeavesNoIntents(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	ended, current := keys.KeyID{15: 1}, keys.KeyID{15: 2}
	months := []keys.StoredKey{{ID: ended, Kind: keys.KindMonth, Period: "2026-01", Wrapped: []byte("wrapped")}, {ID: current, Kind: keys.KindMonth, Period: "2026-02", Wrapped: []byte("wrapped")}}
	if err := s.SaveKeys(ctx, months); err != nil {
		t.Fatal(err)
	}
	// All begin before one is done, so that each has a slot of its own.
	var done store.Disclosure
	for i, id := range []keys.KeyID{ended, current, current} {
		in := intent(byte(i + 1))
		in.Person, in.Admin = []byte("person of "+string(rune('A'+i))), sealedUnder(id)
		d, _, err := s.Begin(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		done = d
	}
	out := &store.Outcome{Disclosure: done.Seq, Records: []store.Record{{Owner: done.Owner, Person: []byte("final"), Admin: sealedUnder(current)}}}
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindDisclosure)}, Attach: out}); err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	if err := s.Copy(ctx, store.FileIn(copied)); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(store.FileIn(copied))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file, []byte("person of C")) || !bytes.Contains(file, []byte("person of B")) {
		t.Error("the copy holds the intent of a disclosure that is done, or lacks an open one")
	}
	if files, err := os.ReadDir(copied); err != nil || len(files) != 1 {
		t.Errorf("beside the copy: %v, %v", files, err)
	}
	restored := &store.Restoration{Destroyed: []store.Period{{Kind: keys.KindMonth, Period: "2026-01"}}, Restart: leaf(1, proof.KindRestart)}
	if err := s.Restore(ctx, restored); err != nil {
		t.Fatal(err)
	}
	left, err := s.Interrupted(ctx, 0, 10)
	if err != nil || len(left) != 1 || string(left[0].Person) != "person of B" {
		t.Errorf("open intents: %+v, %v", left, err)
	}
	db, err := sql.Open("sqlite", "file:"+store.FileIn(dir)+"?_pragma=query_only(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var slots string
	if err := db.QueryRowContext(ctx, "SELECT group_concat(person, '') FROM intents").Scan(&slots); err != nil || slots != "person of B" {
		t.Errorf("in the slots: %q, %v", slots, err)
	}
}

// TestCopyHoldsNoAnswers: answers are kept for a quarter of an hour, and the digests of requests for a day; a copy, which is kept for weeks, holds neither, nor the keys of the answers. What is open keeps its digest, as it
// keeps its intent.
func TestCopyHoldsNoAnswers(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	month, minute := keys.KeyID{15: 1}, keys.KeyID{15: 2}
	if err := s.SaveKeys(ctx, []keys.StoredKey{
		{ID: month, Kind: keys.KindMonth, Period: "2026-01", Wrapped: []byte("key of a month"), Created: at}, {ID: minute, Kind: keys.KindPayload, Period: "m", Wrapped: []byte("key of an answer"), Created: at},
	}); err != nil {
		t.Fatal(err)
	}
	in := intent(1)
	in.Body = []byte("digest of a request")
	d, _, err := s.Begin(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	under := intent(2)
	under.Body = []byte("digest of what is open")
	if _, _, err := s.Begin(ctx, under); err != nil {
		t.Fatal(err)
	}
	out := outcome(d)
	out.Payload, out.Until = []byte("sealed answer"), at.AddDate(100, 0, 0)
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindDisclosure)}, Attach: out}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := s.Copy(ctx, store.FileIn(dir)); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(store.FileIn(dir))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"key of a month": true, "key of an answer": false, "sealed answer": false, "digest of a request": false, "digest of what is open": true} {
		if bytes.Contains(file, []byte(text)) != want {
			t.Errorf("the copy holds the %s: %v", text, !want)
		}
	}
	if payload, _, err := s.Payload(ctx, d.Seq); err != nil || string(payload) != "sealed answer" {
		t.Errorf("the store itself: %q, %v", payload, err)
	}
	c := open(t, dir)
	again, known, err := c.Begin(ctx, in)
	if err != nil || !known || again.Seq != d.Seq || len(again.Body) != 0 {
		t.Errorf("the same request: %+v, %v, %v", again, known, err)
	}
	if n, err := store.SizeOf(ctx, store.FileIn(dir)); err != nil || n != 1 {
		t.Errorf("the copy: %d entries, %v", n, err)
	}
}

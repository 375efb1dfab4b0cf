package broker_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// database opens the store's file beside the broker, as whoever meddles with it would.
func (w *watched) database() *sql.DB {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.cfg.DataDir, "store", "store.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = db.Close() })
	return db
}

// change runs a statement that must change a row.
func (w *watched) change(db *sql.DB, query string, args ...any) {
	w.t.Helper()
	res, err := db.ExecContext(w.t.Context(), query, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		w.t.Fatalf("%s: %d rows, %v", query, n, err)
	}
}

// until waits for what the sweeper does.
func (w *watched) until(what string, so func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not in time\n%s", what, w.text())
		}
	}
}

// TestDamagedIntents: intents that can't be read stop neither the start nor the sweeper nor anybody else. They are alarmed about and kept, and recorded as soon as they are whole again.
// (One altered row used to keep the broker from starting.)
func TestDamagedIntents(t *testing.T) {
	t.Parallel()
	w, leave := newLeaver(t)
	w.disclose(asker("TUE AVANT"))
	names := []string{"TUE PERSONNE", "TUE ADMIN", "TUE CLE", "TUE VIDE", "TUE FORME", "TUE TYPE", "TUE ECHANGE", "TUE BON"}
	for _, name := range names {
		leave(asker(name))
	}
	w.close()

	db := w.database()
	var seqs []int64
	var ids [][]byte
	rows, err := db.QueryContext(t.Context(), "SELECT seq, id FROM disclosures WHERE state = 0 ORDER BY seq")
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var seq int64
		var id []byte
		if err := rows.Scan(&seq, &id); err != nil {
			t.Fatal(err)
		}
		seqs, ids = append(seqs, seq), append(ids, id)
	}
	if err := rows.Close(); err != nil || len(seqs) != len(names) {
		t.Fatalf("%d open intents of %d, %v", len(seqs), len(names), err)
	}
	var admin []byte
	if err := db.QueryRowContext(t.Context(), "SELECT admin FROM intents WHERE disclosure = ?", seqs[1]).Scan(&admin); err != nil {
		t.Fatal(err)
	}
	w.change(db, "UPDATE intents SET person = "+altered("person")+" WHERE disclosure = ?", seqs[0])
	w.change(db, "UPDATE intents SET admin = "+altered("admin")+" WHERE disclosure = ?", seqs[1])
	w.change(db, "DELETE FROM keys WHERE owner = (SELECT owner FROM disclosures WHERE seq = ?)", seqs[2])
	w.change(db, "DELETE FROM intents WHERE disclosure = ?", seqs[3])
	w.change(db, "UPDATE disclosures SET owner = x'00' WHERE seq = ?", seqs[4])
	w.change(db, "UPDATE disclosures SET asked_at = 'now' WHERE seq = ?", seqs[5])
	w.change(db, "UPDATE intents SET admin = (SELECT admin FROM intents WHERE disclosure = ?) WHERE disclosure = ?", seqs[7], seqs[6]) // whole, and another's
	damaged := len(names) - 1

	w.cfg.SweepEvery = 20 * time.Millisecond
	w.open()
	if d := w.b.Damage(); d != (broker.Damage{Intents: damaged}) {
		t.Errorf("damage: %+v instead of %d intents", d, damaged)
	}
	if a := w.finally(asker("TUE BON")); a.Outcome != broker.Failed || a.Problem.Code != "interrupted" {
		t.Errorf("the one that is whole: %+v", a)
	}
	if a := w.disclose(asker("TUE APRES")); a.Outcome != broker.Released {
		t.Errorf("the next request: %+v", a)
	}
	w.filed()
	if err := w.b.Ready(t.Context()); err != nil {
		t.Errorf("isn't ready: %v", err)
	}
	asked := len(w.provider.requests())
	for _, name := range names[:4] {
		a, err := w.b.Disclose(t.Context(), w.caller, asker(name))
		if p := broker.AsProblem(err); a != nil || p.Code != "disclosure.damaged" || p.Status != 500 || p.Detail == "" {
			t.Errorf("%s, asked again: %+v, %v", name, a, err)
		}
	}
	if n := len(w.provider.requests()) - asked; n != 0 {
		t.Errorf("the provider was asked again, %d times", n)
	}

	// Somebody with such an intent can be erased all the same.
	for _, name := range []string{"TUE PERSONNE", "TUE CLE", "TUE VIDE"} {
		subject, err := killPivot(name).Subject()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.b.Erase(t.Context(), subject, "rgpd-17"); err != nil {
			t.Errorf("%s: erasing: %v", name, err)
		}
	}
	if n := w.count("SELECT count(*) FROM disclosures WHERE body IS NOT NULL AND seq IN (?, ?, ?)", seqs[0], seqs[2], seqs[3]); n != 0 {
		t.Errorf("of %d requests about people who were erased there is a digest, by which a guess is confirmed", n)
	}
	w.close()
	w.open()
	if d := w.b.Damage(); d != (broker.Damage{Intents: damaged}) {
		t.Errorf("after erasures: %+v, and nothing may be dropped", d)
	}

	// What is put back is taken up.
	w.change(db, "UPDATE intents SET admin = ? WHERE disclosure = ?", admin, seqs[1])
	w.until("the mended intent", func() bool { return w.b.Damage().Intents == damaged-1 })
	a := w.finally(asker("TUE ADMIN"))
	if a.Outcome != broker.Failed || a.Problem.Code != "interrupted" {
		t.Errorf("the mended one: %+v", a)
	}
	w.filed()
	w.close()

	logs := w.text()
	for i, id := range ids {
		u := uuid.UUID(id)
		want := 2 // once a start
		if i == len(ids)-1 {
			want = 0
		}
		n := 0
		for line := range strings.Lines(logs) {
			if strings.Contains(line, "level=ERROR") && strings.Contains(line, "DAMAGED RECORD: a request") && strings.Contains(line, u.String()) {
				n++
			}
		}
		if n != want {
			t.Errorf("%s: %d alarms instead of %d", names[i], n, want)
		}
	}
	if strings.Contains(logs, "TUE") {
		t.Error("the log speaks of persons")
	}
}

// TestSwappedIntents: two intents about one person are whole, and each lies where the other belongs. The log would tell of each under the other's name.
func TestSwappedIntents(t *testing.T) {
	t.Parallel()
	w, leave := newLeaver(t)
	first, second := asker("TUE ECHANGE"), asker("TUE ECHANGE")
	second.IdempotencyKey = "another"
	leave(first)
	leave(second)
	w.close()
	db := w.database()
	const swap = "UPDATE intents SET disclosure = (SELECT min(seq) + max(seq) FROM disclosures WHERE state = 0) - disclosure WHERE disclosure IN (SELECT seq FROM disclosures WHERE state = 0)"
	w.change(db, swap)
	w.cfg.SweepEvery = 20 * time.Millisecond
	w.open()
	if d := w.b.Damage(); d != (broker.Damage{Intents: 2}) {
		t.Errorf("damage: %+v", d)
	}
	w.change(db, swap)
	w.until("the intents, put back", func() bool { return w.b.Damage() == broker.Damage{} })
	for _, req := range []*broker.Request{first, second} {
		if a := w.finally(req); a.Outcome != broker.Failed || a.Problem.Code != "interrupted" {
			t.Errorf("%+v", a)
		}
	}
}

// newLeaver is a world without a sweeper and a way to leave an intent without an outcome.
func newLeaver(t *testing.T) (*watched, func(*broker.Request)) {
	f := newFaulty(t)
	leave := false
	w := newWatched(t, func(c *broker.Config) {
		c.Custodian, c.SweepEvery = f, time.Hour
		c.SetAt(func(s string) {
			if leave && s == "provider" {
				f.down("Wrap", keys.ErrUnavailable)
			}
		})
	})
	w.provider.answer = couple
	return w, func(req *broker.Request) {
		t.Helper()
		leave = true
		a, err := w.b.Disclose(t.Context(), w.caller, req)
		w.nothing(req.IdempotencyKey, a, err)
		f.up()
		leave = false
	}
}

// TestDamagedErasure: an erasure that was begun and can't be read keeps requests about that person out, and nobody else's; asked for again, it is carried through, and the journal doesn't wait for
// the first one's entry any more.
func TestDamagedErasure(t *testing.T) {
	t.Parallel()
	w := newWatched(t, func(c *broker.Config) { c.SweepEvery = 20 * time.Millisecond })
	w.provider.answer = couple
	before := w.disclose(asker("TUE PARTIE"))
	w.close()
	db := w.database()
	w.change(db, "INSERT INTO erasures (id, owner, person, admin) SELECT id, owner, x'00', x'00' FROM disclosures WHERE id = ?", before.ID[:])
	journal, err := sql.Open("sqlite", filepath.Join(w.cfg.DataDir, "signed", "erasures.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	var owner []byte
	if err := db.QueryRowContext(t.Context(), "SELECT owner FROM erasures").Scan(&owner); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.ExecContext(t.Context(), "CREATE TABLE erasures (id BLOB PRIMARY KEY, owner BLOB NOT NULL, log_index INTEGER) WITHOUT ROWID; INSERT INTO erasures (id, owner) VALUES (?, ?)", before.ID[:], owner); err != nil {
		t.Fatal(err)
	}
	w.open()
	if d := w.b.Damage(); d != (broker.Damage{Erasures: 1}) {
		t.Errorf("damage: %+v", d)
	}
	again := asker("TUE PARTIE")
	again.IdempotencyKey = ""
	if a, err := w.b.Disclose(t.Context(), w.caller, again); err == nil || broker.AsProblem(err).Code != "subject.erasing" {
		t.Errorf("a request about the person: %+v, %v", a, err)
	}
	if a := w.disclose(asker("TUE AUTRE")); a.Outcome != broker.Released {
		t.Errorf("a request about somebody else: %+v", a)
	}
	subject, err := killPivot("TUE PARTIE").Subject()
	if err != nil {
		t.Fatal(err)
	}
	var e broker.Erasure
	w.until("the erasure, asked for again", func() bool {
		e, err = w.b.Erase(t.Context(), subject, "rgpd-17")
		return err == nil || broker.AsProblem(err).Code != "erasure.in_progress" // the sweeper was just looking at the other
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := proof.ParseReceipt(before.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	if e.Reach < r.Index() || !w.hidden(before) {
		t.Errorf("the erasure reaches to %d and not to entry %d", e.Reach, r.Index())
	}
	if a := w.disclose(again); a.Outcome != broker.Released {
		t.Errorf("afterwards: %+v", a)
	}
	w.close()
	var rows, open int
	if err := journal.QueryRowContext(t.Context(), "SELECT count(*), count(*) - count(log_index) FROM erasures").Scan(&rows, &open); err != nil || rows != 1 || open != 0 {
		t.Errorf("the journal has %d rows, %d of them without an entry, %v", rows, open, err)
	}
	w.open()
	if d := w.b.Damage(); d != (broker.Damage{}) {
		t.Errorf("damage after a restart: %+v", d)
	}
	if logs := w.text(); strings.Count(logs, "DAMAGED RECORD: an erasure") != 1 || strings.Contains(logs, "TUE") {
		t.Errorf("alarms:\n%s", logs)
	}
}

// TestMendedIntentWaitsForErasure: an intent is found whole again while its person is being erased. Recorded after the erasure's reach, it would lose its key without an explanation.
func TestMendedIntentWaitsForErasure(t *testing.T) {
	t.Parallel()
	w, leave := newLeaver(t)
	leave(asker("TUE MENDE"))
	w.close()
	w.change(w.database(), "INSERT INTO erasures (id, owner, person, admin) SELECT id, owner, x'00', x'00' FROM disclosures")
	w.cfg.SweepEvery = 20 * time.Millisecond
	w.open()
	if n := w.count("SELECT count(*) FROM disclosures WHERE state = 0"); n != 1 {
		t.Fatal("the request was recorded while its person is being erased")
	}
	subject, err := killPivot("TUE MENDE").Subject()
	if err != nil {
		t.Fatal(err)
	}
	w.until("the erasure, asked for again", func() bool {
		_, err = w.b.Erase(t.Context(), subject, "rgpd-17")
		return err == nil || broker.AsProblem(err).Code != "erasure.in_progress" // the sweeper was just looking at the other
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := w.count("SELECT count(*) FROM disclosures WHERE state = 0"); n != 0 {
		t.Error("the request is still not recorded")
	}
	if h := w.history(subject, broker.HistoryPage{Kind: proof.KindDisclosure}); len(h.Entries) != 1 || h.Entries[0].State != broker.HistoryErased {
		t.Errorf("history: %+v", h)
	}
}

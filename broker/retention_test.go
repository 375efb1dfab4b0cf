package broker_test

import (
	"bytes"
	"crypto/rand"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

const day = 24 * time.Hour

// newTraveller is a world whose clock is ahead by as much as the test says.
func newTraveller(t *testing.T, ahead *atomic.Int64, retention time.Duration, change func(*broker.Config)) *world {
	return newWorld(t, func(c *broker.Config) {
		c.Retention, c.SweepEvery = retention, 50*time.Millisecond
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		if change != nil {
			change(c)
		}
	})
}

// TestAnswersBesideADamagedKey: a key of answers that says no time keeps no other answer, nor its key, longer than it may be kept.
func TestAnswersBesideADamagedKey(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, nil)
	req := request()
	req.IdempotencyKey = "for-a-repeat"
	w.disclose(req)
	w.tamper("INSERT INTO keys (id, kind, owner, period, wrapped, created) SELECT CAST(zeroblob(15) || x'01' AS BLOB), kind, owner, 'x' || period, wrapped, created FROM keys WHERE kind = 'payload' LIMIT 1")
	ahead.Add(int64(2 * time.Hour))
	old := w.now().Add(-time.Hour).UTC().Format("2006-01-02T15:04Z")
	until(t, "the answer and its key to be gone", func() bool {
		return w.count("SELECT (SELECT count(*) FROM payloads) + (SELECT count(*) FROM keys WHERE kind = 'payload' AND period < ?)", old) == 0
	})
	if w.count("SELECT count(*) FROM keys WHERE period LIKE 'x%'") != 1 {
		t.Error("the damaged key, which says no time, is gone")
	}
}

// again restarts a broker with another retention.
func (w *world) again(retention time.Duration) {
	w.close()
	w.cfg.Retention = retention
	w.open()
}

// state is what a history says of the only disclosure about marie.
func (w *world) state() broker.HistoryState {
	w.t.Helper()
	h := w.history(subjectOf(w.t, marie), broker.HistoryPage{Kind: proof.KindDisclosure})
	if len(h.Entries) != 1 {
		w.t.Fatalf("%+v", h)
	}
	return h.Entries[0].State
}

// becomes waits until the disclosure has a state.
func (w *world) becomes(want broker.HistoryState) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		got := w.state()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the record is %s, not %s\n%s", got, want, w.logs)
		}
	}
}

// endRetention does what the sweeper does, and returns when it is done.
func (w *world) endRetention() {
	w.t.Helper()
	if err := w.b.EndRetention(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// told counts the entries that give a month's key a state.
func (w *world) told(key, state string) (n int) {
	w.t.Helper()
	cp, err := w.b.Log().AwaitPublished(w.t.Context(), proof.Index(w.b.Log().Checkpoint().Size()-1))
	if err != nil {
		w.t.Fatal(err)
	}
	tree := tiles.Tree{Dir: w.b.PublicDir(), Size: cp.Size(), Root: cp.Root()}
	for i := range cp.Size() {
		text, err := tree.Entry(i)
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := proof.ParseEntry(text)
		if err != nil {
			w.t.Fatal(err)
		}
		if k, ok := e.(proof.KeyChanged); ok && k.Key == key && string(k.State) == state {
			n++
		}
	}
	return n
}

// TestRetentionEndsByTheLog moves the clock beyond a month's retention: the keys are destroyed, the log says so before, and the agency's receipt still stands.
func TestRetentionEndsByTheLog(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, day, nil)
	a := w.disclose(request())
	w.verify(a.Receipt)
	w.travel(&ahead)
	w.becomes(broker.HistoryRetired)
	if _, err := w.b.Disclosure(t.Context(), w.caller, a.ID); err == nil || broker.AsProblem(err).Code != "disclosure.retired" {
		t.Errorf("the record can still be read: %v", err)
	}
	w.verify(a.Receipt)
	// Its provider is told so too, and no other provider that there was anything.
	for provider, want := range map[string]string{"caisse": "disclosure.retired", "autre": "disclosure.unknown"} {
		got, err := w.b.ProviderReceipts(t.Context(), []string{provider}, []store.ID{a.ID})
		if err != nil || got[0].Problem == nil || got[0].Problem.Code != want {
			t.Errorf("%s is told %+v, %v", provider, got, err)
		}
	}
	month := keys.MonthOf(time.Now())
	for _, key := range []string{"record." + month, "label." + month} {
		if n := w.told(key, "destroyed"); n != 1 {
			t.Errorf("the log told the end of %s %d times", key, n)
		}
	}
}

// TestShorterRetentionKeepsPromises: the end of retention was computed from the configuration of the day, so a shorter one destroyed months before the time that the log had promised.
func TestShorterRetentionKeepsPromises(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 60*day, func(c *broker.Config) { c.SweepEvery = time.Hour })
	w.disclose(request())
	w.again(day)
	month := keys.MonthOf(time.Now())
	w.travel(&ahead)
	w.endRetention()
	if got := w.state(); got != broker.HistoryOpen || w.told("record."+month, "destroyed") != 0 {
		t.Fatalf("40 days later the record is %s, though 60 days after its month were promised", got)
	}
	w.travel(&ahead)
	w.travel(&ahead)
	w.endRetention()
	if got := w.state(); got != broker.HistoryRetired {
		t.Errorf("120 days later the record is %s", got)
	}
	if n := w.told("record."+month, "active"); n != 1 {
		t.Errorf("%d promises", n)
	}
}

// TestLongerRetentionIsPromised: a longer retention is in force for what is there already, and the log says so.
func TestLongerRetentionIsPromised(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, day, func(c *broker.Config) { c.SweepEvery = time.Hour })
	w.disclose(request())
	month := keys.MonthOf(time.Now())
	w.again(60 * day)
	if n := w.told("record."+month, "active"); n != 2 {
		t.Errorf("%d promises, want the first and the longer one", n)
	}
	w.again(60 * day)
	if n := w.told("record."+month, "active"); n != 2 {
		t.Errorf("%d promises after another start", n)
	}
	w.travel(&ahead)
	w.endRetention()
	if got := w.state(); got != broker.HistoryOpen {
		t.Errorf("40 days later the record is %s", got)
	}
}

// TestEarlyDestructionIsNoExcuse: a key that was destroyed before the promised end is missing, whatever the log says about it.
func TestEarlyDestructionIsNoExcuse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	w.disclose(request())
	month := keys.MonthOf(time.Now())
	if err := w.b.AnnounceEnd(t.Context(), month); err != nil {
		t.Fatal(err)
	}
	if w.told("record."+month, "destroyed") != 1 {
		t.Fatal("the log doesn't tell of the destruction: this test shows nothing")
	}
	w.close()
	w.tamper("DELETE FROM keys WHERE kind = ?", string(keys.KindMonth))
	w.open()
	if got := w.state(); got != broker.HistoryDamaged {
		t.Errorf("the record is %s", got)
	}
}

// TestUnpromisedEndIsNoExcuse: a destruction that the log told explains nothing without a promise that was made in time. One whose month had never been promised passed for the end of its retention.
func TestUnpromisedEndIsNoExcuse(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, day, nil)
	w.disclose(request())
	w.travel(&ahead)
	w.becomes(broker.HistoryRetired)
	month := keys.MonthOf(time.Now())
	w.close()
	promise := fmt.Sprintf("key record.%s active %%", month)
	for _, lie := range []string{
		"UPDATE leaves SET text = replace(text, 'state active', 'state retired') WHERE log_index = (SELECT value FROM meta WHERE name LIKE ?)",
		"DELETE FROM meta WHERE name LIKE ?",
	} {
		w.tamper(lie, promise)
		w.cfg.SweepEvery = time.Hour
		w.open()
		if got := w.state(); got != broker.HistoryDamaged {
			t.Errorf("%s: the record is %s", lie, got)
		}
		w.close()
	}
	w.open()
}

// TestKeyMadeAheadOfItsMonth: a key is made up to an hour before its month. One that vanished was explained by the end of the month before.
func TestKeyMadeAheadOfItsMonth(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	now := time.Now().UTC()
	if later := now.Add(45 * time.Minute); later.Month() != now.Month() { // the month is about to end by itself: begin in the one after it
		ahead.Store(int64(45 * time.Minute))
		now = later
	}
	next := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)
	month, nextMonth := keys.MonthOf(now), keys.MonthOf(next)
	w := newTraveller(t, &ahead, day, nil)
	w.disclose(&broker.Request{ // so that there is something to end
		Service: "household", Scopes: []string{"quotient"}, Purpose: "cantine", LegalBasis: "crpa-l114-8", Recipient: recipient, Context: "c", Object: "o",
		Subject: broker.SubjectInput{Type: "pivot", Pivot: proof.Pivot{BirthName: "Autre", GivenNames: "Zoé", BirthDate: "1984-02-29", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"}},
	})
	ahead.Add(int64(next.Sub(now) - 30*time.Minute))
	for deadline := time.Now().Add(patience); w.count("SELECT count(*) FROM keys WHERE kind = 'month' AND period = ?", nextMonth) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no key was made ahead")
		}
	}
	ahead.Add(int64(time.Hour))
	w.disclose(request())
	ahead.Add(int64(2 * day))
	other := request()
	other.Subject.Pivot.BirthName = "Voyage"
	for deadline := time.Now().Add(patience); w.told("record."+month, "destroyed") == 0; time.Sleep(20 * time.Millisecond) {
		w.disclose(other)
		if time.Now().After(deadline) {
			t.Fatalf("the month before didn't end\n%s", w.logs)
		}
	}
	if got := w.state(); got != broker.HistoryOpen {
		t.Fatalf("the record of the new month is %s", got)
	}
	w.close()
	w.tamper("DELETE FROM keys WHERE kind = 'month' AND period = ?", nextMonth)
	w.open()
	if got := w.state(); got != broker.HistoryDamaged {
		t.Errorf("the record is %s", got)
	}
}

// TestEndedMonthIsUnreadable: whoever takes the whole disk and the keystore after the end of a month's retention reads nothing of it: neither who was asked about nor what. The person parts
// stayed readable under the subjects' keys, while the agency was told that the details are destroyed.
func TestEndedMonthIsUnreadable(t *testing.T) {
	t.Parallel()
	data, custodian := withKeystore(t)
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, day, func(c *broker.Config) { c.DataDir, c.Custodian = data, custodian })
	req := request()
	req.IdempotencyKey = "k1"
	a := w.disclose(req)
	w.history(subjectOf(t, marie), broker.HistoryPage{})
	before := steal(t, data)
	w.travel(&ahead)
	w.becomes(broker.HistoryRetired)
	later := w.disclose(request()) // somebody who is still known
	after := steal(t, data)
	files := after.files()
	before.open()
	after.open()

	old := before.records("SELECT log_index, owner, person, admin FROM records")
	if len(old) < 3 {
		t.Fatalf("%d records", len(old))
	}
	now := map[int64]storedRecord{}
	for _, r := range after.records("SELECT log_index, owner, person, admin FROM records") {
		now[r.index] = r
	}
	for _, r := range old {
		if !before.unseals(r.person, r.owner) || !before.unseals(r.admin, nil) {
			t.Fatal("before the end the thief's way doesn't open anything either: it shows nothing")
		}
		if got := now[r.index]; len(got.person) != 0 || after.unseals(got.admin, nil) {
			t.Errorf("record %d can be read", r.index)
		}
		if bytes.Contains(files, r.person) || bytes.Contains(files, r.person[len(r.person)-24:]) {
			t.Errorf("the person part of record %d lingers in a file", r.index)
		}
	}
	for _, k := range before.rows {
		if k.Period != "" && k.Period == keys.MonthOf(time.Now()) && bytes.Contains(files, k.Wrapped[len(k.Wrapped)-24:]) {
			t.Errorf("the %s key lingers in a file", k.Kind)
		}
	}
	if n := w.count("SELECT count(*) FROM disclosures WHERE id = ? AND (idem IS NOT NULL OR body IS NOT NULL)", a.ID[:]); n != 0 {
		t.Error("a digest of the request is left")
	}
	r, err := proof.ParseReceipt(later.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	if got := now[int64(r.Index())]; !after.unseals(got.person, got.owner) {
		t.Error("a record of a later month can't be read")
	}
}

type storedRecord struct {
	index                int64
	owner, person, admin []byte
}

func (s *stolen) records(query string) (out []storedRecord) {
	s.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "store", "store.db")+"?_pragma=query_only(1)")
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(s.t.Context(), query)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var r storedRecord
		if err := rows.Scan(&r.index, &r.owner, &r.person, &r.admin); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// TestEndOfRetentionIsCarriedThrough: a crash hits after the log told the end and some of the parts were gone. Whatever is read then isn't called damaged, and the next process finishes it.
func TestEndOfRetentionIsCarriedThrough(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, day, func(c *broker.Config) { c.SweepEvery = time.Hour })
	a := w.disclose(request())
	month := keys.MonthOf(time.Now())
	// Whoever keeps an outline of it learns of each step, without opening anything.
	standing := func(lasts bool, details int) {
		t.Helper()
		at := slices.IndexFunc(w.own(subjectOf(t, marie)), func(e broker.OwnEntry) bool { return e.Index == indexOf(t, a) })
		e := w.own(subjectOf(t, marie))[at]
		lasting, err := w.b.Lasting(t.Context(), []keys.KeyID{e.Under})
		n, nerr := w.b.OwnDetails(t.Context(), subjectOf(t, marie), e.Index, e.Index)
		if err != nil || nerr != nil || e.Under.IsZero() || lasting[e.Under] != lasts || n != details {
			t.Errorf("its month lasts: %v, %d of 1 have details, want %v and %d (%v, %v)", lasting[e.Under], n, lasts, details, err, nerr)
		}
	}
	standing(true, 1)
	w.travel(&ahead)
	standing(true, 1)
	if err := w.b.AnnounceEnd(t.Context(), month); err != nil {
		t.Fatal(err)
	}
	standing(false, 1)
	if n, err := w.b.OwnDetails(t.Context(), subjectOf(t, marie), 0, indexOf(t, a)-1); err != nil || n != 0 {
		t.Errorf("%d before it have details, %v", n, err)
	}
	if got := w.state(); got != broker.HistoryOpen {
		t.Errorf("while all of it is there it is %s", got)
	}
	w.close()
	w.tamper("UPDATE records SET person = x'' WHERE log_index = (SELECT min(log_index) FROM records WHERE position = 0)")
	w.open()
	standing(false, 0)
	if got := w.state(); got != broker.HistoryRetired || w.count("SELECT count(*) FROM keys WHERE kind = 'month' AND period = ?", month) != 1 {
		t.Errorf("while its month's key is still there it is %s", got)
	}
	w.close()
	w.cfg.SweepEvery = 50 * time.Millisecond
	w.open()
	for deadline := time.Now().Add(patience); w.count("SELECT count(*) FROM keys WHERE period = ?", month) != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the month's keys are still there\n%s", w.logs)
		}
	}
	w.becomes(broker.HistoryRetired)
	standing(false, 0)
	if n := w.told("record."+month, "destroyed"); n != 1 {
		t.Errorf("the end was told %d times", n)
	}
}

func (w *world) count(query string, args ...any) (n int) {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.cfg.DataDir, "store", "store.db")+"?_pragma=query_only(1)&_pragma=busy_timeout(5000)")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(w.t.Context(), query, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestSealingMonth: an entry's place in the log tells which months' keys may have sealed its record, so a request that a long crash interrupted is sealed under the month of now.
func TestSealingMonth(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newWorld(t, func(c *broker.Config) {
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	year, month, _ := time.Now().UTC().Date()
	start := time.Date(year, month+1, 1, 0, 10, 0, 0, time.UTC) // of a month
	ahead.Store(int64(time.Until(start)))
	rec, err := proof.NewRecord(proof.SchemaDisclosure, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(at time.Time) keys.KeyID {
		blob, err := w.b.SealAdmin(t.Context(), at, rec)
		if err != nil {
			t.Fatal(err)
		}
		id, err := keys.KeyOf(blob)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	asked := start.Add(-time.Hour)
	this := sealed(start)
	if sealed(asked) == this {
		t.Error("asked in the last month and sealed within a day: it is sealed under this month's key")
	}
	ahead.Add(int64(25 * time.Hour))
	if sealed(asked) != this {
		t.Error("asked in the last month and sealed days later: it isn't sealed under this month's key")
	}
}

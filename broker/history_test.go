package broker_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

var helpDesk = broker.AccessBy{Reader: "uid-1000", Role: proof.RoleOperator, Reason: "call 42"}

func subjectOf(t testing.TB, p proof.Pivot) proof.Subject {
	t.Helper()
	s, err := p.Subject()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) history(s proof.Subject, page broker.HistoryPage) *broker.History {
	w.t.Helper()
	h, err := w.b.History(w.t.Context(), s, helpDesk, page)
	if err != nil {
		w.t.Fatalf("history: %v", err)
	}
	return h
}

// altered is a sealed part with another last byte, in SQL.
func altered(column string) string {
	return fmt.Sprintf("substr(%[1]s, 1, length(%[1]s) - 1) || CASE substr(%[1]s, -1) WHEN x'00' THEN x'01' ELSE x'00' END", column)
}

// tamper changes the store's file behind the broker's back.
func (w *world) tamper(query string, args ...any) {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.cfg.DataDir, "store", "store.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	res, err := db.ExecContext(w.t.Context(), query, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		w.t.Fatalf("%s changed nothing (%v)", query, err)
	}
}

func TestHistoryShowsWhatThePersonSees(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	before := time.Now().Add(-time.Second)
	a := w.disclose(request())
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	size := w.b.Log().Checkpoint().Size()
	h := w.history(subjectOf(t, marie), broker.HistoryPage{})
	if len(h.Entries) != 1 || h.Logged != 1 || h.Next != 0 {
		t.Fatalf("%+v", h)
	}
	got := h.Entries[0]
	if got.Disclosure == nil || got.Disclosure.AskedAt.Before(before) || got.Disclosure.ID == "" {
		t.Fatalf("%+v", got.Disclosure)
	}
	got.Disclosure.AskedAt, got.Disclosure.ID = time.Time{}, ""
	want := broker.HistoryEntry{Index: r.Index(), Kind: proof.KindDisclosure, State: broker.HistoryOpen, Disclosure: &broker.DisclosureSeen{
		Role: "asked", Agency: "mairie", Provider: "caisse", Service: "household@1", Purpose: "cantine", LegalBasis: "crpa-l114-8", Outcome: "released", Released: []string{"/data/quotient/valeur"},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := w.b.Log().Checkpoint().Size(); got != size+1 {
		t.Errorf("the log grew by %d entries, not by 1", got-size)
	}

	// The access is the person's, too, with all it says.
	h = w.history(subjectOf(t, marie), broker.HistoryPage{})
	if len(h.Entries) != 2 || h.Entries[0].Access == nil {
		t.Fatalf("%+v", h)
	}
	access := *h.Entries[0].Access
	if access.At.Before(before) {
		t.Errorf("at %v", access.At)
	}
	access.At = time.Time{}
	if d := cmp.Diff(broker.AccessSeen{Reader: "uid-1000", Role: "operator", Reason: "call 42", Target: r.Index(), Fields: []string{
		"agency", "asked_at", "cause", "disclosure", "legal_basis", "outcome", "provider", "purpose", "released", "role", "service",
	}}, access); d != "" {
		t.Error(d)
	}
	for _, text := range []string{"agent-7", "CONTEXTMARKER", "dossier 42", "Zoé", "ZOE"} {
		if strings.Contains(string(w.published()), text) || strings.Contains(w.logs.String(), text) {
			t.Errorf("%q came out", text)
		}
	}
	// What was logged is filed in the person's roll like everything else.
	filed, err := w.b.Filed(t.Context())
	if err != nil || filed[broker.Name(subjectOf(t, marie))] != 4 {
		t.Errorf("%d entries of the person, want 4 (%v)", filed[broker.Name(subjectOf(t, marie))], err)
	}
}

func TestHistoryIsOneIdentifiersAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	other := request()
	other.Subject.Pivot.BirthName = "Quelqu'un d'autre"
	for range 3 {
		w.disclose(request())
		w.disclose(other)
	}
	mine, theirs := w.history(subjectOf(t, marie), broker.HistoryPage{}), w.history(subjectOf(t, other.Subject.Pivot), broker.HistoryPage{})
	seen := map[proof.Index]bool{}
	for _, e := range append(mine.Entries, theirs.Entries...) {
		if seen[e.Index] {
			t.Errorf("entry %d is in both histories", e.Index)
		}
		seen[e.Index] = true
	}
	if len(mine.Entries) != 3 || len(theirs.Entries) != 3 {
		t.Errorf("%d and %d entries", len(mine.Entries), len(theirs.Entries))
	}
	size := w.b.Log().Checkpoint().Size()
	nobody := marie
	nobody.BirthName = "Personne"
	if h := w.history(subjectOf(t, nobody), broker.HistoryPage{}); len(h.Entries) != 0 || h.Logged != 0 || w.b.Log().Checkpoint().Size() != size {
		t.Errorf("somebody without entries: %+v", h)
	}

	// A row that was put under another owner opens for nobody.
	var theirOwner []byte
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.cfg.DataDir, "store", "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), "SELECT owner FROM records WHERE log_index = ?", int64(theirs.Entries[0].Index)).Scan(&theirOwner); err != nil {
		t.Fatal(err)
	}
	w.tamper("UPDATE records SET owner = ? WHERE log_index = ?", theirOwner, int64(mine.Entries[0].Index))
	for _, e := range w.history(subjectOf(t, other.Subject.Pivot), broker.HistoryPage{Kind: proof.KindDisclosure}).Entries {
		if e.Index == mine.Entries[0].Index && (e.State != broker.HistoryDamaged || e.Disclosure != nil) {
			t.Errorf("another's record was shown: %+v", e)
		}
	}
}

func TestHistoryInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for range 7 {
		w.disclose(request())
	}
	all := w.history(subjectOf(t, marie), broker.HistoryPage{Kind: proof.KindDisclosure})
	if len(all.Entries) != 7 || !slices.IsSortedFunc(all.Entries, func(a, b broker.HistoryEntry) int { return int(b.Index) - int(a.Index) }) {
		t.Fatalf("%+v", all)
	}
	var got []broker.HistoryEntry
	page := broker.HistoryPage{Kind: proof.KindDisclosure, Limit: 3}
	for calls := 0; ; calls++ {
		h := w.history(subjectOf(t, marie), page)
		if h.Logged != len(h.Entries) || len(h.Entries) > 3 || calls > 3 {
			t.Fatalf("page %d: %+v", calls, h)
		}
		got = append(got, h.Entries...)
		if page.Before = h.Next; h.Next == 0 {
			break
		}
	}
	if d := cmp.Diff(all.Entries, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []broker.HistoryPage{{Limit: -1}, {Limit: 201}, {Kind: proof.KindKey}, {Kind: proof.KindDeferred}} {
		if _, err := w.b.History(t.Context(), subjectOf(t, marie), helpDesk, bad); broker.AsProblem(err).Status != 400 {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, bad := range []broker.AccessBy{{}, {Reader: "uid-1", Role: "operator"}, {Reader: "uid-1", Role: "operator", Reason: " "}, {Reader: "uid-1", Role: "operator", Reason: "\u0301\u200b"}, {Reader: "uid-1", Role: "agent", Reason: "r"},
		{Reader: "UID 1", Role: "operator", Reason: "r"}, {Reader: "uid-1", Role: "operator", Reason: "a\nb"}, {Reader: "uid-1", Role: "operator", Reason: strings.Repeat("x", 201)}} {
		if _, err := w.b.History(t.Context(), subjectOf(t, marie), bad, broker.HistoryPage{}); broker.AsProblem(err).Status != 400 {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// counting counts the data keys that a custodian unwraps: whoever opens nothing needs none.
type counting struct {
	*faulty
	unwrapped atomic.Int64
}

func (c *counting) Unwrap(ctx context.Context, in []keys.WrappedAD) ([][32]byte, error) {
	c.unwrapped.Add(int64(len(in)))
	return c.faulty.Unwrap(ctx, in)
}

// TestNothingIsOpenedThatIsNotLogged: a record of another month needs a key that sealing the access doesn't. While the log can't sign, nobody asks for it.
func TestNothingIsOpenedThatIsNotLogged(t *testing.T) {
	t.Parallel()
	custodian := &counting{faulty: newFaulty(t)}
	var ahead atomic.Int64
	w := newWorld(t, func(c *broker.Config) {
		c.Custodian, c.SweepEvery = custodian, time.Hour
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	subject, other := subjectOf(t, marie), request()
	w.disclose(request())
	w.travel(&ahead)
	w.close()
	w.open()
	other.Scopes = []string{"address"} // refused: the agreement has ended, too; what matters is that keys of person and month are in the cache
	if a := w.disclose(other); a.Outcome != broker.Denied {
		t.Fatalf("%+v", a)
	}
	w.published()
	before := custodian.unwrapped.Load()
	custodian.down("Sign", errors.New("down"))
	h, err := w.b.History(t.Context(), subject, helpDesk, broker.HistoryPage{})
	if p := broker.AsProblem(err); h != nil || p.Status != 503 || p.Code != "log.unavailable" {
		t.Fatalf("the log can't sign: %+v, %v", h, err)
	}
	if n := custodian.unwrapped.Load() - before; n != 0 {
		t.Fatalf("%d keys were unwrapped for records whose access isn't logged", n)
	}
	custodian.up()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		h, err = w.b.History(t.Context(), subject, helpDesk, broker.HistoryPage{})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if custodian.unwrapped.Load() == before {
		t.Error("no key was unwrapped for opening either: this test shows nothing")
	}
	// What was about to be opened is in the log all the same: rather too much than too little.
	seen := 0
	for _, e := range h.Entries {
		if e.State != broker.HistoryOpen {
			t.Errorf("%+v", e)
		}
		if e.Kind == proof.KindAccess {
			seen++
		}
	}
	if seen < 2 {
		t.Errorf("%d accesses in the history, want those of the call that failed: 2 or more", seen)
	}
}

// TestHistoryWaitsForTheCheckpoint: while the signed checkpoint isn't durable the access is in the order and nothing has come out.
func TestHistoryWaitsForTheCheckpoint(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	held, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(c *broker.Config) {
		c.SetAt(func(stage string) {
			if stage == "sign" && armed.CompareAndSwap(true, false) {
				close(held)
				<-release
			}
		})
	})
	w.disclose(request())
	before := w.rows("records")
	armed.Store(true)
	type result struct {
		h   *broker.History
		err error
	}
	out := make(chan result, 1)
	go func() {
		h, err := w.b.History(t.Context(), subjectOf(t, marie), helpDesk, broker.HistoryPage{})
		out <- result{h, err}
	}()
	<-held
	if n := w.rows("records"); n != before+1 {
		t.Errorf("%d records before the checkpoint, want %d", n, before+1)
	}
	select {
	case r := <-out:
		t.Errorf("there is a history before the checkpoint: %+v", r)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if r := <-out; r.err != nil || len(r.h.Entries) != 1 || r.h.Logged != 1 {
		t.Errorf("%+v", r)
	}
}

// travel lets 40 days pass, in steps that a log believes.
func (w *world) travel(ahead *atomic.Int64) {
	w.t.Helper()
	for range 2 {
		now := time.Now().Add(time.Duration(ahead.Add(int64(20 * 24 * time.Hour))))
		for deadline := time.Now().Add(patience); w.b.Log().OpenEpoch().Opened.Before(now.Add(-time.Minute)); time.Sleep(20 * time.Millisecond) {
			other := openly(request()) // somebody else's: any entry tells the log the time
			other.Subject.Pivot.BirthName = "Voyage"
			if _, err := w.b.Disclose(w.t.Context(), w.caller, other); time.Now().After(deadline) {
				w.t.Fatalf("no new epoch: %v", err)
			}
		}
	}
}

func (w *world) rows(tbl string) (n int) {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.cfg.DataDir, "store", "store.db")+"?_pragma=query_only(1)")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(w.t.Context(), "SELECT count(*) FROM "+tbl).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestHistoryTellsErasedFromDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *broker.Config) { c.CacheKeys = 1 })
	subject := subjectOf(t, marie)
	w.disclose(request())
	w.history(subject, broker.HistoryPage{})
	e, err := w.b.Erase(t.Context(), subject, "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	h := w.history(subject, broker.HistoryPage{})
	if len(h.Entries) != 3 || h.Logged != 1 {
		t.Fatalf("%+v", h)
	}
	if x := h.Entries[0]; x.Index != e.Index || x.Erasure == nil || x.Erasure.Reach != e.Reach || x.Erasure.Ground != "rgpd-17" || x.Erasure.ErasedAt.IsZero() {
		t.Errorf("the erasure: %+v %+v", x, x.Erasure)
	}
	for _, x := range h.Entries[1:] {
		if x.State != broker.HistoryErased || x.Disclosure != nil || x.Access != nil {
			t.Errorf("before the erasure: %+v", x)
		}
	}

	// What comes after the erasure is readable; an erasure excuses nothing that lies beyond it.
	w.disclose(request())
	h = w.history(subject, broker.HistoryPage{Kind: proof.KindDisclosure})
	if len(h.Entries) != 2 || h.Entries[0].State != broker.HistoryOpen || h.Entries[1].State != broker.HistoryErased {
		t.Fatalf("%+v", h)
	}
	late := h.Entries[0].Index
	w.close()
	w.tamper("DELETE FROM keys WHERE kind = ?", string(keys.KindSubject))
	w.open()
	states := map[proof.Index]broker.HistoryState{}
	h = w.history(subject, broker.HistoryPage{})
	for _, x := range h.Entries {
		states[x.Index] = x.State
	}
	if states[late] != broker.HistoryDamaged {
		t.Errorf("a key that was destroyed without an erasure: %v", states[late])
	}
	if states[e.Index] != broker.HistoryOpen {
		t.Errorf("the erasure: %v", states[e.Index])
	}
}

func TestDamagedRecordsAreAnAlarm(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"person part":    "UPDATE records SET person = " + altered("person") + " WHERE log_index = ?",
		"admin part":     "UPDATE records SET admin = " + altered("admin") + " WHERE log_index = ?",
		"header":         "UPDATE records SET person = x'0102' WHERE log_index = ?",
		"entry":          "UPDATE leaves SET text = x'00' WHERE log_index = ?",
		"other entry":    "UPDATE leaves SET text = (SELECT text FROM leaves WHERE kind = 'disclosure@v1' ORDER BY log_index LIMIT 1) WHERE log_index = ?",
		"another record": "UPDATE records SET (person, admin) = (SELECT person, admin FROM records ORDER BY log_index LIMIT 1) WHERE log_index = ?",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			for range 3 {
				w.disclose(request())
			}
			bad := w.history(subjectOf(t, marie), broker.HistoryPage{Kind: proof.KindDisclosure}).Entries[1].Index
			w.tamper(damage, int64(bad))
			h, err := w.b.History(t.Context(), subjectOf(t, marie), helpDesk, broker.HistoryPage{Kind: proof.KindDisclosure})
			if errors.Is(w.b.Log().Err(), ledger.ErrHalted) && strings.HasPrefix(damage, "UPDATE leaves") {
				return // whoever publishes came first, and saw it as well
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range h.Entries {
				want := broker.HistoryOpen
				if e.Index == bad {
					want = broker.HistoryDamaged
				}
				if e.State != want || (e.Disclosure != nil) != (want == broker.HistoryOpen) {
					t.Errorf("entry %d is %s, want %s", e.Index, e.State, want)
				}
			}
		})
	}
}

func TestHistoryAfterRetention(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newWorld(t, func(c *broker.Config) {
		c.Retention, c.SweepEvery = 24*time.Hour, 50*time.Millisecond
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	w.disclose(request())
	w.travel(&ahead)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		h := w.history(subjectOf(t, marie), broker.HistoryPage{Kind: proof.KindDisclosure})
		if len(h.Entries) == 1 && h.Entries[0].State == broker.HistoryRetired && h.Logged == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", h)
		}
	}
}

// TestHistoryWhileErasing: whatever a history shows, it is never called damaged.
func TestHistoryWhileErasing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	subject := subjectOf(t, marie)
	done := make(chan error, 1)
	w.disclose(request())
	go func() {
		for range 4 {
			if _, err := w.b.Erase(t.Context(), subject, "rgpd-17"); err != nil {
				done <- err
				return
			}
			if _, err := w.b.Disclose(t.Context(), w.caller, request()); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for n := 0; ; n++ {
		h, err := w.b.History(t.Context(), subject, helpDesk, broker.HistoryPage{Limit: 20})
		if err != nil && broker.AsProblem(err).Code != "subject.erasing" {
			t.Fatal(err)
		}
		if err == nil {
			for _, e := range h.Entries {
				if e.State == broker.HistoryDamaged {
					t.Errorf("%+v", e)
				}
			}
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

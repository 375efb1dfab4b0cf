package broker_test

import (
	"database/sql"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// asked is what an account's person reads of their requests for erasure.
func (w *world) asked(a broker.Account) []broker.ErasureRequest {
	w.t.Helper()
	list, err := w.b.ErasureRequests(w.t.Context(), a)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// erasing is how the identifiers of the newest request stand, as type:state:blocked.
func (w *world) erasing(a broker.Account) string {
	w.t.Helper()
	list := w.asked(a)
	if len(list) == 0 {
		return ""
	}
	var out []string
	for _, x := range list[0].Identifiers {
		out = append(out, string(x.Type)+":"+x.State+":"+x.Blocked)
	}
	return strings.Join(out, " ")
}

// studying adds an identifier to an account that is its person's alone, as names without a birth place aren't.
func studying(t testing.TB, a broker.Account) broker.Account {
	t.Helper()
	ine, err := proof.INE("012345678AB")
	if err != nil {
		t.Fatal(err)
	}
	a.Subjects = append(slices.Clone(a.Subjects), ine)
	return a
}

// erasable are the identifiers of an account that its person can have erased.
func erasable(a broker.Account) []proof.Subject {
	return slices.DeleteFunc(slices.Clone(a.Subjects), func(s proof.Subject) bool { return !broker.Erasable(s.Type()) })
}

// ask asks for the erasure of all of an account's identifiers that can be erased so.
func (w *world) ask(a broker.Account) store.ID {
	w.t.Helper()
	if err := w.b.RequestErasure(w.t.Context(), a, erasable(a), w.now()); err != nil {
		w.t.Fatal(err)
	}
	return w.asked(a)[0].ID
}

// age moves the clock on. The log sees no leap that it wouldn't believe: somebody is asked about now and then.
func (w *world) age(ahead *atomic.Int64, d time.Duration) {
	w.t.Helper()
	for ; d > 0; d -= 10 * day {
		ahead.Add(int64(min(d, 10*day)))
		req := request()
		req.Subject.Pivot = killPivot("UN AUTRE")
		w.disclose(req)
	}
}

func (w *world) now() time.Time {
	if w.cfg.Clock != nil {
		return w.cfg.Clock()
	}
	return time.Now()
}

func (w *world) erased(a broker.Account) func() bool {
	return func() bool {
		return w.erasing(a) == "pivot:done: ine:done:" || w.erasing(a) == "ine:done: pivot:done:"
	}
}

func TestErasureIsAskedForUndoneAndCarriedOut(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, nil)
	ctx := t.Context()
	me := studying(t, account(t, marie))
	if err := w.b.Enrol(ctx, me); err != nil {
		t.Fatal(err)
	}
	w.disclose(request())
	for name, at := range map[string]time.Time{"an old sign-in": w.now().Add(-6 * time.Minute), "none": {}, "one that is yet to come": w.now().Add(time.Hour)} {
		wantCode(t, name, w.b.RequestErasure(ctx, me, erasable(me), at), 403, "session.stale")
	}
	wantCode(t, "what may be a namesake's", w.b.RequestErasure(ctx, me, me.Subjects, w.now()), 409, "erasure.shared")
	siren, err := proof.SIREN("130025265")
	if err != nil {
		t.Fatal(err)
	}
	representing := me
	representing.Subjects = append(slices.Clone(me.Subjects), siren)
	wantCode(t, "a business's, which has other representatives", w.b.RequestErasure(ctx, representing, []proof.Subject{me.Pivot, siren}, w.now()), 409, "erasure.shared")
	wantCode(t, "nothing", w.b.RequestErasure(ctx, me, nil, w.now()), 400, "request.invalid")
	wantCode(t, "somebody else's identifier", w.b.RequestErasure(ctx, me, []proof.Subject{me.Pivot, subjectOf(t, killPivot("other"))}, w.now()), 400, "request.invalid")
	if len(w.asked(me)) != 0 {
		t.Fatal("a request that was refused is there")
	}
	first := w.ask(me)
	if due := w.asked(me)[0].Due.Sub(w.asked(me)[0].Asked); due != 30*day {
		t.Errorf("it is due after %v", due)
	}
	if again := w.ask(me); again != first || len(w.asked(me)) != 1 {
		t.Error("what is asked for twice is two requests")
	}
	wantCode(t, "undoing somebody else's", w.b.UndoErasure(ctx, account(t, killPivot("other")), first), 404, "erasure.unknown")
	wantCode(t, "undoing what never was", w.b.UndoErasure(ctx, me, store.ID(uuid.New())), 404, "erasure.unknown")
	if err := w.b.UndoErasure(ctx, me, first); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "undoing it twice", w.b.UndoErasure(ctx, me, first), 409, "erasure.ended")
	w.age(&ahead, 31*day)
	second := w.ask(me)
	if n := len(w.asked(me)); n != 2 {
		t.Errorf("%d requests", n)
	}
	// Right before it is due it can be undone, and is not carried out.
	w.age(&ahead, 30*day-time.Minute)
	if got := w.asked(me)[0]; got.ID != second || !got.Undoable() {
		t.Errorf("%+v", got)
	}
	if w.state() != broker.HistoryOpen {
		t.Error("it was carried out before its time")
	}
	// A restart on the way changes nothing.
	w.close()
	ahead.Add(int64(2 * time.Minute))
	w.open()
	until(t, "both identifiers are erased", w.erased(me))
	got := w.asked(me)[0]
	if got.Undoable() || got.Identifiers[0].Index == 0 || got.Identifiers[0].Ended.IsZero() {
		t.Errorf("%+v", got)
	}
	wantCode(t, "undoing what was carried out", w.b.UndoErasure(ctx, me, second), 409, "erasure.ended")
	if w.state() != broker.HistoryErased {
		t.Errorf("the record is %s", w.state())
	}
	h := w.history(me.Pivot, broker.HistoryPage{Kind: proof.KindErasure})
	if len(h.Entries) != 1 || h.Entries[0].Erasure == nil || h.Entries[0].Erasure.Ground != "rgpd-17" {
		t.Errorf("%+v", h.Entries)
	}
	// The account is gone with it; nobody is told of anything any more.
	_, err = w.b.Profile(ctx, me)
	wantCode(t, "the account", err, 404, "account.unknown")
	// Long after, the requests are forgotten.
	w.age(&ahead, 91*day)
	until(t, "the requests are forgotten", func() bool { return len(w.asked(me)) == 0 })
}

func TestHoldKeepsFromErasure(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, func(c *broker.Config) { c.CoolOff = time.Second })
	ctx := t.Context()
	me := studying(t, account(t, marie))
	if err := w.b.Enrol(ctx, me); err != nil {
		t.Fatal(err)
	}
	w.disclose(request())
	for name, x := range map[string]struct {
		subjects   []proof.Subject
		basis, ref string
		until      time.Time
	}{
		"nobody":      {nil, "cpp-60-1", "r", time.Time{}},
		"twice":       {[]proof.Subject{me.Pivot, me.Pivot}, "cpp-60-1", "r", time.Time{}},
		"too many":    {make([]proof.Subject, 17), "cpp-60-1", "r", time.Time{}},
		"no basis":    {me.Subjects, "", "r", time.Time{}},
		"no ref":      {me.Subjects, "b", "", time.Time{}},
		"two lines":   {me.Subjects, "b", "a\nb", time.Time{}},
		"too long":    {me.Subjects, strings.Repeat("b", 201), "r", time.Time{}},
		"in the past": {me.Subjects, "b", "r", w.now().Add(-time.Minute)},
	} {
		_, err := w.b.AddHold(ctx, x.subjects, x.basis, x.ref, x.until)
		wantCode(t, name, err, 400, "request.invalid")
	}
	id, err := w.b.AddHold(ctx, erasable(me), "code de procédure pénale, article 60-1", "TJ 2026/123 HOLDMARKER", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.b.AddHold(ctx, me.Subjects[:1], "second", "other", w.now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	holds, err := w.b.Holds(ctx)
	if err != nil || len(holds) != 2 || holds[0].ID != id || holds[0].Identifiers != 2 || holds[0].Over || holds[0].Reference != "TJ 2026/123 HOLDMARKER" || holds[1].ID != second || holds[1].Identifiers != 1 {
		t.Fatalf("%+v, %v", holds, err)
	}
	size := w.b.Log().Checkpoint().Size()
	_, err = w.b.Erase(ctx, me.Pivot, "rgpd-17")
	wantCode(t, "an operator's erasure", err, 409, "erasure.held")
	if w.b.Log().Checkpoint().Size() != size {
		t.Error("a hold, or what it held back, stands in the log")
	}
	w.ask(me)
	ahead.Add(int64(time.Minute))
	untilTold := func(event string) {
		t.Helper()
		until(t, "told of "+event, func() bool {
			page, err := w.b.Notices(ctx, me, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range page.Notices {
				if n.Kind == store.NoticeErasure && n.Event == event {
					return true
				}
			}
			return false
		})
	}
	untilTold("blocked.hold")
	got := w.asked(me)[0]
	if got.Identifiers[0].Blocked != "hold" || got.Identifiers[0].Basis == "" || strings.Contains(got.Identifiers[0].Basis, "HOLDMARKER") {
		t.Errorf("%+v", got)
	}
	if waiting, blocked, err := w.b.CountErasures(ctx); err != nil || waiting != 2 || blocked == 0 {
		t.Errorf("%d wait, %d are blocked, %v", waiting, blocked, err)
	}
	if err := w.b.RemoveHold(ctx, id); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "removing it twice", w.b.RemoveHold(ctx, id), 404, "hold.unknown")
	ahead.Add(int64(2 * time.Minute))
	until(t, "the one that isn't held is erased", func() bool { return strings.Contains(w.erasing(me), "ine:done:") })
	if !strings.Contains(w.erasing(me), "pivot:waiting:hold") {
		t.Errorf("states: %s", w.erasing(me))
	}
	// The other hold ends by itself.
	ahead.Add(int64(2 * time.Hour))
	until(t, "both are erased", w.erased(me))
	if holds, err := w.b.Holds(ctx); err != nil || len(holds) != 0 {
		t.Errorf("holds of somebody who was erased: %+v, %v", holds, err)
	}
	if strings.Contains(w.logs.String(), "HOLDMARKER") {
		t.Error("the hold's reference stands in the broker's log")
	}
}

// TestLeapErasesNobody: a clock that leaps further than the log believes begins no erasure that its person may still undo, or that a hold forbids, and delays none once it is right again.
func TestLeapErasesNobody(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, nil)
	ctx := t.Context()
	me, held := studying(t, account(t, marie)), account(t, killPivot("EIN ANDERER"))
	for _, a := range []broker.Account{me, held} {
		if err := w.b.Enrol(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	req := request()
	req.IdempotencyKey = "for-a-repeat"
	w.disclose(req)
	if _, err := w.b.AddHold(ctx, erasable(held), "cpp-60-1", "r", w.now().Add(40*day)); err != nil {
		t.Fatal(err)
	}
	mine, theirs := w.ask(me), w.ask(held)
	ahead.Store(int64(365 * day))
	until(t, "a round in the future", func() bool { return w.count("SELECT count(*) FROM payloads") == 0 })
	time.Sleep(500 * time.Millisecond) // more of them
	if e, err := w.b.Erase(ctx, erasable(held)[0], "rgpd-17"); err == nil {
		t.Errorf("the operator erased what is held: %+v", e)
	}
	ahead.Store(0)
	w.age(&ahead, 20*day)
	if got := w.erasing(me); strings.Contains(got, "done") || strings.Contains(w.erasing(held), "done") || w.state() != broker.HistoryOpen {
		t.Fatalf("%s %s %s", got, w.erasing(held), w.state())
	}
	if err := w.b.UndoErasure(ctx, held, theirs); err != nil {
		t.Error(err)
	}
	// What isn't undone comes on its day.
	w.age(&ahead, 11*day)
	until(t, "the erasure", w.erased(me))
	wantCode(t, "undoing what was carried out", w.b.UndoErasure(ctx, me, mine), 409, "erasure.ended")
}

// TestErasureWaitsForAContest, and goes on when that is answered.
func TestErasureWaitsForAContest(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, func(c *broker.Config) { c.CoolOff = time.Second })
	ctx := t.Context()
	me := studying(t, account(t, marie))
	c, err := w.b.FileContest(ctx, me, w.disclose(request()).ID, "x")
	if err != nil {
		t.Fatal(err)
	}
	w.ask(me)
	ahead.Add(int64(time.Minute))
	until(t, "the other identifier is erased", func() bool { return strings.Contains(w.erasing(me), "ine:done:") })
	if !strings.Contains(w.erasing(me), "pivot:waiting:contest") {
		t.Errorf("states: %s", w.erasing(me))
	}
	if _, err := w.b.AnswerContest(ctx, w.caller, c.ID, broker.ContestExplained, "Pour la cantine."); err != nil {
		t.Fatal(err)
	}
	ahead.Add(int64(2 * time.Minute))
	until(t, "both are erased", w.erased(me))
}

// TestErasureByTheOperatorEndsTheRequest: what a person asked for is done, whoever did it.
func TestErasureByTheOperatorEndsTheRequest(t *testing.T) {
	w := newWorld(t, nil)
	me := studying(t, account(t, marie))
	w.disclose(request())
	w.ask(me)
	e, err := w.b.Erase(t.Context(), me.Pivot, "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range w.asked(me)[0].Identifiers {
		if (x.Type == proof.TypePivot) != (x.State == "done") || x.State == "done" && x.Index != e.Index {
			t.Errorf("%+v", x)
		}
	}
}

// TestUndoneInTheLastInstant: whoever undoes it before it has begun is obeyed, whatever the sweeper has read before.
func TestUndoneInTheLastInstant(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	ctx := t.Context()
	me := studying(t, account(t, marie))
	w.disclose(request())
	id := w.ask(me)
	due, err := w.b.Store().DueErasures(ctx, w.now().Add(31*day), 10)
	if err != nil || len(due) != 2 {
		t.Fatalf("%+v, %v", due, err)
	}
	if err := w.b.UndoErasure(ctx, me, id); err != nil {
		t.Fatal(err)
	}
	for i := range due {
		err := w.b.EraseFor(ctx, erasable(me)[i], due[i].ID)
		wantCode(t, "the sweeper's erasure", err, 409, "erasure.ended")
	}
	if w.b.Erasing(me.Pivot) || w.state() != broker.HistoryOpen {
		t.Error("the person is being erased")
	}
}

// TestErasureKilledAtTheEnd: the keys are destroyed and nothing else is noted: the next process ends the request and doesn't erase twice.
func TestErasureKilledAtTheEnd(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.CoolOff, c.SweepEvery = time.Millisecond, 20*time.Millisecond })
	ctx := t.Context()
	me := studying(t, account(t, marie))
	w.disclose(request())
	// As if it were killed there, each time.
	w.sql("CREATE TRIGGER kill BEFORE UPDATE OF done ON erasures BEGIN SELECT RAISE(ABORT, 'killed'); END")
	if err := w.b.RequestErasure(ctx, me, me.Subjects[:1], w.now()); err != nil {
		t.Fatal(err)
	}
	until(t, "its keys are destroyed", func() bool { return w.b.Erasing(me.Pivot) && w.b.Keyless(me.Pivot) })
	if got := w.erasing(me); got != "pivot:waiting:" {
		t.Errorf("states: %s", got)
	}
	w.close()
	w.sql("DROP TRIGGER kill")
	w.open()
	until(t, "the request has ended", func() bool { return w.erasing(me) == "pivot:done:" })
	if h := w.history(me.Pivot, broker.HistoryPage{Kind: proof.KindErasure}); len(h.Entries) != 1 {
		t.Errorf("%d erasures", len(h.Entries))
	}
}

// sql runs a statement on the store's file beside the broker.
func (w *world) sql(query string) {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+store.FileIn(filepath.Join(w.cfg.DataDir, "store"))+"?_pragma=busy_timeout(5000)")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(w.t.Context(), query); err != nil {
		w.t.Fatal(err)
	}
}

// TestNothingIsKeptOfWhoIsBeingErased: what stands under another identifier names the account, too, so it waits for an erasure of either.
func TestNothingIsKeptOfWhoIsBeingErased(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	me, ward := studying(t, account(t, marie)), account(t, killPivot("ward"))
	other := request()
	other.Subject.Pivot = killPivot("other")
	id := w.disclose(other).ID // the answer names her, without a place of birth
	writes := map[string]func() error{
		"a contest":    func() error { _, err := w.b.FileContest(ctx, me, id, "Pourquoi ?"); return err },
		"a request":    func() error { return w.b.RequestErasure(ctx, me, me.Subjects[2:], w.now()) },
		"a delegation": func() error { _, err := w.b.GrantDelegation(ctx, grant(t, me, ward)); return err },
	}
	w.b.HoldErasure(me.Pivot, true)
	for name, write := range writes {
		wantCode(t, name, write(), 503, "subject.erasing")
	}
	w.b.HoldErasure(me.Pivot, false)
	for name, write := range writes {
		if err := write(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

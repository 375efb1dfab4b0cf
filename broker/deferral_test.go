package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// enquete is an agreement with a lawful delay of 40 days.
func enquete() policy.Agreement {
	return policy.Agreement{
		ID: "enquete", Agency: "mairie", Service: "household", Scopes: []policy.Scope{"quotient"},
		Purposes: []policy.Purpose{"enquete"}, LegalBases: []policy.LegalBasis{"cpp-60-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * 24 * time.Hour),
		Deferral: &policy.Deferral{Authority: "Tribunal judiciaire d'Exempleville", Article: "CPP art. 60-1", Reference: "2026/118", Days: 40},
	}
}

// investigating is a world with that agreement. Its clock is the test's; nothing is opened by itself but at the times that the test travels to.
func investigating(t testing.TB, change func(*broker.Config)) (*world, *atomic.Int64) {
	t.Helper()
	w, ahead := clocked(t, change)
	if _, err := w.b.PutAgreement(t.Context(), enquete()); err != nil {
		t.Fatal(err)
	}
	return w, ahead
}

// openly names the agreement without a delay, as an agency must that has one with a delay.
func openly(r *broker.Request) *broker.Request {
	r.Agreement = "cantine"
	return r
}

// secretly asks under the delay.
func secretly() *broker.Request {
	r := request()
	r.Agreement, r.Purpose, r.LegalBasis = "enquete", "enquete", "cpp-60-1"
	return r
}

func receiptOf(t testing.TB, text []byte) *proof.Receipt {
	t.Helper()
	r, err := proof.ParseReceipt(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return r
}

// counts how many entries of each kind the log holds.
func (w *world) kinds() map[proof.Kind]int {
	w.t.Helper()
	out := map[proof.Kind]int{}
	for _, k := range proof.Kinds() {
		out[k] = w.count("SELECT count(*) FROM leaves WHERE kind = ?", string(k))
	}
	return out
}

// everybody's histories together, by kind: what is in anybody's.
func (w *world) seenBy(s ...proof.Subject) string {
	w.t.Helper()
	var out []string
	for _, s := range s {
		h, err := w.b.History(w.t.Context(), s, broker.AccessBy{Reader: "uid-1000", Role: proof.RoleOperator, Reason: "test"}, broker.HistoryPage{})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range h.Entries {
			if e.Kind != proof.KindAccess {
				out = append(out, fmt.Sprintf("%s %s", e.Kind, e.State))
			}
		}
	}
	return strings.Join(out, ", ")
}

func (w *world) end(id store.ID) int {
	w.t.Helper()
	n, err := w.b.EndDeferral(w.t.Context(), id, "lifted")
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.logs)
	}
	return n
}

// noe is whom the answers name beside marie.
func noe(t testing.TB) proof.Subject {
	t.Helper()
	s, err := proof.Person{BirthName: "EXEMPLE FICTIF", GivenNames: "NOÉ", BirthDate: "2015-06", Sex: "M"}.Subject()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDeferred goes through a delay from the request to its end.
func TestDeferred(t *testing.T) {
	w, ahead := investigating(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	people := append(both(t), noe(t))
	before := w.kinds()
	asked := w.b.Log().OpenEpoch().Number
	a := w.disclose(secretly())
	if a.Outcome != broker.Released || !bytes.Contains(a.Data, []byte("1234")) {
		t.Fatalf("%+v", a)
	}
	// The agency has its receipt at once: of a deferred@v1 entry, which says why and until when.
	r := receiptOf(t, a.Receipt)
	d, ok := r.Entry().(proof.Deferred)
	due := a.AskedAt.UTC().AddDate(0, 0, 40)
	if !ok || d.Authority != "Tribunal judiciaire d'Exempleville" || d.Article != "CPP art. 60-1" || d.Month != due.Format("2006-01") {
		t.Fatalf("%T %+v", r.Entry(), r.Entry())
	}
	if v := w.verify(a.Receipt); v.Kind != proof.KindDeferred || v.InRoll {
		t.Errorf("%+v", v)
	}
	// All entries of the disclosure, and no other.
	after := w.kinds()
	if after[proof.KindDeferred]-before[proof.KindDeferred] != 2 || after[proof.KindDisclosure] != before[proof.KindDisclosure] || after[proof.KindOpened] != 0 {
		t.Errorf("before %v, after %v", before, after)
	}
	if got := w.seenBy(people...); got != "" {
		t.Errorf("the people see %s", got)
	}
	w.turn(ahead)
	w.turn(ahead)
	v := w.historyFile(people, allEpochs)
	if len(v.Entries) != 0 || v.Deferrals != (proof.Deferrals{Pending: 2, Counted: true}) || !v.Complete() {
		t.Errorf("%+v", v)
	}
	// It never settles, however often the agency asks.
	got, err := w.b.Disclosure(t.Context(), w.caller, a.ID)
	if err != nil || got.Settled || !bytes.Equal(receiptOf(t, got.Receipt).EntryText(), r.EntryText()) {
		t.Errorf("%+v, %v", got, err)
	}
	list, next, err := w.b.Deferrals(t.Context(), 0)
	if err != nil || next != 0 || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	l := list[0]
	if l.Disclosure != a.ID || l.Entries != 2 || l.Accesses != 0 || !l.Until.Equal(due) || l.Month != d.Month || l.Overdue || l.Authority != d.Authority {
		t.Errorf("%+v", l)
	}
	if n, late, err := w.b.DeferralCounts(t.Context()); n != 2 || late != 0 || err != nil {
		t.Errorf("%d pending, %d overdue, %v", n, late, err)
	}

	if n := w.end(a.ID); n != 2 {
		t.Errorf("%d entries were opened", n)
	}
	opened := w.b.Log().OpenEpoch().Number
	if got := w.seenBy(people...); got != "opened@v1 open, opened@v1 open" {
		t.Errorf("the people see %s", got)
	}
	h := w.history(people[0], broker.HistoryPage{Kind: proof.KindOpened})
	if len(h.Entries) != 1 {
		t.Fatalf("%+v", h.Entries)
	}
	e := h.Entries[0]
	if e.Disclosure == nil || e.Disclosure.ID != uuid.UUID(a.ID).String() || e.Disclosure.Purpose != "enquete" || e.Delay == nil || e.Delay.Authority != d.Authority || e.Delay.Article != d.Article ||
		e.Delay.Deferred != r.Index() || e.Delay.Month != d.Month || e.Delay.OpenedAt.Before(e.Disclosure.AskedAt) {
		t.Errorf("%+v, %+v", e.Disclosure, e.Delay)
	}
	w.turn(ahead)
	v = w.historyFile(people, allEpochs)
	ended := slices.DeleteFunc(slices.Clone(v.Entries), func(e proof.VerifiedEntry) bool { return e.Kind == proof.KindAccess }) // of the test's own looks
	if len(ended) != 2 || !v.Complete() || v.Deferrals != (proof.Deferrals{Counted: true}) {
		t.Fatalf("%+v", v)
	}
	for _, e := range ended {
		if e.Kind != proof.KindOpened || e.State != proof.RecordOpen || e.Epoch != opened || e.Deferred == nil || e.Deferred.Epoch != asked || e.Withheld != 0 {
			t.Errorf("%+v", e)
		}
	}
	// Now the receipt is that of the entry that points back, and settles.
	got, err = w.b.Disclosure(t.Context(), w.caller, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	again := receiptOf(t, got.Receipt)
	o, ok := again.Entry().(proof.Opened)
	if !ok || o.Deferred != r.Index() || o.Commitment != d.Commitment || !got.Settled || w.verify(got.Receipt).InRoll != true {
		t.Errorf("%+v, %+v", again.Entry(), got)
	}
	if _, err := w.b.EndDeferral(t.Context(), a.ID, "again"); codeOf(err) != "deferral.unknown" {
		t.Errorf("ended twice: %v", err)
	}
	if w.rows("deferrals") != 0 || w.count("SELECT count(*) FROM keys WHERE kind = 'deferred'") != 0 || w.kinds()[proof.KindOpened] != 2 {
		t.Error("something of it is left")
	}
}

func TestEndDeferralRefuses(t *testing.T) {
	w, _ := investigating(t, nil)
	a := w.disclose(openly(request()))
	for name, c := range map[string]struct {
		id     store.ID
		reason string
		want   string
	}{
		"no reason":       {a.ID, " ", "request.invalid"},
		"a line feed":     {a.ID, "a\nb", "request.invalid"},
		"a long reason":   {a.ID, strings.Repeat("x", 201), "request.invalid"},
		"nobody's":        {store.ID{1}, "lifted", "deferral.unknown"},
		"a disclosure":    {a.ID, "lifted", "deferral.unknown"},
		"the zero id":     {store.ID{}, "lifted", "deferral.unknown"},
		"not UTF-8":       {a.ID, "\xff", "request.invalid"},
		"an empty reason": {a.ID, "", "request.invalid"},
		"marks alone":     {a.ID, "\u0301", "request.invalid"},
	} {
		if _, err := w.b.EndDeferral(t.Context(), c.id, c.reason); codeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// TestDeferredOutcomes: whatever comes of a request under such an agreement is deferred, and opened.
func TestDeferredOutcomes(t *testing.T) {
	w, ahead := investigating(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	answer := func(f func(http.ResponseWriter)) {
		w.provider.mu.Lock()
		defer w.provider.mu.Unlock()
		w.provider.answer = func(rw http.ResponseWriter, r *http.Request) { f(rw) }
	}
	var ids []store.ID
	for _, c := range []struct {
		want broker.Outcome
		set  func(*broker.Request)
	}{
		{broker.Denied, func(r *broker.Request) { r.Scopes = []string{"address"} }},
		{broker.Empty, func(r *broker.Request) {
			answer(func(rw http.ResponseWriter) {
				rw.Header().Set("Content-Type", "application/json")
				rw.WriteHeader(404)
				_, _ = rw.Write([]byte(`{"errors":[{"code":"37003","title":"x"}]}`))
			})
		}},
		{broker.Failed, func(r *broker.Request) { answer(func(rw http.ResponseWriter) { rw.WriteHeader(500) }) }},
		{broker.Released, func(r *broker.Request) { answer(func(rw http.ResponseWriter) { household(rw, nil) }) }},
	} {
		req := secretly()
		c.set(req)
		a := w.disclose(req)
		if a.Outcome != c.want || w.verify(a.Receipt).Kind != proof.KindDeferred {
			t.Errorf("%s: %s, %+v", c.want, a.Outcome, a.Problem)
		}
		ids = append(ids, a.ID)
	}
	// An agreement that was revoked since doesn't tell either.
	if _, err := w.b.RevokeAgreement(t.Context(), "enquete"); err != nil {
		t.Fatal(err)
	}
	a := w.disclose(secretly())
	if a.Outcome != broker.Denied || w.verify(a.Receipt).Kind != proof.KindDeferred {
		t.Errorf("revoked: %s", a.Outcome)
	}
	ids = append(ids, a.ID)
	if got := w.seenBy(both(t)...); got != "" {
		t.Errorf("marie sees %s", got)
	}
	for _, id := range ids {
		w.end(id)
	}
	w.turn(ahead)
	v := w.historyFile(both(t)[:1], allEpochs)
	var outcomes []string
	for _, e := range v.Entries {
		outcomes = append(outcomes, e.Opening.Text(proof.DisclosureOutcome))
	}
	slices.Sort(outcomes)
	if !slices.Equal(outcomes, []string{"denied", "denied", "empty", "failed", "released"}) {
		t.Errorf("%v", outcomes)
	}
}

// waitFor waits until something is so.
func (w *world) waitFor(what string, so func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not in 60 s\n%s", what, w.logs)
		}
	}
}

// TestDelayEndsByItself: the sweeper opens what is due, and nothing else.
func TestDelayEndsByItself(t *testing.T) {
	w, ahead := investigating(t, func(c *broker.Config) { c.SweepEvery = 20 * time.Millisecond })
	first := w.disclose(secretly())
	w.travel(ahead) // 40 days
	w.waitFor("the first is opened", func() bool { return w.kinds()[proof.KindOpened] == 2 })
	second := w.disclose(secretly())
	list, _, err := w.b.Deferrals(t.Context(), 0)
	if err != nil || len(list) != 1 || list[0].Disclosure != second.ID {
		t.Fatalf("%+v, %v; the first is %v", list, err, first.ID)
	}
	was := w.b.Log().OpenEpoch().Number
	ahead.Add(int64(11 * time.Minute))
	w.waitFor("the epoch closes", func() bool {
		other := openly(request())
		other.Subject.Pivot.BirthName = "Passage"
		w.disclose(other)
		return w.b.Log().OpenEpoch().Number > was
	})
	if _, err := w.b.Log().AwaitPublished(t.Context(), w.b.Log().OpenEpoch().Marker); err != nil {
		t.Fatal(err)
	}
	v := w.historyFile(both(t)[:1], allEpochs)
	if n := len(v.Entries); n != 1 || v.Entries[0].Kind != proof.KindOpened || v.Deferrals.Pending != 2 {
		t.Errorf("%+v", v.Deferrals)
	}
}

// TestErasureDuringADelay: an erasure doesn't reach what is deferred, takes no notice of it, and reaches it afterwards.
func TestErasureDuringADelay(t *testing.T) {
	w, ahead := investigating(t, func(c *broker.Config) { c.SweepEvery = 20 * time.Millisecond })
	marie := subjectOf(t, marie)
	plain := w.disclose(openly(request()))
	a := w.disclose(secretly())
	if _, err := w.b.Erase(t.Context(), marie, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	if got := w.seenBy(marie); got != "erasure@v1 erased, disclosure@v1 erased" && got != "erasure@v1 open, disclosure@v1 erased" {
		t.Errorf("after the erasure: %s", got)
	}
	// The agency still has its answer's receipt, with the subject in it.
	got, err := w.b.Disclosure(t.Context(), w.caller, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receiptOf(t, got.Receipt).Opening().Subject(); err != nil {
		t.Errorf("the erasure reached a deferred record: %v", err)
	}
	w.end(a.ID) // it, or the sweeper, opens both
	w.waitFor("both to be opened", func() bool { return w.kinds()[proof.KindOpened] == 2 })
	w.turn(ahead)
	v := w.historyFile([]proof.Subject{marie}, allEpochs)
	states := map[proof.Kind]proof.RecordState{}
	for _, e := range v.Entries {
		states[e.Kind] = e.State
	}
	if states[proof.KindDisclosure] != proof.RecordErased || states[proof.KindOpened] != proof.RecordOpen {
		t.Errorf("%v; the plain one is %d", states, indexOf(t, plain))
	}
	if _, err := w.b.Erase(t.Context(), marie, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	w.turn(ahead)
	v = w.historyFile([]proof.Subject{marie}, allEpochs)
	for _, e := range v.Entries {
		if e.Kind == proof.KindOpened && e.State != proof.RecordErased {
			t.Errorf("a later erasure doesn't reach it: %v", e.State)
		}
	}
}

// TestDelayedRequestWaitsForNoErasure, and no erasure for it: either would tell.
func TestDelayedRequestWaitsForNoErasure(t *testing.T) {
	w, _ := investigating(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	arrived, leave := make(chan struct{}), make(chan struct{})
	w.provider.mu.Lock()
	w.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-leave
		household(rw, r)
	}
	w.provider.mu.Unlock()
	done := make(chan *broker.Answer, 1)
	go func() {
		a, err := w.b.Disclose(t.Context(), w.caller, secretly())
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	<-arrived
	// The request is under way, and the erasure ends all the same.
	if _, err := w.b.Erase(t.Context(), subjectOf(t, marie), "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	close(leave)
	a := <-done
	if a == nil || a.Outcome != broker.Released {
		t.Fatalf("%+v", a)
	}
	if n := w.end(a.ID); n != 2 {
		t.Errorf("%d opened", n)
	}
	if got := w.seenBy(subjectOf(t, marie)); !strings.HasPrefix(got, "opened@v1 open, ") {
		t.Errorf("it stands after the reach: %s", got)
	}
}

// TestOpeningWaitsForAnErasure of somebody whom it concerns.
func TestOpeningWaitsForAnErasure(t *testing.T) {
	f := newFaulty(t)
	w, _ := investigating(t, func(c *broker.Config) { c.SweepEvery, c.Custodian = time.Hour, f })
	a := w.disclose(secretly())
	w.disclose(openly(request()))
	w.b.HoldErasure(subjectOf(t, marie), true)
	if _, err := w.b.EndDeferral(t.Context(), a.ID, "lifted"); codeOf(err) != "deferral.waiting" {
		t.Errorf("while somebody is erased: %v", err)
	}
	if n := w.kinds()[proof.KindOpened]; n != 0 {
		t.Errorf("%d opened", n)
	}
	w.b.HoldErasure(subjectOf(t, marie), false)
	if n := w.end(a.ID); n != 2 {
		t.Errorf("%d opened", n)
	}
	if list, _, err := w.b.Deferrals(t.Context(), 0); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestDeferredRepeat: a repeat gets the same answer, before and after the delay ends.
func TestDeferredRepeat(t *testing.T) {
	w, _ := investigating(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	req := secretly()
	req.IdempotencyKey = "once"
	first := w.disclose(req)
	for range 2 {
		again := w.disclose(req)
		if !again.Repeated || !bytes.Equal(again.Data, first.Data) || again.ID != first.ID {
			t.Fatalf("%+v", again)
		}
		if len(w.provider.requests()) != 1 {
			t.Error("the provider was asked twice")
		}
		if w.kinds()[proof.KindOpened] == 0 {
			w.end(first.ID)
		}
	}
}

// TestDelayedAccess: an auditor opens a deferred record; the access is deferred and opened with it.
func TestDelayedAccess(t *testing.T) {
	w, ahead := investigating(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	cour := w.auditor("cour")
	plain, a := w.disclose(openly(request())), w.disclose(secretly())
	target := indexOf(t, a)
	before := w.kinds()
	o := w.openings(cour, broker.OpeningsRequest{Indexes: []proof.Index{target, indexOf(t, plain)}})
	if o.Entries[0].State != broker.OpeningOpen || o.Entries[1].State != broker.OpeningOpen {
		t.Fatal(statesOf(o))
	}
	after := w.kinds()
	if after[proof.KindDeferred] != before[proof.KindDeferred]+1 || after[proof.KindAccess] != before[proof.KindAccess]+1 {
		t.Errorf("before %v, after %v", before, after)
	}
	r := receiptOf(t, o.Entries[0].Receipt)
	if _, err := r.Opening().Subject(); err == nil || r.Opening().Text(proof.DisclosurePurpose) != "enquete" {
		t.Errorf("the auditor is shown %+v", r.Opening())
	}
	// The access is itself such an entry, of the same authority, article and month; opening it costs another one.
	access := o.Entries[0].Access
	second := w.openings(cour, broker.OpeningsRequest{Indexes: []proof.Index{access}})
	if statesOf(second) != fmt.Sprintf("%d open", access) {
		t.Fatal(statesOf(second))
	}
	ar := receiptOf(t, second.Entries[0].Receipt)
	x, y := ar.Entry().(proof.Deferred), r.Entry().(proof.Deferred)
	if ar.Opening().Schema() != proof.SchemaAccess || ar.Opening().Text(proof.AccessTarget) != target.String() || x.Authority != y.Authority || x.Article != y.Article || x.Month != y.Month {
		t.Errorf("%+v, %+v", x, ar.Opening())
	}
	if got := w.seenBy(both(t)...); strings.Contains(got, "deferred") || strings.Contains(got, "opened") {
		t.Errorf("marie sees %s", got)
	}
	// marie knows of the access to the plain one alone.
	if h := w.history(subjectOf(t, marie), broker.HistoryPage{Kind: proof.KindAccess}); h.Entries == nil || slices.ContainsFunc(h.Entries, func(e broker.HistoryEntry) bool { return e.Access != nil && e.Access.Target == target }) {
		t.Errorf("%+v", h.Entries)
	}
	if list, _, err := w.b.Deferrals(t.Context(), 0); err != nil || len(list) != 1 || list[0].Entries != 2 || list[0].Accesses != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	if n := w.end(a.ID); n != 4 {
		t.Errorf("%d opened, want two entries and two accesses", n)
	}
	w.turn(ahead)
	v := w.historyFile(both(t)[:1], allEpochs)
	schemas := map[proof.Schema]int{}
	for _, e := range v.Entries {
		if e.Kind == proof.KindOpened {
			schemas[e.Opening.Schema()]++
		}
	}
	if schemas[proof.SchemaDisclosure] != 1 || schemas[proof.SchemaAccess] != 2 || !v.Complete() {
		t.Errorf("%v", schemas)
	}
	h := w.history(subjectOf(t, marie), broker.HistoryPage{Kind: proof.KindOpened})
	accesses := 0
	for _, e := range h.Entries {
		if e.Access != nil && e.Access.Reader == "cour" && e.Delay != nil {
			accesses++
		}
	}
	if len(h.Entries) != 3 || accesses != 2 {
		t.Errorf("%+v", h.Entries)
	}
	// The deferred entries have no record any more; each says where it is.
	o = w.openings(cour, broker.OpeningsRequest{Indexes: []proof.Index{target, access}})
	for _, e := range o.Entries {
		if e.State != broker.OpeningOpened || e.Opened == 0 || e.Access != 0 {
			t.Errorf("%+v", e)
		}
	}
	// An access to an opened record is one like any other.
	before = w.kinds()
	o = w.openings(cour, broker.OpeningsRequest{Indexes: []proof.Index{o.Entries[0].Opened}})
	if after := w.kinds(); o.Entries[0].State != broker.OpeningOpen || after[proof.KindAccess] != before[proof.KindAccess]+1 || after[proof.KindDeferred] != before[proof.KindDeferred] {
		t.Errorf("%s: before %v, after %v", statesOf(o), before, after)
	}
	// All entries of the disclosure, by its id.
	if o = w.openings(cour, broker.OpeningsRequest{Disclosure: a.ID}); len(o.Entries) != 2 || o.Entries[0].State != broker.OpeningOpen || o.Entries[1].Kind != proof.KindOpened {
		t.Errorf("%s", statesOf(o))
	}
}

// TestDamagedDelay: what can't be read is an alarm, and holds up nobody else.
func TestDamagedDelay(t *testing.T) {
	var logs *watched
	w, ahead := investigating(t, func(c *broker.Config) { logs, c.SweepEvery = heard(c), 20*time.Millisecond })
	bad, good := w.disclose(secretly()), w.disclose(secretly())
	w.tamper("UPDATE deferrals SET person = "+altered("person")+" WHERE log_index = ?", int64(indexOf(t, bad)))
	w.travel(ahead)
	w.waitFor("the good one is opened", func() bool { return w.kinds()[proof.KindOpened] == 2 })
	w.waitFor("the other is an alarm", func() bool { return w.b.Damage().Delays == 1 })
	list, _, err := w.b.Deferrals(t.Context(), 0)
	if err != nil || len(list) != 1 || list[0].Disclosure != bad.ID || !list[0].Overdue {
		t.Errorf("%+v, %v; the good one is %v", list, err, good.ID)
	}
	if _, late, err := w.b.DeferralCounts(t.Context()); late != 2 || err != nil {
		t.Errorf("%d overdue, %v", late, err)
	}
	if !strings.Contains(logs.text(), "DAMAGED RECORD: a delay is over") {
		t.Error("no alarm")
	}
}

// TestAgreementsWithADelay: only such are put in force as can be kept.
func TestAgreementsWithADelay(t *testing.T) {
	w, _ := clocked(t, nil)
	for name, c := range map[string]struct {
		change func(*policy.Agreement)
		want   string
	}{
		"longer than the retention": {func(a *policy.Agreement) { a.Deferral.Days = 3*365 - 30 }, "request.invalid"},
		"no days":                   {func(a *policy.Agreement) { a.Deferral.Days = 0 }, "agreement.invalid"},
		"no authority":              {func(a *policy.Agreement) { a.Deferral.Authority = "" }, "agreement.invalid"},
		"an authority unseen":       {func(a *policy.Agreement) { a.Deferral.Authority = "\u0301" }, "request.invalid"},
		"an article unseen":         {func(a *policy.Agreement) { a.Deferral.Article = "\u00a0\u1161" }, "request.invalid"},
		"told at once":              {func(a *policy.Agreement) { a.Obligations = []policy.Obligation{policy.ObligationNotifyPerson} }, "request.invalid"},
		"as long as it can be":      {func(a *policy.Agreement) { a.Deferral.Days = 3*365 - 31 }, ""},
	} {
		a := enquete()
		c.change(&a)
		if _, err := w.b.PutAgreement(t.Context(), a); codeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// heard has the broker's log go where it can be read while it works.
func heard(c *broker.Config) *watched {
	out := &syncWriter{w: &bytes.Buffer{}}
	c.Logger = slog.New(slog.NewTextHandler(out, nil))
	return &watched{out: out}
}

// TestRetentionWaitsForADelay: a month whose record should have been opened and couldn't be isn't ended; once the record is mended, both come.
func TestRetentionWaitsForADelay(t *testing.T) {
	var logs *watched
	w, ahead := clocked(t, func(c *broker.Config) {
		logs = heard(c)
		c.SweepEvery, c.Retention = 20*time.Millisecond, 60*24*time.Hour
	})
	short := enquete()
	short.Deferral.Days = 20
	if _, err := w.b.PutAgreement(t.Context(), short); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.PutAgreement(t.Context(), policy.Agreement{
		ID: "cantine", Agency: "mairie", Service: "household", Scopes: []policy.Scope{"quotient"}, Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * 24 * time.Hour),
	}); err != nil {
		t.Fatal(err)
	}
	a := w.disclose(secretly())
	index := int64(indexOf(t, a))
	month := a.AskedAt.UTC().Format("2006-01")
	there := func() int { return w.count("SELECT count(*) FROM keys WHERE kind = 'month' AND period = ?", month) }
	w.tamper("INSERT INTO intents (slot, disclosure, person, admin) SELECT 5000, 0, person, x'' FROM deferrals WHERE log_index = ?", index) // a place where nobody looks
	w.tamper("UPDATE deferrals SET person = zeroblob(length(person)) WHERE log_index = ?", index)
	w.travel(ahead) // 40 days
	other := w.disclose(openly(request())).AskedAt.UTC().Format("2006-01")
	for range 3 {
		w.travel(ahead)
	}
	// A later month, of which nothing is deferred, doesn't wait for it.
	w.waitFor("the end of another month", func() bool {
		return w.count("SELECT count(*) FROM keys WHERE kind = 'month' AND period = ?", other) == 0
	})
	w.waitFor("the alarm", func() bool { return strings.Contains(logs.text(), "a delay should have ended long ago") })
	if there() != 1 || w.b.Damage().Delays != 1 {
		t.Errorf("the month is gone, or nothing is damaged: %+v", w.b.Damage())
	}
	w.tamper("UPDATE deferrals SET person = (SELECT person FROM intents WHERE slot = 5000) WHERE log_index = ?", index)
	w.waitFor("it is opened", func() bool { return w.kinds()[proof.KindOpened] == 2 && w.b.Damage().Delays == 0 })
	w.waitFor("the month is ended", func() bool { return there() == 0 })
}

// TestDelayEndsMeanwhile: in the instant in which a delay ends, whoever reads its records is shown those of the end. Nobody hears that they were erased, or that anything is damaged.
func TestDelayEndsMeanwhile(t *testing.T) {
	w, _ := investigating(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	published := func(a *broker.Answer) *broker.Answer {
		t.Helper()
		w.published()
		return a
	}

	a := published(w.disclose(secretly()))
	r, err := w.b.ReceiptsAfter(t.Context(), "caisse", a.ID, func() { w.end(a.ID); w.published() })
	if err != nil || r.Erased || len(r.Receipts) != 2 {
		t.Fatalf("the provider: %+v, %v", r, err)
	}
	for _, text := range r.Receipts {
		r := receiptOf(t, text)
		if _, err := r.Opening().Subject(); err != nil || r.Entry().Kind() != proof.KindOpened {
			t.Errorf("the provider is shown %s, %v", r.Entry().Kind(), err)
		}
	}

	a = w.disclose(secretly())
	index, erased, err := w.b.EntryAfter(t.Context(), a.ID, func() { w.end(a.ID) })
	if err != nil || erased || index <= indexOf(t, a) {
		t.Errorf("the agency is shown entry %d, erased: %v, %v; deferred was %d", index, erased, err, indexOf(t, a))
	}

	w.auditor("cour")
	a = published(w.disclose(secretly()))
	entries, err := w.b.OpeningsAfter(t.Context(), "cour", a.ID, func() { w.end(a.ID) })
	if err != nil || len(entries) != 2 {
		t.Fatalf("the auditor: %+v, %v", entries, err)
	}
	for _, e := range entries {
		if e.State != broker.OpeningOpened || e.Opened == 0 {
			t.Errorf("the auditor is shown entry %d as %s, opened by %d", e.Index, e.State, e.Opened)
		}
	}
}

// TestDeferredKeyGone: no erasure destroys the key of a deferred record, so nobody is told that there was one.
func TestDeferredKeyGone(t *testing.T) {
	w, _ := investigating(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	cour := w.auditor("cour")
	a := w.disclose(secretly())
	w.published()
	w.tamper("DELETE FROM keys WHERE kind = 'deferred'")
	if r, err := w.b.ReceiptsAfter(t.Context(), "caisse", a.ID, func() {}); !errors.Is(err, keys.ErrAltered) || r.Erased || len(r.Receipts) != 0 {
		t.Errorf("the provider: %+v, %v", r, err)
	}
	if _, err := w.b.Disclosure(t.Context(), w.caller, a.ID); !errors.Is(err, keys.ErrAltered) {
		t.Errorf("the agency: %v", err)
	}
	o := w.openings(cour, broker.OpeningsRequest{Disclosure: a.ID})
	for _, e := range o.Entries {
		if e.State != broker.OpeningDamaged || e.Opened != 0 {
			t.Errorf("the auditor: %+v", e)
		}
	}
}

// TestAgreementUnclear: an agency some of whose requests are told later says of each whether it is such a one. What doesn't say so is refused before anything is recorded.
func TestAgreementUnclear(t *testing.T) {
	w, _ := investigating(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	yaml, err := os.ReadFile("testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := strings.NewReplacer("id: household", "id: elsewhere", "http://127.0.0.1:1", w.provider.URL).Replace(string(yaml))
	if _, err := w.b.PutService(t.Context(), []byte(elsewhere)); err != nil {
		t.Fatal(err)
	}
	cert := newCert(t, time.Hour)
	if err := w.b.AddAgency(t.Context(), "lycee", "Lycée d'Exemple", mairie, cert); err != nil {
		t.Fatal(err)
	}
	lycee, err := w.b.Authenticate(cert)
	if err != nil {
		t.Fatal(err)
	}
	const none = "" // is recorded
	cases := []struct {
		name               string
		caller             broker.Caller
		agreement, service string
		want               string
	}{
		{"names none", w.caller, "", "household", "agreement.unclear"},
		{"mistypes it", w.caller, "enquetes", "household", "agreement.unclear"},
		{"names it for another service", w.caller, "enquete", "elsewhere", "agreement.unclear"},
		{"mistypes it for another service", w.caller, "enquetes", "elsewhere", "agreement.unclear"},
		{"names none for another service", w.caller, "", "elsewhere", none},
		{"another agency names none", lycee, "", "household", none},
		{"another agency names it", lycee, "enquete", "household", none},
		{"names it", w.caller, "enquete", "household", none},
		{"names the one without a delay", w.caller, "cantine", "household", none},
	}
	problems := map[string]bool{}
	for _, state := range []string{"in force", "revoked"} { // over or not, it would be by mistake that somebody is told
		for _, c := range cases {
			before, asked := w.count("SELECT count(*) FROM disclosures"), len(w.provider.requests())
			req := secretly()
			req.Agreement, req.Service = c.agreement, c.service
			_, err := w.b.Disclose(t.Context(), c.caller, req)
			recorded := w.count("SELECT count(*) FROM disclosures") - before
			if codeOf(err) != c.want || (recorded == 0) != (c.want != none) || c.want != none && len(w.provider.requests()) != asked {
				t.Errorf("%s, %s: %v, %d recorded", state, c.name, err, recorded)
			}
			if err != nil {
				problems[fmt.Sprintf("%+v", *broker.AsProblem(err))] = true
			}
		}
		if state == "in force" {
			if _, err := w.b.RevokeAgreement(t.Context(), "enquete"); err != nil {
				t.Fatal(err)
			}
		}
	}
	// One form for all: an agency learns nothing of what others agreed on.
	if len(problems) != 1 {
		t.Errorf("%d forms of the problem: %v", len(problems), problems)
	}
}

// TestClockLeaps: a clock that leaps ahead for a moment, farther than the log follows it, ends no delay.
func TestClockLeaps(t *testing.T) {
	w, ahead := investigating(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	a := w.disclose(secretly())
	ahead.Add(int64(400 * 24 * time.Hour))
	if err := w.b.OpenDeferred(t.Context()); err != nil || w.kinds()[proof.KindOpened] != 0 {
		t.Errorf("%v; %v", err, w.kinds())
	}
	ahead.Store(0)
	list, _, err := w.b.Deferrals(t.Context(), 0)
	if err != nil || len(list) != 1 || list[0].Overdue || list[0].Disclosure != a.ID {
		t.Errorf("%+v, %v", list, err)
	}
	// It ends in its time.
	w.travel(ahead)
	if err := w.b.OpenDeferred(t.Context()); err != nil || w.kinds()[proof.KindOpened] != 2 {
		t.Errorf("%v; %v", err, w.kinds())
	}
}

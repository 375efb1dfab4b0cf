package broker_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

func (w *world) own(s proof.Subject) (out []broker.OwnEntry) {
	w.t.Helper()
	for before := proof.Index(0); ; {
		page, next, err := w.b.OwnEntries(w.t.Context(), s, before, 3)
		if err != nil {
			w.t.Fatalf("%v\n%s", err, w.logs)
		}
		if out = append(out, page...); next == 0 {
			return out
		}
		before = next
	}
}

func (w *world) ownRecord(i proof.Index) *broker.OwnRecord {
	w.t.Helper()
	r, err := w.b.OwnRecord(w.t.Context(), both(w.t), i)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.logs)
	}
	return r
}

// TestOwnEntries: a person reads their own entries of every outcome, page by page; nothing is logged for it, and nobody else's is among them.
func TestOwnEntries(t *testing.T) {
	w := newWorld(t, nil)
	denied := request()
	denied.Purpose, denied.Scopes = "publicite", []string{"members", "quotient"}
	other := request()
	other.Subject.Pivot.BirthName = "Quelqu'un d'autre"
	answers := []*broker.Answer{w.disclose(request()), w.disclose(denied), w.disclose(other)}
	before := w.b.Log().Checkpoint().Size()
	pivot, person := both(t)[0], both(t)[1]
	got := w.own(pivot)
	want := []broker.OwnEntry{
		{Index: indexOf(t, answers[1]), Kind: proof.KindDisclosure, State: broker.HistoryOpen, Role: "asked", Agency: "mairie", Provider: "caisse", Service: "household@1", Purpose: "publicite", LegalBasis: "crpa-l114-8",
			Outcome: "denied", Scopes: []service.Scope{"members", "quotient"}},
		{Index: indexOf(t, answers[0]), Kind: proof.KindDisclosure, State: broker.HistoryOpen, Role: "asked", Agency: "mairie", Provider: "caisse", Service: "household@1", Purpose: "cantine", LegalBasis: "crpa-l114-8",
			Outcome: "released", Scopes: []service.Scope{"quotient"}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(broker.OwnEntry{}, "At", "ID", "Provider", "Under")); diff != "" {
		t.Error(diff)
	}
	for _, e := range got {
		if e.At.IsZero() || e.ID == "" || e.Provider == "" {
			t.Errorf("%+v", e)
		}
	}
	// In the answer about somebody else there is a namesake of hers, for all that anybody can tell.
	got = w.own(person)
	if len(got) != 1 || !got[0].Namesake || got[0].Agency != "mairie" || got[0].Service != "household@1" || got[0].At.IsZero() {
		t.Fatalf("%+v", got)
	}
	if e := got[0]; e.ID+e.Role+e.Provider+e.Purpose+e.LegalBasis+e.Outcome != "" || e.Scopes != nil {
		t.Errorf("of what may be about somebody else, more than the outline is told: %+v", e)
	}
	for _, s := range []proof.Subject{pivot, person} {
		newest, err := w.b.NewestOwn(t.Context(), s)
		if err != nil || newest != w.own(s)[0].Index {
			t.Errorf("the newest is %d, %v", newest, err)
		}
	}
	stranger := marie
	stranger.BirthPlace = "13055"
	if newest, err := w.b.NewestOwn(t.Context(), subjectOf(t, stranger)); err != nil || newest != 0 || w.own(subjectOf(t, stranger)) != nil {
		t.Errorf("of somebody with another birth place: %d, %v", newest, err)
	}
	if size := w.b.Log().Checkpoint().Size(); size != before {
		t.Errorf("%d entries were logged because the person looked", size-before)
	}
	for _, limit := range []int{-1, 0, 201} {
		if _, _, err := w.b.OwnEntries(t.Context(), pivot, 0, limit); err == nil {
			t.Errorf("a page of %d", limit)
		}
	}
}

// TestOwnEntriesOfAccessesAndErasures: who opened a record, and what an erasure left.
func TestOwnEntriesOfAccessesAndErasures(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.CacheKeys = 1 })
	a := w.disclose(request())
	w.history(both(t)[0], broker.HistoryPage{})
	got := w.own(both(t)[0])
	if len(got) != 2 || got[0].Kind != proof.KindAccess || got[0].Reader != helpDesk.Reader || got[0].Reason != helpDesk.Reason || got[0].ReaderRole != proof.RoleOperator || got[0].Target != indexOf(t, a) {
		t.Fatalf("%+v", got)
	}
	e, err := w.b.Erase(t.Context(), both(t)[0], "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Log().AwaitPublished(t.Context(), e.Index); err != nil {
		t.Fatal(err)
	}
	got = w.own(both(t)[0])
	if len(got) != 3 || got[0].Kind != proof.KindErasure || got[0].State != broker.HistoryOpen || got[0].Reach < indexOf(t, a) || got[0].At.IsZero() {
		t.Fatalf("%+v", got)
	}
	if got[2].State != broker.HistoryErased || got[2].Agency != "mairie" || got[2].Outcome != "released" {
		t.Errorf("what is left of an erased record is the person's: %+v", got[2])
	}
	r := w.ownRecord(indexOf(t, a))
	if r.State != broker.HistoryErased || r.Opening.Text(proof.DisclosureContext) != "" || r.Opening.Text(proof.DisclosureRecipient) != recipient || r.Receipt == nil {
		t.Errorf("%+v", r)
	}
}

// TestOwnRecord: all of it but the agency's agent, with a receipt that verifies, and with the reasons of a refusal in words.
func TestOwnRecord(t *testing.T) {
	w, ahead := clocked(t, nil)
	denied := request()
	denied.Purpose = "publicite"
	other := request()
	other.Subject.Pivot.BirthName = "Quelqu'un d'autre"
	granted, refused, foreign := indexOf(t, w.disclose(request())), indexOf(t, w.disclose(denied)), indexOf(t, w.disclose(other))
	w.turn(ahead)
	r := w.ownRecord(granted)
	if r.Verdict.Index != granted || !r.Verdict.InRoll || len(r.Reasons) != 0 || r.Opening.Text(proof.DisclosureContext) == "" {
		t.Errorf("%+v", r)
	}
	for _, f := range proof.SchemaDisclosure.Fields() {
		if _, p := r.Opening.Value(f.Field); (p == proof.Hidden) != (f.Field == proof.DisclosureOfficial) {
			t.Errorf("%s: hidden %v", f.Name, p == proof.Hidden)
		}
	}
	if r.Agreement == nil || r.Agreement.ID != "cantine" {
		t.Errorf("%+v", r.Agreement)
	}
	text, err := r.Receipt.AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	if v := w.verify(text); v.Index != granted || !v.InRoll {
		t.Errorf("%+v", v)
	}
	r = w.ownRecord(refused)
	if len(r.Reasons) != 1 || r.Reasons[0].Code != "purpose.not_covered" || r.Reasons[0].FR == "" || r.Reasons[0].EN == "" {
		t.Errorf("%+v", r.Reasons)
	}
	// Somebody else's, nobody's and those that aren't have one answer.
	var said []error
	for _, i := range []proof.Index{foreign, 0, 1, 1 << 40, 1 << 63} {
		_, err := w.b.OwnRecord(t.Context(), both(t), i)
		said = append(said, err)
		if codeOf(err) != "record.unknown" || err.Error() != said[0].Error() {
			t.Errorf("entry %d: %v", i, err)
		}
	}
	// Her entry in that answer, under her name alone, shows no more in full than at a glance.
	namesake := w.own(both(t)[1])[0].Index
	r = w.ownRecord(namesake)
	if _, p := r.Opening.Value(proof.DisclosureOutcome); !r.Namesake || r.Agreement != nil || p != proof.Hidden || r.Receipt == nil || r.Opening.Text(proof.DisclosureAgency) != "mairie" {
		t.Errorf("%+v", r)
	}
	if text, err = r.Receipt.AppendText(nil); err != nil || bytes.Contains(text, []byte("household@1\n")) && bytes.Contains(text, []byte("cantine")) {
		t.Errorf("the receipt tells a namesake the purpose: %v", err)
	}
}

// TestOwnRecordOfDamage: an altered record shows nothing of what it says now.
func TestOwnRecordOfDamage(t *testing.T) {
	w := newWorld(t, nil)
	bad := indexOf(t, w.disclose(request()))
	w.tamper("UPDATE records SET admin = "+altered("admin")+" WHERE log_index = ?", int64(bad))
	if got := w.own(both(t)[0]); len(got) != 1 || got[0].State != broker.HistoryDamaged || got[0].Agency != "" {
		t.Errorf("%+v", got)
	}
	if r := w.ownRecord(bad); r.State != broker.HistoryDamaged || !r.Opening.IsZero() || r.Receipt != nil {
		t.Errorf("%+v", r)
	}
}

// TestDirectory names agencies that were revoked and services that were withdrawn: records speak of them for years.
func TestDirectory(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.b.RevokeAgency(t.Context(), "mairie"); err != nil {
		t.Fatal(err)
	}
	if err := w.b.WithdrawService(t.Context(), "household"); err != nil {
		t.Fatal(err)
	}
	d := w.b.Directory()
	if a := d.Agencies["mairie"]; a.Name != "Mairie d'Exemple" || a.State == store.Active {
		t.Errorf("%+v", a)
	}
	def := d.Services["household"]
	if def == nil || def.Title.FR == "" || d.Providers[string(def.Provider.ID)] != def.Provider.Name {
		t.Errorf("%+v, %v", def, d.Providers)
	}
}

// TestPolicyText is what a browser checks with: the log's key, and whoever cosigns.
func TestPolicyText(t *testing.T) {
	w := newWorld(t, nil)
	text, err := w.b.PolicyText(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := proof.ParsePolicy(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if _, err := proof.VerifyCheckpoint(w.b.Log().Checkpoint().Note(), p); err != nil || p.Demands() {
		t.Errorf("%v", err)
	}
	if s := w.b.Standing(); s.Origin != w.cfg.Origin || s.Open.Marker != 0 || s.Published.Size() == 0 || !s.Witnessed.IsZero() {
		t.Errorf("%+v", s)
	}
	ww := newWitnessedWorld(t, 2, 3, nil)
	if text, err = ww.b.PolicyText(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, err = proof.ParsePolicy(text); err != nil || !p.Demands() || len(p.Witnesses()) != 3 {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestEpochsBetween: closed epochs alone, and those that a time touches.
func TestEpochsBetween(t *testing.T) {
	w, ahead := clocked(t, nil)
	begin := w.b.Log().OpenEpoch().Opened
	far := begin.Add(1000 * time.Hour)
	if r, ok, err := w.b.EpochsBetween(t.Context(), begin, far); ok || err != nil {
		t.Errorf("before any epoch is closed: %v, %v", r, err)
	}
	for range 3 {
		w.turn(ahead)
	}
	second, third := proof.Marker{}, proof.Marker{}
	for _, e := range w.entries() {
		if m, ok := e.(proof.Marker); ok && m.Epoch == 1 {
			second = m
		} else if ok && m.Epoch == 2 {
			third = m
		}
	}
	for name, c := range map[string]struct {
		from, to time.Time
		want     proof.EpochRange
		ok       bool
	}{
		"all":                       {begin.Add(-time.Hour), far, proof.EpochRange{From: 0, To: 2}, true},
		"before the log":            {begin.Add(-time.Hour), begin, proof.EpochRange{}, false},
		"up to where one opens":     {begin, second.Opened.Time(), proof.EpochRange{From: 0, To: 0}, true},
		"a moment in the second":    {second.Opened.Time(), second.Opened.Time().Add(time.Millisecond), proof.EpochRange{From: 1, To: 1}, true},
		"from the third on":         {third.Opened.Time(), far, proof.EpochRange{From: 2, To: 2}, true},
		"in what is open, or later": {far, far.Add(time.Hour), proof.EpochRange{}, false},
	} {
		got, ok, err := w.b.EpochsBetween(t.Context(), c.from, c.to)
		if err != nil || ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %v, %v, %v", name, got, ok, err)
		}
	}
}

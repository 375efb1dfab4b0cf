package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestRestore: what the log tells beyond a backup is done to it, all of it and once.
func TestRestore(t *testing.T) { store.EachEngine(t, testRestore) }

func testRestore(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	o := store.Order{Store: s}
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ended, payload, current := keys.KeyID{15: 1}, keys.KeyID{15: 2}, keys.KeyID{15: 3}
	ok(s.SaveKeys(ctx, []keys.StoredKey{
		{ID: ended, Kind: keys.KindMonth, Period: "2026-01", Wrapped: []byte{1}, Created: at}, {ID: payload, Kind: keys.KindPayload, Period: "m", Wrapped: []byte{1}, Created: at},
		{ID: current, Kind: keys.KindMonth, Period: "2026-02", Wrapped: []byte{1}, Created: at},
	}))
	erased := keys.Owner{3}
	begin := func(n byte, under keys.KeyID, due time.Time) store.Disclosure {
		t.Helper()
		in := intent(n)
		in.Admin, in.Due = sealedUnder(under), due
		in.Fresh = []*keys.StoredKey{{ID: keys.KeyID{n}, Kind: keys.KindSubject, Owner: in.Owner, Wrapped: []byte{n}, Created: at}}
		d, _, err := s.Begin(ctx, in)
		ok(err)
		return d
	}
	done, open1, erasedOne, left, deferred := begin(1, ended, time.Time{}), begin(2, ended, time.Time{}), begin(3, current, time.Time{}), begin(4, current, time.Time{}), begin(5, current, at)
	out := outcome(done)
	out.Records[0].Admin, out.Payload, out.Until = sealedUnder(ended), []byte("answer"), at
	late := outcome(deferred)
	late.Records[0].Person, late.Fresh = sealed(50).Blob, []*keys.StoredKey{{ID: sealed(50).Fresh.ID, Kind: keys.KindDeferred, Owner: deferred.Owner, Wrapped: []byte{1}, Created: at}}
	ok(commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindEpoch)}}, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(1, proof.KindDisclosure)}, Attach: out},
		ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(2, proof.KindDeferred)}, Attach: late}))
	ok(s.BeginSession(ctx, session(1, keys.Owner{9}), [32]byte{}))
	ok(s.Enrol(ctx, keys.Owner{9}, "fr", under(9)))
	ok(s.AddDelegation(ctx, &store.Delegation{ID: store.ID{7}, Delegate: keys.Owner{9}, Kind: "guardian", Granted: at, Since: at, Subjects: []store.Delegated{{Owner: keys.Owner{1}}}}, []*store.Sealed{sealed(51)}))

	lost := []ledger.Leaf{leaf(3, proof.KindDisclosure), leaf(4, proof.KindOpened), leaf(5, proof.KindEpoch), leaf(6, proof.KindErasure)}
	lost[2].Epoch, lost[3].Epoch = 1, 1
	restart := leaf(7, proof.KindRestart)
	restart.Epoch = 1
	later := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	r := &store.Restoration{
		Lost:    lost,
		Turns:   []store.Turn{{Closes: ledger.ClosedEpoch{Closer: 5, Size: 5, Items: 1, Bits: 1}, Opens: ledger.OpenEpoch{Number: 1, Marker: 5, Text: []byte("m"), Opened: later, Until: later.Add(time.Hour), LabelKey: "k"}}},
		Filings: []ledger.Filing{{Index: 6, Label: proof.Label{6}}}, Opened: []store.DelayEnded{{Opened: 4, Deferred: 2}},
		Notes: []store.NoteAt{{Name: "a note", Index: 3}}, Destroyed: []store.Period{{Kind: keys.KindMonth, Period: "2026-01", Index: 3}},
		Erased: []store.Erased{{ID: store.ID{1}, Owner: erased, Index: 6, Logged: true}}, Restart: restart, Now: at,
	}
	ok(s.Restore(ctx, r))
	if r.Delegations != 1 {
		t.Errorf("%d delegations were ended", r.Delegations)
	}
	tail, err := o.Tail(ctx)
	ok(err)
	if tail.Next != 8 || tail.Open == nil || tail.Open.Number != 1 || tail.Counts[proof.KindRestart] != 1 {
		t.Errorf("%+v", tail)
	}
	ranges, err := s.Lost(ctx)
	ok(err)
	if d := cmp.Diff([]store.Range{{From: 3, To: 7}}, ranges); d != "" {
		t.Error(d)
	}
	// Of the ended month nothing is left to read, and no open intent of it; nor of the erased person.
	intents, err := s.Interrupted(ctx, 0, 9)
	ok(err)
	if len(intents) != 1 || intents[0].Seq != left.Seq {
		t.Errorf("of %d and %d: %+v is open, want %d", open1.Seq, erasedOne.Seq, intents, left.Seq)
	}
	if yes, err := s.Restored(ctx, left.Seq); err != nil || !yes {
		t.Errorf("%v, %v", yes, err)
	}
	records, err := s.Records(ctx, done.Seq)
	if err != nil || len(records) != 1 || len(records[0].Person) != 0 {
		t.Errorf("%+v, %v", records, err)
	}
	if _, _, err := s.Payload(ctx, done.Seq); err == nil {
		t.Error("a sealed answer came back")
	}
	if _, err := s.Session(ctx, [32]byte{1}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a session came back: %v", err)
	}
	keysLeft, err := s.ListKeys(ctx, "", keys.KeyID{}, 99)
	ok(err)
	for _, k := range keysLeft {
		if k.ID == ended || k.ID == payload || k.Owner == erased || k.Kind == keys.KindDeferred {
			t.Errorf("the key %x came back", k.ID)
		}
	}
	if e, err := s.EndedBy(ctx, 4); err != nil || e.Deferred != 2 {
		t.Errorf("%+v, %v", e, err)
	}
	if entry, err := s.Retired(ctx, ended); err != nil || string(entry) != "\x03" {
		t.Errorf("%x, %v", entry, err)
	}
	if i, is, err := s.LostErasure(ctx, erased); err != nil || !is || i != 6 {
		t.Errorf("%d %v %v", i, is, err)
	}
	if got, err := o.Roll(ctx, 1, proof.Label{6}); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	list, err := s.Delegations(ctx, keys.Owner{9}, keys.Owner{}, store.ID{}, 9)
	if err != nil || len(list) != 1 || list[0].EndedBy != "restored" {
		t.Errorf("%+v, %v", list, err)
	}
	entry := leaf(8, proof.KindDisclosure)
	entry.Epoch = 1
	ok(commit(t, s, 8, ledger.PlacedGroup{Leaves: []ledger.Leaf{entry}, Attach: outcome(left)}))
}

// TestRestoreForgetsAttached: who gave up an identifier after the backup doesn't get it back, is told nothing more of what is recorded under it, and has nothing of it erased; whoever it belongs to can attach it. What
// was asked for under the account's own identity goes on, and so does what has begun.
func TestRestoreForgetsAttached(t *testing.T) { store.EachEngine(t, testRestoreForgetsAttached) }

func testRestoreForgetsAttached(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	wrong, right, ine, nir, begun, person := keys.Owner{1}, keys.Owner{2}, keys.Owner{3}, keys.Owner{4}, keys.Owner{5}, keys.Owner{6}
	types := map[keys.Owner]proof.SubjectType{wrong: proof.TypePivot, person: proof.TypePerson, ine: proof.TypeINE, nir: proof.TypeNIR, begun: proof.TypeNIR}
	ok(commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindEpoch)}}))
	var enrolled []store.Enrolled
	for owner, typ := range types {
		enrolled = append(enrolled, store.Enrolled{Owner: owner, Type: typ})
	}
	ok(s.Enrol(ctx, wrong, "fr", enrolled))
	var asked []store.ErasureRequest
	var under []*store.Sealed
	for i, owner := range []keys.Owner{wrong, ine, nir, begun} {
		if owner != wrong {
			ok(s.AttachIdentifier(ctx, identifier(wrong, owner, types[owner])))
		}
		asked = append(asked, store.ErasureRequest{ID: store.ID{byte(10 + i)}, Request: store.ID{7}, Account: wrong, Owner: owner, Type: types[owner], Ground: "rgpd-17", Asked: at, Due: at.AddDate(0, 0, 30)})
		under = append(under, sealed(byte(60+i)))
	}
	if n, err := s.RequestErasure(ctx, asked, under); err != nil || n != len(asked) {
		t.Fatalf("%d, %v", n, err)
	}
	ok(store.Order{Store: s}.BeginErasure(ctx, &store.Erasure{ID: store.ID{1}, Record: store.Record{Owner: begun, Person: []byte("p"), Admin: []byte("a")}}, store.ID{}, at, 0, nil))
	now := at.AddDate(0, 0, 20)
	ok(s.Restore(ctx, &store.Restoration{Restart: leaf(1, proof.KindRestart), Now: now}))
	if got, err := s.Identifiers(ctx, wrong); err != nil || len(got) != 0 {
		t.Errorf("still attached: %+v, %v", got, err)
	}
	requests, err := s.ErasureRequests(ctx, wrong, 9)
	ok(err)
	got := map[keys.Owner]string{}
	for i := range requests {
		e := &requests[i]
		got[e.Owner] = e.State
		if e.State == store.ErasureUndone && (len(e.Subject) > 0 || !e.Ended.Equal(now)) {
			t.Errorf("%+v is undone", e)
		}
	}
	if d := cmp.Diff(map[keys.Owner]string{wrong: store.ErasureWaiting, begun: store.ErasureWaiting, ine: store.ErasureUndone, nir: store.ErasureUndone}, got); d != "" {
		t.Error(d)
	}
	notices, err := s.Notices(ctx, wrong, 0, 9)
	ok(err)
	var events []string
	for _, n := range slices.Backward(notices) {
		events = append(events, n.Event)
	}
	if d := cmp.Diff([]string{"asked", store.ErasureForgotten, "restored"}, events); d != "" {
		t.Error(d)
	}
	ok(s.AttachIdentifier(ctx, identifier(right, ine, proof.TypeINE)))
	for i, owner := range []keys.Owner{wrong, ine} {
		d, _, err := s.Begin(ctx, intent(owner[0]))
		ok(err)
		index := proof.Index(2 + i)
		ok(commit(t, s, index, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(index, proof.KindDisclosure)}, Attach: outcome(d)}))
	}
	found, _, _, err := s.Watched(ctx, 4, 9)
	ok(err)
	if len(found) != 1 || found[0].Index != 2 || found[0].Account != wrong {
		t.Errorf("to be told: %+v", found)
	}
}

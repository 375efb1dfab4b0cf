package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

var at = time.UnixMilli(1700000000000).UTC()

// sealed is a blob under a key that comes with it.
func sealed(n byte) *store.Sealed {
	id := keys.KeyID{0: n, 15: 1}
	blob := make([]byte, keys.Overhead+1)
	blob[0], blob[1] = 1, 'p'
	copy(blob[2:], id[:])
	return &store.Sealed{Blob: blob, Fresh: &keys.StoredKey{ID: id, Kind: keys.KindSubject, Owner: keys.Owner{n}, Wrapped: []byte{n}, Created: at}}
}

// under are identifiers of one person alone.
func under(owners ...byte) (out []store.Enrolled) {
	for _, o := range owners {
		out = append(out, store.Enrolled{Owner: keys.Owner{o}, Type: proof.TypePivot})
	}
	return out
}

// TestWatched: accounts are told of what is filed under their identifiers from their first sign-in on, once, and of nothing that is deferred.
func TestWatched(t *testing.T) { store.EachEngine(t, testWatched) }

func testWatched(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	place := func(i proof.Index, kind proof.Kind, owners ...byte) ledger.PlacedGroup {
		g := ledger.PlacedGroup{}
		a := &store.AccessLogged{}
		for n, o := range owners {
			g.Leaves = append(g.Leaves, leaf(i+proof.Index(n), kind))
			a.Records, a.Targets = append(a.Records, store.Record{Owner: keys.Owner{o}, Person: []byte{o}, Admin: []byte{o, 'a'}}), append(a.Targets, 0)
		}
		if kind != proof.KindDeferred { // the records of these lie apart
			g.Attach = a
		}
		return g
	}
	if err := commit(t, s, 0, place(0, proof.KindDisclosure, 1)); err != nil {
		t.Fatal(err)
	}
	me, other := keys.Owner{1}, keys.Owner{7}
	if err := s.Enrol(ctx, me, "fr", under(1, 2)); err != nil {
		t.Fatal(err)
	}
	if err := s.Enrol(ctx, other, "fr", under(7, 2)); err != nil {
		t.Fatal(err)
	}
	if err := commit(t, s, 1, place(1, proof.KindDisclosure, 1, 3), place(3, proof.KindDeferred, 1), place(4, proof.KindOpened, 2), place(5, proof.KindErasure, 1), place(6, proof.KindAccess, 1)); err != nil {
		t.Fatal(err)
	}
	read := func(upto proof.Index, scan int) (out []string, from, next proof.Index) {
		t.Helper()
		found, from, next, err := s.Watched(ctx, upto, scan)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range found {
			out = append(out, fmt.Sprintf("%d %s %d %s", w.Index, w.Kind, w.Account[0], w.Admin))
		}
		return out, from, next
	}
	// Not beyond what is signed, and in steps.
	got, from, next := read(2, 100)
	if d := cmp.Diff([]string{"1 disclosure@v1 1 \x01a"}, got); d != "" || from != 0 || next != 2 {
		t.Errorf("%d to %d: %s", from, next, d)
	}
	notice := []store.Notice{{Account: me, Kind: store.NoticeAccess, Event: "asked", At: at, Index: 1, Entry: true}}
	for range 2 { // the second one comes too late: somebody else was faster
		if err := s.Told(ctx, from, next, notice); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := s.Notices(ctx, me, 0, 10); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	got, from, next = read(7, 3)
	if d := cmp.Diff([]string{"4 opened@v1 1 \x02a", "4 opened@v1 7 \x02a"}, got); d != "" || from != 2 || next != 5 {
		t.Errorf("%d to %d: %s", from, next, d)
	}
	if err := s.Told(ctx, from, next, nil); err != nil {
		t.Fatal(err)
	}
	got, from, next = read(7, 3)
	if d := cmp.Diff([]string{"6 access@v1 1 \x01a"}, got); d != "" || from != 5 || next != 7 {
		t.Errorf("%d to %d: %s", from, next, d)
	}
	if err := s.Told(ctx, from, next, nil); err != nil {
		t.Fatal(err)
	}
	if got, from, next = read(7, 3); got != nil || from != next {
		t.Errorf("%v, %d to %d", got, from, next)
	}
}

// TestWatchedOfNamesakes: what is filed under names alone is told as that, and not at all if the person is told of the same disclosure under an identifier of their own.
func TestWatchedOfNamesakes(t *testing.T) { store.EachEngine(t, testWatchedOfNamesakes) }

func testWatchedOfNamesakes(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	me, namesake, names := keys.Owner{1}, keys.Owner{2}, keys.Owner{9}
	for _, account := range []keys.Owner{me, namesake} {
		if err := s.Enrol(ctx, account, "fr", []store.Enrolled{{Owner: account, Type: proof.TypePivot}, {Owner: names, Type: proof.TypePerson}}); err != nil {
			t.Fatal(err)
		}
	}
	d, _, err := s.Begin(ctx, intent(1))
	if err != nil {
		t.Fatal(err)
	}
	record := func(o keys.Owner) store.Record { return store.Record{Owner: o, Person: []byte{1}, Admin: []byte("a")} }
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindDisclosure), leaf(1, proof.KindDisclosure)}, Attach: &store.Outcome{Disclosure: d.Seq, Records: []store.Record{record(me), record(names)}}}); err != nil {
		t.Fatal(err)
	}
	found, _, _, err := s.Watched(ctx, 2, 100)
	if err != nil {
		t.Fatal(err)
	}
	want := []store.WatchedEntry{{Index: 0, Kind: proof.KindDisclosure, Account: me, Type: proof.TypePivot, Disclosure: d.ID, Admin: []byte("a")}, {Index: 1, Kind: proof.KindDisclosure, Account: namesake, Type: proof.TypePerson, Disclosure: d.ID, Admin: []byte("a")}}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}

// TestNoticesAreBounded: a thousand of an account are kept, the newest.
func TestNoticesAreBounded(t *testing.T) { store.EachEngine(t, testNoticesAreBounded) }

func testNoticesAreBounded(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	me := keys.Owner{1}
	if err := s.Enrol(ctx, me, "fr", nil); err != nil {
		t.Fatal(err)
	}
	list := make([]store.Notice, 1010)
	for i := range list {
		list[i] = store.Notice{Account: me, Kind: store.NoticeContest, Event: "answered", At: at, Ref: store.ID{0: byte(i), 1: byte(i >> 8)}}
	}
	if err := s.Told(ctx, 0, 1, list); err != nil {
		t.Fatal(err)
	}
	got, err := s.Notices(ctx, me, 0, 2000)
	if err != nil || len(got) != 1000 || got[0].Ref != list[1009].Ref || got[999].Ref != list[10].Ref {
		t.Errorf("%d notices, %v", len(got), err)
	}
	// The two entries of one disclosure are one piece of news.
	twice := store.Notice{Account: me, Kind: store.NoticeAccess, Event: "asked", At: at, Ref: store.ID{9}, Entry: true}
	if err := s.Told(ctx, 1, 2, []store.Notice{twice, twice}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Notices(ctx, me, 0, 2); err != nil || got[0].Kind != store.NoticeAccess || got[1].Kind != store.NoticeContest {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestNothingIsKeptUnderADestroyedKey: of somebody who was erased meanwhile nothing new is stored, and what was is gone.
func TestNothingIsKeptUnderADestroyedKey(t *testing.T) {
	store.EachEngine(t, testNothingIsKeptUnderADestroyedKey)
}

func testNothingIsKeptUnderADestroyedKey(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	me := keys.Owner{1}
	if err := s.Enrol(ctx, me, "fr", under(1)); err != nil {
		t.Fatal(err)
	}
	gone := sealed(1)
	gone.Fresh = nil
	contest := &store.Contest{ID: store.ID{1}, Account: me, Owner: me, Disclosure: store.ID{2}, Agency: "mairie", Role: "asked", Lang: "fr", Body: []byte{1}, Filed: at, Due: at.Add(time.Hour)}
	request := []store.ErasureRequest{{ID: store.ID{3}, Request: store.ID{4}, Account: me, Owner: me, Type: proof.TypePivot, Ground: "g", Asked: at, Due: at}}
	for name, f := range map[string]func(*store.Sealed) error{
		"an address": func(x *store.Sealed) error { return s.SetAddress(ctx, me, x, store.ID{5}, at, at.Add(time.Hour), 9) },
		"a contest":  func(x *store.Sealed) error { _, err := s.FileContest(ctx, contest, x, at, 9); return err },
		"a request":  func(x *store.Sealed) error { _, err := s.RequestErasure(ctx, request, []*store.Sealed{x}); return err },
		"a hold": func(x *store.Sealed) error {
			return s.AddHold(ctx, []store.Hold{{ID: store.ID{6}, Owner: me, Since: at}}, []*store.Sealed{x})
		},
		"a delegation": func(x *store.Sealed) error {
			return s.AddDelegation(ctx, &store.Delegation{ID: store.ID{7}, Delegate: keys.Owner{8}, Kind: "guardian", Granted: at, Since: at, Subjects: []store.Delegated{{Owner: me}}}, []*store.Sealed{x})
		},
	} {
		if err := f(gone); !errors.Is(err, keys.ErrNoKey) {
			t.Errorf("%s: %v, want ErrNoKey", name, err)
		}
	}
	if _, err := s.Contest(ctx, contest.ID, "mairie", keys.Owner{}); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if list, err := s.Delegations(ctx, keys.Owner{}, keys.Owner{}, store.ID{}, 9); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if n, err := s.Waiting(ctx); err != nil || n != 0 {
		t.Errorf("%d letters, %v", n, err)
	}
}

// TestBeginErasure: what keeps an erasure from beginning is looked at in its own transaction.
func TestBeginErasure(t *testing.T) { store.EachEngine(t, testBeginErasure) }

func testBeginErasure(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	me := keys.Owner{1}
	begin := func(request store.ID, now time.Time) error {
		return (store.Order{Store: s}).BeginErasure(ctx, &store.Erasure{ID: store.ID{0: 9, 1: byte(now.UnixMilli())}, Record: store.Record{Owner: me, Person: []byte{1}, Admin: []byte{1}}}, request, now, 0, nil)
	}
	if err := begin(store.ID{4}, at); !errors.Is(err, store.ErrEnded) {
		t.Errorf("a request that isn't there: %v", err)
	}
	if err := s.AddHold(ctx, []store.Hold{{ID: store.ID{6}, Owner: me, Since: at, Until: at.Add(time.Hour)}}, []*store.Sealed{sealed(1)}); err != nil {
		t.Fatal(err)
	}
	if err := begin(store.ID{}, at); !errors.Is(err, store.ErrHeld) {
		t.Errorf("held: %v", err)
	}
	contest := &store.Contest{ID: store.ID{1}, Account: keys.Owner{5}, Owner: me, Disclosure: store.ID{2}, Agency: "mairie", Role: "asked", Lang: "fr", Body: []byte{1}, Filed: at, Due: at.Add(time.Hour)}
	_, err := s.FileContest(ctx, contest, sealed(2), at, 9)
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an agency that isn't there: %v", err)
	}
	change := &store.AgencyChange{Agency: store.Agency{ID: "mairie", Name: "Mairie", SIRET: "1", State: store.Active}}
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindKey)}, Attach: change}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.FileContest(ctx, contest, sealed(3), at.Add(-time.Hour), 9); err != nil {
		t.Fatal(err)
	}
	late := at.Add(2 * time.Hour)
	if err := begin(store.ID{}, late); !errors.Is(err, store.ErrContested) {
		t.Errorf("contested: %v", err)
	}
	if _, err := s.MoveContest(ctx, &store.ContestMove{ID: store.ID{1}, Account: keys.Owner{5}, Event: store.ContestWithdrawn, At: late}); err != nil {
		t.Fatal(err)
	}
	if err := begin(store.ID{}, late); err != nil {
		t.Error(err)
	}
	if err := s.AddHold(ctx, []store.Hold{{ID: store.ID{7}, Owner: me, Since: at}}, []*store.Sealed{sealed(4)}); !errors.Is(err, store.ErrEnded) {
		t.Errorf("a hold on somebody who is being erased: %v", err)
	}
	if list, err := s.Holds(ctx, keys.Owner{}, store.ID{}, 9); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestLettersNeedAMailer: without anybody to send them no letters pile up that would go out long after.
func TestLettersNeedAMailer(t *testing.T) { store.EachEngine(t, testLettersNeedAMailer) }

func testLettersNeedAMailer(t *testing.T, open store.Opener) {
	for _, mailing := range []bool{false, true} {
		s := open(t, t.TempDir(), func(c *store.Config) { c.Mailing = mailing })
		ctx := t.Context()
		change := &store.AgencyChange{Agency: store.Agency{ID: "mairie", Name: "Mairie", SIRET: "1", State: store.Active}}
		if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindKey)}, Attach: change}); err != nil {
			t.Fatal(err)
		}
		if err := s.SetAgencyAddresses(ctx, "mairie", "contact@mairie.example", "dpo@mairie.example"); err != nil {
			t.Fatal(err)
		}
		contest := &store.Contest{ID: store.ID{1}, Account: keys.Owner{1}, Owner: keys.Owner{1}, Disclosure: store.ID{2}, Agency: "mairie", Role: "asked", Lang: "fr", Body: []byte{1}, Filed: at, Due: at.Add(time.Hour)}
		if _, err := s.FileContest(ctx, contest, sealed(1), at.Add(-time.Hour), 9); err != nil {
			t.Fatal(err)
		}
		late := contest.Due.Add(time.Minute)
		if n, err := s.RemindContests(ctx, late, 9); err != nil || n != 1 {
			t.Fatalf("%d overdue, %v", n, err)
		}
		letters, err := s.Letters(ctx, late, 9)
		if want := map[bool]int{true: 4}[mailing]; err != nil || len(letters) != want {
			t.Errorf("mailing %t: %d letters, %v; want %d", mailing, len(letters), err, want)
		}
		// The contest is there all the same.
		if c, err := s.Contest(ctx, contest.ID, "mairie", keys.Owner{}); err != nil || c.State != store.ContestOpen {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

// TestAddressesSurviveGovernance: what the log doesn't know isn't changed by what it tells.
func TestAddressesSurviveGovernance(t *testing.T) {
	store.EachEngine(t, testAddressesSurviveGovernance)
}

func testAddressesSurviveGovernance(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	change := &store.AgencyChange{Agency: store.Agency{ID: "mairie", Name: "Mairie", SIRET: "1", State: store.Active}}
	if err := s.SetAgencyAddresses(ctx, "mairie", "a@b.fr", "c@d.fr"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindKey)}, Attach: change}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetAgencyAddresses(ctx, "mairie", "a@b.fr", "c@d.fr"); err != nil {
		t.Fatal(err)
	}
	change.Agency.State = store.Revoked
	if err := commit(t, s, 1, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(1, proof.KindKey)}, Attach: change}); err != nil {
		t.Fatal(err)
	}
	reg, err := s.Registry(ctx)
	if err != nil || len(reg.Agencies) != 1 || reg.Agencies[0].Contact != "a@b.fr" || reg.Agencies[0].DPO != "c@d.fr" || reg.Agencies[0].State != store.Revoked {
		t.Errorf("%+v, %v", reg, err)
	}
}

// TestOldDelegationsAreDropped: what was over before a time is forgotten with whose it was, in steps; what isn't stays.
func TestOldDelegationsAreDropped(t *testing.T) { store.EachEngine(t, testOldDelegationsAreDropped) }

func testOldDelegationsAreDropped(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	before := at.Add(-time.Millisecond)
	for i, d := range []store.Delegation{{Until: before}, {Until: at}, {}, {Ended: before}, {Ended: at}, {Until: at.Add(time.Hour), Ended: before}} {
		n := byte(i + 1)
		ended := d.Ended
		d.ID, d.Delegate, d.Kind, d.Granted, d.Since = store.ID{n}, keys.Owner{99}, "guardian", at.Add(-time.Hour), at.Add(-time.Hour)
		d.Subjects = []store.Delegated{{Owner: keys.Owner{n}}, {Owner: keys.Owner{n, 1}}}
		if err := s.AddDelegation(ctx, &d, []*store.Sealed{sealed(n), sealed(n + 50)}); err != nil {
			t.Fatal(err)
		}
		if !ended.IsZero() {
			if err := s.EndDelegation(ctx, d.ID, "operator", ended); err != nil {
				t.Fatal(err)
			}
		}
	}
	var counts []int64
	for {
		n, err := s.DropDelegations(ctx, at, 2)
		if err != nil {
			t.Fatal(err)
		}
		if counts = append(counts, n); n < 2 {
			break
		}
	}
	if d := cmp.Diff([]int64{2, 1}, counts); d != "" {
		t.Errorf("dropped, a step: %s", d)
	}
	list, err := s.Delegations(ctx, keys.Owner{99}, keys.Owner{}, store.ID{}, 9)
	if err != nil {
		t.Fatal(err)
	}
	var left []byte
	for _, d := range list {
		left = append(left, d.ID[0])
		if len(d.Subjects) != 2 {
			t.Errorf("delegation %d is about %d identifiers now", d.ID[0], len(d.Subjects))
		}
	}
	if d := cmp.Diff([]byte{5, 3, 2}, left); d != "" {
		t.Errorf("left: %s", d)
	}
}

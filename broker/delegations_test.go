package broker_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

func grant(t testing.TB, delegate, ward broker.Account) broker.Grant {
	return broker.Grant{Kind: broker.Guardian, Delegate: delegate.Pivot, Subjects: erasable(ward), Evidence: "jugement du 3 mars 2026"}
}

func TestDelegation(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, nil)
	ctx := t.Context()
	ward, guardian, other := studying(t, account(t, marie)), account(t, killPivot("guardian")), account(t, killPivot("other"))
	for _, a := range []broker.Account{ward, guardian} {
		if err := w.b.Enrol(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	w.disclose(request())
	id, err := w.b.GrantDelegation(ctx, grant(t, guardian, ward))
	if err != nil {
		t.Fatal(err)
	}
	// Both sides know of it, nobody else.
	mine, err := w.b.DelegationsOf(ctx, guardian)
	if err != nil || len(mine) != 1 || !mine[0].Mine || !mine[0].InForce || len(mine[0].Subjects) != 2 || mine[0].Evidence != "jugement du 3 mars 2026" {
		t.Fatalf("%+v, %v", mine, err)
	}
	theirs, err := w.b.DelegationsOf(ctx, ward)
	if err != nil || len(theirs) != 1 || theirs[0].Mine || !theirs[0].Delegate.Equal(guardian.Pivot) {
		t.Fatalf("%+v, %v", theirs, err)
	}
	if none, err := w.b.DelegationsOf(ctx, other); err != nil || len(none) != 0 {
		t.Errorf("%+v, %v", none, err)
	}
	// What the delegate reads, the ward sees.
	h, err := w.b.DelegatedHistory(ctx, guardian, id, ward.Pivot, broker.HistoryPage{Kind: proof.KindDisclosure})
	if err != nil || len(h.Entries) != 1 || h.Entries[0].Disclosure == nil || h.Logged != 1 {
		t.Fatalf("%+v, %v", h, err)
	}
	seen := w.history(ward.Pivot, broker.HistoryPage{Kind: proof.KindAccess})
	if len(seen.Entries) != 1 || seen.Entries[0].Access == nil || seen.Entries[0].Access.Role != "delegate" || seen.Entries[0].Access.Reader != "delegation."+uuid.UUID(id).String() || seen.Entries[0].Access.Target != h.Entries[0].Index {
		t.Errorf("%+v", seen.Entries)
	}
	until(t, "the ward is told that somebody read", func() bool {
		page, err := w.b.Notices(ctx, ward, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range page.Notices {
			if n.Event == "read" {
				return true
			}
		}
		return false
	})
	_, err = w.b.DelegatedHistory(ctx, guardian, id, other.Pivot, broker.HistoryPage{})
	wantCode(t, "an identifier that it doesn't cover", err, 404, "delegation.unknown")
	for name, x := range map[string]struct {
		a  broker.Account
		id store.ID
	}{"somebody else": {other, id}, "the ward": {ward, id}, "what never was": {guardian, store.ID(uuid.New())}} {
		_, _, err := w.b.Delegated(ctx, x.a, x.id)
		wantCode(t, name, err, 404, "delegation.unknown")
	}
	// It gives nothing but reading.
	if c, err := w.b.ContestsOf(ctx, guardian); err != nil || len(c) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	wantCode(t, "erasing for the ward", w.b.RequestErasure(ctx, guardian, ward.Subjects, w.now()), 400, "request.invalid")
	// Either side ends it, at once.
	wantCode(t, "revoking somebody else's", w.b.RevokeDelegation(ctx, other, id), 404, "delegation.unknown")
	wantCode(t, "revoking what never was", w.b.RevokeDelegation(ctx, ward, store.ID(uuid.New())), 404, "delegation.unknown")
	for range 2 {
		if err := w.b.RevokeDelegation(ctx, ward, id); err != nil {
			t.Error(err)
		}
	}
	_, err = w.b.DelegatedHistory(ctx, guardian, id, ward.Pivot, broker.HistoryPage{})
	wantCode(t, "a revoked one", err, 404, "delegation.unknown")
	again, err := w.b.GrantDelegation(ctx, grant(t, guardian, ward))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.b.RevokeDelegation(ctx, guardian, again); err != nil {
		t.Error(err)
	}
	third, err := w.b.GrantDelegation(ctx, grant(t, guardian, ward))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.b.EndDelegation(ctx, third); err != nil {
		t.Error(err)
	}
	list, err := w.b.Delegations(ctx, store.ID{})
	if err != nil || len(list) != 3 || list[0].EndedBy != "operator" || list[1].EndedBy != "delegate" || list[2].EndedBy != "person" || list[0].Identifiers != 2 || !list[0].Delegate.IsZero() || list[0].Subjects != nil {
		t.Errorf("%+v, %v", list, err)
	}
	page, err := w.b.Notices(ctx, ward, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	events := map[string]int{}
	for _, n := range page.Notices {
		if n.Kind == store.NoticeDelegation {
			events[n.Event]++
		}
	}
	if events["granted"] != 3 || events["revoked"] != 3 {
		t.Errorf("the ward was told of %v", events)
	}
}

func TestDelegationHasItsTime(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, nil)
	ctx := t.Context()
	ward, guardian := account(t, marie), account(t, killPivot("guardian"))
	g := grant(t, guardian, ward)
	g.Since, g.Until = w.now().Add(time.Hour), w.now().Add(2*time.Hour)
	id, err := w.b.GrantDelegation(ctx, g)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		at time.Duration
		ok bool
	}{{0, false}, {90 * time.Minute, true}, {3 * time.Hour, false}} {
		ahead.Store(int64(x.at))
		if _, _, err := w.b.Delegated(ctx, guardian, id); (err == nil) != x.ok {
			t.Errorf("after %v: %v", x.at, err)
		}
	}
}

// TestPastDelegation: whoever may read no more sees nothing of the other person, who sees for as long as records are kept who could; then nothing is left.
func TestPastDelegation(t *testing.T) {
	for name, end := range map[string]func(w *world, ward broker.Account, id store.ID, ahead *atomic.Int64) error{
		"revoked": func(w *world, ward broker.Account, id store.ID, _ *atomic.Int64) error {
			return w.b.RevokeDelegation(w.t.Context(), ward, id)
		},
		"its time is over": func(_ *world, _ broker.Account, _ store.ID, ahead *atomic.Int64) error {
			ahead.Store(int64(3 * time.Hour))
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64
			w := newTraveller(t, &ahead, 5*day, nil)
			ctx := t.Context()
			ward, guardian := account(t, marie), account(t, killPivot("guardian"))
			g := grant(t, guardian, ward)
			g.Until = w.now().Add(2 * time.Hour)
			id, err := w.b.GrantDelegation(ctx, g)
			if err != nil {
				t.Fatal(err)
			}
			lasting, err := w.b.GrantDelegation(ctx, grant(t, guardian, ward))
			if err != nil {
				t.Fatal(err)
			}
			if err := end(w, ward, id, &ahead); err != nil {
				t.Fatal(err)
			}
			mine, err := w.b.DelegationsOf(ctx, guardian)
			if err != nil || len(mine) != 2 || mine[1].ID != id || mine[1].InForce || len(mine[1].Subjects) != 0 || mine[1].Evidence != "" || !mine[1].Delegate.IsZero() || mine[1].Kind != broker.Guardian || len(mine[0].Subjects) == 0 {
				t.Errorf("%+v, %v", mine, err)
			}
			theirs, err := w.b.DelegationsOf(ctx, ward)
			if err != nil || len(theirs) != 2 || !theirs[1].Delegate.Equal(guardian.Pivot) || theirs[1].Evidence == "" {
				t.Errorf("%+v, %v", theirs, err)
			}
			w.age(&ahead, 10*day)
			until(t, "it is forgotten", func() bool {
				list, err := w.b.Delegations(ctx, store.ID{})
				return err == nil && len(list) == 1 && list[0].ID == lasting
			})
			if _, _, err := w.b.Delegated(ctx, guardian, lasting); err != nil {
				t.Errorf("the one that lasts: %v", err)
			}
		})
	}
}

func TestDelegationsThatAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	ward, guardian := account(t, marie), account(t, killPivot("guardian"))
	siren, err := proof.SIREN("130025265")
	if err != nil {
		t.Fatal(err)
	}
	partial := subjectOf(t, proof.Pivot{BirthName: "Exemple", GivenNames: "Zoé", BirthDate: "1990", Sex: "F", BirthCountry: "99100"})
	for name, change := range map[string]func(*broker.Grant){
		"no delegate":                 func(g *broker.Grant) { g.Delegate = proof.Subject{} },
		"a delegate without a pivot":  func(g *broker.Grant) { g.Delegate = ward.Subjects[1] },
		"a partial delegate":          func(g *broker.Grant) { g.Delegate = partial },
		"nobody's history":            func(g *broker.Grant) { g.Subjects = nil },
		"one's own":                   func(g *broker.Grant) { g.Subjects = []proof.Subject{g.Delegate} },
		"what may be a namesake's":    func(g *broker.Grant) { g.Subjects = ward.Subjects },
		"no evidence":                 func(g *broker.Grant) { g.Evidence = "" },
		"evidence unseen":             func(g *broker.Grant) { g.Evidence = " \u0301" },
		"no kind":                     func(g *broker.Grant) { g.Kind = "friend" },
		"a guardian of a business":    func(g *broker.Grant) { g.Subjects = []proof.Subject{siren} },
		"a representative of someone": func(g *broker.Grant) { g.Kind = broker.Representative },
		"over before it begins":       func(g *broker.Grant) { g.Since = time.Now().Add(time.Hour); g.Until = time.Now().Add(time.Minute) },
		"over already":                func(g *broker.Grant) { g.Since, g.Until = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute) },
	} {
		g := grant(t, guardian, ward)
		change(&g)
		_, err := w.b.GrantDelegation(t.Context(), g)
		wantCode(t, name, err, 400, "request.invalid")
	}
	id, err := w.b.GrantDelegation(t.Context(), broker.Grant{Kind: broker.Representative, Delegate: guardian.Pivot, Subjects: []proof.Subject{siren}, Evidence: "RNE"})
	if err != nil {
		t.Fatal(err)
	}
	if s, _, err := w.b.Delegated(t.Context(), guardian, id); err != nil || len(s) != 1 || !s[0].Equal(siren) {
		t.Errorf("%v, %v", s, err)
	}
}

// TestDelegationEndsWithEitherSide: an erasure of one of the two leaves nothing of it.
func TestDelegationEndsWithEitherSide(t *testing.T) {
	for name, whom := range map[string]func(ward, guardian broker.Account) []proof.Subject{
		"ward":     func(ward, _ broker.Account) []proof.Subject { return ward.Subjects },
		"guardian": func(_, guardian broker.Account) []proof.Subject { return guardian.Subjects[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			ctx := t.Context()
			ward, guardian := account(t, marie), account(t, killPivot("guardian"))
			id, err := w.b.GrantDelegation(ctx, grant(t, guardian, ward))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range whom(ward, guardian) {
				if _, err := w.b.Erase(ctx, s, "rgpd-17"); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err = w.b.Delegated(ctx, guardian, id)
			wantCode(t, "reading", err, 404, "delegation.unknown")
			for _, a := range []broker.Account{ward, guardian} {
				if list, err := w.b.DelegationsOf(ctx, a); err != nil || len(list) != 0 {
					t.Errorf("%+v, %v", list, err)
				}
			}
			if list, err := w.b.Delegations(ctx, store.ID{}); err != nil || len(list) != 0 {
				t.Errorf("%+v, %v", list, err)
			}
		})
	}
}

// TestRestoredBackup: what may have been taken back since the backup isn't carried out or in force after it.
func TestRestoredBackup(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, nil)
	ctx := t.Context()
	ward, guardian := account(t, marie), account(t, killPivot("guardian"))
	if err := w.b.Enrol(ctx, ward); err != nil {
		t.Fatal(err)
	}
	w.disclose(request())
	id, err := w.b.GrantDelegation(ctx, grant(t, guardian, ward))
	if err != nil {
		t.Fatal(err)
	}
	request := w.ask(ward)
	ahead.Add(int64(20 * day))
	dir := t.TempDir() + "/backup"
	if _, err := w.b.Backup(ctx, dir); err != nil {
		t.Fatal(err)
	}
	if err := w.b.UndoErasure(ctx, ward, request); err != nil {
		t.Fatal(err)
	}
	if err := w.b.RevokeDelegation(ctx, ward, id); err != nil {
		t.Fatal(err)
	}
	w.close()
	r, err := broker.Restore(ctx, w.cfg, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Missing) != 1 {
		t.Errorf("missing: %q", r.Missing)
	}
	w.open()
	got := w.asked(ward)
	if len(got) != 1 || !got[0].Undoable() || got[0].Due.Sub(w.now()) < 29*day {
		t.Errorf("the time to think it over hasn't begun again: %+v", got)
	}
	_, _, err = w.b.Delegated(ctx, guardian, id)
	wantCode(t, "a delegation of the backup", err, 404, "delegation.unknown")
	page, err := w.b.Notices(ctx, ward, 0, 0)
	if err != nil || len(page.Notices) < 2 || fmt.Sprint(page.Notices[0].Event, page.Notices[1].Event) != "revokedrestored" {
		t.Errorf("%+v, %v", page, err)
	}
}

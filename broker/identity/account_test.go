package identity_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/simulator"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// checker says of each identifier whose it is: by given name.
type checker struct {
	types []proofType
	of    map[string]string
	err   error
	asked int
}

func (c *checker) Checks() []proof.SubjectType { return c.types }

func (c *checker) Check(_ context.Context, person proof.Pivot, id proof.Subject) (bool, error) {
	c.asked++
	return c.of[id.Value()] == person.GivenNames, c.err
}

// sessionOf is the session that a browser has.
func (w *world) sessionOf(b *browser) *identity.Session {
	w.t.Helper()
	s, err := w.service.SessionOf(b.cookie(cookieSession).Value)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func TestAttach(t *testing.T) {
	c := &checker{types: []proofType{proof.TypeINE, proof.TypeNIR}, of: map[string]string{"0EXEMPLE02B": "Jean", "101056748200107": "Jean"}}
	w := newWorld(t, func(w *world, _ *simulator.Config) { w.cfg.Checker = c })
	b := w.browser()
	b.mustSignIn(jeanStrasbourg)
	attach := func(b *browser, typ proofType, value string, want error) {
		t.Helper()
		if err := w.service.Attach(t.Context(), w.sessionOf(b), typ, value); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s %s: %v, want %v", typ, value, err, want)
		}
	}
	attach(b, proof.TypeSIREN, "900000118", identity.ErrUnchecked)
	attach(b, proof.TypeINE, "0EXEMPLE", identity.ErrForm)
	attach(b, proof.TypeNIR, "101056748200108", identity.ErrForm)
	if c.asked != 0 {
		t.Error("the holder was asked about nothing")
	}
	attach(b, proof.TypeINE, "0EXEMPLE03C", identity.ErrNotTheirs)
	attach(b, proof.TypeINE, "0exemple02b", nil)
	if got := w.sessionOf(b).Subjects; len(got) != 3 || got[2].Value() != "0EXEMPLE02B" {
		t.Errorf("subjects %v", got)
	}
	// In every session of the person, and in the next ones.
	again := w.browser()
	if got := again.mustSignIn(jeanStrasbourg); !slices.Equal(got.attached, []string{"ine check"}) {
		t.Errorf("attached %v", got.attached)
	}
	// A homonym whom the holder confirms doesn't get it.
	homonym := w.browser()
	homonym.mustSignIn(jeanBordeaux)
	attach(homonym, proof.TypeINE, "0EXEMPLE02B", identity.ErrTaken)
	if got := w.sessionOf(homonym).Attached; len(got) != 0 {
		t.Errorf("attached to the homonym: %v", got)
	}
	// Nobody knows: nothing is attached.
	c.err = errors.New("down")
	attach(b, proof.TypeNIR, "101056748200107", identity.ErrUnavailable)
	c.err = nil
	attach(b, proof.TypeNIR, "101056748200107", nil)
	ine, err := proof.INE("0EXEMPLE02B")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.service.Detach(t.Context(), w.sessionOf(homonym), ine); !errors.Is(err, identity.ErrNotAttached) {
		t.Errorf("detached by another: %v", err)
	}
	if err := w.service.Detach(t.Context(), w.sessionOf(b), ine); err != nil {
		t.Error(err)
	}
	if got := w.sessionOf(b).Attached; len(got) != 1 || got[0].Subject.Type() != proof.TypeNIR {
		t.Errorf("attached %v", got)
	}
	attach(homonym, proof.TypeINE, "0EXEMPLE02B", nil)
}

// Guesses are counted, and there are few a day.
func TestChecksAreCounted(t *testing.T) {
	c := &checker{types: []proofType{proof.TypeINE}}
	w := newWorld(t, func(w *world, _ *simulator.Config) { w.cfg.Checker = c })
	b := w.browser()
	b.mustSignIn(jeanStrasbourg)
	s := w.sessionOf(b)
	for i := range 7 {
		want := identity.ErrNotTheirs
		if i >= 5 {
			want = identity.ErrTooOften
		}
		if err := w.service.Attach(t.Context(), s, proof.TypeINE, "0EXEMPLE03C"); !errors.Is(err, want) {
			t.Errorf("guess %d: %v", i, err)
		}
	}
	if c.asked != 5 {
		t.Errorf("the holder was asked %d times", c.asked)
	}
	w.clock.add(24*time.Hour + time.Minute)
	if err := w.service.Attach(t.Context(), s, proof.TypeINE, "0EXEMPLE03C"); !errors.Is(err, identity.ErrNotTheirs) {
		t.Errorf("the day after: %v", err)
	}
}

// What a sign-in states is attached, unless another account has it: that keeps nobody from signing in, and they learn it. A business may be several people's.
func TestClaimsThatAreTaken(t *testing.T) {
	w := newWorld(t)
	w.browser().mustSignIn(camille)
	if got := w.browser().mustSignIn(amina); !slices.Equal(got.attached, []string{"siren claim"}) {
		t.Errorf("a business of two: %+v", got)
	}
	got := w.browser().mustSignIn(otherNIR)
	if len(got.attached) != 0 || got.unattached != "[nir]" {
		t.Errorf("another account's: %+v", got)
	}
	w.alter = func(_ string, claims map[string]any) {
		if _, ok := claims["nir"]; ok {
			claims["nir"] = "1"
		}
	}
	if got := w.browser().mustSignIn(otherNIR); got.unattached != "[nir]" {
		t.Errorf("no valid form: %+v", got)
	}
}

// carryOut carries out an erasure whose keys are gone already.
func (w *world) carryOut(o keys.Owner) {
	w.t.Helper()
	ctx := w.t.Context()
	order := store.Order{Store: w.store}
	tail, err := order.Tail(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	e := &store.Erasure{ID: store.ID{byte(tail.Next + 1)}, Record: store.Record{Owner: o, Person: []byte{1}, Admin: []byte{1}}}
	if err := (store.Order{Store: w.store}).BeginErasure(ctx, e, store.ID{}, w.clock.now(), tail.Next, nil); err != nil {
		w.t.Fatal(err)
	}
	batch := &ledger.Batch{First: tail.Next, Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{{Index: tail.Next, Kind: proof.KindErasure, Text: []byte{1}, Identity: [32]byte{byte(tail.Next)}}}, Attach: &store.ErasureLogged{Erasure: *e}}}}
	if tail.Next == 0 {
		batch.Opens = &ledger.OpenEpoch{Text: []byte("marker"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"}
	}
	if err := order.Commit(ctx, batch); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.CarryOut(ctx, e, w.clock.now()); err != nil {
		w.t.Fatal(err)
	}
}

// After the erasure of an identifier it is in no account, and can't be read out of one; after that of the pivot identity nothing is.
func TestErasedIdentifiers(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.mustSignIn(camille)
	owner := func(s proof.Subject) keys.Owner {
		t.Helper()
		o, err := w.cfg.Ring.Owner(s)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	s := w.sessionOf(b)
	var nir proof.Subject
	for _, x := range s.Subjects {
		if x.Type() == proof.TypeNIR {
			nir = x
		}
	}
	// Between the two steps of an erasure, the keys are gone and the row is there.
	if err := w.cfg.Ring.Erase(t.Context(), owner(nir)); err != nil {
		t.Fatal(err)
	}
	if got := w.sessionOf(b).Subjects; len(got) != 3 || got[2].Type() != proof.TypeSIREN {
		t.Errorf("after the erasure: %v", got)
	}
	w.carryOut(owner(nir))
	if rows, err := w.store.Identifiers(t.Context(), s.Account); err != nil || len(rows) != 1 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	// The next sign-in states it again: that is after the erasure.
	if got := w.browser().mustSignIn(camille); len(got.attached) != 2 {
		t.Errorf("attached %v", got.attached)
	}
	if err := w.cfg.Ring.Erase(t.Context(), s.Account); err != nil {
		t.Fatal(err)
	}
	if got := w.sessionOf(b).Attached; len(got) != 0 {
		t.Errorf("after the erasure of the person: %v", got)
	}
	w.carryOut(s.Account)
	if b.signedIn() {
		t.Error("the erased person is signed in")
	}
}

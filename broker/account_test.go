package broker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// attach attaches an identifier to an account, as if the body that holds it had said so.
func (w *world) attach(account keys.Owner, subject proof.Subject) store.NewIdentifier {
	w.t.Helper()
	ring := w.b.Ring()
	in := store.NewIdentifier{Identifier: store.Identifier{Account: account, Type: proof.TypeINE, Proven: "check", Attached: time.Now()}, Max: 9}
	var err error
	if in.Owner, err = ring.Owner(subject); err != nil {
		w.t.Fatal(err)
	}
	var ks [2]keys.Key
	for i, o := range []keys.Owner{account, in.Owner} {
		k, fresh, err := ring.SubjectKey(w.t.Context(), o)
		if err != nil {
			w.t.Fatal(err)
		}
		ks[i] = k
		in.Keys, in.Fresh = append(in.Keys, k.ID()), append(in.Fresh, fresh)
	}
	if in.Sealed, err = ring.SealAttached(ks[0], ks[1], nil, []byte(subject.Value())); err != nil {
		w.t.Fatal(err)
	}
	if err := w.b.Store().AttachIdentifier(w.t.Context(), &in); err != nil {
		w.t.Fatal(err)
	}
	return in
}

// The erasure of an identifier takes it from every account, and that of a person's pivot identity all that is attached to it, and their sessions.
func TestErasureOfAccounts(t *testing.T) {
	w := newWorld(t, nil)
	ring, s := w.b.Ring(), w.b.Store()
	pivot, err := marie.Subject()
	if err != nil {
		t.Fatal(err)
	}
	account, err := ring.Owner(pivot)
	if err != nil {
		t.Fatal(err)
	}
	var subjects []proof.Subject
	var attached []store.NewIdentifier
	for _, ine := range []string{"0EXEMPLE01A", "0EXEMPLE02B"} {
		subject, err := proof.INE(ine)
		if err != nil {
			t.Fatal(err)
		}
		in := w.attach(account, subject)
		subjects, attached = append(subjects, subject), append(attached, in)
	}
	now := time.Now()
	if err := s.BeginSession(t.Context(), &store.Session{ID: [32]byte{1}, Account: account, Sealed: []byte("x"), Created: now, Seen: now, Until: now.Add(time.Hour)}, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	check := func(left int, signedIn bool) {
		t.Helper()
		rows, err := s.Identifiers(t.Context(), account)
		if err != nil || len(rows) != left {
			t.Errorf("%d identifiers are attached, %v, want %d", len(rows), err, left)
		}
		for i := range attached {
			_, err := ring.OpenAttached(t.Context(), account, attached[i].Owner, nil, attached[i].Sealed)
			if readable := err == nil; readable != (i >= len(attached)-left) || err != nil && !errors.Is(err, keys.ErrNoKey) {
				t.Errorf("identifier %d: %v", i, err)
			}
		}
		if _, err := s.Session(t.Context(), [32]byte{1}); (err == nil) != signedIn {
			t.Errorf("the session: %v", err)
		}
	}
	check(2, true)
	if _, err := w.b.Erase(t.Context(), subjects[0], "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	check(1, true)
	if _, err := w.b.Erase(t.Context(), pivot, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	check(0, false)
}

// The sweeper drops what is over.
func TestSessionsAreDropped(t *testing.T) {
	w := newWorld(t, nil)
	s, past := w.b.Store(), time.Now().Add(-time.Hour)
	if err := s.BeginSession(t.Context(), &store.Session{ID: [32]byte{1}, Sealed: []byte("x"), Created: past, Seen: past, Until: past}, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.Session(t.Context(), [32]byte{1})
		if errors.Is(err, store.ErrNotFound) {
			return
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("it is still there: %v", err)
		}
	}
}

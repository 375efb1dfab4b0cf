package store_test

import (
	"bytes"
	"crypto/rand"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

var t0 = time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)

func session(n byte, account keys.Owner) *store.Session {
	return &store.Session{ID: [32]byte{n}, Account: account, Sealed: []byte{n, n, n}, Created: t0, Seen: t0, Until: t0.Add(15 * time.Minute)}
}

func TestSessions(t *testing.T) { store.EachEngine(t, testSessions) }

func testSessions(t *testing.T, open store.Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	a, b := keys.Owner{1}, keys.Owner{2}
	for i, x := range []keys.Owner{a, a, a, b} {
		if err := s.BeginSession(t.Context(), session(byte(i+1), x), [32]byte{}); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(id byte) {
		t.Helper()
		if got, err := s.Session(t.Context(), [32]byte{id}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("session %d is there: %+v, %v", id, got, err)
		}
	}
	there := func(want *store.Session) {
		t.Helper()
		got, err := s.Session(t.Context(), want.ID)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(*want, got); d != "" {
			t.Error(d)
		}
	}
	there(session(1, a))
	gone(9)
	// A new one takes the place of the old.
	if err := s.BeginSession(t.Context(), session(5, a), [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	gone(1)
	touched := session(5, a)
	touched.Seen, touched.Until = t0.Add(time.Minute), t0.Add(16*time.Minute)
	if err := s.TouchSession(t.Context(), touched.ID, touched.Seen, touched.Until); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	there(touched)
	if err := s.EndSession(t.Context(), [32]byte{5}); err != nil {
		t.Fatal(err)
	}
	gone(5)
	// Whoever was signed out isn't signed in again by a request that was under way.
	if err := s.TouchSession(t.Context(), [32]byte{5}, t0, t0); err != nil {
		t.Fatal(err)
	}
	gone(5)
	if n, err := s.EndSessions(t.Context(), a); err != nil || n != 2 {
		t.Errorf("%d sessions ended, %v, want 2", n, err)
	}
	gone(2)
	gone(3)
	there(session(4, b))
}

// Each sign-in comes back once, also to another process.
func TestSignInIsSpentOnce(t *testing.T) { store.EachEngine(t, testSignInIsSpentOnce) }

func testSignInIsSpentOnce(t *testing.T, open store.Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.SpendSignIn(t.Context(), [32]byte{1}, t0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if err := s.SpendSignIn(t.Context(), [32]byte{1}, t0); !errors.Is(err, store.ErrExists) {
		t.Errorf("a sign-in was spent twice: %v", err)
	}
	if err := s.SpendSignIn(t.Context(), [32]byte{2}, t0); err != nil {
		t.Error(err)
	}
}

// What is over is dropped in bounded batches, and nothing else.
func TestDropSessions(t *testing.T) { store.EachEngine(t, testDropSessions) }

func testDropSessions(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	for i := range 10 {
		x := session(byte(i+1), keys.Owner{1})
		x.Until = t0.Add(time.Duration(i) * time.Minute)
		if err := s.BeginSession(t.Context(), x, [32]byte{}); err != nil {
			t.Fatal(err)
		}
		if err := s.SpendSignIn(t.Context(), [32]byte{byte(i)}, x.Until); err != nil {
			t.Fatal(err)
		}
		if err := s.CountCheck(t.Context(), keys.Owner{1}, x.Until.Add(-store.CheckLife), t0.Add(-2*store.CheckLife), 100); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int64{9, 6, 0} { // of each kind 3, 2, 0: those until the fourth minute
		if n, err := s.DropSessions(t.Context(), t0.Add(4*time.Minute), 3); err != nil || n != want {
			t.Errorf("dropped %d, %v, want %d", n, err, want)
		}
	}
	for i := range 10 {
		_, err := s.Session(t.Context(), [32]byte{byte(i + 1)})
		if left := err == nil; left != (i > 4) {
			t.Errorf("session %d: %v", i, err)
		}
		if err := s.SpendSignIn(t.Context(), [32]byte{byte(i)}, t0.Add(time.Hour)); errors.Is(err, store.ErrExists) != (i > 4) {
			t.Errorf("sign-in %d: %v", i, err)
		}
	}
}

func identifier(account, owner keys.Owner, typ proof.SubjectType) *store.NewIdentifier {
	return &store.NewIdentifier{Identifier: store.Identifier{Account: account, Owner: owner, Type: typ, Proven: "check", Sealed: append([]byte("sealed "), owner[0]), Attached: t0}, Max: 3}
}

func TestIdentifiers(t *testing.T) { store.EachEngine(t, testIdentifiers) }

func testIdentifiers(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	a, b, nir, siren := keys.Owner{1}, keys.Owner{2}, keys.Owner{3}, keys.Owner{4}
	attach := func(in *store.NewIdentifier, want error) {
		t.Helper()
		if err := s.AttachIdentifier(t.Context(), in); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("attaching: %v, want %v", err, want)
		}
	}
	attach(identifier(a, nir, proof.TypeNIR), nil)
	attach(identifier(a, siren, proof.TypeSIREN), nil)
	// A person's identifier belongs to one account, a business's to all its representatives.
	attach(identifier(b, nir, proof.TypeNIR), store.ErrTaken)
	attach(identifier(b, siren, proof.TypeSIREN), nil)
	again := identifier(a, nir, proof.TypeNIR)
	again.Proven, again.Sealed, again.Attached = "claim", []byte("sealed anew"), t0.Add(time.Hour)
	attach(again, nil)
	attach(identifier(a, keys.Owner{5}, proof.TypeINE), nil)
	attach(identifier(a, keys.Owner{6}, proof.TypeINE), store.ErrTooMany)
	attach(again, nil) // takes no more room
	// A key that was destroyed meanwhile is noticed, and nothing is written.
	lost := identifier(b, keys.Owner{7}, proof.TypeINE)
	lost.Keys = []keys.KeyID{{9}}
	attach(lost, keys.ErrNoKey)
	lost.Fresh = []*keys.StoredKey{nil, {ID: keys.KeyID{9}, Kind: keys.KindSubject, Owner: keys.Owner{7}, Wrapped: []byte("w"), Created: t0}}
	attach(lost, nil)
	if found, err := s.FindKeys(t.Context(), lost.Keys); err != nil || len(found) != 1 {
		t.Errorf("the fresh key isn't stored: %v", err)
	}
	list := func(account keys.Owner, want ...store.Identifier) {
		t.Helper()
		got, err := s.Identifiers(t.Context(), account)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	list(a, identifier(a, siren, proof.TypeSIREN).Identifier, identifier(a, keys.Owner{5}, proof.TypeINE).Identifier, again.Identifier)
	list(b, identifier(b, siren, proof.TypeSIREN).Identifier, lost.Identifier)
	if err := s.DetachIdentifier(t.Context(), b, nir, t0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another account's identifier was detached: %v", err)
	}
	if err := s.DetachIdentifier(t.Context(), a, nir, t0); err != nil {
		t.Error(err)
	}
	attach(identifier(b, nir, proof.TypeNIR), nil)
	// An erasure takes an identifier from every account, and an account with all that is attached to it.
	if err := s.BeginSession(t.Context(), session(1, b), [32]byte{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(t.Context(), siren, t0); err != nil {
		t.Fatal(err)
	}
	list(a, identifier(a, keys.Owner{5}, proof.TypeINE).Identifier)
	list(b, identifier(b, nir, proof.TypeNIR).Identifier, lost.Identifier)
	if err := s.Forget(t.Context(), b, t0); err != nil {
		t.Fatal(err)
	}
	list(b)
	if _, err := s.Session(t.Context(), [32]byte{1}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the erased person is still signed in: %v", err)
	}
}

// TestDetachingCallsOffAnErasure: who gives an identifier up has nothing erased under it any more, for it may be attached to another account by then.
func TestDetachingCallsOffAnErasure(t *testing.T) {
	store.EachEngine(t, testDetachingCallsOffAnErasure)
}

func testDetachingCallsOffAnErasure(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	a, b, nir, ine := keys.Owner{1}, keys.Owner{2}, keys.Owner{3}, keys.Owner{4}
	if err := s.Enrol(ctx, a, "fr", nil); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*store.NewIdentifier{identifier(a, nir, proof.TypeNIR), identifier(a, ine, proof.TypeINE)} {
		if err := s.AttachIdentifier(ctx, x); err != nil {
			t.Fatal(err)
		}
	}
	request := func(n byte, account, owner keys.Owner, typ proof.SubjectType) store.ErasureRequest {
		return store.ErasureRequest{ID: store.ID{n}, Request: store.ID{10 + account[0]}, Account: account, Owner: owner, Type: typ, Ground: "g", Asked: t0, Due: t0}
	}
	if _, err := s.RequestErasure(ctx, []store.ErasureRequest{request(1, a, nir, proof.TypeNIR), request(2, a, ine, proof.TypeINE)}, []*store.Sealed{sealed(1), sealed(2)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RequestErasure(ctx, []store.ErasureRequest{request(3, b, nir, proof.TypeNIR)}, []*store.Sealed{sealed(3)}); err != nil {
		t.Fatal(err)
	}
	begin := func(n byte, owner keys.Owner) error {
		return (store.Order{Store: s}).BeginErasure(ctx, &store.Erasure{ID: store.ID{20 + n}, Record: store.Record{Owner: owner, Person: []byte{1}, Admin: []byte{1}}}, store.ID{n}, t0, 0, nil)
	}
	if err := s.DetachIdentifier(ctx, b, nir, t0); !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	if list, err := s.ErasureRequests(ctx, b, 9); err != nil || len(list) != 1 || list[0].State != store.ErasureWaiting {
		t.Errorf("what wasn't detached is called off: %+v, %v", list, err)
	}
	gone := t0.Add(time.Minute)
	if err := s.DetachIdentifier(ctx, a, nir, gone); err != nil {
		t.Fatal(err)
	}
	list, err := s.ErasureRequests(ctx, a, 9)
	if err != nil || len(list) != 2 || list[0].State != store.ErasureUndone || len(list[0].Subject) != 0 || !list[0].Ended.Equal(gone) || list[1].State != store.ErasureWaiting || len(list[1].Subject) == 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := s.ErasureRequests(ctx, b, 9); err != nil || list[0].State != store.ErasureWaiting {
		t.Errorf("another account's is called off: %+v, %v", list, err)
	}
	notices, err := s.Notices(ctx, a, 0, 9)
	if err != nil || len(notices) != 2 || notices[0].Event != store.ErasureDetached || notices[0].Ref != list[0].Request {
		t.Errorf("%+v, %v", notices, err)
	}
	if err := begin(1, nir); !errors.Is(err, store.ErrEnded) {
		t.Errorf("an erasure that was called off begins: %v", err)
	}
	// One that has begun is carried through.
	if err := begin(2, ine); err != nil {
		t.Fatal(err)
	}
	if err := s.DetachIdentifier(ctx, a, ine, gone); err != nil {
		t.Fatal(err)
	}
	if list, err := s.ErasureRequests(ctx, a, 9); err != nil || list[1].State != store.ErasureWaiting {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestAnErasureEndsWithTheIdentifier: an account can lose an identifier with all that it has, when its own identity is erased. What it asked to erase under the identifier goes on, until the identifier is another account's.
func TestAnErasureEndsWithTheIdentifier(t *testing.T) {
	store.EachEngine(t, testAnErasureEndsWithTheIdentifier)
}

func testAnErasureEndsWithTheIdentifier(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	a, b, nir := keys.Owner{1}, keys.Owner{2}, keys.Owner{3}
	attach := func(account keys.Owner, at time.Time) {
		t.Helper()
		in := identifier(account, nir, proof.TypeNIR)
		in.Attached = at
		if err := s.AttachIdentifier(ctx, in); err != nil {
			t.Fatal(err)
		}
	}
	state := func(account keys.Owner) store.ErasureRequest {
		t.Helper()
		list, err := s.ErasureRequests(ctx, account, 9)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list[0]
	}
	attach(a, t0)
	ask := func(n byte, account keys.Owner) {
		t.Helper()
		r := store.ErasureRequest{ID: store.ID{n}, Request: store.ID{10 + n}, Account: account, Owner: nir, Type: proof.TypeNIR, Ground: "g", Asked: t0, Due: t0}
		if _, err := s.RequestErasure(ctx, []store.ErasureRequest{r}, []*store.Sealed{sealed(n)}); err != nil {
			t.Fatal(err)
		}
	}
	ask(1, a)
	if err := s.Forget(ctx, a, t0); err != nil {
		t.Fatal(err)
	}
	if got := state(a); got.State != store.ErasureWaiting {
		t.Errorf("with the account goes what it asked for: %+v", got)
	}
	attach(a, t0) // signed in anew
	if got := state(a); got.State != store.ErasureWaiting {
		t.Errorf("it is called off by the same person's sign-in: %+v", got)
	}
	if err := s.Forget(ctx, a, t0); err != nil {
		t.Fatal(err)
	}
	taken := t0.Add(time.Hour)
	attach(b, taken)
	if got := state(a); got.State != store.ErasureUndone || !got.Ended.Equal(taken) || len(got.Subject) != 0 {
		t.Errorf("what is somebody else's would be erased: %+v", got)
	}
	begin := func(n byte) error {
		return (store.Order{Store: s}).BeginErasure(ctx, &store.Erasure{ID: store.ID{20 + n}, Record: store.Record{Owner: nir, Person: []byte{1}, Admin: []byte{1}}}, store.ID{n}, t0, 0, nil)
	}
	if err := begin(1); !errors.Is(err, store.ErrEnded) {
		t.Errorf("and begins: %v", err)
	}
	// The new holder's own request stands.
	ask(2, b)
	attach(b, taken)
	if got := state(b); got.State != store.ErasureWaiting {
		t.Errorf("%+v", got)
	}
	if err := begin(2); err != nil {
		t.Error(err)
	}
}

func TestChecksAreBounded(t *testing.T) { store.EachEngine(t, testChecksAreBounded) }

func testChecksAreBounded(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	a := keys.Owner{1}
	for i := range 5 {
		want := error(nil)
		if i >= 3 {
			want = store.ErrTooMany
		}
		if err := s.CountCheck(t.Context(), a, t0, t0.Add(-time.Hour), 3); !errors.Is(err, want) {
			t.Errorf("check %d: %v, want %v", i, err, want)
		}
	}
	if err := s.CountCheck(t.Context(), keys.Owner{2}, t0, t0.Add(-time.Hour), 3); err != nil {
		t.Errorf("another account's: %v", err)
	}
	if err := s.CountCheck(t.Context(), a, t0.Add(time.Hour), t0, 3); err != nil {
		t.Errorf("after an hour: %v", err)
	}
}

// A backup signs nobody in, erases whoever was erased after it, and leaves nothing attached.
func TestBackupAndAccounts(t *testing.T) {
	s := open(t, t.TempDir())
	in := session(1, keys.Owner{1})
	rand.Read(in.ID[:])
	if err := s.BeginSession(t.Context(), in, [32]byte{}); err != nil {
		t.Fatal(err)
	}
	for _, nir := range []byte{3, 4} {
		if err := s.AttachIdentifier(t.Context(), identifier(keys.Owner{1}, keys.Owner{nir}, proof.TypeNIR)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SaveKeys(t.Context(), []keys.StoredKey{{ID: keys.KeyID{15: 1}, Kind: keys.KindSubject, Owner: keys.Owner{3}, Wrapped: []byte{1}, Created: at}}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	if err := s.Copy(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, in.ID[:]) {
		t.Error("the copy holds a session")
	}
	c := open(t, dir)
	err = c.Restore(t.Context(), &store.Restoration{Restart: leaf(0, proof.KindRestart), Erased: []store.Erased{{ID: store.ID{1}, Owner: keys.Owner{3}, Index: 7, Logged: true}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Identifiers(t.Context(), keys.Owner{1})
	if err != nil || len(got) != 0 {
		t.Errorf("after the restoration: %v, %v", got, err)
	}
	if left, err := c.ListKeys(t.Context(), "", keys.KeyID{}, 9); err != nil || len(left) != 0 {
		t.Errorf("keys after the restoration: %v, %v", left, err)
	}
}

// The rule of one account stands in the schema, too.
func TestSchemaKeepsIdentifiersSingle(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+store.FileIn(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const q = "INSERT INTO identifiers (account, owner, type, proven, sealed, attached) VALUES (?, x'03', ?, 'claim', x'', 0)"
	for i, x := range []struct {
		account, typ string
		ok           bool
	}{{"a", "nir", true}, {"b", "nir", false}, {"b", "siren", true}, {"c", "siren", true}} {
		if _, err := db.ExecContext(t.Context(), q, []byte(x.account), x.typ); (err == nil) != x.ok {
			t.Errorf("row %d: %v", i, err)
		}
	}
}

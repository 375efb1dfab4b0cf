package keys_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
)

// What ledger.Labeler demands, spelled out so that these tests don't need the log to compile; the broker joins the two.
var _ interface {
	CurrentKey(ctx context.Context, t time.Time) (name string, public [32]byte, err error)
	Label(ctx context.Context, name string, epoch proof.Epoch, subjects []proof.Subject) ([]proof.Label, error)
	Prove(ctx context.Context, name string, epoch proof.Epoch, subject proof.Subject) (proof.Label, []byte, error)
	RollSeed(ctx context.Context, name string, epoch proof.Epoch) ([32]byte, error)
} = keys.Labels{}

func nodeHash(l, r proof.Hash) proof.Hash {
	return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
}

// Brokers that need the same new key at once agree on one, and what one seals the others open.
func TestPeriodKeysAreOne(t *testing.T) {
	b := newBench(t)
	rings := []*keys.Ring{b.ring, b.open(t), b.open(t)}
	var mu sync.Mutex
	var blobs [][]byte
	names := map[string]bool{}
	var wg sync.WaitGroup
	for _, r := range rings {
		for range 8 {
			wg.Go(func() {
				blob, err := r.SealAdmin(ctx, b.clock.now(), nil, []byte("x"))
				if err != nil {
					t.Error(err)
					return
				}
				name, _, err := r.Labels().CurrentKey(ctx, b.clock.now())
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				blobs, names[name] = append(blobs, blob), true
			})
		}
	}
	wg.Wait()
	if len(names) != 1 {
		t.Errorf("%d label keys in one month", len(names))
	}
	count := map[keys.Kind]int{}
	for _, k := range b.store.Rows() {
		count[k.Kind]++
	}
	for _, kind := range []keys.Kind{keys.KindReference, keys.KindIndex, keys.KindMonth, keys.KindLabel} {
		if count[kind] != 1 {
			t.Errorf("%d keys of kind %s, want 1", count[kind], kind)
		}
	}
	for _, blob := range blobs {
		for _, r := range rings {
			if _, err := r.OpenAdmin(ctx, nil, blob); err != nil {
				t.Error(err)
			}
		}
	}
}

// A key that may not be stored seals nothing: every failure of the store at its creation is an error, and then it works.
func TestPeriodKeyFails(t *testing.T) {
	for _, done := range []bool{false, true} {
		for _, op := range []string{"LoadKeys", "SaveKeys"} {
			b := newBench(t)
			disk := errors.New("disk")
			b.store.SetFail(func(name string, after bool) error {
				if name == op && after == done {
					return disk
				}
				return nil
			})
			_, err := b.ring.SealAdmin(ctx, b.clock.now(), nil, []byte("x"))
			wants(t, op, err, disk)
			b.store.SetFail(nil)
			blob, err := b.ring.SealAdmin(ctx, b.clock.now(), nil, []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.open(t).OpenAdmin(ctx, nil, blob); err != nil {
				t.Errorf("%s: what was sealed after it doesn't open after a restart: %v", op, err)
			}
		}
	}
}

func TestDestroyMonth(t *testing.T) {
	b := newBench(t)
	now := b.clock.now()
	admin, err := b.ring.SealAdmin(ctx, now, nil, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	l := b.ring.Labels()
	name, _, err := l.CurrentKey(ctx, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.RollSeed(ctx, name, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ring.DestroyMonth(ctx, "2026-11"); err == nil {
		t.Fatal("destroyed the keys of a month that isn't over")
	}
	if _, err := b.ring.DestroyMonth(ctx, "november"); err == nil {
		t.Fatal("took november for a month")
	}
	b.clock.add(8 * 24 * time.Hour)
	next, err := b.ring.SealAdmin(ctx, b.clock.now(), nil, []byte("y"))
	if err != nil {
		t.Fatal(err)
	}
	gone, err := b.ring.DestroyMonth(ctx, "2026-11")
	if err != nil || len(gone) != 3 {
		t.Fatalf("%d keys destroyed, %v; want month, label and roll", len(gone), err)
	}
	for _, r := range []*keys.Ring{b.ring, b.open(t)} {
		_, err = r.OpenAdmin(ctx, nil, admin)
		wants(t, "an administrative part", err, keys.ErrNoKey)
		_, _, err = r.Labels().Prove(ctx, name, 1, subject(t))
		wants(t, "a label", err, keys.ErrNoKey)
		_, err = r.Labels().RollSeed(ctx, name, 1)
		wants(t, "a roll seed", err, keys.ErrNoKey)
		if _, err := r.OpenAdmin(ctx, nil, next); err != nil {
			t.Errorf("the next month: %v", err)
		}
	}
	if gone, err := b.ring.DestroyMonth(ctx, "2026-11"); err != nil || len(gone) != 0 {
		t.Errorf("again: %d, %v", len(gone), err)
	}
}

func subject(t *testing.T) proof.Subject {
	t.Helper()
	s, err := proof.SIREN(alice)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLabels(t *testing.T) {
	b := newBench(t)
	l, s := b.ring.Labels(), subject(t)
	name, public, err := l.CurrentKey(ctx, b.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	z, pi, err := l.Prove(ctx, name, 7, s)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := proof.VerifyLabel(public, s, 7, pi); err != nil || got != z {
		t.Errorf("the proof doesn't verify under the public key: %v", err)
	}
	other := b.open(t).Labels()
	zs, err := other.Label(ctx, name, 7, []proof.Subject{s, s})
	if err != nil || len(zs) != 2 || zs[0] != z || zs[1] != z {
		t.Errorf("another process makes another label: %v", err)
	}
	if zs, err := l.Label(ctx, name, 8, []proof.Subject{s}); err != nil || zs[0] == z {
		t.Errorf("two epochs share a label: %v", err)
	}
	if _, err := l.Label(ctx, name, 7, []proof.Subject{{}}); err == nil {
		t.Error("the zero subject got a label")
	}
	if _, _, err := l.Prove(ctx, name, 7, proof.Subject{}); err == nil {
		t.Error("the zero subject got a proof")
	}
	s1, err := l.RollSeed(ctx, name, 7)
	if err != nil {
		t.Fatal(err)
	}
	s2, _ := other.RollSeed(ctx, name, 7)
	s3, _ := l.RollSeed(ctx, name, 8)
	if s1 != s2 || s1 == s3 || s1 == [32]byte{} {
		t.Error("roll seeds aren't one for an epoch")
	}
	b.clock.add(31 * 24 * time.Hour)
	if next, p2, err := l.CurrentKey(ctx, b.clock.now()); err != nil || next == name || p2 == public {
		t.Errorf("the next month has the same key: %v", err)
	}
	if _, err := b.ring.LabelKey(ctx, "nonsense"); err == nil {
		t.Error("nonsense names a key")
	}
	// A key of another kind is no label key.
	admin, err := b.ring.SealAdmin(ctx, b.clock.now(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := keys.KeyOf(admin)
	_, err = b.ring.LabelKey(ctx, id.String())
	wants(t, "a month key as a label key", err, keys.ErrAltered)
}

// TestLostRollSecret: a roll secret that vanished was made anew in silence, and the epoch's rolls then failed as if the index were wrong.
func TestLostRollSecret(t *testing.T) {
	b := newBench(t)
	month := keys.MonthOf(b.clock.now())
	name, _, err := b.ring.Labels().CurrentKey(ctx, b.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	rows, err := b.store.LoadKeys(ctx, keys.KindRoll, keys.Owner{}, month)
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d roll secrets come with a label key (%v)", len(rows), err)
	}
	if err := b.store.DestroyKeys(ctx, []keys.KeyID{rows[0].ID}); err != nil {
		t.Fatal(err)
	}
	l := b.open(t).Labels()
	if again, _, err := l.CurrentKey(ctx, b.clock.now()); err != nil || again != name {
		t.Errorf("the label key: %v", err)
	}
	_, err = l.RollSeed(ctx, name, 1)
	wants(t, "a roll seed whose secret is lost", err, keys.ErrNoKey)
	if err == nil || !strings.Contains(err.Error(), "rolls of "+month) {
		t.Errorf("the error doesn't say what is missing: %v", err)
	}
	if rows, err := b.store.LoadKeys(ctx, keys.KindRoll, keys.Owner{}, month); err != nil || len(rows) != 0 {
		t.Errorf("%d roll secrets were made anew (%v)", len(rows), err)
	}
}

func TestCheckpointSigners(t *testing.T) {
	b := newBench(t)
	const origin = "example.org/log"
	sign := func() ([]byte, []string) {
		t.Helper()
		signers, err := b.ring.CheckpointSigners(ctx, origin)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: origin + "\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"}, signers...)
		if err != nil {
			t.Fatal(err)
		}
		vkeys, err := b.ring.CheckpointVerifiers(ctx, origin)
		if err != nil || len(vkeys) != len(signers) {
			t.Fatalf("%d verifiers for %d signers, %v", len(vkeys), len(signers), err)
		}
		return signed, vkeys
	}
	verifies := func(signed []byte, vkey string, n int) {
		t.Helper()
		v, err := note.NewVerifier(vkey)
		if err != nil {
			t.Fatal(err)
		}
		got, err := note.Open(signed, note.VerifierList(v))
		if err != nil || len(got.Sigs) != 1 || len(got.Sigs)+len(got.UnverifiedSigs) != n {
			t.Errorf("it doesn't verify: %v", err)
		}
	}
	first, old := sign()
	if len(old) != 1 {
		t.Fatalf("%d signers, want 1", len(old))
	}
	verifies(first, old[0], 1)
	if _, err := b.custodian.Rotate(ctx, keys.RootCheckpoint); err != nil {
		t.Fatal(err)
	}
	b.clock.add(2 * time.Minute)
	both, vkeys := sign()
	if len(vkeys) != 2 || vkeys[1] != old[0] {
		t.Fatalf("signers after the rotation: %v; want the new one, then %v", vkeys, old)
	}
	verifies(both, vkeys[0], 2)
	verifies(both, vkeys[1], 2)
	if err := b.custodian.Retire(ctx, keys.RootCheckpoint, 2); err != nil {
		t.Fatal(err)
	}
	b.clock.add(2 * time.Minute)
	last, vkeys := sign()
	if len(vkeys) != 1 {
		t.Fatalf("%d signers after Retire, want 1", len(vkeys))
	}
	verifies(last, vkeys[0], 1)
	for _, name := range []string{"", "a b", "a+b", "a\n", "\xff"} {
		if _, err := b.ring.CheckpointSigners(ctx, name); err == nil {
			t.Errorf("%q is an origin", name)
		}
	}
}

// TestRefusedSignerIsForgotten: a version that was retired without a word to this process signs once more at most: after the refusal the signers in force are known, and not a minute later.
func TestRefusedSignerIsForgotten(t *testing.T) {
	b := newBench(t)
	if _, err := b.custodian.Rotate(ctx, keys.RootCheckpoint); err != nil {
		t.Fatal(err)
	}
	signers := func() []note.Signer {
		t.Helper()
		s, err := b.ring.CheckpointSigners(ctx, "example.org/log")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	both := signers()
	if len(both) != 2 {
		t.Fatalf("%d signers", len(both))
	}
	if err := b.custodian.Retire(ctx, keys.RootCheckpoint, 2); err != nil {
		t.Fatal(err)
	}
	_, err := both[1].Sign([]byte("x"))
	wants(t, "a signature of a retired version", err, keys.ErrDenied)
	if left := signers(); len(left) != 1 || left[0].KeyHash() != both[0].KeyHash() {
		t.Errorf("%d signers after a refusal", len(left))
	}
}

// liar answers with another key's signature.
type liar struct {
	keys.Custodian
	key ed25519.PrivateKey
}

func (l liar) Sign(_ context.Context, _ int, msg []byte) ([]byte, error) {
	return ed25519.Sign(l.key, msg), nil
}

func TestSignatureIsChecked(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := keystest.NewRing(t, keys.Config{Custodian: liar{keystest.NewCustodian(t), key}})
	s, err := r.CheckpointSigners(ctx, "example.org/log")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s[0].Sign([]byte("x"))
	wants(t, "a signature of another key", err, keys.ErrAltered)
}

// A rotation of the root key, to its end: everything opens all the way, under the new version alone in the end.
func TestRewrap(t *testing.T) {
	b := newBench(t)
	type part struct {
		o    keys.Owner
		blob []byte
	}
	var parts []part
	for i := range 700 {
		o := keys.Owner{7, byte(i), byte(i >> 8)}
		parts = append(parts, part{o, b.seal(t, b.ring, o, "x")})
	}
	admin, err := b.ring.SealAdmin(ctx, b.clock.now(), nil, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	before := b.store.Rows()
	if _, err := b.custodian.Rotate(ctx, keys.RootWrap); err != nil {
		t.Fatal(err)
	}
	// Somebody is erased between the reading and the writing of a page: rewrapping must not bring the key back.
	erased := parts[3]
	var once sync.Once
	b.store.SetFail(func(op string, done bool) error {
		if op == "ReplaceKeys" && !done {
			once.Do(func() {
				if err := b.ring.Erase(ctx, erased.o); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	})
	var progress []int
	n, err := b.ring.Rewrap(ctx, func(seen int) { progress = append(progress, seen) })
	if err != nil {
		t.Fatal(err)
	}
	all := 700 + 3 // reference, index, month
	if n != all || len(progress) != 2 || progress[1] != all {
		t.Errorf("%d keys rewrapped, progress %v; want %d", n, progress, all)
	}
	if n, err := b.ring.Rewrap(ctx, nil); err != nil || n != 0 {
		t.Errorf("again: %d, %v; want none", n, err)
	}
	if err := b.custodian.Retire(ctx, keys.RootWrap, 2); err != nil {
		t.Fatal(err)
	}
	r := b.open(t)
	for _, p := range parts {
		if p.o == erased.o {
			_, err := r.OpenPerson(ctx, p.o, []byte("ad of x"), p.blob)
			wants(t, "who was erased meanwhile", err, keys.ErrNoKey)
			continue
		}
		opens(t, r, p.o, p.blob, "x")
	}
	if _, err := r.OpenAdmin(ctx, nil, admin); err != nil {
		t.Error(err)
	}
	after := b.store.Bytes()
	for i := range before {
		if bytes.Contains(after, before[i].Wrapped) {
			t.Fatal("a row is unchanged")
		}
	}
	// A damaged row is told, and doesn't keep the others from it.
	row := b.store.Rows()[10]
	row.Wrapped = []byte("damaged")
	b.store.Put(row)
	if _, err := b.custodian.Rotate(ctx, keys.RootWrap); err != nil {
		t.Fatal(err)
	}
	n, err = b.ring.Rewrap(ctx, nil)
	wants(t, "a damaged row", err, keys.ErrAltered)
	if n != all-2 {
		t.Errorf("%d rewrapped beside it, want %d", n, all-2)
	}
	if err == nil || !strings.Contains(err.Error(), "1 of") {
		t.Errorf("%v doesn't count the damaged row", err)
	}
}

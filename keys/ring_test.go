package keys_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
)

var ctx = context.Background()

// clock is a clock that stands still until it is told.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 23, 22, 45, 10, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// bench is a ring with what stands around it.
type bench struct {
	ring      *keys.Ring
	store     *keystest.Store
	custodian keys.Custodian
	clock     *clock
}

func newBench(t testing.TB) *bench {
	b := &bench{store: keystest.NewStore(), custodian: keystest.NewCustodian(t), clock: newClock()}
	b.ring = b.open(t)
	return b
}

// open opens another ring on the same store and custodian: a restart, or a second broker.
func (b *bench) open(t testing.TB) *keys.Ring {
	return keystest.NewRing(t, keys.Config{Custodian: b.custodian, Store: b.store, Now: b.clock.now})
}

func (b *bench) owner(t testing.TB, siren string) keys.Owner {
	t.Helper()
	s, err := proof.SIREN(siren)
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.ring.Owner(s)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Valid SIRENs: a person to be erased, and another.
const (
	alice = "356000000"
	bob   = "130025265"
)

// seal seals under a key of the owner and saves the key, as a transaction of the broker would.
func (b *bench) seal(t testing.TB, r *keys.Ring, o keys.Owner, text string) []byte {
	t.Helper()
	k, fresh, err := r.SubjectKey(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := r.SealPerson(k, []byte("ad of "+text), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.SaveFresh(fresh); err != nil {
		t.Fatal(err)
	}
	if fresh != nil {
		r.Saved(fresh)
	}
	return blob
}

func opens(t testing.TB, r *keys.Ring, o keys.Owner, blob []byte, text string) {
	t.Helper()
	got, err := r.OpenPerson(ctx, o, []byte("ad of "+text), blob)
	if err != nil || string(got) != text {
		t.Errorf("OpenPerson: %q, %v; want %q", got, err, text)
	}
}

func wants(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// verified logs entries with these commitments in a tree of one or two, has the ring sign its checkpoint, and verifies.
func verified(t testing.TB, r *keys.Ring, commitments ...proof.Commitment) proof.Verified {
	t.Helper()
	const origin = "example.org/log"
	entries := make([]proof.Proven, len(commitments))
	leaves := make([]proof.Hash, len(commitments))
	for i, c := range commitments {
		entries[i] = proof.Proven{Index: proof.Index(i), Text: []byte("regard/disclosure@v1\nepoch 0\ncommitment " + c.String() + "\n")}
		leaves[i] = proof.LeafHash(entries[i].Text)
	}
	root := leaves[0]
	size := "1"
	if len(leaves) == 2 {
		entries[0].Path, entries[1].Path = leaves[1:], leaves[:1]
		root, size = nodeHash(leaves[0], leaves[1]), "2"
	}
	signers, err := r.CheckpointSigners(ctx, origin)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: origin + "\n" + size + "\n" + root.String() + "\n"}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	vkeys, err := r.CheckpointVerifiers(ctx, origin)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := proof.NewPolicy(vkeys[0])
	if err != nil {
		t.Fatal(err)
	}
	cp, err := proof.VerifyCheckpoint(signed, policy)
	if err != nil {
		t.Fatal(err)
	}
	v, err := proof.Verify(cp, entries)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// G1: the plaintext of an answer comes out for the proof of exactly its set, and for nothing else.
func TestPayloadDemandsItsProof(t *testing.T) {
	b := newBench(t)
	c1, c2, c3 := proof.Commitment{1}, proof.Commitment{2}, proof.Commitment{3}
	answer := []byte(`{"revenu":12345}`)
	set := proof.SetDigest([]proof.Commitment{c1, c2})
	sealed, err := b.ring.SealPayload(ctx, set, answer)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, answer) {
		t.Fatal("the answer stands in clear")
	}
	got, err := b.ring.OpenPayload(ctx, sealed, verified(t, b.ring, c2, c1))
	if err != nil || !bytes.Equal(got, answer) {
		t.Fatalf("with its proof: %q, %v", got, err)
	}
	for name, test := range map[string]struct {
		v    proof.Verified
		want error
	}{
		"nothing verified":          {proof.Verified{}, keys.ErrUnproven},
		"another request's proof":   {verified(t, b.ring, c3), keys.ErrAltered},
		"one of its two entries":    {verified(t, b.ring, c1), keys.ErrAltered},
		"one of them and a foreign": {verified(t, b.ring, c1, c3), keys.ErrAltered},
	} {
		got, err := b.ring.OpenPayload(ctx, sealed, test.v)
		wants(t, name, err, test.want)
		if got != nil {
			t.Errorf("%s: it gave %d bytes", name, len(got))
		}
	}
	_, err = b.ring.SealPayload(ctx, proof.Hash{}, answer)
	wants(t, "sealing for no set", err, keys.ErrUnproven)

	v := verified(t, b.ring, c1, c2)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if got, err := b.ring.OpenPayload(ctx, bad, v); err == nil || got != nil {
			t.Fatalf("byte %d altered: it opened", i)
		}
	}
	// The other doors stay shut.
	_, err = b.ring.OpenAdmin(ctx, set[:], sealed)
	wants(t, "an answer as an administrative part", err, keys.ErrAltered)
	_, err = b.ring.OpenPerson(ctx, keys.Owner{1}, set[:], sealed)
	wants(t, "an answer as a person part", err, keys.ErrAltered)
	admin, err := b.ring.SealAdmin(ctx, b.clock.now(), set[:], answer)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.ring.OpenPayload(ctx, admin, v)
	wants(t, "an administrative part as an answer", err, keys.ErrAltered)
	// Nor does renaming the use and the key.
	forged := bytes.Clone(admin)
	copy(forged[:18], sealed[:18])
	_, err = b.ring.OpenPayload(ctx, forged, v)
	wants(t, "an administrative part under an answer's head", err, keys.ErrAltered)
}

// What was given back is overwritten, and seals and opens as before.
func TestRecycle(t *testing.T) {
	b := newBench(t)
	c := proof.Commitment{1}
	set, v := proof.SetDigest([]proof.Commitment{c}), verified(t, b.ring, c)
	for _, text := range []string{"a long planted answer", "short", "another planted answer, which is the longest"} {
		sealed, err := b.ring.SealPayload(ctx, set, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		opened, err := b.ring.OpenPayload(ctx, sealed, v)
		if err != nil || string(opened) != text {
			t.Fatalf("%q opened as %q, %v", text, opened, err)
		}
		b.ring.Recycle(opened)
		b.ring.Recycle(sealed)
		for _, gone := range [][]byte{opened, sealed} {
			if !bytes.Equal(gone, make([]byte, len(gone))) {
				t.Error("it is still there")
			}
		}
	}
	b.ring.Recycle(nil)
}

func TestSweep(t *testing.T) {
	b := newBench(t)
	c := proof.Commitment{1}
	set, v := proof.SetDigest([]proof.Commitment{c}), verified(t, b.ring, c)
	sealed, err := b.ring.SealPayload(ctx, set, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	sweep := func(r *keys.Ring) int {
		t.Helper()
		n, err := r.Sweep(ctx, b.clock.now())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// 22:45:10; the minute ends at 22:46:00, and its answers at 23:01:00.
	sweep(b.ring)
	b.clock.add(15*time.Minute + 49*time.Second)
	for _, r := range []*keys.Ring{b.ring, b.open(t)} { // after a restart too
		sweep(r)
		if _, err := r.OpenPayload(ctx, sealed, v); err != nil {
			t.Errorf("a second before its time: %v", err)
		}
	}
	b.clock.add(time.Second)
	_, err = b.ring.OpenPayload(ctx, sealed, v)
	wants(t, "after its time, before the sweep", err, keys.ErrNoKey)
	if n := sweep(b.ring); n == 0 {
		t.Error("nothing was swept")
	}
	for _, r := range []*keys.Ring{b.ring, b.open(t)} {
		_, err = r.OpenPayload(ctx, sealed, v)
		wants(t, "after its time", err, keys.ErrNoKey)
	}
	for _, k := range b.store.Rows() {
		if k.Kind == keys.KindPayload && k.Period == "2026-11-23T22:45Z" {
			t.Error("the key is still stored")
		}
	}
	// The next minute's key is there before it is needed.
	before := b.ring.Stats().Created
	sweep(b.ring)
	b.clock.add(time.Minute)
	made := b.ring.Stats().Created
	if _, err := b.ring.SealPayload(ctx, set, []byte("x")); err != nil || b.ring.Stats().Created != made {
		t.Errorf("a request had to make the minute's key (%d before, %d after the sweep; %v)", before, made, err)
	}
}

// A key whose time can't be told is reported, and keeps no other one.
func TestSweepPastADamagedKey(t *testing.T) {
	b := newBench(t)
	c := proof.Commitment{1}
	if _, err := b.ring.SealPayload(ctx, proof.SetDigest([]proof.Commitment{c}), []byte("x")); err != nil {
		t.Fatal(err)
	}
	var damaged keys.StoredKey
	for _, k := range b.store.Rows() {
		if k.Kind == keys.KindPayload {
			damaged = k
		}
	}
	damaged.ID, damaged.Period = keys.KeyID{1}, "x"+damaged.Period // before all others
	b.store.Put(damaged)
	b.clock.add(time.Hour)
	n, err := b.ring.Sweep(ctx, b.clock.now())
	wants(t, "a key without a period", err, keys.ErrAltered)
	if n != 1 {
		t.Errorf("%d keys were swept", n)
	}
}

// G7: after Erase a copy of everything stored, and the custodian, open nothing of that person.
func TestEraseIsFinal(t *testing.T) {
	b := newBench(t)
	a, o := b.owner(t, alice), b.owner(t, bob)
	second := b.open(t)
	// Two generations of the same person: both creators ask before either saves.
	k1, f1, err := b.ring.SubjectKey(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	k2, f2, err := second.SubjectKey(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	if f1 == nil || f2 == nil || f1.ID == f2.ID {
		t.Fatal("two creators share a key")
	}
	blobs := map[string][]byte{}
	for text, k := range map[string]keys.Key{"first": k1, "second": k2} {
		if blobs[text], err = b.ring.SealPerson(k, []byte("ad of "+text), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.store.SaveFresh(f1, f2); err != nil {
		t.Fatal(err)
	}
	b.ring.Saved(f1)
	second.Saved(f2)
	blobs["third"] = b.seal(t, b.ring, a, "third")
	other := b.seal(t, b.ring, o, "other")
	for text, blob := range blobs {
		opens(t, b.ring, a, blob, text)
		opens(t, b.open(t), a, blob, text)
	}
	wrapped := [][]byte{f1.Wrapped, f2.Wrapped}
	for i, w := range wrapped {
		if !bytes.Contains(b.store.Bytes(), w) {
			t.Fatalf("key %d isn't where the test looks for it", i)
		}
	}

	if err := b.ring.Erase(ctx, a); err != nil {
		t.Fatal(err)
	}
	for i, w := range wrapped {
		if bytes.Contains(b.store.Bytes(), w) {
			t.Errorf("key %d is still stored", i)
		}
	}
	thief := b.open(t)
	for text, blob := range blobs {
		for name, r := range map[string]*keys.Ring{"here": b.ring, "a thief": thief} {
			_, err := r.OpenPerson(ctx, a, []byte("ad of "+text), blob)
			wants(t, text+", "+name, err, keys.ErrNoKey)
		}
	}
	// Every other key that is left, put in the place of the erased ones.
	for _, row := range b.store.Rows() {
		for text, blob := range blobs {
			id, err := keys.KeyOf(blob)
			if err != nil {
				t.Fatal(err)
			}
			forged := keystest.NewStore()
			forged.Put(b.store.Rows()...)
			row.ID, row.Kind, row.Owner = id, keys.KindSubject, a
			forged.Put(row)
			r := keystest.NewRing(t, keys.Config{Custodian: b.custodian, Store: forged, Now: b.clock.now})
			_, err = r.OpenPerson(ctx, a, []byte("ad of "+text), blob)
			wants(t, "another row in its place", err, keys.ErrAltered)
		}
	}
	opens(t, b.ring, o, other, "other")
	opens(t, thief, o, other, "other")
	// The person may come back, under a new key.
	again := b.seal(t, b.ring, a, "again")
	opens(t, b.open(t), a, again, "again")
	if err := b.ring.Erase(ctx, b.owner(t, "552100554")); err != nil {
		t.Errorf("erasing somebody who has no keys: %v", err)
	}
	if err := b.ring.Erase(ctx, keys.Owner{}); err == nil {
		t.Error("erased nobody")
	}
}

// Erase runs while another goroutine is between reading the person's key from the store and caching it.
func TestEraseMeetsALoad(t *testing.T) {
	b := newBench(t)
	a := b.owner(t, alice)
	blob := b.seal(t, b.ring, a, "x")
	old, err := keys.KeyOf(blob)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"LoadKeys", "FindKeys"} {
		r := b.open(t) // nothing cached
		if _, ok := find(b.store, old); !ok {
			blob = b.seal(t, b.ring, a, "x")
			old, _ = keys.KeyOf(blob)
		}
		once := sync.Once{}
		b.store.SetFail(func(name string, done bool) error {
			if name == op && done {
				once.Do(func() {
					b.store.SetFail(nil)
					if err := r.Erase(ctx, a); err != nil {
						t.Error(err)
					}
				})
			}
			return nil
		})
		if op == "LoadKeys" {
			k, fresh, err := r.SubjectKey(ctx, a)
			if err != nil || fresh == nil || k.ID() == old {
				t.Errorf("SubjectKey gave the destroyed key (%v)", err)
			}
		} else {
			_, err := r.OpenPerson(ctx, a, []byte("ad of x"), blob)
			wants(t, "opening while it is erased", err, keys.ErrNoKey)
		}
		if r.Stats().Cached != 0 {
			t.Errorf("%s: a destroyed key is cached", op)
		}
	}
}

func find(s *keystest.Store, id keys.KeyID) (keys.StoredKey, bool) {
	for _, k := range s.Rows() {
		if k.ID == id {
			return k, true
		}
	}
	return keys.StoredKey{}, false
}

// A key that was saved, erased, and only then confirmed must not come back into the cache.
func TestSavedAfterErase(t *testing.T) {
	b := newBench(t)
	a := b.owner(t, alice)
	_, fresh, err := b.ring.SubjectKey(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.SaveFresh(fresh); err != nil {
		t.Fatal(err)
	}
	if err := b.ring.Erase(ctx, a); err != nil {
		t.Fatal(err)
	}
	b.ring.Saved(fresh)
	if k, again, err := b.ring.SubjectKey(ctx, a); err != nil || again == nil || k.ID() == fresh.ID {
		t.Errorf("the destroyed key is used again (%v)", err)
	}
}

// Every way in which the store can fail an erasure ends in an error, and repeating it makes it whole.
func TestEraseFails(t *testing.T) {
	for _, done := range []bool{false, true} {
		for _, op := range []string{"LoadKeys", "DestroyKeys"} {
			b := newBench(t)
			a := b.owner(t, alice)
			blob := b.seal(t, b.ring, a, "x")
			disk := errors.New("disk")
			destroyed := 0
			b.store.SetFail(func(name string, after bool) error {
				if name == op && after == done {
					return disk
				}
				return nil
			})
			wants(t, op, b.ring.Erase(ctx, a), disk)
			b.store.SetFail(func(name string, after bool) error {
				if name == "DestroyKeys" && after {
					destroyed++
				}
				return nil
			})
			if err := b.ring.Erase(ctx, a); err != nil {
				t.Fatal(err)
			}
			// Also when the rows are gone: the store may not have wiped them from its files.
			if destroyed != 1 {
				t.Errorf("%s: the repetition asked the store %d times to destroy, want once", op, destroyed)
			}
			_, err := b.ring.OpenPerson(ctx, a, []byte("ad of x"), blob)
			wants(t, op+", repeated", err, keys.ErrNoKey)
		}
	}
}

func TestSubjectKey(t *testing.T) {
	b := newBench(t)
	a := b.owner(t, alice)
	k1, f1, err := b.ring.SubjectKey(ctx, a)
	if err != nil || f1 == nil || f1.Owner != a || f1.Kind != keys.KindSubject || f1.ID != k1.ID() {
		t.Fatalf("a new person: %+v, %v", f1, err)
	}
	// Until it is saved nobody else gets it: the save may fail.
	k2, f2, err := b.ring.SubjectKey(ctx, a)
	if err != nil || f2 == nil || k2.ID() == k1.ID() {
		t.Fatalf("an unsaved key was handed to another (%v)", err)
	}
	// What it seals opens before the save, for its own request.
	blob, err := b.ring.SealPerson(k1, []byte("ad of x"), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	opens(t, b.ring, a, blob, "x")
	b.ring.Forget(f1.ID)
	_, err = b.ring.OpenPerson(ctx, a, []byte("ad of x"), blob)
	wants(t, "after Forget", err, keys.ErrNoKey)
	if err := b.store.SaveFresh(f2); err != nil {
		t.Fatal(err)
	}
	b.ring.Saved(f2, f1)
	k3, f3, err := b.ring.SubjectKey(ctx, a)
	if err != nil || f3 != nil || k3.ID() != f2.ID {
		t.Errorf("a saved key isn't used (%v)", err)
	}
	hits := b.ring.Stats().Hits
	if _, _, err := b.ring.SubjectKey(ctx, a); err != nil || b.ring.Stats().Hits != hits+1 {
		t.Errorf("it isn't cached (%v)", err)
	}
	// Another process finds it in the store.
	if k, f, err := b.open(t).SubjectKey(ctx, a); err != nil || f != nil || k.ID() != f2.ID {
		t.Errorf("another process doesn't find it (%v)", err)
	}
	if _, _, err := b.ring.SubjectKey(ctx, keys.Owner{}); err == nil {
		t.Error("nobody got a key")
	}
	k3.Clear()
	if _, err := b.ring.SealPerson(k3, nil, nil); err == nil {
		t.Error("a cleared key seals")
	}
	if _, err := b.ring.SealPerson(keys.Key{}, nil, nil); err == nil {
		t.Error("the zero key seals")
	}
}

// The key of a record whose person learns of it later is that record's alone, and survives the erasure of its owner.
func TestDeferredKey(t *testing.T) {
	b := newBench(t)
	a, o := b.owner(t, alice), b.owner(t, bob)
	usual := b.seal(t, b.ring, a, "usual")
	k, fresh, err := b.ring.DeferredKey(ctx, a)
	if err != nil || fresh == nil || fresh.Kind != keys.KindDeferred || fresh.Owner != a || fresh.ID != k.ID() {
		t.Fatalf("%+v, %v", fresh, err)
	}
	blob, err := b.ring.SealPerson(k, []byte("ad of later"), []byte("later"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.SaveFresh(fresh); err != nil {
		t.Fatal(err)
	}
	b.ring.Saved(fresh)
	opens(t, b.ring, a, blob, "later")
	_, err = b.ring.OpenPerson(ctx, o, []byte("ad of later"), blob)
	wants(t, "another owner's", err, keys.ErrAltered)
	// Nothing else is sealed under it, here or in another process.
	for _, r := range []*keys.Ring{b.ring, b.open(t)} {
		if s, f, err := r.SubjectKey(ctx, a); err != nil || f != nil || s.ID() == k.ID() {
			t.Errorf("the person's key: %v, %v", s.ID() == k.ID(), err)
		}
		if again, f, err := r.DeferredKey(ctx, a); err != nil || f == nil || again.ID() == k.ID() {
			t.Errorf("a second one is the first: %v", err)
		}
	}
	if err := b.ring.Erase(ctx, a); err != nil {
		t.Fatal(err)
	}
	_, err = b.ring.OpenPerson(ctx, a, []byte("ad of usual"), usual)
	wants(t, "erased", err, keys.ErrNoKey)
	opens(t, b.ring, a, blob, "later")
	opens(t, b.open(t), a, blob, "later")
	if err := b.store.DestroyKeys(ctx, []keys.KeyID{k.ID()}); err != nil {
		t.Fatal(err)
	}
	_, err = b.ring.OpenPerson(ctx, a, []byte("ad of later"), blob)
	wants(t, "after its end", err, keys.ErrNoKey)
	// A month's key in its place is no key of a person part.
	admin, err := b.ring.SealAdmin(ctx, b.clock.now(), nil, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	month, err := keys.KeyOf(admin)
	if err != nil {
		t.Fatal(err)
	}
	copy(blob[2:], month[:])
	_, err = b.ring.OpenPerson(ctx, a, []byte("ad of later"), blob)
	wants(t, "under a month's key", err, keys.ErrAltered)
	if _, _, err := b.ring.DeferredKey(ctx, keys.Owner{}); err == nil {
		t.Error("nobody got a key")
	}
	if err := b.ring.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, err = b.ring.DeferredKey(ctx, a)
	wants(t, "closed", err, keys.ErrClosed)
}

// A broker notices, within the age of its cache, what another one erased.
func TestCacheAge(t *testing.T) {
	b := newBench(t)
	a := b.owner(t, alice)
	blob := b.seal(t, b.ring, a, "x")
	if err := b.open(t).Erase(ctx, a); err != nil {
		t.Fatal(err)
	}
	b.clock.add(5*time.Minute + time.Second)
	_, err := b.ring.OpenPerson(ctx, a, []byte("ad of x"), blob)
	wants(t, "after the cache's age", err, keys.ErrNoKey)
	if _, fresh, err := b.ring.SubjectKey(ctx, a); err != nil || fresh == nil {
		t.Errorf("it seals under the destroyed key (%v)", err)
	}
}

// Rows that are moved or altered don't open, whichever way.
func TestSwaps(t *testing.T) {
	b := newBench(t)
	a, o := b.owner(t, alice), b.owner(t, bob)
	blobA, blobB := b.seal(t, b.ring, a, "a"), b.seal(t, b.ring, o, "b")
	_, err := b.ring.OpenPerson(ctx, o, []byte("ad of a"), blobA)
	wants(t, "another owner's part", err, keys.ErrAltered)
	_, err = b.ring.OpenPerson(ctx, a, []byte("ad of b"), blobA)
	wants(t, "a part in another record", err, keys.ErrAltered)
	admin, err := b.ring.SealAdmin(ctx, b.clock.now(), []byte("record 1"), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.ring.OpenAdmin(ctx, []byte("record 1"), admin); err != nil || string(got) != "x" {
		t.Errorf("OpenAdmin: %q, %v", got, err)
	}
	_, err = b.ring.OpenAdmin(ctx, []byte("record 2"), admin)
	wants(t, "an administrative part in another record", err, keys.ErrAltered)
	later, err := b.ring.SealAdmin(ctx, b.clock.now().AddDate(0, 1, 0), []byte("record 1"), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := keys.KeyOf(admin); bytes.Equal(later[2:18], n[:]) {
		t.Error("two months share a key")
	}

	idA, _ := keys.KeyOf(blobA)
	idB, _ := keys.KeyOf(blobB)
	rowA, _ := find(b.store, idA)
	rowB, _ := find(b.store, idB)
	for name, f := range map[string]func(*keys.StoredKey){
		"wrapped": func(k *keys.StoredKey) { k.Wrapped = rowB.Wrapped },
		"owner":   func(k *keys.StoredKey) { k.Owner = o },
		"period":  func(k *keys.StoredKey) { k.Period = "2026-11" },
		"a bit":   func(k *keys.StoredKey) { k.Wrapped = bytes.Clone(k.Wrapped); k.Wrapped[20] ^= 1 },
		"kind":    func(k *keys.StoredKey) { k.Kind = keys.KindMonth },
		"empty":   func(k *keys.StoredKey) { k.Wrapped = nil },
	} {
		moved := rowA
		f(&moved)
		b.store.Put(moved)
		for _, owner := range []keys.Owner{a, o} {
			_, err := b.open(t).OpenPerson(ctx, owner, []byte("ad of a"), blobA)
			wants(t, "row with another "+name, err, keys.ErrAltered)
		}
		// Beside it, others open: one bad row doesn't spoil a batch.
		out, errs, err := b.open(t).OpenPersons(ctx, []keys.PersonPart{{a, []byte("ad of a"), blobA}, {o, []byte("ad of b"), blobB}, {a, nil, nil}})
		if err != nil || string(out[1]) != "b" || errs[1] != nil {
			t.Errorf("%s: the part beside it: %v, %v", name, errs, err)
		}
		wants(t, name+" in a batch", errs[0], keys.ErrAltered)
		wants(t, "no part", errs[2], keys.ErrAltered)
		b.store.Put(rowA)
	}
	opens(t, b.open(t), a, blobA, "a")
}

func TestOpenPersonsInFewCalls(t *testing.T) {
	b := newBench(t)
	var parts []keys.PersonPart
	for i := range 1200 {
		o := keys.Owner{9, byte(i), byte(i >> 8)}
		parts = append(parts, keys.PersonPart{Owner: o, AD: []byte("ad of x"), Blob: b.seal(t, b.ring, o, "x")})
	}
	r := b.open(t)
	before := r.Stats().UnwrapCalls
	out, errs, err := r.OpenPersons(ctx, parts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		if errs[i] != nil || string(out[i]) != "x" {
			t.Fatalf("part %d: %v", i, errs[i])
		}
	}
	if n := r.Stats().UnwrapCalls - before; n != 3 {
		t.Errorf("%d calls of the custodian for 1200 people, want 3", n)
	}
}

func TestOwner(t *testing.T) {
	b := newBench(t)
	a := b.owner(t, alice)
	if a != b.owner(t, alice) || a == b.owner(t, bob) || a.IsZero() {
		t.Error("owners don't tell people apart")
	}
	s, err := proof.SIREN(alice)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.open(t).Owner(s); err != nil || again != a {
		t.Errorf("after a restart it is another (%v)", err)
	}
	// The same characters under another type are somebody else.
	ft, err := proof.FranceTravail(alice)
	if err != nil {
		t.Fatal(err)
	}
	if x, err := b.ring.Owner(ft); err != nil || x == a {
		t.Errorf("the type doesn't count (%v)", err)
	}
	// Who has no reference key can't compute it: another store gives another.
	if other := newBench(t).owner(t, alice); other == a {
		t.Error("the owner doesn't depend on a secret")
	}
	if _, err := b.ring.Owner(proof.Subject{}); err == nil {
		t.Error("the zero subject has an owner")
	}
	d1, err := b.ring.Digest("idempotency", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	d2, _ := b.ring.Digest("body", []byte("x"))
	d3, _ := b.open(t).Digest("idempotency", []byte("x"))
	if d1 == d2 || d1 != d3 {
		t.Error("digests don't tell uses apart, or don't survive a restart")
	}
}

// TestSettled: what is being made is waited for until its maker says what became of it; what is begun later isn't.
func TestSettled(t *testing.T) {
	ctx := t.Context()
	b := newBench(t)
	if !b.ring.Settled()() {
		t.Error("something is under way in a new ring")
	}
	_, first, err := b.ring.SubjectKey(ctx, b.owner(t, "552100554"))
	if err != nil || first == nil {
		t.Fatal(err)
	}
	_, second, err := b.ring.DeferredKey(ctx, b.owner(t, "552100554"))
	if err != nil {
		t.Fatal(err)
	}
	settled := b.ring.Settled()
	_, third, err := b.ring.DeferredKey(ctx, b.owner(t, "552100554"))
	if err != nil {
		t.Fatal(err)
	}
	b.ring.Saved(first)
	if settled() {
		t.Error("a key that may still be stored isn't waited for")
	}
	b.ring.Forget(second.ID)
	if settled() {
		t.Error("a key whose save may have failed, and may not, isn't waited for")
	}
	b.ring.Abandon(second.ID)
	if !settled() {
		t.Error("all that was under way has ended")
	}
	if later := b.ring.Settled(); later() {
		t.Error("the third isn't waited for")
	} else if b.ring.Saved(third); !later() {
		t.Error("all has ended")
	}
}

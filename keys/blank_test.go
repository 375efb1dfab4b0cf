package keys_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
)

// remote is a custodian in another process, as far as a ring can tell: what is said in keys.InProcess it doesn't say.
type remote struct {
	keys.Custodian
	down atomic.Bool
}

func (r *remote) Wrap(c context.Context, in []keys.Plain) ([]keys.Wrapped, error) {
	if r.down.Load() {
		return nil, keys.ErrUnavailable
	}
	return r.Custodian.Wrap(c, in)
}

func remoteBench(t *testing.T) (*bench, *remote) {
	c := &remote{Custodian: keystest.NewCustodian(t)}
	b := &bench{store: keystest.NewStore(), custodian: c, clock: newClock()}
	b.ring = b.open(t)
	return b, c
}

var people atomic.Uint64

func somebody() (o keys.Owner) {
	binary.BigEndian.PutUint64(o[:], people.Add(1))
	return o
}

func prepared(k *keys.StoredKey) bool { return bytes.HasPrefix(k.Wrapped, []byte("blank:")) }

// demand asks for keys until one comes that was wrapped before it was asked for.
func demand(t *testing.T, b *bench, o func() keys.Owner) (keys.Owner, keys.Key, *keys.StoredKey) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		owner := o()
		k, fresh, err := b.ring.SubjectKey(ctx, owner)
		if err != nil || fresh == nil {
			t.Fatalf("SubjectKey: %v", err)
		}
		if prepared(fresh) {
			return owner, k, fresh
		}
	}
	t.Fatal("no key is prepared, whatever the demand")
	return keys.Owner{}, keys.Key{}, nil
}

// Under load keys are wrapped many at a time, before they are needed. They are as good as others: for this ring, for another one, for nobody else, and after a rotation.
func TestPreparedKeys(t *testing.T) {
	b, c := remoteBench(t)
	var blobs [2][]byte
	var owners [2]keys.Owner
	var ids [2]keys.KeyID
	for i := range owners {
		o, k, fresh := demand(t, b, somebody)
		blob, err := b.ring.SealPerson(k, []byte("ad of x"), []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.store.SaveFresh(fresh); err != nil {
			t.Fatal(err)
		}
		b.ring.Saved(fresh)
		blobs[i], owners[i], ids[i] = blob, o, fresh.ID
		if k.ID() != fresh.ID || k.Owner() != o || fresh.Kind != keys.KindSubject {
			t.Errorf("the row is another key's: %+v", fresh)
		}
	}
	if ids[0] == ids[1] {
		t.Error("two people have one key")
	}
	opens(t, b.ring, owners[0], blobs[0], "x")
	opens(t, b.open(t), owners[0], blobs[0], "x")
	parts := []keys.PersonPart{{Owner: owners[0], AD: []byte("ad of x"), Blob: blobs[0]}, {Owner: owners[1], AD: []byte("ad of x"), Blob: blobs[1]}}
	got, errs, err := b.open(t).OpenPersons(ctx, parts)
	if err != nil || errors.Join(errs...) != nil || string(got[0]) != "x" || string(got[1]) != "x" {
		t.Errorf("OpenPersons: %q, %v, %v", got, errs, err)
	}

	// After a rotation all are rewrapped, and nothing needs the older version.
	if _, err := c.Rotate(ctx, keys.RootWrap); err != nil {
		t.Fatal(err)
	}
	b.ring.DropPrepared()
	if n, err := b.ring.Rewrap(ctx, nil); err != nil || n == 0 {
		t.Fatalf("%d rewrapped, %v", n, err)
	}
	if n, err := b.ring.Rewrap(ctx, nil); err != nil || n != 0 {
		t.Errorf("again, %d rewrapped, %v", n, err)
	}
	if err := c.Retire(ctx, keys.RootWrap, 2); err != nil {
		t.Fatal(err)
	}
	o, k, fresh := demand(t, b, somebody)
	blob, err := b.ring.SealPerson(k, []byte("ad of y"), []byte("y"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.SaveFresh(fresh); err != nil {
		t.Fatal(err)
	}
	for i := range owners {
		if row, ok := find(b.store, ids[i]); !ok || !prepared(&row) {
			t.Errorf("the row has another form: %q", row.Wrapped)
		}
		opens(t, b.open(t), owners[i], blobs[i], "x")
	}
	opens(t, b.open(t), o, blob, "y")

	if err := b.ring.Erase(ctx, owners[0]); err != nil {
		t.Fatal(err)
	}
	_, err = b.ring.OpenPerson(ctx, owners[0], []byte("ad of x"), blobs[0])
	wants(t, "after an erasure", err, keys.ErrNoKey)
	opens(t, b.ring, owners[1], blobs[1], "x")
}

// A prepared key is bound to its row: whose it is, what it is for, its id and its form.
func TestPreparedKeysAreBound(t *testing.T) {
	for name, alter := range map[string]func(k, other *keys.StoredKey){
		"owner":  func(k, other *keys.StoredKey) { k.Owner = other.Owner },
		"kind":   func(k, _ *keys.StoredKey) { k.Kind = keys.KindDeferred },
		"period": func(k, _ *keys.StoredKey) { k.Period = "2026-11" },
		"id":     func(k, other *keys.StoredKey) { k.Wrapped = other.Wrapped },
		"form":   func(k, _ *keys.StoredKey) { k.Wrapped = bytes.TrimPrefix(k.Wrapped, []byte("blank:")) },
	} {
		b, _ := remoteBench(t)
		o, k, row := demand(t, b, somebody)
		blob, err := b.ring.SealPerson(k, []byte("ad of x"), []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		_, _, other := demand(t, b, somebody)
		alter(row, other)
		if err := b.store.SaveFresh(row); err != nil {
			t.Fatal(err)
		}
		fresh := b.open(t) // nothing is in its memory
		for _, owner := range []keys.Owner{o, other.Owner} {
			if got, err := fresh.OpenPerson(ctx, owner, []byte("ad of x"), blob); !errors.Is(err, keys.ErrAltered) {
				t.Errorf("%s: it opens for %v: %q, %v", name, owner == o, got, err)
			}
		}
	}
}

// What is prepared is dropped with the ring, when a rotation is told, and when it is old; and a custodian that can't be reached is told to who asks for a key.
func TestPreparedKeysEnd(t *testing.T) {
	b, c := remoteBench(t)
	demand(t, b, somebody)
	c.down.Store(true)
	for name, end := range map[string]func(){
		"age":                       func() { b.clock.add(keys.PreparedLife + time.Millisecond) },
		"drop":                      func() { b.ring.DropPrepared() },
		"a clock that was set back": func() { b.clock.add(-time.Hour) },
	} {
		end()
		if _, _, err := b.ring.SubjectKey(ctx, somebody()); !errors.Is(err, keys.ErrUnavailable) {
			t.Errorf("%s: a key is left: %v", name, err)
		}
		c.down.Store(false)
		demand(t, b, somebody)
		c.down.Store(true)
	}
	if err := b.ring.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.ring.SubjectKey(ctx, somebody()); !errors.Is(err, keys.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Few requests have nothing prepared, and a custodian in this process has no need of it.
func TestNothingPrepared(t *testing.T) {
	b, _ := remoteBench(t)
	for i := range 100 {
		b.clock.add(2 * time.Second)
		if _, fresh, err := b.ring.SubjectKey(ctx, somebody()); err != nil || prepared(fresh) {
			t.Fatalf("key %d: %v", i, err)
		}
	}
	if s := b.ring.Stats(); s.WrapCalls != s.Wrapped {
		t.Errorf("%d keys were wrapped in %d calls", s.Wrapped, s.WrapCalls)
	}
	b = newBench(t)
	for i := range 1000 {
		if _, fresh, err := b.ring.SubjectKey(ctx, somebody()); err != nil || prepared(fresh) {
			t.Fatal(fmt.Errorf("key %d: %w", i, err))
		}
	}
}

package keys_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
)

// planted gives the same bytes for ever, so that every key is known to the test.
type planted struct{}

const plant = "PLANTED-SECRET-0123456789abcdef!"

func (planted) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = plant[i%len(plant)]
	}
	return len(b), nil
}

// broken is a custodian that fails on demand.
type broken struct {
	keys.Custodian
	mu  sync.Mutex
	err error
}

func (b *broken) set(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *broken) fails() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *broken) Wrap(ctx context.Context, in []keys.Plain) ([]keys.Wrapped, error) {
	if err := b.fails(); err != nil {
		return nil, fmt.Errorf("%w (%v, %+v)", err, in, in)
	}
	return b.Custodian.Wrap(ctx, in)
}

func (b *broken) Unwrap(ctx context.Context, in []keys.WrappedAD) ([][32]byte, error) {
	if err := b.fails(); err != nil {
		return nil, err
	}
	return b.Custodian.Unwrap(ctx, in)
}

func (b *broken) Sign(ctx context.Context, v int, msg []byte) ([]byte, error) {
	if err := b.fails(); err != nil {
		return nil, err
	}
	return b.Custodian.Sign(ctx, v, msg)
}

// Keys, people and what was sealed show in no error, no log, no print.
func TestNothingShows(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cust := &broken{Custodian: keystest.NewCustodian(t)}
	store := keystest.NewStore()
	clk := newClock()
	r := keystest.NewRing(t, keys.Config{Custodian: cust, Store: store, Rand: planted{}, Logger: logger, Now: clk.now})
	nir, err := proof.NIR("2690549588157 80")
	if err != nil {
		t.Fatal(err)
	}
	o, err := r.Owner(nir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	see := func(v any) {
		j, err := json.Marshal(v)
		fmt.Fprintf(&out, "%v %+v %#v %s %x %q %d %s %v\n", v, v, v, v, v, v, v, j, err)
		logger.Info("seen", "v", v)
	}
	k, fresh, err := r.SubjectKey(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := r.SealPerson(k, []byte("ad"), []byte("planted text"))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.SaveFresh(fresh); err != nil {
		t.Fatal(err)
	}
	see(k)
	see(&k)
	see([]keys.Key{k})
	see(struct{ K keys.Key }{k})
	see(map[string]keys.Key{"k": k})
	see(keys.Plain{Key: [32]byte([]byte(plant)), AD: []byte(plant)})
	see(o)
	see(struct{ O keys.Owner }{o})
	label, _, err := r.Labels().CurrentKey(ctx, clk.now())
	if err != nil {
		t.Fatal(err)
	}
	lk, err := r.LabelKey(ctx, label)
	if err != nil {
		t.Fatal(err)
	}
	see(lk)

	// Every error that can be had.
	for _, want := range []error{keys.ErrSealed, keys.ErrUnavailable, keys.ErrDenied} {
		cust.set(want)
		cold := []func() error{
			func() error { _, _, err := r.SubjectKey(ctx, keys.Owner{1, 2, 3}); return err },
			func() error { _, err := r.OpenPerson(ctx, o, []byte("ad"), blob); return err },
			func() error { _, err := r.SealAdmin(ctx, time.Unix(0, 0), nil, []byte("planted text")); return err },
			func() error {
				_, err := r.SealPayload(ctx, proof.Hash{1}, []byte("planted text"))
				return err
			},
			func() error {
				_, _, err := r.OpenPersons(ctx, []keys.PersonPart{{Owner: o, AD: []byte("ad"), Blob: blob}})
				return err
			},
			func() error { return r.Check(ctx) },
		}
		r.Forget(fresh.ID)
		for i, f := range cold[:5] {
			err := f()
			if !errors.Is(err, want) {
				t.Errorf("call %d: %v, want %v", i, err, want)
			}
			see(err)
		}
		cust.set(nil)
	}
	// It recovers by itself.
	if _, err := r.OpenPerson(ctx, o, []byte("ad"), blob); err != nil {
		t.Errorf("after the custodian came back: %v", err)
	}
	row, _ := find(store, fresh.ID)
	row.Wrapped = bytes.Repeat([]byte{1}, 65)
	store.Put(row)
	r.Forget(fresh.ID)
	_, err = r.OpenPerson(ctx, o, []byte("ad"), blob)
	wants(t, "a damaged row", err, keys.ErrAltered)
	see(err)
	_, err = r.Rewrap(ctx, nil)
	wants(t, "a damaged row", err, keys.ErrAltered)
	see(err)
	if err := r.Erase(ctx, o); err != nil {
		t.Fatal(err)
	}
	_, err = r.OpenPerson(ctx, o, []byte("ad"), blob)
	wants(t, "erased", err, keys.ErrNoKey)
	see(err)

	all := out.String() + log.String()
	if !strings.Contains(all, "redacted") || log.Len() == 0 {
		t.Fatal("the test sees nothing")
	}
	secrets := map[string][]byte{"a key": []byte(plant), "the owner": o[:], "the text": []byte("planted text"), "the label key": lk.Bytes(), "the person": []byte(nir.Value())}
	for name, b := range secrets {
		decimal := strings.Trim(fmt.Sprint(b), "[]")
		for form, s := range map[string]string{
			"raw": string(b[:min(len(b), 12)]), "hex": hex.EncodeToString(b[:8]), "HEX": strings.ToUpper(hex.EncodeToString(b[:8])),
			"base64": base64.StdEncoding.EncodeToString(b)[:12], "decimal": decimal, "Go": strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b[:8]), "[]byte{"), "}"),
		} {
			if strings.Contains(all, s) {
				t.Errorf("%s shows (%s)", name, form)
			}
		}
	}
}

func TestClosed(t *testing.T) {
	b := newBench(t)
	o := b.owner(t, alice)
	blob := b.seal(t, b.ring, o, "x")
	if err := b.ring.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, e1 := b.ring.SubjectKey(ctx, o)
	_, e2 := b.ring.OpenPerson(ctx, o, []byte("ad of x"), blob)
	_, e3 := b.ring.SealAdmin(ctx, b.clock.now(), nil, nil)
	_, e4 := b.ring.SealPayload(ctx, proof.Hash{1}, nil)
	_, e5 := b.ring.CheckpointSigners(ctx, "x")
	_, e6 := b.ring.Rewrap(ctx, nil)
	_, e7 := b.ring.Sweep(ctx, b.clock.now())
	for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, b.ring.Erase(ctx, o), b.ring.Check(ctx)} {
		wants(t, fmt.Sprint("call ", i+1), err, keys.ErrClosed)
	}
}

// Many requests at once, for the race detector: sealing, opening, erasing, sweeping.
func TestConcurrent(t *testing.T) {
	b := newBench(t)
	v := verified(t, b.ring, proof.Commitment{1})
	set, err := v.Set()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				o := keys.Owner{1, byte(i % 5)}
				k, fresh, err := b.ring.SubjectKey(ctx, o)
				if err != nil {
					t.Error(err)
					return
				}
				blob, err := b.ring.SealPerson(k, nil, []byte("x"))
				if err != nil {
					t.Error(err)
				}
				if err := b.store.SaveFresh(fresh); err != nil {
					t.Error(err)
				}
				if fresh != nil {
					b.ring.Saved(fresh)
				}
				if got, err := b.ring.OpenPerson(ctx, o, nil, blob); err == nil && string(got) != "x" || err != nil && !errors.Is(err, keys.ErrNoKey) {
					t.Errorf("OpenPerson: %q, %v", got, err)
				}
				s, err := b.ring.SealPayload(ctx, set, []byte("y"))
				if err != nil {
					t.Error(err)
				}
				if got, err := b.ring.OpenPayload(ctx, s, v); err != nil || string(got) != "y" {
					t.Errorf("OpenPayload: %q, %v", got, err)
				}
				switch {
				case g == 0 && i%4 == 0:
					if err := b.ring.Erase(ctx, o); err != nil {
						t.Error(err)
					}
				case g == 1 && i%10 == 0:
					if _, err := b.ring.Sweep(ctx, b.clock.now()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

package ledgertest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Labeler is a ledger.Labeler with real VRF keys, one a month, all derived from Seed: the same at every start.
type Labeler struct {
	Seed   [32]byte
	Faults *Faults // may be nil

	mu   sync.Mutex
	keys map[string]proof.LabelKey
}

func (l *Labeler) do(call string, fn func() error) error {
	if l.Faults == nil {
		return fn()
	}
	return l.Faults.do(call, fn)
}

func (l *Labeler) derive(what, name string, n uint64) [32]byte {
	b := append([]byte("ledgertest/"+what+"\x00"+name+"\x00"), l.Seed[:]...)
	return sha256.Sum256(binary.BigEndian.AppendUint64(b, n))
}

// Key returns the key of that name.
func (l *Labeler) Key(name string) (proof.LabelKey, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k, ok := l.keys[name]; ok {
		return k, nil
	}
	if _, err := time.Parse("2006-01", name); err != nil {
		return proof.LabelKey{}, fmt.Errorf("ledgertest: no label key %q", name)
	}
	k, err := proof.NewLabelKey(rand.NewChaCha8(l.derive("label", name, 0)))
	if err != nil {
		return k, err
	}
	if l.keys == nil {
		l.keys = map[string]proof.LabelKey{}
	}
	l.keys[name] = k
	return k, nil
}

// Told is the entry that tells of the key of a month.
func (l *Labeler) Told(month time.Time) (proof.Entry, error) {
	name := month.UTC().Format("2006-01")
	k, err := l.Key(name)
	return proof.KeyChanged{Key: string(proof.UseLabel) + "." + name, Use: proof.UseLabel, State: proof.Active, Public: proof.Hash(k.Public()), Until: proof.TimeOf(month.AddDate(4, 0, 0))}, err
}

// CurrentKey implements ledger.Labeler.
func (l *Labeler) CurrentKey(_ context.Context, t time.Time) (name string, public [32]byte, err error) {
	err = l.do(CallKey, func() error {
		name = t.UTC().Format("2006-01")
		k, err := l.Key(name)
		public = k.Public()
		return err
	})
	return name, public, err
}

// Label implements ledger.Labeler.
func (l *Labeler) Label(_ context.Context, name string, epoch proof.Epoch, subjects []proof.Subject) (out []proof.Label, err error) {
	err = l.do(CallLabel, func() error {
		k, err := l.Key(name)
		if err != nil {
			return err
		}
		for _, s := range subjects {
			out = append(out, k.Label(s, epoch))
		}
		return nil
	})
	return out, err
}

// Prove implements ledger.Labeler.
func (l *Labeler) Prove(_ context.Context, name string, epoch proof.Epoch, s proof.Subject) (proof.Label, []byte, error) {
	k, err := l.Key(name)
	if err != nil {
		return proof.Label{}, nil, err
	}
	z, p := k.Prove(s, epoch)
	return z, p, nil
}

// RollSeed implements ledger.Labeler.
func (l *Labeler) RollSeed(_ context.Context, name string, epoch proof.Epoch) (seed [32]byte, err error) {
	err = l.do(CallSeed, func() error {
		seed = l.derive("roll", name, uint64(epoch))
		return nil
	})
	return seed, err
}

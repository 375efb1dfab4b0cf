package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/regard-broker/regard/broker/store"
)

// known is what this broker knows of changes that the brokers of a shared store count there, in the transactions that make them. Telling each other is a matter of speed alone: a request that was
// decided by what has changed since doesn't begin (store.ErrStale), and each round of the sweeper compares.
type known struct {
	registry atomic.Int64
	behind   atomic.Pointer[error] // why a change can't be taken up; nil: nothing

	mu      sync.Mutex // taking up the registry
	keysMu  sync.Mutex // taking up the rest
	keys    int64
	barrier int64 // the last one that was seen
	landed  func() bool
}

// nothingKnown is a number that no change has: a request that was decided before anything could be taken up doesn't begin.
const nothingKnown = -1

// changed takes up what other brokers changed since it last did: the registry, the policy, and which keys there are.
func (b *Broker) changed(ctx context.Context) error {
	return errors.Join(b.takeUp(ctx), b.takeUpKeys(ctx))
}

// takeUp takes up who may ask for what, as it is now at least.
func (b *Broker) takeUp(ctx context.Context) (err error) {
	k := &b.known
	k.mu.Lock()
	defer k.mu.Unlock()
	defer func() {
		if err != nil {
			k.behind.Store(&err)
		} else {
			k.behind.Store(nil)
		}
	}()
	// First the number: what is read then is at least as new.
	now, err := b.store.Changes(ctx)
	if err != nil || now.Registry == k.registry.Load() {
		return err
	}
	if err := b.refresh(ctx); err != nil {
		return err
	}
	last, err := b.store.LastBundle(ctx)
	switch {
	case errors.Is(err, store.ErrNotFound): // the first broker is about to activate one
	case err != nil:
		return fmt.Errorf("reading the policy in force: %w", err)
	default:
		if err := b.engine.Adopt(ctx, last.Bytes); err != nil {
			return fmt.Errorf("another broker put a policy in force that this one can't use: %w", err)
		}
	}
	k.registry.Store(now.Registry)
	return nil
}

// waits says whether a barrier waits for requests under way here.
func (k *known) waits() bool {
	k.keysMu.Lock()
	defer k.keysMu.Unlock()
	return k.landed != nil
}

// takeUpKeys drops the keys that were destroyed, and takes up those that came into force.
func (b *Broker) takeUpKeys(ctx context.Context) error {
	k := &b.known
	k.keysMu.Lock()
	defer k.keysMu.Unlock()
	now, err := b.store.Changes(ctx)
	if err != nil {
		return err
	}
	if now.Barrier != k.barrier {
		k.barrier, k.landed = now.Barrier, b.ring.Settled()
	}
	if k.landed != nil && k.landed() {
		if err := b.member.Landed(ctx, k.barrier); err != nil {
			return err
		}
		k.landed = nil
	}
	if now.Keys == k.keys {
		return nil
	}
	b.ring.DropCached()
	if err := b.knowIntentKeys(ctx); err != nil {
		return err
	}
	k.keys = now.Keys
	return nil
}

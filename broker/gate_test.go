package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/regard-broker/regard/keys"
)

// TestGateKeepsToItsOwner: an erasure waits for what is under way about its own owner; meanwhile everybody else passes. (One lock for all once let a single erasure hold up every request.)
func TestGateKeepsToItsOwner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g gate
		one, two, both := keys.Owner{1}, keys.Owner{2}, []keys.Owner{{1}, {2}, {1}}
		nothing := func() error { return nil }
		stored, recorded := make(chan struct{}), make(chan struct{})
		go func() { _ = g.begin(one, func() error { <-stored; return nil }) }()
		go func() { _ = g.pass(both, func() error { <-recorded; return nil }) }()
		synctest.Wait()

		_, ok := g.close(one)
		if _, again := g.close(one); !ok || again {
			t.Error("an owner is closed by exactly one")
		}
		var closed, shut atomic.Bool
		settle := func(done *atomic.Bool) {
			if err := g.settled(t.Context(), nil, one); err != nil {
				t.Error(err)
			}
			done.Store(true)
		}
		go settle(&closed)
		synctest.Wait()
		if closed.Load() {
			t.Error("the erasure didn't wait for an intent that was being stored")
		}
		if err := g.begin(one, nothing); !errors.Is(err, errErasing) {
			t.Errorf("a request began: %v", err)
		}
		if err := errors.Join(g.begin(two, nothing), g.pass(both, nothing)); err != nil {
			t.Errorf("while the owner was closing: %v", err)
		}
		close(stored)
		synctest.Wait()
		if !closed.Load() {
			t.Error("nothing begins any more, and the erasure waits")
		}

		g.set(one, phaseShut)
		go settle(&shut)
		synctest.Wait()
		if shut.Load() {
			t.Error("the erasure didn't wait for what was being recorded")
		}
		if err := g.pass(both, nothing); !errors.Is(err, errErasing) {
			t.Errorf("something was recorded: %v", err)
		}
		if err := errors.Join(g.begin(two, nothing), g.pass([]keys.Owner{two}, nothing)); err != nil {
			t.Errorf("somebody else had to wait: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.settled(ctx, nil, one); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		close(recorded)
		synctest.Wait()
		if !shut.Load() {
			t.Error("nothing is being recorded any more, and the erasure waits")
		}
		g.set(one, 0)
		if err := g.begin(one, nothing); err != nil {
			t.Error(err)
		}
		if len(g.owners) != 0 {
			t.Errorf("%d owners are remembered for nothing", len(g.owners))
		}
	})
}

// TestGateUnderRaces: while an owner is shut nothing about them is recorded, whoever comes how; afterwards nothing is left.
func TestGateUnderRaces(t *testing.T) {
	t.Parallel()
	var g gate
	const owners = 3
	var intents, records [owners]atomic.Int32
	in := func(n *atomic.Int32) { n.Add(1); defer n.Add(-1) }
	stop := make(chan struct{})
	var requests, erasures sync.WaitGroup
	for range 4 {
		requests.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, b := rand.IntN(owners), rand.IntN(owners)
				_ = g.begin(keys.Owner{byte(a + 1)}, func() error { in(&intents[a]); return nil })
				_ = g.pass([]keys.Owner{{byte(a + 1)}, {byte(b + 1)}}, func() error {
					records[a].Add(1)
					in(&records[b])
					records[a].Add(-1)
					return nil
				})
			}
		})
	}
	for range 4 {
		erasures.Go(func() {
			for range 300 {
				i := rand.IntN(owners)
				o := keys.Owner{byte(i + 1)}
				if _, ok := g.close(o); !ok {
					continue
				}
				if err := g.settled(t.Context(), nil, o); err != nil {
					t.Error(err)
				}
				if n := intents[i].Load(); n != 0 {
					t.Errorf("%d intents about an owner who is closed", n)
				}
				g.set(o, phaseShut)
				if err := g.settled(t.Context(), nil, o); err != nil {
					t.Error(err)
				}
				if n := records[i].Load(); n != 0 {
					t.Errorf("%d records about an owner who is shut", n)
				}
				g.set(o, 0)
			}
		})
	}
	erasures.Wait()
	close(stop)
	requests.Wait()
	if len(g.owners) != 0 {
		t.Errorf("%d owners are remembered for nothing", len(g.owners))
	}
}

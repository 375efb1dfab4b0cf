package signer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/remote"
)

// load appends from several sides for as long as it isn't stopped, and notes what was acknowledged.
type load struct {
	l      *ledger.Log
	stop   chan struct{}
	done   sync.WaitGroup
	mu     sync.Mutex
	acks   map[proof.Index]string
	failed int
}

func startLoad(t *testing.T, l *ledger.Log) *load {
	t.Helper()
	w := &load{l: l, stop: make(chan struct{}), acks: map[proof.Index]string{}}
	for c := range 4 {
		w.done.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-w.stop:
					return
				default:
				}
				g, _ := ledgertest.Disclosure(ledgertest.Person(c), ledgertest.Person(i%50))
				a, err := l.Append(context.Background(), g)
				w.mu.Lock()
				switch {
				case err == nil:
					for _, e := range a.Entries {
						w.acks[e.Index] = string(e.Text)
					}
				case errors.Is(err, ledger.ErrUnavailable), errors.Is(err, ledger.ErrBusy): // "try again"
					w.failed++
				default:
					t.Errorf("append: %v", err)
					w.mu.Unlock()
					return
				}
				w.mu.Unlock()
				if err != nil {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	return w
}

// more waits until so many more were acknowledged.
func (w *load) more(t *testing.T, n int) {
	t.Helper()
	count := func() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.acks) }
	want := count() + n
	ledgertest.Await(t, fmt.Sprintf("%d more entries", n), func() bool { return count() >= want })
}

// check demands that each entry of the order is there once, that what was acknowledged stands where it was, and that Trillian has the root of the order.
func (w *load) check(t *testing.T, env *ledgertest.Env, at *remote.Log) {
	t.Helper()
	tail, err := env.Store.Tail(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen, found := map[string]bool{}, map[proof.Index]string{}
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	err = env.Store.Leaves(t.Context(), 0, tail.Next, func(leaf ledger.Leaf) error {
		if seen[string(leaf.Text)] {
			t.Errorf("entry %d is there twice", leaf.Index)
		}
		seen[string(leaf.Text)], found[leaf.Index] = true, string(leaf.Text)
		return r.Append(rfc6962.DefaultHasher.HashLeaf(leaf.Text), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range w.acks {
		if found[i] != text {
			t.Errorf("entry %d, which was acknowledged, isn't there", i)
		}
	}
	want, err := r.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := root(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	cp := w.l.Checkpoint()
	if got.TreeSize != uint64(tail.Next) || string(got.RootHash) != string(want) || cp.Size() != got.TreeSize || cp.Root() != proof.Hash(want) {
		t.Errorf("Trillian has %d entries with root %x, the checkpoint %d with %x, the order %d with %x", got.TreeSize, got.RootHash, cp.Size(), cp.Root(), tail.Next, want)
	}
	t.Logf("%d entries, %d acknowledged, %d requests told to try again", tail.Next, len(w.acks), w.failed)
}

func over(env *ledgertest.Env, l *remote.Log) ledger.Config {
	env.Trillian, env.TreeID = l.Client(), l.TreeID()
	cfg := env.Config()
	cfg.Integrate, cfg.Timeout = nil, 5*time.Second
	return cfg
}

// TestLogSurvives drives a log over real processes, and kills each of them in the middle.
func TestLogSurvives(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"stock", "own"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := pgtest.Own(t)
			if err := c.SQL(t.Context(), "postgres", "CREATE DATABASE trillian"); err != nil {
				t.Fatal(err)
			}
			dsn, _ := prepared(t, c, "trillian")
			env := ledgertest.NewInMemory(t)
			var at *remote.Log
			var signers []*process
			var killServer func()
			if kind == "stock" {
				s := startStock(t, dsn)
				killServer = func() { s.kill(t); s.start(t) }
				for range 2 {
					signers = append(signers, startProcess(t, childConfig{DSN: dsn}))
				}
				at = dial(t, s.addr)
			} else {
				var addresses []string
				for range 2 {
					addresses = append(addresses, socket(t))
					signers = append(signers, startProcess(t, childConfig{DSN: dsn, Listen: addresses[len(addresses)-1]}))
				}
				at = dial(t, addresses...)
			}
			l := env.OpenWith(over(env, at))
			w := startLoad(t, l)
			w.more(t, 100)
			if killServer != nil {
				killServer()
				w.more(t, 100)
			}
			for range 2 {
				killMaster(t, signers)
				w.more(t, 100)
			}
			for _, kill := range []func() error{c.Kill, c.Kill, c.KillFirst} {
				if err := kill(); err != nil {
					t.Fatal(err)
				}
				if err := c.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.more(t, 100)
			}
			close(w.stop)
			w.done.Wait()
			env.Wait(l)
			w.check(t, env, at)
			env.Close(l)
			rebuild(t, c, env, w)
		})
	}
}

// master waits until one of them integrates, and says which.
func master(t *testing.T, signers []*process) (i int) {
	t.Helper()
	ledgertest.Await(t, "a master", func() bool {
		for i = range signers {
			if signers[i].metric("regard_signer_master") == "1" {
				return true
			}
		}
		return false
	})
	return i
}

// killMaster kills the signer that integrates, and starts another in its place.
func killMaster(t *testing.T, signers []*process) {
	t.Helper()
	i := master(t, signers)
	signers[i].kill(t)
	signers[i] = startProcess(t, signers[i].config)
}

// rebuild gives an empty Trillian all entries from the store's order, and goes on with it; a tree with other entries is refused.
func rebuild(t *testing.T, c *pgcluster.Cluster, env *ledgertest.Env, w *load) {
	t.Helper()
	if err := c.SQL(t.Context(), "postgres", "CREATE DATABASE fresh; CREATE DATABASE foreign_one"); err != nil {
		t.Fatal(err)
	}
	dsn, _ := prepared(t, c, "fresh")
	addr := socket(t)
	startProcess(t, childConfig{DSN: dsn, Listen: addr})
	fresh := dial(t, addr)
	cfg := over(env, fresh)
	if _, err := ledger.Open(t.Context(), cfg); !errors.Is(err, ledger.ErrTreeBehind) {
		t.Fatalf("an empty Trillian: %v", err)
	}
	size, err := ledger.Rebuild(t.Context(), cfg)
	if err != nil || size != w.l.Checkpoint().Size() {
		t.Fatalf("rebuilt %d entries: %v", size, err)
	}
	w.check(t, env, fresh)
	l := env.OpenWith(cfg)
	again := startLoad(t, l)
	again.more(t, 20)
	close(again.stop)
	again.done.Wait()
	again.check(t, env, fresh)
	env.Close(l)

	dsn, _ = prepared(t, c, "foreign_one")
	addr = socket(t)
	startProcess(t, childConfig{DSN: dsn, Listen: addr})
	foreign := dial(t, addr)
	grow(t, foreign, 0, 10)
	if _, err := ledger.Open(t.Context(), over(env, foreign)); !errors.Is(err, ledger.ErrHalted) && !errors.Is(err, ledger.ErrTreeBehind) {
		t.Fatalf("somebody else's tree: %v", err)
	}
	if _, err := ledger.Rebuild(t.Context(), over(env, foreign)); !errors.Is(err, ledger.ErrHalted) {
		t.Fatalf("rebuilding on somebody else's tree: %v", err)
	}
}

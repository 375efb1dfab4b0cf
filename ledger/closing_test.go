package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// checkIndexes builds the indexes of the epochs below open from scratch, by the plainest way, and compares them with the markers and with the published files. Every filed entry must stand in one roll
// of the epoch in which it was ordered.
func checkIndexes(t *testing.T, env *ledgertest.Env, open proof.Epoch) {
	t.Helper()
	ctx := context.Background()
	for e := range open {
		c, err := env.Store.Epoch(ctx, e)
		if err != nil {
			t.Fatalf("epoch %d: %v", e, err)
		}
		ordered := map[proof.Index]bool{}
		err = env.Store.Leaves(ctx, c.Marker, c.Closer, func(leaf ledger.Leaf) error {
			if leaf.Kind.Filed() {
				ordered[leaf.Index] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		rolls := map[proof.Label][]proof.Index{}
		err = env.Store.Filings(ctx, e, func(f ledger.Filing) error {
			if !ordered[f.Index] {
				t.Errorf("epoch %d: entry %d stands in a roll twice, or was ordered in another epoch", e, f.Index)
			}
			delete(ordered, f.Index)
			rolls[f.Label] = append(rolls[f.Label], f.Index)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(ordered) > 0 {
			t.Errorf("epoch %d: %d entries stand in no roll", e, len(ordered))
		}
		seed, err := env.Labeler.RollSeed(ctx, c.LabelKey, e)
		if err != nil {
			t.Fatal(err)
		}
		sum := indexOf(t, e, seed, rolls)
		if sum.Root != c.Root || sum.Items != c.Items || sum.Bits != c.Bits {
			t.Errorf("epoch %d: the marker says %d items, %d bits, root %v; from scratch it is %d, %d, %v", e, c.Items, c.Bits, c.Root, sum.Items, sum.Bits, sum.Root)
		}
		if _, err := tiles.Resume(filepath.Join(env.Dir, "index", e.String()), 1<<c.Bits, c.Root); err != nil {
			t.Errorf("epoch %d: the published index: %v", e, err)
		}
	}
}

func indexOf(t *testing.T, e proof.Epoch, seed [32]byte, rolls map[proof.Label][]proof.Index) proof.IndexSummary {
	t.Helper()
	var labels []proof.Label
	for z := range rolls {
		labels = append(labels, z)
	}
	slices.SortFunc(labels, func(a, b proof.Label) int { return slices.Compare(a[:], b[:]) })
	sum, err := proof.BuildIndex(e, uint64(len(labels)), func(yield func(proof.Label, proof.Hash) bool) {
		for _, z := range labels {
			r, err := proof.NewRoll(seed, z, rolls[z])
			if err != nil {
				t.Fatal(err)
			}
			if !yield(z, r.Root()) {
				return
			}
		}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// busyEpochs appends from several sides while many short epochs close with preparation, until enough has happened.
func busyEpochs(t *testing.T, env *ledgertest.Env, enough func() bool, change func(*ledger.Config)) {
	t.Helper()
	ctx := context.Background()
	cfg := env.Config()
	cfg.Clock, cfg.Epoch = nil, 150*time.Millisecond
	cfg.PrepareFrom(20)
	if change != nil {
		change(&cfg)
	}
	l := env.OpenWith(cfg)
	type one struct {
		index proof.Index
		open  proof.Opening
	}
	var mu sync.Mutex
	var all []one
	var work sync.WaitGroup
	begin := time.Now()
	going := func() bool {
		took := time.Since(begin)
		return took < 1500*time.Millisecond || took < 2*time.Minute && (l.Metrics().EpochsClosed < 2 || !enough())
	}
	for c := range 4 {
		work.Go(func() {
			for i := 0; going(); i++ {
				g, openings := ledgertest.Disclosure(ledgertest.Person(c*1000+i%50), ledgertest.Person(i%7))
				a, err := l.Append(ctx, g)
				if errors.Is(err, ledger.ErrUnavailable) {
					continue // by order of a test
				}
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				all = append(all, one{a.Entries[0].Index, openings[0]}, one{a.Entries[1].Index, openings[1]})
				mu.Unlock()
			}
		})
	}
	work.Wait()
	env.Faults.Disarm()
	last := l.OpenEpoch().Number
	ledgertest.Await(t, "the last epoch to close", func() bool { appendN(t, l, 0, 1); return l.OpenEpoch().Number > last })
	cp := env.Wait(l)
	settled := 0
	for k := 0; k < len(all); k += 1 + len(all)/300 {
		r, err := l.Receipt(ctx, all[k].index, all[k].open)
		if err != nil {
			t.Fatalf("receipt of %d: %v", all[k].index, err)
		}
		if r.Settlement() == nil {
			t.Fatalf("entry %d of a closed epoch doesn't settle", all[k].index)
		}
		if _, err := r.Verify(env.Policy, proof.VerifyOptions{AllowProvisional: true}); err != nil {
			t.Fatal(err)
		}
		settled++
	}
	m := l.Metrics()
	env.Close(l)
	if m.EpochsClosed < 1 || settled < 5 {
		t.Errorf("%d epochs closed, %d receipts settled: too few for a test", m.EpochsClosed, settled)
	}
	checkIndexes(t, env, last+1)
	t.Logf("%d entries in %d epochs, %d receipts settled, published %d", len(all), m.EpochsClosed, settled, cp.Size())
}

// TestPreparedClose: an entry that is ordered while the end of its epoch is prepared stands in that epoch's rolls, and the index is what a build from scratch gives.
// Nothing has to be made again.
func TestPreparedClose(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	env.Faults.Hook = func(call string, _ bool) {
		if call == ledgertest.CallFile {
			time.Sleep(2 * time.Millisecond) // time enough to look between what is noted and what is stored
		}
	}
	var text bytes.Buffer
	var mu sync.Mutex
	prepared := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(text.String(), "epoch prepared to close")
	}
	busyEpochs(t, env, prepared, func(cfg *ledger.Config) { cfg.Logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &text}, nil)) })
	if !prepared() {
		t.Error("no close was prepared")
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Contains(text.String(), "made again") || strings.Contains(text.String(), "level=ERROR") {
		t.Errorf("the preparation didn't do:\n%s", &text)
	}
}

// TestPreparedCloseWithFailures: the same when what the preparation needs fails now and then.
func TestPreparedCloseWithFailures(t *testing.T) {
	for _, call := range []string{ledgertest.CallFilings, ledgertest.CallRoll, ledgertest.CallSeed, ledgertest.CallFile, ledgertest.CallCommit} {
		for _, fault := range []ledgertest.Fault{ledgertest.Fail, ledgertest.FailAfter} {
			t.Run(call, func(t *testing.T) {
				t.Parallel()
				env := ledgertest.NewInMemory(t)
				armed := make(chan struct{}) // closed when no more is made to fail
				go func() {
					defer close(armed)
					for took := time.Duration(0); took < 1200*time.Millisecond || env.Faults.Fired() < 3 && took < time.Minute; took += 40 * time.Millisecond {
						time.Sleep(40 * time.Millisecond)
						env.Faults.Arm(call, fault, 1)
					}
				}()
				busyEpochs(t, env, func() bool {
					select {
					case <-armed:
						return true
					default:
						return false
					}
				}, nil)
				<-armed
				if env.Faults.Fired() < 3 {
					t.Errorf("%d failures", env.Faults.Fired())
				}
			})
		}
	}
}

// TestPreparedCloseSeesOtherFilings: what was filed behind the log's back, as an entry that was given up is, stands in the index too.
func TestPreparedCloseSeesOtherFilings(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.NewInMemory(t)
	var once sync.Once
	var skipped proof.Index
	var given atomic.Bool
	cfg := env.Config()
	cfg.PrepareFrom(5)
	env.Faults.Hook = func(call string, after bool) {
		if call == ledgertest.CallFilings && after { // the preparation has read all: from here on it relies on what it is told
			once.Do(func() {
				left, err := env.Memory.Unfiled(ctx, 0, 1)
				if err == nil && len(left) == 0 {
					err = errors.New("all entries are labelled: nothing can be filed instead of the log")
				}
				if err == nil {
					skipped = left[0].Index
					err = env.Memory.File(ctx, 0, []ledger.Filing{{Index: skipped, Label: proof.Label{1, 2, 3}}})
				}
				if err != nil {
					t.Error(err)
				}
				given.Store(true)
			})
		}
	}
	// Until then the log doesn't look for entries to label. What it had found it would file a second time, which the store of these tests doesn't refuse.
	cfg.Store = unlabelled{cfg.Store, &given}
	l := env.OpenWith(cfg)
	appendN(t, l, 0, 40)
	env.Clock.Set(l.OpenEpoch().Until)
	ledgertest.Await(t, "the epoch to close", func() bool {
		if _, err := l.Append(ctx, ledger.Group{Entries: []proof.Entry{proof.PolicyActivated{Revision: "r", Bundle: proof.Hash{1}}}}); err != nil {
			t.Fatal(err)
		}
		return l.OpenEpoch().Number > 0
	})
	env.Wait(l)
	env.Close(l)
	checkIndexes(t, env, 1)
	if skipped == 0 {
		t.Error("nothing was filed behind the log's back")
	}
}

// unlabelled shows no entries that wait for a label until it is told to.
type unlabelled struct {
	ledger.Store
	show *atomic.Bool
}

func (s unlabelled) Unfiled(ctx context.Context, e proof.Epoch, limit int) ([]ledger.Unfiled, error) {
	if !s.show.Load() {
		return nil, nil
	}
	return s.Store.Unfiled(ctx, e, limit)
}

// TestLargeEpochGoesOnUntilItIsPrepared: an epoch whose end nobody could prepare in time, since the broker was down, takes entries until its rolls are made, and isn't closed before.
func TestLargeEpochGoesOnUntilItIsPrepared(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	cfg := env.Config()
	cfg.PrepareFrom(5)
	l := env.OpenWith(cfg)
	appendN(t, l, 0, 50)
	until := l.OpenEpoch().Until
	env.Close(l)
	hold := make(chan struct{})
	env.Faults.Hook = func(call string, after bool) {
		if call == ledgertest.CallFilings && !after {
			<-hold
		}
	}
	env.Clock.Set(until)
	l = env.OpenWith(cfg)
	appendN(t, l, 50, 20)
	if n := l.OpenEpoch().Number; n != 0 {
		t.Errorf("epoch %d is open before the rolls of epoch 0 are made", n)
	}
	close(hold)
	ledgertest.Await(t, "the epoch to close without any entry", func() bool { return l.OpenEpoch().Number > 0 })
	env.Wait(l)
	env.Close(l)
	checkIndexes(t, env, 1)
}

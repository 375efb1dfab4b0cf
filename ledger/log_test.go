package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

func appendN(t testing.TB, l *ledger.Log, from, n int) []proof.Index {
	t.Helper()
	var out []proof.Index
	for i := range n {
		g, _ := ledgertest.Disclosure(ledgertest.Person(from + i))
		a, err := l.Append(context.Background(), g)
		if err != nil {
			t.Fatalf("append %d: %v", from+i, err)
		}
		out = append(out, a.Entries[0].Index)
	}
	return out
}

// What Append returns can be used to open an answer: it verifies as a whole, in the order of the group, for groups of all sizes appended at the same time.
func TestAppendIsProven(t *testing.T) {
	env := ledgertest.New(t)
	l := env.Open()
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[proof.Index]bool{}
	for c := range 16 {
		wg.Go(func() {
			for i := range 10 {
				var people []proof.Subject
				for k := range 1 + (c+i)%5 {
					people = append(people, ledgertest.Person(100*c+10*i+k))
				}
				g, _ := ledgertest.Disclosure(people...)
				a, err := l.Append(context.Background(), g)
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				v, err := proof.Verify(a.Checkpoint, a.Entries)
				if err != nil {
					t.Errorf("verify: %v", err)
					return
				}
				var want []proof.Commitment
				for k, e := range g.Entries {
					c, _ := proof.CommitmentOf(e)
					want = append(want, c)
					got, err := proof.VerifyEntry(a.Checkpoint, a.Entries[k])
					if err != nil || got != e {
						t.Errorf("entry %d isn't in its place: %v", k, err)
					}
				}
				if set, err := v.Set(); err != nil || set != proof.SetDigest(want) {
					t.Errorf("set: %v", err)
				}
				mu.Lock()
				for _, p := range a.Entries {
					if seen[p.Index] {
						t.Errorf("index %d twice", p.Index)
					}
					seen[p.Index] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	m := l.Metrics()
	if n := int64(len(seen)) + 1; m.Entries != n || m.Size != uint64(n) || m.Unsigned != 0 { // and the first marker
		t.Errorf("metrics %+v for %d entries", m, n)
	}
	if m.Rounds >= int64(len(seen)) {
		t.Errorf("%d rounds for %d entries: no batching", m.Rounds, len(seen))
	}
}

// Neighbours in a group aren't neighbours in the log.
func TestBatchIsShuffled(t *testing.T) {
	l := ledgertest.NewInMemory(t).Open()
	var people []proof.Subject
	for i := range 64 {
		people = append(people, ledgertest.Person(i))
	}
	g, _ := ledgertest.Disclosure(people...)
	a, err := l.Append(context.Background(), g)
	if err != nil {
		t.Fatal(err)
	}
	var order []proof.Index
	for _, p := range a.Entries {
		order = append(order, p.Index)
	}
	if slices.IsSorted(order) {
		t.Error("the entries of a batch stand in the order of the group")
	}
	slices.Sort(order)
	if order[0] != 1 || order[63] != 64 {
		t.Errorf("indexes %d to %d, want 1 to 64", order[0], order[63])
	}
}

func TestAppendRefuses(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	l := env.Open()
	good, _ := ledgertest.Disclosure(ledgertest.Person(1))
	for name, g := range map[string]ledger.Group{
		"nothing":          {},
		"nil entry":        {Entries: []proof.Entry{nil}},
		"zero commitment":  {Entries: []proof.Entry{proof.Disclosure{}}},
		"marker":           {Entries: []proof.Entry{proof.Marker{}}},
		"one bad of two":   {Entries: []proof.Entry{good.Entries[0], proof.Disclosure{}}},
		"bad attachment":   {Entries: good.Entries, Attach: 7},
		"too few subjects": {Entries: good.Entries, Attach: ledgertest.Subjects{}},
	} {
		if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.Append(context.Background(), good); err != nil {
		t.Errorf("a good group after bad ones: %v", err)
	}
	if n := l.Checkpoint().Size(); n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
}

// One group whose attachment the store refuses must not take the rest of its batch with it.
func TestRefusedGroupDoesNotStopOthers(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	hold := make(chan struct{})
	var committing atomic.Int32
	env.Faults.Hook = func(call string, after bool) {
		if call == ledgertest.CallCommit && !after {
			committing.Add(1)
			<-hold
		}
	}
	go func() { hold <- struct{}{} }() // the first marker
	l := env.Open()
	var wg sync.WaitGroup
	wg.Go(func() { // keeps the store busy while the others gather
		g, _ := ledgertest.Disclosure(ledgertest.Person(100))
		if _, err := l.Append(context.Background(), g); err != nil {
			t.Errorf("first group: %v", err)
		}
	})
	ledgertest.Await(t, "the store to be busy", func() bool { return committing.Load() >= 2 })
	env.Clock.Set(l.OpenEpoch().Until) // the batch of the others begins with a marker
	for i := range 20 {
		wg.Go(func() {
			g, _ := ledgertest.Disclosure(ledgertest.Person(i))
			if i%5 == 0 {
				g.Attach = "not what the store takes"
			}
			_, err := l.Append(context.Background(), g)
			if i%5 == 0 != errors.Is(err, ledger.ErrRefused) || i%5 != 0 && err != nil {
				t.Errorf("group %d: %v", i, err)
			}
		})
	}
	ledgertest.Await(t, "the others to gather", func() bool { return l.Metrics().Waiting >= 21 })
	close(hold)
	wg.Wait()
	if n := l.Checkpoint().Size(); n != 19 {
		t.Errorf("%d entries, want 17 and 2 markers", n)
	}
}

// poisoned is a store that fails at groups of three entries, for no reason that it knows, or at everything.
type poisoned struct {
	ledger.Store
	everything atomic.Bool
}

func (p *poisoned) Commit(ctx context.Context, b *ledger.Batch) error {
	for _, g := range b.Groups {
		if len(g.Leaves) == 3 || p.everything.Load() {
			return errors.New("program limit exceeded")
		}
	}
	return p.Store.Commit(ctx, b)
}

// failsAt is a store that works, and says so when it fails at groups of three entries.
type failsAt struct{ ledger.Store }

func (s failsAt) Commit(ctx context.Context, b *ledger.Batch) error {
	for _, g := range b.Groups {
		if len(g.Leaves) == 3 {
			return fmt.Errorf("%w: program limit exceeded", ledger.ErrAlone)
		}
	}
	return s.Store.Commit(ctx, b)
}

// TestPoisonedGroupAlone: a group at which the store fails is to blame for that though there is no other one, and the log is in no trouble, however often it is tried.
func TestPoisonedGroupAlone(t *testing.T) {
	t.Parallel()
	env := ledgertest.NewInMemory(t)
	cfg := env.Config()
	cfg.Store = failsAt{cfg.Store}
	l := env.OpenWith(cfg)
	for range 3 {
		g, _ := ledgertest.Disclosure(ledgertest.Person(0), ledgertest.Person(1), ledgertest.Person(2))
		if _, err := l.Append(t.Context(), g); !errors.Is(err, ledger.ErrAlone) {
			t.Errorf("the only group: %v", err)
		}
		ledgertest.Await(t, "the log to be in no trouble", func() bool { d, err := l.Trouble(); return d == 0 && err == nil }) // a round may be under way
	}
	appendN(t, l, 3, 1)
	if m := l.Metrics(); m.Alone != 3 || m.Waiting != 0 {
		t.Errorf("the counts are %+v", m)
	}
}

// TestPoisonedGroupDoesNotStopOthers: a group at which the store fails, though it doesn't refuse it, fails alone, and says that others don't. If all fail, it is the store.
func TestPoisonedGroupDoesNotStopOthers(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	hold := make(chan struct{})
	var committing atomic.Int32
	env.Faults.Hook = func(call string, after bool) {
		if call == ledgertest.CallCommit && !after {
			committing.Add(1)
			<-hold
		}
	}
	go func() { hold <- struct{}{} }() // the first marker
	cfg := env.Config()
	store := &poisoned{Store: cfg.Store}
	cfg.Store = store
	l := env.OpenWith(cfg)
	var wg sync.WaitGroup
	wg.Go(func() { // keeps the store busy while the others gather
		g, _ := ledgertest.Disclosure(ledgertest.Person(100))
		if _, err := l.Append(context.Background(), g); err != nil {
			t.Errorf("first group: %v", err)
		}
	})
	ledgertest.Await(t, "the store to be busy", func() bool { return committing.Load() >= 2 })
	env.Clock.Set(l.OpenEpoch().Until) // the batch of the others begins with a marker
	for i := range 20 {
		wg.Go(func() {
			g, _ := ledgertest.Disclosure(ledgertest.Person(i))
			if i%10 == 0 {
				g, _ = ledgertest.Disclosure(ledgertest.Person(i), ledgertest.Person(i+1), ledgertest.Person(i+2))
			}
			if i == 5 {
				g.Attach = "not what the store takes"
			}
			_, err := l.Append(context.Background(), g)
			switch {
			case i%10 == 0 && (!errors.Is(err, ledger.ErrAlone) || !errors.Is(err, ledger.ErrUnavailable) || errors.Is(err, ledger.ErrRefused)),
				i == 5 && !errors.Is(err, ledger.ErrRefused), i%10 != 0 && i != 5 && err != nil:
				t.Errorf("group %d: %v", i, err)
			}
		})
	}
	ledgertest.Await(t, "the others to gather", func() bool { return l.Metrics().Waiting >= 21 })
	close(hold)
	wg.Wait()
	if m := l.Metrics(); m.Alone != 2 || m.Refused != 1 || m.Waiting != 0 || m.Halted {
		t.Errorf("the counts are %+v", m)
	}
	store.everything.Store(true)
	for i := range 20 {
		wg.Go(func() {
			g, _ := ledgertest.Disclosure(ledgertest.Person(i))
			if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrUnavailable) || errors.Is(err, ledger.ErrAlone) {
				t.Errorf("when all fail: %v", err)
			}
		})
	}
	wg.Wait()
	store.everything.Store(false)
	g, _ := ledgertest.Disclosure(ledgertest.Person(200))
	if _, err := l.Append(context.Background(), g); err != nil {
		t.Error(err)
	}
	if n := l.Checkpoint().Size(); n != 21 {
		t.Errorf("%d entries, want 19 and 2 markers", n)
	}
}

func TestBusy(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	cfg := env.Config()
	cfg.MaxWaiting = 10
	hold := make(chan struct{})
	env.Faults.Hook = func(call string, after bool) {
		if call == ledgertest.CallAdd && !after {
			<-hold
		}
	}
	go func() { hold <- struct{}{} }()
	l := env.OpenWith(cfg)
	results := make(chan error, 40)
	for i := range 40 {
		go func() {
			g, _ := ledgertest.Disclosure(ledgertest.Person(i))
			_, err := l.Append(context.Background(), g)
			results <- err
		}()
	}
	for range 30 { // only those return while Trillian hangs
		if err := <-results; !errors.Is(err, ledger.ErrBusy) {
			t.Errorf("beyond the limit: %v", err)
		}
	}
	close(hold)
	for range 10 {
		if err := <-results; err != nil {
			t.Errorf("within the limit: %v", err)
		}
	}
}

// A caller who goes away leaves its entries behind: they are in the log all the same.
func TestCallerGoesAway(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	hold := make(chan struct{})
	env.Faults.Hook = func(call string, after bool) {
		if call == ledgertest.CallAdd && !after {
			<-hold
		}
	}
	go func() { hold <- struct{}{} }()
	l := env.Open()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		g, _ := ledgertest.Disclosure(ledgertest.Person(1))
		_, err := l.Append(ctx, g)
		done <- err
	}()
	ledgertest.Await(t, "the entry to be ordered", func() bool { return l.Metrics().Entries >= 2 })
	cancel()
	if err := <-done; !errors.Is(err, ledger.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("append after the caller left: %v", err)
	}
	close(hold)
	env.Close(l)
	if n := l.Checkpoint().Size(); n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
	if _, err := l.Append(context.Background(), ledger.Group{Entries: []proof.Entry{proof.Disclosure{Commitment: proof.Commitment{1}}}}); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("append after Close: %v", err)
	}
}

// Close signs and publishes what waits.
func TestCloseDrains(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	cfg := env.Config()
	cfg.PublishEvery, cfg.FileEvery = time.Hour, time.Hour
	l := env.OpenWith(cfg)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			g, _ := ledgertest.Disclosure(ledgertest.Person(i))
			if _, err := l.Append(context.Background(), g); err != nil && !errors.Is(err, ledger.ErrUnavailable) {
				t.Errorf("append: %v", err)
			}
		})
	}
	env.Close(l)
	wg.Wait()
	m := l.Metrics()
	if m.Unsigned != 0 || m.Waiting != 0 || m.Published != m.Size || m.Unfiled != 0 {
		t.Errorf("after Close: %+v", m)
	}
}

func TestConfigRefuses(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	for i, spoil := range []func(*ledger.Config){
		func(c *ledger.Config) { c.Origin = "" },
		func(c *ledger.Config) { c.Store = nil },
		func(c *ledger.Config) { c.Signed = nil },
		func(c *ledger.Config) { c.Trillian = nil },
		func(c *ledger.Config) { c.Signers = nil },
		func(c *ledger.Config) { c.Policy = nil },
		func(c *ledger.Config) { c.Labeler = nil },
		func(c *ledger.Config) { c.Dir = "" },
		func(c *ledger.Config) { c.Epoch = -time.Second },
		func(c *ledger.Config) { c.Epoch = time.Microsecond },
		func(c *ledger.Config) { c.MaxBatch = -1 },
		func(c *ledger.Config) { c.Origin = "another.example/log" },
	} {
		cfg := env.Config()
		spoil(&cfg)
		if l, err := ledger.Open(context.Background(), cfg); err == nil {
			env.Close(l)
			t.Errorf("configuration %d accepted", i)
		}
	}
}

// TestOrderWaitsForTheRound: what comes while a round is under way makes one batch, which is ordered when that has ended, however it did.
func TestOrderWaitsForTheRound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		call string // at which the round is held
		fail bool
	}{
		{"adding", ledgertest.CallAdd, false}, {"signing", ledgertest.CallSign, false}, {"storing", ledgertest.CallSwap, false}, {"failing", ledgertest.CallAdd, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			env := ledgertest.NewInMemory(t)
			var armed atomic.Bool
			held, release := make(chan struct{}), make(chan struct{})
			let := sync.OnceFunc(func() { close(release) })
			defer let() // or the log could never be closed
			env.Faults.Hook = func(call string, after bool) {
				if call == c.call && !after && armed.CompareAndSwap(true, false) {
					close(held)
					<-release
				}
			}
			l := env.Open()
			appendN(t, l, 0, 1)
			batches := l.Metrics().Batches
			armed.Store(true)
			if c.fail {
				env.Faults.Arm(c.call, ledgertest.Fail, 1)
			}
			errs := make(chan error, 11)
			put := func(i int) {
				g, _ := ledgertest.Disclosure(ledgertest.Person(i))
				_, err := l.Append(context.Background(), g)
				errs <- err
			}
			go put(1)
			<-held
			for i := range 10 {
				go put(2 + i)
			}
			ledgertest.Await(t, "ten entries to wait", func() bool { return l.Metrics().Waiting == 10 })
			if n := l.Metrics().Batches - batches; n != 1 {
				t.Errorf("%d batches ordered in one round", n)
			}
			let()
			failed := 0
			for range 11 {
				if err := <-errs; errors.Is(err, ledger.ErrUnavailable) {
					failed++
				} else if err != nil {
					t.Error(err)
				}
			}
			if n := l.Metrics().Batches - batches; n != 2 {
				t.Errorf("%d batches for one entry and ten", n)
			}
			if c.fail != (failed == 1) || failed > 1 {
				t.Errorf("%d entries told to try again", failed)
			}
		})
	}
}

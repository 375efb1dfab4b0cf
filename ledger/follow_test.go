package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// handTo hands groups to a log of the same process.
func handTo(l *ledger.Log) ledger.Hand {
	return func(ctx context.Context, g ledger.Group) ([]ledger.Leaf, error) {
		a, err := l.Append(ctx, g)
		if err != nil {
			return nil, err
		}
		leaves := make([]ledger.Leaf, len(a.Entries))
		for i, e := range a.Entries {
			entry, err := proof.ParseEntry(e.Text)
			if err != nil {
				return nil, err
			}
			leaves[i] = ledger.Leaf{Index: e.Index, Epoch: entry.In(), Kind: entry.Kind(), Text: e.Text}
		}
		return leaves, nil
	}
}

func follow(t *testing.T, cfg ledger.Config, hand ledger.Hand) *ledger.Follower {
	t.Helper()
	cfg.Trillian, cfg.Signers, cfg.Integrate = nil, nil, nil // a reader has none
	f, err := ledger.Follow(t.Context(), cfg, hand, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return f
}

// TestFollower: what a follower hands over is in the log under a checkpoint that the follower verified, and it serves receipts and histories like the one that leads.
func TestFollower(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	l := e.Open()
	me := ledgertest.Person(1)
	for range 300 { // before it begins
		g, _ := ledgertest.Disclosure(ledgertest.Person(2))
		if _, err := l.Append(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	e.Wait(l)
	f := follow(t, e.Config(), handTo(l))
	g, openings := ledgertest.Disclosure(me, ledgertest.Person(3))
	a, err := f.Append(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Entries {
		if _, err := proof.VerifyEntry(a.Checkpoint, a.Entries[i]); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}
	if got := f.Checkpoint().Size(); got < uint64(a.Entries[0].Index) {
		t.Errorf("it has a tree of %d entries, and proved entry %d", got, a.Entries[0].Index)
	}
	closed := f.OpenEpoch().Number
	e.Clock.Advance(time.Hour)
	g, _ = ledgertest.Disclosure(ledgertest.Person(2)) // an entry makes it look at the clock
	if _, err := f.Append(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "the next epoch at the follower", func() bool { return f.OpenEpoch().Number > closed })
	if got, want := f.OpenEpoch(), l.OpenEpoch(); got.Number != want.Number || got.Marker != want.Marker || !got.Until.Equal(want.Until) || string(got.Text) != string(want.Text) {
		t.Errorf("the open epoch is %+v at the follower, %+v at the log", got, want)
	}
	e.Wait(l)
	ledgertest.Await(t, "the published marker at the follower", func() bool {
		cp, ok := f.Published()
		return ok && cp.Size() > uint64(f.OpenEpoch().Marker)
	})
	r, err := f.Receipt(t.Context(), a.Entries[0].Index, openings[0])
	if err != nil {
		t.Fatal(err)
	}
	if r.Settlement() == nil {
		t.Error("the follower's receipt isn't settled")
	}
	d, err := f.History(t.Context(), []proof.Subject{me}, 0, ledger.NewestEpoch)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Filed) != 1 || d.Filed[0].Index != a.Entries[0].Index {
		t.Errorf("the follower's history has %v", d.Filed)
	}
	if m := f.Metrics(); m.Halted || m.Size < uint64(a.Entries[0].Index) || m.Published == 0 {
		t.Errorf("metrics %+v", m)
	}
}

// TestFollowerHearsLate: a place that is told after the tree has grown further many times is proven from the published files.
func TestFollowerHearsLate(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	l := e.Open()
	var f *ledger.Follower
	hand := handTo(l)
	f = follow(t, e.Config(), func(ctx context.Context, g ledger.Group) ([]ledger.Leaf, error) {
		leaves, err := hand(ctx, g)
		for range 40 {
			g, _ := ledgertest.Disclosure(ledgertest.Person(2))
			a, err := l.Append(ctx, g)
			if err != nil {
				return nil, err
			}
			ledgertest.Await(t, "the follower's step", func() bool { return f.Checkpoint().Size() > uint64(a.Entries[0].Index) })
		}
		return leaves, err
	})
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	a, err := f.Append(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	if a.Checkpoint.Size() < uint64(a.Entries[0].Index)+40 {
		t.Errorf("proven under %d, not under a published checkpoint of later", a.Checkpoint.Size())
	}
}

// TestFollowerBeforeTheLog: a broker that starts first waits for the log.
func TestFollowerBeforeTheLog(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	cfg := e.Config()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := ledger.Follow(ctx, cfg, func(context.Context, ledger.Group) ([]ledger.Leaf, error) { return nil, nil }, nil); !errors.Is(err, ledger.ErrUnavailable) {
		t.Fatalf("without a log: %v", err)
	}
	started := make(chan *ledger.Follower)
	go func() {
		f, err := ledger.Follow(t.Context(), cfg, func(context.Context, ledger.Group) ([]ledger.Leaf, error) { return nil, nil }, nil)
		if err != nil {
			t.Error(err)
		}
		started <- f
	}()
	l := e.Open()
	f := <-started
	if f == nil {
		return
	}
	defer f.Close(context.Background())
	ledgertest.Await(t, "the log's tree", func() bool { return f.Checkpoint().Size() == l.Checkpoint().Size() })
}

// TestFollowerIsNoFool: a follower releases nothing on what a leader, or a store, says that can't be true.
func TestFollowerIsNoFool(t *testing.T) {
	t.Parallel()
	sign := func(t *testing.T, e *ledgertest.Env, size uint64, root proof.Hash) []byte {
		n, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", ledgertest.Origin, size, root)}, e.Signer)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	halted := func(t *testing.T, f *ledger.Follower) {
		t.Helper()
		ledgertest.Await(t, "the follower to halt", func() bool { return errors.Is(f.Err(), ledger.ErrHalted) })
		g, _ := ledgertest.Disclosure(ledgertest.Person(1))
		if _, err := f.Append(t.Context(), g); !errors.Is(err, ledger.ErrHalted) {
			t.Errorf("a halted follower takes an entry: %v", err)
		}
		if !f.Metrics().Halted {
			t.Error("its metrics don't say that it is halted")
		}
	}
	swap := func(t *testing.T, e *ledgertest.Env, n []byte) {
		t.Helper()
		last, err := e.Signed.Last(t.Context())
		if err == nil {
			err = e.Signed.Swap(t.Context(), last, n)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		lie  func(t *testing.T, e *ledgertest.Env, l *ledger.Log)
	}{
		{"another tree of the same size", func(t *testing.T, e *ledgertest.Env, l *ledger.Log) {
			swap(t, e, sign(t, e, l.Checkpoint().Size(), proof.Hash{1}))
		}},
		{"a tree that the order doesn't give", func(t *testing.T, e *ledgertest.Env, l *ledger.Log) {
			i := proof.Index(l.Checkpoint().Size())
			e.Memory.Tamper(i, []byte("another text"))
			g, _ := ledgertest.Disclosure(ledgertest.Person(1))
			_, err := l.Append(t.Context(), g) // it signs what it hashed, the store says something else
			if err != nil {
				t.Log(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := ledgertest.NewInMemory(t)
			l := e.Open()
			f := follow(t, e.Config(), handTo(l))
			g, _ := ledgertest.Disclosure(ledgertest.Person(1))
			if _, err := f.Append(t.Context(), g); err != nil {
				t.Fatal(err)
			}
			c.lie(t, e, l)
			halted(t, f)
		})
	}
	t.Run("an older copy of the signed checkpoint", func(t *testing.T) {
		t.Parallel()
		e := ledgertest.NewInMemory(t)
		l := e.Open()
		old, err := e.Signed.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f := follow(t, e.Config(), handTo(l))
		g, _ := ledgertest.Disclosure(ledgertest.Person(1))
		if _, err := f.Append(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		size := f.Checkpoint().Size()
		newest, err := e.Signed.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		swap(t, e, old)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		<-ctx.Done()
		if got := f.Checkpoint().Size(); got != size {
			t.Errorf("it went back from %d to %d entries", size, got)
		}
		swap(t, e, newest)
		g, _ = ledgertest.Disclosure(ledgertest.Person(1))
		if _, err := f.Append(t.Context(), g); err != nil {
			t.Error(err)
		}
	})
	t.Run("somebody else's entry", func(t *testing.T) {
		t.Parallel()
		e := ledgertest.NewInMemory(t)
		l := e.Open()
		hand := handTo(l)
		f := follow(t, e.Config(), func(ctx context.Context, _ ledger.Group) ([]ledger.Leaf, error) {
			g, _ := ledgertest.Disclosure(ledgertest.Person(2))
			return hand(ctx, g)
		})
		g, _ := ledgertest.Disclosure(ledgertest.Person(1))
		if a, err := f.Append(t.Context(), g); !errors.Is(err, ledger.ErrUnavailable) {
			t.Errorf("another entry was taken for the one that was handed over: %v, %v", a, err)
		}
	})
	t.Run("a place beyond the log", func(t *testing.T) {
		t.Parallel()
		e := ledgertest.NewInMemory(t)
		l := e.Open()
		f := follow(t, e.Config(), func(_ context.Context, g ledger.Group) ([]ledger.Leaf, error) {
			return []ledger.Leaf{{Index: proof.Index(l.Checkpoint().Size() + 10)}}, nil
		})
		g, _ := ledgertest.Disclosure(ledgertest.Person(1))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := f.Append(ctx, g); !errors.Is(err, ledger.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// TestFollowerIsClosed: whoever waits is told, and nothing is taken after.
func TestFollowerIsClosed(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	l := e.Open()
	handed := make(chan struct{})
	f := follow(t, e.Config(), func(_ context.Context, g ledger.Group) ([]ledger.Leaf, error) {
		close(handed)
		return []ledger.Leaf{{Index: proof.Index(l.Checkpoint().Size() + 10)}}, nil
	})
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	waiting := make(chan error)
	go func() {
		_, err := f.Append(t.Context(), g)
		waiting <- err
	}()
	<-handed
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := f.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if _, err := f.Append(t.Context(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("a closed follower takes an entry: %v", err)
	}
}

// TestFollowerEndsWell: what is under way when a follower is closed ends as it would have.
func TestFollowerEndsWell(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	l := e.Open()
	hand, handed, goOn := handTo(l), make(chan struct{}), make(chan struct{})
	f := follow(t, e.Config(), func(ctx context.Context, g ledger.Group) ([]ledger.Leaf, error) {
		close(handed)
		<-goOn
		return hand(ctx, g)
	})
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	appended := make(chan error)
	go func() {
		_, err := f.Append(t.Context(), g)
		appended <- err
	}()
	<-handed
	closed := make(chan error)
	go func() { closed <- f.Close(t.Context()) }()
	close(goOn)
	if err := <-appended; err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// TestDeposed: a log whose process doesn't lead any more publishes nothing, and finding another one at its stores is no reason to call the operator.
func TestDeposed(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	leads := make(chan struct{})
	cfg := e.Config()
	cfg.Leads = func() bool {
		select {
		case <-leads:
			return false
		default:
			return true
		}
	}
	var mu sync.Mutex
	var logs bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &logs}, nil))
	old := e.OpenWith(cfg)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := old.Append(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	e.Wait(old)
	before, err := os.ReadFile(filepath.Join(e.Dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	close(leads)
	other := e.Config() // takes over, and publishes elsewhere, so that it shows who writes here
	other.Dir = t.TempDir()
	next := e.OpenWith(other)
	g, _ = ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := next.Append(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	g, _ = ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := old.Append(t.Context(), g); !errors.Is(err, ledger.ErrDeposed) || errors.Is(err, ledger.ErrHalted) {
		t.Errorf("a deposed log says %v", err)
	}
	if err := old.Err(); !errors.Is(err, ledger.ErrDeposed) || !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("a deposed log is in the state %v", err)
	}
	e.Close(old)
	if m := old.Metrics(); strings.Contains(logs.String(), "level=ERROR") || m.OrderErrors+m.SignErrors+m.PublishErrors+m.FileErrors > 0 {
		t.Errorf("a deposed log calls the operator: %+v\n%s", m, logs.String())
	}
	after, err := os.ReadFile(filepath.Join(e.Dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("a deposed log published something")
	}
	if err := next.Err(); err != nil {
		t.Errorf("the log that leads: %v", err)
	}
}

// TestDeposedInThePublication: who stops leading between the look at that and the checkpoint shows nothing and calls nobody either.
func TestDeposedInThePublication(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	var deposes, deposed atomic.Bool
	asked := make(chan struct{}, 8)
	cfg := e.Config()
	cfg.Leads = func() bool { return !deposed.Load() }
	cfg.Cosign = func(_ context.Context, n []byte) ([]byte, error) {
		if deposes.Load() {
			deposed.Store(true)
			asked <- struct{}{}
		}
		return n, nil
	}
	var mu sync.Mutex
	var logs bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &logs}, nil))
	l := e.OpenWith(cfg)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	e.Wait(l)
	before, err := os.ReadFile(filepath.Join(e.Dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	deposes.Store(true)
	g, _ = ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(t.Context(), g); err != nil && !errors.Is(err, ledger.ErrDeposed) {
		t.Fatal(err)
	}
	<-asked
	e.Close(l)
	if m := l.Metrics(); strings.Contains(logs.String(), "level=ERROR") || m.PublishErrors > 0 || !strings.Contains(logs.String(), "doesn't lead the log any more") {
		t.Errorf("%+v\n%s", m, logs.String())
	}
	if after, err := os.ReadFile(filepath.Join(e.Dir, "checkpoint")); err != nil || string(before) != string(after) {
		t.Errorf("a deposed log published something, %v", err)
	}
}

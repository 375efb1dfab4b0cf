package ledger_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
)

// troubled waits until the log has been in trouble for a while, for this reason.
func troubled(t *testing.T, l *ledger.Log, why string) {
	t.Helper()
	ledgertest.Await(t, "trouble: "+why, func() bool {
		d, err := l.Trouble()
		return d > 300*time.Millisecond && err != nil && strings.Contains(err.Error(), why)
	})
}

func untroubled(t *testing.T, l *ledger.Log) {
	t.Helper()
	ledgertest.Await(t, "the end of the trouble", func() bool { d, err := l.Trouble(); return d == 0 && err == nil })
}

// TestTrouble: a log that can't order, sign or publish says since when and why, until it can again.
func TestTrouble(t *testing.T) {
	t.Parallel()
	for call, why := range map[string]string{
		ledgertest.CallCommit: "ordering: ", ledgertest.CallAdd: "signing: ", ledgertest.CallRoot: "signing: ", ledgertest.CallSign: "signing: ", ledgertest.CallSwap: "signing: ",
	} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			e := ledgertest.NewInMemory(t)
			l := e.Open()
			appendN(t, l, 0, 1)
			untroubled(t, l)
			e.Faults.Arm(call, ledgertest.Fail, -1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked := make(chan struct{})
			go func() { // the log is in no trouble while nobody wants anything of it
				defer close(asked)
				for ctx.Err() == nil {
					g, _ := ledgertest.Disclosure(ledgertest.Person(1))
					_, _ = l.Append(ctx, g)
				}
			}()
			troubled(t, l, why)
			e.Faults.Disarm()
			untroubled(t, l)
			cancel()
			<-asked
		})
	}
}

// hanging is a SignedStore that gives no answer while it is told to.
type hanging struct {
	ledger.SignedStore
	hangs chan struct{} // closed: it answers
}

func (h hanging) Swap(ctx context.Context, old, new []byte) error {
	select {
	case <-h.hangs:
	case <-ctx.Done():
		return ctx.Err()
	}
	return h.SignedStore.Swap(ctx, old, new)
}

// TestTroubleWithoutAnError: it says so long before an attempt that gets no answer is given up.
func TestTroubleWithoutAnError(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	e.Close(e.Open()) // its first checkpoint
	cfg := e.Config()
	h := hanging{cfg.Signed, make(chan struct{})}
	cfg.Signed, cfg.Timeout = h, time.Hour
	l := e.OpenWith(cfg)
	done := make(chan error, 1)
	go func() {
		g, _ := ledgertest.Disclosure(ledgertest.Person(1))
		_, err := l.Append(context.Background(), g)
		done <- err
	}()
	troubled(t, l, "waits for an answer")
	close(h.hangs)
	if err := <-done; err != nil {
		t.Error(err)
	}
	untroubled(t, l)
}

// TestTroublePublishing: neither is a log whose files can't be written all right; one whose witnesses don't answer is, for that is no fault of its.
func TestTroublePublishing(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	var silent atomic.Bool
	cfg := e.Config()
	cfg.Cosign = func(_ context.Context, n []byte) ([]byte, error) {
		if silent.Load() {
			return nil, errors.New("no quorum")
		}
		return n, nil
	}
	l := e.OpenWith(cfg)
	appendN(t, l, 0, 1)
	e.Wait(l)
	if err := os.Rename(e.Dir, e.Dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 1, 1)
	troubled(t, l, "publishing: ")
	if err := errors.Join(os.Remove(e.Dir), os.Rename(e.Dir+".away", e.Dir)); err != nil {
		t.Fatal(err)
	}
	untroubled(t, l)
	e.Wait(l)
	silent.Store(true)
	before := l.Metrics().PublishErrors
	appendN(t, l, 2, 1)
	ledgertest.Await(t, "the witnesses to be missed twice", func() bool { return l.Metrics().PublishErrors > before+1 })
	if d, err := l.Trouble(); d != 0 {
		t.Errorf("in trouble for %v without witnesses: %v", d, err)
	}
}

// TestFinish: when Finish returns, all that was taken is signed, and nothing more is taken; publishing may take its time.
func TestFinish(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	cosigning := make(chan struct{}, 100)
	cfg := e.Config()
	cfg.Timeout = time.Hour
	cfg.Cosign = func(ctx context.Context, n []byte) ([]byte, error) { // a witness that never answers
		cosigning <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	l := e.OpenWith(cfg)
	appendN(t, l, 0, 5)
	<-cosigning
	if err := l.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	tail, err := e.Store.Tail(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if size := l.Checkpoint().Size(); size != uint64(tail.Next) || size < 6 {
		t.Errorf("%d entries are signed, %d ordered", size, tail.Next)
	}
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(t.Context(), g); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("one more group: %v", err)
	}
	now, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Close(now); !errors.Is(err, context.Canceled) {
		t.Errorf("closing at once: %v", err)
	}
}

// TestBusyFollower: a follower says that it is busy while the one that leads takes nothing, or publishes nothing, and that it isn't any more when that is over.
func TestBusyFollower(t *testing.T) {
	t.Parallel()
	e := ledgertest.NewInMemory(t)
	var silent atomic.Bool
	cfg := e.Config()
	cfg.MaxLag = time.Hour // of the one that leads
	cfg.Cosign = func(_ context.Context, n []byte) ([]byte, error) {
		if silent.Load() {
			return nil, errors.New("no quorum")
		}
		return n, nil
	}
	l := e.OpenWith(cfg)
	hand, deaf := handTo(l), make(chan struct{})
	cfg.MaxLag = time.Second
	f := follow(t, cfg, func(ctx context.Context, g ledger.Group) ([]ledger.Leaf, error) {
		select {
		case <-deaf:
		case <-ctx.Done():
			return nil, ledger.ErrUnavailable
		}
		return hand(ctx, g)
	})
	busy := func(why string) func() bool {
		return func() bool {
			err := f.Busy()
			return why == "" && err == nil || why != "" && errors.Is(err, ledger.ErrBusy) && strings.Contains(err.Error(), why)
		}
	}
	if err := f.Busy(); err != nil {
		t.Errorf("with nothing to do: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		g, _ := ledgertest.Disclosure(ledgertest.Person(1))
		_, err := f.Append(context.Background(), g)
		done <- err
	}()
	ledgertest.Await(t, "a deaf leader", busy("handed over"))
	close(deaf)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "one that hears", busy(""))
	silent.Store(true)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := f.Append(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "a leader that doesn't publish", busy("publication is behind"))
	silent.Store(false)
	ledgertest.Await(t, "one that does", busy(""))
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Append(t.Context(), g); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("after it was closed: %v", err)
	}
}

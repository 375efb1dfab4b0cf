package broker_test

import (
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// student is an account with an identifier that was attached to it.
func (w *world) student() (me broker.Account, ine proof.Subject, of, owner keys.Owner) {
	w.t.Helper()
	me = studying(w.t, account(w.t, marie))
	ine = me.Subjects[len(me.Subjects)-1]
	var err error
	if of, err = w.b.Ring().Owner(me.Pivot); err != nil {
		w.t.Fatal(err)
	}
	if owner, err = w.b.Ring().Owner(ine); err != nil {
		w.t.Fatal(err)
	}
	w.attach(of, ine)
	return me, ine, of, owner
}

// TestDetachedInTheLastInstant: who gives an identifier up before its erasure has begun has nothing erased, whatever the sweeper has read before; and is told.
func TestDetachedInTheLastInstant(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.SweepEvery = time.Hour })
	ctx := t.Context()
	me, ine, account, owner := w.student()
	if err := w.b.Enrol(ctx, me); err != nil {
		t.Fatal(err)
	}
	if err := w.b.RequestErasure(ctx, me, []proof.Subject{ine}, w.now()); err != nil {
		t.Fatal(err)
	}
	due, err := w.b.Store().DueErasures(ctx, w.now().Add(31*day), 10)
	if err != nil || len(due) != 1 {
		t.Fatalf("%+v, %v", due, err)
	}
	if err := w.b.Store().DetachIdentifier(ctx, account, owner, w.now()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "the sweeper's erasure", w.b.EraseFor(ctx, ine, due[0].ID), 409, "erasure.ended")
	if w.b.Erasing(ine) || w.b.Keyless(ine) || w.erasing(me) != "ine:undone:" {
		t.Errorf("it is erased: %s", w.erasing(me))
	}
	if page, err := w.b.Notices(ctx, me, 0, 9); err != nil || len(page.Notices) == 0 || page.Notices[0].Event != store.ErasureDetached {
		t.Errorf("%+v, %v", page, err)
	}
}

// TestDetachedWhileItIsErased: what has begun is carried through, and the person sees that it was.
func TestDetachedWhileItIsErased(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.CoolOff, c.SweepEvery = time.Millisecond, 20*time.Millisecond })
	ctx := t.Context()
	me, ine, account, owner := w.student()
	w.sql("CREATE TRIGGER kill BEFORE UPDATE OF done ON erasures BEGIN SELECT RAISE(ABORT, 'not yet'); END")
	if err := w.b.RequestErasure(ctx, me, []proof.Subject{ine}, w.now()); err != nil {
		t.Fatal(err)
	}
	until(t, "it has begun", func() bool {
		open, err := w.b.Store().OpenErasures(ctx)
		return err == nil && len(open) == 1
	})
	if err := w.b.Store().DetachIdentifier(ctx, account, owner, w.now()); err != nil && !errors.Is(err, store.ErrNotFound) { // the erasure takes it away, too
		t.Fatal(err)
	}
	if got := w.erasing(me); got != "ine:waiting:" {
		t.Errorf("while it goes on: %s", got)
	}
	w.sql("DROP TRIGGER kill")
	until(t, "the request has ended", func() bool { return w.erasing(me) == "ine:done:" })
	if !w.b.Keyless(ine) {
		t.Error("it is said to be done, and the keys are there")
	}
}

// TestDetachingRacesTheErasure: whoever is first, what the request says came of it did, and it ends.
func TestDetachingRacesTheErasure(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.CoolOff, c.SweepEvery = time.Millisecond, time.Millisecond })
	ctx := t.Context()
	ended := map[string]int{}
	for round := range 20 {
		me, ine, account, owner := w.student()
		// The sweeper may only now find that the request before has ended, and keeps the person to itself while it looks.
		until(t, "the request", func() bool {
			err := w.b.RequestErasure(ctx, me, []proof.Subject{ine}, w.now())
			if err != nil && broker.AsProblem(err).Code != "subject.erasing" {
				t.Fatal(err)
			}
			return err == nil
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			// Every other time it has all but begun, or just has.
			for deadline := time.Now().Add(patience); round%2 == 1 && !w.b.Erasing(ine) && w.erasing(me) == "ine:waiting:" && time.Now().Before(deadline); {
				runtime.Gosched()
			}
			if err := w.b.Store().DetachIdentifier(ctx, account, owner, w.now()); err != nil && !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
		})
		until(t, "the request has ended", func() bool { return w.erasing(me) != "ine:waiting:" })
		wg.Wait()
		until(t, "nothing more is done", func() bool { return !w.b.Erasing(ine) })
		got := w.erasing(me)
		if ended[got]++; got != "ine:undone:" && got != "ine:done:" || w.b.Keyless(ine) != (got == "ine:done:") {
			t.Fatalf("it is %s, and the keys are gone: %v", got, w.b.Keyless(ine))
		}
		if left, err := w.b.Store().Identifiers(ctx, account); err != nil || len(left) != 0 {
			t.Fatalf("%+v, %v", left, err)
		}
	}
	t.Log(ended)
}

// TestDetachedBeforeRestore: somebody has given up an identifier that is another's, who has attached it since, and then a backup of before is restored. It isn't the first one's again, and what they had asked to erase
// under it is never erased.
func TestDetachedBeforeRestore(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, nil)
	ctx := t.Context()
	me, ine, mine, owner := w.student()
	if err := w.b.Enrol(ctx, me); err != nil {
		t.Fatal(err)
	}
	if err := w.b.RequestErasure(ctx, me, []proof.Subject{ine}, w.now()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := w.b.Backup(ctx, dir); err != nil {
		t.Fatal(err)
	}
	if err := w.b.Store().DetachIdentifier(ctx, mine, owner, w.now()); err != nil {
		t.Fatal(err)
	}
	other := account(t, killPivot("AUTRE"))
	theirs, err := w.b.Ring().Owner(other.Pivot)
	if err != nil {
		t.Fatal(err)
	}
	w.attach(theirs, ine)
	w.close()
	if _, err := broker.Restore(ctx, w.cfg, dir); err != nil {
		t.Fatal(err)
	}
	w.open()
	if rows, err := w.b.Store().Identifiers(ctx, mine); err != nil || len(rows) != 0 {
		t.Errorf("attached again: %+v, %v", rows, err)
	}
	if got := w.erasing(me); got != "ine:undone:" {
		t.Errorf("the erasure is %s", got)
	}
	if page, err := w.b.Notices(ctx, me, 0, 9); err != nil || len(page.Notices) == 0 || page.Notices[0].Event != store.ErasureForgotten {
		t.Errorf("%+v, %v", page, err)
	}
	w.attach(theirs, ine) // as at their next sign-in
	w.age(&ahead, 31*day)
	due, err := w.b.Store().DueErasures(ctx, w.now(), 9)
	if err != nil || len(due) != 0 || w.b.Erasing(ine) || w.b.Keyless(ine) {
		t.Errorf("a month later: %+v are due, %v; erasing %v, keyless %v", due, err, w.b.Erasing(ine), w.b.Keyless(ine))
	}
}

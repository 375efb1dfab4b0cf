package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
)

func TestErasedDetailsAreGoneAndReceiptsStand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	req := request()
	req.IdempotencyKey = "before"
	before := w.disclose(req)
	subject, err := marie.Subject()
	if err != nil {
		t.Fatal(err)
	}
	erasure, err := w.b.Erase(t.Context(), subject, "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	if erasure.Index <= erasure.Reach {
		t.Errorf("the erasure at %d reaches to %d", erasure.Index, erasure.Reach)
	}
	w.verify(before.Receipt)
	got, err := w.b.Disclosure(t.Context(), w.caller, before.ID)
	if err != nil {
		t.Fatal(err)
	}
	w.verify(got.Receipt)
	r, err := proof.ParseReceipt(got.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	if _, p := r.Opening().Value(proof.FieldSubject); p != proof.Hidden {
		t.Error("the subject can still be opened")
	}
	if got := r.Opening().Text(proof.DisclosureAgency); got != "mairie" {
		t.Errorf("the administrative part is gone too: agency %q", got)
	}
	again := w.disclose(req)
	if again.Data != nil || !again.Gone {
		t.Errorf("the erased person's answer was repeated: %+v", again)
	}
	// What comes after is recorded under new keys.
	fresh := request()
	fresh.IdempotencyKey = "after"
	a := w.disclose(fresh)
	r, err = proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	if _, p := r.Opening().Value(proof.FieldSubject); p != proof.Present {
		t.Error("the new record can't be opened")
	}
}

func TestErasureUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	subject, err := marie.Subject()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var answers []*broker.Answer
	for i := range 8 {
		wg.Go(func() {
			for j := range 15 {
				req := request()
				req.Object = fmt.Sprintf("dossier %d-%d", i, j)
				a, err := w.b.Disclose(t.Context(), w.caller, req)
				if err != nil {
					if p := broker.AsProblem(err); p.Code != "subject.erasing" {
						t.Errorf("disclose: %v", err)
					}
					continue
				}
				mu.Lock()
				answers = append(answers, a)
				mu.Unlock()
			}
		})
	}
	var reach, index proof.Index
	for range 3 {
		e, err := w.b.Erase(t.Context(), subject, "rgpd-17")
		if err != nil {
			t.Fatal(err)
		}
		reach, index = e.Reach, e.Index
	}
	wg.Wait()
	for _, a := range answers {
		got, err := w.b.Disclosure(t.Context(), w.caller, a.ID)
		if err != nil {
			t.Fatal(err)
		}
		r, err := proof.ParseReceipt(got.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		_, p := r.Opening().Value(proof.FieldSubject)
		switch {
		case r.Index() <= reach && p != proof.Hidden:
			t.Errorf("entry %d, before the last erasure at %d, can be read", r.Index(), index)
		case r.Index() > index && p != proof.Present:
			t.Errorf("entry %d, after the last erasure at %d, can't be read", r.Index(), index)
		case r.Index() > reach && r.Index() < index:
			t.Errorf("entry %d lies between the reach %d of the erasure and its entry %d", r.Index(), reach, index)
		}
	}
}

// stuck is a custodian that holds one call to wrap a subject's key, when told to.
type stuck struct {
	keys.Custodian
	hold    atomic.Bool
	held    chan struct{} // closed when it holds it
	release chan struct{}
}

func (s *stuck) Wrap(ctx context.Context, in []keys.Plain) ([]keys.Wrapped, error) {
	if bytes.Contains(in[0].AD, []byte("\x00subject\x00")) && s.hold.CompareAndSwap(true, false) {
		close(s.held)
		<-s.release
	}
	return s.Custodian.Wrap(ctx, in)
}

func (s *stuck) Close() error { return nil }

// TestErasureDelaysNobodyElse: erasures wait for a request about their people that is stuck while it is recorded; a request about others goes through.
// (The erasure of one person used to hold up every request until then.)
func TestErasureDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	custodian := &stuck{Custodian: keystest.NewCustodian(t), held: make(chan struct{}), release: make(chan struct{})}
	var hold atomic.Bool
	w := newWatched(t, func(c *broker.Config) {
		c.Custodian = custodian
		c.SetAt(func(s string) {
			if s == "provider" && hold.CompareAndSwap(true, false) {
				custodian.hold.Store(true) // the next key is the child's
			}
		})
	})
	w.provider.answer = couple
	asked, err := killPivot("TUE PARTIE").Subject()
	if err != nil {
		t.Fatal(err)
	}
	child, err := proof.Person{BirthName: "TUE PARTIE ENFANT", GivenNames: "NOE", BirthDate: "2015-06-30", Sex: "M"}.Subject()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // shorter than a call to the custodian may take
	defer cancel()
	var wg sync.WaitGroup
	hold.Store(true)
	var late *broker.Answer
	wg.Go(func() {
		if late, err = w.b.Disclose(ctx, w.caller, asker("TUE PARTIE")); err != nil || late.Outcome != broker.Released {
			t.Errorf("the one that was stuck: %+v, %v", late, err)
		}
	})
	<-custodian.held
	var erasures [2]broker.Erasure
	for i, s := range []proof.Subject{asked, child} {
		wg.Go(func() {
			var err error
			if erasures[i], err = w.b.Erase(ctx, s, "rgpd-17"); err != nil {
				t.Errorf("erasing: %v", err)
			}
		})
		for !w.b.Erasing(s) && ctx.Err() == nil {
			runtime.Gosched()
		}
	}
	if a, err := w.b.Disclose(ctx, w.caller, asker("TUE AUTRE")); err != nil || a.Outcome != broker.Released {
		t.Errorf("a request about others: %+v, %v", a, err)
	}
	close(custodian.release)
	wg.Wait()
	if t.Failed() {
		return
	}
	r, err := proof.ParseReceipt(late.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range erasures {
		if e.Reach+1 < r.Index() { // the child's entry may stand before or after the other
			t.Errorf("erasure %d reaches to %d: it didn't wait for entry %d", i, e.Reach, r.Index())
		}
	}
}

// TestErasureOfACoSubjectIsNotTold: while somebody in an answer is being erased nothing can be recorded, and then the agency learns nothing: not that the provider answered, nor that it named somebody who is being
// erased. It can't be told from a log that takes nothing.
func TestErasureOfACoSubjectIsNotTold(t *testing.T) {
	defer broker.SetErasingPatience(50 * time.Millisecond)()
	w := newWatched(t, nil)
	w.provider.answer = couple
	child, err := proof.Person{BirthName: "TUE ENFANT", GivenNames: "NOE", BirthDate: "2015-06-30", Sex: "M"}.Subject()
	if err != nil {
		t.Fatal(err)
	}
	w.b.HoldErasure(child, true)
	req := asker("TUE")
	req.Scopes = []string{"members", "quotient"}
	a, err := w.b.Disclose(t.Context(), w.caller, req)
	p := broker.AsProblem(err)
	if a != nil || err == nil || p.Status != 503 || p.Code != "log.unavailable" || p.Title != "The log can't record this now." || p.RetryAfter != time.Second || strings.Contains(p.Title+p.Detail, "eras") {
		t.Errorf("%+v, problem %+v", a, p)
	}
	if n := len(w.provider.requests()); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
	w.b.HoldErasure(child, false)
	if a := w.finally(req); a.Outcome != broker.Failed || a.Problem.Code != "interrupted" {
		t.Errorf("afterwards: %s, %+v", a.Outcome, a.Problem)
	}
}

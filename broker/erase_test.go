package broker_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
)

func TestErasedDetailsAreGoneAndReceiptsStand(t *testing.T) {
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

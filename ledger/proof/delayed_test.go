package proof_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// newDelayedWorld is a log in which an auditor opened the record of a disclosure
// that was delayed: the access was delayed and opened with it.
func newDelayedWorld() (w *historyWorld, request, access filed) {
	w = &historyWorld{world: emptyWorld("delayed world")}
	w.open()
	request = w.file(proof.KindDeferred, w.alice)
	r := w.record(proof.KindAccess, w.alice)
	access = filed{w.add(proof.Deferred{Authority: "Tribunal judiciaire de Lyon", Article: "CPP art. 60-1", Month: "2027-11", Commitment: r.Commitment()}), w.alice, r}
	w.open()
	request, access = w.opened(request), w.opened(access)
	w.open()
	return w, request, access
}

func TestDelayedAccess(t *testing.T) {
	w, request, access := newDelayedWorld()
	v := verify(t, w, w.history(0, 1, w.alice), proof.HistoryOptions{})
	if len(v.Entries) != 2 || !v.Complete() || v.Deferrals != (proof.Deferrals{Counted: true}) {
		t.Fatalf("%+v", v)
	}
	for i, f := range []filed{request, access} {
		e := v.Entries[i]
		if e.Index != f.index || e.Kind != proof.KindOpened || e.State != proof.RecordOpen || e.Deferred == nil || e.Opening.Schema() != f.record.Schema() || e.Withheld != 0 {
			t.Errorf("%+v", e)
		}
	}
	// While it lasts nothing is in the roll, and both are counted.
	if v := verify(t, w, w.history(0, 0, w.alice), proof.HistoryOptions{}); len(v.Entries) != 0 || v.Deferrals.Pending != 2 {
		t.Errorf("%+v", v)
	}
	// Each opens what was committed to, and not the other.
	h := w.history(0, 1, w.alice)
	x, y := entry(h, request.index), entry(h, access.index)
	x.Opening, y.Opening = y.Opening, x.Opening
	if _, err := h.Verify(w.policy, proof.HistoryOptions{}); !errors.Is(err, proof.ErrUnproven) || !strings.Contains(err.Error(), "another record") {
		t.Errorf("swapped: %v", err)
	}
	settled := w.receipt(access, proof.ReaderPerson, []int{0, 1}, true)
	if v, err := settled.Verify(w.policy, proof.VerifyOptions{}); err != nil || v.State != proof.Settled || v.Kind != proof.KindOpened {
		t.Errorf("%+v, %v", v, err)
	}
	if again, err := proof.ParseReceipt(text(t, settled)); err != nil || again.Opening().Text(proof.AccessReader) != "auditor-7" {
		t.Errorf("%v", err)
	}
}

func TestKindTakes(t *testing.T) {
	for _, k := range proof.Kinds() {
		for s := range proof.Schema(5) {
			want := map[proof.Kind]bool{
				proof.KindDisclosure: s == proof.SchemaDisclosure, proof.KindAccess: s == proof.SchemaAccess, proof.KindErasure: s == proof.SchemaErasure,
				proof.KindDeferred: s == proof.SchemaDisclosure || s == proof.SchemaAccess, proof.KindOpened: s == proof.SchemaDisclosure || s == proof.SchemaAccess,
			}[k]
			if k.Takes(s) != want {
				t.Errorf("%s, schema %d: %v", k, s, !want)
			}
		}
	}
	// An erasure is never delayed.
	w, request, _ := newDelayedWorld()
	r := w.record(proof.KindErasure, w.alice)
	i := w.add(proof.Deferred{Authority: "a", Article: "b", Month: "2027-11", Commitment: r.Commitment()})
	if _, err := proof.NewReceipt(w.proven(i, len(w.texts)), r.Open(proof.ReaderPerson), w.checkpoint(len(w.texts)), nil); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("an erasure that is delayed: %v", err)
	}
	if _, err := proof.NewReceipt(w.proven(request.index, len(w.texts)), r.Open(proof.ReaderPerson), w.checkpoint(len(w.texts)), nil); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("an erasure that was delayed: %v", err)
	}
}

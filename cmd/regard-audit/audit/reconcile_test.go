package audit

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// TestReconcileDelay: what a holder has of a delay, when its month is over.
func TestReconcileDelay(t *testing.T) {
	began := &proof.Deferred{Authority: "Tribunal", Article: "CPP art. 60-1", Month: "2020-01", Commitment: proof.Commitment{1}}
	ended := proof.Opened{Deferred: 7, Commitment: proof.Commitment{1}}
	for name, c := range map[string]struct {
		held heldLine
		d    delay
		want string
	}{
		"ended":              {heldLine{State: "settled"}, delay{began, []proof.Opened{ended}}, ""},
		"ended, then erased": {heldLine{State: "accepted", Erased: []uint64{7}}, delay{began, []proof.Opened{ended}}, ""},
		"not ended":          {heldLine{State: "witnessed"}, delay{began, nil}, "delay.overdue"},
		"not ended, and a person has accepted it":   {heldLine{State: "accepted"}, delay{began, nil}, ""},
		"not ended, and they are said to be erased": {heldLine{State: "accepted", Erased: []uint64{7}}, delay{began, nil}, "delay.overdue"},
		"ended twice":               {heldLine{}, delay{began, []proof.Opened{ended, ended}}, "delay.twice"},
		"ended with something else": {heldLine{}, delay{began, []proof.Opened{{Deferred: 7}}}, "delay.other"},
		"held since it ended":       {heldLine{}, delay{nil, []proof.Opened{ended}}, ""},
	} {
		r := &reconciler{now: proof.TimeOf(time.Date(2020, 2, 1, 0, 0, 0, 0, time.UTC)), out: reconciled{Counts: map[string]int{}}}
		r.delay(&c.held, 7, c.d)
		if c.want == "" && len(r.out.Counts) > 0 || c.want != "" && r.out.Counts[c.want] != 1 {
			t.Errorf("%s: found %v, want %q", name, r.out.Counts, c.want)
		}
	}
}

// TestReconcileLaterType: a log that ends with an entry of a later version is compared all the same.
func TestReconcileLaterType(t *testing.T) {
	f := newForged(t)
	at := f.record(proof.SchemaDisclosure, func(r *proof.Record) error {
		return errors.Join(r.SetText(proof.DisclosureID, "01a20ac2-88da-7d36-98b8-e03e4bb98177"), r.SetText(proof.DisclosureRole, proof.RoleAsked))
	})
	f.close(alone(f.filed()), nil)
	f.entries = append(f.entries, []byte("regard/later@v1\nepoch 1\nwhatever it says\n"))
	f.publish()
	var o openedEntry
	b, err := os.ReadFile(f.opened(at))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	line, err := json.Marshal(heldLine{ID: "01a20ac2-88da-7d36-98b8-e03e4bb98177", Role: "agency", State: "witnessed", Receipts: []string{o.Receipt}})
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs := run("reconcile", "--json", "--log", f.dir, "--log-key", f.vkey, write(t, t.TempDir(), "held", string(line)+"\n"))
	var got reconciled
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	// Epoch 0 is closed by what the last entry says, so its receipt has to be settled.
	if code != Input || got.TreeSize != uint64(len(f.entries)) || len(got.Counts) != 1 || got.Counts["receipt.unsettled"] != 1 {
		t.Errorf("exit code %d, %+v, %s", code, got, errs)
	}
}

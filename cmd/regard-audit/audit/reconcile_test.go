package audit

import (
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

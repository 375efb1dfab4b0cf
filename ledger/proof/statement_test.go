package proof_test

import (
	"crypto/rand"
	"regexp"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// TestStatementCode: whatever a printed list shows changes the code.
func TestStatementCode(t *testing.T) {
	if got := (&proof.HistoryVerdict{}).StatementCode(); got != "" {
		t.Errorf("of nothing: %q", got)
	}
	rec := func(agency string) proof.Opening {
		r, err := proof.NewRecord(proof.SchemaDisclosure, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.SetText(proof.DisclosureAgency, agency); err != nil {
			t.Fatal(err)
		}
		return r.Open(proof.ReaderPerson)
	}
	make := func() *proof.HistoryVerdict {
		return &proof.HistoryVerdict{State: proof.Witnessed, Origin: "log.example", Epochs: proof.EpochRange{From: 1, To: 2}, Entries: []proof.VerifiedEntry{
			{Index: 7, Kind: proof.KindDisclosure, Opening: rec("mairie")}, {Index: 9, Kind: proof.KindErasure}}}
	}
	first := make().StatementCode()
	if !regexp.MustCompile(`^([A-Z2-7]{4}-){4}[A-Z2-7]{4}$`).MatchString(first) {
		t.Fatal(first)
	}
	// The code is part of the format: others compute it, too.
	if want := "RDEN-YFWM-C3JT-LWU3-4SKO"; first != want {
		t.Errorf("%s, want %s", first, want)
	}
	seen := map[string]string{first: "as it is"}
	for name, change := range map[string]func(*proof.HistoryVerdict){
		"another log":      func(v *proof.HistoryVerdict) { v.Origin = "log.other" },
		"other epochs":     func(v *proof.HistoryVerdict) { v.Epochs.To = 3 },
		"another agency":   func(v *proof.HistoryVerdict) { v.Entries[0].Opening = rec("crous") },
		"another entry":    func(v *proof.HistoryVerdict) { v.Entries[0].Index = 8 },
		"another kind":     func(v *proof.HistoryVerdict) { v.Entries[1].Kind = proof.KindAccess },
		"one entry fewer":  func(v *proof.HistoryVerdict) { v.Entries = v.Entries[:1] },
		"nothing is shown": func(v *proof.HistoryVerdict) { v.Entries[0].Opening = proof.Opening{} },
	} {
		v := make()
		change(v)
		got := v.StatementCode()
		if was, known := seen[got]; known {
			t.Errorf("%s has the code of %s", name, was)
		}
		seen[got] = name
	}
	provisional := make()
	provisional.State, provisional.Size = proof.Provisional, 99
	if provisional.StatementCode() != first {
		t.Error("a newer checkpoint over the same entries changes the code")
	}
}

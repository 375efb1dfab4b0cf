package audit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	server "github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// TestDelay: what an auditor and whoever holds a receipt do about a real broker's delayed request, while it lasts and afterwards.
func TestDelay(t *testing.T) {
	r := newReal(t)
	if _, err := r.b.PutAgreement(t.Context(), policy.Agreement{
		ID: "enquete", Agency: policy.AgencyID(r.agency.ID), Service: "household", Scopes: []policy.Scope{"quotient"}, Purposes: []policy.Purpose{"enquete"}, LegalBases: []policy.LegalBasis{"cpp-60-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 24 * time.Hour),
		Deferral: &policy.Deferral{Authority: "Tribunal judiciaire d'Exempleville", Article: "CPP art. 60-1", Reference: "2026/118", Days: 40},
	}); err != nil {
		t.Fatal(err)
	}
	a := r.ask("Exemple", func(q *server.Request) { q.Purpose, q.LegalBasis, q.Agreement = "enquete", "cpp-60-1", "enquete" })
	if a.Outcome != server.Released {
		t.Fatalf("%+v", a)
	}
	verify := func(receipt []byte, want ...string) {
		t.Helper()
		code, out, errs := run("verify", "--log-key", r.logKey, write(t, t.TempDir(), "r.receipt", string(receipt)))
		for _, w := range want {
			if code != Proven || !strings.Contains(out, w) {
				t.Errorf("exit code %d, no %q in\n%s%s", code, w, out, errs)
			}
		}
	}
	verify(a.Receipt, "A law delays that the person learns of it: CPP art. 60-1, by Tribunal judiciaire d'Exempleville. The delay has to end by the end of "+a.AskedAt.UTC().AddDate(0, 0, 40).Format("2006-01"),
		"that the person will see it: they are told by the entry that ends the delay")
	known := append(r.flags(), "--reason", "control")
	opened := func(states ...string) string {
		t.Helper()
		code, out, errs := run(append([]string{"open", "--from", "0", "--to", fmt.Sprint(r.b.Log().Checkpoint().Size() - 1)}, known...)...)
		for _, s := range states {
			if code != 0 || !strings.Contains(out, s) {
				t.Fatalf("exit code %d, no %s in\n%s%s", code, s, out, errs)
			}
		}
		return write(t, t.TempDir(), "records.jsonl", out)
	}
	replayed := func(file string, decisions int) {
		t.Helper()
		code, out, errs := run("replay", "--log", r.public, "--log-key", r.logKey, file)
		if code != Proven || !strings.Contains(out, fmt.Sprintf("%d decisions run again under 1 bundle: 0 differ, 0 could not be run", decisions)) {
			t.Errorf("exit code %d, %s%s", code, out, errs)
		}
		if code, out, errs := run("export", "--ldv", "--log-key", r.logKey, file); code != 0 || !strings.Contains(out, "household@1") {
			t.Errorf("export: exit code %d, %s%s", code, out, errs)
		}
	}
	replayed(opened(`"kind":"deferred@v1","state":"open"`), 2)
	if n, err := r.b.EndDeferral(t.Context(), a.ID, "lifted"); err != nil || n != 4 { // two entries, two accesses
		t.Fatal(n, err)
	}
	replayed(opened(`"kind":"deferred@v1","state":"opened","code":"record.opened","opened":`, `"kind":"opened@v1","state":"open"`), 2)
	again, err := r.b.Disclosure(t.Context(), r.agency, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	first, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	verify(again.Receipt, fmt.Sprintf("It ends the delay of the entry at index %d", first.Index()))
}

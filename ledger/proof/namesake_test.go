package proof_test

import (
	"crypto/rand"
	"slices"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// TestForSubject: what may be a namesake's is shown in outline only, whatever the record; under every other subject the person sees what the table of formats.md says.
func TestForSubject(t *testing.T) {
	few := map[proof.Schema][]string{
		proof.SchemaDisclosure: {"subject_type", "subject", "agency", "service", "asked_at"},
		proof.SchemaAccess:     {"subject_type", "subject", "reader", "role", "target", "at"},
	}
	for _, schema := range []proof.Schema{proof.SchemaDisclosure, proof.SchemaAccess, proof.SchemaErasure} {
		rec, err := proof.NewRecord(schema, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		whole := rec.Open(proof.ReaderPerson | proof.ReaderAgency | proof.ReaderProvider | proof.ReaderAuditor)
		all := rec.Open(proof.ReaderPerson)
		for _, typ := range []proof.SubjectType{proof.TypePivot, proof.TypePerson, proof.TypeNIR, proof.TypeSIREN} {
			o := all.ForSubject(typ)
			if o.Commitment() != whole.Commitment() {
				t.Fatalf("schema %d, %s: another commitment", schema, typ)
			}
			for _, f := range schema.Fields() {
				want := proof.ReaderPerson.Sees(schema, f.Field)
				if list, limited := few[schema]; limited && typ == proof.TypePerson {
					want = slices.Contains(list, f.Name)
				}
				if _, p := o.Value(f.Field); (p != proof.Hidden) != want {
					t.Errorf("schema %d, %s: %s is shown: %v", schema, typ, f.Name, !want)
				}
			}
		}
	}
	if !(proof.Opening{}).ForSubject(proof.TypePivot).IsZero() {
		t.Error("of nothing, something")
	}
}

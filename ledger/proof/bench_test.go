package proof_test

import (
	"crypto/rand"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

func BenchmarkRecord(b *testing.B) {
	s := must(proof.SIREN("130025265"))
	rnd := &detRand{seed: "bench"}
	b.Run("NewSetCommit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			disclosureRecord(rnd, s).Commitment()
		}
	})
	// The target is for the commitment of a filled record.
	b.Run("Commitment", func(b *testing.B) {
		r := disclosureRecord(rnd, s)
		b.ReportAllocs()
		for b.Loop() {
			r.SetText(proof.DisclosureOutcome, proof.OutcomeEmpty) // the digests are kept until a field changes
			r.Commitment()
		}
	})
	b.Run("New", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			must(proof.NewRecord(proof.SchemaDisclosure, rand.Reader))
		}
	})
	b.Run("Parts", func(b *testing.B) {
		r := disclosureRecord(rnd, s)
		r.Commitment()
		b.ReportAllocs()
		for b.Loop() {
			r.AppendPersonPart(nil)
			r.AppendAdminPart(nil)
		}
	})
	b.Run("Open", func(b *testing.B) {
		r := disclosureRecord(rnd, s)
		b.ReportAllocs()
		for b.Loop() {
			r.Open(proof.ReaderAgency)
		}
	})
}

func BenchmarkLabel(b *testing.B) {
	k := must(proof.NewLabelKey(rand.Reader))
	s := must(proof.Pivot{BirthName: "Lefèvre", GivenNames: "Anne Élise", BirthDate: "1987-04-30", Sex: "F", BirthPlace: "75056"}.Subject())
	_, p := k.Prove(s, 812)
	b.Run("Label", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k.Label(s, 812)
		}
	})
	b.Run("Prove", func(b *testing.B) {
		for b.Loop() {
			k.Prove(s, 812)
		}
	})
	b.Run("Verify", func(b *testing.B) {
		for b.Loop() {
			must(proof.VerifyLabel(k.Public(), s, 812, p))
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	// A path as long as in a log of a billion entries: the tree is made of the
	// one entry's siblings.
	w := newWorld()
	size := len(w.texts)
	cp := w.verified(size, 0, 1)
	one := []proof.Proven{w.proven(2, size)}
	b.ReportAllocs()
	for b.Loop() {
		must(proof.Verify(cp, one))
	}
}

func BenchmarkReceiptVerify(b *testing.B) {
	w := newWorld()
	f := w.at(w.alice, 0)
	for _, c := range []struct {
		name      string
		cosigners []int
		settled   bool
	}{{"provisional", nil, false}, {"witnessed", []int{0, 1, 2}, false}, {"settled", []int{0, 1, 2}, true}} {
		text := must(w.receipt(f, proof.ReaderPerson, c.cosigners, c.settled).AppendText(nil))
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				must(must(proof.ParseReceipt(text)).Verify(w.policy, proof.VerifyOptions{AllowProvisional: true}))
			}
		})
	}
}

func BenchmarkRoll(b *testing.B) {
	indexes := []proof.Index{1, 5, 9}
	z := proof.Label(hashOf("z"))
	b.ReportAllocs()
	for b.Loop() {
		must(proof.NewRoll(hashOf("s"), z, indexes))
	}
}

func BenchmarkSubject(b *testing.B) {
	p := proof.Pivot{BirthName: "Lefèvre", GivenNames: "Anne Élise", BirthDate: "1987-04-30", Sex: "F", BirthPlace: "75056"}
	b.ReportAllocs()
	for b.Loop() {
		must(p.Subject())
	}
}

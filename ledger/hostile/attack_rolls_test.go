package hostile_test

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
)

// Attacks on whose roll an entry is in (G3).
var rollAttacks = []attack{
	{
		name: "leaves an entry out of the person's roll, and settles its receipt with the place of another",
		cheat: func(s *scene) {
			s.o.Rolls = func(_ *hostile.Operator, e *hostile.Epoch) { s.move(e, s.income, nil) }
			s.settle(func(e *hostile.Epoch) *proof.Settlement {
				lp, z := s.o.LabelProof(e, s.alice)
				return &proof.Settlement{LabelProof: lp, Leaf: must(e.Rolls[z].Leaf(s.cantine.Index))}
			})
		},
		rows: []row{
			agencyVerifies.says(atClose, "the entry is not in the subject's roll"),
			providerVerifies.says(atClose, "the entry is not in the subject's roll"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			personHistory.neverSays(whole),
			anybodyChecks.neverSays(noIdentities),
			auditorChecks.says(atClose, "entry.unfiled"),
		},
	},
	{
		name: "leaves an entry out of the person's roll, and never settles its receipt",
		cheat: func(s *scene) {
			s.o.Rolls = func(_ *hostile.Operator, e *hostile.Epoch) { s.move(e, s.income, nil) }
		},
		rows: []row{
			agencyKeeps.says(later, "receipts.unsettled").ifOnly("the age that they set is over (here 30 hours)"),
			providerGuards.says(later, "receipts.unsettled").ifOnly("the age that they set is over (here 30 hours)"),
			agencyVerifies.neverSays("the receipt is good as far as it goes: whoever reads it has to know that its epoch was closed long ago"),
			personHistory.neverSays(whole),
			auditorChecks.says(atClose, "entry.unfiled"),
		},
	},
	{
		name: "files an entry under another person",
		cheat: func(s *scene) {
			s.o.Rolls = func(_ *hostile.Operator, e *hostile.Epoch) {
				z := e.Key.Label(s.bob, e.Number)
				s.move(e, s.income, &z)
			}
			s.settle(func(e *hostile.Epoch) *proof.Settlement {
				lp, z := s.o.LabelProof(e, s.bob)
				return &proof.Settlement{LabelProof: lp, Leaf: must(e.Rolls[z].Leaf(s.income.Index))}
			})
		},
		rows: []row{
			agencyVerifies.says(atClose, "the VRF proof does not hold for this subject"),
			providerVerifies.says(atClose, "the VRF proof does not hold for this subject"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			otherHistory.says(atClose, "filed under subject 0, about somebody else"),
			personHistory.neverSays(whole),
			auditorChecks.neverSays(whose),
		},
	},
	{
		name: "files an entry under a label that is nobody's",
		cheat: func(s *scene) {
			z := proof.Label(sha256.Sum256([]byte("nobody")))
			s.o.Rolls = func(_ *hostile.Operator, e *hostile.Epoch) { s.move(e, s.income, &z) }
			s.settle(func(e *hostile.Epoch) *proof.Settlement {
				lp, _ := s.o.LabelProof(e, s.alice)
				return &proof.Settlement{LabelProof: lp, Leaf: must(e.Rolls[z].Leaf(s.income.Index))}
			})
		},
		rows: []row{
			agencyVerifies.says(atClose, "the entry is not in the subject's roll"),
			providerVerifies.says(atClose, "the entry is not in the subject's roll"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			personHistory.neverSays(whole),
			auditorChecks.neverSays(whose),
		},
	},
	{
		name: "makes two rolls for one person, the second by another VRF key",
		cheat: func(s *scene) {
			second := must(proof.NewLabelKey(s.rand))
			s.o.Rolls = func(_ *hostile.Operator, e *hostile.Epoch) {
				z := second.Label(s.alice, e.Number)
				s.move(e, s.income, &z)
			}
			s.settle(func(e *hostile.Epoch) *proof.Settlement {
				lp, _ := s.o.LabelProof(e, s.alice)
				z, vrf := second.Prove(s.alice, e.Number)
				lp.VRFProof = vrf
				lp.Bucket, lp.BucketPath = e.Bucket(z)
				return &proof.Settlement{LabelProof: lp, Leaf: must(e.Rolls[z].Leaf(s.income.Index))}
			})
		},
		rows: []row{
			agencyVerifies.says(atClose, "the VRF proof does not hold for this subject, epoch and key"),
			providerVerifies.says(atClose, "the VRF proof does not hold for this subject, epoch and key"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			personHistory.neverSays(whole),
			auditorChecks.neverSays(whose),
		},
	},
	{
		name: "shows person and holders different rolls: a second index of the same epoch",
		cheat: func(s *scene) {
			var whole *hostile.Epoch // the index that the holders are shown, which isn't the marker's
			s.o.Rolls = func(o *hostile.Operator, e *hostile.Epoch) {
				if s.inEpoch(e, s.income) {
					whole = s.honestly(o)
				}
				s.move(e, s.income, nil)
			}
			s.settle(func(e *hostile.Epoch) *proof.Settlement {
				lp, z := s.o.LabelProof(e, s.alice)
				lp.Bucket, lp.BucketPath = whole.Bucket(z)
				return &proof.Settlement{LabelProof: lp, Leaf: must(whole.Rolls[z].Leaf(s.income.Index))}
			})
		},
		rows: []row{
			agencyVerifies.says(atClose, "bucket: not in the index"),
			providerVerifies.says(atClose, "bucket: not in the index"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			personHistory.neverSays(whole),
			auditorChecks.says(atClose, "entry.unfiled"),
		},
	},
}

// Attacks that need the index itself to be wrong.
var indexAttacks = []attack{
	{
		name: "makes two rolls for one person under her one label",
		cheat: func(s *scene) {
			s.o.Rolls = func(_ *hostile.Operator, e *hostile.Epoch) { s.move(e, s.income, nil) }
			s.o.Buckets = func(_ *hostile.Operator, e *hostile.Epoch) {
				if !s.inEpoch(e, s.income) {
					return
				}
				z := e.Key.Label(s.alice, e.Number)
				second := must(proof.NewRoll(e.Seed, z, []proof.Index{s.income.Index})).Root()
				leaf := &e.Buckets[z.BucketNumber(e.Bits)]
				at := bytes.Index(*leaf, z[:])
				*leaf = slices.Insert(*leaf, at, slices.Concat(z[:], second[:])...)
			}
			s.settle(func(e *hostile.Epoch) *proof.Settlement {
				lp, z := s.o.LabelProof(e, s.alice)
				return &proof.Settlement{LabelProof: lp, Leaf: must(must(proof.NewRoll(e.Seed, z, []proof.Index{s.income.Index})).Leaf(s.income.Index))}
			})
		},
		rows: []row{
			agencyVerifies.says(atClose, "bucket: not in the index"),
			providerVerifies.says(atClose, "bucket: not in the index"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			personHistory.says(atClose, "the buckets are not in the index"),
			anybodyChecks.says(atClose, "index.bucket"),
			anybodyFollows.says(atClose, "index.bucket"),
			auditorChecks.says(atClose, "entry.unfiled"),
		},
	},
}

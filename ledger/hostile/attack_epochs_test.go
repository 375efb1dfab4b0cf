package hostile_test

import (
	"crypto/sha256"

	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
)

// Attacks on epochs and their markers (G3).
var markerAttacks = []attack{
	{
		name: "logs two markers for one epoch: the person is shown the index of the one, the holders that of the other",
		cheat: func(s *scene) {
			var whole *hostile.Epoch
			var second proof.Index
			s.o.Rolls = func(o *hostile.Operator, e *hostile.Epoch) {
				if s.inEpoch(e, s.income) {
					whole = s.honestly(o)
				}
				s.move(e, s.income, nil)
			}
			s.o.Turned = func(o *hostile.Operator, e *hostile.Epoch) {
				if !s.inEpoch(e, s.income) {
					return
				}
				m := must(proof.ParseEntry(o.Text(e.Closer))).(proof.Marker)
				c := *m.Closed
				c.Index, c.Size, c.Counts = whole.Root(), c.Size+1, more(c.Counts, proof.KindDisclosure)
				m.Closed = &c
				second = o.AppendMarker(m)
			}
			s.o.Marker = func(_ *hostile.Operator, m *proof.Marker) {
				if c := m.Closed; c != nil && second > c.First && second < m.At() { // of the next epoch, in which the second one stands
					c.Counts = more(c.Counts, proof.KindDisclosure)
					for i := range c.Counts {
						if c.Counts[i].Kind == proof.KindEpoch {
							c.Counts[i].N--
						}
					}
				}
			}
			s.settle(func(e *hostile.Epoch) *proof.Settlement {
				lp, z := s.o.LabelProof(e, s.alice)
				lp.Marker = s.o.Proven(second, s.o.Size())
				lp.Bucket, lp.BucketPath = whole.Bucket(z)
				return &proof.Settlement{LabelProof: lp, Leaf: must(whole.Rolls[z].Leaf(s.income.Index))}
			})
		},
		rows: []row{
			anybodyChecks.says(atClose, "marker.order"),
			agencyVerifies.neverSays("a receipt speaks of one marker; that there is no second one is seen by who reads the whole log"),
			personHistory.neverSays("a history speaks of one chain of markers; that there is no second one is seen by who reads the whole log"),
			anybodyFollows.says(atClose, "marker.order"),
			auditorChecks.says(atClose, "markers don't follow each other"),
		},
	},
	{
		name:  "back-dates an entry into a closed epoch",
		cheat: func(s *scene) { s.date(-1) },
		rows: []row{
			agencyVerifies.says(atClose, "the entry says another epoch than the markers"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			anybodyChecks.says(atOnce, "entry.epoch"),
			personHistory.says(atClose, "it says epoch 1 and stands in another"),
			anybodyFollows.says(atOnce, "entry.epoch"),
			auditorChecks.says(atClose, "entry.epoch"),
		},
	},
	{
		name:  "post-dates an entry into an epoch that isn't open yet",
		cheat: func(s *scene) { s.date(+1) },
		rows: []row{
			agencyVerifies.says(atClose, "the entry says another epoch than the markers"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			anybodyChecks.says(atOnce, "entry.epoch"),
			personHistory.says(atClose, "it says epoch 3 and stands in another"),
			anybodyFollows.says(atOnce, "entry.epoch"),
			auditorChecks.says(atClose, "entry.epoch"),
		},
	},
	{
		name: "states a wrong index root in a marker",
		cheat: func(s *scene) {
			s.o.Marker = func(_ *hostile.Operator, m *proof.Marker) {
				if s.income != nil && m.Closed != nil && m.At() > s.income.Index && s.income.Index > m.Closed.First {
					m.Closed.Index = sha256.Sum256([]byte("another"))
				}
			}
		},
		rows: []row{
			agencyVerifies.says(atClose, "bucket: not in the index"),
			providerVerifies.says(atClose, "bucket: not in the index"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			personHistory.says(atClose, "the buckets are not in the index"),
			anybodyChecks.says(atClose, "index.root"),
			anybodyFollows.says(atClose, "index.root"),
			auditorChecks.says(atClose, "index.root"),
		},
	},
	{
		name: "publishes a false VRF key in a marker",
		cheat: func(s *scene) {
			false := must(proof.NewLabelKey(s.rand))
			s.o.Marker = func(_ *hostile.Operator, m *proof.Marker) {
				if m.Epoch == 2 {
					m.VRF = false.Public()
				}
			}
		},
		rows: []row{
			agencyVerifies.says(atClose, "the VRF proof does not hold for this subject, epoch and key"),
			providerVerifies.says(atClose, "the VRF proof does not hold for this subject, epoch and key"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			personHistory.says(atClose, "the VRF proof does not hold"),
			anybodyChecks.says(atClose, "marker.key"),
			anybodyFollows.says(atClose, "marker.key"),
		},
	},
}

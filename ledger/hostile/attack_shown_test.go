package hostile_test

import (
	"slices"

	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
)

// Attacks on what a person is shown of a log that is in order (G3, G7).
var shownAttacks = []attack{
	{
		name:  "leaves an entry out of the history that its person gets",
		cheat: func(s *scene) { s.doctor(func(h *proof.History) { s.drop(h, s.income.Index) }) },
		rows:  []row{personHistory.says(atClose, "(epoch 2): in a roll, and left out")},
	},
	{
		name: "leaves it out there and opens one leaf less of the roll",
		cheat: func(s *scene) {
			s.doctor(func(h *proof.History) {
				s.drop(h, s.income.Index)
				r := &h.Epochs[2].Rolls[0]
				r.Leaves = must(proof.NewRoll([32]byte{}, proof.Label{}, []proof.Index{s.cantine.Index})).Open()
			})
		},
		rows: []row{personHistory.says(atClose, "epoch 2: subject 0: the leaves are not the roll in the index")},
	},
	{
		name: "says that the person has no roll in that epoch",
		cheat: func(s *scene) {
			s.doctor(func(h *proof.History) {
				s.drop(h, s.income.Index)
				s.drop(h, s.cantine.Index)
				h.Epochs[2].Rolls[0].Leaves = nil
				z := s.o.Epochs[2].Key.Label(s.alice, 2)
				h.Epochs[2].Buckets[0] = slices.DeleteFunc(slices.Clone(h.Epochs[2].Buckets[0]), func(i proof.Item) bool { return i.Label == z })
			})
		},
		rows: []row{personHistory.says(atClose, "epoch 2: the buckets are not in the index")},
	},
	{
		name: "leaves the epoch out",
		cheat: func(s *scene) {
			s.doctor(func(h *proof.History) {
				s.drop(h, s.income.Index)
				s.drop(h, s.cantine.Index)
				h.Markers = slices.Delete(slices.Clone(h.Markers), 2, 3)
				h.Epochs = slices.Delete(slices.Clone(h.Epochs), 2, 3)
			})
		},
		rows: []row{personHistory.says(atClose, "epoch 2: skipped, no marker opens it")},
	},
	{
		name: "replays old checkpoints: whoever asks gets the log as it was before the deed",
		cheat: func(s *scene) {
			s.beforeDeed(func(old *hostile.Operator) {
				view := func() *hostile.Operator { return old }
				s.person, s.public = view, view
			})
		},
		rows: []row{
			row{who: "the person", tool: "`regard-audit verify-history --max-age`", detector: each(stale), after: later, wants: "the root is of", presupposes: "they set how old a root may be (here 30 hours)"},
			anybodyFollows.says(atClose, "log.stalled").ifOnly("the end of the epoch is late by the set time (10 minutes)"),
		},
	},
	{
		name: "claims that a record was erased",
		cheat: func(s *scene) {
			s.o.Record = func(_ *hostile.Operator, f *hostile.Filing, reader proof.Reader) *proof.Record {
				if f == s.income && reader == proof.ReaderPerson {
					return must(proof.OpenParts(nil, f.Record.AppendAdminPart(nil)))
				}
				return f.Record
			}
		},
		rows: []row{personHistory.says(atClose, "no erasure, end of retention or loss in the log explains that")},
	},
	{
		name: "says nothing of a record, as if its retention had ended",
		cheat: func(s *scene) {
			s.o.Record = func(_ *hostile.Operator, f *hostile.Filing, reader proof.Reader) *proof.Record {
				if f == s.income && reader == proof.ReaderPerson {
					return nil
				}
				return f.Record
			}
		},
		rows: []row{personHistory.says(atClose, "neither an end of retention nor a loss in the log explains that")},
	},
}

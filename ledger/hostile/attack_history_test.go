package hostile_test

import (
	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
)

// Attacks on the one history (G2).
var checkpointAttacks = []attack{
	{
		name: "forks the log: the person and the holders are shown different histories",
		cheat: func(s *scene) {
			var fork *hostile.Operator
			s.beforeDeed(func(f *hostile.Operator) {
				fork = f
				fork.Cheats = hostile.Cheats{}
				fork.File(&hostile.Filing{Kind: proof.KindDisclosure, Subject: s.bob, Record: s.disclosure(s.mairie(), s.bob)}) // in the place of the deed
				s.person = func() *hostile.Operator { fork.Now = s.o.Now; return fork }
			})
			s.o.Turned = func(o *hostile.Operator, _ *hostile.Epoch) {
				if fork != nil {
					fork.Now = o.Now
					fork.Turn()
				}
			}
		},
		rows: []row{
			{who: "the person", tool: "`regard-audit verify-history --compare`", detector: each(compare), after: atClose, wants: "two markers", presupposes: "they have a second file, fetched by another way or at another time"},
			quorum.says(atOnce, "the second history gets 1 cosignatures, too few for a quorum"),
			brokenQuorum.neverSays("if 2k − n ≤ f (here 2 of 3, one of them dishonest), both histories get a quorum"),
			personHistory.neverSays(twoBranches),
			agencyVerifies.neverSays(twoBranches),
			followsAll.says(atOnce, "log.fork"),
		},
	},
	{
		name: "serves different checkpoints to different clients: the public log is another than the one in the receipts",
		cheat: func(s *scene) {
			var fork *hostile.Operator
			s.beforeDeed(func(f *hostile.Operator) {
				fork = f
				fork.Cheats = hostile.Cheats{}
				for range 20 { // so that it is no smaller than the log in the receipt
					fork.File(&hostile.Filing{Kind: proof.KindDisclosure, Subject: s.bob, Record: s.disclosure(s.mairie(), s.bob)})
				}
				s.public = func() *hostile.Operator { fork.Now = s.o.Now; return fork }
			})
		},
		rows: []row{
			{who: "whoever holds a receipt", tool: "`regard-audit fsck --checkpoint`", detector: each(checkKept), after: atOnce, wants: "checkpoint.history", presupposes: "they compare the log that everybody is served with the checkpoint in the receipt"},
			quorum.says(atOnce, "the second history gets 1 cosignatures, too few for a quorum"),
			anybodyChecks.neverSays(twoBranches),
			followsAll.says(atOnce, "log.fork"),
			providerCounts.says(atOnce, "log.fork"),
		},
	},
	{
		name: "drops the witnesses: signs checkpoints that no quorum has seen",
		cheat: func(s *scene) {
			dropped := false
			s.o.Cheats.File = func(_ *hostile.Operator, f *hostile.Filing) bool {
				dropped = dropped || s.isDeed(f.Subject)
				return true
			}
			s.o.Cosigners = func(_ *hostile.Operator, all []*hostile.Cosigner) []*hostile.Cosigner {
				if dropped {
					return all[:1]
				}
				return all
			}
		},
		rows: []row{
			agencyVerifies.says(atOnce, "the quorum of witnesses is missing"),
			personVerifies.says(atOnce, "the quorum of witnesses is missing"),
			agencyKeeps.says(atAge, "receipts.overdue").ifOnly("the age that they set is over (here an hour)"),
			providerGuards.says(atAge, "receipts.overdue").ifOnly("the age that they set is over (here an hour)"),
			personHistory.says(atOnce, "the quorum of witnesses is missing"),
			anybodyChecks.says(atOnce, "checkpoint.unwitnessed"),
			anybodyFollows.says(atAge, "quorum.missing").ifOnly("the quorum has been missing for the set time (10 minutes)"),
		},
	},
}

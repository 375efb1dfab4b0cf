package hostile_test

import (
	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// Attacks on what the law allows (G3, G7).
var lawAttacks = []attack{
	{
		name:  "defers for ever: doesn't end a lawful delay in its month",
		cheat: func(s *scene) { s.mute = true },
		rows: []row{
			anybodyChecks.says(atClose, "deferred.overdue").ifOnly("the month is over, here when the epoch closes; it is seen that a delay is overdue, not whose"),
			{who: "the person", tool: "`regard-audit verify-history`", detector: each(overdue), after: atClose, wants: "1 delays are overdue", presupposes: historyIsFetched,
				assuming: "the month is over, here when the epoch closes; it is seen that a delay is overdue, not whose"},
			anybodyFollows.says(atClose, "deferred.overdue").ifOnly("the month is over, here when the epoch closes; it is seen that a delay is overdue, not whose"),
		},
	},
	{
		name: "ends a delay with something else than what was deferred",
		cheat: func(s *scene) {
			s.o.Cheats.File = func(_ *hostile.Operator, f *hostile.Filing) bool {
				if f.Kind == proof.KindOpened {
					f.Record = s.aid.Record
				}
				return true
			}
		},
		rows: []row{
			anybodyChecks.says(atOnce, "opened.reference"),
			anybodyFollows.says(atOnce, "opened.reference"),
			auditorReplays.says(atOnce, "of another entry, or of none"),
			{who: "the person", tool: "`regard-audit verify-history`", detector: otherHistory.detector, after: atClose, wants: "it ends a delay of something else", presupposes: historyIsFetched},
		},
	},
	{
		name: "defers without an agreement that says so",
		cheat: func(s *scene) {
			s.o.Cheats.File = func(o *hostile.Operator, f *hostile.Filing) bool {
				if s.isDeed(f.Subject) && f.Kind == proof.KindDisclosure {
					f.Kind, f.Month = proof.KindDeferred, o.Now.AddDate(0, 2, 0).Format("2006-01")
				}
				return true
			}
		},
		rows: []row{
			auditorReplays.says(atOnce, "delay"),
			agencyVerifies.says(atOnce, "names no agreement that has a delay"),
			agencyKeeps.says(atOnce, "delay.other"),
			providerGuards.neverSays(anyDelay),
			anybodyChecks.neverSays(anyDelay),
			personHistory.neverSays("they are told later: that some are, and how many, every verdict says"),
		},
	},
	{
		name: "claims an erasure before a delay ends, so that nobody waits for its end",
		cheat: func(s *scene) {
			agreed := *s.brigade().agreement.Deferral
			agreed.Days = 60
			s.bend = func(a *asker) { a.agreement.Deferral = &agreed }
			s.o.Cheats.File = func(o *hostile.Operator, f *hostile.Filing) bool {
				if s.isDeed(f.Subject) && f.Kind == proof.KindDisclosure {
					f.Kind, f.Month = proof.KindDeferred, agreed.Month(o.Now)
				}
				return true
			}
			s.o.Record = func(_ *hostile.Operator, f *hostile.Filing, reader proof.Reader) *proof.Record {
				if f == s.income && s.at >= atOnce {
					return must(proof.OpenParts(nil, f.Record.AppendAdminPart(nil)))
				}
				return f.Record
			}
		},
		rows: []row{
			agencyKeeps.says(atOnce, "subject.hidden"),
			providerGuards.says(atOnce, "subject.hidden"),
		},
	},
	{
		name: "logs an erasure that nobody asked for, to hide what a record says",
		cheat: func(s *scene) {
			var reach proof.Index
			s.afterDeed = func() { reach = s.income.Index; s.erase(s.alice, reach) }
			s.o.Record = func(_ *hostile.Operator, f *hostile.Filing, reader proof.Reader) *proof.Record {
				if reader == proof.ReaderPerson && f.Subject.Equal(s.alice) && f.Kind == proof.KindDisclosure && reach > 0 && f.Index <= reach {
					return must(proof.OpenParts(nil, f.Record.AppendAdminPart(nil)))
				}
				return f.Record
			}
		},
		rows: []row{
			{who: "the person", tool: "`regard-audit verify-history`", detector: each(erasures), after: atOnce, wants: "records are erased, and I didn't ask for that", presupposes: historyIsFetched, assuming: "they know what they asked for; when the epoch closes, the erasure is an entry of their roll"},
		},
	},
	{
		name: "destroys a month's keys before the end of the retention it promised",
		cheat: func(s *scene) {
			s.o.Turned = func(o *hostile.Operator, e *hostile.Epoch) {
				if e.Number == 2 {
					o.Append(proof.KeyChanged{Key: "record.2026-10", Use: proof.UseRecord, State: proof.Destroyed, Until: proof.TimeOf(o.Now.AddDate(3, 0, 0))})
				}
			}
			s.o.Record = func(o *hostile.Operator, f *hostile.Filing, reader proof.Reader) *proof.Record {
				if f == s.income && reader == proof.ReaderPerson && o.Current().Number > 2 {
					return nil
				}
				return f.Record
			}
		},
		rows: []row{
			anybodyChecks.says(atClose, "key.promise"),
			personHistory.says(atClose, "neither an end of retention nor a loss in the log explains that"),
			anybodyFollows.says(atClose, "key.promise"),
		},
	},
}

// Attacks on what a record says (G3, G6).
var recordAttacks = []attack{
	{
		name: "rewrites a record after the fact",
		cheat: func(s *scene) {
			s.o.Record = func(o *hostile.Operator, f *hostile.Filing, _ proof.Reader) *proof.Record {
				if f != s.income || o.Current().Number < 3 {
					return f.Record
				}
				return s.rewritten()
			}
		},
		rows: []row{
			agencyVerifies.says(atClose, "the opening does not open the entry's commitment"),
			personVerifies.says(atClose, "the opening does not open the entry's commitment"),
			agencyKeeps.says(atClose, "receipts.refuted"),
			providerGuards.says(atClose, "receipts.refuted"),
			personHistory.says(atClose, "the opening does not open the entry's commitment"),
		},
	},
	{
		name: "opens one record differently to two readers",
		cheat: func(s *scene) {
			s.o.Record = func(_ *hostile.Operator, f *hostile.Filing, reader proof.Reader) *proof.Record {
				if f != s.income || reader == proof.ReaderAgency {
					return f.Record
				}
				return s.rewritten()
			}
		},
		rows: []row{
			personVerifies.says(atOnce, "the opening does not open the entry's commitment"),
			providerVerifies.says(atOnce, "the opening does not open the entry's commitment"),
			providerGuards.says(atOnce, "receipts.refuted"),
			personHistory.says(atClose, "the opening does not open the entry's commitment"),
		},
	},
	{
		name: "suppresses an entry by a reused identity value: the engine takes it for one that it has, and the receipt names that one",
		cheat: func(s *scene) {
			s.o.Cheats.File = func(_ *hostile.Operator, f *hostile.Filing) bool {
				if s.isDeed(f.Subject) {
					f.Index = s.cantine.Index
					return false
				}
				return true
			}
		},
		rows: []row{
			agencyVerifies.says(atOnce, "the opening does not open the entry's commitment"),
			providerVerifies.says(atOnce, "the opening does not open the entry's commitment"),
			agencyAsks.says(atOnce, "the receipt does not prove what was asked and answered"),
			agencyKeeps.says(atOnce, "receipts.refuted"),
			providerGuards.says(atOnce, "receipts.refuted"),
			personHistory.neverSays("there is no second entry, and its person can't know that there should be one"),
		},
	},
	{
		name: "records that less was obtained than the provider answered",
		cheat: func(s *scene) {
			s.falsify = func(r *proof.Record, _ *proof.Subject) { s.ok(r.SetList(proof.DisclosureObtained, nil)) }
		},
		rows: []row{
			providerGuards.says(atOnce, "obtained.other"),
			agencyVerifies.neverSays("what the provider answered is known to nobody else"),
		},
	},
	{
		name: "records a request as one about another person, and files it there",
		cheat: func(s *scene) {
			s.falsify = func(r *proof.Record, about *proof.Subject) {
				*about = s.bob
				s.ok(r.SetSubject(s.bob))
			}
		},
		rows: []row{
			agencyAsks.says(atOnce, "its subject is not the one of this request"),
			providerGuards.says(atOnce, "subject.other"),
			personHistory.neverSays("the roll is whole: there is no entry of theirs"),
			otherHistory.neverSays("it is an entry like any other; they can ask whom it was about"),
		},
	},
	{
		name:  "bypasses the log with a colluding agency: asks a provider and records nothing",
		cheat: func(s *scene) { s.hide() },
		rows: []row{
			providerCounts.says(atOnce, "receipt.missing"),
			providerGuards.says(atAge, "receipts.overdue").ifOnly(guardRefuses),
			personHistory.neverSays(nothing),
			anybodyChecks.neverSays(nothing),
		},
	},
	{
		name: "asks a provider by another way than through its library, and records nothing",
		cheat: func(s *scene) {
			s.hide()
			s.around = true
		},
		rows: []row{
			providerCounts.says(atOnce, "question.unheld"),
			providerGuards.neverSays("it sees what comes through it"),
		},
	},
	{
		name: "answers a provider's check with the receipt of another request",
		cheat: func(s *scene) {
			s.hide()
			s.instead = func(f *hostile.Filing) *hostile.Filing {
				if f == s.income {
					return s.cantine
				}
				return f
			}
		},
		rows: []row{
			providerGuards.says(atOnce, "receipt.foreign"),
		},
	},
	{
		name: "decides by a policy that isn't in the log",
		cheat: func(s *scene) {
			s.bend = func(a *asker) {
				a.purpose = "lutte-contre-la-fraude" // which the agreement doesn't allow
				a.rules = s.grantsAll()
			}
		},
		rows: []row{
			auditorReplays.says(atOnce, "never activated before this entry"),
		},
	},
	{
		name: "decides by another policy than the one it records",
		cheat: func(s *scene) {
			s.bend = func(a *asker) {
				a.purpose = "lutte-contre-la-fraude"
				a.rules = s.grantsAll()
			}
			s.falsify = func(r *proof.Record, _ *proof.Subject) {
				s.ok(r.SetText(proof.DisclosurePolicy, s.rules.Digest().String()))
			}
		},
		rows: []row{
			auditorReplays.says(atOnce, "allow"),
		},
	},
	{
		name: "decides by an agreement that isn't in the log",
		cheat: func(s *scene) {
			s.bend = func(a *asker) {
				a.purpose = "lutte-contre-la-fraude"
				a.agreement.Version, a.agreement.Purposes = 2, []policy.Purpose{a.purpose}
			}
		},
		rows: []row{
			auditorReplays.says(atOnce, "not in the log before this entry"),
		},
	},
}

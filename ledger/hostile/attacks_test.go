package hostile_test

import (
	"slices"

	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
)

// attacks is the list behind the table: what the operator does, and who notices.
var attacks = slices.Concat(rollAttacks, indexAttacks, shownAttacks, markerAttacks, lawAttacks, recordAttacks, checkpointAttacks)

// The detectors, each with what it takes for granted.
var (
	agencyVerifies   = row{who: "the agency", tool: "`regard-audit verify`", detector: verify(proof.ReaderAgency), presupposes: receiptIsFetched}
	providerVerifies = row{who: "the provider", tool: "`regard-audit verify`", detector: verify(proof.ReaderProvider), presupposes: receiptIsFetched}
	personVerifies   = row{who: "the person", tool: "`regard-audit verify`", detector: verify(proof.ReaderPerson), presupposes: receiptIsFetched}
	agencyAsks       = row{who: "the agency", tool: "`broker/client`", detector: &detector{asks}, presupposes: "it asks with this library, which gives no data of an answer that it accuses of something"}
	agencyKeeps      = row{who: "the agency", tool: "`broker/holder`", detector: &detector{keeps}, presupposes: holderIsUsed}
	providerGuards   = row{who: "the provider", tool: "`broker/holder`", detector: &detector{guards}, presupposes: holderIsUsed}
	providerCounts   = row{who: "the provider", tool: "`regard-audit reconcile`", detector: &detector{reconciles}, presupposes: "the provider compares what its library holds with its own access log and the public log"}
	personHistory    = row{who: "the person", tool: "`regard-audit verify-history`", detector: history(func(s *scene) proof.Subject { return s.alice }), presupposes: historyIsFetched}
	otherHistory     = row{who: "the other person", tool: "`regard-audit verify-history`", detector: history(func(s *scene) proof.Subject { return s.bob }), presupposes: historyIsFetched}
	anybodyChecks    = row{who: "anybody", tool: "`regard-audit fsck`", detector: each(check), presupposes: logIsRead}
	anybodyFollows   = row{who: "anybody", tool: "`regard-audit monitor`", detector: monitors(nil), presupposes: logIsRead}
	followsAll       = row{who: "anybody", tool: "`regard-audit monitor --receipt`", detector: monitors(everybody), presupposes: "it is given the checkpoints, or receipts, that others hold"}
	auditorChecks    = row{who: "an accredited auditor", tool: "`regard-audit audit-index`", detector: &detector{auditsIndex}, presupposes: "the epoch is audited"}
	auditorReplays   = row{who: "an accredited auditor", tool: "`regard-audit replay`", detector: each(replays), presupposes: "the record is opened (`regard-audit open`)"}
	quorum           = row{who: "the witnesses", tool: "`regard witness`", detector: witnesses(), presupposes: witnessIsHonest}
	brokenQuorum     = row{who: "the witnesses", tool: "`regard witness`", detector: witnesses(1), presupposes: witnessIsHonest}
)

const (
	receiptIsFetched = "they fetch the receipt again once its epoch is closed; the policy that they verify with names the witnesses"
	holderIsUsed     = "they use the library: the agency keeps its receipts with it, the provider has it before its API; the policy names the witnesses"
	historyIsFetched = "they fetch their history after the epoch has closed, under all identifiers that were asked; the policy names the witnesses"
	logIsRead        = "somebody runs it; the policy names the witnesses"
	witnessIsHonest  = "k of n with 2k − n > f for f dishonest ones: a second history never gets a quorum then, and readers refuse it"
)

const (
	guardRefuses = "the age that they set is over (here an hour); then the library refuses further questions"

	// Why somebody can't see an attack.
	whole        = "the roll is whole without the entry: only who has its receipt, or sees all rolls opened, can miss it"
	twoBranches  = "where both branches got a quorum, each is whole in itself: only who knows both sees that there are two"
	whose        = "every entry is in exactly one roll; whose it is, an auditor isn't shown"
	nothing      = "a provider without the check and an agency that colludes leave nothing behind that anybody else could compare"
	anyDelay     = "there is a delay, publicly, and it ends in its month; whether it was agreed on, only the record says"
	noIdentities = "the public log says nothing of who is in which roll"
)

func (r row) says(m moment, wants string) row {
	r.after, r.wants = m, wants
	return r
}

// neverSays is a row of somebody who can't see the attack, and why.
func (r row) neverSays(why string) row {
	r.after, r.not = never, why
	return r
}

func (r row) ifOnly(assuming string) row {
	r.assuming = assuming
	return r
}

// isDeed reports whether what is recorded now about somebody is what a cheat hides.
func (s *scene) isDeed(about proof.Subject) bool {
	return s.income == nil && s.aid != nil && about.Equal(s.alice)
}

func (s *scene) inEpoch(e *hostile.Epoch, f *hostile.Filing) bool {
	return f != nil && f.Index > e.Opener && f.Index < e.Closer
}

// honestly is how the open epoch would be closed with nothing left out.
func (s *scene) honestly(o *hostile.Operator) *hostile.Epoch {
	honest := o.Fork()
	honest.Cheats = hostile.Cheats{}
	n := honest.Current().Number
	honest.Turn()
	return honest.Epochs[n]
}

// more counts one entry more of a kind.
func more(counts []proof.Count, k proof.Kind) []proof.Count {
	out := slices.Clone(counts)
	for i := range out {
		if out[i].Kind == k {
			out[i].N++
			return out
		}
	}
	panic("no such kind in this epoch")
}

// move takes an entry out of its person's roll and files it under another label; nil files it nowhere.
func (s *scene) move(e *hostile.Epoch, f *hostile.Filing, to *proof.Label) {
	if !s.inEpoch(e, f) {
		return
	}
	z := e.Key.Label(f.Subject, e.Number)
	e.Filed[z] = slices.DeleteFunc(e.Filed[z], func(i proof.Index) bool { return i == f.Index })
	if len(e.Filed[z]) == 0 {
		delete(e.Filed, z)
	}
	if to != nil {
		e.Filed[*to] = append(e.Filed[*to], f.Index)
	}
}

// doctor has the histories that Alice gets of the epoch of the deed falsified.
func (s *scene) doctor(how func(*proof.History)) {
	s.o.Cheats.History = func(o *hostile.Operator, h *proof.History) {
		if s.income != nil && h.Subjects[0].Equal(s.alice) && len(h.Epochs) > 2 {
			how(h)
		}
	}
}

func (s *scene) drop(h *proof.History, i proof.Index) {
	h.Entries = slices.DeleteFunc(h.Entries, func(e proof.HistoryEntry) bool { return e.Index == i })
}

// beforeDeed forks the log right before the deed.
func (s *scene) beforeDeed(do func(fork *hostile.Operator)) {
	s.o.Cheats.File = func(o *hostile.Operator, f *hostile.Filing) bool {
		if s.isDeed(f.Subject) {
			do(o.Fork())
		}
		return true
	}
}

// settle has the deed's receipt settled falsely once its epoch is closed.
func (s *scene) settle(how func(*hostile.Epoch) *proof.Settlement) {
	s.o.Settle = func(o *hostile.Operator, f *hostile.Filing, right *proof.Settlement) *proof.Settlement {
		if e := o.EpochOf(f.Index); f == s.income && e.Closed() {
			return how(e)
		}
		return right
	}
}

// date has the deed's entry say another epoch than the open one.
func (s *scene) date(by int) {
	s.o.Cheats.Entry = func(o *hostile.Operator, e proof.Entry) proof.Entry {
		if s.aid != nil && s.income == nil && e.Kind() == proof.KindDisclosure {
			return e.WithEpoch(proof.Epoch(int(e.In()) + by))
		}
		return e
	}
}

// hide has the deed not logged.
func (s *scene) hide() {
	s.o.Cheats.File = func(_ *hostile.Operator, f *hostile.Filing) bool { return !s.isDeed(f.Subject) }
}

// rewritten is the deed's record with another purpose, and all else as it was.
func (s *scene) rewritten() *proof.Record {
	person, admin := s.income.Record.AppendPersonPart(nil), s.income.Record.AppendAdminPart(nil)
	r := must(proof.OpenParts(person, admin))
	s.ok(r.SetText(proof.DisclosurePurpose, "lutte-contre-la-fraude"))
	return r
}

package proof_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

func epochVectors(w *world) vectorFile {
	size := len(w.texts)
	cp := w.verified(size, 0, 1)
	v := vectorFile{Format: "roll of a subject in a closed epoch, or its absence (section 7), under a checkpoint and a policy",
		Notes:  "indexes are those of all entries of the subject in the epoch, none if it has no roll; bad: does not parse, or does not hold for this subject",
		Common: vector{"policy": w.policyText, "note": string(w.checkpoint(size, 0, 1))}}
	nobody := must(proof.SIREN("356000000"))
	for n := range w.epochs[:2] {
		for _, s := range []proof.Subject{w.alice, w.corp, nobody} {
			p := w.epochProof(n, s)
			e := must(p.Verify(cp, s))
			v.Good = append(v.Good, vector{"type": s.Type(), "subject": s.Value(), "text": string(must(p.AppendText(nil))), "epoch": e.Epoch, "label": e.Label.String(), "indexes": append([]proof.Index{}, e.Indexes...)})
		}
	}
	good := string(must(w.epochProof(0, w.alice).AppendText(nil)))
	absent := string(must(w.epochProof(0, nobody).AppendText(nil)))
	bad := func(s proof.Subject, text, reason string) {
		if text == good && s.Equal(w.alice) || text == absent && s.Equal(nobody) {
			panic(reason + ": not changed")
		}
		v.Bad = append(v.Bad, vector{"type": s.Type(), "subject": s.Value(), "text": text, "reason": reason})
	}
	roll := strings.Index(good, "\nroll ") + 1
	leaves := strings.SplitAfter(good[roll:], "\n")
	with := func(lines ...string) string { return good[:roll] + strings.Join(lines, "") }
	swap := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	parts := func(change func(*proof.EpochProof)) string {
		p := w.epochProof(0, w.alice)
		change(p)
		return string(must(p.AppendText(nil)))
	}
	bad(w.alice, swap("roll@v1", "roll@v2"), "another header")
	bad(w.alice, good+"\n", "an empty line at the end")
	bad(w.alice, good[:len(good)-1], "no line feed at the end")
	bad(w.alice, with(leaves[1:]...), "the line roll missing")
	bad(w.alice, with("roll 3\n", leaves[1], leaves[2], leaves[3]), "not a power of two")
	bad(w.alice, with("roll 2\n", leaves[1], leaves[2]), "fewer than 4 leaves")
	bad(w.alice, with("roll 8\n", strings.Join(leaves[1:], "")), "fewer leaves than announced")
	bad(w.alice, with("roll 4\n", leaves[1], leaves[1], leaves[3], leaves[4]), "a leaf twice")
	bad(w.alice, with("roll 4\n", leaves[2], leaves[1], leaves[3], leaves[4]), "leaves out of order")
	bad(w.alice, strings.Replace(good, "\n- ", "\n18446744073709551615 ", 1), "a dummy is written -")
	bad(w.alice, strings.Replace(good, "\n- ", "\n0- ", 1), "neither an index nor -")
	bad(w.alice, with("roll 0\n"), "a subject with a roll is said to have none")
	bad(w.alice, parts(func(p *proof.EpochProof) { p.Leaves = w.epochProof(0, w.corp).Leaves }), "the roll of another subject")
	bad(w.alice, parts(func(p *proof.EpochProof) { p.Leaves = w.epochProof(1, w.alice).Leaves }), "the roll of another epoch")
	bad(w.alice, parts(func(p *proof.EpochProof) { p.VRFProof = w.epochProof(0, w.corp).VRFProof }), "the label of another subject")
	bad(w.alice, parts(func(p *proof.EpochProof) { p.Bucket.Items = nil; p.Leaves = nil }), "an emptied bucket")
	bad(w.alice, parts(func(p *proof.EpochProof) { p.Marker.Index++ }), "the closing marker at another index")
	bad(w.alice, parts(func(p *proof.EpochProof) { p.Opener++ }), "the opener at another index")
	bad(w.corp, good, "the proof of another subject")
	bad(w.alice, absent, "the absence of another subject")
	bad(nobody, strings.Replace(absent, "roll 0\n", strings.Join(leaves, ""), 1), "a roll of somebody who has none")
	return v
}

// lookupVectors are questions to the index of one epoch: what does it say about
// a label?
func lookupVectors() (good, bad []vector) {
	const n = 40
	items := make([]proof.Item, n)
	for i := range items {
		items[i] = proof.Item{Label: proof.Label(hashOf(fmt.Sprint("label ", i))), Root: hashOf(fmt.Sprint("root ", i))}
	}
	sortItems(items)
	var buckets [][]byte
	var leaves []proof.Hash
	s := must(proof.BuildIndex(811, n, seq(items), func(_ uint64, leaf []byte) error {
		buckets, leaves = append(buckets, slices.Clone(leaf)), append(leaves, refLeaf(leaf))
		return nil
	}))
	m := laterMarker(0, 0)
	m.Closed.Counts = []proof.Count{{Kind: proof.KindDisclosure, N: n}, {Kind: proof.KindEpoch, N: 1}}
	m.Closed.Size, m.Closed.Items, m.Closed.Bits, m.Closed.Index = n+1, s.Items, s.Bits, s.Root
	row := func(z proof.Label, bucket []byte, position uint64, root string) vector {
		path := []string{}
		for _, h := range refPath(int(position), leaves) {
			path = append(path, h.String())
		}
		return vector{"marker": string(must(proof.EntryText(m))), "label": z.String(), "leaf_hex": hex.EncodeToString(bucket), "path": path, "roll_root": root}
	}
	absent := proof.Label(hashOf("nobody"))
	a, at := items[7], items[7].Label.BucketNumber(s.Bits)
	no := absent.BucketNumber(s.Bits)
	good = []vector{row(a.Label, buckets[at], at, a.Root.String()), row(absent, buckets[no], no, "")}
	refuse := func(v vector, reason string) { v["reason"] = reason; bad = append(bad, v) }
	refuse(row(a.Label, buckets[at], at^1, a.Root.String()), "the path of another position")
	refuse(row(a.Label, buckets[at^1], at^1, ""), "the bucket of other labels, which is in the index: absence is shown by the label's own bucket alone")
	refuse(row(absent, buckets[at], at, ""), "the bucket of other labels for somebody who has no roll")
	refuse(row(a.Label, buckets[at][:len(buckets[at])-64], at, ""), "an item left out of the bucket")
	refuse(row(a.Label, replaceAt(buckets[at], 24, buckets[at][24]^1), at, a.Root.String()), "a bucket that names another epoch")
	return good, bad
}

// monthTime is an instant of a day in UTC.
func monthTime(day string) proof.Time { return proof.TimeOf(must(time.Parse(time.DateOnly, day))) }

type noticeVector struct {
	Index  proof.Index `json:"index"`
	Opened proof.Time  `json:"opened"`
	Text   string      `json:"text"`
}

// explanationVectors say what explains that a record can't be read: the end of
// its retention, or a loss that restart@v1 names.
func explanationVectors() vectorFile {
	v := vectorFile{Format: "what explains that a record can't be read (sections 3 and 4)",
		Notes: "by retention: the entry's index, the markers around it, and key@v1 entries with their index and the time `opened` of the marker that opens their epoch; by loss: the entry's index and type, and a restart@v1 entry; good: explained; bad: not explained, so that a verdict shows the record as missing"}
	vrf := must(proof.NewLabelKey(&detRand{seed: "entry"})).Public()
	markers := func(opened, closed string) (opener, closing proof.Marker) {
		opener = proof.Marker{Epoch: 812, Opened: monthTime(opened), Until: monthTime(closed), VRF: vrf, Closed: &proof.Closed{
			Previous: hashOf("previous"), First: 900, Size: 100, Items: 1, Index: hashOf("index"), Counts: []proof.Count{{Kind: proof.KindDisclosure, N: 99}, {Kind: proof.KindEpoch, N: 1}}}}
		closing = opener
		closing.Epoch, closing.Opened, closing.Until = 813, monthTime(closed), monthTime(closed)
		closing.Closed = &proof.Closed{Previous: proof.LeafHash(must(proof.EntryText(opener))), First: 1000, Size: 100, Items: 1, Index: hashOf("index"), Counts: []proof.Count{{Kind: proof.KindDisclosure, N: 99}, {Kind: proof.KindEpoch, N: 1}}}
		return opener, closing
	}
	notice := func(i proof.Index, opened, key string, state proof.Status, until string) noticeVector {
		return noticeVector{i, monthTime(opened), string(must(proof.EntryText(proof.KeyChanged{Epoch: 7, Key: key, Use: proof.UseRecord, State: state, Until: monthTime(until)})))}
	}
	active := func(month, day string) noticeVector {
		return notice(500, day, "record."+month, proof.Active, "2030-01-01")
	}
	destroyed := func(month, day string) noticeVector {
		return notice(9000, day, "record."+month, proof.Destroyed, "2030-01-01")
	}
	retention := func(list *[]vector, reason, opened, closed string, notices ...noticeVector) {
		o, c := markers(opened, closed)
		x := vector{"by": "retention", "index": 1042, "opener": string(must(proof.EntryText(o))), "closing": string(must(proof.EntryText(c))), "notices": notices}
		if reason != "" {
			x["reason"] = reason
		}
		*list = append(*list, x)
	}
	nov := active("2026-11", "2026-11-01")
	retention(&v.Good, "", "2026-11-23", "2026-11-24", nov, destroyed("2026-11", "2030-01-01"))
	retention(&v.Good, "", "2026-12-05", "2026-12-06", nov, destroyed("2026-11", "2030-01-02")) // sealed when the request was asked
	retention(&v.Good, "", "2026-10-31", "2026-11-01", active("2026-11", "2026-10-31"), destroyed("2026-11", "2030-01-01"))
	retention(&v.Good, "", "2026-11-23", "2026-11-24", nov, notice(600, "2026-12-09", "record.2026-11", proof.Active, "2031-01-01"), destroyed("2026-11", "2031-01-01"))
	retention(&v.Bad, "the key is not destroyed", "2026-11-23", "2026-11-24", nov)
	retention(&v.Bad, "destroyed in an epoch that opened before the promised end", "2026-11-23", "2026-11-24", nov, destroyed("2026-11", "2029-12-31"))
	retention(&v.Bad, "destroyed before the end that was promised last", "2026-11-23", "2026-11-24", nov, notice(600, "2026-12-09", "record.2026-11", proof.Active, "2031-01-01"), destroyed("2026-11", "2030-01-01"))
	retention(&v.Bad, "nothing was promised", "2026-11-23", "2026-11-24", destroyed("2026-11", "2030-01-01"))
	retention(&v.Bad, "promised when the month was over", "2026-11-23", "2026-11-24", active("2026-11", "2026-12-01"), destroyed("2026-11", "2030-01-01"))
	retention(&v.Bad, "promised after the destruction", "2026-11-23", "2026-11-24", notice(9001, "2026-11-01", "record.2026-11", proof.Active, "2030-01-01"), destroyed("2026-11", "2030-01-01"))
	retention(&v.Bad, "a promise that ends with its month's use", "2026-11-23", "2026-11-24", notice(500, "2026-11-01", "record.2026-11", proof.Active, "2026-11-30"), notice(9000, "2030-01-01", "record.2026-11", proof.Destroyed, "2026-11-30"))
	retention(&v.Bad, "the key of a month after the entry's epoch", "2026-10-23", "2026-10-24", nov, destroyed("2026-11", "2030-01-01"))
	retention(&v.Bad, "the key of two months before the entry's epoch", "2027-01-05", "2027-01-06", nov, destroyed("2026-11", "2030-01-01"))
	retention(&v.Bad, "a key that was destroyed before the entry was written", "2026-11-23", "2026-11-24", notice(400, "2026-11-01", "record.2026-11", proof.Active, "2030-01-01"), notice(1041, "2030-01-01", "record.2026-11", proof.Destroyed, "2030-01-01"))
	retention(&v.Bad, "a key that was retired is no promise", "2026-11-23", "2026-11-24", notice(500, "2026-11-01", "record.2026-11", proof.Retired, "2030-01-01"), destroyed("2026-11", "2030-01-01"))
	o, _ := markers("2026-11-23", "2026-11-24")
	v.Bad = append(v.Bad, vector{"by": "retention", "index": 1042, "opener": string(must(proof.EntryText(o))), "closing": string(must(proof.EntryText(o))), "notices": []noticeVector{nov, destroyed("2026-11", "2030-01-01")}, "reason": "the closing marker is that of another epoch"})
	label := noticeVector{9000, monthTime("2030-01-01"), string(must(proof.EntryText(proof.KeyChanged{Epoch: 7, Key: "label.2026-11", Use: proof.UseLabel, State: proof.Destroyed, Public: proof.Hash(vrf), Until: monthTime("2030-01-01")})))}
	retention(&v.Bad, "a label key seals no record", "2026-11-23", "2026-11-24", nov, label)

	restart := func(lost proof.Lost) string {
		return string(must(proof.EntryText(proof.Restart{Epoch: 812, Reason: "restored", Size: 1100, Root: hashOf("root"), Lost: lost})))
	}
	loss := func(list *[]vector, reason string, i proof.Index, k proof.Kind, lost proof.Lost) {
		x := vector{"by": "loss", "index": i, "kind": k, "restart": restart(lost)}
		if reason != "" {
			x["reason"] = reason
		}
		*list = append(*list, x)
	}
	lost := proof.Lost{From: 1042, To: 1099}
	loss(&v.Good, "", 1042, proof.KindDisclosure, lost)
	loss(&v.Good, "", 1099, proof.KindErasure, lost)
	loss(&v.Good, "", 1050, proof.KindDeferred, lost)
	loss(&v.Bad, "before the first that is lost", 1041, proof.KindDisclosure, lost)
	loss(&v.Bad, "after the last that is lost", 1100, proof.KindDisclosure, lost)
	loss(&v.Bad, "an entry that has no record", 1050, proof.KindAgreement, lost)
	loss(&v.Bad, "a restart that lost nothing", 1050, proof.KindDisclosure, proof.Lost{})
	return v
}

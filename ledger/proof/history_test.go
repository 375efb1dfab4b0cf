package proof_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// now is when the epoch after the last of historyWorld is under way.
const now = proof.Time(1_765_600_000_000) // 2025-12-13

func reparse(t testing.TB, h *proof.History) *proof.History {
	t.Helper()
	b := text(t, h)
	again, err := proof.ParseHistory(b)
	if err != nil {
		t.Fatal(err)
	}
	if out := text(t, again); !bytes.Equal(out, b) {
		t.Fatal("it re-serialises to something else")
	}
	return again
}

func verify(t testing.TB, w *historyWorld, h *proof.History, opt proof.HistoryOptions) proof.HistoryVerdict {
	t.Helper()
	if opt.Now == 0 {
		opt.Now = now
	}
	v, err := reparse(t, h).Verify(w.policy, opt)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestHistory(t *testing.T) {
	w := newHistoryWorld()
	h := w.history(0, 2, w.alice, w.empty)
	w.audit(h, 0)
	w.audit(h, 2)
	var progress []int
	v := verify(t, w, h, proof.HistoryOptions{MaxAge: 10_000 * time.Hour, Progress: func(done, of int) { progress = append(progress, done, of) }})
	if want := []int{0, 3, 1, 3, 2, 3, 3, 3}; !slices.Equal(progress, want) {
		t.Errorf("progress %v, want %v", progress, want)
	}
	var got []proof.Index
	for _, e := range v.Entries {
		got = append(got, e.Index)
		if e.State != proof.RecordOpen || e.Subject != 0 || (e.Deferred != nil) != (e.Kind == proof.KindOpened) {
			t.Errorf("%+v", e)
		}
	}
	var want []proof.Index
	for _, f := range w.filed {
		if e := must(proof.ParseEntry(w.texts[f.index])); f.subject.Equal(w.alice) && e.In() <= 2 && e.Kind().Filed() {
			want = append(want, f.index)
		}
	}
	if !slices.Equal(got, want) || len(got) != 6 {
		t.Errorf("entries %d, want %d", got, want)
	}
	if v.State != proof.Witnessed || v.RootTime != 1_764_000_000_000 || len(v.Witnesses) != 2 || !v.Complete() || v.Epochs != (proof.EpochRange{From: 0, To: 2}) ||
		v.Size != uint64(len(w.texts)) || v.Origin != origin || v.Unaudited != 1 || v.UnauditedSince != must(proof.ParseEntry(h.Markers[2])).(proof.Marker).Opened || !v.KeysCounted {
		t.Errorf("%+v", v)
	}
	if d := cmp.Diff(proof.Deferrals{Pending: 1, Counted: true}, v.Deferrals); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]proof.AuditedIndexes{{Auditor: "cour", Key: "audit.example/cour", Epochs: []proof.EpochRange{{From: 0, To: 0}, {From: 2, To: 2}}}}, v.Audits); d != "" {
		t.Error(d)
	}
	says, not := verdict.Words(&v, verdict.English)
	all := strings.Join(says, "\n") + "\n---\n" + strings.Join(not, "\n")
	for _, want := range []string{
		"These are all recorded requests about you under these identifiers (pivot, siren) in epochs 0 to 2, from 2025-11-24T16:00:00Z to 2025-11-27T16:00:00Z: 6 entries.",
		"1 data request that was delayed by law", "Auditor cour (audit.example/cour) found every filed entry in a roll in epochs 0, 2.", "The quorum of witnesses saw this tree",
		"in 1 epoch: no auditor", "that the keys of these auditors were not revoked later", "no epoch has a second marker that somebody else is shown",
		"anything after 2025-11-27T16:00:00Z", "whether you are concerned by 1 entry that a law allows to tell later, and the log's markers prove",
		"under identifiers that aren't named here",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if strings.Contains(all, "LEFEVRE") || strings.Contains(all, "all accesses") {
		t.Error(all)
	}

	// Whoever has no entry gets the proof of that.
	if v := verify(t, w, w.history(0, 2, w.empty), proof.HistoryOptions{}); len(v.Entries) != 0 || !v.Complete() {
		t.Errorf("%+v", v)
	}
	// A part of the epochs: the number of deferrals is the operator's word.
	v = verify(t, w, w.history(1, 2, w.alice), proof.HistoryOptions{Now: 1_900_000_000_000})
	if d := cmp.Diff(proof.Deferrals{Pending: 1, Overdue: 1}, v.Deferrals); d != "" || v.Epochs.From != 1 {
		t.Error(d)
	}
	if _, not := verdict.Words(&v, verdict.English); !strings.Contains(strings.Join(not, "\n"), "as the operator says; only a history from epoch 0 on proves their number") || !strings.Contains(strings.Join(not, "\n"), "why 1 of these is overdue") {
		t.Error(not)
	}
	if says, not := verdict.Words(new(proof.HistoryVerdict), verdict.English); len(says) != 0 || len(not) != 1 {
		t.Error(says, not)
	}
}

// TestHistoryExplained: what can't be shown is accounted for by the log, and said.
func TestHistoryExplained(t *testing.T) {
	w := newHistoryWorld()
	count := func(v proof.HistoryVerdict) map[proof.RecordState]int {
		n := map[proof.RecordState]int{}
		for _, e := range v.Entries {
			n[e.State]++
		}
		return n
	}
	said := func(v proof.HistoryVerdict, want string) {
		t.Helper()
		says, not := verdict.Words(&v, verdict.English)
		if !strings.Contains(strings.Join(append(says, not...), "\n"), want) {
			t.Errorf("no %q in %q %q", want, says, not)
		}
	}
	erase := func(h *proof.History, upto proof.Index) {
		for i := range h.Entries {
			e := &h.Entries[i]
			if e.Opening.IsZero() || e.Index > upto && e.Index != w.erasures[0].index {
				continue
			}
			for _, f := range w.filed {
				if f.index == e.Index {
					e.Opening = without(f.record)
				}
			}
		}
	}

	h := w.history(0, 2, w.alice)
	erase(h, w.erasures[0].index-1)
	v := verify(t, w, h, proof.HistoryOptions{})
	if d := cmp.Diff(map[proof.RecordState]int{proof.RecordErased: 6}, count(v)); d != "" {
		t.Error(d)
	}
	said(v, "6 records were erased, and an erasure in your own roll accounts for each.")

	// The erasure of the open epoch isn't in a roll yet.
	last := w.erasures[1]
	h = w.history(0, 4, w.alice)
	e := entry(h, w.at(w.alice, 7).index)
	e.Opening = without(w.at(w.alice, 7).record)
	h.Entries = append(h.Entries, proof.HistoryEntry{Index: last.index, Text: w.texts[last.index], Opening: without(last.record)})
	w.prove(h)
	v = verify(t, w, h, proof.HistoryOptions{})
	if n := count(v); n[proof.RecordErasing] != 1 || v.Complete() || v.LostEntries != 2 {
		t.Errorf("%v %+v", n, v)
	}
	said(v, "1 record was erased at your demand: the erasure stands after these epochs")
	said(v, "of 2 entries at most the details were lost, as the log says, and each may be about anybody")
	said(v, "as far as they can still be shown")

	// One whose details were lost: nobody can tell whose it is, and it covers what came before it.
	lw := &historyWorld{world: emptyWorld("lost erasure")}
	lw.open()
	gone := lw.file(proof.KindDisclosure, lw.alice)
	erasure := lw.add(proof.Erasure{Commitment: lw.record(proof.KindErasure, lw.alice).Commitment()})
	later := lw.file(proof.KindDisclosure, lw.alice)
	lw.restart("restored", proof.Lost{From: erasure, To: erasure})
	lw.open()
	for _, c := range []struct {
		hide filed
		want string
	}{{gone, ""}, {later, fmt.Sprintf("entry %d (epoch 0): its person part is not open", later.index)}} {
		h := lw.history(0, 0, lw.alice)
		entry(h, c.hide.index).Opening = without(c.hide.record)
		h.Entries = append(h.Entries, proof.HistoryEntry{Index: erasure, Text: lw.texts[erasure]})
		lw.prove(h)
		v, err := h.Verify(lw.policy, proof.HistoryOptions{})
		if c.want == "" && (err != nil || v.Count(proof.RecordErasing) != 1) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, %+v", err, v)
		}
	}

	// The end of retention: no label of epoch 0 can be proven any more, and no record of it be read.
	h = w.history(0, 2, w.alice)
	for i := range h.Entries {
		if h.Entries[i].Index < w.epochs[1].opener {
			h.Entries[i].Opening = proof.Opening{}
		}
	}
	v = verify(t, w, h, proof.HistoryOptions{})
	if n := count(v); n[proof.RecordRetired] != 3 || !v.Complete() {
		t.Errorf("%v", n)
	}
	said(v, "3 records are no longer kept: the retention that the log had promised is over.")
	h.Epochs[0] = proof.HistoryEpoch{}
	for _, f := range w.filed {
		if f.index < w.epochs[1].opener && f.subject.Equal(w.alice) {
			drop(h, f.index)
		}
	}
	w.prove(h)
	v = verify(t, w, h, proof.HistoryOptions{})
	if v.Complete() || len(v.Entries) != 3 {
		t.Errorf("%+v", v)
	}
	if want := must(proof.ParseEntry(h.Markers[2])).(proof.Marker).Opened; v.UnauditedSince != want {
		t.Errorf("not audited since %d, want %d: of what is over nobody can count", v.UnauditedSince, want)
	}
	if d := cmp.Diff([]proof.EpochRange{{From: 0, To: 0}}, v.Ended); d != "" {
		t.Error(d)
	}
	said(v, "anything about epoch 0: the retention is over")

	// A roll whose leaves were lost with a backup, in an epoch where the log says that something was.
	h = w.history(3, 3, w.alice)
	h.Epochs[0].Rolls[0] = proof.HistoryRoll{Lost: true}
	drop(h, w.at(w.alice, 7).index)
	drop(h, w.at(w.alice, 8).index)
	w.prove(h)
	v = verify(t, w, h, proof.HistoryOptions{})
	if v.LostRolls != 1 || v.Complete() || len(v.Entries) != 0 {
		t.Errorf("%+v", v)
	}
	said(v, "what is in 1 roll of yours")
}

// TestHistoryRefused: each change, also one after which the operator made all proofs again, is found and named.
// places is where each change of TestHistoryRefused is found: in which step and, if one can tell, in which epoch.
var places = map[string]string{
	"a bucket out of order":                     "rolls 0",
	"a delay that is not shown":                 "records 2",
	"a dropped entry":                           "entries 0",
	"a dropped entry, nothing proven again":     "tree 0",
	"a duplicated entry":                        "tree 0",
	"a foreign entry":                           "entries 0",
	"a last marker that is not in the log":      "tree",
	"a lost roll that there isn't":              "rolls 0",
	"a marker beyond the checkpoint":            "markers 3",
	"a notice without its epoch":                "tree",
	"a pending delay left out":                  "deferrals",
	"a record without an opening":               "records 1",
	"a roll leaf left unopened":                 "rolls 1",
	"a roll out of nowhere":                     "rolls 0",
	"a roll that is not open":                   "rolls 0",
	"a roll that is said to be lost":            "rolls 0",
	"a roll with one leaf changed":              "rolls 0",
	"a second marker":                           "markers 1",
	"a skipped epoch":                           "markers 1",
	"a swapped opening":                         "records 0",
	"an audit of another epoch":                 "audits 9",
	"an audit of another index":                 "audits 1",
	"an audit of fewer entries":                 "audits 0",
	"an entry that is not in the log":           "tree 0",
	"an epoch left out":                         "rolls 1",
	"an erasure that is not what it commits to": "records 2",
	"an item left out of a bucket":              "rolls 2",
	"an opening of another schema":              "records 0",
	"an opening of what has no record":          "tree 0",
	"an unopenable record":                      "records 1",
	"an unregistered auditor":                   "audits",
	"another log's key":                         "checkpoint",
	"another marker for an epoch":               "markers 2",
	"another's erasure":                         "records 1",
	"another's label":                           "rolls 1",
	"governance that has no place":              "tree 1",
	"one node too many in an index":             "rolls 0",
	"one node too many":                         "tree",
}

func TestHistoryRefused(t *testing.T) {
	w := newHistoryWorld()
	base := func() *proof.History { // without the end of a retention that would account for records
		h := w.history(0, 2, w.alice, w.corp)
		drop(h, w.epochs[5].opener+1)
		w.prove(h)
		return h
	}
	mine := w.at(w.alice, 0)   // epoch 0
	second := w.at(w.alice, 2) // epoch 0
	access := w.at(w.alice, 1) // epoch 0
	opened := w.epochs[2].opener + 1
	for name, c := range map[string]struct {
		change func(h *proof.History)
		want   string
		is     error
	}{
		"a dropped entry":                       {func(h *proof.History) { drop(h, mine.index); w.prove(h) }, fmt.Sprintf("entry %d (epoch 0): in a roll, and left out", mine.index), proof.ErrUnproven},
		"a dropped entry, nothing proven again": {func(h *proof.History) { drop(h, mine.index) }, "nodes: the last marker (epoch 3) and the entries are not in the tree", proof.ErrUnproven},
		"a duplicated entry":                    {func(h *proof.History) { h.Entries = append(h.Entries, *entry(h, mine.index)); w.prove(h) }, fmt.Sprintf("entry %d: it stands there twice", mine.index), proof.ErrUnproven},
		"a foreign entry": {func(h *proof.History) {
			b := w.at(w.bob, 0)
			h.Entries = append(h.Entries, proof.HistoryEntry{Index: b.index, Text: w.texts[b.index], Opening: b.record.Open(proof.ReaderPerson)})
			w.prove(h)
		}, fmt.Sprintf("entry %d: foreign", w.at(w.bob, 0).index), proof.ErrUnproven},
		"an entry that is not in the log": {func(h *proof.History) { entry(h, mine.index).Text = entry(h, second.index).Text }, "nodes:", proof.ErrUnproven},
		"a roll leaf left unopened": {func(h *proof.History) {
			l := h.Epochs[1].Rolls[0].Leaves
			for i := range l {
				if !l[i].Dummy() {
					drop(h, l[i].Index)
					l[i] = proof.OpenLeaf{Index: 1<<64 - 1, Salt: [32]byte{1}}
				}
			}
			w.prove(h)
		}, "epoch 1: subject 0:", proof.ErrFormat},
		"a roll with one leaf changed":   {func(h *proof.History) { h.Epochs[0].Rolls[0].Leaves[0].Salt[0] ^= 1 }, "epoch 0: subject 0: ", nil},
		"a roll that is not open":        {func(h *proof.History) { h.Epochs[0].Rolls[0].Leaves = nil }, "epoch 0: subject 0: there is a roll, and it is not open", proof.ErrUnproven},
		"a roll out of nowhere":          {func(h *proof.History) { h.Epochs[0].Rolls[1] = h.Epochs[0].Rolls[0] }, "epoch 0: subject 1: leaves of a roll that the index does not have", proof.ErrUnproven},
		"a roll that is said to be lost": {func(h *proof.History) { h.Epochs[0].Rolls[0] = proof.HistoryRoll{Lost: true} }, "epoch 0: subject 0: there is a roll, it is not open, and no lost entries explain that", proof.ErrUnproven},
		"a lost roll that there isn't":   {func(h *proof.History) { h.Epochs[0].Rolls[1] = proof.HistoryRoll{Lost: true} }, "epoch 0: subject 1: the roll that is said to be lost doesn't exist", proof.ErrUnproven},
		"a bucket out of order": {func(h *proof.History) {
			for i := range h.Epochs {
				for b := range h.Epochs[i].Buckets {
					slices.Reverse(h.Epochs[i].Buckets[b])
				}
			}
		}, "epoch 0: bucket 0: bucket: labels are not strictly increasing", proof.ErrFormat},
		"an item left out of a bucket": {func(h *proof.History) { h.Epochs[2].Buckets[0] = h.Epochs[2].Buckets[0][1:] }, "epoch 2: the buckets are not in the index", proof.ErrUnproven},
		"another's label":              {func(h *proof.History) { l := h.Epochs[1].Labels; l[0], l[1] = l[1], l[0] }, "epoch 1: subject 0: label", proof.ErrUnproven},
		"a skipped epoch": {func(h *proof.History) {
			h.Markers = slices.Delete(h.Markers, 1, 2)
			h.Epochs = slices.Delete(h.Epochs, 1, 2)
		}, "epoch 1: skipped", proof.ErrUnproven},
		"a second marker": {func(h *proof.History) {
			m := must(proof.ParseEntry(h.Markers[1])).(proof.Marker)
			m.Until++
			h.Markers = slices.Insert(h.Markers, 2, must(proof.EntryText(m)))
			h.Epochs = slices.Insert(h.Epochs, 1, h.Epochs[1])
		}, "epoch 1: a second marker", proof.ErrUnproven},
		"another marker for an epoch": {func(h *proof.History) {
			m := must(proof.ParseEntry(h.Markers[1])).(proof.Marker)
			m.Until++
			h.Markers[1] = must(proof.EntryText(m))
		}, "epoch 2: its marker does not follow the one before", proof.ErrUnproven},
		"a last marker that is not in the log": {func(h *proof.History) {
			m := must(proof.ParseEntry(h.Markers[3])).(proof.Marker)
			m.Until++
			h.Markers[3] = must(proof.EntryText(m))
		}, "nodes: the last marker (epoch 3)", proof.ErrUnproven},
		"a marker beyond the checkpoint": {func(h *proof.History) { h.Checkpoint = w.checkpoint(int(w.epochs[3].opener), 0, 1) }, "epoch 3: its marker stands at", proof.ErrUnproven},
		"a swapped opening": {func(h *proof.History) {
			a, b := entry(h, mine.index), entry(h, second.index)
			a.Opening, b.Opening = b.Opening, a.Opening
		}, fmt.Sprintf("entry %d (epoch 0): the opening does not open the entry's commitment", mine.index), proof.ErrUnproven},
		"an opening of another schema":              {func(h *proof.History) { entry(h, mine.index).Opening = entry(h, access.index).Opening }, fmt.Sprintf("entry %d (epoch 0): the opening does not", mine.index), proof.ErrUnproven},
		"an opening of what has no record":          {func(h *proof.History) { entry(h, w.bobs.index).Opening = w.bobs.record.Open(proof.ReaderPerson) }, fmt.Sprintf("entry %d: an opening of what nobody may open", w.bobs.index), proof.ErrUnproven},
		"an erasure that is not what it commits to": {func(h *proof.History) { entry(h, w.erasures[0].index).Opening = entry(h, mine.index).Opening }, fmt.Sprintf("entry %d: the opening does not open", w.erasures[0].index), proof.ErrUnproven},
		"an unopenable record": {func(h *proof.History) { entry(h, w.at(w.corp, 0).index).Opening = without(w.at(w.corp, 0).record) },
			fmt.Sprintf("entry %d (epoch 1): its person part is not open, and no erasure", w.at(w.corp, 0).index), proof.ErrUnproven},
		"a record without an opening": {func(h *proof.History) { entry(h, w.at(w.corp, 0).index).Opening = proof.Opening{} },
			fmt.Sprintf("entry %d (epoch 1): its record is not open, and neither", w.at(w.corp, 0).index), proof.ErrUnproven},
		"another's erasure": {func(h *proof.History) { // alice's covers alice's records alone
			e := entry(h, w.at(w.corp, 0).index)
			e.Opening = without(w.at(w.corp, 0).record)
			entry(h, w.erasures[0].index).Opening = without(w.erasures[0].record)
		}, fmt.Sprintf("entry %d (epoch 1): its person part is not open", w.at(w.corp, 0).index), proof.ErrUnproven},
		"an epoch left out":          {func(h *proof.History) { h.Epochs[1] = proof.HistoryEpoch{} }, "epoch 1: left out, and no end of its label key's retention explains that", proof.ErrUnproven},
		"a delay that is not shown":  {func(h *proof.History) { drop(h, w.delayed.index); w.prove(h) }, fmt.Sprintf("entry %d (epoch 2): the delay that it ends, entry %d, is not shown", opened, w.delayed.index), proof.ErrUnproven},
		"a pending delay left out":   {func(h *proof.History) { drop(h, w.bobs.index); w.prove(h) }, "epochs 0 to 2: 2 delays began and 1 ended, but 0 are shown as pending", proof.ErrUnproven},
		"a notice without its epoch": {func(h *proof.History) { drop(h, w.epochs[5].opener); w.prove(h) }, "no marker of its epoch 5 is shown", proof.ErrUnproven},
		"governance that has no place": {func(h *proof.History) {
			h.Entries = append(h.Entries, proof.HistoryEntry{Index: w.epochs[1].opener, Text: w.texts[w.epochs[1].opener]})
			w.prove(h)
		}, "epoch 1: a second marker, at", proof.ErrUnproven},
		"an audit of another index":     {func(h *proof.History) { w.audit(h, 0); h.Audits[0].Epoch = 1; h.Audits[0].Entries = 2 }, `epoch 1: auditor "cour": not signed by the auditor's key`, proof.ErrUnproven},
		"an audit of fewer entries":     {func(h *proof.History) { w.audit(h, 0); h.Audits[0].Entries-- }, `epoch 0: auditor "cour": found 3 filed entries, the marker counts 4`, proof.ErrUnproven},
		"an unregistered auditor":       {func(h *proof.History) { w.audit(h, 0); h.Auditors[0] = otherKey() }, "auditor 0: no entry of the log registers the key", proof.ErrUnproven},
		"an audit of another epoch":     {func(h *proof.History) { w.audit(h, 0); h.Audits[0].Epoch = 9 }, "epoch 9: an audit of another epoch", proof.ErrUnproven},
		"another log's key":             {nil, "no signature of a log of the policy", proof.ErrSignature},
		"one node too many":             {func(h *proof.History) { h.Nodes = append(h.Nodes, proof.Hash{1}) }, "nodes:", proof.ErrUnproven},
		"one node too many in an index": {func(h *proof.History) { h.Epochs[0].Nodes = append(h.Epochs[0].Nodes, proof.Hash{1}) }, "epoch 0: the buckets are not in the index", proof.ErrUnproven},
	} {
		t.Run(name, func(t *testing.T) {
			h, policy := base(), w.policy
			if c.change == nil {
				policy = must(proof.NewPolicy(otherKey()))
			} else {
				c.change(h)
			}
			v, err := h.Verify(policy, proof.HistoryOptions{Now: now, AllowProvisional: true})
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v; want %q", err, c.want)
			}
			if v.State != 0 {
				t.Errorf("a verdict all the same: %+v", v)
			}
			var e *proof.HistoryError
			if !errors.As(err, &e) {
				t.Fatalf("%T doesn't say where", err)
			}
			got := e.Step.String()
			if e.Epoch != nil {
				got += fmt.Sprintf(" %d", *e.Epoch)
				if (e.Opened == 0) != (*e.Epoch > 3) || e.Closed != 0 && e.Closed <= e.Opened {
					t.Errorf("epoch %d from %d to %d", *e.Epoch, e.Opened, e.Closed)
				}
			}
			if want, ok := places[name]; !ok || got != want {
				t.Errorf("%q: %q,", name, got)
			}
		})
	}
	if v := verify(t, w, base(), proof.HistoryOptions{}); v.State != proof.Witnessed {
		t.Errorf("%+v: none of this shows anything", v)
	}
}

// TestHistoryRestarts: a loss is what the log says, where it says it, and is not left out.
func TestHistoryRestarts(t *testing.T) {
	w := newHistoryWorld()
	h := w.history(3, 3, w.alice)
	var at proof.Index
	for _, e := range h.Entries {
		if bytes.HasPrefix(e.Text, []byte("regard/restart")) {
			at = e.Index
		}
	}
	drop(h, at)
	w.prove(h)
	if _, err := h.Verify(w.policy, proof.HistoryOptions{}); err == nil || !strings.Contains(err.Error(), "epoch 3: 1 restarts in the log, 0 are shown") {
		t.Error(err)
	}

	// One that names another tree than the log's is in the log and explains nothing.
	liar := &historyWorld{world: emptyWorld("liar")}
	liar.open()
	gone := liar.file(proof.KindDisclosure, liar.alice)
	lie := liar.add(proof.Restart{Reason: "restored", Size: 2, Root: hashOf("another tree"), Lost: proof.Lost{From: 1, To: 1}})
	liar.open()
	h = liar.history(0, 0, liar.alice)
	entry(h, gone.index).Opening = proof.Opening{}
	if _, err := h.Verify(liar.policy, proof.HistoryOptions{}); !errors.Is(err, proof.ErrUnproven) || !strings.Contains(err.Error(), fmt.Sprintf("entry %d: a restart from another tree", lie)) {
		t.Error(err)
	}

	// A true one accounts for the record.
	honest := &historyWorld{world: emptyWorld("honest")}
	honest.open()
	gone = honest.file(proof.KindDisclosure, honest.alice)
	honest.restart("unreadable.disk", proof.Lost{From: 1, To: 1})
	honest.open()
	h = honest.history(0, 0, honest.alice)
	entry(h, gone.index).Opening = proof.Opening{}
	v := verify(t, honest, h, proof.HistoryOptions{})
	if v.Count(proof.RecordLost) != 1 || v.LostEntries != 1 || v.Complete() {
		t.Errorf("%+v", v)
	}
}

func TestHistoryProvisionalAndStale(t *testing.T) {
	w := newHistoryWorld()
	for i := range w.witnesses { // after the last marker that is shown
		w.witnesses[i].time += 4 * 86_400
	}
	h := w.history(0, 2, w.alice)
	for _, i := range []proof.Index{w.epochs[5].opener, w.epochs[5].opener + 1, w.epochs[5].opener + 2, w.epochs[6].opener} {
		drop(h, i)
	}
	w.prove(h)
	v, err := h.Verify(w.policy, proof.HistoryOptions{Now: now, MaxAge: 24 * time.Hour})
	if !errors.Is(err, proof.ErrStale) || v.State != proof.Witnessed {
		t.Errorf("witnessed on 2025-11-28: %v, %v", v.State, err)
	}
	if _, err := h.Verify(w.policy, proof.HistoryOptions{Now: 1_764_345_600_000 + 3_600_000, MaxAge: time.Hour}); err != nil {
		t.Error(err)
	}
	h.Checkpoint = w.checkpoint(len(w.texts), 0)
	v, err = h.Verify(w.policy, proof.HistoryOptions{Now: now})
	if !errors.Is(err, proof.ErrNotWitnessed) || v.State != proof.Provisional {
		t.Errorf("one witness of two: %v, %v", v.State, err)
	}
	if v, err = h.Verify(w.policy, proof.HistoryOptions{Now: now, AllowProvisional: true}); err != nil || v.RootTime != v.Closed {
		t.Errorf("%v, %v", v.RootTime, err)
	}
	if _, not := verdict.Words(&v, verdict.English); !strings.Contains(strings.Join(not, "\n"), "without the quorum of witnesses all of this rests on the log's own signature") {
		t.Error(not)
	}
	// Without a quorum the age is that of the last marker.
	if _, err := h.Verify(w.policy, proof.HistoryOptions{Now: v.Closed + 3_600_001, MaxAge: time.Hour, AllowProvisional: true}); !errors.Is(err, proof.ErrStale) {
		t.Error(err)
	}
	// The quorum is as old as the older of the two that make it.
	old := w.witnesses[1]
	w.witnesses[1].time -= 86_400
	h.Checkpoint = w.checkpoint(len(w.texts), 0, 1)
	if v, err := h.Verify(w.policy, proof.HistoryOptions{Now: now}); err != nil || v.RootTime != proof.Time(old.time-86_400)*1000 {
		t.Errorf("%v, %v", v.RootTime, err)
	}
	h.Checkpoint = w.checkpoint(len(w.texts), 0, 1, 2)
	if v, err := h.Verify(w.policy, proof.HistoryOptions{Now: now}); err != nil || v.RootTime != proof.Time(old.time)*1000 {
		t.Errorf("a third witness makes a younger quorum: %v, %v", v.RootTime, err)
	}
}

// TestHistoryTimes: markers go on in time, one that is of the future is told as nothing but that, and no entry stands in another epoch than it says, also not in one that isn't shown.
func TestHistoryTimes(t *testing.T) {
	w := &historyWorld{world: emptyWorld("times")}
	w.open()
	w.file(proof.KindDisclosure, w.alice)
	w.open()
	w.file(proof.KindDisclosure, w.alice)
	w.open()
	w.file(proof.KindDisclosure, w.alice)
	w.open()
	// In epoch 3, what says that it was written in epoch 0.
	late := proof.Index(len(w.texts))
	w.texts = append(w.texts, must(proof.EntryText(proof.KeyChanged{Key: "record.2025-11", Use: proof.UseRecord, State: proof.Active, Until: 1})))
	w.hashes = append(w.hashes, refLeaf(w.texts[late]))
	refused := func(h *proof.History, at proof.Time, want string) {
		t.Helper()
		w.prove(h)
		if v, err := h.Verify(w.policy, proof.HistoryOptions{Now: at}); !errors.Is(err, proof.ErrUnproven) || !strings.Contains(err.Error(), want) || v.State != 0 {
			t.Errorf("%v; want %q", err, want)
		}
	}
	backdated := w.history(2, 2, w.alice)
	if i := slices.IndexFunc(backdated.Entries, func(e proof.HistoryEntry) bool { return e.Index == late }); i < 0 {
		t.Fatal("the notice isn't there")
	}
	refused(backdated, now, fmt.Sprintf("entry %d: it says epoch 0 and stands in another", late))

	h := w.history(0, 2, w.alice)
	drop(h, late)
	last := must(proof.ParseEntry(h.Markers[3])).(proof.Marker)
	w.prove(h)
	// Behind by more than a day the reader's clock may be wrong as well as the log's: nothing else is, and the verdict is there.
	behind := proof.HistoryOptions{Now: last.Opened - 86_400_001}
	v, err := h.Verify(w.policy, behind)
	var at *proof.HistoryError
	if !errors.Is(err, proof.ErrAhead) || errors.Is(err, proof.ErrUnproven) || errors.As(err, &at) || v.State != proof.Witnessed || !v.Complete() || !strings.Contains(err.Error(), "epoch 3: its marker says 2025-11-27T16:00:00Z") {
		t.Errorf("a clock that is behind by more: %v, %+v", err, v)
	}
	behind.Older, behind.MaxAge = h, time.Hour
	short := w.history(0, 1, w.alice)
	drop(short, late)
	drop(short, w.epochs[3].opener)
	w.prove(short)
	if _, err := short.Verify(w.policy, behind); !errors.Is(err, proof.ErrAhead) {
		t.Error("the older one is ahead:", err)
	}
	// Without the quorum it is ahead all the same: its times are the log's word.
	alone := *h
	alone.Checkpoint = w.checkpoint(len(w.texts))
	if _, err := alone.Verify(w.policy, proof.HistoryOptions{Now: last.Opened - 86_400_001}); !errors.Is(err, proof.ErrAhead) || errors.Is(err, proof.ErrNotWitnessed) {
		t.Error(err)
	}
	// Whoever dates a history in the future hides no other fault by that.
	cut := w.history(0, 2, w.alice)
	drop(cut, late)
	drop(cut, w.at(w.alice, 1).index)
	refused(cut, last.Opened-86_400_001, fmt.Sprintf("entry %d (epoch 1): in a roll, and left out", w.at(w.alice, 1).index))
	refused(cut, 1, "left out")
	w.prove(h)
	if v, err := h.Verify(w.policy, proof.HistoryOptions{Now: last.Opened - 86_400_000}); err != nil || !v.Complete() {
		t.Error("a clock that is behind by a day:", err)
	}

	// The last marker, in the log as it is, goes back in time.
	last.Opened = must(proof.ParseEntry(h.Markers[2])).(proof.Marker).Opened - 1
	h.Markers[3] = must(proof.EntryText(last))
	w.texts[last.At()], w.hashes[last.At()] = h.Markers[3], refLeaf(h.Markers[3])
	h.Checkpoint = w.checkpoint(len(w.texts), 0, 1)
	refused(h, now, "epoch 3: its marker is of an earlier time than the one before")
}

// TestHistoryBackdated: a promise of retention that was written afterwards, dated back to an epoch of which no closing marker is shown, accounts for nothing.
func TestHistoryBackdated(t *testing.T) {
	w := &historyWorld{world: emptyWorld("backdated")}
	until := proof.Time(1_765_300_000_000) // 2025-12-09
	w.open()
	gone := w.file(proof.KindDisclosure, w.alice)
	w.open()
	w.later = 12 * 86_400_000
	w.open() // after the end of the month
	late := proof.Index(len(w.texts))
	w.texts = append(w.texts, must(proof.EntryText(proof.KeyChanged{Epoch: 1, Key: "record.2025-11", Use: proof.UseRecord, State: proof.Active, Until: until})))
	w.hashes = append(w.hashes, refLeaf(w.texts[late]))
	w.open()
	w.open()
	w.add(proof.KeyChanged{Key: "record.2025-11", Use: proof.UseRecord, State: proof.Destroyed, Until: until})
	w.open()
	for want, change := range map[string]func(*proof.History){
		fmt.Sprintf("entry %d: it says epoch 1 and stands in another", late):                                   func(*proof.History) {},
		fmt.Sprintf("entry %d: no marker that closes its epoch 1 is shown", late):                              func(h *proof.History) { drop(h, w.epochs[2].opener) },
		fmt.Sprintf("entry %d (epoch 0): its record is not open, and neither an end of retention", gone.index): func(h *proof.History) { drop(h, late) },
	} {
		h := w.history(0, 0, w.alice)
		entry(h, gone.index).Opening = proof.Opening{}
		change(h)
		w.prove(h)
		if _, err := h.Verify(w.policy, proof.HistoryOptions{Now: now}); !errors.Is(err, proof.ErrUnproven) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// TestHistoryWithheld: an open record may hide fields, and nobody takes it for a whole one.
func TestHistoryWithheld(t *testing.T) {
	w := newHistoryWorld()
	h := w.history(0, 2, w.alice)
	v := verify(t, w, h, proof.HistoryOptions{})
	if n, fields := v.Withheld(); n != 0 || fields != 0 {
		t.Errorf("%d fields of %d records are withheld from the person by their own history", fields, n)
	}
	var open []proof.Field
	for _, f := range proof.SchemaDisclosure.Fields() {
		if f.Name != "agency" && f.Name != "purpose" {
			open = append(open, f.Field)
		}
	}
	e := entry(h, w.at(w.alice, 0).index)
	e.Opening = e.Opening.Only(open...)
	e = entry(h, w.at(w.alice, 2).index)
	e.Opening = without(w.at(w.alice, 2).record) // erased, and all that is left of it is shown
	v = verify(t, w, h, proof.HistoryOptions{})
	if n, fields := v.Withheld(); n != 1 || fields != 2 || v.Entries[0].Withheld != 2 || v.Entries[0].State != proof.RecordOpen {
		t.Errorf("%d fields of %d records, %+v", fields, n, v.Entries[0])
	}
	if _, not := verdict.Words(&v, verdict.English); !strings.Contains(strings.Join(not, "\n"), "what 2 fields say in 1 record: you may read them, and the file hides them") {
		t.Errorf("%q", not)
	}
	e.Opening = e.Opening.Only()
	v = verify(t, w, h, proof.HistoryOptions{})
	if n, fields := v.Withheld(); n != 2 || fields < 20 {
		t.Errorf("%d fields of %d records", fields, n)
	}
}

func TestHistoriesCompared(t *testing.T) {
	w := newHistoryWorld()
	older := w.history(0, 1, w.alice)
	older.Checkpoint = w.checkpoint(int(w.epochs[2].opener)+1, 0, 1)
	for _, i := range []proof.Index{w.epochs[5].opener, w.epochs[5].opener + 1, w.epochs[5].opener + 2, w.epochs[6].opener} {
		drop(older, i)
	}
	older.Entries = slices.DeleteFunc(older.Entries, func(e proof.HistoryEntry) bool { return e.Index > w.epochs[2].opener })
	w.prove(older)
	h := w.history(0, 3, w.alice)
	v := verify(t, w, h, proof.HistoryOptions{Older: older})
	if !v.Compared || v.Extends || !slices.Equal(v.Common, []proof.EpochRange{{From: 0, To: 1}}) {
		t.Errorf("%+v", v)
	}
	if says, _ := verdict.Words(&v, verdict.English); !strings.Contains(strings.Join(says, "\n"), "In epochs 0 to 1 nothing that the older history shows is gone") {
		t.Error(says)
	}
	// Of other epochs nothing is known until somebody shows that one tree goes on from the other.
	v = verify(t, w, w.history(3, 3, w.alice), proof.HistoryOptions{Older: older})
	if says, not := verdict.Words(&v, verdict.English); !v.Compared || v.Common != nil || strings.Contains(strings.Join(says, "\n"), "older") || !strings.Contains(strings.Join(not, "\n"), "no epoch is in both") {
		t.Errorf("%+v %q %q", v.Common, says, not)
	}
	asked := 0
	v = verify(t, w, h, proof.HistoryOptions{Older: older, Consistent: func(small, large proof.Checkpoint) error {
		if asked++; small.Size() >= large.Size() {
			t.Error("the larger one first")
		}
		return nil
	}})
	if !v.Extends || asked != 1 {
		t.Errorf("%+v", v)
	}
	if v := verify(t, w, h, proof.HistoryOptions{Older: w.history(0, 2, w.alice)}); !v.Extends {
		t.Error("under the same tree")
	}

	// The same log, another past: the operator rewrote an entry.
	rewritten := newHistoryWorld()
	r := rewritten.record(proof.KindDisclosure, rewritten.alice)
	at := rewritten.at(rewritten.alice, 0)
	rewritten.texts[at.index] = must(proof.EntryText(proof.Disclosure{Epoch: 0, Commitment: r.Commitment()}))
	rewritten.hashes[at.index] = refLeaf(rewritten.texts[at.index])
	for i := range rewritten.filed {
		if rewritten.filed[i].index == at.index {
			rewritten.filed[i].record = r
		}
	}
	for i, text := range rewritten.texts { // whatever restarts say: their roots are of the other tree
		if bytes.HasPrefix(text, []byte("regard/restart")) {
			x := must(proof.ParseEntry(text)).(proof.Restart)
			x.Root = refRoot(rewritten.hashes[:x.Size])
			rewritten.texts[i] = must(proof.EntryText(x))
			rewritten.hashes[i] = refLeaf(rewritten.texts[i])
		}
	}
	for name, c := range map[string]struct {
		older *proof.History
		opt   proof.HistoryOptions
		want  string
		is    error
	}{
		"an entry was rewritten":     {rewritten.history(0, 2, w.alice), proof.HistoryOptions{}, fmt.Sprintf("entry %d is two different entries", at.index), proof.ErrFork},
		"trees of the same size":     {sameSize(w), proof.HistoryOptions{}, "two trees of", proof.ErrFork},
		"another marker":             {otherMarkers(w), proof.HistoryOptions{}, "epoch 1 has two markers", proof.ErrFork},
		"somebody else":              {w.history(0, 2, w.bob), proof.HistoryOptions{}, "no identifier is in both", proof.ErrSubject},
		"an older one that is wrong": {func() *proof.History { o := w.history(0, 2, w.alice); o.Nodes = nil; return o }(), proof.HistoryOptions{}, "older history: nodes", proof.ErrUnproven},
		"no proof of consistency":    {older, proof.HistoryOptions{Consistent: func(_, _ proof.Checkpoint) error { return proof.ErrFork }}, "is not shown to be the beginning", proof.ErrFork},
	} {
		t.Run(name, func(t *testing.T) {
			c.opt.Older, c.opt.Now = c.older, now
			v, err := h.Verify(w.policy, c.opt)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || v.State != 0 {
				t.Errorf("%v", err)
			}
		})
	}
}

// sameSize is a history of a log that has another last entry.
func sameSize(w *historyWorld) *proof.History {
	f := newHistoryWorld()
	f.texts = f.texts[:len(f.texts)-1]
	f.hashes = f.hashes[:len(f.hashes)-1]
	f.filed = f.filed[:len(f.filed)-1]
	f.file(proof.KindDisclosure, f.bob)
	return f.history(0, 2, w.alice)
}

// otherMarkers is a history of a log whose epoch 0 was closed at another time.
func otherMarkers(w *historyWorld) *proof.History {
	f := &historyWorld{world: emptyWorld("history world")}
	f.open()
	f.file(proof.KindDisclosure, f.alice)
	f.open()
	f.file(proof.KindDisclosure, f.alice)
	f.open()
	return f.history(0, 1, w.alice) // the first marker is the same: so are the keys
}

func TestHistoryBadInput(t *testing.T) {
	w := newHistoryWorld()
	good := text(t, w.history(0, 2, w.alice))
	swap := func(old, new string) []byte {
		out := bytes.Replace(good, []byte(old), []byte(new), 1)
		if bytes.Equal(out, good) {
			t.Fatalf("no %q", old)
		}
		return out
	}
	tiny := func(n int) []byte {
		var b bytes.Buffer
		i := bytes.Index(good, []byte(`"entries":[`)) + len(`"entries":[`)
		b.Write(good[:i])
		for k := range n {
			if k > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"index":%d,"text":"regard/x@v1\u000aepoch 0\u000a"}`, k)
		}
		j := i + bytes.Index(good[i:], []byte(`],"epochs":`))
		b.Write(good[j:])
		return b.Bytes()
	}
	for name, c := range map[string]struct {
		in   []byte
		want string
	}{
		"0 bytes":                   {nil, "the file is empty"},
		"100 MB":                    {make([]byte, 100<<20), "more than 67108864 bytes"},
		"no JSON":                   {[]byte("regard/receipt@v1\n"), "wrong at byte 0"},
		"deep nesting":              {[]byte(`{"auditors":` + strings.Repeat("[", 1<<20)), "nested deeper than 32: wrong at byte 43"},
		"deep nesting closed":       {[]byte(`{"auditors":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`), "wrong at byte 43"},
		"more after it":             {append(slices.Clone(good), '\n'), "and more follows"},
		"white space":               {swap(`,"nodes"`, `, "nodes"`), "wrong at byte"},
		"unknown version":           {swap("history@v1", "history@v2"), "schema is not regard/history@v1"},
		"another object":            {[]byte(`{"a":1}`), "schema is not regard/history@v1"},
		"a member missing":          {swap(`"auditors":[],`, ``), `want ["auditors"`},
		"an unknown member":         {swap(`"audits":[],`, `"audits":[],"b":1,`), "not known or not in its place"},
		"wrong base64":              {swap(`"nodes":"`, `"nodes":"!`), "history.epochs[0].nodes: base64"},
		"wrong base64 above":        {[]byte(strings.Replace(string(good), `,"nodes":"`+string(good[bytes.LastIndex(good, []byte(`"nodes":"`))+9:][:4]), `,"nodes":"AAA`, 1)), "base64"},
		"two epochs too few":        {swap(`"epochs":[`, `"epochs":[null,`), "history.epochs: 4 epochs between 4 markers"},
		"no subject":                {[]byte(strings.Replace(string(good), string(good[bytes.Index(good, []byte(`"subjects":[`))+12:bytes.Index(good, []byte(`],"values"`))]), "", 1)), "history.subjects: none"},
		"a subject that is none":    {swap(`{"type":"pivot","value":"LEFEVRE`, `{"type":"pivot","value":"Lefevre`), "history.subjects[0]: no canonical form"},
		"10^6 tiny entries":         {tiny(1_000_000), "history.entries: more than 100000 items"},
		"tiny entries twice":        {swap(`"entries":[`, `"entries":[{"index":9223372036854775807,"text":"regard/x@v1\u000aepoch 0\u000a"},`), "history.entries[1].index: entries are not in increasing order"},
		"a value that isn't there":  {swap(`"fields":[`, `"fields":[99999999,`), "fields[0]: no such value"},
		"a checkpoint that is none": {swap(`"checkpoint":"`, `"checkpoint":"","checks":"`), "not known"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := proof.ParseHistory(c.in)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, proof.ErrFormat) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 96<<20 {
				t.Errorf("it took %d MiB to find out", used>>20)
			}
			if err != nil && strings.Contains(err.Error(), "LEFEVRE") {
				t.Error("the error names the person")
			}
		})
	}
	var none proof.History
	if _, err := none.Verify(w.policy, proof.HistoryOptions{}); !errors.Is(err, proof.ErrSignature) && !errors.Is(err, proof.ErrUnproven) {
		t.Error(err)
	}
	if _, err := (*proof.History)(nil).Verify(w.policy, proof.HistoryOptions{}); !errors.Is(err, proof.ErrUnproven) {
		t.Error(err)
	}
	if _, err := none.AppendText(nil); !errors.Is(err, proof.ErrFormat) {
		t.Error(err)
	}
}

// TestHistoryValuesStayShared: a small file can't make its reader hold, or write, a large value again for each of its records.
func TestHistoryValuesStayShared(t *testing.T) {
	w := newHistoryWorld()
	good := text(t, w.history(0, 2, w.alice))
	long := strings.Repeat("x", 60_000)
	for name, c := range map[string]struct{ value, field, want string }{
		"parted elsewhere": {`{"a":"` + long + `","time":`, `[0,"%d,\"z\":{\"time\":1}}"]`, `parted at another place than after the last "time":`},
		"not parted":       {`{"a":1,"time":1,"z":"` + long + `"}`, `0`, "want the number of the part up to the time"},
		"parted in two":    {`{"a":"` + long + `"}`, `[0,"%d"]`, "parted at another place"},
	} {
		t.Run(name, func(t *testing.T) {
			i := bytes.Index(good, []byte(`"entries":[`)) + len(`"entries":[`)
			j := i + bytes.Index(good[i:], []byte(`],"epochs":`))
			k := bytes.LastIndex(good, []byte(`"values":[`)) + len(`"values":[`)
			b := bytes.NewBuffer(slices.Clone(good[:i]))
			for n := range 2000 {
				if n > 0 {
					b.WriteByte(',')
				}
				in := c.field
				if strings.Contains(in, "%d") {
					in = fmt.Sprintf(in, n)
				}
				fmt.Fprintf(b, `{"index":%d,"opening":{"fields":[%s%s%s],"salts":"%s","schema":1},"text":"regard/x@v1\u000aepoch 0\u000a"}`,
					n, strings.Repeat("null,", 19), in, strings.Repeat(",null", 7), strings.Repeat("AAAA", 27*32/3))
			}
			b.Write(good[j:k])
			fmt.Fprintf(b, `"%s"]}`, strings.ReplaceAll(c.value, `"`, `\"`))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := proof.ParseHistory(b.Bytes())
			runtime.ReadMemStats(&after)
			if !errors.Is(err, proof.ErrFormat) || !strings.Contains(err.Error(), "history.entries[0].opening.fields[19]: "+c.want) {
				t.Errorf("%.200v; want %q", err, c.want)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
				t.Errorf("%d bytes made it take %d MiB", b.Len(), used>>20)
			}
		})
	}
}

// TestHistoryOfManyNotices: a log that says thousands of things about its keys doesn't keep its readers busy for hours.
func TestHistoryOfManyNotices(t *testing.T) {
	w := &historyWorld{world: emptyWorld("many notices")}
	until := proof.Time(1_765_300_000_000)
	w.open()
	w.add(proof.KeyChanged{Key: "record.2025-11", Use: proof.UseRecord, State: proof.Active, Until: until})
	for range 2000 {
		w.file(proof.KindDisclosure, w.alice)
	}
	w.open()
	w.later = 12 * 86_400_000
	for range 3 {
		w.open()
	}
	for range 4000 { // of a key that nothing was promised for
		w.add(proof.KeyChanged{Key: "record.2025-10", Use: proof.UseRecord, State: proof.Destroyed})
	}
	w.add(proof.KeyChanged{Key: "record.2025-11", Use: proof.UseRecord, State: proof.Destroyed, Until: until})
	w.open()
	h := w.history(0, 0, w.alice)
	for i := range h.Entries {
		h.Entries[i].Opening = proof.Opening{}
	}
	start := time.Now()
	v := verify(t, w, h, proof.HistoryOptions{})
	if n := v.Count(proof.RecordRetired); n != 2000 {
		t.Errorf("%d records are retired", n)
	}
	if took := time.Since(start); took > 5*time.Minute { // on any machine; hours were wanted
		t.Errorf("it took %v", took)
	}
}

// TestHistoryFlip: no byte of a history can be changed without somebody noticing.
func TestHistoryFlip(t *testing.T) {
	w := newHistoryWorld()
	h := w.history(0, 2, w.alice, w.corp)
	w.audit(h, 2)
	good := text(t, h)
	for i := 0; i < len(good); i += 37 {
		bad := slices.Clone(good)
		bad[i] ^= 1 << (i % 7)
		h, err := proof.ParseHistory(bad)
		if err != nil {
			continue
		}
		if _, err := h.Verify(w.policy, proof.HistoryOptions{Now: now}); err == nil {
			t.Errorf("byte %d: %q in place of %q, and it is proven: …%q…", i, bad[i], good[i], good[max(i-30, 0):i+30])
		}
	}
}

package proof_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// A hunk replaces cut bytes at an offset of a good example.
type hunk struct {
	At  int    `json:"at"`
	Cut int    `json:"cut"`
	Put string `json:"put"`
}

// hunks says how a text differs from a good one, member by member: a history is long.
func hunks(good, bad string) []hunk {
	var out []hunk
	members := func(s string) (at []int) {
		for _, name := range []string{"auditors", "audits", "checkpoint", "entries", "epochs", "markers", "nodes", "schema", "subjects", "values"} {
			if i := strings.LastIndex(s, `"`+name+`":`); i >= 0 {
				at = append(at, i)
			}
		}
		return append(at, len(s))
	}
	g, b := members(good), members(bad)
	if len(g) != len(b) {
		g, b = []int{0, len(good)}, []int{0, len(bad)}
	}
	for i := 1; i < len(g); i++ {
		x, y := good[g[i-1]:g[i]], bad[b[i-1]:b[i]]
		if x == y {
			continue
		}
		n := 0
		for n < len(x) && n < len(y) && x[n] == y[n] {
			n++
		}
		m := 0
		for m < len(x)-n && m < len(y)-n && x[len(x)-1-m] == y[len(y)-1-m] {
			m++
		}
		out = append(out, hunk{g[i-1] + n, len(x) - n - m, y[n : len(y)-m]})
	}
	return out
}

type historyEntryVector struct {
	Index proof.Index `json:"index"`
	State string      `json:"state"`
}

func historyVectors() vectorFile {
	w := newHistoryWorld()
	v := vectorFile{Format: "history (section 7) under a policy, at the time now, the checkpoint's witnesses not asked for",
		Notes:  "good: what is proven; ended: epochs whose label key was destroyed; lost: entries at most that are in nobody's roll; bad: the good example with the number `of`, in which at each offset `at` (in bytes, of the good example) `cut` bytes are replaced by `put`",
		Common: vector{"policy": w.policyText, "now": now}}
	var texts []string
	good := func(h *proof.History, note string) {
		text := must(h.AppendText(nil))
		d := must(must(proof.ParseHistory(text)).Verify(w.policy, proof.HistoryOptions{Now: now, AllowProvisional: true}))
		entries := []historyEntryVector{}
		for _, e := range d.Entries {
			entries = append(entries, historyEntryVector{e.Index, e.State.String()})
		}
		v.Good = append(v.Good, vector{"text": string(text), "note": note, "state": d.State.String(), "from": d.Epochs.From, "to": d.Epochs.To, "entries": entries, "ended": len(d.Ended),
			"lost": d.LostEntries, "lost_rolls": d.LostRolls, "pending": d.Deferrals.Pending, "counted": d.Deferrals.Counted, "unaudited": d.Unaudited})
		texts = append(texts, string(text))
	}
	full := func() *proof.History {
		h := w.history(0, 2, w.alice, w.corp)
		w.audit(h, 0)
		return h
	}
	good(full(), "two identifiers, an audited index, a delay that ended and one that didn't")
	h := w.history(3, 4, w.alice)
	e := entry(h, w.at(w.alice, 7).index)
	e.Opening = without(w.at(w.alice, 7).record)
	last := w.erasures[1]
	h.Entries = append(h.Entries, proof.HistoryEntry{Index: last.index, Text: w.texts[last.index], Opening: without(last.record)})
	h.Checkpoint = w.checkpoint(len(w.texts))
	w.prove(h)
	good(h, "provisional; lost entries, and an erasure that stands in no closed epoch")
	undated := *h
	undated.Entries = slices.Clone(h.Entries)
	drop(&undated, w.epochs[1].opener)
	w.prove(&undated)
	h = w.history(0, 1, w.alice)
	h.Epochs[0] = proof.HistoryEpoch{}
	for _, f := range w.filed {
		if f.index < w.epochs[1].opener && f.subject.Equal(w.alice) {
			drop(h, f.index)
		}
	}
	w.prove(h)
	good(h, "the label key of epoch 0 was destroyed at the end of its retention")
	good(w.history(4, 4, w.empty), "nobody's: an empty bucket of an empty epoch")

	delayed, _, _ := newDelayedWorld()
	good(delayed.history(0, 1, delayed.alice), "a delay that ended, and with it that of an access to the record")

	good(sameSize(w), "of another tree of the same size than the first: together they are a fork")

	bad := func(of int, text, reason string) {
		if text == texts[of] {
			panic(reason + ": not changed")
		}
		v.Bad = append(v.Bad, vector{"of": of, "hunks": hunks(texts[of], text), "reason": reason})
	}
	made := func(reason string, change func(h *proof.History)) {
		h := full()
		change(h)
		bad(0, string(must(h.AppendText(nil))), reason)
	}
	swap := func(reason, old, new string) { bad(0, strings.Replace(texts[0], old, new, 1), reason) }
	mine, second := w.at(w.alice, 0), w.at(w.alice, 2)
	made("an entry is left out, and all proofs are made again", func(h *proof.History) { drop(h, mine.index); w.prove(h) })
	made("a stranger's entry", func(h *proof.History) {
		b := w.at(w.bob, 0)
		h.Entries = append(h.Entries, proof.HistoryEntry{Index: b.index, Text: w.texts[b.index], Opening: b.record.Open(proof.ReaderPerson)})
		w.prove(h)
	})
	made("a leaf of a roll is not open", func(h *proof.History) {
		l := h.Epochs[1].Rolls[0].Leaves
		for i := range l {
			if !l[i].Dummy() {
				drop(h, l[i].Index)
				l[i] = proof.OpenLeaf{Index: 1<<64 - 1, Salt: [32]byte{1}}
			}
		}
		w.prove(h)
	})
	made("a roll is not open", func(h *proof.History) { h.Epochs[0].Rolls[0].Leaves = nil })
	made("a roll is said to be lost in an epoch where nothing was", func(h *proof.History) { h.Epochs[0].Rolls[0] = proof.HistoryRoll{Lost: true} })
	made("a bucket out of order", func(h *proof.History) { slices.Reverse(h.Epochs[0].Buckets[0]) })
	made("an item is left out of a bucket", func(h *proof.History) { h.Epochs[0].Buckets[0] = h.Epochs[0].Buckets[0][1:] })
	made("an epoch is skipped", func(h *proof.History) {
		h.Markers, h.Epochs = slices.Delete(h.Markers, 1, 2), slices.Delete(h.Epochs, 1, 2)
	})
	made("a second marker for an epoch", func(h *proof.History) {
		h.Markers, h.Epochs = slices.Insert(h.Markers, 2, h.Markers[1]), slices.Insert(h.Epochs, 1, h.Epochs[1])
	})
	made("the last marker is not in the log", func(h *proof.History) {
		m, _ := must(proof.ParseEntry(h.Markers[3])).(proof.Marker)
		m.Until++
		h.Markers[3] = must(proof.EntryText(m))
	})
	made("openings are swapped", func(h *proof.History) {
		a, b := entry(h, mine.index), entry(h, second.index)
		a.Opening, b.Opening = b.Opening, a.Opening
	})
	made("a record is not open, and its retention isn't over as far as is shown", func(h *proof.History) {
		drop(h, w.epochs[5].opener+1)
		w.prove(h)
		entry(h, mine.index).Opening = proof.Opening{}
	})
	made("a person part is not open, and somebody else's erasure covers it", func(h *proof.History) {
		drop(h, w.epochs[5].opener+1)
		w.prove(h)
		entry(h, w.at(w.corp, 0).index).Opening = without(w.at(w.corp, 0).record)
	})
	made("an epoch is left out whose label key is in force", func(h *proof.History) { h.Epochs[1] = proof.HistoryEpoch{} })
	made("a pending delay is left out", func(h *proof.History) { drop(h, w.bobs.index); w.prove(h) })
	made("the delay that an entry ends is not shown", func(h *proof.History) { drop(h, w.delayed.index); w.prove(h) })
	made("an audit of another epoch", func(h *proof.History) { h.Audits[0].Epoch, h.Audits[0].Entries = 1, 2 })
	made("a hash too many", func(h *proof.History) { h.Nodes = append(h.Nodes, proof.Hash{1}) })
	made("another tree of the same size", func(h *proof.History) { h.Checkpoint = sameSize(w).Checkpoint })
	bad(1, string(must(undated.AppendText(nil))), "no marker is shown that closes the epoch of a notice about a key")
	swap("another version", "history@v1", "history@v2")
	swap("white space", `,"nodes":`, `, "nodes":`)
	swap("base64 that is not canonical", `,"nodes":"`, `,"nodes":"=`)
	swap("a subject that is not canonical", `"value":"LEFEVRE`, `"value":"Lefevre`)
	swap("an unknown member", `"audits":`, `"audit":0,"audits":`)
	bad(0, texts[0]+"\n", "more after the object")
	bad(0, "", "empty")
	i := strings.LastIndex(texts[0], `"values":["`) + len(`"values":[`)
	bad(0, texts[0][:i]+`"none uses this",`+texts[0][i:], "a value in the table that nothing refers to")
	return v
}

// historyVector checks a published example as another implementation would.
func historyVector(common, v map[string]json.RawMessage) error {
	p, err := proof.ParsePolicy([]byte(str(common, "policy")))
	if err != nil {
		return err
	}
	at, err := strconv.ParseInt(str(common, "now"), 10, 64)
	if err != nil {
		return err
	}
	text := str(v, "text")
	if raw, ok := v["hunks"]; ok {
		var list []hunk
		of, err := strconv.Atoi(str(v, "of"))
		if err == nil {
			err = json.Unmarshal(raw, &list)
		}
		var good []map[string]json.RawMessage
		if err == nil {
			err = json.Unmarshal(common["good"], &good)
		}
		if err != nil {
			panic(err)
		}
		text = str(good[of], "text")
		for _, h := range slices.Backward(list) {
			text = text[:h.At] + h.Put + text[h.At+h.Cut:]
		}
	}
	h, err := proof.ParseHistory([]byte(text))
	if err != nil {
		return err
	}
	d, err := h.Verify(p, proof.HistoryOptions{Now: proof.Time(at), AllowProvisional: true})
	if err != nil {
		return err
	}
	entries := []historyEntryVector{}
	for _, e := range d.Entries {
		entries = append(entries, historyEntryVector{e.Index, e.State.String()})
	}
	var compact bytes.Buffer
	if raw, ok := v["entries"]; ok {
		if err := json.Compact(&compact, raw); err != nil {
			return err
		}
	}
	for _, c := range []struct{ what, got, want string }{
		{"entries", string(must(json.Marshal(entries))), compact.String()}, {"state", d.State.String(), str(v, "state")},
		{"from", d.Epochs.From.String(), str(v, "from")}, {"to", d.Epochs.To.String(), str(v, "to")}, {"ended", fmt.Sprint(len(d.Ended)), str(v, "ended")},
		{"lost", fmt.Sprint(d.LostEntries), str(v, "lost")}, {"lost_rolls", fmt.Sprint(d.LostRolls), str(v, "lost_rolls")},
		{"pending", fmt.Sprint(d.Deferrals.Pending), str(v, "pending")}, {"counted", fmt.Sprint(d.Deferrals.Counted), str(v, "counted")}, {"unaudited", fmt.Sprint(d.Unaudited), str(v, "unaudited")},
	} {
		if c.got != c.want {
			return errors.New(c.what + " is " + c.got + ", want " + c.want)
		}
	}
	return nil
}

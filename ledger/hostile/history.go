package hostile

import (
	"maps"
	"slices"

	"github.com/regard-broker/regard/ledger/proof"
)

// History returns what a person is given about the closed epochs from and to, both included, and what lies between them, under one identifier.
func (o *Operator) History(s proof.Subject, from, to proof.Epoch) *proof.History {
	size := o.Size()
	h := &proof.History{Checkpoint: o.Checkpoint(size), Subjects: []proof.Subject{s}, Markers: [][]byte{o.Text(o.Epochs[from].Opener)}}
	wanted := map[proof.Index]proof.Opening{}
	for _, e := range o.Epochs[from : to+1] {
		h.Markers = append(h.Markers, o.Text(e.Closer))
		z, vrf := e.Key.Prove(s, e.Number)
		bucket, _ := e.Bucket(z)
		he := proof.HistoryEpoch{Labels: [][]byte{vrf}, Buckets: [][]proof.Item{bucket.Items}, Rolls: make([]proof.HistoryRoll, 1)}
		for _, span := range proof.ProofSpans(e.index.size(), []uint64{bucket.Number}, nil) {
			he.Nodes = append(he.Nodes, e.index.span(span))
		}
		if r := e.Rolls[z]; r != nil {
			he.Rolls[0].Leaves = r.Open()
			for _, i := range e.Filed[z] {
				wanted[i] = o.opening(i)
			}
		}
		h.Epochs = append(h.Epochs, he)
	}
	for _, f := range o.Filings {
		if f.Kind == proof.KindErasure && f.Subject.Equal(s) && f.Index > o.Epochs[to].Closer {
			wanted[f.Index] = o.opening(f.Index)
		}
	}
	o.explain(wanted, o.Epochs[from].Opener, o.Epochs[to].Closer)
	for _, i := range slices.Sorted(maps.Keys(wanted)) {
		h.Entries = append(h.Entries, proof.HistoryEntry{Index: i, Text: o.Text(i), Opening: wanted[i]})
	}
	if o.Cheats.History != nil {
		o.Cheats.History(o, h)
	}
	o.prove(h)
	return h
}

// opening opens an entry's record for its person.
func (o *Operator) opening(i proof.Index) proof.Opening {
	for _, f := range o.Filings {
		if f.Index == i {
			if r := o.record(f, proof.ReaderPerson); r != nil {
				return r.Open(proof.ReaderPerson)
			}
		}
	}
	return proof.Opening{}
}

// explain adds the entries that are in nobody's roll and that a history needs: keys, restarts, delays that are pending or that ended in it, and the markers that date them.
func (o *Operator) explain(wanted map[proof.Index]proof.Opening, first, last proof.Index) {
	pending, markers := map[proof.Index]bool{}, map[proof.Epoch]bool{}
	for i := range proof.Index(o.Size()) {
		e, err := proof.ParseEntry(o.Text(i))
		if err != nil {
			continue
		}
		switch x := e.(type) {
		case proof.KeyChanged:
			wanted[i] = proof.Opening{}
			markers[x.Epoch] = true
			markers[x.Epoch+1] = int(x.Epoch)+1 < len(o.Epochs) // #nosec G115 -- small
		case proof.Restart:
			wanted[i] = proof.Opening{}
		case proof.Deferred:
			pending[i] = i < last
		case proof.Opened:
			if _, mine := wanted[i]; mine {
				d := o.EpochOf(x.Deferred).Number
				markers[d], markers[d+1] = true, true
			} else if i < last {
				pending[x.Deferred] = false
			}
		}
	}
	for i, is := range pending {
		if is {
			wanted[i] = proof.Opening{}
		}
	}
	for e, is := range markers {
		if !is {
			continue
		}
		if at := o.Epochs[e].Opener; at < first || at > last {
			wanted[at] = proof.Opening{}
		}
	}
}

// prove shows that the last marker and all entries are in the log, if they are.
func (o *Operator) prove(h *proof.History) {
	leaves := map[uint64]bool{}
	if m, ok := must(proof.ParseEntry(h.Markers[len(h.Markers)-1])).(proof.Marker); ok {
		leaves[uint64(m.At())] = true
	}
	prefixes := map[uint64]bool{}
	for _, e := range h.Entries {
		leaves[uint64(e.Index)] = true
		if r, ok := must(proof.ParseEntry(e.Text)).(proof.Restart); ok {
			prefixes[r.Size] = true
		}
	}
	h.Nodes = nil
	for _, span := range proof.ProofSpans(o.Size(), slices.Sorted(maps.Keys(leaves)), slices.Sorted(maps.Keys(prefixes))) {
		h.Nodes = append(h.Nodes, o.log.span(span))
	}
}

package proof_test

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/regard-broker/regard/ledger/proof"
	"golang.org/x/mod/sumdb/note"
)

// historyWorld is a log in which all happens that a history has to explain.
//
//	epoch 0  keys, an auditor; disclosures of alice and bob, a delay for bob that never ends
//	epoch 1  a disclosure of alice and one of corp, a delay for alice
//	epoch 2  that delay ends; an erasure of alice; a disclosure of bob
//	epoch 3  disclosures of alice; one of them is lost with a restored backup, and so is one of nobody knows whom
//	epoch 4  nothing
//	epoch 5  opens when the retention of epoch 0 is over: its keys are destroyed
//	epoch 6  is open; another erasure of alice
type historyWorld struct {
	*world
	auditor  note.Signer
	vkey     string
	bobs     filed // the delay that never ends
	delayed  filed
	erasures []filed
	lost     []filed
	empty    proof.Subject // of whom there is nothing
}

func newHistoryWorld() *historyWorld {
	w := &historyWorld{world: emptyWorld("history world")}
	var skey string
	skey, w.vkey = must2(note.GenerateKey(&detRand{seed: "auditor"}, "audit.example/cour"))
	w.auditor = must(note.NewSigner(skey))
	w.empty = must(proof.SIREN("356000000"))
	until := proof.Time(1_765_300_000_000) // 2025-12-09

	w.open()
	w.add(proof.KeyChanged{Key: "record.2025-11", Use: proof.UseRecord, State: proof.Active, Until: until})
	label := proof.KeyChanged{Key: "label.2025-11", Use: proof.UseLabel, State: proof.Active, Public: proof.Hash(w.epochs[0].key.Public()), Until: until}
	w.add(label)
	w.add(proof.KeyChanged{Key: "auditor.cour", Use: proof.UseAuditor, State: proof.Active, Public: proof.AuditorKey(w.vkey)})
	w.file(proof.KindDisclosure, w.alice)
	w.file(proof.KindDisclosure, w.bob)
	w.file(proof.KindAccess, w.alice)
	w.bobs = w.file(proof.KindDeferred, w.bob)
	w.file(proof.KindDisclosure, w.alice)
	w.open()
	w.file(proof.KindDisclosure, w.alice)
	w.file(proof.KindDisclosure, w.corp)
	w.delayed = w.file(proof.KindDeferred, w.alice)
	w.open()
	w.opened(w.delayed)
	w.erase(w.alice)
	w.file(proof.KindDisclosure, w.bob)
	w.open()
	w.file(proof.KindDisclosure, w.alice)
	for _, s := range []proof.Subject{w.alice, w.bob} { // filed nowhere
		r := w.record(proof.KindDisclosure, s)
		w.lost = append(w.lost, filed{w.add(proof.Disclosure{Commitment: r.Commitment()}), s, r})
	}
	w.restart("restored", proof.Lost{From: w.lost[0].index, To: w.lost[1].index})
	w.file(proof.KindDisclosure, w.alice)
	w.open()
	w.later = 12 * 86_400_000
	w.open()
	w.add(proof.KeyChanged{Key: "record.2025-11", Use: proof.UseRecord, State: proof.Destroyed, Until: until})
	label.State = proof.Destroyed
	w.add(label)
	w.open()
	w.erase(w.alice)
	return w
}

func (w *historyWorld) erase(s proof.Subject) {
	r := must(proof.NewRecord(proof.SchemaErasure, w.rand))
	for _, err := range []error{r.SetSubject(s), r.SetText(proof.ErasureID, "3d1a5d2c-0000-4000-8000-000000000002"), r.SetIndex(proof.ErasureReach, proof.Index(len(w.texts)-1)),
		r.SetText(proof.ErasureGround, "request"), r.SetTime(proof.ErasureAskedAt, 1_764_000_002_000), r.SetTime(proof.ErasureErasedAt, 1_764_000_003_000)} {
		if err != nil {
			panic(err)
		}
	}
	f := filed{w.add(proof.Erasure{Commitment: r.Commitment()}), s, r}
	w.filed = append(w.filed, f)
	w.erasures = append(w.erasures, f)
}

func (w *historyWorld) restart(reason string, lost proof.Lost) proof.Index {
	size := len(w.texts)
	return w.add(proof.Restart{Reason: reason, Size: uint64(size), Root: refRoot(w.hashes[:size]), Lost: lost})
}

// without hides the person part of a record: it was erased.
func without(r *proof.Record) proof.Opening {
	return must(proof.OpenParts(nil, r.AppendAdminPart(nil))).Open(proof.ReaderPerson)
}

// history makes the history of subjects in epochs from to to, with nothing gone, under witnesses w1 and w2.
func (w *historyWorld) history(from, to int, subjects ...proof.Subject) *proof.History {
	h := &proof.History{Checkpoint: w.checkpoint(len(w.texts), 0, 1), Subjects: subjects, Markers: [][]byte{w.texts[w.epochs[from].opener]}}
	wanted := map[proof.Index]proof.Opening{}
	for n := from; n <= to; n++ {
		e := w.epochs[n]
		h.Markers = append(h.Markers, w.texts[e.closer])
		var he proof.HistoryEpoch
		var numbers []uint64
		for _, s := range subjects {
			z, vrf := e.key.Prove(s, proof.Epoch(n))
			he.Labels = append(he.Labels, vrf)
			numbers = append(numbers, z.BucketNumber(e.summary.Bits))
			var r proof.HistoryRoll
			if roll := e.rolls[z]; roll != nil {
				r.Leaves = roll.Open()
				for _, l := range r.Leaves {
					if !l.Dummy() {
						wanted[l.Index] = w.opening(l.Index)
					}
				}
			}
			he.Rolls = append(he.Rolls, r)
		}
		slices.Sort(numbers)
		numbers = slices.Compact(numbers)
		for _, b := range numbers {
			he.Buckets = append(he.Buckets, must(proof.ParseBucket(e.buckets[b])).Items)
		}
		for _, s := range proof.ProofSpans(uint64(len(e.leaves)), numbers, nil) {
			he.Nodes = append(he.Nodes, refRoot(e.leaves[s.From:s.To]))
		}
		h.Epochs = append(h.Epochs, he)
	}
	last := w.epochs[to].closer
	pending := map[proof.Index]bool{}
	epochs := map[proof.Epoch]bool{} // whose marker is needed
	for i, text := range w.texts {
		at := proof.Index(i)
		e, err := proof.ParseEntry(text)
		if err != nil {
			continue
		}
		switch x := e.(type) {
		case proof.KeyChanged:
			wanted[at] = proof.Opening{}
			epochs[x.Epoch] = true
			epochs[x.Epoch+1] = int(x.Epoch)+1 < len(w.epochs)
		case proof.Restart:
			wanted[at] = proof.Opening{}
		case proof.Deferred:
			if at < last {
				pending[at] = true
			}
		case proof.Opened:
			if _, mine := wanted[at]; mine {
				epochs[must(proof.ParseEntry(w.texts[x.Deferred])).In()] = true
				epochs[must(proof.ParseEntry(w.texts[x.Deferred])).In()+1] = true
			} else if at < last {
				delete(pending, x.Deferred)
			}
		}
	}
	for at := range pending {
		wanted[at] = proof.Opening{}
	}
	for e, is := range epochs {
		if is && (int(e) < from || int(e) > to+1) {
			wanted[w.epochs[e].opener] = proof.Opening{}
		}
	}
	for i, o := range wanted {
		h.Entries = append(h.Entries, proof.HistoryEntry{Index: i, Text: w.texts[i], Opening: o})
	}
	w.prove(h)
	return h
}

func (w *historyWorld) opening(i proof.Index) proof.Opening {
	for _, f := range w.filed {
		if f.index == i {
			return f.record.Open(proof.ReaderPerson)
		}
	}
	panic("not filed")
}

// prove sorts the entries and makes their proof again: what a hostile operator would do after a change.
func (w *historyWorld) prove(h *proof.History) {
	slices.SortStableFunc(h.Entries, func(a, b proof.HistoryEntry) int { return int(a.Index) - int(b.Index) })
	last, ok := must(proof.ParseEntry(h.Markers[len(h.Markers)-1])).(proof.Marker)
	if !ok {
		panic("no marker")
	}
	leaves := []uint64{uint64(last.At())}
	var prefixes []uint64
	for _, e := range h.Entries {
		leaves = append(leaves, uint64(e.Index))
		if entry, err := proof.ParseEntry(e.Text); err == nil {
			if r, ok := entry.(proof.Restart); ok {
				prefixes = append(prefixes, r.Size)
			}
		}
	}
	slices.Sort(leaves)
	slices.Sort(prefixes)
	cp := must(proof.VerifyCheckpoint(h.Checkpoint, w.policy))
	h.Nodes = nil
	for _, s := range proof.ProofSpans(cp.Size(), slices.Compact(leaves), slices.Compact(prefixes)) {
		h.Nodes = append(h.Nodes, refRoot(w.hashes[s.From:s.To]))
	}
}

// audit has the auditor cosign the index of an epoch.
func (w *historyWorld) audit(h *proof.History, n int) {
	e := w.epochs[n]
	m, ok := must(proof.ParseEntry(w.texts[e.closer])).(proof.Marker)
	if !ok {
		panic("no marker")
	}
	var filed uint64
	for _, c := range m.Closed.Counts {
		if c.Kind.Filed() {
			filed += c.N
		}
	}
	text := must(proof.IndexAudit{Origin: origin, Epoch: proof.Epoch(n), Marker: e.closer, Root: e.summary.Root, Items: e.summary.Items, Entries: filed}.AppendText(nil))
	sig := binary.BigEndian.AppendUint32(nil, w.auditor.KeyHash())
	h.Auditors = []string{w.vkey}
	h.Audits = append(h.Audits, proof.HistoryAudit{Epoch: proof.Epoch(n), Entries: filed, Signature: append(sig, must(w.auditor.Sign(text))...)})
}

// entry returns the entry at an index.
func entry(h *proof.History, i proof.Index) *proof.HistoryEntry {
	for n := range h.Entries {
		if h.Entries[n].Index == i {
			return &h.Entries[n]
		}
	}
	panic(fmt.Sprintf("no entry %d", i))
}

func drop(h *proof.History, i proof.Index) {
	h.Entries = slices.DeleteFunc(h.Entries, func(e proof.HistoryEntry) bool { return e.Index == i })
}

// otherKey is a key of the same name that is another log's.
func otherKey() string {
	pub := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	return must(note.NewEd25519VerifierKey(origin, pub))
}

package proof_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// What parses re-serialises to the same bytes; what doesn't wraps a sentinel.

func FuzzParseEntry(f *testing.F) {
	for _, e := range append(sampleEntries(), fullMarker(), laterMarker(600, 9)) {
		f.Add(must(proof.EntryText(e)))
	}
	for _, c := range badEntries() {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := proof.ParseEntry(in)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) {
				t.Fatalf("%v wraps no ErrFormat", err)
			}
			kind, _, herr := proof.ParseHead(in)
			if errors.Is(err, proof.ErrUnknown) != (herr == nil && !slices.Contains(proof.Kinds(), kind)) {
				t.Fatalf("%q: %v, but its head: %q %v", in, err, kind, herr)
			}
			// The short way of Verify accepts no entry that the parser refuses:
			// it would find it in a tree of this one leaf.
			if releasable(in) {
				t.Fatalf("Verify accepts what ParseEntry refuses: %q", in)
			}
			return
		}
		if out, err := e.AppendText(nil); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("%q re-serialises to %q, %v", in, out, err)
		}
		kind, epoch, err := proof.ParseHead(in)
		if err != nil || kind != e.Kind() || epoch != e.In() {
			t.Fatalf("head of %q: %s, %d, %v", in, kind, epoch, err)
		}
		if releasable(in) != (kind.Filed() || kind == proof.KindDeferred) {
			t.Fatalf("Verify and ParseEntry disagree on %q", in)
		}
	})
}

// releasable reports whether Verify takes text, in a tree that holds nothing
// else.
func releasable(text []byte) bool {
	w := &fuzzWorld
	lw := &world{signer: w.signer, policy: w.policy, hashes: []proof.Hash{refLeaf(text)}}
	_, err := proof.Verify(lw.verified(1), []proof.Proven{{Text: text}})
	return err == nil
}

var fuzzWorld = *newWorld()

func FuzzParseSubject(f *testing.F) {
	for _, s := range []struct{ typ, value string }{
		{"pivot", "LEFEVRE|ANNE ELISE|1987-04-30|F|75056|99100"}, {"person", "LEFEVRE|ANNE|1987|"}, {"nir", "255081416802538"},
		{"ine", "0123456789A"}, {"france_travail", "dupont-42_X"}, {"siren", "130025265"}, {"pivot", "||||||"},
	} {
		f.Add(s.typ, s.value)
	}
	f.Fuzz(func(t *testing.T, typ, value string) {
		s, err := proof.ParseSubject(typ, value)
		if err != nil {
			if !errors.Is(err, proof.ErrSubject) {
				t.Fatalf("%v wraps no ErrSubject", err)
			}
			return
		}
		if string(s.Type()) != typ || s.Value() != value {
			t.Fatalf("%q %q becomes %q %q", typ, value, s.Type(), s.Value())
		}
		// Canonicalising the canonical form changes nothing.
		var again proof.Subject
		switch s.Type() {
		case proof.TypePivot:
			p, _ := s.Pivot()
			again, err = p.Subject()
		case proof.TypeNIR:
			again, err = proof.NIR(value)
		case proof.TypeINE:
			again, err = proof.INE(value)
		case proof.TypeFranceTravail:
			again, err = proof.FranceTravail(value)
		case proof.TypeSIREN:
			again, err = proof.SIREN(value)
		default:
			return
		}
		if err != nil || !again.Equal(s) {
			t.Fatalf("%s %q is canonical and becomes %q, %v", typ, value, again.Value(), err)
		}
	})
}

func FuzzFoldName(f *testing.F) {
	for _, s := range []string{"Lefèvre", "d'Artagnan", "Œuf", "\xff", "李", "ǆ", "Ǆ\u0301", "  a  b "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out := proof.FoldName(in)
		if again := proof.FoldName(out); again != out {
			t.Fatalf("FoldName(%q) = %q, folded again %q", in, out, again)
		}
		for i := range len(out) {
			if c := out[i]; !(c >= 'A' && c <= 'Z') && (c != ' ' || i == 0 || i == len(out)-1 || out[i-1] == ' ') {
				t.Fatalf("FoldName(%q) = %q", in, out)
			}
		}
	})
}

func FuzzParseOpening(f *testing.F) {
	for _, i := range []int{0, 2, 4} {
		fl := fuzzWorld.at(fuzzWorld.alice, i)
		for _, r := range []proof.Reader{proof.ReaderPerson, proof.ReaderAgency, proof.ReaderProvider, proof.ReaderAuditor} {
			f.Add(must(fl.record.Open(r).AppendText(nil)))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		o, err := proof.ParseOpening(in)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) {
				t.Fatalf("%v wraps no ErrFormat", err)
			}
			return
		}
		if out, err := o.AppendText(nil); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("%q re-serialises to %q, %v", in, out, err)
		}
		if n := o.Narrow(proof.ReaderProvider); n.Commitment() != o.Commitment() {
			t.Fatal("Narrow changes the commitment")
		}
	})
}

func FuzzOpenParts(f *testing.F) {
	for _, i := range []int{0, 2, 4} {
		r := fuzzWorld.at(fuzzWorld.alice, i).record
		f.Add(r.AppendPersonPart(nil), r.AppendAdminPart(nil))
	}
	f.Fuzz(func(t *testing.T, person, admin []byte) {
		r, err := proof.OpenParts(nil, admin)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) {
				t.Fatalf("%v wraps no ErrFormat", err)
			}
			return
		}
		if !bytes.Equal(r.AppendAdminPart(nil), admin) {
			t.Fatal("administrative part does not round trip")
		}
		if r, err := proof.OpenParts(person, admin); err == nil && person != nil {
			if !bytes.Equal(r.AppendAdminPart(nil), admin) || !bytes.Equal(r.AppendPersonPart(nil), person) {
				t.Fatal("parts do not round trip")
			}
		}
	})
}

func FuzzParseBucket(f *testing.F) {
	for _, e := range fuzzWorld.epochs[:2] {
		for _, b := range e.buckets {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := proof.ParseBucket(in)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) {
				t.Fatalf("%v wraps no ErrFormat", err)
			}
			return
		}
		if out, err := b.Leaf(); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("%x re-serialises to %x, %v", in, out, err)
		}
	})
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(fuzzWorld.policyText))
	f.Add([]byte("log " + fuzzWorld.vkey + "\nquorum none\n"))
	signed := fuzzWorld.checkpoint(len(fuzzWorld.texts), 0, 1, 2, 3)
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := proof.ParsePolicy(in)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) || p != nil {
				t.Fatalf("%v wraps no ErrFormat", err)
			}
			return
		}
		if cp, err := proof.VerifyCheckpoint(signed, p); err == nil && cp.Witnessed() && !p.Demands() {
			t.Fatal("witnessed without a quorum")
		}
	})
}

func FuzzVerifyCheckpoint(f *testing.F) {
	size := len(fuzzWorld.texts)
	f.Add(fuzzWorld.checkpoint(size))
	f.Add(fuzzWorld.checkpoint(size, 0, 1, 2, 3))
	for _, c := range badCheckpoints(&fuzzWorld) {
		f.Add([]byte(c.note))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		cp, err := proof.VerifyCheckpoint(in, fuzzWorld.policy)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) && !errors.Is(err, proof.ErrSignature) || !cp.IsZero() {
				t.Fatalf("%v wraps no sentinel, or a checkpoint came with it", err)
			}
			return
		}
		// The log's key signs nothing but this fixture: no other size verifies.
		if cp.Origin() != origin || cp.IsZero() {
			t.Fatal("a checkpoint of another log")
		}
	})
}

func FuzzParseReceipt(f *testing.F) {
	a := fuzzWorld.at(fuzzWorld.alice, 0)
	for _, r := range []*proof.Receipt{
		fuzzWorld.receipt(a, proof.ReaderPerson, nil, false),
		fuzzWorld.receipt(a, proof.ReaderProvider, []int{0, 1}, true),
		fuzzWorld.receipt(fuzzWorld.at(fuzzWorld.alice, 2), proof.ReaderPerson, []int{0, 1}, true),
		fuzzWorld.receipt(fuzzWorld.at(fuzzWorld.bob, 1), proof.ReaderAgency, []int{0, 1}, false),
	} {
		f.Add(must(r.AppendText(nil)))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := proof.ParseReceipt(in)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) {
				t.Fatalf("%v wraps no ErrFormat", err)
			}
			return
		}
		if out, err := r.AppendText(nil); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("re-serialises to other bytes, %v", err)
		}
		if v, err := r.Verify(fuzzWorld.policy, proof.VerifyOptions{}); err == nil && v.State < proof.Witnessed {
			t.Fatalf("%v accepted as %v", v.Index, v.State)
		}
	})
}

func FuzzParseEpochProof(f *testing.F) {
	w := &fuzzWorld
	nobody := must(proof.SIREN("356000000"))
	for n := range w.epochs[:2] {
		for _, s := range []proof.Subject{w.alice, nobody} {
			f.Add(must(w.epochProof(n, s).AppendText(nil)))
		}
	}
	cp := w.verified(len(w.texts), 0, 1)
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := proof.ParseEpochProof(in)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) {
				t.Fatalf("%v wraps no ErrFormat", err)
			}
			return
		}
		if out, err := p.AppendText(nil); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("re-serialises to other bytes, %v", err)
		}
		// There is one roll of a subject in an epoch, and one proof that says so.
		if e, err := p.Verify(cp, w.alice); err == nil && !bytes.Equal(in, must(w.epochProof(int(e.Epoch), w.alice).AppendText(nil))) {
			t.Fatalf("another proof for epoch %d", e.Epoch)
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	w := newHistoryWorld()
	for _, h := range []*proof.History{w.history(0, 2, w.alice, w.corp), w.history(3, 3, w.alice), w.history(1, 4, w.empty)} {
		f.Add(must(h.AppendText(nil)))
	}
	h := w.history(0, 0, w.alice)
	w.audit(h, 0)
	h.Epochs[0].Rolls[0] = proof.HistoryRoll{Lost: true}
	f.Add(must(h.AppendText(nil)))
	h.Epochs[0] = proof.HistoryEpoch{}
	f.Add(must(h.AppendText(nil)))
	f.Add([]byte(`{"schema":"regard/history@v1"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := proof.ParseHistory(in)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) {
				t.Fatalf("%v wraps no ErrFormat", err)
			}
			return
		}
		if out, err := h.AppendText(nil); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("%q re-serialises to %q, %v", in, out, err)
		}
		// Whatever it is, it is judged.
		if v, err := h.Verify(w.policy, proof.HistoryOptions{Now: now, AllowProvisional: true}); (err == nil) != (v.State != 0) {
			t.Fatalf("%v with the verdict %v", err, v.State)
		}
	})
}

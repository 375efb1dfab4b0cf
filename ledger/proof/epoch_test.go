package proof_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// A person gets exactly their entries of an epoch, or that there are none.
func TestEpochProof(t *testing.T) {
	w := newWorld()
	cp := w.verified(len(w.texts), 0, 1)
	nobody := must(proof.SIREN("356000000"))
	for n, e := range w.epochs[:2] {
		for _, s := range []proof.Subject{w.alice, w.bob, w.corp, nobody} {
			var want []proof.Index
			for _, f := range w.filed {
				if f.subject.Equal(s) && f.index > e.opener && f.index < e.closer && must(proof.ParseEntry(w.texts[f.index])).Kind().Filed() {
					want = append(want, f.index)
				}
			}
			got, err := w.epochProof(n, s).Verify(cp, s)
			if err != nil || !slices.Equal(got.Indexes, want) || got.Epoch != proof.Epoch(n) || got.Closed-got.Opened != 86_400_000 {
				t.Errorf("epoch %d, %v: %v %v, want %v", n, s, got.Indexes, err, want)
			}
		}
	}
	for name, f := range map[string]func(p *proof.EpochProof){
		"no leaves":               func(p *proof.EpochProof) { p.Leaves = nil },
		"another's leaves":        func(p *proof.EpochProof) { p.Leaves = w.epochProof(0, w.bob).Leaves },
		"leaves of another epoch": func(p *proof.EpochProof) { p.Leaves = w.epochProof(1, w.alice).Leaves },
		"another's label":         func(p *proof.EpochProof) { p.VRFProof = w.epochProof(0, w.bob).VRFProof },
		"the bucket emptied":      func(p *proof.EpochProof) { p.Bucket.Items, p.Leaves = nil, nil },
		"the next epoch's bucket": func(p *proof.EpochProof) {
			q := w.epochProof(1, w.alice)
			p.Bucket, p.BucketPath = q.Bucket, q.BucketPath
		},
		"the next epoch's marker": func(p *proof.EpochProof) { p.Marker = w.epochProof(1, w.alice).Marker },
		"the next epoch's opener": func(p *proof.EpochProof) {
			q := w.epochProof(1, w.alice)
			p.Opener, p.OpenerText = q.Opener, q.OpenerText
		},
		"a marker at another index": func(p *proof.EpochProof) { p.Marker.Index++ },
		"an entry as marker":        func(p *proof.EpochProof) { p.Marker = w.proven(2, len(w.texts)) },
		"the first marker":          func(p *proof.EpochProof) { p.Marker = w.proven(0, len(w.texts)) },
	} {
		p := w.epochProof(0, w.alice)
		f(p)
		if got, err := p.Verify(cp, w.alice); err == nil || got.Indexes != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Absence can't be dressed up with leaves, nor shown for somebody else.
	p := w.epochProof(0, nobody)
	p.Leaves = w.epochProof(0, w.bob).Leaves
	if _, err := p.Verify(cp, nobody); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("leaves without a roll: %v", err)
	}
	if _, err := w.epochProof(0, nobody).Verify(cp, w.alice); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("somebody else's absence: %v", err)
	}
	if _, err := w.epochProof(0, w.alice).Verify(proof.Checkpoint{}, w.alice); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("zero checkpoint: %v", err)
	}
	if _, err := w.epochProof(0, w.alice).Verify(cp, proof.Subject{}); !errors.Is(err, proof.ErrSubject) {
		t.Errorf("zero subject: %v", err)
	}
	if _, err := new(proof.EpochProof).Verify(cp, w.alice); err == nil {
		t.Error("zero proof accepted")
	}
}

func TestHashesInJSON(t *testing.T) {
	type all struct {
		H proof.Hash
		C proof.Commitment
		Z proof.Label
	}
	in := all{hashOf("h"), proof.Commitment(hashOf("c")), proof.Label(hashOf("z"))}
	b := must(json.Marshal(in))
	var out all
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%s: %v", b, err)
	}
	if err := json.Unmarshal([]byte(`{"H":"AAAA"}`), &out); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("a short hash: %v", err)
	}
}

func TestZeroRecordRefused(t *testing.T) {
	r := new(proof.Record)
	if err := r.SetText(0, "x"); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("Set: %v", err)
	}
	if err := r.Check(); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("Check: %v", err)
	}
	if _, p := r.Value(0); p != proof.Hidden || !r.Commitment().IsZero() || r.AppendPersonPart(nil) != nil || r.AppendAdminPart(nil) != nil || !r.Open(proof.ReaderPerson).IsZero() || r.Schema() != 0 {
		t.Error("the zero record holds something")
	}
}

package ledger

import (
	"context"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// inFiler is what the filer needs, with entries that have no label yet.
type inFiler struct {
	Store
	Labeler
	unfiled []Unfiled
	filed   []Filing
	asked   int
}

func (f *inFiler) Unfiled(_ context.Context, _ proof.Epoch, limit int) ([]Unfiled, error) {
	u := f.unfiled[:min(limit, len(f.unfiled))]
	f.unfiled = f.unfiled[len(u):]
	return u, nil
}

func (f *inFiler) File(_ context.Context, _ proof.Epoch, filings []Filing) error {
	f.filed = append(f.filed, filings...)
	return nil
}

func (f *inFiler) Label(_ context.Context, _ string, _ proof.Epoch, subjects []proof.Subject) ([]proof.Label, error) {
	f.asked += len(subjects)
	out := make([]proof.Label, len(subjects))
	for i, s := range subjects {
		copy(out[i][:], s.Value())
	}
	return out, nil
}

// Forget leaves nothing of the person and everything of the others; what is labelled after it has the same label.
func TestForget(t *testing.T) {
	ctx := context.Background()
	subject := func(s string) proof.Subject {
		x, err := proof.INE(s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	alice, bob := subject("0123456789A"), subject("0123456789B")
	f := &inFiler{}
	l := newLog(Config{Store: f, Labeler: f})
	l.Forget(alice) // nothing is known yet
	round := func(subjects ...proof.Subject) {
		t.Helper()
		for _, s := range subjects {
			f.unfiled = append(f.unfiled, Unfiled{Index: proof.Index(len(f.filed) + len(f.unfiled) + 1), Subject: s})
		}
		if n, err := l.fileRound(ctx, OpenEpoch{}); err != nil || n != len(subjects) {
			t.Fatalf("%d labelled, %v", n, err)
		}
	}
	round(alice, bob, alice)
	round(alice, bob)
	if f.asked != 2 {
		t.Errorf("%d labels were made, want 2", f.asked)
	}
	l.Forget(alice)
	if _, ok := l.files.known[key(alice)]; ok || len(l.files.known) != 1 {
		t.Errorf("%d subjects are known after Forget, want bob alone", len(l.files.known))
	}
	round(bob)
	if f.asked != 2 {
		t.Error("bob was forgotten too")
	}
	round(alice)
	if f.asked != 3 {
		t.Errorf("%d labels were made, want 3: alice's anew", f.asked)
	}
	if first, last := f.filed[0], f.filed[len(f.filed)-1]; first.Label != last.Label {
		t.Error("alice has another label after Forget")
	}
}

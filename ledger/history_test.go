package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// noLabels is a Labeler that has lost the key of one epoch.
type noLabels struct {
	ledger.Labeler
	epoch proof.Epoch
}

func (n noLabels) Prove(ctx context.Context, name string, epoch proof.Epoch, s proof.Subject) (proof.Label, []byte, error) {
	if epoch == n.epoch {
		return proof.Label{}, nil, fmt.Errorf("no key: %w", ledger.ErrLabelsOver)
	}
	return n.Labeler.Prove(ctx, name, epoch, s)
}

// A history made from the published tiles is verified by who knows the log's key alone, and holds what was filed.
func TestHistory(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.New(t)
	l := env.Open()
	if _, err := l.History(ctx, []proof.Subject{ledgertest.Person(0)}, 0, ledger.NewestEpoch); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("before any epoch is closed: %v", err)
	}
	openings := map[proof.Index]proof.Opening{}
	want := map[string]int{} // by canonical form: all are of one type
	add := func(people ...proof.Subject) {
		t.Helper()
		g, o := ledgertest.Disclosure(people...)
		a, err := l.Append(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		for i := range people {
			openings[a.Entries[i].Index] = o[i]
			want[people[i].Value()]++
		}
	}
	me, other, nobody := ledgertest.Person(0), ledgertest.Person(1), ledgertest.Person(7)
	for range 4 {
		for i := range 90 {
			add(ledgertest.Person(20+i), ledgertest.Person(200+i))
		}
		for range 6 {
			add(me, other)
		}
		add(me)
		turnEpoch(t, env, l)
	}
	add(me) // of the open epoch
	cp := env.Wait(l)

	finish := func(d *ledger.HistoryDraft) *proof.History {
		t.Helper()
		for _, f := range d.Filed {
			d.Add(f.Index, nil, openings[f.Index])
		}
		h, err := d.Prove(ctx)
		if err != nil {
			t.Fatal(err)
		}
		text, err := h.AppendText(nil)
		if err != nil {
			t.Fatal(err)
		}
		if h, err = proof.ParseHistory(text); err != nil {
			t.Fatal(err)
		}
		return h
	}
	d, err := l.History(ctx, []proof.Subject{other, me, nobody, me}, 0, ledger.NewestEpoch)
	if err != nil {
		t.Fatal(err)
	}
	v, err := finish(d).Verify(env.Policy, proof.HistoryOptions{AllowProvisional: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Entries) != want[me.Value()]-1+want[other.Value()] || !v.Complete() || v.Size != cp.Size() || v.Epochs != (proof.EpochRange{From: 0, To: 3}) || len(v.Subjects) != 3 {
		t.Errorf("%d entries, want %d; %+v", len(v.Entries), want[me.Value()]-1+want[other.Value()], v)
	}
	if d, err = l.History(ctx, []proof.Subject{nobody}, 2, 3); err != nil {
		t.Fatal(err)
	}
	if v, err := finish(d).Verify(env.Policy, proof.HistoryOptions{AllowProvisional: true}); err != nil || len(v.Entries) != 0 || v.Epochs.From != 2 {
		t.Errorf("%+v, %v", v, err)
	}
	for _, r := range [][2]proof.Epoch{{0, 4}, {3, 2}, {9, ledger.NewestEpoch}} {
		if _, err := l.History(ctx, []proof.Subject{me}, r[0], r[1]); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("epochs %d to %d: %v", r[0], r[1], err)
		}
	}

	// An epoch whose label key is gone is left out; only the log could explain that.
	env.Close(l)
	cfg := env.Config()
	cfg.Labeler = noLabels{cfg.Labeler, 1}
	l = env.OpenWith(cfg)
	env.Wait(l)
	if d, err = l.History(ctx, []proof.Subject{me}, 0, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := finish(d).Verify(env.Policy, proof.HistoryOptions{AllowProvisional: true}); !errors.Is(err, proof.ErrUnproven) || d.Epochs[1].Labels != nil || d.Epochs[2].Labels == nil {
		t.Errorf("%v", err)
	}

	// What the store says of an entry is compared with the log, and what the index's files say with its root.
	d.Entries[0].Text = d.Entries[1].Text
	if _, err := d.Prove(ctx); err == nil {
		t.Error("a text that was never signed is proven")
	}
	for _, name := range []string{"index/2/tile/entries/000.p", "index/2/tile/0/000.p"} {
		files, err := filepath.Glob(filepath.Join(env.Dir, filepath.FromSlash(name), "*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: %v, %v", name, files, err)
		}
		good, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte(nil), good...)
		for i := range bad {
			bad[i] ^= 1
		}
		if err := os.WriteFile(files[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := l.History(ctx, []proof.Subject{me}, 2, 2); !errors.Is(err, tiles.ErrCorrupt) {
			t.Errorf("%s is damaged: %v", name, err)
		}
		if err := os.WriteFile(files[0], good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// While the quorum of witnesses is missing, a history stands under the newest checkpoint that has it, unless epochs are asked for that this one doesn't cover.
func TestHistoryUnderWitnesses(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.NewInMemory(t)
	var on atomic.Bool
	on.Store(true)
	cfg := env.Config()
	cfg.Cosign = witnessed(t, env, &on)
	l := env.OpenWith(cfg)
	me := []proof.Subject{ledgertest.Person(7)}
	turnEpoch(t, env, l)
	env.Wait(l)
	on.Store(false)
	turnEpoch(t, env, l)
	env.Wait(l)
	for _, c := range []struct {
		to, last  proof.Epoch
		witnessed bool
	}{{ledger.NewestEpoch, 0, true}, {0, 0, true}, {1, 1, false}} {
		d, err := l.History(ctx, me, 0, c.to)
		if err != nil {
			t.Fatal(err)
		}
		h, err := d.Prove(ctx)
		if err != nil {
			t.Fatal(err)
		}
		v, err := h.Verify(env.Policy, proof.HistoryOptions{})
		if v.Epochs.To != c.last || (v.State == proof.Witnessed) != c.witnessed || errors.Is(err, proof.ErrNotWitnessed) == c.witnessed {
			t.Errorf("up to %d: %+v, %v", c.to, v, err)
		}
	}
}

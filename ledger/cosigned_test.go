package ledger_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// witnessed gives env a witness and returns a Cosign that adds its signature while on says so.
func witnessed(t *testing.T, env *ledgertest.Env, on *atomic.Bool) func(context.Context, []byte) ([]byte, error) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, "witness.example/w1")
	if err != nil {
		t.Fatal(err)
	}
	w, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		t.Fatal(err)
	}
	if vkey, err = fnote.VKeyToCosignatureV1(vkey); err != nil {
		t.Fatal(err)
	}
	if env.Policy, err = proof.ParsePolicy([]byte("log " + env.VKey + "\nwitness w1 " + vkey + "\nquorum w1\n")); err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(env.VKey)
	if err != nil {
		t.Fatal(err)
	}
	return func(_ context.Context, n []byte) ([]byte, error) {
		cp, err := proof.VerifyCheckpoint(n, env.Policy)
		if err != nil || cp.Witnessed() || !on.Load() {
			return n, err
		}
		open, err := note.Open(n, note.VerifierList(v))
		if err != nil {
			return nil, err
		}
		return note.Sign(open, w)
	}
}

// Without the quorum the log goes on and publishes. What was witnessed stays witnessed, also over a restart, and what wasn't becomes so when the witnesses are back, without a new entry.
func TestQuorumLostAndFound(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.NewInMemory(t)
	var on atomic.Bool
	on.Store(true)
	cosign := witnessed(t, env, &on)
	cfg := env.Config()
	cfg.MaxLag = 200 * time.Millisecond
	cfg.Cosign = cosign
	l := env.OpenWith(cfg)
	add := func(n int) (proof.Index, proof.Opening) {
		t.Helper()
		g, o := ledgertest.Disclosure(ledgertest.Person(n))
		a, err := l.Append(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		env.Wait(l)
		return a.Entries[0].Index, o[0]
	}
	state := func(i proof.Index, o proof.Opening) proof.State {
		t.Helper()
		r, err := l.Receipt(ctx, i, o)
		if err != nil {
			t.Fatal(err)
		}
		v, err := r.Verify(env.Policy, proof.VerifyOptions{AllowProvisional: true})
		if err != nil {
			t.Fatal(err)
		}
		return v.State
	}
	first, o1 := add(1)
	old, ok := l.Witnessed()
	if !ok || state(first, o1) != proof.Witnessed || l.QuorumMissing() != 0 {
		t.Fatal("not witnessed to begin with")
	}
	on.Store(false)
	var second proof.Index
	var o2 proof.Opening
	for end := time.Now().Add(2 * cfg.MaxLag); second == 0 || time.Now().Before(end); { // longer than MaxLag: a missing quorum is no back-pressure
		second, o2 = add(2)
	}
	if state(first, o1) != proof.Witnessed || state(second, o2) != proof.Provisional {
		t.Error("the first receipt is not witnessed any more, or the second is")
	}
	if m := l.Metrics(); m.QuorumMissing == 0 || m.Unwitnessed == 0 || m.Witnessed != old.Size() || m.Published <= old.Size() || m.PublishErrors != 0 {
		t.Errorf("metrics while the quorum is missing: %+v", m)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	if _, err := l.ProveWitnessed(short, []proof.Index{first, second}); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("proven under a witnessed checkpoint that isn't there: %v", err)
	}
	cancel()
	if a, err := l.ProveWitnessed(ctx, []proof.Index{first}); err != nil || !a.Checkpoint.Witnessed() || a.Checkpoint.Size() != old.Size() {
		t.Errorf("what was witnessed can't be proven so: %v", err)
	}
	env.Close(l)
	l = env.OpenWith(cfg)
	ledgertest.Await(t, "the first publication", func() bool { _, ok := l.Published(); return ok && l.QuorumMissing() > 0 })
	if state(first, o1) != proof.Witnessed || state(second, o2) != proof.Provisional {
		t.Error("after a restart: the first receipt is not witnessed any more, or the second is")
	}
	on.Store(true)
	if _, err := l.AwaitWitnessed(ctx, second); err != nil {
		t.Fatal(err)
	}
	if state(second, o2) != proof.Witnessed || l.QuorumMissing() != 0 {
		t.Error("not witnessed after the witnesses came back")
	}
	if got, err := os.ReadFile(filepath.Join(env.Dir, "checkpoint")); err != nil || bytes.Count(got, []byte("\n— ")) != 2 {
		t.Errorf("the late cosignature is not published: %q %v", got, err)
	}
}

// A log whose witnesses saw another history signs nothing more.
func TestCosignHalts(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	cfg := env.Config()
	var stop atomic.Bool
	cfg.Cosign = func(_ context.Context, n []byte) ([]byte, error) {
		if stop.Load() {
			return nil, fmt.Errorf("%w: two witnesses saw more", ledger.ErrHalted)
		}
		return n, nil
	}
	l := env.OpenWith(cfg)
	appendN(t, l, 0, 2)
	env.Wait(l)
	stop.Store(true)
	ledgertest.Await(t, "the log to halt", func() bool { return l.Err() != nil })
	if err := l.Err(); !errors.Is(err, ledger.ErrHalted) || err.Error() != "ledger: halted: two witnesses saw more" {
		t.Errorf("halted by %v", err)
	}
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("append to a halted log: %v", err)
	}
}

// The kept witnessed checkpoint is one of this log's: if store and tree don't extend it, the log was forked.
func TestKeptCheckpointContradicts(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	l := env.Open()
	appendN(t, l, 0, 3)
	env.Wait(l)
	env.Close(l)
	text := fmt.Sprintf("%s\n2\n%s\n", ledgertest.Origin, proof.Hash{1})
	n, err := note.Sign(&note.Note{Text: text}, env.Signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(env.Dir, "checkpoint.witnessed"), n, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(context.Background(), env.Config()); !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("opened beside a checkpoint of another history: %v", err)
	}
}

package ledger_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// What a witness adds is published, and receipts upgraded with it are witnessed; what isn't the log's checkpoint is not published.
func TestCosign(t *testing.T) {
	env := ledgertest.NewInMemory(t)
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
	env.Policy, err = proof.ParsePolicy([]byte("log " + env.VKey + "\nwitness w1 " + vkey + "\nquorum w1\n"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(env.VKey)
	if err != nil {
		t.Fatal(err)
	}
	var mode atomic.Int32
	var old []byte
	cfg := env.Config()
	cfg.Cosign = func(_ context.Context, n []byte) ([]byte, error) {
		switch mode.Load() {
		case 1:
			return nil, errors.New("no quorum")
		case 2:
			return old, nil
		case 3:
			return append(n, "more"...), nil
		}
		open, err := note.Open(n, note.VerifierList(v))
		if err != nil {
			return nil, err
		}
		return note.Sign(open, w)
	}
	l := env.OpenWith(cfg)
	g, o := ledgertest.Disclosure(ledgertest.Person(1))
	a, err := l.Append(context.Background(), g)
	if err != nil {
		t.Fatal(err)
	}
	cp := env.Wait(l)
	old = cp.Note()
	if !cp.Witnessed() || a.Checkpoint.Witnessed() {
		t.Error("the published checkpoint must be witnessed, the one of Append can't be")
	}
	r, err := l.Receipt(context.Background(), a.Entries[0].Index, o[0])
	if err != nil {
		t.Fatal(err)
	}
	if verdict, err := r.Verify(env.Policy, proof.VerifyOptions{}); err != nil || verdict.State != proof.Witnessed {
		t.Errorf("upgraded receipt: %v %v", verdict.State, err)
	}
	for m := int32(1); m <= 3; m++ {
		mode.Store(m)
		before := l.Metrics().PublishErrors
		appendN(t, l, 10, 1) // goes on: publication isn't on the release path
		ledgertest.Await(t, "publication to fail", func() bool { return l.Metrics().PublishErrors >= before+2 })
		if got, _ := os.ReadFile(filepath.Join(env.Dir, "checkpoint")); !bytes.Equal(got, old) {
			t.Errorf("mode %d: something else was published:\n%s", m, got)
		}
	}
	mode.Store(0)
	if cp := env.Wait(l); !cp.Witnessed() {
		t.Error("not witnessed after the witnesses came back")
	}
	env.Close(l)
	// A log that starts again goes on from the cosigned checkpoint in its directory.
	l = env.OpenWith(cfg)
	appendN(t, l, 20, 2)
	env.Wait(l)
}

// A log that can't publish stops accepting after MaxLag, and starts again when it can.
func TestLagIsBackPressure(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	var broken atomic.Bool
	cfg := env.Config()
	cfg.MaxLag = 2 * time.Second
	cfg.Cosign = func(_ context.Context, n []byte) ([]byte, error) {
		if broken.Load() {
			return nil, errors.New("broken")
		}
		return n, nil
	}
	l := env.OpenWith(cfg)
	appendN(t, l, 0, 3)
	env.Wait(l)
	broken.Store(true)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	ledgertest.Await(t, "back-pressure", func() bool {
		_, err := l.Append(context.Background(), g)
		if err != nil && !errors.Is(err, ledger.ErrBusy) {
			t.Fatal(err)
		}
		return err != nil
	})
	if l.Metrics().Lag < cfg.MaxLag {
		t.Errorf("refused with a lag of %v", l.Metrics().Lag)
	}
	broken.Store(false)
	ledgertest.Await(t, "the end of back-pressure", func() bool {
		_, err := l.Append(context.Background(), g)
		if err != nil && !errors.Is(err, ledger.ErrBusy) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// With a signer process that integrates by itself the log follows the root.
func TestExternalSigner(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	cfg := env.Config()
	integrate := env.Integrate
	cfg.Integrate = nil
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
				if err := integrate(context.Background()); err != nil {
					t.Errorf("integrating: %v", err)
				}
			}
		}
	}()
	l := env.OpenWith(cfg)
	appendN(t, l, 0, 20)
	env.Close(l)
	close(stop)
	<-done
	// A signer that is gone: an error in time, and nothing released.
	cfg.Timeout = 200 * time.Millisecond
	l = env.OpenWith(cfg)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("append without a signer process: %v", err)
	}
}

// While a key is replaced both sign; then the old one can go.
func TestKeyRotation(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	skey, vkey, err := note.GenerateKey(rand.Reader, ledgertest.Origin)
	if err != nil {
		t.Fatal(err)
	}
	second, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	cfg := env.Config()
	l := env.OpenWith(cfg)
	appendN(t, l, 0, 2)
	env.Close(l)

	both, err := proof.ParsePolicy([]byte("log " + env.VKey + "\nlog " + vkey + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Policy = func(context.Context) (*proof.Policy, error) { return both, nil }
	cfg.Signers = func(context.Context) ([]note.Signer, error) { return []note.Signer{env.Signer, second}, nil }
	l = env.OpenWith(cfg)
	appendN(t, l, 0, 2)
	cp := env.Wait(l)
	for _, p := range []*proof.Policy{env.Policy, both} {
		if _, err := proof.VerifyCheckpoint(cp.Note(), p); err != nil {
			t.Errorf("checkpoint during the rotation: %v", err)
		}
	}
	env.Close(l)

	only, err := proof.NewPolicy(vkey)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Policy = func(context.Context) (*proof.Policy, error) { return only, nil }
	cfg.Signers = func(context.Context) ([]note.Signer, error) { return []note.Signer{second}, nil }
	l = env.OpenWith(cfg)
	appendN(t, l, 0, 2)
	if n := strings.Count(string(l.Checkpoint().Note()), "\n— "); n != 1 {
		t.Errorf("%d signatures after the rotation", n)
	}
	env.Close(l)

	// A signer whose key the policy doesn't know signs nothing that is used.
	cfg.Signers = func(context.Context) ([]note.Signer, error) { return []note.Signer{env.Signer}, nil }
	n := len(env.Signed.History())
	l = env.OpenWith(cfg)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("append with an unknown key: %v", err)
	}
	if len(env.Signed.History()) != n {
		t.Error("a checkpoint under an unknown key was stored")
	}
}

// retiring is a signer whose key is retired when it is about to sign.
type retiring struct {
	note.Signer
	retired *atomic.Bool
}

func (r retiring) Sign([]byte) ([]byte, error) {
	r.retired.Store(true)
	return nil, errors.New("this version isn't in force")
}

// TestSignerIsRetired: whoever waits for a signature doesn't hear that one of two keys was retired after the log had asked which are in force. One that is refused and stays in force is an error.
func TestSignerIsRetired(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	cfg := env.Config()
	older, _, err := note.GenerateKey(rand.Reader, cfg.Origin)
	if err != nil {
		t.Fatal(err)
	}
	second, err := note.NewSigner(older)
	if err != nil {
		t.Fatal(err)
	}
	var rotated, retired, stays atomic.Bool
	cfg.Signers = func(context.Context) ([]note.Signer, error) {
		if !rotated.Load() || retired.Load() && !stays.Load() {
			return []note.Signer{env.Signer}, nil
		}
		return []note.Signer{env.Signer, retiring{second, &retired}}, nil
	}
	l := env.OpenWith(cfg)
	defer env.Close(l)
	rotated.Store(true)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(t.Context(), g); err != nil || !retired.Load() {
		t.Errorf("while a key is retired: %v", err)
	}
	stays.Store(true)
	g, _ = ledgertest.Disclosure(ledgertest.Person(2))
	if _, err := l.Append(t.Context(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("with a key that stays in force and can't sign: %v", err)
	}
	stays.Store(false)
}

// TestOlderCheckpointIsReplaced: a leader that was paused while it published writes an older checkpoint over the newer one. Readers must not see the log shrink for longer than a round, whether or not it grows.
func TestOlderCheckpointIsReplaced(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	l := env.Open()
	file := filepath.Join(env.Config().Dir, "checkpoint")
	grow := func(n int) []byte {
		t.Helper()
		g, _ := ledgertest.Disclosure(ledgertest.Person(n))
		a, err := l.Append(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.AwaitPublished(t.Context(), a.Entries[0].Index); err != nil {
			t.Fatal(err)
		}
		cp, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	older := grow(1)
	newer := grow(2)
	if bytes.Equal(older, newer) {
		t.Fatal("the checkpoint didn't grow")
	}
	if err := os.WriteFile(file, older, 0o600); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "the newer checkpoint", func() bool {
		now, err := os.ReadFile(file)
		return err == nil && bytes.Equal(now, newer)
	})
	env.Close(l)
}

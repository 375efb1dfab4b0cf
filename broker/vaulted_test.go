package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/vault"
	"github.com/regard-broker/regard/keys/vault/vaulttest"
)

// vaulted is a broker whose root keys are in a real Vault, and the operator of these.
type vaulted struct {
	*watched
	vault    *vaulttest.Server
	operator keys.Custodian
}

func newVaulted(t *testing.T) *vaulted {
	t.Helper()
	s := vaulttest.New(t)
	ic, res := s.Initialise(vault.InitConfig{})
	open := func(role string) keys.Custodian {
		cfg := s.Config(ic, res, role)
		// A sealed Vault is noticed at once, and waited for elsewhere.
		cfg.Timeout, cfg.Budget = 5*time.Second, 10*time.Second
		c, err := vault.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	v := &vaulted{vault: s, operator: open(vault.RoleOperator)}
	custodian := unclosed{open(vault.RoleSequencer)}
	v.watched = newWatched(t, func(c *broker.Config) {
		c.Custodian, c.SweepEvery = custodian, 50*time.Millisecond
	})
	v.provider.answer, v.provider.quiet = couple, true
	return v
}

// load asks about a new person again and again, in so many requests at once, until stop is called. Every answer must be a receipt that verifies; an error is handed to failed, which says
// whether it may be.
func (v *vaulted) load(callers int, failed func(error) bool) (done *atomic.Int64, stop func()) {
	done = new(atomic.Int64)
	var wg sync.WaitGroup
	end := make(chan struct{})
	for c := range callers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-end:
					return
				default:
				}
				a, err := v.b.Disclose(context.WithoutCancel(v.t.Context()), v.caller, asker(fmt.Sprintf("TUE %c%s", 'A'+c, strings.Repeat("X", n%7)+string(rune('A'+n%26)))+fmt.Sprint("-", n)))
				switch {
				case err != nil && !failed(err):
					v.t.Errorf("request %d of caller %d: %v", n, c, err)
					return
				case err == nil && a.Outcome == broker.Released && len(a.Receipt) == 0:
					v.t.Errorf("request %d of caller %d: released without a receipt", n, c)
					return
				case err == nil:
					done.Add(1)
				}
			}
		})
	}
	return done, sync.OnceFunc(func() { close(end); wg.Wait() })
}

// more waits until the load got so many more answers.
func (v *vaulted) more(done *atomic.Int64, n int64) {
	v.t.Helper()
	want := done.Load() + n
	for deadline := time.Now().Add(patience); done.Load() < want; time.Sleep(5 * time.Millisecond) {
		if v.t.Failed() || time.Now().After(deadline) {
			v.t.Fatalf("%d answers, want %d", done.Load(), want)
		}
	}
}

// TestRotationUnderLoad: every key is replaced while requests go on, by the operator's role for those in Vault, and no request fails for it. What was sealed and signed before is read and verified
// afterwards, also by a broker that starts anew.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	first := v.disclose(asker("TUE PREMIER"))
	old := vkeysOf(t, v.watched)[0]
	done, stop := v.load(4, func(error) bool { return false })
	defer stop()
	v.more(done, 8)

	// The checkpoint key.
	if n, err := v.operator.Rotate(t.Context(), keys.RootCheckpoint); err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := v.b.CheckpointKeys(t.Context()); err != nil { // as regard keys list does; else it takes a minute
		t.Fatal(err)
	}
	eventually(t, func() error {
		if vkeys := vkeysOf(t, v.watched); len(vkeys) != 2 {
			return fmt.Errorf("log keys: %v", vkeys)
		}
		return nil
	})
	v.more(done, 8)
	eventually(t, func() error { return v.b.RetireKey(t.Context(), keys.RootCheckpoint, 1, true) })
	if err := v.operator.Retire(t.Context(), keys.RootCheckpoint, 2); err != nil {
		t.Fatal(err)
	}
	v.more(done, 8)

	// The wrap key, under which every data key lies: of people, months, answers and intents.
	if n, err := v.operator.Rotate(t.Context(), keys.RootWrap); err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	v.more(done, 8)
	if n, err := v.b.RewrapKeys(t.Context(), nil); err != nil || n == 0 {
		t.Fatalf("%d, %v", n, err)
	}
	eventually(t, func() error {
		// What was wrapped just before the rotation may be stored after the pass.
		err := v.b.RetireKey(t.Context(), keys.RootWrap, 1, true)
		if err != nil {
			_, again := v.b.RewrapKeys(t.Context(), nil)
			err = errors.Join(err, again)
		}
		return err
	})
	if err := v.operator.Retire(t.Context(), keys.RootWrap, 2); err != nil {
		t.Fatal(err)
	}
	v.more(done, 8)

	// The intent key, a data key.
	if n, err := v.b.RotateIntentKey(t.Context()); err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	v.more(done, 8)
	eventually(t, func() error { return v.b.RetireIntentKey(t.Context(), 1) })
	v.more(done, 8)
	stop()

	last := v.disclose(asker("TUE DERNIER"))
	vkey := vkeysOf(t, v.watched)[0]
	if !verifiesWith(t, old, first.Receipt) || verifiesWith(t, old, last.Receipt) || !verifiesWith(t, vkey, last.Receipt) {
		t.Error("receipts aren't good under the keys of their time")
	}
	v.close()
	v.open()
	v.extends(first)
	v.extends(last)
	if v.hidden(first) || v.hidden(last) {
		t.Error("a record can't be read any more")
	}
}

// TestSealedVault: while Vault is sealed nothing is released, whoever asks hears that they may come back, and nothing is lost; when it is unsealed all goes on by itself.
func TestSealedVault(t *testing.T) {
	t.Parallel()
	v := newVaulted(t)
	first := v.disclose(asker("TUE PREMIER"))
	var refused atomic.Int64
	done, stop := v.load(4, func(err error) bool {
		refused.Add(1)
		p := broker.AsProblem(err)
		return p.Status == 503 && p.RetryAfter > 0
	})
	defer stop()
	v.more(done, 8)
	v.vault.Seal()
	for deadline := time.Now().Add(patience); refused.Load() < 8; time.Sleep(5 * time.Millisecond) {
		if t.Failed() || time.Now().After(deadline) {
			t.Fatalf("%d requests were refused while Vault is sealed", refused.Load())
		}
	}
	for deadline := time.Now().Add(patience); v.b.Ready(t.Context()) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the broker calls itself ready")
		}
	}
	// Nothing more can be signed.
	size := v.b.Log().Checkpoint().Size()
	a, err := v.b.Disclose(t.Context(), v.caller, asker("TUE SCELLE"))
	v.nothing("while Vault is sealed", a, err)
	if now := v.b.Log().Checkpoint().Size(); now != size {
		t.Errorf("a checkpoint of %d entries after %d was signed while Vault is sealed", now, size)
	}
	v.vault.Unseal()
	v.more(done, 8)
	stop()
	eventually(t, func() error { return v.b.Ready(t.Context()) })
	again := v.disclose(asker("TUE SCELLE"))
	v.extends(first)
	v.extends(again)
	if v.hidden(first) || v.hidden(again) {
		t.Error("a record can't be read")
	}
	if h := v.history(subjectOf(t, killPivot("TUE SCELLE")), broker.HistoryPage{}); len(h.Entries) == 0 {
		t.Error("the request isn't in the person's history")
	}
}

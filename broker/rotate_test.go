package broker_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
)

func vkeysOf(t *testing.T, w *watched) []string {
	t.Helper()
	vkeys, err := w.b.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return vkeys
}

// verifiesWith says whether a receipt is good for somebody who holds this one log key.
func verifiesWith(t *testing.T, vkey string, receipt []byte) bool {
	t.Helper()
	p, err := proof.NewPolicy(vkey)
	if err != nil {
		t.Fatal(err)
	}
	r, err := proof.ParseReceipt(receipt)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Verify(p, proof.VerifyOptions{AllowProvisional: true})
	return err == nil
}

// eventually repeats a command that says that it is too early.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestRetireCheckpointKey: both versions sign until the older one is retired; nobody waits or fails for it; what was signed before stays good under the older key, and the log starts again.
func TestRetireCheckpointKey(t *testing.T) {
	t.Parallel()
	w := newWatched(t, func(c *broker.Config) { c.SweepEvery = 50 * time.Millisecond })
	w.provider.answer = couple
	first := w.disclose(asker("TUE PREMIER"))
	old := vkeysOf(t, w)[0]
	if v, err := w.b.RotateKey(t.Context(), keys.RootCheckpoint); err != nil || v != 2 {
		t.Fatalf("%d, %v", v, err)
	}
	vkeys := vkeysOf(t, w)
	if len(vkeys) != 2 || vkeys[1] != old {
		t.Fatalf("log keys right after the rotation: %v", vkeys)
	}
	both := w.disclose(asker("TUE DEUXIEME"))
	if !verifiesWith(t, vkeys[0], both.Receipt) || !verifiesWith(t, old, both.Receipt) {
		t.Error("a receipt of the time between isn't signed by both versions")
	}
	if err := w.b.RetireKey(t.Context(), keys.RootCheckpoint, 2, false); broker.AsProblem(err).Code != "keys.last" {
		t.Errorf("retiring the newest: %v", err)
	}
	eventually(t, func() error { return w.b.RetireKey(t.Context(), keys.RootCheckpoint, 1, false) })
	after := w.disclose(asker("TUE TROISIEME"))
	if !verifiesWith(t, vkeys[0], after.Receipt) || verifiesWith(t, old, after.Receipt) {
		t.Error("a receipt after the retirement isn't signed by the newer version alone")
	}
	if err := w.b.RetireKey(t.Context(), keys.RootCheckpoint, 1, false); broker.AsProblem(err).Code != "keys.retired" {
		t.Errorf("retiring it again: %v", err)
	}
	if text := w.text(); strings.Contains(text, "level=ERROR") {
		t.Errorf("signing met an error:\n%s", text)
	}
	w.close()
	w.open()
	if !verifiesWith(t, old, first.Receipt) || !verifiesWith(t, old, both.Receipt) {
		t.Error("a receipt from before isn't good any more under the key of its time")
	}
	w.extends(first)
	if entries := string(w.published()); !strings.Contains(entries, "\nkey checkpoint.1\nuse checkpoint\nstate retired\n") {
		t.Error("the log doesn't tell that the version was retired")
	}
}

// hasty is a custodian that retires all but the newest version of the checkpoint key when the first one is about to sign.
type hasty struct {
	keys.Custodian
	armed atomic.Bool
}

func (h *hasty) Sign(ctx context.Context, version int, msg []byte) ([]byte, error) {
	if version == 1 && h.armed.CompareAndSwap(true, false) {
		if err := h.Retire(ctx, keys.RootCheckpoint, 2); err != nil {
			return nil, err
		}
	}
	return h.Custodian.Sign(ctx, version, msg)
}

// TestRetiredWhileSigning: the version is retired in the custodian after the log has asked for the signers, and before it signs. No request fails for it.
func TestRetiredWhileSigning(t *testing.T) {
	t.Parallel()
	h := &hasty{}
	w := newWatched(t, func(c *broker.Config) { h.Custodian = unclosed{keystest.NewCustodian(t)}; c.Custodian = h })
	w.provider.answer = couple
	old := vkeysOf(t, w)[0]
	if _, err := w.b.RotateKey(t.Context(), keys.RootCheckpoint); err != nil {
		t.Fatal(err)
	}
	h.armed.Store(true)
	a := w.disclose(asker("TUE PREMIER"))
	if h.armed.Load() {
		t.Fatal("the older version wasn't to sign")
	}
	if vkeys := vkeysOf(t, w); len(vkeys) != 1 || !verifiesWith(t, vkeys[0], a.Receipt) || verifiesWith(t, old, a.Receipt) {
		t.Errorf("log keys %v", vkeys)
	}
	if text := w.text(); strings.Contains(text, "level=ERROR") {
		t.Errorf("signing met an error:\n%s", text)
	}
}

// TestRetiredWhileStopped: the only key that signed the last checkpoint is retired in the custodian itself. The broker used to be halted at its next start: it knew keys in force alone.
func TestRetiredWhileStopped(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	w.provider.answer = couple
	first := w.disclose(asker("TUE PREMIER"))
	old, size := vkeysOf(t, w)[0], w.b.Log().Checkpoint().Size()
	w.close()
	rotateAway(t, w.cfg.Custodian)
	w.open()
	cp := w.b.Log().Checkpoint()
	vkeys := vkeysOf(t, w)
	if len(vkeys) != 1 || vkeys[0] == old {
		t.Fatalf("log keys: %v", vkeys)
	}
	p, err := proof.NewPolicy(vkeys[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proof.VerifyCheckpoint(cp.Note(), p); err != nil || cp.Size() <= size {
		t.Errorf("no checkpoint under the key in force: size %d after %d, %v", cp.Size(), size, err)
	}
	w.extends(first)
	if !verifiesWith(t, old, first.Receipt) {
		t.Error("the receipt from before isn't good any more under the key of its time")
	}
	if !strings.Contains(string(w.published()), "regard/restart@v1\nepoch 0\nreason key.retired\n") {
		t.Error("the log doesn't tell of it")
	}
	// A key that this log never told of is nobody's: a checkpoint under it alone is refused.
	w.close()
	w.tamper("DELETE FROM meta WHERE name LIKE 'key checkpoint.%'")
	rotateAway(t, w.cfg.Custodian)
	signed, published := w.signatures()
	if _, err := broker.New(t.Context(), w.cfg); err == nil || !strings.Contains(err.Error(), "isn't one of this log") {
		t.Errorf("a start on a checkpoint of an unknown key: %v", err)
	}
	if s, p := w.signatures(); s != signed || p != published {
		t.Error("it signed something")
	}
}

// TestRetiredWhileTheLogIsStuck: the broker starts all the same, so that the operator's commands are there, and the sweeper does it once the log signs again. The start used to fail.
func TestRetiredWhileTheLogIsStuck(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	w := newWatched(t, func(c *broker.Config) { c.Custodian, c.SweepEvery = f, 20*time.Millisecond })
	w.provider.answer = couple
	first := w.disclose(asker("TUE PREMIER"))
	w.close()
	rotateAway(t, f.Custodian)
	f.down("Sign", keys.ErrUnavailable)
	w.open()
	f.up()
	p, err := proof.NewPolicy(vkeysOf(t, w)[0])
	if err != nil {
		t.Fatal(err)
	}
	w.until("a checkpoint under the key in force", func() bool {
		_, err := proof.VerifyCheckpoint(w.b.Log().Checkpoint().Note(), p)
		return err == nil
	})
	if _, err := w.b.Log().AwaitPublished(t.Context(), proof.Index(w.b.Log().Checkpoint().Size()-1)); err != nil {
		t.Fatal(err)
	}
	w.extends(first)
	if n := strings.Count(string(w.published()), "reason key.retired\n"); n != 1 {
		t.Errorf("the log tells of it %d times", n)
	}
}

// rotateAway leaves the custodian with a new version of the checkpoint key alone.
func rotateAway(t *testing.T, c keys.Custodian) {
	t.Helper()
	v, err := c.Rotate(t.Context(), keys.RootCheckpoint)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Retire(t.Context(), keys.RootCheckpoint, v); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreAfterRetirement: the keys that signed the backup's time, and the last checkpoint, are retired.
func TestRestoreAfterRetirement(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	rotateAway(t, p.cfg.Custodian)
	r, err := p.restore()
	if err != nil || r.Lost == 0 || r.Erased != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	p.open()
	p.extends(p.kept)
	if !p.hidden(p.erased) {
		t.Error("the erased person can be read again")
	}
}

// heldWraps is a custodian that keeps what it wrapped for a while, once it is told to.
type heldWraps struct {
	keys.Custodian
	hold    atomic.Bool
	wrapped chan struct{} // when something is being kept
	release chan struct{}
}

func newHeldWraps(c keys.Custodian) *heldWraps {
	return &heldWraps{Custodian: c, wrapped: make(chan struct{}, 1), release: make(chan struct{})}
}

func (h *heldWraps) Wrap(ctx context.Context, in []keys.Plain) ([]keys.Wrapped, error) {
	out, err := h.Custodian.Wrap(ctx, in)
	if h.hold.CompareAndSwap(true, false) {
		h.wrapped <- struct{}{}
		<-h.release
	}
	return out, err
}

// TestRetireWrapKeyWaits: a request that began before the rotation may hold a new person's key, wrapped under the older version and not stored yet. Retiring the version at once made
// what it sealed unreadable for ever.
func TestRetireWrapKeyWaits(t *testing.T) {
	t.Parallel()
	var held *heldWraps
	w := newWatched(t, func(c *broker.Config) {
		held = newHeldWraps(unclosed{keystest.NewCustodian(t)})
		c.Custodian = held
	})
	w.provider.answer = couple
	held.hold.Store(true)
	answer := make(chan *broker.Answer, 1)
	go func() {
		a, err := w.b.Disclose(context.WithoutCancel(t.Context()), w.caller, asker("TUE LENT"))
		if err != nil {
			t.Error(err)
		}
		answer <- a
	}()
	<-held.wrapped
	if _, err := w.b.RotateKey(t.Context(), keys.RootWrap); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.RewrapKeys(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	retired := make(chan error, 1)
	go func() { retired <- w.b.RetireKey(context.WithoutCancel(t.Context()), keys.RootWrap, 1, false) }()
	select {
	case err := <-retired:
		t.Fatalf("retired while a request was under way: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	close(held.release)
	a := <-answer
	if err := <-retired; err != nil && broker.AsProblem(err).Code != "keys.in_use" {
		t.Fatal(err)
	}
	eventually(t, func() error { return w.b.RetireKey(t.Context(), keys.RootWrap, 1, false) })
	w.close()
	w.open()
	if w.hidden(a) {
		t.Error("the record of a request that was under way can't be read")
	}
	if h := w.history(subjectOf(t, killPivot("TUE LENT")), broker.HistoryPage{}); len(h.Entries) != 1 || h.Entries[0].State != broker.HistoryOpen {
		t.Errorf("history: %+v", h)
	}
}

// TestTreeIsRebuilt: Trillian's database is gone. The guide says to move it away, and the broker used to refuse to start then.
func TestTreeIsRebuilt(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	w.provider.answer = couple
	a := w.disclose(asker("TUE GARDE"))
	w.close()
	if err := os.RemoveAll(filepath.Join(w.cfg.DataDir, "log")); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.extends(a)
	w.disclose(asker("TUE APRES"))
	w.extends(a)
	if !strings.Contains(w.text(), "Trillian's tree is rebuilt") {
		t.Error("the operator isn't told")
	}
}

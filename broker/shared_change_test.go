package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/policy"
)

// revoke revokes an agency as a broker does that dies right afterwards: without a word to the others.
func (x *sharing) revoke(agency string) {
	x.t.Helper()
	x.exec(fmt.Sprintf(`BEGIN; UPDATE agencies SET state = 'revoked' WHERE id = '%[1]s'; UPDATE agency_keys SET state = 'revoked' WHERE agency = '%[1]s'; UPDATE changes SET number = number + 1 WHERE what = 'registry'; COMMIT`, agency))
}

// TestRevocationIsInForceEverywhere: an agency that is revoked at one broker gets nothing from another one that hasn't heard of it.
func TestRevocationIsInForceEverywhere(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.cfg.SweepEvery = time.Hour
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	if _, err := follows[0].Disclose(t.Context(), x.caller, request()); err != nil {
		t.Fatal(err)
	}
	x.revoke(x.caller.ID)
	for _, b := range x.all {
		if _, err := b.Authenticate(x.cert); err != nil {
			t.Fatalf("it has heard of it: %v", err)
		}
		asked := len(x.provider.requests())
		if _, err := b.Disclose(t.Context(), x.caller, request()); broker.AsProblem(err).Code != "certificate.unknown" {
			t.Errorf("a request of a revoked agency: %v", err)
		}
		if n := len(x.provider.requests()); n != asked {
			t.Error("a provider was asked")
		}
		if _, err := b.Authenticate(x.cert); err == nil {
			t.Error("the change wasn't taken up")
		}
	}
}

// TestChangesWaitInTime: whoever wants to change something while another change is being made, at the same broker or at another one, waits no longer than it says.
func TestChangesWaitInTime(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	a, b := x.start("a"), x.start("b")
	done, err := a.Governing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for name, at := range map[string]*broker.Broker{"the same broker": a, "the other one": b} {
		if _, err := at.Governing(ctx); broker.AsProblem(err).Status != http.StatusServiceUnavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	done()
	for _, at := range x.all {
		done, err := at.Governing(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		done()
	}
}

// TestChangesAreComparedFromTimeToTime: a broker that isn't told takes up a change all the same.
func TestChangesAreComparedFromTimeToTime(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	x.revoke(x.caller.ID)
	for _, b := range x.all {
		ledgertest.Await(t, "the revocation", func() bool {
			_, err := b.Authenticate(x.cert)
			return err != nil
		})
	}
}

// TestPolicyOfOthers: nobody decides by a bundle that was replaced at another broker, whichever files they have; what can't be used as a policy stops them.
func TestPolicyOfOthers(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.cfg.SweepEvery = time.Hour
	dirs := map[string]string{}
	for _, name := range []string{"a", "b"} {
		dirs[name] = t.TempDir()
		if err := os.CopyFS(dirs[name], os.DirFS("../policy/bundle")); err != nil {
			t.Fatal(err)
		}
		x.cfg.Policy = policy.FromPath(dirs[name])
		x.start(name)
	}
	change := func(dir, comment string) *policy.Bundle {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "regard/decision/later.rego"), []byte("package regard.decision\n\n# "+comment+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := policy.FromPath(dir).Load()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	leads, follows := x.leader()
	follower := follows[0]
	x.b = leads
	x.populate()
	x.known(follower)
	dir := dirs["a"]
	if leads != x.all[0] {
		dir = dirs["b"]
	}
	next := change(dir, "second")
	if err := leads.ReloadPolicy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, b := range x.all {
		if _, err := b.Disclose(t.Context(), x.caller, request()); err != nil {
			t.Fatal(err)
		}
		if got := b.PolicyStatus().Digest; got != next.Digest() {
			t.Errorf("a request was decided by %x, in force is %x", got, next.Digest())
		}
	}
	if n := x.count("SELECT count(*) FROM leaves WHERE kind = 'policy@v1'"); n != 2 {
		t.Errorf("%d activations of two bundles", n)
	}
	// A broker that died before it said a word.
	put := func(digest, bytes []byte) {
		t.Helper()
		x.exec(fmt.Sprintf(`BEGIN; INSERT INTO bundles (digest, revision, bytes, log_index) SELECT '\x%x', '1', '\x%x', 1 + max(log_index) FROM leaves; UPDATE changes SET number = number + 1 WHERE what = 'registry'; COMMIT`, digest, bytes))
	}
	change(dirs["a"], "third") // whose files are looked at in the end doesn't matter
	third := change(dirs["b"], "third")
	digest := third.Digest()
	put(digest[:], third.Bytes())
	for _, b := range x.all {
		if _, err := b.Disclose(t.Context(), x.caller, request()); err != nil {
			t.Fatal(err)
		}
		if got := b.PolicyStatus().Digest; got != digest {
			t.Errorf("a request was decided by %x, in force is %x", got, digest)
		}
	}
	put(make([]byte, 32), []byte("no policy"))
	x.cfg.Policy = policy.FromPath(dirs["b"])
	x.start("c") // it has never known another one
	for _, b := range x.all {
		asked := len(x.provider.requests())
		if _, err := b.Disclose(t.Context(), x.caller, request()); broker.AsProblem(err).Code != "registry.stale" {
			t.Errorf("with a policy that can't be read: %v", err)
		}
		if err := b.Ready(t.Context()); err == nil || len(x.provider.requests()) != asked {
			t.Errorf("it is ready, or asked a provider: %v", err)
		}
	}
}

// TestRetireWrapKeyWaitsForOthers: a key that another broker has wrapped and not stored yet is as good a reason to wait.
func TestRetireWrapKeyWaitsForOthers(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.cfg.SweepEvery = time.Hour // nobody waits for its next round
	shared := x.cfg.Custodian
	held := map[string]*heldWraps{}
	for _, name := range []string{"a", "b"} {
		held[name] = newHeldWraps(shared)
		x.cfg.Custodian = held[name]
		x.start(name)
	}
	leads, follows := x.leader()
	name := "b"
	if leads != x.all[0] {
		name = "a"
	}
	x.b = leads
	x.populate()
	x.known(follows[0])
	held[name].hold.Store(true)
	answer := make(chan *broker.Answer, 1)
	go func() {
		a, err := follows[0].Disclose(context.WithoutCancel(t.Context()), x.caller, request())
		if err != nil {
			t.Error(err)
		}
		answer <- a
	}()
	<-held[name].wrapped
	if _, err := leads.RotateKey(t.Context(), keys.RootWrap); err != nil {
		t.Fatal(err)
	}
	if _, err := leads.RewrapKeys(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	retired := make(chan error, 1)
	go func() { retired <- leads.RetireKey(context.WithoutCancel(t.Context()), keys.RootWrap, 1, false) }()
	// The one that isn't held up has nothing under way, and says so; the other one is waited for.
	ledgertest.Await(t, "the barrier", func() bool { return x.count("SELECT count(*) FROM members WHERE landed > 1") == 1 })
	select {
	case err := <-retired:
		t.Fatalf("retired while another broker had a request under way: %v", err)
	default:
	}
	close(held[name].release)
	a := <-answer
	if err := <-retired; err != nil && broker.AsProblem(err).Code != "keys.in_use" {
		t.Fatal(err)
	}
	eventually(t, func() error { return leads.RetireKey(t.Context(), keys.RootWrap, 1, false) })
	x.end(leads)
	x.end(follows[0])
	x.start("c")
	x.open(a)
}

package broker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// swapped is a policy whose files nobody watches: a symbolic link that can be put on another copy, which differs by a comment.
type swapped struct {
	t    *testing.T
	path string
	n    int
}

func newSwapped(t *testing.T) *swapped {
	s := &swapped{t: t, path: filepath.Join(t.TempDir(), "policy")}
	s.next()
	return s
}

// next puts another bundle there, and returns its digest.
func (s *swapped) next() policy.Digest {
	s.t.Helper()
	s.n++
	dir := filepath.Join(filepath.Dir(s.path), "v"+letters(int64(s.n)))
	if err := os.CopyFS(dir, os.DirFS("../policy/bundle")); err != nil {
		s.t.Fatal(err)
	}
	replaceIn(s.t, filepath.Join(dir, "regard/decision/decision.rego"), "package regard.decision\n", "package regard.decision\n# "+letters(int64(s.n))+"\n")
	if err := os.Symlink(dir, s.path+".new"); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		s.t.Fatal(err)
	}
	b, err := policy.FromPath(s.path).Load()
	if err != nil {
		s.t.Fatal(err)
	}
	return b.Digest()
}

// TestReloadOutlivesItsCaller: an operator who gives up waiting for a reload, while its entry waits for its place, leaves no bundle in the log that isn't in force.
func TestReloadOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	held, release := make(chan struct{}), make(chan struct{})
	files := newSwapped(t)
	w := newWatched(t, func(c *broker.Config) {
		c.Policy = policy.FromPath(files.path)
		c.SetAt(func(stage string) {
			if stage == "outcome" && armed.CompareAndSwap(true, false) {
				close(held)
				<-release
			}
		})
	})
	armed.Store(true)
	asked := make(chan error, 1)
	go func() {
		_, err := w.b.Disclose(context.Background(), w.caller, asker("TUE AVANT"))
		asked <- err
	}()
	<-held // nothing gets a place now
	before := w.b.Log().Metrics().Waiting
	want := files.next()
	ctx, giveUp := context.WithCancel(t.Context())
	reloaded := make(chan error, 1)
	go func() { reloaded <- w.b.ReloadPolicy(ctx) }()
	w.until("the new bundle to wait for its place", func() bool { return w.b.Log().Metrics().Waiting > before })
	giveUp()
	// Whoever depends on the caller has returned by now, almost always; nobody else does before the release.
	select {
	case err := <-reloaded:
		t.Errorf("returned while the entry waits for its place: %v", err)
		reloaded <- err
	case <-time.After(200 * time.Millisecond):
	}
	close(release)
	if err := <-reloaded; err != nil {
		t.Errorf("%v", err)
	}
	if err := <-asked; err != nil {
		t.Error(err)
	}
	last, err := w.b.Store().LastBundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s := w.b.PolicyStatus(); s.Digest != want || last.Digest != want || s.Problem != nil {
		t.Errorf("in force is %s (%v), in the log %s, and the files hold %s", s.Digest, s.Problem, last.Digest, want)
	}
	if n := len(activations(t, w.world)); n != 2 {
		t.Errorf("%d bundles were activated", n)
	}
}

// TestPolicyIsTriedAgain: a bundle that couldn't be recorded is in force as soon as it can be, though nobody asks again and no watched file changes.
func TestPolicyIsTriedAgain(t *testing.T) {
	t.Parallel()
	files := newSwapped(t)
	w := newWorld(t, func(c *broker.Config) { c.Policy = policy.FromPath(files.path) })
	w.sql("CREATE TRIGGER full BEFORE INSERT ON bundles BEGIN SELECT RAISE(ABORT, 'not now'); END")
	was, want := w.b.PolicyStatus().Digest, files.next()
	if err := w.b.ReloadPolicy(t.Context()); err == nil {
		t.Fatal("a bundle that isn't recorded is in force")
	}
	if s := w.b.PolicyStatus(); s.Digest != was || s.Problem == nil {
		t.Errorf("meanwhile in force is %s (%v), want %s", s.Digest, s.Problem, was)
	}
	w.sql("DROP TRIGGER full")
	until(t, "the bundle", func() bool { s := w.b.PolicyStatus(); return s.Digest == want && s.Problem == nil })
	if n := len(activations(t, w)); n != 2 {
		t.Errorf("%d bundles were activated", n)
	}
}

// TestStartWithAPolicyThatCantBeRecorded: the broker starts under the one that was in force, so that the operator's commands are there, and has the new one in force as soon as it is recorded. The start used to fail.
func TestStartWithAPolicyThatCantBeRecorded(t *testing.T) {
	t.Parallel()
	files := newSwapped(t)
	w := newWorld(t, func(c *broker.Config) { c.Policy = policy.FromPath(files.path) })
	was := w.b.PolicyStatus().Digest
	w.sql("CREATE TRIGGER full BEFORE INSERT ON bundles BEGIN SELECT RAISE(ABORT, 'not now'); END")
	w.close()
	want := files.next()
	w.open()
	if s := w.b.PolicyStatus(); s.Digest != was || !errors.Is(s.Problem, policy.ErrActivation) {
		t.Errorf("meanwhile in force is %s (%v), want %s", s.Digest, s.Problem, was)
	}
	w.sql("DROP TRIGGER full")
	until(t, "the bundle", func() bool { s := w.b.PolicyStatus(); return s.Digest == want && s.Problem == nil })
	if n := len(activations(t, w)); n != 2 {
		t.Errorf("%d bundles were activated", n)
	}
}

// TestNamesCanBeSeen: what pages call an agency, a service and a provider has something to see in it.
func TestNamesCanBeSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, name := range []string{"", " \u00a0", "\u0301\u200b"} {
		wantCode(t, fmt.Sprintf("an agency %q", name), w.b.AddAgency(t.Context(), "prefecture", name, mairie, newCert(t, time.Hour)), 400, "request.invalid")
	}
	yaml, err := os.ReadFile("testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	def, err := service.Parse(yaml)
	if err != nil {
		t.Fatal(err)
	}
	for _, title := range []string{def.Title.FR, def.Title.EN, def.Provider.Name, def.Scopes["quotient"].Title.EN} {
		text := strings.Replace(string(yaml), `"`+title+`"`, `"\u0301"`, 1)
		text = strings.Replace(text, "version: 1", "version: 2", 1)
		if _, err := w.b.PutService(t.Context(), []byte(text)); broker.AsProblem(err).Code != "service.invalid" || !strings.Contains(broker.AsProblem(err).Detail, "nothing that can be read") {
			t.Errorf("without %q: %v", title, err)
		}
	}
}

// TestAgreementOfThisYear: an agency whose agreements follow each other, or share what they cover, needs to name none.
func TestAgreementOfThisYear(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for id, change := range map[policy.AgreementID]func(*policy.Agreement){
		"a-cantine-2025": func(a *policy.Agreement) {
			a.NotBefore, a.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		},
		"b-adresse": func(a *policy.Agreement) { a.Scopes = []policy.Scope{"address"} },
	} {
		a := policy.Agreement{
			ID: id, Agency: "mairie", Service: "household", Scopes: []policy.Scope{"members", "quotient"}, Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		change(&a)
		if _, err := w.b.PutAgreement(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	for scope, want := range map[string]string{"quotient": "cantine@1", "address": "b-adresse@1"} {
		req := request()
		req.Scopes = []string{scope}
		a := w.disclose(req)
		r, err := proof.ParseReceipt(a.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Opening().Text(proof.DisclosureAgreement); a.Outcome != broker.Released || got != want {
			t.Errorf("%s: %s under %s, %v", scope, a.Outcome, got, a.Reasons)
		}
	}
}

package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// policyDir is a source that the test can change.
func policyDir(t *testing.T, rego string) string {
	t.Helper()
	dir := t.TempDir()
	writePolicy(t, dir, rego)
	return dir
}

func writePolicy(t *testing.T, dir, rego string) {
	t.Helper()
	path := filepath.Join(dir, "p.rego")
	if err := errors.Join(os.WriteFile(path+".new", []byte(rego), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func TestNewRefused(t *testing.T) {
	activate := func(context.Context, Activation) error { return nil }
	for name, test := range map[string]struct {
		config Config
		want   error
	}{
		"no activation":      {Config{}, nil},
		"negative limit":     {Config{Activate: activate, Limit: -1}, nil},
		"negative retry":     {Config{Activate: activate, Retry: -1}, nil},
		"no source":          {Config{Activate: activate, Source: FromPath(filepath.Join(t.TempDir(), "none"))}, ErrBundle},
		"does not compile":   {Config{Activate: activate, Source: FromPath(policyDir(t, "package"))}, ErrBundle},
		"a test fails":       {Config{Activate: activate, Source: FromPath(failingTest(t))}, ErrBundle},
		"grants to all":      {Config{Activate: activate, Source: FromPath(policyDir(t, strings.Replace(small, `== "active"`, `!= ""`, 1)))}, ErrBundle},
		"refuses to nobody":  {Config{Activate: activate, Source: FromPath(policyDir(t, strings.Replace(small, `"fr": "Non."`, `"fr": input.nothing`, 1)))}, ErrBundle},
		"fails to be logged": {Config{Activate: func(context.Context, Activation) error { return os.ErrDeadlineExceeded }}, os.ErrDeadlineExceeded},
	} {
		e, err := New(t.Context(), test.config)
		if e != nil || err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func failingTest(t *testing.T) string {
	dir := policyDir(t, small)
	rego := "package regard.decision_test\n\nimport data.regard.decision\n\ntest_active if not decision.active with input as {\"agency\": {\"state\": \"active\"}}\n"
	if err := os.WriteFile(filepath.Join(dir, "p_test.rego"), []byte(rego), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestReload goes through what can happen to a source; after each step, what is in force must be the last bundle that was activated.
func TestReload(t *testing.T) {
	dir := policyDir(t, small)
	var activated []Activation
	var fail error
	var e *Engine
	e = newEngine(t, Config{Source: FromPath(dir), Activate: func(_ context.Context, a Activation) error {
		if e != nil && e.Status().Digest == a.Digest {
			t.Error("in force before it was activated")
		}
		if fail == nil {
			activated = append(activated, a)
		}
		return fail
	}})
	decided := func(want Digest) {
		t.Helper()
		d, err := e.Decide(t.Context(), fixtureInput())
		if err != nil || d.Bundle() != want || e.Status().Digest != want || e.Bundle().Digest() != want {
			t.Errorf("decided under %v (%v), want %v", d.Bundle(), err, want)
		}
	}
	if len(activated) != 1 {
		t.Fatalf("%d activations", len(activated))
	}
	first := activated[0]
	if b, err := ParseBundle(first.Bytes); err != nil || b.Digest() != first.Digest || b.Revision() != first.Revision {
		t.Errorf("activated bytes: %v", err)
	}
	decided(first.Digest)

	if err := e.Reload(t.Context()); err != nil || len(activated) != 1 {
		t.Errorf("nothing changed: %v, %d activations", err, len(activated))
	}

	writePolicy(t, dir, small+"\nbroken if")
	if err := e.Reload(t.Context()); !errors.Is(err, ErrBundle) || !strings.Contains(err.Error(), "p.rego:9") || !errors.Is(e.Status().Problem, ErrBundle) {
		t.Errorf("broken: %v", err)
	}
	decided(first.Digest)

	writePolicy(t, dir, small+"\n# second\n")
	fail = errors.New("the log is down")
	if err := e.Reload(t.Context()); !errors.Is(err, ErrActivation) || !errors.Is(err, fail) || e.Status().Problem == nil {
		t.Errorf("activation fails: %v", err)
	}
	decided(first.Digest)

	fail = nil
	if err := e.Reload(t.Context()); err != nil || e.Status().Problem != nil {
		t.Errorf("activation works again: %v", err)
	}
	if len(activated) != 2 || activated[1].Digest == first.Digest {
		t.Fatalf("%d activations", len(activated))
	}
	decided(activated[1].Digest)

	writePolicy(t, dir, small)
	if err := e.Reload(t.Context()); err != nil || len(activated) != 3 {
		t.Errorf("back to the first: %v, %d activations", err, len(activated))
	}
	decided(first.Digest)
}

func TestWatch(t *testing.T) {
	dir := policyDir(t, small)
	activations := make(chan Activation, 10)
	logs := make(chan string, 100)
	e := newEngine(t, Config{
		Source: FromPath(dir), Debounce: time.Millisecond, Logger: slog.New(slog.NewTextHandler(lines(logs), nil)),
		Activate: func(_ context.Context, a Activation) error { activations <- a; return nil },
	})
	<-activations
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	// A change that comes between New and Watch counts too.
	writePolicy(t, dir, small+"# second\n")
	go func() { done <- e.Watch(ctx) }()
	second := <-activations
	writePolicy(t, dir, "package broken")
	for line := range logs {
		if strings.Contains(line, "policy not reloaded") {
			break
		}
	}
	writePolicy(t, dir, small+"# third\n")
	if third := <-activations; third.Digest == second.Digest {
		t.Error("the same again")
	}
	// A directory that is new is watched as well.
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	writePolicy(t, sub, "package regard.extra\n")
	<-activations
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRetryGivesWay: what failed here isn't brought back over what another broker has activated since.
func TestRetryGivesWay(t *testing.T) {
	dir := policyDir(t, small)
	var tries, fail atomic.Int32
	e := newEngine(t, Config{Source: FromPath(dir), Retry: time.Millisecond, Activate: func(context.Context, Activation) error {
		tries.Add(1)
		if fail.Load() > 0 {
			return os.ErrDeadlineExceeded
		}
		return nil
	}})
	writePolicy(t, dir, small+"# failed\n")
	fail.Store(1)
	if err := e.Reload(t.Context()); !errors.Is(err, ErrActivation) {
		t.Fatal(err)
	}
	fail.Store(0)
	other, err := FromPath(policyDir(t, small+"# another broker's\n")).Load()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Adopt(t.Context(), other.Bytes()); err != nil {
		t.Fatal(err)
	}
	tries.Store(0)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.Retry(ctx) }()
	for deadline := time.Now().Add(time.Minute); len(e.failed) > 0; time.Sleep(time.Millisecond) { // it has heard of the failure
		if time.Now().After(deadline) {
			t.Fatal("not heard of")
		}
	}
	time.Sleep(20 * time.Millisecond) // and would have tried
	stop()
	<-done
	if s := e.Status(); tries.Load() != 0 || s.Digest != other.Digest() || s.Problem != nil {
		t.Errorf("%d attempts, %+v", tries.Load(), s)
	}
}

// TestStartOnRecorded: what can't be activated at the start leaves in force what was in force last, and is tried again; without that, or with one that is no policy, nothing starts.
func TestStartOnRecorded(t *testing.T) {
	dir := policyDir(t, small)
	last, err := FromPath(policyDir(t, small+"# last\n")).Load()
	if err != nil {
		t.Fatal(err)
	}
	var fail atomic.Bool
	fail.Store(true)
	config := Config{Source: FromPath(dir), Retry: time.Millisecond, Activate: func(context.Context, Activation) error {
		if fail.Load() {
			return os.ErrDeadlineExceeded
		}
		return nil
	}}
	for name, recorded := range map[string][]byte{"nothing": nil, "no policy": []byte("{}")} {
		config.Recorded = recorded
		if _, err := New(t.Context(), config); !errors.Is(err, ErrActivation) {
			t.Errorf("%s was in force last: %v", name, err)
		}
	}
	config.Recorded = last.Bytes()
	e := newEngine(t, config)
	if s := e.Status(); s.Digest != last.Digest() || !errors.Is(s.Problem, ErrActivation) {
		t.Fatalf("%+v", s)
	}
	fail.Store(false)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.Retry(ctx) }()
	for deadline := time.Now().Add(time.Minute); e.Status().Digest == last.Digest() || e.Status().Problem != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", e.Status())
		}
	}
	stop()
	<-done

	// A bundle that can't be used starts nothing, whatever was in force.
	writePolicy(t, dir, "package broken")
	if _, err := New(t.Context(), config); !errors.Is(err, ErrBundle) {
		t.Errorf("a broken bundle: %v", err)
	}
}

// TestRetry: a bundle that couldn't be activated is in force as soon as it can be, though nobody touches its files any more, and whoever tried it.
func TestRetry(t *testing.T) {
	dir := policyDir(t, small)
	var tries, fail atomic.Int32
	e := newEngine(t, Config{Source: FromPath(dir), Retry: time.Millisecond, Activate: func(context.Context, Activation) error {
		tries.Add(1)
		if fail.Add(-1) >= 0 {
			return os.ErrDeadlineExceeded
		}
		return nil
	}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.Retry(ctx) }()
	for i, failures := range []int32{1, 3} {
		writePolicy(t, dir, fmt.Sprintf("%s# %d\n", small, i))
		want, err := FromPath(dir).Load()
		if err != nil {
			t.Fatal(err)
		}
		tries.Store(0)
		fail.Store(failures)
		if err := e.Reload(t.Context()); !errors.Is(err, ErrActivation) {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); e.Status().Digest != want.Digest() || e.Status().Problem != nil; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not in force: %+v after %d attempts", e.Status(), tries.Load())
			}
		}
		if n := tries.Load(); n != failures+1 {
			t.Errorf("%d attempts, want %d", n, failures+1)
		}
	}
	// What can't be used isn't tried again.
	writePolicy(t, dir, small+"# last\n")
	fail.Store(1 << 30)
	if err := e.Reload(t.Context()); !errors.Is(err, ErrActivation) {
		t.Fatal(err)
	}
	writePolicy(t, dir, "package broken")
	for deadline := time.Now().Add(time.Minute); !errors.Is(e.Status().Problem, ErrBundle); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%v", e.Status().Problem)
		}
	}
	stop()
	<-done
}

type lines chan<- string

func (l lines) Write(b []byte) (int, error) { l <- string(b); return len(b), nil }

func TestWatchEnds(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := newEngine(t, Config{}).Watch(ctx); err != nil {
		t.Error(err)
	}
	dir := policyDir(t, small)
	e := newEngine(t, Config{Source: FromPath(dir)})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := e.Watch(t.Context()); err == nil {
		t.Error("watches what isn't there")
	}
}

// TestMalformed: whatever a bundle answers, if it isn't exactly a grant of what was asked for or a list of reasons, it refuses, says
// policy.error, and a replay says the same. The bundles are made without the checks that New does.
func TestMalformed(t *testing.T) {
	const refuse = "\nreasons contains {\"code\": \"x\", \"fr\": \"Non.\", \"en\": \"No.\"} if not active\n\nactive if input.agency.state == \"active\"\n"
	grant := func(s string) string { return "package regard.decision\n\ngrant := " + s + " if active\n" + refuse }
	reasons := func(s string) string {
		return "package regard.decision\n\ngrant := 1 if active\n\nactive if input.agency.state == \"none\"\n\n" + s + "\n"
	}
	const ok = `"scopes": input.scopes, "fields": input.service.scopes`
	tests := map[string]string{
		"undefined":             grant("input.nothing"),
		"no object":             grant("true"),
		"a key more":            grant("{" + ok + `, "obligations": [], "allow": true}`),
		"a key less":            grant("{" + ok + "}"),
		"another key":           grant("{" + ok + `, "duties": []}`),
		"no scopes":             grant(`{"scopes": [], "fields": {}, "obligations": []}`),
		"scopes not strings":    grant(`{"scopes": [1], "fields": input.service.scopes, "obligations": []}`),
		"scope not asked for":   grant(`{"scopes": ["allocataires"], "fields": {"allocataires": ["/data/enfants/nom"]}, "obligations": []}`),
		"fewer scopes":          grant(`{"scopes": ["enfants"], "fields": input.service.scopes, "obligations": []}`),
		"fields of another":     grant(`{"scopes": ["enfants"], "fields": {"quotient_familial": ["/data/quotient_familial/valeur"]}, "obligations": []}`),
		"field not declared":    grant(`{"scopes": ["enfants"], "fields": {"enfants": ["/data/enfants/nom", "/data"]}, "obligations": []}`),
		"field of another":      grant(`{"scopes": ["enfants"], "fields": {"enfants": ["/data/quotient_familial/valeur"]}, "obligations": []}`),
		"no fields":             grant(`{"scopes": ["enfants"], "fields": {"enfants": []}, "obligations": []}`),
		"fields not a list":     grant(`{"scopes": ["enfants"], "fields": {"enfants": "/data/enfants/nom"}, "obligations": []}`),
		"fields not an object":  grant(`{"scopes": ["enfants"], "fields": ["enfants"], "obligations": []}`),
		"obligation unknown":    grant("{" + ok + `, "obligations": ["phone"]}`),
		"obligations no list":   grant("{" + ok + `, "obligations": null}`),
		"two grants":            grant("{"+ok+`, "obligations": []}`) + "\ngrant := 2 if active\n",
		"two values":            "package regard.decision\n\ngrant := {\"scopes\": [s], \"fields\": {s: input.service.scopes[s]}, \"obligations\": []} if { active; some s in input.scopes }\n" + refuse,
		"failing built-in":      grant("{" + ok + `, "obligations": to_number(input.purpose)}`),
		"no reasons":            reasons("reasons contains 1 if { not active; input.nothing }"),
		"reason no object":      reasons("reasons contains 1 if not active"),
		"reason without French": reasons(`reasons contains {"code": "x", "en": "No."} if not active`),
		"reason with more":      reasons(`reasons contains {"code": "x", "fr": "Non.", "en": "No.", "de": "Nein."} if not active`),
		"empty sentence":        reasons(`reasons contains {"code": "x", "fr": "", "en": "No."} if not active`),
		"sentence not text":     reasons(`reasons contains {"code": "x", "fr": "a\nb", "en": "No."} if not active`),
		"code not a token":      reasons(`reasons contains {"code": "X", "fr": "Non.", "en": "No."} if not active`),
		"code of the engine":    reasons(`reasons contains {"code": "policy.error", "fr": "Non.", "en": "No."} if not active`),
		"code twice": reasons(`reasons contains {"code": "x", "fr": "Non.", "en": "No."} if not active` +
			"\n\nreasons contains {\"code\": \"x\", \"fr\": \"Non !\", \"en\": \"No!\"} if not active"),
		"reasons not a list": reasons(`reasons := {"code": "x"} if not active`),
	}
	in := fixtureInput()
	n, err := in.normal()
	if err != nil {
		t.Fatal(err)
	}
	for name, rego := range tests {
		t.Run(name, func(t *testing.T) {
			b, err := NewBundle(map[string][]byte{"p.rego": []byte(rego)})
			if err != nil {
				t.Fatal(err)
			}
			p, err := compile(t.Context(), b, true)
			if err != nil {
				t.Fatal(err)
			}
			d, err := p.decide(t.Context(), n, time.Minute)
			if !errors.Is(err, ErrEvaluation) {
				t.Errorf("got %v", err)
			}
			if _, ok := d.Granted(); ok {
				t.Error("granted")
			}
			if diff := cmp.Diff([]Code{CodePolicyError}, d.Codes()); diff != "" {
				t.Error(diff)
			}
			again, err := Replay(t.Context(), b.Bytes(), d.Input())
			if diff := cmp.Diff(d.Recorded(), again); diff != "" || err != nil {
				t.Errorf("replay: %s (%v)", diff, err)
			}
		})
	}
	// And what is well-formed is taken: a bundle may grant less than what was asked for.
	b, err := NewBundle(map[string][]byte{"p.rego": []byte(grant(`{"scopes": ["enfants"], "fields": {"enfants": ["/data/enfants/nom"]}, "obligations": ["wait_for_witnesses"]}`))})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Replay(t.Context(), b.Bytes(), n.canonical)
	want := Recorded{Allow: true, Scopes: []Scope{"enfants"}, Fields: []Pointer{"/data/enfants/nom"},
		Obligations: []Obligation{ObligationWaitForWitnesses}, Bundle: b.Digest(), Revision: b.Revision(), Input: r.Input}
	if diff := cmp.Diff(want, r); diff != "" || err != nil {
		t.Errorf("%s (%v)", diff, err)
	}
}

func TestUnavailable(t *testing.T) {
	e := newEngine(t, Config{})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	d, err := e.Decide(ctx, fixtureInput())
	if _, ok := d.Granted(); ok || d.Input() != nil || !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("the caller gave up: %v", err)
	}
	// Two to the power of 32 steps.
	slow := "package regard.decision\n\ngrant := 1 if { some a in xs; some b in xs; some c in xs; some d in xs; a + b + c + d == input.time + 1000; active }\n\n" +
		"active if input.agency.state == \"none\"\n\nreasons contains 1 if not active\n\nxs := [" + strings.Repeat("1, ", 255) + "1]\n"
	b, err := NewBundle(map[string][]byte{"p.rego": []byte(slow)})
	if err != nil {
		t.Fatal(err)
	}
	p, err := compile(t.Context(), b, false)
	if err != nil {
		t.Fatal(err)
	}
	n, err := fixtureInput().normal()
	if err != nil {
		t.Fatal(err)
	}
	d, err = p.decide(t.Context(), n, 20*time.Millisecond)
	if _, ok := d.Granted(); ok || d.Input() != nil || !errors.Is(err, ErrUnavailable) {
		t.Errorf("it takes too long: %v", err)
	}
	// The same of what partial evaluation leaves: it knows no scope, and there are 64.
	in := fixtureInput()
	for i := range maxScopes {
		in.Scopes = append(in.Scopes[:i:i], Scope(fmt.Sprintf("scope-%d", i)))
	}
	in.Service.Scopes = nil
	if n, err = in.normal(); err != nil {
		t.Fatal(err)
	}
	slow = "package regard.decision\n\ngrant := 1 if { some a in input.scopes; some b in input.scopes; some c in input.scopes; some d in input.scopes; some e in input.scopes; some f in input.scopes; " +
		"concat(\"\", [a, b, c, d, e, f]) == \"\"; active }\n\nactive if input.agency.state == \"none\"\n\nreasons contains 1 if not active\n"
	if b, err = NewBundle(map[string][]byte{"p.rego": []byte(slow)}); err != nil {
		t.Fatal(err)
	}
	if p, err = compile(t.Context(), b, true); err != nil || p.residue == nil {
		t.Fatal("no residue", err)
	}
	d, err = p.decide(t.Context(), n, 20*time.Millisecond)
	if _, ok := d.Granted(); ok || d.Input() != nil || !errors.Is(err, ErrUnavailable) {
		t.Errorf("what is left takes too long: %v", err)
	}
}

// TestResidue: what isn't one conjunction over the input is evaluated as a rule, and decides the same.
func TestResidue(t *testing.T) {
	const rest = "\n\nreasons contains {\"code\": \"x\", \"fr\": \"Non.\", \"en\": \"No.\"} if not active\n\nactive if input.agency.state == \"active\"\n"
	const ok = `{"scopes": input.scopes, "fields": input.service.scopes, "obligations": []}`
	for name, c := range map[string]struct {
		rego string
		one  bool
	}{
		"one":        {"grant := " + ok + " if active", true},
		"two":        {"grant := " + ok + " if active\n\ngrant := " + ok + " if { active; input.has_object }", false},
		"negation":   {"grant := " + ok + " if { active; not lacking }\n\nlacking if not input.has_context\n\nlacking if not input.has_object", true},
		"never":      {"grant := " + ok + " if { active; 1 == 2 }", false},
		"repeatedly": {"grant := " + ok + " if { active; some s in input.scopes; s != \"none\" }", true},
	} {
		b, err := NewBundle(map[string][]byte{"p.rego": []byte("package regard.decision\n\n" + c.rego + rest)})
		if err != nil {
			t.Fatal(name, err)
		}
		p, err := compile(t.Context(), b, true)
		if err != nil {
			t.Fatal(name, err)
		}
		if (p.residue != nil) != c.one {
			t.Errorf("%s: a residue: %v", name, p.residue != nil)
		}
		in := fixtureInput()
		for _, in.HasObject = range []bool{false, true} {
			n, err := in.normal()
			if err != nil {
				t.Fatal(err)
			}
			d, err := p.decide(t.Context(), n, time.Minute)
			if name == "never" {
				if !errors.Is(err, ErrEvaluation) { // and no reason
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if name == "negation" && !in.HasObject {
				if !errors.Is(err, ErrEvaluation) {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if _, granted := d.Granted(); err != nil || !granted {
				t.Errorf("%s: %v, %v", name, granted, err)
			}
		}
	}
	if newEngine(t, Config{}).current.Load().residue == nil {
		t.Error("the built-in policy has no residue")
	}
}

// TestReplayIsEqual: a decision and its replay from the recorded bytes alone are the same. The replay evaluates the rules as they are
// written, so this also holds OPA's partial evaluation to them.
func TestReplayIsEqual(t *testing.T) {
	var recorded Activation
	e := newEngine(t, Config{Activate: func(_ context.Context, a Activation) error { recorded = a; return nil }})
	replayer, err := NewReplayer(t.Context(), recorded.Bytes)
	if err != nil || replayer.Digest() != recorded.Digest {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	granted := 0
	for i := range 2000 {
		d, err := e.Decide(t.Context(), randomInput(r))
		if err != nil {
			t.Fatalf("seed %d, input %d: %v", seed, i, err)
		}
		again, err := replayer.Replay(t.Context(), d.Input())
		if diff := cmp.Diff(d.Recorded(), again); diff != "" || err != nil {
			t.Fatalf("seed %d, input %d: %s (%v)", seed, i, diff, err)
		}
		if again.Allow {
			granted++
		}
		if again.Allow != (len(again.Reasons) == 0) || again.Allow != (len(again.Fields) > 0) {
			t.Fatalf("seed %d, input %d: allow %v with reasons %v", seed, i, again.Allow, again.Codes())
		}
	}
	if granted < 200 || granted > 1800 {
		t.Errorf("seed %d: %d of 2000 inputs were granted, which tests little", seed, granted)
	}
}

func TestReplayRefused(t *testing.T) {
	bundle := builtin(t).Bytes()
	if _, err := Replay(t.Context(), bundle, []byte("{}")); !errors.Is(err, ErrInput) {
		t.Errorf("input: %v", err)
	}
	if _, err := Replay(t.Context(), bundle[:100], []byte(canonicalInput)); !errors.Is(err, ErrBundle) {
		t.Errorf("bundle: %v", err)
	}
	changed := bytes.Replace(bundle, []byte("input.agreement.purposes"), []byte("input.agreement.purposez"), 1)
	r, err := Replay(t.Context(), changed, []byte(canonicalInput))
	if err != nil || r.Allow || r.Bundle == builtin(t).Digest() {
		t.Errorf("another bundle: %+v (%v)", r, err)
	}
}

// TestConcurrency decides while bundles change. Each decision must be what the bundle that it names says.
func TestConcurrency(t *testing.T) {
	dir := policyDir(t, small)
	var activated sync.Map // digest → true
	e := newEngine(t, Config{Source: FromPath(dir), Activate: func(_ context.Context, a Activation) error { activated.Store(a.Digest, true); return nil }})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 0))
			for !stop.Load() {
				in := randomInput(r)
				if len(in.Scopes) == 0 || len(in.Service.Scopes) != len(in.Scopes) {
					continue // on which the small policy fails
				}
				d, err := e.Decide(t.Context(), in)
				if err != nil {
					t.Error(err)
					return
				}
				if _, ok := activated.Load(d.Bundle()); !ok {
					t.Error("decided under a bundle that was not activated")
				}
				if _, ok := d.Granted(); ok != (in.Agency.State == AgencyActive) {
					t.Errorf("granted: %v, agency %s", ok, in.Agency.State)
				}
				e.Status()
			}
		})
	}
	for i := range 20 {
		writePolicy(t, dir, fmt.Sprintf("%s\n# %d\n", small, i))
		if err := e.Reload(t.Context()); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	wg.Wait()
}

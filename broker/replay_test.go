package broker_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
	"github.com/regard-broker/regard/policy"
)

// decided is what a test knows of a decision, written by hand.
type decided struct {
	outcome broker.Outcome
	scopes  []policy.Scope
	fields  []policy.Pointer
	codes   []policy.Code
	answer  *broker.Answer
	bundle  string // revision
}

// TestRecordedDecisionsReplay: with what an auditor has, the opened record and the published bundle that it names, every decision comes out as it was: after the policy
// changed, which refuses now what it granted, and after the person was erased.
func TestRecordedDecisionsReplay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../policy/bundle")); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *broker.Config) { c.Policy = policy.FromPath(dir) })
	quotient := []policy.Pointer{"/data/quotient/valeur"}
	members := []policy.Pointer{"/data/membres/*/naissance", "/data/membres/*/nom", "/data/membres/*/prenoms", "/data/membres/*/sexe", "/data/quotient/valeur"}
	known := map[string]decided{}
	ask := func(bundle string, name string, scopes []string, want decided) {
		t.Helper()
		req := request()
		req.Scopes = scopes
		req.Subject.Pivot.BirthName = name
		a := w.disclose(req)
		if a.Outcome != want.outcome || !slices.Equal(codesOf(a.Reasons), want.codes) {
			t.Fatalf("%s: outcome %s, reasons %v", scopes, a.Outcome, a.Reasons)
		}
		want.answer, want.bundle = a, bundle
		for _, s := range slices.Sorted(slices.Values(scopes)) {
			want.scopes = append(want.scopes, policy.Scope(s))
		}
		known[uuid.UUID(a.ID).String()] = want
	}
	for _, name := range []string{marie.BirthName, "Autre"} {
		ask("1.0.0", name, []string{"quotient"}, decided{outcome: broker.Released, fields: quotient})
		ask("1.0.0", name, []string{"quotient", "members"}, decided{outcome: broker.Released, fields: members})
		ask("1.0.0", name, []string{"address"}, decided{outcome: broker.Denied, codes: []policy.Code{"scope.not_covered"}})
	}

	replaceIn(t, filepath.Join(dir, ".manifest"), `"1.0.0"`, `"2.0.0"`)
	replaceIn(t, filepath.Join(dir, "regard/decision/decision.rego"), "\tagency_active\n", "\tagency_active\n\tmembers_not_asked\n")
	if err := os.WriteFile(filepath.Join(dir, "regard/decision/members.rego"), []byte(`package regard.decision

members_not_asked if not "members" in input.scopes

reasons contains {
	"code": "members.suspended",
	"fr": "La composition du foyer n'est plus communiquée.",
	"en": "Household members are no longer disclosed.",
} if {
	not members_not_asked
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.b.ReloadPolicy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{marie.BirthName, "Autre"} {
		ask("2.0.0", name, []string{"quotient"}, decided{outcome: broker.Released, fields: quotient})
		ask("2.0.0", name, []string{"quotient", "members"}, decided{outcome: broker.Denied, codes: []policy.Code{"members.suspended"}})
		ask("2.0.0", name, []string{"address", "members"}, decided{outcome: broker.Denied, codes: []policy.Code{"members.suspended", "scope.not_covered"}})
	}
	entries := checkReplays(t, w, known)

	subject, err := marie.Subject()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Erase(t.Context(), subject, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	if again := checkReplays(t, w, known); again != entries {
		t.Errorf("%d entries could be replayed, %d after an erasure", entries, again)
	}
}

// checkReplays replays every disclosure in the log and returns how many entries it looked at.
func checkReplays(t *testing.T, w *world, known map[string]decided) int {
	t.Helper()
	audited, err := w.b.Audited(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	active := activations(t, w)
	asked := map[string]bool{}
	for index, o := range audited {
		id := o.Text(proof.DisclosureID)
		want, ok := known[id]
		if !ok {
			t.Fatalf("entry %d is of a disclosure that nobody asked for", index)
		}
		bundle, err := proof.ParseHash(o.Text(proof.DisclosurePolicy))
		if err != nil {
			t.Fatal(err)
		}
		act, ok := active[bundle]
		switch {
		case !ok:
			t.Fatalf("entry %d: its bundle is not in the log", index)
		case act.at >= index:
			t.Errorf("entry %d was decided under a bundle that came into force at %d", index, act.at)
		case act.revision != want.bundle:
			t.Errorf("entry %d: decided under revision %s, want %s", index, act.revision, want.bundle)
		}
		text, err := os.ReadFile(filepath.Join(w.b.PublicDir(), "blob", hex.EncodeToString(bundle[:])))
		if err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(text) != bundle {
			t.Errorf("entry %d: the published bundle is another one", index)
		}
		input, p := o.Value(proof.DisclosureInput)
		if p != proof.Present {
			t.Fatalf("entry %d shows no input to an auditor", index)
		}
		got, err := policy.Replay(t.Context(), text, input)
		if err != nil {
			t.Fatalf("entry %d: %v", index, err)
		}
		granted := want.outcome != broker.Denied
		if o.Text(proof.DisclosureOutcome) != string(want.outcome) || got.Allow != granted || got.Bundle != policy.Digest(bundle) {
			t.Errorf("entry %d: recorded as %s, replayed as %v under %s; want %s", index, o.Text(proof.DisclosureOutcome), got.Allow, got.Bundle, want.outcome)
		}
		var scopes []policy.Scope
		if granted {
			scopes = want.scopes
		}
		if !slices.Equal(got.Scopes, scopes) || !slices.Equal(got.Fields, want.fields) {
			t.Errorf("entry %d: replayed scopes %s and fields %s, want %s and %s", index, got.Scopes, got.Fields, scopes, want.fields)
		}
		if !slices.Equal(got.Codes(), want.codes) || !slices.Equal(o.List(proof.DisclosureReasons), words(want.codes)) {
			t.Errorf("entry %d: recorded reasons %s, replayed %s, want %s", index, o.List(proof.DisclosureReasons), got.Codes(), want.codes)
		}
		if diff := cmp.Diff(want.answer.Reasons, got.Reasons); granted != (len(got.Reasons) == 0) || !granted && diff != "" {
			t.Errorf("entry %d: the agency was told other reasons (-told +replayed):\n%s", index, diff)
		}
		if o.Text(proof.DisclosureRole) == proof.RoleAsked {
			asked[id] = true
			if !slices.Equal(o.List(proof.DisclosureReleased), words(want.fields)) {
				t.Errorf("entry %d: released %s, granted %s", index, o.List(proof.DisclosureReleased), want.fields)
			}
		}
	}
	if len(asked) != len(known) {
		t.Errorf("%d of %d disclosures have an entry", len(asked), len(known))
	}
	return len(audited)
}

type activation struct {
	at       proof.Index
	revision string
}

// activations reads the bundles that the log names from its tiles.
func activations(t *testing.T, w *world) map[proof.Hash]activation {
	t.Helper()
	cp, err := w.b.Log().AwaitPublished(t.Context(), proof.Index(w.b.Log().Checkpoint().Size()-1))
	if err != nil {
		t.Fatal(err)
	}
	out := map[proof.Hash]activation{}
	tree := tiles.Tree{Dir: w.b.PublicDir(), Size: cp.Size(), Root: cp.Root()}
	for i := range cp.Size() {
		text, err := tree.Entry(i)
		if err != nil {
			t.Fatal(err)
		}
		e, err := proof.ParseEntry(text)
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := e.(proof.PolicyActivated); ok {
			if _, twice := out[p.Bundle]; twice {
				t.Errorf("revision %s came into force twice", p.Revision)
			}
			out[p.Bundle] = activation{proof.Index(i), p.Revision}
		}
	}
	if len(out) != 2 {
		t.Errorf("the log names %d bundles, want 2", len(out))
	}
	return out
}

func replaceIn(t *testing.T, file, old, new string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil || bytes.Count(b, []byte(old)) != 1 {
		t.Fatalf("%s holds %q %d times (%v)", filepath.Base(file), old, bytes.Count(b, []byte(old)), err)
	}
	if err := os.WriteFile(file, bytes.Replace(b, []byte(old), []byte(new), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

func codesOf(reasons []policy.Reason) (out []policy.Code) {
	for _, r := range reasons {
		out = append(out, r.Code)
	}
	return out
}

func words[S ~string](list []S) (out []string) {
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

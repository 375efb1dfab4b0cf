package audit

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vectors are the published ones: the command has to say what they say.
type vectors struct {
	Common struct{ Policy string }
	Good   []struct {
		Text, Kind, State, Reader string
		Index                     uint64
		InRoll                    bool `json:"in_roll"`
	}
	Bad []struct{ Text, Reason string }
}

func load(t *testing.T) (v vectors, dir string) {
	t.Helper()
	b, err := os.ReadFile("../../../ledger/proof/testdata/receipts.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Good) == 0 || len(v.Bad) == 0 {
		t.Fatal("no vectors")
	}
	return v, t.TempDir()
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = Main(args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestGoodVectors(t *testing.T) {
	v, dir := load(t)
	policy := write(t, dir, "policy", v.Common.Policy)
	for i, g := range v.Good {
		r := write(t, dir, "receipt", g.Text)
		code, out, errs := run("verify", "--policy", policy, "--allow-provisional", "--json", r)
		var got []finding
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != Proven {
			t.Fatalf("%d: exit code %d, %v, %s", i, code, err, errs)
		}
		f := got[0]
		if !f.Proven || f.State != g.State || f.Kind != g.Kind || f.Index != g.Index || f.InRoll != g.InRoll || (f.InRoll && (f.RollSize < 4 || f.Closed == nil)) {
			t.Errorf("%d (%s): %+v", i, g.Reader, f)
		}
		// Strictly, with a quorum in the policy, provisional is unusable: not refuted.
		code, out, _ = run("verify", "--policy", policy, r)
		if want := g.State == "provisional"; (code == Input) != want || strings.Contains(out, "UNUSABLE") != want || strings.Contains(out, "PROVEN") == want || strings.Contains(out, "REFUTED") {
			t.Errorf("%d: %s: exit code %d: %s", i, g.State, code, out)
		}
		// An answer of the API does as well as a receipt.
		answer, err := json.Marshal(map[string]string{"receipt": g.Text})
		if err != nil {
			t.Fatal(err)
		}
		if code, _, errs := run("verify", "--policy", policy, "--allow-provisional", write(t, dir, "answer", string(answer))); code != Proven {
			t.Errorf("%d: as an answer: %d %s", i, code, errs)
		}
		code, out, _ = run("show", r)
		if code != 0 || !strings.Contains(out, "NOT VERIFIED") || !strings.Contains(out, "| regard/"+g.Kind) {
			t.Errorf("%d: show: %d %s", i, code, out)
		}
		code, out, _ = run("tlog-proof", r)
		if code != 0 || !strings.HasPrefix(out, "c2sp.org/tlog-proof@v1\n") || !strings.HasSuffix(g.Text, out) {
			t.Errorf("%d: tlog-proof: %d %s", i, code, out)
		}
		code, out, _ = run("tlog-proof", "--entry", r)
		if code != 0 || !strings.Contains(g.Text, out) || !strings.HasPrefix(out, "regard/"+g.Kind+"\n") {
			t.Errorf("%d: entry: %d %s", i, code, out)
		}
	}
}

func TestBadVectors(t *testing.T) {
	v, dir := load(t)
	policy := write(t, dir, "policy", v.Common.Policy)
	for _, b := range v.Bad {
		code, out, errs := run("verify", "--policy", policy, "--allow-provisional", write(t, dir, "receipt", b.Text))
		if code == Proven || strings.Contains(out, "PROVEN") || out+errs == "" {
			t.Errorf("%s: exit code %d, %s%s", b.Reason, code, out, errs)
		}
	}
}

func TestPayload(t *testing.T) {
	v, dir := load(t)
	policy := write(t, dir, "policy", v.Common.Policy)
	wrong := write(t, dir, "data", "not the data")
	for i, g := range v.Good {
		code, out, _ := run("verify", "--policy", policy, "--allow-provisional", "--payload", wrong, write(t, dir, "receipt", g.Text))
		if code != Refused || !strings.Contains(out, "REFUTED") {
			t.Errorf("%d: exit code %d, %s", i, code, out)
		}
	}
}

func TestInput(t *testing.T) {
	v, dir := load(t)
	policy, good := write(t, dir, "policy", v.Common.Policy), write(t, dir, "receipt", v.Good[0].Text)
	for _, x := range []struct {
		name string
		args []string
	}{
		{"no command", []string{"frobnicate"}}, {"no receipt", []string{"verify", "--policy", policy}}, {"no policy", []string{"verify", good}}, {"both", []string{"verify", "--policy", policy, "--log-key", "a+b", good}},
		{"no such file", []string{"verify", "--policy", policy, filepath.Join(dir, "none")}}, {"no such policy", []string{"verify", "--policy", filepath.Join(dir, "none"), good}},
		{"a receipt as a policy", []string{"verify", "--policy", good, good}}, {"a policy as a receipt", []string{"verify", "--policy", policy, policy}},
		{"bad key", []string{"verify", "--log-key", "a+b", good}}, {"unknown flag", []string{"verify", "--frob", good}}, {"JSON", []string{"show", write(t, dir, "json", "{}")}}, {"two payloads", []string{"verify", "--policy", policy, "--payload", good, good, good}},
		{"show nothing", []string{"show"}}, {"two proofs", []string{"tlog-proof", good, good}},
	} {
		if code, out, errs := run(x.args...); code != Input || out != "" || errs == "" {
			t.Errorf("%s: exit code %d, %q, %q", x.name, code, out, errs)
		}
	}
}

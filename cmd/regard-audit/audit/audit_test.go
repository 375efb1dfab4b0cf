package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
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
		if f.InRoll {
			coverage(t, f, g.Text)
		} else if f.Covers != "" || f.Caveats != nil {
			t.Errorf("%d: not settled, and yet it speaks of a roll: %+v", i, f)
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

// coverage wants a settled verdict to say of whom it speaks, and what it leaves open.
func coverage(t *testing.T, f finding, receipt string) {
	t.Helper()
	r, err := proof.ParseReceipt([]byte(receipt))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := r.Opening().Subject()
	if err != nil {
		t.Fatal(err)
	}
	if f.Covers != string(subject.Type()) {
		t.Errorf("it covers %q", f.Covers)
	}
	says, not := strings.Join(f.Says, " "), strings.Join(f.Not, " ")
	if !strings.Contains(says, "identifier is of type "+f.Covers) || !strings.Contains(not, "what auditors said of its index") || !strings.Contains(not, "other identifiers") || !strings.Contains(not, "restart@v1") {
		t.Errorf("it says %s; %s", says, not)
	}
	if homonyms := subject.Type() == proof.TypePerson; slices.Contains(f.Caveats, "homonyms") != homonyms || strings.Contains(not, "same names") != homonyms {
		t.Errorf("%s: caveats %v, %s", f.Covers, f.Caveats, not)
	}
	if strings.Contains(says+not, subject.Value()) {
		t.Error("it names the person")
	}
}

// TestPartialPivot: the published receipts are about whole identities; what a verdict says about one asked in part needs its opening alone.
func TestPartialPivot(t *testing.T) {
	for _, c := range []struct {
		pivot proof.Pivot
		want  []string
	}{
		{proof.Pivot{BirthName: "EXEMPLE", GivenNames: "ANNE", BirthDate: "1987-04", Sex: "F", BirthPlace: "75056"}, []string{"partial-pivot"}},
		{proof.Pivot{BirthName: "EXEMPLE", GivenNames: "ANNE", BirthDate: "1987-04-30", Sex: "F", BirthPlace: "75056"}, nil},
	} {
		subject, err := c.pivot.Subject()
		if err != nil {
			t.Fatal(err)
		}
		var f finding
		f.roll(subject, proof.Verdict{InRoll: true, RollSize: 4})
		if !slices.Equal(f.Caveats, c.want) || strings.Contains(strings.Join(f.Not, " "), "part of an identity") != (c.want != nil) {
			t.Errorf("%v: %v, %v", c.want, f.Caveats, f.Not)
		}
	}
}

// badCodes are the exit codes of the published bad receipts: what is no receipt is unusable, what is one and doesn't hold is refuted.
var badCodes = map[string]int{
	"another header": Input, "CR LF": Input, "an extra line in the tlog-proof": Input, "settlement cut short": Input,
	"a field's value changed, the subject's type": Input, "leaf at another position": Refused,
	"another log index": Refused, "the opening of another record": Refused, "a hash of the inclusion proof missing": Refused,
	"roll of another subject": Refused, "label of another subject": Refused, "an item left out of the bucket": Refused, "the closing marker of the next epoch": Refused,
	"an opener at another index": Refused, "a settlement with the subject hidden": Refused,
}

func TestBadVectors(t *testing.T) {
	v, dir := load(t)
	policy := write(t, dir, "policy", v.Common.Policy)
	for _, b := range v.Bad {
		want, known := badCodes[b.Reason]
		code, out, errs := run("verify", "--policy", policy, "--allow-provisional", write(t, dir, "receipt", b.Text))
		verdict := map[int]string{Refused: ": REFUTED\n", Input: ": UNUSABLE\n"}[want]
		if code != want || !known || strings.Contains(out, "PROVEN") || !strings.Contains(out, verdict) {
			t.Errorf("%s: exit code %d, want %d, %s%s", b.Reason, code, want, out, errs)
		}
	}
	if len(v.Bad) != len(badCodes) {
		t.Errorf("%d bad vectors, %d exit codes", len(v.Bad), len(badCodes))
	}
}

// TestSeveral: a file that can't be read hides nothing about the others, and the worst decides: refuted before unusable.
func TestSeveral(t *testing.T) {
	v, dir := load(t)
	policy, good := write(t, dir, "policy", v.Common.Policy), write(t, dir, "good", v.Good[0].Text)
	none, text := filepath.Join(dir, "none"), write(t, dir, "text", "not a receipt\n")
	refuted := ""
	for _, b := range v.Bad {
		if badCodes[b.Reason] == Refused {
			refuted = write(t, dir, "refuted", b.Text)
		}
	}
	for _, c := range []struct {
		files []string
		want  int
	}{
		{[]string{good, good}, Proven}, {[]string{none, good}, Input}, {[]string{good, text}, Input},
		{[]string{none, refuted, good}, Refused}, {[]string{refuted, text}, Refused}, {[]string{refuted, good}, Refused},
	} {
		args := append([]string{"verify", "--policy", policy, "--allow-provisional"}, c.files...)
		code, out, errs := run(args...)
		if code != c.want || strings.Count(out, "PROVEN")+strings.Count(out, "REFUTED")+strings.Count(out, "UNUSABLE") != len(c.files) {
			t.Errorf("%v: exit code %d, want %d: %s%s", c.files, code, c.want, out, errs)
		}
		code, out, _ = run(append(args, "--json")...)
		var got []finding
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != c.want || len(got) != len(c.files) {
			t.Fatalf("%v: exit code %d, %v: %s", c.files, code, err, out)
		}
		for i, f := range got {
			file := c.files[i]
			if f.File != file || f.Proven != (file == good) || f.Unusable != (file == none || file == text) || (f.Problem == "") != (file == good) {
				t.Errorf("%+v", f)
			}
		}
	}
}

// TestDependencies: whoever verifies shall not have to trust the server's code.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/regard-broker/regard/cmd/regard-audit").Output()
	if err != nil {
		t.Fatal(err)
	}
	const ours = "github.com/regard-broker/regard/"
	// ledger itself, broker and keys are the server's; logkey and version read flags for all programs, and have nothing of it. More of this list is a decision to be made here.
	may := []string{"cmd/regard-audit", "cmd/regard-audit/audit", "deploy/version", "ledger/fsck", "ledger/logkey", "ledger/mirror", "ledger/monitor", "ledger/proof", "ledger/reader", "ledger/tiles", "ledger/verdict", "policy"}
	for _, p := range strings.Fields(string(out)) {
		if rest, is := strings.CutPrefix(p, ours); is && !slices.Contains(may, rest) {
			t.Errorf("of this project it depends on %s", rest)
		}
		for _, server := range []string{"google/trillian", "sqlite", "hashicorp/vault", "google.golang.org/grpc"} {
			if strings.Contains(p, server) || p == "database/sql" {
				t.Errorf("it depends on %s", p)
			}
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

// endless gives a byte and then x for ever, and counts.
type endless struct {
	first byte
	read  int64
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	if e.read == 0 && len(p) > 0 {
		p[0] = e.first
	}
	e.read += int64(len(p))
	return len(p), nil
}

// TestEndlessInput: no more is read of a file than it can have.
func TestEndlessInput(t *testing.T) {
	v, dir := load(t)
	policy := write(t, dir, "policy", v.Common.Policy)
	for _, c := range []struct {
		first byte
		limit int64
		args  []string
	}{
		{'r', proof.MaxReceipt, []string{"verify", "--policy", policy, "-"}},
		{'{', maxWithAnswer, []string{"verify", "--policy", policy, "-"}},
		{'l', maxInput, []string{"verify", "--policy", "-", policy}},
	} {
		in := &endless{first: c.first}
		var out, errs bytes.Buffer
		if code := Main(c.args, in, &out, &errs); code != Input || !strings.Contains(out.String()+errs.String(), fmt.Sprintf("larger than %d bytes", c.limit)) {
			t.Errorf("%c: exit code %d, %s%s", c.first, code, &out, &errs)
		}
		if in.read > c.limit+1<<16 {
			t.Errorf("%c: %d bytes were read, at most %d are needed", c.first, in.read, c.limit)
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
		{"no such policy", []string{"verify", "--policy", filepath.Join(dir, "none"), good}},
		{"a receipt as a policy", []string{"verify", "--policy", good, good}},
		{"bad key", []string{"verify", "--log-key", "a+b", good}}, {"unknown flag", []string{"verify", "--frob", good}}, {"JSON", []string{"show", write(t, dir, "json", "{}")}}, {"two payloads", []string{"verify", "--policy", policy, "--payload", good, good, good}},
		{"show nothing", []string{"show"}}, {"two proofs", []string{"tlog-proof", good, good}},
	} {
		if code, out, errs := run(x.args...); code != Input || out != "" || errs == "" {
			t.Errorf("%s: exit code %d, %q, %q", x.name, code, out, errs)
		}
	}
}

// What every program says of itself, and of what it doesn't know.
func TestVersionAndUnknownCommands(t *testing.T) {
	if code, out, errs := run("version"); code != 0 || !strings.HasPrefix(out, "regard-audit ") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	if code, out, errs := run("version", "--json"); code != 0 || !strings.Contains(out, `"platform": "`) {
		t.Errorf("%d %s%s", code, out, errs)
	}
	if code, _, errs := run("frob"); code != Input || !strings.Contains(errs, `regard-audit has no command "frob" (see regard-audit --help)`) {
		t.Errorf("%d %s", code, errs)
	}
	if code, _, errs := run("fsck", "x", "--log-key", "k", "--policy", "p"); code != Input || !strings.Contains(errs, "give one of --log-key and --policy, not both") {
		t.Errorf("%d %s", code, errs)
	}
	if code, _, errs := run("fsck", "x", "--log-key", "bogus"); code != Input || !strings.Contains(errs, "--log-key: open bogus: ") || !strings.Contains(errs, "would hold a +") {
		t.Errorf("%d %s", code, errs)
	}
}

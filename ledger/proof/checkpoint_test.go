package proof_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"github.com/regard-broker/regard/ledger/proof"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

func TestVerifyCheckpoint(t *testing.T) {
	w := newWorld()
	size := len(w.texts)
	cp := w.verified(size, 1, 3, 2)
	if cp.IsZero() || cp.Origin() != origin || cp.Size() != uint64(size) || cp.Root() != refRoot(w.hashes) || !cp.Witnessed() {
		t.Errorf("%+v", cp)
	}
	if got := cp.Witnesses(); !slices.Equal(got, []string{"w2.example/witness", "w3.example/witness"}) {
		t.Errorf("witnesses %q", got)
	}
	if got := cp.Unverified(); !slices.Equal(got, []string{"stranger.example/witness"}) {
		t.Errorf("unverified %q", got)
	}
	if got := cp.Cosignatures(); len(got) != 2 || got[0].Unix != 1_764_000_000 {
		t.Errorf("cosignatures %v", got)
	}
	if !bytes.Equal(cp.Note(), w.checkpoint(size, 1, 3, 2)) {
		t.Error("Note is not what was verified")
	}
	if w.verified(size, 1).Witnessed() || w.verified(size, 1, 3).Witnessed() {
		t.Error("one witness of two is a quorum")
	}
	alone := must(proof.NewPolicy(w.vkey))
	if cp := must(proof.VerifyCheckpoint(w.checkpoint(size, 0, 1, 2), alone)); cp.Witnessed() || len(cp.Unverified()) != 3 {
		t.Error("witnessed under a policy without witnesses")
	}
}

// badCheckpoints must be refused, each with the reason. They are published as
// vectors.
func badCheckpoints(w *world) []struct {
	reason string
	note   string
	err    error
} {
	size := len(w.texts)
	good := string(w.checkpoint(size, 0, 1))
	body, sigs, _ := strings.Cut(good, "\n\n")
	body += "\n"
	sign := func(body string) string { return string(must(note.Sign(&note.Note{Text: body}, w.signer))) }
	otherKey, _ := must2(note.GenerateKey(&detRand{seed: "other log key"}, origin))
	lines := strings.SplitAfter(sigs, "\n")
	// The base64 of 68 bytes has two trailing bits, which must be zero.
	at := strings.Index(lines[0], "=\n")
	slack := lines[0][:at-1] + string(lines[0][at-1]+1) + lines[0][at:]
	third := w.witnesses[2].line([]byte(strings.Replace(body, origin, "other.example", 1)))
	return []struct {
		reason, note string
		err          error
	}{
		{"empty", "", proof.ErrFormat},
		{"no signatures", body + "\n", proof.ErrSignature},
		{"no empty line", body + sigs, proof.ErrFormat},
		{"signed by another key of the same name", string(must(note.Sign(&note.Note{Text: body}, must(note.NewSigner(otherKey))))), proof.ErrSignature},
		{"witnesses, but not the log", body + "\n" + lines[1] + lines[2], proof.ErrSignature},
		{"the log's signature of another tree", sign(strings.Replace(body, fmt.Sprint(size), fmt.Sprint(size+1), 1))[len(body)+1:], proof.ErrFormat},
		{"size changed after signing", strings.Replace(good, fmt.Sprintf("\n%d\n", size), fmt.Sprintf("\n%d\n", size+1), 1), proof.ErrSignature},
		{"an extension line", sign(body + "extension\n"), proof.ErrFormat},
		{"another origin under the log's key", sign(strings.Replace(body, origin, "other.example/log", 1)), proof.ErrSignature},
		{"size with a leading zero", sign(strings.Replace(body, "\n", "\n0", 1)), proof.ErrFormat},
		{"root of 31 bytes", sign(origin + "\n1\n" + strings.Repeat("A", 40) + "AA==\n"), proof.ErrFormat},
		{"trailing bits of a signature's base64 set", body + "\n" + slack + lines[1], proof.ErrFormat},
		{"a key twice", good + lines[1], proof.ErrFormat},
		{"the log's key twice, the second time damaged", body + "\n" + lines[0] + strings.Replace(lines[0], "/", "+", 1), proof.ErrFormat},
		{"CR LF", strings.ReplaceAll(good, "\n", "\r\n"), proof.ErrFormat},
		{"no line feed at the end", strings.TrimSuffix(good, "\n"), proof.ErrFormat},
		{"a text line among the signatures", good + "hello\n", proof.ErrFormat},
		{"a cosignature of a key of the policy that does not hold", good + third, proof.ErrSignature},
		{"a hundred and one signatures", good + strangers(body, 99), proof.ErrFormat},
	}
}

func strangers(body string, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(newCosigner(fmt.Sprintf("s%d.example", i)).line([]byte(body)))
	}
	return b.String()
}

func TestBadCheckpointsRefused(t *testing.T) {
	w := newWorld()
	for _, c := range badCheckpoints(w) {
		if cp, err := proof.VerifyCheckpoint([]byte(c.note), w.policy); !errors.Is(err, c.err) || !cp.IsZero() {
			t.Errorf("%s: %v, want %v", c.reason, err, c.err)
		}
	}
	good := w.checkpoint(len(w.texts), 0, 1)
	for name, p := range map[string]*proof.Policy{"nil": nil, "zero": {}} {
		if _, err := proof.VerifyCheckpoint(good, p); !errors.Is(err, proof.ErrSignature) {
			t.Errorf("%s policy: %v", name, err)
		}
	}
	if _, err := proof.VerifyCheckpoint(append(good, bytes.Repeat([]byte("x"), 1<<20)...), w.policy); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("oversized: %v", err)
	}
}

// During a rotation two keys sign and each of two policies accepts.
func TestKeyRotation(t *testing.T) {
	w := newWorld()
	skey, vkey := must2(note.GenerateKey(&detRand{seed: "next log key"}, origin))
	next := must(note.NewSigner(skey))
	size := len(w.texts)
	body, _, _ := strings.Cut(string(w.checkpoint(size)), "\n\n")
	both := must(note.Sign(&note.Note{Text: body + "\n"}, w.signer, next))
	old, fresh := must(proof.NewPolicy(w.vkey)), must(proof.NewPolicy(vkey))
	two := must(proof.ParsePolicy([]byte("log " + w.vkey + "\nlog " + vkey + "\nquorum none\n")))
	for name, p := range map[string]*proof.Policy{"old": old, "next": fresh, "both": two} {
		cp, err := proof.VerifyCheckpoint(both, p)
		if err != nil {
			t.Errorf("%s policy: %v", name, err)
		}
		if want := map[string]int{"both": 0}[name]; name == "both" && len(cp.Unverified()) != want {
			t.Errorf("both: unverified %q", cp.Unverified())
		}
	}
	if _, err := proof.VerifyCheckpoint(must(note.Sign(&note.Note{Text: body + "\n"}, next)), old); !errors.Is(err, proof.ErrSignature) {
		t.Errorf("the next key under the old policy: %v", err)
	}
}

// A witness with the post-quantum key that tlog-cosignature recommends.
func TestMLDSAWitness(t *testing.T) {
	w := newWorld()
	skey, vkey, err := fnote.GenerateMLDSAKey("pq.example/witness")
	if err != nil {
		t.Fatal(err)
	}
	p := must(proof.ParsePolicy([]byte("log " + w.vkey + "\nwitness pq " + vkey + "\nquorum pq\n")))
	size := len(w.texts)
	body, _, _ := strings.Cut(string(w.checkpoint(size)), "\n\n")
	signed := must(note.Sign(&note.Note{Text: body + "\n"}, w.signer, must(fnote.NewMLDSASigner(skey))))
	cp, err := proof.VerifyCheckpoint(signed, p)
	if err != nil || !cp.Witnessed() {
		t.Errorf("witnessed %v, %v", cp.Witnessed(), err)
	}
	at := len(signed) - 100
	if _, err := proof.VerifyCheckpoint(replaceAt(signed, at, signed[at]^1), p); err == nil {
		t.Error("a damaged cosignature passes")
	}
}

func TestPolicyQuorum(t *testing.T) {
	w := newWorld()
	size := len(w.texts)
	head := fmt.Sprintf("log %s\nwitness a %s\nwitness b %s\nwitness c %s\n", w.vkey, w.witnesses[0].vkey(), w.witnesses[1].vkey(), w.witnesses[2].vkey())
	for _, c := range []struct {
		policy string
		enough [][]int
		less   [][]int
	}{
		{"quorum none\n", nil, [][]int{{}, {0, 1, 2}}},
		{"quorum b\n", [][]int{{1}, {0, 1, 2}}, [][]int{{}, {0, 2}}},
		{"group g any a b c\nquorum g\n", [][]int{{0}, {2}}, [][]int{{}, {3}}},
		{"group g all a b c\nquorum g\n", [][]int{{0, 1, 2}}, [][]int{{0, 1}, {1, 2, 3}}},
		{"group g 2 a b c\nquorum g\n", [][]int{{0, 1}, {0, 2}}, [][]int{{0}, {0, 3}}},
		{"group g 1 a b\ngroup h all g c\nquorum h\n", [][]int{{0, 2}, {1, 2}}, [][]int{{0, 1}, {2}}},
		{" \t# a comment\n\ngroup\tg  1 a\nquorum g\n", [][]int{{0}}, [][]int{{1}}},
	} {
		text := head + c.policy
		p, err := proof.ParsePolicy([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", c.policy, err)
			continue
		}
		theirs, err := torchwood.ParsePolicy([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		check := func(cosigners []int, want bool) {
			signed := w.checkpoint(size, cosigners...)
			cp, err := proof.VerifyCheckpoint(signed, p)
			if err != nil || cp.Witnessed() != want {
				t.Errorf("%q cosigned by %v: witnessed %v %v, want %v", c.policy, cosigners, cp.Witnessed(), err, want)
			}
			if _, _, err := torchwood.VerifyCheckpoint(signed, theirs); p.Demands() && (err == nil) != want {
				t.Errorf("%q cosigned by %v: torchwood says %v", c.policy, cosigners, err)
			}
		}
		for _, x := range c.enough {
			check(x, true)
		}
		for _, x := range c.less {
			check(x, false)
		}
	}
}

func TestBadPoliciesRefused(t *testing.T) {
	w := newWorld()
	log := "log " + w.vkey + "\n"
	a := "witness a " + w.witnesses[0].vkey() + "\n"
	b := "witness b " + w.witnesses[1].vkey() + "\n"
	renamed := newCosigner("w1.example/witness")
	renamed.name = "alias.example"
	for name, text := range map[string]string{
		"empty":                         "",
		"no quorum":                     log + a,
		"no log":                        a + "quorum a\n",
		"two quorums":                   log + a + "quorum a\nquorum a\n",
		"quorum not defined":            log + "quorum a\n",
		"quorum before its witness":     log + "quorum a\n" + a,
		"the same log twice":            log + log + "quorum none\n",
		"the same witness key twice":    log + a + "witness b " + renamed.vkey() + "\nquorum a\n",
		"the same name twice":           log + a + "witness a " + w.witnesses[1].vkey() + "\nquorum a\n",
		"the name none":                 log + "witness none " + w.witnesses[0].vkey() + "\nquorum none\n",
		"a witness with a log's key":    log + "witness a " + w.vkey + "\nquorum a\n",
		"a log with a witness's key":    "log " + w.witnesses[0].vkey() + "\nquorum none\n",
		"group threshold 0":             log + a + b + "group g 0 a b\nquorum g\n",
		"group threshold above members": log + a + b + "group g 3 a b\nquorum g\n",
		"group threshold 01":            log + a + b + "group g 01 a b\nquorum g\n",
		"group without members":         log + a + "group g any\nquorum g\n",
		"group of itself":               log + a + "group g any g\nquorum g\n",
		"group with none":               log + a + "group g any none a\nquorum g\n",
		"member twice":                  log + a + b + "group g 2 a a b\nquorum g\n",
		"member of two groups":          log + a + b + "group g any a b\ngroup h any a\nquorum g\n",
		"unknown keyword":               log + a + "quorun a\nquorum a\n",
		"too many words":                log + a + "quorum a b\n",
		"key id that is not the key's":  log + strings.Replace(a, fmt.Sprintf("%08x", w.witnesses[0].id()), "00000000", 1) + "quorum a\n",
		"carriage return":               log + a + "quorum a\r\n",
		"no line feed at the end":       log + a + "quorum a",
		"comment after a value":         log + a + "quorum a # yes\n",
		"too long":                      log + strings.Repeat("#\n", 200_000) + "quorum none\n",
		"witness key with 0x01 as type": log + "witness a " + strings.Replace(w.vkey, origin, "x", 1) + "\nquorum a\n",
	} {
		if p, err := proof.ParsePolicy([]byte(text)); !errors.Is(err, proof.ErrFormat) || p != nil {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
	if _, err := proof.NewPolicy("nonsense"); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("NewPolicy: %v", err)
	}
}

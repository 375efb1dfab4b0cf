package proof_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"math/bits"
	mrand "math/rand/v2"
	"strings"
	"testing"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
)

func newWitnessKey(name string) (note.Signer, string) {
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		panic(err)
	}
	return must(fnote.NewSignerForCosignatureV1(skey)), must(fnote.VKeyToCosignatureV1(vkey))
}

// quorums is every set of n witnesses that reaches the quorum, as bits.
func quorums(p *proof.Policy, n int) (sets []uint) {
	for s := range uint(1) << n {
		if p.Reached(func(i int) bool { return s>>i&1 == 1 }) {
			sets = append(sets, s)
		}
	}
	return sets
}

// checkArithmetic compares Overlap, Spare and Lacks with what trying all sets gives.
func checkArithmetic(t *testing.T, text string, p *proof.Policy) {
	t.Helper()
	n := len(p.Witnesses())
	sets := quorums(p, n)
	overlap, spare := n, n
	if len(sets) == 0 {
		overlap, spare = 0, 0
	}
	for _, a := range sets {
		for _, b := range sets {
			overlap = min(overlap, bits.OnesCount(a&b))
		}
	}
	reached := map[uint]bool{}
	for _, s := range sets {
		reached[s] = true
	}
	all := uint(1)<<n - 1
	for s := range all + 1 {
		if len(sets) > 0 && !reached[s] {
			spare = min(spare, n-bits.OnesCount(s)-1)
		}
	}
	for s := range all + 1 {
		lacks := math.MaxInt
		for _, a := range sets {
			lacks = min(lacks, bits.OnesCount(a&^s))
		}
		if got := p.Lacks(func(i int) bool { return s>>i&1 == 1 }); got != lacks {
			t.Errorf("%b lacks %d; trying all sets gives %d for\n%s", s, got, lacks, text)
		}
	}
	if p.Overlap() != overlap || p.Spare() != max(0, spare) {
		t.Errorf("overlap %d, spare %d; trying all sets gives %d, %d for\n%s", p.Overlap(), p.Spare(), overlap, spare, text)
	}
}

func TestQuorumArithmetic(t *testing.T) {
	_, logKey := must2(note.GenerateKey(rand.Reader, "log.example"))
	var keys []string
	for i := range 9 {
		_, k := newWitnessKey(fmt.Sprintf("w%d.example", i))
		keys = append(keys, k)
	}
	head := "log " + logKey + "\n"
	flat := func(k, n int) string {
		text, names := head, ""
		for i := range n {
			text += fmt.Sprintf("witness w%d %s\n", i, keys[i])
			names += fmt.Sprintf(" w%d", i)
		}
		return text + fmt.Sprintf("group all %d%s\nquorum all\n", k, names)
	}
	for n := 1; n <= 6; n++ {
		for k := 1; k <= n; k++ {
			p := must(proof.ParsePolicy([]byte(flat(k, n))))
			if want := max(0, 2*k-n); p.Overlap() != want || p.Spare() != n-k {
				t.Errorf("%d of %d: overlap %d, spare %d", k, n, p.Overlap(), p.Spare())
			}
			checkArithmetic(t, flat(k, n), p)
		}
	}
	r := mrand.New(mrand.NewPCG(3, 3))
	for range 200 {
		text := head
		var free []string
		for i := range 2 + r.IntN(7) {
			free = append(free, fmt.Sprintf("w%d", i))
			text += fmt.Sprintf("witness w%d %s\n", i, keys[i])
		}
		for g := 0; len(free) > 1 && g < 4; g++ {
			r.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
			n := 1 + r.IntN(len(free))
			text += fmt.Sprintf("group g%d %d %s\n", g, 1+r.IntN(n), strings.Join(free[:n], " "))
			free = append(free[n:], fmt.Sprintf("g%d", g))
		}
		text += "quorum " + free[len(free)-1] + "\n"
		p, err := proof.ParsePolicy([]byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		checkArithmetic(t, text, p)
	}
	none := must(proof.ParsePolicy([]byte(head + "quorum none\n")))
	if none.Overlap() != 0 || none.Spare() != 0 || none.Reached(func(int) bool { return true }) || none.Lacks(func(int) bool { return true }) != math.MaxInt {
		t.Error("a policy without a quorum reaches one")
	}
}

func TestParseWitnesses(t *testing.T) {
	w := newWorld()
	_, other := must2(note.GenerateKey(rand.Reader, "other.example"))
	_, k := newWitnessKey("w.example")
	text := "witness w " + k + " https://w.example/x\nquorum w\n"
	for name, c := range map[string]struct {
		text  string
		vkeys []string
		ok    bool
	}{
		"no log line":           {text, []string{w.vkey}, true},
		"its own":               {"log " + w.vkey + "\n" + text, []string{w.vkey}, true},
		"one of two":            {"log " + other + "\nlog " + w.vkey + "\n" + text, []string{w.vkey}, true},
		"another log":           {"log " + other + "\n" + text, []string{w.vkey}, false},
		"no key":                {text, nil, false},
		"a broken key":          {text, []string{"log"}, false},
		"the log is a witness":  {"witness w " + must(fnote.VKeyToCosignatureV1(w.vkey)) + "\nquorum w\n", []string{w.vkey}, false},
		"malformed beyond that": {text + "quorum w\n", []string{w.vkey}, false},
	} {
		p, err := proof.ParseWitnesses([]byte(c.text), c.vkeys...)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			if got := p.Witnesses(); len(got) != 1 || got[0].Name != "w" || got[0].KeyName != "w.example" || got[0].VKey != k || got[0].URL != "https://w.example/x" {
				t.Errorf("%s: %+v", name, got)
			}
			if _, err := proof.VerifyCheckpoint(w.checkpoint(1), p); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestCosignatureOfWitness(t *testing.T) {
	w := newWorld()
	signer, k := newWitnessKey("w.example")
	stranger, _ := newWitnessKey("w.example")
	p := must(proof.ParseWitnesses([]byte("witness w "+k+"\nquorum w\n"), w.vkey))
	wit := p.Witnesses()[0]
	cp := must(proof.VerifyCheckpoint(w.checkpoint(3), p))
	lines := func(n []byte, s ...note.Signer) []byte {
		text, _, _ := bytes.Cut(n, []byte("\n\n"))
		signed := must(note.Sign(&note.Note{Text: string(text) + "\n"}, s...))
		_, sigs, _ := bytes.Cut(signed, []byte("\n\n"))
		return sigs
	}
	good := lines(cp.Note(), signer)
	line, sig, err := wit.Cosignature(cp, append(lines(cp.Note(), stranger), good...))
	if err != nil || !bytes.Equal(line, good) || sig.Name != "w.example" || sig.Unix == 0 {
		t.Fatalf("%q %+v %v", line, sig, err)
	}
	full := must(proof.VerifyCheckpoint(append(cp.Note(), line...), p))
	if !full.Witnessed() || !wit.Cosigned(full) || wit.Cosigned(cp) {
		t.Error("the line doesn't make the checkpoint witnessed, or it was before")
	}
	for name, text := range map[string][]byte{
		"another checkpoint": lines(w.checkpoint(2), signer),
		"another key":        lines(cp.Note(), stranger),
		"nothing":            nil,
		"no line feed":       bytes.TrimSuffix(good, []byte("\n")),
		"no signature line":  []byte("<html>\n"),
		"not base64":         []byte("— w.example !!!\n"),
		"an empty line":      []byte("\n" + string(good)),
	} {
		if line, _, err := wit.Cosignature(cp, text); err == nil || line != nil || !errors.Is(err, proof.ErrSignature) && !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%s: %q %v", name, line, err)
		}
	}
	if _, _, err := (proof.Witness{}).Cosignature(cp, good); err == nil {
		t.Error("the zero witness has a signature")
	}
	if _, _, err := wit.Cosignature(proof.Checkpoint{}, good); err == nil {
		t.Error("the zero checkpoint has a signature")
	}
}

// Whatever a witness answers, what is taken from it makes a checkpoint that verifies.
func FuzzCosignature(f *testing.F) {
	w := &fuzzWorld
	signer, k := newWitnessKey("w.example")
	p := must(proof.ParseWitnesses([]byte("witness w "+k+"\nquorum w\n"), w.vkey))
	cp := must(proof.VerifyCheckpoint(w.checkpoint(1), p))
	signed := must(note.Sign(must(note.Open(cp.Note(), note.VerifierList(must(note.NewVerifier(w.vkey))))), signer))
	_, sigs, _ := bytes.Cut(signed, []byte("\n\n"))
	f.Add(sigs)
	f.Add(sigs[len(sigs)/2:])
	f.Fuzz(func(t *testing.T, in []byte) {
		line, _, err := p.Witnesses()[0].Cosignature(cp, in)
		if err != nil {
			if !errors.Is(err, proof.ErrSignature) && !errors.Is(err, proof.ErrFormat) {
				t.Fatalf("%v wraps no sentinel", err)
			}
			return
		}
		if full, err := proof.VerifyCheckpoint(append(cp.Note(), line...), p); err != nil || !full.Witnessed() {
			t.Fatalf("%q: %v", line, err)
		}
	})
}

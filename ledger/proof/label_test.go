package proof_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	vrf "filippo.io/mostly-harmless/vrf-r255"
	"github.com/regard-broker/regard/ledger/proof"
)

// Label is the short way to what Prove shows, on many inputs and keys.
func TestLabelEqualsProve(t *testing.T) {
	n := 400
	if testing.Short() {
		n = 40
	}
	for i := range n {
		k := must(proof.NewLabelKey(&detRand{seed: fmt.Sprint(i / 20)}))
		s := must(proof.Person{BirthName: "A" + strings.Repeat("B", i%250), GivenNames: "C"}.Subject())
		e := proof.Epoch(i * i)
		z, p := k.Prove(s, e)
		if got := k.Label(s, e); got != z {
			t.Fatalf("input %d: Label %v, Prove %v", i, got, z)
		}
		if got, err := proof.VerifyLabel(k.Public(), s, e, p); err != nil || got != z {
			t.Fatalf("input %d: VerifyLabel %v %v", i, got, err)
		}
		// And it is the library's hash of the published input.
		lib := must(vrf.NewPrivateKey(k.Bytes()))
		if want := lib.Prove(proof.LabelInput(s, e)).Hash()[:32]; !bytes.Equal(z[:], want) {
			t.Fatalf("input %d: not the VRF's output", i)
		}
	}
}

// A subject longer than the buffer on the stack, and the longest of all.
func TestLabelLongSubject(t *testing.T) {
	k := must(proof.NewLabelKey(&detRand{seed: "long"}))
	s := must(proof.Pivot{BirthName: strings.Repeat("A", 256), GivenNames: strings.Repeat("B", 256)}.Subject())
	z, _ := k.Prove(s, 1)
	if k.Label(s, 1) != z {
		t.Error("Label and Prove differ")
	}
}

func TestLabelInput(t *testing.T) {
	s := must(proof.SIREN("130025265"))
	want := "regard/label/v1\x00\x00\x00\x00\x00\x00\x00\x03\x2csiren\x00130025265"
	if got := string(proof.LabelInput(s, 812)); got != want {
		t.Errorf("LabelInput = %q, want %q", got, want)
	}
}

func TestVerifyLabelRefuses(t *testing.T) {
	k := must(proof.NewLabelKey(&detRand{seed: "key"}))
	other := must(proof.NewLabelKey(&detRand{seed: "other"}))
	s, s2 := must(proof.SIREN("130025265")), must(proof.SIREN("356000000"))
	_, p := k.Prove(s, 812)
	for name, f := range map[string]func() error{
		"other subject": func() error { _, err := proof.VerifyLabel(k.Public(), s2, 812, p); return err },
		"other epoch":   func() error { _, err := proof.VerifyLabel(k.Public(), s, 813, p); return err },
		"other key":     func() error { _, err := proof.VerifyLabel(other.Public(), s, 812, p); return err },
		"zero key":      func() error { _, err := proof.VerifyLabel(proof.LabelPublicKey{}, s, 812, p); return err },
		"zero subject":  func() error { _, err := proof.VerifyLabel(k.Public(), proof.Subject{}, 812, p); return err },
		"no proof":      func() error { _, err := proof.VerifyLabel(k.Public(), s, 812, nil); return err },
		"long proof":    func() error { _, err := proof.VerifyLabel(k.Public(), s, 812, append(bytes.Clone(p), 0)); return err },
	} {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for i := range p {
		if _, err := proof.VerifyLabel(k.Public(), s, 812, replaceAt(p, i, p[i]^1)); !errors.Is(err, proof.ErrUnproven) {
			t.Fatalf("proof with byte %d changed: %v", i, err)
		}
	}
}

// agreesWithLibrary: VerifyLabel accepts what the library accepts, with its hash, and nothing else.
func agreesWithLibrary(t *testing.T, pub proof.LabelPublicKey, s proof.Subject, e proof.Epoch, pi []byte) {
	t.Helper()
	var want []byte
	y, err := vrf.NewPublicKey(pub[:])
	var p *vrf.Proof
	if err == nil {
		p, err = vrf.NewProof(pi)
	}
	if err == nil {
		want, err = y.Verify(p, proof.LabelInput(s, e))
	}
	if proof.Hash(pub).IsZero() {
		err = errors.New("the identity") // which the library takes for a key
	}
	got, mine := proof.VerifyLabel(pub, s, e, pi)
	if (mine == nil) != (err == nil) || err == nil && !bytes.Equal(got[:], want[:32]) {
		t.Fatalf("key %x, proof %x: %v, %v; the library says %v", pub, pi, got, mine, err)
	}
}

// TestVerifyLabelAgrees: with the library, about proofs that hold, that were changed in every byte, and whose parts are special elements.
func TestVerifyLabelAgrees(t *testing.T) {
	s := must(proof.SIREN("130025265"))
	for i := range 20 {
		k := must(proof.NewLabelKey(&detRand{seed: fmt.Sprint("agrees", i)}))
		_, p := k.Prove(s, proof.Epoch(i))
		agreesWithLibrary(t, k.Public(), s, proof.Epoch(i), p)
		for at := range p {
			agreesWithLibrary(t, k.Public(), s, proof.Epoch(i), replaceAt(p, at, p[at]+byte(i)+1))
		}
		zero := make([]byte, 32)
		agreesWithLibrary(t, k.Public(), s, proof.Epoch(i), append(bytes.Clone(zero), p[32:]...)) // Γ is the identity
		agreesWithLibrary(t, k.Public(), s, proof.Epoch(i), append(bytes.Clone(p[:48]), zero...)) // s = 0
		agreesWithLibrary(t, k.Public(), s, proof.Epoch(i), append(append(bytes.Clone(p[:32]), zero[:16]...), p[48:]...))
		agreesWithLibrary(t, k.Public(), s, proof.Epoch(i), make([]byte, 80))
	}
	if _, err := proof.VerifyLabel(proof.LabelPublicKey{}, s, 0, make([]byte, 80)); err == nil {
		t.Error("the identity is a key")
	}
}

// FuzzVerifyLabel does the same with any proof.
func FuzzVerifyLabel(f *testing.F) {
	k := must(proof.NewLabelKey(&detRand{seed: "fuzz"}))
	s := must(proof.SIREN("130025265"))
	_, p := k.Prove(s, 812)
	pub := k.Public()
	f.Add(pub[:], p)
	f.Add(make([]byte, 32), make([]byte, 80))
	f.Fuzz(func(t *testing.T, key, pi []byte) {
		if len(key) == 32 {
			agreesWithLibrary(t, proof.LabelPublicKey(key), s, 812, pi)
		}
	})
}

func TestLabelKey(t *testing.T) {
	k := must(proof.NewLabelKey(&detRand{seed: "key"}))
	again, err := proof.ParseLabelKey(k.Bytes())
	if err != nil || again.Public() != k.Public() {
		t.Errorf("ParseLabelKey: %v", err)
	}
	for name, b := range map[string][]byte{
		"zero": make([]byte, 32), "short": k.Bytes()[:31], "long": append(k.Bytes(), 0), "none": nil,
		"not reduced": bytes.Repeat([]byte{0xff}, 32),
	} {
		if k, err := proof.ParseLabelKey(b); !errors.Is(err, proof.ErrFormat) || !k.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"identity": make([]byte, 32), "no element": bytes.Repeat([]byte{0xff}, 32), "short": {1}} {
		if _, err := proof.ParseLabelPublicKey(b); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("public %s: %v", name, err)
		}
	}
	if _, err := proof.NewLabelKey(strings.NewReader("x")); err == nil {
		t.Error("a key without randomness")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%x"} {
		if s := fmt.Sprintf(verb, k); s != "labelkey:[redacted]" {
			t.Errorf("%s prints %q", verb, s)
		}
	}
	s := must(proof.SIREN("130025265"))
	for name, f := range map[string]func(){
		"zero key":     func() { proof.LabelKey{}.Label(s, 1) },
		"zero subject": func() { k.Label(proof.Subject{}, 1) },
		"prove":        func() { k.Prove(proof.Subject{}, 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

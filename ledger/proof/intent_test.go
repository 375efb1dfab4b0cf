package proof_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
)

const intentOrigin = "regard.example/log"

// intentKey is a fixed key, what key@v1 says of it, and its signer.
func intentKey(name string) (proof.KeyChanged, note.Signer) {
	seed := sha256.Sum256([]byte("intent key " + name))
	private := ed25519.NewKeyFromSeed(seed[:])
	k := proof.KeyChanged{Key: name, Use: proof.UseIntent, State: proof.Active, Public: proof.Hash(private.Public().(ed25519.PublicKey))}
	v := must(proof.NewIntentVerifier(intentOrigin, k))
	return k, fixedSigner{v, private}
}

type fixedSigner struct {
	note.Verifier
	private ed25519.PrivateKey
}

func (s fixedSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.private, msg), nil }

func sampleIntent() proof.Intent {
	return proof.Intent{
		Origin: intentOrigin, Disclosure: "01a20ac2-88da-7d36-98b8-e03e4bb98177", Provider: "cnaf", Service: "quotient-familial@3",
		Requested: proof.RequestedDigest([]string{"/data/membres/*/nom", "/data/quotient/valeur"}),
		Question:  proof.QuestionDigest("GET", "/v1/quotient?nomNaissance=EXEMPLE", nil),
		Issued:    1795000000000, Expires: 60,
	}
}

func encoded(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func signedIntent(i proof.Intent, s note.Signer) (header, text string) {
	header = must(i.Sign(s))
	return header, string(must(base64.StdEncoding.DecodeString(header)))
}

func intentVectors() vectorFile {
	k, signer := intentKey("intent.1")
	_, stranger := intentKey("intent.2")
	v := vectorFile{
		Format: "intent (section 7)",
		Notes:  "header: as in Regard-Intent; text: the same, decoded. The questions say what the digests are over. bad: refused under the key of common",
		Common: vector{
			"origin": intentOrigin, "key_entry": string(must(proof.EntryText(k.WithEpoch(0)))), "key_name": signer.Name(),
			"requested": []string{"/data/membres/*/nom", "/data/quotient/valeur"}, "method": "GET", "target": "/v1/quotient?nomNaissance=EXEMPLE", "body": "",
		},
	}
	rotated := func(i proof.Intent) string { return must(i.Sign(stranger, signer)) }
	other := sampleIntent()
	other.Question, other.Expires, other.Requested = proof.QuestionDigest("POST", "/v1/quotient", []byte(`{"nom":"EXEMPLE"}`)), 3600, proof.RequestedDigest([]string{"/data"})
	for _, i := range []proof.Intent{sampleIntent(), other} {
		header, text := signedIntent(i, signer)
		v.Good = append(v.Good, vector{"header": header, "text": text, "disclosure": i.Disclosure, "issued": i.Issued, "expires": i.Expires})
	}
	both := rotated(sampleIntent())
	v.Good = append(v.Good, vector{"header": both, "text": string(must(base64.StdEncoding.DecodeString(both))), "disclosure": sampleIntent().Disclosure, "issued": sampleIntent().Issued, "expires": sampleIntent().Expires, "note": "while the key is rotated"})
	header, text := signedIntent(sampleIntent(), signer)
	swap := func(old, new string) string { return encoded(strings.Replace(text, old, new, 1)) }
	strange, _ := signedIntent(sampleIntent(), stranger)
	line := text[strings.Index(text, "\n\n")+2:]
	resigned := func(old, new string) string {
		body := strings.Replace(text[:strings.Index(text, "\n\n")+1], old, new, 1)
		return encoded(string(must(note.Sign(&note.Note{Text: body}, signer))))
	}
	for _, b := range []struct{ header, reason string }{
		{"", "nothing"},
		{header + "\n", "a line end in the base64"},
		{strings.TrimRight(header, "=") + "*", "no base64"},
		{strange, "signed by a key that isn't in force"},
		{swap("cnaf", "cnav"), "changed after it was signed"},
		{swap("intent@v1", "intent@v2"), "another version"},
		{encoded(text + line), "the same key signs twice"},
		{encoded(text + line[:len(line)-8] + "AAAAAAA=\n"), "more of the same key"},
		{encoded(text[:strings.Index(text, "\n\n")+2]), "no signature"},
		{resigned("expires 60", "expires 0"), "it ends when it begins"},
		{resigned("expires 60", "expires 3601"), "valid for more than an hour"},
		{resigned("expires 60", "expires 060"), "a leading zero"},
		{resigned("issued 1795000000000", "issued 9223372036854775807"), "out of range"},
		{resigned("@3", ""), "a service without its version"},
		{resigned("01a20ac2", "01A20AC2"), "an id in upper case"},
		{resigned("provider cnaf\n", ""), "a line missing"},
		{resigned("expires 60\n", "expires 60\nnote x\n"), "a line too many"},
		{resigned("origin "+intentOrigin, "origin regard.example/other"), "of another log than its key"},
	} {
		v.Bad = append(v.Bad, vector{"header": b.header, "reason": b.reason})
	}
	return v
}

// TestPublishedIntents reads the vectors as somebody else's verifier would.
func TestPublishedIntents(t *testing.T) {
	var v struct {
		Common struct {
			Origin               string
			KeyEntry             string `json:"key_entry"`
			Requested            []string
			Method, Target, Body string
		}
		Good []struct{ Header, Disclosure string }
		Bad  []struct{ Header, Reason string }
	}
	if err := json.Unmarshal(must(os.ReadFile("testdata/intents.json")), &v); err != nil {
		t.Fatal(err)
	}
	entry := must(proof.ParseEntry([]byte(v.Common.KeyEntry))).(proof.KeyChanged)
	keys := []note.Verifier{must(proof.NewIntentVerifier(v.Common.Origin, entry))}
	for n, g := range v.Good {
		i, err := proof.VerifyIntent(g.Header, keys)
		if err != nil || i.Disclosure != g.Disclosure {
			t.Errorf("good %d: %v", n, err)
		}
		if n == 0 && (i.Question != proof.QuestionDigest(v.Common.Method, v.Common.Target, []byte(v.Common.Body)) || i.Requested != proof.RequestedDigest(v.Common.Requested)) {
			t.Error("the digests are over something else")
		}
	}
	for _, b := range v.Bad {
		i, err := proof.VerifyIntent(b.Header, keys)
		if err == nil || !errors.Is(err, proof.ErrFormat) && !errors.Is(err, proof.ErrSignature) || i != (proof.Intent{}) {
			t.Errorf("%s: %v, %v", b.Reason, i, err)
		}
	}
	if _, err := proof.VerifyIntent(v.Good[0].Header, nil); !errors.Is(err, proof.ErrSignature) {
		t.Errorf("with no key: %v", err)
	}
}

func TestIntentTime(t *testing.T) {
	i := sampleIntent()
	issued, second := i.Issued.Time(), time.Second
	for _, c := range []struct {
		at        time.Duration
		tolerance time.Duration
		want      bool
	}{
		{0, 0, true}, {60 * second, 0, true}, {-time.Millisecond, 0, false}, {60*second + time.Millisecond, 0, false},
		{-5 * second, 5 * second, true}, {65 * second, 5 * second, true}, {-6 * second, 5 * second, false}, {66 * second, 5 * second, false},
	} {
		if got := i.ValidAt(issued.Add(c.at), c.tolerance); got != c.want {
			t.Errorf("after %v with %v: %v", c.at, c.tolerance, got)
		}
	}
}

func TestQuestionDigest(t *testing.T) {
	seen := map[proof.Hash]bool{}
	for _, q := range [][3]string{{"GET", "/a?b", ""}, {"GET", "/a", "?b"}, {"GE", "T/a?b", ""}, {"GET", "/a?c", ""}, {"GET", "/a?b", "x"}, {"POST", "/a?b", ""}} {
		seen[proof.QuestionDigest(q[0], q[1], []byte(q[2]))] = true
	}
	if len(seen) != 6 {
		t.Errorf("two questions have one digest: %d", len(seen))
	}
}

func TestIntentVerifier(t *testing.T) {
	k, _ := intentKey("intent.1")
	for name, change := range map[string]func(*proof.KeyChanged){
		"retired":      func(k *proof.KeyChanged) { k.State = proof.Retired },
		"another use":  func(k *proof.KeyChanged) { k.Use, k.Key = proof.UseCheckpoint, "checkpoint.1" },
		"another name": func(k *proof.KeyChanged) { k.Key = "intent.x" },
	} {
		bad := k
		change(&bad)
		if _, err := proof.NewIntentVerifier(intentOrigin, bad); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := proof.NewIntentVerifier("an origin", k); !errors.Is(err, proof.ErrFormat) {
		t.Error("an origin that is no key name")
	}
}

func TestVerifyTLogProof(t *testing.T) {
	w := newWorld()
	f := w.at(w.alice, 0)
	size := len(w.hashes)
	p := w.proven(f.index, size)
	good := proof.AppendTLogProof(nil, p, w.checkpoint(size, 0, 1, 2))
	e, index, cp, err := proof.VerifyTLogProof(p.Text, good, w.policy)
	if err != nil || index != f.index || e.Kind() != proof.KindDisclosure || !cp.Witnessed() {
		t.Fatalf("%v %d %v", e, index, err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "header": append([]byte("x"), good...), "cut": good[:len(good)-2], "extra": []byte(strings.Replace(string(good), "\nindex", "\nextra AA==\nindex", 1)),
		"index": []byte(strings.Replace(string(good), "index "+f.index.String(), "index 1"+f.index.String(), 1)),
	} {
		if _, _, _, err := proof.VerifyTLogProof(p.Text, bad, w.policy); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, _, err := proof.VerifyTLogProof(w.proven(f.index+1, size).Text, good, w.policy); !errors.Is(err, proof.ErrUnproven) && !errors.Is(err, proof.ErrUnknown) {
		t.Errorf("another entry: %v", err)
	}
}

func FuzzVerifyIntent(f *testing.F) {
	k, signer := intentKey("intent.1")
	keys := []note.Verifier{must(proof.NewIntentVerifier(intentOrigin, k))}
	for _, x := range intentVectors().Good {
		f.Add(x["text"].(string))
	}
	for _, x := range intentVectors().Bad {
		b, _ := base64.StdEncoding.DecodeString(x["header"].(string))
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, in string) {
		i, err := proof.VerifyIntent(encoded(in), keys)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) && !errors.Is(err, proof.ErrSignature) {
				t.Fatalf("%v wraps no sentinel", err)
			}
		} else if text := must(i.AppendText(nil)); !strings.HasPrefix(in, string(text)+"\n") {
			t.Fatalf("%q re-serialises to %q", in, text)
		}
		// The text alone, signed by the very key: what parses is canonical.
		body, _, ok := strings.Cut(in, "\n\n")
		if !ok {
			return
		}
		signed, err := note.Sign(&note.Note{Text: body + "\n"}, signer)
		if err != nil {
			return
		}
		if i, err := proof.VerifyIntent(encoded(string(signed)), keys); err == nil {
			if text, err := i.AppendText(nil); err != nil || string(text) != body+"\n" {
				t.Fatalf("%q re-serialises to %q, %v", body, text, err)
			}
		}
	})
}

func BenchmarkIntentSign(b *testing.B) {
	_, signer := intentKey("intent.1")
	for b.Loop() {
		i := sampleIntent()
		i.Question = proof.QuestionDigest("GET", "/v1/quotient?nomNaissance=EXEMPLE", nil)
		must(i.Sign(signer))
	}
}

// TestRecordRequestedDigest: a record says the digest of its own list, sorted and without repetitions, as the list says it.
func TestRecordRequestedDigest(t *testing.T) {
	var long []string
	for i := range 100 {
		long = append(long, fmt.Sprintf("/%s/%d", strings.Repeat("x", 200), i))
	}
	for _, list := range [][]string{nil, {"/data"}, {"/b", "/a/*/c", "/b"}, long} {
		r := must(proof.NewRecord(proof.SchemaDisclosure, rand.Reader))
		if list != nil {
			if err := r.SetList(proof.DisclosureRequested, list); err != nil {
				t.Fatal(err)
			}
		}
		if want := proof.RequestedDigest(r.Open(proof.ReaderProvider).List(proof.DisclosureRequested)); r.RequestedDigest() != want {
			t.Errorf("%q: %s, want %s", list, r.RequestedDigest(), want)
		}
	}
	if r := must(proof.NewRecord(proof.SchemaAccess, rand.Reader)); r.RequestedDigest() != (proof.Hash{}) {
		t.Error("a record of another schema has a digest")
	}
}

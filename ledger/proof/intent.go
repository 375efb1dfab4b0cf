package proof

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

const (
	intentHeader = "regard/intent@v1"
	// maxIntent bounds a signed intent, in bytes.
	maxIntent           = 2 << 10
	maxIntentSignatures = 4
	// maxExpiry bounds how long an intent is valid, in seconds.
	maxExpiry = 3600
)

// Intent is what the broker signs before it asks a provider: that it announces
// this very question, under an id by which the provider will find its entries
// in the log. Question is computed from what stands in the request, so an
// Intent is personal data for whoever can guess that.
type Intent struct {
	Origin     string // of the log that will hold the entries
	Disclosure string // id of the request, as in its records
	Provider   string // token
	Service    string // token@version
	Requested  Hash   // RequestedDigest of the fields that are asked for, as the record will list them
	Question   Hash   // QuestionDigest of the HTTP request that carries the intent
	Issued     Time
	Expires    uint64 // seconds after Issued: 1 to 3600
}

// QuestionDigest binds an intent to one HTTP request: its method, its target as
// it stands in the request line (RFC 9112, section 3.2: path and query) and its
// body.
func QuestionDigest(method, target string, body []byte) Hash {
	b := append(make([]byte, 0, 256), "regard/question/v1\x00"...)
	for _, s := range [...]string{method, target} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s))) // #nosec G115 -- far below 4 GiB
		b = append(b, s...)
	}
	return sha256.Sum256(append(b, body...))
}

// RequestedDigest is the digest of a list of JSON pointers in the form in which
// records hold it: in strictly increasing order.
func RequestedDigest(pointers []string) Hash { return requestedDigest(strings.Join(pointers, "\n")) }

// RequestedDigest is that of the fields which the record of a disclosure lists
// as asked for. A record of another schema has none: it is zero.
func (r *Record) RequestedDigest() Hash {
	if r.Schema() != SchemaDisclosure {
		return Hash{}
	}
	list, _ := r.Value(DisclosureRequested) // joined already
	return requestedDigest(list)
}

func requestedDigest[T string | []byte](list T) Hash {
	return sha256.Sum256(append(append(make([]byte, 0, 2048), "regard/requested/v1\x00"...), list...))
}

// AppendText appends the text that the broker signs.
func (i Intent) AppendText(b []byte) ([]byte, error) {
	out := append(b, intentHeader+"\n"...)
	for _, f := range [...]struct{ key, value string }{
		{"origin", i.Origin}, {"disclosure", i.Disclosure}, {"provider", i.Provider}, {"service", i.Service},
	} {
		out = appendLine(out, f.key, f.value)
	}
	out = appendHashLine(out, "requested", i.Requested)
	out = appendHashLine(out, "question", i.Question)
	out = appendUintLine(out, "issued", uint64(i.Issued)) // #nosec G115 -- a negative one doesn't parse
	out = appendUintLine(out, "expires", i.Expires)
	if _, err := parseIntent(out[len(b):]); err != nil {
		return b, err
	}
	return out, nil
}

func parseIntent(text []byte) (i Intent, err error) {
	l := lines{what: "intent", rest: text}
	head, err := l.next()
	if err != nil {
		return i, err
	}
	if string(head) != intentHeader {
		return i, l.errorf("want %s", intentHeader)
	}
	for _, f := range [...]struct {
		key string
		dst *string
		ok  func(string) bool
	}{
		{"origin", &i.Origin, isKeyName}, {"disclosure", &i.Disclosure, func(s string) bool { return isUUIDText([]byte(s)) }},
		{"provider", &i.Provider, IsToken}, {"service", &i.Service, isVersioned},
	} {
		v, err := l.value(f.key)
		if err != nil {
			return Intent{}, err
		}
		if *f.dst = string(v); !f.ok(*f.dst) {
			return Intent{}, l.errorf("%s is not valid", f.key)
		}
	}
	if i.Requested, err = l.hash("requested"); err != nil {
		return Intent{}, err
	}
	if i.Question, err = l.hash("question"); err != nil {
		return Intent{}, err
	}
	issued, err := l.uint("issued")
	if err != nil {
		return Intent{}, err
	}
	i.Issued = Time(issued) // #nosec G115 -- at most 2^63 - 1
	if i.Expires, err = l.uint("expires"); err != nil {
		return Intent{}, err
	}
	if i.Expires < 1 || i.Expires > maxExpiry || issued > maxInt-1000*maxExpiry {
		return Intent{}, l.errorf("expires is not between 1 and %d seconds, or issued is out of range", maxExpiry)
	}
	return i, l.end()
}

// End is when the intent ends.
func (i Intent) End() Time { return i.Issued + Time(i.Expires)*1000 } // #nosec G115 -- at most an hour

// ValidAt reports whether the intent is in force, for a reader whose clock may
// differ from the broker's by so much.
func (i Intent) ValidAt(now time.Time, tolerance time.Duration) bool {
	return !now.Add(tolerance).Before(i.Issued.Time()) && !now.Add(-tolerance).After(i.End().Time())
}

// IntentKeyName is the name under which a version of the intent key of a log
// signs: the origin, a slash and the key's name in key@v1, "intent.<version>".
func IntentKeyName(origin, key string) string { return origin + "/" + key }

// NewIntentVerifier makes the verifier of an intent key from what key@v1 says in
// the log of the given origin. It refuses entries about other keys, and those
// that end one.
func NewIntentVerifier(origin string, k KeyChanged) (note.Verifier, error) {
	if k.Use != UseIntent || k.State != Active || !k.valid() {
		return nil, formatError("intent: the entry does not bring an intent key into force")
	}
	vkey, err := note.NewEd25519VerifierKey(IntentKeyName(origin, k.Key), ed25519.PublicKey(k.Public[:]))
	if err != nil {
		return nil, formatError("intent: not an Ed25519 key")
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, formatError("intent: the origin is not a key name")
	}
	return v, nil
}

// VerifyIntent verifies an intent as it stands in the request: base64 of a
// signed note (c2sp.org/signed-note) of at most 4 signatures, one of which at
// least is of one of the given keys; while the broker rotates its key, it signs
// with both. A signature of a given key must hold. It checks neither time nor
// question: see ValidAt and Question. Malformed ones wrap ErrFormat, those that
// no such key signed ErrSignature.
func VerifyIntent(header string, keys []note.Verifier) (Intent, error) {
	signed, err := decodeB64Any([]byte(header), maxIntent)
	if err != nil {
		return Intent{}, fmt.Errorf("intent: %w", err)
	}
	if !isText(signed, true) {
		return Intent{}, formatError("intent: control characters or invalid UTF-8")
	}
	at := bytes.Index(signed, noteSplit)
	if at < 0 {
		return Intent{}, formatError("intent: no empty line before the signatures")
	}
	text := signed[:at+1]
	i, err := parseIntent(text)
	if err != nil {
		return Intent{}, err
	}
	l := lines{what: "intent", rest: signed[at+2:], n: 10}
	var seen []string
	known := false
	for len(l.rest) > 0 {
		line, err := l.next()
		if err != nil {
			return Intent{}, err
		}
		name, id, sig, err := parseSignature(&l, line)
		if err != nil {
			return Intent{}, err
		}
		key := fmt.Sprintf("%s %d", name, id)
		if slices.Contains(seen, key) || len(seen) == maxIntentSignatures {
			return Intent{}, l.errorf("a second signature of the same key, or more than %d", maxIntentSignatures)
		}
		seen = append(seen, key)
		for _, v := range keys {
			if v.Name() != name || v.KeyHash() != id {
				continue
			}
			if !v.Verify(text, sig) || !strings.HasPrefix(name, i.Origin+"/") {
				return Intent{}, l.wrap(fmt.Errorf("the signature of an intent key does not hold: %w", ErrSignature))
			}
			known = true
		}
	}
	if !known {
		return Intent{}, fmt.Errorf("intent: not signed by an intent key of the broker: %w", ErrSignature)
	}
	return i, nil
}

// Sign signs the intent with one key, or several while they are rotated, and
// returns it in the form in which it stands in a request.
func (i Intent) Sign(keys ...note.Signer) (string, error) {
	text, err := i.AppendText(make([]byte, 0, 512))
	if err != nil {
		return "", err
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, keys...)
	if err != nil {
		return "", fmt.Errorf("signing an intent: %w", err)
	}
	if len(keys) < 1 || len(keys) > maxIntentSignatures || len(signed) > maxIntent {
		return "", formatError("intent: not 1 to %d signatures, or more than %d bytes", maxIntentSignatures, maxIntent)
	}
	return b64.EncodeToString(signed), nil
}

// VerifyTLogProof verifies a proof (c2sp.org/tlog-proof@v1, without extra) that
// an entry of any kind is in a log of the policy, and returns the entry with the
// checkpoint that says so. It does not demand the quorum: see Witnessed.
func VerifyTLogProof(entry, tlogProof []byte, p *Policy) (Entry, Index, Checkpoint, error) {
	if len(tlogProof) > MaxReceipt || !isText(tlogProof, true) {
		return nil, 0, Checkpoint{}, formatError("proof: too long, control characters or invalid UTF-8")
	}
	l := lines{what: "proof", rest: tlogProof}
	head, err := l.next()
	if err != nil {
		return nil, 0, Checkpoint{}, err
	}
	if string(head) != proofHeader {
		return nil, 0, Checkpoint{}, l.errorf("want %s", proofHeader)
	}
	var r Receipt
	if err := r.parseProof(&l); err != nil {
		return nil, 0, Checkpoint{}, err
	}
	cp, err := VerifyCheckpoint(r.note, p)
	if err != nil {
		return nil, 0, Checkpoint{}, err
	}
	e, err := VerifyEntry(cp, Proven{r.index, entry, r.path})
	return e, r.index, cp, err
}

// AppendTLogProof appends the c2sp.org/tlog-proof@v1 of an entry under a signed
// checkpoint.
func AppendTLogProof(b []byte, entry Proven, checkpoint []byte) []byte {
	return (&Receipt{index: entry.Index, path: entry.Path, note: checkpoint}).appendTLogProof(b)
}

package proof

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a signed checkpoint.
const (
	maxNote       = 512 << 10
	maxSignatures = 100
)

// Cosignature is a witness's verified statement about a checkpoint.
type Cosignature struct {
	Name string // of the key
	Unix uint64 // seconds since 1970: when the witness says it signed; 0 if it doesn't
}

// Checkpoint is a verified checkpoint: its log's signature holds. Only
// VerifyCheckpoint makes one; the zero value is refused everywhere.
type Checkpoint struct {
	origin     string
	size       uint64
	root       Hash
	witnessed  bool
	cosigned   []Cosignature
	since      uint64 // seconds: WitnessedAt
	unverified []string
	note       []byte
}

// IsZero reports whether c was not made by VerifyCheckpoint.
func (c Checkpoint) IsZero() bool { return c.origin == "" }

// Origin returns the name of the log.
func (c Checkpoint) Origin() string { return c.origin }

// Size returns the number of entries in the tree.
func (c Checkpoint) Size() uint64 { return c.size }

// Root returns the root of the tree.
func (c Checkpoint) Root() Hash { return c.root }

// Witnessed reports whether the policy's quorum cosigned. Under a policy
// without a quorum nothing is witnessed.
func (c Checkpoint) Witnessed() bool { return c.witnessed }

// Witnesses returns the key names of the policy's witnesses whose cosignatures
// were verified.
func (c Checkpoint) Witnesses() []string {
	var names []string
	for _, s := range c.cosigned {
		names = append(names, s.Name)
	}
	return names
}

// Cosignatures returns the same with the witnesses' times.
func (c Checkpoint) Cosignatures() []Cosignature { return slices.Clone(c.cosigned) }

// WitnessedAt returns when the policy's quorum was there at the latest: its
// witnesses say that they signed then or later. 0 if there is none.
func (c Checkpoint) WitnessedAt() Time {
	if c.since > maxInt/1000 {
		return maxInt / 1000 * 1000
	}
	return Time(c.since * 1000)
}

// Unverified returns the names on signature lines of keys that the policy does
// not know. Anybody can write such a line.
func (c Checkpoint) Unverified() []string { return slices.Clone(c.unverified) }

// Note returns the signed note as it was verified.
func (c Checkpoint) Note() []byte { return slices.Clone(c.note) }

var (
	noteSplit = []byte("\n\n")
	sigPrefix = []byte("— ")
)

// VerifyCheckpoint verifies a signed checkpoint (c2sp.org/tlog-checkpoint)
// without extension lines. At least one log of the policy, whose name is the
// origin, must have signed it, and every signature of a key that the policy
// names must hold. It does not demand the quorum: see Witnessed.
//
// It is stricter than the signed note format where that leaves several bytes
// for the same content: base64 is canonical and no key stands there twice.
func VerifyCheckpoint(note []byte, p *Policy) (Checkpoint, error) {
	if p == nil || len(p.logs) == 0 {
		return Checkpoint{}, fmt.Errorf("checkpoint: no policy: %w", ErrSignature)
	}
	if len(note) > maxNote {
		return Checkpoint{}, formatError("checkpoint: more than %d bytes", maxNote)
	}
	if !isText(note, true) {
		return Checkpoint{}, formatError("checkpoint: control characters or invalid UTF-8")
	}
	at := bytes.Index(note, noteSplit)
	if at < 0 {
		return Checkpoint{}, formatError("checkpoint: no empty line before the signatures")
	}
	body := note[:at+1]
	c, err := parseTreeHead(body)
	if err != nil {
		return Checkpoint{}, err
	}
	signed := false
	times := make([]uint64, p.components()) // of cosignatures, 1 at least
	type key struct {
		name string
		id   uint32
	}
	seen := map[key]bool{}
	l := lines{what: "checkpoint", rest: note[at+2:], n: 4}
	for len(l.rest) > 0 {
		line, err := l.next()
		if err != nil {
			return Checkpoint{}, err
		}
		name, id, sig, err := parseSignature(&l, line)
		if err != nil {
			return Checkpoint{}, err
		}
		if seen[key{name, id}] || len(seen) == maxSignatures {
			return Checkpoint{}, l.errorf("a second signature of the same key, or more than %d", maxSignatures)
		}
		seen[key{name, id}] = true
		known, isLog, err := p.verifySignature(name, id, body, sig, times)
		switch {
		case err != nil:
			return Checkpoint{}, l.wrap(err)
		case isLog && name == c.origin:
			signed = true
		case isLog || !known:
			c.unverified = append(c.unverified, name)
		default:
			c.cosigned = append(c.cosigned, Cosignature{name, binary.BigEndian.Uint64(sig)})
		}
	}
	if !signed {
		return Checkpoint{}, fmt.Errorf("checkpoint: no signature of a log of the policy whose name is the origin: %w", ErrOtherLog)
	}
	c.witnessed, c.since = p.witnessedAt(times)
	c.note = slices.Clone(note)
	return c, nil
}

// verifySignature finds the key and checks the signature. An unknown key is no
// error.
func (p *Policy) verifySignature(name string, id uint32, body, sig []byte, times []uint64) (known, isLog bool, err error) {
	bad := fmt.Errorf("the signature of a key that the policy names does not verify: %w", ErrSignature)
	for _, v := range p.logs {
		if v.Name() == name && v.KeyHash() == id {
			if !v.Verify(body, sig) {
				return true, true, bad
			}
			return true, true, nil
		}
	}
	for _, w := range p.witnesses {
		if w.verifier.Name() == name && w.verifier.KeyHash() == id {
			if !w.verifier.Verify(body, sig) {
				return true, false, bad
			}
			times[w.component] = max(binary.BigEndian.Uint64(sig), 1)
			return true, false, nil
		}
	}
	return false, false, nil
}

func parseTreeHead(body []byte) (Checkpoint, error) {
	l := lines{what: "checkpoint", rest: body}
	origin, err := l.next()
	if err != nil {
		return Checkpoint{}, err
	}
	if !isKeyName(string(origin)) {
		return Checkpoint{}, l.errorf("origin is not a key name")
	}
	num, err := l.next()
	if err != nil {
		return Checkpoint{}, err
	}
	size, ok := parseUint(num)
	if !ok {
		return Checkpoint{}, l.errorf("size is not a canonical integer")
	}
	b, err := l.next()
	if err != nil {
		return Checkpoint{}, err
	}
	c := Checkpoint{origin: string(origin), size: size}
	if err := decodeB64(c.root[:], b); err != nil {
		return Checkpoint{}, l.wrap(err)
	}
	if err := l.end(); err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

func parseSignature(l *lines, line []byte) (name string, id uint32, sig []byte, err error) {
	rest, ok := bytes.CutPrefix(line, sigPrefix)
	if !ok {
		return "", 0, nil, l.errorf("not a signature line")
	}
	n, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok || !isKeyName(string(n)) {
		return "", 0, nil, l.errorf("not a signature line")
	}
	raw, err := decodeB64Any(text, 8<<10)
	if err != nil {
		return "", 0, nil, l.wrap(err)
	}
	if len(raw) < 5 {
		return "", 0, nil, l.errorf("signature too short")
	}
	return string(n), binary.BigEndian.Uint32(raw), raw[4:], nil
}

// isKeyName: not empty, no Unicode space, no plus (c2sp.org/signed-note).
func isKeyName(s string) bool {
	return s != "" && len(s) <= 255 && utf8.ValidString(s) &&
		strings.IndexFunc(s, unicode.IsSpace) < 0 && !strings.Contains(s, "+")
}

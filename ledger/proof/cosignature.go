package proof

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"

	"filippo.io/mldsa"
)

// Cosignatures are verified here and not by transparency-dev/formats, which
// would bring crypto/x509, encoding/json and net into the browser. Tests compare
// with it and with torchwood.

// Signature types of vkeys (c2sp.org/signed-note).
const (
	algCosignatureEd25519 = 4
	algCosignatureMLDSA44 = 6
)

const cosignatureHead = 8 // u64 time

// cosignatureVerifier implements note.Verifier for c2sp.org/tlog-cosignature.
type cosignatureVerifier struct {
	name   string
	id     uint32
	verify func(body, sig []byte) bool
}

func (v *cosignatureVerifier) Name() string                 { return v.name }
func (v *cosignatureVerifier) KeyHash() uint32              { return v.id }
func (v *cosignatureVerifier) Verify(body, sig []byte) bool { return v.verify(body, sig) }

// newCosignatureVerifier parses the vkey of a witness: Ed25519 (4) or ML-DSA-44
// (6), with the key id that follows from name and key. It returns what is
// wrong, or "".
func newCosignatureVerifier(vkey string) (*cosignatureVerifier, string) {
	name, id, key, ok := splitKey(vkey)
	if !ok {
		return nil, "witness key is not a vkey"
	}
	h := sha256.Sum256([]byte(name + "\n" + key))
	if want := binary.BigEndian.Uint32(h[:]); id != want {
		return nil, "witness key: the key id does not match the key"
	}
	v := &cosignatureVerifier{name: name, id: id}
	switch alg, raw := key[0], []byte(key[1:]); {
	case alg == algCosignatureEd25519 && len(raw) == ed25519.PublicKeySize:
		v.verify = func(body, sig []byte) bool { return verifyEd25519(raw, body, sig) }
	case alg == algCosignatureMLDSA44:
		pub, err := mldsa.NewPublicKey(mldsa.MLDSA44(), raw)
		if err != nil {
			return nil, "witness key is not an ML-DSA-44 key"
		}
		v.verify = func(body, sig []byte) bool { return verifyMLDSA44(pub, name, body, sig) }
	default:
		return nil, "witness key is not a cosignature vkey (type 4 or 6)"
	}
	return v, ""
}

// splitKey parses <name>+<8 hex digits>+<base64 of type and key>.
func splitKey(vkey string) (name string, id uint32, key string, ok bool) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 || !isKeyName(parts[0]) || len(parts[1]) != 8 {
		return "", 0, "", false
	}
	n, err := strconv.ParseUint(parts[1], 16, 32)
	raw, err2 := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || err2 != nil || len(raw) < 2 {
		return "", 0, "", false
	}
	return parts[0], uint32(n), string(raw), true
}

// verifyEd25519 checks a signature over "cosignature/v1", the time and the
// checkpoint's body.
func verifyEd25519(pub ed25519.PublicKey, body, sig []byte) bool {
	if len(sig) != cosignatureHead+ed25519.SignatureSize {
		return false
	}
	t := binary.BigEndian.Uint64(sig)
	if t > maxInt {
		return false
	}
	msg := append(make([]byte, 0, len(body)+48), "cosignature/v1\ntime "...)
	msg = appendUint(msg, t)
	msg = append(msg, '\n')
	return ed25519.Verify(pub, append(msg, body...), sig[cosignatureHead:])
}

// verifyMLDSA44 checks a signature over the cosigned_message structure of the
// subtree that is the whole tree.
func verifyMLDSA44(pub *mldsa.PublicKey, name string, body, sig []byte) bool {
	if len(sig) != cosignatureHead+mldsa.MLDSA44SignatureSize {
		return false
	}
	head, err := parseTreeHead(body)
	if err != nil || binary.BigEndian.Uint64(sig) > maxInt {
		return false
	}
	msg := append(make([]byte, 0, 64+len(name)+len(head.origin)+32), "subtree/v1\n\x00"...)
	msg = append(msg, byte(len(name))) // isKeyName bounds both names to 255 bytes
	msg = append(msg, name...)
	msg = append(msg, sig[:cosignatureHead]...)
	msg = append(msg, byte(len(head.origin)))
	msg = append(msg, head.origin...)
	msg = u64(msg, 0)
	msg = u64(msg, head.size)
	msg = append(msg, head.root[:]...)
	return mldsa.Verify(pub, msg, sig[cosignatureHead:], nil) == nil
}

package proof

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"io"

	vrf "filippo.io/mostly-harmless/vrf-r255"
	r255 "github.com/gtank/ristretto255"
)

// Label is a subject's name in one epoch: unique, proven by whoever holds the
// epoch's key, and unlinkable without it.
type Label Hash

// String returns the label in base64.
func (z Label) String() string { return Hash(z).String() }

// MarshalText implements encoding.TextMarshaler: base64.
func (z Label) MarshalText() ([]byte, error) { return Hash(z).MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (z *Label) UnmarshalText(b []byte) error { return decodeB64(z[:], b) }

// LabelPublicKey is the VRF public key in a marker, encoded.
type LabelPublicKey Hash

// String returns the key in base64.
func (k LabelPublicKey) String() string { return Hash(k).String() }

// labelProofSize is the size of a VRF proof, in bytes.
const labelProofSize = 80

// LabelKey makes the labels of an epoch. The zero value is refused. It is
// secret: whoever holds it can find out which labels belong to which subject.
type LabelKey struct {
	vrf *vrf.PrivateKey
	x   *r255.Scalar
	pub LabelPublicKey
}

// NewLabelKey generates a key from 64 bytes of rand.
func NewLabelKey(rand io.Reader) (LabelKey, error) {
	var seed [64]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return LabelKey{}, fmt.Errorf("reading randomness for a label key: %w", err)
	}
	x, err := r255.NewScalar().SetUniformBytes(seed[:])
	if err != nil {
		return LabelKey{}, fmt.Errorf("generating a label key: %w", err)
	}
	return ParseLabelKey(x.Bytes())
}

// ParseLabelKey parses the 32-byte encoding of a key (vrf-r255: a canonical
// scalar, little-endian). Zero is refused.
func ParseLabelKey(b []byte) (LabelKey, error) {
	k, err := vrf.NewPrivateKey(b)
	if err != nil {
		return LabelKey{}, formatError("label key: not a canonical scalar of 32 bytes")
	}
	pub, err := ParseLabelPublicKey(k.PublicKey().Bytes())
	if err != nil {
		return LabelKey{}, err
	}
	x, err := r255.NewScalar().SetCanonicalBytes(b)
	if err != nil {
		return LabelKey{}, formatError("label key: not a canonical scalar of 32 bytes")
	}
	return LabelKey{k, x, pub}, nil
}

// ParseLabelPublicKey checks a public key: a canonical ristretto255 element
// other than the identity. (With the identity as key every label would be
// provable by anybody.)
func ParseLabelPublicKey(b []byte) (LabelPublicKey, error) {
	if _, err := vrfKey(b); err != nil {
		return LabelPublicKey{}, err
	}
	return LabelPublicKey(b), nil
}

func vrfKey(b []byte) (*vrf.PublicKey, error) {
	if len(b) != len(LabelPublicKey{}) || Hash(b).IsZero() { // the identity's encoding is all zero
		return nil, formatError("label key: the identity element, or not 32 bytes")
	}
	y, err := vrf.NewPublicKey(b)
	if err != nil {
		return nil, formatError("label key: not an element of ristretto255")
	}
	return y, nil
}

// IsZero reports whether k is unset.
func (k LabelKey) IsZero() bool { return k.x == nil }

// Bytes returns the secret encoding, to be sealed.
func (k LabelKey) Bytes() []byte {
	if k.IsZero() {
		return nil
	}
	return k.vrf.Bytes()
}

// Public returns the key that stands in the marker; zero for the zero key.
func (k LabelKey) Public() LabelPublicKey { return k.pub }

// String never shows the key.
func (k LabelKey) String() string { return "labelkey:[redacted]" }

// Format implements fmt.Formatter.
func (k LabelKey) Format(f fmt.State, _ rune) { f.Write([]byte(k.String())) }

// LabelInput returns the VRF input alpha of a subject in an epoch. It holds
// the subject in clear.
func LabelInput(s Subject, e Epoch) []byte {
	return appendLabelInput(nil, s, e)
}

func appendLabelInput(b []byte, s Subject, e Epoch) []byte {
	b = append(b, "regard/label/v1\x00"...)
	b = u64(b, uint64(e))
	b = append(b, s.Type()...)
	b = append(b, 0)
	return append(b, s.Value()...)
}

// suite is the suite string of ECVRF-RISTRETTO255-SHA512 (c2sp.org/vrf-r255).
const suite = "\xFFc2sp.org/vrf-r255"

// Label returns the label of a subject without a proof, at a third of the cost
// of Prove: Γ = x·H and the hash of Γ, as in RFC 9381, sections 5.1 and 5.2. It
// panics on the zero key or subject, which no caller can hold by accident: a
// label of nothing would file people together.
func (k LabelKey) Label(s Subject, e Epoch) Label {
	k.demand(s)
	g := labelPoint(k.pub, s, e)
	return labelOf(g.ScalarMult(k.x, g))
}

// labelPoint is H = ristretto255_one_way_map(SHA-512(suite ‖ 0x82 ‖ Y ‖ alpha)).
func labelPoint(pub LabelPublicKey, s Subject, e Epoch) *r255.Element {
	var in [512]byte
	b := append(in[:0], suite...)
	b = append(b, 0x82)
	b = append(b, pub[:]...)
	b = appendLabelInput(b, s, e)
	u := sha512.Sum512(b)
	h, err := r255.NewIdentityElement().SetUniformBytes(u[:])
	if err != nil {
		panic("proof: 64 bytes refused: " + err.Error()) // only the length can be wrong
	}
	return h
}

// labelOf is the beginning of beta = SHA-512(suite ‖ 0x03 ‖ Γ ‖ 0x00).
func labelOf(gamma *r255.Element) Label {
	b := append([]byte(suite), 0x03)
	b = append(b, gamma.Bytes()...)
	b = append(b, 0x00)
	beta := sha512.Sum512(b)
	return Label(beta[:32])
}

// Prove returns the label and the proof of 80 bytes that it is the subject's
// in this epoch, under Public. It panics as Label does.
func (k LabelKey) Prove(s Subject, e Epoch) (Label, []byte) {
	k.demand(s)
	p := k.vrf.Prove(LabelInput(s, e))
	return Label(p.Hash()[:32]), p.Bytes()
}

func (k LabelKey) demand(s Subject) {
	if k.IsZero() || s.IsZero() {
		panic("proof: label of the zero subject, or with the zero key")
	}
}

// VerifyLabel returns the subject's one label in the epoch under pub, if proof
// shows it.
func VerifyLabel(pub LabelPublicKey, s Subject, e Epoch, proof []byte) (Label, error) {
	if s.IsZero() {
		return Label{}, fmt.Errorf("label: no subject: %w", ErrSubject)
	}
	if _, err := vrfKey(pub[:]); err != nil {
		return Label{}, err
	}
	if len(proof) != labelProofSize {
		return Label{}, formatError("label: proof of %d bytes, want %d", len(proof), labelProofSize)
	}
	y, err1 := r255.NewIdentityElement().SetCanonicalBytes(pub[:])
	gamma, err2 := r255.NewIdentityElement().SetCanonicalBytes(proof[:32])
	var short [32]byte // c has 16 bytes
	copy(short[:], proof[32:48])
	c, err3 := r255.NewScalar().SetCanonicalBytes(short[:])
	t, err4 := r255.NewScalar().SetCanonicalBytes(proof[48:])
	if errors.Join(err1, err2, err3, err4) != nil {
		return Label{}, unproven("label: malformed VRF proof")
	}
	// RFC 9381, section 5.3, as package vrf does it, but in a time that depends on the numbers, which is two thirds of the other: nothing here is secret.
	// U = s·B - c·Y, V = s·H - c·Γ
	h, less := labelPoint(pub, s, e), r255.NewScalar().Negate(c)
	u := r255.NewIdentityElement().VarTimeDoubleScalarBaseMult(less, y, t)
	v := r255.NewIdentityElement().VarTimeMultiScalarMult([]*r255.Scalar{t, less}, []*r255.Element{h, gamma})
	// c = the first 16 bytes of SHA-512(suite ‖ 0x02 ‖ Y ‖ H ‖ Γ ‖ U ‖ V ‖ 0x00)
	b := append([]byte(suite), 0x02)
	for _, p := range []*r255.Element{y, h, gamma, u, v} {
		b = append(b, p.Bytes()...)
	}
	b = append(b, 0x00)
	if want := sha512.Sum512(b); [16]byte(want[:]) != [16]byte(proof[32:]) {
		return Label{}, unproven("label: the VRF proof does not hold for this subject, epoch and key")
	}
	return labelOf(gamma), nil
}

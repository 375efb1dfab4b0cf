package hostile

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"
)

// Cosigner cosigns whatever it is given, as a witness that colludes does, or one that is honest and shown one history. A witness that judges is package
// ledger/witness.
type Cosigner struct {
	Name string
	key  ed25519.PrivateKey
}

// algCosignature is the type of an Ed25519 cosignature key (c2sp.org/tlog-cosignature).
const algCosignature = 4

func newCosigner(rand io.Reader, name string) *Cosigner {
	seed := make([]byte, ed25519.SeedSize)
	must(io.ReadFull(rand, seed))
	return &Cosigner{name, ed25519.NewKeyFromSeed(seed)}
}

func (c *Cosigner) public() []byte {
	return append([]byte{algCosignature}, c.key.Public().(ed25519.PublicKey)...)
}

func (c *Cosigner) id() uint32 {
	h := sha256.Sum256(slices.Concat([]byte(c.Name+"\n"), c.public()))
	return binary.BigEndian.Uint32(h[:])
}

// VKey returns the verification key for a policy.
func (c *Cosigner) VKey() string {
	return fmt.Sprintf("%s+%08x+%s", c.Name, c.id(), base64.StdEncoding.EncodeToString(c.public()))
}

// cosign appends a cosignature to a signed checkpoint.
func (c *Cosigner) cosign(signed []byte, at time.Time) []byte {
	body := signed[:bytes.Index(signed, []byte("\n\n"))+1]
	unix := uint64(at.Unix())
	sig := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, c.id()), unix)
	sig = append(sig, ed25519.Sign(c.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", unix, body))...)
	return fmt.Appendf(signed, "— %s %s\n", c.Name, base64.StdEncoding.EncodeToString(sig))
}

// Witnesses returns the witnesses that the operator was given.
func (o *Operator) Witnesses() []*Cosigner { return slices.Clone(o.cosigners) }

package verdict

import (
	"crypto/sha256"

	"github.com/regard-broker/regard/ledger/proof"
)

// Key is a key on whose signature a verdict rests, with a fingerprint that people can compare elsewhere.
type Key struct {
	Role        string `json:"role"` // of the log or of a witness, in words
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
}

// Fingerprint is the SHA-256 of a verification key as it is written (vkey), in groups of four hex digits:
// printf %s "$vkey" | sha256sum.
func Fingerprint(vkey string) string {
	d := sha256.Sum256([]byte(vkey))
	return groups(d[:])
}

// Keys lists the keys of a policy.
func Keys(p *proof.Policy, l Lang) []Key {
	if p == nil {
		return nil
	}
	var out []Key
	for _, k := range p.LogKeys() {
		out = append(out, Key{l.pick("registre", "log"), name(k), Fingerprint(k)})
	}
	for _, w := range p.Witnesses() {
		out = append(out, Key{l.pick("témoin", "witness"), w.KeyName, Fingerprint(w.VKey)})
	}
	return out
}

// name is the part of a vkey before its id.
func name(vkey string) string {
	for i := range vkey {
		if vkey[i] == '+' {
			return vkey[:i]
		}
	}
	return vkey
}

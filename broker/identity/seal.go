package identity

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"

	"golang.org/x/crypto/chacha20poly1305"
)

// Secrets are derived from one of 32 random bytes: with HKDF-SHA256 (RFC 5869), each for its purpose.
type secret [32]byte

func newSecret() (s secret) {
	rand.Read(s[:])
	return s
}

func (s *secret) derive(purpose string) []byte {
	b, err := hkdf.Key(sha256.New, s[:], nil, "regard/identity/v1 "+purpose, 32)
	if err != nil {
		panic(err) // it depends on the constant length alone
	}
	return b
}

// text is derived for URLs and forms: 43 characters.
func (s *secret) text(purpose string) string { return encode(s.derive(purpose)) }

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func parseSecret(text string) (s secret, ok bool) {
	if len(text) != base64.RawURLEncoding.EncodedLen(len(s)) {
		return s, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return s, err == nil && copy(s[:], b) == len(s)
}

var errSeal = errors.New("identity: sealed bytes were altered, or belong somewhere else")

// seal encrypts under a key of 32 bytes, for a place that ad names: nonce[24] ‖ ciphertext ‖ tag[16] of XChaCha20-Poly1305 with a random nonce.
func seal(key, ad, plaintext []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plaintext)+aead.Overhead())
	rand.Read(out)
	return aead.Seal(out, out, plaintext, ad), nil // #nosec G407 -- the nonce is the randomness read above
}

func unseal(key, ad, sealed []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < chacha20poly1305.NonceSizeX+aead.Overhead() {
		return nil, errSeal
	}
	plaintext, err := aead.Open(nil, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], ad)
	if err != nil {
		return nil, errSeal
	}
	return plaintext, nil
}

package identity

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
)

// A FormKey is the secret of a session by which its own forms are known. It stands on no page itself: pages are compressed and repeat what somebody sent, so how long they are would give away, guess by guess, what stands on
// each of them (BREACH, CVE-2013-3587). The zero value makes no tokens and takes none. It redacts itself.
type FormKey [32]byte

// tokenSize of a token, before base64: a pad, and the key under it.
const tokenSize = 2 * len(FormKey{})

// Token is what a form carries: another one each time, all good for as long as the session is. 86 characters of base64url.
func (k *FormKey) Token() string {
	if *k == (FormKey{}) {
		return ""
	}
	var b [tokenSize]byte
	pad, masked := b[:len(k)], b[len(k):]
	rand.Read(pad)
	subtle.XORBytes(masked, k[:], pad)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Made reports whether a token is one of this key's.
func (k *FormKey) Made(token string) bool {
	if *k == (FormKey{}) || len(token) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != tokenSize {
		return false
	}
	var got FormKey
	subtle.XORBytes(got[:], b[:len(k)], b[len(k):])
	return subtle.ConstantTimeCompare(got[:], k[:]) == 1
}

// Format implements fmt.Formatter: every verb shows nothing.
func (k FormKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("formkey:[redacted]")) }

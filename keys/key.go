package keys

import (
	"errors"
	"fmt"
	"log/slog"
)

const redactedKey = "key:[redacted]"

var errRedacted = errors.New("keys: a key is not serialised")

// Key is an unwrapped data key, to seal with. It is made by a Ring only; the zero Key is refused. It redacts itself. It is a copy of its own: Clear it after use.
type Key struct {
	id     KeyID
	kind   Kind
	owner  Owner
	secret [32]byte
}

// ID names the key.
func (k *Key) ID() KeyID { return k.id }

// Owner is the person whose key it is.
func (k *Key) Owner() Owner { return k.owner }

// Clear overwrites the secret; the key is refused afterwards.
func (k *Key) Clear() {
	clear(k.secret[:])
	k.id = KeyID{}
}

// String shows nothing.
func (k Key) String() string { return redactedKey }

// Format implements fmt.Formatter: every verb shows nothing.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redactedKey)) }

// LogValue implements slog.LogValuer: it shows nothing.
func (k Key) LogValue() slog.Value { return slog.StringValue(redactedKey) }

// MarshalJSON refuses.
func (k Key) MarshalJSON() ([]byte, error) { return nil, errRedacted }

// MarshalText refuses.
func (k Key) MarshalText() ([]byte, error) { return nil, errRedacted }

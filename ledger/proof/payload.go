package proof

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
)

// PayloadDigest returns what a record says of the released bytes: HMAC-SHA-256
// under the record's payload key, because answers can be guessed
// (docs/formats.md, section 4, field 26).
func PayloadDigest(key, data []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(data)
	return m.Sum(nil)
}

// CheckPayload shows that data are the very bytes that the opening speaks
// about: ErrUnproven if they aren't, ErrHidden if the opening shows no digest or
// not its key.
func (o Opening) CheckPayload(data []byte) error {
	key, kp := o.Value(DisclosurePayloadKey)
	want, wp := o.Value(DisclosurePayload)
	if o.Schema() != SchemaDisclosure || kp != Present || wp != Present {
		return fmt.Errorf("opening: it shows no digest of the data: %w", ErrHidden)
	}
	if !hmac.Equal(PayloadDigest(key, data), want) {
		return unproven("opening: the data are not those that were recorded")
	}
	return nil
}

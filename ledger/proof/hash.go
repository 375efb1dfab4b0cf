package proof

import (
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"time"
)

// Hash is a SHA-256 value. The zero value stands for "none" and is refused
// where a hash is demanded.
type Hash [32]byte

// Commitment binds a public entry to its private record, and hides it.
type Commitment Hash

// Epoch is the number of a stretch of the log between two markers.
type Epoch uint64

// Index is the zero-based position of an entry in the log.
type Index uint64

// Time is in milliseconds since 1970-01-01T00:00:00Z, never negative.
type Time int64

// TimeOf returns t cut to milliseconds.
func TimeOf(t time.Time) Time { return Time(t.UnixMilli()) }

// Time returns t in UTC.
func (t Time) Time() time.Time { return time.UnixMilli(int64(t)).UTC() }

// maxInt is the largest integer in text.
const maxInt = 1<<63 - 1

var b64 = base64.StdEncoding.Strict()

// String returns the hash in base64, as it stands in entries and receipts.
func (h Hash) String() string { return b64.EncodeToString(h[:]) }

// IsZero reports whether h is unset.
func (h Hash) IsZero() bool { return h == Hash{} }

// ParseHash parses the base64 form.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if err := decodeB64(h[:], []byte(s)); err != nil {
		return Hash{}, err
	}
	return h, nil
}

// String returns the commitment in base64.
func (c Commitment) String() string { return Hash(c).String() }

// IsZero reports whether c is unset.
func (c Commitment) IsZero() bool { return c == Commitment{} }

// MarshalText implements encoding.TextMarshaler: base64.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) error { return decodeB64(h[:], b) }

// MarshalText implements encoding.TextMarshaler: base64.
func (c Commitment) MarshalText() ([]byte, error) { return Hash(c).MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Commitment) UnmarshalText(b []byte) error { return decodeB64(c[:], b) }

func (e Epoch) String() string { return strconv.FormatUint(uint64(e), 10) }
func (i Index) String() string { return strconv.FormatUint(uint64(i), 10) }

// decodeB64 decodes exactly len(dst) bytes. Go's decoder skips CR and LF, so
// the length of the text is checked first: nothing can be skipped then.
func decodeB64(dst, src []byte) error {
	if len(src) != b64.EncodedLen(len(dst)) {
		return formatError("base64 of %d characters, want %d", len(src), b64.EncodedLen(len(dst)))
	}
	// Decode may write up to DecodedLen(len(src)), which counts the padding.
	var buf [128]byte
	tmp := buf[:]
	if n := b64.DecodedLen(len(src)); n > len(tmp) {
		tmp = make([]byte, n)
	}
	n, err := b64.Decode(tmp, src)
	if err != nil || n != len(dst) {
		return formatError("base64 is malformed or not canonical")
	}
	copy(dst, tmp[:n])
	return nil
}

// decodeB64Any decodes canonical base64 of any length up to max bytes.
func decodeB64Any(src []byte, max int) ([]byte, error) {
	if len(src) > b64.EncodedLen(max) {
		return nil, formatError("base64 of %d characters, at most %d", len(src), b64.EncodedLen(max))
	}
	dst := make([]byte, b64.DecodedLen(len(src)))
	n, err := b64.Decode(dst, src)
	// The decoder skips line ends; the re-encoded length shows that none was there.
	if err != nil || n > max || b64.EncodedLen(n) != len(src) {
		return nil, formatError("base64 is malformed or not canonical")
	}
	return dst[:n:n], nil
}

func appendUint(b []byte, n uint64) []byte { return strconv.AppendUint(b, n, 10) }

func appendHash(b []byte, h *[32]byte) []byte { return b64.AppendEncode(b, h[:]) }

func u16(b []byte, n uint16) []byte { return binary.BigEndian.AppendUint16(b, n) }
func u32(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }
func u64(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

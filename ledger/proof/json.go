package proof

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// maxJSONDepth bounds the nesting of canonical JSON, the outermost object
// included.
const maxJSONDepth = 32

// IsCanonicalJSON reports whether b is an object in canonical JSON
// (docs/formats.md, section 9). It allocates nothing: it is on the way of every
// record.
func IsCanonicalJSON(b []byte) bool {
	s := jsonScan{rest: b}
	return len(b) > 0 && b[0] == '{' && utf8.Valid(b) && s.value(maxJSONDepth) && len(s.rest) == 0
}

// jsonScan walks over JSON whose UTF-8 was checked.
type jsonScan struct{ rest []byte }

// plainPrefix returns how many bytes of b stand for themselves in a string: up
// to a quotation mark, a backslash or a control character. It looks at eight
// bytes at once, and the lowest bit set is that of the first byte found.
func plainPrefix(b []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; len(b)-i >= 8; i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, backslash := x^ones*'"', x^ones*'\\'
		found := ((x-ones*0x20)&^x | (quote-ones)&^quote | (backslash-ones)&^backslash) & high
		if found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(b) && b[i] >= 0x20 && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

func (s *jsonScan) value(depth int) bool {
	if len(s.rest) == 0 {
		return false
	}
	switch s.rest[0] {
	case '{':
		return depth > 0 && s.object(depth-1)
	case '[':
		return depth > 0 && s.array(depth-1)
	case '"':
		_, _, ok := s.str()
		return ok
	case 't':
		return s.cut("true")
	case 'f':
		return s.cut("false")
	case 'n':
		return s.cut("null")
	}
	return s.integer()
}

func (s *jsonScan) cut(word string) bool {
	if len(s.rest) < len(word) || string(s.rest[:len(word)]) != word {
		return false
	}
	s.rest = s.rest[len(word):]
	return true
}

func (s *jsonScan) object(depth int) bool {
	s.rest = s.rest[1:]
	if s.cut("}") {
		return true
	}
	var last []byte
	lastEscaped := false
	for first := true; ; first = false {
		key, escaped, ok := s.str()
		if !ok || !first && !keyBefore(last, key, lastEscaped || escaped) || !s.cut(":") || !s.value(depth) {
			return false
		}
		if last, lastEscaped = key, escaped; !s.cut(",") {
			return s.cut("}")
		}
	}
}

func (s *jsonScan) array(depth int) bool {
	s.rest = s.rest[1:]
	if s.cut("]") {
		return true
	}
	for {
		if !s.value(depth) {
			return false
		}
		if !s.cut(",") {
			return s.cut("]")
		}
	}
}

// str reads a string and returns what stands between its quotes, and whether
// that holds an escape.
func (s *jsonScan) str() (raw []byte, escaped, ok bool) {
	if !s.cut(`"`) {
		return nil, false, false
	}
	b, i := s.rest, 0
	for {
		if i += plainPrefix(b[i:]); i == len(b) {
			return nil, false, false
		}
		if b[i] == '"' {
			s.rest = b[i+1:]
			return b[:i], escaped, true
		}
		n := 0
		if _, n = unescape(b[i:]); n == 0 {
			return nil, false, false
		}
		escaped, i = true, i+n
	}
}

// unescape returns the byte that a canonical escape stands for and its length;
// 0 if b doesn't begin with one.
func unescape(b []byte) (byte, int) {
	switch {
	case len(b) < 2 || b[0] != '\\':
	case b[1] == '"' || b[1] == '\\':
		return b[1], 2
	case len(b) >= 6 && string(b[:4]) == `\u00` && (b[4] == '0' || b[4] == '1') && isHex(b[5:6]):
		low := b[5] - '0'
		if b[5] >= 'a' {
			low = b[5] - 'a' + 10
		}
		return (b[4]-'0')<<4 | low, 6
	}
	return 0, 0
}

// keyBefore reports whether key a stands before b: by the bytes that they are,
// not by those that write them.
func keyBefore(a, b []byte, escaped bool) bool {
	if !escaped {
		return bytes.Compare(a, b) < 0
	}
	for len(a) > 0 && len(b) > 0 {
		x, n := unescape(a)
		if n == 0 {
			x, n = a[0], 1
		}
		y, m := unescape(b)
		if m == 0 {
			y, m = b[0], 1
		}
		if x != y {
			return x < y
		}
		a, b = a[n:], b[m:]
	}
	return len(a) == 0 && len(b) > 0
}

// integer reads a decimal integer without leading zeros, at most 2^63 − 1 in
// magnitude; there is no −0.
func (s *jsonScan) integer() bool {
	negative := s.cut("-")
	n := 0
	for n < len(s.rest) && s.rest[n] >= '0' && s.rest[n] <= '9' {
		n++
	}
	v, ok := parseUint(s.rest[:n])
	s.rest = s.rest[n:]
	return ok && !(negative && v == 0)
}

// isPointer reports whether b is a JSON pointer (RFC 6901) but the one to the
// whole document, which is empty.
func isPointer(b []byte) bool {
	if len(b) == 0 || b[0] != '/' {
		return false
	}
	for rest := b; ; {
		i := bytes.IndexByte(rest, '~')
		if i < 0 {
			return isText(b, false)
		}
		if rest = rest[i+1:]; len(rest) == 0 || rest[0] != '0' && rest[0] != '1' {
			return false
		}
	}
}

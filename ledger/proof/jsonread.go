package proof

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// jsonValue is a value in canonical JSON whose form was checked, and where it
// stands, for errors: "history: epochs[12].rolls[0]".
type jsonValue struct {
	raw   []byte
	place string
}

// parseJSON checks that b is an object in canonical JSON (docs/formats.md,
// section 9).
func parseJSON(what string, b []byte) (jsonValue, error) {
	if !utf8.Valid(b) {
		return jsonValue{}, formatError("%s: not UTF-8", what)
	}
	s := jsonScan{rest: b}
	if len(b) == 0 || b[0] != '{' || !s.value(maxJSONDepth) {
		return jsonValue{}, formatError("%s: no object in canonical JSON, or nested deeper than %d: wrong at byte %d", what, maxJSONDepth, len(b)-len(s.rest))
	}
	if len(s.rest) != 0 {
		return jsonValue{}, formatError("%s: the object ends at byte %d, and more follows", what, len(b)-len(s.rest))
	}
	return jsonValue{b, what}, nil
}

func (v jsonValue) errorf(format string, args ...any) error {
	return formatError("%s: %s", v.place, fmt.Sprintf(format, args...))
}

// wrap adds the place to an error that already wraps a sentinel.
func (v jsonValue) wrap(err error) error { return fmt.Errorf("%s: %w", v.place, err) }

// members returns the values of an object's members, which must be these, in
// this order; the one called optional may be missing and is then zero.
func (v jsonValue) members(optional string, names ...string) ([]jsonValue, error) {
	if v.raw[0] != '{' {
		return nil, v.errorf("want an object")
	}
	out := make([]jsonValue, len(names))
	s := jsonScan{rest: v.raw[1:]}
	n := 0
	for len(s.rest) > 0 && s.rest[0] == '"' {
		name, _, _ := s.str()
		for n < len(names) && names[n] == optional && string(name) != optional {
			n++
		}
		if n == len(names) || string(name) != names[n] {
			return nil, v.errorf("a member that is not known or not in its place; want %q", names)
		}
		s.cut(":")
		at := s.rest
		s.value(maxJSONDepth)
		out[n] = jsonValue{at[:len(at)-len(s.rest)], v.place + "." + names[n]}
		n++
		s.cut(",")
	}
	for n < len(names) && names[n] == optional {
		n++
	}
	if n < len(names) {
		return nil, v.errorf("no member %q", names[n])
	}
	return out, nil
}

// member returns one member of an object, whatever the others are.
func (v jsonValue) member(name string) (jsonValue, bool) {
	s := jsonScan{rest: v.raw[1:]}
	for len(s.rest) > 0 && s.rest[0] == '"' {
		key, _, _ := s.str()
		s.cut(":")
		at := s.rest
		s.value(maxJSONDepth)
		if string(key) == name {
			return jsonValue{at[:len(at)-len(s.rest)], v.place + "." + name}, true
		}
		s.cut(",")
	}
	return jsonValue{}, false
}

// each calls f for the items of an array, at most limit of them.
func (v jsonValue) each(limit int, f func(i int, item jsonValue) error) error {
	if v.raw[0] != '[' {
		return v.errorf("want an array")
	}
	s := jsonScan{rest: v.raw[1:]}
	for i := 0; s.rest[0] != ']'; i++ {
		if i == limit {
			return v.errorf("more than %d items", limit)
		}
		at := s.rest
		s.value(maxJSONDepth)
		if err := f(i, jsonValue{at[:len(at)-len(s.rest)], fmt.Sprintf("%s[%d]", v.place, i)}); err != nil {
			return err
		}
		s.cut(",")
	}
	return nil
}

func (v jsonValue) null() bool { return v.raw[0] == 'n' }

func (v jsonValue) isString() bool { return v.raw[0] == '"' }

// text returns a string; it shares memory with the input if nothing in it is
// escaped.
func (v jsonValue) text() ([]byte, error) {
	if !v.isString() {
		return nil, v.errorf("want a string")
	}
	raw := v.raw[1 : len(v.raw)-1]
	i := bytes.IndexByte(raw, '\\')
	if i < 0 {
		return raw, nil
	}
	out := append(make([]byte, 0, len(raw)), raw[:i]...)
	for raw = raw[i:]; len(raw) > 0; {
		if c, n := unescape(raw); n > 0 {
			out, raw = append(out, c), raw[n:]
			continue
		}
		n := max(plainPrefix(raw), 1)
		out, raw = append(out, raw[:n]...), raw[n:]
	}
	return out, nil
}

// uint returns an integer that is not negative.
func (v jsonValue) uint() (uint64, error) {
	n, ok := parseUint(v.raw)
	if !ok {
		return 0, v.errorf("want an integer from 0 to 2^63-1")
	}
	return n, nil
}

// pieces returns what a string of base64 holds: a multiple of size bytes.
func (v jsonValue) pieces(size int) ([]byte, error) {
	s, err := v.text()
	if err != nil {
		return nil, err
	}
	b, err := decodeB64Any(s, b64.DecodedLen(len(s)))
	if err != nil {
		return nil, v.wrap(err)
	}
	if len(b)%size != 0 {
		return nil, v.errorf("%d bytes, want a multiple of %d", len(b), size)
	}
	return b, nil
}

func (v jsonValue) hashes() ([]Hash, error) {
	b, err := v.pieces(32)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	out := make([]Hash, len(b)/32)
	for i := range out {
		copy(out[i][:], b[32*i:])
	}
	return out, nil
}

// appendJSONString appends a string in canonical JSON. s must be UTF-8.
func appendJSONString[T string | []byte](b []byte, s T) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for rest := []byte(s); len(rest) > 0; {
		n := plainPrefix(rest)
		b = append(b, rest[:n]...)
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
		switch c := rest[0]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		rest = rest[1:]
	}
	return append(b, '"')
}

// appendB64 appends a string of base64.
func appendB64(b, data []byte) []byte {
	b = append(b, '"')
	b = b64.AppendEncode(b, data)
	return append(b, '"')
}

func appendHashes(b []byte, hashes []Hash) []byte {
	data := make([]byte, 0, 32*len(hashes))
	for i := range hashes {
		data = append(data, hashes[i][:]...)
	}
	return appendB64(b, data)
}

// appendList appends an array.
func appendList[T any](b []byte, items []T, one func([]byte, *T) []byte) []byte {
	b = append(b, '[')
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = one(b, &items[i])
	}
	return append(b, ']')
}

package service

import (
	"bytes"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON (RFC 8259) token by token over the bytes themselves, with the restrictions of I-JSON (RFC 7493): UTF-8, no lone surrogates, no repeated keys.
type scanner struct {
	b []byte
	i int
	// keys is a stack: the keys of the objects that are open.
	keys [][]byte
}

// bad is an error at the current byte; it never holds any of the answer.
func (s *scanner) bad(what string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrAnswer, what, s.i)
}

// space skips white space and returns the next byte, 0 at the end.
func (s *scanner) space() byte {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return c
		}
	}
	return 0
}

// literal reads true, false or null.
func (s *scanner) literal(word string) error {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.bad("not JSON")
	}
	s.i += len(word)
	return nil
}

// text reads a string and returns its content between the quotes as it stands, and whether it holds escapes.
func (s *scanner) text() (raw []byte, escaped bool, err error) {
	if s.i >= len(s.b) || s.b[s.i] != '"' {
		return nil, false, s.bad("want a string")
	}
	s.i++
	start, wide := s.i, false
	for {
		b, i := s.b, s.i
		for i < len(b) && plain[b[i]] {
			i++
		}
		if s.i = i; i == len(b) {
			return nil, false, s.bad("truncated")
		}
		switch c := b[i]; {
		case c == '"':
			raw = s.b[start:s.i]
			s.i++
			if wide && !utf8.Valid(raw) {
				return nil, false, s.bad("not UTF-8")
			}
			return raw, escaped, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return nil, false, err
			}
		case c < 0x20:
			return nil, false, s.bad("control character in a string")
		default:
			wide = true
			s.i++
		}
	}
}

// plain are the bytes of a string that need no second look: printable ASCII but the quote and the backslash.
var plain = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\'
	}
	return t
}()

// escape skips one escape sequence; a surrogate must have its pair.
func (s *scanner) escape() error {
	if s.i+1 >= len(s.b) {
		return s.bad("truncated")
	}
	switch s.b[s.i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return nil
	case 'u':
		r := hex4(s.b, s.i)
		if r < 0 {
			return s.bad("bad escape")
		}
		s.i += 6
		if utf16.IsSurrogate(r) {
			if utf16.DecodeRune(r, hex4(s.b, s.i)) == utf8.RuneError {
				return s.bad("lone surrogate")
			}
			s.i += 6
		}
		return nil
	}
	return s.bad("bad escape")
}

// hex4 reads \uXXXX at i, -1 if it isn't there.
func hex4(b []byte, i int) rune {
	if len(b)-i < 6 || b[i] != '\\' || b[i+1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range b[i+2 : i+6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// unescape decodes the content of a string that text accepted.
func unescape(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			i++
			continue
		}
		r, n := unescapeOne(raw[i:])
		out = utf8.AppendRune(out, r)
		i += n
	}
	return out
}

// unescapeOne decodes the escape sequence at the beginning, which has been checked, and returns its length.
func unescapeOne(raw []byte) (r rune, n int) {
	switch c := raw[1]; c {
	case 'u':
		r = hex4(raw, 0)
		if utf16.IsSurrogate(r) {
			return utf16.DecodeRune(r, hex4(raw, 6)), 12
		}
		return r, 6
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	default:
		return rune(c), 2
	}
}

// number reads a number and returns its literal text and whether it is written as an integer.
func (s *scanner) number() (raw []byte, integer bool, err error) {
	start := s.i
	if s.i < len(s.b) && s.b[s.i] == '-' {
		s.i++
	}
	switch first := s.i; {
	case s.digits() == 0:
		return nil, false, s.bad("not JSON")
	case s.b[first] == '0' && s.i > first+1:
		return nil, false, s.bad("leading zero")
	}
	integer = true
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if integer = false; s.digits() == 0 {
			return nil, false, s.bad("not JSON")
		}
	}
	if s.i < len(s.b) && s.b[s.i]|0x20 == 'e' {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		if integer = false; s.digits() == 0 {
			return nil, false, s.bad("not JSON")
		}
	}
	return s.b[start:s.i], integer, nil
}

func (s *scanner) digits() int {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i - start
}

// manyKeys is the size from which an object's keys are compared through a map.
const manyKeys = 24

// unique holds the keys of one object: those that are not members of the schema.
type uniqueKeys struct {
	first int // in scanner.keys
	many  map[string]struct{}
}

// add notes a key and reports whether it is new.
func (s *scanner) add(u *uniqueKeys, key []byte) bool {
	if u.many == nil && len(s.keys)-u.first >= manyKeys {
		u.many = make(map[string]struct{}, 4*manyKeys)
		for _, k := range s.keys[u.first:] {
			u.many[string(k)] = struct{}{}
		}
	}
	if u.many != nil {
		if _, ok := u.many[string(key)]; ok {
			return false
		}
		u.many[string(key)] = struct{}{}
		return true
	}
	for _, k := range s.keys[u.first:] {
		if bytes.Equal(k, key) {
			return false
		}
	}
	s.keys = append(s.keys, key)
	return true
}

// member reads a key with its colon, decoded.
func (s *scanner) member() ([]byte, error) {
	s.space()
	key, escaped, err := s.text()
	if err != nil {
		return nil, err
	}
	if escaped {
		key = unescape(key)
	}
	if s.space() != ':' {
		return nil, s.bad("want a colon")
	}
	s.i++
	return key, nil
}

// more reads what follows a member or element: a comma, or the end of its container.
func (s *scanner) more(end byte) (bool, error) {
	switch c := s.space(); c {
	case ',':
		s.i++
		return true, nil
	case end:
		s.i++
		return false, nil
	case 0:
		return false, s.bad("truncated")
	}
	return false, s.bad("not JSON")
}

// open enters a container and reports whether it is empty.
func (s *scanner) open(end byte, depth int) (empty bool, err error) {
	if depth > maxDepth {
		return false, s.bad("nested too deep")
	}
	s.i++
	if s.space() == end {
		s.i++
		return true, nil
	}
	return false, nil
}

// skip reads any value and keeps nothing of it.
func (s *scanner) skip(depth int) error {
	switch c := s.space(); c {
	case '{':
		empty, err := s.open('}', depth)
		u := uniqueKeys{first: len(s.keys)}
		for more := !empty; more && err == nil; {
			var key []byte
			if key, err = s.member(); err != nil {
				return err
			}
			if !s.add(&u, key) {
				return s.bad("repeated key")
			}
			if err = s.skip(depth + 1); err == nil {
				more, err = s.more('}')
			}
		}
		s.keys = s.keys[:u.first]
		return err
	case '[':
		empty, err := s.open(']', depth)
		for more := !empty; more && err == nil; {
			if err = s.skip(depth + 1); err == nil {
				more, err = s.more(']')
			}
		}
		return err
	case '"':
		_, _, err := s.text()
		return err
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	case 0:
		return s.bad("truncated")
	default:
		_, _, err := s.number()
		return err
	}
}

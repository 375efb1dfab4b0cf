package api

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/regard-broker/regard/broker"
)

// A scanner reads JSON (RFC 8259) and takes nothing on trust that encoding/json would: names in another case, the last of two equal names, broken UTF-8,
// control characters in text. It knows where it is, so that a problem names the member at fault; it never repeats a value.
type scanner struct {
	b    []byte
	i    int
	path []byte // JSON pointer of the value that is being read
	// breaks: the text that is being read may have line breaks.
	breaks bool
}

// Bounds of a request, so that a body within its size can't hold a surprise.
const (
	maxName  = 64   // bytes of a member's name
	maxText  = 2048 // bytes of a string
	maxItems = 64   // of an array, or members of an object
)

func (s *scanner) problem(code, title, detail string) *broker.Problem {
	return &broker.Problem{Status: 400, Code: code, Title: title, Detail: detail, Parameter: string(s.path)}
}

func (s *scanner) syntax() *broker.Problem {
	return &broker.Problem{Status: 400, Code: "request.json.invalid", Title: "The body is not valid JSON.",
		Detail: "Send one JSON object in UTF-8. The fault is near byte " + strconv.Itoa(s.i) + "."}
}

func (s *scanner) wrongType(want string) *broker.Problem {
	return s.problem("request.invalid", "A member of the request has the wrong type.", "Send "+want+".")
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek returns the next byte that isn't white space, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i == len(s.b) {
		return 0
	}
	return s.b[s.i]
}

// push makes the path point to a member; the caller cuts the path back.
func (s *scanner) push(name string) {
	s.path = append(s.path, '/')
	for i := range len(name) {
		switch c := name[i]; c { // RFC 6901, section 3
		case '~':
			s.path = append(s.path, "~0"...)
		case '/':
			s.path = append(s.path, "~1"...)
		default:
			s.path = append(s.path, c)
		}
	}
}

// object reads an object and calls member for each of its members, which has to read the value. member gets a number that is unique to the name, from 0 on, if
// the name is in names, and −1 if it isn't.
func (s *scanner) object(names []string, member func(at int, name string) *broker.Problem) *broker.Problem {
	if s.peek() != '{' {
		return s.wrongType("an object")
	}
	s.i++
	if s.peek() == '}' {
		s.i++
		return nil
	}
	depth := len(s.path)
	var seen uint64
	others := []string(nil)
	for {
		if s.peek() != '"' {
			return s.syntax()
		}
		name, p := s.text(maxName)
		if p != nil {
			return p
		}
		if s.peek() != ':' {
			return s.syntax()
		}
		s.i++
		s.push(name)
		at := -1
		for i := range names {
			if names[i] == name {
				at = i
			}
		}
		again := false
		if at >= 0 {
			again = seen&(1<<at) != 0
			seen |= 1 << at
		} else {
			for _, o := range others {
				again = again || o == name
			}
			if others = append(others, name); len(others) > maxItems {
				return s.problem("request.invalid", "A member of the request has too many members.", "Send at most "+strconv.Itoa(maxItems)+".")
			}
		}
		if again {
			return s.problem("request.parameter.duplicate", "A member of the request stands there twice.", "Send it once.")
		}
		if p := member(at, name); p != nil {
			return p
		}
		s.path = s.path[:depth]
		switch s.peek() {
		case ',':
			s.i++
		case '}':
			s.i++
			return nil
		default:
			return s.syntax()
		}
	}
}

// array reads an array of at most maxItems and calls item for each of its values.
func (s *scanner) array(item func() *broker.Problem) *broker.Problem { return s.list(maxItems, item) }

// list reads an array of at most so many values and calls item for each.
func (s *scanner) list(limit int, item func() *broker.Problem) *broker.Problem {
	if s.peek() != '[' {
		return s.wrongType("an array")
	}
	s.i++
	if s.peek() == ']' {
		s.i++
		return nil
	}
	depth := len(s.path)
	for n := 0; ; n++ {
		s.push(strconv.Itoa(n))
		if n == limit {
			return s.problem("request.invalid", "An array of the request has too many items.", "Send at most "+strconv.Itoa(limit)+".")
		}
		if p := item(); p != nil {
			return p
		}
		s.path = s.path[:depth]
		switch s.peek() {
		case ',':
			s.i++
		case ']':
			s.i++
			return nil
		default:
			return s.syntax()
		}
	}
}

// string reads a string value.
func (s *scanner) string() (string, *broker.Problem) {
	if s.peek() != '"' {
		return "", s.wrongType("a string")
	}
	return s.text(maxText)
}

// text reads a string that begins here.
func (s *scanner) text(limit int) (string, *broker.Problem) {
	s.i++
	start := s.i
	for s.i < len(s.b) { // most strings have no escapes and are ASCII
		c := s.b[s.i]
		if c == '"' {
			t := s.b[start:s.i]
			s.i++
			if len(t) > limit {
				return "", s.tooLong(limit)
			}
			return string(t), nil
		}
		if c == '\\' || c < 0x20 || c >= 0x7f {
			break
		}
		s.i++
	}
	return s.slowText(start, limit)
}

func (s *scanner) slowText(start, limit int) (string, *broker.Problem) {
	var t strings.Builder
	t.Write(s.b[start:s.i])
	for s.i < len(s.b) {
		var r rune
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			if t.Len() > limit {
				return "", s.tooLong(limit)
			}
			return t.String(), nil
		case c == '\\':
			var ok bool
			if r, ok = s.escape(); !ok {
				return "", s.syntax()
			}
		case c < 0x20: // never as itself (RFC 8259, section 7)
			return "", s.control()
		default:
			var n int
			r, n = utf8.DecodeRune(s.b[s.i:])
			if r == utf8.RuneError && n <= 1 {
				return "", s.syntax()
			}
			s.i += n
		}
		if (r < 0x20 || r >= 0x7f && r < 0xa0) && !(s.breaks && (r == '\n' || r == '\r' || r == '\t')) { // Unicode category Cc
			return "", s.control()
		}
		t.WriteRune(r)
	}
	return "", s.syntax()
}

func (s *scanner) control() *broker.Problem {
	if s.breaks {
		return s.problem("request.invalid", "A text of the request holds a control character.", "Send text without control characters but line breaks and tabs.")
	}
	return s.problem("request.invalid", "A text of the request holds a control character.", "Send text without line breaks, tabs and other control characters.")
}

func (s *scanner) tooLong(limit int) *broker.Problem {
	return s.problem("request.invalid", "A text of the request is too long.", "Send at most "+strconv.Itoa(limit)+" bytes.")
}

// escape reads an escape sequence. Half of a surrogate pair stands for no character and is refused.
func (s *scanner) escape() (rune, bool) {
	if s.i+1 >= len(s.b) {
		return 0, false
	}
	c := s.b[s.i+1]
	s.i += 2
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
		r, ok := s.hex()
		if !ok || !utf16.IsSurrogate(r) {
			return r, ok
		}
		if s.i+1 >= len(s.b) || s.b[s.i] != '\\' || s.b[s.i+1] != 'u' {
			return 0, false
		}
		s.i += 2
		low, ok := s.hex()
		r = utf16.DecodeRune(r, low)
		return r, ok && r != utf8.RuneError
	}
	return 0, false
}

func (s *scanner) hex() (rune, bool) {
	if s.i+4 > len(s.b) {
		return 0, false
	}
	var r rune
	for _, c := range s.b[s.i : s.i+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	s.i += 4
	return r, true
}

// number reads a number without an exponent and returns it as it was written: it becomes text, and 1e2 and 100 would be two texts.
func (s *scanner) number() (string, *broker.Problem) {
	s.space()
	start := s.i
	if s.i < len(s.b) && s.b[s.i] == '-' {
		s.i++
	}
	first := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	if n := s.i - first; n == 0 || n > 1 && s.b[first] == '0' {
		return "", s.syntax()
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		first = s.i
		for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
			s.i++
		}
		if s.i == first {
			return "", s.syntax()
		}
	}
	if s.i < len(s.b) && (s.b[s.i] == 'e' || s.b[s.i] == 'E') || s.i-start > 32 {
		return "", s.wrongType("a number of at most 32 digits without an exponent")
	}
	return string(s.b[start:s.i]), nil
}

// end refuses anything but white space after the value.
func (s *scanner) end() *broker.Problem {
	if s.peek() != 0 || s.i < len(s.b) {
		return s.syntax()
	}
	return nil
}

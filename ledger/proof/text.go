package proof

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// lines walks over text line by line and knows where it is, so that an error
// can say "receipt line 12".
type lines struct {
	what string // "receipt", "entry"
	rest []byte
	n    int // number of the line returned last, from 1
}

// errorf wraps ErrFormat with the place.
func (l *lines) errorf(format string, args ...any) error {
	return formatError("%s line %d: %s", l.what, l.n, fmt.Sprintf(format, args...))
}

// wrap adds the place to an error that already wraps a sentinel.
func (l *lines) wrap(err error) error {
	return fmt.Errorf("%s line %d: %w", l.what, l.n, err)
}

// next returns the next line without its LF.
func (l *lines) next() ([]byte, error) {
	l.n++
	i := bytes.IndexByte(l.rest, '\n')
	if i < 0 {
		if len(l.rest) == 0 {
			return nil, l.errorf("missing")
		}
		return nil, l.errorf("does not end with a line feed")
	}
	line := l.rest[:i]
	l.rest = l.rest[i+1:]
	return line, nil
}

// take returns the bytes of the next n lines, line ends included.
func (l *lines) take(n int) ([]byte, error) {
	start := l.rest
	for range n {
		if _, err := l.next(); err != nil {
			return nil, err
		}
	}
	return start[:len(start)-len(l.rest)], nil
}

// value returns what follows "key " on the next line.
func (l *lines) value(key string) ([]byte, error) {
	line, err := l.next()
	if err != nil {
		return nil, err
	}
	if len(line) <= len(key) || string(line[:len(key)]) != key || line[len(key)] != ' ' {
		return nil, l.errorf("want key %q", key)
	}
	return line[len(key)+1:], nil
}

func (l *lines) uint(key string) (uint64, error) {
	v, err := l.value(key)
	if err != nil {
		return 0, err
	}
	n, ok := parseUint(v)
	if !ok {
		return 0, l.errorf("%s is not a canonical integer", key)
	}
	return n, nil
}

func (l *lines) hash(key string) (h Hash, err error) {
	v, err := l.value(key)
	if err != nil {
		return h, err
	}
	if err := decodeB64(h[:], v); err != nil {
		return h, l.wrap(err)
	}
	if h.IsZero() {
		return h, l.errorf("%s is zero", key)
	}
	return h, nil
}

func (l *lines) token(key string) (string, error) {
	v, err := l.value(key)
	if err != nil {
		return "", err
	}
	if !IsToken(string(v)) {
		return "", l.errorf("%s is not a token", key)
	}
	return string(v), nil
}

// words splits the next line, which must begin with key, into exactly n
// further words separated by one space.
func (l *lines) words(key string, n int) ([][]byte, error) {
	v, err := l.value(key)
	if err != nil {
		return nil, err
	}
	w := bytes.Split(v, []byte{' '})
	if len(w) != n {
		return nil, l.errorf("%s has %d words, want %d", key, len(w), n)
	}
	return w, nil
}

// path reads a line "key h" and h lines of base64 hashes.
func (l *lines) path(key string) ([]Hash, error) {
	n, err := l.uint(key)
	if err != nil {
		return nil, err
	}
	if n > maxPath {
		return nil, l.errorf("%s of %d hashes, at most %d", key, n, maxPath)
	}
	p := make([]Hash, n)
	for i := range p {
		line, err := l.next()
		if err != nil {
			return nil, err
		}
		if err := decodeB64(p[i][:], line); err != nil {
			return nil, l.wrap(err)
		}
	}
	return p, nil
}

func (l *lines) end() error {
	if len(l.rest) != 0 {
		l.n++
		return l.errorf("unexpected, the text should have ended")
	}
	return nil
}

// parseUint parses a decimal integer without sign or leading zero, at most
// 2^63 − 1.
func parseUint(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 19 || b[0] == '0' && len(b) > 1 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0') // 19 digits fit in 64 bits
	}
	return n, n <= maxInt
}

// IsToken reports whether s matches [a-z0-9][a-z0-9._-]{0,63}.
func IsToken(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// isVersioned reports whether s is token@version with a version of at least 1.
func isVersioned(s string) bool {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == '@' {
			n, ok := parseUint([]byte(s[i+1:]))
			return ok && n >= 1 && IsToken(s[:i])
		}
	}
	return false
}

// isText reports whether b is UTF-8 without control characters (Unicode
// category Cc: below 0x20, 0x7f to 0x9f). LF is allowed if lf is set.
func isText(b []byte, lf bool) bool {
	for i := 0; i < len(b); {
		c := b[i]
		if c < utf8.RuneSelf {
			if c < 0x20 && !(lf && c == '\n') || c == 0x7f {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 || r < 0xa0 {
			return false
		}
		i += n
	}
	return true
}

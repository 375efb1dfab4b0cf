package service

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// holdsURL reports whether a string holds what a browser or a mail program takes for an address with a host of its own: anywhere a scheme with "://" (or with two backslashes, where browsers take them for
// slashes), and at its beginning a scheme of the web alone, or "//". Like browsers it reads letters in either case, passes over tabs and line ends wherever they stand, and over spaces and what can't be seen
// at the beginning (https://url.spec.whatwg.org/#concept-basic-url-parser). It doesn't see www.host, mailto: and the like, and relative paths. raw is the inside of a JSON string that was checked.
func holdsURL(raw []byte, escaped bool) bool {
	if !escaped && (len(raw) == 0 || alphanumeric(raw[0]) && bytes.IndexByte(raw, ':') < 0) {
		return false // nearly all
	}
	var (
		tail  uint64 // the last 8 characters in lower case, 0 for one that isn't ASCII
		n     int    // characters so far
		state byte   // how much of an address the last characters are
	)
	const (
		none = iota
		scheme
		schemeSlash
		web
		webSlash
	)
	for i := 0; i < len(raw); {
		r, size := rune(raw[i]), 1
		if r == '\\' && escaped {
			r, size = unescapeOne(raw[i:])
		} else if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRune(raw[i:])
		}
		i += size
		if r == '\t' || r == '\n' || r == '\r' || n == 0 && (unicode.IsSpace(r) || !unicode.IsGraphic(r)) {
			continue
		}
		n++
		before := state
		state = none
		switch {
		case r == ':':
			if length := webScheme(tail); length > 0 {
				if n == length+1 {
					return true
				}
				state = web
			} else if c := byte(tail); alphanumeric(c) || c == '+' || c == '-' || c == '.' {
				state = scheme
			}
		case r == '/' || r == '\\':
			switch last := byte(tail); {
			case n == 2 && (last == '/' || last == '\\'), before == webSlash, before == schemeSlash && r == '/':
				return true
			case before == web:
				state = webSlash
			case before == scheme && r == '/':
				state = schemeSlash
			}
		}
		switch {
		case r >= utf8.RuneSelf:
			r = 0
		case 'A' <= r && r <= 'Z':
			r |= 0x20
		}
		tail = tail<<8 | uint64(r) // #nosec G115 -- ASCII
	}
	return false
}

// webScheme returns the length of the scheme of the web that the last characters of a text are, 0 if they are none.
func webScheme(tail uint64) int {
	const http, https, ftp, ftps = 'h'<<24 | 't'<<16 | 't'<<8 | 'p', 'h'<<32 | 't'<<24 | 't'<<16 | 'p'<<8 | 's', 'f'<<16 | 't'<<8 | 'p', 'f'<<24 | 't'<<16 | 'p'<<8 | 's'
	switch {
	case tail&(1<<40-1) == https:
		return 5
	case tail&(1<<32-1) == http, tail&(1<<32-1) == ftps:
		return 4
	case tail&(1<<24-1) == ftp:
		return 3
	}
	return 0
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

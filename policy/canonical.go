package policy

import (
	"slices"
	"strconv"
	"strings"
)

// Limits of an input and of an agreement, in items. They bound the work of one decision.
const (
	maxScopes   = 64
	maxPointers = 1024 // over all scopes of an input
	maxItems    = 256  // purposes, legal bases and so on
	maxTime     = 253402300799999
)

// Canonical JSON (docs/formats.md, section 9) is written by hand: keys stand in increasing byte order in the code below, and one decision
// must not cost a trip through reflection.

// appendString appends a JSON string. The value was checked: it is UTF-8 without control characters.
func appendString[S ~string](b []byte, s S) []byte {
	b = append(b, '"')
	if strings.IndexByte(string(s), '"') < 0 && strings.IndexByte(string(s), '\\') < 0 {
		return append(append(b, s...), '"')
	}
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

func appendStrings[S ~string](b []byte, list []S) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

func appendBool(b []byte, v bool) []byte { return strconv.AppendBool(b, v) }

// set returns list in increasing byte order without duplicates. It returns list itself when that is what it is already.
func set[S ~string](list []S) []S {
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			list = slices.Clone(list)
			slices.Sort(list)
			return slices.Compact(list)
		}
	}
	return list
}

// tokens checks a list that was made a set.
func tokens[S ~string](what string, list []S, limit int) error {
	if len(list) > limit {
		return inputError("%s: %d items, at most %d", what, len(list), limit)
	}
	for i, s := range list {
		if !isToken(string(s)) {
			return inputError("%s: item %d is not a token", what, i)
		}
	}
	return nil
}

func token[S ~string](what string, s S) error {
	if !isToken(string(s)) {
		return inputError("%s is not a token", what)
	}
	return nil
}

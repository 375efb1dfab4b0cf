package verdict

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/regard-broker/regard/ledger/proof"
)

// MaxNames bounds a file of names, in bytes.
const MaxNames = 16 << 20

const namesHeader = "regard/names@v1"

// Kinds of names, with how many tokens each is about.
var namedKinds = map[string]int{
	"agency": 1, "auditor": 1, "law.en": 1, "law.fr": 1, "law.url": 1, "provider": 1, "purpose.en": 1, "purpose.fr": 1, "service.en": 1, "service.fr": 1,
	"scope.en": 2, "scope.fr": 2, // a service and its scope
	"field": 2, // of a scope: a JSON pointer
}

// Names say what tokens of records are called on pages (docs/verifier.md has the form of the file). They are the word of whoever made them: the log has the tokens. The zero value has no names.
type Names struct {
	by     map[string]string   // by the kind and tokens of a line
	fields map[string][]string // in increasing order
}

// ParseNames reads a file of names. What it accepts AppendText writes again, byte by byte.
func ParseNames(text []byte) (*Names, error) {
	if len(text) > MaxNames {
		return nil, fmt.Errorf("names: more than %d bytes", MaxNames)
	}
	header, rest, ok := bytes.Cut(text, []byte("\n"))
	if !ok || string(header) != namesHeader {
		return nil, errors.New("names: not a file of names (" + namesHeader + ")")
	}
	n := &Names{}
	for last := ""; len(rest) > 0; {
		b, after, ok := bytes.Cut(rest, []byte("\n"))
		line := string(b)
		if !ok || line <= last {
			return nil, errors.New("names: lines that aren't in strictly increasing order, each with its end")
		}
		key, name, err := splitName(line)
		if err != nil {
			return nil, err
		}
		if _, twice := n.by[key]; twice {
			return nil, fmt.Errorf("names: two of %s", key)
		}
		n.set(key, name)
		rest, last = after, line
	}
	return n, nil
}

// splitName takes a line apart: what is named, and its name.
func splitName(line string) (key, name string, err error) {
	kind, name, _ := strings.Cut(line, " ")
	tokens, known := namedKinds[kind]
	if !known {
		return "", "", fmt.Errorf("names: there are none of %q", kind)
	}
	key = kind
	for range tokens {
		var token string
		token, name, _ = strings.Cut(name, " ")
		if !proof.IsToken(token) {
			return "", "", fmt.Errorf("names: %q is no token", token)
		}
		key += " " + token
	}
	if strings.TrimSpace(name) == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }) {
		return "", "", fmt.Errorf("names: that of %s is no line of text", key)
	}
	return key, name, nil
}

func (n *Names) set(key, name string) {
	if n.by == nil {
		n.by, n.fields = map[string]string{}, map[string][]string{}
	}
	if strings.HasPrefix(key, "field ") {
		n.fields[key] = append(n.fields[key], name)
		return
	}
	n.by[key] = name
}

// Set names tokens of a kind. AppendText refuses what isn't a name.
func (n *Names) Set(name, kind string, tokens ...string) {
	n.set(kind+" "+strings.Join(tokens, " "), name)
}

// AppendText writes the file.
func (n *Names) AppendText(b []byte) ([]byte, error) {
	var lines []string
	for key, name := range n.by {
		lines = append(lines, key+" "+name+"\n")
	}
	for key, fields := range n.fields {
		for _, f := range fields {
			lines = append(lines, key+" "+f+"\n")
		}
	}
	slices.Sort(lines)
	text := []byte(namesHeader + "\n" + strings.Join(lines, ""))
	read, err := ParseNames(text)
	if err != nil {
		return nil, err
	}
	if !maps.Equal(read.by, n.by) || !maps.EqualFunc(read.fields, n.fields, func(a, b []string) bool { return len(a) == len(b) }) {
		return nil, errors.New("names: of what are no tokens")
	}
	return append(b, text...), nil
}

// or is the name of tokens, or the last of them.
func (n *Names) or(kind string, tokens ...string) string {
	if name, ok := n.by[kind+" "+strings.Join(tokens, " ")]; ok {
		return name
	}
	return tokens[len(tokens)-1]
}

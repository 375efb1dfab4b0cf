package service

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Outcome is what a provider's answer means, before it is filtered.
type Outcome string

// The outcomes.
const (
	OutcomeAnswer Outcome = "answer" // there is data: Filter it
	OutcomeEmpty  Outcome = "empty"  // the provider knows nobody
	OutcomeFailed Outcome = "failed" // the provider could not answer
)

// A Verdict is what an answer's status and error body mean. Code is a token, the other texts are the provider's own words, cut to 300 characters, without control
// characters. They are part of what the provider said: they may only be released when the disclosure is recorded.
type Verdict struct {
	Outcome  Outcome
	Status   int
	Code     string
	Title    string
	Detail   string
	Provider string
	// Cause is the token path for the record: provider/504, provider/504/37002, empty for an answer.
	Cause string
}

// maxErrorBody bounds how much of an error is read, in bytes.
const maxErrorBody = 64 << 10

// Judge says what an answer means. "Knows nobody" needs the status and one of the codes that the definition lists.
func (d *Definition) Judge(status int, body []byte) Verdict {
	v := Verdict{Outcome: OutcomeFailed, Status: status, Cause: "provider/" + strconv.Itoa(status)}
	if status != 200 || slices.ContainsFunc(d.Errors.Empty, func(e EmptyRule) bool { return e.Status == 200 }) {
		d.readError(&v, body)
	}
	if v.Code != "" {
		v.Cause += "/" + strings.ToLower(v.Code)
		for _, e := range d.Errors.Empty {
			if e.Status == status && slices.Contains(e.Codes, v.Code) {
				v.Outcome = OutcomeEmpty
				return v
			}
		}
	}
	if status == 200 {
		return Verdict{Outcome: OutcomeAnswer, Status: status}
	}
	return v
}

func (d *Definition) readError(v *Verdict, body []byte) {
	if len(body) > maxErrorBody || !utf8.Valid(body) {
		return
	}
	s := scanner{b: body}
	if s.skip(1) != nil || s.space() != 0 || s.i != len(body) { // also bounds the depth
		return
	}
	var tree any
	if json.Unmarshal(body, &tree) != nil {
		return
	}
	if code := lookup(tree, d.Errors.Code); codeForm.MatchString(code) {
		v.Code = code
	}
	v.Title, v.Detail, v.Provider = phrase(lookup(tree, d.Errors.Title)), phrase(lookup(tree, d.Errors.Detail)), phrase(lookup(tree, d.Errors.Provider))
}

// lookup returns the string or integer at a pointer without *, or nothing.
func lookup(tree any, p Pointer) string {
	if p == "" {
		return ""
	}
	for t := range strings.SplitSeq(string(p)[1:], "/") {
		switch at := tree.(type) {
		case map[string]any:
			tree = at[t]
		case []any:
			i, err := strconv.Atoi(t)
			if err != nil || i < 0 || i >= len(at) {
				return ""
			}
			tree = at[i]
		default:
			return ""
		}
	}
	switch x := tree.(type) {
	case string:
		return x
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	return ""
}

// phrase makes a provider's words fit for one line.
func phrase(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) > 300 {
		s = string([]rune(s)[:299]) + "…"
	}
	return s
}

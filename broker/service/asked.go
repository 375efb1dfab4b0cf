package service

import (
	"fmt"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/regard-broker/regard/ledger/proof"
)

// Asked is who a question is about: in the caller's spelling, which the provider gets, and in canonical form, under which it is filed. It is personal data and redacts itself,
// also when it is buried where fmt can't call its methods.
type Asked struct{ *asked }

type asked struct {
	typ     SubjectType
	value   string
	pivot   proof.Pivot
	subject proof.Subject
}

// maxValue bounds one value of a question, in bytes.
const maxValue = 255

// NewAsked checks who is asked about. For a pivot, value is empty and given names are separated by spaces. Errors are RequestErrors.
func NewAsked(typ SubjectType, value string, pivot proof.Pivot) (Asked, error) {
	a := asked{typ: typ}
	var err error
	switch proof.SubjectType(typ) {
	case proof.TypePivot:
		return askedPivot(value, pivot)
	case proof.TypeNIR:
		a.subject, err = proof.NIR(value)
	case proof.TypeINE:
		a.subject, err = proof.INE(value)
	case proof.TypeFranceTravail:
		a.subject, err = proof.FranceTravail(value)
	case proof.TypeSIREN:
		a.subject, err = proof.SIREN(value)
	case proof.SubjectType(TypeSIRET):
		value = strings.ReplaceAll(value, " ", "")
		if err = proof.SIRET(value); err == nil {
			a.value = value
			a.subject, err = proof.SIREN(value[:9])
		}
	default:
		return Asked{}, refuse("/subject/type", "unknown type of subject")
	}
	if err != nil {
		return Asked{}, refuse("/subject/value", "%s", reason(err))
	}
	if pivot != (proof.Pivot{}) {
		return Asked{}, refuse("/subject", "an identity beside an identifier: name the subject one way")
	}
	if a.value == "" {
		a.value = a.subject.Value()
	}
	return Asked{&a}, nil
}

func askedPivot(value string, p proof.Pivot) (Asked, error) {
	if value != "" {
		return Asked{}, refuse("/subject/value", "not for an identity")
	}
	for _, f := range [...]struct{ name, text string }{
		{"birth_name", p.BirthName}, {"given_names", p.GivenNames}, {"birth_date", p.BirthDate},
		{"sex", p.Sex}, {"birth_place", p.BirthPlace}, {"birth_country", p.BirthCountry},
	} {
		if why := badText(f.text, maxValue); why != "" {
			return Asked{}, refuse("/subject/"+f.name, "%s", why)
		}
	}
	p.BirthName = strings.TrimSpace(p.BirthName)
	p.GivenNames = strings.Join(strings.Fields(p.GivenNames), " ")
	s, err := p.Subject()
	if err != nil {
		return Asked{}, refuse("/subject", "%s", reason(err))
	}
	return Asked{&asked{typ: SubjectType(proof.TypePivot), pivot: p, subject: s}}, nil
}

// reason is the text of a proof error, which never repeats a value, without the sentinel's.
func reason(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+proof.ErrSubject.Error())
}

// badText says why s can't be sent, or nothing.
func badText(s string, max int) string {
	switch {
	case len(s) > 4*max || utf8.RuneCountInString(s) > max:
		return fmt.Sprintf("longer than %d characters", max)
	case !utf8.ValidString(s):
		return "not UTF-8"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "holds a control character"
	}
	return ""
}

// Type is how the question names the subject; empty for the zero Asked.
func (a Asked) Type() SubjectType {
	if a.asked == nil {
		return ""
	}
	return a.typ
}

// Subject is the canonical subject under which the question is filed; zero for the zero Asked.
func (a Asked) Subject() proof.Subject {
	if a.asked == nil {
		return proof.Subject{}
	}
	return a.subject
}

// String shows the type alone.
func (a Asked) String() string { return "asked:" + string(a.Type()) + ":[redacted]" }

// Format implements fmt.Formatter: every verb shows the type alone.
func (a Asked) Format(f fmt.State, _ rune) { fmt.Fprint(f, a.String()) }

// LogValue implements slog.LogValuer: it shows the type alone.
func (a Asked) LogValue() slog.Value { return slog.StringValue(a.String()) }

// MarshalJSON refuses.
func (a Asked) MarshalJSON() ([]byte, error) {
	return nil, fmt.Errorf("a subject is not serialised by accident: %w", ErrRequest)
}

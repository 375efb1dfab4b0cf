package proof

import (
	"fmt"
	"strings"
)

// SubjectType names the identifier under which a person or business is filed.
type SubjectType string

// The types of subjects.
const (
	TypePivot         SubjectType = "pivot"
	TypePerson        SubjectType = "person"
	TypeNIR           SubjectType = "nir"
	TypeINE           SubjectType = "ine"
	TypeFranceTravail SubjectType = "france_travail"
	TypeSIREN         SubjectType = "siren"
)

// Subject is a person or business under one identifier, in canonical form: two
// requests about the same one under the same identifier have equal Subjects. It
// can only be made by this package, so it is always canonical or zero.
//
// It is personal data and redacts itself: fmt shows its type alone (also when
// it is buried in an unexported field), log/slog too, and encoding/json
// refuses it. Type and Value are the way in, on purpose.
type Subject struct {
	_     [0]func() // == would compare pointers: it is refused, see Equal
	typ   SubjectType
	value *string // fmt can't look through a pointer; nil in the zero Subject
}

// maxName bounds a folded name and, by that, a canonical form, in bytes.
const maxName = 256

// ParseSubject accepts a canonical form (docs/formats.md, section 5) and
// nothing else. To canonicalise, use Pivot.Subject, Person.Subject, NIR, INE,
// FranceTravail or SIREN.
func ParseSubject(typ, canonical string) (Subject, error) {
	if err := checkSubject(SubjectType(typ), canonical); err != nil {
		return Subject{}, err
	}
	return newSubject(SubjectType(typ), canonical), nil
}

func checkSubject(typ SubjectType, canonical string) error {
	var ok bool
	switch typ {
	case TypePivot:
		p, good := splitPivot(canonical)
		ok = good && p.canonical() == nil
	case TypePerson:
		p, good := splitPerson(canonical)
		ok = good && p.canonical() == nil
	case TypeNIR:
		ok = checkNIR(canonical) == nil
	case TypeINE:
		ok = isINE(canonical)
	case TypeFranceTravail:
		ok = isFranceTravail(canonical)
	case TypeSIREN:
		ok = isSIREN(canonical)
	default:
		return fmt.Errorf("unknown subject type: %w", ErrSubject)
	}
	if !ok {
		return fmt.Errorf("%s: not in canonical form: %w", typ, ErrSubject)
	}
	return nil
}

func newSubject(t SubjectType, canonical string) Subject {
	return Subject{typ: t, value: &canonical}
}

// Equal reports whether s and o are the same one under the same identifier, or
// both zero.
func (s Subject) Equal(o Subject) bool { return s.typ == o.typ && s.Value() == o.Value() }

// Type returns the type; empty for the zero Subject.
func (s Subject) Type() SubjectType { return s.typ }

// Value returns the canonical form. It is personal data.
func (s Subject) Value() string {
	if s.typ == "" {
		return ""
	}
	return *s.value
}

// IsZero reports whether s is unset.
func (s Subject) IsZero() bool { return s.typ == "" }

// redacted is what every printer shows.
func (s Subject) redacted() string {
	if s.typ == "" {
		return "none"
	}
	return string(s.typ) + ":[redacted]"
}

// String shows the type alone.
func (s Subject) String() string { return s.redacted() }

// Format implements fmt.Formatter: every verb shows the type alone.
func (s Subject) Format(f fmt.State, _ rune) { f.Write([]byte(s.redacted())) }

var errRedacted = fmt.Errorf("a subject is not serialised by accident; use Type and Value: %w", ErrSubject)

// MarshalJSON refuses.
func (s Subject) MarshalJSON() ([]byte, error) { return nil, errRedacted }

// UnmarshalJSON refuses.
func (s *Subject) UnmarshalJSON([]byte) error { return errRedacted }

// MarshalText refuses, so a Subject is no map key in JSON either.
func (s Subject) MarshalText() ([]byte, error) { return nil, errRedacted }

// Pivot returns the identity behind a subject of type pivot.
func (s Subject) Pivot() (Pivot, bool) {
	if s.typ != TypePivot {
		return Pivot{}, false
	}
	return splitPivot(s.Value())
}

func splitPivot(s string) (Pivot, bool) {
	f := strings.Split(s, "|")
	if len(f) != 6 {
		return Pivot{}, false
	}
	return Pivot{f[0], f[1], f[2], f[3], f[4], f[5]}, true
}

func splitPerson(s string) (Person, bool) {
	f := strings.Split(s, "|")
	if len(f) != 4 {
		return Person{}, false
	}
	return Person{f[0], f[1], f[2], f[3]}, true
}

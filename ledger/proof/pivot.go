package proof

import (
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Pivot is a FranceConnect pivot identity, as asked or folded. Empty fields are
// not known. It is personal data and prints as such.
type Pivot struct {
	BirthName    string
	GivenNames   string // in civil order
	BirthDate    string // YYYY-MM-DD, YYYY-MM or YYYY
	Sex          string // M or F
	BirthPlace   string // INSEE code of the commune; empty when born abroad
	BirthCountry string // INSEE code of the country; France is 99100
}

// France is the INSEE code of the country France.
const France = "99100"

// Person is what answers state about somebody: a pivot without birth places.
type Person struct {
	BirthName  string
	GivenNames string
	BirthDate  string
	Sex        string
}

// Stated holds the fields an answer states about a person; an empty field is
// not stated. Names may be in any spelling, given names in civil order.
type Stated struct {
	BirthName    string
	GivenNames   string
	BirthDate    string
	Sex          string
	BirthPlace   string
	BirthCountry string
}

func (Pivot) String() string                { return "pivot:[redacted]" }
func (p Pivot) Format(f fmt.State, _ rune)  { f.Write([]byte(p.String())) }
func (Pivot) MarshalJSON() ([]byte, error)  { return nil, errRedacted }
func (Person) String() string               { return "person:[redacted]" }
func (p Person) Format(f fmt.State, _ rune) { f.Write([]byte(p.String())) }
func (Person) MarshalJSON() ([]byte, error) { return nil, errRedacted }
func (Stated) String() string               { return "stated:[redacted]" }
func (s Stated) Format(f fmt.State, _ rune) { f.Write([]byte(s.String())) }
func (Stated) MarshalJSON() ([]byte, error) { return nil, errRedacted }

// FoldName returns the canonical form of a name: Unicode NFD, marks removed,
// Œ, Æ and ß written out, a–z in upper case, each run of anything else one
// space, trimmed. A name without a Latin letter folds to the empty string.
func FoldName(name string) string {
	out := make([]byte, 0, len(name)+2)
	gap := false
	put := func(s string) {
		if gap && len(out) > 0 {
			out = append(out, ' ')
		}
		gap = false
		out = append(out, s...)
	}
	var c [1]byte
	fold := func(r rune) {
		switch {
		case r >= 'a' && r <= 'z':
			r -= 'a' - 'A'
			fallthrough
		case r >= 'A' && r <= 'Z':
			c[0] = byte(r)
			put(string(c[:]))
		case r == 'Œ' || r == 'œ':
			put("OE")
		case r == 'Æ' || r == 'æ':
			put("AE")
		case r == 'ß' || r == 'ẞ':
			put("SS")
		case r >= 0x80 && unicode.Is(unicode.M, r):
		default:
			gap = true
		}
	}
	if !isASCII(name) {
		name = norm.NFD.String(name)
	}
	for _, r := range name {
		fold(r)
	}
	return string(out)
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// foldField folds a name that is stated; it refuses one that has no letter
// left, because all such people would share one subject.
func foldField(what, name string) (string, error) {
	f := FoldName(name)
	if f == "" && name != "" {
		return "", fmt.Errorf("%s has no letter from A to Z, even without accents: give the Latin spelling of the civil status: %w", what, ErrSubject)
	}
	if len(f) > maxName {
		return "", fmt.Errorf("%s is longer than %d letters: %w", what, maxName, ErrSubject)
	}
	return f, nil
}

func (p Person) fold() (Person, error) {
	var err error
	if p.BirthName, err = foldField("birth name", p.BirthName); err != nil {
		return p, err
	}
	p.GivenNames, err = foldField("given names", p.GivenNames)
	return p, err
}

// Subject returns the canonical subject of type person. It needs a birth name.
func (p Person) Subject() (Subject, error) {
	p, err := p.fold()
	if err != nil {
		return Subject{}, err
	}
	if err := p.canonical(); err != nil {
		return Subject{}, err
	}
	return newSubject(TypePerson, p.join()), nil
}

// canonical checks a folded person.
func (p Person) canonical() error {
	switch {
	case p.BirthName == "":
		return fmt.Errorf("birth name is missing: %w", ErrSubject)
	case !isFolded(p.BirthName) || p.GivenNames != "" && !isFolded(p.GivenNames):
		return fmt.Errorf("names are not folded: %w", ErrSubject)
	case p.BirthDate != "" && !isDate(p.BirthDate):
		return fmt.Errorf("birth date is not YYYY-MM-DD, YYYY-MM or YYYY, or no such day: %w", ErrSubject)
	case p.Sex != "" && p.Sex != "M" && p.Sex != "F":
		return fmt.Errorf("sex is not M or F: %w", ErrSubject)
	}
	return nil
}

func (p Person) join() string {
	return strings.Join([]string{p.BirthName, p.GivenNames, p.BirthDate, p.Sex}, "|")
}

// Person returns the same identity without birth places.
func (p Pivot) Person() Person { return Person{p.BirthName, p.GivenNames, p.BirthDate, p.Sex} }

// fold folds the names and writes down the country that a French commune
// implies.
func (p Pivot) fold() (Pivot, error) {
	q, err := p.Person().fold()
	if err != nil {
		return p, err
	}
	p.BirthName, p.GivenNames = q.BirthName, q.GivenNames
	if p.BirthPlace != "" && p.BirthCountry == "" {
		p.BirthCountry = France
	}
	return p, nil
}

// Subject returns the canonical subject of type pivot. It needs a birth name;
// anything else may be unknown.
func (p Pivot) Subject() (Subject, error) {
	p, err := p.fold()
	if err != nil {
		return Subject{}, err
	}
	if err := p.canonical(); err != nil {
		return Subject{}, err
	}
	return newSubject(TypePivot, p.Person().join()+"|"+p.BirthPlace+"|"+p.BirthCountry), nil
}

func (p Pivot) canonical() error {
	if err := p.Person().canonical(); err != nil {
		return err
	}
	switch {
	case p.BirthCountry != "" && !isCountry(p.BirthCountry):
		return fmt.Errorf("birth country is not an INSEE code 99…: %w", ErrSubject)
	case p.BirthPlace != "" && !isCommune(p.BirthPlace):
		return fmt.Errorf("birth place is not the INSEE code of a commune: %w", ErrSubject)
	case p.BirthPlace != "" && p.BirthCountry != France:
		return fmt.Errorf("a birth place is a French commune, so the country is %s; leave it empty for someone born abroad: %w", France, ErrSubject)
	}
	return nil
}

// Complete reports whether nothing is missing but the place of someone born
// abroad, the date is whole and everything is valid. Only a complete pivot
// identifies one person.
func (p Pivot) Complete() bool {
	q, err := p.fold()
	if err != nil || q.canonical() != nil {
		return false
	}
	return q.GivenNames != "" && len(q.BirthDate) == 10 && q.Sex != "" && q.BirthCountry != "" &&
		(q.BirthPlace != "" || q.BirthCountry != France)
}

// Agrees reports whether the pivot agrees with every field that the answer
// states: names folded, given names equal as a whole, sex, date and birth
// places equal. A stated name that cannot be folded agrees with nothing.
func (p Pivot) Agrees(stated Stated) bool {
	p, err := p.fold()
	if err != nil {
		return false
	}
	name := func(asked, said string) bool {
		return said == "" || FoldName(said) != "" && FoldName(said) == asked
	}
	same := func(asked, said string) bool { return said == "" || said == asked }
	return name(p.BirthName, stated.BirthName) && name(p.GivenNames, stated.GivenNames) &&
		same(p.BirthDate, stated.BirthDate) && same(p.Sex, stated.Sex) &&
		same(p.BirthPlace, stated.BirthPlace) && same(p.BirthCountry, stated.BirthCountry)
}

// Identifies reports whether somebody of whom an answer states this is filed
// under the pivot that was asked: it is complete and agrees with every field
// that the answer states, the birth name among them.
func (p Pivot) Identifies(said Stated) bool {
	return p.Complete() && FoldName(said.BirthName) != "" && p.Agrees(said)
}

// isFolded reports whether s is a non-empty fixed point of FoldName.
func isFolded(s string) bool {
	if s == "" || len(s) > maxName || s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z':
		case c == ' ' && s[i-1] != ' ':
		default:
			return false
		}
	}
	return true
}

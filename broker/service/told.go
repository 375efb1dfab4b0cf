package service

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// Told is whom a question names, as its provider reads it: a Plan's Request read backwards. It is personal data; its parts redact themselves.
type Told struct {
	// Subject is under whom the question is filed; zero for a pivot, of which the provider may be told a part only.
	Subject proof.Subject
	// Said are the parts of a pivot that the question states.
	Said proof.Stated
}

// Names reports whether a question that is filed under the subject could be the one that the provider was told.
func (t Told) Names(s proof.Subject) bool {
	if !t.Subject.IsZero() {
		return s.Equal(t.Subject)
	}
	p, ok := s.Pivot()
	if !ok {
		return false
	}
	said := t.Said
	if n := len(said.BirthDate); n > 0 && n < len(p.BirthDate) && p.BirthDate[n] == '-' && p.BirthDate[:n] == said.BirthDate {
		said.BirthDate = "" // the service asks by year, or by year and month
	}
	return p.Agrees(said)
}

// Told reads a question's query. Its errors are RequestErrors: the question isn't one of the broker's under this definition. A parameter that the definition doesn't have, or that comes twice, is an
// error: whoever answers could read another person in it.
func (d *Definition) Told(q url.Values) (Told, error) {
	var found []Told
	var by Mapping
	for t, m := range d.Subjects {
		if t == SubjectType(proof.TypePivot) {
			if said := m.said(q); said != (proof.Stated{}) {
				found, by = append(found, Told{Said: said}), m
			}
			continue
		}
		if v := q.Get(m.Value); v != "" {
			if a, err := NewAsked(t, v, proof.Pivot{}); err == nil {
				found, by = append(found, Told{Subject: a.Subject()}), m
			}
		}
	}
	if len(found) != 1 {
		return Told{}, fmt.Errorf("reading whom a question names: %w", refuse("/subject", "names nobody, or several"))
	}
	for name, values := range q {
		if !d.sends(&by, name) || len(values) > 1 && name != by.EachGivenName {
			return Told{}, fmt.Errorf("reading whom a question names: %w", refuse("/parameters", "one that isn't the service's for this subject, or one twice"))
		}
	}
	return found[0], nil
}

// sends reports whether a question about a subject of this mapping may have a parameter.
func (d *Definition) sends(m *Mapping, name string) bool {
	switch name {
	case "":
		return false
	case m.Value, m.BirthName, m.GivenNames, m.EachGivenName, m.BirthDate, m.BirthYear, m.BirthMonth, m.BirthDay, m.Sex, m.BirthPlace, m.BirthCountry:
		return true
	}
	return d.Select != nil && name == d.Select.Parameter || slices.ContainsFunc(d.Parameters, func(p Parameter) bool { return p.Name == name })
}

// said reads the parts of a pivot.
func (m *Mapping) said(q url.Values) proof.Stated {
	get := func(name string) string {
		if name == "" {
			return ""
		}
		return q.Get(name)
	}
	s := proof.Stated{
		BirthName: get(m.BirthName), GivenNames: get(m.GivenNames), BirthDate: get(m.BirthDate), Sex: get(m.Sex),
		BirthPlace: get(m.BirthPlace), BirthCountry: get(m.BirthCountry),
	}
	if m.EachGivenName != "" && s.GivenNames == "" {
		s.GivenNames = strings.Join(q[m.EachGivenName], " ")
	}
	if s.BirthDate == "" {
		s.BirthDate = get(m.BirthYear)
		for _, part := range [...]string{get(m.BirthMonth), get(m.BirthDay)} {
			if s.BirthDate == "" || part == "" {
				break
			}
			if len(part) == 1 {
				part = "0" + part
			}
			s.BirthDate += "-" + part
		}
	}
	return s
}

package service

import (
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// A Filing says under whom an entry of the disclosure is filed, and which fields concern them. Its subject redacts itself.
type Filing struct {
	Subject  proof.Subject
	Role     string // proof.RoleAsked or proof.RoleAnswer
	Obtained []Pointer
	Released []Pointer
}

// File returns the entries of a disclosure, each subject once; none for the zero Asked. The first is that of the asked identifier, with all fields; the others are the people that the
// answer identifies, in its order, each with the fields that concern them (docs/formats.md, section 5).
//
// Somebody whose stated birth date is no date is filed with as much of it as is one (2021-06-31: 2021-06), somebody whose sex or given names are not usable without them.
// Somebody without a usable birth name cannot be filed alone: the asked identifier's entry, which holds all fields, stands for them.
func (f *Filtered) File(who Asked) []Filing {
	if who.asked == nil {
		return nil
	}
	s := f.plan.def.schema
	all := s.list(&f.obtained)
	out := make([]Filing, 1, 1+len(f.people))
	out[0] = Filing{Subject: who.subject, Role: proof.RoleAsked, Obtained: all, Released: s.list(&f.released)}
	var complete *proof.Pivot // the asked identity, folded, if it is complete
	if p, ok := who.subject.Pivot(); ok && p.Complete() {
		complete = &p
	}
	held := make([]set, 1, cap(out)) // by each entry after the first
	for i := range f.people {
		p := &f.people[i]
		subject, ok := p.subject(&s.rules[p.rule], who, complete)
		if !ok || subject.Equal(who.subject) {
			continue
		}
		at := 1
		for at < len(out) && !out[at].Subject.Equal(subject) {
			at++
		}
		if at == len(out) {
			out, held = append(out, Filing{Subject: subject, Role: proof.RoleAnswer}), append(held, set{})
		}
		common := s.rules[p.rule].concerns.and(&f.obtained)
		held[at].join(&p.held)
		held[at].join(&common)
	}
	for i := 1; i < len(out); i++ {
		passed := held[i].and(&f.released)
		out[i].Obtained, out[i].Released = s.list(&held[i]), s.list(&passed)
	}
	return out
}

// People is the number of people whose place the answer filled, named or not.
func (f *Filtered) People() int { return len(f.people) }

// A StatedPerson is somebody whom an answer identifies. It is personal data; its parts redact themselves.
type StatedPerson struct {
	Said proof.Stated
	// MayBeAsked: it can be whom the question was about; then it is filed under that identity if that Identifies what is said, and else under Person.
	MayBeAsked bool
	Person     proof.Subject
}

// Stated returns those whom the answer identifies and who can be filed, in its order: what a provider knows of the filing, who is told a part only of the asked identity.
func (f *Filtered) Stated() []StatedPerson {
	s := f.plan.def.schema
	var out []StatedPerson
	for i := range f.people {
		r := &s.rules[f.people[i].rule]
		said := f.people[i].stated(r)
		if person, ok := personOf(said); ok {
			out = append(out, StatedPerson{said, r.MayBeAsked, person})
		}
	}
	return out
}

// stated is what an answer says of one person.
func (p *instance) stated(r *rule) proof.Stated {
	said := proof.Stated{
		BirthName: p.said[fieldBirthName], GivenNames: p.givenNames(), BirthDate: dateOf(p.said[fieldBirthDate]), Sex: p.said[fieldSex],
		BirthPlace: p.said[fieldBirthPlace], BirthCountry: p.said[fieldBirthCountry],
	}
	if said.Sex != "" && len(r.SexValues) > 0 {
		if s, ok := r.SexValues[said.Sex]; ok {
			said.Sex = s
		} else {
			said.Sex = "?" // a word that the definition doesn't know agrees with nothing
		}
	}
	return said
}

// subject decides under whom one person is filed; false if there is no name to file under.
func (p *instance) subject(r *rule, who Asked, complete *proof.Pivot) (proof.Subject, bool) {
	said := p.stated(r)
	name := proof.FoldName(said.BirthName)
	if name == "" {
		return proof.Subject{}, false
	}
	if complete != nil && r.MayBeAsked && name == complete.BirthName && complete.Agrees(said) {
		return who.subject, true
	}
	return personOf(said)
}

// personOf is the subject of somebody who is not the asked one; false if there is no name to file under.
func personOf(said proof.Stated) (proof.Subject, bool) {
	if proof.FoldName(said.BirthName) == "" {
		return proof.Subject{}, false
	}
	person := proof.Person{BirthName: said.BirthName, GivenNames: said.GivenNames, BirthDate: said.BirthDate, Sex: said.Sex}
	if s, err := person.Subject(); err == nil {
		return s, true
	}
	// Something stated has no canonical form. What has one is kept.
	fits := func(p proof.Person) bool {
		p.BirthName = "A"
		_, err := p.Subject()
		return err == nil
	}
	if !fits(proof.Person{GivenNames: person.GivenNames}) {
		person.GivenNames = ""
	}
	if !fits(proof.Person{BirthDate: person.BirthDate}) {
		if person.BirthDate = knownDate(person.BirthDate); !fits(proof.Person{BirthDate: person.BirthDate}) {
			person.BirthDate = ""
		}
	}
	if !fits(proof.Person{Sex: person.Sex}) {
		person.Sex = ""
	}
	s, err := person.Subject()
	return s, err == nil
}

func (p *instance) givenNames() string {
	var b strings.Builder
	for _, g := range p.given {
		if len(g) > 0 {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.Write(g)
		}
	}
	return b.String()
}

// dateOf cuts the time of day off a timestamp.
func dateOf(s string) string {
	if len(s) > 10 && (s[10] == 'T' || s[10] == ' ') {
		return s[:10]
	}
	return s
}

// knownDate returns as much of a date as is one: the day, the month or the year.
func knownDate(s string) string {
	for _, form := range [...]string{time.DateOnly, "2006-01", "2006"} {
		if len(s) < len(form) || len(s) > len(form) && s[len(form)] != '-' {
			continue
		}
		if _, err := time.Parse(form, s[:len(form)]); err == nil {
			return s[:len(form)]
		}
	}
	return ""
}

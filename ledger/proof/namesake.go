package proof

import "slices"

// namesake lists, by schema, what is shown of a record that is filed without a
// place of birth: whoever has the same names, sex and date of birth has the
// same subject, so it may be about somebody else. It tells who asked, when and
// which service, and nothing of what is known about them. An erasure is shown
// as a whole, for it accounts for what can't be read any more.
var namesake = map[Schema][]Field{
	SchemaDisclosure: {FieldSubjectType, FieldSubject, DisclosureAgency, DisclosureService, DisclosureAskedAt},
	SchemaAccess:     {FieldSubjectType, FieldSubject, AccessReader, AccessRole, AccessTarget, AccessAt},
}

// ForSubject returns the opening as somebody may see it in whose history it is,
// under a subject of type t: the fields for ReaderPerson, and under TypePerson
// only those that may be shown to a namesake (docs/formats.md, section 4).
func (o Opening) ForSubject(t SubjectType) Opening {
	return o.only(func(f Field) bool { return ForSubject(o.info.schema, f, t) })
}

// ForSubject reports whether the person sees a field of their records under a
// subject of type t.
func ForSubject(s Schema, f Field, t SubjectType) bool {
	if !ReaderPerson.Sees(s, f) {
		return false
	}
	few, limited := namesake[s]
	return t != TypePerson || !limited || slices.Contains(few, f)
}

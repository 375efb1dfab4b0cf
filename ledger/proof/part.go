package proof

import "encoding/binary"

// PartSubject returns the subject that a person part, unsealed, is about: to file its entry without the rest of the record.
func PartSubject(person []byte) (Subject, error) {
	if len(person) < 2 {
		return Subject{}, formatError("person part: too short")
	}
	info := Schema(binary.BigEndian.Uint16(person)).info()
	if info == nil {
		return Subject{}, formatError("person part: unknown schema")
	}
	r := &Record{info: info}
	if err := r.readPart("person part", partPerson, person); err != nil {
		return Subject{}, err
	}
	typ, _ := r.Value(FieldSubjectType)
	value, _ := r.Value(FieldSubject)
	return ParseSubject(string(typ), string(value))
}

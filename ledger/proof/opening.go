package proof

import (
	"bytes"
	"fmt"
	"slices"
)

// Opening shows some fields of a record with their salts and the digests of
// the rest, so that anybody can compute the commitment. It is personal data if
// the subject is open. The zero Opening is refused everywhere.
type Opening struct {
	info   *schemaInfo
	fields []openField
}

type openField struct {
	presence Presence
	hash     Hash // salt; the digest if hidden
	value    []byte
}

// maxOpening bounds the text of an opening, in bytes.
const maxOpening = 1 << 20

// IsZero reports whether o is unset.
func (o Opening) IsZero() bool { return o.info == nil }

// Schema returns the schema of the record; 0 for the zero Opening.
func (o Opening) Schema() Schema {
	if o.info == nil {
		return 0
	}
	return o.info.schema
}

// Value returns a field's value, which must not be modified, and how the field
// stands.
func (o Opening) Value(f Field) ([]byte, Presence) {
	if int(f) >= len(o.fields) {
		return nil, Hidden
	}
	return o.fields[f].value, o.fields[f].presence
}

// Text returns a field's value as a string; empty if it isn't present.
func (o Opening) Text(f Field) string {
	v, _ := o.Value(f)
	return string(v)
}

// List returns the items of a list field; nil if it isn't present.
func (o Opening) List(f Field) []string {
	v, p := o.Value(f)
	if p != Present {
		return nil
	}
	items := []string{}
	for rest, more := v, len(v) > 0; more; {
		var item []byte
		item, rest, more = bytes.Cut(rest, []byte{'\n'})
		items = append(items, string(item))
	}
	return items
}

// TimeOf returns the value of a time field; false if it isn't present.
func (o Opening) TimeOf(f Field) (Time, bool) {
	v, p := o.Value(f)
	n, ok := parseUint(v)
	return Time(n), ok && p == Present
}

// Subject returns the subject; ErrHidden if it is not open.
func (o Opening) Subject() (Subject, error) {
	typ, tp := o.Value(FieldSubjectType)
	sub, sp := o.Value(FieldSubject)
	if tp != Present || sp != Present {
		return Subject{}, fmt.Errorf("opening: subject: %w", ErrHidden)
	}
	return ParseSubject(string(typ), string(sub))
}

// Commitment returns the commitment that the opening opens; zero for the zero
// Opening. Compare it with the entry's.
func (o Opening) Commitment() Commitment {
	if o.info == nil {
		return Commitment{}
	}
	var digests [maxFields]Hash
	var d digester
	d.init(o.info.schema)
	for i := range o.fields {
		f := &o.fields[i]
		if f.presence == Hidden {
			digests[i] = f.hash
		} else {
			digests[i] = d.digest(i, &f.hash, f.presence == Present, f.value)
		}
	}
	return commit(o.info.schema, digests[:len(o.fields)])
}

// Narrow returns the opening as another reader may see it: fields that are not
// for that reader are hidden again. It can't show what o hides.
func (o Opening) Narrow(reader Reader) Opening {
	return o.only(func(f Field) bool { return reader.Sees(o.info.schema, f) })
}

// Only returns the opening with all fields hidden again but these.
func (o Opening) Only(fields ...Field) Opening {
	return o.only(func(f Field) bool { return slices.Contains(fields, f) })
}

func (o Opening) only(keep func(Field) bool) Opening {
	if o.info == nil {
		return Opening{}
	}
	n := Opening{info: o.info, fields: make([]openField, len(o.fields))}
	var d digester
	d.init(o.info.schema)
	for i := range o.fields {
		f := &o.fields[i]
		switch {
		case f.presence == Hidden, keep(Field(i)):
			n.fields[i] = *f
		default:
			n.fields[i].hash = d.digest(i, &f.hash, f.presence == Present, f.value)
		}
	}
	return n
}

// textSize returns how many bytes AppendText appends, or a few more.
func (o Opening) textSize() int {
	n := len("opening 65535 65535\n")
	for i := range o.fields {
		n += len("65535 hidden \n") + b64.EncodedLen(32) + len(" -") + b64.EncodedLen(len(o.fields[i].value))
	}
	return n
}

// AppendText appends the canonical text.
func (o Opening) AppendText(b []byte) ([]byte, error) {
	if o.info == nil {
		return b, formatError("opening: none")
	}
	b = slices.Grow(b, o.textSize())
	b = append(b, "opening "...)
	b = appendUint(b, uint64(o.info.schema))
	b = append(b, ' ')
	b = appendUint(b, uint64(len(o.fields)))
	b = append(b, '\n')
	for i := range o.fields {
		f := &o.fields[i]
		b = appendUint(b, uint64(i))
		switch f.presence {
		case Hidden:
			b = append(b, " hidden "...)
		case Absent:
			b = append(b, " none "...)
		case Present:
			b = append(b, " open "...)
		}
		b = appendHash(b, (*[32]byte)(&f.hash))
		if f.presence == Present {
			b = append(b, ' ')
			if len(f.value) == 0 {
				b = append(b, '-')
			} else {
				b = b64.AppendEncode(b, f.value)
			}
		}
		b = append(b, '\n')
	}
	return b, nil
}

// ParseOpening parses the canonical text of an opening.
func ParseOpening(text []byte) (Opening, error) {
	if len(text) > maxOpening {
		return Opening{}, formatError("opening: more than %d bytes", maxOpening)
	}
	l := lines{what: "opening", rest: text}
	o, err := parseOpening(&l)
	if err == nil {
		err = l.end()
	}
	if err != nil {
		return Opening{}, err
	}
	return o, nil
}

func parseOpening(l *lines) (Opening, error) {
	w, err := l.words("opening", 2)
	if err != nil {
		return Opening{}, err
	}
	s, ok1 := parseUint(w[0])
	n, ok2 := parseUint(w[1])
	if !ok1 || !ok2 || s > 0xffff || Schema(s).info() == nil {
		return Opening{}, l.errorf("unknown schema")
	}
	o := Opening{info: Schema(s).info()}
	if n != uint64(len(o.info.fields)) {
		return Opening{}, l.errorf("schema %d has %d fields", s, len(o.info.fields))
	}
	o.fields = make([]openField, n)
	for i := range o.fields {
		if err := o.parseField(l, i); err != nil {
			return Opening{}, err
		}
	}
	if err := o.info.checkFields(o.Value); err != nil {
		return Opening{}, l.wrap(err)
	}
	return o, nil
}

func (o Opening) parseField(l *lines, i int) error {
	var num [4]byte
	v, err := l.value(string(appendUint(num[:0], uint64(i))))
	if err != nil {
		return err
	}
	how, rest, _ := bytes.Cut(v, []byte{' '})
	f := &o.fields[i]
	hash, value, hasValue := bytes.Cut(rest, []byte{' '})
	switch string(how) {
	case "hidden":
		f.presence = Hidden
	case "none":
		f.presence = Absent
	case "open":
		f.presence = Present
	default:
		return l.errorf("want open, none or hidden")
	}
	if err := decodeB64(f.hash[:], hash); err != nil {
		return l.wrap(err)
	}
	if hasValue != (f.presence == Present) {
		return l.errorf("a value stands on open lines and no other")
	}
	if f.presence != Present {
		return nil
	}
	if string(value) == "-" {
		f.value = []byte{}
	} else {
		if f.value, err = decodeB64Any(value, maxValue); err != nil {
			return l.wrap(err)
		}
		if len(f.value) == 0 {
			return l.errorf("an empty value is written -")
		}
	}
	if err := o.info.fields[i].check(f.value); err != nil {
		return l.wrap(err)
	}
	return nil
}

// Format implements fmt.Formatter: no verb shows a value.
func (o Opening) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "opening:[schema %d]", o.Schema())
}

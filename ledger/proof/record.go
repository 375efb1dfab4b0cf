package proof

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// Presence says how a field stands in a record or opening.
type Presence uint8

// Hidden is the zero value: nothing is known about the field.
const (
	Hidden  Presence = iota // not for this reader, or erased
	Absent                  // the record has no such value, and that is proven
	Present                 // the value is there, and proven
)

// Record is the private description behind a filed entry. It keeps what it is
// given and the seeds of its salts, so it is as secret as its fields. It is not
// safe for concurrent use.
type Record struct {
	info    *schemaInfo
	seeds   [2][32]byte // person part, administrative part
	erased  bool        // the person part is gone: only its digests are left
	present [maxFields]bool
	at      [maxFields]span
	buf     []byte
	salts   [maxFields]Hash
	salted  [2]bool // the part has its salts
	digests [maxFields]Hash
	fresh   [maxFields]bool // the digest is that of the value
	checked bool            // Check passed since the last change
}

type span struct{ from, to int }

// NewRecord returns a record of the schema without values. It takes 64 bytes
// from rand, which must be a cryptographic source: commitments hide what the
// record holds only as long as these bytes are secret.
func NewRecord(s Schema, rand io.Reader) (*Record, error) {
	info := s.info()
	if info == nil {
		return nil, formatError("record: unknown schema %d", s)
	}
	r := &Record{info: info}
	if err := r.seed(rand); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Record) seed(rand io.Reader) error {
	for i := range r.seeds {
		if _, err := io.ReadFull(rand, r.seeds[i][:]); err != nil {
			return fmt.Errorf("reading randomness for a record: %w", err)
		}
	}
	if r.seeds[0] == r.seeds[1] {
		return formatError("record: the source of randomness repeats itself")
	}
	return nil
}

// Clear makes the record the zero Record, which is refused everywhere, and
// overwrites what it held. Openings of it share that memory: they must not be
// used any more.
func (r *Record) Clear() {
	clear(r.buf)
	*r = Record{buf: r.buf[:0]}
}

// Reset makes a record that was cleared a new one, as NewRecord does.
func (r *Record) Reset(s Schema, rand io.Reader) error {
	if r.info != nil {
		return formatError("record: in use")
	}
	info := s.info()
	if info == nil {
		return formatError("record: unknown schema %d", s)
	}
	if err := r.seed(rand); err != nil {
		r.Clear()
		return err
	}
	r.info = info
	return nil
}

// Schema returns the record's schema.
func (r *Record) Schema() Schema {
	if r.info == nil {
		return 0
	}
	return r.info.schema
}

// Set gives a field its value and copies it. It refuses fields that the schema
// doesn't have, values that are not of the field's form or exceed 64 KiB, and
// fields of an erased person part.
func (r *Record) Set(f Field, value []byte) error { return r.take(f, append(r.room(), value...)) }

// room returns the buffer to which the next value is appended: never over an
// earlier one, since openings share it.
func (r *Record) room() []byte {
	if r.buf == nil {
		r.buf = make([]byte, 0, 6<<10) // what most records need
	}
	return r.buf
}

// take sets a field to what was appended to room.
func (r *Record) take(f Field, buf []byte) error {
	if r.info == nil || int(f) >= len(r.info.fields) {
		return formatError("record: schema %d has no field %d", r.Schema(), f)
	}
	from := len(r.buf)
	if err := r.info.fields[f].check(buf[from:]); err != nil {
		return err
	}
	if r.erased && int(f) < r.info.person {
		return fmt.Errorf("field %s: the person part is gone: %w", r.info.fields[f].Name, ErrHidden)
	}
	r.buf = buf
	r.at[f], r.present[f], r.fresh[f], r.checked = span{from, len(buf)}, true, false, false
	return nil
}

// SetText sets a field to text.
func (r *Record) SetText(f Field, s string) error { return r.take(f, append(r.room(), s...)) }

// SetTime sets a field to a time.
func (r *Record) SetTime(f Field, t Time) error {
	if t < 0 {
		return formatError("field %s: time before 1970", r.Schema().Name(f))
	}
	return r.take(f, strconv.AppendInt(r.room(), int64(t), 10))
}

// SetIndex sets a field to a log index.
func (r *Record) SetIndex(f Field, i Index) error {
	return r.take(f, appendUint(r.room(), uint64(i)))
}

// SetList sets a field to a list: it sorts the items and drops repeated ones.
// Items must not be empty.
func (r *Record) SetList(f Field, items []string) error {
	if !slices.IsSorted(items) {
		items = slices.Sorted(slices.Values(items))
	}
	if len(items) > 0 && items[0] == "" {
		return formatError("field %s: an item is empty", r.Schema().Name(f))
	}
	b := r.room()
	for i, item := range items {
		switch {
		case i == 0:
		case item == items[i-1]:
			continue
		default:
			b = append(b, '\n')
		}
		b = append(b, item...)
	}
	return r.take(f, b)
}

// SetSubject sets the two fields of the subject.
func (r *Record) SetSubject(s Subject) error {
	if s.IsZero() {
		return fmt.Errorf("record: no subject: %w", ErrSubject)
	}
	if err := r.SetText(FieldSubjectType, string(s.Type())); err != nil {
		return err
	}
	return r.SetText(FieldSubject, s.Value())
}

// Value returns a field's value, which must not be modified. All fields of an
// erased person part are Hidden.
func (r *Record) Value(f Field) ([]byte, Presence) {
	switch {
	case r.info == nil, int(f) >= len(r.info.fields), r.erased && int(f) < r.info.person:
		return nil, Hidden
	case !r.present[f]:
		return nil, Absent
	}
	s := r.at[f]
	return r.buf[s.from:s.to:s.to], Present
}

// Erased reports whether the person part is gone.
func (r *Record) Erased() bool { return r.erased }

// Check refuses a record whose fields contradict each other: a subject that is
// not canonical for its type, or an entry with role answer that holds what is
// for the asked one alone. Commitment sees to it; call it to learn why.
func (r *Record) Check() error {
	if r.info == nil {
		return formatError("record: none")
	}
	if r.checked {
		return nil
	}
	err := r.info.checkFields(r.Value)
	r.checked = err == nil
	return err
}

// Commitment returns the commitment to all fields, present or not. That of a
// record which Check refuses is zero, which no entry accepts: what readers would
// refuse can't get into the log.
func (r *Record) Commitment() Commitment {
	if r.Check() != nil {
		return Commitment{}
	}
	r.refresh(0, len(r.info.fields))
	return commit(r.info.schema, r.digests[:len(r.info.fields)])
}

// refresh computes the digests of the fields from ≤ i < to that have changed.
func (r *Record) refresh(from, to int) {
	var d digester
	d.init(r.info.schema)
	for i := from; i < to; i++ {
		if r.fresh[i] || r.erased && i < r.info.person {
			continue
		}
		s := r.at[i]
		r.digests[i] = d.digest(i, r.salt(i), r.present[i], r.buf[s.from:s.to])
		r.fresh[i] = true
	}
}

// salt returns the salt of a field. It is not for an erased person part.
func (r *Record) salt(i int) *Hash {
	part, from, to := partAdmin, r.info.person, len(r.info.fields)
	if i < r.info.person {
		part, from, to = partPerson, 0, r.info.person
	}
	if !r.salted[part-1] {
		b := r.salter(part)
		for j := from; j < to; j++ {
			r.salts[j] = b.salt(j)
		}
		r.salted[part-1] = true
	}
	return &r.salts[i]
}

const (
	saltTag   = "regard/salt/v1\x00"
	fieldTag  = "regard/field/v1\x00"
	fieldHead = len(fieldTag) + 2 + 2 + 32 + 1
)

// salter derives the salts of one part. Its input is one SHA-256 block, and
// only the field's number changes between calls.
type salter [len(saltTag) + 2 + 2 + 32]byte

func (r *Record) salter(part int) salter {
	var b salter
	n := copy(b[:], saltTag)
	binary.BigEndian.PutUint16(b[n:], uint16(r.info.schema))
	copy(b[n+4:], r.seeds[part-1][:])
	return b
}

func (b *salter) salt(i int) Hash {
	binary.BigEndian.PutUint16(b[len(saltTag)+2:], uint16(i))
	return sha256.Sum256(b[:])
}

// digester computes field digests; it is a buffer that lives on the stack, so
// that short values cost no allocation and no clearing each.
type digester struct {
	buf [fieldHead + 512]byte
}

func (d *digester) init(s Schema) {
	n := copy(d.buf[:], fieldTag)
	binary.BigEndian.PutUint16(d.buf[n:], uint16(s))
}

func (d *digester) digest(i int, salt *Hash, present bool, value []byte) Hash {
	binary.BigEndian.PutUint16(d.buf[len(fieldTag)+2:], uint16(i))
	copy(d.buf[len(fieldTag)+4:], salt[:])
	if !present {
		d.buf[fieldHead-1] = 0
		return sha256.Sum256(d.buf[:fieldHead])
	}
	d.buf[fieldHead-1] = 1
	if len(value) <= len(d.buf)-fieldHead {
		return sha256.Sum256(d.buf[:fieldHead+copy(d.buf[fieldHead:], value)])
	}
	h := sha256.New()
	h.Write(d.buf[:fieldHead])
	h.Write(value)
	var out Hash
	h.Sum(out[:0])
	return out
}

func commit(s Schema, digests []Hash) Commitment {
	const tag = "regard/commitment/v1\x00"
	var buf [len(tag) + 2 + 2 + 32*maxFields]byte
	n := copy(buf[:], tag)
	binary.BigEndian.PutUint16(buf[n:], uint16(s))
	binary.BigEndian.PutUint16(buf[n+2:], uint16(len(digests)))
	n += 4
	for i := range digests {
		n += copy(buf[n:], digests[i][:])
	}
	return sha256.Sum256(buf[:n])
}

// The second field of a stored part.
const (
	partPerson = 1
	partAdmin  = 2
)

// AppendPersonPart appends the person part, which is to be sealed under the
// subject's key; nothing if it is gone.
func (r *Record) AppendPersonPart(b []byte) []byte {
	if r.erased || r.info == nil {
		return b
	}
	return r.appendPart(b, partPerson, 0, r.info.person)
}

// AppendAdminPart appends the administrative part, which is to be sealed. It
// holds the digests of the person part, so the commitment can be checked
// without it.
func (r *Record) AppendAdminPart(b []byte) []byte {
	if r.info == nil {
		return b
	}
	r.refresh(0, r.info.person)
	return r.appendPart(b, partAdmin, r.info.person, len(r.info.fields))
}

func (r *Record) appendPart(b []byte, which byte, from, to int) []byte {
	n := 2 + 1 + 32 + 32*r.info.person + 5*(to-from)
	for i := from; i < to; i++ {
		n += r.at[i].to - r.at[i].from
	}
	b = u16(slices.Grow(b, n), uint16(r.info.schema))
	b = append(b, which)
	b = append(b, r.seeds[which-1][:]...)
	if which == partAdmin {
		for i := range r.info.person {
			b = append(b, r.digests[i][:]...)
		}
	}
	for i := from; i < to; i++ {
		s := r.at[i]
		if !r.present[i] {
			b = append(b, 0)
			b = u32(b, 0)
			continue
		}
		b = append(b, 1)
		b = u32(b, uint32(s.to-s.from))
		b = append(b, r.buf[s.from:s.to]...)
	}
	return b
}

// OpenParts joins the parts of a record, unsealed. person is nil if it was
// erased: its fields are then Hidden, and everything else still opens. It
// refuses a person part that is not the one the administrative part belongs
// to, and fields that contradict each other. The slices are not kept.
func OpenParts(person, admin []byte) (*Record, error) {
	if len(admin) < 2 {
		return nil, formatError("administrative part: too short")
	}
	info := Schema(binary.BigEndian.Uint16(admin)).info()
	if info == nil {
		return nil, formatError("administrative part: unknown schema")
	}
	r := &Record{info: info, erased: person == nil}
	r.buf = make([]byte, 0, len(person)+len(admin))
	if err := r.readPart("administrative part", partAdmin, admin); err != nil {
		return nil, err
	}
	if r.erased {
		if err := r.Check(); err != nil {
			return nil, err
		}
		return r, nil
	}
	var want [maxFields]Hash
	copy(want[:info.person], r.digests[:info.person])
	if err := r.readPart("person part", partPerson, person); err != nil {
		return nil, err
	}
	r.refresh(0, info.person)
	for i := range info.person {
		if r.digests[i] != want[i] {
			return nil, unproven("person part: not the one this administrative part belongs to")
		}
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Record) readPart(name string, which byte, b []byte) error {
	head := 2 + 1 + 32
	from, to := 0, r.info.person
	if which == partAdmin {
		from, to = r.info.person, len(r.info.fields)
		head += 32 * r.info.person
	}
	if len(b) < head || Schema(binary.BigEndian.Uint16(b)) != r.info.schema || b[2] != which {
		return formatError("%s: wrong head", name)
	}
	copy(r.seeds[which-1][:], b[3:35])
	if which == partAdmin {
		for i := range r.info.person {
			copy(r.digests[i][:], b[35+32*i:])
		}
	}
	b = b[head:]
	for i := from; i < to; i++ {
		if len(b) < 5 {
			return formatError("%s: cut off", name)
		}
		n := binary.BigEndian.Uint32(b[1:5])
		present := b[0]
		b = b[5:]
		if present > 1 || present == 0 && n != 0 || n > maxValue || uint64(n) > uint64(len(b)) {
			return formatError("%s: field %s: wrong head", name, r.info.fields[i].Name)
		}
		if present == 1 {
			if err := r.info.fields[i].check(b[:n]); err != nil {
				return err
			}
			at := len(r.buf)
			r.buf = append(r.buf, b[:n]...)
			r.at[i], r.present[i] = span{at, len(r.buf)}, true
		}
		b = b[n:]
	}
	if len(b) != 0 {
		return formatError("%s: %d bytes too many", name, len(b))
	}
	return nil
}

// Open opens the fields that the reader may see. The opening holds salts and
// never a seed.
func (r *Record) Open(reader Reader) Opening {
	if r.info == nil {
		return Opening{}
	}
	o := Opening{info: r.info, fields: make([]openField, len(r.info.fields))}
	for i := range o.fields {
		v, p := r.Value(Field(i))
		if p == Hidden || !reader.Sees(r.info.schema, Field(i)) {
			r.refresh(i, i+1)
			o.fields[i] = openField{hash: r.digests[i]}
			continue
		}
		o.fields[i] = openField{presence: p, hash: *r.salt(i), value: v}
	}
	return o
}

// String shows the schema alone.
func (r *Record) String() string { return fmt.Sprintf("record:[schema %d]", r.info.schema) }

// Format implements fmt.Formatter: no verb shows a value or a seed.
func (r *Record) Format(f fmt.State, _ rune) {
	if r == nil || r.info == nil {
		f.Write([]byte("record:[none]"))
		return
	}
	f.Write([]byte(r.String()))
}

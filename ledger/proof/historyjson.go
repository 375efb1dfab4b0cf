package proof

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// ParseHistory parses a history file: canonical JSON (docs/formats.md, section
// 7) of at most MaxHistory bytes. It verifies nothing. What it returns may share
// memory with b.
func ParseHistory(b []byte) (*History, error) {
	if len(b) > MaxHistory {
		return nil, formatError("history: more than %d bytes", MaxHistory)
	}
	if len(b) == 0 {
		return nil, formatError("history: the file is empty")
	}
	root, err := parseJSON("history", b)
	if err != nil {
		return nil, err
	}
	// The version first: of another one nothing else is known.
	if v, ok := root.member("schema"); !ok || string(v.raw) != `"`+historySchema+`"` {
		return nil, fmt.Errorf("history: schema is not %s: %w", historySchema, ErrUnknown)
	}
	m, err := root.members("", "auditors", "audits", "checkpoint", "entries", "epochs", "markers", "nodes", "schema", "subjects", "values")
	if err != nil {
		return nil, err
	}
	h := new(History)
	p := historyParser{h: h}
	for _, part := range []struct {
		value jsonValue
		parse func(jsonValue) error
	}{{m[0], p.auditors}, {m[1], p.audits}, {m[2], p.checkpoint}, {m[8], p.subjects}, {m[5], p.markers}, {m[4], p.epochs}, {m[9], p.strings}, {m[3], p.entries}, {m[6], p.nodes}} {
		if err := part.parse(part.value); err != nil {
			return nil, err
		}
	}
	// One way to write it: the table of values follows from the rest.
	if !bytes.Equal(h.appendText(make([]byte, 0, len(b))), b) {
		return nil, m[9].errorf("not the values that two fields or more have, in the order of their first use")
	}
	return h, nil
}

// AppendText appends the canonical text of a history file, or returns b and an
// error if ParseHistory would refuse it.
func (h *History) AppendText(b []byte) ([]byte, error) {
	out := h.appendText(b)
	if _, err := ParseHistory(out[len(b):]); err != nil {
		return b, err
	}
	return out, nil
}

type historyParser struct {
	h      *History
	values [][]byte
	total  int // bytes of all values of all openings
}

func (p *historyParser) checkpoint(v jsonValue) error {
	note, err := v.text()
	if err == nil && (len(note) > maxNote || !isNote(note)) {
		err = v.errorf("not a signed note of at most %d bytes", maxNote)
	}
	p.h.Checkpoint = note
	return err
}

func (p *historyParser) subjects(v jsonValue) error {
	err := v.each(maxHistorySubjects, func(i int, v jsonValue) error {
		m, err := v.members("", "type", "value")
		if err != nil {
			return err
		}
		typ, err := m[0].text()
		if err != nil {
			return err
		}
		value, err := m[1].text()
		if err != nil {
			return err
		}
		s, err := ParseSubject(string(typ), string(value))
		if err != nil {
			return v.errorf("no canonical form of a subject")
		}
		if i > 0 && CompareSubjects(p.h.Subjects[i-1], s) >= 0 {
			return v.errorf("subjects are not in increasing order")
		}
		p.h.Subjects = append(p.h.Subjects, s)
		return nil
	})
	if err == nil && len(p.h.Subjects) == 0 {
		err = v.errorf("none: it speaks of nobody")
	}
	return err
}

// CompareSubjects orders subjects by type, then value.
func CompareSubjects(a, b Subject) int {
	if c := strings.Compare(string(a.Type()), string(b.Type())); c != 0 {
		return c
	}
	return strings.Compare(a.Value(), b.Value())
}

func (p *historyParser) markers(v jsonValue) error {
	err := v.each(maxHistoryItems, func(_ int, v jsonValue) error {
		text, err := v.text()
		if err != nil {
			return err
		}
		if _, err := asMarker(text); err != nil {
			return v.wrap(err)
		}
		p.h.Markers = append(p.h.Markers, text)
		return nil
	})
	if err == nil && len(p.h.Markers) < 2 {
		err = v.errorf("less than two: no closed epoch")
	}
	return err
}

func (p *historyParser) epochs(v jsonValue) error {
	err := v.each(maxHistoryItems, func(_ int, v jsonValue) error {
		e, err := p.epoch(v)
		p.h.Epochs = append(p.h.Epochs, e)
		return err
	})
	if err == nil && len(p.h.Epochs) != len(p.h.Markers)-1 {
		err = v.errorf("%d epochs between %d markers", len(p.h.Epochs), len(p.h.Markers))
	}
	return err
}

func (p *historyParser) epoch(v jsonValue) (e HistoryEpoch, err error) {
	if v.null() {
		return e, nil
	}
	m, err := v.members("", "buckets", "labels", "nodes", "rolls")
	if err != nil {
		return e, err
	}
	n := len(p.h.Subjects)
	if err := m[0].each(n, func(_ int, v jsonValue) error {
		b, err := v.pieces(itemSize)
		if err != nil {
			return err
		}
		if len(b)/itemSize > maxBucketItems {
			return v.errorf("more than %d items", maxBucketItems)
		}
		items := make([]Item, len(b)/itemSize)
		for i := range items {
			items[i] = Item{Label(b[itemSize*i : itemSize*i+32]), Hash(b[itemSize*i+32 : itemSize*(i+1)])}
		}
		e.Buckets = append(e.Buckets, items)
		return nil
	}); err != nil {
		return e, err
	}
	if err := m[1].each(n, func(_ int, v jsonValue) error {
		b, err := v.pieces(1)
		if err == nil && len(b) != labelProofSize {
			err = v.errorf("%d bytes, want a VRF proof of %d", len(b), labelProofSize)
		}
		e.Labels = append(e.Labels, b)
		return err
	}); err != nil {
		return e, err
	}
	if e.Nodes, err = m[2].hashes(); err != nil {
		return e, err
	}
	if err := m[3].each(n, func(_ int, v jsonValue) error {
		r, err := parseHistoryRoll(v)
		e.Rolls = append(e.Rolls, r)
		return err
	}); err != nil {
		return e, err
	}
	if len(e.Labels) != n || len(e.Rolls) != n || len(e.Buckets) == 0 {
		return e, v.errorf("want a label and a roll for each of %d subjects, and their buckets", n)
	}
	return e, nil
}

const openLeafSize = 8 + 32

func parseHistoryRoll(v jsonValue) (r HistoryRoll, err error) {
	if v.null() {
		return HistoryRoll{Lost: true}, nil
	}
	b, err := v.pieces(openLeafSize)
	if err != nil || len(b) == 0 {
		return r, err
	}
	if n := uint64(len(b) / openLeafSize); !isRollSize(n) {
		return r, v.errorf("%d leaves, want a power of two of at least %d", n, minRoll)
	}
	r.Leaves = make([]OpenLeaf, len(b)/openLeafSize)
	for i := range r.Leaves {
		leaf := b[openLeafSize*i:]
		r.Leaves[i] = OpenLeaf{Index(binary.BigEndian.Uint64(leaf)), [32]byte(leaf[8:openLeafSize])}
	}
	return r, nil
}

func (p *historyParser) strings(v jsonValue) error {
	return v.each(maxHistoryTable, func(_ int, v jsonValue) error {
		s, err := v.text()
		if err == nil && len(s) > maxValue {
			err = v.errorf("more than %d bytes", maxValue)
		}
		p.values = append(p.values, s)
		return err
	})
}

func (p *historyParser) entries(v jsonValue) error {
	return v.each(maxHistoryItems, func(i int, v jsonValue) error {
		m, err := v.members("opening", "index", "opening", "text")
		if err != nil {
			return err
		}
		var e HistoryEntry
		index, err := m[0].uint()
		if err != nil {
			return err
		}
		e.Index = Index(index)
		if i > 0 && p.h.Entries[i-1].Index >= e.Index {
			return m[0].errorf("entries are not in increasing order: entry %d stands there twice or after a later one", e.Index)
		}
		if m[1].raw != nil {
			if e.Opening, err = p.opening(m[1]); err != nil {
				return err
			}
		}
		if e.Text, err = m[2].text(); err != nil {
			return err
		}
		if _, _, err := ParseHead(e.Text); err != nil {
			return m[2].wrap(err)
		}
		p.h.Entries = append(p.h.Entries, e)
		return nil
	})
}

func (p *historyParser) opening(v jsonValue) (Opening, error) {
	m, err := v.members("", "fields", "salts", "schema")
	if err != nil {
		return Opening{}, err
	}
	schema, err := m[2].uint()
	if err != nil {
		return Opening{}, err
	}
	if schema > 0xffff || Schema(schema).info() == nil {
		return Opening{}, m[2].errorf("unknown schema")
	}
	o := Opening{info: Schema(schema).info()}
	salts, err := m[1].hashes()
	if err != nil {
		return Opening{}, err
	}
	if len(salts) != len(o.info.fields) {
		return Opening{}, m[1].errorf("schema %d has %d fields", schema, len(o.info.fields))
	}
	o.fields = make([]openField, len(salts))
	n := 0
	err = m[0].each(len(salts), func(i int, v jsonValue) error {
		n++
		o.fields[i].hash = salts[i]
		return p.field(&o.fields[i], &o.info.fields[i], v)
	})
	if err != nil {
		return Opening{}, err
	}
	if n != len(salts) {
		return Opening{}, m[0].errorf("schema %d has %d fields", schema, len(salts))
	}
	if err := o.info.checkFields(o.Value); err != nil {
		return Opening{}, m[0].wrap(err)
	}
	return o, nil
}

// field reads null (hidden), false (absent), or a value: a string, the number of
// one in the table, or that number and what follows.
func (p *historyParser) field(f *openField, info *FieldInfo, v jsonValue) error {
	var err error
	switch v.raw[0] {
	case 'n':
		f.presence = Hidden
		return nil
	case 'f':
		f.presence = Absent
		return nil
	case '[':
		f.value, err = p.split(v, info)
	case '"':
		f.value, err = v.text()
	default:
		if f.value, err = p.lookUp(v); err == nil && info.kind == isJSON {
			// Written again it would be much longer, every time.
			if _, rest := splitValue(info, f.value); rest != nil {
				err = v.errorf("want the number of the part up to the time, and what follows it")
			}
		}
	}
	if err != nil {
		return err
	}
	f.presence = Present
	if p.total += len(f.value); p.total > maxHistoryValues {
		return v.errorf("the values of all openings are more than %d bytes", maxHistoryValues)
	}
	if info.kind == isKey {
		if f.value, err = decodeB64Any(f.value, maxValue); err != nil {
			return v.wrap(err)
		}
	}
	if err := info.check(f.value); err != nil {
		return v.wrap(err)
	}
	return nil
}

func (p *historyParser) lookUp(v jsonValue) ([]byte, error) {
	n, err := v.uint()
	if err == nil && n >= uint64(len(p.values)) {
		err = v.errorf("no such value")
	}
	if err != nil {
		return nil, err
	}
	return p.values[n], nil
}

// split reads a value in the two parts of splitValue, and no others: what is
// looked up is held once, however often it is.
func (p *historyParser) split(v jsonValue, info *FieldInfo) (value []byte, err error) {
	n, head := 0, 0
	err = v.each(2, func(i int, v jsonValue) error {
		n++
		var part []byte
		if i == 0 {
			part, err = p.lookUp(v)
		} else {
			part, err = v.text()
		}
		if p.total+len(value)+len(part) > maxHistoryValues {
			return v.errorf("the values of all openings are more than %d bytes", maxHistoryValues)
		}
		if i == 0 {
			head = len(part)
		}
		value = append(value, part...)
		return err
	})
	if err == nil && n != 2 {
		err = v.errorf("want the number of a value and what follows it")
	}
	if err == nil {
		if first, rest := splitValue(info, value); rest == nil || len(first) != head {
			err = v.errorf("parted at another place than after the last %s", inputTime)
		}
	}
	return value, err
}

func (p *historyParser) nodes(v jsonValue) (err error) {
	p.h.Nodes, err = v.hashes()
	return err
}

func (p *historyParser) auditors(v jsonValue) error {
	seen := map[string]bool{}
	return v.each(maxHistorySubjects, func(_ int, v jsonValue) error {
		key, err := v.text()
		if err != nil {
			return err
		}
		if _, _, _, ok := splitKey(string(key)); !ok || seen[string(key)] {
			return v.errorf("not a verification key, or one that stands there twice")
		}
		seen[string(key)] = true
		p.h.Auditors = append(p.h.Auditors, string(key))
		return nil
	})
}

func (p *historyParser) audits(v jsonValue) error {
	return v.each(maxHistoryItems, func(i int, v jsonValue) error {
		m, err := v.members("", "auditor", "entries", "epoch", "signature")
		if err != nil {
			return err
		}
		auditor, err := m[0].uint()
		if err != nil {
			return err
		}
		if auditor >= maxHistorySubjects {
			return m[0].errorf("no such auditor")
		}
		a := HistoryAudit{Auditor: int(auditor)}
		if a.Entries, err = m[1].uint(); err != nil {
			return err
		}
		epoch, err := m[2].uint()
		if err != nil {
			return err
		}
		a.Epoch = Epoch(epoch)
		if a.Signature, err = m[3].pieces(1); err != nil {
			return err
		}
		if len(a.Signature) > maxValue {
			return m[3].errorf("too long")
		}
		if i > 0 {
			if last := p.h.Audits[i-1]; last.Epoch > a.Epoch || last.Epoch == a.Epoch && last.Auditor >= a.Auditor {
				return v.errorf("audits are not in increasing order of epoch and auditor")
			}
		}
		p.h.Audits = append(p.h.Audits, a)
		return nil
	})
}

func (h *History) appendText(b []byte) []byte {
	t := newValueTable(h.Entries)
	b = appendList(append(b, `{"auditors":`...), h.Auditors, func(b []byte, s *string) []byte { return appendJSONString(b, *s) })
	b = appendList(append(b, `,"audits":`...), h.Audits, func(b []byte, a *HistoryAudit) []byte {
		b = appendUint(append(b, `{"auditor":`...), uint64(a.Auditor)) // #nosec G115 -- a position
		b = appendUint(append(b, `,"entries":`...), a.Entries)
		b = appendUint(append(b, `,"epoch":`...), uint64(a.Epoch))
		b = appendB64(append(b, `,"signature":`...), a.Signature)
		return append(b, '}')
	})
	b = appendJSONString(append(b, `,"checkpoint":`...), h.Checkpoint)
	b = appendList(append(b, `,"entries":`...), h.Entries, func(b []byte, e *HistoryEntry) []byte {
		b = appendUint(append(b, `{"index":`...), uint64(e.Index))
		if !e.Opening.IsZero() {
			b = t.appendOpening(append(b, `,"opening":`...), e.Opening)
		}
		b = appendJSONString(append(b, `,"text":`...), e.Text)
		return append(b, '}')
	})
	b = appendList(append(b, `,"epochs":`...), h.Epochs, appendHistoryEpoch)
	b = appendList(append(b, `,"markers":`...), h.Markers, func(b []byte, m *[]byte) []byte { return appendJSONString(b, *m) })
	b = appendHashes(append(b, `,"nodes":`...), h.Nodes)
	b = append(b, `,"schema":"`+historySchema+`","subjects":`...)
	b = appendList(b, h.Subjects, func(b []byte, s *Subject) []byte {
		b = appendJSONString(append(b, `{"type":`...), string(s.Type()))
		b = appendJSONString(append(b, `,"value":`...), s.Value())
		return append(b, '}')
	})
	b = appendList(append(b, `,"values":`...), t.values, func(b []byte, s *string) []byte { return appendJSONString(b, *s) })
	return append(b, '}')
}

func appendHistoryEpoch(b []byte, e *HistoryEpoch) []byte {
	if e.Labels == nil {
		return append(b, "null"...)
	}
	b = appendList(append(b, `{"buckets":`...), e.Buckets, func(b []byte, items *[]Item) []byte {
		data := make([]byte, 0, itemSize*len(*items))
		for i := range *items {
			data = append(append(data, (*items)[i].Label[:]...), (*items)[i].Root[:]...)
		}
		return appendB64(b, data)
	})
	b = appendList(append(b, `,"labels":`...), e.Labels, func(b []byte, p *[]byte) []byte { return appendB64(b, *p) })
	b = appendHashes(append(b, `,"nodes":`...), e.Nodes)
	b = appendList(append(b, `,"rolls":`...), e.Rolls, func(b []byte, r *HistoryRoll) []byte {
		if r.Lost {
			return append(b, "null"...)
		}
		data := make([]byte, 0, openLeafSize*len(r.Leaves))
		for i := range r.Leaves {
			data = append(u64(data, uint64(r.Leaves[i].Index)), r.Leaves[i].Salt[:]...)
		}
		return appendB64(b, data)
	})
	return append(b, '}')
}

// valueTable holds what stands in two fields or more. Answers to a few agencies
// say much the same again and again.
type valueTable struct {
	values []string
	number map[string]int // -1: seen once
}

func newValueTable(entries []HistoryEntry) *valueTable {
	t := &valueTable{number: map[string]int{}}
	type use struct {
		head  string
		count int
	}
	seen := map[string]int{} // position in order
	var order []use
	for i := range entries {
		o := &entries[i].Opening
		for f := range o.fields {
			if o.fields[f].presence != Present {
				continue
			}
			head, _ := splitValue(&o.info.fields[f], o.fields[f].value)
			if at, ok := seen[string(head)]; ok {
				order[at].count++
			} else {
				seen[string(head)] = len(order)
				order = append(order, use{string(head), 1})
			}
		}
	}
	for _, u := range order {
		if u.count > 1 {
			t.number[u.head] = len(t.values)
			t.values = append(t.values, u.head)
		}
	}
	return t
}

// inputTime stands before what differs in every decision input.
var inputTime = []byte(`"time":`)

// splitValue returns the written form of a value in two parts, of which the
// first is looked up in the table. Only decision inputs have a second.
func splitValue(info *FieldInfo, value []byte) (head, rest []byte) {
	switch info.kind {
	case isKey:
		return b64.AppendEncode(nil, value), nil
	case isJSON:
		if i := bytes.LastIndex(value, inputTime); i >= 0 {
			i += len(inputTime)
			return value[:i:i], value[i:]
		}
	}
	return value, nil
}

func (t *valueTable) appendOpening(b []byte, o Opening) []byte {
	salts := make([]Hash, len(o.fields))
	b = append(b, `{"fields":[`...)
	for i := range o.fields {
		f := &o.fields[i]
		salts[i] = f.hash
		if i > 0 {
			b = append(b, ',')
		}
		switch f.presence {
		case Hidden:
			b = append(b, "null"...)
		case Absent:
			b = append(b, "false"...)
		default:
			b = t.appendValue(b, &o.info.fields[i], f.value)
		}
	}
	b = appendHashes(append(b, `],"salts":`...), salts)
	b = appendUint(append(b, `,"schema":`...), uint64(o.info.schema))
	return append(b, '}')
}

func (t *valueTable) appendValue(b []byte, info *FieldInfo, value []byte) []byte {
	head, rest := splitValue(info, value)
	n, ok := t.number[string(head)]
	switch {
	case !ok:
		return appendJSONString(b, slices.Concat(head, rest))
	case rest == nil:
		return appendUint(b, uint64(n)) // #nosec G115 -- a position
	}
	b = appendUint(append(b, '['), uint64(n)) // #nosec G115 -- a position
	b = appendJSONString(append(b, ','), rest)
	return append(b, ']')
}

package proof

import (
	"bytes"
	"slices"
)

const (
	// MaxReceipt bounds a receipt, in bytes.
	MaxReceipt    = 1 << 20
	receiptHeader = "regard/receipt@v1"
	proofHeader   = "c2sp.org/tlog-proof@v1"
)

// Receipt is an entry with an opening of its record, a proof that the entry is
// in the log and, once its epoch is closed, a settlement: the proof that it is
// in its subject's only roll. It is immutable; nothing in it is verified before
// Verify.
type Receipt struct {
	entry      Entry
	text       []byte
	opening    Opening
	settlement *Settlement
	index      Index
	path       []Hash
	note       []byte
}

// NewReceipt puts a receipt together. It refuses entries without a commitment,
// an opening of another schema than the entry's, and a checkpoint that is not
// a text of lines: what ParseReceipt would refuse. It verifies nothing. settlement may be nil.
func NewReceipt(entry Proven, o Opening, checkpoint []byte, settlement *Settlement) (*Receipt, error) {
	e, err := ParseEntry(entry.Text)
	if err != nil {
		return nil, err
	}
	r := &Receipt{
		entry: e, text: slices.Clone(entry.Text), opening: o, settlement: settlement.clone(),
		index: entry.Index, path: slices.Clone(entry.Path), note: slices.Clone(checkpoint),
	}
	if settlement == nil {
		if err := r.check(); err != nil {
			return nil, err
		}
		return r, nil
	}
	text, err := r.AppendText(nil)
	if err != nil {
		return nil, err
	}
	// One definition of what a receipt is: what ParseReceipt accepts.
	return ParseReceipt(text)
}

// check refuses what ParseReceipt would refuse of the text of a receipt without
// a settlement. The parts of an entry were parsed, and an opening holds values
// of its fields' forms alone.
func (r *Receipt) check() error {
	switch {
	case r.opening.info == nil:
		return formatError("opening: none")
	case !r.entry.Kind().Takes(r.opening.Schema()):
		return formatError("receipt: an entry %s does not go with this opening", r.entry.Kind())
	case uint64(r.index) > maxInt:
		return formatError("receipt: the index is too large")
	case len(r.path) > maxPath:
		return formatError("receipt: a path of more than %d hashes", maxPath)
	case !isNote(r.note) || !isText(r.note, true):
		return formatError("receipt: no checkpoint, or not one that ends with a line feed")
	case r.textSize() > MaxReceipt:
		return formatError("receipt: more than %d bytes", MaxReceipt)
	}
	return r.opening.info.checkFields(r.opening.Value)
}

// isNote reports whether b can stand as the signed checkpoint of a receipt.
func isNote(b []byte) bool {
	return len(b) > 0 && b[len(b)-1] == '\n' && len(b) <= maxNote
}

// textSize returns how many bytes AppendText appends without a settlement, or a
// few more.
func (r *Receipt) textSize() int {
	return len(receiptHeader) + len(r.text) + r.opening.textSize() + len(proofHeader) +
		len("index 9223372036854775807") + len(r.path)*(b64.EncodedLen(32)+1) + len(r.note) + len("\n\n\n\n\n")
}

// Narrow returns the receipt as another reader may see it. A settlement needs
// the subject, so it is dropped where the subject is hidden.
func (r *Receipt) Narrow(reader Reader) (*Receipt, error) {
	o := r.opening.Narrow(reader)
	s := r.settlement
	if _, err := o.Subject(); err != nil {
		s = nil
	}
	return NewReceipt(Proven{r.index, r.text, r.path}, o, r.note, s)
}

// Entry returns the entry.
func (r *Receipt) Entry() Entry { return r.entry }

// EntryText returns the entry's text.
func (r *Receipt) EntryText() []byte { return slices.Clone(r.text) }

// Index returns the log index that the receipt claims for its entry.
func (r *Receipt) Index() Index { return r.index }

// Proven returns the entry with its claimed inclusion path.
func (r *Receipt) Proven() Proven { return Proven{r.index, r.EntryText(), slices.Clone(r.path)} }

// Opening returns the opening.
func (r *Receipt) Opening() Opening { return r.opening }

// Settlement returns the settlement; nil if there is none.
func (r *Receipt) Settlement() *Settlement { return r.settlement.clone() }

// Checkpoint returns the signed checkpoint, not verified.
func (r *Receipt) Checkpoint() []byte { return slices.Clone(r.note) }

// TLogProof returns the part of the receipt that any c2sp.org/tlog-proof
// verifier checks for EntryText.
func (r *Receipt) TLogProof() []byte { return r.appendTLogProof(nil) }

func (r *Receipt) appendTLogProof(b []byte) []byte {
	b = append(b, proofHeader...)
	b = append(b, '\n')
	b = appendUintLine(b, "index", uint64(r.index))
	for i := range r.path {
		b = appendHash(b, (*[32]byte)(&r.path[i]))
		b = append(b, '\n')
	}
	b = append(b, '\n')
	return append(b, r.note...)
}

// AppendText appends the canonical text.
func (r *Receipt) AppendText(b []byte) ([]byte, error) {
	if r == nil || r.entry == nil {
		return b, formatError("receipt: none")
	}
	out := append(slices.Grow(b, r.textSize()), receiptHeader...)
	out = append(out, '\n')
	out = append(out, r.text...)
	out, err := r.opening.AppendText(out)
	if err != nil {
		return b, err
	}
	if r.settlement != nil {
		if out, err = r.settlement.appendText(out); err != nil {
			return b, err
		}
	}
	out = append(out, '\n')
	out = r.appendTLogProof(out)
	if len(out)-len(b) > MaxReceipt {
		return b, formatError("receipt: more than %d bytes", MaxReceipt)
	}
	return out, nil
}

// ParseReceipt parses the canonical text of a receipt. It verifies nothing: the
// commitment, hash paths and signatures are Verify's.
func ParseReceipt(text []byte) (*Receipt, error) {
	if len(text) > MaxReceipt {
		return nil, formatError("receipt: more than %d bytes", MaxReceipt)
	}
	if !isText(text, true) {
		return nil, formatError("receipt: control characters or invalid UTF-8")
	}
	l := lines{what: "receipt", rest: text}
	head, err := l.next()
	if err != nil {
		return nil, err
	}
	if string(head) != receiptHeader {
		return nil, l.errorf("want %s", receiptHeader)
	}
	r := new(Receipt)
	if r.text, r.entry, err = takeEntry(&l); err != nil {
		return nil, err
	}
	if r.opening, err = parseOpening(&l); err != nil {
		return nil, err
	}
	kind := r.entry.Kind()
	if !kind.Takes(r.opening.Schema()) {
		return nil, l.errorf("an entry %s does not go with this opening", kind)
	}
	if bytes.HasPrefix(l.rest, []byte("settled ")) {
		if !kind.Filed() {
			return nil, l.errorf("an entry %s is in no roll and has no settlement", kind)
		}
		if r.settlement, err = parseSettlement(&l); err != nil {
			return nil, err
		}
	}
	for _, want := range [...]string{"", proofHeader} {
		line, err := l.next()
		if err != nil {
			return nil, err
		}
		if string(line) != want {
			return nil, l.errorf("want %q", want)
		}
	}
	if err := r.parseProof(&l); err != nil {
		return nil, err
	}
	return r, nil
}

// takeEntry reads the entry's lines: all up to the opening. No line of an
// entry begins with "opening ".
func takeEntry(l *lines) ([]byte, Entry, error) {
	at := l.n
	n := bytes.Index(l.rest, []byte("\nopening "))
	if n < 0 {
		return nil, nil, l.errorf("no opening follows the entry")
	}
	text := l.rest[:n+1]
	e, err := ParseEntry(text)
	if err != nil {
		l.n = at + 1
		return nil, nil, l.wrap(err)
	}
	l.rest = l.rest[n+1:]
	l.n += bytes.Count(text, []byte{'\n'})
	return slices.Clone(text), e, nil
}

func (r *Receipt) parseProof(l *lines) error {
	index, err := l.uint("index")
	if err != nil {
		return err
	}
	r.index = Index(index)
	for {
		line, err := l.next()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		if len(r.path) == maxPath {
			return l.errorf("a path of more than %d hashes", maxPath)
		}
		var h Hash
		if err := decodeB64(h[:], line); err != nil {
			return l.wrap(err)
		}
		r.path = append(r.path, h)
	}
	// The rest is the signed checkpoint, verbatim.
	if !isNote(l.rest) {
		return l.errorf("no checkpoint follows, or not one that ends with a line feed")
	}
	r.note = slices.Clone(l.rest)
	return nil
}

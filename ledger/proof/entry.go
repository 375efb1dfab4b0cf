package proof

import (
	"bytes"
	"strings"
)

// maxEntry is the bound of an entry's text: it must be shorter.
const maxEntry = 1024

// Kind is the type of an entry with its version, as in the first line after
// "regard/".
type Kind string

// The kinds of entries.
const (
	KindAccess     Kind = "access@v1"
	KindAgreement  Kind = "agreement@v1"
	KindAudit      Kind = "audit@v1"
	KindDeferred   Kind = "deferred@v1"
	KindDisclosure Kind = "disclosure@v1"
	KindEpoch      Kind = "epoch@v1"
	KindErasure    Kind = "erasure@v1"
	KindKey        Kind = "key@v1"
	KindOpened     Kind = "opened@v1"
	KindPolicy     Kind = "policy@v1"
	KindRestart    Kind = "restart@v1"
	KindService    Kind = "service@v1"
)

// kinds lists all kinds by increasing name, the order of counts in a marker.
var kinds = [...]Kind{KindAccess, KindAgreement, KindAudit, KindDeferred, KindDisclosure, KindEpoch,
	KindErasure, KindKey, KindOpened, KindPolicy, KindRestart, KindService}

// Kinds returns all kinds by increasing name.
func Kinds() []Kind { return append([]Kind(nil), kinds[:]...) }

// Filed reports whether each entry of this kind stands in exactly one roll of
// its epoch.
func (k Kind) Filed() bool {
	switch k {
	case KindDisclosure, KindAccess, KindErasure, KindOpened:
		return true
	}
	return false
}

// Schema returns the schema of the record behind an entry of this kind, for a
// delayed one that of a disclosure (see Takes); 0 for kinds without one.
func (k Kind) Schema() Schema {
	switch k {
	case KindDisclosure, KindDeferred, KindOpened:
		return SchemaDisclosure
	case KindAccess:
		return SchemaAccess
	case KindErasure:
		return SchemaErasure
	}
	return 0
}

// Takes reports whether a record of the schema may stand behind an entry of this
// kind: what is delayed by law is a disclosure, or an access to the record of one.
func (k Kind) Takes(s Schema) bool {
	return s != 0 && (s == k.Schema() || s == SchemaAccess && (k == KindDeferred || k == KindOpened))
}

// valid reports whether k has the form of a type, known or not: token@v1 with a
// version of at least 1.
func (k Kind) valid() bool {
	i := strings.LastIndex(string(k), "@v")
	if i < 0 || !IsToken(string(k[:i])) {
		return false
	}
	n, ok := parseUint([]byte(k[i+2:]))
	return ok && n >= 1
}

func (k Kind) known() bool {
	for _, x := range kinds {
		if x == k {
			return true
		}
	}
	return false
}

// Entry is one public line of account in the log. The types of this package
// that end up in the log implement it; all are values.
type Entry interface {
	// Kind returns the entry's type.
	Kind() Kind
	// In returns the epoch in which the entry says it stands.
	In() Epoch
	// WithEpoch returns the same entry in another epoch: the sequencer learns
	// the epoch last.
	WithEpoch(Epoch) Entry
	// AppendText appends the canonical text, or returns b and an error if the
	// entry is not valid.
	AppendText(b []byte) ([]byte, error)
}

// EntryText returns the canonical text of e.
func EntryText(e Entry) ([]byte, error) {
	if e == nil {
		return nil, formatError("no entry")
	}
	return e.AppendText(nil)
}

// CommitmentOf returns the commitment that e carries; false for public
// governance, which carries none.
func CommitmentOf(e Entry) (Commitment, bool) {
	switch e := e.(type) {
	case Disclosure:
		return e.Commitment, true
	case Access:
		return e.Commitment, true
	case Erasure:
		return e.Commitment, true
	case Opened:
		return e.Commitment, true
	case Deferred:
		return e.Commitment, true
	}
	return Commitment{}, false
}

const entryPrefix = "regard/"

// ParseHead reads what every entry begins with, whatever its type: that type and
// the epoch. It accepts types that it does not know (Kinds has those it knows)
// and looks at nothing but the form of text in the lines that follow: for readers that
// count the entries of an epoch and hash them.
func ParseHead(text []byte) (Kind, Epoch, error) {
	l := lines{what: "entry", rest: text}
	return parseHead(&l)
}

func parseHead(l *lines) (Kind, Epoch, error) {
	text := l.rest
	if len(text) >= maxEntry {
		return "", 0, formatError("entry of %d bytes, want less than %d", len(text), maxEntry)
	}
	if !isText(text, true) {
		return "", 0, formatError("entry: control characters or invalid UTF-8")
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return "", 0, formatError("entry: does not end with a line feed")
	}
	first, err := l.next()
	if err != nil {
		return "", 0, err
	}
	name, ok := bytes.CutPrefix(first, []byte(entryPrefix))
	if kind := Kind(name); !ok || !kind.valid() {
		return "", 0, l.errorf("want %q and a type", entryPrefix)
	}
	epoch, err := l.uint("epoch")
	return Kind(name), Epoch(epoch), err
}

// ParseEntry parses the canonical text of an entry. Of kinds it does not know
// it says ErrUnknown.
func ParseEntry(text []byte) (Entry, error) {
	l := lines{what: "entry", rest: text}
	kind, epoch, err := parseHead(&l)
	if err != nil {
		return nil, err
	}
	e, err := parseBody(kind, epoch, &l)
	if err != nil {
		return nil, err
	}
	if err := l.end(); err != nil {
		return nil, err
	}
	return e, nil
}

func parseBody(kind Kind, epoch Epoch, l *lines) (Entry, error) {
	switch kind {
	case KindDisclosure:
		c, err := l.hash("commitment")
		return Disclosure{epoch, Commitment(c)}, err
	case KindAccess:
		c, err := l.hash("commitment")
		return Access{epoch, Commitment(c)}, err
	case KindErasure:
		c, err := l.hash("commitment")
		return Erasure{epoch, Commitment(c)}, err
	case KindOpened:
		return parseOpened(epoch, l)
	case KindDeferred:
		return parseDeferred(epoch, l)
	case KindEpoch:
		return parseMarker(epoch, l)
	case KindPolicy:
		return parsePolicyActivated(epoch, l)
	case KindAgreement:
		return parseAgreementChanged(epoch, l)
	case KindService:
		return parseServiceChanged(epoch, l)
	case KindKey:
		return parseKeyChanged(epoch, l)
	case KindRestart:
		return parseRestart(epoch, l)
	case KindAudit:
		return parseAudit(epoch, l)
	}
	l.n = 1
	return nil, l.wrap(ErrUnknown)
}

// appendHead appends the first line and the epoch.
func appendHead(b []byte, k Kind, e Epoch) ([]byte, error) {
	if e > maxInt {
		return b, formatError("%s: epoch above 2^63-1", k)
	}
	b = append(b, entryPrefix...)
	b = append(b, k...)
	b = append(b, "\nepoch "...)
	b = appendUint(b, uint64(e))
	return append(b, '\n'), nil
}

func appendHashLine(b []byte, key string, h Hash) []byte {
	b = append(b, key...)
	b = append(b, ' ')
	b = appendHash(b, (*[32]byte)(&h))
	return append(b, '\n')
}

func appendUintLine(b []byte, key string, n uint64) []byte {
	b = append(b, key...)
	b = append(b, ' ')
	b = appendUint(b, n)
	return append(b, '\n')
}

func appendLine(b []byte, key, value string) []byte {
	b = append(b, key...)
	b = append(b, ' ')
	b = append(b, value...)
	return append(b, '\n')
}

// appendCommitted writes an entry that holds a commitment alone.
func appendCommitted(b []byte, k Kind, e Epoch, c Commitment) ([]byte, error) {
	if c.IsZero() {
		return b, formatError("%s: commitment not set", k)
	}
	out, err := appendHead(b, k, e)
	if err != nil {
		return b, err
	}
	return appendHashLine(out, "commitment", Hash(c)), nil
}

// releaseCommitment returns the commitment of an entry on which an answer may
// be released: one that is filed, or Deferred, which will be. It accepts exactly
// what ParseEntry accepts for those kinds.
func releaseCommitment(text []byte) (Commitment, error) {
	if !bytes.HasPrefix(text, []byte(entryPrefix+string(KindDeferred)+"\n")) {
		return filedCommitment(text)
	}
	e, err := ParseEntry(text)
	if err != nil {
		return Commitment{}, err
	}
	c, _ := CommitmentOf(e)
	return c, nil
}

// filedCommitment reads kind and commitment of a filed entry without
// allocating; it accepts exactly what ParseEntry accepts for those kinds.
func filedCommitment(text []byte) (Commitment, error) {
	kind, rest, err := splitFiled(text)
	if err != nil {
		return Commitment{}, err
	}
	rest, ok := cutUintLine(rest, "epoch ")
	if ok && kind == KindOpened {
		rest, ok = cutUintLine(rest, "deferred ")
	}
	const prefix, size = "commitment ", 44
	if !ok || len(rest) != len(prefix)+size+1 || string(rest[:len(prefix)]) != prefix || rest[len(rest)-1] != '\n' {
		return Commitment{}, formatError("%s: malformed", kind)
	}
	var c Commitment
	if err := decodeB64(c[:], rest[len(prefix):len(rest)-1]); err != nil {
		return Commitment{}, err
	}
	if c.IsZero() {
		return Commitment{}, formatError("%s: commitment is zero", kind)
	}
	return c, nil
}

func splitFiled(text []byte) (Kind, []byte, error) {
	i := bytes.IndexByte(text, '\n')
	if i < len(entryPrefix) || string(text[:len(entryPrefix)]) != entryPrefix {
		return "", nil, formatError("entry: malformed")
	}
	rest := text[i+1:]
	switch name := text[len(entryPrefix):i]; {
	case string(name) == string(KindDisclosure):
		return KindDisclosure, rest, nil
	case string(name) == string(KindAccess):
		return KindAccess, rest, nil
	case string(name) == string(KindErasure):
		return KindErasure, rest, nil
	case string(name) == string(KindOpened):
		return KindOpened, rest, nil
	}
	return "", nil, unproven("entry is not of a kind that is filed in a person's roll")
}

func cutUintLine(b []byte, key string) ([]byte, bool) {
	i := bytes.IndexByte(b, '\n')
	if i < len(key) || string(b[:len(key)]) != key {
		return b, false
	}
	_, ok := parseUint(b[len(key):i])
	return b[i+1:], ok
}

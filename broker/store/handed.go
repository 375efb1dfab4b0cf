package store

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// A group of entries on its way between two brokers of the same version: what is attached to it goes along. It holds nothing that isn't sealed.
//
//	u8 version
//	u16 n, then n times: u16 length, text of the entry in epoch 0
//	u8 what is attached: 0 nothing, 1 an Outcome in the form below, 2 anything else as encoding/gob has it
//
// An Outcome is nearly all there is, so it has a form that is quick to write and to read.
const (
	handedVersion = 1

	attachNothing = 0
	attachOutcome = 1
	attachGob     = 2
)

// The types that can be handed over. Others are of what the leader does alone.
func init() {
	for _, a := range []Attachment{
		&AccessLogged{}, &ErasedAudit{}, &AgencyChange{}, &AuditorChange{}, &AgreementChange{}, &ServiceChange{}, &BundleActivation{}, &Note{}, &DeferralsOpened{},
	} {
		gob.Register(a)
	}
}

// EncodeGroup makes bytes of a group.
func EncodeGroup(g ledger.Group) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint8(handedVersion)
	b.AddUint16(uint16(len(g.Entries))) // #nosec G115 -- checked below
	if len(g.Entries) > math.MaxUint16 {
		return nil, fmt.Errorf("store: %d entries can't be handed over at once", len(g.Entries))
	}
	for _, e := range g.Entries {
		text, err := proof.EntryText(e.WithEpoch(0))
		if err != nil {
			return nil, fmt.Errorf("store: handing over an entry: %w", err)
		}
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(text) })
	}
	switch a := g.Attach.(type) {
	case nil:
		b.AddUint8(attachNothing)
	case *Outcome:
		b.AddUint8(attachOutcome)
		a.append(&b)
	case Attachment:
		b.AddUint8(attachGob)
		var buf bytes.Buffer
		if err := gob.NewEncoder(&buf).Encode(&anything{withoutNil(a)}); err != nil {
			return nil, fmt.Errorf("store: handing over a %T: %w", a, err)
		}
		b.AddBytes(buf.Bytes())
	default:
		return nil, fmt.Errorf("store: a %T can't be handed over", a)
	}
	body, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("store: handing over a group: %w", err)
	}
	return body, nil
}

// anything lets gob say which type it is.
type anything struct{ Attach Attachment }

// withoutNil leaves out keys that aren't there, which gob can't write.
func withoutNil(a Attachment) Attachment {
	switch x := a.(type) {
	case *AccessLogged:
		c := *x
		c.Fresh = existing(x.Fresh)
		return &c
	case *DeferralsOpened:
		c := *x
		c.Fresh = existing(x.Fresh)
		return &c
	}
	return a
}

func existing(ks []*keys.StoredKey) []*keys.StoredKey {
	return slices.DeleteFunc(slices.Clone(ks), func(k *keys.StoredKey) bool { return k == nil })
}

func addLong(b *cryptobyte.Builder, data []byte) {
	b.AddUint32LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(data) })
}

func addShort(b *cryptobyte.Builder, s string) {
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

// append writes: u64 disclosure; u16 n, n records (16 bytes of owner, person and admin with u32 lengths); u16 n, n keys (16 bytes each of id and owner, kind and period with u8 lengths, wrapped
// with u32, u64 created in ms); the payload with u32, u64 until in ms.
func (o *Outcome) append(b *cryptobyte.Builder) {
	b.AddUint64(uint64(o.Disclosure))   // #nosec G115 -- the bits
	b.AddUint16(uint16(len(o.Records))) // #nosec G115 -- as many as entries
	for i := range o.Records {
		r := &o.Records[i]
		b.AddBytes(r.Owner[:])
		addLong(b, r.Person)
		addLong(b, r.Admin)
	}
	fresh := existing(o.Fresh)
	b.AddUint16(uint16(len(fresh))) // #nosec G115 -- at most one a record
	for _, k := range fresh {
		b.AddBytes(k.ID[:])
		b.AddBytes(k.Owner[:])
		addShort(b, string(k.Kind))
		addShort(b, k.Period)
		addLong(b, k.Wrapped)
		b.AddUint64(uint64(k.Created.UnixMilli())) // #nosec G115 -- the bits
	}
	addLong(b, o.Payload)
	b.AddUint64(uint64(o.Until.UnixMilli())) // #nosec G115 -- the bits
}

var errHanded = errors.New("store: what was handed over has another form: do all brokers run the same version?")

// reading is a string that remembers that it ended too early.
type reading struct {
	cryptobyte.String
	bad bool
}

func (r *reading) fixed(to []byte) {
	if !r.CopyBytes(to) {
		r.bad = true
	}
}

func (r *reading) uint16() (n uint16) {
	if !r.ReadUint16(&n) {
		r.bad = true
	}
	return n
}

func (r *reading) uint64() (n uint64) {
	if !r.ReadUint64(&n) {
		r.bad = true
	}
	return n
}

func (r *reading) short() string {
	var s cryptobyte.String
	if !r.ReadUint8LengthPrefixed(&s) {
		r.bad = true
	}
	return string(s)
}

// long returns a part of what is read, nil if it is empty.
func (r *reading) long() []byte {
	var n uint32
	var b []byte
	if !r.ReadUint32(&n) || uint64(n) > uint64(len(r.String)) || !r.ReadBytes(&b, int(n)) {
		r.bad = true
	}
	if len(b) == 0 {
		return nil
	}
	return b
}

func (r *reading) outcome() *Outcome {
	o := &Outcome{Disclosure: Seq(r.uint64())} // #nosec G115 -- the bits
	for n := r.uint16(); n > 0 && !r.bad; n-- {
		var x Record
		r.fixed(x.Owner[:])
		x.Person, x.Admin = r.long(), r.long()
		o.Records = append(o.Records, x)
	}
	for n := r.uint16(); n > 0 && !r.bad; n-- {
		k := &keys.StoredKey{}
		r.fixed(k.ID[:])
		r.fixed(k.Owner[:])
		k.Kind, k.Period, k.Wrapped = keys.Kind(r.short()), r.short(), r.long()
		k.Created = time.UnixMilli(int64(r.uint64())).UTC() // #nosec G115 -- the bits
		o.Fresh = append(o.Fresh, k)
	}
	o.Payload = r.long()
	o.Until = time.UnixMilli(int64(r.uint64())).UTC() // #nosec G115 -- the bits
	r.bad = r.bad || !r.Empty()
	return o
}

// DecodeGroup is the inverse of EncodeGroup, and keeps parts of body. What is attached marks, in the transaction that gives the group its place, that it has it: a group gets one place only.
func DecodeGroup(id [16]byte, body []byte) (ledger.Group, error) {
	r := &reading{String: body}
	var version, what uint8
	if !r.ReadUint8(&version) || version != handedVersion {
		return ledger.Group{}, errHanded
	}
	h := &handed{id: id}
	g := ledger.Group{Attach: h}
	for n := r.uint16(); n > 0 && !r.bad; n-- {
		var text cryptobyte.String
		if !r.ReadUint16LengthPrefixed(&text) {
			return g, errHanded
		}
		e, err := proof.ParseEntry(text)
		if err != nil {
			return g, fmt.Errorf("store: reading an entry that was handed over: %w", err)
		}
		g.Entries = append(g.Entries, e)
	}
	if r.bad || !r.ReadUint8(&what) {
		return g, errHanded
	}
	switch what {
	case attachNothing:
		r.bad = !r.Empty()
	case attachOutcome:
		h.inner = r.outcome()
	case attachGob:
		var a anything
		rest := bytes.NewReader(r.String)
		if err := gob.NewDecoder(rest).Decode(&a); err != nil {
			return g, fmt.Errorf("%w (%v)", errHanded, err)
		}
		h.inner, r.bad = a.Attach, rest.Len() > 0 || a.Attach == nil
	default:
		r.bad = true
	}
	if r.bad {
		return g, errHanded
	}
	return g, nil
}

// refusals are errors by which callers of the log decide. Between two brokers they go by name.
var refusals = map[string]error{"exists": ErrExists, "opened": ErrOpened, "nokey": keys.ErrNoKey, "keyexists": keys.ErrKeyExists, "notfound": ErrNotFound, "conflict": ErrConflict, "toomany": ErrTooMany}

// EncodeRefusal says why a group was refused, for the broker that handed it over.
func EncodeRefusal(err error) string {
	for name, is := range refusals {
		if errors.Is(err, is) {
			return name + " " + err.Error()
		}
	}
	return "- " + err.Error()
}

// DecodeRefusal makes the error of it again: an ErrRefused of the log, and what else callers ask for.
func DecodeRefusal(why string) error {
	name, text, _ := strings.Cut(why, " ")
	if is, ok := refusals[name]; ok {
		return fmt.Errorf("%w: %w: at the broker that leads: %s", ledger.ErrRefused, is, text)
	}
	return fmt.Errorf("%w: at the broker that leads: %s", ledger.ErrRefused, text)
}

// OwnersOf lists whose records come with a group, but for what is deferred: nothing of that waits for an erasure, nor an erasure for it.
func OwnersOf(g ledger.Group) []keys.Owner {
	attach := g.Attach
	if h, ok := attach.(*handed); ok {
		attach = h.inner
	}
	var records []Record
	switch a := attach.(type) {
	case *Outcome:
		records = a.Records
	case *AccessLogged:
		records = a.Records
	case *DeferralsOpened: // what was deferred is its person's from now on
		for i := range a.Records {
			records = append(records, a.Records[i].Record)
		}
	}
	var out []keys.Owner
	for i := range records {
		if i < len(g.Entries) && g.Entries[i].Kind() != proof.KindDeferred {
			out = append(out, records[i].Owner)
		}
	}
	return out
}

// handed is what is attached to a group of another broker.
type handed struct {
	id    [16]byte
	inner Attachment
}

func (h *handed) apply(t *tx, leaves []ledger.Leaf) error {
	if h.inner != nil {
		if err := h.inner.apply(t, leaves); err != nil {
			return err
		}
	}
	return t.place(h.id, leaves)
}

// place marks a group as placed, with the rest of the batch. SQLite has nobody who hands anything over.
func (t *tx) place(id [16]byte, leaves []ledger.Leaf) error {
	if t.pg == nil {
		return errors.New("store: there is nobody to hand entries over")
	}
	indexes := make([]byte, 0, 8*len(leaves))
	for i := range leaves {
		indexes = binary.BigEndian.AppendUint64(indexes, uint64(leaves[i].Index))
	}
	t.pg.placed = append(t.pg.placed, id[:], indexes, int64(leaves[0].Epoch))
	return nil
}

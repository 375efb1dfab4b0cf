package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// sealedRecord is a record on its way into the store.
type sealedRecord struct {
	row   store.Record
	fresh *keys.StoredKey
}

// sealPerson seals a record's person part under its subject's key, which is made if the person has none yet.
func (b *Broker) sealPerson(ctx context.Context, owner keys.Owner, rec *proof.Record) (sealed []byte, fresh *keys.StoredKey, err error) {
	key, fresh, err := b.ring.SubjectKey(ctx, owner)
	if err != nil {
		return nil, nil, fmt.Errorf("getting the subject's key: %w", err)
	}
	defer key.Clear()
	part := parts.Get().(*[]byte)
	defer putPart(part)
	*part = rec.AppendPersonPart((*part)[:0])
	sealed, err = b.ring.SealPerson(key, owner[:], *part)
	return sealed, fresh, err
}

// sealDeferred seals the person part of a record of which the person learns later, under a key of its own.
func (b *Broker) sealDeferred(ctx context.Context, owner keys.Owner, rec *proof.Record) (sealed []byte, fresh *keys.StoredKey, err error) {
	key, fresh, err := b.ring.DeferredKey(ctx, owner)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key for a deferred record: %w", err)
	}
	defer key.Clear()
	part := parts.Get().(*[]byte)
	defer putPart(part)
	*part = rec.AppendPersonPart((*part)[:0])
	sealed, err = b.ring.SealPerson(key, owner[:], *part)
	return sealed, fresh, err
}

// sealAdmin seals a record's administrative part under the key of the month in which it was asked, or of this month if that is more than a day ago, as after a crash: by its place in the
// log anybody must be able to tell which keys may have sealed a record (docs/formats.md, section 4).
func (b *Broker) sealAdmin(ctx context.Context, at time.Time, rec *proof.Record) ([]byte, error) {
	if now := b.now(); now.Sub(at) > 24*time.Hour {
		at = now
	}
	part := parts.Get().(*[]byte)
	defer putPart(part)
	*part = rec.AppendAdminPart((*part)[:0])
	return b.ring.SealAdmin(ctx, at, nil, *part)
}

// recycle gives the memory of administrative parts back that are in the store.
func (b *Broker) recycle(rows ...sealedRecord) {
	for i := range rows {
		b.ring.Recycle(rows[i].row.Admin)
		rows[i].row.Admin = nil
	}
}

// records are such that described a disclosure once. They are large, and each disclosure needs one.
var records = sync.Pool{New: func() any { return new(proof.Record) }}

// newRecord returns an empty record of a disclosure; putRecord takes it back when its openings are not used any more.
func newRecord() (*proof.Record, error) {
	rec := records.Get().(*proof.Record)
	if err := rec.Reset(proof.SchemaDisclosure, rand.Reader); err != nil {
		return nil, err
	}
	return rec, nil
}

func putRecord(rec *proof.Record) {
	rec.Clear()
	records.Put(rec)
}

// parts are buffers for the parts of records and for answers on their way into a seal, and for receipts.
var parts = sync.Pool{New: func() any { return new([]byte) }}

func putPart(b *[]byte) {
	clear(*b)
	if cap(*b) <= 32<<10 {
		parts.Put(b)
	}
}

// sealRecord seals both parts. deferred: the person learns of it later.
func (b *Broker) sealRecord(ctx context.Context, subject proof.Subject, at time.Time, rec *proof.Record, deferred bool) (sealedRecord, error) {
	var s sealedRecord
	var err error
	if s.row.Owner, err = b.ring.Owner(subject); err != nil {
		return s, err
	}
	seal := b.sealPerson
	if deferred {
		seal = b.sealDeferred
	}
	s.row.Person, s.fresh, err = seal(ctx, s.row.Owner, rec)
	if err == nil {
		s.row.Admin, err = b.sealAdmin(ctx, at, rec)
	}
	if err != nil {
		b.saved(errNotTried, s)
	}
	return s, err
}

// openRecord joins a stored record again. After an erasure the person part stays hidden; that is no error.
func (b *Broker) openRecord(ctx context.Context, row *store.Record) (*proof.Record, error) {
	if len(row.Person) == 0 {
		return nil, fmt.Errorf("the retention of this record has ended: %w", keys.ErrNoKey)
	}
	admin, err := b.ring.OpenAdmin(ctx, nil, row.Admin)
	if err != nil {
		return nil, fmt.Errorf("opening the administrative part: %w", err)
	}
	person, err := b.ring.OpenPerson(ctx, row.Owner, row.Owner[:], row.Person)
	if errors.Is(err, keys.ErrNoKey) {
		person, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the person part: %w", err)
	}
	return proof.OpenParts(person, admin)
}

// errDelayEnded: the key of a deferred person part is gone, and no erasure does that. The delay ended since the row was read, and it is to be read anew; if it is still deferred then, it is damaged.
var errDelayEnded = fmt.Errorf("the key of a deferred record is gone: %w", keys.ErrAltered)

// openEntry opens the record of an entry and refuses one that is not what the entry commits to. A deferred one is never erased: see errDelayEnded.
func (b *Broker) openEntry(ctx context.Context, row *store.PlacedRecord) (*proof.Record, error) {
	rec, err := b.openRecord(ctx, &row.Record)
	if err != nil {
		return nil, err
	}
	entry, err := proof.ParseEntry(row.Text)
	if err != nil {
		return nil, err
	}
	if c, ok := proof.CommitmentOf(entry); !ok || c != rec.Commitment() {
		return nil, fmt.Errorf("record %d is not what its entry commits to: %w", row.Index, keys.ErrAltered)
	}
	if entry.Kind() == proof.KindDeferred && rec.Erased() {
		return nil, fmt.Errorf("record %d: %w", row.Index, errDelayEnded)
	}
	return rec, nil
}

// fields sets a record's fields and keeps the first error, so that the table of what a record holds reads as a table.
type fields struct {
	rec *proof.Record
	err error
}

func (f *fields) text(field proof.Field, s string) {
	if f.err == nil && s != "" {
		f.err = f.rec.SetText(field, s)
	}
}

func (f *fields) bytes(field proof.Field, b []byte) {
	if f.err == nil {
		f.err = f.rec.Set(field, b)
	}
}

func (f *fields) time(field proof.Field, t time.Time) {
	if f.err == nil {
		f.err = f.rec.SetTime(field, proof.TimeOf(t))
	}
}

func (f *fields) list(field proof.Field, items []string) {
	if f.err == nil {
		f.err = f.rec.SetList(field, items)
	}
}

func (f *fields) subject(s proof.Subject) {
	if f.err == nil {
		f.err = f.rec.SetSubject(s)
	}
}

func stringsOf[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// ID names a disclosure: a UUIDv7 that the broker drew.
type ID [16]byte

// Seq is the store's own short name for a disclosure.
type Seq int64

// An Intent is a disclosure before any provider is asked.
type Intent struct {
	ID      ID
	Agency  string
	Idem    []byte // keyed digest of the Idempotency-Key, nil if none was given
	Body    []byte // keyed digest of the request, with Idem alone
	AskedAt time.Time
	// Due is when the people concerned may learn of it; zero: at once.
	Due   time.Time
	Owner keys.Owner
	// Person and Admin are the asked record's parts, sealed. Person is final; Admin lacks the outcome.
	Person, Admin []byte
	// Key is the data key that sealed Person. If it is not stored any more the person was erased since, and Begin fails with keys.ErrNoKey. Zero: not checked.
	Key keys.KeyID
	// Fresh are data keys that have to be durable with it.
	Fresh []*keys.StoredKey // nil ones are skipped
	// Registry is the number of the registry and the policy by which it was decided, see Changes. If they have changed since, Begin fails with ErrStale. 0: not checked.
	Registry int64
}

// A Disclosure as stored.
type Disclosure struct {
	Seq           Seq
	ID            ID
	Agency        string
	Body          []byte // empty without an Idempotency-Key, and once it was dropped
	AskedAt       time.Time
	Done          bool
	Owner         keys.Owner
	Person, Admin []byte // only Interrupted fills them in
}

// Begin stores an intent durably. If the agency used the same Idempotency-Key before, it stores nothing and returns that disclosure with again = true, or
// ErrConflict if it was for another request. Of one whose Body was dropped nobody can tell any more: the caller looks at it.
func (s *Store) Begin(ctx context.Context, in *Intent) (d Disclosure, again bool, err error) {
	if s.pg {
		b := &beginning{in: in}
		err = s.submit(ctx, s.lanes.begins, &job{begin: b, done: make(chan error, 1)})
		if d, again, err = b.d, b.again, cmp.Or(err, b.err); err != nil {
			return Disclosure{}, false, err
		}
	} else {
		d, again, err = s.beginOne(ctx, in)
	}
	if err == nil && again && len(d.Body) > 0 && !bytes.Equal(d.Body, in.Body) {
		return Disclosure{}, false, ErrConflict
	}
	return d, again, err
}

// beginOne is Begin on SQLite.
func (s *Store) beginOne(ctx context.Context, in *Intent) (d Disclosure, again bool, err error) {
	err = s.do(ctx, func(t *tx) error {
		d, again = Disclosure{}, false
		if in.Idem != nil {
			old, err := scanDisclosure(t.row(selectDisclosure+" WHERE agency = ? AND idem = ?", in.Agency, in.Idem))
			switch {
			case err == nil:
				d, again = old, true
				return nil
			case !errors.Is(err, ErrNotFound):
				return err
			}
		}
		if err := saveKeys(t, in.Fresh); err != nil {
			return err
		}
		if !slices.ContainsFunc(in.Fresh, func(k *keys.StoredKey) bool { return k != nil && k.ID == in.Key }) {
			if err := hasKey(t, in.Key); err != nil {
				return err
			}
		}
		seq, slot := t.slots.take()
		var due any
		if !in.Due.IsZero() {
			due = in.Due.UnixMilli()
		}
		if _, err := t.exec("INSERT INTO disclosures (seq, id, agency, idem, body, asked_at, state, owner, due) VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)",
			int64(seq), in.ID[:], in.Agency, in.Idem, in.Body, in.AskedAt.UnixMilli(), in.Owner[:], due); err != nil {
			return err
		}
		_, err := t.exec("INSERT INTO intents (slot, disclosure, person, admin) VALUES (?, ?, ?, ?) ON CONFLICT (slot) DO UPDATE SET disclosure = excluded.disclosure, person = excluded.person, admin = excluded.admin",
			slot, int64(seq), in.Person, in.Admin)
		d = Disclosure{Seq: seq, ID: in.ID, Agency: in.Agency, Body: in.Body, AskedAt: in.AskedAt, Owner: in.Owner}
		return err
	})
	return d, again, err
}

// A Record is the sealed description behind one entry.
type Record struct {
	Owner         keys.Owner
	Person, Admin []byte
}

// An Outcome completes a disclosure: one record for each of its entries, in their order; the first is the asked one.
type Outcome struct {
	Disclosure Seq
	Records    []Record
	Fresh      []*keys.StoredKey
	// Payload is the sealed answer, kept until Until for repeats of the request; nil: not kept.
	Payload []byte
	Until   time.Time
}

func (o *Outcome) apply(t *tx, leaves []ledger.Leaf) error {
	if len(leaves) != len(o.Records) {
		return fmt.Errorf("store: %d entries for %d records", len(leaves), len(o.Records))
	}
	if t.pg != nil {
		t.pg.saveOutcome(o)
		for i := range leaves {
			if err := t.saveOutcome(&o.Records[i], &leaves[i], o.Disclosure, i); err != nil {
				return err
			}
		}
		return nil
	}
	// The state guards against a second outcome: of a late provider answer after the intent was recorded as interrupted, for one.
	n, err := t.exec("UPDATE disclosures SET state = 1 WHERE seq = ? AND state = 0", int64(o.Disclosure))
	if err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("store: disclosure %d has no open intent", o.Disclosure)
	}
	t.slots.give(o.Disclosure)
	if err := saveKeys(t, o.Fresh); err != nil {
		return err
	}
	for i := range leaves {
		if err := t.saveOutcome(&o.Records[i], &leaves[i], o.Disclosure, i); err != nil {
			return err
		}
	}
	if o.Payload != nil {
		_, err = t.exec("INSERT INTO payloads (disclosure, until, sealed) VALUES (?, ?, ?)", int64(o.Disclosure), o.Until.UnixMilli(), o.Payload)
	}
	return err
}

const selectDisclosure = "SELECT seq, id, agency, body, asked_at, state, owner FROM disclosures"

func scanDisclosure(row interface{ Scan(...any) error }) (Disclosure, error) {
	var d Disclosure
	var seq, at, state int64
	var id, owner []byte
	if err := row.Scan(&seq, &id, &d.Agency, &d.Body, &at, &state, &owner); err != nil {
		return d, classify(err)
	}
	if copy(d.ID[:], id) != len(d.ID) || copy(d.Owner[:], owner) != len(d.Owner) {
		return d, fmt.Errorf("%w: disclosure %d is malformed", ErrCorrupt, seq)
	}
	d.Seq, d.AskedAt, d.Done = Seq(seq), time.UnixMilli(at).UTC(), state == 1
	return d, nil
}

// Disclosure finds a disclosure by its id.
func (s *Store) Disclosure(ctx context.Context, id ID) (Disclosure, error) {
	return scanDisclosure(s.r.QueryRowContext(ctx, selectDisclosure+" WHERE id = ?", id[:]))
}

// A PlacedRecord is a stored record with its entry.
type PlacedRecord struct {
	Record
	Index proof.Index
	Text  []byte
	// Alone: it is none of a disclosure's entries.
	Alone bool
}

const selectRecord = "SELECT r.log_index, r.owner, r.person, r.admin, r.disclosure IS NULL, l.text FROM records r JOIN leaves l USING (log_index)"

// Records of a disclosure, deferred or not, the asked one first.
func (s *Store) Records(ctx context.Context, d Seq) ([]PlacedRecord, error) {
	rows, err := s.records(ctx, selectRecord+" WHERE r.disclosure = ? ORDER BY r.position", int64(d))
	if err != nil || len(rows) > 0 {
		return rows, err
	}
	// They are opened together. If that happened in this instant they are where the first look was in vain.
	if rows, err = s.Deferrals(ctx, d, 0); err != nil || len(rows) > 0 {
		return rows, err
	}
	return s.records(ctx, selectRecord+" WHERE r.disclosure = ? ORDER BY r.position", int64(d))
}

// RecordsOf lists an owner's records by decreasing log index, those below before (0: from the newest), of one kind of entry or, if kind is empty, of every kind. Deferred ones
// aren't among them: of those the person learns when the delay ends.
func (s *Store) RecordsOf(ctx context.Context, owner keys.Owner, kind proof.Kind, before proof.Index, limit int) ([]PlacedRecord, error) {
	if before == 0 || before > math.MaxInt64 {
		before = math.MaxInt64
	}
	return s.records(ctx, selectRecord+" WHERE r.owner = ? AND r.log_index < ? AND (? = '' OR l.kind = ?) ORDER BY r.log_index DESC LIMIT ?",
		owner[:], int64(before), string(kind), string(kind), limit)
}

// NewestOf returns the log index of the newest record that RecordsOf lists, 0 if there is none.
func (s *Store) NewestOf(ctx context.Context, owner keys.Owner) (proof.Index, error) {
	var index int64
	err := classify(s.reads.newestOf.QueryRowContext(ctx, owner[:]).Scan(&index))
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return proof.Index(index), err
}

// AccessLogged is attached to access@v1 entries, and to the deferred@v1 entries of accesses to deferred records: it gives each its record, in their order. If the delay of such a record
// is over, nothing is stored: ErrOpened.
type AccessLogged struct {
	Records []Record
	Targets []proof.Index // what is opened
	// Fresh are data keys that have to be durable with them.
	Fresh []*keys.StoredKey // nil ones are skipped
	// Keys sealed the person parts. If one is not stored its owner was erased since, and nothing is.
	Keys []keys.KeyID
	// Audit is the auditor's request that they are about; nil if it had no Idempotency-Key.
	Audit *Audit
}

func (a *AccessLogged) apply(t *tx, leaves []ledger.Leaf) error {
	if len(leaves) != len(a.Records) || len(leaves) != len(a.Targets) {
		return fmt.Errorf("store: %d entries for %d records, to %d", len(leaves), len(a.Records), len(a.Targets))
	}
	if err := saveKeys(t, a.Fresh); err != nil {
		return err
	}
	for _, id := range a.Keys {
		if err := hasKey(t, id); err != nil {
			return err
		}
	}
	for i := range leaves {
		if err := t.saveAccess(&a.Records[i], &leaves[i], a.Targets[i]); err != nil {
			return err
		}
	}
	if a.Audit == nil {
		return nil
	}
	return a.Audit.save(t, leaves)
}

func (s *Store) records(ctx context.Context, query string, args ...any) ([]PlacedRecord, error) {
	var out []PlacedRecord
	err := s.each(ctx, query, func(scan func(...any) error) error {
		var p PlacedRecord
		var index int64
		var owner []byte
		if err := scan(&index, &owner, &p.Person, &p.Admin, &p.Alone, &p.Text); err != nil {
			return err
		}
		if copy(p.Owner[:], owner) != len(p.Owner) {
			return fmt.Errorf("%w: record %d is malformed", ErrCorrupt, index)
		}
		p.Index = proof.Index(index)
		out = append(out, p)
		return nil
	}, args...)
	return out, err
}

// Payload returns the sealed answer of a disclosure, ErrNotFound once it is gone.
func (s *Store) Payload(ctx context.Context, d Seq) (sealed []byte, until time.Time, err error) {
	var at int64
	err = s.r.QueryRowContext(ctx, "SELECT sealed, until FROM payloads WHERE disclosure = ?", int64(d)).Scan(&sealed, &at)
	return sealed, time.UnixMilli(at).UTC(), classify(err)
}

// DropPayloads deletes sealed answers that are older than their time, at most limit of them, and returns how many there were.
func (s *Store) DropPayloads(ctx context.Context, now time.Time, limit int) (int64, error) {
	var n int64
	err := s.do(ctx, func(t *tx) error {
		// Payload rows lie in the order of disclosures, and so nearly in that of time: the oldest come first.
		var err error
		n, err = t.exec("DELETE FROM payloads WHERE disclosure IN (SELECT disclosure FROM (SELECT disclosure, until FROM payloads ORDER BY disclosure LIMIT ?) p WHERE until <= ?)", limit, now.UnixMilli())
		return err
	})
	return n, err
}

// statements that the paths of every request and of every page read by.
type statements struct{ filedUpto, unfiled, ownerKeys, newestOf, unread *sql.Stmt }

const ownerKeys = selectKey + " WHERE owner = ? AND kind = '" + string(keys.KindSubject) + "' ORDER BY id" // by the index keys_owner, which has no others

func (r *statements) prepare(ctx context.Context, db *reader) (err error) {
	inMonth := ""
	if db.pg { // all entries of an epoch lie in one partition
		inMonth = "r.month = (SELECT month FROM epochs WHERE number = ?2) AND "
	}
	for _, x := range []struct {
		stmt  **sql.Stmt
		query string
	}{
		{&r.filedUpto, "SELECT filed_upto FROM epochs WHERE number = ?"},
		{&r.ownerKeys, ownerKeys},
		{&r.unfiled, `SELECT r.log_index, r.owner, r.person FROM records r
			WHERE ` + inMonth + `r.log_index >= ?1 AND r.log_index < coalesce((SELECT closer FROM epochs WHERE number = ?2), 9223372036854775807) ORDER BY r.log_index LIMIT ?3`},
		{&r.newestOf, "SELECT log_index FROM records WHERE owner = ? ORDER BY log_index DESC LIMIT 1"},
		{&r.unread, countUnread},
	} {
		if *x.stmt, err = db.prepare(ctx, x.query); err != nil {
			return err
		}
	}
	return nil
}

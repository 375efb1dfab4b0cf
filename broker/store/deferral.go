package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// ErrOpened: the delay of a record ended meanwhile, or there was none. Read it anew.
var ErrOpened = errors.New("store: the delay is over")

// saveDeferral keeps the record behind a deferred@v1 entry until its delay is over. position is nil for an access.
func saveDeferral(t *tx, r *Record, index proof.Index, disclosure Seq, position any, due int64, ended string) error {
	_, err := t.exec("INSERT INTO deferrals (log_index, disclosure, position, due, ended, owner, person, admin) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		int64(index), int64(disclosure), position, due, ended, r.Owner[:], r.Person, r.Admin)
	return err
}

// saveOutcome keeps the record of a disclosure's entry: under its person, or until the delay is over.
func (t *tx) saveOutcome(r *Record, leaf *ledger.Leaf, disclosure Seq, position int) error {
	if leaf.Kind != proof.KindDeferred {
		t.saveRecord(r, leaf.Index, int64(disclosure), position)
		return nil
	}
	if t.pg != nil {
		t.pg.saveLate(r, leaf.Index, disclosure, position)
		return nil
	}
	var due int64
	if err := t.row("SELECT due FROM disclosures WHERE seq = ? AND due IS NOT NULL", int64(disclosure)).Scan(&due); err != nil {
		return fmt.Errorf("store: disclosure %d was not begun as a deferred one: %w", disclosure, classify(err))
	}
	return saveDeferral(t, r, leaf.Index, disclosure, int64(position), due, "")
}

// saveAccess keeps the record of an access: under its person, or with the record that was opened, until the delay of that is over. A delay that is over tells nobody anything: the access is
// then to be logged as any other.
func (t *tx) saveAccess(r *Record, leaf *ledger.Leaf, target proof.Index) error {
	if leaf.Kind != proof.KindDeferred {
		t.saveRecord(r, leaf.Index, nil, 0)
		return nil
	}
	var disclosure, due int64
	var ended string
	err := classify(t.row("SELECT disclosure, due, ended FROM deferrals WHERE log_index = ?", int64(target)).Scan(&disclosure, &due, &ended))
	if errors.Is(err, ErrNotFound) {
		return ErrOpened
	}
	if err != nil {
		return err
	}
	return saveDeferral(t, r, leaf.Index, Seq(disclosure), nil, due, ended)
}

// Due is a disclosure of which some records are deferred, and the delay of these.
type Due struct {
	Disclosure Seq
	At         time.Time // when it is over
}

// DueDeferrals lists disclosures whose delay is over at a time, those that are due first, from behind after on.
func (s *Store) DueDeferrals(ctx context.Context, now time.Time, after Due, limit int) ([]Due, error) {
	var out []Due
	err := s.each(ctx, dueDeferrals, func(scan func(...any) error) error {
		var due, seq int64
		err := scan(&due, &seq)
		out = append(out, Due{Seq(seq), time.UnixMilli(due).UTC()})
		return err
	}, after.At.UnixMilli(), int64(after.Disclosure), now.UnixMilli(), limit)
	return out, err
}

const dueDeferrals = "SELECT due, disclosure FROM deferrals WHERE (due, disclosure) > (?, ?) AND due <= ? GROUP BY due, disclosure ORDER BY due, disclosure LIMIT ?"

// Deferrals lists what is deferred of a disclosure: the records of its entries, all of them, then those of accesses to these, at most limit.
func (s *Store) Deferrals(ctx context.Context, d Seq, accesses int) ([]PlacedRecord, error) {
	rows, err := s.records(ctx, deferralsOf+" AND d.position IS NOT NULL ORDER BY d.position", int64(d))
	if err != nil {
		return nil, err
	}
	more, err := s.records(ctx, deferralsOf+" AND d.position IS NULL ORDER BY d.log_index LIMIT ?", int64(d), accesses)
	return append(rows, more...), err
}

const deferralsOf = "SELECT d.log_index, d.owner, d.person, d.admin, d.position IS NULL, l.text FROM deferrals d JOIN leaves l USING (log_index) WHERE d.disclosure = ?"

// DeferralsOpened is attached to opened@v1 entries: it moves the record behind each to where it is found under its person, and deletes the key under which it lay. Each of them once.
type DeferralsOpened struct {
	Records []OpenedRecord
	// Fresh are data keys that have to be durable with them.
	Fresh []*keys.StoredKey // nil ones are skipped
	// Keys seal the person parts now. If one is not stored its owner was erased since, and nothing is opened.
	Keys []keys.KeyID
	At   time.Time
}

// An OpenedRecord is one whose delay is over: its person part is sealed anew.
type OpenedRecord struct {
	Deferred proof.Index
	Record
}

func (o *DeferralsOpened) apply(t *tx, leaves []ledger.Leaf) error {
	if len(leaves) != len(o.Records) {
		return fmt.Errorf("store: %d entries for %d records", len(leaves), len(o.Records))
	}
	if err := saveKeys(t, o.Fresh); err != nil {
		return err
	}
	for _, id := range o.Keys {
		if err := hasKey(t, id); err != nil {
			return err
		}
	}
	for i := range o.Records {
		r := &o.Records[i]
		var disclosure, position int64
		var ended string
		err := classify(t.row("SELECT disclosure, coalesce(position, -1), ended FROM deferrals WHERE log_index = ?", int64(r.Deferred)).Scan(&disclosure, &position, &ended))
		if errors.Is(err, ErrNotFound) {
			return ErrOpened
		}
		if err != nil {
			return err
		}
		if err := openDeferral(t, leaves[i].Index, r.Deferred, o.At.UnixMilli(), ended); err != nil {
			return err
		}
		if position < 0 {
			t.saveRecord(&r.Record, leaves[i].Index, nil, 0)
		} else {
			t.saveRecord(&r.Record, leaves[i].Index, disclosure, int(position))
		}
	}
	return nil
}

// openDeferral notes that a deferred record is opened and deletes it.
func openDeferral(t *tx, entry, deferred proof.Index, at int64, ended string) error {
	if t.pg != nil { // the broker may do this alone
		return t.row("SELECT open_deferral(?, ?, ?, ?)", int64(entry), int64(deferred), at, ended).err
	}
	if err := dropDeferral(t, deferred); err != nil {
		return err
	}
	_, err := t.exec("INSERT INTO opened (log_index, deferred, at, ended) VALUES (?, ?, ?, ?)", int64(entry), int64(deferred), at, ended)
	return err
}

// dropDeferral deletes a deferred record with its own key, whose name is where keys.KeyOf finds it.
func dropDeferral(t *tx, index proof.Index) error {
	if _, err := t.exec("DELETE FROM keys WHERE kind = ? AND id = (SELECT substr(person, 3, 16) FROM deferrals WHERE log_index = ?)", string(keys.KindDeferred), int64(index)); err != nil {
		return err
	}
	_, err := t.exec("DELETE FROM deferrals WHERE log_index = ?", int64(index))
	return err
}

// EndDeferral lets the delay of a disclosure be over at a time, if that is before its own, for a reason. ErrNotFound if nothing of it is deferred.
func (s *Store) EndDeferral(ctx context.Context, id ID, now time.Time, reason string) (d Seq, err error) {
	err = s.alone(ctx, func(t *tx) error { // also for accesses that are being stored
		var seq int64
		if err := t.row("SELECT seq FROM disclosures WHERE id = ?", id[:]).Scan(&seq); err != nil {
			return err
		}
		d = Seq(seq)
		n, err := t.exec("UPDATE deferrals SET ended = CASE WHEN due > ?1 THEN ?2 ELSE ended END, due = CASE WHEN due > ?1 THEN ?1 ELSE due END WHERE disclosure = ?3", now.UnixMilli(), reason, seq)
		if err == nil && n == 0 {
			return ErrNotFound
		}
		return err
	})
	return d, err
}

// A Deferral says what is deferred of a disclosure, and nothing about whom it concerns.
type Deferral struct {
	Disclosure ID
	Seq        Seq
	AskedAt    time.Time
	Due        time.Time
	Entries    int         // of the disclosure
	Accesses   int         // to the records of these
	First      proof.Index // of its entries
	Text       []byte      // of that one
	Ended      string
}

// PendingDeferrals lists them in the order in which they were begun, from behind after on.
func (s *Store) PendingDeferrals(ctx context.Context, after Seq, limit int) ([]Deferral, error) {
	var out []Deferral
	err := s.each(ctx, pendingDeferrals, func(scan func(...any) error) error {
		var d Deferral
		var id []byte
		var seq, asked, due, first int64
		if err := scan(&seq, &id, &asked, &due, &d.Entries, &d.Accesses, &first, &d.Text, &d.Ended); err != nil {
			return err
		}
		if copy(d.Disclosure[:], id) != len(d.Disclosure) {
			return fmt.Errorf("%w: disclosure %d is malformed", ErrCorrupt, seq)
		}
		d.Seq, d.AskedAt, d.Due, d.First = Seq(seq), time.UnixMilli(asked).UTC(), time.UnixMilli(due).UTC(), proof.Index(first)
		out = append(out, d)
		return nil
	}, int64(after), limit)
	return out, err
}

const pendingDeferrals = `SELECT g.disclosure, c.id, c.asked_at, g.due, g.entries, g.accesses, g.first, l.text, g.ended
	FROM (SELECT disclosure, min(due) AS due, count(position) AS entries, count(*) - count(position) AS accesses, min(log_index) AS first, max(ended) AS ended
		FROM deferrals WHERE disclosure > ? GROUP BY disclosure ORDER BY disclosure LIMIT ?) g
	JOIN disclosures c ON c.seq = g.disclosure JOIN leaves l ON l.log_index = g.first ORDER BY g.disclosure`

// CountDeferrals says how many entries are deferred, and how many of these are overdue: their delay is over at a time.
func (s *Store) CountDeferrals(ctx context.Context, now time.Time) (pending, overdue int64, err error) {
	err = s.r.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM deferrals), (SELECT count(*) FROM deferrals WHERE due <= ?)", now.UnixMilli()).Scan(&pending, &overdue)
	return pending, overdue, classify(err)
}

// DeferredUnder says whether a deferred record is sealed under one of these keys.
func (s *Store) DeferredUnder(ctx context.Context, under []keys.StoredKey) (bool, error) {
	for i := range under {
		var found bool
		if err := s.r.QueryRowContext(ctx, deferredUnder, under[i].ID[:]).Scan(&found); err != nil || found {
			return found, classify(err)
		}
	}
	return false, nil
}

const deferredUnder = "SELECT EXISTS (SELECT 1 FROM deferrals WHERE substr(admin, 3, 16) = ?)" // where keys.KeyOf finds it, by the index deferrals_month

// An Ended delay.
type Ended struct {
	Deferred proof.Index
	Text     []byte    // of the deferred@v1 entry
	At       time.Time // of the opening
	Early    string    // why it was ended before its time; empty: it was over
}

// EndedBy returns the delay that an opened@v1 entry ended.
func (s *Store) EndedBy(ctx context.Context, opened proof.Index) (Ended, error) {
	var e Ended
	var deferred, at int64
	if opened > math.MaxInt64 {
		return e, ErrNotFound
	}
	err := s.r.QueryRowContext(ctx, "SELECT o.deferred, l.text, o.at, o.ended FROM opened o JOIN leaves l ON l.log_index = o.deferred WHERE o.log_index = ?", int64(opened)).Scan(&deferred, &e.Text, &at, &e.Early)
	e.Deferred, e.At = proof.Index(deferred), time.UnixMilli(at).UTC()
	return e, classify(err)
}

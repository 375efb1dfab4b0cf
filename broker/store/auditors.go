package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// An Auditor is accredited to open records and to cosign indexes.
type Auditor struct {
	ID, Name, State string
	Certificates    []AgencyKey
	Keys            []AuditorKey
}

// An AuditorKey is an Ed25519 key in the text form of signed notes. Which one it is, the log says by the digest of that text.
type AuditorKey struct {
	VKey  string
	State string
}

// AuditorChange adds or replaces an auditor and those of its certificates and keys that it names; it is attached to the first of its key@v1 entries.
type AuditorChange struct{ Auditor Auditor }

func (c *AuditorChange) apply(t *tx, _ []ledger.Leaf) error {
	t.changed(changedRegistry)
	a := &c.Auditor
	now := time.Now().UnixMilli()
	if _, err := t.exec("INSERT INTO auditors (id, name, state, created) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, state = excluded.state", a.ID, a.Name, a.State, now); err != nil {
		return err
	}
	for i := range a.Certificates {
		k := &a.Certificates[i]
		n, err := t.exec("INSERT INTO auditor_certs (spki, auditor, not_after, state, created) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (spki) DO UPDATE SET state = excluded.state, not_after = excluded.not_after WHERE auditor_certs.auditor = ?2",
			k.SPKI[:], a.ID, k.NotAfter.UnixMilli(), k.State, now)
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("%w: this certificate's key belongs to another auditor", ErrExists)
		}
	}
	for i := range a.Keys {
		k := &a.Keys[i]
		digest := proof.AuditorKey(k.VKey)
		n, err := t.exec("INSERT INTO auditor_keys (digest, auditor, vkey, state, created) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (digest) DO UPDATE SET state = excluded.state WHERE auditor_keys.auditor = ?2",
			digest[:], a.ID, k.VKey, k.State, now)
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("%w: this key belongs to another auditor", ErrExists)
		}
	}
	return nil
}

func auditors(ctx context.Context, from snapshot) (out []Auditor, err error) {
	at := map[string]int{}
	err = each(ctx, from, "SELECT id, name, state FROM auditors ORDER BY id", func(scan func(...any) error) error {
		var a Auditor
		err := scan(&a.ID, &a.Name, &a.State)
		at[a.ID] = len(out)
		out = append(out, a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the auditors: %w", err)
	}
	err = each(ctx, from, "SELECT spki, auditor, not_after, state FROM auditor_certs ORDER BY created, spki", func(scan func(...any) error) error {
		var k AgencyKey
		var spki []byte
		var auditor string
		var notAfter int64
		if err := scan(&spki, &auditor, &notAfter, &k.State); err != nil {
			return err
		}
		copy(k.SPKI[:], spki)
		k.NotAfter = time.UnixMilli(notAfter).UTC()
		i, ok := at[auditor]
		if !ok {
			return fmt.Errorf("%w: a certificate of auditor %q, who isn't registered", ErrCorrupt, auditor)
		}
		out[i].Certificates = append(out[i].Certificates, k)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the auditors' certificates: %w", err)
	}
	err = each(ctx, from, "SELECT auditor, vkey, state FROM auditor_keys ORDER BY created, digest", func(scan func(...any) error) error {
		var k AuditorKey
		var auditor string
		if err := scan(&auditor, &k.VKey, &k.State); err != nil {
			return err
		}
		i, ok := at[auditor]
		if !ok {
			return fmt.Errorf("%w: a key of auditor %q, who isn't registered", ErrCorrupt, auditor)
		}
		out[i].Keys = append(out[i].Keys, k)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the auditors' keys: %w", err)
	}
	return out, nil
}

// AuditorKeyChange is what the log says of an auditor's key after a backup was made.
type AuditorKeyChange struct {
	Auditor string
	Digest  [32]byte
	State   string
}

// apply in a restored store. Which certificate came or went with the entry isn't in the log, so that none stays in force: one that was replaced because it was stolen mustn't come back.
func (c *AuditorKeyChange) apply(t *tx) error {
	if _, err := t.exec("UPDATE auditor_keys SET state = ? WHERE digest = ? AND auditor = ?", c.State, c.Digest[:], c.Auditor); err != nil {
		return err
	}
	state := Retired
	if c.State == Revoked { // keys are revoked with their auditor, and only then
		state = Revoked
		if _, err := t.exec("UPDATE auditors SET state = ? WHERE id = ?", Revoked, c.Auditor); err != nil {
			return err
		}
	}
	_, err := t.exec("UPDATE auditor_certs SET state = ? WHERE auditor = ? AND state = ?", state, c.Auditor, Active)
	return err
}

// A Shown record was opened for an auditor, after Access had been logged.
type Shown struct{ Target, Access proof.Index }

// An Audit is a request of an auditor's with an Idempotency-Key: what is opened because of it.
type Audit struct {
	Auditor    string
	Idem, Body []byte // keyed digests of the Idempotency-Key and of the request
	At         time.Time
	// Since ends how long others of this auditor are remembered: older ones are forgotten with this.
	Since time.Time
	// Targets of the accesses that are logged now, in their order.
	Targets []proof.Index
	// Before was opened under the same key earlier.
	Before []Shown
}

// save remembers an audit with the places of its accesses.
func (a *Audit) save(t *tx, leaves []ledger.Leaf) error {
	if len(leaves) != len(a.Targets) {
		return fmt.Errorf("store: %d accesses to %d records", len(leaves), len(a.Targets))
	}
	if _, err := t.exec("DELETE FROM audits WHERE auditor = ? AND at < ?", a.Auditor, a.Since.UnixMilli()); err != nil {
		return err
	}
	var opened []byte
	for _, s := range a.Before {
		opened = appendShown(opened, s)
	}
	for i, target := range a.Targets {
		opened = appendShown(opened, Shown{target, leaves[i].Index})
	}
	n, err := t.exec("INSERT INTO audits (auditor, idem, body, at, opened) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (auditor, idem) DO UPDATE SET opened = excluded.opened WHERE audits.body = ?3 AND audits.at = ?4 AND length(audits.opened) = ?6",
		a.Auditor, a.Idem, a.Body, a.At.UnixMilli(), opened, int64(16*len(a.Before)))
	if err == nil && n != 1 {
		return fmt.Errorf("%w: another request with this key is under way", ErrExists)
	}
	return err
}

func appendShown(b []byte, s Shown) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(s.Target)), uint64(s.Access))
}

// Audit finds what was opened under an Idempotency-Key since a time; ErrNotFound if nothing was, ErrConflict if that was another request.
func (s *Store) Audit(ctx context.Context, auditor string, idem, body []byte, since time.Time) (shown []Shown, at time.Time, err error) {
	var was, opened []byte
	var ms int64
	err = classify(s.r.QueryRowContext(ctx, "SELECT body, at, opened FROM audits WHERE auditor = ? AND idem = ? AND at >= ?", auditor, idem, since.UnixMilli()).Scan(&was, &ms, &opened))
	switch {
	case err != nil:
		return nil, at, err
	case !bytes.Equal(was, body):
		return nil, at, ErrConflict
	case len(opened)%16 != 0:
		return nil, at, fmt.Errorf("%w: an audit is malformed", ErrCorrupt)
	}
	for ; len(opened) > 0; opened = opened[16:] {
		shown = append(shown, Shown{proof.Index(binary.BigEndian.Uint64(opened)), proof.Index(binary.BigEndian.Uint64(opened[8:]))})
	}
	return shown, time.UnixMilli(ms).UTC(), nil
}

// ErasedAudit is an audit@v1 entry, and who may read under it.
type ErasedAudit struct {
	Index    proof.Index // set by the log
	Auditor  string
	From, To proof.Index
	At       time.Time
	Audit    *Audit // nil without an Idempotency-Key; its one target is From
}

func (a *ErasedAudit) apply(t *tx, leaves []ledger.Leaf) error {
	if a.Audit != nil {
		if err := a.Audit.save(t, leaves); err != nil {
			return err
		}
	}
	_, err := t.exec("INSERT INTO erased_audits (log_index, auditor, first, last, at) VALUES (?, ?, ?, ?, ?)", int64(leaves[0].Index), a.Auditor, int64(a.From), int64(a.To), a.At.UnixMilli())
	return err
}

// ErasedAudit finds an audit@v1 entry of an auditor's; ErrNotFound if it is another's, too.
func (s *Store) ErasedAudit(ctx context.Context, auditor string, index proof.Index) (ErasedAudit, error) {
	a := ErasedAudit{Index: index, Auditor: auditor}
	if index > math.MaxInt64 {
		return a, ErrNotFound
	}
	var from, to, at int64
	err := s.r.QueryRowContext(ctx, "SELECT first, last, at FROM erased_audits WHERE log_index = ? AND auditor = ?", int64(index), auditor).Scan(&from, &to, &at)
	a.From, a.To, a.At = proof.Index(from), proof.Index(to), time.UnixMilli(at).UTC()
	return a, classify(err)
}

// A Row is an entry of the log with its record, if there is one.
type Row struct {
	PlacedRecord
	Kind proof.Kind
	None bool // the entry has no record in the store
	// Opened is the entry by which a deferred one was opened, and which has its record; 0: none yet.
	Opened proof.Index
}

const selectRow = `SELECT l.log_index, l.kind, l.text, coalesce(r.owner, d.owner), coalesce(r.person, d.person), coalesce(r.admin, d.admin), coalesce(r.disclosure, d.position) IS NULL, coalesce(o.log_index, 0)
	FROM leaves l LEFT JOIN records r ON r.log_index = l.log_index LEFT JOIN deferrals d ON d.log_index = l.log_index LEFT JOIN opened o ON o.deferred = l.log_index`

// RowsIn lists entries by increasing log index, at most limit: from from to to, both included, those that stand for a record. ErrNotFound if the log doesn't reach to.
func (s *Store) RowsIn(ctx context.Context, from, to proof.Index, limit int) ([]Row, error) {
	last, any, err := s.LastIndex(ctx)
	if err != nil {
		return nil, err
	}
	if !any || from > to || to > last {
		return nil, ErrNotFound
	}
	return s.rows(ctx, selectRow+" WHERE l.log_index BETWEEN ? AND ? AND l.kind IN ('"+string(proof.KindDisclosure)+"', '"+string(proof.KindAccess)+"', '"+string(proof.KindErasure)+"', '"+string(proof.KindOpened)+"', '"+
		string(proof.KindDeferred)+"') ORDER BY l.log_index LIMIT ?", int64(from), int64(to), limit)
}

// RowAt finds an entry, whatever its kind.
func (s *Store) RowAt(ctx context.Context, index proof.Index) (Row, error) {
	if index > math.MaxInt64 {
		return Row{}, ErrNotFound
	}
	rows, err := s.rows(ctx, selectRow+" WHERE l.log_index = ?", int64(index))
	if err != nil {
		return Row{}, err
	}
	if len(rows) == 0 {
		return Row{}, ErrNotFound
	}
	return rows[0], nil
}

// RowsOf lists the entries of a disclosure, the asked one first; ErrNotFound if there is none.
func (s *Store) RowsOf(ctx context.Context, id ID) ([]Row, error) {
	d, err := s.Disclosure(ctx, id)
	if err != nil {
		return nil, err
	}
	rows, err := s.rows(ctx, selectRow+` WHERE l.log_index IN (SELECT log_index FROM records WHERE disclosure = ?1 UNION ALL SELECT log_index FROM deferrals WHERE disclosure = ?1 AND position IS NOT NULL)
		ORDER BY coalesce(r.position, d.position)`, int64(d.Seq))
	if err == nil && len(rows) == 0 {
		return nil, ErrNotFound // it has no outcome yet
	}
	return rows, err
}

func (s *Store) rows(ctx context.Context, query string, args ...any) ([]Row, error) {
	var out []Row
	err := s.each(ctx, query, func(scan func(...any) error) error {
		var r Row
		var index, opened int64
		var kind string
		var owner []byte
		if err := scan(&index, &kind, &r.Text, &owner, &r.Person, &r.Admin, &r.Alone, &opened); err != nil {
			return err
		}
		r.Index, r.Kind, r.None, r.Opened = proof.Index(index), proof.Kind(kind), r.Admin == nil, proof.Index(opened)
		if !r.None && copy(r.Owner[:], owner) != len(r.Owner) {
			return fmt.Errorf("%w: record %d is malformed", ErrCorrupt, index)
		}
		out = append(out, r)
		return nil
	}, args...)
	return out, err
}

// ClosedEpoch is a closed epoch; ErrNotFound if it is open or unknown.
func (s *Store) ClosedEpoch(ctx context.Context, n proof.Epoch) (ledger.ClosedEpoch, error) {
	if n > math.MaxInt64 {
		return ledger.ClosedEpoch{}, ErrNotFound
	}
	e, err := Order{Store: s}.Epoch(ctx, n)
	if errors.Is(err, ledger.ErrNotFound) {
		return e, ErrNotFound
	}
	return e, err
}

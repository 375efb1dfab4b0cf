package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/regard-broker/regard/keys"
)

// A Delegation lets one account read another person's histories.
type Delegation struct {
	ID       ID
	Delegate keys.Owner
	Kind     string
	Granted  time.Time
	Since    time.Time
	Until    time.Time // zero: until it is revoked
	Ended    time.Time // zero: not revoked
	EndedBy  string
	Subjects []Delegated
}

// Delegated is one identifier whose history may be read.
type Delegated struct {
	Owner  keys.Owner
	Sealed []byte
}

// AddDelegation stores one, and tells both sides.
func (s *Store) AddDelegation(ctx context.Context, d *Delegation, sealed []*Sealed) error {
	return s.do(ctx, func(t *tx) error {
		if _, err := t.exec("INSERT INTO delegations (id, delegate, kind, granted, since, until) VALUES (?, ?, ?, ?, ?, ?)", d.ID[:], d.Delegate[:], d.Kind, d.Granted.UnixMilli(), d.Since.UnixMilli(), millis(d.Until)); err != nil {
			return err
		}
		for i := range d.Subjects {
			if err := sealed[i].keep(t); err != nil {
				return err
			}
			if _, err := t.exec("INSERT INTO delegated (delegation, owner, sealed) VALUES (?, ?, ?)", d.ID[:], d.Subjects[i].Owner[:], sealed[i].Blob); err != nil {
				return err
			}
		}
		return t.tellDelegation(d.ID, "granted", d.Granted)
	})
}

// tellDelegation tells the delegate, and every account that has one of the identifiers.
func (t *tx) tellDelegation(id ID, event string, now time.Time) error {
	var told []keys.Owner
	err := t.rows("SELECT delegate FROM delegations WHERE id = ?1 UNION SELECT w.account FROM delegated d JOIN watches w ON w.owner = d.owner WHERE d.delegation = ?1", func(r row) error {
		var b []byte
		err := r.Scan(&b)
		told = append(told, ownerOf(b))
		return err
	}, id[:])
	if err != nil {
		return err
	}
	for _, account := range told {
		if err := t.notify(&Notice{Account: account, Kind: NoticeDelegation, Event: event, At: now, Ref: id}); err != nil {
			return err
		}
	}
	return nil
}

// EndDelegation revokes one and tells both sides; ErrNotFound if there is none, ErrEnded if it has ended.
func (s *Store) EndDelegation(ctx context.Context, id ID, by string, now time.Time) error {
	return s.do(ctx, func(t *tx) error {
		n, err := t.exec("UPDATE delegations SET ended = ?, ended_by = ? WHERE id = ? AND ended IS NULL", now.UnixMilli(), by, id[:])
		if err != nil {
			return err
		}
		if n == 0 {
			var there int64
			if err := t.row("SELECT count(*) FROM delegations WHERE id = ?", id[:]).Scan(&there); err != nil {
				return err
			}
			if there == 0 {
				return ErrNotFound
			}
			return ErrEnded
		}
		return t.tellDelegation(id, "revoked", now)
	})
}

// DropDelegations forgets delegations that were over before t, at most limit, and returns how many there were.
func (s *Store) DropDelegations(ctx context.Context, t time.Time, limit int) (n int64, err error) {
	err = s.do(ctx, func(tx *tx) error {
		var over []ID
		err := tx.rows("SELECT id FROM delegations WHERE ended < ?1 OR until < ?1 ORDER BY id LIMIT ?2", func(r row) error {
			var b []byte
			err := r.Scan(&b)
			over = append(over, idOf(b))
			return err
		}, t.UnixMilli(), int64(limit))
		if err != nil {
			return err
		}
		for _, id := range over {
			if _, err := tx.exec("DELETE FROM delegated WHERE delegation = ?", id[:]); err != nil {
				return err
			}
			if _, err := tx.exec("DELETE FROM delegations WHERE id = ?", id[:]); err != nil {
				return err
			}
		}
		n = int64(len(over))
		return nil
	})
	return n, err
}

const selectDelegation = "SELECT id, delegate, kind, granted, since, until, ended, ended_by FROM delegations"

// Delegation finds one by its id.
func (s *Store) Delegation(ctx context.Context, id ID) (Delegation, error) {
	list, err := s.delegations(ctx, selectDelegation+" WHERE id = ?", id[:])
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Delegation{}, err
	}
	return list[0], nil
}

// Delegations lists, newest first, those of a delegate, those about an owner, or all if both are zero, with an id below before (zero: from the newest).
func (s *Store) Delegations(ctx context.Context, delegate, owner keys.Owner, before ID, limit int) ([]Delegation, error) {
	query, args := selectDelegation+" WHERE true", []any(nil)
	if before != (ID{}) {
		query, args = query+" AND id < ?", append(args, before[:])
	}
	if !delegate.IsZero() {
		query, args = query+" AND delegate = ?", append(args, delegate[:])
	}
	if !owner.IsZero() {
		query, args = query+" AND id IN (SELECT delegation FROM delegated WHERE owner = ?)", append(args, owner[:])
	}
	return s.delegations(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, limit)...)
}

func (s *Store) delegations(ctx context.Context, query string, args ...any) ([]Delegation, error) {
	var out []Delegation
	err := s.each(ctx, query, func(scan func(...any) error) error {
		var d Delegation
		var id, delegate []byte
		var granted, since int64
		var until, ended sql.NullInt64
		err := scan(&id, &delegate, &d.Kind, &granted, &since, &until, &ended, &d.EndedBy)
		d.ID, d.Delegate, d.Granted, d.Since, d.Until, d.Ended = idOf(id), ownerOf(delegate), time.UnixMilli(granted).UTC(), time.UnixMilli(since).UTC(), timeOf(until), timeOf(ended)
		out = append(out, d)
		return err
	}, args...)
	if err != nil {
		return nil, err
	}
	for i := range out {
		err := s.each(ctx, "SELECT owner, sealed FROM delegated WHERE delegation = ? ORDER BY owner", func(scan func(...any) error) error {
			var d Delegated
			var o []byte
			err := scan(&o, &d.Sealed)
			d.Owner = ownerOf(o)
			out[i].Subjects = append(out[i].Subjects, d)
			return err
		}, out[i].ID[:])
		if err != nil {
			return nil, fmt.Errorf("reading a delegation: %w", err)
		}
	}
	return out, nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/regard-broker/regard/keys"
)

const selectKey = "SELECT id, kind, owner, period, wrapped, created FROM keys"

func scanKey(scan func(...any) error) (keys.StoredKey, error) {
	var k keys.StoredKey
	var id, owner []byte
	var kind string
	var created int64
	if err := scan(&id, &kind, &owner, &k.Period, &k.Wrapped, &created); err != nil {
		return k, err
	}
	if copy(k.ID[:], id) != len(k.ID) || owner != nil && copy(k.Owner[:], owner) != len(k.Owner) {
		return k, fmt.Errorf("%w: a key row is malformed", ErrCorrupt)
	}
	k.Kind, k.Created = keys.Kind(kind), time.UnixMilli(created).UTC()
	return k, nil
}

func (s *Store) listKeys(ctx context.Context, query string, args ...any) ([]keys.StoredKey, error) {
	var out []keys.StoredKey
	err := s.each(ctx, query, func(scan func(...any) error) error {
		k, err := scanKey(scan)
		out = append(out, k)
		return err
	}, args...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// LoadKeys implements keys.KeyStore.
func (s *Store) LoadKeys(ctx context.Context, kind keys.Kind, owner keys.Owner, period string) ([]keys.StoredKey, error) {
	if owner.IsZero() {
		return s.listKeys(ctx, selectKey+" WHERE owner IS NULL AND kind = ? AND period = ? ORDER BY id", string(kind), period)
	}
	if kind != keys.KindSubject || period != "" {
		return nil, fmt.Errorf("store: keys of kind %s are not found by their owner", kind)
	}
	if s.pg {
		return s.keysOf(ctx, owner)
	}
	if !s.owners.may(owner) {
		return nil, nil
	}
	// Read for every request whose person is known and too short to be interrupted: a context that can end costs a goroutine.
	rows, err := s.reads.ownerKeys.QueryContext(context.WithoutCancel(ctx), owner[:])
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var out []keys.StoredKey
	for rows.Next() {
		k, err := scanKey(rows.Scan)
		if err != nil {
			return nil, classify(err)
		}
		out = append(out, k)
	}
	return out, classify(rows.Err())
}

// FindKeys implements keys.KeyStore.
func (s *Store) FindKeys(ctx context.Context, ids []keys.KeyID) ([]keys.StoredKey, error) {
	if s.pg { // one text for any number
		all := make([][]byte, len(ids))
		for i := range ids {
			all[i] = ids[i][:]
		}
		return s.listKeys(ctx, selectKey+" WHERE id = ANY (?)", all)
	}
	var out []keys.StoredKey
	for len(ids) > 0 {
		n := min(len(ids), 500) // below SQLite's limit of bound variables
		args := make([]any, n)
		for i := range args {
			args[i] = ids[i][:]
		}
		ids = ids[n:]
		part, err := s.listKeys(ctx, selectKey+" WHERE id IN (?"+strings.Repeat(", ?", n-1)+")", args...)
		if err != nil {
			return nil, err
		}
		out = append(out, part...)
	}
	return out, nil
}

// ListKeys implements keys.KeyStore.
func (s *Store) ListKeys(ctx context.Context, kind keys.Kind, after keys.KeyID, limit int) ([]keys.StoredKey, error) {
	if kind == "" {
		return s.listKeys(ctx, selectKey+" WHERE id > ? ORDER BY id LIMIT ?", after[:], limit)
	}
	shared := ""
	if kind != keys.KindSubject && kind != keys.KindDeferred {
		shared = " AND owner IS NULL" // few rows among those of everybody: this finds them by their index
	}
	return s.listKeys(ctx, selectKey+" WHERE id > ? AND kind = ?"+shared+" ORDER BY id LIMIT ?", after[:], string(kind), limit)
}

// SaveKeys implements keys.KeyStore.
func (s *Store) SaveKeys(ctx context.Context, ks []keys.StoredKey) error {
	ptrs := make([]*keys.StoredKey, len(ks))
	for i := range ks {
		ptrs[i] = &ks[i]
	}
	err := s.do(ctx, func(t *tx) error { return saveKeys(t, ptrs) })
	if isUnique(err) {
		return fmt.Errorf("%w: %w", keys.ErrKeyExists, err)
	}
	return err
}

func saveKeys(t *tx, ks []*keys.StoredKey) error {
	if t.pg != nil {
		t.pg.saveKeys(ks)
		return nil
	}
	for _, k := range ks {
		if k == nil {
			continue
		}
		var owner any
		if !k.Owner.IsZero() {
			owner = k.Owner[:]
		}
		if k.Kind == keys.KindSubject {
			t.owners.add(k.Owner) // before anybody can see the key
		}
		if _, err := t.exec("INSERT INTO keys (id, kind, owner, period, wrapped, created) VALUES (?, ?, ?, ?, ?, ?)",
			k.ID[:], string(k.Kind), owner, k.Period, k.Wrapped, k.Created.UnixMilli()); err != nil {
			return err
		}
	}
	return nil
}

// hasKey fails with keys.ErrNoKey if a key isn't stored. Nobody destroys keys beside this transaction, so the answer holds to its end.
func hasKey(t *tx, id keys.KeyID) error {
	if id.IsZero() {
		return nil
	}
	var n int64
	if err := t.row("SELECT count(*) FROM keys WHERE id = ?", id[:]).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return keys.ErrNoKey
	}
	return nil
}

// ReplaceKeys implements keys.KeyStore.
func (s *Store) ReplaceKeys(ctx context.Context, ks []keys.StoredKey) error {
	return s.keep(ctx, func(t *tx) error {
		for i := range ks {
			if _, err := t.exec("UPDATE keys SET wrapped = ? WHERE id = ?", ks[i].Wrapped, ks[i].ID[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// DestroyKeys implements keys.KeyStore. On SQLite secure_delete overwrites the rows; then the write-ahead log, which still holds the pages as they were, is folded in and cut to nothing. What
// PostgreSQL does, the package comment says.
func (s *Store) DestroyKeys(ctx context.Context, ids []keys.KeyID) error {
	err := s.keep(ctx, func(t *tx) error {
		for i := range ids {
			// Each minute one of answers goes, of which everybody knows by its period when it ends: for that nobody drops all others from memory.
			n, err := t.exec("DELETE FROM keys WHERE id = ? AND kind <> ?", ids[i][:], string(keys.KindPayload))
			if n > 0 {
				t.changed(changedKeys)
			} else if err == nil {
				_, err = t.exec("DELETE FROM keys WHERE id = ?", ids[i][:])
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.cutWAL(ctx)
}

// errWALBusy: readers held the write-ahead log for longer than the wait.
var errWALBusy = errors.New("store: the write-ahead log is in use and still holds deleted rows; try again")

// cutWAL folds the write-ahead log into the database and truncates it, waiting for readers.
func (s *Store) cutWAL(ctx context.Context) error {
	if s.pg {
		return nil
	}
	try := func() (busy bool, err error) {
		s.folder.mu.Lock()
		defer s.folder.mu.Unlock()
		err = s.outside(ctx, func(c *conn) error {
			// All writes wait meanwhile: a reader is waited for between the tries, not within them.
			r, err := c.checkpointWithin(50, "TRUNCATE")
			busy = r.busy
			return err
		})
		return busy, err
	}
	for range 100 {
		busy, err := try()
		if err != nil {
			return fmt.Errorf("truncating the write-ahead log: %w", classify(err))
		}
		if !busy {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errWALBusy
}

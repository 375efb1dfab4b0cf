package broker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedpg"
	"github.com/regard-broker/regard/ledger/tiles"
)

// The journal of erasures stands beside the checkpoint store, outside every backup: a store that is restored from a backup has the keys of people who were erased since, and the public
// log tells that somebody was, but not who. It holds pseudonyms, which only the keys in the store can link to a person.

const erasuresSchema = "CREATE TABLE IF NOT EXISTS erasures (id BLOB PRIMARY KEY, owner BLOB NOT NULL, log_index INTEGER) WITHOUT ROWID"

func erasuresPath(cfg *Config) string { return filepath.Join(cfg.signedDir(), "erasures.db") }

// erasuresName says to the operator where the journal is.
func erasuresName(cfg *Config) string {
	if cfg.Shared != nil {
		return "the table erasures in the database of the signed checkpoint"
	}
	return erasuresPath(cfg)
}

func openErasures(ctx context.Context, cfg *Config) (*sql.DB, error) {
	if cfg.Shared != nil {
		return signedpg.OpenDB(cfg.Shared.Signed) // the table was made with it
	}
	path, err := filepath.Abs(erasuresPath(cfg))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Close(), tiles.SyncDir(filepath.Dir(path))); err != nil {
		return nil, err
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=secure_delete(1)&_txlock=immediate"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, erasuresSchema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// hasErasures says whether there is a journal.
func hasErasures(cfg *Config) bool {
	if cfg.Shared != nil {
		return true
	}
	_, err := os.Stat(erasuresPath(cfg))
	return !errors.Is(err, fs.ErrNotExist)
}

// journalErasure remembers, outside the backups, whose erasure is under way: before its entry is logged (index nil), and again with the entry's index before any key is destroyed. It is on the
// disk when this returns. Erasures are rare: the file is not kept open.
func (b *Broker) journalErasure(ctx context.Context, e *store.Erasure, index *proof.Index) (err error) {
	db, err := openErasures(ctx, &b.cfg)
	if err != nil {
		return fmt.Errorf("opening the journal of erasures: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var at any
	if index != nil {
		at = int64(*index)
	}
	_, err = db.ExecContext(ctx, "INSERT INTO erasures (id, owner, log_index) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET log_index = coalesce(excluded.log_index, erasures.log_index)",
		e.ID[:], e.Owner[:], at)
	if err != nil {
		return fmt.Errorf("writing to the journal of erasures: %w", err)
	}
	if index == nil {
		return nil
	}
	if err := b.forgetAbandoned(ctx, db, e.Owner); err != nil {
		return fmt.Errorf("tidying the journal of erasures: %w", err)
	}
	return nil
}

// forgetAbandoned removes what was journalled about an owner and never got an entry, once another erasure of theirs has one: a restoration would take it for an erasure that the log tells of
// and the journal can't place, and let another one be missing.
func (b *Broker) forgetAbandoned(ctx context.Context, db *sql.DB, owner keys.Owner) error {
	rows, err := db.QueryContext(ctx, "SELECT id FROM erasures WHERE owner = $1 AND log_index IS NULL", owner[:])
	if err != nil {
		return err
	}
	defer rows.Close()
	var open []store.ID
	for rows.Next() {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			return err
		}
		if len(id) == len(store.ID{}) {
			open = append(open, store.ID(id))
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, id := range open {
		if known, err := b.store.Knows(ctx, id); err != nil {
			return err
		} else if known {
			continue // by a restoration: an older backup has to be told again
		}
		if _, err := db.ExecContext(ctx, "DELETE FROM erasures WHERE id = $1", id[:]); err != nil {
			return err
		}
	}
	return nil
}

// forgetErasures removes what was logged before an index from the journal: everything that a backup of before can hold is of months whose retention is over. Whoever restores such a backup
// all the same is refused, as the log counts the erasures.
func (b *Broker) forgetErasures(ctx context.Context, before proof.Index) (err error) {
	if !hasErasures(&b.cfg) || before == 0 {
		return nil
	}
	db, err := openErasures(ctx, &b.cfg)
	if err != nil {
		return fmt.Errorf("opening the journal of erasures: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "DELETE FROM erasures WHERE log_index < $1", int64(before)); err != nil {
		return fmt.Errorf("tidying the journal of erasures: %w", err)
	}
	return nil
}

// erasedSince lists the journal. A missing one is empty.
func erasedSince(ctx context.Context, cfg *Config) (_ []store.Erased, err error) {
	if !hasErasures(cfg) {
		return nil, nil
	}
	db, err := openErasures(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the journal of erasures: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "SELECT id, owner, log_index FROM erasures ORDER BY id")
	if err != nil {
		return nil, fmt.Errorf("reading the journal of erasures: %w", err)
	}
	defer rows.Close()
	var out []store.Erased
	for rows.Next() {
		var e store.Erased
		var id, owner []byte
		var index sql.NullInt64
		if err := rows.Scan(&id, &owner, &index); err != nil {
			return nil, fmt.Errorf("reading the journal of erasures: %w", err)
		}
		if copy(e.ID[:], id) != len(e.ID) || copy(e.Owner[:], owner) != len(e.Owner) {
			return nil, errors.New("reading the journal of erasures: a row is malformed")
		}
		e.Index, e.Logged = proof.Index(index.Int64), index.Valid
		out = append(out, e)
	}
	return out, rows.Err()
}

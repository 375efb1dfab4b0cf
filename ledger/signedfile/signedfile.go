// Package signedfile keeps the last signed checkpoint of a log in a SQLite file of its own.
//
// What it guarantees. When [Store.Swap] returns without an error, the new checkpoint is on the disk (WAL, synchronous=FULL: one fsync a swap, SQLite's own checkpoints
// apart) and survives kill -9 and power loss; it took the place of exactly the checkpoint that the caller named, whoever else has the file open. What [Store.Last] returns
// first after Open was synced by Open.
//
// What it doesn't. It verifies no signature: the log does. It doesn't survive the loss of the disk; the published checkpoint and the witnesses then stand in for it. Keep
// the file out of backups: an old copy of it, put back together with an old copy of the store, is what would let a log fork.
package signedfile

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/tiles"
)

// Store is a ledger.SignedStore. It is safe for concurrent use.
type Store struct {
	db   *sql.DB
	last *sql.Stmt
	swap *sql.Stmt
}

const schema = `CREATE TABLE IF NOT EXISTS signed (id INTEGER PRIMARY KEY CHECK (id = 1), note BLOB NOT NULL);
INSERT INTO signed (id, note) VALUES (1, x'') ON CONFLICT DO NOTHING;
UPDATE signed SET note = note;`

// ErrDamaged: the file isn't whole. Keep a copy of it; docs/operate.md, "It doesn't start, or the log is halted", says how to go on.
var ErrDamaged = errors.New("the file is damaged")

// Open opens or creates the file at path, readable by this user only; the directory must be on a local disk.
func Open(ctx context.Context, path string) (*Store, error) {
	if path == "" {
		return nil, errors.New("signedfile: no path given")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening the checkpoint store: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("creating the checkpoint store's directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the checkpoint store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("opening the checkpoint store: %w", err)
	}
	if err := tiles.SyncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("opening the checkpoint store: %w", err)
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("opening the checkpoint store: %w", err)
	}
	db.SetMaxOpenConns(1)
	s := &Store{db: db}
	if err := s.prepare(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("opening the checkpoint store %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) prepare(ctx context.Context) (err error) {
	// A file that lost pages could pass for an empty one, which forgets what was signed.
	var found string
	if err = s.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&found); err != nil {
		return err
	}
	if found != "ok" {
		return fmt.Errorf("%w (%s)", ErrDamaged, found)
	}
	// The last statement writes what is there again: a commit that failed before may have left it unsynced.
	if _, err = s.db.ExecContext(ctx, schema); err != nil {
		return err
	}
	if s.last, err = s.db.PrepareContext(ctx, "SELECT note FROM signed WHERE id = 1"); err != nil {
		return err
	}
	s.swap, err = s.db.PrepareContext(ctx, "UPDATE signed SET note = $1 WHERE id = 1 AND note = $2")
	return err
}

// Last implements ledger.SignedStore.
func (s *Store) Last(ctx context.Context) ([]byte, error) {
	var note []byte
	if err := s.last.QueryRowContext(ctx).Scan(&note); err != nil {
		return nil, fmt.Errorf("reading the last checkpoint: %w", err)
	}
	if len(note) == 0 {
		return nil, nil
	}
	return note, nil
}

// Swap implements ledger.SignedStore.
func (s *Store) Swap(ctx context.Context, old, new []byte) error {
	if len(new) == 0 {
		return errors.New("signedfile: an empty checkpoint")
	}
	// A nil slice would be NULL, which equals nothing.
	res, err := s.swap.ExecContext(ctx, new, bytes.Join([][]byte{{}, old}, nil))
	if err != nil {
		return fmt.Errorf("storing a checkpoint: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("storing a checkpoint: %w", err)
	}
	if n != 1 {
		return fmt.Errorf("%w: the stored checkpoint is another one than the log signed last: another process signs for this log", ledger.ErrHalted)
	}
	return nil
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

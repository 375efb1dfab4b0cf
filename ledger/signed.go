package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver
)

// SignedFile is a SignedStore in a small SQLite database of its own: one durable row, one fsync a swap. Keep it out of the backups of the Store.
type SignedFile struct{ db *sql.DB }

// OpenSignedFile opens or creates the database at path, readable by this user only.
func OpenSignedFile(ctx context.Context, path string) (*SignedFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("creating the directory of %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS signed (one INTEGER PRIMARY KEY CHECK (one = 1), note BLOB NOT NULL)"); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), db.Close())
	}
	return &SignedFile{db}, nil
}

// Close closes the database.
func (s *SignedFile) Close() error { return s.db.Close() }

// Last implements SignedStore.
func (s *SignedFile) Last(ctx context.Context) ([]byte, error) {
	var n []byte
	err := s.db.QueryRowContext(ctx, "SELECT note FROM signed").Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the last signed checkpoint: %w", err)
	}
	return n, nil
}

// Swap implements SignedStore. The comparison and the write are one statement.
func (s *SignedFile) Swap(ctx context.Context, old, new []byte) error {
	var res sql.Result
	var err error
	if old == nil {
		res, err = s.db.ExecContext(ctx, "INSERT INTO signed (one, note) VALUES (1, ?) ON CONFLICT DO NOTHING", new)
	} else {
		res, err = s.db.ExecContext(ctx, "UPDATE signed SET note = ? WHERE note = ?", new, old)
	}
	if err != nil {
		return fmt.Errorf("storing the signed checkpoint: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("storing the signed checkpoint: %w", err)
	}
	if n == 1 {
		return nil
	}
	// The very swap may have been made before by a call whose answer was lost.
	if now, err := s.Last(ctx); err == nil && bytes.Equal(now, new) {
		return nil
	}
	return fmt.Errorf("%w: another checkpoint was signed since", ErrHalted)
}

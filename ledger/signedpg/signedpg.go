// Package signedpg keeps the last signed checkpoint of a log in a PostgreSQL database, so that any of several brokers can sign next.
//
// What it guarantees. When [Store.Swap] returns without an error, the new checkpoint is on the server's disk (synchronous_commit=on) and survives the death of the server; it took the place
// of exactly the checkpoint that the caller named, whoever else has the database open: of two brokers that both believe they lead, one gets ErrHalted. What [Store.Last] returns first after Open
// was synced by Open. After an error of Swap nobody knows which of the two is stored: ask Last. Connections are made anew by themselves.
//
// Beside the checkpoint lies the table of the broker's journal of erasures, for the same reason: no backup of the store may bring back what it was before. So a database is for one log.
//
// What it doesn't. It verifies no signature: the log does. It belongs to another failure domain than the store of the broker, and Open refuses a database that holds one: an old backup of both, put back
// together, is what would let a log fork. Run it on another server, and don't restore that to an earlier moment; the published checkpoint and the witnesses stand in for it when it is lost.
package signedpg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/dsn"
)

// Store is a ledger.SignedStore. It is safe for concurrent use.
type Store struct {
	db  *sql.DB
	log string
}

// The role that signs replaces the checkpoint of a log that is there; which logs there are, the owner says.
const schema = `DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'regard_signer') THEN
    CREATE ROLE regard_signer LOGIN;
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- by somebody else, in this instant
END $$;
CREATE TABLE IF NOT EXISTS signed (log TEXT PRIMARY KEY, note BYTEA NOT NULL);
GRANT SELECT, UPDATE (note) ON signed TO regard_signer;
CREATE TABLE IF NOT EXISTS erasures (id BYTEA PRIMARY KEY, owner BYTEA NOT NULL, log_index BIGINT);
GRANT SELECT, INSERT, UPDATE, DELETE ON erasures TO regard_signer;`

// lockSchema keeps two from preparing at once.
const lockSchema = 0x7369676e6564

// ErrMissing: the database isn't prepared for this log, see Prepare.
var ErrMissing = errors.New("signedpg: the database knows no such log")

// Prepare makes, as the owner of the database, what is needed to keep the checkpoints of a log, which is named by its origin. What is there stays.
func Prepare(ctx context.Context, address, log string) (err error) {
	db, err := open(address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("preparing the checkpoint store: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	if err := apart(ctx, tx); err != nil {
		return err
	}
	for _, q := range []struct {
		text string
		args []any
	}{
		{"SELECT pg_advisory_xact_lock($1)", []any{int64(lockSchema)}},
		{schema, nil},
		{"INSERT INTO signed (log, note) SELECT $1, '' WHERE NOT EXISTS (SELECT FROM signed) ON CONFLICT DO NOTHING", []any{log}},
	} {
		if _, err := tx.ExecContext(ctx, q.text, q.args...); err != nil {
			return fmt.Errorf("preparing the checkpoint store: %w", err)
		}
	}
	var other int64
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM signed WHERE log <> $1", log).Scan(&other); err != nil {
		return fmt.Errorf("preparing the checkpoint store: %w", err)
	}
	if other > 0 {
		return errors.New("signedpg: this database keeps the checkpoints of another log: give each its own")
	}
	return tx.Commit()
}

// OpenDB opens the database of a checkpoint store alone, for the journal of erasures.
func OpenDB(address string) (*sql.DB, error) { return open(address) }

// Open opens the checkpoint store of a log as regard_signer.
func Open(ctx context.Context, address, log string) (*Store, error) {
	db, err := open(address)
	if err != nil {
		return nil, err
	}
	s := &Store{db, log}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the checkpoint store: %w", err), db.Close())
	}
	return s, nil
}

func open(address string) (*sql.DB, error) {
	cfg, err := dsn.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("signedpg: %w", err)
	}
	for name, value := range map[string]string{
		"synchronous_commit": "on", // whatever the server's default
		"statement_timeout":  "20s", "lock_timeout": "15s", "idle_in_transaction_session_timeout": "20s",
	} {
		cfg.RuntimeParams[name] = value
	}
	db := stdlib.OpenDB(*cfg)
	db.SetMaxOpenConns(2)
	return db, nil
}

// apart refuses a database in which the broker's store lies.
func apart(ctx context.Context, q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}) error {
	var there bool
	if err := q.QueryRowContext(ctx, "SELECT to_regclass('leaves') IS NOT NULL").Scan(&there); err != nil {
		return err
	}
	if there {
		return errors.New("signedpg: this is the database of the broker's store: a backup of it would bring back an old checkpoint together with an old store, and let the log fork. Use another server")
	}
	return nil
}

func (s *Store) prepare(ctx context.Context) error {
	if err := apart(ctx, s.db); err != nil {
		return err
	}
	var there bool
	if err := s.db.QueryRowContext(ctx, "SELECT to_regclass('signed') IS NOT NULL").Scan(&there); err != nil {
		return err
	}
	if !there {
		return ErrMissing
	}
	// Writes what is there again: who wrote it may not have waited for the disk.
	res, err := s.db.ExecContext(ctx, "UPDATE signed SET note = note WHERE log = $1", s.log)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(ErrMissing, err)
	}
	return nil
}

// Last implements ledger.SignedStore.
func (s *Store) Last(ctx context.Context) ([]byte, error) {
	var note []byte
	err := s.db.QueryRowContext(ctx, "SELECT note FROM signed WHERE log = $1", s.log).Scan(&note)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrMissing // never "nothing was signed"
	}
	if err != nil {
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
		return errors.New("signedpg: an empty checkpoint")
	}
	if old == nil {
		old = []byte{} // nil would be NULL, which equals nothing
	}
	res, err := s.db.ExecContext(ctx, "UPDATE signed SET note = $1 WHERE log = $2 AND note = $3", new, s.log, old)
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

// Close ends the connections.
func (s *Store) Close() error { return s.db.Close() }

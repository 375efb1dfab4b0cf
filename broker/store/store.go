// Package store is the broker's memory, on SQLite or PostgreSQL: intents, outcomes, the order of the log, wrapped keys, and the registry of agencies, agreements, services and bundles.
//
// What it guarantees. A write that returned without an error is on the disk and survives kill -9 and power loss. An outcome, its records and the log indexes of its entries are one
// transaction.
//
// What it doesn't. It never sees personal data in clear: the callers seal first. It doesn't survive the loss of the disk, and a copy made earlier still holds what was deleted later.
//
// # SQLite
//
// WAL, synchronous=FULL. One process at a time: a second one on the same directory is refused. A deleted key is overwritten in the database file and gone from the write-ahead log when
// DestroyKeys returns.
//
// # PostgreSQL
//
// Any number of processes on one database. What is read and written together holds against all of them: see lane.go for the locks. A write that failed with ErrUnavailable may have happened.
//
// Three roles: the owner of the tables, who migrates; regard_broker, which adds to what is recorded and can neither change nor take away from it; regard_keeper, for retention and erasures.
// The server enforces it. Open refuses to serve with a role that may do more.
//
// A deleted key is gone from all queries when DestroyKeys returns. Its bytes stay in the table until vacuum and later rows overwrite them, and in the server's write-ahead log, its archive and
// its replicas for as long as these are kept. They are wrapped by the custodian's key all the time.
//
// Leaves and records lie in partitions by month: that in which the epoch of the entry was opened, in UTC. The transaction that opens an epoch makes those of its month and of the next two; there is
// no default partition, so nothing can come to lie in none. DropDetail takes what is left of a month's records away at once when the end of retention has emptied all their person parts: it is sealed under
// a destroyed key. What stays says whose they are and where they stand, so that histories tell of them; and the leaves of that month, and with them every proof.
package store

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/regard-broker/regard/ledger/proof"
)

//go:embed migrations
var migrations embed.FS

// Errors, by what the caller should do.
var (
	// ErrLocked: another broker works on this directory. Stop it, or choose another directory.
	ErrLocked = errors.New("store: another process uses this directory")
	// ErrNotFound: no such row; answer as for something that never existed.
	ErrNotFound = errors.New("store: not found")
	// ErrConflict: the same Idempotency-Key with another body. Answer 409.
	ErrConflict = errors.New("store: the idempotency key was used with another request")
	// ErrExists: a row with this name is there already.
	ErrExists = errors.New("store: exists already")
	// ErrClosed: the store is shutting down.
	ErrClosed = errors.New("store: closed")
	// ErrFull: the disk has no room. Nothing was written; free space, the store goes on by itself.
	ErrFull = errors.New("store: no space left on the disk")
	// ErrCorrupt: the database is damaged. Restore it; see docs/operate.md.
	ErrCorrupt = errors.New("store: the database is damaged")
)

// Config of a store.
type Config struct {
	// Dir holds store.db and its lock. It is created with mode 0700.
	Dir string
	// Postgres is how to reach a PostgreSQL database that Migrate has prepared, as regard_broker or a member of it: keywords and values, or a URL. It takes the place of Dir. A password in it is
	// refused: it comes from a passfile.
	Postgres string
	// Keeper is the same as regard_keeper. Without it, what retention and erasures need fails with ErrNoKeeper.
	Keeper string
	// Member is the number of this process among those that use the database, see package cluster; 0: it is the only one.
	Member int64
	// Readers is the size of the read pool; 0 means 4, with PostgreSQL 16.
	Readers int
	// Mailing says that somebody sends what is in the outbox. Without it no letter to an agency is put there: they would be about contests of long ago when mails are sent one day.
	Mailing bool
	Logger  *slog.Logger
}

// Store is safe for concurrent use.
type Store struct {
	path    string
	lock    *os.File
	mailing bool
	conn    *conn // SQLite's, owned by the writer goroutine
	pg      bool  // PostgreSQL
	member  int64
	logins  []*pgx.ConnConfig // PostgreSQL's: of the broker, and of the keeper
	r       *reader
	log     *slog.Logger

	lanes   lanes
	looks   chan *look // PostgreSQL's
	looking sync.WaitGroup
	closed  atomic.Bool
	mu      sync.RWMutex // held for reading while sending to a lane or to looks
	reads   statements
	slots   slots // the writer's
	folder  folder
	owners  owners
	carried carried
	stats   Stats
}

// Stats counts what the writer did.
type Stats struct {
	Commits atomic.Int64 // durable transactions, one fsync each
	Jobs    atomic.Int64 // writes that they carried
	Trips   atomic.Int64 // to PostgreSQL and back, for all of them
}

// Open opens or creates the store in cfg.Dir, or opens the one in a PostgreSQL database.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Readers == 0 {
		cfg.Readers = 4
		if cfg.Postgres != "" {
			cfg.Readers = 16
		}
	}
	switch {
	case cfg.Postgres != "" && cfg.Dir != "":
		return nil, errors.New("store: a directory and a PostgreSQL database were given, one is needed")
	case cfg.Postgres != "":
		return openPostgres(ctx, cfg)
	case cfg.Dir == "":
		return nil, errors.New("store: no directory given")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the store's directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{path: filepath.Join(cfg.Dir, "store.db"), lock: lock, log: cfg.Logger, mailing: cfg.Mailing}
	if err := s.open(ctx, cfg.Readers); err != nil {
		s.release()
		return nil, fmt.Errorf("opening %s: %w", s.path, classify(err))
	}
	s.lanes = oneLane(newLane(s.transact, s.conn, nil))
	return s, nil
}

func lockDir(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the store's lock: %w", err)
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	// A command that this process is just starting has all that was open until it has begun, a lock that was given back, too.
	for end := time.Now().Add(time.Second); errors.Is(err, syscall.EWOULDBLOCK) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return lock, nil
}

const pragmas = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_pragma=temp_store(MEMORY)"

func (s *Store) open(ctx context.Context, readers int) (err error) {
	// The file is made before SQLite does, so that it is never readable by others.
	if err := s.folder.openFile(s.path); err != nil {
		return err
	}
	fi, err := s.folder.file.Stat()
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others than its owner may read or write it (mode %v): chmod 600", fi.Mode().Perm())
	}
	dsn := "file:" + s.path + pragmas
	if err := migrate(ctx, dsn); err != nil {
		return err
	}
	// secure_delete: a destroyed key must not linger in free pages. wal_autocheckpoint: see folder.
	// cache_size: 8 MB. With a million records each disclosure touches a page of three indexes at random, and the system has them in its memory, too. A larger cache costs more than it saves: SQLite
	// walks through all of it at a commit in which pages were split (balance_nonroot gives one the number of the lock byte's page for a moment, which lies beyond the end of the file).
	if s.conn, err = openConn(dsn + "&_pragma=secure_delete(1)&_pragma=cache_size(-8000)&_pragma=wal_autocheckpoint(" + strconv.Itoa(maxWALPages) + ")"); err != nil {
		return err
	}
	if err := s.startFolder(dsn + "&_pragma=cache_size(-100)"); err != nil {
		return err
	}
	if err := s.slots.load(s.conn); err != nil {
		return err
	}
	if err := s.owners.load(s.conn); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", dsn+"&_pragma=query_only(1)&_pragma=cache_size(-4000)")
	if err != nil {
		return err
	}
	s.r = newReader(db, readers, false)
	return s.reads.prepare(ctx, s.r)
}

func migrate(ctx context.Context, dsn string) (err error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	sub, err := fs.Sub(migrations, "migrations/sqlite")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, sub)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// Close waits for the writes in hand and closes the files.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.mu.Lock()
	s.lanes.close()
	if s.looks != nil {
		close(s.looks)
	}
	s.mu.Unlock()
	s.lanes.wait()
	s.looking.Wait()
	return s.release()
}

func (s *Store) release() error {
	var errs []error
	if s.r != nil {
		errs = append(errs, s.r.db.Close())
	}
	errs = append(errs, s.folder.stop())
	if s.conn != nil {
		errs = append(errs, s.conn.close())
	}
	if s.folder.file != nil { // after all of SQLite's, see openFile
		errs = append(errs, s.folder.file.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Stats of the writer.
func (s *Store) Stats() *Stats { return &s.stats }

// Check reads one row: is the store there at all?
func (s *Store) Check(ctx context.Context) error {
	var n int
	return classify(s.r.QueryRowContext(ctx, "SELECT count(*) FROM meta").Scan(&n))
}

func (s *Store) transact(batch []*job) error {
	if _, err := s.conn.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	t := &tx{lite: s.conn, mailing: s.mailing, slots: &s.slots, owners: &s.owners}
	for _, j := range batch {
		err := j.do(t)
		if err == nil {
			err = t.flush()
		}
		if err != nil {
			if _, rerr := s.conn.exec("ROLLBACK"); rerr != nil {
				s.log.Error("rolling back", "error", rerr)
			}
			s.slots.rolledBack()
			return err
		}
	}
	if _, err := s.conn.exec("COMMIT"); err != nil {
		// SQLite may or may not have rolled back by itself (https://sqlite.org/lang_transaction.html); a second ROLLBACK does no harm.
		s.conn.exec("ROLLBACK") //nolint:errcheck // see above
		s.slots.rolledBack()
		return err
	}
	s.slots.committed()
	s.stats.Commits.Add(1)
	s.stats.Jobs.Add(int64(len(batch)))
	s.folder.written()
	return nil
}

// tx is a transaction on one of the two.
type tx struct {
	lite    *conn // or
	pg      *pgTx
	mailing bool
	slots   *slots   // of SQLite
	owners  *owners  // of SQLite
	records []placed // that go in together, see flush
}

// The arguments are copied for PostgreSQL, so that SQLite's needn't be allocated.

func (t *tx) exec(query string, args ...any) (int64, error) {
	if t.pg != nil {
		return t.pg.exec(query, append([]any(nil), args...))
	}
	return t.lite.exec(query, args...)
}

func (t *tx) row(query string, args ...any) row {
	if t.pg != nil {
		return t.pg.row(query, append([]any(nil), args...))
	}
	return t.lite.row(query, args...)
}

func (t *tx) rows(query string, fn func(row) error, args ...any) error {
	if t.pg != nil {
		return t.pg.rows(query, fn, append([]any(nil), args...))
	}
	return t.lite.rows(query, fn, args...)
}

// insert inserts rows, whose values lie one behind the other.
func (t *tx) insert(into *rowsOf, values []any) error {
	if t.pg != nil {
		return t.pg.insert(into, values)
	}
	return t.lite.insert(into.sqlite, len(into.types), values)
}

// or chooses between the two where SQL can't be shared.
func (t *tx) or(sqlite, postgres string) string {
	if t.pg != nil {
		return postgres
	}
	return sqlite
}

type placed struct {
	*Record
	index      proof.Index
	disclosure any // nil for none
	position   int
}

func (t *tx) saveRecord(r *Record, index proof.Index, disclosure any, position int) {
	t.records = append(t.records, placed{r, index, disclosure, position})
}

// flush writes the records that were put off, in the order of their table: entries of a batch are shuffled, and rows that come behind each other are appended.
func (t *tx) flush() error {
	if len(t.records) > 0 {
		slices.SortFunc(t.records, func(a, b placed) int { return cmp.Compare(a.index, b.index) })
		values := make([]any, 0, 6*len(t.records))
		for i := range t.records {
			r := &t.records[i]
			values = append(values, int64(r.index), r.disclosure, int64(r.position), r.Owner[:], r.Person, r.Admin)
		}
		t.records = t.records[:0]
		into := intoRecords
		if t.pg != nil {
			into, values = t.pg.inEpoch(values)
		}
		if err := t.insert(into, values); err != nil {
			return err
		}
	}
	if t.pg != nil {
		return t.pg.flush()
	}
	return nil
}

// classify gives the databases' errors a meaning that callers can act on.
func classify(err error) error {
	var se *sqlite.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case errors.As(err, &se):
		switch se.Code() & 0xff {
		case sqlite3.SQLITE_FULL:
			return fmt.Errorf("%w (%v)", ErrFull, err)
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return fmt.Errorf("%w (%v)", ErrCorrupt, err)
		}
		return err
	}
	return classifyPostgres(err)
}

// isUnique: a row with this name is there already.
func isUnique(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && se.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || isUniquePostgres(err)
}

// isRefused says of an error of a transaction that it is about what was to be stored, and not about the database.
func isRefused(err error) bool {
	var se *sqlite.Error
	if errors.As(err, &se) {
		return se.Code()&0xff == sqlite3.SQLITE_CONSTRAINT
	}
	return isRefusedPostgres(err)
}

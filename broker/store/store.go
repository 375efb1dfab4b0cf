// Package store is the broker's memory on SQLite: intents, outcomes, the order of the log, wrapped keys, and the registry of agencies, agreements, services and bundles.
//
// What it guarantees. A write that returned without an error is on the disk (WAL, synchronous=FULL) and survives kill -9 and power loss. An outcome, its records
// and the log indexes of its entries are one transaction. A deleted key is overwritten in the database file and gone from the write-ahead log when DestroyKeys returns.
// One process at a time: a second one on the same directory is refused.
//
// What it doesn't. It never sees personal data in clear: the callers seal first. It doesn't survive the loss of the disk, and a copy made earlier still holds what was deleted later.
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
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

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
	// ErrCorrupt: the database file is damaged. Restore it; see docs/operate.md.
	ErrCorrupt = errors.New("store: the database file is damaged")
)

// Config of a store.
type Config struct {
	// Dir holds store.db and its lock. It is created with mode 0700.
	Dir string
	// Readers is the size of the read pool; 0 means 4.
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
	conn    *conn // owned by the writer goroutine
	r       *sql.DB
	log     *slog.Logger

	jobs   chan *job
	done   chan struct{}
	closed atomic.Bool
	mu     sync.RWMutex // held for reading while sending to jobs
	reads  statements
	slots  slots // the writer's
	owners owners
	stats  Stats
}

// Stats counts what the writer did.
type Stats struct {
	Commits atomic.Int64 // durable transactions, one fsync each
	Jobs    atomic.Int64 // writes that they carried
}

// job is one write; the writer joins all waiting jobs in one transaction.
type job struct {
	do   func(*tx) error
	out  func(*conn) error // instead of do: runs alone, outside any transaction
	done chan error
}

// maxJobs bounds a transaction, so that a write never waits for an endless one.
const maxJobs = 512

// Open opens or creates the store in cfg.Dir.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Dir == "" {
		return nil, errors.New("store: no directory given")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Readers == 0 {
		cfg.Readers = 4
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the store's directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		path: filepath.Join(cfg.Dir, "store.db"), lock: lock, log: cfg.Logger, mailing: cfg.Mailing,
		jobs: make(chan *job, maxJobs), done: make(chan struct{}),
	}
	if err := s.open(ctx, cfg.Readers); err != nil {
		s.release()
		return nil, fmt.Errorf("opening %s: %w", s.path, classify(err))
	}
	go s.write()
	return s, nil
}

func lockDir(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the store's lock: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
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
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	f.Close()
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
	// secure_delete: a destroyed key must not linger in free pages. wal_autocheckpoint: 64 MB, so that a page that many commits change is seldom folded into the database.
	// cache_size: 32 MB. With a million records each disclosure touches a page of three indexes at random; a larger cache costs more than it saves, because SQLite walks
	// through all of it after splitting a page.
	if s.conn, err = openConn(dsn + "&_pragma=secure_delete(1)&_pragma=cache_size(-32000)&_pragma=wal_autocheckpoint(16000)"); err != nil {
		return err
	}
	if err := s.slots.load(s.conn); err != nil {
		return err
	}
	if err := s.owners.load(s.conn); err != nil {
		return err
	}
	if s.r, err = sql.Open("sqlite", dsn+"&_pragma=query_only(1)&_pragma=cache_size(-4000)"); err != nil {
		return err
	}
	s.r.SetMaxOpenConns(readers)
	s.r.SetMaxIdleConns(readers)
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
	close(s.jobs)
	s.mu.Unlock()
	<-s.done
	return s.release()
}

func (s *Store) release() error {
	var errs []error
	if s.r != nil {
		errs = append(errs, s.r.Close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.close())
	}
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}

// Stats of the writer.
func (s *Store) Stats() *Stats { return &s.stats }

// Check reads one row: is the store there at all?
func (s *Store) Check(ctx context.Context) error {
	var n int
	return classify(s.r.QueryRowContext(ctx, "SELECT count(*) FROM meta").Scan(&n))
}

// do runs f in the writer's next transaction and returns when that is durable. f may run twice: alone again, if another job of its transaction failed.
func (s *Store) do(ctx context.Context, f func(*tx) error) error {
	return s.submit(ctx, &job{do: f, done: make(chan error, 1)})
}

// outside runs f on the writer's connection between two transactions.
func (s *Store) outside(ctx context.Context, f func(*conn) error) error {
	return s.submit(ctx, &job{out: f, done: make(chan error, 1)})
}

func (s *Store) submit(ctx context.Context, j *job) error {
	s.mu.RLock()
	if s.closed.Load() {
		s.mu.RUnlock()
		return ErrClosed
	}
	select {
	case s.jobs <- j:
		s.mu.RUnlock()
	case <-ctx.Done():
		s.mu.RUnlock()
		return ctx.Err()
	}
	// The write happens whether or not the caller still waits; its outcome must not be guessed, so the wait isn't cut short.
	return <-j.done
}

// write is the only goroutine that writes: all jobs that wait while a transaction is being synced go into the next one.
func (s *Store) write() {
	defer close(s.done)
	batch := make([]*job, 0, maxJobs)
	for {
		j, ok := <-s.jobs
		if !ok {
			return
		}
		// Whoever can run now may have something to write, too.
		runtime.Gosched()
		batch = batch[:0]
		var alone *job
	more:
		for {
			if j.out != nil {
				alone = j
				break
			}
			if batch = append(batch, j); len(batch) == maxJobs {
				break
			}
			select {
			case j, ok = <-s.jobs:
				if !ok {
					break more
				}
			default:
				break more
			}
		}
		if len(batch) > 0 {
			s.commit(batch)
		}
		if alone != nil {
			alone.done <- classify(alone.out(s.conn))
		}
	}
}

func (s *Store) commit(batch []*job) {
	err := s.transact(batch)
	if err != nil && len(batch) > 1 {
		// One job's failure is not the others': each gets a transaction of its own.
		for _, j := range batch {
			j.done <- classify(s.transact([]*job{j}))
		}
		return
	}
	for _, j := range batch {
		j.done <- classify(err)
	}
}

func (s *Store) transact(batch []*job) error {
	if _, err := s.conn.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	t := &tx{conn: s.conn, mailing: s.mailing, slots: &s.slots, owners: &s.owners}
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
	return nil
}

// tx gives jobs the writer's connection within a transaction.
type tx struct {
	*conn
	mailing bool
	slots   *slots
	owners  *owners
	records []placed // that go in together, see flush
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
	if len(t.records) == 0 {
		return nil
	}
	slices.SortFunc(t.records, func(a, b placed) int { return cmp.Compare(a.index, b.index) })
	values := make([]any, 0, 6*len(t.records))
	for i := range t.records {
		r := &t.records[i]
		values = append(values, int64(r.index), r.disclosure, int64(r.position), r.Owner[:], r.Person, r.Admin)
	}
	t.records = t.records[:0]
	return t.insert("INSERT INTO records (log_index, disclosure, position, owner, person, admin)", 6, values)
}

// classify gives SQLite's errors a meaning that callers can act on.
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
	}
	return err
}

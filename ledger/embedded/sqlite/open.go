package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrLocked says that another process, or another Storage in this one, owns the
// file. Wait for it to end or stop it; don't remove the lock file.
var ErrLocked = errors.New("log database is in use")

// errClosed is what everything answers after Close.
var errClosed = status.Error(codes.Unavailable, "the log database is closed")

// DefaultCheckLimit is 256 MiB: about a second to check.
const DefaultCheckLimit = 256 << 20

// Config says where the database is and how to open it.
type Config struct {
	// Path of the database file. Directory (0700) and file (0600) are created
	// if missing. Beside it: Path-wal, Path-shm and Path.lock. Use a local disk.
	Path string
	// Logger gets the few events that an operator should know. Nil is silence.
	Logger *slog.Logger
	// Clock stamps trees. Nil is time.Now.
	Clock func() time.Time
	// Readers is how many snapshots can be open at once; others wait. 0 is 8.
	Readers int
	// CheckLimit is the largest file, in bytes, whose structure Open checks
	// from end to end (larger ones: the schema only). 0 is DefaultCheckLimit,
	// negative is never.
	CheckLimit int64

	vfs      string // tests: a file system that fails or counts
	maxPages int64  // tests: a small disk
	walPages int64  // tests: frequent checkpoints
}

// Storage is an open database. It is safe for concurrent use: one writer at a
// time, readers beside it.
type Storage struct {
	path   string
	logger *slog.Logger
	clock  func() time.Time
	lock   *os.File
	write  connOptions
	read   connOptions

	// keeper is idle for ever. While it is open, closing a writer that failed is
	// not closing the last connection, so what a failed commit may have left in the
	// WAL is never recovered as if it had been synced.
	keeper *conn
	// A connection in a channel is idle; nil stands for one to be opened.
	writer  chan *conn
	readers chan *conn

	closing   chan struct{}
	closeOnce sync.Once
}

// Open opens or creates the database. Its errors say what to do: ErrLocked is
// another owner, anything else a wrong path, wrong permissions, a damaged file
// or a file of another program or version.
func Open(ctx context.Context, cfg Config) (_ *Storage, err error) {
	if cfg.Path == "" {
		return nil, errors.New("opening the log database: no path given")
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("opening the log database: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Readers <= 0 {
		cfg.Readers = 8
	}
	if cfg.CheckLimit == 0 {
		cfg.CheckLimit = DefaultCheckLimit
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("creating the log's directory: %w", err)
	}
	lock, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	s := &Storage{
		path:    path,
		logger:  cfg.Logger,
		clock:   cfg.Clock,
		lock:    lock,
		write:   connOptions{path: path, vfs: cfg.vfs, maxPages: cfg.maxPages, walPages: cfg.walPages},
		read:    connOptions{path: path, vfs: cfg.vfs, walPages: cfg.walPages, readOnly: true},
		writer:  make(chan *conn, 1),
		readers: make(chan *conn, cfg.Readers),
		closing: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	if err := s.check(cfg.CheckLimit); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// A new connection: quick_check leaves the old one unable to checkpoint.
	c, err := openConn(s.write)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := c.useWAL(); err != nil {
		c.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.keeper, err = openConn(s.read); err == nil {
		var n int64
		err = s.keeper.queryInts(`SELECT count(*) FROM Tree`, &n) // attaches to the WAL
	}
	if err != nil {
		if s.keeper != nil {
			s.keeper.close()
		}
		c.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s.writer <- c
	for range cfg.Readers {
		s.readers <- nil
	}
	return s, nil
}

// check looks at the file before anything is written to it: the schema before
// the journal mode is touched, so that a file of another program isn't changed.
func (s *Storage) check(limit int64) error {
	fi, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	c, err := openConn(s.write)
	if err != nil {
		return err
	}
	defer c.close()
	switch {
	case fi.Size() <= limit:
		problem := ""
		if err := c.query(`PRAGMA quick_check(1)`, func(r []driver.Value) error {
			problem, _ = r[0].(string)
			return nil
		}); err != nil {
			return err
		}
		if problem != "ok" {
			return &Error{op: "checking", code: codes.DataLoss, err: errors.New(problem),
				hint: "the file is damaged: stop, keep it for examination and restore the log from a backup or from its tiles"}
		}
	case limit > 0:
		s.logger.Info("log database is too large for a full check at start; run PRAGMA quick_check on a copy now and then",
			"path", s.path, "bytes", fi.Size(), "limit", limit)
	}
	return prepareSchema(c, s.path)
}

// Close waits for the transactions that are open, then copies the WAL back and
// releases the file. Later calls fail with Unavailable.
func (s *Storage) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		for range cap(s.readers) {
			if c := <-s.readers; c != nil {
				c.close()
			}
		}
		s.keeper.close()
		if c := <-s.writer; c != nil {
			c.close()
		}
		_ = s.lock.Close()
	})
	return nil
}

// acquire takes a connection and begins a transaction on it.
func (s *Storage) acquire(ctx context.Context, write bool) (*conn, error) {
	pool, opts := s.readers, s.read
	if write {
		pool, opts = s.writer, s.write
	}
	select {
	case <-s.closing:
		return nil, errClosed
	default:
	}
	var c *conn
	select {
	case c = <-pool:
	case <-s.closing:
		return nil, errClosed
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if err := ctx.Err(); err != nil {
		pool <- c
		return nil, status.FromContextError(err).Err()
	}
	if c == nil {
		var err error
		if c, err = openConn(opts); err != nil {
			pool <- nil
			return nil, err
		}
	}
	c.before, c.after = c.after, nil
	if err := c.begin(write); err != nil {
		c.close()
		pool <- nil
		return nil, err
	}
	return c, nil
}

// finish ends the transaction and gives the connection back. After any failure
// the connection is closed, which rolls back whatever SQLite still held open,
// and the next user gets a new one.
func (s *Storage) finish(c *conn, write, commit bool) error {
	pool := s.readers
	if write {
		pool = s.writer
	}
	var err error
	if commit {
		err = c.commit()
	} else {
		err = c.rollback()
	}
	if err == nil {
		pool <- c
		return nil
	}
	c.close()
	pool <- nil
	if !commit {
		// The transaction is gone either way, most likely SQLite had rolled it
		// back by itself after a full disk.
		return nil
	}
	return err
}

// ping reads the file, for CheckDatabaseAccessible.
func (s *Storage) ping(ctx context.Context) error {
	c, err := s.acquire(ctx, false)
	if err != nil {
		return err
	}
	var n int64
	err = c.queryInts(`SELECT count(*) FROM Tree`, &n)
	return errors.Join(err, s.finish(c, false, true))
}

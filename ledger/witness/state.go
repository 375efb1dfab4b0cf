package witness

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/witness/persistence/sqlite"
	"golang.org/x/sys/unix"

	"github.com/regard-broker/regard/ledger/tiles"
)

// state is the persistence of the core, with what a process needs beside it. Commits are synced (WAL, synchronous=FULL) before the core answers.
type state struct {
	inner *sqlite.Persistence
	close func() error
	lock  *os.File
	at    func()
}

// Create makes an empty state, readable by its owner only; it overwrites nothing. The directory must be on a local disk.
func Create(ctx context.Context, path string) error {
	if strings.ContainsAny(path, "?#") {
		return errors.New("witness: the path of the state holds a ? or #: choose another")
	}
	if err := writeNew(path, nil); err != nil {
		return fmt.Errorf("creating the witness's state: %w", err)
	}
	_, done, err := sqlite.New(ctx, sqlite.Opts{Path: path, MaxOpenConns: 1})
	if err != nil {
		return fmt.Errorf("creating the witness's state: %w", err)
	}
	if err := done(); err != nil {
		return fmt.Errorf("creating the witness's state: %w", err)
	}
	return tiles.SyncDir(filepath.Dir(path))
}

func openState(ctx context.Context, path string) (_ *state, err error) {
	if err := present(path); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	s := &state{lock: lock}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	if err := check(ctx, path); err != nil {
		return nil, err
	}
	if s.inner, s.close, err = sqlite.New(ctx, sqlite.Opts{Path: path, MaxOpenConns: 1}); err != nil {
		return nil, fmt.Errorf("opening the witness's state: %w", err)
	}
	return s, nil
}

// present refuses a state that isn't there, or that others can read.
func present(path string) error {
	if path == "" || strings.ContainsAny(path, "?#") {
		return errors.New("witness: no usable path of the state is given")
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0:
		return fmt.Errorf("%w (%s). If it is lost, don't make an empty one for the same key: make a new witness (regard witness init), and tell the logs and whoever verifies them that the old one is gone", ErrNoState, path)
	case err != nil:
		return fmt.Errorf("opening the witness's state: %w", err)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("witness: others may read the state %s (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	return nil
}

// check refuses a database that isn't whole: a lost page could pass for a log that was never seen.
func check(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return fmt.Errorf("opening the witness's state: %w", err)
	}
	defer db.Close()
	var found string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&found); err != nil {
		return fmt.Errorf("checking the witness's state: %w", err)
	}
	if found != "ok" {
		return fmt.Errorf("witness: the state %s is damaged (%s): keep it, and make a new witness with another key", path, found)
	}
	return nil
}

// lockFile holds a lock for as long as the file is open. The kernel drops it when the process dies.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the witness's state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (%s)", ErrLocked, name)
		}
		return nil, fmt.Errorf("locking the witness's state: %w", err)
	}
	return f, nil
}

// Init implements witness.LogStatePersistence.
func (s *state) Init(ctx context.Context) error { return s.inner.Init(ctx) }

// Latest implements witness.LogStatePersistence.
func (s *state) Latest(ctx context.Context, origin string) ([]byte, error) {
	return s.inner.Latest(ctx, origin)
}

// Update implements witness.LogStatePersistence. The core takes whatever comes first; with the empty tree in the place of nothing, it checks the old size and the proof of the first request, too.
func (s *state) Update(ctx context.Context, origin string, f func([]byte) ([]byte, error)) error {
	err := s.inner.Update(ctx, origin, func(stored []byte) ([]byte, error) {
		if stored == nil {
			stored = emptyTree(origin)
		}
		next, err := f(bytes.Clone(stored))
		if err == nil && len(next) == 0 {
			err = errors.New("witness: the core gave nothing to store")
		}
		return next, err
	})
	if err == nil && s.at != nil {
		s.at()
	}
	return err
}

// emptyTree is a checkpoint of size 0, unsigned: it is never stored.
func emptyTree(origin string) []byte {
	return fmt.Appendf(nil, "%s\n0\n%s\n", origin, encodeHash(rfc6962.DefaultHasher.EmptyRoot()))
}

// Close closes the database and lets another process have it.
func (s *state) Close() error { return errors.Join(s.close(), s.lock.Close()) }

package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/regard-broker/regard/ledger/tiles"
)

// lockFile takes an exclusive lock on path+".lock" for as long as the returned
// file is open. The kernel drops it when the process dies, so there is no stale
// lock; the file itself stays, since removing it would let two processes lock
// two files of one name.
func lockFile(path string) (*os.File, error) {
	name := path + ".lock"
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating the lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	// A command that this process is just starting has all that was open until it has begun, a lock that was given back, too.
	for end := time.Now().Add(time.Second); errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		holder := make([]byte, 20)
		n, _ := f.Read(holder)
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w: use a file system that supports flock", name, err)
		}
		who := "another process"
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(holder[:n]))); err == nil {
			who = fmt.Sprintf("process %d", pid)
		}
		return nil, fmt.Errorf("%w: %s is held by %s: stop it first, or give this one a log of its own", ErrLocked, name, who)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // a hint for people only
	}
	return f, nil
}

// prepareFile creates the file so that nobody else can read it, and refuses what
// others could read or replace. SQLite gives its -wal and -shm
// files the permissions of the database.
func prepareFile(path string) error {
	dir := filepath.Dir(path)
	di, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if di.Mode().Perm()&0o022 != 0 && di.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("others may replace files in %s (mode %v): run chmod go-w on it", dir, di.Mode().Perm())
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("creating the log database: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	for _, name := range []string{path, path + "-wal", path + "-shm", path + ".lock"} {
		fi, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) && name != path {
			continue
		} else if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file: give another path", name)
		}
		if fi.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("others may read %s (mode %v): run chmod 600 on it", name, fi.Mode().Perm())
		}
	}
	// The name must be as durable as what will be in the file.
	return tiles.SyncDir(dir)
}

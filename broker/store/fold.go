package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite"
)

const (
	// foldPages is after how many pages the write-ahead log is folded into the database: 64 MB, so that a page that many commits change is seldom folded.
	foldPages = 16000
	// foldRest is how many may be left to the writer, and how many are written until a fold that didn't succeed is tried again.
	foldRest = 256
	// maxFoldPasses bounds the tries to get there, if the writer is as fast.
	maxFoldPasses = 4
	// maxWALPages is when the writer folds at the end of a commit, because folding beside it fails or doesn't keep up.
	maxWALPages = 4 * foldPages
	// foldWait is for how many milliseconds the writer waits for those who still read from the log.
	foldWait = 20
)

// folder folds SQLite's write-ahead log into the database while the writer goes on. If the writer did it, as SQLite has it, every request would wait meanwhile, a tenth of a second for 64 MB.
// The log begins anew only when nothing in it is left to fold and nobody reads from it (https://sqlite.org/wal.html#avoiding_excessively_large_wal_files), so the writer does the end: it folds
// what it wrote during the last pass.
type folder struct {
	mu     sync.Mutex // held while the log is folded or cut: not for long
	conn   *conn
	file   *os.File        // the database, see openFile
	status sqlite.DBStatus // of the writer's connection
	pages  int             // written since the last fold was asked for; the writer's
	after  int             // pages
	again  atomic.Bool     // the last fold left something
	kick   chan struct{}
	done   chan struct{}
}

// openFile is called before SQLite opens the database, and stop after it has closed it: closing any descriptor of the file takes SQLite's locks from this process (https://sqlite.org/howtocorrupt.html, 2.2).
func (f *folder) openFile(path string) (err error) {
	f.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- the store's own
	return err
}

func (s *Store) startFolder(dsn string) (err error) {
	f := &s.folder
	var ok bool
	if f.status, ok = s.conn.dc.(sqlite.DBStatus); !ok {
		return errors.New("an SQLite driver that doesn't count pages")
	}
	if f.conn, err = openConn(dsn); err != nil {
		return err
	}
	f.after, f.kick, f.done = foldPages, make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(f.done)
		for range f.kick {
			err := s.fold()
			if errors.Is(err, ErrClosed) {
				return // the last connection that is closed folds the rest
			}
			if err != nil {
				s.log.Error("folding the write-ahead log beside the writer; if it goes on, requests will wait while the writer does it", "error", err)
			}
		}
	}()
	return nil
}

// stop is called when nothing is written any more.
func (f *folder) stop() error {
	if f.conn == nil {
		return nil
	}
	close(f.kick)
	<-f.done
	return f.conn.close()
}

// written counts the pages of a commit; the writer calls it.
func (f *folder) written() {
	n, _, err := f.status.Status(sqlite.DBStatusCacheWrite, true)
	if err != nil { // SQLite doesn't know the counter: then the writer folds
		return
	}
	f.pages += n
	if f.again.Swap(false) {
		f.pages = max(f.pages, f.after-min(f.after, foldRest))
	}
	if f.pages < f.after {
		return
	}
	f.pages = 0
	select {
	case f.kick <- struct{}{}:
	default: // it was asked for
	}
}

// fold folds all that was written before it began, and has the log begin anew.
func (s *Store) fold() error {
	f := &s.folder
	f.mu.Lock()
	defer f.mu.Unlock()
	before := int64(0)
	for range maxFoldPasses {
		c, err := f.conn.checkpoint("PASSIVE")
		if err != nil {
			return classify(err)
		}
		if c.busy || c.frames-c.done > foldRest { // somebody has been reading for long
			f.again.Store(true)
			return nil
		}
		if c.frames-before <= foldRest {
			break
		}
		before = c.frames
	}
	// SQLite doesn't, as long as there is more in the log: the writer would have to wait for all of it.
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("syncing the database: %w", err)
	}
	return s.outside(context.Background(), func(c *conn) error {
		r, err := c.checkpointWithin(foldWait, "RESTART")
		f.again.Store(r.busy)
		return err
	})
}

// checkpointed is SQLite's answer to a checkpoint.
type checkpointed struct {
	busy         bool  // somebody was in the way of what the mode promises
	frames, done int64 // in the log, and those of them that are in the database
}

// checkpoint folds the write-ahead log in one of SQLite's modes.
func (c *conn) checkpoint(mode string) (r checkpointed, err error) {
	if err := c.row("PRAGMA wal_checkpoint("+mode+")").Scan(&r.busy, &r.frames, &r.done); err != nil {
		return r, fmt.Errorf("wal_checkpoint(%s): %w", mode, err)
	}
	return r, nil
}

// checkpointWithin waits for readers for so many milliseconds at most.
func (c *conn) checkpointWithin(ms int, mode string) (checkpointed, error) {
	if _, err := c.exec(fmt.Sprintf("PRAGMA busy_timeout = %d", ms)); err != nil {
		return checkpointed{}, err
	}
	defer c.exec("PRAGMA busy_timeout = 5000") //nolint:errcheck // the same statement just worked
	return c.checkpoint(mode)
}

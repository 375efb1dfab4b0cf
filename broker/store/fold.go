package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"modernc.org/sqlite"
)

const (
	// foldPages is after how many pages the write-ahead log is folded into the database: 64 MB, so that a page that many commits change is seldom folded.
	foldPages = 16000
	// foldRest is how many may be left to the writer.
	foldRest = 256
	// maxFoldPasses bounds the tries to get there, if the writer is as fast.
	maxFoldPasses = 4
	// maxWALPages is when the writer folds at the end of a commit, because folding beside it fails or doesn't keep up.
	maxWALPages = 4 * foldPages
)

// folder folds SQLite's write-ahead log into the database while the writer goes on. If the writer did it, as SQLite has it, every request would wait meanwhile, a tenth of a second for 64 MB.
// The log begins anew only when nothing in it is left to fold (https://sqlite.org/wal.html#avoiding_excessively_large_wal_files), so the writer folds what it wrote during the last pass.
type folder struct {
	mu     sync.Mutex // held while the log is folded or cut
	conn   *conn
	status sqlite.DBStatus // of the writer's connection
	pages  int             // written since the last fold was asked for; the writer's
	after  int             // pages
	kick   chan struct{}
	done   chan struct{}
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
			if err := s.fold(); err != nil && !errors.Is(err, ErrClosed) {
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
	if f.pages += n; f.pages < f.after {
		return
	}
	f.pages = 0
	select {
	case f.kick <- struct{}{}:
	default: // it was asked for
	}
}

// fold folds all that was written before it began.
func (s *Store) fold() error {
	f := &s.folder
	f.mu.Lock()
	defer f.mu.Unlock()
	before := int64(0)
	for range maxFoldPasses {
		frames, _, err := f.conn.checkpoint("PASSIVE")
		if err != nil {
			return classify(err)
		}
		if frames-before <= foldRest {
			break
		}
		before = frames
	}
	return s.outside(context.Background(), func(c *conn) error {
		_, _, err := c.checkpoint("PASSIVE")
		return err
	})
}

// checkpoint folds the write-ahead log in one of SQLite's modes and returns how many frames it has. busy: somebody was in the way of what the mode promises.
func (c *conn) checkpoint(mode string) (frames int64, busy bool, err error) {
	var done int64
	if err := c.row("PRAGMA wal_checkpoint("+mode+")").Scan(&busy, &frames, &done); err != nil {
		return 0, false, fmt.Errorf("wal_checkpoint(%s): %w", mode, err)
	}
	return frames, busy, nil
}

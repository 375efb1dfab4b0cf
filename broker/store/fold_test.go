package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
)

// fill writes n rows of a page each, a transaction a row.
func fill(t *testing.T, s *Store, n int) {
	t.Helper()
	for range n {
		if err := s.do(context.Background(), func(t *tx) error {
			_, err := t.exec("INSERT INTO filler (b) VALUES (randomblob(4000))")
			return err
		}); err != nil {
			t.Error(err)
			return
		}
	}
}

func openToFold(t *testing.T, dir string, after int, set ...func(*Config)) *Store {
	t.Helper()
	s := OpenSQLite(t, dir, set...)
	if err := s.outside(t.Context(), func(c *conn) error {
		s.folder.after = after
		_, err := c.exec("CREATE TABLE IF NOT EXISTS filler (b BLOB)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

// begunAnew is how many times the write-ahead log of a store began anew: its checkpoint sequence number (https://sqlite.org/fileformat2.html#the_write_ahead_log).
func begunAnew(s *Store) (uint32, error) {
	f, err := os.Open(s.path + "-wal")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var number [4]byte
	_, err = f.ReadAt(number[:], 12)
	return binary.BigEndian.Uint32(number[:]), err
}

// TestFoldKeepsTheLogSmall writes from several sides until the log began anew many times, beside readers; nothing may be missing.
func TestFoldKeepsTheLogSmall(t *testing.T) {
	dir := t.TempDir()
	const after, writers, times = 200, 4, 10
	const enough = 20_000 // rows; it takes 2,000 to 6,000, and many times as many if the log only begins anew when nobody happens to read
	s := openToFold(t, dir, after)
	fill(t, s, 1)
	var writing, reading sync.WaitGroup
	var rows atomic.Int64
	rows.Add(1)
	first, err := begunAnew(s)
	if err != nil {
		t.Fatal(err)
	}
	for range writers {
		writing.Go(func() {
			for rows.Load() < enough {
				if n, err := begunAnew(s); err != nil || n-first >= times {
					return // what is wrong with it shows below
				}
				fill(t, s, 10)
				rows.Add(10)
			}
		})
	}
	done := make(chan struct{})
	for range 3 { // somebody always reads
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				var n int
				if err := s.r.db.QueryRowContext(context.Background(), "SELECT sum(length(b)) FROM (SELECT b FROM filler LIMIT 200)").Scan(&n); err != nil && n > 0 {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	close(done)
	reading.Wait()
	if n, err := begunAnew(s); err != nil || n-first < times {
		t.Errorf("the log began anew %d times while %d pages were written (%v)", n-first, rows.Load(), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openToFold(t, dir, after)
	defer s.Close()
	var n int64
	var sound string
	if err := s.outside(t.Context(), func(c *conn) error {
		if err := c.row("SELECT count(*) FROM filler").Scan(&n); err != nil {
			return err
		}
		return c.row("PRAGMA integrity_check").Scan(&sound)
	}); err != nil {
		t.Fatal(err)
	}
	if n != rows.Load() || sound != "ok" {
		t.Errorf("%d rows of %d, integrity: %s", n, rows.Load(), sound)
	}
}

// TestFoldBesideTheWriter has the writer busy while the log is folded: the pages reach the database all the same, and only the end of the fold waits.
func TestFoldBesideTheWriter(t *testing.T) {
	s := openToFold(t, t.TempDir(), 1<<20)
	defer s.Close()
	if err := s.cutWAL(t.Context()); err != nil {
		t.Fatal(err)
	}
	const rows = 100
	fill(t, s, rows)
	before := size(t, s.path)
	busy, release := make(chan struct{}), make(chan struct{})
	go s.outside(context.Background(), func(*conn) error { //nolint:errcheck // it returns nil
		close(busy)
		<-release
		return nil
	})
	unblock := sync.OnceFunc(func() { close(release) })
	defer unblock() // before the store is closed
	<-busy
	folded := make(chan error, 1)
	go func() { folded <- s.fold() }()
	for end := time.Now().Add(2 * time.Minute); size(t, s.path) < before+rows*4096; {
		if time.Now().After(end) {
			t.Fatalf("the database has %d bytes, had %d: nothing is folded while the writer is busy", size(t, s.path), before)
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-folded:
		t.Fatalf("the fold ended (%v) without the writer: what was written during it is left in the log", err)
	case <-time.After(100 * time.Millisecond):
	}
	unblock()
	if err := <-folded; err != nil {
		t.Error(err)
	}
}

// TestFoldThatFails is told, costs no write, and has the writer fold in the end.
func TestFoldThatFails(t *testing.T) {
	var out output.Buffer
	s := openToFold(t, t.TempDir(), 50, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&out, nil)) })
	defer s.Close()
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(damaged, bytes.Repeat([]byte("this is no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := openConn("file:" + damaged)
	if err != nil {
		t.Fatal(err)
	}
	s.folder.mu.Lock()
	s.folder.conn, other = other, s.folder.conn
	s.folder.mu.Unlock()
	defer other.close()
	var limit int64
	if err := s.outside(t.Context(), func(c *conn) error {
		if err := c.row("PRAGMA wal_autocheckpoint").Scan(&limit); err != nil {
			return err
		}
		return c.row("PRAGMA wal_autocheckpoint = 200").Scan(new(int64))
	}); err != nil || limit != maxWALPages {
		t.Errorf("the writer folds after %d pages (%v), want %d", limit, err, maxWALPages)
	}
	fill(t, s, 1000)
	if frames := size(t, s.path+"-wal") / (4096 + 24); frames > 500 {
		t.Errorf("the log has grown to %d pages", frames)
	}
	for end := time.Now().Add(2 * time.Minute); !strings.Contains(out.String(), "folding the write-ahead log"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing is told: %s", out.String())
		}
	}
}

// TestDestroyedKeyIsNowhereWhileFolding: folds copy pages all the time, and none brings a destroyed key back.
func TestDestroyedKeyIsNowhereWhileFolding(t *testing.T) {
	dir := t.TempDir()
	s := openToFold(t, dir, 20)
	defer s.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				fill(t, s, 1)
			}
		}
	})
	for i := range 30 {
		marker := fmt.Appendf(nil, "WRAPPED-KEY-%02d-THAT-MUST-VANISH-0123456789", i)
		k := keys.StoredKey{ID: keys.KeyID{1, byte(i)}, Kind: keys.KindSubject, Owner: keys.Owner{1, byte(i)}, Wrapped: marker, Created: time.UnixMilli(1)}
		if err := s.SaveKeys(t.Context(), []keys.StoredKey{k}); err != nil {
			t.Fatal(err)
		}
		if err := s.DestroyKeys(t.Context(), []keys.KeyID{k.ID}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"store.db", "store.db-wal"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(b, marker) {
				t.Fatalf("destroyed key %d is still in %s", i, name)
			}
		}
	}
	close(stop)
	wg.Wait()
}

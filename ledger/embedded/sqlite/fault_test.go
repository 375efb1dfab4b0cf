package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/trillian"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	sqlite3 "modernc.org/sqlite/lib"
)

// crash copies the files as a killed process leaves them, the WAL included, and
// opens the copy.
func crash(t testing.TB, s *Storage, change ...func(*Config)) *Storage {
	t.Helper()
	to := filepath.Join(t.TempDir(), "log.db")
	copyDB(t, s.path, to)
	return open(t, append([]func(*Config){func(c *Config) { c.Path = to }}, change...)...)
}

func copyDB(t testing.TB, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(from + suffix)
		if errors.Is(err, os.ErrNotExist) && suffix != "" {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func allOf(c codes.Code, n int) []codes.Code {
	out := make([]codes.Code, n)
	for i := range out {
		out[i] = c
	}
	return out
}

func TestCrashBetweenAddAndIntegrate(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	add(t, s, tree, leaves(0, 300))
	integrate(t, s, tree)
	add(t, s, tree, leaves(300, 64))

	s = crash(t, s)
	wantRoot(t, s, tree, 300)
	if diff := cmp.Diff(allOf(codes.AlreadyExists, 64), add(t, s, tree, leaves(300, 64))); diff != "" {
		t.Errorf("adding again after the crash (-want +got):\n%s", diff)
	}
	integrate(t, s, tree)
	wantRoot(t, s, tree, 364)
	s = crash(t, s)
	wantRoot(t, s, tree, 364)
}

// One fsync makes a batch durable and one integrates it; reading and integrating
// nothing need none. Checkpoints of the WAL are extra and don't happen here.
func TestOneSyncACommit(t *testing.T) {
	f, useFaults := withFaults(t)
	s := open(t, useFaults)
	tree := newTree(t, s)
	add(t, s, tree, leaves(0, 1)) // the WAL's header is synced once

	next := int64(1)
	for _, n := range []int64{1, 64, 256} {
		for range 5 {
			for _, step := range []struct {
				what string
				do   func()
				want int64
			}{
				{"AddSequencedLeaves", func() { add(t, s, tree, leaves(next, n)) }, 1},
				{"the same again", func() { add(t, s, tree, leaves(next, n)) }, 0},
				{"integration", func() {
					if err := tryIntegrateOnce(s, tree); err != nil {
						t.Fatal(err)
					}
				}, 1},
				{"integration of nothing", func() { integrate(t, s, tree) }, 0},
				{"reading", func() { latestRoot(t, s, tree) }, 0},
			} {
				wal, db := f.walSyncs.Load(), f.dbSyncs.Load()
				step.do()
				if got := f.walSyncs.Load() - wal; got != step.want {
					t.Errorf("%s of %d leaves: %d syncs of the WAL, want %d", step.what, n, got, step.want)
				}
				if got := f.dbSyncs.Load() - db; got != 0 {
					t.Errorf("%s of %d leaves: %d syncs of the database, want 0", step.what, n, got)
				}
			}
			next += n
		}
	}
	if f.walWrites.Load() == 0 {
		t.Fatal("the counting VFS was not used")
	}
}

// A killed process may have written what it never synced. Once the log is open
// again, it must be durable, since adding it again writes nothing.
func TestOpenSyncsWhatItRecovers(t *testing.T) {
	f, useFaults := withFaults(t)
	s := open(t)
	tree := newTree(t, s)
	add(t, s, tree, leaves(0, 64))
	wal, db := f.walSyncs.Load(), f.dbSyncs.Load()
	s = crash(t, s, useFaults)
	if f.walSyncs.Load() == wal || f.dbSyncs.Load() == db {
		t.Errorf("opening synced the WAL %d and the database %d times, want both", f.walSyncs.Load()-wal, f.dbSyncs.Load()-db)
	}
	if diff := cmp.Diff(allOf(codes.AlreadyExists, 64), add(t, s, tree, leaves(0, 64))); diff != "" {
		t.Error(diff)
	}
}

// Every write and every sync fails once: not done at all, or done but reported
// as failed; alone, or with everything after it. Then nothing that was
// acknowledged is missing, nothing is half there, and repeating leads to the one
// right root: on the same handle, and after a crash.
func TestEveryWriteFails(t *testing.T) {
	f, useFaults := withFaults(t)
	small := func(c *Config) { c.walPages = 24 } // so that checkpoints fail too
	base := open(t, useFaults, small)
	tree := newTree(t, base)
	const before, batch = 250, 20
	add(t, base, tree, leaves(0, before))
	integrate(t, base, tree)

	step := int64(1)
	if testing.Short() {
		step = 7
	}
	kinds := []struct {
		code    int32
		persist bool
		sticky  bool
		want    codes.Code
	}{
		{sqlite3.SQLITE_FULL, false, false, codes.ResourceExhausted},
		{sqlite3.SQLITE_FULL, false, true, codes.ResourceExhausted},
		{sqlite3.SQLITE_IOERR_FSYNC, false, false, codes.Unavailable},
		{sqlite3.SQLITE_IOERR_FSYNC, true, false, codes.Unavailable},
		{sqlite3.SQLITE_IOERR_WRITE, true, true, codes.Unavailable},
	}
	for _, kind := range kinds {
		t.Run(fmt.Sprintf("code=%d,persist=%v,sticky=%v", kind.code, kind.persist, kind.sticky), func(t *testing.T) {
			reported := 0
			for at := int64(1); ; at += step {
				if at > 500 {
					t.Fatal("faults without end")
				}
				path := filepath.Join(t.TempDir(), "log.db")
				copyDB(t, base.path, path)
				s := open(t, func(c *Config) { c.Path = path }, useFaults, small)
				f.failed.Store(0)
				f.code.Store(kind.code)
				f.persist.Store(kind.persist)
				f.sticky.Store(kind.sticky)
				f.failAt.Store(at)

				added, integrated := int64(before), int64(before)
				var errs []error
				for range 3 {
					if _, err := s.Log().AddSequencedLeaves(t.Context(), tree, leaves(added, batch), time.Now()); err != nil {
						errs = append(errs, err)
						break
					}
					added += batch
					if err := tryIntegrateOnce(s, tree); err != nil {
						errs = append(errs, err)
						break
					}
					integrated += batch
				}
				f.failAt.Store(0)
				f.sticky.Store(false)
				hit := f.failed.Load() > 0
				for _, err := range errs {
					reported++
					if got := status.Code(err); got != kind.want {
						t.Errorf("fault %d: %v (%v), want %v", at, got, err, kind.want)
					}
				}

				// In this process a write that failed is not there, even if the disk
				// has it: it may not be synced.
				if n := count(t, s, `SELECT count(*) FROM Leaf`); n != added {
					t.Fatalf("fault %d: %d leaves are visible, %d were acknowledged", at, n, added)
				}
				if n := int64(latestRoot(t, s, tree).TreeSize); n != integrated {
					t.Fatalf("fault %d: a root of size %d is visible, %d were acknowledged", at, n, integrated)
				}
				for where, s := range map[string]*Storage{"after a crash": crash(t, s), "on the same handle": s} {
					root := latestRoot(t, s, tree)
					if n := int64(root.TreeSize); n < integrated || n > added+batch {
						t.Fatalf("fault %d, %s: root of size %d, acknowledged %d", at, where, n, integrated)
					}
					wantRoot(t, s, tree, int64(root.TreeSize))
					if n := count(t, s, `SELECT count(*) FROM Leaf`); n != added && n != added+batch {
						t.Fatalf("fault %d, %s: %d leaves, acknowledged %d", at, where, n, added)
					}
					for _, c := range add(t, s, tree, leaves(0, added+batch)) {
						if c != codes.OK && c != codes.AlreadyExists {
							t.Fatalf("fault %d, %s: repeating gives %v", at, where, c)
						}
					}
					integrate(t, s, tree)
					wantRoot(t, s, tree, added+batch)
					s.Close()
				}
				if !hit {
					if at < 20 || reported == 0 {
						t.Fatalf("only %d operations, %d reported faults: the test does not test", at, reported)
					}
					t.Logf("%d operations, %d reported faults", at-1, reported)
					return
				}
			}
		})
	}
}

// The disk fails while a killed process's log is opened again: an error or an
// open log, and nothing lost either way.
func TestOpeningFails(t *testing.T) {
	f, useFaults := withFaults(t)
	base := open(t)
	tree := newTree(t, base)
	add(t, base, tree, leaves(0, 250))
	integrate(t, base, tree)
	add(t, base, tree, leaves(250, 30))
	for _, sticky := range []bool{false, true} {
		refused := 0
		for at := int64(1); ; at++ {
			path := filepath.Join(t.TempDir(), "log.db")
			copyDB(t, base.path, path)
			f.failed.Store(0)
			f.sticky.Store(sticky)
			f.failAt.Store(at)
			cfg := Config{Path: path}
			useFaults(&cfg)
			s, err := Open(t.Context(), cfg)
			f.failAt.Store(0)
			f.sticky.Store(false)
			hit := f.failed.Load() > 0
			if err != nil {
				refused++
				if got := status.Code(err); got != codes.Unavailable {
					t.Errorf("fault %d: %v (%v), want Unavailable", at, got, err)
				}
				s = open(t, func(c *Config) { c.Path = path })
			} else if sticky && hit {
				t.Errorf("fault %d: opened, though nothing can be written", at)
			}
			wantRoot(t, s, tree, 250)
			if n := count(t, s, `SELECT count(*) FROM Leaf`); n != 280 {
				t.Errorf("fault %d: %d leaves, want 280", at, n)
			}
			integrate(t, s, tree)
			wantRoot(t, s, tree, 280)
			s.Close()
			if !hit {
				t.Logf("sticky %v: %d operations, refused %d times", sticky, at-1, refused)
				if at < 5 {
					t.Error("the test does not test")
				}
				break
			}
		}
	}
}

func tryIntegrateOnce(s *Storage, tree *trillian.Tree) error {
	_, err := integrateBatch(s, tree, 500)
	return err
}

func TestDiskFull(t *testing.T) {
	limit := int64(60)
	s := open(t, func(c *Config) { c.maxPages = limit })
	tree := newTree(t, s)
	added, integrated := int64(0), int64(0)
	var err error
	for range 1000 {
		if _, err = s.Log().AddSequencedLeaves(t.Context(), tree, leaves(added, 64), time.Now()); err != nil {
			break
		}
		added += 64
		if err = tryIntegrate(s, tree); err != nil {
			break
		}
		integrated += 64
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("a full disk gives %v, want ResourceExhausted", err)
	}
	if n := count(t, s, `SELECT count(*) FROM Leaf`); n != added {
		t.Errorf("%d leaves are stored, %d were acknowledged", n, added)
	}
	wantRoot(t, s, tree, integrated)

	s = reopen(t, s)
	if n := count(t, s, `SELECT count(*) FROM Leaf`); n != added {
		t.Errorf("after reopening %d leaves are stored, %d were acknowledged", n, added)
	}
	add(t, s, tree, leaves(added, 64))
	integrate(t, s, tree)
	wantRoot(t, s, tree, added+64)
}

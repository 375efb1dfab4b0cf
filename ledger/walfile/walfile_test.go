package walfile_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/regard-broker/regard/ledger/walfile"
)

func open(t *testing.T, path, more string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"+more)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	return db
}

func writer(t *testing.T, path string) *sql.DB {
	t.Helper()
	vfs, err := walfile.VFS("")
	if err != nil {
		t.Fatal(err)
	}
	// A small cache spills, so that pages of an open transaction go to the log and come back.
	return open(t, path, "&_pragma=cache_size(10)&_pragma=wal_autocheckpoint(300)&vfs="+vfs)
}

// TestLikeTheSystemsOwn runs transactions of all sizes, some of them rolled back, and looks at each with a connection of the system's own VFS, at a copy of the files (what a
// killed process leaves behind), and after closing.
func TestLikeTheSystemsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	w, r := writer(t, path), open(t, path, "")
	if _, err := w.Exec("CREATE TABLE a (id INTEGER PRIMARY KEY, v TEXT)"); err != nil {
		t.Fatal(err)
	}
	count := func(db interface {
		QueryRow(string, ...any) *sql.Row
	}) (n, sum int) {
		t.Helper()
		if err := db.QueryRow("SELECT count(*), coalesce(sum(length(v)), 0) FROM a").Scan(&n, &sum); err != nil {
			t.Fatal(err)
		}
		return n, sum
	}
	var rows, bytes int
	for i, size := range []int{1, 3, 30, 1, 700, 2, 2500, 1, 40} { // 2500 rows are several megabytes
		for _, keep := range []bool{false, true} {
			tx, err := w.Begin()
			if err != nil {
				t.Fatal(err)
			}
			value := strings.Repeat(string(rune('a'+i)), 1900)
			for range size {
				if _, err := tx.Exec("INSERT INTO a (v) VALUES (?)", value); err != nil {
					t.Fatal(err)
				}
			}
			if n, sum := count(tx); n != rows+size || sum != bytes+size*len(value) {
				t.Fatalf("the transaction sees %d rows of %d bytes, want %d of %d", n, sum, rows+size, bytes+size*len(value))
			}
			if n, sum := count(r); n != rows || sum != bytes {
				t.Fatalf("before the commit others see %d rows of %d bytes, want %d of %d", n, sum, rows, bytes)
			}
			if !keep {
				if err := tx.Rollback(); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			rows, bytes = rows+size, bytes+size*len(value)
		}
		for name, db := range map[string]*sql.DB{"the writer": w, "another": r, "after a crash": open(t, crash(t, path), "")} {
			if n, sum := count(db); n != rows || sum != bytes {
				t.Fatalf("after the commit %s sees %d rows of %d bytes, want %d of %d", name, n, sum, rows, bytes)
			}
			if ok := check(t, db); ok != "ok" {
				t.Fatalf("%s: %s", name, ok)
			}
		}
	}
	r.Close()
	w.Close()
	if n, sum := count(open(t, path, "")); n != rows || sum != bytes {
		t.Fatalf("after closing: %d rows of %d bytes, want %d of %d", n, sum, rows, bytes)
	}
}

func check(t *testing.T, db *sql.DB) (answer string) {
	t.Helper()
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func crash(t *testing.T, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy.db")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// TestOneWrite: the reason for the package. The kernel counts the calls of this process.
func TestOneWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	commit := func(db *sql.DB) int64 {
		before := writes(t)
		if _, err := db.Exec("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) INSERT INTO a (v) SELECT randomblob(3000) FROM n"); err != nil {
			t.Fatal(err)
		}
		return writes(t) - before
	}
	plain, one := open(t, path, ""), writer(t, path)
	if _, err := plain.Exec("CREATE TABLE a (id INTEGER PRIMARY KEY, v BLOB)"); err != nil {
		t.Fatal(err)
	}
	if a, b := commit(plain), commit(one); a < 20 || b > a/5 {
		t.Errorf("a commit of ten pages took %d writes, and %d without this package", b, a)
	}
}

func writes(t *testing.T) (n int64) {
	t.Helper()
	f, err := os.Open("/proc/self/io")
	if err != nil {
		t.Skipf("the system doesn't count writes: %v", err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	_, b, _ = bytes.Cut(b, []byte("syscw: "))
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestUnknownVFS(t *testing.T) {
	if _, err := walfile.VFS("nothing"); err == nil {
		t.Error("a VFS that doesn't exist was found")
	}
}

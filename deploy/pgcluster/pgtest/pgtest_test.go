package pgtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// TestKilledServer: what was committed is there after the server was killed and started again, and a dump puts an older state back.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	c := Own(t)
	sql := func(s string) {
		t.Helper()
		if err := c.SQL(t.Context(), "postgres", s); err != nil {
			t.Fatal(err)
		}
	}
	sql("CREATE DATABASE kept")
	if err := c.SQL(t.Context(), "kept", "CREATE TABLE t (n bigint); INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	dump, err := c.Dump(t.Context(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SQL(t.Context(), "kept", "INSERT INTO t VALUES (2)"); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.SQL(t.Context(), "kept", "SELECT 1"); err == nil {
		t.Fatal("a killed server answers")
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	holds := func(n string) {
		t.Helper()
		err := c.SQL(t.Context(), "kept", "DO $$ BEGIN IF (SELECT max(n) FROM t) <> "+n+" THEN RAISE 'something else'; END IF; END $$")
		if err != nil {
			t.Fatal(err)
		}
	}
	holds("2")
	if err := c.Load(t.Context(), "kept", dump); err != nil {
		t.Fatal(err)
	}
	holds("1")
}

// TestKilledFirst: no server starts beside processes of one whose first was killed; when they have ended one does.
func TestKilledFirst(t *testing.T) {
	t.Parallel()
	c := Own(t)
	list, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", c.PID()))
	if err != nil || len(strings.Fields(string(list))) == 0 {
		t.Fatalf("the server's processes: %q, %v", list, err)
	}
	child, err := strconv.Atoi(strings.Fields(string(list))[0])
	if err != nil {
		t.Fatal(err)
	}
	check(t, syscall.Kill(child, syscall.SIGSTOP)) // it notices nothing
	t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	check(t, c.KillFirst())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := c.Restart(ctx); err == nil {
		t.Fatal("a server started beside another one's process")
	}
	check(t, syscall.Kill(child, syscall.SIGCONT))
	check(t, c.Restart(t.Context()))
	check(t, c.SQL(t.Context(), "postgres", "SELECT 1"))
}

// TestDatabases: each test has its own, which is empty.
func TestDatabases(t *testing.T) {
	t.Parallel()
	a, first := Database(t)
	b, second := Database(t)
	if a != b || first == second {
		t.Fatalf("%q and %q", first, second)
	}
	if err := a.SQL(t.Context(), first, "CREATE TABLE t (n bigint)"); err != nil {
		t.Fatal(err)
	}
	err := a.SQL(t.Context(), second, "SELECT n FROM t")
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Fatalf("the table of another database: %v", err)
	}
}

// TestSlow: commits wait for the disk, and only while it is slow.
func TestSlow(t *testing.T) {
	t.Parallel()
	c, slow := Slow(t)
	if err := c.SQL(t.Context(), "postgres", "CREATE TABLE x (n integer)"); err != nil {
		t.Fatal(err)
	}
	const delay = 3 * time.Second
	slow(delay)
	began := time.Now()
	if err := c.SQL(t.Context(), "postgres", "INSERT INTO x VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < delay {
		t.Errorf("a commit took %v on a disk that needs %v", took, delay)
	}
}

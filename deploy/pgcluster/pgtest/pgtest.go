// Package pgtest gives tests databases on a real PostgreSQL: one server a test process, one database a test.
package pgtest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/deploy/pgcluster"
)

var shared struct {
	sync.Mutex
	cluster *pgcluster.Cluster
	dir     string
	err     error
}

var databases atomic.Int64

// Main runs the tests of a package and ends the server that they shared. TestMain calls it.
func Main(m *testing.M) {
	code := m.Run()
	if shared.cluster != nil {
		if err := errors.Join(shared.cluster.Close(), os.RemoveAll(shared.dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// settings: tests ask what survives the death of processes, never of the machine.
var settings = []string{"fsync = off", "max_connections = 200", "shared_buffers = 64MB", "log_min_messages = fatal"}

// Shared returns the server that the tests of this process share. Nobody may end it: for that there is Own. Without PostgreSQL the test is skipped, but where CI is set it fails.
func Shared(t testing.TB) *pgcluster.Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil && shared.err == nil {
		if shared.dir, shared.err = os.MkdirTemp("", "regard-pgtest-"); shared.err == nil {
			shared.err = os.Chmod(shared.dir, 0o711) // #nosec G302 -- the server's user has to pass
		}
		if shared.err == nil {
			shared.cluster, shared.err = start(shared.dir, settings)
		}
	}
	check(t, shared.err)
	return shared.cluster
}

// Database makes an empty database on the shared server and returns its name. It is dropped at the end.
func Database(t testing.TB) (*pgcluster.Cluster, string) {
	t.Helper()
	c := Shared(t)
	name := fmt.Sprintf("test_%d", databases.Add(1))
	if err := c.SQL(context.Background(), "postgres", "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.SQL(context.Background(), "postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return c, name
}

// Own starts a server for one test, which may stop, kill and start it again.
func Own(t testing.TB, more ...string) *pgcluster.Cluster {
	t.Helper()
	return own(t, Dir(t), nil, more...)
}

func own(t testing.TB, dir string, env []string, more ...string) *pgcluster.Cluster {
	t.Helper()
	c, err := start(dir, append(settings[:len(settings):len(settings)], more...), env...)
	t.Cleanup(func() {
		if c != nil {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	check(t, err)
	return c
}

// Dir is a directory that the server's user can pass through, which it can't through t.TempDir.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "regard-pgtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil { // #nosec G302 -- see above
		t.Fatal(err)
	}
	return dir
}

//go:embed testdata/slow.c
var slowDisk string

// Slow is Own on a disk that can be made slow: from a call of slow on each fsync of the server takes so much longer. It needs gcc.
func Slow(t testing.TB, more ...string) (c *pgcluster.Cluster, slow func(time.Duration)) {
	t.Helper()
	dir := Dir(t)
	library, delay := filepath.Join(dir, "slow.so"), filepath.Join(dir, "delay")
	gcc := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-O1", "-x", "c", "-o", library, "-", "-ldl") // #nosec G204 -- a compiler, for a test
	gcc.Stdin = strings.NewReader(slowDisk)
	if out, err := gcc.CombinedOutput(); errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "" {
		t.Skip(err)
	} else if err != nil {
		t.Fatalf("building slow.c: %v\n%s", err, out)
	}
	c = own(t, dir, []string{"LD_PRELOAD=" + library, "SLOW_DISK=" + delay}, append(more, "fsync = on")...)
	t.Cleanup(func() { _ = os.Remove(delay) }) // it writes all its files at its end
	return c, func(d time.Duration) {
		t.Helper()
		// In one step: the server reads it all the time.
		if err := os.WriteFile(delay+".new", strconv.AppendInt(nil, d.Microseconds(), 10), 0o644); err != nil { // #nosec G306 -- for the server's user
			t.Fatal(err)
		}
		if err := os.Rename(delay+".new", delay); err != nil {
			t.Fatal(err)
		}
	}
}

func start(dir string, settings []string, env ...string) (*pgcluster.Cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return pgcluster.Start(ctx, pgcluster.Config{Dir: filepath.Join(dir, "data"), Settings: settings, Env: env})
}

func check(t testing.TB, err error) {
	t.Helper()
	switch {
	case errors.Is(err, pgcluster.ErrMissing) && os.Getenv("CI") == "":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
}

// Package pgtest gives tests databases on a real PostgreSQL: one server a test process, one database a test.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	dir, err := os.MkdirTemp("", "regard-pgtest-") // the server's user can't pass through t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // #nosec G302 -- see above
		t.Fatal(err)
	}
	c, err := start(dir, append(settings[:len(settings):len(settings)], more...))
	t.Cleanup(func() {
		if c != nil {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	check(t, err)
	return c
}

func start(dir string, settings []string) (*pgcluster.Cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return pgcluster.Start(ctx, pgcluster.Config{Dir: filepath.Join(dir, "data"), Settings: settings})
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

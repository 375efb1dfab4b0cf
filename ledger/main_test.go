package ledger_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/trillian"

	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger/embedded"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/remote"
	"github.com/regard-broker/regard/ledger/signer"
)

// engineEnv set to "postgresql" runs the tests over Trillian on PostgreSQL, with a signer that is the log server too. (Those whose log survives a process keep the embedded one.)
const engineEnv = "REGARD_TEST_ENGINE"

func onPostgreSQL(t testing.TB) (trillian.TrillianLogClient, int64) {
	t.Helper()
	c, name := pgtest.Database(t)
	if _, err := signer.Init(t.Context(), c.Superuser(name)); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "regard-log-") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	addr := "unix:" + filepath.Join(dir, "s")
	s, err := signer.Start(t.Context(), signer.Config{DSN: c.Superuser(name), Listen: addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	l, err := remote.Open(t.Context(), remote.Config{Addresses: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Client(), l.TreeID()
}

// TestMain opens an embedded Trillian before any test does: the first one redirects klog, a global, which Tessera's checker still uses from goroutines that outlive its calls.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ledger")
	if err == nil {
		var l *embedded.Log
		if l, err = embedded.Open(context.Background(), embedded.Config{Path: filepath.Join(dir, "t.db")}); err == nil {
			err = l.Close()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing the tests:", err)
		os.Exit(1)
	}
	os.RemoveAll(dir)
	if os.Getenv(engineEnv) == "postgresql" {
		ledgertest.Engine = onPostgreSQL
	}
	pgtest.Main(m)
}

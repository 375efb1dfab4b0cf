package signedpg_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/dsn"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/signedpg"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const role = "regard_signer"

func open(t testing.TB, c *pgcluster.Cluster, database, log string) *signedpg.Store {
	t.Helper()
	ctx := context.Background()
	if err := signedpg.Prepare(ctx, c.Superuser(database), log); err != nil {
		t.Fatal(err)
	}
	s, err := signedpg.Open(ctx, c.DSN(database, role), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestContract: each directory of the suite is a database of its own.
func TestContract(t *testing.T) {
	databases := map[string]string{}
	ledgertest.TestSignedStore(t, func(t *testing.T, dir string) ledger.SignedStore {
		c := pgtest.Shared(t)
		if databases[dir] == "" {
			_, databases[dir] = pgtest.Database(t)
		}
		return open(t, c, databases[dir], "log")
	})
}

// TestOneLogADatabase: the journal of erasures beside the checkpoint is one log's.
func TestOneLogADatabase(t *testing.T) {
	c, name := pgtest.Database(t)
	open(t, c, name, "log")
	if err := signedpg.Prepare(t.Context(), c.Superuser(name), "another"); err == nil {
		t.Fatal("a second log was prepared in the database of the first")
	}
	if _, err := signedpg.Open(t.Context(), c.DSN(name, role), "another"); !errors.Is(err, signedpg.ErrMissing) {
		t.Fatalf("the checkpoint of another log: %v", err)
	}
}

// TestKilledServer: what was swapped is there when the server is back, and of a swap that failed Last says what became of it.
func TestKilledServer(t *testing.T) {
	c := pgtest.Own(t, "fsync = on")
	s := open(t, c, "postgres", "log")
	ctx := t.Context()
	var last []byte
	for round := range 3 {
		reached := make(chan struct{})
		ended := make(chan error, 1)
		var tried []byte
		go func() {
			for i := 0; ; i++ {
				if i == 20 {
					close(reached)
				}
				tried = fmt.Appendf(nil, "note %d %d", round, i)
				if err := s.Swap(ctx, last, tried); err != nil {
					ended <- err
					return
				}
				last = tried
			}
		}()
		<-reached
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; errors.Is(err, ledger.ErrHalted) {
			t.Fatalf("a server that died is another signer: %v", err)
		}
		if _, err := s.Last(ctx); err == nil {
			t.Fatal("a killed server answers")
		}
		if err := c.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		var got []byte
		var err error
		for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			if got, err = s.Last(ctx); err == nil {
				break
			}
		}
		if err != nil || !bytes.Equal(got, last) && !bytes.Equal(got, tried) {
			t.Fatalf("%q is stored (%v), was told %q, tried %q", got, err, last, tried)
		}
		last = got
	}
}

// TestRole: whoever signs replaces the checkpoint of a log, and nothing else.
func TestRole(t *testing.T) {
	c, name := pgtest.Database(t)
	open(t, c, name, "log")
	db, err := sql.Open("pgx", c.DSN(name, role))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range []string{"DELETE FROM signed", "TRUNCATE signed", "INSERT INTO signed VALUES ('other', '')", "UPDATE signed SET log = 'other'", "DROP TABLE signed"} {
		_, err := db.ExecContext(t.Context(), q)
		var pe *pgconn.PgError
		if !errors.As(err, &pe) || pe.Code != "42501" {
			t.Errorf("%s: %v, want permission denied", q, err)
		}
	}
}

func TestRefused(t *testing.T) {
	c, name := pgtest.Database(t)
	ctx := t.Context()
	opening := func(address, log string) error {
		s, err := signedpg.Open(ctx, address, log)
		if err == nil {
			s.Close()
		}
		return err
	}
	if err := opening(c.Superuser(name), "log"); !errors.Is(err, signedpg.ErrMissing) {
		t.Errorf("an empty database: %v", err)
	}
	s := open(t, c, name, "log")
	if err := s.Swap(ctx, nil, []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := opening(c.DSN(name, role), "another"); !errors.Is(err, signedpg.ErrMissing) {
		t.Errorf("a log that nobody prepared: %v", err)
	}
	if err := opening(c.DSN(name, role)+" password=x", "log"); !errors.Is(err, dsn.ErrPassword) {
		t.Errorf("a password: %v", err)
	}
	if err := s.Swap(ctx, []byte("a"), nil); err == nil {
		t.Error("an empty checkpoint")
	}
	// Preparing again forgets nothing.
	if got, err := open(t, c, name, "log").Last(ctx); err != nil || string(got) != "a" {
		t.Errorf("prepared again: %q, %v", got, err)
	}
	// A row that is gone isn't a log that has signed nothing.
	if err := c.SQL(ctx, name, "DELETE FROM signed"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Last(ctx); !errors.Is(err, signedpg.ErrMissing) {
		t.Errorf("after the row was deleted: %q, %v", got, err)
	}
	// Beside the broker's store.
	if err := c.SQL(ctx, name, "CREATE TABLE leaves ()"); err != nil {
		t.Fatal(err)
	}
	if err := signedpg.Prepare(ctx, c.Superuser(name), "log"); err == nil {
		t.Error("prepared beside the broker's store")
	}
	if err := opening(c.DSN(name, role), "log"); err == nil {
		t.Error("opened beside the broker's store")
	}
}

func BenchmarkSwap(b *testing.B) {
	c := pgtest.Own(b, "fsync = on")
	s := open(b, c, "postgres", "log")
	var old []byte
	for i := range b.N {
		next := make([]byte, 200)
		next[0], next[1], next[2], next[3] = byte(i), byte(i>>8), byte(i>>16), 1
		if err := s.Swap(b.Context(), old, next); err != nil {
			b.Fatal(err)
		}
		old = next
	}
}

package signer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/trillian/util/election2"
	"github.com/google/trillian/util/election2/testonly"

	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger/dsn"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/signer"
)

func elections(t *testing.T, dsn string) *signer.Elections {
	t.Helper()
	f, err := signer.NewElections(dsn, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// closing closes what a suite makes and leaves open.
type closing struct {
	*signer.Elections
	t    *testing.T
	made atomic.Int64
}

func (f *closing) NewElection(ctx context.Context, resource string) (election2.Election, error) {
	e, err := f.Elections.NewElection(ctx, fmt.Sprint(resource, f.made.Add(1))) // a case expects to be alone
	if err == nil {
		f.t.Cleanup(func() { _ = e.Close(context.Background()) })
	}
	return e, err
}

// Trillian's own suite.
func TestTrillianElectionSuite(t *testing.T) {
	c, name := pgtest.Database(t)
	for _, nt := range testonly.Tests {
		t.Run(nt.Name, func(t *testing.T) { nt.Run(t, &closing{Elections: elections(t, c.Superuser(name)), t: t}) })
	}
}

// TestOneMaster: the lock goes from one to the next, whether the first resigns or loses its session, and who lost its session can change nothing any more, whatever it believes.
func TestOneMaster(t *testing.T) {
	t.Parallel()
	c, name := pgtest.Database(t)
	dsn := c.Superuser(name)
	ctx := t.Context()
	first, second := elections(t, dsn).New("log"), elections(t, dsn).New("log")
	defer second.Close(ctx)
	if err := first.Await(ctx); err != nil {
		t.Fatal(err)
	}
	if err := first.Await(ctx); err != nil {
		t.Fatalf("again: %v", err)
	}
	other := elections(t, dsn).New("another log")
	if err := other.Await(ctx); err != nil {
		t.Fatalf("of another resource: %v", err)
	}
	if err := other.Close(ctx); err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if err := second.Await(impatient); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a second master: %v", err)
	}
	mastership, err := first.WithMastership(ctx)
	if err != nil || mastership.Err() != nil {
		t.Fatal(err, mastership.Err())
	}
	stale := first.DB()
	if _, err := stale.Exec(ctx, "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	// As an administrator, a timeout or a crash of the server would.
	if err := c.SQL(ctx, name, "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE d.datname = current_database() AND locktype = 'advisory' AND granted"); err != nil {
		t.Fatal(err)
	}
	won := make(chan error, 1)
	go func() { won <- second.Await(ctx) }()
	select {
	case err := <-won:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("nobody followed")
	}
	if _, err := stale.Exec(ctx, "SELECT 1"); err == nil {
		t.Fatal("a master that was deposed got another session")
	}
	select {
	case <-mastership.Done():
	case <-time.After(2 * time.Minute):
		t.Fatal("a master that was deposed isn't told")
	}
	if err := first.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := second.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	again, err := second.WithMastership(ctx)
	if err != nil || again.Err() == nil {
		t.Fatalf("master after resigning: %v", err)
	}
	if err := second.Await(ctx); err != nil {
		t.Fatalf("master once more: %v", err)
	}
}

// TestDatabaseThatIsAway: an error says so, and gives nothing of the connection string away.
func TestDatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	e := elections(t, "host=/nowhere user=u dbname=d passfile=/verysecret").New("log")
	if err := e.Await(t.Context()); err == nil || strings.Contains(err.Error(), "verysecret") {
		t.Fatalf("%v", err)
	}
	for _, address := range []string{"postgres://u@verysecret:port/db", "host=x dbname=verysecret=", "://verysecret"} {
		if _, err := signer.NewElections(address, nil, nil); err != nil && strings.Contains(err.Error(), "verysecret") {
			t.Errorf("%v", err)
		}
	}
	if _, err := signer.NewElections("postgres://u@host:port/db", nil, nil); err == nil {
		t.Error("a port that is no number is accepted")
	}
}

// TestNoPassword: an address with a password is refused by all that take one, and so is a password in the environment.
func TestNoPassword(t *testing.T) {
	refused := func(address string, says string) {
		t.Helper()
		_, one := signer.Init(t.Context(), address)
		_, two := signer.Start(t.Context(), signer.Config{DSN: address})
		_, three := signer.NewElections(address, nil, nil)
		for _, err := range []error{one, two, three} {
			if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "verysecret") {
				t.Errorf("%v", err)
			}
		}
	}
	for _, address := range []string{"host=/nowhere user=u password=verysecret dbname=d", "postgres://u:verysecret@host/db"} {
		refused(address, dsn.ErrPassword.Error())
	}
	t.Setenv("PGPASSWORD", "verysecret")
	refused("host=/nowhere user=u dbname=d", "PGPASSWORD is set")
}

// TestTakeover: of two processes one integrates; when it is killed the other goes on, and so it does when it stands still.
func TestTakeover(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	addresses := []string{socket(t), socket(t)}
	var signers []*process
	for _, a := range addresses {
		signers = append(signers, startProcess(t, childConfig{DSN: dsn, Listen: a}))
	}
	l := dial(t, addresses...)
	grow(t, l, 0, 100)
	ledgertest.Await(t, "the signers to have counted 100 entries", func() bool {
		var total float64
		for _, s := range signers {
			n, err := strconv.ParseFloat(s.metric("regard_signer_entries_total"), 64)
			if err != nil || n+total > 100 {
				t.Fatalf("%v more than %v entries were integrated: %v", n, total, err)
			}
			total += n
		}
		return total == 100
	})

	i := master(t, signers)
	killed := time.Now()
	signers[i].kill(t)
	grow(t, l, 100, 200)
	t.Logf("another integrated %v after the master was killed", time.Since(killed).Round(time.Millisecond))
	signers[i] = startProcess(t, signers[i].config)

	i = master(t, signers)
	stop(t, signers[i].cmd)
	stopped := time.Now()
	l = dial(t, addresses[1-i])
	grow(t, l, 200, 300)
	t.Logf("another integrated %v after the master stood still", time.Since(stopped).Round(time.Millisecond))
	cont(t, signers[i].cmd)
	ledgertest.Await(t, "one master to be left", func() bool {
		return signers[0].metric("regard_signer_master") != signers[1].metric("regard_signer_master")
	})
	grow(t, l, 300, 400)
}

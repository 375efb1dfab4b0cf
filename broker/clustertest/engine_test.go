package clustertest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedpg"
)

// TestTrillian: log servers and signers die; one has a wrong clock.
func TestTrillian(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	t.Run("kill -9 of the signer", func(t *testing.T) {
		master, others := w.master(t)
		w.survive(t, fault{hit: master.kill, heal: func() {
			ledgertest.Await(t, "another signer to integrate", others[0].master)
			master.start()
			master.awaitSigner(t)
		}})
	})
	t.Run("kill -9 of the log server", func(t *testing.T) {
		// The one that brokers speak to: the first of their list that answers.
		w.survive(t, fault{hit: w.signers[0].kill, heal: func() { w.signers[0].start(); w.signers[0].awaitSigner(t) }})
	})
	t.Run("kill -9 of all log servers and signers", func(t *testing.T) {
		w.survive(t, fault{hit: func() {
			for _, s := range w.signers {
				s.kill()
			}
		}, heal: func() {
			for _, s := range w.signers {
				s.start()
			}
		}})
	})
	t.Run("a signer with a clock 1 h behind", func(t *testing.T) {
		w.survive(t, fault{hit: func() {
			for _, s := range w.signers {
				s.kill()
				s.config.Signer.Late = time.Hour
				s.start()
			}
		}})
	})
}

// TestPostgres: the servers die and are started again.
func TestPostgres(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{own: true})
	restart := func(c *pgcluster.Cluster) func() {
		return func() {
			if err := c.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	kill := func(c *pgcluster.Cluster) func() {
		return func() {
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("kill of the store's and Trillian's PostgreSQL", func(t *testing.T) {
		w.survive(t, fault{hit: kill(w.main), heal: restart(w.main)})
	})
	t.Run("the same for 15 seconds", func(t *testing.T) {
		w.survive(t, fault{hit: kill(w.main), heal: func() { time.Sleep(15 * time.Second); restart(w.main)() }})
	})
	t.Run("kill of the signed checkpoint's PostgreSQL", func(t *testing.T) {
		w.survive(t, fault{hit: kill(w.apart), heal: func() { time.Sleep(5 * time.Second); restart(w.apart)() }})
	})
	first := func(c *pgcluster.Cluster) func() {
		return func() {
			if err := c.KillFirst(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("kill -9 of the first process of the store's and Trillian's PostgreSQL, whose children live on for a while", func(t *testing.T) {
		w.survive(t, fault{hit: first(w.main), heal: restart(w.main)})
	})
	t.Run("kill -9 of the first process of the signed checkpoint's", func(t *testing.T) {
		w.survive(t, fault{hit: first(w.apart), heal: restart(w.apart)})
	})
	dir := pgtest.Dir(t)
	var archive *pgcluster.Archive
	begin := func(t *testing.T) {
		t.Helper()
		var err error
		if archive, err = w.main.Archive(t.Context(), filepath.Join(dir, "wal")); err != nil {
			t.Fatal(err)
		}
	}
	end := func() {
		if err := archive.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the archive of the write-ahead log, for which the store's and Trillian's PostgreSQL waits, is away for 8 seconds", func(t *testing.T) {
		begin(t)
		w.survive(t, fault{hit: end, heal: func() { time.Sleep(8 * time.Second); begin(t) }})
	})
	t.Run("the disk of the store's and Trillian's PostgreSQL is lost; it is recovered from a base backup and the archive", func(t *testing.T) {
		base := filepath.Join(dir, "base")
		if err := w.main.BaseBackup(t.Context(), base); err != nil {
			t.Fatal(err)
		}
		w.load.flowing(t, time.Now(), 20)
		w.survive(t, fault{hit: func() {
			kill(w.main)()
			end()
		}, heal: func() {
			if err := w.main.Recover(t.Context(), base, archive); err != nil {
				t.Fatal(err)
			}
		}})
	})
	t.Run("a restored dump", func(t *testing.T) { restored(t, w) })
}

// restored puts the store's database back to what it was before: nothing may be signed on top of it, by the brokers that run nor by those that start, and they have to say what to do.
func restored(t *testing.T, w *world) {
	w.load.flowing(t, time.Now(), 5)
	dump, err := w.main.Dump(t.Context(), w.store)
	if err != nil {
		t.Fatal(err)
	}
	w.load.flowing(t, time.Now(), 20)
	w.check(t)
	if err := w.main.CutOff(t.Context(), w.store); err != nil {
		t.Fatal(err)
	}
	ordered := w.ordered(t)
	if err := w.main.Load(t.Context(), w.store, dump); err != nil {
		t.Fatal(err)
	}
	before := w.load.ends()
	ledgertest.Await(t, "the one that leads to halt", func() bool {
		return slices.ContainsFunc(w.brokers, func(m *member) bool {
			s, err := m.ask()
			return err == nil && strings.Contains(s.NotReady, "ledger: halted")
		})
	})
	for _, m := range w.brokers {
		m.kill()
		m.out.Reset()
		m.start()
	}
	for _, m := range w.brokers {
		ledgertest.Await(t, m.name+" to end", m.over)
		if said := m.out.String(); !strings.Contains(said, "ledger: halted") || !strings.Contains(said, "the store is an older copy") {
			t.Errorf("%s doesn't say what to do:\n%s", m.name, said)
		}
	}
	if n := w.load.ends(); n != before {
		t.Errorf("%d requests were answered on top of an older store", n-before)
	}
	if signed := w.signedSize(t); signed > ordered {
		t.Errorf("a checkpoint of size %d was signed, of %d entries that the store had", signed, ordered)
	}
	w.load.paused.Store(true)
}

// ordered is how many entries the store has.
func (w *world) ordered(t *testing.T) (n uint64) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), w.main.Superuser(w.store))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if err := c.QueryRow(t.Context(), "SELECT count(*) FROM leaves").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// signedSize is the size of the last signed checkpoint.
func (w *world) signedSize(t *testing.T) uint64 {
	t.Helper()
	s, err := signedpg.Open(t.Context(), w.apart.DSN(w.signed, "regard_signer"), origin)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	note, err := s.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cp, err := proof.VerifyCheckpoint(note, w.policy)
	if err != nil {
		t.Fatal(err)
	}
	return cp.Size()
}

// TestVault: Vault is sealed, and dies.
func TestVault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{vault: true})
	t.Run("sealed", func(t *testing.T) {
		w.survive(t, fault{hit: w.vault.Seal, heal: func() { time.Sleep(5 * time.Second); w.vault.Unseal() }})
	})
	t.Run("kill -9", func(t *testing.T) {
		addr := w.vault.Addr()
		w.survive(t, fault{hit: w.vault.Stop, heal: func() { time.Sleep(5 * time.Second); w.vault.Start(addr, true) }})
	})
	t.Run("the network between the one that leads and Vault", func(t *testing.T) {
		leads, follows := w.leader(t)
		w.cutUntil(t, func() { w.led(t, follows) }, []*wire{leads.toVault}, there, back)
	})
	t.Run("the network between one that follows and Vault", func(t *testing.T) {
		_, follows := w.leader(t)
		w.cut(t, []*wire{follows[0].toVault}, there, back)
	})
	t.Run("killed together with the one that leads", func(t *testing.T) {
		addr := w.vault.Addr()
		leads, _ := w.leader(t)
		w.survive(t, fault{hit: func() { w.vault.Stop(); leads.kill() }, heal: func() {
			time.Sleep(3 * time.Second)
			w.vault.Start(addr, true)
			leads.start()
		}})
	})
}

// TestCuts: the network between any two drops what is sent, in both directions or in one; what was under way comes late.
func TestCuts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{witness: true})
	for _, c := range []struct {
		what  string
		wires func(leads, follows *member) []*wire
		ways  []int
		next  bool // leads before it is whole again
	}{
		{"the one that leads and the store", func(l, _ *member) []*wire { return []*wire{l.toStore} }, []int{there, back}, true},
		{"the one that leads and the store, answers only", func(l, _ *member) []*wire { return []*wire{l.toStore} }, []int{back}, false},
		{"one that follows and the store", func(_, f *member) []*wire { return []*wire{f.toStore} }, []int{there, back}, false},
		{"the one that leads and the signed checkpoint", func(l, _ *member) []*wire { return []*wire{l.toSigned} }, []int{there, back}, true},
		{"the one that leads and Trillian", func(l, _ *member) []*wire { return []*wire{l.toLog} }, []int{there, back}, false}, // it speaks to the next log server
		{"the one that leads and everything", func(l, _ *member) []*wire { return []*wire{l.toStore, l.toSigned, l.toLog} }, []int{there, back}, true},
		{"the signer that integrates and its database", func(_, _ *member) []*wire { m, _ := w.master(t); return []*wire{m.toTree} }, []int{there, back}, false},
		{"the brokers and the provider", func(_, _ *member) []*wire { return []*wire{w.toProvider} }, []int{there, back}, false},
		{"the brokers and the provider, answers only", func(_, _ *member) []*wire { return []*wire{w.toProvider} }, []int{back}, false},
		{"the log server that brokers speak to and its database", func(_, _ *member) []*wire { return []*wire{w.signers[0].toTree} }, []int{there, back}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			leads, follows := w.leader(t)
			if !c.next {
				w.cut(t, c.wires(leads, follows[0]), c.ways...)
				return
			}
			w.cutUntil(t, func() { w.led(t, follows) }, c.wires(leads, follows[0]), c.ways...)
		})
	}
	t.Run("the brokers and a witness", func(t *testing.T) {
		policy, err := proof.ParsePolicy([]byte("log " + strings.Join(w.keys, "\nlog ") + "\n" + w.witness + "\nquorum w\n"))
		if err != nil {
			t.Fatal(err)
		}
		var cut uint64 // size
		w.survive(t, fault{unnoticed: true, hit: func() { w.toWitness.stop(there, back) }, heal: func() {
			time.Sleep(6 * time.Second)
			cut = w.signedSize(t)
			w.toWitness.heal()
		}})
		ledgertest.Await(t, "the witness to cosign what it missed", func() bool {
			note, err := os.ReadFile(filepath.Join(w.public, "checkpoint"))
			if err != nil {
				return false
			}
			cp, err := proof.VerifyCheckpoint(note, policy)
			return err == nil && cp.Size() > cut && len(cp.Witnesses()) == 1
		})
	})
}

// cut cuts wires for a while.
func (w *world) cut(t *testing.T, wires []*wire, ways ...int) {
	t.Helper()
	w.cutUntil(t, func() { time.Sleep(6 * time.Second) }, wires, ways...)
}

// cutUntil cuts wires until something has happened.
func (w *world) cutUntil(t *testing.T, until func(), wires []*wire, ways ...int) {
	t.Helper()
	w.survive(t, fault{hit: func() {
		for _, x := range wires {
			x.stop(ways...)
		}
	}, heal: func() {
		until()
		for _, x := range wires {
			x.heal()
		}
	}})
}

// TestSlowDisk: each fsync of both PostgreSQL servers takes 200 ms.
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{slow: true})
	w.survive(t, fault{hit: func() { w.slow(200 * time.Millisecond) }, heal: func() {}})
	leads, follows := w.leader(t)
	w.survive(t, fault{hit: leads.kill, heal: func() { w.led(t, follows); leads.start() }})
}

// TestFewConnections: others take all connections that PostgreSQL has, and cut off whoever holds one.
func TestFewConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{own: true, settings: []string{"max_connections = 60", "superuser_reserved_connections = 3"}})
	var held []*pgx.Conn
	w.survive(t, fault{hit: func() {
		if err := w.main.SQL(t.Context(), "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+w.store+"'"); err != nil {
			t.Fatal(err)
		}
		for {
			c, err := pgx.Connect(t.Context(), w.main.DSN(w.store, "regard_broker"))
			if err != nil {
				var pe *pgconn.PgError
				if !errors.As(err, &pe) || pe.Code != "53300" {
					t.Fatal(err)
				}
				break
			}
			held = append(held, c)
		}
		t.Logf("%d connections are somebody else's", len(held))
	}, heal: func() {
		time.Sleep(8 * time.Second)
		for _, c := range held {
			_ = c.Close(t.Context())
		}
	}})
}

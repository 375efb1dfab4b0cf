package signer_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/signer"
)

// wire is a way to PostgreSQL that can be cut: what is sent then arrives nowhere, and no connection ends.
type wire struct {
	mu    sync.Mutex
	whole *sync.Cond
	cut   bool
	conns []net.Conn
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if !cut { // what was on the way is lost
		for _, c := range w.conns {
			c.Close()
		}
		w.conns = nil
	}
	w.whole.Broadcast()
}

// newWire returns the connection string that goes over it.
func newWire(t *testing.T, dsn string) (*wire, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "regard-wire-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host := strings.TrimPrefix(strings.Fields(dsn)[0], "host=")
	ln, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{}
	w.whole = sync.NewCond(&w.mu)
	t.Cleanup(func() { ln.Close(); w.set(false) })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("unix", filepath.Join(host, ".s.PGSQL.5432"))
			if err != nil {
				c.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, c, s)
			w.mu.Unlock()
			go w.carry(c, s)
			go w.carry(s, c)
		}
	}()
	return w, strings.Replace(dsn, host, dir, 1)
}

func (w *wire) carry(to, from net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		w.mu.Lock()
		for w.cut {
			w.whole.Wait()
		}
		w.mu.Unlock()
		if err == nil {
			_, err = to.Write(b[:n])
		}
		if err != nil {
			to.Close()
			from.Close()
			return
		}
	}
}

// TestCutOff: a master that is cut off from PostgreSQL is followed by another one, can do nothing when the way is whole again but stand by, and knows it.
func TestCutOff(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	w, over := newWire(t, dsn)
	a := socket(t)
	s := start(t, signer.Config{DSN: over, Listen: socket(t)})
	ledgertest.Await(t, "the first to lead", func() bool { return signer.Master(s) })
	w.set(true)
	second := startProcess(t, childConfig{DSN: dsn, Listen: a})
	l := dial(t, a)
	for i := range int64(5) {
		grow(t, l, 10*i, 10*i+10)
	}
	if v := second.metric("regard_signer_entries_total"); v != "50" {
		t.Errorf("the second integrated %s entries", v)
	}
	w.set(false)
	ledgertest.Await(t, "the first to know that it was deposed", func() bool { return !signer.Master(s) })
	ledgertest.Await(t, "the first to stand by, and to be well", func() bool { return s.Healthy() == nil })
	grow(t, l, 50, 200)
	second.kill(t)
	ledgertest.Await(t, "the first to lead again", func() bool { return signer.Master(s) && s.Healthy() == nil })
}

// TestServerCutOff: a log server that takes calls but can't reach its database is left for the next one.
func TestServerCutOff(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	w, over := newWire(t, dsn)
	a, b := socket(t), socket(t)
	start(t, signer.Config{DSN: over, Listen: a})
	start(t, signer.Config{DSN: dsn, Listen: b})
	l := dial(t, a, b)
	grow(t, l, 0, 10)
	w.set(true)
	for from := int64(10); from < 40; from += 10 {
		grow(t, l, from, from+10)
	}
	w.set(false)
}

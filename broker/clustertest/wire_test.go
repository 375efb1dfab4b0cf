package clustertest

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// wire is an address behind which another one lies, both sockets or both TCP. It can be cut: nothing comes through then, no connection ends, and new ones are taken and hear nothing, as on a network that drops packets.
type wire struct {
	at, to string // addresses: absolute paths of sockets, or host:port

	mu    sync.Mutex
	whole *sync.Cond
	cut   [2]bool // there, back
	conns map[net.Conn]struct{}
}

const (
	there = 0 // from who asks to who answers
	back  = 1
)

// newWire lays one to a server. A socket has a name in a directory of its own.
func newWire(t testing.TB, name, to string) *wire {
	t.Helper()
	w := &wire{at: "127.0.0.1:0", to: to, conns: map[net.Conn]struct{}{}}
	w.whole = sync.NewCond(&w.mu)
	if w.network() == "unix" {
		w.at = filepath.Join(shortDir(t), name)
	}
	ln, err := net.Listen(w.network(), w.at)
	if err != nil {
		t.Fatal(err)
	}
	w.at = ln.Addr().String()
	t.Cleanup(func() {
		ln.Close()
		w.lose()
		w.heal()
	})
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial(w.network(), w.to)
			if err != nil {
				c.Close()
				continue
			}
			w.mu.Lock()
			w.conns[c], w.conns[s] = struct{}{}, struct{}{}
			w.mu.Unlock()
			go w.carry(s, c, there)
			go w.carry(c, s, back)
		}
	}()
	return w
}

func (w *wire) network() string {
	if filepath.IsAbs(w.to) {
		return "unix"
	}
	return "tcp"
}

// shortDir is a directory for sockets, whose paths may have 107 bytes: t.TempDir may be too long.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "regard-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (w *wire) carry(to, from net.Conn, direction int) {
	defer func() {
		to.Close()
		from.Close()
		w.mu.Lock()
		delete(w.conns, to)
		delete(w.conns, from)
		w.mu.Unlock()
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		w.mu.Lock()
		for w.cut[direction] {
			w.whole.Wait()
		}
		w.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// stop cuts one or both directions.
func (w *wire) stop(directions ...int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range directions {
		w.cut[d] = true
	}
}

// heal lets everything through that was under way, late as it is.
func (w *wire) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = [2]bool{}
	w.whole.Broadcast()
}

// lose ends all connections.
func (w *wire) lose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

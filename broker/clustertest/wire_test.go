package clustertest

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// wire is a Unix socket behind which another one lies. It can be cut: nothing comes through then, no connection ends, and new ones are taken and hear nothing, as on a network that drops packets.
type wire struct {
	path, to string

	mu    sync.Mutex
	whole *sync.Cond
	cut   [2]bool // there, back
	late  time.Duration
	conns map[net.Conn]struct{}
}

const (
	there = 0 // from the broker to the server
	back  = 1
)

func newWire(t testing.TB, name, to string) *wire {
	t.Helper()
	dir, err := os.MkdirTemp("", "regard-wire-") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{path: filepath.Join(dir, name), to: to, conns: map[net.Conn]struct{}{}}
	w.whole = sync.NewCond(&w.mu)
	ln, err := net.Listen("unix", w.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ln.Close()
		w.lose()
		w.heal()
		os.RemoveAll(dir)
	})
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("unix", w.to)
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
		late := w.late
		w.mu.Unlock()
		if late > 0 && direction == there && bytes.Contains(bytes.ToLower(b[:n]), []byte("commit")) {
			time.Sleep(late)
		}
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

// delay makes each commit come so much later.
func (w *wire) delay(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = d
}

package demo

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// server says its name to whoever connects and echoes a line.
type server struct {
	ln    net.Listener
	ready atomic.Bool
	ops   *httptest.Server
}

func startServer(t *testing.T, name string) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{ln: ln}
	s.ready.Store(true)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				line, err := bufio.NewReader(c).ReadString('\n')
				if err == nil {
					fmt.Fprint(c, line)
				}
			}()
		}
	}()
	s.ops = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !s.ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(func() { ln.Close(); s.ops.Close() })
	return s
}

func (s *server) backend() backend {
	return backend{address: s.ln.Addr().String(), ops: s.ops.Listener.Addr().String()}
}

// say sends a line through the balancer and returns who answered, "" for nobody.
func say(t *testing.T, b *balancer) string {
	t.Helper()
	c, err := net.Dial("tcp", b.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	name, err := r.ReadString('\n')
	if err != nil {
		return ""
	}
	fmt.Fprintln(c, "ping")
	if line, err := r.ReadString('\n'); err != nil || line != "ping\n" {
		t.Fatalf("%s answered %q (%v)", name, line, err)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Fatalf("the connection goes on after its server ended it: %v", err)
	}
	return name[:len(name)-1]
}

func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s", what)
		}
	}
}

func TestBalancer(t *testing.T) {
	t.Parallel()
	a, z := startServer(t, "a"), startServer(t, "z")
	b, err := newBalancer([]backend{a.backend(), z.backend()})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "both to be ready", func() bool { return b.ready[0].Load() && b.ready[1].Load() })
	got := map[string]int{}
	for range 10 {
		got[say(t, b)]++
	}
	if got["a"] != 5 || got["z"] != 5 {
		t.Errorf("10 connections went to %v", got)
	}
	a.ready.Store(false)
	await(t, "one to be left out", func() bool { return !b.ready[0].Load() })
	for range 4 {
		if got := say(t, b); got != "z" {
			t.Errorf("one that isn't ready, or nobody, answers: %q", got)
		}
	}
	// A port that nobody listens on any more is passed over before its health is known.
	a.ready.Store(true)
	await(t, "it to be back", func() bool { return b.ready[0].Load() })
	_ = a.ln.Close()
	for range 4 {
		if got := say(t, b); got != "z" {
			t.Errorf("one that is gone, or nobody, answers: %q", got)
		}
	}
	z.ready.Store(false)
	await(t, "the other to be left out", func() bool { return !b.ready[1].Load() })
	if got := say(t, b); got != "" {
		t.Errorf("%q answers, and isn't ready", got)
	}
	z.ready.Store(true)
	await(t, "the other to be back", func() bool { return b.ready[1].Load() })
	// Closing ends connections that are open, and waits for nobody.
	c, err := net.Dial("tcp", b.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlasts its balancer")
	}
	if c, err := net.Dial("tcp", b.address()); err == nil {
		c.Close()
		t.Error("the balancer still listens")
	}
}

package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/regard-broker/regard/broker"
)

// counting counts what reaches the network, in pieces.
type counting struct {
	net.Listener
	pieces atomic.Int64
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &countingConn{c, &l.pieces}, err
}

type countingConn struct {
	net.Conn
	pieces *atomic.Int64
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.pieces.Add(1)
	return c.Conn.Write(b)
}

// TestAnswerInOnePiece: an answer that is longer than net/http's buffer is one write to the network.
func TestAnswerInOnePiece(t *testing.T) {
	for _, size := range []int{10, 3000, 4000, 5000, 10_000, 200_000} {
		n := &counting{}
		s := startOn(t, nil, func(ln net.Listener) net.Listener {
			n.Listener = ln.(corking).Listener
			return corking{n}
		})
		a := bigAnswer()
		a.Data = []byte(`{"x":"` + strings.Repeat("y", size) + `"}`)
		s.disclose = func(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error) { return a, nil }
		c := s.clientOf(false, s.mine)
		ask := func() int64 {
			before := n.pieces.Load()
			r := s.do(t, c, "POST", "/v1/disclosures", question)
			if r.status != http.StatusOK || !strings.Contains(r.body, string(a.Data)) {
				t.Fatalf("%d bytes: %d %.100s", size, r.status, r.body)
			}
			return n.pieces.Load() - before
		}
		ask() // with the handshake
		if got := ask(); got != 1 {
			t.Errorf("an answer with %d bytes of data: %d writes", size, got)
		}
	}
}

type failing struct {
	net.Conn
	wrote  []string
	err    error
	closed bool
}

func (f *failing) Close() error { f.closed = true; return nil }

func (f *failing) Write(b []byte) (int, error) {
	f.wrote = append(f.wrote, string(b))
	return len(b), f.err
}

func TestCork(t *testing.T) {
	f := &failing{}
	c := &corkable{Conn: f}
	write := func(s string, want error) {
		t.Helper()
		if _, err := c.Write([]byte(s)); !errors.Is(err, want) {
			t.Errorf("writing %q: %v", s, err)
		}
	}
	write("a", nil)
	c.cork()
	write("b", nil)
	write("c", nil)
	if len(f.wrote) != 1 {
		t.Errorf("corked, and %q was written", f.wrote)
	}
	if err := c.uncork(); err != nil {
		t.Error(err)
	}
	write("d", nil)
	if got := strings.Join(f.wrote, " "); got != "a bc d" {
		t.Errorf("wrote %q", got)
	}
	if f.closed {
		t.Error("closed, and nothing was lost")
	}
	// What was lost is not followed by anything.
	f.err = net.ErrClosed
	c.cork()
	write("e", nil)
	if err := c.uncork(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the error of what was kept back: %v", err)
	}
	if !f.closed {
		t.Error("net/http doesn't see that something was lost, and would use the connection again")
	}
	f.err = nil
	write("f", net.ErrClosed)
	c.cork()
	write("g", net.ErrClosed)
	if err := c.uncork(); !errors.Is(err, net.ErrClosed) || len(f.wrote) != 4 {
		t.Errorf("%v, %q", err, f.wrote)
	}
	if ctx := withCork(context.Background(), f); ctx != context.Background() {
		t.Error("a connection that can't be corked is")
	}
}

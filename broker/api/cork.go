package api

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// corkable is a connection on which an answer leaves in one piece. net/http writes what is longer than its buffer of 4 kB in two pieces at least: each is a call of the system and wakes the caller's
// process. TLS is above it, so what is kept back is encrypted.
type corkable struct {
	net.Conn
	mu     sync.Mutex
	corked bool
	kept   *[]byte // of buffers, nil: nothing
	err    error   // of what was kept back: nothing may follow it
}

// Write implements net.Conn. While it is corked, an error comes with the next write.
func (c *corkable) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return 0, c.err
	case c.corked:
		if c.kept == nil {
			c.kept = buffers.Get().(*[]byte)
			*c.kept = (*c.kept)[:0]
		}
		*c.kept = append(*c.kept, b...)
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *corkable) cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = true
}

// uncork writes what was kept back.
func (c *corkable) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	if c.kept == nil {
		return c.err
	}
	if _, c.err = c.Conn.Write(*c.kept); c.err != nil {
		_ = c.Conn.Close() // net/http doesn't see it, and would let the caller wait for the rest until the connection has been idle for long
	}
	if cap(*c.kept) <= maxBuffer {
		buffers.Put(c.kept)
	}
	c.kept = nil
	return c.err
}

// corking makes the connections of a listener corkable.
type corking struct{ net.Listener }

func (l corking) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &corkable{Conn: c}, nil
}

type corkKey struct{}

// withCork is http.Server's ConnContext.
func withCork(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	if c, ok := c.(*corkable); ok {
		return context.WithValue(ctx, corkKey{}, c)
	}
	return ctx
}

// writeWhole writes an answer's body with its header. Over HTTP/2 others write to the connection, too, and whole frames leave at once.
func writeWhole(w http.ResponseWriter, r *http.Request, b []byte) error {
	c, ok := r.Context().Value(corkKey{}).(*corkable)
	if !ok || r.ProtoMajor != 1 {
		_, err := w.Write(b)
		return err
	}
	c.cork()
	_, err := w.Write(b)
	if err == nil {
		err = http.NewResponseController(w).Flush() // what is left in the buffer would be a piece of its own
	}
	if uerr := c.uncork(); err == nil {
		err = uerr
	}
	return err
}

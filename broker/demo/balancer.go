package demo

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// healthEvery is how often a balancer asks each backend whether it takes requests.
const healthEvery = 100 * time.Millisecond

// backend is one server behind a balancer.
type backend struct {
	address string
	ops     string // where its /readyz is
}

// balancer hands TCP connections to the backends that are ready, one after the other. What a connection carries is none of its business: TLS ends at the brokers.
type balancer struct {
	ln       net.Listener
	backends []backend
	ready    []atomic.Bool
	next     atomic.Uint64
	done     chan struct{}
	work     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil: closed
}

func newBalancer(backends []backend) (*balancer, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &balancer{ln: ln, backends: backends, ready: make([]atomic.Bool, len(backends)), done: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	for i := range backends {
		b.work.Go(func() { b.watch(i) })
	}
	b.work.Go(b.accept)
	return b, nil
}

func (b *balancer) address() string { return b.ln.Addr().String() }

func (b *balancer) watch(i int) {
	t := time.NewTicker(healthEvery)
	defer t.Stop()
	for {
		b.ready[i].Store(ready(b.backends[i].ops))
		select {
		case <-b.done:
			return
		case <-t.C:
		}
	}
}

func (b *balancer) accept() {
	for {
		c, err := b.ln.Accept()
		if err != nil {
			return // closed
		}
		b.work.Go(func() { b.carry(c) })
	}
}

// dial connects to the next backend that is ready and there.
func (b *balancer) dial() net.Conn {
	first := b.next.Add(1)
	for i := range b.backends {
		n := int((first + uint64(i)) % uint64(len(b.backends))) // #nosec G115 -- smaller than the number of backends
		if !b.ready[n].Load() {
			continue
		}
		if c, err := net.DialTimeout("tcp", b.backends[n].address, time.Second); err == nil {
			return c
		}
	}
	return nil
}

// carry copies both ways until both sides have ended, or one is gone.
func (b *balancer) carry(client net.Conn) {
	if !b.hold(client) {
		return
	}
	defer b.drop(client)
	server := b.dial()
	if server == nil || !b.hold(server) {
		return
	}
	defer b.drop(server)
	var both sync.WaitGroup
	for _, x := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			if _, err := io.Copy(x[0], x[1]); err != nil {
				_ = client.Close()
				_ = server.Close()
				return
			}
			if t, ok := x[0].(*net.TCPConn); ok {
				_ = t.CloseWrite()
			}
		})
	}
	both.Wait()
}

// hold notes a connection, so that close ends it; after close it takes none.
func (b *balancer) hold(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		_ = c.Close()
		return false
	}
	b.conns[c] = struct{}{}
	return true
}

func (b *balancer) drop(c net.Conn) {
	_ = c.Close()
	b.mu.Lock()
	delete(b.conns, c)
	b.mu.Unlock()
}

// close ends the listener and all connections.
func (b *balancer) close() error {
	close(b.done)
	err := b.ln.Close()
	b.mu.Lock()
	for c := range b.conns {
		_ = c.Close()
	}
	b.conns = nil
	b.mu.Unlock()
	b.work.Wait()
	return err
}

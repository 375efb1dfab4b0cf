package witness

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxClients bounds the addresses that are remembered.
const maxClients = 4096

// clients gives each address its allowance.
type clients struct {
	limit rate.Limit
	burst int

	mu   sync.Mutex
	seen map[netip.Prefix]*rate.Limiter
}

func (c *clients) init(limit rate.Limit, burst int) {
	c.limit, c.burst, c.seen = limit, burst, map[netip.Prefix]*rate.Limiter{}
}

// allow takes one request from the allowance of an address.
func (c *clients) allow(now time.Time, remote string) bool {
	var from netip.Prefix // of what has no address: one allowance together
	if at, err := netip.ParseAddrPort(remote); err == nil {
		addr := at.Addr().Unmap()
		bits := addr.BitLen()
		if addr.Is6() {
			bits = 64 // whoever has one address of it has all
		}
		from, _ = addr.WithZone("").Prefix(bits)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.seen[from]
	if l == nil {
		if len(c.seen) >= maxClients {
			c.forget(now)
		}
		l = rate.NewLimiter(c.limit, c.burst)
		c.seen[from] = l
	}
	return l.AllowN(now, 1)
}

// forget drops those who have their whole allowance, and everybody if that is nobody.
func (c *clients) forget(now time.Time) {
	for k, l := range c.seen {
		if l.TokensAt(now) >= float64(c.burst) {
			delete(c.seen, k)
		}
	}
	if len(c.seen) >= maxClients {
		clear(c.seen)
	}
}

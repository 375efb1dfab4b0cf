// Package freeport finds ports for servers that are about to be started, where an address has to be known before anybody listens on it: in another's configuration, or in a name. It is
// for demonstrations, benchmarks and tests on one machine.
//
// A port that was merely free a moment ago is soon somebody else's, who asked for any. A Hold keeps it: its socket is bound and doesn't listen, so Linux gives the port to nobody who asks
// for any, nor to outgoing connections, while a server that asks for this one gets it, as often as it starts, provided that both allow the address to be used again (SO_REUSEADDR, which
// Go's listeners, PostgreSQL and most servers set; ip(7), socket(7)).
package freeport

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Hold is a port that is kept for a server. It ends with Close or with the process; servers that have listened by then aren't concerned.
type Hold struct {
	addr netip.AddrPort
	fd   int
}

// New holds a port of an IPv4 address of this machine, such as 127.0.0.1, on which nobody listens.
func New(host string) (*Hold, error) {
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.Is4() {
		return nil, fmt.Errorf("holding a port: %q is no IPv4 address", host)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("holding a port: %w", err)
	}
	h := &Hold{fd: fd}
	if err := h.bind(ip); err != nil {
		h.Close()
		return nil, fmt.Errorf("holding a port of %s: %w", ip, err)
	}
	return h, nil
}

func (h *Hold) bind(ip netip.Addr) error {
	if err := unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(h.fd, &unix.SockaddrInet4{Addr: ip.As4()}); err != nil {
		return err
	}
	bound, err := unix.Getsockname(h.fd)
	if err != nil {
		return err
	}
	h.addr = netip.AddrPortFrom(ip, uint16(bound.(*unix.SockaddrInet4).Port)) // #nosec G115 -- a port
	return nil
}

// Addr is host:port.
func (h *Hold) Addr() string { return h.addr.String() }

// Close gives the port back.
func (h *Hold) Close() { _ = unix.Close(h.fd) } // a socket has nothing to lose

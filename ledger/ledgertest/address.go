package ledgertest

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

var loopbacks atomic.Uint32

// Loopback is an address of this machine that is nobody else's: no other test's, nor another process's. A port that was free at 127.0.0.1 may be given to somebody else before it is listened on.
func Loopback() string {
	pid, n := os.Getpid(), loopbacks.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 64+(pid>>8)%64, pid%256, 1+n%254)
}

// FreeAddress is a port that nobody listens on, at an address of its own.
func FreeAddress(t testing.TB) string { return FreePort(t, Loopback()) }

// FreePort is a port at an address that nobody listens on there.
func FreePort(t testing.TB, host string) string {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

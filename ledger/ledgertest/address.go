package ledgertest

import (
	"testing"

	"github.com/regard-broker/regard/deploy/freeport"
)

// FreeAddress is host:port of this machine that nobody listens on, and that is kept for whom the test starts until it ends.
func FreeAddress(t testing.TB) string {
	t.Helper()
	port, err := freeport.New("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	return port.Addr()
}

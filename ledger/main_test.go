package ledger_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/regard-broker/regard/ledger/embedded"
)

// TestMain opens an embedded Trillian before any test does: the first one redirects klog, a global, which Tessera's checker still uses from goroutines that outlive its calls.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ledger")
	if err == nil {
		var l *embedded.Log
		if l, err = embedded.Open(context.Background(), embedded.Config{Path: filepath.Join(dir, "t.db")}); err == nil {
			err = l.Close()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing the tests:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

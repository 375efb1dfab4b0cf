package remote_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/remote"
)

// TestConfigIsRefused: what would be in clear, or nonsense, before anything is sent.
func TestConfigIsRefused(t *testing.T) {
	t.Parallel()
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]remote.Config{
		"no address":           {},
		"neither":              {Addresses: []string{"localhost"}},
		"another machine":      {Addresses: []string{"127.0.0.1:1", "log.example:8090"}},
		"another machine: ":    {Addresses: []string{"localhost.example:1"}},
		"go together":          {Addresses: []string{"127.0.0.1:1"}, CAFile: junk, Cert: junk},
		"need ca_file":         {Addresses: []string{"127.0.0.1:1"}, Cert: junk, Key: junk},
		"no meaning":           {Addresses: []string{"unix:/s"}, CAFile: junk},
		"holds no certificate": {Addresses: []string{"log.example:1"}, CAFile: junk},
		"reading ca_file":      {Addresses: []string{"log.example:1"}, CAFile: junk + "x"},
	} {
		if _, err := remote.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(want, ": ")) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}

// TestNobodyThere: opening ends, and says what was asked.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	for _, tree := range []int64{0, 7} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := remote.Open(ctx, remote.Config{Addresses: []string{"unix:" + filepath.Join(t.TempDir(), "s")}, Tree: tree, Timeout: 300 * time.Millisecond})
		cancel()
		if err == nil || !strings.Contains(err.Error(), "asking Trillian for") {
			t.Errorf("tree %d: %v", tree, err)
		}
	}
}

package signer_test

import (
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
)

// stock is Trillian's own log server in its process.
type stock struct {
	cmd  *exec.Cmd
	addr string
	out  *output.Buffer
	args []string
}

// startStock starts the binary that REGARD_TRILLIAN names; without it the test is skipped, but where CI is set it fails.
func startStock(t testing.TB, dsn string) *stock {
	t.Helper()
	bin := os.Getenv("REGARD_TRILLIAN")
	if bin == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("REGARD_TRILLIAN doesn't name Trillian's log server: make trillian-server")
		}
		t.Skip("skipped: REGARD_TRILLIAN doesn't name Trillian's log server (make trillian-server builds bin/trillian_log_server)")
	}
	s := &stock{addr: ledgertest.FreeAddress(t)}
	s.args = []string{bin, "--rpc_endpoint=" + s.addr, "--http_endpoint=", "--storage_system=postgresql", "--quota_system=noop", "--postgresql_uri=" + uri(dsn), "--tree_gc=false", "--logtostderr"}
	s.start(t)
	return s
}

func (s *stock) start(t testing.TB) {
	t.Helper()
	s.cmd, s.out = exec.Command(s.args[0], s.args[1:]...), &output.Buffer{}
	s.cmd.Stderr, s.cmd.Stdout = s.out, s.out
	run(t, s.cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("trillian_log_server:\n%s", s.out)
		}
	})
	ledgertest.Await(t, "Trillian's log server to listen", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (s *stock) kill(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
}

// uri is a connection string in the form that Trillian's server takes.
func uri(dsn string) string {
	q := url.Values{}
	for kv := range strings.FieldsSeq(dsn) {
		k, v, _ := strings.Cut(kv, "=")
		q.Set(k, v)
	}
	return "postgresql:///?" + q.Encode()
}

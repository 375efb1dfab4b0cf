package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
)

func run(ctx context.Context, out io.Writer, args ...string) error {
	c := command()
	c.SetArgs(args)
	c.SetOut(out)
	c.SetErr(out)
	return c.ExecuteContext(ctx)
}

// write makes a certificate for 127.0.0.1 and returns the names of its files.
func write(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	brokertest.WriteIdentity(t, brokertest.NewCurrentIdentity(t, name), cert, key)
	return cert, key
}

func TestServices(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "services")
	var out bytes.Buffer
	if err := run(context.Background(), &out, "services", "--base", "https://provider.example:8443", "--out", dir); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 10 || strings.Count(out.String(), "\n") != 10 {
		t.Fatalf("%d files, %v\n%s", len(files), err, &out)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		d, err := service.Parse(b)
		if err != nil || !strings.HasPrefix(d.Endpoint, "https://provider.example:8443/") || string(d.ID)+".yaml" != f.Name() {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	cert, key := write(t, dir, "provider")
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "--broker-cert are needed"},
		{[]string{"--cert", cert, "--key", key}, "--broker-cert are needed"},
		{[]string{"--cert", cert, "--key", cert, "--broker-cert", cert}, "reading --cert and --key"},
		{[]string{"--cert", cert, "--key", key, "--broker-cert", key}, "no PEM certificate"},
		{[]string{"--cert", cert, "--key", key, "--broker-cert", cert, "--population", "-1"}, "--population"},
		{[]string{"--cert", cert, "--key", key, "--broker-cert", cert, "--base", "provider"}, "base URL"},
		{[]string{"--cert", cert, "--key", key, "--broker-cert", cert, "--guard", dir}, "--guard needs --log-key or --policy"},
		{[]string{"--cert", cert, "--key", key, "--broker-cert", cert, "--guard", dir, "--log-key", "a+b"}, "not an Ed25519 vkey"},
		{[]string{"--cert", cert, "--key", key, "--broker-cert", cert, "--guard", dir, "--broker-url", "https://x", "--log-key", vkey(t)}, "AcceptSigned"},
		{[]string{"--cert", cert, "--key", key, "--broker-cert", cert, "--guard", dir, "--broker-url", "http://x", "--log-key", vkey(t), "--accept-signed"}, "https://host:port"},
		{[]string{"services", "--client-cert", key}, "no PEM certificate"},
		{[]string{"--colour", "red"}, "unknown flag"},
		{[]string{"services", "--base", "x"}, "base URL"},
	} {
		if err := run(context.Background(), io.Discard, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.args, err, c.want)
		}
	}
}

// 2 says that the input was at fault, as for regard itself.
func TestExitCodes(t *testing.T) {
	cert, key := write(t, t.TempDir(), "provider")
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{0, "regard-provider ", []string{"version"}}, {0, `"version": "`, []string{"version", "--json"}},
		{2, "unknown flag: --foo (see regard-provider --help)", []string{"--foo"}}, {2, `has no command "foo" (see regard-provider --help)`, []string{"foo"}}, {2, "takes no arguments", []string{"services", "x"}}, {2, "takes no arguments", []string{"version", "x"}},
		{2, "are needed", nil}, {2, "give one of --log-key and --policy", []string{"--cert", cert, "--key", key, "--broker-cert", cert, "--guard", "x", "--log-key", "x", "--policy", "x"}},
		{1, "listen", []string{"--cert", cert, "--key", key, "--broker-cert", cert, "--listen", "192.0.2.1:1"}},
	} {
		var out bytes.Buffer
		err := run(context.Background(), &out, c.args...)
		if err != nil {
			out.WriteString(err.Error())
		}
		if exitCode(err) != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%v: %d, %s", c.args, exitCode(err), &out)
		}
	}
	var help bytes.Buffer
	if err := run(context.Background(), &help, "--help"); err != nil || !strings.Contains(help.String(), "--max-age duration ") {
		t.Errorf("%v %s", err, &help)
	}
}

// vkey is a log's verification key.
func vkey(t *testing.T) string {
	t.Helper()
	_, v, err := note.GenerateKey(rand.Reader, "regard.example/log")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestServe runs the command until it is told to stop.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	cert, key := write(t, dir, "provider")
	brokerCert, brokerKey := write(t, dir, "broker")
	access := filepath.Join(dir, "access.jsonl")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var out output.Buffer
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, &out, "--listen", "127.0.0.1:0", "--base", "https://provider.example", "--cert", cert, "--key", key, "--broker-cert", brokerCert, "--access-log", access)
	}()
	var address string
	for address == "" {
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
		if _, after, ok := strings.Cut(out.String(), " on "); ok && strings.HasSuffix(after, "\n") {
			address = strings.TrimSpace(after)
		}
	}
	broker, err := tls.LoadX509KeyPair(brokerCert, brokerKey)
	if err != nil {
		t.Fatal(err)
	}
	own, err := certificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(own)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{broker}}}}
	resp, err := client.Get("https://" + address + "/v1/geo/commune?code=31555")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), "Toulouse") {
		t.Errorf("%s %s %v", resp.Status, body, err)
	}
	client.CloseIdleConnections()
	stop()
	if err := <-done; err != nil {
		t.Errorf("after the signal: %v", err)
	}
	if b, err := os.ReadFile(access); err != nil || strings.Count(string(b), "\n") != 1 || !strings.Contains(string(b), `"service":"commune"`) {
		t.Errorf("access log %q, %v", b, err)
	}
}

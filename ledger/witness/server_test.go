package witness

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newDir makes the files of a witness and returns the path of its configuration.
func newDir(t *testing.T, text string, logs ...*somebodysLog) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := CreateKey(filepath.Join(dir, "witness.key"), "witness.example/w1"); err != nil {
		t.Fatal(err)
	}
	if err := Create(t.Context(), filepath.Join(dir, "witness.db")); err != nil {
		t.Fatal(err)
	}
	var vkeys []string
	for _, l := range logs {
		vkeys = append(vkeys, l.vkey)
	}
	write(t, filepath.Join(dir, "logs"), LogList(vkeys...))
	path := filepath.Join(dir, "witness.yaml")
	write(t, path, []byte("signing_key: witness.key\nstate: witness.db\nlogs: logs\n"+text))
	return path
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, path string) *Server {
	t.Helper()
	f, err := LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), f, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A log that is added to the list is cosigned after a reload; a list that can't be read changes nothing.
func TestServeAndReload(t *testing.T) {
	one, two := newLog(t, "log.example/one"), newLog(t, "log.example/two")
	one.grow(t, 3, "entry")
	two.grow(t, 3, "entry")
	path := newDir(t, "listen: 127.0.0.1:0\nops: 127.0.0.1:0\n", one)
	s := start(t, path)
	url := "http://" + s.Addr().String()
	if a := post(t, url, one.ask(t, 0, 3)); a.status != http.StatusOK {
		t.Fatalf("%+v", a)
	}
	if a := post(t, url, two.ask(t, 0, 3)); a.status != http.StatusNotFound {
		t.Fatalf("%+v", a)
	}
	list := filepath.Join(filepath.Dir(path), "logs")
	own := s.Witness.VKey()
	for _, bad := range []string{"", "logs/v0\nvkey x\n", string(LogList(own)), "logs/v0\nvkey " + two.vkey + "\nqpd -3\n"} {
		write(t, list, []byte(bad))
		if err := s.Reload(); err == nil {
			t.Errorf("reloaded %q", bad)
		}
	}
	if a := post(t, url, one.ask(t, 3, 3)); a.status != http.StatusOK {
		t.Errorf("after a reload that failed: %+v", a)
	}
	write(t, list, LogList(two.vkey))
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if a := post(t, url, two.ask(t, 0, 3)); a.status != http.StatusOK {
		t.Errorf("%+v", a)
	}
	if a := post(t, url, one.ask(t, 3, 3)); a.status != http.StatusNotFound {
		t.Errorf("a log that is not in the list any more: %+v", a)
	}
	// A log that comes back is remembered.
	write(t, list, LogList(one.vkey, two.vkey))
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if a := post(t, url, one.ask(t, 0, 3)); a.status != http.StatusConflict || a.body != "3\n" {
		t.Errorf("%+v", a)
	}
	res, err := http.Get("http://" + s.OpsAddr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("health: %d", res.StatusCode)
	}
	f, err := LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), f, nil); !errors.Is(err, ErrLocked) {
		t.Errorf("a second process on the state: %v", err)
	}
}

func TestTLS(t *testing.T) {
	l := newLog(t, "log.example/one")
	l.grow(t, 3, "entry")
	path := newDir(t, "listen: 127.0.0.1:0\ncert: tls.pem\nkey: tls.key\n", l)
	pool := newCert(t, filepath.Dir(path))
	s := start(t, path)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}}
	res, err := client.Post("https://"+s.Addr().String()+"/add-checkpoint", "", strings.NewReader(l.ask(t, 0, 3)))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusOK || res.TLS.Version != tls.VersionTLS13 {
		t.Errorf("%d %s over TLS %x", res.StatusCode, b, res.TLS.Version)
	}
	newCert(t, filepath.Dir(path)) // another one, with another key
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	client.CloseIdleConnections()
	if _, err := client.Post("https://"+s.Addr().String()+"/add-checkpoint", "", nil); err == nil {
		t.Error("the old certificate is shown after a reload")
	}
}

func newCert(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tls.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// What is badly configured doesn't start, and says what to do.
func TestConfigRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"unknown key":         {"listen: 127.0.0.1:0\nlissen: x\n", "lissen"},
		"twice":               {"listen: 127.0.0.1:0\nlisten: 127.0.0.1:1\n", "already"},
		"two documents":       {"listen: 127.0.0.1:0\n---\nlisten: 127.0.0.1:0\n", "more than one document"},
		"no listener":         {"", "host:port"},
		"open to all, no TLS": {"listen: 0.0.0.0:7380\n", "without TLS"},
		"a name":              {"listen: witness.example:7380\n", "without TLS"},
		"open metrics":        {"listen: 127.0.0.1:0\nops: 0.0.0.0:1\n", "ops is reachable"},
		"half a certificate":  {"listen: 127.0.0.1:0\ncert: tls.pem\n", "go together"},
		"a rate":              {"listen: 127.0.0.1:0\nclient_rate: -1\n", "out of range"},
	} {
		if _, err := LoadFile(newDir(t, c.text)); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := newDir(t, "# "+strings.Repeat("x", maxFile)+"\n")
	if _, err := LoadFile(big); !errors.Is(err, ErrConfig) {
		t.Errorf("a file of more than %d bytes: %v", maxFile, err)
	}
	if _, err := LoadFile(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrConfig) {
		t.Errorf("no file: %v", err)
	}
	path := newDir(t, "listen: 127.0.0.1:0\n")
	f, err := LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.SigningKey, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), f, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
	if _, err := CreateKey(f.SigningKey, "other.example"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a key in the place of another: %v", err)
	}
	if _, err := NewKey("with space"); err == nil {
		t.Error("a name with a space")
	}
}

func TestParseLogs(t *testing.T) {
	l := newLog(t, "log.example/one")
	text := "# comment\nlogs/v0\n\nvkey " + l.vkey + "\nvkey " + l.vkey + "\norigin go.sum database tree\nqpd 5\ncontact x@y\n"
	logs, err := ParseLogs([]byte(text))
	if err != nil || fmt.Sprint(logs) != fmt.Sprint([]Log{{"log.example/one", l.vkey, 0}, {"go.sum database tree", l.vkey, 5}}) {
		t.Errorf("%v %v", logs, err)
	}
	if again, err := ParseLogs(LogList(l.vkey)); err != nil || len(again) != 1 || again[0].PerDay != defaultPerDay {
		t.Errorf("%v %v", again, err)
	}
}

func FuzzParseLogs(f *testing.F) {
	l := newLog(f, "log.example/one")
	f.Add(LogList(l.vkey))
	f.Add([]byte("logs/v0\nvkey " + l.vkey + "\norigin x y\nqpd nan\n"))
	w := &Witness{vkey: "x+00000000+BAAA", metrics: newMetrics()}
	f.Fuzz(func(t *testing.T, in []byte) {
		logs, err := ParseLogs(in)
		if err != nil {
			if !errors.Is(err, ErrConfig) || bytes.Contains(in, []byte("\x00")) && strings.Contains(err.Error(), "\x00") {
				t.Fatal(err)
			}
			return
		}
		if err := w.SetLogs(logs); err != nil {
			t.Fatalf("what parses can't be used: %v", err)
		}
	})
}

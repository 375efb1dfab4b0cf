package vault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/vault"
)

// clientCert writes a certificate that is its own authority, with its key, over what is there.
func (s *server) clientCert(certFile, keyFile string, serial int64) *x509.Certificate {
	s.TB.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.TB.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "broker"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		s.TB.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.TB.Fatal(err)
	}
	s.Write(certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	s.Write(keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		s.TB.Fatal(err)
	}
	return cert
}

// Before Vault stands what demands a client certificate and a namespace of every request, as an enterprise's listener does. Both are shown in each, and a certificate that is
// replaced is used from the next connection.
func TestClientCertificateAndNamespace(t *testing.T) {
	s := newServer(t)
	ic, res := s.Initialise(vault.InitConfig{})
	cfg := s.Config(ic, res, vault.RoleBroker)
	dir := t.TempDir()
	cfg.CertFile, cfg.KeyFile, cfg.CAFile, cfg.Namespace = filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "ca"), "ministry/regard"

	target, err := url.Parse(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	var mu sync.Mutex
	trusted := s.clientCert(cfg.CertFile, cfg.KeyFile, 1)
	var last int64
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		last = r.TLS.PeerCertificates[0].SerialNumber.Int64()
		mu.Unlock()
		if r.Header.Get("X-Vault-Namespace") != "ministry/regard" {
			http.Error(w, `{"errors":["no such namespace"]}`, http.StatusForbidden)
			return
		}
		r.Header.Del("X-Vault-Namespace") // the test server has none
		forward.ServeHTTP(w, r)
	}))
	front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	front.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
		mu.Lock()
		defer mu.Unlock()
		if string(raw[0]) != string(trusted.Raw) {
			return errors.New("not the client")
		}
		return nil
	}}
	front.StartTLS()
	defer front.Close()
	s.Write(cfg.CAFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})))
	cfg.Address = front.URL

	refused := func(says string, want error, f func(*vault.Config)) {
		t.Helper()
		bad := cfg
		f(&bad)
		c, err := vault.Open(t.Context(), bad)
		if err == nil {
			c.Close()
			t.Fatalf("it opened, want %q", says)
		}
		if !strings.Contains(err.Error(), says) || want != nil && !errors.Is(err, want) {
			t.Errorf("%v, want %v %q", err, want, says)
		}
	}
	refused("both needed", nil, func(c *vault.Config) { c.KeyFile = "" })
	refused("client certificate", nil, func(c *vault.Config) { c.KeyFile = c.CAFile })
	refused("", keys.ErrUnavailable, func(c *vault.Config) { c.CertFile, c.KeyFile = "", "" })
	refused("isn't trusted", keys.ErrUnavailable, func(c *vault.Config) { c.CAFile = "" })

	c := open(t, cfg)
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	trusted = s.clientCert(cfg.CertFile, cfg.KeyFile, 2)
	mu.Unlock()
	front.CloseClientConnections()
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("after the certificate was replaced: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if last != 2 {
		t.Errorf("certificate %d was shown", last)
	}
}

// A namespace that isn't the right one is no outage.
func TestWrongNamespace(t *testing.T) {
	s := newServer(t)
	ic, res := s.Initialise(vault.InitConfig{})
	cfg := s.Config(ic, res, vault.RoleBroker)
	cfg.Address = newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Namespace") == "" {
			t.Error("no namespace in a request")
		}
		http.Error(w, `{"errors":["no handler for route"]}`, http.StatusNotFound) // as Vault Enterprise answers
	}))
	cfg.Namespace = "elsewhere"
	if c, err := vault.Open(t.Context(), cfg); !errors.Is(err, keys.ErrDenied) {
		if err == nil {
			c.Close()
		}
		t.Errorf("got %v", err)
	}
}

package api

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// Certificates holds a server's certificate and changes it without a restart.
type Certificates struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
}

// LoadCertificates reads a certificate chain and its key, PEM.
func LoadCertificates(certFile, keyFile string) (*Certificates, error) {
	c := &Certificates{certFile: certFile, keyFile: keyFile}
	return c, c.Reload()
}

// Reload reads the files again. On an error the certificate that was in force stays in force.
func (c *Certificates) Reload() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("loading the server's certificate: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

func (c *Certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// strict is what every TLS listener of the broker starts from: 1.3, and 1.2 with forward secrecy and authenticated encryption only
// (ANSSI, Recommandations de sécurité relatives à TLS, R3 and R7 to R9).
func strict(c *Certificates) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: c.get,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
}

// mutual asks for a client certificate without a CA: agencies are known by their public key, and that the caller holds the private one is proven by the
// handshake (RFC 8446, section 4.4.3). A handshake without a certificate succeeds, so that the answer to it is a problem that says what to do. There are no session tickets: each connection proves the key anew.
func mutual(c *Certificates) *tls.Config {
	cfg := strict(c)
	cfg.ClientAuth = tls.RequestClientCert
	cfg.SessionTicketsDisabled = true
	return cfg
}

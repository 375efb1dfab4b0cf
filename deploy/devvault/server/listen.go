package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// listen binds the configured address and says by which scheme it is reached. Anything but a loopback address is refused:
// the root token of this server lies in a file, and without TLS it travels in clear.
func listen(ctx context.Context, cfg Config) (net.Listener, string, error) {
	if (cfg.TLSCert == "") != (cfg.TLSKey == "") {
		return nil, "", errors.New("-tls-cert and -tls-key belong together: give both or none")
	}
	addr := cfg.Listen
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, "", fmt.Errorf("-listen %q is not host:port: %w", addr, err)
	}
	if err := loopback(ctx, host); err != nil {
		return nil, "", err
	}

	var conf *tls.Config
	if cfg.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
		if err != nil {
			return nil, "", fmt.Errorf("reading the certificate and its key: %w", err)
		}
		conf = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, "", err
	}
	if conf != nil {
		return tls.NewListener(l, conf), "https", nil
	}
	return l, "http", nil
}

// loopback refuses a host unless every address it stands for is a loopback one.
func loopback(ctx context.Context, host string) error {
	refuse := fmt.Errorf("-listen %q is not a loopback address: devvault serves this machine only (use 127.0.0.1 or [::1])", host)
	if host == "" { // net.Listen takes an empty host for all interfaces
		return refuse
	}
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	for _, a := range addrs {
		if !a.IP.IsLoopback() {
			return refuse
		}
	}
	return nil
}

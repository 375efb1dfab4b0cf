package witness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
)

// Server is a witness on its listeners.
type Server struct {
	Witness *Witness

	file     *File
	log      *slog.Logger
	cert     atomic.Pointer[tls.Certificate]
	servers  []*http.Server
	serving  []func() error
	listener []net.Listener
	failed   chan error
	work     sync.WaitGroup
}

// Start opens the witness that a configuration describes and serves it. On an error nothing is left open.
func Start(ctx context.Context, f *File, logger *slog.Logger) (_ *Server, err error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{file: f, log: logger, failed: make(chan error, 2)}
	key, err := LoadKey(f.SigningKey)
	if err != nil {
		return nil, err
	}
	logs, err := s.readLogs()
	if err != nil {
		return nil, err
	}
	s.Witness, err = Open(ctx, Config{Key: key, State: f.State, Logs: logs, ClientRate: f.ClientRate, ClientBurst: f.ClientBurst, Logger: logger})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop(ctx))
		}
	}()
	connections := f.Connections
	if connections == 0 {
		connections = 256
	}
	if f.Cert != "" {
		if err := s.loadCert(); err != nil {
			return nil, err
		}
	}
	if err := s.listen(f.Listen, s.Witness.Handler(), connections, f.Cert != ""); err != nil {
		return nil, err
	}
	if f.Ops != "" {
		if err := s.listen(f.Ops, s.Witness.Ops(), 64, false); err != nil {
			return nil, err
		}
	}
	for _, serve := range s.serving {
		s.work.Go(func() {
			if err := serve(); !errors.Is(err, http.ErrServerClosed) {
				s.failed <- fmt.Errorf("serving: %w", err)
			}
		})
	}
	if len(logs) == 0 {
		logger.Warn("this witness knows no log yet: put their keys into the list of logs, and reload", "logs", f.Logs)
	}
	logger.Info("ready", "vkey", s.Witness.VKey(), "listen", s.Addr(), "logs", len(logs))
	return s, nil
}

func (s *Server) listen(addr string, h http.Handler, connections int, secure bool) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	s.listener = append(s.listener, ln)
	ln = netutil.LimitListener(ln, connections)
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		// What clients do wrong is for debugging.
		ErrorLog: log.New(debugLog{s.log}, "", 0),
	}
	s.servers = append(s.servers, srv)
	if !secure {
		s.serving = append(s.serving, func() error { return srv.Serve(ln) })
		return nil
	}
	srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil }}
	s.serving = append(s.serving, func() error { return srv.ServeTLS(ln, "", "") })
	return nil
}

type debugLog struct{ log *slog.Logger }

func (d debugLog) Write(b []byte) (int, error) {
	d.log.Debug("connection", "error", string(b))
	return len(b), nil
}

func (s *Server) loadCert() error {
	c, err := tls.LoadX509KeyPair(s.file.Cert, s.file.Key)
	if err != nil {
		return fmt.Errorf("loading the certificate: %w", err)
	}
	s.cert.Store(&c)
	return nil
}

func (s *Server) readLogs() ([]Log, error) {
	text, err := readBounded(s.file.Logs)
	if err != nil {
		return nil, configError("reading the list of logs: %v", err)
	}
	return ParseLogs(text)
}

// Addr is where logs send checkpoints, OpsAddr where the operator looks, nil if nowhere.
func (s *Server) Addr() net.Addr { return s.listener[0].Addr() }

// OpsAddr is where /healthz and /metrics are, nil if nowhere.
func (s *Server) OpsAddr() net.Addr {
	if len(s.listener) < 2 {
		return nil
	}
	return s.listener[1].Addr()
}

// Failed gives the error of a listener that ended by itself.
func (s *Server) Failed() <-chan error { return s.failed }

// Reload reads the list of logs and the certificate anew. If one of them can't be used, nothing changes.
func (s *Server) Reload() error {
	old := s.cert.Load()
	logs, err := s.readLogs()
	if err == nil && s.file.Cert != "" {
		err = s.loadCert()
	}
	if err == nil {
		err = s.Witness.SetLogs(logs)
	}
	if err != nil {
		s.cert.Store(old)
		return fmt.Errorf("reloading failed, the old stays in force: %w", err)
	}
	s.log.Info("reloaded", "logs", len(logs))
	return nil
}

// Stop takes no more requests, lets those in hand finish while ctx allows, and closes the state.
func (s *Server) Stop(ctx context.Context) error {
	var errs []error
	for _, srv := range s.servers {
		if err := srv.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("requests were cut off: %w", err), srv.Close())
		}
	}
	for _, ln := range s.listener { // those that never served
		_ = ln.Close()
	}
	s.work.Wait()
	return errors.Join(append(errs, s.Witness.Close())...)
}

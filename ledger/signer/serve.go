package signer

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// Server is a signer with its listeners.
type Server struct {
	Signer *Signer

	tls    *ServerTLS
	ops    *http.Server
	opsAt  net.Listener
	failed chan error
}

// Serve starts a signer, and serves its Ops in plain HTTP on the address ops, if that isn't empty. On an error nothing is left open.
func Serve(ctx context.Context, cfg Config, ops string) (_ *Server, err error) {
	s := &Server{tls: cfg.TLS, failed: make(chan error, 2)}
	if ops != "" {
		if s.opsAt, err = net.Listen("tcp", ops); err != nil {
			return nil, fmt.Errorf("opening ops: %w", err)
		}
	}
	if s.Signer, err = Start(ctx, cfg); err != nil {
		if s.opsAt != nil {
			err = errors.Join(err, s.opsAt.Close())
		}
		return nil, err
	}
	if rpc := s.Signer.rpc; rpc != nil {
		go func() {
			if err := <-rpc.ended; err != nil {
				s.failed <- fmt.Errorf("the log server ended: %w", err)
			}
		}()
	}
	if s.opsAt != nil {
		s.ops = &http.Server{
			Handler: s.Signer.Ops(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
			ErrorLog: log.New(debugLog{s.Signer.log}, "", 0), // what clients do wrong is for debugging
		}
		go func() {
			if err := s.ops.Serve(netutil.LimitListener(s.opsAt, 64)); !errors.Is(err, http.ErrServerClosed) {
				s.failed <- fmt.Errorf("serving ops: %w", err)
			}
		}()
	}
	s.Signer.log.Info("ready", "tree", s.Signer.Tree(), "listen", cfg.Listen, "ops", ops)
	return s, nil
}

type debugLog struct{ log *slog.Logger }

func (d debugLog) Write(b []byte) (int, error) {
	d.log.Debug("connection", "error", string(b))
	return len(b), nil
}

// Failed gives the error of a listener that ended by itself.
func (s *Server) Failed() <-chan error { return s.failed }

// Reload reads the certificates again. On an error those that were in force stay in force.
func (s *Server) Reload() error {
	if s.tls == nil {
		return nil
	}
	return s.tls.Reload()
}

// Stop finishes the requests in hand, until ctx ends, and resigns.
func (s *Server) Stop(ctx context.Context) error {
	err := s.Signer.Stop(ctx)
	if s.ops != nil {
		err = errors.Join(err, s.ops.Shutdown(ctx))
	}
	return err
}

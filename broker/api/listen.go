package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/regard-broker/regard/broker"
)

// A Listener is a server on its address. Serve it, then Shutdown.
type Listener struct {
	server *http.Server
	ln     net.Listener
	tls    bool
}

// Timeouts of all listeners. net/http counts the write timeout from the end of the request's header, so it bounds the whole exchange; for agencies it begins anew with the answer.
const (
	headerTimeout = 5 * time.Second
	writeTimeout  = 75 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
)

// Listen takes the address. An exchange lasts no longer than that. With certs it speaks TLS, HTTP/1.1 and HTTP/2; without, plain HTTP/1.1.
func listen(addr string, connections int, h http.Handler, exchange time.Duration, logger *slog.Logger, certs *Certificates, mtls bool) (*Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, WriteTimeout: exchange, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		// net/http writes what clients do wrong, with their addresses: that is for debugging.
		ErrorLog:    log.New(serverLog{logger}, "", 0),
		ConnContext: withCork,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 100, MaxReadFrameSize: 64 << 10, SendPingTimeout: 30 * time.Second},
	}
	if certs != nil {
		s.TLSConfig = strict(certs)
		if mtls {
			s.TLSConfig = mutual(certs)
		}
	}
	return &Listener{s, corking{netutil.LimitListener(ln, connections)}, certs != nil}, nil
}

// Listen opens the listener for agencies on addr, for at most so many connections.
func (a *API) Listen(addr string, connections int, certs *Certificates) (*Listener, error) {
	if certs == nil {
		return nil, errors.New("api: no server certificate given")
	}
	return listen(addr, connections, a, a.cfg.Read+broker.LongestExchange+a.cfg.Write, a.log, certs, true)
}

// ListenPublic opens a listener for everybody who reads the log; certs may be nil for a proxy in front of it.
func ListenPublic(addr string, connections int, log http.Handler, logger *slog.Logger, certs *Certificates) (*Listener, error) {
	return listen(addr, connections, Public(log), writeTimeout, logger, certs, false)
}

// ListenPortal opens the listener for people; certs may be nil on this machine, for trying out.
func ListenPortal(addr string, connections int, portal http.Handler, logger *slog.Logger, certs *Certificates) (*Listener, error) {
	return listen(addr, connections, portal, writeTimeout, logger, certs, false)
}

// ListenOps opens the listener for operations.
func ListenOps(addr string, ops http.Handler, logger *slog.Logger) (*Listener, error) {
	return listen(addr, 64, ops, writeTimeout, logger, nil, false)
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Serve answers until Shutdown; then it returns nil.
func (l *Listener) Serve() error {
	var err error
	if l.tls {
		err = l.server.ServeTLS(l.ln, "", "")
	} else {
		err = l.server.Serve(l.ln)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown takes no more connections and waits for the requests in flight. When ctx ends, it cuts them off and says so.
func (l *Listener) Shutdown(ctx context.Context) error {
	if err := l.server.Shutdown(ctx); err != nil {
		_ = l.server.Close()
		return fmt.Errorf("requests were still in flight: %w", err)
	}
	return nil
}

type serverLog struct{ log *slog.Logger }

func (s serverLog) Write(b []byte) (int, error) {
	s.log.Debug("connection", "error", string(b))
	return len(b), nil
}

// Public wraps the handler of the public log: reading only, from any web page.
func Public(log http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["X-Content-Type-Options"], h["Content-Security-Policy"], h["Strict-Transport-Security"] = noSniff, noScript, hsts
		// The log is public and no answer depends on who asks: any page may read it (https://fetch.spec.whatwg.org/#cors-protocol-and-http-caches).
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", "Content-Length, ETag, Retry-After")
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			log.ServeHTTP(w, r)
		case http.MethodOptions:
			h.Set("Access-Control-Allow-Methods", "GET, HEAD")
			h.Set("Access-Control-Max-Age", "86400")
			w.WriteHeader(http.StatusNoContent)
		default:
			h.Set("Allow", "GET, HEAD, OPTIONS")
			http.Error(w, "the log is read only", http.StatusMethodNotAllowed)
		}
	})
}

// ReadyWait is how long what a broker needs may take to answer before it isn't ready.
const ReadyWait = 5 * time.Second

// Ops serves /healthz (this process runs), /readyz (it can serve requests now) and /metrics. ready's error is for the operator and is shown; so is role, what this broker's part is among several, if it isn't
// empty. One that follows is as ready as the one that leads.
func Ops(m *Metrics, ready func(context.Context) error, role func() string) http.Handler {
	say := func(w http.ResponseWriter, word string) {
		if r := role(); r != "" {
			word += ": " + r
		}
		_, _ = io.WriteString(w, word+"\n")
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), ReadyWait)
		defer cancel()
		if err := ready(ctx); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		say(w, "ready")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Cache-Control"], h["X-Content-Type-Options"], h["Content-Security-Policy"] = noStore, noSniff, noScript
		mux.ServeHTTP(w, r)
	})
}

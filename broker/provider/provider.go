// Package provider asks the providers of data services over HTTPS.
//
// What it guarantees. A question goes to its definition's endpoint and nowhere else: no redirect is followed, no proxy is taken from the environment, and a document is
// fetched only from a host that the definition lists. A question is sent at most once: neither this package nor the transport under it repeats a call, because no provider
// knows a call that is repeated. An answer is whole and within its size, or an Error with a stable cause. Slow providers cost a bounded number of calls, and a provider
// that keeps failing is left alone for a while. Errors and logs hold no URL, no header and no byte of an answer.
//
// What it doesn't. It doesn't look into answers (see broker/service). An answer that ends with its connection, without a length, looks whole. The names of hosts are resolved
// by the system: whoever controls them can send the question elsewhere, where it meets a server without the provider's certificate.
package provider

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"golang.org/x/time/rate"

	"github.com/regard-broker/regard/broker/service"
)

// Config of a Client.
type Config struct {
	// Certificate returns the broker's client certificate; it is called for each new connection, so a renewed one is taken up. Nil only in development.
	Certificate func() (*tls.Certificate, error)
	// Roots signed the providers' certificates; nil: those of the system.
	Roots *x509.CertPool
	// Development allows endpoints without TLS on this machine, and no certificate.
	Development bool
	// Proxy for all calls; nil: none. The environment is never looked at.
	Proxy *url.URL
	// ConnectTimeout is for TCP, and three times as long for TLS, which costs both sides computation; 0: 3 s. A service's first_byte counts from before that.
	ConnectTimeout time.Duration
	// IdleTimeout is how long an unused connection is kept; 0: 30 s. It should be less than the providers' own, else calls meet connections that are being closed.
	IdleTimeout time.Duration
	// Connections is the greatest number of connections to one host; 0: as many as the services' limits let be used, of which 256 are kept when they are idle.
	// Calls that wait for a connection spend their first_byte on it, so a limit should be no less than the concurrent calls of all services of a host.
	Connections int
	// Failures of the last Window calls that make a provider be left alone for Pause; 0: 10 of 20, 10 s.
	Failures, Window uint
	Pause            time.Duration
	// Observe is told the end of every call; nil: nobody is. It must not block.
	Observe func(Observation)
	// Logger gets one line when a provider is left alone, and when it is asked again; nil: none.
	Logger *slog.Logger
}

// An Observation is the end of one call, for metrics.
type Observation struct {
	Service  service.ID
	Provider service.ProviderID
	Status   int    // 0 if there was no answer
	Cause    string // empty if there was an answer
	Elapsed  time.Duration
}

// A Client asks providers. Safe for concurrent use.
type Client struct {
	cfg       Config
	transport atomic.Pointer[http.Transport]
	breakers  sync.Map // service.ProviderID → circuitbreaker.CircuitBreaker[any]
	gates     sync.Map // reference and digest of a definition → *gate
}

// gate holds the limits of one version of a service, and where it is.
type gate struct {
	end    *url.URL // its endpoint, nil if that is no URL
	places chan struct{}
	rate   *rate.Limiter // nil: no limit
	wait   time.Duration
}

// New checks the configuration. Close the Client to drop its connections.
func New(cfg Config) (*Client, error) {
	if cfg.Certificate == nil && !cfg.Development {
		return nil, errors.New("provider: a client certificate is needed: providers only answer the broker")
	}
	for _, d := range [...]struct {
		v   *time.Duration
		def time.Duration
	}{{&cfg.ConnectTimeout, 3 * time.Second}, {&cfg.IdleTimeout, 30 * time.Second}, {&cfg.Pause, 10 * time.Second}} {
		if *d.v < 0 {
			return nil, errors.New("provider: a negative time")
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if cfg.Connections < 0 || cfg.Failures > cfg.Window {
		return nil, errors.New("provider: negative connections, or more failures than calls in their window")
	}
	if cfg.Failures == 0 {
		cfg.Failures, cfg.Window = 10, 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{cfg: cfg}
	c.Trust(cfg.Roots)
	return c, nil
}

// Trust has all calls that begin from now on go over new connections, to providers whose certificates these roots signed; nil: those of the system. Calls under way end as they began.
func (c *Client) Trust(roots *x509.CertPool) {
	cfg := &c.cfg
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	if cfg.Certificate != nil {
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cfg.Certificate() }
	}
	t := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: cfg.ConnectTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    3 * cfg.ConnectTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
		DisableCompression:     true, // a small body must not become a large one
		MaxConnsPerHost:        cfg.Connections,
		MaxIdleConnsPerHost:    max(256, cfg.Connections),
		IdleConnTimeout:        cfg.IdleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if cfg.Proxy != nil {
		t.Proxy = http.ProxyURL(cfg.Proxy)
	}
	if old := c.transport.Swap(t); old != nil {
		old.CloseIdleConnections() // those in use close when they have been idle
	}
}

// Close drops the idle connections.
func (c *Client) Close() { c.transport.Load().CloseIdleConnections() }

// IntentHeader is the request header that holds the broker's signed intent (docs/formats.md, section 7), in its canonical form.
const IntentHeader = "Regard-Intent"

// A Question is one call.
type Question struct {
	Service *service.Definition
	Request service.Request // of a Plan for the same definition
	// Disclosure is sent as X-Request-ID: the providers' own logs then match the broker's records.
	Disclosure string
	// Intent signs the broker's intent for the HTTP request that is about to be sent, by its method and its target (path and query), as the value of Regard-Intent. It is called when nothing else is
	// in the way of the call, and if it fails nobody is asked. Nil: no intent is sent.
	Intent func(method, target string) (string, error)
	// TraceID is the W3C trace id, 32 hex digits; empty: no traceparent is sent.
	TraceID string
}

// An Answer is what a provider said, errors of its own included. It is personal data.
type Answer struct {
	Status      int
	ContentType string // as sent
	// RetryAfter is the provider's wish, 0 if it has none.
	RetryAfter time.Duration
	Body       []byte
	Elapsed    time.Duration
}

// Drop forgets the body and uses its memory again: nothing may share it.
func (a *Answer) Drop() {
	clear(a.Body)
	if cap(a.Body) <= maxKept {
		b := a.Body[:0]
		bodies.Put(&b)
	}
	a.Body = nil
}

// bodies are what answers are read into, if they are not larger than maxKept.
var bodies sync.Pool

const maxKept = 64 << 10

// String shows the status alone.
func (a Answer) String() string { return fmt.Sprintf("answer:%d:[redacted]", a.Status) }

// Format implements fmt.Formatter: every verb shows the status alone.
func (a Answer) Format(f fmt.State, _ rune) { fmt.Fprint(f, a.String()) }

// LogValue implements slog.LogValuer: it shows the status alone.
func (a Answer) LogValue() slog.Value { return slog.StringValue(a.String()) }

// Ask sends one question and returns the answer whatever its status, but for redirects. Errors are *Error. The context ends the call early; the service's own limits always do.
func (c *Client) Ask(ctx context.Context, q Question) (Answer, error) {
	if q.Service == nil || q.Service.Limits.Concurrent < 1 {
		return Answer{}, &Error{Cause: CauseConfig, text: "no service definition"}
	}
	u, err := url.Parse(q.Request.URL())
	if err != nil || q.Request.Method != http.MethodGet {
		return Answer{}, &Error{Cause: CauseConfig, text: "not a question of a plan"}
	}
	if end := c.gate(q.Service).end; end == nil || u.Scheme != end.Scheme || u.Host != end.Host || u.EscapedPath() != end.EscapedPath() || u.User != nil {
		return Answer{}, &Error{Cause: CauseConfig, text: "the question is for another endpoint than its definition's"}
	}
	return c.call(ctx, q, u, q.Service.Limits.AnswerBytes, "application/json")
}

func (c *Client) call(ctx context.Context, q Question, u *url.URL, limit int64, accept string) (Answer, error) {
	if u.Scheme != "https" && !(c.cfg.Development && service.IsLoopback(u.Hostname())) {
		return Answer{}, &Error{Cause: CauseConfig, text: "an endpoint without TLS is for development"}
	}
	header, err := q.header(accept)
	if err != nil {
		return Answer{}, err
	}
	start := time.Now()
	a, err := c.gated(ctx, q, u, limit, header)
	a.Elapsed = time.Since(start)
	if c.cfg.Observe != nil {
		o := Observation{Service: q.Service.ID, Provider: q.Service.Provider.ID, Status: a.Status, Elapsed: a.Elapsed}
		var e *Error
		if errors.As(err, &e) {
			o.Cause = e.Cause
		}
		c.cfg.Observe(o)
	}
	return a, err
}

// gated takes a place, keeps to the rate and asks the breaker, in this order: a permit of the breaker must be used.
func (c *Client) gated(ctx context.Context, q Question, u *url.URL, limit int64, header http.Header) (Answer, error) {
	d := q.Service
	g := c.gate(d)
	if err := g.enter(ctx); err != nil {
		return Answer{}, err
	}
	defer g.leave()
	if q.Intent != nil {
		intent, err := q.Intent(http.MethodGet, u.RequestURI())
		if err != nil {
			return Answer{}, &Error{Cause: CauseIntent, text: "the intent could not be signed: " + err.Error()}
		}
		header[IntentHeader] = []string{intent}
	}
	b := c.breaker(d.Provider.ID)
	if !b.TryAcquirePermit() {
		return Answer{}, &Error{Cause: CauseRefused, RetryAfter: b.RemainingDelay(), text: "the provider failed too often and is left alone for a while"}
	}
	a, err := c.send(ctx, d.Limits, u, limit, header)
	var e *Error
	switch errors.As(err, &e); {
	case e == nil && a.Status < 500, e != nil && (e.Cause == CauseTooLarge || e.Cause == CauseRedirect):
		b.RecordSuccess() // it answers; what it says is another matter
	case e != nil && e.Cause == CauseAbandoned && !b.IsHalfOpen():
		// the caller gave up: that says nothing about the provider
	default:
		b.RecordFailure()
	}
	return a, err
}

func (c *Client) breaker(id service.ProviderID) circuitbreaker.CircuitBreaker[any] {
	if b, ok := c.breakers.Load(id); ok {
		return b.(circuitbreaker.CircuitBreaker[any])
	}
	b, _ := c.breakers.LoadOrStore(id, circuitbreaker.NewBuilder[any]().
		WithFailureThresholdRatio(c.cfg.Failures, c.cfg.Window).WithDelay(c.cfg.Pause).WithSuccessThreshold(1).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) {
			c.cfg.Logger.Warn("provider: breaker", "provider", string(id), "from", e.OldState.String(), "to", e.NewState.String())
		}).Build())
	return b.(circuitbreaker.CircuitBreaker[any])
}

func (c *Client) gate(d *service.Definition) *gate {
	key := struct {
		ref    string
		digest [32]byte
	}{string(d.ID), d.Digest()}
	if g, ok := c.gates.Load(key); ok {
		return g.(*gate)
	}
	g := &gate{places: make(chan struct{}, d.Limits.Concurrent), wait: d.Limits.Wait}
	g.end, _ = url.Parse(d.Endpoint)
	if d.Limits.PerSecond > 0 {
		g.rate = rate.NewLimiter(rate.Limit(d.Limits.PerSecond), d.Limits.Burst)
	}
	kept, _ := c.gates.LoadOrStore(key, g)
	return kept.(*gate)
}

// enter waits for a place and for the rate, together at most g.wait.
func (g *gate) enter(ctx context.Context) error {
	until := time.Now().Add(g.wait)
	select {
	case g.places <- struct{}{}:
	default:
		timer := time.NewTimer(g.wait)
		defer timer.Stop()
		select {
		case g.places <- struct{}{}:
		case <-timer.C:
			return &Error{Cause: CauseBusy, RetryAfter: time.Second, text: "too many calls to this service at the same time"}
		case <-ctx.Done():
			return &Error{Cause: CauseAbandoned, text: "the caller gave up"}
		}
	}
	if g.rate == nil || g.rate.Allow() {
		return nil
	}
	r := g.rate.Reserve()
	delay := r.Delay()
	if time.Until(until) < delay {
		r.Cancel()
		g.leave()
		return &Error{Cause: CauseRate, RetryAfter: max(delay.Round(time.Second), time.Second), text: "too many calls to this service per second"}
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		r.Cancel()
		g.leave()
		return &Error{Cause: CauseAbandoned, text: "the caller gave up"}
	}
}

func (g *gate) leave() { <-g.places }

// header writes what the provider is told beside the question.
func (q *Question) header(accept string) (http.Header, error) {
	h := http.Header{"Accept": {accept}, "User-Agent": {"regard"}}
	if q.Disclosure != "" {
		if strings.ContainsFunc(q.Disclosure, func(r rune) bool { return r < 0x20 || r > 0x7e }) || len(q.Disclosure) > 8<<10 {
			return nil, &Error{Cause: CauseConfig, text: "a header that is not printable ASCII"}
		}
		h["X-Request-Id"] = []string{q.Disclosure}
	}
	if q.TraceID != "" {
		if b, err := hex.DecodeString(q.TraceID); err != nil || len(b) != 16 {
			return nil, &Error{Cause: CauseConfig, text: "a trace id that is not 32 hex digits"}
		}
		var span [8]byte
		rand.Read(span[:])
		h["Traceparent"] = []string{"00-" + strings.ToLower(q.TraceID) + "-" + hex.EncodeToString(span[:]) + "-01"} // W3C Trace Context, 3.2
	}
	return h, nil
}

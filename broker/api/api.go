// Package api is the broker's face to agencies and to accredited auditors: HTTP over mutual TLS, in JSON, described by OpenAPI 3.1 at /openapi.json; and the two listeners beside it, for
// the public log and for operations.
//
// What it guarantees. Every request but the one for /openapi.json is authenticated by itself, by the public key of the client certificate that TLS has shown the caller to hold; so a
// revocation is in force for the next request, also on a connection that is open. A body is taken only if every byte of it is understood. Each request has one answer, one access log line and one
// count, and all errors leave through one place as RFC 9457 problems. Logs and metrics hold ids that the operator registered, codes and times; never a subject, context, object, parameter, nor any other text of a caller.
// The data of an answer are the very bytes that the receipt's digest is over.
//
// What it doesn't. It decides nothing: who may ask for what is the broker's business. A caller that is flooding connections is held off by a limit on their number and by timeouts, no more.
package api

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

// Broker is the part of [broker.Broker] that agencies and auditors reach. All methods may be called concurrently. Every error goes through [broker.AsProblem].
type Broker interface {
	Auditing
	// Authenticate finds the agency or auditor of a certificate whose private key the caller has shown to hold. It is called for each request and must be cheap.
	Authenticate(*x509.Certificate) (broker.Caller, error)
	// Disclose runs one data request to its end.
	Disclose(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error)
	// Disclosure finds an earlier one. For an id of another agency the error is that for an unknown one.
	Disclosure(context.Context, broker.Caller, store.ID) (*broker.Answer, error)
	// Services are those that the caller may know of.
	Services(broker.Caller) []broker.ServiceInfo
}

// Config of an API.
type Config struct {
	Broker  Broker
	Logger  *slog.Logger // nil: none
	Metrics *Metrics     // nil: none that anybody sees
	Version string       // of the program

	Rate     float64       // requests a second and agency; 0 means 100
	Burst    int           // requests at once and agency; 0 means 200
	InFlight int           // disclosures at once in all; 0 means 512
	MaxBody  int64         // bytes; 0 means 64 KiB
	Read     time.Duration // for a body to arrive; 0 means 15 s
	Write    time.Duration // for an answer to be taken, from when it is there; 0 means 75 s

	Now func() time.Time // nil: time.Now
}

// API is an http.Handler; it is safe for concurrent use.
type API struct {
	cfg     Config
	log     *slog.Logger
	metrics *Metrics
	mux     *http.ServeMux
	limits  limiters
	slots   chan struct{}
}

// New checks the configuration and makes the API. It has no goroutines.
func New(cfg Config) (*API, error) {
	if cfg.Broker == nil {
		return nil, errors.New("api: no broker given")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	def(&cfg.Rate, 100)
	def(&cfg.Burst, 200)
	def(&cfg.InFlight, 512)
	def(&cfg.MaxBody, 64<<10)
	def(&cfg.Read, 15*time.Second)
	def(&cfg.Write, writeTimeout)
	if cfg.Rate < 0 || cfg.Burst < 0 || cfg.InFlight < 0 || cfg.MaxBody < 0 || cfg.Read < 0 || cfg.Write < 0 {
		return nil, errors.New("api: a limit is negative")
	}
	a := &API{
		cfg: cfg, log: cfg.Logger, metrics: cfg.Metrics, mux: http.NewServeMux(),
		slots: make(chan struct{}, cfg.InFlight),
	}
	a.limits.rate, a.limits.burst = cfg.Rate, cfg.Burst
	spec, err := openAPI(cfg.Version)
	if err != nil {
		return nil, err
	}
	for _, r := range []struct {
		method, path string
		who          callers
		serve        func(*exchange) *broker.Problem
	}{
		{"POST", "/v1/disclosures", agencies, a.disclose},
		{"GET", "/v1/disclosures/{id}", agencies, a.disclosure},
		{"GET", "/v1/services", agencies, a.services},
		{"GET", "/v1/whoami", agencies | auditors, a.whoami},
		{"POST", "/v1/audit/openings", auditors, a.openings},
		{"POST", "/v1/audit/erased", auditors, a.erased},
		{"GET", "/v1/audit/erased/{audit}", auditors, a.erasedPage},
		{"GET", "/v1/audit/epochs/{epoch}/rolls", auditors, a.rolls},
		{"PUT", "/v1/audit/epochs/{epoch}/statement", auditors, a.statement},
	} {
		a.handle(r.method, r.path, r.who, r.serve)
	}
	if b, ok := cfg.Broker.(Holders); ok {
		a.holderRoutes(b)
	}
	if b, ok := cfg.Broker.(Contesting); ok {
		a.contestRoutes(b)
	}
	a.handle("GET", "/openapi.json", anybody, func(x *exchange) *broker.Problem {
		h := x.w.Header()
		h["Content-Type"] = []string{"application/openapi+json"}
		h["Cache-Control"] = []string{"public, max-age=300"}
		x.write(http.StatusOK, spec)
		return nil
	})
	a.mux.Handle("/", a.handler("none", anybody, func(*exchange) *broker.Problem {
		return &broker.Problem{Status: 404, Code: "path.unknown", Title: "There is nothing at this address.", Detail: "The addresses are listed at /openapi.json."}
	}))
	return a, nil
}

func def[T int | int64 | float64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// callers are those who may call an address.
type callers int

const (
	agencies callers = 1 << iota
	auditors
	anybody callers = 0 // without a certificate, too
)

func (a *API) handle(method, path string, who callers, serve func(*exchange) *broker.Problem) {
	a.mux.Handle(method+" "+path, a.handler(path, who, serve))
	a.mux.Handle(path, a.handler(path, anybody, func(x *exchange) *broker.Problem {
		x.w.Header()["Allow"] = []string{method}
		return &broker.Problem{Status: 405, Code: "method.unknown", Title: "This address has another method.", Detail: "Use " + method + "."}
	}))
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// exchange is one request and its answer.
type exchange struct {
	api    *API
	w      http.ResponseWriter
	r      *http.Request
	id     string // ours
	path   string // as registered, so it holds nothing of the caller
	caller broker.Caller
	start  time.Time

	// What the access log says.
	status     int
	code       string
	outcome    broker.Outcome
	disclosure string
	service    string
}

// Header values that every answer shares; they are never written to.
var (
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
	noScript = []string{"default-src 'none'; frame-ancestors 'none'"}
	hsts     = []string{"max-age=31536000"}
	asJSON   = []string{"application/json"}
	asText   = []string{"text/plain; charset=utf-8"}
	problems = []string{"application/problem+json"}
)

// handler is what all requests go through.
func (a *API) handler(path string, who callers, serve func(*exchange) *broker.Problem) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{api: a, w: w, r: r, id: rand.Text(), path: path, start: a.cfg.Now()}
		h := w.Header()
		h["Cache-Control"], h["X-Content-Type-Options"], h["Content-Security-Policy"], h["Strict-Transport-Security"] = noStore, noSniff, noScript, hsts
		own := []string{x.id}
		h["Regard-Request-Id"], h["X-Request-Id"] = own, own
		if id := r.Header.Get("X-Request-Id"); isRequestID(id) {
			h["X-Request-Id"] = []string{id}
		}
		a.metrics.inFlight.Inc()
		defer a.finish(x)
		// A body that comes slowly must not hold a connection for ever, read or not. net/http's own ReadTimeout would also cut the wait for the provider's answer; and so would a deadline where no body comes: over HTTP/1
		// what is read then is whether the caller is still there, and the request's context ends with it.
		if r.ContentLength != 0 {
			x.deadline(a.cfg.Read)
		}
		if who != anybody {
			if p := x.authenticate(who); p != nil {
				x.drain()
				x.fail(p, nil)
				return
			}
		}
		if p := serve(x); p != nil {
			x.drain()
			x.fail(p, nil)
		}
	})
}

// maxDrain is what a refused request may still send: as much as net/http's window for an HTTP/2 stream, which the caller may have sent already.
const maxDrain = 1 << 20

// drain reads the rest of a body that is refused. Over HTTP/2 an answer before the end of the body is followed by RST_STREAM, and there are clients (curl is one) that
// then lose the answer, against RFC 9113, section 8.1. Over HTTP/1 net/http does the same by itself.
func (x *exchange) drain() {
	if x.r.ProtoMajor >= 2 {
		_, _ = io.CopyN(io.Discard, x.r.Body, maxDrain) // it ends at the read deadline at the latest
	}
}

func (x *exchange) deadline(d time.Duration) {
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d) // of the network, so not Config.Now
	}
	_ = http.NewResponseController(x.w).SetReadDeadline(at) // a recorder in a test has none
}

// finish logs and counts, and turns a panic into an answer.
func (a *API) finish(x *exchange) {
	defer a.metrics.inFlight.Dec() // last, though the caller may have read the answer
	if v := recover(); v != nil {
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v)
		}
		a.log.LogAttrs(x.r.Context(), slog.LevelError, "panic", slog.String("request", x.id), slog.String("value", panicKind(v)), slog.Any("stack", stack()))
		if x.status == 0 {
			x.fail(broker.AsProblem(errors.New("panic")), nil)
		} else {
			x.code = "internal"
		}
	}
	took := a.cfg.Now().Sub(x.start)
	a.metrics.observe(x, took)
	level := slog.LevelInfo
	if x.status >= 500 {
		level = slog.LevelWarn
	}
	if !a.log.Enabled(x.r.Context(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs, slog.String("request", x.id), slog.String("path", x.path), slog.Int("status", x.status), slog.Float64("duration_ms", float64(took.Microseconds())/1e3))
	for _, v := range [...]struct{ key, value string }{
		{role(x.caller), x.caller.ID}, {"code", x.code}, {"outcome", string(x.outcome)}, {"disclosure", x.disclosure}, {"service", x.service},
	} {
		if v.value != "" {
			attrs = append(attrs, slog.String(v.key, v.value))
		}
	}
	a.log.LogAttrs(x.r.Context(), level, "request", attrs...)
}

// role of a caller, as logs name it.
func role(c broker.Caller) string {
	if c.Auditor {
		return "auditor"
	}
	return "agency"
}

// panicKind says what was thrown without repeating text that could come from a request.
func panicKind(v any) string {
	if err, ok := v.(runtime.Error); ok {
		return err.Error() // index out of range and the like
	}
	return "a panic with a value that isn't shown"
}

// stack lists functions and lines, without the arguments that runtime/debug would show.
func stack() []string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	var out []string
	for {
		f, more := frames.Next()
		out = append(out, f.Function)
		if !more {
			return out
		}
	}
}

// authenticate finds the caller, who must be one of who, and takes one request from their allowance.
func (x *exchange) authenticate(who callers) *broker.Problem {
	var cert *x509.Certificate
	if x.r.TLS != nil && len(x.r.TLS.PeerCertificates) > 0 {
		cert = x.r.TLS.PeerCertificates[0]
	}
	caller, err := x.api.cfg.Broker.Authenticate(cert)
	if err != nil {
		return x.problem(err)
	}
	if caller.ID == "" {
		return x.problem(errors.New("api: the broker authenticated nobody"))
	}
	x.caller = caller
	if p := x.api.limits.take(x); p != nil {
		return p
	}
	switch {
	case caller.Auditor && who&auditors == 0:
		return &broker.Problem{Status: 403, Code: "caller.auditor", Title: "This is for agencies.", Detail: "Your certificate is registered for an auditor."}
	case !caller.Auditor && who&agencies == 0:
		return &broker.Problem{Status: 403, Code: "caller.agency", Title: "This is for accredited auditors.", Detail: "Your certificate is registered for an agency."}
	}
	return nil
}

// problem logs what only the operator may know.
func (x *exchange) problem(err error) *broker.Problem {
	p := broker.AsProblem(err)
	if cause := errors.Unwrap(p); cause != nil && p.Status >= 500 {
		x.api.log.LogAttrs(x.r.Context(), slog.LevelError, "request failed", slog.String("request", x.id), slog.String("code", p.Code), slog.Any("error", cause))
	}
	return p
}

// isRequestID: what may be echoed. It isn't logged: it could hold anything.
func isRequestID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.:", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// body reads a JSON body within the limits.
func (x *exchange) body() ([]byte, *broker.Problem) {
	if p := contentType(x.r.Header); p != nil {
		return nil, p
	}
	return x.read()
}

// read reads a body of any type within the limits.
func (x *exchange) read() ([]byte, *broker.Problem) {
	limit := x.api.cfg.MaxBody
	tooLarge := func() *broker.Problem {
		return &broker.Problem{Status: 413, Code: "request.body.large", Title: "The body is too large.", Detail: "Send at most " + itoa(limit) + " bytes."}
	}
	if x.r.ContentLength > limit {
		if x.r.ProtoMajor < 2 { // RFC 9113, section 8.2.2: no such field in HTTP/2
			x.w.Header()["Connection"] = []string{"close"}
		}
		return nil, tooLarge()
	}
	size := x.r.ContentLength
	if size < 0 {
		size = 1024
	}
	b := make([]byte, 0, size+1)
	src := http.MaxBytesReader(x.w, x.r.Body, limit)
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := src.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		var large *http.MaxBytesError
		switch {
		case err == io.EOF:
			x.deadline(0)
			return b, nil
		case errors.As(err, &large):
			return nil, tooLarge()
		case err != nil:
			return nil, &broker.Problem{Status: 408, Code: "request.body.incomplete", Title: "The body did not arrive in time.", Detail: "Send it again, at once."}
		}
	}
}

func contentType(h http.Header) *broker.Problem {
	media, params, _ := strings.Cut(h.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(media), "application/json") {
		return &broker.Problem{Status: 415, Code: "request.body.type", Title: "The body has to be JSON.", Detail: "Send Content-Type: application/json."}
	}
	if params = strings.ToLower(strings.TrimSpace(params)); params != "" && params != "charset=utf-8" && params != `charset="utf-8"` {
		return &broker.Problem{Status: 415, Code: "request.body.type", Title: "The body has to be JSON in UTF-8.", Detail: "Send Content-Type: application/json."}
	}
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return &broker.Problem{Status: 415, Code: "request.body.type", Title: "The body can't be compressed.", Detail: "Send it without Content-Encoding."}
	}
	return nil
}

package provider_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

// world is a provider's server with mTLS, and a client that it accepts.
type world struct {
	*httptest.Server
	client  *provider.Client
	def     *service.Definition
	log     *bytes.Buffer
	seen    []provider.Observation
	mu      sync.Mutex
	trusted tls.Certificate
}

type option func(*world, *provider.Config, *string)

func limits(l string) option {
	return func(_ *world, _ *provider.Config, d *string) {
		*d = strings.Replace(*d, "limits: {first_byte: 5s, total: 10s, wait: 1s, answer_bytes: 10000, concurrent: 300, persons: 1}", "limits: {"+l+", persons: 1}", 1)
	}
}

func newWorld(t testing.TB, h http.HandlerFunc, opts ...option) *world {
	t.Helper()
	w := &world{log: new(bytes.Buffer), trusted: brokertest.NewCurrentIdentity(t, "broker")}
	own := brokertest.NewCurrentIdentity(t, "provider")
	w.Server = httptest.NewUnstartedServer(h)
	w.EnableHTTP2 = true
	w.Config.ErrorLog = log.New(io.Discard, "", 0)
	clients, servers := x509.NewCertPool(), x509.NewCertPool()
	clients.AddCert(w.trusted.Leaf)
	servers.AddCert(own.Leaf)
	w.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	text := fmt.Sprintf(definition, "https://"+w.Listener.Addr().String(), w.Listener.Addr())
	cfg := provider.Config{
		Certificate: func() (*tls.Certificate, error) { return &w.trusted, nil }, Roots: servers,
		Logger: slog.New(slog.NewTextHandler(w.log, nil)),
		Observe: func(o provider.Observation) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen = append(w.seen, o)
		},
	}
	for _, o := range opts {
		o(w, &cfg, &text)
	}
	w.StartTLS()
	t.Cleanup(w.Server.Close)
	var err error
	if w.def, err = service.Parse([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if w.client, err = provider.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	return w
}

const definition = `format: regard/service@v1
id: small
version: 1
title: {fr: a, en: a}
provider: {id: p, name: P, siret: "90000001900019"}
endpoint: %s/v1/small
method: GET
subjects: {pivot: {birth_name: nom}}
scopes: {tout: {title: {fr: a, en: a}, fields: [/data]}}
answer:
  /data/texte: string?
  /data/doc: string?
links: {/data/doc: {mode: fetch, hosts: ["%s"], media_types: [application/pdf], max_bytes: 1000}}
errors: {code: /errors/0/code}
limits: {first_byte: 5s, total: 10s, wait: 1s, answer_bytes: 10000, concurrent: 300, persons: 1}
`

const secret = "Confidentielle"

func (w *world) plan(t testing.TB) *service.Plan {
	t.Helper()
	p, err := service.NewPlan(w.def, w.def.Fields())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) question(t testing.TB) provider.Question {
	t.Helper()
	who, err := service.NewAsked("pivot", "", proof.Pivot{BirthName: secret})
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.plan(t).Request(who, nil)
	if err != nil {
		t.Fatal(err)
	}
	return provider.Question{Service: w.def, Request: r, Disclosure: "0192f3a4-0000-7000-8000-000000000001", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736"}
}

func (w *world) ask(t testing.TB) (provider.Answer, error) {
	t.Helper()
	return w.client.Ask(context.Background(), w.question(t))
}

// cause checks that the call failed as expected, and that neither the error nor the log says who was asked about or what was said.
func (w *world) cause(t testing.TB, err error, want string) *provider.Error {
	t.Helper()
	var e *provider.Error
	if !errors.As(err, &e) || e.Cause != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	if s := err.Error() + w.log.String(); strings.Contains(s, secret) || strings.Contains(s, "said") {
		t.Errorf("says too much: %s", s)
	}
	return e
}

func TestAsk(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			var got *http.Request
			w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
				if b, err := io.ReadAll(r.Body); len(b) > 0 || err != nil {
					t.Errorf("a body of %d bytes, %v", len(b), err)
				}
				got = r
				rw.Header().Set("Content-Type", "application/json")
				rw.Header().Set("Retry-After", "7")
				rw.WriteHeader(418)
				io.WriteString(rw, `{"data":{}}`)
			}, func(w *world, _ *provider.Config, _ *string) { w.EnableHTTP2 = proto == "HTTP/2.0" })
			a, err := w.ask(t)
			if err != nil {
				t.Fatal(err)
			}
			a.Elapsed = 0
			if diff := cmp.Diff(provider.Answer{Status: 418, ContentType: "application/json", RetryAfter: 7 * time.Second, Body: []byte(`{"data":{}}`)}, a); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			trace := got.Header.Get("Traceparent")
			if got.Proto != proto || got.Method != "GET" || got.URL.Path != "/v1/small" || got.URL.RawQuery != "nom="+secret || len(got.TransferEncoding) > 0 || got.ContentLength > 0 || got.Header.Get("Content-Length") != "" {
				t.Errorf("asked with %s %s %v, %d bytes", got.Proto, got.Method, got.TransferEncoding, got.ContentLength)
			}
			if !strings.HasPrefix(trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-") || len(trace) != 55 || got.Header.Get("X-Request-Id") != "0192f3a4-0000-7000-8000-000000000001" ||
				got.Header.Get("Accept-Encoding") != "" || got.TLS.PeerCertificates[0].Subject.CommonName != "broker" {
				t.Errorf("headers %v", got.Header)
			}
			if len(w.seen) != 1 || w.seen[0].Status != 418 || w.seen[0].Service != "small" || w.seen[0].Cause != "" {
				t.Errorf("observed %v", w.seen)
			}
			if s := fmt.Sprintf("%v %+v %#v", a, a, a); strings.Contains(s, "data") {
				t.Errorf("prints %s", s)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	flush := func(rw http.ResponseWriter) { rw.(http.Flusher).Flush() }
	hijack := func(rw http.ResponseWriter, raw string) {
		c, _, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		io.WriteString(c, raw)
		c.Close()
	}
	h1 := func(w *world, _ *provider.Config, _ *string) { w.EnableHTTP2 = false }
	for _, c := range []struct {
		name, want string
		h          http.HandlerFunc
		opts       []option
	}{
		{"no first byte", provider.CauseTimeout, func(rw http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, []option{limits("first_byte: 50ms, total: 10s, wait: 1s, answer_bytes: 10000, concurrent: 1")}},
		{"never whole", provider.CauseTimeout, func(rw http.ResponseWriter, r *http.Request) {
			io.WriteString(rw, `{"said`)
			flush(rw)
			<-r.Context().Done()
		}, []option{limits("first_byte: 100ms, total: 200ms, wait: 1s, answer_bytes: 10000, concurrent: 1")}},
		{"too large, and says so", provider.CauseTooLarge, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Length", "10001")
			rw.Write(bytes.Repeat([]byte("x"), 10001))
		}, nil},
		{"too large", provider.CauseTooLarge, func(rw http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := rw.Write(bytes.Repeat([]byte("x"), 4096)); err != nil {
					return
				}
				flush(rw)
			}
		}, nil},
		{"too many headers", provider.CauseConnection, func(rw http.ResponseWriter, r *http.Request) {
			hijack(rw, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X-Said: "+strings.Repeat("x", 1000)+"\r\n", 100)+"\r\n")
		}, []option{h1}},
		{"redirect", provider.CauseRedirect, func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "https://said.example/", http.StatusFound)
		}, nil},
		{"redirect to itself", provider.CauseRedirect, func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "/v1/other", http.StatusTemporaryRedirect)
		}, nil},
		{"not modified", provider.CauseRedirect, func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(304) }, nil},
		{"shorter than it says", provider.CauseTruncated, func(rw http.ResponseWriter, r *http.Request) {
			hijack(rw, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"said\":1}")
		}, []option{h1}},
		{"chunks without an end", provider.CauseTruncated, func(rw http.ResponseWriter, r *http.Request) {
			hijack(rw, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"said\":\r\n")
		}, []option{h1}},
		{"stream that is reset", provider.CauseTruncated, func(rw http.ResponseWriter, r *http.Request) {
			io.WriteString(rw, `{"said":`)
			flush(rw)
			panic(http.ErrAbortHandler)
		}, nil},
		{"closed without an answer", provider.CauseConnection, func(rw http.ResponseWriter, r *http.Request) { hijack(rw, "") }, []option{h1}},
		{"not HTTP", provider.CauseConnection, func(rw http.ResponseWriter, r *http.Request) { hijack(rw, "said something else\r\n\r\n") }, []option{h1}},
		{"certificate of somebody else", provider.CauseTLS, func(rw http.ResponseWriter, r *http.Request) {}, []option{func(_ *world, c *provider.Config, _ *string) { c.Roots = x509.NewCertPool() }}},
		{"our certificate is not accepted", provider.CauseTLS, func(rw http.ResponseWriter, r *http.Request) {}, []option{func(w *world, c *provider.Config, _ *string) {
			// With TLS 1.3 a client learns of it after the handshake, when it may already have met the closed connection: then the cause is provider/connection.
			w.TLS.MaxVersion = tls.VersionTLS12
			other := brokertest.NewCurrentIdentity(t, "stranger")
			c.Certificate = func() (*tls.Certificate, error) { return &other, nil }
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int32
			w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) { asked.Add(1); c.h(rw, r) }, c.opts...)
			a, err := w.ask(t)
			e := w.cause(t, err, c.want)
			if len(a.Body) > 0 || a.Status != 0 {
				t.Errorf("an answer beside the error: %v", a)
			}
			if asked.Load() > 1 {
				t.Errorf("asked %d times", asked.Load())
			}
			if asked.Load() == 1 && !e.Asked {
				t.Error("says that the provider was not asked")
			}
			if len(w.seen) != 1 || w.seen[0].Cause != c.want {
				t.Errorf("observed %v", w.seen)
			}
		})
	}
}

// TestNotJSON: what it isn't is for broker/service to say.
func TestNotJSON(t *testing.T) {
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "<html>") })
	a, err := w.ask(t)
	if err != nil || string(a.Body) != "<html>" {
		t.Fatal(err)
	}
	if _, err := w.plan(t).Filter(a.Body); !errors.Is(err, service.ErrAnswer) {
		t.Errorf("got %v", err)
	}
}

// TestNeverTwice: a kept connection that the provider closes when the next question arrives. net/http alone would ask again.
func TestNeverTwice(t *testing.T) {
	var asked atomic.Int32
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 2 {
			panic(http.ErrAbortHandler) // closes the connection without an answer
		}
		io.WriteString(rw, "{}")
	}, func(w *world, _ *provider.Config, _ *string) { w.EnableHTTP2 = false })
	if _, err := w.ask(t); err != nil {
		t.Fatal(err)
	}
	_, err := w.ask(t)
	w.cause(t, err, provider.CauseConnection)
	if asked.Load() != 2 {
		t.Errorf("the provider was asked %d times", asked.Load())
	}
}

func TestUnreachable(t *testing.T) {
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {})
	w.Server.Close()
	_, err := w.ask(t)
	if e := w.cause(t, err, provider.CauseConnection); e.Asked {
		t.Error("says that the provider was asked")
	}
}

func TestAbandoned(t *testing.T) {
	started := make(chan bool)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) { close(started); <-r.Context().Done() })
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-started; cancel() }()
	_, err := w.client.Ask(ctx, w.question(t))
	if e := w.cause(t, err, provider.CauseAbandoned); !e.Asked {
		t.Error("says that the provider was not asked")
	}
}

func TestBreaker(t *testing.T) {
	var asked, broken atomic.Int32
	broken.Store(1)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if broken.Load() == 1 {
			rw.WriteHeader(503)
		}
	}, func(_ *world, c *provider.Config, _ *string) { c.Failures, c.Window, c.Pause = 3, 4, time.Hour })
	for range 3 {
		if a, err := w.ask(t); err != nil || a.Status != 503 {
			t.Fatal(a, err)
		}
	}
	_, err := w.ask(t)
	if e := w.cause(t, err, provider.CauseRefused); e.Asked || e.RetryAfter <= 0 || asked.Load() != 3 {
		t.Errorf("asked %d times, %+v", asked.Load(), e)
	}
	if !strings.Contains(w.log.String(), "provider=p from=closed to=open") {
		t.Errorf("the log says %q", w.log)
	}
}

func TestBreakerRecovers(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			rw.WriteHeader(503)
		}
	}, func(_ *world, c *provider.Config, _ *string) { c.Failures, c.Window, c.Pause = 1, 1, time.Millisecond })
	if _, err := w.ask(t); err != nil {
		t.Fatal(err)
	}
	broken.Store(false)
	for { // ends when the pause is over; the test's own time limit ends it otherwise
		a, err := w.ask(t)
		if err == nil && a.Status == 200 {
			break
		}
		w.cause(t, err, provider.CauseRefused)
	}
	if _, err := w.ask(t); err != nil {
		t.Errorf("after the recovery: %v", err)
	}
}

func TestConcurrency(t *testing.T) {
	release, entered, refused := make(chan bool), make(chan bool, 6), make(chan bool, 6)
	go func() {
		for range 2 {
			<-entered
		}
		for range 4 {
			<-refused
		}
		close(release)
	}()
	var now, most atomic.Int32
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		entered <- true
		<-release
		now.Add(-1)
	}, limits("first_byte: 5s, total: 10s, wait: 10ms, answer_bytes: 10000, concurrent: 2"))
	var wg sync.WaitGroup
	var busy atomic.Int32
	for range 6 {
		wg.Go(func() {
			_, err := w.ask(t)
			var e *provider.Error
			if errors.As(err, &e) && e.Cause == provider.CauseBusy && !e.Asked && e.RetryAfter > 0 {
				busy.Add(1)
				refused <- true
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 2 || busy.Load() != 4 {
		t.Errorf("%d at the same time, %d refused", most.Load(), busy.Load())
	}
	for range 2 {
		if _, err := w.ask(t); err != nil {
			t.Errorf("a place was lost: %v", err)
		}
	}
}

func TestRate(t *testing.T) {
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {}, limits("first_byte: 5s, total: 10s, wait: 0s, answer_bytes: 10000, concurrent: 1, per_second: 0.001, burst: 2"))
	for range 2 {
		if _, err := w.ask(t); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		_, err := w.ask(t)
		if e := w.cause(t, err, provider.CauseRate); e.RetryAfter < time.Minute {
			t.Errorf("retry after %s", e.RetryAfter)
		}
	}
}

// TestNowhereElse: neither a question of another definition, nor the environment, leads a question elsewhere.
func TestNowhereElse(t *testing.T) {
	var lost atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { lost.Add(1) }))
	defer elsewhere.Close()
	for _, v := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
		t.Setenv(v, elsewhere.URL)
	}
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {})
	if _, err := w.ask(t); err != nil || lost.Load() > 0 {
		t.Errorf("the environment's proxy was asked: %v", err)
	}
	q, other := w.question(t), newWorld(t, func(rw http.ResponseWriter, r *http.Request) { lost.Add(1) })
	q.Request = other.question(t).Request
	_, err := w.client.Ask(context.Background(), q)
	w.cause(t, err, provider.CauseConfig)
	q.Service = nil
	_, err = w.client.Ask(context.Background(), q)
	w.cause(t, err, provider.CauseConfig)
	if lost.Load() > 0 {
		t.Error("somebody else was asked")
	}
	for _, bad := range []func(*provider.Question){
		func(q *provider.Question) { q.Disclosure = "a\r\nX: y" }, func(q *provider.Question) { q.TraceID = "zz" },
	} {
		q := w.question(t)
		bad(&q)
		_, err := w.client.Ask(context.Background(), q)
		w.cause(t, err, provider.CauseConfig)
	}
}

func TestProxy(t *testing.T) {
	var through atomic.Int32
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {})
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		through.Add(1)
		rw.WriteHeader(502)
	}))
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := provider.New(provider.Config{Development: true, Proxy: u})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Ask(context.Background(), w.question(t))
	w.cause(t, err, provider.CauseConnection)
	if through.Load() != 1 {
		t.Error("the configured proxy was not used")
	}
}

func TestDevelopment(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {}))
	defer plain.Close()
	w := newWorld(t, func(http.ResponseWriter, *http.Request) {})
	def, err := service.Parse([]byte(fmt.Sprintf(definition, plain.URL, "x")))
	if err != nil || !def.Development() {
		t.Fatal(err)
	}
	p, err := service.NewPlan(def, def.Fields())
	if err != nil {
		t.Fatal(err)
	}
	who, err := service.NewAsked("pivot", "", proof.Pivot{BirthName: secret})
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Request(who, nil)
	if err != nil {
		t.Fatal(err)
	}
	q := provider.Question{Service: def, Request: r}
	_, err = w.client.Ask(context.Background(), q)
	w.cause(t, err, provider.CauseConfig)
	dev, err := provider.New(provider.Config{Development: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dev.Ask(context.Background(), q); err != nil {
		t.Error(err)
	}
	for _, bad := range []provider.Config{{}, {Development: true, ConnectTimeout: -1}, {Development: true, Connections: -1}, {Development: true, Failures: 3, Window: 2}} {
		if _, err := provider.New(bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
}

// TestPlainServer: a provider that doesn't speak TLS where TLS is expected.
func TestPlainServer(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { t.Error("asked without TLS") }))
	defer plain.Close()
	w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, func(w *world, _ *provider.Config, d *string) {
		*d = strings.ReplaceAll(*d, w.Listener.Addr().String(), plain.Listener.Addr().String())
	})
	_, err := w.ask(t)
	w.cause(t, err, provider.CauseTLS)
}

func TestFetch(t *testing.T) {
	answer, media := "%PDF-1.4", "application/pdf; charset=binary"
	status := 200
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/doc" || r.Header.Get("Accept") != "application/pdf" || r.Header.Get("X-Request-Id") == "" {
			t.Errorf("asked for %s with %v", r.URL.Path, r.Header)
		}
		rw.Header().Set("Content-Type", media)
		rw.WriteHeader(status)
		io.WriteString(rw, answer)
	})
	f, err := w.plan(t).Filter([]byte(`{"data":{"doc":"` + w.URL + `/doc?token=` + secret + `"}}`))
	if err != nil || len(f.Links()) != 1 {
		t.Fatal(err)
	}
	fetch := func() (service.Document, error) {
		return w.client.Fetch(context.Background(), w.question(t), f.Links()[0])
	}
	d, err := fetch()
	if err != nil || d.MediaType != "application/pdf" || string(d.Content) != answer {
		t.Fatalf("%v", err)
	}
	if b, err := f.Data(d); err != nil || strings.Contains(string(b), "http") || !strings.Contains(string(b), `"base64":"JVBERi0xLjQ="`) {
		t.Errorf("released %s, %v", b, err)
	}
	media = "text/html"
	_, err = fetch()
	w.cause(t, err, provider.CauseDocument)
	media, status = "application/pdf", 404
	_, err = fetch()
	w.cause(t, err, provider.CauseDocument)
	status, answer = 200, strings.Repeat("x", 1001)
	_, err = fetch()
	w.cause(t, err, provider.CauseTooLarge)
	other := newWorld(t, func(http.ResponseWriter, *http.Request) { t.Error("asked elsewhere") })
	q := w.question(t)
	q.Service = other.def
	_, err = w.client.Fetch(context.Background(), q, f.Links()[0])
	w.cause(t, err, provider.CauseConfig)
}

// TestMany: 256 callers at the same time over a bounded number of connections.
func TestMany(t *testing.T) {
	var asked atomic.Int32
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) { asked.Add(1); io.WriteString(rw, `{"data":{}}`) },
		// 256 handshakes at the same time take long with the race detector on a busy machine.
		limits("first_byte: 30s, total: 40s, wait: 20s, answer_bytes: 10000, concurrent: 256"),
		func(w *world, c *provider.Config, _ *string) { w.EnableHTTP2, c.ConnectTimeout = false, time.Minute })
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for range 4 {
				if _, err := w.ask(t); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if asked.Load() != 1024 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func BenchmarkAsk(b *testing.B) {
	for _, proto := range []string{"h1", "h2"} {
		b.Run(proto, func(b *testing.B) {
			body := bytes.Repeat([]byte("x"), 2000)
			w := newWorld(b, func(rw http.ResponseWriter, r *http.Request) { rw.Write(body) }, func(w *world, _ *provider.Config, _ *string) { w.EnableHTTP2 = proto == "h2" })
			q := w.question(b)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := w.client.Ask(context.Background(), q); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// TestTrust: other roots count for the very next call, also where a connection is open already; the calls under way end as they began.
func TestTrust(t *testing.T) {
	entered, release := make(chan bool, 1), make(chan bool)
	var slow atomic.Bool
	w := newWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
		if slow.Load() {
			entered <- true
			<-release
		}
		fmt.Fprint(rw, `{"data": {}}`)
	})
	if _, err := w.ask(t); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(w.Certificate())
	slow.Store(true)
	under := make(chan error, 1)
	go func() { _, err := w.ask(t); under <- err }()
	<-entered
	slow.Store(false)
	w.client.Trust(x509.NewCertPool())
	var e *provider.Error
	if _, err := w.ask(t); !errors.As(err, &e) || e.Asked {
		t.Errorf("a provider that isn't trusted any more was asked: %v", err)
	}
	close(release)
	if err := <-under; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	w.client.Trust(roots)
	if _, err := w.ask(t); err != nil {
		t.Errorf("trusted again: %v", err)
	}
}

// TestIntent: the intent is made for the request as it is sent, and without one nobody is asked.
func TestIntent(t *testing.T) {
	var got, target string
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		got, target = r.Header.Get(provider.IntentHeader), r.RequestURI
		io.WriteString(rw, `{"data":{}}`)
	})
	q := w.question(t)
	q.Intent = func(method, target string) (string, error) { return method + " " + target, nil }
	if _, err := w.client.Ask(context.Background(), q); err != nil || target == "" || got != "GET "+target {
		t.Errorf("%q for %q, %v", got, target, err)
	}
	target = ""
	q.Intent = func(string, string) (string, error) { return "", errors.New("no key") }
	_, err := w.client.Ask(context.Background(), q)
	w.cause(t, err, provider.CauseIntent)
	var e *provider.Error
	if !errors.As(err, &e) || e.Asked || target != "" {
		t.Error("the provider was asked without an intent")
	}
}

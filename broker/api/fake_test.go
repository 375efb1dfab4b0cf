package api

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// fake is a broker that answers what a test says. Its Authenticate has the contract of the real one.
type fake struct {
	Auditing // of tests that set it
	mu       sync.Mutex
	agencies map[[32]byte]broker.Caller
	asked    []*broker.Request
	disclose func(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error)
	record   *broker.Answer // of Disclosure; nil: released
	wait     time.Duration  // of Disclosure, unless its context ends
	now      func() time.Time
}

func (f *fake) Authenticate(cert *x509.Certificate) (broker.Caller, error) {
	if cert == nil {
		return broker.Caller{}, &broker.Problem{Status: 401, Code: "certificate.missing", Title: "No certificate.", Detail: "Use one."}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.agencies[sha256.Sum256(cert.RawSubjectPublicKeyInfo)]
	if !ok {
		return broker.Caller{}, &broker.Problem{Status: 401, Code: "certificate.unknown", Title: "Not registered.", Detail: "Register it."}
	}
	if now := f.now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return broker.Caller{}, &broker.Problem{Status: 401, Code: "certificate.expired", Title: "Not valid now.", Detail: "Renew it."}
	}
	return c, nil
}

var answerID = store.ID{0x01, 0x93, 0x5a, 0x11, 0x22, 0x33, 0x74, 0x44, 0x85, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb}

const data = `{"b" : 1.50, "a":"\u00e9<&>"}`

func (f *fake) Disclose(ctx context.Context, c broker.Caller, r *broker.Request) (*broker.Answer, error) {
	f.mu.Lock()
	f.asked = append(f.asked, r)
	f.mu.Unlock()
	if f.disclose != nil {
		return f.disclose(ctx, c, r)
	}
	return released(), nil
}

func released() *broker.Answer {
	return &broker.Answer{ID: answerID, Outcome: broker.Released, Data: []byte(data), Receipt: []byte("regard/receipt@v1\nsays \"é\"\n"), State: proof.Provisional, AskedAt: time.UnixMilli(1700000000123)}
}

func (f *fake) Disclosure(ctx context.Context, c broker.Caller, id store.ID) (*broker.Answer, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(f.wait):
	}
	if c.ID != "mine" || id != answerID {
		return nil, &broker.Problem{Status: 404, Code: "disclosure.unknown", Title: "Unknown.", Detail: "None."}
	}
	if f.record != nil {
		return f.record, nil
	}
	a := released()
	a.Data, a.Settled = nil, true
	return a, nil
}

func (f *fake) Services(broker.Caller) []broker.ServiceInfo {
	return []broker.ServiceInfo{{ID: "svc", Version: 1, Provider: "prov"}}
}

func valid(t testing.TB, name string) tls.Certificate {
	t.Helper()
	return brokertest.NewCurrentIdentity(t, name, "localhost")
}

func spki(c tls.Certificate) [32]byte { return sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo) }

// server is an API on a real TLS listener.
type server struct {
	*fake
	api  *API
	addr string
	mine tls.Certificate
	ca   *x509.CertPool
	log  *output.Buffer
}

func start(t testing.TB, change func(*Config)) *server { return startOn(t, change, nil) }

// startOn may put something between the server and its listener.
func startOn(t testing.TB, change func(*Config), between func(net.Listener) net.Listener) *server {
	t.Helper()
	s := &server{fake: &fake{agencies: map[[32]byte]broker.Caller{}, now: time.Now}, mine: valid(t, "mine"), log: &output.Buffer{}, ca: x509.NewCertPool()}
	s.agencies[spki(s.mine)] = broker.Caller{ID: "mine", Name: "Mairie", SIRET: "13002526500013"}
	cfg := Config{Broker: s.fake, Logger: slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "test"}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.api, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	certs, err := s.certificates(t)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := s.api.Listen("127.0.0.1:0", 100, certs)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	if between != nil {
		ln.ln = between(ln.ln)
	}
	done := make(chan error, 1)
	go func() { done <- ln.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = ln.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// logged is the log once every exchange has ended: a line is written after its answer, so a caller may read the answer first.
func (s *server) logged(t testing.TB) string {
	t.Helper()
	ledgertest.Await(t, "the end of every exchange", func() bool { return strings.Contains(s.scrape(), "regard_requests_in_flight 0\n") })
	return s.log.String()
}

// scrape is what /metrics shows.
func (s *server) scrape() string {
	r := httptest.NewRecorder()
	s.api.metrics.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return r.Body.String()
}

// certificates are new ones of a server that the clients know.
func (s *server) certificates(t testing.TB) (*Certificates, error) {
	t.Helper()
	own, dir := valid(t, "localhost"), t.TempDir()
	s.ca.AddCert(own.Leaf)
	brokertest.WriteIdentity(t, own, filepath.Join(dir, "cert"), filepath.Join(dir, "key"))
	return LoadCertificates(filepath.Join(dir, "cert"), filepath.Join(dir, "key"))
}

func (s *server) client(certs ...tls.Certificate) *http.Client {
	return s.clientOf(false, certs...)
}

func (s *server) clientOf(h2 bool, certs ...tls.Certificate) *http.Client {
	cfg := &tls.Config{RootCAs: s.ca, ServerName: "localhost"}
	if len(certs) > 0 {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: h2}, Timeout: 20 * time.Second}
}

type reply struct {
	status int
	header http.Header
	body   string
	proto  string
}

func (s *server) do(t testing.TB, c *http.Client, method, path, body string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequest(method, "https://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == "POST" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
		} else {
			req.Header.Add(header[i], header[i+1])
		}
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(b), res.Proto}
}

func (s *server) setAgency(c tls.Certificate, caller broker.Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if caller.ID == "" {
		delete(s.agencies, spki(c))
	} else {
		s.agencies[spki(c)] = caller
	}
}

// question is a good request; the fixture person must never appear in a log.
const question = `{"service":"svc","scopes":["a","b"],"purpose":"aid","legal_basis":"law","recipient":"13002526500013","context":"secret-context","object":"secret-object",
"subject":{"type":"pivot","birth_name":"FIXTUREPERSON","given_names":["Ada","Zoé"],"birth_date":"1990-01-02","sex":"F","birth_place":"75056","birth_country":"99100"},
"parameters":{"year":2026,"months":["1",2],"quote":"\u00e9\ud83d\ude00"}}`

var denial = []policy.Reason{{Code: "agreement.no_longer_valid", FR: "L’accord a expiré.", EN: "The agreement has expired."}}

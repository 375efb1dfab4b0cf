package broker_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

const (
	mairie    = "21750001600019" // SIRETs with a right check digit
	recipient = "21750001600019"
)

// patience is how long a test waits for what must come before it fails: long, since how fast a machine is says nothing about the broker.
const patience = 2 * time.Minute

// world is a broker with one provider, one agency and one agreement.
type world struct {
	t        testing.TB
	cfg      broker.Config
	b        *broker.Broker
	caller   broker.Caller
	cert     *x509.Certificate // the caller's
	provider *fakeProvider
	logs     *bytes.Buffer
}

// fakeProvider answers what a test tells it and keeps what it was asked.
type fakeProvider struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []*http.Request
	answer func(w http.ResponseWriter, r *http.Request)
	quiet  bool // keep no requests
}

func (p *fakeProvider) requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*http.Request(nil), p.asked...)
}

func newWorld(t testing.TB, change func(*broker.Config)) *world {
	t.Helper()
	w := newProviderAlone(t)
	w.cfg = broker.Config{
		DataDir: t.TempDir(), Origin: "regard.example/log", Development: true,
		Providers: provider.Config{Development: true},
		Logger:    slog.New(slog.NewTextHandler(&syncWriter{w: w.logs}, nil)),
	}
	if change != nil {
		change(&w.cfg)
	}
	w.open()
	w.populate()
	return w
}

// newProviderAlone is a world without a broker.
func newProviderAlone(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, logs: &bytes.Buffer{}, provider: &fakeProvider{}}
	w.provider.answer = household
	w.provider.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.provider.mu.Lock()
		if !w.provider.quiet {
			w.provider.asked = append(w.provider.asked, r)
		}
		answer := w.provider.answer
		w.provider.mu.Unlock()
		answer(rw, r)
	}))
	t.Cleanup(w.provider.Close)
	return w
}

// open starts the broker, or starts it again on the same directory with the same keys.
func (w *world) open() {
	w.t.Helper()
	if w.cfg.Custodian == nil {
		w.cfg.Custodian = unclosed{keystest.NewCustodian(w.t)}
	}
	b, err := broker.New(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.b = b
	w.t.Cleanup(func() { w.close() })
}

func (w *world) close() {
	if w.b == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.b.Close(ctx); err != nil {
		w.t.Errorf("closing the broker: %v", err)
	}
	w.b = nil
}

// unclosed survives the broker, as a Vault does.
type unclosed struct{ keys.Custodian }

func (unclosed) Close() error { return nil }

func (w *world) populate() {
	w.t.Helper()
	ctx := w.t.Context()
	cert := newCert(w.t, time.Hour)
	w.cert = cert
	if err := w.b.AddAgency(ctx, "mairie", "Mairie d'Exemple", mairie, cert); err != nil {
		w.t.Fatal(err)
	}
	var err error
	if w.caller, err = w.b.Authenticate(cert); err != nil {
		w.t.Fatal(err)
	}
	yaml, err := os.ReadFile("testdata/household.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.b.PutService(ctx, bytes.Replace(yaml, []byte("http://127.0.0.1:1"), []byte(w.provider.URL), 1)); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.b.PutAgreement(ctx, policy.Agreement{
		ID: "cantine", Agency: "mairie", Service: "household", Scopes: []policy.Scope{"members", "quotient"},
		Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}); err != nil {
		w.t.Fatal(err)
	}
}

func newCert(t testing.TB, life time.Duration) *x509.Certificate {
	t.Helper()
	return brokertest.NewIdentity(t, time.Now().Add(-time.Hour), time.Now().Add(life), "agency").Leaf
}

// The invented household of these tests.
var marie = proof.Pivot{BirthName: "Exemple-Fictif", GivenNames: "Zoé Marie", BirthDate: "1984-02-29", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"}

func household(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"data": {"quotient": {"valeur": 1234, "secret": "SECRETMARKER"},
		"membres": [{"nom": "EXEMPLE FICTIF", "prenoms": "ZOE MARIE", "naissance": "1984-02-29", "sexe": "F"},
		            {"nom": "EXEMPLE FICTIF", "prenoms": "NOÉ", "naissance": "2015-06-31", "sexe": "M"}],
		"adresse": "1 RUE DES MARQUEURS"}, "meta": {"u": "https://secret.example/x"}}`))
}

func request() *broker.Request {
	return &broker.Request{
		Service: "household", Scopes: []string{"quotient"}, Purpose: "cantine", LegalBasis: "crpa-l114-8", Recipient: recipient,
		Context: "Inscription à la cantine CONTEXTMARKER", Object: "dossier 42", Official: "agent-7",
		Subject: broker.SubjectInput{Type: "pivot", Pivot: marie},
	}
}

func (w *world) disclose(req *broker.Request) *broker.Answer {
	w.t.Helper()
	a, err := w.b.Disclose(w.t.Context(), w.caller, req)
	if err != nil {
		w.t.Fatalf("disclose: %v\n%s", err, w.logs)
	}
	return a
}

// policy is what an auditor needs to check receipts: the log's key.
func (w *world) policy() *proof.Policy {
	w.t.Helper()
	vkeys, err := w.b.LogKeys(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := proof.NewPolicy(vkeys[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) verify(text []byte) proof.Verdict {
	w.t.Helper()
	r, err := proof.ParseReceipt(text)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, text)
	}
	v, err := r.Verify(w.policy(), proof.VerifyOptions{AllowProvisional: true})
	if err != nil {
		w.t.Fatalf("%v\n%s", err, text)
	}
	return v
}

type syncWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (s *syncWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}

// published returns every published entry, as anybody can read it from the log's tiles.
func (w *world) published() []byte {
	w.t.Helper()
	size := w.b.Log().Checkpoint().Size()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if _, err := w.b.Log().AwaitPublished(ctx, proof.Index(size-1)); err != nil {
		w.t.Fatal(err)
	}
	var out []byte
	err := filepath.WalkDir(filepath.Join(w.b.PublicDir(), "tile", "entries"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out = append(out, b...)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

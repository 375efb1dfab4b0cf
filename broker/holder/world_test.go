package holder_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/client"
	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// world is a real broker behind its real API, with one provider of households whose guard fetches through that API. Between the two stands tamper, which can be any network, or any operator.
type world struct {
	t       testing.TB
	b       *broker.Broker
	url     string
	roots   *x509.CertPool
	caller  broker.Caller
	agency  tls.Certificate
	own     tls.Certificate // of the provider
	def     *service.Definition
	tamper  atomic.Pointer[func(http.ResponseWriter, *http.Request, http.Handler)]
	front   *httptest.Server // the provider's address, before the guard
	guard   atomic.Pointer[holder.Guard]
	asked   atomic.Int64 // calls of the provider's handler
	answer  atomic.Pointer[http.HandlerFunc]
	entry   atomic.Pointer[http.HandlerFunc]
	mu      sync.Mutex
	seen    []seen // requests as they came to the provider's address
	alarms  []holder.Alarm
	guardIn string
	yaml    string // of the definition
	root    []byte // of the API's certificate, PEM
}

func idOf(a *broker.Answer) string { return uuid.UUID(a.ID).String() }

type seen struct{ target, intent string }

const siret = "21750001600019"

func household(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	name := r.URL.Query().Get("nomNaissance")
	fmt.Fprintf(w, `{"data":{"quotient":{"valeur":77012},"membres":[{"nom":%q,"prenoms":"ZOE","naissance":"1984-02-29","sexe":"F"},{"nom":%q,"prenoms":"NOE","naissance":"2015-06-30","sexe":"M"}],"adresse":"1 RUE"}}`, name, name+" ENFANT")
}

func newWorld(t testing.TB, epoch time.Duration) *world {
	t.Helper()
	w := &world{t: t, roots: x509.NewCertPool(), guardIn: t.TempDir()}
	w.respond(household)
	logs := slog.New(slog.DiscardHandler)
	b, err := broker.New(t.Context(), broker.Config{
		DataDir: t.TempDir(), Origin: "regard.example/log", Development: true, Providers: provider.Config{Development: true, Failures: 1000, Window: 1000}, Epoch: epoch,
		Custodian: keystest.NewCustodian(t), Logger: logs,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.b = b
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	w.front = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.seen = append(w.seen, seen{r.RequestURI, r.Header.Get("Regard-Intent")})
		w.mu.Unlock()
		(*w.entry.Load())(rw, r)
	}))
	w.enter(w.guarded)
	t.Cleanup(w.front.Close)
	w.populate()
	w.serve(logs)
	return w
}

// enter sets what stands at the provider's address.
func (w *world) enter(f http.HandlerFunc) { w.entry.Store(&f) }

// guarded is the provider behind its guard.
func (w *world) guarded(rw http.ResponseWriter, r *http.Request) {
	w.guard.Load().Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		(*w.answer.Load())(rw, r)
	})).ServeHTTP(rw, r)
}

// respond sets what the provider answers.
func (w *world) respond(f http.HandlerFunc) { w.answer.Store(&f) }

func (w *world) populate() {
	t, ctx := w.t, w.t.Context()
	w.agency, w.own = brokertest.NewCurrentIdentity(t, "agency"), brokertest.NewCurrentIdentity(t, "provider")
	if err := w.b.AddAgency(ctx, "mairie", "Mairie d'Exemple", siret, w.agency.Leaf); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.caller, err = w.b.Authenticate(w.agency.Leaf); err != nil {
		t.Fatal(err)
	}
	yaml, err := os.ReadFile("../testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	key := sha256.Sum256(w.own.Leaf.RawSubjectPublicKeyInfo)
	text := strings.NewReplacer("http://127.0.0.1:1", w.front.URL, `siret: "13002526500013"}`, `siret: "13002526500013", keys: ["`+base64.StdEncoding.EncodeToString(key[:])+`"]}`).Replace(string(yaml))
	w.yaml = text
	if w.def, err = w.b.PutService(ctx, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.PutAgreement(ctx, policy.Agreement{
		ID: "cantine", Agency: "mairie", Service: "household", Scopes: []policy.Scope{"members", "quotient"}, Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}); err != nil {
		t.Fatal(err)
	}
}

// serve puts the API on a TLS listener, behind tamper.
func (w *world) serve(logs *slog.Logger) {
	w.t.Helper()
	handler, err := api.New(api.Config{Broker: w.b, Logger: logs, Rate: 1e6, Burst: 1e6})
	if err != nil {
		w.t.Fatal(err)
	}
	own := brokertest.NewCurrentIdentity(w.t, "localhost")
	w.roots.AddCert(own.Leaf)
	w.root = brokertest.CertificatePEM(own)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if f := w.tamper.Load(); f != nil {
			(*f)(rw, r, handler)
			return
		}
		handler.ServeHTTP(rw, r)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	w.t.Cleanup(s.Close)
	w.url = s.URL
}

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

func (w *world) config() holder.GuardConfig {
	w.t.Helper()
	identify, err := holder.Definitions([]*service.Definition{w.def})
	if err != nil {
		w.t.Fatal(err)
	}
	return holder.GuardConfig{
		Dir: w.guardIn, Providers: []string{"caisse"}, Broker: holder.Connection{URL: w.url, Certificate: w.own, Roots: w.roots}, Policy: w.policy(), AcceptSigned: true,
		Identify: identify, Times: holder.Times{MaxAge: 20 * time.Second, SettleAge: time.Minute, Poll: 20 * time.Millisecond, SettleEvery: 100 * time.Millisecond},
		Alarm:  func(a holder.Alarm) { w.mu.Lock(); w.alarms = append(w.alarms, a); w.mu.Unlock() },
		Logger: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
	}
}

// protect opens the guard, or opens it again: as after a restart.
func (w *world) protect(change func(*holder.GuardConfig)) *holder.Guard {
	w.t.Helper()
	if g := w.guard.Load(); g != nil {
		if err := g.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	cfg := w.config()
	if change != nil {
		change(&cfg)
	}
	g, err := holder.NewGuard(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.guard.Swap(g) == nil {
		w.t.Cleanup(func() { _ = w.guard.Load().Close() })
	}
	return g
}

var marie = proof.Pivot{BirthName: "Exemple", GivenNames: "Zoé", BirthDate: "1984-02-29", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"}

func (w *world) request(name string) *broker.Request {
	who := marie
	who.BirthName = name
	return &broker.Request{
		Service: "household", Scopes: []string{"quotient"}, Purpose: "cantine", LegalBasis: "crpa-l114-8", Recipient: siret, Context: "Cantine", Object: "dossier",
		Subject: broker.SubjectInput{Type: "pivot", Pivot: who},
	}
}

func (w *world) disclose(name string, want broker.Outcome) *broker.Answer {
	w.t.Helper()
	a, err := w.b.Disclose(w.t.Context(), w.caller, w.request(name))
	if err != nil {
		w.t.Fatal(err)
	}
	if a.Outcome != want {
		w.t.Fatalf("%s, want %s: %v", a.Outcome, want, a.Problem)
	}
	return a
}

// patience is how long a test waits for what must come.
const patience = 2 * time.Minute

// eventually waits until f is content.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("waited for %s: %v", what, err)
}

func (w *world) counts(want map[holder.State]int64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprint(want), func() error {
		s, err := w.guard.Load().Status(context.Background())
		if err != nil {
			return err
		}
		for state, n := range s.Counts {
			if n != want[holder.State(state)] {
				return fmt.Errorf("%v", s.Counts)
			}
		}
		return nil
	})
}

func (w *world) alarm(code string) holder.Alarm {
	w.t.Helper()
	var found holder.Alarm
	eventually(w.t, "the alarm "+code, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		i := slices.IndexFunc(w.alarms, func(a holder.Alarm) bool { return a.Code == code })
		if i < 0 {
			return fmt.Errorf("%v", w.alarms)
		}
		found = w.alarms[i]
		return nil
	})
	return found
}

// between changes what the broker's API says to providers.
func (w *world) between(f func(rw http.ResponseWriter, r *http.Request, next http.Handler)) {
	if f == nil {
		w.tamper.Store(nil)
		return
	}
	g := func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path != "/v1/provider/receipts" {
			next.ServeHTTP(rw, r)
			return
		}
		f(rw, r, next)
	}
	w.tamper.Store(&g)
}

// rewrite changes the bodies of the API's answers about receipts.
func (w *world) rewrite(f func(body string) string) {
	w.between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(rec.Code)
		_, _ = io.WriteString(rw, f(rec.Body.String()))
	})
}

func (w *world) newClient() *client.Client {
	w.t.Helper()
	c, err := client.New(client.Config{URL: w.url, Certificate: w.agency, Roots: w.roots, Policy: w.policy()})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

package command

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/client"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
	wit "github.com/regard-broker/regard/ledger/witness"
	"github.com/regard-broker/regard/policy"
)

// site is a broker with its portal and the simulator of FranceConnect as serve runs them, the reference providers, and a witness. An agency asks by its API, over mutual TLS. People reach the portal through a proxy,
// which can change what it sends.
type site struct {
	*Instance
	t         testing.TB
	file      string   // of the configuration
	set       []string // what it is set to beside that
	url       string   // the portal's
	simulator string
	agency    tls.Certificate
	front     atomic.Pointer[string] // where the portal listens now
	logs      output.Buffer
	change    atomic.Pointer[func(path string, body []byte) []byte]
	unseen    atomic.Bool // the witness is out of reach
}

// camille is invented, and known to the reference providers.
var camille = proof.Pivot{BirthName: "EXEMPLE ALPHA", GivenNames: "Camille Inès", BirthDate: "1984-03-14", Sex: "F", BirthPlace: "75107", BirthCountry: "99100"}

const town = "90000101700012"

func newSite(t testing.TB, epoch time.Duration, set ...string) *site {
	t.Helper()
	s := &site{t: t}
	dir := filepath.Join(t.TempDir(), "b")
	file, err := Init(Setup{Dir: dir, Origin: "regard.example/site", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s.file, s.set = file, append(set, "portal.identity.client_id=regard", "portal.identity.client_secret_file="+write("secrets/franceconnect.secret", "s3cret\n"), "portal.identity.acr=eidas2",
		"portal.identity.scopes=identite_pivot,preferred_username,ine", "portal.identity.claims.ine=ine", "portal.operator.name=Agence d'Exemple", "portal.operator.email=contact@exemple.invalid",
		"providers.ca_file="+write("provider.pem", s.providers(dir, write)), "witnesses.faulty=0", "witnesses.policy="+write("witnesses.policy", s.witness(file)))
	front := httptest.NewUnstartedServer(http.HandlerFunc(s.proxy))
	s.url = "http://localhost:" + strconv.Itoa(front.Listener.Addr().(*net.TCPAddr).Port)
	s.set = append(s.set, "portal.listen=127.0.0.1:0", "portal.url="+s.url)
	simulator := ledgertest.FreeAddress(t) // it is part of its name, so it has to be known before
	s.simulator = "http://" + simulator
	s.start("portal.identity.simulator.listen=" + simulator)
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	front.Start()
	t.Cleanup(front.Close)
	s.agency = brokertest.NewCurrentIdentity(t, "mairie")
	if err := s.Broker.AddAgency(t.Context(), "mairie", "Mairie d'Exempleville", town, s.agency.Leaf); err != nil {
		t.Fatal(err)
	}
	s.agree(policy.Agreement{ID: "cantine", Scopes: []policy.Scope{"quotient", "enfants"}, Purposes: []policy.Purpose{"tarif-cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"}})
	s.agree(policy.Agreement{
		ID: "enquete", Scopes: []policy.Scope{"quotient"}, Purposes: []policy.Purpose{"enquete"}, LegalBases: []policy.LegalBasis{"cpp-60-1"},
		Deferral: &policy.Deferral{Authority: "Tribunal judiciaire d'Exempleville", Article: "CPP art. 60-1", Reference: "2026/118", Days: 40},
	})
	return s
}

// start serves as the configuration says, with more that it is set to from now on.
func (s *site) start(set ...string) {
	s.t.Helper()
	cfg, err := config.Load(config.Source{File: s.file, Set: append(s.set[:len(s.set):len(s.set)], set...)})
	if err != nil {
		s.t.Fatal(err)
	}
	i, err := Start(s.t.Context(), cfg, slog.New(slog.NewTextHandler(&s.logs, nil)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Instance, s.set = i, append(s.set, set...)
	s.front.Store(new(i.Addresses["portal"]))
}

// restart stops the broker and serves anew, with something set otherwise.
func (s *site) restart(set ...string) {
	s.t.Helper()
	if err := s.Stop(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.start(set...)
}

// providers starts the reference providers, writes their services, and returns the certificate by which they are known.
func (s *site) providers(dir string, write func(name, text string) string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "secrets", "broker.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	ours, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	theirs := brokertest.NewCurrentIdentity(s.t, "reference")
	front := httptest.NewUnstartedServer(nil)
	base := "https://" + front.Listener.Addr().String()
	ref, err := reference.New(reference.Config{Base: base, Brokers: []*x509.Certificate{ours}})
	if err != nil {
		s.t.Fatal(err)
	}
	front.Config.Handler, front.TLS = ref, ref.TLS(theirs)
	front.StartTLS()
	s.t.Cleanup(front.Close)
	services, err := reference.Services(base)
	if err != nil {
		s.t.Fatal(err)
	}
	for i, d := range services {
		write(fmt.Sprintf("services/%d.yaml", i), string(d.YAML))
	}
	return string(brokertest.CertificatePEM(theirs))
}

// witness starts one, and returns the policy that names it.
func (s *site) witness(file string) string {
	s.t.Helper()
	code, vkey, errs := run("log", "key", "-c", file)
	if code != 0 {
		s.t.Fatal(errs)
	}
	key, err := wit.NewKey("temoin.example")
	if err != nil {
		s.t.Fatal(err)
	}
	cfg := wit.Config{Key: key, State: filepath.Join(s.t.TempDir(), "w.db"), Logs: []wit.Log{{Origin: "regard.example/site", VKey: strings.TrimSpace(vkey)}}, ClientRate: 1e4, ClientBurst: 1e4}
	if err := wit.Create(s.t.Context(), cfg.State); err != nil {
		s.t.Fatal(err)
	}
	w, err := wit.Open(context.Background(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	answers := w.Handler()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.unseen.Load() {
			http.Error(w, "out of reach", http.StatusServiceUnavailable)
			return
		}
		answers.ServeHTTP(w, r)
	}))
	s.t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		if err := w.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return fmt.Sprintf("witness w1 %s %s\ngroup all 1 w1\nquorum all\n", w.VKey(), front.URL)
}

// proxy passes requests on as they come, and answers as they are but for what the test changes.
func (s *site) proxy(w http.ResponseWriter, r *http.Request) {
	(&httputil.ReverseProxy{
		ErrorLog: slog.NewLogLogger(slog.NewTextHandler(&s.logs, nil), slog.LevelInfo), // of pages that were left
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", *s.front.Load(), p.In.Host
			if s.change.Load() != nil {
				p.Out.Header.Del("Accept-Encoding")
			}
		},
		ModifyResponse: func(res *http.Response) error {
			change := s.change.Load()
			if change == nil {
				return nil
			}
			body, err := io.ReadAll(res.Body)
			if err != nil {
				return err
			}
			body = (*change)(res.Request.URL.Path, body)
			res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			res.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return nil
		},
	}).ServeHTTP(w, r)
}

func (s *site) agree(a policy.Agreement) {
	s.t.Helper()
	a.Agency, a.Service, a.NotBefore, a.NotAfter = "mairie", "quotient-familial", time.Now().Add(-time.Hour), time.Now().Add(10000*time.Hour)
	if _, err := s.Broker.PutAgreement(s.t.Context(), a); err != nil {
		s.t.Fatal(err)
	}
}

// api calls the agencies' API as the agency, and returns the answer's status; out may be nil.
func (s *site) api(method, path, body string, out any) int {
	s.t.Helper()
	c := http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots(), Certificates: []tls.Certificate{s.agency}, MinVersion: tls.VersionTLS13}}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+s.Addresses["api"]+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		s.t.Fatalf("%v: %s", err, text)
	}
	return res.StatusCode
}

// roots are what the agency knows the broker by.
func (s *site) roots() *x509.CertPool {
	s.t.Helper()
	text, err := os.ReadFile(s.cfg.API.Cert)
	if err != nil {
		s.t.Fatal(err)
	}
	pool, err := certPool("api.cert", text)
	if err != nil {
		s.t.Fatal(err)
	}
	return pool
}

// ask has the agency ask about Camille, and check the receipt.
func (s *site) ask(agreement, purpose, basis string, scopes ...string) store.ID {
	s.t.Helper()
	logPolicy, err := s.Broker.LogPolicy(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := client.New(client.Config{URL: "https://" + s.Addresses["api"], Certificate: s.agency, Roots: s.roots(), Policy: logPolicy})
	if err != nil {
		s.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"service": "quotient-familial", "agreement": agreement, "scopes": scopes, "purpose": purpose, "legal_basis": basis, "recipient": town, "context": "Inscription à la cantine", "object": "dossier 42", "official": "agent-7",
		"subject": subjectJSON(camille),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := c.Disclose(s.t.Context(), body, "")
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.logs.String())
	}
	return store.ID(uuid.MustParse(res.ID))
}

// subjectJSON is a pivot identity as the API and the administration take it.
func subjectJSON(p proof.Pivot) map[string]any {
	return map[string]any{
		"type": "pivot", "birth_name": p.BirthName, "given_names": strings.Fields(p.GivenNames), "birth_date": p.BirthDate, "sex": p.Sex, "birth_place": p.BirthPlace, "birth_country": p.BirthCountry,
	}
}

// operate runs a command of the operator, who has the administration socket.
func (s *site) operate(args ...string) string {
	s.t.Helper()
	code, out, errs := run(append(args, "--socket", s.cfg.Admin.Socket)...)
	if code != 0 {
		s.t.Fatalf("regard %s: %s", strings.Join(args, " "), errs)
	}
	return out
}

// settled waits until all that is in the log now is in a closed epoch that the witness saw.
func (s *site) settled() {
	s.t.Helper()
	epoch := s.Broker.Standing().Open.Number
	s.until("the epoch to close under the witness's eyes", func() bool {
		now := s.Broker.Standing()
		return now.Open.Number > epoch && now.Witnessed.Size() > uint64(now.Open.Marker)
	})
}

func (s *site) until(what string, so func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain for %s\n%s", what, s.logs.String())
		}
	}
}

// altered has the proxy change what it sends, until it is called with nil.
func (s *site) altered(f func(path string, body []byte) []byte) {
	if f == nil {
		s.change.Store(nil)
		return
	}
	s.change.Store(&f)
}

// signIn chooses a person at the simulator, from the page on which signing in is offered.
func (s *site) signIn(p *browsertest.Page, name string) {
	s.t.Helper()
	p.Wait(`document.querySelector('a[href^="/connexion/franceconnect"]')`)
	p.Do(chromedp.Click(chromedp.CSS(`main a[href^="/connexion/franceconnect"]`)))
	s.choose(p, name)
}

// choose answers the simulator's question who one is, and waits for a page of the portal.
func (s *site) choose(p *browsertest.Page, name string) {
	s.t.Helper()
	button := fmt.Sprintf(`[...document.querySelectorAll("button[name=personne]")].find((b) => b.textContent.startsWith(%q))`, name)
	p.Wait(button)
	browsertest.Eval[bool](p, button+".click(), true")
	p.Wait(fmt.Sprintf("location.origin === %q && document.readyState === 'complete'", s.url))
}

// verdict waits for one, and returns its state.
func (s *site) verdict(p *browsertest.Page) string {
	s.t.Helper()
	p.Wait(`!["unverified", "checking"].includes(document.querySelector("#verdict").dataset.state)`)
	return browsertest.Eval[string](p, `document.querySelector("#verdict").dataset.state`)
}

// marks are what the check says of the rows, by outcome.
func marks(p *browsertest.Page) map[string]int {
	return browsertest.Eval[map[string]int](p, `[...document.querySelectorAll("#acces tr[data-index]")].reduce((all, r) => (all[r.dataset.outcome + " " + r.dataset.verified] = (all[r.dataset.outcome + " " + r.dataset.verified] || 0) + 1, all), {})`)
}

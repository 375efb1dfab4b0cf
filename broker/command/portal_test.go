package command

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/ledger/proof"
	wit "github.com/regard-broker/regard/ledger/witness"
	"github.com/regard-broker/regard/policy"
)

// site is a broker with its portal and the simulator of FranceConnect as serve runs them, the reference providers, and a witness. People reach the portal through a proxy, which can change what it sends.
type site struct {
	*Instance
	t         *testing.T
	url       string // the portal's
	simulator string
	agency    broker.Caller
	logs      lockedBuffer
	change    atomic.Pointer[func(path string, body []byte) []byte]
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// camille is invented, and known to the reference providers.
var camille = proof.Pivot{BirthName: "EXEMPLE ALPHA", GivenNames: "Camille Inès", BirthDate: "1984-03-14", Sex: "F", BirthPlace: "75107", BirthCountry: "99100"}

const town = "90000101700012"

func newSite(t *testing.T, epoch time.Duration, set ...string) *site {
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
	set = append(set, "portal.identity.client_id=regard", "portal.identity.client_secret_file="+write("secrets/franceconnect.secret", "s3cret\n"), "portal.identity.acr=eidas2",
		"portal.identity.scopes=identite_pivot,preferred_username,ine", "portal.identity.claims.ine=ine", "portal.operator.name=Agence d'Exemple", "portal.operator.email=contact@exemple.invalid",
		"providers.ca_file="+write("provider.pem", s.providers(dir, write)), "witnesses.faulty=0", "witnesses.policy="+write("witnesses.policy", s.witness(file)))
	front := httptest.NewUnstartedServer(http.HandlerFunc(s.proxy))
	s.url = "http://localhost:" + strconv.Itoa(front.Listener.Addr().(*net.TCPAddr).Port)
	// The simulator's port is part of its name, so it has to be known before: one that was free a moment ago.
	for range 5 {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := free.Addr().String()
		free.Close()
		cfg, err := config.Load(config.Source{File: file, Set: append(set, "portal.listen=127.0.0.1:0", "portal.url="+s.url, "portal.identity.simulator.listen="+addr)})
		if err != nil {
			t.Fatal(err)
		}
		s.simulator = "http://" + addr
		if s.Instance, err = Start(t.Context(), cfg, slog.New(slog.NewTextHandler(&s.logs, nil))); err == nil {
			break
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	if s.Instance == nil {
		t.Fatal("no port is free")
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	front.Start()
	t.Cleanup(front.Close)
	id := brokertest.NewCurrentIdentity(t, "mairie")
	if err := s.Broker.AddAgency(t.Context(), "mairie", "Mairie d'Exempleville", town, id.Leaf); err != nil {
		t.Fatal(err)
	}
	if s.agency, err = s.Broker.Authenticate(id.Leaf); err != nil {
		t.Fatal(err)
	}
	s.agree(policy.Agreement{ID: "cantine", Scopes: []policy.Scope{"quotient", "enfants"}, Purposes: []policy.Purpose{"tarif-cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"}})
	s.agree(policy.Agreement{
		ID: "enquete", Scopes: []policy.Scope{"quotient"}, Purposes: []policy.Purpose{"enquete"}, LegalBases: []policy.LegalBasis{"cpp-60-1"},
		Deferral: &policy.Deferral{Authority: "Tribunal judiciaire d'Exempleville", Article: "CPP art. 60-1", Reference: "2026/118", Days: 40},
	})
	return s
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
	front := httptest.NewServer(w.Handler())
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
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", s.Addresses["portal"], p.In.Host
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

// ask asks about Camille.
func (s *site) ask(agreement, purpose, basis string, scopes ...string) *broker.Answer {
	s.t.Helper()
	a, err := s.Broker.Disclose(s.t.Context(), s.agency, &broker.Request{
		Service: "quotient-familial", Agreement: agreement, Scopes: scopes, Purpose: purpose, LegalBasis: basis, Recipient: town, Context: "Inscription à la cantine", Object: "dossier 42", Official: "agent-7",
		Subject: broker.SubjectInput{Type: "pivot", Pivot: camille},
	})
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.logs.String())
	}
	return a
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

// TestPortalInABrowser is the way of a person, in Chromium, with everything as serve runs it: sign in, read, have it checked, be told the truth about a page or a file that was changed, learn of what was delayed, sign out.
func TestPortalInABrowser(t *testing.T) {
	s := newSite(t, 2*time.Second, "portal.verifier="+browsertest.Verifier(t))
	s.ask("cantine", "tarif-cantine", "crpa-l114-8", "quotient", "enfants")
	s.ask("cantine", "publicite", "crpa-l114-8", "quotient")
	secret := s.ask("enquete", "enquete", "cpp-60-1", "quotient")
	s.settled()
	p := browsertest.Open(t, s.url, s.simulator)
	p.Goto(s.url + "/historique")
	if at := browsertest.Eval[string](p, "location.pathname"); at != "/connexion" {
		t.Fatalf("a history for nobody: %s", at)
	}
	subject, err := camille.Subject()
	if err != nil {
		t.Fatal(err)
	}
	account := broker.Account{Pivot: subject}
	if _, err := s.Broker.Profile(t.Context(), account); broker.AsProblem(err).Code != "account.unknown" {
		t.Errorf("before the first sign-in: %v", err)
	}
	s.signIn(p, "Camille Inès EXEMPLE ALPHA")
	if _, err := s.Broker.Profile(t.Context(), account); err != nil {
		t.Errorf("a sign-in doesn't enrol for notices: %v", err)
	}
	if got := s.verdict(p); got != "proven" && got != "limited" {
		t.Fatalf("the history is %s:\n%s", got, p.Text("#verdict"))
	}
	if got := marks(p); got["released verified"] != 1 || got["denied verified"] != 1 || len(got) != 2 {
		t.Errorf("rows: %v", got)
	}
	if s := browsertest.Eval[string](p, `document.querySelector("#verdict").textContent`); !strings.Contains(s, "temoin.example") {
		t.Errorf("the verdict names no witness:\n%s", s)
	}
	accessible(t, s, p)

	t.Run("a row is changed on its way", func(t *testing.T) {
		defer s.altered(nil)
		s.altered(func(path string, body []byte) []byte {
			if path == "/historique" {
				body = bytes.Replace(body, []byte(`data-outcome="denied"`), []byte(`data-outcome="empty"`), 1)
			}
			return body
		})
		p.Goto(s.url + "/historique")
		if got := s.verdict(p); got != "refuted" || marks(p)["empty wrong"] != 1 {
			t.Errorf("%s, %v:\n%s", got, marks(p), p.Text("#verdict"))
		}
		p.Axe()
	})
	t.Run("a row is left out on its way", func(t *testing.T) {
		defer s.altered(nil)
		s.altered(func(path string, body []byte) []byte {
			if from := bytes.Index(body, []byte(`<tr role="row" data-index`)); path == "/historique" && from > 0 {
				to := from + bytes.Index(body[from:], []byte("</tr>")) + len("</tr>")
				body = append(body[:from:from], body[to:]...)
			}
			return body
		})
		p.Goto(s.url + "/historique")
		if got := s.verdict(p); got != "refuted" {
			t.Errorf("%s:\n%s", got, p.Text("#verdict"))
		}
	})
	t.Run("the file is changed on its way", func(t *testing.T) {
		defer s.altered(nil)
		s.altered(func(path string, body []byte) []byte {
			if path != "/historique/fichier" {
				return body
			}
			h, err := proof.ParseHistory(body)
			if err != nil {
				t.Error(err)
				return body
			}
			for i := range h.Epochs {
				for _, r := range h.Epochs[i].Rolls {
					if len(r.Leaves) > 0 {
						r.Leaves[0].Salt[0] ^= 1
						if body, err = h.AppendText(nil); err != nil {
							t.Error(err)
						}
						return body
					}
				}
			}
			t.Error("there is no roll in the file")
			return body
		})
		p.Goto(s.url + "/historique")
		if got := s.verdict(p); got != "refuted" {
			t.Errorf("%s:\n%s", got, p.Text("#verdict"))
		}
	})

	if _, err := s.Broker.EndDeferral(t.Context(), secret.ID, "mainlevée"); err != nil {
		t.Fatal(err)
	}
	s.settled()
	p.Goto(s.url + "/historique")
	if got := s.verdict(p); got != "proven" && got != "limited" {
		t.Errorf("after the delay: %s\n%s", got, p.Text("#verdict"))
	}
	if got := marks(p); got["opened verified"] != 1 || !strings.Contains(p.Text("#acces"), "Révélé le") {
		t.Errorf("after the delay: %v\n%s", got, p.Text("#acces"))
	}

	p.Goto(s.url + browsertest.Eval[string](p, `document.querySelector("#acces tr[data-outcome=opened] a").getAttribute("href")`))
	if got := p.Text("article"); !strings.Contains(got, "Révélé le") || !strings.Contains(got, "un témoin indépendant") {
		t.Errorf("the page of what was delayed:\n%s", got)
	}
	p.Do(chromedp.Click(chromedp.CSS(`form[action="/deconnexion"] button`)))
	p.Wait(`location.pathname === "/deconnexion/retour"`)
	if s := p.Text("h1"); s != "Vous êtes déconnecté" {
		t.Error(s)
	}
	p.Axe()
	p.Goto(s.url + "/historique")
	if at := browsertest.Eval[string](p, "location.pathname"); at != "/connexion" {
		t.Errorf("signed out, and there is a history: %s", at)
	}
	for _, name := range []string{"ALPHA", "Camille", "1984-03-14"} {
		if strings.Contains(s.logs.String(), name) {
			t.Errorf("the broker's log says %s", name)
		}
	}
}

// accessible looks at every page in both languages, as wide as a desktop's and as narrow as a phone's, with and without motion.
func accessible(t *testing.T, s *site, p *browsertest.Page) {
	t.Helper()
	record := browsertest.Eval[string](p, `document.querySelector("#acces tr[data-outcome=released] a").getAttribute("href")`)
	still := []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}
	for _, lang := range []string{"fr", "en"} {
		p.Goto(s.url + "/?lang=" + lang)
		for _, path := range []string{"/", "/historique", "/historique?vue=dense&issue=denied", record, "/telecharger", "/releve", "/accessibilite", "/mentions-legales", "/donnees-personnelles", "/verificateur", "/connexion",
			"/notifications", "/notifications/reglages", "/notifications/adresse", "/contestations", "/identifiants", "/mandats", "/effacer"} {
			p.Goto(s.url + path)
			if browsertest.Eval[bool](p, `!!document.querySelector("#verdict[data-bundle]")`) {
				s.verdict(p)
			}
			browsertest.Eval[bool](p, `document.querySelectorAll("details").forEach((d) => d.open = true), true`)
			if got := browsertest.Eval[string](p, "document.documentElement.lang"); got != lang {
				t.Errorf("%s is in %s", path, got)
			}
			p.Axe()
			p.Do(chromedp.EmulateViewport(320, 640))
			if wide := browsertest.Eval[int](p, "document.documentElement.scrollWidth"); wide > 320 {
				t.Errorf("%s (%s) is %d px wide on a phone of 320", path, lang, wide)
			}
			p.Do(chromedp.EmulateViewport(1280, 900))
			if _, err := chromedp.Call(p.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: still}); err != nil {
				t.Fatal(err)
			}
			if moving := browsertest.Eval[int](p, `[...document.querySelectorAll("*")].filter((e) => { const s = getComputedStyle(e); return s.animationName !== "none" || s.transitionDuration.split(", ").some((d) => parseFloat(d) > 0); }).length`); moving > 0 {
				t.Errorf("%s (%s): %d elements move for people who don't want that", path, lang, moving)
			}
			if _, err := chromedp.Call(p.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.Goto(s.url + "/?lang=fr")
}

// TestVerifierIsMissing: a portal without one serves, and says so; one whose verifier was named, and isn't there or is another, doesn't start.
func TestVerifierIsMissing(t *testing.T) {
	s := newSite(t, time.Hour)
	if !strings.Contains(s.logs.String(), "no browser can check a history") {
		t.Errorf("the operator isn't told:\n%s", s.logs.String())
	}
	res, err := http.Get(s.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if page, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(page, []byte("Ce serveur ne fournit pas de vérificateur")) {
		t.Errorf("%v, %s: %s", err, res.Status, page)
	}
	if csp := res.Header.Get("Content-Security-Policy"); strings.Contains(csp, "script-src") || !strings.Contains(csp, "form-action 'self' "+s.simulator) {
		t.Errorf("policy %q", csp)
	}
	empty, other := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "verifier.sha256"), []byte("00  verifier.wasm\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{empty: "there is no verifier here", other: "the verifier in " + other} {
		i := &Instance{Broker: s.Broker, cfg: new(*s.cfg), log: s.log}
		i.cfg.Portal.Verifier = dir
		if _, err := i.verifier(t.Context()); err == nil || !strings.Contains(err.Error(), "portal.verifier: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestVerifierFollowsKeys: when the log's keys change, pages have browsers check by the new ones; while nobody can say, by those that were known last.
func TestVerifierFollowsKeys(t *testing.T) {
	vkey := func(n byte) string {
		k, err := note.NewEd25519VerifierKey("regard.example/site", bytes.Repeat([]byte{n}, 32))
		if err != nil {
			t.Fatal(err)
		}
		return "log " + k + "\nquorum none\n"
	}
	text, fail := vkey(1), error(nil)
	v := &verifiers{policy: func(context.Context) ([]byte, error) { return []byte(text), fail }, log: slog.New(slog.DiscardHandler), dir: browsertest.Verifier(t)}
	if _, err := v.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	served := func() string {
		t.Helper()
		e, err := v.element("fr", "/historique/fichier", "acces", "")
		if err != nil {
			t.Fatal(err)
		}
		at := regexp.MustCompile(`data-policy="([^"]+)"`).FindStringSubmatch(string(e))
		if at == nil {
			t.Fatalf("no policy: %s", e)
		}
		w := httptest.NewRecorder()
		v.ServeHTTP(w, httptest.NewRequest(http.MethodGet, at[1], nil))
		return w.Body.String()
	}
	if got := served(); got != vkey(1) {
		t.Errorf("%q", got)
	}
	text = vkey(2)
	if got := served(); got != vkey(2) {
		t.Errorf("after a rotation: %q", got)
	}
	text, fail = vkey(3), errors.New("down")
	if got := served(); got != vkey(2) {
		t.Errorf("while nobody can say: %q", got)
	}
}

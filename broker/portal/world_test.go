package portal_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// world is a portal before a real broker, which asks the reference providers about invented people.
type world struct {
	t        testing.TB
	b        *broker.Broker
	p        *portal.Portal
	sessions *sessions
	ahead    atomic.Int64
	logs     *output.Buffer
	agencies map[string]broker.Caller
	certs    map[string]*x509.Certificate // of the agencies
	cfg      portal.Config
	dataDir  string
}

// Invented people: see broker/reference. Loïc lives with Camille. Jean Foxtrot has a namesake, born elsewhere on the same day.
var (
	camille    = proof.Pivot{BirthName: "Exemple Alpha", GivenNames: "Camille Inès", BirthDate: "1984-03-14", Sex: "F", BirthPlace: "75107", BirthCountry: "99100"}
	pierre     = proof.Pivot{BirthName: "Exemple Delta", GivenNames: "Pierre Marie", BirthDate: "1975-12-01", Sex: "M", BirthPlace: "59350", BirthCountry: "99100"}
	loic       = proof.Pivot{BirthName: "Exemple Bravo", GivenNames: "Loïc", BirthDate: "1982-11-02", Sex: "M", BirthPlace: "13055", BirthCountry: "99100"}
	jean       = proof.Pivot{BirthName: "Exemple Foxtrot", GivenNames: "Jean", BirthDate: "2001-05-05", Sex: "M", BirthPlace: "33063", BirthCountry: "99100"}
	jeanToo    = proof.Pivot{BirthName: "Exemple Foxtrot", GivenNames: "Jean", BirthDate: "2001-05-05", Sex: "M", BirthPlace: "67482", BirthCountry: "99100"}
	unattached = proof.Pivot{BirthName: "Exemple Personne", GivenNames: "Nul", BirthDate: "1960-01-01", Sex: "M", BirthPlace: "75056", BirthCountry: "99100"}
)

const siret = "90000101700012"

func newWorld(t testing.TB, change func(*broker.Config, *portal.Config)) *world {
	t.Helper()
	w := &world{t: t, sessions: &sessions{by: map[string]*portal.Session{}}, logs: &output.Buffer{}, agencies: map[string]broker.Caller{}, certs: map[string]*x509.Certificate{}, dataDir: t.TempDir()}
	ours, theirs := brokertest.NewCurrentIdentity(t, "broker"), brokertest.NewCurrentIdentity(t, "reference")
	front := httptest.NewUnstartedServer(nil)
	base := "https://" + front.Listener.Addr().String()
	ref, err := reference.New(reference.Config{Base: base, Brokers: []*x509.Certificate{ours.Leaf}})
	if err != nil {
		t.Fatal(err)
	}
	front.Config.Handler, front.TLS = ref, ref.TLS(theirs)
	front.StartTLS()
	t.Cleanup(front.Close)
	roots := x509.NewCertPool()
	roots.AddCert(theirs.Leaf)
	const epoch = 10 * time.Minute
	real := time.Now()
	w.ahead.Store(int64(real.Truncate(epoch).Add(epoch).Sub(real))) // epochs end on a schedule: this one has just begun
	clock := func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }
	bc := broker.Config{
		DataDir: w.dataDir, Origin: "regard.example/log", Development: true, Custodian: keystest.NewCustodian(t), Epoch: epoch, Clock: clock,
		Providers: provider.Config{Roots: roots, Certificate: func() (*tls.Certificate, error) { return &ours, nil }},
		Logger:    slog.New(slog.NewTextHandler(w.logs, nil)),
	}
	w.cfg = portal.Config{
		Sessions: w.sessions, URL: &url.URL{Scheme: "https", Host: "regard.example"}, Clock: clock, Logger: bc.Logger,
		Operator: portal.Operator{Name: "Agence d'Exemple", Address: "1 rue d'Exemple, 75000 Exempleville", Email: "contact@exemple.invalid", Officer: "dpo@exemple.invalid", Host: "Hébergeur d'Exemple"},
	}
	if change != nil {
		change(&bc, &w.cfg)
	}
	if w.b, err = broker.New(t.Context(), bc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := w.b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	services, err := reference.Services(base)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		if _, err := w.b.PutService(t.Context(), s.YAML); err != nil {
			t.Fatal(err)
		}
	}
	if w.cfg.Broker == nil {
		w.cfg.Broker = w.b
	}
	if w.p, err = portal.New(w.cfg); err != nil {
		t.Fatal(err)
	}
	w.agency("mairie", "Mairie d'Exempleville")
	w.agree("cantine", "mairie", "quotient-familial", "tarif-cantine", "quotient", "enfants")
	return w
}

func (w *world) agency(id, name string) {
	w.t.Helper()
	own := brokertest.NewCurrentIdentity(w.t, id)
	if err := w.b.AddAgency(w.t.Context(), id, name, siret, own.Leaf); err != nil {
		w.t.Fatal(err)
	}
	caller, err := w.b.Authenticate(own.Leaf)
	if err != nil {
		w.t.Fatal(err)
	}
	w.agencies[id], w.certs[id] = caller, own.Leaf
}

func (w *world) agree(id, agency, service, purpose string, scopes ...policy.Scope) {
	w.t.Helper()
	now := time.Now()
	if _, err := w.b.PutAgreement(w.t.Context(), policy.Agreement{
		ID: policy.AgreementID(id), Agency: policy.AgencyID(agency), Service: policy.ServiceID(service), Scopes: scopes, Purposes: []policy.Purpose{policy.Purpose(purpose)}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10000 * time.Hour),
	}); err != nil {
		w.t.Fatal(err)
	}
}

// canteen is the request that the agreement allows.
func canteen(p proof.Pivot) *broker.Request {
	return &broker.Request{
		Service: "quotient-familial", Scopes: []string{"quotient", "enfants"}, Purpose: "tarif-cantine", LegalBasis: "crpa-l114-8", Recipient: siret,
		Context: "Inscription à la cantine", Object: "dossier 42", Official: "AGENTMARKER", Subject: broker.SubjectInput{Type: "pivot", Pivot: p},
	}
}

// disclose asks, and returns the log index of the asked entry.
func (w *world) disclose(agency string, req *broker.Request) proof.Index {
	w.t.Helper()
	a, err := w.b.Disclose(w.t.Context(), w.agencies[agency], req)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.logs)
	}
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Index()
}

// turn ends the open epoch.
func (w *world) turn() {
	w.t.Helper()
	was := w.b.Log().OpenEpoch().Number
	req := canteen(unattached)
	req.Agreement = "cantine"                                                        // an agency that has one with a delay has to name those it means
	w.ahead.Add(max(0, int64(w.b.Log().OpenEpoch().Until.Sub(w.now())+time.Second))) // the next one begins now, and lasts
	for deadline := time.Now().Add(60 * time.Second); w.b.Log().OpenEpoch().Number == was; time.Sleep(10 * time.Millisecond) {
		w.disclose("mairie", req) // any entry tells the log the time
		if time.Now().After(deadline) {
			w.t.Fatalf("epoch %d doesn't end\n%s", was, w.logs)
		}
	}
	w.published(w.b.Log().OpenEpoch().Marker)
}

func (w *world) published(i proof.Index) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	defer cancel()
	if _, err := w.b.Log().AwaitPublished(ctx, i); err != nil {
		w.t.Fatal(err)
	}
}

// policy is what a person checks with: what the portal hands out.
func (w *world) policy() *proof.Policy {
	w.t.Helper()
	p, err := proof.ParsePolicy(w.get("", "/verificateur/politique.txt").body)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// sessions are those of the tests: whoever has the cookie who=NAME is signed in as that person.
type sessions struct {
	mu           sync.Mutex
	by           map[string]*portal.Session
	out, through atomic.Int64 // sign-outs, requests
}

func (s *sessions) Session(r *http.Request) (*portal.Session, bool) {
	c, err := r.Cookie("who")
	if err != nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.by[c.Value]
	return x, ok
}

// Middleware marks what came through it.
func (s *sessions) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.through.Add(1)
		next.ServeHTTP(w, r)
	})
}

func (s *sessions) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/deconnexion" {
			s.out.Add(1)
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
}

func (s *sessions) Begin(back string) string {
	return "/connexion/exemple?retour=" + url.QueryEscape(back)
}

func (s *sessions) Elsewhere() string { return "https://fc.exemple.invalid" }

// signIn makes a session of somebody under their pivot, their name alone and whatever else, and enrols them as a sign-in does.
func (w *world) signIn(name string, p proof.Pivot, more ...proof.Subject) {
	w.t.Helper()
	pivot, err := p.Subject()
	if err != nil {
		w.t.Fatal(err)
	}
	person, err := p.Person().Subject()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.b.Enrol(w.t.Context(), broker.Account{Pivot: pivot, Subjects: append([]proof.Subject{person}, more...), Lang: "fr"}); err != nil {
		w.t.Fatal(err)
	}
	w.sessions.mu.Lock()
	defer w.sessions.mu.Unlock()
	w.sessions.by[name] = &portal.Session{Account: "account-" + name, Name: p.GivenNames + " " + p.BirthName, Subjects: append([]proof.Subject{pivot, person}, more...), SignedIn: time.Now(), Forms: formsOf(name)}
}

// formsOf is the key of somebody's forms, csrfOf a token of it.
func formsOf(who string) identity.FormKey { return sha256.Sum256([]byte(who)) }

func csrfOf(who string) string {
	k := formsOf(who)
	return k.Token()
}

var csrfInput = regexp.MustCompile(`name="csrf" value="[\w-]{86}"`)

// unmasked is a page without its tokens, which differ from answer to answer.
func unmasked(page []byte) []byte { return csrfInput.ReplaceAll(page, nil) }

// answer is what the portal said.
type answer struct {
	*http.Response
	body []byte
	doc  *html.Node
}

// get asks for a page as somebody, in French unless lang says otherwise.
func (w *world) get(who, path string, header ...string) answer {
	w.t.Helper()
	return w.do(http.MethodGet, who, path, header...)
}

func (w *world) do(method, who, path string, header ...string) answer {
	w.t.Helper()
	return w.send(who, httptest.NewRequest(method, w.cfg.URL.String()+path, nil), header...)
}

// post sends a form as somebody, with the token of their session unless it has one.
func (w *world) post(who, path string, form url.Values, header ...string) answer {
	w.t.Helper()
	sent := url.Values{}
	if who != "" {
		sent.Set("csrf", csrfOf(who))
	}
	for k, v := range form {
		sent[k] = v
	}
	r := httptest.NewRequest(http.MethodPost, w.cfg.URL.String()+path, strings.NewReader(sent.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return w.send(who, r, header...)
}

func (w *world) send(who string, r *http.Request, header ...string) answer {
	w.t.Helper()
	if who != "" {
		r.AddCookie(&http.Cookie{Name: "who", Value: who})
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.p.ServeHTTP(rec, r)
	a := answer{Response: rec.Result(), body: rec.Body.Bytes()}
	a.Request = r
	if strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") && a.Header.Get("Content-Encoding") == "" {
		var err error
		if a.doc, err = html.Parse(bytes.NewReader(a.body)); err != nil {
			w.t.Fatal(err)
		}
	}
	return a
}

// page is a page that has to be there.
func (w *world) page(who, path string, header ...string) answer {
	w.t.Helper()
	a := w.get(who, path, header...)
	if a.StatusCode != http.StatusOK || a.doc == nil {
		w.t.Fatalf("%s: %s\n%s\n%s", path, a.Status, a.body, w.logs)
	}
	return a
}

// all returns the elements that a test of them accepts.
func (a answer) all(is func(*html.Node) bool) (out []*html.Node) {
	if a.doc == nil {
		return nil
	}
	for n := range a.doc.Descendants() {
		if n.Type == html.ElementNode && is(n) {
			out = append(out, n)
		}
	}
	return out
}

func (a answer) tag(name string) []*html.Node {
	return a.all(func(n *html.Node) bool { return n.Data == name })
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// rows are the lines of a history.
func (a answer) rows() []*html.Node {
	return a.all(func(n *html.Node) bool { return n.Data == "tr" && attr(n, "data-index") != "" })
}

func (a answer) indexes() (out []proof.Index) {
	for _, r := range a.rows() {
		n, err := strconv.ParseUint(attr(r, "data-index"), 10, 63)
		if err == nil {
			out = append(out, proof.Index(n))
		}
	}
	return out
}

// text of an element, with single spaces.
func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
			b.WriteByte(' ')
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func (a answer) text() string {
	for _, n := range a.tag("main") {
		return text(n)
	}
	return ""
}

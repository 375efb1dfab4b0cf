package identity_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/simulator"
	"github.com/regard-broker/regard/broker/peer"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
)

// clock stands still until it is told.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// Invented people: a couple of homonyms, somebody born abroad, and three with something missing or further identifiers.
const (
	camille = iota
	jeanBordeaux
	jeanStrasbourg
	amina
	presumed
	placeless
	otherNIR
)

var people = []simulator.Person{
	camille: {
		FamilyName: "EXEMPLE ALPHA", GivenName: "Camille Inès", UsedName: "EXEMPLE MARQUEUR", BirthDate: "1984-03-14", Gender: "female", BirthPlace: "75107", BirthCountry: "99100",
		Claims: map[string]string{"nir": "2 84 03 75 107 001 05", "siren": "900000118"},
	},
	jeanBordeaux:   {FamilyName: "EXEMPLE FOXTROT", GivenName: "Jean", BirthDate: "2001-05-05", Gender: "male", BirthPlace: "33063", BirthCountry: "99100"},
	jeanStrasbourg: {FamilyName: "EXEMPLE FOXTROT", GivenName: "Jean", BirthDate: "2001-05-05", Gender: "male", BirthPlace: "67482", BirthCountry: "99100"},
	amina:          {FamilyName: "EXEMPLE ÉCHO", GivenName: "Amina", BirthDate: "1988-02-29", Gender: "female", BirthCountry: "99350", Claims: map[string]string{"siren": "900000118"}},
	presumed:       {FamilyName: "EXEMPLE PRESUME", GivenName: "Ali", BirthDate: "1960-00-00", Gender: "male", BirthCountry: "99350"},
	placeless:      {FamilyName: "EXEMPLE SANSLIEU", GivenName: "Ali", BirthDate: "1960-01-02", BirthCountry: "99100"},
	otherNIR: {
		FamilyName: "EXEMPLE RENOMMEE", GivenName: "Camille Inès", BirthDate: "1984-03-14", Gender: "female", BirthPlace: "75107", BirthCountry: "99100",
		Claims: map[string]string{"nir": "284037510700105"},
	},
}

// markers may stand in no log, no metric and no file of the store.
var markers = []string{"EXEMPLE", "Camille", "Inès", "INES", "1984-03-14", "28403751070010", "284037510700105", "75107"}

// world is a portal with a simulator, and what stands around them.
type world struct {
	t         *testing.T
	clock     *clock // the portal's
	theirs    *clock // the simulator's
	cfg       identity.Config
	service   *identity.Service
	portal    *httptest.Server
	simulator *simulator.Server
	provider  *httptest.Server
	store     *store.Store
	dir       string
	logs      *output.Buffer
	transport *transport
	alter     func(token string, claims map[string]any)

	mu     sync.Mutex
	notice *identity.Notice
}

// transport lets a test change what comes back from the provider, and counts what is asked.
type transport struct {
	mu     sync.Mutex
	asked  map[string]int
	change func(path string, r *http.Request) (*http.Response, error) // nil: nothing
}

func (x *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	path := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	x.mu.Lock()
	x.asked[path]++
	change := x.change
	x.mu.Unlock()
	if change == nil {
		return http.DefaultTransport.RoundTrip(r)
	}
	return change(path, r)
}

func (x *transport) count(path string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.asked[path]
}

func (x *transport) set(f func(path string, r *http.Request) (*http.Response, error)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.change = f
}

// rewrite changes the body of one endpoint's answers.
func (x *transport) rewrite(endpoint string, f func(body []byte) []byte) {
	x.set(func(path string, r *http.Request) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil || path != endpoint {
			return resp, err
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		b = f(b)
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		return resp, nil
	})
}

type change func(w *world, sim *simulator.Config)

func newWorld(t *testing.T, changes ...change) *world {
	t.Helper()
	start := time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)
	w := &world{t: t, clock: &clock{t: start}, theirs: &clock{t: start}, dir: t.TempDir(), logs: &output.Buffer{}, transport: &transport{asked: map[string]int{}}}
	var err error
	if w.store, err = store.Open(t.Context(), store.Config{Dir: w.dir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	ring := keystest.NewRing(t, keys.Config{Custodian: keystest.NewCustodian(t), Store: w.store, Now: w.clock.now})

	var handler http.Handler
	w.portal = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { handler.ServeHTTP(rw, r) }))
	t.Cleanup(w.portal.Close)
	w.provider = httptest.NewUnstartedServer(nil)
	issuer := "http://" + w.provider.Listener.Addr().String() + "/api/v2"
	sim := simulator.Config{
		Development: true, Issuer: issuer, People: people, Now: w.theirs.now, Alter: func(token string, claims map[string]any) {
			if w.alter != nil {
				w.alter(token, claims)
			}
		},
		Clients: []simulator.Client{{ID: "regard", Secret: "s3cret", RedirectURIs: []string{w.portal.URL + identity.PathCallback}, LogoutURIs: []string{w.portal.URL + identity.PathSignedOut}}},
	}
	w.cfg = identity.Config{
		Issuer: issuer, ClientID: "regard", ClientSecret: "s3cret", URL: w.portal.URL, Level: identity.Substantial, Development: true, Transport: w.transport,
		Scopes: []string{"identite_pivot", "preferred_username", "nir", "siren"},
		Claims: map[proof.SubjectType]string{proof.TypeNIR: "nir", proof.TypeSIREN: "siren"},
		Rate:   peer.Rate{PerSecond: 1000, Burst: 100_000}, // the clock stands still, and all browsers have one address
		Store:  w.store, Ring: ring, Show: w.show, Now: w.clock.now, Logger: slog.New(slog.NewTextHandler(w.logs, nil)),
	}
	for _, c := range changes {
		c(w, &sim)
	}
	if w.simulator, err = simulator.New(sim); err != nil {
		t.Fatal(err)
	}
	w.provider.Config.Handler = w.simulator
	w.provider.Start()
	t.Cleanup(w.provider.Close)
	if w.service, err = identity.New(w.cfg); err != nil {
		t.Fatal(err)
	}
	handler = w.pages()
	return w
}

// pages are a portal as small as can be: who one is, a form, and a page for which one has to have signed in just now.
func (w *world) pages() http.Handler {
	mux := http.NewServeMux()
	w.service.Routes(mux)
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, r *http.Request) {
		if _, ok := identity.From(r.Context()); ok {
			fmt.Fprint(rw, "signed in")
			return
		}
		fmt.Fprint(rw, "signed out")
	})
	mux.Handle("/moi", w.service.Require(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s, _ := identity.From(r.Context())
		if r.Method == http.MethodPost {
			fmt.Fprint(rw, "done")
			return
		}
		fmt.Fprintf(rw, "name=%s|%s|%s\nlevel=%s\ncsrf=%s\nforms=%x\naccount=%x\nlanguage=%s\nunattached=%v\n", s.Names.Given, s.Names.Family, s.Names.Used, s.Level, s.Forms().Token(), s.Forms()[:], s.Account[:], s.Language, s.Unattached)
		for _, x := range s.Subjects {
			fmt.Fprintf(rw, "subject=%s %s\n", x.Type(), x.Value())
		}
		for _, x := range s.Attached {
			fmt.Fprintf(rw, "attached=%s %s\n", x.Subject.Type(), x.Proven)
		}
	})))
	mux.Handle("/effacer", w.service.Fresh(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, r.Method+" fresh") })))
	mux.Handle("/encore", w.service.Again())
	return w.service.Middleware(mux)
}

func (w *world) show(rw http.ResponseWriter, _ *http.Request, n *identity.Notice) {
	w.mu.Lock()
	w.notice = n
	w.mu.Unlock()
	rw.WriteHeader(n.Status)
	fmt.Fprintf(rw, "notice=%s return=%s missing=%v", n.Code, n.Return, n.Missing)
}

// browser keeps cookies. It stops at pages, and follows redirects.
type browser struct {
	w *world
	*http.Client
	stop  string   // a path where it doesn't follow
	first *url.URL // where the last answer first sent it
	last  *url.URL
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	b := &browser{w: w}
	b.Client = &http.Client{Jar: jar, Transport: w.portal.Client().Transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if b.last = r.URL; len(via) == 1 {
			b.first = r.URL
		}
		if b.stop != "" && r.URL.Path == b.stop {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	return b
}

// page is an answer that was read.
type page struct {
	status int
	header http.Header
	url    *url.URL
	body   string
}

func (b *browser) do(r *http.Request) page {
	b.w.t.Helper()
	resp, err := b.Do(r)
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return page{resp.StatusCode, resp.Header, resp.Request.URL, string(body)}
}

func (b *browser) get(to string) page {
	b.w.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, to, nil)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return b.do(r)
}

func (b *browser) post(to string, form url.Values, header ...string) page {
	b.w.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		b.w.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return b.do(r)
}

var pageID = regexp.MustCompile(`name="page" value="([0-9a-f]+)"`)

// start begins a sign-in in a browser that the simulator doesn't know, and returns the form of its page.
func (b *browser) start(back string) url.Values {
	b.w.t.Helper()
	issuer, err := url.Parse(b.w.cfg.Issuer)
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.Jar.SetCookies(issuer, []*http.Cookie{{Name: "franceconnect-simulator", Path: "/api/v2/", MaxAge: -1}})
	return b.form(b.get(b.w.portal.URL + identity.PathSignIn + "?retour=" + url.QueryEscape(back)))
}

func (b *browser) form(p page) url.Values {
	b.w.t.Helper()
	m := pageID.FindStringSubmatch(p.body)
	if m == nil {
		b.w.t.Fatalf("not the simulator's page: %d %s\n%s", p.status, p.url, p.body)
	}
	return url.Values{"page": {m[1]}}
}

// choose sends the simulator's form.
func (b *browser) choose(form url.Values, person int) page {
	b.w.t.Helper()
	form.Set("personne", fmt.Sprint(person))
	return b.post(b.w.cfg.Issuer+"/choix", form)
}

func (b *browser) signIn(person int) page {
	b.w.t.Helper()
	return b.choose(b.start("/moi"), person)
}

// mustSignIn signs in and returns what the portal says of the person.
func (b *browser) mustSignIn(person int) me {
	b.w.t.Helper()
	p := b.signIn(person)
	if p.status != http.StatusOK || p.url.Path != "/moi" {
		b.w.t.Fatalf("not signed in: %d %s\n%s\n%s", p.status, p.url, p.body, b.w.logs)
	}
	return parseMe(p.body)
}

// signedIn reports whether the browser has a session.
func (b *browser) signedIn() bool {
	b.w.t.Helper()
	switch p := b.get(b.w.portal.URL + "/"); p.body {
	case "signed in":
		return true
	case "signed out":
		return false
	default:
		b.w.t.Fatalf("%d %s", p.status, p.body)
		return false
	}
}

// me is the page of a person.
type me struct {
	name, level, csrf, forms, account, language, unattached string
	subjects, attached                                      []string
}

func parseMe(text string) (m me) {
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch k {
		case "name":
			m.name = v
		case "level":
			m.level = v
		case "csrf":
			m.csrf = v
		case "forms":
			m.forms = v
		case "account":
			m.account = v
		case "language":
			m.language = v
		case "unattached":
			m.unattached = v
		case "subject":
			m.subjects = append(m.subjects, v)
		case "attached":
			m.attached = append(m.attached, v)
		}
	}
	return m
}

// wantNotice checks what a page told, and that nobody was signed in by it.
func (w *world) wantNotice(p page, code identity.Code) {
	w.t.Helper()
	w.mu.Lock()
	n := w.notice
	w.notice = nil
	w.mu.Unlock()
	if n == nil || n.Code != code || p.status != n.Status {
		w.t.Errorf("got %d %q, want the notice %s\n%s", p.status, p.body, code, w.logs)
	}
}

// cookie returns a cookie of the portal.
func (b *browser) cookie(name string) *http.Cookie {
	u, err := url.Parse(b.w.portal.URL)
	if err != nil {
		b.w.t.Fatal(err)
	}
	for _, c := range b.Jar.Cookies(u) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// put sets a cookie as a thief would.
func (b *browser) put(name, value string) {
	u, err := url.Parse(b.w.portal.URL)
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.Jar.SetCookies(u, []*http.Cookie{{Name: name, Value: value, Path: "/", Secure: true}})
}

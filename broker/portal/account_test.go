package portal_test

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/inquiry"
	"github.com/regard-broker/regard/broker/identity/simulator"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// real is a portal at which people sign in with FranceConnect's simulator, before a real broker.
type real struct {
	*world
	service *identity.Service
	server  *httptest.Server
	issuer  string
	people  []proof.Pivot
	cookies sync.Map // longest MaxAge by name, of all that were set
}

// identities are the portal's sessions by the identity service.
type identities struct {
	*identity.Service
	issuer string
}

func (s identities) Session(r *http.Request) (*portal.Session, bool) {
	x, ok := identity.From(r.Context())
	if !ok {
		return nil, false
	}
	return &portal.Session{Account: hex.EncodeToString(x.Account[:]), Name: x.Names.Given + " " + x.Names.Family, Subjects: x.Subjects, SignedIn: x.SignedIn, Forms: *x.Forms()}, true
}

func (s identities) Handler() http.Handler {
	mux := http.NewServeMux()
	s.Routes(mux)
	return mux
}

func (s identities) Elsewhere() string { return s.issuer }

func newReal(t *testing.T, people ...proof.Pivot) *real {
	t.Helper()
	return newRealAt(t, httptest.NewTLSServer, people...)
}

// newRealAt is a portal at a server of its own: in a browser without TLS, which on this machine is as good.
func newRealAt(t *testing.T, server func(http.Handler) *httptest.Server, people ...proof.Pivot) *real {
	t.Helper()
	if !slices.Contains(people, camille) {
		people = append(people, camille) // the one with a business: without one the provider knows no such scope
	}
	w := &real{people: people}
	w.world = newWorld(t, func(b *broker.Config, _ *portal.Config) { b.CoolOff, b.SweepEvery = time.Hour, 20*time.Millisecond })
	w.server = server(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.p.ServeHTTP(rw, r)
		for _, line := range rw.Header()["Set-Cookie"] {
			if c, err := http.ParseSetCookie(line); err == nil {
				if was, ok := w.cookies.Load(c.Name); !ok || was.(int) < c.MaxAge {
					w.cookies.Store(c.Name, c.MaxAge)
				}
			}
		}
	}))
	t.Cleanup(w.server.Close)
	provider := httptest.NewUnstartedServer(nil)
	w.issuer = "http://" + provider.Listener.Addr().String() + "/api/v2"
	sim := simulator.Config{
		Development: true, Issuer: w.issuer, Now: w.now,
		Clients: []simulator.Client{{ID: "regard", Secret: "s3cret", RedirectURIs: []string{w.server.URL + identity.PathCallback}, LogoutURIs: []string{w.server.URL + identity.PathSignedOut}}},
	}
	for _, p := range people {
		x := simulator.Person{FamilyName: p.BirthName, GivenName: p.GivenNames, BirthDate: p.BirthDate, Gender: map[string]string{"F": "female", "M": "male"}[p.Sex], BirthPlace: p.BirthPlace, BirthCountry: p.BirthCountry}
		if p == camille {
			x.Claims = map[string]string{"siren": "900000118"}
		}
		sim.People = append(sim.People, x)
	}
	var err error
	if provider.Config.Handler, err = simulator.New(sim); err != nil {
		t.Fatal(err)
	}
	provider.Start()
	t.Cleanup(provider.Close)
	w.cfg.Checks = map[proof.SubjectType]inquiry.Rule{proof.TypeINE: {
		Service: "statut-etudiant", Purpose: "espace-personnel", LegalBasis: "consentement", Scopes: []string{"identite"},
		BirthName: "/data/identite/nom_naissance", GivenNames: "/data/identite/prenom", BirthDate: "/data/identite/date_naissance",
	}}
	checker, err := inquiry.New(inquiry.Config{Broker: w.b, Agency: "portail", Rules: w.cfg.Checks})
	if err != nil {
		t.Fatal(err)
	}
	w.service, err = identity.New(identity.Config{
		Issuer: w.issuer, ClientID: "regard", ClientSecret: "s3cret", URL: w.server.URL, Level: identity.Substantial, Development: true, Store: w.b.Store(), Ring: w.b.Ring(), Now: w.now, Checker: checker,
		Scopes: []string{"identite_pivot", "preferred_username", "siren"}, Claims: map[proof.SubjectType]string{proof.TypeSIREN: "siren"}, Logger: w.cfg.Logger,
		Show: func(rw http.ResponseWriter, r *http.Request, n *identity.Notice) {
			w.p.Tell(rw, r, portal.Notice{Code: string(n.Code), Status: n.Status, Return: n.Return, Missing: n.Missing, RetryAfter: n.RetryAfter})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	origin, _, _ := strings.Cut(strings.TrimPrefix(w.issuer, "http://"), "/")
	w.cfg.Identity, w.cfg.Sessions = w.service, identities{w.service, "http://" + origin}
	if w.cfg.URL, err = url.Parse(w.server.URL); err != nil {
		t.Fatal(err)
	}
	if w.p, err = portal.New(w.cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

// account is a person as the broker knows them.
func (w *world) account(p proof.Pivot, more ...proof.Subject) broker.Account {
	w.t.Helper()
	pivot, err := p.Subject()
	if err != nil {
		w.t.Fatal(err)
	}
	person, err := p.Person().Subject()
	if err != nil {
		w.t.Fatal(err)
	}
	return broker.Account{Pivot: pivot, Subjects: append([]proof.Subject{pivot, person}, more...)}
}

// visitor is a browser in which somebody is signed in.
type visitor struct {
	*http.Client
	w    *real
	who  proof.Pivot
	csrf string
}

func (w *real) visitor(who proof.Pivot) *visitor {
	w.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	v := &visitor{Client: &http.Client{Jar: jar, Transport: w.server.Client().Transport}, w: w, who: who}
	v.confirm(v.get("/connexion/franceconnect?retour=/historique"), who)
	return v
}

var pageID = regexp.MustCompile(`name="page" value="([0-9a-f]+)"`)

// asked reports whether an answer is the identity provider's question who somebody is.
func (a answer) asked() bool {
	return a.Request.URL.Path != "/" && strings.Contains(a.Request.URL.Path, "/api/v2/")
}

// confirm answers that question, and returns where it leads.
func (v *visitor) confirm(a answer, who proof.Pivot) answer {
	v.w.t.Helper()
	m := pageID.FindSubmatch(a.body)
	if m == nil {
		v.w.t.Fatalf("not the identity provider: %s %s\n%s", a.Status, a.Request.URL, a.body)
	}
	a = v.send(http.MethodPost, v.w.issuer+"/choix", url.Values{"page": {string(m[1])}, "personne": {fmt.Sprint(slices.Index(v.w.people, who))}})
	if c := a.all(func(n *html.Node) bool { return n.Data == "input" && attr(n, "name") == "csrf" }); len(c) > 0 {
		v.csrf = attr(c[0], "value")
	}
	return a
}

func (v *visitor) send(method, to string, form url.Values, header ...string) answer {
	v.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		v.w.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := v.Do(r)
	if err != nil {
		v.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{Response: resp}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		v.w.t.Fatal(err)
	}
	if a.doc, err = html.Parse(bytes.NewReader(a.body)); err != nil {
		v.w.t.Fatal(err)
	}
	return a
}

func (v *visitor) get(path string) answer {
	v.w.t.Helper()
	return v.send(http.MethodGet, v.w.server.URL+path, nil)
}

// page is a page that has to be there.
func (v *visitor) page(path string) answer {
	v.w.t.Helper()
	a := v.get(path)
	if a.StatusCode != http.StatusOK || a.asked() {
		v.w.t.Fatalf("%s: %s %s\n%s\n%s", path, a.Status, a.Request.URL, a.body, v.w.logs)
	}
	return a
}

// post sends a form with the token of the session.
func (v *visitor) post(path string, form url.Values) answer {
	v.w.t.Helper()
	if form == nil {
		form = url.Values{}
	}
	form.Set("csrf", v.csrf)
	return v.send(http.MethodPost, v.w.server.URL+path, form)
}

// forged are requests that aren't from a form of this session: each is to be refused.
func (v *visitor) forged(path string, form url.Values) {
	v.w.t.Helper()
	for name, x := range map[string]struct {
		csrf   string
		header []string
	}{"no token": {"", nil}, "a wrong one": {csrfOf("somebody"), nil}, "one without its mask": {base64.RawURLEncoding.EncodeToString(v.forms()[:]), nil}, "another site": {v.csrf, []string{"Sec-Fetch-Site", "cross-site"}}, "another origin": {v.csrf, []string{"Origin", "https://evil.invalid"}}} {
		form.Set("csrf", x.csrf)
		if a := v.send(http.MethodPost, v.w.server.URL+path, form, x.header...); a.StatusCode != http.StatusForbidden || !strings.Contains(a.text(), "Rien n'a été fait") {
			v.w.t.Errorf("%s with %s: %s\n%s", path, name, a.Status, a.text())
		}
	}
}

// mark names an identifier in the visitor's forms.
func (v *visitor) mark(x proof.Subject) string {
	return portal.Mark(&portal.Session{Forms: *v.forms()}, x)
}

// forms is the key under the mask of the token.
func (v *visitor) forms() *identity.FormKey {
	b, err := base64.RawURLEncoding.DecodeString(v.csrf)
	var out identity.FormKey
	if err != nil || subtle.XORBytes(out[:], b[:32], b[32:]) != 32 {
		v.w.t.Fatalf("not a token: %q, %v", v.csrf, err)
	}
	return &out
}

// sameAnswer says whether two answers differ in nothing but the address that they are about.
func sameAnswer(a, b answer, pathA, pathB string) bool {
	x, y := bytes.ReplaceAll(unmasked(a.body), []byte(pathA), nil), bytes.ReplaceAll(unmasked(b.body), []byte(pathB), nil)
	return a.StatusCode == b.StatusCode && bytes.Equal(x, y)
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// eventually waits for a state.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still not: " + what)
		}
	}
}

// consent is the agreement by which the portal's agency may ask about identifiers.
func (w *real) consent() {
	w.t.Helper()
	now := time.Now()
	if _, err := w.b.PutAgreement(w.t.Context(), policy.Agreement{
		ID: "rattachement", Agency: "portail", Service: "statut-etudiant", Scopes: []policy.Scope{"identite"}, Purposes: []policy.Purpose{"espace-personnel"}, LegalBases: []policy.LegalBasis{"consentement"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
	}); err != nil {
		w.t.Fatal(err)
	}
}

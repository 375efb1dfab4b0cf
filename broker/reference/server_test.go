package reference

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
)

// until is a certificate that ends with January of that year.
func until(t testing.TB, year int) tls.Certificate {
	t.Helper()
	return brokertest.NewIdentity(t, day(2020), day(year))
}

func day(year int) time.Time { return time.Date(year, 1, 15, 12, 0, 0, 0, time.UTC) }

// world is the reference provider and a broker's half of the conversation.
type world struct {
	*httptest.Server
	services map[service.ID]*service.Definition
	client   *provider.Client
	access   output.Buffer
	broker   tls.Certificate
	own      tls.Certificate
}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	w := &world{Server: httptest.NewUnstartedServer(nil), services: map[service.ID]*service.Definition{}, broker: until(t, 2100), own: until(t, 2100)}
	base := "https://" + w.Listener.Addr().String()
	cfg := Config{Base: base, Brokers: []*x509.Certificate{w.broker.Leaf}, AccessLog: &w.access, Population: Population{Size: 1000, Seed: 7}, Now: func() time.Time { return day(2026) }}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Config.Handler, w.TLS, w.EnableHTTP2 = s, s.TLS(w.own), true
	w.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.StartTLS()
	t.Cleanup(w.Close)
	all, err := Services(base)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		w.services[v.Definition.ID] = v.Definition
	}
	w.client = w.as(t, w.broker)
	return w
}

func (w *world) as(t testing.TB, c tls.Certificate) *provider.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(w.own.Leaf)
	client, err := provider.New(provider.Config{Certificate: func() (*tls.Certificate, error) { return &c, nil }, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// result is what one question came to.
type result struct {
	verdict service.Verdict
	data    string
	filed   []string
}

func (w *world) ask(t testing.TB, id service.ID, who service.Asked, parameters map[string]string, scopes ...service.Scope) result {
	t.Helper()
	d := w.services[id]
	var fields []service.Pointer
	for s := range d.Scopes {
		if len(scopes) == 0 {
			fields = append(fields, d.ScopeFields(s)...)
		}
	}
	for _, s := range scopes {
		fields = append(fields, d.ScopeFields(s)...)
	}
	plan, err := service.NewPlan(d, fields)
	if err != nil {
		t.Fatal(err)
	}
	r, err := plan.Request(who, parameters)
	if err != nil {
		t.Fatal(err)
	}
	q := provider.Question{Service: d, Request: r, Disclosure: "disclosure-1"}
	a, err := w.client.Ask(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	out := result{verdict: d.Judge(a.Status, a.Body)}
	if out.verdict.Outcome != service.OutcomeAnswer {
		return out
	}
	f, err := plan.Filter(a.Body)
	if err != nil {
		t.Fatalf("%s answers what its definition doesn't allow: %v", id, err)
	}
	if f.Undeclared() > 2 || len(f.Withheld()) > 0 { // links and meta
		t.Errorf("%s: %d undeclared members, withheld %v", id, f.Undeclared(), f.Withheld())
	}
	if d.Select != nil && f.Dropped() > 0 && len(scopes) == 0 {
		t.Errorf("%s: %d values that were not asked for", id, f.Dropped())
	}
	var docs []service.Document
	for _, l := range f.Links() {
		doc, err := w.client.Fetch(context.Background(), q, l)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(doc.Content, []byte("%PDF-1.4")) || !bytes.Contains(doc.Content, []byte("DOCUMENT INVENTE")) {
			t.Error("the document doesn't say that it is invented")
		}
		docs = append(docs, doc)
	}
	b, err := f.Data(docs...)
	if err != nil {
		t.Fatal(err)
	}
	out.data = string(b)
	for _, e := range f.File(who) {
		out.filed = append(out.filed, string(e.Subject.Type())+" "+e.Subject.Value())
	}
	return out
}

func who(t testing.TB, typ service.SubjectType, value string) service.Asked {
	t.Helper()
	a, err := service.NewAsked(typ, value, proof.Pivot{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// identity asks about one of the people.
func identity(t testing.TB, i int) service.Asked {
	t.Helper()
	p := people[i]
	a, err := service.NewAsked("pivot", "", proof.Pivot{BirthName: p.name, GivenNames: p.given, BirthDate: p.date, Sex: p.sex, BirthPlace: p.place, BirthCountry: p.country})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAnswers(t *testing.T) {
	w := newWorld(t, nil)
	year := map[string]string{"annee": "2025"}
	for _, c := range []struct {
		id         service.ID
		who        service.Asked
		parameters map[string]string
		want       string // in the answer
		filed      string
	}{
		{"quotient-familial", identity(t, 0), nil, `"valeur":742`, "pivot EXEMPLE ALPHA|CAMILLE INES|1984-03-14|F|75107|99100; person EXEMPLE BRAVO|LOIC|1982-11-02|M; person EXEMPLE ALPHA|ZOE|2012-06-30|F; person EXEMPLE BRAVO|NOE ELIE|2015-01-09|M"},
		{"quotient-familial", identity(t, 7), map[string]string{"annee": "2025", "mois": "3"}, `"annee":2025`, "pivot EXEMPLE ECHO|AMINA|1988-02-29|F||99350; person EXEMPLE ECHO|SAMI|2008-09-05|M; person EXEMPLE ECHO|LINA|2011-03-21|F; person EXEMPLE ECHO|YANIS|2016-07-07|M"},
		{"revenu-solidarite-active", identity(t, 6), nil, `{"data":{"avec_majoration":false,"date_debut_droit":"2023-11-01","est_beneficiaire":true}}`, "pivot EXEMPLE DELTA|PIERRE MARIE|1975-12-01|M|59350|99100"},
		{"revenu-solidarite-active", identity(t, 25), nil, `"est_beneficiaire":false`, "pivot EXEMPLE SIERRA|ODILE|1979-01-20|F|59350|99100"},
		{"etudiant-boursier", who(t, "ine", "0EXEMPLE05E"), nil, `"echelon":"7"`, "ine 0EXEMPLE05E; person EXEMPLE INDIA|LEA ROSE|2002-07-19|F"},
		{"statut-etudiant", who(t, "ine", "0EXEMPLE02B"), nil, `"date_fin":"2025-06-31"`, "ine 0EXEMPLE02B; person EXEMPLE FOXTROT|JEAN|2001-05-05|"},
		{"statut-demandeur-emploi", who(t, "france_travail", "EX00004D"), nil, `"sexe":"Féminin"`, "france_travail EX00004D; person EXEMPLE OSCAR|DANIELE|1968-06-16|F"},
		{"attestation-fiscale", who(t, "siren", "900000118"), nil, `"media_type":"application/pdf"`, "siren 900000118"},
		{"unites-legales", who(t, "siren", "900000126"), nil, `"sigle":"EXLOG"`, "siren 900000126"},
		{"unites-legales", who(t, "siren", "900000159"), nil, `"type":"personne_physique"`, "siren 900000159; person EXEMPLE VICTOR|MAXIME LAURENT ERIC||M"},
		{"adresse-etablissement", who(t, "siret", "90000013400024"), nil, `"l6":"69001 LYON"`, "siren 900000134"},
		{"revenu-fiscal", identity(t, 27), year, `"revenu_fiscal_reference":41680`, "pivot EXEMPLE UNIFORM|HELENE|1951-12-12|F|33063|99100; person EXEMPLE TANGO|GEORGES|1948-02-02|M"},
		{"revenu-fiscal", identity(t, 4), year, `"nombre_parts":1.5`, "pivot EXEMPLE CHARLIE|ANNE SOPHIE|1990-08-25|F|31555|99100"},
		{"commune", identity(t, 4), nil, `"nom":"Toulouse"`, "pivot EXEMPLE CHARLIE|ANNE SOPHIE|1990-08-25|F|31555|99100"},
		{"commune", who(t, "siret", "90000015900021"), map[string]string{"niveau": "commune"}, `"longitude":7.7675`, "siren 900000159"},
	} {
		got := w.ask(t, c.id, c.who, c.parameters)
		if !strings.Contains(got.data, c.want) {
			t.Errorf("%s: got %+v %s, want %s", c.id, got.verdict, got.data, c.want)
		}
		if diff := cmp.Diff(c.filed, strings.Join(got.filed, "; ")); diff != "" {
			t.Errorf("%s: filed (-want +got):\n%s", c.id, diff)
		}
		if strings.Contains(got.data, w.URL) {
			t.Errorf("%s: passes a link of the provider", c.id)
		}
	}
	for _, c := range []struct {
		id         service.ID
		who        service.Asked
		parameters map[string]string
		outcome    service.Outcome
		cause      string
	}{
		{"quotient-familial", identity(t, 13), nil, service.OutcomeEmpty, "provider/404/37003"},
		{"quotient-familial", identity(t, 2), nil, service.OutcomeEmpty, "provider/404/37003"}, // a child
		{"quotient-familial", identity(t, 0), map[string]string{"annee": "2025"}, service.OutcomeFailed, "provider/422/00422"},
		{"revenu-solidarite-active", identity(t, 11), nil, service.OutcomeEmpty, "provider/404/37003"},
		{"etudiant-boursier", who(t, "ine", "0EXEMPLE07G"), nil, service.OutcomeEmpty, "provider/404/26003"},
		{"statut-etudiant", who(t, "ine", "0EXEMPLE99Z"), nil, service.OutcomeEmpty, "provider/404/25003"},
		{"statut-demandeur-emploi", who(t, "france_travail", "ex00004d"), nil, service.OutcomeEmpty, "provider/404/24003"},
		{"attestation-fiscale", who(t, "siren", "900000142"), nil, service.OutcomeEmpty, "provider/404/03003"},
		{"unites-legales", who(t, "siren", "900000019"), nil, service.OutcomeEmpty, "provider/404/01003"},
		{"revenu-fiscal", identity(t, 0), map[string]string{"annee": "2023"}, service.OutcomeEmpty, "provider/404/09003"},
		{"revenu-fiscal", identity(t, 0), map[string]string{"annee": "2027"}, service.OutcomeFailed, "provider/422/00422"},
		{"commune", identity(t, 0), map[string]string{"niveau": "commune"}, service.OutcomeEmpty, "provider/404/04003"},
	} {
		got := w.ask(t, c.id, c.who, c.parameters)
		if got.verdict.Outcome != c.outcome || got.verdict.Cause != c.cause || got.verdict.Title == "" || got.verdict.Provider == "" {
			t.Errorf("%s %v: got %+v", c.id, c.parameters, got.verdict)
		}
	}
}

func TestSelectionAndLog(t *testing.T) {
	w := newWorld(t, nil)
	w.ask(t, "quotient-familial", identity(t, 0), nil, "quotient")
	w.ask(t, "quotient-familial", identity(t, 0), nil, "adresse")
	w.ask(t, "etudiant-boursier", who(t, "ine", "0EXEMPLE05E"), nil, "email")
	w.ask(t, "unites-legales", who(t, "siren", "900000159"), nil)
	w.ask(t, "etudiant-boursier", who(t, "ine", "0EXEMPLE99Z"), nil, "email")
	text := w.access.String()
	var lines []Access
	for l := range strings.Lines(text) {
		var a Access
		if err := json.Unmarshal([]byte(l), &a); err != nil {
			t.Fatal(err)
		}
		if a.RequestID != "disclosure-1" || !a.Time.Equal(day(2026)) || len(a.Subject) != 16 {
			t.Errorf("line %s", l)
		}
		lines = append(lines, a)
	}
	if len(lines) != 5 {
		t.Fatalf("%d lines", len(lines))
	}
	id := []string{"/data/allocataires/*/date_naissance", "/data/allocataires/*/nom_naissance", "/data/allocataires/*/prenoms", "/data/allocataires/*/sexe",
		"/data/enfants/*/date_naissance", "/data/enfants/*/nom_naissance", "/data/enfants/*/prenoms", "/data/enfants/*/sexe"}
	quotient := append(append([]string{}, id...), "/data/quotient_familial/annee", "/data/quotient_familial/annee_calcul", "/data/quotient_familial/fournisseur",
		"/data/quotient_familial/mois", "/data/quotient_familial/mois_calcul", "/data/quotient_familial/valeur")
	if diff := cmp.Diff(quotient, lines[0].Fields); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"email", "identite"}, lines[2].Fields); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	if lines[3].Fields != nil || lines[4].Status != 404 || lines[0].Subject != lines[1].Subject || lines[0].Subject == lines[2].Subject {
		t.Errorf("log: %s", text)
	}
	for _, s := range []string{"EXEMPLE", "ALPHA", "Camille", "1984", "75107", "900000159"} {
		if strings.Contains(text, s) {
			t.Errorf("the access log says %q", s)
		}
	}
}

// TestOnlyTheBroker: everybody else gets no answer, with a certificate or without.
func TestOnlyTheBroker(t *testing.T) {
	expired := until(t, 2021)
	w := newWorld(t, func(c *Config) { c.Brokers = append(c.Brokers, expired.Leaf) })
	d := w.services["commune"]
	plan, err := service.NewPlan(d, d.Fields())
	if err != nil {
		t.Fatal(err)
	}
	r, err := plan.Request(identity(t, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]tls.Certificate{"stranger": until(t, 2100), "expired": expired} {
		_, err := w.as(t, c).Ask(context.Background(), provider.Question{Service: d, Request: r})
		var e *provider.Error
		if !errors.As(err, &e) || e.Cause != provider.CauseTLS && e.Cause != provider.CauseConnection {
			t.Errorf("%s: got %v", name, err)
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(w.own.Leaf)
	bare := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	if resp, err := bare.Get(r.URL()); err == nil {
		t.Errorf("without a certificate: %s", resp.Status)
	}
	if w.access.String() != "" {
		t.Errorf("the log says %s", w.access.String())
	}
	s, err := New(Config{Base: "https://provider.example", Brokers: []*x509.Certificate{w.broker.Leaf}})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequest("GET", "/v1/geo/commune?code=75107", nil))
	if rec.Code != 403 || strings.Contains(rec.Body.String(), "Paris") {
		t.Errorf("without TLS: %d %s", rec.Code, rec.Body)
	}
	for _, bad := range []Config{{Base: "https://provider.example"}, {Brokers: []*x509.Certificate{w.broker.Leaf}}} {
		if _, err := New(bad); err == nil {
			t.Errorf("accepted %v", bad.Base)
		}
	}
}

func TestOddRequests(t *testing.T) {
	w := newWorld(t, nil)
	roots := x509.NewCertPool()
	roots.AddCert(w.own.Leaf)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{w.broker}}}}
	get := func(method, path string) (int, string) {
		r, err := http.NewRequest(method, w.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/v1/geo/commune?code=75107", 200}, {"POST", "/v1/geo/commune?code=75107", 405}, {"GET", "/", 404}, {"GET", "/documents/", 404}, {"GET", "/documents/x.pdf", 404},
		{"GET", "/v3/cnav/quotient_familial?champs=/data/autre&nomNaissance=EXEMPLE", 422}, {"GET", "/v3/cnous/etudiant_boursier?scopes=rien&ine=0EXEMPLE05E", 422},
		{"GET", "/v3/cnav/quotient_familial", 404}, {"GET", "/v3/dgfip/revenu_fiscal?nomNaissance=EXEMPLE+ALPHA&annee=x", 422},
	} {
		if status, body := get(c.method, c.path); status != c.want || !json.Valid([]byte(body)) {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
	}
}

func TestPopulation(t *testing.T) {
	w := newWorld(t, nil)
	p := Population{Size: 1000, Seed: 7}
	seen := map[string]bool{}
	for n := range 1000 {
		a, err := p.Asked(n)
		if err != nil {
			t.Fatal(err)
		}
		seen[a.Subject().Value()] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d different people", len(seen))
	}
	for _, n := range []int{0, 1, 25, 26, 999} {
		a, _ := p.Asked(n)
		got := w.ask(t, "quotient-familial", a, nil)
		if len(got.filed) != 1 || got.filed[0] != "pivot "+a.Subject().Value() || len(got.data) < 1500 || len(got.data) > 2500 {
			t.Errorf("person %d: %d bytes, filed %v", n, len(got.data), got.filed)
		}
		if got := w.ask(t, "revenu-solidarite-active", a, nil); got.verdict.Outcome != service.OutcomeAnswer {
			t.Errorf("person %d: %+v", n, got.verdict)
		}
	}
	// Nobody beyond the size, and nobody under another's date.
	beyond, _ := p.Asked(1000)
	if got := w.ask(t, "quotient-familial", beyond, nil); got.verdict.Outcome != service.OutcomeEmpty {
		t.Errorf("beyond: %+v", got)
	}
	if p.Pivot(5) != (Population{Size: 10, Seed: 7}).Pivot(5) || p.Pivot(5) == (Population{Size: 10, Seed: 8}).Pivot(5) {
		t.Error("who somebody is doesn't follow from the number and the seed alone")
	}
	if len((Population{}).Pivot(MaxPopulation-1).BirthName) != len("EXEMPLE AAAAA") {
		t.Error("the last name is too long")
	}
}

// TestInvented: everybody says that they are invented, and every identifier has its form.
func TestInvented(t *testing.T) {
	if len(people) != 30 {
		t.Errorf("%d people", len(people))
	}
	for i, p := range people {
		if !strings.Contains(p.name, "EXEMPLE") || p.used != "" && !strings.Contains(p.used, "EXEMPLE") {
			t.Errorf("person %d doesn't say so", i)
		}
		identity(t, i)
		if p.ine != "" {
			who(t, "ine", p.ine)
		}
		if p.jobseeker != "" {
			who(t, "france_travail", p.jobseeker)
		}
	}
	for _, b := range businesses {
		if b.owner < 0 && !strings.Contains(b.name, "EXEMPLE") {
			t.Errorf("business %s doesn't say so", b.siren)
		}
		if !who(t, "siret", b.siret).Subject().Equal(who(t, "siren", b.siren).Subject()) || communeByCode(b.commune) == nil {
			t.Errorf("business %s", b.siren)
		}
	}
	for i := range enrolments {
		if people[i].ine == "" {
			t.Errorf("person %d is enrolled without a number", i)
		}
	}
}

func TestPDF(t *testing.T) {
	b := pdf(`a (b) \ c`)
	at := bytes.LastIndex(b, []byte("startxref\n"))
	var xref int
	if _, err := fmt.Sscanf(string(b[at:]), "startxref\n%d", &xref); err != nil || !bytes.HasPrefix(b[xref:], []byte("xref\n0 6\n")) {
		t.Errorf("no cross-reference table at %d", xref)
	}
	if !bytes.Contains(b, []byte(`(a \(b\) \\ c) Tj`)) {
		t.Error("text is not escaped")
	}
}

// BenchmarkHandler is what one answer costs the provider, without TLS.
func BenchmarkHandler(b *testing.B) {
	w := newWorld(b, func(c *Config) { c.AccessLog = nil })
	a, err := Population{Size: 1000, Seed: 7}.Asked(3)
	if err != nil {
		b.Fatal(err)
	}
	d := w.services["quotient-familial"]
	plan, err := service.NewPlan(d, d.Fields())
	if err != nil {
		b.Fatal(err)
	}
	q, err := plan.Request(a, nil)
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest("GET", q.URL(), nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{w.broker.Leaf}}
	b.ReportAllocs()
	for b.Loop() {
		rec := httptest.NewRecorder()
		w.Config.Handler.ServeHTTP(rec, r)
		if rec.Code != 200 {
			b.Fatal(rec.Code)
		}
	}
}

func BenchmarkServer(b *testing.B) {
	w := newWorld(b, func(c *Config) { c.AccessLog = nil })
	a, err := Population{Size: 1000, Seed: 7}.Asked(3)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		w.ask(b, "quotient-familial", a, nil)
	}
}

package broker_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/brokertest"
)

// wire is a broker behind its real API, as agencies reach it.
type wire struct {
	*watched
	url     string
	roots   *x509.CertPool
	metrics *api.Metrics
}

func newWire(t *testing.T, change func(*broker.Config)) *wire {
	t.Helper()
	w := &wire{watched: newWatched(t, change), roots: x509.NewCertPool(), metrics: api.NewMetrics()}
	yaml, err := os.ReadFile("testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("version: 1", "version: 2", "http://127.0.0.1:1", w.provider.URL,
		"\nparameters:", "\n  nir: {value: nir}\n  siren: {value: siren}\n  siret: {value: siret}\n  ine: {value: ine}\nparameters:\n  - {name: texte, type: text, max_length: 60, title: {fr: Texte, en: Text}}").Replace(string(yaml))
	if _, err := w.b.PutService(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	handler, err := api.New(api.Config{Broker: w.b, Logger: w.cfg.Logger, Metrics: w.metrics, Version: "test", Rate: 1e6, Burst: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	own := brokertest.NewCurrentIdentity(t, "localhost")
	w.roots.AddCert(own.Leaf)
	dir := t.TempDir()
	brokertest.WriteIdentity(t, own, filepath.Join(dir, "cert"), filepath.Join(dir, "key"))
	certs, err := api.LoadCertificates(filepath.Join(dir, "cert"), filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := handler.Listen("127.0.0.1:0", 100, certs)
	if err != nil {
		t.Fatal(err)
	}
	w.url = "https://" + ln.Addr().String()
	done := make(chan error, 1)
	go func() { done <- ln.Serve() }()
	t.Cleanup(func() {
		_ = ln.Shutdown(t.Context()) // which has ended: so it cuts off who is left
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *wire) client(certs ...tls.Certificate) *http.Client {
	cfg := &tls.Config{RootCAs: w.roots, ServerName: "localhost", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if len(certs) == 0 {
			return &tls.Certificate{}, nil
		}
		return &certs[0], nil
	}}
	transport := &http.Transport{TLSClientConfig: cfg}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// said is an answer of the API, with what these tests look at.
type said struct {
	status int
	body   string

	Code, Title, Detail, ID string
	Source                  struct{ Parameter, Header string }
}

func (w *wire) post(c *http.Client, body, idem string) said {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), "POST", w.url+"/v1/disclosures", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if idem != "" {
		req.Header.Set("Idempotency-Key", idem)
	}
	res, err := c.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	s := said{status: res.StatusCode, body: string(b)}
	if err := json.Unmarshal(b, &s); err != nil {
		w.t.Fatalf("%v in %s", err, b)
	}
	return s
}

// agency gives the agency that has the agreement one more certificate, and returns its client.
func (w *wire) agency() *http.Client {
	w.t.Helper()
	id := brokertest.NewCurrentIdentity(w.t, "agency")
	if err := w.b.RotateAgency(w.t.Context(), "mairie", id.Leaf, true); err != nil {
		w.t.Fatal(err)
	}
	return w.client(id)
}

// good is a request that is answered; MARKER stands in everything that is personal.
const good = `{"service":"household","scopes":["quotient"],"purpose":"cantine","legal_basis":"crpa-l114-8","recipient":"21750001600019","context":"CONTEXTMARKER","object":"OBJECTMARKER","official":"OFFICIALMARKER",
"subject":{"type":"pivot","birth_name":"NAMEMARKER","given_names":["GIVENMARKER"],"birth_date":"1984-02-29","sex":"F","birth_place":"75056","birth_country":"99100"},"parameters":{"annee":2024}}`

// TestBadInputOverTheWire sends what is wrong in one member, through the real API to the real broker: a clear 4xx that names the member, nobody is asked, nothing is recorded, and nothing that was sent is
// said again: not in the problem, not in the log, not in the metrics.
func TestBadInputOverTheWire(t *testing.T) {
	t.Parallel()
	w := newWire(t, nil)
	w.provider.answer = couple
	c := w.agency()
	first := w.post(c, good, "MARKER-1")
	if first.status != 200 || !strings.Contains(first.body, "77012") {
		t.Fatalf("a good request: %d %s", first.status, first.body)
	}
	swap := func(old, new string) string {
		t.Helper()
		if strings.Count(good, old) != 1 {
			t.Fatalf("%s doesn't stand once in the request", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	pivot := good[strings.Index(good, `{"type":"pivot"`) : strings.Index(good, `},"parameters"`)+1]
	subject := func(typ, value string) string {
		return swap(pivot, fmt.Sprintf(`{"type":%q,"value":%q}`, typ, value))
	}
	// As long as can be, so that what is refused is the digits and not the type of subject.
	for typ, value := range map[string]string{"siret": "90000101700012", "siren": "900001017", "nir": "255081416802538", "ine": "1234567890A"} {
		if r := w.post(c, subject(typ, value), ""); r.status != 200 {
			t.Fatalf("a good %s: %d %s", typ, r.status, r.body)
		}
	}
	asked, size := len(w.provider.requests()), w.b.Log().Checkpoint().Size()
	for _, x := range []struct {
		name, body, code, at string
		status               int
	}{
		{"malformed", good[:len(good)-1], "request.json.invalid", "", 400},
		{"one byte too many", good + strings.Repeat(" ", 64<<10+1-len(good)), "request.body.large", "", 413},
		{"unknown member", swap(`"object"`, `"MARKER"`), "request.parameter.unknown", "/MARKER", 400},
		{"30 February", swap("1984-02-29", "1984-02-30"), "request.invalid", "/subject", 400},
		{"no leap year", swap("1984-02-29", "1985-02-29"), "request.invalid", "/subject", 400},
		{"month 13", swap("1984-02-29", "1984-13-01"), "request.invalid", "/subject", 400},
		{"French date", swap("1984-02-29", "29/02/1984"), "request.invalid", "/subject", 400},
		{"date with a time", swap("1984-02-29", "1984-02-29T00:00:00Z"), "request.invalid", "/subject", 400},
		{"commune of no department", swap("75056", "00404"), "request.invalid", "/subject", 400},
		{"commune in letters", swap("75056", "2C004"), "request.invalid", "/subject", 400},
		{"postal code and a digit", swap("75056", "750560"), "request.invalid", "/subject", 400},
		{"no country", swap("99100", "FRA"), "request.invalid", "/subject", 400},
		{"country of no kind", swap("99100", "75056"), "request.invalid", "/subject", 400},
		{"sex", swap(`"F"`, `"X"`), "request.invalid", "/subject", 400},
		{"SIRET, check digit", subject("siret", "90000101700013"), "request.invalid", "/subject/value", 400},
		{"SIRET of a SIREN with a wrong one", subject("siret", "90000101800011"), "request.invalid", "/subject/value", 400},
		{"SIREN, check digit", subject("siren", "900001018"), "request.invalid", "/subject/value", 400},
		{"NIR, key", subject("nir", "255081416802539"), "request.invalid", "/subject/value", 400},
		{"NIR with half its key", subject("nir", "25508141680253"), "request.invalid", "/subject/value", 400},
		{"recipient, check digit", swap("21750001600019", "21750001600018"), "request.invalid", "/recipient", 400},
		{"object of 51 characters", swap("OBJECTMARKER", strings.Repeat("é", 51)), "request.invalid", "/object", 400},
		{"another body under the key", swap("OBJECTMARKER", "another"), "idempotency.conflict", "", 409},
		{"NUL in a name", swap("NAMEMARKER", `NAMEMARKER\u0000`), "request.invalid", "/subject/birth_name", 400},
		{"CR LF in a name", swap("NAMEMARKER", `NAMEMARKER\r\nX: y`), "request.invalid", "/subject/birth_name", 400},
		{"NUL in a parameter", swap(`"annee":2024`, `"texte":"MARKER\u0000"`), "request.invalid", "/parameters/texte", 400},
		{"CR LF in a parameter", swap(`"annee":2024`, `"texte":"MARKER\r\nX: y"`), "request.invalid", "/parameters/texte", 400},
		{"path for a year", swap(`2024`, `"../MARKER"`), "request.invalid", "/parameters/annee", 400},
		{"unknown parameter", swap(`"annee"`, `"MARKER"`), "request.invalid", "/parameters", 400},
		{"service", swap("household", "../MARKER"), "service.unknown", "/service", 404},
	} {
		r := w.post(c, x.body, "MARKER-1")
		if r.status != x.status || r.Code != x.code || r.Source.Parameter != x.at || r.Title == "" || r.Detail == "" || r.ID != "" {
			t.Errorf("%s: %d %s", x.name, r.status, r.body)
		}
		if strings.Contains(strings.ReplaceAll(r.body, "/MARKER", ""), "MARKER") || strings.Contains(r.body, "77012") {
			t.Errorf("%s: says again what was sent: %s", x.name, r.body)
		}
	}
	if r := w.post(c, good+strings.Repeat(" ", 64<<10-len(good)), "MARKER-1"); r.status != 200 || r.ID != first.ID {
		t.Errorf("64 KiB, asked again: %d %s", r.status, r.body)
	}
	if n := len(w.provider.requests()) - asked; n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
	if n := w.b.Log().Checkpoint().Size() - size; n != 0 {
		t.Errorf("the log grew by %d", n)
	}
	w.silent()
}

// silent wants nothing that was sent or answered in the log and in the metrics.
func (w *wire) silent() {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.metrics.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(w.t.Context(), "GET", "/metrics", nil))
	if !strings.Contains(rec.Body.String(), "regard_requests_total") {
		w.t.Error("no metrics were read")
	}
	for where, text := range map[string]string{"log": w.text(), "metrics": rec.Body.String()} {
		for _, word := range []string{"MARKER", "77012", "1984-02", "90000101700012", "255081416802538", "1234567890A"} {
			if strings.Contains(text, word) {
				w.t.Errorf("%s holds %q", where, word)
			}
		}
	}
}

// TestStrangersOverTheWire: who shows no certificate, or one that isn't in force, hears why and reaches nothing.
func TestStrangersOverTheWire(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var later atomic.Int64
	w := newWire(t, func(c *broker.Config) {
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	w.provider.answer = couple
	rotated, revoked := brokertest.NewCurrentIdentity(t, "rotated"), brokertest.NewCurrentIdentity(t, "revoked")
	expired := brokertest.NewIdentity(t, now.Add(-2*time.Hour), now.Add(30*time.Second), "expired") // by the broker's clock, once it is later
	for id, cert := range map[string]tls.Certificate{"rotated": rotated, "revoked": revoked, "expired": expired} {
		if err := w.b.AddAgency(t.Context(), id, id, mairie, cert.Leaf); err != nil {
			t.Fatal(err)
		}
	}
	open := w.client(revoked) // on a connection that stays
	if r := w.post(open, good, ""); r.status != 403 || r.Code != "policy.denied" {
		t.Fatalf("before: %d %s", r.status, r.body)
	}
	if err := w.b.RotateAgency(t.Context(), "rotated", brokertest.NewCurrentIdentity(t, "new").Leaf, false); err != nil {
		t.Fatal(err)
	}
	if err := w.b.RevokeAgency(t.Context(), "revoked"); err != nil {
		t.Fatal(err)
	}
	later.Store(int64(time.Minute))
	size := w.b.Log().Checkpoint().Size()
	for name, x := range map[string]struct {
		c    *http.Client
		code string
	}{
		"none":                         {w.client(), "certificate.missing"},
		"unknown":                      {w.client(brokertest.NewCurrentIdentity(t, "unknown")), "certificate.unknown"},
		"expired":                      {w.client(expired), "certificate.expired"},
		"replaced":                     {w.client(rotated), "certificate.unknown"},
		"revoked":                      {w.client(revoked), "certificate.unknown"},
		"revoked, on a connection":     {open, "certificate.unknown"},
		"of the name of somebody else": {w.client(brokertest.NewCurrentIdentity(t, "mairie")), "certificate.unknown"},
	} {
		if r := w.post(x.c, good, ""); r.status != 401 || r.Code != x.code || r.Detail == "" {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if n := w.b.Log().Checkpoint().Size() - size; n != 0 || len(w.provider.requests()) != 0 {
		t.Errorf("the log grew by %d, the provider was asked %d times", n, len(w.provider.requests()))
	}
}

// TestNothingReachesAURLUnescaped: what a caller may write into names and parameters arrives at the provider as the value that it is, and nowhere else.
func TestNothingReachesAURLUnescaped(t *testing.T) {
	t.Parallel()
	w := newWire(t, nil)
	w.provider.answer = couple
	c := w.agency()
	for i, evil := range []string{"../", "../../etc", "..%2f..%2f", "%2e%2e%2f", "%00", "%0d%0aX-Evil: 1", "a&annee=1999", "a#b", "a?b=c", "a;b=c", "a+b", `a\..\b`, "//evil.example/", "@evil.example", "é\u202e", `"<>'`} {
		body := strings.NewReplacer("NAMEMARKER", "A"+strings.ReplaceAll(strings.ReplaceAll(evil, `\`, `\\`), `"`, `\"`), `"annee":2024`, `"texte":`+string(must(json.Marshal(evil)))).Replace(good)
		r := w.post(c, body, "")
		requests := w.provider.requests()
		if len(requests) != i+1 {
			t.Fatalf("%q: %d %s", evil, r.status, r.body)
		}
		got := requests[i]
		path, query, _ := strings.Cut(got.RequestURI, "?")
		q, err := url.ParseQuery(query)
		if err != nil || path != "/household" || q.Get("nomNaissance") != "A"+evil || q.Get("texte") != evil || q.Has("annee") || q.Has("b") {
			t.Errorf("%q arrived as %s", evil, got.RequestURI)
		}
		if strings.ContainsAny(query, `/\#?;@<>"' `) || got.Header.Get("X-Evil") != "" || "http://"+got.Host != w.provider.URL {
			t.Errorf("%q isn't escaped: %s", evil, got.RequestURI)
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

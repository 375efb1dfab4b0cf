package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strconv"
	"strings"
	"testing"
	"time"

	"crypto/tls"
	"crypto/x509"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/ledger/proof"
)

func TestDisclose(t *testing.T) {
	s := start(t, nil)
	for _, h2 := range []bool{false, true} {
		c := s.clientOf(h2, s.mine)
		r := s.do(t, c, "POST", "/v1/disclosures", question, "Idempotency-Key", "k1", "X-Request-ID", "their-id",
			"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		if r.status != 200 || (r.proto == "HTTP/2.0") != h2 {
			t.Fatalf("got %d %s: %s", r.status, r.proto, r.body)
		}
		// The data's bytes are the provider's, to the last space.
		if !strings.HasSuffix(r.body, `,"data":`+data+"}\n") {
			t.Errorf("data were changed: %s", r.body)
		}
		var a answerBody
		if err := json.Unmarshal([]byte(r.body), &a); err != nil {
			t.Fatal(err)
		}
		want := answerBody{ID: "01935a11-2233-7444-8555-66778899aabb", Outcome: "released", AskedAt: "2023-11-14T22:13:20.123Z", Reasons: []reasonBody{}, ReceiptState: "provisional", Receipt: "regard/receipt@v1\nsays \"é\"\n", Data: json.RawMessage(data)}
		if d := cmp.Diff(want, a); d != "" {
			t.Error(d)
		}
		for h, want := range map[string]string{"X-Request-Id": "their-id", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Type": "application/json", "Ratelimit-Limit": "200"} {
			if got := r.header.Get(h); got != want {
				t.Errorf("%s: got %q, want %q", h, got, want)
			}
		}
		if id := r.header.Get("Regard-Request-Id"); id == "" || id == "their-id" || !strings.Contains(s.logged(t), id) {
			t.Errorf("our own id %q is not in the log", id)
		}
	}
	req := s.asked[0]
	want := &broker.Request{
		Service: "svc", Scopes: []string{"a", "b"}, Purpose: "aid", LegalBasis: "law", Recipient: "13002526500013", Context: "secret-context", Object: "secret-object",
		Subject:    broker.SubjectInput{Type: "pivot"},
		Parameters: map[string]string{"year": "2026", "months": "1,2", "quote": "é😀"}, IdempotencyKey: "k1", TraceID: "0af7651916cd43dd8448eb211c80319c",
	}
	want.Subject.Pivot.BirthName, want.Subject.Pivot.GivenNames, want.Subject.Pivot.BirthDate = "FIXTUREPERSON", "Ada Zoé", "1990-01-02"
	want.Subject.Pivot.Sex, want.Subject.Pivot.BirthPlace, want.Subject.Pivot.BirthCountry = "F", "75056", "99100"
	// cmp would print through String, which is redacted; compare by ==.
	if req.Subject != want.Subject {
		t.Error("the subject is not the one that was sent")
	}
	req.Subject, want.Subject = broker.SubjectInput{}, broker.SubjectInput{}
	if d := cmp.Diff(want, req, cmp.Comparer(func(a, b broker.SubjectInput) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

// No log line and no metric may hold what a caller sent, but for registered ids.
func TestNothingPersonalIsLogged(t *testing.T) {
	s := start(t, nil)
	c := s.client(s.mine)
	s.do(t, c, "POST", "/v1/disclosures", question, "X-Request-ID", "FIXTUREPERSON-1", "Idempotency-Key", "FIXTUREPERSON")
	s.do(t, c, "POST", "/v1/disclosures", strings.Replace(question, `"service"`, `"FIXTUREPERSON"`, 1))
	s.do(t, c, "GET", "/v1/disclosures/FIXTUREPERSON?FIXTUREPERSON", "")
	s.do(t, c, "GET", "/FIXTUREPERSON", "")
	s.disclose = func(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error) { panic("FIXTUREPERSON") }
	s.do(t, c, "POST", "/v1/disclosures", question)
	log := s.logged(t)
	metrics := s.scrape()
	if !strings.Contains(metrics, `regard_requests_total{code="",outcome="released",path="/v1/disclosures",status="200"} 1`) {
		t.Errorf("no count in %s", metrics)
	}
	for _, secret := range []string{"FIXTUREPERSON", "secret-context", "secret-object", "Ada", "1990-01-02"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %q:\n%s", secret, log)
		}
		if strings.Contains(metrics, secret) {
			t.Errorf("the metrics hold %q", secret)
		}
	}
	for _, want := range []string{`"agency":"mine"`, `"service":"svc"`, `"disclosure":"01935a11-2233-7444-8555-66778899aabb"`, `"outcome":"released"`, `"code":"request.parameter.unknown"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
}

func TestCertificates(t *testing.T) {
	s := start(t, nil)
	now := time.Now()
	expired := brokertest.NewIdentity(t, now.Add(-2*time.Hour), now.Add(-time.Hour), "x")
	future := brokertest.NewIdentity(t, now.Add(time.Hour), now.Add(2*time.Hour), "x")
	revoked, unknown := valid(t, "x"), valid(t, "x")
	for _, c := range []tls.Certificate{expired, future, revoked} {
		s.setAgency(c, broker.Caller{ID: "other"})
	}
	for _, x := range []struct {
		name  string
		certs []tls.Certificate
		code  string
	}{
		{"none", nil, "certificate.missing"}, {"unknown", []tls.Certificate{unknown}, "certificate.unknown"},
		{"expired", []tls.Certificate{expired}, "certificate.expired"}, {"not yet valid", []tls.Certificate{future}, "certificate.expired"},
	} {
		for _, req := range [][2]string{{"POST", "/v1/disclosures"}, {"GET", "/v1/services"}, {"GET", "/v1/whoami"}, {"GET", "/v1/disclosures/01935a11-2233-7444-8555-66778899aabb"}} {
			r := s.do(t, s.client(x.certs...), req[0], req[1], question)
			wantProblem(t, x.name, r, 401, x.code)
		}
	}
	if len(s.asked) > 0 {
		t.Error("the broker was asked")
	}

	// Revocation on a connection that is open: the very next request, and the same bytes as for a key that was never registered.
	c := s.client(revoked)
	if r := s.do(t, c, "GET", "/v1/whoami", ""); r.status != 200 {
		t.Fatalf("before: %d %s", r.status, r.body)
	}
	s.setAgency(revoked, broker.Caller{})
	after := s.do(t, c, "GET", "/v1/whoami", "")
	never := s.do(t, s.client(unknown), "GET", "/v1/whoami", "")
	wantProblem(t, "revoked", after, 401, "certificate.unknown")
	if after.body != never.body {
		t.Errorf("revoked and unknown differ:\n%s%s", after.body, never.body)
	}
	if r := s.do(t, s.client(), "GET", "/openapi.json", ""); r.status != 200 {
		t.Errorf("openapi.json: %d", r.status)
	}
}

// A TLS session can't be resumed without showing the key again, and old protocols are refused.
func TestHandshake(t *testing.T) {
	s := start(t, nil)
	cache := tls.NewLRUClientSessionCache(10)
	for i := range 2 {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.ca, ServerName: "localhost", ClientSessionCache: cache, Certificates: []tls.Certificate{s.mine}})
		if err != nil {
			t.Fatal(err)
		}
		if conn.ConnectionState().DidResume {
			t.Errorf("connection %d was resumed", i)
		}
		fmt.Fprint(conn, "GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if b, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200") {
			t.Errorf("got %q, %v", b, err)
		}
		conn.Close()
	}
	if _, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.ca, ServerName: "localhost", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	if _, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.ca, ServerName: "localhost", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}); err == nil {
		t.Error("CBC was accepted")
	}
}

func wantProblem(t *testing.T, name string, r reply, status int, code string) problemBody {
	t.Helper()
	var p problemBody
	d := json.NewDecoder(strings.NewReader(r.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Fatalf("%s: %v in %s", name, err, r.body)
	}
	if r.status != status || p.Status != status || p.Code != code || p.Type != problemType+code || p.Title == "" || p.Detail == "" || r.header.Get("Content-Type") != "application/problem+json" || r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: got %d %v %s, want %d %s", name, r.status, r.header, r.body, status, code)
	}
	return p
}

// Of another agency's disclosure, an unknown one and something that is no id, one learns the same.
func TestExistenceIsNotRevealed(t *testing.T) {
	s := start(t, nil)
	other := valid(t, "other")
	s.setAgency(other, broker.Caller{ID: "other"})
	const id = "/v1/disclosures/01935a11-2233-7444-8555-66778899aabb"
	if r := s.do(t, s.client(s.mine), "GET", id, ""); r.status != 200 {
		t.Fatalf("own: %d %s", r.status, r.body)
	}
	foreign := s.do(t, s.client(other), "GET", id, "")
	wantProblem(t, "foreign", foreign, 404, "disclosure.unknown")
	for _, path := range []string{"/v1/disclosures/01935a11-2233-7444-8555-66778899aabc", "/v1/disclosures/x", "/v1/disclosures/01935A11-2233-7444-8555-66778899AABB"} {
		if r := s.do(t, s.client(s.mine), "GET", path, ""); r.body != foreign.body || r.status != 404 {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

func TestOutcomes(t *testing.T) {
	s := start(t, nil)
	c := s.client(s.mine)
	denied := released()
	denied.Outcome, denied.Data, denied.Reasons, denied.State = broker.Denied, nil, denial, proof.Witnessed
	denied.Problem = &broker.Problem{Status: 403, Code: "policy.denied", Title: "Refused.", Detail: "See reasons."}
	s.disclose = func(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error) { return denied, nil }
	for lang, want := range map[string]string{"": "L’accord a expiré.", "de, fr;q=0.5, en;q=0.4": "L’accord a expiré.", "en-GB,en;q=0.9": "The agreement has expired.", "en;q=2, *;q=0.1": "L’accord a expiré."} {
		p := wantProblem(t, "denied", s.do(t, c, "POST", "/v1/disclosures", question, "Accept-Language", lang), 403, "policy.denied")
		if d := cmp.Diff([]reasonBody{{"agreement.no_longer_valid", want}}, p.Reasons); d != "" {
			t.Errorf("%q: %s", lang, d)
		}
		if p.ReceiptState != "witnessed" || p.Receipt == "" || p.Outcome != "denied" || p.ID == "" {
			t.Errorf("not as recorded: %+v", p)
		}
	}
	s.record = denied
	r := s.do(t, c, "GET", "/v1/disclosures/01935a11-2233-7444-8555-66778899aabb", "")
	var rec recordBody
	if err := json.Unmarshal([]byte(r.body), &rec); err != nil || r.status != 200 || rec.Outcome != "denied" || rec.Problem == nil || rec.Problem.Status != 403 || rec.Problem.Code != "policy.denied" {
		t.Errorf("record of a denial: %d %s %v", r.status, r.body, err)
	}
	for _, x := range []struct {
		name, code string
		status     int
		err        error
		answer     *broker.Answer
	}{
		{"internal", "internal", 500, errors.New("with a secret-context in it"), nil},
		{"wrapped problem", "log.unavailable", 503, fmt.Errorf("x: %w", &broker.Problem{Status: 503, Code: "log.unavailable", Title: "x", Detail: "y", RetryAfter: 1500 * time.Millisecond}), nil},
		{"not a status", "internal", 500, &broker.Problem{Status: 200, Code: "x", Title: "x", Detail: "y"}, nil},
		{"released without data", "internal", 500, nil, &broker.Answer{ID: answerID, Outcome: broker.Released, Receipt: []byte("r")}},
		{"released with broken data", "internal", 500, nil, &broker.Answer{ID: answerID, Outcome: broker.Released, Receipt: []byte("r"), Data: []byte(`{"a":`)}},
		{"released without a receipt", "internal", 500, nil, &broker.Answer{ID: answerID, Outcome: broker.Released, Data: []byte(`{}`)}},
		{"failed without a problem", "internal", 500, nil, &broker.Answer{ID: answerID, Outcome: broker.Failed}},
		{"gone", "answer.gone", 410, nil, &broker.Answer{ID: answerID, Outcome: broker.Released, Gone: true, Data: []byte("{}"), Problem: &broker.Problem{Status: 410, Code: "answer.gone", Title: "x", Detail: "y"}}},
	} {
		s.disclose = func(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error) { return x.answer, x.err }
		r := s.do(t, c, "POST", "/v1/disclosures", question)
		wantProblem(t, x.name, r, x.status, x.code)
		if strings.Contains(r.body, "secret") || strings.Contains(r.body, `"data"`) {
			t.Errorf("%s: %s", x.name, r.body)
		}
		if x.name == "wrapped problem" && r.header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
		}
	}
}

// TestStoppingEndsTheConnection: whoever is told to come again doesn't come to the same broker by the same connection.
func TestStoppingEndsTheConnection(t *testing.T) {
	s := start(t, nil)
	s.disclose = func(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error) {
		return nil, &broker.Problem{Status: 503, Code: broker.CodeStopping, Title: "x", Detail: "y", RetryAfter: time.Second}
	}
	for _, h2 := range []bool{false, true} {
		c := s.clientOf(h2, s.mine)
		reused := func() (again bool) {
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { again = i.Reused }})
			req, err := http.NewRequestWithContext(ctx, "GET", "https://"+s.addr+"/v1/whoami", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			return again
		}
		if reused(); !reused() {
			t.Fatalf("h2 %v: a connection isn't used again", h2)
		}
		wantProblem(t, "stopping", s.do(t, c, "POST", "/v1/disclosures", question), 503, broker.CodeStopping)
		for deadline := time.Now().Add(time.Minute); reused(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("h2 %v: the connection is used on", h2)
			}
		}
	}
}

// gone is a caller who leaves while an answer is written: Write fails, and net/http goes on reading what it was given, as it does for HTTP/2 when the stream is reset.
type gone struct {
	http.ResponseWriter
	held []byte
}

func (g *gone) Write(b []byte) (int, error) {
	g.held = b
	return 0, errors.New("stream closed")
}

// TestAnswerOfACallerWhoLeft: the memory of an answer that couldn't be written is nobody else's answer.
func TestAnswerOfACallerWhoLeft(t *testing.T) {
	mine := valid(t, "mine")
	a, err := New(Config{Broker: &instant{caller: broker.Caller{ID: "mine"}, answer: bigAnswer()}, Rate: 1e9, Burst: 1e9})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 { // a pool may drop what it is given
		w := &gone{ResponseWriter: httptest.NewRecorder()}
		r := httptest.NewRequest("POST", "/v1/disclosures", strings.NewReader(question))
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{mine.Leaf}}
		r.Header["Content-Type"] = asJSON
		a.ServeHTTP(w, r)
		if !bytes.Contains(w.held, bigAnswer().Data) {
			t.Fatalf("what is still being sent was overwritten: %.40q", w.held)
		}
	}
}

func TestPanic(t *testing.T) {
	s := start(t, nil)
	s.disclose = func(_ context.Context, _ broker.Caller, r *broker.Request) (*broker.Answer, error) {
		panic("about " + r.Subject.Pivot.BirthName)
	}
	c := s.client(s.mine)
	wantProblem(t, "panic", s.do(t, c, "POST", "/v1/disclosures", question), 500, "internal")
	if r := s.do(t, c, "GET", "/v1/whoami", ""); r.status != 200 {
		t.Errorf("after a panic: %d", r.status)
	}
	if log := s.logged(t); !strings.Contains(log, `"msg":"panic"`) || strings.Contains(log, "FIXTUREPERSON") || !strings.Contains(log, "TestPanic") {
		t.Errorf("log: %s", log)
	}
}

func TestBadRequests(t *testing.T) {
	s := start(t, nil)
	c := s.client(s.mine)
	swap := func(old, new string) string {
		if !strings.Contains(question, old) {
			t.Fatalf("no %s in the question", old)
		}
		return strings.Replace(question, old, new, 1)
	}
	for _, x := range []struct {
		name, body, code, at string
		status               int
		header               []string
	}{
		{"empty", "", "request.invalid", "", 400, nil},
		{"not JSON", "<xml/>", "request.invalid", "", 400, nil},
		{"array", "[]", "request.invalid", "", 400, nil},
		{"null", "null", "request.invalid", "", 400, nil},
		{"truncated", question[:len(question)-2], "request.json.invalid", "", 400, nil},
		{"trailing object", question + "{}", "request.json.invalid", "", 400, nil},
		{"trailing NUL", question + "\x00", "request.json.invalid", "", 400, nil},
		{"byte order mark", "\ufeff" + question, "request.invalid", "", 400, nil},
		{"comment", "/* */" + question, "request.invalid", "", 400, nil},
		{"trailing comma", swap(`"object":"secret-object",`, `"object":"x",,`), "request.json.invalid", "", 400, nil},
		{"unknown member", swap(`"purpose"`, `"porpoise"`), "request.parameter.unknown", "/porpoise", 400, nil},
		{"another case", swap(`"purpose"`, `"Purpose"`), "request.parameter.unknown", "/Purpose", 400, nil},
		{"unknown in subject", swap(`"sex"`, `"a/b~c"`), "request.parameter.unknown", "/subject/a~1b~0c", 400, nil},
		{"duplicate", swap(`"purpose":"aid"`, `"purpose":"aid","purpose":"aid"`), "request.parameter.duplicate", "/purpose", 400, nil},
		{"duplicate by escape", swap(`"purpose":"aid"`, `"purpose":"aid","\u0070urpose":"aid"`), "request.parameter.duplicate", "/purpose", 400, nil},
		{"duplicate in subject", swap(`"sex":"F"`, `"sex":"F","sex":"M"`), "request.parameter.duplicate", "/subject/sex", 400, nil},
		{"duplicate parameter", swap(`"year":2026`, `"year":1,"year":2`), "request.parameter.duplicate", "/parameters/year", 400, nil},
		{"number for text", swap(`"purpose":"aid"`, `"purpose":1`), "request.invalid", "/purpose", 400, nil},
		{"null for text", swap(`"purpose":"aid"`, `"purpose":null`), "request.invalid", "/purpose", 400, nil},
		{"text for list", swap(`["a","b"]`, `"a"`), "request.invalid", "/scopes", 400, nil},
		{"number in list", swap(`["a","b"]`, `["a",2]`), "request.invalid", "/scopes/1", 400, nil},
		{"object parameter", swap(`"year":2026`, `"year":{"a":1}`), "request.invalid", "/parameters/year", 400, nil},
		{"boolean parameter", swap(`"year":2026`, `"year":true`), "request.invalid", "/parameters/year", 400, nil},
		{"exponent", swap(`"year":2026`, `"year":2e3`), "request.invalid", "/parameters/year", 400, nil},
		{"leading zero", swap(`"year":2026`, `"year":02026`), "request.json.invalid", "", 400, nil},
		{"comma in an item", swap(`["1",2]`, `["1,2"]`), "request.invalid", "/parameters/months/0", 400, nil},
		{"broken UTF-8", swap("secret-object", "\xff"), "request.json.invalid", "", 400, nil},
		{"overlong UTF-8", swap("secret-object", "\xc0\xaf"), "request.json.invalid", "", 400, nil},
		{"UTF-8 surrogate", swap("secret-object", "\xed\xa0\x80"), "request.json.invalid", "", 400, nil},
		{"half a surrogate pair", swap("secret-object", `\ud83d`), "request.json.invalid", "", 400, nil},
		{"reversed pair", swap("secret-object", `\ude00\ud83d`), "request.json.invalid", "", 400, nil},
		{"raw line feed", swap("secret-object", "a\nb"), "request.invalid", "/object", 400, nil},
		{"escaped NUL", swap("secret-object", `a\u0000b`), "request.invalid", "/object", 400, nil},
		{"escaped line feed", swap("secret-object", `a\nb`), "request.invalid", "/object", 400, nil},
		{"DEL", swap("secret-object", "a\x7fb"), "request.invalid", "/object", 400, nil},
		{"C1 control", swap("secret-object", "a\u0085b"), "request.invalid", "/object", 400, nil},
		{"bad escape", swap("secret-object", `\x`), "request.json.invalid", "", 400, nil},
		{"no subject", `{"service":"svc"}`, "request.parameter.missing", "/subject", 400, nil},
		{"no type", `{"subject":{}}`, "request.parameter.missing", "/subject/type", 400, nil},
		{"no value", `{"subject":{"type":"nir"}}`, "request.parameter.missing", "/subject/value", 400, nil},
		{"value and pivot", swap(`"sex":"F"`, `"value":"x"`), "request.invalid", "/subject/value", 400, nil},
		{"pivot member of a NIR", `{"subject":{"type":"nir","value":"1","sex":"F"}}`, "request.invalid", "/subject/sex", 400, nil},
		{"long text", swap("secret-object", strings.Repeat("a", maxText+1)), "request.invalid", "/object", 400, nil},
		{"long name", swap(`"year"`, `"`+strings.Repeat("a", maxName+1)+`"`), "request.invalid", "/parameters", 400, nil},
		{"deep", strings.Repeat(`{"subject":`, 5000), "request.parameter.unknown", "/subject/subject", 400, nil},
		{"too large", question + strings.Repeat(" ", 64<<10), "request.body.large", "", 413, nil},
		{"form", question, "request.body.type", "", 415, []string{"Content-Type", "", "Content-Type", "application/x-www-form-urlencoded"}},
		{"no type of body", question, "request.body.type", "", 415, []string{"Content-Type", ""}},
		{"latin 1", question, "request.body.type", "", 415, []string{"Content-Type", "", "Content-Type", "application/json; charset=iso-8859-1"}},
		{"gzip", question, "request.body.type", "", 415, []string{"Content-Encoding", "gzip"}},
		{"long key", question, "idempotency.invalid", "", 400, []string{"Idempotency-Key", strings.Repeat("k", 256)}},
		{"key not ASCII", question, "idempotency.invalid", "", 400, []string{"Idempotency-Key", "é"}},
		{"key with a space", question, "idempotency.invalid", "", 400, []string{"Idempotency-Key", "a b"}},
		{"two keys", question, "idempotency.invalid", "", 400, []string{"Idempotency-Key", "a", "Idempotency-Key", "b"}},
	} {
		r := s.do(t, c, "POST", "/v1/disclosures", x.body, x.header...)
		p := wantProblem(t, x.name, r, x.status, x.code)
		at := ""
		if p.Source != nil {
			at = p.Source.Parameter
		}
		if at != x.at {
			t.Errorf("%s: at %q, want %q", x.name, at, x.at)
		}
		if x.code == "idempotency.invalid" && (p.Source == nil || p.Source.Header != "Idempotency-Key") {
			t.Errorf("%s: %s", x.name, r.body)
		}
	}
	if len(s.asked) > 0 {
		t.Errorf("the broker was asked %d times", len(s.asked))
	}
	wantProblem(t, "path", s.do(t, c, "GET", "/v2/x", ""), 404, "path.unknown")
	r := s.do(t, c, "DELETE", "/v1/disclosures", "")
	wantProblem(t, "method", r, 405, "method.unknown")
	if r.header.Get("Allow") != "POST" {
		t.Errorf("Allow: %q", r.header.Get("Allow"))
	}
}

// A body without a length is cut off at the limit, too.
func TestChunkedBody(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxBody = 4 << 10 })
	req, err := http.NewRequest("POST", "https://"+s.addr+"/v1/disclosures", io.MultiReader(strings.NewReader(question), strings.NewReader(strings.Repeat(" ", 8<<10))))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	res, err := s.client(s.mine).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 413 || len(s.asked) > 0 {
		t.Errorf("got %d", res.StatusCode)
	}
}

// Over HTTP/2 a refusal that came before the end of the body was followed by RST_STREAM, and curl then lost the problem (exit code 18). It also named Connection,
// which HTTP/2 doesn't have. Frames are written here by hand, because Go's own client forgives both.
func TestRefusedBodyOverHTTP2(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxBody = 4 << 10 })
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.ca, ServerName: "localhost", Certificates: []tls.Certificate{s.mine}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat(" ", 16<<10)
	var headers bytes.Buffer
	enc := hpack.NewEncoder(&headers)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/v1/disclosures"}, {"content-type", "application/json"}, {"content-length", strconv.Itoa(len(body))}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	err = errors.Join(f.WriteSettings(), f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers.Bytes(), EndHeaders: true}), f.WritePing(false, [8]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	var answer []byte
	for done := false; !done; {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("after %q: %v", answer, err)
		}
		switch x := frame.(type) {
		case *http2.PingFrame: // the headers were read, the body is still to come
			if err := f.WriteData(1, true, []byte(body)); err != nil {
				t.Fatal(err)
			}
		case *http2.MetaHeadersFrame:
			if x.PseudoValue("status") != "413" {
				t.Errorf("status %s", x.PseudoValue("status"))
			}
			for _, h := range x.RegularFields() {
				if h.Name == "connection" {
					t.Error("there is no Connection in HTTP/2")
				}
			}
		case *http2.DataFrame:
			answer = append(answer, x.Data()...)
			done = x.StreamEnded()
		case *http2.RSTStreamFrame:
			t.Fatalf("the stream was reset (%v) after %q", x.ErrCode, answer)
		}
	}
	if !bytes.Contains(answer, []byte(`"code":"request.body.large"`)) {
		t.Errorf("the answer: %s", answer)
	}
	// What follows on the connection must not be a reset of this stream either: curl sees it before it hands out the answer.
	if err := f.WritePing(false, [8]byte{2}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := frame.(*http2.RSTStreamFrame); ok {
			t.Fatal("the stream was reset after its answer")
		}
		if _, ok := frame.(*http2.PingFrame); ok {
			return
		}
	}
}

// raw sends bytes over TLS as they are and returns what comes back until the end.
func (s *server) raw(t *testing.T, text string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.ca, ServerName: "localhost", Certificates: []tls.Certificate{s.mine}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrUnexpectedEOF) && len(b) == 0 {
		t.Fatal(err)
	}
	return string(b)
}

func TestHeaderInjection(t *testing.T) {
	s := start(t, nil)
	for _, x := range []struct{ name, id string }{
		{"encoded line feed", "a%0d%0aSet-Cookie: x=1"}, {"bare carriage return", "a\rSet-Cookie: x=1"}, {"bare line feed", "a\nSet-Cookie: x=1"}, {"NUL", "a\x00Set-Cookie: x=1"},
		{"quote", `a"b`}, {"long", strings.Repeat("a", 129)}, {"not ASCII", "é"},
	} {
		got := s.raw(t, "GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-ID: "+x.id+"\r\n\r\n")
		head, _, _ := strings.Cut(got, "\r\n\r\n")
		if strings.Contains(head, "Set-Cookie") || strings.Contains(head, x.id) {
			t.Errorf("%s: %q", x.name, head)
		}
	}
	// Smuggling: a body length that is said twice, and a chunked body with a length.
	for _, h := range []string{"Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked, identity\r\n"} {
		got := s.raw(t, "POST /v1/disclosures HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"+h+"\r\n0\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 400") && !strings.HasPrefix(got, "HTTP/1.1 501") {
			t.Errorf("%q: %q", h, got)
		}
	}
	if got := s.raw(t, "GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\nX-A: "+strings.Repeat("a", 64<<10)+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("large header: %.100q", got)
	}
}

// A client that sends its body too slowly gets an answer and holds no place meanwhile; one that reads the header slowly is cut off.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *Config) { c.Read = 300 * time.Millisecond; c.InFlight = 1 })
	slow := make(chan string, 1)
	go func() {
		slow <- s.raw(t, "POST /v1/disclosures HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{")
	}()
	if r := s.do(t, s.client(s.mine), "POST", "/v1/disclosures", question); r.status != 200 {
		t.Errorf("beside a slow client: %d %s", r.status, r.body)
	}
	if got := <-slow; !strings.HasPrefix(got, "HTTP/1.1 408") || !strings.Contains(got, "request.body.incomplete") {
		t.Errorf("got %q", got)
	}
	if got := s.raw(t, "GET /v1/whoami HTTP/1.1\r\nHost:"); strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("half a header: %q", got)
	}
}

// A provider may take longer than a body may, and so may the proof of an earlier disclosure, which is asked for without one: the read deadline must not cut the wait.
func TestSlowBroker(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *Config) { c.Read = 100 * time.Millisecond })
	s.wait = 400 * time.Millisecond
	s.disclose = func(ctx context.Context, _ broker.Caller, _ *broker.Request) (*broker.Answer, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(400 * time.Millisecond):
			return released(), nil
		}
	}
	for _, h2 := range []bool{false, true} {
		c := s.clientOf(h2, s.mine)
		for range 2 {
			if r := s.do(t, c, "POST", "/v1/disclosures", question); r.status != 200 {
				t.Errorf("h2 %v: %d %s", h2, r.status, r.body)
			}
			if r := s.do(t, c, "GET", "/v1/disclosures/"+formatID(answerID), ""); r.status != 200 {
				t.Errorf("h2 %v, without a body: %d %s", h2, r.status, r.body)
			}
		}
	}
}

func TestInFlight(t *testing.T) {
	s := start(t, func(c *Config) { c.InFlight = 1 })
	in, out := make(chan bool), make(chan bool)
	s.disclose = func(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error) {
		in <- true
		<-out
		return released(), nil
	}
	c := s.client(s.mine)
	first := make(chan reply, 1)
	go func() { first <- s.do(t, c, "POST", "/v1/disclosures", question) }()
	<-in
	r := s.do(t, c, "POST", "/v1/disclosures", question)
	wantProblem(t, "busy", r, 503, "busy")
	if r.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
	}
	out <- true
	if r := <-first; r.status != 200 {
		t.Errorf("the first: %d", r.status)
	}
}

func TestRate(t *testing.T) {
	now := time.Unix(1700000000, 0)
	s := start(t, func(c *Config) { c.Rate, c.Burst = 0.5, 2; c.Now = func() time.Time { return now } })
	other := valid(t, "other")
	s.setAgency(other, broker.Caller{ID: "other"})
	c := s.client(s.mine)
	for i, want := range []struct {
		status           int
		left, reset, try string
	}{{200, "1", "2", ""}, {200, "0", "4", ""}, {429, "0", "4", "2"}} {
		r := s.do(t, c, "GET", "/v1/whoami", "")
		h := r.header
		if r.status != want.status || h.Get("Ratelimit-Limit") != "2" || h.Get("Ratelimit-Remaining") != want.left || h.Get("Ratelimit-Reset") != want.reset || h.Get("Retry-After") != want.try {
			t.Errorf("request %d: %d %v", i, r.status, h)
		}
		if r.status == 429 {
			wantProblem(t, "rate", r, 429, "rate.exceeded")
		}
	}
	if r := s.do(t, s.client(other), "GET", "/v1/whoami", ""); r.status != 200 {
		t.Errorf("another agency: %d", r.status)
	}
}

func TestTraceparent(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for h, want := range map[string]string{
		"00-" + id + "-b7ad6b7169203331-01": id, "01-" + id + "-b7ad6b7169203331-01-more": id, "00-" + id + "-b7ad6b7169203331-01-more": "", "ff-" + id + "-b7ad6b7169203331-01": "",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": "", "00-" + id + "-0000000000000000-01": "", "00-" + strings.ToUpper(id) + "-b7ad6b7169203331-01": "", "": "", id: "", "00-" + id + "-b7ad6b7169203331-0g": "", "01-" + id + "-b7ad6b7169203331-01more": "",
	} {
		if got := traceID(h); got != want {
			t.Errorf("%q: got %q", h, got)
		}
	}
}

// A provider's own code is passed to the agency; types, logs and metrics get none of it.
func TestKind(t *testing.T) {
	for code, want := range map[string]string{"provider/timeout": "provider/timeout", "provider/504/37002": "provider/504", "37003": "provider/404", "Jean MARTIN": "provider/404", "provider/Jean MARTIN": "provider/404", "provider.empty": "provider.empty", "provider.DUPONT-1984": "provider/404", "provider.empty.1984": "provider/404", "provider.": "provider/404", "interrupted": "provider/404"} {
		if got := kind(&broker.Problem{Status: 404, Code: code, Provider: "p"}); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
	}
	if got := kind(&broker.Problem{Status: 404, Code: "service.unknown"}); got != "service.unknown" {
		t.Errorf("ours: %s", got)
	}
	for _, code := range []string{"FIXTUREPERSON", "provider.FIXTUREPERSON-1984"} {
		s := start(t, nil)
		s.disclose = func(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error) {
			a := released()
			a.Outcome, a.Data, a.Problem = broker.Empty, nil, &broker.Problem{Status: 404, Code: code, Title: "FIXTUREPERSON is unknown.", Detail: "x", Provider: "p"}
			return a, nil
		}
		r := s.do(t, s.client(s.mine), "POST", "/v1/disclosures", question)
		if !strings.Contains(r.body, `"code":"`+code+`"`) || !strings.Contains(r.body, `"type":"urn:regard:problem:provider/404"`) || strings.Contains(s.logged(t), "FIXTURE") {
			t.Errorf("%s\n%s", r.body, s.log)
		}
	}
}

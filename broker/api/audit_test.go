package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
)

// fakeAuditing keeps what it was asked and answers err, or something.
type fakeAuditing struct {
	asked []any
	err   error
}

func (f *fakeAuditing) answer(v any) (*broker.Openings, error) {
	f.asked = append(f.asked, v)
	if f.err != nil {
		return nil, f.err
	}
	return &broker.Openings{Next: 9, Entries: []broker.OpenedEntry{
		{Index: 3, Kind: proof.KindDisclosure, State: broker.OpeningOpen, Access: 7, Receipt: []byte("regard/receipt@v1\n"), ReceiptState: proof.Witnessed}, {Index: 4, Kind: proof.KindAccess, State: broker.OpeningErased},
	}}, nil
}

func (f *fakeAuditing) Openings(_ context.Context, _ broker.Caller, r *broker.OpeningsRequest) (*broker.Openings, error) {
	return f.answer(*r)
}

func (f *fakeAuditing) Erased(_ context.Context, _ broker.Caller, r *broker.ErasedRequest) (*broker.Openings, error) {
	return f.answer(*r)
}

func (f *fakeAuditing) ErasedPage(_ context.Context, _ broker.Caller, audit, from proof.Index) (*broker.Openings, error) {
	return f.answer([2]proof.Index{audit, from})
}

func (f *fakeAuditing) Rolls(_ context.Context, _ broker.Caller, n proof.Epoch, after *proof.Label) ([]byte, error) {
	_, err := f.answer(fmt.Sprint(n, after != nil))
	return []byte("regard/rolls@v1\nepoch 7\nmarker 9\nend\n"), err
}

func (f *fakeAuditing) PutStatement(_ context.Context, _ broker.Caller, n proof.Epoch, signed []byte) error {
	_, err := f.answer(fmt.Sprint(n, " ", string(signed)))
	return err
}

// auditing is a server with an auditor, whose id is that of an agency.
func auditing(t *testing.T) (*server, *fakeAuditing, func(method, path, body string, header ...string) reply) {
	t.Helper()
	s, f := start(t, nil), &fakeAuditing{}
	s.Auditing = f
	cert := valid(t, "cour")
	s.setAgency(cert, broker.Caller{ID: "mine", Name: "Cour", Auditor: true})
	c := s.client(cert)
	return s, f, func(method, path, body string, header ...string) reply {
		t.Helper()
		return s.do(t, c, method, path, body, header...)
	}
}

// TestCallersAreApart: an agency is refused where auditors call, and the other way round, whatever they send; nobody without a certificate is told more than that.
func TestCallersAreApart(t *testing.T) {
	s, f, call := auditing(t)
	agency, nobody := s.client(s.mine), s.client()
	for _, x := range [][2]string{{"POST", "/v1/audit/openings"}, {"POST", "/v1/audit/erased"}, {"GET", "/v1/audit/erased/7?from=3"}, {"GET", "/v1/audit/epochs/7/rolls"}, {"PUT", "/v1/audit/epochs/7/statement"}} {
		for _, body := range []string{"", "{}"} {
			if r := s.do(t, agency, x[0], x[1], body); r.status != 403 || !strings.Contains(r.body, `"code":"caller.agency"`) {
				t.Errorf("%v: %d %s", x, r.status, r.body)
			}
			if r := s.do(t, nobody, x[0], x[1], body); r.status != 401 || !strings.Contains(r.body, `"code":"certificate.missing"`) {
				t.Errorf("%v without a certificate: %d %s", x, r.status, r.body)
			}
		}
	}
	for _, x := range [][2]string{{"POST", "/v1/disclosures"}, {"GET", "/v1/disclosures/01935a11-2233-7444-8555-66778899aabb"}, {"GET", "/v1/services"}} {
		if r := call(x[0], x[1], question); r.status != 403 || !strings.Contains(r.body, `"code":"caller.auditor"`) {
			t.Errorf("%v: %d %s", x, r.status, r.body)
		}
	}
	if len(f.asked)+len(s.asked) > 0 {
		t.Errorf("the broker was asked: %v %v", f.asked, s.asked)
	}
	r := call("GET", "/v1/whoami", "")
	if r.status != 200 || !strings.HasPrefix(r.body, `{"auditor":{"id":"mine","name":"Cour"},"certificate":`) {
		t.Errorf("whoami: %d %s", r.status, r.body)
	}
	if r := s.do(t, agency, "GET", "/v1/whoami", ""); !strings.HasPrefix(r.body, `{"agency":{"id":"mine",`) {
		t.Errorf("whoami of the agency: %s", r.body)
	}
	if log := s.logged(t); !strings.Contains(log, `"auditor":"mine"`) || !strings.Contains(log, `"agency":"mine"`) {
		t.Error("the log doesn't tell one from the other")
	}
	// Their allowances are apart, too, though they have one id.
	limited := start(t, func(c *Config) { c.Rate, c.Burst = 0.001, 1 })
	cert := valid(t, "cour")
	limited.setAgency(cert, broker.Caller{ID: "mine", Auditor: true})
	for n, want := range []int{200, 429} {
		if r := limited.do(t, limited.client(limited.mine), "GET", "/v1/whoami", ""); r.status != want {
			t.Errorf("agency, %d: %d", n, r.status)
		}
		if r := limited.do(t, limited.client(cert), "GET", "/v1/whoami", ""); r.status != want {
			t.Errorf("auditor, %d: %d", n, r.status)
		}
	}
}

func TestAuditCalls(t *testing.T) {
	s, f, call := auditing(t)
	from, to := proof.Index(1), proof.Index(9)
	label := proof.Label{1, 0xff}
	after := base64.RawURLEncoding.EncodeToString(label[:])
	for _, c := range []struct {
		method, path, body string
		header             []string
		want               any
	}{
		{"POST", "/v1/audit/openings", `{"indexes":[3,4],"reason":"control é"}`, []string{"Idempotency-Key", "k"}, broker.OpeningsRequest{Indexes: []proof.Index{3, 4}, Reason: "control é", IdempotencyKey: "k"}},
		{"POST", "/v1/audit/openings", `{"from":1,"to":9,"limit":64,"reason":"r"}`, nil, broker.OpeningsRequest{From: &from, To: &to, Limit: 64, Reason: "r"}},
		{"POST", "/v1/audit/openings", `{"disclosure":"01935a11-2233-7444-8555-66778899aabb"}`, nil, broker.OpeningsRequest{Disclosure: answerID}},
		{"POST", "/v1/audit/erased", `{"from_epoch":0,"to_epoch":12,"reason":"r"}`, []string{"Idempotency-Key", "k"}, broker.ErasedRequest{From: 0, To: 12, Reason: "r", IdempotencyKey: "k"}},
		{"GET", "/v1/audit/erased/7?from=3", "", nil, [2]proof.Index{7, 3}},
		{"GET", "/v1/audit/epochs/7/rolls", "", nil, "7 false"}, {"GET", "/v1/audit/epochs/7/rolls?after=" + after, "", nil, "7 true"},
		{"PUT", "/v1/audit/epochs/7/statement", "note\n", []string{"Content-Type", "text/plain; charset=utf-8"}, "7 note\n"},
	} {
		f.asked = nil
		r := call(c.method, c.path, c.body, c.header...)
		if r.status != 200 || len(f.asked) != 1 {
			t.Errorf("%s %s: %d %s", c.method, c.path, r.status, r.body)
			continue
		}
		if d := cmp.Diff(c.want, f.asked[0]); d != "" {
			t.Errorf("%s %s: %s", c.method, c.path, d)
		}
		if r.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", c.path, r.header)
		}
		// A problem of the broker's goes through as everywhere.
		f.err = &broker.Problem{Status: 410, Code: "rolls.retired", Title: "Gone."}
		if r := call(c.method, c.path, c.body, c.header...); r.status != 410 || !strings.Contains(r.body, `"code":"rolls.retired"`) {
			t.Errorf("%s %s: %d %s", c.method, c.path, r.status, r.body)
		}
		f.err = errors.New("secret")
		if r := call(c.method, c.path, c.body, c.header...); r.status != 500 || strings.Contains(r.body, "secret") {
			t.Errorf("%s %s: %d %s", c.method, c.path, r.status, r.body)
		}
		f.err = nil
	}
	want := `{"next":9,"entries":[{"index":3,"kind":"disclosure@v1","state":"open","access":7,"receipt_state":"witnessed","receipt":"regard/receipt@v1\n"},{"index":4,"kind":"access@v1","state":"erased","code":"record.erased"}]}` + "\n"
	r := call("POST", "/v1/audit/openings", `{"indexes":[3],"reason":"r"}`)
	if r.body != want {
		t.Errorf("%s, want %s", r.body, want)
	}
	if rolls := call("GET", "/v1/audit/epochs/7/rolls", ""); rolls.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%v", rolls.header)
	}

	// The documentation holds.
	reg := document("1").Components.Schemas
	for body, typ := range map[string]reflect.Type{
		r.body: reflect.TypeFor[openingsAnswer](), `{"indexes":[3],"reason":"r"}`: reflect.TypeFor[openingsBody](), `{"from_epoch":0,"to_epoch":1,"reason":"r"}`: reflect.TypeFor[erasedBody](), call("GET", "/v1/whoami", "").body: reflect.TypeFor[whoamiBody](),
		call("PUT", "/v1/audit/epochs/7/statement", "note\n", "Content-Type", "text/plain").body: reflect.TypeFor[statementBody](),
	} {
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		res := &huma.ValidateResult{}
		huma.Validate(reg, reg.Schema(typ, false, ""), huma.NewPathBuffer([]byte(""), 0), huma.ModeReadFromServer, v, res)
		if len(res.Errors) > 0 {
			t.Errorf("%v: %v", typ, res.Errors)
		}
	}
	for _, secret := range []string{"control", "note"} {
		if strings.Contains(s.logged(t), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestBadAuditCalls(t *testing.T) {
	_, f, call := auditing(t)
	const openings, erased = "/v1/audit/openings", "/v1/audit/erased"
	text := []string{"Content-Type", "", "Content-Type", "text/plain"}
	for name, c := range map[string]struct {
		method, path, body string
		header             []string
		status             int
		code, at           string
	}{
		"no JSON":              {"POST", openings, `{`, nil, 400, "request.json.invalid", ""},
		"unknown member":       {"POST", openings, `{"index":[3]}`, nil, 400, "request.parameter.unknown", "/index"},
		"twice":                {"POST", openings, `{"reason":"a","reason":"b"}`, nil, 400, "request.parameter.duplicate", "/reason"},
		"negative":             {"POST", openings, `{"indexes":[-3]}`, nil, 400, "request.invalid", "/indexes/0"},
		"a fraction":           {"POST", openings, `{"from":1.5}`, nil, 400, "request.invalid", "/from"},
		"text for a number":    {"POST", openings, `{"to":"1"}`, nil, 400, "request.invalid", "/to"},
		"too large":            {"POST", openings, `{"indexes":[9223372036854775808]}`, nil, 400, "request.invalid", "/indexes/0"},
		"too many":             {"POST", openings, `{"indexes":[` + strings.Repeat("1,", 64) + `1]}`, nil, 400, "request.invalid", "/indexes/64"},
		"an empty list":        {"POST", openings, `{"indexes":[]}`, nil, 400, "request.invalid", "/indexes"},
		"no UUID":              {"POST", openings, `{"disclosure":"01935A11-2233-7444-8555-66778899AABB"}`, nil, 400, "request.invalid", "/disclosure"},
		"limit 0":              {"POST", openings, `{"limit":0}`, nil, 400, "request.invalid", "/limit"},
		"limit 65":             {"POST", openings, `{"limit":65}`, nil, 400, "request.invalid", "/limit"},
		"a list":               {"POST", openings, `[]`, nil, 400, "request.invalid", ""},
		"more behind":          {"POST", openings, `{} {}`, nil, 400, "request.json.invalid", ""},
		"another type":         {"POST", openings, `{}`, []string{"Content-Type", "", "Content-Type", "text/plain"}, 415, "request.body.type", ""},
		"a bad key":            {"POST", openings, `{}`, []string{"Idempotency-Key", "a b"}, 400, "idempotency.invalid", "Idempotency-Key"},
		"a large body":         {"POST", openings, `{"reason":"` + strings.Repeat("x", 65<<10) + `"}`, nil, 413, "request.body.large", ""},
		"no epochs":            {"POST", erased, `{"reason":"r"}`, nil, 400, "request.parameter.missing", "/from_epoch"},
		"no last epoch":        {"POST", erased, `{"from_epoch":1,"reason":"r"}`, nil, 400, "request.parameter.missing", "/to_epoch"},
		"no reason":            {"POST", erased, `{"from_epoch":1,"to_epoch":1}`, nil, 400, "request.parameter.missing", "/reason"},
		"unknown member there": {"POST", erased, `{"from":1}`, nil, 400, "request.parameter.unknown", "/from"},
		"a bad key there":      {"POST", erased, `{}`, []string{"Idempotency-Key", "é"}, 400, "idempotency.invalid", "Idempotency-Key"},
		"no audit":             {"GET", erased + "/x?from=1", "", nil, 404, "audit.unknown", ""},
		"another spelling":     {"GET", erased + "/07?from=1", "", nil, 404, "audit.unknown", ""},
		"no page":              {"GET", erased + "/7", "", nil, 400, "request.invalid", ""},
		"a bad page":           {"GET", erased + "/7?from=-1", "", nil, 400, "request.invalid", ""},
		"no epoch":             {"GET", "/v1/audit/epochs/x/rolls", "", nil, 404, "epoch.open", ""},
		"a bad label":          {"GET", "/v1/audit/epochs/7/rolls?after=AAAA", "", nil, 400, "request.invalid", ""},
		"an empty label":       {"GET", "/v1/audit/epochs/7/rolls?after=", "", nil, 400, "request.invalid", ""},
		"a statement in JSON":  {"PUT", "/v1/audit/epochs/7/statement", "{}", []string{"Content-Type", "application/json"}, 415, "request.body.type", ""},
		"a packed statement":   {"PUT", "/v1/audit/epochs/7/statement", "x", append(text, "Content-Encoding", "gzip"), 415, "request.body.type", ""},
		"a large statement":    {"PUT", "/v1/audit/epochs/7/statement", strings.Repeat("x", 65<<10), text, 413, "request.body.large", ""},
		"of no epoch":          {"PUT", "/v1/audit/epochs/-/statement", "x", text, 404, "epoch.open", ""},
		"another method":       {"DELETE", openings, "", nil, 405, "method.unknown", ""},
	} {
		r := call(c.method, c.path, c.body, c.header...)
		if r.status != c.status || !strings.Contains(r.body, `"code":"`+c.code+`"`) || c.at != "" && !strings.Contains(r.body, `:"`+c.at+`"}`) {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if len(f.asked) > 0 {
		t.Errorf("the broker was asked: %v", f.asked)
	}
}

// What is taken is what encoding/json understands, too.
func FuzzDecodeOpenings(f *testing.F) {
	f.Add([]byte(`{"indexes":[3,4],"from":1,"to":9,"limit":64,"disclosure":"01935a11-2233-7444-8555-66778899aabb","reason":"r"}`))
	f.Add([]byte(`{"from_epoch":0,"to_epoch":12,"reason":"r"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if req, p := decodeOpenings(body); p == nil {
			var want openingsBody
			if err := json.Unmarshal(body, &want); err != nil || len(want.Indexes) != len(req.Indexes) || want.Reason != req.Reason || want.Limit != req.Limit || (want.From == nil) != (req.From == nil) {
				t.Errorf("%s: %v", body, err)
			}
			for i := range want.Indexes {
				if want.Indexes[i] != uint64(req.Indexes[i]) {
					t.Errorf("%s: another index", body)
				}
			}
		}
		if req, p := decodeErased(body); p == nil {
			var want erasedBody
			if err := json.Unmarshal(body, &want); err != nil || want.FromEpoch != uint64(req.From) || want.ToEpoch != uint64(req.To) || want.Reason != req.Reason {
				t.Errorf("%s: %v", body, err)
			}
		}
	})
}

package api

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

// contesting is a broker that keeps what it was asked about contests.
type contesting struct {
	*fake
	calls []string
	err   error
	more  bool
}

var contestID = store.ID{0x01, 0x93, 0x5a, 0x11, 0x22, 0x33, 0x74, 0x44, 0x85, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xcc}

const contestPath = "/v1/contests/01935a11-2233-7444-8555-66778899aacc"

func (f *contesting) answer(call string) (*broker.Contest, error) {
	f.calls = append(f.calls, call)
	if f.err != nil {
		return nil, f.err
	}
	at := time.UnixMilli(1700000000123).UTC()
	return &broker.Contest{ID: contestID, Disclosure: answerID, Agency: "mine", Role: "asked", Lang: "fr", State: "answered", Text: "secret-text <b>\u202e", Answer: "parce que", Filed: at, Due: at.AddDate(0, 1, 0), Ended: at, Outcome: "explained"}, nil
}

func (f *contesting) Contests(_ context.Context, c broker.Caller, state string, after store.ID, limit int) (*broker.ContestPage, error) {
	one, err := f.answer(fmt.Sprint("list ", c.ID, " ", state, " ", formatID(after), " ", limit))
	if err != nil {
		return nil, err
	}
	page := &broker.ContestPage{Contests: []broker.Contest{*one}}
	if f.more {
		page.Next = contestID
	}
	return page, nil
}

func (f *contesting) Contest(_ context.Context, c broker.Caller, id store.ID) (*broker.Contest, error) {
	return f.answer("read " + c.ID + " " + formatID(id))
}

func (f *contesting) AcknowledgeContest(_ context.Context, c broker.Caller, id store.ID) (*broker.Contest, error) {
	return f.answer("acknowledge " + c.ID + " " + formatID(id))
}

func (f *contesting) ExtendContest(_ context.Context, c broker.Caller, id store.ID, reason string) (*broker.Contest, error) {
	return f.answer("extend " + c.ID + " " + formatID(id) + " " + reason)
}

func (f *contesting) AnswerContest(_ context.Context, c broker.Caller, id store.ID, outcome broker.ContestOutcome, text string) (*broker.Contest, error) {
	return f.answer("answer " + c.ID + " " + formatID(id) + " " + string(outcome) + " " + text)
}

func TestContestCalls(t *testing.T) {
	f := &contesting{}
	s := start(t, func(c *Config) { f.fake = c.Broker.(*fake); c.Broker = f })
	c := s.client(s.mine)
	auditor := valid(t, "cour")
	s.setAgency(auditor, broker.Caller{ID: "mine", Auditor: true})
	nowhere, here := "00000000-0000-0000-0000-000000000000", formatID(contestID)
	for _, x := range []struct{ method, path, body, want string }{
		{"GET", "/v1/contests", "", "list mine  " + nowhere + " 0"},
		{"GET", "/v1/contests?state=overdue&after=" + here + "&limit=7", "", "list mine overdue " + here + " 7"},
		{"GET", contestPath, "", "read mine " + here},
		{"GET", "/v1/contests/nonsense", "", "read mine " + nowhere},
		{"POST", contestPath + "/acknowledge", "", "acknowledge mine " + here},
		{"POST", contestPath + "/extend", `{"reason":"des congés\nen août"}`, "extend mine " + here + " des congés\nen août"},
		{"POST", contestPath + "/answer", `{"outcome":"explained","text":"a\r\nb é"}`, "answer mine " + here + " explained a\r\nb é"},
		{"POST", contestPath + "/answer", `{"outcome":"explained","text":"1.\tà vous\rfin"}`, "answer mine " + here + " explained 1.\tà vous\rfin"},
		{"POST", contestPath + "/answer", `{"text":"` + strings.Repeat("é", 2000) + `","outcome":"x"}`, "answer mine " + here + " x " + strings.Repeat("é", 2000)},
	} {
		f.calls = nil
		r := s.do(t, c, x.method, x.path, x.body)
		if d := cmp.Diff([]string{x.want}, f.calls); d != "" || r.status != 200 || r.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: %d %s %s", x.method, x.path, r.status, r.body, d)
		}
		// Problems of the broker go through as everywhere.
		f.err = &broker.Problem{Status: 409, Code: "contest.ended", Title: "Ended."}
		if r := s.do(t, c, x.method, x.path, x.body); r.status != 409 || !strings.Contains(r.body, `"code":"contest.ended"`) {
			t.Errorf("%s: %d %s", x.path, r.status, r.body)
		}
		f.err = nil
		for name, client := range map[string]int{"nobody": 401, "an auditor": 403} {
			other := s.client()
			if client == 403 {
				other = s.client(auditor)
			}
			f.calls = nil
			if r := s.do(t, other, x.method, x.path, x.body); r.status != client || len(f.calls) != 0 {
				t.Errorf("%s, %s: %d %v", name, x.path, r.status, f.calls)
			}
		}
	}
	f.calls = nil
	for _, x := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"GET", "/v1/contests?state=open&state=answered", "", 400, "request.parameter.unknown"}, {"GET", "/v1/contests?page=2", "", 400, "request.parameter.unknown"},
		{"GET", "/v1/contests?after=x", "", 400, "request.invalid"}, {"GET", "/v1/contests?after=", "", 400, "request.invalid"},
		{"GET", "/v1/contests?limit=0", "", 400, "request.invalid"}, {"GET", "/v1/contests?limit=-1", "", 400, "request.invalid"}, {"GET", "/v1/contests?limit=99999", "", 400, "request.invalid"},
		{"DELETE", contestPath, "", 405, "method.unknown"}, {"PUT", contestPath + "/answer", "", 405, "method.unknown"},
		{"POST", contestPath + "/answer", `{}`, 400, "request.parameter.missing"}, {"POST", contestPath + "/answer", `{"text":"a"}`, 400, "request.parameter.missing"},
		{"POST", contestPath + "/answer", `{"outcome":"x","text":"a","more":1}`, 400, "request.parameter.unknown"}, {"POST", contestPath + "/answer", `{"outcome":"x","text":"a","text":"b"}`, 400, "request.parameter.duplicate"},
		{"POST", contestPath + "/answer", `{"outcome":"x","text":1}`, 400, "request.invalid"}, {"POST", contestPath + "/answer", `{"outcome":"a\nb","text":"a"}`, 400, "request.invalid"},
		{"POST", contestPath + "/answer", `{"outcome":"x","text":"a\u0007"}`, 400, "request.invalid"}, {"POST", contestPath + "/answer", "{\"outcome\":\"x\",\"text\":\"a\nb\"}", 400, "request.invalid"},
		{"POST", contestPath + "/answer", `{"outcome":"x","text":"` + strings.Repeat("é", 4001) + `"}`, 400, "request.invalid"},
		{"POST", contestPath + "/answer", `{"outcome":"x","text":"a"} x`, 400, "request.json.invalid"}, {"POST", contestPath + "/answer", `[]`, 400, "request.invalid"}, {"POST", contestPath + "/answer", ``, 400, "request.invalid"},
		{"POST", contestPath + "/extend", `{"text":"a"}`, 400, "request.parameter.unknown"}, {"POST", contestPath + "/extend", `{}`, 400, "request.parameter.missing"},
	} {
		if r := s.do(t, c, x.method, x.path, x.body); r.status != x.status || !strings.Contains(r.body, `"code":"`+x.code+`"`) {
			t.Errorf("%s %s %s: %d %s", x.method, x.path, x.body, r.status, r.body)
		}
	}
	if len(f.calls) != 0 {
		t.Errorf("the broker was asked: %v", f.calls)
	}
	// What can't be read is named, be it here or in the broker.
	for path, body := range map[string]string{"/text": `{"outcome":"x","text":"a\u0007"}`, "/outcome": `{"outcome":"a\tb","text":"a"}`, "/reason": `{"reason":"a\u0085"}`} {
		at := map[bool]string{true: "/extend", false: "/answer"}[path == "/reason"]
		if r := s.do(t, c, "POST", contestPath+at, body); r.status != 400 || !strings.Contains(r.body, `"source":{"parameter":"`+path+`"}`) {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	if r := s.do(t, c, "POST", contestPath+"/answer", `{"outcome":"x","text":"a"}`, "Content-Type", "", "Content-Type", "text/plain"); r.status != 415 {
		t.Errorf("%d", r.status)
	}
	// What is answered is what is documented.
	f.more = true
	reg := document("1").Components.Schemas
	for path, typ := range map[string]reflect.Type{"/v1/contests": reflect.TypeFor[contestsBody](), contestPath: reflect.TypeFor[contestBody]()} {
		r := s.do(t, c, "GET", path, "")
		var v any
		if err := json.Unmarshal([]byte(r.body), &v); err != nil {
			t.Fatal(err)
		}
		res := &huma.ValidateResult{}
		huma.Validate(reg, reg.Schema(typ, false, ""), huma.NewPathBuffer([]byte(""), 0), huma.ModeReadFromServer, v, res)
		if len(res.Errors) > 0 {
			t.Errorf("%s: %v\n%s", path, res.Errors, r.body)
		}
		if strings.Contains(r.body, `"acknowledged_at"`) || !strings.Contains(r.body, `"ended_at":"2023-11-14T22:13:20.123Z"`) {
			t.Errorf("%s", r.body)
		}
	}
	if log := s.logged(t); strings.Contains(log, "secret-text") || strings.Contains(log, "congés") {
		t.Error("what people and agencies say stands in the log")
	}
	// A broker without them has no such addresses.
	plain := start(t, nil)
	if r := plain.do(t, plain.client(plain.mine), "GET", "/v1/contests", ""); r.status != 404 || !strings.Contains(r.body, "path.unknown") {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func FuzzDecodeContest(f *testing.F) {
	f.Add([]byte(`{"outcome":"explained","text":"a\r\nb é\ud83d\ude00"}`))
	f.Add([]byte(`{"reason":"r"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if got, p := decodeAnswer(body); p == nil {
			var want contestAnswerBody
			if err := json.Unmarshal(body, &want); err != nil || want != *got {
				t.Errorf("%s: %+v, encoding/json has %+v (%v)", body, got, want, err)
			}
		}
		if got, p := decodeExtension(body); p == nil {
			var want contestExtensionBody
			if err := json.Unmarshal(body, &want); err != nil || want.Reason != got.Text {
				t.Errorf("%s: %+v, encoding/json has %+v (%v)", body, got, want, err)
			}
		}
	})
}

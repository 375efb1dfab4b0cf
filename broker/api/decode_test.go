package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/regard-broker/regard/policy"
)

// What the strict parser takes is JSON for encoding/json, too, and means the same.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(question))
	f.Add([]byte(`{"subject":{"type":"nir","value":"1"},"scopes":[],"parameters":{"a":[-1.5,"\/"]}}`))
	f.Add([]byte(`{"subject":{"type":"pivot","given_names":"a b"}} `))
	f.Add([]byte(`{"\u0073ubject":{"type":"x","value":"\ud83d\ude00"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		req, p := decodeRequest(b)
		if p != nil {
			if p.Status != 400 || p.Code == "" || !utf8.ValidString(p.Parameter) {
				t.Errorf("problem %+v", p)
			}
			return
		}
		var want struct {
			Service, Purpose, Recipient, Context, Object, Official, Agreement string
			LegalBasis                                                        string `json:"legal_basis"`
			Scopes                                                            []string
			Subject                                                           struct {
				Type, Value string
				BirthName   string `json:"birth_name"`
			}
			Parameters map[string]any
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatalf("encoding/json refuses: %v", err)
		}
		got := []any{req.Service, req.Purpose, req.Recipient, req.Context, req.Object, req.Official, req.Agreement, req.LegalBasis, len(req.Scopes), req.Subject.Type, req.Subject.Value, req.Subject.Pivot.BirthName, len(req.Parameters)}
		exp := []any{want.Service, want.Purpose, want.Recipient, want.Context, want.Object, want.Official, want.Agreement, want.LegalBasis, len(want.Scopes), want.Subject.Type, want.Subject.Value, want.Subject.BirthName, len(want.Parameters)}
		if !reflect.DeepEqual(got, exp) {
			t.Error("encoding/json understands something else")
		}
		for name, v := range want.Parameters {
			if s, ok := v.(string); ok && s != req.Parameters[name] {
				t.Error("a parameter differs")
			}
		}
	})
}

// The strings that are written are the strings that were meant.
func FuzzAppendText(f *testing.F) {
	f.Add("a\"\\\n\x00é\xff😀")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendText(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && got != want {
			t.Errorf("%q became %q", s, got)
		}
	})
}

// The documentation may not lie: names of members, and what the schema accepts, are the decoder's.
// What has to be escaped is seen at every place of a text, whatever stands beside it.
func TestAppendTextAtEveryPlace(t *testing.T) {
	for c := range 256 {
		for at := range 19 {
			for _, beside := range []byte{'a', 0x7f, ' ', '!', '#', '[', ']'} {
				text := bytes.Repeat([]byte{beside}, 19)
				text[at] = byte(c)
				var got string
				b := appendText(nil, text)
				if err := json.Unmarshal(b, &got); err != nil {
					t.Fatalf("byte %#x at %d: %s: %v", c, at, b, err)
				}
				if want := strings.ToValidUTF8(string(text), "\ufffd"); got != want || string(appendText(nil, string(text))) != string(b) {
					t.Fatalf("byte %#x at %d: %q, want %q", c, at, got, want)
				}
			}
		}
	}
}

func TestOpenAPI(t *testing.T) {
	o := document("1")
	reg := o.Components.Schemas
	for _, x := range []struct {
		t     reflect.Type
		names []string
	}{{reflect.TypeFor[requestBody](), requestNames}, {reflect.TypeFor[subjectBody](), subjectNames}, {reflect.TypeFor[openingsBody](), openingsNames}, {reflect.TypeFor[erasedBody](), erasedNames}, {reflect.TypeFor[contestAnswerBody](), answerNames}, {reflect.TypeFor[contestExtensionBody](), extensionNames}} {
		s := reg.Schema(x.t, false, "")
		if len(s.Properties) != len(x.names) {
			t.Errorf("%v: %d members, the decoder knows %d", x.t, len(s.Properties), len(x.names))
		}
		for _, n := range x.names {
			if s.Properties[n] == nil {
				t.Errorf("%v lacks %s", x.t, n)
			}
		}
		if s.AdditionalProperties != false {
			t.Errorf("%v takes unknown members", x.t)
		}
	}
	check := func(name string, typ reflect.Type, body string) {
		t.Helper()
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		res := &huma.ValidateResult{}
		huma.Validate(reg, reg.Schema(typ, false, ""), huma.NewPathBuffer([]byte(""), 0), huma.ModeReadFromServer, v, res)
		if len(res.Errors) > 0 {
			t.Errorf("%s: %v", name, res.Errors)
		}
	}
	check("question", reflect.TypeFor[requestBody](), question)
	check("other subject", reflect.TypeFor[requestBody](), `{"service":"s","scopes":["a"],"purpose":"p","legal_basis":"l","recipient":"13002526500013","context":"c","object":"o","subject":{"type":"nir","value":"x"}}`)
	s := start(t, nil)
	c := s.client(s.mine)
	check("answer", reflect.TypeFor[answerBody](), s.do(t, c, "POST", "/v1/disclosures", question).body)
	check("problem", reflect.TypeFor[problemBody](), s.do(t, c, "POST", "/v1/disclosures", "{}").body)
	check("record", reflect.TypeFor[recordBody](), s.do(t, c, "GET", "/v1/disclosures/01935a11-2233-7444-8555-66778899aabb", "").body)
	check("whoami", reflect.TypeFor[whoamiBody](), s.do(t, c, "GET", "/v1/whoami", "").body)
	r := s.do(t, c, "GET", "/openapi.json", "")
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(r.body), &doc); err != nil || doc.OpenAPI != "3.1.0" || len(doc.Paths) != 17 {
		t.Errorf("%v, %+v", err, doc)
	}
}

// TestExampleReason: the code that the description shows is one that the policy gives.
func TestExampleReason(t *testing.T) {
	f, _ := reflect.TypeFor[reasonBody]().FieldByName("Code")
	example := f.Tag.Get("example")
	bundle, err := policy.Embedded().Load()
	if err != nil {
		t.Fatal(err)
	}
	if example == "" || !bytes.Contains(bundle.Bytes(), []byte(`"code": "`+example+`"`)) {
		t.Errorf("no reason has the code %q", example)
	}
}

package service_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

func filter(t testing.TB, p *service.Plan, answer string) *service.Filtered {
	t.Helper()
	f, err := p.Filter([]byte(answer))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func data(t testing.TB, f *service.Filtered, docs ...service.Document) string {
	t.Helper()
	b, err := f.Data(docs...)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFilter(t *testing.T) {
	d := parse(t, small)
	for _, c := range []struct {
		name                string
		granted             []service.Pointer // nil: everything
		answer, want        string
		dropped, undeclared int
		withheld            []service.Pointer
	}{
		{"numbers keep their text", nil, `{"data":{"nombre":1.50e+02,"entier":9007199254740993,"liste":[-0,1,12345678901234567890]}}`,
			`{"data":{"nombre":1.50e+02,"entier":9007199254740993,"liste":[-0,1,12345678901234567890]}}`, 0, 0, nil},
		{"strings keep their text", nil, `{"data":{"texte":"\u00e9\/\"\ud83d\ude00é@@ 31 juin"}}`, `{"data":{"texte":"\u00e9\/\"\ud83d\ude00é@@ 31 juin"}}`, 0, 0, nil},
		{"white space", nil, " {\t\"data\" :\r\n{ \"vrai\" : true , \"liste\" : [ 1 , 2 ] } } ", `{"data":{"vrai":true,"liste":[1,2]}}`, 0, 0, nil},
		{"only what is granted", []service.Pointer{"/data/objet/b", "/data/gens/*/nom"},
			`{"data":{"texte":"secret","objet":{"a":"secret","b":"x"},"gens":[{"nom":"A","date":"secret"},{"date":"secret"}],"vrai":true},"links":{},"meta":{"a":1}}`,
			`{"data":{"objet":{"b":"x"},"gens":[{"nom":"A"},{}]}}`, 5, 2, nil},
		{"nothing of it is there", []service.Pointer{"/data/texte"}, `{"data":{"vrai":false}}`, `{"data":{}}`, 1, 0, nil},
		{"an empty answer", nil, `{}`, `{}`, 0, 0, nil},
		{"undeclared", nil, `{"data":{"texte":"a","autre":{"x":[{"y":"secret"}]}},"data2":[1,2,{"z":null}],"meta":{"url":"https://x.example/"}}`, `{"data":{"texte":"a"}}`, 0, 3, nil},
		{"an object that declares nothing", nil, `{"data":{"vide":{"secret":1},"texte":"a"}}`, `{"data":{"texte":"a"}}`, 0, 1, nil},
		{"null where it may be", nil, `{"data":{"texte":null,"objet":null,"liste":null,"gens":null,"entier":null}}`, `{"data":{"texte":null,"objet":null,"liste":null,"gens":null,"entier":null}}`, 0, 0, nil},
		{"empty arrays", nil, `{"data":{"liste":[],"gens":[]}}`, `{"data":{"liste":[],"gens":[]}}`, 0, 0, nil},
		{"key with escapes", nil, `{"d\u0061ta":{"t\u0065xte":"x"}}`, `{"data":{"texte":"x"}}`, 0, 0, nil},
		{"withheld link", nil, `{"data":{"lien":"https://x.example/secret","vrai":true}}`, `{"data":{"vrai":true}}`, 0, 0, []service.Pointer{"/data/lien"}},
		{"withheld whatever it is", nil, `{"data":{"vrai":true,"lien":"x"}}`, `{"data":{"vrai":true}}`, 0, 0, []service.Pointer{"/data/lien"}},
		{"no link", nil, `{"data":{"lien":null}}`, `{"data":{"lien":null}}`, 0, 0, nil},
		{"link where none is declared", nil, `{"data":{"texte":"HTTPS://x.example/secret","objet":{"a":"http:\/\/x","b":"https:x"}}}`, `{"data":{"objet":{}}}`, 0, 0, []service.Pointer{"/data/objet/a", "/data/objet/b", "/data/texte"}},
		{"link in disguise", nil, `{"data":{"texte":"\u0068ttps://x.example/secret","objet":{"a":"\t\nHttp://x","b":"\/\/x"},"lien":"x"}}`, `{"data":{"objet":{}}}`, 0, 0, []service.Pointer{"/data/lien", "/data/objet/a", "/data/objet/b", "/data/texte"}},
		{"link behind what can't be seen", nil, `{"data":{"texte":"\u0001https:x","objet":{"a":"\u00a0//x","b":"ftp:\\\\x"}}}`, `{"data":{"objet":{}}}`, 0, 0, []service.Pointer{"/data/objet/a", "/data/objet/b", "/data/texte"}},
		{"link within a text", nil, `{"data":{"texte":"voir \u0068ttps://x","objet":{"a":"\\https://x","b":"\u00e9 : 12:30"}}}`, `{"data":{"objet":{"b":"\u00e9 : 12:30"}}}`, 0, 0, []service.Pointer{"/data/objet/a", "/data/texte"}},
		{"link that isn't granted", []service.Pointer{"/data/texte"}, `{"data":{"lien":"https://x.example/secret","doc":"https://docs.example/"}}`, `{"data":{}}`, 2, 0, nil},
		{"document elsewhere", nil, `{"data":{"doc":"https://docs.example.evil/x"}}`, `{"data":{}}`, 0, 0, []service.Pointer{"/data/doc"}},
		{"document without TLS", nil, `{"data":{"doc":"http://docs.example/x"}}`, `{"data":{}}`, 0, 0, []service.Pointer{"/data/doc"}},
		{"document with a user", nil, `{"data":{"doc":"https://docs.example@evil/x"}}`, `{"data":{}}`, 0, 0, []service.Pointer{"/data/doc"}},
		{"document at another port", nil, `{"data":{"doc":"https://docs.example:444/x"}}`, `{"data":{}}`, 0, 0, []service.Pointer{"/data/doc"}},
		{"document that is a file", nil, `{"data":{"doc":"file:///etc/passwd"}}`, `{"data":{}}`, 0, 0, []service.Pointer{"/data/doc"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := []byte(c.answer)
			f, err := plan(t, d, c.granted...).Filter(answer)
			if err != nil {
				t.Fatal(err)
			}
			clear(answer) // it must not be needed any more
			if got := data(t, f); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if f.Dropped() != c.dropped || f.Undeclared() != c.undeclared {
				t.Errorf("dropped %d, undeclared %d; want %d, %d", f.Dropped(), f.Undeclared(), c.dropped, c.undeclared)
			}
			if got := f.Withheld(); len(got)+len(c.withheld) > 0 && !cmp.Equal(got, c.withheld) {
				t.Errorf("withheld %v, want %v", got, c.withheld)
			}
		})
	}
}

func TestFilterRefuses(t *testing.T) {
	p := plan(t, parse(t, small))
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for _, answer := range []string{
		"", " ", "null", "[]", `"x"`, "1", "<html>", `{"data":{}`, `{"data":{"texte":"a`, `{"data":{"texte":"a"`, `{"data":{"nombre":1`, `{"data":{"nombre":`, `{"data"`, `{`,
		`{"data":{}}x`, `{"data":{}}{}`, `{"data":{}},`, `{"data":{},}`, `{"data":{"liste":[1,]}}`, `{"data":{"liste":[,1]}}`, `{"data":{"liste":[1 2]}}`, `{data:{}}`, `{"data" {}}`, "{\"data\":{}}\x00",
		"\ufeff{}",
		// wrong shape
		`{"data":[]}`, `{"data":null}`, `{"data":{"texte":1}}`, `{"data":{"texte":["a"]}}`, `{"data":{"nombre":"1"}}`, `{"data":{"nombre":null}}`, `{"data":{"entier":1.0}}`, `{"data":{"entier":1e3}}`,
		`{"data":{"vrai":1}}`, `{"data":{"vrai":"true"}}`, `{"data":{"vrai":null}}`, `{"data":{"vrai":truE}}`, `{"data":{"objet":[]}}`, `{"data":{"objet":"x"}}`, `{"data":{"liste":{}}}`, `{"data":{"liste":[null]}}`,
		`{"data":{"liste":["1"]}}`, `{"data":{"gens":[[]]}}`, `{"data":{"gens":[null]}}`, `{"data":{"gens":[{"prenoms":["a",null]}]}}`,
		// numbers, strings
		`{"data":{"nombre":01}}`, `{"data":{"nombre":+1}}`, `{"data":{"nombre":.5}}`, `{"data":{"nombre":1.}}`, `{"data":{"nombre":1e}}`, `{"data":{"nombre":-}}`, `{"data":{"nombre":NaN}}`, `{"data":{"nombre":0x10}}`,
		`{"data":{"texte":"` + "\n" + `"}}`, `{"data":{"texte":"\x"}}`, `{"data":{"texte":"\u12"}}`, `{"data":{"texte":"\ud800"}}`, `{"data":{"texte":"\ud800\u0041"}}`, `{"data":{"texte":"\udc00"}}`, "{\"data\":{\"texte\":\"\xff\"}}",
		"{\"data\":{\"texte\":\"\xed\xa0\x80\"}}", `{"data":{"texte":'a'}}`,
		// repeated keys, of the schema and outside, also inside what is dropped
		`{"data":{},"data":{}}`, `{"data":{},"d\u0061ta":{}}`, `{"data":{"texte":"a","texte":"b"}}`, `{"x":1,"x":2}`, `{"x":1,"\u0078":2}`, `{"x":{"y":1,"y":2}}`, `{"x":[{"y":{"z":1,"z":1}}]}`, manyKeys(300),
		// depth and size
		`{"x":` + deep + `}`, `{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, `{"x":"` + strings.Repeat("a", 100000) + `"}`,
		`{"data":{"gens":[{},{},{},{},{},{}]}}`,
	} {
		f, err := p.Filter([]byte(answer))
		if !errors.Is(err, service.ErrAnswer) || f != nil {
			t.Errorf("%.60q: got %v", answer, err)
		}
		if err != nil && len(answer) > 30 && strings.Contains(err.Error(), answer[10:20]) {
			t.Errorf("%.60q: the error repeats it: %v", answer, err)
		}
	}
}

// TestFilterOfManyNames: each given name of an array was appended to a new copy of those before it, so that an answer of a megabyte held up the broker for most of a minute, and one endless name for seconds when it was folded.
// Copies are counted in allocations: how long they take depends on the machine.
func TestFilterOfManyNames(t *testing.T) {
	p := plan(t, parse(t, small))
	answer := func(names int) []byte {
		return []byte(`{"data":{"gens":[{"nom":"A","prenoms":["B"` + strings.Repeat(`,"B"`, names-1) + `]}]}}`)
	}
	allocations := func(names int) float64 {
		b := answer(names)
		return testing.AllocsPerRun(1, func() {
			f, err := p.Filter(b)
			if err != nil {
				t.Fatal(err)
			}
			// They have no canonical form, and are left out (docs/formats.md, section 5).
			if got := f.File(asked(t, "ine", "1234567890A", proof.Pivot{})); len(got) != 2 || got[1].Subject.Value() != "A|||" {
				t.Fatalf("filed under %d identities", len(got))
			}
		})
	}
	if few, many := allocations(200), allocations(2048); many > few+50 { // a slice that grows
		t.Errorf("%.0f allocations for 200 names, %.0f for 2048", few, many)
	}
	for name, b := range map[string][]byte{
		"given names": answer(2049), "a given name": []byte(`{"data":{"gens":[{"prenoms":["` + strings.Repeat("A", 4097) + `"]}]}}`), "a name": []byte(`{"data":{"gens":[{"nom":"` + strings.Repeat("A", 4097) + `"}]}}`),
	} {
		if f, err := p.Filter(b); !errors.Is(err, service.ErrAnswer) || f != nil {
			t.Errorf("%s beyond what anybody has: %v", name, err)
		}
	}
}

// manyKeys is an object with n different undeclared keys and one of them twice.
func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"k%d":0,`, i)
	}
	return "{" + b.String() + `"k7":0}`
}

// TestFieldLists: what was obtained and what was released are told apart, and that something isn't there is told too.
func TestFieldLists(t *testing.T) {
	p := plan(t, parse(t, small), "/data/objet/a", "/data/liste/*", "/data/gens/*/nom", "/data/texte", "/data/lien")
	f := filter(t, p, `{"data":{"texte":null,"objet":{"a":"1","b":"2"},"liste":[],"gens":[{"date":"x"}],"lien":"https://x","nombre":1},"x":1}`)
	if diff := cmp.Diff([]service.Pointer{"/data/gens/*/date", "/data/lien", "/data/liste/*", "/data/nombre", "/data/objet/a", "/data/objet/b", "/data/texte"}, f.Obtained()); diff != "" {
		t.Errorf("obtained (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]service.Pointer{"/data/liste/*", "/data/objet/a", "/data/texte"}, f.Released()); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
	f = filter(t, p, `{"data":{"objet":null,"gens":[]}}`)
	if diff := cmp.Diff([]service.Pointer{"/data/gens/*/nom", "/data/objet/a"}, f.Released()); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
}

func TestDocuments(t *testing.T) {
	p := plan(t, parse(t, small))
	f := filter(t, p, `{"data":{"texte":"a","doc":"https:\/\/DOCS.example:443/a?b=c#d","vrai":true}}`)
	if len(f.Links()) != 1 || f.Links()[0].URL().String() != "https://DOCS.example:443/a?b=c" || f.Links()[0].Rule.MaxBytes != 1000 {
		t.Fatalf("links %v", f.Links())
	}
	content := []byte("%PDF-1.4")
	doc := service.Document{MediaType: "application/pdf", SHA256: sha256.Sum256(content), Content: content}
	want := fmt.Sprintf(`{"data":{"texte":"a","doc":{"media_type":"application/pdf","sha256":"%x","base64":"JVBERi0xLjQ="},"vrai":true}}`, doc.SHA256)
	if got := data(t, f, doc); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, docs := range [][]service.Document{nil, {doc, doc}, {{Content: content}}, {{MediaType: `x"`}}} {
		if b, err := f.Data(docs...); err == nil {
			t.Errorf("%d documents: released %s", len(docs), b)
		}
	}
}

// TestFile reads docs/formats.md, section 5.
func TestFile(t *testing.T) {
	d := parse(t, small)
	p := plan(t, d, "/data/texte", "/data/gens/*/nom")
	anna := proof.Pivot{BirthName: "Müller-Œuf", GivenNames: "Anna Zoé", BirthDate: "1980-02-29", Sex: "F", BirthPlace: "75107", BirthCountry: "99100"}
	part := anna
	part.BirthDate = "1980-02"
	pivotOf := func(p proof.Pivot) string {
		s, err := p.Subject()
		if err != nil {
			t.Fatal(err)
		}
		return "pivot " + s.Value()
	}
	asks := map[string]service.Asked{
		"anna": asked(t, "pivot", "", anna), "part": asked(t, "pivot", "", part), "ine": asked(t, "ine", "1234567890A", proof.Pivot{}),
	}
	full, half, ine := pivotOf(anna), pivotOf(part), "ine 1234567890A"
	same := `{"nom":"MULLER OEUF","prenoms":["anna","ZOE"],"date":"1980-02-29","sexe":"femme"}`
	for _, c := range []struct {
		name, who, people string
		want              []string
	}{
		{"agrees", "anna", same, []string{full}},
		{"agrees in less", "anna", `{"nom":"Muller Oeuf"}`, []string{full}},
		{"twice", "anna", same + "," + same, []string{full}},
		{"fewer given names", "anna", `{"nom":"Muller Oeuf","prenoms":["Anna"]}`, []string{full, "person MULLER OEUF|ANNA||"}},
		{"another sex", "anna", `{"nom":"Muller Oeuf","sexe":"homme"}`, []string{full, "person MULLER OEUF|||M"}},
		{"another date", "anna", `{"nom":"Muller Oeuf","date":"1980-02-28"}`, []string{full, "person MULLER OEUF||1980-02-28|"}},
		{"household", "anna", same + `,{"nom":"B","prenoms":["C"],"date":"2012-01-01","sexe":"homme"},{"nom":"B","prenoms":[],"date":null}`, []string{full, "person B|C|2012-01-01|M", "person B|||"}},
		{"same child twice", "anna", `{"nom":"B"},{"nom":"b"}`, []string{full, "person B|||"}},
		{"partial question", "part", same, []string{half, "person MULLER OEUF|ANNA ZOE|1980-02-29|F"}},
		{"by number", "ine", same, []string{ine, "person MULLER OEUF|ANNA ZOE|1980-02-29|F"}},
		{"no day", "anna", `{"nom":"B","date":"2021-06-31"}`, []string{full, "person B||2021-06|"}},
		{"no month", "anna", `{"nom":"B","date":"1960-00-00"}`, []string{full, "person B||1960|"}},
		{"no such day of the asked person", "anna", `{"nom":"Muller Oeuf","date":"1980-02-30"}`, []string{full, "person MULLER OEUF||1980-02|"}},
		{"partial date", "anna", `{"nom":"B","date":"1960-07"}`, []string{full, "person B||1960-07|"}},
		{"no date", "anna", `{"nom":"B","date":"12/07/1960"}`, []string{full, "person B|||"}},
		{"timestamp", "anna", `{"nom":"Muller Oeuf","date":"1980-02-29T00:00:00Z"}`, []string{full}},
		{"unknown sex", "anna", `{"nom":"B","sexe":"F"}`, []string{full, "person B|||"}},
		{"unknown sex of the asked person", "anna", `{"nom":"Muller Oeuf","sexe":"F"}`, []string{full, "person MULLER OEUF|||"}},
		{"no name", "anna", `{"nom":null,"prenoms":["Li"],"date":"1960-07-01"}`, []string{full}},
		{"no Latin name", "ine", `{"nom":"李"}`, []string{ine}},
		{"no Latin given name", "ine", `{"nom":"LI","prenoms":["明"],"sexe":"homme","date":"1990-02-31"}`, []string{ine, "person LI||1990-02|M"}},
		{"empty", "ine", `{}`, []string{ine}},
		{"endless name", "ine", `{"nom":"` + strings.Repeat("A", 300) + `"}`, []string{ine}},
		{"endless given name", "ine", `{"nom":"A","prenoms":["` + strings.Repeat("A", 300) + `"]}`, []string{ine, "person A|||"}},
		{"separator in a name", "ine", `{"nom":"A|B","prenoms":["C\n\u0000|D"]}`, []string{ine, "person A B|C D||"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := filter(t, p, `{"data":{"texte":"x","gens":[`+c.people+`]}}`)
			var got []string
			for i, e := range f.File(asks[c.who]) {
				got = append(got, string(e.Subject.Type())+" "+e.Subject.Value())
				if want := proof.RoleAnswer; (e.Role == want) != (i > 0) {
					t.Errorf("entry %d has the role %s", i, e.Role)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("filed (-want +got):\n%s", diff)
			}
		})
	}
	if filter(t, p, `{}`).File(service.Asked{}) != nil {
		t.Error("filed under nobody")
	}
}

// TestFileFields: somebody else's entry lists what concerns them, and nothing of the others.
func TestFileFields(t *testing.T) {
	p := plan(t, parse(t, small), "/data/texte", "/data/gens/*/nom")
	f := filter(t, p, `{"data":{"texte":"x","entier":1,"gens":[{"nom":"A","date":"1990-01-01"},{"nom":"B","sexe":"homme"}]}}`)
	got := f.File(asked(t, "ine", "1234567890A", proof.Pivot{}))
	want := [][2][]service.Pointer{
		{{"/data/entier", "/data/gens/*/date", "/data/gens/*/nom", "/data/gens/*/sexe", "/data/texte"}, {"/data/gens/*/nom", "/data/texte"}},
		{{"/data/gens/*/date", "/data/gens/*/nom", "/data/texte"}, {"/data/gens/*/nom", "/data/texte"}},
		{{"/data/gens/*/nom", "/data/gens/*/sexe", "/data/texte"}, {"/data/gens/*/nom", "/data/texte"}},
	}
	for i, e := range got {
		if diff := cmp.Diff(want[i], [2][]service.Pointer{e.Obtained, e.Released}); diff != "" {
			t.Errorf("entry %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestJudge(t *testing.T) {
	d := parse(t, small)
	body := `{"errors":[{"code":"37003","title":"T","detail":"D\nE","meta":{"provider":"P"}}]}`
	for _, c := range []struct {
		status int
		body   string
		want   service.Verdict
	}{
		{200, `{"data":{}}`, service.Verdict{Outcome: service.OutcomeAnswer, Status: 200}},
		{200, body, service.Verdict{Outcome: service.OutcomeAnswer, Status: 200}},
		{404, body, service.Verdict{Outcome: service.OutcomeEmpty, Status: 404, Code: "37003", Title: "T", Detail: "D E", Provider: "P", Cause: "provider/404/37003"}},
		{404, `{"errors":[{"code":"404A"}]}`, service.Verdict{Outcome: service.OutcomeFailed, Status: 404, Code: "404A", Cause: "provider/404/404a"}},
		{404, `{"errors":[{"code":37003}]}`, service.Verdict{Outcome: service.OutcomeEmpty, Status: 404, Code: "37003", Cause: "provider/404/37003"}},
		{404, `<html>Not Found</html>`, service.Verdict{Outcome: service.OutcomeFailed, Status: 404, Cause: "provider/404"}},
		{404, `{"errors":[]}`, service.Verdict{Outcome: service.OutcomeFailed, Status: 404, Cause: "provider/404"}},
		{404, `{"errors":[{"code":"a/../b"}]}`, service.Verdict{Outcome: service.OutcomeFailed, Status: 404, Cause: "provider/404"}},
		{404, body + "x", service.Verdict{Outcome: service.OutcomeFailed, Status: 404, Cause: "provider/404"}},
		{204, ``, service.Verdict{Outcome: service.OutcomeFailed, Status: 204, Cause: "provider/204"}},
		{504, body, service.Verdict{Outcome: service.OutcomeFailed, Status: 504, Code: "37003", Title: "T", Detail: "D E", Provider: "P", Cause: "provider/504/37003"}},
		{500, strings.Repeat(`[`, 10000), service.Verdict{Outcome: service.OutcomeFailed, Status: 500, Cause: "provider/500"}},
	} {
		if diff := cmp.Diff(c.want, d.Judge(c.status, []byte(c.body))); diff != "" {
			t.Errorf("%d %.40s (-want +got):\n%s", c.status, c.body, diff)
		}
	}
	long := d.Judge(500, []byte(`{"errors":[{"code":"1","title":"`+strings.Repeat("é", 1000)+`"}]}`))
	if n := len([]rune(long.Title)); n != 300 {
		t.Errorf("a title of %d characters", n)
	}
}

func FuzzFilter(f *testing.F) {
	d := parse(f, small)
	all, some := plan(f, d), plan(f, d, "/data/objet/b", "/data/gens/*/nom", "/data/doc")
	who := asked(f, "pivot", "", marie)
	for _, s := range []string{
		`{"data":{"texte":"\u00e9","nombre":1.5e3,"entier":1,"vrai":true,"objet":{"a":"b"},"liste":[1,2],"gens":[{"nom":"A","prenoms":["B"],"date":"2021-06-31","sexe":"homme"}],"doc":"https://docs.example/x"}}`,
		`{"x":{"y":[1,"2",null,{"z":{}}]},"data":{"gens":[],"objet":null}}`, `{"data":{"lien":"http://a"}} `, `[`, `{"a":1,"a":2}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range []*service.Plan{all, some} {
			got, err := p.Filter(b)
			if err != nil {
				if !errors.Is(err, service.ErrAnswer) || got != nil {
					t.Errorf("%v", err)
				}
				continue
			}
			if !json.Valid(b) {
				t.Fatal("accepted what encoding/json refuses")
			}
			docs := make([]service.Document, len(got.Links()))
			for i := range docs {
				docs[i].MediaType = "application/pdf"
			}
			out, err := got.Data(docs...)
			if err != nil {
				t.Fatal(err)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, out); err != nil || !bytes.Equal(compact.Bytes(), out) {
				t.Fatalf("released what is not compact JSON: %q", out)
			}
			if bytes.Contains(out, []byte(`"nom":"`)) && p == some && len(got.Released()) == 0 {
				t.Error("released a field that isn't listed")
			}
			if len(docs) == 0 { // what was released passes again, unchanged
				again, err := p.Filter(out)
				if err != nil {
					t.Fatalf("what was released is refused: %v", err)
				}
				if o, err := again.Data(); err != nil || !bytes.Equal(o, out) || again.Dropped()+again.Undeclared() != 0 {
					t.Errorf("filtering twice differs: %q, %q", out, o)
				}
			}
			filings := got.File(who)
			seen := map[string]bool{}
			for _, e := range filings {
				name := string(e.Subject.Type()) + " " + e.Subject.Value()
				if e.Subject.IsZero() || seen[name] {
					t.Error("an entry for nobody, or two for the same")
				}
				seen[name] = true
				if _, err := proof.ParseSubject(string(e.Subject.Type()), e.Subject.Value()); err != nil {
					t.Errorf("not canonical: %v", err)
				}
			}
			if !filings[0].Subject.Equal(who.Subject()) || len(filings) > 1+got.People() {
				t.Error("the asked entry is not the first, or there are more entries than people")
			}
		}
	})
}

// twoKB is an answer of about 2 kB, one person in it.
func twoKB(b *testing.B) (*service.Definition, service.Asked, []byte) {
	d := definition(b, "quotient-familial")
	p := reference.Population{Size: 10, Seed: 1}
	who, err := p.Asked(3)
	if err != nil {
		b.Fatal(err)
	}
	q := p.Pivot(3)
	fill := strings.Repeat("RÉSIDENCE INVENTÉE POUR MESURER. ", 22)
	answer := fmt.Appendf(nil, `{"data":{"adresse":{"code_postal_ville":"75007 PARIS","complement_information":%q,"complement_information_geographique":%q,"destinataire":"EXEMPLE","lieu_dit":null,"numero_libelle_voie":"1 RUE DE L'EXEMPLE","pays":"FRANCE"},"allocataires":[{"nom_naissance":%q,"nom_usage":null,"prenoms":%q,"date_naissance":%q,"sexe":%q}],"enfants":[],"quotient_familial":{"fournisseur":"CNAF","valeur":1,"annee":2026,"mois":1,"annee_calcul":2026,"mois_calcul":1}},"links":{},"meta":{}}`,
		fill, fill, q.BirthName, q.GivenNames, q.BirthDate, q.Sex)
	return d, who, answer
}

func BenchmarkFilter(b *testing.B) {
	d, _, answer := twoKB(b)
	for name, fields := range map[string][]service.Pointer{"all": d.Fields(), "one": {"/data/quotient_familial/valeur"}} {
		b.Run(name, func(b *testing.B) {
			p := plan(b, d, fields...)
			b.SetBytes(int64(len(answer)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Filter(answer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFilterNames is an answer full of people with as many given names as are taken.
func BenchmarkFilterNames(b *testing.B) {
	p := plan(b, parse(b, small))
	person := `{"nom":"A","prenoms":["B"` + strings.Repeat(`,"B"`, 2047) + `]}`
	answer := []byte(`{"data":{"gens":[` + person + strings.Repeat(","+person, 4) + `]}}`)
	b.SetBytes(int64(len(answer)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Filter(answer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFile(b *testing.B) {
	d, who, answer := twoKB(b)
	f := filter(b, plan(b, d), string(answer))
	b.ReportAllocs()
	for b.Loop() {
		if len(f.File(who)) != 1 {
			b.Fatal("the person doesn't agree with the question")
		}
	}
}

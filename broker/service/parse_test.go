package service_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/broker/service"
)

// definition returns a reference service.
func definition(t testing.TB, id service.ID) *service.Definition {
	t.Helper()
	all, err := reference.Services("https://provider.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Definition.ID == id {
			return s.Definition
		}
	}
	t.Fatalf("no service %s", id)
	return nil
}

// small is a definition of which each line can be broken.
const small = `format: regard/service@v1
id: small
version: 1
title: {fr: Petit, en: Small}
provider: {id: p, name: P, siret: "90000001900019"}
endpoint: https://provider.example/v1/small
method: GET
subjects:
  ine: {value: ine}
  pivot: {birth_name: nom, each_given_name: "prenoms[]", birth_date: date, required: [birth_name]}
parameters:
  - {name: annee, type: integer, min: 2000, max: 2100, title: {fr: a, en: a}}
  - {name: jour, type: date, title: {fr: a, en: a}}
  - {name: niveau, type: enum, values: [bas, haut], title: {fr: a, en: a}}
  - {name: code, type: pattern, pattern: "[A-Z]{2}|x", max_length: 4, title: {fr: a, en: a}}
  - {name: texte, type: text, max_length: 5, title: {fr: a, en: a}}
select: {parameter: champs, by: field, separator: ","}
scopes:
  tout: {title: {fr: a, en: a}, fields: [/data]}
  un: {title: {fr: a, en: a}, fields: [/data/texte]}
answer:
  /data/texte: string?
  /data/nombre: number
  /data/entier: integer?
  /data/vrai: boolean
  /data/vide: object?
  /data/objet: object?
  /data/objet/a: string
  /data/objet/b: string
  /data/liste: array?
  /data/liste/*: integer
  /data/gens: array?
  /data/gens/*/nom: string?
  /data/gens/*/prenoms: array?
  /data/gens/*/prenoms/*: string
  /data/gens/*/sexe: string?
  /data/gens/*/date: string?
  /data/gens/*/age: integer?
  /data/lien: string?
  /data/doc: string?
  /data/site: string?
persons:
  - at: /data/gens/*
    birth_name: nom
    given_names: [prenoms]
    birth_date: date
    sex: sexe
    sex_values: {homme: M, femme: F}
    may_be_asked: true
    scopes: [un]
links:
  /data/lien: {mode: withhold}
  /data/doc: {mode: fetch, hosts: [docs.example, "docs.example:8443"], media_types: [application/pdf], max_bytes: 1000}
errors:
  code: /errors/0/code
  title: /errors/0/title
  detail: /errors/0/detail
  provider: /errors/0/meta/provider
  empty:
    - {status: 404, codes: ["404a", "37003"]}
limits: {first_byte: 1s, total: 2s, wait: 100ms, answer_bytes: 100000, concurrent: 4, persons: 5}
`

func parse(t testing.TB, text string) *service.Definition {
	t.Helper()
	d, err := service.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParseRefuses(t *testing.T) {
	parse(t, small)
	for _, c := range []struct{ name, old, new, want string }{
		{"format", "regard/service@v1", "regard/service@v2", "line 1: format"},
		{"unknown key", "method: GET", "method: GET\ncolour: red", "line 8: field colour not found"},
		{"unknown key inside", "{id: p,", "{id: p, town: x,", "line 5: field town not found"},
		{"repeated key", "method: GET", "method: GET\nid: other", "line 8"},
		{"alias", "title: {fr: Petit, en: Small}", "title: &a {fr: Petit, en: Small}", "line 4: anchors"},
		{"id", "id: small", "id: Small", "line 2: id"},
		{"a link that is passed on", "/data/lien: {mode: withhold}", "/data/lien: {mode: pass}", "mode: want withhold or fetch"},
		{"version", "version: 1", "version: 0", "line 3: version"},
		{"language", "{fr: Petit, en: Small}", "{fr: Petit}", "line 4: title.en"},
		{"siret", `"90000001900019"`, `"90000001900018"`, "line 5: provider.siret"},
		{"http", "https://provider.example/v1/small", "http://provider.example/v1/small", "line 6: endpoint"},
		{"user", "https://provider", "https://me@provider", "line 6: endpoint"},
		{"query", "/v1/small", "/v1/small?x=1", "line 6: endpoint"},
		{"dots", "/v1/small", "/v1/../small", "line 6: endpoint"},
		{"method", "method: GET", "method: POST", "line 7: method"},
		{"subject type", "ine: {value: ine}", "email: {value: ine}", "line 9: subjects.email"},
		{"person is no question", "ine: {value: ine}", "person: {value: ine}", "line 9: subjects.person"},
		{"subject without parameter", "ine: {value: ine}", "ine: {}", "line 9: subjects.ine.value"},
		{"parameter name", "value: ine", "value: 'i&n'", "line 9: subjects.ine.value"},
		{"parameter twice", "birth_date: date", "birth_date: nom", "line 10: subjects.pivot"},
		{"parameter twice, in all", "birth_date: date", "birth_date: annee", "line 10: subjects.pivot"},
		{"required", "[birth_name]", "[name]", "line 10: subjects.pivot.required[0]"},
		{"no bounds", "min: 2000, max: 2100,", "", "line 12"},
		{"bounds", "min: 2000", "min: 2200", "line 12"},
		{"enum", "values: [bas, haut]", "values: []", "line 14"},
		{"pattern", "[A-Z]{2}|x", "[A-Z", "line 15"},
		{"length", "max_length: 5", "max_length: 0", "line 16"},
		{"selection", "by: field", "by: luck", "line 17: select.by"},
		{"scope name", "  un: ", "  Un: ", "line 20"},
		{"scope of nothing", "fields: [/data/texte]", "fields: []", "line 20: scopes.un.fields"},
		{"scope of an unknown field", "fields: [/data/texte]", "fields: [/data/text]", "line 20: scopes.un.fields[0]"},
		{"scope of an empty object", "fields: [/data/texte]", "fields: [/data/vide]", "line 20: scopes.un.fields[0]"},
		{"type", "/data/texte: string?", "/data/texte: text", "line 22"},
		{"date format", "/data/texte: string?", "/data/texte: date", "line 22"},
		{"pointer", "/data/texte: string?", "data/texte: string?", "line 22"},
		{"root array", "/data/texte: string?", "/*/texte: string?\n  /data/texte: string", "line 22"},
		{"member of a string", "/data/nombre: number", "/data/texte/a: number", "line 23"},
		{"array and object", "/data/liste/*: integer", "/data/liste/a: integer", "line 31"},
		{"person nowhere", "at: /data/gens/*", "at: /data/personnes/*", "line 43: persons[0].at"},
		{"person at an array", "at: /data/gens/*", "at: /data/gens", "line 43: persons[0].at"},
		{"person without a name", "    birth_name: nom\n", "", "persons[0].birth_name"},
		{"name is a number", "    birth_name: nom\n", "    birth_name: age\n", "line 44: persons[0].birth_name"},
		{"member used twice", "    birth_date: date", "    birth_date: nom", "line 46: persons[0].birth_date"},
		{"sex", "{homme: M,", "{homme: H,", "line 48: persons[0].sex_values.homme"},
		{"scope of a person", "scopes: [un]", "scopes: [deux]", "line 50: persons[0].scopes[0]"},
		{"link nowhere", "/data/lien: {", "/data/liens: {", "line 52"},
		{"link is a number", "/data/lien: {", "/data/nombre: {", "line 52"},
		{"fetch from anywhere", "hosts: [docs.example, \"docs.example:8443\"]", "hosts: []", "line 53"},
		{"fetch from a pattern", "hosts: [docs.example,", "hosts: ['*.example',", "line 53"},
		{"empty by status alone", `codes: ["404a", "37003"]`, "codes: []", "line 60"},
		{"limit", "concurrent: 4", "concurrent: 0", "line 61: limits.concurrent"},
		{"total before first byte", "total: 2s", "total: 1ms", "line 61: limits.total"},
		{"a number for a time", "total: 2s", "total: often", "line 61"},
		{"two documents", "method: GET", "method: GET\n---\nid: other", ""},
		{"everything", small, "", "line 1"},
		{"not YAML", "{id: p,", "{id: p", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(small, c.old, c.new, 1)
			if text == small {
				t.Fatal("the case changes nothing")
			}
			_, err := service.Parse([]byte(text))
			if !errors.Is(err, service.ErrDefinition) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestDefinitionInCode(t *testing.T) {
	d := *parse(t, small)
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
	d.Endpoint = "http://provider.example"
	if err := d.Validate(); !errors.Is(err, service.ErrDefinition) {
		t.Errorf("got %v", err)
	}
	if _, err := service.NewPlan(new(service.Definition), []service.Pointer{"/data"}); !errors.Is(err, service.ErrPlan) {
		t.Errorf("the zero definition: %v", err)
	}
	if _, err := service.NewPlan[service.Pointer](nil, nil); !errors.Is(err, service.ErrPlan) {
		t.Errorf("no definition: %v", err)
	}
	if err := new(service.Definition).Check(service.Asked{}, nil); err == nil {
		t.Error("the zero definition takes a question")
	}
}

func TestDigest(t *testing.T) {
	a, b := parse(t, small), parse(t, small+"# \n")
	if a.Digest() == b.Digest() || a.Digest() != parse(t, small).Digest() || a.Digest() == [32]byte{} {
		t.Error("the digest is not that of the file")
	}
	if a.Ref() != "small@1" {
		t.Error(a.Ref())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	for _, s := range []string{"", "a: &a [*a]", "- ", "format: regard/service@v1\nanswer: {/a: string}\nscopes: {a: {fields: [/a]}}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := service.Parse(b)
		if err != nil {
			if !errors.Is(err, service.ErrDefinition) {
				t.Errorf("%v", err)
			}
			return
		}
		if err := d.Validate(); err != nil {
			t.Errorf("parsed, but not valid: %v", err)
		}
		if _, err := service.NewPlan(d, d.Fields()); err != nil {
			t.Errorf("parsed, but can't be planned: %v", err)
		}
	})
}

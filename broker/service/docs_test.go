package service

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/ledger/proof"
)

// TestDocumentation: docs/services.md names every key, and its example is a definition that reads the answer beside it.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/services.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(lang string) []byte {
		t.Helper()
		_, rest, ok := bytes.Cut(text, []byte("\n```"+lang+"\n"))
		b, _, end := bytes.Cut(rest, []byte("\n```\n"))
		if !ok || !end {
			t.Fatalf("no block of %s", lang)
		}
		return b
	}
	names := 0
	for name := range keys(reflect.TypeFor[Definition]()) {
		names++
		if !bytes.Contains(text, []byte("`"+name+"`")) {
			t.Errorf("docs/services.md doesn't name %s", name)
		}
	}
	if names < 50 {
		t.Errorf("%d keys were looked for", names)
	}

	d, err := Parse(block("yaml"))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := NewPlan(d, append(d.ScopeFields("montant"), d.ScopeFields("occupants")...))
	if err != nil {
		t.Fatal(err)
	}
	who, err := NewAsked("pivot", "", proof.Pivot{BirthName: "Exemple", GivenNames: "Zoé Marie", BirthDate: "1984-02-29", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Request(who, map[string]string{"mois": "2026-03"}); err != nil {
		t.Fatal(err)
	}
	f, err := plan.Filter(block("json"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range f.File(who) {
		got = append(got, e.Role+" "+string(e.Subject.Type())+" "+e.Subject.Value())
	}
	want := []string{"asked pivot EXEMPLE|ZOE MARIE|1984-02-29|F|75056|99100", "answer person EXEMPLE|NOE|2015-06-30|M"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("filed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(d.ScopeFields("montant"), d.ScopeFields("occupants")...), f.Released()); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
}

// keys are the names of all that a definition's file may hold.
func keys(t reflect.Type) map[string]bool {
	out := map[string]bool{}
	switch t.Kind() {
	case reflect.Map, reflect.Slice, reflect.Pointer:
		return keys(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name == "" {
				continue
			}
			out[name] = true
			for n := range keys(f.Type) {
				out[n] = true
			}
		}
	}
	return out
}

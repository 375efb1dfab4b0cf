package service_test

import (
	"net/url"
	"testing"

	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestTold: what a provider reads in a question names whom it was asked about, and nobody else.
func TestTold(t *testing.T) {
	all, err := reference.Services("https://provider.example")
	if err != nil {
		t.Fatal(err)
	}
	values := map[service.SubjectType]string{
		"nir": "255081416802538", "ine": "0123456789A", "france_travail": "dupont-42", "siren": "130025265", "siret": "13002526500013",
	}
	stranger := asked(t, "pivot", "", proof.Pivot{BirthName: "Autre", GivenNames: "Jean-Marie Zoé", BirthDate: "1980-02-29", Sex: "F", BirthPlace: "75107", BirthCountry: "99100"}).Subject()
	read := func(d *service.Definition, a service.Asked) (service.Told, bool) {
		t.Helper()
		params := map[string]string{}
		for _, p := range d.Parameters {
			if p.Required {
				params[p.Name] = map[service.ParameterType]string{service.TypeInteger: "2024", service.TypeDate: "2024-01-01"}[p.Type]
			}
		}
		r, err := plan(t, d).Request(a, params)
		if err != nil {
			return service.Told{}, false // it needs more, or another form
		}
		u, err := url.Parse(r.URL())
		if err != nil {
			t.Fatal(err)
		}
		told, err := d.Told(u.Query())
		if err != nil {
			t.Fatalf("%s: %v", d.ID, err)
		}
		// Nothing may stand beside it in which a provider could read somebody else.
		for _, m := range d.Subjects {
			for _, name := range []string{m.Value, m.BirthName, m.BirthDate, m.GivenNames, "Inconnu"} {
				if name == "" {
					continue
				}
				for _, value := range []string{"AUTRE", "1 80 01 75 107 001 01"} {
					q := u.Query()
					q.Add(name, value)
					if was := u.Query()[name]; len(was) == 0 && m.Value == "" && name != "Inconnu" && a.Subject().Type() == proof.TypePivot {
						continue // a part of the same identity that the question didn't state
					}
					if _, err := d.Told(q); err == nil {
						t.Errorf("%s: with a further %s", d.ID, name)
					}
				}
			}
		}
		return told, true
	}
	n := 0
	for _, s := range all {
		d := s.Definition
		for typ := range d.Subjects {
			people := []proof.Pivot{{}}
			if typ == "pivot" {
				people = []proof.Pivot{marie}
				for _, change := range []func(*proof.Pivot){
					func(p *proof.Pivot) { p.BirthDate = "1980" }, func(p *proof.Pivot) { p.BirthDate = "1980-02" }, func(p *proof.Pivot) { p.BirthDate = "1980-11-05" },
					func(p *proof.Pivot) { p.BirthPlace, p.BirthCountry = "", "99134" }, func(p *proof.Pivot) { p.Sex = "" }, func(p *proof.Pivot) { p.GivenNames = "" },
				} {
					p := marie
					change(&p)
					people = append(people, p)
				}
			}
			for _, p := range people {
				a := asked(t, typ, values[typ], p)
				told, ok := read(d, a)
				if !ok {
					continue
				}
				n++
				if !told.Names(a.Subject()) || told.Said.BirthName+told.Subject.Value() != "" && told.Names(stranger) {
					t.Errorf("%s, %s: the wrong person", d.ID, typ)
				}
			}
		}
		for _, q := range []string{"", "champs=x", "nir=1"} {
			v, _ := url.ParseQuery(q)
			if _, err := d.Told(v); err == nil {
				t.Errorf("%s: %q names somebody", d.ID, q)
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d questions were read", n)
	}
}

// TestToldDate: a service that asks by year and month alone.
func TestToldDate(t *testing.T) {
	told := service.Told{Said: proof.Stated{BirthName: "EXEMPLE", BirthDate: "1980-02"}}
	for date, want := range map[string]bool{"1980-02-29": true, "1980-02": true, "1980-03-01": false, "1980": false, "": false} {
		s := asked(t, "pivot", "", proof.Pivot{BirthName: "Exemple", BirthDate: date}).Subject()
		if told.Names(s) != want {
			t.Errorf("%q: %v", date, !want)
		}
	}
}

// TestStated: the people of an answer are those under whom the broker files it.
func TestStated(t *testing.T) {
	d := definition(t, "quotient-familial")
	body := []byte(`{"data": {"allocataires": [
		{"nom_naissance": "L'HERITIER FILS", "prenoms": "JEAN MARIE ZOE", "date_naissance": "1980-02-29", "sexe": "F"},
		{"nom_naissance": "Autre", "prenoms": "Loïc", "date_naissance": "1982-31-02", "sexe": "M"}], "enfants": [{"nom_naissance": "Autre", "prenoms": "Zoé"}, {"prenoms": "Sans Nom"}]}}`)
	f, err := plan(t, d).Filter(body)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []proof.Pivot{marie, {BirthName: "L'Héritier Fils", BirthDate: "1980"}, {BirthName: "Autre", GivenNames: "Zoé", BirthDate: "2015-01-01", Sex: "F", BirthPlace: "75107", BirthCountry: "99100"}} {
		who := asked(t, "pivot", "", p)
		type name struct {
			typ   proof.SubjectType
			value string
		}
		of := func(s proof.Subject) name { return name{s.Type(), s.Value()} }
		want := map[name]bool{}
		for _, filing := range f.File(who) {
			want[of(filing.Subject)] = true
		}
		got := map[name]bool{of(who.Subject()): true}
		pivot, _ := who.Subject().Pivot()
		for _, s := range f.Stated() {
			if s.MayBeAsked && pivot.Identifies(s.Said) {
				continue
			}
			got[of(s.Person)] = true
		}
		if len(got) != len(want) || len(got) < 3 {
			t.Fatalf("%d people, want %d", len(got), len(want))
		}
		for s := range want {
			if !got[s] {
				t.Error("somebody is missing")
			}
		}
	}
}

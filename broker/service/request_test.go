package service_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

var marie = proof.Pivot{BirthName: "L'Héritier & Fils", GivenNames: "Jean-Marie  Zoé", BirthDate: "1980-02-29", Sex: "F", BirthPlace: "75107", BirthCountry: "99100"}

func asked(t testing.TB, typ service.SubjectType, value string, p proof.Pivot) service.Asked {
	t.Helper()
	a, err := service.NewAsked(typ, value, p)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func plan(t testing.TB, d *service.Definition, granted ...service.Pointer) *service.Plan {
	t.Helper()
	if granted == nil {
		granted = d.Fields()
	}
	p, err := service.NewPlan(d, granted)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRequest(t *testing.T) {
	d := definition(t, "quotient-familial")
	r, err := plan(t, d, "/data/quotient_familial/valeur").Request(asked(t, "pivot", "", marie), map[string]string{"annee": "2024", "mois": "9"})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"nomNaissance": {"L'Héritier & Fils"}, "prenoms[]": {"Jean-Marie", "Zoé"}, "anneeDateNaissance": {"1980"}, "moisDateNaissance": {"2"}, "jourDateNaissance": {"29"},
		"sexeEtatCivil": {"F"}, "codeCogInseeCommuneNaissance": {"75107"}, "codeCogInseePaysNaissance": {"99100"}, "annee": {"2024"}, "mois": {"9"},
		"champs": {"/data/allocataires/*/date_naissance,/data/allocataires/*/nom_naissance,/data/allocataires/*/prenoms,/data/allocataires/*/sexe," +
			"/data/enfants/*/date_naissance,/data/enfants/*/nom_naissance,/data/enfants/*/prenoms,/data/enfants/*/sexe,/data/quotient_familial/valeur"},
	}
	if diff := cmp.Diff(want, u.Query()); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
	if u.Scheme+"://"+u.Host+u.Path != d.Endpoint {
		t.Errorf("asks %s", u.Path)
	}
}

// TestRequested: with what a provider can select, nothing is asked for but what is granted and who it is about.
func TestRequested(t *testing.T) {
	byScope := plan(t, definition(t, "etudiant-boursier"), "/data/email")
	want := []service.Pointer{"/data/email", "/data/identite/date_naissance", "/data/identite/nom", "/data/identite/nom_commune_naissance", "/data/identite/prenoms/*", "/data/identite/sexe"}
	if diff := cmp.Diff(want, byScope.Requested()); diff != "" {
		t.Errorf("by scope (-want +got):\n%s", diff)
	}
	all := definition(t, "statut-etudiant")
	if diff := cmp.Diff(all.Fields(), plan(t, all, "/data/admissions/*/est_inscrit").Requested()); diff != "" {
		t.Errorf("without selection (-want +got):\n%s", diff)
	}
	for _, granted := range [][]service.Pointer{nil, {}, {"/data"}, {"/data/admissions"}, {"/data/identite/prenom", "/data/autre"}} {
		if _, err := service.NewPlan(all, granted); !errors.Is(err, service.ErrPlan) {
			t.Errorf("%v: got %v", granted, err)
		}
	}
}

// TestInjection: nothing that a caller says can leave its value.
func TestInjection(t *testing.T) {
	d := parse(t, small)
	p := plan(t, d)
	for _, evil := range []string{"../", "..%2f..%2f", "%2e%2e", "a&ine=1", "a#b", "a?b=c", "a;b", "a+b", "x=y", "é\u202e", "<>\"'", "https://x/", "\\..\\"} {
		name := "A" + evil
		r, err := p.Request(asked(t, "pivot", "", proof.Pivot{BirthName: name, GivenNames: name}), nil)
		if err != nil {
			t.Errorf("%q: %v", evil, err)
			continue
		}
		u, err := url.Parse(r.URL())
		if err != nil {
			t.Fatal(err)
		}
		if u.EscapedPath() != "/v1/small" || u.Host != "provider.example" || u.Fragment != "" {
			t.Errorf("%q: reaches another place", evil)
		}
		q, err := url.ParseQuery(u.RawQuery)
		if err != nil || q.Get("nom") != name || len(q) != 3 {
			t.Errorf("%q: the query is %v", evil, q)
		}
		if strings.ContainsAny(u.RawQuery, "/\\#?;<>\"' ") || strings.Contains(u.RawQuery, "..%2f") {
			t.Errorf("%q: not escaped: %s", evil, u.RawQuery)
		}
	}
	for _, evil := range []string{"\x00", "a\r\nX: y", "a\nb", "\x1b[1m", "a\tb", "\u0085", "\xff", "\x7f", strings.Repeat("é", 256)} {
		var bad *service.RequestError
		if _, err := service.NewAsked("pivot", "", proof.Pivot{BirthName: "A" + evil}); !errors.As(err, &bad) || bad.Parameter != "/subject/birth_name" {
			t.Errorf("%q as a name: %v", evil, err)
		}
		if _, err := service.NewAsked("ine", "1234567890"+evil, proof.Pivot{}); !errors.As(err, &bad) {
			t.Errorf("%q as an identifier: %v", evil, err)
		}
		if _, err := p.Request(asked(t, "ine", "1234567890A", proof.Pivot{}), map[string]string{"texte": evil}); !errors.As(err, &bad) || bad.Parameter != "/parameters/texte" {
			t.Errorf("%q as a parameter: %v", evil, err)
		}
	}
}

func TestParameters(t *testing.T) {
	d := parse(t, small)
	who := asked(t, "ine", "1234567890a", proof.Pivot{})
	for _, c := range []struct{ name, good, bad string }{
		{"annee", "2000", "1999"}, {"annee", "2100", "02000"}, {"annee", "2050", "2050.0"}, {"annee", "2050", "+2050"}, {"annee", "2050", "9223372036854775808"},
		{"jour", "2024-02-29", "2023-02-29"}, {"jour", "2024-02-29", "29/02/2024"}, {"jour", "2024-02-29", "2024-2-29"},
		{"niveau", "haut", "Haut"}, {"code", "AB", "ABC"}, {"code", "x", "AB\n"}, {"code", "x", "xx"}, {"texte", "ééééé", "éééééé"}, {"texte", "a", ""},
		{"annee", "2000", ""},
	} {
		if err := d.Check(who, map[string]string{c.name: c.good}); err != nil {
			t.Errorf("%s=%q: %v", c.name, c.good, err)
		}
		var bad *service.RequestError
		if err := d.Check(who, map[string]string{c.name: c.bad}); !errors.As(err, &bad) || !errors.Is(err, service.ErrRequest) || bad.Parameter != "/parameters/"+c.name {
			t.Errorf("%s=%q: %v", c.name, c.bad, err)
		}
	}
	if err := d.Check(who, map[string]string{"autre": "x"}); !errors.Is(err, service.ErrRequest) {
		t.Errorf("unknown parameter: %v", err)
	}
	required := definition(t, "revenu-fiscal")
	var bad *service.RequestError
	if err := required.Check(asked(t, "pivot", "", marie), nil); !errors.As(err, &bad) || bad.Parameter != "/parameters/annee" {
		t.Errorf("missing parameter: %v", err)
	}
}

func TestAsked(t *testing.T) {
	if s := asked(t, "siret", "900 000 019 00019", proof.Pivot{}).Subject(); s.Type() != proof.TypeSIREN || s.Value() != "900000019" {
		t.Error("a SIRET is not filed under its SIREN")
	}
	r, err := plan(t, definition(t, "adresse-etablissement")).Request(asked(t, "siret", "900 000 019 00019", proof.Pivot{}), nil)
	if err != nil || !strings.HasSuffix(r.URL(), "?siret=90000001900019") {
		t.Errorf("a SIRET is not asked as one: %v", err)
	}
	for _, c := range []struct {
		typ   service.SubjectType
		value string
		pivot proof.Pivot
		where string
	}{
		{"siren", "900000018", proof.Pivot{}, "/subject/value"},
		{"siret", "90000001900018", proof.Pivot{}, "/subject/value"},
		{"nir", "180029912345678", proof.Pivot{}, "/subject/value"},
		{"ine", "", proof.Pivot{}, "/subject/value"},
		{"france_travail", "a b", proof.Pivot{}, "/subject/value"},
		{"person", "A|B||", proof.Pivot{}, "/subject/type"},
		{"", "x", proof.Pivot{}, "/subject/type"},
		{"ine", "1234567890A", proof.Pivot{BirthName: "A"}, "/subject"},
		{"pivot", "x", marie, "/subject/value"},
		{"pivot", "", proof.Pivot{}, "/subject"},
		{"pivot", "", proof.Pivot{BirthName: "A", BirthPlace: "00404"}, "/subject"},
		{"pivot", "", proof.Pivot{BirthName: "A", BirthDate: "1980-02-30"}, "/subject"},
		{"pivot", "", proof.Pivot{BirthName: "123"}, "/subject"},
	} {
		_, err := service.NewAsked(c.typ, c.value, c.pivot)
		var bad *service.RequestError
		if !errors.As(err, &bad) || bad.Parameter != c.where {
			t.Errorf("%s %q: got %v, want %s", c.typ, c.value, err, c.where)
		}
		if c.value != "" && len(c.value) > 3 && strings.Contains(err.Error(), c.value) {
			t.Errorf("%s: the error repeats the value", c.typ)
		}
	}
	d := definition(t, "quotient-familial")
	if err := d.Check(asked(t, "ine", "1234567890A", proof.Pivot{}), nil); !errors.Is(err, service.ErrRequest) {
		t.Errorf("wrong type of subject: %v", err)
	}
	if err := d.Check(service.Asked{}, nil); !errors.Is(err, service.ErrRequest) {
		t.Errorf("nobody: %v", err)
	}
	var bad *service.RequestError
	if err := definition(t, "commune").Check(asked(t, "pivot", "", proof.Pivot{BirthName: "A"}), nil); !errors.As(err, &bad) || bad.Parameter != "/subject/birth_place" {
		t.Errorf("missing part: %v", err)
	}
}

// TestOnlyWhatIsNeeded: a service that needs a place doesn't learn who was born there.
func TestOnlyWhatIsNeeded(t *testing.T) {
	r, err := plan(t, definition(t, "commune")).Request(asked(t, "pivot", "", marie), nil)
	if err != nil || !strings.HasSuffix(r.URL(), "/commune?code=75107") {
		t.Errorf("%v", err)
	}
}

// TestRedaction: what holds an identity doesn't print it.
func TestRedaction(t *testing.T) {
	who := asked(t, "pivot", "", marie)
	r, err := plan(t, definition(t, "quotient-familial")).Request(who, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := plan(t, parse(t, small)).Filter([]byte(`{"data":{"texte":"Héritier","gens":[{"nom":"Héritier"}],"doc":"https://docs.example/Heritier"}}`))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	l := slog.New(slog.NewTextHandler(&out, nil))
	for _, v := range []any{who, &who, r, f, f.Links()[0], f.File(who), struct{ a any }{f}, []any{r}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %q\n", v, v, v, v, v)
		l.Info("x", "v", v)
	}
	for _, secret := range []string{"ritier", "HERITIER", "1980", "75107"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q is printed: %s", secret, out.String())
		}
	}
}

// FuzzRequest: whatever a caller says is a value of the query, or refused.
func FuzzRequest(f *testing.F) {
	f.Add("L'Héritier", "Jean-Marie Zoé", "1980-02-29", "texte", "x")
	f.Add("A&ine=1", "../..", "", "texte", "%0d%0a")
	f.Add("A\x00", "#", "1980", "annee", "2024")
	d := parse(f, small)
	p := plan(f, d)
	f.Fuzz(func(t *testing.T, name, given, date, parameter, value string) {
		who, err := service.NewAsked("pivot", "", proof.Pivot{BirthName: name, GivenNames: given, BirthDate: date})
		if err != nil {
			if !errors.Is(err, service.ErrRequest) {
				t.Errorf("%v", err)
			}
			return
		}
		r, err := p.Request(who, map[string]string{parameter: value})
		if (err == nil) != (d.Check(who, map[string]string{parameter: value}) == nil) {
			t.Error("Check and Request differ")
		}
		if err != nil {
			if !errors.Is(err, service.ErrRequest) {
				t.Errorf("%v", err)
			}
			return
		}
		query, ok := strings.CutPrefix(r.URL(), d.Endpoint+"?")
		if !ok || strings.ContainsAny(query, "/\\#?<>\"' ") || strings.ContainsFunc(query, func(c rune) bool { return c < 0x21 || c > 0x7e }) {
			t.Fatalf("reaches another place: %q", r.URL())
		}
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		want := url.Values{"nom": {strings.TrimSpace(name)}, parameter: {value}, "champs": q["champs"]}
		if g := strings.Fields(given); len(g) > 0 {
			want["prenoms[]"] = g
		}
		if date != "" {
			want["date"] = []string{date}
		}
		if diff := cmp.Diff(want, q); diff != "" {
			t.Errorf("query (-want +got):\n%s", diff)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	p := plan(b, definition(b, "quotient-familial"))
	who := asked(b, "pivot", "", marie)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Request(who, map[string]string{"annee": "2024"}); err != nil {
			b.Fatal(err)
		}
	}
}

package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
)

const canonicalInput = `{"agency":{"id":"ville-de-test","siret":"21750001600019","state":"active"},` +
	`"agreement":` + canonicalAgreement + `,"agreement_digest":"` + digestAgreement + `",` +
	`"channel":"api","has_context":true,"has_object":true,"legal_basis":"crpa-l114-8","purpose":"tarification-cantine",` +
	`"recipient":{"siret":"21750001600019","valid":true},"recipient_is_subject":false,"schema":"regard/input@v1",` +
	`"scopes":["enfants","quotient_familial"],"service":{"id":"quotient-familial","provider":"cnaf","scopes":{` +
	`"enfants":["/data/enfants/date_naissance","/data/enfants/nom","/data/enfants/prenoms","/data/enfants/sexe"],` +
	`"quotient_familial":["/data/quotient_familial/annee","/data/quotient_familial/mois","/data/quotient_familial/valeur"]},` +
	`"subject_types":["person","pivot"],"version":2},"subject_type":"pivot","time":1772323200000}`

const canonicalAgreement = `{"agency":"ville-de-test","id":"ville-de-test-cantine","legal_bases":["crpa-l114-8"],"not_after":1798761599999,` +
	`"not_before":1767225600000,"obligations":["notify_person"],"purposes":["tarification-cantine","tarification-creche"],` +
	`"schema":"regard/agreement@v1","scopes":["allocataires","enfants","quotient_familial"],"service":"quotient-familial",` +
	`"state":"active","version":3}`

// digestAgreement was computed with Python's hashlib.
const digestAgreement = "jcDMh0todRJrZipv+lCMvOW6K0k0mAr9uCCcqDnGeCk="

// TestCanonical pins the form that is recorded: it can't change in place.
func TestCanonical(t *testing.T) {
	b, err := fixtureInput().Canonical()
	if diff := cmp.Diff(canonicalInput, string(b)); diff != "" || err != nil {
		t.Errorf("%s (%v)", diff, err)
	}
	in, err := ParseInput(b)
	if diff := cmp.Diff(fixtureInput(), in); diff != "" || err != nil {
		t.Errorf("%s (%v)", diff, err)
	}
	none := fixtureInput()
	none.Agreement, none.AgreementDigest = nil, Digest{}
	if b, err = none.Canonical(); err != nil || bytes.Contains(b, []byte(`"agreement`)) {
		t.Errorf("%s (%v)", b, err)
	}
	if in, err = ParseInput(b); err != nil || in.Agreement != nil || !in.AgreementDigest.IsZero() {
		t.Errorf("%+v (%v)", in, err)
	}
}

func TestCanonicalOrder(t *testing.T) {
	in := fixtureInput()
	slices.Reverse(in.Scopes)
	in.Scopes = append(in.Scopes, in.Scopes[0])
	slices.Reverse(in.Service.SubjectTypes)
	slices.Reverse(in.Service.Scopes["enfants"])
	slices.Reverse(in.Agreement.Scopes)
	slices.Reverse(in.Agreement.Purposes)
	in.Time = in.Time.Add(999 * time.Microsecond).In(time.FixedZone("", 3600))
	before := slices.Clone(in.Scopes)
	b, err := in.Canonical()
	if diff := cmp.Diff(canonicalInput, string(b)); diff != "" || err != nil {
		t.Errorf("%s (%v)", diff, err)
	}
	if !slices.Equal(before, in.Scopes) || in.Service.Scopes["enfants"][0] != "/data/enfants/sexe" {
		t.Error("the caller's lists were changed")
	}
}

// TestNoIdentity pins every key of an input. Before you add one, ask whether its value could name a person: the person who is asked about
// (subject, context, object) or the official who asks. Values are tokens, digits, pointers and numbers, and no free text.
func TestNoIdentity(t *testing.T) {
	want := []string{
		"agency.id", "agency.siret", "agency.state",
		"agreement.agency", "agreement.deferral.article", "agreement.deferral.authority", "agreement.deferral.days", "agreement.deferral.reference", "agreement.id", "agreement.legal_bases", "agreement.not_after", "agreement.not_before", "agreement.obligations",
		"agreement.purposes", "agreement.schema", "agreement.scopes", "agreement.service", "agreement.state", "agreement.version",
		"agreement_digest", "channel", "has_context", "has_object", "legal_basis", "purpose", "recipient.siret", "recipient.valid",
		"recipient_is_subject", "schema", "scopes", "service.id", "service.provider", "service.scopes", "service.subject_types",
		"service.version", "subject_type", "time",
	}
	var got []string
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			got = append(got, strings.TrimPrefix(prefix, "."))
			return
		}
		for i := range typ.NumField() {
			walk(prefix+"."+typ.Field(i).Tag.Get("json"), typ.Field(i).Type)
		}
	}
	walk("", reflect.TypeFor[inputJSON]())
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the keys of an input changed: %s", diff)
	}
	for _, free := range []string{"Marie Durand", "marie.durand@ville.fr", "Dossier n° 12", "é"} {
		for name, change := range map[string]func(*Input){
			"purpose":      func(in *Input) { in.Purpose = Purpose(free) },
			"legal basis":  func(in *Input) { in.LegalBasis = LegalBasis(free) },
			"recipient":    func(in *Input) { in.Recipient = SIRET(free) },
			"subject type": func(in *Input) { in.SubjectType = SubjectType(free) },
			"channel":      func(in *Input) { in.Channel = Channel(free) },
			"scope":        func(in *Input) { in.Scopes = []Scope{Scope(free)} },
			"agency":       func(in *Input) { in.Agency.ID = AgencyID(free) },
		} {
			in := fixtureInput()
			change(&in)
			_, err := in.Canonical()
			if !errors.Is(err, ErrInput) {
				t.Errorf("%s takes free text: %v", name, err)
			} else if strings.Contains(err.Error(), free) {
				t.Errorf("%s: the error tells the value: %v", name, err)
			}
		}
	}
}

func TestInputRefused(t *testing.T) {
	tests := map[string]func(*Input){
		"zero":                      func(in *Input) { *in = Input{} },
		"agency without state":      func(in *Input) { in.Agency.State = "" },
		"agency without id":         func(in *Input) { in.Agency.ID = "" },
		"agency with a wrong SIRET": func(in *Input) { in.Agency.SIRET = "21750001600018" },
		"unknown agency with an id": func(in *Input) { in.Agency.State = AgencyUnknown },
		"digest without agreement":  func(in *Input) { in.Agreement = nil },
		"agreement without digest":  func(in *Input) { in.AgreementDigest = Digest{} },
		"agreement was changed":     func(in *Input) { in.Agreement.Purposes = append(in.Agreement.Purposes, "curiosite") },
		"agreement is not valid":    func(in *Input) { in.Agreement.Version = 0 },
		"no service":                func(in *Input) { in.Service.ID = "" },
		"no provider":               func(in *Input) { in.Service.Provider = "" },
		"no service version":        func(in *Input) { in.Service.Version = 0 },
		"scope not asked for":       func(in *Input) { in.Scopes = in.Scopes[:1] },
		"scope without fields":      func(in *Input) { in.Service.Scopes["enfants"] = nil },
		"empty pointer":             func(in *Input) { in.Service.Scopes["enfants"] = []Pointer{""} },
		"not a pointer":             func(in *Input) { in.Service.Scopes["enfants"] = []Pointer{"nom"} },
		"bad escape in a pointer":   func(in *Input) { in.Service.Scopes["enfants"] = []Pointer{"/a~2"} },
		"control in a pointer":      func(in *Input) { in.Service.Scopes["enfants"] = []Pointer{"/a\n"} },
		"long recipient":            func(in *Input) { in.Recipient = "217500016000190" },
		"letters in the recipient":  func(in *Input) { in.Recipient = "2175000160001x" },
		"before 1970":               func(in *Input) { in.Time = time.UnixMilli(-1) },
		"after 9999":                func(in *Input) { in.Time = time.UnixMilli(maxTime + 1) },
		"no time":                   func(in *Input) { in.Time = time.Time{} },
		"too many scopes": func(in *Input) {
			for i := range maxScopes {
				in.Scopes = append(in.Scopes, Scope("s"+string(appendInt(nil, int64(i)))))
			}
		},
		"too many fields": func(in *Input) {
			in.Service.Scopes["enfants"] = make([]Pointer, maxPointers+1)
			for i := range in.Service.Scopes["enfants"] {
				in.Service.Scopes["enfants"][i] = Pointer("/" + string(appendInt(nil, int64(i))))
			}
		},
	}
	e := newEngine(t, Config{})
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			in := fixtureInput()
			change(&in)
			d, err := e.Decide(t.Context(), in)
			if !errors.Is(err, ErrInput) {
				t.Errorf("got %v", err)
			}
			if _, ok := d.Granted(); ok || d.Input() != nil || len(d.Reasons()) != 0 {
				t.Error("something was decided")
			}
		})
	}
}

// TestAgreementIsTheLoggedOne: an agreement that was changed after it was logged decides nothing.
func TestAgreementIsTheLoggedOne(t *testing.T) {
	a, err := ParseAgreement([]byte(canonicalAgreement))
	if err != nil {
		t.Fatal(err)
	}
	in := fixtureInput()
	in.rely(a)
	e := newEngine(t, Config{})
	d, err := e.Decide(t.Context(), in)
	if _, ok := d.Granted(); !ok || err != nil {
		t.Fatalf("refused for %v (%v)", d.Codes(), err)
	}
	a.State = AgreementRevoked
	if _, err := e.Decide(t.Context(), in); !errors.Is(err, ErrInput) {
		t.Errorf("changed after it was logged: %v", err)
	}
	in.rely(a)
	if d, err := e.Decide(t.Context(), in); err != nil || !slices.Equal(d.Codes(), []Code{"agreement.revoked"}) {
		t.Errorf("refused for %v (%v)", d.Codes(), err)
	}
}

func TestParseRefused(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(canonicalInput, old) {
			t.Fatalf("no %s", old)
		}
		return strings.Replace(canonicalInput, old, new, 1)
	}
	for name, s := range map[string]string{
		"empty":             "",
		"null":              "null",
		"white space":       replace(`,"purpose"`, `, "purpose"`),
		"trailing":          canonicalInput + "\n",
		"two":               canonicalInput + canonicalInput,
		"unknown key":       replace(`"channel":`, `"chain":1,"channel":`),
		"another case":      replace(`"channel":`, `"Channel":`),
		"duplicate key":     replace(`"channel":"api",`, `"channel":"api","channel":"api",`),
		"order":             replace(`"channel":"api","has_context":true,`, `"has_context":true,"channel":"api",`),
		"missing key":       replace(`"channel":"api",`, ``),
		"missing boolean":   replace(`"recipient_is_subject":false,`, ``),
		"unsorted list":     replace(`"enfants","quotient_familial"`, `"quotient_familial","enfants"`),
		"escape":            replace(`"api"`, `"\u0061pi"`),
		"escaped slash":     replace(`"/data/enfants/nom"`, `"\/data/enfants/nom"`),
		"float":             replace(`1772323200000`, `1772323200000.0`),
		"exponent":          replace(`1772323200000`, `1e3`),
		"string for number": replace(`1772323200000`, `"1772323200000"`),
		"null list":         replace(`"scopes":["enfants","quotient_familial"]`, `"scopes":null`),
		"null agreement":    replace(canonicalAgreement, `null`),
		"schema":            replace(`regard/input@v1`, `regard/input@v2`),
		"agreement schema":  replace(`regard/agreement@v1`, `regard/agreement@v2`),
		"wrong validity":    replace(`"siret":"21750001600019","valid":true`, `"siret":"21750001600018","valid":true`),
		"agreement changed": replace(`"tarification-creche"`, `"tarification-piscine"`),
		"digest changed":    replace(`"agreement_digest":"`, `"agreement_digest":"AAAA`),
		"too long":          canonicalInput + strings.Repeat(" ", MaxInput),
	} {
		if _, err := ParseInput([]byte(s)); !errors.Is(err, ErrInput) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParseInput(f *testing.F) {
	f.Add([]byte(canonicalInput))
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		b, err := randomInput(r).Canonical()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := ParseInput(b)
		if err != nil {
			if !errors.Is(err, ErrInput) {
				t.Errorf("%v does not wrap ErrInput", err)
			}
			return
		}
		again, err := in.Canonical()
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%q became %q (%v)", b, again, err)
		}
		sameValue(t, in)
	})
}

func FuzzParseAgreement(f *testing.F) {
	f.Add([]byte(canonicalAgreement))
	f.Add([]byte(deferringAgreement))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAgreement(b)
		if err != nil {
			return
		}
		if again, err := a.Canonical(); err != nil || !bytes.Equal(b, again) {
			t.Errorf("%q became %q (%v)", b, again, err)
		}
	})
}

var known services // shared by all tests, so that terms are found again

// sameValue holds the terms that are evaluated against the bytes that are recorded.
func sameValue(t *testing.T, in Input) {
	t.Helper()
	n, err := in.normal()
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(n.canonical))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if want, got := ast.MustInterfaceToValue(v), n.value(&known); want.Compare(got) != 0 {
		t.Errorf("recorded %v, evaluated %v", want, got)
	}
}

func TestSameValue(t *testing.T) {
	sameValue(t, fixtureInput())
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		sameValue(t, randomInput(r))
	}
}

// randomInput is valid, often granted, and often refused for a few reasons.
func randomInput(r *rand.Rand) Input {
	in := fixtureInput()
	a := fixtureAgreement()
	in.Service.Scopes = maps.Clone(in.Service.Scopes)
	for range r.IntN(4) {
		switch r.IntN(19) {
		case 0:
			in.Agency = Agency{State: AgencyUnknown}
		case 1:
			in.Agency = Agency{ID: "ville-de-test", SIRET: "21750001600019", State: AgencyRetired}
		case 2:
			a.State = AgreementRevoked
		case 3:
			in.Time = time.UnixMilli(r.Int64N(maxTime))
		case 4:
			in.Time = []time.Time{a.NotBefore, a.NotAfter, a.NotBefore.Add(-time.Millisecond), a.NotAfter.Add(time.Millisecond)}[r.IntN(4)]
		case 5:
			a.Agency = "autre"
		case 6:
			a.Service = "autre"
		case 7:
			in.Purpose = []Purpose{"tarification-creche", "curiosite"}[r.IntN(2)]
		case 8:
			in.LegalBasis = "habitude"
		case 9:
			in.Scopes = append(slices.Clone(in.Scopes), []Scope{"allocataires", "zones"}[r.IntN(2)])
		case 10:
			in.Scopes = append(slices.Clone(in.Scopes), "revenus")
			in.Service.Scopes["revenus"] = []Pointer{`/a"b\c~0é`, "/data"}
		case 11:
			in.Scopes, in.Service.Scopes = nil, nil
			in.Service.Scopes = map[Scope][]Pointer{}
		case 12:
			in.SubjectType = []SubjectType{"ine", "person"}[r.IntN(2)]
		case 13:
			in.RecipientIsSubject = true
		case 14:
			in.Recipient = []SIRET{"", "1", "21750001600018", "35600000000048"}[r.IntN(4)]
		case 15:
			in.HasContext, in.HasObject = r.IntN(2) == 0, r.IntN(2) == 0
		case 16:
			a.Obligations = []Obligation{ObligationWaitForWitnesses, ObligationNotifyPerson}[:r.IntN(3)]
		case 17:
			a = nil
		case 18:
			a.Deferral = fixtureDeferral()
			a.Deferral.Days += r.Int64N(400)
		}
		if a == nil {
			break
		}
	}
	in.Agreement, in.AgreementDigest = nil, Digest{}
	if a != nil {
		in.rely(a)
	}
	return in
}

func TestAgreementRefused(t *testing.T) {
	for name, change := range map[string]func(*Agreement){
		"zero":               func(a *Agreement) { *a = Agreement{} },
		"no id":              func(a *Agreement) { a.ID = "" },
		"no agency":          func(a *Agreement) { a.Agency = "" },
		"no service":         func(a *Agreement) { a.Service = "" },
		"version":            func(a *Agreement) { a.Version = 0 },
		"no scope":           func(a *Agreement) { a.Scopes = nil },
		"no purpose":         func(a *Agreement) { a.Purposes = nil },
		"no legal basis":     func(a *Agreement) { a.LegalBases = nil },
		"not a token":        func(a *Agreement) { a.Purposes = []Purpose{"Tout"} },
		"unknown state":      func(a *Agreement) { a.State = "suspended" },
		"no end":             func(a *Agreement) { a.NotAfter = time.Time{} },
		"no beginning":       func(a *Agreement) { a.NotBefore = time.Time{} },
		"ends before":        func(a *Agreement) { a.NotAfter = a.NotBefore.Add(-time.Millisecond) },
		"unknown obligation": func(a *Agreement) { a.Obligations = append(a.Obligations, "phone") },
		"empty deferral":     func(a *Agreement) { a.Deferral = &Deferral{} },
		"nobody's delay":     func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Authority = "" },
		"unlawful delay":     func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Article = "" },
		"no reference":       func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Reference = "" },
		"long authority":     func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Authority = strings.Repeat("é", 101) },
		"space in front":     func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Article = " x" },
		"space behind":       func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Reference = "x " },
		"line feed":          func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Authority = "a\nb" },
		"C1 control":         func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Article = "a\u0085b" },
		"not UTF-8":          func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Reference = "a\xffb" },
		"no delay":           func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Days = 0 },
		"endless delay":      func(a *Agreement) { a.Deferral = fixtureDeferral(); a.Deferral.Days = MaxDeferral + 1 },
	} {
		a := fixtureAgreement()
		change(a)
		if err := a.Validate(); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := a.Canonical(); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
		if d, err := a.Digest(); err == nil || !d.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func fixtureDeferral() *Deferral {
	return &Deferral{Authority: `Tribunal judiciaire d'Exempleville "A"`, Article: "CPP art. 60-1", Reference: "n° 12/2026", Days: 90}
}

// deferringAgreement is the fixture's with its deferral, written by hand.
var deferringAgreement = strings.Replace(canonicalAgreement, `"id":`,
	`"deferral":{"article":"CPP art. 60-1","authority":"Tribunal judiciaire d'Exempleville \"A\"","days":90,"reference":"n° 12/2026"},"id":`, 1)

func TestAgreementWithDeferral(t *testing.T) {
	a := fixtureAgreement()
	a.Deferral = fixtureDeferral()
	text, err := a.Canonical()
	if err != nil || string(text) != deferringAgreement {
		t.Fatalf("%v\n%s\nwant\n%s", err, text, deferringAgreement)
	}
	again, err := ParseAgreement(text)
	if err != nil || *again.Deferral != *a.Deferral {
		t.Fatalf("%+v, %v", again, err)
	}
	in := fixtureInput()
	in.rely(a)
	sameValue(t, in)
	b, err := in.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ParseInput(b); err != nil || *back.Agreement.Deferral != *a.Deferral {
		t.Errorf("%+v, %v", back, err)
	}
	for name, text := range map[string]string{
		"null":            strings.Replace(canonicalAgreement, `"id":`, `"deferral":null,"id":`, 1),
		"in its place":    strings.Replace(canonicalAgreement, `"version":`, `"deferral":{"article":"a","authority":"b","days":1,"reference":"c"},"version":`, 1),
		"a member more":   strings.Replace(deferringAgreement, `"days":`, `"court":"x","days":`, 1),
		"a member less":   strings.Replace(deferringAgreement, `,"reference":"n° 12/2026"`, ``, 1),
		"days as text":    strings.Replace(deferringAgreement, `"days":90`, `"days":"90"`, 1),
		"days as a float": strings.Replace(deferringAgreement, `"days":90`, `"days":90.0`, 1),
	} {
		if _, err := ParseAgreement([]byte(text)); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeferralIsDue(t *testing.T) {
	d := Deferral{Days: 31}
	paris := time.FixedZone("", 3600)
	for asked, want := range map[time.Time]string{
		time.Date(2026, 1, 31, 23, 30, 0, 0, time.UTC): "2026-03",
		time.Date(2026, 1, 1, 0, 30, 0, 0, paris):      "2026-01", // the day before, in UTC
		time.Date(2027, 12, 1, 0, 0, 0, 0, time.UTC):   "2028-01",
	} {
		if got := d.Month(asked); got != want || !d.Due(asked).Equal(asked.Add(31*24*time.Hour)) {
			t.Errorf("asked %s: %s, %s; want %s", asked, got, d.Due(asked), want)
		}
	}
}

func TestSIRET(t *testing.T) {
	for s, want := range map[SIRET]bool{
		"21750001600019": true,  // Paris
		"21750001600018": false, // check digit
		"35600000000048": true,  // La Poste, by Luhn
		"35600000049837": true,  // La Poste, digits add up to 45
		"35600000049838": false,
		"00000000000000": false,
		"2175000160001":  false,
		"2175000160001a": false,
		"":               false,
	} {
		if s.Valid() != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func TestServicesAreBounded(t *testing.T) {
	var k services
	for i := range maxServices + 10 {
		in := fixtureInput()
		in.Service.Version = int64(i + 1)
		n, err := in.normal()
		if err != nil {
			t.Fatal(err)
		}
		first := k.term(n)
		if again := k.term(n); again != first || first.Value.Compare(n.serviceTerm().Value) != 0 {
			t.Fatal("not the term that was kept, or not of this service")
		}
		if len(k.terms) > maxServices {
			t.Fatalf("%d services are kept", len(k.terms))
		}
	}
}

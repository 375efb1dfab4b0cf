package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestGrant(t *testing.T) {
	e := newEngine(t, Config{})
	in := fixtureInput()
	d, err := e.Decide(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	g, ok := d.Granted()
	if !ok || !g.Valid() {
		t.Fatalf("refused: %v", d.Codes())
	}
	if len(d.Reasons()) != 0 || len(d.Codes()) != 0 {
		t.Errorf("granted, with reasons %v", d.Codes())
	}
	if diff := cmp.Diff([]Scope{"enfants", "quotient_familial"}, g.Scopes()); diff != "" {
		t.Error(diff)
	}
	want := slices.Concat(in.Service.Scopes["enfants"], in.Service.Scopes["quotient_familial"])
	if diff := cmp.Diff(want, g.Fields()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Obligation{ObligationNotifyPerson}, g.Obligations()); diff != "" {
		t.Error(diff)
	}
	if !g.Obliges(ObligationNotifyPerson) || g.Obliges(ObligationWaitForWitnesses) {
		t.Error("Obliges differs from Obligations")
	}
	if g.Agency() != "ville-de-test" || g.Service().String() != "quotient-familial@2" || g.Agreement().String() != "ville-de-test-cantine@3" {
		t.Errorf("granted to %s for %s under %s", g.Agency(), g.Service(), g.Agreement())
	}
	if g.Bundle() != builtin(t).Digest() || d.Bundle() != g.Bundle() || d.Revision() != "1.0.0" {
		t.Error("names another bundle than the built-in one")
	}
	canonical, err := in.Canonical()
	if err != nil || string(canonical) != string(d.Input()) {
		t.Errorf("evaluated %s (%v)", d.Input(), err)
	}
	g.Fields()[0], g.Scopes()[0] = "/changed", "changed"
	if g.Fields()[0] == "/changed" || g.Scopes()[0] == "changed" {
		t.Error("a caller can change a grant")
	}
}

func TestZeroValues(t *testing.T) {
	var g Grant
	if g.Valid() || g.Scopes() != nil || g.Fields() != nil || g.Obligations() != nil || !g.Agreement().IsZero() || g.Agency() != "" {
		t.Error("the zero Grant grants something")
	}
	if !g.Obliges(ObligationWaitForWitnesses) {
		t.Error("the zero Grant frees from an obligation")
	}
	var d Decision
	if _, ok := d.Granted(); ok || d.Input() != nil || d.Recorded().Allow {
		t.Error("the zero Decision grants something")
	}
}

func TestRefusals(t *testing.T) {
	e := newEngine(t, Config{})
	agreement := func(change func(*Agreement)) func(*Input) {
		return func(in *Input) {
			a := fixtureAgreement()
			change(a)
			in.rely(a)
		}
	}
	end := fixtureAgreement().NotAfter
	tests := []struct {
		name   string
		change func(*Input)
		want   []Code
		says   string
	}{
		{"unknown agency", func(in *Input) { in.Agency = Agency{State: AgencyUnknown} }, []Code{"agency.unknown", "agreement.other_agency"}, ""},
		{"stranger", func(in *Input) {
			in.Agency, in.Agreement, in.AgreementDigest = Agency{State: AgencyUnknown}, nil, Digest{}
		}, []Code{"agency.unknown", "agreement.none"}, ""},
		{"retired agency", func(in *Input) { in.Agency.State = AgencyRetired }, []Code{"agency.retired"}, ""},
		{"no agreement", func(in *Input) { in.Agreement, in.AgreementDigest = nil, Digest{} }, []Code{"agreement.none"}, ""},
		{"a millisecond before", func(in *Input) { in.Time = fixtureAgreement().NotBefore.Add(-1) }, []Code{"agreement.not_yet_valid"}, ""},
		{"a millisecond after", func(in *Input) { in.Time = end.Add(time.Millisecond) }, []Code{"agreement.no_longer_valid"}, ""},
		{"revoked", agreement(func(a *Agreement) { a.State = AgreementRevoked }), []Code{"agreement.revoked"}, ""},
		{"another agency's", agreement(func(a *Agreement) { a.Agency = "autre" }), []Code{"agreement.other_agency"}, ""},
		{"about another service", agreement(func(a *Agreement) { a.Service = "autre" }), []Code{"agreement.other_service"}, ""},
		{"purpose", func(in *Input) { in.Purpose = "curiosite" }, []Code{"purpose.not_covered"}, "curiosite"},
		{"legal basis", func(in *Input) { in.LegalBasis = "habitude" }, []Code{"legal_basis.not_covered"}, "habitude"},
		{"scope", func(in *Input) {
			in.Scopes = append(in.Scopes, "revenus")
			in.Service.Scopes["revenus"] = []Pointer{"/data/revenus"}
		}, []Code{"scope.not_covered"}, "revenus"},
		{"unknown scope", func(in *Input) { in.Scopes = append(in.Scopes, "allocataires") }, []Code{"scope.unknown"}, "allocataires"},
		{"unknown scope outside the agreement", func(in *Input) { in.Scopes = append(in.Scopes, "zzz") }, []Code{"scope.not_covered", "scope.unknown"}, "zzz"},
		{"no scope", func(in *Input) { in.Scopes, in.Service.Scopes = nil, nil }, []Code{"scope.none"}, ""},
		{"subject type", func(in *Input) { in.SubjectType = "ine" }, []Code{"subject_type.not_accepted"}, "ine"},
		{"recipient is the subject", func(in *Input) { in.RecipientIsSubject = true }, []Code{"recipient.is_subject"}, ""},
		{"no recipient", func(in *Input) { in.Recipient = "" }, []Code{"recipient.missing"}, ""},
		{"wrong recipient", func(in *Input) { in.Recipient = "21750001600018" }, []Code{"recipient.invalid"}, ""},
		{"short recipient", func(in *Input) { in.Recipient = "217500016" }, []Code{"recipient.invalid"}, ""},
		{"no context", func(in *Input) { in.HasContext = false }, []Code{"context.missing"}, ""},
		{"no object", func(in *Input) { in.HasObject = false }, []Code{"object.missing"}, ""},
		{"several", func(in *Input) { in.HasObject, in.HasContext = false, false }, []Code{"context.missing", "object.missing"}, ""},
	}
	reached := map[Code]bool{}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := fixtureInput()
			test.change(&in)
			d, err := e.Decide(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if g, ok := d.Granted(); ok || g.Valid() {
				t.Fatal("granted")
			}
			if diff := cmp.Diff(test.want, d.Codes()); diff != "" {
				t.Error(diff)
			}
			for _, r := range d.Reasons() {
				reached[r.Code] = true
				if !strings.Contains(r.FR, test.says) || !strings.Contains(r.EN, test.says) {
					t.Errorf("%s doesn't say %q: %s %s", r.Code, test.says, r.FR, r.EN)
				}
				if !strings.HasSuffix(r.FR, ".") || !strings.HasSuffix(r.EN, ".") || r.FR == r.EN {
					t.Errorf("%s: not a sentence in each language: %s %s", r.Code, r.FR, r.EN)
				}
			}
		})
	}
	// Every reason that the bundle can give stands above.
	for path, source := range builtin(t).files {
		if isTest(path) || path == manifestName {
			continue
		}
		for _, line := range strings.Split(string(source), "\n") {
			if code, ok := strings.CutPrefix(strings.TrimSpace(line), `"code": "`); ok {
				if code = strings.TrimSuffix(code, `",`); !reached[Code(code)] {
					t.Errorf("%s: %s is never reached", path, code)
				}
			}
		}
	}
	if len(reached) != 19 {
		t.Errorf("%d reasons were reached", len(reached))
	}
}

func TestValidityIncludesItsEnds(t *testing.T) {
	e := newEngine(t, Config{})
	for _, at := range []time.Time{fixtureAgreement().NotBefore, fixtureAgreement().NotAfter} {
		in := fixtureInput()
		in.Time = at
		d, err := e.Decide(t.Context(), in)
		if _, ok := d.Granted(); !ok || err != nil {
			t.Errorf("%v: refused for %v (%v)", at, d.Codes(), err)
		}
	}
}

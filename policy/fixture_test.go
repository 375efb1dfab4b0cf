package policy

import (
	"context"
	"testing"
	"time"
)

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// fixtureAgreement is in force during the year 2026.
func fixtureAgreement() *Agreement {
	return &Agreement{
		ID: "ville-de-test-cantine", Version: 3, Agency: "ville-de-test", Service: "quotient-familial",
		Scopes: []Scope{"allocataires", "enfants", "quotient_familial"}, Purposes: []Purpose{"tarification-cantine", "tarification-creche"},
		LegalBases: []LegalBasis{"crpa-l114-8"},
		NotBefore:  time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2026, 12, 31, 23, 59, 59, 999e6, time.UTC),
		State: AgreementActive, Obligations: []Obligation{ObligationNotifyPerson},
	}
}

// fixtureInput is granted.
func fixtureInput() Input {
	in := Input{
		Agency: Agency{ID: "ville-de-test", SIRET: "21750001600019", State: AgencyActive},
		Service: Service{
			ID: "quotient-familial", Version: 2, Provider: "cnaf", SubjectTypes: []SubjectType{"person", "pivot"},
			Scopes: map[Scope][]Pointer{
				"quotient_familial": {"/data/quotient_familial/annee", "/data/quotient_familial/mois", "/data/quotient_familial/valeur"},
				"enfants":           {"/data/enfants/date_naissance", "/data/enfants/nom", "/data/enfants/prenoms", "/data/enfants/sexe"},
			},
		},
		Scopes: []Scope{"enfants", "quotient_familial"}, Purpose: "tarification-cantine", LegalBasis: "crpa-l114-8",
		Recipient: "21750001600019", HasContext: true, HasObject: true, SubjectType: "pivot", Channel: ChannelAPI, Time: start,
	}
	in.rely(fixtureAgreement())
	return in
}

// rely makes the input rely on an agreement as if it was logged.
func (in *Input) rely(a *Agreement) {
	in.Agreement = a
	var err error
	if in.AgreementDigest, err = a.Digest(); err != nil {
		panic(err)
	}
}

func newEngine(t testing.TB, config Config) *Engine {
	t.Helper()
	if config.Activate == nil {
		config.Activate = func(context.Context, Activation) error { return nil }
	}
	e, err := New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

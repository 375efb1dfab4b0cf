package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/policy"
)

// TestChoose: a request that names no agreement relies on one that grants it, if there is one, whatever else the agency has and in whatever order it is read; else on the one that says best why not.
func TestChoose(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_123).UTC()
	year := 365 * 24 * time.Hour
	agreement := func(id string, change func(*policy.Agreement)) policy.Agreement {
		a := policy.Agreement{
			ID: policy.AgreementID(id), Version: 1, Agency: "mairie", Service: "household", State: policy.AgreementActive, Scopes: []policy.Scope{"quotient"}, Purposes: []policy.Purpose{"cantine"},
			LegalBases: []policy.LegalBasis{"law"}, NotBefore: now.Add(-year), NotAfter: now.Add(year),
		}
		if change != nil {
			change(&a)
		}
		return a
	}
	ended := func(a *policy.Agreement) { a.NotAfter = now.Add(-time.Millisecond) }
	revoked := func(a *policy.Agreement) { a.State = policy.AgreementRevoked }
	purpose := func(a *policy.Agreement) { a.Purposes = []policy.Purpose{"transport"} }
	basis := func(a *policy.Agreement) { a.LegalBases = []policy.LegalBasis{"other"} }
	members := func(a *policy.Agreement) { a.Scopes = []policy.Scope{"members"} }
	for name, c := range map[string]struct {
		have []policy.Agreement
		want string
	}{
		"none":                              {nil, ""},
		"the only one, though it ended":     {[]policy.Agreement{agreement("a", ended)}, "a"},
		"last year's and this year's":       {[]policy.Agreement{agreement("cantine-2025", ended), agreement("cantine-2026", nil)}, "cantine-2026"},
		"next year's":                       {[]policy.Agreement{agreement("a", func(a *policy.Agreement) { a.NotBefore = now.Add(time.Millisecond) }), agreement("b", nil)}, "b"},
		"its first moment":                  {[]policy.Agreement{agreement("a", ended), agreement("b", func(a *policy.Agreement) { a.NotBefore = now })}, "b"},
		"its last moment":                   {[]policy.Agreement{agreement("a", ended), agreement("b", func(a *policy.Agreement) { a.NotAfter = now })}, "b"},
		"revoked":                           {[]policy.Agreement{agreement("a", revoked), agreement("b", nil)}, "b"},
		"other scopes":                      {[]policy.Agreement{agreement("a", members), agreement("b", nil)}, "b"},
		"ended and other scopes":            {[]policy.Agreement{agreement("a", ended), agreement("b", members), agreement("c", nil)}, "c"},
		"in force before scopes":            {[]policy.Agreement{agreement("a", ended), agreement("b", members)}, "b"},
		"equal":                             {[]policy.Agreement{agreement("c", nil), agreement("a", nil), agreement("b", nil)}, "a"},
		"equal, and none is in force":       {[]policy.Agreement{agreement("c", ended), agreement("a", revoked), agreement("b", ended)}, "b"},
		"it ended, and others are in force": {[]policy.Agreement{agreement("a", purpose), agreement("b", ended)}, "b"},
		"legal basis":                       {[]policy.Agreement{agreement("a", basis), agreement("b", nil)}, "b"},
		"another purpose's legal basis":     {[]policy.Agreement{agreement("a", purpose), agreement("b", basis)}, "b"},
	} {
		for range 10 { // orders
			rows := &store.Registry{}
			for _, i := range rand.Perm(len(c.have)) {
				text, err := c.have[i].Canonical()
				if err != nil {
					t.Fatal(err)
				}
				rows.Agreements = append(rows.Agreements, store.Agreement{ID: string(c.have[i].ID), Version: 1, Agency: "mairie", Service: "household", JSON: text})
			}
			reg, err := newRegistry(rows)
			if err != nil {
				t.Fatal(err)
			}
			got, req := "", &Request{Service: "household", Scopes: []string{"quotient"}, Purpose: "cantine", LegalBasis: "law"}
			if e := reg.choose("mairie", req, now); e != nil {
				got = string(e.agreement.ID)
			}
			if got != c.want {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
			for i := range c.have {
				req.Agreement = string(c.have[i].ID)
				if e := reg.choose("mairie", req, now); e == nil || string(e.agreement.ID) != req.Agreement {
					t.Errorf("%s: named %s, got %v", name, req.Agreement, e)
				}
			}
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	now := time.Now()
	reg := &registry{agreements: map[agreementKey][]*agreementEntry{}}
	k := agreementKey{"mairie", "household"}
	for i := range 8 {
		reg.agreements[k] = append(reg.agreements[k], &agreementEntry{agreement: &policy.Agreement{
			ID: policy.AgreementID(fmt.Sprint(i)), State: policy.AgreementActive, Scopes: []policy.Scope{"members", "quotient"}, Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"law"},
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		}})
	}
	req := &Request{Service: "household", Scopes: []string{"quotient", "members"}, Purpose: "cantine", LegalBasis: "law"}
	for b.Loop() {
		reg.choose("mairie", req, now)
	}
	if n := testing.AllocsPerRun(100, func() { reg.choose("mairie", req, now) }); n != 0 {
		b.Errorf("%v allocations", n)
	}
}

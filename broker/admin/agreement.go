package admin

import (
	"maps"
	"slices"
	"time"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/policy"
)

// Agreement as operators write and read it. Version and State are the broker's to set: a file that has them, because it was shown, can be put again.
type Agreement struct {
	ID         string   `json:"id" yaml:"id"`
	Version    int64    `json:"version,omitempty" yaml:"version,omitempty"`
	State      string   `json:"state,omitempty" yaml:"state,omitempty"`
	Agency     string   `json:"agency" yaml:"agency"`
	Service    string   `json:"service" yaml:"service"`
	Scopes     []string `json:"scopes" yaml:"scopes"`
	Purposes   []string `json:"purposes" yaml:"purposes"`
	LegalBases []string `json:"legal_bases" yaml:"legal_bases"`
	// NotBefore and NotAfter are RFC 3339 times, or days (YYYY-MM-DD, UTC): the first and the last one.
	NotBefore   string   `json:"not_before" yaml:"not_before"`
	NotAfter    string   `json:"not_after" yaml:"not_after"`
	Obligations []string `json:"obligations,omitempty" yaml:"obligations,omitempty"`
	// Deferral: the people concerned learn later of what is asked. Left out: at once.
	Deferral *Delay `json:"deferral,omitempty" yaml:"deferral,omitempty"`
}

// Delay is a lawful delay. All of it is public: none of it may name the people it is about.
type Delay struct {
	Authority string `json:"authority" yaml:"authority"` // who ordered it
	Article   string `json:"article" yaml:"article"`     // of the law that allows it
	Reference string `json:"reference" yaml:"reference"` // of the authorisation, opaque
	Days      int64  `json:"days" yaml:"days"`
}

func (a *Agreement) parse() (policy.Agreement, error) {
	p := policy.Agreement{
		ID: policy.AgreementID(a.ID), Agency: policy.AgencyID(a.Agency), Service: policy.ServiceID(a.Service),
		Scopes: typed[policy.Scope](a.Scopes), Purposes: typed[policy.Purpose](a.Purposes),
		LegalBases: typed[policy.LegalBasis](a.LegalBases), Obligations: typed[policy.Obligation](a.Obligations),
	}
	if d := a.Deferral; d != nil {
		p.Deferral = &policy.Deferral{Authority: d.Authority, Article: d.Article, Reference: d.Reference, Days: d.Days}
	}
	var err error
	if p.NotBefore, err = instant("/not_before", a.NotBefore, 0); err != nil {
		return p, err
	}
	// The last day counts as a whole.
	p.NotAfter, err = instant("/not_after", a.NotAfter, 24*time.Hour-time.Millisecond)
	return p, err
}

func instant(at, s string, rest time.Duration) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.Add(rest), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, bad(at, "This is not a time.", "Write a day such as 2026-01-31 (UTC), or a time such as 2026-01-31T12:00:00+01:00.")
	}
	return t.UTC(), nil
}

func typed[T ~string](in []string) []T {
	out := make([]T, len(in))
	for i, s := range in {
		out[i] = T(s)
	}
	return out
}

func plain[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

func showAgreement(a *policy.Agreement) Agreement {
	out := Agreement{
		ID: string(a.ID), Version: a.Version, State: string(a.State), Agency: string(a.Agency), Service: string(a.Service),
		Scopes: plain(a.Scopes), Purposes: plain(a.Purposes), LegalBases: plain(a.LegalBases), Obligations: plain(a.Obligations),
		NotBefore: a.NotBefore.UTC().Format(time.RFC3339Nano), NotAfter: a.NotAfter.UTC().Format(time.RFC3339Nano),
	}
	if d := a.Deferral; d != nil {
		out.Deferral = &Delay{Authority: d.Authority, Article: d.Article, Reference: d.Reference, Days: d.Days}
	}
	return out
}

// Describe a definition.
func Describe(d *service.Definition) Service {
	s := Service{ID: string(d.ID), Version: d.Version, Title: d.Title.FR, Provider: string(d.Provider.ID), Scopes: []string{}, Subjects: []string{}}
	for _, n := range slices.Sorted(maps.Keys(d.Scopes)) {
		s.Scopes = append(s.Scopes, string(n))
	}
	for _, n := range slices.Sorted(maps.Keys(d.Subjects)) {
		s.Subjects = append(s.Subjects, string(n))
	}
	return s
}

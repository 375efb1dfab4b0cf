package reference

import "github.com/regard-broker/regard/ledger/proof"

// An Invented person, as an identity provider would state them.
type Invented struct {
	Pivot proof.Pivot
	Used  string // name in use; empty if it is the birth name
	// Identifiers under which the reference services know them; empty: none.
	INE, FranceTravail, SIREN string
}

// People lists everybody, children included, the couple with two children first.
func People() []Invented {
	out := make([]Invented, len(people))
	for i, p := range people {
		out[i] = Invented{
			Pivot: proof.Pivot{BirthName: p.name, GivenNames: p.given, BirthDate: p.date, Sex: p.sex, BirthPlace: p.place, BirthCountry: p.country},
			Used:  p.used, INE: p.ine, FranceTravail: p.jobseeker,
		}
	}
	for _, b := range businesses {
		if b.owner >= 0 {
			out[b.owner].SIREN = b.siren
		}
	}
	return out
}

package reference

import (
	"fmt"
	"strings"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

// A Population is many invented people, for benchmarks. Nothing is stored: who the n-th is follows from n and the seed. The services quotient-familial (about 2 kB, one
// person an answer) and revenu-solidarite-active know them.
type Population struct {
	Size int
	Seed uint64
}

// letters is the number of letters of a numbered name: enough for 26^5 people.
const letters = 5

// MaxPopulation is the greatest size.
const MaxPopulation = 26 * 26 * 26 * 26 * 26

var givenNames = [...]string{
	"Camille", "Loïc", "Zoé", "Noé", "Anne Sophie", "Hugo", "Pierre", "Amina", "Sami", "Lina", "Jean", "Maëlle", "Côme", "Léa", "Adam", "Nina", "Tom", "Jade", "Ali", "Danièle",
	"René", "Fatou", "Julien", "Odile", "Georges", "Hélène", "Maxime", "Aurélie", "Yanis", "Inès", "Marc", "Chloé",
}

// synthetic is one of them.
type synthetic struct {
	person
	value    int
	receives bool
}

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (p Population) at(n int) synthetic {
	h := mix(p.Seed ^ mix(uint64(n)))
	pick := func(of uint64) int {
		v := h % of
		h = mix(h)
		return int(v)
	}
	name := []byte("EXEMPLE AAAAA")
	for i, v := len(name)-1, n; v > 0; i, v = i-1, v/26 {
		name[i] = byte('A' + v%26)
	}
	return synthetic{
		person: person{
			name: string(name), given: givenNames[pick(uint64(len(givenNames)))], date: fmt.Sprintf("%d-%02d-%02d", 1940+pick(66), 1+pick(12), 1+pick(28)),
			sex: [...]string{"F", "M"}[pick(2)], place: communes[pick(uint64(len(communes)))].code, country: france,
		},
		value: pick(3000), receives: pick(10) == 0,
	}
}

// Asked returns how to ask about the n-th person, 0 ≤ n < Size: a complete identity with which the answer agrees.
func (p Population) Asked(n int) (service.Asked, error) {
	return service.NewAsked("pivot", "", p.Pivot(n))
}

// Pivot returns the identity of the n-th person.
func (p Population) Pivot(n int) proof.Pivot {
	s := p.at(n)
	return proof.Pivot{BirthName: s.name, GivenNames: s.given, BirthDate: s.date, Sex: s.sex, BirthPlace: s.place, BirthCountry: s.country}
}

// find reads the number from the name and checks the rest.
func (p Population) find(a question) (synthetic, bool) {
	tail, ok := strings.CutPrefix(a.name, "EXEMPLE ")
	if !ok || len(tail) != letters {
		return synthetic{}, false
	}
	n := 0
	for i := range letters {
		if tail[i] < 'A' || tail[i] > 'Z' {
			return synthetic{}, false
		}
		n = 26*n + int(tail[i]-'A')
	}
	if n >= p.Size {
		return synthetic{}, false
	}
	s := p.at(n)
	return s, a.fits(&s.person)
}

// filler makes the answer as long as a real one with more people in it.
var filler = strings.Repeat("RÉSIDENCE INVENTÉE POUR MESURER, ESCALIER IMAGINAIRE, PORTE QUI N'EXISTE PAS. ", 9)

func (s *synthetic) quotient(year, month int) tree {
	return tree{
		"quotient_familial": tree{"fournisseur": "CNAF", "valeur": s.value, "annee": year, "mois": month, "annee_calcul": year, "mois_calcul": month},
		"allocataires":      []any{tree{"nom_naissance": s.name, "nom_usage": nil, "prenoms": s.given, "date_naissance": s.date, "sexe": s.sex}},
		"enfants":           []any{},
		"adresse": tree{
			"destinataire": s.name + " " + s.given, "complement_information": filler, "complement_information_geographique": filler,
			"numero_libelle_voie": "1 RUE DE L'EXEMPLE", "lieu_dit": nil, "code_postal_ville": "75007 PARIS", "pays": "FRANCE",
		},
	}
}

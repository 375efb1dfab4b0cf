package cases

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// Entries returns under whom the case must be filed, the asked identifier first: docs/formats.md, section 5, read by hand for each of the services and without the code
// under test. Only the first stands for a case that is not released; none for one that is refused.
func (c *Case) Entries() ([]proof.Subject, error) {
	if c.Want == Refused {
		return nil, nil
	}
	who, err := c.Asked()
	if err != nil {
		return nil, err
	}
	out := []proof.Subject{who.Subject()}
	if c.Want != Released {
		return out, nil
	}
	var answer struct {
		Data map[string]any `json:"data"`
	}
	if err := json.Unmarshal(c.Payload, &answer); err != nil {
		return nil, err
	}
	people, err := c.people(answer.Data)
	if err != nil {
		return nil, err
	}
	for _, p := range people {
		s := out[0]
		if !c.same(p) {
			if s, err = proof.ParseSubject(string(proof.TypePerson), strings.Join([]string{proof.FoldName(p.BirthName), proof.FoldName(p.GivenNames), p.BirthDate, p.Sex}, "|")); err != nil {
				return nil, err
			}
		}
		if !slices.ContainsFunc(out, s.Equal) {
			out = append(out, s)
		}
	}
	return out, nil
}

// same reports whether the question is complete and agrees with all that is said about somebody.
func (c *Case) same(said proof.Person) bool {
	p := c.Pivot
	complete := c.Type == "pivot" && p.GivenNames != "" && len(p.BirthDate) == 10 && p.Sex != "" && p.BirthCountry != "" && (p.BirthPlace != "" || p.BirthCountry != proof.France)
	return complete && proof.FoldName(said.BirthName) == proof.FoldName(p.BirthName) && (said.GivenNames == "" || proof.FoldName(said.GivenNames) == proof.FoldName(p.GivenNames)) &&
		(said.BirthDate == "" || said.BirthDate == p.BirthDate) && (said.Sex == "" || said.Sex == p.Sex)
}

// people are those whom the answer names.
func (c *Case) people(data map[string]any) ([]proof.Person, error) {
	text := func(m map[string]any, key string) string { s, _ := m[key].(string); return s }
	id, _ := data["identite"].(map[string]any)
	var all []proof.Person
	switch c.Service {
	case "quotient-familial":
		for _, key := range []string{"allocataires", "enfants"} {
			list, ok := data[key].([]any)
			if !ok {
				return nil, fmt.Errorf("case %s: no %s", c.Name, key)
			}
			for _, e := range list {
				m, _ := e.(map[string]any)
				all = append(all, proof.Person{BirthName: text(m, "nom_naissance"), GivenNames: text(m, "prenoms"), BirthDate: text(m, "date_naissance"), Sex: text(m, "sexe")})
			}
		}
	case "etudiant-boursier":
		var given []string
		list, _ := id["prenoms"].([]any)
		for _, g := range list {
			name, _ := g.(string)
			given = append(given, name)
		}
		all = append(all, proof.Person{BirthName: text(id, "nom"), GivenNames: strings.Join(given, " "), BirthDate: text(id, "date_naissance"), Sex: text(id, "sexe")})
	case "statut-etudiant":
		all = append(all, proof.Person{BirthName: text(id, "nom_naissance"), GivenNames: text(id, "prenom"), BirthDate: text(id, "date_naissance")})
	case "statut-demandeur-emploi":
		all = append(all, proof.Person{BirthName: text(id, "nom_naissance"), GivenNames: text(id, "prenom"), BirthDate: text(id, "date_naissance"), Sex: map[string]string{"Masculin": "M", "Féminin": "F"}[text(id, "sexe")]})
	case "unites-legales":
		m, _ := data["personne_physique_attributs"].(map[string]any)
		given := text(m, "prenom_1") + " " + text(m, "prenom_2") + " " + text(m, "prenom_3") + " " + text(m, "prenom_4")
		all = append(all, proof.Person{BirthName: text(m, "nom_naissance"), GivenNames: given, Sex: text(m, "sexe")})
	}
	return slices.DeleteFunc(all, func(p proof.Person) bool { return p.BirthName == "" }), nil
}

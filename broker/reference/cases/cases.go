// Package cases replays real exchange cases: what a provider's own sandbox says to which question. The cases are not part of this repository; see Dir. It is for tests.
//
// What it guarantees. Every case is mapped to a question for one of the reference services and to the outcome that the broker must reach; a directory that holds
// anything it can't map is an error, so that no case is lost. What it doesn't: the cases are the sandbox's, with its misspellings (see Question).
package cases

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

// Dir returns the directory of the cases: the environment's REGARD_CASES, else ../shared/sandbox beside the repository's root if it exists, else nothing, and why.
func Dir() (dir, why string) {
	if dir := os.Getenv("REGARD_CASES"); dir != "" {
		return dir, ""
	}
	root, err := os.Getwd()
	for err == nil {
		if _, e := os.Stat(filepath.Join(root, "go.mod")); e == nil {
			break
		}
		if filepath.Dir(root) == root {
			return "", "not inside the repository"
		}
		root = filepath.Dir(root)
	}
	dir = filepath.Join(root, "..", "shared", "sandbox")
	if _, err := os.Stat(dir); err != nil {
		return "", "no exchange cases: set REGARD_CASES to their directory"
	}
	return dir, ""
}

// Outcome is what the broker must reach.
type Outcome string

// The outcomes.
const (
	Released Outcome = "released"
	Empty    Outcome = "empty"
	Failed   Outcome = "failed"
	Refused  Outcome = "refused" // a 4xx of ours: the provider must not be asked
)

// A Case is one question and its answer.
type Case struct {
	// Name is folder/file without its ending.
	Name    string
	Service service.ID
	// Question as an agency would ask it.
	Type       service.SubjectType
	Value      string
	Pivot      proof.Pivot
	Parameters map[string]string
	// Status and Payload are the provider's answer.
	Status  int
	Payload []byte
	// Want is the outcome; Code is the provider's error code, Cause what is recorded for it, Parameter where a refused question is wrong (a JSON pointer).
	Want      Outcome
	Code      string
	Cause     string
	Parameter string

	query string // normal form of the expected query
}

// Asked returns who the case asks about.
func (c *Case) Asked() (service.Asked, error) { return service.NewAsked(c.Type, c.Value, c.Pivot) }

// folders maps the sandbox's folders to services; key is the parameter that names a subject that is no identity.
var folders = map[string]struct {
	service service.ID
	typ     service.SubjectType
	key     string
}{
	"api_particulier_v3_cnav_quotient_familial_with_civility":        {"quotient-familial", "pivot", ""},
	"api_particulier_v3_cnav_revenu_solidarite_active_with_civility": {"revenu-solidarite-active", "pivot", ""},
	"api_particulier_v3_cnous_etudiant_boursier_with_ine":            {"etudiant-boursier", "ine", "ine"},
	"api_particulier_v3_mesri_statut_etudiant_with_ine":              {"statut-etudiant", "ine", "ine"},
	"api_particulier_v3_france_travail_statut_with_identifiant":      {"statut-demandeur-emploi", "france_travail", "identifiant"},
	"api_entreprise_v4_dgfip_attestations_fiscales":                  {"attestation-fiscale", "siren", "siren"},
	"api_entreprise_v3_insee_unites_legales":                         {"unites-legales", "siren", "siren"},
	"api_entreprise_v3_insee_adresses_etablissements":                {"adresse-etablissement", "siret", "siret"},
}

// refused are the questions that never reach a provider, and why: said here by hand, so that the broker's own checks are tested against something else.
var refused = map[string]string{
	"api_particulier_v3_cnav_quotient_familial_with_civility/404":         "/subject",       // commune 00404: no such department
	"api_particulier_v3_cnous_etudiant_boursier_with_ine/404":             "/subject/value", // asks for a name where the service takes a student number
	"api_entreprise_v4_dgfip_attestations_fiscales/attestation_delivree":  "/subject/value", // check digit
	"api_entreprise_v4_dgfip_attestations_fiscales/entite_hors_perimetre": "/subject/value", // check digit
}

// identity are the parameters of an identity. The sandbox misspells three of them in one folder, where its providers ignore them: so do we.
var identity = []string{
	"nomNaissance", "prenoms", "anneeDateNaissance", "moisDateNaissance", "jourDateNaissance",
	"codeCogInseeCommuneNaissance", "codeCogInseePaysNaissance", "sexeEtatCivil",
	"anneeDateDaissance", "moisDateDaissance", "jourDateDaissance",
}

// Load reads all cases of a directory, by increasing name.
func Load(dir string) ([]Case, error) {
	var all []Case
	seen := map[string]string{}
	for folder := range folders {
		files, err := os.ReadDir(filepath.Join(dir, folder))
		if err != nil {
			return nil, fmt.Errorf("reading cases: %w", err)
		}
		for _, f := range files {
			ext := filepath.Ext(f.Name())
			if ext != ".yaml" && ext != ".yml" {
				continue
			}
			c, err := load(folder, strings.TrimSuffix(f.Name(), ext), filepath.Join(dir, folder, f.Name()))
			if err != nil {
				return nil, fmt.Errorf("reading case %s/%s: %w", folder, f.Name(), err)
			}
			key := string(c.Service) + "?" + c.query
			if other, ok := seen[key]; ok && c.Want != Refused {
				return nil, fmt.Errorf("cases %s and %s ask the same", other, c.Name)
			}
			seen[key] = c.Name
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func load(folder, name, file string) (Case, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Case{}, err
	}
	var y struct {
		Params  map[string]any `yaml:"params"`
		Status  int            `yaml:"status"`
		Payload string         `yaml:"payload"`
	}
	if err := yaml.Unmarshal(b, &y); err != nil {
		return Case{}, err
	}
	if y.Status == 0 || !json.Valid([]byte(y.Payload)) {
		return Case{}, errors.New("no status, or a payload that isn't JSON")
	}
	to := folders[folder]
	c := Case{Name: folder + "/" + name, Service: to.service, Type: to.typ, Parameters: map[string]string{}, Status: y.Status, Payload: []byte(y.Payload)}
	values := map[string][]string{}
	for key, v := range y.Params {
		text, err := list(v)
		if err != nil {
			return Case{}, fmt.Errorf("parameter %s: %w", key, err)
		}
		switch {
		case key == to.key && to.key != "":
			c.Value = text[0]
		case slices.Contains(identity, key) && (to.typ == "pivot" || refused[c.Name] != ""):
		case (key == "annee" || key == "mois") && to.service == "quotient-familial":
			c.Parameters[key] = text[0]
		default:
			return Case{}, fmt.Errorf("parameter %s is not known here", key)
		}
		if strings.Contains(key, "Daissance") {
			continue
		}
		if key == "prenoms" {
			key = "prenoms[]"
		}
		values[key] = text
	}
	if to.typ == "pivot" {
		c.Pivot = pivot(values)
	}
	c.query = normal(values)
	return c, c.expect()
}

// expect says what must come of it.
func (c *Case) expect() error {
	if p, ok := refused[c.Name]; ok {
		c.Want, c.Parameter = Refused, p
		return nil
	}
	if c.Status == 200 {
		c.Want = Released
		return nil
	}
	var e struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if err := json.Unmarshal(c.Payload, &e); err != nil || len(e.Errors) != 1 {
		return errors.New("an error without one code")
	}
	c.Code, c.Want = e.Errors[0].Code, Failed
	if c.Status == 404 {
		c.Want = Empty
	}
	c.Cause = fmt.Sprintf("provider/%d/%s", c.Status, c.Code)
	return nil
}

func pivot(v map[string][]string) proof.Pivot {
	one := func(key string) string {
		if len(v[key]) == 0 {
			return ""
		}
		return v[key][0]
	}
	p := proof.Pivot{
		BirthName: one("nomNaissance"), GivenNames: strings.Join(v["prenoms[]"], " "), Sex: one("sexeEtatCivil"),
		BirthPlace: one("codeCogInseeCommuneNaissance"), BirthCountry: one("codeCogInseePaysNaissance"), BirthDate: one("anneeDateNaissance"),
	}
	for _, key := range []string{"moisDateNaissance", "jourDateNaissance"} {
		if s := one(key); s != "" {
			p.BirthDate += "-" + strings.Repeat("0", 2-len(s)) + s
		}
	}
	return p
}

func list(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case int:
		return []string{strconv.Itoa(v)}, nil
	case []any:
		var out []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("a list of something else than text")
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, errors.New("neither text nor an integer nor a list")
}

// normal writes a query so that equal ones have equal text.
func normal(v map[string][]string) string {
	var b bytes.Buffer
	for _, key := range slices.Sorted(func(yield func(string) bool) {
		for k := range v {
			if !yield(k) {
				return
			}
		}
	}) {
		fmt.Fprintf(&b, "%s=%q\n", key, v[key])
	}
	return b.String()
}

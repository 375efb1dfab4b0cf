package reference

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

type tree = map[string]any

// index finds people by what a question states.
type index struct {
	byName     map[string][]int // folded birth name → positions in people
	population Population
}

func newIndex(p Population) *index {
	x := &index{byName: map[string][]int{}, population: p}
	for i := range people {
		name := proof.FoldName(people[i].name)
		x.byName[name] = append(x.byName[name], i)
	}
	return x
}

// question is an identity as the query states it.
type question struct {
	name, given, year, month, day, sex, place, country string
}

func asked(q url.Values) question {
	a := question{
		name: proof.FoldName(q.Get("nomNaissance")), given: proof.FoldName(strings.Join(q["prenoms[]"], " ")),
		year: q.Get("anneeDateNaissance"), month: q.Get("moisDateNaissance"), day: q.Get("jourDateNaissance"),
		sex: q.Get("sexeEtatCivil"), place: q.Get("codeCogInseeCommuneNaissance"), country: q.Get("codeCogInseePaysNaissance"),
	}
	if d := q.Get("dateNaissance"); len(d) == 10 {
		a.year, a.month, a.day = d[:4], strings.TrimPrefix(d[5:7], "0"), strings.TrimPrefix(d[8:], "0")
	}
	return a
}

// fits reports whether somebody agrees with all that is stated. Providers know people by fewer given names, or more, than are asked for.
func (a *question) fits(p *person) bool {
	given := proof.FoldName(p.given)
	if a.given != "" && given != a.given && !strings.HasPrefix(given, a.given+" ") && !strings.HasPrefix(a.given, given+" ") {
		return false
	}
	for _, f := range [...]struct{ asked, known string }{
		{a.year, p.date[:4]}, {a.month, strings.TrimPrefix(p.date[5:7], "0")}, {a.day, strings.TrimPrefix(p.date[8:], "0")},
		{a.sex, p.sex}, {a.place, p.place}, {a.country, p.country},
	} {
		if f.asked != "" && f.asked != f.known {
			return false
		}
	}
	return true
}

// find returns the one person who fits among those that a service knows; false if there are none or several.
func (x *index) find(a question, known func(int) bool) (int, bool) {
	found := -1
	for _, i := range x.byName[a.name] {
		if known(i) && a.fits(&people[i]) {
			if found >= 0 {
				return 0, false
			}
			found = i
		}
	}
	return found, found >= 0
}

func nobody(code string) *failure {
	return &failure{404, code, "Entité non trouvée", "Personne n'a été trouvé avec les critères de recherche fournis."}
}

func unprocessable(detail string) *failure {
	return &failure{422, "00422", "Entité non traitable", detail}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (s *Server) handlers() map[service.ID]func(url.Values) (any, *failure) {
	return map[service.ID]func(url.Values) (any, *failure){
		"quotient-familial": s.quotient, "revenu-solidarite-active": s.solidarity, "etudiant-boursier": s.scholarship, "statut-etudiant": s.student,
		"statut-demandeur-emploi": s.jobseeker, "attestation-fiscale": s.certificates(), "unites-legales": s.business, "adresse-etablissement": s.address,
		"revenu-fiscal": s.income(), "commune": s.commune,
	}
}

// householdOf returns the household of one of its adults.
func householdOf(adult int) *household {
	for i := range households {
		if slices.Contains(households[i].adults, adult) {
			return &households[i]
		}
	}
	return nil
}

func members(of []int) []any {
	out := []any{}
	for _, i := range of {
		p := &people[i]
		out = append(out, tree{"nom_naissance": p.name, "nom_usage": orNull(p.used), "prenoms": p.given, "date_naissance": p.date, "sexe": p.sex})
	}
	return out
}

func (s *Server) quotient(q url.Values) (any, *failure) {
	year, month := q.Get("annee"), q.Get("mois")
	if (year == "") != (month == "") {
		return nil, unprocessable("L'année et le mois du quotient vont ensemble.")
	}
	now := s.cfg.Now()
	y, m := now.Year(), int(now.Month())
	if year != "" {
		y, _ = strconv.Atoi(year)
		m, _ = strconv.Atoi(month)
	}
	a := asked(q)
	if p, ok := s.index.population.find(a); ok {
		return p.quotient(y, m), nil
	}
	i, ok := s.index.find(a, func(i int) bool { return householdOf(i) != nil })
	if !ok {
		return nil, nobody("37003")
	}
	h := householdOf(i)
	title := map[string]string{"F": "Madame ", "M": "Monsieur "}[people[i].sex]
	return tree{
		"quotient_familial": tree{"fournisseur": h.fund, "valeur": h.quotient, "annee": y, "mois": m, "annee_calcul": now.Year(), "mois_calcul": int(now.Month())},
		"allocataires":      members(h.adults), "enfants": members(h.children),
		"adresse": tree{
			"destinataire": title + people[i].name + " " + people[i].given, "complement_information": nil, "complement_information_geographique": "RÉSIDENCE INVENTÉE",
			"numero_libelle_voie": h.street, "lieu_dit": nil, "code_postal_ville": h.town, "pays": "FRANCE",
		},
	}, nil
}

func (s *Server) solidarity(q url.Values) (any, *failure) {
	a := asked(q)
	if p, ok := s.index.population.find(a); ok {
		return tree{"est_beneficiaire": p.receives, "avec_majoration": nil, "date_debut_droit": nil}, nil
	}
	i, ok := s.index.find(a, func(i int) bool { h := householdOf(i); return h != nil && h.solidarity != nil })
	if !ok {
		return nil, nobody("37003")
	}
	r := householdOf(i).solidarity
	if !r.receives {
		return tree{"est_beneficiaire": false, "avec_majoration": nil, "date_debut_droit": nil}, nil
	}
	return tree{"est_beneficiaire": true, "avec_majoration": r.increased, "date_debut_droit": r.since}, nil
}

func byINE(ine string) int {
	return slices.IndexFunc(people, func(p person) bool { return p.ine != "" && p.ine == ine })
}

func (s *Server) scholarship(q url.Values) (any, *failure) {
	i := byINE(q.Get("ine"))
	level, ok := scholarships[i]
	if !ok {
		return nil, nobody("26003")
	}
	p, e := &people[i], enrolments[i]
	school := tree{"nom_commune": nil, "nom_etablissement": nil}
	if len(e) > 0 {
		last := e[len(e)-1]
		school = tree{"nom_commune": communeByCode(last.commune).name, "nom_etablissement": last.school}
	}
	given := []any{}
	for g := range strings.FieldsSeq(p.given) {
		given = append(given, g)
	}
	var birthplace any
	if c := communeByCode(p.place); c != nil {
		birthplace = c.name
	}
	return tree{
		"est_boursier": true, "periode_versement_bourse": tree{"date_rentree": "2025-09-01", "duree": 10}, "etablissement_etudes": school,
		"echelon_bourse": tree{"echelon": level, "echelon_bourse_regionale_provisoire": false}, "email": fmt.Sprintf("exemple%02d@exemple.invalid", i),
		"identite": tree{"nom": p.name, "prenoms": given, "date_naissance": p.date, "nom_commune_naissance": birthplace, "sexe": p.sex},
	}, nil
}

func (s *Server) student(q url.Values) (any, *failure) {
	i := byINE(q.Get("ine"))
	list, ok := enrolments[i]
	if !ok {
		return nil, nobody("25003")
	}
	p := &people[i]
	first, _, _ := strings.Cut(p.given, " ")
	admissions := []any{}
	today := s.cfg.Now().Format(time.DateOnly)
	for _, e := range list {
		admissions = append(admissions, tree{
			"date_debut": e.from, "date_fin": e.to, "est_inscrit": e.from <= today && today <= e.to, "regime_formation": tree{"libelle": "formation initiale", "code": "RF1"},
			"code_cog_insee_commune": e.commune, "etablissement_etudes": tree{"uai": e.uai, "nom": e.school},
		})
	}
	return tree{"identite": tree{"nom_naissance": p.name, "prenom": first, "date_naissance": p.date}, "admissions": admissions}, nil
}

func (s *Server) jobseeker(q url.Values) (any, *failure) {
	id := q.Get("identifiant")
	i := slices.IndexFunc(people, func(p person) bool { return p.jobseeker != "" && p.jobseeker == id })
	if i < 0 {
		return nil, nobody("24003")
	}
	p := &people[i]
	first, _, _ := strings.Cut(p.given, " ")
	title, sex := "M.", "Masculin"
	if p.sex == "F" {
		title, sex = "MME", "Féminin"
	}
	return tree{
		"identifiant": id,
		"identite":    tree{"civilite": title, "nom_naissance": p.name, "nom_usage": orNull(p.used), "prenom": first, "sexe": sex, "date_naissance": p.date},
		"contact":     tree{"email": fmt.Sprintf("exemple%02d@exemple.invalid", i), "telephone": fmt.Sprintf("06399800%02d", i), "telephone2": nil},
		"adresse": tree{
			"code_cog_insee_commune": "31555", "code_postal": "31000", "ligne_complement_adresse": nil, "ligne_complement_destinataire": "APPARTEMENT INVENTÉ",
			"ligne_complement_distribution": nil, "ligne_nom": p.name, "ligne_voie": fmt.Sprintf("%d RUE DE L'EXEMPLE", i+1), "localite": "31000 TOULOUSE",
		},
		"inscription": tree{
			"date_debut": "2025-03-01", "date_fin": nil, "code_certification_cnav": "VC",
			"categorie": tree{"code": 1, "libelle": "PERSONNE SANS EMPLOI DISPONIBLE DUREE INDETERMINEE PLEIN TPS"},
		},
	}, nil
}

// certificates prepares the documents: the answers only point to them.
func (s *Server) certificates() func(url.Values) (any, *failure) {
	links := map[string]string{}
	for i := range businesses {
		if b := &businesses[i]; !b.closed {
			links[b.siren] = s.document("ATTESTATION FISCALE " + b.siren)
		}
	}
	return func(q url.Values) (any, *failure) {
		link, ok := links[q.Get("siren")]
		if !ok {
			return nil, nobody("03003")
		}
		return tree{"document_url": link, "document_url_expires_in": 1234567, "date_delivrance_attestation": "2026-04-11", "date_periode_analysee": "2026-03-31"}, nil
	}
}

func (s *Server) income() func(url.Values) (any, *failure) {
	links := make([]string, len(declarations))
	for i := range declarations {
		links[i] = s.document(fmt.Sprintf("JUSTIFICATIF %d", i))
	}
	return func(q url.Values) (any, *failure) {
		year, err := strconv.Atoi(q.Get("annee"))
		if err != nil {
			return nil, unprocessable("L'année des revenus manque.")
		}
		if year > s.cfg.Now().Year() {
			return nil, unprocessable("Les revenus de cette année ne sont pas encore connus.")
		}
		for i, d := range declarations {
			if d.year != year {
				continue
			}
			if _, ok := s.index.find(asked(q), func(p int) bool { return slices.Contains(d.declarants, p) }); !ok {
				continue
			}
			who := []any{}
			for _, m := range members(d.declarants) {
				m := m.(tree)
				delete(m, "nom_usage")
				who = append(who, m)
			}
			return tree{"annee_revenus": d.year, "revenu_fiscal_reference": d.income, "nombre_parts": d.shares, "declarants": who, "document_url": links[i]}, nil
		}
		return nil, nobody("09003")
	}
}

func (s *Server) business(q url.Values) (any, *failure) {
	i := slices.IndexFunc(businesses, func(b business) bool { return b.siren == q.Get("siren") })
	if i < 0 {
		return nil, nobody("01003")
	}
	b := &businesses[i]
	kind, who := "personne_morale", tree{"pseudonyme": nil, "prenom_usuel": nil, "prenom_1": nil, "prenom_2": nil, "prenom_3": nil, "prenom_4": nil, "nom_usage": nil, "nom_naissance": nil, "sexe": nil}
	if b.owner >= 0 {
		kind = "personne_physique"
		p := &people[b.owner]
		for j, g := range strings.Fields(p.given) {
			who[fmt.Sprintf("prenom_%d", j+1)] = strings.ToUpper(g)
		}
		who["prenom_usuel"], who["nom_naissance"], who["sexe"] = who["prenom_1"], p.name, p.sex
	}
	state, closed := "A", any(nil)
	if b.closed {
		state, closed = "C", int64(1656021600)
	}
	return tree{
		"siren": b.siren, "rna": nil, "siret_siege_social": b.siret, "status_diffusion": "diffusible", "categorie_entreprise": "PME", "diffusable_commercialement": true, "type": kind,
		"personne_morale_attributs": tree{"raison_sociale": orNull(b.name), "sigle": orNull(b.short)}, "personne_physique_attributs": who,
		"forme_juridique": tree{"code": b.form, "libelle": b.formName}, "activite_principale": tree{"code": b.activity, "nomenclature": "NAFRev2", "libelle": b.activityName},
		"tranche_effectif_salarie": tree{"de": nil, "a": nil, "code": "NN", "date_reference": nil, "intitule": "Unités non employeuses"},
		"etat_administratif":       state, "economie_sociale_et_solidaire": nil, "date_cessation": closed, "date_creation": b.created,
	}, nil
}

func (s *Server) address(q url.Values) (any, *failure) {
	i := slices.IndexFunc(businesses, func(b business) bool { return b.siret == q.Get("siret") })
	if i < 0 {
		return nil, nobody("01003")
	}
	b := &businesses[i]
	c := communeByCode(b.commune)
	name, second := b.name, ""
	if b.owner >= 0 {
		second = people[b.owner].name + " " + people[b.owner].given
	}
	line, town := b.number+" "+b.way+" "+b.street, b.postcode+" "+strings.ToUpper(c.name)
	return tree{
		"numero_voie": b.number, "indice_repetition_voie": nil, "type_voie": b.way, "libelle_voie": b.street, "complement_adresse": nil, "code_commune": c.code,
		"libelle_commune": strings.ToUpper(c.name), "code_postal": b.postcode, "status_diffusion": "diffusible", "distribution_speciale": nil, "code_cedex": nil, "libelle_cedex": nil,
		"acheminement_postal":      tree{"l1": name, "l2": second, "l3": "", "l4": line, "l5": "", "l6": town, "l7": "FRANCE"},
		"libelle_commune_etranger": nil, "code_pays_etranger": nil, "libelle_pays_etranger": nil,
	}, nil
}

func communeByCode(code string) *commune {
	if i := slices.IndexFunc(communes, func(c commune) bool { return c.code == code }); i >= 0 {
		return &communes[i]
	}
	return nil
}

func (s *Server) commune(q url.Values) (any, *failure) {
	code := q.Get("code")
	if siret := q.Get("siret"); siret != "" {
		if i := slices.IndexFunc(businesses, func(b business) bool { return b.siret == siret }); i >= 0 {
			code = businesses[i].commune
		}
	}
	c := communeByCode(code)
	if c == nil || q.Get("niveau") == "commune" && c.arrondissement || q.Get("niveau") == "arrondissement" && !c.arrondissement {
		return nil, nobody("04003")
	}
	postcodes := []any{}
	for _, p := range c.postcodes {
		postcodes = append(postcodes, p)
	}
	return tree{
		"code": c.code, "nom": c.name, "codes_postaux": postcodes, "departement": tree{"code": c.department, "nom": c.departmentName},
		"centre": tree{"longitude": c.longitude, "latitude": c.latitude}, "fiche": strings.TrimSuffix(s.cfg.Base, "/") + "/v1/geo/fiche/" + c.code,
	}, nil
}

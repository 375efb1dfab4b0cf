package bench

import (
	"context"
	_ "embed"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// answerPath is where the provider answers.
const answerPath = "/v1/quotient_familial"

//go:embed definition.yaml
var definitionForm string

// definition is the service as its operator would declare it, for one of several ids.
func definition(id, endpoint string) []byte {
	return []byte(strings.NewReplacer("id: ID\n", "id: "+id+"\n", "ENDPOINT", endpoint, "SIRET", siret(9000)).Replace(definitionForm))
}

// siret invents the i-th establishment: 14 digits with a right check digit (Luhn).
func siret(i int) string {
	s := []byte("9" + strconv.Itoa(10000000+i) + "00010")
	for last := byte('0'); last <= '9'; last++ {
		// The SIREN first, then the whole.
		s[8] = last
		if luhn(s[:9]) {
			break
		}
	}
	for last := byte('0'); last <= '9'; last++ {
		s[13] = last
		if luhn(s) {
			break
		}
	}
	return string(s)
}

func luhn(digits []byte) bool {
	sum := 0
	for i := range digits {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// providerConfig is for the roles that stand at the other end of somebody's mTLS.
type providerConfig struct {
	TLS     tlsFiles
	Persons int
}

// population answers questions about invented people: everybody's answer is the same each time.
type population struct{ byName map[string]int32 }

func startProvider(_ context.Context, raw json.RawMessage) (role, any, error) {
	var cfg providerConfig
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, nil, err
	}
	return serve(cfg.TLS, newPopulation(cfg.Persons))
}

func newPopulation(n int) *population {
	p := &population{make(map[string]int32, n)}
	for i := range n {
		p.byName[birthName(i)] = int32(i)
	}
	return p
}

const nobody = `{"errors":[{"code":"37003","title":"Allocataire non trouvé","detail":"Personne de ce nom.","source":null,"meta":{"provider":"bench-cnaf"}}]}`

func (p *population) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	name := ""
	if rest, ok := strings.CutPrefix(r.URL.RawQuery, "nomNaissance="); ok {
		name, _, _ = strings.Cut(rest, "&")
	}
	i, ok := p.byName[name]
	if r.URL.Path != answerPath || !ok {
		h["Content-Length"] = []string{strconv.Itoa(len(nobody))}
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, nobody)
		return
	}
	who := pivot(int(i))
	b := appendAnswer(make([]byte, 0, 2304), int(i), &who)
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	_, _ = w.Write(b)
}

var natures = [...]string{"Allocations familiales", "Aide personnalisée au logement", "Complément familial", "Prime d'activité"}

// payments brings an answer to about 2,000 bytes.
const payments = 16

// appendAnswer writes person i's answer: one person, who is the one asked about.
func appendAnswer(b []byte, i int, who *proof.Pivot) []byte {
	b = append(b, `{"data":{"quotient_familial":{"fournisseur":"CNAF","valeur":`...)
	b = strconv.AppendInt(b, int64(200+i%1800), 10)
	b = append(b, `,"annee":2026,"mois":10,"annee_calcul":2026,"mois_calcul":11},"allocataires":[{"nom_naissance":"`...)
	b = append(b, who.BirthName...)
	b = append(b, `","nom_usage":null,"prenoms":"`...)
	b = append(b, who.GivenNames...)
	b = append(b, `","date_naissance":"`...)
	b = append(b, who.BirthDate...)
	b = append(b, `","sexe":"`...)
	b = append(b, who.Sex...)
	b = append(b, `"}],"adresse":{"destinataire":"`...)
	b = append(b, who.GivenNames...)
	b = append(append(b, ' '), who.BirthName...)
	b = append(b, `","complement_information":null,"complement_information_geographique":"Bâtiment `...)
	b = append(b, byte('A'+i%26))
	b = append(b, `","numero_libelle_voie":"`...)
	b = strconv.AppendInt(b, int64(1+i%199), 10)
	b = append(b, ` RUE DES PERSONNES INVENTÉES","lieu_dit":null,"code_postal_ville":"`...)
	b = append(b, who.BirthPlace...)
	b = append(b, ` VILLE-EXEMPLE","pays":"FRANCE"},"prestations":[`...)
	for j := range payments {
		if j > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"mois":"`...)
		b = strconv.AppendInt(b, int64(2025+j/12), 10)
		b = append(b, '-', byte('0'+(j%12+1)/10), byte('0'+(j%12+1)%10))
		b = append(b, `","nature":"`...)
		b = append(b, natures[(i+j)%len(natures)]...)
		b = append(b, `","montant":`...)
		b = strconv.AppendInt(b, int64(90+(i*7+j*31)%300), 10)
		b = append(b, '.', byte('0'+i%10), byte('1'+j%9))
		b = append(b, `,"etat":"vers\u00e9"}`...)
	}
	return append(b, `]},"links":{},"meta":{}}`...)
}

package inquiry

import (
	"encoding/json"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// What an answer states decides, and what it leaves out does, too.
func TestStates(t *testing.T) {
	r := &Rule{BirthName: "/d/nom", GivenNames: "/d/prenoms", BirthDate: "/d/date", BirthPlace: "/d/li~1eu"}
	person := proof.Pivot{BirthName: "EXEMPLE ÉCHO", GivenNames: "Lina Rose", BirthDate: "2011-03-21", Sex: "F", BirthPlace: "69123", BirthCountry: "99100"}
	for answer, want := range map[string]bool{
		`{"d":{"nom":"Exemple Echo","prenoms":"LINA","date":"2011-03-21","li/eu":"69123"}}`:          true,
		`{"d":{"nom":"Exemple Echo","prenoms":"LINA ROSE","date":"2011-03-21","li/eu":"69123"}}`:     true,
		`{"d":{"nom":"Exemple Echo","prenoms":"LIN","date":"2011-03-21","li/eu":"69123"}}`:           false,
		`{"d":{"nom":"Exemple Echo","prenoms":"LINA ROSE ANA","date":"2011-03-21","li/eu":"69123"}}`: false,
		`{"d":{"nom":"Exemple Echo","prenoms":"","date":"2011-03-21","li/eu":"69123"}}`:              false,
		`{"d":{"nom":"","prenoms":"LINA","date":"2011-03-21","li/eu":"69123"}}`:                      false,
		`{"d":{"nom":"Exemple Echo","prenoms":"LINA","date":"2011-03-21","li/eu":"75107"}}`:          false,
		`{"d":{"nom":"Exemple Echo","prenoms":"LINA","date":"2011-03-21"}}`:                          false,
		`{"d":{"nom":"Exemple Echo","prenoms":"LINA","date":20110321,"li/eu":"69123"}}`:              false,
		`{"d":[{"nom":"Exemple Echo"}]}`: false, `{}`: false, `null`: false,
	} {
		var tree any
		if err := json.Unmarshal([]byte(answer), &tree); err != nil {
			t.Fatal(err)
		}
		if got := r.states(tree, person); got != want {
			t.Errorf("%s: %v", answer, got)
		}
	}
}

func TestSame(t *testing.T) {
	for typ, x := range map[proof.SubjectType][2]string{
		proof.TypeNIR: {"284037510700105", "2 84 03 75 107 001 05"}, proof.TypeINE: {"0EXEMPLE02B", "0exemple02b"}, proof.TypeFranceTravail: {"EX00001A", "EX00001A"}, proof.TypeSIREN: {"900000118", "900 000 118"},
	} {
		id, err := proof.ParseSubject(string(typ), x[0])
		if err != nil {
			t.Fatal(err)
		}
		if !same(id, x[1]) || same(id, "") || same(id, x[0]+"0") {
			t.Errorf("%s", typ)
		}
	}
}

package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

const goodClaims = `{"sub":"s","given_name":"Angela Claire Louise","family_name":"EXEMPLE-DUBOIS","birthdate":"1962-08-24","gender":"female","birthplace":"75107","birthcountry":"99100","given_name_array":["Angela"],"aud":"x","exp":1}`

var wantedClaims = map[proof.SubjectType]string{proof.TypeNIR: "nir"}

func TestParseClaims(t *testing.T) {
	c, err := parseClaims([]byte(goodClaims), wantedClaims)
	if err != nil {
		t.Fatal(err)
	}
	want := proof.Pivot{BirthName: "EXEMPLE-DUBOIS", GivenNames: "Angela Claire Louise", BirthDate: "1962-08-24", Sex: "F", BirthPlace: "75107", BirthCountry: "99100"}
	if c.pivot != want || c.sub != "s" || len(c.missing) != 0 || len(c.identifiers) != 0 {
		t.Errorf("another person, or something is missing: %v", c.missing)
	}
	swap := func(old, text string) string { return strings.Replace(goodClaims, old, text, 1) }
	for name, text := range map[string]string{
		"empty": "", "null": "null", "list": "[]", "two objects": goodClaims + goodClaims, "garbage after": goodClaims + "}", "cut": goodClaims[:40],
		"twice":         swap(`"sub":"s"`, `"sub":"s","sub":"s"`),
		"twice escaped": swap(`"sub":"s"`, `"sub":"s","\u0073ub":"t"`),
		"no sub":        swap(`"sub":"s",`, ``),
		"sub number":    swap(`"sub":"s"`, `"sub":1`),
		"newline":       swap(`Angela C`, `Angela\nC`),
		"bidi":          swap(`Angela C`, `Angela\u202eC`),
		"surrogate":     swap(`Angela C`, `Angela\ud800C`),
		"not UTF-8":     swap(`Angela C`, "Angela\xffC"),
		"long":          swap(`Angela`, strings.Repeat("A", 300)),
		"huge":          swap(`Angela`, strings.Repeat("A", 70_000)),
		"deep":          swap(`"x"`, strings.Repeat("[", 100)+strings.Repeat("]", 100)),
		"name object":   swap(`"EXEMPLE-DUBOIS"`, `{}`),
		"gender":        swap(`female`, `f`),
		"date":          swap(`1962-08-24`, `24.08.1962`),
		"month 13":      swap(`1962-08-24`, `1962-13-01`),
		"commune":       swap(`75107`, `Paris`),
		"country":       swap(`99100`, `FR`),
		"abroad":        swap(`99100`, `99350`),
		"identifier":    swap(`"sub":"s"`, `"sub":"s","nir":1`),
	} {
		if _, err := parseClaims([]byte(text), wantedClaims); !errors.Is(err, errClaims) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, missing := range map[string]string{
		`{"sub":"s"}`:                                                       "[family_name given_name birthdate gender birthplace birthcountry]",
		swap(`1962-08-24`, `1962-08-00`):                                    "[birthdate]",
		swap(`1962-08-24`, `1962-00-00`):                                    "[birthdate]",
		swap(`1962-08-24`, `1962-08`):                                       "[birthdate]",
		swap(`1962-08-24`, `1962`):                                          "[birthdate]",
		swap(`,"birthplace":"75107","birthcountry":"99100"`, ``):            "[birthplace birthcountry]",
		swap(`,"birthcountry":"99100"`, ``):                                 "[]",
		swap(`75107`, ``):                                                   "[birthplace]",
		swap(`"75107"`, `null`):                                             "[birthplace]",
		swap(`female`, ``):                                                  "[gender]",
		swap(`EXEMPLE-DUBOIS`, `  `):                                        "[family_name]",
		swap(`Angela Claire Louise`, `Ωμέγα`):                               "[given_name]",
		swap(`"75107","birthcountry":"99100"`, `"","birthcountry":"99350"`): "[]",
	} {
		c, err := parseClaims([]byte(text), wantedClaims)
		if err != nil || fmt.Sprint(c.missing) != missing {
			t.Errorf("%s: %v, %v, want %s", text, c, err, missing)
		}
	}
}

// Whatever claims say: nobody is complete who has no canonical subject, nothing is held that would move text on a page, and errors repeat nothing.
func FuzzClaims(f *testing.F) {
	f.Add([]byte(goodClaims))
	f.Add([]byte(`{"sub":"s","nir":"284037510700105","birthdate":"1962-00-00","preferred_username":"MARQUEUR"}`))
	f.Add([]byte(`{"a":{"b":["{"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseClaims(b, wantedClaims)
		if err != nil {
			if !errors.Is(err, errClaims) || strings.Contains(err.Error(), "MARQUEUR") {
				t.Fatal(err)
			}
			return
		}
		if c.sub == "" || c.pivot.Complete() != (len(c.missing) == 0) {
			t.Fatalf("complete: %v, missing: %v", c.pivot.Complete(), c.missing)
		}
		if c.pivot.Complete() {
			if _, err := c.pivot.Subject(); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range slices.Concat([]string{c.sub, c.used, c.pivot.BirthName, c.pivot.GivenNames}, []string{c.identifiers[proof.TypeNIR]}) {
			if !plain(s) {
				t.Fatalf("%q", s)
			}
		}
	})
}

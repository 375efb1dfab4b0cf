package proof_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unicode"

	"github.com/regard-broker/regard/ledger/proof"
	"golang.org/x/text/unicode/norm"
)

// Another version of Unicode may fold a name otherwise, and file its bearer
// elsewhere: docs/formats.md, section 5, pins the version.
func TestUnicodeVersion(t *testing.T) {
	if norm.Version != "15.0.0" || unicode.Version != "15.0.0" {
		t.Errorf("decompositions are those of Unicode %s, categories of %s: keep the tables of 15.0.0", norm.Version, unicode.Version)
	}
}

func TestFoldName(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"Lefèvre":             "LEFEVRE",
		"Lefe\u0300vre":       "LEFEVRE", // decomposed already
		"LE  FÈVRE":           "LE FEVRE",
		" Dupont-Durand ":     "DUPONT DURAND",
		"d'Artagnan":          "D ARTAGNAN",
		"d’Artagnan":          "D ARTAGNAN",
		"Œuvrard":             "OEUVRARD",
		"cœur":                "COEUR",
		"Ægidius":             "AEGIDIUS",
		"Groß":                "GROSS",
		"GROẞ":                "GROSS",
		"Ÿves Çelik":          "YVES CELIK",
		"Anne, Marie-Élise":   "ANNE MARIE ELISE",
		"Nguyễn":              "NGUYEN",
		"Søren":               "S REN", // ø has no decomposition
		"Łukasz":              "UKASZ",
		"Ilkı":                "ILK",
		"Jean\t\u00a0Paul":    "JEAN PAUL",
		"O\u0301\u0302\u0303": "O",
		"محمد":                "",
		"李小龍":                 "",
		"李 Wei":               "WEI",
		"Иван":                "",
		"\ufb01n":             "N", // NFD leaves ligatures alone
		"\uff21":              "",  // full width letters are not A to Z
		"---":                 "",
		"A1B2":                "A B",
		"\xff\xfeBad\xc3":     "BAD",
		"\u212a":              "K", // the Kelvin sign decomposes to K
		"\u212b":              "A", // the Angstrom sign
		"Jean‐Paul\u200d":     "JEAN PAUL",
	} {
		if got := proof.FoldName(in); got != want {
			t.Errorf("FoldName(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestPivotSubject(t *testing.T) {
	anne := proof.Pivot{BirthName: "Lefèvre", GivenNames: "Anne Élise", BirthDate: "1987-04-30", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"}
	with := func(f func(*proof.Pivot)) proof.Pivot { p := anne; f(&p); return p }
	for _, c := range []struct {
		name     string
		p        proof.Pivot
		want     string // empty: refused
		complete bool
	}{
		{"whole", anne, "LEFEVRE|ANNE ELISE|1987-04-30|F|75056|99100", true},
		{"country implied", with(func(p *proof.Pivot) { p.BirthCountry = "" }), "LEFEVRE|ANNE ELISE|1987-04-30|F|75056|99100", true},
		{"abroad", with(func(p *proof.Pivot) { p.BirthPlace, p.BirthCountry = "", "99132" }), "LEFEVRE|ANNE ELISE|1987-04-30|F||99132", true},
		{"Corsica", with(func(p *proof.Pivot) { p.BirthPlace = "2B033" }), "LEFEVRE|ANNE ELISE|1987-04-30|F|2B033|99100", true},
		{"overseas", with(func(p *proof.Pivot) { p.BirthPlace = "97411" }), "LEFEVRE|ANNE ELISE|1987-04-30|F|97411|99100", true},
		{"French, place not known", with(func(p *proof.Pivot) { p.BirthPlace = "" }), "LEFEVRE|ANNE ELISE|1987-04-30|F||99100", false},
		{"nothing known of the place", with(func(p *proof.Pivot) { p.BirthPlace, p.BirthCountry = "", "" }), "LEFEVRE|ANNE ELISE|1987-04-30|F||", false},
		{"year and month", with(func(p *proof.Pivot) { p.BirthDate = "1987-04" }), "LEFEVRE|ANNE ELISE|1987-04|F|75056|99100", false},
		{"year", with(func(p *proof.Pivot) { p.BirthDate = "1987" }), "LEFEVRE|ANNE ELISE|1987|F|75056|99100", false},
		{"no date", with(func(p *proof.Pivot) { p.BirthDate = "" }), "LEFEVRE|ANNE ELISE||F|75056|99100", false},
		{"no sex", with(func(p *proof.Pivot) { p.Sex = "" }), "LEFEVRE|ANNE ELISE|1987-04-30||75056|99100", false},
		{"no given names", with(func(p *proof.Pivot) { p.GivenNames = "" }), "LEFEVRE||1987-04-30|F|75056|99100", false},
		{"leap day", with(func(p *proof.Pivot) { p.BirthDate = "2000-02-29" }), "LEFEVRE|ANNE ELISE|2000-02-29|F|75056|99100", true},

		{"no leap day", with(func(p *proof.Pivot) { p.BirthDate = "1900-02-29" }), "", false},
		{"no such month", with(func(p *proof.Pivot) { p.BirthDate = "1987-13" }), "", false},
		{"day of zero", with(func(p *proof.Pivot) { p.BirthDate = "1987-04-00" }), "", false},
		{"another notation", with(func(p *proof.Pivot) { p.BirthDate = "30/04/1987" }), "", false},
		{"year zero", with(func(p *proof.Pivot) { p.BirthDate = "0000" }), "", false},
		{"sex", with(func(p *proof.Pivot) { p.Sex = "female" }), "", false},
		{"place abroad", with(func(p *proof.Pivot) { p.BirthCountry = "99132" }), "", false},
		{"department 96", with(func(p *proof.Pivot) { p.BirthPlace = "96001" }), "", false},
		{"department 00", with(func(p *proof.Pivot) { p.BirthPlace = "00001" }), "", false},
		{"department 970", with(func(p *proof.Pivot) { p.BirthPlace = "97011" }), "", false},
		{"2C", with(func(p *proof.Pivot) { p.BirthPlace = "2C001" }), "", false},
		{"a name as place", with(func(p *proof.Pivot) { p.BirthPlace = "Paris" }), "", false},
		{"country name", with(func(p *proof.Pivot) { p.BirthCountry = "FR" }), "", false},
		{"no birth name", with(func(p *proof.Pivot) { p.BirthName = "" }), "", false},
		{"Arabic birth name", with(func(p *proof.Pivot) { p.BirthName = "محمد" }), "", false},
		{"Chinese given names", with(func(p *proof.Pivot) { p.GivenNames = "小龍" }), "", false},
		{"endless name", with(func(p *proof.Pivot) { p.BirthName = strings.Repeat("A", 257) }), "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := c.p.Subject()
			if c.want == "" {
				if !errors.Is(err, proof.ErrSubject) || !s.IsZero() {
					t.Fatalf("Subject: %v, want ErrSubject", err)
				}
				if strings.Contains(err.Error(), "LEFEVRE") || strings.Contains(err.Error(), "Lef") {
					t.Errorf("the error names the person: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.Value() != c.want || s.Type() != proof.TypePivot {
				t.Errorf("%s:%s, want %s", s.Type(), s.Value(), c.want)
			}
			if got := c.p.Complete(); got != c.complete {
				t.Errorf("Complete() = %v, want %v", got, c.complete)
			}
			again, err := proof.ParseSubject("pivot", s.Value())
			if err != nil || !again.Equal(s) {
				t.Errorf("ParseSubject of its own canonical form: %v, equal %v", err, again.Equal(s))
			}
			p, ok := s.Pivot()
			if s2, err := p.Subject(); !ok || err != nil || !s2.Equal(s) {
				t.Errorf("Pivot() of the subject makes another one: %v", err)
			}
		})
	}
	if _, err := (proof.Pivot{BirthName: "محمد"}).Subject(); err == nil || !strings.Contains(err.Error(), "Latin") {
		t.Errorf("the error does not say what to do: %v", err)
	}
}

func TestParseSubjectCanonicalOnly(t *testing.T) {
	for _, c := range []struct{ typ, value string }{
		{"pivot", "LEFEVRE|ANNE|1987-04-30|F|75056"},
		{"pivot", "LEFEVRE|ANNE|1987-04-30|F|75056|99100|"},
		{"pivot", "Lefevre|ANNE|1987-04-30|F|75056|99100"},
		{"pivot", " LEFEVRE|ANNE|1987-04-30|F|75056|99100"},
		{"pivot", "LEFEVRE|ANNE  ELISE|1987-04-30|F|75056|99100"},
		{"pivot", "LEFEVRE|ANNE|1987-04-30|F|75056|"},
		{"pivot", "|ANNE|1987-04-30|F|75056|99100"},
		{"pivot", "LEFÈVRE|ANNE|1987-04-30|F|75056|99100"},
		{"person", "LEFEVRE|ANNE|1987-04-30|F|75056|99100"},
		{"person", "LEFEVRE|ANNE|1987-4-30|F"},
		{"nir", "2 87 04 75 056 001 42"},
		{"nir", "287047505600141"},
		{"nir", "2870475056001"},
		{"nir", "28704750560014X"},
		{"ine", "0123456789a"},
		{"ine", "0123456789"},
		{"france_travail", ""},
		{"france_travail", "é"},
		{"france_travail", strings.Repeat("1", 33)},
		{"siren", "130025264"},
		{"siren", "130 025 265"},
		{"siren", "13002526500013"},
		{"siret", "13002526500013"},
		{"", ""},
	} {
		if s, err := proof.ParseSubject(c.typ, c.value); !errors.Is(err, proof.ErrSubject) || !s.IsZero() {
			t.Errorf("ParseSubject(%q, %q): %v, want ErrSubject", c.typ, c.value, err)
		}
	}
}

func TestIdentifiers(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(string) (proof.Subject, error)
		in   string
		want string // empty: refused
	}{
		// The example of INSEE's documentation: 2 55 08 14 168 025, key 38.
		{"nir with spaces", proof.NIR, "2 55 08 14 168 025 38", "255081416802538"},
		{"nir without key", proof.NIR, "2550814168025", "255081416802538"},
		{"nir wrong key", proof.NIR, "255081416802539", ""},
		{"nir Corsica 2A", proof.NIR, "184052a004001", "184052A004001" + nirKey(t, "1840519004001")},
		{"nir Corsica 2B", proof.NIR, "184052B033001", "184052B033001" + nirKey(t, "1840518033001")},
		{"nir 2C", proof.NIR, "184052C033001", ""},
		{"nir letters elsewhere", proof.NIR, "2A5081416802538", ""},
		{"nir sex 0", proof.NIR, "0550814168025", ""},
		{"nir sex 9", proof.NIR, "9550814168025", ""},
		{"nir short", proof.NIR, "25508141680", ""},
		{"nir empty", proof.NIR, "", ""},
		{"ine lower case", proof.INE, "0123456789a", "0123456789A"},
		{"ine new", proof.INE, "012345678AB", "012345678AB"},
		{"ine short", proof.INE, "0123456789", ""},
		{"ine accent", proof.INE, "01234567É", ""},
		{"france travail", proof.FranceTravail, "dupont-42_X", "dupont-42_X"},
		{"france travail space", proof.FranceTravail, "dupont 42", ""},
		{"siren", proof.SIREN, "130 025 265", "130025265"},
		{"siren La Poste", proof.SIREN, "356000000", "356000000"},
		{"siren check digit", proof.SIREN, "130025266", ""},
		{"siren long", proof.SIREN, "1300252650", ""},
		{"siren letters", proof.SIREN, "13002526O", ""},
	} {
		s, err := c.make(c.in)
		if c.want == "" {
			if !errors.Is(err, proof.ErrSubject) || !s.IsZero() {
				t.Errorf("%s: %v, want ErrSubject", c.name, err)
			}
			continue
		}
		if err != nil || s.Value() != c.want {
			t.Errorf("%s: %q %v, want %q", c.name, s.Value(), err, c.want)
			continue
		}
		if again, err := proof.ParseSubject(string(s.Type()), s.Value()); err != nil || !again.Equal(s) {
			t.Errorf("%s: ParseSubject: %v", c.name, err)
		}
	}
}

// nirKey computes the key by long division, unlike the code under test.
func nirKey(t *testing.T, number string) string {
	t.Helper()
	rem := 0
	for _, c := range number {
		rem = (rem*10 + int(c-'0')) % 97
	}
	return fmt.Sprintf("%02d", 97-rem)
}

func TestSIRET(t *testing.T) {
	for s, ok := range map[string]bool{
		"13002526500013":  true,
		"21690123100011":  true,
		"35600000000048":  true,  // La Poste's seat: Luhn
		"35600000049837":  true,  // a post office: digits add up to 45
		"35600000049838":  false, // 46, and no Luhn
		"13002526500014":  false,
		"1300252650001":   false,
		"130025265000130": false,
		"1300252650001A":  false,
		"":                false,
	} {
		if err := proof.SIRET(s); (err == nil) != ok {
			t.Errorf("SIRET(%q): %v, want ok %v", s, err, ok)
		} else if err != nil && !errors.Is(err, proof.ErrSubject) {
			t.Errorf("SIRET(%q): %v wraps no ErrSubject", s, err)
		}
	}
}

func TestAgrees(t *testing.T) {
	anne := proof.Pivot{BirthName: "Lefèvre", GivenNames: "Anne Élise", BirthDate: "1987-04-30", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"}
	partial := anne
	partial.BirthPlace = ""
	whole := proof.Stated{BirthName: "LEFEVRE", GivenNames: "ANNE, ELISE", BirthDate: "1987-04-30", Sex: "F"}
	with := func(f func(*proof.Stated)) proof.Stated { s := whole; f(&s); return s }
	for _, c := range []struct {
		name   string
		asked  proof.Pivot
		stated proof.Stated
		agrees bool
	}{
		{"all but the place", anne, whole, true},
		{"nothing but names", anne, with(func(s *proof.Stated) { s.BirthDate, s.Sex = "", "" }), true},
		{"place too", anne, with(func(s *proof.Stated) { s.BirthPlace = "75056" }), true},
		{"another place", anne, with(func(s *proof.Stated) { s.BirthPlace = "69123" }), false},
		{"one given name of two", anne, with(func(s *proof.Stated) { s.GivenNames = "Anne" }), false},
		{"another order", anne, with(func(s *proof.Stated) { s.GivenNames = "Élise Anne" }), false},
		{"another date", anne, with(func(s *proof.Stated) { s.BirthDate = "1987-04-29" }), false},
		{"less of the date", anne, with(func(s *proof.Stated) { s.BirthDate = "1987" }), false},
		{"another sex", anne, with(func(s *proof.Stated) { s.Sex = "M" }), false},
		{"name that folds to nothing", anne, with(func(s *proof.Stated) { s.BirthName = "محمد" }), false},
		{"no birth name and another date", anne, with(func(s *proof.Stated) { s.BirthName, s.BirthDate = "", "2001-01-01" }), false},
		{"asked in part", partial, whole, true}, // and yet not filed under it: it is not complete
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.asked.Agrees(c.stated); got != c.agrees {
				t.Errorf("Agrees = %v, want %v", got, c.agrees)
			}
		})
	}
}

func TestSubjectRedactsItself(t *testing.T) {
	const secret = "LEFEVRE"
	p := proof.Pivot{BirthName: secret, GivenNames: "ANNE"}
	s := must(p.Subject())
	type buried struct{ s proof.Subject }
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", buried{s})
		fmt.Fprintf(&out, verb+"\n", &buried{s})
		fmt.Fprintf(&out, verb+"\n", []proof.Subject{s})
		fmt.Fprintf(&out, verb+"\n", map[int]proof.Subject{1: s})
		fmt.Fprintf(&out, verb+"\n", p)
		fmt.Fprintf(&out, verb+"\n", p.Person())
		fmt.Fprintf(&out, verb+"\n", proof.Stated{BirthName: secret})
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "s", s, "b", buried{s}, "p", p, "person", p.Person(), "stated", proof.Stated{BirthName: secret}, "list", []proof.Subject{s})
	}
	fmt.Fprintln(&out, fmt.Errorf("x %v %w", s, errors.New("y")))
	for _, v := range []any{s, &s, p, p.Person(), proof.Stated{BirthName: secret}, map[int]proof.Subject{1: s}} {
		b, err := json.Marshal(v)
		if err == nil {
			t.Errorf("json.Marshal(%T) works", v)
		}
		out.Write(b)
	}
	for _, hidden := range []string{secret, strings.ToLower(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), "76 69 70"} {
		if strings.Contains(out.String(), hidden) {
			t.Errorf("%q got out: %s", hidden, out.String())
		}
	}
	if !strings.Contains(out.String(), "pivot:[redacted]") {
		t.Error("the type is not shown")
	}
	var q proof.Subject
	if json.Unmarshal([]byte(`{"Type":"siren"}`), &q) == nil {
		t.Error("json.Unmarshal makes a subject")
	}
	if q.Value() != "" || fmt.Sprint(q) != "none" {
		t.Error("the zero subject is not empty")
	}
}

package verdict

import (
	"fmt"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

const someNames = namesHeader + `
agency mairie Mairie d'Exemple
auditor cour Cour d'Exemple
field quotient-familial quotient /data/mois
field quotient-familial quotient /data/valeur
provider cnaf Caisse  d'allocations
purpose.en cantine setting the price
purpose.fr cantine calculer le tarif
scope.en quotient-familial quotient The quotient
scope.fr quotient-familial quotient Le quotient
service.fr quotient-familial Quotient familial
`

// TestParseNames: what isn't in the one form of a file of names is refused, and what is has its names.
func TestParseNames(t *testing.T) {
	n, err := ParseNames([]byte(someNames))
	if err != nil {
		t.Fatal(err)
	}
	for want, got := range map[string]string{
		"Mairie d'Exemple": n.or("agency", "mairie"), "autre": n.or("agency", "autre"), "Le quotient": n.or("scope.fr", "quotient-familial", "quotient"), "quotient": n.or("scope.fr", "autre", "quotient"),
		"quotient-familial": n.or("service.en", "quotient-familial"), "Caisse  d'allocations": n.or("provider", "cnaf"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for reason, text := range map[string]string{
		"nothing":              "",
		"another header":       "regard/names@v2\n",
		"no end of the header": namesHeader,
		"no end of a line":     strings.TrimSuffix(someNames, "\n"),
		"an empty line":        namesHeader + "\n\n",
		"another order":        namesHeader + "\nagency b B\nagency a A\n",
		"a line twice":         namesHeader + "\nagency a A\nagency a A\n",
		"two names":            namesHeader + "\nagency a A\nagency a B\n",
		"another kind":         namesHeader + "\nagencies a A\n",
		"no token":             namesHeader + "\nagency A A\n",
		"no second token":      namesHeader + "\nscope.fr a É\n",
		"no name":              namesHeader + "\nagency a\n",
		"a blank name":         namesHeader + "\nagency a \u00a0\n",
		"control characters":   namesHeader + "\nagency a A\tB\n",
		"text from the right":  namesHeader + "\nagency a A\u202eB\n",
		"no UTF-8":             namesHeader + "\nagency a A\xff\n",
		"too many":             namesHeader + "\nagency a " + strings.Repeat("A", MaxNames) + "\n",
	} {
		if n, err := ParseNames([]byte(text)); err == nil || n != nil {
			t.Errorf("%s is accepted", reason)
		}
	}
	var bad Names
	bad.Set("A", "agency", "no token")
	if _, err := bad.AppendText(nil); err == nil {
		t.Error("a name of what is no token is written")
	}
}

// FuzzParseNames: what parses is written again byte by byte.
func FuzzParseNames(f *testing.F) {
	f.Add([]byte(someNames))
	f.Add([]byte(namesHeader + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := ParseNames(text)
		if err != nil {
			return
		}
		if b, err := n.AppendText(nil); err != nil || string(b) != string(text) {
			t.Errorf("%v: %q becomes %q", err, text, b)
		}
	})
}

// BenchmarkComparePage is what comparing costs beside verifying: a page of 100 lines, with the names of every municipality and as many others.
func BenchmarkComparePage(b *testing.B) {
	var n Names
	for i := range 40_000 {
		n.Set(fmt.Sprintf("Mairie d'Exemple n° %d", i), "agency", fmt.Sprintf("mairie-%d", i))
	}
	for i := range 300 {
		n.Set("Service", "service.fr", fmt.Sprintf("service-%d", i))
		n.Set("/data/valeur", "field", fmt.Sprintf("service-%d", i), "tout")
	}
	text, err := n.AppendText(nil)
	if err != nil {
		b.Fatal(err)
	}
	v, p := load(b)
	r, in := check(b, p, v.Good[0].Text, French, proof.HistoryOptions{})
	page := Page{Lang: French, Names: string(text)}
	for i := range 100 {
		page.Rows = append(page.Rows, honest(in, &in.Verdict.Entries[i%len(in.Verdict.Entries)]))
	}
	limits, keys := r.Limits, r.Keys
	for b.Loop() {
		r.Rows, r.Limits, r.Keys = nil, limits, keys
		if r.ComparePage(page, in); r.Refuted != nil || len(r.Rows) != 100 {
			b.Fatal(r.Sentence)
		}
	}
	b.ReportMetric(float64(len(text))/1e6, "MB")
}

package bench

import (
	"fmt"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// The population: invented people, the same in every run and in every process. Person i is asked about under a complete pivot identity of their own.

var (
	onsets = [...]string{"B", "C", "D", "F", "G", "L", "M", "N", "P", "R", "S", "T", "V", "BR", "CH", "GR"}
	rimes  = [...]string{"A", "E", "I", "O", "U", "AN", "EL", "ER", "IN", "OU", "AUD", "EAU", "ET", "IER", "ON", "ARD"}
	givens = [...]string{"ADELE", "AGATHE", "ALBAN", "BASILE", "BLANCHE", "CAMILLE", "CESAR", "CLEMENCE", "DIANE", "EDGAR", "ELOISE", "EMILE", "FAUSTIN", "FLORE",
		"GASPARD", "HELENE", "HONORE", "IRIS", "ISIDORE", "JEANNE", "JULES", "LEONIE", "LUCIEN", "MADELEINE", "MARCEL", "NINON", "OCTAVE", "OLYMPE", "PAULIN", "ROSE", "SIMEON", "ZELIE"}
)

// birthName writes i in three syllables, so that every person has another name.
func birthName(i int) string {
	var b strings.Builder
	for range 3 {
		b.WriteString(onsets[i%16])
		i /= 16
		b.WriteString(rimes[i%16])
		i /= 16
	}
	return b.String()
}

// maxPersons is how many people have names.
const maxPersons = 1 << 24

// pivot of person i.
func pivot(i int) proof.Pivot {
	h := uint32(i)*2654435761 + 12345 // Knuth's multiplicative hash: spreads what follows over its ranges
	sex := "F"
	if h>>31 == 0 {
		sex = "M"
	}
	department := 1 + (h>>8)%94
	if department >= 20 {
		department++ // Corsica has letters
	}
	return proof.Pivot{
		BirthName:    birthName(i),
		GivenNames:   givens[(h>>3)%32] + " " + givens[(h>>17)%32],
		BirthDate:    fmt.Sprintf("%04d-%02d-%02d", 1940+(h>>5)%66, 1+(h>>13)%12, 1+(h>>21)%28),
		Sex:          sex,
		BirthPlace:   fmt.Sprintf("%02d%03d", department, 1+(h>>11)%350),
		BirthCountry: "99100",
	}
}

// walk visits all n people once before it visits anybody twice.
type walk struct{ n, step int }

func newWalk(n int) walk {
	step := 61803 % n
	for step < 2 || gcd(step, n) != 1 {
		step++
		if step >= n {
			step = 1
			break
		}
	}
	return walk{n, step}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (w walk) at(k int64) int { return int(k % int64(w.n) * int64(w.step) % int64(w.n)) }

// target is the question as a provider gets it: what the definition makes of a pivot. Nothing in it needs escaping but the brackets.
func target(b []byte, p *proof.Pivot) []byte {
	b = append(b, answerPath...)
	b = append(b, "?nomNaissance="...)
	b = append(b, p.BirthName...)
	for g := range strings.SplitSeq(p.GivenNames, " ") {
		b = append(b, "&prenoms%5B%5D="...)
		b = append(b, g...)
	}
	b = append(b, "&dateNaissance="...)
	b = append(b, p.BirthDate...)
	b = append(b, "&sexeEtatCivil="...)
	b = append(b, p.Sex...)
	b = append(b, "&codeCogInseeCommuneNaissance="...)
	b = append(b, p.BirthPlace...)
	b = append(b, "&codeCogInseePaysNaissance="...)
	return append(b, p.BirthCountry...)
}

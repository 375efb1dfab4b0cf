package portal_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
	"golang.org/x/net/html"
)

// TestHistoryPage shows what happened, newest first, in words, and in both languages.
func TestHistoryPage(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	first := w.disclose("mairie", canteen(camille))
	w.turn()
	denied := canteen(camille)
	denied.Purpose = "publicite"
	refused := w.disclose("mairie", denied)
	a := w.page("camille", "/historique")
	if got := a.indexes(); !slices.Equal(got, []proof.Index{refused, first}) {
		t.Fatalf("rows %v, want %d and %d\n%s", got, refused, first, a.text())
	}
	rows := a.rows()
	for i, want := range []struct{ words, outcome string }{
		{"Mairie d'Exempleville Quotient familial, Identité des enfants Refusé par la règle", "denied"},
		{"Mairie d'Exempleville Identité des enfants, Quotient familial Auprès de Caisse nationale des allocations familiales (service de référence) Pourquoi calculer le tarif de la cantine Transmis", "released"},
	} {
		r := rows[i]
		for _, word := range strings.Split("Mairie d'Exempleville|Quotient familial|Caisse nationale", "|") {
			if !strings.Contains(text(r), word) {
				t.Errorf("row %d doesn't say %q: %s", i, word, text(r))
			}
		}
		if attr(r, "data-outcome") != want.outcome || attr(r, "data-agency") != "mairie" || attr(r, "data-service") != "quotient-familial@1" || attr(r, "data-kind") != string(proof.KindDisclosure) {
			t.Errorf("row %d: %+v", i, r.Attr)
		}
	}
	if !strings.Contains(text(rows[1]), "calculer le tarif de la cantine") || !strings.Contains(text(rows[0]), "envoyer de la publicité") || !strings.Contains(text(rows[0]), "Refusé par la règle") {
		t.Errorf("%s\n%s", text(rows[0]), text(rows[1]))
	}
	// The one of the open epoch stands under today, the other under its day.
	today := a.all(func(n *html.Node) bool { return n.Data == "section" && attr(n, "class") == "today" })
	if len(today) != 1 || !strings.Contains(text(today[0]), "Refusé") || strings.Contains(text(today[0]), "Transmis") || !strings.Contains(text(today[0]), "Provisoire") {
		t.Errorf("today: %v", today)
	}
	en := w.page("camille", "/historique", "Cookie", "__Host-langue=en")
	for _, word := range []string{"Accesses to your data", "Refused by policy", "Released", "Family quotient", "setting the price of school meals"} {
		if !strings.Contains(en.text(), word) {
			t.Errorf("in English there is no %q:\n%s", word, en.text())
		}
	}
	if strings.Contains(string(a.body), "AGENTMARKER") {
		t.Error("the agency's agent is shown")
	}
}

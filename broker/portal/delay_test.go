package portal_test

import (
	"crypto/rand"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// revealed are the times at which rows say that they could be seen.
func revealed(n *html.Node) (out []string) {
	for c := range n.Descendants() {
		if c.Type == html.ElementNode && c.Data == "time" && attr(c.Parent, "class") == "revealed" {
			out = append(out, attr(c, "datetime"))
		}
	}
	return out
}

// delayed is a request about Camille that she isn't told of for a while.
func (w *world) delayed() *broker.Answer {
	w.t.Helper()
	now := time.Now()
	if _, err := w.b.PutAgreement(w.t.Context(), policy.Agreement{
		ID: "enquete", Agency: "mairie", Service: "quotient-familial", Scopes: []policy.Scope{"quotient"}, Purposes: []policy.Purpose{"enquete"}, LegalBases: []policy.LegalBasis{"cpp-60-1"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10000 * time.Hour),
		Deferral: &policy.Deferral{Authority: "Tribunal judiciaire d'Exempleville", Article: "CPP art. 60-1", Reference: "2026/118", Days: 40},
	}); err != nil {
		w.t.Fatal(err)
	}
	secret := canteen(camille)
	secret.Agreement, secret.Purpose, secret.LegalBasis, secret.Scopes = "enquete", "enquete", "cpp-60-1", []string{"quotient"}
	a, err := w.b.Disclose(w.t.Context(), w.agencies["mairie"], secret)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// TestDelays: what was asked under a lawful delay, and who looked at it meanwhile, is in no page before the delay ends; then it is, with both dates and who ordered it.
func TestDelays(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	a := w.delayed()
	_, vkey, err := note.GenerateKey(rand.Reader, "cour.example")
	if err != nil {
		t.Fatal(err)
	}
	own := brokertest.NewCurrentIdentity(t, "cour")
	if err := w.b.AddAuditor(t.Context(), "cour", "Cour d'Exemple", own.Leaf, vkey); err != nil {
		t.Fatal(err)
	}
	auditor, err := w.b.Authenticate(own.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := w.b.Openings(t.Context(), auditor, &broker.OpeningsRequest{Disclosure: a.ID, Reason: "contrôle de l'enquête", IdempotencyKey: "1"})
	if err != nil || len(opened.Entries) == 0 {
		t.Fatal(err)
	}
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	unknown := w.get("camille", "/acces/999999")
	for _, e := range append(opened.Entries, broker.OpenedEntry{Index: r.Index()}) {
		for _, i := range []proof.Index{e.Index, e.Access} {
			if got := w.get("camille", "/acces/"+i.String()); i != 0 && (got.StatusCode != 404 || got.text() != unknown.text()) {
				t.Errorf("entry %d is told before its time: %s\n%s", i, got.Status, got.text())
			}
		}
	}
	if p := w.page("camille", "/historique"); len(p.rows()) != 0 {
		t.Errorf("before: %s", p.text())
	}
	// Both were long before the person could see them.
	w.ahead.Add(int64(72 * time.Hour))
	if _, err := w.b.EndDeferral(t.Context(), a.ID, "mainlevée"); err != nil {
		t.Fatal(err)
	}
	p := w.page("camille", "/historique")
	var asked, looked string
	for k, n := range p.rows() {
		switch s := text(n); {
		case !strings.Contains(s, "Accès différé par la loi") || !strings.Contains(s, "Révélé le") || len(revealed(n)) != 1 || attr(n, "data-outcome") != "opened":
			t.Errorf("a row doesn't say that it was delayed, and until when: %s", s)
		case strings.Contains(s, "Votre enregistrement"):
			looked = p.indexes()[k].String()
			if !strings.Contains(s, "Cour d'Exemple, auditeur accrédité") || !strings.Contains(s, "contrôle de l'enquête") {
				t.Errorf("who looked: %s", s)
			}
		default:
			asked = p.indexes()[k].String()
			if !strings.Contains(s, "Mairie d'Exempleville") || !strings.Contains(s, "Quotient familial") {
				t.Errorf("who asked: %s", s)
			}
		}
	}
	if len(p.rows()) != 2 || asked == "" || looked == "" {
		t.Fatalf("%d rows: %s", len(p.rows()), p.text())
	}
	for index, words := range map[string][]string{
		asked:  {"Mairie d'Exempleville", "Demandé le", "Transmis", "Transmises à l'administration"},
		looked: {"Cour d'Exemple, auditeur accrédité", "Ouvert le", "contrôle de l'enquête"},
	} {
		s := w.page("camille", "/acces/"+index).text()
		for _, want := range append(words, "Accès différé par la loi", "Révélé le", "Tribunal judiciaire d'Exempleville", "CPP art. 60-1", "Le délai est terminé") {
			if !strings.Contains(s, want) {
				t.Errorf("entry %s: no %q on\n%s", index, want, s)
			}
		}
	}
	if s := w.page("camille", "/acces/"+asked, "Cookie", "__Host-langue=en").text(); !strings.Contains(s, "Delayed by law") || !strings.Contains(s, "Revealed on") {
		t.Errorf("in English: %s", s)
	}
	// What was asked can be contested, now that it is known; that somebody looked at it can't, as any other opening.
	w.page("camille", "/acces/"+asked).says(t, "Contester")
	w.page("camille", "/contester/"+asked).says(t, "Mairie d'Exempleville", "je conteste votre demande")
	to := w.file("camille", w.index(asked), "Pourquoi ?")
	w.page("camille", to).says(t, "En attente de réponse", "Mairie d'Exempleville", "Pourquoi ?", "Voir l'accès")
	if list, err := w.b.Contests(t.Context(), w.agencies["mairie"], "open", store.ID{}, 0); err != nil || len(list.Contests) != 1 || list.Contests[0].Disclosure != a.ID || list.Contests[0].Role != proof.RoleAsked {
		t.Errorf("the agency's contests: %+v, %v", list, err)
	}
	if x := w.page("camille", "/acces/"+looked); strings.Contains(string(x.body), "/contester/") || w.get("camille", "/contester/"+looked).StatusCode != 409 {
		t.Errorf("that somebody looked: %s", x.text())
	}
	if list := w.get("camille", "/telecharger/historique.csv?issue=opened"); strings.Count(string(list.body), "\"Accès différé par la loi\";\""+time.Now().Add(72*time.Hour).Format("2006-")) != 2 {
		t.Errorf("the spreadsheet: %s", list.body)
	}
	// The paper says both dates, too, once the day is closed.
	w.turn()
	printed := w.page("camille", "/releve?du="+time.Now().AddDate(0, 0, -1).Format(time.DateOnly))
	var dates [][]string
	for _, n := range printed.rows() {
		if attr(n, "data-outcome") == "opened" {
			dates = append(dates, append(revealed(n), attr(n, "data-at")))
		}
	}
	for _, d := range dates {
		revealed, err1 := time.Parse(time.RFC3339, d[0])
		asked, err2 := time.Parse(time.RFC3339, d[len(d)-1])
		if after := revealed.Sub(asked); len(d) != 2 || err1 != nil || err2 != nil || after < 71*time.Hour || after > 73*time.Hour {
			t.Errorf("the statement says that it was asked and revealed at %v", d)
		}
	}
	if len(dates) != 2 {
		t.Errorf("%d delayed entries are on the statement:\n%s", len(dates), printed.text())
	}
	if e, _, err := w.b.OwnEntries(t.Context(), w.sessions.by["camille"].Subjects[0], 0, 10); err != nil || len(e) != 2 || e[0].Delay == nil || e[0].Delay.OpenedAt.Sub(e[0].At) < 71*time.Hour {
		t.Errorf("%v %+v", err, e)
	}
}

// TestDelayedOfAnother: whoever reads for somebody sees both dates as the person does.
func TestDelayedOfAnother(t *testing.T) {
	w := newReal(t, pierre, camille)
	ward, guardian := w.account(camille), w.account(pierre)
	for _, a := range []broker.Account{ward, guardian} {
		if err := w.b.Enrol(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	secret := w.delayed()
	id := uuid.UUID(must[store.ID](t)(w.b.GrantDelegation(t.Context(), broker.Grant{Kind: broker.Guardian, Delegate: guardian.Pivot, Subjects: ward.Subjects[:1], Evidence: "jugement"}))).String()
	w.ahead.Add(int64(72 * time.Hour))
	if _, err := w.b.EndDeferral(t.Context(), secret.ID, "mainlevée"); err != nil {
		t.Fatal(err)
	}
	v := w.visitor(pierre)
	path := "/mandats/" + id
	v.confirm(v.get(path), pierre)
	a := v.post(path, url.Values{"identifiant": {v.mark(ward.Pivot)}, "genre": {"differes"}})
	if len(a.rows()) != 1 || len(revealed(a.rows()[0])) != 1 {
		t.Fatalf("%s", a.text())
	}
	if asked, seen := attr(a.rows()[0], "data-at"), revealed(a.rows()[0])[0]; seen[:10] != w.now().UTC().Format(time.DateOnly) || asked[:10] >= seen[:10] {
		t.Errorf("asked on %s, revealed on %s", asked, seen)
	}
}

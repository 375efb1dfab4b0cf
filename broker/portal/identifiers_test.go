package portal_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/identity/inquiry"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestCookies: the page about personal data lists the cookies that are set, each of them and no other.
func TestCookies(t *testing.T) {
	w := newReal(t, jean)
	v := w.visitor(jean)
	v.get("/historique?lang=en")
	v.get("/historique?lang=fr")
	v.post("/deconnexion", nil)
	listed := []string{}
	a := v.page("/donnees-personnelles")
	for _, c := range a.tag("code") {
		listed = append(listed, text(c))
	}
	var set []string
	w.cookies.Range(func(name, _ any) bool {
		set = append(set, name.(string))
		return true
	})
	slices.Sort(set)
	slices.Sort(listed)
	if d := cmp.Diff(set, listed); d != "" || len(set) != 5 {
		t.Errorf("set and listed: %s", d)
	}
	for name, age := range map[string]int{"__Host-regard": 0, "__Host-regard-connexion": 600, "__Host-regard-deconnexion": 600, "__Host-langue": 365 * 24 * 3600, "__Host-message": 60} {
		if got, _ := w.cookies.Load(name); got != age {
			t.Errorf("%s stays for %v s, and the page says %d", name, got, age)
		}
	}
	if s := a.text(); !strings.Contains(s, "dix minutes au plus") || !strings.Contains(s, "Un an") || !strings.Contains(s, "une minute au plus") {
		t.Error(s)
	}
}

// TestWhoIsAsked: before an identifier is sent, the page says to whom, and what of the person.
func TestWhoIsAsked(t *testing.T) {
	w := newReal(t, jean)
	v := w.visitor(jean)
	if s := v.page("/identifiants").text(); !strings.Contains(s, "Ministère chargé de l'enseignement supérieur (service de référence) , Statut d'étudiant . L'identifiant que vous écrivez est envoyé, sans votre nom.") {
		t.Error(s)
	}
	// One that is asked about the person is told who that is. A service that isn't registered has no provider yet.
	w.cfg.Checks = map[proof.SubjectType]inquiry.Rule{proof.TypeINE: {Service: "service-futur", Purpose: "p", LegalBasis: "l", Scopes: []string{"x"}, Identifier: "/data/ine"}}
	p, err := portal.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.p = p
	if s := v.page("/identifiants").text(); !strings.Contains(s, "service-futur . Votre identité complète est envoyée") || strings.Contains(s, "sans votre nom") {
		t.Error(s)
	}
	w.cfg.Checks = nil
	if _, err := portal.New(w.cfg); err == nil || !strings.Contains(err.Error(), "an identifier of the type ine is checked") {
		t.Errorf("a portal that can't say who is asked: %v", err)
	}
}

// TestIdentifiers: attached by the word of the body that holds it and by nothing else, shown in part, followed, and removed.
func TestIdentifiers(t *testing.T) {
	w := newReal(t, jeanToo, jean, camille)
	ine := must[proof.Subject](t)(proof.INE("0EXEMPLE02B"))
	v, namesake := w.visitor(jeanToo), w.visitor(jean)
	for _, p := range []proof.Pivot{jeanToo, jean} { // as the sign-in does in the server
		if err := w.b.Enrol(t.Context(), w.account(p)); err != nil {
			t.Fatal(err)
		}
	}
	attach := func(v *visitor, typ, value string) answer {
		return v.post("/identifiants", url.Values{"type": {typ}, "valeur": {value}})
	}
	if s := v.page("/identifiants").text(); !strings.Contains(s, "votre identité complète") || !strings.Contains(s, "Aucun autre identifiant") || !strings.Contains(s, "L'organisme qui détient l'identifiant est interrogé") {
		t.Error(s)
	}
	v.forged("/identifiants", url.Values{"type": {"ine"}, "valeur": {"0EXEMPLE02B"}})
	refused := func(a answer, status int, word string) {
		t.Helper()
		if a.StatusCode != status || !strings.Contains(a.text(), word) || !strings.Contains(a.text(), "Il y a une erreur") {
			t.Errorf("%s, want %d and %q:\n%s", a.Status, status, word, a.text())
		}
		harmless(t, word, a)
	}
	// What can't be right costs no question.
	refused(attach(v, "ine", "12"), http.StatusBadRequest, "n'a pas la bonne forme")
	refused(attach(v, "ine", hostile), http.StatusBadRequest, "n'a pas la bonne forme")
	refused(attach(v, "nir", "284037510700105"), http.StatusBadRequest, "ne peut pas être vérifiée ici")
	refused(attach(v, hostile, "0EXEMPLE02B"), http.StatusBadRequest, "ne peut pas être vérifiée ici")
	// The body can't be asked yet: nobody knows.
	refused(attach(v, "ine", "0EXEMPLE02B"), http.StatusServiceUnavailable, "ne répond pas en ce moment")
	w.agency("portail", "Portail")
	w.agree("rattachement", "portail", "statut-etudiant", "espace-personnel", "identite")
	refused(attach(v, "ine", "0EXEMPLE02B"), http.StatusServiceUnavailable, "ne répond pas en ce moment") // the agreement has another legal basis
	w.consent()
	refused(attach(v, "ine", "0EXEMPLE03C"), http.StatusForbidden, "ne confirme pas")

	a := attach(v, "ine", "0exemple02b")
	if a.Request.URL.Path != "/identifiants" || !strings.Contains(a.text(), "est rattaché à votre compte") || !strings.Contains(a.text(), "Confirmé par l'organisme") || !strings.Contains(a.text(), "…E02B") || strings.Contains(a.text(), "0EXEMPLE02B") {
		t.Fatalf("%s\n%s", a.Status, a.text())
	}
	// The question stands in the history, which now covers the identifier, and the person is told of what comes.
	if s := v.page("/historique").text(); !strings.Contains(s, "Portail") || !strings.Contains(s, "votre identifiant national étudiant") {
		t.Errorf("%s", s)
	}
	w.agree("bourse", "mairie", "statut-etudiant", "tarif-cantine", "identite")
	w.disclose("mairie", &broker.Request{
		Service: "statut-etudiant", Scopes: []string{"identite"}, Purpose: "tarif-cantine", LegalBasis: "crpa-l114-8", Recipient: siret, Context: "Inscription", Object: "dossier", Official: "A",
		Subject: broker.SubjectInput{Type: "ine", Value: "0EXEMPLE02B"},
	})
	eventually(t, "told of an access under the identifier", func() bool {
		page, err := w.b.Notices(t.Context(), w.account(jeanToo, ine), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Notices) > 0
	})
	// The namesake, born elsewhere, who knows the number: the body confirms it by name and date, but it belongs to one account.
	refused(attach(namesake, "ine", "0EXEMPLE02B"), http.StatusConflict, "déjà rattaché à un autre compte")
	if s := namesake.page("/historique").text(); strings.Contains(s, "Portail") {
		t.Error("the namesake sees it")
	}

	// Removed by its own account alone.
	v.forged("/identifiants/retirer", url.Values{"identifiant": {v.mark(ine)}})
	for name, a := range map[string]answer{
		"another's": namesake.post("/identifiants/retirer", url.Values{"identifiant": {namesake.mark(ine)}}), "by another's form": namesake.post("/identifiants/retirer", url.Values{"identifiant": {v.mark(ine)}}),
		"the identity": v.post("/identifiants/retirer", url.Values{"identifiant": {v.mark(w.account(jeanToo).Pivot)}}), "nothing": v.post("/identifiants/retirer", url.Values{}),
	} {
		if a.StatusCode != http.StatusNotFound || !strings.Contains(a.text(), "n'est pas rattaché") {
			t.Errorf("%s: %s\n%s", name, a.Status, a.text())
		}
	}
	if !strings.Contains(v.page("/identifiants").text(), "…E02B") {
		t.Fatal("it was removed all the same")
	}
	if err := w.b.RequestErasure(t.Context(), w.account(jeanToo, ine), []proof.Subject{ine}, w.now()); err != nil {
		t.Fatal(err)
	}
	if a := v.post("/identifiants/retirer", url.Values{"identifiant": {v.mark(ine)}}); !strings.Contains(a.text(), "est retiré de votre compte") || !strings.Contains(a.text(), "Aucun autre identifiant") {
		t.Errorf("%s\n%s", a.Status, a.text())
	}
	if a := v.post("/identifiants/retirer", url.Values{"identifiant": {v.mark(ine)}}); a.StatusCode != http.StatusNotFound {
		t.Errorf("%s", a.Status)
	}
	// With it goes the erasure that they have asked for: the number may be attached to somebody else tomorrow.
	if list, err := w.b.ErasureRequests(t.Context(), w.account(jeanToo)); err != nil || len(list) != 1 || list[0].Undoable() {
		t.Errorf("%+v, %v", list, err)
	}
	if s := v.page("/notifications").text(); !strings.Contains(s, "que vous avez retiré ne sera pas effacé") {
		t.Error(s)
	}
	if s := v.page("/historique").text(); strings.Contains(s, "Portail") {
		t.Error("the history still covers it")
	}
	// Five questions a day, whatever comes of them: v has asked four.
	refused(attach(v, "ine", "0EXEMPLE03C"), http.StatusForbidden, "ne confirme pas")
	refused(attach(v, "ine", "0EXEMPLE02B"), http.StatusTooManyRequests, "Revenez demain")

	// What the sign-in states comes back with the next one, and the page says so.
	c := w.visitor(camille)
	siren := must[proof.Subject](t)(proof.SIREN("900000118"))
	if s := c.page("/identifiants").text(); !strings.Contains(s, "900000118") || !strings.Contains(s, "Communiqué par FranceConnect") || !strings.Contains(s, "à votre prochaine connexion") {
		t.Error(s)
	}
	if a := c.post("/identifiants/retirer", url.Values{"identifiant": {c.mark(siren)}}); !strings.Contains(a.text(), "Aucun autre identifiant") {
		t.Error(a.text())
	}
	if s := w.visitor(camille).page("/identifiants").text(); !strings.Contains(s, "900000118") {
		t.Error(s)
	}
	for _, secret := range []string{"0EXEMPLE02B", "0EXEMPLE03C", "EXEMPLE FOXTROT"} {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("the log says %q", secret)
		}
	}
}

// TestSignOutEverywhere: a browser that was lost has no session any more, and others of the person have none either; somebody else's stays.
func TestSignOutEverywhere(t *testing.T) {
	w := newReal(t, jean, pierre)
	lost, here, other := w.visitor(jean), w.visitor(jean), w.visitor(pierre)
	a := here.page("/identifiants")
	if !a.has("input", "name", "partout") || !strings.Contains(a.text(), "Se déconnecter partout") {
		t.Fatalf("%s", a.body)
	}
	here.forged("/deconnexion", url.Values{"partout": {"1"}})
	lost.page("/historique")
	here.post("/deconnexion", url.Values{"partout": {"1"}})
	for name, v := range map[string]*visitor{"the lost browser": lost, "this one": here} {
		if a := v.get("/historique"); a.Request.URL.Path != "/connexion" {
			t.Errorf("%s reads %s", name, a.Request.URL)
		}
	}
	other.page("/historique")
}

// TestWrittenIsShownAgain: a session that ended while somebody wrote to an agency leaves them their text, in an answer that nothing stores.
func TestWrittenIsShownAgain(t *testing.T) {
	w := newReal(t, jean)
	i := w.disclose("mairie", canteen(camille))
	v := w.visitor(camille)
	v.page("/contester/" + i.String())
	w.ahead.Add(int64(20 * time.Minute))
	written := "\nJe n'ai pas d'enfant.\n</textarea><script>alert(1)</script>"
	a := v.post("/contester/"+i.String(), url.Values{"texte": {written}})
	fields := a.tag("textarea")
	if a.StatusCode != http.StatusUnauthorized || a.Header.Get("Cache-Control") != "no-store" || len(fields) != 1 || len(a.tag("script")) != 0 {
		t.Fatalf("%s %v\n%s", a.Status, a.Header, a.body)
	}
	if _, readonly := find(fields[0], "readonly"); !readonly || fields[0].FirstChild == nil || fields[0].FirstChild.Data != written {
		t.Errorf("%s", a.body)
	}
	if strings.Contains(w.logs.String(), "enfant") {
		t.Error("the text is in the log")
	}
	// Other forms hold nothing that is worth it.
	if a := v.post("/notifications/adresse", url.Values{"texte": {"x"}, "adresse": {"jean@exemple.invalid"}}); a.StatusCode != http.StatusUnauthorized || len(a.tag("textarea")) != 0 || strings.Contains(string(a.body), "jean@") {
		t.Errorf("%s\n%s", a.Status, a.body)
	}
}

package portal_test

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// accesses are the openings of records in somebody's history, as the log has them.
func (w *real) accesses(subjects []proof.Subject) (n int) {
	w.t.Helper()
	for _, s := range subjects {
		list, _, err := w.b.OwnEntries(w.t.Context(), s, 0, 200)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range list {
			if e.Kind == proof.KindAccess {
				n++
			}
		}
	}
	return n
}

// TestDelegation: whoever has one is told before anything is opened; what they open the other person sees; either side ends it.
func TestDelegation(t *testing.T) {
	w := newReal(t, pierre, loic, jean)
	ward, guardian := w.account(loic), w.account(pierre)
	for _, a := range []broker.Account{ward, guardian} {
		if err := w.b.Enrol(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	w.disclose("mairie", canteen(camille)) // he lives with her: it is in his history without a place of birth
	for range 27 {
		w.disclose("mairie", canteen(loic))
	}
	id := uuid.UUID(must[store.ID](t)(w.b.GrantDelegation(t.Context(), broker.Grant{Kind: broker.Guardian, Delegate: guardian.Pivot, Subjects: ward.Subjects[:1], Evidence: hostile[:60]}))).String()
	v, his, other := w.visitor(pierre), w.visitor(loic), w.visitor(jean)

	for name, x := range map[string]struct {
		a     answer
		words []string
	}{
		"the delegate": {v.page("/mandats"), []string{"LOIC EXEMPLE BRAVO", "Vous êtes son représentant légal", "En vigueur", "Lire l'historique", "=X<script>", "sans date de fin"}},
		"the person":   {his.page("/mandats"), []string{"PIERRE MARIE EXEMPLE DELTA", "Votre représentant légal", "En vigueur", "Mettre fin", "=X<script>"}},
		"anybody":      {other.page("/mandats"), []string{"Vous n'avez pas de mandat", "Personne d'autre que vous"}},
	} {
		harmless(t, name, x.a)
		for _, word := range x.words {
			if !strings.Contains(x.a.text(), word) {
				t.Errorf("%s doesn't see %q:\n%s", name, word, x.a.text())
			}
		}
	}
	if s := other.page("/mandats").text(); strings.Contains(s, "EXEMPLE") || strings.Contains(his.page("/mandats").text(), "Lire l'historique") {
		t.Error("a delegation is shown to somebody else")
	}

	// To read, the delegate shows again who they are, and is told what it leaves. Nothing is opened by looking.
	path := "/mandats/" + id
	a := v.confirm(v.get(path), pierre)
	if a.Request.URL.Path != path || !strings.Contains(a.text(), "Rien n'est encore ouvert") || !strings.Contains(a.text(), "la personne la voit") || len(a.rows()) != 0 {
		t.Fatalf("%s %s\n%s", a.Status, a.Request.URL, a.text())
	}
	form := func(x proof.Subject, kind, before string) url.Values {
		return url.Values{"identifiant": {v.mark(x)}, "genre": {kind}, "avant": {before}}
	}
	v.forged(path, form(ward.Pivot, "demandes", ""))
	for name, f := range map[string]url.Values{
		"no identifier": {}, "his own": form(guardian.Pivot, "demandes", ""), "another session's": {"identifiant": {his.mark(ward.Pivot)}, "genre": {"demandes"}},
		"no such kind": form(ward.Pivot, "marker@v1", ""), "no such place": form(ward.Pivot, "demandes", "-1"), "hostile": form(ward.Pivot, hostile, hostile),
	} {
		if a := v.post(path, f); a.StatusCode != http.StatusBadRequest || !strings.Contains(a.text(), "Formulaire illisible") {
			t.Errorf("%s: %s\n%s", name, a.Status, a.text())
		}
	}
	if n := w.accesses(ward.Subjects); n != 0 {
		t.Fatalf("%d records were opened", n)
	}
	// Those who have none, the person himself, and one that isn't.
	for _, x := range []*visitor{other, his} {
		x.confirm(x.get(path), x.who)
		nobody := "/mandats/" + uuid.New().String()
		if a, b := x.get(path), x.get(nobody); a.StatusCode != http.StatusNotFound || !sameAnswer(a, b, path, nobody) {
			t.Errorf("%s\n%s\n%s", a.Status, a.body, b.body)
		}
		if a, b := x.post(path, form(ward.Pivot, "demandes", "")), x.post(nobody, form(ward.Pivot, "demandes", "")); a.StatusCode != http.StatusNotFound || !sameAnswer(a, b, path, nobody) {
			t.Errorf("%s\n%s\n%s", a.Status, a.body, b.body)
		}
	}
	if a, b := other.post(path+"/revoquer", nil), other.post("/mandats/"+uuid.Nil.String()+"/revoquer", nil); a.StatusCode != http.StatusNotFound || !sameAnswer(a, b, path+"/revoquer", "/mandats/"+uuid.Nil.String()+"/revoquer") {
		t.Errorf("%s\n%s", a.Status, a.body)
	}

	// A page of 25, and the rest.
	a = v.post(path, form(ward.Pivot, "demandes", ""))
	if len(a.rows()) != 25 || !strings.Contains(a.text(), "25 enregistrements viennent d'être ouverts") || !strings.Contains(a.text(), "Mairie d'Exempleville") || strings.Contains(a.text(), "Inscription à la cantine") {
		t.Fatalf("%s: %d rows\n%s", a.Status, len(a.rows()), a.text())
	}
	for _, link := range a.tag("a") {
		if strings.HasPrefix(attr(link, "href"), "/acces/") {
			t.Error("a line leads to a page that the delegate doesn't have")
		}
	}
	if n := w.accesses(ward.Subjects); n != 25 {
		t.Errorf("%d accesses", n)
	}
	indexes := a.indexes()
	a = v.post(path, form(ward.Pivot, "demandes", indexes[24].String()))
	if len(a.rows()) != 2 || w.accesses(ward.Subjects) != 27 {
		t.Errorf("%d rows, %d accesses", len(a.rows()), w.accesses(ward.Subjects))
	}
	// What may be a namesake's no delegation covers.
	if a := v.post(path, form(ward.Subjects[1], "demandes", "")); a.StatusCode != http.StatusBadRequest {
		t.Errorf("%s", a.text())
	}
	if a := v.post(path, form(ward.Pivot, "effacements", "")); !strings.Contains(a.text(), "Rien de tel") {
		t.Errorf("%s", a.text())
	}
	// The person sees who read, and where that comes from.
	a = his.page("/historique?issue=access")
	if s := a.text(); len(a.rows()) != 27 || !strings.Contains(s, "Une personne qui a un mandat") || !strings.Contains(s, "Représentant légal") {
		t.Errorf("%d rows\n%s", len(a.rows()), s)
	}
	a = his.page("/acces/" + a.indexes()[0].String())
	found := false
	for _, link := range a.tag("a") {
		found = found || attr(link, "href") == "/mandats" && text(link) == "Mandats" && link.Parent.Data == "dd"
	}
	if !found || !strings.Contains(a.text(), "delegation."+id) {
		t.Errorf("no way from the access to the delegation:\n%s", a.text())
	}
	// A business has a number and no name.
	siren := must[proof.Subject](t)(proof.SIREN("900000118"))
	business := "/mandats/" + uuid.UUID(must[store.ID](t)(w.b.GrantDelegation(t.Context(), broker.Grant{Kind: broker.Representative, Delegate: guardian.Pivot, Subjects: []proof.Subject{siren}, Evidence: "extrait"}))).String()
	if a := v.page(business); !strings.Contains(text(a.tag("h1")[0]), "numéro SIREN 900000118") || !strings.Contains(a.text(), "Vous représentez cette entreprise") {
		t.Errorf("%s", a.text())
	}
	// Nor does one that hasn't begun, or is over, open anything.
	soon := "/mandats/" + uuid.UUID(must[store.ID](t)(w.b.GrantDelegation(t.Context(), broker.Grant{Kind: broker.Guardian, Delegate: guardian.Pivot, Subjects: ward.Subjects[:1], Evidence: "acte", Since: w.now().Add(24 * time.Hour)}))).String()
	if a := v.get(soon); a.StatusCode != http.StatusNotFound || !strings.Contains(v.page("/mandats").text(), "Pas encore en vigueur") {
		t.Errorf("%s", a.Status)
	}
	// An old sign-in opens nothing.
	before := w.accesses(ward.Subjects)
	w.ahead.Add(int64(6 * time.Minute))
	if a := v.post(path, form(ward.Pivot, "demandes", "")); !a.asked() {
		t.Errorf("%s %s", a.Status, a.Request.URL)
	}
	// The person ends it, and it is over at once.
	his = w.visitor(loic)
	his.forged(path+"/revoquer", url.Values{})
	if a := his.post(path+"/revoquer", nil); a.Request.URL.Path != "/mandats" || !strings.Contains(a.text(), "Le mandat est terminé") || !strings.Contains(a.text(), "la personne y a mis fin le") {
		t.Errorf("%s\n%s", a.Status, a.text())
	}
	v = w.visitor(pierre)
	if a := v.confirm(v.get(path), pierre); a.StatusCode != http.StatusNotFound {
		t.Errorf("%s\n%s", a.Status, a.text())
	}
	if a := v.post(path, form(ward.Pivot, "demandes", "")); a.StatusCode != http.StatusNotFound || w.accesses(ward.Subjects) != before {
		t.Errorf("%s: %d accesses, %d before", a.Status, w.accesses(ward.Subjects), before)
	}
	// Whoever may read no more is told no more than that they could.
	if a := v.page("/mandats"); bytes.Contains(a.body, []byte(`"`+path+`"`)) || !strings.Contains(a.text(), "Mandat terminé") || !strings.Contains(a.text(), "Vous êtes son représentant légal") || strings.Contains(a.text(), "=X<script>") {
		t.Errorf("%s", a.text())
	}
	if a := his.page("/mandats"); !strings.Contains(a.text(), "PIERRE MARIE EXEMPLE DELTA") || !strings.Contains(a.text(), "=X<script>") {
		t.Errorf("the person can't see any more who could read:\n%s", a.text())
	}
}

// TestDelegatedFile: a delegate is told that each record of the file is an access, then has one that verifies; nobody else has.
func TestDelegatedFile(t *testing.T) {
	w := newReal(t, pierre, loic, jean)
	ward, guardian := w.account(loic), w.account(pierre)
	for range 2 {
		w.disclose("mairie", canteen(loic))
	}
	id := uuid.UUID(must[store.ID](t)(w.b.GrantDelegation(t.Context(), broker.Grant{Kind: broker.Guardian, Delegate: guardian.Pivot, Subjects: ward.Subjects[:1], Evidence: "jugement"}))).String()
	path := "/mandats/" + id
	v, other := w.visitor(pierre), w.visitor(jean)
	a := v.confirm(v.get(path), pierre)
	a.says(t, "Faire le fichier ouvre chaque enregistrement de cette période", "Contester une demande ou la faire effacer")
	// Whatever isn't a form of a delegate for closed days opens nothing.
	v.forged(path+"/fichier", url.Values{})
	if a := v.post(path+"/fichier", url.Values{"du": {"hier"}}); a.StatusCode != http.StatusBadRequest || !a.has("a", "href", "#f-du") {
		t.Errorf("%s\n%s", a.Status, a.text())
	}
	v.post(path+"/fichier", url.Values{"du": {"2001-01-01"}, "au": {"2001-12-31"}}).says(t, "aucune journée n'est close dans cette période")
	other.confirm(other.get(path), jean)
	if a, b := other.post(path+"/fichier", nil), other.post("/mandats/"+uuid.Nil.String()+"/fichier", nil); a.StatusCode != http.StatusNotFound || !sameAnswer(a, b, path, "/mandats/"+uuid.Nil.String()) {
		t.Errorf("%s\n%s", a.Status, a.body)
	}
	if n := w.accesses(ward.Subjects); n != 0 {
		t.Fatalf("%d records were opened", n)
	}
	w.turn() // minutes later, when the sign-in is an old one
	if a := v.post(path+"/fichier", nil); !a.asked() {
		t.Errorf("an old sign-in: %s %s", a.Status, a.Request.URL)
	} else if a = v.confirm(a, pierre); a.StatusCode != http.StatusOK || a.Request.URL.Path != path || !a.has("form", "action", path+"/fichier") {
		t.Errorf("after it was renewed: %s %s\n%s", a.Status, a.Request.URL, a.text())
	}
	v = w.visitor(pierre)
	v.confirm(v.get(path), pierre)
	a = v.post(path+"/fichier", nil)
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Disposition") != `attachment; filename="historique.regard.json"` || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %v\n%s", a.Status, a.Header, a.text())
	}
	h, err := proof.ParseHistory(a.body)
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := h.Verify(must[*proof.Policy](t)(w.b.LogPolicy(t.Context())), proof.HistoryOptions{Now: proof.TimeOf(w.now()), AllowProvisional: true})
	if err != nil || len(verdict.Entries) != 2 || len(verdict.Subjects) != 1 || !verdict.Subjects[0].Equal(ward.Pivot) {
		t.Errorf("%+v, %v", verdict, err)
	}
	if bytes.Contains(a.body, []byte("AGENTMARKER")) {
		t.Error("the file says which official asked")
	}
	if n := w.accesses(ward.Subjects); n != 2 {
		t.Errorf("%d accesses", n)
	}
	w.ahead.Add(int64(6 * time.Minute))
	if a := v.post(path+"/fichier", nil); !a.asked() || w.accesses(ward.Subjects) != 2 {
		t.Errorf("an old sign-in: %s %s", a.Status, a.Request.URL)
	}
}

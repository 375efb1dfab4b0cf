package portal_test

import (
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

func (v *visitor) requests() []broker.ErasureRequest {
	v.w.t.Helper()
	list, err := v.w.b.ErasureRequests(v.w.t.Context(), v.w.account(v.who))
	if err != nil {
		v.w.t.Fatal(err)
	}
	return list
}

// TestErase: said before, asked twice, undone, kept back with the reason, and then carried out.
func TestErase(t *testing.T) {
	w := newReal(t, camille, pierre)
	i := w.disclose("mairie", canteen(camille))
	v, other := w.visitor(camille), w.visitor(pierre)
	account := w.account(camille)
	if err := w.b.Enrol(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	pivot, person := account.Subjects[0], account.Subjects[1]
	siren := must[proof.Subject](t)(proof.SIREN("900000118"))
	if s := v.page("/effacer").text(); !strings.Contains(s, "pendant 60 minutes") || !strings.Contains(s, "Ce qui reste") || strings.Contains(s, "Vos demandes") {
		t.Error(s)
	}
	form := v.confirm(v.get("/effacer/demande"), camille) // signing in alone isn't enough
	if s := form.text(); !strings.Contains(s, "dpo@exemple.invalid") || strings.Contains(string(form.body), v.mark(person)) || strings.Contains(string(form.body), v.mark(siren)) || !strings.Contains(string(form.body), v.mark(pivot)) {
		t.Errorf("what belongs to others, too, can be chosen:\n%s", s)
	}
	good := url.Values{"identifiant": {v.mark(pivot)}, "sur": {"1"}}
	v.forged("/effacer/demande", url.Values{"identifiant": {v.mark(pivot)}, "sur": {"1"}})
	for name, x := range map[string]struct {
		form url.Values
		word string
	}{
		"nothing":             {url.Values{"sur": {"1"}}, "Rien n'est choisi"},
		"not sure":            {url.Values{"identifiant": {v.mark(pivot)}}, "Cochez la case"},
		"another's":           {url.Values{"identifiant": {other.mark(pivot)}, "sur": {"1"}}, "Rien n'est choisi"},
		"a namesake's":        {url.Values{"identifiant": {v.mark(person)}, "sur": {"1"}}, "Rien n'est choisi"},
		"a business":          {url.Values{"identifiant": {v.mark(pivot), v.mark(siren)}, "sur": {"1"}}, "Rien n'est choisi"},
		"one that was broken": {url.Values{"identifiant": {v.mark(pivot), hostile}, "sur": {"1"}}, "Rien n'est choisi"},
	} {
		a := v.post("/effacer/demande", x.form)
		if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.text(), x.word) {
			t.Errorf("%s: %s\n%s", name, a.Status, a.text())
		}
		harmless(t, name, a)
	}
	if a := v.post("/effacer/demande", url.Values{"identifiant": {strings.Repeat("x", 70<<10)}}); a.StatusCode != http.StatusForbidden && a.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a form that is too long: %s", a.Status)
	}
	if len(v.requests()) != 0 {
		t.Fatal("something was asked for by a form that was refused")
	}
	a := v.post("/effacer/demande", good)
	if a.StatusCode != http.StatusOK || a.Request.URL.Path != "/effacer" || !strings.Contains(a.text(), "Votre demande est enregistrée") || !strings.Contains(a.text(), "Sera effacé le") || !strings.Contains(a.text(), "Annuler") {
		t.Fatalf("%s %s\n%s", a.Status, a.Request.URL, a.text())
	}
	if s := v.page("/effacer/demande").text(); !strings.Contains(s, "Déjà demandé") || !strings.Contains(s, "rien de plus à demander") {
		t.Errorf("%s", s)
	}
	// Another person's request, one of nobody, and what is none have one answer.
	request := v.requests()[0]
	undo := "/effacer/" + uuid.UUID(request.ID).String() + "/annuler"
	v.forged(undo, url.Values{})
	first := other.post(undo, nil)
	for _, id := range []string{uuid.New().String(), "x", strings.ToUpper(uuid.UUID(request.ID).String()), "{" + uuid.UUID(request.ID).String() + "}"} {
		path := "/effacer/" + url.PathEscape(id) + "/annuler"
		if a := other.post(path, nil); a.StatusCode != http.StatusNotFound || len(id) == 36 && !sameAnswer(first, a, undo, path) {
			t.Errorf("%s: %s\n%s\n%s", id, a.Status, first.body, a.body)
		}
	}
	if s := other.page("/effacer").text(); strings.Contains(s, "Vos demandes") {
		t.Error("somebody else's requests are shown")
	}
	// What keeps it back is said: a contest, and before it a legal hold, whose ground anybody may have written.
	contest := must[*broker.Contest](t)(w.b.ContestEntry(t.Context(), account, i, "Je n'ai rien demandé."))
	if s := v.page("/effacer").text(); !strings.Contains(s, "vous contestez un accès") {
		t.Error(s)
	}
	hold := must[store.ID](t)(w.b.AddHold(t.Context(), []proof.Subject{pivot}, hostile, "ref", time.Time{}))
	a = v.page("/effacer")
	harmless(t, "a hold's ground", a)
	if s := a.text(); !strings.Contains(s, "la loi oblige à conserver") || !strings.Contains(s, "=X<script>") {
		t.Error(s)
	}
	// Undone, once.
	if a := v.post(undo, nil); a.Request.URL.Path != "/effacer" || !strings.Contains(a.text(), "Votre demande est annulée") || !strings.Contains(a.text(), "Annulé par vous le") {
		t.Errorf("%s\n%s", a.Status, a.text())
	}
	if a := v.post(undo, nil); a.StatusCode != http.StatusConflict || !strings.Contains(a.text(), "ne peut plus être annulée") {
		t.Errorf("%s\n%s", a.Status, a.text())
	}
	// Asked again, it is due in an hour, and waits for what holds it.
	if a := v.post("/effacer/demande", good); a.Request.URL.Path != "/effacer" {
		t.Fatal(a.text())
	}
	w.ahead.Add(int64(time.Hour + time.Minute))
	v = w.visitor(camille)
	if s := v.page("/effacer").text(); !strings.Contains(s, "la loi oblige à conserver") {
		t.Errorf("%s", s)
	}
	if err := w.b.RemoveHold(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.WithdrawContest(t.Context(), account, contest.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "erased", func() bool {
		w.ahead.Add(int64(time.Second)) // what was looked at in vain is looked at again in a minute
		rec, err := w.b.OwnRecord(t.Context(), account.Subjects, i)
		return err == nil && rec.State == broker.HistoryErased
	})
	if a := v.get("/effacer"); a.Request.URL.Path != "/connexion" {
		t.Errorf("the erased person is signed in: %s", a.Request.URL)
	}
	v = w.visitor(camille)
	if s := v.page("/historique").text(); !strings.Contains(s, "Détails effacés à votre demande") || strings.Contains(s, "damaged") {
		t.Errorf("%s", s)
	}
	if s := v.page("/acces/" + i.String()).text(); strings.Contains(s, "Inscription à la cantine") {
		t.Errorf("%s", s)
	}
}

// TestErasureOfAnAttachedIdentifier: it goes with its erasure, which the page still tells of; a link to its entry is there when the entry can be read.
func TestErasureOfAnAttachedIdentifier(t *testing.T) {
	w := newReal(t, jeanToo)
	if err := w.b.Enrol(t.Context(), w.account(jeanToo)); err != nil {
		t.Fatal(err)
	}
	w.agency("portail", "Portail")
	w.consent()
	ine := must[proof.Subject](t)(proof.INE("0EXEMPLE02B"))
	v := w.visitor(jeanToo)
	attach := func() {
		t.Helper()
		if a := v.post("/identifiants", url.Values{"type": {"ine"}, "valeur": {"0EXEMPLE02B"}}); a.Request.URL.Path != "/identifiants" || a.StatusCode != http.StatusOK {
			t.Fatal(a.text())
		}
	}
	attach()
	v.confirm(v.get("/effacer/demande"), jeanToo)
	if a := v.post("/effacer/demande", url.Values{"identifiant": {v.mark(ine)}, "sur": {"1"}}); a.Request.URL.Path != "/effacer" || !strings.Contains(a.text(), "Sera effacé le") {
		t.Fatal(a.text())
	}
	w.ahead.Add(int64(time.Hour + time.Minute))
	v = w.visitor(jeanToo)
	eventually(t, "erased", func() bool {
		w.ahead.Add(int64(time.Second))
		return strings.Contains(v.page("/effacer").text(), "Effacé le")
	})
	entries := func() (out []string) {
		t.Helper()
		for _, link := range v.page("/effacer").tag("a") {
			if href := attr(link, "href"); strings.HasPrefix(href, "/acces/") {
				out = append(out, href)
			}
		}
		return out
	}
	if got := entries(); len(got) != 0 || !strings.Contains(v.page("/identifiants").text(), "Aucun autre identifiant") {
		t.Errorf("links to what the account doesn't have: %v", got)
	}
	v = w.visitor(jeanToo)
	attach()
	got := entries()
	if len(got) != 1 {
		t.Fatalf("links: %v", got)
	}
	if s := v.page(got[0]).text(); !strings.Contains(s, "Effacement") {
		t.Error(s)
	}
}

// TestEraseNeedsAFreshSignIn: neither the form nor what it sends gets through once the sign-in is more than five minutes old, nor by somebody else's.
func TestEraseNeedsAFreshSignIn(t *testing.T) {
	w := newReal(t, camille, pierre)
	v := w.visitor(camille)
	if a := v.confirm(v.get("/effacer/demande"), camille); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/effacer/demande" {
		t.Fatalf("%s %s", a.Status, a.Request.URL)
	}
	form := url.Values{"identifiant": {v.mark(w.account(camille).Pivot)}, "sur": {"1"}}
	w.ahead.Add(int64(6 * time.Minute))
	v.page("/effacer") // it says what there is, and asks nothing
	for name, a := range map[string]answer{"the form": v.get("/effacer/demande"), "what it sends": v.post("/effacer/demande", form)} {
		if !a.asked() {
			t.Fatalf("%s: %s %s\n%s", name, a.Status, a.Request.URL, a.body)
		}
	}
	if len(v.requests()) != 0 {
		t.Fatal("it was done all the same")
	}
	a := v.confirm(v.get("/effacer/demande"), camille)
	if a.Request.URL.Path != "/effacer/demande" || a.StatusCode != http.StatusOK {
		t.Fatalf("%s %s\n%s", a.Status, a.Request.URL, a.body)
	}
	if a := v.post("/effacer/demande", url.Values{"identifiant": {v.mark(w.account(camille).Pivot)}, "sur": {"1"}}); a.Request.URL.Path != "/effacer" || len(v.requests()) != 1 {
		t.Errorf("%s\n%s", a.Request.URL, a.text())
	}
	w.ahead.Add(int64(6 * time.Minute))
	if a := v.confirm(v.get("/effacer/demande"), pierre); a.StatusCode != http.StatusForbidden || !strings.Contains(a.text(), "autre personne") {
		t.Errorf("%s %s\n%s", a.Status, a.Request.URL, a.text())
	}
	// Signed out: what is sent isn't done, and that is said.
	for _, path := range []string{"/effacer/demande", "/effacer/" + uuid.New().String() + "/annuler", "/mandats/" + uuid.New().String(), "/identifiants", "/identifiants/retirer"} {
		if a := v.post(path, url.Values{}); a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.text(), "n'a pas été fait") {
			t.Errorf("%s: %s\n%s", path, a.Status, a.text())
		}
	}
	for _, path := range []string{"/effacer", "/mandats", "/identifiants"} {
		if a := v.get(path); a.Request.URL.Path != "/connexion" {
			t.Errorf("%s: %s", path, a.Request.URL)
		}
	}
}

package portal_test

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// choose answers the identity provider's question in the browser.
func (w *real) choose(p *browsertest.Page, who proof.Pivot) {
	w.t.Helper()
	p.Wait(`document.querySelector("button[name=personne]")`)
	p.Do(chromedp.Click(fmt.Sprintf(`button[name=personne][value="%d"]`, slices.Index(w.people, who))))
}

// at waits for a page of the portal.
func at(p *browsertest.Page, path, and string) {
	p.Wait(fmt.Sprintf(`location.pathname === %q && document.readyState === "complete" && (%s)`, path, and))
}

// look checks a page as it stands: no fault of accessibility, and nothing to scroll sideways on a phone of 320 pixels or at twice the size of the text.
func look(t *testing.T, p *browsertest.Page, name string) {
	t.Helper()
	p.Axe()
	for _, width := range []int64{320, 1280} {
		p.Do(chromedp.EmulateViewport(width, 800))
		if over := browsertest.Eval[int](p, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); over > 0 {
			t.Errorf("%s is %d pixels wider than a window of %d", name, over, width)
		}
	}
}

// TestAccountInChromium plays what people do with their account, in both languages, without a script of ours.
func TestAccountInChromium(t *testing.T) {
	w := newRealAt(t, httptest.NewServer, camille, loic, jeanToo)
	me, ward := w.account(camille), w.account(loic)
	for _, a := range []broker.Account{me, ward} {
		if err := w.b.Enrol(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	w.agency("portail", "Portail d'Exemple")
	w.consent()
	for range 3 {
		w.disclose("mairie", canteen(camille))
		w.disclose("mairie", canteen(loic))
	}
	id := uuid.UUID(must[store.ID](t)(w.b.GrantDelegation(t.Context(), broker.Grant{Kind: broker.Guardian, Delegate: me.Pivot, Subjects: ward.Subjects[:1], Evidence: "jugement du 3 mars 2026", Until: time.Now().Add(1000 * time.Hour)}))).String()
	if _, err := w.b.GrantDelegation(t.Context(), broker.Grant{Kind: broker.Guardian, Delegate: ward.Pivot, Subjects: me.Subjects[:1], Evidence: "acte de naissance"}); err != nil {
		t.Fatal(err)
	}
	provider := must[*url.URL](t)(url.Parse(w.issuer))
	for _, lang := range []string{"fr", "en"} {
		t.Run(lang, func(t *testing.T) {
			p := browsertest.Open(t, w.server.URL, "http://"+provider.Host)
			p.Goto(w.server.URL + "/connexion?lang=" + lang + "&retour=/identifiants")
			at(p, "/connexion", "true")
			p.Do(chromedp.Click("main a.button"))
			w.choose(p, camille)
			at(p, "/identifiants", `document.querySelector(".card")`)
			look(t, p, lang+" identifiers")
			p.Do(chromedp.SetValue("#f-valeur", "12"), chromedp.Click("form[action='/identifiants'] button"))
			at(p, "/identifiants", `document.querySelector(".summary a[href='#f-valeur']")`)
			look(t, p, lang+" identifiers with a mistake")
			p.Allow("400 (Bad Request)") // that was the mistake

			p.Goto(w.server.URL + "/mandats")
			look(t, p, lang+" delegations")
			p.Do(chromedp.Click(`a[href="/mandats/` + id + `"]`))
			w.choose(p, camille)
			at(p, "/mandats/"+id, "true")
			look(t, p, lang+" delegation before")
			p.Do(chromedp.Click("main form button"))
			at(p, "/mandats/"+id, `document.querySelectorAll("tr[data-index]").length === 3`)
			look(t, p, lang+" delegation")

			p.Goto(w.server.URL + "/effacer")
			look(t, p, lang+" erasure")
			p.Do(chromedp.Click("main a[href='/effacer/demande']"))
			at(p, "/effacer/demande", `document.querySelector("form .danger")`)
			look(t, p, lang+" erasure form")
			p.Do(chromedp.Click("fieldset input"), chromedp.Click("#f-sur"), chromedp.Click("form .danger"))
			at(p, "/effacer", `document.querySelector(".card form")`)
			look(t, p, lang+" erasure asked")
			p.Do(chromedp.Click(".card form button"))
			at(p, "/effacer", `!document.querySelector(".card form")`)
			look(t, p, lang+" erasure undone")
		})
	}
	// What was opened, the person sees with his own eyes.
	p := browsertest.Open(t, w.server.URL, "http://"+provider.Host)
	p.Goto(w.server.URL + "/connexion/franceconnect?retour=/historique?issue=access")
	w.choose(p, loic)
	at(p, "/historique", `document.querySelectorAll("tr[data-kind^=access]").length === 6`)
	look(t, p, "openings")
}

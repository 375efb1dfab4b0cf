package demo

import (
	"crypto/rand"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

// Those whose history has most to see in the end.
const (
	camilleSignsIn = "Camille Inès EXEMPLE ALPHA"
	maelleSignsIn  = "Maëlle EXEMPLE GOLF"
	sophieSignsIn  = "Anne-Sophie EXEMPLE CHARLIE"
	pierreSignsIn  = "Pierre Marie EXEMPLE DELTA"
)

// portalAgency is the portal's own, which has identifiers checked at the bodies that hold them.
const portalAgency = "portail-exemple"

// Numbers of job seekers that can be attached to an account: FranceConnect doesn't state them.
const (
	sophiesNumber = "EX00002B"
	pierresNumber = "EX00003C"
)

// openPortal returns the settings of the portal, at an address where people find it, and chooses one for the simulator that stands in for FranceConnect.
func (d *demo) openPortal(address string) (settings []string, err error) {
	if d.simulator, err = d.address(); err != nil {
		return nil, err
	}
	// Browsers take localhost for as safe as TLS. The simulator has another name, so that it gets none of the portal's cookies.
	_, port, _ := strings.Cut(address, ":")
	d.portal = "http://localhost:" + port
	secret := d.path("secrets", "franceconnect.secret")
	if err := os.WriteFile(secret, []byte(rand.Text()+"\n"), 0o600); err != nil {
		return nil, err
	}
	return []string{
		"portal.url=" + d.portal, "portal.log=http://" + d.public + "/",
		"portal.operator.name=Exploitant d'Exemple (inventé)", "portal.operator.email=contact@exemple.invalid",
		"portal.identity.client_id=regard", "portal.identity.client_secret_file=" + secret,
		"portal.identity.scopes=identite_pivot,preferred_username,ine", "portal.identity.claims.ine=ine",
		"portal.identity.agency=" + portalAgency, "portal.identity.checks.france_travail.service=statut-demandeur-emploi", "portal.identity.checks.france_travail.agreement=rattachement-2026",
		"portal.identity.checks.france_travail.scopes=identite", "portal.identity.checks.france_travail.purpose=espace-personnel", "portal.identity.checks.france_travail.legal_basis=consentement",
		"portal.identity.checks.france_travail.birth_name=/data/identite/nom_naissance", "portal.identity.checks.france_travail.given_names=/data/identite/prenom", "portal.identity.checks.france_travail.birth_date=/data/identite/date_naissance",
	}, nil
}

// browse has Camille look for herself: she signs in, reads who asked about her, takes the file behind the page and checks it with a program that isn't the portal's.
func (d *demo) browse() error {
	d.sayf("\n10. Camille looks for herself: she signs in at the portal (FranceConnect is simulated here) and reads her history. She takes the file behind the page, and checks it without the portal.\n")
	b, err := newBrowser(d)
	if err != nil {
		return err
	}
	page, err := b.signIn(camilleSignsIn, "/historique?vue=dense")
	if err != nil {
		return err
	}
	outcomes := outcomesOn(page)
	for _, outcome := range []string{"released", "denied", "failed", "opened", "access"} {
		if outcomes[outcome] == 0 {
			return fmt.Errorf("the page of Camille has no row with the outcome %s: %v", outcome, outcomes)
		}
	}
	for _, want := range []string{"Mairie d'Exempleville (inventée)", "Brigade d'enquête d'Exemple (inventée)", "Révélé le", "mener une enquête judiciaire", "auditeur accrédité"} {
		if !strings.Contains(page, html.EscapeString(want)) {
			return fmt.Errorf("the page of Camille doesn't say %q", want)
		}
	}
	requests, openings := "requests", "openings"
	if outcomes["released"] == 1 {
		requests = "request"
	}
	if outcomes["access"] == 1 {
		openings = "opening"
	}
	d.sayf("  %s/historique: %d %s released, %d refused, %d failed, %d delayed by law and revealed since (one of them who looked at it meanwhile), %d %s of her records.",
		d.portal, outcomes["released"], requests, outcomes["denied"], outcomes["failed"], outcomes["opened"], outcomes["access"], openings)
	text, err := b.get("/historique/fichier")
	if err != nil {
		return err
	}
	file := d.path("historique.regard.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	out, err := d.run(true, "regard-audit", "verify-history", file, "--policy", d.path("log.policy"))
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	d.sayf("%s", indent(first))
	if err := b.signOut(page); err != nil {
		return err
	}
	// The same address shows nobody's history now.
	page, err = b.get("/historique")
	if err != nil {
		return err
	}
	if !strings.Contains(page, "/connexion/franceconnect?retour=") || strings.Contains(page, "data-index=") {
		return errors.New("after signing out there is still a history")
	}
	return d.attach()
}

// outcomesOn counts the rows of a history by what came of them.
func outcomesOn(page string) map[string]int {
	out := map[string]int{}
	for _, m := range regexp.MustCompile(`<tr role="row" data-index="\d+"[^>]* data-outcome="([a-z]+)"`).FindAllStringSubmatch(page, -1) {
		out[m[1]]++
	}
	return out
}

// others plays what somebody finds who wasn't erased: an answer about her household, a refusal, and a request of which she learned later.
func (d *demo) others() error {
	sophie := map[string]any{"type": "pivot", "birth_name": "Exemple Charlie", "given_names": []string{"Anne-Sophie"}, "birth_date": "1990-08-25", "sex": "F", "birth_place": "31555", "birth_country": "99100"}
	for i, s := range []scene{scenes()[0], scenes()[3], investigation()} {
		s.subject, s.about = sophie, sophieSignsIn
		r, err := d.ask(false, 95+i, &s, "")
		if err := s.check(&r, err); err != nil {
			return fmt.Errorf("about %s: %w", sophieSignsIn, err)
		}
		if s.agency != d.delayed.scene.agency {
			continue
		}
		if _, err := d.run(false, "regard", "deferral", "end", "--disclosure", r.ID, "--reason", "mainlevée de l'exemple", "--config", d.stage.config()); err != nil {
			return err
		}
	}
	b, err := newBrowser(d)
	if err != nil {
		return err
	}
	page, err := b.signIn(sophieSignsIn, "/historique")
	if err != nil {
		return err
	}
	if n := outcomesOn(page); n["released"] != 1 || n["denied"] != 1 || n["opened"] != 1 {
		return fmt.Errorf("the history of %s has %v", sophieSignsIn, n)
	}
	return b.signOut(page)
}

// attach has somebody attach an identifier that FranceConnect doesn't state, and somebody else try it with the same.
func (d *demo) attach() error {
	d.sayf("\n  %s attaches his number as a job seeker. The body that holds it is asked whose it is, which is a request like any other; %s isn't believed that it is hers.", pierreSignsIn, sophieSignsIn)
	for _, x := range []struct {
		who string
		is  bool
	}{{sophieSignsIn, false}, {pierreSignsIn, true}} {
		b, err := newBrowser(d)
		if err != nil {
			return err
		}
		page, err := b.signIn(x.who, "/identifiants")
		if err != nil {
			return err
		}
		res, err := b.PostForm(b.base+"/identifiants", url.Values{"csrf": {tokenOn(page)}, "type": {"france_travail"}, "valeur": {pierresNumber}})
		if err != nil {
			return err
		}
		text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		_ = res.Body.Close()
		if err != nil {
			return err
		}
		if done := strings.Contains(string(text), `action="/identifiants/retirer"`); done != x.is || (res.StatusCode == http.StatusForbidden) == x.is {
			return fmt.Errorf("attaching %s for %s: %s", pierresNumber, x.who, res.Status)
		}
		if err := b.signOut(page); err != nil {
			return err
		}
	}
	return nil
}

// again asks anew about Camille, whose details are erased: there is something to read.
func (d *demo) again() error {
	s := scenes()[0]
	r, err := d.ask(false, 90, &s, "after-erasure")
	if err := s.check(&r, err); err != nil {
		return fmt.Errorf("after the erasure: %w", err)
	}
	// Whoever compares what the providers hold with the log finds all of it settled.
	var states map[string]int
	err = d.wait("the receipts of the providers to settle once more", 12*epoch, nil, func() bool {
		states = d.status("providers")
		return states != nil && states["settled"]+states["accepted"] == total(states)
	})
	if err != nil {
		return fmt.Errorf("%w: %v", err, states)
	}
	return nil
}

// invite says how to look.
func (d *demo) invite() {
	check := "the browser checks each page of a history by itself"
	if res, err := http.Get(d.portal + "/verificateur/verifier.sha256"); err != nil || res.StatusCode != http.StatusOK {
		check = "this build has no verifier for browsers (make build makes it), so pages say that nothing is checked"
	} else {
		_ = res.Body.Close()
	}
	d.sayf("\nThe portal: %s (French; English at the top of each page)\n  Sign in as %s: an answer about her and her child, a refusal, and a request of which the law let her know later;\n    under Mon compte she can attach her number as a job seeker, %s;\n  or as %s: dozens of requests, found by her student number;\n  or as %s: an erasure, what remains of what was before it, and a request since.\n  In this demonstration whoever is on this machine can be anybody; %s.",
		d.portal, sophieSignsIn, sophiesNumber, maelleSignsIn, camilleSignsIn, check)
}

// browser is one that follows redirects and has cookies.
type browser struct {
	http.Client
	base string
}

func newBrowser(d *demo) (*browser, error) {
	jar, err := cookiejar.New(nil)
	return &browser{http.Client{Jar: localJar{jar}, Timeout: 60 * time.Second}, d.portal}, err
}

// localJar keeps secure cookies of this machine, as browsers do.
type localJar struct{ *cookiejar.Jar }

func safe(u *url.URL) *url.URL {
	v := *u
	v.Scheme = "https"
	return &v
}

// SetCookies implements http.CookieJar.
func (j localJar) SetCookies(u *url.URL, cookies []*http.Cookie) { j.Jar.SetCookies(safe(u), cookies) }

// Cookies implements http.CookieJar.
func (j localJar) Cookies(u *url.URL) []*http.Cookie { return j.Jar.Cookies(safe(u)) }

func (b *browser) get(path string) (string, error) { return read(b.Get(b.base + path)) }

func read(res *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Request.URL.Path, res.Status)
	}
	return string(text), err
}

// signIn asks for a page, chooses a person at the simulator, and returns the page.
func (b *browser) signIn(name, path string) (string, error) {
	page, err := b.get(path)
	if err != nil {
		return "", err
	}
	link := regexp.MustCompile(`href="(/connexion/franceconnect\?[^"]+)"`).FindStringSubmatch(page)
	if link == nil {
		return "", errors.New("the portal offers no sign-in")
	}
	res, err := b.Get(b.base + html.UnescapeString(link[1]))
	if page, err = read(res, err); err != nil {
		return "", err
	}
	action := regexp.MustCompile(`<form method="post" action="([^"]+)"`).FindStringSubmatch(page)
	id := regexp.MustCompile(`name="page" value="([0-9a-f]+)"`).FindStringSubmatch(page)
	who := regexp.MustCompile(`value="(\d+)">` + regexp.QuoteMeta(name) + `[ <]`).FindStringSubmatch(page)
	if action == nil || id == nil || who == nil {
		return "", fmt.Errorf("the simulator doesn't offer %s", name)
	}
	to, err := res.Request.URL.Parse(html.UnescapeString(action[1]))
	if err != nil {
		return "", err
	}
	return read(b.PostForm(to.String(), url.Values{"page": {id[1]}, "personne": {who[1]}}))
}

// signOut sends the form that is on every page.
func (b *browser) signOut(page string) error {
	token := tokenOn(page)
	if token == "" {
		return errors.New("the page has no way to sign out")
	}
	_, err := read(b.PostForm(b.base+"/deconnexion", url.Values{"csrf": {token}}))
	return err
}

// tokenOn is the token of the forms of a page; empty if it has none.
func tokenOn(page string) string {
	m := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindStringSubmatch(page)
	if m == nil {
		return ""
	}
	return html.UnescapeString(m[1])
}

package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/mail/mailtest"
	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// sophie reads Camille's history for her; both are invented.
var sophie = proof.Pivot{BirthName: "EXEMPLE CHARLIE", GivenNames: "Anne-Sophie", BirthDate: "1990-08-25", Sex: "F", BirthPlace: "31555", BirthCountry: "99100"}

const (
	camillesName, sophiesName = "Camille Inès EXEMPLE ALPHA", "Anne-Sophie EXEMPLE CHARLIE"
	camillesMail, officerMail = "camille@exemple.invalid", "dpo@mairie.invalid"
)

// player is somebody at their browser.
type player struct {
	*browsertest.Page
	s *site
}

// at waits for a page of the portal, as it should stand.
func (p player) at(path, so string) {
	p.Wait(fmt.Sprintf(`location.origin === %q && location.pathname.startsWith(%q) && document.readyState === "complete" && (%s)`, p.s.url, path, so))
}

func (p player) click(css string) { p.Do(chromedp.Click(chromedp.CSS(css))) }

// open goes to a page, again and again until it is as it should be.
func (p player) open(path, so string) {
	p.s.t.Helper()
	p.s.until(path+" to show "+so, func() bool {
		p.Goto(p.s.url + path)
		return browsertest.Eval[bool](p.Page, "!!("+so+")")
	})
}

// proven waits for the verdict on the history, which has to be green: proven, and nothing to look into.
func (p player) proven(t *testing.T) {
	t.Helper()
	p.Goto(p.s.url + "/historique")
	if got := p.s.verdict(p.Page); got != "proven" {
		t.Errorf("the history is %s:\n%s\nwrong: %s", got, p.Text("#verdict"), browsertest.Eval[string](p.Page, `[...document.querySelectorAll("#acces [data-verified=wrong]")].map((r) => r.outerHTML).join("\n")`))
	}
}

// again shows to the identity provider once more who one is, if that was longer ago, and comes to a page.
func (p player) again(name, path, so string) {
	p.s.t.Helper()
	there := fmt.Sprintf("location.origin === %q && location.pathname === %q && document.readyState === 'complete' && (%s)", p.s.url, path, so)
	p.Wait(there + ` || document.querySelector("button[name=personne]")`)
	if browsertest.Eval[bool](p.Page, `!!document.querySelector("button[name=personne]")`) {
		p.s.choose(p.Page, name)
	}
	p.Wait(there)
}

// TestPortalInABrowser is the way of a person, in Chromium, with everything as serve runs it: sign in, read, have it checked, be told the truth about a page or a file that was changed, contest, be answered, have somebody else
// read, learn of what was delayed, erase, sign out.
func TestPortalInABrowser(t *testing.T) {
	post := mailtest.New(t, mailtest.Options{})
	s := newSite(t, 2*time.Second, "portal.verifier="+browsertest.Verifier(t), "mail.smtp="+post.Addr, "mail.tls=none", "mail.from=regard@exemple.invalid")
	s.operate("agency", "set", "mairie", "--dpo", officerMail)
	asked := s.ask("cantine", "tarif-cantine", "crpa-l114-8", "quotient", "enfants")
	s.ask("cantine", "publicite", "crpa-l114-8", "quotient")
	secret := s.ask("enquete", "enquete", "cpp-60-1", "quotient")
	s.settled()
	subject, err := camille.Subject()
	if err != nil {
		t.Fatal(err)
	}
	account := broker.Account{Pivot: subject}
	p := player{browsertest.Open(t, s.url, s.simulator), s}
	// Each step stands on those before.
	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, f) {
			t.FailNow()
		}
	}

	step("sign in", func(t *testing.T) {
		p.Goto(s.url + "/historique?lang=fr")
		p.at("/connexion", "true")
		if _, err := s.Broker.Profile(t.Context(), account); broker.AsProblem(err).Code != "account.unknown" {
			t.Errorf("before the first sign-in: %v", err)
		}
		s.signIn(p.Page, camillesName)
		p.at("/historique", "true")
		if _, err := s.Broker.Profile(t.Context(), account); err != nil {
			t.Errorf("a sign-in doesn't enrol for notices: %v", err)
		}
	})
	var record string // of what was released
	step("read, and have it checked", func(t *testing.T) {
		p.proven(t)
		if got := marks(p.Page); got["released verified"] != 1 || got["denied verified"] != 1 || len(got) != 2 {
			t.Errorf("rows: %v", got)
		}
		if got := p.Text("#verdict"); !strings.Contains(browsertest.Eval[string](p.Page, `document.querySelector("#verdict").textContent`), "temoin.example") {
			t.Errorf("the verdict names no witness:\n%s", got)
		}
		record = browsertest.Eval[string](p.Page, `document.querySelector("#acces tr[data-outcome=released] a").getAttribute("href")`)
		accessible(t, s, p.Page, record)
	})
	step("tampered with", func(t *testing.T) { tampered(t, s, p.Page) })
	step("read one access, and have it checked", func(t *testing.T) { checkedRecord(t, s, p.Page, record) })
	step("give an address", func(t *testing.T) {
		p.Goto(s.url + "/notifications/adresse")
		p.Do(chromedp.SendKeys(chromedp.CSS("#f-adresse"), camillesMail))
		p.click("main form .buttons button")
		p.at("/notifications/", `document.querySelector("[role=status]")`)
		p.Goto(link(t, mailsTo(t, post, camillesMail, 1)[0], s.url+"/notifications/confirmer"))
		p.click("main form button")
		p.at("/notifications/confirmer", `document.querySelector("main [role=status]")`)
	})
	contest := ""
	step("contest", func(t *testing.T) {
		p.Goto(s.url + record)
		if got := p.Text("main"); !strings.Contains(got, "Inscription à la cantine") || !strings.Contains(got, "dossier 42") {
			t.Errorf("the page of what was released:\n%s", got)
		}
		p.click(`a[href^="/contester/"]`)
		p.at("/contester/", "true")
		p.click("#f-texte")
		p.Do(chromedp.SendKeys(chromedp.CSS("#f-texte"), "Je n'ai pas d'enfant à la cantine. "))
		p.click("form[action^='/contester/'] button")
		p.at("/contestations/", `document.querySelector("[role=status]")`)
		contest = browsertest.Eval[string](p.Page, "location.pathname")
		// The officer is told that there is something, and nothing about whom.
		told := mailsTo(t, post, officerMail, 1)[0]
		if !strings.Contains(told, filepath.Base(contest)) || strings.Contains(told, "ALPHA") || strings.Contains(told, "cantine") {
			t.Errorf("the officer is told:\n%s", told)
		}
	})
	step("the agency answers", func(t *testing.T) {
		var list struct {
			Contests []struct{ ID, Disclosure, Text string }
		}
		if code := s.api("GET", "/v1/contests?state=open", "", &list); code != http.StatusOK || len(list.Contests) != 1 || list.Contests[0].Disclosure != uuid.UUID(asked).String() || !strings.Contains(list.Contests[0].Text, "Je n'ai pas d'enfant à la cantine.") {
			t.Fatalf("%d: %+v", code, list)
		}
		at := "/v1/contests/" + list.Contests[0].ID
		if code := s.api("POST", at+"/acknowledge", "", nil); code != http.StatusOK {
			t.Fatalf("acknowledging: %d", code)
		}
		if code := s.api("POST", at+"/answer", `{"outcome":"corrected","text":"Vous avez raison.\nLa demande visait un autre dossier."}`, nil); code != http.StatusOK {
			t.Fatalf("answering: %d", code)
		}
	})
	step("the person is told, and reads the answer", func(t *testing.T) {
		if got := mailsTo(t, post, camillesMail, 2)[1]; !strings.Contains(got, s.url+"/notifications") || strings.Contains(got, "raison") || strings.Contains(got, "Mairie") {
			t.Errorf("the mail says more, or less, than that there is something:\n%s", got)
		}
		p.open("/notifications", fmt.Sprintf(`document.querySelectorAll('.notices a[href=%q]').length > 1`, contest)) // that it is in hand, and the answer
		p.click(fmt.Sprintf(`.notices a[href=%q]`, contest))
		p.at("/contestations/", `document.querySelector(".answer")`)
		if got := p.Text(".answer"); !strings.Contains(got, "Vous avez raison.\nLa demande visait un autre dossier.") {
			t.Errorf("the answer:\n%s", got)
		}
		p.Goto(s.url + "/notifications")
		p.click("main form button")
		p.at("/notifications", `!document.querySelector(".count")`)
	})
	step("have somebody else read", func(t *testing.T) {
		parties, err := json.Marshal(map[string]any{"delegate": subjectJSON(sophie), "subjects": []any{subjectJSON(camille)}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "parties.json")
		if err := os.WriteFile(file, parties, 0o600); err != nil {
			t.Fatal(err)
		}
		s.operate("delegate", "add", "-f", file, "--kind", "guardian", "--evidence", "jugement du 3 mars 2026, TJ d'Exempleville")
		other := player{browsertest.Open(t, s.url, s.simulator), s}
		other.Goto(s.url + "/connexion?lang=fr&retour=/mandats")
		s.signIn(other.Page, sophiesName)
		other.at("/mandats", `document.querySelector('a[href^="/mandats/"]')`)
		if got := other.Text("main"); !strings.Contains(got, "jugement du 3 mars 2026") || !strings.Contains(got, "EXEMPLE ALPHA") {
			t.Errorf("what the delegate may do:\n%s", got)
		}
		mandate := browsertest.Eval[string](other.Page, `document.querySelector('a[href^="/mandats/"].button').getAttribute("href")`)
		other.click(`a[href="` + mandate + `"]`)
		other.again(sophiesName, mandate, `document.querySelector("main form select")`)
		if n := browsertest.Eval[int](other.Page, `document.querySelectorAll("tr[data-index]").length`); n != 0 {
			t.Errorf("%d records were opened before anybody asked for it", n)
		}
		other.click("main form button:not(.second)")
		other.at(mandate, `document.querySelectorAll("tr[data-index]").length === 2`)
		if got := other.Text("main"); !strings.Contains(got, "Mairie d'Exempleville") || !strings.Contains(got, "Refusé par la règle") || strings.Contains(got, "Tribunal") {
			t.Errorf("what the delegate reads:\n%s", got)
		}
		other.Axe()
		// The person learns who it was, and can check that that is in the log, too.
		p.open("/notifications", `document.querySelectorAll(".notices li.unread").length >= 1`)
		s.settled()
		p.open("/historique", `document.querySelectorAll("#acces tr[data-kind^=access]").length === 2`)
		if got := s.verdict(p.Page); got != "proven" {
			t.Errorf("the history is %s:\n%s", got, p.Text("#verdict"))
		}
		if n := browsertest.Eval[int](p.Page, `document.querySelectorAll("#acces tr[data-kind^=access] [data-mark]").length - document.querySelectorAll("#acces tr[data-kind^=access][data-verified=verified]").length`); n != 0 {
			t.Errorf("%d accesses are not verified", n)
		}
		p.click("#acces tr[data-kind^=access] a")
		p.at("/acces/", "true")
		p.click(`article a[href="/mandats"]`)
		p.at("/mandats", "true")
		if got := p.Text("main"); !strings.Contains(got, "EXEMPLE CHARLIE") || !strings.Contains(got, "jugement du 3 mars 2026") {
			t.Errorf("who read is not said:\n%s", got)
		}
	})
	step("learn of what was delayed", func(t *testing.T) {
		s.operate("deferral", "end", "--disclosure", uuid.UUID(secret).String(), "--reason", "mainlevée, 2026/118")
		s.settled()
		p.proven(t)
		if got := marks(p.Page); got["opened verified"] != 1 || !strings.Contains(p.Text("#acces"), "Révélé le") {
			t.Errorf("%v\n%s", got, p.Text("#acces"))
		}
		p.click("#acces tr[data-outcome=opened] a")
		p.at("/acces/", "true")
		if got := p.Text("article"); !strings.Contains(got, "Demandé le") || !strings.Contains(got, "Révélé le") || !strings.Contains(got, "Tribunal judiciaire d'Exempleville") || !strings.Contains(got, "un témoin indépendant") {
			t.Errorf("the page of what was delayed:\n%s", got)
		}
	})
	// ask fills in the form of an erasure, after showing once more who one is.
	ask := func() {
		t.Helper()
		p.Goto(s.url + "/effacer")
		p.click("main a[href='/effacer/demande']")
		p.again(camillesName, "/effacer/demande", `document.querySelector("form .danger")`)
		p.Do(chromedp.Click("fieldset input"), chromedp.Click("#f-sur"), chromedp.Click("form .danger"))
		p.at("/effacer", `document.querySelector(".card form") || document.querySelector(".states")`)
	}
	step("ask for an erasure, and think better of it", func(t *testing.T) {
		p.Goto(s.url + "/effacer")
		p.click("main a[href='/effacer/demande']")
		p.Wait(`document.querySelector("button[name=personne]")`) // a session alone is not enough
		ask()
		if got := p.Text(".states"); !strings.Contains(got, "Sera effacé le") {
			t.Errorf("while it can be undone: %s", got)
		}
		p.click(".card form button")
		p.at("/effacer", `!document.querySelector(".card form")`)
		if got := p.Text(".states"); !strings.Contains(got, "Annulé par vous") {
			t.Errorf("after it was undone: %s", got)
		}
		p.proven(t)
		if got := marks(p.Page); got["released verified"] != 1 {
			t.Errorf("what was not erased: %v", got)
		}
	})
	step("be erased", func(t *testing.T) {
		// People have a month to undo it; this broker gives them a second.
		p.Goto("about:blank")
		s.restart("records.cool_off=1s")
		before := len(mailsTo(t, post, camillesMail, 2))
		ask()
		p.s.until("the account to be gone", func() bool {
			_, err := s.Broker.Profile(t.Context(), account)
			return broker.AsProblem(err).Code == "account.unknown"
		})
		mailsTo(t, post, camillesMail, before+1) // while there was an address
		p.open("/historique", `location.pathname === "/connexion"`)
		s.signIn(p.Page, camillesName)
		p.open("/historique", `document.querySelector("#acces tr[data-kind^=erasure]")`)
		s.settled()
		p.proven(t)
		if got := p.Text("#acces"); strings.Count(got, "Détails effacés à votre demande") < 3 {
			t.Errorf("after the erasure:\n%s", got)
		}
		p.Goto(s.url + record)
		if got := p.Text("main"); !strings.Contains(got, "Détails effacés") || strings.Contains(got, "Inscription à la cantine") || strings.Contains(got, "dossier 42") {
			t.Errorf("the page of what was erased:\n%s", got)
		}
		p.Axe()
		p.Allow("404") // the contest went with the account
		p.Goto(s.url + contest)
		if got := p.Text("main"); strings.Contains(got, "raison") || strings.Contains(got, "cantine") {
			t.Errorf("the contest after the erasure:\n%s", got)
		}
	})
	step("sign out", func(t *testing.T) {
		p.proven(t)
		p.click(`form[action="/deconnexion"] button`)
		p.at("/deconnexion/retour", "true")
		if got := p.Text("h1"); got != "Vous êtes déconnecté" {
			t.Error(got)
		}
		p.Axe()
		// A browser keeps no page to which somebody else could go back.
		browsertest.Eval[bool](p.Page, "history.back(), true")
		p.at("/connexion", "true")
		if got := browsertest.Eval[string](p.Page, "document.documentElement.outerHTML"); strings.Contains(got, "ALPHA") || strings.Contains(got, "data-index") {
			t.Errorf("whoever goes back sees:\n%s", got)
		}
		p.Goto(s.url + "/historique")
		p.at("/connexion", "true")
	})
	for _, name := range []string{"ALPHA", "Camille", "1984-03-14", "CHARLIE", camillesMail, "cantine. "} {
		if strings.Contains(s.logs.String(), name) {
			t.Errorf("the broker's log says %s", name)
		}
	}
}

// mailsTo waits for so many mails to somebody, and returns their texts, the oldest first.
func mailsTo(t *testing.T, post *mailtest.Server, to string, n int) []string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var out []string
		for _, m := range post.Mails() {
			if m.To != to {
				continue
			}
			_, body, _ := bytes.Cut(m.Raw, []byte("\r\n\r\n"))
			text, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(text))
		}
		if len(out) >= n {
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d mails came to %s, not %d", len(out), to, n)
		}
	}
}

// link finds one of the portal in a mail.
func link(t *testing.T, text, prefix string) string {
	t.Helper()
	at := regexp.MustCompile(regexp.QuoteMeta(prefix) + `\?jeton=[A-Za-z0-9_-]+`).FindString(text)
	if at == "" {
		t.Fatalf("there is no link in:\n%s", text)
	}
	return at
}

// tampered changes pages and files on their way: the check in the browser says so.
func tampered(t *testing.T, s *site, p *browsertest.Page) {
	t.Run("a row is changed on its way", func(t *testing.T) {
		defer s.altered(nil)
		s.altered(func(path string, body []byte) []byte {
			if path == "/historique" {
				body = bytes.Replace(body, []byte(`data-outcome="denied"`), []byte(`data-outcome="empty"`), 1)
			}
			return body
		})
		p.Goto(s.url + "/historique")
		if got := s.verdict(p); got != "refuted" || marks(p)["empty wrong"] != 1 {
			t.Errorf("%s, %v:\n%s", got, marks(p), p.Text("#verdict"))
		}
		p.Axe()
	})
	t.Run("a row is left out on its way", func(t *testing.T) {
		defer s.altered(nil)
		s.altered(func(path string, body []byte) []byte {
			if from := bytes.Index(body, []byte(`<tr role="row" data-index`)); path == "/historique" && from > 0 {
				to := from + bytes.Index(body[from:], []byte("</tr>")) + len("</tr>")
				body = append(body[:from:from], body[to:]...)
			}
			return body
		})
		p.Goto(s.url + "/historique")
		if got := s.verdict(p); got != "refuted" {
			t.Errorf("%s:\n%s", got, p.Text("#verdict"))
		}
	})
	t.Run("the file is changed on its way", func(t *testing.T) {
		defer s.altered(nil)
		s.altered(func(path string, body []byte) []byte {
			if path != "/historique/fichier" {
				return body
			}
			h, err := proof.ParseHistory(body)
			if err != nil {
				t.Error(err)
				return body
			}
			for i := range h.Epochs {
				for _, r := range h.Epochs[i].Rolls {
					if len(r.Leaves) > 0 {
						r.Leaves[0].Salt[0] ^= 1
						if body, err = h.AppendText(nil); err != nil {
							t.Error(err)
						}
						return body
					}
				}
			}
			t.Error("there is no roll in the file")
			return body
		})
		p.Goto(s.url + "/historique")
		if got := s.verdict(p); got != "refuted" {
			t.Errorf("%s:\n%s", got, p.Text("#verdict"))
		}
	})
}

// lit are the ends of the drawings of a proof that are lit, when nothing of them is dark any more.
const lit = `(() => { const all = [...document.querySelectorAll("svg.path, svg.path [data-step]")].map((e) => e.dataset.lit ?? "dark"); return all.length > 3 && new Set(all).size === 1 ? all[0] : "dark"; })()`

// checkedRecord is the page of one access: the honest one is proven in both languages and its drawings light up; with any word changed on its way it is refuted.
func checkedRecord(t *testing.T, s *site, p *browsertest.Page, record string) {
	t.Helper()
	still := func(features ...*emulation.MediaFeature) {
		t.Helper()
		if _, err := chromedp.Call(p.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
			t.Fatal(err)
		}
	}
	for _, lang := range []string{"en", "fr"} { // and in French from there on
		want := map[string]string{"en": "This request is in your list in the log, and this page shows it as it was recorded.", "fr": "Cet accès est dans votre liste au registre, et cette page le montre tel qu'il a été enregistré."}[lang]
		p.Goto(s.url + record + "?lang=" + lang)
		if got := s.verdict(p); got != "proven" || p.Text("#verdict [role=status]") != want {
			t.Errorf("%s: %s:\n%s", lang, got, p.Text("#verdict"))
		}
		if got := browsertest.Eval[string](p, lit); got != "verified" {
			t.Errorf("%s: before it is looked at, the proof is %s", lang, got)
		}
		// It moves when it is looked at, and comes to the same end.
		p.Do(chromedp.Click("details.proof > summary"))
		p.Wait(`document.querySelector("svg.path:not([data-lit])")`)
		p.Wait(lit + ` === "verified"`)
		p.Axe()
	}
	still(&emulation.MediaFeature{Name: "prefers-reduced-motion", Value: "reduce"})
	p.Goto(s.url + record)
	s.verdict(p)
	p.Do(chromedp.Click("details.proof > summary"))
	p.Wait(`document.querySelector("details.proof").open`)
	if got := browsertest.Eval[string](p, lit); got != "verified" {
		t.Errorf("without motion, the proof is %s", got)
	}
	still()
	looked := false
	for what, c := range map[string]struct{ old, new, says string }{
		"the legal basis":    {`article L. 114-8 (`, `article L. 114-9 (`, "(Fondement légal)"},
		"the context":        {"Inscription à la cantine", "Enquête", "(Contexte donné)"},
		"the agency":         {`<dd data-fact="fact.agency"><bdi>Mairie`, `<dd data-fact="fact.agency"><bdi>Préfecture`, "(Par)"},
		"the title":          {`<h1 data-fact="title">`, `<h1 data-fact="title">Rien, `, "(title)"},
		"a hidden fact":      {`<dd data-fact="fact.object">`, `<dd data-fact="fact.object" class="hidden">`, "(Dossier)"},
		"an unheard fact":    {`<dd data-fact="fact.object">`, `<dd data-fact="fact.object" aria-hidden="true">`, "(Dossier)"},
		"a fact otherwise":   {`<dd data-fact="fact.object">`, `<dd data-fact="fact.object" aria-label="Rien">`, "(Dossier)"},
		"a fact more":        {`<dt>Service</dt>`, `<dt>Par</dt><dd>Personne</dd><dt>Service</dt>`, "(Service)"},
		"a field in a fact":  {`<dd data-fact="fact.object">`, `<dd data-fact="fact.object"><input value="Rien">`, "(Dossier)"},
		"hidden in a fold":   {`<dd data-fact="detail.agency">`, `<dd data-fact="detail.agency"><b hidden></b>`, "(Identifiant de l'administration)"},
		"words not seen":     {`<dd data-fact="fact.agency"><bdi>`, `<dd data-fact="fact.agency"><bdi class="unseen">`, "(Par)"},
		"not in a label":     {`<dd data-fact="fact.agency"><bdi>`, `<dd data-fact="fact.agency"><bdi class="label unseen">`, "(Par)"},
		"drawn over":         {`<dd data-fact="fact.agency"><bdi>`, `<dd data-fact="fact.agency"><svg><use href="#i-released"/></svg><bdi class="unseen">`, "(Par)"},
		"drawn beside":       {`<dd data-fact="fact.agency"><bdi>`, `<dd data-fact="fact.agency"><svg><use href="#i-released"/></svg><bdi>`, "(Par)"},
		"a title not seen":   {`<h1 data-fact="title"><bdi>`, `<h1 data-fact="title"><bdi class="unseen">`, "(title)"},
		"not seen in a fold": {`<dd data-fact="detail.agency"><code>`, `<dd data-fact="detail.agency"><code class="unseen">`, "(Identifiant de l'administration)"},
		"cut off in a fold":  {`<dd data-fact="detail.agency">`, `<dd data-fact="detail.agency" class="unseen">`, "(Identifiant de l'administration)"},
		"drawn in a fold":    {`<dd data-fact="detail.agency">`, `<dd data-fact="detail.agency"><svg><use href="#i-released"/></svg>`, "(Identifiant de l'administration)"},
		"facts elsewhere":    {`</article>`, `</article><p data-fact="fact.object">Rien</p>`, "ce qu'une page d'accès n'a pas"},
		"the drawing":        {`class="leaf" data-step="0"><rect`, `class="leaf" data-step="0"><text>x</text><rect`, "(le dessin de la preuve)"},
		"the link to a text": {`href="https://www.legifrance.gouv.fr/`, `href="https://exemple.invalid/`, "(Fondement légal)"},
	} {
		s.altered(func(path string, body []byte) []byte {
			if path != record {
				return body
			}
			out := bytes.Replace(bytes.ReplaceAll(body, []byte("L.\u00a0"), []byte("L. ")), []byte(c.old), []byte(c.new), 1)
			if bytes.Equal(out, body) {
				t.Errorf("%s: nothing to change", what)
			}
			return out
		})
		p.Goto(s.url + record)
		if got := s.verdict(p); got != "refuted" || !strings.Contains(p.Text("#verdict [role=status]"), c.says) || browsertest.Eval[string](p, lit) != "wrong" {
			t.Errorf("%s: %s, %s:\n%s", what, got, browsertest.Eval[string](p, lit), p.Text("#verdict"))
		}
		if what == "the context" { // of the others some bring in what no page has
			p.Axe()
			looked = true
		}
	}
	if !looked {
		t.Error("axe looked at no altered page")
	}
	s.altered(nil)
	// In the place of another page it is true, and says nothing of what was asked for.
	p.Goto(s.url + "/historique")
	other := browsertest.Eval[string](p, `[...document.querySelectorAll("#acces tr a[href^='/acces/']")].map((a) => a.getAttribute("href")).find((h) => h !== "`+record+`")`)
	var page atomic.Pointer[[]byte]
	for _, path := range []string{record, "/historique", other} {
		s.altered(func(at string, body []byte) []byte {
			switch {
			case at == record:
				page.Store(&body)
			case at == path:
				return *page.Load()
			}
			return body
		})
		p.Goto(s.url + path)
		if path == record {
			if got := s.verdict(p); got != "proven" {
				t.Fatalf("%s:\n%s", got, p.Text("#verdict"))
			}
			continue
		}
		p.Wait(`document.querySelector("#verdict").dataset.state !== "checking" && document.querySelector("#verdict svg")`)
		if got := browsertest.Eval[string](p, `document.querySelector("#verdict").dataset.state`); got != "unverified" {
			t.Errorf("%s in the place of %s: %s:\n%s", record, path, got, p.Text("#verdict"))
		}
	}
	s.altered(nil)
	// Without scripts it says that nothing is verified, and how to.
	if _, err := chromedp.Call(p.Context, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	p.Goto(s.url + record)
	if got := p.Text("#verdict"); !strings.Contains(got, "Non vérifié") || !strings.Contains(got, "regard-audit verify-history") {
		t.Errorf("without scripts: %s", got)
	}
	if _, err := chromedp.Call(p.Context, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{}); err != nil {
		t.Fatal(err)
	}
}

// accessible looks at every page in both languages: as wide as a desktop's, as narrow as a phone's, enlarged to twice its size, its text alone enlarged, for people who want nothing to move; and at what it weighs.
func accessible(t *testing.T, s *site, p *browsertest.Page, record string) {
	t.Helper()
	still := []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}
	for _, lang := range []string{"fr", "en"} {
		p.Goto(s.url + "/?lang=" + lang)
		for _, path := range []string{"/", "/historique", "/historique?vue=dense&issue=denied", record, "/telecharger", "/releve", "/accessibilite", "/mentions-legales", "/donnees-personnelles", "/verificateur", "/connexion",
			"/notifications", "/notifications/reglages", "/notifications/adresse", "/contestations", "/identifiants", "/mandats", "/effacer", strings.Replace(record, "acces", "contester", 1)} {
			p.Goto(s.url + path)
			if browsertest.Eval[bool](p, `!!document.querySelector("#verdict[data-bundle]")`) {
				s.verdict(p)
			}
			if size := browsertest.Eval[int](p, weight); size == 0 || size > 60_000 {
				t.Errorf("%s (%s) weighs %d bytes", path, lang, size)
			}
			browsertest.Eval[bool](p, `document.querySelectorAll("details").forEach((d) => d.open = true), true`)
			if got := browsertest.Eval[string](p, "document.documentElement.lang"); got != lang {
				t.Errorf("%s is in %s", path, got)
			}
			p.Axe()
			if lang == "fr" { // the words change no colour
				p.AxeDark()
			}
			fits := func(how string) {
				t.Helper()
				if out := browsertest.Eval[[]string](p, cut); len(out) > 0 {
					t.Errorf("%s (%s), %s, has something to scroll sideways to, or cut off:\n%s", path, lang, how, strings.Join(out, "\n"))
				}
			}
			p.Do(chromedp.EmulateViewport(320, 640))
			fits("on a phone of 320 pixels")
			// A window of 1280 pixels at 200 % (WCAG 2.2, 1.4.4 and 1.4.10): half as many, each of twice the size.
			p.Do(chromedp.EmulateViewport(640, 450, chromedp.EmulateScale(2)))
			if got := browsertest.Eval[float64](p, "devicePixelRatio"); got != 2 {
				t.Fatalf("nothing is enlarged: %v", got)
			}
			fits("at twice its size")
			p.Do(chromedp.EmulateViewport(1280, 900))
			size := `parseFloat(getComputedStyle(document.querySelector("main")).fontSize)`
			before := browsertest.Eval[float64](p, size)
			browsertest.Eval[bool](p, `document.documentElement.style.fontSize = 2 * parseFloat(getComputedStyle(document.documentElement).fontSize) + "px", true`)
			if after := browsertest.Eval[float64](p, size); after != 2*before {
				t.Errorf("%s (%s): the text is of %v pixels, and of %v when it is to be twice as large", path, lang, before, after)
			}
			fits("with text of twice its size")
			browsertest.Eval[bool](p, `document.documentElement.style.fontSize = "", true`)
			if _, err := chromedp.Call(p.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: still}); err != nil {
				t.Fatal(err)
			}
			if moving := browsertest.Eval[int](p, `[...document.querySelectorAll("*")].filter((e) => { const s = getComputedStyle(e); return s.animationName !== "none" || s.transitionDuration.split(", ").some((d) => parseFloat(d) > 0); }).length`); moving > 0 {
				t.Errorf("%s (%s): %d elements move for people who don't want that", path, lang, moving)
			}
			if _, err := chromedp.Call(p.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.Goto(s.url + "/?lang=fr")
}

// weight is what a page has the browser load, in bytes as they are sent, but for the verifier and the file that it checks.
const weight = `[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")].filter((e) => !/^\/(verificateur\/|historique\/fichier)/.test(new URL(e.name).pathname)).reduce((n, e) => n + e.encodedBodySize, 0)`

// cut are the elements of a page that stick out of its window, and those that hide a part of what is in them. What scrolls by itself, and what is for ears alone, may.
const cut = `[...document.querySelectorAll("body *")].filter((e) => {
	if (e.closest(".scroll, .skip, svg") || e.getClientRects().length === 0) return false;
	for (let a = e; a; a = a.parentElement) if (a.offsetWidth <= 1 && a.offsetHeight <= 1 && getComputedStyle(a).position === "absolute") return false;
	const s = getComputedStyle(e), r = e.getBoundingClientRect();
	const hides = (o) => o === "hidden" || o === "clip";
	return r.right > document.documentElement.clientWidth + 1 || r.left < -1 || hides(s.overflowX) && e.scrollWidth > e.clientWidth + 1 || hides(s.overflowY) && e.scrollHeight > e.clientHeight + 1;
}).map((e) => e.outerHTML.slice(0, 200)).concat(document.documentElement.scrollWidth > document.documentElement.clientWidth ? ["the page: " + document.documentElement.scrollWidth] : [])`

// TestPortalWithoutItsWitness: while nobody has seen what was closed, the page is neither green nor red, and says why; then it is proven again.
func TestPortalWithoutItsWitness(t *testing.T) {
	s := newSite(t, 2*time.Second, "portal.verifier="+browsertest.Verifier(t))
	p := player{browsertest.Open(t, s.url, s.simulator), s}
	p.Goto(s.url + "/historique?lang=fr")
	s.signIn(p.Page, camillesName)
	s.ask("cantine", "tarif-cantine", "crpa-l114-8", "quotient")
	s.settled()
	p.proven(t)
	s.unseen.Store(true)
	s.ask("cantine", "publicite", "crpa-l114-8", "quotient")
	epoch := s.Broker.Standing().Open.Number
	s.until("the epoch to close unseen", func() bool { return s.Broker.Standing().Open.Number > epoch+1 })
	p.Goto(s.url + "/historique")
	p.Wait(`document.querySelector("#verdict button")`)
	if got := p.Text("#verdict [role=status]"); got != verdict.CauseBehind.Sentence(verdict.French) || browsertest.Eval[string](p.Page, `document.querySelector("#verdict").dataset.state`) != "unverified" {
		t.Errorf("%s", p.Text("#verdict"))
	}
	if got := marks(p.Page); got["released verified"]+got["denied verified"] != 0 {
		t.Errorf("rows: %v", got)
	}
	p.Axe()
	s.unseen.Store(false)
	s.settled()
	p.proven(t)
	if got := marks(p.Page); got["released verified"] != 1 || got["denied verified"] != 1 {
		t.Errorf("rows: %v", got)
	}
}

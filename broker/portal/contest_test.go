package portal_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/ledger/proof"
)

// until waits until it is so.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

// agencyAPI calls the API as an agency.
func (w *world) agencyAPI(id string) func(method, path, body string, into any) int {
	w.t.Helper()
	a, err := api.New(api.Config{Broker: w.b})
	if err != nil {
		w.t.Fatal(err)
	}
	return func(method, path, body string, into any) int {
		w.t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{w.certs[id]}}
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		rec := httptest.NewRecorder()
		a.ServeHTTP(rec, r)
		if rec.Code == http.StatusOK && into != nil {
			if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
				w.t.Fatal(err)
			}
		}
		return rec.Code
	}
}

func (a answer) has(tag, key, value string) bool {
	return len(a.all(func(n *html.Node) bool { return n.Data == tag && attr(n, key) == value })) > 0
}

// says whether all of these stand in the main part of the page.
func (a answer) says(t testing.TB, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(strings.NewReplacer("\u2068", "", "\u2069", "").Replace(a.text()), word) {
			t.Errorf("no %q in\n%s", word, a.text())
		}
	}
}

// file contests an entry and returns where it is shown.
func (w *world) file(who string, i proof.Index, text string) string {
	w.t.Helper()
	a := w.post(who, "/contester/"+i.String(), url.Values{"texte": {text}})
	to := a.Header.Get("Location")
	if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, "/contestations/") {
		w.t.Fatalf("%s\n%s\n%s", a.Status, a.text(), w.logs)
	}
	return to
}

type contestSeen struct {
	ID, Text, Role, State string
	Namesake              bool
}

// TestContest: somebody contests what was asked about them, the agency reads and answers it by the API, and they see the answer and are told.
func TestContest(t *testing.T) {
	w := newWorld(t, func(c *broker.Config, _ *portal.Config) { c.SweepEvery = 20 * time.Millisecond })
	w.signIn("camille", camille)
	i := w.disclose("mairie", canteen(camille))
	w.published(i)
	a := w.page("camille", "/acces/"+i.String())
	for _, link := range []string{"#why", "/contester/" + i.String(), "/acces/" + i.String() + "/preuve", "/notifications/taire?type=access&acces=" + i.String()} {
		if !a.has("a", "href", link) {
			t.Errorf("no link to %s", link)
		}
	}
	// The form says to whom what goes, and by when it is answered, before it is sent.
	form := w.page("camille", "/contester/"+i.String())
	due := broker.ContestDue(time.Now().Add(time.Duration(w.ahead.Load())))
	form.says(t, "À Mairie d'Exempleville, et à personne d'autre", "ni votre nom ni votre texte", "Ne sont pas envoyés", fmt.Sprint(due.Year()), "deux mois de plus", "Envoyer à Mairie d'Exempleville")
	proposed := form.tag("textarea")
	if len(proposed) != 1 || !strings.Contains(text(proposed[0]), "je conteste votre demande") || !strings.Contains(text(proposed[0]), "Quotient familial") || strings.ContainsAny(text(proposed[0]), "\u2068\u2069") {
		t.Errorf("%s", form.body)
	}
	to := w.file("camille", i, "Je n'ai rien demandé.\r\nPourquoi ?")
	if again := w.file("camille", i, "Je n'ai rien demandé.\nPourquoi ?"); again != to {
		t.Errorf("a form that is sent twice is %s and %s", to, again)
	}
	w.page("camille", to).says(t, "En attente de réponse", "Mairie d'Exempleville", "Je n'ai rien demandé.", "Pourquoi ?", "Quotient familial")
	if a := w.page("camille", "/contester/"+i.String()); !a.has("a", "href", to) || len(a.tag("textarea")) != 0 {
		t.Errorf("what is contested can be contested again:\n%s", a.text())
	}
	if a := w.post("camille", "/contester/"+i.String(), url.Values{"texte": {"Autre chose"}}); a.StatusCode != http.StatusConflict {
		t.Errorf("another text while one is open: %s", a.Status)
	}

	// The agency.
	call := w.agencyAPI("mairie")
	var list struct{ Contests []contestSeen }
	if code := call("GET", "/v1/contests?state=open", "", &list); code != http.StatusOK || len(list.Contests) != 1 || list.Contests[0].Text != "Je n'ai rien demandé.\nPourquoi ?" || list.Contests[0].Role != "asked" || list.Contests[0].Namesake {
		t.Fatalf("%d %+v", code, list)
	}
	at := "/v1/contests/" + list.Contests[0].ID
	if to != "/contestations/"+list.Contests[0].ID {
		t.Errorf("%s and %s", to, at)
	}
	if code := call("POST", at+"/acknowledge", "", nil); code != http.StatusOK {
		t.Fatal(code)
	}
	if code := call("POST", at+"/extend", `{"reason":"Le service est fermé en août. `+printableHostile()+`"}`, nil); code != http.StatusOK {
		t.Fatal(code)
	}
	a = w.page("camille", to)
	a.says(t, "Prise en charge", "Délai prolongé", "Le service est fermé en août.")
	harmless(t, "an extension", a)
	if code := call("POST", at+"/answer", `{"outcome":"upheld","text":"Vous avez raison.\nNous effaçons. `+printableHostile()+`"}`, nil); code != http.StatusOK {
		t.Fatal(code)
	}
	a = w.page("camille", to)
	a.says(t, "Réponse reçue", "cette demande n'aurait pas dû être faite", "Vous avez raison.", "CNIL")
	if len(a.tag("form")) != 1 { // to sign out
		t.Error("what was answered can be withdrawn")
	}
	harmless(t, "an answer", a)
	w.page("camille", "/contestations").says(t, "Réponse reçue", "Mairie d'Exempleville")
	until(t, "a notice of the answer", func() bool {
		return w.page("camille", "/notifications").has("a", "href", to)
	})
	w.page("camille", "/notifications").says(t, "L'administration a répondu à votre contestation.", "prend deux mois de plus", "pris en charge")
	if a := w.post("camille", to, nil); a.StatusCode != http.StatusConflict {
		t.Errorf("withdrawing what was answered: %s", a.Status)
	}

	// Withdrawn, late, and contested anew.
	second := w.file("camille", i, "Encore une fois.")
	if a := w.post("camille", second, nil); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != second {
		t.Errorf("%s", a.Status)
	}
	w.page("camille", second).says(t, "Retirée")
	if code := call("POST", "/v1/contests/"+strings.TrimPrefix(second, "/contestations/")+"/answer", `{"outcome":"explained","text":"x"}`, nil); code != http.StatusConflict {
		t.Errorf("answering what was withdrawn: %d", code)
	}
	third := w.file("camille", i, "Une dernière fois.")
	w.ahead.Add(int64(32 * 24 * time.Hour))
	w.page("camille", third).says(t, "Réponse en retard", "le délai est passé", "CNIL")
	w.page("camille", "/contestations").says(t, "Réponse en retard")
}

// TestContestRefused: what can't be taken says why and changes nothing.
func TestContestRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	i := w.disclose("mairie", canteen(camille))
	path := "/contester/" + i.String()
	for what, typed := range map[string]string{"nothing": " \n ", "too long": strings.Repeat("é", 2001), "control": "a\x00b", "not text": "\xff\xfe"} {
		a := w.post("camille", path, url.Values{"texte": {typed}})
		if a.StatusCode != http.StatusBadRequest || len(a.all(func(n *html.Node) bool { return attr(n, "aria-invalid") == "true" })) != 1 || !a.has("a", "href", "#f-texte") {
			t.Errorf("%s: %s", what, a.Status)
		}
		harmless(t, what, a)
	}
	if a := w.post("camille", path, url.Values{"texte": {strings.Repeat("é", 70<<10)}}); a.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(a.text(), "Formulaire illisible") {
		t.Errorf("a form without end: %s", a.Status)
	}
	w.forgeries(t, "camille", path, url.Values{"texte": {"Je conteste."}})
	w.page("camille", "/contestations").says(t, "Vous ne contestez aucune demande.")

	// Hostile text is text, for its writer, too.
	to := w.file("camille", i, printableHostile())
	harmless(t, "a contest", w.page("camille", to))
	harmless(t, "the list", w.page("camille", "/contestations"))
	w.forgeries(t, "camille", to, nil)
	w.page("camille", to).says(t, "En attente de réponse")
	// What isn't a request of an agency has nobody who would answer.
	subject := w.sessions.by["camille"].Subjects[0]
	if _, err := w.b.History(t.Context(), subject, broker.AccessBy{Reader: "guichet", Role: proof.RoleOperator, Reason: "Appel de la personne"}, broker.HistoryPage{}); err != nil {
		t.Fatal(err)
	}
	var access string
	for _, r := range w.page("camille", "/historique").rows() {
		if attr(r, "data-kind") == string(proof.KindAccess) {
			access = attr(r, "data-index")
		}
	}
	if a := w.get("camille", "/contester/"+access); a.StatusCode != http.StatusConflict || !strings.Contains(a.text(), "ne se conteste pas ici") {
		t.Errorf("an access: %s", a.Status)
	}
	if a := w.post("camille", "/contester/"+access, url.Values{"texte": {"Je conteste."}}); a.StatusCode != http.StatusConflict {
		t.Errorf("an access: %s", a.Status)
	}
	if w.page("camille", "/acces/"+access).has("a", "href", "/contester/"+access) {
		t.Error("the page of an access invites to contest it")
	}
	// Ten a day.
	for n := range 10 {
		e := w.disclose("mairie", canteen(camille))
		a := w.post("camille", "/contester/"+e.String(), url.Values{"texte": {"Je conteste."}})
		if want := map[bool]int{false: http.StatusSeeOther, true: http.StatusTooManyRequests}[n == 9]; a.StatusCode != want || n == 9 && a.Header.Get("Retry-After") == "" {
			t.Errorf("contest %d: %s, want %d", n+2, a.Status, want)
		}
	}
}

// forgeries of a form have no effect: without a session, with none of its token, with another's, and with none at all.
func (w *world) forgeries(t *testing.T, who, path string, form url.Values) {
	t.Helper()
	with := func(csrf string) url.Values {
		v := url.Values{"csrf": {csrf}}
		for k, x := range form {
			v[k] = x
		}
		return v
	}
	key := formsOf(who)
	for _, csrf := range []string{"", "x", csrfOf("pierre"), csrfOf(who) + " ", base64.RawURLEncoding.EncodeToString(key[:])} {
		if a := w.post(who, path, with(csrf)); a.StatusCode != http.StatusForbidden {
			t.Errorf("%s with the token %q: %s", path, csrf, a.Status)
		}
	}
	if a := w.post("", path, with(csrfOf(who))); a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.text(), "Ce que vous avez envoyé n'a pas été fait") {
		t.Errorf("%s without a session: %s", path, a.Status)
	}
	w.sessions.mu.Lock()
	s := w.sessions.by[who]
	bare := *s
	bare.Forms = identity.FormKey{}
	w.sessions.by[who] = &bare
	w.sessions.mu.Unlock()
	if a := w.post(who, path, with("")); a.StatusCode != http.StatusForbidden {
		t.Errorf("%s of a session without a token: %s", path, a.Status)
	}
	w.sessions.mu.Lock()
	w.sessions.by[who] = s
	w.sessions.mu.Unlock()
	// A token in the address is none: it would stand in logs.
	if a := w.post(who, path+"?csrf="+csrfOf(who), with("")); a.StatusCode != http.StatusForbidden {
		t.Errorf("%s with a token in the address: %s", path, a.Status)
	}
}

// TestOtherPeoplesContests: those of somebody else and those that never were have the same bytes, whatever is done to them.
func TestOtherPeoplesContests(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	w.signIn("pierre", pierre)
	theirs := w.disclose("mairie", canteen(pierre))
	contest := strings.TrimPrefix(w.file("pierre", theirs, "PIERREMARKER"), "/contestations/")
	for base, ids := range map[string][]string{
		"/contester/":     {theirs.String(), "0", "999999", "x", "01"},
		"/contestations/": {contest, "01935a11-2233-7444-8555-66778899aacc", "x", strings.ToUpper(contest), "{" + contest + "}"},
	} {
		for _, method := range []string{"GET", "POST"} {
			var first answer
			var same []byte
			for n, id := range ids {
				path := base + url.PathEscape(id)
				a := w.get("camille", path)
				if method == "POST" {
					a = w.post("camille", path, url.Values{"texte": {"Je conteste."}})
				}
				body := bytes.ReplaceAll(unmasked(a.body), []byte(html.EscapeString(base+url.PathEscape(id))), []byte(base))
				body = bytes.ReplaceAll(body, []byte(base+id), []byte(base))
				if n == 0 {
					first, same = a, body
				}
				if a.StatusCode != http.StatusNotFound || n < 3 && (!bytes.Equal(body, same) || !sameHeader(first.Header, a.Header)) {
					t.Errorf("%s %s: %s, other than for somebody else's\n%s", method, path, a.Status, a.body)
				}
				if bytes.Contains(a.body, []byte("PIERREMARKER")) {
					t.Errorf("%s tells", path)
				}
			}
		}
	}
	w.page("pierre", "/contestations/"+contest).says(t, "PIERREMARKER", "En attente de réponse")
	w.page("camille", "/contestations").says(t, "Vous ne contestez aucune demande.")
}

// TestNamesakeContests: somebody who sees an entry in outline only can contest it, and both sides know that it may be a namesake's.
func TestNamesakeContests(t *testing.T) {
	w := newWorld(t, func(c *broker.Config, _ *portal.Config) { c.SweepEvery = 20 * time.Millisecond })
	w.signIn("loic", loic)
	w.disclose("mairie", canteen(camille)) // he lives with her; the answer names him without his place of birth
	rows := w.page("loic", "/historique?issue=homonym").rows()
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	var i proof.Index
	if _, err := fmt.Sscan(attr(rows[0], "data-index"), &i); err != nil {
		t.Fatal(err)
	}
	a := w.page("loic", "/contester/"+i.String())
	a.says(t, "peut-être un homonyme")
	to := w.file("loic", i, "Je conteste.")
	for _, secret := range []string{"tarif-cantine", "calculer le tarif", "Inscription à", "dossier 42"} {
		if strings.Contains(a.text()+w.page("loic", to).text(), secret) {
			t.Errorf("somebody with this name is told %q", secret)
		}
	}
	var list struct{ Contests []contestSeen }
	if w.agencyAPI("mairie")("GET", "/v1/contests", "", &list); len(list.Contests) != 1 || !list.Contests[0].Namesake || list.Contests[0].Role != "answer" {
		t.Errorf("%+v", list)
	}
	until(t, "a notice", func() bool { return len(w.page("loic", "/notifications").news()) == 1 })
	w.page("loic", "/notifications").says(t, "concerne peut-être un homonyme", "Mairie d'Exempleville")
	// She doesn't see his.
	w.signIn("camille", camille)
	w.page("camille", "/contestations").says(t, "Vous ne contestez aucune demande.")
	if a := w.get("camille", to); a.StatusCode != http.StatusNotFound {
		t.Errorf("%s", a.Status)
	}
}

// TestContestOfOneOfTwoEntries: somebody in whose history one request stands twice contests the line that they chose, with what its form announces; the form of the other leads to that contest.
func TestContestOfOneOfTwoEntries(t *testing.T) {
	w := newWorld(t, nil)
	him, err := loic.Person().Subject()
	if err != nil {
		t.Fatal(err)
	}
	w.signIn("camille", camille, him)
	asked := w.disclose("mairie", canteen(camille))
	rows := w.page("camille", "/historique?issue=homonym").rows()
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	var named proof.Index
	if _, err := fmt.Sscan(attr(rows[0], "data-index"), &named); err != nil || named == asked {
		t.Fatal(named, err)
	}
	w.page("camille", "/contester/"+named.String()).says(t, "peut-être un homonyme")
	to := w.file("camille", named, "Je conteste.")
	if a := w.page("camille", to); !a.has("a", "href", "/acces/"+named.String()) || a.has("a", "href", "/acces/"+asked.String()) {
		t.Errorf("the contest is not of the entry %d that was contested:\n%s", named, a.text())
	}
	var list struct{ Contests []contestSeen }
	if w.agencyAPI("mairie")("GET", "/v1/contests", "", &list); len(list.Contests) != 1 || !list.Contests[0].Namesake || list.Contests[0].Role != "answer" {
		t.Errorf("%+v", list)
	}
	for _, i := range []proof.Index{named, asked} {
		a := w.page("camille", "/contester/"+i.String())
		if a.says(t, "Vous contestez déjà cette demande"); a.has("textarea", "name", "texte") || !a.has("a", "href", to) {
			t.Errorf("entry %d is offered to be contested anew:\n%s", i, a.text())
		}
	}
}

// printableHostile is hostile without what the broker refuses in a letter.
func printableHostile() string {
	return strings.ReplaceAll(strings.ReplaceAll(hostile, `"`, ""), "\\", "")
}

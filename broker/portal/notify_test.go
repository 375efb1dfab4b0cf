package portal_test

import (
	"context"
	"errors"
	"io"
	"mime/quotedprintable"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/mail/mailtest"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// newPosting is a world whose broker sends mails.
func newPosting(t *testing.T) (*world, *mailtest.Server) {
	t.Helper()
	s := mailtest.New(t, mailtest.Options{})
	from, err := mail.ParseAddress("ne-pas-repondre@regard.example")
	if err != nil {
		t.Fatal(err)
	}
	c, err := mail.New(mail.Config{Server: s.Addr, TLS: mail.Plain, From: from})
	if err != nil {
		t.Fatal(err)
	}
	return newWorld(t, func(b *broker.Config, _ *portal.Config) {
		b.Mail, b.Portal, b.SweepEvery = c, "https://regard.example", 20*time.Millisecond
	}), s
}

// news are the notices on a page.
func (a answer) news() []*html.Node {
	return a.all(func(n *html.Node) bool { return n.Data == "li" && attr(n.Parent, "class") == "notices" })
}

// unread is the number in the header; empty: none.
func (a answer) unread() string {
	for _, n := range a.all(func(n *html.Node) bool { return attr(n, "class") == "count" }) {
		return strings.Fields(text(n))[0]
	}
	return ""
}

// TestNotifications: what happened is told once, is new until it is marked as read, and leads to where it stands.
func TestNotifications(t *testing.T) {
	w := newWorld(t, func(c *broker.Config, _ *portal.Config) { c.SweepEvery = 20 * time.Millisecond })
	w.signIn("camille", camille)
	w.signIn("pierre", pierre)
	w.page("camille", "/notifications").says(t, "Aucune notification.")
	if n := w.page("camille", "/historique").unread(); n != "" {
		t.Errorf("%q unread", n)
	}
	i := w.disclose("mairie", canteen(camille))
	refused := canteen(camille)
	refused.Purpose = "publicite"
	w.disclose("mairie", refused)
	until(t, "two notices", func() bool { return len(w.page("camille", "/notifications").news()) == 2 })
	a := w.page("camille", "/notifications")
	a.says(t, "2 non lues", "Une administration a demandé vos données.", "La règle a refusé une demande à votre sujet.", "Mairie d'Exempleville", "Nouveau")
	if !a.has("a", "href", "/acces/"+i.String()) || w.page("camille", "/historique").unread() != "2" || w.get("camille", "/rien").unread() != "2" {
		t.Errorf("%s", a.body)
	}
	if n := w.page("pierre", "/notifications"); len(n.news()) != 0 || n.unread() != "" {
		t.Errorf("somebody else is told: %s", n.text())
	}
	upto := ""
	for _, n := range a.all(func(n *html.Node) bool { return attr(n, "name") == "jusqu" }) {
		upto = attr(n, "value")
	}
	form := url.Values{"jusqu": {upto}}
	w.forgeries(t, "camille", "/notifications", form)
	for _, bad := range []string{"", "x", "0", "-1", "99999999999999999999"} {
		if a := w.post("camille", "/notifications", url.Values{"jusqu": {bad}}); a.StatusCode != http.StatusBadRequest {
			t.Errorf("up to %q: %s", bad, a.Status)
		}
	}
	if a := w.post("pierre", "/notifications", form); a.StatusCode != http.StatusSeeOther { // his own up to there: none
		t.Errorf("%s", a.Status)
	}
	if n := w.page("camille", "/notifications").unread(); n != "2" {
		t.Errorf("%q unread, though nobody read any", n)
	}
	if a := w.post("camille", "/notifications", form); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/notifications" {
		t.Errorf("%s", a.Status)
	}
	a = w.page("camille", "/notifications")
	if a.unread() != "" || len(a.news()) != 2 || strings.Contains(a.text(), "Nouveau") || a.has("input", "name", "jusqu") {
		t.Errorf("%s", a.text())
	}
	// Pages: every notice once.
	for range 28 {
		w.disclose("mairie", canteen(camille))
	}
	until(t, "thirty notices", func() bool { return w.page("camille", "/notifications").unread() == "28" })
	first := w.page("camille", "/notifications")
	var older string
	for _, n := range first.all(func(n *html.Node) bool { return attr(n, "rel") == "next" }) {
		older = attr(n, "href")
	}
	second := w.page("camille", older)
	if len(first.news()) != 25 || len(second.news()) != 5 || !second.has("a", "rel", "prev") || second.has("a", "rel", "next") {
		t.Errorf("%d and %d notices", len(first.news()), len(second.news()))
	}
	for _, bad := range []string{"x", "-1", "99999999999999999999"} {
		if a := w.get("camille", "/notifications?avant="+bad); a.StatusCode != http.StatusNotFound {
			t.Errorf("before %q: %s", bad, a.Status)
		}
	}
}

// TestKinds: each kind is switched on and off by itself, also from an entry.
func TestKinds(t *testing.T) {
	w, _ := newPosting(t)
	w.signIn("camille", camille)
	checked := func() (out []string) {
		for _, n := range w.page("camille", "/notifications/reglages").tag("input") {
			for _, x := range n.Attr {
				if x.Key == "checked" {
					out = append(out, attr(n, "name"))
				}
			}
		}
		return out
	}
	if got := len(checked()); got != 12 {
		t.Errorf("%d are on at first", got)
	}
	path := "/notifications/reglages"
	w.forgeries(t, "camille", path, nil)
	if got := len(checked()); got != 12 {
		t.Errorf("a forged form left %d on", got)
	}
	if a := w.post("camille", path, url.Values{"site.access": {"1"}, "site.refusal": {"1"}, "courriel.contest": {"1"}, "courriel.access": {"1"}, "site.everything": {"1"}}); a.StatusCode != http.StatusSeeOther {
		t.Errorf("%s", a.Status)
	}
	if got := strings.Join(checked(), " "); got != "site.access courriel.access site.refusal courriel.contest" {
		t.Error(got)
	}
	// From an entry: it says what that means, and asks.
	i := w.disclose("mairie", canteen(camille))
	silence := "/notifications/taire?type=access&acces=" + i.String()
	w.page("camille", silence).says(t, "Vous ne serez plus prévenu de ceci", "Une administration demande mes données", "Rien n'est envoyé à personne")
	form := url.Values{"type": {"access"}, "acces": {i.String()}}
	w.forgeries(t, "camille", "/notifications/taire", form)
	if got := len(checked()); got != 4 {
		t.Errorf("a forged form left %d on", got)
	}
	if a := w.post("camille", "/notifications/taire", form); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/acces/"+i.String() {
		t.Errorf("%s %s", a.Status, a.Header.Get("Location"))
	}
	if got := strings.Join(checked(), " "); got != "site.refusal courriel.contest" {
		t.Error(got)
	}
	for _, bad := range []string{"", "?type=all", "?type=access&acces=//evil.invalid", "?type=access&acces=1e3"} {
		if a := w.get("camille", "/notifications/taire"+bad); a.StatusCode != http.StatusNotFound {
			t.Errorf("%q: %s", bad, a.Status)
		}
	}
	for _, bad := range []url.Values{{}, {"type": {"all"}}, {"type": {"access"}, "acces": {"/evil.invalid"}}} {
		if a := w.post("camille", "/notifications/taire", bad); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%v: %s", bad, a.Status)
		}
	}
	// What is off isn't told, and what is on is.
	denied := canteen(camille)
	denied.Purpose = "publicite"
	w.disclose("mairie", canteen(camille))
	w.disclose("mairie", denied)
	until(t, "the refusal", func() bool {
		return strings.Contains(w.page("camille", "/notifications").text(), "La règle a refusé une demande")
	})
	told := strings.Count(w.page("camille", "/notifications").text(), "a demandé vos données")
	if told > 1 { // the first may have been told before it was switched off
		t.Errorf("%d accesses are told", told)
	}
	// A broker that sends no mails offers none, and keeps what was chosen.
	plain := newWorld(t, nil)
	plain.signIn("camille", camille)
	if a := plain.page("camille", path); len(a.all(func(n *html.Node) bool { return strings.HasPrefix(attr(n, "name"), "courriel.") })) != 0 || !strings.Contains(a.text(), "n'envoie pas de courriels") {
		t.Errorf("%s", a.text())
	}
	if a := plain.page("camille", "/notifications/adresse"); !strings.Contains(a.text(), "n'envoie pas de courriels") || a.has("input", "name", "adresse") {
		t.Errorf("%s", a.text())
	}
	if a := plain.post("camille", "/notifications/adresse", url.Values{"adresse": {"camille@exemple.fr"}}); a.StatusCode != http.StatusConflict {
		t.Errorf("%s", a.Status)
	}
}

var mailed = regexp.MustCompile(`https://regard\.example(/notifications/[a-z]+\?jeton=[A-Za-z0-9_-]+)`)

// link in a mail, as a path.
func link(t *testing.T, m mailtest.Mail) string {
	t.Helper()
	_, raw, _ := strings.Cut(string(m.Raw), "\r\n\r\n")
	b, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	found := mailed.FindStringSubmatch(string(b))
	if found == nil {
		t.Fatalf("no link in\n%s", b)
	}
	return found[1]
}

// TestAddress: an address is set, confirmed by the link in the mail, used, unsubscribed at a click, and forgotten.
func TestAddress(t *testing.T) {
	w, s := newPosting(t)
	w.signIn("camille", camille)
	path := "/notifications/adresse"
	w.page("camille", path).says(t, "Aucune adresse", "Un courriel part à cette adresse", "ni nom, ni administration, ni donnée")
	for _, bad := range []string{"", "x", "a@b", hostile, "a@exemple.fr\r\nBcc: b@exemple.fr", strings.Repeat("a", 300) + "@exemple.fr"} {
		a := w.post("camille", path, url.Values{"adresse": {bad}})
		if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.text(), "ne peut pas être utilisée") || !a.has("input", "aria-invalid", "true") {
			t.Errorf("%q: %s", bad, a.Status)
		}
		harmless(t, "an address", a)
	}
	w.forgeries(t, "camille", path, url.Values{"adresse": {"voleur@exemple.fr"}})
	if a := w.post("camille", path, url.Values{"adresse": {"camille@exemple.fr"}}); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != path {
		t.Fatalf("%s\n%s", a.Status, a.text())
	}
	w.page("camille", path).says(t, "En attente de confirmation", "camille@exemple.fr", "deux jours")
	sent := s.Await(t, 1)
	confirm := link(t, sent[0])
	if sent[0].To != "camille@exemple.fr" || len(sent) != 1 {
		t.Errorf("%+v", sent)
	}
	// Looking at the link does nothing: programs that guard mailboxes do so. It needs no session.
	for _, who := range []string{"", "camille"} {
		if a := w.page(who, confirm); !a.has("form", "action", confirm) || strings.Contains(w.page("camille", path).text(), "Adresse confirmée") {
			t.Errorf("as %q\n%s", who, a.body)
		}
	}
	for _, bad := range []string{"/notifications/confirmer", "/notifications/confirmer?jeton=" + hostileQuery, confirm[:len(confirm)-2], confirm + "A"} {
		a := w.post("", bad, nil)
		if a.StatusCode != http.StatusNotFound || !strings.Contains(a.text(), "Ce lien n'est pas valable") {
			t.Errorf("%s: %s", bad, a.Status)
		}
		harmless(t, bad, a)
		harmless(t, bad, w.page("", bad))
	}
	// With somebody's session the form has to be that session's.
	if a := w.post("camille", confirm, url.Values{"csrf": {"x"}}); a.StatusCode != http.StatusForbidden {
		t.Errorf("%s", a.Status)
	}
	w.post("", confirm, nil).says(t, "L'adresse est confirmée.")
	if a := w.post("", confirm, nil); a.StatusCode != http.StatusNotFound {
		t.Errorf("the link works twice: %s", a.Status)
	}
	w.page("camille", path).says(t, "Adresse confirmée", "camille@exemple.fr")
	// News come, and end at a click: the mail program's own post has no session, no token of a form, no Origin, and follows no redirect.
	i := w.disclose("mairie", canteen(camille))
	sent = s.Await(t, 2)
	if strings.Contains(string(sent[1].Raw), i.String()+"\r\n") || strings.Contains(string(sent[1].Raw), "Mairie") {
		t.Errorf("%s", sent[1].Raw)
	}
	u, err := url.Parse(strings.Trim(sent[1].Header.Get("List-Unsubscribe"), "<>"))
	if err != nil {
		t.Fatal(err)
	}
	out := u.RequestURI()
	w.page("", out).says(t, "Plus aucun courriel ne sera envoyé")
	w.page("camille", path).says(t, "Adresse confirmée")
	for range 2 {
		r := httptest.NewRequest(http.MethodPost, "https://regard.example"+out, strings.NewReader("List-Unsubscribe=One-Click"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		a := w.send("", r)
		if a.StatusCode != http.StatusOK {
			t.Errorf("%s", a.Status)
		}
	}
	for _, n := range w.page("camille", "/notifications/reglages").all(func(n *html.Node) bool { return strings.HasPrefix(attr(n, "name"), "courriel.") }) {
		for _, x := range n.Attr {
			if x.Key == "checked" {
				t.Errorf("%s is still on", attr(n, "name"))
			}
		}
	}
	// Forgotten, at once and without a mail.
	w.forgeries(t, "camille", path, url.Values{"oublier": {"1"}})
	w.page("camille", path).says(t, "camille@exemple.fr")
	if a := w.post("camille", path, url.Values{"oublier": {"1"}}); a.StatusCode != http.StatusSeeOther {
		t.Errorf("%s", a.Status)
	}
	w.page("camille", path).says(t, "Aucune adresse")
	// Five a day.
	for n := range 5 {
		a := w.post("camille", path, url.Values{"adresse": {"camille" + strconv.Itoa(n) + "@exemple.fr"}})
		if want := map[bool]int{false: http.StatusSeeOther, true: http.StatusTooManyRequests}[n == 4]; a.StatusCode != want || n == 4 && (a.Header.Get("Retry-After") == "" || !strings.Contains(a.text(), "Trop de demandes")) {
			t.Errorf("address %d: %s, want %d", n+2, a.Status, want)
		}
	}
	for _, secret := range []string{"exemple.fr", confirm[len(confirm)-20:], out[len(out)-20:]} {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("the log says %q", secret)
		}
	}
}

const hostileQuery = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"

// unsteady is a broker that can't count, or tells of what there are no words for.
type unsteady struct {
	portal.Broker
	uncounted error
	notice    store.Notice
	contest   broker.Contest
}

func (u *unsteady) Unread(ctx context.Context, a broker.Account) (int64, error) {
	if u.uncounted != nil {
		return 0, u.uncounted
	}
	return u.Broker.Unread(ctx, a)
}

func (u *unsteady) Notices(context.Context, broker.Account, int64, int) (*broker.NoticePage, error) {
	return &broker.NoticePage{Notices: []store.Notice{u.notice}}, nil
}

func (u *unsteady) ContestsOf(context.Context, broker.Account) ([]broker.Contest, error) {
	return []broker.Contest{u.contest}, nil
}

// TestUnsteady: a number in the header holds up no page; what there are no words for is an error, and no blank line.
func TestUnsteady(t *testing.T) {
	var u *unsteady
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) {
		u = &unsteady{}
		c.Broker = u
	})
	u.Broker = w.b
	w.signIn("camille", camille)
	u.uncounted = errors.New("the store is slow")
	if a := w.page("camille", "/historique"); a.unread() != "" || !strings.Contains(w.logs.String(), "the store is slow") {
		t.Errorf("%q unread\n%s", a.unread(), w.logs)
	}
	u.uncounted = nil
	for kind, event := range map[store.NoticeKind]string{"access": "sold", "sale": "asked"} {
		u.notice = store.Notice{ID: 1, Kind: kind, Event: event}
		if a := w.get("camille", "/notifications"); a.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s.%s: %s", kind, event, a.Status)
		}
	}
	for state, outcome := range map[string]broker.ContestOutcome{"lost": "", "answered": "maybe"} {
		u.contest = broker.Contest{State: state, Outcome: outcome}
		if a := w.get("camille", "/contestations"); a.StatusCode != http.StatusInternalServerError {
			t.Errorf("%s %s: %s", state, outcome, a.Status)
		}
	}
	// A notice of an entry that isn't shown leads nowhere, and tells nothing of it.
	u.notice = store.Notice{ID: 1, Kind: store.NoticeRefusal, Event: "refused", Entry: true, Index: 7}
	if a := w.page("camille", "/notifications"); !strings.Contains(a.text(), "Une administration a demandé vos données.") || a.has("a", "href", "/acces/7") {
		t.Errorf("%s", a.text())
	}
	// Somebody whose account is gone, as after an erasure, is told to sign in anew.
	pivot, err := pierre.Subject()
	if err != nil {
		t.Fatal(err)
	}
	w.sessions.by["pierre"] = &portal.Session{Account: "account-pierre", Subjects: []proof.Subject{pivot}, Forms: formsOf("pierre")}
	for _, path := range []string{"/notifications/reglages", "/notifications/adresse"} {
		if a := w.get("pierre", path); a.StatusCode != http.StatusNotFound || !strings.Contains(a.text(), "Reconnectez-vous") {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	for _, path := range []string{"/notifications/reglages", "/notifications/taire"} {
		if a := w.post("pierre", path, url.Values{"type": {"access"}}); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
}

package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/quotedprintable"
	netmail "net/mail"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/mail/mailtest"
	"github.com/regard-broker/regard/broker/store"
)

func (w *world) notices(a broker.Account) []store.Notice {
	w.t.Helper()
	page, err := w.b.Notices(w.t.Context(), a, 0, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return page.Notices
}

func kinds(list []store.Notice) string {
	var out []string
	for _, n := range list {
		out = append(out, string(n.Kind)+"."+n.Event)
	}
	return strings.Join(out, " ")
}

func TestNotices(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.SweepEvery = 20 * time.Millisecond })
	ctx := t.Context()
	me, other := account(t, marie), account(t, killPivot("other"))
	_, err := w.b.Profile(ctx, me)
	wantCode(t, "an account that never signed in", err, 404, "account.unknown")
	wantCode(t, "its kinds", w.b.SetKinds(ctx, me, nil, nil), 404, "account.unknown")
	w.disclose(request()) // before the first sign-in: nobody is told
	for _, a := range []broker.Account{me, other} {
		if err := w.b.Enrol(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	a := w.disclose(request())
	until(t, "one access", func() bool { return kinds(w.notices(me)) == "access.asked" })
	n := w.notices(me)[0]
	if n.Ref != a.ID || !n.Entry || n.Read || n.Count != 1 {
		t.Errorf("%+v", n)
	}
	refused := request()
	refused.Scopes = []string{"address"}
	if got := w.disclose(refused); got.Outcome != broker.Denied {
		t.Fatalf("%s", got.Outcome)
	}
	until(t, "a refusal", func() bool { return kinds(w.notices(me)) == "refusal.refused access.asked" })
	// Readings of several records are one notice, until it was read.
	for range 2 {
		w.history(me.Pivot, broker.HistoryPage{Kind: "disclosure@v1"})
	}
	until(t, "one notice of six readings", func() bool {
		list := w.notices(me)
		return kinds(list) == "access.read refusal.refused access.asked" && list[0].Count == 6
	})
	page, err := w.b.Notices(ctx, me, 0, 2)
	if err != nil || len(page.Notices) != 2 || page.Next == 0 || page.Unread != 3 {
		t.Fatalf("%+v, %v", page, err)
	}
	if rest, err := w.b.Notices(ctx, me, page.Next, 2); err != nil || len(rest.Notices) != 1 || rest.Next != 0 {
		t.Errorf("%+v, %v", rest, err)
	}
	if err := w.b.MarkRead(ctx, me, page.Notices[1].ID); err != nil {
		t.Fatal(err)
	}
	if unread, err := w.b.Unread(ctx, me); err != nil || unread != 1 {
		t.Errorf("%d unread, %v", unread, err)
	}
	for _, x := range []struct {
		before int64
		limit  int
	}{{-1, 0}, {0, -1}, {0, 201}} {
		_, err := w.b.Notices(ctx, me, x.before, x.limit)
		wantCode(t, fmt.Sprint(x), err, 400, "request.invalid")
	}
	// A kind that is switched off isn't told, and nothing twice after a restart.
	wantCode(t, "a kind that isn't one", w.b.SetKinds(ctx, me, []store.NoticeKind{"all"}, nil), 400, "request.invalid")
	if err := w.b.SetKinds(ctx, me, []store.NoticeKind{store.NoticeRefusal}, nil); err != nil {
		t.Fatal(err)
	}
	w.close()
	w.open()
	w.disclose(request())
	w.disclose(refused)
	until(t, "the refusal alone", func() bool { return len(w.notices(me)) == 4 })
	if got := kinds(w.notices(me)); got != "refusal.refused access.read refusal.refused access.asked" {
		t.Error(got)
	}
	if len(w.notices(other)) != 0 {
		t.Errorf("somebody else is told: %+v", w.notices(other))
	}
	// An identifier that is no longer theirs.
	if err := w.b.SetKinds(ctx, me, store.NoticeKinds, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.b.Enrol(ctx, broker.Account{Pivot: me.Pivot}); err != nil {
		t.Fatal(err)
	}
	if p, err := w.b.Profile(ctx, me); err != nil || len(p.Page) != 6 || len(p.Mail) != 0 || p.Mailing || !p.Address.IsZero() {
		t.Errorf("%+v, %v", p, err)
	}
	wantCode(t, "mail from a broker that sends none", w.b.SetAddress(ctx, me, "camille@exemple.fr"), 409, "mail.none")
}

// TestNoticesOfNamesakes: of what may be about somebody else a person is told that there is an entry, and neither its outcome nor which disclosure it is of.
func TestNoticesOfNamesakes(t *testing.T) {
	w := newWorld(t, func(c *broker.Config) { c.SweepEvery = 20 * time.Millisecond })
	ctx := t.Context()
	me := account(t, marie)
	if err := w.b.Enrol(ctx, me); err != nil {
		t.Fatal(err)
	}
	other := request() // the answer names a person like her
	other.Subject.Pivot.BirthName = "Quelqu'un d'autre"
	other.Scopes = []string{"members", "quotient"}
	w.disclose(other)
	until(t, "told of it", func() bool { return kinds(w.notices(me)) == "access.asked" })
	index := w.own(me.Subjects[1])[0].Index
	if n := w.notices(me)[0]; n.Ref != (store.ID{}) || !n.Entry || n.Index != index {
		t.Errorf("%+v", n)
	}
	// A refusal that is filed so, as her own is once her pivot counts as shared.
	w.close()
	w.sql("UPDATE watches SET type = 'person'")
	w.open()
	other = request()
	other.Scopes = []string{"address"}
	if got := w.disclose(other); got.Outcome != broker.Denied {
		t.Fatalf("%s", got.Outcome)
	}
	until(t, "told of the refusal", func() bool { return len(w.notices(me)) == 2 })
	if n := w.notices(me)[0]; n.Kind != store.NoticeAccess || n.Event != "asked" || n.Ref != (store.ID{}) || !n.Entry {
		t.Errorf("%+v", n)
	}
}

// posting is a world whose broker sends mails to a server of the test's.
func posting(t *testing.T, ahead *atomic.Int64) (*world, *mailtest.Server) {
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
	return newTraveller(t, ahead, 0, func(cfg *broker.Config) {
		cfg.Mail, cfg.Portal, cfg.SweepEvery, cfg.CoolOff = c, "https://portail.example", 20*time.Millisecond, time.Hour
	}), s
}

var tokenIn = regexp.MustCompile(`https://portail\.example(/[a-z/]+)\?jeton=([A-Za-z0-9_-]+)`)

func body(t testing.TB, m mailtest.Mail) string {
	t.Helper()
	parsed, err := netmail.ReadMessage(bytes.NewReader(m.Raw))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(quotedprintable.NewReader(parsed.Body))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// subscribe signs somebody in and has their address confirmed.
func (w *world) subscribe(a broker.Account, s *mailtest.Server, address string) {
	w.t.Helper()
	ctx := w.t.Context()
	if err := w.b.Enrol(ctx, a); err != nil {
		w.t.Fatal(err)
	}
	n := len(s.Mails())
	if err := w.b.SetAddress(ctx, a, address); err != nil {
		w.t.Fatal(err)
	}
	m := s.Await(w.t, n+1)[n]
	found := tokenIn.FindStringSubmatch(body(w.t, m))
	if m.To != address || found == nil || found[1] != mail.PageConfirm {
		w.t.Fatalf("%+v\n%s", m, body(w.t, m))
	}
	if p, err := w.b.Profile(ctx, a); err != nil || p.Pending.Text() != address {
		w.t.Errorf("%+v, %v", p, err)
	}
	if err := w.b.ConfirmAddress(ctx, found[2]); err != nil {
		w.t.Fatal(err)
	}
	if p, err := w.b.Profile(ctx, a); err != nil || p.Address.Text() != address || !p.Pending.IsZero() {
		w.t.Errorf("%+v, %v", p, err)
	}
	wantCode(w.t, "confirming it twice", w.b.ConfirmAddress(ctx, found[2]), 404, "token.invalid")
}

func TestMails(t *testing.T) {
	var ahead atomic.Int64
	w, s := posting(t, &ahead)
	ctx := t.Context()
	me := account(t, marie)
	w.subscribe(me, s, "camille@exemple.fr")
	// Of accesses there is one mail a day, however many there are.
	for range 3 {
		w.disclose(request())
	}
	s.Await(t, 2)
	first := len(w.notices(me))
	w.disclose(request())
	until(t, "another notice", func() bool { return len(w.notices(me)) > first })
	// Of a contest's answer it comes at once.
	c, err := w.b.FileContest(ctx, me, w.disclose(request()).ID, "Je conteste CONTESTMARKER")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.AnswerContest(ctx, w.caller, c.ID, broker.ContestExplained, "ANSWERMARKER"); err != nil {
		t.Fatal(err)
	}
	got := s.Await(t, 3)
	if len(got) != 3 {
		t.Errorf("%d mails", len(got))
	}
	ahead.Add(int64(25 * time.Hour))
	got = s.Await(t, 4)
	for i, m := range got[1:] {
		text := body(t, m)
		for _, secret := range []string{"MARKER", "Exemple", "FICTIF", "Zoé", "mairie", "Mairie", "quotient", "cantine", "1984"} {
			if strings.Contains(string(m.Raw)+text, secret) {
				t.Errorf("mail %d holds %q:\n%s", i, secret, text)
			}
		}
		if m.To != "camille@exemple.fr" || !strings.Contains(text, "https://portail.example/notifications\r\n") || m.Header.Get("List-Unsubscribe-Post") != "List-Unsubscribe=One-Click" || m.Header.Get("Content-Language") != "fr" {
			t.Errorf("mail %d: %+v\n%s", i, m.Header, text)
		}
	}
	// Whoever has the mail ends the mails, without signing in.
	u, err := url.Parse(strings.Trim(got[1].Header.Get("List-Unsubscribe"), "<>"))
	if err != nil || u.Path != mail.PageUnsubscribe {
		t.Fatalf("%v, %v", u, err)
	}
	token := u.Query().Get("jeton")
	for _, bad := range []string{"", token[:len(token)-1], token + "A", strings.Repeat("A", 64), strings.Repeat("A", 500), "é", token[:10] + "!" + token[11:]} {
		wantCode(t, "a token that isn't one", w.b.Unsubscribe(ctx, bad), 404, "token.invalid")
		wantCode(t, "a token that isn't one", w.b.ConfirmAddress(ctx, bad), 404, "token.invalid")
	}
	wantCode(t, "a token of another use", w.b.ConfirmAddress(ctx, token), 404, "token.invalid")
	for range 2 {
		if err := w.b.Unsubscribe(ctx, token); err != nil {
			t.Error(err)
		}
	}
	p, err := w.b.Profile(ctx, me)
	if err != nil || len(p.Mail) != 0 || p.Address.IsZero() {
		t.Errorf("%+v, %v", p, err)
	}
	// The agency's addresses get mails about contests, and those hold a reference.
	for _, bad := range []string{"dpo", "a@b.fr\r\nBcc: x@y.fr"} {
		wantCode(t, bad, w.b.SetAgencyAddresses(ctx, "mairie", "", bad), 400, "request.invalid")
	}
	wantCode(t, "an agency that isn't there", w.b.SetAgencyAddresses(ctx, "nobody", "", "a@b.fr"), 404, "agency.unknown")
	if err := w.b.SetAgencyAddresses(ctx, "mairie", "contact@mairie.example", "dpo@mairie.example"); err != nil {
		t.Fatal(err)
	}
	c, err = w.b.FileContest(ctx, me, c.Disclosure, "encore CONTESTMARKER")
	if err != nil {
		t.Fatal(err)
	}
	to := map[string]bool{}
	for _, m := range s.Await(t, 6)[4:] {
		to[m.To] = true
		if text := body(t, m); !strings.Contains(text, fmt.Sprintf("%x", c.ID[:4])) || strings.Contains(string(m.Raw)+text, "MARKER") || m.Header.Get("List-Unsubscribe") != "" {
			t.Errorf("%s", text)
		}
	}
	if !to["contact@mairie.example"] || !to["dpo@mairie.example"] || len(s.Mails()) != 6 {
		t.Errorf("%v, %d mails", to, len(s.Mails()))
	}
	until(t, "all are out", func() bool {
		m, err := w.b.Mails(ctx)
		return err == nil && m.Sent == 6 && m.Waiting == 0
	})
	if err := w.b.DropAddress(ctx, me); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "the token of an address that was dropped", w.b.Unsubscribe(ctx, token), 404, "token.invalid")
	if strings.Contains(w.logs.String(), "exemple.fr") {
		t.Error("an address stands in the log")
	}
}

func TestAddressesThatAreRefused(t *testing.T) {
	var ahead atomic.Int64
	w, s := posting(t, &ahead)
	ctx := t.Context()
	me := account(t, marie)
	wantCode(t, "somebody who never signed in", w.b.SetAddress(ctx, me, "camille@exemple.fr"), 404, "account.unknown")
	if err := w.b.Enrol(ctx, me); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "camille", "a@b.fr\r\nBcc: c@d.fr", "a@b.fr, c@d.fr"} {
		wantCode(t, bad, w.b.SetAddress(ctx, me, bad), 400, "request.invalid")
	}
	for i := range 5 {
		if err := w.b.SetAddress(ctx, me, fmt.Sprintf("camille%d@exemple.fr", i)); err != nil {
			t.Fatal(err)
		}
		s.Await(t, i+1)
	}
	wantCode(t, "the sixth mail in a day", w.b.SetAddress(ctx, me, "camille@exemple.fr"), 429, "rate.exceeded")
	// Only the last one's link is good, and not for ever.
	mails := s.Mails()
	token := func(i int) string { return tokenIn.FindStringSubmatch(body(t, mails[i]))[2] }
	wantCode(t, "the link of an address that was replaced", w.b.ConfirmAddress(ctx, token(3)), 404, "token.invalid")
	ahead.Add(int64(49 * time.Hour))
	wantCode(t, "a link that is too old", w.b.ConfirmAddress(ctx, token(4)), 404, "token.invalid")
	if err := w.b.SetAddress(ctx, me, "camille@exemple.fr"); err != nil {
		t.Errorf("two days later: %v", err)
	}
}

// TestMailServerFails: what isn't taken is tried again and never lost; an address that is refused for good gets nothing more.
func TestMailServerFails(t *testing.T) {
	var ahead atomic.Int64
	w, s := posting(t, &ahead)
	ctx := t.Context()
	me := account(t, marie)
	w.subscribe(me, s, "camille@exemple.fr")
	s.Refuse("MAIL", 451)
	c, err := w.b.FileContest(ctx, me, w.disclose(request()).ID, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.AcknowledgeContest(ctx, w.caller, c.ID); err != nil {
		t.Fatal(err)
	}
	stats := func() broker.Mails {
		m, err := w.b.Mails(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	until(t, "attempts that fail", func() bool { return stats().Failed >= 2 })
	// A restart loses nothing.
	w.close()
	w.open()
	s.Refuse("MAIL", 0)
	ahead.Add(int64(time.Hour))
	until(t, "both mails are out", func() bool { return stats().Waiting == 0 })
	if n := len(s.Mails()); n != 3 {
		t.Errorf("%d mails", n)
	}
	ids := map[string]bool{}
	for _, m := range s.Mails() {
		ids[m.Header.Get("Message-Id")] = true
	}
	if len(ids) != 3 {
		t.Errorf("%v", ids)
	}
	// The mailbox is gone.
	s.Refuse("RCPT", 550)
	for i := range 3 {
		if _, err := w.b.WithdrawContest(ctx, me, c.ID); err != nil {
			t.Fatal(err)
		}
		if c, err = w.b.FileContest(ctx, me, c.Disclosure, fmt.Sprint("again ", i)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.b.AcknowledgeContest(ctx, w.caller, c.ID); err != nil {
			t.Fatal(err)
		}
		until(t, "a mail that comes back", func() bool { return stats().Refused == int64(i+1) && stats().Waiting == 0 })
		p, err := w.b.Profile(ctx, me)
		if err != nil || !p.Failing || p.Address.IsZero() != (i == 2) {
			t.Errorf("after %d: %+v, %v", i+1, p, err)
		}
	}
	if strings.Contains(w.logs.String(), "exemple.fr") || strings.Contains(w.logs.String(), "secret.example") {
		t.Error("an address stands in the log")
	}
}

// postman answers each mail in its own way.
type postman struct {
	answer error
	asked  int
}

func (p *postman) Send(context.Context, *mail.Message) error {
	p.asked++
	return p.answer
}

// TestMailServerDown: of a server that takes nothing no more than one mail is asked a round, and the others lose no try by it; what it says of one mail holds up no other.
func TestMailServerDown(t *testing.T) {
	var ahead atomic.Int64
	p := &postman{answer: fmt.Errorf("%w: nobody speaks", mail.ErrDown)}
	start := time.Now()
	w := newTraveller(t, &ahead, 0, func(cfg *broker.Config) {
		cfg.Mail, cfg.Portal, cfg.SweepEvery = p, "https://portail.example", 1000*time.Hour // rounds are this test's, and so is the time
		cfg.Clock = func() time.Time { return start.Add(time.Duration(ahead.Load())) }
	})
	ctx := t.Context()
	const officer = "dpo@mairie.example"
	if err := w.b.SetAgencyAddresses(ctx, "mairie", "", officer); err != nil {
		t.Fatal(err)
	}
	const letters = 3
	for i := range letters {
		req := request()
		req.Object = fmt.Sprint("dossier ", i)
		if _, err := w.b.FileContest(ctx, account(t, marie), w.disclose(req).ID, "x"); err != nil {
			t.Fatal(err)
		}
	}
	round := func(what string, asked int, failed, waiting int64) {
		t.Helper()
		before := p.asked
		if err := w.b.SendDue(ctx); err != nil {
			t.Fatal(err)
		}
		m, err := w.b.Mails(ctx)
		if err != nil || p.asked-before != asked || m.Failed != failed || m.Waiting != waiting {
			t.Errorf("%s: asked for %d mails, want %d; %+v, %v", what, p.asked-before, asked, m, err)
		}
	}
	for i := range int64(letters) {
		round("a server that is down", 1, i+1, letters)
	}
	round("each has been tried once, and none is due", 0, letters, letters)
	// A minute later: each had one try, whatever came of the others.
	ahead.Add(int64(time.Minute))
	p.answer = fmt.Errorf("%w: RCPT: the server said 452", mail.ErrLater)
	round("full mailboxes", letters, 2*letters, letters)
	ahead.Add(int64(2*time.Minute - time.Second))
	round("after a second try", 0, 2*letters, letters)
	ahead.Add(int64(time.Second))
	p.answer = nil
	round("a server that is there again", letters, 2*letters, 0)
}

// TestMailBehindADamagedAddress: one that can't be written is tried like one that isn't taken, and holds nobody else's up.
func TestMailBehindADamagedAddress(t *testing.T) {
	var ahead atomic.Int64
	w, s := posting(t, &ahead)
	me, other := account(t, marie), account(t, killPivot("UN AUTRE"))
	w.subscribe(me, s, "camille@exemple.fr")
	w.tamper("UPDATE citizens SET address = CAST(" + altered("address") + " AS BLOB)")
	w.subscribe(other, s, "autre@exemple.fr")
	before := len(s.Mails())
	for _, a := range []broker.Account{me, other} {
		w.ask(a)
	}
	ahead.Add(int64(10 * time.Minute))
	if m := s.Await(t, before+1)[before]; m.To != "autre@exemple.fr" {
		t.Errorf("%+v", m)
	}
	until(t, "the other one to be tried", func() bool {
		m, err := w.b.Mails(t.Context())
		return err == nil && m.Failed > 0 && m.Waiting == 1
	})
}

// TestErasedAddress: the mail that says that the erasure begins goes out before the address is destroyed; after that there is none.
func TestErasedAddress(t *testing.T) {
	var ahead atomic.Int64
	w, s := posting(t, &ahead)
	ctx := t.Context()
	me := studying(t, account(t, marie))
	w.subscribe(me, s, "camille@exemple.fr")
	w.disclose(request())
	s.Await(t, 2)
	w.ask(me)
	s.Await(t, 3) // it was asked for: whoever didn't can undo it
	s.Refuse("MAIL", 451)
	ahead.Add(int64(2 * time.Hour))
	until(t, "it is being announced", func() bool { m, err := w.b.Mails(ctx); return err == nil && m.Waiting > 0 })
	if w.erasing(me) != "pivot:waiting: ine:waiting:" {
		t.Errorf("states: %s", w.erasing(me))
	}
	s.Refuse("MAIL", 0)
	ahead.Add(int64(10 * time.Minute))
	s.Await(t, 4)
	ahead.Add(int64(10 * time.Minute))
	until(t, "both are erased", w.erased(me))
	_, err := w.b.Profile(ctx, me)
	wantCode(t, "the account", err, 404, "account.unknown")
	if m, err := w.b.Mails(ctx); err != nil || m.Waiting != 0 {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestNoticesWithoutKeys: while the keys are out of reach nobody is told anything, and everything afterwards.
func TestNoticesWithoutKeys(t *testing.T) {
	f := newFaulty(t)
	w := newWorld(t, func(c *broker.Config) { c.Custodian, c.SweepEvery = f, time.Hour })
	ctx := t.Context()
	me := account(t, marie)
	if err := w.b.Enrol(ctx, me); err != nil {
		t.Fatal(err)
	}
	w.disclose(request())
	w.close()
	w.open()
	f.down("Unwrap", context.DeadlineExceeded)
	if err := w.b.Tell(ctx); err == nil {
		t.Error("it told without keys")
	}
	if len(w.notices(me)) != 0 {
		t.Errorf("%+v", w.notices(me))
	}
	f.up()
	for range 2 {
		if err := w.b.Tell(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got := kinds(w.notices(me)); got != "access.asked" {
		t.Error(got)
	}
}

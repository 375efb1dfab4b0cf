package identity_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/simulator"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

type proofType = proof.SubjectType

const cookieSession = "__Host-regard"

// Without use a session ends after a quarter of an hour, with use after eight.
func TestTimeouts(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.mustSignIn(camille)
	w.clock.add(14 * time.Minute)
	if !b.signedIn() {
		t.Error("ended early")
	}
	w.clock.add(14 * time.Minute)
	if !b.signedIn() {
		t.Error("use doesn't prolong it")
	}
	w.clock.add(15 * time.Minute)
	if b.signedIn() {
		t.Error("not ended without use")
	}
	b = w.browser()
	w.theirs.t = w.clock.now()
	b.mustSignIn(camille)
	for i := range 48 {
		if !b.signedIn() {
			t.Fatalf("ended after %d minutes", 10*i)
		}
		w.clock.add(10 * time.Minute)
	}
	if b.signedIn() {
		t.Error("not ended after eight hours")
	}
	// Nor does it begin to stand again when the clock is put back.
	w.clock.add(-9 * time.Hour)
	if b.signedIn() {
		t.Error("a session from the future")
	}
	if n, err := w.store.DropSessions(t.Context(), w.clock.now().Add(24*time.Hour), 100); err != nil || n == 0 {
		t.Errorf("nothing is dropped: %d, %v", n, err)
	}
}

func TestRotation(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	b.put(cookieSession, strings.Repeat("A", 43)) // a token that a thief has chosen
	first := b.mustSignIn(camille)
	if c := b.cookie(cookieSession).Value; c == strings.Repeat("A", 43) {
		t.Error("the session has the thief's token")
	}
	old := b.cookie(cookieSession).Value
	second := b.mustSignIn(camille)
	if b.cookie(cookieSession).Value == old || second.forms == first.forms {
		t.Error("the token stays the same")
	}
	thief := w.browser()
	thief.put(cookieSession, old)
	if thief.signedIn() {
		t.Error("the old token is still good")
	}
}

// A cookie is the session, and nothing like it is one.
func TestForgedSessions(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	mine := b.mustSignIn(camille)
	token := b.cookie(cookieSession).Value
	for _, c := range []string{"", "x", token[:42], token + "A", strings.ToLower(token), token[:42] + "_", mine.csrf, strings.Repeat("A", 43), token + "=", url.QueryEscape(token + "\x00")} {
		thief := w.browser()
		thief.put(cookieSession, c)
		if c != token && thief.signedIn() {
			t.Errorf("%q is a session", c)
		}
	}
	// Of two with one name nobody knows which is ours.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.portal.URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Cookie", cookieSession+"="+token+"; "+cookieSession+"="+token)
	if p := w.browser().do(r); p.body != "signed out" {
		t.Errorf("two cookies: %s", p.body)
	}
}

// swapped is a store in which somebody who can write it put one session's row in another's place.
type swapped struct {
	identity.Store
	as [32]byte
}

func (s *swapped) Session(ctx context.Context, id [32]byte) (store.Session, error) {
	row, err := s.Store.Session(ctx, s.as)
	row.ID = id
	return row, err
}

func TestSwappedRows(t *testing.T) {
	var hold *holder
	w := newWorld(t, func(w *world, _ *simulator.Config) {
		hold = &holder{Store: w.cfg.Store}
		w.cfg.Store = hold
	})
	victim, thief := w.browser(), w.browser()
	victim.mustSignIn(camille)
	victims := hold.begun
	thief.mustSignIn(jeanBordeaux)
	hold.other = &swapped{hold.Store, victims}
	p := thief.get(w.portal.URL + "/moi")
	w.wantNotice(p, identity.Unavailable)
	if strings.Contains(p.body, "Camille") {
		t.Error("the thief reads the victim's session")
	}
}

// holder is a store that can be exchanged, and can fail.
type holder struct {
	identity.Store
	begun [32]byte
	other identity.Store
	fail  map[string]bool
}

var errStore = errors.New("the store is broken")

func (h *holder) SpendSignIn(ctx context.Context, id [32]byte, until time.Time) error {
	if h.fail["SpendSignIn"] {
		return errStore
	}
	return h.Store.SpendSignIn(ctx, id, until)
}

func (h *holder) BeginSession(ctx context.Context, in *store.Session, replaces [32]byte) error {
	if h.fail["BeginSession"] {
		return errStore
	}
	h.begun = in.ID
	return h.Store.BeginSession(ctx, in, replaces)
}

func (h *holder) Session(ctx context.Context, id [32]byte) (store.Session, error) {
	if h.fail["Session"] {
		return store.Session{}, errStore
	}
	if h.other != nil {
		return h.other.Session(ctx, id)
	}
	return h.Store.Session(ctx, id)
}

func (h *holder) TouchSession(ctx context.Context, id [32]byte, seen, until time.Time) error {
	if h.fail["TouchSession"] {
		return errStore
	}
	return h.Store.TouchSession(ctx, id, seen, until)
}

func (h *holder) EndSession(ctx context.Context, id [32]byte) error {
	if h.fail["EndSession"] {
		return errStore
	}
	return h.Store.EndSession(ctx, id)
}

func (h *holder) Identifiers(ctx context.Context, account keys.Owner) ([]store.Identifier, error) {
	if h.fail["Identifiers"] {
		return nil, errStore
	}
	return h.Store.Identifiers(ctx, account)
}

func (h *holder) AttachIdentifier(ctx context.Context, in *store.NewIdentifier) error {
	if h.fail["AttachIdentifier"] {
		return errStore
	}
	return h.Store.AttachIdentifier(ctx, in)
}

// When the store fails nobody is signed in, and nobody is told that they are signed out.
func TestStoreFails(t *testing.T) {
	for op, want := range map[string]string{
		"SpendSignIn": "unavailable", "BeginSession": "unavailable", "AttachIdentifier": "unavailable",
		"Session": "unavailable", "Identifiers": "unavailable", "EndSession": "unavailable", "TouchSession": "signed in",
	} {
		h := &holder{fail: map[string]bool{}}
		w := newWorld(t, func(w *world, _ *simulator.Config) { h.Store, w.cfg.Store = w.cfg.Store, h })
		b := w.browser()
		var p page
		switch op {
		case "SpendSignIn", "BeginSession", "AttachIdentifier":
			h.fail[op] = true
			p = b.signIn(camille)
			h.fail[op] = false
			if b.signedIn() {
				t.Errorf("%s fails, and somebody is signed in", op)
			}
		case "EndSession":
			m := b.mustSignIn(camille)
			h.fail[op] = true
			p = b.post(w.portal.URL+identity.PathSignOut, url.Values{"csrf": {m.csrf}})
		default:
			b.mustSignIn(camille)
			w.clock.add(10 * time.Minute)
			h.fail[op] = true
			p = b.get(w.portal.URL + "/")
		}
		if !strings.Contains(p.body, want) {
			t.Errorf("%s fails: %d %s", op, p.status, p.body)
		}
	}
}

// What changes something comes from a form of this session, on a page of ours.
func TestForgedRequests(t *testing.T) {
	w := newWorld(t)
	b, other := w.browser(), w.browser()
	me, them := b.mustSignIn(camille), other.mustSignIn(jeanBordeaux)
	to := w.portal.URL + "/moi"
	good := url.Values{"csrf": {me.csrf}}
	for name, x := range map[string]struct {
		form   url.Values
		header []string
		ok     bool
	}{
		"the form":                       {form: good, ok: true},
		"with Origin":                    {form: good, header: []string{"Origin", w.portal.URL}, ok: true},
		"with fetch metadata":            {form: good, header: []string{"Sec-Fetch-Site", "same-origin"}, ok: true},
		"a script of ours":               {header: []string{"X-Csrf-Token", me.csrf}, ok: true},
		"no token":                       {},
		"an empty token":                 {form: url.Values{"csrf": {""}}},
		"another session's token":        {form: url.Values{"csrf": {them.csrf}}},
		"from another site":              {form: good, header: []string{"Sec-Fetch-Site", "cross-site"}},
		"from another host of this site": {form: good, header: []string{"Sec-Fetch-Site", "same-site"}},
		"from another origin":            {form: good, header: []string{"Origin", "https://evil.example"}},
		"from nowhere":                   {form: good, header: []string{"Origin", "null"}},
		"too large":                      {form: url.Values{"x": {strings.Repeat("x", 100_000)}, "csrf": {me.csrf}}},
	} {
		p := b.post(to, x.form, x.header...)
		if x.ok != (p.body == "done") {
			t.Errorf("%s: %d %s", name, p.status, p.body)
		}
		if !x.ok {
			w.wantNotice(p, identity.Forged)
		}
	}
	// The token in the URL would be told to others.
	if p := b.post(to+"?csrf="+me.csrf, nil); p.body == "done" {
		t.Error("a token in the URL is taken")
	}
	// Who isn't signed in any more has sent it in vain, and learns that.
	w.wantNotice(w.browser().post(to, good), identity.Ended)
	// Nobody is signed out by another site.
	w.wantNotice(b.post(w.portal.URL+identity.PathSignOut, nil, "Sec-Fetch-Site", "cross-site"), identity.Forged)
	if !b.signedIn() {
		t.Error("signed out by another site")
	}
	if p := b.get(w.portal.URL + identity.PathSignOut); p.status != http.StatusMethodNotAllowed || !b.signedIn() {
		t.Errorf("signed out by a link: %d", p.status)
	}
}

func TestSignOut(t *testing.T) {
	w := newWorld(t)
	b, elsewhere, other := w.browser(), w.browser(), w.browser()
	m := b.mustSignIn(camille)
	elsewhere.mustSignIn(camille)
	other.mustSignIn(jeanBordeaux)
	token := b.cookie(cookieSession).Value
	w.wantNotice(b.post(w.portal.URL+identity.PathSignOut, url.Values{"csrf": {m.csrf}}), identity.SignedOut)
	b.put(cookieSession, token)
	if b.signedIn() {
		t.Error("the token is still good")
	}
	if !elsewhere.signedIn() || !other.signedIn() {
		t.Error("others were signed out, too")
	}
	// The provider's session is over as well: nobody is signed in again by a click.
	b.choose(b.form(b.get(w.portal.URL+"/moi")), camille)
	// And by a click it is while that session lasts.
	if p := b.get(w.portal.URL + identity.PathSignIn); p.body != "signed in" {
		t.Errorf("the provider asks again: %d %s", p.status, p.body)
	}
	m = parseMe(b.get(w.portal.URL + "/moi").body)
	w.wantNotice(b.post(w.portal.URL+identity.PathSignOut, url.Values{"csrf": {m.csrf}, "partout": {"1"}}), identity.SignedOut)
	if elsewhere.signedIn() || !other.signedIn() {
		t.Error("everywhere is somewhere else")
	}
	// Who isn't signed in may say so again; who comes back from nowhere wasn't signed out by us.
	w.wantNotice(b.post(w.portal.URL+identity.PathSignOut, nil), identity.SignedOutHere)
	w.wantNotice(b.get(w.portal.URL+identity.PathSignedOut+"?state=x"), identity.SignedOutHere)
}

// If the provider is down, the session here is over all the same, and the person learns that the other isn't.
func TestSignOutWithoutProvider(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	m := b.mustSignIn(camille)
	w.clock.add(time.Minute)
	w.transport.set(func(string, *http.Request) (*http.Response, error) { return nil, errors.New("down") })
	w.wantNotice(b.post(w.portal.URL+identity.PathSignOut, url.Values{"csrf": {m.csrf}}), identity.SignedOutHere)
	if b.signedIn() {
		t.Error("still signed in")
	}
}

// For what can't be undone one shows again who one is: at the provider, just now, as the same person.
func TestFresh(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	first := b.mustSignIn(camille)
	old := b.cookie(cookieSession).Value
	to := w.portal.URL + "/effacer"
	p := b.get(to)
	form := b.form(p) // though the provider has a session: prompt=login
	if got := p.url.Query(); got.Get("prompt") != "login" || !strings.Contains(got.Get("claims"), "auth_time") || got.Has("max_age") {
		t.Errorf("asked for %v", got)
	}
	if p = b.choose(form, camille); p.body != "GET fresh" || p.url.Path != "/effacer" {
		t.Fatalf("%d %s %s\n%s", p.status, p.url, p.body, w.logs)
	}
	if b.cookie(cookieSession).Value == old {
		t.Error("the session's token stays the same")
	}
	again := parseMe(b.get(w.portal.URL + "/moi").body)
	if again.account != first.account {
		t.Error("another account")
	}
	if p := b.post(to, url.Values{"csrf": {again.csrf}}); p.body != "POST fresh" {
		t.Errorf("%d %s", p.status, p.body)
	}
	w.clock.add(5 * time.Minute)
	w.theirs.add(5 * time.Minute)
	// What is sent too late isn't done; one comes back to the form.
	p = b.post(to, url.Values{"csrf": {again.csrf}})
	if p = b.choose(b.form(p), camille); p.body != "GET fresh" {
		t.Errorf("%d %s", p.status, p.body)
	}
	w.clock.add(6 * time.Minute)
	w.theirs.add(6 * time.Minute)
	t.Run("somebody else", func(t *testing.T) {
		token := b.cookie(cookieSession).Value
		w.wantNotice(b.choose(b.form(b.get(to)), jeanBordeaux), identity.OtherPerson)
		if b.signedIn() {
			t.Error("somebody else is signed in")
		}
		b.put(cookieSession, token)
		if b.signedIn() {
			t.Error("the first person still is")
		}
	})
	t.Run("not confirmed", func(t *testing.T) {
		b := w.browser()
		m := b.mustSignIn(camille)
		for name, alter := range map[string]func(map[string]any){
			"the provider doesn't say when": func(c map[string]any) { delete(c, "auth_time") },
			"it was before":                 func(c map[string]any) { c["auth_time"] = w.theirs.now().Add(-2 * time.Minute).Unix() },
		} {
			w.alter = func(token string, c map[string]any) {
				if token == "id_token" {
					alter(c)
				}
			}
			w.wantNotice(b.choose(b.form(b.get(to)), camille), identity.Unconfirmed)
			if got := parseMe(b.get(w.portal.URL + "/moi").body); got.forms != m.forms {
				t.Errorf("%s: the session doesn't go on", name)
			}
			if p := b.get(to); p.body == "GET fresh" {
				t.Errorf("%s: let through", name)
			}
		}
		w.alter = nil
	})
	if p := w.browser().get(to); pageID.FindString(p.body) == "" {
		t.Errorf("who isn't signed in: %d %s", p.status, p.body)
	}
}

func TestRequireLeadsToThePage(t *testing.T) {
	w := newWorld(t, func(w *world, _ *simulator.Config) { w.cfg.Page = "/connexion" })
	b := w.browser()
	b.stop = "/connexion"
	if p := b.get(w.portal.URL + "/moi?page=2"); p.header.Get("Location") != "/connexion?retour=%2Fmoi%3Fpage%3D2" {
		t.Errorf("%d %s", p.status, p.header.Get("Location"))
	}
}

// Nothing that prints or serialises a session shows whose it is.
func TestSessionRedactsItself(t *testing.T) {
	var s *identity.Session
	w := newWorld(t)
	h := w.service.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { s, _ = identity.From(r.Context()) }))
	b := w.browser()
	b.mustSignIn(camille)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.AddCookie(b.cookie(cookieSession))
	h.ServeHTTP(discard{http.Header{}}, r)
	if s == nil || s.Names.Given != "Camille Inès" || s.Pivot().BirthPlace != "75107" {
		t.Fatal("no session")
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "session", s)
	_, jsonErr := s.MarshalJSON()
	text := fmt.Sprintf("%v %+v %#v %s %s %v", s, s, s, s, log.String(), jsonErr)
	for _, m := range append(markers, hex.EncodeToString(s.Forms()[:]), fmt.Sprintf("%v", s.Forms()[:])[1:20]) {
		if strings.Contains(text, m) {
			t.Errorf("%q stands in %s", m, text)
		}
	}
	if jsonErr == nil {
		t.Error("a session is serialised")
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header       { return d.h }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

package identity_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/simulator"
)

func TestSignIn(t *testing.T) {
	for _, pkce := range []bool{false, true} {
		t.Run(fmt.Sprintf("pkce %v", pkce), func(t *testing.T) {
			w := newWorld(t, func(w *world, sim *simulator.Config) {
				sim.PKCE = pkce
				w.cfg.Language = func(*http.Request) string { return "en" }
			})
			b := w.browser()
			if p := b.get(w.portal.URL + "/moi"); pageID.FindString(p.body) == "" {
				t.Fatalf("who isn't signed in isn't sent to sign in: %d %s", p.status, p.body)
			}
			got := b.mustSignIn(camille)
			got.csrf, got.forms, got.account = "", "", ""
			want := me{
				name: "Camille Inès|EXEMPLE ALPHA|EXEMPLE MARQUEUR", level: "eidas2", language: "en", unattached: "[]",
				subjects: []string{
					"pivot EXEMPLE ALPHA|CAMILLE INES|1984-03-14|F|75107|99100", "person EXEMPLE ALPHA|CAMILLE INES|1984-03-14|F",
					"nir 284037510700105", "siren 900000118",
				},
				attached: []string{"nir claim", "siren claim"},
			}
			for _, l := range [][]string{got.subjects[2:], got.attached} {
				slices.Sort(l) // attached at the same moment
			}
			if d := cmp.Diff(want, got, cmp.AllowUnexported(me{})); d != "" {
				t.Error(d)
			}
		})
	}
}

// Whoever is told of sign-ins learns who it is, under all identifiers; if they can't be told, nobody is signed in.
func TestSignedIn(t *testing.T) {
	var told []string
	var fail error
	w := newWorld(t, func(w *world, _ *simulator.Config) {
		w.cfg.SignedIn = func(_ context.Context, s *identity.Session) error {
			for _, x := range s.Subjects {
				told = append(told, string(x.Type()))
			}
			told = append(told, s.Language, s.Pivot().BirthPlace)
			return fail
		}
	})
	b := w.browser()
	b.mustSignIn(camille)
	slices.Sort(told[2:4]) // attached at the same moment
	if d := cmp.Diff([]string{"pivot", "person", "nir", "siren", "fr", "75107"}, told); d != "" {
		t.Error(d)
	}
	b, fail = w.browser(), errors.New("the store is down")
	p := b.choose(b.start("/moi"), camille)
	if p.status != http.StatusServiceUnavailable || !strings.Contains(p.body, "notice=unavailable return=/moi") || p.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", p.status, p.body)
	}
	if p = b.get(w.portal.URL + "/"); p.body != "signed out" {
		t.Errorf("all the same %s", p.body)
	}
}

// The cookie is this host's alone, out of reach for scripts and other sites, and what is stored gives nobody a session and names nobody.
func TestWhatIsLeft(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	form := b.start("/moi")
	b.stop = "/moi"
	p := b.choose(form, camille)
	var token string
	for _, c := range (&http.Response{Header: p.header}).Cookies() {
		if c.Name != "__Host-regard" {
			continue
		}
		token = c.Value
		if !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 0 {
			t.Errorf("the cookie: %+v", c)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) != 32 {
		t.Fatalf("the token has %d bytes, %v", len(raw), err)
	}
	if cc := p.header.Get("Cache-Control"); cc != "no-store" {
		t.Errorf("Cache-Control of the callback: %q", cc)
	}
	sum := sha256.Sum256(raw)
	if _, err := w.store.Session(t.Context(), sum); err != nil {
		t.Error(err)
	}
	found := false
	err = filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		found = found || strings.Contains(string(text), string(sum[:]))
		for _, m := range append(markers, token, string(raw)) {
			if strings.Contains(string(text), m) {
				t.Errorf("%s holds %q", filepath.Base(path), m)
			}
		}
		return err
	})
	if err != nil || !found {
		t.Errorf("the session wasn't looked for in the right files: %v", err)
	}
}

// Two people with the same names, birth date and sex are two; what they share is the subject that says so.
func TestHomonym(t *testing.T) {
	w := newWorld(t)
	a, b := w.browser().mustSignIn(jeanBordeaux), w.browser().mustSignIn(jeanStrasbourg)
	if a.account == b.account || a.subjects[0] == b.subjects[0] {
		t.Errorf("homonyms have one account: %v and %v", a.subjects, b.subjects)
	}
	if a.subjects[1] != b.subjects[1] || len(a.subjects) != 2 || len(b.subjects) != 2 {
		t.Errorf("subjects %v and %v", a.subjects, b.subjects)
	}
	if again := w.browser().mustSignIn(jeanBordeaux); again.account != a.account {
		t.Error("the account of one person changes")
	}
}

// Who was born abroad has no birth place, and is complete; who lacks anything else isn't, and learns what.
func TestIncomplete(t *testing.T) {
	w := newWorld(t)
	if got := w.browser().mustSignIn(amina); got.subjects[0] != "pivot EXEMPLE ECHO|AMINA|1988-02-29|F||99350" {
		t.Errorf("born abroad: %v", got.subjects)
	}
	for person, missing := range map[int]string{presumed: "missing=[birthdate]", placeless: "missing=[gender birthplace]"} {
		b := w.browser()
		p := b.signIn(person)
		w.wantNotice(p, identity.Incomplete)
		if !strings.Contains(p.body, missing) {
			t.Errorf("%s, want %s", p.body, missing)
		}
		if b.signedIn() {
			t.Error("somebody with an incomplete identity is signed in")
		}
	}
}

func TestRefusedConsent(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	form := b.start("/moi")
	form.Set("refus", "1")
	p := b.post(w.cfg.Issuer+"/choix", form)
	w.wantNotice(p, identity.Refused)
	if !strings.Contains(p.body, "return=/moi") || b.signedIn() {
		t.Errorf("%s", p.body)
	}
	b.mustSignIn(camille) // another time
}

// Whatever the provider says in the redirect, it is one of our codes for the person. Nothing is stored of it: whoever knocks could say it as often as they like.
func TestErrorsOfTheProvider(t *testing.T) {
	h := &holder{fail: map[string]bool{"SpendSignIn": true}}
	w := newWorld(t, func(w *world, _ *simulator.Config) { h.Store, w.cfg.Store = w.cfg.Store, h })
	for code, want := range map[string]identity.Code{
		"access_denied": identity.Refused, "consent_required": identity.Refused, "temporarily_unavailable": identity.Unavailable, "server_error": identity.Unavailable,
		"login_required": identity.Unconfirmed, "invalid_scope": identity.Untrusted, "EXEMPLE\n<script>": identity.Untrusted, "": identity.Untrusted,
	} {
		b := w.browser()
		b.start("/moi")
		state := b.last.Query().Get("state")
		p := b.get(w.portal.URL + identity.PathCallback + "?" + url.Values{"state": {state}, "error": {code}, "error_description": {"EXEMPLE"}}.Encode())
		w.wantNotice(p, want)
		if b.signedIn() {
			t.Errorf("%q signs in", code)
		}
	}
	// Nor is there a way in without a code, with two, or with another provider's answer.
	for _, q := range []url.Values{{}, {"code": {"a", "b"}}, {"code": {""}}, {"code": {strings.Repeat("a", 600)}}, {"code": {"a\n"}}, {"code": {"a"}, "iss": {"https://other.example"}}} {
		b := w.browser()
		b.start("/moi")
		q.Set("state", b.last.Query().Get("state"))
		w.wantNotice(b.get(w.portal.URL+identity.PathCallback+"?"+q.Encode()), identity.Untrusted)
	}
	if n := w.transport.count("token"); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
}

// callbackOf signs somebody in up to the callback, which it returns instead of following it.
func (b *browser) callbackOf(person int) string {
	b.w.t.Helper()
	form := b.start("/moi")
	b.stop = identity.PathCallback
	b.choose(form, person)
	b.stop = ""
	if b.last.Path != identity.PathCallback || b.last.Query().Get("code") == "" {
		b.w.t.Fatalf("no callback: %s", b.last)
	}
	return b.last.String()
}

// A callback is good in the browser that began the sign-in, once, for ten minutes.
func TestCallback(t *testing.T) {
	w := newWorld(t)
	thief := w.browser()
	stolen := thief.callbackOf(jeanBordeaux)

	t.Run("in another browser", func(t *testing.T) {
		victim := w.browser()
		w.wantNotice(victim.get(stolen), identity.Expired)
		// Nor when the victim is signing in at this moment, or has signed in.
		victim.start("/moi")
		w.wantNotice(victim.get(stolen), identity.Expired)
		if victim.signedIn() {
			t.Error("the victim is signed in as the thief")
		}
		mine := victim.mustSignIn(camille)
		w.wantNotice(victim.get(stolen), identity.Expired)
		if got := parseMe(victim.get(w.portal.URL + "/moi").body); got.account != mine.account {
			t.Error("the victim is somebody else now")
		}
	})
	t.Run("a foreign answer doesn't end a sign-in", func(t *testing.T) {
		b := w.browser()
		form := b.start("/moi")
		w.wantNotice(b.get(w.portal.URL+identity.PathCallback+"?state=x&error=access_denied"), identity.Expired)
		if p := b.choose(form, camille); p.url.Path != "/moi" {
			t.Errorf("%d %s", p.status, p.body)
		}
	})
	t.Run("state", func(t *testing.T) {
		b := w.browser()
		good, err := url.Parse(b.callbackOf(camille))
		if err != nil {
			t.Fatal(err)
		}
		for _, state := range [][]string{nil, {""}, {good.Query().Get("state") + "A"}, {good.Query().Get("state"), good.Query().Get("state")}} {
			q := good.Query()
			q["state"] = state
			w.wantNotice(b.get(w.portal.URL+identity.PathCallback+"?"+q.Encode()), identity.Expired)
		}
		if b.signedIn() {
			t.Error("signed in")
		}
	})
	t.Run("forged cookies", func(t *testing.T) {
		b := w.browser()
		to := b.callbackOf(camille)
		good := b.cookie("__Host-regard-connexion").Value
		flipped := []byte(good)
		flipped[len(flipped)/2] ^= 1
		for _, c := range []string{"", "x", good[:20], string(flipped), good + "A", w.browser().mustSignIn(camille).csrf} {
			b.put("__Host-regard-connexion", c)
			w.wantNotice(b.get(to), identity.Expired)
		}
		b.put("__Host-regard-connexion", good)
		if p := b.get(to); p.url.Path != "/moi" {
			t.Errorf("the right one: %d %s", p.status, p.body)
		}
	})
	t.Run("twice", func(t *testing.T) {
		b := w.browser()
		to := b.callbackOf(camille)
		flow := b.cookie("__Host-regard-connexion").Value
		if p := b.get(to); p.url.Path != "/moi" {
			t.Fatalf("%d %s", p.status, p.body)
		}
		before := w.transport.count("token")
		w.wantNotice(b.get(to), identity.Expired) // the cookie is gone
		other := w.browser()
		other.put("__Host-regard-connexion", flow)
		w.wantNotice(other.get(to), identity.Used)
		if n := w.transport.count("token") - before; n != 0 || other.signedIn() {
			t.Errorf("the code of a repeated callback was redeemed %d times", n)
		}
	})
	t.Run("too late", func(t *testing.T) {
		b := w.browser()
		to := b.callbackOf(camille)
		w.clock.add(10 * time.Minute)
		w.wantNotice(b.get(to), identity.Expired)
		w.theirs.add(10 * time.Minute)
		// FranceConnect's codes live for half a minute.
		to = b.callbackOf(camille)
		w.theirs.add(simulator.CodeLife)
		w.wantNotice(b.get(to), identity.Expired)
		if b.signedIn() {
			t.Error("signed in")
		}
	})
}

// Two callbacks with the same code at once: one is signed in.
func TestCallbackRace(t *testing.T) {
	w := newWorld(t)
	first := w.browser()
	to, flow := first.callbackOf(camille), ""
	flow = first.cookie("__Host-regard-connexion").Value
	done := make(chan bool, 4)
	for range cap(done) {
		b := w.browser()
		b.put("__Host-regard-connexion", flow)
		go func() {
			resp, err := b.Get(to)
			if err != nil {
				t.Error(err)
				done <- false
				return
			}
			resp.Body.Close()
			done <- resp.Request.URL.Path == "/moi"
		}()
	}
	n := 0
	for range cap(done) {
		if <-done {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d of 4 were signed in", n)
	}
}

// After signing in one comes back to a page of the portal, and nowhere else.
func TestReturn(t *testing.T) {
	w := newWorld(t)
	for back, want := range map[string]string{
		"/moi?page=2&x=%C3%A9": "/moi?page=2&x=%C3%A9", "/moi#x": "/moi", "": "/", "moi": "/", "//evil.example/": "/", "/\\evil.example": "/", "https://evil.example/": "/",
		"javascript:alert(1)": "/", "/moi\r\nSet-Cookie: a=b": "/", "/" + strings.Repeat("a", 600): "/", "/%zz": "/",
	} {
		b := w.browser()
		p := b.choose(b.start(back), jeanBordeaux)
		if got := p.url.RequestURI(); got != want || p.url.Host != strings.TrimPrefix(w.portal.URL, "https://") {
			t.Errorf("%q leads to %s", back, p.url)
		}
	}
}

// Logs, metrics and what prints a session hold nothing about anybody, whatever went wrong.
func TestNothingIsTold(t *testing.T) {
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	for _, c := range w.service.Collectors() {
		reg.MustRegister(c)
	}
	for _, p := range []int{camille, presumed, otherNIR} {
		w.browser().signIn(p)
	}
	w.alter = func(token string, claims map[string]any) {
		if token == "userinfo" {
			claims["birthplace"], claims["birthcountry"] = "EXEMPLE", "EXEMPLE"
		}
	}
	w.wantNotice(w.browser().signIn(camille), identity.Untrusted)
	w.alter = func(_ string, claims map[string]any) { claims["aud"] = "EXEMPLE" }
	w.wantNotice(w.browser().signIn(camille), identity.Untrusted)
	all, err := reg.Gather()
	if err != nil || len(all) < 2 {
		t.Fatalf("%d metrics, %v", len(all), err)
	}
	text := w.logs.String() + fmt.Sprint(all)
	if !strings.Contains(text, "somebody was not signed in") || !strings.Contains(text, "lacks birthdate") {
		t.Error("the operator isn't told")
	}
	for _, m := range markers {
		if strings.Contains(text, m) {
			t.Errorf("%q stands in\n%s", m, text)
		}
	}
}

func TestConfig(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*identity.Config){
		"no client":         func(c *identity.Config) { c.ClientID = "" },
		"no secret":         func(c *identity.Config) { c.ClientSecret = "" },
		"no store":          func(c *identity.Config) { c.Store = nil },
		"no keys":           func(c *identity.Config) { c.Ring = nil },
		"no pages":          func(c *identity.Config) { c.Show = nil },
		"level":             func(c *identity.Config) { c.Level = "eidas4" },
		"zero level":        func(c *identity.Config) { c.Level = "" },
		"issuer in clear":   func(c *identity.Config) { c.Development = false },
		"issuer elsewhere":  func(c *identity.Config) { c.Issuer = "http://provider.example" },
		"no issuer":         func(c *identity.Config) { c.Issuer = "" },
		"portal in clear":   func(c *identity.Config) { c.URL = "http://portal.example" },
		"portal with path":  func(c *identity.Config) { c.URL += "/x" },
		"scope":             func(c *identity.Config) { c.Scopes = []string{"a b"} },
		"claim of a pivot":  func(c *identity.Config) { c.Claims = map[proofType]string{"nir": "birthdate"} },
		"claim of no type":  func(c *identity.Config) { c.Claims = map[proofType]string{"pivot": "x"} },
		"negative rate":     func(c *identity.Config) { c.Rate.PerSecond = -1 },
		"rate of no burst":  func(c *identity.Config) { c.Rate.Burst = 0 },
		"negative flights":  func(c *identity.Config) { c.InFlight = -1 },
		"negative idle":     func(c *identity.Config) { c.Idle = -1 },
		"checker of others": func(c *identity.Config) { c.Checker = &checker{types: []proofType{"person"}} },
	} {
		c := w.cfg
		change(&c)
		if _, err := identity.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

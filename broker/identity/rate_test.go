package identity_test

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/simulator"
	"github.com/regard-broker/regard/broker/peer"
)

// tight is a portal with a rate that a test reaches.
func tight(t *testing.T, r peer.Rate, proxies ...string) *world {
	t.Helper()
	return newWorld(t, func(w *world, _ *simulator.Config) {
		var err error
		if w.cfg.Proxies, err = peer.ParseProxies(proxies); err != nil {
			t.Fatal(err)
		}
		w.cfg.Rate = r
	})
}

// from asks the portal without a browser, as a proxy would that says who asks.
func (w *world) from(path string, header ...string) page {
	w.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, w.portal.URL+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	client := *w.portal.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return (&browser{w: w, Client: &client}).do(r)
}

// outcomes are the sign-ins that were counted.
func (w *world) outcomes() map[string]float64 {
	w.t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(w.service.Collectors()...)
	all, err := reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range all {
		if f.GetName() != "regard_portal_sign_ins_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return out
}

// Each address begins only so many sign-ins, is told when to come back, and can.
func TestTooManySignIns(t *testing.T) {
	w := tight(t, peer.Rate{PerSecond: 0.5, Burst: 3})
	for range 3 {
		if p := w.from(identity.PathSignIn); p.status != http.StatusSeeOther {
			t.Fatalf("%d %s", p.status, p.body)
		}
	}
	asked := w.transport.count("openid-configuration")
	for _, path := range []string{identity.PathSignIn + "?retour=/moi", identity.PathCallback, identity.PathCallback + "?code=x&state=y"} {
		p := w.from(path)
		if n, err := strconv.Atoi(p.header.Get("Retry-After")); p.status != http.StatusTooManyRequests || err != nil || n < 1 || n > 3 || p.header.Get("Cache-Control") != "no-store" || p.header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %v", path, p.status, p.header)
		}
		w.wantNotice(p, identity.TooOften)
	}
	if n := w.transport.count("openid-configuration") - asked; n != 0 {
		t.Errorf("the provider was asked %d times for nobody", n)
	}
	if n := w.outcomes()["too_often"]; n != 3 {
		t.Errorf("%v were counted", n)
	}
	if strings.Contains(w.logs.String(), "too_often") {
		t.Error("who floods the portal floods the log")
	}
	w.clock.add(2 * time.Second)
	if p := w.from(identity.PathSignIn); p.status != http.StatusSeeOther {
		t.Errorf("after the wait: %d %s", p.status, p.body)
	}
}

// Without a rate there is one.
func TestRateByDefault(t *testing.T) {
	w := tight(t, peer.Rate{})
	n := 0
	for p := w.from(identity.PathSignIn); p.status == http.StatusSeeOther && n < 1000; p = w.from(identity.PathSignIn) {
		n++
	}
	if n != 60 {
		t.Errorf("%d sign-ins of one address began at one moment", n)
	}
}

// What a request says about where it comes from is believed of proxies alone.
func TestSpoofedAddress(t *testing.T) {
	const header = "X-Forwarded-For"
	spoof := func(w *world) (refused int) {
		for i := range 8 {
			if p := w.from(identity.PathSignIn, header, "198.51.100."+strconv.Itoa(i), "Forwarded", "for=198.51.100."+strconv.Itoa(i)); p.status == http.StatusTooManyRequests {
				refused++
			}
		}
		return refused
	}
	if n := spoof(tight(t, peer.Rate{PerSecond: 0.1, Burst: 3})); n != 5 {
		t.Errorf("%d of 8 were refused to somebody who pretends to be 8", n)
	}
	if n := spoof(tight(t, peer.Rate{PerSecond: 0.1, Burst: 3}, "192.0.2.0/24")); n != 5 {
		t.Errorf("%d of 8 were refused to somebody who pretends to be a proxy's 8 clients", n)
	}
	w := tight(t, peer.Rate{PerSecond: 0.1, Burst: 3}, "127.0.0.0/8", "::1")
	if n := spoof(w); n != 0 {
		t.Errorf("%d of 8 clients of a proxy were refused", n)
	}
	// What the client said itself stands before what the proxy adds.
	n := 0
	for i := range 8 {
		if p := w.from(identity.PathSignIn, header, "198.51.100.2"+strconv.Itoa(i)+", 203.0.113.9"); p.status == http.StatusTooManyRequests {
			n++
		}
	}
	if n != 5 {
		t.Errorf("%d of 8 were refused behind the proxy", n)
	}
	// A subscriber has a /64.
	n = 0
	for i := range 8 {
		if p := w.from(identity.PathSignIn, header, "2001:db8:1:2::"+strconv.Itoa(i)); p.status == http.StatusTooManyRequests {
			n++
		}
	}
	if n != 5 {
		t.Errorf("%d of 8 addresses of a /64 were refused", n)
	}
}

// Whoever invents codes has the provider asked a few times, whatever cookies they have; others sign in meanwhile.
func TestInventedCodes(t *testing.T) {
	w := tight(t, peer.Rate{PerSecond: 1, Burst: 60}, "127.0.0.0/8", "::1")
	guess := func(i int) page {
		begun := w.from(identity.PathSignIn, "X-Forwarded-For", "203.0.113.9")
		if begun.status != http.StatusSeeOther {
			return begun
		}
		to, err := url.Parse(begun.header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		c := (&http.Response{Header: begun.header}).Cookies()[0]
		q := url.Values{"code": {"invented" + strconv.Itoa(i)}, "state": {to.Query().Get("state")}}
		return w.from(identity.PathCallback+"?"+q.Encode(), "X-Forwarded-For", "203.0.113.9", "Cookie", c.Name+"="+c.Value)
	}
	var last page
	for i := range 30 {
		last = guess(i)
	}
	if n := w.transport.count("token"); n < 3 || n > 6 {
		t.Errorf("the provider was asked about %d of 30 invented codes", n)
	}
	w.wantNotice(last, identity.TooOften)
	before := w.transport.count("token")
	// Without the cookie of a sign-in nothing is asked at all.
	for i := range 10 {
		w.from(identity.PathCallback+"?code=invented&state=x", "X-Forwarded-For", "203.0.114."+strconv.Itoa(i))
	}
	if n := w.transport.count("token") - before; n != 0 {
		t.Errorf("the provider was asked %d times without a sign-in", n)
	}
	w.browser().mustSignIn(camille)
	// The debt is paid by waiting.
	w.clock.add(time.Minute)
	w.theirs.add(time.Minute)
	if p := w.from(identity.PathSignIn, "X-Forwarded-For", "203.0.113.9"); p.status != http.StatusSeeOther {
		t.Errorf("a minute later: %d %s", p.status, p.body)
	}
}

// A provider that is down costs nobody more than the request.
func TestFailuresOfOthersCostNothing(t *testing.T) {
	w := tight(t, peer.Rate{PerSecond: 0.001, Burst: 9})
	w.transport.set(func(path string, r *http.Request) (*http.Response, error) {
		if path == "token" {
			return nil, io.ErrUnexpectedEOF
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	for range 3 {
		w.wantNotice(w.browser().signIn(camille), identity.Unavailable)
	}
	w.transport.set(nil)
	w.browser().mustSignIn(camille)
}

// Only so many sign-ins wait for the provider at once, and their places are given back.
func TestInFlight(t *testing.T) {
	w := newWorld(t, func(w *world, _ *simulator.Config) { w.cfg.InFlight, w.cfg.Timeout = 2, 5*time.Minute })
	w.browser().mustSignIn(jeanBordeaux)
	arrived, release := make(chan struct{}), make(chan struct{})
	w.transport.set(func(path string, r *http.Request) (*http.Response, error) {
		if path == "token" {
			arrived <- struct{}{}
			<-release
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	done := make(chan error)
	for _, person := range []int{camille, jeanStrasbourg} {
		b := w.browser()
		to := b.callbackOf(person)
		go func() {
			resp, err := b.Get(to)
			if err == nil {
				resp.Body.Close()
			}
			done <- err
		}()
		<-arrived
	}
	p := w.from(identity.PathSignIn)
	w.wantNotice(p, identity.Unavailable)
	if p.header.Get("Retry-After") == "" {
		t.Error("nobody says when to come back")
	}
	close(release)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	w.transport.set(nil)
	w.browser().mustSignIn(amina)
}

// While the discovery document can't be had, not everybody who comes waits for the same failure.
func TestDiscoveryIsNotAskedForAtOnce(t *testing.T) {
	w := newWorld(t)
	const doc = "openid-configuration"
	down := func(path string, r *http.Request) (*http.Response, error) {
		if path == doc {
			return nil, io.ErrUnexpectedEOF
		}
		return http.DefaultTransport.RoundTrip(r)
	}
	w.transport.set(down)
	for range 5 {
		w.wantNotice(w.from(identity.PathSignIn), identity.Unavailable)
	}
	if n := w.transport.count(doc); n != 1 {
		t.Errorf("asked for %d times at one moment", n)
	}
	w.transport.set(nil)
	w.clock.add(5 * time.Second)
	w.theirs.add(5 * time.Second)
	w.browser().mustSignIn(camille)
	// An old one does until then.
	w.clock.add(2 * time.Hour)
	w.theirs.add(2 * time.Hour)
	w.transport.set(down)
	before := w.transport.count(doc)
	w.browser().mustSignIn(camille)
	w.browser().mustSignIn(amina)
	if n := w.transport.count(doc) - before; n != 1 {
		t.Errorf("renewed %d times at one moment", n)
	}
}

// The machines of one portal have clocks that differ.
func TestClocksOfOnePortal(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	form := b.start("/moi")
	w.clock.add(-30 * time.Second)
	if p := b.choose(form, camille); p.url.Path != "/moi" {
		t.Errorf("%d %s\n%s", p.status, p.body, w.logs)
	}
	b = w.browser()
	form = b.start("/moi")
	w.clock.add(-2 * time.Minute)
	w.wantNotice(b.choose(form, camille), identity.Expired)
}

// Whoever closes the browser when they sign out is signed out.
func TestSignOutAndLeave(t *testing.T) {
	for _, form := range []url.Values{{}, {"partout": {"1"}}} {
		w := newWorld(t)
		b := w.browser()
		form.Set("csrf", b.mustSignIn(camille).csrf)
		ctx, leave := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.portal.URL+identity.PathSignOut, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.AddCookie(b.cookie(cookieSession))
		mux := http.NewServeMux()
		w.service.Routes(mux)
		w.service.Middleware(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			leave()
			mux.ServeHTTP(rw, r)
		})).ServeHTTP(discard{http.Header{}}, r)
		if b.signedIn() {
			t.Errorf("still signed in: %v", form)
		}
	}
}

// A token that was issued to another party isn't ours.
func TestAuthorizedParty(t *testing.T) {
	for _, x := range []struct {
		party any
		ok    bool
	}{{"regard", true}, {"other", false}, {7, false}} {
		w := newWorld(t)
		w.alter = func(_ string, c map[string]any) { c["azp"] = x.party }
		p := w.browser().signIn(camille)
		if x.ok != (p.url.Path == "/moi") {
			t.Errorf("%v: %d %s", x.party, p.status, p.body)
		}
		if !x.ok {
			w.wantNotice(p, identity.Untrusted)
		}
	}
}

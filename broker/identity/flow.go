package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
)

// A sign-in under way is kept by the browser that began it, sealed, and nowhere else: whoever knocks leaves nothing in the store. Only one that comes back is remembered, so that it does so once.

const (
	cookieSignIn  = "__Host-regard-connexion"
	cookieSignOut = "__Host-regard-deconnexion"
	// flowLife is how long the person may take at the provider.
	flowLife = 10 * time.Minute
	// freshFor is how long somebody who signed in counts as having done so just now.
	freshFor = 5 * time.Minute
	maxPath  = 512
	// guessCosts is what a code that the provider doesn't take counts beside the callback itself: each is a request that it answers for us.
	guessCosts = 10
)

// flow is a sign-in under way. state, nonce and PKCE verifier follow from its seed.
type flow struct {
	seed     secret
	began    time.Time
	back     string     // where to go afterwards
	account  keys.Owner // who has to confirm that it is them; zero: anybody may sign in
	language string
}

// again reports whether somebody has to sign in although they are.
func (f *flow) again() bool { return !f.account.IsZero() }

type flowJSON struct {
	Seed     []byte `json:"s"`
	Began    int64  `json:"t"`
	Back     string `json:"b"`
	Account  []byte `json:"a,omitempty"`
	Language string `json:"l"`
}

func (s *Service) sealFlow(f *flow) (string, error) {
	j := flowJSON{Seed: f.seed[:], Began: f.began.UnixMilli(), Back: f.back, Language: f.language}
	if f.again() {
		j.Account = f.account[:]
	}
	b, err := json.Marshal(j)
	if err != nil {
		return "", err
	}
	sealed, err := seal(s.cookies[:], []byte(cookieSignIn), b)
	return base64.RawURLEncoding.EncodeToString(sealed), err
}

// openFlow returns the sign-in that this browser began and has not completed in too long a time.
func (s *Service) openFlow(r *http.Request) (*flow, bool) {
	c, ok := single(r, cookieSignIn)
	if !ok {
		return nil, false
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(c)
	if err != nil {
		return nil, false
	}
	b, err := unseal(s.cookies[:], []byte(cookieSignIn), sealed)
	if err != nil {
		return nil, false
	}
	var j flowJSON
	if json.Unmarshal(b, &j) != nil {
		return nil, false
	}
	f := &flow{began: time.UnixMilli(j.Began).UTC(), back: localPath(j.Back), language: j.Language}
	copy(f.seed[:], j.Seed)
	copy(f.account[:], j.Account)
	// The portal has several machines, and their clocks differ.
	age := s.now().Sub(f.began)
	return f, age > -skew && age < flowLife
}

// single returns a cookie that the browser sends once. Of two with one name, another host's may come first.
func single(r *http.Request, name string) (string, bool) {
	c := r.CookiesNamed(name)
	if len(c) != 1 {
		return "", false
	}
	return c[0].Value, true
}

// setCookie sets a cookie of this host alone, over TLS alone, for no script, and for no request that another site makes but links to us.
func setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(life / time.Second), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

func dropCookie(w http.ResponseWriter, name string) {
	http.SetCookie(w, &http.Cookie{Name: name, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// localPath returns a path of this portal, with its query, and "/" for anything else: nobody is sent elsewhere after signing in.
func localPath(text string) string {
	u, err := url.Parse(text)
	if err != nil || len(text) > maxPath || u.Scheme != "" || u.Host != "" || u.Opaque != "" || u.User != nil ||
		!strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//") || strings.ContainsFunc(text, func(r rune) bool { return r < 0x21 || r > 0x7e || r == '\\' }) {
		return "/"
	}
	// As it was sent: written anew, %2f could come out as a slash.
	path, _, _ := strings.Cut(text, "#")
	return path
}

// signIn sends the browser to the provider.
func (s *Service) signIn(w http.ResponseWriter, r *http.Request) {
	s.begin(w, r, localPath(r.URL.Query().Get("retour")), keys.Owner{})
}

func (s *Service) begin(w http.ResponseWriter, r *http.Request, back string, account keys.Owner) {
	f := &flow{seed: newSecret(), began: s.now(), back: back, account: account, language: s.cfg.Language(r)}
	if err := s.admit(r); err != nil {
		s.fail(w, r, f, err)
		return
	}
	ctx, leave, err := s.provider.enter(r.Context())
	if err != nil {
		s.fail(w, r, f, err)
		return
	}
	defer leave()
	d, err := s.provider.discoverAny(ctx)
	if err != nil {
		s.fail(w, r, f, err)
		return
	}
	sealed, err := s.sealFlow(f)
	if err != nil {
		s.fail(w, r, f, err)
		return
	}
	setCookie(w, cookieSignIn, sealed, flowLife)
	redirect(w, d.authorize(f, s.cfg.Level))
}

// admit counts a request of sign-ins, or refuses it.
func (s *Service) admit(r *http.Request) error {
	wait, ok := s.peers.Take(s.cfg.Proxies.Network(r), s.now())
	if ok {
		return nil
	}
	f := failed(TooOften, "too many sign-ins from one address", nil)
	f.notice.RetryAfter = wait
	return f
}

// redirect sends the browser on with GET, and keeps our addresses from the place where it goes.
func redirect(w http.ResponseWriter, to string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// fail is the one exit of sign-ins that came to nothing: the operator reads the cause, the person what to do.
func (s *Service) fail(w http.ResponseWriter, r *http.Request, f *flow, err error) {
	var x *failure
	if !errors.As(err, &x) {
		x = failed(Unavailable, "signing somebody in", err)
	}
	s.metrics.signIns.WithLabelValues(string(x.notice.Code)).Inc()
	level := slog.LevelInfo
	switch x.notice.Code {
	case Unavailable, Untrusted:
		level = slog.LevelError
	case TooOften: // counted; whoever floods the portal isn't to flood the log
		level = slog.LevelDebug
	}
	s.log.Log(r.Context(), level, "somebody was not signed in", "code", x.notice.Code, "cause", x.Error())
	n := x.notice
	if f != nil {
		n.Return = f.back
	}
	s.show(w, r, n)
}

// callback is where the provider sends the browser back to.
func (s *Service) callback(w http.ResponseWriter, r *http.Request) {
	f, ok := s.openFlow(r)
	if err := s.admit(r); err != nil {
		s.fail(w, r, f, err)
		return
	}
	if !ok {
		s.fail(w, r, f, failed(Expired, "no sign-in is under way in this browser", nil))
		return
	}
	q := r.URL.Query()
	state := f.seed.text("state")
	if len(q["state"]) != 1 || !equal(q.Get("state"), state) {
		// The cookie stays: else any site could end a sign-in that is under way.
		s.fail(w, r, f, failed(Expired, "the answer belongs to another sign-in (state)", nil))
		return
	}
	dropCookie(w, cookieSignIn)
	in, err := s.complete(r, f, q)
	if err != nil {
		if x := (*failure)(nil); errors.As(err, &x) && x.guess {
			s.peers.Charge(s.cfg.Proxies.Network(r), guessCosts, s.now())
		}
		s.fail(w, r, f, err)
		return
	}
	if err := s.open(w, r, f, in); err != nil {
		s.fail(w, r, f, err)
		return
	}
	s.metrics.signIns.WithLabelValues("signed_in").Inc()
	redirect(w, f.back)
}

// complete finds out who signed in.
func (s *Service) complete(r *http.Request, f *flow, q url.Values) (*signedIn, error) {
	ctx, leave, err := s.provider.enter(r.Context())
	if err != nil {
		return nil, err
	}
	defer leave()
	// RFC 9207: who answers, if it is said.
	if iss := q["iss"]; len(iss) > 1 || len(iss) == 1 && iss[0] != s.cfg.Issuer {
		return nil, failed(Untrusted, "the answer is another provider's (iss)", nil)
	}
	if e := q["error"]; len(e) > 0 {
		switch code := e[0]; {
		case code == "access_denied", code == "consent_required":
			return nil, failed(Refused, "the person didn't agree", nil)
		case code == "temporarily_unavailable", code == "server_error":
			return nil, failed(Unavailable, "the provider says "+code, nil)
		case code == "login_required", code == "interaction_required":
			return nil, failed(Unconfirmed, "the provider says "+code, nil)
		case !isToken(code):
			return nil, failed(Untrusted, "the provider answers with an error without a code", nil)
		default:
			return nil, failed(Untrusted, "the provider refuses the request: "+code, nil)
		}
	}
	code := q["code"]
	if len(code) != 1 || len(code[0]) > maxPath || code[0] == "" || strings.ContainsFunc(code[0], func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return nil, failed(Untrusted, "the provider's answer holds no code", nil)
	}
	// Before anything is asked, and not before there is something to ask, for anybody can say that a sign-in failed: the code of a repeated callback isn't redeemed, and nothing else can come of it.
	switch err := s.cfg.Store.SpendSignIn(ctx, sha256.Sum256([]byte(f.seed.text("state"))), f.began.Add(flowLife)); {
	case errors.Is(err, store.ErrExists):
		return nil, failed(Used, "the sign-in came back twice", nil)
	case err != nil:
		return nil, failed(Unavailable, "remembering that a sign-in came back", err)
	}
	return s.provider.redeem(ctx, f, code[0])
}

// signOut ends the session here, or all of the person's, and sends the browser to the provider, so that the next person at this machine isn't signed in with a click.
func (s *Service) signOut(w http.ResponseWriter, r *http.Request) {
	sess, ok := From(r.Context())
	dropCookie(w, cookieSession)
	dropCookie(w, cookieSignIn)
	if !ok {
		s.show(w, r, Notice{Code: SignedOutHere})
		return
	}
	// Whoever closes the browser at once wants it all the more.
	ctx := context.WithoutCancel(r.Context())
	var err error
	if r.PostFormValue("partout") != "" {
		_, err = s.cfg.Store.EndSessions(ctx, sess.Account)
	} else {
		err = s.cfg.Store.EndSession(ctx, sess.id)
	}
	if err != nil {
		// The session ends by itself, but the person must not believe that it has.
		s.log.Error("a session can't be ended", "error", err)
		s.show(w, r, Notice{Code: Unavailable})
		return
	}
	seed := newSecret()
	to, ok := s.provider.logout(r.Context(), sess.idToken, seed.text("state"))
	if !ok {
		s.show(w, r, Notice{Code: SignedOutHere})
		return
	}
	setCookie(w, cookieSignOut, encode(seed[:]), flowLife)
	redirect(w, to)
}

// signedOut is where the provider sends the browser back to.
func (s *Service) signedOut(w http.ResponseWriter, r *http.Request) {
	dropCookie(w, cookieSignOut)
	c, _ := single(r, cookieSignOut)
	seed, ok := parseSecret(c)
	if q := r.URL.Query()["state"]; !ok || len(q) != 1 || !equal(q[0], seed.text("state")) {
		s.show(w, r, Notice{Code: SignedOutHere})
		return
	}
	s.show(w, r, Notice{Code: SignedOut})
}

package identity

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

const (
	cookieSession = "__Host-regard"
	// maxForm bounds the forms that people send.
	maxForm = 64 << 10
)

// Names are a person's, as the provider spells them: for display.
type Names struct {
	Given, Family string
	Used          string // the name in use; empty if it is the family name
}

// An Attached identifier of a person.
type Attached struct {
	Subject proof.Subject
	Proven  string // "claim": by the sign-in; "check": by the body that holds it
	At      time.Time
}

// A Session is a person who has signed in. It redacts itself.
type Session struct {
	// Account is the keyed pseudonym of the person's pivot identity: the same for whoever signs in with that identity, whichever way.
	Account keys.Owner
	Names   Names
	// Subjects are all identifiers under which the person is known here: pivot, person, then the attached ones.
	Subjects []proof.Subject
	Attached []Attached
	// Unattached are types of identifiers that the sign-in stated and that could not be attached: another account has them, or they have no valid form.
	Unattached []proof.SubjectType
	Level      Level
	SignedIn   time.Time
	// AuthTime is when the person showed to the provider who they are; zero if the provider doesn't say.
	AuthTime time.Time
	Language string
	// Ends is when the session ends by itself however much it is used.
	Ends time.Time

	pivot   proof.Pivot
	id      [32]byte
	forms   FormKey
	idToken string
}

// Forms makes the tokens that each form of this session has to send back, as the value named csrf.
func (s *Session) Forms() *FormKey { return &s.forms }

// Pivot is the person's identity.
func (s *Session) Pivot() proof.Pivot { return s.pivot }

// String shows nothing.
func (s *Session) String() string { return "session:[redacted]" }

// Format implements fmt.Formatter: every verb shows nothing.
func (s *Session) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue implements slog.LogValuer: it shows nothing.
func (s *Session) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON refuses.
func (s *Session) MarshalJSON() ([]byte, error) {
	return nil, errors.New("identity: a session is not serialised")
}

// sessionJSON is what is sealed. The pivot is kept in the provider's spelling: subjects follow from it.
type sessionJSON struct {
	Pivot      [6]string           `json:"p"`
	Used       string              `json:"u,omitempty"`
	Unattached []proof.SubjectType `json:"x,omitempty"`
	Level      Level               `json:"l"`
	AuthTime   int64               `json:"a,omitempty"`
	Language   string              `json:"g"`
	IDToken    string              `json:"i"`
}

// session is who is in it.
func (j *sessionJSON) session(account keys.Owner, signedIn time.Time) *Session {
	out := &Session{
		Account: account, Unattached: j.Unattached, Level: j.Level, SignedIn: signedIn, Language: j.Language,
		Names:   Names{Given: j.Pivot[1], Family: j.Pivot[0], Used: j.Used},
		pivot:   proof.Pivot{BirthName: j.Pivot[0], GivenNames: j.Pivot[1], BirthDate: j.Pivot[2], Sex: j.Pivot[3], BirthPlace: j.Pivot[4], BirthCountry: j.Pivot[5]},
		idToken: j.IDToken,
	}
	if j.AuthTime != 0 {
		out.AuthTime = time.Unix(j.AuthTime, 0).UTC()
	}
	return out
}

// sealed under a key that only the token yields, for this session of this account.
func sessionAD(id [32]byte, account keys.Owner) []byte {
	return append(append([]byte("session"), id[:]...), account[:]...)
}

// open begins the session of somebody who signed in, under a new token; whatever session the browser had is over.
func (s *Service) open(w http.ResponseWriter, r *http.Request, f *flow, in *signedIn) error {
	ctx := r.Context()
	pivot, err := in.pivot.Subject()
	if err != nil {
		return failed(Untrusted, "the pivot identity", err)
	}
	account, err := s.cfg.Ring.Owner(pivot)
	if err != nil {
		return failed(Unavailable, "finding the account", err)
	}
	var replaces [32]byte
	if c, ok := single(r, cookieSession); ok {
		if old, ok := parseSecret(c); ok {
			replaces = sha256.Sum256(old[:])
		}
	}
	if f.again() && f.account != account {
		dropCookie(w, cookieSession)
		if err := s.cfg.Store.EndSession(ctx, replaces); err != nil {
			return failed(Unavailable, "ending a session", err)
		}
		return failed(OtherPerson, "somebody else than who was signed in confirmed who they are", nil)
	}
	j := sessionJSON{
		Pivot: [6]string{in.pivot.BirthName, in.pivot.GivenNames, in.pivot.BirthDate, in.pivot.Sex, in.pivot.BirthPlace, in.pivot.BirthCountry},
		Used:  in.used, Level: in.level, Language: f.language, IDToken: in.idToken,
	}
	if !in.authTime.IsZero() {
		j.AuthTime = in.authTime.Unix()
	}
	if j.Unattached, err = s.attachClaims(ctx, account, in); err != nil {
		return failed(Unavailable, "attaching what the sign-in states", err)
	}
	now := s.now()
	if err := s.announce(ctx, j.session(account, now)); err != nil {
		return err
	}
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	token := newSecret()
	row := store.Session{ID: sha256.Sum256(token[:]), Account: account, Created: now, Seen: now, Until: now.Add(min(s.cfg.Idle, s.cfg.Absolute))}
	if row.Sealed, err = seal(token.derive("session"), sessionAD(row.ID, account), b); err != nil {
		return err
	}
	if err := s.cfg.Store.BeginSession(ctx, &row, replaces); err != nil {
		return failed(Unavailable, "beginning a session", err)
	}
	// Without a time: it ends with the browser, and here long before.
	setCookie(w, cookieSession, encode(token[:]), 0)
	return nil
}

// announce tells of somebody who has signed in.
func (s *Service) announce(ctx context.Context, sess *Session) error {
	if s.cfg.SignedIn == nil {
		return nil
	}
	if err := s.subjects(ctx, sess); err != nil {
		return failed(Unavailable, "finding the identifiers of somebody who signs in", err)
	}
	if err := s.cfg.SignedIn(ctx, sess); err != nil {
		return failed(Unavailable, "telling of a sign-in", err)
	}
	return nil
}

// errNoSession: the browser has no session, or none that still stands.
var errNoSession = errors.New("identity: no session")

// load finds the session of a request and notes that it is used.
func (s *Service) load(r *http.Request) (*Session, error) {
	c, ok := single(r, cookieSession)
	if !ok {
		return nil, errNoSession
	}
	token, ok := parseSecret(c)
	if !ok {
		return nil, errNoSession
	}
	ctx := r.Context()
	row, err := s.cfg.Store.Session(ctx, sha256.Sum256(token[:]))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, errNoSession
	case err != nil:
		return nil, fmt.Errorf("reading a session: %w", err)
	}
	now, ends := s.now(), row.Created.Add(s.cfg.Absolute)
	// A session from the future is of a clock that was put back: nobody can say how old it is.
	if !now.Before(row.Until) || !now.Before(ends) || row.Created.After(now.Add(skew)) {
		return nil, errNoSession
	}
	b, err := unseal(token.derive("session"), sessionAD(row.ID, row.Account), row.Sealed)
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	var j sessionJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, errSeal
	}
	out := j.session(row.Account, row.Created)
	out.Ends, out.id, out.forms = ends, row.ID, FormKey(token.derive("csrf"))
	if err := s.subjects(ctx, out); err != nil {
		return nil, err
	}
	// Not for every request: it is a write.
	if now.Sub(row.Seen) >= s.cfg.Idle/15 {
		if err := s.cfg.Store.TouchSession(ctx, row.ID, now, earlier(now.Add(s.cfg.Idle), ends)); err != nil {
			s.log.Warn("a session can't be prolonged: it ends early", "error", err)
		}
	}
	return out, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

type contextKey struct{}

// From returns the session of a request that came through Middleware.
func From(ctx context.Context) (*Session, bool) {
	s, ok := ctx.Value(contextKey{}).(*Session)
	return s, ok
}

// Middleware gives every request its session, if it has one, and refuses requests that change something and come from another site, or from a form that isn't this session's. No answer to
// somebody who has signed in is kept by a cache, unless next says otherwise.
func (s *Service) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		safe := slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, r.Method)
		if err := s.cross.Check(r); err != nil {
			s.refuse(w, r, "it comes from another site")
			return
		}
		sess, err := s.load(r)
		switch {
		case errors.Is(err, errNoSession):
			w.Header().Add("Vary", "Cookie")
		case err != nil:
			s.log.Error("somebody's session can't be read", "error", err)
			s.show(w, r, Notice{Code: Unavailable, Return: returnTo(r)})
			return
		default:
			w.Header().Set("Cache-Control", "no-store")
			r = r.WithContext(context.WithValue(r.Context(), contextKey{}, sess))
		}
		if !safe {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			if sess != nil && !sess.forms.Made(formToken(r)) {
				s.refuse(w, r, "it lacks the token of this session")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// formToken is what a form, or a script of ours, sends to show that it is this session's.
func formToken(r *http.Request) string {
	if t := r.Header.Get("X-Csrf-Token"); t != "" {
		return t
	}
	return r.PostFormValue("csrf")
}

func (s *Service) refuse(w http.ResponseWriter, r *http.Request, why string) {
	s.metrics.forged.Inc()
	s.log.Warn("a request was refused", "why", why)
	s.show(w, r, Notice{Code: Forged})
}

// Begin is the path at which a sign-in begins that comes back to a path of the portal.
func (s *Service) Begin(back string) string {
	return s.cfg.Page + "?retour=" + url.QueryEscape(localPath(back))
}

// Require lets through who has signed in. Others are sent to sign in and come back, unless they send something: that isn't done.
func (s *Service) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := From(r.Context()); ok {
			next.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s.show(w, r, Notice{Code: Ended, Return: r.URL.EscapedPath()})
			return
		}
		redirect(w, s.Begin(returnTo(r)))
	})
}

// Fresh lets through who showed who they are within the last five minutes. Others are sent to the provider to do so, and come back; what they send isn't done, so the page with the form should be behind
// Fresh, too.
func (s *Service) Fresh(next http.Handler) http.Handler {
	return s.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, _ := From(r.Context())
		if age := s.now().Sub(sess.AuthTime); age < freshFor && age > -skew {
			next.ServeHTTP(w, r)
			return
		}
		s.begin(w, r, returnTo(r), sess.Account)
	}))
}

// returnTo is where somebody comes back to: the page that they asked for, or the one with the form that they sent.
func returnTo(r *http.Request) string {
	if r.Method == http.MethodGet && strings.HasPrefix(r.URL.RequestURI(), "/") {
		return localPath(r.URL.RequestURI())
	}
	return localPath(r.URL.EscapedPath())
}

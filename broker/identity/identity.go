// Package identity signs citizens in with FranceConnect, keeps their sessions, and says under which identifiers each of them is known.
//
// What it guarantees. A session begins only with an identity that the provider signed for this client, in answer to a sign-in that this very browser began less than ten minutes ago, at the
// level that is asked for or above, once. A person is their pivot identity, complete and in canonical form: who has the same names and another birth place is somebody else. An identifier
// is attached to an account only by a claim that the provider signed or by the word of the body that holds it. The store alone gives nobody a session and names nobody: it has the hash of a
// session's token, and what the session holds is sealed under a key that only the token yields; attached identifiers are sealed under the person's keys and go with them at an erasure.
// When the provider, the store or the keys fail, nobody is signed in.
//
// What it doesn't. The provider is trusted to know who somebody is, and whoever has the browser's cookie has the session, until it ends. Two people with the same pivot identity (same
// names, day, place and sex: twins who were named alike) are one. Whoever knows an identifier and bears its holder's names and birth date may attach it where the holder states nothing more.
package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker/peer"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// A Store keeps sessions and attached identifiers; *store.Store satisfies it. All methods may be called concurrently; a write that returned nil is durable.
type Store interface {
	// SpendSignIn remembers until a time that a sign-in came back; store.ErrExists (wrapped) if it did before.
	SpendSignIn(ctx context.Context, id [32]byte, until time.Time) error
	// BeginSession stores a session and ends the one that it replaces, if there is one.
	BeginSession(ctx context.Context, in *store.Session, replaces [32]byte) error
	// Session finds a session, ended by time or not; store.ErrNotFound if there is none.
	Session(ctx context.Context, id [32]byte) (store.Session, error)
	// TouchSession sets Seen and Until of a session that is still there.
	TouchSession(ctx context.Context, id [32]byte, seen, until time.Time) error
	// EndSession and EndSessions end one, or all of an account.
	EndSession(ctx context.Context, id [32]byte) error
	EndSessions(ctx context.Context, account keys.Owner) (int64, error)
	// AttachIdentifier fails with store.ErrTaken, store.ErrTooMany or keys.ErrNoKey, and writes nothing then.
	AttachIdentifier(ctx context.Context, in *store.NewIdentifier) error
	Identifiers(ctx context.Context, account keys.Owner) ([]store.Identifier, error)
	// DetachIdentifier fails with store.ErrNotFound if the account doesn't have it. It undoes in one transaction what the account has asked to erase under it.
	DetachIdentifier(ctx context.Context, account, owner keys.Owner, now time.Time) error
	// CountCheck counts a check of an identifier; store.ErrTooMany, and it isn't counted, if the account has had limit of them since a time.
	CountCheck(ctx context.Context, account keys.Owner, at, since time.Time, limit int) error
}

// A Checker asks the body that holds an identifier whether it is a person's. Each check is a disclosure and stands in the history of whomever the identifier belongs to.
// An error says that nobody knows: nothing is attached then.
type Checker interface {
	// Checks says which types it can check.
	Checks() []proof.SubjectType
	Check(ctx context.Context, person proof.Pivot, id proof.Subject) (bool, error)
}

// Config of a Service. Issuer, ClientID, ClientSecret, URL, Level, Store, Ring and Show are mandatory.
type Config struct {
	// Issuer is the provider's identifier, from which its discovery document follows: https://…, in Development also http:// on this machine.
	Issuer       string
	ClientID     string
	ClientSecret string
	// URL is the portal's own, scheme and host alone. The provider has to know URL + PathCallback and URL + PathSignedOut.
	URL string
	// Level is what is asked for; a lower one is refused.
	Level Level
	// Scopes are asked for beside openid; nil: identite_pivot and preferred_username.
	Scopes []string
	// Claims names those that carry further identifiers, by type. They have to be among what the scopes give.
	Claims map[proof.SubjectType]string
	// NoPKCE leaves it out although the provider's discovery lists it: for one that lists it and refuses the parameters.
	NoPKCE bool
	// Checker checks identifiers that people attach by hand; nil: none can be.
	Checker Checker
	// Idle and Absolute bound a session: 15 minutes without use and 8 hours in all by default.
	Idle, Absolute time.Duration
	// Timeout bounds all that one sign-in asks of the provider; 0 means 10 seconds.
	Timeout time.Duration
	// Rate bounds how often one network (see package peer) begins a sign-in or comes back from one, each counting once, and a code that the provider doesn't take ten times more. Zero: 2 a second, 60 at once, for many people may share an address.
	Rate peer.Rate
	// Proxies are believed when they say from where a request comes.
	Proxies peer.Proxies
	// InFlight bounds the sign-ins that wait for the provider at once; 0 means 64. Further ones are Unavailable.
	InFlight int
	// Development allows an issuer without TLS on this machine.
	Development bool
	// Proxy through which the provider is reached; nil: none, whatever the environment says. Transport replaces how it is called altogether: for tests.
	Proxy     *url.URL
	Transport http.RoundTripper
	Store     Store
	Ring      *keys.Ring
	// Page is the path of the page from which people sign in, by a link to PathSignIn; it gets retour, to hand on. Empty: they are sent to the provider at once.
	Page string
	// Show shows a page about what happened. It is called with nothing written yet but headers, and writes Notice.Status.
	Show func(http.ResponseWriter, *http.Request, *Notice)
	// SignedIn is told of each sign-in before its session begins; after an error nobody is signed in (Unavailable). Nil: nobody is told.
	SignedIn func(context.Context, *Session) error
	// Language says in which language a browser reads; nil: always "fr". It is kept in the session.
	Language func(*http.Request) string
	// Now is the clock; nil: time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Paths of the handlers that Routes registers.
const (
	PathSignIn    = "/connexion/franceconnect" // GET, with retour: where to go afterwards
	PathCallback  = "/connexion/retour"        // GET
	PathSignOut   = "/deconnexion"             // POST, with partout=1: all sessions of the person
	PathSignedOut = "/deconnexion/retour"      // GET
)

// Level of assurance (règlement d'exécution (UE) 2015/1502), as FranceConnect names it.
type Level string

// The levels: low, substantial, high.
const (
	Low         Level = "eidas1"
	Substantial Level = "eidas2"
	High        Level = "eidas3"
)

var levels = []Level{Low, Substantial, High}

// reaches reports whether l is a known level, and at least the wanted one.
func (l Level) reaches(wanted Level) bool {
	at := slices.Index(levels, l)
	return at >= 0 && at >= slices.Index(levels, wanted)
}

// Known reports whether l is one of the levels.
func (l Level) Known() bool { return slices.Contains(levels, l) }

// A Service signs people in. It is safe for concurrent use.
type Service struct {
	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	provider *provider
	cookies  [32]byte // key of the cookies of sign-ins and sign-outs
	cross    *http.CrossOriginProtection
	peers    *peer.Limiter
	metrics  *metrics
}

// New checks the configuration. It asks the provider nothing: one that is down keeps nobody from starting.
func New(cfg Config) (*Service, error) {
	if cfg.ClientID == "" || cfg.ClientSecret == "" || cfg.Store == nil || cfg.Ring == nil || cfg.Show == nil {
		return nil, errors.New("identity: ClientID, ClientSecret, Store, Ring and Show must be given")
	}
	if !cfg.Level.Known() {
		return nil, errors.New("identity: the level must be eidas1, eidas2 or eidas3")
	}
	if err := checkURL(cfg.Issuer, cfg.Development); err != nil {
		return nil, fmt.Errorf("identity: the issuer %w", err)
	}
	own, err := url.Parse(cfg.URL)
	if err != nil || own.Host == "" || own.Path != "" || own.RawQuery != "" || own.User != nil || own.Scheme != "https" && !(cfg.Development && own.Scheme == "http" && loopback(own.Hostname())) {
		return nil, errors.New("identity: the portal's URL must be https:// and a host alone")
	}
	for typ, name := range cfg.Claims {
		if !slices.Contains(attachable, typ) || !isToken(name) || slices.Contains(pivotClaims, name) {
			return nil, fmt.Errorf("identity: claims: %q can't carry an identifier of type %q", name, typ)
		}
	}
	if cfg.Checker != nil {
		for _, typ := range cfg.Checker.Checks() {
			if !slices.Contains(attachable, typ) {
				return nil, fmt.Errorf("identity: identifiers of type %q can't be attached", typ)
			}
		}
	}
	if cfg.Scopes == nil {
		cfg.Scopes = []string{"identite_pivot", "preferred_username"}
	}
	for _, s := range cfg.Scopes {
		if !isToken(s) {
			return nil, errors.New("identity: a scope has a character that scopes don't have")
		}
	}
	for _, d := range []struct {
		at       *time.Duration
		standard time.Duration
	}{{&cfg.Idle, 15 * time.Minute}, {&cfg.Absolute, 8 * time.Hour}, {&cfg.Timeout, 10 * time.Second}} {
		if *d.at == 0 {
			*d.at = d.standard
		}
		if *d.at < 0 {
			return nil, errors.New("identity: Idle, Absolute and Timeout can't be negative")
		}
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 64
	}
	if cfg.InFlight < 0 {
		return nil, errors.New("identity: InFlight can't be negative")
	}
	if cfg.Rate == (peer.Rate{}) {
		cfg.Rate = peer.Rate{PerSecond: 2, Burst: 60}
	}
	peers, err := peer.NewLimiter(cfg.Rate)
	if err != nil {
		return nil, fmt.Errorf("identity: Rate: %w", err)
	}
	if cfg.Page == "" {
		cfg.Page = PathSignIn
	}
	if cfg.Language == nil {
		cfg.Language = func(*http.Request) string { return "fr" }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, log: cfg.Logger, now: cfg.Now, peers: peers, metrics: newMetrics(), cross: http.NewCrossOriginProtection()}
	if s.cookies, err = cfg.Ring.Digest("identity/cookies/v1", nil); err != nil {
		return nil, fmt.Errorf("identity: making the key of cookies: %w", err)
	}
	if err := s.cross.AddTrustedOrigin(cfg.URL); err != nil {
		return nil, fmt.Errorf("identity: the portal's URL: %w", err)
	}
	s.provider = newProvider(&s.cfg)
	return s, nil
}

// Routes registers the handlers of sign-in and sign-out. They have to be served behind Middleware.
func (s *Service) Routes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+PathSignIn, s.signIn)
	mux.HandleFunc("GET "+PathCallback, s.callback)
	mux.HandleFunc("POST "+PathSignOut, s.signOut)
	mux.HandleFunc("GET "+PathSignedOut, s.signedOut)
}

// checkURL accepts https://, and in development http:// on this machine.
func checkURL(text string, development bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Opaque != "":
		return errors.New("is not a URL")
	case u.Scheme == "https":
	case u.Scheme == "http" && development && loopback(u.Hostname()):
	default:
		return errors.New("must be https://")
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// isToken reports whether s may stand in a list of scopes, or be an error code (RFC 6749, appendix A.4 and A.7; without spaces).
func isToken(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x21 || r > 0x7e || r == '"' || r == '\\' })
}

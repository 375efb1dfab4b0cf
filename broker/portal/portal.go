// Package portal is the website on which people see who asked for their data, and have it checked in their own browser.
//
// What it guarantees. A page of somebody's history is shown to whoever is signed in as that person and to nobody else; an entry of another person has the same answer as one that doesn't exist. Everything that comes from a record, a
// registry or a request is shown as text, isolated from the direction and the markup around it. Pages load nothing from elsewhere, hold no inline code, and are stored by no cache. Everything but the check in the browser works without scripts.
// Nothing is changed but by a form of the person's own session, or with a token that was mailed; a page says what is sent to whom before it is sent.
//
// What it doesn't. The server of the portal is the party that is being checked: what its pages say is its word, until the file behind them is verified by a program that comes from somewhere else. While somebody is signed in, an outline of
// their history is in this process's memory in clear.
package portal

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
	_ "time/tzdata" // pages speak in the time of Paris, wherever they are made

	"github.com/prometheus/client_golang/prometheus"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/inquiry"
	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/peer"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// A Broker is what the pages show. *broker.Broker satisfies it.
//
// Its errors are *broker.Problem where the reader can do something about it. All methods may be called concurrently; they see what was written before they were called.
type Broker interface {
	// OwnEntries lists a person's entries under one identifier by decreasing log index: at most limit (up to 200) of those below before (0: the newest); next is 0 at the end.
	OwnEntries(ctx context.Context, subject proof.Subject, before proof.Index, limit int) (entries []broker.OwnEntry, next proof.Index, err error)
	// NewestOwn is the log index of the newest of them, 0 if there is none. It is called for each page, and is cheap.
	NewestOwn(ctx context.Context, subject proof.Subject) (proof.Index, error)
	// Endings are other ones when a month's details were destroyed since. It is called for each page, and is cheap.
	Endings(ctx context.Context) (store.Endings, error)
	// Lasting are those of the keys of months (OwnEntry.Under) under which no end of retention has changed anything.
	Lasting(ctx context.Context, of []keys.KeyID) (map[keys.KeyID]bool, error)
	// OwnDetails counts a person's entries under one identifier, from one log index to another, both included, whose details are there. It is cheap.
	OwnDetails(ctx context.Context, subject proof.Subject, from, to proof.Index) (int, error)
	// OwnRecord opens one record under one of the identifiers; others are unknown (404).
	OwnRecord(ctx context.Context, subjects []proof.Subject, index proof.Index) (*broker.OwnRecord, error)
	// OwnLost are log indexes whose records were lost.
	OwnLost(ctx context.Context) ([]store.Range, error)
	// HistoryFile makes the complete history of closed epochs.
	HistoryFile(ctx context.Context, subjects []proof.Subject, epochs proof.EpochRange) (*broker.HistoryFile, error)
	// EpochsBetween are the closed epochs that have something of the time from from until, not including, to; false if there are none.
	EpochsBetween(ctx context.Context, from, to time.Time) (proof.EpochRange, bool, error)
	// LogPolicy knows the keys and witnesses of the log.
	LogPolicy(ctx context.Context) (*proof.Policy, error)
	// Directory names those who stand in records.
	Directory() broker.Directory
	// Standing says where the log stands.
	Standing() broker.Standing
	Contesting
	Telling
	// PolicyText is how the log's checkpoints are checked, in the form of c2sp.org/tlog-policy.
	PolicyText(ctx context.Context) ([]byte, error)
	Acts
}

// A Session is who is signed in, as the pages need it.
type Session struct {
	// Account names the account within this process. It stands in no page and no log.
	Account string
	// Name of the person, for display.
	Name string
	// Subjects are the person's identifiers, all verified.
	Subjects []proof.Subject
	// SignedIn is when.
	SignedIn time.Time
	// Forms makes the tokens that forms carry; the pages compare them, too.
	Forms identity.FormKey
}

// CSRF is a token for a form: for templates.
func (s *Session) CSRF() string { return s.Forms.Token() }

// Sessions say who is signed in, and sign people in and out.
type Sessions interface {
	// Middleware gives each request its session, and refuses what another site sent. It is around all of the portal.
	Middleware(next http.Handler) http.Handler
	// Session of a request that came through Middleware; false if nobody is signed in.
	Session(r *http.Request) (*Session, bool)
	// Handler serves what is below /connexion/, and /deconnexion with what is below it.
	Handler() http.Handler
	// Begin is the path at which a sign-in begins that comes back to a path of the portal. Empty: nobody can sign in, and the pages say so.
	Begin(back string) string
	// Elsewhere is the origin of the identity provider, to which forms may lead; empty: none.
	Elsewhere() string
}

// Nobody are the sessions of a portal without an identity provider: all that it shows is for everybody.
type Nobody struct{}

// Middleware implements Sessions.
func (Nobody) Middleware(next http.Handler) http.Handler { return next }

// Session implements Sessions.
func (Nobody) Session(*http.Request) (*Session, bool) { return nil, false }

// Handler implements Sessions.
func (Nobody) Handler() http.Handler { return http.NotFoundHandler() }

// Begin implements Sessions.
func (Nobody) Begin(string) string { return "" }

// Elsewhere implements Sessions.
func (Nobody) Elsewhere() string { return "" }

// A Verifier is what the browser checks histories with.
type Verifier struct {
	// Handler serves what is below /verificateur/.
	Handler http.Handler
	// Hash is published: the SHA-256 of all its files, in hexadecimal.
	Hash string
	// Element renders the part of a page in which the verdict on a bundle is said, with its script. list is the id of the element that holds the rows, and names the address of the words in them.
	Element func(lang, bundle, list, names string) (template.HTML, error)
}

// Operator is who runs the portal, as the law wants it to be said.
type Operator struct {
	Name    string // of the body
	Address string // postal, on one line
	Email   string
	// Officer is the e-mail address of the data protection officer.
	Officer string
	// Host is who houses the servers, with address, on one line.
	Host string
}

// Config of a portal. Broker, Sessions and Operator are mandatory.
type Config struct {
	Broker   Broker
	Sessions Sessions
	Operator Operator
	// Identity signs in those whom Sessions know, has them show again who they are, and attaches identifiers. Nil: nobody can, and there are no pages for it.
	Identity *identity.Service
	// Checks are how Identity has identifiers checked, by type: their page says who is asked, and what is sent. All that Identity can check has to be there.
	Checks map[proof.SubjectType]inquiry.Rule
	// Verifier may be nil: then the pages say that this server has none, and how to check otherwise.
	Verifier *Verifier
	// Words names purposes and legal bases; nil: those that are built in.
	Words *Words
	// URL of the portal, with scheme and host alone.
	URL *url.URL
	// Rate bounds how often one network (see package peer) has a file of a history made. Zero: 5 a second, 60 at once: many people may share an address, and each page of a history has its file made.
	Rate peer.Rate
	// Proxies are believed when they say from where a request comes.
	Proxies peer.Proxies
	// Log is the URL of the public log; empty: pages name it by its origin only.
	Log string
	// Clock gives the time; nil means time.Now.
	Clock func() time.Time
	// Logger gets what an operator should know, never a person; nil discards.
	Logger *slog.Logger
}

// Portal is the website. It is safe for concurrent use.
type Portal struct {
	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	zone     *time.Location
	pages    map[string]*language // by code
	assets   *assets
	journals *journals
	named    directories
	making   chan struct{} // places for history files, which cost seconds
	turns    turns         // for one of these, of an account
	wait     time.Duration // for both
	peers    *peer.Limiter
	refused  prometheus.Counter // files
	handler  http.Handler
	secure   bool
}

// New makes the portal.
func New(cfg Config) (*Portal, error) {
	switch {
	case cfg.Broker == nil || cfg.Sessions == nil:
		return nil, errors.New("portal: a broker and sessions are needed")
	case cfg.URL == nil || cfg.URL.Host == "":
		return nil, errors.New("portal: its own URL is needed")
	case cfg.Operator.Name == "" || cfg.Operator.Email == "":
		return nil, errors.New("portal: who runs it, and their e-mail address, are needed")
	}
	if cfg.Identity != nil {
		for _, t := range cfg.Identity.Checkable() {
			if _, ok := cfg.Checks[t]; !ok {
				return nil, fmt.Errorf("portal: nobody says how an identifier of the type %s is checked", t)
			}
		}
	}
	p := &Portal{cfg: cfg, log: cfg.Logger, now: cfg.Clock, secure: cfg.URL.Scheme == "https", making: make(chan struct{}, maxMaking), wait: makingWait}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.cfg.Words == nil {
		var err error
		if p.cfg.Words, err = ParseWords(builtInWords); err != nil {
			return nil, err
		}
	}
	var err error
	if p.cfg.Rate == (peer.Rate{}) {
		p.cfg.Rate = peer.Rate{PerSecond: 5, Burst: 60}
	}
	if p.peers, err = peer.NewLimiter(p.cfg.Rate); err != nil {
		return nil, fmt.Errorf("portal: Rate: %w", err)
	}
	p.refused = prometheus.NewCounter(prometheus.CounterOpts{Name: "regard_portal_refused_files_total", Help: "Files of histories that weren't made, because one address asked for too many."})
	if p.zone, err = time.LoadLocation("Europe/Paris"); err != nil {
		return nil, err
	}
	if p.assets, err = loadAssets(); err != nil {
		return nil, err
	}
	if p.pages, err = loadLanguages(p.assets); err != nil {
		return nil, err
	}
	p.journals = newJournals(cfg.Broker, p.now)
	p.handler = p.routes()
	if !p.secure {
		p.handler = p.ownHost(p.handler)
	}
	return p, nil
}

// ServeHTTP implements http.Handler.
func (p *Portal) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

// Collectors are the portal's metrics, to be registered.
func (p *Portal) Collectors() []prometheus.Collector { return []prometheus.Collector{p.refused} }

// Forget drops what is kept in memory about an account: at sign-out.
func (p *Portal) Forget(account string) { p.journals.forget(account) }

// Sweep drops what is kept in memory about those who left without a word, and what was erased since it was read, and makes anew what people go on reading, which can take minutes. It is to be called every minute or so; what it couldn't look after is gone after an error.
func (p *Portal) Sweep(ctx context.Context) error { return p.journals.sweep(ctx) }

func (p *Portal) routes() http.Handler {
	mux := http.NewServeMux()
	public := func(pattern string, h handler) { mux.Handle(pattern, p.handle(h)) }
	private := func(pattern string, h personal) { mux.Handle(pattern, p.handle(p.signedIn(h))) }
	costly := func(pattern string, h personal) { mux.Handle(pattern, p.handle(p.signedIn(p.bounded(h)))) }
	change := func(pattern string, h personal) { mux.Handle(pattern, p.handle(p.posted(p.signedIn(h)))) }

	public("GET /{$}", p.home)
	public("GET /accessibilite", p.static("accessibility"))
	public("GET /mentions-legales", p.static("legal"))
	public("GET /donnees-personnelles", p.privacy)
	public("GET /verificateur", p.verifierPage)
	public("GET /verificateur/politique.txt", p.policyFile)

	private("GET /historique", unprobed(p.history))
	costly("GET /historique/fichier", unprobed(p.historyFile))
	private("GET /acces/{id}", p.record)
	costly("GET /acces/{id}/preuve", p.receipt)
	private("GET /telecharger", p.downloads)
	costly("GET /telecharger/historique.csv", unprobed(p.csv))
	costly("GET /releve", unprobed(p.statement))

	p.accountRoutes(mux)
	private("GET /contester/{id}", p.contestForm)
	change("POST /contester/{id}", p.contest)
	private("GET /contestations", p.contests)
	private("GET /contestations/{id}", p.contestShown)
	change("POST /contestations/{id}", p.withdraw)

	private("GET "+mail.PageNotices, p.notices)
	change("POST "+mail.PageNotices, p.markRead)
	private("GET "+pageKinds, p.kinds)
	change("POST "+pageKinds, p.setKinds)
	private("GET "+pageSilence, p.silenceForm)
	change("POST "+pageSilence, p.silence)
	private("GET "+pageAddress, p.address)
	change("POST "+pageAddress, p.setAddress)
	public("GET "+mail.PageConfirm, p.tokenForm(confirmWords))
	public("POST "+mail.PageConfirm, p.posted(p.tokenUsed(confirmWords, p.cfg.Broker.ConfirmAddress)))
	public("GET "+mail.PageUnsubscribe, p.tokenForm(unsubscribeWords))
	public("POST "+mail.PageUnsubscribe, p.posted(p.tokenUsed(unsubscribeWords, p.cfg.Broker.Unsubscribe)))

	public("GET /connexion", p.signIn)
	mux.Handle("/connexion/", p.orUnknown(p.cfg.Sessions.Handler()))
	public("GET /deconnexion", func(r *request) error { r.seeOther("/"); return nil }) // somebody loads again what a form has answered
	mux.Handle("/deconnexion", p.orUnknown(http.HandlerFunc(p.signOut)))
	mux.Handle("/deconnexion/", p.orUnknown(p.cfg.Sessions.Handler()))
	mux.Handle("GET /"+assetsPath+"{name}", p.orUnknown(p.assets))
	mux.Handle("GET "+namesPath+"{name}", p.orUnknown(http.HandlerFunc(p.serveNames)))
	if v := p.cfg.Verifier; v != nil {
		mux.Handle("GET /verificateur/", p.orUnknown(v.Handler))
	}
	public("/", unknownPage)
	return p.cfg.Sessions.Middleware(mux)
}

// signInPage says what signing in is.
type signInPage struct {
	Begin string // empty: nobody can
}

// back is a path of this site, from a query; anything else is the history.
func back(v string) string {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "" || u.Host != "" || u.Opaque != "" || !strings.HasPrefix(v, "/") || strings.HasPrefix(v, "//") || strings.ContainsAny(v, "\\\x00\r\n") {
		return "/historique"
	}
	return v
}

func (p *Portal) signIn(r *request) error {
	return r.render(http.StatusOK, "signin", "signin.title", &signInPage{p.cfg.Sessions.Begin(back(r.URL.Query().Get("retour")))})
}

// signOut forgets what is in memory before the session ends.
func (p *Portal) signOut(w http.ResponseWriter, r *http.Request) {
	if s, ok := p.cfg.Sessions.Session(r); ok && r.Method == http.MethodPost {
		p.Forget(s.Account)
	}
	p.cfg.Sessions.Handler().ServeHTTP(w, r)
}

package command

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/peer"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/broker/portal/verifier"
	"github.com/regard-broker/regard/ledger/verdict"
)

// portal opens the website for people.
func (i *Instance) portal(ctx context.Context, metrics *api.Metrics) (*api.Listener, error) {
	cfg := &i.cfg.Portal
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("portal.url is not a URL")
	}
	words, err := readWords(cfg)
	if err != nil {
		return nil, err
	}
	check, err := i.verifier(ctx)
	if err != nil {
		return nil, err
	}
	var p *portal.Portal // the pages say what happened to a sign-in, so each needs the other
	var sessions portal.Sessions = portal.Nobody{}
	var service *identity.Service
	if cfg.Identity.On() {
		s, err := newSessions(i, func() *portal.Portal { return p })
		if err != nil {
			return nil, err
		}
		if err := metrics.Register(s.service.Collectors()...); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
		sessions, service = s, s.service
	} else {
		i.log.Warn("the portal has no identity provider: nobody can sign in (portal.identity)")
	}
	proxies, err := peer.ParseProxies(cfg.TrustedProxies)
	if err != nil {
		return nil, usagef("portal.trusted_proxies: %s", err)
	}
	o := &cfg.Operator
	p, err = portal.New(portal.Config{
		Broker: i.Broker, Sessions: sessions, Identity: service, Checks: cfg.Identity.Rules(), Verifier: check, Rate: peer.Rate{PerSecond: cfg.Rate, Burst: cfg.Burst}, Proxies: proxies, URL: u, Log: slashed(cfg.Log), Words: words, Logger: i.log,
		Operator: portal.Operator{Name: o.Name, Address: o.Address, Email: o.Email, Officer: o.Officer, Host: o.Host},
	})
	if err != nil {
		return nil, err
	}
	if err := metrics.Register(p.Collectors()...); err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	i.sweep(p)
	var certs *api.Certificates
	if cfg.Cert != "" {
		if certs, err = api.LoadCertificates(cfg.Cert, cfg.Key); err != nil {
			return nil, err
		}
		i.reloads = append(i.reloads, certs.Reload)
	}
	return api.ListenPortal(cfg.Listen, i.cfg.Limits.Connections, p, i.log, certs)
}

// sweep has the portal look after what it keeps in memory.
func (i *Instance) sweep(p *portal.Portal) {
	ctx, stop := context.WithCancel(context.Background())
	i.servers = append(i.servers, server{"the portal's memory", func() error {
		for tick := time.NewTicker(time.Minute); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return nil
			case <-tick.C:
			}
			if err := p.Sweep(ctx); err != nil && ctx.Err() == nil {
				i.log.Warn("an outline in the portal's memory could not be brought up to date, and is dropped", "error", err)
			}
		}
	}, func(context.Context) error { stop(); return nil }})
}

// sessions are the portal's, by the identity provider.
type sessions struct {
	service *identity.Service
	routes  *http.ServeMux
	issuer  string
}

func newSessions(i *Instance, pages func() *portal.Portal) (*sessions, error) {
	service, err := NewIdentity(i.cfg, i.Broker, i.log, identity.Config{
		Page: "/connexion",
		Show: func(w http.ResponseWriter, r *http.Request, n *identity.Notice) {
			pages().Tell(w, r, portal.Notice{Code: string(n.Code), Status: n.Status, Return: n.Return, Missing: n.Missing, RetryAfter: n.RetryAfter})
		},
		Language: func(r *http.Request) string { return pages().Language(r) },
		SignedIn: func(ctx context.Context, s *identity.Session) error { return i.Broker.Enrol(ctx, accountOf(s)) },
	})
	if err != nil {
		return nil, err
	}
	issuer, err := url.Parse(i.cfg.Portal.Identity.Issuer)
	if err != nil {
		return nil, usagef("portal.identity.issuer is not a URL")
	}
	s := &sessions{service, http.NewServeMux(), issuer.Scheme + "://" + issuer.Host}
	service.Routes(s.routes)
	return s, nil
}

// accountOf is who has signed in, as the broker knows people.
func accountOf(s *identity.Session) broker.Account {
	return broker.Account{Pivot: s.Subjects[0], Subjects: s.Subjects, Lang: s.Language}
}

// Middleware implements portal.Sessions.
func (s *sessions) Middleware(next http.Handler) http.Handler { return s.service.Middleware(next) }

// Session implements portal.Sessions.
func (s *sessions) Session(r *http.Request) (*portal.Session, bool) {
	x, ok := identity.From(r.Context())
	if !ok {
		return nil, false
	}
	family := x.Names.Family
	if x.Names.Used != "" {
		family = x.Names.Used
	}
	return &portal.Session{
		Account: hex.EncodeToString(x.Account[:]), Name: strings.TrimSpace(x.Names.Given + " " + family), Subjects: x.Subjects, SignedIn: x.SignedIn, Forms: *x.Forms(),
	}, true
}

// Handler implements portal.Sessions.
func (s *sessions) Handler() http.Handler { return s.routes }

// Begin implements portal.Sessions.
func (s *sessions) Begin(back string) string {
	return identity.PathSignIn + "?retour=" + url.QueryEscape(back)
}

// Elsewhere implements portal.Sessions.
func (s *sessions) Elsewhere() string { return s.issuer }

// verifier loads what citizens' browsers check with; nil if there is none.
func (i *Instance) verifier(ctx context.Context) (*portal.Verifier, error) {
	dir := i.cfg.Portal.Verifier
	if dir == "" {
		var err error
		if dir, err = verifier.Dir(); err != nil {
			return nil, fmt.Errorf("finding the verifier for citizens' browsers: %w", err)
		}
	}
	v := &verifiers{policy: i.Broker.PolicyText, log: i.log, dir: dir, maxAge: max(verifier.MaxAge, 2*i.cfg.Epoch.Length.Std())}
	now, err := v.load(ctx)
	if errors.Is(err, verifier.ErrMissing) && i.cfg.Portal.Verifier == "" {
		i.log.Warn("no browser can check a history: pages say so, and how to check otherwise (make build puts the verifier beside the program; portal.verifier)", "looked in", dir)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("portal.verifier: %w", err)
	}
	return &portal.Verifier{Handler: v, Hash: now.Hash(), Element: v.element}, nil
}

// verifiers is the verifier for the log's keys as they are now: the policy that it is served with has an address of its content.
type verifiers struct {
	policy func(context.Context) ([]byte, error)
	log    *slog.Logger
	dir    string
	maxAge time.Duration
	now    atomic.Pointer[policed]
}

type policed struct {
	*verifier.Verifier
	policy string
	before *verifier.Verifier // by the keys before; nil: there were none
}

func (v *verifiers) load(ctx context.Context) (*verifier.Verifier, error) {
	policy, err := v.policy(ctx)
	if err != nil {
		return nil, err
	}
	was := v.now.Load()
	if was != nil && was.policy == string(policy) {
		return was.Verifier, nil
	}
	made, err := verifier.Load(v.dir, policy)
	if err == nil {
		now := &policed{Verifier: made, policy: string(policy)}
		if was != nil {
			now.before = was.Verifier
		}
		v.now.Store(now)
	}
	return made, err
}

// ServeHTTP implements http.Handler. A page may come from another broker, which knew of new keys first or knows of them later: what isn't there is looked for among the keys as they are now, and among those before.
func (v *verifiers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !v.now.Load().Has(r.URL.Path) {
		if _, err := v.load(r.Context()); err != nil {
			v.log.Error("the keys of the log can't be read for a citizen's browser", "error", err)
		}
	}
	now := v.now.Load()
	if !now.Has(r.URL.Path) && now.before.Has(r.URL.Path) {
		now.before.ServeHTTP(w, r)
		return
	}
	now.ServeHTTP(w, r)
}

// element is asked for with each page of a history. While the keys can't be read, browsers check by those that were known last.
func (v *verifiers) element(lang, bundle, list, names string) (template.HTML, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	now, err := v.load(ctx)
	if err != nil {
		v.log.Error("the keys of the log can't be read for citizens' browsers: they get those that were known last", "error", err)
		now = v.now.Load().Verifier
	}
	return now.HTML(verifier.Element{Lang: verdict.Lang(lang), Bundle: bundle, MaxAge: v.maxAge, List: list, Names: names})
}

// readWords joins the operator's words to those that are built in.
func readWords(cfg *config.Portal) (*portal.Words, error) {
	words, err := portal.BuiltInWords()
	if err != nil || cfg.Words == "" {
		return words, err
	}
	text, err := os.ReadFile(cfg.Words)
	if err != nil {
		return nil, fmt.Errorf("reading portal.words: %w", err)
	}
	own, err := portal.ParseWords(text)
	if err != nil {
		return nil, fmt.Errorf("portal.words: %w", err)
	}
	return words.With(own), nil
}

func slashed(base string) string {
	if base == "" || strings.HasSuffix(base, "/") {
		return base
	}
	return base + "/"
}

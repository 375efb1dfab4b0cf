package command

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/inquiry"
	"github.com/regard-broker/regard/broker/identity/simulator"
	"github.com/regard-broker/regard/broker/peer"
	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/ledger/proof"
)

// NewIdentity makes what signs citizens in, as the configuration says. pages gives it what depends on the portal's pages: Page, Show and Language.
func NewIdentity(cfg *config.Config, b *broker.Broker, log *slog.Logger, pages identity.Config) (*identity.Service, error) {
	i := &cfg.Portal.Identity
	secret, err := i.ClientSecret()
	if err != nil {
		return nil, err
	}
	out := pages
	out.Issuer, out.ClientID, out.ClientSecret, out.URL = i.Issuer, i.ClientID, secret, cfg.Portal.URL
	out.Level, out.Scopes, out.Claims, out.NoPKCE = identity.Level(i.Level), i.Scopes, i.ClaimsByType(), !i.PKCE
	out.Rate, out.InFlight = peer.Rate{PerSecond: i.Rate, Burst: i.Burst}, i.InFlight
	if out.Proxies, err = peer.ParseProxies(cfg.Portal.TrustedProxies); err != nil {
		return nil, usagef("portal.trusted_proxies: %s", err)
	}
	out.Idle, out.Absolute, out.Timeout = i.Idle.Std(), i.Absolute.Std(), i.Timeout.Std()
	out.Development, out.Store, out.Ring, out.Logger = !cfg.Production, b.Store(), b.Ring(), log
	if i.Proxy != "" {
		if out.Proxy, err = url.Parse(i.Proxy); err != nil {
			return nil, usagef("portal.identity.proxy is not a URL")
		}
	}
	if rules := i.Rules(); len(rules) > 0 {
		if out.Checker, err = inquiry.New(inquiry.Config{Broker: b, Agency: i.Agency, Rules: rules}); err != nil {
			return nil, err
		}
	}
	return identity.New(out)
}

// simulate serves FranceConnect's simulator with the people of the reference providers.
func (i *Instance) simulate() error {
	c := &i.cfg.Portal.Identity
	if c.Simulator.Listen == "" {
		return nil
	}
	secret, err := c.ClientSecret()
	if err != nil {
		return err
	}
	handler, err := simulator.New(simulator.Config{
		Development: !i.cfg.Production, Issuer: c.Issuer, People: invented(c),
		Clients: []simulator.Client{{
			ID: c.ClientID, Secret: secret, RedirectURIs: []string{i.cfg.Portal.URL + identity.PathCallback}, LogoutURIs: []string{i.cfg.Portal.URL + identity.PathSignedOut},
		}},
	})
	if err != nil {
		return err
	}
	ln, err := simulator.Listen(c.Simulator.Listen)
	if err != nil {
		return fmt.Errorf("the simulator of FranceConnect: %w", err)
	}
	i.log.Warn("FRANCECONNECT IS SIMULATED: whoever is on this machine can be anybody", "issuer", c.Issuer)
	i.Addresses["simulator"] = ln.Addr().String()
	s := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	i.servers = append(i.servers, server{"simulator", func() error { return serve(s, ln) }, s.Shutdown})
	return nil
}

func serve(s *http.Server, ln net.Listener) error {
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// invented are the people of the reference providers, with the claims that the configuration names.
func invented(c *config.Identity) []simulator.Person {
	genders := map[string]string{"M": "male", "F": "female"}
	var out []simulator.Person
	for _, p := range reference.People() {
		x := simulator.Person{
			FamilyName: p.Pivot.BirthName, GivenName: p.Pivot.GivenNames, UsedName: p.Used, BirthDate: p.Pivot.BirthDate, Gender: genders[p.Pivot.Sex],
			BirthPlace: p.Pivot.BirthPlace, BirthCountry: p.Pivot.BirthCountry, Claims: map[string]string{},
		}
		ids := map[proof.SubjectType]string{proof.TypeINE: p.INE, proof.TypeFranceTravail: p.FranceTravail, proof.TypeSIREN: p.SIREN}
		for typ, claim := range c.ClaimsByType() {
			if ids[typ] != "" {
				x.Claims[claim] = ids[typ]
			}
		}
		out = append(out, x)
	}
	return out
}

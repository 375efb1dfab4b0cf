package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/inquiry"
	"github.com/regard-broker/regard/ledger/proof"
)

// Identity says how citizens sign in: with FranceConnect, or what speaks like it.
type Identity struct {
	// Issuer of the provider, https://…; with a simulator it follows from its address.
	Issuer string `koanf:"issuer"`
	// ClientID and ClientSecretFile are what the provider gave for the portal.
	ClientID         string `koanf:"client_id"`
	ClientSecretFile string `koanf:"client_secret_file"`
	// Level that is asked for, and below which nobody is signed in: eidas1, eidas2, eidas3.
	Level string `koanf:"acr"`
	// Scopes beside openid.
	Scopes []string `koanf:"scopes"`
	// PKCE is used if the provider lists it; false for one that lists it and refuses its parameters.
	PKCE bool `koanf:"pkce"`
	// Idle and Absolute bound a session; Timeout, what one sign-in asks of the provider.
	Idle     Duration `koanf:"idle"`
	Absolute Duration `koanf:"absolute"`
	Timeout  Duration `koanf:"timeout"`
	// Rate and Burst bound how often one address begins or completes a sign-in: a second, and at once. InFlight bounds the sign-ins that wait for the provider at once in all.
	Rate     float64 `koanf:"rate"`
	Burst    int     `koanf:"burst"`
	InFlight int     `koanf:"in_flight"`
	// Proxy through which the provider is reached. Empty: none.
	Proxy string `koanf:"proxy"`
	// Claims of the sign-in that carry further identifiers.
	Claims IdentityClaims `koanf:"claims"`
	// Agency is the portal's own: with its agreements it checks identifiers at the bodies that hold them.
	Agency string         `koanf:"agency"`
	Checks IdentityChecks `koanf:"checks"`
	// Simulator stands in for the provider, on this machine.
	Simulator Simulator `koanf:"simulator"`
}

// IdentityClaims names the claim of each type of identifier; empty: none.
type IdentityClaims struct {
	NIR           string `koanf:"nir"`
	INE           string `koanf:"ine"`
	FranceTravail string `koanf:"france_travail"`
	SIREN         string `koanf:"siren"`
}

// IdentityChecks are the rules by which identifiers of each type are checked. Without a service there is none.
type IdentityChecks struct {
	NIR           IdentityCheck `koanf:"nir"`
	INE           IdentityCheck `koanf:"ine"`
	FranceTravail IdentityCheck `koanf:"france_travail"`
	SIREN         IdentityCheck `koanf:"siren"`
}

// IdentityCheck is an inquiry.Rule.
type IdentityCheck struct {
	Service      string   `koanf:"service"`
	Agreement    string   `koanf:"agreement"`
	Scopes       []string `koanf:"scopes"`
	Purpose      string   `koanf:"purpose"`
	LegalBasis   string   `koanf:"legal_basis"`
	Identifier   string   `koanf:"identifier"`
	BirthName    string   `koanf:"birth_name"`
	GivenNames   string   `koanf:"given_names"`
	BirthDate    string   `koanf:"birth_date"`
	BirthPlace   string   `koanf:"birth_place"`
	BirthCountry string   `koanf:"birth_country"`
}

// Simulator of FranceConnect.
type Simulator struct {
	Listen string `koanf:"listen"` // empty: none
}

// On reports whether citizens can sign in.
func (i *Identity) On() bool { return i.Issuer != "" }

// ClaimsByType returns the claims that are named.
func (i *Identity) ClaimsByType() map[proof.SubjectType]string {
	out := map[proof.SubjectType]string{}
	for typ, name := range map[proof.SubjectType]string{proof.TypeNIR: i.Claims.NIR, proof.TypeINE: i.Claims.INE, proof.TypeFranceTravail: i.Claims.FranceTravail, proof.TypeSIREN: i.Claims.SIREN} {
		if name != "" {
			out[typ] = name
		}
	}
	return out
}

// Rules returns the checks that are set up.
func (i *Identity) Rules() map[proof.SubjectType]inquiry.Rule {
	out := map[proof.SubjectType]inquiry.Rule{}
	for typ, c := range map[proof.SubjectType]*IdentityCheck{proof.TypeNIR: &i.Checks.NIR, proof.TypeINE: &i.Checks.INE, proof.TypeFranceTravail: &i.Checks.FranceTravail, proof.TypeSIREN: &i.Checks.SIREN} {
		if r := c.rule(); r.Service != "" {
			out[typ] = r
		}
	}
	return out
}

func (c *IdentityCheck) rule() inquiry.Rule {
	return inquiry.Rule{
		Service: c.Service, Agreement: c.Agreement, Scopes: c.Scopes, Purpose: c.Purpose, LegalBasis: c.LegalBasis, Identifier: c.Identifier,
		BirthName: c.BirthName, GivenNames: c.GivenNames, BirthDate: c.BirthDate, BirthPlace: c.BirthPlace, BirthCountry: c.BirthCountry,
	}
}

// ClientSecret reads the secret.
func (i *Identity) ClientSecret() (string, error) {
	b, err := os.ReadFile(i.ClientSecretFile)
	if err != nil {
		return "", fmt.Errorf("reading portal.identity.client_secret_file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (i *Identity) resolve() {
	if i.Issuer == "" && i.Simulator.Listen != "" {
		i.Issuer = "http://" + i.Simulator.Listen + "/api/v2"
	}
}

func (c *Config) checkIdentity(m *Mistakes) {
	const at = "portal.identity."
	i := &c.Portal.Identity
	if s := i.Simulator.Listen; s != "" {
		host, port, err := net.SplitHostPort(s)
		switch {
		case c.Production:
			m.add(at+"simulator.listen", 0, "is a simulator in production: with it everybody can be anybody", "remove it, and register the portal with FranceConnect")
		case err != nil || port == "" || port == "0" || !loopback(host):
			m.add(at+"simulator.listen", 0, "is not host:port on this machine", "write for example 127.0.0.1:8090")
		}
	}
	if !i.On() {
		if i.ClientID != "" || i.ClientSecretFile != "" {
			m.add(at+"issuer", 0, "is missing", "give the provider's, https://…, or remove portal.identity")
		}
		return
	}
	u, err := url.Parse(i.Issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Scheme != "https" && u.Scheme != "http"):
		m.add(at+"issuer", 0, "is not a URL", "give https://host/path, as the provider documents it")
	case u.Scheme == "http" && (c.Production || !loopback(u.Hostname())):
		m.add(at+"issuer", 0, "has no TLS", "use https://")
	}
	if i.ClientID == "" || i.ClientSecretFile == "" {
		m.add(at+"client_id", 0, "and "+at+"client_secret_file are both needed", "the provider gives them when you register the portal")
	}
	if !identity.Level(i.Level).Known() {
		m.add(at+"acr", 0, "is unknown", "use eidas1, eidas2 or eidas3")
	}
	if i.Proxy != "" {
		if u, err := url.Parse(i.Proxy); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			m.add(at+"proxy", 0, "is not a URL", "give http://host:port")
		}
	}
	for _, d := range []struct {
		key      string
		is       Duration
		from, to time.Duration
	}{{"idle", i.Idle, time.Minute, 2 * time.Hour}, {"absolute", i.Absolute, 5 * time.Minute, 24 * time.Hour}, {"timeout", i.Timeout, time.Second, 30 * time.Second}} {
		if d.is.Std() < d.from || d.is.Std() > d.to {
			m.add(at+d.key, 0, "is out of range", fmt.Sprintf("choose from %s to %s", d.from, d.to))
		}
	}
	checkRate(at, i.Rate, i.Burst, m)
	if i.InFlight < 1 || i.InFlight > 1e4 {
		m.add(at+"in_flight", 0, "is out of range", "choose from 1 to 10000; 64 is usual")
	}
	c.checkIdentifiers(m)
}

func (c *Config) checkIdentifiers(m *Mistakes) {
	const at = "portal.identity."
	i := &c.Portal.Identity
	if list := append(slices.Clone(i.Scopes), i.Claims.NIR, i.Claims.INE, i.Claims.FranceTravail, i.Claims.SIREN); slices.ContainsFunc(list, func(s string) bool { return strings.ContainsAny(s, " \t\"\\") }) {
		m.add(at+"scopes", 0, "or a claim holds a space or a quote", "write each scope by itself: scopes: [one, another]")
	}
	rules := i.Rules()
	if len(rules) > 0 && !proof.IsToken(i.Agency) {
		m.add(at+"agency", 0, "is missing, or not an agency's id", "register an agency for the portal, give it the agreements, and name it here")
	}
	for typ, check := range map[proof.SubjectType]*IdentityCheck{proof.TypeNIR: &i.Checks.NIR, proof.TypeINE: &i.Checks.INE, proof.TypeFranceTravail: &i.Checks.FranceTravail, proof.TypeSIREN: &i.Checks.SIREN} {
		r := check.rule()
		if r.Service == "" && cmp.Or(r.Agreement, r.Purpose, r.LegalBasis, r.Identifier, r.BirthName, r.GivenNames, r.BirthDate, r.BirthPlace, r.BirthCountry) == "" && len(r.Scopes) == 0 {
			continue
		}
		if err := r.Check(); err != nil {
			m.add(at+"checks."+string(typ), 0, "is no rule: "+err.Error(), "see docs/operate.md, Sign-in of citizens")
		}
	}
}

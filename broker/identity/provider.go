package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

const (
	// skew is by how much the provider's clock may differ from ours.
	skew = time.Minute
	// maxAge of a token when it gets here: it is fetched as soon as it is made. FranceConnect's live for a minute.
	maxAge = 2 * time.Minute
	// discoveryLife is how long a discovery document is used before it is fetched anew; aliveFor, how long an answer of the provider counts as a sign of life.
	discoveryLife = time.Hour
	aliveFor      = 30 * time.Second
	// askAgain is how long the discovery document isn't asked for after that failed: whoever comes meanwhile doesn't wait for the same failure.
	askAgain = 5 * time.Second
)

// algorithms that tokens may be signed with: those of FranceConnect. A token under none, or under an HMAC of something public, isn't even parsed.
var algorithms = []string{oidc.ES256, oidc.RS256}

// provider is the identity provider, as its relying party sees it.
type provider struct {
	cfg     *Config
	log     *slog.Logger
	now     func() time.Time
	client  *http.Client
	keys    *http.Client // for the key set alone: limited
	flights chan struct{}
	group   singleflight.Group

	mu      sync.Mutex
	current *discovered
	asked   time.Time // when it was asked for last
	failure error     // of that
}

// discovered is what the provider's discovery document says, and what follows from it. It is immutable.
type discovered struct {
	oauth       oauth2.Config
	tokens      *oidc.IDTokenVerifier
	userinfo    string
	endSession  string // empty: the provider can't sign out
	pkce        bool
	claimsParam bool
	at          time.Time
}

func newProvider(cfg *Config) *provider {
	p := &provider{cfg: cfg, log: cfg.Logger, now: cfg.Now, flights: make(chan struct{}, cfg.InFlight)}
	base := cfg.Transport
	if base == nil {
		base = &http.Transport{
			Proxy:       http.ProxyURL(cfg.Proxy),
			DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext, TLSHandshakeTimeout: 3 * time.Second, ResponseHeaderTimeout: cfg.Timeout,
			ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 16 << 10,
		}
	}
	base = bounded{base}
	client := func(t http.RoundTripper) *http.Client {
		return &http.Client{Transport: t, Timeout: cfg.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the provider redirects a request that only it should answer")
		}}
	}
	p.client = client(base)
	// A token under a key that isn't known has the keys fetched anew, and so has every forged one: a few times a minute are enough.
	p.keys = client(&limited{base, rate.NewLimiter(rate.Every(10*time.Second), 6), p.now})
	return p
}

// bounded refuses answers of more than maxToken bytes.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxToken)
	}
	return resp, err
}

// limited asks only so often.
type limited struct {
	http.RoundTripper
	limit *rate.Limiter
	now   func() time.Time
}

var errTooOften = errors.New("the provider's keys were fetched too often in the last minute")

func (l *limited) RoundTrip(r *http.Request) (*http.Response, error) {
	if !l.limit.AllowN(l.now(), 1) {
		return nil, errTooOften
	}
	return l.RoundTripper.RoundTrip(r)
}

// enter takes one of the places for sign-ins that ask the provider, for no longer than the time they have.
func (p *provider) enter(ctx context.Context) (context.Context, func(), error) {
	select {
	case p.flights <- struct{}{}:
		ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
		return ctx, func() { cancel(); <-p.flights }, nil
	default:
		return nil, nil, failed(Unavailable, "too many sign-ins are waiting for the provider", nil)
	}
}

// discover returns what is known of the provider, no older than life if it can be had; all who ask at once share one request.
func (p *provider) discover(ctx context.Context, life time.Duration) (*discovered, error) {
	p.mu.Lock()
	d, since, failure := p.current, p.now().Sub(p.asked), p.failure
	p.mu.Unlock()
	if d != nil && p.now().Sub(d.at) < life {
		return d, nil
	}
	if failure != nil && since >= 0 && since < askAgain {
		return nil, failed(Unavailable, "reading the provider's discovery document, a moment ago", failure)
	}
	// The first caller's context must not end what others wait for.
	shared := context.WithoutCancel(ctx)
	done := p.group.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(shared, p.cfg.Timeout)
		defer cancel()
		fresh, err := p.fetch(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.asked, p.failure = p.now(), err; err != nil {
			return nil, err
		}
		p.current = fresh
		return fresh, nil
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return nil, failed(Unavailable, "reading the provider's discovery document", r.Err)
		}
		return r.Val.(*discovered), nil
	case <-ctx.Done():
		return nil, failed(Unavailable, "reading the provider's discovery document", ctx.Err())
	}
}

// discoverAny prefers an old discovery document to none: its addresses seldom change.
func (p *provider) discoverAny(ctx context.Context) (*discovered, error) {
	d, err := p.discover(ctx, discoveryLife)
	if err == nil {
		return d, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil {
		return nil, err
	}
	p.log.Warn("the identity provider's discovery document can't be renewed; the old one is used", "error", err)
	return p.current, nil
}

func (p *provider) fetch(ctx context.Context) (*discovered, error) {
	op, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.cfg.Issuer)
	if err != nil {
		return nil, err
	}
	var doc struct {
		JWKS          string   `json:"jwks_uri"`
		EndSession    string   `json:"end_session_endpoint"`
		Challenges    []string `json:"code_challenge_methods_supported"`
		AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
		ClaimsParam   bool     `json:"claims_parameter_supported"`
		ResponseTypes []string `json:"response_types_supported"`
		LevelValues   []string `json:"acr_values_supported"`
	}
	if err := op.Claims(&doc); err != nil {
		return nil, fmt.Errorf("the document has another form: %w", err)
	}
	endpoint := op.Endpoint()
	for name, u := range map[string]string{"authorization_endpoint": endpoint.AuthURL, "token_endpoint": endpoint.TokenURL, "userinfo_endpoint": op.UserInfoEndpoint(), "jwks_uri": doc.JWKS} {
		if err := checkURL(u, p.cfg.Development); err != nil {
			return nil, fmt.Errorf("%s %w", name, err)
		}
	}
	if doc.EndSession != "" {
		if err := checkURL(doc.EndSession, p.cfg.Development); err != nil {
			return nil, fmt.Errorf("end_session_endpoint %w", err)
		}
	}
	if len(doc.LevelValues) > 0 && !slices.Contains(doc.LevelValues, string(p.cfg.Level)) {
		return nil, fmt.Errorf("the provider doesn't know the level %s", p.cfg.Level)
	}
	// client_secret_basic is meant if nothing is said (OpenID Connect Discovery 1.0, section 3).
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if slices.Contains(doc.AuthMethods, "client_secret_post") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &discovered{
		oauth: oauth2.Config{
			ClientID: p.cfg.ClientID, ClientSecret: p.cfg.ClientSecret, Endpoint: endpoint, RedirectURL: p.cfg.URL + PathCallback,
			Scopes: append([]string{oidc.ScopeOpenID}, p.cfg.Scopes...),
		},
		tokens: oidc.NewVerifier(p.cfg.Issuer, oidc.NewRemoteKeySet(oidc.ClientContext(ctx, p.keys), doc.JWKS), &oidc.Config{
			ClientID: p.cfg.ClientID, SupportedSigningAlgs: algorithms, Now: func() time.Time { return p.now().Add(-skew) },
		}),
		userinfo: op.UserInfoEndpoint(), endSession: doc.EndSession, pkce: slices.Contains(doc.Challenges, "S256") && !p.cfg.NoPKCE,
		claimsParam: doc.ClaimsParam, at: p.now(),
	}, nil
}

// authorize is where the browser goes to sign in. Nothing but what FranceConnect takes is sent: it refuses parameters that it doesn't know.
func (d *discovered) authorize(f *flow, level Level) string {
	options := []oauth2.AuthCodeOption{oidc.Nonce(f.seed.text("nonce")), oauth2.SetAuthURLParam("acr_values", string(level))}
	if d.pkce {
		options = append(options, oauth2.S256ChallengeOption(f.seed.text("verifier")))
	}
	if f.again() {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"))
		// Either makes the provider say when it was (OpenID Connect Core 1.0, sections 3.1.2.1 and 5.5.1). FranceConnect takes the first alone.
		if d.claimsParam {
			options = append(options, oauth2.SetAuthURLParam("claims", `{"id_token":{"auth_time":{"essential":true}}}`))
		} else {
			options = append(options, oauth2.SetAuthURLParam("max_age", strconv.Itoa(int(freshFor/time.Second))))
		}
	}
	return d.oauth.AuthCodeURL(f.seed.text("state"), options...)
}

// signedIn is a person as the provider vouches for them.
type signedIn struct {
	claims
	level    Level
	authTime time.Time // zero: the provider didn't say
	idToken  string
}

// redeem turns the code of a callback into a person.
func (p *provider) redeem(ctx context.Context, f *flow, code string) (*signedIn, error) {
	d, err := p.discoverAny(ctx)
	if err != nil {
		return nil, err
	}
	var options []oauth2.AuthCodeOption
	if d.pkce {
		options = append(options, oauth2.VerifierOption(f.seed.text("verifier")))
	}
	token, err := d.oauth.Exchange(oidc.ClientContext(ctx, p.client), code, options...)
	if err != nil {
		return nil, exchangeFailure(err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok || token.Type() != "Bearer" {
		return nil, failed(Untrusted, "the provider's answer to the code holds no ID token or no bearer token", nil)
	}
	id, err := p.verify(ctx, d, raw)
	if err != nil {
		return nil, err
	}
	if !equal(id.Nonce, f.seed.text("nonce")) {
		return nil, failed(Untrusted, "the ID token answers another sign-in (nonce)", nil)
	}
	if id.AccessTokenHash != "" && id.VerifyAccessToken(token.AccessToken) != nil {
		return nil, failed(Untrusted, "the ID token belongs to another access token (at_hash)", nil)
	}
	var said struct {
		Level    Level  `json:"acr"`
		AuthTime *int64 `json:"auth_time"`
	}
	if id.Claims(&said) != nil || id.Subject == "" {
		return nil, failed(Untrusted, "the ID token has a claim of another form", nil)
	}
	if !said.Level.reaches(p.cfg.Level) {
		f := failed(TooLow, "the provider vouches at a lower level than was asked for", nil)
		f.notice.Wanted = p.cfg.Level
		return nil, f
	}
	out := &signedIn{level: said.Level, idToken: raw}
	if said.AuthTime != nil {
		out.authTime = time.Unix(*said.AuthTime, 0).UTC()
		if out.authTime.After(p.now().Add(skew)) {
			return nil, failed(Untrusted, "the person is said to have signed in in the future (auth_time)", nil)
		}
	}
	if f.again() && out.authTime.Before(f.began.Add(-skew)) {
		return nil, failed(Unconfirmed, "the provider doesn't say that the person signed in anew", nil)
	}
	text, err := p.fetchUserinfo(ctx, d, token.AccessToken)
	if err != nil {
		return nil, err
	}
	user, err := p.verify(ctx, d, text)
	if err != nil {
		return nil, err
	}
	var payload json.RawMessage
	if err := user.Claims(&payload); err != nil {
		return nil, failed(Untrusted, "the userinfo holds no claims", nil)
	}
	c, err := parseClaims(payload, p.cfg.Claims)
	if err != nil {
		return nil, failed(Untrusted, "the userinfo", err)
	}
	if c.sub != id.Subject {
		return nil, failed(Untrusted, "the userinfo is about somebody else than the ID token (sub)", nil)
	}
	if len(c.missing) > 0 {
		f := failed(Incomplete, "the pivot identity lacks "+strings.Join(c.missing, ", "), nil)
		f.notice.Missing = c.missing
		return nil, f
	}
	out.claims = *c
	return out, nil
}

// verify checks a token of either kind: signature, issuer, audience, times.
func (p *provider) verify(ctx context.Context, d *discovered, raw string) (*oidc.IDToken, error) {
	t, err := d.tokens.Verify(ctx, raw)
	if err != nil {
		return nil, verifyFailure(err)
	}
	var said struct {
		Party *string `json:"azp"`
	}
	if t.Claims(&said) != nil {
		return nil, failed(Untrusted, "a token has a claim of another form", nil)
	}
	now := p.now()
	switch {
	case said.Party != nil && *said.Party != p.cfg.ClientID: // OpenID Connect Core 1.0, section 3.1.3.7
		return nil, failed(Untrusted, "a token was issued for somebody else (azp)", nil)
	case len(t.Audience) != 1: // a token for several parties could have been got by any of them
		return nil, failed(Untrusted, "a token is meant for others, too (aud)", nil)
	case t.IssuedAt.IsZero() || t.IssuedAt.After(now.Add(skew)) || t.IssuedAt.Before(now.Add(-maxAge-skew)):
		return nil, failed(Untrusted, "a token wasn't issued just now (iat): compare the clocks", nil)
	}
	return t, nil
}

// verifyFailure says what was wrong in words of ours: the library's may hold what a token says. It doesn't wrap what it reports.
func verifyFailure(err error) error {
	var expired *oidc.TokenExpiredError
	text := err.Error()
	switch {
	case strings.Contains(text, errTooOften.Error()):
		return failed(Unavailable, "a token is under an unknown key", errTooOften)
	case strings.Contains(text, "fetching keys"), strings.Contains(text, context.DeadlineExceeded.Error()):
		return failed(Unavailable, "the provider's keys can't be had", nil)
	case errors.As(err, &expired):
		return failed(Untrusted, "a token has expired (exp): compare the clocks", nil)
	case strings.Contains(text, "issued by a different provider"):
		return failed(Untrusted, "a token is another provider's (iss)", nil)
	case strings.Contains(text, "expected audience"):
		return failed(Untrusted, "a token is meant for somebody else (aud)", nil)
	case strings.Contains(text, "failed to verify"):
		return failed(Untrusted, "a token's signature isn't the provider's", nil)
	}
	return failed(Untrusted, "a token has another form or algorithm", nil)
}

// isTransport reports whether nothing, or no whole answer, came back.
func isTransport(err error) bool {
	var u *url.Error
	var big *http.MaxBytesError
	return errors.As(err, &u) || errors.As(err, &big) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func exchangeFailure(err error) error {
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused):
		code := refused.ErrorCode
		if !isToken(code) {
			code = "without a code"
		}
		switch {
		case code == "invalid_grant": // too late, or used before
			f := failed(Expired, "the provider doesn't take the code any more", nil)
			f.guess = true
			return f
		case refused.Response != nil && refused.Response.StatusCode < 500:
			f := failed(Unavailable, "the provider refuses us (check client_id, client_secret and the redirect URI): "+code, nil)
			f.guess = code == "invalid_request" // what some say of a code that they never gave out
			return f
		}
		return failed(Unavailable, "the provider answers with an error: "+code, nil)
	case isTransport(err):
		return failed(Unavailable, "redeeming the code", err)
	}
	return failed(Untrusted, "the provider's answer to the code has another form", nil)
}

// fetchUserinfo returns the userinfo as it was signed.
func (p *provider) fetchUserinfo(ctx context.Context, d *discovered, access string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.userinfo, nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+access)
	r.Header.Set("Accept", "application/jwt")
	resp, err := p.client.Do(r)
	if err != nil {
		return "", failed(Unavailable, "fetching the userinfo", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", failed(Unavailable, "reading the userinfo", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", failed(Unavailable, fmt.Sprintf("the provider answers for the userinfo with status %d", resp.StatusCode), nil)
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != "application/jwt" {
		return "", failed(Untrusted, "the userinfo isn't signed: register this client for a signed one (ES256 or RS256)", nil)
	}
	return strings.TrimSpace(string(b)), nil
}

// logout is where the browser goes to sign out; false if the provider can't, or doesn't answer.
func (p *provider) logout(ctx context.Context, idToken, state string) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	d, err := p.discover(ctx, aliveFor)
	if err != nil || d.endSession == "" {
		return "", false
	}
	u, err := url.Parse(d.endSession)
	if err != nil {
		return "", false
	}
	q := u.Query()
	q.Set("id_token_hint", idToken)
	q.Set("state", state)
	q.Set("post_logout_redirect_uri", p.cfg.URL+PathSignedOut)
	u.RawQuery = q.Encode()
	return u.String(), true
}

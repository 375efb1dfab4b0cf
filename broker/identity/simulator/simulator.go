// Package simulator stands in for FranceConnect v2 where there is none: on a developer's machine, in demonstrations and in tests.
//
// What it guarantees. It has FranceConnect's rules, also the odd ones, so that what works with it has a chance there: acr_values, state and a nonce of 22 characters are mandatory, a parameter that isn't
// known is refused, redirect URIs are compared byte by byte, codes live for 30 seconds and are good once, access tokens live for a minute, the userinfo is a signed JWT, sub differs from client to client, signing out needs
// id_token_hint, state and a registered address. Sources: docs.partenaires.franceconnect.gouv.fr (endpoints, sessions and tokens) and the validation of parameters in
// github.com/france-connect/sources, read in November 2026. It serves this machine alone, under the name of its issuer alone, and only who says that this is no production.
//
// What it doesn't. It knows nobody: whoever opens its page chooses who they are. Its keys live as long as the process.
package simulator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A Person who can sign in. All of them should be invented.
type Person struct {
	FamilyName, GivenName string // as in the civil status
	UsedName              string // empty if it is the family name
	BirthDate             string // YYYY-MM-DD
	Gender                string // male, female
	BirthPlace            string // INSEE code; empty for somebody born abroad
	BirthCountry          string // INSEE code
	// Claims that no standard scope carries, such as an identifier: they are stated if the scope of that name is asked for.
	Claims map[string]string
}

// A Client is a relying party.
type Client struct {
	ID, Secret   string
	RedirectURIs []string
	LogoutURIs   []string
}

// Config of a Server.
type Config struct {
	// Development has to be true: whoever sets it says that nobody real is concerned.
	Development bool
	// Issuer is the server's own URL, such as http://127.0.0.1:8090/api/v2.
	Issuer  string
	Clients []Client
	People  []Person
	// Levels that it vouches at; nil: all three.
	Levels []string
	// PKCE lists it in the discovery document and checks it. FranceConnect refuses its parameters.
	PKCE bool
	// Alter changes the claims of a token ("id_token", "userinfo") before it is signed: to test what a relying party refuses.
	Alter func(token string, claims map[string]any)
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Lives of what is handed out, as FranceConnect's.
const (
	CodeLife    = 30 * time.Second
	TokenLife   = time.Minute
	SessionLife = 30 * time.Minute
	pageLife    = 10 * time.Minute
	maxOpen     = 1000
)

// Server is the simulator as an HTTP handler. It is safe for concurrent use.
type Server struct {
	cfg  Config
	now  func() time.Time
	path string // of the issuer
	host string // of it, with its port
	mux  *http.ServeMux
	salt [32]byte

	mu       sync.Mutex
	keys     []jose.JSONWebKey // the newest first
	pages    map[string]*request
	sessions map[string]*session // by cookie
	codes    map[string]*grant
	access   map[string]*grant
}

// request is an authorization request whose page is open.
type request struct {
	client                        *Client
	redirect, state, nonce, level string
	scopes                        []string
	challenge                     string
	authTimeWanted                bool
	until                         time.Time
}

// session is that of a browser.
type session struct {
	person int
	at     time.Time // when they signed in
	seen   time.Time
}

// grant is what a code or an access token stands for.
type grant struct {
	*request
	person int
	at     time.Time
	until  time.Time
	used   bool
	token  string // of a code: the access token that it was redeemed for
}

// New checks the configuration.
func New(cfg Config) (*Server, error) {
	if !cfg.Development {
		return nil, errors.New("simulator: it lets everybody be anybody, and so is for development alone")
	}
	u, err := url.Parse(cfg.Issuer)
	if err != nil || u.Scheme != "http" || !isLoopback(u.Hostname()) || u.RawQuery != "" {
		return nil, errors.New("simulator: the issuer must be http:// on this machine")
	}
	if len(cfg.Clients) == 0 || len(cfg.People) == 0 {
		return nil, errors.New("simulator: no clients or no people given")
	}
	if cfg.Levels == nil {
		cfg.Levels = []string{"eidas1", "eidas2", "eidas3"}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg: cfg, now: cfg.Now, path: strings.TrimSuffix(u.Path, "/"), host: u.Host, mux: http.NewServeMux(),
		pages: map[string]*request{}, sessions: map[string]*session{}, codes: map[string]*grant{}, access: map[string]*grant{},
	}
	rand.Read(s.salt[:])
	if err := s.Rotate(); err != nil {
		return nil, err
	}
	s.mux.HandleFunc("GET "+s.path+"/.well-known/openid-configuration", s.discovery)
	s.mux.HandleFunc("GET "+s.path+"/jwks", s.jwks)
	s.mux.HandleFunc("GET "+s.path+"/authorize", s.authorize)
	s.mux.HandleFunc("POST "+s.path+"/choix", s.choose)
	s.mux.HandleFunc("POST "+s.path+"/token", s.token)
	s.mux.HandleFunc("GET "+s.path+"/userinfo", s.userinfo)
	s.mux.HandleFunc("GET "+s.path+"/session/end", s.endSession)
	return s, nil
}

// Listen takes an address of this machine.
func Listen(addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || !isLoopback(host) {
		return nil, errors.New("simulator: it listens on this machine alone: 127.0.0.1:port")
	}
	return net.Listen("tcp", addr)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// ServeHTTP answers who is on this machine.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err != nil || !isLoopback(host) {
		http.Error(w, "this simulator serves its own machine alone", http.StatusForbidden)
		return
	}
	// A site elsewhere may give its own name this machine's address, and a browser here follows (DNS rebinding): it would choose who somebody is.
	if !strings.EqualFold(r.Host, s.host) {
		http.Error(w, "this simulator is at "+s.cfg.Issuer, http.StatusMisdirectedRequest)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	s.mux.ServeHTTP(w, r)
}

// Rotate signs with a new key from now on. The one before stays published, those before that don't.
func (s *Server) Rotate() error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := jose.JSONWebKey{Key: private, KeyID: random()[:16], Algorithm: string(jose.ES256), Use: "sig"}
	s.keys = append([]jose.JSONWebKey{key}, s.keys[:min(1, len(s.keys))]...)
	return nil
}

func random() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// scopes are FranceConnect's, with the claims of each; ours beside them are those of people.
var scopes = map[string][]string{
	"openid": nil, "given_name": {"given_name"}, "family_name": {"family_name"}, "birthdate": {"birthdate"}, "gender": {"gender"},
	"birthplace": {"birthplace"}, "birthcountry": {"birthcountry"}, "preferred_username": {"preferred_username"},
	"profile":        {"given_name", "family_name", "birthdate", "gender", "preferred_username"},
	"birth":          {"birthplace", "birthcountry"},
	"identite_pivot": {"given_name", "family_name", "birthdate", "gender", "birthplace", "birthcountry"},
}

func (s *Server) knows(scope string) bool {
	if _, ok := scopes[scope]; ok {
		return true
	}
	return slices.ContainsFunc(s.cfg.People, func(p Person) bool { _, ok := p.Claims[scope]; return ok })
}

func (s *Server) discovery(w http.ResponseWriter, _ *http.Request) {
	doc := map[string]any{
		"issuer": s.cfg.Issuer, "authorization_endpoint": s.cfg.Issuer + "/authorize", "token_endpoint": s.cfg.Issuer + "/token",
		"userinfo_endpoint": s.cfg.Issuer + "/userinfo", "jwks_uri": s.cfg.Issuer + "/jwks", "end_session_endpoint": s.cfg.Issuer + "/session/end",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"pairwise"}, "acr_values_supported": s.cfg.Levels,
		"id_token_signing_alg_values_supported": []string{"ES256"}, "userinfo_signing_alg_values_supported": []string{"ES256"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post"}, "claims_parameter_supported": true,
	}
	if s.cfg.PKCE {
		doc["code_challenge_methods_supported"] = []string{"S256"}
	}
	writeJSON(w, http.StatusOK, doc)
}

func (s *Server) jwks(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	var set jose.JSONWebKeySet
	for _, k := range s.keys {
		set.Keys = append(set.Keys, k.Public())
	}
	s.mu.Unlock()
	writeJSON(w, http.StatusOK, set)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b) // #nosec G705 -- JSON under nosniff
}

func (s *Server) sign(token string, claims map[string]any) (string, error) {
	if s.cfg.Alter != nil {
		s.cfg.Alter(token, claims)
	}
	s.mu.Lock()
	key := s.keys[0]
	s.mu.Unlock()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(b)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// sub is pairwise: 64 hexadecimal characters and "v1", different for each client.
func (s *Server) sub(client *Client, person int) string {
	h := hmac.New(sha256.New, s.salt[:])
	fmt.Fprintf(h, "%s\x00%d", client.ID, person)
	return hex.EncodeToString(h.Sum(nil)) + "v1"
}

func oauthError(w http.ResponseWriter, status int, code string) {
	writeJSON(w, status, map[string]string{"error": code})
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	if r.ParseForm() != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request")
		return
	}
	f := r.PostForm
	client := s.client(f.Get("client_id"))
	if client == nil || subtle.ConstantTimeCompare([]byte(client.Secret), []byte(f.Get("client_secret"))) != 1 {
		oauthError(w, http.StatusUnauthorized, "invalid_client")
		return
	}
	if f.Get("grant_type") != "authorization_code" {
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type")
		return
	}
	g, access := s.redeem(f.Get("code"), func(g *grant) bool {
		return g.client.ID == client.ID && g.redirect == f.Get("redirect_uri") && challengeOf(f.Get("code_verifier")) == g.challenge
	})
	if g == nil {
		oauthError(w, http.StatusBadRequest, "invalid_grant")
		return
	}
	now := s.now()
	half := sha256.Sum256([]byte(access))
	claims := map[string]any{
		"iss": s.cfg.Issuer, "aud": client.ID, "sub": s.sub(client, g.person), "iat": now.Unix(), "exp": now.Add(TokenLife).Unix(),
		"nonce": g.nonce, "acr": g.level, "at_hash": base64.RawURLEncoding.EncodeToString(half[:16]),
	}
	if g.authTimeWanted {
		claims["auth_time"] = g.at.Unix()
	}
	id, err := s.sign("id_token", claims)
	if err != nil {
		oauthError(w, http.StatusInternalServerError, "server_error")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": int(TokenLife / time.Second), "id_token": id, "scope": strings.Join(g.scopes, " ")})
}

func challengeOf(verifier string) string {
	if verifier == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// redeem takes a code once. A second time revokes what it was redeemed for (RFC 6749, section 4.1.2).
func (s *Server) redeem(code string, fits func(*grant) bool) (*grant, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.codes[code]
	now := s.now()
	switch {
	case g == nil || !fits(g):
		return nil, ""
	case g.used:
		delete(s.access, g.token)
		return nil, ""
	case !now.Before(g.until):
		return nil, ""
	}
	g.used, g.token = true, random()
	token := *g
	token.until = now.Add(TokenLife)
	s.access[g.token] = &token
	return g, g.token
}

func (s *Server) userinfo(w http.ResponseWriter, r *http.Request) {
	access, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	g := s.access[access]
	s.mu.Unlock()
	now := s.now()
	if !ok || g == nil || !now.Before(g.until) {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		oauthError(w, http.StatusUnauthorized, "invalid_token")
		return
	}
	p := &s.cfg.People[g.person]
	all := map[string]string{
		"given_name": p.GivenName, "family_name": p.FamilyName, "birthdate": p.BirthDate, "gender": p.Gender,
		"birthplace": p.BirthPlace, "birthcountry": p.BirthCountry, "preferred_username": p.UsedName,
	}
	claims := map[string]any{"iss": s.cfg.Issuer, "aud": g.client.ID, "sub": s.sub(g.client, g.person), "iat": now.Unix(), "exp": now.Add(TokenLife).Unix()}
	for _, scope := range g.scopes {
		for _, name := range scopes[scope] {
			if name != "preferred_username" || p.UsedName != "" {
				claims[name] = all[name]
			}
		}
		if v, ok := p.Claims[scope]; ok {
			claims[scope] = v
		}
	}
	if _, ok := claims["given_name"]; ok {
		claims["given_name_array"] = strings.Fields(p.GivenName)
	}
	text, err := s.sign("userinfo", claims)
	if err != nil {
		oauthError(w, http.StatusInternalServerError, "server_error")
		return
	}
	w.Header().Set("Content-Type", "application/jwt")
	_, _ = w.Write([]byte(text))
}

func (s *Server) client(id string) *Client {
	for i := range s.cfg.Clients {
		if s.cfg.Clients[i].ID == id {
			return &s.cfg.Clients[i]
		}
	}
	return nil
}

// endSession signs the browser out.
func (s *Server) endSession(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	client := s.hinted(q.Get("id_token_hint"))
	to := q.Get("post_logout_redirect_uri")
	if client == nil || q.Get("state") == "" || !slices.Contains(client.LogoutURIs, to) {
		s.fault(w, "La déconnexion demande id_token_hint, state et une adresse de retour enregistrée.")
		return
	}
	if c, err := r.Cookie(cookie); err == nil {
		s.mu.Lock()
		delete(s.sessions, c.Value)
		s.mu.Unlock()
	}
	http.SetCookie(w, &http.Cookie{Name: cookie, Path: s.path + "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode}) // #nosec G124 -- plain http on this machine
	sendBack(w, to, url.Values{"state": {q.Get("state")}})
}

// hinted is the client to whom an ID token of ours was issued, however long ago.
func (s *Server) hinted(hint string) *Client {
	jws, err := jose.ParseSignedCompact(hint, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil
	}
	s.mu.Lock()
	keys := slices.Clone(s.keys)
	s.mu.Unlock()
	for _, k := range keys {
		payload, err := jws.Verify(k.Public())
		var claims struct{ Iss, Aud string }
		if err == nil && json.Unmarshal(payload, &claims) == nil && claims.Iss == s.cfg.Issuer {
			return s.client(claims.Aud)
		}
	}
	return nil
}

func sendBack(w http.ResponseWriter, to string, values url.Values) {
	u, err := url.Parse(to)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	q := u.Query()
	for name, v := range values {
		q[name] = v
	}
	u.RawQuery = q.Encode()
	w.Header().Set("Location", u.String())
	w.WriteHeader(http.StatusSeeOther)
}

package simulator_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/regard-broker/regard/broker/identity/simulator"
)

const (
	redirect  = "https://portal.example/retour"
	loggedOut = "https://portal.example/parti"
)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type world struct {
	t      *testing.T
	clock  *clock
	server *simulator.Server
	base   string
}

func config() simulator.Config {
	client := func(id string) simulator.Client {
		return simulator.Client{ID: id, Secret: "secret of " + id, RedirectURIs: []string{redirect}, LogoutURIs: []string{loggedOut}}
	}
	return simulator.Config{
		Development: true, Clients: []simulator.Client{client("one"), client("two")},
		People: []simulator.Person{
			{FamilyName: "EXEMPLE <b>ALPHA</b>", GivenName: "Camille", UsedName: "EXEMPLE", BirthDate: "1984-03-14", Gender: "female", BirthPlace: "75107", BirthCountry: "99100", Claims: map[string]string{"nir": "1"}},
			{FamilyName: "EXEMPLE ÉCHO", GivenName: "Amina", BirthDate: "1988-02-29", Gender: "female", BirthCountry: "99350"},
		},
	}
}

func newWorld(t *testing.T, cfg simulator.Config) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{t: time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)}}
	s := httptest.NewUnstartedServer(nil)
	w.base = "http://" + s.Listener.Addr().String() + "/api/v2"
	cfg.Issuer, cfg.Now = w.base, w.clock.now
	var err error
	if w.server, err = simulator.New(cfg); err != nil {
		t.Fatal(err)
	}
	s.Config.Handler = w.server
	s.Start()
	t.Cleanup(s.Close)
	return w
}

var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (w *world) do(r *http.Request, err error) (*http.Response, string) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := client.Do(r.WithContext(w.t.Context()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(b)
}

func (w *world) get(path string, q url.Values, header ...string) (*http.Response, string) {
	w.t.Helper()
	r, err := http.NewRequest(http.MethodGet, w.base+path+"?"+q.Encode(), nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return w.do(r, err)
}

func (w *world) post(path string, q url.Values) (*http.Response, string) {
	w.t.Helper()
	r, err := http.NewRequest(http.MethodPost, w.base+path, strings.NewReader(q.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return w.do(r, err)
}

func request(change ...string) url.Values {
	q := url.Values{
		"response_type": {"code"}, "client_id": {"one"}, "redirect_uri": {redirect}, "scope": {"openid identite_pivot preferred_username nir"},
		"acr_values": {"eidas1"}, "state": {"S"}, "nonce": {"0123456789012345678901"},
	}
	for i := 0; i+1 < len(change); i += 2 {
		q.Set(change[i], change[i+1])
		if change[i+1] == "" {
			q.Del(change[i])
		}
	}
	return q
}

var pageID = regexp.MustCompile(`name="page" value="([0-9a-f]+)"`)

// code plays a person at the page.
func (w *world) code(q url.Values) (string, *http.Response) {
	w.t.Helper()
	_, body := w.get("/authorize", q)
	m := pageID.FindStringSubmatch(body)
	if m == nil {
		w.t.Fatalf("no page: %s", body)
	}
	resp, body := w.post("/choix", url.Values{"page": {m[1]}, "personne": {"0"}})
	u, err := resp.Location()
	if err != nil {
		w.t.Fatalf("%v %s", err, body)
	}
	if !strings.HasPrefix(u.String(), redirect+"?") || u.Query().Get("state") != "S" {
		w.t.Fatalf("sent to %s", u)
	}
	return u.Query().Get("code"), resp
}

func exchange(code string, change ...string) url.Values {
	q := url.Values{"grant_type": {"authorization_code"}, "client_id": {"one"}, "client_secret": {"secret of one"}, "redirect_uri": {redirect}, "code": {code}}
	for i := 0; i+1 < len(change); i += 2 {
		q.Set(change[i], change[i+1])
	}
	return q
}

type tokens struct {
	Access string `json:"access_token"`
	ID     string `json:"id_token"`
	Error  string `json:"error"`
}

func (w *world) redeem(q url.Values) (tokens, int) {
	w.t.Helper()
	resp, body := w.post("/token", q)
	var out tokens
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		w.t.Fatal(err)
	}
	return out, resp.StatusCode
}

// open verifies a token with the published keys.
func (w *world) open(token string) map[string]any {
	w.t.Helper()
	_, body := w.get("/jwks", nil)
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(body), &set); err != nil {
		w.t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		w.t.Fatal(err)
	}
	payload, err := jws.Verify(set)
	if err != nil {
		w.t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		w.t.Fatal(err)
	}
	return claims
}

func TestFlow(t *testing.T) {
	w := newWorld(t, config())
	code, _ := w.code(request("claims", `{"id_token":{"auth_time":{"essential":true}}}`))
	got, status := w.redeem(exchange(code))
	if status != 200 {
		t.Fatal(got.Error)
	}
	id := w.open(got.ID)
	now := float64(w.clock.now().Unix())
	for name, want := range map[string]any{"iss": w.base, "aud": "one", "nonce": "0123456789012345678901", "acr": "eidas1", "iat": now, "exp": now + 60, "auth_time": now} {
		if id[name] != want {
			t.Errorf("%s is %v, want %v", name, id[name], want)
		}
	}
	resp, body := w.get("/userinfo", nil, "Authorization", "Bearer "+got.Access)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/jwt" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	user := w.open(body)
	for name, want := range map[string]any{"sub": id["sub"], "given_name": "Camille", "gender": "female", "birthplace": "75107", "preferred_username": "EXEMPLE", "nir": "1", "aud": "one", "iss": w.base} {
		if user[name] != want {
			t.Errorf("%s is %v, want %v", name, user[name], want)
		}
	}
	// sub differs from client to client.
	code, _ = w.code(request("client_id", "two"))
	two, _ := w.redeem(exchange(code, "client_id", "two", "client_secret", "secret of two"))
	if sub := w.open(two.ID)["sub"]; sub == id["sub"] {
		t.Error("sub is the same for two clients")
	}
	w.clock.add(simulator.TokenLife)
	if resp, _ := w.get("/userinfo", nil, "Authorization", "Bearer "+got.Access); resp.StatusCode != 401 {
		t.Errorf("an old access token: %d", resp.StatusCode)
	}
}

// A request of a wrong form gets a page, and sends nobody anywhere.
func TestRulesOfRequests(t *testing.T) {
	w := newWorld(t, config())
	if resp, _ := w.get("/authorize", request()); resp.StatusCode != 200 {
		t.Fatalf("a good one: %d", resp.StatusCode)
	}
	for name, q := range map[string]url.Values{
		"no state": request("state", ""), "no nonce": request("nonce", ""), "nonce of 21": request("nonce", "012345678901234567890"), "no level": request("acr_values", ""),
		"unknown level": request("acr_values", "eidas9"), "unknown client": request("client_id", "x"), "redirect with a slash": request("redirect_uri", redirect+"/"),
		"redirect elsewhere": request("redirect_uri", "https://evil.example"), "no openid": request("scope", "profile"), "unknown scope": request("scope", "openid x"),
		"prompt none": request("prompt", "none"), "max_age": request("max_age", "1"), "PKCE": request("code_challenge", "x"), "implicit": request("response_type", "id_token"),
		"claims": request("claims", "{"), "twice": func() url.Values { q := request(); q.Add("state", "T"); return q }(),
	} {
		resp, body := w.get("/authorize", q)
		if resp.StatusCode != 400 || !strings.Contains(body, "Y000400") || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
}

// A code is good once, for half a minute, for the client and the address that it was made for; used twice, it revokes what it gave.
func TestCodes(t *testing.T) {
	w := newWorld(t, config())
	for name, change := range map[string][]string{
		"secret": {"client_secret", "x"}, "client": {"client_id", "two", "client_secret", "secret of two"}, "address": {"redirect_uri", redirect + "/"}, "grant": {"grant_type", "password"}, "code": {"code", "x"},
	} {
		code, _ := w.code(request())
		if got, status := w.redeem(exchange(code, change...)); status < 400 || got.Access != "" {
			t.Errorf("another %s: %d", name, status)
		}
		if _, status := w.redeem(exchange(code)); status != 200 {
			t.Errorf("%s: the right one afterwards: %d", name, status)
		}
	}
	code, _ := w.code(request())
	first, _ := w.redeem(exchange(code))
	if got, status := w.redeem(exchange(code)); status != 400 || got.Error != "invalid_grant" {
		t.Errorf("a second time: %d %s", status, got.Error)
	}
	if resp, _ := w.get("/userinfo", nil, "Authorization", "Bearer "+first.Access); resp.StatusCode != 401 {
		t.Errorf("what it gave is still good: %d", resp.StatusCode)
	}
	code, _ = w.code(request())
	w.clock.add(simulator.CodeLife)
	if _, status := w.redeem(exchange(code)); status != 400 {
		t.Errorf("too late: %d", status)
	}
}

func TestPKCE(t *testing.T) {
	cfg := config()
	cfg.PKCE = true
	w := newWorld(t, cfg)
	sum := sha256.Sum256([]byte("verifier"))
	q := request("code_challenge", base64.RawURLEncoding.EncodeToString(sum[:]), "code_challenge_method", "S256")
	code, _ := w.code(q)
	for _, verifier := range []string{"", "other"} {
		if _, status := w.redeem(exchange(code, "code_verifier", verifier)); status != 400 {
			t.Errorf("verifier %q: %d", verifier, status)
		}
	}
	if _, status := w.redeem(exchange(code, "code_verifier", "verifier")); status != 200 {
		t.Errorf("the right one: %d", status)
	}
	q.Set("code_challenge_method", "plain")
	if resp, _ := w.get("/authorize", q); resp.StatusCode != 400 {
		t.Errorf("plain: %d", resp.StatusCode)
	}
}

// In a browser where somebody signed in, the next service needs no click, for half an hour, unless it wants one, and until they sign out.
func TestSession(t *testing.T) {
	w := newWorld(t, config())
	code, resp := w.code(request())
	cookie := strings.SplitN(resp.Header.Get("Set-Cookie"), ";", 2)[0]
	asked := func(q url.Values) bool {
		t.Helper()
		resp, body := w.get("/authorize", q, "Cookie", cookie)
		if resp.StatusCode == http.StatusSeeOther {
			return false
		}
		if !pageID.MatchString(body) {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		return true
	}
	if asked(request()) || !asked(request("prompt", "login")) {
		t.Error("the session counts for nothing, or for too much")
	}
	got, _ := w.redeem(exchange(code))
	out := func(change ...string) url.Values {
		q := url.Values{"id_token_hint": {got.ID}, "state": {"S"}, "post_logout_redirect_uri": {loggedOut}}
		for i := 0; i+1 < len(change); i += 2 {
			q.Set(change[i], change[i+1])
		}
		return q
	}
	for _, q := range []url.Values{out("state", ""), out("id_token_hint", ""), out("id_token_hint", got.ID[:len(got.ID)-4]), out("post_logout_redirect_uri", loggedOut+"/")} {
		if resp, _ := w.get("/session/end", q, "Cookie", cookie); resp.StatusCode != 400 {
			t.Errorf("signed out with %v", q)
		}
	}
	if asked(request()) {
		t.Error("signed out by a bad request")
	}
	resp, _ = w.get("/session/end", out(), "Cookie", cookie)
	if to := resp.Header.Get("Location"); to != loggedOut+"?state=S" {
		t.Errorf("sent to %q", to)
	}
	if !asked(request()) {
		t.Error("not signed out")
	}
	_, resp = w.code(request())
	cookie = strings.SplitN(resp.Header.Get("Set-Cookie"), ";", 2)[0]
	w.clock.add(simulator.SessionLife)
	if !asked(request()) {
		t.Error("the session doesn't end")
	}
}

func TestPage(t *testing.T) {
	w := newWorld(t, config())
	resp, body := w.get("/authorize", request())
	m := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(body)
	if m == nil {
		t.Fatal("no style")
	}
	sum := sha256.Sum256([]byte(m[1]))
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
		t.Errorf("the page's own style isn't allowed by %s", csp)
	}
	if strings.Contains(body, "<b>") || !strings.Contains(body, "&lt;b&gt;ALPHA") || !strings.Contains(body, `lang="fr"`) || !strings.Contains(body, "pays 99350") {
		t.Error(body)
	}
	page := pageID.FindStringSubmatch(body)[1]
	resp, _ = w.post("/choix", url.Values{"page": {page}, "refus": {"1"}})
	if to := resp.Header.Get("Location"); !strings.Contains(to, "error=access_denied") || !strings.Contains(to, "state=S") {
		t.Errorf("refused: %s", to)
	}
	// A page is good once, for somebody who exists, for ten minutes.
	for _, q := range []url.Values{{"page": {page}, "personne": {"0"}}, {"page": {"x"}, "personne": {"0"}}} {
		if resp, _ := w.post("/choix", q); resp.StatusCode != 400 {
			t.Errorf("%v: %d", q, resp.StatusCode)
		}
	}
	for _, n := range []string{"", "-1", "2", "x"} {
		_, body := w.get("/authorize", request())
		if resp, _ := w.post("/choix", url.Values{"page": {pageID.FindStringSubmatch(body)[1]}, "personne": {n}}); resp.StatusCode != 400 {
			t.Errorf("person %q: %d", n, resp.StatusCode)
		}
	}
	_, body = w.get("/authorize", request())
	w.clock.add(10 * time.Minute)
	if resp, _ := w.post("/choix", url.Values{"page": {pageID.FindStringSubmatch(body)[1]}, "personne": {"0"}}); resp.StatusCode != 400 {
		t.Errorf("too late: %d", resp.StatusCode)
	}
}

// It lets everybody be anybody: so it runs nowhere but on one's own machine.
func TestRefusals(t *testing.T) {
	for name, change := range map[string]func(*simulator.Config){
		"production": func(c *simulator.Config) { c.Development = false },
		"elsewhere":  func(c *simulator.Config) { c.Issuer = "http://franceconnect.example/api/v2" },
		"https":      func(c *simulator.Config) { c.Issuer = "https://127.0.0.1/api/v2" },
		"no issuer":  func(c *simulator.Config) { c.Issuer = "" },
		"no clients": func(c *simulator.Config) { c.Clients = nil },
		"no people":  func(c *simulator.Config) { c.People = nil },
	} {
		c := config()
		c.Issuer = "http://127.0.0.1:1/api/v2"
		change(&c)
		if _, err := simulator.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "x"} {
		if ln, err := simulator.Listen(addr); err == nil {
			ln.Close()
			t.Errorf("it listens on %s", addr)
		}
	}
	ln, err := simulator.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	w := newWorld(t, config())
	r := httptest.NewRequest(http.MethodGet, w.base+"/jwks", nil)
	for addr, want := range map[string]int{"192.0.2.1:1234": 403, "[2001:db8::1]:1": 403, "": 403, "127.0.0.1:1": 200, "[::1]:1": 200} {
		r.RemoteAddr = addr
		rec := httptest.NewRecorder()
		w.server.ServeHTTP(rec, r)
		if rec.Code != want {
			t.Errorf("from %q: %d", addr, rec.Code)
		}
	}
}

// A browser on this machine that a foreign name led here (DNS rebinding) gets nothing: it would choose who somebody is.
func TestForeignHost(t *testing.T) {
	w := newWorld(t, config())
	issuer, err := url.Parse(w.base)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/.well-known/openid-configuration", "/jwks", "/authorize", "/choix", "/token", "/userinfo", "/session/end"} {
		for host, own := range map[string]bool{
			issuer.Host: true, "evil.example": false, "evil.example:" + issuer.Port(): false, "localhost:" + issuer.Port(): false, "127.0.0.1": false, "127.0.0.1:1": false, "127.0.0.1.evil.example:" + issuer.Port(): false,
			issuer.Host + ".": false, "": false,
		} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				r := httptest.NewRequest(method, w.base+path, nil)
				r.RemoteAddr, r.Host = "127.0.0.1:1", host
				rec := httptest.NewRecorder()
				w.server.ServeHTTP(rec, r)
				if (rec.Code != http.StatusMisdirectedRequest) != own || !own && len(rec.Result().Cookies()) != 0 {
					t.Errorf("%s %s under %q: %d", method, path, host, rec.Code)
				}
			}
		}
	}
}

package identity_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/simulator"
)

// Each claim that somebody could get wrong, signed as it should be.
func TestClaimsOfTokens(t *testing.T) {
	w := newWorld(t)
	now := w.clock.now().Unix()
	for _, x := range []struct {
		name, token, claim string
		value              any // nil: left out
		want               identity.Code
	}{
		{"issuer", "id_token", "iss", "https://other.example", identity.Untrusted},
		{"no issuer", "id_token", "iss", nil, identity.Untrusted},
		{"audience", "id_token", "aud", "another", identity.Untrusted},
		{"audience of several", "id_token", "aud", []string{"regard", "another"}, identity.Untrusted},
		{"no audience", "id_token", "aud", nil, identity.Untrusted},
		{"expired", "id_token", "exp", now - 61, identity.Untrusted},
		{"no expiry", "id_token", "exp", nil, identity.Untrusted},
		{"issued long ago", "id_token", "iat", now - 181, identity.Untrusted},
		{"issued in the future", "id_token", "iat", now + 61, identity.Untrusted},
		{"no time", "id_token", "iat", nil, identity.Untrusted},
		{"not yet", "id_token", "nbf", now + 1000, identity.Untrusted},
		{"nonce", "id_token", "nonce", "0123456789012345678901", identity.Untrusted},
		{"no nonce", "id_token", "nonce", nil, identity.Untrusted},
		{"no subject", "id_token", "sub", nil, identity.Untrusted},
		{"another subject", "id_token", "sub", "other", identity.Untrusted},
		{"access token", "id_token", "at_hash", "AAAAAAAAAAAAAAAAAAAAAA", identity.Untrusted},
		{"lower level", "id_token", "acr", "eidas1", identity.TooLow},
		{"no level", "id_token", "acr", nil, identity.TooLow},
		{"unknown level", "id_token", "acr", "eidas9", identity.TooLow},
		{"level of another type", "id_token", "acr", 3, identity.Untrusted},
		{"signed in tomorrow", "id_token", "auth_time", now + 86400, identity.Untrusted},
		{"auth_time of another type", "id_token", "auth_time", "now", identity.Untrusted},
		{"userinfo: issuer", "userinfo", "iss", "https://other.example", identity.Untrusted},
		{"userinfo: no issuer", "userinfo", "iss", nil, identity.Untrusted},
		{"userinfo: audience", "userinfo", "aud", "another", identity.Untrusted},
		{"userinfo: no audience", "userinfo", "aud", nil, identity.Untrusted},
		{"userinfo: expired", "userinfo", "exp", now - 61, identity.Untrusted},
		{"userinfo: issued long ago", "userinfo", "iat", now - 181, identity.Untrusted},
		{"userinfo: issued in the future", "userinfo", "iat", now + 61, identity.Untrusted},
		{"userinfo: somebody else", "userinfo", "sub", "other", identity.Untrusted},
		{"userinfo: nobody", "userinfo", "sub", nil, identity.Untrusted},
		{"userinfo: gender", "userinfo", "gender", "other", identity.Untrusted},
		{"userinfo: name of another type", "userinfo", "family_name", []string{"A"}, identity.Untrusted},
		{"userinfo: birth date", "userinfo", "birthdate", "14/03/1984", identity.Untrusted},
		{"userinfo: no such day", "userinfo", "birthdate", "1984-02-30", identity.Untrusted},
		{"userinfo: place abroad", "userinfo", "birthcountry", "99350", identity.Untrusted},
		{"userinfo: no such country", "userinfo", "birthcountry", "33", identity.Untrusted},
		{"userinfo: hidden text", "userinfo", "given_name", "Camille\u202e", identity.Untrusted},
		{"userinfo: no name", "userinfo", "family_name", nil, identity.Incomplete},
		{"userinfo: name without letters", "userinfo", "family_name", "李", identity.Incomplete},
		// And what is good.
		{"higher level", "id_token", "acr", "eidas3", ""},
		{"audience of one", "id_token", "aud", []string{"regard"}, ""},
		{"within the skew", "id_token", "exp", now - 59, ""},
		{"no at_hash", "id_token", "at_hash", nil, ""},
		{"unknown claim", "userinfo", "idp_birthdate", []int{1}, ""},
	} {
		w.alter = func(token string, claims map[string]any) {
			if token != x.token {
				return
			}
			if x.value == nil {
				delete(claims, x.claim)
			} else {
				claims[x.claim] = x.value
			}
		}
		b := w.browser()
		p := b.signIn(camille)
		if x.want == "" {
			if p.url.Path != "/moi" {
				t.Errorf("%s: %d %s\n%s", x.name, p.status, p.body, w.logs)
			}
			continue
		}
		w.mu.Lock()
		n := w.notice
		w.notice = nil
		w.mu.Unlock()
		if n == nil || n.Code != x.want || b.signedIn() {
			t.Errorf("%s: %d %s, want %s", x.name, p.status, p.body, x.want)
		}
	}
}

// member changes one member of a JSON answer.
func member(name string, f func(old string) string) func([]byte) []byte {
	return func(b []byte) []byte {
		var m map[string]any
		if json.Unmarshal(b, &m) != nil {
			return b
		}
		m[name] = f(fmt.Sprint(m[name]))
		out, _ := json.Marshal(m)
		return out
	}
}

// resign makes a token with the same claims under something else than the provider's key.
func resign(t *testing.T, token string, alg jose.SignatureAlgorithm, key any, kid string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	opts := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", kid)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) publicKey() jose.JSONWebKey {
	w.t.Helper()
	resp, err := http.Get(w.cfg.Issuer + "/jwks")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		w.t.Fatal(err)
	}
	return set.Keys[0]
}

// Tokens that the provider didn't sign, or not in this form.
func TestForgedTokens(t *testing.T) {
	w := newWorld(t)
	key := w.publicKey()
	public, err := x509.MarshalPKIXPublicKey(key.Key)
	if err != nil {
		t.Fatal(err)
	}
	forger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := key.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	forgeries := map[string]func(string) string{
		"the forger's key":            func(s string) string { return resign(t, s, jose.ES256, forger, key.KeyID) },
		"the forger's key, unnamed":   func(s string) string { return resign(t, s, jose.ES256, forger, "") },
		"HMAC of the public key":      func(s string) string { return resign(t, s, jose.HS256, public, key.KeyID) },
		"HMAC of the JWK":             func(s string) string { return resign(t, s, jose.HS256, jwk, key.KeyID) },
		"HMAC of the client's secret": func(s string) string { return resign(t, s, jose.HS256, bytes.Repeat([]byte("s3cret"), 6), key.KeyID) },
		"no algorithm":                func(s string) string { return b64([]byte(`{"alg":"none"}`)) + "." + strings.Split(s, ".")[1] + "." },
		"no algorithm, with signature": func(s string) string {
			p := strings.Split(s, ".")
			return b64([]byte(`{"alg":"none"}`)) + "." + p[1] + "." + p[2]
		},
		"no signature": func(s string) string { p := strings.Split(s, "."); return p[0] + "." + p[1] + "." },
		"another payload": func(s string) string {
			p := strings.Split(s, ".")
			return p[0] + "." + b64([]byte(`{"sub":"x"}`)) + "." + p[2]
		},
		"its own key in the header":     func(s string) string { return embedded(t, s, forger) },
		"cut":                           func(s string) string { return s[:len(s)/2] },
		"nothing":                       func(string) string { return "" },
		"an encrypted token":            func(s string) string { return s + ".x.y" },
		"two signatures, one of theirs": func(s string) string { return twice(t, s, forger) },
	}
	for name, forge := range forgeries {
		w.clock.add(2 * time.Minute) // keys are fetched again
		w.theirs.add(2 * time.Minute)
		for endpoint, f := range map[string]func([]byte) []byte{
			"token":    member("id_token", forge),
			"userinfo": func(b []byte) []byte { return []byte(forge(string(b))) },
		} {
			w.transport.rewrite(endpoint, f)
			b := w.browser()
			p := b.signIn(camille)
			w.mu.Lock()
			n := w.notice
			w.notice = nil
			w.mu.Unlock()
			if n == nil || n.Code != identity.Untrusted || b.signedIn() {
				t.Errorf("%s in the %s: %d %s", name, endpoint, p.status, p.body)
			}
		}
	}
	w.transport.set(nil)
	w.browser().mustSignIn(camille)
}

// embedded names the forger's key in the token's own header.
func embedded(t *testing.T, token string, forger *ecdsa.PrivateKey) string {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: forger}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// twice is a general JSON serialisation with the true signature and another.
func twice(t *testing.T, token string, forger *ecdsa.PrivateKey) string {
	t.Helper()
	p := strings.Split(token, ".")
	other := strings.Split(resign(t, token, jose.ES256, forger, ""), ".")
	return fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q},{"protected":%q,"signature":%q}]}`, p[1], other[0], other[2], p[0], p[2])
}

// What was good for one sign-in isn't for the next: neither the tokens of one's own last, nor those of somebody else.
func TestReplayedTokens(t *testing.T) {
	for _, thief := range []int{camille, jeanBordeaux} {
		w := newWorld(t)
		var id, user string
		w.transport.rewrite("token", member("id_token", func(s string) string { id = s; return s }))
		w.browser().mustSignIn(camille)
		w.transport.rewrite("userinfo", func(b []byte) []byte { user = string(b); return b })
		w.browser().mustSignIn(camille)
		w.transport.rewrite("token", member("id_token", func(string) string { return id }))
		b := w.browser()
		w.wantNotice(b.signIn(thief), identity.Untrusted)
		if b.signedIn() {
			t.Error("an old ID token signs in")
		}
		w.transport.rewrite("userinfo", func([]byte) []byte { return []byte(user) })
		p := b.signIn(thief)
		if thief == camille {
			// One's own userinfo of a moment ago says the same.
			if p.url.Path != "/moi" {
				t.Errorf("%d %s", p.status, p.body)
			}
			w.theirs.add(4 * time.Minute)
			w.clock.add(4 * time.Minute)
			w.browser().signIn(thief)
			w.wantNotice(w.browser().signIn(thief), identity.Untrusted)
			continue
		}
		w.wantNotice(p, identity.Untrusted)
		if b.signedIn() {
			t.Error("somebody else's userinfo signs in")
		}
	}
}

// An unsigned userinfo isn't taken, whatever it says.
func TestUnsignedUserinfo(t *testing.T) {
	w := newWorld(t)
	for _, media := range []string{"application/json", "text/html", ""} {
		w.transport.set(func(path string, r *http.Request) (*http.Response, error) {
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err == nil && path == "userinfo" {
				resp.Header.Set("Content-Type", media)
			}
			return resp, err
		})
		b := w.browser()
		w.wantNotice(b.signIn(camille), identity.Untrusted)
		if b.signedIn() {
			t.Errorf("%q signs in", media)
		}
	}
}

// The provider's keys change: unknown ones are fetched, but not as often as somebody likes.
func TestKeyRotation(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		w.browser().mustSignIn(jeanBordeaux)
		if err := w.simulator.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	w.browser().mustSignIn(jeanBordeaux)
	if n := w.transport.count("jwks"); n != 4 {
		t.Errorf("keys were fetched %d times for 4 keys", n)
	}
	forger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.transport.rewrite("token", member("id_token", func(s string) string { return resign(t, s, jose.ES256, forger, "unknown") }))
	for range 10 {
		if b := w.browser(); b.signIn(camille).status == http.StatusOK || b.signedIn() {
			t.Error("a forged token signs in")
		}
	}
	if n := w.transport.count("jwks"); n > 6 {
		t.Errorf("forged tokens had keys fetched %d times at one moment", n)
	}
	// Whose key is known signs in meanwhile; after a while keys can be fetched again.
	w.transport.set(nil)
	w.browser().mustSignIn(camille)
	w.clock.add(time.Minute)
	w.theirs.add(time.Minute)
	if err := w.simulator.Rotate(); err != nil {
		t.Fatal(err)
	}
	w.browser().mustSignIn(camille)
}

// Clocks may differ by a minute.
func TestClockSkew(t *testing.T) {
	for _, x := range []struct {
		by time.Duration
		ok bool
	}{{0, true}, {55 * time.Second, true}, {-55 * time.Second, true}, {4 * time.Minute, false}, {-2 * time.Minute, false}} {
		w := newWorld(t)
		w.clock.add(x.by)
		b := w.browser()
		p := b.signIn(camille)
		if x.ok {
			if p.url.Path != "/moi" {
				t.Errorf("%s: %d %s", x.by, p.status, p.body)
			}
			continue
		}
		w.wantNotice(p, identity.Untrusted)
		if b.signedIn() {
			t.Errorf("%s: signed in", x.by)
		}
	}
}

// A provider that is down, slow, in a bad state or refuses us: the person is told to come back, and can.
func TestProviderFails(t *testing.T) {
	status := func(code int, body string) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		}
	}
	for name, x := range map[string]struct {
		answer func(*http.Request) (*http.Response, error)
		wants  map[string]identity.Code // by endpoint, if not Unavailable
	}{
		"down": {answer: func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }},
		"slow": {answer: func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		}},
		"broken":  {answer: status(500, `{"error":"EXEMPLE"}`)},
		"busy":    {answer: status(503, ``)},
		"refuses": {answer: status(401, `{"error":"invalid_client"}`)},
		"endless": {answer: status(200, `{"x":"`+strings.Repeat("x", 70_000)+`"}`), wants: map[string]identity.Code{"token": identity.Untrusted}},
		"elsewhere": {answer: func(r *http.Request) (*http.Response, error) {
			resp, err := status(302, "")(r)
			resp.Header.Set("Location", "https://evil.example/")
			return resp, err
		}},
		"empty":         {answer: status(200, ``), wants: map[string]identity.Code{"token": identity.Untrusted, "userinfo": identity.Untrusted}},
		"not JSON":      {answer: status(200, `<html>`), wants: map[string]identity.Code{"token": identity.Untrusted, "userinfo": identity.Untrusted}},
		"nothing in it": {answer: status(200, `{}`), wants: map[string]identity.Code{"token": identity.Untrusted, "userinfo": identity.Untrusted, "jwks": identity.Untrusted}},
	} {
		w := newWorld(t, func(w *world, _ *simulator.Config) {
			if name == "slow" {
				w.cfg.Timeout = 300 * time.Millisecond // whatever else is too slow meanwhile has the same end
			}
		})
		for _, endpoint := range []string{"openid-configuration", "token", "jwks", "userinfo"} {
			if endpoint == "jwks" { // those of before are known
				if err := w.simulator.Rotate(); err != nil {
					t.Fatal(err)
				}
			}
			w.transport.set(func(path string, r *http.Request) (*http.Response, error) {
				if path == endpoint {
					return x.answer(r)
				}
				return http.DefaultTransport.RoundTrip(r)
			})
			want, ok := x.wants[endpoint]
			if !ok {
				want = identity.Unavailable
			}
			b := w.browser()
			p := b.get(w.portal.URL + identity.PathSignIn + "?retour=/moi")
			if p.status == http.StatusOK {
				p = b.choose(b.form(p), camille)
			}
			w.mu.Lock()
			n := w.notice
			w.notice = nil
			w.mu.Unlock()
			if n == nil || n.Code != want || b.signedIn() {
				t.Errorf("%s: %s: %d %s, want %s\n%s", name, endpoint, p.status, p.body, want, w.logs)
				continue
			}
			if want == identity.Unavailable && (p.status != 503 || p.header.Get("Retry-After") == "") {
				t.Errorf("%s: %s: %d, Retry-After %q", name, endpoint, p.status, p.header.Get("Retry-After"))
			}
			w.transport.set(nil)
			// Who comes back at once may still share the question that is about to fail.
			for deadline := time.Now().Add(time.Minute); ; {
				b := w.browser()
				p := b.get(w.portal.URL + identity.PathSignIn + "?retour=/moi")
				if p.status == http.StatusOK {
					p = b.choose(b.form(p), camille)
				}
				if p.url.Path == "/moi" {
					break
				}
				if p.status != http.StatusServiceUnavailable || time.Now().After(deadline) {
					t.Fatalf("%s: %s: it doesn't recover: %d %s", name, endpoint, p.status, p.body)
				}
				w.clock.add(10 * time.Second) // keys may be fetched again
				w.theirs.add(10 * time.Second)
			}
		}
	}
}

// An old discovery document is better than none.
func TestDiscoveryIsRenewed(t *testing.T) {
	w := newWorld(t)
	const doc = "openid-configuration"
	w.browser().mustSignIn(jeanBordeaux)
	w.browser().mustSignIn(jeanBordeaux)
	if n := w.transport.count(doc); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	w.clock.add(2 * time.Hour)
	w.theirs.add(2 * time.Hour)
	w.transport.set(func(path string, r *http.Request) (*http.Response, error) {
		if path == doc {
			return nil, io.ErrUnexpectedEOF
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	w.browser().mustSignIn(jeanBordeaux)
	if n := w.transport.count(doc); n < 2 {
		t.Errorf("not renewed: fetched %d times", n)
	}
}

// A discovery document that leads somewhere else is no use.
func TestDiscoveryIsChecked(t *testing.T) {
	for name, x := range map[string][2]string{
		"another issuer":       {"issuer", "https://other.example"},
		"authorize in clear":   {"authorization_endpoint", "http://other.example/authorize"},
		"token in clear":       {"token_endpoint", "http://other.example/token"},
		"no userinfo":          {"userinfo_endpoint", ""},
		"keys from a file":     {"jwks_uri", "file:///etc/passwd"},
		"sign out in a script": {"end_session_endpoint", "javascript:alert(1)"},
	} {
		w := newWorld(t)
		w.transport.rewrite("openid-configuration", member(x[0], func(string) string { return x[1] }))
		p := w.browser().get(w.portal.URL + identity.PathSignIn)
		w.mu.Lock()
		n := w.notice
		w.mu.Unlock()
		if n == nil || n.Code != identity.Unavailable {
			t.Errorf("%s: %d %s", name, p.status, p.body)
		}
	}
	// Nor one of a provider that doesn't know the level.
	w := newWorld(t, func(w *world, sim *simulator.Config) { sim.Levels, w.cfg.Level = []string{"eidas1"}, identity.High })
	w.wantNotice(w.browser().get(w.portal.URL+identity.PathSignIn), identity.Unavailable)
}

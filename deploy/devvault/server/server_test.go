package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// client speaks to the server as any Vault client does.
type client struct {
	t     *testing.T
	http  *http.Client
	base  string
	token string
}

func connect(t *testing.T, s *Server) client {
	return client{t: t, http: http.DefaultClient, base: s.Ready().Address, token: s.Ready().RootToken}
}

// try returns the status and the "data" of the answer ("auth" of a login).
func (c client) try(method, path string, body any) (int, map[string]any) {
	c.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", c.token)
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err = io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var answer struct{ Data, Auth map[string]any }
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &answer); err != nil {
			c.t.Fatalf("%s %s: %v in %s", method, path, err, raw)
		}
	}
	if answer.Auth != nil {
		return res.StatusCode, answer.Auth
	}
	return res.StatusCode, answer.Data
}

func (c client) must(method, path string, body any) map[string]any {
	c.t.Helper()
	status, data := c.try(method, path, body)
	if status/100 != 2 {
		c.t.Fatalf("%s %s: status %d", method, path, status)
	}
	return data
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

func TestTransit(t *testing.T) {
	s := start(t, Config{})
	defer stop(t, s)
	c := connect(t, s)
	c.must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	c.must("POST", "transit/keys/person", map[string]any{"type": "aes256-gcm96"})

	one := c.must("POST", "transit/encrypt/person", map[string]any{"plaintext": b64("salt"), "associated_data": b64("entry 1")})
	sealed := one["ciphertext"].(string)
	if !strings.HasPrefix(sealed, "vault:v1:") {
		t.Errorf("ciphertext %q is not Vault's", sealed)
	}
	back := c.must("POST", "transit/decrypt/person", map[string]any{"ciphertext": sealed, "associated_data": b64("entry 1")})
	if back["plaintext"] != b64("salt") {
		t.Errorf("decrypted %q", back["plaintext"])
	}
	if status, _ := c.try("POST", "transit/decrypt/person", map[string]any{"ciphertext": sealed, "associated_data": b64("entry 2")}); status != http.StatusBadRequest {
		t.Errorf("with another entry's associated data: status %d, want 400", status)
	}

	var batch []map[string]any
	for i := range 10 {
		batch = append(batch, map[string]any{"plaintext": b64(fmt.Sprint(i))})
	}
	results := c.must("POST", "transit/encrypt/person", map[string]any{"batch_input": batch})["batch_results"].([]any)
	batch = nil
	for _, r := range results {
		batch = append(batch, map[string]any{"ciphertext": r.(map[string]any)["ciphertext"]})
	}
	results = c.must("POST", "transit/decrypt/person", map[string]any{"batch_input": batch})["batch_results"].([]any)
	if len(results) != 10 {
		t.Fatalf("batch of 10 gave %d results", len(results))
	}
	for i, r := range results {
		if got := r.(map[string]any)["plaintext"]; got != b64(fmt.Sprint(i)) {
			t.Errorf("batch result %d is %v", i, got)
		}
	}
}

func TestSign(t *testing.T) {
	s := start(t, Config{})
	defer stop(t, s)
	c := connect(t, s)
	c.must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	c.must("POST", "transit/keys/log", map[string]any{"type": "ed25519"})
	message := "checkpoint\n1\n"
	signature := c.must("POST", "transit/sign/log", map[string]any{"input": b64(message)})["signature"].(string)
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signature, "vault:v1:"))
	if err != nil {
		t.Fatal(err)
	}
	versions := c.must("GET", "transit/keys/log", nil)["keys"].(map[string]any)
	public, err := base64.StdEncoding.DecodeString(versions["1"].(map[string]any)["public_key"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(public, []byte(message), raw) {
		t.Error("the signature does not verify under the published key")
	}
}

func TestAppRole(t *testing.T) {
	s := start(t, Config{})
	defer stop(t, s)
	c := connect(t, s)
	c.must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	c.must("POST", "transit/keys/mine", nil)
	c.must("POST", "transit/keys/theirs", nil)
	c.must("PUT", "sys/policies/acl/broker", map[string]any{"policy": `path "transit/encrypt/mine" { capabilities = ["update"] }`})
	c.must("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	c.must("POST", "auth/approle/role/broker", map[string]any{"token_policies": "broker", "token_ttl": "1m"})
	role := c.must("GET", "auth/approle/role/broker/role-id", nil)["role_id"]
	secret := c.must("POST", "auth/approle/role/broker/secret-id", nil)["secret_id"]

	c.token = ""
	if status, _ := c.try("POST", "auth/approle/login", map[string]any{"role_id": role, "secret_id": "wrong"}); status != http.StatusBadRequest {
		t.Errorf("login with a wrong secret: status %d, want 400", status)
	}
	c.token = c.must("POST", "auth/approle/login", map[string]any{"role_id": role, "secret_id": secret})["client_token"].(string)
	c.must("POST", "transit/encrypt/mine", map[string]any{"plaintext": b64("x")})
	if status, _ := c.try("POST", "transit/encrypt/theirs", map[string]any{"plaintext": b64("x")}); status != http.StatusForbidden {
		t.Errorf("a key outside the policy: status %d, want 403", status)
	}
}

func TestSealAndUnseal(t *testing.T) {
	s := start(t, Config{})
	defer stop(t, s)
	c := connect(t, s)
	c.must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	c.must("POST", "transit/keys/k", nil)
	c.must("PUT", "sys/seal", nil)
	if status, _ := c.try("POST", "transit/encrypt/k", map[string]any{"plaintext": b64("x")}); status != http.StatusServiceUnavailable {
		t.Errorf("sealed: status %d, want 503", status)
	}
	c.must("PUT", "sys/unseal", map[string]any{"key": s.Ready().UnsealKeys[0]})
	c.must("POST", "transit/encrypt/k", map[string]any{"plaintext": b64("x")})
}

func TestRestartKeepsData(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Storage: filepath.Join(dir, "vault"), ReadyFile: filepath.Join(dir, "ready.json")}
	s := start(t, cfg)
	first := s.Ready()
	c := connect(t, s)
	c.must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	c.must("POST", "transit/keys/k", nil)
	sealed := c.must("POST", "transit/encrypt/k", map[string]any{"plaintext": b64("kept")})["ciphertext"]

	if _, err := New(t.Context(), Config{Storage: cfg.Storage}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second server on the same storage: %v, want a refusal", err)
	}
	if got := readReady(t, cfg.ReadyFile); got.Address != first.Address || got.RootToken != first.RootToken {
		t.Error("the ready file does not say what Ready says")
	}
	stop(t, s)
	if _, err := os.Stat(cfg.ReadyFile); !os.IsNotExist(err) {
		t.Errorf("the ready file outlives the server: %v", err)
	}

	cfg.Sealed = true
	s = start(t, cfg)
	defer stop(t, s)
	if s.Ready().RootToken != first.RootToken {
		t.Error("the restart made another root token")
	}
	c = connect(t, s)
	decrypt := map[string]any{"ciphertext": sealed}
	if status, _ := c.try("POST", "transit/decrypt/k", decrypt); status != http.StatusServiceUnavailable {
		t.Errorf("started sealed: status %d, want 503", status)
	}
	c.must("PUT", "sys/unseal", map[string]any{"key": readReady(t, cfg.ReadyFile).UnsealKeys[0]})
	if got := c.must("POST", "transit/decrypt/k", decrypt)["plaintext"]; got != b64("kept") {
		t.Errorf("after the restart: %v", got)
	}
}

func readReady(t *testing.T, path string) Ready {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v, want 0600", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var ready Ready
	if err := json.Unmarshal(raw, &ready); err != nil {
		t.Fatal(err)
	}
	return ready
}

func TestTLS(t *testing.T) {
	cert, key, pool := newCertificate(t, t.TempDir(), time.Now())
	s := start(t, Config{TLSCert: cert, TLSKey: key})
	defer stop(t, s)
	c := connect(t, s)
	if !strings.HasPrefix(c.base, "https://") {
		t.Fatalf("address %q", c.base)
	}
	c.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer c.http.CloseIdleConnections()
	c.must("GET", "sys/health", nil)
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"every interface", Config{Listen: ":0"}, "not a loopback"},
		{"every IPv4 interface", Config{Listen: "0.0.0.0:0"}, "not a loopback"},
		{"every IPv6 interface", Config{Listen: "[::]:0"}, "not a loopback"},
		{"a public address", Config{Listen: "192.0.2.1:0"}, "not a loopback"},
		{"no port", Config{Listen: "127.0.0.1"}, "not host:port"},
		{"half of TLS", Config{TLSCert: "cert.pem"}, "belong together"},
		{"no such certificate", Config{TLSCert: "absent.pem", TLSKey: "absent.pem"}, "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := New(t.Context(), tc.cfg)
			if err == nil {
				stop(t, s)
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want it to say %q", err, tc.want)
			}
		})
	}
}

// Without its keys a storage can't be opened: say so, and don't touch it.
func TestLostKeys(t *testing.T) {
	dir := t.TempDir()
	stop(t, start(t, Config{Storage: dir}))
	if err := os.Remove(keysFile(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), Config{Storage: dir}); err == nil || !strings.Contains(err.Error(), "start anew") {
		t.Errorf("%v, want advice", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := start(t, Config{})
	cancel()
	if err := s.Wait(ctx); err != nil {
		t.Error(err)
	}
	if _, err := http.Get(s.Ready().Address + "/v1/sys/health"); err == nil {
		t.Error("still answers after Wait")
	}
}

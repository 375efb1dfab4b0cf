package vault_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/vault"
)

// cluster is the part of a Kubernetes API server that Vault asks: it answers TokenReviews (authentication.k8s.io/v1) of the tokens that it issued.
// https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
type cluster struct {
	t      *testing.T
	signer jose.Signer
	url    string
	ca     string

	mu       sync.Mutex
	reviewer string
	issued   map[string]account
	reviews  []string // what was asked, in order
}

type account struct{ namespace, name, uid, audience string }

func (a account) user() string { return "system:serviceaccount:" + a.namespace + ":" + a.name }

func newCluster(t *testing.T) *cluster {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, signer: signer, issued: map[string]account{}}
	c.reviewer = c.issue(account{"vault", "reviewer", "u-reviewer", "https://kubernetes.default.svc"})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(c.review))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c.url = srv.URL
	c.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	return c
}

// issue makes a bound token as the TokenRequest API does.
func (c *cluster) issue(a account) string {
	c.t.Helper()
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": "https://kubernetes.default.svc", "aud": []string{a.audience}, "sub": a.user(), "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text(),
		"kubernetes.io": map[string]any{"namespace": a.namespace, "serviceaccount": map[string]string{"name": a.name, "uid": a.uid}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	signed, err := c.signer.Sign(claims)
	if err != nil {
		c.t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.issued[token] = a
	return token
}

// forget deletes a token, as the end of its pod does.
func (c *cluster) forget(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.issued, token)
}

func (c *cluster) asked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reviews)
}

func (c *cluster) review(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || r.Header.Get("Authorization") != "Bearer "+c.reviewer {
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`, http.StatusUnauthorized)
		return
	}
	type status struct {
		Authenticated bool           `json:"authenticated"`
		User          map[string]any `json:"user,omitempty"`
		Audiences     []string       `json:"audiences,omitempty"`
		Error         string         `json:"error,omitempty"`
	}
	var in struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			Token     string   `json:"token"`
			Audiences []string `json:"audiences"`
		} `json:"spec"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, "{}", http.StatusBadRequest)
		return
	}
	c.reviews = append(c.reviews, in.Spec.Token)
	var out status
	switch a, ok := c.issued[in.Spec.Token]; {
	case !ok:
		out.Error = "[invalid bearer token]"
	case len(in.Spec.Audiences) > 0 && !slices.Contains(in.Spec.Audiences, a.audience):
		out.Error = "[invalid bearer token, token audiences are invalid for the target audiences]"
	default:
		out = status{Authenticated: true, User: map[string]any{"username": a.user(), "uid": a.uid, "groups": []string{"system:serviceaccounts"}}, Audiences: []string{a.audience}}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": map[string]any{}, "spec": in.Spec, "status": out})
}

// A service account logs in at a real Vault with the token that it has at that moment, and with the privileges of its role.
func TestKubernetes(t *testing.T) {
	s, k := newServer(t), newCluster(t)
	ic := vault.InitConfig{
		TransitMount: "regard/transit-k8s", AppRoleMount: "regard-approle-k8s", Prefix: "regard-", Roles: []string{},
		Kubernetes: &vault.KubernetesInit{Mount: "regard-kubernetes", Host: k.url, CACert: k.ca, Reviewer: k.reviewer, Namespace: "regard"},
	}
	ic, res := s.Initialise(ic)
	if len(res.Roles) != 0 {
		t.Errorf("credentials of %d roles, for none", len(res.Roles))
	}
	if _, again := s.Initialise(ic); len(again.Changed) != 0 {
		t.Errorf("the second time it changed %q", again.Changed)
	}
	cfg := vault.Config{
		Address: s.Address, TransitMount: ic.TransitMount, KubernetesMount: "regard-kubernetes",
		KubernetesRole: "regard-broker", KubernetesTokenFile: filepath.Join(t.TempDir(), "token"), Timeout: 2 * time.Second, Budget: 10 * time.Second,
	}
	broker := account{"regard", "regard-broker", "u-1", "vault"}
	refused := func(name string, a account, f func(*vault.Config)) {
		t.Helper()
		token := k.issue(a)
		s.Write(cfg.KubernetesTokenFile, token)
		bad := cfg
		var log bytes.Buffer
		bad.Logger = slog.New(slog.NewTextHandler(&log, nil))
		if f != nil {
			f(&bad)
		}
		c, err := vault.Open(t.Context(), bad)
		if err == nil {
			c.Close()
			t.Fatalf("%s: it opened", name)
		}
		if !errors.Is(err, keys.ErrDenied) || !strings.Contains(err.Error(), "compare the service account") {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(err.Error()+log.String(), token) || strings.Contains(err.Error()+log.String(), strings.Split(token, ".")[2]) {
			t.Errorf("%s: the error or the log holds the token", name)
		}
	}
	refused("another account", account{"regard", "default", "u-2", "vault"}, nil)
	refused("another namespace", account{"elsewhere", "regard-broker", "u-3", "vault"}, nil)
	refused("a token for the API server", account{"regard", "regard-broker", "u-1", "https://kubernetes.default.svc"}, nil)
	refused("another role", broker, func(c *vault.Config) { c.KubernetesRole = "regard-sequencer" })
	refused("no such role", broker, func(c *vault.Config) { c.KubernetesRole = "none" })

	first := k.issue(broker)
	s.Write(cfg.KubernetesTokenFile, first+"\n")
	c := open(t, cfg)
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sign(t.Context(), 1, []byte("m")); !errors.Is(err, keys.ErrDenied) {
		t.Errorf("a broker signs: %v", err)
	}

	// The kubelet replaced the token, and its pod's first one is over. When Vault forgets the session, the new one is shown.
	k.forget(first)
	second := k.issue(broker)
	s.Write(cfg.KubernetesTokenFile, second)
	if err := s.Admin().Sys().RevokePrefix("auth/regard-kubernetes/login"); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Fatalf("after the token was replaced: %v", err)
	}
	if got := k.asked(); got[len(got)-1] != second {
		t.Error("the login showed an old token")
	}

	// The account is deleted: denied, and denied in words.
	k.forget(second)
	if err := s.Admin().Sys().RevokePrefix("auth/regard-kubernetes/login"); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); !errors.Is(err, keys.ErrDenied) {
		t.Errorf("after the account is gone: %v", err)
	}
}

// Which way to log in is said once, and completely.
func TestKubernetesConfig(t *testing.T) {
	for says, cfg := range map[string]vault.Config{
		"both needed":    {},
		"token file":     {KubernetesRole: "x"},
		"Kubernetes rol": {KubernetesTokenFile: "x"},
		"not by both":    {KubernetesRole: "x", KubernetesTokenFile: "x", RoleIDFile: "x", SecretIDFile: "x"},
		"no name":        {KubernetesRole: "x", KubernetesTokenFile: "x", KubernetesMount: "../approle"},
	} {
		cfg.Address = "http://127.0.0.1:1"
		if _, err := vault.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	big := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(big, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Open(t.Context(), vault.Config{Address: "http://127.0.0.1:1", KubernetesRole: "x", KubernetesTokenFile: big}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a token of a megabyte: %v", err)
	}
	if _, err := vault.Init(t.Context(), nil, vault.InitConfig{Kubernetes: &vault.KubernetesInit{Host: "https://x"}}); err == nil || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("no namespace: %v", err)
	}
}

package vault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/keys/vault"
	"github.com/regard-broker/regard/keys/vault/vaulttest"
)

// server is a real Vault, and what tests do to it.
type server struct{ *vaulttest.Server }

func newServer(tb testing.TB) *server {
	tb.Helper()
	return &server{vaulttest.New(tb)}
}

func open(tb testing.TB, cfg vault.Config) *vault.Custodian {
	tb.Helper()
	c, err := vault.Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

func TestCustodian(t *testing.T) {
	s := newServer(t)
	keystest.TestCustodian(t, func(t *testing.T) keystest.Roles {
		sub := *s.Server
		sub.TB = t
		ic, res := sub.Initialise(vault.InitConfig{})
		return keystest.Roles{
			Broker:    open(t, sub.Config(ic, res, vault.RoleBroker)),
			Sequencer: open(t, sub.Config(ic, res, vault.RoleSequencer)),
			Operator:  open(t, sub.Config(ic, res, vault.RoleOperator)),
		}
	})
}

func TestRing(t *testing.T) {
	s := newServer(t)
	ic, res := s.Initialise(vault.InitConfig{})
	c := open(t, s.Config(ic, res, vault.RoleSequencer))
	store := keystest.NewStore()
	r := keystest.NewRing(t, keys.Config{Custodian: c, Store: store})
	ctx := context.Background()
	// 300 people at once are few calls, not 300: those who wait go together, and what more of them will need is wrapped ahead.
	var wg sync.WaitGroup
	before := r.Stats()
	for i := range 300 {
		wg.Go(func() {
			k, fresh, err := r.SubjectKey(ctx, keys.Owner{1, byte(i), byte(i >> 8)})
			if err != nil || fresh == nil {
				t.Errorf("SubjectKey: %v", err)
				return
			}
			if _, err := r.SealPerson(k, nil, []byte("x")); err != nil {
				t.Error(err)
			}
			if err := store.SaveFresh(fresh); err != nil {
				t.Error(err)
			}
			r.Saved(fresh)
		})
	}
	wg.Wait()
	after := r.Stats()
	calls, wrapped := after.WrapCalls-before.WrapCalls, after.Wrapped-before.Wrapped
	if wrapped < 300 || calls > 150 {
		t.Errorf("%d keys wrapped in %d calls", wrapped, calls)
	}
	t.Logf("%d keys wrapped in %d calls", wrapped, calls)
	signers, err := r.CheckpointSigners(ctx, "example.org/log")
	if err != nil || len(signers) != 1 {
		t.Fatalf("CheckpointSigners: %d, %v", len(signers), err)
	}
	if _, err := signers[0].Sign([]byte("x")); err != nil {
		t.Error(err)
	}
}

func TestInitIsIdempotent(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	ic, first := s.Initialise(vault.InitConfig{})
	if len(first.Changed) != 2+2+3+3 {
		t.Errorf("the first Init made %v; want two mounts, two keys, three policies, three roles", first.Changed)
	}
	c := open(t, s.Config(ic, first, vault.RoleBroker))
	w, err := c.Wrap(ctx, []keys.Plain{{AD: []byte("a")}})
	if err != nil {
		t.Fatal(err)
	}
	second, err := vault.Init(ctx, s.Admin(), ic)
	if err != nil {
		t.Fatal(err)
	}
	if len(second.Changed) != 0 {
		t.Errorf("a second Init changed %v", second.Changed)
	}
	if _, err := c.Unwrap(ctx, []keys.WrappedAD{{Wrapped: w[0], AD: []byte("a")}}); err != nil {
		t.Errorf("after a second Init: %v", err)
	}
	for i := range first.Roles {
		if first.Roles[i].RoleID != second.Roles[i].RoleID {
			t.Error("a role got another id")
		}
		if shown := fmt.Sprintf("%v %+v %#v", second.Roles[i], second.Roles[i], &second.Roles[i]); strings.Contains(shown, second.Roles[i].WrappedSecretID) {
			t.Error("fmt shows a wrapping token")
		}
	}
	// A policy that was loosened is corrected.
	if err := s.Admin().Sys().PutPolicy(ic.Prefix+"broker", `path "*" { capabilities = ["sudo"] }`); err != nil {
		t.Fatal(err)
	}
	third, err := vault.Init(ctx, s.Admin(), ic)
	if err != nil || len(third.Changed) != 1 {
		t.Errorf("%v, %v; want the one policy corrected", third.Changed, err)
	}
	// A key that could be exported is refused.
	bad := ic
	bad.WrapKey = "loose"
	if _, err := s.Admin().Logical().Write(ic.TransitMount+"/keys/loose", map[string]any{"type": "aes256-gcm96", "exportable": true}); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Init(ctx, s.Admin(), bad); err == nil || !strings.Contains(err.Error(), "exported") {
		t.Errorf("an exportable key: %v", err)
	}
}

// TestLeastPrivilege asks with each role's own token for everything it must not have.
func TestLeastPrivilege(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	ic, res := s.Initialise(vault.InitConfig{})
	broker, sequencer, operator := open(t, s.Config(ic, res, "broker")), open(t, s.Config(ic, res, "sequencer")), open(t, s.Config(ic, res, "operator"))
	denied := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, keys.ErrDenied) {
			t.Errorf("%s: %v, want ErrDenied", what, err)
		}
	}
	w, err := broker.Wrap(ctx, []keys.Plain{{}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = broker.Sign(ctx, 0, []byte("x"))
	denied("the broker signs", err)
	_, err = broker.PublicKeys(ctx)
	denied("the broker reads the checkpoint key", err)
	for name, c := range map[string]*vault.Custodian{"broker": broker, "sequencer": sequencer} {
		for _, root := range []keys.RootKey{keys.RootWrap, keys.RootCheckpoint} {
			_, err = c.Rotate(ctx, root)
			denied("the "+name+" rotates "+string(root), err)
			denied("the "+name+" retires "+string(root), c.Retire(ctx, root, 1))
		}
	}
	_, err = operator.Wrap(ctx, []keys.Plain{{}})
	denied("the operator wraps", err)
	_, err = operator.Unwrap(ctx, []keys.WrappedAD{{Wrapped: w[0]}})
	denied("the operator unwraps", err)
	_, err = operator.Sign(ctx, 0, []byte("x"))
	denied("the operator signs", err)

	// What the Custodian has no method for, with bare requests.
	admin := s.Admin()
	if _, err := admin.Logical().Write(ic.TransitMount+"/keys/other", map[string]any{"type": "aes256-gcm96"}); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"broker", "sequencer", "operator"} {
		login := s.login(ic, role)
		for _, r := range []struct {
			method, path string
			body         map[string]any
		}{
			{"PUT", ic.TransitMount + "/encrypt/other", map[string]any{"plaintext": ""}},
			{"PUT", ic.TransitMount + "/encrypt/new", map[string]any{"plaintext": ""}},
			{"PUT", ic.TransitMount + "/decrypt/other", map[string]any{"ciphertext": "vault:v1:AAAA"}},
			{"GET", ic.TransitMount + "/keys/other", nil},
			{"LIST", ic.TransitMount + "/keys", nil},
			{"GET", ic.TransitMount + "/export/encryption-key/regard-wrap", nil},
			{"GET", ic.TransitMount + "/export/signing-key/regard-checkpoint", nil},
			{"GET", ic.TransitMount + "/backup/regard-wrap", nil},
			{"DELETE", ic.TransitMount + "/keys/regard-wrap", nil},
			{"PUT", ic.TransitMount + "/keys/regard-wrap/config", map[string]any{"exportable": true}},
			{"PUT", ic.TransitMount + "/keys/regard-wrap/config", map[string]any{"deletion_allowed": true}},
			{"PUT", ic.TransitMount + "/keys/regard-wrap/config", map[string]any{"allow_plaintext_backup": true, "min_decryption_version": 1}},
			{"PUT", ic.TransitMount + "/keys/regard-wrap/trim", map[string]any{"min_available_version": 1}},
			{"PUT", ic.TransitMount + "/datakey/plaintext/regard-wrap", nil},
			{"GET", "sys/mounts", nil},
			{"GET", "sys/policies/acl/" + ic.Prefix + "broker", nil},
			{"PUT", "auth/token/create", nil},
			{"PUT", "auth/" + ic.AppRoleMount + "/role/" + ic.Prefix + "sequencer/secret-id", nil},
		} {
			code := status(t, login, r.method, r.path, r.body)
			if code != http.StatusForbidden {
				t.Errorf("%s: %s %s: %d, want 403", role, r.method, r.path, code)
			}
		}
	}
}

// login logs in as a role and returns a client with its token.
func (s *server) login(ic vault.InitConfig, role string) *api.Client {
	s.TB.Helper()
	admin := s.Admin()
	path := "auth/" + ic.AppRoleMount + "/role/" + ic.Prefix + role
	id, err := admin.Logical().Read(path + "/role-id")
	if err != nil {
		s.TB.Fatal(err)
	}
	secret, err := admin.Logical().Write(path+"/secret-id", nil)
	if err != nil {
		s.TB.Fatal(err)
	}
	auth, err := admin.Logical().Write("auth/"+ic.AppRoleMount+"/login", map[string]any{"role_id": id.Data["role_id"], "secret_id": secret.Data["secret_id"]})
	if err != nil {
		s.TB.Fatal(err)
	}
	c := s.Admin()
	c.SetToken(auth.Auth.ClientToken)
	return c
}

func status(t *testing.T, c *api.Client, method, path string, body map[string]any) int {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, c.Address()+"/v1/"+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", c.Token())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// TestRecovery breaks Vault in every way and demands a clear error, no hang, and that the same Custodian works afterwards.
func TestRecovery(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	ic, res := s.Initialise(vault.InitConfig{})
	cfg := s.Config(ic, res, "sequencer")
	cfg.Timeout, cfg.Budget = 500*time.Millisecond, 1200*time.Millisecond
	p := newProxy(t, s.Address)
	cfg.Address = p.url
	c := open(t, cfg)
	ad := []byte("planted associated data")
	plain := keys.Plain{Key: [32]byte([]byte("planted key, 32 bytes, never logg")), AD: ad}
	w, err := c.Wrap(ctx, []keys.Plain{plain})
	if err != nil {
		t.Fatal(err)
	}
	stored := []keys.WrappedAD{{Wrapped: w[0], AD: ad}}
	refused := func(t *testing.T, want error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i, call := range []func() error{
			func() error { _, err := c.Wrap(ctx, []keys.Plain{plain}); return err },
			func() error { _, err := c.Unwrap(ctx, stored); return err },
			func() error { _, err := c.Sign(ctx, 0, []byte("x")); return err },
			func() error { return c.Check(ctx) },
		} {
			wg.Go(func() {
				// A slow machine may not hear in time what a server says: that is a refusal as well, and asked again.
				for start := time.Now(); time.Since(start) < 2*time.Minute; {
					if errs[i] = call(); errors.Is(errs[i], want) || !errors.Is(errs[i], keys.ErrUnavailable) {
						return
					}
				}
			})
		}
		wg.Wait()
		for i, err := range errs {
			if !errors.Is(err, want) || !errors.Is(err, keys.ErrUnavailable) && want != keys.ErrDenied {
				t.Errorf("call %d: %v, want %v", i+1, err, want)
			}
			if err != nil && strings.Contains(err.Error(), "planted") {
				t.Errorf("the error holds what was sent: %v", err)
			}
		}
	}
	works := func(t *testing.T) {
		t.Helper()
		var err error
		for start := time.Now(); time.Since(start) < 2*time.Minute; time.Sleep(20 * time.Millisecond) { // a server needs a moment to come back
			var got [][32]byte
			if got, err = c.Unwrap(ctx, stored); err == nil {
				if got[0] != plain.Key {
					t.Fatal("it unwraps to another key")
				}
				if _, err = c.Sign(ctx, 0, []byte("x")); err == nil {
					return
				}
			}
		}
		t.Fatalf("it doesn't recover: %v", err)
	}
	t.Run("sealed", func(t *testing.T) {
		s.Seal()
		refused(t, keys.ErrSealed)
		s.Unseal()
		works(t)
	})
	t.Run("down and restarted", func(t *testing.T) {
		addr := s.Addr()
		s.Stop()
		refused(t, keys.ErrUnavailable)
		s.Start(addr, true)
		works(t)
	})
	t.Run("restarted sealed", func(t *testing.T) {
		addr := s.Addr()
		s.Stop()
		s.Start(addr, false)
		refused(t, keys.ErrSealed)
		s.Unseal()
		works(t)
	})
	t.Run("slow", func(t *testing.T) {
		p.mode.Store(&mode{hang: true})
		refused(t, keys.ErrUnavailable)
		p.mode.Store(&mode{})
		works(t)
	})
	for _, code := range []int{429, 500, 502, 503} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			p.mode.Store(&mode{status: code})
			refused(t, keys.ErrUnavailable)
			p.mode.Store(&mode{})
			works(t)
			// Once in a while is not even noticed.
			for range 3 {
				p.mode.Store(&mode{status: code, times: 2})
				if _, err := c.Unwrap(ctx, stored); err != nil {
					t.Errorf("two failures of one call: %v", err)
				}
			}
			p.mode.Store(&mode{})
		})
	}
	t.Run("not Vault", func(t *testing.T) {
		p.mode.Store(&mode{status: 200, body: "planted <html>"})
		for _, f := range []func() error{
			func() error { _, err := c.Wrap(ctx, []keys.Plain{plain}); return err },
			func() error { _, err := c.Unwrap(ctx, stored); return err },
			func() error { _, err := c.Sign(ctx, 0, nil); return err },
			func() error { _, err := c.PublicKeys(ctx); return err },
		} {
			if err := f(); err == nil || strings.Contains(err.Error(), "planted") {
				t.Errorf("an answer that isn't Vault's: %v", err)
			}
		}
		p.mode.Store(&mode{})
		works(t)
	})
	t.Run("token revoked", func(t *testing.T) {
		before := p.logins.Load()
		s.revokeAll(ic)
		works(t)
		if n := p.logins.Load() - before; n != 1 {
			t.Errorf("%d logins, want 1", n)
		}
	})
	t.Run("token revoked, many callers", func(t *testing.T) {
		before := p.logins.Load()
		s.revokeAll(ic)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if _, err := c.Unwrap(ctx, stored); err != nil {
					t.Errorf("Unwrap: %v", err)
				}
			})
		}
		wg.Wait()
		if n := p.logins.Load() - before; n != 1 {
			t.Errorf("%d logins, want 1", n)
		}
	})
	t.Run("secret id revoked, then replaced", func(t *testing.T) {
		role := "auth/" + ic.AppRoleMount + "/role/" + ic.Prefix + "sequencer"
		s.destroySecretIDs(role)
		s.revokeAll(ic)
		refused(t, keys.ErrDenied)
		again, err := vault.Init(ctx, s.Admin(), ic)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range again.Roles {
			if r.Role == "sequencer" {
				s.Write(cfg.SecretIDFile, r.WrappedSecretID)
			}
		}
		works(t)
	})
}

// revokeAll revokes every token of the approle mount.
func (s *server) revokeAll(ic vault.InitConfig) {
	s.TB.Helper()
	if err := s.Admin().Sys().RevokePrefix("auth/" + ic.AppRoleMount + "/login"); err != nil {
		s.TB.Fatal(err)
	}
}

func (s *server) destroySecretIDs(role string) {
	s.TB.Helper()
	l, err := s.Admin().Logical().List(role + "/secret-id")
	if err != nil || l == nil {
		s.TB.Fatalf("listing secret ids: %v", err)
	}
	for _, a := range l.Data["keys"].([]any) {
		if _, err := s.Admin().Logical().Write(role+"/secret-id-accessor/destroy", map[string]any{"secret_id_accessor": a}); err != nil {
			s.TB.Fatal(err)
		}
	}
}

// A token is renewed while it may be, and replaced before its greatest age ends it: no call fails meanwhile.
func TestTokenLifetime(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	ic, res := s.Initialise(vault.InitConfig{TokenTTL: 2 * time.Second, TokenMaxTTL: 4 * time.Second})
	p := newProxy(t, s.Address)
	cfg := s.Config(ic, res, "broker")
	cfg.Address = p.url
	c := open(t, cfg)
	start, turn, stood := time.Now(), time.Now(), time.Time{}
	for p.logins.Load() < 3 || p.renewals.Load() < 1 {
		if err := c.Check(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // not to compete with the server for the processor
		if time.Since(turn) > 500*time.Millisecond {
			stood = time.Now()
		}
		turn = time.Now()
		if time.Since(stood) < 3*time.Second { // this process or the server stood still, so that a token may have died: what counts begins afterwards
			p.logins.Store(0)
			p.renewals.Store(0)
			p.refusals.Store(0)
		}
		if time.Since(start) > 3*time.Minute {
			t.Fatalf("%d logins and %d renewals in three minutes", p.logins.Load(), p.renewals.Load())
		}
	}
	if n := p.refusals.Load(); n > 0 {
		t.Errorf("%d requests went out with a dead token: it wasn't replaced in time", n)
	}
}

func TestOpenRefuses(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	ic, res := s.Initialise(vault.InitConfig{})
	good := s.Config(ic, res, "broker")
	refused := func(cfg vault.Config, want error, says string) {
		t.Helper()
		c, err := vault.Open(ctx, cfg)
		if err == nil {
			c.Close()
			t.Fatal("it opened")
		}
		if want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %v and %q", err, want, says)
		}
	}
	with := func(f func(*vault.Config)) vault.Config {
		c := good
		f(&c)
		return c
	}
	refused(with(func(c *vault.Config) { c.Address = "http://vault.example.org:8200" }), nil, "neither https nor")
	refused(with(func(c *vault.Config) { c.Address = "vault:8200" }), nil, "must look like")
	refused(with(func(c *vault.Config) { c.TransitMount = "../sys" }), nil, "no name")
	refused(with(func(c *vault.Config) { c.RoleIDFile += ".none" }), os.ErrNotExist, "role id")
	refused(with(func(c *vault.Config) { c.CAFile = c.RoleIDFile }), nil, "no certificate")
	if err := os.Chmod(good.SecretIDFile, 0o644); err != nil {
		t.Fatal(err)
	}
	refused(good, nil, "chmod 600")
	if err := os.Chmod(good.SecretIDFile, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Seal()
	refused(good, keys.ErrSealed, "sealed")
	s.Unseal()
	// The token in the file was not spent by any of that.
	open(t, good)
	// Now it is: the second process must learn that somebody was there before it.
	var log bytes.Buffer
	again := with(func(c *vault.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	refused(again, keys.ErrDenied, "spent")
	if !strings.Contains(log.String(), "somebody else") {
		t.Errorf("the log says %q", &log)
	}
	token, err := os.ReadFile(good.SecretIDFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), strings.TrimSpace(string(token))) {
		t.Error("the log holds the token")
	}
}

func TestPlainSecretID(t *testing.T) {
	s := newServer(t)
	ic, res := s.Initialise(vault.InitConfig{})
	cfg := s.Config(ic, res, "broker")
	secret, err := s.Admin().Logical().Write("auth/"+ic.AppRoleMount+"/role/"+ic.Prefix+"broker/secret-id", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Write(cfg.SecretIDFile, secret.Data["secret_id"].(string))
	cfg.SecretIDWrapped = false
	if err := open(t, cfg).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// proxy stands between a Custodian and Vault and misbehaves on demand.
type proxy struct {
	url                        string
	mode                       atomic.Pointer[mode]
	logins, renewals, refusals atomic.Int64
}

type mode struct {
	hang   bool
	status int // answered instead of Vault
	body   string
	times  int64 // how often; 0: always
	used   atomic.Int64
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	p.mode.Store(&mode{})
	rp := httputil.NewSingleHostReverseProxy(u)
	rp.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) } // as if nobody listened
	rp.ModifyResponse = func(r *http.Response) error {
		switch {
		case r.StatusCode == http.StatusForbidden:
			p.refusals.Add(1)
		case strings.HasSuffix(r.Request.URL.Path, "/login"):
			p.logins.Add(1)
		case strings.HasSuffix(r.Request.URL.Path, "/renew-self"):
			p.renewals.Add(1)
		}
		return nil
	}
	rp.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := p.mode.Load()
		switch {
		case m.hang:
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		case m.status != 0 && (m.times == 0 || m.used.Add(1) <= m.times):
			w.WriteHeader(m.status)
			_, _ = io.WriteString(w, m.body)
		default:
			rp.ServeHTTP(w, r)
		}
	}))
	p.url = srv
	return p
}

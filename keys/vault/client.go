package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/regard-broker/regard/keys"
)

// Default names; Init and Config agree on them.
const (
	DefaultTransitMount    = "transit"
	DefaultAppRoleMount    = "approle"
	DefaultKubernetesMount = "kubernetes"
	DefaultWrapKey         = "regard-wrap"
	DefaultCheckpointKey   = "regard-checkpoint"
)

// Config of a Custodian. Nothing is taken from Vault's environment variables.
type Config struct {
	// Address, like https://vault.example.org:8200. Plain http is refused but on the loopback interface.
	Address string
	// Namespace of Vault Enterprise or OpenBao; empty: none.
	Namespace string
	// CAFile holds the certificates (PEM) that may sign Vault's; empty: those of the system.
	CAFile string
	// CertFile and KeyFile are the client certificate (PEM) for a Vault that demands one; empty: none. They are read at each handshake, so that they can be replaced.
	CertFile, KeyFile string
	// RoleIDFile and SecretIDFile hold what `regard vault init` gave. Mode 0600 is demanded of the second. A changed secret id is noticed at the next login.
	RoleIDFile, SecretIDFile string
	// SecretIDWrapped: SecretIDFile holds a response-wrapping token, good for one unwrapping. Each start of the process needs a new one; if one is spent before its time,
	// somebody else has read it, and Open says so.
	SecretIDWrapped bool
	// KubernetesRole logs in by Kubernetes instead of AppRole: as this role of Vault's, with the service account's token in KubernetesTokenFile, which is read at each login because
	// the kubelet replaces it before it ends. RoleIDFile and SecretIDFile are empty then.
	KubernetesRole, KubernetesTokenFile string
	// AppRoleMount, KubernetesMount, TransitMount, WrapKey and CheckpointKey; empty means the defaults.
	AppRoleMount, KubernetesMount, TransitMount, WrapKey, CheckpointKey string
	// Timeout bounds one attempt; 0 means 3 seconds.
	Timeout time.Duration
	// Budget bounds a call with all its attempts; 0 means 8 seconds.
	Budget time.Duration
	// Logger gets logins and troubles; nil discards.
	Logger *slog.Logger
}

// Custodian speaks to Vault. It is safe for concurrent use.
type Custodian struct {
	cfg    Config
	client *api.Client
	http   *http.Transport
	log    *slog.Logger

	login struct {
		sync.Mutex
		secretID string // unwrapped
		source   string // what SecretIDFile held then
		failed   error  // of the last attempt
		until    time.Time
	}
	session atomic.Pointer[session]
	renew   chan *session
	stop    context.CancelFunc
	stopped context.Context
	done    chan struct{}
}

// session is one login.
type session struct{ auth *api.Secret }

func (s *session) token() string { return s.auth.Auth.ClientToken }

// Open logs in and returns a Custodian. It fails if Vault can't be reached, is sealed or refuses, so that a broker doesn't start blind; after that it recovers by itself.
func Open(ctx context.Context, cfg Config) (*Custodian, error) {
	for _, d := range []struct {
		v *string
		d string
	}{{&cfg.TransitMount, DefaultTransitMount}, {&cfg.AppRoleMount, DefaultAppRoleMount}, {&cfg.KubernetesMount, DefaultKubernetesMount}, {&cfg.WrapKey, DefaultWrapKey}, {&cfg.CheckpointKey, DefaultCheckpointKey}} {
		if *d.v == "" {
			*d.v = d.d
		}
		if err := checkName(*d.v); err != nil {
			return nil, err
		}
	}
	if err := cfg.checkLogin(); err != nil {
		return nil, err
	}
	if cfg.Timeout < 0 || cfg.Budget < 0 {
		return nil, errors.New("vault: Timeout and Budget can't be negative")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	if cfg.Budget == 0 {
		cfg.Budget = 8 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	client, transport, err := NewClient(Endpoint{cfg.Address, cfg.Namespace, cfg.CAFile, cfg.CertFile, cfg.KeyFile})
	if err != nil {
		return nil, err
	}
	client.SetClientTimeout(cfg.Timeout)
	c := &Custodian{cfg: cfg, client: client, http: transport, log: cfg.Logger, renew: make(chan *session, 1), done: make(chan struct{})}
	c.stopped, c.stop = context.WithCancel(context.Background())
	if _, err := c.relogin(ctx, nil); err != nil {
		c.stop()
		transport.CloseIdleConnections()
		return nil, fmt.Errorf("opening Vault at %s: %w", cfg.Address, err)
	}
	go c.watch()
	return c, nil
}

func (cfg *Config) checkLogin() error {
	switch approle := cfg.RoleIDFile != "" || cfg.SecretIDFile != ""; {
	case cfg.KubernetesRole == "" && cfg.KubernetesTokenFile == "" && (cfg.RoleIDFile == "" || cfg.SecretIDFile == ""):
		return errors.New("vault: role id file and secret id file are both needed")
	case !approle && (cfg.KubernetesRole == "" || cfg.KubernetesTokenFile == ""):
		return errors.New("vault: the Kubernetes role and the token file are both needed")
	case approle && (cfg.KubernetesRole != "" || cfg.KubernetesTokenFile != ""):
		return errors.New("vault: log in by AppRole or by Kubernetes, not by both")
	}
	return nil
}

// checkName refuses what would lead a request to another path.
func checkName(s string) error {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			return fmt.Errorf("vault: %q is no name of a mount or key", s)
		}
	}
	return nil
}

// An Endpoint is where and how Vault is reached: see Config.
type Endpoint struct{ Address, Namespace, CAFile, CertFile, KeyFile string }

// NewClient returns an API client without a token, that takes nothing from the environment, and its transport. For Custodians and for Init.
func NewClient(e Endpoint) (*api.Client, *http.Transport, error) {
	u, err := url.Parse(e.Address)
	if err != nil || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, nil, errors.New("vault: the address must look like https://vault.example.org:8200")
	}
	if u.Scheme == "http" {
		// Tokens and keys would be in clear on the network.
		if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, nil, fmt.Errorf("vault: %s is neither https nor on the loopback interface", e.Address)
		}
	}
	tr := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   3 * time.Second,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	if e.CAFile != "" {
		pem, err := os.ReadFile(e.CAFile) // #nosec G304 -- the operator's path
		if err != nil {
			return nil, nil, fmt.Errorf("reading Vault's CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, nil, fmt.Errorf("vault: no certificate in %s", e.CAFile)
		}
		tr.TLSClientConfig.RootCAs = pool
	}
	if e.CertFile != "" || e.KeyFile != "" {
		if err := e.present(tr.TLSClientConfig); err != nil {
			return nil, nil, err
		}
	}
	cfg := &api.Config{
		Address: e.Address,
		HttpClient: &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // the API client follows one, to the active node, itself
		}},
		MaxRetries: 0, // the Custodian retries, and knows what may be
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("vault: making a client: %w", err)
	}
	client.ClearToken()
	client.ClearNamespace()
	if e.Namespace != "" {
		client.SetNamespace(e.Namespace)
	}
	client.SetMaxRetries(0)
	return client, tr, nil
}

// present has c show the client certificate. One that can't be read is found out now, and not at the first handshake.
func (e Endpoint) present(c *tls.Config) error {
	if e.CertFile == "" || e.KeyFile == "" {
		return errors.New("vault: the client certificate and its key are both needed")
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(e.CertFile, e.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate for Vault: %w", err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return nil
}

func (c *Custodian) path(parts ...string) string {
	return c.cfg.TransitMount + "/" + strings.Join(parts, "/")
}

func (c *Custodian) open(ctx context.Context) error {
	if c.stopped.Err() != nil {
		return keys.ErrClosed
	}
	return ctx.Err()
}

// Close revokes the token, as far as Vault can be reached, and ends the renewal.
func (c *Custodian) Close() error {
	if c.stopped.Err() != nil {
		return nil
	}
	c.stop()
	<-c.done
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s := c.session.Load(); s != nil {
		// If it doesn't arrive, the token ends by its age.
		_, _ = c.attempt(ctx, request{method: http.MethodPut, path: "auth/token/revoke-self", body: []byte("{}")}, s)
	}
	c.login.Lock()
	c.login.secretID, c.login.source = "", ""
	c.login.Unlock()
	c.http.CloseIdleConnections()
	return nil
}

type request struct {
	method, path string
	body         []byte
	// also are the statuses that the caller understands besides 2xx.
	also []int
	// once: not to be repeated unless it is known that nothing was done.
	once bool
}

type response struct {
	status int
	body   []byte
}

// errRefused is what Vault's 403 becomes before we know whether another login helps.
var errRefused = errors.New("permission denied")

// call makes a request with retries: with backoff when Vault is out of reach, sealed or fails, and after one new login when it refuses the token.
func (c *Custodian) call(ctx context.Context, r request) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Budget)
	defer cancel()
	defer context.AfterFunc(c.stopped, cancel)()
	fresh := false
	for try := 0; ; try++ {
		s := c.session.Load()
		res, err := c.attempt(ctx, r, s)
		if errors.Is(err, errRefused) {
			if fresh {
				return nil, fmt.Errorf("%w: %s %s", keys.ErrDenied, r.method, r.path)
			}
			// The token may be revoked or too old. Log in once (others may just have done so), then ask again.
			if _, err = c.relogin(ctx, s); err == nil {
				fresh = true
				continue
			}
		}
		if err == nil {
			return res, nil
		}
		if c.stopped.Err() != nil {
			return nil, keys.ErrClosed
		}
		if !errors.Is(err, keys.ErrUnavailable) || r.once || try >= 5 || !sleep(ctx, backoff(try)) {
			return nil, c.final(ctx, err)
		}
	}
}

// final tells the caller's own end of patience from ours.
func (c *Custodian) final(ctx context.Context, err error) error {
	if errors.Is(err, keys.ErrUnavailable) || errors.Is(err, keys.ErrDenied) {
		return err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: no answer in time: %w", keys.ErrUnavailable, context.DeadlineExceeded)
	}
	return err
}

// backoff doubles from 50 ms to 1.6 s, with full jitter, so that brokers don't come back in step.
func backoff(try int) time.Duration {
	d := 50 * time.Millisecond << min(try, 5)
	return d/4 + rand.N(d) // #nosec G404 -- jitter
}

func sleep(ctx context.Context, d time.Duration) bool {
	if t, ok := ctx.Deadline(); ok && time.Until(t) < d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt sends a request once. Its errors never hold Vault's answer: that could quote what was sent.
func (c *Custodian) attempt(ctx context.Context, r request, s *session) (*response, error) {
	actx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req := c.client.NewRequest(r.method, "/v1/"+r.path)
	req.ClientToken = ""
	if s != nil {
		req.ClientToken = s.token()
	}
	if r.body != nil {
		// Through Obj, so that the body is sent again when a standby node redirects.
		if err := req.SetJSONBody(json.RawMessage(r.body)); err != nil {
			return nil, errors.New("vault: encoding a request")
		}
		defer clear(req.BodyBytes)
	}
	//lint:ignore SA1019 the higher-level methods lose the body of an error, which says what is wrong with which item
	res, err := c.client.RawRequestWithContext(actx, req)
	if res == nil {
		if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %s", keys.ErrUnavailable, reason(err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return nil, fmt.Errorf("%w: the answer broke off", keys.ErrUnavailable)
	}
	switch code := res.StatusCode; {
	case code >= 200 && code < 300 || slices.Contains(r.also, code):
		return &response{status: code, body: body}, nil
	case code == http.StatusForbidden:
		return nil, errRefused
	case code == http.StatusServiceUnavailable && sealed(body):
		return nil, keys.ErrSealed
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusPreconditionFailed || code == 472 || code == 473:
		// 412: a standby that hasn't caught up; 472, 473: standbys that can't serve this.
		return nil, fmt.Errorf("%w: Vault answered %d", keys.ErrUnavailable, code)
	default:
		return nil, fmt.Errorf("%w: %s %s: Vault answered %d", keys.ErrDenied, r.method, r.path, code)
	}
}

// sealed recognises the answer of a sealed Vault; without it, a 503 is just one.
func sealed(body []byte) bool {
	var e struct {
		Errors []string `json:"errors"`
	}
	return json.Unmarshal(body, &e) == nil && len(e.Errors) > 0 && strings.Contains(strings.ToLower(e.Errors[0]), "sealed")
}

// reason puts a failed exchange into words without the URL's query or the body.
func reason(err error) string {
	var op *net.OpError
	var ca *tls.CertificateVerificationError
	switch {
	case errors.As(err, &ca):
		return "its certificate isn't trusted: check the CA file and the address"
	case errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err):
		return "no answer in time"
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error()
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection broke off"
	}
	return "no answer"
}

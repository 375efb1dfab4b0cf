package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/regard-broker/regard/keys"
)

// loginPause is how long a refused login is taken for refused, so that a flood of requests doesn't become a flood of logins.
const loginPause = time.Second

// relogin makes a new session, unless somebody has replaced old meanwhile.
func (c *Custodian) relogin(ctx context.Context, old *session) (*session, error) {
	l := &c.login
	l.Lock()
	defer l.Unlock()
	if s := c.session.Load(); s != nil && s != old {
		return s, nil
	}
	if l.failed != nil && time.Now().Before(l.until) {
		return nil, l.failed
	}
	s, err := c.authenticate(ctx)
	if err != nil {
		if ctx.Err() == nil { // a caller's own end says nothing about Vault
			l.failed, l.until = err, time.Now().Add(loginPause)
			if errors.Is(err, keys.ErrUnavailable) {
				l.until = time.Now().Add(loginPause / 10)
			}
		}
		return nil, err
	}
	l.failed = nil
	c.session.Store(s)
	c.log.Info("logged in to Vault", "address", c.cfg.Address, "ttl", time.Duration(s.auth.Auth.LeaseDuration)*time.Second, "renewable", s.auth.Auth.Renewable)
	select { // the watcher needs the newest only
	case <-c.renew:
	default:
	}
	c.renew <- s
	return s, nil
}

// authenticate logs in. The caller holds login.
func (c *Custodian) authenticate(ctx context.Context) (*session, error) {
	if c.cfg.KubernetesRole != "" {
		return c.kubernetes(ctx)
	}
	role, err := readID(c.cfg.RoleIDFile, false)
	if err != nil {
		return nil, fmt.Errorf("reading the role id: %w", err)
	}
	l := &c.login
	if l.secretID != "" {
		s, err := c.approle(ctx, role, l.secretID)
		if !errors.Is(err, keys.ErrDenied) {
			return s, err
		}
		// It may have been replaced in the file.
	}
	source, err := readID(c.cfg.SecretIDFile, true)
	if err != nil {
		return nil, fmt.Errorf("reading the secret id: %w", err)
	}
	if l.secretID != "" && source == l.source {
		return nil, fmt.Errorf("%w: Vault refuses the role id and secret id; put a new secret id into %s", keys.ErrDenied, c.cfg.SecretIDFile)
	}
	secret := source
	if c.cfg.SecretIDWrapped {
		if secret, err = c.unwrapSecretID(ctx, source); err != nil {
			return nil, err
		}
		// Spent now: it must be remembered before anything else can fail.
		l.secretID, l.source = secret, source
	}
	s, err := c.approle(ctx, role, secret)
	if errors.Is(err, keys.ErrDenied) {
		return nil, fmt.Errorf("%w: Vault refuses the role id and secret id of %s and %s", keys.ErrDenied, c.cfg.RoleIDFile, c.cfg.SecretIDFile)
	}
	if err == nil {
		l.secretID, l.source = secret, source
	}
	return s, err
}

func (c *Custodian) approle(ctx context.Context, role, secret string) (*session, error) {
	return c.exchange(ctx, c.cfg.AppRoleMount, map[string]string{"role_id": role, "secret_id": secret})
}

// kubernetes logs in with the token that the service account has now.
func (c *Custodian) kubernetes(ctx context.Context) (*session, error) {
	jwt, err := readID(c.cfg.KubernetesTokenFile, false) // kubelet decides about its mode
	if err != nil {
		return nil, fmt.Errorf("reading the service account's token: %w", err)
	}
	s, err := c.exchange(ctx, c.cfg.KubernetesMount, map[string]string{"role": c.cfg.KubernetesRole, "jwt": jwt})
	if errors.Is(err, keys.ErrDenied) {
		return nil, fmt.Errorf("%w: Vault refuses the token of %s for the role %s: compare the service account, its namespace and the token's audience with what the role is bound to", keys.ErrDenied, c.cfg.KubernetesTokenFile, c.cfg.KubernetesRole)
	}
	return s, err
}

// exchange gives credentials for a token.
func (c *Custodian) exchange(ctx context.Context, mount string, credentials map[string]string) (*session, error) {
	body, err := json.Marshal(credentials)
	if err != nil {
		return nil, errors.New("vault: encoding a login")
	}
	defer clear(body)
	res, err := c.attempt(ctx, request{method: http.MethodPut, path: "auth/" + mount + "/login", body: body}, nil)
	if errors.Is(err, errRefused) {
		err = keys.ErrDenied
	}
	if err != nil {
		return nil, fmt.Errorf("logging in: %w", err)
	}
	auth := &api.Secret{}
	if err := json.Unmarshal(res.body, auth); err != nil || auth.Auth == nil || auth.Auth.ClientToken == "" {
		return nil, fmt.Errorf("logging in: %w: no token in the answer", keys.ErrUnavailable)
	}
	return &session{auth}, nil
}

func (c *Custodian) unwrapSecretID(ctx context.Context, wrapping string) (string, error) {
	s := &session{&api.Secret{Auth: &api.SecretAuth{ClientToken: wrapping}}}
	res, err := c.attempt(ctx, request{method: http.MethodPut, path: "sys/wrapping/unwrap", body: []byte("{}")}, s)
	if errors.Is(err, errRefused) || errors.Is(err, keys.ErrDenied) {
		c.log.Error("the wrapped secret id was spent or is too old. If nobody here used it, somebody else did: revoke the role's secret ids.", "file", c.cfg.SecretIDFile)
		return "", fmt.Errorf("%w: the wrapping token in %s was spent already or is too old: issue a new one, and find out who used it", keys.ErrDenied, c.cfg.SecretIDFile)
	}
	if err != nil {
		return "", fmt.Errorf("unwrapping the secret id: %w", err)
	}
	var r struct {
		Data struct {
			SecretID string `json:"secret_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(res.body, &r); err != nil || r.Data.SecretID == "" {
		return "", fmt.Errorf("%w: the token in %s wraps no secret id", keys.ErrDenied, c.cfg.SecretIDFile)
	}
	return r.Data.SecretID, nil
}

// maxID is more than any id, or token of a service account, has.
const maxID = 16 << 10

// readID reads a file of one line.
func readID(path string, private bool) (string, error) {
	f, err := os.Open(path) // #nosec G304 -- the operator's path
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if private && info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s has mode %04o and is readable by others: chmod 600 it", path, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxID+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxID {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxID)
	}
	id := strings.TrimSpace(string(b))
	if id == "" || strings.ContainsAny(id, " \n\t") {
		return "", fmt.Errorf("%s: want one line", path)
	}
	return id, nil
}

// watch renews the token of the newest session, and logs in again before it reaches its greatest age.
func (c *Custodian) watch() {
	defer close(c.done)
	var s *session
	for {
		if s == nil {
			select {
			case <-c.stopped.Done():
				return
			case s = <-c.renew:
			}
		}
		s = c.keep(s)
	}
}

// keep renews a session until there is a newer one, which it returns; nil when that is still to come.
func (c *Custodian) keep(s *session) *session {
	w, err := c.client.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: s.auth})
	if err != nil {
		c.log.Error("watching the token", "error", err)
		return nil
	}
	go w.Start()
	defer w.Stop()
	for {
		select {
		case <-c.stopped.Done():
			return nil
		case next := <-c.renew:
			return next
		case <-w.RenewCh():
			c.log.Debug("renewed the token of Vault")
			continue
		case <-w.DoneCh():
		}
		break
	}
	// The token is near its greatest age, or Vault didn't renew it.
	for try := 0; c.stopped.Err() == nil; try++ {
		_, err := c.relogin(c.stopped, s)
		if err == nil {
			return nil // it waits in renew
		}
		if try == 0 {
			c.log.Log(c.stopped, slog.LevelWarn, "logging in to Vault again", "error", err)
		}
		select {
		case <-c.stopped.Done():
		case next := <-c.renew:
			return next
		case <-time.After(backoff(try) + loginPause):
		}
	}
	return nil
}

package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	policies "github.com/regard-broker/regard/deploy/vault"
)

// The roles that Init makes.
const (
	RoleBroker    = "broker"    // encrypt and decrypt with the wrap key
	RoleSequencer = "sequencer" // the same, and sign with the checkpoint key
	RoleOperator  = "operator"  // rotate and retire both keys, and nothing with them
)

// InitConfig says what Init sets up. The zero value is the default of everything.
type InitConfig struct {
	// TransitMount, AppRoleMount, WrapKey, CheckpointKey; empty means the defaults. Config of the Custodians must say the same.
	TransitMount, AppRoleMount, WrapKey, CheckpointKey string
	// Prefix of the names of policies and roles; empty means "regard-".
	Prefix string
	// TokenTTL and TokenMaxTTL of a login; 0 means 1 hour and 24 hours. Brokers renew, and log in again at the second.
	TokenTTL, TokenMaxTTL time.Duration
	// SecretIDTTL ends a secret id; 0 means never. Brokers log in with it again and again: replace it before it ends.
	SecretIDTTL time.Duration
	// WrapTTL is how long a wrapped secret id waits to be unwrapped; 0 means 1 hour.
	WrapTTL time.Duration
	// BoundCIDRs restricts from where the roles may log in; empty: from anywhere.
	BoundCIDRs []string
	// Kubernetes, if not nil, has the roles log in by service accounts, too.
	Kubernetes *KubernetesInit
	// Roles to issue secret ids for; nil: all. Empty but not nil: none, only the set-up is checked and corrected.
	Roles []string
}

// KubernetesInit binds each role to the service account of the same name, with Prefix: regard-sequencer is for the service account regard-sequencer, and no other.
type KubernetesInit struct {
	// Mount of the logins; empty means DefaultKubernetesMount.
	Mount string
	// Host is the URL of the Kubernetes API, which Vault asks about each token (TokenReview); CACert, the authorities (PEM) of its certificate. Empty CACert: those of Vault's pod.
	Host, CACert string
	// Reviewer is the token of a service account that may review tokens (the cluster role system:auth-delegator). Empty: Vault runs in the cluster, and asks as its own service account.
	Reviewer string
	// Namespace of the service accounts.
	Namespace string
	// Audience that tokens must be for; empty means "vault". A token for the API server is refused, so that one that leaks from another place opens nothing.
	Audience string
}

// InitResult is what the operator hands to the processes.
type InitResult struct {
	Roles []RoleCredentials
	// Changed lists what had to be made or corrected; empty when everything was there.
	Changed []string
}

// RoleCredentials are for one role. It redacts the wrapping token in fmt; print the field on purpose.
type RoleCredentials struct {
	Role   string
	RoleID string
	// WrappedSecretID is a response-wrapping token: good for one unwrapping until Expires. Write it into the secret id file, with SecretIDWrapped.
	WrappedSecretID string
	Expires         time.Time
}

// Format implements fmt.Formatter: the wrapping token isn't shown.
func (r RoleCredentials) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "{%s %s [redacted]}", r.Role, r.RoleID)
}

// Init prepares a Vault for Regard: mounts the transit engine and AppRole logins, makes the root keys (wrap: AES-256-GCM; checkpoint: Ed25519; neither exportable, backed up in clear, nor
// deletable), writes the least policies and the roles. It can be repeated: what is there is kept, policies and roles are brought to what they must be, and a key of another
// kind is an error. Each call issues new secret ids, response-wrapped; older ones stay valid.
//
// client needs the rights of an administrator: a root token, or one that may write sys/mounts, sys/auth, sys/policies/acl, the transit keys and the roles.
func Init(ctx context.Context, client *api.Client, cfg InitConfig) (*InitResult, error) {
	def := func(s *string, d string) {
		if *s == "" {
			*s = d
		}
	}
	def(&cfg.TransitMount, DefaultTransitMount)
	def(&cfg.AppRoleMount, DefaultAppRoleMount)
	def(&cfg.WrapKey, DefaultWrapKey)
	def(&cfg.CheckpointKey, DefaultCheckpointKey)
	def(&cfg.Prefix, "regard-")
	for _, s := range []string{cfg.TransitMount, cfg.AppRoleMount, cfg.WrapKey, cfg.CheckpointKey, cfg.Prefix} {
		if err := checkName(s); err != nil {
			return nil, err
		}
	}
	if cfg.WrapKey == cfg.CheckpointKey {
		return nil, errors.New("vault: the wrap key and the checkpoint key need different names")
	}
	if cfg.TokenTTL == 0 {
		cfg.TokenTTL = time.Hour
	}
	if cfg.TokenMaxTTL == 0 {
		cfg.TokenMaxTTL = 24 * time.Hour
	}
	if cfg.WrapTTL == 0 {
		cfg.WrapTTL = time.Hour
	}
	if cfg.Roles == nil {
		cfg.Roles = []string{RoleBroker, RoleSequencer, RoleOperator}
	}
	if k := cfg.Kubernetes; k != nil {
		own := *k
		def(&own.Mount, DefaultKubernetesMount)
		def(&own.Audience, "vault")
		if err := checkName(own.Mount); err != nil {
			return nil, err
		}
		if own.Host == "" || own.Namespace == "" {
			return nil, errors.New("vault: logins by Kubernetes need the API server's URL and a namespace")
		}
		cfg.Kubernetes = &own
	}
	i := &initialiser{client: client, cfg: cfg, res: &InitResult{}}
	for _, step := range []func(context.Context) error{i.mounts, i.keys, i.policies, i.roles, i.kubernetes, i.credentials} {
		if err := step(ctx); err != nil {
			return i.res, fmt.Errorf("preparing Vault: %w", err)
		}
	}
	return i.res, nil
}

type initialiser struct {
	client *api.Client
	cfg    InitConfig
	res    *InitResult
}

func (i *initialiser) changed(format string, args ...any) {
	i.res.Changed = append(i.res.Changed, fmt.Sprintf(format, args...))
}

func (i *initialiser) mounts(ctx context.Context) error {
	sys := i.client.Sys()
	mounts, err := sys.ListMountsWithContext(ctx)
	if err != nil {
		return fmt.Errorf("listing secret engines: %w", err)
	}
	if m := mounts[i.cfg.TransitMount+"/"]; m == nil {
		err := sys.MountWithContext(ctx, i.cfg.TransitMount, &api.MountInput{Type: "transit", Description: "Regard: root keys"})
		if err != nil {
			return fmt.Errorf("enabling transit at %s: %w", i.cfg.TransitMount, err)
		}
		i.changed("enabled transit at %s", i.cfg.TransitMount)
	} else if m.Type != "transit" {
		return fmt.Errorf("%s is a %s engine, not transit: choose another mount", i.cfg.TransitMount, m.Type)
	}
	auths, err := sys.ListAuthWithContext(ctx)
	if err != nil {
		return fmt.Errorf("listing logins: %w", err)
	}
	if err := i.login(ctx, auths, i.cfg.AppRoleMount, "approle"); err != nil {
		return err
	}
	if k := i.cfg.Kubernetes; k != nil {
		return i.login(ctx, auths, k.Mount, "kubernetes")
	}
	return nil
}

// login enables a way to log in.
func (i *initialiser) login(ctx context.Context, have map[string]*api.AuthMount, mount, typ string) error {
	if m := have[mount+"/"]; m == nil {
		err := i.client.Sys().EnableAuthWithOptionsWithContext(ctx, mount, &api.EnableAuthOptions{Type: typ, Description: "Regard: processes"})
		if err != nil {
			return fmt.Errorf("enabling %s at %s: %w", typ, mount, err)
		}
		i.changed("enabled %s at %s", typ, mount)
	} else if m.Type != typ {
		return fmt.Errorf("auth/%s is of type %s, not %s: choose another mount", mount, m.Type, typ)
	}
	return nil
}

func (i *initialiser) keys(ctx context.Context) error {
	for _, k := range []struct{ name, typ string }{{i.cfg.WrapKey, "aes256-gcm96"}, {i.cfg.CheckpointKey, "ed25519"}} {
		path := i.cfg.TransitMount + "/keys/" + k.name
		info, err := i.readKey(ctx, path, k.name)
		if err != nil {
			return err
		}
		if info == nil {
			_, err := i.client.Logical().WriteWithContext(ctx, path, map[string]any{
				"type": k.typ, "exportable": false, "allow_plaintext_backup": false, "derived": false,
			})
			if err != nil {
				return fmt.Errorf("creating the key %s: %w", k.name, err)
			}
			i.changed("created the key %s (%s)", k.name, k.typ)
			if info, err = i.readKey(ctx, path, k.name); err != nil {
				return err
			}
		}
		switch {
		case info == nil:
			return fmt.Errorf("the key %s was created and isn't there", k.name)
		case info.Type != k.typ:
			return fmt.Errorf("the key %s is of type %s, want %s: choose another name", k.name, info.Type, k.typ)
		case info.Exportable, info.Backup:
			// Vault can't take these back: whoever could, may have copied it.
			return fmt.Errorf("the key %s can be exported or backed up in clear: choose another name", k.name)
		case info.Derived:
			return fmt.Errorf("the key %s is a derived key: choose another name", k.name)
		case info.Deletable:
			return fmt.Errorf("the key %s may be deleted: vault write %s/config deletion_allowed=false", k.name, path)
		}
	}
	return nil
}

// readKey returns nil if there is none.
func (i *initialiser) readKey(ctx context.Context, path, name string) (*keyInfo, error) {
	s, err := i.client.Logical().ReadWithContext(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("reading the key %s: %w", name, err)
	}
	if s == nil || s.Data == nil {
		return nil, nil
	}
	b, err := json.Marshal(map[string]any{"data": s.Data})
	if err != nil {
		return nil, err
	}
	return parseKey(name, b)
}

// Policies returns the policies by name, for the mounts and keys of cfg.
func (i *initialiser) texts() map[string]string {
	r := strings.NewReplacer(`"transit/`, `"`+i.cfg.TransitMount+`/`, "/"+DefaultWrapKey+`"`, "/"+i.cfg.WrapKey+`"`, "/"+DefaultWrapKey+"/", "/"+i.cfg.WrapKey+"/",
		"/"+DefaultCheckpointKey+`"`, "/"+i.cfg.CheckpointKey+`"`, "/"+DefaultCheckpointKey+"/", "/"+i.cfg.CheckpointKey+"/")
	return map[string]string{
		i.cfg.Prefix + RoleBroker:    r.Replace(policies.Broker),
		i.cfg.Prefix + RoleSequencer: r.Replace(policies.Sequencer),
		i.cfg.Prefix + RoleOperator:  r.Replace(policies.Operator),
	}
}

func (i *initialiser) policies(ctx context.Context) error {
	for name, text := range i.texts() {
		have, err := i.client.Sys().GetPolicyWithContext(ctx, name)
		if err != nil {
			return fmt.Errorf("reading the policy %s: %w", name, err)
		}
		if have == text {
			continue
		}
		if err := i.client.Sys().PutPolicyWithContext(ctx, name, text); err != nil {
			return fmt.Errorf("writing the policy %s: %w", name, err)
		}
		i.changed("wrote the policy %s", name)
	}
	return nil
}

func (i *initialiser) rolePath(role string) string {
	return "auth/" + i.cfg.AppRoleMount + "/role/" + i.cfg.Prefix + role
}

// policiesOf a role, by their names.
func (i *initialiser) policiesOf() map[string][]string {
	p := i.cfg.Prefix
	return map[string][]string{
		RoleBroker:    {p + RoleBroker},
		RoleSequencer: {p + RoleBroker, p + RoleSequencer},
		RoleOperator:  {p + RoleOperator},
	}
}

func (i *initialiser) cidrs() []string {
	return append([]string{}, i.cfg.BoundCIDRs...) // not nil: that would change nothing in Vault
}

// token says what the tokens of a role are, however it logs in.
func (i *initialiser) token(role string) map[string]any {
	return map[string]any{
		"token_policies": i.policiesOf()[role],
		// Vault's default policy isn't needed: renewing and revoking oneself is in ours.
		"token_no_default_policy": true,
		"token_type":              "service",
		"token_ttl":               int(i.cfg.TokenTTL.Seconds()),
		"token_max_ttl":           int(i.cfg.TokenMaxTTL.Seconds()),
		"token_num_uses":          0,
		"token_bound_cidrs":       i.cidrs(),
	}
}

// kubernetes sets up logins by service accounts.
func (i *initialiser) kubernetes(ctx context.Context) error {
	k := i.cfg.Kubernetes
	if k == nil {
		return nil
	}
	_, err := i.client.Logical().WriteWithContext(ctx, "auth/"+k.Mount+"/config", map[string]any{
		"kubernetes_host": k.Host, "kubernetes_ca_cert": k.CACert, "token_reviewer_jwt": k.Reviewer, "disable_local_ca_jwt": k.Reviewer != "",
	})
	if err != nil {
		return fmt.Errorf("naming the Kubernetes API to %s: %w", k.Mount, err)
	}
	for role := range i.policiesOf() {
		path := "auth/" + k.Mount + "/role/" + i.cfg.Prefix + role
		have, err := i.client.Logical().ReadWithContext(ctx, path)
		if err != nil {
			return fmt.Errorf("reading the role %s of %s: %w", role, k.Mount, err)
		}
		values := i.token(role)
		values["bound_service_account_names"] = []string{i.cfg.Prefix + role}
		values["bound_service_account_namespaces"] = []string{k.Namespace}
		values["audience"] = k.Audience
		if _, err := i.client.Logical().WriteWithContext(ctx, path, values); err != nil {
			return fmt.Errorf("writing the role %s of %s: %w", role, k.Mount, err)
		}
		if have == nil {
			i.changed("made the role %s%s of %s", i.cfg.Prefix, role, k.Mount)
		}
	}
	return nil
}

func (i *initialiser) roles(ctx context.Context) error {
	for role := range i.policiesOf() {
		have, err := i.client.Logical().ReadWithContext(ctx, i.rolePath(role))
		if err != nil {
			return fmt.Errorf("reading the role %s: %w", role, err)
		}
		values := i.token(role)
		values["bind_secret_id"] = true
		values["secret_id_num_uses"] = 0 // a broker logs in again at the token's greatest age
		values["secret_id_ttl"] = int(i.cfg.SecretIDTTL.Seconds())
		values["secret_id_bound_cidrs"] = i.cidrs()
		_, err = i.client.Logical().WriteWithContext(ctx, i.rolePath(role), values)
		if err != nil {
			return fmt.Errorf("writing the role %s: %w", role, err)
		}
		if have == nil {
			i.changed("made the role %s%s", i.cfg.Prefix, role)
		}
	}
	return nil
}

func (i *initialiser) credentials(ctx context.Context) error {
	wrapping, err := i.client.Clone()
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	wrapping.SetToken(i.client.Token())
	wrapping.ClearNamespace()
	if ns := i.client.Namespace(); ns != "" {
		wrapping.SetNamespace(ns)
	}
	ttl := fmt.Sprintf("%ds", int(i.cfg.WrapTTL.Seconds()))
	wrapping.SetWrappingLookupFunc(func(_, path string) string {
		if strings.HasSuffix(path, "/secret-id") {
			return ttl
		}
		return ""
	})
	for _, role := range i.cfg.Roles {
		if role != RoleBroker && role != RoleSequencer && role != RoleOperator {
			return fmt.Errorf("no role is named %q", role)
		}
		id, err := i.client.Logical().ReadWithContext(ctx, i.rolePath(role)+"/role-id")
		if err != nil || id == nil {
			return fmt.Errorf("reading the id of the role %s: %w", role, errors.Join(err))
		}
		roleID, _ := id.Data["role_id"].(string)
		s, err := wrapping.Logical().WriteWithContext(ctx, i.rolePath(role)+"/secret-id", map[string]any{})
		if err != nil {
			return fmt.Errorf("issuing a secret id for the role %s: %w", role, err)
		}
		if roleID == "" || s == nil || s.WrapInfo == nil || s.WrapInfo.Token == "" {
			return fmt.Errorf("vault issued no wrapped secret id for the role %s", role)
		}
		i.res.Roles = append(i.res.Roles, RoleCredentials{
			Role: role, RoleID: roleID, WrappedSecretID: s.WrapInfo.Token,
			Expires: s.WrapInfo.CreationTime.Add(time.Duration(s.WrapInfo.TTL) * time.Second).UTC(),
		})
	}
	return nil
}

package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/keys/vault"
)

func vaultCommand() *cobra.Command {
	var e vault.Endpoint
	var tokenFile, out, kubernetesCA, reviewer string
	var kubernetes vault.KubernetesInit
	var roles, cidrs []string
	var unwrap bool
	var cfg vault.InitConfig
	init := &cobra.Command{
		Use: "init", Short: "Prepare a Vault or OpenBao for the broker", Args: noArgs,
		Long: `init enables the transit engine and AppRole logins, makes the two root keys (not exportable), writes the least policies and roles, and issues
credentials. It can be repeated: what is there is kept or brought to what it must be, and new credentials are issued.

It writes, for each role, OUT/ROLE.role_id and OUT/ROLE.secret_id. The secret id is response-wrapped: good for one unwrapping, which the broker does at its next start
(keys.vault.secret_id_wrapped: true); a second reader would be noticed. With --unwrap the file holds the secret id itself, good for many starts.
A broker that runs alone, and each of several that may lead, needs the role sequencer.

With --kubernetes-host and --kubernetes-namespace the roles log in by Kubernetes, too: regard-sequencer is for the service account of that name in that namespace, with a token for
the audience "vault", and so on. Secret ids are then issued for those alone that --role names. Vault reviews tokens as its own service account if it runs in the cluster, else with
the token of --kubernetes-reviewer-file; that account needs the cluster role system:auth-delegator.`,
		Example: `  regard vault init --address https://vault.example.fr:8200 --token-file ~/.vault-token --out secrets --role sequencer --unwrap
  regard vault init --address https://vault.example.fr:8200 --token-file ~/.vault-token --kubernetes-host https://kubernetes.default.svc --kubernetes-namespace regard`,
		RunE: func(c *cobra.Command, _ []string) error {
			if e.Address == "" || tokenFile == "" {
				return usagef("--address and --token-file are needed")
			}
			for _, r := range roles {
				if !slices.Contains([]string{vault.RoleBroker, vault.RoleSequencer, vault.RoleOperator}, r) {
					return usagef("--role: choose from %s, %s, %s", vault.RoleBroker, vault.RoleSequencer, vault.RoleOperator)
				}
			}
			if !c.Flags().Changed("role") && kubernetes.Host != "" {
				roles = []string{}
			}
			if kubernetes != (vault.KubernetesInit{}) || kubernetesCA != "" || reviewer != "" {
				if kubernetes.Host == "" || kubernetes.Namespace == "" {
					return usagef("--kubernetes-host and --kubernetes-namespace go together")
				}
				for _, f := range []struct {
					name string
					to   *string
				}{{kubernetesCA, &kubernetes.CACert}, {reviewer, &kubernetes.Reviewer}} {
					if f.name == "" {
						continue
					}
					b, err := readInput(c, f.name, 1<<20)
					if err != nil {
						return err
					}
					*f.to = strings.TrimSpace(string(b))
				}
				cfg.Kubernetes = &kubernetes
			}
			token, err := os.ReadFile(tokenFile)
			if err != nil {
				return usage{err}
			}
			client, transport, err := vault.NewClient(e)
			if err != nil {
				return usage{err}
			}
			defer transport.CloseIdleConnections()
			client.SetToken(strings.TrimSpace(string(token)))
			if len(roles) > 0 {
				if err := os.MkdirAll(out, 0o700); err != nil {
					return err
				}
			}
			cfg.Roles, cfg.BoundCIDRs = roles, cidrs
			res, err := vault.Init(c.Context(), client, cfg)
			if res != nil {
				for _, s := range res.Changed {
					fmt.Fprintln(c.ErrOrStderr(), s)
				}
			}
			if err != nil {
				return err
			}
			if len(res.Changed) == 0 {
				fmt.Fprintln(c.ErrOrStderr(), "everything was there")
			}
			for _, r := range res.Roles {
				secret := r.WrappedSecretID
				if unwrap {
					s, err := client.Logical().UnwrapWithContext(c.Context(), secret)
					if err != nil {
						return fmt.Errorf("unwrapping the secret id of %s: %w", r.Role, err)
					}
					var ok bool
					if s != nil {
						secret, ok = s.Data["secret_id"].(string)
					}
					if !ok {
						return fmt.Errorf("unwrapping the secret id of %s: Vault gave none", r.Role)
					}
				}
				base := filepath.Join(out, r.Role)
				if err := errors.Join(replace(base+".role_id", r.RoleID+"\n"), replace(base+".secret_id", secret+"\n")); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s.role_id\n%s.secret_id\n", base, base)
				if !unwrap {
					fmt.Fprintf(c.ErrOrStderr(), "%s.secret_id is wrapped, good for one start until %s: set keys.vault.secret_id_wrapped: true\n", base, r.Expires.Format(time.RFC3339))
				}
			}
			return nil
		},
	}
	f := init.Flags()
	f.StringVar(&e.Address, "address", "", "Vault's URL")
	f.StringVar(&e.Namespace, "namespace", "", "Vault's namespace")
	f.StringVar(&e.CAFile, "ca-file", "", "certificates that may sign Vault's (default: the system's)")
	f.StringVar(&e.CertFile, "cert", "", "client certificate, if Vault demands one")
	f.StringVar(&e.KeyFile, "key", "", "its key")
	f.StringVar(&tokenFile, "token-file", "", "file with an administrator's token")
	f.StringVar(&out, "out", "secrets", "directory for the credentials")
	f.StringArrayVar(&roles, "role", []string{vault.RoleSequencer}, "role to issue credentials for: sequencer, broker, operator (repeatable)")
	f.BoolVar(&unwrap, "unwrap", false, "write the secret id itself")
	f.StringArrayVar(&cidrs, "bound-cidr", nil, "network from which the roles may log in (repeatable; default: anywhere)")
	f.StringVar(&cfg.TransitMount, "mount", "", "transit mount (default transit)")
	f.StringVar(&cfg.AppRoleMount, "auth-mount", "", "AppRole mount (default approle)")
	f.StringVar(&cfg.WrapKey, "wrap-key", "", "name of the wrap key (default regard-wrap)")
	f.StringVar(&cfg.CheckpointKey, "checkpoint-key", "", "name of the checkpoint key (default regard-checkpoint)")
	f.StringVar(&kubernetes.Host, "kubernetes-host", "", "URL of the Kubernetes API, as Vault reaches it: has the roles log in by service accounts")
	f.StringVar(&kubernetes.Namespace, "kubernetes-namespace", "", "namespace of the service accounts")
	f.StringVar(&kubernetes.Mount, "kubernetes-mount", "", "mount of these logins (default kubernetes)")
	f.StringVar(&kubernetes.Audience, "kubernetes-audience", "", "audience that their tokens are for (default vault)")
	f.StringVar(&kubernetesCA, "kubernetes-ca-file", "", "certificates that may sign the API's (default: those of Vault's pod)")
	f.StringVar(&reviewer, "kubernetes-reviewer-file", "", "file with the token by which Vault asks for reviews (default: Vault runs in the cluster, and has its own)")
	f.DurationVar(&cfg.SecretIDTTL, "secret-id-ttl", 0, "how long secret ids are good (default: for ever)")
	return group("vault", "Keys in Vault or OpenBao", "In production the root keys are in Vault's transit engine and never leave it.", "  regard vault init --help", init)
}

// replace writes a secret file so that no reader sees half of it.
func replace(path, text string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := create(tmp, []byte(text)); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

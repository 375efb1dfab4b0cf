package command

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/keys"
)

// operator are the credentials of Vault's operator role, for what the broker's own may not do.
type operator struct{ roleID, secretID string }

func (o *operator) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.roleID, "role-id-file", "", "role id of Vault's operator role: this command then asks Vault itself")
	c.Flags().StringVar(&o.secretID, "secret-id-file", "", "secret id of Vault's operator role")
}

func (o *operator) given() bool { return o.roleID != "" || o.secretID != "" }

// custodian logs in to Vault as the operator.
func (o *operator) custodian(c *cobra.Command, s *source) (keys.Custodian, error) {
	if o.roleID == "" || o.secretID == "" {
		return nil, usagef("give both --role-id-file and --secret-id-file")
	}
	cfg, _, err := s.load()
	if err != nil {
		return nil, err
	}
	if cfg.Keys.Mode != config.Vault {
		return nil, usagef("the keys are in a keystore: the broker rotates them without --role-id-file")
	}
	own := *cfg
	v := &own.Keys.Vault
	if v.Auth != config.AppRole { // operators are people, and no pods
		v.Auth, v.AuthMount, v.Role, v.TokenFile = config.AppRole, "", "", ""
	}
	v.RoleIDFile, v.SecretIDFile, v.SecretIDWrapped = o.roleID, o.secretID, false
	return openKeys(c.Context(), &own, logger(cfg.Log, c))
}

func rootArg(s string) (keys.RootKey, error) {
	if r := keys.RootKey(s); r == keys.RootWrap || r == keys.RootCheckpoint || r == admin.IntentKey {
		return r, nil
	}
	return "", usagef("%q is no such key: choose wrap, checkpoint or intent", s)
}

func keysCommand() *cobra.Command {
	list := administer(&cobra.Command{Use: "list", Short: "List the versions of the checkpoint and intent keys in force", Args: noArgs, Example: "  regard keys list"},
		func(ctx context.Context, c *admin.Client, _ []string) ([]admin.KeyVersion, error) {
			return c.Keys(ctx)
		},
		func(c *cobra.Command, list []admin.KeyVersion) error {
			var rows [][]string
			for _, k := range list {
				rows = append(rows, []string{k.Key + "." + strconv.Itoa(k.Version), k.Created.Format("2006-01-02"), base64.StdEncoding.EncodeToString(k.Public)})
			}
			return table(c.OutOrStdout(), "KEY SINCE PUBLIC", rows)
		})
	return group("keys", "The root keys and the intent key", `Two root keys: wrap encrypts the data keys, checkpoint signs the log. A data key, intent, signs what providers are asked. All have versions.

The wrap key:        regard keys rotate wrap; regard keys rewrap; regard keys retire wrap 1
                     A backup can't be restored once the version of the wrap key of its time is retired: make a new one first.
The checkpoint key:  regard keys rotate checkpoint; publish the new log key, once regard status lists it; weeks later regard keys retire checkpoint 1
                     Both versions sign until then. Receipts under the older one stay good for whoever has its log key: write that down before you
                     retire it (regard status), for afterwards it is shown nowhere but, as the bare key, in the public log.
The intent key:      regard keys rotate intent; once providers that pin it have the new one, regard keys retire intent 1
                     Both versions sign until then. Providers that follow the log need do nothing. The custodian has no part in it.

In Vault only the operator role may rotate and retire: give its credentials with --role-id-file and --secret-id-file, or do it in Vault.`,
		"  regard keys rotate wrap", list, rotateCommand(), rewrapCommand(), retireCommand())
}

// versionOf is what the commands say of a root key in JSON.
type versionOf struct {
	Key     string `json:"key"`
	Version int    `json:"version"`
}

func rotateCommand() *cobra.Command {
	var a caller
	var o operator
	var asJSON bool
	c := &cobra.Command{
		Use: "rotate wrap|checkpoint|intent", Short: "Add a version of a key", Args: someArgs(1, false, "the key: wrap, checkpoint or intent"),
		Long:    "rotate adds a version, the newest, which wraps or signs from then on. Older ones still unwrap, and still sign, until they are retired. A new checkpoint or intent key stands in the log as key@v1 and signs within seconds. If Vault was asked and no broker answered at the administration socket, or there are several, a broker signs with it, and shows it (regard status), within a minute.",
		Example: "  regard keys rotate checkpoint\n  regard keys rotate wrap --role-id-file operator.role_id --secret-id-file operator.secret_id",
		RunE: func(c *cobra.Command, args []string) error {
			root, err := rootArg(args[0])
			if err != nil {
				return err
			}
			version, there := 0, true
			if o.given() && root != admin.IntentKey {
				k, err := o.custodian(c, &a.source)
				if err != nil {
					return err
				}
				defer k.Close()
				if version, err = k.Rotate(c.Context(), root); err != nil {
					return err
				}
				there = root != keys.RootCheckpoint || a.lists(c.Context(), version)
			} else {
				client, err := a.client()
				if err != nil {
					return err
				}
				d, err := client.RotateKey(c.Context(), args[0])
				if err != nil {
					return err
				}
				version = int(d.Version)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), versionOf{string(root), version})
			}
			fmt.Fprintf(c.OutOrStdout(), "%s has version %d.\n", root, version)
			switch root {
			case keys.RootWrap:
				fmt.Fprintln(c.ErrOrStderr(), "Next: regard keys rewrap.")
			case admin.IntentKey:
				fmt.Fprintln(c.ErrOrStderr(), "Both versions sign. Next: give the new one to providers that pin it (regard keys list), then retire the older one.")
			default:
				if !there {
					fmt.Fprintln(c.ErrOrStderr(), "No broker shows it yet: one that runs does within a minute. Wait until regard status lists it before you publish.")
				}
				fmt.Fprintln(c.ErrOrStderr(), "Both versions sign. Next: publish the new log key (regard status), and retire the older one when every reader has it.")
			}
			return nil
		},
	}
	a.flags(c)
	o.flags(c)
	jsonFlag(c, &asJSON)
	return c
}

// lists has the running broker look anew for versions of the checkpoint key, if there is one, and says whether it lists this one: only then does it show the log key that is to be published.
func (a *caller) lists(ctx context.Context, version int) bool {
	client, err := a.client()
	if err != nil {
		return false
	}
	ks, err := client.Keys(ctx)
	return err == nil && slices.ContainsFunc(ks, func(k admin.KeyVersion) bool {
		return k.Key == string(keys.RootCheckpoint) && k.Version == version
	})
}

func rewrapCommand() *cobra.Command {
	var a caller
	var asJSON bool
	c := &cobra.Command{
		Use: "rewrap", Short: "Bring all data keys under the newest wrap key", Args: noArgs,
		Long:    "rewrap has the running broker encrypt every stored data key anew under the newest version of the wrap key. It can be interrupted and repeated; it changes nothing that is up to date.",
		Example: "  regard keys rewrap",
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			j, err := client.Rewrap(c.Context())
			if err != nil {
				return err
			}
			n, err := waitFor[int](c, "keys seen:", j, client.RewrapState)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Changed int `json:"changed"`
				}{n})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s rewrapped.\n", many(n, "data key", "data keys"))
			return err
		},
	}
	a.flags(c)
	jsonFlag(c, &asJSON)
	return c
}

func retireCommand() *cobra.Command {
	var a caller
	var o operator
	var asJSON bool
	c := &cobra.Command{
		Use: "retire wrap|checkpoint|intent VERSION", Short: "End a version of a key, and those before it", Args: someArgs(2, false, "the key and the version"),
		Long: `retire ends the use of a version and of all before it, for good.

wrap: it waits for the requests that are under way, and is refused while a stored data key needs the version. Backups that were made before the last
rewrap can't be opened any more.
checkpoint: the log says so first (key@v1 retired), under both signatures. Refused while the last checkpoint isn't signed by a newer version.
intent: the log says so first, and the version is destroyed.`,
		Example: "  regard keys retire wrap 1\n  regard keys retire checkpoint 1 --role-id-file operator.role_id --secret-id-file operator.secret_id",
		RunE: func(c *cobra.Command, args []string) error {
			root, err := rootArg(args[0])
			if err != nil {
				return err
			}
			version, err := strconv.Atoi(args[1])
			if err != nil || version < 1 {
				return usagef("%q is no version: give a number from 1", args[1])
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			var k keys.Custodian
			if o.given() && root != admin.IntentKey {
				if k, err = o.custodian(c, &a.source); err != nil {
					return err
				}
				defer k.Close()
			}
			if _, err := client.RetireKey(c.Context(), args[0], admin.RetireCall{Version: version, Prepare: k != nil}); err != nil {
				return err
			}
			if k != nil {
				if err := k.Retire(c.Context(), root, version+1); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), versionOf{string(root), version})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: version %d and those before it are retired.\n", root, version)
			return err
		},
	}
	a.flags(c)
	o.flags(c)
	jsonFlag(c, &asJSON)
	return c
}

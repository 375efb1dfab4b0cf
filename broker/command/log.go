package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/ledger/proof"
)

const whatSkipping = "The entry goes into a roll that is nobody's, its details count as lost, and an entry of the log tells everybody. The person won't find it in their roll, and its receipt can't be settled."

func logCommand() *cobra.Command {
	return group("log", "The transparency log", "Its key, and what can't be undone and everybody sees.", "  regard log key --config /etc/regard/regard.yaml\n  regard log skip 8391 --reason disk-fault --yes", logKeyCommand(), skipCommand())
}

func logKeyCommand() *cobra.Command {
	s := source{noFiles: true} // witnesses.policy, for one, isn't there before the witnesses have the key
	var asJSON bool
	c := &cobra.Command{
		Use: "key", Short: "Print the log's verification key, without a broker", Args: noArgs,
		Long: `key asks whoever holds the keys (keys.mode) for the public half of the key that signs checkpoints, newest version first. Witnesses need it before a broker that asks them starts for the
first time; of one that runs, regard status --log-key prints the same. A wrapped secret id (keys.vault.secret_id_wrapped) is used up by it: make another one for the start.`,
		Example: "  regard log key --config /etc/regard/regard.yaml > log.vkey",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, err := s.load()
			if err != nil {
				return err
			}
			custodian, err := openKeys(c.Context(), cfg, logger(config.Log{Level: "error", Format: cfg.Log.Format}, c))
			if err != nil {
				return err
			}
			defer custodian.Close()
			pub, err := custodian.PublicKeys(c.Context())
			if err != nil {
				return fmt.Errorf("reading the log's public keys: %w", err)
			}
			vkeys := []string{}
			for _, k := range pub {
				vkey, err := note.NewEd25519VerifierKey(cfg.Origin, k.Key)
				if err != nil {
					return fmt.Errorf("writing the log's key: %w", err)
				}
				vkeys = append(vkeys, vkey)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), vkeys)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), strings.Join(vkeys, "\n"))
			return err
		},
	}
	s.flags(c)
	jsonFlag(c, &asJSON)
	return c
}

func skipCommand() *cobra.Command {
	var reason string
	var yes bool
	var c *cobra.Command
	c = administer(&cobra.Command{
		Use: "skip INDEX", Short: "Give up an entry whose record can't be read", Args: someArgs(1, false, "the log index of the entry"),
		Long: `skip is for when the broker's log says that "labelling entries failed" because a record can't be opened: nothing after it is filed then, erasures wait, and the epoch can't close.
First look for the row or its key in a backup (docs/operate.md): what is skipped is given up for good.

` + whatSkipping + `
Only the entry that holds up the filing is taken, and only if it can't be read. Without --yes nothing is done.`,
		Example: "  regard log skip 8391 --reason disk-fault --yes",
	}, func(ctx context.Context, cl *admin.Client, args []string) (admin.Done, error) {
		index, err := strconv.ParseUint(args[0], 10, 63)
		if err != nil {
			return admin.Done{}, usagef("%q is no log index", args[0])
		}
		if !proof.IsToken(reason) {
			return admin.Done{}, usagef("--reason is missing or not a token: why, for example disk-fault")
		}
		if !yes {
			fmt.Fprintf(c.ErrOrStderr(), "skip would give up entry %d, for the reason %s.\n%s\n", index, reason, whatSkipping)
			return admin.Done{}, usagef("nothing was done: repeat with --yes")
		}
		return cl.Skip(ctx, admin.SkipCall{Index: proof.Index(index), Reason: reason})
	}, done("Entry %s is given up, and the log says so. What comes after it is filed."))
	c.Flags().StringVar(&reason, "reason", "", "why, a token: everybody reads it in the log, for example disk-fault")
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	return c
}

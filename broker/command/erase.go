package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/ledger/proof"
)

// whatErasing says before and in the help what the command does and what it doesn't.
const whatErasing = `It destroys the keys of this one identifier: its part of every record so far (who it is about, context, object) becomes unreadable for everybody, for ever, and its sealed
answers are deleted. An entry in the public log says that it happened; the administrative parts, the proofs and the receipts handed out remain. Copies of the data
directory made before still hold the keys: destroy them, too.
A legal hold (regard hold) or an open contest (regard contests) keeps it from beginning. There is no time to think it over, as there is for what people ask for themselves.`

func eraseCommand() *cobra.Command {
	var who person
	var ground string
	var yes bool
	var c *cobra.Command
	c = administer(&cobra.Command{
		Use: "erase", Short: "Make a person's records unreadable, for ever", Args: noArgs,
		Long: "erase takes a few seconds. " + whatErasing + `

Other identifiers of the same person (pivot, person, nir, …) are to be erased each. Without --yes nothing is done.
The subject is ` + subjectExample + `, or {"type": "nir", "value": "…"}.`,
		Example: `  regard erase -f subject.json --ground rgpd-17
  regard erase -f - --ground rgpd-17 --yes < subject.json`,
	}, func(ctx context.Context, cl *admin.Client, _ []string) (admin.Erased, error) {
		if !proof.IsToken(ground) {
			return admin.Erased{}, usagef("--ground is missing or not a token: why, for example rgpd-17")
		}
		subject, err := who.read(c)
		if err != nil {
			return admin.Erased{}, err
		}
		if !yes {
			fmt.Fprintf(c.ErrOrStderr(), "erase would make everything under this identifier (type %s) unreadable, on the ground %s.\n%s\n", subject.Type, ground, whatErasing)
			return admin.Erased{}, usagef("nothing was done: repeat with --yes")
		}
		return cl.Erase(ctx, admin.ErasureOrder{Subject: subject, Ground: ground})
	}, func(c *cobra.Command, e admin.Erased) error {
		_, err := fmt.Fprintf(c.OutOrStdout(), "Erased: everything under this identifier up to log index %d. Entry %d says so.\n", e.Reach, e.Index)
		return err
	})
	who.flag(c)
	c.Flags().StringVar(&ground, "ground", "", "why, a token: it stands in the record, for example rgpd-17")
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	return c
}

package command

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/ledger/proof"
)

const whatSkipping = "The entry goes into a roll that is nobody's, its details count as lost, and an entry of the log tells everybody. The person won't find it in their roll, and its receipt can't be settled."

func logCommand() *cobra.Command {
	return group("log", "The transparency log", "What can't be undone, and everybody sees.", "  regard log skip 8391 --reason disk-fault --yes", skipCommand())
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

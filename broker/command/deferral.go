package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/admin"
)

func deferralCommand() *cobra.Command {
	list := administer(&cobra.Command{
		Use: "list", Short: "List the delays that aren't over", Args: noArgs, Example: "  regard deferral list --json",
		Long: `list shows which disclosures are deferred, under whose authority, until when; never whom they concern. UNTIL is the end of the delay: the broker opens them then, within seconds.
"overdue": it is over and they aren't opened, because what the store holds can't be read or somebody whom they concern is being erased. Everybody sees that in the log once the month is over.`,
	}, func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Deferral, error) {
		return c.Deferrals(ctx)
	}, func(c *cobra.Command, list []admin.Deferral) error {
		var rows [][]string
		for _, d := range list {
			state := "pending"
			if d.Overdue {
				state = "overdue"
			}
			rows = append(rows, []string{d.Disclosure, state, d.Until.UTC().Format("2006-01-02T15:04:05Z"), d.Month, strconv.FormatUint(d.Index, 10), strconv.Itoa(d.Entries), strconv.Itoa(d.Accesses), d.Article, d.Authority})
		}
		return table(c.OutOrStdout(), "DISCLOSURE STATE UNTIL MONTH INDEX ENTRIES ACCESSES ARTICLE AUTHORITY", rows)
	})
	var id, reason string
	end := administer(&cobra.Command{
		Use: "end", Short: "End a delay before its time", Args: noArgs, Example: "  regard deferral end --disclosure 0199c1d2-7a53-7c3e-9d6c-0d8f6a2b4e11 --reason 'order lifted, 2026/118'",
		Long: `end opens what is deferred of a disclosure now: opened@v1 entries say so in the log, and the people whom it concerns see it, with the accesses to its records. There is no way back.
The reason is kept by the broker and written to its log, so it names nobody.`,
	}, func(ctx context.Context, c *admin.Client, _ []string) (admin.Opened, error) {
		if _, err := uuid.Parse(id); err != nil {
			return admin.Opened{}, usagef("--disclosure is missing or no id: regard deferral list prints them")
		}
		if strings.TrimSpace(reason) == "" {
			return admin.Opened{}, usagef("--reason is missing: why the delay ends before its time")
		}
		return c.EndDeferral(ctx, id, admin.EndCall{Reason: reason})
	}, func(c *cobra.Command, o admin.Opened) error {
		_, err := fmt.Fprintf(c.OutOrStdout(), "The delay of %s is over: %s.\n", o.Disclosure, many(o.Entries, "entry is opened, and its person sees it", "entries are opened, and their people see them"))
		return err
	})
	end.Flags().StringVar(&id, "disclosure", "", "id of the disclosure")
	end.Flags().StringVar(&reason, "reason", "", "why, on one line and without names")
	return group("deferral", "Lawful delays", "An agreement may say that the people concerned learn of a request later (regard agreement add --help). Everybody sees in the log that there is a delay, until when and on which legal basis; nobody sees whom it concerns.", "  regard deferral list", list, end)
}

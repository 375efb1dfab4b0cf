package command

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/admin"
)

// What people do beside reading, as far as the operator has a part in it.

func agencySetCommand() *cobra.Command {
	var in admin.AgencyAddresses
	c := administer(&cobra.Command{
		Use: "set ID", Short: "Say where mails about contests of an agency's requests go", Args: someArgs(1, false, "the agency's id"),
		Long: `set replaces both addresses; one that isn't given is removed. Mails hold a reference and a deadline, nothing about the person. They need mail in the broker's configuration; the agency can also ask
for its contests (GET /v1/contests). Addresses are not in the public log: use those of a role.`,
		Example: "  regard agency set ccas-saint-lary --contact accueil@saint-lary.example --dpo dpo@saint-lary.example",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		return c.SetAgencyAddresses(ctx, args[0], in)
	}, done("The addresses of agency %s are set."))
	c.Flags().StringVar(&in.Contact, "contact", "", "address of the agency")
	c.Flags().StringVar(&in.DPO, "dpo", "", "address of its data protection officer")
	return c
}

const minute = "2006-01-02 15:04"

func contestsCommand() *cobra.Command {
	var state, after string
	var limit int
	c := administer(&cobra.Command{
		Use: "contests", Short: "List contests, and which are overdue", Args: noArgs,
		Long: `contests lists the contests that people filed of requests about them, the oldest first: how each stands, never what it says. An agency has a month to answer (GDPR, article 12(3)), or three if it said
why; it and its data protection officer get a mail at once, and another when the time is over.`,
		Example: "  regard contests --state overdue\n  regard contests --json",
	}, func(ctx context.Context, c *admin.Client, _ []string) (admin.Contests, error) {
		if limit < 1 || limit > 200 {
			return admin.Contests{}, usagef("--limit is not between 1 and 200")
		}
		return c.Contests(ctx, state, after, limit)
	}, func(c *cobra.Command, page admin.Contests) error {
		var rows [][]string
		for _, x := range page.Contests {
			state := x.State
			switch {
			case x.Overdue:
				state = "OVERDUE"
			case x.Outcome != "":
				state += ": " + x.Outcome
			case !x.Extended.IsZero() && x.State == "open":
				state += ", extended"
			case !x.Acknowledged.IsZero() && x.State == "open":
				state += ", acknowledged"
			}
			rows = append(rows, []string{x.ID, x.Agency, state, x.Filed.UTC().Format(minute), x.Due.UTC().Format(minute), x.Disclosure})
		}
		if err := table(c.OutOrStdout(), "ID AGENCY STATE FILED DUE DISCLOSURE", rows); err != nil {
			return err
		}
		return more(c, "--after", page.Next)
	})
	c.Flags().StringVar(&state, "state", "", "open, overdue, answered or withdrawn (default: all)")
	c.Flags().StringVar(&after, "after", "", "contests after this one")
	c.Flags().IntVar(&limit, "limit", 50, "contests, at most 200")
	return c
}

// more says how to ask for the next page, if there is one.
func more(c *cobra.Command, flag, next string) error {
	if next != "" {
		c.PrintErrf("There are more: %s %s\n", flag, next)
	}
	return nil
}

// moment reads a day (UTC) or a time; a last day counts as a whole.
func moment(flag, text string, last bool) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.UTC(), nil
	}
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return t, usagef("%s is neither a day (2026-01-31, UTC) nor a time (RFC 3339)", flag)
	}
	if last {
		t = t.AddDate(0, 0, 1)
	}
	return t, nil
}

// untilText shows an end that may be open.
func untilText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(minute)
}

func holdCommand() *cobra.Command {
	var who person
	var in admin.NewHold
	var until string
	var add *cobra.Command
	add = administer(&cobra.Command{
		Use: "add", Short: "Keep a person's identifiers from being erased", Args: noArgs,
		Long: `add keeps one identifier, or those of a list, from being erased: by the operator and by the person, whose request then waits. Nothing of it is in the public log. The person who asks for an erasure
reads --basis, and nobody but the operator --reference. It holds the identifiers that are given and no others of the same person. An erasure that has begun is carried through.
The subject is ` + subjectExample + `, or a list of them in brackets.`,
		Example: `  regard hold add -f subjects.json --basis 'code de procédure pénale, article 60-1' --reference 'TJ Paris 2026/123' --until 2027-06-30
  regard hold add -f - --basis 'code du patrimoine, article L212-2' --reference 'archives 7' < subject.json`,
	}, func(ctx context.Context, c *admin.Client, _ []string) (_ admin.Done, err error) {
		if in.Basis == "" || in.Reference == "" {
			return admin.Done{}, usagef("--basis and --reference are needed: the legal basis, which the person may read, and your own reference")
		}
		if in.Until, err = moment("--until", until, true); err != nil {
			return admin.Done{}, err
		}
		if in.Subjects, err = who.readAll(add); err != nil {
			return admin.Done{}, err
		}
		return c.AddHold(ctx, in)
	}, done("Hold %s is in force."))
	who.flag(add)
	add.Flags().StringVar(&in.Basis, "basis", "", "the legal basis, on one line")
	add.Flags().StringVar(&in.Reference, "reference", "", "your reference, on one line")
	add.Flags().StringVar(&until, "until", "", "last day (UTC), or time (default: until it is removed)")

	list := administer(&cobra.Command{Use: "list", Short: "List the holds; never whom they are about", Args: noArgs, Example: "  regard hold list --json"},
		func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Hold, error) { return c.Holds(ctx) },
		func(c *cobra.Command, list []admin.Hold) error {
			var rows [][]string
			for _, h := range list {
				state := "in force"
				if h.Over {
					state = "over"
				}
				rows = append(rows, []string{h.ID, state, h.Since.UTC().Format(minute), untilText(h.Until), strconv.Itoa(h.Identifiers), h.Basis, h.Reference})
			}
			return table(c.OutOrStdout(), "ID STATE SINCE UNTIL IDENTIFIERS BASIS REFERENCE", rows)
		})
	remove := administer(&cobra.Command{
		Use: "remove ID", Short: "End a hold: what waited for it goes on", Args: someArgs(1, false, "the hold's id"), Example: "  regard hold remove 01a2…",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		return c.RemoveHold(ctx, args[0])
	}, done("Hold %s is removed."))
	return group("hold", "What keeps people from being erased", "A legal hold keeps identifiers from being erased, for a time or until it is removed. It stands in the store, sealed, and nowhere in the public log.", "  regard hold list", add, list, remove)
}

func delegateCommand() *cobra.Command {
	var who person
	var in admin.NewDelegation
	var since, until string
	var add *cobra.Command
	add = administer(&cobra.Command{
		Use: "add", Short: "Let somebody read another person's histories, on evidence", Args: noArgs,
		Long: `add lets a guardian read the histories of a ward, or a representative those of a business: reading, and nothing else. Every record that they open is an access that the ward sees. Both sides are
told, read the evidence, and can revoke it.
The file holds both: {"delegate": {"type": "pivot", …}, "subjects": [{…}]}. The delegate's pivot identity has to be the one with which they sign in; subjects are the ward's identifiers, or for
a representative {"type": "siren", "value": "…"}.`,
		Example: `  regard delegate add -f parties.json --kind guardian --evidence 'jugement du 3 mars 2026, TJ Paris' --until 2031-03-02
  regard delegate add -f - --kind representative --evidence 'RNE, extrait du 26 novembre 2026' < parties.json`,
	}, func(ctx context.Context, c *admin.Client, _ []string) (_ admin.Done, err error) {
		if in.Kind != "guardian" && in.Kind != "representative" {
			return admin.Done{}, usagef("--kind is needed: guardian or representative")
		}
		if in.Evidence == "" {
			return admin.Done{}, usagef("--evidence is missing: what shows it; both sides read it")
		}
		if in.Since, err = moment("--from", since, false); err != nil {
			return admin.Done{}, err
		}
		if in.Until, err = moment("--until", until, true); err != nil {
			return admin.Done{}, err
		}
		b, err := who.bytes(add)
		if err != nil {
			return admin.Done{}, err
		}
		parties, err := admin.ParseParties(b)
		if err != nil {
			return admin.Done{}, usagef("%s: %s", who.file, explainProblem(err))
		}
		in.Delegate, in.Subjects = parties.Delegate, parties.Subjects
		return c.GrantDelegation(ctx, in)
	}, done("Delegation %s is granted."))
	add.Flags().StringVarP(&who.file, "file", "f", "", "both sides (JSON), - for standard input")
	add.Flags().StringVar(&in.Kind, "kind", "", "guardian or representative")
	add.Flags().StringVar(&in.Evidence, "evidence", "", "what shows it, on one line; both sides read it")
	add.Flags().StringVar(&since, "from", "", "first day (UTC), or time (default: at once)")
	add.Flags().StringVar(&until, "until", "", "last day (UTC), or time (default: until it is revoked)")

	var before string
	list := administer(&cobra.Command{Use: "list", Short: "List the delegations; neither side is named", Args: noArgs, Example: "  regard delegate list --json"},
		func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Delegation, error) {
			return c.Delegations(ctx, before)
		},
		func(c *cobra.Command, list []admin.Delegation) error {
			var rows [][]string
			for _, d := range list {
				state := "not in force"
				switch {
				case d.InForce:
					state = "in force"
				case d.EndedBy != "":
					state = "ended: " + d.EndedBy
				}
				rows = append(rows, []string{d.ID, d.Kind, state, d.Since.UTC().Format(minute), untilText(d.Until), strconv.Itoa(d.Identifiers)})
			}
			if err := table(c.OutOrStdout(), "ID KIND STATE SINCE UNTIL IDENTIFIERS", rows); err != nil || len(list) < 200 {
				return err
			}
			return more(c, "--before", list[len(list)-1].ID)
		})
	list.Flags().StringVar(&before, "before", "", "delegations before this one")
	revoke := administer(&cobra.Command{
		Use: "revoke ID", Short: "End a delegation, at once", Args: someArgs(1, false, "the delegation's id"), Example: "  regard delegate revoke 01a2…",
	}, func(ctx context.Context, c *admin.Client, args []string) (admin.Done, error) {
		return c.EndDelegation(ctx, args[0])
	}, done("Delegation %s is revoked."))
	return group("delegate", "Who may read another person's histories", "A delegation lets a guardian or a representative read histories, and nothing else. The person sees every access.", "  regard delegate list", add, list, revoke)
}

package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/client"
	"github.com/regard-broker/regard/broker/holder"
)

// keeper opens an agency's store of receipts. Under a policy that demands no witnesses the log's signature is enough: whoever gives it has decided that.
func (a *asker) keeper(ctx context.Context, cl *client.Client, times holder.Times) (*holder.Keeper, error) {
	p, err := readPolicy(a.logKey, a.policy)
	if err != nil {
		return nil, err
	}
	return holder.NewKeeper(ctx, holder.KeeperConfig{Dir: a.store, Client: cl, Policy: p, AcceptSigned: !p.Demands(), Times: times})
}

// keep stores a receipt, durably.
func (a *asker) keep(ctx context.Context, res *client.Result) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	k, err := a.keeper(ctx, cl, holder.Times{})
	if err != nil {
		return err
	}
	return errors.Join(k.Keep(res), k.Close())
}

// openReceipts opens a store that exists, whose ever it is.
func openReceipts(c *cobra.Command, dir string) (*holder.Store, string, error) {
	role, err := holder.ReadRole(c.Context(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", usagef("%s holds no receipts", dir)
	}
	if err != nil {
		return nil, "", fmt.Errorf("opening the receipts in %s: %w", dir, err)
	}
	s, err := holder.OpenStore(c.Context(), dir, role)
	return s, role, err
}

// receiptsStatus is what status says in JSON.
type receiptsStatus struct {
	Role            string           `json:"role"`
	States          map[string]int64 `json:"states"`
	Unheard         int64            `json:"unheard"`
	Erased          int64            `json:"erased"`
	OldestUnproven  *time.Time       `json:"oldest_unproven,omitempty"`
	OldestUnsettled *time.Time       `json:"oldest_unsettled,omitempty"`
	OldestDelay     *time.Time       `json:"oldest_delay,omitempty"` // when the first of the delays that aren't over has to be
	Overdue         string           `json:"overdue,omitempty"`
	Evidence        []evidence       `json:"evidence"`
}

type evidence struct {
	Disclosure string    `json:"disclosure"`
	At         time.Time `json:"at"`
	Code       string    `json:"code"`
	Detail     string    `json:"detail"`
	Shown      string    `json:"shown,omitempty"`
}

func receiptsCommand() *cobra.Command {
	var asJSON bool
	var times holder.Times
	var maxUnheard float64
	status := &cobra.Command{
		Use: "status DIR", Short: "Say how far the proofs of the kept receipts have come", Args: someArgs(1, false, "the directory of the store"),
		Long: `status reads the store of an agency (regard request --keep) or of a provider (regard-provider --guard), also while it is in use. Receipts are signed until a quorum of witnesses has seen them; under a policy that demands none that is enough, and they are never called witnessed.

Exit codes: 0 nothing is overdue; 1 something is, or the broker says of too many answers that it couldn't read them, or something that the broker showed is wrong (the evidence is listed, and with --json the bytes).`,
		Example: "  regard receipts status receipts/",
		RunE: func(c *cobra.Command, args []string) (err error) {
			s, role, err := openReceipts(c, args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			return showReceipts(c, s, role, times, maxUnheard, asJSON)
		},
	}
	status.Flags().DurationVar(&times.MaxAge, "max-age", 10*time.Minute, "how long receipts may take to be witnessed, or signed if the policy demands no witnesses")
	status.Flags().DurationVar(&times.SettleAge, "settle-age", 72*time.Hour, "how long they may take to be settled")
	status.Flags().Float64Var(&maxUnheard, "max-unheard", holder.DefaultMaxUnheard, "share of the last day's answers that the broker may say it couldn't read")
	jsonFlag(status, &asJSON)

	var a asker
	upgrade := &cobra.Command{
		Use: "upgrade DIR", Short: "Fetch the witnessed and settled forms of an agency's receipts", Args: someArgs(1, false, "the directory of the store"),
		Example: "  regard receipts upgrade receipts/ --url https://broker.example.fr:8443 --cert ccas.pem --key ccas.key --policy log.policy",
		RunE: func(c *cobra.Command, args []string) (err error) {
			if _, err := holder.ReadRole(c.Context(), args[0]); err != nil {
				return usagef("%s holds no receipts", args[0])
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			a.store = args[0]
			k, err := a.keeper(c.Context(), cl, times)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, k.Close()) }()
			for {
				further, pause, err := k.Upgrade(c.Context())
				if err != nil && pause == 0 {
					return err
				}
				if pause == 0 {
					fmt.Fprintf(c.ErrOrStderr(), "%s further.\n", many(further, "receipt came", "receipts came"))
					break
				}
				select {
				case <-time.After(pause):
				case <-c.Context().Done():
					return errors.New("interrupted")
				}
			}
			return showReceipts(c, k.Store(), holder.RoleAgency, times, 1, a.json)
		},
	}
	a.flags(upgrade)
	upgrade.Flags().DurationVar(&times.MaxAge, "max-age", 10*time.Minute, "how long receipts may take to be witnessed, or signed if the policy demands no witnesses")
	upgrade.Flags().DurationVar(&times.SettleAge, "settle-age", 72*time.Hour, "how long they may take to be settled")
	for _, name := range []string{"keep", "out"} {
		_ = upgrade.Flags().MarkHidden(name)
	}

	export := &cobra.Command{
		Use: "export DIR", Short: "Write everything that is kept as JSON lines, for regard-audit reconcile", Args: someArgs(1, false, "the directory of the store"),
		Long:    "export writes one line for each disclosure, with its receipts. They hold personal data.",
		Example: "  regard receipts export receipts/ > held.jsonl",
		RunE: func(c *cobra.Command, args []string) (err error) {
			s, _, err := openReceipts(c, args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			return s.Export(c.Context(), c.OutOrStdout())
		},
	}

	var reason string
	accept := &cobra.Command{
		Use: "accept DIR ID", Short: "Close a disclosure whose proof won't come, or that was looked into", Args: someArgs(2, false, "the directory of the store and the disclosure's id"),
		Long:    "accept ends the alarm about one disclosure: a provider's guard answers the broker again. The reason and the evidence are kept.",
		Example: "  regard receipts accept receipts/ 01935a11-2233-7444-8555-66778899aabb --reason 'lost with the restored backup, ticket 4711'",
		RunE: func(c *cobra.Command, args []string) (err error) {
			if reason == "" {
				return usagef("--reason is missing: why is this in order?")
			}
			s, _, err := openReceipts(c, args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			if err := s.Accept(args[1], reason); errors.Is(err, holder.ErrUnknown) {
				return usage{err}
			} else if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is accepted.\n", args[1])
			return err
		},
	}
	var age time.Duration
	forget := &cobra.Command{
		Use: "forget DIR", Short: "Delete what is held about old disclosures whose proof is complete", Args: someArgs(1, false, "the directory of the store"),
		Long:    "forget deletes the receipts and the notes about disclosures that are settled or accepted and older than --older-than: they name people. What isn't finished stays, and so does evidence. It can run while the store is in use.",
		Example: "  regard receipts forget receipts/ --older-than 26280h",
		RunE: func(c *cobra.Command, args []string) (err error) {
			if age < holder.MinForget {
				return usagef("--older-than is missing, or less than %v", holder.MinForget)
			}
			s, _, err := openReceipts(c, args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			n, err := s.Forget(c.Context(), time.Now().Add(-age))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s forgotten.\n", many(n, "disclosure is", "disclosures are"))
			return err
		},
	}
	forget.Flags().DurationVar(&age, "older-than", 0, "how long ago they were asked, at least, like 26280h; 24h or more")
	accept.Flags().StringVar(&reason, "reason", "", "why this is in order; kept with it")
	return group("receipts", "What an agency or a provider holds against the broker", "A store keeps receipts and brings them to witnessed and settled: of an agency with regard request --keep, of a provider with its guard.",
		"  regard receipts status receipts/", status, upgrade, export, accept, forget)
}

func showReceipts(c *cobra.Command, s *holder.Store, role string, times holder.Times, maxUnheard float64, asJSON bool) error {
	st, err := s.Status(c.Context())
	if err != nil {
		return err
	}
	found, err := s.Evidence(c.Context())
	if err != nil {
		return err
	}
	out := receiptsStatus{Role: role, States: map[string]int64{}, Unheard: st.Unheard, Erased: st.Erased, Overdue: st.Overdue(times, time.Now()), Evidence: []evidence{}}
	var rows [][]string
	for state, n := range st.Counts {
		out.States[holder.State(state).String()] = n
		rows = append(rows, []string{holder.State(state).String(), strconv.FormatInt(n, 10)})
	}
	for _, at := range []struct {
		from time.Time
		to   **time.Time
	}{{st.OldestUnproven, &out.OldestUnproven}, {st.OldestUnsettled, &out.OldestUnsettled}, {st.OldestDelay, &out.OldestDelay}} {
		if !at.from.IsZero() {
			*at.to = &at.from
		}
	}
	for _, e := range found {
		out.Evidence = append(out.Evidence, evidence{e.Disclosure, e.At, e.Refutation.Code, e.Refutation.Detail, string(e.Shown)})
	}
	if asJSON {
		err = printJSON(c.OutOrStdout(), out)
	} else {
		w := c.OutOrStdout()
		err = table(w, "STATE DISCLOSURES", rows)
		if out.Unheard > 0 {
			fmt.Fprintf(w, "%s recorded as unreadable: nobody in them has an entry.\n", many(out.Unheard, "answer that was given is", "answers that were given are"))
		}
		if out.Erased > 0 {
			fmt.Fprintf(w, "%s didn't settle because somebody was erased, as the broker says: regard-audit reconcile --log compares that with the log.\n", many(out.Erased, "disclosure", "disclosures"))
		}
		for _, e := range out.Evidence {
			fmt.Fprintf(w, "evidence  %s  %s  %s: %s\n", e.At.Format(time.RFC3339), e.Disclosure, e.Code, e.Detail)
		}
	}
	if err == nil && out.Overdue == "" {
		var u holder.Unheard
		if u, err = s.Unheard(c.Context(), time.Now().Add(-24*time.Hour)); err == nil && u.Exceeds(maxUnheard) {
			err = fmt.Errorf("%s: of %d answers of the last day the broker recorded %d as unreadable, and nobody in them has an entry", holder.AlarmUnheard, u.Of, u.N)
		}
	}
	if err == nil && out.Overdue != "" {
		err = fmt.Errorf("%s: the broker doesn't show the proof of what happened", out.Overdue)
	}
	return err
}

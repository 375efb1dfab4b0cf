package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/logkey"
	"github.com/regard-broker/regard/ledger/proof"
)

// logPlaces demands the places of a log, at most so many.
func logPlaces(most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fmt.Errorf("%s needs the address of a log, or a directory (see %s --help)", c.Name(), c.CommandPath())
		case len(args) > most:
			return fmt.Errorf("%s takes at most %d logs, and %d are named: a flag takes one value, and is given again for each more", c.Name(), most, len(args))
		}
		return nil
	}
}

// interruptible ends with Ctrl-C and SIGTERM.
func interruptible(c *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
}

func fsckCommand() *cobra.Command {
	var look logFlags
	var asJSON bool
	var cfg fsck.Config
	var earlier, auditors []string
	c := &cobra.Command{
		Use: "fsck URL|DIR", Short: "Check a whole log as it is served", Args: logPlaces(1),
		Long: `fsck reads every file of a log and checks it against the signed checkpoint: every tile of every level, every entry and its form, epochs and their markers, the rules of governance that the public
log shows, what digests in the log stand for, and the index of every closed epoch. It believes nothing that it is served.

It doesn't show that every filed entry is in the roll of its person: auditors with access do (audit-index), and persons with their histories (verify-history).

With --state it goes on where the last run ended, after checking that the log extends what was checked then. Remove the file to check all again.

Exit codes: 0 the log is sound, 1 it has faults, 2 it could not be checked, or not wholly: not reachable, no key, a checkpoint that isn't this log's.`,
		Example: `  regard-audit fsck https://log.regard.example.fr --policy log.policy
  regard-audit fsck https://log.regard.example.fr --policy log.policy --state fsck.json --json
  regard-audit fsck /srv/mirror --log-key log.vkey`,
		RunE: func(c *cobra.Command, args []string) (err error) {
			if cfg.Policy, err = look.readPolicy(c); err != nil {
				return err
			}
			if cfg.Source, err = look.source(args[0]); err != nil {
				return err
			}
			cfg.AllowProvisional = look.provisional
			for _, name := range earlier {
				b, err := read(c, name)
				if err != nil {
					return err
				}
				cfg.Earlier = append(cfg.Earlier, b)
			}
			for _, name := range auditors {
				k, err := readKey(c, name)
				if err != nil {
					return err
				}
				cfg.AuditorKeys = append(cfg.AuditorKeys, k)
			}
			ctx, stop := interruptible(c)
			defer stop()
			var end func()
			cfg.Progress, end = progress(c.ErrOrStderr())
			r, err := fsck.Check(ctx, cfg)
			end()
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				if err := e.Encode(r); err != nil {
					return err
				}
			} else if r.Origin != "" {
				printReport(c.OutOrStdout(), r)
			}
			switch {
			case r.Faults > 0:
				if err != nil {
					fmt.Fprintf(c.ErrOrStderr(), "regard-audit: not all could be checked: %v\n", err)
				}
				return errRefused
			case refutes(err):
				return err
			case err != nil:
				return fmt.Errorf("the log could not be checked: %w", noLog(err))
			}
			return nil
		},
	}
	look.keys(c, "a checkpoint without the policy's quorum is no fault")
	look.patience(c)
	f := c.Flags()
	f.StringSliceVar(&earlier, "checkpoint", nil, "signed checkpoints that were kept: the history must have them")
	f.StringSliceVar(&auditors, "auditor-key", nil, "verification keys of auditors, or files with them")
	f.StringVar(&cfg.State, "state", "", "file that says where the last run ended")
	f.IntVar(&cfg.Workers, "workers", 8, "files read at the same time")
	f.BoolVar(&asJSON, "json", false, "write JSON")
	return c
}

// readKey takes a verification key of an auditor, or a file with it.
func readKey(c *cobra.Command, s string) (string, error) {
	return logkey.KeyOrFile("--auditor-key", s, reading(c))
}

// terminal reports whether somebody watches w.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb"
}

// progress returns what shows how far a check came, on a terminal only, and what ends that line.
func progress(w io.Writer) (func(done, total uint64), func()) {
	if !terminal(w) {
		return nil, func() {}
	}
	start, last, shown := time.Now(), time.Time{}, false
	return func(done, total uint64) {
			if now := time.Now(); done == total || now.Sub(last) > 200*time.Millisecond {
				last, shown = now, true
				fmt.Fprintf(w, "\r%d of %d entries, %.0f a second   ", done, total, float64(done)/now.Sub(start).Seconds())
			}
		}, func() {
			if shown {
				fmt.Fprintln(w)
			}
		}
}

func printReport(w io.Writer, r fsck.Report) {
	verdict := "SOUND"
	switch {
	case r.Faults > 0:
		verdict = fmt.Sprintf("FAULTS: %d", r.Faults)
	case !r.Complete:
		verdict = "NOT CHECKED WHOLLY"
	}
	fmt.Fprintf(w, "%s: %s\n", r.Log, verdict)
	fmt.Fprintf(w, "  log %s, %d entries, root %s\n", r.Origin, r.Size, r.Root)
	if r.From > 0 {
		fmt.Fprintf(w, "  checked from entry %d on; those before, and what was found there, are of an earlier run\n", r.From)
	}
	switch {
	case r.Witnessed:
		fmt.Fprintf(w, "  cosigned by the quorum: %s\n", strings.Join(r.Witnesses, ", "))
	default:
		fmt.Fprintln(w, "  without a quorum of witnesses: others may be shown another history")
	}
	fmt.Fprintf(w, "  %s, %s", many(r.Epochs, "closed epoch", "closed epochs"), many(r.Audited, "index audit", "index audits"))
	if r.Pending > 0 {
		fmt.Fprintf(w, ", %s pending", many(r.Pending, "deferral", "deferrals"))
	}
	fmt.Fprintln(w)
	for _, k := range proof.Kinds() {
		if n := r.Kinds[k]; n > 0 {
			fmt.Fprintf(w, "  %8d %s\n", n, k)
		}
	}
	var last fsck.Code
	for _, f := range r.Findings {
		if f.Code != last {
			last = f.Code
			info := fsck.Codes[f.Code]
			fmt.Fprintf(w, "%s %s: %s (%d)\n  what to do: %s\n", strings.ToUpper(string(f.Severity)), f.Code, info.Means, r.Count[f.Code], info.Do)
		}
		fmt.Fprintf(w, "  %s: %s\n", f.Place, f.Text)
	}
	if r.Omitted > 0 {
		fmt.Fprintf(w, "  and %d more\n", r.Omitted)
	}
}

// Package command is the regard command: everything behind the flags of the operator (init, serve, administration) and of an agency (keygen, request).
//
// What it guarantees. The exit code says what happened: 0 done, 1 failed, 2 the input was at fault and nothing was tried. Data goes to standard output, everything else to standard error.
// Secrets are never arguments: they are files, because arguments can be read by every user of the machine; so is the subject of a request.
//
// What it doesn't. It holds no logic of its own about requests, records or the log.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/deploy/version"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// Exit codes.
const (
	OK     = 0
	Failed = 1
	Usage  = 2
)

// usage is an error of the input: correct it, nothing was tried.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usage{fmt.Errorf(format, args...)} }

// Main runs the command and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := Root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return Report(root.ExecuteContext(ctx), stderr)
}

// Report writes an error for people and returns the exit code.
func Report(err error, stderr io.Writer) int {
	if err == nil {
		return OK
	}
	fmt.Fprintf(stderr, "regard: %v\n", err)
	var (
		u usage
		m *config.Mistakes
		a *admin.Error
	)
	if errors.As(err, &u) || errors.As(err, &m) || errors.As(err, &a) && a.Status == 400 ||
		errors.Is(err, service.ErrDefinition) || errors.Is(err, policy.ErrBundle) || errors.Is(err, proof.ErrFormat) || strings.HasPrefix(err.Error(), "unknown command") {
		return Usage
	}
	return Failed
}

// Root is the command with all its subcommands; more can be added to it.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use:   "regard",
		Short: "A data broker whose every request can be seen by the person it is about",
		Long: `regard runs a broker between public bodies that hold personal data and those that need it. Every request is recorded in a
public log before its answer is released.

Exit codes: 0 done, 1 failed, 2 the input was at fault and nothing was tried.`,
		Example: `  regard init --dir /etc/regard --origin regard.example.fr/2026
  regard serve --config /etc/regard/regard.yaml
  regard status --config /etc/regard/regard.yaml`,
		SilenceUsage: true, SilenceErrors: true,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w (see %s --help)", err, c.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: "operate", Title: "Operate a broker:"}, &cobra.Group{ID: "administer", Title: "Administer a running broker:"}, &cobra.Group{ID: "agency", Title: "For agencies:"}, &cobra.Group{ID: "witness", Title: "For bodies that witness a log:"})
	about := version.Command(root.Name())
	about.Args = noArgs
	for group, commands := range map[string][]*cobra.Command{
		"operate":    {initCommand(), serveCommand(), configCommand(), vaultCommand(), clusterCommand(), backupCommand(), restoreCommand(), demoCommand(), signerCommand()},
		"witness":    {witnessCommand()},
		"administer": {agencyCommand(), auditorCommand(), agreementCommand(), deferralCommand(), serviceCommand(), policyCommand(), keysCommand(), logCommand(), statusCommand(), historyCommand(), eraseCommand(), contestsCommand(), holdCommand(), delegateCommand()},
		"agency":     {keygenCommand(), requestCommand(), receiptsCommand()},
		"":           {about},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	return root
}

// group is a command that only holds others.
func group(use, short, long, example string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Example: example, Args: noArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(subs...)
	return c
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if c.HasSubCommands() {
		return usagef("%s has no command %q (see %s --help)", c.CommandPath(), args[0], c.CommandPath())
	}
	return usagef("%s takes no arguments (see %s --help)", c.CommandPath(), c.CommandPath())
}

// someArgs demands at least n arguments and, unless more, no further ones.
func someArgs(n int, more bool, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < n || !more && len(args) > n {
			return usagef("%s needs %s (see %s --help)", c.CommandPath(), what, c.CommandPath())
		}
		return nil
	}
}

func oneAtMost(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s takes one argument at most (see %s --help)", c.CommandPath(), c.CommandPath())
	}
	return nil
}

func jsonFlag(c *cobra.Command, to *bool) { c.Flags().BoolVar(to, "json", false, "write JSON") }

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// many writes a number with its word: "1 record was", "2 records were".
func many[N int | int64 | uint64](n N, one, more string) string {
	if n == 1 {
		more = one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// table writes aligned columns.
func table(w io.Writer, head string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(head, " ", "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// readInput reads a file, or standard input for "-", of at most limit bytes.
func readInput(c *cobra.Command, name string, limit int64) ([]byte, error) {
	var src io.Reader = c.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usage{err}
		}
		defer f.Close()
		src = f
	}
	b, err := io.ReadAll(io.LimitReader(src, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, usagef("%s is larger than %d bytes", name, limit)
	}
	return b, nil
}

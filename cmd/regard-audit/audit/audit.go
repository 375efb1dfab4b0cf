// Package audit is the regard-audit command: receipts are verified offline, from the log's key or a witness policy and nothing else.
//
// What it guarantees. "Proven" is said only of what package proof has verified, and each verdict says what it rests on and what it doesn't show. Exit codes: 0 everything was verified, 1 at least one
// receipt was refuted, 2 none was, and the input was at fault (a file that can't be read, bytes that are no receipt, a missing quorum, a wrong flag).
//
// What it doesn't. A receipt speaks about one entry. That nothing else was recorded about somebody is shown by the settlement of closed epochs, for the identifiers it names.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
)

// Exit codes.
const (
	Proven  = 0
	Refused = 1
	Input   = 2
)

type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

var errRefused = errors.New("refused")

// Main runs the command and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := Root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	var in inputError
	switch {
	case err == nil:
		return Proven
	case errors.Is(err, errRefused):
		return Refused
	case errors.As(err, &in), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(stderr, "regard-audit: %v\n", err)
		return Input
	}
	fmt.Fprintf(stderr, "regard-audit: %v\n", err)
	return Refused
}

// Root is the command with all its subcommands; more can be added to it.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use: "regard-audit", Short: "Check what a Regard broker hands out, without trusting it",
		Long: `regard-audit verifies receipts offline: against the log's verification key, or against a policy that also names witnesses.

Exit codes: 0 everything is verified, 1 something is refuted, 2 nothing is refuted, but something is unusable: not a receipt, no key, or without the quorum that the policy demands.`,
		Example:      "  regard-audit verify --policy witnesses.policy *.receipt",
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return inputError{fmt.Errorf("there is no command %q (see regard-audit --help)", args[0])}
			}
			return c.Help()
		},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return inputError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	root.AddCommand(verifyCommand(), showCommand(), tlogProofCommand())
	root.AddCommand(keygenCommand(), auditIndexCommand(), verifyHistoryCommand(), fsckCommand(), mirrorCommand(), openCommand(), replayCommand(), exportCommand(), monitorCommand())
	root.AddCommand(reconcileCommand())
	return root
}

func files(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return inputError{fmt.Errorf("%s needs a file (see %s --help)", c.CommandPath(), c.CommandPath())}
	}
	return nil
}

// maxFile bounds what is read, in bytes: a receipt is at most 1 MiB, in an answer with its data more.
const maxFile = 128 << 20

func read(c *cobra.Command, name string) ([]byte, error) { return readUpTo(c, name, maxFile) }

// readUpTo reads a file, or standard input for -, and stops at the limit.
func readUpTo(c *cobra.Command, name string, limit int64) ([]byte, error) {
	var src io.Reader = c.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, inputError{err}
		}
		defer f.Close()
		src = f
	}
	b, err := io.ReadAll(io.LimitReader(src, limit+1))
	if err != nil {
		return nil, inputError{fmt.Errorf("reading %s: %w", name, err)}
	}
	if int64(len(b)) > limit {
		return nil, inputError{fmt.Errorf("%s is larger than %d bytes", name, limit)}
	}
	return b, nil
}

// readReceipt takes a receipt, or an answer of the API that holds one.
func readReceipt(c *cobra.Command, name string) (*proof.Receipt, error) {
	b, err := read(c, name)
	if err != nil {
		return nil, err
	}
	if len(b) > 0 && b[0] == '{' {
		var answer struct {
			Receipt string `json:"receipt"`
		}
		if err := json.Unmarshal(b, &answer); err != nil || answer.Receipt == "" {
			return nil, inputError{fmt.Errorf("%s is JSON without a receipt", name)}
		}
		b = []byte(answer.Receipt)
	}
	r, err := proof.ParseReceipt(b)
	if err != nil {
		return nil, inputError{fmt.Errorf("%s is not a receipt: %w", name, err)}
	}
	return r, nil
}

// readPolicy takes a verification key or a file with it, or a policy file.
func readPolicy(c *cobra.Command, logKey, file string) (*proof.Policy, error) {
	switch {
	case (logKey == "") == (file == ""):
		return nil, inputError{errors.New("give --log-key or --policy: whose signature shall count?")}
	case file != "":
		b, err := read(c, file)
		if err != nil {
			return nil, err
		}
		p, err := proof.ParsePolicy(b)
		if err != nil {
			return nil, inputError{fmt.Errorf("%s: %w", file, err)}
		}
		return p, nil
	}
	if !strings.Contains(logKey, "+") {
		b, err := read(c, logKey)
		if err != nil {
			return nil, err
		}
		logKey = strings.TrimSpace(string(b))
	}
	p, err := proof.NewPolicy(logKey)
	if err != nil {
		return nil, inputError{err}
	}
	return p, nil
}

func tlogProofCommand() *cobra.Command {
	var entry bool
	c := &cobra.Command{
		Use: "tlog-proof RECEIPT", Short: "Extract the c2sp.org/tlog-proof, for verifiers that others wrote", Args: files,
		Long:    "tlog-proof writes the part of a receipt that any verifier of c2sp.org/tlog-proof checks; with --entry the entry's text, which is what the proof is about.",
		Example: "  regard-audit tlog-proof answer.receipt > answer.tlog-proof\n  regard-audit tlog-proof --entry answer.receipt > answer.entry",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return inputError{errors.New("one receipt at a time")}
			}
			r, err := readReceipt(c, args[0])
			if err != nil {
				return err
			}
			out := r.TLogProof()
			if entry {
				out = r.EntryText()
			}
			_, err = c.OutOrStdout().Write(out)
			return err
		},
	}
	c.Flags().BoolVar(&entry, "entry", false, "write the entry")
	return c
}

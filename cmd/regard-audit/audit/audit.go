// Package audit is the regard-audit command: receipts, histories and whole logs are checked from the log's key or a witness policy and nothing else.
//
// What it guarantees. "Proven" is said only of what package proof has verified, and each verdict says what it rests on and what it doesn't show. Exit codes: 0 everything was verified, 1 something
// was refuted, 2 nothing was, and something could not be checked (a file that can't be read, bytes that are no receipt, another log's key, a missing quorum, a log out of reach, a wrong flag, a full disk).
//
// What it doesn't. A receipt speaks about one entry. That nothing else was recorded about somebody is shown by the settlement of closed epochs, for the identifiers it names.
package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/deploy/version"
	"github.com/regard-broker/regard/ledger/logkey"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// Exit codes.
const (
	Proven  = 0
	Refused = 1
	Input   = 2
)

// errRefused: something is refuted, and what it is has been said.
var errRefused = errors.New("refused")

// errSaid: nothing is refuted, but something was unusable, and what it is has been said.
var errSaid = errors.New("unusable")

// refuted is an error that says that what was checked is wrong.
type refuted struct{ error }

func (e refuted) Unwrap() error { return e.error }

// refutes reports whether an error says that something is wrong: a false signature of a key that counts, bytes that aren't those of the signed root, or a log that doesn't have what it signed. All others say that
// something could not be checked.
func refutes(err error) bool {
	return errors.As(err, new(refuted)) || errors.Is(err, reader.ErrDamaged) || errors.Is(err, reader.ErrLacking) ||
		errors.Is(err, proof.ErrSignature) && !errors.Is(err, proof.ErrOtherLog)
}

// Main runs the command and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := Root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return exitCode(root.Execute(), stderr)
}

// exitCode says what came of a command, and why if it didn't say so itself.
func exitCode(err error, stderr io.Writer) int {
	switch {
	case err == nil:
		return Proven
	case errors.Is(err, errRefused):
		return Refused
	case errors.Is(err, errSaid):
		return Input
	}
	fmt.Fprintf(stderr, "regard-audit: %v\n", err)
	if refutes(err) {
		return Refused
	}
	return Input
}

// Root is the command with all its subcommands; more can be added to it.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use: "regard-audit", Short: "Check what a Regard broker hands out, without trusting it",
		Long: `regard-audit checks receipts and histories offline, and whole logs as they are served. All of it rests on the log's verification key (--log-key), or on a policy that also names
witnesses (--policy), and on nothing that a broker says.

Receipts and histories: verify, verify-history, show, tlog-proof. A citizens' portal: verifier. Logs, for everybody: fsck, monitor, mirror. For agencies and providers: reconcile. For accredited auditors: keygen, audit-index,
open, replay, export.

Exit codes: 0 everything is verified, 1 something is refuted, 2 nothing is refuted, but something is unusable: a flag, a file, no key, another log's, out of reach, or without the quorum that the policy
demands. A false signature of a key that you gave is refuted, and so is a log that doesn't have what it signed.`,
		Example:      "  regard-audit verify --policy log.policy *.receipt\n  regard-audit fsck https://log.regard.example.fr --policy log.policy",
		SilenceUsage: true, SilenceErrors: true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%s has no command %q (see %s --help)", c.CommandPath(), args[0], c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w (see %s --help)", err, c.CommandPath())
	})
	root.AddCommand(verifyCommand(), showCommand(), tlogProofCommand())
	root.AddCommand(keygenCommand(), auditIndexCommand(), verifyHistoryCommand(time.Now), fsckCommand(), mirrorCommand(), openCommand(), replayCommand(), exportCommand(), monitorCommand())
	root.AddCommand(reconcileCommand(), verifierCommand(), version.Command(root.Name()))
	return root
}

func files(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("%s needs a file (see %s --help)", c.Name(), c.CommandPath())
	}
	return nil
}

// Bounds of what is read, in bytes.
const (
	maxInput      = 1 << 20  // a key, a policy, a checkpoint
	maxWithAnswer = 64 << 20 // a whole answer of the API, with its data
)

func read(c *cobra.Command, name string) ([]byte, error) { return readUpTo(c, name, maxInput) }

// reading reads for package logkey.
func reading(c *cobra.Command) logkey.Reader {
	return func(name string) ([]byte, error) { return read(c, name) }
}

// readUpTo reads a file, or standard input for -, and stops at the limit.
func readUpTo(c *cobra.Command, name string, limit int64) ([]byte, error) {
	return readWith(c, name, func(*bufio.Reader) int64 { return limit })
}

// readWith reads as far as its beginning allows.
func readWith(c *cobra.Command, name string, bound func(*bufio.Reader) int64) ([]byte, error) {
	in := c.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	src := bufio.NewReader(in)
	limit := bound(src)
	b, err := io.ReadAll(io.LimitReader(src, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return b, nil
}

// readReceipt takes a receipt, or an answer of the API that holds one.
func readReceipt(c *cobra.Command, name string) (*proof.Receipt, error) {
	b, err := readWith(c, name, func(r *bufio.Reader) int64 {
		if first, err := r.Peek(1); err == nil && first[0] == '{' {
			return maxWithAnswer
		}
		return proof.MaxReceipt
	})
	if err != nil {
		return nil, err
	}
	if len(b) > 0 && b[0] == '{' {
		var answer struct {
			Receipt string `json:"receipt"`
		}
		if err := json.Unmarshal(b, &answer); err != nil || answer.Receipt == "" {
			return nil, fmt.Errorf("%s is JSON without a receipt", name)
		}
		b = []byte(answer.Receipt)
	}
	r, err := proof.ParseReceipt(b)
	if err != nil {
		return nil, fmt.Errorf("%s is not a receipt: %w", name, err)
	}
	return r, nil
}

// many writes a number with its word: "1 record was", "2 records were".
func many[N int | int64 | uint64](n N, one, more string) string {
	if n == 1 {
		more = one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func tlogProofCommand() *cobra.Command {
	var entry bool
	c := &cobra.Command{
		Use: "tlog-proof RECEIPT", Short: "Extract the c2sp.org/tlog-proof, for verifiers that others wrote", Args: files,
		Long:    "tlog-proof writes the part of a receipt that any verifier of c2sp.org/tlog-proof checks; with --entry the entry's text, which is what the proof is about.",
		Example: "  regard-audit tlog-proof answer.receipt > answer.tlog-proof\n  regard-audit tlog-proof --entry answer.receipt > answer.entry",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("one receipt at a time")
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

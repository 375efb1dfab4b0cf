package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/ledger/logkey"
	"github.com/regard-broker/regard/ledger/witness"
)

// readWitnesses reads who cosigns, for a broker; nil if nobody does.
func readWitnesses(cfg *config.Config) (*broker.Witnesses, error) {
	c := &cfg.Witnesses
	if c.Policy == "" {
		if len(cfg.DistrustWitnesses) > 0 {
			return nil, usagef("--distrust-witness is given, and witnesses.policy names none")
		}
		return nil, nil
	}
	text, err := os.ReadFile(c.Policy)
	if err != nil {
		return nil, usagef("reading witnesses.policy: %w", err)
	}
	w := &broker.Witnesses{Policy: text, Faulty: c.Faulty, Deadline: c.Deadline.Std(), Timeout: c.Timeout.Std(), Wait: c.Wait.Std(), Distrust: cfg.DistrustWitnesses}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, usagef("reading witnesses.ca_file: %w", err)
		}
		if w.Roots, err = certPool("witnesses.ca_file", pem); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// printWitnesses is the part of regard status about them.
func printWitnesses(w io.Writer, s *admin.Status) {
	if len(s.Witnesses) == 0 {
		return
	}
	quorum := "the quorum is there"
	if s.Log.QuorumMissing != "" {
		quorum = "THE QUORUM HAS BEEN MISSING FOR " + s.Log.QuorumMissing
	}
	fmt.Fprintf(w, "witnessed  %d entries, %s\n", s.Log.Witnessed, quorum)
	for _, x := range s.Witnesses {
		switch {
		case x.Failing:
			fmt.Fprintf(w, "  %-8s FAILS: %s\n", x.Name, x.Reason)
		case x.Cosigned == 0:
			fmt.Fprintf(w, "  %-8s has not answered yet\n", x.Name)
		default:
			fmt.Fprintf(w, "  %-8s cosigned %d entries at %s\n", x.Name, x.Size, x.At.Format("2006-01-02 15:04:05 MST"))
		}
	}
}

func witnessCommand() *cobra.Command {
	return group("witness", "Run a witness for other bodies' logs",
		`A witness cosigns the checkpoints of logs (c2sp.org/tlog-witness) if they extend what it cosigned before. It is worth something only where somebody else runs it than the log, on a machine and with a key of its own.
It keeps the last checkpoint of each log and nothing else: no entries, no personal data.

Its state (witness.db) must never be put back from an older copy, and belongs into no backup: it would cosign a second history. If it is lost, make a new witness.`,
		"  regard witness init --dir /var/lib/regard-witness --name witness.example.fr/w1 --log-key log.vkey\n  regard witness serve --config /var/lib/regard-witness/witness.yaml",
		witnessInitCommand(), witnessServeCommand(), witnessShowCommand())
}

const witnessConfig = `# Configuration of a witness (regard witness). Paths are meant from this file's directory.

# Where logs send checkpoints (POST /add-checkpoint). Without cert and key only this machine can reach it: put a proxy with TLS in front.
listen: %q
# cert: tls.pem
# key: tls.key

# /healthz and /metrics. Not for the internet. Left out: none.
ops: %q

# The key that cosigns: nobody else may have it, and no log. The state: the last checkpoint of each log; never put an old copy of it back.
signing_key: witness.key
state: witness.db

# The logs that are cosigned: one "vkey …" line each, and "origin …" where that isn't the key's name. Read again at SIGHUP.
logs: logs

# Requests a second of one address, and at once. A proxy in front counts as one address: limit there, and allow more here.
client_rate: 20
client_burst: 60
`

func witnessInitCommand() *cobra.Command {
	var dir, name, listen, ops string
	var logs []string
	var asJSON bool
	c := &cobra.Command{
		Use: "init", Short: "Make a witness: key, empty state, configuration", Args: noArgs,
		Long: `init makes a directory with a new Ed25519 key (witness.key, for its owner alone), an empty state (witness.db), the list of logs and a commented configuration. It overwrites nothing. Then it prints what logs, and whoever
verifies them, need: a line for their policy (c2sp.org/tlog-policy). Complete it by the URL under which logs reach the witness.`,
		Example: "  regard witness init --dir /var/lib/regard-witness --name witness.example.fr/w1 --log-key log.vkey",
		RunE: func(c *cobra.Command, _ []string) error {
			if name == "" {
				return usagef("--name is missing: of the witness, in its signatures, for example witness.example.fr/w1; it can't change afterwards")
			}
			if _, err := witness.NewKey(name); err != nil {
				return usage{err}
			}
			for i := range logs {
				var err error
				if logs[i], err = logkey.KeyOrFile("--log-key", logs[i], os.ReadFile); err != nil {
					return usage{err}
				}
			}
			list := witness.LogList(logs...)
			if _, err := witness.ParseLogs(list); err != nil {
				return usage{err}
			}
			if err := (&witness.File{Listen: listen, Ops: ops, SigningKey: "witness.key", State: "witness.db", Logs: "logs"}).Check(); err != nil {
				return usage{err}
			}
			dir, err := filepath.Abs(dir)
			if err != nil {
				return err
			}
			file := filepath.Join(dir, "witness.yaml")
			for _, f := range []string{file, filepath.Join(dir, "witness.key"), filepath.Join(dir, "witness.db"), filepath.Join(dir, "logs")} {
				if _, err := os.Lstat(f); !errors.Is(err, fs.ErrNotExist) {
					return usagef("%s exists already and is not overwritten: choose another directory", f)
				}
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("making the directory: %w", err)
			}
			vkey, err := witness.CreateKey(filepath.Join(dir, "witness.key"), name)
			if err != nil {
				return fmt.Errorf("making the key: %w", err)
			}
			if err := witness.Create(c.Context(), filepath.Join(dir, "witness.db")); err != nil {
				return err
			}
			if err := create(filepath.Join(dir, "logs"), list); err != nil {
				return err
			}
			if err := create(file, fmt.Appendf(nil, witnessConfig, listen, ops)); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Config string `json:"config"`
					VKey   string `json:"vkey"`
				}{file, vkey})
			}
			fmt.Fprintf(c.ErrOrStderr(), "Made %s. Start: regard witness serve --config %s\nThe line for policies, to which the URL of this witness is added:\n", file, file)
			_, err = fmt.Fprintln(c.OutOrStdout(), policyLine(name, vkey))
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", "witness", "directory to make")
	f.StringVar(&name, "name", "", "name of the witness in its signatures")
	f.StringArrayVar(&logs, "log-key", nil, "verification key of a log that is cosigned, or a file with it (repeatable; more in the file logs)")
	f.StringVar(&listen, "listen", "127.0.0.1:7380", "address for logs")
	f.StringVar(&ops, "ops", "127.0.0.1:7381", "address for monitoring; empty: none")
	jsonFlag(c, &asJSON)
	return c
}

// policyLine is a witness in a policy. Its name there is up to whoever writes the policy: here the last part of its own.
func policyLine(name, vkey string) string {
	short := name[strings.LastIndexByte(name, '/')+1:]
	return "witness " + short + " " + vkey
}

func witnessServeCommand() *cobra.Command {
	var file, level, format string
	c := &cobra.Command{
		Use: "serve", Short: "Run a witness", Args: noArgs,
		Long: `serve cosigns until SIGTERM or SIGINT; then it finishes the requests in hand. SIGHUP reads the list of logs and the certificate anew; what can't be used is logged, and the old stays in force.

It refuses to start beside another process on the same state, without a state, or with a log's key. A checkpoint that doesn't extend what it cosigned is refused, and stands in its log with the one that it cosigned: keep them, they are evidence.`,
		Example: "  regard witness serve --config /var/lib/regard-witness/witness.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := loadWitness(file)
			if err != nil {
				return err
			}
			if !slices.Contains([]string{"debug", "info", "warn", "error"}, level) || format != "text" && format != "json" {
				return usagef("--log-level is debug, info, warn or error; --log-format is text or json")
			}
			log := logger(config.Log{Level: level, Format: format}, c)
			return runDaemon(c.Context(), log, func(ctx context.Context) (*witness.Server, error) {
				w, err := witness.Start(ctx, f, log)
				if errors.Is(err, witness.ErrConfig) {
					return nil, usage{err}
				}
				return w, err
			})
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "witness.yaml", "configuration file")
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.Flags().StringVar(&format, "log-format", "text", "text or json")
	return c
}

func witnessShowCommand() *cobra.Command {
	var file string
	var asJSON bool
	c := &cobra.Command{
		Use: "show", Short: "Show a witness's key, and what it cosigned last", Args: noArgs,
		Long:    "show prints the line of the witness for policies and, for each log, the last checkpoint that was cosigned. It reads the files of a witness, whether or not it runs.\nWith --json each log has the signed checkpoint, too: what a log needs to prove where it stood.",
		Example: "  regard witness show --config /var/lib/regard-witness/witness.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := loadWitness(file)
			if err != nil {
				return err
			}
			key, err := witness.LoadKey(f.SigningKey)
			if err != nil {
				return err
			}
			vkey, err := witness.VKey(key)
			if err != nil {
				return err
			}
			seen, err := witness.ReadSeen(c.Context(), f)
			if err != nil {
				return err
			}
			name, _, _ := strings.Cut(vkey, "+")
			if asJSON {
				type log struct {
					witness.Seen
					Checkpoint string `json:"checkpoint,omitempty"`
				}
				logs := []log{}
				for _, s := range seen {
					logs = append(logs, log{s, string(s.Note)})
				}
				return printJSON(c.OutOrStdout(), struct {
					VKey string `json:"vkey"`
					Logs []log  `json:"logs"`
				}{vkey, logs})
			}
			fmt.Fprintln(c.OutOrStdout(), policyLine(name, vkey))
			rows := [][]string{}
			for _, s := range seen {
				root := s.Root
				if root == "" {
					root = "nothing yet"
				}
				rows = append(rows, []string{s.Origin, fmt.Sprint(s.Size), root})
			}
			return table(c.OutOrStdout(), "LOG SIZE ROOT", rows)
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "witness.yaml", "configuration file")
	jsonFlag(c, &asJSON)
	return c
}

func loadWitness(file string) (*witness.File, error) {
	f, err := witness.LoadFile(file)
	if err != nil {
		return nil, usage{err}
	}
	return f, nil
}

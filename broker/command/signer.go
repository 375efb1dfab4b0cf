package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/ledger/signer"
)

func signerCommand() *cobra.Command {
	var file, level, format string
	c := &cobra.Command{
		Use: "signer", Short: "Run Trillian's half that grows the tree, on PostgreSQL", Args: noArgs,
		Long: `signer brings the leaves that brokers add to Trillian into its tree, on PostgreSQL, in the place of Trillian's stock signer, which must not run beside it. Run two or more: one integrates, and another goes on within 5 seconds when it
dies. With listen it is Trillian's log server, too, behind mutual TLS or a Unix socket; without it runs beside trillian_log_server, which asks nobody who they are and belongs on a network of its own.

It runs until SIGTERM or SIGINT; SIGHUP reads the certificates anew. /healthz of ops fails when the tree can't grow through this signer, and when this machine's clock is wrong.

The configuration (YAML; paths are meant from its directory):
  database: trillian.dsn      # a file with the connection string, as the owner of Trillian's tables (PostgreSQL 14 or newer, no pooler that shares sessions)
  tree: 0                     # the log's id, as regard signer init printed it; 0: the only one
  listen: 10.0.0.5:8090       # or unix:/run/regard/log.sock; left out: no log server
  cert: log.pem               # with a port: certificate and key of the server, and the CA of the brokers' certificates
  key: log.key
  client_ca: brokers-ca.pem
  clients: [broker-1.example] # DNS names that may come; left out: whoever the CA named
  ops: 127.0.0.1:9091         # /healthz and /metrics; left out: none
  keep_roots: 1000            # older roots of the tree are removed`,
		Example: "  regard signer init --config /etc/regard/signer.yaml\n  regard signer --config /etc/regard/signer.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := loadSigner(file)
			if err != nil {
				return err
			}
			if !slices.Contains([]string{"debug", "info", "warn", "error"}, level) || format != "text" && format != "json" {
				return usagef("--log-level is debug, info, warn or error; --log-format is text or json")
			}
			log := logger(config.Log{Level: level, Format: format}, c)
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			s, err := signer.Serve(c.Context(), f, log)
			if errors.Is(err, signer.ErrConfig) {
				return usage{err}
			}
			if err != nil {
				return err
			}
			stop := func() error {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), 10*time.Second)
				defer cancel()
				log.Info("stopping")
				return s.Stop(ctx)
			}
			for {
				select {
				case <-hup:
					if err := s.Reload(); err != nil {
						log.Error("reloading failed, the old stays in force", "error", err)
					}
				case err := <-s.Failed():
					return errors.Join(err, stop())
				case <-c.Context().Done():
					return stop()
				}
			}
		},
	}
	c.PersistentFlags().StringVarP(&file, "config", "c", "signer.yaml", "configuration file")
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.Flags().StringVar(&format, "log-format", "text", "text or json")
	c.AddCommand(signerInitCommand(&file))
	return c
}

func signerInitCommand(file *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "init", Short: "Prepare Trillian's database: schema, tree, first root", Args: noArgs,
		Long: `init makes Trillian's tables and one log in the database that the configuration names, and prints the log's id. The user of the connection string becomes the tables' owner. What is there stays as it is, so it can be run again, and
has to be after an update of Regard that says so.

After the loss of a database: prepare a new, empty one; the broker rebuilds the tree from its store, and goes on only if it comes to the root that was signed.`,
		Example: "  regard signer init --config /etc/regard/signer.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := loadSigner(*file)
			if err != nil {
				return err
			}
			dsn, err := f.DSN()
			if err != nil {
				return usage{err}
			}
			tree, err := signer.Init(c.Context(), dsn)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Tree int64 `json:"tree"`
				}{tree})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), tree)
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func loadSigner(file string) (*signer.File, error) {
	f, err := signer.LoadFile(file)
	if err != nil {
		return nil, usage{err}
	}
	return f, nil
}

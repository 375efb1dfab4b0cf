package command

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/ledger/signer"
)

func signerCommand() *cobra.Command {
	s := source{signer: true}
	c := &cobra.Command{
		Use: "signer", Short: "Run Trillian's half that grows the tree, on PostgreSQL", Args: noArgs,
		Long: `signer brings the leaves that brokers add to Trillian into its tree, on PostgreSQL, in the place of Trillian's stock signer, which must not run beside it. Run two or more: one integrates, and another goes on within 5 seconds when it
dies. With signer.listen it is Trillian's log server, too, behind mutual TLS or a Unix socket; without it runs beside trillian_log_server, which asks nobody who they are and belongs on a network of its own.

It runs until SIGTERM or SIGINT; SIGHUP reads the certificates anew. /healthz of signer.ops fails when the tree can't grow through this signer, and when this machine's clock is wrong.

Of the configuration it reads production, log and the section signer; the file may be the broker's own (regard config check --signer):
  signer:
    store_url_file: trillian.url   # how to reach Trillian's database, on one line, as the owner of its tables (PostgreSQL 14 or newer, no pooler that shares sessions)
    tree: 0                        # the log's id, as regard signer init printed it; 0: the only one
    listen: 10.0.0.5:8090          # or unix:/run/regard-signer/trillian.sock; left out: no log server
    cert: log.pem                  # with a port: certificate and key of the server, and the authority of the brokers' certificates
    key: log.key
    ca_file: brokers-ca.pem
    clients: [broker-1.example]    # DNS names that may come; left out: whoever the authority named
    ops: 127.0.0.1:9091            # /healthz and /metrics; left out: none
    keep_roots: 1000               # older roots of the tree are removed`,
		Example: "  regard signer init --config /etc/regard-signer/signer.yaml\n  regard signer --config /etc/regard-signer/signer.yaml --set log.level=debug",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, err := s.load()
			if err != nil {
				return err
			}
			log := logger(cfg.Log, c)
			return runDaemon(c.Context(), log, func(ctx context.Context) (*signer.Server, error) { return serveSigner(ctx, cfg, log) })
		},
	}
	s.flags(c)
	c.AddCommand(signerInitCommand())
	return c
}

// serveSigner starts the signer of a configuration.
func serveSigner(ctx context.Context, cfg *config.Config, log *slog.Logger) (*signer.Server, error) {
	x := &cfg.Signer
	url, err := readURL("signer.store_url_file", x.StoreURLFile)
	if err != nil {
		return nil, err
	}
	own := signer.Config{DSN: url, Tree: x.Tree, KeepRoots: x.KeepRoots, Listen: x.Listen, Logger: log}
	if x.Cert != "" {
		own.TLS = &signer.ServerTLS{Cert: x.Cert, Key: x.Key, ClientCA: x.CAFile, Clients: x.Clients}
	}
	return signer.Serve(ctx, own, x.Ops)
}

func signerInitCommand() *cobra.Command {
	s := source{signer: true}
	var asJSON bool
	c := &cobra.Command{
		Use: "init", Short: "Prepare Trillian's database: schema, tree, first root", Args: noArgs,
		Long: `init makes Trillian's tables and one log in the database that signer.store_url_file names, and prints the log's id. The user of that address becomes the tables' owner. What is there stays as it is, so it can be run again, and
has to be after an update of Regard that says so. regard cluster init does the same, and prepares the brokers' own databases with it.

After the loss of a database: prepare a new, empty one; the broker rebuilds the tree from its store, and goes on only if it comes to the root that was signed.`,
		Example: "  regard signer init --config /etc/regard-signer/signer.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, err := s.load()
			if err != nil {
				return err
			}
			url, err := readURL("signer.store_url_file", cfg.Signer.StoreURLFile)
			if err != nil {
				return err
			}
			tree, err := signer.Init(c.Context(), url)
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
	s.flags(c)
	jsonFlag(c, &asJSON)
	return c
}

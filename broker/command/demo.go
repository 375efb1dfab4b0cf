package command

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/demo"
)

func demoCommand() *cobra.Command {
	var cfg demo.Config
	c := &cobra.Command{
		Use: "demo", Short: "Show the whole line on this machine, with invented people", Args: noArgs,
		Long: `demo sets up a broker, four witnesses, providers of invented people and agencies, plays requests of every outcome, stops a witness, kills the broker, starts it again, waits for receipts to settle
and checks them offline, and a person's whole history, also one in which it hides an access itself; it has an agency ask under a lawful delay, and ends that; then it keeps running until Ctrl-C. It exits with 0 only if every step was verified by the offline verifier. Everything runs in programs of its own on this machine; regard-provider and regard-audit have to be beside regard (make build).`,
		Example: "  regard demo\n  regard demo --vault bin/devvault   # the root keys in a real Vault server\n  regard demo --cluster --vault bin/devvault --trillian bin/trillian_log_server\n  regard demo --once --dir /tmp/show",
		RunE: func(c *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.Bin, cfg.Out = filepath.Dir(self), c.OutOrStdout()
			return demo.Run(c.Context(), cfg)
		},
	}
	c.Flags().StringVar(&cfg.Dir, "dir", "demo-data", "where to make everything; an earlier demonstration there is replaced")
	c.Flags().StringVar(&cfg.Vault, "vault", "", "devvault program, for keys in a real Vault (default: an embedded keystore)")
	c.Flags().BoolVar(&cfg.Cluster, "cluster", false, "two brokers behind a balancer, on PostgreSQL (Debian's package), Trillian and the Vault of --vault")
	c.Flags().StringVar(&cfg.Trillian, "trillian", "", "Trillian's stock log server, for a cluster (default: the signers' own)")
	c.Flags().BoolVar(&cfg.Once, "once", false, "stop after the last scene")
	c.Flags().BoolVarP(&cfg.Verbose, "verbose", "v", false, "show what the programs log")
	return c
}

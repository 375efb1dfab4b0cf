package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/cluster"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/remote"
	"github.com/regard-broker/regard/ledger/signedpg"
	"github.com/regard-broker/regard/ledger/signer"
)

// sharedStores is what a broker shares with others, nil if it is alone.
func sharedStores(cfg *config.Config) (*broker.Shared, error) {
	pg := &cfg.Store.Postgres
	if !pg.On() {
		// One that ignored it would keep records in another place than its operator believes.
		for _, x := range []struct {
			key   string
			given bool
		}{
			{"ledger.signed_url_file", cfg.Ledger.SignedURLFile != ""},
			{"ledger.trillian", len(cfg.Ledger.Trillian.Address) > 0},
			{"public.dir", cfg.Public.Dir != filepath.Join(cfg.DataDir, "public")},
		} {
			if x.given {
				return nil, usagef("%s: a broker that is alone keeps everything in data_dir: remove it, or name the database that brokers share under store.postgres", x.key)
			}
		}
		return nil, nil
	}
	s := &broker.Shared{PublicDir: cfg.Public.Dir, Name: cfg.Cluster.Name}
	for _, x := range []struct {
		key, file string
		to        *string
	}{
		{"store.postgres.url_file", pg.URLFile, &s.Store}, {"store.postgres.keeper_url_file", pg.KeeperURLFile, &s.Keeper}, {"ledger.signed_url_file", cfg.Ledger.SignedURLFile, &s.Signed},
	} {
		var err error
		if *x.to, err = readURL(x.key, x.file); err != nil {
			return nil, err
		}
	}
	t := cfg.Ledger.Trillian
	s.Trillian = func(ctx context.Context) (broker.Tree, error) {
		return remote.Open(ctx, remote.Config{Addresses: t.Address, CAFile: t.CAFile, Cert: t.Cert, Key: t.Key})
	}
	return s, nil
}

// readURL reads the address of a database: one line.
func readURL(key, file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", usagef("reading %s: %w", key, err)
	}
	line := strings.TrimSpace(string(text))
	if line == "" || strings.Contains(line, "\n") {
		return "", usagef("%s: the file holds one line, the address of the database", key)
	}
	return line, nil
}

func clusterCommand() *cobra.Command {
	return group("cluster", "Several brokers on one store", `Brokers that share a PostgreSQL database share one log. One of them leads: it orders and signs what all record. When it ends another one leads, within seconds.`,
		"  regard cluster members", clusterInitCommand(), clusterMembersCommand())
}

func clusterInitCommand() *cobra.Command {
	var origin, main, signed, tree string
	var asJSON bool
	c := &cobra.Command{
		Use: "init", Short: "Prepare the databases, or bring them to this version", Args: noArgs,
		Long: `init makes the tables, and the roles regard_broker, regard_keeper and regard_signer, which have no password: give them one, or let them in by
certificate or peer authentication. It connects as the databases' owners, whom the brokers never are; those of the store and of the checkpoint need CREATEROLE the first time.
What is there stays; run it again for each new version, before its brokers start.

Each option names a file with the address of a database as its owner, on one line; without a password: that is in a passfile. The database of the checkpoint belongs on another
server than the store's, and into no backup. Trillian's belongs to the user that regard signer connects as.`,
		Example: `  regard cluster init --origin regard.example.fr/2026 --store-url-file owner/store.url --signed-url-file owner/signed.url --trillian-url-file owner/trillian.url`,
		RunE: func(c *cobra.Command, _ []string) error {
			if origin == "" || main == "" || signed == "" || tree == "" {
				return usagef("give --origin, --store-url-file, --signed-url-file and --trillian-url-file")
			}
			var out struct {
				Origin   string   `json:"origin"`
				Prepared []string `json:"prepared"`
				Tree     int64    `json:"tree"`
			}
			out.Origin = origin
			steps := []struct {
				name, what, file string
				prepare          func(ctx context.Context, url string) error
			}{
				{"store", "the store", main, store.Migrate},
				{"signed", "the signed checkpoint", signed, func(ctx context.Context, url string) error { return signedpg.Prepare(ctx, url, origin) }},
				{"trillian", "Trillian's tree", tree, func(ctx context.Context, url string) (err error) { out.Tree, err = signer.Init(ctx, url); return err }},
			}
			urls := make([]string, len(steps)) // all of them, before anything is done
			for i, x := range steps {
				var err error
				if urls[i], err = readURL("--"+x.name+"-url-file", x.file); err != nil {
					return err
				}
			}
			for i, x := range steps {
				if err := x.prepare(c.Context(), urls[i]); err != nil {
					return fmt.Errorf("preparing the database of %s: %w", x.what, err)
				}
				out.Prepared = append(out.Prepared, x.name)
				if !asJSON {
					fmt.Fprintf(c.OutOrStdout(), "%s: ready\n", x.what)
				}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), out)
			}
			return nil
		},
	}
	c.Flags().StringVar(&origin, "origin", "", "the log's name, as in the brokers' configuration")
	c.Flags().StringVar(&main, "store-url-file", "", "file with the address of the store's database")
	c.Flags().StringVar(&signed, "signed-url-file", "", "file with the address of the signed checkpoint's database")
	c.Flags().StringVar(&tree, "trillian-url-file", "", "file with the address of Trillian's database")
	jsonFlag(c, &asJSON)
	return c
}

func clusterMembersCommand() *cobra.Command {
	var s source
	var asJSON bool
	c := &cobra.Command{
		Use: "members", Short: "List the brokers that are there, and which one leads", Args: noArgs,
		Long:    `members asks the database, so it answers whichever brokers do. One that was killed is listed for up to ten seconds more.`,
		Example: "  regard cluster members --config /etc/regard/regard.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, err := s.load()
			if err != nil {
				return err
			}
			if !cfg.Store.Postgres.On() {
				return usagef("this broker is alone: its store is SQLite")
			}
			url, err := readURL("store.postgres.url_file", cfg.Store.Postgres.URLFile)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), 15*time.Second)
			defer cancel()
			list, err := cluster.List(ctx, url)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), list)
			}
			var rows [][]string
			for _, m := range list {
				role := "follows"
				if m.Leads {
					role = "leads"
				}
				rows = append(rows, []string{strconv.FormatInt(m.ID, 10), m.Name, role, m.Joined.UTC().Format(time.RFC3339)})
			}
			return table(c.OutOrStdout(), "ID NAME ROLE JOINED", rows)
		},
	}
	s.flags(c)
	jsonFlag(c, &asJSON)
	return c
}

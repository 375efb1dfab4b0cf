package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/admin"
)

func backupCommand() *cobra.Command {
	var a caller
	var out string
	var asJSON bool
	c := &cobra.Command{
		Use: "backup", Short: "Back up a running broker", Args: noArgs,
		Long: `backup has the running broker write a consistent copy of its store to a new directory on its machine, while requests go on.

In it: the store (records as they are sealed, wrapped data keys, the order of the log, the registry) and what the log's governance entries point to.
Not in it, and to be kept elsewhere:
  - the keystore and its passphrase or key file, or Vault: without them nobody can read the backup, neither can you;
  - signed/ in the data directory (the last signed checkpoint and the journal of erasures): put an old copy of it back and the log forks.
    Keep it, and public/, on storage that fails on another day than the store; copy public/ to a mirror all the time;
  - Trillian's tree, which restore makes again from the order in the store.

Brokers that share a store on PostgreSQL are backed up by PostgreSQL's own means, and backup says how.

Whoever has a backup and the root keys can read everything in it, people who are erased later included: destroy backups after a few weeks, and say so in
your register of processing.`,
		Example: "  regard backup --out /var/backups/regard/2026-03-01 --config /etc/regard/regard.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			if a.socket == "" {
				cfg, _, err := a.load()
				if err != nil {
					return fmt.Errorf("finding the administration socket (or name it with --socket): %w", err)
				}
				if cfg.Store.Postgres.On() {
					return usagef("the store is on PostgreSQL, whose own means back it up. %s", broker.SharedBackup)
				}
				a.socket = cfg.Admin.Socket
			}
			if out == "" {
				return usagef("--out is missing: the directory to make")
			}
			dir, err := filepath.Abs(out)
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			j, err := client.Backup(c.Context(), dir)
			if err != nil {
				return err
			}
			m, err := waitFor[broker.Manifest](c, "", j, client.BackupState)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), m)
			}
			fmt.Fprintf(c.OutOrStdout(), "Backup of %s in %s: %d entries, %d files.\n", m.Origin, dir, m.Size, len(m.Files))
			fmt.Fprintln(c.ErrOrStderr(), "The keystore with its passphrase or key file (or Vault) and signed/ are not in it: keep them elsewhere.")
			return nil
		},
	}
	a.flags(c)
	jsonFlag(c, &asJSON)
	c.Flags().StringVar(&out, "out", "", "directory to make; nothing may be there")
	return c
}

// waitFor asks until a job has ended. With a verb, progress is shown on a terminal.
func waitFor[T any](c *cobra.Command, verb string, j admin.Job, ask func(context.Context) (admin.Job, error)) (T, error) {
	var v T
	ctx := c.Context()
	tty := verb != "" && isTerminal(c.ErrOrStderr())
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		switch j.State {
		case admin.JobDone:
			if tty {
				fmt.Fprintln(c.ErrOrStderr())
			}
			return v, json.Unmarshal(j.Result, &v)
		case admin.JobFailed:
			if j.Error != nil {
				return v, j.Error
			}
			return v, errors.New("it failed")
		case admin.JobRunning:
		default:
			return v, errors.New("the broker was started again meanwhile and has forgotten this: repeat it")
		}
		if tty {
			fmt.Fprintf(c.ErrOrStderr(), "\r%s %d", verb, j.Seen)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return v, fmt.Errorf("stopped waiting; the broker goes on with it: %w", ctx.Err())
		}
		var err error
		if j, err = ask(ctx); err != nil {
			return v, err
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// soon has a restoration wait no longer than this for Trillian's old tree: as the runbook has it the signers are stopped, and the published files hold all that was signed.
func soon(open func(context.Context) (broker.Tree, error)) func(context.Context) (broker.Tree, error) {
	return func(ctx context.Context) (broker.Tree, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return open(ctx)
	}
}

func restoreCommand() *cobra.Command {
	var s source
	var from string
	var asJSON, ignore bool
	var distrust []string
	c := &cobra.Command{
		Use: "restore", Short: "Put a backup in place of the store", Args: noArgs,
		Long: `restore puts a backup in place of the store of a broker that isn't running, and rebuilds Trillian's tree. What was there is moved aside, never deleted.

The log goes on from the last checkpoint that was signed, as signed/ and public/ know it. What was signed after the backup is put back from public/
(or from Trillian's old database) as entries whose details are lost; it must give the signed root, entry by entry. People who were erased after the
backup are erased again before the broker can start; what the log says of agreements, services, policies and revoked agencies is applied. The
first entry of the restored log is restart@v1, which names the entries whose details are lost.

It refuses, changes nothing and signs nothing if
  - neither signed/ nor public/ has a checkpoint, or entries up to it are missing or don't give its root: bring public/ back from a mirror;
  - a mirror or a witness saw more than both, or none of them answers (--ignore-mirrors): bring the newest signed/ and public/ back;
  - the log has erasures after the backup that signed/erasures.db doesn't name;
  - the keys of the backup can't be opened: it needs its keystore, or Vault, with the version of the wrap key of its time;
  - the keys of the open epoch are not in the backup: each has those of its month and the next, so one of two months ago doesn't do.

Where brokers share a store on PostgreSQL, its own means put the database back, and restore, without --from, brings that up to the log: as the roles of the brokers' configuration, in
one transaction, and only while no broker is there. It may be repeated until a broker has started. Then prepare Trillian's database anew (regard signer init): the first broker fills it from
the store.

What it can't bring back: records, answers kept for repeats, and Idempotency-Keys since the backup; agencies and certificates registered since (they are
listed: register them again). Requests that were under way when the backup was made are recorded as failed: as "restored" if disclosures were lost, since
their own outcome may be among these, else as "interrupted".

What it doesn't bring back, because people may have taken it back since: sessions, identifiers that were attached to accounts (they are attached anew at the next sign-in), requests for
erasure under these, and delegations. Other requests for erasure can be undone for their whole time again.`,
		Example: "  systemctl stop regard\n  regard restore --from /var/backups/regard/2026-03-01 --config /etc/regard/regard.yaml\n  systemctl start regard\n  regard restore --config /etc/regard/regard.yaml   # of a shared store, which pg_restore or a recovery put back",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, err := s.load()
			if err != nil {
				return err
			}
			shared, err := sharedStores(cfg)
			switch {
			case err != nil:
				return err
			case shared == nil && from == "":
				return usagef("--from is missing: the directory of the backup")
			case shared != nil && from != "":
				return usagef("--from names a directory, and the store is on PostgreSQL: put its database back by PostgreSQL's own means, then restore without --from")
			}
			log := logger(cfg.Log, c)
			if shared != nil {
				shared.Trillian = soon(shared.Trillian)
			} else if _, err := os.Stat(filepath.Join(from, broker.ManifestFile)); err != nil { // before the keys are opened, and warn
				return usagef("--from: this is no backup, or an unfinished one: %w", err)
			}
			custodian, err := openKeys(c.Context(), cfg, log)
			if err != nil {
				return err
			}
			cfg.DistrustWitnesses = distrust
			witnesses, err := readWitnesses(cfg)
			if err != nil {
				return err
			}
			r, err := broker.Restore(c.Context(), broker.Config{DataDir: cfg.DataDir, Shared: shared, SignedDir: cfg.SignedDir, Mirrors: cfg.Mirrors, IgnoreMirrors: ignore, Witnesses: witnesses, Origin: cfg.Origin, Custodian: custodian, Logger: log}, from)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Done     bool     `json:"done"`
					Size     uint64   `json:"size"`
					Lost     uint64   `json:"lost"`
					Unsigned uint64   `json:"unsigned"`
					Erased   int      `json:"erased"`
					Missing  []string `json:"missing"`
					Aside    []string `json:"aside"`
				}{r.Done, r.Size, r.Lost, r.Unsigned, r.Erased, append([]string{}, r.Missing...), append([]string{}, r.Aside...)})
			}
			w := c.OutOrStdout()
			switch {
			case r.Done:
				fmt.Fprintf(w, "This database was restored already, up to the checkpoint of %d entries. Nothing was left to do.\n", r.Size)
			case r.Backup == nil:
				fmt.Fprintf(w, "Restored the database. The log goes on from the checkpoint of %d entries.\n", r.Size)
			default:
				fmt.Fprintf(w, "Restored the backup of %s. The log goes on from the checkpoint of %d entries.\n", r.Backup.Time.Format(time.RFC3339), r.Size)
			}
			if r.Lost > 0 {
				fmt.Fprintf(w, "Of %s, from %d on, the details are lost.\n", many(r.Lost, "entry", "entries"), r.Size-r.Lost)
			}
			if r.Erased > 0 {
				fmt.Fprintf(w, "Erased again: %d.\n", r.Erased)
			}
			for _, m := range r.Missing {
				fmt.Fprintf(w, "Register again: %s.\n", m)
			}
			if r.Unsigned > 0 {
				fmt.Fprintf(c.ErrOrStderr(), "Trillian's old tree has %s beyond this checkpoint. After a crash, what is beyond it was never signed, and nothing was released on it. But if signed/ and public/ were put back from older copies, don't start: the log would fork. Bring the newest back and restore again.\n", many(r.Unsigned, "entry", "entries"))
			}
			if shared != nil {
				fmt.Fprintln(c.ErrOrStderr(), "Before a broker starts: prepare Trillian's database anew (regard signer init). The first broker fills it from the store.")
			}
			for _, d := range r.Aside {
				fmt.Fprintf(c.ErrOrStderr(), "What was there is in %s: destroy it when you don't need it any more.\n", d)
			}
			return nil
		},
	}
	s.flags(c)
	jsonFlag(c, &asJSON)
	c.Flags().StringVar(&from, "from", "", "directory of the backup")
	c.Flags().BoolVar(&ignore, "ignore-mirrors", false, "restore although none of the mirrors and witnesses answers: when you know that signed/ or public/ is the newest there is (what one does say counts in any case)")
	c.Flags().StringArrayVar(&distrust, "distrust-witness", nil, "restore although this witness says that it saw more: when you know that it is wrong (repeatable; see docs/operate.md)")
	return c
}

package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// archive is the slot and the name of who archives.
const archive = "archive"

// Archive gets all that a server writes into its write-ahead log, segment by segment, into a directory, from when it was begun on. What the server has said is committed is there: from then on it waits for that.
type Archive struct {
	dir   string
	cmd   *exec.Cmd
	ended chan struct{}
}

// Archive begins to archive the write-ahead log, as docs/production.md has it done.
func (c *Cluster) Archive(ctx context.Context, dir string) (*Archive, error) {
	if err := c.make(dir); err != nil {
		return nil, err
	}
	server := c.Superuser("postgres") + " application_name=" + archive
	if out, err := c.command(ctx, "pg_receivewal", "-d", server, "-S", archive, "--create-slot", "--if-not-exists").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pg_receivewal: %w: %s", err, bytes.TrimSpace(out))
	}
	a := &Archive{dir: dir, cmd: c.command(context.WithoutCancel(ctx), "pg_receivewal", "-d", server, "-S", archive, "-D", dir, "--synchronous"), ended: make(chan struct{})}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting pg_receivewal: %w", err)
	}
	go func() { defer close(a.ended); _ = a.cmd.Wait() }()
	// Each a transaction of its own: ALTER SYSTEM wants that.
	for _, statement := range []string{"ALTER SYSTEM SET synchronous_standby_names = '" + archive + "'", "SELECT pg_reload_conf()"} {
		if err := c.SQL(ctx, "postgres", statement); err != nil {
			return nil, errors.Join(err, a.Stop())
		}
	}
	return a, nil
}

// Stop ends it. A server that goes on waits then with all it commits.
func (a *Archive) Stop() error {
	if err := a.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending pg_receivewal: %w", err)
	}
	<-a.ended
	return nil
}

// BaseBackup copies all databases of the running server into a directory.
func (c *Cluster) BaseBackup(ctx context.Context, dir string) error {
	if err := c.make(dir); err != nil {
		return err
	}
	out, err := c.command(ctx, "pg_basebackup", "-D", dir, "-c", "fast", "-h", c.socket, "-p", strconv.Itoa(port), "-U", superuser).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Recover starts a server that was killed and has lost its files: from a base backup, which is used up, and what was archived since. It returns when the server takes what is new, and archives nothing.
func (c *Cluster) Recover(ctx context.Context, base string, a *Archive) error {
	if err := errors.Join(os.RemoveAll(c.cfg.Dir), os.Rename(base, c.cfg.Dir)); err != nil {
		return fmt.Errorf("putting a base backup in place: %w", err)
	}
	// The last segment isn't whole.
	partial, err := filepath.Glob(filepath.Join(a.dir, "*.partial"))
	if err != nil {
		return err
	}
	for _, file := range partial {
		if err := os.Rename(file, strings.TrimSuffix(file, ".partial")); err != nil {
			return fmt.Errorf("taking what was archived last: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(c.cfg.Dir, "postgresql.auto.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("saying where the archive is: %w", err)
	}
	_, err = fmt.Fprintf(f, "restore_command = 'cp \"%s/%%f\" \"%%p\"'\nsynchronous_standby_names = ''\n", a.dir)
	if err := errors.Join(err, f.Close(), os.WriteFile(filepath.Join(c.cfg.Dir, "recovery.signal"), nil, 0o600)); err != nil {
		return fmt.Errorf("saying where the archive is: %w", err)
	}
	if c.as != nil {
		if err := os.Chown(filepath.Join(c.cfg.Dir, "recovery.signal"), int(c.as.Uid), int(c.as.Gid)); err != nil {
			return fmt.Errorf("giving the server its files: %w", err)
		}
	}
	if err := c.Restart(ctx); err != nil {
		return err
	}
	for {
		err := c.SQL(ctx, "postgres", "DO $$ BEGIN IF pg_is_in_recovery() THEN RAISE EXCEPTION 'recovering'; END IF; END $$")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-c.ended:
			return errors.Join(errors.New("PostgreSQL ended while it recovered"), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// make makes a directory for PostgreSQL's programs.
func (c *Cluster) make(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	if c.as != nil {
		if err := os.Chown(dir, int(c.as.Uid), int(c.as.Gid)); err != nil {
			return fmt.Errorf("giving %s to the user who runs PostgreSQL: %w", dir, err)
		}
	}
	return nil
}

// Package pgcluster runs a PostgreSQL server of its own: initdb in a directory of the caller, reached over a Unix socket that only this user can use. It is for tests and for trying
// Regard out on one machine; it is no way to run a database that people rely on.
//
// PostgreSQL comes from the system (Debian: apt-get install postgresql). It refuses to run as root; then it is run as the user that Debian makes for it.
package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrMissing: there is no PostgreSQL on this machine.
var ErrMissing = errors.New("PostgreSQL isn't installed (Debian: apt-get install postgresql)")

// superuser is the cluster's administrator, who needs no password: only this user (and root) can reach the socket.
const superuser = "postgres"

// Config of a cluster.
type Config struct {
	// Dir holds the database files; they are made if it is empty. Its parents must be open to the user who runs the server.
	Dir string
	// Settings are lines of postgresql.conf, such as "fsync = off".
	Settings []string
	// Env is added to the environment of PostgreSQL's programs.
	Env []string
	// Log gets what the server says; nil: nothing.
	Log io.Writer
}

// Cluster is a running server, until it was stopped or killed; then it can be started again.
type Cluster struct {
	cfg    Config
	bin    string
	socket string // its directory: the path of a socket is limited to 107 bytes
	as     *syscall.Credential
	cmd    *exec.Cmd
	ended  chan struct{}
	// orphans: of a killed server some processes may live on
	orphans bool
}

// port is part of the socket's name alone: nothing listens on the network.
const port = 5432

// Find returns the directory of the newest PostgreSQL's programs.
func Find() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		if path, err := exec.LookPath("initdb"); err == nil {
			return filepath.Dir(path), nil
		}
		return "", ErrMissing
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// Start makes the cluster if there is none in its directory, and starts it.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	c := &Cluster{cfg: cfg}
	if c.bin, err = Find(); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		u, err := user.Lookup(superuser)
		if err != nil {
			return nil, fmt.Errorf("PostgreSQL doesn't run as root, and there is no other user to run it: %w", err)
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("reading the id of the user %s: %w", superuser, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("reading the group of the user %s: %w", superuser, err)
		}
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	if c.socket, err = os.MkdirTemp("", "regard-pg-"); err != nil {
		return nil, fmt.Errorf("making the socket's directory: %w", err)
	}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.socket))
	}
	if err := c.Restart(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.socket))
	}
	return c, nil
}

func (c *Cluster) prepare(ctx context.Context) error {
	if err := errors.Join(c.make(c.cfg.Dir), c.make(c.socket)); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.cfg.Dir, "PG_VERSION")); err == nil {
		return nil
	}
	initdb := c.command(ctx, "initdb", "--pgdata", c.cfg.Dir, "--username", superuser, "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--data-checksums")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (c *Cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...) // #nosec G204 -- a program of PostgreSQL
	cmd.Dir = c.cfg.Dir
	cmd.Env = append(os.Environ(), c.cfg.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

// Restart starts a server that was stopped or killed, and returns when it takes connections.
func (c *Cluster) Restart(ctx context.Context) error {
	args := []string{"-D", c.cfg.Dir, "-k", c.socket, "-p", strconv.Itoa(port), "-c", "listen_addresses="}
	for _, s := range c.cfg.Settings {
		args = append(args, "-c", strings.ReplaceAll(s, " ", ""))
	}
	// A killed server leaves its file behind; another process may have the same number by now. If some of its processes live on the file keeps the next one from their data, and goes with them.
	if !c.orphans {
		_ = os.Remove(filepath.Join(c.cfg.Dir, "postmaster.pid"))
	}
	for {
		said, err := c.start(ctx, args)
		if c.orphans && ctx.Err() == nil && strings.Contains(said, "pre-existing shared memory block") {
			time.Sleep(20 * time.Millisecond) // as a service manager does, which starts it again and again
			continue
		}
		if err == nil {
			c.orphans = false
		}
		return err
	}
}

// start starts a server, and returns when it takes connections or has ended; then with what it said.
func (c *Cluster) start(ctx context.Context, args []string) (string, error) {
	c.cmd, c.ended = c.command(context.WithoutCancel(ctx), "postgres", args...), make(chan struct{})
	c.cmd.WaitDelay = 100 * time.Millisecond // orphans of a killed one keep its output open
	var said bytes.Buffer
	c.cmd.Stderr = &said
	if c.cfg.Log != nil {
		c.cmd.Stdout, c.cmd.Stderr = c.cfg.Log, c.cfg.Log
	}
	if err := c.cmd.Start(); err != nil {
		return "", fmt.Errorf("starting PostgreSQL: %w", err)
	}
	go func() { defer close(c.ended); _ = c.cmd.Wait() }()
	for {
		if err := c.ping(ctx); err == nil {
			return "", nil
		}
		select {
		case <-c.ended:
			return said.String(), fmt.Errorf("PostgreSQL ended at once: %s", bytes.TrimSpace(said.Bytes()))
		case <-ctx.Done():
			return "", errors.Join(fmt.Errorf("waiting for PostgreSQL: %w", ctx.Err()), c.Kill())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ping asks whether the server takes connections: one that is starting or recovering does not.
func (c *Cluster) ping(ctx context.Context) error {
	return c.command(ctx, "pg_isready", "-q", "-h", c.socket, "-p", strconv.Itoa(port)).Run()
}

// PID is the number of the server's first process, the parent of all others.
func (c *Cluster) PID() int { return c.cmd.Process.Pid }

// DSN is how to reach a database as a user of it.
func (c *Cluster) DSN(database, user string) string {
	return fmt.Sprintf("host=%s port=%d dbname=%s user=%s", c.socket, port, database, user)
}

// Superuser is DSN for the cluster's administrator.
func (c *Cluster) Superuser(database string) string { return c.DSN(database, superuser) }

// SQL runs statements as the administrator.
func (c *Cluster) SQL(ctx context.Context, database, statements string) error {
	psql := c.command(ctx, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", c.socket, "-p", strconv.Itoa(port), "-U", superuser, "-d", database, "-f", "-")
	psql.Stdin = strings.NewReader(statements)
	if out, err := psql.CombinedOutput(); err != nil {
		return fmt.Errorf("psql: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Dump writes a database as pg_dump's archive, which Load takes.
func (c *Cluster) Dump(ctx context.Context, database string) ([]byte, error) {
	dump := c.command(ctx, "pg_dump", "-Fc", "-h", c.socket, "-p", strconv.Itoa(port), "-U", superuser, database)
	var said bytes.Buffer
	dump.Stderr = &said
	out, err := dump.Output()
	if err != nil {
		return nil, fmt.Errorf("pg_dump: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}

// CutOff ends all connections to a database. Until it is put back by Load only the administrator makes others.
func (c *Cluster) CutOff(ctx context.Context, database string) error {
	return c.SQL(ctx, superuser, fmt.Sprintf(`DO $$ DECLARE r text; BEGIN
	REVOKE CONNECT ON DATABASE %[1]s FROM PUBLIC;
	FOR r IN SELECT a.grantee::regrole FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = '%[1]s' AND a.grantee <> 0 AND a.grantee <> d.datdba LOOP
		EXECUTE format('REVOKE CONNECT ON DATABASE %[1]s FROM %%s', r);
	END LOOP;
END $$;
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '%[1]s';`, database))
}

// Load puts a dumped database back in the place of the one that is there, cutting off whoever uses it.
func (c *Cluster) Load(ctx context.Context, database string, dump []byte) error {
	if err := c.SQL(ctx, superuser, fmt.Sprintf("DROP DATABASE IF EXISTS %[1]s WITH (FORCE); CREATE DATABASE %[1]s;", database)); err != nil {
		return err
	}
	restore := c.command(ctx, "pg_restore", "-h", c.socket, "-p", strconv.Itoa(port), "-U", superuser, "-d", database, "--exit-on-error")
	restore.Stdin = bytes.NewReader(dump)
	if out, err := restore.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_restore: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Stop ends the server in good order, cutting off who is connected.
func (c *Cluster) Stop() error { return c.end(syscall.SIGINT) }

// Kill ends the server and all its processes at once, as a power failure would; what the operating system has taken stays.
func (c *Cluster) Kill() error { return c.end(syscall.SIGQUIT) }

// KillFirst is kill -9 of the server's first process, as when memory runs out. The others end as they notice: until then sessions go on, with what they have locked, and Restart waits for them.
func (c *Cluster) KillFirst() error {
	c.orphans = true
	return c.end(syscall.SIGKILL)
}

func (c *Cluster) end(sig syscall.Signal) error {
	select {
	case <-c.ended:
		return nil
	default:
	}
	if err := c.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending PostgreSQL: %w", err)
	}
	select {
	case <-c.ended:
		return nil
	case <-time.After(time.Minute):
		return errors.Join(errors.New("PostgreSQL didn't end"), c.cmd.Process.Kill())
	}
}

// Close stops the server and removes its socket; the database files stay.
func (c *Cluster) Close() error { return errors.Join(c.Stop(), os.RemoveAll(c.socket)) }

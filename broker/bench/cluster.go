package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/regard-broker/regard/broker/command"
	"github.com/regard-broker/regard/deploy/freeport"
	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/ledger/signer"
)

// Engines are the programs that a cluster needs beside PostgreSQL, which comes from the system.
type Engines struct {
	Vault    string // devvault
	Trillian string // the stock log server; empty: the signer's own, on a Unix socket
}

// sharedConfig is what the brokers of a cluster share.
type sharedConfig struct {
	Store, Keeper, Signed string // files with addresses of databases
	Public                string // directory
	Trillian, Vault       string // addresses
	RoleID, SecretID      string // files
	Name                  string
}

func (s *sharedConfig) settings() []string {
	return []string{
		"store.postgres.url_file=" + s.Store, "store.postgres.keeper_url_file=" + s.Keeper, "ledger.signed_url_file=" + s.Signed,
		"ledger.trillian.address=" + s.Trillian, "cluster.name=" + s.Name, "public.dir=" + s.Public,
		"keys.mode=vault", "keys.vault.address=" + s.Vault, "keys.vault.role_id_file=" + s.RoleID, "keys.vault.secret_id_file=" + s.SecretID,
	}
}

// party is a part of the cluster whose time is counted.
type party struct {
	name string
	pids []int // with their children
}

// engines are the processes below the brokers.
type engines struct {
	r         *runner
	dir       string // that PostgreSQL's user can pass through
	databases []*pgcluster.Cluster
	programs  []*exec.Cmd
	signers   []*child
	shared    sharedConfig
	parties   []party
	raw       *rawLog
	ports     []*freeport.Hold
}

func (r *runner) engines(ctx context.Context) (e *engines, err error) {
	e = &engines{r: r}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	if e.dir, err = os.MkdirTemp(r.o.Dir, "regard-bench-pg-"); err != nil {
		return e, err
	}
	if err := os.Chmod(e.dir, 0o711); err != nil { // #nosec G302 -- the server's user has to pass
		return e, err
	}
	e.shared = sharedConfig{Store: r.path("store.url"), Keeper: r.path("keeper.url"), Signed: r.path("signed.url"), Public: r.path("public"), RoleID: r.path("sequencer.role_id"), SecretID: r.path("sequencer.secret_id")}
	if err := os.Mkdir(e.shared.Public, 0o700); err != nil {
		return e, err
	}
	if err := e.postgres(ctx); err != nil {
		return e, err
	}
	if e.shared.Trillian, err = e.trillian(ctx, "trillian", true); err != nil {
		return e, err
	}
	if err := e.vault(ctx); err != nil {
		return e, err
	}
	// What Trillian alone reaches is measured on the same server, in a database of its own.
	address, err := e.trillian(ctx, "raw", false)
	if err != nil {
		return e, err
	}
	e.raw, err = openRaw(ctx, address)
	return e, err
}

// asInProduction is what docs/production.md says of PostgreSQL's settings.
var asInProduction = []string{"shared_buffers = 1GB", "max_wal_size = 4GB", "min_wal_size = 1GB", "checkpoint_timeout = 30min"}

func (e *engines) postgres(ctx context.Context) error {
	for _, name := range []string{"main", "signed"} {
		settings := append([]string{"max_connections = 200"}, asInProduction...)
		if e.r.o.Statements != "" {
			settings = append(settings, countStatements...)
		}
		db, err := pgcluster.Start(ctx, pgcluster.Config{Dir: filepath.Join(e.dir, name), Settings: settings})
		if err != nil {
			return err
		}
		e.databases = append(e.databases, db)
		e.parties = append(e.parties, party{"PostgreSQL, " + name, []int{db.PID()}})
	}
	main, signed := e.databases[0], e.databases[1]
	if err := errors.Join(
		main.SQL(ctx, "postgres", "CREATE DATABASE regard; CREATE DATABASE trillian; CREATE DATABASE raw;"), signed.SQL(ctx, "postgres", "CREATE DATABASE regard;"),
	); err != nil {
		return err
	}
	for file, dsn := range map[string]string{
		e.r.path("owner.url"): main.Superuser("regard"), e.r.path("owner-signed.url"): signed.Superuser("regard"), e.r.path("trillian.url"): main.Superuser("trillian"),
		e.shared.Store: main.DSN("regard", "regard_broker"), e.shared.Keeper: main.DSN("regard", "regard_keeper"), e.shared.Signed: signed.DSN("regard", "regard_signer"),
	} {
		if err := os.WriteFile(file, []byte(dsn+"\n"), 0o600); err != nil {
			return err
		}
	}
	if _, err := signer.Init(ctx, main.Superuser("raw")); err != nil {
		return err
	}
	return regard("cluster", "init", "--origin", origin, "--store-url-file", e.r.path("owner.url"), "--signed-url-file", e.r.path("owner-signed.url"), "--trillian-url-file", e.r.path("trillian.url"))
}

// regard runs one of the program's commands in this process.
func regard(args ...string) error {
	var said bytes.Buffer
	if code := command.Main(args, strings.NewReader(""), io.Discard, &said); code != 0 {
		return fmt.Errorf("regard %s: exit status %d: %s", args[0], code, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// trillian starts a signer, and the log server, over a database, and returns where the log server is.
func (e *engines) trillian(ctx context.Context, database string, counted bool) (address string, err error) {
	cfg := signerConfig{DSN: e.databases[0].Superuser(database)}
	if e.r.o.Cluster.Trillian == "" {
		cfg.Listen = "unix:" + filepath.Join(e.dir, database+".sock")
	}
	var ready brokerReady
	s, err := spawn(ctx, "signer", cfg, &ready)
	if err != nil {
		return "", err
	}
	e.signers = append(e.signers, s)
	if counted {
		e.parties = append(e.parties, party{"signer", []int{ready.PID}})
	}
	if cfg.Listen != "" {
		return cfg.Listen, nil
	}
	port, err := freeport.New("127.0.0.1")
	if err != nil {
		return "", err
	}
	e.ports = append(e.ports, port)
	address = port.Addr()
	q := url.Values{}
	for kv := range strings.FieldsSeq(cfg.DSN) {
		k, v, _ := strings.Cut(kv, "=")
		q.Set(k, v)
	}
	pid, err := e.program(database+" log server", e.r.o.Cluster.Trillian, "--rpc_endpoint="+address, "--http_endpoint=", "--storage_system=postgresql", "--postgresql_uri=postgresql:///?"+q.Encode(),
		"--quota_system=noop", "--tree_gc=false", "--max_msg_size_bytes=16777216")
	if err != nil {
		return "", err
	}
	if counted {
		e.parties = append(e.parties, party{"Trillian's log server", []int{pid}})
	}
	return address, until(ctx, func() bool {
		c, err := net.DialTimeout("tcp", address, time.Second)
		return err == nil && c.Close() == nil
	})
}

func (e *engines) vault(ctx context.Context) error {
	file := e.r.path("vault.json")
	pid, err := e.program("vault", e.r.o.Cluster.Vault, "-listen", "127.0.0.1:0", "-storage", e.r.path("vault"), "-ready-file", file)
	if err != nil {
		return err
	}
	e.parties = append(e.parties, party{"Vault", []int{pid}})
	var text []byte
	if err := until(ctx, func() bool { text, err = os.ReadFile(file); return err == nil }); err != nil {
		return err
	}
	var info struct {
		Address string `json:"address"`
		Token   string `json:"root_token"`
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return err
	}
	e.shared.Vault = info.Address
	if err := os.WriteFile(e.r.path("vault.token"), []byte(info.Token), 0o600); err != nil {
		return err
	}
	return regard("vault", "init", "--address", info.Address, "--token-file", e.r.path("vault.token"), "--out", e.r.dir, "--role", "sequencer", "--unwrap")
}

// program starts somebody else's. It dies with this process.
func (e *engines) program(name, path string, args ...string) (pid int, err error) {
	log, err := os.Create(e.r.path(strings.ReplaceAll(name, " ", "-") + ".log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	c := exec.Command(path, args...) // #nosec G204 -- the program that the caller named
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return 0, fmt.Errorf("starting %s: %w", name, err)
	}
	e.programs = append(e.programs, c)
	return c.Process.Pid, nil
}

func (e *engines) close() (err error) {
	if e.raw != nil {
		err = errors.Join(err, e.raw.close())
	}
	for _, s := range e.signers {
		err = errors.Join(err, s.stop())
	}
	for _, p := range e.programs {
		_ = p.Process.Kill() // nothing of theirs is kept
		_ = p.Wait()
	}
	for _, db := range e.databases {
		err = errors.Join(err, db.Close())
	}
	for _, p := range e.ports {
		p.Close()
	}
	if e.dir != "" && !e.r.o.Keep {
		err = errors.Join(err, os.RemoveAll(e.dir))
	}
	return err
}

// until waits for a state.
func until(ctx context.Context, so func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !so() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for a program to be ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// cpuOf is what processes and their children used so far: proc(5), in hundredths of a second.
func cpuOf(pids []int) (total time.Duration, err error) {
	found, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, file := range found {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
		if len(fields) < 15 {
			return 0, fmt.Errorf("%s has another form", file)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return 0, err
		}
		for _, p := range pids {
			if p != pid && p != parent {
				continue
			}
			counted := fields[11:13]
			if p == pid {
				counted = fields[11:15] // and of children that have ended
			}
			for _, f := range counted {
				n, err := strconv.ParseInt(f, 10, 64)
				if err != nil {
					return 0, err
				}
				total += time.Duration(n) * 10 * time.Millisecond
			}
		}
	}
	return total, nil
}

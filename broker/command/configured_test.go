package command

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/cluster"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger/signedpg"
	"github.com/regard-broker/regard/ledger/signer"
)

// The configurations of deploy/ are good but for the files that only the machine that they are for has; each without a name, which the environment gives, is not.
func TestDeployedConfigurations(t *testing.T) {
	deploy := filepath.Join("..", "..", "deploy")
	for file, flags := range map[string][]string{
		"compose/regard.yaml":                {},
		"kubernetes/base/regard.yaml":        {},
		"compose/signer.yaml":                {"--signer"},
		"kubernetes/base/signer-config.yaml": {"--signer"},
	} {
		args := append([]string{"config", "check", "--no-files", "--json", "-c", filepath.Join(deploy, filepath.FromSlash(file))}, flags...)
		if len(flags) == 0 {
			code, out, _ := run(args...)
			var said struct {
				OK       bool
				Mistakes []struct {
					Key      string
					Says, Do string
				}
			}
			if err := json.Unmarshal([]byte(out), &said); err != nil || code != Usage || said.OK || len(said.Mistakes) != 1 || said.Mistakes[0].Key != "cluster.name" || said.Mistakes[0].Do == "" {
				t.Errorf("%s without a name: %d, %v, %s", file, code, err, out)
			}
		}
		t.Run(file, func(t *testing.T) {
			t.Setenv("REGARD_CLUSTER_NAME", "broker-0")
			if code, out, errs := run(args...); code != OK || !strings.Contains(out, `"ok": true`) {
				t.Errorf("%d %s%s", code, out, errs)
			}
		})
	}
}

// prepared is a copy of deploy/compose in which prepare was run, and what runs it again.
func prepared(t *testing.T) (dir string, again func()) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("openssl is missing")
		}
		t.Skip("skipped: openssl is missing")
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "..", "deploy", "compose"))); err != nil {
		t.Fatal(err)
	}
	prepare := func() {
		t.Helper()
		c := exec.CommandContext(t.Context(), "bash", filepath.Join(dir, "prepare"), "regard.example.fr")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	prepare()
	return dir, prepare
}

// What prepare makes is what the processes of compose.yaml take: each configuration is good with all its files, and each certificate is for its server's name and of the one authority.
func TestPrepare(t *testing.T) {
	dir, prepare := prepared(t)
	ca, err := os.ReadFile(filepath.Join(dir, "secrets", "ca", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("no authority")
	}
	signer, err := config.Load(config.Source{File: filepath.Join(dir, "signer.yaml"), NoFiles: true, Signer: true})
	if err != nil {
		t.Fatal(err)
	}
	clients := signer.Signer.Clients
	if len(clients) != 1 {
		t.Fatalf("the signer lets in %q", clients)
	}
	for pair, name := range map[string]string{
		"broker/api": "regard.example.fr", "broker/broker": "", "broker/regard_broker": "", "broker/regard_keeper": "", "broker/regard_signer": "", "owner/trillian": "", "signer/signer": "signer", "signer/trillian": "", "postgres/postgres": "postgres-signed",
		"vault/vault": "vault", "witness-1/tls": "witness-1", "witness-2/tls": "witness-2", "owner/regard_owner": "",
	} {
		base := filepath.Join(dir, "secrets", filepath.FromSlash(pair))
		cert, err := tls.LoadX509KeyPair(base+".pem", base+".key")
		if err != nil {
			t.Errorf("%s: %v", pair, err)
			continue
		}
		usage := x509.ExtKeyUsageClientAuth
		if name != "" {
			usage = x509.ExtKeyUsageServerAuth
		}
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("%s: %v", pair, err)
		}
		// Nobody but brokers adds to Trillian's tree.
		_, err = cert.Leaf.Verify(x509.VerifyOptions{DNSName: clients[0], Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if let := err == nil; let != (pair == "broker/broker") {
			t.Errorf("the signer lets in %s: %v", pair, let)
		}
		// PostgreSQL takes the name for the role.
		if role := filepath.Base(base); strings.HasPrefix(role, "regard_") && cert.Leaf.Subject.CommonName != role {
			t.Errorf("%s is for the role %q", pair, cert.Leaf.Subject.CommonName)
		}
		if n := cert.Leaf.NotAfter; n.Before(time.Now().AddDate(0, 11, 0)) {
			t.Errorf("%s ends %v", pair, n)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "log")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory of the published log: %v, %v", info, err)
	}
	// As the containers have it: a process's secrets beside its configuration.
	check := func(process, file string, args ...string) {
		t.Helper()
		at := filepath.Join(dir, "as", process)
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "secrets", process), filepath.Join(at, "secrets")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, file), filepath.Join(at, file)); err != nil {
			t.Fatal(err)
		}
		// From regard vault init and regard witness init.
		for _, f := range []string{"sequencer.role_id", "sequencer.secret_id", "witnesses.policy"} {
			if err := os.WriteFile(filepath.Join(at, "secrets", f), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		urls, err := filepath.Glob(filepath.Join(at, "secrets", "*.url"))
		if err != nil || len(urls) == 0 {
			t.Fatalf("%s has no addresses of databases: %v", process, err)
		}
		for _, name := range urls { // which name the files of a container
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, bytes.ReplaceAll(text, []byte("/etc/regard/secrets"), []byte(filepath.Join(at, "secrets"))), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if code, out, errs := run(append([]string{"config", "check", "-c", filepath.Join(at, file)}, args...)...); code != OK {
			t.Errorf("%s: %d %s%s", file, code, out, errs)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, "secrets", "vault", "vault.pem"))
	if err != nil {
		t.Fatal(err)
	}
	prepare()
	if after, err := os.ReadFile(filepath.Join(dir, "secrets", "vault", "vault.pem")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the second time it replaced what was there: %v", err)
	}
	t.Setenv("REGARD_CLUSTER_NAME", "broker-1")
	check("broker", "regard.yaml")
	check("signer", "signer.yaml", "--signer")
}

// What only brokers that share a store do is refused by one that is alone, and not ignored.
func TestAloneRefusesWhatOnlyOthersDo(t *testing.T) {
	for key, c := range map[string]*config.Config{
		"ledger.signed_url_file": {Ledger: config.Ledger{SignedURLFile: "x"}},
		"ledger.trillian":        {Ledger: config.Ledger{Trillian: config.Trillian{Address: []string{"x"}}}},
		"public.dir":             {Public: config.Public{Dir: "/srv"}},
	} {
		if c.Public.Dir == "" {
			c.Public.Dir = "public"
		}
		if _, err := sharedStores(c); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if s, err := sharedStores(&config.Config{Public: config.Public{Dir: "public"}}); s != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
	c := &config.Config{Store: config.Store{Postgres: config.Postgres{URLFile: filepath.Join(t.TempDir(), "missing")}}}
	if _, err := sharedStores(c); err == nil || !strings.Contains(err.Error(), "store.postgres.url_file") {
		t.Errorf("a file that isn't there: %v", err)
	}
}

// TestSharedStoreIsBackedUpByPostgreSQL: backup and restore of a shared store say what is done instead, before anything is asked or opened.
func TestSharedStoreIsBackedUpByPostgreSQL(t *testing.T) {
	dir := t.TempDir()
	file, err := Init(Setup{Dir: filepath.Join(dir, "b"), Origin: "regard.example/x", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-c", file}
	for _, key := range []string{"store.postgres.url_file", "store.postgres.keeper_url_file", "ledger.signed_url_file"} {
		url := filepath.Join(dir, key)
		if err := os.WriteFile(url, []byte("postgres:///"+key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--set", key+"="+url)
	}
	args = append(args, "--set", "ledger.trillian.address=127.0.0.1:1", "--set", "cluster.name=a", "--set", "public.dir="+filepath.Join(dir, "public"))
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"backup", "--out", filepath.Join(dir, "out")}, "Never the database of the signed checkpoint"},
		{[]string{"restore", "--from", dir}, "restore without --from"},
	} {
		var out, errs bytes.Buffer
		if code := Main(append(c.args, args...), strings.NewReader(""), &out, &errs); code != 2 || !strings.Contains(errs.String(), c.says) {
			t.Errorf("%v: %d, %s", c.args, code, &errs)
		}
	}
}

// With the embedded keystore in production, each start says so, and so do the metrics.
func TestKeystoreInProductionIsLoud(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	file, err := Init(Setup{Dir: dir, Origin: "regard.example/x", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	set := []string{"production=true", "mirrors=" + filepath.Join(dir, "mirror")}
	if _, err := config.Load(config.Source{File: file, Set: set}); err == nil || !strings.Contains(err.Error(), config.IKnow) {
		t.Errorf("without saying so: %v", err)
	}
	cfg, err := config.Load(config.Source{File: file, Set: append(set, "keys.keystore.in_production="+config.IKnow)})
	if err != nil {
		t.Fatal(err)
	}
	cfg.IgnoreMirrors = true
	var log bytes.Buffer
	i, err := Start(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	text := get(t, "http://"+i.Addresses["ops"]+"/metrics")
	if err := i.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(text, "\nregard_keys_embedded 1\n") || !strings.Contains(log.String(), "level=WARN msg=\"KEYSTORE IN PRODUCTION") {
		t.Errorf("the log says\n%s", &log)
	}
}

// A real PostgreSQL with the settings of compose.yaml lets in whoever has the certificate of a role, as that role, and nobody else; regard cluster init prepares what each process needs.
func TestPreparedDatabases(t *testing.T) {
	programs, err := pgcluster.Find()
	if err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	dir, _ := prepared(t)
	// The server's user can't pass through t.TempDir.
	server, err := os.MkdirTemp("", "regard-pgtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(server); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(server, 0o711); err != nil { // #nosec G302 -- see above
		t.Fatal(err)
	}
	for _, f := range []string{"secrets/postgres/postgres.pem", "secrets/postgres/postgres.key", "secrets/postgres/ca.pem", "pg_hba.conf"} {
		text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f)))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(server, filepath.Base(f))
		if os.Geteuid() != 0 { // the test's own user is no postgres
			text = bytes.Replace(text, []byte("peer"), []byte("trust"), 1)
		}
		if err := os.WriteFile(to, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if u, err := user.Lookup("postgres"); err == nil && os.Geteuid() == 0 {
			uid, e1 := strconv.Atoi(u.Uid)
			gid, e2 := strconv.Atoi(u.Gid)
			if err := errors.Join(e1, e2, os.Chown(to, uid, gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	at := func(f string) string { return filepath.Join(server, f) }
	addr := fmt.Sprintf("127.83.%d.%d", rand.IntN(250)+1, rand.IntN(250)+1) // the port is everybody's, this address nobody's
	c := pgtest.Own(t, "listen_addresses="+addr, "ssl=on", "ssl_cert_file="+at("postgres.pem"), "ssl_key_file="+at("postgres.key"), "ssl_ca_file="+at("ca.pem"), "hba_file="+at("pg_hba.conf"))
	for _, f := range []string{"postgres.sql", "postgres-signed.sql"} {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if f == "postgres-signed.sql" { // its server is this one here, and has the role
			text = bytes.Replace(text, []byte("CREATE ROLE regard_owner LOGIN CREATEROLE;"), nil, 1)
		}
		if err := c.SQL(t.Context(), "postgres", string(text)); err != nil {
			t.Fatal(err)
		}
	}
	// url is an address that prepare wrote, for here: the certificate is checked, and the name under which the server is found is another one.
	url := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, "secrets", filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		out := strings.ReplaceAll(strings.TrimSpace(string(text)), "/etc/regard/secrets", filepath.Join(dir, "secrets", filepath.Dir(file)))
		return regexp.MustCompile(`^host=\S+`).ReplaceAllString(strings.Replace(out, "sslmode=verify-full", "sslmode=verify-ca", 1), "host="+addr)
	}
	args := []string{"cluster", "init", "--origin", "regard.example/2026"}
	for _, name := range []string{"store", "signed", "trillian"} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(url("owner/"+name+".url")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--"+name+"-url-file", file)
	}
	for range 2 {
		if code, out, errs := run(args...); code != OK {
			t.Fatalf("regard cluster init: %d %s%s", code, out, errs)
		}
	}
	// Each process has what it needs, as whom it connects.
	m, err := cluster.Join(t.Context(), cluster.Config{URL: url("broker/store.url"), Name: "broker-1"})
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), store.Config{Postgres: url("broker/store.url"), Keeper: url("broker/keeper.url"), Member: m.ID()})
	if err != nil {
		t.Error(err)
	} else if err := st.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	signed, err := signedpg.Open(t.Context(), url("broker/signed.url"), "regard.example/2026")
	if err != nil {
		t.Error(err)
	} else if err := errors.Join(signed.Swap(t.Context(), nil, []byte("x")), signed.Close()); err != nil {
		t.Error(err)
	}
	s, err := signer.Start(t.Context(), signer.Config{DSN: url("signer/trillian.url")})
	if err != nil {
		t.Error(err)
	} else if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if program := os.Getenv("REGARD_TRILLIAN"); program != "" {
		text, err := os.ReadFile(filepath.Join(dir, "secrets", "signer", "trillian.url"))
		if err != nil {
			t.Fatal(err)
		}
		flags, err := os.ReadFile(filepath.Join(dir, "secrets", "signer", "trillian.cfg"))
		if err != nil {
			t.Fatal(err)
		}
		flags = bytes.Replace(flags, bytes.TrimSpace(text), []byte(url("signer/trillian.url")), 1)
		stockServer(t, program, bytes.ReplaceAll(flags, []byte("127.0.0.1"), []byte(addr)), "http://"+addr+":8093/healthz")
	}
	ask := func(dsn string) (string, error) {
		psql := exec.CommandContext(t.Context(), filepath.Join(programs, "psql"), "-X", "-A", "-t", "-c", "SELECT current_user", dsn+" hostaddr="+addr)
		out, err := psql.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	// As the health check asks, whom nobody lets in.
	if out, err := exec.CommandContext(t.Context(), filepath.Join(programs, "pg_isready"), "-h", addr, "-U", "postgres").CombinedOutput(); err != nil {
		t.Errorf("pg_isready: %v %s", err, out)
	}
	urls := map[string]string{}
	for file, role := range map[string]string{"broker/store.url": "regard_broker", "broker/keeper.url": "regard_keeper", "broker/signed.url": "regard_signer", "owner/store.url": "regard_owner"} {
		secrets := filepath.Join(dir, "secrets", filepath.Dir(file))
		text, err := os.ReadFile(filepath.Join(dir, "secrets", filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		urls[role] = strings.ReplaceAll(strings.TrimSpace(string(text)), "/etc/regard/secrets", secrets)
		if who, err := ask(urls[role]); err != nil || who != role {
			t.Errorf("%s: %v, %s", file, err, who)
		}
	}
	for name, change := range map[string][2]string{
		"as another role":         {"user=regard_broker", "user=regard_keeper"},
		"as the administrator":    {"user=regard_broker", "user=postgres"},
		"without a certificate":   {"sslcert=", "sslcert=/none/"},
		"without TLS":             {"sslmode=verify-full", "sslmode=disable"},
		"as another server's":     {"host=postgres ", "host=other "},
		"under another authority": {"ca.pem", "regard_broker.pem"},
	} {
		dsn := strings.Replace(urls["regard_broker"], change[0], change[1], 1)
		if who, err := ask(dsn); err == nil || dsn == urls["regard_broker"] {
			t.Errorf("%s: let in as %s", name, who)
		}
	}
}

// stockServer runs Trillian's own log server by a file of its flags until it says that it is healthy, which it is if it finds its tables.
func stockServer(t *testing.T, program string, flags []byte, healthz string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trillian.cfg")
	if err := os.WriteFile(file, flags, 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	c := exec.CommandContext(t.Context(), program, "--config="+file)
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	healthy := func() bool {
		res, err := http.Get(healthz) // #nosec G107 -- the test's own address
		if err != nil {
			return false
		}
		return res.Body.Close() == nil && res.StatusCode == http.StatusOK
	}
	for end := time.Now().Add(time.Minute); !healthy(); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("Trillian's log server ended: %v\n%s", err, &said)
		default:
		}
		if time.Now().After(end) {
			t.Error("Trillian's log server isn't healthy")
			break
		}
	}
	if err := c.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-ended
}

package demo

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/deploy/pgcluster"
)

const (
	origin    = "regard.example/demo"
	ofBrokers = 2
	ofSigners = 2
)

// cluster is several brokers behind a balancer. They share a log, on PostgreSQL, Trillian and Vault.
type cluster struct {
	*demo
	short     string // a directory with short names, that PostgreSQL's user can pass through: databases, sockets
	databases []*pgcluster.Cluster
	brokers   []*replica
	balancers []*balancer
	turn      atomic.Int64
	killed    *replica
	at        time.Time     // of the kill
	outage    time.Duration // from then on until a new request was answered
}

// replica is one of the brokers.
type replica struct {
	name                     string
	api, public, portal, ops string
	args                     []string
	process                  *process
}

func (c *cluster) prepare() (keysIn string, err error) {
	c.sayf("1. The operator sets up two PostgreSQL servers, Trillian, a Vault and two brokers behind a balancer, and connects them to providers of invented people.\n")
	for _, dir := range []string{"secrets", "public", "services"} {
		if err := os.Mkdir(c.path(dir), 0o700); err != nil {
			return "", err
		}
	}
	for i := range ofBrokers {
		r := &replica{name: fmt.Sprintf("broker-%d", i+1)}
		for _, to := range []*string{&r.api, &r.public, &r.portal, &r.ops} {
			if *to, err = c.address(); err != nil {
				return "", err
			}
		}
		c.brokers = append(c.brokers, r)
	}
	portal, err := c.balance()
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"--name", "broker of the demonstration", "--host", "localhost", "--host", "127.0.0.1", "--out", c.path("secrets", "server")},
		{"--name", "broker of the demonstration", "--out", c.path("secrets", "broker")},
	} {
		if _, err := c.run(false, "regard", append([]string{"keygen"}, args...)...); err != nil {
			return "", err
		}
	}
	if err := c.services(); err != nil {
		return "", err
	}
	if err := c.postgres(); err != nil {
		return "", err
	}
	trillian, err := c.trillian()
	if err != nil {
		return "", err
	}
	vault, err := c.vault()
	if err != nil {
		return "", err
	}
	for _, r := range c.brokers {
		if err := os.Mkdir(c.path(r.name), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(c.file(r), c.yaml(r, trillian, vault), 0o600); err != nil {
			return "", err
		}
	}
	if err := c.witnesses([]string{"--config", c.file(c.brokers[0])}); err != nil {
		return "", err
	}
	settings, err := c.openPortal(portal)
	if err != nil {
		return "", err
	}
	for i, r := range c.brokers {
		r.args = []string{"serve", "--config", c.file(r), "--set", "witnesses.policy=" + c.path("witnesses.policy")}
		c.sayf("  $ %s &", c.shown("regard", r.args))
		// One simulator stands in for FranceConnect, which there is once, too.
		simulator := "portal.identity.issuer=http://" + c.simulator + "/api/v2"
		if i == 0 {
			simulator = "portal.identity.simulator.listen=" + c.simulator
		}
		for _, kv := range append(settings, "portal.listen="+r.portal, simulator) {
			r.args = append(r.args, "--set", kv)
		}
		if err := c.serve(r); err != nil {
			return "", err
		}
	}
	c.sayf("  … with a portal for people, and a simulator of FranceConnect (docs/operate.md, The portal). Agencies, readers and people reach both through the balancer alone.")
	return "Vault", c.members()
}

// balance puts a balancer before each port of the brokers, and returns the one for people.
func (c *cluster) balance() (portal string, err error) {
	for _, x := range []struct {
		to *string
		of func(*replica) string
	}{
		{&c.api, func(r *replica) string { return r.api }}, {&c.public, func(r *replica) string { return r.public }}, {&portal, func(r *replica) string { return r.portal }},
	} {
		var backends []backend
		for _, r := range c.brokers {
			backends = append(backends, backend{address: x.of(r), ops: r.ops})
		}
		b, err := newBalancer(backends)
		if err != nil {
			return "", err
		}
		c.balancers = append(c.balancers, b)
		*x.to = b.address()
	}
	return portal, nil
}

// postgres starts two servers, for two things that must not fail together, and prepares the databases.
func (c *cluster) postgres() (err error) {
	if c.short, err = os.MkdirTemp("", "regard-demo-"); err != nil {
		return err
	}
	if err := os.Chmod(c.short, 0o711); err != nil { // #nosec G302 -- the server's user has to pass
		return err
	}
	c.sayf("  … two PostgreSQL servers: one for the store and Trillian's tree; one, another failure domain, for the last signed checkpoint.")
	for _, name := range []string{"main", "signed"} {
		db, err := pgcluster.Start(c.ctx, pgcluster.Config{Dir: filepath.Join(c.short, name), Settings: []string{"max_connections = 200"}})
		if err != nil {
			return err
		}
		c.databases = append(c.databases, db)
	}
	main, signed := c.databases[0], c.databases[1]
	const owners = "CREATE ROLE regard_owner LOGIN CREATEROLE; CREATE DATABASE regard OWNER regard_owner;"
	if err := errors.Join(
		main.SQL(c.ctx, "postgres", owners+"CREATE ROLE trillian LOGIN; CREATE DATABASE trillian OWNER trillian;"),
		signed.SQL(c.ctx, "postgres", owners),
	); err != nil {
		return err
	}
	for name, url := range map[string]string{
		"owner-store": main.DSN("regard", "regard_owner"), "owner-signed": signed.DSN("regard", "regard_owner"), "trillian": main.DSN("trillian", "trillian"),
		"store": main.DSN("regard", "regard_broker"), "keeper": main.DSN("regard", "regard_keeper"), "signed": signed.DSN("regard", "regard_signer"),
	} {
		if err := os.WriteFile(c.path("secrets", name+".url"), []byte(url+"\n"), 0o600); err != nil {
			return err
		}
	}
	_, err = c.run(true, "regard", "cluster", "init", "--origin", origin, "--store-url-file", c.path("secrets", "owner-store.url"),
		"--signed-url-file", c.path("secrets", "owner-signed.url"), "--trillian-url-file", c.path("secrets", "trillian.url"))
	return err
}

// trillian starts signers, and a log server if there is the stock one, and returns the addresses of the log servers.
func (c *cluster) trillian() (addresses []string, err error) {
	for i := range ofSigners {
		name := fmt.Sprintf("signer-%d", i+1)
		text := "signer:\n  store_url_file: secrets/trillian.url\n"
		if c.cfg.Trillian == "" {
			addresses = append(addresses, "unix:"+filepath.Join(c.short, name))
			text += "  listen: " + addresses[i] + "\n"
		}
		if err := os.WriteFile(c.path(name+".yaml"), []byte(text), 0o600); err != nil {
			return nil, err
		}
		args := []string{"signer", "--config", c.path(name + ".yaml")}
		c.sayf("  $ %s &", c.shown("regard", args))
		if _, err := c.start(name, filepath.Join(c.cfg.Bin, "regard"), args...); err != nil {
			return nil, err
		}
	}
	if c.cfg.Trillian == "" {
		return addresses, nil
	}
	address, err := c.address()
	if err != nil {
		return nil, err
	}
	program, err := filepath.Abs(c.cfg.Trillian)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	for kv := range strings.FieldsSeq(c.databases[0].DSN("trillian", "trillian")) {
		k, v, _ := strings.Cut(kv, "=")
		q.Set(k, v)
	}
	c.sayf("  $ trillian_log_server --rpc_endpoint=%s --storage_system=postgresql …&", address)
	p, err := c.start("trillian", program, "--rpc_endpoint="+address, "--http_endpoint=", "--storage_system=postgresql", "--postgresql_uri=postgresql:///?"+q.Encode(),
		"--quota_system=noop", "--tree_gc=false", "--max_msg_size_bytes=16777216", "--logtostderr")
	if err != nil {
		return nil, err
	}
	return []string{address}, c.wait("Trillian's log server", 60*time.Second, p, func() bool { return listening(address) })
}

// yaml is the configuration of a broker, as an operator would write it.
func (c *cluster) yaml(r *replica, trillian []string, vault string) []byte {
	return fmt.Appendf(nil, `# One of the brokers of a demonstration. What differs between them is cluster.name, data_dir and the addresses.
production: false
origin: %s
cluster:
  name: %s
data_dir: data

store:
  postgres:
    url_file: ../secrets/store.url
    keeper_url_file: ../secrets/keeper.url
ledger:
  signed_url_file: ../secrets/signed.url   # another server
  trillian:
    address: ["%s"]

keys:
  mode: vault
  vault:
    address: %s
    role_id_file: ../secrets/sequencer.role_id
    secret_id_file: ../secrets/sequencer.secret_id

api:
  listen: %q
  cert: ../secrets/server.pem
  key: ../secrets/server.key
public:
  listen: %q
  dir: ../public
ops:
  listen: %q

epoch:
  length: %s
services:
  dir: ../services
providers:
  cert: ../secrets/broker.pem
  key: ../secrets/broker.key
  ca_file: ../provider.pem
`, origin, r.name, strings.Join(trillian, `", "`), vault, r.api, r.public, r.ops, epoch)
}

func (c *cluster) file(r *replica) string { return c.path(r.name, "regard.yaml") }

// config is that of one broker after the other: each of them takes commands, and an erasure is the only one that is for the one that leads.
func (c *cluster) config() string {
	return c.file(c.brokers[int(c.turn.Add(1))%len(c.brokers)])
}

func (c *cluster) publicDir() string { return c.path("public") }

func (c *cluster) serve(r *replica) (err error) {
	if r.process, err = c.start(r.name, filepath.Join(c.cfg.Bin, "regard"), r.args...); err != nil {
		return err
	}
	return c.ready(r.process, r.ops)
}

type member struct {
	Name  string `json:"name"`
	Leads bool   `json:"leads"`
}

// leader is the broker that leads, nil if none does at this instant.
func (c *cluster) leader() (*replica, error) {
	out, err := c.run(false, "regard", "cluster", "members", "--json", "--config", c.config())
	if err != nil {
		return nil, err
	}
	members, err := readJSON[[]member](out)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		for _, r := range c.brokers {
			if m.Leads && m.Name == r.name {
				return r, nil
			}
		}
	}
	return nil, nil
}

// members shows who is there.
func (c *cluster) members() error {
	out, err := c.run(true, "regard", "cluster", "members", "--config", c.config())
	if err == nil {
		c.sayf("%s", indent(string(out)))
	}
	return err
}

func (c *cluster) crash() string {
	return "The broker that leads is killed (kill -9) while requests are running; the other one takes its place."
}

// someLeader waits for a broker that leads.
func (c *cluster) someLeader() (r *replica, err error) {
	err = c.wait("a broker that leads", 60*time.Second, nil, func() bool {
		r, err = c.leader()
		return err == nil && r != nil
	})
	return r, err
}

func (c *cluster) leading() (string, error) {
	r, err := c.someLeader()
	if err != nil {
		return "", err
	}
	return c.file(r), nil
}

func (c *cluster) kill() (err error) {
	if c.killed, err = c.someLeader(); err != nil {
		return err
	}
	c.at = time.Now()
	return c.killed.process.kill()
}

// recover asks through the balancer, as an agency, until there is an answer.
func (c *cluster) recover() error {
	s := scenes()[6]
	var latest error
	err := c.wait("requests to be answered again", 60*time.Second, nil, func() bool {
		r, err := c.ask(false, 99, &s, "")
		latest = errors.Join(err, s.check(&r, err))
		return latest == nil
	})
	if err != nil {
		return errors.Join(err, latest)
	}
	c.outage = time.Since(c.at)
	c.sayf("  %s, which led, was killed with kill -9. %.1f s later a new request was answered, in full.", c.killed.name, c.outage.Seconds())
	return nil
}

// rejoin starts the killed broker again, which follows now.
func (c *cluster) rejoin() error {
	if err := c.serve(c.killed); err != nil {
		return err
	}
	c.sayf("  %s is started again, and follows.", c.killed.name)
	return c.members()
}

func (c *cluster) summary() string {
	return fmt.Sprintf("\n%s, the broker that led, was killed with kill -9 in the middle. New requests succeeded %.1f s later, and nothing is missing: agencies, providers, their access log and the public log agree.", c.killed.name, c.outage.Seconds())
}

func (c *cluster) close() (err error) {
	for _, b := range c.balancers {
		err = errors.Join(err, b.close())
	}
	for _, db := range c.databases {
		err = errors.Join(err, db.Close())
	}
	if c.short != "" {
		err = errors.Join(err, os.RemoveAll(c.short))
	}
	return err
}

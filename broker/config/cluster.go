package config

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/regard-broker/regard/ledger/dsn"
)

// Store says where sealed records, the order of the log and the registry are.
type Store struct {
	Postgres Postgres `koanf:"postgres"`
}

// Postgres is a database that several brokers share. Without it the store is SQLite, in DataDir.
type Postgres struct {
	// URLFile holds how to reach it as regard_broker, who can't change what is recorded; KeeperURLFile, as regard_keeper, who can: for retention and erasures alone. A line each, as libpq
	// takes it, without a password: that is in a passfile.
	URLFile       string `koanf:"url_file"` // empty: SQLite
	KeeperURLFile string `koanf:"keeper_url_file"`
}

// Ledger says which engines carry the log.
type Ledger struct {
	// SignedURLFile holds how to reach the database of the last signed checkpoint, which takes the place of SignedDir. It belongs on another server than the store's, and into no backup.
	SignedURLFile string   `koanf:"signed_url_file"` // empty: SignedDir
	Trillian      Trillian `koanf:"trillian"`
}

// Trillian in other processes.
type Trillian struct {
	// Address of log servers over the same database, host:port or unix:/path; the first that answers is used. Empty: Trillian is in this process, in DataDir.
	Address []string `koanf:"address"`
	CAFile  string   `koanf:"ca_file"` // of their certificates; may be left out for Unix sockets and on this machine
	Cert    string   `koanf:"cert"`    // by which they know the broker, PEM
	Key     string   `koanf:"key"`
}

// Cluster is for several brokers on one PostgreSQL store.
type Cluster struct {
	// Name of this broker, unlike all others'.
	Name string `koanf:"name"`
}

// Signer is for `regard signer`, a process of its own; the broker reads none of it.
type Signer struct {
	StoreURLFile string `koanf:"store_url_file"` // how to reach Trillian's database as the owner of its tables, as in Postgres
	Tree         int64  `koanf:"tree"`           // the log's id, as `regard signer init` printed it; 0: the only one of the database
	KeepRoots    int    `koanf:"keep_roots"`     // how many of the tree's newest roots are kept
	// Listen is where Trillian's log RPCs are served, host:port or unix:/path; empty: nowhere, Trillian's own log server does it.
	Listen string `koanf:"listen"`
	Ops    string `koanf:"ops"`     // /healthz and /metrics; empty: none
	Cert   string `koanf:"cert"`    // PEM; not for a Unix socket
	Key    string `koanf:"key"`     // PEM, secret
	CAFile string `koanf:"ca_file"` // of the brokers' certificates
	// Clients are DNS names of which a broker's certificate has to have one. Empty: whoever CAFile named may come.
	Clients []string `koanf:"clients"`
}

// On reports whether the store is shared.
func (p *Postgres) On() bool { return p.URLFile != "" }

func (c *Config) checkCluster(unnamed bool, m *Mistakes) {
	pg, t := &c.Store.Postgres, &c.Ledger.Trillian
	if pg.KeeperURLFile != "" && !pg.On() {
		m.add("store.postgres.url_file", 0, "is missing, though there is a keeper's", "name the file that says how to reach the database as regard_broker")
	}
	if pg.On() && pg.KeeperURLFile == "" {
		m.add("store.postgres.keeper_url_file", 0, "is missing: without it nothing is erased, and no retention ends", "name the file that says how to reach the database as regard_keeper")
	}
	if pg.On() && pg.URLFile == pg.KeeperURLFile {
		m.add("store.postgres.keeper_url_file", 0, "is the broker's own: then the broker could change what is recorded", "name another, for regard_keeper")
	}
	if c.Ledger.SignedURLFile != "" && (c.Ledger.SignedURLFile == pg.URLFile || c.Ledger.SignedURLFile == pg.KeeperURLFile) {
		m.add("ledger.signed_url_file", 0, "is the store's: what is restored together can't tell that it is old", "name a database on another server, in no backup")
	}
	if !pg.On() && c.Cluster.Name != "" {
		m.add("cluster.name", 0, "is given without store.postgres: brokers that share nothing are no cluster", "remove it, or name the database")
	}
	if pg.On() {
		for _, x := range []struct{ key, value, do string }{
			{"cluster.name", c.Cluster.Name, "name this broker, unlike all others: REGARD_CLUSTER_NAME in the environment lets them share the file"},
			{"ledger.signed_url_file", c.Ledger.SignedURLFile, "name the file that says how to reach the database of the last signed checkpoint: with one each, two brokers could sign two histories"},
			{"ledger.trillian.address", strings.Join(t.Address, ""), "give the log servers' addresses: the next leader has to find the tree"},
		} {
			if x.value == "" && (x.key != "cluster.name" || !unnamed) {
				m.add(x.key, 0, "is missing, and the store is shared", x.do)
			}
		}
	}
	if n := c.Cluster.Name; len(n) > 63 || strings.Trim(n, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
		m.add("cluster.name", 0, "is no name", "use up to 63 letters, digits, -, _ and .")
	}
	for _, a := range t.Address {
		if path, ok := strings.CutPrefix(a, "unix:"); ok {
			if !filepath.IsAbs(path) {
				m.add("ledger.trillian.address", 0, "has a socket that isn't an absolute path", "write unix:/path")
			}
			continue
		}
		host, port, err := net.SplitHostPort(a)
		switch {
		case err != nil || host == "" || port == "":
			m.add("ledger.trillian.address", 0, "has something that is neither host:port nor unix:/path", "write for example signer.example.org:8090")
		case !loopback(host) && (t.CAFile == "" || t.Cert == ""):
			m.add("ledger.trillian.ca_file", 0, "or ledger.trillian.cert is missing: log servers on other machines know each other by certificates alone", "give the authority of theirs, and the broker's certificate and key")
		}
	}
	if (t.Cert == "") != (t.Key == "") {
		m.add("ledger.trillian.cert", 0, "and ledger.trillian.key go together", "give both, or neither")
	}
	if len(t.Address) == 0 && (t.CAFile != "" || t.Cert != "") {
		m.add("ledger.trillian.address", 0, "is missing, though ledger.trillian has other keys", "give the log servers' addresses, or remove the section")
	}
}

// checkDatabase looks at the address in a file: in production, whoever answers there has to show that it is that server.
func checkDatabase(key, file string, m *Mistakes) {
	text, err := os.ReadFile(file) // #nosec G304 -- of the configuration
	if err != nil {
		return // said already
	}
	cfg, err := dsn.Parse(strings.TrimSpace(string(text)))
	switch {
	case errors.Is(err, dsn.ErrPassword):
		m.add(key, 0, "names a file with a password", "put it into a passfile, and name that in the address by passfile=")
	case err != nil:
		m.add(key, 0, "names a file that can't be used: "+err.Error(), "correct its one line")
	case !dsn.Verified(cfg):
		m.add(key, 0, "leads to another machine, in clear or to whoever answers there", "write sslmode=verify-full into the address, and sslrootcert= with the authority of the server's certificate; or use a Unix socket")
	}
}

// check what `regard signer` needs.
func (s *Signer) check(production bool, m *Mistakes) {
	if s.StoreURLFile == "" {
		m.add("signer.store_url_file", 0, "is missing", "name the file that says how to reach Trillian's database")
	}
	if s.Tree < 0 {
		m.add("signer.tree", 0, "is negative", "give the id that regard signer init printed, or remove it")
	}
	if s.KeepRoots < 1 || s.KeepRoots > 1e6 {
		m.add("signer.keep_roots", 0, "is out of range", "choose from 1 to 1000000; 1000 is usual")
	}
	if (s.Cert == "") != (s.Key == "") {
		m.add("signer.cert", 0, "and signer.key go together", "give both, or neither")
	}
	path, socket := strings.CutPrefix(s.Listen, "unix:")
	switch {
	case s.Listen == "" || socket:
		if s.Cert != "" || s.CAFile != "" || len(s.Clients) > 0 {
			m.add("signer.cert", 0, "or signer.ca_file or signer.clients is given, and signer.listen is no port: nobody is asked for a certificate", "remove them, or give signer.listen a port")
		}
		if socket && (!filepath.IsAbs(path) || len(path) > 107) { // sun_path, as in checkListeners
			m.add("signer.listen", 0, "is no socket's absolute path of at most 107 bytes", "write unix:/path")
		}
	default:
		checkAddress("signer.listen", s.Listen, "127.0.0.1:8090", production, m)
		if s.Cert == "" || s.CAFile == "" {
			m.add("signer.cert", 0, "or signer.ca_file is missing: whoever reaches the log server could add to the tree", "give the server's certificate and key and the authority of the brokers' certificates, or listen on unix:/path")
		}
	}
	if s.Ops != "" {
		checkAddress("signer.ops", s.Ops, "127.0.0.1:9091", production, m)
	}
}

// checkAddress checks where the signer listens.
func checkAddress(key, addr, example string, production bool, m *Mistakes) {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case err != nil || port == "":
		says := "is not host:port"
		if key == "signer.listen" {
			says = "is neither host:port nor unix:/path"
		}
		m.add(key, 0, says, "write for example "+example)
	case !production && !loopback(host):
		m.add(key, 0, "is reachable from other machines while production is false", "use 127.0.0.1, or set production: true")
	}
}

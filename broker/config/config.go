// Package config reads the broker's configuration: one YAML file, then REGARD_… environment variables, then flags; the last one wins.
//
// What it guarantees. A [Config] that [Load] returned is complete and was checked: every key is known, every number in its range, every secret's file readable by its owner alone.
// A mistake never starts a broker; all mistakes are reported at once, each with its place and with what to do. Secrets are named by the path of their file and never stand in the configuration itself.
//
// What it doesn't. It opens no connection: that Vault or a provider answers is found out by those who use them.
package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/knadh/koanf/v2"
)

// Config of a broker. Paths are absolute after Load; relative ones are meant from the directory of the file.
type Config struct {
	// Production refuses everything that is for trying out: keys on the broker's own disk, for one. Without it every listener has to be a loopback address.
	Production bool `koanf:"production"`
	// DataDir holds the database, the log and the administration socket.
	DataDir string `koanf:"data_dir"`
	// SignedDir holds the last signed checkpoint, by which the broker knows an old copy of DataDir that was put back. It belongs on another disk, and into no backup or snapshot.
	SignedDir string `koanf:"signed_dir"` // empty: signed in DataDir
	// Mirrors are copies of the published checkpoint that don't come from DataDir: base URLs of the public log, or files. At each start one has to say where the log stands.
	Mirrors []string `koanf:"mirrors"`
	// Origin is the log's name in its checkpoints, e.g. "regard.example.fr/2026". It can't change afterwards.
	Origin string `koanf:"origin"`

	API       API       `koanf:"api"`
	Public    Public    `koanf:"public"`
	Portal    Portal    `koanf:"portal"`
	Ops       Ops       `koanf:"ops"`
	Admin     Admin     `koanf:"admin"`
	Keys      Keys      `koanf:"keys"`
	Store     Store     `koanf:"store"`
	Ledger    Ledger    `koanf:"ledger"`
	Cluster   Cluster   `koanf:"cluster"`
	Signer    Signer    `koanf:"signer"`
	Witnesses Witnesses `koanf:"witnesses"`
	Epoch     Epoch     `koanf:"epoch"`
	Policy    Policy    `koanf:"policy"`
	Providers Providers `koanf:"providers"`
	Services  Services  `koanf:"services"`
	Records   Records   `koanf:"records"`
	Mail      Mail      `koanf:"mail"`
	Limits    Limits    `koanf:"limits"`
	Log       Log       `koanf:"log"`

	// ConfirmClock is a flag of one start, not a setting: see broker.Config.
	ConfirmClock bool `koanf:"-"`
	// IgnoreMirrors and DistrustWitnesses are others.
	IgnoreMirrors     bool     `koanf:"-"`
	DistrustWitnesses []string `koanf:"-"`
}

// API is the listener for agencies, with mutual TLS.
type API struct {
	Listen string `koanf:"listen"`
	Cert   string `koanf:"cert"` // PEM, the server's chain
	Key    string `koanf:"key"`  // PEM, secret
}

// Public is the listener for everybody who reads the log. Without a certificate it speaks plain HTTP, for a proxy in front of it.
type Public struct {
	Listen string `koanf:"listen"` // empty: none
	Cert   string `koanf:"cert"`
	Key    string `koanf:"key"`
	// Dir is where checkpoint, tiles and all else that is published is written: any static server serves it. Several brokers share it.
	Dir string `koanf:"dir"` // empty: public in DataDir
}

// Portal is the website for people. It speaks plain HTTP only for trying out.
type Portal struct {
	Listen string `koanf:"listen"` // empty: none
	URL    string `koanf:"url"`    // by which people reach it, scheme and host alone
	Cert   string `koanf:"cert"`   // PEM, the server's chain
	Key    string `koanf:"key"`    // PEM, secret
	// Log is the public log's base URL, for people who check; empty: pages name it by its origin.
	Log string `koanf:"log"`
	// Words is a file that names purposes and legal bases; empty: those that are built in.
	Words string `koanf:"words"`
	// Verifier is the directory of what browsers check histories with, as the build made it; empty: verifier beside the program.
	Verifier string `koanf:"verifier"`
	// Rate and Burst bound how often one address has a file of a history made: a second, and at once.
	Rate  float64 `koanf:"rate"`
	Burst int     `koanf:"burst"`
	// TrustedProxies are the networks of those whose X-Forwarded-For or Forwarded is believed. Empty: nobody's.
	TrustedProxies []string `koanf:"trusted_proxies"`

	Operator Operator `koanf:"operator"`
	Identity Identity `koanf:"identity"`
}

// Operator is who runs the portal, as the legal notice has to say.
type Operator struct {
	Name    string `koanf:"name"`
	Address string `koanf:"address"` // postal, on one line
	Email   string `koanf:"email"`
	Officer string `koanf:"officer"` // e-mail of the data protection officer
	Host    string `koanf:"host"`    // who houses the servers, on one line
}

// Ops is the listener for health checks and metrics, plain HTTP.
type Ops struct {
	Listen string `koanf:"listen"` // empty: none
}

// Admin is the administration socket.
type Admin struct {
	Socket string `koanf:"socket"` // empty: admin.sock in DataDir
}

// KeyMode says who holds the keys.
type KeyMode string

// Modes.
const (
	// Keystore: a file on the broker's disk, for trying out.
	Keystore KeyMode = "keystore"
	// Vault or OpenBao, transit.
	Vault KeyMode = "vault"
)

// Keys says who holds them.
type Keys struct {
	Mode     KeyMode      `koanf:"mode"`
	Keystore KeystoreKeys `koanf:"keystore"`
	Vault    VaultKeys    `koanf:"vault"`
}

// IKnow is what keys.keystore.in_production has to say.
const IKnow = "whoever reads this disk reads everything"

// VaultAuth says how the broker logs in to Vault.
type VaultAuth string

// Ways to log in.
const (
	AppRole    VaultAuth = "approle"
	Kubernetes VaultAuth = "kubernetes"
)

// KeystoreKeys are for mode keystore. Exactly one of PassphraseFile and KeyFile.
type KeystoreKeys struct {
	// InProduction lets production: true stand beside mode keystore, if it is exactly IKnow. The broker then says so at each start and in its metrics.
	InProduction   string `koanf:"in_production"`
	Path           string `koanf:"path"` // empty: keystore in DataDir
	PassphraseFile string `koanf:"passphrase_file"`
	KeyFile        string `koanf:"key_file"`
}

// VaultKeys are for mode vault.
type VaultKeys struct {
	Address       string    `koanf:"address"`        // https://…
	Mount         string    `koanf:"mount"`          // of the transit engine; empty: transit
	Auth          VaultAuth `koanf:"auth"`           // approle, kubernetes
	AuthMount     string    `koanf:"auth_mount"`     // of the logins; empty: named as auth
	WrapKey       string    `koanf:"wrap_key"`       // name; empty: regard-wrap
	CheckpointKey string    `koanf:"checkpoint_key"` // name; empty: regard-checkpoint
	Namespace     string    `koanf:"namespace"`      // of Vault Enterprise or OpenBao; empty: none
	// RoleIDFile and SecretIDFile are for auth approle. SecretIDWrapped: the second holds a response-wrapping token, good for one start.
	RoleIDFile      string `koanf:"role_id_file"`
	SecretIDFile    string `koanf:"secret_id_file"`
	SecretIDWrapped bool   `koanf:"secret_id_wrapped"`
	// Role and TokenFile are for auth kubernetes: a role of Vault's, and the service account's projected token, which is read at each login.
	Role      string `koanf:"role"`
	TokenFile string `koanf:"token_file"`
	CAFile    string `koanf:"ca_file"` // empty: the system's
	Cert      string `koanf:"cert"`    // client certificate, PEM; empty: none
	Key       string `koanf:"key"`
}

// Witnesses cosign the log's checkpoints.
type Witnesses struct {
	// Policy is the file that names them, with their URLs, and the quorum (c2sp.org/tlog-policy). Empty: there are none, and receipts stay provisional.
	Policy string `koanf:"policy"`
	// Faulty is how many of them may be dishonest: the quorum is to outvote them.
	Faulty int `koanf:"faulty"`
	// Deadline is how long a publication waits for the quorum, Timeout how long one witness may take.
	Deadline Duration `koanf:"deadline"`
	Timeout  Duration `koanf:"timeout"`
	// Wait is how long a request waits whose answer is released on a witnessed receipt only.
	Wait   Duration `koanf:"wait"`
	CAFile string   `koanf:"ca_file"` // empty: the system's
}

// Epoch of the log.
type Epoch struct {
	Length Duration `koanf:"length"`
}

// Policy that decides.
type Policy struct {
	Dir string `koanf:"dir"` // of the bundle; empty: the one that the program carries
}

// Providers are asked over mutual TLS. Their addresses, limits and time limits stand in the service definitions, whose digests are in the log.
type Providers struct {
	Cert           string   `koanf:"cert"` // client certificate, PEM; needed in production
	Key            string   `koanf:"key"`
	CAFile         string   `koanf:"ca_file"` // empty: the system's
	Proxy          string   `koanf:"proxy"`   // URL; empty: none, whatever the environment says
	ConnectTimeout Duration `koanf:"connect_timeout"`
	Connections    int      `koanf:"connections"` // to one host
}

// Records of disclosures.
type Records struct {
	// Retention after their month; then their details are destroyed. The log promises it for each month: a shorter one is in force for later months only.
	Retention Duration `koanf:"retention"`
	// CoolOff is for how long a person can undo their request for erasure.
	CoolOff Duration `koanf:"cool_off"`
}

// Mail is how mails are sent. An agency and a person who confirmed an address get some; nothing of what they are about stands in them.
type Mail struct {
	SMTP         string `koanf:"smtp"` // host:port; empty: no mails
	TLS          string `koanf:"tls"`  // starttls, implicit, none
	From         string `koanf:"from"`
	Username     string `koanf:"username"` // empty: no login
	PasswordFile string `koanf:"password_file"`
	CAFile       string `koanf:"ca_file"` // empty: the system's
}

// Services that are loaded at start when the registry doesn't have them yet.
type Services struct {
	Dir string `koanf:"dir"` // empty: none
}

// Limits protect the broker and share it fairly.
type Limits struct {
	Rate        float64  `koanf:"rate"`        // requests a second and agency
	Burst       int      `koanf:"burst"`       // requests at once and agency
	InFlight    int      `koanf:"in_flight"`   // requests at once in all
	Connections int      `koanf:"connections"` // to the API
	Body        Size     `koanf:"body"`        // of a request
	Drain       Duration `koanf:"drain"`       // time for requests in flight at the end
	// Linger is for how long a broker that stops still listens, before Drain, and refuses what comes, so that balancers see that it isn't ready. Not set: 5s on a shared store; 0 for a broker that is alone.
	Linger      Duration `koanf:"linger"`
	ReadTimeout Duration `koanf:"read_timeout"` // for a whole request to arrive
}

// Log of what the broker does, on standard error.
type Log struct {
	Level  string `koanf:"level"`  // debug, info, warn, error
	Format string `koanf:"format"` // text, json
}

// defaultLinger is more than two looks of a usual balancer. Where there is no other broker it would only be a longer stop.
const defaultLinger = Duration(5 * time.Second)

// Defaults are in force where nothing else is said.
func Defaults() map[string]any {
	return map[string]any{
		"production":                false,
		"api.listen":                "127.0.0.1:8443",
		"public.listen":             "127.0.0.1:8080",
		"ops.listen":                "127.0.0.1:9090",
		"portal.rate":               5.0,
		"portal.burst":              60,
		"portal.identity.acr":       "eidas1",
		"portal.identity.rate":      2.0,
		"portal.identity.burst":     60,
		"portal.identity.in_flight": 64,
		"portal.identity.pkce":      true,
		"portal.identity.idle":      "15m",
		"portal.identity.absolute":  "8h",
		"portal.identity.timeout":   "10s",
		"keys.mode":                 string(Keystore),
		"keys.vault.auth":           string(AppRole),
		"signer.keep_roots":         1000,
		"witnesses.faulty":          1,
		"witnesses.deadline":        "2s",
		"witnesses.timeout":         "5s",
		"witnesses.wait":            "10s",
		"epoch.length":              "24h",
		"providers.connect_timeout": "3s",
		"providers.connections":     256,
		"records.retention":         "26280h",
		"records.cool_off":          "720h",
		"mail.tls":                  "starttls",
		"limits.rate":               100.0,
		"limits.burst":              200,
		"limits.in_flight":          512,
		"limits.connections":        4096,
		"limits.body":               "64KiB",
		"limits.drain":              "20s",
		"limits.read_timeout":       "15s",
		"log.level":                 "info",
		"log.format":                "text",
	}
}

// Source says where a configuration comes from.
type Source struct {
	// File is the YAML file. Empty: none.
	File string
	// Environ is the environment, as os.Environ gives it. Only REGARD_… counts.
	Environ []string
	// Set holds key=value from flags.
	Set []string
	// NoFiles leaves out whether the files that are named are there, and readable by their owner alone: for a configuration that is checked on another machine than it runs on.
	NoFiles bool
	// Unnamed lets cluster.name be missing: for a command that is no broker, whose configuration several share.
	Unnamed bool
	// Signer checks what `regard signer` needs, and not what a broker does: the file may have the one, the other or both.
	Signer bool
}

// Load reads, joins and checks. The error is a *Mistakes when the configuration is at fault.
func Load(src Source) (*Config, error) {
	k := koanf.New(".")
	found := &Mistakes{File: src.File, from: map[string]string{}, unfit: map[string]bool{}}
	if err := k.Load(flat(Defaults()), nil); err != nil {
		return nil, fmt.Errorf("loading the defaults: %w", err)
	}
	base := ""
	at := map[string]int{}
	if src.File != "" {
		text, err := os.ReadFile(src.File)
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w (make one with: regard init)", err)
		}
		if base, err = filepath.Abs(filepath.Dir(src.File)); err != nil {
			return nil, fmt.Errorf("finding the configuration's directory: %w", err)
		}
		values := parseFile(text, at, found)
		if err := k.Load(flat(values), nil); err != nil {
			return nil, fmt.Errorf("loading %s: %w", src.File, err)
		}
	}
	if err := k.Load(flat(fromEnviron(src.Environ, found)), nil); err != nil {
		return nil, fmt.Errorf("loading the environment: %w", err)
	}
	if err := k.Load(flat(fromFlags(src.Set, found)), nil); err != nil {
		return nil, fmt.Errorf("loading the flags: %w", err)
	}
	found.lines = at
	var c Config
	decode(k, &c, found)
	if !k.Exists("limits.linger") && c.Store.Postgres.On() {
		c.Limits.Linger = defaultLinger
	}
	c.resolve(base)
	if src.Signer {
		c.Signer.check(c.Production, found)
		c.Log.check(found)
	} else {
		c.check(src.Unnamed, found)
	}
	if !src.NoFiles {
		c.checkFiles(base, src.Signer, found)
	}
	if len(found.List) > 0 {
		found.sort()
		return nil, found
	}
	return &c, nil
}

// resolve makes paths absolute and fills those that follow from others.
func (c *Config) resolve(base string) {
	for _, p := range c.paths() {
		if *p.at != "" && !filepath.IsAbs(*p.at) {
			*p.at = filepath.Join(base, *p.at)
		}
	}
	for i, m := range c.Mirrors {
		if m != "" && !strings.Contains(m, "://") && !filepath.IsAbs(m) {
			c.Mirrors[i] = filepath.Join(base, m)
		}
	}
	c.Portal.Identity.resolve()
	if c.DataDir == "" {
		return
	}
	if c.Public.Dir == "" {
		c.Public.Dir = filepath.Join(c.DataDir, "public")
	}
	if c.SignedDir == "" {
		c.SignedDir = filepath.Join(c.DataDir, "signed")
	}
	if c.Admin.Socket == "" {
		c.Admin.Socket = filepath.Join(c.DataDir, "admin.sock")
	}
	if c.Keys.Mode == Keystore && c.Keys.Keystore.Path == "" {
		c.Keys.Keystore.Path = filepath.Join(c.DataDir, "keystore")
	}
}

type namedPath struct {
	key    string
	at     *string
	secret bool // its file must not be readable by others
	file   bool // it must exist
}

func (c *Config) paths() []namedPath {
	return []namedPath{
		{"data_dir", &c.DataDir, false, false},
		{"signed_dir", &c.SignedDir, false, false},
		{"api.cert", &c.API.Cert, false, true},
		{"api.key", &c.API.Key, true, true},
		{"public.cert", &c.Public.Cert, false, true},
		{"public.key", &c.Public.Key, true, true},
		{"public.dir", &c.Public.Dir, false, false},
		{"store.postgres.url_file", &c.Store.Postgres.URLFile, true, true},
		{"store.postgres.keeper_url_file", &c.Store.Postgres.KeeperURLFile, true, true},
		{"ledger.signed_url_file", &c.Ledger.SignedURLFile, true, true},
		{"ledger.trillian.ca_file", &c.Ledger.Trillian.CAFile, false, true},
		{"ledger.trillian.cert", &c.Ledger.Trillian.Cert, false, true},
		{"ledger.trillian.key", &c.Ledger.Trillian.Key, true, true},
		{"signer.store_url_file", &c.Signer.StoreURLFile, true, true},
		{"signer.cert", &c.Signer.Cert, false, true},
		{"signer.key", &c.Signer.Key, true, true},
		{"signer.ca_file", &c.Signer.CAFile, false, true},
		{"portal.cert", &c.Portal.Cert, false, true},
		{"portal.key", &c.Portal.Key, true, true},
		{"portal.words", &c.Portal.Words, false, true},
		{"portal.verifier", &c.Portal.Verifier, false, true},
		{"portal.identity.client_secret_file", &c.Portal.Identity.ClientSecretFile, true, true},
		{"admin.socket", &c.Admin.Socket, false, false},
		{"keys.keystore.path", &c.Keys.Keystore.Path, false, false},
		{"keys.keystore.passphrase_file", &c.Keys.Keystore.PassphraseFile, true, true},
		{"keys.keystore.key_file", &c.Keys.Keystore.KeyFile, true, true},
		{"keys.vault.role_id_file", &c.Keys.Vault.RoleIDFile, false, true},
		{"keys.vault.secret_id_file", &c.Keys.Vault.SecretIDFile, true, true},
		{"keys.vault.token_file", &c.Keys.Vault.TokenFile, false, true}, // its mode is the kubelet's
		{"keys.vault.ca_file", &c.Keys.Vault.CAFile, false, true},
		{"keys.vault.cert", &c.Keys.Vault.Cert, false, true},
		{"keys.vault.key", &c.Keys.Vault.Key, true, true},
		{"witnesses.policy", &c.Witnesses.Policy, false, true},
		{"witnesses.ca_file", &c.Witnesses.CAFile, false, true},
		{"policy.dir", &c.Policy.Dir, false, true},
		{"providers.cert", &c.Providers.Cert, false, true},
		{"providers.key", &c.Providers.Key, true, true},
		{"providers.ca_file", &c.Providers.CAFile, false, true},
		{"services.dir", &c.Services.Dir, false, true},
		{"mail.password_file", &c.Mail.PasswordFile, true, true},
		{"mail.ca_file", &c.Mail.CAFile, false, true},
	}
}

// Duration is a time span such as 90s, 10m, 24h.
type Duration time.Duration

// UnmarshalText parses Go's notation.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("want a duration such as 90s, 10m or 24h")
	}
	*d = Duration(v)
	return nil
}

// Std returns it as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// Size is a number of bytes, such as 65536, 64KiB, 1MiB.
type Size int64

// UnmarshalText parses a number with an optional unit B, KiB, MiB.
func (s *Size) UnmarshalText(b []byte) error {
	text, unit := string(b), int64(1)
	for _, u := range []struct {
		name string
		n    int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"B", 1}} {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			text, unit = rest, u.n
			break
		}
	}
	var n int64
	if text == "" || len(text) > 9 {
		return fmt.Errorf("want a size such as 65536, 64KiB or 1MiB")
	}
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return fmt.Errorf("want a size such as 65536, 64KiB or 1MiB")
		}
		n = n*10 + int64(c-'0')
	}
	*s = Size(n * unit)
	return nil
}

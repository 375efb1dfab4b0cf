package config

import (
	"cmp"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/peer"
	"github.com/regard-broker/regard/ledger/proof"
)

// A Mistake in a configuration.
type Mistake struct {
	Key    string // dotted
	Source string // what set it in the place of the file: "--set limits.rate", "REGARD_LIMITS_RATE"; empty: the file or nobody
	Line   int    // in the file; 0 if it isn't there, or isn't what counts
	Says   string // what is wrong
	Do     string // what to do
}

// Mistakes are all mistakes of a configuration. No value of the configuration stands in them but paths of files that are no secrets.
type Mistakes struct {
	File  string
	List  []Mistake
	lines map[string]int
	from  map[string]string // Source of the keys that environment and flags set
	unfit map[string]bool   // keys whose value has not the form of their type: no more is said of it
}

func (m *Mistakes) add(key string, line int, says, do string) {
	if m.unfit[key] {
		return
	}
	source := ""
	if line == 0 {
		if source = m.from[key]; source == "" {
			line = m.lines[key]
		}
	}
	m.List = append(m.List, Mistake{key, source, line, says, do})
}

func (m *Mistakes) sort() {
	slices.SortStableFunc(m.List, func(a, b Mistake) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return strings.Compare(a.Key, b.Key)
	})
}

func (m *Mistakes) Error() string {
	var b strings.Builder
	n := "1 mistake"
	if len(m.List) > 1 {
		n = fmt.Sprintf("%d mistakes", len(m.List))
	}
	fmt.Fprintf(&b, "the configuration has %s:", n)
	for _, x := range m.List {
		b.WriteString("\n  ")
		if x.Line > 0 {
			fmt.Fprintf(&b, "%s:%d: ", m.File, x.Line)
		}
		fmt.Fprintf(&b, "%s %s: %s", cmp.Or(x.Source, x.Key, "the file"), x.Says, x.Do)
	}
	return b.String()
}

func (c *Config) check(unnamed bool, m *Mistakes) {
	if c.DataDir == "" {
		m.add("data_dir", 0, "is missing", "name the directory for the database and the log")
	}
	switch {
	case c.Origin == "":
		m.add("origin", 0, "is missing", "name the log, for example regard.example.fr/2026; it can't change afterwards")
	case len(c.Origin) > 255 || strings.ContainsFunc(c.Origin, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '+' }):
		m.add("origin", 0, "is not a log's name", "use letters, digits, dots and slashes, without spaces and plus signs")
	}
	c.checkElsewhere(m)
	c.checkListeners(m)
	c.checkPortal(m)
	c.checkKeys(m)
	c.checkProviders(m)
	c.checkWitnesses(m)
	c.checkMail(m)
	c.checkLimits(m)
	c.checkIdentity(m)
	if d := c.Epoch.Length.Std(); d < time.Second || d > proof.MaxEpoch {
		m.add("epoch.length", 0, "is out of range", "choose from 1s to 744h; 24h is usual")
	}
	c.checkCluster(unnamed, m)
	c.Log.check(m)
}

func (l *Log) check(m *Mistakes) {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, l.Level) {
		m.add("log.level", 0, "is unknown", "use debug, info, warn or error")
	}
	if l.Format != "text" && l.Format != "json" {
		m.add("log.format", 0, "is unknown", "use text or json")
	}
}

// checkFiles looks at the files themselves: the signer's, or all others, since the two processes may run as different users.
func (c *Config) checkFiles(base string, signer bool, m *Mistakes) {
	for _, p := range c.paths() {
		if p.file && *p.at != "" && strings.HasPrefix(p.key, "signer.") == signer {
			checkFile(p, base, m)
			if c.Production && strings.HasSuffix(p.key, "url_file") {
				checkDatabase(p.key, *p.at, m)
			}
		}
	}
}

// checkElsewhere: in production, something outside the data directory has to know where the log stands. Whether signed_dir is another disk shows only when it is there, at the start.
func (c *Config) checkElsewhere(m *Mistakes) {
	if c.Production && len(c.Mirrors) == 0 && c.Ledger.SignedURLFile == "" && c.SignedDir == filepath.Join(c.DataDir, "signed") {
		m.add("signed_dir", 0, "is in data_dir, and no mirrors are named: an old copy of the whole directory that is put back would fork the log unnoticed", "put it on another disk, or name a copy of the published checkpoint under mirrors")
	}
	for _, x := range c.Mirrors {
		if !strings.Contains(x, "://") {
			if x == "" {
				m.add("mirrors", 0, "has an empty element", "give https://… or a file")
			}
			continue
		}
		u, err := url.Parse(x)
		switch {
		case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Scheme != "https" && u.Scheme != "http"):
			m.add("mirrors", 0, "has something that is no URL", "give https://host/path, to which /checkpoint is added, or a file")
		case u.Scheme == "http" && !loopback(u.Hostname()):
			m.add("mirrors", 0, "has a URL without TLS: whoever is on the way could answer with an old checkpoint", "use https://")
		}
	}
}

func (c *Config) checkListeners(m *Mistakes) {
	for _, l := range []struct{ key, addr string }{{"api.listen", c.API.Listen}, {"public.listen", c.Public.Listen}, {"portal.listen", c.Portal.Listen}, {"ops.listen", c.Ops.Listen}} {
		if l.addr == "" {
			if l.key == "api.listen" {
				m.add(l.key, 0, "is missing", "give host:port, for example 127.0.0.1:8443")
			}
			continue
		}
		host, port, err := net.SplitHostPort(l.addr)
		if err != nil || port == "" {
			m.add(l.key, 0, "is not host:port", "write for example 127.0.0.1:8443")
			continue
		}
		if !c.Production && !loopback(host) {
			m.add(l.key, 0, "is reachable from other machines, with keys that are for trying out", "use 127.0.0.1, or set production: true and keep the keys in Vault")
		}
	}
	if c.API.Cert == "" || c.API.Key == "" {
		m.add("api.cert", 0, "and api.key are both needed", "give the server's certificate and key (regard init makes a pair for trying out)")
	}
	if (c.Public.Cert == "") != (c.Public.Key == "") {
		m.add("public.cert", 0, "and public.key go together", "give both, or neither for plain HTTP behind a proxy")
	}
	// sun_path has 108 bytes on Linux, the terminating zero included (unix(7)).
	if len(c.Admin.Socket) > 107 {
		m.add("admin.socket", 0, "is longer than the 107 bytes that a socket's path may have", "choose a shorter path")
	}
}

func (c *Config) checkPortal(m *Mistakes) {
	p := &c.Portal
	if (p.Cert == "") != (p.Key == "") {
		m.add("portal.cert", 0, "and portal.key go together", "give both, or neither for trying out")
	}
	if p.Listen != "" || p.Identity.On() || c.Mail.SMTP != "" {
		c.checkPortalURL(m)
	}
	checkRate("portal.", p.Rate, p.Burst, m)
	proxies, err := peer.ParseProxies(p.TrustedProxies)
	switch {
	case err != nil:
		m.add("portal.trusted_proxies", 0, "has something that is no network: "+err.Error(), "give networks such as 192.0.2.0/24, or addresses")
	case slices.ContainsFunc(proxies, func(n netip.Prefix) bool { return n.Bits() == 0 }):
		m.add("portal.trusted_proxies", 0, "believes everybody: each request could name another address, and none would be bounded", "give the addresses of your own proxies")
	}
	if p.Listen == "" {
		return
	}
	switch https := strings.HasPrefix(p.URL, "https:"); {
	case https && p.Cert == "":
		m.add("portal.cert", 0, "and portal.key are missing: people see their history over TLS alone", "give the portal's certificate and key")
	case !https && p.Cert != "":
		m.add("portal.url", 0, "says http, and there is a certificate", "use https://")
	}
	if p.Log != "" {
		if u, err := url.Parse(p.Log); err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
			m.add("portal.log", 0, "is not a URL", "give https://host/path of the public log, or leave it out")
		}
	}
	for _, x := range []struct{ key, value, what string }{
		{"portal.operator.name", p.Operator.Name, "the name of the body that runs the portal"}, {"portal.operator.email", p.Operator.Email, "an address that people can write to"},
	} {
		if x.value == "" {
			m.add(x.key, 0, "is missing", "give "+x.what+": the legal notice and the accessibility statement say it")
		}
	}
	for _, x := range []struct{ key, value string }{{"portal.operator.email", p.Operator.Email}, {"portal.operator.officer", p.Operator.Officer}} {
		if _, err := mail.ParseAddress(x.value); x.value != "" && err != nil {
			m.add(x.key, 0, "is not an e-mail address", "write for example contact@example.fr")
		}
	}
	if c.Production && (p.Operator.Address == "" || p.Operator.Host == "" || p.Operator.Officer == "") {
		m.add("portal.operator.address", 0, "and portal.operator.host and portal.operator.officer are needed in production", "the legal notice has to name them (loi n° 2004-575, article 1-1; GDPR, article 13)")
	}
}

// loopback is strict: a name other than localhost could resolve to anything later.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

func (c *Config) checkKeys(m *Mistakes) {
	ks, v := &c.Keys.Keystore, &c.Keys.Vault
	switch c.Keys.Mode {
	case Keystore:
		if c.Production && ks.InProduction != IKnow {
			m.add("keys.mode", 0, "is keystore in production: whoever reads the disk reads everything", "use vault; if there is none, and you accept that, set keys.keystore.in_production: "+IKnow)
		}
		if ks.InProduction != "" && ks.InProduction != IKnow {
			m.add("keys.keystore.in_production", 0, "does not say what it has to", "write "+IKnow+", or remove it")
		}
		if (ks.PassphraseFile == "") == (ks.KeyFile == "") {
			m.add("keys.keystore.passphrase_file", 0, "or keys.keystore.key_file is needed, and only one of them", "name the file that opens the keystore")
		}
	case Vault:
		u, err := url.Parse(v.Address)
		switch {
		case v.Address == "":
			m.add("keys.vault.address", 0, "is missing", "give Vault's URL, https://…")
		case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || (u.Scheme != "https" && u.Scheme != "http"):
			m.add("keys.vault.address", 0, "is not a URL", "give https://host:port")
		case u.Scheme == "http" && (c.Production || !loopback(u.Hostname())):
			m.add("keys.vault.address", 0, "has no TLS", "use https://")
		}
		c.checkVaultLogin(m)
		if (v.Cert == "") != (v.Key == "") {
			m.add("keys.vault.cert", 0, "and keys.vault.key go together", "give both, or neither")
		}
	default:
		m.add("keys.mode", 0, "is unknown", "use keystore or vault")
	}
}

func (c *Config) checkVaultLogin(m *Mistakes) {
	v := &c.Keys.Vault
	approle := v.RoleIDFile != "" || v.SecretIDFile != "" || v.SecretIDWrapped
	kubernetes := v.Role != "" || v.TokenFile != ""
	switch v.Auth {
	case AppRole:
		if v.RoleIDFile == "" || v.SecretIDFile == "" {
			m.add("keys.vault.role_id_file", 0, "and keys.vault.secret_id_file are both needed", "regard vault init writes them")
		}
		if kubernetes {
			m.add("keys.vault.role", 0, "and keys.vault.token_file are for logins by Kubernetes", "set keys.vault.auth: kubernetes, or remove them")
		}
	case Kubernetes:
		if v.Role == "" || v.TokenFile == "" {
			m.add("keys.vault.role", 0, "and keys.vault.token_file are both needed", "give Vault's role, regard-sequencer as regard vault init makes it, and the file of the projected token")
		}
		if approle {
			m.add("keys.vault.role_id_file", 0, "and keys.vault.secret_id_file are for logins by AppRole", "set keys.vault.auth: approle, or remove them")
		}
	default:
		m.add("keys.vault.auth", 0, "is unknown", "use approle or kubernetes")
	}
}

func (c *Config) checkProviders(m *Mistakes) {
	p := &c.Providers
	if (p.Cert == "") != (p.Key == "") {
		m.add("providers.cert", 0, "and providers.key go together", "give both, or neither")
	}
	if c.Production && p.Cert == "" {
		m.add("providers.cert", 0, "is missing: in production, providers answer nobody but the broker", "give the broker's client certificate and key")
	}
	if p.Proxy != "" {
		if u, err := url.Parse(p.Proxy); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			m.add("providers.proxy", 0, "is not a URL", "give http://host:port")
		}
	}
	if d := p.ConnectTimeout.Std(); d < 100*time.Millisecond || d > 30*time.Second {
		m.add("providers.connect_timeout", 0, "is out of range", "choose from 100ms to 30s")
	}
	if p.Connections < 1 || p.Connections > 1e5 {
		m.add("providers.connections", 0, "is out of range", "choose from 1 to 100000")
	}
	if d := c.Records.Retention.Std(); d < 24*time.Hour || d > 50*365*24*time.Hour {
		m.add("records.retention", 0, "is out of range", "choose from 24h to 438000h; 26280h is 3 years")
	}
}

// checkMail: what is wrong with it must not show first when somebody is to be told something.
func (c *Config) checkMail(m *Mistakes) {
	if d := c.Records.CoolOff.Std(); d < time.Second || d > 366*24*time.Hour || c.Production && d < 24*time.Hour {
		m.add("records.cool_off", 0, "is out of range", "choose from 24h (1s unless production) to 8784h; 720h is 30 days")
	}
	x := &c.Mail
	if x.SMTP == "" {
		if x.From != "" || x.Username != "" || x.PasswordFile != "" || x.CAFile != "" {
			m.add("mail.smtp", 0, "is missing, though mail has other keys", "name the mail server, host:port, or remove the section")
		}
		return
	}
	host, port, err := net.SplitHostPort(x.SMTP)
	if err != nil || host == "" || port == "" {
		m.add("mail.smtp", 0, "is not host:port", "write for example smtp.example.fr:587")
	}
	switch mail.TLSMode(x.TLS) {
	case mail.StartTLS, mail.Implicit:
	case mail.Plain:
		if !mail.Loopback(host) {
			m.add("mail.tls", 0, "is none for another machine", "use starttls or implicit")
		}
		if x.Username != "" {
			m.add("mail.username", 0, "would go over a connection without TLS", "use starttls or implicit, or remove it")
		}
	default:
		m.add("mail.tls", 0, "is unknown", "use starttls, implicit (port 465), or none for a server on this machine")
	}
	if _, err := mail.ParseAddress(x.From); err != nil {
		m.add("mail.from", 0, "is not an address", "give the sender, for example ne-pas-repondre@regard.example.fr")
	}
	if (x.Username == "") != (x.PasswordFile == "") {
		m.add("mail.username", 0, "and mail.password_file go together", "give both, or neither")
	}
}

// checkPortalURL checks where the provider sends people back to and mails lead, and under which browsers keep a session.
func (c *Config) checkPortalURL(m *Mistakes) {
	u, err := url.Parse(c.Portal.URL)
	switch {
	case c.Portal.URL == "":
		m.add("portal.url", 0, "is missing", "give the address by which people reach the portal, for example https://portail.example.fr")
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" || u.Scheme != "https" && u.Scheme != "http":
		m.add("portal.url", 0, "is not scheme and host alone", "write for example https://portail.example.fr")
	case u.Scheme == "http" && (c.Production || !loopback(u.Hostname())):
		m.add("portal.url", 0, "has no TLS: browsers keep no session then", "use https://")
	}
}

// checkRate checks the rate and the burst of a section.
func checkRate(section string, perSecond float64, burst int, m *Mistakes) {
	if !(perSecond >= 0.01 && perSecond <= 1e6) { // NaN too
		m.add(section+"rate", 0, "is out of range", "choose from 0.01 to 1000000 a second")
	}
	if burst < 1 || burst > 1e6 {
		m.add(section+"burst", 0, "is out of range", "choose from 1 to 1000000")
	}
}

func (c *Config) checkWitnesses(m *Mistakes) {
	w := &c.Witnesses
	if w.Faulty < 0 || w.Faulty > 100 {
		m.add("witnesses.faulty", 0, "is out of range", "choose from 0 to 100; 1 is usual")
	}
	// The log takes no more entries when publication is behind by 10 seconds.
	if d := w.Deadline.Std(); d < 50*time.Millisecond || d > 5*time.Second {
		m.add("witnesses.deadline", 0, "is out of range", "choose from 50ms to 5s")
	}
	if d := w.Timeout.Std(); d < 100*time.Millisecond || d > 10*time.Second {
		m.add("witnesses.timeout", 0, "is out of range", "choose from 100ms to 10s")
	}
	// With the longest call of a provider, a minute, it has to end before the answer's own time does.
	if d := w.Wait.Std(); d < time.Second || d > 12*time.Second {
		m.add("witnesses.wait", 0, "is out of range", "choose from 1s to 12s")
	}
	if w.Policy == "" && w.CAFile != "" {
		m.add("witnesses.ca_file", 0, "is given without witnesses.policy", "name the file with the witnesses, or remove it")
	}
}

func (c *Config) checkLimits(m *Mistakes) {
	l := &c.Limits
	if !(l.Rate > 0 && l.Rate <= 1e6) { // NaN too
		m.add("limits.rate", 0, "is out of range", "choose more than 0 requests a second, at most 1000000")
	}
	if l.Burst < 1 || l.Burst > 1e6 {
		m.add("limits.burst", 0, "is out of range", "choose from 1 to 1000000")
	}
	if l.InFlight < 1 || l.InFlight > 1e5 {
		m.add("limits.in_flight", 0, "is out of range", "choose from 1 to 100000")
	}
	if l.Connections < 1 || l.Connections > 1e6 {
		m.add("limits.connections", 0, "is out of range", "choose from 1 to 1000000")
	}
	if l.Body < 1<<10 || l.Body > 1<<20 {
		m.add("limits.body", 0, "is out of range", "choose from 1KiB to 1MiB")
	}
	if d := l.Drain.Std(); d < time.Second || d > 5*time.Minute {
		m.add("limits.drain", 0, "is out of range", "choose from 1s to 5m")
	}
	if d := l.Linger.Std(); d < 0 || d > 5*time.Minute {
		m.add("limits.linger", 0, "is out of range", "choose from 0s to 5m")
	}
	if d := l.ReadTimeout.Std(); d < time.Second || d > time.Minute {
		m.add("limits.read_timeout", 0, "is out of range", "choose from 1s to 1m")
	}
}

func checkFile(p namedPath, base string, m *Mistakes) {
	key, secret := p.key, p.secret
	info, err := os.Stat(*p.at)
	others := fs.FileMode(0o027)
	if strings.HasPrefix(key, "keys.keystore.") || key == "keys.vault.secret_id_file" {
		others = 0o077 // what opens the root keys is for no group: keys/keystore and keys/vault refuse it
	}
	switch {
	case err != nil:
		m.add(key, 0, "can't be read ("+reason(err)+tried(p, base)+")", "create it, or correct the path")
	case secret && !info.Mode().IsRegular():
		m.add(key, 0, "is not a file", "name a file")
	case secret && info.Mode().Perm()&others != 0:
		m.add(key, 0, fmt.Sprintf("can be read by others (mode %04o)", info.Mode().Perm()), "chmod 600 it")
	case secret && !ownedBySafe(info):
		m.add(key, 0, "belongs to another user", "chown it to the user who runs the broker")
	}
}

// tried says which file it was. Where a path to a secret belongs, the secret itself may stand by mistake: then only from where paths are meant.
func tried(p namedPath, base string) string {
	switch {
	case !p.secret && p.key != "keys.vault.role_id_file" && p.key != "keys.vault.token_file":
		return ": " + *p.at
	case base != "":
		return "; relative paths are meant from " + base
	}
	return ""
}

func reason(err error) string {
	switch {
	case os.IsNotExist(err):
		return "there is no such file"
	case os.IsPermission(err):
		return "permission denied"
	}
	return "no access"
}

func ownedBySafe(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Uid == 0 || int(st.Uid) == os.Geteuid()
}

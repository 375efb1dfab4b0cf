package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// dir makes a directory with the files that a good configuration names.
func dir(t *testing.T) string {
	t.Helper()
	d := t.TempDir()
	for _, f := range []string{"tls.pem", "tls.key", "passphrase", "role", "secret"} {
		if err := os.WriteFile(filepath.Join(d, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, dsn := range map[string]string{"store.url": "host=/run/postgresql dbname=store user=regard_broker", "keeper.url": "host=db.example sslmode=verify-full", "signed.url": "postgres://regard_signer@127.0.0.1/signed",
		"clear.url": "host=db.example dbname=s3cret", "wrong.url": "s3cret", "password.url": "host=/run/postgresql password=s3cret"} {
		if err := os.WriteFile(filepath.Join(d, name), []byte(dsn+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

const good = `# comment
data_dir: data
origin: regard.example.fr/test
api:
  listen: 127.0.0.1:0
  cert: tls.pem
  key: tls.key
keys:
  keystore:
    passphrase_file: passphrase
providers:
  proxy: http://proxy:3128
limits:
  body: 32KiB
  rate: 2.5
`

func load(t *testing.T, d, text string, env, set []string) (*Config, error) {
	t.Helper()
	file := filepath.Join(d, "regard.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Source{File: file, Environ: env, Set: set})
}

func TestLoad(t *testing.T) {
	d := dir(t)
	c, err := load(t, d, good, []string{"PATH=/bin", "REGARD_EPOCH_LENGTH=1h", "REGARD_LIMITS_BURST=7", "REGARD_CASES=x"}, []string{"limits.burst=9", "log.level=debug"})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name      string
		got, want any
	}{
		{"relative path", c.DataDir, filepath.Join(d, "data")},
		{"secret path", c.Keys.Keystore.PassphraseFile, filepath.Join(d, "passphrase")},
		{"derived path", c.Admin.Socket, filepath.Join(d, "data", "admin.sock")},
		{"default", c.Ops.Listen, "127.0.0.1:9090"},
		{"environment over default", c.Epoch.Length.Std(), time.Hour},
		{"flag over environment", c.Limits.Burst, 9},
		{"file over default", c.Limits.Body, Size(32 << 10)},
		{"float", c.Limits.Rate, 2.5},
		{"flag over default", c.Log.Level, "debug"},
		{"default number", c.Providers.Connections, 256},
	} {
		if x.got != x.want {
			t.Errorf("%s: got %v, want %v", x.name, x.got, x.want)
		}
	}
}

// Every mistake is reported, all at once, each with its place.
func TestMistakes(t *testing.T) {
	d := dir(t)
	if err := os.WriteFile(filepath.Join(d, "open"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(d, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := load(t, d, `origin: has space
datadir: x
api:
  listen: 0.0.0.0:8443
  cert: nowhere.pem
  key: open
  lisen: x
epoch: 24h
keys:
  mode: hsm
limits:
  burst: many
  body: 64KB
  rate: NaN
limits:
  in_flight: 0
log: {level: loud, level: info}
providers:
  proxy: "ftp://y"
  connect_timeout: 1h
witnesses: {ca_file: nowhere.pem, faulty: -1, deadline: 1m, timeout: 1ms, wait: 1m}
`, []string{"REGARD_API_LISTENN=x"}, []string{"nokey=1", "noval"})
	var m *Mistakes
	if !errors.As(err, &m) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"regard.yaml:1: origin ", "regard.yaml:2: datadir is not a known key", "data_dir is missing",
		":4: api.listen is reachable", ":5: api.cert can't be read", ":6: api.key can be read by others (mode 0644)",
		":7: api.lisen is not a known key", ":8: epoch is a section", ":10: keys.mode is unknown",
		":12: limits.burst has to be a whole number", ":13: limits.body has to be a size", ":14: limits.rate is out of range",
		":15: limits stands there twice", ":17: log.level stands there twice", "log.level is unknown",
		"providers.proxy is not a URL", "providers.connect_timeout is out of range",
		"witnesses.ca_file can't be read", "witnesses.ca_file is given without witnesses.policy", "witnesses.faulty is out of range", "witnesses.deadline is out of range", "witnesses.timeout is out of range", "witnesses.wait is out of range",
		"REGARD_API_LISTENN is not a known variable", "--set nokey is not a known key", "--set noval has no value",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

// What opens the root keys is refused by keys/keystore and keys/vault if a group may read it; any other secret may be its group's.
func TestSecretsOfAGroup(t *testing.T) {
	d := dir(t)
	for file, refused := range map[string]bool{"tls.key": false, "passphrase": true} {
		if err := os.Chmod(filepath.Join(d, file), 0o640); err != nil { // #nosec G302 -- that is what is tested
			t.Fatal(err)
		}
		if _, err := load(t, d, good, nil, nil); (err != nil) != refused || refused && !strings.Contains(err.Error(), "keys.keystore.passphrase_file can be read by others (mode 0640)") {
			t.Errorf("%s: %v", file, err)
		}
		if err := os.Chmod(filepath.Join(d, file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProduction(t *testing.T) {
	d := dir(t)
	_, err := load(t, d, "production: true\n"+good, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "keystore in production") {
		t.Errorf("keystore in production: got %v", err)
	}
	vault := `production: true
data_dir: data
origin: o
api: {listen: "0.0.0.0:8443", cert: tls.pem, key: tls.key}
providers: {cert: tls.pem, key: tls.key}
keys:
  mode: vault
  vault: {address: "%s", role_id_file: role, secret_id_file: secret}
`
	if _, err := load(t, d, fmt.Sprintf(vault, "https://vault:8200"), nil, nil); err == nil || !strings.Contains(err.Error(), "signed_dir is in data_dir, and no mirrors are named") {
		t.Errorf("nothing outside the data directory knows where the log stands: got %v", err)
	}
	vault += "signed_dir: /elsewhere\n"
	if _, err := load(t, d, fmt.Sprintf(vault, "https://vault:8200"), nil, nil); err != nil {
		t.Errorf("Vault in production: %v", err)
	}
	if _, err := load(t, d, fmt.Sprintf(vault, "http://127.0.0.1:8200"), nil, nil); err == nil || !strings.Contains(err.Error(), "has no TLS") {
		t.Errorf("Vault without TLS in production: got %v", err)
	}
}

// A list is a list in the file, and separated by commas elsewhere.
func TestMirrors(t *testing.T) {
	d := dir(t)
	c, err := load(t, d, good+"mirrors: [\"https://a.example/log\", copies/checkpoint]\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"https://a.example/log", filepath.Join(d, "copies", "checkpoint")}; !slices.Equal(c.Mirrors, want) {
		t.Errorf("got %q, want %q", c.Mirrors, want)
	}
	if want := filepath.Join(d, "data", "signed"); c.SignedDir != want {
		t.Errorf("signed_dir is %q, want %q", c.SignedDir, want)
	}
	c, err = load(t, d, good+"signed_dir: other\n", []string{"REGARD_MIRRORS=/a"}, []string{"mirrors=http://127.0.0.1:1,/b"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"http://127.0.0.1:1", "/b"}; !slices.Equal(c.Mirrors, want) || c.SignedDir != filepath.Join(d, "other") {
		t.Errorf("got %q and %s", c.Mirrors, c.SignedDir)
	}
	for text, want := range map[string]string{
		"mirrors: https://a.example\n":      "mirrors has to be a list: write mirrors: [one, another]",
		"mirrors: {a: b}\n":                 "mirrors has to be a list",
		"mirrors: [[a]]\n":                  "an element that is not one value",
		"mirrors: [\"\"]\n":                 "an empty element",
		"mirrors: [\"http://a.example\"]\n": "without TLS",
		"mirrors: [\"ftp://a.example\"]\n":  "no URL",
		"origins: [a]\n":                    "is not a known key",
	} {
		if _, err := load(t, d, good+text, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	// The flags of one start are no keys: they once were listed as "-".
	if _, err := load(t, d, good+"nonsense: 1\n", nil, nil); err == nil || strings.Contains(err.Error(), "known here: -") {
		t.Errorf("got %v", err)
	}
	if _, err := load(t, d, good+"\"-\": true\n", nil, nil); err == nil || !strings.Contains(err.Error(), "- is not a known key") {
		t.Errorf("got %v", err)
	}
}

// A mistake of a flag or of the environment is blamed on it, not on the line of the file that it overrides; and of what has not the form of its type, no range is checked.
func TestSourceOfMistake(t *testing.T) {
	d := dir(t)
	_, err := load(t, d, good+"  burst: 0\n  in_flight: 0\n", []string{"REGARD_LIMITS_BURST=many", "REGARD_LIMITS_RATE=1", "REGARD_API_CERT=nowhere.pem"}, []string{"limits.rate=abc", "limits.body=2MiB"})
	file := filepath.Join(d, "regard.yaml")
	want := `the configuration has 5 mistakes:
  REGARD_API_CERT can't be read (there is no such file: ` + filepath.Join(d, "nowhere.pem") + `): create it, or correct the path
  --set limits.body is out of range: choose from 1KiB to 1MiB
  REGARD_LIMITS_BURST has to be a whole number: correct the value
  --set limits.rate has to be a number: correct the value
  ` + file + `:17: limits.in_flight is out of range: choose from 1 to 100000`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	// In the file itself the second mistake was false, too.
	if _, err := load(t, d, good+"epoch: {length: x}\n", nil, nil); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("got %v", err)
	}
}

// A secret that was written where a path or a number belongs must not be repeated in the message, which says from where the path was tried.
func TestMistakesHoldNoValue(t *testing.T) {
	d := dir(t)
	const secret = "hunter2hunter2"
	_, err := load(t, d, strings.ReplaceAll(good, "passphrase_file: passphrase", "passphrase_file: "+secret)+"  burst: "+secret+"\nepoch: {length: "+secret+"}\nproduction: "+secret+"\n", nil, []string{"api.listen=" + secret})
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Fatalf("got %v", err)
	}
	if want := "keys.keystore.passphrase_file can't be read (there is no such file; relative paths are meant from " + d + ")"; !strings.Contains(err.Error(), want) {
		t.Errorf("no %q in:\n%v", want, err)
	}
	if n := strings.Count(err.Error(), "\n"); n < 4 {
		t.Errorf("%d mistakes in %v", n, err)
	}
}

func FuzzFile(f *testing.F) {
	f.Add(good)
	f.Add("a: {b: [c]}\n- d")
	f.Add("limits: &x {burst: 1}\nlog: *x")
	f.Fuzz(func(t *testing.T, text string) {
		m := &Mistakes{}
		values := parseFile([]byte(text), map[string]int{}, m)
		for key := range values {
			if !known[key] {
				t.Errorf("accepted %q", key)
			}
		}
	})
}

const signIn = `portal:
  url: https://portail.example.fr
  identity:
    issuer: https://app.franceconnect.gouv.fr/api/v2
    client_id: abc
    client_secret_file: secret
    acr: eidas2
    scopes: [identite_pivot, nir]
    idle: 10m
    claims: {nir: nir}
    agency: portail
    checks:
      ine: {service: statut-etudiant, purpose: espace, legal_basis: consentement, scopes: [identite], birth_name: /a, given_names: /b, birth_date: /c}
`

func TestIdentity(t *testing.T) {
	d := dir(t)
	c, err := load(t, d, good+signIn, []string{"REGARD_PORTAL_IDENTITY_CHECKS_INE_BIRTH_PLACE=/d"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := &c.Portal.Identity
	rule, ok := i.Rules()["ine"]
	if !i.On() || i.Rate != 2 || i.Burst != 60 || i.InFlight != 64 || i.Level != "eidas2" || !i.PKCE || i.Idle.Std() != 10*time.Minute || i.Absolute.Std() != 8*time.Hour || !ok || rule.BirthPlace != "/d" || i.ClaimsByType()["nir"] != "nir" || len(i.Rules()) != 1 {
		t.Errorf("%+v", i)
	}
	if secret, err := i.ClientSecret(); err != nil || secret != "x" {
		t.Errorf("%q, %v", secret, err)
	}
	c, err = load(t, d, good+"portal: {url: 'https://127.0.0.1:8444', identity: {client_id: a, client_secret_file: secret, simulator: {listen: '127.0.0.1:8090'}}}\n", nil, nil)
	if err != nil || c.Portal.Identity.Issuer != "http://127.0.0.1:8090/api/v2" {
		t.Errorf("with a simulator: %v", err)
	}
	if c, err = load(t, d, good, nil, nil); err != nil || c.Portal.Identity.On() {
		t.Errorf("without a portal: %v", err)
	}
	for change, want := range map[string]string{
		"issuer: https://app=>issuer: http://app":                         "portal.identity.issuer has no TLS",
		"issuer: https://app.franceconnect.gouv.fr/api/v2=>issuer: x":     "portal.identity.issuer is not a URL",
		"    issuer: https://app.franceconnect.gouv.fr/api/v2\n=>":        "portal.identity.issuer is missing",
		"url: https=>url: http":                                           "portal.url has no TLS",
		"example.fr=>example.fr/x":                                        "portal.url is not scheme and host alone",
		"  url: https://portail.example.fr\n=>":                           "portal.url is missing",
		"client_id: abc=>pkce: true":                                      "portal.identity.client_id and",
		"acr: eidas2=>acr: low":                                           "portal.identity.acr is unknown",
		"idle: 10m=>idle: 10h":                                            "portal.identity.idle is out of range",
		"idle: 10m=>absolute: 1m":                                         "portal.identity.absolute is out of range",
		"idle: 10m=>timeout: 1m":                                          "portal.identity.timeout is out of range",
		"idle: 10m=>rate: 0":                                              "portal.identity.rate is out of range",
		"idle: 10m=>rate: NaN":                                            "portal.identity.rate is out of range",
		"idle: 10m=>burst: 0":                                             "portal.identity.burst is out of range",
		"idle: 10m=>in_flight: 0":                                         "portal.identity.in_flight is out of range",
		"idle: 10m=>proxy: x":                                             "portal.identity.proxy is not a URL",
		"identite_pivot, nir=>'identite_pivot nir'":                       "portal.identity.scopes or a claim",
		"agency: portail=>pkce: false":                                    "portal.identity.agency is missing",
		"birth_name: /a, =>":                                              "portal.identity.checks.ine is no rule: birth_name",
		"service: statut-etudiant, =>":                                    "portal.identity.checks.ine is no rule: service",
		"claims: {nir: nir}=>simulator: {listen: '0.0.0.0:8090'}":         "portal.identity.simulator.listen is not host:port on this machine",
		"claims: {nir: nir}=>simulator: {listen: '127.0.0.1:0'}":          "portal.identity.simulator.listen is not host:port on this machine",
		"claims: {nir: nir}=>claims: {ssn: x}":                            "portal.identity.claims.ssn is not a known key",
		"client_secret_file: secret=>client_secret_file: nowhere":         "portal.identity.client_secret_file can't be read",
		"portal:=>production: true\nportal:":                              "",
		"claims: {nir: nir}=>simulator: {listen: '127.0.0.1:8090'} #PROD": "portal.identity.simulator.listen is a simulator in production",
	} {
		old, text, _ := strings.Cut(change, "=>")
		yaml := good + strings.Replace(signIn, old, text, 1)
		if strings.Contains(change, "#PROD") {
			yaml = "production: true\n" + yaml
		}
		_, err := load(t, d, yaml, nil, nil)
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", change, err, want)
		}
		if want == "" && strings.Contains(fmt.Sprint(err), "portal") {
			t.Errorf("%s: %v", change, err)
		}
	}
}

// The portal says who runs it, and shows nothing without TLS but on this machine.
func TestPortal(t *testing.T) {
	d := dir(t)
	portal := func(change ...string) string {
		p := `portal:
  listen: 127.0.0.1:8444
  url: https://portail.example.fr
  cert: tls.pem
  key: tls.key
  log: https://log.example.fr
  operator: {name: Agence, email: contact@example.fr, officer: dpo@example.fr}
`
		return good + strings.NewReplacer(change...).Replace(p)
	}
	if c, err := load(t, d, portal("  log:", "  trusted_proxies: [192.0.2.0/24, '2001:db8::7']\n  rate: 0.5\n  log:"), nil, []string{"portal.burst=7"}); err != nil || !slices.Equal(c.Portal.TrustedProxies, []string{"192.0.2.0/24", "2001:db8::7"}) || c.Portal.Rate != 0.5 || c.Portal.Burst != 7 {
		t.Errorf("limits: %v", err)
	}
	plain := []string{"https://portail.example.fr", "http://127.0.0.1:8444", "  cert: tls.pem\n  key: tls.key\n  log", "  log"}
	for name, text := range map[string]string{"with TLS": portal(), "on this machine": portal(plain...), "none": good} {
		if _, err := load(t, d, text, nil, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, text := range map[string]string{
		"portal.url is missing":                           portal("  url: https://portail.example.fr\n", ""),
		"portal.url is not scheme and host alone":         portal("portail.example.fr\n", "portail.example.fr/x\n"),
		"portal.url has no TLS":                           portal("https://portail.example.fr", "http://portail.example.fr"),
		"portal.url says http, and there is a certificat": portal("https://portail.example.fr", "http://127.0.0.1:8444"),
		"portal.cert and portal.key are missing":          portal("  cert: tls.pem\n  key: tls.key\n", ""),
		"portal.cert and portal.key go together":          portal("  key: tls.key\n", ""),
		"portal.listen is reachable from other":           portal("127.0.0.1:8444", "0.0.0.0:8444"),
		"portal.log is not a URL":                         portal("https://log.example.fr", "log.example.fr"),
		"portal.operator.name is missing":                 portal("name: Agence, ", ""),
		"portal.operator.email is not an e-mail":          portal("contact@example.fr", "contact"),
		"portal.operator.officer is not an e-mail":        portal("officer: dpo@example.fr", "officer: \"DPO <dpo@example.fr>\""),
		"portal.words can't be read":                      portal("  log:", "  words: nowhere.yaml\n  log:"),
		"portal.rate is out of range":                     portal("  log:", "  rate: 0\n  log:"),
		"portal.burst is out of range":                    portal("  log:", "  burst: -1\n  log:"),
		"portal.trusted_proxies has something that is no": portal("  log:", "  trusted_proxies: [192.0.2.7, proxy.example.fr]\n  log:"),
		"portal.trusted_proxies has to be a list":         portal("  log:", "  trusted_proxies: 192.0.2.7\n  log:"),
		"portal.trusted_proxies believes everybody":       portal("  log:", "  trusted_proxies: ['::/0']\n  log:"),
		"portal.operator.address and":                     "production: true\n" + portal(),
	} {
		if _, err := load(t, d, text, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// What can be configured can be found: the name of each key stands in the commented configuration that regard init writes, in the docs, or in the help of the signer.
func TestKeysAreTold(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, name := range append(files, "../command/regard.yaml.tmpl", "../command/signer.go") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range regexp.MustCompile(`[a-z_]+`).FindAllString(string(text), -1) {
			told[word] = true
		}
	}
	for key, leaf := range known {
		if leaf && !told[key[strings.LastIndexByte(key, '.')+1:]] {
			t.Errorf("nothing tells of %s", key)
		}
	}
}

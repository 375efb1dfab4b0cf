package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const production = `production: true
data_dir: data
origin: o
api: {listen: "0.0.0.0:8443", cert: tls.pem, key: tls.key}
providers: {cert: tls.pem, key: tls.key}
`

const vaultKeys = `keys: {mode: vault, vault: {address: "https://vault:8200", role_id_file: role, secret_id_file: secret}}
`

const cluster = production + vaultKeys + `public: {dir: /srv/log}
store: {postgres: {url_file: store.url, keeper_url_file: keeper.url}}
ledger:
  signed_url_file: signed.url
  trillian: {address: ["signer-0:8090", "unix:/run/regard/trillian.sock", "127.0.0.1:8090"], ca_file: tls.pem, cert: tls.pem, key: tls.key}
cluster: {name: broker-0}
`

// wrong lists, by name, what is replaced in a good configuration, and what has to be said of it.
type wrong map[string]struct{ old, new, says string }

func (w wrong) test(t *testing.T, d, good string) {
	t.Helper()
	if _, err := load(t, d, good, nil, nil); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for name, x := range w {
		text := strings.Replace(good, x.old, x.new, 1)
		if text == good {
			t.Errorf("%s: nothing was replaced", name)
		}
		if _, err := load(t, d, text, nil, nil); err == nil || !strings.Contains(err.Error(), x.says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want %q", name, err, x.says)
		}
	}
}

func TestCluster(t *testing.T) {
	d := dir(t)
	wrong{
		"no keeper":            {", keeper_url_file: keeper.url", "", "store.postgres.keeper_url_file is missing"},
		"no store":             {"url_file: store.url, ", "", "store.postgres.url_file is missing"},
		"one role for both":    {"keeper_url_file: keeper.url", "keeper_url_file: store.url", "could change what is recorded"},
		"one database for all": {"signed_url_file: signed.url", "signed_url_file: store.url", "is the store's"},
		"nothing signed":       {"  signed_url_file: signed.url\n", "", "could sign two histories"},
		"no name":              {"cluster: {name: broker-0}", "", "cluster.name is missing"},
		"a name with a space":  {"broker-0", `"a b"`, "cluster.name is no name"},
		"no Trillian":          {`address: ["signer-0:8090", "unix:/run/regard/trillian.sock", "127.0.0.1:8090"], `, "", "ledger.trillian.address is missing"},
		"no authority":         {"ca_file: tls.pem, cert", "cert", "ledger.trillian.ca_file or ledger.trillian.cert is missing"},
		"a key too few":        {", key: tls.key}\ncluster", "}\ncluster", "ledger.trillian.key go together"},
		"a relative socket":    {"unix:/run", "unix:run", "isn't an absolute path"},
		"no port":              {"signer-0:8090", "signer-0", "neither host:port nor unix:/path"},
		"no list":              {`["signer-0:8090", "unix:/run/regard/trillian.sock", "127.0.0.1:8090"]`, "signer-0:8090", "has to be a list"},
		"lingers for ever":     {"cluster: {", "limits: {linger: 6m}\ncluster: {", "limits.linger is out of range"},
		"no such file":         {"url_file: store.url", "url_file: none", "can't be read"},
		"the store in clear":   {"url_file: store.url", "url_file: clear.url", ":8: store.postgres.url_file leads to another machine, in clear"},
		"the keeper in clear":  {"keeper.url", "clear.url", "store.postgres.keeper_url_file leads to another machine, in clear"},
		"signed in clear":      {"signed.url", "clear.url", "ledger.signed_url_file leads to another machine, in clear"},
		"a password":           {"signed.url", "password.url", "ledger.signed_url_file names a file with a password"},
		"no address":           {"signed.url", "wrong.url", "ledger.signed_url_file names a file that can't be used"},
	}.test(t, d, cluster)
	if _, err := load(t, d, production+vaultKeys+"signed_dir: /e\ncluster: {name: x}\n", nil, nil); err == nil || !strings.Contains(err.Error(), "share nothing") {
		t.Errorf("a cluster of one: %v", err)
	}
	// Who reads the configuration of several brokers without being one of them has no name.
	file := filepath.Join(d, "shared.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(cluster, "cluster: {name: broker-0}\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(Source{File: file, Unnamed: true}); err != nil || c.Cluster.Name != "" {
		t.Errorf("without a name: %v", err)
	}
	c, err := load(t, d, cluster, []string{"REGARD_CLUSTER_NAME=broker-7", "REGARD_LEDGER_TRILLIAN_ADDRESS=a:1,b:2"}, nil)
	if err != nil || c.Cluster.Name != "broker-7" || strings.Join(c.Ledger.Trillian.Address, " ") != "a:1 b:2" || c.Public.Dir != "/srv/log" {
		t.Errorf("%v, %+v", err, c)
	}
	for linger, set := range map[string][]string{"5s": nil, "0s": {"REGARD_LIMITS_LINGER=0s"}, "1m0s": {"REGARD_LIMITS_LINGER=1m"}} {
		if c, err := load(t, d, cluster, set, nil); err != nil || c.Limits.Linger.String() != linger {
			t.Errorf("%v, %+v, want %s", err, c.Limits, linger)
		}
	}
	if c, err := load(t, d, good, nil, nil); err != nil || c.Limits.Linger != 0 {
		t.Errorf("a broker that is alone lingers: %v, %+v", err, c.Limits)
	}
	if c, err := load(t, d, good, nil, nil); err != nil || c.Public.Dir != filepath.Join(d, "data", "public") {
		t.Errorf("the published directory when none is named: %v, %+v", err, c)
	}
}

// A signer's configuration needs nothing of a broker's, and the two can share a file.
func TestSigner(t *testing.T) {
	d := dir(t)
	file := filepath.Join(d, "signer.yaml")
	signer := func(text string) (*Config, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Load(Source{File: file, Signer: true})
	}
	const good = "production: true\nsigner: {store_url_file: store.url, listen: \"0.0.0.0:8090\", ops: \"0.0.0.0:9091\", cert: tls.pem, key: tls.key, ca_file: tls.pem}\n"
	for _, text := range []string{good, cluster + strings.TrimPrefix(good, "production: true\n"), "signer: {store_url_file: store.url, listen: \"unix:/run/x\"}", "signer: {store_url_file: store.url}"} {
		if c, err := signer(text); err != nil || c.Signer.StoreURLFile != filepath.Join(d, "store.url") || c.Signer.KeepRoots != 1000 {
			t.Errorf("%s\n%v", text, err)
		}
	}
	if c, err := signer(strings.Replace(good, "{", "{tree: 6129484611666145821, keep_roots: 5, clients: [a.example, b.example], ", 1)); err != nil || c.Signer.Tree != 6129484611666145821 || c.Signer.KeepRoots != 5 || len(c.Signer.Clients) != 2 {
		t.Errorf("%v, %+v", err, c)
	}
	for says, text := range map[string]string{
		"signer.store_url_file is missing": "production: true\n",
		"signer.cert and signer.key go":    strings.Replace(good, ", key: tls.key", "", 1),
		"could add to the tree":            strings.Replace(good, ", ca_file: tls.pem", "", 1),
		"signer.listen is reachable":       strings.Replace(good, "production: true", "production: false", 1),
		"signer.ops is reachable":          strings.Replace(good, "production: true", "production: false", 1),
		"signer.listen is no socket":       strings.Replace(good, "0.0.0.0:8090", "unix:x", 1),
		"signer.listen is neither":         strings.Replace(good, "0.0.0.0:8090", "8090", 1),
		"signer.ops is not host:port":      strings.Replace(good, "0.0.0.0:9091", "9091", 1),
		"log.level is unknown":             good + "log: {level: x}\n",
		"signer.storeurl is not a known":   "signer: {storeurl: x}",
		"signer.store_url_file can't be":   "signer: {store_url_file: none}",
		"signer.store_url_file leads to":   strings.Replace(good, "store.url", "clear.url", 1),
		"signer.store_url_file names a":    strings.Replace(good, "store.url", "password.url", 1),
		"signer.tree is negative":          strings.Replace(good, "{", "{tree: -1, ", 1),
		"signer.tree has to be a whole":    strings.Replace(good, "{", "{tree: x, ", 1),
		"signer.keep_roots is out of":      strings.Replace(good, "{", "{keep_roots: 0, ", 1),
		"nobody is asked":                  strings.Replace(good, "0.0.0.0:8090", "unix:/run/x", 1),
		"signer.clients is given":          "signer: {store_url_file: store.url, clients: [x]}",
	} {
		if _, err := signer(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", says, err)
		}
	}
	if _, err := load(t, d, good, nil, nil); err == nil || !strings.Contains(err.Error(), "data_dir is missing") {
		t.Errorf("as a broker's: %v", err)
	}
}

func TestVaultLogin(t *testing.T) {
	d := dir(t)
	const approle, pod = "role_id_file: role, secret_id_file: secret", "auth: kubernetes, role: regard-sequencer, token_file: role"
	good := production + vaultKeys + "signed_dir: /elsewhere\n"
	c, err := load(t, d, strings.Replace(good, approle, pod+`, namespace: a/b, cert: tls.pem, key: tls.key`, 1), nil, nil)
	if err != nil || c.Keys.Vault.TokenFile != filepath.Join(d, "role") || c.Keys.Vault.Auth != Kubernetes {
		t.Errorf("%v, %+v", err, c)
	}
	wrong{
		"unknown":         {approle, "auth: ldap", "keys.vault.auth is unknown"},
		"no secret":       {", secret_id_file: secret", "", "keys.vault.secret_id_file are both needed"},
		"no token":        {approle, "auth: kubernetes, role: x", "keys.vault.token_file are both needed"},
		"no role":         {approle, "auth: kubernetes, token_file: role", "keys.vault.token_file are both needed"},
		"both":            {approle, pod + ", " + approle, "are for logins by AppRole"},
		"both, otherwise": {approle, "role: x, " + approle, "are for logins by Kubernetes"},
		"half a pair":     {approle, approle + ", cert: tls.pem", "keys.vault.key go together"},
		"no file":         {approle, "auth: kubernetes, role: x, token_file: none", "keys.vault.token_file can't be read"},
	}.test(t, d, good)
}

// The embedded keystore is refused in production, unless somebody wrote down what that means.
func TestKeystoreInProduction(t *testing.T) {
	d := dir(t)
	good := production + "signed_dir: /elsewhere\nkeys:\n  keystore: {passphrase_file: passphrase, in_production: " + IKnow + "}\n"
	wrong{
		"not said":  {", in_production: " + IKnow, "", "keystore in production"},
		"true":      {IKnow, "true", "does not say what it has to"},
		"half said": {IKnow, "whoever reads this disk", ":8: keys.keystore.in_production does not say"},
	}.test(t, d, good)
}

// A configuration for another machine is checked but for its files.
func TestNoFiles(t *testing.T) {
	d := t.TempDir()
	file := filepath.Join(d, "regard.yaml")
	if err := os.WriteFile(file, []byte(cluster), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Source{File: file}); err == nil || strings.Count(err.Error(), "there is no such file") < 9 {
		t.Errorf("with files: %v", err)
	}
	if _, err := Load(Source{File: file, NoFiles: true}); err != nil {
		t.Errorf("without: %v", err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(cluster, "origin: o\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Source{File: file, NoFiles: true}); err == nil || !strings.Contains(err.Error(), "origin is missing") {
		t.Errorf("without an origin: %v", err)
	}
}

package demo

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// epoch is short, so that receipts settle while one watches.
const epoch = 8 * time.Second

// prepare makes keys and configuration and starts brokers and providers.
func (d *demo) prepare() (err error) {
	d.began = time.Now()
	listen, err := d.address()
	if err != nil {
		return err
	}
	d.base = "https://" + listen
	if err := os.MkdirAll(d.path("requests"), 0o700); err != nil {
		return err
	}
	keysIn, err := d.stage.prepare()
	if err != nil {
		return err
	}
	if err := d.provide(listen); err != nil {
		return err
	}
	d.sayf("\n  The log's key, which everybody pins: %s\n  The root keys are in %s.", d.vkey, keysIn)
	return nil
}

// services makes the definitions of what the providers answer.
func (d *demo) services() error {
	if _, err := d.run(true, "regard", "keygen", "--name", "providers of invented people", "--host", "127.0.0.1", "--out", d.path("provider")); err != nil {
		return err
	}
	_, err := d.run(true, "regard-provider", "services", "--base", d.base, "--out", d.path("services"), "--client-cert", d.path("provider.pem"))
	return err
}

// provide starts the providers behind their guard: they answer only what the broker announces with a signed intent, and check that the log shows it.
func (d *demo) provide(listen string) error {
	args := []string{"--base", d.base, "--listen", listen, "--cert", d.path("provider.pem"), "--key", d.path("provider.key"),
		"--broker-cert", d.path("secrets", "broker.pem"), "--access-log", d.path("provider-access.jsonl"),
		"--guard", d.path("held", "providers"), "--broker-url", "https://" + d.api, "--broker-ca", d.path("secrets", "server.pem"), "--policy", d.path("log.policy")}
	d.sayf("  $ %s &", d.shown("regard-provider", args))
	p, err := d.start("providers", filepath.Join(d.cfg.Bin, "regard-provider"), args...)
	if err != nil {
		return err
	}
	return d.wait("the providers", 20*time.Second, p, func() bool { return listening(listen) })
}

// ready waits until a broker that was just started takes requests.
func (d *demo) ready(p *process, ops string) error {
	return d.wait(p.name, 60*time.Second, p, func() bool { return ready(ops) })
}

// ready asks a broker whether it takes requests.
func ready(ops string) bool {
	c := http.Client{Timeout: time.Second}
	res, err := c.Get("http://" + ops + "/readyz")
	if err != nil {
		return false
	}
	return res.Body.Close() == nil && res.StatusCode == http.StatusOK
}

// vault starts a real Vault server for development and prepares it with the program's own command. It returns Vault's address.
func (d *demo) vault() (address string, err error) {
	ready := d.path("vault-ready.json")
	program, err := filepath.Abs(d.cfg.Vault)
	if err != nil {
		return "", err
	}
	d.sayf("  $ devvault -listen 127.0.0.1:0 -storage vault -ready-file vault-ready.json &")
	p, err := d.start("vault", program, "-listen", "127.0.0.1:0", "-storage", d.path("vault"), "-ready-file", ready)
	if err != nil {
		return "", err
	}
	var text []byte
	if err := d.wait("Vault", 60*time.Second, p, func() bool { text, err = os.ReadFile(ready); return err == nil }); err != nil {
		return "", err
	}
	info, err := readJSON[struct {
		Address   string `json:"address"`
		RootToken string `json:"root_token"`
	}](text)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(d.path("secrets", "vault-token"), []byte(info.RootToken), 0o600); err != nil {
		return "", err
	}
	if _, err := d.run(true, "regard", "vault", "init", "--address", info.Address, "--token-file", d.path("secrets", "vault-token"), "--out", d.path("secrets"), "--role", "sequencer", "--unwrap"); err != nil {
		return "", err
	}
	if err := os.Remove(d.path("secrets", "vault-token")); err != nil {
		return "", err
	}
	return info.Address, nil
}

// agencies of the demonstration; all invented, with SIRETs of a series that isn't issued.
var agencies = []struct{ id, name, siret string }{
	{"mairie-exempleville", "Mairie d'Exempleville (inventée)", "90000101700012"},
	{"crous-exemple", "Crous d'Exemple (inventé)", "90000102500015"},
	{"prefecture-exemple", "Préfecture d'Exemple (inventée)", "90000103300019"},
	{"brigade-exemple", "Brigade d'enquête d'Exemple (inventée)", "90000104100012"},
}

// agreements say which agency may ask what, for which purpose.
var agreements = []struct {
	id, agency, service, scopes, purpose, basis string
	more                                        []string // flags
}{
	{"cantine-2026", "mairie-exempleville", "quotient-familial", "quotient,enfants", "tarif-cantine", "crpa-l114-8", nil},
	{"bourses-2026", "crous-exemple", "statut-etudiant", "admissions", "bourse", "code-education-l821-1", nil},
	{"echelon-2026", "mairie-exempleville", "etudiant-boursier", "statut,echelon", "aide-etudiants", "crpa-l114-8", nil},
	{"marches-2026", "prefecture-exemple", "attestation-fiscale", "dates,document", "marche-public", "crpa-l114-8", nil},
	{"annuaire-2026", "prefecture-exemple", "unites-legales", "identite,etat", "marche-public", "crpa-l114-8", nil},
	{"rattachement-2026", portalAgency, "statut-demandeur-emploi", "identite", "espace-personnel", "consentement", nil},
	{"enquete-2026", "brigade-exemple", "quotient-familial", "quotient", "enquete", "cpp-60-1",
		[]string{"--deferral-authority", "Tribunal judiciaire d'Exempleville (inventé)", "--deferral-article", "CPP art. 60-1", "--deferral-reference", "2026/118", "--deferral-days", "90"}},
}

// govern registers agencies and agreements: commands to the running broker, each an entry of the log.
func (d *demo) govern() error {
	d.sayf("\n2. Agencies and an auditor make their keys; the operator registers them, and the agreements. Each of these is an entry of the public log.\n")
	config := []string{"--config", d.stage.config()}
	for i, a := range agencies {
		if _, err := d.run(i == 0, "regard", "keygen", "--name", a.name, "--out", d.path(a.id)); err != nil {
			return err
		}
		if _, err := d.run(i == 0, "regard", append([]string{"agency", "add", a.id, "--name", a.name, "--siret", a.siret, "--cert", d.path(a.id + ".pem")}, config...)...); err != nil {
			return err
		}
	}
	// The portal asks, too: whether an identifier is somebody's who says so. Its broker asks for it, so its key stays unused.
	if _, err := d.run(false, "regard", "keygen", "--name", "Portail d'Exemple (inventé)", "--out", d.path(portalAgency)); err != nil {
		return err
	}
	if _, err := d.run(false, "regard", append([]string{"agency", "add", portalAgency, "--name", "Portail d'Exemple (inventé)", "--siret", "90000106600019", "--cert", d.path(portalAgency + ".pem")}, config...)...); err != nil {
		return err
	}
	from, to := time.Now().AddDate(0, 0, -1).Format(time.DateOnly), time.Now().AddDate(1, 0, 0).Format(time.DateOnly)
	for i, a := range agreements {
		args := []string{"agreement", "add", a.id, "--agency", a.agency, "--service", a.service}
		for _, s := range strings.Split(a.scopes, ",") {
			args = append(args, "--scope", s)
		}
		args = append(args, "--purpose", a.purpose, "--legal-basis", a.basis, "--not-before", from, "--not-after", to)
		args = append(args, a.more...)
		if _, err := d.run(i == 0 || len(a.more) > 0, "regard", append(args, config...)...); err != nil {
			return err
		}
	}
	d.sayf("  … and %d more agencies and %d more agreements in the same way.", len(agencies), len(agreements)-2)
	return d.accredit()
}

func listening(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

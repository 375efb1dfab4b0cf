package demo

import (
	"path/filepath"
)

// stage is on what the story is played.
type stage interface {
	// prepare makes configuration and keys and starts everything but the providers. It says where the root keys are.
	prepare() (keysIn string, err error)
	// config is the configuration of a broker that takes the operator's commands.
	config() string
	// leading is that of the one that leads, who alone takes some of them.
	leading() (string, error)
	// publicDir holds the published log.
	publicDir() string
	// crash says what kill and recover are about to do; after recover requests are answered again, after rejoin everything is as it was before.
	crash() string
	kill() error
	recover() error
	rejoin() error
	// summary is what there is to say of the crash in the end, when nothing was found missing.
	summary() string
	// close ends what isn't a process of the demonstration.
	close() error
}

// alone is one broker that keeps everything in its data directory.
type alone struct {
	*demo
	ops    string
	args   []string
	broker *process
}

func (a *alone) prepare() (keysIn string, err error) {
	var portal string
	for _, to := range []*string{&a.api, &a.public, &a.ops, &portal} {
		if *to, err = a.address(); err != nil {
			return "", err
		}
	}
	a.sayf("1. The operator sets up a broker, and connects it to providers of invented people.\n")
	if _, err := a.run(true, "regard", "init", "--dir", a.dir, "--origin", origin, "--epoch", epoch.String(), "--api", a.api, "--public", a.public, "--ops", a.ops); err != nil {
		return "", err
	}
	if err := a.services(); err != nil {
		return "", err
	}
	a.args = []string{"serve", "--config", a.config(), "--set", "providers.ca_file=" + a.path("provider.pem")}
	keysIn = "an embedded keystore"
	if a.cfg.Vault != "" {
		address, err := a.vault()
		if err != nil {
			return "", err
		}
		a.set("keys.mode=vault", "keys.vault.address="+address,
			"keys.vault.role_id_file="+a.path("secrets", "sequencer.role_id"), "keys.vault.secret_id_file="+a.path("secrets", "sequencer.secret_id"))
		keysIn = "Vault"
	}
	if err := a.witnesses(a.args[1:]); err != nil {
		return "", err
	}
	a.set("witnesses.policy=" + a.path("witnesses.policy"))
	a.sayf("  $ %s &", a.shown("regard", a.args))
	settings, err := a.openPortal(portal)
	if err != nil {
		return "", err
	}
	a.set(append(settings, "portal.listen="+portal, "portal.identity.simulator.listen="+a.simulator)...)
	a.sayf("  … with a portal for people, and a simulator of FranceConnect (docs/operate.md, The portal).")
	return keysIn, a.recover()
}

func (a *alone) set(settings ...string) {
	for _, kv := range settings {
		a.args = append(a.args, "--set", kv)
	}
}

func (a *alone) config() string           { return a.path("regard.yaml") }
func (a *alone) leading() (string, error) { return a.config(), nil }
func (a *alone) publicDir() string        { return a.path("data", "public") }

func (a *alone) crash() string {
	return "The broker is killed (kill -9) while requests are running, and started again."
}

func (a *alone) kill() error { return a.broker.kill() }

func (a *alone) recover() (err error) {
	if a.broker, err = a.start("broker", filepath.Join(a.cfg.Bin, "regard"), a.args...); err != nil {
		return err
	}
	return a.ready(a.broker, a.ops)
}

func (a *alone) rejoin() error   { return nil }
func (a *alone) summary() string { return "" }
func (a *alone) close() error    { return nil }

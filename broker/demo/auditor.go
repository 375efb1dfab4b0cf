package demo

import (
	"fmt"
	"os"
	"strconv"

	"github.com/regard-broker/regard/ledger/proof"
)

const auditor = "cour-exemple"

// watch has anybody check and follow the whole log, and an accredited auditor cosign an epoch's index, open records and run their decisions again.
func (d *demo) watch() error {
	d.sayf("\n9. Anybody checks the whole log, and follows it.\n")
	log := "http://" + d.public
	for _, args := range [][]string{
		{"fsck", log, "--policy", d.path("log.policy")},
		{"monitor", log, "--policy", d.path("log.policy"), "--state", d.path("monitor"), "--once", "--receipt", d.rows[0].result.Receipt},
	} {
		out, err := d.run(true, "regard-audit", args...)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		d.sayf("%s\n", indent(string(out)))
	}
	d.sayf("   The auditor sees more: all rolls of an epoch, without names, and the records it asks for, without the person's part. Each person reads who looked, and why.\n")
	epoch, err := epochOf(d.rows[0].result.Receipt)
	if err != nil {
		return err
	}
	pinned := []string{"--log", log, "--policy", d.path("log.policy")}
	known := d.known()
	args := append(append([]string{"audit-index", "--epoch", strconv.FormatUint(uint64(epoch), 10), "--sign-key", d.path(auditor + ".skey")}, pinned...), known...)
	out, err := d.run(true, "regard-audit", args...)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	d.sayf("%s\n", indent(string(out)))
	records, err := d.run(true, "regard-audit", append([]string{"open", "--disclosure", d.rows[0].result.ID, "--reason", "contrôle de l'exemple"}, known...)...)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("records.jsonl"), records, 0o600); err != nil {
		return err
	}
	if out, err = d.run(true, "regard-audit", append([]string{"replay", d.path("records.jsonl"), d.path("delayed.jsonl")}, pinned...)...); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	d.sayf("%s", indent(string(out)))
	return nil
}

// accredit makes an auditor's keys and has the operator register them.
func (d *demo) accredit() error {
	if _, err := d.run(false, "regard", "keygen", "--name", "Cour d'exemple (inventée)", "--out", d.path(auditor)); err != nil {
		return err
	}
	vkey, err := d.run(false, "regard-audit", "keygen", "cour.example", "--out", d.path(auditor+".skey"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path(auditor+".vkey"), vkey, 0o600); err != nil {
		return err
	}
	if _, err := d.run(false, "regard", "auditor", "add", auditor, "--name", "Cour d'exemple (inventée)", "--cert", d.path(auditor+".pem"), "--key", d.path(auditor+".vkey"), "--config", d.stage.config()); err != nil {
		return err
	}
	d.sayf("  … and an auditor, with a certificate and a key to sign with.")
	return nil
}

// epochOf returns the epoch in which a receipt's entry stands.
func epochOf(file string) (proof.Epoch, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	r, err := proof.ParseReceipt(text)
	if err != nil {
		return 0, err
	}
	return r.Entry().In(), nil
}

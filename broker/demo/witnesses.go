package demo

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Four witnesses, of which three are a quorum: any two quorums have two in common, so one of the four may be dishonest.
const (
	ofWitnesses = 4
	quorum      = 3
)

// witnesses sets up bodies that cosign the log, each with a key and a state of its own. keys are the flags by which the log's key is found.
func (d *demo) witnesses(keys []string) error {
	out, err := d.run(true, "regard", append([]string{"log", "key"}, keys...)...)
	if err != nil {
		return err
	}
	d.vkey = strings.TrimSpace(string(out))
	if err := os.WriteFile(d.path("log.vkey"), out, 0o600); err != nil {
		return err
	}
	var lines, names strings.Builder
	var addresses []string
	for i := range ofWitnesses {
		name := fmt.Sprintf("w%d", i+1)
		addr, err := d.address()
		if err != nil {
			return err
		}
		line, err := d.run(i == 0, "regard", "witness", "init", "--dir", d.path("witnesses", name), "--name", "witness-"+name+".example/"+name, "--log-key", d.path("log.vkey"), "--listen", addr, "--ops", "")
		if err != nil {
			return err
		}
		args := []string{"witness", "serve", "--config", d.path("witnesses", name, "witness.yaml")}
		if i == 0 {
			d.sayf("  $ %s &", d.shown("regard", args))
		}
		p, err := d.start("witness "+name, filepath.Join(d.cfg.Bin, "regard"), args...)
		if err != nil {
			return err
		}
		d.witness = append(d.witness, p)
		addresses = append(addresses, addr)
		fmt.Fprintf(&lines, "%s http://%s\n", strings.TrimSpace(string(line)), addr)
		fmt.Fprintf(&names, " %s", name)
	}
	for i, addr := range addresses {
		if err := d.wait("a witness", 20*time.Second, d.witness[i], func() bool { return listening(addr) }); err != nil {
			return err
		}
	}
	d.sayf("  … and %d more witnesses in the same way. The operator and everybody who verifies write down who they are, and that %d of them are needed: witnesses.policy, log.policy.", ofWitnesses-1, quorum)
	fmt.Fprintf(&lines, "group all %d%s\nquorum all\n", quorum, &names)
	if err := os.WriteFile(d.path("witnesses.policy"), []byte(lines.String()), 0o600); err != nil {
		return err
	}
	return os.WriteFile(d.path("log.policy"), []byte("log "+d.vkey+"\n"+lines.String()), 0o600)
}

// upgrade fetches receipts again until the quorum has cosigned them, and stops a witness on the way.
func (d *demo) upgrade() error {
	d.sayf("\n5. A receipt was provisional, on the log's own signature. Meanwhile the witnesses, other bodies, have cosigned: from now on nobody can be shown another history.\n")
	first := &d.rows[0]
	if err := d.untilWitnessed(true, first); err != nil {
		return err
	}
	for i := range d.rows[1:] {
		if r := &d.rows[i+1]; r.result.ID != "" {
			if err := d.untilWitnessed(false, r); err != nil {
				return err
			}
		}
	}
	receipt, err := d.receipt(first)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(d.path("log.policy"))
	if err != nil {
		return err
	}
	policy, err := proof.ParsePolicy(text)
	if err != nil {
		return err
	}
	v, err := receipt.Verify(policy, proof.VerifyOptions{})
	if err != nil {
		return err
	}
	var by []string
	for _, w := range v.Witnesses {
		by = append(by, w.Name)
	}
	d.sayf("  All receipts are witnessed now. That of the first request: provisional → witnessed, by %s.", strings.Join(by, ", "))
	d.witness[0].stop()
	s := scenes()[6]
	r, err := d.ask(false, 50, &s, "without-w1")
	if err != nil {
		return err
	}
	without := row{s, r}
	if err := d.untilWitnessed(false, &without); err != nil {
		return fmt.Errorf("with one witness stopped: %w", err)
	}
	d.sayf("  Witness w1 is stopped. Another request: provisional → witnessed all the same, for three of four are enough.")
	return nil
}

// untilWitnessed fetches a receipt until the offline verifier accepts it under the policy, quorum included.
func (d *demo) untilWitnessed(show bool, x *row) error {
	return d.wait("the witnesses", 20*time.Second, nil, func() bool {
		out, err := d.run(show, "regard", append([]string{"request", "get", x.result.ID}, d.asking(x.scene.agency)...)...)
		show = false
		if err != nil {
			return false
		}
		r, err := readJSON[result](out)
		if err != nil || r.State == proof.Provisional.String() {
			return false
		}
		r.Data = x.result.Data // it isn't given again
		x.result = r
		_, err = d.run(false, "regard-audit", "verify", "--policy", d.path("log.policy"), r.Receipt)
		return err == nil
	})
}

// receipt reads the receipt of a request.
func (d *demo) receipt(x *row) (*proof.Receipt, error) {
	text, err := os.ReadFile(x.result.Receipt)
	if err != nil {
		return nil, err
	}
	return proof.ParseReceipt(text)
}

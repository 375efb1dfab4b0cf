package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// investigation is the request of which its person learns later.
func investigation() scene {
	return scene{agency: "brigade-exemple", agreement: "enquete-2026", asks: "quotient familial", about: "Camille EXEMPLE ALPHA", scopes: []string{"quotient"}, subject: camille, purpose: "enquete", want: "released"}
}

// known are the flags by which the auditor asks the broker.
func (d *demo) known() []string {
	return []string{"--broker", "https://" + d.api, "--ca", d.path("secrets", "server.pem"), "--cert", d.path(auditor + ".pem"), "--key", d.path(auditor + ".key")}
}

// investigate has an agency ask under a lawful delay, and an auditor look at it.
func (d *demo) investigate() error {
	d.sayf("\n   An investigating agency asks about Camille under a lawful delay. It has its answer and its receipt at once; the log says publicly that there is a delay, under whose authority and until when.\n")
	s := investigation()
	r, err := d.ask(true, len(scenes()), &s, "")
	if err := s.check(&r, err); err != nil {
		return fmt.Errorf("the delayed request: %w", err)
	}
	text, err := os.ReadFile(r.Receipt)
	if err != nil {
		return err
	}
	entry, _, _ := strings.Cut(string(text), "\nopening ")
	if !strings.Contains(entry, "regard/deferred@v1\n") {
		return fmt.Errorf("the delayed request isn't deferred:\n%s", entry)
	}
	d.sayf("%s\n", indent(entry))
	d.delayed = row{s, r}
	d.sayf("   The auditor opens these records all the same. That would tell Camille, so it is deferred with them.\n")
	out, err := d.run(true, "regard-audit", append([]string{"open", "--disclosure", r.ID, "--reason", "contrôle de l'enquête"}, d.known()...)...)
	if err != nil {
		return err
	}
	if n := strings.Count(string(out), `"state":"open"`); n == 0 || n != strings.Count(string(out), "\n") {
		return fmt.Errorf("the auditor isn't shown the deferred records:\n%s", out)
	}
	return os.WriteFile(d.path("delayed.jsonl"), out, 0o600)
}

// tell has the operator end the delay: Camille sees the request, both dates, and who looked at it meanwhile.
func (d *demo) tell() error {
	d.sayf("\n   The operator ends the delay before its time.\n")
	config := []string{"--config", d.stage.config()}
	for _, args := range [][]string{
		{"deferral", "list"},
		{"deferral", "end", "--disclosure", d.delayed.result.ID, "--reason", "mainlevée de l'exemple"},
	} {
		out, err := d.run(true, "regard", append(args, config...)...)
		if err != nil {
			return err
		}
		d.sayf("%s\n", indent(string(out)))
	}
	out, err := d.history(camille, "camille.json", "remise à la personne")
	if err != nil {
		return err
	}
	if !strings.Contains(string(out), "delayed until ") || !strings.Contains(string(out), "enquete") {
		return errors.New("the person doesn't see what was delayed, or not until when")
	}
	return nil
}

// told waits until the epoch of the delay's end is closed, and has Camille check.
func (d *demo) told() error {
	d.sayf("\n   When the epoch closes, the agency's receipt settles, and Camille's own check shows both: what was delayed, and who opened its record meanwhile.\n")
	err := d.wait("the delayed receipt to settle", 6*epoch, nil, func() bool {
		out, err := d.run(false, "regard", append([]string{"request", "get", d.delayed.result.ID}, d.asking(d.delayed.scene.agency)...)...)
		if err != nil {
			return false
		}
		r, err := readJSON[result](out)
		return err == nil && r.Settled
	})
	if err != nil {
		return err
	}
	file := d.path("told.regard.json")
	check := func(shown bool) (out []byte, err error) {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) { // an export replaces nothing
			return nil, err
		}
		if out, err = d.run(shown, "regard", "history", "export", "-f", d.path("camille.json"), "--reason", "remise à la personne", "--out", file, "--config", d.stage.config()); err != nil {
			return out, err
		}
		return d.run(shown, "regard-audit", "verify-history", file, "--policy", d.path("log.policy"))
	}
	// The broker that is asked may hear a moment later than another one that the epoch is closed.
	err = d.wait("the history of that epoch", 2*epoch, nil, func() bool {
		out, err := check(false)
		return err == nil && strings.Contains(string(out), "delayed by law")
	})
	if err != nil {
		return err
	}
	out, err := check(true)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	d.sayf("%s", indent(string(out)))
	for _, want := range []string{"1 data request that was delayed by law", "1 opening of the record of such a request, delayed with it", "No disclosure about anybody is kept secret"} {
		if !strings.Contains(string(out), want) {
			return fmt.Errorf("the verdict doesn't say %q", want)
		}
	}
	return nil
}

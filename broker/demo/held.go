package demo

import (
	"fmt"
	"os"
	"text/tabwriter"
)

// held shows what agencies and providers hold against the broker: each of them checked by itself that everything it was given or answered is in the log, and in its person's roll.
func (d *demo) held() error {
	d.sayf("\n   Agencies keep their receipts, providers fetch those of everybody in their answers; both bring them to settled by themselves. A provider to whom the log didn't show an answer would stop answering.\n")
	w := tabwriter.NewWriter(d.cfg.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  HOLDER\tDISCLOSURES\tSETTLED\tDELAYED\tREFUTED")
	holders := []string{"providers"}
	for _, a := range agencies {
		holders = append(holders, a.id)
	}
	for i, name := range holders {
		var states map[string]int
		all, delayed := 0, 0
		err := d.wait("the receipts of "+name+" to settle", 6*epoch, nil, func() bool {
			if i > 0 { // an agency without a program that runs all the time does it now and then
				states = d.states(append([]string{"receipts", "upgrade", d.path("held", name)}, d.asking(name)...)...)
			} else {
				states = d.status(name)
			}
			all, delayed = total(states), 0 // what is delayed settles when that is over
			if name == "providers" || name == d.delayed.scene.agency {
				delayed = 1
			}
			return all > 0 && states["settled"] == all-delayed && states["witnessed"] == delayed
		})
		if err != nil {
			return fmt.Errorf("%w: %v", err, states)
		}
		fmt.Fprintf(w, "  %s\t%d\t%d\t%d\t%d\n", name, all, states["settled"], delayed, states["refuted"])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	out, err := d.run(false, "regard", "receipts", "export", d.path("held", "providers"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("held.jsonl"), out, 0o600); err != nil {
		return err
	}
	d.sayf("\n   The providers' own access log, what they hold, and the log say the same:\n")
	if out, err = d.run(true, "regard-audit", "reconcile", d.path("held.jsonl"), "--policy", d.path("log.policy"), "--access-log", d.path("provider-access.jsonl"), "--log", "http://"+d.public); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	d.sayf("%s", indent(string(out)))
	return nil
}

// status is what a holder says of its store. The broker was killed while providers answered, so it is no alarm here that answers couldn't be read.
func (d *demo) status(name string) map[string]int {
	return d.states("receipts", "status", d.path("held", name), "--max-unheard", "1", "--json")
}

// states are how many disclosures a holder has in each state, as a command says it; nil if it doesn't.
func (d *demo) states(args ...string) map[string]int {
	out, err := d.run(false, "regard", args...)
	if err != nil {
		return nil
	}
	st, err := readJSON[struct {
		States map[string]int `json:"states"`
	}](out)
	if err != nil {
		return nil
	}
	return st.States
}

func total(states map[string]int) (n int) {
	for _, x := range states {
		n += x
	}
	return n
}

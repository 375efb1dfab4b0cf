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
		var st struct {
			States map[string]int `json:"states"`
		}
		all, delayed := 0, 0
		err := d.wait("the receipts of "+name+" to settle", 6*epoch, d.broker, func() bool {
			args := []string{"receipts", "status", d.path("held", name), "--json"}
			if i > 0 { // an agency without a program that runs all the time does it now and then
				args = append([]string{"receipts", "upgrade", d.path("held", name)}, d.asking(name)...)
			}
			out, err := d.run(false, "regard", args...)
			if err != nil {
				return false
			}
			if st, err = readJSON[struct {
				States map[string]int `json:"states"`
			}](out); err != nil {
				return false
			}
			all = 0
			for _, n := range st.States {
				all += n
			}
			delayed = 0 // what is delayed settles when that is over
			if name == "providers" || name == d.delayed.scene.agency {
				delayed = 1
			}
			return all > 0 && st.States["settled"] == all-delayed && st.States["witnessed"] == delayed
		})
		if err != nil {
			return fmt.Errorf("%w: %v", err, st.States)
		}
		fmt.Fprintf(w, "  %s\t%d\t%d\t%d\t%d\n", name, all, st.States["settled"], delayed, st.States["refuted"])
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

package demo

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// complete has a person check their whole history, and then the same with one access hidden by a broker that cheats.
func (d *demo) complete() error {
	d.sayf("\n   Camille gets the history of all closed epochs as one file, and checks that nothing is left out of it.\n")
	if err := d.writeJSON("camille.json", camille); err != nil {
		return err
	}
	whole, less := d.path("camille.regard.json"), d.path("cheated.regard.json")
	if _, err := d.run(true, "regard", "history", "export", "-f", d.path("camille.json"), "--reason", "remise à la personne", "--out", whole, "--config", d.stage.config()); err != nil {
		return err
	}
	out, err := d.run(true, "regard-audit", "verify-history", whole, "--policy", d.path("log.policy"))
	if err != nil {
		return err
	}
	d.sayf("%s", indent(string(out)))
	if !strings.Contains(string(out), "whether you are concerned by 8 entries that a law allows to tell later") || strings.Contains(string(out), "delayed by law.") {
		return fmt.Errorf("the verdict doesn't count what is delayed, or tells it:\n%s", out)
	}
	d.sayf("\n   That somebody is told of 8 entries later, the verdict counts; nobody can tell whom they concern.")
	epoch, err := d.hide(whole, less)
	if err != nil {
		return err
	}
	d.sayf("\n   Now the demonstration itself plays a broker that cheats, which no program of Regard can: it hides the town hall's first access, in epoch %d, takes it out of the roll, too, and makes all proofs anew.\n", epoch)
	out, err = d.run(true, "regard-audit", "verify-history", less, "--policy", d.path("log.policy"))
	var f *failedRun
	if !errors.As(err, &f) || f.code() != 1 || !strings.Contains(string(out), fmt.Sprintf("epoch %d", epoch)) {
		return fmt.Errorf("a history with a hidden access was not refuted, or not for its epoch: %w\n%s", err, out)
	}
	d.sayf("%s", indent(string(out)))
	return nil
}

// hide writes the history that a broker would give who wants to hide its first request: without the entry, with a roll that is closed over the gap, and with a good proof of everything else, made from
// the public log. It returns the epoch in which something is missing.
func (d *demo) hide(whole, less string) (proof.Epoch, error) {
	text, err := os.ReadFile(whole)
	if err != nil {
		return 0, err
	}
	h, err := proof.ParseHistory(text)
	if err != nil {
		return 0, err
	}
	at := slices.IndexFunc(h.Entries, func(e proof.HistoryEntry) bool { return !e.Opening.IsZero() })
	if at < 0 {
		return 0, errors.New("there is nothing to hide in the history")
	}
	hidden := h.Entries[at]
	_, epoch, err := proof.ParseHead(hidden.Text)
	if err != nil {
		return 0, err
	}
	h.Entries = slices.Delete(h.Entries, at, at+1)
	opener, ok := marker(h.Markers[0])
	if !ok || epoch < opener.Epoch || epoch-opener.Epoch >= proof.Epoch(len(h.Epochs)) {
		return 0, errors.New("the entry to hide is of another epoch than the history")
	}
	for i := range h.Epochs[epoch-opener.Epoch].Rolls {
		if err := closeOver(&h.Epochs[epoch-opener.Epoch].Rolls[i], hidden.Index); err != nil {
			return 0, err
		}
	}
	if err := d.prove(h); err != nil {
		return 0, err
	}
	if text, err = h.AppendText(nil); err != nil {
		return 0, err
	}
	return epoch, os.WriteFile(less, text, 0o600) // #nosec G703 -- a fixed name in the demonstration's own directory
}

// closeOver makes a roll, in good form, of all entries of a roll but one. What it can't make is one with the root that stands in the log.
func closeOver(r *proof.HistoryRoll, hidden proof.Index) error {
	var rest []proof.Index
	for _, l := range r.Leaves {
		if !l.Dummy() && l.Index != hidden {
			rest = append(rest, l.Index)
		}
	}
	if r.Leaves = nil; len(rest) == 0 {
		return nil
	}
	made, err := proof.NewRoll([32]byte{}, proof.Label{}, rest)
	if err != nil {
		return err
	}
	r.Leaves = made.Open()
	return nil
}

// prove makes the proof that the last marker and all entries are in the log.
func (d *demo) prove(h *proof.History) error {
	policy, err := os.ReadFile(d.path("log.policy"))
	if err != nil {
		return err
	}
	p, err := proof.ParsePolicy(policy)
	if err != nil {
		return err
	}
	cp, err := proof.VerifyCheckpoint(h.Checkpoint, p)
	if err != nil {
		return err
	}
	last, ok := marker(h.Markers[len(h.Markers)-1])
	if !ok {
		return errors.New("the history has no last marker")
	}
	leaves, earlier := []uint64{uint64(last.At())}, []uint64{}
	for _, e := range h.Entries {
		leaves = append(leaves, uint64(e.Index))
		if x, err := proof.ParseEntry(e.Text); err == nil && x.Kind() == proof.KindRestart {
			return errors.New("the log was restarted, which the demonstration doesn't do")
		}
	}
	slices.Sort(leaves)
	h.Nodes, _, err = tiles.Tree{Dir: d.stage.publicDir(), Size: cp.Size(), Root: cp.Root()}.Multiproof(leaves, earlier)
	return err
}

func marker(text []byte) (proof.Marker, bool) {
	e, err := proof.ParseEntry(text)
	m, ok := e.(proof.Marker)
	return m, ok && err == nil
}

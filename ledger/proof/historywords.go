package proof

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Words says in plain words what was proven, and what wasn't. They hold the
// types of the subjects and nothing else about the person.
func (v *HistoryVerdict) Words() (says, not []string) {
	if v.State == 0 {
		return nil, []string{"anything."}
	}
	w := words{v: v}
	w.root()
	w.requests()
	w.states()
	w.delays()
	w.auditors()
	w.limits()
	return w.says, w.not
}

type words struct {
	v         *HistoryVerdict
	says, not []string
}

func (w *words) say(format string, args ...any) {
	w.says = append(w.says, fmt.Sprintf(format, args...))
}
func (w *words) deny(format string, args ...any) {
	w.not = append(w.not, fmt.Sprintf(format, args...))
}

func day(t Time) string { return t.Time().Format(time.RFC3339) }

// many writes a number with a word in singular or plural.
func many[N int | uint64](n N, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// epochList writes "epoch 4", or "epochs" and ranges; of many only the first ones.
func epochList(r []EpochRange) string {
	const shown = 5
	var parts []string
	for i, x := range r {
		if i == shown {
			parts = append(parts, fmt.Sprintf("and %d more stretches", len(r)-shown))
			break
		}
		if x.From == x.To {
			parts = append(parts, x.From.String())
		} else {
			parts = append(parts, fmt.Sprintf("%d to %d", x.From, x.To))
		}
	}
	if len(r) == 1 && r[0].From == r[0].To {
		return "epoch " + parts[0]
	}
	return "epochs " + strings.Join(parts, ", ")
}

func (w *words) root() {
	v := w.v
	w.say("The log %s signed a tree of %d entries; all that is said below stands in it.", v.Origin, v.Size)
	if v.State == Witnessed {
		var names []string
		for _, c := range v.Witnesses {
			names = append(names, c.Name)
		}
		w.say("The quorum of witnesses saw this tree, not before %s: %s.", day(v.RootTime), strings.Join(names, ", "))
	} else {
		w.deny("that others were shown the same tree: without the quorum of witnesses all of this rests on the log's own signature.")
	}
	for _, name := range v.Unverified {
		w.deny("the signature line of %q: your policy doesn't know its key.", name)
	}
	if v.Extends {
		w.say("It goes on from the older history: nothing that was shown is gone or is something else.")
	} else if v.Compared {
		if len(v.Common) > 0 {
			w.say("In %s nothing that the older history shows is gone or is something else.", epochList(v.Common))
		} else {
			w.deny("that anything of the older history is still there: no epoch is in both.")
		}
		w.deny("that the older tree is the beginning of this one: ask the log, a witness or a mirror for the proof of consistency.")
	}
}

// identifiers lists the types of the subjects.
func (w *words) identifiers() string {
	var types []string
	for _, s := range w.v.Subjects {
		types = append(types, string(s.Type()))
	}
	return strings.Join(slices.Compact(types), ", ")
}

func (w *words) requests() {
	v := w.v
	span := fmt.Sprintf("epochs %d to %d, from %s to %s", v.Epochs.From, v.Epochs.To, day(v.Opened), day(v.Closed))
	if v.Epochs.From == v.Epochs.To {
		span = fmt.Sprintf("epoch %d, from %s to %s", v.Epochs.From, day(v.Opened), day(v.Closed))
	}
	n := many(len(v.Entries), "entry", "entries")
	if v.Complete() {
		w.say("These are all recorded requests about you under these identifiers (%s) in %s: %s.", w.identifiers(), span, n)
	} else {
		w.say("In %s, these are recorded requests about you under these identifiers (%s), as far as they can still be shown: %s.", span, w.identifiers(), n)
	}
	type what struct {
		kind   Kind
		schema Schema // of what was delayed; 0: of that nothing can be shown
	}
	kinds := map[what]int{}
	for i := range v.Entries {
		k := what{kind: v.Entries[i].Kind}
		if k.kind == KindOpened {
			k.schema = v.Entries[i].Opening.Schema()
		}
		kinds[k]++
	}
	for _, k := range []struct {
		what      what
		one, more string
	}{
		{what{KindDisclosure, 0}, "data request", "data requests"},
		{what{KindOpened, SchemaDisclosure}, "data request that was delayed by law", "data requests that were delayed by law"},
		{what{KindOpened, SchemaAccess}, "opening of the record of such a request, delayed with it", "openings of records of such requests, delayed with them"},
		{what{KindOpened, 0}, "entry that was delayed by law and of which nothing is open", "entries that were delayed by law and of which nothing is open"},
		{what{KindAccess, 0}, "opening of a record by somebody", "openings of records by somebody"},
		{what{KindErasure, 0}, "erasure", "erasures"},
	} {
		if n := kinds[k.what]; n > 0 {
			w.say("Among them: %s.", many(n, k.one, k.more))
		}
	}
	if len(v.Ended) > 0 {
		w.deny("anything about %s: the retention is over, as the log promised, and the key of the labels was destroyed.", epochList(v.Ended))
	}
	if v.LostRolls > 0 {
		w.deny("what is in %s of yours: the log says that details were lost with a restored backup. That you have them is proven.", many(v.LostRolls, "roll", "rolls"))
	}
	if v.LostEntries > 0 {
		w.deny("that these are all: of %s at most the details were lost, as the log says, and each may be about anybody, you too.", many(v.LostEntries, "entry", "entries"))
	}
}

func (w *words) states() {
	v := w.v
	if n := v.Count(RecordOpen); n > 0 {
		w.say("%s recorded: the log committed to every field.", many(n, "record is shown as it was", "records are shown as they were"))
	}
	if n, fields := v.Withheld(); n > 0 {
		w.deny("what %s in %s: you may read them, and the file hides them. Ask for a history that was made for yourself.", many(fields, "field says", "fields say"), many(n, "record", "records"))
	}
	if n := v.Count(RecordErased); n > 0 {
		w.say("%s erased, and an erasure in your own roll accounts for each.", many(n, "record was", "records were"))
		w.deny("who was shown the administrative parts of erased records: the log tells it of whole epochs (audit@v1), for nobody can tell whose they are.")
	}
	if n := v.Count(RecordErasing); n > 0 {
		w.deny("that %s erased at your demand: the erasure stands after these epochs, or its details were lost, and whose it is is the operator's word. Check again when its epoch is closed.", many(n, "record was", "records were"))
	}
	if n := v.Count(RecordRetired); n > 0 {
		w.say("%s no longer kept: the retention that the log had promised is over.", many(n, "record is", "records are"))
		if !v.KeysCounted {
			w.deny("that no longer retention was promised for them: that no such entry was left out is the operator's word.")
		}
	}
	if n := v.Count(RecordLost); n > 0 {
		w.deny("what is in %s: the details were lost, and the log says so. That they exist is proven.", many(n, "record", "records"))
	}
	if n := v.Count(RecordUnknown); n > 0 {
		w.deny("what %s says: the type is newer than this program.", many(n, "entry", "entries"))
	}
}

func (w *words) delays() {
	d := w.v.Deferrals
	if d.Pending == 0 && d.Counted {
		w.say("No disclosure about anybody is kept secret for the time being.")
		return
	}
	by := "as the operator says; only a history from epoch 0 on proves their number"
	if d.Counted {
		by = "and the log's markers prove that there are no more"
	}
	w.deny("whether you are concerned by %s that a law allows to tell later, %s.", many(d.Pending, "entry", "entries"), by)
	if d.Overdue > 0 {
		w.deny("why %s overdue: by their month, the persons should know by now.", many(d.Overdue, "of these is", "of these are"))
	}
	if d.Lost > 0 {
		w.deny("what becomes of %s whose details were lost.", many(d.Lost, "of these", "of these"))
	}
}

func (w *words) auditors() {
	v := w.v
	for _, a := range v.Audits {
		if len(a.Epochs) > 0 {
			w.say("Auditor %s (%s) found every filed entry in a roll in %s.", a.Auditor, a.Key, epochList(a.Epochs))
		}
	}
	if v.Unaudited < uint64(v.Epochs.To-v.Epochs.From)+1 {
		w.deny("that the keys of these auditors were not revoked later: that no such entry was left out is the operator's word.")
	}
	if v.Unaudited > 0 {
		w.deny("that every entry is in a roll, in %s: no auditor cosigned the index. It rests on the checks of agencies and providers that hold receipts.", many(v.Unaudited, "epoch", "epochs"))
	}
}

func (w *words) limits() {
	v := w.v
	w.deny("anything after %s, when epoch %d was closed. The next one was due to close at %s.", day(v.Closed), v.Epochs.To, day(v.Due))
	if v.Epochs.From > 0 {
		w.deny("anything before epoch %d.", v.Epochs.From)
	}
	w.deny("anything about requests under identifiers that aren't named here, or that were made with a part of your identity: these are filed as they were asked, and can't be shown to anybody.")
	for _, s := range v.Subjects {
		switch p, pivot := s.Pivot(); {
		case s.Type() == TypePerson:
			w.deny("that what is filed under person is about you: others may have the same names, date and sex.")
		case pivot && !p.Complete():
			w.deny("that what is filed under this pivot is about you: it is a part of an identity.")
		}
	}
	w.deny("that the log keeps its rules where this file doesn't show it, so that no epoch has a second marker that somebody else is shown: whoever reads the whole log sees that (regard-audit fsck and monitor).")
	w.deny("anything about data that were given outside of this log.")
}

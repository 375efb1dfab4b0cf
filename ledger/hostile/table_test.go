package hostile_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

//go:generate go test -count=1 -run TestTable -update

var update = flag.Bool("update", false, "write the table of attacks to docs/threat-model.md")

const (
	tableFile  = "../../docs/threat-model.md"
	tableBegin = "<!-- attacks: made from the tests by go generate ./ledger/hostile -->\n"
	tableEnd   = "<!-- end of attacks -->\n"
)

// table is what the tests show, as Markdown: the detectors with what they take for granted, and the attacks.
func table() string {
	var b strings.Builder
	b.WriteString("| with | by | provided that |\n|---|---|---|\n")
	for _, l := range detectors() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", l.rows[0].tool, l.who(), l.rows[0].presupposes)
	}
	b.WriteString("\n| the operator | is noticed | by | provided that |\n|---|---|---|---|\n")
	for _, a := range attacks {
		name := a.name
		rows := slices.Clone(a.rows)
		slices.SortStableFunc(rows, func(r, o row) int { return cmp.Compare(r.after, o.after) })
		for _, l := range lines(rows, func(r, o row) bool { return r.after == o.after && r.assuming == o.assuming && r.not == o.not }) {
			when, which := l.rows[0].after.after(), cmp.Or(l.rows[0].assuming, "–")
			if l.rows[0].after == never {
				when, which = "**not noticed**", l.rows[0].not
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, when, l.by(), which)
			name = ""
		}
	}
	return b.String()
}

// detectors are all that stand in the table, by tool and by what they presuppose.
func detectors() []line {
	var all []row
	for _, a := range attacks {
		all = append(all, a.rows...)
	}
	ls := lines(all, func(r, o row) bool { return r.tool == o.tool && r.presupposes == o.presupposes })
	slices.SortStableFunc(ls, func(x, y line) int {
		return strings.Compare(strings.Trim(x.rows[0].tool, "`"), strings.Trim(y.rows[0].tool, "`"))
	})
	return ls
}

// A line of a table stands for rows that say the same.
type line struct{ rows []row }

func lines(rows []row, same func(r, o row) bool) (out []line) {
	for _, r := range rows {
		at := slices.IndexFunc(out, func(l line) bool { return same(l.rows[0], r) })
		if at < 0 {
			out = append(out, line{[]row{r}})
			continue
		}
		out[at].rows = append(out[at].rows, r)
	}
	return out
}

// by names everybody with their tools.
func (l line) by() string {
	var who []string
	with := map[string][]string{}
	for _, t := range lines(l.rows, func(r, o row) bool { return r.tool == o.tool }) {
		w := t.who()
		if with[w] == nil {
			who = append(who, w)
		}
		with[w] = append(with[w], t.rows[0].tool)
	}
	for i, w := range who {
		who[i] = w + " (" + strings.Join(with[w], ", ") + ")"
	}
	return strings.Join(who, "; ")
}

func (l line) who() string {
	var who []string
	for _, r := range l.rows {
		if !slices.Contains(who, r.who) {
			who = append(who, r.who)
		}
	}
	return strings.Join(who, ", ")
}

// TestTable: what is published is what the tests show.
func TestTable(t *testing.T) {
	doc, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := bytes.Cut(doc, []byte(tableBegin))
	old, after, ok2 := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table: want %q and %q", tableFile, tableBegin, tableEnd)
	}
	if string(old) == table() {
		return
	}
	if !*update {
		t.Fatalf("%s is stale: go generate ./ledger/hostile, and look at what changed", tableFile)
	}
	doc = bytes.Join([][]byte{before, []byte(tableBegin), []byte(table()), []byte(tableEnd), after}, nil)
	if err := os.WriteFile(tableFile, doc, 0o644); err != nil {
		t.Fatal(err)
	}
}

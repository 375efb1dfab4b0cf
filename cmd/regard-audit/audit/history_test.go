package audit

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

type historyVectors struct {
	Common struct{ Policy string }
	Good   []struct {
		Text, State string
		From, To    uint64
		Entries     []struct {
			Index uint64
			State string
		}
	}
	Bad []struct {
		Of    int
		Hunks []struct {
			At, Cut int
			Put     string
		}
		Reason string
	}
}

func loadHistories(t *testing.T) (v historyVectors, dir, policy string) {
	t.Helper()
	b, err := os.ReadFile("../../../ledger/proof/testdata/history.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Good) < 3 || len(v.Bad) == 0 {
		t.Fatal("no vectors")
	}
	dir = t.TempDir()
	return v, dir, write(t, dir, "policy", v.Common.Policy)
}

func TestVerifyHistory(t *testing.T) {
	v, dir, policy := loadHistories(t)
	for i, g := range v.Good {
		name := write(t, dir, "good.regard.json", g.Text)
		code, out, errs := run("verify-history", "--policy", policy, "--allow-provisional", "--json", name)
		var got []historyFinding
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != Proven || len(got) != 1 {
			t.Fatalf("%d: exit code %d, %v, %s", i, code, err, errs)
		}
		f := got[0]
		if !f.Proven || f.State != g.State || f.From != g.From || f.To != g.To || len(f.Entries) != len(g.Entries) || len(f.Says) == 0 || len(f.Not) == 0 {
			t.Errorf("%d: %+v", i, f)
		}
		for k, e := range g.Entries {
			if f.Entries[k].Index != e.Index || f.Entries[k].State != e.State {
				t.Errorf("%d: %+v, want %+v", i, f.Entries[k], e)
			}
		}
		if strings.Contains(out, "LEFEVRE") || strings.Contains(errs, "LEFEVRE") {
			t.Error("the person's name is in the JSON")
		}
		code, out, errs = run("verify-history", "--policy", policy, name)
		if want := g.State == "provisional"; (code == Input) != want || strings.Contains(out, "UNUSABLE") != want || strings.Contains(out, "PROVEN") == want || strings.Contains(out, "\x1b") {
			t.Errorf("%d: exit code %d: %s", i, code, out)
		}
		// The code of a printed statement is said of what is proven, and of nothing else.
		if says := "the code of a printed statement of these entries: " + f.Code + "\n"; len(f.Code) != 24 || strings.Contains(out, says) == (g.State == "provisional") {
			t.Errorf("%d: code %q in %s", i, f.Code, out)
		}
		// The reader sees whose history it is: a server could give the history of somebody whom nobody ever asked about.
		h, err := proof.ParseHistory([]byte(g.Text))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, verdict.NewAround(verdict.English).Whose) {
			t.Errorf("%d: whose history it is: %s", i, out)
		}
		for _, s := range h.Subjects {
			value := ": " + strings.ReplaceAll(s.Value(), "|", " · ") + "\n"
			if _, pivot := s.Pivot(); pivot {
				value = "full identity: ANNE ELISE LEFEVRE OEUVRARD, born on 30 April 1987 (commune 75056)\n"
			}
			if s.Type() == proof.TypePerson {
				value = ": ANNE ELISE LEFEVRE OEUVRARD, born on 30 April 1987\n"
			}
			if !strings.Contains(out, value) || strings.Contains(errs, s.Value()) {
				t.Errorf("%d: %q in %s", i, value, out)
			}
		}
		// What is proven is in words.
		if g.State != "provisional" && !strings.Contains(out, "recorded requests about you under these identifiers") {
			t.Error(out)
		}
	}
	for _, b := range v.Bad {
		text := v.Good[b.Of].Text
		for _, h := range slices.Backward(b.Hunks) {
			text = text[:h.At] + h.Put + text[h.At+h.Cut:]
		}
		code, out, _ := run("verify-history", "--policy", policy, "--allow-provisional", write(t, dir, "bad.regard.json", text))
		if code == Proven || strings.Contains(out, verdict.NewAround(verdict.English).Whose) || strings.Contains(out, "PROVEN") || strings.Contains(out, "  proven ") {
			t.Errorf("%s: exit code %d: %s", b.Reason, code, out)
		}
	}
}

// TestVerifyHistoryLang: the words are French if asked, and say the same of the file.
func TestVerifyHistoryLang(t *testing.T) {
	v, dir, policy := loadHistories(t)
	good, bad := write(t, dir, "good.regard.json", v.Good[0].Text), write(t, dir, "bad.regard.json", strings.Replace(v.Good[0].Text, `"rolls":["`, `"rolls":[null,"`, 1))
	code, out, errs := run("verify-history", "--policy", policy, "--lang", "fr", good)
	for _, want := range []string{": PROUVÉ, confirmé par les témoins", "Tous les accès enregistrés à vos données sous ces identifiants, du 24 novembre 2025 à 17\u00a0h\u00a000 au", "identité complète\u00a0: ANNE ELISE", "  prouvé      Ce sont toutes les demandes", "  non prouvé  quoi que ce soit après", "\n  Prouvé. Tous les accès", "\n  Ce qui n'est pas prouvé, et comment lever ces limites (", "\n    Pour ", "  registre regard.example/log  "} {
		if code != Proven || !strings.Contains(out, want) {
			t.Errorf("exit code %d, no %q in %s%s", code, want, out, errs)
		}
	}
	code, out, _ = run("verify-history", "--policy", policy, "--lang", "fr", bad)
	if code != Input || !strings.Contains(out, "INUTILISABLE") || !strings.Contains(out, "La vérification n'a pas pu se faire") {
		t.Errorf("exit code %d: %s", code, out)
	}
	text := v.Good[v.Bad[0].Of].Text
	for _, h := range slices.Backward(v.Bad[0].Hunks) {
		text = text[:h.At] + h.Put + text[h.At+h.Cut:]
	}
	code, out, _ = run("verify-history", "--policy", policy, "--lang", "fr", write(t, dir, "refuted.regard.json", text))
	if code != Refused || !strings.Contains(out, "RÉFUTÉ") || !strings.Contains(out, "Cette liste ne correspond pas au registre public") || !strings.Contains(out, "Référence à citer\u00a0: ") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if code, _, errs = run("verify-history", "--policy", policy, "--lang", "de", good); code != Input || !strings.Contains(errs, "--lang: the language is fr or en") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

// TestAsked: what isn't in a file of chosen days is missing only if it was asked for. A browser, which knows that from the address, says the same (portal/verifier).
func TestAsked(t *testing.T) {
	v, dir, policy := loadHistories(t)
	of := map[proof.Epoch]string{0: write(t, dir, "whole.regard.json", v.Good[0].Text), 4: write(t, dir, "last.regard.json", v.Good[3].Text)} // from 24 November 2025 at 17:00; from 28 November at 17:00 for a day
	const late, early = "The history begins on ", "The history ends on "
	for _, c := range []struct {
		from   proof.Epoch
		asked  string
		fresh  bool
		limits []string
	}{
		{4, "", false, nil},
		{4, "", true, []string{early}},
		{4, "2025-11-29..2025-11-29", true, nil},
		{4, "2025-11-29..2025-11-29", false, nil},
		{4, "2025-11-28..2025-11-29", true, []string{late}},
		{4, "2025-11-29..2026-02-01", true, []string{early}},
		{4, "2025-11-01..2026-02-01", true, []string{late, early}},
		{4, "whole", true, []string{late, early}},
		{4, "whole", false, []string{late, early}},
		{0, "", true, []string{early}},
		{0, "2025-11-24..2025-11-27", true, nil},
		{0, "2020-01-01..2025-11-27", true, nil},
		{0, "whole", true, []string{early}},
	} {
		args := []string{"verify-history", "--policy", policy, "--json", of[c.from]}
		if c.fresh {
			args = append(args, "--max-age", "876000h")
		}
		if c.asked != "" {
			args = append(args, "--asked", c.asked)
		}
		code, out, errs := run(args...)
		var got []historyFinding
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != Proven {
			t.Fatalf("%v: exit code %d, %v %s", args, code, err, errs)
		}
		said := 0
		for _, l := range got[0].Verdict.Limits {
			if l.Kind == verdict.Worrying && (strings.HasPrefix(l.Text, late) || strings.HasPrefix(l.Text, early)) {
				if said < len(c.limits) && !strings.HasPrefix(l.Text, c.limits[said]) {
					t.Errorf("%+v: %q", c, l.Text)
				}
				said++
			}
		}
		if said != len(c.limits) || (got[0].Verdict.State == verdict.Limited) != (said > 0) {
			t.Errorf("%+v: %s %+v", c, got[0].Verdict.State, got[0].Verdict.Limits)
		}
	}
}

// TestPrintedLimits: what is to be looked into is told from what sound histories have, too, as in the browser.
func TestPrintedLimits(t *testing.T) {
	_, _, policy := loadHistories(t)
	text, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proof.ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	for lang, want := range map[verdict.Lang][2]string{
		verdict.French:  {"\n  Prouvé, avec des limites. ", "\n    À éclaircir\u00a0: Listes vous concernant"},
		verdict.English: {"\n  Proven, with limits. ", "\n    To look into: Lists about you"},
	} {
		v := &proof.HistoryVerdict{State: proof.Witnessed, Epochs: proof.EpochRange{To: 9}, Opened: 1_764_000_000_000, Closed: 1_764_800_000_000, LostRolls: 1, Unaudited: 1}
		f := newHistoryFinding("h.json", verdict.Input{Lang: lang, Policy: p, History: &proof.History{Markers: [][]byte{nil}}, Verdict: v}, historyFile{})
		var out strings.Builder
		f.print(&out)
		unaudited := out.String()
		for _, w := range want {
			if !strings.Contains(unaudited, w) {
				t.Errorf("no %q in\n%s", w, unaudited)
			}
		}
		if strings.Count(unaudited, verdict.NewAround(lang).Worry) != 1 {
			t.Errorf("what sound histories have, too, is to be looked into:\n%s", unaudited)
		}
	}
}

func TestVerifyHistoryUnusable(t *testing.T) {
	v, dir, policy := loadHistories(t)
	good := write(t, dir, "good.regard.json", v.Good[0].Text)
	file := func(name, text string) string { return write(t, dir, name, text) }
	swap := func(old, new string) string { return strings.Replace(v.Good[0].Text, old, new, 1) }
	_, other, err := note.GenerateKey(rand.Reader, "regard.example/log")
	if err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 100<<20); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"0 bytes":                   {[]string{file("empty", "")}, Input, "the file is empty"},
		"100 MB":                    {[]string{large}, Input, "is larger than 67108864 bytes"},
		"deep nesting":              {[]string{file("deep", `{"auditors":`+strings.Repeat("[", 1<<16))}, Input, "nested deeper than 32: wrong at byte"},
		"wrong base64":              {[]string{file("b64", swap(`"nodes":"`, `"nodes":"!`))}, Input, "history.epochs[0].nodes: base64"},
		"unknown version":           {[]string{file("version", swap("history@v1", "history@v9"))}, Input, "schema is not regard/history@v1"},
		"no such file":              {[]string{filepath.Join(dir, "nothing")}, Input, "no such file"},
		"another log's key":         {[]string{"--log-key", other, good}, Input, "Is this the log's key?"},
		"stale":                     {[]string{"--max-age", "1h", good}, Input, "The root is older than you accept"},
		"a negative age":            {[]string{"--max-age", "-1h", good}, Input, "--max-age is negative"},
		"asked for no days":         {[]string{"--asked", "2025", good}, Input, "--asked \"2025\": give two days"},
		"asked for one day":         {[]string{"--asked", "2025-11-24..", good}, Input, "give two days"},
		"asked for days backwards":  {[]string{"--asked", "2025-11-27..2025-11-24", good}, Input, "the last day is before the first"},
		"no file":                   {nil, Input, "needs a file"},
		"somebody else":             {[]string{"--compare", write(t, dir, "else", v.Good[3].Text), good}, Input, "no identifier is in both"},
		"not a history":             {[]string{"--compare", policy, good}, Input, "is not a history"},
		"two, one of them unusable": {[]string{good, file("empty2", "")}, Input, "of 2 files 1 is unusable"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"verify-history"}
			if !slices.Contains(c.args, "--log-key") {
				args = append(args, "--policy", policy)
			}
			code, out, errs := run(append(args, c.args...)...)
			if code != c.code || !strings.Contains(out+errs, c.want) {
				t.Errorf("exit code %d: %s%s", code, out, errs)
			}
		})
	}
}

// TestClockBehind: a machine whose clock is slow finds no evidence against anybody, and what is one stays one.
func TestClockBehind(t *testing.T) {
	v, dir, policy := loadHistories(t)
	good, older, fork := write(t, dir, "good", v.Good[0].Text), write(t, dir, "older", v.Good[2].Text), write(t, dir, "fork", v.Good[4].Text)
	h, err := proof.ParseHistory([]byte(v.Good[4].Text))
	if err != nil {
		t.Fatal(err)
	}
	x, err := proof.ParseEntry(h.Markers[len(h.Markers)-1])
	if err != nil {
		t.Fatal(err)
	}
	newest := x.(proof.Marker).Opened.Time()
	at := func(behind time.Duration, lang string, files ...string) (int, string) {
		var out, errs bytes.Buffer
		c := verifyHistoryCommand(func() time.Time { return newest.Add(-behind) })
		c.SilenceUsage, c.SilenceErrors = true, true
		c.SetArgs(append([]string{"--policy", policy, "--lang", lang}, files...))
		c.SetOut(&out)
		c.SetErr(&errs)
		return exitCode(c.Execute(), &errs), out.String() + errs.String()
	}
	for _, c := range []struct {
		behind time.Duration
		lang   string
		files  []string
		code   int
		want   string
	}{
		{23 * time.Hour, "en", []string{fork}, Proven, "PROVEN"},
		{25 * time.Hour, "en", []string{fork}, Input, "The log is ahead of the clock of this machine"},
		{72 * time.Hour, "fr", []string{fork}, Input, "Le registre est en avance sur l'horloge de cette machine"},
		{10 * 366 * 24 * time.Hour, "en", []string{good}, Input, "Not verified. It could not be verified: the clock of this device"},
		{10 * 366 * 24 * time.Hour, "en", []string{older, good}, Input, "of 2 files 2 are unusable"},
		{10 * 366 * 24 * time.Hour, "en", []string{fork, good}, Refused, "The log has two histories"},
		{10 * 366 * 24 * time.Hour, "en", []string{"--compare", older, "--compare", fork, good}, Refused, "The log has two histories"},
	} {
		code, out := at(c.behind, c.lang, c.files...)
		if code != c.code || !strings.Contains(out, c.want) || strings.Contains(out, "evidence") && code != Refused || strings.Contains(out, "preuve contre") {
			t.Errorf("%s behind, %v: exit code %d: %s", c.behind, c.files, code, out)
		}
	}
}

func TestHistoriesCompared(t *testing.T) {
	v, dir, policy := loadHistories(t)
	a, b := write(t, dir, "2025.regard.json", v.Good[2].Text), write(t, dir, "2026.regard.json", v.Good[0].Text)
	for _, args := range [][]string{{a, b}, {"--compare", a, b}} {
		code, out, errs := run(append([]string{"verify-history", "--policy", policy, "--json"}, args...)...)
		var got []historyFinding
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != Proven {
			t.Fatalf("%v: exit code %d, %v %s", args, code, err, errs)
		}
		if last := got[len(got)-1]; !slices.Equal(last.ComparedTo, []string{a}) || !strings.Contains(strings.Join(last.Says, " "), "goes on from the older history") {
			t.Errorf("%v: %+v", args, last)
		}
	}
	fork := write(t, dir, "fork.regard.json", v.Good[4].Text)
	for _, args := range [][]string{{fork, b}, {"--compare", fork, b}} {
		code, out, _ := run(append([]string{"verify-history", "--policy", policy}, args...)...)
		if code != Refused || !strings.Contains(out, b+": REFUTED") || !strings.Contains(out, "The log has two histories") || !strings.Contains(out, "Compared with "+fork) {
			t.Errorf("%v: exit code %d: %s", args, code, out)
		}
	}
}

// TestSplitView: evidence with the checkpoint that a browser saw before refutes the log by itself, if that signed both; and it says what else such a checkpoint is worth.
func TestSplitView(t *testing.T) {
	v, dir, policy := loadHistories(t)
	signed := func(n int) string {
		h, err := proof.ParseHistory([]byte(v.Good[n].Text))
		if err != nil {
			t.Fatal(err)
		}
		return string(h.Checkpoint)
	}
	for name, c := range map[string]struct {
		before string
		args   []string
		code   int
		says   string
	}{
		"another tree":                  {signed(5), nil, Refused, "two different trees of 29 entries, both signed by the log"},
		"and an old root":               {signed(5), []string{"--max-age", "1h"}, Refused, "two different trees of 29 entries, both signed by the log"},
		"the same":                      {signed(0), nil, Proven, "had seen the same tree before"},
		"a smaller one":                 {signed(4), nil, Proven, "nothing here shows that one goes on from the other"},
		"one that the log didn't sign":  {strings.Replace(signed(5), "Lq4v", "Aq4v", 1), nil, Proven, "proves nothing"},
		"a smaller one, of an old root": {signed(4), []string{"--max-age", "1h"}, Input, "The root is older than you accept"},
		"none":                          {"", nil, Proven, ""},
	} {
		text, err := json.Marshal(map[string]string{"before": c.before, "history": v.Good[0].Text})
		if err != nil {
			t.Fatal(err)
		}
		file := write(t, dir, "x.evidence.json", evidence+string(text[1:]))
		code, out, errs := run(append([]string{"verify-history", "--policy", policy, file}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit code %d: %s%s", name, code, out, errs)
		}
		if refused := c.code == Refused; strings.Contains(out, "REFUTED") != refused || strings.Contains(out, "the log has shown two different histories") != refused || strings.Contains(out, "printed statement") == (c.code != Proven) {
			t.Errorf("%s: %s", name, out)
		}
		code, out, _ = run(append([]string{"verify-history", "--policy", policy, "--json", file}, c.args...)...)
		var got []historyFinding
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != c.code || (got[0].Before == "") != (c.before == "") || got[0].Proven != (code == Proven) || got[0].Unusable != (code == Input) {
			t.Errorf("%s: exit code %d, %v: %s", name, code, err, out)
		}
	}
}

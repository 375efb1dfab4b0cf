package verdict

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // machines may have no database of zones

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
)

// TestParis: the rule is the one of the database of zones, at each change and around it.
func TestParis(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	for at := time.Date(1997, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2038; at = at.Add(59 * time.Minute) {
		if got, want := paris(at).Format(time.RFC3339), at.In(zone).Format(time.RFC3339); got != want {
			t.Fatalf("%s is %s, want %s", at, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	at := func(s string) proof.Time {
		x, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return proof.TimeOf(x)
	}
	for _, c := range []struct{ got, want string }{
		{French.when(at("2025-12-31T23:05:00Z")), "1er janvier 2026 à 0\u00a0h\u00a005"},
		{English.when(at("2025-12-31T23:05:00Z")), "1 January 2026 at 0:05"},
		{French.span(at("2025-11-25T23:00:00Z"), at("2025-11-26T23:00:00Z")), "le 26 novembre 2025"},
		{English.span(at("2025-11-25T23:00:00Z"), at("2025-11-26T23:00:00Z")), "on 26 November 2025"},
		{English.span(at("2025-11-25T22:00:00Z"), at("2025-11-26T22:00:00Z")), "from 25 November 2025 at 23:00 to 26 November 2025 at 23:00"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	if _, err := ParseLang("de"); err == nil {
		t.Error("German")
	}
}

type vectors struct {
	Common struct{ Policy string }
	Good   []struct{ Text, State string }
	Bad    []struct {
		Of    int
		Hunks []struct {
			At, Cut int
			Put     string
		}
		Reason string
	}
}

// check puts what Verify finds into words.
func check(t testing.TB, p *proof.Policy, text string, lang Lang, opt proof.HistoryOptions) (*Report, Input) {
	t.Helper()
	in := Input{Lang: lang, Policy: p}
	var err error
	if in.History, err = proof.ParseHistory([]byte(text)); err != nil {
		return New(in), in
	}
	v, err := in.History.Verify(p, opt)
	in.Verdict, in.Err = &v, err
	return New(in), in
}

func load(t testing.TB) (v vectors, p *proof.Policy) {
	t.Helper()
	b, err := os.ReadFile("../proof/testdata/history.json")
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err == nil {
		p, err = proof.ParsePolicy([]byte(v.Common.Policy))
	}
	if err != nil || len(v.Good) < 5 || len(v.Bad) < 20 {
		t.Fatal("no vectors: ", err)
	}
	return v, p
}

// shape is a report without its words.
func shape(r *Report) string {
	out := fmt.Sprint(r.State, len(r.Next), len(r.Limits), len(r.Scope), len(r.Keys), r.Quiet != "", r.Covers != "")
	for _, c := range r.Checks {
		out += fmt.Sprint(" ", c.Code, c.State, len(c.Says), len(c.Not), len(c.Evidence))
	}
	if r.Refuted != nil {
		out += fmt.Sprint(" ", r.Refuted.Epoch != nil, r.Refuted.Entry != nil, r.Refuted.Reference, len(r.Refuted.Tell))
	}
	return out
}

// breakable is where French text may break and must not.
var breakable = regexp.MustCompile(`.{0,30}( [:;?!»]|« |n° [0-9]).{0,20}`)

func typeset(t *testing.T, name string, all ...any) {
	t.Helper()
	for _, x := range all {
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		if at := breakable.Find(b); at != nil {
			t.Errorf("%s: a line may break in %s", name, at)
		}
	}
}

// TestTypeset: the spaces of a keyboard become those of French, and nothing else changes.
func TestTypeset(t *testing.T) {
	for in, want := range map[string]string{
		"Réponse : oui ; non ? Non !": "Réponse\u00a0: oui\u202f; non\u202f? Non\u202f!", "« ici »": "«\u00a0ici\u00a0»", "n° 3, art. L. 114-8": "n°\u00a03, art. L.\u00a0114-8",
		"200 % de %s, le %d": "200\u202f% de %s, le %d", "https://x.example/a?b=c;d": "https://x.example/a?b=c;d", "": "",
	} {
		if got := Typeset(in); got != want || Typeset(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, c := range Causes() {
		typeset(t, string(c), NotVerified(c, French))
	}
	typeset(t, "around", NewAround(French), RecordWords(French), Columns(French))
}

// TestVectors: each published history has one verdict, whose words differ by language and in nothing else.
func TestVectors(t *testing.T) {
	v, p := load(t)
	opt := proof.HistoryOptions{AllowProvisional: true}
	texts := map[string]string{}
	for i, g := range v.Good {
		texts[fmt.Sprint("good ", i)] = g.Text
	}
	for i, b := range v.Bad {
		text := v.Good[b.Of].Text
		for _, h := range slices.Backward(b.Hunks) {
			text = text[:h.At] + h.Put + text[h.At+h.Cut:]
		}
		texts[fmt.Sprint("bad ", i, " ", b.Reason)] = text
	}
	seen := map[State]int{}
	for name, text := range texts {
		fr, in := check(t, p, text, French, opt)
		if whose := Whose(fr, in); (whose != nil) != strings.HasPrefix(name, "good") || whose != nil && (len(whose) != len(in.Verdict.Subjects) || whose[0].Name != "identité complète" && strings.Contains(fmt.Sprint(whose), "identité complète")) {
			t.Errorf("%s: of %+v", name, whose)
		}
		en, _ := check(t, p, text, English, opt)
		if a, b := shape(fr), shape(en); a != b {
			t.Errorf("%s:\n%s\n%s", name, a, b)
		}
		if fr.Title == en.Title && fr.State != Refuted || fr.Sentence == en.Sentence || fr.Sentence == "" {
			t.Errorf("%s: the same in both languages: %s", name, fr.Sentence)
		}
		for _, r := range []*Report{fr, en} {
			b, err := json.Marshal(r)
			if err != nil || strings.Contains(string(b), "%!") || strings.Contains(string(b), "LEFEVRE") {
				t.Errorf("%s: %v %s", name, err, b)
			}
		}
		typeset(t, name, fr)
		if in.Verdict != nil {
			says, not := Words(in.Verdict, French)
			typeset(t, name, says, not)
		}
		if strings.HasPrefix(name, "bad") == (fr.State == Proven || fr.State == Limited || fr.State == Provisional) {
			t.Errorf("%s: %s", name, fr.State)
		}
		seen[fr.State]++
	}
	for _, s := range []State{Proven, Provisional, Unverified, Refuted} {
		if seen[s] == 0 {
			t.Errorf("none is %s", s)
		}
	}
}

// TestWordsOfDelays: a request that was delayed is told from the opening of its record, which was delayed with it.
func TestWordsOfDelays(t *testing.T) {
	v, p := load(t)
	for lang, want := range map[Lang][]string{
		English: {"Among them: 1 data request that was delayed by law.", "Among them: 1 opening of the record of such a request, delayed with it.", "No disclosure about anybody is kept secret",
			"told to you by 2025-11-2", "by Tribunal judiciaire de Lyon, allowed to delay that until the end of "},
		French: {"Parmi elles : 1 demande de données différée par la loi", "Parmi elles : 1 ouverture de la fiche"},
	} {
		found := 0
		for _, g := range v.Good {
			if r, in := check(t, p, g.Text, lang, proof.HistoryOptions{AllowProvisional: true}); r.State == Limited || r.State == Proven || r.State == Provisional {
				says, _ := Words(in.Verdict, lang)
				if all := strings.Join(says, "\n"); !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(all, Typeset(w)) }) {
					found++
				}
			}
		}
		if found != 1 {
			t.Errorf("%s: %d histories say %q", lang, found, want)
		}
	}
}

// TestWordsOfLateDelays: what can't be compared, and what was told too late, is said, of many only the first ones.
func TestWordsOfLateDelays(t *testing.T) {
	v := &proof.HistoryVerdict{State: proof.Witnessed}
	for i := range 22 {
		v.Entries = append(v.Entries, proof.VerifiedEntry{Index: proof.Index(i), Kind: proof.KindOpened, State: proof.RecordOpen, Deferred: &proof.Deferred{Authority: "a", Article: "b", Month: "2025-01"}, Late: i == 0})
	}
	for lang, want := range map[Lang][]string{
		English: {"Entry 0 was made at a time that is not open", "until the end of 2025-01: after its month.", "2 more entries were delayed likewise", "that a law delayed 22 entries as agreed", "why 1 entry was told to you after the month"},
		French:  {"L'entrée 0 a été faite à un moment qui n'est pas ouvert", "du mois 2025-01 : après son mois.", "2 autres entrées ont été différées de même", "qu'une loi différait 22 entrées comme convenu", "pourquoi 1 entrée vous a été dite après le mois"},
	} {
		says, not := Words(v, lang)
		all := strings.Join(append(says, not...), "\n")
		for _, w := range want {
			if !strings.Contains(all, Typeset(w)) {
				t.Errorf("no %q in\n%s", w, all)
			}
		}
	}
}

// TestStates: what Verify returns besides.
func TestStates(t *testing.T) {
	v, p := load(t)
	r, _ := check(t, p, v.Good[1].Text, French, proof.HistoryOptions{})
	if r.State != Provisional || r.Sentence != "Enregistré, pas encore confirmé par les témoins." || len(r.Next) != 1 || !strings.Contains(r.Next[0], "quelques minutes") {
		t.Errorf("without a quorum: %+v", r)
	}
	r, _ = check(t, p, v.Good[0].Text, English, proof.HistoryOptions{Now: proof.TimeOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), MaxAge: time.Hour})
	if r.State != Unverified || !strings.Contains(r.Sentence, "is too old") || !strings.Contains(r.Next[0], "Check the clock of this device, and try again later") {
		t.Errorf("stale: %+v", r)
	}
	_, vkey, err := note.GenerateKey(rand.Reader, "regard.example/log")
	if err != nil {
		t.Fatal(err)
	}
	other, err := proof.NewPolicy(vkey)
	if err != nil {
		t.Fatal(err)
	}
	r, _ = check(t, other, v.Good[0].Text, English, proof.HistoryOptions{AllowProvisional: true})
	if r.State != Unverified || !strings.Contains(r.Sentence, "isn't signed by the keys") || r.Keys[0].Fingerprint != Fingerprint(vkey) {
		t.Errorf("another key: %+v", r)
	}

	_, in := check(t, p, v.Good[0].Text, English, proof.HistoryOptions{})
	for _, c := range []struct {
		err   error
		state State
		says  string
	}{
		{fmt.Errorf("x: %w", proof.ErrFork), Refuted, "two different histories"},
		{fmt.Errorf("x: %w", proof.ErrOtherLog), Unverified, "isn't signed by the keys"},
		{fmt.Errorf("x: %w", proof.ErrSignature), Refuted, "a signature is false"},
		{&proof.HistoryError{Step: proof.StepCompare, Err: fmt.Errorf("x: %w", proof.ErrSubject)}, Unverified, "aren't of the same person"},
		{&proof.HistoryError{Step: proof.StepRecords, Err: fmt.Errorf("x: %w", proof.ErrSubject)}, Refuted, "isn't shown as it was recorded"},
		{errors.New("whatever"), Refuted, "contradicts itself, between 24 November 2025"},
	} {
		in.Err = c.err
		if r := New(in); r.State != c.state || !strings.Contains(r.Sentence, c.says) || r.State == Refuted && (len(r.Refuted.Tell) != 3 || r.Refuted.Reference != "0000 0000 0000 0000 0000") {
			t.Errorf("%v: %+v", c.err, r)
		}
		text, unusable := Problem(c.err, French)
		if unusable != (c.state == Unverified) || text == "" {
			t.Errorf("%v: %v, %q", c.err, unusable, text)
		}
	}
	// A verdict of nothing is none.
	if r := New(Input{Lang: English, Policy: p, History: in.History, Verdict: &proof.HistoryVerdict{}}); r.State != Unverified {
		t.Errorf("%+v", r)
	}
	in.Err = errors.New("refuted")
	r = New(in)
	before := shape(r)
	r.ComparePage(Page{}, in)
	if shape(r) != before {
		t.Error("a page was compared with what is refuted")
	}
}

// honest is the row that an honest page shows of an entry, if it has no names.
func honest(in Input, e *proof.VerifiedEntry) Row {
	x := new(Names).line(e, in.Verdict.Subjects[e.Subject].Type(), in.Lang)
	return Row{Index: &e.Index, Agency: x.agency, Service: x.service, Outcome: x.outcome, At: x.at, Day: x.day, Cells: x.cells[:], Links: x.links[:]}
}

// TestPartOfThePage: a page that leaves something out, or shows what wasn't verified, doesn't stand under the sentence that all of it is in its list.
func TestPartOfThePage(t *testing.T) {
	v, p := load(t)
	for _, lang := range []Lang{French, English} {
		whole, in := check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
		end := closer(in.History)
		var rows []Row
		for _, e := range in.before(end) {
			rows = append(rows, honest(in, e))
		}
		n := len(rows)
		if strings.Contains(whole.Sentence, lang.pick("cette liste", "this list")) {
			t.Errorf("without a page it speaks of a list: %s", whole.Sentence)
		}
		list := lang.pick("sont dans cette liste", "are in this list")
		count := func(there int, more string) string {
			return fmt.Sprintf(lang.pick("Cette page en montre %d sur %d", "This page shows %d of %d"), there, n) + more
		}
		beyond := end + 1
		open := Row{Index: &beyond, Open: true, Day: today(lang)}
		agency := ""
		var of []Row
		for _, r := range rows {
			if agency == "" && r.Service != "" {
				agency = r.Agency
			}
			if r.Service != "" && r.Agency == agency {
				of = append(of, r)
			}
		}
		marker := end
		for name, c := range map[string]struct {
			page   Page
			state  State
			says   string
			limits int // more than the history's own
		}{
			"all":                             {Page{Rows: rows}, Proven, list, 0},
			"all, of a page of pages":         {Page{Rows: rows, View: &View{}, Marker: &marker}, Proven, list, 0},
			"with one of the open day":        {Page{Rows: append([]Row{open}, rows...), View: &View{}, Marker: &marker}, Proven, list, 0},
			"those of an agency":              {Page{Rows: of, View: &View{Agency: agency}}, Proven, count(len(of), lang.pick(" : ceux que vos filtres laissent passer, et aucun n'y manque.", ": those that your filters let through, and none of these is missing.")), 0},
			"those of an agency, but for one": {Page{Rows: of[1:], View: &View{Agency: agency}}, Refuted, lang.pick("la page cache un accès enregistré", "the page hides a recorded request"), 0},
			"a filter that can't be told":     {Page{Rows: of, View: &View{Agency: agency, Unclear: true}}, Limited, count(len(of), "."), 1},
			"a part":                          {Page{Rows: rows[2:]}, Refuted, lang.pick("la page cache un accès enregistré", "the page hides a recorded request"), 0},
			"nothing":                         {Page{}, Refuted, lang.pick("la page cache un accès enregistré", "the page hides a recorded request"), 0},
			"rows of the open day alone":      {Page{Rows: []Row{open}, View: &View{}}, Refuted, lang.pick("la page cache un accès enregistré", "the page hides a recorded request"), 0},
			"what nobody is called":           {Page{View: &View{Search: "zzz"}}, Proven, fmt.Sprintf(lang.pick("Cette page en montre 0 sur %d : vos filtres n'en laissent passer aucun.", "This page shows 0 of %d: your filters let none through."), n), 0},
			"another agency's":                {Page{Rows: rows, View: &View{Agency: agency}}, Refuted, lang.pick("la page montre un accès qui n'est pas de cette partie", "the page shows a request that is not of this part"), 0},
		} {
			c.page.Lang, c.page.Names = lang, namesHeader+"\n"
			r, in := check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
			r.ComparePage(c.page, in)
			if r.State != c.state || !strings.Contains(r.Sentence, c.says) || strings.Contains(r.Sentence, list) != (c.says == list) || c.state != Refuted && len(r.Limits) != len(whole.Limits)+c.limits {
				t.Errorf("%s: %s, %d limits: %s", name, r.State, len(r.Limits)-len(whole.Limits), r.Sentence)
			}
			// Without other limits it is proven, and what isn't compared is one.
			r, _ = check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
			r.State, r.Title, r.Limits = Proven, Title(Proven, lang), nil
			r.ComparePage(c.page, in)
			want := map[bool]State{false: Proven, true: Limited}[c.limits > 0]
			if c.state == Refuted {
				want = Refuted
			}
			if r.State != want || r.Title != Title(r.State, lang) {
				t.Errorf("%s: %s, %s", name, r.State, r.Title)
			}
		}
	}
}

// TestPageOfBefore: what was recorded since a page was made isn't on it, which is said and is nothing to worry about while its last day ended just now. A server that calls old days open hides them no better than that.
func TestPageOfBefore(t *testing.T) {
	v, p := load(t)
	for _, lang := range []Lang{French, English} {
		whole, in := check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
		end, since := closer(in.History), 0
		for _, text := range in.History.Markers[:len(in.History.Markers)-1] {
			at := marker(text).At()
			var rows []Row
			for _, e := range in.before(at) {
				rows = append(rows, honest(in, e))
			}
			left := len(in.before(end)) - len(rows)
			epoch, ok := in.epochOf(at)
			if !ok {
				t.Fatalf("marker %d opens no closed epoch", at)
			}
			if left > 0 {
				since++
			}
			says := fmt.Sprintf(lang.pick("%d accès enregistrés n'y sont pas encore", "%d recorded requests aren't on it yet"), left)
			for _, c := range []struct {
				now  proof.Time
				kind LimitKind
			}{{epoch.closed, Standing}, {epoch.closed + pageAge, Standing}, {epoch.closed + pageAge + 1, Worrying}, {0, Standing}} {
				r, in := check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
				in.Now = c.now
				r.ComparePage(Page{Lang: lang, Names: namesHeader + "\n", Rows: rows, View: &View{}, Marker: &at}, in)
				want, limits := Proven, len(whole.Limits)
				if left > 0 {
					limits++
					if c.kind == Worrying {
						want = Limited
					}
				}
				if r.State != want || len(r.Limits) != limits {
					t.Fatalf("from entry %d on, at %d: %s, %+v", at, c.now, r.State, r.Limits)
				}
				i := slices.IndexFunc(r.Limits, func(x Limit) bool { return strings.Contains(x.Text, says) })
				if (i >= 0) != (left > 0) || i >= 0 && r.Limits[i].Kind != c.kind || left > 0 && strings.Contains(r.Sentence, lang.pick("sont dans cette liste", "are in this list")) {
					t.Errorf("from entry %d on, at %d: %s %+v", at, c.now, r.Sentence, r.Limits)
				}
				if len(rows) == 0 {
					continue
				}
				// What was closed before is to be there all the same.
				r, in = check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
				in.Now = c.now
				r.ComparePage(Page{Lang: lang, Names: namesHeader + "\n", Rows: rows[1:], View: &View{}, Marker: &at}, in)
				if r.State != Refuted {
					t.Errorf("from entry %d on, without an older one: %s", at, r.State)
				}
			}
		}
		if since < 2 {
			t.Fatalf("%d markers have entries after them", since)
		}
	}
}

// TestLate: a history that ends before a closed epoch that it should have says so, in time for epochs of a day and of seconds, and not a moment after one was closed.
func TestLate(t *testing.T) {
	const second, day = 1000, 86_400_000
	for _, c := range []struct {
		length, after proof.Time // that went by since the next epoch was due
		late          bool
	}{{day, -day, false}, {day, 0, false}, {day, day / 3, false}, {day, day * 2 / 3, true}, {8 * second, 60 * second, false}, {8 * second, 61 * second, true}, {0, 30 * second, false}, {0, 90 * second, true}, {300 * day, day, true}} {
		v := proof.HistoryVerdict{State: proof.Witnessed, Closed: 1_764_000_000_000, Due: 1_764_000_000_000 + c.length, Deferrals: proof.Deferrals{Counted: true}, KeysCounted: true}
		for _, state := range []proof.State{proof.Witnessed, proof.Provisional} {
			v.State = state
			in := Input{Lang: English, Policy: &proof.Policy{}, History: &proof.History{Markers: [][]byte{nil}}, Verdict: &v, Now: v.Due + c.after, Fresh: true}
			r := New(in)
			if got := len(r.Limits) == 1 && strings.Contains(r.Limits[0].Text, "closed days are missing"); got != c.late || got != (r.State == Limited) && state == proof.Witnessed {
				t.Errorf("%+v: %s, %+v", c, r.State, r.Limits)
			}
			if comeBack := r.Scope[0].Lift != ""; comeBack != (c.after <= 0) {
				t.Errorf("%+v: %+v", c, r.Scope[0])
			}
		}
	}
	// regard-audit and browsers say the same of a published one.
	v, p := load(t)
	_, in := check(t, p, v.Good[0].Text, French, proof.HistoryOptions{})
	in.Now, in.Fresh = in.Verdict.Due+day, true
	if r := New(in); r.State != Limited || !strings.HasPrefix(r.Limits[0].Text, "L'historique s'arrête le ") {
		t.Errorf("%+v", r.Limits)
	}
	if !strings.Contains(New(in).Limits[0].Lift, "si c'est faux, réglez-la") {
		t.Errorf("nobody thinks of the clock: %s", New(in).Limits[0].Lift)
	}
	for behind, want := range map[proof.Time]bool{0: false, clockSlack: false, clockSlack + 1: true, 400 * day: true} {
		in.Now = in.Verdict.Closed - behind
		if r := New(in); strings.Contains(fmt.Sprint(r.Limits), "L'horloge de cet appareil indique le ") != want || want != (r.State == Limited) {
			t.Errorf("a clock behind by %d: %s %+v", behind, r.State, r.Limits)
		}
	}
	// One that lay in a drawer is as good as it was.
	if in.Fresh = false; New(in).State != Proven {
		t.Errorf("of some time ago: %+v", New(in).Limits)
	}
}

// TestClock: with a device whose clock is wrong, however far, nothing is called wrong that isn't; and what is wrong is, whatever the time.
func TestClock(t *testing.T) {
	v, p := load(t)
	const hour = proof.Time(time.Hour / time.Millisecond)
	for i, g := range v.Good {
		if g.State == "provisional" {
			continue
		}
		_, in := check(t, p, g.Text, English, proof.HistoryOptions{})
		var last proof.Time // of all markers that are shown
		for _, text := range in.History.Markers {
			last = max(last, marker(text).Opened)
		}
		for n := range in.History.Entries {
			if e, err := proof.ParseEntry(in.History.Entries[n].Text); err == nil {
				if m, ok := e.(proof.Marker); ok {
					last = max(last, m.Opened)
				}
			}
		}
		for _, c := range []struct {
			off   proof.Time // from the newest marker
			state map[State]bool
			cause Cause
		}{
			{0, map[State]bool{Proven: true, Limited: true}, ""},
			{-23 * hour, map[State]bool{Proven: true, Limited: true}, ""},
			{-25 * hour, map[State]bool{Unverified: true}, CauseClock},
			{-72 * hour, map[State]bool{Unverified: true}, CauseClock},
			{-10 * 366 * 24 * hour, map[State]bool{Unverified: true}, CauseClock},
			{72 * hour, map[State]bool{Unverified: true}, CauseStale},
			{10 * 366 * 24 * hour, map[State]bool{Unverified: true}, CauseStale},
		} {
			for _, lang := range []Lang{French, English} {
				// As in the browser.
				in.Lang, in.Now, in.Fresh = lang, last+c.off, true
				opt := proof.HistoryOptions{Now: in.Now, AllowProvisional: true}
				if c.off > 0 {
					opt.MaxAge = 48 * time.Hour
				}
				x, err := in.History.Verify(p, opt)
				in.Verdict, in.Err = &x, err
				r := New(in)
				if !c.state[r.State] || r.Cause != c.cause || r.Refuted != nil || c.cause == CauseClock && (r.Sentence != CauseClock.Sentence(lang) || !strings.Contains(r.Next[0], lang.when(in.Now))) {
					t.Errorf("%d, a clock that is off by %d h: %s %s %s %q", i, c.off/hour, r.State, r.Cause, r.Sentence, r.Next)
				}
				typeset(t, "clock", r)
			}
		}
		// Files that prove nothing, and pages that show something else, are what they are at any time.
		in.Now, in.Lang = last-72*hour, English
		x, err := in.History.Verify(p, proof.HistoryOptions{Now: in.Now})
		if in.Verdict, in.Err = &x, err; len(x.Entries) == 0 {
			continue
		}
		var rows []Row
		for _, e := range in.before(closer(in.History)) {
			rows = append(rows, honest(in, e))
		}
		for name, c := range map[string]struct {
			page  Page
			state State
		}{
			"an honest page":             {Page{Rows: rows}, Unverified},
			"one that leaves out":        {Page{Rows: rows[1:]}, Refuted},
			"one of somebody else":       {Page{Rows: rows[1:], Of: "x"}, Unverified},
			"one that goes on after all": {Page{Rows: rows, Marker: new(proof.Index(1 << 40))}, Unverified},
			"an honest page of one":      {honestRecord(t, in, English, &x.Entries[0]), Unverified},
			"of one, with a lie": {func() Page {
				one := honestRecord(t, in, English, &x.Entries[0])
				one.Record.Agency += "x"
				return one
			}(), Refuted},
		} {
			marks := 1
			if c.page.Record == nil {
				c.page.Lang, c.page.Names, marks = English, namesHeader+"\n", len(rows)-1
			}
			r := New(in)
			r.ComparePage(c.page, in)
			if r.State != c.state || (r.Refuted != nil) != (c.state == Refuted) || c.state == Unverified && (r.Cause != CauseClock || r.Rows != nil) || c.state == Refuted && (r.Cause != "" || len(r.Rows) != marks) {
				t.Errorf("%d, %s: %s %s %+v", i, name, r.State, r.Cause, r.Rows)
			}
		}
	}
	refuted := 0
	for i, b := range v.Bad {
		text := v.Good[b.Of].Text
		for _, h := range slices.Backward(b.Hunks) {
			text = text[:h.At] + h.Put + text[h.At+h.Cut:]
		}
		want, _ := check(t, p, text, English, proof.HistoryOptions{AllowProvisional: true})
		got, _ := check(t, p, text, English, proof.HistoryOptions{Now: 1, AllowProvisional: true})
		if got.State != want.State || got.Sentence != want.Sentence {
			t.Errorf("bad %d (%s): %s, with a slow clock %s", i, b.Reason, want.Sentence, got.Sentence)
		}
		if got.State == Refuted {
			refuted++
		}
	}
	if refuted < 20 {
		t.Errorf("%d refuted", refuted)
	}
	// Another tree of a size that was seen before is a fork, and no matter of clocks.
	_, in := check(t, p, v.Good[0].Text, English, proof.HistoryOptions{Now: 1})
	other, _ := proof.ParseHistory([]byte(v.Good[5].Text))
	r := New(in)
	if r.CompareSeen(Seen{Policy: "x", Checkpoint: string(other.Checkpoint)}, nil, in); r.State != Refuted || r.Cause != "" {
		t.Errorf("%s %s", r.State, r.Cause)
	}
}

// TestBeginning: a whole history that doesn't begin with the log says so, however its page was asked for. One of which the first days are over, or of a log that is new, begins with the log.
func TestBeginning(t *testing.T) {
	v, p := load(t)
	_, in := check(t, p, v.Good[0].Text, English, proof.HistoryOptions{})
	in.Now, in.Fresh, in.Whole = in.Verdict.Due, true, true
	for name, c := range map[string]struct {
		change func(v *proof.HistoryVerdict)
		state  State
	}{
		"from the first epoch":          {func(*proof.HistoryVerdict) {}, Proven},
		"of which the first is over":    {func(v *proof.HistoryVerdict) { v.Ended = []proof.EpochRange{{From: 0, To: 0}} }, Proven},
		"of a log of one epoch":         {func(v *proof.HistoryVerdict) { v.Epochs.To = 0 }, Proven},
		"without the first":             {func(v *proof.HistoryVerdict) { v.Epochs.From = 1 }, Limited},
		"without it, and others over":   {func(v *proof.HistoryVerdict) { v.Epochs.From, v.Ended = 1, []proof.EpochRange{{From: 1, To: 1}} }, Limited},
		"of the last epoch alone":       {func(v *proof.HistoryVerdict) { v.Epochs.From = v.Epochs.To }, Limited},
		"without it, and not witnessed": {func(v *proof.HistoryVerdict) { v.Epochs.From, v.State = 1, proof.Provisional }, Provisional},
	} {
		x, verified := in, *in.Verdict
		c.change(&verified)
		x.Verdict = &verified
		r := New(x)
		late := len(r.Limits) > 0 && strings.HasPrefix(r.Limits[0].Text, "The history begins on ") && strings.Contains(r.Limits[0].Text, "the days before are missing, and the log has them")
		if r.State != c.state || late != (verified.Epochs.From > 0) {
			t.Errorf("%s: %s %+v", name, r.State, r.Limits)
		}
		for _, fresh := range []bool{true, false} {
			if x.Fresh, x.Whole = fresh, false; verified.State == proof.Witnessed && New(x).State != Proven {
				t.Errorf("%s, a file by itself, of which somebody chose the days: %+v", name, New(x).Limits)
			}
		}
	}
	// The page of one access is about its epoch.
	x, verified := in, *in.Verdict
	verified.Epochs.From = 1
	x.Verdict = &verified
	e := &verified.Entries[len(verified.Entries)-1]
	r := New(x)
	if r.ComparePage(honestRecord(t, x, English, e), x); r.State == Refuted || slices.ContainsFunc(r.Limits, func(l Limit) bool { return strings.HasPrefix(l.Text, "The history begins") }) {
		t.Errorf("%s %+v", r.State, r.Limits)
	}
}

// TestDays: of a history of some days nothing is missing that comes after them, and what is missing of them is said.
func TestDays(t *testing.T) {
	v, p := load(t)
	_, in := check(t, p, v.Good[0].Text, French, proof.HistoryOptions{}) // 24 November 2025 at 17:00 to 27 November at 17:00
	in.Now, in.Fresh = proof.TimeOf(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)), true
	const early, late = "L'historique s'arrête le ", "L'historique ne commence que le "
	for _, c := range []struct {
		days   *Days
		from   proof.Epoch // in place of the first one
		limits []string
	}{
		{nil, 0, []string{early}},
		{nil, 1, []string{late, early}},
		{&Days{"2025-11-24", "2025-11-27"}, 0, nil},
		{&Days{"2025-11-24", "2025-11-28"}, 0, nil}, // the next one wasn't closed in time to have it
		{&Days{"2025-11-24", "2025-11-30"}, 0, []string{early}},
		{&Days{"2025-11-24", "2099-01-01"}, 0, []string{early}},
		{&Days{"2025-11-24", "hier"}, 0, []string{early}},
		{&Days{"2025-11-24", ""}, 0, []string{early}},
		{&Days{"2020-01-01", "2025-11-27"}, 0, nil}, // before the log began there is nothing
		{&Days{"2025-11-24", "2025-11-27"}, 1, []string{late}},
		{&Days{"2025-11-25", "2025-11-27"}, 1, nil},
		{&Days{"", "2025-11-27"}, 1, []string{late}},
		{&Days{"2025-11-30", "2025-11-27"}, 1, []string{late}},
		{&Days{"2025-11-24", "2025-12-30"}, 1, []string{late, early}},
	} {
		x, verified := in, *in.Verdict
		x.Asked, x.Whole, x.Verdict, verified.Epochs.From = c.days, c.days == nil, &verified, c.from
		r := New(x)
		var got []string
		for _, l := range r.Limits {
			if l.Kind == Worrying {
				got = append(got, l.Text)
			}
		}
		if len(got) != len(c.limits) || (r.State == Limited) != (len(got) > 0) {
			t.Errorf("%v: %s %q", c.days, r.State, got)
			continue
		}
		for i, want := range c.limits {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%v: %q", c.days, got)
			}
		}
	}
	// A day in Paris begins before the one in UTC, also where the clocks change.
	for day, want := range map[string]string{"2026-01-01": "2025-12-31T23:00:00Z", "2026-07-01": "2026-06-30T22:00:00Z", "2026-03-29": "2026-03-28T23:00:00Z", "2026-03-30": "2026-03-29T22:00:00Z", "2026-10-25": "2026-10-24T22:00:00Z", "2026-10-26": "2026-10-25T23:00:00Z"} {
		if from, _ := (Days{day, day}).span(0); from.Time().Format(time.RFC3339) != want {
			t.Errorf("%s begins at %s", day, from.Time())
		}
	}
}

// TestSeen: other keys, a smaller tree and another one of the same size are said, and nothing is remembered of what isn't held to be true.
func TestSeen(t *testing.T) {
	v, p := load(t)
	policy := []byte(v.Common.Policy)
	const now, day = proof.Time(1_764_500_000_000), 86_400_000
	const whole, provisional, small, other = 0, 1, 4, 5 // of 29 entries, but for that of 7; the last is another tree
	fresh := func(n int, now proof.Time) (*Report, Input) {
		r, in := check(t, p, v.Good[n].Text, English, proof.HistoryOptions{AllowProvisional: true})
		in.Now = now
		return r, in
	}
	see := func(n int, was Seen, now proof.Time) (Seen, *Report) {
		r, in := fresh(n, now)
		return r.CompareSeen(was, policy, in), r
	}
	says := func(r *Report) string {
		var out []string
		for _, l := range r.Limits {
			out = append(out, l.Text)
		}
		return strings.Join(append(out, r.Checks[0].Says...), " ")
	}
	first, r := see(whole, Seen{}, now)
	_, in := fresh(whole, now)
	if len(first.Policy) != 64 || first.Checkpoint != string(in.History.Checkpoint) || first.At != now || first.Changed != 0 || r.State != Proven {
		t.Fatalf("%+v", first)
	}
	if again, r := see(whole, first, now+1000); again.At != now+1000 || again.Checkpoint != first.Checkpoint || r.State != Proven || !strings.Contains(says(r), "These are the keys of this browser's last check, on 30 November 2025") {
		t.Errorf("the same: %+v, %s", again, says(r))
	}
	keys := first
	keys.Policy = "00"
	changed, r := see(whole, keys, now+1000)
	if changed.Policy != first.Policy || changed.Changed != now+1000 || !strings.HasPrefix(says(r), "The keys by which this browser checks changed on") || r.State != Limited {
		t.Errorf("other keys: %+v, %s", changed, says(r))
	}
	if _, r = see(whole, changed, now+day); !strings.HasPrefix(says(r), "The keys by which this browser checks changed on 30 November 2025") {
		t.Errorf("a day later: %s", says(r))
	}
	if _, r = see(whole, changed, now+40*day); r.State != Proven {
		t.Errorf("much later: %s", says(r))
	}
	kept, r := see(small, first, now)
	if kept.Checkpoint != first.Checkpoint || !strings.HasPrefix(says(r), "This log of 7 entries is smaller than the one that this browser saw on 30 November 2025 at 11:53 (29 entries).") || r.State != Limited {
		t.Errorf("smaller: %+v, %s", kept, says(r))
	}
	if !r.Smaller {
		t.Error("whoever asked doesn't learn that it is smaller")
	}
	// One that witnesses didn't confirm is compared and not remembered.
	if one, _ := see(provisional, Seen{}, now); one.Checkpoint != "" || one.Policy != first.Policy {
		t.Errorf("provisional: %+v", one)
	}
	smaller, _ := see(small, Seen{}, now)
	if kept, r := see(provisional, smaller, now+1); kept.Checkpoint != smaller.Checkpoint || kept.At != now+1 || r.Smaller || r.State != Provisional {
		t.Errorf("a larger one, provisional: %+v, %s", kept, says(r))
	}
	if grown, _ := see(whole, smaller, now); grown.Checkpoint != first.Checkpoint {
		t.Errorf("a larger one: %+v", grown)
	}
	// Another tree of the same size, signed as well, refutes whatever has been found, also under keys that have become others since.
	forked, _ := see(other, Seen{}, now)
	late := forked
	late.Policy = "00"
	for name, was := range map[string]Seen{"the same keys": forked, "other keys": late} {
		for _, n := range []int{whole, provisional} {
			kept, r := see(n, was, now)
			if kept != was || r.State != Refuted || !strings.Contains(r.Sentence, "two different histories") || !strings.Contains(r.Refuted.Detail, "two trees of 29 entries") || r.Rows != nil {
				t.Errorf("%s: another tree of the same size than %d: %+v, %+v", name, n, kept, r)
			}
			if c := r.Checks[len(r.Checks)-1]; c.Code != "seen" || c.State != Failed || c.Evidence[0].Value == c.Evidence[2].Value || !strings.Contains(c.Evidence[3].Value, "w1.example/witness") {
				t.Errorf("%s: %+v", name, c)
			}
		}
	}
	for name, r := range map[string]*Report{"not verified": NotVerified(CauseBehind, English), "refuted for something else": {State: Refuted, Refuted: &Refutation{}}} {
		if kept := r.CompareSeen(first, policy, in); kept != first || r.State == Proven {
			t.Errorf("%s: %+v", name, kept)
		}
		if kept := r.CompareSeen(forked, policy, in); kept != forked || r.State != Refuted || !strings.Contains(r.Sentence, "two different histories") || r.Cause != "" {
			t.Errorf("%s, and another tree: %+v, %+v", name, kept, r)
		}
	}
	if kept := NotVerified(CauseServer, English).CompareSeen(forked, policy, Input{Lang: English}); kept != forked {
		t.Errorf("of what isn't there: %+v", kept)
	}
	// What the log didn't sign says nothing against it.
	for name, note := range map[string]string{"nonsense": "x", "an altered root": strings.Replace(forked.Checkpoint, "Lq4v", "Aq4v", 1), "no signature": strings.SplitAfter(forked.Checkpoint, "\n\n")[0]} {
		was := forked
		if was.Checkpoint = note; note == forked.Checkpoint {
			t.Fatal(name)
		}
		if kept, r := see(whole, was, now); kept.Checkpoint != first.Checkpoint || r.State != Proven {
			t.Errorf("%s: %+v, %s", name, kept, r.Sentence)
		}
		if kept, _ := see(provisional, was, now); kept.Checkpoint != "" {
			t.Errorf("%s: %+v", name, kept)
		}
	}
}

// TestBefore: what saved evidence has of before is worth what the log signed of it.
func TestBefore(t *testing.T) {
	v, p := load(t)
	note := func(n int) []byte {
		h, err := proof.ParseHistory([]byte(v.Good[n].Text))
		if err != nil {
			t.Fatal(err)
		}
		return h.Checkpoint
	}
	for _, lang := range []Lang{French, English} {
		for name, c := range map[string]struct {
			note   []byte
			fr, en string
		}{
			"another tree": {note(5), "Ce fichier suffit comme preuve", "This file is evidence enough"},
			"the same":     {note(2), "avait vu le même arbre", "had seen the same tree"},
			"a smaller":    {note(4), "un arbre de 7 entrées, signé lui aussi", "a tree of 7 entries before, signed as well"},
			"nonsense":     {[]byte("x"), "ne prouve rien", "proves nothing"},
			"not signed":   {[]byte(strings.Replace(string(note(5)), "Lq4v", "Aq4v", 1)), "ne prouve rien", "proves nothing"},
		} {
			r, in := check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
			says, split := r.CompareBefore(c.note, in)
			if split != (name == "another tree") || (r.State == Refuted) != split || !strings.Contains(says, lang.pick(c.fr, c.en)) {
				t.Errorf("%s: %s %s", name, r.State, says)
			}
		}
	}
}

// TestPerson: whose a history is begins with whom everybody knows: themself, by name and date in words.
func TestPerson(t *testing.T) {
	for want, p := range map[string]proof.Pivot{
		"Camille Inès Exemple Alpha, née le 31 janvier 1990 (commune 75056)": {BirthName: "Exemple Alpha", GivenNames: "Camille Inès", BirthDate: "1990-01-31", Sex: "F", BirthPlace: "75056", BirthCountry: proof.France},
		"Loïc Exemple, né en 1990-02 (pays 99109)":                           {BirthName: "Exemple", GivenNames: "Loïc", BirthDate: "1990-02", Sex: "M", BirthCountry: "99109"},
		"Exemple, né(e) en 1990":                                             {BirthName: "Exemple", BirthDate: "1990"},
		"Exemple":                                                            {BirthName: "Exemple"},
	} {
		if got := French.person(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	ine, err := proof.ParseSubject(string(proof.TypeINE), "0EXEMPLE03C")
	if err != nil {
		t.Fatal(err)
	}
	pivot, err := proof.Pivot{BirthName: "Martin", GivenNames: "Camille", BirthDate: "1990-01-01", Sex: "F", BirthPlace: "75056", BirthCountry: proof.France}.Subject()
	if err != nil {
		t.Fatal(err)
	}
	person, err := proof.Person{BirthName: "Martin", GivenNames: "Camille", BirthDate: "1990-01-01", Sex: "F"}.Subject()
	if err != nil {
		t.Fatal(err)
	}
	whose := Whose(&Report{State: Proven}, Input{Lang: French, Verdict: &proof.HistoryVerdict{Subjects: []proof.Subject{ine, person, pivot}}})
	if len(whose) != 3 || whose[2].Value != "CAMILLE MARTIN, née le 1er janvier 1990" || whose[2].Name != "nom, prénoms, sexe et date de naissance, sans lieu de naissance" || !strings.Contains(whose[0].Value, "née le 1er janvier 1990") || whose[1].Value != "0EXEMPLE03C" {
		t.Errorf("%+v", whose)
	}
}

// TestOutcomesOfARow: by state and kind, whatever else is known of the entry. An erasure covers its own record, and is shown as what it is.
func TestOutcomesOfARow(t *testing.T) {
	for _, c := range []struct {
		kind    proof.Kind
		state   proof.RecordState
		outcome string
	}{
		{proof.KindErasure, proof.RecordErased, "erasure"}, {proof.KindErasure, proof.RecordOpen, "erasure"}, {proof.KindErasure, proof.RecordRetired, "retired"}, {proof.KindErasure, proof.RecordLost, "lost"},
		{proof.KindDisclosure, proof.RecordErased, "erased"}, {proof.KindAccess, proof.RecordOpen, "access"}, {proof.KindOpened, proof.RecordOpen, "opened"}, {proof.KindOpened, proof.RecordErased, "erased"},
	} {
		e := &proof.VerifiedEntry{Kind: c.kind, State: c.state}
		if got := statusOf(e, false); got != c.outcome {
			t.Errorf("%s, %v: shown as %s, not as %s", c.kind, c.state, got, c.outcome)
		}
	}
}

// TestLimits: each thing that isn't proven and could be is a limit, in both languages; without one that is worrying it is proven.
func TestLimits(t *testing.T) {
	const day = 86_400_000
	base := func() proof.HistoryVerdict {
		return proof.HistoryVerdict{State: proof.Witnessed, Epochs: proof.EpochRange{From: 0, To: 9}, Opened: 1_764_000_000_000, Closed: 1_764_000_000_000 + 10*day, Due: 1_764_000_000_000 + 11*day,
			Deferrals: proof.Deferrals{Counted: true}, KeysCounted: true}
	}
	one := func(s proof.RecordState) []proof.VerifiedEntry {
		return []proof.VerifiedEntry{{State: s, Kind: proof.KindDisclosure}}
	}
	for name, c := range map[string]struct {
		change func(v *proof.HistoryVerdict)
		limits int
		worry  bool
		says   string // the first limit
	}{
		"nothing":         {func(*proof.HistoryVerdict) {}, 0, false, ""},
		"a pending delay": {func(v *proof.HistoryVerdict) { v.Deferrals.Pending = 1 }, 1, false, "1 request is delayed by law"},
		"an overdue one":  {func(v *proof.HistoryVerdict) { v.Deferrals.Pending, v.Deferrals.Overdue = 2, 1 }, 2, true, "that are later than the month"},
		"a lost one":      {func(v *proof.HistoryVerdict) { v.Deferrals.Pending, v.Deferrals.Lost = 2, 1 }, 2, true, "with details that were lost: 1"},
		"one told too late": {func(v *proof.HistoryVerdict) {
			v.Entries = one(proof.RecordOpen)
			v.Entries[0].Kind, v.Entries[0].Deferred, v.Entries[0].Agreed, v.Entries[0].Late = proof.KindOpened, &proof.Deferred{}, true, true
		}, 1, true, "only after the month that stands in the log: 1"},
		"not audited and lost": {func(v *proof.HistoryVerdict) { v.Unaudited, v.LostRolls = 1, 1 }, 2, true, "restored backup"},
		"not counted":          {func(v *proof.HistoryVerdict) { v.Deferrals.Counted = false }, 1, false, "operator's word"},
		"not audited":          {func(v *proof.HistoryVerdict) { v.Unaudited = 3 }, 1, false, "For 3 days no auditor"},
		"not audited for a week": {func(v *proof.HistoryVerdict) {
			v.Unaudited, v.UnauditedSince = 3, v.Closed-7*day
		}, 1, false, "For 3 days no auditor"},
		"not audited for longer": {func(v *proof.HistoryVerdict) {
			v.Unaudited, v.UnauditedSince = 3, v.Closed-7*day-1
		}, 1, true, "For 3 days, from what was closed on 27 November 2025 at 16:59 on, no auditor"},
		"not audited, in one of long ago": {func(v *proof.HistoryVerdict) {
			v.Unaudited, v.UnauditedSince, v.RootTime = 1, v.Closed, v.Closed+8*day
		}, 1, true, "no auditor has counted again"},
		"ended":              {func(v *proof.HistoryVerdict) { v.Ended = []proof.EpochRange{{From: 0, To: 1}} }, 1, false, "Of 2 days nothing is kept"},
		"a lost roll":        {func(v *proof.HistoryVerdict) { v.LostRolls = 1 }, 1, true, "restored backup"},
		"lost entries":       {func(v *proof.HistoryVerdict) { v.LostEntries = 4 }, 1, true, "4 requests at most"},
		"erasing":            {func(v *proof.HistoryVerdict) { v.Entries = one(proof.RecordErasing) }, 1, false, "erased lately"},
		"lost":               {func(v *proof.HistoryVerdict) { v.Entries = one(proof.RecordLost) }, 1, true, "were lost"},
		"unknown":            {func(v *proof.HistoryVerdict) { v.Entries = one(proof.RecordUnknown) }, 1, true, "doesn't know"},
		"erased":             {func(v *proof.HistoryVerdict) { v.Entries = one(proof.RecordErased) }, 0, false, ""},
		"retired":            {func(v *proof.HistoryVerdict) { v.Entries = one(proof.RecordRetired) }, 0, false, ""},
		"retired, uncounted": {func(v *proof.HistoryVerdict) { v.Entries, v.KeysCounted = one(proof.RecordRetired), false }, 1, false, "operator's word"},
		"withheld":           {func(v *proof.HistoryVerdict) { v.Entries = one(proof.RecordOpen); v.Entries[0].Withheld = 2 }, 1, true, "hidden: 2, in requests: 1"},
	} {
		v := base()
		c.change(&v)
		in := Input{Lang: English, Policy: &proof.Policy{}, History: &proof.History{Markers: [][]byte{nil}}, Verdict: &v}
		r := New(in)
		want := Proven
		if c.worry {
			want = Limited
		}
		if r.State != want || r.Title != Title(want, English) || len(r.Limits) != c.limits || c.limits > 0 && !strings.Contains(r.Limits[0].Text, c.says) {
			t.Errorf("%s: %s, %+v", name, r.State, r.Limits)
		}
		for i, x := range r.Limits {
			if (x.Kind == Worrying) != (c.worry && i == 0) || x.Kind != Worrying && x.Kind != Standing || x.Lift == "" {
				t.Errorf("%s: limit %d is %+v", name, i, x)
			}
		}
		if strings.HasPrefix(r.Sentence, "All recorded requests about you under these identifiers, from 24 November 2025 at 17:00 to 4 December 2025 at 17:00") != v.Complete() {
			t.Errorf("%s: %s", name, r.Sentence)
		}
		in.Lang = French
		if fr := New(in); shape(fr) != shape(r) || slices.ContainsFunc(fr.Limits, func(x Limit) bool {
			return slices.ContainsFunc(r.Limits, func(y Limit) bool { return x.Text == y.Text })
		}) || strings.Contains(fmt.Sprint(fr), "%!") {
			t.Errorf("%s: in French %+v", name, fr)
		}
	}
	v := base()
	v.Entries = []proof.VerifiedEntry{{Epoch: 3}, {Epoch: 3}}
	in := Input{Lang: French, Policy: &proof.Policy{}, History: &proof.History{Markers: [][]byte{nil}}, Verdict: &v}
	if r := New(in); r.Quiet != "Aucun accès pendant 9 autres jours, et c'est prouvé." {
		t.Error(r.Quiet)
	}
	v.Closed = v.Opened + 10*1000
	if r := New(in); r.Quiet != "Aucun accès pendant 9 autres périodes, et c'est prouvé." {
		t.Error(r.Quiet)
	}
	v.Entries = nil
	if r := New(in); r.Quiet != "Aucun accès pendant 10 périodes, et c'est prouvé." {
		t.Error(r.Quiet)
	}
}

// TestAround: no word is missing.
func TestAround(t *testing.T) {
	fr, en := reflect.ValueOf(NewAround(French)), reflect.ValueOf(NewAround(English))
	for i := range fr.NumField() {
		name := fr.Type().Field(i).Name
		if name == "Causes" {
			continue
		}
		if a, b := fr.Field(i).String(), en.Field(i).String(); a == "" || a == b {
			t.Errorf("%s: %q, %q", name, a, b)
		}
	}
	for _, c := range Causes() {
		a, b := NewAround(French).Causes[c], NewAround(English).Causes[c]
		if a.State != Unverified || a.Sentence == b.Sentence || a.Next[0] == b.Next[0] || a.Title == b.Title {
			t.Errorf("%s: %+v, %+v", c, a, b)
		}
	}
}

func TestKeys(t *testing.T) {
	_, p := load(t)
	keys := Keys(p, English)
	if len(keys) != 1+len(p.Witnesses()) || keys[0].Role != "log" || keys[0].Name != "regard.example/log" || keys[0].Fingerprint != Fingerprint(p.LogKeys()[0]) || len(keys[0].Fingerprint) != 79 {
		t.Errorf("%+v", keys)
	}
	// printf %s abc | sha256sum
	if got := Fingerprint("abc"); !strings.HasPrefix(got, "ba78 16bf 8f01 cfea") {
		t.Error(got)
	}
}

// TestDependencies: the browser runs it, so it brings nothing but package proof.
func TestDependencies(t *testing.T) {
	list := func(arg ...string) []string {
		c := exec.Command("go", append([]string{"list", "-deps"}, arg...)...)
		c.Env = append(c.Environ(), "GOOS=js", "GOARCH=wasm")
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	have := list("../proof")
	for _, p := range list(".") {
		if !slices.Contains(have, p) && p != "github.com/regard-broker/regard/ledger/verdict" {
			t.Errorf("it depends on %s, and package proof doesn't", p)
		}
	}
}

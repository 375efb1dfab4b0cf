package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// account is that of somebody who signed in, with their pivot and their names without the birth place.
func account(t testing.TB, p proof.Pivot) broker.Account {
	t.Helper()
	pivot := subjectOf(t, p)
	person, err := p.Person().Subject()
	if err != nil {
		t.Fatal(err)
	}
	return broker.Account{Pivot: pivot, Subjects: []proof.Subject{pivot, person}, Lang: "fr"}
}

func wantCode(t testing.TB, what string, err error, status int, code string) {
	t.Helper()
	var p *broker.Problem
	if !errors.As(err, &p) || p.Status != status || p.Code != code {
		t.Errorf("%s: %v, want %d %s", what, err, status, code)
	}
}

// until waits until it is so.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

const contested = "Je n'ai rien demandé.\r\nQui a consulté mon quotient ? CONTESTMARKER"

func TestContest(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, nil)
	ctx := t.Context()
	me := account(t, marie)
	a := w.disclose(request())
	filed, err := w.b.FileContest(ctx, me, a.ID, contested)
	if err != nil {
		t.Fatal(err)
	}
	if filed.State != "open" || filed.Agency != "mairie" || filed.Role != "asked" || filed.Namesake || filed.Overdue || filed.Text != strings.ReplaceAll(contested, "\r\n", "\n") || filed.Disclosure != a.ID || filed.Entry != entryOf(t, a) || filed.Due != broker.ContestDue(filed.Filed) {
		t.Errorf("%+v", filed)
	}
	if again, err := w.b.ContestEntry(ctx, me, filed.Entry, contested); err != nil || again.ID != filed.ID {
		t.Errorf("the same by its entry: %+v, %v", again, err)
	}
	if again, err := w.b.FileContest(ctx, me, a.ID, contested); err != nil || again.ID != filed.ID {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	_, err = w.b.FileContest(ctx, me, a.ID, "another")
	wantCode(t, "another text while one is open", err, 409, "contest.open")

	// The agency.
	page, err := w.b.Contests(ctx, w.caller, "open", store.ID{}, 0)
	if err != nil || len(page.Contests) != 1 || page.Contests[0].ID != filed.ID || page.Contests[0].Text != filed.Text || page.Next != (store.ID{}) {
		t.Fatalf("%+v, %v", page, err)
	}
	other := broker.Caller{ID: "prefecture"}
	if page, err := w.b.Contests(ctx, other, "", store.ID{}, 0); err != nil || len(page.Contests) != 0 {
		t.Errorf("another agency: %+v, %v", page, err)
	}
	_, unknown := w.b.Contest(ctx, w.caller, a.ID)
	wantCode(t, "an id that never was", unknown, 404, "contest.unknown")
	for name, caller := range map[string]broker.Caller{"another agency": other, "an auditor of that id": {ID: "mairie", Auditor: true}, "nobody": {}} {
		for move, f := range map[string]func() error{
			"read":        func() error { _, err := w.b.Contest(ctx, caller, filed.ID); return err },
			"acknowledge": func() error { _, err := w.b.AcknowledgeContest(ctx, caller, filed.ID); return err },
			"extend":      func() error { _, err := w.b.ExtendContest(ctx, caller, filed.ID, "r"); return err },
			"answer":      func() error { _, err := w.b.AnswerContest(ctx, caller, filed.ID, "explained", "t"); return err },
		} {
			if err := f(); err == nil || *broker.AsProblem(err) != *broker.AsProblem(unknown) {
				t.Errorf("%s, %s: %v", name, move, err)
			}
		}
	}
	c, err := w.b.AcknowledgeContest(ctx, w.caller, filed.ID)
	if err != nil || c.Acknowledged.IsZero() || c.State != "open" || !c.Due.Equal(filed.Due) {
		t.Errorf("%+v, %v", c, err)
	}
	if again, err := w.b.AcknowledgeContest(ctx, w.caller, filed.ID); err != nil || !again.Acknowledged.Equal(c.Acknowledged) {
		t.Errorf("%+v, %v", again, err)
	}
	c, err = w.b.ExtendContest(ctx, w.caller, filed.ID, "Le service est en congé.")
	if err != nil || c.Due.Sub(filed.Due) < 58*day || c.Extension != "Le service est en congé." {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := w.b.ExtendContest(ctx, w.caller, filed.ID, "Le service est en congé."); err != nil {
		t.Errorf("the same extension again: %v", err)
	}
	_, err = w.b.ExtendContest(ctx, w.caller, filed.ID, "encore")
	wantCode(t, "a second extension", err, 409, "contest.extended")
	_, err = w.b.AnswerContest(ctx, w.caller, filed.ID, "who knows", "t")
	wantCode(t, "an outcome that isn't one", err, 400, "request.invalid")
	_, err = w.b.AnswerContest(ctx, w.caller, filed.ID, broker.ContestExplained, " \n ")
	wantCode(t, "an answer without a text", err, 400, "request.invalid")
	c, err = w.b.AnswerContest(ctx, w.caller, filed.ID, broker.ContestExplained, "Pour la cantine. ANSWERMARKER")
	if err != nil || c.State != "answered" || c.Outcome != broker.ContestExplained || c.Ended.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := w.b.AnswerContest(ctx, w.caller, filed.ID, broker.ContestExplained, "Pour la cantine. ANSWERMARKER"); err != nil {
		t.Errorf("the same answer again: %v", err)
	}
	_, err = w.b.AnswerContest(ctx, w.caller, filed.ID, broker.ContestRejected, "Pour la cantine. ANSWERMARKER")
	wantCode(t, "another answer", err, 409, "contest.ended")
	_, err = w.b.WithdrawContest(ctx, me, filed.ID)
	wantCode(t, "withdrawing what was answered", err, 409, "contest.ended")

	// The person.
	mine, err := w.b.ContestsOf(ctx, me)
	if err != nil || len(mine) != 1 || mine[0].Answer != "Pour la cantine. ANSWERMARKER" || mine[0].Extension == "" {
		t.Errorf("%+v, %v", mine, err)
	}
	_, err = w.b.ContestOf(ctx, account(t, killPivot("other")), filed.ID)
	wantCode(t, "somebody else's", err, 404, "contest.unknown")
	// A new one can be filed now, and withdrawn.
	second, err := w.b.FileContest(ctx, me, a.ID, contested)
	if err != nil || second.ID == filed.ID {
		t.Fatalf("%+v, %v", second, err)
	}
	_, err = w.b.WithdrawContest(ctx, account(t, killPivot("other")), second.ID)
	wantCode(t, "withdrawing somebody else's", err, 404, "contest.unknown")
	for range 2 {
		if c, err := w.b.WithdrawContest(ctx, me, second.ID); err != nil || c.State != "withdrawn" {
			t.Errorf("%+v, %v", c, err)
		}
	}
	_, err = w.b.AnswerContest(ctx, w.caller, second.ID, broker.ContestExplained, "trop tard")
	wantCode(t, "answering what was withdrawn", err, 409, "contest.ended")

	// Nothing of it is readable in the files, nor in what is published or logged.
	w.close()
	for _, marker := range []string{"CONTESTMARKER", "ANSWERMARKER", "en congé"} {
		if strings.Contains(w.logs.String(), marker) {
			t.Errorf("%s stands in the broker's log", marker)
		}
		err := filepath.WalkDir(w.cfg.DataDir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, []byte(marker)) {
				t.Errorf("%s stands in %s", marker, path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// entryOf is the log index of the asked entry.
func entryOf(t testing.TB, a *broker.Answer) proof.Index {
	t.Helper()
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	return r.Index()
}

// TestContestOfAnEntry: an entry that isn't there, that is nobody's and that is somebody else's are one; what isn't a request can't be contested.
func TestContestOfAnEntry(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	me, other := account(t, marie), account(t, killPivot("other"))
	i := entryOf(t, w.disclose(request()))
	_, unknown := w.b.ContestEntry(ctx, me, 1<<40, "x")
	wantCode(t, "an entry that isn't there", unknown, 404, "record.unknown")
	for name, err := range map[string]error{
		"somebody else's": func() error { _, err := w.b.ContestEntry(ctx, other, i, "x"); return err }(),
		"a marker":        func() error { _, err := w.b.ContestEntry(ctx, me, 0, "x"); return err }(),
		"beyond any log":  func() error { _, err := w.b.ContestEntry(ctx, me, math.MaxUint64, "x"); return err }(),
	} {
		if err == nil || *broker.AsProblem(err) != *broker.AsProblem(unknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.history(me.Pivot, broker.HistoryPage{})
	for _, e := range w.own(me.Pivot) {
		if e.Kind == proof.KindAccess {
			_, err := w.b.ContestEntry(ctx, me, e.Index, "x")
			wantCode(t, "an access", err, 409, "contest.other")
		}
	}
	if _, err := w.b.ContestEntry(ctx, broker.Account{}, i, "x"); err == nil {
		t.Error("an account without an identity was taken")
	}
	c, err := w.b.ContestEntry(ctx, me, i, "x")
	if err != nil || c.Entry != i {
		t.Fatalf("%+v, %v", c, err)
	}
	if c, err = w.b.Contest(ctx, w.caller, c.ID); err != nil || c.Entry != 0 {
		t.Errorf("the agency sees where it is filed: %+v, %v", c, err)
	}
}

// TestLettersAreNormalised: what a person and an agency write is read as it looks, and the same in another spelling is the same.
func TestLettersAreNormalised(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	me := account(t, marie)
	a := w.disclose(request())
	const written, read = "\t1.\tPas moi\u202e !\r\n2.\u2067\u200f\u061c\rrien\u2069 ", "1. Pas moi !\n2.\nrien"
	c, err := w.b.FileContest(ctx, me, a.ID, written)
	if err != nil || c.Text != read {
		t.Fatalf("%+v, %v", c, err)
	}
	if again, err := w.b.FileContest(ctx, me, a.ID, read); err != nil || again.ID != c.ID {
		t.Errorf("the same in another spelling: %+v, %v", again, err)
	}
	if c, err = w.b.ExtendContest(ctx, w.caller, c.ID, written); err != nil || c.Extension != read {
		t.Errorf("%+v, %v", c, err)
	}
	for _, text := range []string{written, read} {
		if c, err = w.b.AnswerContest(ctx, w.caller, c.ID, broker.ContestCorrected, text); err != nil || c.Answer != read {
			t.Errorf("%+v, %v", c, err)
		}
	}
	if c, err := w.b.ContestOf(ctx, me, c.ID); err != nil || c.Text != read || c.Extension != read || c.Answer != read {
		t.Errorf("%+v, %v", c, err)
	}
}

func FuzzLetter(f *testing.F) {
	for _, s := range []string{contested, "\t\u202e\r\r\n", "a\x07", "é\u2066", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text, err := broker.Letter("/text", s)
		if err != nil {
			if broker.AsProblem(err).Parameter != "/text" {
				t.Error(err)
			}
			return
		}
		bad := func(r rune) bool { return r != '\n' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }
		if again, err := broker.Letter("/text", text); err != nil || again != text || strings.ContainsFunc(text, bad) || text == "" || utf8.RuneCountInString(text) > 2000 {
			t.Errorf("%q is %q, and that %q (%v)", s, text, again, err)
		}
	})
}

func TestContestsThatAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	me := account(t, marie)
	a := w.disclose(request())
	for name, text := range map[string]string{"empty": " \r\n", "too long": strings.Repeat("é", 2001), "control": "a\x07b", "a line end of others": "a\u0085b", "not UTF-8": "a\xff", "marks alone": "\u202e \u200f", "nothing to put them over": "\u0301"} {
		_, err := w.b.FileContest(ctx, me, a.ID, text)
		wantCode(t, name, err, 400, "request.invalid")
		if p := broker.AsProblem(err).Parameter; p != "/text" {
			t.Errorf("%s: the problem is at %q", name, p)
		}
		_, err = w.b.AnswerContest(ctx, w.caller, store.ID{1}, broker.ContestExplained, text)
		wantCode(t, "an answer: "+name, err, 400, "request.invalid")
		_, err = w.b.ExtendContest(ctx, w.caller, store.ID{1}, text)
		if wantCode(t, "a reason: "+name, err, 400, "request.invalid"); broker.AsProblem(err).Parameter != "/reason" {
			t.Errorf("%s: the problem is at %q", name, broker.AsProblem(err).Parameter)
		}
	}
	if _, err := w.b.FileContest(ctx, me, a.ID, strings.Repeat("é", 2000)); err != nil {
		t.Errorf("2000 characters: %v", err)
	}
	_, unknown := w.b.FileContest(ctx, me, store.ID(uuid.New()), "x")
	wantCode(t, "a disclosure that never was", unknown, 404, "disclosure.unknown")
	_, foreign := w.b.FileContest(ctx, account(t, killPivot("other")), a.ID, "x")
	if foreign == nil || *broker.AsProblem(foreign) != *broker.AsProblem(unknown) {
		t.Errorf("somebody else's disclosure: %v", foreign)
	}
	if _, err := w.b.FileContest(ctx, broker.Account{}, a.ID, "x"); err == nil {
		t.Error("an account without an identity was taken")
	}
	for i := range 9 {
		req := request()
		req.Object = fmt.Sprint("dossier ", i)
		if _, err := w.b.FileContest(ctx, me, w.disclose(req).ID, "x"); err != nil {
			t.Fatal(err)
		}
	}
	req := request()
	req.Object = "dossier x"
	_, err := w.b.FileContest(ctx, me, w.disclose(req).ID, "x")
	wantCode(t, "the eleventh in a day", err, 429, "rate.exceeded")
	for _, x := range []struct {
		state string
		limit int
	}{{"lost", 0}, {"", -1}, {"", 201}} {
		_, err := w.b.Contests(ctx, w.caller, x.state, store.ID{}, x.limit)
		wantCode(t, fmt.Sprint(x), err, 400, "request.invalid")
	}
	// Pages.
	seen, after, pages := map[store.ID]bool{}, store.ID{}, 0
	for pages = 1; ; pages++ {
		page, err := w.b.AllContests(ctx, "open", after, 4)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Contests {
			if seen[c.ID] || c.Text != "" {
				t.Errorf("%+v: twice, or the operator reads it", c)
			}
			seen[c.ID] = true
		}
		if after = page.Next; after == (store.ID{}) {
			break
		}
	}
	if len(seen) != 10 || pages != 3 {
		t.Errorf("%d contests on %d pages", len(seen), pages)
	}
}

// TestCoSubjects: what somebody else in the household gets of a disclosure is their part alone, whatever became of it; contesting it shows the agency no more than that it was one of them.
func TestCoSubjects(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	noe, err := proof.Pivot{BirthName: "EXEMPLE FICTIF", GivenNames: "NOÉ", BirthDate: "2015-06", Sex: "M"}.Person().Subject()
	if err != nil {
		t.Fatal(err)
	}
	req := request()
	req.Scopes = []string{"members", "quotient"}
	a := w.disclose(req)
	others := 0
	err = w.b.Told(ctx, func(i proof.Index, o proof.Opening) {
		if o.Text(proof.DisclosureRole) != proof.RoleAnswer {
			return
		}
		others++
		for _, f := range []proof.Field{proof.DisclosureContext, proof.DisclosureObject, proof.DisclosurePayloadKey, proof.DisclosurePayload, proof.DisclosureOfficial} {
			if _, p := o.Value(f); p == proof.Present {
				t.Errorf("entry %d: a co-subject is shown %s", i, proof.SchemaDisclosure.Name(f))
			}
		}
		for _, f := range []proof.Field{proof.DisclosureRequested, proof.DisclosureObtained, proof.DisclosureReleased} {
			for _, pointer := range o.List(f) {
				// What stands at persons, and the scopes that the definition says concern them.
				if !strings.HasPrefix(pointer, "/data/membres") && pointer != "/data/quotient/valeur" {
					t.Errorf("entry %d: %s of a co-subject has %s", i, proof.SchemaDisclosure.Name(f), pointer)
				}
			}
		}
		if text := string(o.Text(proof.DisclosureInput)); strings.Contains(strings.ToUpper(text), "EXEMPLE") || strings.Contains(text, "MARKER") || strings.Contains(text, "dossier") {
			t.Errorf("entry %d: the decision's input names somebody: %s", i, text)
		}
	})
	if err != nil || others != 1 {
		t.Errorf("%d co-subjects, %v", others, err)
	}
	child := broker.Account{Pivot: subjectOf(t, killPivot("noe")), Subjects: []proof.Subject{noe}, Lang: "en"}
	c, err := w.b.FileContest(ctx, child, a.ID, "Not me.")
	if err != nil {
		t.Fatal(err)
	}
	if c.Role != "answer" || !c.Namesake || c.Lang != "en" {
		t.Errorf("%+v", c)
	}
	seen, err := w.b.Contest(ctx, w.caller, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v", seen); strings.Contains(strings.ToUpper(text), "FICTIF") || strings.Contains(text, "2015") {
		t.Errorf("the agency is shown who contests: %s", text)
	}
	// Both may contest it.
	if _, err := w.b.FileContest(ctx, account(t, marie), a.ID, "Not me either."); err != nil {
		t.Error(err)
	}
}

// TestContestOfOneOfTwoEntries: of two entries of one disclosure that are one account's, the one is contested that was chosen, with what it says of the person; the other is contested with it.
func TestContestOfOneOfTwoEntries(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	noe, err := proof.Pivot{BirthName: "EXEMPLE FICTIF", GivenNames: "NOÉ", BirthDate: "2015-06", Sex: "M"}.Person().Subject()
	if err != nil {
		t.Fatal(err)
	}
	me := account(t, marie)
	me.Subjects = append(me.Subjects, noe)
	req := request()
	req.Scopes = []string{"members", "quotient"}
	a := w.disclose(req)
	asked, named := entryOf(t, a), w.own(noe)[0].Index
	entries := []proof.Index{asked, named}
	slices.Sort(entries)
	for _, c := range []struct {
		contested, other proof.Index
		role             string
		namesake         bool
	}{{named, asked, "answer", true}, {asked, named, "asked", false}} {
		filed, err := w.b.ContestEntry(ctx, me, c.contested, "Not me.")
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(slices.Values(filed.Entries)); filed.Entry != c.contested || filed.Role != c.role || filed.Namesake != c.namesake || filed.Disclosure != a.ID || !slices.Equal(got, entries) {
			t.Errorf("contested as entry %d: %+v", c.contested, filed)
		}
		seen, err := w.b.Contest(ctx, w.caller, filed.ID)
		if err != nil || seen.Role != c.role || seen.Namesake != c.namesake || seen.Entry != 0 || seen.Entries != nil {
			t.Errorf("the agency sees %+v, %v", seen, err)
		}
		if again, err := w.b.ContestEntry(ctx, me, c.contested, "Not me."); err != nil || again.ID != filed.ID {
			t.Errorf("the same again: %+v, %v", again, err)
		}
		// The same text about the other one says something else of the person, and would go to the same agency about the same request.
		_, err = w.b.ContestEntry(ctx, me, c.other, "Not me.")
		wantCode(t, "the other entry", err, 409, "contest.open")
		list, err := w.b.ContestsOf(ctx, me)
		if err != nil || list[0].ID != filed.ID || list[0].Entry != c.contested || !slices.Contains(list[0].Entries, c.other) {
			t.Errorf("%+v, %v", list, err)
		}
		// Who has given up the identifier still sees the contest, and of which of their entries it was not.
		without := account(t, marie)
		one, err := w.b.ContestOf(ctx, without, filed.ID)
		if err != nil || (one.Entry == asked) != (c.contested == asked) || (one.Entry == 0) != (c.contested == named) || !slices.Equal(one.Entries, []proof.Index{asked}) {
			t.Errorf("without the identifier: %+v, %v", one, err)
		}
		if _, err := w.b.WithdrawContest(ctx, me, filed.ID); err != nil {
			t.Fatal(err)
		}
	}
	// By the disclosure it is the asked one.
	if c, err := w.b.FileContest(ctx, me, a.ID, "Not me."); err != nil || c.Entry != asked || c.Role != "asked" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestOverdueContest(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, 0, nil)
	ctx := t.Context()
	me := account(t, marie)
	if err := w.b.Enrol(ctx, me); err != nil {
		t.Fatal(err)
	}
	c, err := w.b.FileContest(ctx, me, w.disclose(request()).ID, "x")
	if err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(time.Until(c.Due) + time.Minute))
	for _, state := range []string{"open", "overdue"} {
		if page, err := w.b.Contests(ctx, w.caller, state, store.ID{}, 0); err != nil || len(page.Contests) != 1 || !page.Contests[0].Overdue {
			t.Errorf("%s: %+v, %v", state, page, err)
		}
	}
	if open, overdue, err := w.b.CountContests(ctx); err != nil || open != 1 || overdue != 1 {
		t.Errorf("%d open, %d overdue, %v", open, overdue, err)
	}
	_, err = w.b.ExtendContest(ctx, w.caller, c.ID, "too late")
	wantCode(t, "extending what is overdue", err, 409, "contest.overdue")
	until(t, "the person is told once", func() bool {
		page, err := w.b.Notices(ctx, me, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, x := range page.Notices {
			if x.Kind == store.NoticeContest && x.Event == "overdue" && x.Ref == c.ID {
				n++
			}
		}
		return n == 1
	})
	if c, err := w.b.AnswerContest(ctx, w.caller, c.ID, broker.ContestUpheld, "Pardon."); err != nil || c.Overdue {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestContestAndErasure: an open contest keeps its person from being erased; one that was answered says nothing any more afterwards.
func TestContestAndErasure(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	me := account(t, marie)
	c, err := w.b.FileContest(ctx, me, w.disclose(request()).ID, contested)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.b.Erase(ctx, me.Pivot, "rgpd-17")
	wantCode(t, "erasing with an open contest", err, 409, "erasure.contested")
	w.disclose(request()) // nothing is shut
	if _, err := w.b.AnswerContest(ctx, w.caller, c.ID, broker.ContestExplained, "Pour la cantine."); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Erase(ctx, me.Pivot, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	got, err := w.b.Contest(ctx, w.caller, c.ID)
	if err != nil || !got.Erased || got.Text+got.Answer != "" || got.State != "answered" || got.Outcome != broker.ContestExplained {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = w.b.AnswerContest(ctx, w.caller, c.ID, broker.ContestExplained, "Pour la cantine.")
	wantCode(t, "answering somebody who was erased", err, 410, "contest.erased")
	if mine, err := w.b.ContestsOf(ctx, me); err != nil || len(mine) != 0 {
		t.Errorf("%+v, %v", mine, err)
	}
}

// TestContestWithoutKeys: while the keys are out of reach nothing is filed or read, and the caller is told to come back.
func TestContestWithoutKeys(t *testing.T) {
	f := newFaulty(t)
	w := newWorld(t, func(c *broker.Config) { c.Custodian = f })
	ctx := t.Context()
	a := w.disclose(request())
	w.close()
	w.open()
	f.down("Unwrap", keys.ErrUnavailable)
	_, err := w.b.FileContest(ctx, account(t, marie), a.ID, "x")
	wantCode(t, "filing", err, 503, "keys.unavailable")
	f.up()
	if _, err := w.b.FileContest(ctx, account(t, marie), a.ID, "x"); err != nil {
		t.Error(err)
	}
}

func TestMonthsAfter(t *testing.T) {
	for _, x := range []struct {
		from, to string
		months   int
	}{
		{"2026-11-26T03:04:05Z", "2026-12-26T03:04:05Z", 1}, {"2027-01-31T00:00:00Z", "2027-02-28T00:00:00Z", 1}, {"2028-01-30T23:59:59Z", "2028-02-29T23:59:59Z", 1},
		{"2026-12-31T12:00:00Z", "2027-01-31T12:00:00Z", 1}, {"2026-11-30T12:00:00Z", "2027-02-28T12:00:00Z", 3}, {"2026-12-15T12:00:00Z", "2027-03-15T12:00:00Z", 3}, {"2027-03-31T01:00:00Z", "2027-04-30T01:00:00Z", 1},
	} {
		from, err := time.Parse(time.RFC3339, x.from)
		if err != nil {
			t.Fatal(err)
		}
		if got := broker.MonthsAfter(from, x.months).Format(time.RFC3339); got != x.to {
			t.Errorf("%s + %d months is %s, want %s", x.from, x.months, got, x.to)
		}
	}
}

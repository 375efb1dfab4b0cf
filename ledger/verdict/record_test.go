package verdict

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"

	"github.com/regard-broker/regard/ledger/proof"
)

// TestSteps: on the sides that the drawing shows, the hashes make the root.
func TestSteps(t *testing.T) {
	for size := uint64(1); size <= 70; size++ {
		tree := testonly.New(rfc6962.DefaultHasher)
		for i := range size {
			tree.AppendData([]byte{byte(i)})
		}
		for index := range size {
			path, err := tree.InclusionProof(index, size)
			if err != nil {
				t.Fatal(err)
			}
			hashes := make([]proof.Hash, len(path))
			for i := range path {
				copy(hashes[i][:], path[i])
			}
			got := tree.LeafHash(index)
			for i, s := range steps(index, size, hashes) {
				if s.Left {
					got = rfc6962.DefaultHasher.HashChildren(hashes[i][:], got)
				} else {
					got = rfc6962.DefaultHasher.HashChildren(got, hashes[i][:])
				}
			}
			if !slices.Equal(got, tree.HashAt(size)) {
				t.Fatalf("entry %d of %d: another root", index, size)
			}
		}
	}
}

// recordNames are for the tokens of the published histories.
const recordNames = namesHeader + "\nagency mairie-de-lyon Mairie de Lyon\nlaw.fr crpa-l114-8 Dites-le-nous une fois\nlaw.url crpa-l114-8 https://exemple.invalid/texte\n"

// honestRecord is the page of an entry that shows no proof.
func honestRecord(t *testing.T, in Input, l Lang, e *proof.VerifiedEntry) Page {
	t.Helper()
	names, err := ParseNames([]byte(recordNames))
	if err != nil {
		t.Fatal(err)
	}
	s := in.Verdict.Subjects[e.Subject].Type()
	x := names.line(e, s, l)
	rec := &Record{Index: e.Index, Agency: x.agency, Service: x.service, Outcome: x.outcome}
	shown, details := names.facts(e, s, l)
	for _, w := range append(shown, details...) {
		f := ShownFact{Key: w.key, Text: w.text, Link: w.link, Folded: w.folded}
		if w.labelled {
			f.Label = l.word(w.key)
		}
		if w.loose {
			f.Text = "as the portal says"
		}
		rec.Facts = append(rec.Facts, f)
	}
	return Page{Lang: l, Names: recordNames, Record: rec}
}

// TestRecord: the honest page of each entry is proven, and with any lie about any fact refuted, whichever that is.
func TestRecord(t *testing.T) {
	v, p := load(t)
	seen := map[string]bool{}
	for _, g := range v.Good {
		for _, lang := range []Lang{French, English} {
			whole, in := check(t, p, g.Text, lang, proof.HistoryOptions{AllowProvisional: true})
			for i := range in.Verdict.Entries {
				e := &in.Verdict.Entries[i]
				report := func(page Page) *Report {
					r := New(in)
					r.ComparePage(page, in)
					return r
				}
				page := honestRecord(t, in, lang, e)
				r := report(page)
				if r.Refuted != nil || whole.State == Proven && r.State != Proven && r.State != Limited || whole.State == Provisional && r.State != Provisional || len(r.Rows) != 1 || r.Rows[0].State != RowVerified {
					t.Fatalf("entry %d: %s %q", e.Index, r.State, r.Sentence)
				}
				lie := func(what string, change func(*Record)) {
					t.Helper()
					x := *page.Record
					x.Facts = slices.Clone(x.Facts)
					change(&x)
					other := page
					other.Record = &x
					r := report(other)
					if r.State != Refuted || len(r.Rows) != 1 || r.Rows[0].State != RowWrong || r.Refuted.Entry == nil || !strings.Contains(r.Sentence, "(") || r.Limits != nil {
						t.Errorf("entry %d, %s: %s %q", e.Index, what, r.State, r.Sentence)
					}
				}
				lie("another agency", func(x *Record) { x.Agency += "x" })
				lie("another service", func(x *Record) { x.Service += "x" })
				lie("another outcome", func(x *Record) { x.Outcome += "x" })
				lie("a proof that isn't", func(x *Record) { x.Receipt = "x" })
				lie("a drawing without a proof", func(x *Record) { x.Ways = []Way{{}} })
				lie("a fact more", func(x *Record) { x.Facts = append(x.Facts, ShownFact{Key: "fact.law", Text: "x"}) })
				names, _ := ParseNames([]byte(recordNames))
				wants, details := names.facts(e, in.Verdict.Subjects[e.Subject].Type(), lang)
				for k, w := range append(wants, details...) {
					seen[w.key] = true
					if !w.loose {
						lie(w.key+" in other words", func(x *Record) { x.Facts[k].Text += "x" })
						lie(w.key+" without words", func(x *Record) { x.Facts[k].Text = "" })
						lie(w.key+" from right to left", func(x *Record) { x.Facts[k].Text = "\u202e" + x.Facts[k].Text })
					}
					if !w.optional {
						lie(w.key+" left out", func(x *Record) { x.Facts = slices.Delete(x.Facts, k, k+1) })
					}
					if !w.folded {
						lie(w.key+" in a fold", func(x *Record) { x.Facts[k].Folded = true })
					}
					lie(w.key+" hidden", func(x *Record) { x.Facts[k].Hidden = true })
					lie(w.key+" twice", func(x *Record) { x.Facts = slices.Insert(x.Facts, k, x.Facts[k]) })
					lie(w.key+" under another term", func(x *Record) { x.Facts[k].Label += "x" })
					lie(w.key+" by another name", func(x *Record) { x.Facts[k].Key += "x" })
					lie(w.key+" with another link", func(x *Record) { x.Facts[k].Link += "x" })
				}
			}
		}
	}
	for _, key := range []string{"title", "status", "fact.asked_at", "fact.agency", "fact.service", "fact.provider", "fact.purpose", "fact.law", "fact.context", "fact.object", "fact.delayed_by", "fact.at", "fact.reader", "fact.reason", "fact.erased_at",
		"why.granted", "why.law", "why.agreement", "fields.requested", "fields.field", "detail.disclosure", "detail.agreement", "detail.policy", "detail.answered_at", "detail.access", "detail.erasure", "detail.deferred"} {
		if !seen[key] {
			t.Errorf("no published history has %s", key)
		}
	}
}

// TestRecordElsewhere: an entry that isn't in the list, one of the open epoch, and what can't be compared.
func TestRecordElsewhere(t *testing.T) {
	v, p := load(t)
	for _, lang := range []Lang{French, English} {
		_, in := check(t, p, v.Good[0].Text, lang, proof.HistoryOptions{})
		page := honestRecord(t, in, lang, &in.Verdict.Entries[0])
		report := func(change func(*Page)) *Report {
			r, x, rec := New(in), page, *page.Record
			x.Record = &rec
			change(&x)
			r.ComparePage(x, in)
			return r
		}
		if r := report(func(x *Page) { x.Record.Index++ }); r.State != Refuted || !strings.Contains(r.Sentence, lang.pick("n'est pas dans votre liste", "is not in your list")) {
			t.Errorf("an entry of somebody else: %s %q", r.State, r.Sentence)
		}
		if r := report(func(x *Page) { x.Names = "?" }); r.State != Unverified {
			t.Errorf("no names: %s", r.State)
		}
		open := func(x *Page) { x.Record.Index = closer(in.History) + 7 }
		in.Now = in.Verdict.Due
		if r := report(open); r.State != Provisional || r.Rows[0].State != RowOpen || !strings.Contains(r.Sentence, lang.pick("n'est encore prouvé", "is proven yet")) || len(r.Next) != 1 || r.Title != Title(Provisional, lang) {
			t.Errorf("of the open epoch: %+v", r)
		}
		// A server can't call an epoch open that was due to close long ago.
		in.Now = in.Verdict.Due + proof.Time(recordGrace.Milliseconds()) + 1
		if r := report(open); r.State != Unverified || r.Title != Title(Unverified, lang) || r.Rows != nil {
			t.Errorf("of an epoch that ought to be closed: %+v", r)
		}
		in.Now = 0
		// What is lost can't be shown, and may have been unreadable before the log said so.
		e := &in.Verdict.Entries[0]
		e.State, e.Opening = proof.RecordLost, proof.Opening{}
		page = honestRecord(t, in, lang, e)
		if r := report(func(*Page) {}); r.State != Limited || r.Limits[0].Kind != Worrying {
			t.Errorf("lost: %s %+v", r.State, r.Limits)
		}
		if r := report(func(x *Page) {
			x.Record.Outcome = ""
			x.Record.Facts = slices.Clone(x.Record.Facts)
			x.Record.Facts[1].Text = Outcome("damaged", lang)
		}); r.State != Limited {
			t.Errorf("lost, and not readable before: %s %q", r.State, r.Sentence)
		}
	}
}

// TestRecordWords: each is there in both languages.
func TestRecordWords(t *testing.T) {
	fr, en := RecordWords(French), RecordWords(English)
	for key := range recordWords {
		if fr[key] == "" || en[key] == "" || strings.Contains(fmt.Sprint(fr[key], en[key]), "%!") {
			t.Errorf("%s: %q, %q", key, fr[key], en[key])
		}
	}
}

func TestNumber(t *testing.T) {
	for n, want := range map[uint64][2]string{
		0: {"0", "0"}, 999: {"999", "999"}, 1000: {"1000", "1000"}, 9999: {"9999", "9999"}, 10000: {"10\u202f000", "10,000"}, 123456: {"123\u202f456", "123,456"}, 1000000: {"1\u202f000\u202f000", "1,000,000"},
	} {
		if fr, en := French.Number(n), English.Number(n); fr != want[0] || en != want[1] {
			t.Errorf("%d: %q %q", n, fr, en)
		}
	}
}

package portal_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// recordOn reads from the page of one access what verify.js does, and where its history is.
func (w *world) recordOn(who string, a answer) (p verdict.Page, file string) {
	w.t.Helper()
	var at *html.Node
	for _, n := range a.all(func(n *html.Node) bool { return attr(n, "data-record") != "" || attr(n, "id") == "verdict" }) {
		if attr(n, "id") == "verdict" {
			p.Lang, p.Names, file = verdict.Lang(attr(n, "lang")), string(w.get("", attr(n, "data-names")).body), attr(n, "data-bundle")
			continue
		}
		at = n
	}
	if at == nil || file == "" {
		w.t.Fatalf("no record or no verdict:\n%s", a.body)
	}
	rec := &verdict.Record{Index: w.index(attr(at, "data-record")), Agency: attr(at, "data-agency"), Service: attr(at, "data-service"), Outcome: attr(at, "data-outcome"), Receipt: attr(at, "data-receipt")}
	for n := range at.Descendants() {
		_, is := find(n, "data-fact")
		switch {
		case n.Type != html.ElementNode:
		case is || n.Data == "dd":
			f := verdict.ShownFact{Key: attr(n, "data-fact"), Text: content(n)}
			for t := n.PrevSibling; n.Data == "dd" && t != nil && t.Data != "dd"; t = t.PrevSibling {
				f.Label = content(t) + " " + f.Label
			}
			for d := range n.Descendants() {
				if d.Data == "a" {
					f.Link = attr(d, "href")
				}
			}
			for d := range n.Ancestors() {
				f.Folded = f.Folded || d.Data == "details"
			}
			rec.Facts = append(rec.Facts, f)
		case attr(n, "class") == "way":
			way := verdict.Way{ID: attr(n, "data-way")}
			for d := range n.Descendants() {
				switch d.Data {
				case "text":
					if d.Type == html.ElementNode {
						way.Drawn = append(way.Drawn, content(d))
					}
				case "td":
					way.Table = append(way.Table, content(d))
				}
			}
			rec.Ways = append(rec.Ways, way)
		}
	}
	p.Record = rec
	return p, file
}

// comparing is compared with each file fetched once: an address may not ask for hundreds.
func (w *world) comparing(who string) func(verdict.Page, verdict.Lang, string) *verdict.Report {
	files := map[string]func(verdict.Page, verdict.Lang) *verdict.Report{}
	return func(p verdict.Page, l verdict.Lang, file string) *verdict.Report {
		w.t.Helper()
		if files[file] == nil {
			files[file] = w.comparer(w.get(who, file).body)
		}
		return files[file](p, l)
	}
}

// TestRecordsAgree: the page of each entry shows what the check in the browser expects, whatever it is of, in both languages, before and after an erasure.
func TestRecordsAgree(t *testing.T) {
	w := everything(t)
	states, proofs, keys := map[verdict.State]int{}, 0, map[string]bool{}
	agree := func() {
		t.Helper()
		compared := w.comparing("camille")
		for _, l := range []verdict.Lang{verdict.French, verdict.English} {
			for _, i := range w.page("camille", "/historique").indexes() {
				a := w.page("camille", "/acces/"+i.String(), "Cookie", "__Host-langue="+string(l))
				p, file := w.recordOn("camille", a)
				r := compared(p, l, file)
				if r.Refuted != nil || len(r.Rows) != 1 || (r.Rows[0].State == verdict.RowVerified) == strings.Contains(r.Sentence, l2(l, "période en cours", "current period")) {
					t.Errorf("entry %s: %s %s\n%+v", i, r.State, r.Sentence, p.Record.Facts)
				}
				states[r.State]++
				proofs += len(p.Record.Ways)
				for _, f := range p.Record.Facts {
					keys[f.Key] = true
				}
			}
		}
	}
	agree()
	// The witnesses of this world sign nothing: a browser would call what holds provisional.
	if states[verdict.Provisional]+states[verdict.Proven] < 10 || proofs < 10 {
		t.Errorf("%v, %d drawings", states, proofs)
	}
	for _, key := range []string{"fact.law", "fact.context", "fact.revealed_at", "why.refused", "why.reason", "why.agreement", "detail.reasons", "detail.siret", "detail.deferred", "proof.commitment", "proof.closed", "fields.groups", "fact.target"} {
		if !keys[key] {
			t.Errorf("no page shows %s", key)
		}
	}
	e, err := w.b.Erase(t.Context(), w.sessions.by["camille"].Subjects[0], "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	w.published(e.Index)
	agree()
	w.turn()
	agree()
}

func l2(l verdict.Lang, fr, en string) string {
	if l == verdict.French {
		return fr
	}
	return en
}

// TestRecordsDisagree: a proof of something else, and a drawing that isn't the proof's, are refuted; so is any fact of the proof that is another.
func TestRecordsDisagree(t *testing.T) {
	w := everything(t)
	var all []proof.Index
	for _, r := range w.shownOn(w.page("camille", "/historique")).Rows {
		if !r.Open && r.Outcome == "released" {
			all = append(all, *r.Index)
		}
	}
	if len(all) < 2 {
		t.Fatal(all)
	}
	compared := w.comparing("camille")
	honest, file := w.recordOn("camille", w.page("camille", "/acces/"+all[0].String()))
	other, _ := w.recordOn("camille", w.page("camille", "/acces/"+all[1].String()))
	// A page stays true while the log goes on and its proof is handed out in another form.
	w.published(w.disclose("mairie", canteen(loic)))
	if later, _ := w.recordOn("camille", w.page("camille", "/acces/"+all[0].String())); later.Record.Receipt == honest.Record.Receipt {
		t.Error("the proof is the same though the log has grown")
	}
	if r := w.compared("camille", honest, verdict.French, file); r.Refuted != nil {
		t.Errorf("a page of before the log grew: %s", r.Sentence)
	}
	lie := func(what, says string, change func(*verdict.Record)) {
		t.Helper()
		p, rec := honest, *honest.Record
		rec.Facts = slices.Clone(rec.Facts)
		rec.Ways = slices.Clone(rec.Ways)
		for i := range rec.Ways {
			rec.Ways[i].Drawn, rec.Ways[i].Table = slices.Clone(rec.Ways[i].Drawn), slices.Clone(rec.Ways[i].Table)
		}
		p.Record = &rec
		change(&rec)
		if r := compared(p, verdict.French, file); r.State != verdict.Refuted || !strings.Contains(r.Sentence, says) {
			t.Errorf("%s: %s %q", what, r.State, r.Sentence)
		}
	}
	drawing := "(le dessin de la preuve)"
	lie("another entry's proof", drawing, func(r *verdict.Record) { r.Receipt, r.Ways = other.Record.Receipt, other.Record.Ways })
	lie("a proof that was changed", drawing, func(r *verdict.Record) { r.Receipt = strings.Replace(r.Receipt, "A", "B", 1) })
	lie("no proof", drawing, func(r *verdict.Record) { r.Receipt = "" })
	lie("no drawing", drawing, func(r *verdict.Record) { r.Ways = nil })
	for i, way := range honest.Record.Ways {
		for k := range way.Drawn {
			lie(fmt.Sprintf("drawing %d, word %d", i, k), drawing, func(r *verdict.Record) { r.Ways[i].Drawn[k] += "0" })
		}
		for k := range way.Table {
			lie(fmt.Sprintf("table %d, cell %d", i, k), drawing, func(r *verdict.Record) { r.Ways[i].Table[k] += "0" })
		}
	}
	for i, f := range honest.Record.Facts {
		if strings.HasPrefix(f.Key, "proof.") && f.Key != "proof.roll" {
			lie(f.Key, "(", func(r *verdict.Record) { r.Facts[i].Text += "0" })
		}
	}
	for _, c := range []struct{ key, says string }{{"fact.law", "(Fondement légal)"}, {"fact.context", "(Contexte donné)"}, {"fact.agency", "(Par)"}, {"why.agreement", "(Habilitation)"}} {
		i := slices.IndexFunc(honest.Record.Facts, func(f verdict.ShownFact) bool { return f.Key == c.key })
		if i < 0 {
			t.Fatal("no ", c.key)
		}
		lie(c.key, c.says, func(r *verdict.Record) { r.Facts[i].Text = "autre chose" })
	}
}

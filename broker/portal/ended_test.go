package portal_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// TestEndedMonth: when a month's retention has ended, the page says so of its records at once, and they refute neither it nor their own pages; the rest of the history is compared as before.
func TestEndedMonth(t *testing.T) {
	w := newWorld(t, func(b *broker.Config, c *portal.Config) {
		withVerifier(c)
		b.Retention, b.SweepEvery = 24*time.Hour, 20*time.Millisecond
	})
	w.signIn("camille", camille)
	old := w.disclose("mairie", canteen(camille))
	w.turn()
	if r := w.shownOn(w.page("camille", "/historique")).Rows; len(r) != 1 || r[0].Outcome != proof.OutcomeReleased { // and it is kept
		t.Fatalf("%+v", r)
	}
	before := w.get("camille", "/historique/fichier").body
	for range 2 { // a month at once isn't believed
		w.ahead.Add(int64(20 * 24 * time.Hour))
		w.turn()
	}
	var p verdict.Page
	until(t, "the end of the retention to be shown", func() bool {
		p = w.shownOn(w.page("camille", "/historique"))
		return len(p.Rows) == 1 && p.Rows[0].Outcome == "retired"
	})
	var file []byte
	until(t, "its keys to be destroyed, in a closed epoch", func() bool {
		w.turn()
		file = w.get("camille", "/historique/fichier").body
		h := must[*proof.History](t)(proof.ParseHistory(file))
		v, err := h.Verify(w.policy(), proof.HistoryOptions{AllowProvisional: true})
		return err == nil && len(v.Ended) > 0
	})
	living := w.disclose("mairie", canteen(camille))
	w.turn()
	file = w.get("camille", "/historique/fichier").body
	for _, l := range []verdict.Lang{verdict.French, verdict.English} {
		for _, path := range []string{"/historique", "/historique?vue=dense", "/historique?issue=retired", "/historique?page=9"} {
			p = w.shownOn(w.page("camille", path, "Cookie", "__Host-langue="+string(l)))
			r := w.comparedWith(file, p, l)
			if r.Refuted != nil {
				t.Fatalf("%s: %s %s", path, r.Sentence, r.Refuted.Detail)
			}
			ended := 0
			for i, m := range r.Rows {
				switch *p.Rows[i].Index {
				case old:
					if ended++; m.State != verdict.RowOutside || p.Rows[i].Outcome != "retired" {
						t.Errorf("%s: %+v, %+v", path, m, p.Rows[i])
					}
				case living:
					if m.State != verdict.RowVerified {
						t.Errorf("%s: %+v", path, m)
					}
				}
			}
			if ended != 1 || !strings.Contains(limitsOf(r), map[verdict.Lang]string{verdict.French: "Accès affichés dont la conservation est terminée", verdict.English: "Requests shown whose retention is over"}[l]) {
				t.Errorf("%s: %d rows, %s", path, ended, limitsOf(r))
			}
		}
		// Without what is still proven it is refuted all the same.
		p = w.shownOn(w.page("camille", "/historique", "Cookie", "__Host-langue="+string(l)))
		p.Rows = p.Rows[1:]
		if r := w.comparedWith(file, p, l); r.Refuted == nil || *r.Refuted.Entry != living {
			t.Errorf("a page that hides what has not ended: %s %s", r.State, r.Sentence)
		}
		// The file of before has the entry: of it the page says otherwise.
		if r := w.comparedWith(before, verdict.Page{Lang: l, Names: p.Names, Rows: p.Rows}, l); r.Refuted == nil {
			t.Errorf("the file of before the end: %s %s", r.State, r.Sentence)
		}
		a := w.page("camille", "/acces/"+old.String(), "Cookie", "__Host-langue="+string(l))
		for _, n := range a.all(func(n *html.Node) bool { return attr(n, "id") == "verdict" }) {
			page := verdict.Page{Lang: l, Names: string(w.get("", attr(n, "data-names")).body), Record: &verdict.Record{Index: old, Outcome: "retired"}}
			r := w.compared("camille", page, l, attr(n, "data-bundle"))
			if r.State != verdict.Unverified || r.Refuted != nil || len(r.Rows) != 1 || r.Rows[0].State != verdict.RowOutside || r.Cause != "" {
				t.Errorf("its own page: %s %s", r.State, r.Sentence)
			}
		}
		if !strings.Contains(a.text(), map[verdict.Lang]string{verdict.French: "fin de leur conservation", verdict.English: "end of their retention"}[l]) {
			t.Error(a.text())
		}
	}
}

func limitsOf(r *verdict.Report) (all string) {
	for _, x := range r.Limits {
		all += x.Text + "\n"
	}
	return all
}

package portal_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/net/html"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// hostile is text that would be markup, a script, an attribute's end, another direction, or a formula, if anything took it for that.
const hostile = "=X<script>alert(1)</script>\"' onload=x <b>\u202egras\u2066\u200f עברית &amp;"

// spiteful is a broker whose every displayed word is hostile: registries and agencies write these.
type spiteful struct {
	portal.Broker
	entry broker.OwnEntry
	rec   *broker.OwnRecord
}

func (s *spiteful) OwnEntries(context.Context, proof.Subject, proof.Index, int) ([]broker.OwnEntry, proof.Index, error) {
	e := s.entry
	e.Scopes = slices.Clone(e.Scopes)
	return []broker.OwnEntry{e}, 0, nil
}

func (s *spiteful) NewestOwn(context.Context, proof.Subject) (proof.Index, error) {
	return s.entry.Index, nil
}

func (s *spiteful) OwnRecord(context.Context, []proof.Subject, proof.Index) (*broker.OwnRecord, error) {
	return s.rec, nil
}

func (s *spiteful) Directory() broker.Directory {
	d := &service.Definition{Title: service.Text{FR: hostile, EN: hostile}, Scopes: map[service.Scope]service.Group{"quotient": {Title: service.Text{FR: hostile, EN: hostile}}}}
	return broker.Directory{
		Agencies: map[string]store.Agency{"mairie": {Name: hostile, SIRET: hostile}}, Services: map[string]*service.Definition{"quotient-familial": d}, Providers: map[string]string{"cnaf": hostile},
		Auditors: map[string]store.Auditor{"cour": {Name: hostile}},
	}
}

// TestHostileValues: whatever stands in a displayed field, it is text, in its own direction, and changes nothing around it.
func TestHostileValues(t *testing.T) {
	var s *spiteful
	w := newWorld(t, func(b *broker.Config, c *portal.Config) {
		b.SweepEvery = 20 * time.Millisecond
		s = &spiteful{}
		c.Broker = s
		c.Operator = portal.Operator{Name: hostile, Address: hostile, Email: "a@b.invalid", Officer: "c@d.invalid", Host: hostile}
		c.Words = &portal.Words{LegalBases: map[string]portal.Law{"crpa-l114-8": {FR: hostile, EN: hostile, URL: "https://law.invalid/"}}, Purposes: map[string]portal.Text{"tarif-cantine": {FR: hostile, EN: hostile}}}
	})
	w.signIn("camille", camille)
	w.sessions.by["camille"].Name = hostile
	req := canteen(camille)
	req.Context, req.Object = strings.Map(printable, hostile), strings.Map(printable, hostile)[:40]
	i := w.disclose("mairie", req)
	w.published(i)
	rec, err := w.b.OwnRecord(t.Context(), w.sessions.by["camille"].Subjects, i)
	if err != nil {
		t.Fatal(err)
	}
	denied := *rec
	denied.Outcome, denied.Reasons = proof.OutcomeDenied, nil
	denied.OwnEntry.Outcome = proof.OutcomeDenied
	access := broker.OwnEntry{Index: 9, Kind: proof.KindAccess, State: broker.HistoryOpen, At: rec.At, Reader: "cour", ReaderRole: proof.RoleAuditor, Reason: hostile, Target: 3}
	s.Broker, s.entry, s.rec = w.b, rec.OwnEntry, rec
	contest := w.file("camille", i, printableHostile())
	until(t, "a notice", func() bool { return w.get("camille", "/").unread() == "1" })
	for _, path := range []string{"/", "/historique", "/historique?q=" + escape(hostile[:20]), "/historique?vue=dense&agence=" + escape(hostile), "/acces/" + i.String(), "/contester/" + i.String(), "/contestations", contest, "/notifications", "/notifications/reglages", "/notifications/adresse", "/notifications/taire?type=access&acces=1", "/telecharger", "/releve", "/accessibilite", "/mentions-legales", "/donnees-personnelles", "/verificateur"} {
		for _, lang := range []string{"fr", "en"} {
			a := w.page("camille", path, "Cookie", "__Host-langue="+lang)
			harmless(t, path, a)
		}
	}
	s.entry = access
	w.p.Forget("account-camille")
	harmless(t, "an access", w.page("camille", "/historique"))
	s.rec = &denied
	harmless(t, "a refusal", w.page("camille", "/acces/"+i.String()))
	// In the spreadsheet no cell is a formula.
	for _, e := range []broker.OwnEntry{rec.OwnEntry, access} {
		s.entry = e
		w.p.Forget("account-camille")
		a := w.get("camille", "/telecharger/historique.csv")
		for _, bad := range []string{"\u202e", ";=X", ";\"=X", ",=X", ",\"=X", "\n=X", "\n\"=X", "\u2066"} {
			if strings.Contains(string(a.body), bad) {
				t.Errorf("the spreadsheet has %q:\n%s", bad, a.body)
			}
		}
		if !strings.Contains(string(a.body), "'=X<script>") {
			t.Errorf("the value is gone:\n%s", a.body)
		}
	}
	for _, where := range []string{"/%22%3E%3Cscript%3Ealert(1)%3C/script%3E", "/acces/%3Cscript%3E", "/historique?du=%22%3E%3Cscript%3E"} {
		harmless(t, where, w.get("camille", where))
	}
}

func printable(r rune) rune {
	if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
		return -1
	}
	return r
}

func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteString("%" + string("0123456789ABCDEF"[c>>4]) + string("0123456789ABCDEF"[c&15]))
	}
	return b.String()
}

// harmless looks for what hostile would have become.
func harmless(t *testing.T, where string, a answer) {
	t.Helper()
	if a.doc == nil {
		t.Fatalf("%s: no page: %s", where, a.Status)
	}
	for _, n := range a.tag("script") {
		if attr(n, "src") == "" || text(n) != "" {
			t.Errorf("%s: a script: %s", where, text(n))
		}
	}
	if len(a.tag("b"))+len(a.tag("style"))+len(a.tag("iframe"))+len(a.tag("base")) > 0 {
		t.Errorf("%s: markup of somebody else", where)
	}
	for _, n := range a.all(func(*html.Node) bool { return true }) {
		for _, x := range n.Attr {
			if strings.HasPrefix(x.Key, "on") || x.Key == "style" || (x.Key == "href" || x.Key == "src" || x.Key == "action") && strings.HasPrefix(strings.TrimSpace(strings.ToLower(x.Val)), "javascript:") {
				t.Errorf("%s: <%s %s=%q>", where, n.Data, x.Key, x.Val)
			}
		}
	}
	for n := range a.doc.Descendants() {
		if n.Type != html.TextNode {
			continue
		}
		if strings.ContainsAny(n.Data, "\u202a\u202b\u202d\u202e\u2066\u2067\u200e\u200f\u061c") {
			t.Errorf("%s: a mark of direction in %q", where, n.Data)
		}
		// What others wrote stands in an element, or between marks, that isolate its direction; the choices of a form are isolated by the browser, and a preformatted entry is ASCII.
		if i := strings.Index(n.Data, "=X<script>"); i >= 0 && n.Parent.Data != "bdi" && n.Parent.Data != "option" && !strings.Contains(n.Data[:i], "\u2068") {
			t.Errorf("%s: not isolated in <%s>: %q", where, n.Parent.Data, n.Data)
		}
	}
}

// TestOtherPeoplesIDs: an entry of somebody else, one of nobody and one that isn't have the same bytes and headers, on every page that takes one.
func TestOtherPeoplesIDs(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	w.signIn("pierre", pierre)
	mine, theirs := w.disclose("mairie", canteen(camille)), w.disclose("mairie", canteen(pierre))
	w.published(theirs)
	if a := w.page("pierre", "/acces/"+theirs.String()); !strings.Contains(a.text(), "Inscription à la cantine") {
		t.Fatal("nor does the owner see it")
	}
	for _, suffix := range []string{"", "/preuve"} {
		var first [sha256.Size]byte
		var head http.Header
		for n, id := range []string{theirs.String(), "0", "1", "999999", "9223372036854775808", "-1", "01", "x", "+" + mine.String(), "%20" + mine.String(), "1e3"} {
			a := w.get("camille", "/acces/"+id+suffix)
			// The address stands in the links to the other language, and nowhere else.
			sum := sha256.Sum256(bytes.ReplaceAll(unmasked(a.body), []byte("/acces/"+strings.ReplaceAll(id, "%20", " ")+suffix), []byte("/acces/"+suffix)))
			if n == 0 {
				first, head = sum, a.Header
			}
			if a.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %s", id, a.Status)
			}
			if n < 5 && (sum != first || !sameHeader(head, a.Header)) {
				t.Errorf("%s%s has another answer than somebody else's entry:\n%s", id, suffix, a.body)
			}
		}
	}
	// The homonym, born elsewhere, sees nothing of the other's.
	w.signIn("jean", jean)
	w.signIn("jeanToo", jeanToo)
	his := w.disclose("mairie", canteen(jean))
	if a := w.get("jeanToo", "/acces/"+his.String()); a.StatusCode != http.StatusNotFound {
		t.Errorf("a homonym sees the entry of the other: %s", a.Status)
	}
}

func sameHeader(a, b http.Header) bool {
	a, b = a.Clone(), b.Clone()
	a.Del("Content-Length") // the links are as long as the address
	b.Del("Content-Length")
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if !slices.Equal(a[k], b[k]) {
			return false
		}
	}
	return true
}

// TestNamesakes: what is filed under a name alone, as a co-subject is, is shown in outline only: on the page, in the spreadsheet, in the proof and in the file, and never with the context of whom it was asked about.
func TestNamesakes(t *testing.T) {
	w := newWorld(t, nil)
	w.signIn("loic", loic)
	asked := w.disclose("mairie", canteen(camille)) // he lives with her; the answer names him without his place of birth
	w.turn()
	a := w.page("loic", "/historique?issue=homonym")
	rows := a.rows()
	if len(rows) != 1 {
		t.Fatalf("%s", a.text())
	}
	if s := text(rows[0]); !strings.Contains(s, "Concerne peut-être un homonyme") || !strings.Contains(s, "Mairie d'Exempleville") || !strings.Contains(s, "Quotient familial et composition") || strings.Contains(s, "cantine") || attr(rows[0], "data-outcome") != "" {
		t.Error(s)
	}
	id := attr(rows[0], "data-index")
	if id == asked.String() {
		t.Fatal("it is her entry")
	}
	outline := func(where string, o proof.Opening) {
		t.Helper()
		for _, f := range proof.SchemaDisclosure.Fields() {
			_, p := o.Value(f.Field)
			if want := slices.Contains([]string{"subject_type", "subject", "agency", "service", "asked_at"}, f.Name); (p != proof.Hidden) != want {
				t.Errorf("%s: %s is open: %v", where, f.Name, !want)
			}
		}
	}
	for _, path := range []string{"/acces/" + id, "/telecharger/historique.csv", "/releve"} {
		a := w.get("loic", path)
		said := a.text()
		if a.doc == nil {
			said = string(a.body)
		}
		if a.StatusCode != http.StatusOK || !strings.Contains(said, "Mairie") {
			t.Fatalf("%s: %s\n%s", path, a.Status, a.body)
		}
		for _, secret := range []string{"tarif-cantine", "calculer le tarif", "Inscription à", "dossier 42", "crpa-l114-8", "released", "Transmis"} {
			if strings.Contains(said, secret) {
				t.Errorf("%s tells somebody with this name %q", path, secret)
			}
		}
	}
	r, err := proof.ParseReceipt(w.get("loic", "/acces/"+id+"/preuve").body)
	if err != nil {
		t.Fatal(err)
	}
	outline("the proof", r.Opening())
	h, err := proof.ParseHistory(w.get("loic", "/historique/fichier").body)
	if err != nil {
		t.Fatal(err)
	}
	v, err := h.Verify(w.policy(), proof.HistoryOptions{AllowProvisional: true})
	if err != nil || len(v.Entries) != 1 || v.Entries[0].Withheld != 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	outline("the file", v.Entries[0].Opening)
}

package broker_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestDocumentFails: a document that can't be fetched keeps everything from the agency, and the provider has answered all the same: the record says which fields it gave, and everybody whom the answer identifies has
// an entry that says so.
func TestDocumentFails(t *testing.T) {
	t.Parallel()
	w := newWatched(t, func(c *broker.Config) { c.Providers = provider.Config{Development: true, Failures: 1000, Window: 1000} })
	yaml, err := os.ReadFile("testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(w.provider.URL, "http://")
	for _, r := range [][2]string{
		{"http://127.0.0.1:1", w.provider.URL}, {"version: 1", "version: 2"}, {"fields: [/data/quotient/valeur]", "fields: [/data/quotient/valeur, /data/attestation]"},
		{"answer:\n", "links:\n  /data/attestation: {mode: fetch, hosts: [\"" + host + "\"], media_types: [application/pdf], max_bytes: 1000}\nanswer:\n  /data/attestation: string?\n"},
	} {
		if !bytes.Contains(yaml, []byte(r[0])) {
			t.Fatalf("the definition has no %q", r[0])
		}
		yaml = bytes.Replace(yaml, []byte(r[0]), []byte(r[1]), 1)
	}
	if _, err := w.b.PutService(t.Context(), yaml); err != nil {
		t.Fatal(err)
	}
	var document atomic.Pointer[http.HandlerFunc]
	w.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/SECRETMARKER.pdf" {
			(*document.Load())(rw, r)
			return
		}
		name := r.URL.Query().Get("nomNaissance")
		fmt.Fprintf(rw, `{"data":{"quotient":{"valeur":77012},"attestation":%q,"adresse":"1 RUE","membres":[{"nom":%q,"prenoms":"ZOE","naissance":"1984-02-29","sexe":"F"},{"nom":%q,"prenoms":"NOE","naissance":"2015-06-30"}]}}`,
			w.provider.URL+"/SECRETMARKER.pdf", name, name+" ENFANT")
	}
	// sees is what an entry says that was obtained, and released.
	sees := func(o proof.Opening) string {
		_, obtained := o.Value(proof.DisclosureObtained)
		return fmt.Sprintf("%s %s %v %v %v", o.Text(proof.DisclosureOutcome), o.Text(proof.DisclosureCause), obtained, o.List(proof.DisclosureObtained), o.List(proof.DisclosureReleased))
	}
	const given = "[/data/adresse /data/attestation /data/membres/*/naissance /data/membres/*/nom /data/membres/*/prenoms /data/membres/*/sexe /data/quotient/valeur]"
	const child = "[/data/attestation /data/membres/*/naissance /data/membres/*/nom /data/membres/*/prenoms /data/quotient/valeur]"
	pdf := func(rw http.ResponseWriter, content string) {
		rw.Header().Set("Content-Type", "application/pdf")
		_, _ = io.WriteString(rw, content)
	}
	for name, c := range map[string]struct {
		document http.HandlerFunc
		cause    string
	}{
		"absent":       {func(rw http.ResponseWriter, _ *http.Request) { http.NotFound(rw, nil) }, "provider/document"},
		"another type": {func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "<p>SECRETMARKER") }, "provider/document"},
		"huge":         {func(rw http.ResponseWriter, _ *http.Request) { pdf(rw, strings.Repeat("SECRETMARKER", 1000)) }, "provider/too_large"},
		"hangs up":     {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "provider/connection"},
		"elsewhere":    {func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/other", http.StatusFound) }, "provider/redirect"},
		"there":        {func(rw http.ResponseWriter, _ *http.Request) { pdf(rw, "%PDF-") }, ""},
	} {
		document.Store(&c.document)
		before := filedBy(t, w.world)
		req := asker("TUE " + proof.FoldName(name))
		req.Scopes = []string{"members", "quotient"}
		a := w.disclose(req)
		outcome, released := broker.Failed, "[]"
		if c.cause == "" {
			outcome, released = broker.Released, "[/data/attestation /data/membres/*/naissance /data/membres/*/nom /data/membres/*/prenoms /data/membres/*/sexe /data/quotient/valeur]"
		}
		if a.Outcome != outcome || (a.Data == nil) != (c.cause != "") || (a.Problem == nil) != (c.cause == "") || c.cause != "" && (a.Problem.Code != c.cause || a.Problem.Status != 502) {
			t.Errorf("%s: outcome %s, %d bytes, problem %+v", name, a.Outcome, len(a.Data), a.Problem)
			continue
		}
		w.verify(a.Receipt)
		r, err := proof.ParseReceipt(a.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := sees(r.Opening()), fmt.Sprintf("%s %s %v %s %s", outcome, c.cause, proof.Present, given, released); got != want {
			t.Errorf("%s: recorded\n%s, want\n%s", name, got, want)
		}
		var others []string
		err = w.b.Told(t.Context(), func(_ proof.Index, o proof.Opening) {
			if o.Text(proof.DisclosureID) == r.Opening().Text(proof.DisclosureID) && o.Text(proof.DisclosureRole) == proof.RoleAnswer {
				others = append(others, sees(o))
			}
		})
		if c.cause == "" {
			released = child
		}
		if want := []string{fmt.Sprintf("%s %s %v %s %s", outcome, c.cause, proof.Present, child, released)}; err != nil || !slices.Equal(others, want) {
			t.Errorf("%s: others see\n%v, want\n%v (%v)", name, others, want, err)
		}
		asked, err := req.Subject.Pivot.Subject()
		if err != nil {
			t.Fatal(err)
		}
		other, err := proof.Person{BirthName: req.Subject.Pivot.BirthName + " ENFANT", GivenNames: "NOE", BirthDate: "2015-06-30"}.Subject()
		if err != nil {
			t.Fatal(err)
		}
		after := filedBy(t, w.world)
		maps.DeleteFunc(after, func(who string, n int) bool { return before[who] == n })
		if want := map[string]int{broker.Name(asked): 1, broker.Name(other): 1}; !maps.Equal(after, want) {
			t.Errorf("%s: filed under %s, want %s", name, spell(after), spell(want))
		}
		if bytes.Contains(a.Data, []byte("SECRETMARKER")) {
			t.Errorf("%s: the link was passed on: %s", name, a.Data)
		}
	}
	if logs := w.text(); strings.Contains(logs, "SECRETMARKER") || strings.Contains(logs, "TUE") {
		t.Errorf("the log holds what it must not:\n%s", logs)
	}
}

package broker_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

func TestReleasedIsRecordedAndOnlyGranted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.disclose(request())
	if a.Outcome != broker.Released || string(a.Data) != `{"data":{"quotient":{"valeur":1234}}}` {
		t.Fatalf("outcome %s, problem %v, data %s", a.Outcome, a.Problem, a.Data)
	}
	v := w.verify(a.Receipt)
	if v.Kind != proof.KindDisclosure || v.State != proof.Provisional {
		t.Errorf("verdict %+v", v)
	}
	// A fresh answer once said "none" beside its good receipt; only a repeat said what it was.
	if a.State != v.State {
		t.Errorf("the answer calls its receipt %v", a.State)
	}
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	o := r.Opening()
	if got := o.List(proof.DisclosureReleased); len(got) != 1 || got[0] != "/data/quotient/valeur" {
		t.Errorf("released fields: %v", got)
	}
	key, _ := o.Value(proof.DisclosurePayloadKey)
	digest, _ := o.Value(proof.DisclosurePayload)
	m := hmac.New(sha256.New, key)
	m.Write(a.Data)
	if !bytes.Equal(m.Sum(nil), digest) {
		t.Error("the payload digest isn't that of the released bytes")
	}
	asked := w.provider.requests()
	if len(asked) != 1 {
		t.Fatalf("the provider was asked %d times", len(asked))
	}
	q := asked[0].URL.Query()
	if got := q.Get("nomNaissance"); got != "Exemple-Fictif" {
		t.Errorf("asked for %q: the caller's spelling is what the provider gets", got)
	}
	if got := q.Get("champs"); bytes.Contains([]byte(got), []byte("adresse")) || !bytes.Contains([]byte(got), []byte("/data/quotient/valeur")) {
		t.Errorf("asked for fields %q", got)
	}
	// The child is somebody else: an entry of their own under their own identity. The mother whom the answer names is she who was asked about.
	mother, err := marie.Subject()
	if err != nil {
		t.Fatal(err)
	}
	child, err := proof.ParseSubject(string(proof.TypePerson), "EXEMPLE FICTIF|NOE|2015-06|M") // there is no 31 June
	if err != nil {
		t.Fatal(err)
	}
	if got, want := filedBy(t, w), map[string]int{broker.Name(mother): 1, broker.Name(child): 1}; !maps.Equal(got, want) {
		t.Errorf("filed under %s, want %s", spell(got), spell(want))
	}
}

func TestDeniedIsRecordedAndNobodyAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	req := request()
	req.Scopes = []string{"address"}
	a := w.disclose(req)
	if a.Outcome != broker.Denied || a.Problem == nil || a.Problem.Status != 403 || a.Data != nil || len(a.Reasons) == 0 {
		t.Fatalf("%+v", a)
	}
	if v := w.verify(a.Receipt); a.State != v.State {
		t.Errorf("the answer calls its receipt %v, it is %v", a.State, v.State)
	}
	if n := len(w.provider.requests()); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	o := r.Opening()
	if got := o.Text(proof.DisclosureOutcome); got != proof.OutcomeDenied {
		t.Errorf("recorded outcome %q", got)
	}
	if got := codesOf(a.Reasons); !slices.Equal(got, []policy.Code{"scope.not_covered"}) || !slices.Equal(o.List(proof.DisclosureReasons), words(got)) {
		t.Errorf("reasons %v, recorded %v", got, o.List(proof.DisclosureReasons))
	}
	if got := o.List(proof.DisclosureRequested); !slices.Equal(got, []string{"/data/adresse"}) {
		t.Errorf("recorded as what would have been asked for: %v", got)
	}
	for name, f := range map[string]proof.Field{"obtained": proof.DisclosureObtained, "released": proof.DisclosureReleased} {
		if v, p := o.Value(f); p != proof.Present || len(v) != 0 {
			t.Errorf("%s: %q, presence %v; want none, and that it can be seen", name, v, p)
		}
	}
	for name, f := range map[string]proof.Field{"payload": proof.DisclosurePayload, "agreement": proof.DisclosureAgreement} {
		if v, _ := o.Value(f); name == "payload" && len(v) != 0 || name == "agreement" && string(v) != "cantine@1" {
			t.Errorf("%s: %q", name, v)
		}
	}
	subject, err := marie.Subject()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := filedBy(t, w), map[string]int{broker.Name(subject): 1}; !maps.Equal(got, want) {
		t.Errorf("filed under %s, want %s", spell(got), spell(want))
	}
}

func TestEmptyAndErrorAnswersAreRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, c := range []struct {
		status  int
		body    string
		outcome broker.Outcome
		answer  int
		code    string
		known   bool
	}{
		{404, `{"errors":[{"code":"37003","title":"Dossier absent","detail":"Rien","meta":{"provider":"CNAV"}}]}`, broker.Empty, 404, "37003", true},
		{404, `not json`, broker.Failed, 404, "provider/404", false},
		{409, `{"errors":[{"code":"00015","title":"Encore"}]}`, broker.Failed, 409, "00015", true},
		{422, `{"errors":[{"code":"00422","title":"Illisible","detail":"Le prénom","meta":{"provider":"CNAV"}}]}`, broker.Failed, 422, "00422", true},
		{400, `{"errors":[{"code":"00400","title":"Mauvais"}]}`, broker.Failed, 502, "00400", true},
		{422, `{"errors":[{"code":"pas un code","title":"SECRETMARKER"}]}`, broker.Failed, 422, "provider/422", false},
		{429, `{"errors":[{"code":"00429","title":"Trop"}]}`, broker.Failed, 429, "00429", true},
		{502, `{"errors":[{"code":"37999","title":"Erreur"}]}`, broker.Failed, 502, "37999", true},
		{504, `{"errors":[{"code":"37002","title":"Temps"}]}`, broker.Failed, 504, "37002", true},
		{200, `{"data": {"quotient": {"valeur": "SECRETMARKER"}}}`, broker.Failed, 502, "provider/answer", false},
		{200, `{"data": `, broker.Failed, 502, "provider/answer", false},
		{302, ``, broker.Failed, 502, "provider/redirect", false},
	} {
		w.provider.mu.Lock()
		w.provider.answer = func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Location", "http://other.example/")
			rw.WriteHeader(c.status)
			_, _ = rw.Write([]byte(c.body))
		}
		w.provider.mu.Unlock()
		a := w.disclose(request())
		if a.Outcome != c.outcome || a.Data != nil || a.Problem == nil || a.Problem.Status != c.answer || a.Problem.Code != c.code {
			t.Errorf("%d %s: outcome %s, problem %+v", c.status, c.body, a.Outcome, a.Problem)
			continue
		}
		if words := a.Problem.Title + a.Problem.Detail; strings.Contains(words, "SECRET") || c.code == "00422" && (words != "IllisibleLe prénom" || a.Problem.Provider != "CNAV") {
			t.Errorf("%d %s: %+v", c.status, c.body, a.Problem)
		}
		v := w.verify(a.Receipt)
		if v.Kind != proof.KindDisclosure {
			t.Errorf("%d: verdict %+v", c.status, v)
		}
		// Only an answer that was understood held nothing for certain.
		want := proof.Absent
		if c.known {
			want = proof.Present
		}
		r, err := proof.ParseReceipt(a.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		if v, p := r.Opening().Value(proof.DisclosureObtained); p != want || len(v) != 0 {
			t.Errorf("%d %s: obtained %q, presence %v", c.status, c.body, v, p)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	req := request()
	req.IdempotencyKey = "k1"
	first := w.disclose(req)
	again := w.disclose(req)
	if !again.Repeated || !bytes.Equal(first.Data, again.Data) || first.ID != again.ID {
		t.Fatalf("repeat: %+v", again)
	}
	w.verify(again.Receipt)
	if n := len(w.provider.requests()); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
	other := request()
	other.IdempotencyKey, other.Object = "k1", "another"
	_, err := w.b.Disclose(t.Context(), w.caller, other)
	var p *broker.Problem
	if !errors.As(err, &p) || p.Status != 409 {
		t.Errorf("another body under the same key: %v", err)
	}
	// A restart changes nothing.
	w.close()
	w.open()
	again = w.disclose(req)
	if !again.Repeated || !bytes.Equal(first.Data, again.Data) {
		t.Fatalf("repeat after a restart: %+v", again)
	}
	// What was allowed must still be.
	if _, err := w.b.RevokeAgreement(t.Context(), "cantine"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a refusal is recorded, this one as one of its own: it has another id and reasons
		size := w.b.Log().Checkpoint().Size()
		again = w.disclose(req)
		if again.Data != nil || again.Problem == nil || again.Problem.Status != 403 || again.Outcome != broker.Denied || again.Repeated || again.ID == first.ID {
			t.Errorf("repeat after the agreement was revoked: %+v", again)
		}
		if got := w.b.Log().Checkpoint().Size(); got != size+1 {
			t.Errorf("the refusal is %d entries in the log", got-size)
		}
		w.verify(again.Receipt)
		r, err := proof.ParseReceipt(again.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		o := r.Opening()
		if o.Text(proof.DisclosureOutcome) != proof.OutcomeDenied || o.Text(proof.DisclosureID) != uuid.UUID(again.ID).String() || !slices.Equal(o.List(proof.DisclosureReasons), []string{"agreement.revoked"}) {
			t.Errorf("recorded: %s of %s, %v", o.Text(proof.DisclosureOutcome), o.Text(proof.DisclosureID), o.List(proof.DisclosureReasons))
		}
	}
	if n := len(w.provider.requests()); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
}

// TestDigestsOfRequests: every disclosure kept a keyed digest of the whole request for ever, by which a guess of what was erased could be confirmed. It is there only to know a repeat, for a day
// and until an erasure; and when it is gone nobody is asked again under a key that was used.
func TestDigestsOfRequests(t *testing.T) {
	t.Parallel()
	const kept, used = "SELECT count(*) FROM disclosures WHERE body IS NOT NULL", "SELECT count(*) FROM disclosures WHERE idem IS NOT NULL"
	for name, forget := range map[string]func(*world, *atomic.Int64){
		"a day later": func(_ *world, ahead *atomic.Int64) { ahead.Store(int64(25 * time.Hour)) },
		"erased": func(w *world, _ *atomic.Int64) {
			if _, err := w.b.Erase(w.t.Context(), subjectOf(w.t, marie), "rgpd-17"); err != nil {
				w.t.Fatal(err)
			}
			if w.count(kept) != 0 {
				w.t.Error("the digest of the request survives the erasure")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64
			w := newTraveller(t, &ahead, 0, nil)
			w.disclose(request())
			if w.count(kept) != 0 || w.count(used) != 0 {
				t.Error("a digest of a request that can't be repeated")
			}
			req := request()
			req.IdempotencyKey = "k1"
			first := w.disclose(req)
			if again := w.disclose(req); w.count(kept) != 1 || w.count(used) != 1 || !again.Repeated {
				t.Fatalf("a repeat: %+v", again)
			}
			forget(w, &ahead)
			for deadline := time.Now().Add(patience); w.count(kept) != 0; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("the digest is kept\n%s", w.logs)
				}
			}
			w.close()
			w.open()
			other := request()
			other.IdempotencyKey, other.Object = "k1", "another"
			for _, req := range []*broker.Request{req, other} {
				a := w.disclose(req)
				if a.ID != first.ID || !a.Repeated || !a.Gone || a.Data != nil || a.Problem == nil || a.Problem.Status != 410 || a.Problem.Code != "idempotency.expired" {
					t.Errorf("under a key that was used: %+v", a)
				}
				w.verify(a.Receipt)
			}
			if n := len(w.provider.requests()); n != 2 {
				t.Errorf("the provider was asked %d times", n)
			}
		})
	}
}

func TestOwnDisclosuresOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a := w.disclose(request())
	got, err := w.b.Disclosure(t.Context(), w.caller, a.ID)
	if err != nil || got.Outcome != broker.Released || got.Data != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	w.verify(got.Receipt)
	stranger := broker.Caller{ID: "caf", Name: "CAF", SIRET: mairie}
	_, foreign := w.b.Disclosure(t.Context(), stranger, a.ID)
	_, unknown := w.b.Disclosure(t.Context(), w.caller, [16]byte{1})
	if foreign == nil || unknown == nil || foreign.Error() != unknown.Error() {
		t.Errorf("foreign: %v; unknown: %v", foreign, unknown)
	}
}

// TestBlankTextIsNone: what is of white space alone is taken, decided and recorded as if it weren't there; one character that can be seen is enough, whatever stands over it.
func TestBlankTextIsNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	recorded := func(context, object string) (*broker.Answer, proof.Opening) {
		t.Helper()
		req := request()
		req.Context, req.Object = context, object
		a := w.disclose(req)
		r, err := proof.ParseReceipt(a.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		return a, r.Opening()
	}
	for _, blank := range []string{"", " ", "\u2003\u00a0", "\u3000\u2028"} {
		a, o := recorded(blank, blank)
		if got := o.List(proof.DisclosureReasons); a.Outcome != broker.Denied || !slices.Equal(got, []string{"context.missing", "object.missing"}) {
			t.Errorf("%q: %s for %q", blank, a.Outcome, got)
		}
		for _, f := range []proof.Field{proof.DisclosureContext, proof.DisclosureObject} {
			if v, there := o.Value(f); there != proof.Absent {
				t.Errorf("%q is recorded as the %s %q", blank, proof.SchemaDisclosure.Name(f), v)
			}
		}
	}
	const context, object = " e\u0301te\u0301", "가\u11a8"
	if a, o := recorded(context, object); a.Outcome != broker.Released || o.Text(proof.DisclosureContext) != context || o.Text(proof.DisclosureObject) != object {
		t.Errorf("%s, %q, %q", a.Outcome, o.Text(proof.DisclosureContext), o.Text(proof.DisclosureObject))
	}
}

func TestBadRequestsAreNotRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	size := w.b.Log().Checkpoint().Size()
	for name, change := range map[string]func(*broker.Request){
		"service":   func(r *broker.Request) { r.Service = "nothing" },
		"recipient": func(r *broker.Request) { r.Recipient = "21750001600018" },
		"object":    func(r *broker.Request) { r.Object = "12345678901234567890123456789012345678901234567890" },
		"context":   func(r *broker.Request) { r.Context = "a\r\nb" },
		"legible":   func(r *broker.Request) { r.Object = "\u200b \u2060\u3164" },
		"marks":     func(r *broker.Request) { r.Context = " \u0301\u20dd\ufe0f" },
		"jamo":      func(r *broker.Request) { r.Object = "\u1161\u11a8" },
		"purpose":   func(r *broker.Request) { r.Purpose = "Two words" },
		"scopes":    func(r *broker.Request) { r.Scopes = nil },
		"date":      func(r *broker.Request) { r.Subject.Pivot.BirthDate = "1985-02-29" },
		"place":     func(r *broker.Request) { r.Subject.Pivot.BirthPlace = "00404" },
		"type":      func(r *broker.Request) { r.Subject = broker.SubjectInput{Type: "nir", Value: "184027505612381"} },
		"parameter": func(r *broker.Request) { r.Parameters = map[string]string{"annee": "../2024"} },
		"unknown":   func(r *broker.Request) { r.Parameters = map[string]string{"x": "1"} },
	} {
		req := request()
		change(req)
		_, err := w.b.Disclose(t.Context(), w.caller, req)
		var p *broker.Problem
		if !errors.As(err, &p) || p.Status/100 != 4 || p.Parameter == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(w.provider.requests()); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
	if got := w.b.Log().Checkpoint().Size(); got != size {
		t.Errorf("the log grew from %d to %d", size, got)
	}
}

package holder_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestGuard: what a provider answered is settled in the log, for everybody in the answer; also after a restart of the guard in between, and for answers without data.
func TestGuard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Second)
	w.protect(nil)
	a := w.disclose("Exemple", broker.Released)
	w.protect(nil)
	w.respond(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(404)
		_, _ = io.WriteString(rw, `{"errors":[{"code":"37003","title":"Inconnu","detail":"-","meta":{"provider":"caisse"}}]}`)
	})
	w.disclose("Inconnu", broker.Empty)
	w.respond(func(rw http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) })
	w.disclose("Panique", broker.Failed)
	w.respond(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, `{"data":[]}`) })
	w.disclose("Illisible", broker.Failed)
	w.counts(map[holder.State]int64{holder.Settled: 4})
	if code := w.guard.Load().Refusing(); code != "" {
		t.Errorf("it refuses: %s", code)
	}
	// Both people of the household have a settled receipt, with what a provider may see and no more.
	var out bytes.Buffer
	if err := w.guard.Load().Store().Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range strings.Lines(out.String()) {
		var x holder.Exported
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(a.Receipt), "index") || x.Outcome != "released" {
			continue
		}
		for _, text := range x.Receipts {
			r, err := proof.ParseReceipt([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			v, err := r.Verify(w.policy(), proof.VerifyOptions{AllowProvisional: true})
			if err != nil || !v.InRoll {
				t.Errorf("%v, %+v", err, v)
			}
			if o := r.Opening(); o.Text(proof.DisclosureAgency)+o.Text(proof.DisclosureContext)+o.Text(proof.DisclosurePurpose) != "" {
				t.Error("the provider sees more than it may")
			}
			found++
		}
	}
	if found != 2 {
		t.Errorf("%d settled receipts of the household, want 2", found)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(w.guard.Load())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if got["regard_holder_disclosures settled"] != 4 || got["regard_holder_refusing receipts.overdue"] != 0 || got["regard_holder_admitted_total"] != 3 {
		t.Errorf("metrics %v", got)
	}
}

// ask goes to the provider's address past the broker.
func (w *world) ask(t *testing.T, target, intent string, more ...string) (status int, code string) {
	t.Helper()
	req, err := http.NewRequest("GET", w.front.URL+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	if intent != "" {
		req.Header.Set("Regard-Intent", intent)
	}
	for _, v := range more {
		req.Header.Add("Regard-Intent", v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var p struct{ Code string }
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal(body, &p)
	return res.StatusCode, p.Code
}

// TestIntentsRefused: whoever has no valid, fresh and unused intent for this very question doesn't reach the provider's handler.
func TestIntentsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	var late time.Duration
	var mu sync.Mutex
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(late) }
	w.protect(func(c *holder.GuardConfig) { c.Now = now })
	w.disclose("Exemple", broker.Released)
	w.mu.Lock()
	first := w.seen[0]
	w.mu.Unlock()
	// One that the broker signed and that never came: the provider was unreachable.
	caught := make(chan seen, 1)
	w.enter(func(rw http.ResponseWriter, r *http.Request) {
		caught <- seen{r.RequestURI, r.Header.Get("Regard-Intent")}
		panic(http.ErrAbortHandler)
	})
	w.disclose("Perdue", broker.Failed)
	fresh := <-caught
	w.enter(w.guarded)

	text, err := base64.StdEncoding.DecodeString(fresh.intent)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Replace(text, []byte("provider caisse"), []byte("provider caisse2"), 1)
	flipped := slices.Clone(text)
	flipped[len(flipped)-12]++
	encode := base64.StdEncoding.EncodeToString
	asked := w.asked.Load()
	for _, x := range []struct {
		name, target, intent, code string
		more                       []string
	}{
		{name: "none", target: fresh.target, code: "intent.missing"},
		{name: "two", target: fresh.target, intent: fresh.intent, more: []string{fresh.intent}, code: "intent.missing"},
		{name: "no base64", target: fresh.target, intent: "x", code: "intent.invalid"},
		{name: "forged", target: fresh.target, intent: encode(forged), code: "intent.signature"},
		{name: "flipped", target: fresh.target, intent: encode(flipped), code: "intent.signature"},
		{name: "replayed", target: first.target, intent: first.intent, code: "intent.replayed"},
		{name: "for another person", target: first.target, intent: fresh.intent, code: "intent.question"},
		{name: "for more fields", target: fresh.target + "&x=1", intent: fresh.intent, code: "intent.question"},
	} {
		if status, code := w.ask(t, x.target, x.intent, x.more...); status != 403 && x.name != "flipped" || code != x.code && !(x.name == "flipped" && (code == "intent.signature" || code == "intent.invalid")) {
			t.Errorf("%s: %d %s, want 403 %s", x.name, status, code, x.code)
		}
	}
	for _, shift := range []time.Duration{2 * time.Minute, -2 * time.Minute} {
		mu.Lock()
		late = shift
		mu.Unlock()
		if status, code := w.ask(t, fresh.target, fresh.intent); status != 403 || code != "intent.expired" {
			t.Errorf("with the clock off by %v: %d %s", shift, status, code)
		}
	}
	mu.Lock()
	late = 0
	mu.Unlock()
	if w.asked.Load() != asked {
		t.Errorf("the provider's handler was called %d times", w.asked.Load()-asked)
	}
	// It is good for one answer, and after a restart it was used all the same.
	if status, _ := w.ask(t, fresh.target, fresh.intent); status != 200 {
		t.Errorf("a good one: %d", status)
	}
	w.protect(func(c *holder.GuardConfig) { c.Now = now })
	if status, code := w.ask(t, fresh.target, fresh.intent); status != 403 || code != "intent.replayed" {
		t.Errorf("after a restart: %d %s", status, code)
	}
	if w.asked.Load() != asked+1 {
		t.Error("the handler was called again")
	}
	w.protect(func(c *holder.GuardConfig) { c.Providers = []string{"autre"} })
	if status, code := w.ask(t, fresh.target, fresh.intent); status != 403 || code != "intent.provider" {
		t.Errorf("for another provider: %d %s", status, code)
	}
}

// announce signs an intent like one that was seen, for another question: as a hostile broker can. An empty id leaves the disclosure as it is.
func (w *world) announce(like seen, target, id string) (proof.Intent, string) {
	w.t.Helper()
	ks, err := w.b.IntentKeys(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := proof.NewIntentVerifier("regard.example/log", proof.KeyChanged{Key: "intent.1", Use: proof.UseIntent, State: proof.Active, Public: proof.Hash(ks[0].Public())})
	if err != nil {
		w.t.Fatal(err)
	}
	i, err := proof.VerifyIntent(like.intent, []note.Verifier{v})
	if err != nil {
		w.t.Fatal(err)
	}
	if id != "" {
		i.Disclosure = id
	}
	i.Question, i.Issued = proof.QuestionDigest("GET", target, nil), proof.TimeOf(time.Now())
	signed, err := i.Sign(ks[0].Signer(proof.IntentKeyName(i.Origin, "intent.1")))
	if err != nil {
		w.t.Fatal(err)
	}
	return i, signed
}

// TestTwoReadings: a question in which the provider's program may read somebody else than its guard isn't answered.
func TestTwoReadings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(nil)
	w.disclose("Exemple", broker.Released)
	w.mu.Lock()
	announced := w.seen[0]
	w.mu.Unlock()
	for _, more := range []string{"&nomNaissance=Autre", "&NomNaissance=Autre", "&nir=255081416802538", "&nomNaissance;=Autre", "&%zz=Autre"} {
		target := announced.target + more
		_, intent := w.announce(announced, target, uuid.NewString())
		if status, code := w.ask(t, target, intent); status != 500 || code != "answer.unidentified" {
			t.Errorf("%s: %d %s", more, status, code)
		}
	}
	_, intent := w.announce(announced, announced.target, uuid.NewString())
	if status, code := w.ask(t, announced.target, intent); status != 200 {
		t.Errorf("as it is: %d %s; this test shows nothing", status, code)
	}
}

// TestTwoQuestionsOneDisclosure: a broker that announces a second question, about somebody else, under a disclosure that is in the log gets no answer to it, and none to any other: also when the first one failed.
func TestTwoQuestionsOneDisclosure(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]struct {
		answer http.HandlerFunc
		want   broker.Outcome
	}{
		"after an answer": {household, broker.Released},
		"after a failure": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, broker.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, time.Hour)
			g := w.protect(nil)
			w.respond(first.answer)
			a := w.disclose("Exemple", first.want)
			w.counts(map[holder.State]int64{holder.Signed: 1})
			w.respond(func(rw http.ResponseWriter, _ *http.Request) { // it names nobody
				rw.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(rw, `{"data":{"quotient":{"valeur":77012},"membres":[]}}`)
			})
			w.mu.Lock()
			announced := w.seen[0]
			w.mu.Unlock()
			target := strings.Replace(announced.target, "Exemple", "Autre", 1)
			i, second := w.announce(announced, target, "")
			if i.Disclosure != idOf(a) || target == announced.target {
				t.Fatal(i)
			}
			if status, code := w.ask(t, target, second); status != 403 || code != "question.twice" {
				t.Errorf("%d %s, want 403 question.twice", status, code)
			}
			if code := g.Refusing(); code != holder.AlarmRefuted {
				t.Errorf("it goes on: %q", code)
			}
			if alarm := w.alarm(holder.AlarmRefuted); alarm.Disclosure != i.Disclosure {
				t.Errorf("%+v", alarm)
			}
			evidence, err := g.Store().Evidence(t.Context())
			if err != nil || len(evidence) != 1 || evidence[0].Refutation.Code != "question.twice" || !bytes.Contains(evidence[0].Shown, []byte("regard/intent@v1")) {
				t.Errorf("%v, %d", err, len(evidence))
			}
			w.counts(map[holder.State]int64{holder.Refuted: 1})
			w.protect(nil)
			w.disclose("Encore", broker.Failed)
		})
	}
}

// TestReplayAtOnce: of many that show the same intent at the same time one is answered.
func TestReplayAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(nil)
	caught := make(chan seen, 1)
	w.enter(func(rw http.ResponseWriter, r *http.Request) {
		caught <- seen{r.RequestURI, r.Header.Get("Regard-Intent")}
		panic(http.ErrAbortHandler)
	})
	w.disclose("Exemple", broker.Failed)
	x := <-caught
	w.enter(w.guarded)
	var wg sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for range 16 {
		wg.Go(func() {
			if status, _ := w.ask(t, x.target, x.intent); status == 200 {
				mu.Lock()
				good++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if good != 1 || w.asked.Load() != 1 {
		t.Errorf("%d answers, the handler was called %d times", good, w.asked.Load())
	}
}

// TestUnlogged: a broker that asks and shows no entry is refused after the set age, also by a guard that was restarted meanwhile, and answered again when the proofs are there.
func TestUnlogged(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(rw http.ResponseWriter, r *http.Request, next http.Handler){
		"it says that there was no such disclosure": func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
			var in struct{ IDs []string }
			_ = json.NewDecoder(r.Body).Decode(&in)
			var out struct {
				Disclosures []map[string]string `json:"disclosures"`
			}
			for _, id := range in.IDs {
				out.Disclosures = append(out.Disclosures, map[string]string{"id": id, "code": "disclosure.unknown"})
			}
			_ = json.NewEncoder(rw).Encode(out)
		},
		"its API is down":  func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { rw.WriteHeader(502) },
		"its API hangs up": func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
		"it says nothing": func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			_, _ = io.WriteString(rw, `{"disclosures":[]}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2*time.Second)
			short := func(c *holder.GuardConfig) { c.Times.MaxAge = 300 * time.Millisecond }
			w.protect(short)
			w.between(lie)
			w.disclose("Exemple", broker.Released)
			if a := w.alarm(holder.AlarmOverdue); a.Since.IsZero() {
				t.Errorf("%+v", a)
			}
			asked := w.asked.Load()
			w.disclose("Refusée", broker.Failed)
			w.protect(short)
			w.disclose("Encore", broker.Failed)
			if w.asked.Load() != asked {
				t.Error("the provider's handler was called")
			}
			w.between(nil)
			w.alarm(holder.AlarmOver)
			w.disclose("Après", broker.Released)
			w.counts(map[holder.State]int64{holder.Settled: 2})
		})
	}
}

// TestRefuted: what contradicts the provider's own knowledge is kept as evidence, and nothing more is answered until somebody has looked.
func TestRefuted(t *testing.T) {
	t.Parallel()
	reply := func(body string, change func([]map[string]any)) string {
		var in struct {
			Disclosures []map[string]any `json:"disclosures"`
		}
		if json.Unmarshal([]byte(body), &in) != nil {
			return body
		}
		change(in.Disclosures)
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	receipts := func(d map[string]any) []any { r, _ := d["receipts"].([]any); return r }
	for _, x := range []struct {
		name, code string
		change     func(map[string]any)
		identify   func(*holder.Answered)
		answer     http.HandlerFunc
	}{
		{name: "receipts of another disclosure", code: "receipt.foreign", change: func(map[string]any) {}},
		{name: "the child's entry is missing", code: "entry.missing", change: func(d map[string]any) { d["receipts"] = receipts(d)[:1] }},
		{name: "the asked entry is missing", code: "entry.missing", change: func(d map[string]any) { d["receipts"] = receipts(d)[1:] }},
		{name: "one entry twice", code: "entry.twice", change: func(d map[string]any) { d["receipts"] = append(receipts(d), receipts(d)[0]) }},
		{name: "a letter changed", code: "receipt.invalid", change: func(d map[string]any) {
			r := receipts(d)
			text := []byte(r[0].(string))
			i := bytes.Index(text, []byte("commitment ")) + 11
			if text[i]++; text[i] > 'Z' {
				text[i] = 'A'
			}
			r[0] = string(text)
		}},
		{name: "no receipt at all", code: "receipt.invalid", change: func(d map[string]any) { d["receipts"] = []any{"nothing"} }},
		{name: "an entry about a stranger", code: "entry.foreign", identify: func(a *holder.Answered) { a.Persons = nil }},
		{name: "somebody who has no entry", code: "entry.missing", identify: func(a *holder.Answered) {
			s, err := proof.Person{BirthName: "Oublié"}.Subject()
			if err != nil {
				t.Error(err)
			}
			a.Persons = append(a.Persons, holder.Person{Subject: s})
		}},
		{name: "filed under another person", code: "subject.other", identify: func(a *holder.Answered) { a.Asked.Said.BirthName = "Autre" }},
		{name: "other fields obtained", code: "obtained.other", identify: func(a *holder.Answered) { a.Obtained = a.Obtained[1:] }},
		{name: "released, and nothing was answered", code: "outcome.other", identify: func(a *holder.Answered) { a.Unreadable = true }},
		{name: "the subject hidden", code: "subject.hidden", change: func(d map[string]any) {
			r, err := proof.ParseReceipt([]byte(receipts(d)[0].(string)))
			if err != nil {
				t.Error(err)
				return
			}
			r, err = r.Narrow(proof.ReaderAuditor)
			if err != nil {
				t.Error(err)
				return
			}
			text, _ := r.AppendText(nil)
			receipts(d)[0] = string(text)
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2*time.Second)
			g := w.protect(func(c *holder.GuardConfig) {
				if x.identify != nil {
					by := c.Identify
					c.Identify = func(r *http.Request, status int, body []byte) (holder.Answered, error) {
						a, err := by(r, status, body)
						if !strings.Contains(r.URL.RawQuery, "Premier") {
							x.identify(&a)
						}
						return a, err
					}
				}
			})
			w.disclose("Premier", broker.Released)
			w.counts(map[holder.State]int64{holder.Settled: 1})
			var mu sync.Mutex
			w.rewrite(func(body string) string {
				return reply(body, func(ds []map[string]any) {
					mu.Lock()
					defer mu.Unlock()
					for _, d := range ds {
						if len(receipts(d)) > 0 && x.change != nil {
							if x.code == "receipt.foreign" {
								var stolen []any // receipts of the earlier disclosure
								var out bytes.Buffer
								if err := g.Store().Export(context.Background(), &out); err != nil {
									t.Error(err)
								}
								for line := range strings.Lines(out.String()) {
									var e holder.Exported
									_ = json.Unmarshal([]byte(line), &e)
									for _, r := range e.Receipts {
										stolen = append(stolen, r)
									}
								}
								d["receipts"] = stolen
							}
							x.change(d)
						}
					}
				})
			})
			w.disclose("Second", broker.Released)
			a := w.alarm(holder.AlarmRefuted)
			evidence, err := g.Store().Evidence(t.Context())
			if err != nil || len(evidence) == 0 || evidence[0].Refutation.Code != x.code || evidence[0].Disclosure != a.Disclosure || len(evidence[0].Shown) == 0 {
				t.Fatalf("want %s: %v %+v", x.code, err, a)
			}
			eventually(t, "the refusal", func() error {
				if g.Refusing() != holder.AlarmRefuted {
					return fmt.Errorf("%q", g.Refusing())
				}
				return nil
			})
			w.disclose("Troisième", broker.Failed)
			if err := g.Store().Accept(a.Disclosure, ""); err == nil {
				t.Error("accepted without a reason")
			}
			if err := g.Store().Accept("x", "because"); err == nil {
				t.Error("accepted what isn't there")
			}
			w.between(nil)
			if err := g.Store().Accept(a.Disclosure, "looked into, ticket 42"); err != nil {
				t.Fatal(err)
			}
			w.alarm(holder.AlarmOver)
			w.disclose("Premier", broker.Released)
			w.counts(map[holder.State]int64{holder.Settled: 2, holder.Accepted: 1})
		})
	}
}

// TestUnheard: the broker says that it couldn't read an answer, so nobody in it has an entry. That can't be refuted from here; it is counted.
func TestUnheard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Second)
	w.protect(nil)
	w.enter(func(rw http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		w.guard.Load().Handler(http.HandlerFunc(household)).ServeHTTP(rec, r)
		rw.Header().Set("Content-Length", "10000")
		_, _ = rw.Write(rec.Body.Bytes()[:20]) // and the connection breaks
	})
	w.disclose("Exemple", broker.Failed)
	w.counts(map[holder.State]int64{holder.Settled: 1})
	s, err := w.guard.Load().Status(t.Context())
	if err != nil || s.Unheard != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	// Many of them are told, and nothing is refused for it; as long as they are many.
	for _, name := range []string{"Deux", "Trois"} {
		w.disclose(name, broker.Failed)
	}
	if a := w.alarm(holder.AlarmUnheard); !strings.Contains(a.Detail, "Of 3 answers of the last day the broker recorded 3 as unreadable") {
		t.Errorf("%+v", a)
	}
	w.enter(w.guarded)
	w.disclose("Quatre", broker.Released)
	w.protect(func(c *holder.GuardConfig) { c.MaxUnheard = 0.8 })
	w.disclose("Cinq", broker.Released)
	w.mu.Lock()
	w.alarms = nil
	w.mu.Unlock()
	w.protect(func(c *holder.GuardConfig) {
		c.Now = func() time.Time { return time.Now().Add(25 * time.Hour) }
		c.Tolerance, c.Times.MaxAge, c.Times.SettleAge = 48*time.Hour, 48*time.Hour, 72*time.Hour
	})
	w.disclose("Six", broker.Released)
	eventually(t, "the day after", func() error {
		u, err := w.guard.Load().Store().Unheard(t.Context(), time.Now().Add(time.Hour))
		if err == nil && u != (holder.Unheard{Of: 1}) {
			err = fmt.Errorf("%+v", u)
		}
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.ContainsFunc(w.alarms, func(a holder.Alarm) bool { return a.Code == holder.AlarmUnheard }) {
		t.Errorf("an alarm about another day: %+v", w.alarms)
	}
}

// TestUnheardShare: a few are no alarm, nor is less than the share.
func TestUnheardShare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		u    holder.Unheard
		want bool
	}{{holder.Unheard{}, false}, {holder.Unheard{N: 2, Of: 2}, false}, {holder.Unheard{N: 3, Of: 3}, true}, {holder.Unheard{N: 5, Of: 100}, false}, {holder.Unheard{N: 6, Of: 100}, true}} {
		if got := c.u.Exceeds(0.05); got != c.want {
			t.Errorf("%+v: %v", c.u, got)
		}
	}
}

// TestUnidentified: an answer of which nobody can tell whom it identifies isn't given.
func TestUnidentified(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(func(c *holder.GuardConfig) {
		c.Identify = func(*http.Request, int, []byte) (holder.Answered, error) {
			return holder.Answered{}, fmt.Errorf("no idea")
		}
	})
	a := w.disclose("Exemple", broker.Failed)
	if strings.Contains(fmt.Sprint(a.Problem), "77012") {
		t.Error("the answer came out")
	}
	w = newWorld(t, time.Hour)
	w.protect(func(c *holder.GuardConfig) { c.MaxAnswer = 100 })
	w.disclose("Exemple", broker.Failed)
}

// TestIntentKeyRotation: a provider that follows the log need do nothing when the broker rotates its key; one that pins a key goes on as long as that one is in force.
func TestIntentKeyRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	ks, err := w.b.IntentKeys(t.Context())
	if err != nil || len(ks) != 1 {
		t.Fatal(ks, err)
	}
	pinned := proof.IntentKeyName("regard.example/log", "intent.1")
	v, err := proof.NewIntentVerifier("regard.example/log", proof.KeyChanged{Key: "intent.1", Use: proof.UseIntent, State: proof.Active, Public: proof.Hash(ks[0].Public())})
	if err != nil || v.Name() != pinned {
		t.Fatal(err)
	}
	vkey := fmt.Sprintf("%s+%08x+%s", v.Name(), v.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, ks[0].Public()...)))
	w.protect(nil)
	w.disclose("Un", broker.Released)
	if _, err := w.b.RotateIntentKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.disclose("Deux", broker.Released)
	w.protect(func(c *holder.GuardConfig) { c.Keys = []string{vkey} })
	w.disclose("Trois", broker.Released)
	if err := w.b.RetireIntentKey(t.Context(), 2); broker.AsProblem(err).Code != "keys.last" {
		t.Errorf("retiring the newest: %v", err)
	}
	if err := w.b.RetireIntentKey(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := w.b.RetireIntentKey(t.Context(), 1); broker.AsProblem(err).Code != "keys.retired" {
		t.Errorf("retiring twice: %v", err)
	}
	w.disclose("Quatre", broker.Failed) // the pinned one has ended
	w.protect(nil)
	w.disclose("Cinq", broker.Released)
}

// TestKeysHang: while the broker doesn't answer what its keys are, intents under those that are known are admitted; the fetch ends by its deadline, and those that wait for it are refused.
func TestKeysHang(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	var late atomic.Int64
	g := w.protect(func(c *holder.GuardConfig) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
		c.Tolerance, c.Times.MaxAge, c.Times.SettleAge = 3*time.Hour, 24*time.Hour, 24*time.Hour
	})
	w.disclose("Un", broker.Released)
	w.mu.Lock()
	announced := w.seen[0]
	w.mu.Unlock()
	_, signed := w.announce(announced, announced.target, uuid.NewString())
	text, err := base64.StdEncoding.DecodeString(signed)
	if err != nil {
		t.Fatal(err)
	}
	forged := base64.StdEncoding.EncodeToString(bytes.Replace(text, []byte("provider caisse"), []byte("provider caisse2"), 1))

	g.SetKeysWait(time.Hour)
	hangs, over := make(chan struct{}, 1), make(chan struct{})
	hang := func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path != "/v1/provider/keys" {
			next.ServeHTTP(rw, r)
			return
		}
		select {
		case hangs <- struct{}{}:
		default:
		}
		select {
		case <-over:
		case <-r.Context().Done():
		}
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
	w.tamper.Store(&hang)
	late.Store(int64(2 * time.Hour)) // the keys are old now
	w.disclose("Deux", broker.Released)
	<-hangs
	refused := make(chan string)
	go func() {
		_, code := w.ask(t, announced.target, forged)
		refused <- code
	}()
	w.disclose("Trois", broker.Released)
	close(over)
	if code := <-refused; code != "intent.signature" {
		t.Errorf("a forged intent: %s", code)
	}

	// Nothing is known, and nothing comes.
	over = make(chan struct{})
	defer close(over)
	w.protect(nil).SetKeysWait(50 * time.Millisecond)
	if status, code := w.ask(t, announced.target, signed); status != 503 || code != "intent.keys" {
		t.Errorf("without a key: %d %s", status, code)
	}
}

// TestRoom: what all answers hold together is bounded. While there is no room for another one, questions are refused before they reach the provider, and can be asked again; one for which there
// is none in the middle of its answer is noted and not given.
func TestRoom(t *testing.T) {
	t.Parallel()
	const most = 100_000
	w := newWorld(t, time.Hour)
	w.protect(func(c *holder.GuardConfig) {
		c.MaxBody, c.MaxAnswer, c.MaxHeld, c.Tolerance = 1000, most, most+1000, time.Hour
		c.Times.MaxAge, c.Times.SettleAge = time.Hour, 2*time.Hour // these questions were never the broker's
	})
	w.disclose("Exemple", broker.Released)
	w.mu.Lock()
	announced := w.seen[0]
	w.mu.Unlock()
	first, second := []byte(`{"data":{"quotient":{"valeur":1},"membres":[]},"reste":"`), bytes.Repeat([]byte("x"), 60_000)
	begun, goOn, written, end := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	hold := func(rw http.ResponseWriter, _ *http.Request) {
		begun <- struct{}{}
		<-goOn
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write(first)
		_, _ = rw.Write(second)
		written <- struct{}{}
		<-end
		_, _ = io.WriteString(rw, `"}`)
	}
	type answer struct {
		status int
		code   string
	}
	ask := func() (func() answer, string) {
		_, intent := w.announce(announced, announced.target, uuid.NewString())
		c := make(chan answer, 1)
		go func() {
			status, code := w.ask(t, announced.target, intent)
			c <- answer{status, code}
		}()
		return func() answer { return <-c }, intent
	}
	w.respond(hold)
	one, _ := ask()
	<-begun
	goOn <- struct{}{}
	<-written
	asked := w.asked.Load()
	_, intent := w.announce(announced, announced.target, uuid.NewString())
	if status, code := w.ask(t, announced.target, intent); status != 503 || code != "holder.busy" || w.asked.Load() != asked {
		t.Errorf("while there is no room: %d %s", status, code)
	}
	end <- struct{}{}
	if a := one(); a.status != 200 {
		t.Errorf("the first: %+v", a)
	}
	w.respond(household)
	if status, code := w.ask(t, announced.target, intent); status != 200 {
		t.Errorf("asked again: %d %s", status, code)
	}

	// Two that were admitted while there was room, for one of them.
	w.respond(hold)
	one, _ = ask()
	<-begun
	two, _ := ask()
	<-begun
	for range 2 {
		goOn <- struct{}{}
		<-written
	}
	for range 2 {
		end <- struct{}{}
	}
	a, b := one(), two()
	if a.status > b.status {
		a, b = b, a
	}
	if a.status != 200 || b != (answer{503, "holder.busy"}) {
		t.Errorf("two at once: %+v, %+v", a, b)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(w.guard.Load())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "regard_holder_held_bytes" && f.GetMetric()[0].GetGauge().GetValue() != 0 {
			t.Errorf("%v bytes are still held", f.GetMetric()[0].GetGauge().GetValue())
		}
	}
}

func TestGuardConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	witnessed, err := proof.ParsePolicy([]byte(witnessPolicy(t, w)))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*holder.GuardConfig){
		"no directory": func(c *holder.GuardConfig) { c.Dir = "" }, "no policy": func(c *holder.GuardConfig) { c.Policy = nil }, "no way to identify": func(c *holder.GuardConfig) { c.Identify = nil },
		"no provider": func(c *holder.GuardConfig) { c.Providers = nil }, "a provider that is no token": func(c *holder.GuardConfig) { c.Providers = []string{"É"} },
		"no witnesses, and not said": func(c *holder.GuardConfig) { c.AcceptSigned = false }, "less than the policy demands": func(c *holder.GuardConfig) { c.Policy = witnessed },
		"plain http": func(c *holder.GuardConfig) { c.Broker.URL = "http://x" }, "no certificate": func(c *holder.GuardConfig) { c.Broker.Certificate.Certificate = nil },
		"a key that is none": func(c *holder.GuardConfig) { c.Keys = []string{"x"} }, "negative": func(c *holder.GuardConfig) { c.Times.MaxAge = -1 },
		"a share above 1": func(c *holder.GuardConfig) { c.MaxUnheard = 1.5 }, "no room for one answer": func(c *holder.GuardConfig) { c.MaxHeld = 1000 },
	} {
		cfg := w.config()
		change(&cfg)
		if g, err := holder.NewGuard(t.Context(), cfg); err == nil {
			_ = g.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

// witnessPolicy is a policy with a witness, who never saw the log.
func witnessPolicy(t *testing.T, w *world) string {
	t.Helper()
	vkeys, err := w.b.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, vkey, err := note.GenerateKey(rand.Reader, "witness.example/w")
	if err != nil {
		t.Fatal(err)
	}
	name, rest, _ := strings.Cut(vkey, "+")
	_, key, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	raw[0] = 4 // a cosignature key (c2sp.org/tlog-cosignature)
	sum := sha256.Sum256(append([]byte(name+"\n"), raw...))
	return fmt.Sprintf("log %s\nwitness w %s+%08x+%s\nquorum w\n", vkeys[0], name, binary.BigEndian.Uint32(sum[:]), base64.StdEncoding.EncodeToString(raw))
}

// TestNotWitnessed: under a policy with witnesses a log without their cosignatures is provisional, which is not enough.
func TestNotWitnessed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	p, err := proof.ParsePolicy([]byte(witnessPolicy(t, w)))
	if err != nil {
		t.Fatal(err)
	}
	ks, err := w.b.IntentKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey(proof.IntentKeyName("regard.example/log", "intent.1"), ks[0].Public())
	if err != nil {
		t.Fatal(err)
	}
	// Keys of the log count only once they are witnessed; pinned ones do.
	w.protect(func(c *holder.GuardConfig) { c.Policy, c.AcceptSigned = p, false })
	w.disclose("Exemple", broker.Failed)
	if w.asked.Load() != 0 {
		t.Error("a key that no witness saw was believed")
	}
	w.protect(func(c *holder.GuardConfig) {
		c.Policy, c.AcceptSigned, c.Keys, c.Times.MaxAge = p, false, []string{vkey}, 500*time.Millisecond
	})
	w.disclose("Exemple", broker.Released)
	w.counts(map[holder.State]int64{holder.Signed: 1})
	w.alarm(holder.AlarmOverdue)
	w.disclose("Refusée", broker.Failed)
}

// slowBody is a request's body that comes when it may.
type slowBody struct{ read, end chan struct{} }

func (b slowBody) Read([]byte) (int, error) {
	b.read <- struct{}{}
	<-b.end
	return 0, io.EOF
}

// TestRoomForBodies: what may come of a body has its room before it is read, however slowly it comes.
func TestRoomForBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	g := w.protect(func(c *holder.GuardConfig) {
		c.MaxBody, c.MaxAnswer, c.MaxHeld, c.Tolerance = 1000, 100_000, 101_000, time.Hour
		c.Times.MaxAge, c.Times.SettleAge = time.Hour, 2*time.Hour // these questions were never the broker's
	})
	w.disclose("Exemple", broker.Released)
	w.mu.Lock()
	announced := w.seen[0]
	w.mu.Unlock()
	_, slow := w.announce(announced, announced.target, uuid.NewString())
	_, intent := w.announce(announced, announced.target, uuid.NewString())
	body := slowBody{make(chan struct{}), make(chan struct{})}
	r := httptest.NewRequest(http.MethodGet, announced.target, body)
	r.Header.Set(holder.IntentHeader, slow)
	first, done := httptest.NewRecorder(), make(chan struct{})
	go func() {
		defer close(done)
		g.Handler(http.HandlerFunc(household)).ServeHTTP(first, r)
	}()
	<-body.read
	if status, code := w.ask(t, announced.target, intent); status != 503 || code != "holder.busy" {
		t.Errorf("while a body is read: %d %s", status, code)
	}
	close(body.end)
	if <-done; first.Code != 200 {
		t.Errorf("the first: %d %s", first.Code, first.Body)
	}
	if status, code := w.ask(t, announced.target, intent); status != 200 {
		t.Errorf("asked again: %d %s", status, code)
	}
}

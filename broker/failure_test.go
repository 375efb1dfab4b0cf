package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// faulty is a custodian whose calls fail when told to. It survives the broker, as a Vault does.
type faulty struct {
	keys.Custodian
	fail atomic.Pointer[func(ctx context.Context, op string) error]
}

func newFaulty(t *testing.T) *faulty { return &faulty{Custodian: keystest.NewCustodian(t)} }

// down makes a call fail with err, or hang until its context ends if err is nil.
func (f *faulty) down(op string, err error) {
	do := func(ctx context.Context, got string) error {
		if got != op {
			return nil
		}
		if err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	f.fail.Store(&do)
}

func (f *faulty) up() { f.fail.Store(nil) }

func (f *faulty) ask(ctx context.Context, op string) error {
	if fail := f.fail.Load(); fail != nil {
		return (*fail)(ctx, op)
	}
	return nil
}

func (f *faulty) Wrap(ctx context.Context, in []keys.Plain) ([]keys.Wrapped, error) {
	if err := f.ask(ctx, "Wrap"); err != nil {
		return nil, err
	}
	return f.Custodian.Wrap(ctx, in)
}

func (f *faulty) Unwrap(ctx context.Context, in []keys.WrappedAD) ([][32]byte, error) {
	if err := f.ask(ctx, "Unwrap"); err != nil {
		return nil, err
	}
	return f.Custodian.Unwrap(ctx, in)
}

func (f *faulty) Sign(ctx context.Context, version int, msg []byte) ([]byte, error) {
	if err := f.ask(ctx, "Sign"); err != nil {
		return nil, err
	}
	return f.Custodian.Sign(ctx, version, msg)
}

func (f *faulty) Check(ctx context.Context) error {
	return errors.Join(f.ask(ctx, "Wrap"), f.ask(ctx, "Unwrap"), f.Custodian.Check(ctx))
}

func (f *faulty) Close() error { return nil }

// TestNothingIsCutOff: without requests there is nothing to wait for, however little time there is.
func TestNothingIsCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := w.b.Close(ctx)
	w.b = nil
	if err != nil && strings.Contains(err.Error(), "cut off") {
		t.Errorf("%v", err)
	}
}

// watched is a world whose log, at debug level, can be read while it works.
type watched struct {
	*world
	out *syncWriter
}

func newWatched(t *testing.T, change func(*broker.Config)) *watched {
	t.Helper()
	out := &syncWriter{w: &bytes.Buffer{}}
	return &watched{newWorld(t, func(c *broker.Config) {
		c.Logger = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		if change != nil {
			change(c)
		}
	}), out}
}

// text is the log so far.
func (w *watched) text() string {
	w.out.mu.Lock()
	defer w.out.mu.Unlock()
	return w.out.w.String()
}

// asker asks about a person of its own, under one Idempotency-Key.
func asker(name string) *broker.Request {
	req := request()
	req.Subject.Pivot = killPivot(name)
	req.Object, req.IdempotencyKey = name, "key-"+strings.ReplaceAll(name, " ", "-")
	return req
}

// couple is the asked person and a child that nobody else has.
func couple(rw http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("nomNaissance")
	rw.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(rw, `{"data":{"quotient":{"valeur":77012},"membres":[{"nom":%q,"prenoms":"ZOE","naissance":"1984-02-29","sexe":"F"},{"nom":%q,"prenoms":"NOE","naissance":"2015-06-30","sexe":"M"}],"adresse":"1 RUE"}}`, name, name+" ENFANT")
}

// nothing wants a request to fail clearly: it may be repeated, and no word of the provider or about the person is in what it gave.
func (w *watched) nothing(what string, a *broker.Answer, err error) {
	w.t.Helper()
	if err == nil {
		// The sweeper may have been faster: then it is recorded that nobody knows what became of it.
		if a.Data != nil || a.Outcome != broker.Failed || a.Problem.Code != "interrupted" {
			w.t.Errorf("%s: outcome %s, problem %+v, %d bytes", what, a.Outcome, a.Problem, len(a.Data))
		}
		return
	}
	p := broker.AsProblem(err)
	if a != nil || p.Status != 503 && p.Code != "idempotency.in_progress" || p.RetryAfter == 0 || p.Detail == "" {
		w.t.Errorf("%s: answer %v, problem %d %v", what, a, p.Status, err)
	}
	for _, word := range []string{"TUE", "ENFANT", "77012", "MARKER"} {
		if strings.Contains(err.Error()+p.Title+p.Detail, word) {
			w.t.Errorf("%s: the error holds %q: %v", what, word, err)
		}
	}
}

// finally repeats a request until it has an answer for good: the recorded one.
func (w *watched) finally(req *broker.Request) *broker.Answer {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		a, err := w.b.Disclose(w.t.Context(), w.caller, req)
		if err == nil {
			w.verify(a.Receipt)
			return a
		}
		if p := broker.AsProblem(err); p.Status != 503 && p.Status != 409 || time.Now().After(deadline) {
			w.t.Fatalf("no answer after the failure ended: %v\n%s", err, w.text())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestKeysDown takes the keys away at each call and at each stage at which it can matter.
func TestKeysDown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		op, stage string
		err       error
		recorded  broker.Outcome // of the request that met it, once all is well again
	}{
		{"Wrap", "", keys.ErrSealed, broker.Released}, // nothing was recorded: it is a new request
		{"Wrap", "intent", keys.ErrUnavailable, broker.Failed},
		{"Wrap", "provider", keys.ErrDenied, broker.Failed},
		{"Unwrap", "", keys.ErrSealed, broker.Released},
		{"Unwrap", "", keys.ErrDenied, broker.Released},
		{"Sign", "", keys.ErrSealed, broker.Released}, // it is in the log's order: the answer is there once it is signed
		{"Sign", "outcome", keys.ErrUnavailable, broker.Released},
		{"Sign", "integrate", keys.ErrDenied, broker.Released},
		{"Wrap", "", nil, broker.Released}, // hangs
		{"Unwrap", "", nil, broker.Released},
		{"Sign", "", nil, broker.Released},
	} {
		t.Run(fmt.Sprintf("%s/%s/%v", c.op, c.stage, c.err), func(t *testing.T) {
			t.Parallel()
			f := newFaulty(t)
			var at atomic.Pointer[string]
			w := newWatched(t, func(cfg *broker.Config) {
				cfg.Custodian, cfg.SweepEvery, cfg.CacheKeys = f, 50*time.Millisecond, 1
				cfg.SetAt(func(s string) {
					if p := at.Load(); p != nil && *p == s {
						f.down(c.op, c.err)
					}
				})
			})
			w.provider.answer = couple
			old := asker("TUE ANCIEN")
			if a := w.disclose(old); a.Outcome != broker.Released {
				t.Fatalf("%+v", a)
			}
			for i := range 3 { // so that the old one's key isn't in the cache any more
				w.disclose(asker("TUE " + letters(int64(i+1))))
			}
			w.filed()
			asked := len(w.provider.requests())
			req := asker("TUE NOUVEAU")
			if c.op == "Unwrap" {
				req = asker("TUE ANCIEN")
				req.IdempotencyKey = "another"
			}
			if c.stage == "" {
				f.down(c.op, c.err)
			} else {
				at.Store(&c.stage)
			}
			for i := range 2 {
				a, err := w.b.Disclose(t.Context(), w.caller, req)
				w.nothing(fmt.Sprintf("try %d", i+1), a, err)
				if c.err == nil {
					break // each takes as long as a hanging call is waited for
				}
			}
			if c.op != "Sign" && c.err != nil {
				if err := w.b.Ready(t.Context()); err == nil {
					t.Error("says that it is ready")
				}
			}
			at.Store(nil)
			f.up()
			a := w.finally(req)
			if a.Outcome != c.recorded || (a.Data != nil) != (c.recorded == broker.Released) {
				t.Errorf("afterwards: outcome %s, problem %+v", a.Outcome, a.Problem)
			}
			if n := len(w.provider.requests()) - asked; n != 1 {
				t.Errorf("the provider was asked %d times", n)
			}
			if a := w.finally(asker("TUE SUIVANT")); a.Outcome != broker.Released {
				t.Errorf("the next request: %+v", a)
			}
			if err := w.b.Ready(t.Context()); err != nil {
				t.Errorf("isn't ready again: %v", err)
			}
		})
	}
}

// filed waits until every entry so far is in its roll.
func (w *watched) filed() {
	w.t.Helper()
	last, _, err := w.b.Store().LastIndex(w.t.Context())
	for deadline := time.Now().Add(patience); err == nil; {
		var ok bool
		if ok, err = w.b.Store().Filed(w.t.Context(), last); ok {
			return
		}
		if time.Now().After(deadline) {
			err = errors.New("not in time")
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("waiting for rolls: %v", err)
}

// TestSweeperLeavesRequestsAlone: recording what was interrupted never gets into the way of requests that are being carried out.
func TestSweeperLeavesRequestsAlone(t *testing.T) {
	t.Parallel()
	w := newWatched(t, func(c *broker.Config) { c.SweepEvery = time.Millisecond })
	w.provider.answer = couple
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 25 {
				a, err := w.b.Disclose(t.Context(), w.caller, asker("TUE "+letters(int64(100*i+j+1))))
				if err != nil || a.Outcome != broker.Released {
					t.Errorf("%+v, %v", a, err)
				}
			}
		})
	}
	wg.Wait()
	if logs := w.text(); strings.Contains(logs, "level=ERROR") || strings.Contains(logs, "interrupted") {
		t.Errorf("the sweeper met requests that were being carried out:\n%.3000s", logs)
	}
}

// TestPolicyGivesNoDecision: a bundle that fails on this very request is a refusal, recorded like every other; when the bundle is mended the broker goes on by itself.
func TestPolicyGivesNoDecision(t *testing.T) {
	t.Parallel()
	const rego = `package regard.decision

grant := {"scopes": input.scopes, "fields": input.service.scopes, "obligations": []} if allowed

allowed if {
	input.agency.state == "active"
	input.agreement.agency == input.agency.id
	QUIRK
}

reasons contains {"code": "refused", "fr": "Non.", "en": "No."} if not allowed
`
	dir := t.TempDir()
	write := func(quirk string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "policy.rego"), []byte(strings.Replace(rego, "QUIRK", quirk, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`to_number(input.purpose) > 0`)
	w := newWatched(t, func(c *broker.Config) { c.Policy = policy.FromPath(dir) })
	a := w.disclose(asker("TUE UN"))
	if a.Outcome != broker.Denied || a.Data != nil || len(a.Reasons) != 1 || a.Reasons[0].Code != "policy.error" {
		t.Fatalf("%+v", a)
	}
	w.verify(a.Receipt)
	if n := len(w.provider.requests()); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
	write(`input.has_context`)
	tries := int64(0)
	w.until("the mended bundle", func() bool {
		tries++
		a = w.disclose(asker("TUE " + letters(tries)))
		return a.Outcome == broker.Released
	})
	// One that can't be used at all stays out of force.
	write(`this is no rego`)
	w.until("the bundle that doesn't compile", func() bool { return w.b.PolicyStatus().Problem != nil })
	if a := w.disclose(asker("TUE DEUX")); a.Outcome != broker.Released {
		t.Errorf("%+v", a)
	}
}

// TestProviderFails: whatever a provider does instead of answering is recorded and nothing of it is passed on; the next answer is released.
func TestProviderFails(t *testing.T) {
	t.Parallel()
	w := newWatched(t, func(c *broker.Config) { c.Providers = provider.Config{Development: true, Failures: 1000, Window: 1000} })
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	var strayed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strayed.Add(1) }))
	t.Cleanup(elsewhere.Close)
	const json = "application/json"
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		cause  string
		status int
	}{
		"slow": {func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}, "provider/timeout", 504},
		"never ends": {func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", json)
			for range 100 {
				if _, err := io.WriteString(rw, `{"data":"SECRETMARKER"`); err != nil {
					return
				}
				rw.(http.Flusher).Flush()
				select {
				case <-stop:
				case <-r.Context().Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		}, "provider/timeout", 504},
		"huge": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", json)
			fmt.Fprintf(rw, `{"data":{"quotient":{"valeur":1},"adresse":%q}}`, strings.Repeat("SECRETMARKER", 10000))
		}, "provider/too_large", 502},
		"truncated": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", json)
			rw.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(rw, `{"data":{"quotient":{"valeur":1},"adresse":"SECRETMARKER"}}`)
		}, "provider/truncated", 502},
		"redirects": {func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, elsewhere.URL+"/SECRETMARKER?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
		}, "provider/redirect", 502},
		"another shape": {func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw, `{"data":{"quotient":{"valeur":"SECRETMARKER"}}}`)
		}, "provider/answer", 502},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "provider/connection", 502},
		"not JSON": {func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "<p>SECRETMARKER") }, "provider/answer", 502},
		"two values": {func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw, `{"data":{"quotient":{"valeur":1}}} {"SECRETMARKER":1}`)
		}, "provider/answer", 502},
	} {
		t.Run(name, func(t *testing.T) {
			w.provider.mu.Lock()
			w.provider.answer = c.answer
			w.provider.mu.Unlock()
			a := w.disclose(asker("TUE " + proof.FoldName(name)))
			if a.Outcome != broker.Failed || a.Data != nil || a.Problem == nil || a.Problem.Code != c.cause || a.Problem.Status != c.status || a.Problem.Provider != "caisse" {
				t.Fatalf("outcome %s, data %q, problem %+v", a.Outcome, a.Data, a.Problem)
			}
			w.verify(a.Receipt)
			r, err := proof.ParseReceipt(a.Receipt)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Opening().Text(proof.DisclosureCause); got != c.cause {
				t.Errorf("recorded as %q", got)
			}
			// What it would have held nobody knows: an empty list would claim that it was nothing.
			if v, p := r.Opening().Value(proof.DisclosureObtained); p != proof.Absent {
				t.Errorf("obtained %q, presence %v", v, p)
			}
			w.provider.mu.Lock()
			w.provider.answer = couple
			w.provider.mu.Unlock()
			if a := w.disclose(asker("TUE APRES " + proof.FoldName(name))); a.Outcome != broker.Released {
				t.Errorf("the next request: %+v", a)
			}
		})
	}
	if n := strayed.Load(); n != 0 {
		t.Errorf("a redirection was followed %d times", n)
	}
	if logs := w.text(); strings.Contains(logs, "SECRETMARKER") || strings.Contains(logs, "TUE") {
		t.Errorf("the log speaks of persons or answers:\n%s", logs)
	}
}

// TestLinkIsWithheld: a link that may not be passed on is not in the answer, also if the agency is granted the field.
func TestLinkIsWithheld(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	yaml, err := os.ReadFile("testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(
		"version: 1", "version: 2", "http://127.0.0.1:1", w.provider.URL,
		"fields: [/data/quotient/valeur]", "fields: [/data/quotient/valeur, /data/piece]",
		"  /data/adresse: string?\n", "  /data/adresse: string?\n  /data/piece: string?\nlinks:\n  /data/piece: {mode: withhold}\n").Replace(string(yaml))
	if _, err := w.b.PutService(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	w.provider.answer = func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, `{"data":{"quotient":{"valeur":5},"membres":[],"piece":"https://secret.example/SECRETMARKER"}}`)
	}
	a := w.disclose(asker("TUE LIEN"))
	if a.Outcome != broker.Released || string(a.Data) != `{"data":{"quotient":{"valeur":5}}}` {
		t.Fatalf("outcome %s, problem %+v, data %s", a.Outcome, a.Problem, a.Data)
	}
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Opening().List(proof.DisclosureReleased); len(got) != 1 {
		t.Errorf("released %v", got)
	}
	if strings.Contains(w.text(), "secret.example") {
		t.Error("the link is in the log")
	}
}

// TestClockStepsBack: by little the log waits with its own time, by much it refuses; both until the clock is right again, and nothing is lost.
func TestClockStepsBack(t *testing.T) {
	t.Parallel()
	for back, refused := range map[time.Duration]bool{10 * time.Second: false, 2 * time.Hour: true} {
		t.Run(back.String(), func(t *testing.T) {
			t.Parallel()
			var step atomic.Int64
			w := newWatched(t, func(c *broker.Config) {
				c.Clock = func() time.Time { return time.Now().Add(time.Duration(step.Load())) }
				c.SweepEvery, c.Epoch = 50*time.Millisecond, 2*time.Second
			})
			w.provider.answer = couple
			before := w.disclose(asker("TUE AVANT"))
			step.Store(-int64(back))
			req := asker("TUE PENDANT")
			a, err := w.b.Disclose(t.Context(), w.caller, req)
			if refused {
				w.nothing("stepped back", a, err)
			} else if err != nil || a.Outcome != broker.Released {
				t.Errorf("stepped back by little: %+v, %v", a, err)
			}
			again := w.text()
			if !strings.Contains(again, "clock") {
				t.Errorf("nobody is told about the clock:\n%s", again)
			}
			step.Store(0)
			a = w.finally(req)
			if !refused && (a.Outcome != broker.Released || !a.Repeated) {
				t.Errorf("afterwards: %+v", a)
			}
			if a := w.finally(asker("TUE APRES")); a.Outcome != broker.Released {
				t.Errorf("the next request: %+v", a)
			}
			w.verify(before.Receipt)
			w.close()
			w.open()
			if a := w.finally(asker("TUE AVANT")); !a.Repeated || a.Data == nil {
				t.Errorf("after a restart: %+v", a)
			}
		})
	}
}

// TestSecondBroker: one broker on one directory; the second leaves the first alone.
func TestSecondBroker(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	cfg := w.cfg
	b, err := broker.New(t.Context(), cfg)
	if b != nil || !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("a second broker: %v, %v", b, err)
	}
	if a := w.disclose(asker("TUE UN")); a.Outcome != broker.Released {
		t.Errorf("the first one: %+v", a)
	}
}

// TestClosedUnderIt closes the database of each part under the running broker, as a disk that is gone would. Requests fail clearly; the next start finds everything.
func TestClosedUnderIt(t *testing.T) {
	t.Parallel() // it waits most of the time
	for part, c := range map[string]struct {
		close func(*broker.Broker) error
		ready bool // Ready looks at the part itself
	}{
		"store":  {func(b *broker.Broker) error { return b.Store().Close() }, false},
		"log":    {(*broker.Broker).CloseLog, true},
		"signed": {(*broker.Broker).CloseSigned, true},
	} {
		t.Run(part, func(t *testing.T) {
			w := newWatched(t, nil)
			w.provider.answer = couple
			before := w.disclose(asker("TUE AVANT"))
			if err := c.close(w.b); err != nil {
				t.Fatal(err)
			}
			met := asker("TUE PENDANT")
			for _, req := range []*broker.Request{met, asker("TUE AVANT"), met} {
				a, err := w.b.Disclose(t.Context(), w.caller, req)
				if err == nil && a.Repeated && req != met {
					w.verify(a.Receipt) // it was recorded and published before
					continue
				}
				w.nothing("closed", a, err)
			}
			if !c.ready {
				if err := w.b.Ready(t.Context()); err == nil {
					t.Error("says that it is ready")
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_ = w.b.Close(ctx) // something is closed already
			w.open()
			if a := w.finally(met); a.Outcome == broker.Released != (a.Data != nil) {
				t.Errorf("%+v", a)
			}
			w.verify(before.Receipt)
			if a := w.finally(asker("TUE AVANT")); !a.Repeated || !bytes.Equal(a.Data, before.Data) {
				t.Errorf("%+v", a)
			}
			if a := w.finally(asker("TUE APRES")); a.Outcome != broker.Released {
				t.Errorf("%+v", a)
			}
		})
	}
}

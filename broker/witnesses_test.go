package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	wit "github.com/regard-broker/regard/ledger/witness"
	"github.com/regard-broker/regard/policy"
)

// stand is a real witness behind HTTP; a test can put another answer in its place.
type stand struct {
	w       *wit.Witness
	url     string
	instead atomic.Pointer[another]
}

// another is an answer until there is the next one: who hangs doesn't any more, then.
type another struct {
	h     http.HandlerFunc // nil: the witness's own
	until context.Context
	end   context.CancelFunc
}

func (s *stand) answer(h http.HandlerFunc) {
	a := &another{h: h}
	a.until, a.end = context.WithCancel(context.Background())
	if old := s.instead.Swap(a); old != nil {
		old.end()
	}
}

func gone(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// witnessedWorld is a world whose log n witnesses cosign, of which k are a quorum.
type witnessedWorld struct {
	*watched
	stands []*stand
}

func newWitnessedWorld(t *testing.T, k, n int, change func(*broker.Config)) *witnessedWorld {
	t.Helper()
	ww := &witnessedWorld{}
	ww.watched = newWatched(t, func(c *broker.Config) {
		custodian := keystest.NewCustodian(t)
		c.Custodian = unclosed{custodian}
		pub, err := custodian.PublicKeys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		vkey, err := note.NewEd25519VerifierKey(c.Origin, pub[0].Key)
		if err != nil {
			t.Fatal(err)
		}
		var text, names strings.Builder
		for i := range n {
			s := newStand(t, fmt.Sprintf("w%d.example", i), c.Origin, vkey)
			ww.stands = append(ww.stands, s)
			fmt.Fprintf(&text, "witness w%d %s %s\n", i, s.w.VKey(), s.url)
			fmt.Fprintf(&names, " w%d", i)
		}
		fmt.Fprintf(&text, "group all %d%s\nquorum all\n", k, &names)
		c.Witnesses = &broker.Witnesses{Policy: []byte(text.String()), Faulty: 1, Deadline: 300 * time.Millisecond, Timeout: 20 * time.Second, Wait: 5 * time.Second}
		if change != nil {
			change(c)
		}
	})
	ww.provider.answer = couple
	return ww
}

func newStand(t *testing.T, name, origin, vkey string) *stand {
	t.Helper()
	key, err := wit.NewKey(name)
	if err != nil {
		t.Fatal(err)
	}
	cfg := wit.Config{Key: key, State: filepath.Join(t.TempDir(), "w.db"), Logs: []wit.Log{{Origin: origin, VKey: vkey}}, ClientRate: 1e4, ClientBurst: 1e4}
	if err := wit.Create(t.Context(), cfg.State); err != nil {
		t.Fatal(err)
	}
	s := &stand{}
	if s.w, err = wit.Open(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if a := s.instead.Load(); a != nil && a.h != nil {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(a.until, cancel)()
			a.h(rw, r.WithContext(ctx))
			return
		}
		s.w.Handler().ServeHTTP(rw, r)
	}))
	s.url = srv.URL
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		if err := s.w.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (w *witnessedWorld) all(h http.HandlerFunc, stands ...int) {
	for _, i := range stands {
		w.stands[i].answer(h)
	}
}

// auditor is the policy by which somebody else verifies: the log's key and the witnesses.
func (w *witnessedWorld) auditor() *proof.Policy {
	w.t.Helper()
	vkeys, err := w.b.LogKeys(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := proof.ParsePolicy(fmt.Appendf(nil, "log %s\n%s", vkeys[0], w.cfg.Witnesses.Policy))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// state is what an auditor says about a receipt.
func (w *witnessedWorld) state(text []byte) proof.State {
	w.t.Helper()
	r, err := proof.ParseReceipt(text)
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := r.Verify(w.auditor(), proof.VerifyOptions{AllowProvisional: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return v.State
}

// lookUp waits for the publication, which may wait for witnesses, too.
func (w *witnessedWorld) lookUp(a *broker.Answer) *broker.Answer {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		got, err := w.b.Disclosure(w.t.Context(), w.caller, a.ID)
		if err == nil {
			return got
		}
		if codeOf(err) != "log.unavailable" || time.Now().After(end) {
			w.t.Fatal(err)
		}
	}
}

func (w *witnessedWorld) witnessedSoon(a *broker.Answer) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		got := w.lookUp(a)
		if got.State == proof.Witnessed {
			if w.state(got.Receipt) != proof.Witnessed {
				w.t.Error("the broker calls witnessed what an auditor doesn't")
			}
			return
		}
		if time.Now().After(end) {
			w.t.Fatal("no witnessed receipt in time")
		}
	}
}

func (w *witnessedWorld) quorumLost() {
	w.t.Helper()
	for end := time.Now().Add(patience); w.b.Log().QuorumMissing() == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("the loss of the quorum isn't noticed")
		}
	}
}

func (w *witnessedWorld) quorumBack() {
	w.t.Helper()
	for end := time.Now().Add(patience); w.b.Log().QuorumMissing() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("the quorum isn't found again")
		}
	}
}

// waitService puts the same service in force once more, to be released on witnessed receipts.
func (w *witnessedWorld) waitService() {
	w.t.Helper()
	yaml, err := os.ReadFile("testdata/household.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	yaml = bytes.Replace(yaml, []byte("http://127.0.0.1:1"), []byte(w.provider.URL), 1)
	yaml = bytes.Replace(yaml, []byte("id: household"), []byte("id: household-w\nrelease: witnessed"), 1)
	if _, err := w.b.PutService(w.t.Context(), yaml); err != nil {
		w.t.Fatal(err)
	}
	w.agree("attendre", "household-w", nil)
}

func (w *witnessedWorld) agree(id policy.AgreementID, service policy.ServiceID, obligations []policy.Obligation) {
	w.t.Helper()
	if _, err := w.b.PutAgreement(w.t.Context(), agreementOf(id, service, obligations)); err != nil {
		w.t.Fatal(err)
	}
}

func agreementOf(id policy.AgreementID, service policy.ServiceID, obligations []policy.Obligation) policy.Agreement {
	return policy.Agreement{
		ID: id, Agency: "mairie", Service: service, Scopes: []policy.Scope{"members", "quotient"},
		Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), Obligations: obligations,
	}
}

func waiting(name string) *broker.Request {
	req := asker(name)
	req.Service = "household-w"
	return req
}

// By default an answer is released on the log's signature, in the time that it takes without witnesses, and its receipt becomes witnessed by itself; also if none of them answers at first.
func TestReceiptsBecomeWitnessed(t *testing.T) {
	t.Parallel()
	const deadline = 5 * time.Second
	w := newWitnessedWorld(t, 3, 4, func(c *broker.Config) { c.Witnesses.Deadline = deadline })
	a := w.disclose(asker("TUE UN"))
	if a.State != proof.Provisional || w.state(a.Receipt) != proof.Provisional || a.Data == nil {
		t.Errorf("released as %v", a.State)
	}
	w.witnessedSoon(a)
	w.all(gone, 3) // three are enough
	w.witnessedSoon(w.disclose(asker("TUE DEUX")))
	var late *broker.Answer
	for i := 0; ; i++ {
		w.all(hang, 1, 2)
		late = w.disclose(asker(fmt.Sprintf("TUE LENT %c", 'A'+i)))
		// What waits for witnesses is released when their deadline has passed, and then the quorum is known to be missing.
		if w.b.Log().QuorumMissing() == 0 {
			break
		}
		if i == 4 { // the machine was slow, once or twice
			t.Fatal("five times released after the witnesses' deadline: it waited for them")
		}
		w.all(nil, 1, 2)
		w.quorumBack()
	}
	w.quorumLost()
	if got := w.lookUp(late); got.State != proof.Provisional {
		t.Errorf("without the quorum: %v", got.State)
	}
	w.witnessedSoon(a) // what was witnessed stays so
	w.all(nil, 1, 2, 3)
	w.witnessedSoon(late)
	if !strings.Contains(w.text(), "without the quorum of witnesses") {
		t.Error("the operator isn't told")
	}
	for _, s := range w.b.WitnessStats() {
		if s.Cosigned == 0 {
			t.Errorf("%+v", s)
		}
	}
}

// A service or an agreement that demands it gets its answer under the quorum, or not at all.
func TestReleaseWaitsForWitnesses(t *testing.T) {
	t.Parallel()
	w := newWitnessedWorld(t, 3, 4, func(c *broker.Config) { c.Witnesses.Wait = 2 * time.Second })
	w.waitService()
	w.agree("stricte", "household", []policy.Obligation{policy.ObligationWaitForWitnesses})
	strict := func(name string) *broker.Request {
		req := asker(name)
		req.Agreement = "stricte"
		return req
	}
	for kind, ask := range map[string]func(string) *broker.Request{"service": waiting, "agreement": strict} {
		name := "TUE " + strings.ToUpper(kind)
		a := w.finally(ask(name)) // a busy machine may find the quorum late, and say so
		if a.State != proof.Witnessed || w.state(a.Receipt) != proof.Witnessed || a.Data == nil {
			t.Fatalf("%s: released as %v", kind, a.State)
		}
		again := w.finally(ask(name))
		if !again.Repeated || again.State != proof.Witnessed || !bytes.Equal(again.Data, a.Data) {
			t.Errorf("%s, repeated: %+v", kind, again)
		}

		// The quorum is lost while a request waits for it.
		w.all(hang, 1, 2, 3)
		name += " TARD"
		asked := len(w.provider.requests())
		late, err := w.b.Disclose(t.Context(), w.caller, ask(name))
		if p := broker.AsProblem(err); late != nil || p.Status != 503 || p.Code != "witnesses.late" || p.RetryAfter == 0 || !errors.Is(err, ledger.ErrUnavailable) {
			t.Fatalf("%s: %+v %v", kind, late, err)
		}
		// Now that it is known nobody is asked, and nothing is recorded.
		w.quorumLost()
		size := w.b.Log().Checkpoint().Size()
		for _, req := range []*broker.Request{ask(name), ask(name + " AUTRE")} {
			got, err := w.b.Disclose(t.Context(), w.caller, req)
			if p := broker.AsProblem(err); got != nil || p.Status != 503 || p.Code != "witnesses.unavailable" {
				t.Errorf("%s: %+v %v", kind, got, err)
			}
		}
		if n := len(w.provider.requests()); n != asked+1 || w.b.Log().Checkpoint().Size() != size {
			t.Errorf("%s: the provider was asked %d times, the log grew by %d", kind, n-asked, w.b.Log().Checkpoint().Size()-size)
		}
		// Others go on, and a refusal is told at once: nobody said anything.
		if a := w.disclose(asker(name + " VITE")); a.State != proof.Provisional || a.Data == nil {
			t.Errorf("another service: %+v", a)
		}
		denied := ask(name + " REFUS")
		denied.Purpose = "publicite"
		if a := w.disclose(denied); a.Outcome != broker.Denied || a.State != proof.Provisional {
			t.Errorf("denied: %+v", a)
		}

		w.all(nil, 1, 2, 3)
		w.quorumBack()
		a = w.finally(ask(name))
		if !a.Repeated || a.Outcome != broker.Released || a.Data == nil || a.State != proof.Witnessed {
			t.Errorf("%s: after the witnesses came back: %+v", kind, a)
		}
		if n := len(w.provider.requests()); n != asked+2 { // and the one of another service
			t.Errorf("%s: the provider was asked %d times", kind, n-asked)
		}
	}
}

// That a provider knows nobody is data, too: not even the outcome is told sooner.
func TestOutcomeWaitsForWitnesses(t *testing.T) {
	t.Parallel()
	w := newWitnessedWorld(t, 2, 2, func(c *broker.Config) { c.Witnesses.Wait = 500 * time.Millisecond })
	w.waitService()
	w.witnessedSoon(w.disclose(asker("TUE AVANT")))
	w.all(hang, 0, 1)
	w.provider.mu.Lock()
	w.provider.answer = func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusNotFound)
		_, _ = rw.Write([]byte(`{"errors":[{"code":"37003"}]}`))
	}
	w.provider.mu.Unlock()
	req := waiting("TUE PERSONNE")
	a, err := w.b.Disclose(t.Context(), w.caller, req)
	if p := broker.AsProblem(err); a != nil || p.Code != "witnesses.late" {
		t.Fatalf("%+v %v", a, err)
	}
	id := w.lastDisclosure()
	got, err := w.b.Disclosure(t.Context(), w.caller, id)
	if p := broker.AsProblem(err); got != nil || p.Code != "witnesses.late" {
		t.Errorf("looked up: %+v %v", got, err)
	}
	// Nor when the service has ended meanwhile.
	if err := w.b.WithdrawService(t.Context(), "household-w"); err != nil {
		t.Fatal(err)
	}
	got, err = w.b.Disclosure(t.Context(), w.caller, id)
	if p := broker.AsProblem(err); got != nil || p.Code != "witnesses.late" {
		t.Errorf("looked up after the service was withdrawn: %+v %v", got, err)
	}
	w.quorumLost()
	w.all(nil, 0, 1)
	w.quorumBack()
	if got, err := w.b.Disclosure(t.Context(), w.caller, id); err != nil || got.State != proof.Witnessed || got.Outcome == broker.Released {
		t.Errorf("looked up after the witnesses came back: %+v %v", got, err)
	}
}

// lastDisclosure is the id of the newest disclosure, as the provider was told it.
func (w *witnessedWorld) lastDisclosure() store.ID {
	w.t.Helper()
	rs := w.provider.requests()
	if len(rs) == 0 {
		w.t.Fatal("nobody was asked")
	}
	id, err := uuid.Parse(rs[len(rs)-1].Header.Get("X-Request-Id"))
	if err != nil {
		w.t.Fatal(err)
	}
	return store.ID(id)
}

// Requests that wait have a share of the places: those that don't wait find one.
func TestWaitingTakesNotAllPlaces(t *testing.T) {
	t.Parallel()
	w := newWitnessedWorld(t, 1, 1, func(c *broker.Config) { c.MaxInFlight, c.Witnesses.Wait = 4, time.Minute })
	w.waitService()
	w.witnessedSoon(w.disclose(asker("TUE AVANT")))
	held := make(chan struct{})
	w.all(func(http.ResponseWriter, *http.Request) { <-held }, 0)
	done := make(chan error, 6)
	for i := range 6 {
		go func() {
			_, err := w.b.Disclose(context.WithoutCancel(t.Context()), w.caller, waiting(fmt.Sprintf("TUE ATTEND %c", 'A'+i)))
			done <- err
		}()
	}
	busy := 0
	for range 4 { // two wait, the others are sent away at once
		if p := broker.AsProblem(<-done); p.Code == "broker.busy" || p.Code == "witnesses.unavailable" {
			busy++
		}
	}
	if a := w.disclose(asker("TUE PASSE")); a.Data == nil {
		t.Errorf("%+v", a)
	}
	if busy != 4 {
		t.Errorf("%d of 6 were sent away", busy)
	}
	close(held)
	w.all(nil, 0)
	for range 2 {
		if err := <-done; err != nil && broker.AsProblem(err).Code != "witnesses.late" {
			t.Error(err)
		}
	}
}

// A broker without witnesses promises none.
func TestNoWitnesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if _, err := w.b.PutAgreement(t.Context(), agreementOf("stricte", "household", []policy.Obligation{policy.ObligationWaitForWitnesses})); broker.AsProblem(err).Status != 400 {
		t.Errorf("an agreement that demands them: %v", err)
	}
	yaml, err := os.ReadFile("testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	yaml = bytes.Replace(yaml, []byte("id: household"), []byte("id: household-w\nrelease: witnessed"), 1)
	if _, err := w.b.PutService(t.Context(), yaml); broker.AsProblem(err).Code != "service.witnesses" {
		t.Errorf("a service that demands them: %v", err)
	}
	// One whose witnesses were taken from its configuration releases nothing.
	ww := newWitnessedWorld(t, 1, 1, nil)
	ww.waitService()
	ww.close()
	ww.cfg.Witnesses = nil
	ww.open()
	a := ww.disclose(waiting("TUE UN"))
	if a.Outcome != broker.Failed || a.Data != nil || a.Problem.Code != "witnesses.none" || len(ww.provider.requests()) != 0 {
		t.Errorf("%+v", a)
	}
}

// An older copy of the whole data directory agrees with itself. The witnesses saw more.
func TestWitnessesSawMoreAtStart(t *testing.T) {
	t.Parallel()
	w := newWitnessedWorld(t, 3, 4, nil)
	w.witnessedSoon(w.disclose(asker("TUE AVANT")))
	w.close()
	old, newest := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "newest")
	copyTree(t, w.cfg.DataDir, old)
	w.open()
	w.witnessedSoon(w.disclose(asker("TUE APRES")))
	w.close()
	if err := os.Rename(w.cfg.DataDir, newest); err != nil {
		t.Fatal(err)
	}
	copyTree(t, old, w.cfg.DataDir)
	refused := func(what, says string, change func(*broker.Config)) {
		t.Helper()
		cfg := w.cfg
		own := *cfg.Witnesses
		cfg.Witnesses = &own
		if change != nil {
			change(&cfg)
		}
		b, err := broker.New(t.Context(), cfg)
		if err == nil {
			w.b = b
			t.Fatalf("%s: the broker works on an older copy", what)
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%s: refused by %v", what, err)
		}
	}
	refused("an old copy", "witnesses saw another history", nil)
	w.all(gone, 1, 2, 3)
	refused("three are down", "w0 cosigned", func(c *broker.Config) { c.IgnoreMirrors = true })
	w.all(gone, 0)
	refused("all are down", "too few witnesses say where the log stands", nil)
	refused("nobody has that name", "no witness \"w9\"", func(c *broker.Config) { c.Witnesses.Distrust = []string{"w9"} })
	w.all(nil, 0, 1, 2, 3)

	// All is lost but the keys, and a new log begins under them.
	if err := os.RemoveAll(w.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	refused("nothing is there", "witnesses saw another history", nil)

	if err := os.RemoveAll(w.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(newest, w.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.witnessedSoon(w.disclose(asker("TUE ENFIN")))
	w.close()

	// One that lies stops the start, for an operator has to look; who has looked can go on.
	w.all(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(rw, "1000000\n")
	}, 2)
	refused("a liar", "w2 cosigned 1000000 entries", nil)
	w.cfg.Witnesses.Distrust = []string{"w2"}
	w.open()
	w.witnessedSoon(w.disclose(asker("TUE QUAND MEME")))
}

// One witness that was down when the others saw more vouches for nothing, nor do two of which one may lie: whoever answers has to be part of every quorum that there may have been.
func TestTooFewWitnessesAtStart(t *testing.T) {
	t.Parallel()
	w := newWitnessedWorld(t, 3, 4, nil)
	w.witnessedSoon(w.disclose(asker("TUE AVANT")))
	w.close()
	old := filepath.Join(t.TempDir(), "old")
	copyTree(t, w.cfg.DataDir, old)
	w.all(gone, 3)
	w.open()
	w.witnessedSoon(w.disclose(asker("TUE APRES")))
	w.close()
	if err := os.RemoveAll(w.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	copyTree(t, old, w.cfg.DataDir)
	behind := func(rw http.ResponseWriter, _ *http.Request) { // a liar's word is no more than a size
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(rw, "1\n")
	}
	w.all(gone, 0, 1, 2)
	w.all(nil, 3)
	for what, lie := range map[string]http.HandlerFunc{"one was away": gone, "one was away, one lies": behind} {
		w.all(lie, 2)
		b, err := broker.New(t.Context(), w.cfg)
		if err == nil {
			w.b = b
			t.Fatalf("%s: the broker works on an older copy", what)
		}
		if !strings.Contains(err.Error(), "too few witnesses say where the log stands") || !strings.Contains(err.Error(), "witness w0") {
			t.Errorf("%s: refused by %v", what, err)
		}
	}
	// With another the quorum is there, and somebody in it saw more.
	w.all(nil, 1)
	if b, err := broker.New(t.Context(), w.cfg); err == nil {
		w.b = b
		t.Fatal("the broker works on an older copy")
	} else if !strings.Contains(err.Error(), "w1 cosigned") {
		t.Errorf("refused by %v", err)
	}
}

// As many may be down at a start as while the log runs.
func TestStartWithoutSomeWitnesses(t *testing.T) {
	t.Parallel()
	w := newWitnessedWorld(t, 3, 4, nil)
	w.close()
	w.all(gone, 2)
	w.open()
	w.witnessedSoon(w.disclose(asker("TUE SANS")))
}

// A broker that forked while its witnesses were down is found out by them.
func TestForkIsFoundByWitnesses(t *testing.T) {
	t.Parallel()
	w := newWitnessedWorld(t, 2, 3, nil)
	w.witnessedSoon(w.disclose(asker("TUE AVANT")))
	w.close()
	old := filepath.Join(t.TempDir(), "old")
	copyTree(t, w.cfg.DataDir, old)
	w.open()
	w.witnessedSoon(w.disclose(asker("TUE APRES")))
	w.close()
	if err := os.RemoveAll(w.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	copyTree(t, old, w.cfg.DataDir)
	w.all(gone, 0, 1, 2)
	w.cfg.IgnoreMirrors = true
	w.open()
	for i := range 5 { // further than the other history
		w.disclose(asker(fmt.Sprintf("TUE FOURCHE %c", 'A'+i)))
	}
	w.all(nil, 0, 1, 2)
	for end := time.Now().Add(patience); w.b.Log().Err() == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the fork goes on")
		}
	}
	if _, err := w.b.Disclose(t.Context(), w.caller, asker("TUE ENCORE")); broker.AsProblem(err).Code != "log.unavailable" {
		t.Errorf("a request to a halted log: %v", err)
	}
	if err := w.b.Log().Err(); !errors.Is(err, ledger.ErrHalted) || !strings.Contains(err.Error(), "saw another history") {
		t.Errorf("halted by %v", err)
	}
}

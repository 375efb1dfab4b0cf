package hostile_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/client"
	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
)

// What the holders of these tests wait for.
var patience = holder.Times{MaxAge: maxWait, SettleAge: 30 * time.Hour, Poll: 20 * time.Millisecond, SettleEvery: time.Millisecond}

// api is the part of the broker's API that holders ask, as the operator answers it.
type api struct {
	s     *scene
	calls atomic.Int64
}

// connect starts the API and returns how it is reached.
func (s *scene) connect() (*api, holder.Connection) {
	s.t.Helper()
	a := &api{s: s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/disclosures/{id}", a.disclosure)
	mux.HandleFunc("POST /v1/disclosures", a.disclose)
	mux.HandleFunc("POST /v1/provider/receipts", a.receipts)
	mux.HandleFunc("GET /v1/audit/epochs/{epoch}/rolls", a.rolls)
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	s.t.Cleanup(srv.Close)
	s.served = srv.Certificate().Raw
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return a, holder.Connection{URL: srv.URL, Certificate: brokertest.NewCurrentIdentity(s.t, "holder.example"), Roots: roots}
}

// filing returns the entry behind a disclosure's id; nil if there is none.
func (s *scene) filing(id string) *hostile.Filing {
	at := slices.IndexFunc(s.holders().Filings, func(f *hostile.Filing) bool { return f.Kind == proof.KindDisclosure && idOf(f.Record) == id })
	switch {
	case at >= 0:
		return s.holders().Filings[at]
	case s.income != nil && idOf(s.income.Record) == id && (s.income.Index > 0 || s.instead != nil): // not logged, and the operator shows another entry for it
		return s.income
	}
	return nil
}

func idOf(r *proof.Record) string { return r.Open(proof.ReaderAgency).Text(proof.DisclosureID) }

// receipt is what the operator shows a holder for a disclosure: nothing if there is no entry.
func (s *scene) receipt(id string, reader proof.Reader) (*hostile.Filing, string) {
	f := s.filing(id)
	if f == nil {
		return nil, ""
	}
	if s.instead != nil {
		f = s.instead(f)
	}
	return f, string(must(s.holders().Receipt(f, reader).AppendText(nil)))
}

func (a *api) disclosure(w http.ResponseWriter, r *http.Request) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	id := r.PathValue("id")
	f, text := a.s.receipt(id, proof.ReaderAgency)
	if f == nil {
		w.WriteHeader(http.StatusNotFound)
		a.write(w, map[string]any{"status": 404, "code": "disclosure.unknown"})
		return
	}
	a.write(w, map[string]any{"id": id, "outcome": proof.OutcomeReleased, "receipt": text})
}

// disclose answers the prefecture's request, with a receipt if there is an entry.
func (a *api) disclose(w http.ResponseWriter, _ *http.Request) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	id := idOf(a.s.income.Record)
	_, text := a.s.receipt(id, proof.ReaderAgency)
	a.write(w, map[string]any{"id": id, "outcome": proof.OutcomeReleased, "receipt": text, "data": json.RawMessage(`{"montant":1}`)})
}

func (a *api) receipts(w http.ResponseWriter, r *http.Request) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	var in struct{ IDs []string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		a.s.t.Error(err)
	}
	type one struct {
		ID       string   `json:"id"`
		Receipts []string `json:"receipts"`
		Erased   bool     `json:"erased"`
		Code     string   `json:"code,omitempty"`
	}
	out := struct {
		Disclosures []one `json:"disclosures"`
	}{}
	for _, id := range in.IDs {
		x := one{ID: id, Code: "receipts.none"}
		if f, text := a.s.receipt(id, proof.ReaderProvider); f != nil {
			x.Receipts, x.Code = []string{text}, ""
			_, err := must(proof.ParseReceipt([]byte(text))).Opening().Subject()
			x.Erased = err != nil
		}
		out.Disclosures = append(out.Disclosures, x)
	}
	a.write(w, out)
	a.calls.Add(1)
}

func (a *api) write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		a.s.t.Error(err)
	}
}

// alarms are what a holder's library told its people.
type alarms struct {
	mu   sync.Mutex
	told []holder.Alarm
}

func (a *alarms) add(x holder.Alarm) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = append(a.told, x)
}

// all is what was told, and the alarm that is on; nil if nothing was and none is.
func (a *alarms) all(on string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var said []string
	for _, x := range a.told {
		said = append(said, x.Code+": "+x.Detail)
	}
	if on != "" {
		said = append(said, on)
	}
	if len(said) == 0 {
		return nil
	}
	return errors.New(strings.Join(said, "; "))
}

// keeps is the library with which the prefecture keeps its receipts.
func keeps(s *scene) func() error {
	s.t.Helper()
	_, conn := s.connect()
	told, ctx := &alarms{}, s.t.Context()
	p := must(proof.ParsePolicy(s.policyText))
	k := must(holder.NewKeeper(ctx, holder.KeeperConfig{
		Dir: filepath.Join(s.dir, "keeper"), Policy: p, Times: patience, Alarm: told.add, Now: s.now,
		Client: must(client.New(client.Config{URL: conn.URL, Certificate: conn.Certificate, Roots: conn.Roots, Policy: p})),
	}))
	s.t.Cleanup(func() { s.ok(k.Close()) })
	s.answered = func(a asker, f *hostile.Filing) {
		if a.agency.ID != "prefecture" {
			return
		}
		// What is wrong with it is kept as evidence, and told.
		_ = k.Keep(&client.Result{ID: idOf(f.Record), Outcome: proof.OutcomeReleased, Receipt: must(s.holders().Receipt(f, proof.ReaderAgency).AppendText(nil))})
	}
	return func() error {
		s.mu.Unlock()
		defer s.mu.Lock()
		if _, _, err := k.Upgrade(ctx); err != nil {
			return err
		}
		st, err := k.Status(ctx)
		if err != nil {
			return err
		}
		return told.all(st.Overdue(patience, s.now()))
	}
}

// asks is the client with which the prefecture asks; what it accuses of, it gives no data of.
func asks(s *scene) func() error {
	s.t.Helper()
	_, conn := s.connect()
	c := must(client.New(client.Config{URL: conn.URL, Certificate: conn.Certificate, Roots: conn.Roots, Policy: must(proof.ParsePolicy(s.policyText)), RefuseProvisional: true}))
	return func() error {
		if s.at < atOnce {
			return nil
		}
		a := s.prefecture()
		if s.bend != nil {
			s.bend(&a)
		}
		request := must(json.Marshal(map[string]any{
			"service": a.service.ID, "purpose": a.purpose, "legal_basis": "crpa-l114-8", "recipient": a.agency.SIRET, "context": "Dossier 42", "object": "Instruction", "official": "agent-7",
			"subject": map[string]string{"type": "pivot", "birth_name": "Exemple", "given_names": "Alice", "birth_date": "1987-04-30", "sex": "F", "birth_place": "75056", "birth_country": "99100"},
		}))
		s.mu.Unlock()
		defer s.mu.Lock()
		res, err := c.Disclose(s.t.Context(), request, "")
		if err != nil && res != nil && res.Data != nil {
			s.t.Error("the client gives data of which it accuses the broker")
		}
		return err
	}
}

// provider is the dgfip, with the library that stands before its API.
type provider struct {
	s      *scene
	guard  *holder.Guard
	api    *api
	told   *alarms
	access bytes.Buffer // its own log of who asked
}

func newProvider(s *scene) *provider {
	s.t.Helper()
	p := &provider{s: s, told: &alarms{}}
	var conn holder.Connection
	p.api, conn = s.connect()
	subjects := map[string]proof.Subject{}
	p.guard = must(holder.NewGuard(context.WithoutCancel(s.t.Context()), holder.GuardConfig{
		Dir: s.t.TempDir(), Providers: []string{"dgfip"}, Broker: conn, Policy: must(proof.ParsePolicy(s.policyText)), Keys: []string{s.o.IntentVKey},
		Identify: func(r *http.Request, _ int, _ []byte) (holder.Answered, error) {
			return holder.Answered{Asked: holder.Person{Subject: subjects[r.URL.Path]}, Obtained: []string{"/montant"}}, nil
		},
		Times: patience, Alarm: p.told.add, Now: s.now,
	}))
	s.t.Cleanup(func() { s.ok(p.guard.Close()) })
	api := p.guard.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"montant":1}`)) }))
	s.asked = append(s.asked, func(by asker, about proof.Subject, id string) {
		if by.service.Provider != "dgfip" {
			return
		}
		fmt.Fprintf(&p.access, "{\"request_id\":%q}\n", id)
		if s.around && s.isDeed(about) {
			return
		}
		r := httptest.NewRequest(http.MethodGet, "/montant/"+id, nil)
		subjects[r.URL.Path] = about
		r.Header.Set(holder.IntentHeader, must(proof.Intent{
			Origin: hostile.Origin, Disclosure: id, Provider: "dgfip", Service: by.service.Ref().String(), Requested: proof.RequestedDigest([]string{"/montant"}),
			Question: proof.QuestionDigest(r.Method, r.RequestURI, nil), Issued: proof.TimeOf(s.now()), Expires: 60,
		}.Sign(s.o.Intent)))
		w := httptest.NewRecorder()
		if api.ServeHTTP(w, r); w.Code != http.StatusOK {
			s.t.Fatalf("the provider refuses an intent: %d %s", w.Code, w.Body)
		}
	})
	return p
}

// guards is what the library tells the provider.
func guards(s *scene) func() error {
	p := newProvider(s)
	return func() error {
		s.mu.Unlock()
		defer s.mu.Lock()
		p.fetched()
		return p.told.all(p.guard.Refusing())
	}
}

// reconciles is the provider's regard-audit reconcile: what it holds, its own access log and the public log.
func reconciles(s *scene) func() error {
	p := newProvider(s)
	return func() error {
		dir := s.publish()
		s.mu.Unlock()
		defer s.mu.Lock()
		p.fetched()
		var held bytes.Buffer
		s.ok(p.guard.Store().Export(s.t.Context(), &held))
		return regardAudit("reconcile", s.write("held.jsonl", held.Bytes()), "--policy", s.policy, "--access-log", s.write("access.jsonl", p.access.Bytes()), "--log", dir, "--json")
	}
}

// fetched waits until the library has made up its mind about what the operator shows it now.
func (p *provider) fetched() {
	s := p.s
	s.t.Helper()
	// A call that is under way may have begun before; the one after it is of now, and was judged when the next begins.
	calls, end := p.api.calls.Load(), time.Now().Add(time.Minute)
	for ; p.api.calls.Load() < calls+3; time.Sleep(4 * time.Millisecond) {
		s.clock.Add(int64(time.Second)) // what brought nothing is due again a little later
		st, err := p.guard.Status(context.WithoutCancel(s.t.Context()))
		if s.ok(err); st.Counts[holder.Waiting]+st.Counts[holder.Signed]+st.Counts[holder.Witnessed] == 0 {
			// Nothing is open any more. What it makes of that is known a moment later.
			on := p.guard.Refusing()
			if n := st.Counts[holder.Refuted]; n == 0 && on == "" || n > 0 && on == holder.AlarmRefuted && p.told.all("") != nil {
				return
			}
		}
		if time.Now().After(end) {
			s.t.Fatal("the provider's library doesn't ask for its receipts")
		}
	}
}

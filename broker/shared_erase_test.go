package broker_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	wit "github.com/regard-broker/regard/ledger/witness"
)

// exec changes the brokers' store behind their backs.
func (x *sharing) exec(sql string) {
	x.t.Helper()
	if err := x.cluster.SQL(x.t.Context(), x.main, sql); err != nil {
		x.t.Fatal(err)
	}
}

// TestErasureIsCarriedThroughOnce: a broker that was at an erasure when another one took over, and goes on when that one is done with it, destroys nothing of what the person has since.
func TestErasureIsCarriedThroughOnce(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	if _, err := leads.Disclose(t.Context(), x.caller, request()); err != nil {
		t.Fatal(err)
	}
	erased, err := leads.Erase(t.Context(), subjectOf(t, marie), "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	e := store.Erasure{Index: erased.Index, Logged: true}
	var id, owner []byte
	x.row("SELECT id, owner FROM erasures WHERE done = 1", &id, &owner)
	copy(e.ID[:], id)
	copy(e.Owner[:], owner)
	later, err := leads.Disclose(t.Context(), x.caller, request())
	if err != nil {
		t.Fatal(err)
	}
	if err := leads.FinishErasure(t.Context(), &e); err != nil {
		t.Fatal(err)
	}
	x.open(later)
}

// open reads the record of an answer in the person's history at every broker.
func (x *sharing) open(a *broker.Answer) {
	x.t.Helper()
	for _, b := range x.all {
		x.b = b
		seen := x.own(subjectOf(x.t, marie))
		if len(seen) == 0 {
			x.t.Error("the history is empty")
		}
		for _, e := range seen {
			if e.Index == indexOf(x.t, a) && e.State != broker.HistoryOpen {
				x.t.Errorf("the record %d is %s", e.Index, e.State)
			}
		}
	}
}

// busy asks for somebody at a broker again and again: when one answer comes, the next request has been at the provider for a while. It stops when one is refused, or ctx ends.
func (x *sharing) busy(ctx context.Context, b *broker.Broker, refused chan<- *broker.Problem) {
	var mu sync.Mutex
	var last chan struct{} // of the request that waits at the provider
	arrived := make(chan struct{}, 1)
	pass := func(next chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		if last != nil {
			close(last)
		}
		last = next
	}
	x.provider.mu.Lock()
	x.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		mine := make(chan struct{})
		pass(mine)
		arrived <- struct{}{}
		<-mine
		household(rw, r)
	}
	x.provider.mu.Unlock()
	ended := make(chan error, 1)
	var work sync.WaitGroup
	defer work.Wait()
	for {
		work.Go(func() {
			if _, err := b.Disclose(context.WithoutCancel(x.t.Context()), x.caller, request()); err != nil {
				select {
				case ended <- err:
				default:
				}
			}
		})
		var err error
		select {
		case <-arrived:
			if ctx.Err() == nil {
				continue
			}
		case err = <-ended:
		}
		x.provider.mu.Lock()
		x.provider.answer = household
		x.provider.mu.Unlock()
		pass(nil)
		refused <- broker.AsProblem(err)
		return
	}
}

// TestErasureOfABusyPerson: somebody about whom another broker is always being asked is erased all the same: it begins nothing more about them until that is done.
func TestErasureOfABusyPerson(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	refused := make(chan *broker.Problem, 1)
	go x.busy(ctx, follows[0], refused)
	ledgertest.Await(t, "requests that are under way", func() bool { return x.count("SELECT count(*) FROM intents") > 0 })
	if _, err := leads.Erase(ctx, subjectOf(t, marie), "rgpd-17"); err != nil {
		t.Errorf("erasing: %v", err)
	}
	if p := <-refused; p.Code != "subject.erasing" || p.RetryAfter == 0 {
		t.Errorf("a request during the erasure: %+v", p)
	}
	for _, b := range x.all {
		if _, err := b.Disclose(t.Context(), x.caller, request()); err != nil {
			t.Errorf("a request after the erasure: %v", err)
		}
	}
}

// TestErasureGivenUp: a hold that comes while an erasure waits for requests under way ends it, and requests about the person begin again, at every broker. So they do when the broker that waited is gone.
func TestErasureGivenUp(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	answer, asked := make(chan struct{}), make(chan struct{}, 1)
	x.provider.mu.Lock()
	x.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-answer
		household(rw, r)
	}
	x.provider.mu.Unlock()
	first := make(chan error, 1)
	go func() {
		_, err := follows[0].Disclose(context.WithoutCancel(t.Context()), x.caller, request())
		first <- err
	}()
	<-asked
	x.provider.mu.Lock()
	x.provider.answer = household
	x.provider.mu.Unlock()
	erased := make(chan error, 1)
	go func() {
		_, err := leads.Erase(t.Context(), subjectOf(t, marie), "rgpd-17")
		erased <- err
	}()
	ledgertest.Await(t, "an erasure that waits", func() bool { return x.count("SELECT count(*) FROM erasing") == 1 })
	if _, err := follows[0].Disclose(t.Context(), x.caller, request()); broker.AsProblem(err).Code != "subject.erasing" {
		t.Errorf("while it waits: %v", err)
	}
	if _, err := leads.AddHold(t.Context(), []proof.Subject{subjectOf(t, marie)}, "art. 6", "1/26", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := <-erased; broker.AsProblem(err).Code != "erasure.held" {
		t.Errorf("with a hold: %v", err)
	}
	for _, b := range x.all {
		if _, err := b.Disclose(t.Context(), x.caller, request()); err != nil {
			t.Errorf("a request after the erasure was given up: %v", err)
		}
	}
	close(answer)
	if err := <-first; err != nil {
		t.Errorf("the request that was under way: %v", err)
	}
	// One that the broker before left like this.
	x.exec("INSERT INTO erasing (owner, since) SELECT owner, clock_timestamp() - interval '1 minute' FROM holds LIMIT 1")
	ledgertest.Await(t, "requests to begin again", func() bool {
		_, err := follows[0].Disclose(t.Context(), x.caller, request())
		return err == nil
	})
}

// TestTakeOverOfAnErasure: whose erasure the leader before had begun is shut out when the next one begins to record, however long its takeover takes; and so is whoever's it learns of later.
func TestTakeOverOfAnErasure(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that its context ends with the connection
		<-r.Context().Done()
	}))
	t.Cleanup(silent.Close)
	key, err := wit.NewKey("w.example")
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := wit.VKey(key)
	if err != nil {
		t.Fatal(err)
	}
	x.cfg.Witnesses = &broker.Witnesses{Policy: []byte("witness w " + vkey + " " + silent.URL + "\nquorum w\n"), Deadline: 50 * time.Millisecond, Timeout: 2 * time.Second}
	x.cfg.SweepEvery = 20 * time.Millisecond
	a := x.start("a")
	b := x.start("b")
	if !a.Leads() {
		t.Fatal("the first broker doesn't lead")
	}
	// Nobody can carry it through: what is stored of it can't be read.
	begin := func(n byte) (owner keys.Owner) {
		owner[0] = n
		x.exec(fmt.Sprintf(`INSERT INTO erasures (id, owner, person, admin) VALUES ('\x%032x', '\x%x', '\x01', '\x01')`, n, owner[:]))
		return owner
	}
	first := begin(1)
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "another leader", b.Leads)
	if !b.ShutsOut(first) {
		t.Error("the new leader records about somebody who is being erased")
	}
	second := begin(2)
	ledgertest.Await(t, "the sweeper to learn of it", func() bool { return b.ShutsOut(second) })
}

// TestDeposedBeginsNoErasure: an erasure that waits for requests under way ends with the term; the broker that leads next has looked for what was begun, and doesn't know of more.
func TestDeposedBeginsNoErasure(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	a := x.start("a")
	b := x.start("b")
	x.b = a
	x.populate()
	x.known(b)
	answer, asked := make(chan struct{}), make(chan struct{}, 1)
	x.provider.mu.Lock()
	x.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-answer
		household(rw, r)
	}
	x.provider.mu.Unlock()
	requested, erased := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := b.Disclose(context.WithoutCancel(t.Context()), x.caller, request())
		requested <- err
	}()
	<-asked
	go func() {
		_, err := a.Erase(context.WithoutCancel(t.Context()), subjectOf(t, marie), "rgpd-17")
		erased <- err
	}()
	ledgertest.Await(t, "an erasure that waits", func() bool { return x.count("SELECT count(*) FROM erasing") == 1 })
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "another leader", b.Leads)
	close(answer)
	if err := <-requested; err != nil {
		t.Errorf("the request that was under way: %v", err)
	}
	if err := <-erased; broker.AsProblem(err).Code != "cluster.follows" {
		t.Errorf("an erasure in another's term: %v", err)
	}
	if n := x.count("SELECT count(*) FROM erasures"); n != 0 {
		t.Error("it was begun")
	}
}

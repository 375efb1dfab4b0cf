package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/remote"
	"github.com/regard-broker/regard/ledger/signedpg"
	"github.com/regard-broker/regard/ledger/signer"
	"github.com/regard-broker/regard/ledger/tiles"
	wit "github.com/regard-broker/regard/ledger/witness"
)

// sharing is what several brokers share: databases on PostgreSQL, Trillian's log server and signer, a public directory and a custodian.
type sharing struct {
	*world
	shared broker.Shared
	all    []*broker.Broker

	cluster            *pgcluster.Cluster
	main, signed, tree string // databases
	signer             *signer.Signer
	socket             atomic.Pointer[string] // of the log server
}

const origin = "regard.example/log"

// newSharing makes all that but for the brokers.
func newSharing(t testing.TB) *sharing {
	t.Helper()
	ctx := t.Context()
	databases := func() (*pgcluster.Cluster, string) { return pgtest.Database(t) }
	x := &sharing{world: newProviderAlone(t)}
	x.cluster, x.main = databases()
	_, x.signed = databases()
	_, x.tree = databases()
	c := x.cluster
	if err := store.Migrate(ctx, c.Superuser(x.main)); err != nil {
		t.Fatal(err)
	}
	if err := signedpg.Prepare(ctx, c.Superuser(x.signed), origin); err != nil {
		t.Fatal(err)
	}
	x.startSigner()
	t.Cleanup(x.stopSigner)
	x.shared = broker.Shared{
		Store: c.DSN(x.main, "regard_broker"), Keeper: c.DSN(x.main, "regard_keeper"), Signed: c.DSN(x.signed, "regard_signer"), PublicDir: t.TempDir(),
		Trillian: func(ctx context.Context) (broker.Tree, error) {
			return remote.Open(ctx, remote.Config{Addresses: []string{*x.socket.Load()}})
		},
	}
	x.cfg = broker.Config{
		Origin: origin, Development: true, Providers: provider.Config{Development: true}, Custodian: unclosed{keystest.NewCustodian(t)},
		SweepEvery: 200 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&syncWriter{w: x.logs}, nil)),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", x.logs)
		}
	})
	return x
}

// startSigner prepares Trillian's database, if it isn't, and starts its log server and signer.
func (x *sharing) startSigner() {
	x.t.Helper()
	if _, err := signer.Init(x.t.Context(), x.cluster.Superuser(x.tree)); err != nil {
		x.t.Fatal(err)
	}
	socket := "unix:" + filepath.Join(x.t.TempDir(), "trillian")
	s, err := signer.Start(x.t.Context(), signer.Config{DSN: x.cluster.Superuser(x.tree), Listen: socket})
	if err != nil {
		x.t.Fatal(err)
	}
	x.signer = s
	x.socket.Store(&socket)
}

func (x *sharing) stopSigner() {
	if x.signer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := x.signer.Stop(ctx); err != nil {
		x.t.Errorf("stopping the signer: %v", err)
	}
	x.signer = nil
}

// start starts a broker.
func (x *sharing) start(name string) *broker.Broker {
	x.t.Helper()
	b, err := x.try(name)
	if err != nil {
		x.t.Fatal(err)
	}
	x.all = append(x.all, b)
	x.t.Cleanup(func() { x.end(b) })
	return b
}

// try starts a broker if it can be.
func (x *sharing) try(name string) (*broker.Broker, error) {
	cfg := x.config(name)
	ctx, cancel := context.WithTimeout(x.t.Context(), patience)
	defer cancel()
	return broker.New(ctx, cfg)
}

func (x *sharing) config(name string) broker.Config {
	cfg, shared := x.cfg, x.shared
	shared.Name = name
	cfg.Shared, cfg.Logger = &shared, x.cfg.Logger.With("broker", name)
	return cfg
}

// end ends a broker in good order; again it does nothing.
func (x *sharing) end(b *broker.Broker) {
	for i := range x.all {
		if x.all[i] != b {
			continue
		}
		x.all = append(x.all[:i:i], x.all[i+1:]...)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			x.t.Errorf("closing a broker: %v", err)
		}
		return
	}
}

// leader waits until one of the brokers leads.
func (x *sharing) leader() (leads *broker.Broker, follows []*broker.Broker) {
	x.t.Helper()
	ledgertest.Await(x.t, "a leader", func() bool {
		leads, follows = nil, nil
		for _, b := range x.all {
			switch {
			case !b.Leads():
				follows = append(follows, b)
			case leads != nil:
				x.t.Fatal("two brokers lead")
			default:
				leads = b
			}
		}
		return leads != nil
	})
	return leads, follows
}

// known waits until what populate registered is in force at a broker.
func (x *sharing) known(b *broker.Broker) {
	x.t.Helper()
	ledgertest.Await(x.t, "the registry at another broker", func() bool {
		_, err := b.Authenticate(x.cert)
		services := b.Services(x.caller)
		return err == nil && len(services) == 1 && len(services[0].Agreements) == 1
	})
}

// TestBrokersShareALog: each answers requests with receipts of the one log; what is registered at one is in force at the other; an Idempotency-Key belongs to its agency, whichever broker is asked.
func TestBrokersShareALog(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	if len(follows) != 1 {
		t.Fatalf("%d brokers follow", len(follows))
	}
	follower := follows[0]
	ledgertest.Await(t, "each to know of the other", func() bool {
		one, shared := leads.Cluster()
		other, both := follower.Cluster()
		return shared && both && one.Leads && !other.Leads && one.Leader == other.Leader && one.Term == other.Term && one.Members == 2 && other.Members == 2
	})
	x.b = follower
	x.populate() // at the one that follows
	x.known(leads)
	seen := map[proof.Index]bool{}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range 40 {
		wg.Go(func() {
			b := leads
			if i%2 == 0 {
				b = follower
			}
			a, err := b.Disclose(t.Context(), x.caller, request())
			if err != nil {
				t.Errorf("request %d: %v", i, err)
				return
			}
			if a.Outcome != broker.Released || len(a.Data) == 0 {
				t.Errorf("request %d: %s", i, a.Outcome)
			}
			v := x.verify(a.Receipt)
			mu.Lock()
			defer mu.Unlock()
			if seen[v.Index] {
				t.Errorf("two receipts of entry %d", v.Index)
			}
			seen[v.Index] = true
		})
	}
	wg.Wait()
	if s, _ := follower.Cluster(); s.Handed == 0 {
		t.Errorf("the broker that follows handed over nothing: %+v", s)
	}
	if t.Failed() {
		return
	}
	for _, brokers := range [][2]*broker.Broker{{leads, follower}, {follower, leads}} {
		req := request()
		req.IdempotencyKey = fmt.Sprintf("key-%p", brokers[0])
		first, err := brokers[0].Disclose(t.Context(), x.caller, req)
		if err != nil {
			t.Fatal(err)
		}
		asked := len(x.provider.requests())
		again, err := brokers[1].Disclose(t.Context(), x.caller, req)
		if err != nil {
			t.Fatal(err)
		}
		if again.ID != first.ID || !again.Repeated || !bytes.Equal(again.Data, first.Data) {
			t.Errorf("the repeat at another broker is %+v", again)
		}
		if n := len(x.provider.requests()); n != asked {
			t.Error("the provider was asked again")
		}
		req.Object = "something else"
		var p *broker.Problem
		if _, err := brokers[1].Disclose(t.Context(), x.caller, req); !errors.As(err, &p) || p.Code != "idempotency.conflict" {
			t.Errorf("the same key with another request: %v", err)
		}
	}
}

// TestBrokersTakeOver: when the broker that leads ends, another one leads, nothing is lost, and the log goes on.
func TestBrokersTakeOver(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	size := uint64(0)
	for round := range 3 {
		leads, follows = x.leader()
		for _, b := range []*broker.Broker{leads, follows[0]} {
			a, err := b.Disclose(t.Context(), x.caller, request())
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			x.b = b
			if v := x.verify(a.Receipt); v.Size <= size {
				t.Fatalf("round %d: a receipt under %d entries after one under %d", round, v.Size, size)
			} else {
				size = v.Size
			}
		}
		x.end(leads)
		x.start(fmt.Sprintf("c%d", round))
	}
}

// TestTakeOverThoughSomeAreSilent: who is about to lead doesn't wait for a witness and a mirror that say nothing, since others say enough.
func TestTakeOverThoughSomeAreSilent(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	pub, err := x.cfg.Custodian.PublicKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey(origin, pub[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	var stands []*stand
	var text strings.Builder
	for i := range 3 {
		s := newStand(t, fmt.Sprintf("w%d.example", i), origin, vkey)
		stands = append(stands, s)
		fmt.Fprintf(&text, "witness w%d %s %s\n", i, s.w.VKey(), s.url)
	}
	text.WriteString("group all 2 w0 w1 w2\nquorum all\n")
	var silent atomic.Bool
	var asked atomic.Int32
	quiet := mirror(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if silent.Load() {
			asked.Add(1)
			hang(rw, r)
		}
		tiles.Handler(x.shared.PublicDir).ServeHTTP(rw, r)
	}))
	x.cfg.Witnesses = &broker.Witnesses{Policy: []byte(text.String()), Deadline: 300 * time.Millisecond, Timeout: time.Hour}
	x.cfg.Mirrors = []string{quiet, mirror(t, tiles.Handler(x.shared.PublicDir))}
	x.cfg.SetPatience(time.Hour) // with those who are silent
	a := x.start("a")
	x.b = a
	x.populate()
	b := x.start("b")
	x.known(b)
	x.released(b)
	silent.Store(true)
	stands[2].answer(func(rw http.ResponseWriter, r *http.Request) { asked.Add(1); hang(rw, r) })
	t.Cleanup(func() { stands[2].answer(nil) })
	x.end(a)
	ledgertest.Await(t, "the other one to lead", b.Leads)
	x.released(b)
	if asked.Load() < 2 {
		t.Errorf("%d of the silent were asked", asked.Load())
	}
}

// TestTakeOverWithoutWitnesses: the database of the signed checkpoint says where the log stands, whoever leads next, though no witness answers; one that says nothing beside a store with a log stops them.
func TestTakeOverWithoutWitnesses(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	key, err := wit.NewKey("w.example")
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := wit.VKey(key)
	if err != nil {
		t.Fatal(err)
	}
	x.cfg.Witnesses = &broker.Witnesses{Policy: []byte("witness w " + vkey + " http://127.0.0.1:1\nquorum w\n"), Deadline: 50 * time.Millisecond, Timeout: time.Second}
	first := x.start("a")
	x.b = first
	x.populate()
	x.end(first)
	second := x.start("b")
	if leads, _ := x.leader(); leads != second {
		t.Fatal("somebody else leads")
	}
	db, err := signedpg.OpenDB(x.shared.Signed)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "UPDATE signed SET note = ''"); err != nil {
		t.Fatal(err)
	}
	if err := second.Elsewhere(t.Context()); err == nil || !strings.Contains(err.Error(), "the database of the signed checkpoint has none") {
		t.Errorf("with an empty database: %v", err)
	}
}

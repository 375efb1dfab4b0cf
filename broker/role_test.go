package broker_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/trillian"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/cluster"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	wit "github.com/regard-broker/regard/ledger/witness"
)

// network to Trillian of one broker.
type network struct {
	broken atomic.Bool // whatever is asked fails
	silent atomic.Bool // whatever is asked gets no answer
}

func (n *network) pass(ctx context.Context) error {
	switch {
	case n.broken.Load():
		return status.Error(codes.Unavailable, "connection refused")
	case n.silent.Load():
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

type netTree struct {
	broker.Tree
	n *network
}

func (t netTree) Client() trillian.TrillianLogClient { return netClient{t.Tree.Client(), t.n} }

type netClient struct {
	trillian.TrillianLogClient
	n *network
}

func (c netClient) AddSequencedLeaves(ctx context.Context, r *trillian.AddSequencedLeavesRequest, o ...grpc.CallOption) (*trillian.AddSequencedLeavesResponse, error) {
	if err := c.n.pass(ctx); err != nil {
		return nil, err
	}
	return c.TrillianLogClient.AddSequencedLeaves(ctx, r, o...)
}

func (c netClient) GetLatestSignedLogRoot(ctx context.Context, r *trillian.GetLatestSignedLogRootRequest, o ...grpc.CallOption) (*trillian.GetLatestSignedLogRootResponse, error) {
	if err := c.n.pass(ctx); err != nil {
		return nil, err
	}
	return c.TrillianLogClient.GetLatestSignedLogRoot(ctx, r, o...)
}

// startWith starts a broker with something of its own.
func (x *sharing) startWith(name string, set func(*broker.Config)) *broker.Broker {
	x.t.Helper()
	was := x.cfg
	shared := x.shared
	defer func() { x.cfg, x.shared = was, shared }()
	set(&x.cfg)
	return x.start(name)
}

// behind starts a broker that reaches Trillian through a network.
func (x *sharing) behind(name string, n *network) *broker.Broker {
	x.t.Helper()
	open := x.shared.Trillian
	was := x.shared
	defer func() { x.shared = was }()
	x.shared.Trillian = func(ctx context.Context) (broker.Tree, error) {
		if err := n.pass(ctx); err != nil {
			return nil, err
		}
		t, err := open(ctx)
		return netTree{t, n}, err
	}
	return x.start(name)
}

// released asks a broker until it answers. Until then there may be nothing but problems after which a request is repeated.
func (x *sharing) released(b *broker.Broker) {
	x.t.Helper()
	ledgertest.Await(x.t, "an answer", func() bool {
		a, err := b.Disclose(x.t.Context(), x.caller, request())
		if err == nil {
			if a.Outcome != broker.Released {
				x.t.Fatalf("the outcome is %s", a.Outcome)
			}
			return true
		}
		if p := broker.AsProblem(err); p.Status != http.StatusServiceUnavailable || p.RetryAfter == 0 {
			x.t.Fatalf("%v", err)
		}
		time.Sleep(20 * time.Millisecond)
		return false
	})
}

// share is a directory of one broker's own that leads to another one, as a mount does.
type share struct {
	t        testing.TB
	name, to string
	fifos    string
}

func newShare(t testing.TB, to string) *share {
	t.Helper()
	s := &share{t: t, name: filepath.Join(t.TempDir(), "mount"), to: to}
	if err := os.Symlink(to, s.name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.answer)
	return s
}

// point replaces what is mounted.
func (s *share) point(to string) {
	s.t.Helper()
	if err := errors.Join(os.RemoveAll(s.name), os.Symlink(to, s.name)); err != nil {
		s.t.Fatal(err)
	}
}

// hang has every call that opens the checkpoint wait, as one to a share does whose server is gone.
func (s *share) hang() {
	s.t.Helper()
	s.fifos = s.t.TempDir()
	for _, n := range []string{"checkpoint", "checkpoint.witnessed"} {
		if err := syscall.Mkfifo(filepath.Join(s.fifos, n), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	s.point(s.fifos)
}

// answer has the directory answer again, also whoever waits.
func (s *share) answer() {
	if s.fifos == "" {
		return
	}
	s.point(s.to)
	for _, n := range []string{"checkpoint", "checkpoint.witnessed"} {
		name := filepath.Join(s.fifos, n)
		f, err := os.OpenFile(name, os.O_RDWR, 0) // whoever waits to open it doesn't any more
		if err == nil {
			err = errors.Join(os.Remove(name), f.Close()) // and reads that it is empty
		}
		if err != nil {
			s.t.Error(err)
		}
	}
	s.fifos = ""
}

// TestLeaderCutOff: a leader that reaches the store and not Trillian, or not the published directory, doesn't keep the others from working.
func TestLeaderCutOff(t *testing.T) {
	t.Parallel()
	for what, cut := range map[string]func(*network){
		"calls fail":            func(n *network) { n.broken.Store(true) },
		"calls get no answer":   func(n *network) { n.silent.Store(true) },
		"nothing can be stored": nil,
		"its directory hangs":   nil,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			x := newSharing(t)
			var n network
			public := x.shared.PublicDir
			mount := newShare(t, public)
			x.shared.PublicDir = mount.name
			a := x.behind("a", &n)
			x.shared.PublicDir = public
			x.b = a
			x.populate()
			b := x.start("b")
			x.known(b)
			x.released(b)
			if !a.Leads() {
				t.Fatal("the first broker doesn't lead")
			}
			term := a.Term()
			switch {
			case cut != nil:
				cut(&n)
			case what == "its directory hangs":
				mount.hang()
			default:
				if err := errors.Join(os.Remove(mount.name), os.WriteFile(mount.name, nil, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			ledgertest.Await(t, "another leader", func() bool {
				_, _ = b.Disclose(t.Context(), x.caller, request()) // nothing shows that isn't asked for
				return b.Leads()
			})
			x.released(b)
			t.Logf("released by another leader after %v", time.Since(began))
			if cut == nil { // it can't read there, either
				if mount.fifos != "" {
					mount.answer()
				} else {
					mount.point(public)
				}
			}
			x.released(a)
			if now := b.Term(); now <= term || a.Leads() {
				t.Errorf("term %d after %d; the first broker leads: %v", now, term, a.Leads())
			}
			n.broken.Store(false)
			n.silent.Store(false)
		})
	}
}

// TestLeadsInTime: a broker that has the lease and gets no answer from Trillian doesn't keep the others from leading.
func TestLeadsInTime(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	var n network
	defer n.silent.Store(false)
	a := x.start("a")
	b := x.behind("b", &n)
	if !a.Leads() {
		t.Fatal("the first broker doesn't lead")
	}
	term := a.Term()
	ledgertest.Await(t, "each to know of the other", func() bool { s, _ := b.Cluster(); return s.Members == 2 })
	n.silent.Store(true)
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "the lease at the one that is cut off", func() bool { s, _ := a.Cluster(); return s.Leader == "b" && s.Term > term })
	a.Campaign()
	ledgertest.Await(t, "another leader", a.Leads)
	if b.Leads() {
		t.Error("the one that is cut off leads")
	}
}

// TestHangsInTime: neither does one whose directory of published files hangs when it gets the lease. When the directory answers again, it takes its part, in which nothing of the attempt is left.
func TestHangsInTime(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	a := x.start("a")
	public := x.shared.PublicDir
	mount := newShare(t, public)
	x.shared.PublicDir = mount.name
	b := x.start("b")
	x.shared.PublicDir = public
	x.b = a
	x.populate()
	x.known(b)
	x.released(b)
	term := a.Term()
	ledgertest.Await(t, "each to know of the other", func() bool { s, _ := b.Cluster(); return s.Members == 2 })
	mount.hang()
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "the lease at the one that hangs", func() bool { s, _ := a.Cluster(); return s.Leader == "b" && s.Term > term })
	a.Campaign()
	ledgertest.Await(t, "another leader", a.Leads)
	x.released(a)
	if b.Leads() {
		t.Error("the one that hangs leads")
	}
	mount.answer()
	x.released(b)
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "the lease at the one that hung", b.Leads)
	x.released(b)
}

// TestStopsThoughItHangs: a broker whose directory hangs stops when it is told to; the others go on.
func TestStopsThoughItHangs(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	public := x.shared.PublicDir
	mount := newShare(t, public)
	x.shared.PublicDir = mount.name
	a := x.start("a")
	x.shared.PublicDir = public
	x.b = a
	x.populate()
	b := x.start("b")
	x.known(b)
	mount.hang()
	ledgertest.Await(t, "a call that hangs, and another leader", func() bool {
		_, _ = b.Disclose(t.Context(), x.caller, request())
		return b.Leads()
	})
	now, cancel := context.WithCancel(t.Context())
	cancel()
	x.all = []*broker.Broker{b}
	if err := a.Close(now); !errors.Is(err, ledger.ErrHangs) && (err == nil || !strings.Contains(err.Error(), "hangs")) {
		t.Errorf("what is said of what is left behind: %v", err)
	}
	x.released(b)
}

// TestMirrorHangs: a mirror that gives no answer is one that says nothing; each is asked once, however often the broker tries.
func TestMirrorHangs(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "checkpoint")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	read, under := broker.Readings()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := read(ctx, name)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if n := under(); n != 1 {
		t.Errorf("%d calls wait", n)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(name), f.Close(), os.WriteFile(name, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "an answer", func() bool { return under() == 0 })
	if got, err := read(t.Context(), name); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestPatience: others get their turn when a leader has been in trouble for a while, less often if they are no better off, and not at all if there are none.
func TestPatience(t *testing.T) {
	t.Parallel()
	tooLong := broker.Patience()
	now := time.Now()
	if tooLong(4*time.Second, now, 2) {
		t.Error("after 4 s")
	}
	if tooLong(time.Hour, now, 1) {
		t.Error("alone")
	}
	for _, d := range []time.Duration{5, 10, 20, 40, 80, 120, 120} {
		d *= time.Second
		now = now.Add(d)
		if tooLong(d-time.Second, now, 2) {
			t.Errorf("after less than %v", d)
		}
		if !tooLong(d, now, 2) {
			t.Errorf("not after %v", d)
		}
	}
	if tooLong(0, now.Add(30*time.Second), 2) || tooLong(119*time.Second, now.Add(31*time.Second), 2) {
		t.Error("30 s later it is as patient as in the beginning")
	}
	if tooLong(0, now.Add(2*time.Minute), 2) || !tooLong(5*time.Second, now.Add(2*time.Minute), 2) {
		t.Error("two minutes later it isn't as patient as in the beginning")
	}
}

// TestNobodyLeads: brokers that follow refuse requests before they are begun, as long as nobody leads.
func TestNobodyLeads(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	x.released(follows[0])
	for _, b := range x.all {
		if err := b.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range x.all {
		ledgertest.Await(t, "it to say so", func() bool {
			err := b.Ready(t.Context())
			return err != nil && strings.Contains(err.Error(), "no broker has led it")
		})
		asked := len(x.provider.requests())
		_, err := b.Disclose(t.Context(), x.caller, request())
		if p := broker.AsProblem(err); err == nil || p.Status != http.StatusServiceUnavailable || p.Code != "log.unavailable" || p.RetryAfter == 0 {
			t.Errorf("a request while nobody leads: %v", err)
		}
		if n := len(x.provider.requests()); n != asked {
			t.Error("the provider was asked")
		}
	}
	follows[0].Campaign()
	ledgertest.Await(t, "a leader", follows[0].Leads)
	for _, b := range x.all {
		x.released(b)
		ledgertest.Await(t, "it to be ready", func() bool { return b.Ready(t.Context()) == nil })
	}
}

// TestNothingHoldsUpTheLease: what a new leader does first, and taking up changes, may take long: it follows and leads meanwhile, as the lease has it.
func TestNothingHoldsUpTheLease(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	a := x.start("a")
	b := x.start("b")
	done := sync.OnceFunc(b.HoldTelling())
	defer done()
	if err := a.TellChange(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	for range 2 {
		if err := a.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.Campaign()
		ledgertest.Await(t, "the lease at the one that is busy", func() bool { return b.Term() > last })
		last = b.Term()
		if err := b.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.Campaign()
		ledgertest.Await(t, "the lease at the other one", func() bool { return b.Follows() && a.Term() > last })
	}
	done()
}

// failing is a custodian that unwraps nothing for as long as it fails.
type failing struct {
	keys.Custodian
	fails *atomic.Bool
	asked *atomic.Int64
}

func (failing) Close() error { return nil }

func (f failing) Unwrap(ctx context.Context, in []keys.WrappedAD) ([][32]byte, error) {
	f.asked.Add(1)
	if f.fails.Load() {
		return nil, keys.ErrUnavailable
	}
	return f.Custodian.Unwrap(ctx, in)
}

// TestChangeIsNotLost: what another broker changed is taken up once it can be, though it is told once only.
func TestChangeIsNotLost(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.cfg.SweepEvery = time.Hour
	a := x.start("a")
	var fails atomic.Bool
	var asked atomic.Int64
	b := x.startWith("b", func(c *broker.Config) { c.Custodian = failing{c.Custodian, &fails, &asked} })
	ledgertest.Await(t, "the first version", func() bool { return b.IntentVersions() == 1 })
	fails.Store(true)
	if _, err := a.RotateIntentKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := asked.Load()
	if err := a.TellChange(t.Context()); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "it to try", func() bool { return asked.Load() > before })
	fails.Store(false)
	ledgertest.Await(t, "both versions", func() bool { return b.IntentVersions() == 2 })
}

// TestNoTermTwice: a term that was begun isn't begun again, and what only the leader does ends with it.
func TestNoTermTwice(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	b := x.start("a")
	x.leader()
	term := b.Term()
	leads, done := b.AsLeader(t.Context())
	defer done()
	if err := leads.Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.LeadAgain(t.Context()); !errors.Is(err, cluster.ErrNotLeading) {
		t.Fatalf("leading in term %d again: %v", term, err)
	}
	<-leads.Done()
	ledgertest.Await(t, "another term", func() bool { return b.Term() > term })
	if err := b.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	none, done := b.AsLeader(t.Context())
	defer done()
	if none.Err() == nil {
		t.Error("one that doesn't lead does what only the leader does")
	}
}

// TestPartEndsUnderARequest: a request whose broker changes its part in the log just then is carried out in the new one.
func TestPartEndsUnderARequest(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.cfg.SweepEvery = time.Hour // nothing else appends
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	for _, b := range x.all {
		x.released(b)
		b.LeaveAtAppend()
		if a, err := b.Disclose(t.Context(), x.caller, request()); err != nil || a.Outcome != broker.Released {
			t.Errorf("%v", err)
		}
	}
}

// TestResignsOnceSigned: the others don't wait for what a broker that stops has still to publish.
func TestResignsOnceSigned(t *testing.T) {
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
	var closing, slow atomic.Bool
	asked := make(chan struct{}, 100)
	var held atomic.Int32 // 1: the lease was free when nobody wanted an answer any more; 2: it wasn't
	witness := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if !slow.Load() {
			panic(http.ErrAbortHandler)
		}
		select {
		case asked <- struct{}{}:
		default:
		}
		hangUntilGone(r)
		if closing.Load() {
			if x.leaderInStore() == "a" {
				held.CompareAndSwap(0, 2)
			}
			held.CompareAndSwap(0, 1)
		}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(witness.Close)
	// It has the answer of a witness that never answers to wait for, so long that closing comes first.
	x.cfg.Witnesses = &broker.Witnesses{Policy: []byte("witness w " + vkey + " " + witness.URL + "\nquorum w\n"), Deadline: time.Hour, Timeout: time.Hour}
	a := x.start("a")
	b := x.start("b")
	x.b = a
	x.populate()
	x.known(b)
	ledgertest.Await(t, "each to know of the other", func() bool { s, _ := a.Cluster(); return s.Members == 2 })
	slow.Store(true)
	x.released(b)
	<-asked
	closing.Store(true)
	x.end(a)
	ledgertest.Await(t, "the witness to be left alone", func() bool { return held.Load() != 0 })
	if held.Load() == 2 {
		t.Error("the lease was kept while a witness was waited for")
	}
	slow.Store(false)
	ledgertest.Await(t, "the other one", b.Leads)
}

// TestRelayGoesOnWithRoom: what was handed over and had no room is taken as soon as there is some, whether groups are bounded by their number or their size.
func TestRelayGoesOnWithRoom(t *testing.T) {
	t.Parallel()
	for what, set := range map[string]func(*broker.Config){
		"number": func(c *broker.Config) { c.SetRelay(1, 1<<20, time.Hour) },
		"bytes":  func(c *broker.Config) { c.SetRelay(1000, 1, time.Hour) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			x := newSharing(t)
			x.b = x.startWith("a", set)
			x.populate()
			b := x.start("b")
			x.known(b)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var asking sync.WaitGroup
			for range 32 {
				asking.Go(func() {
					if _, err := b.Disclose(ctx, x.caller, request()); err != nil {
						t.Errorf("%v", err)
					}
				})
			}
			asking.Wait()
		})
	}
}

// TestDoesntLeadAsItStops: a broker that is about to stop, which may take its time, doesn't keep the lease from those who go on.
func TestDoesntLeadAsItStops(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	a := x.start("a")
	b := x.start("b")
	x.b = a
	x.populate()
	ledgertest.Await(t, "the follower to know who leads", func() bool { s, _ := b.Cluster(); return s.Leader == "a" })
	held := b.HoldClosing()
	var once sync.Once
	release := func() { once.Do(held) }
	closed := make(chan struct{})
	t.Cleanup(func() { release(); <-closed })
	go func() { defer close(closed); x.end(b) }()
	<-b.Stopping()
	x.end(a)
	// Each look of one that campaigns takes what is free.
	ledgertest.Await(t, "the lease to be free", func() bool { s, _ := b.Cluster(); return s.Leader == "" })
	c := x.start("c")
	if !c.Leads() {
		t.Error("the third broker doesn't lead")
	}
	x.known(c)
	x.released(c)
	release()
}

// TestPublishesWhenNobodyElseWould: a command that was there a moment ago isn't another broker.
func TestPublishesWhenNobodyElseWould(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	a := x.start("a")
	x.b = a
	x.populate()
	members := func() int { s, _ := a.Cluster(); return s.Members }
	stale := func() bool { // whether the broker still counts the command when that has gone
		command, err := cluster.Join(t.Context(), cluster.Config{URL: x.cluster.DSN(x.main, "regard_broker"), Name: "a command"})
		if err != nil {
			t.Fatal(err)
		}
		ledgertest.Await(t, "the broker to know of the command", func() bool { return members() == 2 })
		x.released(a)
		if err := command.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		return members() == 2
	}
	ledgertest.Await(t, "a command to be counted that has gone", stale)
	signed := a.Log().Checkpoint().Size()
	x.end(a)
	note, err := os.ReadFile(filepath.Join(x.shared.PublicDir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	// More may have been signed since: an entry of the broker's own.
	if size, err := strconv.ParseUint(strings.Split(string(note), "\n")[1], 10, 64); err != nil || size < signed {
		t.Errorf("of %d signed entries this is published: %s (%v)", signed, note, err)
	}
}

func hangUntilGone(r *http.Request) {
	buf := make([]byte, 1<<10)
	for {
		if _, err := r.Body.Read(buf); err != nil {
			break
		}
	}
	<-r.Context().Done()
}

// leaderInStore is the name of who has the lease, by the store.
func (x *sharing) leaderInStore() string {
	members, err := cluster.List(context.Background(), x.cluster.DSN(x.main, "regard_broker"))
	if err != nil {
		x.t.Error(err)
	}
	for _, m := range members {
		if m.Leads {
			return m.Name
		}
	}
	return ""
}

// TestFirstStartTogether: two brokers that are started at the same time, the first ever, share the work without an error.
func TestFirstStartTogether(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	var wg sync.WaitGroup
	started := make([]*broker.Broker, 2)
	for i, name := range []string{"a", "b"} {
		wg.Go(func() {
			var err error
			if started[i], err = x.try(name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, b := range started {
		if b != nil {
			x.all = append(x.all, b)
			t.Cleanup(func() { x.end(b) })
		}
	}
	if t.Failed() {
		return
	}
	leads, _ := x.leader()
	x.b = leads
	x.populate()
	for _, b := range x.all {
		x.known(b)
		x.released(b)
	}
	for _, b := range started {
		x.end(b)
	}
	for line := range strings.Lines(x.logs.String()) {
		if strings.Contains(line, "level=ERROR") && !strings.Contains(line, "context canceled") /* by the end */ || strings.Contains(line, "duplicate key") {
			t.Error(line)
		}
	}
}

package cosign_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/cosign"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
	"github.com/regard-broker/regard/ledger/witness"
)

// one is a real witness behind HTTP. A test can put something else in its place.
type one struct {
	t    testing.TB
	name string
	cfg  witness.Config
	w    *witness.Witness
	srv  *httptest.Server
	vkey string

	mu      sync.Mutex
	instead http.HandlerFunc
	asked   int
}

func newOne(t testing.TB, name string, vkeys ...string) *one {
	t.Helper()
	key, err := witness.NewKey(name + ".example/w")
	if err != nil {
		t.Fatal(err)
	}
	o := &one{t: t, name: name, cfg: witness.Config{Key: key, State: filepath.Join(t.TempDir(), "w.db"), ClientRate: 1e5, ClientBurst: 1e5}}
	for _, k := range vkeys {
		o.cfg.Logs = append(o.cfg.Logs, witness.Log{Origin: ledgertest.Origin, VKey: k, PerDay: 1e9})
	}
	if err := witness.Create(t.Context(), o.cfg.State); err != nil {
		t.Fatal(err)
	}
	o.open()
	o.srv = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.asked++
		h := o.instead
		o.mu.Unlock()
		if h == nil {
			h = o.w.Handler().ServeHTTP
		}
		h(rw, r)
	}))
	t.Cleanup(func() {
		o.srv.Close()
		if err := o.w.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func (o *one) open() {
	o.t.Helper()
	w, err := witness.Open(context.Background(), o.cfg)
	if err != nil {
		o.t.Fatal(err)
	}
	o.w, o.vkey = w, w.VKey()
}

// answer puts h in the place of the witness; nil: itself again.
func (o *one) answer(h http.HandlerFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.instead = h
}

func (o *one) size(t testing.TB) uint64 {
	t.Helper()
	seen, err := o.w.Seen(t.Context())
	if err != nil || len(seen) != 1 {
		t.Fatalf("%v %v", seen, err)
	}
	return seen[0].Size
}

// policyText names witnesses and demands k of them.
func policyText(k int, ws ...*one) string {
	var text, names strings.Builder
	for _, w := range ws {
		fmt.Fprintf(&text, "witness %s %s %s\n", w.name, w.vkey, w.srv.URL)
		fmt.Fprintf(&names, " %s", w.name)
	}
	return fmt.Sprintf("%sgroup all %d%s\nquorum all\n", &text, k, &names)
}

// env is a log whose checkpoints real witnesses cosign.
type env struct {
	*ledgertest.Env
	cfg  cosign.Config
	c    *cosign.Collector
	logs *output.Buffer
}

func newEnv(t testing.TB) *env {
	return &env{Env: ledgertest.NewInMemory(t), logs: &output.Buffer{}}
}

// collect starts a Collector under a policy.
func (e *env) collect(t testing.TB, text string, change func(*cosign.Config)) {
	t.Helper()
	var err error
	if e.Policy, err = proof.ParseWitnesses([]byte(text), e.VKey); err != nil {
		t.Fatal(err)
	}
	e.cfg = cosign.Config{
		Witnesses: e.Policy, Faulty: 1, Deadline: 500 * time.Millisecond, Timeout: time.Second, MinPause: 10 * time.Millisecond, MaxPause: 50 * time.Millisecond,
		Policy: func(context.Context) (*proof.Policy, error) { return e.Policy, nil },
		Prove: func(cp proof.Checkpoint, size uint64) ([]proof.Hash, error) {
			return tiles.Tree{Dir: e.Dir, Size: cp.Size(), Root: cp.Root()}.Consistency(size)
		},
		Logger: slog.New(slog.NewTextHandler(e.logs, nil)),
	}
	if change != nil {
		change(&e.cfg)
	}
	if e.c, err = cosign.New(e.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.c.Close)
}

func (e *env) openLog() *ledger.Log {
	cfg := e.Config()
	cfg.Cosign = e.c.Cosign
	return e.OpenWith(cfg)
}

func (e *env) add(t testing.TB, l *ledger.Log, n int) proof.Index {
	t.Helper()
	var last proof.Index
	for i := range n {
		g, _ := ledgertest.Disclosure(ledgertest.Person(i))
		a, err := l.Append(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		last = a.Entries[0].Index
	}
	return last
}

// witnessed waits until an entry stands under a witnessed checkpoint.
func witnessed(t testing.TB, l *ledger.Log, i proof.Index) proof.Checkpoint {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cp, err := l.AwaitWitnessed(ctx, i)
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

func dead(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

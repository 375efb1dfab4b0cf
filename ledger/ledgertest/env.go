package ledgertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/trillian"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/embedded"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedfile"
)

// Origin of the logs that this package makes.
const Origin = "log.regard.example/test"

// Env is everything that a log needs, in memory but for Trillian's file and the tiles. Stores survive closing a log and opening another on the same Env.
type Env struct {
	Store  ledger.Store // a *Store in memory unless it is replaced before Config
	Memory *Store
	Signed *Signed
	// SignedStore takes the place of Signed if it is set.
	SignedStore ledger.SignedStore
	Labeler     *Labeler
	Trillian    trillian.TrillianLogClient
	TreeID      int64
	// Integrate is Trillian's.
	Integrate func(context.Context) error
	Faults    *Faults
	Clock     *Clock
	Dir       string
	VKey      string
	Policy    *proof.Policy
	Signer    note.Signer

	t testing.TB
}

// Engine takes the place of the embedded Trillian in what New returns, if it is set before the tests begin. It makes an empty tree.
var Engine func(t testing.TB) (client trillian.TrillianLogClient, tree int64)

// New returns an environment with the real embedded Trillian in a temporary directory, or with a tree of Engine.
func New(t testing.TB) *Env {
	t.Helper()
	e := newEnv(t)
	if Engine != nil {
		e.Trillian, e.TreeID = Engine(t)
		e.Integrate = func(context.Context) error { return nil } // a signer does
		return e
	}
	e.openTrillian(filepath.Join(t.TempDir(), "trillian.db"))
	return e
}

// NewInMemory returns an environment with this package's Trillian.
func NewInMemory(t testing.TB) *Env {
	t.Helper()
	e := newEnv(t)
	tr := NewTrillian()
	e.Trillian, e.TreeID, e.Integrate = tr, 1, tr.Integrate
	return e
}

// NewDurable returns an environment all of whose parts live in dir, its key too, and survive the process: to be opened again in another.
func NewDurable(t testing.TB, dir string) *Env {
	t.Helper()
	keys := filepath.Join(dir, "key")
	text, err := os.ReadFile(keys)
	if errors.Is(err, fs.ErrNotExist) {
		skey, vkey, kerr := note.GenerateKey(rand.Reader, Origin)
		text, err = []byte(skey+"\n"+vkey), kerr
		if err == nil {
			err = os.WriteFile(keys, text, 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	skey, vkey, _ := strings.Cut(string(text), "\n")
	e := newEnvWithKey(t, skey, vkey)
	e.Dir = filepath.Join(dir, "public")
	j, err := OpenJournal(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	e.Store, e.Memory = j, j.Store
	s, err := signedfile.Open(context.Background(), filepath.Join(dir, "signed.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	e.SignedStore = s
	e.openTrillian(filepath.Join(dir, "trillian.db"))
	return e
}

func (e *Env) openTrillian(path string) {
	e.t.Helper()
	tr, err := embedded.Open(context.Background(), embedded.Config{Path: path})
	if err != nil {
		e.t.Fatalf("opening the embedded Trillian: %v", err)
	}
	e.t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			e.t.Errorf("closing the embedded Trillian: %v", err)
		}
	})
	e.Trillian, e.TreeID, e.Integrate = tr.Client(), tr.TreeID(), tr.Integrate
}

func newEnv(t testing.TB) *Env {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, Origin)
	if err != nil {
		t.Fatal(err)
	}
	return newEnvWithKey(t, skey, vkey)
}

func newEnvWithKey(t testing.TB, skey, vkey string) *Env {
	t.Helper()
	var err error
	f := &Faults{}
	e := &Env{
		Memory: NewStore(), Signed: &Signed{}, Labeler: &Labeler{Faults: f}, Faults: f, t: t,
		Clock: &Clock{}, Dir: filepath.Join(t.TempDir(), "public"), VKey: vkey,
	}
	e.Store = e.Memory
	if e.Signer, err = note.NewSigner(skey); err != nil {
		t.Fatal(err)
	}
	if e.Policy, err = proof.NewPolicy(vkey); err != nil {
		t.Fatal(err)
	}
	return e
}

// Config returns a configuration with all calls made to fail as Faults says. Publication and labelling are quick; the epoch is an hour of Clock's time.
func (e *Env) Config() ledger.Config {
	f := e.Faults
	var signed ledger.SignedStore = e.Signed
	if e.SignedStore != nil {
		signed = e.SignedStore
	}
	return ledger.Config{
		Origin: Origin, Store: FaultyStore{e.Store, f}, Signed: FaultySigned{signed, f}, Trillian: FaultyTrillian{e.Trillian, f}, TreeID: e.TreeID,
		Integrate: func(ctx context.Context) error { return f.do(CallIntegrate, func() error { return e.Integrate(ctx) }) },
		Signers: func(context.Context) (s []note.Signer, err error) {
			err = f.do(CallSign, func() error { s = []note.Signer{e.Signer}; return nil })
			return s, err
		},
		Policy:  func(context.Context) (*proof.Policy, error) { return e.Policy, nil },
		Labeler: e.Labeler, Epoch: time.Hour, Dir: e.Dir, Clock: e.Clock.Now,
		PublishEvery: 20 * time.Millisecond, FileEvery: 5 * time.Millisecond,
	}
}

// Open opens a log with Config and closes it when the test ends.
func (e *Env) Open() *ledger.Log { e.t.Helper(); return e.OpenWith(e.Config()) }

// OpenWith opens a log with another configuration.
func (e *Env) OpenWith(cfg ledger.Config) *ledger.Log {
	e.t.Helper()
	l, err := ledger.Open(context.Background(), cfg)
	if err != nil {
		e.t.Fatalf("opening the log: %v", err)
	}
	e.t.Cleanup(func() { e.Close(l) })
	return l
}

// Close closes a log; it may be closed again.
func (e *Env) Close(l *ledger.Log) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		e.t.Errorf("closing the log: %v", err)
	}
}

// Wait waits until the log has published all it signed.
func (e *Env) Wait(l *ledger.Log) proof.Checkpoint {
	e.t.Helper()
	want := l.Checkpoint().Size()
	var cp proof.Checkpoint
	Await(e.t, fmt.Sprintf("the publication of size %d", want), func() bool {
		var ok bool
		cp, ok = l.Published()
		return ok && cp.Size() >= want
	})
	return cp
}

// Await waits until something is so. It gives up after two minutes: how long a machine may take is no property of the log.
func Await(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited two minutes for %s", what)
		}
	}
}

// Person returns the nth of many made-up subjects.
func Person(n int) proof.Subject {
	s, err := proof.ParseSubject(string(proof.TypeINE), fmt.Sprintf("%09dAA", n))
	if err != nil {
		panic(err)
	}
	return s
}

// Disclosure returns a group of one disclosure about each subject, and the openings that the persons get.
func Disclosure(subjects ...proof.Subject) (ledger.Group, []proof.Opening) {
	g := ledger.Group{Attach: Subjects(subjects)}
	var openings []proof.Opening
	for _, s := range subjects {
		r, err := proof.NewRecord(proof.SchemaDisclosure, rand.Reader)
		if err == nil {
			err = r.SetSubject(s)
		}
		if err != nil {
			panic(err)
		}
		g.Entries = append(g.Entries, proof.Disclosure{Commitment: r.Commitment()})
		openings = append(openings, r.Open(proof.ReaderPerson))
	}
	return g, openings
}

// Clock is a clock that a test sets. The zero Clock shows the real time until it is set.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now.IsZero() {
		return time.Now()
	}
	return c.now
}

// Set stops the clock at t.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// Early stops the clock: now, or on the last day of a month where the next one begins, so that the hours that follow are of one month and its keys.
func (c *Clock) Early() {
	now := c.Now().UTC()
	if tomorrow := now.AddDate(0, 0, 1); tomorrow.Month() != now.Month() {
		now = time.Date(tomorrow.Year(), tomorrow.Month(), 1, 0, 30, 0, 0, time.UTC)
	}
	c.Set(now)
}

// Advance stops the clock d later.
func (c *Clock) Advance(d time.Duration) { c.Set(c.Now().Add(d)) }

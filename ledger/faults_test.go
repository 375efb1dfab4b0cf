package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/types"
	mproof "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// checkHistory demands that the order in the store holds each commitment once, that it has no gap, that every checkpoint ever signed is a prefix of it, and that the last covers it.
func checkHistory(t *testing.T, env *ledgertest.Env, appended []proof.Commitment, maybe []proof.Commitment) {
	t.Helper()
	ctx := context.Background()
	tail, err := env.Store.Tail(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found := map[proof.Commitment]int{}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range idx {
			out = append(out, stored[i])
		}
		return out, nil
	})
	err = env.Store.Leaves(ctx, 0, tail.Next, func(leaf ledger.Leaf) error {
		e, err := proof.ParseEntry(leaf.Text)
		if err != nil {
			return err
		}
		if c, ok := proof.CommitmentOf(e); ok {
			found[c]++
		}
		h, err := tlog.StoredHashes(int64(leaf.Index), leaf.Text, reader)
		stored = append(stored, h...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range appended {
		if found[c] != 1 {
			t.Errorf("an entry for which Append returned without an error stands %d times in the log", found[c])
		}
		delete(found, c)
	}
	for _, c := range maybe {
		if found[c] > 1 {
			t.Errorf("an entry stands %d times in the log", found[c])
		}
		delete(found, c)
	}
	if len(found) != 0 {
		t.Errorf("%d entries in the log that nobody appended", len(found))
	}
	var last uint64
	for _, n := range env.Signed.History() {
		cp, err := proof.VerifyCheckpoint(n, env.Policy)
		if err != nil {
			t.Fatal(err)
		}
		if cp.Size() < last {
			t.Errorf("a checkpoint of size %d after one of size %d", cp.Size(), last)
		}
		last = cp.Size()
		if root, err := tlog.TreeHash(int64(cp.Size()), reader); err != nil || proof.Hash(root) != cp.Root() {
			t.Errorf("the checkpoint of size %d isn't a prefix of the order: %v", cp.Size(), err)
		}
	}
	if last != uint64(tail.Next) {
		t.Errorf("the last checkpoint has size %d, the order %d", last, tail.Next)
	}
}

// Every call fails, or fails but persists, once or several times, with Trillian embedded and in memory; then the log goes on by itself, or after a restart, with nothing
// lost and nothing twice.
func TestFailures(t *testing.T) {
	for _, call := range []string{
		ledgertest.CallCommit, ledgertest.CallAdd, ledgertest.CallIntegrate, ledgertest.CallRoot, ledgertest.CallSign, ledgertest.CallSwap,
		ledgertest.CallCommit + "+" + ledgertest.CallNext, ledgertest.CallSwap + "+" + ledgertest.CallLast, ledgertest.CallAdd + "+" + ledgertest.CallRange,
		ledgertest.CallIntegrate + "+" + ledgertest.CallLeaves, ledgertest.CallUnfiled, ledgertest.CallFile, ledgertest.CallLabel,
	} {
		for _, fault := range []ledgertest.Fault{ledgertest.Fail, ledgertest.FailAfter} {
			for _, times := range []int{1, 3} {
				for _, restart := range []bool{false, true} {
					name := fmt.Sprintf("%s/%d/%dx/restart=%v", call, fault, times, restart)
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						testFailure(t, strings.Split(call, "+"), fault, times, restart)
					})
				}
			}
		}
	}
}

func testFailure(t *testing.T, calls []string, fault ledgertest.Fault, times int, restart bool) {
	env := ledgertest.NewInMemory(t)
	if times == 3 {
		env = ledgertest.New(t)
	}
	l := env.Open()
	var appended, maybe []proof.Commitment
	var mu sync.Mutex
	add := func(from, n int) (failed int) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				g, _ := ledgertest.Disclosure(ledgertest.Person(from+i), ledgertest.Person(from+i+1))
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				a, err := l.Append(ctx, g)
				if err == nil {
					_, err = proof.Verify(a.Checkpoint, a.Entries)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, e := range g.Entries {
					c, _ := proof.CommitmentOf(e)
					if err == nil {
						appended = append(appended, c)
					} else {
						maybe = append(maybe, c)
					}
				}
				if err != nil {
					failed++
					if !errors.Is(err, ledger.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("append: %v", err)
					}
				}
			})
		}
		wg.Wait()
		return failed
	}
	if add(0, 5) != 0 {
		t.Fatal("append failed before anything was made to fail")
	}
	for _, c := range calls {
		env.Faults.Arm(c, fault, times)
	}
	for i := 0; env.Faults.Fired() < times; i++ {
		add(100+10*i, 3)
		if i > 200 {
			t.Fatalf("only %d calls failed", env.Faults.Fired())
		}
	}
	if restart {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // at once, whatever is under way
		_ = l.Close(ctx)
		env.Faults.Disarm()
		l = env.Open()
	}
	env.Faults.Disarm()
	ledgertest.Await(t, "the log to recover", func() bool { return add(10_000, 1) == 0 })
	env.Close(l)
	checkHistory(t, env, appended, maybe)
	checkWithFsck(t, env)
}

// The Store was away when a batch was committed and when it was asked about that, and comes back when nobody waits: there is nothing to order then, and no empty batch.
func TestSettledAlone(t *testing.T) {
	t.Parallel()
	env := ledgertest.NewInMemory(t)
	var settled atomic.Bool
	env.Faults.Hook = func(call string, after bool) {
		if call == ledgertest.CallNext && after {
			settled.Store(true)
		}
	}
	l := env.Open()
	settled.Store(false)
	env.Faults.Arm(ledgertest.CallCommit, ledgertest.Fail, 1)
	env.Faults.Arm(ledgertest.CallNext, ledgertest.Fail, 1)
	lost, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(t.Context(), lost); !errors.Is(err, ledger.ErrUnavailable) {
		t.Fatalf("the store is away: %v", err)
	}
	ledgertest.Await(t, "the log to ask the store", settled.Load)
	g, _ := ledgertest.Disclosure(ledgertest.Person(2))
	if _, err := l.Append(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	env.Close(l)
	c, _ := proof.CommitmentOf(g.Entries[0])
	checkHistory(t, env, []proof.Commitment{c}, nil)
}

// The log refuses to sign when what it finds contradicts what it signed, whichever of the stores was set back, lost or changed.
func TestHalts(t *testing.T) {
	type state struct {
		env    *ledgertest.Env
		before *ledgertest.Store // a backup
		signed [][]byte
		ck     []byte // an old published checkpoint
	}
	setup := func(t *testing.T) state {
		env := ledgertest.NewInMemory(t)
		l := env.Open()
		appendN(t, l, 0, 10)
		env.Wait(l)
		s := state{env: env, before: env.Memory.Clone()}
		s.ck, _ = os.ReadFile(filepath.Join(env.Dir, "checkpoint"))
		appendN(t, l, 10, 10)
		env.Close(l)
		s.signed = env.Signed.History()
		return s
	}
	resign := func(env *ledgertest.Env, size uint64, root proof.Hash) []byte {
		n, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", ledgertest.Origin, size, root)}, env.Signer)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, tt := range []struct {
		name  string
		spoil func(*testing.T, state)
		halts string // part of the explanation; empty: it goes on
	}{
		{"untouched", func(*testing.T, state) {}, ""},
		{"store restored from a backup", func(_ *testing.T, s state) { s.env.Memory, s.env.Store = s.before, s.before }, "the store is an older copy"},
		{"checkpoint store lost", func(_ *testing.T, s state) { s.env.Signed = &ledgertest.Signed{} }, ""}, // the published checkpoint stands in
		{"checkpoint store set back", func(t *testing.T, s state) {
			s.env.Signed = &ledgertest.Signed{}
			if err := s.env.Signed.Swap(context.Background(), nil, s.signed[3]); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"checkpoint store and published checkpoint lost", func(_ *testing.T, s state) {
			s.env.Signed = &ledgertest.Signed{}
			os.RemoveAll(s.env.Dir)
		}, "no signed checkpoint is there"},
		{"store and checkpoint store from a backup", func(t *testing.T, s state) {
			s.env.Memory, s.env.Store = s.before, s.before
			s.env.Signed = &ledgertest.Signed{}
			if err := s.env.Signed.Swap(context.Background(), nil, s.ck); err != nil {
				t.Fatal(err)
			}
		}, "the store is an older copy"},
		{"everything but Trillian from a backup", func(t *testing.T, s state) {
			s.env.Memory, s.env.Store = s.before, s.before
			s.env.Signed = &ledgertest.Signed{}
			os.RemoveAll(s.env.Dir)
			if err := s.env.Signed.Swap(context.Background(), nil, s.ck); err != nil {
				t.Fatal(err)
			}
		}, "Trillian's tree has 21 entries, the store's order ends at 11"},
		{"Trillian lost", func(_ *testing.T, s state) {
			tr := ledgertest.NewTrillian()
			s.env.Trillian, s.env.Integrate = tr, tr.Integrate
		}, "Trillian lost some entries"},
		{"Trillian of another log", func(t *testing.T, s state) {
			other := ledgertest.NewInMemory(t)
			l := other.Open()
			appendN(t, l, 0, 30)
			other.Close(l)
			s.env.Trillian, s.env.Integrate = other.Trillian, other.Integrate
		}, "isn't what the store and Trillian have"},
		{"last entry changed in the store", func(_ *testing.T, s state) { s.env.Memory.Tamper(20, []byte("regard/none@v1\n")) }, "isn't what the store and Trillian have"},
		{"a fork was published", func(t *testing.T, s state) {
			if err := os.WriteFile(filepath.Join(s.env.Dir, "checkpoint"), resign(s.env, 15, proof.Hash{7}), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "contradict each other"},
		{"a larger fork was published", func(t *testing.T, s state) {
			if err := os.WriteFile(filepath.Join(s.env.Dir, "checkpoint"), resign(s.env, 25, proof.Hash{7}), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "a checkpoint was signed for 25 entries"},
		{"a checkpoint of an unknown key", func(t *testing.T, s state) {
			if err := os.WriteFile(filepath.Join(s.env.Dir, "checkpoint"), []byte("nonsense\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "isn't one of this log"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := setup(t)
			tt.spoil(t, s)
			signedBefore := len(s.env.Signed.History())
			l, err := ledger.Open(context.Background(), s.env.Config())
			if tt.halts == "" {
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				defer s.env.Close(l)
				appendN(t, l, 20, 3)
				cp := l.Checkpoint()
				old, err := proof.VerifyCheckpoint(s.signed[len(s.signed)-1], s.env.Policy)
				if err != nil {
					t.Fatal(err)
				}
				checkExtends(t, s.env, old, cp)
				return
			}
			if err == nil {
				s.env.Close(l)
			}
			if !errors.Is(err, ledger.ErrHalted) || !strings.Contains(err.Error(), tt.halts) {
				t.Errorf("open: %v, want ErrHalted with %q", err, tt.halts)
			}
			if len(s.env.Signed.History()) != signedBefore {
				t.Error("something was signed")
			}
		})
	}
}

func checkExtends(t *testing.T, env *ledgertest.Env, old, now proof.Checkpoint) {
	t.Helper()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range idx {
			out = append(out, stored[i])
		}
		return out, nil
	})
	err := env.Store.Leaves(context.Background(), 0, proof.Index(now.Size()), func(leaf ledger.Leaf) error {
		h, err := tlog.StoredHashes(int64(leaf.Index), leaf.Text, reader)
		stored = append(stored, h...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := tlog.ProveTree(int64(now.Size()), int64(old.Size()), reader)
	if err != nil {
		t.Fatal(err)
	}
	var path [][]byte
	for i := range p {
		path = append(path, p[i][:])
	}
	r1, r2 := old.Root(), now.Root()
	if err := mproof.VerifyConsistency(rfc6962.DefaultHasher, old.Size(), now.Size(), path, r1[:], r2[:]); err != nil {
		t.Errorf("the log was forked: %v", err)
	}
}

// Somebody else who writes to the store, to Trillian or to the checkpoint store while the log runs stops it before it signs.
func TestHaltsWhileRunning(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *ledgertest.Env){
		"checkpoint store": func(t *testing.T, env *ledgertest.Env) {
			last, err := env.Signed.Last(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if err := env.Signed.Swap(context.Background(), last, []byte("somebody else's")); err != nil {
				t.Fatal(err)
			}
		},
		"store": func(t *testing.T, env *ledgertest.Env) {
			tail, err := env.Store.Tail(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			b := &ledger.Batch{First: tail.Next, Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{{Index: tail.Next, Kind: proof.KindPolicy, Text: []byte("x\n")}}}}}
			if err := env.Store.Commit(context.Background(), b); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			env := ledgertest.NewInMemory(t)
			l := env.Open()
			appendN(t, l, 0, 3)
			spoil(t, env)
			n := len(env.Signed.History())
			for range 2 {
				g, _ := ledgertest.Disclosure(ledgertest.Person(1))
				if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrHalted) {
					t.Errorf("append: %v, want ErrHalted", err)
				}
			}
			if !errors.Is(l.Err(), ledger.ErrHalted) || !l.Metrics().Halted || len(env.Signed.History()) != n {
				t.Error("the log isn't halted, or signed something")
			}
		})
	}
}

// A checkpoint whose entries the store no longer agrees with is not published, and the log stops.
func TestTamperedStoreIsNotPublished(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	env.Memory.Tamper(3, []byte("regard/none@v1\n")) // what will be stored, so that no publication comes before it
	l := env.Open()
	for i := 0; l.Err() == nil; i++ {
		g, _ := ledgertest.Disclosure(ledgertest.Person(i))
		if _, err := l.Append(context.Background(), g); err != nil && !errors.Is(err, ledger.ErrHalted) {
			t.Fatal(err)
		}
	}
	if cp, ok := l.Published(); ok && cp.Size() > 3 {
		t.Errorf("size %d was published", cp.Size())
	}
}

// Trillian lost everything, or the end: it is rebuilt from the store, the log goes on, and nothing was signed meanwhile.
func TestRebuild(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.New(t)
	l := env.Open()
	appendN(t, l, 0, 30)
	env.Close(l)
	before := l.Checkpoint()
	signed := len(env.Signed.History())

	fresh := ledgertest.NewTrillian()
	env.Trillian, env.Integrate, env.TreeID = fresh, fresh.Integrate, 1
	if _, err := ledger.Open(ctx, env.Config()); !errors.Is(err, ledger.ErrTreeBehind) || !errors.Is(err, ledger.ErrHalted) {
		t.Fatalf("open on an empty Trillian: %v", err)
	}
	if size, err := ledger.Rebuild(ctx, env.Config()); err != nil || size != 31 {
		t.Fatalf("rebuild: %d, %v", size, err)
	}
	if size, err := ledger.Rebuild(ctx, env.Config()); err != nil || size != 31 {
		t.Fatalf("rebuild of what is there: %d, %v", size, err)
	}
	if len(env.Signed.History()) != signed {
		t.Error("rebuilding signed something")
	}
	l = env.Open()
	appendN(t, l, 30, 5)
	checkExtends(t, env, before, l.Checkpoint())
	env.Close(l)

	env.Memory.Tamper(7, []byte("regard/none@v1\n"))
	fresh = ledgertest.NewTrillian()
	env.Trillian, env.Integrate = fresh, fresh.Integrate
	if _, err := ledger.Rebuild(ctx, env.Config()); !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("rebuild from a store that was changed: %v", err)
	}
}

// strict answers a request that repeats a leaf with an error for the whole request.
type strict struct {
	trillian.TrillianLogClient
	seen map[int64]bool
	lose int // answers to lose
	no   int // requests refused
}

func (s *strict) AddSequencedLeaves(ctx context.Context, r *trillian.AddSequencedLeavesRequest, o ...grpc.CallOption) (*trillian.AddSequencedLeavesResponse, error) {
	for _, leaf := range r.Leaves {
		if s.seen[leaf.LeafIndex] {
			s.no++
			return nil, status.Error(codes.FailedPrecondition, "conflicting LeafIndex")
		}
	}
	res, err := s.TrillianLogClient.AddSequencedLeaves(ctx, r, o...)
	for _, leaf := range r.Leaves {
		s.seen[leaf.LeafIndex] = true
	}
	if s.lose > 0 {
		s.lose--
		return nil, status.Error(codes.Unavailable, "the answer got lost")
	}
	return res, err
}

// A storage that refuses a repeated request as a whole doesn't stop the log: it reads back what is there.
func TestRepeatedRequestIsRefused(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	s := &strict{TrillianLogClient: env.Trillian, seen: map[int64]bool{}}
	env.Trillian = s
	l := env.Open()
	appendN(t, l, 0, 2)
	s.lose = 1
	g, _ := ledgertest.Disclosure(ledgertest.Person(9))
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Fatalf("append while the answer got lost: %v", err)
	}
	ledgertest.Await(t, "the entry to be signed", func() bool { return l.Metrics().Unsigned == 0 })
	appendN(t, l, 3, 1)
	env.Close(l)
	if s.no == 0 {
		t.Error("no request was repeated")
	}
	checkWithFsck(t, env)
}

// liar says another root than that of its tree.
type liar struct {
	trillian.TrillianLogClient
	lies atomic.Bool
}

func (x *liar) GetLatestSignedLogRoot(ctx context.Context, r *trillian.GetLatestSignedLogRootRequest, o ...grpc.CallOption) (*trillian.GetLatestSignedLogRootResponse, error) {
	res, err := x.TrillianLogClient.GetLatestSignedLogRoot(ctx, r, o...)
	if err != nil || !x.lies.Load() {
		return res, err
	}
	var root types.LogRootV1
	if err := root.UnmarshalBinary(res.SignedLogRoot.LogRoot); err != nil {
		return nil, err
	}
	root.RootHash = slices.Clone(root.RootHash)
	root.RootHash[0] ^= 1
	b, err := root.MarshalBinary()
	return &trillian.GetLatestSignedLogRootResponse{SignedLogRoot: &trillian.SignedLogRoot{LogRoot: b}}, err
}

// A root that isn't that of the order in the store is never signed, whoever says it, and nothing is released: the log stands still.
func TestAnotherRootIsNotSigned(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	x := &liar{TrillianLogClient: env.Trillian}
	env.Trillian = x
	l := env.Open()
	appendN(t, l, 0, 2)
	signed := len(env.Signed.History())
	x.lies.Store(true)
	g, _ := ledgertest.Disclosure(ledgertest.Person(9))
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("an entry under another root: %v", err)
	}
	if n := len(env.Signed.History()); n != signed || !errors.Is(l.Err(), ledger.ErrHalted) {
		t.Errorf("%d checkpoints more were signed, %v", n-signed, l.Err())
	}
}

package ledgertest

import (
	"context"
	"errors"
	"sync"

	"github.com/google/trillian"
	"google.golang.org/grpc"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// ErrInjected is the error of a call that was made to fail.
var ErrInjected = errors.New("ledgertest: injected failure")

// Fault is how a call fails.
type Fault int

const (
	// Fail: the call does nothing and returns an error.
	Fail Fault = iota + 1
	// FailAfter: the call does what it should and returns an error all the same, as when a connection breaks before the answer.
	FailAfter
)

// Calls that can be made to fail, by the names that Arm and Hook know.
const (
	CallTail      = "Store.Tail"
	CallNext      = "Store.Next"
	CallCommit    = "Store.Commit"
	CallLeaves    = "Store.Leaves"
	CallUnfiled   = "Store.Unfiled"
	CallFile      = "Store.File"
	CallFilings   = "Store.Filings"
	CallRoll      = "Store.Roll"
	CallLast      = "SignedStore.Last"
	CallSwap      = "SignedStore.Swap"
	CallAdd       = "Trillian.AddSequencedLeaves"
	CallRoot      = "Trillian.GetLatestSignedLogRoot"
	CallInclusion = "Trillian.GetInclusionProof"
	CallRange     = "Trillian.GetLeavesByRange"
	CallIntegrate = "Integrate"
	CallSign      = "Signers"
	CallKey       = "Labeler.CurrentKey"
	CallLabel     = "Labeler.Label"
	CallSeed      = "Labeler.RollSeed"
)

// Faults makes calls fail. It is safe for concurrent use.
type Faults struct {
	mu    sync.Mutex
	armed map[string]armed
	fired int
	// Hook is called before (after = false) and after each call that succeeded. It is set before the log is opened.
	Hook func(call string, after bool)
}

type armed struct {
	fault Fault
	times int
}

// Arm makes the next calls of that name fail, so many times; negative: until Disarm.
func (f *Faults) Arm(call string, fault Fault, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.armed == nil {
		f.armed = map[string]armed{}
	}
	f.armed[call] = armed{fault, times}
}

// Disarm makes all calls work again.
func (f *Faults) Disarm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = nil
}

// Fired returns how many calls failed by order.
func (f *Faults) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

func (f *Faults) take(call string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.armed[call]
	if a.times == 0 {
		return 0
	}
	a.times--
	f.armed[call] = a
	f.fired++
	return a.fault
}

func (f *Faults) do(call string, fn func() error) error {
	if f.Hook != nil {
		f.Hook(call, false)
	}
	fault := f.take(call)
	if fault == Fail {
		return ErrInjected
	}
	if err := fn(); err != nil {
		return err
	}
	if f.Hook != nil {
		f.Hook(call, true)
	}
	if fault == FailAfter {
		return ErrInjected
	}
	return nil
}

// FaultyStore is a Store some of whose calls fail.
type FaultyStore struct {
	ledger.Store
	Faults *Faults
}

func (s FaultyStore) Tail(ctx context.Context) (t ledger.Tail, err error) {
	err = s.Faults.do(CallTail, func() error { t, err = s.Store.Tail(ctx); return err })
	return t, err
}

func (s FaultyStore) Next(ctx context.Context) (i proof.Index, err error) {
	err = s.Faults.do(CallNext, func() error { i, err = s.Store.Next(ctx); return err })
	return i, err
}

func (s FaultyStore) Commit(ctx context.Context, b *ledger.Batch) error {
	return s.Faults.do(CallCommit, func() error { return s.Store.Commit(ctx, b) })
}

func (s FaultyStore) Leaves(ctx context.Context, from, to proof.Index, fn func(ledger.Leaf) error) error {
	return s.Faults.do(CallLeaves, func() error { return s.Store.Leaves(ctx, from, to, fn) })
}

func (s FaultyStore) Unfiled(ctx context.Context, e proof.Epoch, limit int) (u []ledger.Unfiled, err error) {
	err = s.Faults.do(CallUnfiled, func() error { u, err = s.Store.Unfiled(ctx, e, limit); return err })
	return u, err
}

func (s FaultyStore) File(ctx context.Context, e proof.Epoch, f []ledger.Filing) error {
	return s.Faults.do(CallFile, func() error { return s.Store.File(ctx, e, f) })
}

func (s FaultyStore) Filings(ctx context.Context, e proof.Epoch, fn func(ledger.Filing) error) error {
	return s.Faults.do(CallFilings, func() error { return s.Store.Filings(ctx, e, fn) })
}

func (s FaultyStore) Roll(ctx context.Context, e proof.Epoch, z proof.Label) (r []proof.Index, err error) {
	err = s.Faults.do(CallRoll, func() error { r, err = s.Store.Roll(ctx, e, z); return err })
	return r, err
}

// FaultySigned is a SignedStore some of whose calls fail.
type FaultySigned struct {
	ledger.SignedStore
	Faults *Faults
}

func (s FaultySigned) Last(ctx context.Context) (n []byte, err error) {
	err = s.Faults.do(CallLast, func() error { n, err = s.SignedStore.Last(ctx); return err })
	return n, err
}

func (s FaultySigned) Swap(ctx context.Context, old, new []byte) error {
	return s.Faults.do(CallSwap, func() error { return s.SignedStore.Swap(ctx, old, new) })
}

// FaultyTrillian is a Trillian client some of whose calls fail.
type FaultyTrillian struct {
	trillian.TrillianLogClient
	Faults *Faults
}

func (t FaultyTrillian) AddSequencedLeaves(ctx context.Context, r *trillian.AddSequencedLeavesRequest, o ...grpc.CallOption) (res *trillian.AddSequencedLeavesResponse, err error) {
	err = t.Faults.do(CallAdd, func() error { res, err = t.TrillianLogClient.AddSequencedLeaves(ctx, r, o...); return err })
	return res, err
}

func (t FaultyTrillian) GetLatestSignedLogRoot(ctx context.Context, r *trillian.GetLatestSignedLogRootRequest, o ...grpc.CallOption) (res *trillian.GetLatestSignedLogRootResponse, err error) {
	err = t.Faults.do(CallRoot, func() error { res, err = t.TrillianLogClient.GetLatestSignedLogRoot(ctx, r, o...); return err })
	return res, err
}

func (t FaultyTrillian) GetInclusionProof(ctx context.Context, r *trillian.GetInclusionProofRequest, o ...grpc.CallOption) (res *trillian.GetInclusionProofResponse, err error) {
	err = t.Faults.do(CallInclusion, func() error { res, err = t.TrillianLogClient.GetInclusionProof(ctx, r, o...); return err })
	return res, err
}

func (t FaultyTrillian) GetLeavesByRange(ctx context.Context, r *trillian.GetLeavesByRangeRequest, o ...grpc.CallOption) (res *trillian.GetLeavesByRangeResponse, err error) {
	err = t.Faults.do(CallRange, func() error { res, err = t.TrillianLogClient.GetLeavesByRange(ctx, r, o...); return err })
	return res, err
}

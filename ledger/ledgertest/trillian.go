package ledgertest

import (
	"bytes"
	"context"
	"sync"

	"github.com/google/trillian"
	"github.com/google/trillian/types"
	"golang.org/x/mod/sumdb/tlog"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Trillian is a PREORDERED_LOG in memory behind Trillian's client interface, for benchmarks of everything but Trillian and for tests that need many logs. It answers
// a repeated leaf as the PostgreSQL storage does: FailedPrecondition, without the leaf.
type Trillian struct {
	trillian.TrillianLogClient // the rest isn't there: a call panics
	mu                         sync.Mutex
	leaves                     map[int64]*trillian.LogLeaf
	size                       int64
	hashes                     []tlog.Hash
}

// NewTrillian returns an empty tree.
func NewTrillian() *Trillian { return &Trillian{leaves: map[int64]*trillian.LogLeaf{}} }

func (t *Trillian) read(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = t.hashes[x]
	}
	return out, nil
}

// AddSequencedLeaves implements trillian.TrillianLogClient.
func (t *Trillian) AddSequencedLeaves(ctx context.Context, r *trillian.AddSequencedLeavesRequest, _ ...grpc.CallOption) (*trillian.AddSequencedLeavesResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	res := &trillian.AddSequencedLeavesResponse{}
	for _, leaf := range r.Leaves {
		q := &trillian.QueuedLogLeaf{Status: &rpcstatus.Status{}}
		if _, ok := t.leaves[leaf.LeafIndex]; ok {
			q.Status = &rpcstatus.Status{Code: int32(codes.FailedPrecondition), Message: "conflicting LeafIndex"}
		} else {
			t.leaves[leaf.LeafIndex] = leaf
		}
		res.Results = append(res.Results, q)
	}
	return res, nil
}

// Integrate brings all leaves that follow without a gap into the tree.
func (t *Trillian) Integrate(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for {
		leaf, ok := t.leaves[t.size]
		if !ok {
			return nil
		}
		h, err := tlog.StoredHashes(t.size, leaf.LeafValue, tlog.HashReaderFunc(t.read))
		if err != nil {
			return err
		}
		t.hashes = append(t.hashes, h...)
		t.size++
	}
}

// GetLatestSignedLogRoot implements trillian.TrillianLogClient.
func (t *Trillian) GetLatestSignedLogRoot(ctx context.Context, _ *trillian.GetLatestSignedLogRootRequest, _ ...grpc.CallOption) (*trillian.GetLatestSignedLogRootResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h, err := tlog.TreeHash(t.size, tlog.HashReaderFunc(t.read))
	if err != nil {
		return nil, err
	}
	b, err := (&types.LogRootV1{TreeSize: uint64(t.size), RootHash: h[:]}).MarshalBinary()
	return &trillian.GetLatestSignedLogRootResponse{SignedLogRoot: &trillian.SignedLogRoot{LogRoot: b}}, err
}

// GetInclusionProof implements trillian.TrillianLogClient.
func (t *Trillian) GetInclusionProof(ctx context.Context, r *trillian.GetInclusionProofRequest, _ ...grpc.CallOption) (*trillian.GetInclusionProofResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.TreeSize > t.size || r.LeafIndex >= r.TreeSize {
		return nil, status.Error(codes.InvalidArgument, "no such tree or leaf")
	}
	p, err := tlog.ProveRecord(r.TreeSize, r.LeafIndex, tlog.HashReaderFunc(t.read))
	if err != nil {
		return nil, err
	}
	return &trillian.GetInclusionProofResponse{Proof: &trillian.Proof{LeafIndex: r.LeafIndex, Hashes: wire(p)}}, ctx.Err()
}

// GetConsistencyProof implements trillian.TrillianLogClient.
func (t *Trillian) GetConsistencyProof(ctx context.Context, r *trillian.GetConsistencyProofRequest, _ ...grpc.CallOption) (*trillian.GetConsistencyProofResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.SecondTreeSize > t.size || r.FirstTreeSize > r.SecondTreeSize {
		return nil, status.Error(codes.InvalidArgument, "no such tree")
	}
	p, err := tlog.ProveTree(r.SecondTreeSize, r.FirstTreeSize, tlog.HashReaderFunc(t.read))
	if err != nil {
		return nil, err
	}
	return &trillian.GetConsistencyProofResponse{Proof: &trillian.Proof{Hashes: wire(p)}}, ctx.Err()
}

func wire[P ~[]tlog.Hash](p P) [][]byte {
	var out [][]byte
	for i := range p {
		out = append(out, bytes.Clone(p[i][:]))
	}
	return out
}

// GetLeavesByRange implements trillian.TrillianLogClient; like Trillian it serves leaves beyond the root if the range begins below it.
func (t *Trillian) GetLeavesByRange(ctx context.Context, r *trillian.GetLeavesByRangeRequest, _ ...grpc.CallOption) (*trillian.GetLeavesByRangeResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	res := &trillian.GetLeavesByRangeResponse{}
	if r.StartIndex >= t.size {
		return res, ctx.Err()
	}
	for i := r.StartIndex; i < r.StartIndex+r.Count; i++ {
		leaf, ok := t.leaves[i]
		if !ok {
			break
		}
		res.Leaves = append(res.Leaves, proto.Clone(leaf).(*trillian.LogLeaf))
	}
	return res, ctx.Err()
}

package broker

import (
	"context"

	"github.com/google/trillian"
	"google.golang.org/grpc"

	"github.com/regard-broker/regard/ledger"
)

// stagedTrillian and stagedSigned tell the ends of the log's stages to Config.at. They are in the way only if a test set it.
type stagedTrillian struct {
	trillian.TrillianLogClient
	b *Broker
}

func (s stagedTrillian) AddSequencedLeaves(ctx context.Context, in *trillian.AddSequencedLeavesRequest, opts ...grpc.CallOption) (*trillian.AddSequencedLeavesResponse, error) {
	defer s.b.at(stageAdd)
	return s.TrillianLogClient.AddSequencedLeaves(ctx, in, opts...)
}

type stagedSigned struct {
	ledger.SignedStore
	b *Broker
}

func (s stagedSigned) Swap(ctx context.Context, old, new []byte) error {
	s.b.at(stageSign)
	defer s.b.at(stageRelease)
	return s.SignedStore.Swap(ctx, old, new)
}

package engine

import (
	"context"

	"github.com/google/trillian"
	"github.com/google/trillian/storage"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// oneTree is a storage.AdminStorage that knows one tree by heart. Every RPC asks
// for its tree first; a tree of Regard's never changes, so there's no need to read.
type oneTree struct {
	tree    *trillian.Tree
	storage storage.AdminStorage
}

// OneTree answers for this tree alone and never asks the storage, but for whether
// it can be reached.
func OneTree(tree *trillian.Tree, of storage.AdminStorage) storage.AdminStorage {
	return oneTree{tree, of}
}

// NewTree is what a tree of Regard's is created from.
func NewTree() *trillian.Tree {
	return &trillian.Tree{
		TreeState:       trillian.TreeState_ACTIVE,
		TreeType:        trillian.TreeType_PREORDERED_LOG,
		DisplayName:     "regard",
		MaxRootDuration: durationpb.New(0), // no root without leaves
	}
}

func (o oneTree) Snapshot(context.Context) (storage.ReadOnlyAdminTX, error) {
	return oneTreeTX(o), nil
}

func (o oneTree) ReadWriteTransaction(context.Context, storage.AdminTXFunc) error {
	return status.Error(codes.Unimplemented, "the log has one tree that never changes")
}

func (o oneTree) CheckDatabaseAccessible(ctx context.Context) error {
	return o.storage.CheckDatabaseAccessible(ctx)
}

type oneTreeTX oneTree

func (o oneTreeTX) GetTree(_ context.Context, id int64) (*trillian.Tree, error) {
	if id != o.tree.TreeId {
		return nil, status.Errorf(codes.NotFound, "tree %d not found", id)
	}
	return proto.Clone(o.tree).(*trillian.Tree), nil
}

func (o oneTreeTX) ListTrees(ctx context.Context, _ bool) ([]*trillian.Tree, error) {
	t, err := o.GetTree(ctx, o.tree.TreeId)
	return []*trillian.Tree{t}, err
}

func (oneTreeTX) Commit() error { return nil }
func (oneTreeTX) Close() error  { return nil }

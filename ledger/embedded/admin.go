package embedded

import (
	"context"

	"github.com/google/trillian"
	"github.com/google/trillian/storage"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// oneTree is a storage.AdminStorage that knows one tree by heart. Every RPC asks
// for its tree first; nobody but Open can change it, so there's no need to read.
type oneTree struct {
	tree    *trillian.Tree
	storage storage.AdminStorage
}

var _ storage.AdminStorage = oneTree{}

func (o oneTree) Snapshot(context.Context) (storage.ReadOnlyAdminTX, error) {
	return oneTreeTX(o), nil
}

func (o oneTree) ReadWriteTransaction(context.Context, storage.AdminTXFunc) error {
	return status.Error(codes.Unimplemented, "an embedded log has one tree that never changes")
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

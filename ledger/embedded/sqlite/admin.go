package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"sync"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/storage"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// withoutHashIndexes is the one storage setting there is.
const withoutHashIndexes = "regard/without-hash-indexes@v1"

// WithoutHashIndexes is the trillian.Tree.StorageSettings of a PREORDERED_LOG
// tree whose leaves are found by index only. Adding costs a third. In exchange
// GetLeavesByHash and GetInclusionProofByHash answer Unimplemented, and a
// LeafIdentityHash is unique among the leaves that aren't integrated yet instead
// of for ever. It can't be changed later.
func WithoutHashIndexes() *anypb.Any {
	a, err := anypb.New(wrapperspb.String(withoutHashIndexes))
	if err != nil {
		panic(err) // a constant
	}
	return a
}

func hashIndexed(t *trillian.Tree) (bool, error) {
	if t.StorageSettings == nil {
		return true, nil
	}
	var s wrapperspb.StringValue
	if err := t.StorageSettings.UnmarshalTo(&s); err != nil || s.Value != withoutHashIndexes {
		return false, status.Error(codes.InvalidArgument, "unknown storage settings: leave them empty or use sqlite.WithoutHashIndexes")
	}
	if t.TreeType != trillian.TreeType_PREORDERED_LOG {
		return false, status.Errorf(codes.InvalidArgument, "a tree of type %v needs its hash indexes", t.TreeType)
	}
	return false, nil
}

// AdminStorage keeps the trees' definitions; it implements storage.AdminStorage.
type AdminStorage struct{ s *Storage }

// Admin returns the view on the database that manages trees.
func (s *Storage) Admin() *AdminStorage { return &AdminStorage{s} }

var _ storage.AdminStorage = (*AdminStorage)(nil)

// CheckDatabaseAccessible reads from the file.
func (a *AdminStorage) CheckDatabaseAccessible(ctx context.Context) error { return a.s.ping(ctx) }

// Snapshot implements storage.AdminStorage.
func (a *AdminStorage) Snapshot(ctx context.Context) (storage.ReadOnlyAdminTX, error) {
	return a.begin(ctx, false)
}

func (a *AdminStorage) begin(ctx context.Context, write bool) (*adminTX, error) {
	c, err := a.s.acquire(ctx, write)
	if err != nil {
		return nil, err
	}
	return &adminTX{s: a.s, c: c, write: write}, nil
}

// ReadWriteTransaction implements storage.AdminStorage. f runs once.
func (a *AdminStorage) ReadWriteTransaction(ctx context.Context, f storage.AdminTXFunc) error {
	tx, err := a.begin(ctx, true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Close() }() // also when f panics
	if err := f(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

type adminTX struct {
	s     *Storage
	write bool
	mu    sync.Mutex
	c     *conn // nil once ended
}

func (t *adminTX) end(commit bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c == nil {
		if commit {
			return errTxDone
		}
		return nil
	}
	c := t.c
	t.c = nil
	return t.s.finish(c, t.write, commit)
}

func (t *adminTX) Commit() error { return t.end(true) }
func (t *adminTX) Close() error  { return t.end(false) }

const selectTree = `SELECT TreeId, State, Type, DisplayName, Description, CreateMillis, UpdateMillis,
	MaxRootMillis, HashIndexed, Deleted, DeleteMillis FROM Tree`

func (t *adminTX) trees(where string, args ...any) ([]*trillian.Tree, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c == nil {
		return nil, errTxDone
	}
	trees := []*trillian.Tree{}
	err := t.c.query(selectTree+where, func(r []driver.Value) error {
		tree, err := scanTree(r)
		trees = append(trees, tree)
		return err
	}, args...)
	return trees, err
}

func scanTree(r []driver.Value) (*trillian.Tree, error) {
	text := func(i int) string { s, _ := r[i].(string); return s }
	millis := func(i int) *timestamppb.Timestamp { return timestamppb.New(time.UnixMilli(integer(r[i]))) }
	state, ok := trillian.TreeState_value[text(1)]
	typ, ok2 := trillian.TreeType_value[text(2)]
	if !ok || !ok2 {
		return nil, status.Errorf(codes.DataLoss, "tree %d has state %q and type %q: the file is damaged", integer(r[0]), text(1), text(2))
	}
	tree := &trillian.Tree{
		TreeId:          integer(r[0]),
		TreeState:       trillian.TreeState(state),
		TreeType:        trillian.TreeType(typ),
		DisplayName:     text(3),
		Description:     text(4),
		CreateTime:      millis(5),
		UpdateTime:      millis(6),
		MaxRootDuration: durationpb.New(time.Duration(integer(r[7])) * time.Millisecond),
		Deleted:         integer(r[9]) != 0,
	}
	if integer(r[8]) == 0 {
		tree.StorageSettings = WithoutHashIndexes()
	}
	if r[10] != nil {
		tree.DeleteTime = millis(10)
	}
	return tree, nil
}

func (t *adminTX) GetTree(_ context.Context, treeID int64) (*trillian.Tree, error) {
	trees, err := t.trees(` WHERE TreeId = ?`, treeID)
	if err != nil {
		return nil, fmt.Errorf("reading tree %d: %w", treeID, err)
	}
	if len(trees) == 0 {
		return nil, status.Errorf(codes.NotFound, "tree %d not found", treeID)
	}
	return trees[0], nil
}

func (t *adminTX) ListTrees(_ context.Context, includeDeleted bool) ([]*trillian.Tree, error) {
	if includeDeleted {
		return t.trees(``)
	}
	return t.trees(` WHERE Deleted = 0`)
}

// exec also refuses to write in a snapshot: SQLite does, with query_only.
func (t *adminTX) exec(sql string, args ...any) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c == nil {
		return errTxDone
	}
	_, err := t.c.exec(sql, args...)
	return err
}

func (t *adminTX) CreateTree(ctx context.Context, tree *trillian.Tree) (*trillian.Tree, error) {
	if err := storage.ValidateTreeForCreation(ctx, tree); err != nil {
		return nil, err
	}
	indexed, err := hashIndexed(tree)
	if err != nil {
		return nil, err
	}
	id, err := storage.NewTreeID()
	if err != nil {
		return nil, err
	}
	now := t.s.clock().UnixMilli()
	tree = proto.Clone(tree).(*trillian.Tree)
	tree.TreeId = id
	tree.CreateTime = timestamppb.New(time.UnixMilli(now))
	tree.UpdateTime = timestamppb.New(time.UnixMilli(now))
	if err := t.exec(`INSERT INTO Tree(TreeId, State, Type, DisplayName, Description, CreateMillis, UpdateMillis, MaxRootMillis, HashIndexed)
		VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		id, tree.TreeState.String(), tree.TreeType.String(), tree.DisplayName, tree.Description,
		now, now, tree.MaxRootDuration.AsDuration().Milliseconds(), b2i(indexed)); err != nil {
		return nil, err
	}
	slot, err := t.slot(id)
	if err != nil {
		return nil, err
	}
	if slot > maxSlot {
		return nil, status.Errorf(codes.ResourceExhausted, "the file has had %d trees, its limit: use another file", maxSlot)
	}
	return tree, nil
}

func (t *adminTX) slot(treeID int64) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c == nil {
		return 0, errTxDone
	}
	slot := int64(-1)
	err := t.c.query(`SELECT Slot FROM Tree WHERE TreeId = ?`, func(r []driver.Value) error {
		slot = integer(r[0])
		return nil
	}, treeID)
	if err == nil && slot < 0 {
		err = status.Errorf(codes.NotFound, "tree %d not found", treeID)
	}
	return slot, err
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (t *adminTX) UpdateTree(ctx context.Context, treeID int64, update func(*trillian.Tree)) (*trillian.Tree, error) {
	tree, err := t.GetTree(ctx, treeID)
	if err != nil {
		return nil, err
	}
	before := proto.Clone(tree).(*trillian.Tree)
	update(tree)
	if err := storage.ValidateTreeForUpdate(ctx, before, tree); err != nil {
		return nil, err
	}
	if !proto.Equal(before.StorageSettings, tree.StorageSettings) {
		return nil, status.Error(codes.InvalidArgument, "readonly field changed: storage_settings")
	}
	if _, err := hashIndexed(tree); err != nil { // PREORDERED_LOG becomes LOG
		return nil, err
	}
	now := max(t.s.clock().UnixMilli(), before.UpdateTime.AsTime().UnixMilli())
	tree.UpdateTime = timestamppb.New(time.UnixMilli(now))
	if err := t.exec(`UPDATE Tree SET State = ?, Type = ?, DisplayName = ?, Description = ?, UpdateMillis = ?, MaxRootMillis = ?
		WHERE TreeId = ?`,
		tree.TreeState.String(), tree.TreeType.String(), tree.DisplayName, tree.Description,
		now, tree.MaxRootDuration.AsDuration().Milliseconds(), treeID); err != nil {
		return nil, err
	}
	return tree, nil
}

// mustBe checks that the tree exists and is, or isn't, soft deleted.
func (t *adminTX) mustBe(ctx context.Context, treeID int64, deleted bool) error {
	tree, err := t.GetTree(ctx, treeID)
	switch {
	case err != nil:
		return err
	case deleted && !tree.Deleted:
		return status.Errorf(codes.FailedPrecondition, "tree %d is not soft deleted", treeID)
	case !deleted && tree.Deleted:
		return status.Errorf(codes.FailedPrecondition, "tree %d is already soft deleted", treeID)
	}
	return nil
}

func (t *adminTX) SoftDeleteTree(ctx context.Context, treeID int64) (*trillian.Tree, error) {
	if err := t.mustBe(ctx, treeID, false); err != nil {
		return nil, err
	}
	if err := t.exec(`UPDATE Tree SET Deleted = 1, DeleteMillis = ? WHERE TreeId = ?`, t.s.clock().UnixMilli(), treeID); err != nil {
		return nil, err
	}
	return t.GetTree(ctx, treeID)
}

func (t *adminTX) UndeleteTree(ctx context.Context, treeID int64) (*trillian.Tree, error) {
	if err := t.mustBe(ctx, treeID, true); err != nil {
		return nil, err
	}
	if err := t.exec(`UPDATE Tree SET Deleted = 0, DeleteMillis = NULL WHERE TreeId = ?`, treeID); err != nil {
		return nil, err
	}
	return t.GetTree(ctx, treeID)
}

// HardDeleteTree removes the tree and everything in it. The slot is never used
// again.
func (t *adminTX) HardDeleteTree(ctx context.Context, treeID int64) error {
	if err := t.mustBe(ctx, treeID, true); err != nil {
		return err
	}
	slot, err := t.slot(treeID)
	if err != nil {
		return err
	}
	for _, table := range []string{"Root", "Tile", "Leaf"} {
		if err := t.exec(`DELETE FROM `+table+` WHERE Id BETWEEN ? AND ?`, key(slot, 0), key(slot, maxLeaves-1)); err != nil {
			return err
		}
	}
	for _, table := range []string{"Identity", "Merkle", "Queue"} {
		if err := t.exec(`DELETE FROM `+table+` WHERE Slot = ?`, slot); err != nil {
			return err
		}
	}
	return t.exec(`DELETE FROM Tree WHERE TreeId = ?`, treeID)
}

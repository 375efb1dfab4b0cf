package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/storage"
	"github.com/google/trillian/storage/tree"
	"github.com/google/trillian/types"
	"github.com/transparency-dev/merkle/compact"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errTxDone is a mistake of the caller, not of the database.
var errTxDone = status.Error(codes.Internal, "the transaction has ended")

// LogStorage keeps leaves, tiles and roots; it implements storage.LogStorage.
type LogStorage struct{ s *Storage }

// Log returns the view on the database that holds the trees' contents.
func (s *Storage) Log() *LogStorage { return &LogStorage{s} }

var _ storage.LogStorage = (*LogStorage)(nil)

// CheckDatabaseAccessible reads from the file.
func (l *LogStorage) CheckDatabaseAccessible(ctx context.Context) error { return l.s.ping(ctx) }

// GetActiveLogIDs implements storage.ReadOnlyLogStorage. Draining logs still
// integrate what they have.
func (l *LogStorage) GetActiveLogIDs(ctx context.Context) ([]int64, error) {
	c, err := l.s.acquire(ctx, false)
	if err != nil {
		return nil, err
	}
	ids := []int64{}
	err = c.query(`SELECT TreeId FROM Tree WHERE Deleted = 0 AND Type IN (?, ?) AND State IN (?, ?)`,
		func(r []driver.Value) error {
			ids = append(ids, integer(r[0]))
			return nil
		},
		trillian.TreeType_LOG.String(), trillian.TreeType_PREORDERED_LOG.String(),
		trillian.TreeState_ACTIVE.String(), trillian.TreeState_DRAINING.String())
	if e := l.s.finish(c, false, true); err == nil {
		err = e
	}
	return ids, err
}

// SnapshotForTree implements storage.ReadOnlyLogStorage. As its contract has it,
// a tree without a root gives a snapshot and storage.ErrTreeNeedsInit.
func (l *LogStorage) SnapshotForTree(ctx context.Context, tree *trillian.Tree) (storage.ReadOnlyLogTreeTX, error) {
	tx, err := l.begin(ctx, tree, false)
	if err != nil {
		return nil, err
	}
	if tx.slr == nil {
		return tx, storage.ErrTreeNeedsInit
	}
	return tx, nil
}

// ReadWriteTransaction implements storage.LogStorage. f runs once. The context
// counts until the writer's turn comes; from then on the transaction, which is
// short, runs to its end.
func (l *LogStorage) ReadWriteTransaction(ctx context.Context, tree *trillian.Tree, f storage.LogTXFunc) error {
	tx, err := l.begin(ctx, tree, true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Close() }() // also when f panics
	if err := f(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// AddSequencedLeaves implements storage.LogStorage: one transaction, one fsync.
// A leaf is identical to a stored one if its value, extra data and both hashes
// are. Without an error, leaves with status OK or AlreadyExists are durable.
func (l *LogStorage) AddSequencedLeaves(ctx context.Context, tree *trillian.Tree, leaves []*trillian.LogLeaf, timestamp time.Time) ([]*trillian.QueuedLogLeaf, error) {
	return l.AddSequencedLeavesThen(ctx, tree, leaves, timestamp, func(context.Context, storage.LogTreeTX) error { return nil })
}

// AddSequencedLeavesThen is AddSequencedLeaves, and if no leaf is refused it goes
// on with f in the same transaction. If f fails, no leaf is added.
func (l *LogStorage) AddSequencedLeavesThen(ctx context.Context, tree *trillian.Tree, leaves []*trillian.LogLeaf, timestamp time.Time, f storage.LogTXFunc) ([]*trillian.QueuedLogLeaf, error) {
	var res []*trillian.QueuedLogLeaf
	err := l.ReadWriteTransaction(ctx, tree, func(ctx context.Context, tx storage.LogTreeTX) (err error) {
		t := tx.(*logTX)
		if t.slr == nil {
			return storage.ErrTreeNeedsInit
		}
		if res, err = t.addSequencedLeaves(leaves, timestamp); err != nil {
			return err
		}
		if slices.ContainsFunc(res, func(r *trillian.QueuedLogLeaf) bool {
			c := codes.Code(r.GetStatus().GetCode())
			return c != codes.OK && c != codes.AlreadyExists
		}) {
			return nil
		}
		return f(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// QueueLeaves implements storage.LogStorage, for LOG trees.
func (l *LogStorage) QueueLeaves(ctx context.Context, tree *trillian.Tree, leaves []*trillian.LogLeaf, queueTimestamp time.Time) ([]*trillian.QueuedLogLeaf, error) {
	var res []*trillian.QueuedLogLeaf
	err := l.ReadWriteTransaction(ctx, tree, func(_ context.Context, tx storage.LogTreeTX) (err error) {
		t := tx.(*logTX)
		if t.slr == nil {
			return storage.ErrTreeNeedsInit
		}
		res, err = t.queueLeaves(leaves, queueTimestamp)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// logTX is one transaction, reading or writing, on one tree.
type logTX struct {
	s        *Storage
	write    bool
	treeID   int64
	treeType trillian.TreeType

	mu sync.Mutex
	c  *conn // nil once ended
	head
	tiles map[int64]*tile // that this transaction knows, by row id

	dequeued map[string]int64 // LOG: identity hash to queue timestamp
}

// head is what every transaction on a tree begins with.
type head struct {
	slot    int64
	indexed bool // has indexes by hash
	root    types.LogRootV1
	slr     *trillian.SignedLogRoot // nil before the first root
	ring    int64                   // where the latest root stands, -1 before the first
}

// kept is what the writer's connection remembers from one transaction on a tree to
// the next, so that it needn't be read again: nobody else writes. It is gone when
// the next one isn't on the same tree, and after any failure with the connection.
type kept struct {
	treeID int64
	head
	tiles map[int64]*tile // those that will still grow
}

var _ storage.LogTreeTX = (*logTX)(nil)

func (l *LogStorage) begin(ctx context.Context, tree *trillian.Tree, write bool) (*logTX, error) {
	c, err := l.s.acquire(ctx, write)
	if err != nil {
		return nil, err
	}
	t := &logTX{s: l.s, write: write, c: c, treeID: tree.TreeId, treeType: tree.TreeType, head: head{slot: -1, ring: -1}}
	if k := c.before; k != nil && k.treeID == tree.TreeId {
		c.before = nil
		t.head, t.tiles = k.head, k.tiles
		return t, nil
	}
	t.tiles = make(map[int64]*tile)
	if err := t.load(tree.TreeId); err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

var selectHead = fmt.Sprintf(`SELECT t.Slot, t.HashIndexed, r.Id, r.LogRoot FROM Tree t
	LEFT JOIN Root r ON r.Id BETWEEN t.Slot << %d AND (t.Slot << %d) + %d
	WHERE t.TreeId = ? ORDER BY r.TimestampNanos DESC LIMIT 1`, slotShift, slotShift, rootsKept-1)

// load finds the tree and its latest root. Being the first read, it is also the
// point in time of a snapshot.
func (t *logTX) load(treeID int64) error {
	var raw []byte
	err := t.c.query(selectHead, func(r []driver.Value) error {
		t.slot, t.indexed = integer(r[0]), integer(r[1]) != 0
		if r[2] != nil {
			t.ring, raw = integer(r[2])&(rootsKept-1), blob(r[3])
		}
		return nil
	}, treeID)
	if err != nil {
		return err
	}
	if t.slot < 0 {
		return status.Errorf(codes.NotFound, "tree %d not found", treeID)
	}
	if t.ring < 0 {
		return nil
	}
	if err := t.root.UnmarshalBinary(raw); err != nil {
		return status.Errorf(codes.DataLoss, "the latest root of tree %d is damaged: restore the log from a backup or from its tiles", treeID)
	}
	t.slr = &trillian.SignedLogRoot{LogRoot: raw}
	return nil
}

// live says whether the transaction can still be used; with t.mu held.
func (t *logTX) live() error {
	if t.c == nil {
		return errTxDone
	}
	return nil
}

func (t *logTX) canWrite() error {
	if err := t.live(); err != nil {
		return err
	}
	if !t.write {
		return status.Error(codes.Internal, "writing in a snapshot")
	}
	return nil
}

// Commit implements storage.ReadOnlyLogTreeTX. The tiles that changed are
// written here, once each.
func (t *logTX) Commit(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	c := t.c
	if t.write {
		if err := t.putTiles(); err != nil {
			return err // the caller's Close rolls back
		}
		maps.DeleteFunc(t.tiles, func(_ int64, l *tile) bool { return l.n == tileWidth })
		c.after = &kept{t.treeID, t.head, t.tiles}
	}
	t.c = nil
	return t.s.finish(c, t.write, true)
}

// Close implements storage.ReadOnlyLogTreeTX.
func (t *logTX) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c == nil {
		return nil
	}
	c := t.c
	t.c = nil
	return t.s.finish(c, t.write, false)
}

// LatestSignedLogRoot implements storage.ReadOnlyLogTreeTX.
func (t *logTX) LatestSignedLogRoot(context.Context) (*trillian.SignedLogRoot, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.slr == nil {
		return nil, storage.ErrTreeNeedsInit
	}
	return t.slr, nil
}

// StoreSignedLogRoot implements storage.LogTreeTX. Roots only move forward: the
// one stored last must also be the newest, or readers would see the tree shrink.
func (t *logTX) StoreSignedLogRoot(_ context.Context, slr *trillian.SignedLogRoot) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.canWrite(); err != nil {
		return err
	}
	var root types.LogRootV1
	if err := root.UnmarshalBinary(slr.GetLogRoot()); err != nil {
		return status.Errorf(codes.InvalidArgument, "parsing the log root: %v", err)
	}
	switch {
	case root.TimestampNanos > math.MaxInt64 || root.TreeSize > uint64(maxLeaves):
		return status.Errorf(codes.OutOfRange, "log root of time %d and size %d is beyond what can be stored", root.TimestampNanos, root.TreeSize)
	case t.slr != nil && root.TimestampNanos <= t.root.TimestampNanos:
		return status.Errorf(codes.FailedPrecondition, "log root of time %d is not newer than the latest one of %d: correct the clock", root.TimestampNanos, t.root.TimestampNanos)
	case t.slr != nil && root.TreeSize < t.root.TreeSize:
		return status.Errorf(codes.FailedPrecondition, "log root of size %d would shrink the tree of size %d", root.TreeSize, t.root.TreeSize)
	}
	ring := (t.ring + 1) % rootsKept
	if _, err := t.c.exec(`INSERT OR REPLACE INTO Root(Id, TimestampNanos, TreeSize, LogRoot) VALUES(?, ?, ?, ?)`,
		key(t.slot, ring), int64(root.TimestampNanos), int64(root.TreeSize), slr.LogRoot); err != nil {
		return err
	}
	t.ring, t.root, t.slr = ring, root, &trillian.SignedLogRoot{LogRoot: slr.LogRoot}
	return nil
}

// GetMerkleNodes implements storage.ReadOnlyLogTreeTX.
func (t *logTX) GetMerkleNodes(_ context.Context, ids []compact.NodeID) ([]tree.Node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return nil, err
	}
	nodes, err := t.nodes(ids)
	if err != nil {
		return nil, fmt.Errorf("reading %d tree nodes: %w", len(ids), err)
	}
	return nodes, nil
}

// SetMerkleNodes implements storage.LogTreeTX.
func (t *logTX) SetMerkleNodes(_ context.Context, nodes []tree.Node) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.canWrite(); err != nil {
		return err
	}
	return t.setNodes(nodes)
}

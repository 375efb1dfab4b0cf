package signer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/storage"
	"github.com/google/trillian/storage/cache"
	"github.com/google/trillian/storage/storagepb"
	"github.com/google/trillian/storage/tree"
	"github.com/google/trillian/types"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/proto"
)

// edgeStorage is what log.IntegrateBatch needs of a storage, for the one master of a tree. Nobody else changes the tree, so it knows the latest root and the tiles at its right edge since the last
// batch; a transaction is two statements, to read leaves and to store (regard_integrate of regard.sql, which refuses if the latest root is another one), where Trillian's storage has ten round trips. Leaves that a batch brings
// along are stored together with what they change (regard_grow).
// After an error it knows nothing, and reads again. It is not safe for concurrent use.
type edgeStorage struct {
	storage.LogStorage // the rest isn't there: a call panics
	db                 *pgxpool.Pool

	root  types.LogRootV1   // without a hash: not known
	tiles map[string][]byte // as they are stored
	batch *batch            // leaves to be stored with the next transaction, instead of those that are there
}

func newEdgeStorage(db *pgxpool.Pool) *edgeStorage {
	return &edgeStorage{db: db, tiles: map[string][]byte{}}
}

// ReadWriteTransaction implements storage.LogStorage.
func (s *edgeStorage) ReadWriteTransaction(ctx context.Context, t *trillian.Tree, f storage.LogTXFunc) error {
	err := func() error {
		if _, err := s.latest(ctx, t.TreeId); err != nil {
			return err
		}
		tx := &edgeTX{s: s, tree: t.TreeId, cache: cache.NewLogSubtreeCache(rfc6962.DefaultHasher), used: map[string][]byte{}}
		if err := f(ctx, tx); err != nil {
			return err
		}
		return tx.Commit(ctx)
	}()
	if err != nil {
		s.forget()
	}
	return err
}

// forget makes the next transaction read the tree again.
func (s *edgeStorage) forget() { s.root, s.tiles = types.LogRootV1{}, map[string][]byte{} }

// latest is the newest root.
func (s *edgeStorage) latest(ctx context.Context, id int64) (types.LogRootV1, error) {
	if len(s.root.RootHash) > 0 {
		return s.root, nil
	}
	root, err := latestRoot(ctx, s.db, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return root, storage.ErrTreeNeedsInit
	}
	if err != nil {
		return root, fmt.Errorf("reading the latest root: %w", err)
	}
	s.root = root
	return root, nil
}

// edgeTX is one batch.
type edgeTX struct {
	storage.LogTreeTX // the rest isn't there: a call panics
	s                 *edgeStorage
	tree              int64
	cache             *cache.SubtreeCache
	used              map[string][]byte // tiles that this batch read or wrote
	root              *types.LogRootV1  // the new one, nil if nothing changes
}

// LatestSignedLogRoot implements storage.LogTreeTX.
func (t *edgeTX) LatestSignedLogRoot(context.Context) (*trillian.SignedLogRoot, error) {
	b, err := t.s.root.MarshalBinary()
	return &trillian.SignedLogRoot{LogRoot: b}, err
}

// DequeueLeaves implements storage.LogTreeTX: leaves that follow the tree without a gap, with index and hash alone.
func (t *edgeTX) DequeueLeaves(ctx context.Context, limit int, _ time.Time) ([]*trillian.LogLeaf, error) {
	if b := t.s.batch; b != nil {
		return b.leaves, nil
	}
	next := int64(t.s.root.TreeSize)
	rows, err := t.s.db.Query(ctx, `SELECT SequenceNumber, MerkleLeafHash FROM SequencedLeafData WHERE TreeId = $1 AND SequenceNumber >= $2 AND SequenceNumber < $3 ORDER BY SequenceNumber`, t.tree, next, next+int64(limit))
	if err != nil {
		return nil, fmt.Errorf("reading leaves: %w", err)
	}
	var leaves []*trillian.LogLeaf
	var index int64
	var hash []byte
	gap := false
	_, err = pgx.ForEachRow(rows, []any{&index, &hash}, func() error {
		if gap = gap || index != next; gap {
			return nil
		}
		if len(hash) != rfc6962.DefaultHasher.Size() {
			return fmt.Errorf("leaf %d has a hash of %d bytes", index, len(hash))
		}
		leaves = append(leaves, &trillian.LogLeaf{LeafIndex: index, MerkleLeafHash: append([]byte(nil), hash...)})
		next++
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading leaves: %w", err)
	}
	return leaves, nil
}

// UpdateSequencedLeaves implements storage.LogTreeTX.
func (t *edgeTX) UpdateSequencedLeaves(context.Context, []*trillian.LogLeaf) error { return nil }

// GetMerkleNodes implements storage.LogTreeTX.
func (t *edgeTX) GetMerkleNodes(ctx context.Context, ids []compact.NodeID) ([]tree.Node, error) {
	return t.cache.GetNodes(ids, t.read(ctx))
}

// SetMerkleNodes implements storage.LogTreeTX.
func (t *edgeTX) SetMerkleNodes(ctx context.Context, nodes []tree.Node) error {
	return t.cache.SetNodes(nodes, t.read(ctx))
}

// read gets tiles by heart, or else from the database.
func (t *edgeTX) read(ctx context.Context) cache.GetSubtreesFunc {
	return func(ids [][]byte) ([]*storagepb.SubtreeProto, error) {
		var found []*storagepb.SubtreeProto
		take := func(id, b []byte) error {
			var p storagepb.SubtreeProto
			if err := proto.Unmarshal(b, &p); err != nil {
				return fmt.Errorf("tile %x is damaged: %w", id, err)
			}
			if p.Prefix == nil {
				p.Prefix = []byte{}
			}
			t.used[string(id)] = b
			found = append(found, &p)
			return nil
		}
		var unknown [][]byte
		for _, id := range ids {
			b, ok := t.s.tiles[string(id)]
			if !ok {
				unknown = append(unknown, id)
			} else if err := take(id, b); err != nil {
				return nil, err
			}
		}
		if len(unknown) == 0 {
			return found, nil
		}
		rows, err := t.s.db.Query(ctx, `SELECT SubtreeId, Nodes FROM Subtree WHERE TreeId = $1 AND SubtreeId = ANY ($2)`, t.tree, unknown)
		if err != nil {
			return nil, fmt.Errorf("reading tiles: %w", err)
		}
		type row struct{ ID, Nodes []byte }
		read, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
		if err != nil {
			return nil, fmt.Errorf("reading tiles: %w", err)
		}
		for _, r := range read {
			if err := take(r.ID, r.Nodes); err != nil {
				return nil, err
			}
		}
		return found, nil
	}
}

// StoreSignedLogRoot implements storage.LogTreeTX.
func (t *edgeTX) StoreSignedLogRoot(_ context.Context, root *trillian.SignedLogRoot) error {
	t.root = &types.LogRootV1{}
	if err := t.root.UnmarshalBinary(root.LogRoot); err != nil {
		return fmt.Errorf("reading the new root: %w", err)
	}
	return nil
}

// Commit implements storage.LogTreeTX. The new root and its tiles are durable when it returns.
func (t *edgeTX) Commit(ctx context.Context) error {
	if t.root == nil {
		return nil
	}
	updated, err := t.cache.UpdatedTiles()
	if err != nil {
		return fmt.Errorf("collecting tiles: %w", err)
	}
	ids, tiles := make([][]byte, len(updated)), make([][]byte, len(updated))
	for i, p := range updated {
		if ids[i] = p.Prefix; ids[i] == nil {
			ids[i] = []byte{}
		}
		if tiles[i], err = proto.Marshal(p); err != nil {
			return fmt.Errorf("writing tile %x: %w", p.Prefix, err)
		}
	}
	old, root := t.s.root, *t.root
	query, args := `SELECT regard_integrate($1, $2, $3, $4, $5, $6, $7, $8)`, []any{t.tree, old.TreeSize, old.TimestampNanos, ids, tiles, root.TreeSize, root.TimestampNanos, root.RootHash}
	if b := t.s.batch; b != nil {
		c := columnsOf(b.leaves)
		query, args = `SELECT regard_grow($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`, append(args, c.places, c.identities, c.values, c.extras, c.hashes, b.queued.UnixNano())
	}
	if _, err := t.s.db.Exec(ctx, query, args...); err != nil {
		return fmt.Errorf("storing the new root: %w", err)
	}
	for i, id := range ids {
		t.used[string(id)] = tiles[i]
	}
	t.s.root, t.s.tiles = root, t.used // the next batch begins at the edge that this one ended at
	return nil
}

package sqlite

import (
	"context"
	"database/sql/driver"
	"math"
	"time"

	"github.com/google/trillian"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The queue of LOG trees. Regard's own log is PREORDERED_LOG and never queues;
// this half exists so that the storage is a complete one, and is measured by
// Trillian's suites.

func (t *logTX) queueLeaves(leaves []*trillian.LogLeaf, at time.Time) ([]*trillian.QueuedLogLeaf, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.canWrite(); err != nil {
		return nil, err
	}
	if t.treeType != trillian.TreeType_LOG {
		return nil, status.Errorf(codes.FailedPrecondition, "a tree of type %v has no queue: use AddSequencedLeaves", t.treeType)
	}
	res := make([]*trillian.QueuedLogLeaf, len(leaves))
	for i, leaf := range leaves {
		if len(leaf.LeafIdentityHash) != hashSize || len(leaf.MerkleLeafHash) != hashSize {
			return nil, status.Errorf(codes.InvalidArgument, "leaf has hashes of %d and %d bytes, want %d",
				len(leaf.LeafIdentityHash), len(leaf.MerkleLeafHash), hashSize)
		}
		n, err := t.c.exec(`INSERT INTO Identity(Slot, Hash, QueueNanos) VALUES(?, ?, ?) ON CONFLICT DO NOTHING`,
			t.slot, leaf.LeafIdentityHash, at.UnixNano())
		if err != nil {
			return nil, err
		}
		if n == 0 {
			old, err := t.leafByIdentity(leaf.LeafIdentityHash)
			if err != nil {
				return nil, err
			}
			res[i] = &trillian.QueuedLogLeaf{Leaf: old, Status: status.New(codes.AlreadyExists, "leaf already exists").Proto()}
			continue
		}
		value := leaf.LeafValue
		if value == nil {
			value = []byte{}
		}
		if _, err := t.c.exec(`INSERT INTO Queue(Slot, QueueNanos, Hash, MerkleHash, Value, Extra) VALUES(?, ?, ?, ?, ?, ?)`,
			t.slot, at.UnixNano(), leaf.LeafIdentityHash, leaf.MerkleLeafHash, value, leaf.ExtraData); err != nil {
			return nil, err
		}
		leaf.QueueTimestamp = timestamppb.New(at)
		res[i] = &trillian.QueuedLogLeaf{Leaf: leaf, Status: statusOK}
	}
	return res, nil
}

// leafByIdentity finds a leaf in the tree or in its queue.
func (t *logTX) leafByIdentity(hash []byte) (leaf *trillian.LogLeaf, err error) {
	seq, queued := int64(-1), int64(0)
	if err := t.c.query(`SELECT coalesce(Seq, -1), QueueNanos FROM Identity WHERE Slot = ? AND Hash = ?`, func(r []driver.Value) error {
		seq, queued = integer(r[0]), integer(r[1])
		return nil
	}, t.slot, hash); err != nil {
		return nil, err
	}
	if seq >= 0 {
		leaf, err = t.leafAt(seq)
	} else {
		err = t.c.query(`SELECT MerkleHash, Value, Extra FROM Queue WHERE Slot = ? AND QueueNanos = ? AND Hash = ?`, func(r []driver.Value) error {
			leaf = &trillian.LogLeaf{
				LeafIdentityHash: hash,
				MerkleLeafHash:   blob(r[0]),
				LeafValue:        blob(r[1]),
				ExtraData:        blob(r[2]),
				QueueTimestamp:   timestamppb.New(time.Unix(0, queued)),
			}
			return nil
		}, t.slot, queued, hash)
	}
	if err == nil && leaf == nil {
		err = status.Error(codes.DataLoss, "a leaf is indexed by identity but missing: restore the log from a backup")
	}
	return leaf, err
}

// DequeueLeaves implements storage.LogTreeTX. For PREORDERED_LOG trees it is the
// range after the root, whatever its age.
func (t *logTX) DequeueLeaves(_ context.Context, limit int, cutoff time.Time) ([]*trillian.LogLeaf, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.canWrite(); err != nil {
		return nil, err
	}
	if t.treeType == trillian.TreeType_PREORDERED_LOG {
		// No bound in bytes: fewer leaves than limit tells the caller that it has all.
		return t.leavesByRange(int64(t.root.TreeSize), min(int64(limit), maxRange), math.MaxInt)
	}
	if t.dequeued == nil {
		t.dequeued = make(map[string]int64)
	}
	leaves := []*trillian.LogLeaf{}
	// Leaves that this transaction has already handed out still stand in the queue.
	err := t.c.query(`SELECT Hash, MerkleHash, QueueNanos FROM Queue WHERE Slot = ? AND QueueNanos <= ?
		ORDER BY QueueNanos, Hash LIMIT ?`, func(r []driver.Value) error {
		h, queued := blob(r[0]), integer(r[2])
		if _, ok := t.dequeued[string(h)]; ok || len(leaves) == limit {
			return nil
		}
		t.dequeued[string(h)] = queued
		leaves = append(leaves, &trillian.LogLeaf{
			LeafIdentityHash: h,
			MerkleLeafHash:   blob(r[1]),
			QueueTimestamp:   timestamppb.New(time.Unix(0, queued)),
		})
		return nil
	}, t.slot, cutoff.UnixNano(), int64(limit+len(t.dequeued)))
	if err != nil {
		return nil, err
	}
	return leaves, nil
}

// UpdateSequencedLeaves implements storage.LogTreeTX: it moves leaves from the
// queue to their places.
func (t *logTX) UpdateSequencedLeaves(_ context.Context, leaves []*trillian.LogLeaf) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.canWrite(); err != nil {
		return err
	}
	for _, leaf := range leaves {
		if err := checkLeaf(leaf); err != nil {
			return err
		}
		if err := leaf.IntegrateTimestamp.CheckValid(); err != nil {
			return status.Errorf(codes.InvalidArgument, "leaf %d has a bad integrate timestamp: %v", leaf.LeafIndex, err)
		}
		queued, ok := t.dequeued[string(leaf.LeafIdentityHash)]
		if !ok {
			return status.Errorf(codes.FailedPrecondition, "leaf %d was not dequeued in this transaction", leaf.LeafIndex)
		}
		for _, step := range []struct {
			sql  string
			args []any
		}{
			{`INSERT INTO Leaf(Id, Hashes, Value, Extra, QueueNanos, IntegrateNanos)
				SELECT ?, CAST(Hash || MerkleHash AS BLOB), Value, Extra, QueueNanos, ? FROM Queue WHERE Slot = ? AND QueueNanos = ? AND Hash = ?`,
				[]any{key(t.slot, leaf.LeafIndex), leaf.IntegrateTimestamp.AsTime().UnixNano(), t.slot, queued, leaf.LeafIdentityHash}},
			{`DELETE FROM Queue WHERE Slot = ? AND QueueNanos = ? AND Hash = ?`,
				[]any{t.slot, queued, leaf.LeafIdentityHash}},
			{`UPDATE Identity SET Seq = ? WHERE Slot = ? AND Hash = ?`,
				[]any{leaf.LeafIndex, t.slot, leaf.LeafIdentityHash}},
			{`INSERT INTO Merkle(Slot, Hash, Seq) VALUES(?, ?, ?)`,
				[]any{t.slot, leaf.MerkleLeafHash, leaf.LeafIndex}},
		} {
			n, err := t.c.exec(step.sql, step.args...)
			if err != nil {
				return err
			}
			if n != 1 {
				return status.Errorf(codes.Internal, "moving leaf %d out of the queue changed %d rows, want 1", leaf.LeafIndex, n)
			}
		}
	}
	return nil
}

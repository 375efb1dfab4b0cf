package sqlite

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/trillian"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// errStop ends a query early.
var errStop = errors.New("stop")

// One answer of GetLeavesByRange holds at most this much: its contract allows a
// shorter one when the range is too big to handle in one go.
const (
	maxRange      = 4096
	maxRangeBytes = 16 << 20
)

var statusOK = status.New(codes.OK, "OK").Proto()

// leafColumns is the row layout that scanLeaf reads.
const leafColumns = `Id, Hashes, Value, Extra, QueueNanos, IntegrateNanos`

func scanLeaf(r []driver.Value) (*trillian.LogLeaf, error) {
	hashes := blob(r[1])
	if len(hashes) != 2*hashSize {
		return nil, status.Errorf(codes.DataLoss, "leaf %d is damaged: restore the log from a backup or from its tiles", integer(r[0])&(maxLeaves-1))
	}
	return &trillian.LogLeaf{
		LeafIndex:          integer(r[0]) & (maxLeaves - 1),
		LeafIdentityHash:   hashes[:hashSize:hashSize],
		MerkleLeafHash:     hashes[hashSize:],
		LeafValue:          blob(r[2]),
		ExtraData:          blob(r[3]),
		QueueTimestamp:     timestamppb.New(time.Unix(0, integer(r[4]))),
		IntegrateTimestamp: timestamppb.New(time.Unix(0, integer(r[5]))),
	}, nil
}

// leafAt returns the leaf at an index, or nil.
func (t *logTX) leafAt(index int64) (leaf *trillian.LogLeaf, err error) {
	err = t.c.query(`SELECT `+leafColumns+` FROM Leaf WHERE Id = ?`, func(r []driver.Value) (err error) {
		leaf, err = scanLeaf(r)
		return err
	}, key(t.slot, index))
	return leaf, err
}

// checkLeaf refuses what could not be stored at all; the batch fails as a whole.
func checkLeaf(leaf *trillian.LogLeaf) error {
	switch {
	case len(leaf.LeafIdentityHash) != hashSize || len(leaf.MerkleLeafHash) != hashSize:
		return status.Errorf(codes.InvalidArgument, "leaf %d has hashes of %d and %d bytes, want %d",
			leaf.LeafIndex, len(leaf.LeafIdentityHash), len(leaf.MerkleLeafHash), hashSize)
	case leaf.LeafIndex < 0 || leaf.LeafIndex >= maxLeaves:
		return status.Errorf(codes.OutOfRange, "leaf index %d, want at least 0 and below %d", leaf.LeafIndex, maxLeaves)
	}
	return nil
}

func identical(a, b *trillian.LogLeaf) bool {
	return bytes.Equal(a.LeafValue, b.LeafValue) && bytes.Equal(a.ExtraData, b.ExtraData) &&
		bytes.Equal(a.MerkleLeafHash, b.MerkleLeafHash) && bytes.Equal(a.LeafIdentityHash, b.LeafIdentityHash)
}

func (t *logTX) addSequencedLeaves(leaves []*trillian.LogLeaf, at time.Time) ([]*trillian.QueuedLogLeaf, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.canWrite(); err != nil {
		return nil, err
	}
	if len(leaves) == 0 {
		return nil, nil
	}
	lo, hi := leaves[0].LeafIndex, leaves[0].LeafIndex
	for _, leaf := range leaves {
		if err := checkLeaf(leaf); err != nil {
			return nil, err
		}
		lo, hi = min(lo, leaf.LeafIndex), max(hi, leaf.LeafIndex)
	}
	// The rule is a batch after the last leaf: one look tells that nothing can be
	// in its way, and only otherwise each index is looked at.
	taken := false
	if err := t.c.query(`SELECT 1 FROM Leaf WHERE Id BETWEEN ? AND ? LIMIT 1`, func([]driver.Value) error {
		taken = true
		return nil
	}, key(t.slot, lo), key(t.slot, hi)); err != nil {
		return nil, err
	}
	used, err := t.usedIdentities(leaves)
	if err != nil {
		return nil, err
	}

	res := make([]*trillian.QueuedLogLeaf, len(leaves))
	results := make([]trillian.QueuedLogLeaf, len(leaves))
	fresh := make([]*trillian.LogLeaf, 0, len(leaves))
	inBatch := make(map[int64]*trillian.LogLeaf, len(leaves))
	for i, leaf := range leaves {
		r := &results[i]
		res[i] = r
		there := inBatch[leaf.LeafIndex]
		if there == nil && taken {
			if there, err = t.leafAt(leaf.LeafIndex); err != nil {
				return nil, err
			}
		}
		switch holder, dup := used[string(leaf.LeafIdentityHash)]; {
		case there != nil && identical(there, leaf):
			r.Leaf = there
			r.Status = status.Newf(codes.AlreadyExists, "leaf %d is already there", leaf.LeafIndex).Proto()
		case there != nil:
			r.Leaf = there
			r.Status = status.Newf(codes.FailedPrecondition, "conflicting LeafIndex: another leaf is at %d", leaf.LeafIndex).Proto()
		case dup:
			r.Status = status.Newf(codes.FailedPrecondition, "conflicting LeafIdentityHash: leaf %d has it", holder).Proto()
		default:
			r.Status = statusOK
			used[string(leaf.LeafIdentityHash)] = leaf.LeafIndex
			inBatch[leaf.LeafIndex] = leaf
			fresh = append(fresh, leaf)
		}
	}
	return res, t.insertLeaves(fresh, at)
}

// usedIdentities returns the identity hashes that the leaves may not have: all
// of the tree's among theirs, or without an index those waiting for integration,
// normally none.
func (t *logTX) usedIdentities(leaves []*trillian.LogLeaf) (map[string]int64, error) {
	used := make(map[string]int64, len(leaves))
	if !t.indexed {
		err := t.c.query(`SELECT Id, Hashes FROM Leaf WHERE Id BETWEEN ? AND ?`, func(r []driver.Value) error {
			if h := blob(r[1]); len(h) == 2*hashSize {
				used[string(h[:hashSize])] = integer(r[0]) & (maxLeaves - 1)
			}
			return nil
		}, key(t.slot, int64(t.root.TreeSize)), key(t.slot, maxLeaves-1))
		return used, err
	}
	for _, leaf := range leaves {
		err := t.c.query(`SELECT coalesce(Seq, -1) FROM Identity WHERE Slot = ? AND Hash = ?`, func(r []driver.Value) error {
			used[string(leaf.LeafIdentityHash)] = integer(r[0])
			return nil
		}, t.slot, leaf.LeafIdentityHash)
		if err != nil {
			return nil, err
		}
	}
	return used, nil
}

// Rows go in with few, large statements; each number of rows is a statement that
// stays prepared, so there are only these.
var insertSteps = []int{128, 32, 8, 1}

var insertLeaf = func() map[int]string {
	m := make(map[int]string)
	for _, n := range insertSteps {
		m[n] = `INSERT INTO Leaf(Id, Hashes, Value, Extra, QueueNanos) VALUES` +
			strings.TrimSuffix(strings.Repeat(`(?,?,?,?,?),`, n), `,`)
	}
	return m
}()

func (t *logTX) insertLeaves(leaves []*trillian.LogLeaf, at time.Time) error {
	var queued driver.Value = at.UnixNano()
	hashes := make([]byte, 0, len(leaves)*2*hashSize)
	rest := leaves
	for _, step := range insertSteps {
		for len(rest) >= step {
			args := t.c.args[:0]
			for _, leaf := range rest[:step] {
				from := len(hashes)
				hashes = append(append(hashes, leaf.LeafIdentityHash...), leaf.MerkleLeafHash...)
				var extra driver.Value
				if len(leaf.ExtraData) > 0 {
					extra = leaf.ExtraData
				}
				value := leaf.LeafValue
				if value == nil {
					value = []byte{} // NULL otherwise
				}
				for _, v := range [...]driver.Value{key(t.slot, leaf.LeafIndex), hashes[from:], value, extra, queued} {
					args = append(args, driver.NamedValue{Ordinal: len(args) + 1, Value: v})
				}
			}
			t.c.args = args
			if _, err := t.c.execNamed(insertLeaf[step], args); err != nil {
				return err
			}
			rest = rest[step:]
		}
	}
	if !t.indexed {
		return nil
	}
	for _, leaf := range leaves {
		if _, err := t.c.exec(`INSERT INTO Identity(Slot, Hash, Seq, QueueNanos) VALUES(?, ?, ?, ?)`,
			t.slot, leaf.LeafIdentityHash, leaf.LeafIndex, queued); err != nil {
			return err
		}
		if _, err := t.c.exec(`INSERT INTO Merkle(Slot, Hash, Seq) VALUES(?, ?, ?)`,
			t.slot, leaf.MerkleLeafHash, leaf.LeafIndex); err != nil {
			return err
		}
	}
	return nil
}

// GetLeavesByRange implements storage.ReadOnlyLogTreeTX. A gap below the root is
// an error, one above it ends the answer.
func (t *logTX) GetLeavesByRange(_ context.Context, start, count int64) ([]*trillian.LogLeaf, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return nil, err
	}
	return t.leavesByRange(start, count, maxRangeBytes)
}

func (t *logTX) leavesByRange(start, count int64, maxBytes int) ([]*trillian.LogLeaf, error) {
	switch size := int64(t.root.TreeSize); {
	case count <= 0:
		return nil, status.Errorf(codes.InvalidArgument, "invalid count %d, want > 0", count)
	case start < 0:
		return nil, status.Errorf(codes.InvalidArgument, "invalid start %d, want >= 0", start)
	case t.treeType == trillian.TreeType_LOG && start >= size:
		return nil, status.Errorf(codes.OutOfRange, "invalid start %d, want < TreeSize %d", start, size)
	case t.treeType == trillian.TreeType_LOG:
		count = min(count, size-start)
	case start >= maxLeaves:
		return nil, nil
	}
	count = min(count, maxRange, maxLeaves-start)

	leaves := make([]*trillian.LogLeaf, 0, min(count, 1024))
	total, next := 0, start
	err := t.c.query(`SELECT `+leafColumns+` FROM Leaf WHERE Id BETWEEN ? AND ?`, func(r []driver.Value) error {
		if integer(r[0])&(maxLeaves-1) != next || total > maxBytes {
			return errStop
		}
		leaf, err := scanLeaf(r)
		if err != nil {
			return err
		}
		leaves = append(leaves, leaf)
		total += len(leaf.LeafValue) + len(leaf.ExtraData)
		next++
		return nil
	}, key(t.slot, start), key(t.slot, start+count-1))
	if err != nil && err != errStop {
		return nil, err
	}
	if next < start+count && next < int64(t.root.TreeSize) && total <= maxBytes {
		return nil, status.Errorf(codes.DataLoss, "leaf %d is missing in a tree of size %d: restore the log from a backup or from its tiles", next, t.root.TreeSize)
	}
	return leaves, nil
}

// GetLeavesByHash implements storage.ReadOnlyLogTreeTX.
func (t *logTX) GetLeavesByHash(_ context.Context, hashes [][]byte, orderBySequence bool) ([]*trillian.LogLeaf, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return nil, err
	}
	if !t.indexed {
		return nil, status.Error(codes.Unimplemented, "this tree has no index by hash: ask by leaf index")
	}
	var indexes []int64
	for _, h := range hashes {
		if err := t.c.query(`SELECT Seq FROM Merkle WHERE Slot = ? AND Hash = ?`, func(r []driver.Value) error {
			indexes = append(indexes, integer(r[0]))
			return nil
		}, t.slot, h); err != nil {
			return nil, err
		}
	}
	if orderBySequence {
		slices.Sort(indexes)
	}
	leaves := make([]*trillian.LogLeaf, 0, len(indexes))
	for _, i := range indexes {
		leaf, err := t.leafAt(i)
		if err != nil {
			return nil, err
		}
		if leaf == nil {
			return nil, status.Errorf(codes.DataLoss, "leaf %d is indexed but missing: restore the log from a backup or from its tiles", i)
		}
		leaves = append(leaves, leaf)
	}
	return leaves, nil
}

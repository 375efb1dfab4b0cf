package sqlite

import (
	"cmp"
	"database/sql/driver"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/google/trillian/storage/tree"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A tree is stored in tiles of 8 levels. A log fills them from the left, so a tile
// is the number of its leaves (u32), the CRC-32C of their hashes (u32) and the
// hashes. Rows have the size of a full tile from the start: SQLite then overwrites
// the changed pages in place instead of freeing and allocating. Inner nodes are
// computed, not stored. Trillian's storage/cache does the same with maps of
// base64, and hashes every tile anew in every transaction.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	hashSize   = 32
	tileHeader = 8
	tileSize   = tileHeader + tileWidth*hashSize

	levelShift = slotShift - 4 // bits of a tile's index within its level
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// tileOf says where a node is: the row id of its tile, and which node it is there
// of those at its height above the tile's leaves.
func tileOf(slot int64, id compact.NodeID) (k int64, height, index int, err error) {
	height = int(id.Level % tileHeight)
	tile := id.Index >> (tileHeight - height)
	if id.Level >= 64 || tile >= 1<<levelShift {
		return 0, 0, 0, status.Error(codes.OutOfRange, "the tree has no more room")
	}
	return key(slot, int64(id.Level/tileHeight)<<levelShift|int64(tile)), height, int(id.Index & (1<<(tileHeight-height) - 1)), nil // #nosec G115 -- below 1<<levelShift
}

// tile is a row in memory.
type tile struct {
	n     int // leaves
	row   []byte
	dirty bool
	inner [][]byte // inner nodes that were computed, by their place in a heap
}

func newTile() *tile { return &tile{row: make([]byte, tileSize)} }

// openTile takes a row over.
func openTile(k int64, row []byte) (*tile, error) {
	n := 0
	if len(row) == tileSize {
		n = int(binary.BigEndian.Uint32(row))
	}
	if n < 1 || n > tileWidth || checksum(row, n) != binary.BigEndian.Uint32(row[4:]) {
		return nil, status.Errorf(codes.DataLoss, "tile %#x is damaged (%d bytes, %d hashes): restore the log from a backup or from its tiles", k, len(row), n)
	}
	return &tile{n: n, row: row}, nil
}

func checksum(row []byte, n int) uint32 {
	return crc32.Checksum(row[tileHeader:tileHeader+n*hashSize], castagnoli)
}

// seal returns the row as it is stored.
func (t *tile) seal() []byte {
	binary.BigEndian.PutUint32(t.row, uint32(t.n)) // #nosec G115 -- at most tileWidth
	binary.BigEndian.PutUint32(t.row[4:], checksum(t.row, t.n))
	return t.row
}

func (t *tile) leaf(i int) []byte {
	at := tileHeader + i*hashSize
	return t.row[at : at+hashSize : at+hashSize]
}

// set makes hash the i-th leaf.
func (t *tile) set(i int, hash []byte) error {
	switch {
	case len(hash) != hashSize:
		return status.Errorf(codes.InvalidArgument, "a node of %d bytes, want %d", len(hash), hashSize)
	case i > t.n:
		return status.Errorf(codes.InvalidArgument, "a tile of %d nodes has no place for one at %d: a log has no gaps", t.n, i)
	case i == t.n:
		t.n++
	case string(t.leaf(i)) == string(hash):
		return nil
	default:
		t.inner = nil
	}
	copy(t.leaf(i), hash)
	t.dirty = true
	return nil
}

// node returns the root of the i-th perfect subtree of a height, nil if the tile hasn't all of its leaves.
func (t *tile) node(height, i int) []byte {
	switch {
	case (i+1)<<height > t.n:
		return nil
	case height == 0:
		return t.leaf(i)
	}
	if t.inner == nil {
		t.inner = make([][]byte, tileWidth)
	}
	h := &t.inner[1<<(tileHeight-height)|i]
	if *h == nil {
		*h = rfc6962.DefaultHasher.HashChildren(t.node(height-1, 2*i), t.node(height-1, 2*i+1))
	}
	return *h
}

// tile returns a tile for this transaction, nil if there is none.
func (t *logTX) tile(k int64) (*tile, error) {
	if l, ok := t.tiles[k]; ok {
		return l, nil
	}
	var l *tile
	err := t.c.query(`SELECT Hashes FROM Tile WHERE Id = ?`, func(r []driver.Value) (err error) {
		l, err = openTile(k, blob(r[0]))
		return err
	}, k)
	if err != nil || l == nil {
		return nil, err
	}
	t.tiles[k] = l
	return l, nil
}

// nodes returns those of the nodes that exist. A whole tile that is missing is an error.
func (t *logTX) nodes(ids []compact.NodeID) ([]tree.Node, error) {
	out := make([]tree.Node, 0, len(ids))
	for _, id := range ids {
		k, height, i, err := tileOf(t.slot, id)
		if err != nil {
			return nil, err
		}
		l, err := t.tile(k)
		if err != nil {
			return nil, err
		}
		if l == nil {
			return nil, status.Errorf(codes.NotFound, "node %d of level %d: the tree has no such tile", id.Index, id.Level)
		}
		if h := l.node(height, i); h != nil {
			out = append(out, tree.Node{ID: id, Hash: slices.Clone(h)})
		}
	}
	return out, nil
}

// setNodes puts the leaves of tiles among the nodes into their tiles; the others follow from them.
func (t *logTX) setNodes(nodes []tree.Node) error {
	leaves := make([]tree.Node, 0, len(nodes))
	for _, n := range nodes {
		if n.ID.Level%tileHeight == 0 {
			leaves = append(leaves, n)
		}
	}
	slices.SortFunc(leaves, func(a, b tree.Node) int {
		return cmp.Or(cmp.Compare(a.ID.Level, b.ID.Level), cmp.Compare(a.ID.Index, b.ID.Index))
	})
	for _, n := range leaves {
		k, _, i, err := tileOf(t.slot, n.ID)
		if err != nil {
			return err
		}
		l, err := t.tile(k)
		if err != nil {
			return err
		}
		if l == nil {
			l = newTile()
			t.tiles[k] = l
		}
		if err := l.set(i, n.Hash); err != nil {
			return err
		}
	}
	return nil
}

// putTiles writes the tiles that changed, in the order of their keys: the same leaves give the same file.
func (t *logTX) putTiles() error {
	var changed []int64
	for k, l := range t.tiles {
		if l.dirty {
			changed = append(changed, k)
		}
	}
	slices.Sort(changed)
	for _, k := range changed {
		l := t.tiles[k]
		if _, err := t.c.exec(`INSERT INTO Tile(Id, Hashes) VALUES(?, ?)
			ON CONFLICT(Id) DO UPDATE SET Hashes = excluded.Hashes`, k, l.seal()); err != nil {
			return err
		}
		l.dirty = false
	}
	return nil
}

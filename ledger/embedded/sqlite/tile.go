package sqlite

import (
	"bytes"
	"cmp"
	"database/sql/driver"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/google/trillian/storage/storagepb"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Trillian's subtrees are 8 levels high. A log fills them from the left, so a
// tile is the number of its leaves (u32), the CRC-32C of their hashes (u32) and the
// hashes. Rows have the size of a full tile from the start: SQLite then overwrites
// the changed pages in place instead of freeing and allocating. Inner nodes are
// computed, not stored.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	hashSize   = 32
	tileHeader = 8
	tileSize   = tileHeader + tileWidth*hashSize

	levelShift = slotShift - 4 // bits of a tile's index within its level
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// suffixes[b][i] is the name that storage/cache gives to the i-th node at depth b
// below a tile's root: base64 of one byte depth and one byte path.
var suffixes = func() (s [tileHeight + 1][]string) {
	for bits := 1; bits <= tileHeight; bits++ {
		s[bits] = make([]string, 1<<bits)
		for i := range s[bits] {
			s[bits][i] = base64.StdEncoding.EncodeToString([]byte{byte(bits), byte(i << (tileHeight - bits))})
		}
	}
	return s
}()

// tileKey turns a subtree's prefix (its path from the root, a byte each 8 levels)
// into a row id: level above the leaves, then index.
func tileKey(slot int64, prefix []byte) (int64, error) {
	if len(prefix) > 7 {
		return 0, status.Errorf(codes.Internal, "subtree prefix has %d bytes, a log has at most 7", len(prefix))
	}
	var b [8]byte
	copy(b[8-len(prefix):], prefix)
	index := binary.BigEndian.Uint64(b[:])
	if index >= 1<<levelShift {
		return 0, status.Error(codes.OutOfRange, "the tree has no more room")
	}
	return key(slot, int64(7-len(prefix))<<levelShift|int64(index)), nil
}

func (c *conn) getTiles(slot int64, prefixes [][]byte) ([]*storagepb.SubtreeProto, error) {
	out := make([]*storagepb.SubtreeProto, 0, len(prefixes))
	for _, p := range prefixes {
		k, err := tileKey(slot, p)
		if err != nil {
			return nil, err
		}
		err = c.query(`SELECT Hashes FROM Tile WHERE Id = ?`, func(r []driver.Value) error {
			t, err := decodeTile(p, blob(r[0]))
			if err == nil {
				out = append(out, t)
			}
			return err
		}, k)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *conn) putTiles(slot int64, tiles []*storagepb.SubtreeProto) error {
	// In the order of their keys, so that the same leaves give the same file.
	slices.SortFunc(tiles, func(a, b *storagepb.SubtreeProto) int {
		return cmp.Or(cmp.Compare(len(b.Prefix), len(a.Prefix)), bytes.Compare(a.Prefix, b.Prefix))
	})
	for _, t := range tiles {
		k, err := tileKey(slot, t.Prefix)
		if err != nil {
			return err
		}
		if c.tiles, err = encodeTile(c.tiles[:0], t); err != nil {
			return err
		}
		if _, err := c.exec(`INSERT INTO Tile(Id, Hashes) VALUES(?, ?)
			ON CONFLICT(Id) DO UPDATE SET Hashes = excluded.Hashes`, k, c.tiles); err != nil {
			return err
		}
	}
	return nil
}

// decodeTile gives storage/cache what it expects: the leaves, and for a tile
// that isn't full its complete inner nodes too (a full one it computes itself).
func decodeTile(prefix, b []byte) (*storagepb.SubtreeProto, error) {
	n := 0
	if len(b) == tileSize {
		n = int(binary.BigEndian.Uint32(b))
	}
	if n < 1 || n > tileWidth ||
		crc32.Checksum(b[tileHeader:tileHeader+n*hashSize], castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return nil, status.Errorf(codes.DataLoss, "tile %x is damaged (%d bytes, %d hashes): restore the log from a backup or from its tiles", prefix, len(b), n)
	}
	t := &storagepb.SubtreeProto{
		Prefix: prefix,
		Depth:  tileHeight,
		Leaves: make(map[string][]byte, n),
	}
	level := make([][]byte, n)
	for i := range level {
		at := tileHeader + i*hashSize
		level[i] = b[at : at+hashSize : at+hashSize]
		t.Leaves[suffixes[tileHeight][i]] = level[i]
	}
	if n == tileWidth {
		t.InternalNodeCount = tileWidth - 2 // all but the root, which the tile above holds
		return t, nil
	}
	t.InternalNodes = make(map[string][]byte, n)
	for bits := tileHeight - 1; bits > 0; bits-- {
		level = level[:len(level)&^1]
		for i := 0; i < len(level); i += 2 {
			h := rfc6962.DefaultHasher.HashChildren(level[i], level[i+1])
			t.InternalNodes[suffixes[bits][i/2]] = h
			level[i/2] = h
		}
		level = level[:len(level)/2]
	}
	t.InternalNodeCount = uint32(len(t.InternalNodes))
	return t, nil
}

func encodeTile(b []byte, t *storagepb.SubtreeProto) ([]byte, error) {
	n := len(t.Leaves)
	if t.Depth != tileHeight || n < 1 || n > tileWidth {
		return b, fmt.Errorf("tile %x has depth %d and %d leaves", t.Prefix, t.Depth, n)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, 0, 0, 0, 0)
	for i := range n {
		h := t.Leaves[suffixes[tileHeight][i]]
		if len(h) != hashSize {
			return b, fmt.Errorf("tile %x has no hash at %d of %d: a log has no gaps", t.Prefix, i, n)
		}
		b = append(b, h...)
	}
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[tileHeader:], castagnoli))
	return append(b, make([]byte, tileSize-len(b))...), nil
}

package tiles

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
)

// Edge is the right end of a growing tree: of each level the hashes of its last tile, as long as that isn't full. All other tiles follow from what was appended, and
// the root follows from the edge. The zero Edge is the empty tree. It marshals to JSON, so that whoever reads a tree can go on later where they were.
type Edge struct {
	size   uint64
	levels [][]byte
}

// Size returns the number of leaves appended.
func (e *Edge) Size() uint64 { return e.size }

// Append adds a leaf hash. Each tile that it fills is handed to full (unless that is nil), from the lowest level upwards; the slice is the callee's.
func (e *Edge) Append(leaf proof.Hash, full func(level, index uint64, tile []byte)) {
	e.push(0, leaf[:], full)
	e.size++
}

// Skip adds a whole tile of leaves of which only the root is known. It panics if the edge isn't at the beginning of a tile.
func (e *Edge) Skip(root proof.Hash, full func(level, index uint64, tile []byte)) {
	if e.size%width != 0 {
		panic("tiles: Skip within a tile")
	}
	if len(e.levels) == 0 {
		e.levels = append(e.levels, nil)
	}
	e.size += width - 1 // as if its last leaf was the one being appended
	e.push(1, root[:], full)
	e.size++
}

// push adds a node to a level; size is still that before the leaf.
func (e *Edge) push(l int, h []byte, full func(level, index uint64, tile []byte)) {
	if l == len(e.levels) {
		e.levels = append(e.levels, nil)
	}
	e.levels[l] = append(e.levels[l], h...)
	if len(e.levels[l]) < 32*width {
		return
	}
	tile := e.levels[l]
	if full != nil {
		full(uint64(l), e.size>>(height*(l+1)), tile) // its last leaf is in it
	}
	e.levels[l] = nil
	up := TileRoot(tile)
	e.push(l+1, up[:], full)
}

// Partials hands over the tiles that aren't full, from the lowest level upwards. Their bytes must not be changed.
func (e *Edge) Partials(partial func(level, index uint64, tile []byte)) {
	for l, tile := range e.levels {
		if len(tile) > 0 {
			partial(uint64(l), e.size>>(height*l)/width, tile)
		}
	}
}

// Root returns the root of the tree, also of the empty one (RFC 6962, section 2.1).
func (e *Edge) Root() proof.Hash {
	var cover []proof.Hash // roots of perfect subtrees, right to left
	for _, tile := range e.levels {
		var here []proof.Hash
		for n := len(tile) / 32; n > 0; {
			k := 1
			for 2*k <= n {
				k *= 2
			}
			here = append(here, TileRoot(tile[:32*k]))
			tile, n = tile[32*k:], n-k
		}
		for i := len(here) - 1; i >= 0; i-- {
			cover = append(cover, here[i])
		}
	}
	if len(cover) == 0 {
		return sha256.Sum256(nil)
	}
	h := cover[0]
	for _, left := range cover[1:] {
		h = proof.Hash(tlog.NodeHash(tlog.Hash(left), tlog.Hash(h)))
	}
	return h
}

type edgeJSON struct {
	Size   uint64   `json:"size"`
	Levels [][]byte `json:"levels"`
}

// MarshalJSON implements json.Marshaler.
func (e *Edge) MarshalJSON() ([]byte, error) { return json.Marshal(edgeJSON{e.size, e.levels}) }

// UnmarshalJSON implements json.Unmarshaler. It refuses an edge whose levels don't have the lengths that follow from the size.
func (e *Edge) UnmarshalJSON(b []byte) error {
	var in edgeJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	if in.Size > 1<<62 {
		return errors.New("tiles: an edge of an impossible size")
	}
	n := 0
	for ; in.Size>>(height*n) > 0; n++ {
		if n >= len(in.Levels) || uint64(len(in.Levels[n])) != 32*(in.Size>>(height*n)%width) {
			return fmt.Errorf("tiles: level %d of an edge of size %d has a wrong length", n, in.Size)
		}
	}
	if n != len(in.Levels) {
		return errors.New("tiles: an edge has more levels than its size")
	}
	e.size, e.levels = in.Size, in.Levels
	return nil
}

// TileRoot returns the root over the hashes of a tile, whose number is a power of two.
func TileRoot(tile []byte) proof.Hash {
	n := len(tile) / 32
	var buf [width]tlog.Hash
	row := buf[:n]
	for i := range row {
		row[i] = tlog.Hash(tile[32*i : 32*i+32])
	}
	for ; n > 1; n /= 2 {
		for i := range n / 2 {
			row[i] = tlog.NodeHash(row[2*i], row[2*i+1])
		}
	}
	return proof.Hash(row[0])
}

// Clone returns a copy that grows on its own.
func (e *Edge) Clone() *Edge {
	c := &Edge{size: e.size, levels: make([][]byte, len(e.levels))}
	for l := range e.levels {
		c.levels[l] = append([]byte(nil), e.levels[l]...)
	}
	return c
}

package tiles

import (
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
)

// Multiproof returns the hashes by which proof.ProofSpans shows leaves and earlier roots, and the hashes of the leaves themselves. Both lists are strictly increasing. Each tile on the
// way is read and checked once, from left to right, and no more than one of each level is held.
func (t Tree) Multiproof(leaves, prefixes []uint64) (nodes, hashes []proof.Hash, err error) {
	if n := len(leaves); n > 0 && leaves[n-1] >= t.Size {
		return nil, nil, fmt.Errorf("tiles: entry %d is not in the tree of size %d", leaves[n-1], t.Size)
	}
	c, err := t.check()
	if err != nil {
		return nil, nil, err
	}
	done := 0
	upTo := func(limit uint64) error {
		for ; done < len(leaves) && leaves[done] < limit; done++ {
			h, err := c.node(0, leaves[done])
			if err != nil {
				return err
			}
			hashes = append(hashes, h)
		}
		return nil
	}
	for _, s := range proof.ProofSpans(t.Size, leaves, prefixes) {
		if err := upTo(s.From); err != nil {
			return nil, nil, err
		}
		h, err := c.span(s)
		if err != nil {
			return nil, nil, err
		}
		nodes = append(nodes, h)
	}
	return nodes, hashes, upTo(t.Size)
}

// checked reads tiles of a tree and checks each against the one above it, the topmost against the root.
type checked struct {
	t     Tree
	edge  [][]byte // by level: the hashes at the right end that are in no full tile
	tiles []fullTile
}

type fullTile struct {
	n    uint64
	data []byte // nil: none was read
}

func (t Tree) check() (*checked, error) {
	if t.Size == 0 {
		return nil, fmt.Errorf("tiles: an empty tree has no proofs")
	}
	c := &checked{t: t}
	for l := uint64(0); t.Size>>(height*l) > 0; l++ {
		var edge []byte
		if n := t.Size >> (height * l); n%width > 0 {
			var err error
			if edge, err = readTile(t.Dir, l, n/width, int(n%width)); err != nil { // #nosec G115 -- below 256
				return nil, err
			}
		}
		c.edge = append(c.edge, edge)
	}
	c.tiles = make([]fullTile, len(c.edge))
	if (&Edge{size: t.Size, levels: c.edge}).Root() != t.Root {
		return nil, fmt.Errorf("%w: the right end of the tree of size %d has another root", ErrCorrupt, t.Size)
	}
	return c, nil
}

// hashes returns the part of a level of tiles in which the nth hash is, and its place there.
func (c *checked) hashes(l int, n uint64) ([]byte, int, error) {
	tile, at := n/width, int(n%width) // #nosec G115 -- below 256
	if tile == c.t.Size>>(height*l)/width {
		return c.edge[l], at, nil
	}
	full := &c.tiles[l]
	if full.data != nil && full.n == tile {
		return full.data, at, nil
	}
	data, err := readTile(c.t.Dir, uint64(l), tile, width) // #nosec G115 -- a level
	if err != nil {
		return nil, 0, err
	}
	above, i, err := c.hashes(l+1, tile)
	if err != nil {
		return nil, 0, err
	}
	if TileRoot(data) != proof.Hash(above[32*i:32*i+32]) {
		return nil, 0, fmt.Errorf("%w: tile %d of level %d is not what the root says", ErrCorrupt, tile, l)
	}
	*full = fullTile{tile, data}
	return data, at, nil
}

// node returns the root of the nth perfect subtree of 2^level leaves.
func (c *checked) node(level int, n uint64) (proof.Hash, error) {
	l, r := level/height, level%height
	tile, at, err := c.hashes(l, n<<r)
	if err != nil {
		return proof.Hash{}, err
	}
	if r == 0 {
		return proof.Hash(tile[32*at : 32*at+32]), nil
	}
	return TileRoot(tile[32*at : 32*at+32<<r]), nil
}

// span returns the root of a subtree.
func (c *checked) span(s proof.Span) (proof.Hash, error) {
	var parts []proof.Hash
	for s.From < s.To {
		level := bits.Len64(s.To-s.From) - 1
		h, err := c.node(level, s.From>>level)
		if err != nil {
			return proof.Hash{}, err
		}
		parts = append(parts, h)
		s.From += 1 << level
	}
	h := parts[len(parts)-1]
	for i := len(parts) - 2; i >= 0; i-- {
		h = proof.Hash(tlog.NodeHash(tlog.Hash(parts[i]), tlog.Hash(h)))
	}
	return h, nil
}

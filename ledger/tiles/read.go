package tiles

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
)

// Tree reads a tree of known size and root. It is safe for concurrent use.
type Tree struct {
	Dir  string
	Size uint64
	Root proof.Hash
}

// Inclusion returns the inclusion path of an entry, from its sibling upwards. Every tile it uses is checked against the root.
func (t Tree) Inclusion(index uint64) ([]proof.Hash, error) {
	if index >= t.Size {
		return nil, fmt.Errorf("tiles: entry %d is not in the tree of size %d", index, t.Size)
	}
	r := tlog.TileHashReader(tlog.Tree{N: int64(t.Size), Hash: tlog.Hash(t.Root)}, tileReader{t.Dir})
	p, err := tlog.ProveRecord(int64(t.Size), int64(index), r)
	if err != nil {
		return nil, fmt.Errorf("%w: proving entry %d of %d: %v", ErrCorrupt, index, t.Size, err)
	}
	return hashes(p), nil
}

// Consistency returns the proof that the tree extends its first size entries (RFC 6962, section 2.1.2); it is empty for 0 and for the whole tree. Every tile it uses is checked against the root.
func (t Tree) Consistency(size uint64) ([]proof.Hash, error) {
	if size > t.Size {
		return nil, fmt.Errorf("tiles: %d entries are more than the tree of size %d has", size, t.Size)
	}
	if size == 0 || size == t.Size {
		return nil, nil
	}
	r := tlog.TileHashReader(tlog.Tree{N: int64(t.Size), Hash: tlog.Hash(t.Root)}, tileReader{t.Dir})
	p, err := tlog.ProveTree(int64(t.Size), int64(size), r)
	if err != nil {
		return nil, fmt.Errorf("%w: proving that %d entries extend %d: %v", ErrCorrupt, t.Size, size, err)
	}
	return hashes(p), nil
}

func hashes(p []tlog.Hash) []proof.Hash {
	out := make([]proof.Hash, len(p))
	for i := range p {
		out[i] = proof.Hash(p[i])
	}
	return out
}

// Entry returns an entry from its bundle. It isn't checked against the root: use it with Inclusion.
func (t Tree) Entry(index uint64) ([]byte, error) {
	if index >= t.Size {
		return nil, fmt.Errorf("tiles: entry %d is not in the tree of size %d", index, t.Size)
	}
	p := min(t.Size-index/width*width, width)
	_, entries, err := readBundle(t.Dir, index/width, int(p))
	if err != nil {
		return nil, err
	}
	return entries[index%width], nil
}

// tileReader implements tlog.TileReader on a directory with the paths of tlog-tiles.
type tileReader struct{ dir string }

func (tileReader) Height() int                     { return height }
func (tileReader) SaveTiles([]tlog.Tile, [][]byte) {}
func (r tileReader) ReadTiles(ts []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(ts))
	for i, t := range ts {
		var err error
		if out[i], err = readTile(r.dir, uint64(t.L), uint64(t.N), t.W); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// readTile reads the first n hashes of a tile, from the partial tile or from the full one that took its place.
func readTile(dir string, l, index uint64, n int) ([]byte, error) {
	data, err := read(dir, layout.TilePath(l, index, uint8(n%width)), layout.TilePath(l, index, 0))
	if err != nil {
		return nil, err
	}
	if len(data) < 32*n || len(data)%32 != 0 {
		return nil, fmt.Errorf("%w: tile %d of level %d is too short", ErrCorrupt, index, l)
	}
	return data[:32*n], nil
}

// readBundle reads the first n entries of a bundle, and their bytes in it.
func readBundle(dir string, index uint64, n int) ([]byte, [][]byte, error) {
	data, err := read(dir, layout.EntriesPath(index, uint8(n%width)), layout.EntriesPath(index, 0))
	if err != nil {
		return nil, nil, err
	}
	out, rest, err := SplitBundle(nil, data, n)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: bundle %d is too short", ErrCorrupt, index)
	}
	return data[:len(data)-len(rest)], out, nil
}

// SplitBundle appends the first n entries of a bundle to out, as slices of data, and returns what is left of the bytes: nothing, if the bundle has n entries.
func SplitBundle(out [][]byte, data []byte, n int) (entries [][]byte, rest []byte, err error) {
	for range n {
		if len(data) < 2 {
			return out, data, errors.New("tiles: a bundle ends too early")
		}
		size := int(binary.BigEndian.Uint16(data))
		if data = data[2:]; len(data) < size {
			return out, data, errors.New("tiles: a bundle ends within an entry")
		}
		out = append(out, data[:size:size])
		data = data[size:]
	}
	return out, data, nil
}

func read(dir, name, full string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if errors.Is(err, fs.ErrNotExist) && full != name {
		data, err = os.ReadFile(filepath.Join(dir, filepath.FromSlash(full)))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no %s", ErrCorrupt, name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a tile: %w", err)
	}
	return data, nil
}

package reader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

const (
	width  = layout.TileWidth
	height = 8
)

// Tree reads a tree of known size and root. All that it returns was checked against the root. It is safe for concurrent use.
type Tree struct {
	src    Source
	first  Source // asked before src; may be nil
	prefix string
	size   uint64
	root   proof.Hash
	edge   [][]byte // tiles at the right end, level by level; nil where the last one is full

	mu    sync.Mutex
	cache map[place][]byte // full tiles above the lowest level, which many paths share
}

type place struct{ level, index uint64 }

// maxCached bounds the tiles that a tree keeps: 8 KiB each.
const maxCached = 128

// OpenTree opens the tree of a log ("" as the prefix) or of an index ("index/7/"). It reads the right end and checks it against the root.
func OpenTree(ctx context.Context, s Source, prefix string, size uint64, root proof.Hash) (*Tree, error) {
	t := &Tree{src: s, prefix: prefix, size: size, root: root, cache: map[place][]byte{}}
	if size > 1<<62 {
		return nil, fmt.Errorf("%s: a tree of %d entries can't be", s, size)
	}
	var cover []proof.Hash // roots of perfect subtrees, from the right
	for l := uint64(0); size>>(height*l) > 0; l++ {
		n := size >> (height * l)
		var tile []byte
		if w := n % width; w > 0 {
			var err error
			if tile, err = t.fetch(ctx, t.src, l, n/width, int(w)); err != nil {
				return nil, err
			}
			var here []proof.Hash
			for rest := tile; len(rest) > 0; {
				k := 32
				for 2*k <= len(rest) {
					k *= 2
				}
				here = append(here, tiles.TileRoot(rest[:k]))
				rest = rest[k:]
			}
			for i := len(here) - 1; i >= 0; i-- {
				cover = append(cover, here[i])
			}
		}
		t.edge = append(t.edge, tile)
	}
	if size > 0 {
		h := cover[0]
		for _, left := range cover[1:] {
			h = proof.Hash(tlog.NodeHash(tlog.Hash(left), tlog.Hash(h)))
		}
		if h != root {
			return nil, fmt.Errorf("%s: the right end of the tree %sof size %d %w", s, prefix, size, ErrDamaged)
		}
	}
	return t, nil
}

// Size returns the number of entries.
func (t *Tree) Size() uint64 { return t.size }

// Root returns the root.
func (t *Tree) Root() proof.Hash { return t.root }

// Source returns where the tree is read.
func (t *Tree) Source() Source { return t.src }

// fetch reads the first n hashes of a tile, unchecked.
func (t *Tree) fetch(ctx context.Context, s Source, l, index uint64, n int) ([]byte, error) {
	b, full, err := Partial(ctx, s, t.prefix+layout.TilePath(l, index, uint8(n%width)), t.prefix+layout.TilePath(l, index, 0), maxTile) // #nosec G115 -- n ≤ 256
	if err != nil {
		return nil, lacking(err)
	}
	if want := 32 * n; full && len(b) != maxTile || !full && len(b) != want {
		return nil, fmt.Errorf("%s: %s %w: %d bytes", s, t.prefix+layout.TilePath(l, index, uint8(n%width)), ErrDamaged, len(b)) // #nosec G115 -- as above
	}
	return b[:32*n], nil
}

// tile returns a tile, checked: the whole, or what the tree has of it.
func (t *Tree) tile(ctx context.Context, l, index uint64) ([]byte, error) {
	if l < uint64(len(t.edge)) && index == t.size>>(height*l)/width {
		return t.edge[l], nil
	}
	if l >= uint64(len(t.edge)) || index > t.size>>(height*l)/width {
		return nil, fmt.Errorf("%s: tile %d of level %d is not in the tree of size %d", t.src, index, l, t.size)
	}
	at := place{l, index}
	t.mu.Lock()
	b, ok := t.cache[at]
	t.mu.Unlock()
	if ok {
		return b, nil
	}
	want, err := t.tileRoot(ctx, l, index)
	if err != nil {
		return nil, err
	}
	for _, s := range t.sources() {
		if b, err = t.fetch(ctx, s, l, index, width); err == nil && tiles.TileRoot(b) != want {
			err = fmt.Errorf("%s: %s %w", s, t.prefix+layout.TilePath(l, index, 0), ErrDamaged)
		}
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if l > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		for old := range t.cache {
			if len(t.cache) < maxCached {
				break
			}
			delete(t.cache, old) // any
		}
		t.cache[at] = b
	}
	return b, nil
}

// tileRoot returns the root of a full tile, from the level above.
func (t *Tree) tileRoot(ctx context.Context, l, index uint64) (proof.Hash, error) {
	up, err := t.tile(ctx, l+1, index/width)
	if err != nil {
		return proof.Hash{}, err
	}
	return proof.Hash(up[32*(index%width):][:32]), nil
}

// hashes implements tlog.HashReader.
type hashes struct {
	ctx context.Context
	t   *Tree
}

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		l := uint64(level) / height
		span := uint64(1) << (uint64(level) - height*l) // hashes of the tile that it stands over
		first := uint64(n) * span
		tile, err := h.t.tile(h.ctx, l, first/width)
		if err != nil {
			return nil, err
		}
		off := first % width
		if uint64(len(tile)) < 32*(off+span) {
			return nil, fmt.Errorf("hash %d of level %d is not in the tree", n, level)
		}
		out[i] = tlog.Hash(tiles.TileRoot(tile[32*off : 32*(off+span)]))
	}
	return out, nil
}

// RootAt returns the root that the tree had at an earlier size: the one that every earlier checkpoint of the same history has.
func (t *Tree) RootAt(ctx context.Context, size uint64) (proof.Hash, error) {
	if size > t.size {
		return proof.Hash{}, fmt.Errorf("%s: size %d is beyond the tree of size %d", t.src, size, t.size)
	}
	if size == t.size {
		return t.root, nil
	}
	h, err := tlog.TreeHash(int64(size), hashes{ctx, t})
	return proof.Hash(h), err
}

// Inclusion returns the inclusion path of an entry, from its sibling upwards.
func (t *Tree) Inclusion(ctx context.Context, index uint64) ([]proof.Hash, error) {
	if index >= t.size {
		return nil, fmt.Errorf("%s: entry %d is not in the tree of size %d", t.src, index, t.size)
	}
	p, err := tlog.ProveRecord(int64(t.size), int64(index), hashes{ctx, t})
	if err != nil {
		return nil, err
	}
	path := make([]proof.Hash, len(p))
	for i := range p {
		path[i] = proof.Hash(p[i])
	}
	return path, nil
}

// Entry returns an entry.
func (t *Tree) Entry(ctx context.Context, index uint64) ([]byte, error) {
	if index >= t.size {
		return nil, fmt.Errorf("%s: entry %d is not in the tree of size %d", t.src, index, t.size)
	}
	b, err := t.bundle(ctx, index/width)
	if err != nil {
		return nil, err
	}
	return b.Entries[index%width], nil
}

// Bundle is up to 256 entries in a row.
type Bundle struct {
	First   uint64   // index of the first entry
	Entries [][]byte // share memory
	Leaves  []proof.Hash
}

// Bundles gives all bundles that hold entries from an index on, in order; the first begins with that entry. workers files are read at the same time.
func (t *Tree) Bundles(ctx context.Context, from uint64, workers int) Stream[Bundle] {
	last := (t.size + width - 1) / width
	if from >= t.size {
		last = from / width // none
	}
	return Ordered(ctx, from/width, last, workers, func(ctx context.Context, n uint64) (Bundle, error) {
		b, err := t.bundle(ctx, n)
		if skip := from % width; err == nil && n == from/width {
			b = Bundle{from, b.Entries[skip:], b.Leaves[skip:]}
		}
		return b, err
	})
}

func (t *Tree) bundle(ctx context.Context, n uint64) (b Bundle, err error) {
	for _, s := range t.sources() {
		if b, err = t.bundleFrom(ctx, s, n); err == nil {
			break
		}
	}
	return b, err
}

func (t *Tree) sources() []Source {
	if t.first == nil {
		return []Source{t.src}
	}
	return []Source{t.first, t.src}
}

func (t *Tree) bundleFrom(ctx context.Context, s Source, n uint64) (Bundle, error) {
	w := int(min(t.size-n*width, width)) // #nosec G115 -- at most 256
	limit := MaxEntries
	if t.prefix != "" {
		limit = MaxBuckets
	}
	name := t.prefix + layout.EntriesPath(n, uint8(w%width)) // #nosec G115 -- at most 256
	data, full, err := Partial(ctx, s, name, t.prefix+layout.EntriesPath(n, 0), limit)
	if err != nil {
		return Bundle{}, lacking(err)
	}
	b, err := ReadBundle(data, n, w, full)
	if err != nil {
		return Bundle{}, fmt.Errorf("%s: %s %w: %v", s, name, ErrDamaged, err)
	}
	buf := make([]byte, 0, maxTile)
	for i := range b.Leaves {
		buf = append(buf, b.Leaves[i][:]...)
	}
	good := w < width && string(buf) == string(t.edge[0])
	if w == width {
		want, err := t.tileRoot(ctx, 0, n)
		if err != nil {
			return Bundle{}, err
		}
		good = tiles.TileRoot(buf) == want
	}
	if !good {
		return Bundle{}, fmt.Errorf("%s: %s %w", s, name, ErrDamaged)
	}
	return b, nil
}

// ReadBundle splits and hashes the first w entries of bundle n. full says that the data are of the full bundle, of 256 entries; otherwise they are exactly w. Nothing is checked against a tree.
func ReadBundle(data []byte, n uint64, w int, full bool) (Bundle, error) {
	count := w
	if full {
		count = width
	}
	entries, rest, err := tiles.SplitBundle(make([][]byte, 0, count), data, count)
	if err == nil && len(rest) > 0 {
		err = errors.New("bytes after its last entry")
	}
	if err != nil {
		return Bundle{}, err
	}
	b := Bundle{First: n * width, Entries: entries[:w], Leaves: make([]proof.Hash, w)}
	for i := range b.Leaves {
		b.Leaves[i] = proof.LeafHash(b.Entries[i])
	}
	return b, nil
}

// IsMissing reports whether an error says that there is no such file.
func IsMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Prefer returns a reader of the same tree that takes a file from another source if that has it as the root demands, and from its own otherwise.
func (t *Tree) Prefer(s Source) *Tree {
	return &Tree{src: t.src, first: s, prefix: t.prefix, size: t.size, root: t.root, edge: t.edge, cache: map[place][]byte{}}
}

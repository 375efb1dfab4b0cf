package fsck

import (
	"context"
	"errors"
	"fmt"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

const (
	width   = layout.TileWidth
	maxTile = 32 * width
)

// walker reads every file of a tree and compares what it finds: entries with the hashes of the lowest tiles, each tile with those below it. It goes on after a fault as long as what is
// missing follows from something else that is served, so that one damaged file is one finding; the root, which the caller compares, vouches for the rest.
type walker struct {
	src     reader.Source
	prefix  string // "" for the log, "index/7/"
	size    uint64
	root    proof.Hash
	limit   int // of a bundle, in bytes
	workers int

	tileMissing, tileMismatch, bundleMissing, bundleMalformed, entryMismatch Code

	found func(Finding)
}

func logWalker(s reader.Source, size uint64, root proof.Hash, workers int, found func(Finding)) *walker {
	return &walker{s, "", size, root, reader.MaxEntries, workers, TileMissing, TileMismatch, BundleMissing, BundleMalformed, EntryMismatch, found}
}

func indexWalker(s reader.Source, epoch proof.Epoch, size uint64, root proof.Hash, workers int, found func(Finding)) *walker {
	return &walker{s, "index/" + epoch.String() + "/", size, root, reader.MaxBuckets, workers, IndexMissing, IndexTree, IndexMissing, IndexBucket, IndexTree, found}
}

// chunk is what a bundle and the tile beside it have to say.
type chunk[T any] struct {
	first    uint64
	n        int
	leaves   []proof.Hash // nil if only the root of the tile is known
	root     proof.Hash
	entries  []T          // nil if they can't be read
	doubt    []proof.Hash // the tile says this instead, and nothing above it decides yet
	findings []Finding
}

// errLost: neither entries nor hashes are there, and nothing stands in for them.
var errLost = errors.New("the walk ends here: entries and their hashes are missing")

// walk goes on from the edge and leaves it where it ends. parse is called by many goroutines, visit by one, in order; its entries are nil where they can't be read.
func walk[T any](ctx context.Context, w *walker, edge *tiles.Edge, parse func(entry []byte) T, visit func(first uint64, leaves []proof.Hash, n int, entries []T) error) error {
	from := edge.Size()
	if from >= w.size {
		return nil
	}
	var fail error
	full := func(l, n uint64, tile []byte) {
		if l > 0 && fail == nil {
			fail = w.compare(ctx, l, n, tile)
		}
	}
	for c, err := range reader.Ordered(ctx, from/width, (w.size+width-1)/width, w.workers, func(ctx context.Context, n uint64) (chunk[T], error) { return load(ctx, w, n, parse) }) {
		if err == nil && c.doubt != nil { // the last bundle: the root of the whole tree decides
			other := edge.Clone()
			for _, h := range c.doubt[edge.Size()-c.first:] {
				other.Append(h, nil)
			}
			c.decide(w, other.Root() == w.root)
		}
		for _, f := range c.findings {
			w.found(f)
		}
		if err != nil {
			return err
		}
		if skip := int(edge.Size() - c.first); skip > 0 { // #nosec G115 -- below 256
			if c.leaves == nil {
				return errLost
			}
			c.first, c.n, c.leaves = edge.Size(), c.n-skip, c.leaves[skip:]
			if c.entries != nil {
				c.entries = c.entries[skip:]
			}
		}
		if c.leaves == nil {
			edge.Skip(c.root, full)
		}
		for _, h := range c.leaves {
			edge.Append(h, full)
		}
		if fail != nil {
			return fail
		}
		if err := visit(c.first, c.leaves, c.n, c.entries); err != nil {
			return err
		}
	}
	if edge.Size() == w.size {
		edge.Partials(func(l, n uint64, tile []byte) {
			if l > 0 && fail == nil {
				fail = w.compare(ctx, l, n, tile)
			}
		})
	}
	return fail
}

// load reads a bundle and its tile. It runs beside others and reports through the chunk.
func load[T any](ctx context.Context, w *walker, n uint64, parse func([]byte) T) (c chunk[T], err error) {
	c.first, c.n = n*width, int(min(w.size-n*width, width)) // #nosec G115 -- at most 256
	say := func(code Code, name, format string, args ...any) {
		c.findings = append(c.findings, finding(code, name, format, args...))
	}
	p := uint8(c.n % width) // #nosec G115 -- below 256
	name := w.prefix + layout.EntriesPath(n, p)
	data, full, err := reader.Partial(ctx, w.src, name, w.prefix+layout.EntriesPath(n, 0), w.limit)
	var b reader.Bundle
	switch {
	case reader.IsMissing(err):
		say(w.bundleMissing, name, "it is not there")
	case errors.Is(err, reader.ErrRefused):
		say(w.bundleMalformed, name, "%v", err)
	case err != nil:
		return c, err
	default:
		if b, err = reader.ReadBundle(data, n, c.n, full); err != nil {
			say(w.bundleMalformed, name, "%v", err)
		}
	}
	tile, f, err := w.tile(ctx, 0, n, c.n)
	if err != nil {
		return c, err
	}
	if f != nil {
		c.findings = append(c.findings, *f)
	}
	var hashes []proof.Hash
	for i := 0; i < len(tile); i += 32 {
		hashes = append(hashes, proof.Hash(tile[i:i+32]))
	}
	switch {
	case b.Leaves == nil && hashes == nil:
		up, ok, err := w.parent(ctx, n, c.n)
		if err != nil || !ok {
			return c, errors.Join(err, fmt.Errorf("%s: %w", name, errLost))
		}
		c.root = up
		return c, nil
	case b.Leaves == nil:
		c.leaves = hashes
		return c, nil
	}
	c.leaves = b.Leaves
	c.entries = make([]T, len(b.Entries))
	for i, e := range b.Entries {
		c.entries[i] = parse(e)
	}
	if hashes == nil || equal(hashes, b.Leaves) {
		return c, nil
	}
	up, ok, err := w.parent(ctx, n, c.n)
	switch c.doubt = hashes; {
	case err != nil:
		return c, err
	case ok:
		c.decide(w, tiles.TileRoot(tile) == up)
	case c.n == width:
		c.decide(w, false)
	}
	return c, nil
}

func equal(a, b []proof.Hash) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

// decide says which of the two is wrong, entries or hashes, and goes on with the other.
func (c *chunk[T]) decide(w *walker, tileHolds bool) {
	at := 0
	for c.leaves[at] == c.doubt[at] {
		at++
	}
	n := c.first / width
	var f Finding
	if tileHolds {
		f = finding(w.entryMismatch, fmt.Sprintf("%sentry %d", w.where(), c.first+uint64(at)), "it isn't the one whose hash stands in the tree") // #nosec G115 -- below 256
		c.leaves, c.entries = c.doubt, nil
	} else {
		name := w.prefix + layout.TilePath(0, n, uint8(c.n%width)) // #nosec G115 -- below 256
		f = finding(w.tileMismatch, name, "hash %d isn't that of the entry", at)
	}
	c.doubt = nil
	c.findings = append(c.findings, f)
}

func (w *walker) where() string {
	if w.prefix == "" {
		return ""
	}
	return w.prefix + " "
}

// tile reads the first n hashes of a tile as it is served; nil, and a finding, if it isn't there or has a wrong length.
func (w *walker) tile(ctx context.Context, l, index uint64, n int) ([]byte, *Finding, error) {
	name := w.prefix + layout.TilePath(l, index, uint8(n%width)) // #nosec G115 -- at most 256
	b, full, err := reader.Partial(ctx, w.src, name, w.prefix+layout.TilePath(l, index, 0), maxTile)
	var f Finding
	switch {
	case reader.IsMissing(err):
		f = finding(w.tileMissing, name, "it is not there")
	case errors.Is(err, reader.ErrRefused):
		f = finding(w.tileMismatch, name, "%v", err)
	case err != nil:
		return nil, nil, err
	case full && len(b) != maxTile || !full && len(b) != 32*n:
		f = finding(w.tileMismatch, name, "it has %d bytes, want %d", len(b), 32*n)
	default:
		return b[:32*n], nil, nil
	}
	return nil, &f, nil
}

// compare reads a tile and compares it with the one that the entries give.
func (w *walker) compare(ctx context.Context, l, index uint64, want []byte) error {
	n := len(want) / 32
	b, f, err := w.tile(ctx, l, index, n)
	if err != nil {
		return err
	}
	if f == nil && string(b) != string(want) {
		at := 0
		for at < n && string(b[32*at:32*at+32]) == string(want[32*at:32*at+32]) {
			at++
		}
		x := finding(w.tileMismatch, w.prefix+layout.TilePath(l, index, uint8(n%width)), "hash %d isn't that of the tile below", at) // #nosec G115 -- at most 256
		f = &x
	}
	if f != nil {
		w.found(*f)
	}
	return nil
}

// parent returns the root of a full lowest tile as the tile above it has it.
func (w *walker) parent(ctx context.Context, n uint64, count int) (proof.Hash, bool, error) {
	if count < width {
		return proof.Hash{}, false, nil
	}
	up := n / width
	have := int(min(w.size/width-up*width, width)) // #nosec G115 -- at most 256
	b, _, err := w.tile(ctx, 1, up, have)
	if err != nil || b == nil {
		return proof.Hash{}, false, err
	}
	return proof.Hash(b[32*(n%width):][:32]), true, nil
}

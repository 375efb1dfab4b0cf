// Package tiles keeps a Merkle tree as the static files of C2SP tlog-tiles (https://c2sp.org/tlog-tiles) in a directory, reads proofs back from them, and serves
// them over HTTP.
//
// What it guarantees. When [Writer.Flush] returns without an error, every file that a reader of the tree at [Writer.Size] needs is on the disk. A file appears under its
// name complete and synced, or not at all, and is readable by everybody, so that any static file server can serve the directory. A full tile never changes. Proofs are
// made from tiles that were checked against the root that the caller gave, so a damaged file gives an error and never a wrong proof.
//
// What it doesn't. Nothing here is signed, and files may run ahead of the published checkpoint. Partial tiles are removed once the full tile to their right
// exists: readers fall back to the full tile, as the specification asks of them. One writer at a time.
package tiles

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/regard-broker/regard/ledger/proof"
)

const (
	width  = layout.TileWidth
	height = 8
	// maxEntry is the bound of an entry in a bundle, whose length is two bytes.
	maxEntry = 1<<16 - 1
	// maxPending bounds the memory of a writer: beyond that many unsynced files it syncs by itself.
	maxPending = 128
)

// ErrCorrupt: a file is missing or doesn't hold what the root says. Rebuild the directory from the log's store.
var ErrCorrupt = errors.New("tiles: a file is missing or damaged")

// Writer appends to a tree. It is not safe for concurrent use.
type Writer struct {
	dir    string
	edge   Edge
	bundle []byte // entries of the bundle at the right end
	files  []file
	drop   []string
	every  int // files after which it syncs by itself
	watch  Watch
}

// A Watch is told when the file system is about to be asked for something (true), and when nothing more is asked of it for now (false): one that hangs, as a share does whose server is gone, answers with no error. nil: nobody watches.
type Watch func(asked bool)

func (w Watch) ask() {
	if w != nil {
		w(true)
	}
}

func (w Watch) done() {
	if w != nil {
		w(false)
	}
}

type file struct {
	name string
	data []byte
}

// Create returns a writer of a new tree in dir. Files that are there already and say the same are kept.
func Create(dir string) *Writer { return &Writer{dir: dir} }

// Resume returns a writer that goes on behind size entries. It reads the right end, its last bundle too, and checks it against the root; ErrCorrupt if it doesn't agree.
func Resume(dir string, size uint64, root proof.Hash) (*Writer, error) {
	w := &Writer{dir: dir, edge: Edge{size: size}}
	if size == 0 {
		return w, nil
	}
	for l := uint64(0); size>>(height*l) > 0; l++ {
		n := size >> (height * l)
		var t []byte
		if p := n % width; p > 0 {
			var err error
			if t, err = readTile(dir, l, n/width, int(p)); err != nil {
				return nil, err
			}
		}
		w.edge.levels = append(w.edge.levels, bytes.Clone(t))
	}
	if got := w.Root(); got != root {
		return nil, fmt.Errorf("%w: the right end of the tree at size %d has another root", ErrCorrupt, size)
	}
	// The last bundle is read also where it is full: what comes next hides that its end was never written.
	hashes, err := w.last(0)
	if err != nil {
		return nil, err
	}
	n := len(hashes) / 32
	b, entries, err := readBundle(dir, (size-1)/width, n)
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		if h := proof.LeafHash(e); !bytes.Equal(h[:], hashes[32*i:32*i+32]) {
			return nil, fmt.Errorf("%w: entry %d is not that of its hash", ErrCorrupt, size-uint64(n)+uint64(i))
		}
	}
	if n < width {
		w.bundle = bytes.Clone(b)
	}
	return w, nil
}

// last is the last tile of a level, which ends in the edge or, where that begins anew, in a full tile that is checked against the level above.
func (w *Writer) last(l int) ([]byte, error) {
	if tile := w.edge.levels[l]; len(tile) > 0 {
		return tile, nil
	}
	n := w.edge.size>>(height*l)/width - 1
	tile, err := readTile(w.dir, uint64(l), n, width) // #nosec G115 -- a level
	if err != nil {
		return nil, err
	}
	above, err := w.last(l + 1)
	if err != nil {
		return nil, err
	}
	if root := TileRoot(tile); !bytes.Equal(root[:], above[len(above)-32:]) {
		return nil, fmt.Errorf("%w: tile %d of level %d is not what the root says", ErrCorrupt, n, l)
	}
	return tile, nil
}

// SyncEvery has the writer sync by itself after so many files instead of 128: whoever else waits for the disk waits less long, and all of it takes longer.
func (w *Writer) SyncEvery(files int) { w.every = files }

// Watched has the writer tell a watch.
func (w *Writer) Watched(watch Watch) { w.watch = watch }

// Size returns the number of entries appended.
func (w *Writer) Size() uint64 { return w.edge.size }

// Append adds an entry.
func (w *Writer) Append(entry []byte) error {
	if len(entry) > maxEntry {
		return fmt.Errorf("tiles: entry of %d bytes, at most %d", len(entry), maxEntry)
	}
	w.bundle = binary.BigEndian.AppendUint16(w.bundle, uint16(len(entry)))
	w.bundle = append(w.bundle, entry...)
	w.edge.Append(proof.LeafHash(entry), func(l, n uint64, tile []byte) {
		w.files = append(w.files, file{layout.TilePath(l, n, 0), tile})
		if n > 0 {
			w.drop = append(w.drop, layout.TilePath(l, n-1, 0)+".p")
		}
	})
	if n := w.edge.size / width; w.edge.size%width == 0 {
		w.files = append(w.files, file{layout.EntriesPath(n-1, 0), w.bundle})
		w.bundle = nil
		if n > 1 {
			w.drop = append(w.drop, layout.EntriesPath(n-2, 0)+".p")
		}
	}
	if len(w.files) >= cmp.Or(w.every, maxPending) {
		return w.sync()
	}
	return nil
}

// Flush writes the partial tiles of the right end and syncs everything.
func (w *Writer) Flush() error {
	if p := w.edge.size % width; p > 0 {
		w.files = append(w.files, file{layout.EntriesPath(w.edge.size/width, uint8(p)), w.bundle})
	}
	w.edge.Partials(func(l, n uint64, tile []byte) {
		w.files = append(w.files, file{layout.TilePath(l, n, uint8(len(tile)/32)), tile}) // #nosec G115 -- below 256
	})
	if err := w.sync(); err != nil {
		return err
	}
	defer w.watch.done()
	for _, d := range w.drop {
		w.watch.ask()
		if err := os.RemoveAll(filepath.Join(w.dir, d)); err != nil {
			return fmt.Errorf("removing partial tiles: %w", err)
		}
	}
	w.drop = nil
	return nil
}

// sync writes the pending files: first all under temporary names, then the syncs, then the names. Many syncs in a row cost less than many that wait for their write.
func (w *Writer) sync() error {
	if err := writeFiles(w.dir, w.files, w.watch); err != nil {
		return err
	}
	clear(w.files)
	w.files = w.files[:0]
	return nil
}

// Root returns the root of the tree; zero if it is empty.
func (w *Writer) Root() proof.Hash { return w.edge.Root() }

// WriteFile writes one file as a Writer does: synced, then named.
func WriteFile(dir, name string, data []byte) error {
	return writeFiles(dir, []file{{name, data}}, nil)
}

func writeFiles(dir string, files []file, watch Watch) error {
	if len(files) == 0 {
		return nil
	}
	defer watch.done()
	var open []*os.File
	defer func() {
		for _, f := range open {
			f.Close()
			os.Remove(f.Name()) // gone already if it got its name
		}
	}()
	dirs := map[string]bool{}
	var names []string
	for _, f := range files {
		watch.ask()
		name := filepath.Join(dir, filepath.FromSlash(f.name))
		if err := makeDirs(filepath.Dir(name), dirs); err != nil {
			return err
		}
		if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, f.data) {
			continue
		}
		t, err := os.CreateTemp(filepath.Dir(name), ".new-*")
		if err != nil {
			return fmt.Errorf("writing a tile: %w", err)
		}
		open, names = append(open, t), append(names, name)
		if _, err := t.Write(f.data); err != nil {
			return fmt.Errorf("writing a tile: %w", err)
		}
		if err := t.Chmod(0o644); err != nil {
			return fmt.Errorf("writing a tile: %w", err)
		}
	}
	for _, f := range open {
		watch.ask()
		if err := f.Sync(); err != nil {
			return fmt.Errorf("syncing a tile: %w", err)
		}
	}
	for i, f := range open {
		watch.ask()
		if err := os.Rename(f.Name(), names[i]); err != nil {
			return fmt.Errorf("naming a tile: %w", err)
		}
	}
	for d := range dirs {
		watch.ask()
		if err := SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// makeDirs makes a directory, readable by all, and notes all that have to be synced: itself, and the parents of those it made.
func makeDirs(dir string, dirs map[string]bool) error {
	if dirs[dir] {
		return nil
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if parent := filepath.Dir(dir); parent != dir {
			if err := makeDirs(parent, dirs); err != nil {
				return err
			}
		}
		// #nosec G301 -- what is published is for everybody
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making a directory for tiles: %w", err)
		}
		// #nosec G302 -- whatever the umask
		if err := os.Chmod(dir, 0o755); err != nil {
			return fmt.Errorf("making a directory for tiles: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("making a directory for tiles: %w", err)
	}
	dirs[dir] = true
	return nil
}

// SyncDir makes the names in a directory durable: those of files that were made, renamed or removed.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	return nil
}

// Package reader reads what a log publishes, from a directory or over HTTP: checkpoint, tiles, entries, index trees, blobs.
//
// What it guarantees. A [Source] never gives more bytes than the caller allowed, never waits for longer than its limits say, and never follows a server to another host. What a [Tree] returns
// was checked against its root, up to the root, before it is returned; an error names the file at fault. Memory is bounded by the limits and the number of files under way, whatever the server sends.
//
// What it doesn't. The root is the caller's to know: from a checkpoint that proof.VerifyCheckpoint accepted, or from a marker that is in the log. What a Source returns was checked against
// nothing. A server that doesn't answer can't be told from one that hides something: that is ErrUnavailable, not a proof of anything.
package reader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/regard-broker/regard/ledger/proof"
)

// Errors that callers distinguish; a file that isn't there is fs.ErrNotExist. Each names the file.
var (
	// ErrUnavailable: the file could not be read, which says nothing about it. Try again later.
	ErrUnavailable = errors.New("could not be read")
	// ErrRefused: what is served is not acceptable for this file: too large, compressed, or a pointer to another host. Asking again won't help.
	ErrRefused = errors.New("is refused")
	// ErrDamaged: what is served is not what the root says. Keep it: it is evidence against whoever serves it.
	ErrDamaged = errors.New("is not what the root of the tree says")
	// ErrLacking: the file isn't there, or isn't acceptable, and the tree has it: whoever signed the root owes it. It wraps fs.ErrNotExist or ErrRefused, too.
	ErrLacking = errors.New("the tree has it")
)

// Bounds of files, in bytes.
const (
	MaxCheckpoint = 512 << 10             // docs/formats.md, section 2
	MaxEntries    = 256 * (2 + 1023)      // a bundle of the log: entries are shorter than 1024 bytes
	MaxBuckets    = 256 * (2 + 1<<16 - 1) // a bundle of an index
	MaxBlob       = 64 << 20              // what a digest in the log stands for
	MaxAudit      = 512 << 10             // a signed note
	maxTile       = 32 * layout.TileWidth // hashes
)

// Source gives the files of a log by their names: "checkpoint", "tile/0/x001/234". It must be safe for concurrent use.
type Source interface {
	// Get returns a whole file of at most limit bytes.
	Get(ctx context.Context, name string, limit int) ([]byte, error)
	// String says where it reads, for messages.
	String() string
}

// Open returns the source at a place: an http or https URL, or a directory.
func Open(place string, o Options) (Source, error) {
	if strings.Contains(place, "://") {
		return HTTP(place, o)
	}
	return Dir(place)
}

// Dir returns a source that reads a directory, and nothing outside it: symbolic links that leave it are refused.
func Dir(path string) (Source, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening a log's directory: %w", err)
	}
	return &dir{path, root}, nil
}

type dir struct {
	path string
	root *os.Root
}

func (d *dir) String() string { return d.path }

func (d *dir) Get(ctx context.Context, name string, limit int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name = filepath.FromSlash(name)
	info, err := d.root.Stat(name) // before it is opened: a pipe would wait for a writer
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %w: %v", name, ErrUnavailable, err)
	}
	if !info.Mode().IsRegular() || info.Size() > int64(limit) {
		return nil, fmt.Errorf("%s %w: not a regular file of at most %d bytes", name, ErrRefused, limit)
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s %w: %v", name, ErrUnavailable, err)
	}
	defer f.Close()
	b := make([]byte, 0, info.Size()+1)
	for {
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > limit:
			return nil, fmt.Errorf("%s %w: more than %d bytes", name, ErrRefused, limit)
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return nil, fmt.Errorf("%s %w: %v", name, ErrUnavailable, err)
		case len(b) == cap(b):
			b = append(b, 0)[:len(b)] // it grew meanwhile
		}
	}
}

// Checkpoint reads and verifies the log's checkpoint.
func Checkpoint(ctx context.Context, s Source, p *proof.Policy) (proof.Checkpoint, error) {
	b, err := s.Get(ctx, layout.CheckpointPath, MaxCheckpoint)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	return proof.VerifyCheckpoint(b, p)
}

// lacking says that a file which can't be had belongs to the tree.
func lacking(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrRefused) {
		return fmt.Errorf("%w, and %w", err, ErrLacking)
	}
	return err
}

// Partial reads a file of a tree that may have a partial form: the partial one, or the full one that took its place (c2sp.org/tlog-tiles). full reports which.
func Partial(ctx context.Context, s Source, partial, whole string, limit int) (b []byte, full bool, err error) {
	b, err = s.Get(ctx, partial, limit)
	if partial == whole {
		return b, true, err
	}
	if errors.Is(err, fs.ErrNotExist) {
		if b, err := s.Get(ctx, whole, limit); !errors.Is(err, fs.ErrNotExist) {
			return b, true, err
		}
	}
	return b, false, err
}

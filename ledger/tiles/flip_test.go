package tiles

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
)

// readAll reads a whole tree as a reader that trusts nothing but the root does: every entry with its path.
func readAll(tree Tree) error {
	for i := range tree.Size {
		path, err := tree.Inclusion(i)
		if err != nil {
			return err
		}
		if err := readEntry(tree, i, path); err != nil {
			return err
		}
	}
	return nil
}

// errOther: the bundle holds another entry than the one that its checked path is of.
var errOther = errors.New("another entry")

func readEntry(tree Tree, i uint64, path []proof.Hash) error {
	e, err := tree.Entry(i)
	if err != nil {
		return err
	}
	p := make(tlog.RecordProof, len(path))
	for j, h := range path {
		p[j] = tlog.Hash(h)
	}
	if err := tlog.CheckRecord(p, int64(tree.Size), tlog.Hash(tree.Root), int64(i), tlog.RecordHash(e)); err != nil {
		return fmt.Errorf("%w: entry %d: %v", errOther, i, err)
	}
	return nil
}

// Every byte of every file of a tree counts: flip one of its bits, and nobody can read the whole tree any more. One bit of a byte, another one in the next byte.
func TestFlipEveryByte(t *testing.T) {
	dir := t.TempDir()
	w := Create(dir)
	const size = 259 // a full tile and a partial one beside it, and one above
	for i := range size {
		if err := w.Append(fmt.Append(nil, "e", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	tree := Tree{dir, size, w.Root()}
	if err := readAll(tree); err != nil {
		t.Fatal(err)
	}
	var paths [][]proof.Hash
	for i := range tree.Size {
		p, err := tree.Inclusion(i)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	flips := map[string]int{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		good, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		check := func(int) error { return readAll(tree) }
		if strings.HasPrefix(name, filepath.FromSlash("tile/entries/")) {
			// The hashes are as they were: their paths, once checked, stay. From the entry in which the bit lies, all of the bundle is read.
			first, last := uint64(0), uint64(256)
			if filepath.Base(filepath.Dir(name)) == "001.p" {
				first, last = 256, size
			}
			owner := owners(good, first)
			check = func(at int) error {
				for i := owner[at]; i < last; i++ {
					if err := readEntry(tree, i, paths[i]); err != nil {
						return err
					}
				}
				return nil
			}
		}
		bad := bytes.Clone(good)
		for at := range good {
			bad[at] ^= 1 << (at % 8)
			if err := os.WriteFile(file, bad, 0o644); err != nil {
				return err
			}
			if err := check(at); !errors.Is(err, ErrCorrupt) && !errors.Is(err, errOther) {
				t.Errorf("%s, bit %d of byte %d flipped: %v", name, at%8, at, err)
			}
			bad[at] = good[at]
			flips[name]++
		}
		return os.WriteFile(file, good, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := readAll(tree); err != nil {
		t.Errorf("after all is as it was: %v", err)
	}
	for name, want := range map[string]int{"tile/0/000": 8192, "tile/0/001.p/3": 96, "tile/1/000.p/1": 32, "tile/entries/000": 256*2 + 10*2 + 90*3 + 156*4, "tile/entries/001.p/3": 3 * 6} {
		if flips[filepath.FromSlash(name)] != want {
			t.Errorf("%s: %d bytes were flipped, want %d", name, flips[filepath.FromSlash(name)], want)
		}
		delete(flips, filepath.FromSlash(name))
	}
	if len(flips) != 0 {
		t.Errorf("files that this test doesn't expect: %v", flips)
	}
}

// owners says for each byte of a bundle in which entry it lies, its length counted with it.
func owners(bundle []byte, first uint64) (out []uint64) {
	for i := first; len(out) < len(bundle); i++ {
		n := 2 + int(binary.BigEndian.Uint16(bundle[len(out):]))
		for range n {
			out = append(out, i)
		}
	}
	return out
}

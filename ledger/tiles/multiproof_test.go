package tiles

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
)

// slowRoot is RFC 6962, section 2.1, word by word.
func slowRoot(leaves []proof.Hash) proof.Hash {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	return proof.Hash(tlog.NodeHash(tlog.Hash(slowRoot(leaves[:k])), tlog.Hash(slowRoot(leaves[k:]))))
}

func TestMultiproof(t *testing.T) {
	dir := t.TempDir()
	w := Create(dir)
	rng := rand.New(rand.NewPCG(3, 4))
	var all []proof.Hash
	for _, size := range []uint64{1, 2, 255, 256, 257, 300, 512, 700, 1024, 65536, 65537, 66000} {
		for i := uint64(len(all)); i < size; i++ {
			all = append(all, proof.LeafHash(entry(i)))
		}
		fill(t, w, size)
		tree := Tree{dir, size, w.Root()}
		for round := range 3 {
			leaves, prefixes := []uint64{0, size - 1}, []uint64(nil)
			for range 20 * round {
				leaves = append(leaves, rng.Uint64N(size))
				if size > 1 && round == 2 {
					prefixes = append(prefixes, 1+rng.Uint64N(size-1))
				}
			}
			slices.Sort(leaves)
			slices.Sort(prefixes)
			leaves, prefixes = slices.Compact(leaves), slices.Compact(prefixes)
			nodes, hashes, err := tree.Multiproof(leaves, prefixes)
			if err != nil {
				t.Fatalf("size %d: %v", size, err)
			}
			for i, l := range leaves {
				if hashes[i] != all[l] {
					t.Fatalf("size %d: leaf %d has another hash", size, l)
				}
			}
			spans := proof.ProofSpans(size, leaves, prefixes)
			if len(nodes) != len(spans) {
				t.Fatalf("size %d: %d nodes, want %d", size, len(nodes), len(spans))
			}
			for i, s := range spans {
				if nodes[i] != slowRoot(all[s.From:s.To]) {
					t.Fatalf("size %d: subtree %d to %d has another root", size, s.From, s.To)
				}
			}
		}
		if _, _, err := tree.Multiproof([]uint64{size}, nil); err == nil {
			t.Error("a leaf beyond the tree is proven")
		}
	}
	if _, _, err := (Tree{Dir: dir}).Multiproof(nil, nil); err == nil {
		t.Error("an empty tree")
	}
	if _, _, err := (Tree{dir, 700, proof.Hash{1}}).Multiproof([]uint64{3}, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another root: %v", err)
	}
}

// TestMultiproofOfDamage: whatever byte of a tile is wrong, there is an error or the same proof.
func TestMultiproofOfDamage(t *testing.T) {
	dir := t.TempDir()
	w := Create(dir)
	fill(t, w, 70_000)
	tree := Tree{dir, 70_000, w.Root()}
	leaves := []uint64{0, 300, 65_000, 69_999}
	want, _, err := tree.Multiproof(leaves, []uint64{400})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range []string{"tile/0/000", "tile/0/001", "tile/0/253", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1", "tile/0/273.p/112", "tile/0/100"} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range [][]byte{append([]byte{good[0] ^ 1}, good[1:]...), good[:len(good)-32], good[:7], nil} {
			if bad == nil {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, bad, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := tree.Multiproof(leaves, []uint64{400})
			switch {
			case errors.Is(err, ErrCorrupt):
				found++
			case err != nil && !errors.Is(err, fs.ErrNotExist):
				t.Errorf("%s: %v", name, err)
			case err == nil && !slices.Equal(got, want):
				t.Errorf("%s: a wrong proof", name)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found < 4*6 {
		t.Errorf("only %s was found", fmt.Sprint(found))
	}
}

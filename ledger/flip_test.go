package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestFlipPublished flips one bit in each byte of all that a log publishes: of its checkpoint, tiles and bundles and those of the index of a closed epoch. A client that
// others wrote, which trusts the log's key alone, refuses each of these logs.
func TestFlipPublished(t *testing.T) {
	env := ledgertest.New(t)
	l := env.Open()
	for i := range 5 {
		g, _ := ledgertest.Disclosure(ledgertest.Person(i))
		if _, err := l.Append(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	closed := turnEpoch(t, env, l)
	cp := env.Wait(l)
	files := fstest.MapFS{}
	err := filepath.WalkDir(env.Dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(env.Dir, file)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(file)
		files[filepath.ToSlash(name)] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(env.VKey)
	if err != nil {
		t.Fatal(err)
	}
	policy := torchwood.ThresholdPolicy(2, torchwood.OriginPolicy(ledgertest.Origin), torchwood.SingleVerifierPolicy(v))
	if err := readLog(t.Context(), files, policy, closed); err != nil {
		t.Fatal(err)
	}
	current := partials(cp.Size(), 1<<closed.Bits)
	flips := map[string]int{}
	for name, f := range files {
		if strings.Contains(name, ".p/") && !current[name] {
			continue // an earlier right end, which a reader of this checkpoint has no use for
		}
		kind := name
		if i := strings.Index(name, "tile/"); i >= 0 {
			kind = name[:i+len("tile/")+strings.IndexByte(name[i+len("tile/"):], '/')]
		}
		good := f.Data
		for at := range good {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << (at % 8)
			if name == "checkpoint" && sameNote(good, bad, v) {
				continue
			}
			files[name] = &fstest.MapFile{Data: bad}
			if err := readLog(t.Context(), files, policy, closed); err == nil {
				t.Errorf("%s, bit %d of byte %d flipped: read as if nothing were", name, at%8, at)
			}
			flips[kind]++
		}
		files[name] = f
	}
	if flips["checkpoint"] < len(cp.Note())-1 {
		t.Errorf("%d of the checkpoint's %d bytes were flipped", flips["checkpoint"], len(cp.Note()))
	}
	for _, kind := range []string{"checkpoint", "tile/0", "tile/entries", "index/0/tile/0", "index/0/tile/entries"} {
		if flips[kind] < 32 {
			t.Errorf("%s: %d bytes were flipped", kind, flips[kind])
		}
	}
}

// partials are the partial tiles that readers of these trees of at most 256 leaves ask for.
func partials(log, index uint64) map[string]bool {
	out := map[string]bool{}
	for _, t := range tlog.NewTiles(8, 0, int64(log)) {
		out[torchwood.TilePath(t)] = true
		t.L = -1
		out[torchwood.TilePath(t)] = true
	}
	for _, t := range tlog.NewTiles(8, 0, int64(index)) {
		out["index/0/"+torchwood.TilePath(t)] = true
		t.L = -1
		out["index/0/"+torchwood.TilePath(t)] = true
	}
	return out
}

// sameNote says that a changed note is another spelling of the same: the last character of the signature's base64 holds bits that stand for nothing, which x/mod's reader
// does not look at. Ours does: see TestFlipCheckpoint.
func sameNote(good, bad []byte, v note.Verifier) bool {
	a, aerr := note.Open(good, note.VerifierList(v))
	b, berr := note.Open(bad, note.VerifierList(v))
	return aerr == nil && berr == nil && a.Text == b.Text && bytes.Equal(bytes.TrimRight(good, "\n")[:len(good)-3], bytes.TrimRight(bad, "\n")[:len(bad)-3])
}

// readLog reads all of a log and of the index of its first epoch.
func readLog(ctx context.Context, files fstest.MapFS, policy torchwood.Policy, closed ledger.ClosedEpoch) error {
	head, _, err := torchwood.VerifyCheckpoint(files["checkpoint"].Data, policy)
	if err != nil {
		return err
	}
	if err := readTiles(ctx, files, head.Tree, func(e []byte) error {
		_, err := proof.ParseEntry(e)
		return err
	}); err != nil {
		return err
	}
	index, err := fs.Sub(files, "index/0")
	if err != nil {
		return err
	}
	return readTiles(ctx, index, tlog.Tree{N: 1 << closed.Bits, Hash: tlog.Hash(closed.Root)}, func(e []byte) error {
		_, err := proof.ParseBucket(e)
		return err
	})
}

func readTiles(ctx context.Context, files fs.FS, tree tlog.Tree, parse func([]byte) error) error {
	tiles, err := torchwood.NewTileFS(files)
	if err != nil {
		return err
	}
	c, err := torchwood.NewClient(tiles)
	if err != nil {
		return err
	}
	n := int64(0)
	for _, e := range c.AllEntries(ctx, tree, 0) {
		if err := parse(e); err != nil {
			return err
		}
		n++
	}
	if err := c.Err(); err != nil {
		return err
	}
	if n != tree.N {
		return errors.New("entries are missing")
	}
	return nil
}

// TestFlipCheckpoint flips every bit of a checkpoint: our reader refuses each.
func TestFlipCheckpoint(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	l := env.Open()
	cp := env.Wait(l)
	good := cp.Note()
	for at := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << bit
			if got, err := proof.VerifyCheckpoint(bad, env.Policy); err == nil {
				t.Errorf("bit %d of byte %d flipped: accepted with size %d", bit, at, got.Size())
			}
		}
	}
	if _, err := proof.VerifyCheckpoint(good, env.Policy); err != nil {
		t.Error(err)
	}
}

// TestFlipEntry flips every bit of an entry, of its place and of its path: no reader takes it for the one in the tree.
func TestFlipEntry(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	l := env.Open()
	var last ledger.Appended
	for i := range 5 {
		g, _ := ledgertest.Disclosure(ledgertest.Person(i))
		var err error
		if last, err = l.Append(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	good, cp := last.Entries[0], last.Checkpoint
	refused := func(what string, at int, p proof.Proven) {
		t.Helper()
		if _, err := proof.VerifyEntry(cp, p); err == nil {
			t.Errorf("%s, byte %d flipped: accepted", what, at)
		}
		var path tlog.RecordProof
		for _, h := range p.Path {
			path = append(path, tlog.Hash(h))
		}
		if err := tlog.CheckRecord(path, int64(cp.Size()), tlog.Hash(cp.Root()), int64(p.Index), tlog.RecordHash(p.Text)); err == nil {
			t.Errorf("%s, byte %d flipped: accepted by x/mod", what, at)
		}
	}
	if _, err := proof.VerifyEntry(cp, good); err != nil || len(good.Path) == 0 {
		t.Fatal(err)
	}
	for at := range good.Text {
		for bit := range 8 {
			bad := good
			bad.Text = bytes.Clone(good.Text)
			bad.Text[at] ^= 1 << bit
			refused("text", at, bad)
		}
	}
	for i := range good.Path {
		for at := range good.Path[i] {
			bad := good
			bad.Path = append([]proof.Hash(nil), good.Path...)
			bad.Path[i][at] ^= 1 << (at % 8)
			refused("path", 32*i+at, bad)
		}
	}
	for bit := range 63 {
		bad := good
		bad.Index ^= 1 << bit
		refused("index", bit, bad)
	}
}

package tiles

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	mproof "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
)

func entry(i uint64) []byte { return bytes.Repeat([]byte(fmt.Sprintf("entry %d\n", i)), int(1+i%7)) }

func fill(t testing.TB, w *Writer, to uint64) {
	t.Helper()
	for w.Size() < to {
		if err := w.Append(entry(w.Size())); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

// Writing in steps, resuming at each, gives proofs that x/mod's code accepts, at every size on the way.
func TestWriteResumeProve(t *testing.T) {
	dir := t.TempDir()
	w := Create(dir)
	var earlier []Tree
	for _, size := range []uint64{1, 2, 3, 200, 255, 256, 257, 512, 700, 65535, 65536, 65537, 66000} {
		fill(t, w, size)
		root := w.Root()
		tree := Tree{dir, size, root}
		for _, i := range []uint64{0, 1, size / 2, size - 2, size - 1} {
			if i >= size {
				continue
			}
			e, err := tree.Entry(i)
			if err != nil || !bytes.Equal(e, entry(i)) {
				t.Fatalf("entry %d of %d: %q, %v", i, size, e, err)
			}
			path, err := tree.Inclusion(i)
			if err != nil {
				t.Fatalf("proving %d of %d: %v", i, size, err)
			}
			var p tlog.RecordProof
			for _, h := range path {
				p = append(p, tlog.Hash(h))
			}
			if err := tlog.CheckRecord(p, int64(size), tlog.Hash(root), int64(i), tlog.RecordHash(e)); err != nil {
				t.Fatalf("path of %d in %d: %v", i, size, err)
			}
		}
		if _, err := tree.Inclusion(size); err == nil {
			t.Error("a path beyond the end")
		}
		if _, err := tree.Entry(size); err == nil {
			t.Error("an entry beyond the end")
		}
		for _, old := range append(earlier, Tree{Size: 0}, tree) {
			p, err := tree.Consistency(old.Size)
			if err != nil {
				t.Fatalf("proving that %d extend %d: %v", size, old.Size, err)
			}
			var path [][]byte
			for _, h := range p {
				path = append(path, h[:])
			}
			if old.Size == 0 && len(p) > 0 {
				t.Error("a proof that something extends nothing")
			} else if err := mproof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, size, path, old.Root[:], root[:]); old.Size > 0 && err != nil {
				t.Fatalf("that %d extend %d: %v", size, old.Size, err)
			}
		}
		if _, err := tree.Consistency(size + 1); err == nil {
			t.Error("a proof from a larger tree")
		}
		earlier = append(earlier, tree)
		var err error
		if w, err = Resume(dir, size, root); err != nil {
			t.Fatalf("resume at %d: %v", size, err)
		}
		if w.Root() != root {
			t.Fatalf("root after resuming at %d differs", size)
		}
		if _, err := Resume(dir, size, proof.Hash{1}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("resume with another root: %v", err)
		}
	}
	// Partial tiles are there for the right end, and gone two tiles behind it.
	for name, want := range map[string]bool{
		layout.EntriesPath(66000/256, 66000%256): true, layout.TilePath(0, 66000/256, 66000%256): true, layout.TilePath(1, 1, 1): true,
		layout.TilePath(2, 0, 1): true, layout.EntriesPath(0, 200): false, layout.TilePath(0, 0, 255): false, layout.TilePath(0, 0, 0): true,
		layout.EntriesPath(1, 1): false,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A flipped bit anywhere gives an error, never a proof of something else.
func TestDamageIsNoticed(t *testing.T) {
	dir := t.TempDir()
	w := Create(dir)
	fill(t, w, 600)
	tree := Tree{dir, 600, w.Root()}
	want, err := tree.Inclusion(300)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{layout.TilePath(0, 1, 0), layout.TilePath(1, 0, 2), layout.TilePath(0, 2, 88)} {
		file := filepath.Join(dir, name)
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, 44, len(good) - 1} {
			bad := bytes.Clone(good)
			bad[at] ^= 4
			if err := os.WriteFile(file, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			if got, err := tree.Inclusion(300); err == nil && fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s damaged at %d: another proof", name, at)
			} else if err != nil && !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s damaged at %d: %v", name, at, err)
			}
		}
		if err := os.WriteFile(file, good[:len(good)-1], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readTile(dir, 0, 1, 256); name == layout.TilePath(0, 1, 0) && !errors.Is(err, ErrCorrupt) {
			t.Errorf("a short tile: %v", err)
		}
		if err := os.WriteFile(file, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "tile/1")); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Inclusion(300); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a lost tile: %v", err)
	}
	if _, err := Resume(dir, 600, tree.Root); !errors.Is(err, ErrCorrupt) {
		t.Errorf("resume without a tile: %v", err)
	}
}

// TestResumeReadsTheEnd: whatever the size is, the last bundle and the tiles above it are read and checked before anything is appended.
func TestResumeReadsTheEnd(t *testing.T) {
	for _, size := range []uint64{1, 255, 256, 257, 512, 65536, 65536 + 256} {
		dir := t.TempDir()
		w := Create(dir)
		fill(t, w, size)
		names := []string{layout.EntriesPath((size-1)/256, uint8(size%256))} // #nosec G115
		for l, n := uint64(0), size; n > 0; l, n = l+1, n/256 {
			names = append(names, layout.TilePath(l, (n-1)/256, uint8(n%256))) // #nosec G115
		}
		for _, name := range names {
			file := filepath.Join(dir, name)
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(good)
			bad[len(bad)-1] ^= 1
			for what, damage := range map[string]func() error{
				"changed": func() error { return os.WriteFile(file, bad, 0o644) },
				"short":   func() error { return os.WriteFile(file, good[:len(good)-1], 0o644) },
				"missing": func() error { return os.Remove(file) },
			} {
				if err := damage(); err != nil {
					t.Fatal(err)
				}
				if _, err := Resume(dir, size, w.Root()); !errors.Is(err, ErrCorrupt) {
					t.Errorf("size %d, %s %s: %v", size, name, what, err)
				}
			}
			if err := os.WriteFile(file, good, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Resume(dir, size, w.Root()); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

func TestEntryTooLong(t *testing.T) {
	w := Create(t.TempDir())
	if err := w.Append(make([]byte, 1<<16)); err == nil || w.Size() != 0 {
		t.Errorf("an entry of 65536 bytes: %v", err)
	}
	if err := w.Append(make([]byte, 1<<16-1)); err != nil {
		t.Errorf("an entry of 65535 bytes: %v", err)
	}
}

// Files are readable by a static server whatever the umask of the process.
func TestModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := filepath.Join(t.TempDir(), "public")
	fill(t, Create(dir), 300)
	if err := WriteFile(dir, "checkpoint", []byte("x")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := os.FileMode(0o644)
		if d.IsDir() {
			want = 0o755
		}
		if info.Mode().Perm() != want || strings.HasPrefix(d.Name(), ".new") {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHandler(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "public")
	fill(t, Create(dir), 300)
	fill(t, Create(filepath.Join(dir, "index/12")), 5)
	blob := strings.Repeat("0a", 32)
	for name, data := range map[string]string{"checkpoint": "origin\n", "blob/" + blob: "bytes", "audit/12/cour..x": "note", "audit/12/.new-1": "secret", "secret": "secret", "../outside": "secret", "tile/0/.new-1": "secret"} {
		if err := WriteFile(dir, name, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	h := Handler(dir)
	get := func(method, path string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://log.example/", nil)
		r.URL.Path = path
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for path, cache := range map[string]string{
		"/checkpoint": "no-cache", "/tile/0/000": "immutable", "/tile/0/001.p/44": "immutable", "/tile/entries/000": "immutable", "/tile/1/000.p/1": "immutable",
		"/index/12/tile/0/000.p/5": "immutable", "/index/12/tile/entries/000.p/5": "immutable", "/blob/" + blob: "immutable",
		"/audit/12/cour..x": "immutable",
	} {
		w := get("GET", path)
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), cache) || w.Header().Get("Access-Control-Allow-Origin") != "*" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		file, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || !bytes.Equal(w.Body.Bytes(), file) {
			t.Errorf("%s: other bytes than the file (%v)", path, err)
		}
		etag := w.Header().Get("ETag")
		if again := get("GET", path, "If-None-Match", etag); etag == "" || again.Code != http.StatusNotModified {
			t.Errorf("%s with its ETag: %d", path, again.Code)
		}
		if head := get("HEAD", path); head.Code != 200 || head.Body.Len() != 0 {
			t.Errorf("HEAD %s: %d, %d bytes", path, head.Code, head.Body.Len())
		}
		if post := get("POST", path); post.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, post.Code)
		}
	}
	for _, path := range []string{
		"/", "/tile", "/tile/", "/tile/0", "/tile/0/", "/tile/0/002", "/secret", "/../outside", "/tile/../../outside", "/tile/0/../../secret", "/tile/00/000", "/tile/0/0",
		"/tile/0/000.p/0", "/tile/0/000.p/256", "/tile/0/001.p/044", "/tile/0/x000/000", "/index/012/tile/0/000.p/5", "/index/12", "/index/12/", "/index/12/secret", "/index/../tile/0/000",
		"/index/12/../12/tile/0/000.p/5", "/blob/" + strings.ToUpper(blob), "/blob/", "/blob/../checkpoint", "/tile/0/.new-1", "//checkpoint", "/checkpoint/", "/tile/entries/000.p/",
		"/index/12/tile/entries/000/", "/tile/0/000\x00", "/index/-1/tile/0/000", "/index/+12/tile/0/000.p/5",
		"/audit", "/audit/12", "/audit/12/", "/audit/12/.new-1", "/audit/12/..", "/audit/012/cour..x", "/audit/12/Cour", "/audit/12/cour..x/", "/audit/12/../../secret", "/audit/-1/cour..x",
	} {
		if w := get("GET", path); w.Code != 404 || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%q: %d %q", path, w.Code, w.Body)
		}
	}
}

// Whatever is served has one spelling and stays in the directory.
func FuzzServed(f *testing.F) {
	for _, s := range []string{"checkpoint", "tile/0/x001/234.p/5", "tile/entries/000", "index/3/tile/1/000.p/9", "blob/00", "tile/0/.p", "tile/0/a.p/5", "index/3/../tile/0/000", "audit/3/cour", "audit/3/.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if !served(name) {
			return
		}
		if filepath.Clean(name) != name || !filepath.IsLocal(name) || name == "." {
			t.Errorf("%q is served", name)
		}
	})
}

func BenchmarkAppendFlush1000(b *testing.B) {
	w := Create(b.TempDir())
	e := bytes.Repeat([]byte("x"), 130)
	for range b.N {
		for range 1000 {
			if err := w.Append(e); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

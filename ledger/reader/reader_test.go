package reader_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

func entry(i uint64) []byte { return fmt.Appendf(nil, "entry %d\n", i) }

// tree writes a tree and returns its directory and, for each size asked for, its root.
func tree(t testing.TB, sizes ...uint64) (string, map[uint64]proof.Hash) {
	t.Helper()
	dir := t.TempDir()
	w := tiles.Create(dir)
	roots := map[uint64]proof.Hash{0: sha256.Sum256(nil)} // RFC 6962, section 2.1
	for _, n := range sizes {
		for w.Size() < n {
			if err := w.Append(entry(w.Size())); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		roots[n] = w.Root()
	}
	return dir, roots
}

func open(t testing.TB, place string, o reader.Options) reader.Source {
	t.Helper()
	s, err := reader.Open(place, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// A tree is read back whole, from a directory and over HTTP, with the earlier roots and the paths that x/mod's code accepts.
func TestTree(t *testing.T) {
	const size = 66_000
	dir, roots := tree(t, 1, 255, 256, 257, 65_535, 65_536, 65_537, size)
	for _, place := range []string{dir, serve(t, tiles.Handler(dir))} {
		tr, err := reader.OpenTree(t.Context(), open(t, place, reader.Options{}), "", size, roots[size])
		if err != nil {
			t.Fatal(err)
		}
		for n, want := range roots {
			if got, err := tr.RootAt(t.Context(), n); err != nil || got != want {
				t.Errorf("root at %d: %v", n, err)
			}
		}
		if _, err := tr.RootAt(t.Context(), size+1); err == nil {
			t.Error("a root beyond the end")
		}
		for _, i := range []uint64{0, 255, 256, 65_535, 65_536, size - 1} {
			e, err := tr.Entry(t.Context(), i)
			if err != nil || !bytes.Equal(e, entry(i)) {
				t.Fatalf("entry %d: %q, %v", i, e, err)
			}
			path, err := tr.Inclusion(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			var p tlog.RecordProof
			for _, h := range path {
				p = append(p, tlog.Hash(h))
			}
			if err := tlog.CheckRecord(p, size, tlog.Hash(roots[size]), int64(i), tlog.RecordHash(e)); err != nil {
				t.Fatalf("path of %d: %v", i, err)
			}
		}
		if _, err := tr.Entry(t.Context(), size); err == nil {
			t.Error("an entry beyond the end")
		}
		for _, from := range []uint64{0, 300, 65_536, size - 1, size} {
			next := from
			for b, err := range tr.Bundles(t.Context(), from, 4) {
				if err != nil {
					t.Fatal(err)
				}
				for i := range b.Entries {
					if b.First+uint64(i) != next || !bytes.Equal(b.Entries[i], entry(next)) || b.Leaves[i] != proof.LeafHash(b.Entries[i]) {
						t.Fatalf("from %d: entry %d", from, next)
					}
					next++
				}
			}
			if next != size {
				t.Errorf("from %d: %d entries", from, next)
			}
		}
	}
}

// Whatever bit of whatever file is wrong: an error that names the file, and no wrong answer.
func TestDamaged(t *testing.T) {
	const size = 66_000
	dir, roots := tree(t, 300, size)
	read := func() error {
		tr, err := reader.OpenTree(context.Background(), open(t, dir, reader.Options{}), "", size, roots[size])
		if err != nil {
			return err
		}
		for _, err := range tr.Bundles(context.Background(), 0, 4) {
			if err != nil {
				return err
			}
		}
		if got, err := tr.RootAt(context.Background(), 300); err != nil {
			return err
		} else if got != roots[300] {
			return errors.New("a wrong root")
		}
		return nil
	}
	for _, name := range []string{"tile/0/001", "tile/0/257.p/208", "tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1", "tile/entries/000", "tile/entries/001", "tile/entries/257.p/208"} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for what, bad := range map[string][]byte{
			"a bit": append([]byte{good[0] ^ 1}, good[1:]...), "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "empty": {}, "gone": nil,
		} {
			if bad == nil {
				err = os.Remove(file)
			} else {
				err = os.WriteFile(file, bad, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			err := read()
			if !errors.Is(err, reader.ErrDamaged) && !reader.IsMissing(err) && !errors.Is(err, reader.ErrRefused) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
			if err != nil && !strings.Contains(err.Error(), strings.TrimSuffix(name, ".p/208")) && !strings.Contains(err.Error(), "right end") && !strings.Contains(err.Error(), "tile/") {
				t.Errorf("%s: %s: it doesn't name the file: %v", name, what, err)
			}
		}
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	// Another root, as of another branch.
	if _, err := reader.OpenTree(t.Context(), open(t, dir, reader.Options{}), "", size, roots[300]); !errors.Is(err, reader.ErrDamaged) {
		t.Errorf("another root: %v", err)
	}
}

// A reader gets a partial tile, or the full one that took its place meanwhile.
func TestPartialReplaced(t *testing.T) {
	dir, roots := tree(t, 300, 800)
	if _, err := os.Stat(filepath.Join(dir, "tile/0/001.p")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	tr, err := reader.OpenTree(t.Context(), open(t, serve(t, tiles.Handler(dir)), reader.Options{}), "", 300, roots[300])
	if err != nil {
		t.Fatal(err)
	}
	if e, err := tr.Entry(t.Context(), 299); err != nil || !bytes.Equal(e, entry(299)) {
		t.Errorf("%q %v", e, err)
	}
}

// What servers do to their readers, and that nobody waits, fills the memory or goes elsewhere for it.
func TestHostileServer(t *testing.T) {
	other := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "other") }))
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 10<<20))
	z.Close()
	var asked atomic.Int64
	quick := reader.Options{Timeout: 200 * time.Millisecond, Attempts: 2, Pause: time.Millisecond}
	patient := reader.Options{Timeout: time.Minute, Attempts: 2, Pause: time.Millisecond} // with servers that answer, however slowly
	for name, tt := range map[string]struct {
		serve http.HandlerFunc
		want  error
		asked int64
	}{
		"slow loris": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		}, reader.ErrUnavailable, 2},
		"silence": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, reader.ErrUnavailable, 2},
		"endless body": {func(w http.ResponseWriter, r *http.Request) {
			for b := make([]byte, 1<<16); r.Context().Err() == nil; {
				w.Write(b)
			}
		}, reader.ErrRefused, 1},
		"a length beyond the limit": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "2000") }, reader.ErrRefused, 1},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "500")
			io.WriteString(w, "x")
		}, reader.ErrUnavailable, 2},
		"gzip bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb.Bytes()[:900]) // within the limit; unpacked it isn't
		}, reader.ErrRefused, 1},
		"redirect elsewhere": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other, http.StatusFound) }, reader.ErrRefused, 1},
		"redirect for ever":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) }, reader.ErrRefused, 4},
		"huge header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}, reader.ErrUnavailable, 2},
		"forbidden":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, reader.ErrRefused, 1},
		"overloaded":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, reader.ErrUnavailable, 2},
		"not there":   {http.NotFound, os.ErrNotExist, 1},
		"no response": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, reader.ErrUnavailable, 2},
	} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			u := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Add(1); tt.serve(w, r) }))
			opt := patient
			if name == "slow loris" || name == "silence" {
				opt = quick
			}
			start := time.Now()
			b, err := open(t, u, opt).Get(t.Context(), "checkpoint", 1000)
			if !errors.Is(err, tt.want) || b != nil {
				t.Errorf("%q, %v", b, err)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			if err != nil && !strings.Contains(err.Error(), "/checkpoint") {
				t.Errorf("it doesn't name the file: %v", err)
			}
			if n := asked.Load(); tt.asked != n && name != "no response" { // net/http repeats those by itself
				t.Errorf("asked %d times, want %d", n, tt.asked)
			}
		})
	}
}

// A server that is overloaded for a moment is asked again, and a redirect on the same host is followed.
func TestRetry(t *testing.T) {
	var n atomic.Int64
	u := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case n.Add(1) < 3:
			w.WriteHeader(http.StatusTooManyRequests)
		case r.URL.Path == "/log/checkpoint":
			http.Redirect(w, r, "/moved", http.StatusFound)
		default:
			io.WriteString(w, r.Header.Get("User-Agent"))
		}
	}))
	b, err := open(t, u+"/log", reader.Options{Pause: time.Millisecond, UserAgent: "test"}).Get(t.Context(), "checkpoint", 10)
	if err != nil || string(b) != "test" {
		t.Errorf("%q %v", b, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, u, reader.Options{}).Get(ctx, "checkpoint", 10); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestPlaces(t *testing.T) {
	for _, bad := range []string{"ftp://x/", "http://", "https://u:p@x/", "http://x/?q", "http://x/#f", "http://%zz/", filepath.Join(t.TempDir(), "none")} {
		if _, err := reader.Open(bad, reader.Options{}); err == nil {
			t.Errorf("%s is taken for a log", bad)
		}
	}
}

// A directory gives regular files within it, and nothing else.
func TestDirectory(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	for _, err := range []error{
		os.WriteFile(outside, []byte("secret"), 0o600), os.Symlink(outside, filepath.Join(dir, "link")), syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
		os.Mkdir(filepath.Join(dir, "sub"), 0o700), os.WriteFile(filepath.Join(dir, "large"), make([]byte, 11), 0o600), os.WriteFile(filepath.Join(dir, "good"), make([]byte, 10), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir, reader.Options{})
	if b, err := s.Get(t.Context(), "good", 10); err != nil || len(b) != 10 {
		t.Errorf("%v %v", b, err)
	}
	for _, name := range []string{"link", "pipe", "sub", "large", "../secret", "none"} {
		if b, err := s.Get(t.Context(), name, 10); err == nil {
			t.Errorf("%s: %q", name, b)
		}
	}
}

// The results come in order, no more are under way than asked for, and a consumer that stops ends the calls.
func TestOrdered(t *testing.T) {
	var running, most atomic.Int64
	next := uint64(3)
	for n, err := range reader.Ordered(t.Context(), 3, 100, 4, func(_ context.Context, n uint64) (uint64, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		time.Sleep(time.Duration(n%3) * time.Millisecond)
		if n == 50 {
			return 0, io.ErrUnexpectedEOF
		}
		return n, nil
	}) {
		if next == 50 {
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
			next++
			continue
		}
		if err != nil || n != next {
			t.Fatalf("%d, want %d: %v", n, next, err)
		}
		next++
	}
	if next != 51 || most.Load() > 5 {
		t.Errorf("it went to %d, %d at a time", next, most.Load())
	}
	for range reader.Ordered(t.Context(), 0, 1<<40, 2, func(ctx context.Context, _ uint64) (int, error) { return 0, ctx.Err() }) {
		break
	}
}

func FuzzReadBundle(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x00"), uint8(2), false)
	f.Add(bytes.Repeat([]byte{0, 0}, 256), uint8(1), true)
	f.Fuzz(func(t *testing.T, data []byte, w uint8, full bool) {
		b, err := reader.ReadBundle(data, 1, int(w), full)
		if err != nil {
			return
		}
		n := 0
		for i, e := range b.Entries {
			n += 2 + len(e)
			if proof.LeafHash(e) != b.Leaves[i] {
				t.Fatal("a leaf hash is wrong")
			}
		}
		if len(b.Entries) != int(w) || !full && n != len(data) {
			t.Fatalf("%d entries of %d bytes in %d", len(b.Entries), n, len(data))
		}
	})
}

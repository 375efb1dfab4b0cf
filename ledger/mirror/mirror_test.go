package mirror_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/mirror"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

func source(t testing.TB, place string) reader.Source {
	t.Helper()
	s, err := reader.Open(place, reader.Options{Timeout: 5 * time.Second, Attempts: 2, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open opens a mirror of a source and closes it when the test ends.
func open(t testing.TB, src reader.Source, dir string, p *proof.Policy) *mirror.Mirror {
	t.Helper()
	m, err := mirror.Open(context.Background(), mirror.Config{Source: src, Dir: dir, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func sync(t testing.TB, m *mirror.Mirror) mirror.Result {
	t.Helper()
	r, err := m.Sync(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sound demands that a directory is a whole log.
func sound(t testing.TB, dir string, p *proof.Policy, size uint64) {
	t.Helper()
	r, err := fsck.Check(context.Background(), fsck.Config{Source: source(t, dir), Policy: p})
	if err != nil || !r.Complete || len(r.Findings) > 0 || r.Size != size {
		t.Fatalf("size %d, want %d: %+v, %v", r.Size, size, r.Findings, err)
	}
}

// same demands that two directories serve the same files, byte by byte; the mirror may have no more than tiles that are partial no longer.
func same(t testing.TB, log, copied string) {
	t.Helper()
	err := filepath.WalkDir(log, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(log, path)
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(copied, name))
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(name, ".p/") {
			return nil // of a size that the mirror never had
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", name, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A mirror that follows a log has all of it at every step, serves it as the log does, and can be mirrored itself.
func TestFollow(t *testing.T) {
	p := ledgertest.NewPublished(t)
	log := httptest.NewServer(tiles.Handler(p.Dir))
	defer log.Close()
	dir := t.TempDir()
	m := open(t, source(t, log.URL), dir, p.Policy)
	p.Govern()
	p.Sign()
	for i, n := range []int{0, 1, 300, 700, 5} {
		p.Disclose(n)
		if i != 3 {
			p.Turn()
		}
		cp := p.Sign()
		r := sync(t, m)
		if r.Size != cp.Size() || len(r.Missing) > 0 || r.Behind {
			t.Fatalf("%+v", r)
		}
		sound(t, dir, p.Policy, cp.Size())
		same(t, p.Dir, dir)
		if i == 2 { // another process goes on
			m.Close()
			m = open(t, source(t, log.URL), dir, p.Policy)
		}
	}
	served := httptest.NewServer(tiles.Handler(dir))
	defer served.Close()
	second := t.TempDir()
	sync(t, open(t, source(t, served.URL), second, p.Policy))
	same(t, p.Dir, second)
	for _, name := range []string{"/checkpoint", "/tile/0/000"} {
		a, err := http.Get(log.URL + name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := http.Get(served.URL + name)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		b.Body.Close()
		if a.Header.Get("Cache-Control") != b.Header.Get("Cache-Control") || a.Header.Get("ETag") != b.Header.Get("ETag") {
			t.Errorf("%s: %v %v", name, a.Header, b.Header)
		}
	}
	for _, name := range []string{"/.lock", "/.ahead", "/evidence/x"} {
		res, err := http.Get(served.URL + name)
		if err != nil || res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %v %v", name, res, err)
		}
		res.Body.Close()
	}
}

// Two processes don't write to one mirror.
func TestLocked(t *testing.T) {
	p := ledgertest.NewPublished(t)
	dir := t.TempDir()
	open(t, source(t, p.Dir), dir, p.Policy)
	if _, err := mirror.Open(t.Context(), mirror.Config{Source: source(t, p.Dir), Dir: dir, Policy: p.Policy}); !errors.Is(err, mirror.ErrLocked) {
		t.Error(err)
	}
}

// tree returns all files of a directory but for evidence, to see that nothing was changed.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, "/evidence/") {
			var b []byte
			b, err = os.ReadFile(path)
			out[path] = string(b)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// A log that forks gets its two checkpoints kept, and nothing else of it: whether its other branch is longer, as long or shorter.
func TestFork(t *testing.T) {
	for name, n := range map[string]int{"longer": 600, "as long": 300, "shorter": 10} {
		t.Run(name, func(t *testing.T) {
			p := ledgertest.NewPublished(t)
			dir := t.TempDir()
			p.Disclose(300)
			ours := p.Sign()
			first := open(t, source(t, p.Dir), dir, p.Policy)
			sync(t, first)
			first.Close()
			q := ledgertest.NewPublished(t)
			q.Signer, q.Witnesses, q.Policy = p.Signer, p.Witnesses, p.Policy
			q.Disclose(n)
			theirs := q.Sign()
			before := tree(t, dir)
			for range 2 { // said again, kept once
				m := open(t, source(t, q.Dir), dir, p.Policy)
				if _, err := m.Sync(t.Context()); !errors.Is(err, mirror.ErrFork) || !strings.Contains(err.Error(), "evidence") {
					t.Fatalf("%v", err)
				}
				m.Close()
			}
			if after := tree(t, dir); len(after) != len(before) {
				t.Errorf("%d files, before %d", len(after), len(before))
			} else {
				for name, b := range before {
					if after[name] != b {
						t.Errorf("%s was changed", name)
					}
				}
			}
			files, err := filepath.Glob(filepath.Join(dir, "evidence", "*"))
			if err != nil || len(files) != 2 {
				t.Fatalf("%v %v", files, err)
			}
			roots := map[proof.Hash]bool{}
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				cp, err := proof.VerifyCheckpoint(b, p.Policy)
				if err != nil {
					t.Fatal(err)
				}
				roots[cp.Root()] = true
			}
			if !roots[ours.Root()] || !roots[theirs.Root()] {
				t.Error("the evidence is of something else")
			}
			sound(t, dir, p.Policy, ours.Size())
		})
	}
}

// halfway serves a log's directory, which may be another one later, and no blobs while down: a Sync copies the entries and then fails.
type halfway struct {
	dir  atomic.Pointer[string]
	down atomic.Bool
}

func (h *halfway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.down.Load() && strings.HasPrefix(r.URL.Path, "/blob/") {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	tiles.Handler(*h.dir.Load()).ServeHTTP(w, r)
}

// branch continues the copy of a log in a directory of its own with n other entries, under the same keys.
func branch(t testing.TB, p *ledgertest.Published, from string, at proof.Checkpoint, n int) (string, proof.Checkpoint) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	w, err := tiles.Resume(dir, at.Size(), at.Root())
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		text, err := proof.EntryText(proof.Disclosure{Commitment: proof.Commitment{1}})
		if err == nil {
			err = w.Append(text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	signed := p.Checkpoint(w.Size(), w.Root(), p.Witnesses...)
	cp, err := proof.VerifyCheckpoint(signed, p.Policy)
	if err = errors.Join(err, w.Flush(), tiles.WriteFile(dir, "checkpoint", signed)); err != nil {
		t.Fatal(err)
	}
	return dir, cp
}

// What a mirror copied and couldn't finish counts: a log that takes it back has forked, also where its other branch extends what the mirror serves, and another process knows of it.
func TestForkAhead(t *testing.T) {
	for name, n := range map[string]int{"longer": 600, "as long": 400, "between": 200} {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, another process %v", name, again), func(t *testing.T) {
				p := ledgertest.NewPublished(t)
				p.Disclose(300)
				own := p.Sign()
				var h halfway
				h.dir.Store(&p.Dir)
				log := httptest.NewServer(&h)
				defer log.Close()
				dir := t.TempDir()
				m := open(t, source(t, log.URL), dir, p.Policy)
				sync(t, m)
				forked := t.TempDir()
				if err := os.CopyFS(forked, os.DirFS(p.Dir)); err != nil {
					t.Fatal(err)
				}
				p.Govern()
				p.Disclose(396)
				ours := p.Sign()
				h.down.Store(true)
				if _, err := m.Sync(t.Context()); err == nil {
					t.Fatal("no error")
				}
				sound(t, dir, p.Policy, own.Size())
				if again {
					m.Close()
					m = open(t, source(t, log.URL), dir, p.Policy)
				}
				forked, theirs := branch(t, p, forked, own, n)
				h.dir.Store(&forked)
				h.down.Store(false)
				if _, err := m.Sync(t.Context()); !errors.Is(err, mirror.ErrFork) {
					t.Fatalf("%v", err)
				}
				sound(t, dir, p.Policy, own.Size())
				for _, cp := range []proof.Checkpoint{ours, theirs} {
					kept, err := filepath.Glob(filepath.Join(dir, "evidence", fmt.Sprintf("%d-*", cp.Size())))
					if err != nil || len(kept) == 0 {
						t.Errorf("of the tree of %d entries there is no evidence: %v", cp.Size(), err)
					}
				}
				// The history that was copied is still the mirror's.
				h.dir.Store(&p.Dir)
				sync(t, m)
				sound(t, dir, p.Policy, ours.Size())
			})
		}
	}
}

// Wherever a process ends: what it leaves is whole, the next one finishes it, and a log that forked meanwhile doesn't get its two trees mixed.
func TestCutOff(t *testing.T) {
	p := ledgertest.NewPublished(t)
	p.Disclose(300)
	own := p.Sign()
	dir := t.TempDir()
	first := open(t, source(t, p.Dir), dir, p.Policy)
	sync(t, first)
	first.Close()
	forked, theirs := branch(t, p, p.Dir, own, 701)
	p.Govern()
	p.Disclose(696)
	p.Turn()
	ours := p.Sign()
	if theirs.Size() != ours.Size() {
		t.Fatal(theirs.Size(), ours.Size())
	}
	var left []string              // what is there at each request
	turn := make(chan struct{}, 1) // several files are asked for at the same time
	log := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turn <- struct{}{}
		err := fs.ErrNotExist
		for errors.Is(err, fs.ErrNotExist) { // a file got its name, or was removed, while the directory was copied
			at := filepath.Join(t.TempDir(), "left")
			if err = os.CopyFS(at, os.DirFS(dir)); err == nil {
				left = append(left, at)
			}
		}
		if err != nil {
			t.Error(err)
		}
		<-turn
		tiles.Handler(p.Dir).ServeHTTP(w, r)
	}))
	defer log.Close()
	sync(t, open(t, source(t, log.URL), dir, p.Policy))
	known := 0
	for _, at := range left {
		sound(t, at, p.Policy, own.Size())
		twin := filepath.Join(t.TempDir(), "twin")
		if err := os.CopyFS(twin, os.DirFS(at)); err != nil {
			t.Fatal(err)
		}
		sync(t, open(t, source(t, p.Dir), at, p.Policy))
		sound(t, at, p.Policy, ours.Size())
		same(t, p.Dir, at)
		switch _, err := open(t, source(t, forked), twin, p.Policy).Sync(t.Context()); {
		case errors.Is(err, mirror.ErrFork):
			known++
			sound(t, twin, p.Policy, own.Size())
		case err != nil:
			t.Error(err)
		default:
			sound(t, twin, p.Policy, theirs.Size())
		}
	}
	if known == 0 || known == len(left) {
		t.Errorf("of %d processes that ended %d had copied the entries", len(left), known)
	}
}

// A log that serves a tree between the one that the mirror serves and the one that it copied has done nothing wrong, and what was copied is finished when the log serves it again.
func TestBehindAhead(t *testing.T) {
	for _, again := range []bool{false, true} {
		for _, first := range []bool{false, true} {
			p := ledgertest.NewPublished(t)
			var h halfway
			h.dir.Store(&p.Dir)
			log := httptest.NewServer(&h)
			defer log.Close()
			dir := t.TempDir()
			m := open(t, source(t, log.URL), dir, p.Policy)
			own := uint64(0)
			if !first {
				p.Disclose(300)
				p.Sign()
				own = sync(t, m).Size
			}
			p.Disclose(100)
			between := p.Sign()
			p.Govern()
			p.Disclose(300)
			now := p.Sign()
			h.down.Store(true)
			if _, err := m.Sync(t.Context()); err == nil {
				t.Fatal("no error")
			}
			h.down.Store(false)
			if again {
				m.Close()
				m = open(t, source(t, log.URL), dir, p.Policy)
			}
			if err := tiles.WriteFile(p.Dir, "checkpoint", between.Note()); err != nil {
				t.Fatal(err)
			}
			if r := sync(t, m); !r.Behind || r.Size != own {
				t.Errorf("another process %v, the first Sync %v: %+v", again, first, r)
			}
			if err := tiles.WriteFile(p.Dir, "checkpoint", now.Note()); err != nil {
				t.Fatal(err)
			}
			sync(t, m)
			sound(t, dir, p.Policy, now.Size())
			// As if the process had ended before it could say that nothing is ahead any more.
			if err := tiles.WriteFile(dir, ".ahead", now.Note()); err != nil {
				t.Fatal(err)
			}
			m.Close()
			m = open(t, source(t, log.URL), dir, p.Policy)
			if r := sync(t, m); r.Behind || r.Size != now.Size() {
				t.Errorf("%+v", r)
			}
			p.Disclose(10)
			now = p.Sign()
			sync(t, m)
			sound(t, dir, p.Policy, now.Size())
			if _, err := os.Stat(filepath.Join(dir, ".ahead")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what isn't ahead any more is kept: %v", err)
			}
		}
	}
}

// Every history begins with the empty tree: a checkpoint of it contradicts none, first, last or again.
func TestEmpty(t *testing.T) {
	p := ledgertest.NewPublished(t)
	empty := p.Checkpoint(0, proof.Hash(sha256.Sum256(nil)), p.Witnesses...)
	serve := func() {
		if err := tiles.WriteFile(p.Dir, "checkpoint", empty); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	m := open(t, source(t, p.Dir), dir, p.Policy)
	for range 2 {
		serve()
		if r := sync(t, m); r.Size != 0 || r.Behind {
			t.Errorf("%+v", r)
		}
		m.Close()
		m = open(t, source(t, p.Dir), dir, p.Policy)
	}
	p.Disclose(300)
	cp := p.Sign()
	sync(t, m)
	serve()
	if r := sync(t, m); r.Size != cp.Size() || !r.Behind {
		t.Errorf("%+v", r)
	}
	sound(t, dir, p.Policy, cp.Size())
}

// A log that serves an older tree of the same history doesn't set the mirror back.
func TestBehind(t *testing.T) {
	p := ledgertest.NewPublished(t)
	p.Disclose(300)
	early := p.Sign()
	p.Disclose(300)
	now := p.Sign()
	dir := t.TempDir()
	m := open(t, source(t, p.Dir), dir, p.Policy)
	sync(t, m)
	if err := tiles.WriteFile(p.Dir, "checkpoint", early.Note()); err != nil {
		t.Fatal(err)
	}
	if r := sync(t, m); !r.Behind || r.Size != now.Size() {
		t.Errorf("%+v", r)
	}
	sound(t, dir, p.Policy, now.Size())
}

// Cosignatures that come later are taken over, and are not lost again.
func TestCosignatures(t *testing.T) {
	p := ledgertest.NewPublished(t)
	dir := t.TempDir()
	m := open(t, source(t, p.Dir), dir, p.Policy)
	for _, n := range []int{1, 3, 2, 0} {
		p.SignWith(p.Witnesses[:n]...)
		sync(t, m)
		if cp, ok := m.Checkpoint(); !ok || n == 1 && cp.Witnessed() || n != 1 && len(cp.Witnesses()) != 3 {
			t.Errorf("after %d: %v", n, cp.Witnesses())
		}
	}
}

// Whatever a server does on the way: the copy is whole and as it was, or as the log signed.
func TestHostileServer(t *testing.T) {
	p := ledgertest.NewPublished(t)
	p.Govern()
	p.Disclose(300)
	p.Turn()
	old := p.Sign()
	dir := t.TempDir()
	var break_ atomic.Pointer[string]
	var how atomic.Pointer[http.HandlerFunc]
	good := tiles.Handler(p.Dir)
	log := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b := break_.Load(); b != nil && strings.HasPrefix(r.URL.Path, *b) {
			(*how.Load())(w, r)
			return
		}
		good.ServeHTTP(w, r)
	}))
	defer log.Close()
	m := open(t, source(t, log.URL), dir, p.Policy)
	sync(t, m)
	p.Append(proof.PolicyActivated{Revision: "r2", Bundle: p.Blob([]byte("another bundle"))})
	p.Disclose(600)
	p.Turn()
	now := p.Sign()
	garbage := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 8192)) })
	down := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	none := http.HandlerFunc(http.NotFound)
	for _, path := range []string{"/checkpoint", "/tile/0/", "/tile/0/002", "/tile/1/", "/tile/entries/", "/tile/entries/003"} {
		for i, h := range []http.HandlerFunc{garbage, down, none} {
			how.Store(&h)
			break_.Store(&path)
			if _, err := m.Sync(t.Context()); err == nil && path != "/tile/0/002" { // which isn't needed: its hashes follow from the entries
				t.Errorf("%s, %d: no error", path, i)
			} else if err == nil {
				continue
			}
			sound(t, dir, p.Policy, old.Size())
		}
		if cp, _ := m.Checkpoint(); cp.Size() == now.Size() {
			break
		}
	}
	// What governance refers to and indexes: the copy goes on without them, says so, and gets them later.
	for _, path := range []string{"/blob/", "/index/1/tile/entries/", "/index/1/tile/1/"} {
		for i, h := range []http.HandlerFunc{garbage, none} {
			how.Store(&h)
			break_.Store(&path)
			fresh := t.TempDir()
			f := open(t, source(t, log.URL), fresh, p.Policy)
			if r := sync(t, f); len(r.Missing) == 0 || r.Size != now.Size() {
				t.Errorf("%s, %d: %+v", path, i, r)
			}
			if r := sync(t, f); len(r.Missing) == 0 {
				t.Errorf("%s, %d: it is forgotten", path, i)
			}
			break_.Store(nil)
			if r := sync(t, f); len(r.Missing) > 0 {
				t.Errorf("%s, %d: %+v", path, i, r)
			}
			sound(t, fresh, p.Policy, now.Size())
		}
	}
	break_.Store(nil)
	sync(t, m)
	sound(t, dir, p.Policy, now.Size())
	same(t, p.Dir, dir)
}

// A copy that was damaged on the disk, or cut off in the middle, is mended; what is good isn't fetched again.
func TestMend(t *testing.T) {
	p := ledgertest.NewPublished(t)
	p.Govern()
	p.Disclose(5000)
	p.Turn()
	cp := p.Sign()
	var fetched atomic.Int64
	log := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/tile/entries/") || strings.HasPrefix(r.URL.Path, "/index/") {
			fetched.Add(1)
		}
		tiles.Handler(p.Dir).ServeHTTP(w, r)
	}))
	defer log.Close()
	dir := t.TempDir()
	m := open(t, source(t, log.URL), dir, p.Policy)
	sync(t, m)
	m.Close()
	all := fetched.Load()
	for _, name := range []string{"tile/0/003", "tile/entries/003", "tile/1/000.p/19", "index/0/tile/entries/001", "index/0/tile/0/001", "checkpoint"} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if name == "checkpoint" { // as if it was cut off before the end
			err = os.Remove(file)
		} else {
			b[40] ^= 1
			err = os.WriteFile(file, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		fetched.Store(0)
		m := open(t, source(t, log.URL), dir, p.Policy)
		if r := sync(t, m); r.Size != cp.Size() {
			t.Errorf("%s: %+v", name, r)
		}
		m.Close()
		if n := fetched.Load(); n > 5 && !strings.HasPrefix(name, "index/") {
			t.Errorf("%s: %d of %d files were fetched again", name, n, all)
		}
		sound(t, dir, p.Policy, cp.Size())
	}
	if err := os.WriteFile(filepath.Join(dir, "checkpoint"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := mirror.Open(t.Context(), mirror.Config{Source: source(t, log.URL), Dir: dir, Policy: p.Policy}); err == nil {
		t.Error("a mirror goes on from what is no checkpoint")
	}
}

// Another log's mirror isn't overwritten.
func TestAnotherLog(t *testing.T) {
	p := ledgertest.NewPublished(t)
	p.Sign()
	dir := t.TempDir()
	m := open(t, source(t, p.Dir), dir, p.Policy)
	sync(t, m)
	m.Close()
	q := ledgertest.NewPublished(t)
	q.Sign()
	if _, err := mirror.Open(t.Context(), mirror.Config{Source: source(t, q.Dir), Dir: dir, Policy: q.Policy}); err == nil || errors.Is(err, mirror.ErrLocked) {
		t.Errorf("it is: %v", err)
	}
}

// Statements of auditors that are good are copied, also later, with the key; others are not.
func TestAudits(t *testing.T) {
	p := ledgertest.NewPublished(t)
	skey, vkey, err := note.GenerateKey(rand.Reader, "cour.example")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	p.Append(proof.KeyChanged{Key: "auditor.cour", Use: proof.UseAuditor, State: proof.Active, Public: proof.AuditorKey(vkey)})
	p.Disclose(10)
	first := p.Turn()
	second := p.Turn()
	p.Sign()
	dir := t.TempDir()
	m := open(t, source(t, p.Dir), dir, p.Policy)
	sync(t, m)
	p.Blob([]byte(vkey))
	state := func(m proof.Marker, origin string) {
		a := proof.IndexAudit{Origin: origin, Epoch: m.Epoch - 1, Marker: m.At(), Root: m.Closed.Index, Items: m.Closed.Items, Entries: m.Closed.Items}
		text, err := a.AppendText(nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
		if err == nil {
			err = tiles.WriteFile(p.Dir, fsck.AuditName(a.Epoch, "cour"), signed)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	state(first, ledgertest.Origin)
	state(second, "other.example")
	for _, want := range []int{1, 0} {
		if r := sync(t, m); r.Audits != want {
			t.Errorf("%+v", r)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "audit/0/cour")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "audit/1/cour")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("what isn't good is copied")
	}
	if r, err := fsck.Check(t.Context(), fsck.Config{Source: source(t, dir), Policy: p.Policy}); err != nil || r.Audited != 1 || len(r.Findings) > 0 {
		t.Errorf("%+v %v", r, err)
	}
}

// A second marker of an epoch doesn't take the place of its index.
func TestSecondMarker(t *testing.T) {
	p := ledgertest.NewPublished(t)
	p.Turn()
	p.Disclose(10)
	p.Turn()
	p.Sign()
	dir := t.TempDir()
	m := open(t, source(t, p.Dir), dir, p.Policy)
	sync(t, m)
	before := tree(t, filepath.Join(dir, "index"))
	p.Disclose(20)
	p.Mark = func(m *proof.Marker) { m.Epoch-- }
	p.Turn()
	p.Sign()
	sync(t, m)
	after := tree(t, filepath.Join(dir, "index"))
	if len(after) != len(before) {
		t.Error("the index of epoch 0 is another one")
	}
	for name, b := range before {
		if after[name] != b {
			t.Errorf("%s was changed", name)
		}
	}
}

package broker_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/tiles"
)

// TestWholeDirectoryPutBack puts an older copy of the whole data directory back, as a snapshot of the machine does. Every part agrees with every other then, and the broker went on silently, on a
// second branch of the log. What lies elsewhere shows it.
func TestWholeDirectoryPutBack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		signedDir bool
		change    func(t *testing.T, w *watched, public string) // public is a copy of the newest published files
		refused   string                                        // part of the explanation; empty: it starts
		halted    bool
	}{
		// The limit, as docs/threat-model.md states it.
		"nothing elsewhere": {},
		"signed_dir":        {signedDir: true, refused: "the store is an older copy", halted: true},
		"a mirror": {change: func(t *testing.T, w *watched, public string) {
			w.cfg.Mirrors = []string{mirror(t, tiles.Handler(public))}
		}, refused: "the store is an older copy", halted: true},
		"a copied file": {change: func(_ *testing.T, w *watched, public string) {
			w.cfg.Mirrors = []string{filepath.Join(public, "checkpoint")}
		}, refused: "the store is an older copy", halted: true},
		"one mirror of two is down": {change: func(t *testing.T, w *watched, public string) {
			w.cfg.Mirrors = []string{mirror(t, http.HandlerFunc(unavailable)), mirror(t, tiles.Handler(public))}
		}, refused: "the store is an older copy", halted: true},
		// Whoever ignores mirrors that are down doesn't ignore what the others say.
		"ignored, and there": {change: func(t *testing.T, w *watched, public string) {
			w.cfg.Mirrors, w.cfg.IgnoreMirrors = []string{mirror(t, tiles.Handler(public))}, true
		}, refused: "the store is an older copy", halted: true},
		"the mirror is down": {change: func(t *testing.T, w *watched, _ string) {
			w.cfg.Mirrors = []string{mirror(t, http.HandlerFunc(unavailable))}
		}, refused: "it answered 503"},
		"the mirror is empty": {change: func(t *testing.T, w *watched, _ string) {
			w.cfg.Mirrors = []string{mirror(t, tiles.Handler(t.TempDir()))}
		}, refused: "it has no checkpoint"},
		"the file is not there": {change: func(t *testing.T, w *watched, _ string) { w.cfg.Mirrors = []string{filepath.Join(t.TempDir(), "none")} }, refused: "no such file"},
		"something else is there": {change: func(t *testing.T, w *watched, _ string) {
			w.cfg.Mirrors = []string{mirror(t, http.HandlerFunc(portal))}
		}, refused: "no checkpoint of this log"},
		"the mirror sends us away": {change: func(t *testing.T, w *watched, _ string) {
			w.cfg.Mirrors = []string{mirror(t, http.RedirectHandler("/x", http.StatusFound))}
		}, refused: "it answered 302"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatched(t, func(c *broker.Config) {
				if tt.signedDir {
					c.SignedDir = filepath.Join(t.TempDir(), "signed")
				}
			})
			w.provider.answer = couple
			w.disclose(asker("TUE AVANT"))
			w.close()
			old, public := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "public")
			copyTree(t, w.cfg.DataDir, old)
			w.open()
			w.disclose(asker("TUE APRES"))
			w.close()
			copyTree(t, filepath.Join(w.cfg.DataDir, "public"), public)
			before := published(t, public)
			if err := os.RemoveAll(w.cfg.DataDir); err != nil {
				t.Fatal(err)
			}
			copyTree(t, old, w.cfg.DataDir)
			if tt.change != nil {
				tt.change(t, w, public)
			}
			atStart := published(t, filepath.Join(w.cfg.DataDir, "public"))
			b, err := broker.New(t.Context(), w.cfg)
			if tt.refused == "" {
				if err != nil {
					t.Fatal(err)
				}
				w.b = b
				return
			}
			if err == nil {
				w.b = b
				t.Fatal("the broker works on an older copy")
			}
			if !strings.Contains(err.Error(), tt.refused) || errors.Is(err, ledger.ErrHalted) != tt.halted {
				t.Errorf("refused by %v", err)
			}
			if got := published(t, filepath.Join(w.cfg.DataDir, "public")); got != atStart || got == before {
				t.Error("something was published")
			}
			t.Logf("refused: %v", err)
		})
	}
}

// A broker that forked while no mirror was asked is found out by the first one that is.
func TestForkIsFoundByMirror(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	w.provider.answer = couple
	w.close()
	old, public := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "public")
	copyTree(t, w.cfg.DataDir, old)
	w.open()
	w.disclose(asker("TUE UN"))
	w.close()
	copyTree(t, filepath.Join(w.cfg.DataDir, "public"), public)
	if err := os.RemoveAll(w.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	copyTree(t, old, w.cfg.DataDir)
	w.cfg.Mirrors, w.cfg.IgnoreMirrors = []string{mirror(t, http.HandlerFunc(unavailable))}, true
	w.open()
	w.disclose(asker("TUE DEUX"))
	w.disclose(asker("TUE TROIS"))
	w.close()
	w.cfg.Mirrors, w.cfg.IgnoreMirrors = []string{mirror(t, tiles.Handler(public))}, false
	b, err := broker.New(t.Context(), w.cfg)
	w.b = b
	if !errors.Is(err, ledger.ErrHalted) || !strings.Contains(err.Error(), "contradict each other: it was forked") {
		t.Errorf("the fork was met with %v", err)
	}
}

// What is mirrored is behind while a broker runs, and a new log has nothing to mirror: neither stops a start.
func TestMirrorBehind(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	w := newWatched(t, func(c *broker.Config) { c.Mirrors = []string{mirror(t, tiles.Handler(empty))} })
	w.provider.answer = couple
	w.close()
	behind := filepath.Join(t.TempDir(), "behind")
	copyTree(t, filepath.Join(w.cfg.DataDir, "public"), behind)
	w.cfg.Mirrors = []string{mirror(t, tiles.Handler(behind))}
	w.open()
	a := w.disclose(asker("TUE UN"))
	w.close()
	w.open()
	w.extends(a)
}

// A signed_dir whose disk isn't mounted is empty. The published checkpoint would stand in for it, but that is part of the very directory that may be a copy.
func TestSignedDirIsEmpty(t *testing.T) {
	t.Parallel()
	w := newWatched(t, func(c *broker.Config) { c.SignedDir = filepath.Join(t.TempDir(), "signed") })
	w.provider.answer = couple
	a := w.disclose(asker("TUE UN"))
	w.close()
	if _, err := os.Stat(filepath.Join(w.cfg.DataDir, "signed")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory has a signed/, too: %v", err)
	}
	w.cfg.SignedDir = filepath.Join(t.TempDir(), "unmounted")
	b, err := broker.New(t.Context(), w.cfg)
	if err == nil || !strings.Contains(err.Error(), "is its disk mounted?") {
		w.b = b
		t.Fatalf("started with an empty signed_dir: %v", err)
	}
	// The operator has a copy of the published checkpoint elsewhere: that vouches.
	public := filepath.Join(t.TempDir(), "public")
	copyTree(t, filepath.Join(w.cfg.DataDir, "public"), public)
	w.cfg.Mirrors = []string{filepath.Join(public, "checkpoint")}
	w.open()
	w.extends(a)
	w.close()
	w.cfg.Mirrors = nil
	w.open()
	w.extends(a)
}

func mirror(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func unavailable(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusServiceUnavailable)
}

func portal(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte("<html>Please log in</html>"))
}

func published(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestMirrorsAreAskedAtOnce: one that waits for the other to be asked doesn't make it wait.
func TestMirrorsAreAskedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	w.disclose(request())
	public := filepath.Join(w.cfg.DataDir, "public")
	w.close()
	var asked sync.WaitGroup
	asked.Add(2)
	var urls []string
	for range 2 {
		var once sync.Once
		urls = append(urls, mirror(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			once.Do(asked.Done)
			asked.Wait()
			tiles.Handler(public).ServeHTTP(rw, r)
		})))
	}
	w.cfg.Mirrors = urls
	w.open()
	if text := w.text(); strings.Contains(text, "a mirror doesn't say") {
		t.Errorf("%s", text)
	}
}

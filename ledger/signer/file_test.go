package signer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFile(t *testing.T) {
	t.Parallel()
	load := func(text string) (*File, error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "signer.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return LoadFile(path)
	}
	for _, good := range []string{
		"database: d",
		"database: /d\nlisten: unix:/s\nops: 127.0.0.1:1\ntree: 7\nkeep_roots: 1",
		"database: d\nlisten: :8090\ncert: c\nkey: k\nclient_ca: a\nclients: [x]",
	} {
		f, err := load(good)
		if err != nil || !filepath.IsAbs(f.Database) {
			t.Errorf("%q: %+v, %v", good, f, err)
		}
	}
	const tls = "\ncert: c\nkey: k\nclient_ca: a"
	for bad, want := range map[string]string{
		"":                                    "EOF",
		"tree: 1":                             "database is missing",
		"database: d\nunknown: 1":             "unknown",
		"database: d\ndatabase: e":            "already defined",
		"database: d\n---\ndatabase: e":       "more than one document",
		"database: d\ntree: -1":               "tree is negative",
		"database: d\nkeep_roots: -1":         "keep_roots is negative",
		"database: d\nlisten: 127.0.0.1:1":    "whoever reaches it",
		"database: d\nlisten: unix:s":         "absolute path",
		"database: d\nlisten: :1\ncert: c":    "whoever reaches it",
		"database: d\ncert: c":                "go together",
		"database: d\nclients: [a]":           "go together",
		"database: d" + tls:                   "no meaning",
		"database: d\nlisten: unix:/s" + tls:  "no meaning",
		"database: d\nlisten: host" + tls:     "not host:port",
		"database: d\nops: host":              "not host:port",
		"database: d\nlisten: [a]":            "cannot unmarshal",
		strings.Repeat("# long\n", maxFile/6): "larger than",
	} {
		if _, err := load(bad); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", bad, err, want)
		}
	}
	if _, err := LoadFile("missing"); !errors.Is(err, ErrConfig) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := (&File{Database: "missing"}).DSN(); !errors.Is(err, ErrConfig) {
		t.Errorf("a missing connection string: %v", err)
	}
}

// FuzzFile: whatever a file holds, it is refused or passes Check, and nothing panics.
func FuzzFile(f *testing.F) {
	f.Add([]byte("database: d\nlisten: :8090\ncert: c\nkey: k\nclient_ca: a\nclients: [x]\n"))
	f.Add([]byte("database: d\nlisten: unix:/s\nops: 127.0.0.1:1\ntree: 7\nkeep_roots: 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseFile(b)
		if err != nil {
			return
		}
		if err := c.Check(); err == nil && (c.Database == "" || c.Listen != "" && !strings.HasPrefix(c.Listen, "unix:") && c.ClientCA == "") {
			t.Errorf("accepted %+v", c)
		}
	})
}

package ledger_test

import (
	"context"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/tiles"
)

var (
	caddyPaths  = regexp.MustCompile(`(?m)^\s*@(\w+) (?:path ([^\n]+)|\{\s*path ([^\n]+)\s*file\s*\})`)
	caddyCommon = regexp.MustCompile(`(?s)\n\theader \{(.*?)\n\t\}`)
	caddyHandle = regexp.MustCompile(`(?s)handle @(\w+) \{(.*?)\}`)
	caddyHeader = regexp.MustCompile(`(?m)^\s*(?:header )?(Cache-Control|Content-Type|Access-Control-Allow-Origin|X-Content-Type-Options) (?:"([^"]*)"|(\S+))$`)
)

func headersOf(block string) map[string]string {
	out := map[string]string{}
	for _, m := range caddyHeader.FindAllStringSubmatch(block, -1) {
		out[m[1]] = m[2] + m[3]
	}
	return out
}

// The static server of deploy/ says of every published file what the broker's own handler says: for how long it may be kept, and that any page may read it. A file that the one serves
// and the other doesn't would be missed by whoever moves from one to the other.
func TestStaticServerAgrees(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "deploy", "compose", "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	block := caddyCommon.FindSubmatch(text)
	if block == nil {
		t.Fatal("no headers of all answers")
	}
	common := headersOf(string(block[1]))
	headers := map[string]map[string]string{} // by matcher
	for _, m := range caddyHandle.FindAllStringSubmatch(string(text), -1) {
		headers[m[1]] = headersOf(m[2])
	}
	globs := map[string]string{} // matcher by prefix, or by the whole path
	for _, m := range caddyPaths.FindAllStringSubmatch(string(text), -1) {
		for _, p := range strings.Fields(m[2] + m[3]) {
			globs[strings.TrimSuffix(p, "*")] = m[1]
		}
	}
	if len(common) != 2 || len(headers) != 2 || len(globs) != 5 {
		t.Fatalf("the Caddyfile isn't read right: %v, %v, %v", common, headers, globs)
	}

	ctx := context.Background()
	env := ledgertest.New(t)
	l := env.Open()
	for i := range 300 {
		g, _ := ledgertest.Disclosure(ledgertest.Person(i % 50))
		if _, err := l.Append(ctx, g); err != nil {
			t.Fatal(err)
		}
	}
	turnEpoch(t, env, l)
	env.Wait(l)
	blob := filepath.Join(env.Dir, "blob", strings.Repeat("ab", 32))
	statement := filepath.Join(env.Dir, "audit", "0", "auditor")
	for _, f := range []string{blob, statement} {
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := tiles.Handler(env.Dir)
	kinds := map[string]int{}
	err = filepath.WalkDir(env.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(env.Dir, path)
		if err != nil {
			return err
		}
		name := "/" + filepath.ToSlash(rel)
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, name, nil))
		matcher := globs[name]
		for prefix, m := range globs {
			if strings.HasSuffix(prefix, "/") && strings.HasPrefix(name, prefix) {
				matcher = m
			}
		}
		if (rec.Code == http.StatusOK) != (matcher != "") {
			t.Errorf("%s: %d of the handler, and the matcher %q", name, rec.Code, matcher)
		}
		if rec.Code != http.StatusOK {
			return nil
		}
		kinds[strings.SplitN(name, "/", 3)[1]]++
		for _, want := range []map[string]string{common, headers[matcher]} {
			for key, value := range want {
				if got := rec.Header().Get(key); got != value {
					t.Errorf("%s: %s is %q of the handler, and %q in the Caddyfile", name, key, got, value)
				}
			}
		}
		if len(headers[matcher]) != 2 {
			t.Errorf("%s: the Caddyfile says %v", name, headers[matcher])
		}
		// Whoever asks for what isn't there yet must not keep that answer.
		rec = httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, name+"~", nil))
		if rec.Code != http.StatusNotFound || rec.Header().Get("Cache-Control") != "" {
			t.Errorf("%s~: %d, Cache-Control %q", name, rec.Code, rec.Header().Get("Cache-Control"))
		}
		// A static server runs as another user.
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o044 != 0o044 {
			t.Errorf("%s has mode %v: a static server can't read it", name, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"checkpoint", "tile", "index", "audit", "blob"} {
		if kinds[kind] == 0 {
			t.Errorf("no file of the kind %s", kind)
		}
	}
}

package verifier_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/broker/portal/verifier"
	"github.com/regard-broker/regard/cmd/regard-audit/audit"
	"github.com/regard-broker/regard/ledger/verdict"
)

// maxSize is what a person downloads for the verifier at most, in bytes.
const maxSize = 1_500_000

var update = flag.Bool("update", false, "write words.js anew")

// TestWordsFile: what the script says while there is no report are the words of the verdict.
func TestWordsFile(t *testing.T) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(map[verdict.Lang]verdict.Around{verdict.French: verdict.NewAround(verdict.French), verdict.English: verdict.NewAround(verdict.English)}); err != nil {
		t.Fatal(err)
	}
	want := "// The words around a verdict, in each language. Written by go generate.\nexport default " + strings.TrimSpace(b.String()) + ";\n"
	if *update {
		if err := os.WriteFile("words.js", []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(read(t, "words.js")); got != want {
		t.Error("words.js isn't of these words: run go generate")
	}
}

func loaded(t *testing.T) *verifier.Verifier {
	t.Helper()
	v, err := verifier.Load(browsertest.Verifier(t), []byte(load(t).Common.Policy))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSize(t *testing.T) {
	b := read(t, browsertest.Verifier(t), "verifier.wasm.gz")
	t.Logf("%d bytes", len(b))
	if len(b) == 0 || len(b) >= maxSize {
		t.Errorf("%d bytes packed, want less than %d", len(b), maxSize)
	}
}

// TestReproducible: another directory with the same source gives the same bytes.
func TestReproducible(t *testing.T) {
	dir := t.TempDir()
	src, out := filepath.Join(dir, "elsewhere"), filepath.Join(dir, "out")
	root := "../../.."
	for _, part := range []string{"go.mod", "go.sum", "ledger/proof", "ledger/verdict", "cmd/regard-verifier", "broker/portal/verifier", "deploy/tools/verifier"} {
		err := filepath.WalkDir(filepath.Join(root, part), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			path = filepath.Join(src, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			return os.WriteFile(path, b, 0o755)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(filepath.Join(src, "deploy/tools/verifier"), out)
	c.Env = append(os.Environ(), "GOFLAGS=-race", "CGO_ENABLED=1", "GOARCH=arm64", "GOWASM=satconv") // nothing of it goes in
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, name := range []string{"verifier.sha256", "verifier.wasm.gz", "wasm_exec.js"} {
		if !bytes.Equal(read(t, out, name), read(t, browsertest.Verifier(t), name)) {
			t.Errorf("%s: other bytes", name)
		}
	}
}

// TestLoad: what isn't of one build isn't served.
func TestLoad(t *testing.T) {
	policy := []byte(load(t).Common.Policy)
	copied := func(t *testing.T) string {
		dir := t.TempDir()
		for _, name := range []string{"verifier.sha256", "verifier.wasm.gz", "wasm_exec.js"} {
			if err := os.WriteFile(filepath.Join(dir, name), read(t, browsertest.Verifier(t), name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	change := func(name string, f func([]byte) []byte) func(dir string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), f(b), 0o600)
		}
	}
	pack := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = z.Write(b)
		_ = z.Close()
		return out.Bytes()
	}
	for name, c := range map[string]struct {
		change func(dir string) error
		policy []byte
		want   string
	}{
		"as built":             {func(string) error { return nil }, policy, ""},
		"nothing":              {func(dir string) error { return os.RemoveAll(dir) }, policy, verifier.ErrMissing.Error()},
		"no policy":            {func(string) error { return nil }, []byte("quorum none\n"), "policy"},
		"another list":         {change("verifier.sha256", func(b []byte) []byte { return bytes.ToUpper(b) }), policy, "of another build"},
		"another program":      {change("verifier.wasm.gz", func([]byte) []byte { return pack([]byte("\x00asm")) }), policy, "of another build"},
		"a program cut off":    {change("verifier.wasm.gz", func(b []byte) []byte { return b[:len(b)/2] }), policy, "unexpected EOF"},
		"a program unpacked":   {change("verifier.wasm.gz", func([]byte) []byte { return []byte("\x00asm") }), policy, "the verifier in"},
		"a bomb":               {change("verifier.wasm.gz", func([]byte) []byte { return pack(make([]byte, 64<<20)) }), policy, "larger than a verifier is"},
		"another wasm_exec.js": {change("wasm_exec.js", func(b []byte) []byte { return append(b, '\n') }), policy, "of another build"},
		"no wasm_exec.js":      {func(dir string) error { return os.Remove(filepath.Join(dir, "wasm_exec.js")) }, policy, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t)
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			v, err := verifier.Load(dir, c.policy)
			if (err == nil) != (c.want == "") || err != nil && (v != nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestDir(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if dir, err := verifier.Dir(); err != nil || dir != filepath.Join(filepath.Dir(program), "verifier") {
		t.Errorf("%s, %v", dir, err)
	}
}

func TestServe(t *testing.T) {
	v := loaded(t)
	list := read(t, browsertest.Verifier(t), "verifier.sha256")
	if want := fmt.Sprintf("%x", sha256.Sum256(list)); v.Hash() != want || (*verifier.Verifier)(nil).Hash() != "" {
		t.Errorf("%s, want %s", v.Hash(), want)
	}
	e, err := v.HTML(verifier.Element{Lang: verdict.French, Bundle: "/b"})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path, method, accept string) *http.Response {
		r := httptest.NewRequest(method, path, nil)
		if accept != "" {
			r.Header.Set("Accept-Encoding", accept)
		}
		w := httptest.NewRecorder()
		v.ServeHTTP(w, r)
		return w.Result()
	}
	addresses := regexp.MustCompile(`/verificateur/[0-9a-f]{32}/[a-z_.]+`).FindAllString(string(e), -1)
	if len(addresses) != 2 {
		t.Fatalf("%q", addresses)
	}
	for _, name := range []string{"words.js", "worker.js", "wasm_exec.js", "verifier.wasm"} { // which the script finds beside itself
		addresses = append(addresses, verifier.Path+v.Hash()[:32]+"/"+name)
	}
	sums := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		sums[line[:64]] = true
	}
	for _, a := range addresses {
		r := get(a, "GET", "br, gzip")
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			body, _ = io.ReadAll(z)
		}
		if r.StatusCode != 200 || !strings.Contains(r.Header.Get("Cache-Control"), "immutable") || r.Header.Get("X-Content-Type-Options") != "nosniff" || r.Header.Get("Content-Type") == "" {
			t.Errorf("%s: %d %v", a, r.StatusCode, r.Header)
		}
		if !strings.HasSuffix(a, "log.policy") && !sums[fmt.Sprintf("%x", sha256.Sum256(body))] {
			t.Errorf("%s isn't in the list", a)
		}
		if r := get(a, "HEAD", ""); r.StatusCode != 200 || r.ContentLength <= 0 {
			t.Errorf("HEAD %s: %d, %d bytes", a, r.StatusCode, r.ContentLength)
		}
	}
	wasm := verifier.Path + v.Hash()[:32] + "/verifier.wasm"
	for accept, packed := range map[string]bool{"gzip": true, "": false, "br": false, "gzip;q=0": false, "br;q=1, gzip; q=0.5": true, "gzip;q=x": false, "identity": false} {
		r := get(wasm, "GET", accept)
		body, _ := io.ReadAll(r.Body)
		if got := r.Header.Get("Content-Encoding") == "gzip"; got != packed || bytes.HasPrefix(body, []byte("\x00asm")) == packed || r.Header.Get("Content-Type") != "application/wasm" || r.Header.Get("Vary") == "" {
			t.Errorf("Accept-Encoding %q: %v", accept, r.Header)
		}
	}
	if r := get(verifier.Path+"verifier.sha256", "GET", ""); r.StatusCode != 200 || r.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("the list: %d %v", r.StatusCode, r.Header)
	}
	for path, status := range map[string]int{verifier.Path: 404, verifier.Path + "x": 404, "/": 404, verifier.Path + "../go.mod": 404, wasm + "/": 404} {
		if r := get(path, "GET", ""); r.StatusCode != status {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	if r := get(wasm, "POST", ""); r.StatusCode != 405 || r.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", r.StatusCode)
	}
	w := httptest.NewRecorder()
	(*verifier.Verifier)(nil).ServeHTTP(w, httptest.NewRequest("GET", wasm, nil))
	if w.Code != 404 {
		t.Errorf("without a verifier: %d", w.Code)
	}
}

// TestAudit: regard-audit compares what a portal serves with what was built.
func TestAudit(t *testing.T) {
	v := loaded(t)
	list := filepath.Join(browsertest.Verifier(t), "verifier.sha256")
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	honest := serve(v.ServeHTTP)
	other := filepath.Join(t.TempDir(), "other.sha256")
	if err := os.WriteFile(other, []byte(strings.Repeat("0", 64)+"  verifier.wasm\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"the same":            {[]string{"--url", honest, "--file", list}, audit.Proven, "THE SAME"},
		"by its hash":         {[]string{"--url", honest + "/", "--hash", strings.ToUpper(v.Hash())}, audit.Proven, v.Hash()},
		"another":             {[]string{"--url", honest, "--file", other}, audit.Refused, "ANOTHER"},
		"another hash":        {[]string{"--url", honest, "--hash", strings.Repeat("0", 64)}, audit.Refused, "ANOTHER"},
		"nothing to compare":  {[]string{"--url", honest}, audit.Input, "with what shall it be compared"},
		"two things":          {[]string{"--url", honest, "--file", list, "--hash", v.Hash()}, audit.Input, "with what shall it be compared"},
		"no address":          {[]string{"--hash", v.Hash()}, audit.Input, "--url is missing"},
		"no hash":             {[]string{"--url", honest, "--hash", "abc"}, audit.Input, "not a SHA-256"},
		"no list":             {[]string{"--url", honest, "--file", "verifier_test.go"}, audit.Input, "larger than 4096"},
		"a directory":         {[]string{"--url", "/tmp", "--hash", v.Hash()}, audit.Input, "not the address of a portal"},
		"no patience":         {[]string{"--url", honest, "--hash", v.Hash(), "--attempts", "0"}, audit.Input, "must be positive"},
		"no certificate":      {[]string{"--url", honest, "--hash", v.Hash(), "--ca", list}, audit.Input, "holds no certificate"},
		"no verifier":         {[]string{"--url", serve((*verifier.Verifier)(nil).ServeHTTP), "--hash", v.Hash()}, audit.Input, "fetching the list"},
		"a page for all":      {[]string{"--url", serve(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }), "--hash", v.Hash()}, audit.Refused, "it is no list of a verifier"},
		"more than it can be": {[]string{"--url", serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }), "--hash", v.Hash(), "--attempts", "1"}, audit.Input, "more than 4096"},
		"a script of its own": {[]string{"--url", serve(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/verify.js") {
				fmt.Fprint(w, "alert('all is well')")
				return
			}
			v.ServeHTTP(w, r)
		}), "--file", list}, audit.Refused, "verify.js is not what the list says"},
		"a file is missing": {[]string{"--url", serve(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/worker.js") {
				http.NotFound(w, r)
				return
			}
			v.ServeHTTP(w, r)
		}), "--file", list}, audit.Input, "fetching the verifier"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := audit.Main(append([]string{"verifier"}, c.args...), nil, &out, &errs); code != c.code || !strings.Contains(out.String()+errs.String(), c.want) {
				t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
			}
		})
	}
	var out, errs bytes.Buffer
	code := audit.Main([]string{"verifier", "--url", honest, "--file", list, "--json"}, nil, &out, &errs)
	var found []struct {
		Hash, Want string
		Same       bool
		Files      []struct {
			Name string
			Same bool
		}
	}
	if err := json.Unmarshal(out.Bytes(), &found); err != nil || code != 0 || len(found) != 1 || !found[0].Same || found[0].Hash != v.Hash() || found[0].Want != v.Hash() || len(found[0].Files) != 5 {
		t.Errorf("exit code %d, %v: %s%s", code, err, out.String(), errs.String())
	}
}

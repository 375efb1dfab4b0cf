package browsertest

import (
	"fmt"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
)

// recorder is a test that takes note of errors instead of failing.
type recorder struct {
	testing.TB
	errors   []string
	cleanups []func()
}

func (r *recorder) Error(args ...any) {
	for _, a := range args {
		r.errors = append(r.errors, a.(string))
	}
}
func (r *recorder) Errorf(format string, _ ...any) { r.errors = append(r.errors, format) }
func (r *recorder) Cleanup(f func())               { r.cleanups = append(r.cleanups, f) }

func serve(t *testing.T, csp, body string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", csp)
		_, _ = w.Write([]byte(`<!doctype html><html lang="en"><title>t</title><link rel="icon" href="data:,"><main><h1>t</h1>` + body + "</main>"))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestFaults: each of these fails the test that opened the page.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct{ csp, body, want string }{
		"nothing":             {"script-src 'unsafe-inline'", "<script>console.log('fine')</script>", ""},
		"an error":            {"script-src 'unsafe-inline'", "<script>console.error('oh', 'no')</script>", "console error"},
		"a warning":           {"script-src 'unsafe-inline'", "<script>console.warn('oh')</script>", "console warning"},
		"an exception":        {"script-src 'unsafe-inline'", "<script>nothing.at.all</script>", "exception: "},
		"a lost promise":      {"script-src 'unsafe-inline'", "<script>Promise.reject(new Error('lost'))</script>", "exception: "},
		"inline code":         {"script-src 'self'", "<script>1</script>", "content security policy: script-src"},
		"inline style":        {"style-src 'self'", `<p style="color: red">x</p>`, "content security policy: style-src"},
		"a third party":       {"img-src *", `<img alt="" src="http://third.example/x.png">`, "a request to a third party: http://third.example/x.png"},
		"a file that is lost": {"img-src *", `<img alt="" src="/lost.png">`, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			address := serve(t, c.csp, c.body)
			p := Open(r, address)
			p.Goto(address)
			for len(r.cleanups) > 0 {
				last := len(r.cleanups) - 1
				r.cleanups[last]()
				r.cleanups = r.cleanups[:last]
			}
			got := strings.Join(r.errors, "\n")
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// failed is a test that has failed, and keeps what it logs.
type failed struct {
	recorder
	logs []string
}

func (*failed) Failed() bool { return true }

func (f *failed) Logf(format string, args ...any) {
	f.logs = append(f.logs, fmt.Sprintf(format, args...))
}

// TestPicture: of a test that failed there is a picture of the page.
func TestPicture(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	address := serve(t, "default-src 'none'", "")
	f := &failed{recorder: recorder{TB: t}}
	p := Open(f, address)
	p.Goto(address)
	for _, c := range slices.Backward(f.cleanups) {
		c()
	}
	if len(f.logs) != 1 {
		t.Fatalf("%q", f.logs)
	}
	_, path, ok := strings.Cut(f.logs[0], "a picture of the page: ")
	file, err := os.Open(path)
	if !ok || err != nil {
		t.Fatalf("%q: %v", f.logs[0], err)
	}
	defer file.Close()
	if _, err := png.DecodeConfig(file); err != nil {
		t.Error(err)
	}
}

func TestAllow(t *testing.T) {
	address := serve(t, "script-src 'unsafe-inline'", "<script>console.error('on purpose')</script>")
	p := Open(t, address)
	p.Allow("on purpose")
	p.Goto(address)
	p.Wait("document.readyState === 'complete'")
	if p.Text("h1") != "t" || Eval[int](p, "Promise.resolve(42)") != 42 {
		t.Error("the page isn't there")
	}
}

func TestAxe(t *testing.T) {
	address := serve(t, "default-src 'self'; img-src data:", `<p>fine</p>`)
	p := Open(t, address)
	p.Goto(address)
	p.Axe()

	bad := serve(t, "default-src 'self'; img-src data:", `<img src="data:,"><button></button>`)
	r := &recorder{TB: t}
	q := Open(t, bad)
	q.Goto(bad)
	q.tb = r
	q.Axe()
	q.tb = t
	if len(r.errors) < 2 {
		t.Errorf("axe found %q", r.errors)
	}
}

// TestAxeDark: a colour that is too weak in the dark theme alone is found there, and the theme is as before.
func TestAxeDark(t *testing.T) {
	address := serve(t, "default-src 'self'; img-src data:; style-src 'unsafe-inline'", `<style>body { background: white; color: black } @media (prefers-color-scheme: dark) { body { background: black; color: #333 } h1 { color: white } }</style><p>weak</p>`)
	p := Open(t, address)
	p.Goto(address)
	p.Axe()
	r := &recorder{TB: t}
	p.tb = r
	p.AxeDark()
	p.tb = t
	if len(r.errors) != 1 || Eval[bool](p, `matchMedia("(prefers-color-scheme: dark)").matches`) {
		t.Errorf("axe found %q", r.errors)
	}
	p.Axe()
}

func TestVerifier(t *testing.T) {
	dir := Verifier(t)
	for _, name := range []string{"verifier.wasm.gz", "wasm_exec.js", "verifier.sha256"} {
		if _, err := os.Stat(dir + "/" + name); err != nil {
			t.Error(err)
		}
	}
}

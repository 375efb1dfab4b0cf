// Package verifier serves what a citizen's browser verifies their history with, and the part of a page in which it says the verdict.
//
// What it guarantees. What is served is what [Load] found to agree with the list that was made when it was built, byte for byte; each file has an address of
// its own content, which may be kept for ever. Nothing on a page says "proven" unless the verifier has finished and said so. There is no inline code, and
// no request goes elsewhere.
//
// What it doesn't. Whoever controls the server can serve another program: the check is a convenience, and regard-audit is independent of the server.
// regard-audit verifier compares what a portal serves with what others built.
package verifier

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// Path is where the files are served. Below it, List has an address that stays, all else one of its content.
const (
	Path = "/verificateur/"
	List = "verifier.sha256"
)

// MaxAge is how old the log's state may be if a page doesn't say: a day's epoch, and as much again.
const MaxAge = 48 * time.Hour

// ErrMissing: there is no verifier in the directory. Pages then say that they are not verified.
var ErrMissing = errors.New("there is no verifier here (make build puts it beside the program)")

//go:generate go test -count=1 -run TestWordsFile -update

//go:embed verify.js words.js worker.js
var scripts embed.FS

//go:embed element.tmpl
var elementText string

var elementTemplate = template.Must(template.New("element").Parse(elementText))

// names are the files of a verifier, in the order of the list.
var names = [...]string{"verifier.wasm", "verify.js", "wasm_exec.js", "words.js", "worker.js"}

const wasm = "verifier.wasm"

// maxFile bounds a file of the verifier, unpacked.
const maxFile = 32 << 20

// Verifier serves one build of the verifier, for one log. Nil: there is none.
type Verifier struct {
	files  map[string]file // by the address under Path
	hash   string
	script string
	policy string
}

type file struct {
	body   []byte
	packed bool // body is gzip
	kind   string
	keep   bool // it never changes
}

// Dir is where the verifier is, if nothing else is configured: in the directory verifier beside the running program.
func Dir() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(program), "verifier"), nil
}

// Load reads a verifier from the directory that the build made, for a log whose key and witnesses the policy has. It refuses files that aren't those of the
// list, and scripts that aren't this program's. The error is ErrMissing if nothing is there.
func Load(dir string, policy []byte) (*Verifier, error) {
	if _, err := proof.ParsePolicy(policy); err != nil {
		return nil, fmt.Errorf("the policy for citizens' browsers: %w", err)
	}
	list, err := os.ReadFile(filepath.Join(dir, List))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrMissing
	}
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(list)
	v := &Verifier{files: map[string]file{}, hash: hex.EncodeToString(sum[:])}
	var want bytes.Buffer
	for _, name := range names {
		f := file{kind: "text/javascript; charset=utf-8", keep: true}
		body, err := scripts.ReadFile(name)
		switch {
		case name == wasm:
			f.kind = "application/wasm"
			if f.body, err = os.ReadFile(filepath.Join(dir, name+".gz")); err == nil {
				f.packed = true
				body, err = unpack(f.body)
			}
		case err == nil:
			f.body = body
		default:
			body, err = os.ReadFile(filepath.Join(dir, name))
			f.body = body
		}
		if err != nil {
			return nil, fmt.Errorf("the verifier in %s: %w", dir, err)
		}
		fmt.Fprintf(&want, "%x  %s\n", sha256.Sum256(body), name)
		v.files[v.hash[:32]+"/"+name] = f
	}
	if !bytes.Equal(list, want.Bytes()) {
		return nil, fmt.Errorf("the verifier in %s isn't the one of its list, or of another build than this program: build it again (make build)", dir)
	}
	p := sha256.Sum256(policy)
	v.policy = hex.EncodeToString(p[:16]) + "/log.policy"
	v.files[v.policy] = file{body: policy, kind: "text/plain; charset=utf-8", keep: true}
	v.files[List] = file{body: list, kind: "text/plain; charset=utf-8"}
	v.script = v.hash[:32] + "/verify.js" // the others it finds beside itself
	return v, nil
}

func unpack(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(z, maxFile+1))
	if err == nil && len(out) > maxFile {
		err = errors.New("larger than a verifier is")
	}
	return out, err
}

// Hash is the SHA-256 of the list of the verifier's files, in hex: what an operator publishes and regard-audit verifier compares. "" if there is none.
func (v *Verifier) Hash() string {
	if v == nil {
		return ""
	}
	return v.hash
}

// Has reports whether there is something at a path of a URL.
func (v *Verifier) Has(path string) bool {
	name, under := strings.CutPrefix(path, Path)
	if v == nil || !under {
		return false
	}
	_, ok := v.files[name]
	return ok
}

// ServeHTTP serves what is below Path.
func (v *Verifier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, under := strings.CutPrefix(r.URL.Path, Path)
	var f file
	ok := false
	if v != nil && under {
		f, ok = v.files[name]
	}
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	switch {
	case !ok:
		http.Error(w, "not found", http.StatusNotFound)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", f.kind)
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if f.keep {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	// Workers have a policy of their own: that of their script.
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'")
	body := f.body
	if f.packed {
		h.Set("Vary", "Accept-Encoding")
		if accepts(r.Header.Values("Accept-Encoding")) {
			h.Set("Content-Encoding", "gzip")
		} else {
			body, _ = unpack(f.body) // Load has done so
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body)
	}
}

// accepts reports whether a request accepts gzip (RFC 9110, section 12.5.3).
func accepts(headers []string) bool {
	for part := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		coding, weight, _ := strings.Cut(part, ";")
		if strings.TrimSpace(coding) != "gzip" {
			continue
		}
		q, weighed := strings.CutPrefix(strings.TrimSpace(weight), "q=")
		n, err := strconv.ParseFloat(q, 64)
		return !weighed || err == nil && n > 0
	}
	return false
}

// Element is the part of a page in which a verdict is said.
type Element struct {
	Lang   verdict.Lang
	Bundle string        // address of the history file
	MaxAge time.Duration // of the log's state; 0: MaxAge of this package
	List   string        // id of the element that holds the rows, or the one access (docs/verifier.md); without it nothing is verified
	Names  string        // address of the names by which the rows put tokens into words (verdict.Names)
}

// HTML renders it, with the script that fills it. Until then, and if nothing does, it says that nothing is verified, and what to do.
func (v *Verifier) HTML(e Element) (template.HTML, error) {
	cause := verdict.CauseBrowser
	if v == nil {
		cause = verdict.CauseMissing
	}
	if e.MaxAge == 0 {
		e.MaxAge = MaxAge
	}
	data := struct {
		Bundle, Lang, List, Names string
		MaxAge                    int64
		Report                    *verdict.Report
		Files                     *struct{ Script, Policy string }
	}{Bundle: e.Bundle, Lang: string(e.Lang), List: e.List, Names: e.Names, MaxAge: e.MaxAge.Milliseconds(), Report: verdict.NotVerified(cause, e.Lang)}
	if v != nil {
		data.Files = &struct{ Script, Policy string }{Path + v.script, Path + v.policy}
	}
	var b strings.Builder
	if err := elementTemplate.Execute(&b, data); err != nil {
		return "", err
	}
	return template.HTML(b.String()), nil // #nosec G203 -- html/template made it
}

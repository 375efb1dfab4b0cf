package portal

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/verdict"
)

// namesPath is where files of names are, each under its SHA-256. They are for everybody, and the same for everybody: so that a name that one person is shown can be compared with what others are.
const namesPath = "/annuaire/"

// keptNames are files of names that are kept: pages made with the ones before may still be open.
const keptNames = 8

// directories are the files of names of the last few directories. The zero value is ready.
type directories struct {
	mu   sync.Mutex
	made []*directory // the newest last
}

// directory is one with its names as a file.
type directory struct {
	of         broker.Directory
	digest     string
	text, gzip []byte
}

func (d *directory) path() string { return namesPath + d.digest + ".txt" }

// namesOf is the address of the names by which rows are written.
func (p *Portal) namesOf(n *namer) (string, error) {
	d, err := p.named.of(n)
	if err != nil {
		return "", err
	}
	return d.path(), nil
}

func (all *directories) of(n *namer) (*directory, error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, d := range all.made {
		if d.of.Same(n.Directory) {
			return d, nil
		}
	}
	d, err := makeDirectory(n)
	if err != nil {
		return nil, err
	}
	if all.made = append(all.made, d); len(all.made) > keptNames {
		all.made = all.made[1:]
	}
	return d, nil
}

// find returns the file of this name.
func (all *directories) find(name string) *directory {
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, d := range all.made {
		if d.digest+".txt" == name {
			return d
		}
	}
	return nil
}

// makeDirectory writes the names of a directory in both languages, as rows show them.
func makeDirectory(n *namer) (*directory, error) {
	var names verdict.Names
	set := func(name, kind string, tokens ...string) {
		if name = clean(name); strings.TrimSpace(name) != "" { // otherwise the token stands for itself
			names.Set(name, kind, tokens...)
		}
	}
	for id, a := range n.Agencies {
		set(a.Name, "agency", id)
	}
	for id, a := range n.Auditors {
		set(a.Name, "auditor", id)
	}
	for id, name := range n.Providers {
		set(name, "provider", id)
	}
	for token, text := range n.words.Purposes {
		set(text.FR, "purpose.fr", token)
		set(text.EN, "purpose.en", token)
	}
	for token, law := range n.words.LegalBases {
		set(law.FR, "law.fr", token)
		set(law.EN, "law.en", token)
		set(law.URL, "law.url", token)
	}
	for id, d := range n.Services {
		for _, lang := range codes() {
			set(or(titleIn(d.Title, lang), id), "service."+lang, id)
		}
		for scope, s := range d.Scopes {
			for _, lang := range codes() {
				set(or(titleIn(s.Title, lang), string(scope)), "scope."+lang, id, string(scope))
			}
			for _, f := range d.ScopeFields(scope) {
				set(string(f), "field", id, string(scope))
			}
		}
	}
	text, err := names.AppendText(nil)
	if err != nil {
		return nil, fmt.Errorf("writing the names in the registry for citizens' browsers: %w", err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return &directory{of: n.Directory, digest: fingerprint(text), text: text, gzip: packed.Bytes()}, nil
}

func (p *Portal) serveNames(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	d := p.named.find(name)
	if d == nil { // the page may be of before a restart
		now, err := p.named.of(p.namer(p.pages[defaultLang]))
		if err != nil {
			p.log.Error("the names can't be served", "error", err)
			http.Error(w, "500", http.StatusInternalServerError)
			return
		}
		if d = now; d.path() != namesPath+name {
			http.NotFound(w, r)
			return
		}
	}
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Add("Vary", "Accept-Encoding")
	body := d.text
	if acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = d.gzip
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

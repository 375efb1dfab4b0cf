package portal

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed templates/*.html
var templates embed.FS

// page is what every template gets.
type page struct {
	Lang    string
	Title   string // in words
	Path    string // of this page, for marking it in the navigation
	Switch  []languageLink
	Session *Session
	Unread  int // notices; 0 if there are none, or if they can't be counted
	// Acting: there are the pages on which people act. InAccount: this is one.
	Acting, InAccount bool

	Flash    string
	Verifier *Verifier
	Operator *Operator
	Data     any
}

type languageLink struct {
	Code, Href string
	Current    bool
}

// parseTemplates makes one template a page, all with the layout and the components around it.
func parseTemplates(l *language, a *assets) (map[string]*template.Template, error) {
	names, err := fs.Glob(templates, "templates/*.html")
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for _, file := range names {
		b, err := templates.ReadFile(file)
		if err != nil {
			return nil, err
		}
		texts[strings.TrimSuffix(path.Base(file), ".html")] = l.fixedIn(string(b))
	}
	base, err := template.New("base").Funcs(funcs(l, a)).Option("missingkey=error").Parse(texts["layout"] + texts["components"])
	if err != nil {
		return nil, fmt.Errorf("parsing the layout: %w", err)
	}
	delete(texts, "layout")
	delete(texts, "components")
	out := map[string]*template.Template{}
	for name, text := range texts {
		t, err := base.Clone()
		if err != nil {
			return nil, err
		}
		if out[name], err = t.Parse(text); err != nil {
			return nil, fmt.Errorf("parsing the page %s: %w", name, err)
		}
	}
	return out, nil
}

var fixedMessage = regexp.MustCompile(`\{\{t "([^"]*)"\}\}`)

// fixedIn puts messages without parameters into the text of a template, so that no page has to look for them. They stand between tags or in quoted attributes, for which they are escaped.
func (l *language) fixedIn(text string) string {
	return fixedMessage.ReplaceAllStringFunc(text, func(call string) string {
		if words, ok := l.fixed[fixedMessage.FindStringSubmatch(call)[1]]; ok {
			return template.HTMLEscapeString(words)
		}
		return call
	})
}

// funcs are what templates may call.
func funcs(l *language, a *assets) template.FuncMap {
	return template.FuncMap{
		"t":     l.text,
		"asset": a.url,
		// bdi shows what somebody else wrote: as text, and isolated from the direction of what is around it.
		"bdi":    func(s string) template.HTML { return bdi(s) },
		"letter": letter,
		"rows":   l.rowsHTML,
		"status": l.statusHTML,
		"links":  l.linksHTML,
		"field":  l.fieldHTML,
		"day":    l.day,
		"moment": l.moment,
		"own":    func(s string) own { return own(s) },
		"iso":    func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"number": func(n int) string { return l.number(uint64(max(n, 0))) }, // #nosec G115 -- not negative
		"dict":   dict,
		"groups": groups,
	}
}

func bdi(s string) template.HTML {
	var m markup
	m.bdi(s)
	return m.html()
}

// dict makes a map of names and values in turn, for components with several parameters.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict: a name without a value")
	}
	out := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: a name that is no string")
		}
		out[name] = pairs[i+1]
	}
	return out, nil
}

// groups writes hexadecimal digits in fours, to be compared by eye.
func groups(s string) string {
	var b strings.Builder
	for i, c := range s {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// render answers with a page. title is a key of the catalogue. Nothing is sent before the whole page is made, so an error leaves no half of it.
func (r *request) render(status int, name, title string, data any) error {
	words, err := r.lang.text(title)
	if err != nil {
		return err
	}
	p := &page{Lang: r.lang.code, Title: words, Path: r.URL.Path, Session: r.session, Acting: r.p.cfg.Identity != nil, InAccount: r.session != nil && r.p.cfg.Identity != nil && slices.Contains(accountSections, r.section()), Verifier: r.p.cfg.Verifier, Operator: &r.p.cfg.Operator, Data: data}
	if r.flash != "" {
		if p.Flash, err = r.lang.text(r.flash); err != nil {
			return err
		}
	}
	if r.session != nil {
		n, err := r.p.cfg.Broker.Unread(r.Context(), r.knownAs(r.session.Subjects))
		if err != nil {
			r.p.log.Warn("a page doesn't say how many notices weren't read", "error", err)
		}
		p.Unread = int(n)
	}
	for _, code := range codes() {
		q := r.URL.Query()
		q.Set("lang", code)
		p.Switch = append(p.Switch, languageLink{code, r.URL.Path + "?" + q.Encode(), code == r.lang.code})
	}
	t := r.lang.tmpl[name]
	if t == nil {
		return fmt.Errorf("there is no page %s", name)
	}
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		clear(buf.Bytes()) // it held somebody's history
		buf.Reset()
		if buf.Cap() < 1<<20 {
			buffers.Put(buf)
		}
	}()
	if err := t.ExecuteTemplate(buf, "layout", p); err != nil {
		return fmt.Errorf("making the page %s: %w", name, err)
	}
	h := r.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", r.lang.code)
	r.write(status, buf.Bytes())
	return nil
}

var zippers = sync.Pool{New: func() any { z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed); return z }}

// write sends a body that is complete, compressed if the browser takes that. Attackers can't measure compressed pages of somebody else: a session's cookie comes with no cross-site request but a visible navigation, for which unprobed leaves out what would be searched.
func (r *request) write(status int, body []byte) {
	h := r.w.Header()
	h.Add("Vary", "Accept-Encoding")
	if len(body) < 1024 || !acceptsGzip(r.Request) {
		h.Set("Content-Length", strconv.Itoa(len(body)))
		r.w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, _ = r.w.Write(body) // the reader may be gone
		}
		return
	}
	// How much it is unpacked, for whoever shows how much of it has come (docs/verifier.md).
	h.Set("Content-Encoding", "gzip")
	h.Set("Regard-Size", strconv.Itoa(len(body)))
	r.w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	z := zippers.Get().(*gzip.Writer)
	z.Reset(r.w)
	_, _ = z.Write(body)
	_ = z.Close()
	z.Reset(nil)
	zippers.Put(z)
}

// acceptsGzip reads the few forms that browsers send.
func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, weight, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			return strings.ReplaceAll(weight, " ", "") != "q=0"
		}
	}
	return false
}

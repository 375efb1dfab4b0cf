package reference

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/regard-broker/regard/broker/service"
)

// Config of a Server.
type Config struct {
	// Base is the server's own URL as the broker reaches it, scheme and host alone.
	Base string
	// Brokers are the certificates of the brokers that are answered, at least one. They are compared by public key, so a renewed certificate of the same key is accepted.
	Brokers []*x509.Certificate
	// AccessLog gets one JSON line for each request; nil: none. Writes are serialised.
	AccessLog io.Writer
	// Population adds that many invented people (see Population); 0: none.
	Population Population
	// Delay is waited before each answer, as a real provider does.
	Delay time.Duration
	// Now tells the time of the log; nil: time.Now.
	Now func() time.Time
}

// A Server is all reference providers as one HTTP handler.
type Server struct {
	cfg      Config
	keys     [][32]byte
	services map[string]*endpoint // by path
	secret   [32]byte             // of subject hashes and document names
	index    *index
	docs     map[string][]byte

	mu sync.Mutex
}

type endpoint struct {
	def    *service.Definition
	handle func(url.Values) (any, *failure)

	mu   sync.Mutex
	kept map[string]*selection // by the parameter's text
}

// selection is what a question asks for; all: everything, because it selects nothing.
type selection struct {
	fields []string
	keep   map[service.Pointer]bool
	all    bool
}

// maxKept bounds the selections that an endpoint remembers: brokers ask for the same few again and again.
const maxKept = 256

// selection reads the selecting parameter; false if it names what the service doesn't have.
func (e *endpoint) selection(text string) (*selection, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s, ok := e.kept[text]; ok {
		return s, true
	}
	s := &selection{fields: selected(text, e.def.Select.Separator)}
	keep, ok := wanted(e.def, s.fields)
	if s.keep, s.all = keep, keep == nil; ok && len(e.kept) < maxKept {
		e.kept[text] = s
	}
	return s, ok
}

// failure is a provider's error answer.
type failure struct {
	status              int
	code, title, detail string
}

// New checks the configuration and builds the population.
func New(cfg Config) (*Server, error) {
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("reference provider: no broker's certificate: it would answer nobody")
	}
	all, err := Services(cfg.Base)
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, services: map[string]*endpoint{}, docs: map[string][]byte{}}
	for _, c := range cfg.Brokers {
		s.keys = append(s.keys, sha256.Sum256(c.RawSubjectPublicKeyInfo))
	}
	rand.Read(s.secret[:])
	s.index = newIndex(cfg.Population)
	handlers := s.handlers()
	for _, v := range all {
		u, err := url.Parse(v.Definition.Endpoint)
		if err != nil {
			return nil, err
		}
		h := handlers[v.Definition.ID]
		if h == nil {
			return nil, fmt.Errorf("reference provider: nothing answers for %s", v.Definition.ID)
		}
		s.services[u.Path] = &endpoint{def: v.Definition, handle: h, kept: map[string]*selection{}}
	}
	return s, nil
}

// TLS returns the configuration for the server's listener: its own certificate, and of clients one of the brokers'.
func (s *Server) TLS(own tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, NextProtos: []string{"h2", "http/1.1"},
		// Pinned below: a chain says nothing about which client this is.
		ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: func(c tls.ConnectionState) error {
			if !s.isBroker(&c) {
				return errors.New("reference provider: the client is not the broker")
			}
			return nil
		},
	}
}

func (s *Server) isBroker(c *tls.ConnectionState) bool {
	if c == nil || len(c.PeerCertificates) == 0 {
		return false
	}
	leaf := c.PeerCertificates[0]
	now := s.cfg.Now()
	return !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter) && slices.Contains(s.keys, sha256.Sum256(leaf.RawSubjectPublicKeyInfo))
}

// An Access is one line of the access log.
type Access struct {
	Time      time.Time `json:"time"`
	RequestID string    `json:"request_id"` // as the broker sent it
	Service   string    `json:"service"`    // id, or "document"
	// Subject is a keyed hash of the question's identity, the same for the same question as long as the server runs; empty for documents.
	Subject string `json:"subject"`
	// Fields that were asked for; absent if the service can't select.
	Fields []string `json:"fields,omitempty"`
	Status int      `json:"status"`
}

// ServeHTTP answers one question of the broker.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	line := Access{Time: s.cfg.Now().UTC(), RequestID: requestID(r)}
	body, media := s.answer(r, &line)
	s.log(&line)
	if s.cfg.Delay > 0 {
		select {
		case <-time.After(s.cfg.Delay):
		case <-r.Context().Done():
			return
		}
	}
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if line.RequestID != "" {
		h.Set("X-Request-Id", line.RequestID)
	}
	w.WriteHeader(line.Status)
	w.Write(body) // #nosec G705 -- JSON that encoding/json wrote, or a PDF, under nosniff
}

const mediaJSON = "application/json; charset=utf-8"

func (s *Server) answer(r *http.Request, line *Access) (body []byte, media string) {
	fail := func(provider string, f *failure) ([]byte, string) {
		line.Status = f.status
		b, _ := json.Marshal(map[string]any{"errors": []any{map[string]any{
			"code": f.code, "title": f.title, "detail": f.detail, "source": nil, "meta": map[string]any{"provider": provider},
		}}})
		return b, mediaJSON
	}
	if !s.isBroker(r.TLS) { // also when somebody serves it without TLS
		return fail("", &failure{403, "00403", "Accès interdit", "Seul le courtier est servi."})
	}
	e := s.services[r.URL.Path]
	if e != nil {
		line.Service = string(e.def.ID)
	}
	if r.Method != http.MethodGet {
		return fail("", &failure{405, "00405", "Méthode inconnue", "Seul GET est servi."})
	}
	if e == nil {
		if doc, ok := s.docs[strings.TrimPrefix(r.URL.Path, "/documents/")]; ok {
			line.Service, line.Status = "document", 200
			return doc, "application/pdf"
		}
		return fail("", &failure{404, "00404", "Page inconnue", "Il n'y a rien à cette adresse."})
	}
	q := r.URL.Query()
	chosen := &selection{all: true}
	if sel := e.def.Select; sel != nil {
		var ok bool
		chosen, ok = e.selection(q.Get(sel.Parameter))
		line.Fields = chosen.fields
		q.Del(sel.Parameter)
		if !ok {
			return fail(e.def.Provider.Name, &failure{422, "00422", "Champ inconnu", "La sélection nomme un champ que le service n'a pas."})
		}
	}
	if s.cfg.AccessLog != nil {
		line.Subject = s.hash(q)
	}
	tree, f := e.handle(q)
	if f != nil {
		return fail(e.def.Provider.Name, f)
	}
	answer := map[string]any{"data": tree, "links": map[string]any{}, "meta": map[string]any{}}
	if !chosen.all {
		answer["data"] = prune(tree, "/data", chosen.keep)
	}
	b, err := json.Marshal(answer)
	if err != nil {
		return fail(e.def.Provider.Name, &failure{500, "00500", "Erreur interne", "La réponse n'a pas pu être écrite."})
	}
	line.Status = 200
	return b, mediaJSON
}

func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return c < 0x21 || c > 0x7e }) {
		return ""
	}
	return id
}

// hash names a question without saying it.
func (s *Server) hash(q url.Values) string {
	h := hmac.New(sha256.New, s.secret[:])
	io.WriteString(h, q.Encode())
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (s *Server) log(line *Access) {
	if s.cfg.AccessLog == nil {
		return
	}
	b, err := json.Marshal(line)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.AccessLog.Write(append(b, '\n'))
}

// document keeps a document and returns its URL, which nobody can guess.
func (s *Server) document(what string) string {
	h := hmac.New(sha256.New, s.secret[:])
	io.WriteString(h, "document "+what)
	name := hex.EncodeToString(h.Sum(nil)[:16]) + ".pdf"
	s.docs[name] = pdf("DOCUMENT INVENTE - EXEMPLE SANS VALEUR", what)
	return strings.TrimSuffix(s.cfg.Base, "/") + "/documents/" + name
}

func selected(list, separator string) []string {
	fields := strings.FieldsFunc(list, func(r rune) bool { return string(r) == separator })
	slices.Sort(fields)
	return slices.Compact(fields)
}

// wanted returns the fields of a selection with all that stands above them; nil if nothing is selected, which means everything.
func wanted(d *service.Definition, fields []string) (map[service.Pointer]bool, bool) {
	if len(fields) == 0 {
		return nil, true
	}
	keep := map[service.Pointer]bool{}
	add := func(p service.Pointer) {
		for ; p != ""; p = p[:strings.LastIndexByte(string(p), '/')] {
			keep[p] = true
		}
	}
	for _, f := range fields {
		if d.Select.By == "field" {
			if _, ok := slices.BinarySearch(d.Fields(), service.Pointer(f)); !ok {
				return nil, false
			}
			add(service.Pointer(f))
			continue
		}
		leaves := d.ScopeFields(service.Scope(f))
		if leaves == nil {
			return nil, false
		}
		for _, p := range leaves {
			add(p)
		}
	}
	return keep, true
}

// prune leaves only what is wanted.
func prune(v any, at service.Pointer, keep map[service.Pointer]bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			if p := at + "/" + service.Pointer(k); keep[p] {
				out[k] = prune(e, p, keep)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = prune(e, at+"/*", keep)
		}
		return out
	}
	return v
}

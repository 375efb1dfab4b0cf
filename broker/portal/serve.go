package portal

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker"
)

// request is one exchange.
type request struct {
	*http.Request
	w       http.ResponseWriter
	p       *Portal
	lang    *language
	session *Session // nil if nobody is signed in
	flash   string   // key of a message that an earlier exchange left
}

// handler answers a request or returns an error, which has one exit: fail.
type handler func(*request) error

// personal answers somebody who is signed in.
type personal func(*request, *Session) error

// Errors that only pages know. What they say stands in the catalogue, under error.<code>.
var (
	errUnknownPage = &broker.Problem{Status: http.StatusNotFound, Code: "page.unknown"}
	errBusy        = &broker.Problem{Status: http.StatusServiceUnavailable, Code: "portal.busy", RetryAfter: 10 * time.Second}
)

// around sets what every answer of the portal carries.
func (p *Portal) around(h http.Handler) http.Handler {
	csp := "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; style-src 'self'; img-src 'self'; form-action 'self'"
	if e := p.cfg.Sessions.Elsewhere(); e != "" {
		csp += " " + e // where a form's redirect may lead, as at sign-out
	}
	if p.cfg.Verifier != nil {
		// WebAssembly can't run without this word; it allows no eval of scripts (https://www.w3.org/TR/CSP3/#directive-script-src).
		csp += "; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", csp)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
		header.Set("Cache-Control", "no-store") // assets set their own
		if p.secure {
			header.Set("Strict-Transport-Security", "max-age=63072000")
		}
		h.ServeHTTP(w, r)
	})
}

func unknownPage(*request) error { return errUnknownPage }

// orUnknown serves what isn't a page by a handler of its own. Where that has nothing, people read it in their language, as everywhere.
func (p *Portal) orUnknown(h http.Handler) http.Handler {
	unknown := p.handle(unknownPage)
	return p.around(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := &nothingHere{ResponseWriter: w}
		if h.ServeHTTP(n, r); n.nothing {
			unknown.ServeHTTP(w, r)
		}
	}))
}

// nothingHere keeps back the answers by which net/http says, in English and without a page, that there is nothing, or nothing for this method.
type nothingHere struct {
	http.ResponseWriter
	nothing bool
}

func (n *nothingHere) WriteHeader(status int) {
	if (status == http.StatusNotFound || status == http.StatusMethodNotAllowed) && strings.HasPrefix(n.Header().Get("Content-Type"), "text/plain") {
		n.nothing = true
		n.Header().Del("Allow")
		return
	}
	n.ResponseWriter.WriteHeader(status)
}

func (n *nothingHere) Write(b []byte) (int, error) {
	if n.nothing {
		return len(b), nil
	}
	return n.ResponseWriter.Write(b)
}

// unprobed leaves out the query of a request that other pages than the portal's had the browser make, also those of another host of the same site. Their links bring the person's cookies: whoever opens such windows and sees how much comes
// over the wire, or how long it takes, could otherwise find out by searching what is in a history. Filters that were kept as a bookmark still work; those that wait for a sign-in are lost, for the identity provider is another site.
func unprobed(h personal) personal {
	return func(r *request, s *Session) error {
		switch r.Header.Get("Sec-Fetch-Site") {
		case "same-origin", "none", "": // "none": typed, or a bookmark; "": a browser of before 2023, or no browser
		default:
			if r.URL.RawQuery != "" {
				r.seeOther(r.URL.EscapedPath())
				return nil
			}
		}
		return h(r, s)
	}
}

// handle turns a handler into one of net/http.
func (p *Portal) handle(h handler) http.Handler {
	return p.around(http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		r := &request{Request: hr, w: w, p: p, lang: p.languageOf(hr)}
		if p.chooseLanguage(w, hr) {
			return
		}
		r.session, _ = p.cfg.Sessions.Session(hr)
		r.flash = p.takeMessage(w, hr)
		if err := h(r); err != nil {
			p.fail(r, err)
		}
	}))
}

// signedIn sends whoever isn't signed in there, and back. What they sent isn't done; each page that takes a form has one at the same address, to which they come back.
func (p *Portal) signedIn(h personal) handler {
	return func(r *request) error {
		if r.session == nil || len(r.session.Subjects) == 0 {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				return r.ended()
			}
			r.seeOther("/connexion?retour=" + url.QueryEscape(r.comeBack()))
			return nil
		}
		return h(r, r.session)
	}
}

// comeBack is where somebody goes on who had to sign in first: instead of a file, with which a browser stays on the page of the identity provider, where the file is offered.
func (r *request) comeBack() string {
	path := r.URL.EscapedPath()
	if path == "/historique/fichier" || path == "/telecharger/historique.csv" {
		return "/telecharger"
	}
	if record, ok := strings.CutSuffix(path, "/preuve"); ok {
		return record
	}
	return r.URL.RequestURI()
}

// bounded refuses a file to an address that asks for too many.
func (p *Portal) bounded(h personal) personal {
	return func(r *request, s *Session) error {
		if wait, ok := p.peers.Take(p.cfg.Proxies.Network(r.Request), p.now()); !ok {
			p.refused.Inc()
			return &broker.Problem{Status: http.StatusTooManyRequests, Code: "portal.too_often", RetryAfter: wait}
		}
		return h(r, s)
	}
}

// ownHost answers under the portal's own name alone. Without TLS, which proves it, a site elsewhere could give its own name this machine's address, and have a browser read our pages as its own (DNS rebinding).
func (p *Portal) ownHost(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Host, p.cfg.URL.Host) {
			http.Error(w, "this portal is at "+p.cfg.URL.String(), http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (r *request) seeOther(path string) {
	r.w.Header().Set("Location", path)
	r.w.WriteHeader(http.StatusSeeOther)
}

// fail is the one exit of errors: it says what a problem's code has words for, and nothing else.
func (p *Portal) fail(r *request, err error) {
	if r.Context().Err() != nil {
		return // nobody reads it
	}
	problem := broker.AsProblem(err)
	code := problem.Code
	if !r.lang.has("error." + code + ".title") {
		code = "internal"
		if problem.Status == http.StatusServiceUnavailable {
			code = "unavailable"
		}
	}
	if problem.Status >= 500 && !errors.Is(err, errBusy) {
		p.log.Error("a page failed", "path", r.Pattern, "error", err)
	}
	if problem.RetryAfter > 0 {
		r.w.Header().Set("Retry-After", seconds(problem.RetryAfter))
	}
	if err := r.render(problem.Status, "error", "error."+code+".title", map[string]any{"Code": code, "Retry": problem.RetryAfter > 0}); err != nil {
		p.log.Error("the page of an error failed", "error", err)
		http.Error(r.w, "500", http.StatusInternalServerError)
	}
}

// A Notice is what is told about a sign-in or sign-out, or about a request that was refused before a page was made. It holds no personal data but what the reader has just sent.
type Notice struct {
	// Code names it; the catalogue has notice.<code>.title and .text.
	Code   string
	Status int
	// Return is where the person wanted to go, a path of the portal; empty: nowhere.
	Return string
	// Missing are names of claims that an identity lacks.
	Missing    []string
	RetryAfter time.Duration
	// Written is what somebody wrote in a form that wasn't accepted, so that they can copy it. It is shown to whoever sent it and kept nowhere.
	Written string
}

// notice is what the template shows of one.
type notice struct {
	Notice
	Begin string // a path to begin again; empty: it makes no sense, or nobody can
}

// notAgain are notices after which there is nothing to begin again.
var notAgain = []string{"signed_out", "signed_out_here", "untrusted", "incomplete"}

// Tell shows a page about a sign-in, a sign-out or a refused request. One that it has no words for is an internal error.
func (p *Portal) Tell(w http.ResponseWriter, hr *http.Request, n Notice) {
	p.around(http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		r := &request{Request: hr, w: w, p: p, lang: p.languageOf(hr)}
		r.session, _ = p.cfg.Sessions.Session(hr)
		title := "notice." + n.Code + ".title"
		if !r.lang.has(title) {
			p.fail(r, fmt.Errorf("there are no words for the notice %q", n.Code))
			return
		}
		data := &notice{Notice: n}
		if !slices.Contains(notAgain, n.Code) {
			data.Begin = p.cfg.Sessions.Begin(back(n.Return))
		}
		if n.RetryAfter > 0 {
			w.Header().Set("Retry-After", seconds(n.RetryAfter))
		}
		if err := r.render(n.Status, "notice", title, data); err != nil {
			p.fail(r, err)
		}
	})).ServeHTTP(w, hr)
}

// Language is the code of the language in which a browser's pages are.
func (p *Portal) Language(r *http.Request) string { return p.languageOf(r).code }

// seconds of a Retry-After, rounded up.
func seconds(d time.Duration) string { return strconv.Itoa(int((d + time.Second - 1) / time.Second)) }

// Languages: a cookie, which a link with ?lang= sets.
const (
	languageCookie = "langue"
	messageCookie  = "message"
	defaultLang    = "fr"
)

// cookie is not readable by scripts, sent to this host alone, and over TLS if there is any.
func (p *Portal) cookie(name, value string, age time.Duration) *http.Cookie {
	if p.secure {
		name = "__Host-" + name
	}
	return &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(age / time.Second), Secure: p.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode} // #nosec G124 -- Secure unless this is http on loopback
}

func (p *Portal) cookieOf(r *http.Request, name string) string {
	c, err := r.Cookie(p.cookie(name, "", 0).Name)
	if err != nil {
		return ""
	}
	return c.Value
}

// languageOf is what the reader chose, else what the browser prefers, else French.
func (p *Portal) languageOf(r *http.Request) *language {
	if l, ok := p.pages[p.cookieOf(r, languageCookie)]; ok {
		return l
	}
	return p.pages[preferred(r.Header.Get("Accept-Language"))]
}

// chooseLanguage keeps the choice of ?lang= and comes back without it.
func (p *Portal) chooseLanguage(w http.ResponseWriter, r *http.Request) bool {
	q := r.URL.Query()
	code := q.Get("lang")
	if _, known := p.pages[code]; !known || r.Method != http.MethodGet {
		return false
	}
	q.Del("lang")
	http.SetCookie(w, p.cookie(languageCookie, code, 365*24*time.Hour))
	p.leaveMessage(w, "flash.language")
	to := url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
	if strings.HasPrefix(to.Path, "//") || strings.Contains(to.Path, `\`) {
		to.Path = "/" // a browser would read another host in it
	}
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusSeeOther)
	return true
}

// leaveMessage has the next page show a message of the catalogue, under flash.…; takeMessage takes it.
func (p *Portal) leaveMessage(w http.ResponseWriter, key string) {
	http.SetCookie(w, p.cookie(messageCookie, key, time.Minute))
}

func (p *Portal) takeMessage(w http.ResponseWriter, r *http.Request) string {
	key := p.cookieOf(r, messageCookie)
	if key == "" {
		return ""
	}
	http.SetCookie(w, p.cookie(messageCookie, "", -time.Second))
	if !strings.HasPrefix(key, "flash.") || !p.pages[defaultLang].has(key) {
		return ""
	}
	return key
}

// download sets the headers of a file.
func (r *request) download(name, contentType string) {
	h := r.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", name))
}

package simulator

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("").Parse(pageText))

// style is the page's only one; it is allowed by its hash.
//
//go:embed page.css
var style string

var policy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; frame-ancestors 'none'"
}()

const cookie = "franceconnect-simulator"

type view struct {
	Style  template.CSS
	Action string
	Page   string // of the form
	Level  string
	People []choice
	Fault  string
}

type choice struct {
	N                 int
	Name, Used, Birth string
}

func (s *Server) render(w http.ResponseWriter, status int, v *view) {
	v.Style, v.Action = template.CSS(style), s.path+"/choix" // #nosec G203 -- embedded
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	w.WriteHeader(status)
	_ = page.Execute(w, v)
}

// fault is FranceConnect's answer to a request of a wrong form: a page of its own, and nobody is sent back.
func (s *Server) fault(w http.ResponseWriter, why string) {
	s.render(w, http.StatusBadRequest, &view{Fault: why})
}

// parameters that are known; any other is refused.
var parameters = []string{"client_id", "acr_values", "claims", "response_type", "nonce", "state", "redirect_uri", "scope", "prompt", "idp_hint"}

// parse checks an authorization request; why is what is wrong with it.
func (s *Server) parse(q url.Values) (r *request, prompt, why string) {
	for name, v := range q {
		if !slices.Contains(parameters, name) && !(s.cfg.PKCE && (name == "code_challenge" || name == "code_challenge_method")) {
			return nil, "", "Paramètre inconnu : " + strconv.QuoteToASCII(name)
		}
		if len(v) != 1 {
			return nil, "", "Paramètre répété : " + name
		}
	}
	r = &request{
		client: s.client(q.Get("client_id")), redirect: q.Get("redirect_uri"), state: q.Get("state"), nonce: q.Get("nonce"), level: q.Get("acr_values"),
		scopes: strings.Fields(q.Get("scope")), challenge: q.Get("code_challenge"), until: s.now().Add(pageLife),
	}
	prompt = q.Get("prompt")
	switch {
	case r.client == nil:
		return nil, "", "client_id est inconnu."
	case !slices.Contains(r.client.RedirectURIs, r.redirect):
		return nil, "", "redirect_uri n'est pas enregistrée, au caractère près."
	case q.Get("response_type") != "code":
		return nil, "", "response_type doit être code."
	case r.state == "":
		return nil, "", "state est obligatoire."
	case len(r.nonce) < 22:
		return nil, "", "nonce est obligatoire, avec au moins 22 caractères."
	case !slices.Contains(s.cfg.Levels, r.level):
		return nil, "", "acr_values est obligatoire, et doit être un niveau proposé : " + strings.Join(s.cfg.Levels, ", ") + "."
	case !slices.Contains(r.scopes, "openid") || slices.ContainsFunc(r.scopes, func(x string) bool { return !s.knows(x) }):
		return nil, "", "scope doit contenir openid, et rien d'inconnu."
	case prompt != "" && prompt != "login" && prompt != "consent":
		return nil, "", "prompt doit être login ou consent."
	case r.challenge != "" && q.Get("code_challenge_method") != "S256":
		return nil, "", "code_challenge_method doit être S256."
	}
	if c := q.Get("claims"); c != "" {
		var wanted struct {
			IDToken map[string]json.RawMessage `json:"id_token"`
		}
		if json.Unmarshal([]byte(c), &wanted) != nil {
			return nil, "", "claims n'est pas du JSON."
		}
		_, r.authTimeWanted = wanted.IDToken["auth_time"]
	}
	return r, prompt, ""
}

// authorize shows the page, or goes on at once for a browser in which somebody signed in during the last half hour.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	req, prompt, why := s.parse(r.URL.Query())
	if why != "" {
		s.fault(w, why)
		return
	}
	if prompt != "login" {
		if c, err := r.Cookie(cookie); err == nil {
			if person, at, ok := s.visit(c.Value); ok {
				s.grant(w, req, person, at)
				return
			}
		}
	}
	v := &view{Page: s.keep(req), Level: req.level}
	for i := range s.cfg.People {
		p := &s.cfg.People[i]
		birth := "né(e) le " + p.BirthDate
		if p.BirthPlace != "" {
			birth += ", commune " + p.BirthPlace
		} else {
			birth += ", pays " + p.BirthCountry
		}
		v.People = append(v.People, choice{i, p.GivenName + " " + p.FamilyName, p.UsedName, birth})
	}
	s.render(w, http.StatusOK, v)
}

// visit finds the session of a browser.
func (s *Server) visit(id string) (person int, at time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[id]
	now := s.now()
	if x == nil || now.Sub(x.seen) >= SessionLife {
		delete(s.sessions, id)
		return 0, time.Time{}, false
	}
	x.seen = now
	return x.person, x.at, true
}

// keep remembers a request while its page is open.
func (s *Server) keep(r *request) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy()
	id := random()
	s.pages[id] = r
	return id
}

// tidy forgets what is over; and everything if there is too much, for this is a simulator. The caller holds s.mu.
func (s *Server) tidy() {
	now := s.now()
	for id, x := range s.pages {
		if !now.Before(x.until) || len(s.pages) > maxOpen {
			delete(s.pages, id)
		}
	}
	for id, x := range s.codes { // a used one is remembered for longer: it may come again
		if now.Sub(x.until) > TokenLife || len(s.codes) > maxOpen {
			delete(s.codes, id)
		}
	}
	for id, x := range s.access {
		if !now.Before(x.until) || len(s.access) > maxOpen {
			delete(s.access, id)
		}
	}
	for id, x := range s.sessions {
		if now.Sub(x.seen) >= SessionLife || len(s.sessions) > maxOpen {
			delete(s.sessions, id)
		}
	}
}

// choose is the page's form: somebody, or nobody.
func (s *Server) choose(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	id := r.PostFormValue("page")
	s.mu.Lock()
	req := s.pages[id]
	delete(s.pages, id)
	s.mu.Unlock()
	if req == nil || !s.now().Before(req.until) {
		s.fault(w, "Cette page n'est plus valable. Recommencez depuis le service.")
		return
	}
	if r.PostFormValue("refus") != "" {
		sendBack(w, req.redirect, url.Values{"error": {"access_denied"}, "error_description": {"User auth aborted"}, "state": {req.state}})
		return
	}
	n, err := strconv.Atoi(r.PostFormValue("personne"))
	if err != nil || n < 0 || n >= len(s.cfg.People) {
		s.fault(w, "Choisissez une personne.")
		return
	}
	now := s.now()
	visit := random()
	s.mu.Lock()
	s.sessions[visit] = &session{person: n, at: now, seen: now}
	s.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: visit, Path: s.path + "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}) // #nosec G124 -- plain http on this machine
	s.grant(w, req, n, now)
}

// grant sends the browser back with a code.
func (s *Server) grant(w http.ResponseWriter, req *request, person int, at time.Time) {
	code := random()
	s.mu.Lock()
	s.tidy()
	s.codes[code] = &grant{request: req, person: person, at: at, until: s.now().Add(CodeLife)}
	s.mu.Unlock()
	sendBack(w, req.redirect, url.Values{"code": {code}, "state": {req.state}})
}

package service

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

const (
	maxFields     = 64 * len(set{}) // fields of an answer
	maxMembers    = 128             // declared members of one object
	maxGivenNames = 6               // members that hold given names
	maxPersons    = 1024
	maxStated     = 4096 // bytes of a name, or of all given names in one member: many times what has a canonical form, and little enough to be folded again and again
	maxAnswer     = 16 << 20
	maxDepth      = 32
)

var (
	tokenForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	queryForm   = regexp.MustCompile(`^[A-Za-z0-9_.\[\]-]{1,64}$`)
	pointerForm = regexp.MustCompile(`^(/(\*|[A-Za-z0-9_.@:$-]{1,64}))+$`)
	codeForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	mediaForm   = regexp.MustCompile(`^[a-z0-9.+-]+/[a-z0-9.+-]+$`)
	hostForm    = regexp.MustCompile(`^([a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:]+\])(:[0-9]{1,5})?$`)
)

func path(p ...any) []any { return p }

// definition checks everything and compiles the schema; the result is of use only if no fault was noted.
func (c *checker) definition(d *Definition) *schema {
	if d.Format != Format {
		c.fail(path("format"), "want %q", Format)
	}
	c.token(path("id"), string(d.ID))
	c.token(path("provider", "id"), string(d.Provider.ID))
	if d.Version < 1 {
		c.fail(path("version"), "want 1 or more")
	}
	c.sentence(path("title"), d.Title)
	c.text(path("provider", "name"), d.Provider.Name)
	if proof.SIRET(d.Provider.SIRET) != nil {
		c.fail(path("provider", "siret"), "not a valid SIRET")
	}
	if len(d.Provider.Keys) > maxProviderKeys {
		c.fail(path("provider", "keys"), "want at most %d keys", maxProviderKeys)
	}
	for i, k := range d.Provider.Keys {
		if h, err := proof.ParseHash(k); err != nil || h.IsZero() || slices.Contains(d.Provider.Keys[:i], k) {
			c.fail(path("provider", "keys", i), "want the SHA-256 of a certificate's public key (SubjectPublicKeyInfo) in base64, each once")
		}
	}
	if d.Release != "" && d.Release != ReleaseSigned && d.Release != ReleaseWitnessed {
		c.fail(path("release"), "want signed or witnessed")
	}
	if d.Method != "GET" {
		c.fail(path("method"), "want GET")
	}
	s := c.compile(d)
	c.endpoint(d, s)
	c.query(d, s)
	c.errors(d)
	c.links(d, s)
	c.limits(d)
	return s
}

func (c *checker) token(p []any, s string) {
	if !tokenForm.MatchString(s) {
		c.fail(p, "want a token of a-z 0-9 . _ -, at most 64")
	}
}

func (c *checker) text(p []any, s string) {
	if why := badText(s, 200); s == "" || why != "" {
		c.fail(p, "want 1 to 200 characters of text")
	}
}

func (c *checker) sentence(p []any, t Text) {
	c.text(append(slices.Clone(p), "fr"), t.FR)
	c.text(append(slices.Clone(p), "en"), t.EN)
}

func (c *checker) endpoint(d *Definition, s *schema) {
	u, err := url.Parse(d.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		c.fail(path("endpoint"), "want an absolute URL")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		c.fail(path("endpoint"), "want a URL without user, query and fragment")
	case strings.Contains(u.Path, "..") || u.RawPath != "":
		c.fail(path("endpoint"), "want a plain path, without .. and escapes")
	case u.Scheme == "http" && IsLoopback(u.Hostname()):
		s.plain, s.endpoint = true, u
	case u.Scheme != "https":
		c.fail(path("endpoint"), "want https (http is for loopback addresses in development)")
	default:
		s.endpoint = u
	}
}

// IsLoopback reports whether a URL's host name is this machine itself.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// parts are the parameters of a mapping for a pivot, in the order of the query.
func (m *Mapping) parts() [10]string {
	return [...]string{m.BirthName, m.GivenNames, m.EachGivenName, m.BirthDate, m.BirthYear, m.BirthMonth, m.BirthDay, m.Sex, m.BirthPlace, m.BirthCountry}
}

var requirable = []string{"birth_name", "given_names", "birth_date", "sex", "birth_place", "birth_country"}

func (c *checker) query(d *Definition, s *schema) {
	if len(d.Subjects) == 0 {
		c.fail(path("subjects"), "want at least one subject type")
	}
	common := map[string]bool{}
	use := func(used map[string]bool, p []any, name string) {
		if !queryForm.MatchString(name) {
			c.fail(p, "not the name of a query parameter")
		} else if used[name] {
			c.fail(p, "query parameter %s is used twice", name)
		}
		used[name] = true
	}
	for i := range d.Parameters {
		c.parameter(path("parameters", i), &d.Parameters[i], s)
		use(common, path("parameters", i, "name"), d.Parameters[i].Name)
	}
	if d.Select != nil {
		use(common, path("select", "parameter"), d.Select.Parameter)
		if d.Select.By != "field" && d.Select.By != "scope" {
			c.fail(path("select", "by"), "want field or scope")
		}
		if len(d.Select.Separator) != 1 || !strings.Contains(", ;+", d.Select.Separator) {
			c.fail(path("select", "separator"), "want a comma, space, semicolon or plus")
		}
	}
	for t, m := range d.Subjects {
		p := path("subjects", string(t))
		used := map[string]bool{}
		for n := range common {
			used[n] = true
		}
		if t == SubjectType(proof.TypePivot) {
			c.pivot(p, m, func(name string) { use(used, p, name) })
		} else {
			use(used, append(slices.Clone(p), "value"), m.Value)
			if m.parts() != (&Mapping{}).parts() || m.Required != nil {
				c.fail(p, "only a pivot has parts")
			}
		}
		switch filed := proof.SubjectType(t); {
		case t == TypeSIRET:
			s.subjectTypes = append(s.subjectTypes, proof.TypeSIREN)
		case slices.Contains([]proof.SubjectType{proof.TypePivot, proof.TypeNIR, proof.TypeINE, proof.TypeFranceTravail, proof.TypeSIREN}, filed):
			s.subjectTypes = append(s.subjectTypes, filed)
		default:
			c.fail(p, "unknown subject type: want pivot, nir, ine, france_travail, siren or siret")
		}
	}
	slices.Sort(s.subjectTypes)
	s.subjectTypes = slices.Compact(s.subjectTypes)
}

func (c *checker) pivot(p []any, m Mapping, use func(string)) {
	if m.Value != "" {
		c.fail(append(slices.Clone(p), "value"), "a pivot has parts, not one value")
	}
	sent := 0
	for _, name := range m.parts() {
		if name != "" {
			use(name)
			sent++
		}
	}
	if sent == 0 {
		c.fail(p, "sends nothing")
	}
	for i, r := range m.Required {
		if !slices.Contains(requirable, r) {
			c.fail(append(slices.Clone(p), "required", i), "want one of %s", strings.Join(requirable, ", "))
		}
	}
}

func (c *checker) parameter(p []any, q *Parameter, s *schema) {
	at := func(member string) []any { return append(slices.Clone(p), member) }
	c.sentence(at("title"), q.Title)
	if q.Type != TypeInteger && (q.Min != 0 || q.Max != 0) {
		c.fail(at("min"), "min and max are for integers")
	}
	if q.Type != TypeEnum && q.Values != nil {
		c.fail(at("values"), "only for enum")
	}
	if q.Type != TypePattern && q.Pattern != "" {
		c.fail(at("pattern"), "only for pattern")
	}
	if long := q.Type == TypeText || q.Type == TypePattern; long && (q.MaxLength < 1 || q.MaxLength > maxValue) || !long && q.MaxLength != 0 {
		c.fail(at("max_length"), "want 1 to %d for text and pattern, nothing for others", maxValue)
	}
	switch q.Type {
	case TypeInteger:
		if q.Min > q.Max || q.Min == 0 && q.Max == 0 {
			c.fail(at("max"), "want min and max, min not above max")
		}
	case TypeEnum:
		if len(q.Values) == 0 {
			c.fail(at("values"), "want at least one")
		}
		for i, v := range q.Values {
			if badText(v, maxValue) != "" || v == "" {
				c.fail(append(at("values"), i), "want text")
			}
		}
	case TypePattern:
		re, err := regexp.Compile(`^(?:` + q.Pattern + `)$`)
		if err != nil || q.Pattern == "" {
			c.fail(at("pattern"), "not a regular expression (RE2)")
			return
		}
		s.patterns[q.Name] = re
	case TypeDate, TypeText:
	default:
		c.fail(at("type"), "want integer, date, enum, pattern or text")
	}
}

func (c *checker) errors(d *Definition) {
	for name, p := range map[string]Pointer{"code": d.Errors.Code, "title": d.Errors.Title, "detail": d.Errors.Detail, "provider": d.Errors.Provider} {
		if p != "" && (!pointerForm.MatchString(string(p)) || strings.Contains(string(p), "*")) {
			c.fail(path("errors", name), "want a JSON pointer without *")
		}
	}
	seen := map[int]bool{}
	for i, e := range d.Errors.Empty {
		if e.Status != 200 && (e.Status < 400 || e.Status > 499) || seen[e.Status] {
			c.fail(path("errors", "empty", i, "status"), "want 200 or 400 to 499, each once")
		}
		seen[e.Status] = true
		if len(e.Codes) == 0 || d.Errors.Code == "" {
			c.fail(path("errors", "empty", i, "codes"), "want errors.code and the codes that mean that nobody is known: the status alone may come from any proxy")
		}
		for j, code := range e.Codes {
			if !codeForm.MatchString(code) {
				c.fail(path("errors", "empty", i, "codes", j), "want letters, digits, . _ -")
			}
		}
	}
}

func (c *checker) links(d *Definition, s *schema) {
	for p, l := range d.Links {
		at := path("links", string(p))
		i, ok := slices.BinarySearch(s.pointers, p)
		if !ok || s.nodes[s.leafNode[i]].kind != kindString {
			c.fail(at, "not a string of the answer")
			continue
		}
		switch l.Mode {
		case LinkFetch:
			if len(l.Hosts) == 0 || len(l.MediaTypes) == 0 || l.MaxBytes < 1 || l.MaxBytes > maxAnswer {
				c.fail(at, "fetch wants hosts, media_types and max_bytes (at most %d)", maxAnswer)
			}
		case LinkWithhold:
			if l.Hosts != nil || l.MediaTypes != nil || l.MaxBytes != 0 {
				c.fail(at, "hosts, media_types and max_bytes are for fetch")
			}
		default:
			c.fail(append(at, "mode"), "want withhold or fetch")
		}
		for j, h := range l.Hosts {
			if !hostForm.MatchString(h) {
				c.fail(append(slices.Clone(at), "hosts", j), "want a host name in lower case, with a port unless it is 443")
			}
		}
		for j, m := range l.MediaTypes {
			if !mediaForm.MatchString(m) {
				c.fail(append(slices.Clone(at), "media_types", j), "want a media type without parameters")
			}
		}
		s.nodes[s.leafNode[i]].link = &l
	}
}

func (c *checker) limits(d *Definition) {
	l := d.Limits
	between := func(name string, v, min, max time.Duration) {
		if v < min || v > max {
			c.fail(path("limits", name), "want %s to %s", min, max)
		}
	}
	count := func(name string, v, min, max int64) {
		if v < min || v > max {
			c.fail(path("limits", name), "want %d to %d", min, max)
		}
	}
	between("first_byte", l.FirstByte, time.Millisecond, 2*time.Minute)
	between("total", l.Total, l.FirstByte, 5*time.Minute)
	between("wait", l.Wait, 0, time.Minute)
	if l.Wait+l.Total > LongestCall {
		c.fail(path("limits", "total"), "wait and total together: at most 1m, for agencies wait no longer")
	}
	count("answer_bytes", l.AnswerBytes, 1, maxAnswer)
	count("concurrent", int64(l.Concurrent), 1, 4096)
	count("persons", int64(l.Persons), 1, maxPersons)
	if l.PerSecond < 0 || l.PerSecond > 1e6 || l.PerSecond > 0 && l.Burst < 1 || l.Burst < 0 || l.Burst > 1e6 {
		c.fail(path("limits", "per_second"), "want calls per second and a burst of at least 1, or 0 and no limit")
	}
	if r := d.Retention; r.Answer < 0 || r.Answer > 24*time.Hour || r.RecordDays < 0 || r.RecordDays > 36600 {
		c.fail(path("retention"), "want an answer of at most 24h and records of at most 36600 days")
	}
}

package holder

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/regard-broker/regard/broker/service"
)

// Definitions identifies people by the service definitions that the provider and its broker agreed on, as the broker does itself. Requests under one of the paths documents, which end with a slash, are parts of
// answers that identify nobody (fetched links). The definitions must be those in force: another version's identity pointers may find other people than the broker files. A question with more in its query than the broker sends, or with a parameter
// twice, identifies nobody: the provider's program might read another person in it than the Guard.
func Definitions(defs []*service.Definition, documents ...string) (func(*http.Request, int, []byte) (Answered, error), error) {
	type served struct {
		def  *service.Definition
		plan *service.Plan
	}
	byPath := map[string]served{}
	for _, under := range documents {
		if !strings.HasPrefix(under, "/") || !strings.HasSuffix(under, "/") {
			return nil, fmt.Errorf("holder: the path of documents %q doesn't begin and end with a slash", under)
		}
	}
	for _, d := range defs {
		u, err := url.Parse(d.Endpoint)
		if err != nil {
			return nil, fmt.Errorf("holder: the endpoint of %s: %w", d.Ref(), err)
		}
		if _, twice := byPath[u.Path]; twice {
			return nil, fmt.Errorf("holder: two definitions have the path of %s", d.Ref())
		}
		plan, err := service.NewPlan(d, d.Fields())
		if err != nil {
			return nil, err
		}
		byPath[u.Path] = served{d, plan}
	}
	return func(r *http.Request, status int, body []byte) (Answered, error) {
		s, ok := byPath[r.URL.Path]
		if !ok {
			for _, under := range documents {
				if rest, ok := strings.CutPrefix(r.URL.Path, under); ok && plain(rest) {
					return Answered{Part: true}, nil
				}
			}
			return Answered{}, fmt.Errorf("holder: no service definition has this path")
		}
		query, err := url.ParseQuery(r.URL.RawQuery) // not URL.Query, which drops what it can't read
		if err != nil {
			return Answered{}, errors.New("holder: the question's query can't be read")
		}
		told, err := s.def.Told(query)
		if err != nil {
			return Answered{}, err
		}
		out := Answered{Asked: Person{Subject: told.Subject, Said: told.Said}}
		if status < 200 || status > 299 {
			return out, nil
		}
		if s.def.Judge(status, body).Outcome != service.OutcomeAnswer { // an error of the service with a status of 2xx
			out.Unreadable = true
			return out, nil
		}
		f, err := s.plan.Filter(body)
		if err != nil {
			out.Unreadable = true
			return out, nil
		}
		out.Obtained = []string{}
		for _, p := range f.Obtained() {
			out.Obtained = append(out.Obtained, string(p))
		}
		for _, p := range f.Stated() {
			out.Persons = append(out.Persons, Person{Subject: p.Person, Said: p.Said, MayBeAsked: p.MayBeAsked})
		}
		return out, nil
	}, nil
}

// plain reports whether every server reads a path as it stands: none that leads elsewhere by "..", by an encoding that is undone later, or by what some take for a separator.
func plain(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-._~@:+,=", r)
		}) {
			return false
		}
	}
	return true
}

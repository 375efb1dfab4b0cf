package cases

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/regard-broker/regard/broker/service"
)

// A Simulator answers as the sandbox does, at the paths of the services' endpoints. Like the sandbox it gives everything whatever the selection of fields, but it keeps
// the selections it was sent.
// Safe for concurrent use.
type Simulator struct {
	mu      sync.Mutex
	paths   map[string]service.ID
	selects map[service.ID]string
	cases   map[string]*Case // service?query
	asked   map[string]int
	sent    map[string][]string // selections by case
	lost    int
}

// NewSimulator makes one for definitions of the reference services.
func NewSimulator(all []Case, definitions ...*service.Definition) (*Simulator, error) {
	s := &Simulator{paths: map[string]service.ID{}, selects: map[service.ID]string{}, cases: map[string]*Case{}, asked: map[string]int{}, sent: map[string][]string{}}
	for _, d := range definitions {
		u, err := url.Parse(d.Endpoint)
		if err != nil {
			return nil, err
		}
		s.paths[u.Path] = d.ID
		if d.Select != nil {
			s.selects[d.ID] = d.Select.Parameter
		}
	}
	for i := range all {
		s.cases[string(all[i].Service)+"?"+all[i].query] = &all[i]
	}
	return s, nil
}

// Asked returns how often a case was asked.
func (s *Simulator) Asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// Selections returns what each question of a case asked for, in their order: the text of the selecting parameter, empty if there was none.
func (s *Simulator) Selections(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent[name])
}

// Lost returns how many questions belonged to no case.
func (s *Simulator) Lost() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// ServeHTTP answers one question.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	id := s.paths[r.URL.Path]
	selection := ""
	if name := s.selects[id]; name != "" {
		selection = strings.Join(q[name], "\x00") // twice is never right
		q.Del(name)
	}
	c := s.cases[string(id)+"?"+normal(q)]
	if c == nil || r.Method != http.MethodGet {
		s.lost++
		s.mu.Unlock()
		http.Error(w, "no such case", http.StatusInternalServerError)
		return
	}
	s.asked[c.Name]++
	s.sent[c.Name] = append(s.sent[c.Name], selection)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(c.Status)
	w.Write(c.Payload)
}

package cases

import (
	"net/http"
	"net/url"
	"sync"

	"github.com/regard-broker/regard/broker/service"
)

// A Simulator answers as the sandbox does, at the paths of the services' endpoints. Like the sandbox it takes no notice of a selection of fields.
// Safe for concurrent use.
type Simulator struct {
	mu      sync.Mutex
	paths   map[string]service.ID
	selects map[service.ID]string
	cases   map[string]*Case // service?query
	asked   map[string]int
	lost    int
}

// NewSimulator makes one for definitions of the reference services.
func NewSimulator(all []Case, definitions ...*service.Definition) (*Simulator, error) {
	s := &Simulator{paths: map[string]service.ID{}, selects: map[service.ID]string{}, cases: map[string]*Case{}, asked: map[string]int{}}
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
	if name := s.selects[id]; name != "" {
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
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(c.Status)
	w.Write(c.Payload)
}

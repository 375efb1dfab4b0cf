package service

import (
	"fmt"
	"slices"
	"strings"
)

// A Plan is what one grant means for one service: what to ask the provider for and what may pass. It is immutable, safe for concurrent use and worth keeping:
// requests with equal grants can share it.
type Plan struct {
	def       *Definition
	granted   set
	requested set
	fields    []Pointer
	emit      []bool // for each node: it or something below it is granted
	selection string // value of the selecting parameter
}

// NewPlan says what to ask for. Every granted pointer must be a field of the definition, and there must be one: the error wraps ErrPlan.
// The pointers may be of any string type, so that a policy's grant fits without conversion.
func NewPlan[P ~string](d *Definition, granted []P) (*Plan, error) {
	if d == nil || d.schema == nil {
		return nil, fmt.Errorf("planning with no definition: %w", ErrPlan)
	}
	s := d.schema
	p := &Plan{def: d, emit: make([]bool, len(s.nodes))}
	for _, g := range granted {
		i, ok := s.leafOf(Pointer(g))
		if !ok {
			return nil, fmt.Errorf("planning %s: a granted field is not declared: %w", d.Ref(), ErrPlan)
		}
		p.granted.add(i)
	}
	if p.granted.empty() {
		return nil, fmt.Errorf("planning %s: nothing is granted: %w", d.Ref(), ErrPlan)
	}
	for i := range s.nodes {
		p.emit[i] = !s.nodes[i].below.and(&p.granted).empty()
	}
	p.request()
	p.fields = s.list(&p.requested)
	return p, nil
}

// request computes what the provider is asked for: what is granted and who it is about, or everything if the provider can't select.
func (p *Plan) request() {
	s, sel := p.def.schema, p.def.Select
	if sel == nil {
		p.requested = s.nodes[0].below
		return
	}
	want := p.granted
	want.join(&s.identity)
	var words []string
	if sel.By == "scope" {
		names := make([]Scope, 0, len(s.scopeOf))
		for name := range s.scopeOf {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			leaves := s.scopeOf[name]
			if leaves.and(&want).empty() {
				continue
			}
			words = append(words, string(name))
			p.requested.join(&leaves)
		}
	} else {
		p.requested = want
		for _, f := range s.list(&want) {
			words = append(words, string(f))
		}
	}
	p.selection = strings.Join(words, sel.Separator)
}

// Definition returns the service's definition.
func (p *Plan) Definition() *Definition { return p.def }

// Requested returns the fields the provider is asked for, in increasing order. It must not be changed.
func (p *Plan) Requested() []Pointer { return p.fields }

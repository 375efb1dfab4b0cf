package service

import (
	"math/bits"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// schema is a definition as Filter reads it.
type schema struct {
	nodes    []node    // 0 is the root, an object
	pointers []Pointer // leaves in increasing order
	leafNode []int     // node of each leaf
	scopes   map[Scope][]Pointer
	scopeOf  map[Scope]set
	rules    []rule
	identity set // leaves of identity pointers

	subjectTypes []proof.SubjectType
	patterns     map[string]matcher // of parameters
	endpoint     *url.URL
	plain        bool
}

type matcher interface{ MatchString(string) bool }

type kind uint8

const (
	kindNone kind = iota // implied by a pointer below it, kind not yet known
	kindObject
	kindArray
	kindString
	kindNumber
	kindInteger
	kindBoolean
)

var kinds = map[string]kind{"object": kindObject, "array": kindArray, "string": kindString, "number": kindNumber, "integer": kindInteger, "boolean": kindBoolean}

func (k kind) scalar() bool { return k >= kindString }

// node is one place of the schema.
type node struct {
	at      Pointer
	kind    kind
	null    bool
	leaf    int            // number of a scalar's pointer, -1 for others
	key     string         // `"name":`
	number  int            // among the members of its object
	members map[string]int // of an object
	elem    int            // of an array, -1 if it declares none
	below   set            // leaves here and below
	base    int            // the person rule whose place this is, or -1
	rule    int            // the person rule in whose place this stands, or -1
	field   field          // what it says about that person
	link    *LinkRule
}

// field is a part of an identity; given names are fieldGiven and the numbers after it.
type field uint8

const (
	fieldNone field = iota
	fieldBirthName
	fieldBirthDate
	fieldSex
	fieldBirthPlace
	fieldBirthCountry
	fieldGiven
)

// rule is a compiled PersonRule.
type rule struct {
	PersonRule
	own      set // leaves at its place
	concerns set // leaves of its scopes, elsewhere
}

// set is a set of leaves.
type set [8]uint64

func (s *set) add(i int)  { s[i/64] |= 1 << (i % 64) }
func (s set) empty() bool { return s == set{} }

func (s *set) join(t *set) {
	for i := range s {
		s[i] |= t[i]
	}
}

func (s set) and(t *set) set {
	for i := range s {
		s[i] &= t[i]
	}
	return s
}

func (s set) without(t *set) set {
	for i := range s {
		s[i] &^= t[i]
	}
	return s
}

func (s *set) count() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// list returns the pointers of the leaves, in increasing order.
func (s *schema) list(in *set) []Pointer {
	out := make([]Pointer, 0, in.count())
	for i, w := range in {
		for ; w != 0; w &= w - 1 {
			out = append(out, s.pointers[64*i+bits.TrailingZeros64(w)])
		}
	}
	return out
}

// leafOf returns the number of a leaf.
func (s *schema) leafOf(p Pointer) (int, bool) { return slices.BinarySearch(s.pointers, p) }

// find returns the node at p.
func (s *schema) find(p Pointer) (int, bool) {
	at := 0
	for t := range strings.SplitSeq(strings.TrimPrefix(string(p), "/"), "/") {
		n := &s.nodes[at]
		if t == "*" {
			at = n.elem
		} else if next, ok := n.members[t]; ok {
			at = next
		} else {
			return 0, false
		}
		if at < 0 {
			return 0, false
		}
	}
	return at, true
}

func (s *schema) node(at Pointer, k kind) int {
	s.nodes = append(s.nodes, node{at: at, kind: k, leaf: -1, elem: -1, base: -1, rule: -1})
	return len(s.nodes) - 1
}

// compile builds the schema; what can't be built is noted as a fault and left out.
func (c *checker) compile(d *Definition) *schema {
	s := &schema{scopes: map[Scope][]Pointer{}, scopeOf: map[Scope]set{}, patterns: map[string]matcher{}}
	s.node("", kindObject)
	declared := make([]Pointer, 0, len(d.Answer))
	for p := range d.Answer {
		declared = append(declared, p)
	}
	slices.Sort(declared) // parents before what is below them
	for _, p := range declared {
		c.declare(s, p, d.Answer[p])
	}
	c.leaves(s)
	for i := range d.Persons {
		c.person(s, i, d.Persons[i])
	}
	s.inside(0, -1)
	c.scopes(d, s)
	for i := range s.rules {
		c.concerns(s, i)
	}
	return s
}

// declare adds one pointer of the answer with the objects and arrays above it.
func (c *checker) declare(s *schema, p Pointer, typ string) {
	at := path("answer", string(p))
	if !pointerForm.MatchString(string(p)) || strings.HasPrefix(string(p), "/*") {
		c.fail(at, "want a JSON pointer below the answer's object, of names in A-Z a-z 0-9 . _ @ : $ - and *")
		return
	}
	word, null := strings.CutSuffix(typ, "?")
	k, ok := kinds[word]
	if !ok {
		c.fail(at, "want string, number, integer, boolean, object or array, with ? if it may be null")
		return
	}
	tokens := strings.Split(string(p)[1:], "/")
	if len(tokens) > maxDepth-1 {
		c.fail(at, "deeper than %d", maxDepth-1)
		return
	}
	n := 0
	var here strings.Builder
	for _, t := range tokens {
		here.WriteString("/" + t)
		parent, want := &s.nodes[n], kindObject
		if t == "*" {
			want = kindArray
		}
		if parent.kind == kindNone {
			parent.kind = want
		}
		if parent.kind != want {
			c.fail(at, "stands below something that is declared as another type")
			return
		}
		next, found := parent.elem, parent.elem >= 0
		if t != "*" {
			next, found = parent.members[t]
		}
		if !found {
			next = s.node(Pointer(here.String()), kindNone)
			if parent = &s.nodes[n]; t == "*" {
				parent.elem = next
			} else {
				if parent.members == nil {
					parent.members = map[string]int{}
				}
				s.nodes[next].number, s.nodes[next].key = len(parent.members), strconv.Quote(t)+":"
				parent.members[t] = next
				if len(parent.members) > maxMembers {
					c.fail(at, "more than %d members in one object", maxMembers)
				}
			}
		}
		n = next
	}
	s.nodes[n].kind, s.nodes[n].null = k, null
}

// leaves numbers the scalars in the order of their pointers.
func (c *checker) leaves(s *schema) {
	for i := range s.nodes {
		if s.nodes[i].kind.scalar() {
			s.pointers = append(s.pointers, s.nodes[i].at)
		}
	}
	if len(s.pointers) == 0 || len(s.pointers) > maxFields {
		c.fail(path("answer"), "want 1 to %d fields that are not objects or arrays", maxFields)
		s.pointers = nil
		return
	}
	slices.Sort(s.pointers)
	s.leafNode = make([]int, len(s.pointers))
	for i := range s.nodes {
		if n := &s.nodes[i]; n.kind.scalar() {
			n.leaf, _ = s.leafOf(n.at)
			s.leafNode[n.leaf] = i
		}
	}
	s.under(0)
}

// under computes the leaves below each node.
func (s *schema) under(i int) set {
	n := &s.nodes[i]
	if n.leaf >= 0 {
		n.below.add(n.leaf)
	}
	for _, m := range n.members {
		b := s.under(m)
		n.below.join(&b)
	}
	if n.elem >= 0 {
		b := s.under(n.elem)
		n.below.join(&b)
	}
	return n.below
}

// inside notes in whose place each node stands.
func (s *schema) inside(i, rule int) {
	n := &s.nodes[i]
	if n.base >= 0 {
		rule = n.base
	}
	n.rule = rule
	for _, m := range n.members {
		s.inside(m, rule)
	}
	if n.elem >= 0 {
		s.inside(n.elem, rule)
	}
}

// person compiles one rule.
func (c *checker) person(s *schema, i int, p PersonRule) {
	at := func(member ...any) []any { return append(path("persons", i), member...) }
	base, ok := s.find(p.At)
	if !ok || s.nodes[base].kind != kindObject {
		c.fail(at("at"), "not an object of the answer")
		return
	}
	for j := range s.rules {
		if other := s.rules[j].At; strings.HasPrefix(string(p.At)+"/", string(other)+"/") || strings.HasPrefix(string(other)+"/", string(p.At)+"/") {
			c.fail(at("at"), "stands in the place of another person")
			return
		}
	}
	s.nodes[base].base = len(s.rules)
	r := rule{PersonRule: p, own: s.nodes[base].below}
	say := func(member, name string, f field) {
		if name == "" {
			return
		}
		n, ok := s.find(p.At + "/" + Pointer(name))
		if ok && f >= fieldGiven && s.nodes[n].kind == kindArray && s.nodes[n].elem >= 0 {
			n = s.nodes[n].elem
		}
		switch {
		case !ok || s.nodes[n].kind != kindString || strings.Contains(name, "*"):
			c.fail(at(member), "not a string of the answer below the person's place")
		case s.nodes[n].field != fieldNone:
			c.fail(at(member), "used twice")
		default:
			s.nodes[n].field = f
			s.identity.add(s.nodes[n].leaf)
		}
	}
	if p.BirthName == "" {
		c.fail(at("birth_name"), "missing: nobody can be filed without it")
	}
	if len(p.GivenNames) > maxGivenNames {
		c.fail(at("given_names"), "more than %d members", maxGivenNames)
		return
	}
	say("birth_name", p.BirthName, fieldBirthName)
	for j, name := range p.GivenNames {
		say("given_names", name, fieldGiven+field(j))
	}
	say("birth_date", p.BirthDate, fieldBirthDate)
	say("sex", p.Sex, fieldSex)
	say("birth_place", p.BirthPlace, fieldBirthPlace)
	say("birth_country", p.BirthCountry, fieldBirthCountry)
	for word, sex := range p.SexValues {
		if sex != "M" && sex != "F" {
			c.fail(at("sex_values", word), "want M or F")
		}
	}
	s.rules = append(s.rules, r)
}

// scopes writes out the groups of fields.
func (c *checker) scopes(d *Definition, s *schema) {
	if len(d.Scopes) == 0 {
		c.fail(path("scopes"), "want at least one")
	}
	for name, g := range d.Scopes {
		c.token(path("scopes", string(name)), string(name))
		c.sentence(path("scopes", string(name), "title"), g.Title)
		if len(g.Fields) == 0 {
			c.fail(path("scopes", string(name), "fields"), "want at least one pointer")
		}
		var leaves set
		for i, f := range g.Fields {
			n, ok := s.find(f)
			if !ok || s.nodes[n].below.empty() {
				c.fail(path("scopes", string(name), "fields", i), "the answer declares no such field")
				continue
			}
			leaves.join(&s.nodes[n].below)
		}
		s.scopeOf[name], s.scopes[name] = leaves, s.list(&leaves)
	}
}

func (c *checker) concerns(s *schema, i int) {
	r := &s.rules[i]
	for j, name := range r.Scopes {
		leaves, ok := s.scopeOf[name]
		if !ok {
			c.fail(path("persons", i, "scopes", j), "no such scope")
		}
		r.concerns.join(&leaves)
	}
	r.concerns = r.concerns.without(&r.own)
}

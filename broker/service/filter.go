package service

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
)

// Filtered is what is left of an answer; it shares no memory with it. It holds personal data and redacts itself, also when it is buried where fmt can't call its methods.
type Filtered struct{ *filtered }

type filtered struct {
	plan       *Plan
	out        []byte
	links      []Link
	obtained   set
	released   set
	withheld   set
	dropped    int
	undeclared int
	people     []instance
}

// A Link is a URL in the answer that is to be fetched. It may give access to data: never log it.
type Link struct {
	Pointer Pointer
	Rule    LinkRule
	url     *url.URL
	at      int // where the document goes in the released bytes
}

// URL returns the address: https (http only as the endpoint), of a host that the definition lists.
func (l Link) URL() *url.URL { u := *l.url; return &u }

// String shows the pointer alone.
func (l Link) String() string { return "link:" + string(l.Pointer) }

// Format implements fmt.Formatter: every verb shows the pointer alone.
func (l Link) Format(f fmt.State, _ rune) { fmt.Fprint(f, l.String()) }

// LogValue implements slog.LogValuer: it shows the pointer alone.
func (l Link) LogValue() slog.Value { return slog.StringValue(l.String()) }

// maxLinks bounds the documents that are fetched for one answer.
const maxLinks = 16

// placeholder stands in the output where a document goes.
const placeholder = "null"

// A Document was fetched from a link.
type Document struct {
	MediaType string
	SHA256    [32]byte
	Content   []byte
}

// String shows nothing.
func (f *Filtered) String() string { return "answer:[redacted]" }

// Format implements fmt.Formatter: every verb shows nothing.
func (f *Filtered) Format(s fmt.State, _ rune) { fmt.Fprint(s, f.String()) }

// LogValue implements slog.LogValuer: it shows nothing.
func (f *Filtered) LogValue() slog.Value { return slog.StringValue(f.String()) }

// Obtained returns the fields that the answer held, granted or not, in increasing order. An empty array or a null object holds all fields below it: it says that there are none.
func (f *Filtered) Obtained() []Pointer { return f.plan.def.schema.list(&f.obtained) }

// Released returns the fields that the released bytes hold, in increasing order.
func (f *Filtered) Released() []Pointer { return f.plan.def.schema.list(&f.released) }

// Withheld returns the granted fields of which something was dropped because it is or holds a link that may be neither passed nor followed, in increasing order.
func (f *Filtered) Withheld() []Pointer { return f.plan.def.schema.list(&f.withheld) }

// Dropped is the number of values that are declared and were not granted.
func (f *Filtered) Dropped() int { return f.dropped }

// Undeclared is the number of members that the definition doesn't know, each counted once with all it held. They are dropped.
func (f *Filtered) Undeclared() int { return f.undeclared }

// Links returns the links to fetch, in the order in which Data wants the documents.
func (f *Filtered) Links() []Link { return f.links }

// Data returns the answer as it may be released: compact JSON, numbers and strings in their literal text, one document in the place of each link.
func (f *Filtered) Data(documents ...Document) ([]byte, error) {
	if len(documents) != len(f.links) {
		return nil, fmt.Errorf("releasing with %d documents for %d links: %w", len(documents), len(f.links), ErrAnswer)
	}
	if len(documents) == 0 {
		return f.out, nil
	}
	size := len(f.out)
	for i := range documents {
		size += 256 + base64.StdEncoding.EncodedLen(len(documents[i].Content))
	}
	out, last := make([]byte, 0, size), 0
	for i := range documents {
		d, at := &documents[i], f.links[i].at
		if !mediaForm.MatchString(d.MediaType) {
			return nil, fmt.Errorf("releasing a document without a media type: %w", ErrAnswer)
		}
		out = append(out, f.out[last:at]...)
		out = append(out, `{"media_type":"`...)
		out = append(out, d.MediaType...)
		out = append(out, `","sha256":"`...)
		out = hex.AppendEncode(out, d.SHA256[:])
		out = append(out, `","base64":"`...)
		out = base64.StdEncoding.AppendEncode(out, d.Content)
		out = append(out, `"}`...)
		last = at + len(placeholder)
	}
	return append(out, f.out[last:]...), nil
}

// instance is one person as the answer states it, while it is read.
type instance struct {
	rule  int
	said  [fieldGiven]string
	given [maxGivenNames][]byte // of each member; an array's joined by spaces
	held  set
}

// filter is one pass over an answer.
type filter struct {
	scanner
	*Filtered
	nodes []node
	who   int // the person in whose place the scanner stands, -1
}

// Filter checks an answer and drops at once what is not granted. Its errors wrap ErrAnswer and hold nothing of the answer.
func (p *Plan) Filter(answer []byte) (*Filtered, error) {
	if int64(len(answer)) > p.def.Limits.AnswerBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrAnswer, len(answer), p.def.Limits.AnswerBytes)
	}
	f := filter{
		scanner:  scanner{b: answer},
		Filtered: &Filtered{&filtered{plan: p, out: make([]byte, 0, len(answer))}},
		nodes:    p.def.schema.nodes, who: -1,
	}
	if f.space() != '{' {
		return nil, f.bad("want a JSON object")
	}
	if err := f.object(&f.nodes[0], true, 1); err != nil {
		return nil, err
	}
	if f.space() != 0 || f.i != len(f.b) {
		return nil, f.bad("something after the JSON object")
	}
	return f.Filtered, nil
}

// object reads a declared object.
func (f *filter) object(n *node, emit bool, depth int) error {
	empty, err := f.open('}', depth)
	if err != nil {
		return err
	}
	if emit {
		f.out = append(f.out, '{')
	}
	var seen [maxMembers / 64]uint64
	u := uniqueKeys{first: len(f.keys)}
	first := len(f.out)
	for more := !empty; more; {
		key, err := f.member()
		if err != nil {
			return err
		}
		if m, ok := n.members[string(key)]; !ok {
			if !f.add(&u, key) {
				return f.bad("repeated key")
			}
			f.undeclared++
			if err := f.skip(depth + 1); err != nil {
				return err
			}
		} else {
			member := &f.nodes[m]
			if word, bit := &seen[member.number/64], uint64(1)<<(member.number%64); *word&bit != 0 {
				return f.bad("repeated key")
			} else {
				*word |= bit
			}
			mark, pass := len(f.out), emit && f.plan.emit[m]
			if pass {
				if mark > first {
					f.out = append(f.out, ',')
				}
				f.out = append(f.out, member.key...)
			}
			kept, err := f.value(member, pass, depth+1)
			if err != nil {
				return err
			}
			if !kept {
				f.out = f.out[:mark]
			}
		}
		if more, err = f.more('}'); err != nil {
			return err
		}
	}
	f.keys = f.keys[:u.first]
	if emit {
		f.out = append(f.out, '}')
	}
	return nil
}

// array reads a declared array.
func (f *filter) array(n *node, emit bool, depth int) error {
	empty, err := f.open(']', depth)
	if err != nil {
		return err
	}
	if empty {
		f.none(n, emit)
	}
	if emit {
		f.out = append(f.out, '[')
	}
	first := len(f.out)
	for more := !empty; more; {
		if n.elem < 0 {
			f.undeclared++
			err = f.skip(depth + 1)
		} else {
			mark := len(f.out)
			if emit && mark > first {
				f.out = append(f.out, ',')
			}
			var kept bool
			if kept, err = f.value(&f.nodes[n.elem], emit, depth+1); !kept {
				f.out = f.out[:mark]
			}
		}
		if err != nil {
			return err
		}
		if more, err = f.more(']'); err != nil {
			return err
		}
	}
	if emit {
		f.out = append(f.out, ']')
	}
	return nil
}

// none notes that the answer says: there is nothing here.
func (f *filter) none(n *node, emit bool) {
	f.obtained.join(&n.below)
	if f.who >= 0 && n.rule >= 0 {
		f.people[f.who].held.join(&n.below)
	}
	if emit {
		passed := n.below.and(&f.plan.granted)
		f.released.join(&passed)
	}
}

// value reads a declared value. It reports false if nothing of it may stay in the output.
func (f *filter) value(n *node, emit bool, depth int) (kept bool, err error) {
	c := f.space()
	if c == 'n' {
		if !n.null {
			return false, f.bad("null where the definition has none")
		}
		if err := f.literal("null"); err != nil {
			return false, err
		}
		f.none(n, emit)
		if n.leaf >= 0 && !emit {
			f.dropped++
		}
		if emit {
			f.out = append(f.out, "null"...)
		}
		return emit, nil
	}
	switch n.kind {
	case kindObject, kindNone:
		if c != '{' {
			return false, f.bad("want an object")
		}
		if n.base >= 0 {
			if len(f.people) >= f.plan.def.Limits.Persons {
				return false, f.bad("more people than the definition allows")
			}
			f.people = append(f.people, instance{rule: n.base})
			f.who = len(f.people) - 1
			err := f.object(n, emit, depth)
			f.who = -1
			return emit, err
		}
		return emit, f.object(n, emit, depth)
	case kindArray:
		if c != '[' {
			return false, f.bad("want an array")
		}
		return emit, f.array(n, emit, depth)
	}
	return f.scalar(n, c, emit)
}

func (f *filter) scalar(n *node, c byte, emit bool) (kept bool, err error) {
	start := f.i
	switch n.kind {
	case kindString:
		if c != '"' {
			return false, f.bad("want a string")
		}
		raw, escaped, err := f.text()
		if err != nil {
			return false, err
		}
		f.hold(n)
		if n.field != fieldNone && f.who >= 0 {
			if err := f.state(n.field, raw, escaped); err != nil {
				return false, err
			}
		}
		if n.link != nil || emit && holdsURL(raw, escaped) {
			return f.linked(n, raw, escaped, emit)
		}
	case kindBoolean:
		word := "true"
		if c == 'f' {
			word = "false"
		}
		if err := f.literal(word); err != nil {
			return false, f.bad("want a boolean")
		}
		f.hold(n)
	default:
		_, integer, err := f.number()
		if err != nil || n.kind == kindInteger && !integer {
			return false, f.bad("want a number")
		}
		f.hold(n)
	}
	if !emit {
		f.dropped++
		return false, nil
	}
	f.released.add(n.leaf)
	f.out = append(f.out, f.b[start:f.i]...)
	return true, nil
}

func (f *filter) hold(n *node) {
	f.obtained.add(n.leaf)
	if f.who >= 0 && n.rule >= 0 {
		f.people[f.who].held.add(n.leaf)
	}
}

// state notes what the answer says about the person in whose place it stands.
func (f *filter) state(what field, raw []byte, escaped bool) error {
	if escaped {
		raw = unescape(raw)
	}
	p := &f.people[f.who]
	if what < fieldGiven {
		if len(raw) > maxStated {
			return f.bad("more about a person than can be a name")
		}
		p.said[what] = string(raw)
		return nil
	}
	g := &p.given[what-fieldGiven]
	if len(*g) > 0 {
		*g = append(*g, ' ')
	}
	if len(*g)+len(raw) > maxStated {
		return f.bad("more given names than anybody has")
	}
	*g = append(*g, raw...)
	return nil
}

// linked treats a string that is a link, or holds one.
func (f *filter) linked(n *node, raw []byte, escaped, emit bool) (kept bool, err error) {
	if !emit {
		f.dropped++
		return false, nil
	}
	switch {
	case n.link == nil || n.link.Mode == LinkWithhold:
		f.withheld.add(n.leaf)
		return false, nil
	}
	if escaped {
		raw = unescape(raw)
	}
	u, err := url.Parse(string(raw))
	if err != nil || !n.link.allows(u, f.plan.def.schema.plain) {
		f.withheld.add(n.leaf) // it leads elsewhere than the definition allows: nobody follows it
		return false, nil
	}
	if len(f.links) == maxLinks {
		return false, f.bad("more documents than are fetched")
	}
	u.Fragment = ""
	f.released.add(n.leaf)
	f.links = append(f.links, Link{Pointer: f.plan.def.schema.pointers[n.leaf], Rule: *n.link, url: u, at: len(f.out)})
	f.out = append(f.out, placeholder...)
	return true, nil
}

// allows reports whether a URL is one that the definition lists. plain: the endpoint itself is http on this machine.
func (l *LinkRule) allows(u *url.URL, plain bool) bool {
	if u.Scheme != "https" && !(plain && u.Scheme == "http" && IsLoopback(u.Hostname())) || u.User != nil || u.Opaque != "" {
		return false
	}
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	}
	for _, h := range l.Hosts {
		if h == host {
			return true
		}
	}
	return false
}

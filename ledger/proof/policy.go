package proof

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Policy says whose signatures make a checkpoint good: the keys of the log,
// known witnesses and a quorum among them (c2sp.org/tlog-policy). It is
// immutable and safe for concurrent use.
type Policy struct {
	logs      []logKey
	witnesses []witness
	groups    []group // members refer to earlier components
	quorum    int     // component; -1 for "none"
}

// logKey is a key of the log, with the text that it was read from.
type logKey struct {
	note.Verifier
	vkey string
}

type witness struct {
	component int
	verifier  note.Verifier
	// name in the policy, vkey and url as they stand there.
	name, vkey, url string
}

type group struct {
	component int
	threshold int
	members   []int
}

// Bounds of a policy.
const (
	maxPolicy     = 256 << 10 // bytes; ML-DSA keys are 1.8 kB each
	maxComponents = 256
)

// NewPolicy returns the policy that knows one log key and no witnesses: all
// that it accepts is provisional.
func NewPolicy(vkey string) (*Policy, error) {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, formatError("policy: log key: not an Ed25519 vkey")
	}
	return &Policy{logs: []logKey{{v, vkey}}, quorum: -1}, nil
}

// ParsePolicy parses a policy file (c2sp.org/tlog-policy): lines log, witness,
// group and quorum. Several log lines are accepted, for the time of a key
// rotation. Log keys are Ed25519 and their name is the origin; witness keys are
// cosignature keys, Ed25519 (0x04) or ML-DSA-44 (0x06).
func ParsePolicy(text []byte) (*Policy, error) {
	p, err := parsePolicy(text)
	if err == nil && len(p.logs) == 0 {
		err = formatError("policy: no line \"log <verification key>\", and the log is not known from elsewhere: whoever verifies puts it before the witnesses")
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// ParseWitnesses parses a policy for somebody who knows the log's keys from
// elsewhere, as the log itself does: the policy has the given keys, and log lines
// in the text, if any, have to name one of them.
func ParseWitnesses(text []byte, vkeys ...string) (*Policy, error) {
	p, err := parsePolicy(text)
	if err != nil {
		return nil, err
	}
	named := p.logs
	p.logs = nil
	agrees := len(named) == 0
	for _, k := range vkeys {
		v, err := note.NewVerifier(k)
		if err != nil {
			return nil, formatError("policy: log key: not an Ed25519 vkey")
		}
		for _, w := range p.witnesses {
			if keyOf(w.vkey) == keyOf(k) {
				return nil, formatError("policy: a witness has the key of the log")
			}
		}
		for _, l := range named {
			agrees = agrees || l.Name() == v.Name() && l.KeyHash() == v.KeyHash()
		}
		p.logs = append(p.logs, logKey{v, k})
	}
	if !agrees || len(p.logs) == 0 {
		return nil, formatError("policy: its log lines name another log, or another key of it")
	}
	return p, nil
}

// LogKeys returns the verification keys of the log, in the order of the policy.
func (p *Policy) LogKeys() []string {
	keys := make([]string, len(p.logs))
	for i := range p.logs {
		keys[i] = p.logs[i].vkey
	}
	return keys
}

// keyOf returns the raw public key of a vkey, without its type.
func keyOf(vkey string) string {
	_, _, key, _ := splitKey(vkey)
	if key == "" {
		return ""
	}
	return key[1:]
}

func parsePolicy(text []byte) (*Policy, error) {
	if len(text) > maxPolicy {
		return nil, formatError("policy: more than %d bytes", maxPolicy)
	}
	for _, c := range text {
		if c < 0x20 && c != '\t' && c != '\n' || c == 0x7f {
			return nil, formatError("policy: control characters")
		}
	}
	p := policyParser{names: map[string]int{}, keys: map[string]bool{}, lines: map[string]bool{}, used: map[int]bool{}}
	l := lines{what: "policy", rest: text}
	for len(l.rest) > 0 {
		line, err := l.next()
		if err != nil {
			return nil, err
		}
		words := strings.FieldsFunc(string(line), func(r rune) bool { return r == ' ' || r == '\t' })
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if reason := p.line(words); reason != "" {
			return nil, l.errorf("%s", reason)
		}
	}
	if !p.quorum {
		return nil, formatError("policy: no quorum line")
	}
	return &p.Policy, nil
}

type policyParser struct {
	Policy
	names  map[string]int
	keys   map[string]bool // raw keys
	lines  map[string]bool // name and id, as in signature lines
	used   map[int]bool    // members of a group
	quorum bool
}

// line returns what is wrong with a line, or "".
func (p *policyParser) line(w []string) string {
	switch w[0] {
	case "log":
		if len(w) != 2 && len(w) != 3 {
			return "want: log <vkey> [<url>]"
		}
		v, err := note.NewVerifier(w[1])
		if err != nil {
			return "log key is not an Ed25519 vkey"
		}
		if !p.fresh(w[1]) {
			return "the key stands in the policy twice"
		}
		p.logs = append(p.logs, logKey{v, w[1]})
	case "witness":
		if len(w) != 3 && len(w) != 4 {
			return "want: witness <name> <vkey> [<url>]"
		}
		v, reason := newCosignatureVerifier(w[2])
		if reason != "" {
			return reason
		}
		if !p.fresh(w[2]) {
			return "the key stands in the policy twice"
		}
		id, reason := p.define(w[1])
		if reason != "" {
			return reason
		}
		wit := witness{component: id, verifier: v, name: w[1], vkey: w[2]}
		if len(w) == 4 {
			wit.url = w[3]
		}
		p.witnesses = append(p.witnesses, wit)
	case "group":
		return p.group(w)
	case "quorum":
		if len(w) != 2 {
			return "want: quorum <name>"
		}
		if p.quorum {
			return "a second quorum line"
		}
		p.quorum, p.Policy.quorum = true, -1
		if w[1] != "none" {
			id, ok := p.names[w[1]]
			if !ok {
				return "quorum refers to a name that is not defined above"
			}
			p.Policy.quorum = id
		}
	default:
		return "unknown keyword"
	}
	return ""
}

func (p *policyParser) group(w []string) string {
	if len(w) < 4 {
		return "want: group <name> <k>|any|all <name>…"
	}
	g := group{}
	for _, name := range w[3:] {
		id, ok := p.names[name]
		if !ok {
			return "a group refers to a name that is not defined above"
		}
		if p.used[id] {
			return "a name is a member of two groups, or twice of one"
		}
		p.used[id] = true
		g.members = append(g.members, id)
	}
	switch w[2] {
	case "any":
		g.threshold = 1
	case "all":
		g.threshold = len(g.members)
	default:
		n, ok := parseUint([]byte(w[2]))
		if !ok || n < 1 || n > uint64(len(g.members)) {
			return "threshold is not any, all or a number from 1 to the number of members"
		}
		g.threshold = int(n)
	}
	id, reason := p.define(w[1])
	if reason != "" {
		return reason
	}
	g.component = id
	p.groups = append(p.groups, g)
	return ""
}

func (p *policyParser) define(name string) (int, string) {
	if _, ok := p.names[name]; ok || name == "none" {
		return 0, "the name is taken"
	}
	if len(p.names) == maxComponents {
		return 0, "too many witnesses and groups"
	}
	id := len(p.names)
	p.names[name] = id
	return id, ""
}

// fresh reports whether a key was not seen under any name, and its name and id
// not with any key: signature lines name keys by these two, and an id is short
// enough to be made on purpose.
func (p *policyParser) fresh(vkey string) bool {
	name, id, key, ok := splitKey(vkey)
	line := fmt.Sprintf("%s+%08x", name, id)
	if !ok || p.keys[key[1:]] || p.lines[line] {
		return false
	}
	p.keys[key[1:]], p.lines[line] = true, true
	return true
}

// Demands reports whether the policy has a quorum other than none. Without one
// nothing is ever witnessed.
func (p *Policy) Demands() bool { return p.quorum >= 0 }

// satisfied reports whether the components that cosigned reach the quorum.
func (p *Policy) satisfied(cosigned []bool) bool {
	if p.quorum < 0 {
		return false
	}
	for _, g := range p.groups { // members come before their group
		n := 0
		for _, m := range g.members {
			if cosigned[m] {
				n++
			}
		}
		cosigned[g.component] = n >= g.threshold
	}
	return cosigned[p.quorum]
}

// witnessedAt reports whether the components that cosigned, at these times (0:
// not at all), reach the quorum, and the latest time such that those who cosigned
// then or later do.
func (p *Policy) witnessedAt(times []uint64) (bool, uint64) {
	since := slices.Clone(times)
	slices.Sort(since)
	for _, t := range slices.Backward(slices.Compact(since)) {
		if t == 0 {
			break
		}
		cosigned := make([]bool, len(times))
		for i := range times {
			cosigned[i] = times[i] >= t
		}
		if p.satisfied(cosigned) {
			return true, t
		}
	}
	return false, 0
}

func (p *Policy) components() int { return len(p.witnesses) + len(p.groups) }

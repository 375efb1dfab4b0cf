package proof

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
)

// A Witness is a witness that a policy names.
type Witness struct {
	// Name is what the policy calls it; KeyName is in its signatures.
	Name, KeyName string
	// VKey is its verification key (c2sp.org/signed-note).
	VKey string
	// URL is where it takes checkpoints (c2sp.org/tlog-witness), as the policy
	// gives it; empty if it doesn't.
	URL string

	w witness
}

// Witnesses returns the witnesses in the order of the policy.
func (p *Policy) Witnesses() []Witness {
	out := make([]Witness, len(p.witnesses))
	for i, w := range p.witnesses {
		out[i] = Witness{Name: w.name, KeyName: w.verifier.Name(), VKey: w.vkey, URL: w.url, w: w}
	}
	return out
}

// Cosignature finds this witness's signature of a checkpoint among signature
// lines, verifies it, and returns its line. Lines of other keys are ignored, as
// c2sp.org/tlog-witness demands. ErrSignature if there is none that holds.
func (w Witness) Cosignature(c Checkpoint, text []byte) ([]byte, Cosignature, error) {
	at := bytes.Index(c.note, noteSplit)
	if w.w.verifier == nil || at < 0 {
		return nil, Cosignature{}, ErrSignature
	}
	body := c.note[:at+1]
	l := lines{what: "cosignatures", rest: text}
	for len(l.rest) > 0 {
		line, err := l.next()
		if err != nil {
			return nil, Cosignature{}, err
		}
		name, id, sig, err := parseSignature(&l, line)
		if err != nil {
			return nil, Cosignature{}, err
		}
		if name != w.KeyName || id != w.w.verifier.KeyHash() {
			continue
		}
		if !w.w.verifier.Verify(body, sig) {
			return nil, Cosignature{}, l.wrap(ErrSignature)
		}
		return append(slices.Clone(line), '\n'), Cosignature{name, binary.BigEndian.Uint64(sig)}, nil
	}
	return nil, Cosignature{}, l.wrap(ErrSignature)
}

// Cosigned reports whether the witness cosigned a checkpoint that was verified
// under its policy.
func (w Witness) Cosigned(c Checkpoint) bool {
	at := bytes.Index(c.note, noteSplit)
	if at < 0 {
		return false
	}
	_, _, err := w.Cosignature(c, c.note[at+2:])
	return err == nil
}

// Reached reports whether the quorum is reached if those of Witnesses cosign
// that has says yes to, by their place there.
func (p *Policy) Reached(has func(i int) bool) bool {
	cosigned := make([]bool, p.components())
	for i, w := range p.witnesses {
		cosigned[w.component] = has(i)
	}
	return p.satisfied(cosigned)
}

// Lacks returns how many witnesses, at the least, are between those that has says
// yes to, by their place in Witnesses, and the quorum: 0 if it is Reached, and
// math.MaxInt if there is no quorum.
func (p *Policy) Lacks(has func(i int) bool) int {
	if p.quorum < 0 {
		return math.MaxInt
	}
	of := make([]int, p.components())
	for i, w := range p.witnesses {
		if !has(i) {
			of[w.component] = 1
		}
	}
	for _, g := range p.groups { // members come before their group
		var m []int
		for _, i := range g.members {
			m = append(m, of[i])
		}
		slices.Sort(m)
		for _, x := range m[:g.threshold] {
			of[g.component] += x
		}
	}
	return of[p.quorum]
}

// Overlap is the least number of witnesses that any two quorums have in common.
// Two histories can't both get a quorum, as long as fewer of the witnesses than
// this are dishonest: for k of n it is 2k-n. 0 without a quorum.
//
// A name is a member of one group at most, so witnesses of different members are
// different ones and the numbers of a group follow from those of its members.
func (p *Policy) Overlap() int { return p.measure(true) }

// Spare is the number of witnesses that may be missing, whichever they are,
// without the quorum being lost. 0 without a quorum.
func (p *Policy) Spare() int { return max(0, p.measure(false)-1) }

// measure computes, from the leaves upwards, the least number of witnesses that
// two quorums share, or the least number whose absence prevents a quorum.
func (p *Policy) measure(overlap bool) int {
	if p.quorum < 0 {
		return 0
	}
	of := make([]int, p.components())
	for _, w := range p.witnesses {
		of[w.component] = 1
	}
	for _, g := range p.groups { // members come before their group
		var m []int
		for _, i := range g.members {
			m = append(m, of[i])
		}
		slices.Sort(m)
		n := len(m) - g.threshold + 1 // one less than this many may be missing
		if overlap {
			n = max(0, 2*g.threshold-len(m)) // so many members stand in both, at least
		}
		for _, x := range m[:n] {
			of[g.component] += x
		}
	}
	return of[p.quorum]
}

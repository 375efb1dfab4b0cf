package proof

import (
	"bytes"
	"slices"
)

const (
	rollHeader = "regard/roll@v1"
	// maxLeaves bounds the roll of an epoch proof.
	maxLeaves = 1 << 24
)

// EpochProof shows all entries that are filed under a subject in a closed
// epoch, or that there are none. It is what a person gets, and what nobody else
// gets: it opens every leaf of the roll.
type EpochProof struct {
	LabelProof
	Leaves []OpenLeaf // the whole roll, in the order of the tree; empty if there is none
}

// EpochEntries is what an EpochProof shows.
type EpochEntries struct {
	Epoch   Epoch
	Opened  Time // as the operator says
	Closed  Time
	Label   Label
	Indexes []Index // of all entries of the subject, increasing; empty if there are none
}

// AppendText appends the canonical text, or returns b and an error if
// ParseEpochProof would refuse it.
func (p *EpochProof) AppendText(b []byte) ([]byte, error) {
	out := append(b, rollHeader+"\n"...)
	out = p.LabelProof.appendText(out)
	out = appendUintLine(out, "roll", uint64(len(p.Leaves)))
	for i := range p.Leaves {
		if leaf := &p.Leaves[i]; leaf.Dummy() {
			out = append(out, '-')
		} else {
			out = appendUint(out, uint64(leaf.Index))
		}
		out = append(out, ' ')
		out = appendHash(out, &p.Leaves[i].Salt)
		out = append(out, '\n')
	}
	// One definition of what an epoch proof is: what ParseEpochProof accepts.
	if _, err := ParseEpochProof(out[len(b):]); err != nil {
		return b, err
	}
	return out, nil
}

// ParseEpochProof parses the canonical text of an epoch proof. It verifies
// nothing.
func ParseEpochProof(text []byte) (*EpochProof, error) {
	l := lines{what: "epoch proof", rest: text}
	head, err := l.next()
	if err != nil {
		return nil, err
	}
	if string(head) != rollHeader {
		return nil, l.errorf("want %s", rollHeader)
	}
	p := new(EpochProof)
	if p.LabelProof, err = parseLabelProof(&l); err != nil {
		return nil, err
	}
	if p.Leaves, err = parseLeaves(&l); err != nil {
		return nil, err
	}
	if err := l.end(); err != nil {
		return nil, err
	}
	return p, nil
}

// parseLeaves reads a roll that is opened as a whole.
func parseLeaves(l *lines) ([]OpenLeaf, error) {
	n, err := l.uint("roll")
	if err != nil {
		return nil, err
	}
	if n != 0 && !isRollSize(n) || n > maxLeaves {
		return nil, l.errorf("a roll has no leaves or a power of two, from %d to %d", minRoll, maxLeaves)
	}
	var leaves []OpenLeaf // grows with what is there, not with what is announced
	for range n {
		leaf, err := parseLeaf(l)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, leaf)
	}
	return slices.Clip(leaves), nil
}

// parseLeaf reads the line of one leaf.
func parseLeaf(l *lines) (OpenLeaf, error) {
	line, err := l.next()
	if err != nil {
		return OpenLeaf{}, err
	}
	index, salt, _ := bytes.Cut(line, []byte{' '})
	leaf := OpenLeaf{Index: dummyIndex}
	if string(index) != "-" {
		i, ok := parseUint(index)
		if !ok {
			return OpenLeaf{}, l.errorf("want a log index or -")
		}
		leaf.Index = Index(i)
	}
	if err := decodeB64(leaf.Salt[:], salt); err != nil {
		return OpenLeaf{}, l.wrap(err)
	}
	return leaf, nil
}

// Verify checks the proof for a subject under a verified checkpoint. Whether
// that is witnessed is for the caller to see to: without the quorum others may
// be shown another index. Entries whose records were lost (Restart) are in
// nobody's roll, so none of this counts them.
func (p *EpochProof) Verify(cp Checkpoint, s Subject) (EpochEntries, error) {
	if cp.IsZero() {
		return EpochEntries{}, unproven("epoch: no verified checkpoint")
	}
	v, err := p.LabelProof.verify(cp, s)
	if err != nil {
		return EpochEntries{}, err
	}
	e := EpochEntries{Epoch: v.opener.Epoch, Opened: v.opener.Opened, Closed: v.closing.Opened, Label: v.label}
	if !v.has {
		if len(p.Leaves) != 0 {
			return EpochEntries{}, unproven("epoch: leaves of a roll that the index does not have")
		}
		return e, nil
	}
	reached, indexes, err := CheckRoll(p.Leaves)
	if err != nil {
		return EpochEntries{}, err
	}
	if reached != v.root {
		return EpochEntries{}, unproven("epoch: the leaves are not the roll in the index")
	}
	if indexes[0] <= v.closing.Closed.First || indexes[len(indexes)-1] >= v.closing.At() {
		return EpochEntries{}, unproven("epoch: the roll holds an entry of another epoch")
	}
	e.Indexes = indexes
	return e, nil
}

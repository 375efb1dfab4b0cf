package proof

import (
	"fmt"
	"slices"
)

// Settlement shows that an entry is in its subject's only roll of a closed
// epoch. The checkpoint of the receipt must cover the closing marker.
type Settlement struct {
	LabelProof
	Leaf LeafProof
}

func (s *Settlement) clone() *Settlement {
	if s == nil {
		return nil
	}
	c := *s
	c.Marker.Text, c.Marker.Path = slices.Clone(s.Marker.Text), slices.Clone(s.Marker.Path)
	c.OpenerText, c.VRFProof = slices.Clone(s.OpenerText), slices.Clone(s.VRFProof)
	c.Bucket.Items, c.BucketPath = slices.Clone(s.Bucket.Items), slices.Clone(s.BucketPath)
	c.Leaf.Path = slices.Clone(s.Leaf.Path)
	return &c
}

func (s *Settlement) appendText(b []byte) ([]byte, error) {
	out := s.LabelProof.appendText(b)
	out = append(out, "leaf "...)
	out = appendUint(out, s.Leaf.Position)
	out = append(out, ' ')
	out = appendUint(out, s.Leaf.Size)
	out = append(out, ' ')
	out = appendHash(out, &s.Leaf.Salt)
	out = append(out, '\n')
	return appendPath(out, "leaf-path", s.Leaf.Path), nil
}

func parseSettlement(l *lines) (*Settlement, error) {
	s := new(Settlement)
	var err error
	if s.LabelProof, err = parseLabelProof(l); err != nil {
		return nil, err
	}
	w, err := l.words("leaf", 3)
	if err != nil {
		return nil, err
	}
	var ok1, ok2 bool
	s.Leaf.Position, ok1 = parseUint(w[0])
	s.Leaf.Size, ok2 = parseUint(w[1])
	if !ok1 || !ok2 || !isRollSize(s.Leaf.Size) || s.Leaf.Position >= s.Leaf.Size {
		return nil, l.errorf("position or size of the roll is not valid")
	}
	if err := decodeB64(s.Leaf.Salt[:], w[2]); err != nil {
		return nil, l.wrap(err)
	}
	s.Leaf.Path, err = l.path("leaf-path")
	return s, err
}

// verify checks the settlement of the receipt under a verified checkpoint
// (docs/formats.md, section 7, step 5). The entry itself is already proven.
func (s *Settlement) verify(r *Receipt, cp Checkpoint) (Marker, Label, error) {
	subject, err := r.opening.Subject()
	if err != nil {
		return Marker{}, Label{}, fmt.Errorf("settlement: the subject must be open: %w", err)
	}
	v, err := s.LabelProof.verify(cp, subject)
	if err != nil {
		return Marker{}, Label{}, fmt.Errorf("settlement: %w", err)
	}
	switch {
	case r.entry.In() != v.opener.Epoch:
		return Marker{}, Label{}, unproven("settlement: the entry says another epoch than the markers")
	case r.index <= v.closing.Closed.First || r.index >= v.closing.At():
		return Marker{}, Label{}, unproven("settlement: the entry does not stand between the markers")
	case !v.has:
		return Marker{}, Label{}, unproven("settlement: the index has no roll for the subject")
	}
	reached, err := s.Leaf.Root(r.index)
	if err != nil {
		return Marker{}, Label{}, fmt.Errorf("settlement: %w", err)
	}
	if reached != v.root {
		return Marker{}, Label{}, unproven("settlement: the entry is not in the subject's roll")
	}
	return v.closing, v.label, nil
}

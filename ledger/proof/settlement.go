package proof

import (
	"bytes"
	"fmt"
	"slices"
)

// Settlement shows that an entry is in its subject's only roll of a closed
// epoch. The checkpoint of the receipt must cover the closing marker.
type Settlement struct {
	Marker     Proven // closes the entry's epoch
	Opener     Index  // log index of the marker that opens it
	OpenerText []byte // its leaf hash is Previous in the closing marker
	VRFProof   []byte // of the label, 80 bytes
	Bucket     Bucket // Number and Items; epoch and bits are the closing marker's
	BucketPath []Hash
	Leaf       LeafProof
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

func asMarker(text []byte) (Marker, error) {
	e, err := ParseEntry(text)
	if err != nil {
		return Marker{}, err
	}
	m, ok := e.(Marker)
	if !ok {
		return Marker{}, formatError("entry: want %s", KindEpoch)
	}
	return m, nil
}

func (s *Settlement) appendText(b []byte) ([]byte, error) {
	out := append(b, "settled "...)
	out = appendUint(out, uint64(s.Marker.Index))
	out = appendCounted(out, s.Marker.Text)
	out = appendPath(out, "marker-path", s.Marker.Path)
	out = append(out, "opener "...)
	out = appendUint(out, uint64(s.Opener))
	out = appendCounted(out, s.OpenerText)
	out = append(out, "vrf-proof "...)
	out = b64.AppendEncode(out, s.VRFProof)
	out = append(out, "\nbucket "...)
	out = appendUint(out, s.Bucket.Number)
	out = append(out, ' ')
	out = appendUint(out, uint64(len(s.Bucket.Items)))
	out = append(out, '\n')
	for i := range s.Bucket.Items {
		var item [itemSize]byte
		copy(item[:], s.Bucket.Items[i].Label[:])
		copy(item[32:], s.Bucket.Items[i].Root[:])
		out = b64.AppendEncode(out, item[:])
		out = append(out, '\n')
	}
	out = appendPath(out, "bucket-path", s.BucketPath)
	out = append(out, "leaf "...)
	out = appendUint(out, s.Leaf.Position)
	out = append(out, ' ')
	out = appendUint(out, s.Leaf.Size)
	out = append(out, ' ')
	out = appendHash(out, &s.Leaf.Salt)
	out = append(out, '\n')
	return appendPath(out, "leaf-path", s.Leaf.Path), nil
}

// appendCounted appends the number of lines of text and the text.
func appendCounted(b, text []byte) []byte {
	b = append(b, ' ')
	b = appendUint(b, uint64(bytes.Count(text, []byte{'\n'})))
	b = append(b, '\n')
	return append(b, text...)
}

func appendPath(b []byte, key string, path []Hash) []byte {
	b = appendUintLine(b, key, uint64(len(path)))
	for i := range path {
		b = appendHash(b, (*[32]byte)(&path[i]))
		b = append(b, '\n')
	}
	return b
}

func parseSettlement(l *lines) (*Settlement, error) {
	s := new(Settlement)
	closing, index, text, err := takeMarker(l, "settled")
	if err != nil {
		return nil, err
	}
	if closing.Closed == nil {
		return nil, l.errorf("the marker closes no epoch")
	}
	s.Marker.Index, s.Marker.Text = index, text
	if s.Marker.Path, err = l.path("marker-path"); err != nil {
		return nil, err
	}
	if _, s.Opener, s.OpenerText, err = takeMarker(l, "opener"); err != nil {
		return nil, err
	}
	vrfProof, err := l.value("vrf-proof")
	if err != nil {
		return nil, err
	}
	s.VRFProof = make([]byte, labelProofSize)
	if err := decodeB64(s.VRFProof, vrfProof); err != nil {
		return nil, l.wrap(err)
	}
	s.Bucket.Epoch, s.Bucket.Bits = closing.Epoch-1, closing.Closed.Bits
	if err := s.parseBucket(l); err != nil {
		return nil, err
	}
	if s.BucketPath, err = l.path("bucket-path"); err != nil {
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

// takeMarker reads "key <index> <lines>" and a marker of that many lines.
func takeMarker(l *lines, key string) (Marker, Index, []byte, error) {
	w, err := l.words(key, 2)
	if err != nil {
		return Marker{}, 0, nil, err
	}
	index, ok1 := parseUint(w[0])
	n, ok2 := parseUint(w[1])
	if !ok1 || !ok2 || n > maxEntry/8 { // no marker has so many
		return Marker{}, 0, nil, l.errorf("index or number of lines is not valid")
	}
	at := l.n
	text, err := l.take(int(n))
	if err != nil {
		return Marker{}, 0, nil, err
	}
	m, err := asMarker(text)
	if err != nil {
		l.n = at + 1
		return Marker{}, 0, nil, l.wrap(err)
	}
	return m, Index(index), slices.Clone(text), nil
}

func (s *Settlement) parseBucket(l *lines) error {
	w, err := l.words("bucket", 2)
	if err != nil {
		return err
	}
	number, ok1 := parseUint(w[0])
	n, ok2 := parseUint(w[1])
	if !ok1 || !ok2 || n > uint64(maxBucketItems) {
		return l.errorf("number or size of the bucket is not valid")
	}
	s.Bucket.Number = number
	s.Bucket.Items = make([]Item, n)
	for i := range s.Bucket.Items {
		line, err := l.next()
		if err != nil {
			return err
		}
		var item [itemSize]byte
		if err := decodeB64(item[:], line); err != nil {
			return l.wrap(err)
		}
		s.Bucket.Items[i] = Item{Label(item[:32]), Hash(item[32:])}
	}
	if err := s.Bucket.check(); err != nil {
		return l.wrap(err)
	}
	return nil
}

// verify checks the settlement of the receipt under a verified checkpoint
// (docs/formats.md, section 7, step 5). The entry itself is already proven.
func (s *Settlement) verify(r *Receipt, cp Checkpoint) (Marker, Label, error) {
	closing, opener, err := verifyMarkers(cp, s.Marker, s.Opener, s.OpenerText)
	if err != nil {
		return Marker{}, Label{}, fmt.Errorf("settlement: %w", err)
	}
	epoch := r.entry.In()
	switch {
	case epoch != opener.Epoch:
		return Marker{}, Label{}, unproven("settlement: the entry says another epoch than the markers")
	case r.index <= closing.Closed.First || r.index >= closing.At():
		return Marker{}, Label{}, unproven("settlement: the entry does not stand between the markers")
	}
	subject, err := r.opening.Subject()
	if err != nil {
		return Marker{}, Label{}, fmt.Errorf("settlement: the subject must be open: %w", err)
	}
	z, err := VerifyLabel(opener.VRF, subject, epoch, s.VRFProof)
	if err != nil {
		return Marker{}, Label{}, fmt.Errorf("settlement: %w", err)
	}
	root, ok, err := VerifyIndex(closing, z, s.Bucket, s.BucketPath)
	if err != nil {
		return Marker{}, Label{}, fmt.Errorf("settlement: %w", err)
	}
	if !ok {
		return Marker{}, Label{}, unproven("settlement: the index has no roll for the subject")
	}
	reached, err := s.Leaf.Root(r.index)
	if err != nil {
		return Marker{}, Label{}, fmt.Errorf("settlement: %w", err)
	}
	if reached != root {
		return Marker{}, Label{}, unproven("settlement: the entry is not in the subject's roll")
	}
	return closing, z, nil
}

// verifyMarkers shows that the marker is in the tree of the checkpoint where it
// says it stands, and that opener is the one before it.
func verifyMarkers(cp Checkpoint, marker Proven, at Index, text []byte) (closing, opener Marker, err error) {
	if closing, err = asMarker(marker.Text); err != nil {
		return Marker{}, Marker{}, err
	}
	if opener, err = asMarker(text); err != nil {
		return Marker{}, Marker{}, err
	}
	c := closing.Closed
	switch {
	case c == nil:
		err = unproven("the marker closes no epoch")
	case marker.Index != closing.At():
		err = unproven("the closing marker does not stand where it says")
	case !included(uint64(marker.Index), cp.size, LeafHash(marker.Text), marker.Path, cp.root):
		err = unproven("the closing marker is not in the tree of the checkpoint")
	case LeafHash(text) != c.Previous || at != c.First:
		err = unproven("the opener is not the marker before the closing one")
	case opener.Epoch != closing.Epoch-1:
		err = unproven("the markers do not follow each other")
	}
	return closing, opener, err
}

package proof

import (
	"bytes"
	"slices"
)

// LabelProof shows what the index of a closed epoch says about a subject: the
// root of its roll, or that it has none. Settlements and epoch proofs begin
// with it.
type LabelProof struct {
	Marker     Proven // closes the epoch
	Opener     Index  // log index of the marker that opens it
	OpenerText []byte // its leaf hash is Previous in the closing marker
	VRFProof   []byte // of the label, 80 bytes
	Bucket     Bucket // of the label. In text Number and Items; epoch and bits are the closing marker's
	BucketPath []Hash
}

func (p *LabelProof) appendText(b []byte) []byte {
	out := append(b, "settled "...)
	out = appendUint(out, uint64(p.Marker.Index))
	out = appendCounted(out, p.Marker.Text)
	out = appendPath(out, "marker-path", p.Marker.Path)
	out = append(out, "opener "...)
	out = appendUint(out, uint64(p.Opener))
	out = appendCounted(out, p.OpenerText)
	out = append(out, "vrf-proof "...)
	out = b64.AppendEncode(out, p.VRFProof)
	out = append(out, "\nbucket "...)
	out = appendUint(out, p.Bucket.Number)
	out = append(out, ' ')
	out = appendUint(out, uint64(len(p.Bucket.Items)))
	out = append(out, '\n')
	for i := range p.Bucket.Items {
		var item [itemSize]byte
		copy(item[:], p.Bucket.Items[i].Label[:])
		copy(item[32:], p.Bucket.Items[i].Root[:])
		out = b64.AppendEncode(out, item[:])
		out = append(out, '\n')
	}
	return appendPath(out, "bucket-path", p.BucketPath)
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

func parseLabelProof(l *lines) (p LabelProof, err error) {
	closing, index, text, err := takeMarker(l, "settled")
	if err != nil {
		return p, err
	}
	if closing.Closed == nil {
		return p, l.errorf("the marker closes no epoch")
	}
	p.Marker.Index, p.Marker.Text = index, text
	if p.Marker.Path, err = l.path("marker-path"); err != nil {
		return p, err
	}
	if _, p.Opener, p.OpenerText, err = takeMarker(l, "opener"); err != nil {
		return p, err
	}
	vrfProof, err := l.value("vrf-proof")
	if err != nil {
		return p, err
	}
	p.VRFProof = make([]byte, labelProofSize)
	if err := decodeB64(p.VRFProof, vrfProof); err != nil {
		return p, l.wrap(err)
	}
	p.Bucket.Epoch, p.Bucket.Bits = closing.Epoch-1, closing.Closed.Bits
	if err := p.parseBucket(l); err != nil {
		return p, err
	}
	p.BucketPath, err = l.path("bucket-path")
	return p, err
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

func (p *LabelProof) parseBucket(l *lines) error {
	w, err := l.words("bucket", 2)
	if err != nil {
		return err
	}
	number, ok1 := parseUint(w[0])
	n, ok2 := parseUint(w[1])
	if !ok1 || !ok2 || n > uint64(maxBucketItems) {
		return l.errorf("number or size of the bucket is not valid")
	}
	p.Bucket.Number = number
	p.Bucket.Items = make([]Item, n)
	for i := range p.Bucket.Items {
		line, err := l.next()
		if err != nil {
			return err
		}
		var item [itemSize]byte
		if err := decodeB64(item[:], line); err != nil {
			return l.wrap(err)
		}
		p.Bucket.Items[i] = Item{Label(item[:32]), Hash(item[32:])}
	}
	if err := p.Bucket.check(); err != nil {
		return l.wrap(err)
	}
	return nil
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

// labelVerdict is what a LabelProof was shown to prove.
type labelVerdict struct {
	closing, opener Marker
	label           Label
	root            Hash // of the roll
	has             bool // false: the subject has no roll
}

func (p *LabelProof) verify(cp Checkpoint, s Subject) (v labelVerdict, err error) {
	if v.closing, v.opener, err = verifyMarkers(cp, p.Marker, p.Opener, p.OpenerText); err != nil {
		return labelVerdict{}, err
	}
	if v.label, err = VerifyLabel(v.opener.VRF, s, v.opener.Epoch, p.VRFProof); err != nil {
		return labelVerdict{}, err
	}
	if v.root, v.has, err = VerifyIndex(v.closing, v.label, p.Bucket, p.BucketPath); err != nil {
		return labelVerdict{}, err
	}
	return v, nil
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

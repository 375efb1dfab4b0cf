package proof

import (
	"bytes"
	"math/bits"
	"time"
)

// Count is the number of entries of one kind in an epoch.
type Count struct {
	Kind Kind
	N    uint64 // at least 1
}

// MaxEpoch is how long an epoch may be due to last. A longer one is readable, but
// as long as it is open nobody's history is complete: whoever follows a log says so.
const MaxEpoch = 31 * 24 * time.Hour

// Marker closes an epoch and opens the next. Epoch 0's stands at log index 0
// and closes none.
type Marker struct {
	Epoch  Epoch // that it opens
	Opened Time  // it opens this epoch and closes the one before
	Until  Time  // at which this epoch is due to close, not before Opened
	VRF    LabelPublicKey

	// Closed describes the epoch that ends here; nil in epoch 0 and only there.
	Closed *Closed
}

// Closed is what a marker says about the epoch it closes.
type Closed struct {
	Previous Hash    // leaf hash of the previous marker
	First    Index   // log index of the previous marker
	Size     uint64  // number of entries, that marker included
	Counts   []Count // by increasing kind, known to this version or not; they add up to Size
	Items    uint64  // number of labels in the index
	Bits     uint8   // bucket bits of the index: BucketBits(Items)
	Index    Hash    // root of the index
}

func (Marker) Kind() Kind                { return KindEpoch }
func (m Marker) In() Epoch               { return m.Epoch }
func (m Marker) WithEpoch(e Epoch) Entry { m.Epoch = e; return m }

// At returns the log index at which the marker must stand.
func (m Marker) At() Index {
	if m.Closed == nil {
		return 0
	}
	return m.Closed.First + Index(m.Closed.Size)
}

// BucketBits returns k = max(0, ⌈log2(items / 4)⌉): the smallest k with
// 4·2^k ≥ items.
func BucketBits(items uint64) uint8 {
	if items <= 4 {
		return 0
	}
	return uint8(bits.Len64((items - 1) / 4))
}

// check reports what contradicts itself in m.
func (m Marker) check() error {
	if m.Opened < 0 || m.Until < m.Opened {
		return formatError("%s: due to close before it opens", KindEpoch)
	}
	if _, err := ParseLabelPublicKey(m.VRF[:]); err != nil {
		return formatError("%s: vrf is not a public key", KindEpoch)
	}
	c := m.Closed
	if (m.Epoch == 0) != (c == nil) {
		return formatError("%s: the closed epoch is described in every marker but the first", KindEpoch)
	}
	if c == nil {
		return nil
	}
	if c.Previous.IsZero() || c.Index.IsZero() {
		return formatError("%s: previous or index is zero", KindEpoch)
	}
	if m.Epoch == 1 && c.First != 0 || m.Epoch > 1 && c.First == 0 {
		return formatError("%s: log index 0 opens epoch 0 and no other", KindEpoch)
	}
	if c.First > maxInt || c.Size > maxInt || uint64(c.First) > maxInt-c.Size {
		return formatError("%s: first and size exceed 2^63-1", KindEpoch)
	}
	var sum, filed, unknown, markers uint64
	for i, n := range c.Counts {
		if !n.Kind.valid() || i > 0 && c.Counts[i-1].Kind >= n.Kind {
			return formatError("%s: count of what is no type, or out of order", KindEpoch)
		}
		if n.N < 1 || n.N > maxInt-sum {
			return formatError("%s: count is 0 or the sum exceeds 2^63-1", KindEpoch)
		}
		sum += n.N
		switch {
		case n.Kind.Filed():
			filed += n.N
		case !n.Kind.known():
			unknown += n.N // may be filed or not
		}
		if n.Kind == KindEpoch {
			markers = n.N
		}
	}
	if sum != c.Size {
		return formatError("%s: counts do not add up to size", KindEpoch)
	}
	if markers != 1 {
		return formatError("%s: a closed epoch has one marker, its own", KindEpoch)
	}
	// A type of later versions may be filed: a marker that counts one is not
	// refused for it. Without one this is the exact relation.
	if c.Items > filed+unknown || c.Items == 0 && filed > 0 {
		return formatError("%s: items do not agree with the counts of filed entries", KindEpoch)
	}
	if c.Bits != BucketBits(c.Items) {
		return formatError("%s: bits are not those of items", KindEpoch)
	}
	return nil
}

// AppendText implements Entry.
func (m Marker) AppendText(b []byte) ([]byte, error) {
	if err := m.check(); err != nil {
		return b, err
	}
	out, err := appendHead(b, KindEpoch, m.Epoch)
	if err != nil {
		return b, err
	}
	out = appendUintLine(out, "opened", uint64(m.Opened))
	out = appendUintLine(out, "until", uint64(m.Until))
	out = appendHashLine(out, "vrf", Hash(m.VRF))
	if c := m.Closed; c != nil {
		out = appendHashLine(out, "previous", c.Previous)
		out = appendUintLine(out, "first", uint64(c.First))
		out = appendUintLine(out, "size", c.Size)
		for _, n := range c.Counts {
			out = appendUintLine(out, "count "+string(n.Kind), n.N)
		}
		out = appendUintLine(out, "items", c.Items)
		out = appendUintLine(out, "bits", uint64(c.Bits))
		out = appendHashLine(out, "index", c.Index)
	}
	if len(out)-len(b) >= maxEntry {
		return b, formatError("%s: longer than %d bytes", KindEpoch, maxEntry-1)
	}
	return out, nil
}

func parseMarker(epoch Epoch, l *lines) (Entry, error) {
	m := Marker{Epoch: epoch}
	opened, err := l.uint("opened")
	if err != nil {
		return nil, err
	}
	until, err := l.uint("until")
	if err != nil {
		return nil, err
	}
	vrf, err := l.hash("vrf")
	if err != nil {
		return nil, err
	}
	m.Opened, m.Until, m.VRF = Time(opened), Time(until), LabelPublicKey(vrf)
	if epoch > 0 {
		if m.Closed, err = parseClosed(l); err != nil {
			return nil, err
		}
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

func parseClosed(l *lines) (*Closed, error) {
	c := new(Closed)
	var err error
	if c.Previous, err = l.hash("previous"); err != nil {
		return nil, err
	}
	first, err := l.uint("first")
	if err != nil {
		return nil, err
	}
	c.First = Index(first)
	if c.Size, err = l.uint("size"); err != nil {
		return nil, err
	}
	for bytes.HasPrefix(l.rest, []byte("count ")) {
		w, err := l.words("count", 2)
		if err != nil {
			return nil, err
		}
		n, ok := parseUint(w[1])
		if !ok {
			return nil, l.errorf("count is not a canonical integer")
		}
		c.Counts = append(c.Counts, Count{Kind(w[0]), n})
	}
	if c.Items, err = l.uint("items"); err != nil {
		return nil, err
	}
	k, err := l.uint("bits")
	if err != nil {
		return nil, err
	}
	if k > maxPath {
		return nil, l.errorf("bits above %d", maxPath)
	}
	c.Bits = uint8(k)
	c.Index, err = l.hash("index")
	return c, err
}

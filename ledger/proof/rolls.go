package proof

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

const rollsHeader = "regard/rolls@v1"

// OpenRoll is a roll with its label, opened as a whole: it names no subject.
type OpenRoll struct {
	Label  Label
	Leaves []OpenLeaf // in the order of the tree
}

// Rolls is a page of the rolls of a closed epoch, as an accredited auditor is
// shown them.
type Rolls struct {
	Epoch  Epoch
	Marker Index      // log index of the marker that closes it
	Rolls  []OpenRoll // by strictly increasing label
	More   bool       // others follow, on the page after the last label
}

// AppendText appends the canonical text, or returns b and an error if ReadRolls
// would refuse it.
func (p *Rolls) AppendText(b []byte) ([]byte, error) {
	if p.Epoch > maxInt || p.Marker > maxInt || p.Marker == 0 || p.More && len(p.Rolls) == 0 {
		return b, formatError("rolls: epoch or marker out of range, or more behind nothing")
	}
	out := append(b, rollsHeader+"\n"...)
	out = appendUintLine(out, "epoch", uint64(p.Epoch))
	out = appendUintLine(out, "marker", uint64(p.Marker))
	for i := range p.Rolls {
		r := &p.Rolls[i]
		if i > 0 && bytes.Compare(p.Rolls[i-1].Label[:], r.Label[:]) >= 0 {
			return b, formatError("rolls: labels are not strictly increasing")
		}
		if n := uint64(len(r.Leaves)); !isRollSize(n) || n > maxLeaves {
			return b, formatError("rolls: no roll has %d leaves", n)
		}
		out = append(out, "roll "...)
		out = appendHash(out, (*[32]byte)(&r.Label))
		out = append(out, ' ')
		out = append(appendUint(out, uint64(len(r.Leaves))), '\n')
		for j := range r.Leaves {
			l := &r.Leaves[j]
			switch {
			case l.Dummy():
				out = append(out, '-')
			case l.Index > maxInt:
				return b, formatError("rolls: index above 2^63-1")
			default:
				out = appendUint(out, uint64(l.Index))
			}
			out = append(out, ' ')
			out = append(appendHash(out, &l.Salt), '\n')
		}
	}
	if p.More {
		return append(out, "more\n"...), nil
	}
	return append(out, "end\n"...), nil
}

// ReadRolls reads the canonical text of a page and calls fn for each roll, in
// memory for one roll at a time. It returns the page without them. It verifies
// nothing: CheckRoll and BuildIndex do. An error of fn is returned as it is;
// what was read before an error is not a page.
func ReadRolls(r io.Reader, fn func(OpenRoll) error) (Rolls, error) {
	s := rollsReader{r: bufio.NewReaderSize(r, maxRollsLine)}
	p, err := s.page(fn)
	if err != nil {
		return Rolls{}, err
	}
	return p, nil
}

// maxRollsLine is more than the longest line of a page.
const maxRollsLine = 128

type rollsReader struct {
	r *bufio.Reader
	l lines // of one line at a time
	n int
}

// next makes s.l the next line.
func (s *rollsReader) next() error {
	line, err := s.r.ReadSlice('\n')
	s.n++
	s.l = lines{what: "rolls", rest: line, n: s.n - 1}
	switch {
	case err == nil:
		if !isText(line, true) {
			return s.l.errorf("control characters or invalid UTF-8")
		}
		return nil
	case errors.Is(err, bufio.ErrBufferFull):
		return s.l.errorf("the line is too long")
	case err == io.EOF:
		return s.l.errorf("cut short")
	}
	return err
}

func (s *rollsReader) uint(key string) (uint64, error) {
	if err := s.next(); err != nil {
		return 0, err
	}
	return s.l.uint(key)
}

func (s *rollsReader) page(fn func(OpenRoll) error) (p Rolls, err error) {
	if err := s.next(); err != nil {
		return p, err
	}
	if string(s.l.rest) != rollsHeader+"\n" {
		return p, s.l.errorf("want %s", rollsHeader)
	}
	epoch, err := s.uint("epoch")
	if err != nil {
		return p, err
	}
	marker, err := s.uint("marker")
	if err != nil {
		return p, err
	}
	if marker == 0 {
		return p, s.l.errorf("no epoch is closed by index 0")
	}
	p.Epoch, p.Marker = Epoch(epoch), Index(marker)
	var last Label
	for n := 0; ; n++ {
		if err := s.next(); err != nil {
			return p, err
		}
		switch line := string(s.l.rest); {
		case line == "end\n" || line == "more\n" && n > 0:
			p.More = line == "more\n"
			if _, err := s.r.ReadByte(); err != io.EOF {
				if err == nil {
					err = s.l.errorf("something follows the end")
				}
				return p, err
			}
			return p, nil
		case line == "more\n":
			return p, s.l.errorf("more behind nothing")
		}
		roll, err := s.roll()
		if err != nil {
			return p, err
		}
		if n > 0 && bytes.Compare(last[:], roll.Label[:]) >= 0 {
			return p, s.l.errorf("labels are not strictly increasing")
		}
		last = roll.Label
		if err := fn(roll); err != nil {
			return p, err
		}
	}
}

// roll reads a roll whose first line is s.l.
func (s *rollsReader) roll() (r OpenRoll, err error) {
	w, err := s.l.words("roll", 2)
	if err != nil {
		return r, err
	}
	if err := decodeB64(r.Label[:], w[0]); err != nil {
		return r, s.l.wrap(err)
	}
	n, ok := parseUint(w[1])
	if !ok || !isRollSize(n) || n > maxLeaves {
		return r, s.l.errorf("a roll has a power of two leaves, from %d to %d", minRoll, maxLeaves)
	}
	for range n { // grows with what is there, not with what is announced
		if err := s.next(); err != nil {
			return r, err
		}
		leaf, err := parseLeaf(&s.l)
		if err != nil {
			return r, err
		}
		r.Leaves = append(r.Leaves, leaf)
	}
	return r, nil
}

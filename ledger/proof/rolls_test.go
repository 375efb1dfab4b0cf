package proof

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func rollsPage(t testing.TB, more bool, sizes ...int) *Rolls {
	t.Helper()
	p := &Rolls{Epoch: 7, Marker: 900, More: more}
	next := Index(800)
	for i, n := range sizes {
		var indexes []Index
		for range n {
			indexes, next = append(indexes, next), next+1
		}
		r, err := NewRoll([32]byte{1}, Label{byte(i + 1)}, indexes)
		if err != nil {
			t.Fatal(err)
		}
		p.Rolls = append(p.Rolls, OpenRoll{r.Label(), r.Open()})
	}
	return p
}

func readAll(text []byte) (Rolls, error) {
	var rolls []OpenRoll
	p, err := ReadRolls(bytes.NewReader(text), func(r OpenRoll) error { rolls = append(rolls, r); return nil })
	p.Rolls = rolls
	return p, err
}

func TestRolls(t *testing.T) {
	for _, p := range []*Rolls{rollsPage(t, false), rollsPage(t, true, 1), rollsPage(t, false, 3, 9, 1)} {
		text, err := p.AppendText(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		again, err := got.AppendText(nil)
		if err != nil || !bytes.Equal(text, again) {
			t.Errorf("%s became %s (%v)", text, again, err)
		}
		for i := range got.Rolls {
			if _, _, err := CheckRoll(got.Rolls[i].Leaves); err != nil {
				t.Error(err)
			}
		}
		// Cut anywhere it is no page: whoever reads it must not take a part for all.
		for n := range text {
			if _, err := readAll(text[:n]); !errors.Is(err, ErrFormat) {
				t.Fatalf("cut at %d: %v", n, err)
			}
		}
	}
	good, err := rollsPage(t, true, 1, 1).AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(good), "\n")
	for name, text := range map[string]string{
		"another header":    strings.Replace(string(good), "rolls@v1", "rolls@v2", 1),
		"leading zero":      strings.Replace(string(good), "epoch 7", "epoch 07", 1),
		"closed by index 0": strings.Replace(string(good), "marker 900", "marker 0", 1),
		"another end":       strings.Replace(string(good), "more\n", "most\n", 1),
		"after the end":     string(good) + "\n",
		"more of nothing":   lines[0] + lines[1] + lines[2] + "more\n",
		"not in order":      lines[0] + lines[1] + lines[2] + strings.Join(lines[8:13], "") + strings.Join(lines[3:8], "") + "end\n",
		"twice":             lines[0] + lines[1] + lines[2] + strings.Join(lines[3:8], "") + strings.Join(lines[3:8], "") + "end\n",
		"three leaves":      strings.Replace(string(good), " 4\n", " 3\n", 1),
		"CR LF":             strings.ReplaceAll(string(good), "\n", "\r\n"),
		"a long line":       string(good[:len(good)-5]) + strings.Repeat("a", 1000) + "\n",
	} {
		if text == string(good) {
			t.Fatalf("%s changed nothing", name)
		}
		if _, err := readAll([]byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, p := range map[string]*Rolls{
		"more of nothing": {Epoch: 1, Marker: 1, More: true}, "no marker": {Epoch: 1},
		"three leaves": {Marker: 1, Rolls: []OpenRoll{{Leaves: make([]OpenLeaf, 3)}}},
		"not in order": {Marker: 1, Rolls: []OpenRoll{{Leaves: make([]OpenLeaf, 4)}, {Leaves: make([]OpenLeaf, 4)}}},
		"an index":     {Marker: 1, Rolls: []OpenRoll{{Leaves: []OpenLeaf{{Index: 1 << 63}, {}, {}, {}}}}},
	} {
		if _, err := p.AppendText(nil); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Neither an error of the reader nor one of the caller is called a fault of the page.
	broken := errors.New("broken")
	if _, err := ReadRolls(io.MultiReader(bytes.NewReader(good[:40]), failing{broken}), func(OpenRoll) error { return nil }); !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
		t.Errorf("reader: %v", err)
	}
	if _, err := ReadRolls(bytes.NewReader(good), func(OpenRoll) error { return broken }); !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
		t.Errorf("caller: %v", err)
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// FuzzReadRolls: what is read re-serialises to the same bytes.
func FuzzReadRolls(f *testing.F) {
	for _, p := range []*Rolls{rollsPage(f, false), rollsPage(f, true, 1, 5)} {
		text, err := p.AppendText(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := readAll(text)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%v does not wrap ErrFormat", err)
			}
			return
		}
		again, err := p.AppendText(nil)
		if err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q became %q (%v)", text, again, err)
		}
	})
}

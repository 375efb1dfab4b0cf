package tiles

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/proof"
)

func leaf(i uint64) proof.Hash { return proof.LeafHash(binary.BigEndian.AppendUint64(nil, i)) }

// An edge has the root that x/mod's code computes, whether leaves come singly or, where tiles begin, as whole tiles; and it survives JSON at every size.
func TestEdge(t *testing.T) {
	var one, skipped Edge
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i := range at {
			out[i] = stored[at[i]]
		}
		return out, nil
	})
	var tiles int
	if empty, err := tlog.TreeHash(0, read); err != nil || one.Root() != proof.Hash(empty) {
		t.Fatalf("root of the empty tree: %v", err)
	}
	for i := range uint64(66_000) {
		hashes, err := tlog.StoredHashesForRecordHash(int64(i), tlog.Hash(leaf(i)), read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		one.Append(leaf(i), func(l, n uint64, tile []byte) {
			tiles++
			if len(tile) != 32*width || l == 0 && n != i/width {
				t.Fatalf("tile %d of level %d of %d bytes after leaf %d", n, l, len(tile), i)
			}
			if l == 0 {
				skipped.Skip(TileRoot(tile), nil)
			}
		})
		if n := i + 1; n < 3 || n%width < 2 || n%997 == 0 {
			want, err := tlog.TreeHash(int64(n), read)
			if err != nil {
				t.Fatal(err)
			}
			if got := one.Root(); got != proof.Hash(want) {
				t.Fatalf("root of %d leaves differs", n)
			}
			if n%width == 0 && skipped.Root() != one.Root() {
				t.Fatalf("root of %d leaves differs when tiles are skipped", n)
			}
			text, err := json.Marshal(&one)
			var back Edge
			if err != nil || json.Unmarshal(text, &back) != nil || back.Root() != one.Root() || back.Size() != n {
				t.Fatalf("JSON at size %d: %v", n, err)
			}
		}
	}
	if want := 66_000/width + 1; tiles != want {
		t.Errorf("%d tiles, want %d", tiles, want)
	}
	for _, bad := range []string{`{"size":1,"levels":[]}`, `{"size":0,"levels":[""]}`, `{"size":1,"levels":["AAAA"]}`, `{"size":9223372036854775807,"levels":[]}`, `{"size":-1}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), new(Edge)); err == nil {
			t.Errorf("%s is taken for an edge", bad)
		}
	}
}

func TestSplitBundle(t *testing.T) {
	b := []byte("\x00\x01a\x00\x00\x00\x02bcx")
	entries, rest, err := SplitBundle(nil, b, 3)
	if err != nil || len(entries) != 3 || string(rest) != "x" || string(entries[0])+"|"+string(entries[1])+"|"+string(entries[2]) != "a||bc" {
		t.Errorf("%q %q %v", entries, rest, err)
	}
	for n := range 8 {
		if _, _, err := SplitBundle(nil, b[:n], 3); err == nil || !strings.Contains(err.Error(), "ends") {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

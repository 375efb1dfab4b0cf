package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

func TestRare(t *testing.T) { EachEngine(t, testRare) }

func testRare(t *testing.T, open Opener) {
	s := open(t, t.TempDir())
	kinds := []proof.Kind{proof.KindEpoch, proof.KindKey, proof.KindDisclosure, proof.KindRestart, proof.KindKey, proof.KindDeferred, proof.KindOpened, proof.KindKey}
	b := &ledger.Batch{Opens: &ledger.OpenEpoch{Text: []byte("marker"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"}}
	for i, k := range kinds {
		g := ledger.PlacedGroup{Leaves: []ledger.Leaf{{Index: proof.Index(i), Kind: k, Text: []byte(k)}}}
		b.Groups = append(b.Groups, g)
	}
	if err := (Order{Store: s}).Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[proof.Kind][]proof.Index{
		proof.KindKey: {1, 4}, proof.KindRestart: {3}, proof.KindDeferred: {5}, proof.KindOpened: {6}, proof.KindDisclosure: nil,
	} {
		var got []proof.Index
		err := s.Rare(t.Context(), kind, 7, func(i proof.Index, text []byte) error {
			if string(text) != string(kind) {
				return fmt.Errorf("entry %d is %q", i, text)
			}
			got = append(got, i)
			return nil
		})
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %s %v", kind, d, err)
		}
	}
	// Among many millions of entries it has to be found by its index.
	looksUpBy(t, s, "USING INDEX leaves_rare", selectRare, "key@v1", 7)
}

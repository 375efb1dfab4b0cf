package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

func TestRare(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	kinds := []proof.Kind{proof.KindEpoch, proof.KindKey, proof.KindDisclosure, proof.KindRestart, proof.KindKey, proof.KindDeferred, proof.KindOpened, proof.KindKey}
	b := &ledger.Batch{Opens: &ledger.OpenEpoch{Text: []byte("marker"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"}}
	for i, k := range kinds {
		g := ledger.PlacedGroup{Leaves: []ledger.Leaf{{Index: proof.Index(i), Kind: k, Text: []byte(k)}}}
		b.Groups = append(b.Groups, g)
	}
	if err := (Order{s}).Commit(t.Context(), b); err != nil {
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
	var plan strings.Builder
	rows, err := s.r.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+selectRare, "key@v1", 7)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var a, b, c int
		var text string
		if err := rows.Scan(&a, &b, &c, &text); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(text + "\n")
	}
	if rows.Err() != nil || !strings.Contains(plan.String(), "USING INDEX leaves_rare") || strings.Contains(plan.String(), "TEMP B-TREE") {
		t.Errorf("%v\n%s", rows.Err(), plan.String())
	}
}

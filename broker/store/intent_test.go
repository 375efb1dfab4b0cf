package store

import (
	"testing"
	"time"
)

// TestMalformedIDMayBeInterrupted: nobody works on a disclosure whose id is none. SQLite's alone: another database keeps to its schema.
func TestMalformedIDMayBeInterrupted(t *testing.T) {
	s := OpenSQLite(t, t.TempDir())
	defer s.Close()
	ctx := t.Context()
	d, _, err := s.Begin(ctx, &Intent{ID: ID{1}, Agency: "town", AskedAt: time.UnixMilli(1), Person: []byte("p"), Admin: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	busy := func(ID) bool { return true }
	for _, id := range []any{d.ID[:], []byte{1}, make([]byte, len(d.ID)+1), []byte{}, int64(1), "sixteen letters!"} {
		if err := s.do(ctx, func(t *tx) error {
			_, err := t.exec("UPDATE disclosures SET id = ? WHERE seq = ?", id, int64(d.Seq))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		want := true
		if b, ok := id.([]byte); ok {
			want = len(b) != len(d.ID)
		}
		if left, next, err := s.MayBeInterrupted(ctx, 0, 9, busy); err != nil || left != want || next != d.Seq {
			t.Errorf("id %v: %v, next %d (%v), want %v, %d", id, left, next, err, want, d.Seq)
		}
	}
}

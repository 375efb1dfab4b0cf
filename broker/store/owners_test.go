package store_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
)

// Whoever has a key is found, by the process that saved it and by the next one; nobody else is.
func TestLoadKeysOfOwner(t *testing.T) { store.EachEngine(t, testLoadKeysOfOwner) }

func testLoadKeysOfOwner(t *testing.T, open store.Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	var saved, others []keys.StoredKey
	for i := range 2000 {
		k := keys.StoredKey{Kind: keys.KindSubject, Wrapped: []byte{byte(i)}, Created: time.UnixMilli(int64(i)).UTC()}
		rand.Read(k.ID[:])
		rand.Read(k.Owner[:])
		if i%2 == 0 {
			saved = append(saved, k)
		} else {
			others = append(others, k)
		}
	}
	check := func(s *store.Store, ks []keys.StoredKey, want int) {
		t.Helper()
		for i := range ks {
			got, err := s.LoadKeys(t.Context(), keys.KindSubject, ks[i].Owner, "")
			if err != nil || len(got) != want || want > 0 && got[0].ID != ks[i].ID {
				t.Fatalf("key %d: %d keys of its owner, want %d (%v)", i, len(got), want, err)
			}
		}
	}
	check(s, saved, 0)
	if err := s.SaveKeys(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	check(s, saved, 1)
	check(s, others, 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	check(s, saved, 1)
	check(s, others, 0)
	ids := make([]keys.KeyID, len(saved))
	for i := range saved {
		ids[i] = saved[i].ID
	}
	if err := s.DestroyKeys(t.Context(), ids); err != nil {
		t.Fatal(err)
	}
	check(s, saved, 0)
}

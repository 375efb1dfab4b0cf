package signedfile_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/signedfile"
)

func TestContract(t *testing.T) {
	ledgertest.TestSignedStore(t, func(t *testing.T, path string) ledger.SignedStore {
		s, err := signedfile.Open(context.Background(), filepath.Join(path, "signed.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func TestFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a dir?", "signed.db") // a path that a careless DSN would cut
	s, err := signedfile.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestRefusesAnotherFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signed.db")
	if err := os.WriteFile(path, []byte("this is no database, and longer than a header of SQLite, which has 100 bytes. That should do by now, I think."), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := signedfile.Open(context.Background(), path); err == nil {
		s.Close()
		t.Error("a text file was opened as a checkpoint store")
	}
}

func BenchmarkSwap(b *testing.B) {
	s, err := signedfile.Open(context.Background(), filepath.Join(b.TempDir(), "signed.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var old []byte
	for i := range b.N {
		next := append(make([]byte, 0, 200), byte(i), byte(i>>8), byte(i>>16), 1)
		next = next[:200]
		if err := s.Swap(context.Background(), old, next); err != nil {
			b.Fatal(err)
		}
		old = next
	}
}

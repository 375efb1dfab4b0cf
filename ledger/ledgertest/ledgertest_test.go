package ledgertest_test

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

func TestStores(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) ledger.Store{
		"memory": func(*testing.T) ledger.Store { return ledgertest.NewStore() },
		"journal": func(t *testing.T) ledger.Store {
			j, err := ledgertest.OpenJournal(filepath.Join(t.TempDir(), "journal"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { j.Close() })
			return j
		},
	} {
		t.Run(name, func(t *testing.T) {
			ledgertest.TestStore(t, open)
			ledgertest.TestUnfiled(t, open, func(_ *testing.T, s proof.Subject) any { return ledgertest.Subjects{s} })
		})
	}
}

func TestSigned(t *testing.T) {
	var mu sync.Mutex
	byDir := map[string]*ledgertest.Signed{}
	ledgertest.TestSignedStore(t, func(_ *testing.T, dir string) ledger.SignedStore {
		mu.Lock()
		defer mu.Unlock()
		if byDir[dir] == nil {
			byDir[dir] = &ledgertest.Signed{}
		}
		return byDir[dir]
	})
}

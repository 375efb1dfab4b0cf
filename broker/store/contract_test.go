package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestOrderContract runs the ledger's own suite for stores.
func TestOrderContract(t *testing.T) { store.EachEngine(t, testOrderContract) }

func testOrderContract(t *testing.T, open store.Opener) {
	ledgertest.TestStore(t, func(t *testing.T) ledger.Store { return noSubjects{store.Order{Store: open(t, t.TempDir())}} })
}

// noSubjects stands in for the broker, which opens what is sealed.
type noSubjects struct{ store.Order }

func (noSubjects) Unfiled(context.Context, proof.Epoch, int) ([]ledger.Unfiled, error) {
	return nil, errors.New("the store has no keys")
}

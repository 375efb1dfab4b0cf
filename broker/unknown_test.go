package broker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
)

// TestUnknownCommit: a key is given up only if what was to store it says for certain that it isn't stored; one that may become durable yet is waited for before a wrap key is retired.
func TestUnknownCommit(t *testing.T) {
	t.Parallel()
	for err, certain := range map[error]bool{
		ledger.ErrRefused: true, ledger.ErrBusy: true, keys.ErrNoKey: true, keys.ErrKeyExists: true, store.ErrConflict: true, store.ErrStale: true, store.ErrErasing: true,
		ledger.ErrUnavailable: false, ledger.ErrHalted: false, ledger.ErrDeposed: false, ledger.ErrClosed: false, store.ErrUnavailable: false, store.ErrTerm: false, context.Canceled: false, context.DeadlineExceeded: false,
	} {
		if got := broker.NotStored(fmt.Errorf("appending: %w", err)); got != certain {
			t.Errorf("%v: certain %v", err, got)
		}
	}
}

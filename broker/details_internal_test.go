package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/regard-broker/regard/broker/store"
)

// TestDetailsOfSomeMonths: a month of which some is to be kept is left alone for a day, one that another broker dropped is no failure, and one that fails holds up no other and is tried again.
func TestDetailsOfSomeMonths(t *testing.T) {
	var x details
	var asked []int
	broken := errors.New("broken")
	drop := func(_ context.Context, m int) (int64, error) {
		asked = append(asked, m)
		return 0, map[int]error{1: fmt.Errorf("%w: kept", store.ErrExists), 2: broken, 3: store.ErrNotFound}[m]
	}
	for round, want := range [][]int{{1, 2, 3, 4}, {2, 3, 4}} {
		asked = nil
		if err := x.drop(t.Context(), []int{1, 2, 3, 4}, drop, slog.New(slog.DiscardHandler)); !errors.Is(err, broken) || errors.Is(err, store.ErrExists) {
			t.Errorf("round %d: %v", round, err)
		}
		if !slices.Equal(asked, want) {
			t.Errorf("round %d: the months %v are asked for", round, asked)
		}
	}
}

package api

import (
	"context"
	"testing"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

// slowHolders answers when it is told to.
type slowHolders struct {
	Holders
	begun, end chan struct{}
}

func (s *slowHolders) ProviderReceipts(context.Context, []string, []store.ID) ([]broker.Receipts, error) {
	s.begun <- struct{}{}
	<-s.end
	return nil, nil
}

func (s *slowHolders) IntentProofs(context.Context) ([]broker.KeyProof, error) { return nil, nil }

// TestFetchesAtOnce: more than so many calls are told to come again, and each place is given back.
func TestFetchesAtOnce(t *testing.T) {
	slow := &slowHolders{begun: make(chan struct{}), end: make(chan struct{})}
	f := &fetching{slow, make(chan struct{}, 2)}
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := f.ProviderReceipts(t.Context(), nil, nil)
			done <- err
		}()
		<-slow.begun
	}
	busy := func(err error) bool { return err != nil && broker.AsProblem(err).Code == "busy" }
	if _, err := f.ProviderReceipts(t.Context(), nil, nil); !busy(err) {
		t.Errorf("a third: %v", err)
	}
	if _, err := f.IntentProofs(t.Context()); !busy(err) {
		t.Errorf("the keys: %v", err)
	}
	close(slow.end)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := f.IntentProofs(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

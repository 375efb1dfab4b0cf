package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/regard-broker/regard/broker/cluster"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedpg"
)

// restoreShared is Restore of a store that several brokers share.
func (b *Broker) restoreShared(ctx context.Context) (_ *Restored, err error) {
	s := b.cfg.Shared
	if s.Keeper == "" {
		return nil, fmt.Errorf("%w: erasing again needs it", store.ErrNoKeeper)
	}
	if b.member, err = cluster.Alone(ctx, cluster.Config{URL: s.Store, Name: "regard restore", Logger: b.log}); err != nil {
		return nil, err
	}
	term, over, err := b.member.Term()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-over:
			cancel(cluster.ErrNotLeading)
		case <-ctx.Done():
		}
	}()
	if b.store, err = store.Open(ctx, store.Config{Postgres: s.Store, Keeper: s.Keeper, Member: b.member.ID(), Logger: b.log}); err != nil {
		return nil, err
	}
	if b.ring, err = keys.New(ctx, keys.Config{Custodian: b.cfg.Custodian, Store: b.store, Now: b.now, Logger: b.log}); err != nil {
		return nil, fmt.Errorf("opening the keys of the backup (they need the Vault of its time; a version of the wrap key that was retired since can't open them): %w", err)
	}
	if b.signed, err = signedpg.Open(ctx, s.Signed, b.cfg.Origin); err != nil {
		return nil, fmt.Errorf("opening the store of the signed checkpoint: %w", err)
	}
	r := &restoration{b: b, result: &Restored{}}
	r.store.Term = term
	log := b.ledgerConfig()
	log.Labeler = b.ring.Labels()
	rest, err := r.remainder(ctx, log)
	if err != nil {
		return nil, fmt.Errorf("finding where the log stands: %w", err)
	}
	if r.result.Done, err = restoredBefore(ctx, log.Store, rest); err != nil || r.result.Done {
		return r.result, err
	}
	if err := r.apply(ctx, rest); err != nil {
		return nil, err
	}
	return r.result, nil
}

// restoredBefore says whether an earlier restoration left the store's order: with the entry that tells of it behind the checkpoint, and nothing else.
func restoredBefore(ctx context.Context, order ledger.Store, rest ledger.Remainder) (bool, error) {
	size := proof.Index(rest.Checkpoint.Size())
	if len(rest.Lost) > 0 || rest.From != size+1 {
		return false, nil
	}
	var done bool
	err := order.Leaves(ctx, size, size+1, func(leaf ledger.Leaf) error {
		e, err := proof.ParseEntry(leaf.Text)
		restart, ok := e.(proof.Restart)
		done = ok && restart.Size == rest.Checkpoint.Size() && restart.Root == rest.Checkpoint.Root()
		return err
	})
	if err != nil {
		return false, errors.Join(errors.New("reading the end of the order"), err)
	}
	return done, nil
}

package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// AwaitPublished waits until an entry stands under the published checkpoint, which takes about a second after Append.
func (v *view) AwaitPublished(ctx context.Context, index proof.Index) (proof.Checkpoint, error) {
	return v.await(ctx, index, "published", v.Published)
}

// AwaitWitnessed waits until an entry stands under a published checkpoint that has the quorum of witnesses.
func (v *view) AwaitWitnessed(ctx context.Context, index proof.Index) (proof.Checkpoint, error) {
	return v.await(ctx, index, "witnessed", v.Witnessed)
}

func (v *view) await(ctx context.Context, index proof.Index, what string, newest func() (proof.Checkpoint, bool)) (proof.Checkpoint, error) {
	t := time.NewTicker(25 * time.Millisecond)
	defer t.Stop()
	for {
		if cp, ok := newest(); ok && uint64(index) < cp.Size() {
			return cp, nil
		}
		select {
		case <-t.C:
		case <-v.stop:
			return proof.Checkpoint{}, fmt.Errorf("%w: it is being closed", ErrUnavailable)
		case <-ctx.Done():
			return proof.Checkpoint{}, fmt.Errorf("%w: entry %d is not %s yet: %w", ErrUnavailable, index, what, ctx.Err())
		}
	}
}

// Prove proves entries that were appended at some time, all under one published checkpoint, waiting for their publication. The result is what Append gave, but for a newer checkpoint.
func (v *view) Prove(ctx context.Context, indexes []proof.Index) (Appended, error) {
	return v.proveWhen(ctx, indexes, v.AwaitPublished)
}

// ProveWitnessed is Prove under a checkpoint that has the quorum of witnesses, for which it waits.
func (v *view) ProveWitnessed(ctx context.Context, indexes []proof.Index) (Appended, error) {
	return v.proveWhen(ctx, indexes, v.AwaitWitnessed)
}

func (v *view) proveWhen(ctx context.Context, indexes []proof.Index, await func(context.Context, proof.Index) (proof.Checkpoint, error)) (Appended, error) {
	var a Appended
	var last proof.Index
	for _, i := range indexes {
		last = max(last, i)
	}
	var err error
	if a.Checkpoint, err = await(ctx, last); err != nil {
		return a, err
	}
	for _, i := range indexes {
		p, err := v.prove(ctx, a.Checkpoint, i)
		if err != nil {
			return a, err
		}
		a.Entries = append(a.Entries, p)
	}
	return a, nil
}

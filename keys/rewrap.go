package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// Rewrap brings all stored keys under the newest version of the root key, after Custodian.Rotate: in pages, so it can be interrupted and repeated. progress, if not nil, is called after each page with
// the number of keys seen so far. It returns how many keys it changed; when it changed none, and all brokers have learnt of the rotation, Custodian.Retire may end the
// older versions. Damaged keys are passed over and counted in the error (ErrAltered), after the others are done.
func (r *Ring) Rewrap(ctx context.Context, progress func(seen int)) (changed int, err error) {
	if r.closed.Load() {
		return 0, ErrClosed
	}
	var after KeyID
	seen, bad := 0, 0
	for {
		rows, err := r.store.ListKeys(ctx, "", after, maxBatch)
		if err != nil {
			return changed, fmt.Errorf("listing keys: %w", err)
		}
		if len(rows) == 0 {
			break
		}
		in := make([]WrappedAD, len(rows))
		for i := range rows {
			in[i] = custodial(&rows[i])
		}
		out, err := r.custodian.Rewrap(ctx, in)
		var items *BatchError
		if err != nil && !errors.As(err, &items) {
			return changed, fmt.Errorf("rewrapping keys: %w", err)
		}
		if len(out) != len(rows) {
			return changed, fmt.Errorf("rewrapping keys: %d of %d came back: %w", len(out), len(rows), ErrUnavailable)
		}
		var save []StoredKey
		for i := range rows {
			switch {
			case items != nil && items.Items[i] != nil:
				bad++
				r.log.Error("a stored key doesn't unwrap", "id", rows[i].ID.String(), "kind", string(rows[i].Kind), "error", items.Items[i])
			case !bytes.Equal(out[i], in[i].Wrapped):
				rows[i].Wrapped = recustodial(&rows[i], out[i])
				save = append(save, rows[i])
			}
		}
		if len(save) > 0 {
			if err := r.store.ReplaceKeys(ctx, save); err != nil {
				return changed, fmt.Errorf("saving rewrapped keys: %w", err)
			}
			changed += len(save)
		}
		if seen += len(rows); progress != nil {
			progress(seen)
		}
		after = rows[len(rows)-1].ID
	}
	if bad > 0 {
		return changed, fmt.Errorf("%d of %d stored keys don't unwrap: %w", bad, seen, ErrAltered)
	}
	return changed, nil
}

// Stats counts what a Ring did since it was made.
type Stats struct {
	Cached                 int   // subject keys in memory now
	Hits, Misses           int64 // of the cache of subject keys
	Created, Destroyed     int64 // data keys
	WrapCalls, Wrapped     int64 // calls to the custodian, and the keys they carried
	UnwrapCalls, Unwrapped int64
	Sealed, Opened         int64 // blobs
	Signed                 int64 // checkpoint signatures
}

type counters struct {
	hits, misses, created, destroyed, wrapCalls, wrapped, unwrapCalls, unwrapped, sealed, opened, signed atomic.Int64
}

// Stats returns the counters.
func (r *Ring) Stats() Stats {
	c := &r.stats
	return Stats{
		Cached: r.cache.len(), Hits: c.hits.Load(), Misses: c.misses.Load(), Created: c.created.Load(), Destroyed: c.destroyed.Load(),
		WrapCalls: c.wrapCalls.Load(), Wrapped: c.wrapped.Load(), UnwrapCalls: c.unwrapCalls.Load(), Unwrapped: c.unwrapped.Load(),
		Sealed: c.sealed.Load(), Opened: c.opened.Load(), Signed: c.signed.Load(),
	}
}

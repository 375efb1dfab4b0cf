package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// SubjectKey returns a key to seal a person's parts with: from the cache, else from the store, else a new one. A new one comes with fresh, the row that the caller
// saves in the same transaction as what the key seals, and then confirms with Saved; if the save failed, Abandon it, and if it may have, Forget it. (Settled waits for one of the first two.)
//
// A fresh key is its caller's alone: two concurrent creators get two keys, and both are valid, since every blob names its key. So a record never depends on a row that
// somebody else was to save, and a row that is saved late never brings back a key that Erase destroyed.
//
// The caller's transaction should refuse a blob whose key is neither in it nor stored (KeyOf): the owner may have been erased between the two.
func (r *Ring) SubjectKey(ctx context.Context, owner Owner) (key Key, fresh *StoredKey, err error) {
	if r.closed.Load() {
		return Key{}, nil, ErrClosed
	}
	if owner.IsZero() {
		return Key{}, nil, errors.New("keys: nobody has no subject key")
	}
	for {
		gen := r.cache.generation()
		if k, ok := r.cache.getNewest(owner); ok {
			r.stats.hits.Add(1)
			return k, nil, nil
		}
		r.stats.misses.Add(1)
		rows, err := r.store.LoadKeys(ctx, KindSubject, owner, "")
		if err != nil {
			return Key{}, nil, fmt.Errorf("loading a subject's keys: %w", err)
		}
		if len(rows) == 0 {
			gen := r.pending.generation()
			k, row, ok := r.fromBlank(owner)
			if ok {
				r.stats.created.Add(1)
			} else {
				k, row, err = r.newOwnedKey(ctx, KindSubject, owner)
			}
			if err == nil {
				r.pending.put(&k, gen)
			}
			return k, row, err
		}
		k, err := r.unwrap(ctx, &rows[len(rows)-1])
		if err != nil {
			return Key{}, nil, err
		}
		if k.owner != owner {
			return Key{}, nil, fmt.Errorf("subject key %s has another owner: %w", k.id, ErrAltered)
		}
		if r.cache.put(&k, gen) {
			return k, nil, nil
		}
		k.Clear() // somebody was erased meanwhile: look again
	}
}

// DeferredKey makes a key for the person part of one record of which the person learns later. It is never kept in memory, and no erasure destroys it: so an erasure neither makes it
// impossible to tell the person, nor takes another time because of it. fresh is to be saved in the same transaction as what the key seals, and deleted when the delay is over.
func (r *Ring) DeferredKey(ctx context.Context, owner Owner) (key Key, fresh *StoredKey, err error) {
	if r.closed.Load() {
		return Key{}, nil, ErrClosed
	}
	if owner.IsZero() {
		return Key{}, nil, errors.New("keys: nobody has no key")
	}
	return r.newOwnedKey(ctx, KindDeferred, owner)
}

func (r *Ring) newOwnedKey(ctx context.Context, kind Kind, owner Owner) (Key, *StoredKey, error) {
	row, err := r.newStored(kind, owner, "")
	if err != nil {
		return Key{}, nil, err
	}
	k := Key{id: row.ID, kind: kind, owner: owner}
	if _, err := io.ReadFull(r.rand, k.secret[:]); err != nil {
		return Key{}, nil, fmt.Errorf("reading randomness for a key: %w", err)
	}
	if err := r.wrap(ctx, &k, row); err != nil {
		return Key{}, nil, err
	}
	r.stats.created.Add(1)
	return k, row, nil
}

// Saved tells that fresh keys are durable, so that others may use them from the cache. Leaving it out costs time only: see Settled, too.
func (r *Ring) Saved(fresh ...*StoredKey) {
	gen := r.cache.generation()
	for _, row := range fresh {
		r.unsaved.done(row.ID)
		// An erasure since the creation took it out of pending, so it isn't cached again.
		if k, ok := r.pending.take(row.ID); ok {
			r.cache.put(&k, gen)
			k.Clear()
		}
	}
}

// Abandon is Forget for a save that certainly failed, or was never tried: nobody waits for it any more (Settled).
func (r *Ring) Abandon(ids ...KeyID) {
	for _, id := range ids {
		r.unsaved.done(id)
	}
	r.Forget(ids...)
}

// Forget drops keys from memory: of a save that failed as far as one knows. It may become durable yet, so Settled goes on waiting, until nobody is taken to store them any more.
func (r *Ring) Forget(ids ...KeyID) {
	for _, id := range ids {
		for _, c := range []*cache{r.pending, r.cache} {
			if k, ok := c.take(id); ok {
				k.Clear()
			}
		}
	}
}

func (r *Ring) subjectByID(ctx context.Context, owner Owner, id KeyID) (Key, error) {
	if r.closed.Load() {
		return Key{}, ErrClosed
	}
	if owner.IsZero() {
		return Key{}, errors.New("keys: nobody has no subject key")
	}
	for {
		gen := r.cache.generation()
		k, ok := r.cache.get(id)
		if ok {
			r.stats.hits.Add(1)
		} else if k, ok = r.pending.get(id); !ok {
			r.stats.misses.Add(1)
			row, err := r.findOwned(ctx, id)
			if err != nil {
				return Key{}, err
			}
			if k, err = r.unwrap(ctx, row); err != nil {
				return Key{}, err
			}
			if k.kind == KindSubject && !r.cache.put(&k, gen) {
				k.Clear()
				continue
			}
		}
		if k.owner != owner {
			k.Clear()
			return Key{}, fmt.Errorf("subject key %s has another owner: %w", id, ErrAltered)
		}
		return k, nil
	}
}

// findOwned finds a key that seals person parts.
func (r *Ring) findOwned(ctx context.Context, id KeyID) (*StoredKey, error) {
	row, err := r.find(ctx, "", id)
	if err == nil && row.Kind != KindSubject && row.Kind != KindDeferred {
		return nil, fmt.Errorf("%s key %s seals no person part: %w", row.Kind, id, ErrAltered)
	}
	return row, err
}

// PersonPart is a sealed person part with what it takes to open it.
type PersonPart struct {
	Owner Owner
	AD    []byte
	Blob  []byte
}

// OpenPersons opens many person parts with few calls to store and custodian. Results and errors stand at the place of their part (errors as of OpenPerson); the last error concerns the whole call.
func (r *Ring) OpenPersons(ctx context.Context, parts []PersonPart) ([][]byte, []error, error) {
	if r.closed.Load() {
		return nil, nil, ErrClosed
	}
	if err := r.preload(ctx, parts); err != nil {
		return nil, nil, err
	}
	out, errs := make([][]byte, len(parts)), make([]error, len(parts))
	for i := range parts {
		out[i], errs[i] = r.OpenPerson(ctx, parts[i].Owner, parts[i].AD, parts[i].Blob)
		if errors.Is(errs[i], ErrUnavailable) || errors.Is(errs[i], ErrDenied) {
			return nil, nil, errs[i]
		}
	}
	return out, errs, nil
}

// preload brings the keys of parts into the cache. What it can't load is left to OpenPerson, which says why.
func (r *Ring) preload(ctx context.Context, parts []PersonPart) error {
	seen := map[KeyID]bool{}
	var ids []KeyID
	for i := range parts {
		h, err := parseHeader(parts[i].Blob)
		if err != nil || h.use != usePerson || seen[h.key] {
			continue
		}
		seen[h.key] = true
		if k, ok := r.cache.get(h.key); ok {
			k.Clear()
			continue
		}
		ids = append(ids, h.key)
	}
	for len(ids) > 0 {
		n := min(len(ids), maxBatch)
		gen := r.cache.generation()
		rows, err := r.store.FindKeys(ctx, ids[:n])
		if err != nil {
			return fmt.Errorf("loading subject keys: %w", err)
		}
		if ids = ids[n:]; len(rows) == 0 {
			continue
		}
		in := make([]WrappedAD, len(rows))
		for i := range rows {
			in[i] = custodial(&rows[i])
		}
		r.stats.unwrapCalls.Add(1)
		r.stats.unwrapped.Add(int64(len(in)))
		secrets, err := r.custodian.Unwrap(ctx, in)
		var items *BatchError
		if err != nil && !errors.As(err, &items) {
			return fmt.Errorf("unwrapping subject keys: %w", err)
		}
		for i := range secrets {
			if rows[i].Kind == KindSubject && (items == nil || items.Items[i] == nil) {
				k := Key{id: rows[i].ID, kind: KindSubject, owner: rows[i].Owner, secret: secretOf(&rows[i], secrets[i])}
				r.cache.put(&k, gen)
				k.Clear()
			}
			clear(secrets[i][:])
		}
	}
	return nil
}

// Erase destroys all of an owner's keys: durably in the store, and in this process's caches. When it returns nil, nothing that they sealed can be read any more. It may be repeated. A key
// that a concurrent caller saves while it runs is a new one and survives: it sealed what came after.
func (r *Ring) Erase(ctx context.Context, owner Owner) error {
	return r.EraseWith(ctx, owner, func(ctx context.Context) (int64, error) {
		rows, err := r.store.LoadKeys(ctx, KindSubject, owner, "")
		if err != nil {
			return 0, fmt.Errorf("loading a subject's keys: %w", err)
		}
		ids := make([]KeyID, len(rows))
		for i := range rows {
			ids[i] = rows[i].ID
		}
		// Also without ids: an earlier call may have deleted the rows and then failed to make sure of it.
		return int64(len(ids)), r.store.DestroyKeys(ctx, ids)
	})
}

// EraseWith is Erase for a caller that destroys the keys in the store itself, in the transaction of what it records about it. destroy keeps what Erase promises of the store, and returns how many
// there were.
func (r *Ring) EraseWith(ctx context.Context, owner Owner, destroy func(context.Context) (int64, error)) error {
	if r.closed.Load() {
		return ErrClosed
	}
	if owner.IsZero() {
		return errors.New("keys: nobody can't be erased")
	}
	n, err := destroy(ctx)
	// After the store: whoever read a key from it before can't cache it any more. After an error, too: it may have destroyed them.
	r.forget(owner)
	if err != nil {
		return fmt.Errorf("destroying a subject's keys: %w", err)
	}
	r.stats.destroyed.Add(n)
	return nil
}

func (r *Ring) forget(owner Owner) {
	// In this order: what Saved took out of pending before, its put into the cache notices.
	r.pending.forgetOwner(owner)
	r.cache.forgetOwner(owner)
}

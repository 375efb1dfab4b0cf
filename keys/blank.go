package keys

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"time"
)

// A blank is a subject key that is nobody's yet: a custodian in another process wraps many of them in one call, before they are needed. It becomes somebody's when they need a key: the data key
// is derived from it, its row and its owner (HMAC-SHA256(blank, wrappingAD)), so that it is bound to them as one that was wrapped for them is.
type blank struct {
	id      KeyID
	created time.Time
	secret  [32]byte
	wrapped Wrapped
}

const (
	// blankForm stands before what the custodian made of a blank. No custodian's own form begins so.
	blankForm = "blank:"
	// blankWindow is over how long demand is measured.
	blankWindow = time.Second
	// leastBlanks is the demand below which nothing is prepared, and maxBlanks how many are.
	leastBlanks = 16
	maxBlanks   = 512
)

// PreparedLife is how old a key gets that was wrapped before it is needed: for so long after a rotation keys under the older version may still come into use.
const PreparedLife = 2 * time.Second

// blanks that nobody took yet.
type blanks struct {
	mu      sync.Mutex
	free    []blank
	until   time.Time // of the oldest
	gen     uint64    // counts drops
	filling bool
	since   time.Time // of the present window
	taken   int       // keys that were needed in it
	before  int       // in the one before
}

// take returns a blank, if there is one, of which it tells whose business it is to know before another call can drop it, and how many have to be made.
func (b *blanks) take(now time.Time, taken func(KeyID)) (k blank, ok bool, fill int, gen uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch since := now.Sub(b.since); {
	case since >= 2*blankWindow || since < 0:
		b.since, b.taken, b.before = now, 0, 0
	case since >= blankWindow:
		b.since, b.taken, b.before = now, 0, b.taken
	}
	b.taken++
	if now.After(b.until) || now.Before(b.until.Add(-PreparedLife)) { // or the clock was set back
		b.clear()
	}
	if n := len(b.free); n > 0 {
		k, ok = b.free[n-1], true
		taken(k.id)
		clear(b.free[n-1].secret[:])
		b.free = b.free[:n-1]
	}
	// What half a window needs.
	if want := min(max(b.taken, b.before)/2, maxBlanks); !b.filling && want >= leastBlanks && len(b.free) < want/2 {
		b.filling, fill = true, want-len(b.free)
	}
	return k, ok, fill, b.gen
}

// filled ends what take asked for.
func (b *blanks) filled(made []blank, gen uint64, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.filling = false
	if gen == b.gen && len(made) > 0 {
		if len(b.free) == 0 || until.Before(b.until) {
			b.until = until
		}
		if b.free == nil {
			b.free = make([]blank, 0, 2*maxBlanks) // never a larger one: the old one would keep secrets
		}
		b.free = append(b.free, made[:min(len(made), cap(b.free)-len(b.free))]...)
	}
	for i := range made {
		clear(made[i].secret[:])
	}
}

func (b *blanks) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gen++
	b.clear()
}

func (b *blanks) clear() {
	for i := range b.free {
		clear(b.free[i].secret[:])
	}
	b.free = b.free[:0]
}

// DropPrepared forgets keys that were wrapped before they are needed: they are under the version of the root key that was the newest then.
func (r *Ring) DropPrepared() { r.blanks.drop() }

// fromBlank makes an owner's key of a blank, if there is one.
func (r *Ring) fromBlank(owner Owner) (Key, *StoredKey, bool) {
	if r.wraps.direct { // nothing to gain
		return Key{}, nil, false
	}
	b, ok, fill, gen := r.blanks.take(r.now(), func(id KeyID) { r.unsaved.add(id, r.now()) })
	if fill > 0 {
		go r.fill(fill, gen)
	}
	if !ok {
		return Key{}, nil, false
	}
	row := &StoredKey{ID: b.id, Kind: KindSubject, Owner: owner, Created: b.created, Wrapped: append([]byte(blankForm), b.wrapped...)}
	k := Key{id: row.ID, kind: row.Kind, owner: owner, secret: secretOf(row, b.secret)}
	clear(b.secret[:])
	return k, row, true
}

// fill makes blanks. A failure costs time only: who finds none has a key wrapped, and learns why that fails.
func (r *Ring) fill(n int, gen uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	until := r.now().Add(PreparedLife)
	made, err := r.makeBlanks(ctx, n)
	if err != nil {
		r.log.Debug("preparing keys", "error", err)
	}
	r.blanks.filled(made, gen, until)
	if r.closed.Load() {
		r.blanks.drop()
	}
}

func (r *Ring) makeBlanks(ctx context.Context, n int) ([]blank, error) {
	made, in := make([]blank, n), make([]Plain, n)
	defer func() {
		for i := range in {
			clear(in[i].Key[:])
		}
	}()
	for i := range made {
		row, err := r.newStored(KindSubject, Owner{}, "")
		if err != nil {
			return nil, err
		}
		made[i].id, made[i].created = row.ID, row.Created
		if _, err := io.ReadFull(r.rand, made[i].secret[:]); err != nil {
			return nil, fmt.Errorf("reading randomness for a key: %w", err)
		}
		in[i] = Plain{Key: made[i].secret, AD: blankAD(row.ID)}
	}
	r.stats.wrapCalls.Add(1)
	r.stats.wrapped.Add(int64(n))
	out, err := r.custodian.Wrap(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("wrapping keys ahead: %w", err)
	}
	if len(out) != n {
		return nil, fmt.Errorf("wrapping keys ahead: %d of %d came back: %w", len(out), n, ErrUnavailable)
	}
	for i := range made {
		made[i].wrapped = out[i]
	}
	return made, nil
}

// blankAD binds a blank to its id: "regard/blank/v1" ‖ 0x00 ‖ id.
func blankAD(id KeyID) []byte { return append([]byte("regard/blank/v1\x00"), id[:]...) }

// custodial is what the custodian knows of a row.
func custodial(row *StoredKey) WrappedAD {
	if w, ok := bytes.CutPrefix(row.Wrapped, []byte(blankForm)); ok {
		return WrappedAD{Wrapped: w, AD: blankAD(row.ID)}
	}
	return WrappedAD{Wrapped: row.Wrapped, AD: wrappingAD(row)}
}

// recustodial is a row's Wrapped with what the custodian made of it anew.
func recustodial(row *StoredKey, w Wrapped) []byte {
	if bytes.HasPrefix(row.Wrapped, []byte(blankForm)) {
		return append([]byte(blankForm), w...)
	}
	return w
}

// secretOf is a row's data key, given what the custodian unwrapped.
func secretOf(row *StoredKey, unwrapped [32]byte) [32]byte {
	if !bytes.HasPrefix(row.Wrapped, []byte(blankForm)) {
		return unwrapped
	}
	h := hmac.New(sha256.New, unwrapped[:])
	_, _ = h.Write(wrappingAD(row))
	var s [32]byte
	h.Sum(s[:0])
	return s
}

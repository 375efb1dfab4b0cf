package keys

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Config of a Ring.
type Config struct {
	// Custodian holds the root keys. The Ring doesn't close it.
	Custodian Custodian
	// Store keeps the wrapped data keys.
	Store KeyStore
	// CacheKeys bounds the unwrapped subject keys in memory (about 200 bytes each); 0 means 131,072.
	CacheKeys int
	// CacheAge is how long an unwrapped key is used before the store is asked again whether it still exists, so for how long another process's erasure goes
	// unnoticed here; 0 means 5 minutes.
	CacheAge time.Duration
	// Timeout bounds a call to the custodian that carries several callers' keys; 0 means 10 seconds.
	Timeout time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Rand is the source of keys, ids and nonces; nil means crypto/rand. Set it in tests of failure alone.
	Rand io.Reader
	// Logger gets what an operator should know, never a key or a person; nil discards.
	Logger *slog.Logger
}

// Ring holds the data keys. It is safe for concurrent use.
type Ring struct {
	custodian Custodian
	store     KeyStore
	now       func() time.Time
	rand      io.Reader
	log       *slog.Logger
	timeout   time.Duration

	cache   *cache // unwrapped subject keys that are in the store
	pending *cache // fresh subject keys whose save was not confirmed yet
	unsaved unsaved
	shared  *periods
	wraps   *batcher[Plain, Wrapped]
	unwraps *batcher[WrappedAD, [32]byte]
	blanks  blanks

	reference, index Key       // HMAC keys, never change
	owners           sync.Pool // of hash.Hash keyed by reference: keying costs more than hashing
	digests          sync.Pool // the same of the index key
	public           publicKeys
	memory           sync.Pool // of *[]byte, for what is sealed and opened, see Recycle

	ids    ids
	stats  counters
	unsure atomic.Bool // whether every destruction so far reached the store's files
	closed atomic.Bool
}

// New makes a Ring and loads, or at the very first start creates, the keys that live as long as the store.
func New(ctx context.Context, cfg Config) (*Ring, error) {
	switch {
	case cfg.Custodian == nil:
		return nil, errors.New("keys: no custodian given")
	case cfg.Store == nil:
		return nil, errors.New("keys: no key store given")
	case cfg.CacheKeys < 0 || cfg.CacheAge < 0 || cfg.Timeout < 0:
		return nil, errors.New("keys: CacheKeys, CacheAge and Timeout can't be negative")
	}
	if cfg.CacheKeys == 0 {
		cfg.CacheKeys = 1 << 17
	}
	if cfg.CacheAge == 0 {
		cfg.CacheAge = 5 * time.Minute
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Ring{
		custodian: cfg.Custodian, store: cfg.Store, now: cfg.Now, rand: cfg.Rand, log: cfg.Logger, timeout: cfg.Timeout,
		cache:   newCache(cfg.CacheKeys, cfg.CacheAge, cfg.Now),
		pending: newCache(maxPending, maxPendingAge, cfg.Now),
		shared:  newPeriods(cfg.CacheAge, cfg.Now),
	}
	r.unsure.Store(true)
	r.wraps = newBatcher(cfg.Timeout, func(ctx context.Context, in []Plain) ([]Wrapped, error) {
		r.stats.wrapCalls.Add(1)
		r.stats.wrapped.Add(int64(len(in)))
		return r.custodian.Wrap(ctx, in)
	}, func(p *Plain) { clear(p.Key[:]) }, nil)
	r.unwraps = newBatcher(cfg.Timeout, func(ctx context.Context, in []WrappedAD) ([][32]byte, error) {
		r.stats.unwrapCalls.Add(1)
		r.stats.unwrapped.Add(int64(len(in)))
		return r.custodian.Unwrap(ctx, in)
	}, nil, func(k *[32]byte) { clear(k[:]) })
	if _, ok := r.custodian.(InProcess); ok {
		r.wraps.direct, r.unwraps.direct = true, true
	}
	for _, k := range []struct {
		kind Kind
		to   *Key
	}{{KindReference, &r.reference}, {KindIndex, &r.index}} {
		e, err := r.period(ctx, k.kind, "")
		if err != nil {
			return nil, fmt.Errorf("loading the %s key: %w", k.kind, err)
		}
		*k.to = e.key
	}
	r.owners.New = func() any { return hmac.New(sha256.New, r.reference.secret[:]) }
	r.digests.New = func() any { return hmac.New(sha256.New, r.index.secret[:]) }
	return r, nil
}

// Close clears the keys in memory. Calls after it fail with ErrClosed; the Custodian and the KeyStore stay open.
func (r *Ring) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.cache.clear()
	r.pending.clear()
	r.shared.clear()
	r.blanks.drop()
	return nil
}

// DropCached drops all unwrapped keys from memory but those that live as long as the store: another process may have destroyed some. They are read again when they are needed.
func (r *Ring) DropCached() {
	r.pending.clear() // first: what is taken out of it isn't cached again
	r.cache.clear()
	r.shared.clear()
}

// Check says whether keys can be made and opened now: readiness.
func (r *Ring) Check(ctx context.Context) error {
	if r.closed.Load() {
		return ErrClosed
	}
	return r.custodian.Check(ctx)
}

// Owner returns the keyed pseudonym under which the store files a subject. The zero Subject is refused.
func (r *Ring) Owner(s proof.Subject) (Owner, error) {
	if r.closed.Load() {
		return Owner{}, ErrClosed
	}
	if s.IsZero() {
		return Owner{}, errors.New("keys: the zero subject has no owner")
	}
	h := r.owners.Get().(hash.Hash)
	defer r.owners.Put(h)
	h.Reset()
	var buf [300]byte
	in := append(buf[:0], s.Type()...)
	in = append(in, 0)
	in = append(in, s.Value()...)
	_, _ = h.Write(in)
	o := Owner(h.Sum(buf[:0])[:16]) // over what was hashed: the canonical form is personal data
	clear(buf[:])
	if o.IsZero() { // once in 2^128
		return Owner{}, errors.New("keys: the owner came out as zero")
	}
	return o, nil
}

// Digest is a keyed digest for look-ups by a value that the store must not hold in clear, such as an Idempotency-Key: HMAC-SHA256(index key, use ‖ 0x00 ‖ data).
// Digests of different uses can't be compared.
func (r *Ring) Digest(use string, data []byte) ([32]byte, error) {
	var sum [32]byte
	if r.closed.Load() {
		return sum, ErrClosed
	}
	h := r.digests.Get().(hash.Hash)
	defer r.digests.Put(h)
	h.Reset()
	_, _ = io.WriteString(h, use)
	_, _ = h.Write([]byte{0})
	_, _ = h.Write(data)
	h.Sum(sum[:0])
	return sum, nil
}

// newStored makes the row of a new key, all but Wrapped.
func (r *Ring) newStored(kind Kind, owner Owner, period string) (*StoredKey, error) {
	now := r.now().UTC().Truncate(time.Millisecond)
	id, err := r.ids.next(now, r.rand)
	if err != nil {
		return nil, err
	}
	return &StoredKey{ID: id, Kind: kind, Owner: owner, Period: period, Created: now}, nil
}

// wrappingAD binds a wrapped key to its row: "regard/key/v1" ‖ 0x00 ‖ kind ‖ 0x00 ‖ owner ‖ id ‖ period.
func wrappingAD(k *StoredKey) []byte {
	const tag = "regard/key/v1\x00"
	b := make([]byte, 0, len(tag)+len(k.Kind)+1+len(k.Owner)+len(k.ID)+len(k.Period))
	b = append(b, tag...)
	b = append(b, k.Kind...)
	b = append(b, 0)
	b = append(b, k.Owner[:]...)
	b = append(b, k.ID[:]...)
	return append(b, k.Period...)
}

func (r *Ring) wrap(ctx context.Context, k *Key, row *StoredKey) error {
	p := Plain{Key: k.secret, AD: wrappingAD(row)}
	defer clear(p.Key[:])
	r.unsaved.add(row.ID, r.now())
	w, err := r.wraps.call(ctx, p)
	if err != nil {
		r.unsaved.done(row.ID)
		return fmt.Errorf("wrapping a %s key: %w", row.Kind, err)
	}
	row.Wrapped = w
	return nil
}

func (r *Ring) unwrap(ctx context.Context, row *StoredKey) (Key, error) {
	s, err := r.unwraps.call(ctx, custodial(row))
	if err != nil {
		return Key{}, fmt.Errorf("unwrapping %s key %s: %w", row.Kind, row.ID, err)
	}
	return Key{id: row.ID, kind: row.Kind, owner: row.Owner, secret: secretOf(row, s)}, nil
}

// ids makes UUIDv7 that increase strictly within a process.
type ids struct {
	mu   sync.Mutex
	last KeyID
}

func (g *ids) next(now time.Time, random io.Reader) (KeyID, error) {
	var id KeyID
	if _, err := io.ReadFull(random, id[6:]); err != nil {
		return KeyID{}, fmt.Errorf("reading randomness for a key id: %w", err)
	}
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli())) // #nosec G115 -- after 1970
	copy(id[:6], ms[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	g.mu.Lock()
	defer g.mu.Unlock()
	if bytes.Compare(id[:6], g.last[:6]) <= 0 {
		// The same millisecond, or a clock that went back: count on from the last id (RFC 9562, section 6.2, method 2). The 12 bits after the version
		// count, their overflow moves the time on by a millisecond.
		copy(id[:8], g.last[:8])
		n := uint16(id[6]&0x0f)<<8 | uint16(id[7])
		if n++; n == 1<<12 {
			n = 0
			for i := 5; i >= 0; i-- {
				if id[i]++; id[i] != 0 {
					break
				}
			}
		}
		id[6], id[7] = byte(n>>8)|0x70, byte(n)
	}
	g.last = id
	return id, nil
}

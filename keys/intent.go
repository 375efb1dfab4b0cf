package keys

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// MaxIntentKeys bounds the versions of the intent key that are in force at a time: all of them sign (docs/formats.md, section 7).
const MaxIntentKeys = 4

// IntentKey is a version of the key that signs intents. It is a data key like any other, so it stands wrapped in the store, and signing takes no call to the custodian. It redacts itself.
type IntentKey struct {
	Version int // from 1
	Created time.Time
	id      KeyID
	private *ed25519.PrivateKey // behind a pointer: fmt doesn't follow it
}

// Public returns the public key.
func (k *IntentKey) Public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// Signer returns the signer of signed notes under a name (https://c2sp.org/signed-note). Its signatures are not verified before they are handed out, unlike those of checkpoints: the key is in
// this process, and a wrong one costs a refused question, not a receipt.
func (k *IntentKey) Signer(name string) note.Signer {
	return &intentSigner{name: name, hash: noteHash(name, k.Public()), key: k}
}

// String shows the version alone.
func (k *IntentKey) String() string { return "intent." + strconv.Itoa(k.Version) + ":[redacted]" }

// Format implements fmt.Formatter: every verb shows the version alone.
func (k *IntentKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue implements slog.LogValuer: it shows the version alone.
func (k *IntentKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON refuses.
func (k *IntentKey) MarshalJSON() ([]byte, error) { return nil, errRedacted }

type intentSigner struct {
	name string
	hash uint32
	key  *IntentKey
}

func (s *intentSigner) Name() string    { return s.name }
func (s *intentSigner) KeyHash() uint32 { return s.hash }
func (s *intentSigner) Sign(msg []byte) ([]byte, error) {
	return ed25519.Sign(*s.key.private, msg), nil
}

// IntentKeys returns the versions of the intent key in force, newest first, and makes the first one if there is none. They remain usable as long as the process runs, also when the custodian is down.
func (r *Ring) IntentKeys(ctx context.Context) ([]*IntentKey, error) {
	rows, err := r.intentRows(ctx)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		k, err := r.intentKey(ctx, 1)
		if err != nil {
			return nil, err
		}
		return []*IntentKey{k}, nil
	}
	out := make([]*IntentKey, 0, len(rows))
	for version := range rows {
		k, err := r.intentKey(ctx, version)
		if err != nil {
			return nil, err
		}
		k.Created = rows[version].Created
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b *IntentKey) int { return b.Version - a.Version })
	return out, nil
}

// intentRows lists the stored versions.
func (r *Ring) intentRows(ctx context.Context) (map[int]StoredKey, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	rows, err := r.store.ListKeys(ctx, KindIntent, KeyID{}, MaxIntentKeys+1)
	if err != nil {
		return nil, fmt.Errorf("listing the intent keys: %w", err)
	}
	if len(rows) > MaxIntentKeys {
		return nil, fmt.Errorf("keys: more than %d versions of the intent key are in force: retire the oldest", MaxIntentKeys)
	}
	out := make(map[int]StoredKey, len(rows))
	for i := range rows {
		n, err := strconv.Atoi(rows[i].Period)
		if err != nil || n < 1 || strconv.Itoa(n) != rows[i].Period {
			return nil, fmt.Errorf("intent key %s has no version: %w", rows[i].ID, ErrAltered)
		}
		out[n] = rows[i]
	}
	return out, nil
}

// intentKey returns a version, creating it durably if there is none.
func (r *Ring) intentKey(ctx context.Context, version int) (*IntentKey, error) {
	e, err := r.period(ctx, KindIntent, strconv.Itoa(version))
	if err != nil {
		return nil, err
	}
	private := ed25519.NewKeyFromSeed(e.key.secret[:])
	return &IntentKey{Version: version, Created: r.now().UTC().Truncate(time.Millisecond), id: e.key.id, private: &private}, nil
}

// RotateIntentKey adds a version, the newest, and returns it.
func (r *Ring) RotateIntentKey(ctx context.Context) (*IntentKey, error) {
	rows, err := r.intentRows(ctx)
	if err != nil {
		return nil, err
	}
	if len(rows) == MaxIntentKeys {
		return nil, fmt.Errorf("keys: %d versions of the intent key are in force: retire the oldest", MaxIntentKeys)
	}
	newest := 0
	for version := range rows {
		newest = max(newest, version)
	}
	return r.intentKey(ctx, newest+1)
}

// DestroyIntentKey destroys a version, durably: it can't be rotated back.
func (r *Ring) DestroyIntentKey(ctx context.Context, k *IntentKey) error {
	// What is in memory isn't cleared: a request may be signing. The collector frees it.
	return r.destroy(ctx, []KeyID{k.id})
}

// Package keys seals and opens, makes labels, signs checkpoints and intents, and erases. A [Ring] holds the data keys; a [Custodian] holds the few root keys that wrap
// them and that never leave it: Vault's transit engine ([github.com/regard-broker/regard/keys/vault]) or a sealed file ([github.com/regard-broker/regard/keys/keystore]).
//
// What it guarantees. The plaintext of a sealed answer comes out of [Ring.OpenPayload] alone, and only for a proof.Verified of exactly the set that it was sealed for (G1).
// A data key is stored wrapped, bound to its kind, owner, period and id (or derived for them from what is wrapped): rows that are swapped or altered don't open. When [Ring.Erase] returns, no copy of the person's
// keys is left in the [KeyStore] or in this process's caches, so what they sealed is unreadable for whoever has everything but an older copy of the store (G7).
// Keys redact themselves in fmt, log/slog and encoding/json; no error holds key bytes, a person, or what was sealed.
//
// What it doesn't. Whoever controls the custodian and a copy of the store reads everything. Go gives no promise that a cleared key has no other copy in memory (registers, stacks,
// moved values): the keys are cleared where the language allows. Another process's cache keeps an erased key for Config.CacheAge at most. A backup of the store made
// before an erasure still holds the wrapped key.
package keys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
)

// Errors, by what the caller should do. Errors of this package and of custodians wrap one of them where they can be told apart.
var (
	// ErrUnavailable: the custodian can't be reached, or not in time. Answer 503 with Retry-After; nothing was released. It recovers by itself.
	ErrUnavailable = errors.New("keys: the custodian of the root keys is not available")
	// ErrSealed: Vault is sealed and an operator has to unseal it. It is an ErrUnavailable too: answer 503 with Retry-After, and alarm. It recovers by itself then.
	ErrSealed = fmt.Errorf("%w: it is sealed, unseal it", ErrUnavailable)
	// ErrDenied: the custodian refuses this role or these credentials. Retrying won't help; answer 503 and alarm: policy or credentials must be corrected.
	ErrDenied = errors.New("keys: the custodian refuses: check the role's policy and credentials")
	// ErrAltered: a wrapped key or sealed bytes are damaged, stand in another's place, or belong to a root key that is gone. Keep the bytes as evidence; alarm.
	ErrAltered = errors.New("keys: altered, misplaced, or sealed under a retired root key")
	// ErrNoKey: the key is not in the store: it was destroyed, or never saved. What it sealed can't be read any more.
	ErrNoKey = errors.New("keys: the key was destroyed")
	// ErrKeyExists is what KeyStore.SaveKeys returns when a shared key of the same kind and period is there already: load that one.
	ErrKeyExists = errors.New("keys: there is a key of this kind and period already")
	// ErrUnproven: no proof that the set of this answer is in the log. Nothing may be released.
	ErrUnproven = errors.New("keys: not proven to be in the log")
	// ErrClosed: the ring or the custodian was closed.
	ErrClosed = errors.New("keys: closed")
)

// Owner is how the store finds a person's rows without naming the person: HMAC-SHA256(reference key, subject type ‖ 0x00 ‖ canonical subject)[:16], see [Ring.Owner].
// The zero Owner stands for keys that are nobody's in particular. An Owner is personal data for whoever has the reference key, so it redacts itself.
type Owner [16]byte

// IsZero reports whether o is nobody.
func (o Owner) IsZero() bool { return o == Owner{} }

// String shows nothing.
func (o Owner) String() string {
	if o.IsZero() {
		return "owner:none"
	}
	return "owner:[redacted]"
}

// Format implements fmt.Formatter: every verb shows nothing.
func (o Owner) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(o.String())) }

// LogValue implements slog.LogValuer: it shows nothing.
func (o Owner) LogValue() slog.Value { return slog.StringValue(o.String()) }

// MarshalText refuses: an Owner is not serialised by accident.
func (o Owner) MarshalText() ([]byte, error) {
	return nil, errors.New("keys: an Owner is not serialised by accident; use its bytes")
}

// KeyID names a data key: a UUIDv7 (RFC 9562, section 5.7), so that ids increase with time, to a millisecond. It is no secret.
type KeyID [16]byte

// IsZero reports whether id is unset.
func (id KeyID) IsZero() bool { return id == KeyID{} }

// String is the UUID in its usual form.
func (id KeyID) String() string { return uuid.UUID(id).String() }

// ParseKeyID parses what String gives, and nothing else.
func ParseKeyID(s string) (KeyID, error) {
	id, err := uuid.Parse(s)
	if err != nil || id == uuid.Nil || id.String() != s {
		return KeyID{}, errors.New("keys: not the id of a key")
	}
	return KeyID(id), nil
}

// Kind says what a data key is for. A key of one kind is never used as one of another: the kind is bound into its wrapping and into every blob.
type Kind string

// The kinds of data keys.
const (
	// KindSubject seals the person parts of one owner's records, and identifiers that are attached to accounts. A person may have several; erasure destroys all of them.
	KindSubject Kind = "subject"
	// KindDeferred seals the person part of one record of which its owner learns later, and no other. No erasure destroys it: the store deletes it with the opening of the delay. This
	// kind and KindSubject have an owner, the others have none.
	KindDeferred Kind = "deferred"
	// KindMonth seals the administrative parts of one calendar month; destroyed at the end of retention. Period: "2026-11", UTC.
	KindMonth Kind = "month"
	// KindPayload seals the answers of one minute; destroyed PayloadLife after it by Sweep. Period: "2026-11-23T22:45Z".
	KindPayload Kind = "payload"
	// KindLabel is the VRF key of a month's epochs; destroyed at the end of retention. Period: "2026-11".
	KindLabel Kind = "label"
	// KindRoll is the secret behind the salts of a month's rolls; destroyed with the label key. Period: "2026-11".
	KindRoll Kind = "roll"
	// KindIntent is the Ed25519 seed of a version of the key that signs intents; destroyed when the version is retired. Period: the version, "1".
	KindIntent Kind = "intent"
	// KindReference makes Owners. There is one, with an empty Period; it lives as long as the store.
	KindReference Kind = "reference"
	// KindIndex makes keyed digests for look-ups ([Ring.Digest]). There is one, with an empty Period.
	KindIndex Kind = "index"
)

// StoredKey is a wrapped data key as the store keeps it. Nothing in it is secret without the custodian; Owner is personal data all the same.
type StoredKey struct {
	ID      KeyID
	Kind    Kind
	Owner   Owner  // zero for every kind but KindSubject and KindDeferred
	Period  string // empty for KindSubject, KindDeferred, KindReference, KindIndex
	Wrapped []byte
	Created time.Time // UTC, milliseconds
}

// KeyStore keeps wrapped keys; the broker's SQL store satisfies it. All methods may be called concurrently.
// An error that is none of those named leaves open what was written; the Ring then behaves as if nothing was, which is safe: ids are never used twice.
type KeyStore interface {
	// LoadKeys lists the keys of one kind with exactly this owner and period, in increasing ID order; none is no error. It sees every write that returned before. By an owner
	// only those of KindSubject are listed, in a time that doesn't depend on how many of KindDeferred there are: it would tell somebody that there are some.
	LoadKeys(ctx context.Context, kind Kind, owner Owner, period string) ([]StoredKey, error)
	// FindKeys returns those of the named keys that are there, in any order; missing ones are no error.
	FindKeys(ctx context.Context, ids []KeyID) ([]StoredKey, error)
	// ListKeys returns up to limit keys with an ID greater than after, in increasing ID order; of one kind, or of all if kind is empty.
	ListKeys(ctx context.Context, kind Kind, after KeyID, limit int) ([]StoredKey, error)
	// SaveKeys stores all keys durably before it returns, or none. It fails with ErrKeyExists (wrapped) if a key with a zero Owner has the kind and period of one that is
	// stored: of two brokers that create the month's key at once, one gets this. (A subject's keys are saved by the caller of SubjectKey, in its own transaction.)
	SaveKeys(ctx context.Context, keys []StoredKey) error
	// ReplaceKeys sets Wrapped of those keys that are still there, durably, and never brings back one that was destroyed meanwhile.
	ReplaceKeys(ctx context.Context, keys []StoredKey) error
	// DestroyKeys deletes keys. When it returns nil the deletion is durable and the store's files hold no copy: not in free pages, not in a write-ahead log. Missing ones
	// are no error, so it can be repeated; without ids it makes sure of what earlier calls deleted.
	DestroyKeys(ctx context.Context, ids []KeyID) error
}

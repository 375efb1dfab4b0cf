package keys

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"
)

// A Custodian holds the root keys: one that wraps data keys, one that signs checkpoints. Both have versions, numbered from 1.
//
// Concurrency: all methods may be called concurrently. Each is at most one network call for each 1,000 items (Rewrap: two), however many items it carries.
//
// Errors wrap ErrUnavailable (ErrSealed), ErrDenied or ErrClosed. They concern the whole call; nothing was done, or in the case of Rotate it is unknown whether it was. What is
// wrong with single items of a batch is told by a *BatchError, and then the other items' results are valid. No error holds key bytes or associated data.
//
// Retries: implementations retry what is safe to retry within their own bounds of time; callers needn't. Wrap, Unwrap, Rewrap and Sign may be repeated at will.
//
// Recovery: after any error the Custodian goes on working as soon as the cause is gone, without being opened again.
//
// Durability: Rotate and Retire are durable when they return. Wrap keeps nothing: the caller stores what it returns.
type Custodian interface {
	// Wrap encrypts data keys under the newest version, in the order given. The same associated data must be given to unwrap.
	Wrap(ctx context.Context, keys []Plain) ([]Wrapped, error)
	// Unwrap decrypts, whatever version wrapped, if it is not retired. An item that was altered or has other associated data fails with ErrAltered in the *BatchError. The
	// caller clears the keys after use.
	Unwrap(ctx context.Context, keys []WrappedAD) ([][32]byte, error)
	// Rewrap re-encrypts under the newest version, with the same associated data; an item that is already there is returned as it is. Errors as in Unwrap.
	Rewrap(ctx context.Context, keys []WrappedAD) ([]Wrapped, error)
	// Rotate adds a version, the newest, and returns its number. Older ones still unwrap, and sign when asked for, until Retire. An operator's role.
	Rotate(ctx context.Context, root RootKey) (version int, err error)
	// Retire ends the use of all versions below oldest: they don't unwrap or sign any more. For RootWrap, call it when Ring.Rewrap found nothing left to do. An operator's role.
	Retire(ctx context.Context, root RootKey, oldest int) error
	// Sign signs msg (Ed25519, RFC 8032) with a version of the checkpoint key; version 0 is the newest. A sequencer's role.
	Sign(ctx context.Context, version int, msg []byte) ([]byte, error)
	// PublicKeys lists the versions of the checkpoint key that are in force, newest first, at least one.
	PublicKeys(ctx context.Context) ([]PublicKey, error)
	// Check says whether Wrap and Unwrap would work now, by doing both: readiness. It costs two calls.
	Check(ctx context.Context) error
	// Close ends it and clears what it holds; calls after that fail with ErrClosed.
	Close() error
}

// InProcess is implemented by Custodians that answer within microseconds, without a network call: there is nothing to gain from joining calls then.
type InProcess interface{ InProcess() }

// RootKey names one of the two root keys.
type RootKey string

// The root keys.
const (
	RootWrap       RootKey = "wrap"       // AES-256-GCM, wraps data keys
	RootCheckpoint RootKey = "checkpoint" // Ed25519, signs checkpoints
)

// Retirable is for implementations of Custodian.Retire: why the versions below oldest can't end. It speaks of the last of these, for that is the one that the operator named.
func Retirable(oldest, newest int) error {
	switch {
	case oldest < 1:
		return fmt.Errorf("version %d can't be the oldest in force: they are numbered from 1", oldest)
	case oldest == newest+1:
		return fmt.Errorf("version %d is the newest: rotate the key first", newest)
	case oldest > newest:
		return fmt.Errorf("there is no version %d: the newest is %d", oldest-1, newest)
	}
	return nil
}

// Plain is a data key to be wrapped. It redacts itself.
type Plain struct {
	Key [32]byte
	AD  []byte // associated data: what the key is for
}

func (Plain) String() string { return redactedKey }

// Format implements fmt.Formatter: every verb shows nothing.
func (Plain) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redactedKey)) }

// MarshalJSON refuses.
func (Plain) MarshalJSON() ([]byte, error) { return nil, errRedacted }

// Wrapped is an encrypted data key in the custodian's own form, which names the version of the root key.
type Wrapped []byte

// WrappedAD is a wrapped key with its associated data.
type WrappedAD struct {
	Wrapped Wrapped
	AD      []byte
}

// PublicKey is a version of the checkpoint key.
type PublicKey struct {
	Version int
	Key     ed25519.PublicKey
	Created time.Time
}

// BatchError tells which items of a batch failed on their own account; the results of the others are valid. Each error wraps ErrAltered.
type BatchError struct {
	Items map[int]error // by position
	Size  int           // of the batch
}

func (e *BatchError) Error() string {
	return fmt.Sprintf("%d of %d keys refused: %v", len(e.Items), e.Size, ErrAltered)
}

// Is makes errors.Is(err, ErrAltered) true.
func (e *BatchError) Is(target error) bool { return target == ErrAltered }

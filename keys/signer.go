package keys

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// publicKeysAge is how long the versions of the checkpoint key are taken as known: a rotation shows within it.
const publicKeysAge = time.Minute

// algEd25519 is the type of Ed25519 signatures in signed notes (https://c2sp.org/signed-note).
const algEd25519 = 1

type publicKeys struct {
	mu     sync.Mutex
	keys   []PublicKey
	until  time.Time
	oldest int // versions below are not used any more
}

// RefreshCheckpointKeys asks the custodian for the versions of the checkpoint key now, so that a rotation doesn't take a minute to show.
func (r *Ring) RefreshCheckpointKeys(ctx context.Context) error {
	r.public.mu.Lock()
	r.public.until = time.Time{}
	r.public.mu.Unlock()
	_, err := r.publicKeys(ctx)
	return err
}

// EndCheckpointKeys stops signing with versions below oldest, before they are retired in the custodian: a signature that is refused would hold up the log. It is an error if no version is left.
func (r *Ring) EndCheckpointKeys(ctx context.Context, oldest int) error {
	if err := r.RefreshCheckpointKeys(ctx); err != nil {
		return err
	}
	p := &r.public
	p.mu.Lock()
	defer p.mu.Unlock()
	left := since(p.keys, oldest)
	if len(left) == 0 {
		return fmt.Errorf("keys: no version of the checkpoint key would be left from %d on", oldest)
	}
	p.oldest, p.keys = max(p.oldest, oldest), left
	return nil
}

func since(ks []PublicKey, oldest int) []PublicKey {
	return slices.DeleteFunc(slices.Clone(ks), func(k PublicKey) bool { return k.Version < oldest })
}

// CheckpointSigners returns the signers of checkpoints, the newest key first: more than one while a rotation is under way, and then every checkpoint gets all their signatures. The
// name of each is the origin, its hash that of an Ed25519 signed-note key. They remain usable until their version is retired; ask again each time, so that a rotation is noticed within a minute, and after a refused signature, so that a
// retirement is at once.
func (r *Ring) CheckpointSigners(ctx context.Context, origin string) ([]note.Signer, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	// What note itself demands of a name.
	if origin == "" || !utf8.ValidString(origin) || strings.ContainsFunc(origin, unicode.IsSpace) || strings.Contains(origin, "+") {
		return nil, errors.New("keys: an origin is not empty and has no space and no plus sign")
	}
	ks, err := r.publicKeys(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]note.Signer, len(ks))
	for i, k := range ks {
		out[i] = &checkpointSigner{
			// A signature is bounded by the ring's own timeout, not by the end of the call that asked for the signer.
			ctx: context.WithoutCancel(ctx), ring: r, origin: origin, version: k.Version, key: k.Key, hash: noteHash(origin, k.Key),
		}
	}
	return out, nil
}

// CheckpointVerifiers returns the verification keys of CheckpointSigners in the textual form of signed notes, "name+hash+key", to be published.
func (r *Ring) CheckpointVerifiers(ctx context.Context, origin string) ([]string, error) {
	ks, err := r.publicKeys(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(ks))
	for i, k := range ks {
		if out[i], err = note.NewEd25519VerifierKey(origin, k.Key); err != nil {
			return nil, fmt.Errorf("checkpoint key: %w", err)
		}
	}
	return out, nil
}

func (r *Ring) publicKeys(ctx context.Context) ([]PublicKey, error) {
	p := &r.public
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keys != nil && r.now().Before(p.until) {
		return p.keys, nil
	}
	ks, err := r.custodian.PublicKeys(ctx)
	ks = since(ks, p.oldest)
	if err == nil && len(ks) == 0 {
		err = fmt.Errorf("%w: it has no checkpoint key", ErrUnavailable)
	}
	if err != nil {
		if p.keys != nil && errors.Is(err, ErrUnavailable) {
			return p.keys, nil // signing will say so if it really is down
		}
		return nil, fmt.Errorf("reading the checkpoint's public keys: %w", err)
	}
	for _, k := range ks {
		if len(k.Key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("checkpoint key version %d is no Ed25519 key: %w", k.Version, ErrAltered)
		}
	}
	p.keys, p.until = ks, r.now().Add(publicKeysAge)
	return ks, nil
}

func noteHash(name string, key ed25519.PublicKey) uint32 {
	b := append([]byte(name), '\n', algEd25519)
	h := sha256.Sum256(append(b, key...))
	return binary.BigEndian.Uint32(h[:4])
}

type checkpointSigner struct {
	ctx     context.Context //nolint:containedctx // note.Signer has no room for one
	ring    *Ring
	origin  string
	version int
	key     ed25519.PublicKey
	hash    uint32
}

func (s *checkpointSigner) Name() string    { return s.origin }
func (s *checkpointSigner) KeyHash() uint32 { return s.hash }

// Sign has the custodian sign and verifies the signature before it is shown to anybody: a custodian that answers for another key would make receipts that nobody can check.
func (s *checkpointSigner) Sign(msg []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.ring.timeout)
	defer cancel()
	sig, err := s.ring.custodian.Sign(ctx, s.version, msg)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: no answer in %v", ErrUnavailable, s.ring.timeout)
		}
		if !errors.Is(err, ErrUnavailable) { // perhaps the version isn't in force any more: whoever asks next for the signers is told
			s.ring.public.mu.Lock()
			s.ring.public.until = time.Time{}
			s.ring.public.mu.Unlock()
		}
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	if !ed25519.Verify(s.key, msg, sig) {
		return nil, fmt.Errorf("signing a checkpoint: the signature doesn't verify under version %d: %w", s.version, ErrAltered)
	}
	s.ring.stats.signed.Add(1)
	return sig, nil
}

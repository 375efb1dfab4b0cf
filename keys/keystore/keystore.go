// Package keystore is the embedded keys.Custodian: the root keys in one file, sealed by a passphrase or by a key file.
//
// What it guarantees. The file is readable by its owner alone, or it isn't opened. It is sealed by age (https://age-encryption.org/v1): a passphrase goes through scrypt,
// a key file is an X25519 identity; a single changed or missing bit is noticed. Create, Rotate and Retire are on the disk when they return, and at every instant, kill -9 and
// power loss included, the path holds a whole old or a whole new file. Older versions stay in the file until Retire.
//
// What it doesn't. Whoever reads this process's memory, or the file and its passphrase, reads everything: there is no second party as with Vault, no audit of uses, no separation of
// roles. Production wants Vault; Open says so in the log. Lose the file or the passphrase, and every record is unreadable for ever: keep a copy of both, apart from each
// other and from the database.
package keystore

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/keys"
)

// Errors, by what the operator should do. They come with the path.
var (
	// ErrPassphrase: the passphrase or key file is not the one that sealed it. (A damaged first part of the file can't be told from that.)
	ErrPassphrase = errors.New("wrong passphrase or key file")
	// ErrDamaged: the file was truncated or altered. Restore it from your copy.
	ErrDamaged = errors.New("damaged: restore it from your copy")
	// ErrPermissions: others can read the file. chmod 600 it, and think about who may have read it.
	ErrPermissions = errors.New("readable by others: chmod 600 it")
	// ErrExists: Create never overwrites a keystore.
	ErrExists = errors.New("exists already, and is not overwritten")
	// ErrMissing: there is no such file. Create the keystore once, or restore it.
	ErrMissing = errors.New("no such file: create the keystore, or restore it from your copy")
)

// MinPassphrase is the least length of a passphrase, in bytes.
const MinPassphrase = 12

// Config says where the keystore is and what unlocks it: exactly one of PassphraseFile, Passphrase and KeyFile.
type Config struct {
	// Path of the file.
	Path string
	// PassphraseFile holds the passphrase; one line end at its end is dropped. Mode 0600.
	PassphraseFile string
	// Passphrase as typed by an operator. The keystore keeps a copy for as long as it is open.
	Passphrase []byte
	// KeyFile holds an age X25519 identity (AGE-SECRET-KEY-1…), as age-keygen and CreateKeyFile write it. Mode 0600.
	KeyFile string
	// WorkFactor is the logarithm of scrypt's N for Create; 0 means 18 (about a second and 256 MiB). Less is for tests.
	WorkFactor int
	// Logger is told at Open that production wants Vault. Nil discards.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Keystore is a keys.Custodian. Every process that opens the file notices another's rotation at the next PublicKeys, Check, or key that it can't unwrap.
type Keystore struct {
	path string
	lock *unlocker
	now  func() time.Time
	log  *slog.Logger

	state   atomic.Pointer[state]
	mu      sync.Mutex // reading and replacing the file
	seen    os.FileInfo
	nothing state
}

var (
	_ keys.Custodian = (*Keystore)(nil)
	_ keys.InProcess = (*Keystore)(nil)
)

// InProcess implements keys.InProcess.
func (*Keystore) InProcess() {}

// state is the unsealed content, immutable.
type state struct {
	wrap       []wrapVersion // increasing, in force
	checkpoint []signVersion
}

type wrapVersion struct {
	version int
	aead    cipher.AEAD
}

type signVersion struct {
	version int
	created time.Time
	key     ed25519.PrivateKey
}

// Create makes a new keystore with a first version of both root keys, durably, and refuses to overwrite one.
func Create(cfg Config) error {
	u, err := newUnlocker(&cfg)
	if err != nil {
		return err
	}
	defer u.clear()
	if u.short {
		return fmt.Errorf("keystore: the passphrase is too short: at least %d bytes", MinPassphrase)
	}
	var c content
	defer c.clear()
	c.Format = format
	now := time.Now
	if cfg.Now != nil {
		now = cfg.Now
	}
	for _, root := range []*rootKey{&c.Wrap, &c.Checkpoint} {
		if _, err := root.add(now()); err != nil {
			return err
		}
	}
	return write(cfg.Path, &c, u, true)
}

// Open unseals a keystore.
func Open(cfg Config) (*Keystore, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	u, err := newUnlocker(&cfg)
	if err != nil {
		return nil, err
	}
	k := &Keystore{path: cfg.Path, lock: u, now: cfg.Now, log: cfg.Logger}
	if err := k.reload(); err != nil {
		u.clear()
		return nil, err
	}
	k.log.Warn("EMBEDDED KEYSTORE: the root keys are in this process's memory. Whoever reads it, or the file and what unlocks it, can read every record and sign for the log. "+
		"Production wants Vault or OpenBao.", "path", k.path)
	return k, nil
}

// reload reads the file if it changed. The caller holds mu or is alone.
func (k *Keystore) reload() error {
	c, info, err := read(k.path, k.lock)
	if err != nil {
		return err
	}
	defer c.clear()
	return k.adopt(c, info)
}

func (k *Keystore) adopt(c *content, info os.FileInfo) error {
	s, err := c.state()
	if err != nil {
		return fmt.Errorf("keystore %s: %w", k.path, err)
	}
	k.state.Store(s)
	k.seen = info
	return nil
}

// refresh notices what another process wrote.
func (k *Keystore) refresh() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state.Load() == &k.nothing {
		return keys.ErrClosed
	}
	info, err := os.Stat(k.path)
	if err != nil {
		// The keys are in memory and go on serving; the operator must know.
		k.log.Error("the keystore's file is gone or out of reach; restore it before the next start", "path", k.path, "error", err)
		return nil
	}
	if k.seen != nil && os.SameFile(k.seen, info) && k.seen.ModTime().Equal(info.ModTime()) && k.seen.Size() == info.Size() {
		return nil
	}
	return k.reload()
}

func (k *Keystore) current(ctx context.Context) (*state, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := k.state.Load()
	if s == &k.nothing {
		return nil, keys.ErrClosed
	}
	return s, nil
}

// A wrapped key is u8 1 ‖ u32 version ‖ nonce[12] ‖ ciphertext[32] ‖ tag[16]: AES-256-GCM, associated data "regard/keystore/v1" ‖ 0x00 ‖ u8 ‖ u32 ‖ the caller's.
// Random 96-bit nonces bear 2^32 keys a version (NIST SP 800-38D, section 8.3): rotate before.
const (
	wrappedFormat = 1
	wrappedHeader = 5
	nonceSize     = 12
	wrappedSize   = wrappedHeader + nonceSize + 32 + 16
	wrapTag       = "regard/keystore/v1\x00"
)

func wrapAD(buf, header, ad []byte) []byte {
	buf = append(buf, wrapTag...)
	buf = append(buf, header...)
	return append(buf, ad...)
}

// Wrap implements keys.Custodian.
func (k *Keystore) Wrap(ctx context.Context, in []keys.Plain) ([]keys.Wrapped, error) {
	s, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]keys.Wrapped, len(in))
	for i := range in {
		if out[i], err = s.wrapOne(&in[i].Key, in[i].AD); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *state) wrapOne(key *[32]byte, ad []byte) (keys.Wrapped, error) {
	v := &s.wrap[len(s.wrap)-1]
	w := make([]byte, wrappedHeader+nonceSize, wrappedSize)
	w[0] = wrappedFormat
	binary.BigEndian.PutUint32(w[1:], uint32(v.version)) // #nosec G115 -- counts from 1, checked when read
	if _, err := rand.Read(w[wrappedHeader:]); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	var buf [160]byte
	return v.aead.Seal(w, w[wrappedHeader:], key[:], wrapAD(buf[:0], w[:wrappedHeader], ad)), nil
}

var errUnknownVersion = errors.New("unknown version of the root key")

func (s *state) unwrapOne(w *keys.WrappedAD) (key [32]byte, version int, err error) {
	b := w.Wrapped
	if len(b) != wrappedSize || b[0] != wrappedFormat {
		return key, 0, fmt.Errorf("not a key wrapped by a keystore: %w", keys.ErrAltered)
	}
	version = int(binary.BigEndian.Uint32(b[1:]))
	i, ok := slices.BinarySearchFunc(s.wrap, version, func(v wrapVersion, n int) int { return v.version - n })
	if !ok {
		return key, version, fmt.Errorf("version %d: %w: %w", version, errUnknownVersion, keys.ErrAltered)
	}
	var buf [160]byte
	if _, err := s.wrap[i].aead.Open(key[:0], b[wrappedHeader:wrappedHeader+nonceSize], b[wrappedHeader+nonceSize:], wrapAD(buf[:0], b[:wrappedHeader], w.AD)); err != nil {
		clear(key[:])
		return key, version, fmt.Errorf("wrapped key: %w", keys.ErrAltered)
	}
	return key, version, nil
}

// unwrap calls f for each item that unwraps; f gets the key and clears nothing.
func (k *Keystore) unwrap(ctx context.Context, in []keys.WrappedAD, f func(s *state, i int, key *[32]byte, version int) error) error {
	s, err := k.current(ctx)
	if err != nil {
		return err
	}
	var bad *keys.BatchError
	refreshed := false
	for i := range in {
		key, version, err := s.unwrapOne(&in[i])
		if errors.Is(err, errUnknownVersion) && version > s.wrap[len(s.wrap)-1].version && !refreshed {
			// Another process may have rotated. Once a call: reading the file costs a second.
			refreshed = true
			if err := k.refresh(); err != nil {
				return err
			}
			if s, err = k.current(ctx); err != nil {
				return err
			}
			key, version, err = s.unwrapOne(&in[i])
		}
		if err != nil {
			if bad == nil {
				bad = &keys.BatchError{Items: map[int]error{}, Size: len(in)}
			}
			bad.Items[i] = err
			continue
		}
		err = f(s, i, &key, version)
		clear(key[:])
		if err != nil {
			return err
		}
	}
	if bad != nil {
		return bad
	}
	return nil
}

// Unwrap implements keys.Custodian.
func (k *Keystore) Unwrap(ctx context.Context, in []keys.WrappedAD) ([][32]byte, error) {
	out := make([][32]byte, len(in))
	err := k.unwrap(ctx, in, func(_ *state, i int, key *[32]byte, _ int) error {
		out[i] = *key
		return nil
	})
	return out, err
}

// Rewrap implements keys.Custodian.
func (k *Keystore) Rewrap(ctx context.Context, in []keys.WrappedAD) ([]keys.Wrapped, error) {
	if err := k.refresh(); err != nil {
		return nil, err
	}
	out := make([]keys.Wrapped, len(in))
	err := k.unwrap(ctx, in, func(s *state, i int, key *[32]byte, version int) error {
		if version == s.wrap[len(s.wrap)-1].version {
			out[i] = in[i].Wrapped
			return nil
		}
		var err error
		out[i], err = s.wrapOne(key, in[i].AD)
		return err
	})
	return out, err
}

// Sign implements keys.Custodian.
func (k *Keystore) Sign(ctx context.Context, version int, msg []byte) ([]byte, error) {
	s, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	if version == 0 {
		version = s.checkpoint[len(s.checkpoint)-1].version
	}
	for i := range s.checkpoint {
		if s.checkpoint[i].version == version {
			return ed25519.Sign(s.checkpoint[i].key, msg), nil
		}
	}
	return nil, fmt.Errorf("version %d of the checkpoint key is not in force: %w", version, keys.ErrDenied)
}

// PublicKeys implements keys.Custodian.
func (k *Keystore) PublicKeys(ctx context.Context) ([]keys.PublicKey, error) {
	if err := k.refresh(); err != nil {
		return nil, err
	}
	s, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]keys.PublicKey, 0, len(s.checkpoint))
	for _, v := range slices.Backward(s.checkpoint) {
		out = append(out, keys.PublicKey{Version: v.version, Key: v.key.Public().(ed25519.PublicKey), Created: v.created})
	}
	return out, nil
}

// Rotate implements keys.Custodian.
func (k *Keystore) Rotate(ctx context.Context, root keys.RootKey) (int, error) {
	version := 0
	err := k.change(ctx, root, func(r *rootKey) (err error) {
		version, err = r.add(k.now())
		return err
	})
	if err != nil {
		return 0, err
	}
	return version, nil
}

// Retire implements keys.Custodian. The retired versions are deleted from the file; what they wrapped is unreadable for good.
func (k *Keystore) Retire(ctx context.Context, root keys.RootKey, oldest int) error {
	return k.change(ctx, root, func(r *rootKey) error { return r.retire(oldest) })
}

// change rewrites the file under a lock that other processes respect.
func (k *Keystore) change(ctx context.Context, root keys.RootKey, f func(*rootKey) error) error {
	if _, err := k.current(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state.Load() == &k.nothing {
		return keys.ErrClosed
	}
	unlock, err := lockFile(k.path)
	if err != nil {
		return err
	}
	defer unlock()
	c, _, err := read(k.path, k.lock)
	if err != nil {
		return err
	}
	defer c.clear()
	var r *rootKey
	switch root {
	case keys.RootWrap:
		r = &c.Wrap
	case keys.RootCheckpoint:
		r = &c.Checkpoint
	default:
		return fmt.Errorf("keystore: no root key is named %q", root)
	}
	if err := f(r); err != nil {
		return fmt.Errorf("keystore %s: %w", k.path, err)
	}
	if err := write(k.path, c, k.lock, false); err != nil {
		return err
	}
	info, err := os.Stat(k.path)
	if err != nil {
		info = nil // it will be read again
	}
	return k.adopt(c, info)
}

// Check implements keys.Custodian.
func (k *Keystore) Check(ctx context.Context) error {
	if err := k.refresh(); err != nil {
		return err
	}
	p := keys.Plain{AD: []byte("check")}
	if _, err := rand.Read(p.Key[:]); err != nil {
		return fmt.Errorf("reading randomness: %w", err)
	}
	w, err := k.Wrap(ctx, []keys.Plain{p})
	if err != nil {
		return err
	}
	got, err := k.Unwrap(ctx, []keys.WrappedAD{{Wrapped: w[0], AD: p.AD}})
	if err != nil {
		return err
	}
	if got[0] != p.Key {
		return fmt.Errorf("keystore %s: a key unwraps to another: %w", k.path, keys.ErrAltered)
	}
	return nil
}

// Close implements keys.Custodian.
func (k *Keystore) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	// The private keys aren't cleared under a signature that may be running; the collector frees them.
	if k.state.Swap(&k.nothing) != &k.nothing {
		k.lock.clear()
	}
	return nil
}

func newAEAD(secret []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

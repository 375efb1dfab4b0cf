package keys

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/regard-broker/regard/ledger/proof"
)

// What is sealed, a blob:
//
//	u8 version = 1 ‖ u8 use ‖ key id[16] ‖ nonce[24] ‖ ciphertext ‖ tag[16]
//
// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) with a random nonce: 192 bits, so that a key may seal any number of blobs. The associated data is
// "regard/sealed/v1" ‖ 0x00 ‖ version ‖ use ‖ key id ‖ what the caller gave.
const (
	blobVersion = 1
	headerSize  = 1 + 1 + 16
	prefixSize  = headerSize + chacha20poly1305.NonceSizeX
	// Overhead is how much longer a blob is than what it seals, in bytes.
	Overhead = prefixSize + chacha20poly1305.Overhead

	usePerson     = 'p'
	useAdmin      = 'a'
	usePayload    = 'y'
	useAccount    = 'c' // the outer layer of an attached identifier
	useIdentifier = 'i' // the inner one

	sealTag = "regard/sealed/v1\x00"
)

// Sealed is an answer that nobody can read without the proof that it is in the log. It is the only form in which an answer is stored.
type Sealed []byte

// header is what stands before the nonce.
type header struct {
	use byte
	key KeyID
}

func parseHeader(blob []byte) (header, error) {
	if len(blob) < Overhead {
		return header{}, fmt.Errorf("%d sealed bytes are too few: %w", len(blob), ErrAltered)
	}
	if blob[0] != blobVersion {
		return header{}, fmt.Errorf("sealed bytes of version %d: %w", blob[0], ErrAltered)
	}
	h := header{use: blob[1], key: KeyID(blob[2:headerSize])}
	switch h.use {
	case usePerson, useAdmin, usePayload, useAccount, useIdentifier:
	default:
		return header{}, fmt.Errorf("sealed bytes of unknown use: %w", ErrAltered)
	}
	if h.key.IsZero() {
		return header{}, fmt.Errorf("sealed bytes name no key: %w", ErrAltered)
	}
	return h, nil
}

// KeyOf names the key that sealed a blob: for the store, which should refuse in its transaction to save a blob whose key isn't there (any more).
func KeyOf(blob []byte) (KeyID, error) {
	h, err := parseHeader(blob)
	return h.key, err
}

func (r *Ring) seal(k *Key, use byte, ad, plaintext []byte) ([]byte, error) {
	blob := r.room(use, Overhead+len(plaintext))[:prefixSize]
	blob[0], blob[1] = blobVersion, use
	copy(blob[2:], k.id[:])
	if _, err := io.ReadFull(r.rand, blob[headerSize:]); err != nil {
		return nil, fmt.Errorf("reading randomness for a nonce: %w", err)
	}
	aead, err := chacha20poly1305.NewX(k.secret[:])
	if err != nil {
		return nil, err // the size of the key is right: it can't
	}
	var buf [128]byte
	r.stats.sealed.Add(1)
	return aead.Seal(blob, blob[headerSize:prefixSize], plaintext, sealAD(buf[:0], blob, ad)), nil // #nosec G407 -- the nonce is the randomness read above
}

func (r *Ring) open(k *Key, ad, blob []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(k.secret[:])
	if err != nil {
		return nil, err
	}
	var buf [128]byte
	plaintext, err := aead.Open(r.room(blob[1], len(blob)-Overhead), blob[headerSize:prefixSize], blob[prefixSize:], sealAD(buf[:0], blob, ad))
	if err != nil {
		return nil, fmt.Errorf("opening what key %s sealed: %w", k.id, ErrAltered)
	}
	r.stats.opened.Add(1)
	return plaintext, nil
}

// room returns an empty slice for n bytes. Person parts and identifiers are short and kept: they get memory of their own.
func (r *Ring) room(use byte, n int) []byte {
	if use != useAdmin && use != usePayload {
		return make([]byte, 0, n)
	}
	if b, _ := r.memory.Get().(*[]byte); b != nil && cap(*b) >= n {
		return (*b)[:0]
	}
	return make([]byte, 0, max(n, usual)) // of one size, so that it fits when it is used again
}

// usual is what most administrative parts and answers need.
const usual = 6 << 10

// maxRecycled bounds the memory of one slice that is kept for others.
const maxRecycled = 64 << 10

// Recycle takes back what SealAdmin, SealPayload, OpenAdmin or OpenPayload returned, and clears it: nobody may use it any more. Leaving it out costs time only.
func (r *Ring) Recycle(b []byte) {
	if cap(b) == 0 || cap(b) > maxRecycled {
		return
	}
	clear(b)
	r.memory.Put(&b)
}

func sealAD(b, blob, ad []byte) []byte {
	b = append(b, sealTag...)
	b = append(b, blob[:headerSize]...)
	return append(b, ad...)
}

// SealPerson seals the person part of a record under a key from SubjectKey or DeferredKey. ad names the record's place; the same must be given to open it.
func (r *Ring) SealPerson(k Key, ad, plaintext []byte) ([]byte, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	if k.id.IsZero() || k.kind != KindSubject && k.kind != KindDeferred || k.owner.IsZero() {
		return nil, fmt.Errorf("keys: not a subject's key")
	}
	return r.seal(&k, usePerson, ad, plaintext)
}

// OpenPerson opens a person part. It must be the owner's, or it fails with ErrAltered; ErrNoKey if the key was destroyed.
func (r *Ring) OpenPerson(ctx context.Context, owner Owner, ad, blob []byte) ([]byte, error) {
	h, err := parseHeader(blob)
	if err != nil {
		return nil, err
	}
	if h.use != usePerson {
		return nil, fmt.Errorf("not a person part: %w", ErrAltered)
	}
	k, err := r.subjectByID(ctx, owner, h.key)
	if err != nil {
		return nil, err
	}
	defer k.Clear()
	return r.open(&k, ad, blob)
}

// SealAdmin seals the administrative part of a record under the key of the month of at: the time that counts for its retention.
func (r *Ring) SealAdmin(ctx context.Context, at time.Time, ad, plaintext []byte) ([]byte, error) {
	e, err := r.period(ctx, KindMonth, MonthOf(at))
	if err != nil {
		return nil, err
	}
	return r.seal(&e.key, useAdmin, ad, plaintext)
}

// OpenAdmin opens an administrative part; ErrNoKey if its month's key was destroyed.
func (r *Ring) OpenAdmin(ctx context.Context, ad, blob []byte) ([]byte, error) {
	h, err := parseHeader(blob)
	if err != nil {
		return nil, err
	}
	if h.use != useAdmin {
		return nil, fmt.Errorf("not an administrative part: %w", ErrAltered)
	}
	e, err := r.periodByID(ctx, KindMonth, h.key)
	if err != nil {
		return nil, err
	}
	return r.open(&e.key, ad, blob)
}

// SealPayload seals an answer for the set of commitments of all its entries. The caller drops the plaintext at once: from here on OpenPayload is the only way to it.
func (r *Ring) SealPayload(ctx context.Context, set proof.Hash, plaintext []byte) (Sealed, error) {
	if set.IsZero() {
		return nil, fmt.Errorf("sealing an answer for no set: %w", ErrUnproven)
	}
	e, err := r.period(ctx, KindPayload, windowOf(r.now()))
	if err != nil {
		return nil, err
	}
	return r.seal(&e.key, usePayload, set[:], plaintext)
}

// OpenPayload opens an answer for the proof that every entry of its set is in the log (G1). It fails with ErrUnproven for the zero Verified, with ErrAltered for the proof of another set,
// and with ErrNoKey from PayloadLife after its minute, whether its key was swept yet or not: answer 410 then.
func (r *Ring) OpenPayload(ctx context.Context, s Sealed, v proof.Verified) ([]byte, error) {
	set, err := v.Set()
	if err != nil || set.IsZero() {
		return nil, fmt.Errorf("opening an answer: %w", ErrUnproven)
	}
	h, err := parseHeader(s)
	if err != nil {
		return nil, err
	}
	if h.use != usePayload {
		return nil, fmt.Errorf("not a sealed answer: %w", ErrAltered)
	}
	e, err := r.periodByID(ctx, KindPayload, h.key)
	if err != nil {
		return nil, err
	}
	if !r.now().Before(e.ends) {
		return nil, fmt.Errorf("payload key %s is past its time: %w", h.key, ErrNoKey)
	}
	return r.open(&e.key, set[:], s)
}

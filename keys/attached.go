package keys

import (
	"context"
	"fmt"
)

// An identifier that a person attached to their account is sealed twice: under a key of the account's owner, and within that under one of the identifier's own. Both are subject keys
// (SubjectKey), so that the erasure of either leaves nothing to read, and needs to know nothing about accounts.

// SealAttached seals an identifier, attached to an account. ad names its place; the same must be given to open it.
func (r *Ring) SealAttached(account, identifier Key, ad, plaintext []byte) ([]byte, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	for _, k := range []*Key{&account, &identifier} {
		if k.id.IsZero() || k.kind != KindSubject || k.owner.IsZero() {
			return nil, fmt.Errorf("keys: not a subject's key")
		}
	}
	inner, err := r.seal(&identifier, useIdentifier, ad, plaintext)
	if err != nil {
		return nil, err
	}
	return r.seal(&account, useAccount, ad, inner)
}

// OpenAttached opens what SealAttached sealed. It must be these owners', or it fails with ErrAltered; ErrNoKey if either was erased.
func (r *Ring) OpenAttached(ctx context.Context, account, identifier Owner, ad, blob []byte) ([]byte, error) {
	for _, layer := range []struct {
		use   byte
		owner Owner
	}{{useAccount, account}, {useIdentifier, identifier}} {
		h, err := parseHeader(blob)
		if err != nil {
			return nil, err
		}
		if h.use != layer.use {
			return nil, fmt.Errorf("not an attached identifier: %w", ErrAltered)
		}
		k, err := r.subjectByID(ctx, layer.owner, h.key)
		if err != nil {
			return nil, err
		}
		blob, err = r.open(&k, ad, blob)
		k.Clear()
		if err != nil {
			return nil, err
		}
	}
	return blob, nil
}

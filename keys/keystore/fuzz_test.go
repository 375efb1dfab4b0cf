package keystore

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/regard-broker/regard/keys"
)

// Whatever stands in a row, unwrapping it gives ErrAltered and never panics; and only what was wrapped unwraps.
func FuzzUnwrap(f *testing.F) {
	c := content{Format: format}
	for _, r := range []*rootKey{&c.Wrap, &c.Checkpoint} {
		if _, err := r.add(time.Unix(0, 0)); err != nil {
			f.Fatal(err)
		}
	}
	s, err := c.state()
	if err != nil {
		f.Fatal(err)
	}
	good, err := s.wrapOne(&[32]byte{1, 2, 3}, []byte("ad"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(good), []byte("ad"))
	f.Add([]byte(good), []byte("ae"))
	f.Add([]byte(good[:40]), []byte("ad"))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, w, ad []byte) {
		key, _, err := s.unwrapOne(&keys.WrappedAD{Wrapped: w, AD: ad})
		if bytes.Equal(w, good) && string(ad) == "ad" {
			if err != nil || key != [32]byte{1, 2, 3} {
				t.Fatalf("what was wrapped doesn't unwrap: %v", err)
			}
			return
		}
		if !errors.Is(err, keys.ErrAltered) || key != [32]byte{} {
			t.Fatalf("%v, want ErrAltered and no key", err)
		}
	})
}

// Whatever is sealed inside a file, it parses to keys that work or is refused as damaged.
func FuzzContent(f *testing.F) {
	u := &unlocker{passphrase: []byte("fuzz"), work: 1}
	id, err := u.open()
	if err != nil {
		f.Fatal(err)
	}
	c := &content{Format: format}
	for _, r := range []*rootKey{&c.Wrap, &c.Checkpoint} {
		if _, err := r.add(time.Unix(0, 0)); err != nil {
			f.Fatal(err)
		}
	}
	good, err := seal(c, u)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte("age-encryption.org/v1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := unseal(b, id)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrPassphrase) {
				t.Fatalf("%v, want ErrDamaged or ErrPassphrase", err)
			}
			return
		}
		s, err := c.state()
		if err != nil {
			t.Fatal(err)
		}
		k := &Keystore{}
		k.state.Store(s)
		if _, err := k.Sign(context.Background(), 0, nil); err != nil {
			t.Fatal(err)
		}
	})
}

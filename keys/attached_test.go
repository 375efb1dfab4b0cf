package keys_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/regard-broker/regard/keys"
)

// An attached identifier needs the keys of both owners: the erasure of either is enough.
func TestAttachedNeedsBothKeys(t *testing.T) {
	for _, erased := range []string{alice, bob} {
		b := newBench(t)
		account, identifier := b.owner(t, alice), b.owner(t, bob)
		var ks []keys.Key
		for _, o := range []keys.Owner{account, identifier} {
			k, fresh, err := b.ring.SubjectKey(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.store.SaveFresh(fresh); err != nil {
				t.Fatal(err)
			}
			b.ring.Saved(fresh)
			ks = append(ks, k)
		}
		ad, text := []byte("place"), []byte("1840314EXAMPLE")
		blob, err := b.ring.SealAttached(ks[0], ks[1], ad, text)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(blob, text) {
			t.Error("the identifier can be read in what is stored")
		}
		if got, err := b.ring.OpenAttached(ctx, account, identifier, ad, blob); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("opened %q, %v", got, err)
		}
		for _, x := range []struct {
			name string
			open func() ([]byte, error)
		}{
			{"another place", func() ([]byte, error) { return b.ring.OpenAttached(ctx, account, identifier, []byte("other"), blob) }},
			{"owners exchanged", func() ([]byte, error) { return b.ring.OpenAttached(ctx, identifier, account, ad, blob) }},
			{"as a person part", func() ([]byte, error) { return b.ring.OpenPerson(ctx, account, ad, blob) }},
			{"cut", func() ([]byte, error) { return b.ring.OpenAttached(ctx, account, identifier, ad, blob[:keys.Overhead]) }},
			{"a person part", func() ([]byte, error) {
				part, err := b.ring.SealPerson(ks[0], ad, blob)
				if err != nil {
					t.Fatal(err)
				}
				return b.ring.OpenAttached(ctx, account, identifier, ad, part)
			}},
		} {
			if got, err := x.open(); !errors.Is(err, keys.ErrAltered) {
				t.Errorf("%s: opened %q, %v, want ErrAltered", x.name, got, err)
			}
		}
		if _, err := b.ring.SealAttached(ks[0], keys.Key{}, ad, text); err == nil {
			t.Error("the zero key seals")
		}
		if err := b.ring.Erase(ctx, b.owner(t, erased)); err != nil {
			t.Fatal(err)
		}
		for name, r := range map[string]*keys.Ring{"this process": b.ring, "the next one": b.open(t)} {
			if got, err := r.OpenAttached(ctx, account, identifier, ad, blob); !errors.Is(err, keys.ErrNoKey) {
				t.Errorf("after the erasure %s opens %q, %v, want ErrNoKey", name, got, err)
			}
		}
	}
}

package keys_test

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
)

func intentKeys(t *testing.T, r *keys.Ring, want ...int) []*keys.IntentKey {
	t.Helper()
	ks, err := r.IntentKeys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, k := range ks {
		got = append(got, k.Version)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("versions %v, want %v", got, want)
	}
	return ks
}

// TestIntentKeys: versions are made, survive a restart and a rotation of the wrap key, and are gone once they are destroyed. Signing needs no custodian.
func TestIntentKeys(t *testing.T) {
	b := newBench(t)
	first := intentKeys(t, b.ring, 1)[0]
	if again := intentKeys(t, b.open(t), 1)[0]; !first.Public().Equal(again.Public()) {
		t.Error("a restart made another key")
	}
	second, err := b.ring.RotateIntentKey(ctx)
	if err != nil || second.Version != 2 {
		t.Fatalf("%v, %v", second, err)
	}
	ks := intentKeys(t, b.ring, 2, 1)
	if !ks[0].Public().Equal(second.Public()) || !ks[1].Public().Equal(first.Public()) || first.Public().Equal(second.Public()) {
		t.Error("the versions are mixed up")
	}
	if _, err := b.custodian.Rotate(ctx, keys.RootWrap); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ring.Rewrap(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.custodian.Retire(ctx, keys.RootWrap, 2); err != nil {
		t.Fatal(err)
	}
	intentKeys(t, b.open(t), 2, 1)
	if err := b.ring.DestroyIntentKey(ctx, ks[1]); err != nil {
		t.Fatal(err)
	}
	intentKeys(t, b.ring, 2)
	for _, row := range b.store.Rows() {
		if row.Kind == keys.KindIntent && row.Period == "1" {
			t.Error("the destroyed version is still stored")
		}
	}
	if third, err := b.ring.RotateIntentKey(ctx); err != nil || third.Version != 3 {
		t.Errorf("%v, %v", third, err)
	}

	signer := second.Signer("regard.example/log/intent.2")
	vkey, err := note.NewEd25519VerifierKey(signer.Name(), second.Public())
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.custodian.Close(); err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: "x\n"}, signer)
	if err != nil {
		t.Fatalf("signing without the custodian: %v", err)
	}
	if _, err := note.Open(signed, note.VerifierList(v)); err != nil {
		t.Error(err)
	}
}

// TestIntentKeyAltered: a stored key in another version's place doesn't open, nor one without a version.
func TestIntentKeyAltered(t *testing.T) {
	for _, period := range []string{"2", "x", "01"} {
		b := newBench(t)
		intentKeys(t, b.ring, 1)
		for _, row := range b.store.Rows() {
			if row.Kind == keys.KindIntent {
				row.Period = period
				b.store.Put(row)
			}
		}
		if _, err := b.open(t).IntentKeys(ctx); !errors.Is(err, keys.ErrAltered) {
			t.Errorf("%s: %v", period, err)
		}
	}
	b := newBench(t)
	b.store.SetFail(func(op string, _ bool) error {
		if op == "SaveKeys" {
			return errors.New("no space left")
		}
		return nil
	})
	if _, err := b.ring.IntentKeys(ctx); err == nil {
		t.Error("a key that isn't stored")
	}
}

func TestIntentKeyRedacts(t *testing.T) {
	k := intentKeys(t, keystest.NewRing(t, keys.Config{}), 1)[0]
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k)
	seed, err := json.Marshal(k)
	if err == nil {
		t.Errorf("marshalled: %s", seed)
	}
	sig, err := k.Signer("n").Sign([]byte("m"))
	if err != nil || !ed25519.Verify(k.Public(), []byte("m"), sig) {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", k), fmt.Sprintf("%#v", k), log.String()} {
		if !strings.Contains(s, "intent.1:[redacted]") || len(s) > 200 {
			t.Errorf("it shows %q", s)
		}
	}
}

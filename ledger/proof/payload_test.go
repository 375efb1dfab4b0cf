package proof_test

import (
	"errors"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

func TestCheckPayload(t *testing.T) {
	rec := disclosureRecord(&detRand{seed: "payload"}, must(proof.SIREN("130025265")))
	data, key := []byte(`{"revenu":1234}`), make([]byte, 32)
	key[0] = 7
	for f, v := range map[proof.Field][]byte{proof.DisclosurePayloadKey: key, proof.DisclosurePayload: proof.PayloadDigest(key, data)} {
		if err := rec.Set(f, v); err != nil {
			t.Fatal(err)
		}
	}
	o := rec.Open(proof.ReaderAgency)
	if err := o.CheckPayload(data); err != nil {
		t.Error(err)
	}
	for i := range data {
		other := append([]byte(nil), data...)
		other[i] ^= 1
		if err := o.CheckPayload(other); !errors.Is(err, proof.ErrUnproven) {
			t.Errorf("byte %d: %v, want ErrUnproven", i, err)
		}
	}
	// An auditor sees the digest and not the key: a guess can't be tried.
	for name, o := range map[string]proof.Opening{"auditor": rec.Open(proof.ReaderAuditor), "provider": rec.Open(proof.ReaderProvider), "nobody": {}} {
		if err := o.CheckPayload(data); !errors.Is(err, proof.ErrHidden) {
			t.Errorf("%s: %v, want ErrHidden", name, err)
		}
	}
}

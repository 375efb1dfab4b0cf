package broker_test

import (
	"net/http"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestIntent: the provider gets an intent for the very question, under the id and with the fields of the record, signed by a key that the log has; and another one for each further question.
func TestIntent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	proofs, err := w.b.IntentProofs(t.Context())
	if err != nil || len(proofs) != 1 {
		t.Fatalf("%d proofs, %v", len(proofs), err)
	}
	e, _, cp, err := proof.VerifyTLogProof(proofs[0].Entry, proofs[0].TLogProof, w.policy())
	if err != nil {
		t.Fatal(err)
	}
	v, err := proof.NewIntentVerifier(cp.Origin(), e.(proof.KeyChanged))
	if err != nil {
		t.Fatal(err)
	}
	first, second := w.disclose(request()), w.disclose(request())
	asked := w.provider.requests()
	seen := map[string]bool{}
	for i, a := range []*broker.Answer{first, second} {
		r := asked[i]
		in, err := proof.VerifyIntent(r.Header.Get("Regard-Intent"), []note.Verifier{v})
		if err != nil {
			t.Fatal(err)
		}
		receipt, err := proof.ParseReceipt(a.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		o := receipt.Opening()
		if in.Question != proof.QuestionDigest(http.MethodGet, r.RequestURI, nil) || in.Disclosure != uuid.UUID(a.ID).String() || in.Disclosure != r.Header.Get("X-Request-Id") ||
			in.Service != o.Text(proof.DisclosureService) || in.Provider != o.Text(proof.DisclosureProvider) || in.Requested != proof.RequestedDigest(o.List(proof.DisclosureRequested)) || !in.ValidAt(time.Now(), 0) {
			t.Errorf("%+v", in)
		}
		seen[in.Disclosure] = true
	}
	if len(seen) != 2 {
		t.Error("two questions have one intent")
	}
	if _, err := w.b.RotateIntentKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := w.disclose(request())
	header := w.provider.requests()[2].Header.Get("Regard-Intent")
	if _, err := proof.VerifyIntent(header, []note.Verifier{v}); err != nil || third.Outcome != broker.Released {
		t.Errorf("while the key is rotated the older one signs, too: %v", err)
	}
	// After a restart the keys are the same.
	w.close()
	w.open()
	again, err := w.b.IntentKeys(t.Context())
	if err != nil || len(again) != 2 {
		t.Errorf("%v, %v", again, err)
	}
	// A fifth one can't sign beside four, and the operator is told what to do.
	for range 2 {
		if _, err := w.b.RotateIntentKey(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.b.RotateIntentKey(t.Context()); codeOf(err) != "keys.many" {
		t.Errorf("a fifth: %v", err)
	}
	if err := w.b.RetireIntentKey(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if n, err := w.b.RotateIntentKey(t.Context()); err != nil || n != 5 {
		t.Errorf("%d, %v", n, err)
	}
}

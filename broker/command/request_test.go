package command

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/holder"
)

// TestRequestAfterErasure: an agency that repeats a request whose person was erased meanwhile isn't told that the broker lies, and its first receipt stays what it is.
func TestRequestAfterErasure(t *testing.T) {
	s := newSite(t, time.Hour)
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := x509.MarshalPKCS8PrivateKey(s.agency.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	vkeys, err := s.Broker.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	question := func(object string) []byte {
		t.Helper()
		text, err := json.Marshal(map[string]any{
			"service": "quotient-familial", "agreement": "cantine", "scopes": []string{"quotient"}, "purpose": "tarif-cantine", "legal_basis": "crpa-l114-8", "recipient": town, "context": "Inscription", "object": object,
			"official": "agent-7", "subject": subjectJSON(camille),
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	witnesses, err := os.ReadFile(s.cfg.Witnesses.Policy)
	if err != nil {
		t.Fatal(err)
	}
	out, kept := filepath.Join(dir, "answers"), filepath.Join(dir, "kept")
	args := []string{
		"--url", "https://" + s.Addresses["api"], "--ca", s.cfg.API.Cert, "--cert", write("cert.pem", brokertest.CertificatePEM(s.agency)), "--key", write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
		"--policy", write("log.policy", append([]byte("log "+vkeys[0]+"\n"), witnesses...)), "--out", out, "--keep", kept, "--json",
	}
	type answer struct {
		ID, Receipt, Data string
		Repeated          bool
		LogIndex          uint64 `json:"log_index"`
		State             string `json:"receipt_state"`
		PersonHidden      bool   `json:"person_hidden"`
		Problem           struct{ Code string }
	}
	ask := func(file, key string) (code int, a answer, errs string) {
		t.Helper()
		code, text, errs := run(append([]string{"request", "-f", file, "--idempotency-key", key}, args...)...)
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatalf("%v: %s%s", err, text, errs)
		}
		return code, a, errs
	}
	export := func() string {
		t.Helper()
		held, err := holder.OpenStore(t.Context(), kept, holder.RoleAgency)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		var out bytes.Buffer
		if err := held.Export(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	file := write("request.json", question("dossier 42"))
	s.unseen.Store(true) // so that the second receipt is better, and shows less
	code, first, errs := ask(file, "first")
	if code != OK || first.Data == "" || first.Repeated || first.PersonHidden || first.State != "provisional" {
		t.Fatalf("exit code %d, %+v, %s", code, first, errs)
	}
	receipt, err := os.ReadFile(first.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	before := export()
	subject, err := camille.Subject()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Broker.Erase(t.Context(), subject, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	s.unseen.Store(false)
	s.until("the witness to see the entries", func() bool { return s.Broker.Standing().Witnessed.Size() > first.LogIndex })
	code, again, errs := ask(file, "first")
	if code != Failed || again.ID != first.ID || !again.Repeated || !again.PersonHidden || again.State != "witnessed" || again.Data != "" || again.Problem.Code != "idempotency.expired" || strings.Contains(errs, "does not prove") {
		t.Errorf("exit code %d, %+v, %s", code, again, errs)
	}
	if now, err := os.ReadFile(first.Receipt); err != nil || !bytes.Equal(now, receipt) {
		t.Errorf("the first receipt isn't what it was: %v", err)
	}
	if text, err := os.ReadFile(again.Receipt); err != nil || !strings.HasSuffix(again.Receipt, ".erased-receipt") || bytes.Contains(text, []byte("EXEMPLE")) {
		t.Errorf("%s, %v: %s", again.Receipt, err, text)
	}
	if export() != before {
		t.Error("the receipt that is kept was replaced by one that shows less")
	}
	if found, err := filepath.Glob(filepath.Join(out, "*.refused-receipt")); err != nil || len(found) != 0 {
		t.Errorf("refused: %v, %v", found, err)
	}
	// Another request under the key may be a mistake, and is told so; the receipt is kept all the same.
	if code, text, errs := run(append([]string{"request", "-f", write("other.json", bytes.Replace(question("dossier 42"), []byte("agent-7"), []byte("agent-8"), 1)), "--idempotency-key", "first"}, args...)...); code == OK || text != "" ||
		!strings.Contains(errs, "does not prove") || !strings.Contains(errs, "you need a new key") || !strings.Contains(errs, first.ID+".refused-receipt") {
		t.Errorf("exit code %d, %s%s", code, text, errs)
	}
	// The same by the id, and for people.
	if code, text, errs := run(append([]string{"request", "get", first.ID}, args...)...); code != OK || !strings.Contains(text, `"person_hidden": true`) {
		t.Errorf("exit code %d, %s%s", code, text, errs)
	}
	if _, text, errs := run(append([]string{"request", "-f", file, "--idempotency-key", "first"}, args[:len(args)-1]...)...); !strings.Contains(text, "erased   the person's part of the record is gone") {
		t.Errorf("%s%s", text, errs)
	}
}

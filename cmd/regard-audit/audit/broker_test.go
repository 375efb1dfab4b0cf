package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"

	server "github.com/regard-broker/regard/broker"
)

// real is a broker with its API and its public log, an agency and an auditor.
type real struct {
	t      *testing.T
	b      *server.Broker
	agency server.Caller
	ahead  atomic.Int64
	public string // address
	logKey string
	api    string
	cour   brokerOf // certificate and authority alone
	skey   string
	vkey   string
}

func newReal(t *testing.T) *real {
	t.Helper()
	r := &real{t: t}
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"data": {"quotient": {"valeur": 1234}, "membres": [{"nom": "EXEMPLE FICTIF", "prenoms": "NOÉ", "naissance": "2015-06-30", "sexe": "M"}]}}`))
	}))
	t.Cleanup(source.Close)
	var err error
	r.b, err = server.New(t.Context(), server.Config{
		DataDir: t.TempDir(), Origin: "regard.example/log", Development: true, Providers: provider.Config{Development: true}, Custodian: keystest.NewCustodian(t),
		Epoch: 10 * time.Minute, Clock: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.b.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	mairie := brokertest.NewCurrentIdentity(t, "mairie")
	yaml, err := os.ReadFile("../../../broker/testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.b.AddAgency(ctx, "mairie", "Mairie d'Exemple", "21750001600019", mairie.Leaf); err != nil {
		t.Fatal(err)
	}
	if r.agency, err = r.b.Authenticate(mairie.Leaf); err != nil {
		t.Fatal(err)
	}
	if _, err := r.b.PutService(ctx, bytes.Replace(yaml, []byte("http://127.0.0.1:1"), []byte(source.URL), 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.b.PutAgreement(ctx, policy.Agreement{
		ID: "cantine", Agency: "mairie", Service: "household", Scopes: []policy.Scope{"members", "quotient"}, Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert := brokertest.NewCurrentIdentity(t, "cour")
	r.cour = brokerOf{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), ca: filepath.Join(dir, "ca.pem")}
	brokertest.WriteIdentity(t, cert, r.cour.cert, r.cour.key)
	skey, vkey, err := note.GenerateKey(rand.Reader, "cour.example")
	if err != nil {
		t.Fatal(err)
	}
	r.skey, r.vkey = write(t, dir, "skey", skey), vkey
	if err := r.b.AddAuditor(ctx, "cour", "Cour d'Exemple", cert.Leaf, vkey); err != nil {
		t.Fatal(err)
	}

	handler, err := api.New(api.Config{Broker: r.b})
	if err != nil {
		t.Fatal(err)
	}
	own := brokertest.NewCurrentIdentity(t, "localhost")
	brokertest.WriteIdentity(t, own, r.cour.ca, filepath.Join(dir, "own.key"))
	certs, err := api.LoadCertificates(r.cour.ca, filepath.Join(dir, "own.key"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := handler.Listen("127.0.0.1:0", 100, certs)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- ln.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = ln.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.api = "https://" + ln.Addr().String()
	log := httptest.NewServer(r.b.Log().Handler())
	t.Cleanup(log.Close)
	r.public = log.URL
	vkeys, err := r.b.LogKeys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.logKey = vkeys[0]
	return r
}

func (r *real) ask(name string, change func(*server.Request)) *server.Answer {
	r.t.Helper()
	req := &server.Request{
		Service: "household", Scopes: []string{"quotient"}, Purpose: "cantine", LegalBasis: "crpa-l114-8", Recipient: "21750001600019", Context: "Cantine", Object: "dossier 42", Official: "agent-7",
		Subject: server.SubjectInput{Type: "pivot", Pivot: pivot(name)},
	}
	if change != nil {
		change(req)
	}
	a, err := r.b.Disclose(r.t.Context(), r.agency, req)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func pivot(name string) proof.Pivot {
	return proof.Pivot{BirthName: name, GivenNames: "Zoé", BirthDate: "1984-02-29", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"}
}

// turn ends the open epoch and waits for its marker.
func (r *real) turn() {
	r.t.Helper()
	was := r.b.Log().OpenEpoch().Number
	r.ahead.Add(int64(11 * time.Minute))
	if err := r.b.AddAgency(r.t.Context(), "passage-"+was.String(), "Passage", "21750001600019", brokertest.NewCurrentIdentity(r.t, "passage").Leaf); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); r.b.Log().OpenEpoch().Number == was; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal("the epoch doesn't end")
		}
	}
	if _, err := r.b.Log().AwaitPublished(r.t.Context(), r.b.Log().OpenEpoch().Marker); err != nil {
		r.t.Fatal(err)
	}
}

func (r *real) flags() []string {
	return []string{"--broker", r.api, "--cert", r.cour.cert, "--key", r.cour.key, "--ca", r.cour.ca}
}

// TestAuditorsWork: with a real broker and nothing but what it serves, an auditor opens records, runs their decisions again, also of somebody who was erased, exports them, and cosigns the index.
func TestAuditorsWork(t *testing.T) {
	r := newReal(t)
	for i := range 3 {
		r.ask(fmt.Sprintf("Personne %c", 'A'+i), nil)
		r.ask(fmt.Sprintf("Personne %c", 'A'+i), func(q *server.Request) { q.Scopes = []string{"quotient", "members"} })
		r.ask(fmt.Sprintf("Personne %c", 'A'+i), func(q *server.Request) { q.Purpose = "curiosite" })
	}
	size := r.b.Log().Checkpoint().Size()
	code, out, errs := run(append([]string{"open", "--from", "0", "--to", fmt.Sprint(size - 1), "--reason", "control 7"}, r.flags()...)...)
	if code != Proven || strings.Contains(out, "Personne") || strings.Contains(out, "PERSONNE") || strings.Count(out, `"state":"open"`) < 9 {
		t.Fatalf("open: exit code %d, %s%s", code, out, errs)
	}
	records := write(t, t.TempDir(), "records", out)
	opened := strings.Count(out, `"state":"open"`)
	if got := r.b.Log().Checkpoint().Size(); got != size+uint64(opened) {
		t.Errorf("%d records were opened, the log grew by %d", opened, got-size)
	}
	code, out, errs = run("replay", "--log", r.public, "--log-key", r.logKey, "--json", records)
	var got replayReport
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != Proven || got.Replayed != opened || got.Different != 0 || got.Unusable != 0 {
		t.Errorf("replay: exit code %d, %s%s", code, out, errs)
	}
	denied := 0
	for _, d := range got.Decisions {
		if !d.Allow {
			denied++
		}
	}
	if denied != 3 {
		t.Errorf("%d refusals were replayed, want 3", denied)
	}
	if code, out, errs = run("export", "--ldv", "--log-key", r.logKey, records); code != Proven || strings.Count(out, "\n") != opened {
		t.Errorf("export: exit code %d, %s%s", code, out, errs)
	}

	// The index, from what the broker opens and the log serves.
	r.turn()
	args := append([]string{"audit-index", "--log", r.public, "--log-key", r.logKey, "--sign-key", r.skey, "--all-new", "--state", filepath.Join(t.TempDir(), "state")}, r.flags()...)
	if code, out, errs = run(args...); code != Proven || !strings.Contains(out, "epoch 0: SOUND, signed and published at audit/0/cour") {
		t.Fatalf("audit-index: exit code %d, %s%s", code, out, errs)
	}
	signed, err := os.ReadFile(filepath.Join(r.b.PublicDir(), "audit", "0", "cour"))
	if err != nil {
		t.Fatal(err)
	}
	if a, err := proof.VerifyIndexAudit(signed, r.vkey); err != nil || a.Entries == 0 || a.Origin != "regard.example/log" {
		t.Errorf("%+v, %v", a, err)
	}

	// After the erasure, through audit@v1.
	subject, err := pivot("Personne A").Subject()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.b.Erase(t.Context(), subject, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	r.turn()
	code, out, errs = run(append([]string{"replay", "--log", r.public, "--log-key", r.logKey, "--json", "--erased-epochs", "0-1", "--reason", "control-7"}, r.flags()...)...)
	got = replayReport{}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != Proven || got.Replayed != 3 || got.Others["erasure@v1"] != 1 || got.Others["access@v1"] != 3 {
		t.Errorf("erased: exit code %d, %v, %+v, %s", code, err, got, errs)
	}
	code, out, errs = run(append([]string{"open", "--index", fmt.Sprint(got.Decisions[0].Index), "--reason", "control 7"}, r.flags()...)...)
	if code != Proven || !strings.Contains(out, `"state":"erased","code":"record.erased"`) {
		t.Errorf("an erased record by itself: exit code %d, %s%s", code, out, errs)
	}
	a := r.ask("Personne B", nil)
	id := fmt.Sprintf("%x-%x-%x-%x-%x", a.ID[:4], a.ID[4:6], a.ID[6:8], a.ID[8:10], a.ID[10:])
	if code, out, errs = run(append([]string{"replay", "--log", r.public, "--log-key", r.logKey, "--disclosure", id, "--reason", "control 7"}, r.flags()...)...); code != Proven || !strings.Contains(out, "decisions run again under 1 bundle: 0 differ") {
		t.Errorf("by disclosure: exit code %d, %s%s", code, out, errs)
	}
	for name, args := range map[string][]string{
		"no reason": {"--index", "3"}, "no records": {"--reason", "r"}, "two forms": {"--index", "3", "--from", "1", "--to", "2", "--reason", "r"}, "half a range": {"--from", "1", "--reason", "r"}, "not a number": {"--index", "x", "--reason", "r"},
		"beyond": {"--index", "99999999", "--reason", "r"}, "epochs": {"--erased-epochs", "a-b", "--reason", "r"}, "an open epoch": {"--erased-epochs", "77", "--reason", "r"}, "unknown": {"--disclosure", "01a20ac2-88da-7d36-98b8-e03e4bb98177", "--reason", "r"},
	} {
		if code, out, errs := run(append(append([]string{"open"}, args...), r.flags()...)...); code != Input || out != "" || errs == "" {
			t.Errorf("%s: exit code %d, %s%s", name, code, out, errs)
		}
	}
	// An agency's certificate opens nothing.
	if err := r.b.RevokeAuditor(t.Context(), "cour"); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run(append([]string{"open", "--index", "3", "--reason", "r"}, r.flags()...)...); code != Input || !strings.Contains(errs, "certificate.unknown") {
		t.Errorf("revoked: exit code %d, %s", code, errs)
	}
}

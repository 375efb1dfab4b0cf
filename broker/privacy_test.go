package broker_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/command"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
)

// needles are what must not be found, by name, each in many forms.
type needles map[string][][]byte

// add adds a text or key: as it is, in other cases, folded as names are, in hex, and in base64 wherever it begins.
func (n needles) add(name string, secret []byte) {
	forms := map[string]bool{string(secret): true}
	if len(secret) != 32 { // not a key
		for _, s := range []string{strings.ToUpper(string(secret)), strings.ToLower(string(secret)), proof.FoldName(string(secret))} {
			if len(s) >= 5 {
				forms[s] = true
			}
		}
	}
	for plain := range forms {
		n[name] = append(n[name], []byte(plain), []byte(hex.EncodeToString([]byte(plain))), []byte(strings.ToUpper(hex.EncodeToString([]byte(plain)))))
		for shift := range 3 {
			// Cut what depends on the neighbours.
			from, to := (shift*8+5)/6, (shift+len(plain))*8/6
			for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				n[name] = append(n[name], []byte(enc.EncodeToString(append(make([]byte, shift), plain...))[from:to]))
			}
		}
	}
}

// in reports which of the secrets text holds.
func (n needles) in(t *testing.T, where string, text []byte) {
	t.Helper()
	for name, forms := range n {
		for _, f := range forms {
			if i := bytes.Index(text, f); i >= 0 {
				t.Errorf("%s holds the %s, at %d: %q", where, name, i, text[max(0, i-40):min(len(text), i+len(f)+40)])
				break
			}
		}
	}
}

// inTree searches every file under dir and returns how many bytes there were.
func (n needles) inTree(t *testing.T, dir string) (total int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		total += len(text)
		n.in(t, strings.TrimPrefix(path, dir), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// TestNeedlesAreFound: the search finds what it is to find, in every form and at every offset.
func TestNeedlesAreFound(t *testing.T) {
	n := needles{}
	n.add("marker", []byte("Élodie-Marqueur"))
	found := func(s string) bool {
		for _, f := range n["marker"] {
			if strings.Contains(s, string(f)) {
				return true
			}
		}
		return false
	}
	for _, s := range []string{"xÉlodie-Marqueurx", "élodie-marqueur", "ÉLODIE-MARQUEUR", "|ELODIE MARQUEUR|"} {
		if !found(s) || !found(hex.EncodeToString([]byte(s))) || !found(strings.ToUpper(hex.EncodeToString([]byte(s)))) {
			t.Errorf("%q isn't found", s)
		}
		for pad := range 5 {
			b := []byte(strings.Repeat("y", pad) + s + strings.Repeat("z", pad))
			if !found(base64.StdEncoding.EncodeToString(b)) || !found(base64.RawURLEncoding.EncodeToString(b)) {
				t.Errorf("%q after %d bytes isn't found in base64", s, pad)
			}
		}
	}
	if found("Elodi Marqeur") {
		t.Error("something else is found")
	}
}

// witness is a custodian that sees every data key as it is.
type witness struct {
	unclosed
	mu   sync.Mutex
	seen map[[32]byte]bool
}

func (w *witness) note(k [32]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[k] = true
}

func (w *witness) Wrap(ctx context.Context, in []keys.Plain) ([]keys.Wrapped, error) {
	for i := range in {
		w.note(in[i].Key)
	}
	return w.unclosed.Wrap(ctx, in)
}

func (w *witness) Unwrap(ctx context.Context, in []keys.WrappedAD) ([][32]byte, error) {
	out, err := w.unclosed.Unwrap(ctx, in)
	for _, k := range out {
		w.note(k)
	}
	return out, err
}

// secretRequest holds a marker wherever a person, or an agency about a person, says something.
func secretRequest() *broker.Request {
	req := request()
	req.Context, req.Object, req.Official = "Contexte Marqueurctx de la demande", "objet Marqueurobj", "agent-Marqueuroff"
	req.IdempotencyKey = "Marqueuridem-7f3a"
	req.Subject.Pivot = proof.Pivot{BirthName: "Marqueurnom-d'Éclair", GivenNames: "Zoémarque Annemarque", BirthDate: "1983-07-19", Sex: "F", BirthPlace: "29232", BirthCountry: "99100"}
	return req
}

func secretNeedles() needles {
	n := needles{}
	for name, s := range map[string]string{
		"birth name": "Marqueurnom-d'Éclair", "given name": "Zoémarque", "second given name": "Annemarque", "birth date": "1983-07-19", "context": "Marqueurctx", "object": "Marqueurobj",
		"official": "Marqueuroff", "Idempotency-Key": "Marqueuridem-7f3a", "value": "48151623", "child": "Marqueurenfant", "child's given name": "Noémarque",
		"address": "RUE DES MARQUEURS", "undeclared": "SECRETMARKER", "link": "secret.example", "NIR": "283072923212345",
	} {
		n.add(name, []byte(s))
	}
	return n
}

func secretAnswer(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	_, _ = rw.Write([]byte(`{"data":{"quotient":{"valeur":48151623,"secret":"SECRETMARKER"},"membres":[{"nom":"MARQUEURNOM D ECLAIR","prenoms":"ZOEMARQUE ANNEMARQUE","naissance":"1983-07-19","sexe":"F"},
		{"nom":"Marqueurenfant","prenoms":"Noémarque","naissance":"2016-01-02","sexe":"M"}],"adresse":"1 RUE DES MARQUEURS"},"meta":{"u":"https://secret.example/x"}}`))
}

// secretsOverHTTP sends markers wherever a request over HTTP has room for them, and returns what /metrics shows afterwards.
func secretsOverHTTP(t *testing.T, w *watched) []byte {
	t.Helper()
	metrics := api.NewMetrics()
	if err := metrics.Register(command.NewCollector(w.b)); err != nil {
		t.Fatal(err)
	}
	h, err := api.New(api.Config{Broker: w.b, Metrics: metrics, Logger: w.cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	p := secretRequest().Subject.Pivot
	body, err := json.Marshal(map[string]any{
		"service": "household", "scopes": []string{"quotient"}, "purpose": "cantine", "legal_basis": "crpa-l114-8", "recipient": recipient, "context": "Contexte Marqueurctx", "object": "objet Marqueurobj", "official": "agent-Marqueuroff",
		"subject": map[string]any{"type": "pivot", "birth_name": p.BirthName, "given_names": p.GivenNames, "birth_date": p.BirthDate, "sex": p.Sex, "birth_place": p.BirthPlace, "birth_country": p.BirthCountry},
	})
	if err != nil {
		t.Fatal(err)
	}
	good := string(body)
	for _, x := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/disclosures", good, 200},
		{"POST", "/v1/disclosures", strings.Replace(good, `"quotient"`, `"address"`, 1), 403},
		{"POST", "/v1/disclosures", strings.Replace(good, `"object"`, `"SECRETMARKER"`, 1), 400},
		{"POST", "/v1/disclosures", strings.Replace(good, `"household"`, `"marqueurnom"`, 1), 404},
		{"POST", "/v1/disclosures?nom=Marqueurnom-d'%C3%89clair", `{"Marqueurnom-d'Éclair"`, 400},
		{"GET", "/v1/disclosures/Marqueurnom", "", 404},
		{"GET", "/SECRETMARKER/283072923212345", "", 404},
		{"SECRETMARKER", "/v1/disclosures", "", 405},
	} {
		r := httptest.NewRequest(x.method, x.path, strings.NewReader(x.body))
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{w.cert}}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Request-Id", "SECRETMARKER")
		r.Header.Set("User-Agent", "Marqueurnom")
		rw := httptest.NewRecorder()
		h.ServeHTTP(rw, r)
		if rw.Code != x.status {
			t.Errorf("%s %s: %d, want %d: %s", x.method, x.path, rw.Code, x.status, rw.Body)
		}
		if x.status == 200 && !strings.Contains(rw.Body.String(), `"receipt_state":"provisional"`) {
			t.Errorf("a fresh answer calls its receipt something else: %s", rw.Body)
		}
	}
	rw := httptest.NewRecorder()
	ops := api.Ops(metrics, w.b.Ready, func() string { return "" })
	ops.ServeHTTP(rw, httptest.NewRequest("GET", "/metrics", nil))
	text := rw.Body.Bytes()
	for _, want := range []string{`regard_requests_total{code="",outcome="released",path="/v1/disclosures",status="200"} 1`, `outcome="denied"`, "regard_log_size ", "regard_store_commits_total "} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("no %q among the metrics:\n%s", want, text)
		}
	}
	return text
}

// TestNothingPersonalInTheClear plants markers in everything that is personal and searches what is published, every file (databases, write-ahead logs, shared memory), the log at
// debug level, the metrics, and what errors say. The data keys themselves are searched too.
func TestNothingPersonalInTheClear(t *testing.T) {
	t.Parallel()
	wit := &witness{unclosed: unclosed{keystest.NewCustodian(t)}, seen: map[[32]byte]bool{}}
	w := newWatched(t, func(c *broker.Config) {
		c.Custodian, c.Epoch, c.SweepEvery = wit, time.Second, 100*time.Millisecond
		c.Providers = provider.Config{Development: true, Failures: 1000, Window: 1000, Logger: c.Logger}
	})
	yaml, err := os.ReadFile("testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("version: 1", "version: 2", "http://127.0.0.1:1", w.provider.URL, "\nparameters:", "\n  nir: {value: numeroSecuriteSociale}\nparameters:").Replace(string(yaml))
	if _, err := w.b.PutService(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	n := secretNeedles()
	nir := fmt.Sprintf("2830729232123%02d", 97-2830729232123%97)
	n.add("NIR", []byte(nir))
	answer := func(f func(http.ResponseWriter, *http.Request)) {
		w.provider.mu.Lock()
		defer w.provider.mu.Unlock()
		w.provider.answer = f
	}
	var receipts []*broker.Answer
	ask := func(change func(*broker.Request)) {
		t.Helper()
		req := secretRequest()
		change(req)
		a, err := w.b.Disclose(t.Context(), w.caller, req)
		if err != nil {
			p := broker.AsProblem(err)
			n.in(t, "an error", fmt.Appendf(nil, "%v|%+v|%s|%s|%s|%s", err, err, p.Title, p.Detail, p.Parameter, p.Code))
			return
		}
		receipts = append(receipts, a)
		if a.Outcome != broker.Released && a.Problem != nil {
			n.in(t, "the problem of a recorded answer", fmt.Appendf(nil, "%+v", a.Problem))
		}
	}
	key := func(k string) func(*broker.Request) {
		return func(r *broker.Request) { r.IdempotencyKey = "Marqueuridem-7f3a" + k }
	}
	// Answered, with every scope that is granted, and repeated; by its NIR; refused.
	answer(secretAnswer)
	ask(func(r *broker.Request) { r.Scopes = []string{"quotient", "members"} })
	ask(func(r *broker.Request) { r.Scopes = []string{"quotient", "members"} })
	ask(func(r *broker.Request) { key("nir")(r); r.Subject = broker.SubjectInput{Type: "nir", Value: nir} })
	ask(func(r *broker.Request) { key("denied")(r); r.Scopes = []string{"address"} })
	if len(receipts) != 4 || receipts[0].Outcome != broker.Released || !bytes.Contains(receipts[0].Data, []byte("48151623")) || !receipts[1].Repeated || receipts[2].Outcome != broker.Released || receipts[3].Outcome != broker.Denied {
		t.Fatalf("the markers were not planted: %+v\n%s", receipts, w.text())
	}
	// Answers that fail in ways that tempt to quote them.
	for i, f := range []func(http.ResponseWriter, *http.Request){
		func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = rw.Write([]byte(`{"data":{"quotient":{"valeur":"Marqueurnom-d'Éclair"}}}`))
		},
		func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte(`SECRETMARKER`)) },
		func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Location", "http://secret.example/SECRETMARKER")
			rw.WriteHeader(302)
		},
		func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("X-SECRETMARKER", "Marqueurnom-d'Éclair")
			rw.WriteHeader(500)
			_, _ = rw.Write([]byte(`{"message":"SECRETMARKER 283072923212345"}`))
		},
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		answer(f)
		ask(key(fmt.Sprint("failed", i)))
	}
	answer(secretAnswer)
	// Requests that are wrong, each in one member.
	for i, change := range []func(*broker.Request){
		func(r *broker.Request) { r.Subject.Pivot.BirthDate = "1983-07-19-Marqueurnom" },
		func(r *broker.Request) { r.Subject.Pivot.Sex = "Marqueurnom" },
		func(r *broker.Request) { r.Subject.Pivot.BirthPlace = "Marqueurnom" },
		func(r *broker.Request) { r.Subject.Pivot.BirthName = "" },
		func(r *broker.Request) { r.Subject.Pivot.BirthName = "Marqueurnom\x00" },
		func(r *broker.Request) { r.Subject = broker.SubjectInput{Type: "nir", Value: "283072923212345"} },
		func(r *broker.Request) {
			r.Subject = broker.SubjectInput{Type: "Marqueurnom", Value: "283072923212345"}
		},
		func(r *broker.Request) { r.Subject = broker.SubjectInput{Type: "siren", Value: "SECRETMARKER"} },
		func(r *broker.Request) { r.Context = strings.Repeat("Marqueurctx", 100) },
		func(r *broker.Request) { r.Object = strings.Repeat("Marqueurobj", 100) },
		func(r *broker.Request) { r.Official = strings.Repeat("Marqueuroff", 100) },
		func(r *broker.Request) { r.Parameters = map[string]string{"annee": "SECRETMARKER"} },
		func(r *broker.Request) { r.Purpose = "SECRETMARKER x" },
		func(r *broker.Request) { r.Recipient = "SECRETMARKER" },
		func(r *broker.Request) { r.IdempotencyKey = "Marqueuridem-7f3a \x01" },
		func(r *broker.Request) { r.IdempotencyKey = "Marqueuridem-7f3a" }, // used with another request
	} {
		before := len(receipts)
		ask(func(r *broker.Request) { key(fmt.Sprint("wrong", i))(r); change(r) })
		if len(receipts) != before {
			t.Errorf("wrong request %d was carried out", i)
		}
	}
	subject, err := secretRequest().Subject.Pivot.Subject()
	if err != nil {
		t.Fatal(err)
	}
	n.in(t, "what monitoring reads", secretsOverHTTP(t, w))
	running := filepath.Join(t.TempDir(), "running")
	w.published()
	w.filed()
	copyTree(t, w.cfg.DataDir, running)
	if _, err := w.b.Erase(t.Context(), subject, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	ask(key("after"))
	was := w.b.Log().OpenEpoch().Number
	w.until("an epoch closes", func() bool { return w.b.Log().OpenEpoch().Number > was })
	w.filed()
	w.published()
	erased := filepath.Join(t.TempDir(), "erased")
	copyTree(t, w.cfg.DataDir, erased)
	w.close()
	wit.mu.Lock()
	defer wit.mu.Unlock()
	if len(wit.seen) < 8 {
		t.Errorf("only %d data keys were seen", len(wit.seen))
	}
	i := 0
	for k := range wit.seen {
		n.add(fmt.Sprintf("data key %d", i), k[:])
		i++
	}
	for _, dir := range []string{running, erased, w.cfg.DataDir} {
		for _, file := range []string{"store/store.db", "log/trillian.db", "signed/signed.db", "public/checkpoint"} {
			if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
				t.Error(err)
			}
		}
		if dir != w.cfg.DataDir {
			for _, file := range []string{"store/store.db-wal", "store/store.db-shm", "log/trillian.db-wal"} {
				if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
					t.Error(err)
				}
			}
		}
		t.Logf("%d bytes searched", n.inTree(t, dir))
	}
	n.in(t, "the log", []byte(w.text()))
	if !strings.Contains(w.text(), "level=DEBUG") && !strings.Contains(w.text(), "level=INFO") {
		t.Error("nothing was logged")
	}
}

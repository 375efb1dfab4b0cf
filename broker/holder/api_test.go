package holder_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/ledger/proof"
)

// call asks the broker's API with a certificate, or none.
func (w *world) call(t *testing.T, who *tls.Certificate, method, path, body string) (int, string, string) {
	t.Helper()
	cfg := &tls.Config{RootCAs: w.roots, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if who == nil {
			return &tls.Certificate{}, nil
		}
		return who, nil
	}}
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ Code string }
	_ = json.Unmarshal(b, &p)
	return res.StatusCode, p.Code, string(b)
}

// TestProviderAPI: providers get the receipts of what they were asked and of nothing else; ids that never were, of others, and of refusals are the same to them.
func TestProviderAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(nil)
	good := idOf(w.disclose("Exemple", broker.Released))
	denied := w.request("Refusé")
	denied.Purpose = "publicite"
	a, err := w.b.Disclose(t.Context(), w.caller, denied)
	if err != nil || a.Outcome != broker.Denied {
		t.Fatal(a, err)
	}
	refused := idOf(a)
	stranger := brokertest.NewCurrentIdentity(t, "stranger")
	old := brokertest.NewIdentity(t, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour), "old")
	const path = "/v1/provider/disclosures/"
	unknown := ""
	for _, x := range []struct {
		name         string
		who          *tls.Certificate
		method, path string
		body         string
		status       int
		code         string
	}{
		{"no certificate", nil, "GET", path + good, "", 401, "certificate.missing"},
		{"a stranger's", &stranger, "GET", path + good, "", 401, "certificate.unknown"},
		{"one that is over", &old, "GET", path + good, "", 401, "certificate.unknown"},
		{"an agency's", &w.agency, "GET", path + good, "", 401, "certificate.unknown"},
		{"a provider as an agency", &w.own, "GET", "/v1/disclosures/" + good, "", 401, "certificate.unknown"},
		{"another method", &w.own, "POST", path + good, "{}", 405, "method.unknown"},
		{"an id that never was", &w.own, "GET", path + "01935a11-2233-7444-8555-66778899aabb", "", 404, "disclosure.unknown"},
		{"a refusal, about which nobody was asked", &w.own, "GET", path + refused, "", 404, "disclosure.unknown"},
		{"no id", &w.own, "GET", path + "x", "", 404, "disclosure.unknown"},
		{"an id in capitals", &w.own, "GET", path + strings.ToUpper(good), "", 404, "disclosure.unknown"},
		{"no ids", &w.own, "POST", "/v1/provider/receipts", `{"ids":[]}`, 400, "request.invalid"},
		{"too many ids", &w.own, "POST", "/v1/provider/receipts", `{"ids":["` + strings.Repeat(good+`","`, 100) + good + `"]}`, 400, "request.invalid"},
		{"an id that is none", &w.own, "POST", "/v1/provider/receipts", `{"ids":["` + good + `","x"]}`, 400, "request.invalid"},
		{"unknown members", &w.own, "POST", "/v1/provider/receipts", `{"ids":["` + good + `"],"x":1}`, 400, "request.json.invalid"},
		{"two objects", &w.own, "POST", "/v1/provider/receipts", `{"ids":["` + good + `"]}{}`, 400, "request.json.invalid"},
		{"deep nesting", &w.own, "POST", "/v1/provider/receipts", strings.Repeat("[", 30000), 400, "request.json.invalid"},
		{"too large", &w.own, "POST", "/v1/provider/receipts", strings.Repeat(" ", 64<<10+1), 413, "request.body.large"},
		{"a stranger's keys", &stranger, "GET", "/v1/provider/keys", "", 401, "certificate.unknown"},
	} {
		status, code, body := w.call(t, x.who, x.method, x.path, x.body)
		if status != x.status || code != x.code {
			t.Errorf("%s: %d %s, want %d %s", x.name, status, code, x.status, x.code)
		}
		if code == "disclosure.unknown" {
			if unknown == "" {
				unknown = body
			} else if body != unknown {
				t.Errorf("%s: it can be told from other unknown ids", x.name)
			}
		}
	}
	eventually(t, "the publication", func() error {
		status, code, body := w.call(t, &w.own, "GET", path+good, "")
		var got struct{ Receipts []string }
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 {
			return fmt.Errorf("%d %s %v", status, code, err)
		}
		if len(got.Receipts) != 2 {
			t.Fatalf("%d receipts", len(got.Receipts))
		}
		for i, text := range got.Receipts {
			r, err := proof.ParseReceipt([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if (r.Opening().Text(proof.DisclosureRole) == proof.RoleAsked) != (i == 0) || r.Opening().Text(proof.DisclosureRecipient)+r.Opening().Text(proof.DisclosureObject) != "" {
				t.Error("the wrong receipts, or more in them than a provider may see")
			}
		}
		return nil
	})
	status, _, body := w.call(t, &w.own, "POST", "/v1/provider/receipts", `{"ids":["`+good+`","`+refused+`"]}`)
	var batch struct {
		Disclosures []struct {
			ID, Code string
			Receipts []string
		}
	}
	if err := json.Unmarshal([]byte(body), &batch); err != nil || status != 200 || len(batch.Disclosures) != 2 || batch.Disclosures[0].ID != good || len(batch.Disclosures[0].Receipts) != 2 ||
		batch.Disclosures[1].ID != refused || batch.Disclosures[1].Code != "disclosure.unknown" {
		t.Errorf("%d %v %.200s", status, err, body)
	}
	// After the person's erasure their receipt names nobody; the child's still does.
	s, err := marie.Subject()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Erase(t.Context(), s, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	status, _, body = w.call(t, &w.own, "GET", path+good, "")
	if status != 200 || !strings.Contains(body, `"erased":true`) || strings.Contains(body, "Zoé") {
		t.Errorf("after an erasure: %d %.100s", status, body)
	}
	// A definition without the key ends it.
	text := strings.Replace(w.yaml, "version: 1", "version: 2", 1)
	text = text[:strings.Index(text, ", keys: [")] + text[strings.Index(text, `"]}`)+2:]
	if _, err := w.b.PutService(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	if status, code, _ := w.call(t, &w.own, "GET", path+good, ""); status != 401 || code != "certificate.unknown" {
		t.Errorf("without the key: %d %s", status, code)
	}
}

// TestProvidersAreApart: what another provider was asked is, for a registered one, what never was.
func TestProvidersAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(nil)
	other := brokertest.NewCurrentIdentity(t, "autre")
	mine, others := sha256.Sum256(w.own.Leaf.RawSubjectPublicKeyInfo), sha256.Sum256(other.Leaf.RawSubjectPublicKeyInfo)
	encode := base64.StdEncoding.EncodeToString
	text := strings.NewReplacer("id: household", "id: ailleurs", "id: caisse", "id: autre", encode(mine[:]), encode(others[:])).Replace(w.yaml)
	if _, err := w.b.PutService(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	good := idOf(w.disclose("Exemple", broker.Released))
	const path, never = "/v1/provider/disclosures/", "01935a11-2233-7444-8555-66778899aabb"
	eventually(t, "the publication", func() error {
		if status, code, _ := w.call(t, &w.own, "GET", path+good, ""); status != 200 {
			return fmt.Errorf("%d %s", status, code)
		}
		return nil
	})
	_, _, unknown := w.call(t, &other, "GET", path+never, "")
	if status, code, body := w.call(t, &other, "GET", path+good, ""); status != 404 || code != "disclosure.unknown" || body != unknown {
		t.Errorf("%d %s %s", status, code, body)
	}
	batch := func(id string) string {
		_, _, body := w.call(t, &other, "POST", "/v1/provider/receipts", `{"ids":["`+id+`"]}`)
		return strings.ReplaceAll(body, id, "")
	}
	// Also while there is no outcome.
	asked, answer := make(chan struct{}), make(chan struct{})
	w.respond(func(rw http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		household(rw, r)
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := w.b.Disclose(t.Context(), w.caller, w.request("Attente")); err != nil {
			t.Error(err)
		}
	}()
	<-asked
	w.mu.Lock()
	i, err := base64.StdEncoding.DecodeString(w.seen[len(w.seen)-1].intent)
	w.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(i), "\ndisclosure ")
	pending, _, _ := strings.Cut(rest, "\n")
	if status, code, _ := w.call(t, &w.own, "GET", path+pending, ""); status != 409 && status != 200 { // 200 if all of this took so long that the broker gave up
		t.Errorf("the own one, without an outcome: %d %s", status, code)
	}
	if status, _, body := w.call(t, &other, "GET", path+pending, ""); status != 404 || body != unknown {
		t.Errorf("without an outcome: %d %s", status, body)
	}
	if got := batch(pending); got != batch(never) {
		t.Errorf("without an outcome, in a batch: %s", got)
	}
	close(answer)
	<-done
	if got := batch(good); got != batch(never) || !strings.Contains(got, "disclosure.unknown") {
		t.Errorf("in a batch: %s", got)
	}
}

// TestKeysOfAWithdrawnService: they fetch the receipts that are owed, until a version without them was in force.
func TestKeysOfAWithdrawnService(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	is := func(when string, want int) {
		t.Helper()
		if status, code, _ := w.call(t, &w.own, "GET", "/v1/provider/keys", ""); status != want {
			t.Errorf("%s: %d %s, want %d", when, status, code, want)
		}
	}
	withdraw := func() {
		t.Helper()
		if err := w.b.WithdrawService(t.Context(), "household"); err != nil {
			t.Fatal(err)
		}
	}
	withdraw()
	is("withdrawn", 200)
	key := sha256.Sum256(w.own.Leaf.RawSubjectPublicKeyInfo)
	text := strings.NewReplacer("version: 1", "version: 2", `, keys: ["`+base64.StdEncoding.EncodeToString(key[:])+`"]`, "").Replace(w.yaml)
	if _, err := w.b.PutService(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	is("in force without the key", 401)
	withdraw()
	is("withdrawn without the key", 401)
}

// TestSlowProvider: providers that send slowly keep no other from its receipts, or its guard would stop answering.
func TestSlowProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(nil)
	for range 8 {
		c, err := tls.Dial("tcp", strings.TrimPrefix(w.url, "https://"), &tls.Config{RootCAs: w.roots, ServerName: "localhost", Certificates: []tls.Certificate{w.own}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "POST /v1/provider/receipts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		// The server says this when the handler reads the body.
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if status, code, _ := w.call(t, &w.own, "GET", "/v1/provider/keys", ""); status != 200 {
		t.Errorf("%d %s", status, code)
	}
}

// TestErased: an erasure after the proofs were seen ends the wait for a settlement that can't come.
func TestErased(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	g := w.protect(nil)
	w.disclose("Exemple", broker.Released)
	eventually(t, "the proofs", func() error {
		s, err := g.Status(t.Context())
		if err == nil && !s.OldestUnproven.IsZero() {
			err = fmt.Errorf("%v", s.Counts)
		}
		return err
	})
	s, err := marie.Subject()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Erase(t.Context(), s, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end", func() error {
		s, err := g.Status(t.Context())
		if err == nil && s.Counts[4] != 1 {
			err = fmt.Errorf("%v", s.Counts)
		}
		return err
	})
	if g.Refusing() != "" {
		t.Error(g.Refusing())
	}
	// The broker's word is all there is for it: it is counted apart, and exported with the entry.
	if s, err := g.Status(t.Context()); err != nil || s.Erased != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	var out bytes.Buffer
	if err := g.Store().Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	var x holder.Exported
	if err := json.Unmarshal(out.Bytes(), &x); err != nil || len(x.Erased) != 1 || x.Code != "erased" || len(x.Receipts) != 2 {
		t.Errorf("%+v, %v", x, err)
	}
}

package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/client"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// killed is a real regard serve that is killed while agencies ask, and started again.
type killed struct {
	t        *testing.T
	dir, bin string
	api, ops string
	args     []string

	mu      sync.Mutex
	asked   map[string]string // X-Request-Id → whom the provider was asked about
	killAt  []int             // numbers of questions at which the broker is killed, next first
	restart chan bool
}

func (k *killed) run(args ...string) string {
	k.t.Helper()
	c := exec.CommandContext(k.t.Context(), filepath.Join(k.bin, "regard"), args...)
	c.Dir = k.dir
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		k.t.Fatalf("regard %s: %v\n%s", args[0], err, errs.String())
	}
	return string(out)
}

// serving is a regard serve.
type serving struct {
	process *os.Process
	ended   chan error
	said    *output.Buffer
}

// kill sends a signal, and waits for the end.
func (s *serving) kill(sig syscall.Signal) error {
	_ = s.process.Signal(sig)
	err := <-s.ended
	s.ended <- err
	return err
}

// serve starts the broker.
func (k *killed) serve() *serving {
	k.t.Helper()
	c := exec.Command(filepath.Join(k.bin, "regard"), k.args...)
	c.Dir = k.dir
	said := &output.Buffer{}
	c.Stdout, c.Stderr = said, said
	if err := c.Start(); err != nil {
		k.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	s := &serving{c.Process, ended, said}
	k.t.Cleanup(func() { _ = s.kill(syscall.SIGKILL) })
	waitReady(k.t, k.ops, ended, said)
	return s
}

// answer is the provider: it knows everybody, and has the broker killed in the middle of a question, while others are at any other stage.
func (k *killed) answer(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	id := r.Header.Get("X-Request-Id")
	if who, twice := k.asked[id]; twice || id == "" {
		k.t.Errorf("the provider was asked twice by request %q, about %q", id, who)
	}
	k.asked[id] = r.URL.Query().Get("nomNaissance")
	if len(k.killAt) > 0 && len(k.asked) >= k.killAt[0] {
		k.killAt = k.killAt[1:]
		k.restart <- true
	}
	k.mu.Unlock()
	fmt.Fprint(w, `{"data": {"quotient": {"valeur": 1234}}}`)
}

// TestKillServe kills the real program with kill -9 under load, three times; the agencies repeat what wasn't answered, with the same Idempotency-Key. Each request has one answer, one receipt and one
// entry then, and the provider was asked once at most. The campaign through every stage is in package broker.
func TestKillServe(t *testing.T) {
	k := &killed{t: t, dir: t.TempDir(), bin: programsDir(t), asked: map[string]string{}, killAt: []int{15, 40, 70}, restart: make(chan bool, 3)}
	k.args = []string{"serve", "--config", "b/regard.yaml", "--set", "log.level=warn"}
	broker, agency := k.begin(k.answer)

	const workers, each = 8, 12
	results := make([]*client.Result, workers*each)
	var asking sync.WaitGroup
	for w := range workers {
		asking.Go(func() {
			for i := w * each; i < (w+1)*each; i++ {
				results[i] = k.ask(agency, i)
			}
		})
	}
	done := make(chan bool)
	go func() { asking.Wait(); close(done) }()
	for kills := 0; ; {
		select {
		case <-k.restart:
			_ = broker.kill(syscall.SIGKILL)
			kills++
			broker = k.serve()
			continue
		case <-done:
		}
		if kills != 3 {
			t.Errorf("the broker was killed %d times", kills)
		}
		break
	}
	if t.Failed() {
		return
	}
	k.check(agency, results)
	if err := broker.kill(syscall.SIGTERM); err != nil {
		t.Errorf("it ended with %v", err)
	}
	k.checkLog(len(results))
}

// begin starts a broker whose provider answers so, with one agency.
func (k *killed) begin(answer http.HandlerFunc) (*serving, *client.Client) {
	t := k.t
	upstream := httptest.NewServer(answer)
	t.Cleanup(upstream.Close)
	var addrs [3]string
	for i := range addrs {
		addrs[i] = ledgertest.FreeAddress(t)
	}
	k.api, k.ops = addrs[0], addrs[2]
	k.run("init", "--dir", "b", "--origin", "regard.example/kill", "--api", addrs[0], "--public", addrs[1], "--ops", addrs[2])
	yaml, err := os.ReadFile("../../broker/testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	definition := strings.NewReplacer("http://127.0.0.1:1", upstream.URL, "first_byte: 2s, total: 3s", "first_byte: 58s, total: 58s").Replace(string(yaml))
	if err := os.WriteFile(filepath.Join(k.dir, "b", "services", "household.yaml"), []byte(definition), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := k.serve()
	k.run("keygen", "--name", "Mairie", "--out", "mairie")
	k.run("agency", "add", "mairie", "--name", "Mairie", "--siret", "21750001600019", "--cert", "mairie.pem", "-c", "b/regard.yaml")
	k.run("agreement", "add", "cantine", "--agency", "mairie", "--service", "household", "--scope", "quotient", "--purpose", "cantine", "--legal-basis", "crpa-l114-8",
		"--not-before", "2024-01-01", "--not-after", "2049-12-31", "-c", "b/regard.yaml")
	return broker, k.agency("https://"+addrs[0], strings.TrimSpace(k.run("status", "--log-key", "-c", "b/regard.yaml")))
}

// agency is a client that doesn't repeat by itself.
func (k *killed) agency(url, logKey string) *client.Client {
	k.t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(k.dir, "mairie.pem"), filepath.Join(k.dir, "mairie.key"))
	if err != nil {
		k.t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(k.dir, "b", "secrets", "server.pem"))
	if err != nil {
		k.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	policy, err := proof.NewPolicy(logKey)
	if err != nil {
		k.t.Fatal(err)
	}
	c, err := client.New(client.Config{URL: url, Certificate: pair, Roots: roots, Policy: policy, Attempts: 1})
	if err != nil {
		k.t.Fatal(err)
	}
	return c
}

// question is about somebody.
func question(name string, i int) []byte {
	return fmt.Appendf(nil, `{"service": "household", "scopes": ["quotient"], "purpose": "cantine", "legal_basis": "crpa-l114-8", "recipient": "21750001600019", "context": "c", "object": "dossier %d",
		"subject": {"type": "pivot", "birth_name": %q, "given_names": "ZOE", "birth_date": "1984-02-29", "sex": "F", "birth_place": "75056", "birth_country": "99100"}}`, i, name)
}

// ask repeats one request with its key until it is answered. The client verifies the receipt.
func (k *killed) ask(agency *client.Client, i int) *client.Result {
	body := question("EXEMPLE "+string(rune('A'+i/26))+string(rune('A'+i%26)), i)
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		res, err := agency.Disclose(k.t.Context(), body, fmt.Sprintf("key-%d", i))
		if err == nil {
			return res
		}
		if errors.Is(err, client.ErrReceipt) || time.Now().After(end) {
			k.t.Errorf("request %d: %v", i, err)
			return nil
		}
	}
}

func (k *killed) check(agency *client.Client, results []*client.Result) {
	t := k.t
	ids, indexes, interrupted := map[string]bool{}, map[proof.Index]bool{}, 0
	for i, r := range results {
		switch {
		case r.Outcome == "released" && string(r.Data) == `{"data":{"quotient":{"valeur":1234}}}`:
		case r.Outcome == "failed" && r.Data == nil && r.Problem != nil && r.Problem.Code == "interrupted":
			interrupted++
		default:
			t.Errorf("request %d: outcome %s, problem %v, data %s", i, r.Outcome, r.Problem, r.Data)
		}
		if ids[r.ID] || indexes[r.Verdict.Index] {
			t.Errorf("request %d shares its id or its log index %d with another one", i, r.Verdict.Index)
		}
		ids[r.ID], indexes[r.Verdict.Index] = true, true
	}
	questions := len(k.asked)
	people := map[string]bool{}
	for id, who := range k.asked {
		if !ids[id] || people[who] {
			t.Errorf("the provider was asked by request %s, of which no agency knows, or twice about one person", id)
		}
		people[who] = true
	}
	for i, r := range results {
		again := k.ask(agency, i)
		if again == nil || !again.Repeated || again.ID != r.ID || again.Outcome != r.Outcome || again.Verdict.Index != r.Verdict.Index || string(again.Data) != string(r.Data) {
			t.Errorf("request %d repeated: %+v", i, again)
		}
	}
	if len(k.asked) != questions {
		t.Error("the provider was asked by a repeated request")
	}
	t.Logf("%d requests, %d questions, %d interrupted", len(results), questions, interrupted)
}

// checkLog counts the entries that are published: one for each request, because nobody else is named in the answers.
func (k *killed) checkLog(want int) {
	k.t.Helper()
	public := filepath.Join(k.dir, "b", "data", "public")
	text, err := os.ReadFile(filepath.Join(public, "checkpoint"))
	if err != nil {
		k.t.Fatal(err)
	}
	var size uint64
	var root proof.Hash
	lines := strings.SplitN(string(text), "\n", 4)
	if _, err := fmt.Sscan(lines[1], &size); err != nil {
		k.t.Fatal(err)
	}
	if root, err = proof.ParseHash(lines[2]); err != nil {
		k.t.Fatal(err)
	}
	tree := tiles.Tree{Dir: public, Size: size, Root: root}
	got := 0
	for i := range size {
		entry, err := tree.Entry(i)
		if err != nil {
			k.t.Fatal(err)
		}
		if strings.HasPrefix(string(entry), "regard/disclosure@v1\n") {
			got++
		}
	}
	if got != want {
		k.t.Errorf("%d disclosures are published, want %d", got, want)
	}
}

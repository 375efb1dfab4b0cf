package broker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys/keystore"
	"github.com/regard-broker/regard/ledger/proof"
)

// The environment of the process that is killed.
const (
	killDir      = "REGARD_TEST_KILL_DIR"
	killProvider = "REGARD_TEST_KILL_PROVIDER"
	killAt       = "REGARD_TEST_KILL_AT" // "<stage> <nth>", or "<stage> <nth> erase" to count from an erasure on, or empty
)

// killClients ask at the same time.
const killClients = 16

// TestKillEverywhere kills the broker with SIGKILL under load at the end of every stage of the pipeline, three times each, on one directory. What is checked afterwards
// rests on what others hold: the provider's access log, the clients' answers, the published log. It is also the test that the broker's process is started with.
func TestKillEverywhere(t *testing.T) {
	if dir := os.Getenv(killDir); dir != "" {
		killChild(t, dir)
		return
	}
	t.Parallel() // it waits most of the time
	c := newCampaign(t)
	for round := range 3 {
		for _, stage := range broker.Stages {
			n := 1 + c.random.IntN(12)
			if stage == "intent" || stage == "provider" { // once a request, not once a batch
				n *= 5
			}
			c.round(fmt.Sprintf("%s %d", stage, n), 0)
			t.Logf("round %d: killed at %s %d", round+1, stage, n)
		}
	}
	c.finish()
}

// TestKillErasure kills the broker at every stage of an erasure. The next start carries it through; what is recorded about the person afterwards can be read, also after one more start.
func TestKillErasure(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCampaign(t)
	c.start("", 0).stop(t)
	stages := []string{"outcome", "add", "integrate", "sign", "release"}
	subject := func(p *child, id store.ID) proof.Presence {
		t.Helper()
		a, err := p.call("/disclosure", &killRequest{ID: id})
		if err != nil || !a.Final {
			t.Fatalf("%+v, %v", a, err)
		}
		r, err := proof.ParseReceipt(a.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		_, presence := r.Opening().Value(proof.FieldSubject)
		return presence
	}
	for i, stage := range stages {
		ask := func(p *child, name, key string) store.ID {
			t.Helper()
			a, err := p.call("/disclose", &killRequest{Name: name, Key: key + stage, Scope: "quotient"})
			if err != nil || !a.Final {
				t.Fatalf("%+v, %v", a, err)
			}
			return a.ID
		}
		name := "TUE PARTIE " + letters(int64(i+1))
		p := c.start(stage+" 1 erase", 0)
		before, other := ask(p, name, "before"), ask(p, "TUE RESTE", "other")
		if a, err := p.call("/erase", &killRequest{Name: name}); err == nil {
			t.Fatalf("erased, and not killed at %s: %+v", stage, a)
		}
		p.wait(t)
		p = c.start("", 0)
		if got := subject(p, before); got != proof.Hidden {
			t.Errorf("killed at %s: the erasure wasn't carried through", stage)
		}
		after := ask(p, name, "after")
		p.stop(t)
		p = c.start("", 0)
		if subject(p, before) != proof.Hidden || subject(p, after) != proof.Present || subject(p, other) != proof.Present {
			t.Errorf("killed at %s: after one more start something else can be read", stage)
		}
		p.stop(t)
	}
	erasures := 0
	err := filepath.WalkDir(filepath.Join(c.dir, "public", "tile", "entries"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		erasures = max(erasures, bytes.Count(text, []byte("regard/erasure@v1\n"))) // partial tiles repeat each other
		return err
	})
	if err != nil || erasures != len(stages) {
		t.Errorf("the log has %d erasures, not %d: %v", erasures, len(stages), err)
	}
}

// TestKillOpening kills the broker at every stage of the end of a delay. Whatever had come before the kill, there is exactly one opened@v1 for each deferred@v1 afterwards.
func TestKillOpening(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCampaign(t)
	c.start("", 0).stop(t)
	stages := []string{"outcome", "add", "integrate", "sign", "release"}
	for i, stage := range stages {
		p := c.start(stage+" 1 end", 0)
		a, err := p.call("/disclose", &killRequest{Name: "TUE TARD " + letters(int64(i+1)), Key: stage, Scope: "quotient", Later: true})
		if err != nil || !a.Final {
			t.Fatalf("%+v, %v", a, err)
		}
		if end, err := p.call("/end", &killRequest{ID: a.ID}); err == nil {
			t.Fatalf("ended, and not killed at %s: %+v", stage, end)
		}
		p.wait(t)
		p = c.start("", 0)
		if end, err := p.call("/end", &killRequest{ID: a.ID}); err != nil || end.Status != 404 && !end.Final {
			t.Errorf("killed at %s: once more: %+v, %v", stage, end, err)
		}
		again, err := p.call("/disclosure", &killRequest{ID: a.ID})
		if err != nil || !again.Final {
			t.Fatalf("killed at %s: %+v, %v", stage, again, err)
		}
		r := receiptOf(t, again.Receipt)
		if o, ok := r.Entry().(proof.Opened); !ok || o.Deferred != receiptOf(t, a.Receipt).Index() {
			t.Errorf("killed at %s: %+v", stage, r.Entry())
		}
		if _, err := r.Opening().Subject(); err != nil {
			t.Errorf("killed at %s: %v", stage, err)
		}
		p.stop(t)
	}
	ends := map[proof.Index]int{}
	delays := 0
	for _, text := range entriesIn(t, filepath.Join(c.dir, "public")) {
		switch e := text.(type) {
		case proof.Deferred:
			delays++
		case proof.Opened:
			ends[e.Deferred]++
		}
	}
	if delays < len(stages) || len(ends) != delays { // one for the asked person, and for each of the others
		t.Errorf("%d delays, %d of them ended", delays, len(ends))
	}
	for i, n := range ends {
		if n != 1 {
			t.Errorf("%d entries end the delay of %d", n, i)
		}
	}
}

// campaign is a broker in a child process, its provider and its clients.
type campaign struct {
	t        *testing.T
	dir      string
	random   *rand.Rand
	provider *killedProvider
	clients  [killClients]killClient
	names    atomic.Int64
	setup    killSetup
	seen     [][]byte // checkpoints as published between the kills
}

// killClient asks one thing after the other. What wasn't answered is asked again, with the same Idempotency-Key.
type killClient struct {
	random *rand.Rand
	open   *killRequest
	done   []killDone
}

type killRequest struct {
	Key, Name string
	Scope     string
	Later     bool     // under the agreement with a lawful delay
	ID        store.ID // of a disclosure that is looked up, or whose delay ends; nothing else is set then
}

type killAnswer struct {
	Status          int // of an error: nothing was recorded, or nobody knows
	Code            string
	ID              store.ID
	Outcome         broker.Outcome
	Data, Receipt   []byte
	Repeated, Final bool
	Settled         bool
}

type killDone struct {
	req    killRequest
	answer killAnswer
}

type killSetup struct {
	VKeys []string
}

func newCampaign(t *testing.T) *campaign {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("REGARD_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("REGARD_TEST_SEED=%d", seed)
	dir, err := os.MkdirTemp("", "kill") // short: the path of a socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &campaign{t: t, dir: dir, random: rand.New(rand.NewPCG(seed, 0)), provider: newKilledProvider(t, seed)}
	for i := range c.clients {
		c.clients[i].random = rand.New(rand.NewPCG(seed, uint64(i)+1))
	}
	cfg := killKeystore(dir)
	if err := os.Mkdir(filepath.Dir(cfg.Path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(keystore.CreateKeyFile(cfg.KeyFile), keystore.Create(cfg)); err != nil {
		t.Fatal(err)
	}
	return c
}

func killKeystore(dir string) keystore.Config {
	return keystore.Config{Path: filepath.Join(dir, "keys", "keystore"), KeyFile: filepath.Join(dir, "keys", "key")}
}

// round starts the broker, has everybody ask until it is killed (by itself at the given stage, or from outside after that time), and waits for its end.
func (c *campaign) round(at string, after time.Duration) {
	c.t.Helper()
	p := c.start(at, after)
	var wg sync.WaitGroup
	for i := range c.clients {
		wg.Go(func() { c.work(p, &c.clients[i], false) })
	}
	p.wait(c.t)
	wg.Wait()
	if !p.killed {
		c.t.Fatalf("the broker wasn't killed (%v), but ended by itself:\n%s", p.err, p.output())
	}
	if cp, err := os.ReadFile(filepath.Join(c.dir, "public", "checkpoint")); err == nil {
		c.seen = append(c.seen, cp)
	}
}

// work asks until the broker is gone, or until everything is answered if only what is open is to be asked.
func (c *campaign) work(p *child, k *killClient, openOnly bool) {
	for range 100_000 {
		if k.open == nil {
			if openOnly {
				return
			}
			n := c.names.Add(1)
			k.open = &killRequest{Key: "key-" + strconv.FormatInt(n, 10), Name: "TUE " + letters(n), Scope: "quotient"}
			if k.random.IntN(12) == 0 {
				k.open.Scope = "address" // not granted
			}
		}
		a, err := p.call("/disclose", k.open)
		if err != nil {
			return // killed
		}
		if a.Final {
			k.done = append(k.done, killDone{*k.open, a})
			k.open = nil
			continue
		}
		if a.Status != 409 && a.Status != 503 {
			c.t.Errorf("request %s: status %d, %s", k.open.Key, a.Status, a.Code)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// finish lets everybody have their answers, asks for every receipt anew, ends the broker in good order, and checks.
func (c *campaign) finish() {
	c.t.Helper()
	p := c.start("", 0)
	var wg sync.WaitGroup
	for i := range c.clients {
		wg.Go(func() { c.work(p, &c.clients[i], true) })
	}
	wg.Wait()
	var all []killDone
	fresh := map[store.ID]killAnswer{}
	for i := range c.clients {
		all = append(all, c.clients[i].done...)
	}
	for i := range all {
		id := all[i].answer.ID
		a, err := p.call("/disclosure", &killRequest{ID: id})
		if err != nil || !a.Final {
			c.t.Fatalf("disclosure %s after the last restart: %+v, %v", uuid.UUID(id), a, err)
		}
		fresh[id] = a
	}
	p.stop(c.t)
	cp, err := os.ReadFile(filepath.Join(c.dir, "public", "checkpoint"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.seen = append(c.seen, cp)
	checkKilled(c.t, filepath.Join(c.dir, "public"), c.setup.VKeys, c.provider.log(), all, fresh, c.seen)
}

// child is a broker in a process of its own.
type child struct {
	cmd    *exec.Cmd
	out    *syncWriter
	stdin  io.Closer
	client *http.Client
	ended  chan struct{}
	err    error
	killed bool
}

func (c *campaign) start(at string, after time.Duration) *child {
	c.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	socket := filepath.Join(c.dir, "socket")
	p := &child{cmd: exec.Command(exe, "-test.run=^TestKillEverywhere$", "-test.timeout=300s"), out: &syncWriter{w: &bytes.Buffer{}}, ended: make(chan struct{})}
	p.client = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: killClients,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	p.cmd.Env = append(os.Environ(), killDir+"="+c.dir, killProvider+"="+c.provider.URL, killAt+"="+at)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if p.stdin, err = p.cmd.StdinPipe(); err != nil { // it ends with this process
		c.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	if after > 0 {
		time.AfterFunc(after, func() { _ = p.cmd.Process.Kill() })
	}
	go func() {
		p.err = p.cmd.Wait()
		var ee *exec.ExitError
		p.killed = errors.As(p.err, &ee) && ee.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		p.client.CloseIdleConnections()
		close(p.ended)
	}()
	c.t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.ended })
	for deadline := time.Now().Add(patience); ; {
		req, err := http.NewRequest(http.MethodGet, "http://broker/setup", nil)
		if err != nil {
			c.t.Fatal(err)
		}
		res, err := p.client.Do(req)
		if err == nil {
			err = json.NewDecoder(res.Body).Decode(&c.setup)
			res.Body.Close()
			if err == nil {
				return p
			}
		}
		select {
		case <-p.ended:
			if p.killed { // while it recovered
				return p
			}
			c.t.Fatalf("the broker didn't start (%v):\n%s", p.err, p.output())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the broker doesn't answer: %v\n%s", err, p.output())
		}
	}
}

func (p *child) output() string {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.out.w.String()
}

func (p *child) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("the broker wasn't killed in time:\n%s", p.output())
	}
}

// stop ends it in good order.
func (p *child) stop(t *testing.T) {
	t.Helper()
	if err := p.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	if p.err != nil {
		t.Fatalf("the broker ended with %v:\n%s", p.err, p.output())
	}
}

func (p *child) call(path string, req *killRequest) (a killAnswer, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return a, err
	}
	res, err := p.client.Post("http://broker"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	return a, json.NewDecoder(res.Body).Decode(&a)
}

// killChild is the process that is killed.
func killChild(t *testing.T, dir string) {
	var armed atomic.Bool
	byOrder := false
	w := &world{t: t, logs: &bytes.Buffer{}, provider: &fakeProvider{Server: &httptest.Server{URL: os.Getenv(killProvider)}}}
	cfg := broker.Config{
		DataDir: dir, Origin: "regard.example/log", Development: true, Epoch: time.Second,
		Providers: provider.Config{Development: true, Failures: 1000, Window: 1000},
		Logger:    childLogger(),
	}
	custodian, err := keystore.Open(killKeystore(dir))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Custodian = custodian
	if at := os.Getenv(killAt); at != "" {
		var stage string
		var nth, n int64
		if _, err := fmt.Sscan(at, &stage, &nth); err != nil {
			t.Fatal(err)
		}
		byOrder = strings.HasSuffix(at, " erase") || strings.HasSuffix(at, " end")
		cfg.SetAt(func(s string) {
			if armed.Load() && s == stage && atomic.AddInt64(&n, 1) == nth {
				if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
					panic(err)
				}
				select {}
			}
		})
	}
	// The very first start isn't killed; later ones are while they recover too.
	ready := filepath.Join(dir, "ready")
	_, statErr := os.Stat(ready)
	armed.Store(statErr == nil && !byOrder)
	w.cfg = cfg
	w.open()
	if statErr != nil {
		w.populate()
		if _, err := w.b.PutAgreement(t.Context(), enquete()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ready, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		armed.Store(!byOrder)
	}
	w.caller = broker.Caller{ID: "mairie", Name: "Mairie d'Exemple", SIRET: mairie}
	w.serve(filepath.Join(dir, "socket"), &armed)
}

// serve answers the parent until its end of the pipe is closed.
func (w *world) serve(socket string, armed *atomic.Bool) {
	t := w.t
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	vkeys, err := w.b.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	answer := func(rw http.ResponseWriter, v any) { _ = json.NewEncoder(rw).Encode(v) }
	mux.HandleFunc("GET /setup", func(rw http.ResponseWriter, _ *http.Request) { answer(rw, killSetup{vkeys}) })
	handle := func(path string, f func(context.Context, *killRequest) (*broker.Answer, error)) {
		mux.HandleFunc("POST "+path, func(rw http.ResponseWriter, r *http.Request) {
			var req killRequest
			if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
				http.Error(rw, err.Error(), http.StatusBadRequest)
				return
			}
			a, err := f(r.Context(), &req)
			if err != nil {
				p := broker.AsProblem(err)
				answer(rw, killAnswer{Status: p.Status, Code: p.Error()})
				return
			}
			out := killAnswer{ID: a.ID, Outcome: a.Outcome, Data: a.Data, Receipt: a.Receipt, Repeated: a.Repeated, Settled: a.Settled, Final: true}
			if a.Problem != nil {
				out.Status, out.Code = a.Problem.Status, a.Problem.Code
			}
			answer(rw, out)
		})
	}
	handle("/disclose", func(ctx context.Context, q *killRequest) (*broker.Answer, error) {
		req := openly(request())
		if q.Later {
			req = secretly()
		}
		req.IdempotencyKey, req.Scopes, req.Object = q.Key, []string{q.Scope}, q.Key
		req.Subject.Pivot = killPivot(q.Name)
		return w.b.Disclose(ctx, w.caller, req)
	})
	handle("/disclosure", func(ctx context.Context, q *killRequest) (*broker.Answer, error) {
		return w.b.Disclosure(ctx, w.caller, q.ID)
	})
	handle("/erase", func(ctx context.Context, q *killRequest) (*broker.Answer, error) {
		armed.Store(true)
		subject, err := killPivot(q.Name).Subject()
		if err == nil {
			_, err = w.b.Erase(ctx, subject, "rgpd-17")
		}
		return &broker.Answer{}, err
	})
	handle("/end", func(ctx context.Context, q *killRequest) (*broker.Answer, error) {
		armed.Store(true)
		_, err := w.b.EndDeferral(ctx, q.ID, "lifted")
		return &broker.Answer{}, err
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = srv.Shutdown(context.Background())
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		t.Fatal(err)
	}
}

func killPivot(name string) proof.Pivot {
	return proof.Pivot{BirthName: name, GivenNames: "ZOE", BirthDate: "1984-02-29", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"}
}

// killedProvider states households of one to three people, or that it knows nobody, and keeps its access log.
type killedProvider struct {
	*httptest.Server
	mu     sync.Mutex
	random *rand.Rand
	access []accessed
}

// accessed is a line of the provider's access log.
type accessed struct {
	id     string // X-Request-ID
	name   string
	people []proof.Stated // nobody: not known
	value  int
}

func newKilledProvider(t *testing.T, seed uint64) *killedProvider {
	p := &killedProvider{random: rand.New(rand.NewPCG(seed, 1<<32))}
	p.Server = httptest.NewServer(http.HandlerFunc(p.answer))
	t.Cleanup(p.Close)
	return p
}

func (p *killedProvider) log() []accessed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]accessed(nil), p.access...)
}

func (p *killedProvider) answer(rw http.ResponseWriter, r *http.Request) {
	a := accessed{id: r.Header.Get("X-Request-Id"), name: r.URL.Query().Get("nomNaissance")}
	p.mu.Lock()
	a.value = len(p.access) + 1000
	kind, pause := p.random.IntN(8), time.Duration(p.random.IntN(8))*time.Millisecond
	child := func(i int) proof.Stated {
		// Children are in many households: their keys and rolls are shared by requests at the same time.
		return proof.Stated{BirthName: "ENFANT " + string(rune('A'+(a.value+i)%5)), GivenNames: "NOE", BirthDate: "2015-06-30", Sex: "M"}
	}
	self := proof.Stated{BirthName: a.name, GivenNames: "ZOE", BirthDate: "1984-02-29", Sex: "F"}
	switch kind {
	case 0: // nobody
	case 1:
		a.people = []proof.Stated{child(0)}
	case 2, 3:
		a.people = []proof.Stated{self}
	case 4:
		a.people = []proof.Stated{child(0), {BirthName: a.name, GivenNames: "Zoé"}}
	case 5:
		a.people = []proof.Stated{child(0), {BirthName: a.name, GivenNames: "ZOÉ CLAIRE", BirthDate: "1984-02-29", Sex: "F"}} // somebody else than was asked
	default:
		a.people = []proof.Stated{self, child(0), child(1)}
	}
	p.access = append(p.access, a)
	p.mu.Unlock()
	time.Sleep(pause)
	rw.Header().Set("Content-Type", "application/json")
	if len(a.people) == 0 {
		rw.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(rw, `{"errors":[{"code":"37003","title":"Dossier absent","detail":"Rien","meta":{"provider":"CNAV"}}]}`)
		return
	}
	var members []string
	for _, s := range a.people {
		m, err := json.Marshal(map[string]string{"nom": s.BirthName, "prenoms": s.GivenNames, "naissance": s.BirthDate, "sexe": s.Sex})
		if err != nil {
			panic(err)
		}
		members = append(members, strings.ReplaceAll(string(m), `""`, "null"))
	}
	fmt.Fprintf(rw, `{"data":{"quotient":{"valeur":%d},"membres":[%s],"adresse":"1 RUE"}}`, a.value, strings.Join(members, ","))
}

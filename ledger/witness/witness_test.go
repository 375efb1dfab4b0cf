package witness

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

func open(t testing.TB, cfg Config) (*Witness, string) {
	t.Helper()
	w, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(w.Handler())
	t.Cleanup(func() {
		srv.Close()
		if err := w.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return w, srv.URL
}

// verifyCosignature checks what a witness answered with the code of those who defined it.
func verifyCosignature(t testing.TB, vkey, checkpoint, lines string) {
	t.Helper()
	v, err := fnote.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(checkpoint+lines), note.VerifierList(v))
	if err != nil || len(n.Sigs) != 1 {
		t.Fatalf("the answer is no cosignature: %v\n%s", err, lines)
	}
	at, err := fnote.CoSigV1Timestamp(n.Sigs[0])
	if err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("the cosignature is of %v (%v)", at, err)
	}
}

// Each status of c2sp.org/tlog-witness, in the order of its text.
func TestStatuses(t *testing.T) {
	l, other := newLog(t, "log.example/one"), newLog(t, "log.example/other")
	l.grow(t, 40, "entry")
	other.grow(t, 5, "entry")
	forged := newLog(t, l.origin) // the same name and another key
	forged.grow(t, 40, "entry")
	cfg := newConfig(t, l)
	w, url := open(t, cfg)
	good := l.ask(t, 0, 10)
	cut := func(old, replacement string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the request", old)
		}
		return strings.Replace(good, old, replacement, 1)
	}
	for _, bad := range []struct{ name, body string }{
		{"empty", ""},
		{"no line feed", "old 0"},
		{"no old size", cut("old 0\n", "")},
		{"another word", cut("old 0", "new 0")},
		{"two spaces", cut("old 0", "old  0")},
		{"a sign", cut("old 0", "old +0")},
		{"a leading zero", cut("old 0", "old 00")},
		{"beyond 2^63", cut("old 0", "old 9223372036854775808")},
		{"something behind the size", cut("old 0\n", "old 0 \n")},
		{"CRLF", strings.ReplaceAll(good, "\n", "\r\n")},
		{"a proof line of 31 bytes", cut("old 0\n", "old 0\n"+strings.Repeat("A", 43)+"\n")},
		{"a proof line of 33 bytes", cut("old 0\n", "old 0\n"+strings.Repeat("A", 44)+"\n")},
		{"another spelling of base64", cut("old 0\n", "old 0\n"+strings.Repeat("A", 42)+"B=\n")},
		{"64 proof lines", cut("old 0\n", "old 0\n"+strings.Repeat(strings.Repeat("A", 43)+"=\n", 64))},
		{"no empty line", cut("old 0\n\n", "old 0\n")},
		{"no checkpoint", "old 0\n\n"},
		{"no signature", good[:strings.Index(good, "—")]},
		{"a signature line cut off", good[:len(good)-2]},
		{"a checkpoint without size", "old 0\n\n" + l.origin + "\n\n— x AAAAAAAA\n"},
		{"a size with a leading zero", cut("\n10\n", "\n010\n")},
		{"a short root", cut("=\n\n—", "\n\n—")},
		{"an old size above the size", l.ask(t, 11, 10)},
	} {
		if a := post(t, url, bad.body); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %q", bad.name, a.status, a.body)
		}
	}
	if a := post(t, url, other.ask(t, 0, 5)); a.status != http.StatusNotFound {
		t.Errorf("unknown origin: %d", a.status)
	}
	if a := post(t, url, forged.ask(t, 0, 10)); a.status != http.StatusForbidden {
		t.Errorf("another key: %d", a.status)
	}
	if a := post(t, url, cut("\n10\n", "\n11\n")); a.status != http.StatusForbidden {
		t.Errorf("a signature of another text: %d", a.status)
	}
	// Of a log that was never cosigned the old size is 0, and the proof empty.
	if a := post(t, url, l.ask(t, 5, 10)); a.status != http.StatusConflict || a.kind != "text/x.tlog.size" || a.body != "0\n" {
		t.Errorf("first request with an old size: %+v", a)
	}
	if a := post(t, url, "old 0\n"+strings.Repeat("A", 43)+"=\n"+good[len("old 0\n"):]); a.status != http.StatusUnprocessableEntity {
		t.Errorf("first request with a proof: %+v", a)
	}
	if seen, err := w.Seen(t.Context()); err != nil || len(seen) != 1 || seen[0].Size != 0 || seen[0].Note != nil {
		t.Fatalf("something was stored of what was refused: %+v %v", seen, err)
	}

	a := post(t, url, good)
	if a.status != http.StatusOK {
		t.Fatalf("the first checkpoint: %+v", a)
	}
	verifyCosignature(t, w.VKey(), l.checkpoint(t, 10), a.body)
	if a := post(t, url, l.ask(t, 0, 20)); a.status != http.StatusConflict || a.kind != "text/x.tlog.size" || a.body != "10\n" {
		t.Errorf("wrong old size: %+v", a)
	}
	if a := post(t, url, l.ask(t, 9, 20)); a.status != http.StatusConflict || a.body != "10\n" {
		t.Errorf("wrong old size: %+v", a)
	}
	if a := post(t, url, l.ask(t, 5, 9)); a.status != http.StatusConflict || a.body != "10\n" {
		t.Errorf("a smaller tree: %+v", a)
	}
	fork := l.fork(t, 9)
	fork.grow(t, 40, "fork")
	refusals := []string{
		fork.ask(t, 10, 20), // a proof from another tree of that size
		fork.ask(t, 10, 10), // another root of the size that was cosigned
		strings.Replace(l.ask(t, 10, 20), "old 10\n", "old 10\n"+strings.Repeat("A", 43)+"=\n", 1),
		"old 10\n\n" + l.checkpoint(t, 20),
	}
	for i, body := range refusals {
		if a := post(t, url, body); a.status != http.StatusUnprocessableEntity || strings.Contains(a.body, "—") {
			t.Errorf("refusal %d: %+v", i, a)
		}
	}
	for _, grow := range [][2]int64{{10, 10}, {10, 11}, {11, 16}, {16, 40}} {
		a := post(t, url, l.ask(t, grow[0], grow[1]))
		if a.status != http.StatusOK {
			t.Fatalf("growth %v: %+v", grow, a)
		}
		verifyCosignature(t, w.VKey(), l.checkpoint(t, grow[1]), a.body)
	}
	if res, err := http.Get(url + "/add-checkpoint"); err != nil || res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v %v", res.StatusCode, err)
	}
	if a := post(t, url, strings.Repeat("A", maxRequest+1)); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a large request: %d", a.status)
	}
	for name, want := range map[string]string{
		`regard_witness_refused_total{log="log.example/one"}`: fmt.Sprint(len(refusals) + 1),
		`regard_witness_requests_total{status="409"}`:         "4",
		`regard_witness_requests_total{status="200"}`:         "5",
		`regard_witness_size{log="log.example/one"}`:          "40",
	} {
		if text := metrics(t, w); !strings.Contains(text, name+" "+want+"\n") {
			t.Errorf("not %s %s in\n%s", name, want, text)
		}
	}
}

func metrics(t testing.TB, w *Witness) string {
	t.Helper()
	r := httptest.NewRecorder()
	w.Ops().ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return r.Body.String()
}

// A checkpoint of size 0 is cosigned if its root is that of the empty tree; whatever follows extends it.
func TestEmptyTree(t *testing.T) {
	l := newLog(t, "log.example/one")
	_, url := open(t, newConfig(t, l))
	if a := post(t, url, l.ask(t, 0, 0)); a.status != http.StatusOK {
		t.Fatalf("the empty tree: %+v", a)
	}
	text := fmt.Sprintf("%s\n0\n%s\n", l.origin, strings.Repeat("A", 43)+"=")
	n, err := note.Sign(&note.Note{Text: text}, l.signer)
	if err != nil {
		t.Fatal(err)
	}
	if a := post(t, url, "old 0\n\n"+string(n)); a.status != http.StatusUnprocessableEntity {
		t.Errorf("another root of the empty tree: %+v", a)
	}
	l.grow(t, 3, "entry")
	if a := post(t, url, l.ask(t, 0, 3)); a.status != http.StatusOK {
		t.Errorf("growth from the empty tree: %+v", a)
	}
}

// Other signatures on a checkpoint, and extension lines, are the log's business. While a log's key is being replaced, either is good.
func TestStrangeCheckpoints(t *testing.T) {
	l := newLog(t, "log.example/one")
	l.grow(t, 5, "entry")
	next := newLog(t, l.origin)
	cfg := newConfig(t, l, next)
	_, url := open(t, cfg)
	stranger := newLog(t, "stranger.example")
	n, err := note.Sign(&note.Note{Text: l.text(t, 3) + "extension line\n"}, stranger.signer, l.signer)
	if err != nil {
		t.Fatal(err)
	}
	if a := post(t, url, "old 0\n\n"+string(n)); a.status != http.StatusOK {
		t.Errorf("with a stranger's signature and an extension: %+v", a)
	}
	l.signer = next.signer
	if a := post(t, url, l.ask(t, 3, 5)); a.status != http.StatusOK {
		t.Errorf("under the next key: %+v", a)
	}
}

func TestOpenRefuses(t *testing.T) {
	l := newLog(t, "log.example/one")
	cfg := newConfig(t, l)
	w, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one on the same state: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Create(t.Context(), cfg.State); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a state in the place of another: %v", err)
	}
	with := func(change func(*Config)) error {
		c := cfg
		change(&c)
		w, err := Open(t.Context(), c)
		if err == nil {
			w.Close()
		}
		return err
	}
	if err := with(func(c *Config) { c.State += ".none" }); !errors.Is(err, ErrNoState) {
		t.Errorf("no state: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty.db")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := with(func(c *Config) { c.State = empty }); !errors.Is(err, ErrNoState) {
		t.Errorf("an empty state: %v", err)
	}
	own, err := VKey(cfg.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := with(func(c *Config) { c.Logs = []Log{{Origin: "x", VKey: own}} }); !errors.Is(err, ErrSharedKey) {
		t.Errorf("a log with the witness's key: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"no key":           func(c *Config) { c.Key = "" },
		"a public key":     func(c *Config) { c.Key = own },
		"a broken log key": func(c *Config) { c.Logs = []Log{{Origin: "x", VKey: "x"}} },
		"no origin":        func(c *Config) { c.Logs = []Log{{VKey: l.vkey}} },
		"negative":         func(c *Config) { c.ClientRate = -1 },
		"qpd":              func(c *Config) { c.Logs = []Log{{Origin: "x", VKey: l.vkey, PerDay: -1}} },
	} {
		if err := with(change); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	// A damaged state is no state.
	b, err := os.ReadFile(cfg.State)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < len(b); i++ {
		b[i] ^= 0x55
	}
	if err := os.WriteFile(cfg.State, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := with(func(*Config) {}); err == nil {
		t.Error("a damaged state is used")
	}
	if err := os.Chmod(cfg.State, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := with(func(*Config) {}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a state that others may read: %v", err)
	}
}

func TestLimits(t *testing.T) {
	l := newLog(t, "log.example/one")
	l.grow(t, 100, "entry")
	cfg := newConfig(t, l)
	cfg.Logs[0].PerDay = 24 * 60 * 60 // one a second
	var mu sync.Mutex
	now := time.Now()
	cfg.Clock = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	cfg.ClientRate, cfg.ClientBurst = 1, 100
	_, url := open(t, cfg)
	for i := range logBurst {
		if a := post(t, url, l.ask(t, int64(i), int64(i+1))); a.status != http.StatusOK {
			t.Fatalf("checkpoint %d: %+v", i, a)
		}
	}
	if a := post(t, url, l.ask(t, logBurst, logBurst+1)); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") != "1" {
		t.Errorf("beyond the log's allowance: %+v", a)
	}
	forged := newLog(t, l.origin)
	for range 100 - logBurst - 1 { // what isn't the log's takes nothing from its allowance, and counts as the address's
		if a := post(t, url, forged.ask(t, 0, 0)); a.status != http.StatusForbidden {
			t.Errorf("another key: %+v", a)
		}
	}
	if a := post(t, url, forged.ask(t, 0, 0)); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") != "1" {
		t.Errorf("beyond the address's allowance: %+v", a)
	}
	mu.Lock()
	now = now.Add(2 * time.Second)
	mu.Unlock()
	if a := post(t, url, l.ask(t, logBurst, logBurst+1)); a.status != http.StatusOK {
		t.Errorf("two seconds later: %+v", a)
	}
}

// Checkpoints are public: whoever sends again what a log has published takes nothing from the log's allowance, makes the witness write no more than once a second, and raises no alarm.
func TestReplaysTakeNothing(t *testing.T) {
	l := newLog(t, "log.example/one")
	l.grow(t, 100, "entry")
	cfg := newConfig(t, l)
	cfg.Logs[0].PerDay = 24 * 60 * 60 // one a second
	var later, writes atomic.Int64
	start := time.Now()
	cfg.Clock = func() time.Time { return start.Add(time.Duration(later.Load())) }
	cfg.at = func() { writes.Add(1) }
	w, url := open(t, cfg)
	for _, size := range []int64{1, 2} {
		if a := post(t, url, l.ask(t, size-1, size)); a.status != http.StatusOK {
			t.Fatalf("%+v", a)
		}
	}
	for i := range 200 {
		if a := post(t, url, l.ask(t, 1, 1)); a.status != http.StatusConflict || a.body != "2\n" {
			t.Fatalf("an old one, the %dth time: %+v", i, a)
		}
		if a := post(t, url, l.ask(t, 1, 50)); a.status != http.StatusConflict || a.body != "2\n" {
			t.Fatalf("a new one that isn't shown to extend, the %dth time: %+v", i, a)
		}
		a := post(t, url, l.ask(t, 2, 2))
		if a.status != http.StatusOK {
			t.Fatalf("the newest, the %dth time: %+v", i, a)
		}
		verifyCosignature(t, w.VKey(), l.checkpoint(t, 2), a.body)
	}
	if n := writes.Load(); n != 3 { // once again, and then as it was
		t.Errorf("%d writes", n)
	}
	later.Add(int64(time.Second))
	if a := post(t, url, l.ask(t, 2, 2)); a.status != http.StatusOK || writes.Load() != 4 {
		t.Errorf("after a second: %+v, %d writes", a, writes.Load())
	}
	// The same with a proof is against the protocol, and shows nothing about the log.
	later.Add(int64(time.Second))
	bad := strings.Replace(l.ask(t, 2, 2), "old 2\n", "old 2\n"+strings.Repeat("A", 43)+"=\n", 1)
	if a := post(t, url, bad); a.status != http.StatusUnprocessableEntity {
		t.Errorf("with a proof: %+v", a)
	}
	rec := httptest.NewRecorder()
	w.Ops().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(rec.Body.String(), "regard_witness_refused_total{log=\"log.example/one\"} 0\n") {
		t.Errorf("an alarm:\n%s", rec.Body)
	}
	for i := int64(2); i < logBurst; i++ {
		if a := post(t, url, l.ask(t, i, i+1)); a.status != http.StatusOK {
			t.Fatalf("the log's own, %d: %+v", i, a)
		}
	}
}

func TestClients(t *testing.T) {
	var c clients
	c.init(1, 2)
	now := time.Now()
	take := func(addr string, n int) (ok int) {
		for range n {
			if c.allow(now, addr) {
				ok++
			}
		}
		return ok
	}
	if take("192.0.2.1:1", 3) != 2 || take("192.0.2.2:1", 3) != 2 || take("[::ffff:192.0.2.1]:9", 1) != 0 {
		t.Error("IPv4 addresses don't have one allowance each")
	}
	if take("[2001:db8::1]:1", 2) != 2 || take("[2001:db8::ffff:2]:1", 1) != 0 || take("[2001:db8:0:1::1]:1", 1) != 1 {
		t.Error("IPv6 addresses don't have one allowance for each /64")
	}
	for i := range 3 * maxClients {
		c.allow(now, fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255))
	}
	if len(c.seen) > maxClients {
		t.Errorf("%d addresses are remembered", len(c.seen))
	}
}

// A log whose checkpoints fork, or a signature that is the log's and proves nothing, is evidence: it is in the witness's own log, with both checkpoints.
func TestEvidenceIsLogged(t *testing.T) {
	l := newLog(t, "log.example/one")
	l.grow(t, 5, "entry")
	cfg := newConfig(t, l)
	var out bytes.Buffer
	cfg.Logger = slog.New(slog.NewJSONHandler(&out, nil))
	w, url := open(t, cfg)
	if a := post(t, url, l.ask(t, 0, 4)); a.status != http.StatusOK {
		t.Fatalf("%+v", a)
	}
	fork := l.fork(t, 2)
	fork.grow(t, 4, "fork")
	if a := post(t, url, fork.ask(t, 4, 4)); a.status != http.StatusUnprocessableEntity {
		t.Fatalf("%+v", a)
	}
	for _, root := range []string{l.root(t, 4).String(), fork.root(t, 4).String()} {
		if !strings.Contains(out.String(), root) {
			t.Errorf("the log lacks %s:\n%s", root, &out)
		}
	}
	ops := httptest.NewServer(w.Ops())
	defer ops.Close()
	for path, want := range map[string]string{"/healthz": "ok\n", "/metrics": `regard_witness_refused_total{log="log.example/one"} 1`} {
		res, err := http.Get(ops.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		_, _ = b.ReadFrom(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusOK || !strings.Contains(b.String(), want) {
			t.Errorf("%s: %d %s", path, res.StatusCode, &b)
		}
	}
}

// Many requests at once: one of each size wins, and never two roots of one.
func TestConcurrentForks(t *testing.T) {
	l := newLog(t, "log.example/one")
	l.grow(t, 12, "entry")
	fork := l.fork(t, 3)
	fork.grow(t, 12, "fork")
	_, url := open(t, newConfig(t, l))
	if a := post(t, url, l.ask(t, 0, 3)); a.status != http.StatusOK {
		t.Fatalf("%+v", a)
	}
	var wg sync.WaitGroup
	won := make(chan *somebodysLog, 64)
	for i := range 32 {
		wg.Go(func() {
			side := []*somebodysLog{l, fork}[i%2]
			switch a := post(t, url, side.ask(t, 3, 4)); a.status {
			case http.StatusOK:
				won <- side
			case http.StatusConflict, http.StatusTooManyRequests:
			default:
				t.Errorf("%+v", a)
			}
		})
	}
	wg.Wait()
	close(won)
	if len(won) != 1 {
		t.Errorf("%d requests for the growth from 3 to 4 were cosigned", len(won))
	}
}

func FuzzParseRequest(f *testing.F) {
	l := newLog(f, "log.example/one")
	l.grow(f, 20, "entry")
	f.Add([]byte(l.ask(f, 0, 5)))
	f.Add([]byte(l.ask(f, 7, 20)))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := parseRequest(in)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatal(err)
			}
			return
		}
		out := fmt.Appendf(nil, "old %d\n", r.old)
		for _, h := range r.proof {
			out = fmt.Appendf(out, "%s\n", encodeHash(h[:]))
		}
		out = append(append(out, '\n'), r.note...)
		if !bytes.Equal(in, out) || len(r.proof) > maxProof || r.old > r.head.size {
			t.Fatalf("%q parsed to %+v", in, r)
		}
	})
}

package clustertest

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/client"
	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

const (
	// askers go from broker to broker, as behind a balancer. One more for each broker asks that one alone.
	askers = 4
	// pause between two requests of one asker: the load is steady and small, so that what a test sees is the fault and not the machine.
	pause = 30 * time.Millisecond
	// attempt is how long an agency waits for an answer before it comes again.
	attempt = 15 * time.Second
)

// load is agencies that ask all brokers all the time, each about one person after the other. What wasn't answered is asked again, of the next broker, with the same Idempotency-Key.
type load struct {
	w       *world
	clients [][]*client.Client // by asker and broker
	next    atomic.Int64
	paused  atomic.Bool  // nobody begins a new request
	busy    atomic.Int64 // requests without an end

	mu       sync.Mutex
	done     []answered
	seen     map[uint64][]byte // checkpoints, by size
	problems map[string]int    // that agencies were told, by code
	refused  int               // connections: nobody listens
	cut      int               // connections that ended without an answer
	late     int               // attempts without an answer in time
	slowest  time.Duration     // of all requests
}

// answered is a request that came to its end.
type answered struct {
	broker int
	began  time.Time // of the attempt that was answered
	ended  time.Time
	id     string
	repeat bool
	index  proof.Index
	text   []byte // of the entry
}

func newLoad(w *world, roots *x509.CertPool) *load {
	l := &load{w: w, seen: map[uint64][]byte{}, problems: map[string]int{}}
	l.clients = make([][]*client.Client, askers+len(w.brokers))
	for i := range l.clients {
		for _, m := range w.brokers {
			c, err := client.New(client.Config{URL: "https://" + m.config.Listen, Certificate: w.agency, Roots: roots, Policy: w.policy, Attempts: 1})
			if err != nil {
				w.t.Fatal(err)
			}
			l.clients[i] = append(l.clients[i], c)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	// The registry of the others follows the first one's within a second.
	for i := range w.brokers {
		ledgertest.Await(w.t, "the registry at every broker", func() bool {
			a, err := l.one(ctx, 0, i, fmt.Sprintf("erste-%d-%d", i, time.Now().UnixNano()), "ERSTE")
			if err == nil {
				l.keep(a)
			}
			return err == nil
		})
	}
	for i := range l.clients {
		wg.Go(func() { l.ask(ctx, i) })
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			l.look()
			time.Sleep(50 * time.Millisecond)
		}
	})
	w.t.Cleanup(func() { stop(); wg.Wait() })
	return l
}

// ask asks for ever.
func (l *load) ask(ctx context.Context, asker int) {
	for turn := asker; ctx.Err() == nil; turn++ {
		l.busy.Add(1)
		if l.paused.Load() {
			l.busy.Add(-1)
			time.Sleep(pause)
			continue
		}
		n := l.next.Add(1)
		began := time.Now()
		for try := 0; ctx.Err() == nil; try++ {
			broker := (turn + try) % len(l.w.brokers)
			if asker >= askers {
				broker = asker - askers
			}
			a, err := l.one(ctx, asker, broker, fmt.Sprintf("schluessel-%d", n), "FALL "+letters(n))
			if err == nil {
				l.keep(a)
				break
			}
			wait := l.judge(ctx, err)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		l.mu.Lock()
		l.slowest = max(l.slowest, time.Since(began))
		l.mu.Unlock()
		l.busy.Add(-1)
		time.Sleep(pause)
	}
}

// one makes one attempt.
func (l *load) one(ctx context.Context, asker, broker int, key, name string) (*answered, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"service": "quotient", "scopes": []string{"quotient"}, "purpose": "cantine", "legal_basis": "crpa-l114-8", "recipient": siret, "context": "Inscription", "object": key, "official": "agent-7",
		"subject": map[string]any{"type": "pivot", "birth_name": name, "given_names": []string{"ZOE"}, "birth_date": "1984-02-29", "sex": "F", "birth_place": "75056", "birth_country": "99100"},
	})
	if err != nil {
		return nil, err
	}
	began := time.Now()
	res, err := l.clients[asker][broker].Disclose(ctx, body, key)
	if err != nil {
		return nil, err
	}
	receipt, err := proof.ParseReceipt(res.Receipt)
	if err != nil {
		return nil, err
	}
	switch {
	case res.Problem != nil && res.Problem.Status == 503 && res.Problem.Code == "interrupted":
	case res.Problem != nil:
		l.w.t.Errorf("request %s was recorded as %s: %v", key, res.Outcome, res.Problem)
	case string(res.Data) != fmt.Sprintf(`{"data":{"valeur":%d}}`, value(name)) && !(res.Repeated && res.Data == nil):
		l.w.t.Errorf("request %s got %q", key, res.Data)
	}
	l.saw(receipt.Checkpoint())
	return &answered{broker, began, time.Now(), res.ID, res.Repeated, receipt.Index(), receipt.EntryText()}, nil
}

// judge takes an error that an agency may be told, and says how long it waits. Any other one fails the test.
func (l *load) judge(ctx context.Context, err error) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var p *client.Problem
	switch {
	case ctx.Err() != nil:
	case errors.As(err, &p):
		l.problems[fmt.Sprintf("%d %s", p.Status, p.Code)]++
		if p.RetryAfter() <= 0 || p.Status != 503 && p.Status != 409 && p.Status != 429 {
			l.w.t.Errorf("an agency was told: %v", err)
		}
		return min(p.RetryAfter(), time.Second)
	case errors.Is(err, client.ErrReceipt):
		l.w.t.Errorf("an agency got a receipt that isn't one: %v", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		l.refused++
	case errors.Is(err, context.DeadlineExceeded):
		l.late++
	default:
		l.cut++
		if len(l.problems) < 50 {
			l.problems[err.Error()]++
		}
	}
	return 20 * time.Millisecond
}

func (l *load) keep(a *answered) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = append(l.done, *a)
}

// saw keeps a checkpoint that somebody got.
func (l *load) saw(note []byte) {
	cp, err := proof.VerifyCheckpoint(note, l.w.policy)
	if err != nil {
		l.w.t.Errorf("a checkpoint that the log didn't sign: %v\n%s", err, note)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.seen[cp.Size()]; ok {
		if was, err := proof.VerifyCheckpoint(old, l.w.policy); err != nil || was.Root() != cp.Root() {
			l.w.t.Errorf("two checkpoints of size %d: the log was forked\n%s\n%s", cp.Size(), old, note)
		}
	}
	l.seen[cp.Size()] = note
}

// look reads the published checkpoint, as anybody does.
func (l *load) look() (proof.Checkpoint, bool) {
	note, err := os.ReadFile(filepath.Join(l.w.public, "checkpoint"))
	if err != nil {
		return proof.Checkpoint{}, false
	}
	l.saw(note)
	cp, err := proof.VerifyCheckpoint(note, l.w.policy)
	return cp, err == nil
}

// since says how many requests that began after an instant each broker answered, and how long after it the first one was. What is repeated from an earlier answer doesn't count.
func (l *load) since(t time.Time) (each []int, first time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	each = make([]int, len(l.w.brokers))
	for i := range l.done {
		a := &l.done[i]
		if a.began.Before(t) || a.repeat {
			continue
		}
		each[a.broker]++
		if d := a.ended.Sub(t); first == 0 || d < first {
			first = d
		}
	}
	return each, first
}

// flowing waits until every broker has answered so many requests that began after an instant, and returns how long after it the first one was, and this was so.
func (l *load) flowing(t testing.TB, since time.Time, n int) (first, all time.Duration) {
	t.Helper()
	ledgertest.Await(t, "all brokers to answer", func() bool {
		if t.Failed() || l.w.t.Failed() {
			t.FailNow()
		}
		var each []int
		each, first = l.since(since)
		return slices.Min(each) >= n
	})
	return first, time.Since(since)
}

// pause keeps agencies from new requests, and waits until those that were begun have come to their end.
func (l *load) pause(t testing.TB) {
	t.Helper()
	l.paused.Store(true)
	for deadline := time.Now().Add(2 * patience); l.busy.Load() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.mu.Lock()
			defer l.mu.Unlock()
			t.Fatalf("some requests come to no end; agencies were told %v", l.problems)
		}
	}
}

// ends is how many requests came to their end.
func (l *load) ends() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.done)
}

// counts are what agencies met until now.
type counts struct {
	refused, cut, late int
}

func (l *load) counts() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return counts{l.refused, l.cut, l.late}
}

// told is what problems agencies were told since the last check.
func (l *load) told() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.problems)
}

// fault is something that happens while agencies ask.
type fault struct {
	hit  func()
	heal func() // nil: it ends by itself
	// orderly: no connection may end without an answer, no agency waits in vain for one, and none is told anything but to come again (503).
	orderly bool
	// unnoticed: no agency may be told of a problem either.
	unnoticed bool
}

// survive lets a fault happen, waits until all brokers answer again, and checks everything.
func (w *world) survive(t *testing.T, f fault) {
	t.Helper()
	w.load.flowing(t, time.Now(), 5)
	before := w.load.counts()
	hit := time.Now()
	f.hit()
	healed := hit
	if f.heal != nil {
		f.heal()
		healed = time.Now()
	}
	first, all := w.load.flowing(t, hit, 3)
	if f.heal != nil {
		if _, all = w.load.flowing(t, healed, 3); all > patience {
			t.Errorf("all brokers answered %v after it was over", all)
		}
	}
	after := w.load.counts()
	if f.orderly && (after.cut != before.cut || after.late != before.late) {
		t.Errorf("%d connections ended without an answer, %d agencies waited in vain", after.cut-before.cut, after.late-before.late)
	}
	for code := range w.load.told() {
		if f.orderly && !strings.HasPrefix(code, "503 ") {
			t.Errorf("agencies were told %v", w.load.told())
		}
	}
	if f.unnoticed && len(w.load.told()) > 0 {
		t.Errorf("agencies were told %v", w.load.told())
	}
	t.Logf("served again after %v, by all brokers %v after it was over (it lasted %v); connections refused %d, cut %d, too late %d", first.Round(10*time.Millisecond), all.Round(10*time.Millisecond),
		healed.Sub(hit).Round(10*time.Millisecond), after.refused-before.refused, after.cut-before.cut, after.late-before.late)
	w.check(t)
}

// check lets all requests come to their end, and compares what the provider, the agencies and the published log know.
func (w *world) check(t testing.TB) {
	t.Helper()
	l := w.load
	began := time.Now()
	l.pause(t)
	defer l.paused.Store(false)
	drained := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.Failed() || w.t.Failed() {
		t.FailNow()
	}
	places := map[proof.Index]string{}
	owners := map[string]bool{}
	var last proof.Index
	for i := range l.done {
		a := &l.done[i]
		if other, taken := places[a.index]; taken {
			t.Errorf("the receipts of %s and %s are of the same entry", other, a.id)
		}
		if owners[a.id] {
			t.Errorf("two requests are disclosure %s", a.id)
		}
		places[a.index], owners[a.id] = a.id, true
		last = max(last, a.index)
	}
	w.provider.mu.Lock()
	for id, n := range w.provider.asked {
		if n != 1 || !owners[id] {
			t.Errorf("disclosure %s reached the provider %d times, and has a receipt: %v", id, n, owners[id])
		}
	}
	asked := len(w.provider.asked)
	w.provider.mu.Unlock()
	l.mu.Unlock()
	var cp proof.Checkpoint
	ledgertest.Await(t, "the last entry to be published", func() bool {
		now, ok := l.look()
		cp = now
		return ok && now.Size() > uint64(last)
	})
	l.mu.Lock()
	tree := tiles.Tree{Dir: w.public, Size: cp.Size(), Root: cp.Root()}
	for i := range l.done {
		a := &l.done[i]
		if text, err := tree.Entry(uint64(a.index)); err != nil || string(text) != string(a.text) {
			t.Errorf("the entry of disclosure %s isn't published at log index %d: %v", a.id, a.index, err)
		}
	}
	var earlier [][]byte
	for _, note := range l.seen {
		earlier = append(earlier, note)
	}
	source, err := reader.Dir(w.public)
	if err != nil {
		t.Fatal(err)
	}
	report, err := fsck.Check(t.Context(), fsck.Config{Source: source, Policy: w.policy, AllowProvisional: true, Earlier: earlier})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Complete || report.Faults > 0 {
		t.Errorf("the published log: %+v", report)
	}
	if got := report.Kinds[proof.KindDisclosure]; got != uint64(len(l.done)) {
		t.Errorf("the log has %d disclosures, agencies have receipts of %d", got, len(l.done))
	}
	t.Logf("%d answers, %d questions at the provider, %d entries, %d checkpoints are one history; the last requests ended after %v, the slowest one took %v; agencies were told %v", len(l.done), asked, report.Size,
		len(earlier), drained.Round(time.Millisecond), l.slowest.Round(time.Millisecond), l.problems)
	l.slowest, l.problems = 0, map[string]int{}
}

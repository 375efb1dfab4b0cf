package cosign_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/cosign"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// Four witnesses cosign what the log publishes, and all of them in the end, though three are enough.
func TestAllCosign(t *testing.T) {
	e := newEnv(t)
	var ws []*one
	for i := range 4 {
		ws = append(ws, newOne(t, fmt.Sprintf("w%d", i), e.VKey))
	}
	e.collect(t, policyText(3, ws...), nil)
	l := e.openLog()
	for range 3 {
		last := e.add(t, l, 40)
		if cp := witnessed(t, l, last); len(cp.Witnesses()) < 3 {
			t.Errorf("witnessed by %v", cp.Witnesses())
		}
	}
	ledgertest.Await(t, "the fourth", func() bool { cp, _ := l.Published(); return len(cp.Witnesses()) == 4 })
	for _, s := range e.c.Stats() {
		if s.Cosigned == 0 || s.Failing || len(s.Failed) != 0 || s.Size != l.Checkpoint().Size() || time.Since(s.At).Abs() > time.Minute || s.Took <= 0 {
			t.Errorf("%+v", s)
		}
	}
	if l.Metrics().PublishErrors != 0 || strings.Contains(e.logs.String(), "level=ERROR") {
		t.Errorf("%s", e.logs)
	}
}

// A witness that does anything but what it should neither delays the others nor gets anything into the checkpoint, and it is told what it did.
func TestBadWitness(t *testing.T) {
	stranger := newOne(t, "stranger", newEnv(t).VKey)
	for name, c := range map[string]struct {
		answer func(self *one, e *env) http.HandlerFunc
		kind   cosign.Failure
	}{
		"dead": {func(*one, *env) http.HandlerFunc { return dead }, cosign.Unreachable},
		"slow": {func(*one, *env) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				select {
				case <-r.Context().Done():
				case <-time.After(time.Minute):
				}
			}
		}, cosign.Late},
		"a body that drips": {func(*one, *env) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				for r.Context().Err() == nil {
					_, _ = rw.Write([]byte{' '})
					_ = http.NewResponseController(rw).Flush()
					time.Sleep(20 * time.Millisecond)
				}
			}
		}, cosign.Late},
		"a huge body": {func(*one, *env) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) {
				for range 200 {
					_, _ = rw.Write(bytes.Repeat([]byte("—"), 1<<10))
				}
			}
		}, cosign.Invalid},
		"garbage": {func(*one, *env) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("<html>\n")) }
		}, cosign.Invalid},
		"nothing": {func(*one, *env) http.HandlerFunc { return func(http.ResponseWriter, *http.Request) {} }, cosign.Invalid},
		"another witness's key": {func(*one, *env) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) { cosignWith(rw, r, stranger.cfg.Key, "") }
		}, cosign.Invalid},
		"another checkpoint": {func(self *one, _ *env) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				cosignWith(rw, r, self.cfg.Key, ledgertest.Origin+"\n1\n"+proof.Hash{1}.String()+"\n")
			}
		}, cosign.Invalid},
		"elsewhere": {func(_ *one, _ *env) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
			}
		}, cosign.Refused},
		"another size each time": {func(*one, *env) http.HandlerFunc {
			n := 0
			return func(rw http.ResponseWriter, _ *http.Request) { n++; conflict(rw, fmt.Sprintf("%d\n", n%2)) }
		}, cosign.Invalid},
		"409 without a size": {func(*one, *env) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) { conflict(rw, "many\n") }
		}, cosign.Invalid},
		"409, 10 digits too many": {func(*one, *env) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) { conflict(rw, "9223372036854775808\n") }
		}, cosign.Invalid},
		"it saw more": {func(*one, *env) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) { conflict(rw, "1000000\n") }
		}, cosign.Conflict},
		"a bad proof":    {status(422), cosign.Conflict},
		"another root":   {status(409), cosign.Conflict},
		"unknown log":    {status(404), cosign.UnknownLog},
		"unknown key":    {status(403), cosign.UnknownKey},
		"too often":      {status(429), cosign.Busy},
		"out of service": {status(503), cosign.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			bad := newOne(t, "bad", e.VKey)
			good := []*one{newOne(t, "a", e.VKey), newOne(t, "b", e.VKey), newOne(t, "c", e.VKey)}
			bad.answer(c.answer(bad, e))
			// Long enough that a machine under load isn't taken for one that waits.
			e.collect(t, policyText(3, append(good, bad)...), func(c *cosign.Config) { c.Deadline, c.Timeout = 8*time.Second, 9*time.Second })
			l := e.openLog()
			start := time.Now()
			for range 3 {
				cp := witnessed(t, l, e.add(t, l, 3))
				if len(cp.Witnesses()) != 3 || len(cp.Unverified()) != 0 {
					t.Errorf("witnessed by %v, with %v", cp.Witnesses(), cp.Unverified())
				}
			}
			if took := time.Since(start); took > e.cfg.Deadline {
				t.Errorf("three publications took %v, so they waited for the bad one", took)
			}
			ledgertest.Await(t, "the failure to be counted", func() bool { return e.c.Stats()[3].Failed[c.kind] > 0 })
			s := e.c.Stats()[3]
			if s.Cosigned != 0 || !s.Failing || s.Reason == "" || len(s.Failed) != 1 {
				t.Errorf("%+v", s)
			}
			if !strings.Contains(e.logs.String(), "witness=bad") {
				t.Errorf("the operator isn't told:\n%s", e.logs)
			}
			if err := l.Err(); err != nil {
				t.Errorf("one witness halted the log: %v", err)
			}
			// It comes to its senses.
			bad.answer(nil)
			last := e.add(t, l, 1)
			ledgertest.Await(t, "it to cosign", func() bool { cp, _ := l.Published(); return uint64(last) < cp.Size() && len(cp.Witnesses()) == 4 })
			if s := e.c.Stats()[3]; s.Failing || s.Reason != "" || s.Cosigned == 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func status(code int) func(*one, *env) http.HandlerFunc {
	return func(*one, *env) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(code) }
	}
}

func conflict(rw http.ResponseWriter, body string) {
	rw.Header().Set("Content-Type", "text/x.tlog.size")
	rw.WriteHeader(http.StatusConflict)
	_, _ = io.WriteString(rw, body)
}

// A quorum that gets lost is no error: what there is is published at once, services that wait are told by the metrics, and when a witness is back, it is brought up to date and the published checkpoint is witnessed, without a new entry.
func TestQuorumLostAndCaughtUp(t *testing.T) {
	e := newEnv(t)
	ws := []*one{newOne(t, "a", e.VKey), newOne(t, "b", e.VKey), newOne(t, "c", e.VKey)}
	e.collect(t, policyText(2, ws...), func(c *cosign.Config) { c.Deadline, c.Timeout = 20*time.Second, 30*time.Second }) // nothing here waits for them
	l := e.openLog()
	witnessed(t, l, e.add(t, l, 5))
	ws[0].answer(dead)
	witnessed(t, l, e.add(t, l, 5))
	at := ws[1].size(t)
	ws[1].answer(dead)
	last := e.add(t, l, 300)
	ledgertest.Await(t, "a publication without the quorum", func() bool { cp, _ := l.Published(); return uint64(last) < cp.Size() && l.QuorumMissing() > 0 })
	ledgertest.Await(t, "the operator to be told", func() bool { return strings.Contains(e.logs.String(), "without the quorum") })
	// With most witnesses known to be down nobody waits for the deadline.
	start := time.Now()
	for range 3 {
		e.add(t, l, 1)
		e.Wait(l)
	}
	if took := time.Since(start); took > e.cfg.Deadline {
		t.Errorf("three publications took %v: they waited for those who are down", took)
	}
	if ws[1].size(t) != at {
		t.Fatal("a dead witness grew")
	}
	ws[1].answer(nil)
	if cp := witnessed(t, l, last); cp.Size() != l.Checkpoint().Size() || len(cp.Witnesses()) != 2 {
		t.Errorf("witnessed at %d of %d by %v", cp.Size(), l.Checkpoint().Size(), cp.Witnesses())
	}
	if ws[1].size(t) != l.Checkpoint().Size() {
		t.Error("it wasn't brought up to date")
	}
	ledgertest.Await(t, "the operator to be told", func() bool { return strings.Contains(e.logs.String(), "there again") })
	if m := l.Metrics(); m.PublishErrors != 0 || m.QuorumMissing != 0 {
		t.Errorf("%+v", m)
	}
}

// Cosign waits once for a checkpoint, and not at all where waiting is in vain.
func TestDeadline(t *testing.T) {
	e := newEnv(t)
	hang := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() }
	ws := []*one{newOne(t, "a", e.VKey), newOne(t, "b", e.VKey)}
	ws[0].answer(hang)
	e.collect(t, policyText(2, ws...), func(c *cosign.Config) { c.Deadline, c.Timeout = 3*time.Second, time.Minute })
	n := e.sign(t, 0, proof.Hash{})
	begin := time.Now()
	out, err := e.c.Cosign(t.Context(), n)
	if took := time.Since(begin); err != nil || took < e.cfg.Deadline || took > 30*time.Second || bytes.Count(out, []byte("\n— ")) != 2 {
		t.Errorf("first: %v in %v\n%s", err, took, out)
	}
	begin = time.Now()
	if again, err := e.c.Cosign(t.Context(), out); err != nil || !bytes.Equal(again, out) || time.Since(begin) >= e.cfg.Deadline {
		t.Errorf("second: %v in %v", err, time.Since(begin))
	}
	if _, err := e.c.Cosign(t.Context(), []byte("no checkpoint\n")); err == nil {
		t.Error("cosigned no checkpoint")
	}
}

// sign signs a checkpoint of the log, also one that it shouldn't.
func (e *env) sign(t testing.TB, size uint64, root proof.Hash) []byte {
	t.Helper()
	if size == 0 {
		root = proof.Hash(rfc6962.DefaultHasher.EmptyRoot())
	}
	n, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", ledgertest.Origin, size, root)}, e.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A second broker signs for the same log: its witnesses saw more than this one has. One of them may be lying; when more say so than may be dishonest, the log halts.
func TestWitnessesSawMore(t *testing.T) {
	e := newEnv(t)
	ws := []*one{newOne(t, "a", e.VKey), newOne(t, "b", e.VKey), newOne(t, "c", e.VKey), newOne(t, "d", e.VKey)}
	e.collect(t, policyText(3, ws...), nil)
	l := e.openLog()
	witnessed(t, l, e.add(t, l, 3))
	other := func(w *one) {
		t.Helper()
		_, err := http.Post(w.srv.URL+"/add-checkpoint", "", strings.NewReader(fmt.Sprintf("old %d\n\n%s", w.size(t), e.sign(t, w.size(t), proof.Hash{1}))))
		if err != nil {
			t.Fatal(err)
		}
		w.answer(func(rw http.ResponseWriter, _ *http.Request) { conflict(rw, "5000\n") })
	}
	other(ws[0])
	last := e.add(t, l, 3)
	witnessed(t, l, last)
	ledgertest.Await(t, "the alarm", func() bool { return strings.Contains(e.logs.String(), "A WITNESS SAYS THAT IT SAW ANOTHER HISTORY") })
	if l.Err() != nil {
		t.Fatalf("halted on the word of one: %v", l.Err())
	}
	other(ws[1])
	for l.Err() == nil {
		g, _ := ledgertest.Disclosure(ledgertest.Person(1))
		if _, err := l.Append(t.Context(), g); err != nil && !errors.Is(err, ledger.ErrHalted) {
			t.Fatal(err)
		}
	}
	if err := l.Err(); !errors.Is(err, ledger.ErrHalted) || !strings.Contains(err.Error(), "a: it says") || !strings.Contains(err.Error(), "b: it says") {
		t.Errorf("halted by %v", err)
	}
}

// Another broker of the same log led meanwhile, and had it cosigned further: what a witness says of that is no contradiction of what goes as far.
func TestCosignedMeanwhile(t *testing.T) {
	e := newEnv(t)
	ws := []*one{newOne(t, "a", e.VKey), newOne(t, "b", e.VKey)}
	e.collect(t, policyText(2, ws...), func(c *cosign.Config) { c.Faulty, c.MinPause, c.MaxPause = 0, time.Hour, time.Hour }) // whoever fails is asked once
	l := e.OpenWith(e.Config())
	grown := func(n int) []byte {
		t.Helper()
		cp, err := l.AwaitPublished(t.Context(), e.add(t, l, n))
		if err != nil {
			t.Fatal(err)
		}
		return cp.Note()
	}
	before := grown(1)
	ws[0].answer(func(rw http.ResponseWriter, _ *http.Request) {
		conflict(rw, fmt.Sprintf("%d\n", l.Checkpoint().Size()+1))
	})
	if _, err := e.c.Cosign(t.Context(), before); !errors.Is(err, ledger.ErrHalted) {
		t.Fatalf("a witness that saw more than there is: %v", err)
	}
	if _, err := e.c.Cosign(t.Context(), grown(1)); err != nil {
		t.Errorf("as much as it saw: %v", err)
	}
}

// A broker that doesn't lead any more asks no witness, and takes nothing from one that it had asked; when it leads again, it does.
func TestRestsUnlessItLeads(t *testing.T) {
	e := newEnv(t)
	w := newOne(t, "a", e.VKey)
	var leads atomic.Bool
	leads.Store(true)
	e.collect(t, policyText(1, w), func(c *cosign.Config) { c.Faulty, c.Leads, c.Timeout = 0, leads.Load, time.Minute })
	l := e.openLog()
	size := witnessed(t, l, e.add(t, l, 3)).Size()
	asked, answer := make(chan struct{}), make(chan struct{})
	var n atomic.Int64
	w.answer(func(rw http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 1 {
			close(asked)
			<-answer
		}
		conflict(rw, fmt.Sprintf("%d\n", size+100))
	})
	e.add(t, l, 1)
	<-asked
	leads.Store(false)
	close(answer)
	// Nor is it asked for what comes now.
	if _, err := l.AwaitPublished(t.Context(), e.add(t, l, 1)); err != nil {
		t.Fatal(err)
	}
	if n := n.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if s := e.c.Stats()[0]; s.Failed[cosign.Conflict] != 0 || s.Failing || strings.Contains(e.logs.String(), "ANOTHER HISTORY") {
		t.Errorf("%+v\n%s", s, e.logs)
	}
	w.answer(nil)
	leads.Store(true)
	witnessed(t, l, e.add(t, l, 1))
}

// Whoever asks hears from each witness where it saw the log stand.
func TestAsk(t *testing.T) {
	e := newEnv(t)
	ws := []*one{newOne(t, "same", e.VKey), newOne(t, "behind", e.VKey), newOne(t, "new", e.VKey), newOne(t, "down", e.VKey), newOne(t, "stranger"), newOne(t, "liar", e.VKey)}
	e.collect(t, policyText(1, ws[:2]...), nil)
	l := e.openLog()
	e.add(t, l, 5)
	behind := l.Checkpoint().Size()
	ledgertest.Await(t, "both", func() bool { return ws[0].size(t) == behind && ws[1].size(t) == behind })
	ws[1].answer(dead)
	e.add(t, l, 5)
	last := l.Checkpoint()
	ledgertest.Await(t, "one", func() bool { return ws[0].size(t) == last.Size() })
	e.Close(l)
	e.c.Close()
	ws[1].answer(nil)
	ws[3].answer(dead)
	ws[5].answer(func(rw http.ResponseWriter, r *http.Request) { cosignWith(rw, r, ws[0].cfg.Key, "") })
	e.collect(t, policyText(6, ws...), nil)
	seen := e.c.Ask(t.Context(), last)
	for i, want := range []struct {
		size uint64
		err  bool
	}{{last.Size(), false}, {behind, false}, {0, false}, {0, true}, {0, true}, {0, true}} {
		s := seen[i]
		if s.Name != ws[i].name || (s.Err != nil) != want.err || s.Contradicts || !want.err && s.Size != want.size {
			t.Errorf("%+v, want %+v", s, want)
		}
	}
	// An older copy of the log: those who saw more say so; where it stood at their size with another root, they contradict.
	old, err := proof.VerifyCheckpoint(e.sign(t, 2, proof.Hash{2}), e.Policy)
	if err != nil {
		t.Fatal(err)
	}
	if seen := e.c.Ask(t.Context(), old); seen[0].Err != nil || seen[0].Size != last.Size() || seen[1].Size != behind {
		t.Errorf("%+v", seen)
	}
	fork, err := proof.VerifyCheckpoint(e.sign(t, last.Size(), proof.Hash{2}), e.Policy)
	if err != nil {
		t.Fatal(err)
	}
	if seen := e.c.Ask(t.Context(), fork); !seen[0].Contradicts || seen[0].Err == nil || seen[1].Contradicts {
		t.Errorf("%+v", seen)
	}
}

// Once enough others answered, who says nothing isn't waited for, and who is a little slower still counts.
func TestAskUntil(t *testing.T) {
	e := newEnv(t)
	ws := []*one{newOne(t, "quick", e.VKey), newOne(t, "slower", e.VKey), newOne(t, "silent", e.VKey)}
	e.collect(t, policyText(1, ws[0]), nil)
	l := e.openLog()
	e.add(t, l, 5)
	last := l.Checkpoint()
	ledgertest.Await(t, "the quick one", func() bool { return ws[0].size(t) == last.Size() })
	e.Close(l)
	e.c.Close()
	rest, asked := make(chan struct{}), make(chan struct{})
	ws[1].answer(func(rw http.ResponseWriter, _ *http.Request) { <-rest; conflict(rw, "3\n") })
	ws[2].answer(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	e.collect(t, policyText(1, ws...), func(c *cosign.Config) { c.Timeout = time.Hour })
	var once sync.Once
	enough := func(seen []cosign.Seen) bool {
		if seen[0].Err == nil {
			once.Do(func() { <-asked; close(rest) })
		}
		return seen[0].Err == nil && seen[1].Err == nil
	}
	seen := e.c.AskUntil(t.Context(), last, enough, time.Millisecond)
	if seen[0].Size != last.Size() || seen[1].Size != 3 || seen[1].Err != nil || seen[2].Err == nil || !strings.Contains(seen[2].Err.Error(), "isn't waited for") {
		t.Errorf("%+v", seen)
	}
	ws[1].answer(nil)
	ws[2].answer(nil)
	if seen := e.c.AskUntil(t.Context(), last, func([]cosign.Seen) bool { return true }, time.Minute); seen[0].Err != nil || seen[1].Err != nil || seen[2].Err != nil {
		t.Errorf("nobody is left the time to answer: %+v", seen)
	}
}

func TestNewRefuses(t *testing.T) {
	e := newEnv(t)
	w := newOne(t, "w", e.VKey)
	for name, text := range map[string]string{
		"no URL":        "witness w " + w.vkey + "\nquorum w\n",
		"no TLS":        "witness w " + w.vkey + " http://w.example\nquorum w\n",
		"a query":       "witness w " + w.vkey + " https://w.example/?x=y\nquorum w\n",
		"no URL at all": "witness w " + w.vkey + " w.example\nquorum w\n",
		"no quorum":     "witness w " + w.vkey + " https://w.example\nquorum none\n",
	} {
		p, err := proof.ParseWitnesses([]byte(text), e.VKey)
		if err != nil {
			t.Fatal(err)
		}
		c := cosign.Config{Witnesses: p, Policy: func(context.Context) (*proof.Policy, error) { return p, nil }, Prove: func(proof.Checkpoint, uint64) ([]proof.Hash, error) { return nil, nil }}
		if _, err := cosign.New(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := cosign.New(cosign.Config{}); err == nil {
		t.Error("the zero Config is taken")
	}
	// It warns, loudly, of a quorum that one dishonest witness can split.
	e.collect(t, policyText(1, w), nil)
	if !strings.Contains(e.logs.String(), "DOES NOT KEEP THIS LOG FROM SHOWING TWO HISTORIES") {
		t.Errorf("no warning: %s", e.logs)
	}
	var ws []*one
	for i := range 4 {
		ws = append(ws, newOne(t, fmt.Sprintf("w%d", i), e.VKey))
	}
	for k, warned := range map[int]bool{2: true, 3: false} {
		p, err := proof.ParseWitnesses([]byte(policyText(k, ws...)), e.VKey)
		if err != nil {
			t.Fatal(err)
		}
		if got := cosign.Warning(p, 1) != ""; got != warned {
			t.Errorf("%d of 4, one dishonest: warned %v", k, got)
		}
	}
}

// cosignWith answers as a witness with the key would, about text or, if that is empty, about whatever came.
func cosignWith(rw http.ResponseWriter, r *http.Request, key, text string) {
	b, _ := io.ReadAll(r.Body)
	if text == "" {
		_, n, _ := bytes.Cut(b, []byte("\n\n"))
		body, _, _ := bytes.Cut(n, []byte("\n\n"))
		text = string(body) + "\n"
	}
	s := must(fnote.NewSignerForCosignatureV1(key))
	signed := must(note.Sign(&note.Note{Text: text}, s))
	_, sigs, _ := bytes.Cut(signed, []byte("\n\n"))
	_, _ = rw.Write(sigs)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

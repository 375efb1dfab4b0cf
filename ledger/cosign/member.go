package cosign

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Failure is a kind of failure of a witness, as the metrics name it.
type Failure string

// Failures.
const (
	Unreachable Failure = "unreachable" // no connection, or it broke
	Late        Failure = "late"        // no answer in time
	Busy        Failure = "busy"        // 429
	UnknownLog  Failure = "unknown_log" // 404: it wasn't told of the log
	UnknownKey  Failure = "unknown_key" // 403: it has another key of the log
	Conflict    Failure = "conflict"    // it says that it saw another history
	Invalid     Failure = "invalid"     // its answer isn't what it has to be
	Refused     Failure = "refused"     // any other status
	Internal    Failure = "internal"    // ours: no proof could be made
)

// Failures are all kinds.
var Failures = []Failure{Unreachable, Late, Busy, UnknownLog, UnknownKey, Conflict, Invalid, Refused, Internal}

// A failed answer of a witness.
type failed struct {
	kind  Failure
	says  string
	after time.Duration // Retry-After
	// ahead is set if the witness says that it cosigned more than there is.
	ahead uint64
}

func (f *failed) Error() string { return f.says }

// within says whether what a witness saw more, if that is all it says, may be a part of cp.
func (f *failed) within(cp proof.Checkpoint) bool {
	return f.kind == Conflict && f.ahead > 0 && f.ahead <= cp.Size()
}

const (
	maxAnswer = 64 << 10 // a sequence of cosignatures; a post-quantum one is 3.3 kB
	// maxTries bounds how often a witness may change its mind about the size in one attempt: others may submit checkpoints, too.
	maxTries = 4
	// maxRetryAfter is how long a witness may ask to be left alone.
	maxRetryAfter = time.Minute
)

// member is a witness with its worker.
type member struct {
	c      *Collector
	i      int
	w      proof.Witness
	url    string
	client *http.Client
	wake   chan struct{}
	size   atomic.Uint64 // that it cosigned last, as far as is known; the worker's, and Ask's

	// Guarded by c.mu.
	failing  bool // in a pause after a failure
	conflict *failed
	stats    Stats
}

// Stats of a witness since the start.
type Stats struct {
	Name, URL string
	// Cosigned counts its cosignatures, Failed its failures by kind.
	Cosigned int64
	Failed   map[Failure]int64
	// Size is what it cosigned last, At when it said so (by its own clock), Took how long that took.
	Size uint64
	At   time.Time
	Took time.Duration
	// Failing: the last attempt failed, Reason says how.
	Failing bool
	Reason  string
}

func newMember(c *Collector, i int, w proof.Witness, base *url.URL) *member {
	return &member{
		c: c, i: i, w: w, url: base.JoinPath("add-checkpoint").String(), wake: make(chan struct{}, 1),
		// A witness is where the policy says, and nowhere else.
		client: &http.Client{Transport: transport(c.cfg.Roots), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		stats:  Stats{Name: w.Name, URL: w.URL, Failed: map[Failure]int64{}},
	}
}

// run cosigns the newest checkpoint whenever there is one that this witness hasn't cosigned.
func (m *member) run(ctx context.Context) {
	pause := time.Duration(0)
	for {
		r := m.todo()
		if r == nil {
			select {
			case <-m.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		attempt, cancel := context.WithTimeout(ctx, m.c.cfg.Timeout)
		start := time.Now()
		line, sig, err := m.cosign(attempt, r.cp)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = 0
			m.cosigned(r, line, sig, time.Since(start))
			continue
		}
		if !m.c.cfg.Leads() {
			continue
		}
		pause = min(max(2*pause, m.c.cfg.MinPause), m.c.cfg.MaxPause)
		wait := pause/2 + rand.N(pause/2+1) // #nosec G404 -- so that not all ask at once
		var f *failed
		if errors.As(err, &f) {
			wait = max(wait, min(f.after, maxRetryAfter))
		}
		m.fails(r, err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		m.c.mu.Lock()
		m.failing = false
		m.c.mu.Unlock()
	}
}

// todo returns the round that this witness has still to cosign, nil if there is none, or none of this broker's any more: then the next one wakes it.
func (m *member) todo() *round {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if r := m.c.round; r != nil && !r.has(m.i) && m.c.cfg.Leads() {
		return r
	}
	return nil
}

func (m *member) cosigned(r *round, line []byte, sig proof.Cosignature, took time.Duration) {
	c := m.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.stats.Failing {
		c.log.Info("a witness cosigns again", "witness", m.w.Name)
	}
	m.stats.Cosigned++
	m.stats.Size, m.stats.At, m.stats.Took = r.cp.Size(), time.Unix(int64(min(sig.Unix, 1<<40)), 0).UTC(), took
	m.stats.Failing, m.stats.Reason, m.conflict = false, "", nil
	r.lines[m.i] = line
	r.changed()
}

func (m *member) fails(r *round, err error) {
	c := m.c
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := Refused
	var f *failed
	if errors.As(err, &f) {
		kind = f.kind
	}
	if f != nil && f.within(c.round.cp) {
		// Somebody else brought it the published checkpoint while this one was on its way.
		r.changed()
		return
	}
	m.stats.Failed[kind]++
	if reason := err.Error(); reason != m.stats.Reason {
		if kind == Conflict {
			c.log.Error("A WITNESS SAYS THAT IT SAW ANOTHER HISTORY OF THIS LOG: it is dishonest, or another broker signs for this log, or this one works on an older copy. See docs/operate.md, \"When witnesses saw more\"",
				"witness", m.w.Name, "says", reason, "size", r.cp.Size())
		} else {
			c.log.Warn("a witness doesn't cosign", "witness", m.w.Name, "reason", reason)
		}
		m.stats.Reason = reason
	}
	m.failing, m.stats.Failing = true, true
	if kind == Conflict {
		m.conflict = f
	}
	r.changed()
}

// cosign asks for the cosignature of cp, and brings the witness up to date on the way.
func (m *member) cosign(ctx context.Context, cp proof.Checkpoint) ([]byte, proof.Cosignature, error) {
	old := min(m.size.Load(), cp.Size())
	for range maxTries {
		path, err := m.c.cfg.Prove(cp, old)
		if err != nil {
			return nil, proof.Cosignature{}, &failed{kind: Internal, says: "no proof could be made for it: " + err.Error()}
		}
		a, err := m.post(ctx, old, path, cp.Note())
		if err != nil {
			return nil, proof.Cosignature{}, err
		}
		if a.status == http.StatusOK {
			line, sig, err := m.w.Cosignature(cp, a.body)
			if err != nil {
				return nil, sig, &failed{kind: Invalid, says: "it answered with something that is no cosignature of its key on this checkpoint: " + err.Error()}
			}
			m.size.Store(cp.Size())
			return line, sig, nil
		}
		size, err := a.conflict()
		if err != nil {
			return nil, proof.Cosignature{}, err
		}
		if size > cp.Size() {
			return nil, proof.Cosignature{}, &failed{kind: Conflict, says: fmt.Sprintf("it says that it cosigned %d entries, more than the %d that this log has signed", size, cp.Size()), ahead: size}
		}
		old = size
		m.size.Store(size)
	}
	return nil, proof.Cosignature{}, &failed{kind: Invalid, says: "it says another size each time that it is asked"}
}

type answer struct {
	status int
	kind   string
	body   []byte
	after  time.Duration
}

// post sends one request. Its errors are *failed.
func (m *member) post(ctx context.Context, old uint64, path []proof.Hash, note []byte) (*answer, error) {
	body := fmt.Appendf(nil, "old %d\n", old)
	for _, h := range path {
		body = append(base64.StdEncoding.AppendEncode(body, h[:]), '\n')
	}
	body = append(append(body, '\n'), note...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url, bytes.NewReader(body))
	if err != nil {
		return nil, &failed{kind: Unreachable, says: "its URL is none"}
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	res, err := m.client.Do(req)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if len(b) > maxAnswer {
		return nil, &failed{kind: Invalid, says: fmt.Sprintf("it answered with more than %d bytes", maxAnswer)}
	}
	a := &answer{status: res.StatusCode, kind: res.Header.Get("Content-Type"), body: b}
	if s, err := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 31); err == nil {
		a.after = time.Duration(s) * time.Second
	}
	return a, nil
}

func unreachable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &failed{kind: Late, says: "it didn't answer in time"}
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the URL is known
	}
	return &failed{kind: Unreachable, says: "it can't be reached: " + err.Error()}
}

// conflict reads the size in a 409; any other status is an error.
func (a *answer) conflict() (uint64, error) {
	switch a.status {
	case http.StatusConflict:
		if a.kind != "text/x.tlog.size" {
			return 0, &failed{kind: Conflict, says: "it says that it cosigned another tree of this size"}
		}
		text, ok := bytes.CutSuffix(a.body, []byte{'\n'})
		size, err := strconv.ParseUint(string(text), 10, 63)
		if !ok || err != nil || strconv.FormatUint(size, 10) != string(text) {
			return 0, &failed{kind: Invalid, says: "it answered 409 without a size"}
		}
		return size, nil
	case http.StatusUnprocessableEntity:
		return 0, &failed{kind: Conflict, says: "it says that this tree doesn't extend the one that it cosigned"}
	case http.StatusNotFound:
		return 0, &failed{kind: UnknownLog, says: "it doesn't know this log: give its operator the log's key"}
	case http.StatusForbidden:
		return 0, &failed{kind: UnknownKey, says: "it doesn't trust the key that signed the checkpoint: give its operator the log's new key"}
	case http.StatusTooManyRequests:
		return 0, &failed{kind: Busy, says: "it is asked too often", after: a.after}
	}
	return 0, &failed{kind: Refused, says: fmt.Sprintf("it answered %d", a.status), after: a.after}
}

// Stats returns what became of each witness, in the order of the policy.
func (c *Collector) Stats() []Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Stats, len(c.members))
	for i, m := range c.members {
		out[i] = m.stats
		out[i].Failed = map[Failure]int64{}
		for k, n := range m.stats.Failed {
			out[i].Failed[k] = n
		}
	}
	return out
}

package holder

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// IntentHeader is the request header with the broker's intent (docs/formats.md, section 7).
const IntentHeader = "Regard-Intent"

// GuardConfig of a Guard. Dir, Providers, Broker, Policy and Identify are mandatory.
type GuardConfig struct {
	// Dir holds the store; one Guard at a time, on a local disk.
	Dir string
	// Providers are the ids under which the broker knows what stands behind the Guard: one, or several for whom one body answers.
	Providers []string
	// Broker's API, with a certificate whose key stands in the provider's service definitions.
	Broker Connection
	// Policy names the log's keys and the witnesses.
	Policy *proof.Policy
	// AcceptSigned: the log's own signature is enough; receipts stay Signed until they settle. It is needed, and may be set, only where the policy names no quorum: the operator of the log can then show others something else.
	AcceptSigned bool
	// Keys are verification keys of intents, in the text form of signed notes; empty: those that the log has in force, as the broker's API proves.
	Keys []string
	// Identify says whom a request asks about and whom its answer identifies, with the body of an answer of 2xx. If it fails, the answer is not given: a Guard can't check what it doesn't know.
	Identify func(r *http.Request, status int, body []byte) (Answered, error)
	// Target is a request's target as the broker sent it, path and query; nil: RequestURI. For providers behind a proxy that rewrites it.
	Target func(*http.Request) string
	// Tolerance is how far the broker's clock may be from ours; 0: 10 seconds.
	Tolerance time.Duration
	// MaxUnheard is the share of the answers of the last day, up to 1, that the broker may say it couldn't read, before there is an alarm; 0: DefaultMaxUnheard.
	MaxUnheard float64
	Times      Times
	// MaxBody of a request and MaxAnswer of an answer, which is held until it is noted; 0: 1 MiB, 32 MiB.
	MaxBody, MaxAnswer int64
	// MaxHeld bounds the bodies of all requests and answers that are held at the same time, in bytes; 0: 256 MiB, or what one exchange may take if that is more. While there is no room for another answer of MaxAnswer, the
	// guard admits no further question.
	MaxHeld int64
	// Alarm is told what people must know; nil: the log alone. It must not block.
	Alarm  func(Alarm)
	Logger *slog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now
}

// A Guard stands before a provider's API. It is safe for concurrent use.
type Guard struct {
	cfg    GuardConfig
	store  *Store
	log    *slog.Logger
	watch  watch
	base   *url.URL
	http   *http.Client
	keys   *keyring
	counts counters
	room   room

	unheard  atomic.Bool // the alarm is on
	listened time.Time   // when that was looked at last, by run alone

	stop  context.CancelFunc
	ended chan struct{}

	mu   sync.Mutex
	used map[usedKey]proof.Time // intents that were used and may still be valid
	pass int                    // since expired ones were dropped
}

type usedKey struct {
	disclosure string
	question   proof.Hash
}

// NewGuard opens the store, and goes on fetching what an earlier process left. Close ends it.
func NewGuard(ctx context.Context, cfg GuardConfig) (*Guard, error) {
	switch {
	case cfg.Dir == "" || cfg.Policy == nil || cfg.Identify == nil:
		return nil, errors.New("holder: a directory, the log's policy and Identify must be given")
	case len(cfg.Providers) == 0 || slices.ContainsFunc(cfg.Providers, func(id string) bool { return !proof.IsToken(id) }):
		return nil, errors.New("holder: give the provider's id, a token, as in its service definitions")
	case !cfg.AcceptSigned && !cfg.Policy.Demands():
		return nil, errors.New("holder: the policy names no witnesses: give one that does, or set AcceptSigned if the log's own signature shall be enough")
	case cfg.AcceptSigned && cfg.Policy.Demands():
		return nil, errors.New("holder: the policy names witnesses, so AcceptSigned would take less than it demands")
	case cfg.Tolerance < 0 || cfg.MaxBody < 0 || cfg.MaxAnswer < 0 || cfg.MaxHeld < 0 || cfg.MaxUnheard < 0 || cfg.MaxUnheard > 1:
		return nil, errors.New("holder: a limit is negative, or a share above 1")
	}
	if err := cfg.Times.defaults(); err != nil {
		return nil, err
	}
	if cfg.MaxUnheard == 0 {
		cfg.MaxUnheard = DefaultMaxUnheard
	}
	if cfg.Tolerance == 0 {
		cfg.Tolerance = 10 * time.Second
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 1 << 20
	}
	if cfg.MaxAnswer == 0 {
		cfg.MaxAnswer = 32 << 20
	}
	if cfg.MaxHeld == 0 {
		cfg.MaxHeld = max(256<<20, cfg.MaxBody+cfg.MaxAnswer)
	}
	if cfg.MaxHeld < cfg.MaxBody+cfg.MaxAnswer {
		return nil, errors.New("holder: MaxHeld is less than one exchange may take (MaxBody and MaxAnswer)")
	}
	if cfg.Target == nil {
		cfg.Target = func(r *http.Request) string { return r.RequestURI }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	g := &Guard{cfg: cfg, log: cfg.Logger, ended: make(chan struct{})}
	g.room.limit = cfg.MaxHeld
	g.watch = watch{times: cfg.Times, alarm: cfg.Alarm, log: cfg.Logger}
	var err error
	if g.base, g.http, err = cfg.Broker.client(); err != nil {
		return nil, err
	}
	if g.keys, err = newKeyring(g); err != nil {
		return nil, err
	}
	if g.store, err = OpenStore(ctx, cfg.Dir, RoleProvider); err != nil {
		g.keys.close()
		return nil, err
	}
	if err = g.store.demand(cfg.AcceptSigned); err == nil {
		g.used, err = g.store.used(ctx, cfg.Now().Add(-cfg.Tolerance))
	}
	if err == nil {
		err = g.look(ctx)
	}
	if err != nil {
		g.keys.close()
		return nil, errors.Join(fmt.Errorf("reading the store of receipts: %w", err), g.store.Close())
	}
	if cfg.AcceptSigned {
		g.log.Warn("the log has no witnesses: its own signature is taken as enough, so its operator could show others something else")
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.stop = stop
	go g.run(run)
	return g, nil
}

// Close ends the fetching and closes the store. Handlers must have ended.
func (g *Guard) Close() error {
	g.stop()
	<-g.ended
	g.keys.close()
	g.http.CloseIdleConnections()
	return g.store.Close()
}

// Store is for status, evidence and export.
func (g *Guard) Store() *Store { return g.store }

// look reads how old what is missing is.
func (g *Guard) look(ctx context.Context) error { return g.watch.look(ctx, g.store, g.cfg.Now) }

// Handler guards next.
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &buffered{header: http.Header{}, limit: g.cfg.MaxAnswer, room: &g.room}
		defer b.close()
		i, key, p := g.admit(r, b)
		if p != nil {
			g.counts.refuse(p.code)
			p.write(w)
			return
		}
		g.counts.admitted.Add(1)
		defer func() {
			if v := recover(); v != nil { // the question was seen: there has to be an entry about it
				_ = g.note(r, i, key, http.StatusInternalServerError, nil)
				panic(v)
			}
		}()
		next.ServeHTTP(b, r)
		if b.status == 0 {
			b.status = http.StatusOK
		}
		switch {
		case b.full:
			b.status, b.body = http.StatusServiceUnavailable, nil
		case b.over:
			b.status, b.body = http.StatusInternalServerError, nil
		}
		if err := g.note(r, i, key, b.status, b.body); err != nil {
			g.log.Error("an answer is not given, because it can't be noted whom it identifies", "disclosure", i.Disclosure, "error", err)
			p := problemOf(err)
			g.counts.refuse(p.code)
			p.write(w)
			return
		}
		if b.full {
			g.counts.refuse(busy.code)
			busy.write(w)
			return
		}
		if b.over {
			p := &problem{http.StatusInternalServerError, "answer.large", "The answer is too large.", "It is larger than the provider's guard can hold.", 0}
			g.counts.refuse(p.code)
			p.write(w)
			return
		}
		for name, values := range b.header {
			w.Header()[name] = values
		}
		w.WriteHeader(b.status)
		_, _ = w.Write(b.body) // #nosec G705 -- the provider's own answer
	})
}

// admit checks the intent of a request and takes it; the body is held in b.
func (g *Guard) admit(r *http.Request, b *buffered) (proof.Intent, usedKey, *problem) {
	refused := func(code, detail string) (proof.Intent, usedKey, *problem) {
		return proof.Intent{}, usedKey{}, &problem{http.StatusForbidden, code, "The request is not admitted.", detail, 0}
	}
	values := r.Header.Values(IntentHeader)
	if len(values) != 1 || values[0] == "" {
		return refused("intent.missing", "Only questions that the broker announces with a signed intent are answered.")
	}
	i, err := g.keys.verify(r.Context(), values[0])
	switch {
	case errors.Is(err, errNoKeys):
		return proof.Intent{}, usedKey{}, &problem{http.StatusServiceUnavailable, "intent.keys", "The broker's key for intents is not known.", "It can't be fetched and proven at the moment.", 5 * time.Second}
	case errors.Is(err, proof.ErrSignature):
		return refused("intent.signature", "The intent is not signed by the broker's key.")
	case err != nil:
		return refused("intent.invalid", "The intent is malformed.")
	}
	now := g.cfg.Now()
	switch {
	case !g.keys.isOrigin(i.Origin):
		return refused("intent.origin", "The intent is of another log.")
	case !slices.Contains(g.cfg.Providers, i.Provider):
		return refused("intent.provider", "The intent is for another provider.")
	case !i.ValidAt(now, g.cfg.Tolerance):
		return refused("intent.expired", "The intent is not valid now. Compare the clocks.")
	}
	// Room for as much as may come, before it is read.
	if !g.room.has(g.cfg.MaxBody+g.cfg.MaxAnswer) || !b.take(g.cfg.MaxBody) {
		return proof.Intent{}, usedKey{}, busy // nothing is used up: the same question may come again
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, g.cfg.MaxBody+1))
	if err != nil || int64(len(body)) > g.cfg.MaxBody {
		return refused("request.large", "The request's body is too large, or was cut off.")
	}
	b.give(g.cfg.MaxBody - int64(len(body)))
	r.Body = io.NopCloser(bytes.NewReader(body))
	if i.Question != proof.QuestionDigest(r.Method, g.cfg.Target(r), body) {
		return refused("intent.question", "The intent is for another question.")
	}
	if code := g.watch.refusing(now); code != "" {
		return proof.Intent{}, usedKey{}, &problem{http.StatusServiceUnavailable, code, "No further questions are answered at the moment.", "The broker hasn't shown that earlier ones are in the log. Its operator finds out which from the provider.", 30 * time.Second}
	}
	key := usedKey{i.Disclosure, i.Question}
	if !g.use(key, i.End(), now) {
		return refused("intent.replayed", "The intent was used already.")
	}
	return i, key, nil
}

// use takes an intent; false if it was taken before.
func (g *Guard) use(key usedKey, until proof.Time, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pass++; g.pass > len(g.used) {
		g.pass = 0
		for k, end := range g.used {
			if end.Time().Add(g.cfg.Tolerance).Before(now) {
				delete(g.used, k)
			}
		}
	}
	if _, ok := g.used[key]; ok {
		return false
	}
	g.used[key] = until
	return true
}

// note stores what was asked and answered, durably.
func (g *Guard) note(r *http.Request, i proof.Intent, key usedKey, status int, body []byte) error {
	if status < 200 || status > 299 {
		body = nil
	}
	a, err := g.cfg.Identify(r, status, body)
	if err != nil {
		// The question was seen all the same.
		a, status = Answered{}, http.StatusInternalServerError
		err = fmt.Errorf("%w: %w", errUnidentified, err)
	}
	at := g.cfg.Now()
	intent, _ := base64.StdEncoding.DecodeString(r.Header.Get(IntentHeader)) // it was verified
	serr := g.store.answered(&exchange{i.Disclosure, i.Service, at, key.question, i.End(), saidOf(i, status, a), intent, err != nil})
	switch {
	case errors.Is(serr, errTwice):
		g.watch.refuted()
		g.watch.raise(Alarm{Code: AlarmRefuted, Disclosure: i.Disclosure, Detail: errTwice.Error()})
		return serr
	case serr != nil:
		return errors.Join(serr, err)
	}
	g.watch.began(at)
	return err
}

var errUnidentified = errors.New("it can't be told whom the answer identifies")

// problem is what the guard answers in the provider's place (RFC 9457). It holds no personal data.
type problem struct {
	status              int
	code, title, detail string
	retry               time.Duration
}

func problemOf(err error) *problem {
	if errors.Is(err, errTwice) {
		return &problem{http.StatusForbidden, errTwice.Code, "The answer is not given.", "Another question was announced under the same disclosure.", 0}
	}
	if errors.Is(err, errUnidentified) {
		return &problem{http.StatusInternalServerError, "answer.unidentified", "The answer is not given.", "It can't be told whom it identifies.", 0}
	}
	return &problem{http.StatusServiceUnavailable, "holder.unavailable", "The answer is not given.", "The provider can't note what it answers at the moment.", 5 * time.Second}
}

func (p *problem) write(w http.ResponseWriter) {
	b, err := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Code   string `json:"code"`
	}{"urn:regard:problem:" + p.code, p.title, p.status, p.detail, p.code})
	if err != nil {
		panic(err) // five texts
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(p.retry/time.Second)))
	}
	w.WriteHeader(p.status)
	_, _ = w.Write(append(b, '\n'))
}

// busy: the guard holds as much as it may.
var busy = &problem{http.StatusServiceUnavailable, "holder.busy", "No further questions are answered at the moment.", "The guard holds as many answers as it can.", time.Second}

// room is what all exchanges may hold together, in bytes.
type room struct {
	limit int64
	held  atomic.Int64
}

// has reports whether there is room now.
func (r *room) has(n int64) bool { return r.held.Load()+n <= r.limit }

func (r *room) take(n int64) bool {
	if r.held.Add(n) <= r.limit {
		return true
	}
	r.held.Add(-n)
	return false
}

// buffered holds an answer until it is noted. Its memory counts in the room of all, from before it is allocated until close.
type buffered struct {
	header http.Header
	status int
	body   []byte
	limit  int64
	over   bool // larger than limit
	full   bool // there was no room
	room   *room
	taken  int64
}

func (b *buffered) Header() http.Header { return b.header }

func (b *buffered) WriteHeader(status int) {
	if b.status == 0 && status >= 200 {
		b.status = status
	}
}

func (b *buffered) Write(p []byte) (int, error) {
	b.WriteHeader(http.StatusOK)
	size := int64(len(b.body) + len(p))
	if b.over = b.over || size > b.limit; b.over {
		return 0, errors.New("holder: the answer is larger than the guard can hold")
	}
	if has := int64(cap(b.body)); size > has {
		grown := min(b.limit, max(size, 2*has, 4096))
		if !b.take(grown - has) {
			grown = size // no more than it needs
			b.full = !b.take(grown - has)
		}
		if b.full {
			return 0, errors.New("holder: the guard holds as many answers as it can")
		}
		b.body = append(make([]byte, 0, grown), b.body...)
	}
	b.body = append(b.body, p...)
	return len(p), nil
}

// take takes room until close.
func (b *buffered) take(n int64) bool {
	if b.full || !b.room.take(n) {
		return false
	}
	b.taken += n
	return true
}

// give gives a part of it back.
func (b *buffered) give(n int64) {
	b.room.held.Add(-n)
	b.taken -= n
}

func (b *buffered) close() {
	b.body = nil
	b.room.held.Add(-b.taken)
	b.taken = 0
}

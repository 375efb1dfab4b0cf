package holder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// fetchAtOnce is how many disclosures one call of the broker's API takes.
const fetchAtOnce = 100

// maxFetched bounds what one call may answer, in bytes.
const maxFetched = 256 << 20

// run fetches receipts until the Guard is closed.
func (g *Guard) run(ctx context.Context) {
	defer close(g.ended)
	errorsInARow := 0
	for {
		g.keys.renew()
		n, pause, err := g.round(ctx)
		err = errors.Join(err, g.listen(ctx))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			g.log.Warn("receipts can't be fetched", "error", err)
			errorsInARow++
			pause = max(pause, min(time.Minute, g.cfg.Times.Poll<<min(errorsInARow, 6)))
		case n == fetchAtOnce:
			errorsInARow = 0 // there is more
		default:
			errorsInARow, pause = 0, max(pause, g.cfg.Times.Poll)
		}
		if pause > 0 {
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
	}
}

// listen raises the alarm if the broker says of too many answers that it couldn't read them. It reads all of a day, and so more rarely than the rest is looked at.
func (g *Guard) listen(ctx context.Context) error {
	now := g.cfg.Now()
	if now.Sub(g.listened) < min(time.Minute, 60*g.cfg.Times.Poll) {
		return nil
	}
	u, err := g.store.Unheard(ctx, now.Add(-24*time.Hour))
	if err != nil {
		return err
	}
	g.listened = now
	is := u.Exceeds(g.cfg.MaxUnheard)
	switch was := g.unheard.Swap(is); {
	case is && !was:
		g.watch.raise(Alarm{Code: AlarmUnheard, Detail: fmt.Sprintf("Of %d answers of the last day the broker recorded %d as unreadable, and nobody in them has an entry: ask its operator why.", u.Of, u.N)})
	case was && !is:
		g.watch.raise(Alarm{Code: AlarmOver, Detail: "The broker reads the answers again."})
	}
	return nil
}

// round looks at what is due. pause is what the broker's limits demand.
func (g *Guard) round(ctx context.Context) (n int, pause time.Duration, err error) {
	defer func() {
		if lerr := g.look(ctx); lerr != nil && ctx.Err() == nil {
			err = errors.Join(err, lerr)
		}
	}()
	ids, err := g.store.due(ctx, g.cfg.Now(), fetchAtOnce)
	if err != nil || len(ids) == 0 {
		return 0, 0, err
	}
	body, err := json.Marshal(struct {
		IDs []string `json:"ids"`
	}{ids})
	if err != nil {
		return 0, 0, err
	}
	var got struct {
		Disclosures []fetched `json:"disclosures"`
	}
	pause, err = g.call(ctx, http.MethodPost, "/v1/provider/receipts", body, &got)
	if err != nil {
		return 0, pause, err
	}
	if len(got.Disclosures) != len(ids) {
		return 0, pause, errors.New("the broker answered about other disclosures than it was asked for")
	}
	for i := range got.Disclosures {
		if got.Disclosures[i].ID != ids[i] {
			return 0, pause, errors.New("the broker answered about other disclosures than it was asked for")
		}
	}
	for i := range got.Disclosures {
		if err := g.take(ctx, &got.Disclosures[i]); err != nil {
			return 0, pause, err
		}
	}
	return len(ids), pause, nil
}

type fetched struct {
	ID       string   `json:"id"`
	Receipts []string `json:"receipts"`
	Erased   bool     `json:"erased"`
	Code     string   `json:"code"`
}

// take checks what was fetched about one disclosure, and stores how far it has come.
func (g *Guard) take(ctx context.Context, f *fetched) error {
	h, err := g.store.held(ctx, f.ID)
	if err != nil {
		return err
	}
	now := g.cfg.Now()
	if f.Code != "" || len(f.Receipts) == 0 {
		if f.Code == "" || len(f.Code) > 64 || strings.ContainsFunc(f.Code, func(r rune) bool { return r <= ' ' || r > '~' }) {
			f.Code = "receipts.none"
		}
		return g.store.later(f.ID, f.Code, now.Add(g.cfg.Times.pause(h.State, h.tries)))
	}
	texts := make([][]byte, len(f.Receipts))
	for i, r := range f.Receipts {
		texts[i] = []byte(r)
	}
	p, err := check(h, texts, f.Erased, g.cfg.Policy, g.cfg.AcceptSigned)
	var wrong *Refutation
	switch {
	case errors.As(err, &wrong):
		if err := g.store.refuted(f.ID, wrong, now, texts); err != nil {
			return err
		}
		g.watch.raise(Alarm{Code: AlarmRefuted, Disclosure: f.ID, Detail: wrong.Error()})
		return nil
	case errors.Is(err, errErased):
		return g.store.later(f.ID, "erased", now.Add(g.cfg.Times.pause(h.State, h.tries)))
	case err != nil:
		return err
	case p.state < min(h.State, provenBy(g.cfg.AcceptSigned)):
		// An older checkpoint, or a roll that can't be shown any more: what was proven stays so.
		return g.store.later(f.ID, "", now.Add(g.cfg.Times.pause(h.State, h.tries)))
	}
	p.state = max(p.state, h.State) // what was witnessed stays so under a policy that doesn't demand it
	tries := h.tries
	if p.state > h.State {
		tries = 0
	}
	return g.store.advance(f.ID, p, now, now.Add(g.cfg.Times.pause(p.state, tries)))
}

// call asks the broker's API. pause is how long it wants to be left alone.
func (g *Guard) call(ctx context.Context, method, path string, body []byte, into any) (pause time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(g.base.String(), "/")+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := g.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("asking the broker: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxFetched+1))
	if err != nil {
		return 0, fmt.Errorf("reading the broker's answer: %w", err)
	}
	pause = wanted(res.Header)
	if res.StatusCode != http.StatusOK {
		var p struct {
			Code  string `json:"code"`
			Title string `json:"title"`
		}
		_ = json.Unmarshal(text, &p) // its status says enough
		return pause, fmt.Errorf("the broker answered %d %.64q: %.200q", res.StatusCode, p.Code, p.Title)
	}
	if len(text) > maxFetched {
		return pause, errors.New("the broker's answer is too large")
	}
	if err := json.Unmarshal(text, into); err != nil {
		return pause, errors.New("the broker answered with something that is not its JSON: is this a broker's URL?")
	}
	return pause, nil
}

// wanted is how long an API wants to be left alone: Retry-After, or until an allowance that is used up is there again (draft-ietf-httpapi-ratelimit-headers-03).
func wanted(h http.Header) time.Duration {
	seconds := func(name string) time.Duration {
		n, err := strconv.Atoi(h.Get(name))
		if err != nil || n < 0 {
			return 0
		}
		return min(time.Duration(n)*time.Second, time.Hour)
	}
	pause := seconds("Retry-After")
	if h.Get("RateLimit-Remaining") == "0" {
		pause = max(pause, seconds("RateLimit-Reset"))
	}
	return pause
}

// counters of a Guard since it was made.
type counters struct {
	admitted atomic.Int64
	mu       sync.Mutex
	refused  map[string]int64 // by code: a fixed set
}

func (c *counters) refuse(code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil {
		c.refused = map[string]int64{}
	}
	c.refused[code]++
}

var (
	descAdmitted = prometheus.NewDesc("regard_holder_admitted_total", "Questions of the broker that were admitted.", nil, nil)
	descRefused  = prometheus.NewDesc("regard_holder_refused_total", "Requests that the guard refused, by code.", []string{"code"}, nil)
	descHeld     = prometheus.NewDesc("regard_holder_disclosures", "Disclosures in the store, by state of their receipts.", []string{"state"}, nil)
	descUnheard  = prometheus.NewDesc("regard_holder_unheard", "Answers of which the broker says that it couldn't read them.", nil, nil)
	descSilence  = prometheus.NewDesc("regard_holder_unheard_alarm", "1 while the broker says of more than MaxUnheard of the last day's answers that it couldn't read them.", nil, nil)
	descErased   = prometheus.NewDesc("regard_holder_erased", "Disclosures that didn't settle because somebody was erased, as the broker says.", nil, nil)
	descOldest   = prometheus.NewDesc("regard_holder_oldest_seconds", "Age of the oldest disclosure without witnessed (proof=\"witnessed\"; signed ones, where these are enough) or settled receipts.", []string{"proof"}, nil)
	descBytes    = prometheus.NewDesc("regard_holder_held_bytes", "Bodies of requests and answers that are held now; at most MaxHeld.", nil, nil)
	descRefusing = prometheus.NewDesc("regard_holder_refusing", "1 while further questions are refused, by the alarm.", []string{"alarm"}, nil)
)

// Describe implements prometheus.Collector.
func (g *Guard) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descAdmitted, descRefused, descHeld, descUnheard, descSilence, descErased, descOldest, descBytes, descRefusing} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *Guard) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ch <- prometheus.MustNewConstMetric(descAdmitted, prometheus.CounterValue, float64(g.counts.admitted.Load()))
	g.counts.mu.Lock()
	for code, n := range g.counts.refused {
		ch <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(n), code)
	}
	g.counts.mu.Unlock()
	silence := 0.0
	if g.unheard.Load() {
		silence = 1
	}
	gauge(descSilence, silence)
	gauge(descBytes, float64(g.room.held.Load()))
	now := g.cfg.Now()
	refusing := g.watch.refusing(now)
	for _, code := range []string{AlarmOverdue, AlarmUnsettled, AlarmDelayed, AlarmRefuted} {
		v := 0.0
		if code == refusing {
			v = 1
		}
		gauge(descRefusing, v, code)
	}
	s, err := g.Status(context.Background())
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descHeld, err)
		return
	}
	for state, n := range s.Counts {
		gauge(descHeld, float64(n), State(state).String())
	}
	gauge(descUnheard, float64(s.Unheard))
	gauge(descErased, float64(s.Erased))
	age := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return now.Sub(t).Seconds()
	}
	gauge(descOldest, age(s.OldestUnproven), "witnessed")
	gauge(descOldest, age(s.OldestUnsettled), "settled")
}

// Status is how things stand.
func (g *Guard) Status(ctx context.Context) (Status, error) { return g.store.Status(ctx) }

// Refusing is the alarm for which further questions are refused; empty: none.
func (g *Guard) Refusing() string { return g.watch.refusing(g.cfg.Now()) }

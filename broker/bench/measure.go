package bench

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"
	"time"
)

var interrupt = syscall.SIGINT

// series is the sum of the stretches of one load on one party.
type series struct {
	Connections int
	Answers     int64 // in Elapsed
	Elapsed     time.Duration
	Rate        float64 // answers a second
	P50, P99    time.Duration
	Bytes       int64         // of a body, on average
	CPU         time.Duration `json:",omitempty"` // of the broker or proxy for one answer; with what the broker does afterwards
	Batch       float64       `json:",omitempty"` // entries in a signed batch
	Settled     time.Duration `json:",omitempty"` // the longest that the broker was busy after a stretch
	Allocated   int64         `json:",omitempty"` // bytes for one answer
	Commits     float64       `json:",omitempty"` // of the store, for one answer; and the ways to its server and back
	Trips       float64       `json:",omitempty"`
	Wraps       [2]float64    `json:",omitzero"` // calls to wrap keys and to unwrap them, for one answer
	Stages      stages        `json:",omitzero"`
	Failures    map[string]int64

	latency histogram
	counted counts
	bytes   int64
	total   int64 // with those before the clock runs
	cpu     time.Duration
}

// stages are what the log spends on a batch, on average: A orders, B has Trillian add and integrate and signs. Intents go to the store beside them.
type stages struct{ Order, Add, Integrate, Sign time.Duration }

// since subtracts what was counted before.
func (c *counts) since(before *counts) counts {
	d := counts{Commits: c.Commits - before.Commits, Jobs: c.Jobs - before.Jobs, Alloc: c.Alloc - before.Alloc, Mallocs: c.Mallocs - before.Mallocs, GCs: c.GCs - before.GCs}
	d.Trips = c.Trips - before.Trips
	d.Keys.WrapCalls, d.Keys.UnwrapCalls = c.Keys.WrapCalls-before.Keys.WrapCalls, c.Keys.UnwrapCalls-before.Keys.UnwrapCalls
	l, b := &c.Ledger, &before.Ledger
	d.Ledger.Entries, d.Ledger.Batches, d.Ledger.Rounds = l.Entries-b.Entries, l.Batches-b.Batches, l.Rounds-b.Rounds
	d.Ledger.Order, d.Ledger.Add, d.Ledger.Integrate, d.Ledger.Sign = l.Order-b.Order, l.Add-b.Add, l.Integrate-b.Integrate, l.Sign-b.Sign
	return d
}

func (c *counts) add(d *counts) {
	c.Commits += d.Commits
	c.Jobs += d.Jobs
	c.Alloc += d.Alloc
	c.Mallocs += d.Mallocs
	c.GCs += d.GCs
	c.Trips += d.Trips
	c.Keys.WrapCalls += d.Keys.WrapCalls
	c.Keys.UnwrapCalls += d.Keys.UnwrapCalls
	l, e := &c.Ledger, &d.Ledger
	l.Entries += e.Entries
	l.Batches += e.Batches
	l.Rounds += e.Rounds
	l.Order += e.Order
	l.Add += e.Add
	l.Integrate += e.Integrate
	l.Sign += e.Sign
}

func perOne(total time.Duration, n int64) time.Duration {
	if n == 0 {
		return 0
	}
	return total / time.Duration(n)
}

func (s *series) add(l *loaded) {
	s.Answers += l.Answers
	s.total += l.Answers + l.Warm
	s.Elapsed += l.Elapsed
	s.latency.merge(&l.Latency)
	s.bytes += l.Bytes
	for k, n := range l.Failures {
		if s.Failures == nil {
			s.Failures = map[string]int64{}
		}
		s.Failures[k] += n
	}
	s.Rate = float64(s.Answers) / s.Elapsed.Seconds()
	s.P50, s.P99 = s.latency.quantile(0.5), s.latency.quantile(0.99)
	if s.total > 0 {
		s.Bytes = s.bytes / s.total
	}
}

// through loads the proxy for a stretch.
func (r *runner) through(ctx context.Context, s *series, d time.Duration) error {
	var l loaded
	before, err := r.proxy.usage(ctx)
	if err != nil {
		return err
	}
	if err := r.load.ask(ctx, "run", segment{Addrs: []string{r.proxyAddr}, Connections: s.Connections, Time: d, First: r.next}, &l); err != nil {
		return err
	}
	after, err := r.proxy.usage(ctx)
	if err != nil {
		return err
	}
	r.next = l.Next
	s.add(&l)
	s.cpu += after.CPU - before.CPU
	s.CPU = perOne(s.cpu, s.total)
	return nil
}

// asking loads a broker for a stretch and waits until it has nothing left to do.
func (r *runner) asking(ctx context.Context, b *running, s *series, d time.Duration) error {
	var before, after counts
	var l loaded
	var settled time.Duration
	if err := b.ask(ctx, "counts", nil, &before); err != nil {
		return err
	}
	cpu, err := b.usage(ctx)
	if err != nil {
		return err
	}
	if err := r.load.ask(ctx, "run", segment{Broker: true, Addrs: []string{b.ready.Addr}, Connections: s.Connections, Time: d, First: r.next, Receipts: b.receipts, Samples: b.samples}, &l); err != nil {
		return err
	}
	if err := b.ask(ctx, "settle", nil, &settled); err != nil {
		return err
	}
	used, err := b.usage(ctx)
	if err != nil {
		return err
	}
	if err := b.ask(ctx, "counts", nil, &after); err != nil {
		return err
	}
	r.next = l.Next
	s.add(&l)
	s.cpu += used.CPU - cpu.CPU
	more := after.since(&before)
	s.counted.add(&more)
	c := &s.counted.Ledger
	s.CPU, s.Settled = perOne(s.cpu, s.total), max(s.Settled, settled)
	s.Stages = stages{perOne(c.Order, c.Batches), perOne(c.Add, c.Rounds), perOne(c.Integrate, c.Rounds), perOne(c.Sign, c.Rounds)}
	if s.total > 0 {
		s.Allocated = int64(s.counted.Alloc) / s.total
	}
	if c.Rounds > 0 {
		s.Batch = float64(c.Entries) / float64(c.Rounds)
	}
	return nil
}

// pair is a broker and the proxy at the same number of connections.
type pair struct{ Broker, Proxy series }

// ratio of the rates.
func (p *pair) ratio() float64 {
	if p.Proxy.Rate == 0 {
		return 0
	}
	return p.Broker.Rate / p.Proxy.Rate
}

// alternate lets the proxy and the brokers take turns; the proxy's stretches are a third as long, and one comes last.
func (r *runner) alternate(ctx context.Context, proxy *series, bs []*running, ss []*series, total time.Duration) error {
	turn := total / time.Duration(r.o.Turns)
	for range r.o.Turns {
		if err := r.through(ctx, proxy, turn/3); err != nil {
			return err
		}
		for i, b := range bs {
			if err := r.asking(ctx, b, ss[i], turn); err != nil {
				return err
			}
		}
	}
	return r.through(ctx, proxy, turn/3)
}

// warm brings connections, caches and the broker's heap to where they stay.
func (r *runner) warm(ctx context.Context, n int, bs ...*running) error {
	d := min(2*time.Second, r.o.Duration/4)
	var s series
	s.Connections = n
	for _, b := range bs {
		if err := r.asking(ctx, b, &s, d); err != nil {
			return err
		}
	}
	s = series{Connections: n}
	return r.through(ctx, &s, d/2)
}

// first measures everything that doesn't need earlier records.
func (r *runner) first(ctx context.Context) (err error) {
	b, err := r.broker(ctx, "first")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	r.say("warming up")
	if err := r.warm(ctx, r.o.Connections[0], b); err != nil {
		return err
	}
	r.say("one connection")
	r.report.Single.Broker.Connections, r.report.Single.Proxy.Connections = 1, 1
	if err := r.through(ctx, &r.report.Single.Proxy, r.o.Single/3); err != nil {
		return err
	}
	if err := r.asking(ctx, b, &r.report.Single.Broker, r.o.Single); err != nil {
		return err
	}
	for _, n := range r.o.Connections {
		r.say("%d connections: %s of the broker in %d turns with the proxy", n, r.o.Duration, r.o.Turns)
		p := &pair{series{Connections: n}, series{Connections: n}}
		if err := r.alternate(ctx, &p.Proxy, []*running{b}, []*series{&p.Broker}, r.o.Duration); err != nil {
			return err
		}
		r.report.Loads = append(r.report.Loads, p)
	}
	u, err := b.usage(ctx)
	if err != nil {
		return err
	}
	r.report.Peak = u.PeakRSS
	if r.report.Yardstick[1], err = yardstick(); err != nil {
		return err
	}
	r.say("policy alone")
	if err := b.ask(ctx, "policy", policyRun{20_000}, &r.report.Policy); err != nil {
		return err
	}
	if err := r.syncs(ctx, b); err != nil {
		return err
	}
	if r.o.CPUProfile != "" {
		if err := r.profile(ctx, b); err != nil {
			return err
		}
	}
	return r.verify(ctx, b)
}

// syncs counts what the disk is asked to make durable, by the broker's own counters and from outside.
func (r *runner) syncs(ctx context.Context, b *running) error {
	r.say("counting syncs")
	var before, after counts
	s := series{Connections: r.o.Connections[0]}
	f := func() error {
		if err := b.ask(ctx, "counts", nil, &before); err != nil {
			return err
		}
		if err := r.asking(ctx, b, &s, min(5*time.Second, r.o.Duration/2)); err != nil {
			return err
		}
		return b.ask(ctx, "counts", nil, &after)
	}
	// What an earlier load left to do must not be counted from outside and missed by the counters.
	if err := b.ask(ctx, "settle", nil, nil); err != nil {
		return err
	}
	seen, err := countSyncs(ctx, b.ready.PID, r.path(b.name), f)
	c := &r.report.Syncs
	if errors.Is(err, errNoStrace) {
		c.Why = err.Error()
		err = f()
	}
	if err != nil {
		return err
	}
	c.Batches, c.Rounds = after.Ledger.Batches-before.Ledger.Batches, after.Ledger.Rounds-before.Ledger.Rounds
	c.StoreCommits = after.Commits - before.Commits
	c.Answers = s.total
	c.Seen = seen
	if c.Seen != nil && c.Rounds > 0 && c.Batches > 0 && c.StoreCommits > 0 {
		// Of the store's syncs those count that order a batch: one commit for each, among those for intents and labels alone. A signed batch is one sync of the
		// checkpoint: what is seen from outside and what the broker counts begin and end at slightly different instants, so neither is divided by the other, and the
		// third decimal means nothing.
		order := float64(seen["store"]) / float64(c.StoreCommits) * float64(c.Batches) / float64(c.Rounds)
		round := float64(seen["trillian"]+seen["signed"]) / float64(max(seen["signed"], 1))
		c.PerBatch = math.Round(100*(order+round)) / 100
		c.PerOrdered = c.PerBatch * float64(c.Rounds) / float64(c.Batches)
	}
	return nil
}

func (r *runner) profile(ctx context.Context, b *running) error {
	r.say("profiling the broker")
	if err := b.ask(ctx, "profile", r.o.CPUProfile, nil); err != nil {
		return err
	}
	s := series{Connections: r.o.Connections[0]}
	if err := r.asking(ctx, b, &s, max(r.o.Duration/4, time.Second)); err != nil {
		return err
	}
	return b.ask(ctx, "profiled", nil, nil)
}

// second compares a broker with many earlier records with one that has none, in turns, the proxy beside them.
func (r *runner) second(ctx context.Context) (err error) {
	n := r.o.Connections[0]
	full := &r.report.Full
	r.say("preloading %d records", r.o.Preload)
	if err := r.copyRegistry("full"); err != nil {
		return err
	}
	var done preloaded
	if err := r.fill(ctx, "full", "records", records{Records: r.o.Preload, Persons: r.o.Persons, Agencies: r.o.Agencies, Services: r.o.Services, Endpoint: r.endpoint}, &done); err != nil {
		return err
	}
	full.Records, full.Preloading, full.Labelling = r.o.Preload, done.Elapsed, done.Settled
	r.say("preloaded in %s, labelled %s later", done.Elapsed.Round(time.Second), done.Settled.Round(time.Second))
	b, err := r.broker(ctx, "full")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	full.Opening = b.opened
	beside, err := r.broker(ctx, "beside")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, beside.stop()) }()
	if err := r.warm(ctx, n, b, beside); err != nil {
		return err
	}
	full.Broker.Connections, full.Beside.Connections, full.Proxy.Connections = n, n, n
	r.say("%d connections: brokers with and without records, %s each in %d turns with the proxy", n, r.o.Duration, r.o.Turns)
	if err := r.alternate(ctx, &full.Proxy, []*running{b, beside}, []*series{&full.Broker, &full.Beside}, r.o.Duration); err != nil {
		return err
	}
	u, err := b.usage(ctx)
	if err != nil {
		return err
	}
	full.Peak = u.PeakRSS
	return errors.Join(r.verify(ctx, b), r.verify(ctx, beside))
}

// third closes an epoch of many persons under load.
func (r *runner) third(ctx context.Context) error {
	r.say("closing an epoch of %d persons", r.o.Close)
	if err := r.copyRegistry("close"); err != nil {
		return err
	}
	c := closing{records: records{Records: r.o.Close, Persons: 4 * r.o.Close, Agencies: r.o.Agencies, Services: r.o.Services, Endpoint: r.endpoint}, Writers: 64, Before: min(5*time.Second, r.o.Duration)}
	return r.fill(ctx, "close", "close", &c, &r.report.Closed)
}

// verify checks all receipts of a broker, each without its help.
func (r *runner) verify(ctx context.Context, b *running) (err error) {
	r.say("verifying every receipt of broker %q", b.name)
	c, err := spawn(ctx, "verify", verifyConfig{b.ready.Keys}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	var v verified
	if err := c.ask(ctx, "verify", toVerify{b.receipts, b.samples}, &v); err != nil {
		return err
	}
	if v.Receipts+v.Bad == 0 {
		return fmt.Errorf("broker %q gave no receipt at all", b.name)
	}
	t := &r.report.Verified
	if t.Receipts == 0 {
		t.Alone, t.AloneMean = v.Alone, v.AloneMean
	}
	t.Receipts += v.Receipts
	t.Samples += v.Samples
	t.Bytes += v.Bytes
	t.Elapsed += v.Elapsed
	if t.Bad += v.Bad; t.First == "" {
		t.First = v.First
	}
	return errors.Join(os.Remove(b.receipts), os.Remove(b.samples))
}

// yardstick is how long one processor needs for an Ed25519 verification while nothing else of the run is at work: the same machine is not always as fast.
func yardstick() (time.Duration, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return 0, err
	}
	msg := make([]byte, 256)
	sig := ed25519.Sign(private, msg)
	var h histogram
	for range 2000 {
		begin := time.Now()
		if !ed25519.Verify(public, msg, sig) {
			return 0, errors.New("a good signature doesn't verify")
		}
		h.add(time.Since(begin))
	}
	return h.quantile(0.5), nil
}

func cpuModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "processor not known"
}

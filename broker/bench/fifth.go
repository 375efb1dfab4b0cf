package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"
)

// ofBrokers that the cluster has.
const ofBrokers = 2

// aimCluster is the rate that the project aims at, at 64 connections on two processors.
const aimCluster = 1200.0

// clustered is what was measured of a cluster.
type clustered struct {
	Loads []*clusterLoad
}

// clusterLoad is the cluster, a broker alone, the proxy, and Trillian alone, at one number of connections and in the same turns.
type clusterLoad struct {
	Cluster, Alone, Proxy series
	Entries               float64 // of the cluster's log, a second
	Leaves                float64 // of Trillian alone, a second
	LeavesP50, LeavesP99  time.Duration
	RawBatch              int
	CPU                   []spent // of the cluster, an answer
}

type spent struct {
	Party string
	CPU   time.Duration
}

// fifth measures several brokers on shared engines beside one that is alone.
func (r *runner) fifth(ctx context.Context) (err error) {
	r.say("starting PostgreSQL, Trillian and Vault")
	e, err := r.engines(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	if err := r.seedCluster(ctx, e); err != nil {
		return err
	}
	var all []*running
	for i := range ofBrokers {
		b, err := r.member(ctx, e, i)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.stop()) }()
		all = append(all, b)
		e.parties = append(e.parties, party{"broker " + strconv.Itoa(i+1), []int{b.ready.PID}})
	}
	alone, err := r.broker(ctx, "alone")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, alone.stop()) }()
	r.say("warming up")
	n := r.o.Connections[0]
	for range 2 {
		warm := clusterLoad{Cluster: series{Connections: n}}
		if err := r.askCluster(ctx, e, all, &warm, min(2*time.Second, r.o.Duration/4)); err != nil {
			return err
		}
	}
	if err := r.warm(ctx, n, alone); err != nil {
		return err
	}
	var counted *statements
	if r.o.Statements != "" {
		if counted, err = e.countFrom(ctx); err != nil {
			return err
		}
	}
	for _, n := range r.o.Connections {
		r.say("%d connections: %s of the cluster in %d turns with a broker alone, the proxy, and Trillian alone", n, r.o.Duration, r.o.Turns)
		l := &clusterLoad{Cluster: series{Connections: n}, Alone: series{Connections: n}, Proxy: series{Connections: n}}
		if err := r.turns(ctx, e, all, alone, l); err != nil {
			return err
		}
		r.report.Cluster.Loads = append(r.report.Cluster.Loads, l)
	}
	if counted != nil {
		var answers int64
		for _, l := range r.report.Cluster.Loads {
			answers += l.Cluster.total
		}
		if err := counted.write(ctx, answers); err != nil {
			return err
		}
	}
	if r.o.CPUProfile != "" {
		if err := r.profileCluster(ctx, e, all); err != nil {
			return err
		}
	}
	return errors.Join(r.verify(ctx, all[0]), r.verify(ctx, alone))
}

// turns measures one number of connections.
func (r *runner) turns(ctx context.Context, e *engines, all []*running, alone *running, l *clusterLoad) error {
	turn := r.o.Duration / time.Duration(r.o.Turns)
	var raw loaded
	for range r.o.Turns {
		if err := r.through(ctx, &l.Proxy, turn/3); err != nil {
			return err
		}
		if err := r.askCluster(ctx, e, all, l, turn); err != nil {
			return err
		}
		if err := r.asking(ctx, alone, &l.Alone, turn); err != nil {
			return err
		}
		// In batches of the size that the cluster's log had.
		l.RawBatch = max(1, int(l.Cluster.Batch))
		x, err := e.raw.run(ctx, l.RawBatch, turn/3)
		if err != nil {
			return err
		}
		raw.Answers += x.Answers
		raw.Elapsed += x.Elapsed
		raw.Latency.merge(&x.Latency)
	}
	l.Leaves, l.LeavesP50, l.LeavesP99 = float64(raw.Answers)/raw.Elapsed.Seconds(), raw.Latency.quantile(0.5), raw.Latency.quantile(0.99)
	return nil
}

// member starts one of the brokers of a cluster.
func (r *runner) member(ctx context.Context, e *engines, i int) (*running, error) {
	cfg := r.config("cluster-" + strconv.Itoa(i+1))
	shared := e.shared
	shared.Name = "broker-" + strconv.Itoa(i+1)
	cfg.Shared = &shared
	b := &running{name: shared.Name, receipts: r.path("cluster.receipts"), samples: r.path("cluster.samples")}
	var err error
	if b.child, err = spawn(ctx, "broker", cfg, &b.ready, r.o.BrokerEnv...); err != nil {
		return nil, fmt.Errorf("%w (its log: %s)", err, cfg.Log)
	}
	return b, nil
}

// seedCluster fills the registry through one broker, which ends then: those that are measured read it when they start.
func (r *runner) seedCluster(ctx context.Context, e *engines) (err error) {
	r.say("putting the agreements in force in the cluster, too")
	b, err := r.member(ctx, e, 0)
	if err != nil {
		return err
	}
	var certs []string
	for _, f := range r.certs {
		certs = append(certs, f.Cert)
	}
	err = b.ask(ctx, "seed", seed{Certs: certs, Agencies: r.o.Agencies, Services: r.o.Services, Agreements: r.o.Agreements, Endpoint: r.endpoint}, nil)
	return errors.Join(err, b.stop())
}

// askCluster loads the brokers for a stretch, each with every other connection, and waits until the one that leads has nothing left to do.
func (r *runner) askCluster(ctx context.Context, e *engines, all []*running, out *clusterLoad, d time.Duration) error {
	s := &out.Cluster
	before := make([]counts, len(all))
	var addrs []string
	for i, b := range all {
		if err := b.ask(ctx, "counts", nil, &before[i]); err != nil {
			return err
		}
		addrs = append(addrs, b.ready.Addr)
	}
	used, err := e.used()
	if err != nil {
		return err
	}
	var l loaded
	if err := r.load.ask(ctx, "run", segment{Broker: true, Addrs: addrs, Connections: s.Connections, Time: d, First: r.next, Receipts: all[0].receipts, Samples: all[0].samples}, &l); err != nil {
		return err
	}
	for _, b := range all {
		var settled time.Duration
		if err := b.ask(ctx, "settle", nil, &settled); err != nil {
			return err
		}
		s.Settled = max(s.Settled, settled)
	}
	after, err := e.used()
	if err != nil {
		return err
	}
	r.next = l.Next
	s.add(&l)
	for i, b := range all {
		var now counts
		if err := b.ask(ctx, "counts", nil, &now); err != nil {
			return err
		}
		more := now.since(&before[i])
		s.counted.add(&more)
	}
	c := &s.counted.Ledger
	s.Stages = stages{perOne(c.Order, c.Batches), perOne(c.Add, c.Rounds), perOne(c.Integrate, c.Rounds), perOne(c.Sign, c.Rounds)}
	if s.total > 0 {
		s.Allocated = int64(s.counted.Alloc) / s.total
		per := func(n int64) float64 { return float64(n) / float64(s.total) }
		s.Commits, s.Trips, s.Wraps = per(s.counted.Commits), per(s.counted.Trips), [2]float64{per(s.counted.Keys.WrapCalls), per(s.counted.Keys.UnwrapCalls)}
		out.Entries = s.Rate * float64(c.Entries) / float64(s.total)
	}
	if c.Rounds > 0 {
		s.Batch = float64(c.Entries) / float64(c.Rounds)
	}
	if out.CPU == nil {
		out.CPU = make([]spent, len(after))
	}
	for i := range after {
		out.CPU[i].Party = after[i].Party
		// What was there is the share of all answers before.
		whole := out.CPU[i].CPU*time.Duration(s.total-l.Answers-l.Warm) + after[i].CPU - used[i].CPU
		out.CPU[i].CPU = perOne(whole, s.total)
		s.cpu += after[i].CPU - used[i].CPU
	}
	s.CPU = perOne(s.cpu, s.total)
	return nil
}

// used is what each party has used so far.
func (e *engines) used() ([]spent, error) {
	out := make([]spent, len(e.parties))
	for i, p := range e.parties {
		cpu, err := cpuOf(p.pids)
		if err != nil {
			return nil, err
		}
		out[i] = spent{p.name, cpu}
	}
	return out, nil
}

func (r *runner) profileCluster(ctx context.Context, e *engines, all []*running) error {
	r.say("profiling the brokers")
	for _, b := range all {
		if err := b.ask(ctx, "profile", filepath.Join(r.o.CPUProfile, b.name), nil); err != nil {
			return err
		}
	}
	l := clusterLoad{Cluster: series{Connections: r.o.Connections[0]}}
	if err := r.askCluster(ctx, e, all, &l, max(r.o.Duration/4, time.Second)); err != nil {
		return err
	}
	for _, b := range all {
		if err := b.ask(ctx, "profiled", nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// judgeCluster fills the table of aims.
func (r *Report) judgeCluster() {
	for _, l := range r.Cluster.Loads {
		c := &l.Cluster
		what := fmt.Sprintf("rate of two brokers at %d connections", c.Connections)
		if c.Connections == 64 {
			r.aim(what, fmt.Sprintf("≥ %.0f/s", aimCluster), c.Rate >= aimCluster, "%.0f/s", c.Rate)
		} else {
			r.aim(what, "none", true, "%.0f/s", c.Rate)
		}
		r.aim("  beside one broker alone", "none", true, "%.2f × (%.0f/s)", c.Rate/l.Alone.Rate, l.Alone.Rate)
		r.aim("  its entries beside the leaves of Trillian alone", "none", true, "%.2f × (%.0f/s beside %.0f/s in batches of %d)", l.Entries/l.Leaves, l.Entries, l.Leaves, l.RawBatch)
	}
}

// writeCluster prints where the cluster's time goes.
func (r *Report) writeCluster(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, l := range r.Cluster.Loads {
		fmt.Fprintf(t, "\nprocessor time for an answer of the cluster, %d connections\t\n", l.Cluster.Connections)
		for _, s := range l.CPU {
			fmt.Fprintf(t, "  %s\t%s\n", s.Party, show(s.CPU))
		}
		fmt.Fprintf(t, "  all of them\t%s\n", show(l.Cluster.CPU))
		c := &l.Cluster
		fmt.Fprintf(t, "for an answer\t%.3f commits of the store in %.3f trips, %.3f calls to wrap keys, %.3f to unwrap them\n", c.Commits, c.Trips, c.Wraps[0], c.Wraps[1])
		fmt.Fprintf(t, "Trillian alone, batches of %d, until the root has them\tp50 %s, p99 %s\n", l.RawBatch, show(l.LeavesP50), show(l.LeavesP99))
	}
	return t.Flush()
}

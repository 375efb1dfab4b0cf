package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report of a run. Durations are nanoseconds in JSON.
type Report struct {
	Machine  string
	Started  time.Time
	Options  Options
	Targets  []Target
	Single   pair
	Loads    []*pair
	Policy   policyResult
	Syncs    syncCount
	Full     full
	Closed   closed
	Tests    []measured
	Cluster  clustered
	Verified verified
	Peak     int64         // bytes, VmHWM of the broker without earlier records
	Seeding  time.Duration // of the registry
	// Yardstick is the time of one Ed25519 verification before the loads and after them.
	Yardstick [2]time.Duration
}

// full is the part with earlier records.
type full struct {
	Records    int
	Preloading time.Duration
	Labelling  time.Duration // of what waited when the last record was signed
	Opening    time.Duration
	Broker     series
	Beside     series // a broker without earlier records, in the same turns
	Proxy      series
	Peak       int64
}

// syncCount is what a short load cost in syncs.
type syncCount struct {
	Answers         int64
	Batches, Rounds int64 // ordered, and signed
	StoreCommits    int64 // by the broker's own count: intents, order and outcomes, labels
	Seen            syncs // from outside, by file; nil if it couldn't be counted
	Why             string
	// PerBatch is the syncs of a signed batch: those of all the batches in order that it joins, Trillian's one, and the checkpoint's. PerOrdered spreads them over the ordered ones.
	PerBatch, PerOrdered float64
}

// A Target is what the project aims at beside what was measured.
type Target struct {
	What     string
	Aim      string
	Measured string
	Met      bool
	Unknown  bool // it wasn't measured
}

func (r *Report) aim(what, aim string, met bool, measured string, args ...any) {
	r.Targets = append(r.Targets, Target{What: what, Aim: aim, Measured: fmt.Sprintf(measured, args...), Met: met})
}

// The aims of the project.
var ratioAims = map[int]float64{64: 0.2, 256: 0.3}

const (
	aimSingle   = 40 * time.Millisecond
	aimCPU      = 450 * time.Microsecond
	aimSyncs    = 4.0
	aimPolicy   = 50 * time.Microsecond
	aimVerify   = time.Millisecond
	aimSlowdown = 0.2
	aimPeak     = 400 << 20
	aimClose    = 10 * time.Second // of 1,000,000 persons
	aimPause    = time.Second
	aimItem     = 130 // bytes
	aimProof    = time.Millisecond
)

// judge fills the table.
func (r *Report) judge() {
	r.Targets = nil
	for _, p := range r.Loads {
		n := p.Broker.Connections
		what := fmt.Sprintf("rate at %d connections, beside the proxy's", n)
		measured := fmt.Sprintf("%.2f × (%.0f/s beside %.0f/s)", p.ratio(), p.Broker.Rate, p.Proxy.Rate)
		if aim, ok := ratioAims[n]; ok {
			r.aim(what, fmt.Sprintf("≥ %.1f ×", aim), p.ratio() >= aim, "%s", measured)
		} else {
			r.aim(what, "none", true, "%s", measured)
		}
	}
	r.aim("one request at a time, p50", "< "+show(aimSingle), r.Single.Broker.P50 < aimSingle, "%s (proxy %s)", show(r.Single.Broker.P50), show(r.Single.Proxy.P50))
	for _, p := range r.Loads {
		r.aim(fmt.Sprintf("broker's CPU for a disclosure, %d connections", p.Broker.Connections), "≤ "+show(aimCPU), p.Broker.CPU <= aimCPU, "%s (proxy %s a request)", show(p.Broker.CPU), show(p.Proxy.CPU))
	}
	if r.Syncs.Seen == nil {
		r.Targets = append(r.Targets, Target{What: "fsyncs a batch", Aim: fmt.Sprintf("≤ %.0f", aimSyncs), Measured: "not counted: " + r.Syncs.Why, Unknown: true})
	} else {
		r.aim("fsyncs a batch", fmt.Sprintf("≤ %.0f", aimSyncs), r.Syncs.PerBatch <= aimSyncs, "%.2f of a signed batch, %.2f of an ordered one", r.Syncs.PerBatch, r.Syncs.PerOrdered)
	}
	r.aim(fmt.Sprintf("policy, p50 over %d agreements", r.Policy.Agreements), "< "+show(aimPolicy), r.Policy.P50 < aimPolicy, "%s (p99 %s)", show(r.Policy.P50), show(r.Policy.P99))
	r.aim("offline verification of a receipt", "< "+show(aimVerify), r.Verified.AloneMean < aimVerify, "%s (p99 %s)", show(r.Verified.AloneMean), show(r.Verified.Alone.quantile(0.99)))
	if f := &r.Full; f.Records > 0 {
		change := f.Broker.Rate/f.Beside.Rate - 1
		r.aim(fmt.Sprintf("rate with %d records, beside that without", f.Records), fmt.Sprintf("≥ %.0f %%", 100*(1-aimSlowdown)), change >= -aimSlowdown,
			"%.0f %% (%.0f/s beside %.0f/s; %.2f × the proxy)", 100*(1+change), f.Broker.Rate, f.Beside.Rate, f.Broker.Rate/f.Proxy.Rate)
		r.aim(fmt.Sprintf("VmHWM with %d records", f.Records), fmt.Sprintf("< %d MB", aimPeak>>20), f.Peak > 0 && f.Peak < aimPeak, "%d MB", f.Peak>>20)
	}
	if c := &r.Closed; c.Persons > 0 {
		whole := c.Preparing + c.Pause + c.Publishing
		r.aim(fmt.Sprintf("closing an epoch of %d persons", c.Persons), "< "+show(aimClose), whole < aimClose, "%s: %s of preparation, %s of nothing ordered, %s until it is published", show(whole), show(c.Preparing), show(c.Pause), show(c.Publishing))
		r.aim("the longest that a release waited meanwhile", "< "+show(aimPause), c.During.Max < aimPause, "%s (p99 %s; before %s and %s)", show(c.During.Max), show(c.During.quantile(0.99)), show(c.Before.Max), show(c.Before.quantile(0.99)))
		size := float64(c.IndexBytes+c.FilingBytes) / float64(c.Persons)
		r.aim("index and rolls on disk, an item", fmt.Sprintf("≤ %d B", aimItem), size <= aimItem, "%.0f B (%.0f + %.0f)", size, float64(c.IndexBytes)/float64(c.Persons), float64(c.FilingBytes)/float64(c.Persons))
		r.aim("making a proof of presence, p50", "< "+show(aimProof), c.Presence.quantile(0.5) < aimProof, "%s (p99 %s)", show(c.Presence.quantile(0.5)), show(c.Presence.quantile(0.99)))
		r.aim("making a proof of absence, p50", "< "+show(aimProof), c.Absence.quantile(0.5) < aimProof, "%s (p99 %s)", show(c.Absence.quantile(0.5)), show(c.Absence.quantile(0.99)))
	}
	r.judgeTests()
	r.aim("receipts verified after the run", "all", r.Verified.Bad == 0 && r.Verified.Receipts > 0, "%d of %d", r.Verified.Receipts, r.Verified.Receipts+r.Verified.Bad)
}

// show rounds a duration to three digits.
func show(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.0f µs", float64(d)/1e3)
}

// write prints the table and what stands behind it.
func (r *Report) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\n%d persons, one an answer; %d agreements of %d agencies on %d services; %s a number of connections in %d turns\n\n",
		r.Machine, r.Options.Persons, r.Options.Agreements, r.Options.Agencies, r.Options.Services, r.Options.Duration, r.Options.Turns)
	fmt.Fprintln(t, "\taim\tmeasured\t")
	for _, g := range r.Targets {
		verdict := "met"
		switch {
		case g.Unknown:
			verdict = "not known"
		case g.Aim == "none":
			verdict = ""
		case !g.Met:
			verdict = "missed"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", g.What, g.Aim, g.Measured, verdict)
	}
	fmt.Fprintln(t, "\nload\tanswers\trate\tp50\tp99\tbody\tCPU\tallocated\tbatch\torder + add + integrate + sign\tsettled")
	line := func(name string, s *series) {
		if s.Answers == 0 && len(s.Failures) == 0 {
			return
		}
		fmt.Fprintf(t, "%s, %d\t%d\t%.0f/s\t%s\t%s\t%d B", name, s.Connections, s.Answers, s.Rate, show(s.P50), show(s.P99), s.Bytes)
		fmt.Fprintf(t, "\t%s", show(s.CPU))
		if g := &s.Stages; s.Batch > 0 {
			fmt.Fprintf(t, "\t%d kB\t%.1f\t%s + %s + %s + %s\t%s", s.Allocated>>10, s.Batch, show(g.Order), show(g.Add), show(g.Integrate), show(g.Sign), show(s.Settled))
		}
		fmt.Fprintln(t)
	}
	for _, l := range r.Cluster.Loads {
		line("proxy", &l.Proxy)
		line("one broker alone", &l.Alone)
		line("two brokers", &l.Cluster)
	}
	line("proxy", &r.Single.Proxy)
	line("broker", &r.Single.Broker)
	for _, p := range r.Loads {
		line("proxy", &p.Proxy)
		line("broker", &p.Broker)
	}
	if r.Full.Records > 0 {
		line("proxy", &r.Full.Proxy)
		line("broker without records", &r.Full.Beside)
		line("broker with records", &r.Full.Broker)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if r.Options.Cluster != nil {
		return r.writeCluster(w)
	}
	r.notes(w)
	return nil
}

func (r *Report) notes(w io.Writer) {
	c := &r.Syncs
	fmt.Fprintf(w, "\nsyncs: %d answers in %d ordered and %d signed batches; %d commits of the store (intents, order, labels)", c.Answers, c.Batches, c.Rounds, c.StoreCommits)
	if c.Seen != nil {
		fmt.Fprint(w, "; seen by strace:")
		for _, role := range slices.Sorted(maps.Keys(c.Seen)) {
			fmt.Fprintf(w, " %s %d", role, c.Seen[role])
		}
	}
	v := &r.Verified
	fmt.Fprintf(w, "\nreceipts: %d verified, %d B each, and %d whole answers against their digests", v.Receipts, v.Bytes/max(v.Receipts+v.Bad, 1), v.Samples)
	fmt.Fprintf(w, "\nmemory: VmHWM %d MB without earlier records", r.Peak>>20)
	if f := &r.Full; f.Records > 0 {
		fmt.Fprintf(w, "\npreload: %d records in %s (%.0f/s), the last labels %s later; the broker then opened in %s", f.Records, show(f.Preloading), float64(f.Records)/f.Preloading.Seconds(), show(f.Labelling), show(f.Opening))
	}
	fmt.Fprintf(w, "\nyardstick: one Ed25519 verification took %s before the loads and %s after them", show(r.Yardstick[0]), show(r.Yardstick[1]))
	if failures := r.failures(); failures != "" {
		fmt.Fprintf(w, "\nanswers that were errors, not counted in any rate: %s", failures)
	}
	fmt.Fprintln(w)
}

func (r *Report) failures() string {
	sum := map[string]int64{}
	add := func(name string, s *series) {
		for k, n := range s.Failures {
			sum[name+" "+k] += n
		}
	}
	pairs := append([]*pair{&r.Single, {r.Full.Broker, r.Full.Proxy}, {Broker: r.Full.Beside}}, r.Loads...)
	for _, l := range r.Cluster.Loads {
		pairs = append(pairs, &pair{l.Cluster, l.Proxy}, &pair{Broker: l.Alone})
	}
	for _, p := range pairs {
		add("broker", &p.Broker)
		add("proxy", &p.Proxy)
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(sum)) {
		out = append(out, fmt.Sprintf("%d × %s", sum[k], k))
	}
	return strings.Join(out, ", ")
}

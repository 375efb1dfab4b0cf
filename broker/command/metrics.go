package command

import (
	"context"
	"math"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/cluster"
	"github.com/regard-broker/regard/deploy/version"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/cosign"
)

// status of the instance, for regard status.
func (i *Instance) status(ctx context.Context) admin.Status {
	m := i.Broker.Log().Metrics()
	s := admin.Status{
		Version: version.String(), PID: os.Getpid(), Started: i.started.UTC().Truncate(time.Second), Ready: true, InFlight: i.Broker.InFlight(), Listening: i.Addresses,
		Log: admin.LogStatus{
			Origin: i.cfg.Origin, Size: m.Size, Published: m.Published, Waiting: m.Waiting, Epoch: uint64(m.Epoch), Until: m.Until, Lag: m.Lag.Round(time.Millisecond).String(), Halted: m.Halted,
		},
		Policy: admin.ShowPolicy(i.Broker.PolicyStatus()),
	}
	s.Log.Witnessed = m.Witnessed
	if m.QuorumMissing > 0 {
		s.Log.QuorumMissing = m.QuorumMissing.Round(time.Second).String()
	}
	for _, w := range i.Broker.WitnessStats() {
		s.Witnesses = append(s.Witnesses, admin.Witness{Name: w.Name, URL: w.URL, Cosigned: w.Cosigned, Size: w.Size, At: w.At, Failing: w.Failing, Reason: w.Reason})
	}
	if x, shared := i.Broker.Cluster(); shared {
		s.Cluster = &admin.Cluster{Name: i.cfg.Cluster.Name, Role: "follows", Term: x.Term, Leader: x.Leader, Renewed: x.Renewed.UTC(), Members: x.Members, Waiting: x.Waiting}
		if x.Leads {
			s.Cluster.Role = "leads"
		}
	}
	d := i.Broker.Damage()
	s.Damage = admin.Damage{Requests: d.Intents, Erasures: d.Erasures, Delays: d.Delays}
	if people, err := peopleOf(ctx, i.Broker); err != nil {
		i.log.Error("counting what people asked for", "error", err)
	} else {
		s.People = admin.People{Contests: people.open, Overdue: people.overdue, Erasures: people.waiting, Blocked: people.blocked, Mails: people.mails.Waiting}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := i.Broker.Ready(ctx)
	if err == nil {
		s.Delays.Pending, s.Delays.Overdue, err = i.Broker.DeferralCounts(ctx)
	}
	if err == nil {
		s.Log.Keys, err = i.Broker.LogKeys(ctx)
	}
	if err != nil {
		s.Ready, s.Problem = false, err.Error()
	}
	return s
}

// collector shows what the parts of a broker count, read when it is asked for.
type collector struct {
	b      *broker.Broker
	parts  []part
	own    int    // how many of them need nothing of the store
	shared []part // of a broker that shares its log with others
}

type sample struct {
	log      ledger.Metrics
	keys     keys.Stats
	commits  int64
	jobs     int64
	inFlight int
	damage   broker.Damage
	people   people
	leads    bool
	ready    bool
	unusable bool // the policy
	cluster  cluster.Stats
	leaseAge float64
}

// people is what people asked for and waits.
type people struct {
	open, overdue, waiting, blocked int64
	mails                           broker.Mails
}

func peopleOf(ctx context.Context, b *broker.Broker) (p people, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if p.open, p.overdue, err = b.CountContests(ctx); err != nil {
		return p, err
	}
	if p.waiting, p.blocked, err = b.CountErasures(ctx); err != nil {
		return p, err
	}
	p.mails, err = b.Mails(ctx)
	return p, err
}

type part struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*sample) float64
}

// NewCollector shows a broker's counts to monitoring, and whether it is ready.
func NewCollector(b *broker.Broker) prometheus.Collector {
	c := &collector{b: b}
	counter := func(name, help string, value func(*sample) float64) {
		c.parts = append(c.parts, part{prometheus.NewDesc("regard_"+name, help, nil, nil), prometheus.CounterValue, value})
	}
	gauge := func(name, help string, value func(*sample) float64) {
		c.parts = append(c.parts, part{prometheus.NewDesc("regard_"+name, help, nil, nil), prometheus.GaugeValue, value})
	}
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	counter("log_entries_total", "Entries that were given their place.", func(s *sample) float64 { return float64(s.log.Entries) })
	counter("log_batches_total", "Batches of entries that were committed.", func(s *sample) float64 { return float64(s.log.Batches) })
	counter("log_rounds_total", "Checkpoints that were signed.", func(s *sample) float64 { return float64(s.log.Rounds) })
	counter("log_busy_total", "Groups of entries that were turned away because too many waited.", func(s *sample) float64 { return float64(s.log.Busy) })
	counter("log_refused_total", "Groups of entries that could not be stored.", func(s *sample) float64 { return float64(s.log.Refused) })
	counter("log_alone_total", "Groups of entries that failed while others were stored.", func(s *sample) float64 { return float64(s.log.Alone) })
	counter("log_errors_total", "Errors of the log's stages; the work was repeated.", func(s *sample) float64 {
		return float64(s.log.OrderErrors + s.log.SignErrors + s.log.FileErrors + s.log.PublishErrors)
	})
	counter("log_order_seconds_total", "Time spent placing and committing entries.", func(s *sample) float64 { return s.log.Order.Seconds() })
	counter("log_integrate_seconds_total", "Time spent in Trillian.", func(s *sample) float64 { return (s.log.Add + s.log.Integrate).Seconds() })
	counter("log_sign_seconds_total", "Time spent signing and storing checkpoints.", func(s *sample) float64 { return s.log.Sign.Seconds() })
	counter("log_publish_seconds_total", "Time spent publishing.", func(s *sample) float64 { return s.log.Publish.Seconds() })
	counter("log_filed_total", "Entries that were filed in rolls.", func(s *sample) float64 { return float64(s.log.Filed) })
	counter("log_epochs_closed_total", "Epochs that were closed.", func(s *sample) float64 { return float64(s.log.EpochsClosed) })
	counter("log_unsettled_receipts_total", "Receipts of closed epochs that could not be settled, because filings are lost.", func(s *sample) float64 { return float64(s.log.Unsettled) })
	gauge("log_waiting", "Entries that wait for their place.", func(s *sample) float64 { return float64(s.log.Waiting) })
	gauge("log_unsigned", "Entries that have their place and no signed checkpoint yet.", func(s *sample) float64 { return float64(s.log.Unsigned) })
	gauge("log_unfiled", "Entries that are not in a roll yet.", func(s *sample) float64 { return float64(s.log.Unfiled) })
	gauge("log_size", "Entries under the signed checkpoint.", func(s *sample) float64 { return float64(s.log.Size) })
	gauge("log_published_size", "Entries under the published checkpoint.", func(s *sample) float64 { return float64(s.log.Published) })
	gauge("log_witnessed_size", "Entries under the newest published checkpoint that has the quorum of witnesses.", func(s *sample) float64 { return float64(s.log.Witnessed) })
	gauge("log_quorum_missing_seconds", "For how long checkpoints have been published without the quorum of witnesses; 0 if it is there, or nobody cosigns.", func(s *sample) float64 { return s.log.QuorumMissing.Seconds() })
	counter("log_unwitnessed_total", "Checkpoints that were published without the quorum of witnesses, where some are asked.", func(s *sample) float64 { return float64(s.log.Unwitnessed) })
	gauge("log_lag_seconds", "How long publication is behind.", func(s *sample) float64 { return s.log.Lag.Seconds() })
	gauge("log_epoch", "Number of the open epoch.", func(s *sample) float64 { return float64(s.log.Epoch) })
	gauge("log_epoch_until_seconds", "When the open epoch is due to close, in seconds since 1970.", func(s *sample) float64 { return float64(s.log.Until.UnixMilli()) / 1e3 })
	gauge("log_epoch_close_seconds", "How long the last epoch took to close; nothing was ordered meanwhile.", func(s *sample) float64 { return s.log.LastClose.Seconds() })
	gauge("log_epoch_prepare_seconds", "How long the rolls of the last epoch took before it closed, while entries were ordered; 0 if there was nothing to prepare.", func(s *sample) float64 { return s.log.LastPrepare.Seconds() })
	gauge("log_halted", "1 if the log can't prove its own history and signs nothing.", func(s *sample) float64 { return truth(s.log.Halted) })
	counter("store_commits_total", "Durable transactions of the store, an fsync each.", func(s *sample) float64 { return float64(s.commits) })
	counter("store_writes_total", "Writes that they carried.", func(s *sample) float64 { return float64(s.jobs) })
	gauge("ready", "1 if this broker would carry out a request now, as /readyz says.", func(s *sample) float64 { return truth(s.ready) })
	gauge("leads", "Whether this broker leads the log (orders, signs, publishes): 1, or follows: 0. One that is alone always leads.", func(s *sample) float64 { return truth(s.leads) })
	gauge("policy_not_in_force", "1 if the policy that was loaded last is not in force, because it can't be used or not be recorded; the one before decides.", func(s *sample) float64 { return truth(s.unusable) })
	gauge("disclosures_in_flight", "Disclosures that are being carried out.", func(s *sample) float64 { return float64(s.inFlight) })
	gauge("damaged_requests", "Requests without an outcome that can't be recorded, because what the store holds of them can't be read.", func(s *sample) float64 { return float64(s.damage.Intents) })
	gauge("damaged_erasures", "Erasures that were begun and can't be carried through, because what the store holds of them can't be read.", func(s *sample) float64 { return float64(s.damage.Erasures) })
	gauge("damaged_delays", "Disclosures whose delay is over and that can't be opened, because what the store holds of them can't be read.", func(s *sample) float64 { return float64(s.damage.Delays) })
	counter("keys_created_total", "Data keys that were made.", func(s *sample) float64 { return float64(s.keys.Created) })
	counter("keys_destroyed_total", "Data keys that were destroyed.", func(s *sample) float64 { return float64(s.keys.Destroyed) })
	counter("keys_cache_hits_total", "Subject keys that were in memory.", func(s *sample) float64 { return float64(s.keys.Hits) })
	counter("keys_cache_misses_total", "Subject keys that were not.", func(s *sample) float64 { return float64(s.keys.Misses) })
	counter("keys_custodian_calls_total", "Calls to the custodian of the root keys, to wrap and to unwrap.", func(s *sample) float64 { return float64(s.keys.WrapCalls + s.keys.UnwrapCalls) })
	gauge("keys_cached", "Subject keys in memory.", func(s *sample) float64 { return float64(s.keys.Cached) })
	c.own = len(c.parts) // what follows is read from the store
	gauge("contests_open", "Contests that their agency has not answered.", func(s *sample) float64 { return float64(s.people.open) })
	gauge("contests_overdue", "Contests whose deadline has passed.", func(s *sample) float64 { return float64(s.people.overdue) })
	gauge("erasures_waiting", "Identifiers whose erasure people asked for and that wait.", func(s *sample) float64 { return float64(s.people.waiting) })
	gauge("erasures_blocked", "Of these, the ones that are due and kept back by a legal hold or an open contest.", func(s *sample) float64 { return float64(s.people.blocked) })
	gauge("mails_waiting", "Mails that wait to be sent.", func(s *sample) float64 { return float64(s.people.mails.Waiting) })
	counter("mails_sent_total", "Mails that the mail server took.", func(s *sample) float64 { return float64(s.people.mails.Sent) })
	counter("mails_failed_total", "Attempts to send a mail that failed; they are repeated.", func(s *sample) float64 { return float64(s.people.mails.Failed) })
	counter("mails_refused_total", "Mails whose address was refused for good.", func(s *sample) float64 { return float64(s.people.mails.Refused) })
	counter("mails_dropped_total", "Mails that were given up.", func(s *sample) float64 { return float64(s.people.mails.Dropped) })
	alone := c.parts
	c.parts = nil
	gauge("cluster_term", "The newest term of a leader that this broker knows of.", func(s *sample) float64 { return float64(s.cluster.Term) })
	gauge("cluster_members", "Brokers that are there, this one among them.", func(s *sample) float64 { return float64(s.cluster.Members) })
	gauge("cluster_lease_age_seconds", "Since when the lease of the one that leads was not renewed, as far as this broker knows: below 1 if all is well.", func(s *sample) float64 { return s.leaseAge })
	counter("cluster_handed_total", "Groups of entries that this broker handed over to the one that leads.", func(s *sample) float64 { return float64(s.cluster.Handed) })
	counter("cluster_refused_total", "Of these, the ones that the one that leads refused.", func(s *sample) float64 { return float64(s.cluster.Refused) })
	gauge("cluster_waiting", "Of these, the ones that have no place yet.", func(s *sample) float64 { return float64(s.cluster.Waiting) })
	c.parts, c.shared = alone, c.parts
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, p := range slices.Concat(c.parts, c.shared) {
		ch <- p.desc
	}
	for _, d := range witnessDescs {
		ch <- d
	}
	ch <- deferralsPending
	ch <- deferralsOverdue
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	st := c.b.Store().Stats()
	s := &sample{log: c.b.Log().Metrics(), keys: c.b.Ring().Stats(), commits: st.Commits.Load(), jobs: st.Jobs.Load(), inFlight: c.b.InFlight(), damage: c.b.Damage(), leads: c.b.Leads(), unusable: c.b.PolicyStatus().Problem != nil}
	asking, cancel := context.WithTimeout(context.Background(), api.ReadyWait)
	defer cancel()
	s.ready = c.b.Ready(asking) == nil
	var err error
	parts := c.parts
	if s.people, err = peopleOf(context.Background(), c.b); err != nil {
		parts = parts[:c.own] // a count that isn't known must not be shown as 0
	}
	var shared bool
	if s.cluster, shared = c.b.Cluster(); shared {
		if at := s.cluster.Renewed; at.IsZero() {
			s.leaseAge = math.Inf(1)
		} else {
			s.leaseAge = time.Since(at).Seconds()
		}
		parts = slices.Concat(parts, c.shared)
	}
	for i := range parts {
		p := &parts[i]
		ch <- prometheus.MustNewConstMetric(p.desc, p.kind, p.value(s))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if pending, overdue, err := c.b.DeferralCounts(ctx); err != nil {
		ch <- prometheus.NewInvalidMetric(deferralsPending, err)
	} else {
		ch <- prometheus.MustNewConstMetric(deferralsPending, prometheus.GaugeValue, float64(pending))
		ch <- prometheus.MustNewConstMetric(deferralsOverdue, prometheus.GaugeValue, float64(overdue))
	}
	for _, w := range c.b.WitnessStats() {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, w.Name)
		}
		ch <- prometheus.MustNewConstMetric(witnessCosigned, prometheus.CounterValue, float64(w.Cosigned), w.Name)
		for _, kind := range cosign.Failures {
			ch <- prometheus.MustNewConstMetric(witnessFailed, prometheus.CounterValue, float64(w.Failed[kind]), w.Name, string(kind))
		}
		gauge(witnessSize, float64(w.Size))
		gauge(witnessTook, w.Took.Seconds())
		if !w.At.IsZero() {
			gauge(witnessAt, float64(w.At.Unix()))
		}
	}
}

// Lawful delays, as the store has them.
var (
	deferralsPending = prometheus.NewDesc("regard_deferrals_pending", "Entries of which somebody learns later, as a law allows.", nil, nil)
	deferralsOverdue = prometheus.NewDesc("regard_deferrals_overdue", "Among these: the delay is over, and they aren't opened. For longer than a minute that needs the operator.", nil, nil)
)

// What the broker knows of each witness, by its name in the policy.
var (
	witnessCosigned = prometheus.NewDesc("regard_log_cosignatures_total", "Cosignatures of a witness.", []string{"witness"}, nil)
	witnessFailed   = prometheus.NewDesc("regard_log_cosign_failures_total", "Attempts to get a cosignature of a witness that failed, by how. The kind conflict is an alarm: it says that it saw another history.", []string{"witness", "kind"}, nil)
	witnessSize     = prometheus.NewDesc("regard_log_cosigned_size", "Entries under the last checkpoint that a witness cosigned.", []string{"witness"}, nil)
	witnessTook     = prometheus.NewDesc("regard_log_cosign_seconds", "How long a witness took for its last cosignature.", []string{"witness"}, nil)
	witnessAt       = prometheus.NewDesc("regard_log_cosigned_at_seconds", "When a witness cosigned last, by its own clock, in seconds since 1970.", []string{"witness"}, nil)

	witnessDescs = []*prometheus.Desc{witnessCosigned, witnessFailed, witnessSize, witnessTook, witnessAt}
)

package signer

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics of a signer. No label holds anything that a caller wrote.
type metrics struct {
	registry *prometheus.Registry
	master   prometheus.Gauge
	size     prometheus.Gauge
	entries  prometheus.Counter
	seconds  prometheus.Histogram
	errors   prometheus.Counter

	analyzed     prometheus.Gauge
	pruned       prometheus.Counter
	upkeepErrors prometheus.Counter
	calls        *prometheus.HistogramVec
}

func newMetrics(s *Signer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "regard_signer_" + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "regard_signer_" + name, Help: help})
	}
	buckets := prometheus.ExponentialBuckets(0.0005, 2, 14)
	m := &metrics{
		registry: prometheus.NewRegistry(),
		master:   gauge("master", "Whether this signer is the one that integrates: 1, or stands by: 0."),
		size:     gauge("tree_size", "Entries of the tree, as the master knows it."),
		entries:  counter("entries_total", "Entries that this signer integrated."),
		seconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "regard_signer_integrate_seconds", Help: "Time to integrate a batch, its commit included.", Buckets: buckets}),
		errors:   counter("errors_total", "Failures to integrate, or to stand for election."),

		analyzed:     gauge("analyzed_entries", "Entries when PostgreSQL's planner was told of the tree's size last."),
		pruned:       counter("pruned_roots_total", "Old roots that were removed."),
		upkeepErrors: counter("upkeep_errors_total", "Failures to analyze tables or to remove old roots."),
		calls:        prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "regard_signer_rpc_seconds", Help: "Time of calls to the log server in this process, the wait for a root included.", Buckets: buckets}, []string{"method", "code"}),
	}
	of := func(name, help string, f func() float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "regard_signer_" + name, Help: help}, f)
	}
	m.registry.MustRegister(m.master, m.size, m.entries, m.seconds, m.errors, m.analyzed, m.pruned, m.upkeepErrors, m.calls,
		of("clock_behind_seconds", "How far this clock is behind the tree's latest root; 0 up to a second. Trillian alone would refuse to go on.", func() float64 { return s.clock.Behind().Seconds() }),
		of("clock_ahead_of_postgresql_seconds", "Difference between this clock and PostgreSQL's. Beyond 5, either way, one of them is wrong.", func() float64 { return s.elections.Off().Seconds() }),
		of("healthy", "What /healthz says: 1 well, 0 not.", func() float64 {
			if s.Healthy() != nil {
				return 0
			}
			return 1
		}),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	return m
}

// Ops serves /healthz (Healthy) and /metrics, for those who run the signer.
func (s *Signer) Ops() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err := s.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}

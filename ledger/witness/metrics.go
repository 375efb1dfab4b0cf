package witness

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics of a witness. Labels hold statuses and the names of logs that the witness was told to cosign, and nothing that a caller wrote.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	refused  *prometheus.CounterVec
	size     *prometheus.GaugeVec
	last     *prometheus.GaugeVec
	seconds  prometheus.Histogram
}

func newMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "regard_witness_requests_total", Help: "Requests for a cosignature, by the status of the answer."}, []string{"status"}),
		refused:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "regard_witness_refused_total", Help: "Checkpoints signed by the log that were not shown to extend what was cosigned: evidence of a fork, unless the log can explain it."}, []string{"log"}),
		size:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "regard_witness_size", Help: "Entries under the last checkpoint that was cosigned."}, []string{"log"}),
		last:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "regard_witness_cosigned_seconds", Help: "When this process cosigned last, in seconds since 1970."}, []string{"log"}),
		seconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "regard_witness_request_seconds", Help: "Time to answer.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 12)}),
	}
	m.registry.MustRegister(m.requests, m.refused, m.size, m.last, m.seconds)
	return m
}

// Ops serves /healthz (the state can be read) and /metrics, for those who run the witness.
func (w *Witness) Ops() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, r *http.Request) {
		if err := w.Healthy(r.Context()); err != nil {
			w.log.Error("the state can't be read", "error", err)
			http.Error(rw, "the state can't be read", http.StatusServiceUnavailable)
			return
		}
		_, _ = rw.Write([]byte("ok\n"))
	})
	return mux
}

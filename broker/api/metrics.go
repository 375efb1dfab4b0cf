package api

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/regard-broker/regard/ledger/proof"

	"github.com/regard-broker/regard/broker"
)

// Metrics of one broker in a registry of their own. Labels are paths as registered, statuses, codes and outcomes: few values, all ours.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	series   sync.Map // seriesKey → series: the label look-up of the client library, done once
}

type seriesKey struct {
	path    string
	status  int
	code    string
	outcome broker.Outcome
}

type series struct {
	count    prometheus.Counter
	duration prometheus.Observer
}

// NewMetrics makes the API's metrics, with those of the Go runtime and of the process.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "regard_requests_total", Help: "Requests of agencies, by path, HTTP status, problem code and outcome."}, []string{"path", "status", "code", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "regard_request_duration_seconds", Help: "Time from a request's header to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"path"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "regard_requests_in_flight", Help: "Requests that are being served."}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.inFlight, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Register adds collectors of other parts of the broker.
func (m *Metrics) Register(c ...prometheus.Collector) error {
	for _, c := range c {
		if err := m.registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Handler serves the metrics in the Prometheus formats.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

func (m *Metrics) observe(x *exchange, took time.Duration) {
	key := seriesKey{x.path, x.status, x.code, x.outcome}
	v, ok := m.series.Load(key)
	if !ok {
		v, _ = m.series.LoadOrStore(key, &series{
			m.requests.WithLabelValues(x.path, strconv.Itoa(x.status), x.code, string(x.outcome)),
			m.duration.WithLabelValues(x.path),
		})
	}
	s := v.(*series)
	s.count.Inc()
	s.duration.Observe(took.Seconds())
}

// stateName of an answer's receipt; "none" if there is none.
func stateName(a *broker.Answer) string {
	if len(a.Receipt) == 0 || a.State < proof.Provisional {
		return "none"
	}
	return a.State.String()
}

package identity

import "github.com/prometheus/client_golang/prometheus"

// metrics count what happened, and to nobody in particular.
type metrics struct {
	signIns  *prometheus.CounterVec // by outcome: signed_in or the code of the notice
	attached *prometheus.CounterVec // by type and outcome: claim, check, refused
	forged   prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "regard_portal_sign_ins_total", Help: "Sign-ins of citizens that came to an end, by outcome."}, []string{"outcome"}),
		attached: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "regard_portal_identifiers_total", Help: "Identifiers that were to be attached to accounts, by type and by what showed that they are the person's; or refused."},
			[]string{"type", "outcome"}),
		forged: prometheus.NewCounter(prometheus.CounterOpts{Name: "regard_portal_forged_requests_total", Help: "Requests that came from another site, or lacked the token of their session."}),
	}
	m.signIns.WithLabelValues("signed_in")
	return m
}

// Collectors are the service's metrics, to be registered.
func (s *Service) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.metrics.signIns, s.metrics.attached, s.metrics.forged}
}

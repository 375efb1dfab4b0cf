package identity

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/regard-broker/regard/ledger/proof"
)

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
	// All that may happen, from the start: an alert on a count that first appears as 1 never sees it grow.
	m.signIns.WithLabelValues("signed_in")
	for _, code := range []Code{Refused, TooLow, Expired, Used, Unavailable, Untrusted, Incomplete, OtherPerson, Unconfirmed} {
		m.signIns.WithLabelValues(string(code))
	}
	for _, typ := range []proof.SubjectType{proof.TypeNIR, proof.TypeINE, proof.TypeFranceTravail, proof.TypeSIREN} {
		m.attached.WithLabelValues(string(typ), "refused")
	}
	return m
}

// Collectors are the service's metrics, to be registered.
func (s *Service) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.metrics.signIns, s.metrics.attached, s.metrics.forged}
}

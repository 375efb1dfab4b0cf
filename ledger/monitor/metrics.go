package monitor

import (
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/regard-broker/regard/ledger/fsck"
)

// Collector returns what Prometheus may know of a monitor, as the last look left it.
func (m *Monitor) Collector() prometheus.Collector { return collector{m} }

type collector struct{ m *Monitor }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("regard_monitor_"+name, help, labels, nil)
}

var (
	descSize     = describe("log_size", "Entries of the log that were followed and checked.")
	descEpoch    = describe("open_epoch", "Number of the open epoch.")
	descDue      = describe("open_epoch_due_timestamp_seconds", "When the open epoch is due to end.")
	descLooked   = describe("followed_timestamp_seconds", "When the log was followed to its end last.")
	descAlarms   = describe("alarms", "Alarms that are raised and not acknowledged.", "code", "severity")
	descPlace    = describe("place_size", "Size of the tree that a place served at the last look; 0 if it could not be read.", "place")
	descWitness  = describe("witness_seen_timestamp_seconds", "When a cosignature of a witness was seen last.", "witness")
	descDeferred = describe("deferrals_open", "Delays that were not ended yet.")
	descOutbox   = describe("events_waiting", "Events that the webhook didn't take yet.")
	descLost     = describe("events_lost_total", "Events that were dropped because too many waited.")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSize, descEpoch, descDue, descLooked, descAlarms, descPlace, descWitness, descDeferred, descOutbox, descLost} {
		ch <- d
	}
}

// shown is a copy of what others may look at while the monitor works.
type shown struct {
	status      Status
	size        uint64
	epoch       *fsck.Stretch
	looked      time.Time
	witnesses   map[string]time.Time
	deferred    int
	waits       int
	lost        uint64
	activeAlarm map[Code]int
}

// show makes it anew.
func (m *Monitor) show() {
	s := &m.state
	x := &shown{
		status: m.last, size: s.Edge.Size(), looked: s.Looked, witnesses: maps.Clone(s.Witnesses), deferred: len(s.Rules.Deferred),
		waits: len(s.Book.Events), lost: s.Book.Lost, activeAlarm: map[Code]int{},
	}
	if e := s.Rules.Epoch; e != nil {
		c := *e
		c.Counts = nil
		x.epoch = &c
	}
	for _, a := range s.Book.Alarms {
		if !a.Acknowledged {
			x.activeAlarm[a.Code]++
		}
	}
	m.shown.Store(x)
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	x := c.m.shown.Load()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	seconds := func(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
	gauge(descSize, float64(x.size))
	if x.epoch != nil {
		gauge(descEpoch, float64(x.epoch.Number))
		gauge(descDue, seconds(x.epoch.Until.Time()))
	}
	if !x.looked.IsZero() {
		gauge(descLooked, seconds(x.looked))
	}
	for code, n := range x.activeAlarm {
		gauge(descAlarms, float64(n), string(code), string(Describe(code).Severity))
	}
	for _, p := range x.status.Places {
		gauge(descPlace, float64(p.Size), p.Place)
	}
	for name, t := range x.witnesses {
		gauge(descWitness, seconds(t), name)
	}
	gauge(descDeferred, float64(x.deferred))
	gauge(descOutbox, float64(x.waits))
	ch <- prometheus.MustNewConstMetric(descLost, prometheus.CounterValue, float64(x.lost))
}

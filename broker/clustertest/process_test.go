package clustertest

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/ledgertest"
)

// TestProcesses: brokers die, are paused, and are restarted.
func TestProcesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	t.Run("kill -9 of the one that leads", func(t *testing.T) {
		leads, follows := w.leader(t)
		w.survive(t, fault{hit: leads.kill, heal: func() { w.led(t, follows); leads.start() }})
	})
	t.Run("kill -9 of one that follows", func(t *testing.T) {
		_, follows := w.leader(t)
		w.survive(t, fault{hit: follows[0].kill, heal: follows[0].start})
	})
	t.Run("rolling restart", func(t *testing.T) { rolling(t, w) })
	t.Run("SIGSTOP of the one that leads, for longer than its lease", func(t *testing.T) {
		leads, follows := w.leader(t)
		w.survive(t, fault{hit: func() { leads.signal(syscall.SIGSTOP) }, heal: func() {
			w.led(t, follows)
			w.load.answered(t, w.brokers, follows[0], 5)
			leads.signal(syscall.SIGCONT)
		}})
	})
	t.Run("two that believe they lead", func(t *testing.T) { two(t, w) })
}

// TestThree: of three brokers two die, one after the other, and come back.
func TestThree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{brokers: 3})
	t.Run("kill -9 of the one that leads, and of the next one", func(t *testing.T) {
		first, others := w.leader(t)
		w.survive(t, fault{hit: func() {
			first.kill()
			w.led(t, others)
			next, _ := w.leader(t)
			next.kill()
			w.led(t, slices.DeleteFunc(others, func(m *member) bool { return m == next }))
			first.start()
			next.start()
		}})
	})
	t.Run("rolling restart", func(t *testing.T) { rolling(t, w) })
}

// rolling restarts all brokers one after the other.
func rolling(t *testing.T, w *world) {
	w.survive(t, fault{orderly: true, hit: func() {
		for _, m := range w.brokers {
			m.terminate(t)
			m.start()
			m.await("to be ready", func(s status) bool { return s.NotReady == "" })
		}
	}})
}

// two lets one lead whose lease is another one's by now, of which it knows nothing.
func two(t *testing.T, w *world) {
	for range 2 {
		leads, follows := w.leader(t)
		w.survive(t, fault{hit: func() {
			// The clock by which it knows its lease to last goes on for less than that.
			leads.signal(syscall.SIGSTOP)
			if err := w.main.SQL(t.Context(), w.store, "UPDATE lease SET member = NULL, until = clock_timestamp()"); err != nil {
				t.Fatal(err)
			}
			w.led(t, follows)
			leads.signal(syscall.SIGCONT)
		}})
	}
}

// led waits until one of these leads.
func (w *world) led(t *testing.T, brokers []*member) {
	t.Helper()
	ledgertest.Await(t, "another leader", func() bool {
		for _, m := range brokers {
			if s, err := m.ask(); err == nil && s.Leads {
				return true
			}
		}
		return false
	})
}

// answered waits until one of the brokers has answered so many new requests.
func (l *load) answered(t *testing.T, all []*member, m *member, n int) {
	t.Helper()
	since := time.Now()
	ledgertest.Await(t, fmt.Sprintf("%s to answer %d requests", m.name, n), func() bool {
		each, _ := l.since(since)
		return each[slices.Index(all, m)] >= n
	})
}

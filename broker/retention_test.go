package broker_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
)

// TestRetentionEndsByTheLog moves the clock beyond a month's retention: the keys are destroyed, the log says so before, and the agency's receipt still stands.
func TestRetentionEndsByTheLog(t *testing.T) {
	var ahead atomic.Int64
	w := newWorld(t, func(c *broker.Config) {
		c.Retention = 24 * time.Hour
		c.SweepEvery = 50 * time.Millisecond
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	a := w.disclose(request())
	w.verify(a.Receipt)
	for _, days := range []int64{20, 40} { // the log believes no step of more than 31 days
		ahead.Store(days * int64(24*time.Hour))
		w.disclose(request())
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := w.b.Disclosure(t.Context(), w.caller, a.ID)
		if p := broker.AsProblem(err); err != nil && p.Code == "disclosure.retired" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the record can still be read: %v\n%s", err, w.logs)
		}
		time.Sleep(20 * time.Millisecond)
	}
	w.verify(a.Receipt)
	month := time.Now().UTC().Format("2006-01")
	text := w.published()
	for _, want := range []string{"key record." + month + "\nuse record\nstate destroyed\n", "key label." + month + "\nuse label\nstate destroyed\n"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
}

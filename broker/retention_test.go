package broker_test

import (
	"bytes"
	"crypto/rand"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
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

// TestSealingMonth: an entry's place in the log tells which months' keys may have sealed its record, so a request that a long crash interrupted is sealed under the month of now.
func TestSealingMonth(t *testing.T) {
	var ahead atomic.Int64
	w := newWorld(t, func(c *broker.Config) {
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	year, month, _ := time.Now().UTC().Date()
	start := time.Date(year, month+1, 1, 0, 10, 0, 0, time.UTC) // of a month
	ahead.Store(int64(time.Until(start)))
	rec, err := proof.NewRecord(proof.SchemaDisclosure, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(at time.Time) keys.KeyID {
		blob, err := w.b.SealAdmin(t.Context(), at, rec)
		if err != nil {
			t.Fatal(err)
		}
		id, err := keys.KeyOf(blob)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	asked := start.Add(-time.Hour)
	this := sealed(start)
	if sealed(asked) == this {
		t.Error("asked in the last month and sealed within a day: it is sealed under this month's key")
	}
	ahead.Add(int64(25 * time.Hour))
	if sealed(asked) != this {
		t.Error("asked in the last month and sealed days later: it isn't sealed under this month's key")
	}
}

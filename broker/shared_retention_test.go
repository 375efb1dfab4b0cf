package broker_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestDetailsAreDropped: when a month's retention has ended, its details go from the disk at once. Histories, at every broker, still tell of each record that its retention has ended, as the log says; receipts and the file with all
// that a person's rolls hold are verified as before.
func TestDetailsAreDropped(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	var ahead atomic.Int64
	x.cfg.Retention = day
	x.cfg.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	a, err := leads.Disclose(t.Context(), x.caller, request())
	if err != nil {
		t.Fatal(err)
	}
	x.verify(a.Receipt)
	under := x.own(subjectOf(t, marie))[0].Under
	was, err := follows[0].Endings(t.Context())
	if n, err := leads.OwnDetails(t.Context(), subjectOf(t, marie), 0, indexOf(t, a)); err != nil || n == 0 {
		t.Fatalf("%d records have details, %v", n, err)
	}
	if err != nil || was.Underway {
		t.Fatalf("%+v, %v", was, err)
	}
	x.travel(&ahead)
	ledgertest.Await(t, "the details to be dropped", func() bool { return x.count("SELECT count(*) FROM ended_months") > 0 })
	if n := x.count("SELECT count(*) FROM records r JOIN ended_months USING (month) WHERE octet_length(r.admin) > 58 OR octet_length(r.person) > 0"); n != 0 {
		t.Errorf("the details of %d records are still there", n)
	}
	for _, b := range x.all {
		x.b = b
		ledgertest.Await(t, "no later month to be ending as well", func() bool {
			now, err := b.Endings(t.Context())
			return err == nil && !now.Underway
		})
		if now, err := b.Endings(t.Context()); err != nil || now == was || now.Told == was.Told {
			t.Errorf("what is kept of before isn't known to be old: %+v, then %+v, %v", was, now, err)
		}
		if lasting, err := b.Lasting(t.Context(), []keys.KeyID{under}); err != nil || under.IsZero() || lasting[under] {
			t.Errorf("the key of an ended month lasts: %v, %v", lasting, err)
		}
		if n, err := b.OwnDetails(t.Context(), subjectOf(t, marie), 0, indexOf(t, a)); err != nil || n != 0 {
			t.Errorf("%d records have details, %v", n, err)
		}
		seen := x.own(subjectOf(t, marie))
		found := false
		for _, e := range seen {
			if e.Kind == proof.KindDisclosure {
				found = found || e.Index == indexOf(t, a)
				if e.State != broker.HistoryRetired {
					t.Errorf("record %d is %s", e.Index, e.State)
				}
			}
		}
		if !found {
			t.Errorf("the history denies the record: %+v", seen)
		}
		if _, err := b.Disclosure(t.Context(), x.caller, a.ID); broker.AsProblem(err).Code != "disclosure.retired" {
			t.Errorf("the agency is told %v", err)
		}
		x.verify(a.Receipt)
		// Of epoch 0 alone: a later month may have passed here before its promise was logged, and then nothing accounts for it.
		if v := x.historyFile([]proof.Subject{subjectOf(t, marie)}, proof.EpochRange{}); len(v.Ended) == 0 || v.LostRolls != 0 || v.LostEntries != 0 {
			t.Errorf("the person's file: %+v", v)
		}
	}
	// The administration of the log goes on, and a new leader finds all as it was.
	x.end(leads)
	x.start("c")
	x.b, _ = x.leader()
	if got := x.own(subjectOf(t, marie)); len(got) == 0 {
		t.Error("the history is empty")
	}
}

package broker_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

// query reads one row of the brokers' store.
func (x *sharing) query(sql string, args []any, into ...any) {
	x.t.Helper()
	c, err := pgx.Connect(x.t.Context(), x.cluster.Superuser(x.main))
	if err != nil {
		x.t.Fatal(err)
	}
	defer c.Close(x.t.Context()) //nolint:errcheck // it only read
	if err := c.QueryRow(x.t.Context(), sql, args...).Scan(into...); err != nil {
		x.t.Fatal(err)
	}
}

// TestErasureIsCarriedThroughOnce: a broker that was at an erasure when another one took over, and goes on when that one is done with it, destroys nothing of what the person has since.
func TestErasureIsCarriedThroughOnce(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	x.b = leads
	x.populate()
	x.known(follows[0])
	if _, err := leads.Disclose(t.Context(), x.caller, request()); err != nil {
		t.Fatal(err)
	}
	erased, err := leads.Erase(t.Context(), subjectOf(t, marie), "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	e := store.Erasure{Index: erased.Index, Logged: true}
	var id, owner []byte
	x.query("SELECT id, owner FROM erasures WHERE done = 1", nil, &id, &owner)
	copy(e.ID[:], id)
	copy(e.Owner[:], owner)
	later, err := leads.Disclose(t.Context(), x.caller, request())
	if err != nil {
		t.Fatal(err)
	}
	if err := leads.FinishErasure(t.Context(), &e); err != nil {
		t.Fatal(err)
	}
	x.open(later)
}

// open reads the record of an answer in the person's history at every broker.
func (x *sharing) open(a *broker.Answer) {
	x.t.Helper()
	for _, b := range x.all {
		x.b = b
		seen := x.own(subjectOf(x.t, marie))
		if len(seen) == 0 {
			x.t.Error("the history is empty")
		}
		for _, e := range seen {
			if e.Index == indexOf(x.t, a) && e.State != broker.HistoryOpen {
				x.t.Errorf("the record %d is %s", e.Index, e.State)
			}
		}
	}
}

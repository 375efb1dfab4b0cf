package broker_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/ledgertest"
)

// TestPoisonedGroup: what a broker handed over and the database fails at, each time, is refused after a few times; everybody else's requests go on. Once the database takes it, the attempt is recorded.
func TestPoisonedGroup(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.start("a")
	x.start("b")
	leads, follows := x.leader()
	follower := follows[0]
	x.b = leads
	x.populate()
	x.known(follower)
	if _, err := follower.Disclose(t.Context(), x.caller, asker("TUE POISON")); err != nil {
		t.Fatal(err)
	}
	var owner []byte
	x.row("SELECT owner FROM disclosures ORDER BY seq DESC LIMIT 1", &owner)
	x.exec(fmt.Sprintf(`CREATE FUNCTION poison() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.owner = '\x%x' THEN RAISE EXCEPTION 'statement too complex' USING ERRCODE = 'program_limit_exceeded'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER poison BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION poison()`, owner))
	done := make(chan struct{})
	go func() {
		defer close(done)
		req := asker("TUE POISON")
		req.IdempotencyKey = "another"
		if _, err := follower.Disclose(t.Context(), x.caller, req); broker.AsProblem(err).Code != "log.unavailable" {
			t.Errorf("what can't be stored: %v", err)
		}
	}()
	var others sync.WaitGroup
	for i, b := range []*broker.Broker{leads, leads, follower, follower} {
		others.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					if n > 0 {
						return
					}
				default:
				}
				if _, err := b.Disclose(t.Context(), x.caller, asker("TUE "+letters(int64(26*26*26*i+n)))); err != nil {
					t.Errorf("another request: %v", err)
					return
				}
			}
		})
	}
	others.Wait()
	<-done
	if m := leads.Log().Metrics(); m.Alone < 3 {
		t.Errorf("%d groups failed alone", m.Alone)
	}
	x.exec("DROP TRIGGER poison ON records")
	ledgertest.Await(t, "the attempt to be recorded", func() bool { return x.count("SELECT count(*) FROM intents") == 0 })
	if n := x.count(fmt.Sprintf(`SELECT count(*) FROM records WHERE owner = '\x%x'`, owner)); n != 2 {
		t.Errorf("%d records of two requests", n)
	}
}

// TestPoisonedGroupInAQuietCluster: what can't be stored is refused though nothing else shows that others can; the leader isn't to blame, and goes on to lead.
func TestPoisonedGroupInAQuietCluster(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.cfg.SweepEvery = time.Hour // the attempt isn't recorded again and again
	leads, follower := x.start("a"), x.start("b")
	x.b = leads
	x.populate()
	x.known(follower)
	x.exec(`CREATE FUNCTION poison() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'statement too complex' USING ERRCODE = 'program_limit_exceeded'; END $$;
		CREATE TRIGGER poison BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION poison()`)
	term := leads.Term()
	if _, err := follower.Disclose(t.Context(), x.caller, asker("TUE POISON")); broker.AsProblem(err).Code != "log.unavailable" {
		t.Errorf("what can't be stored: %v", err)
	}
	if m := leads.Log().Metrics(); m.Alone != 3 {
		t.Errorf("it was tried %d times", m.Alone)
	}
	if leads.Term() != term {
		t.Error("another broker leads")
	}
	if err := follower.Ready(t.Context()); err != nil {
		t.Errorf("the broker that follows: %v", err)
	}
}

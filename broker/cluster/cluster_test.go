package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience is how long a test waits for what has to come. How fast a machine is, is no property of the cluster.
const patience = 2 * time.Minute

func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// schema makes the tables of a store in a database.
func schema(t *testing.T, c *pgcluster.Cluster, db string) {
	t.Helper()
	if err := store.Migrate(t.Context(), c.Superuser(db)); err != nil {
		t.Fatal(err)
	}
}

// database is an empty cluster's.
func database(t *testing.T) string {
	t.Helper()
	c, db := pgtest.Database(t)
	schema(t, c, db)
	return c.DSN(db, "regard_broker")
}

func join(t *testing.T, cfg Config) *Member {
	t.Helper()
	m, err := Join(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Errorf("closing %s: %v", cfg.Name, err)
		}
	})
	return m
}

// die ends what a member does, as the death of its process would: it neither resigns nor leaves.
func (m *Member) die() {
	m.cancel()
	m.work.Wait()
	m.lead.Store(nil)
}

// TestOneLeads: of many who want to, one does; when it resigns another does at once, when it dies after its lease, and terms grow.
func TestOneLeads(t *testing.T) {
	t.Parallel()
	url := database(t)
	var members []*Member
	for i := range 4 {
		m := join(t, Config{URL: url, Name: fmt.Sprintf("b%d", i)})
		if m.Leads() {
			t.Fatal("a member leads without having asked")
		}
		members = append(members, m)
	}
	for _, m := range members {
		m.Campaign()
	}
	leader := func() (lead *Member) {
		for _, m := range members {
			if !m.Leads() {
				continue
			}
			if lead != nil {
				t.Fatalf("members %d and %d lead", lead.ID(), m.ID())
			}
			lead = m
		}
		return lead
	}
	await(t, "a leader", func() bool { return leader() != nil })
	first := leader()
	one, over, err := first.Term()
	if err != nil {
		t.Fatal(err)
	}
	list, err := first.Members(t.Context())
	if err != nil || len(list) != 4 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, s := range list {
		if s.Leads != (s.ID == first.ID()) {
			t.Errorf("member %d leads: %v", s.ID, s.Leads)
		}
	}
	if err := first.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-over
	if _, _, err := first.Term(); !errors.Is(err, ErrNotLeading) {
		t.Errorf("after it resigned: %v", err)
	}
	await(t, "the second leader", func() bool { return leader() != nil })
	second := leader()
	two, over, err := second.Term()
	if err != nil || two <= one || second == first {
		t.Fatalf("term %d after %d, %v", two, one, err)
	}
	second.die()
	members = slices.DeleteFunc(members, func(m *Member) bool { return m == second })
	await(t, "the third leader", func() bool { return leader() != nil })
	if three, _, err := leader().Term(); err != nil || three <= two {
		t.Fatalf("term %d after %d, %v", three, two, err)
	}
	_ = over
}

// TestCutOff: a leader that can't reach the database leads no longer than its lease, and never beside another; it comes back by itself.
func TestCutOff(t *testing.T) {
	t.Parallel()
	c := pgtest.Own(t)
	schema(t, c, "postgres")
	m := join(t, Config{URL: c.DSN("postgres", "regard_broker"), Name: "cut"})
	m.Campaign()
	await(t, "the leader", m.Leads)
	before, over, err := m.Term()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	<-over
	if m.Leads() {
		t.Error("it leads without a database")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := m.Hand(ctx, []byte("group")); err == nil {
		t.Error("a group was handed over without a database")
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the leader again", m.Leads)
	if after, _, err := m.Term(); err != nil || after <= before {
		t.Errorf("term %d after %d, %v", after, before, err)
	}
	// News come through again.
	drain(m.Told(Signed))
	if err := m.Tell(t.Context(), Signed); err != nil {
		t.Fatal(err)
	}
	await(t, "news", func() bool { return drain(m.Told(Signed)) })
}

func drain(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestStolenLease: a member whose term is over by the database's word doesn't lead, whatever it believed.
func TestStolenLease(t *testing.T) {
	t.Parallel()
	c, db := pgtest.Database(t)
	schema(t, c, db)
	m := join(t, Config{URL: c.DSN(db, "regard_broker"), Name: "old"})
	m.Campaign()
	await(t, "the leader", m.Leads)
	number, over, err := m.Term()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SQL(t.Context(), db, "UPDATE lease SET term = term + 1, member = NULL, until = clock_timestamp() + interval '1 hour'"); err != nil {
		t.Fatal(err)
	}
	<-over
	if now, _, err := m.Term(); err == nil && now <= number+1 {
		t.Errorf("it leads in term %d, which isn't its own", now)
	}
}

// TestEnd: a term that a member has ended doesn't come back when a renewal is answered late; the next one is another.
func TestEnd(t *testing.T) {
	t.Parallel()
	m := join(t, Config{URL: database(t), Name: "late"})
	m.Campaign()
	await(t, "the leader", m.Leads)
	number, over, err := m.Term()
	if err != nil {
		t.Fatal(err)
	}
	renewed := m.lead.Load()
	m.End(number)
	<-over
	answered := time.Now().Add(time.Hour)
	renewed.until.Store(&answered)
	if now, _, err := m.Term(); err == nil && now <= number {
		t.Errorf("it leads in term %d again", now)
	}
	await(t, "the next term", func() bool { now, _, err := m.Term(); return err == nil && now > number })
	next, over, err := m.Term()
	if err != nil {
		t.Fatal(err)
	}
	m.End(number) // of long ago
	select {
	case <-over:
		t.Errorf("term %d ended with term %d", next, number)
	default:
	}
}

// TestWithdraw: a member that withdrew keeps the lease that it has, and none that it asked for before and is given after.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	url := database(t)
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(t.Context()))
	var holder *int64
	var until time.Time
	look := func() {
		if err := db.QueryRow(t.Context(), "SELECT member, until FROM lease").Scan(&holder, &until); err != nil {
			t.Fatal(err)
		}
	}
	m := join(t, Config{URL: url, Name: "leads"})
	m.Campaign()
	await(t, "the leader", m.Leads)
	m.Withdraw()
	look()
	was := until
	await(t, "the lease to be renewed", func() bool { look(); return until.After(was) })
	if holder == nil || *holder != m.ID() || !m.Leads() {
		t.Error("who withdrew doesn't lead to the end of its term")
	}
	if err := m.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := join(t, Config{URL: url, Name: "late", Lease: time.Minute})
	other, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.WithoutCancel(t.Context()))
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM lease FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	late.Campaign()
	await(t, "the lease to be asked for", func() bool {
		var asked bool
		if err := db.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.datname = current_database())").Scan(&asked); err != nil {
			t.Fatal(err)
		}
		return asked
	})
	late.Withdraw()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the lease to be given and given back", func() bool {
		var term int64
		if err := db.QueryRow(t.Context(), "SELECT term, member FROM lease").Scan(&term, &holder); err != nil {
			t.Fatal(err)
		}
		return term == 2 && holder == nil
	})
}

// TestRenewsWhateverElse: however many connections are taken by others, the lease is renewed.
func TestRenewsWhateverElse(t *testing.T) {
	t.Parallel()
	m := join(t, Config{URL: database(t), Name: "busy"})
	m.Campaign()
	await(t, "the leader", m.Leads)
	number, over, err := m.Term()
	if err != nil {
		t.Fatal(err)
	}
	for range m.pool.Config().MaxConns {
		c, err := m.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
	}
	since := time.Now()
	await(t, "two leases", func() bool {
		select {
		case <-over:
			t.Fatalf("term %d is over", number)
		default:
		}
		return m.Stats().Renewed.Sub(since) > 2*m.cfg.Lease
	})
}

// TestClockSetBack: a lease that doesn't end because the database's clock was set back is taken all the same, if nobody renews it; and who isn't seen any more is gone, though they were seen in the future.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	c, db := pgtest.Database(t)
	schema(t, c, db)
	cfg := Config{URL: c.DSN(db, "regard_broker"), Lease: time.Second}
	dead, m := join(t, cfg), join(t, cfg)
	dead.Campaign()
	await(t, "the leader", dead.Leads)
	dead.die()
	if err := c.SQL(t.Context(), db, fmt.Sprintf("UPDATE lease SET until = until + interval '1 hour'; UPDATE members SET seen = seen + interval '1 hour' WHERE id = %d", dead.ID())); err != nil {
		t.Fatal(err)
	}
	m.Campaign()
	await(t, "another leader", m.Leads)
	gone, err := m.Gone(t.Context(), []int64{dead.ID(), m.ID()})
	if err != nil || !slices.Equal(gone, []int64{dead.ID()}) {
		t.Errorf("gone are %v, %v", gone, err)
	}
	await(t, "the count", func() bool { s := m.Stats(); return s.Members == 1 && s.Leads && s.Term == 2 })
	before := m.Stats().Renewed
	await(t, "a renewal", func() bool { return m.Stats().Renewed.After(before) })
}

// TestVacant: a member says when nobody leads for too long, be it that nobody wants to, that the one who did died, or that it can't see.
func TestVacant(t *testing.T) {
	t.Parallel()
	c := pgtest.Own(t)
	schema(t, c, "postgres")
	cfg := Config{URL: c.DSN("postgres", "regard_broker"), Lease: time.Second}
	a, b := join(t, cfg), join(t, cfg)
	vacant := func() bool { return b.Vacant() > cfg.Lease }
	await(t, "nobody", vacant)
	a.Campaign()
	await(t, "the leader", func() bool { return a.Leads() && a.Vacant() == 0 && b.Vacant() == 0 })
	a.die()
	await(t, "nobody any more", vacant)
	b.Campaign()
	await(t, "another leader", func() bool { return b.Vacant() == 0 })
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, "nothing to be seen", vacant)
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the leader again", func() bool { return b.Leads() && b.Vacant() == 0 })
}

// TestTakeALittle: large groups are taken a few at a time, and the largest alone, whatever its size.
func TestTakeALittle(t *testing.T) {
	t.Parallel()
	url := database(t)
	a, b := join(t, Config{URL: url, Name: "a"}), join(t, Config{URL: url, Name: "b"})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { _, _ = b.Hand(ctx, make([]byte, 20_000)) })
	}
	take := func(limit, bytes int, at ...[16]byte) (ids [][16]byte) {
		t.Helper()
		groups, err := a.Take(t.Context(), at, limit, bytes)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range groups {
			if len(g.Body) != 20_000 {
				t.Errorf("a group of %d bytes", len(g.Body))
			}
			ids = append(ids, g.ID)
		}
		return ids
	}
	await(t, "the groups", func() bool { return len(take(9, 1<<20)) == 4 })
	all := take(9, 1<<20)
	for _, c := range []struct{ limit, bytes, want int }{{9, 1, 1}, {9, 20_000, 1}, {9, 20_001, 2}, {9, 60_000, 3}, {2, 1 << 20, 2}} {
		if got := take(c.limit, c.bytes); !slices.Equal(got, all[:c.want]) {
			t.Errorf("%d groups of at most %d within %d bytes", len(got), c.limit, c.bytes)
		}
	}
	if got := take(9, 30_000, all[0], all[2]); !slices.Equal(got, [][16]byte{all[1], all[3]}) {
		t.Errorf("%d groups beside those that are on their way", len(got))
	}
	cancel()
	wg.Wait()
}

// TestRefuseTogether: groups that are refused at the same time are refused together, each for its own reason.
func TestRefuseTogether(t *testing.T) {
	t.Parallel()
	url := database(t)
	a, b := join(t, Config{URL: url, Name: "a"}), join(t, Config{URL: url, Name: "b"})
	const groups = 300
	var wg sync.WaitGroup
	for i := range groups {
		wg.Go(func() {
			_, err := b.Hand(t.Context(), fmt.Appendf(nil, "group %d", i))
			if want := fmt.Sprintf("reason %d", i); !errors.Is(err, ErrRefused) || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("%v, not: %s", err, want)
			}
		})
	}
	var all []Group
	await(t, "the groups", func() bool {
		var err error
		if all, err = a.Take(t.Context(), nil, groups, 1<<20); err != nil {
			t.Fatal(err)
		}
		return len(all) == groups
	})
	for _, g := range all {
		wg.Go(func() {
			if err := a.Refuse(t.Context(), g.ID, "reason "+strings.TrimPrefix(string(g.Body), "group ")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	u, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close(context.Background())
	var transactions int
	if err := u.QueryRow(t.Context(), "SELECT count(DISTINCT xmin::text) FROM handed WHERE refused IS NOT NULL").Scan(&transactions); err != nil {
		t.Fatal(err)
	}
	if transactions == 0 || transactions > groups/2 {
		t.Errorf("%d groups were refused in %d transactions", groups, transactions)
	}
}

// TestLeavesOverADeadConnection: whoever leaves just after the database has cut all connections leaves nothing behind.
func TestLeavesOverADeadConnection(t *testing.T) {
	t.Parallel()
	c, db := pgtest.Database(t)
	schema(t, c, db)
	url := c.DSN(db, "regard_broker")
	for i := range 10 {
		m, err := Join(t.Context(), Config{URL: url, Name: fmt.Sprintf("b%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		m.Campaign()
		await(t, "the lease", m.Leads)
		if err := c.SQL(t.Context(), db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if list, err := List(t.Context(), url); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

// TestStats: each member knows who leads, in which term, how many there are, and since when nobody leads.
func TestStats(t *testing.T) {
	t.Parallel()
	url := database(t)
	a, b := join(t, Config{URL: url, Name: "a"}), join(t, Config{URL: url, Name: "b"})
	await(t, "the first look", func() bool { return b.Stats().Members == 2 })
	if s := b.Stats(); s.Leads || s.Leader != "" || s.Term != 0 || !s.Renewed.IsZero() {
		t.Errorf("before anybody led: %+v", s)
	}
	a.Campaign()
	await(t, "the leader", func() bool { return a.Stats().Leads && a.Stats().Leader == "a" && b.Stats().Leader == "a" })
	s := b.Stats()
	if term, _, err := a.Term(); err != nil || s.Term != term || s.Leads || s.Renewed.IsZero() || time.Until(s.Renewed) > 0 {
		t.Errorf("%+v in term %d, %v", s, term, err)
	}
	if one, other := a.Stats().String(), s.String(); one != "leads, term 1" || other != "follows; a leads, term 1" {
		t.Errorf("%q, %q", one, other)
	}
	await(t, "a renewal", func() bool { return b.Stats().Renewed.After(s.Renewed) })
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "nobody", func() bool { return b.Stats().Leader == "" })
	s = b.Stats()
	if a.Stats().Leads || s.Renewed.IsZero() || s.String() != "follows, and nobody leads (the last term was 1)" {
		t.Errorf("after it resigned: %+v", s)
	}
	await(t, "two more looks", func() bool { return time.Since(s.Renewed) > time.Second })
	if now := b.Stats().Renewed; now != s.Renewed {
		t.Errorf("nobody leads, and the lease was renewed at %v and then at %v", s.Renewed, now)
	}
	b.Campaign()
	await(t, "the other", func() bool { s := a.Stats(); return s.Leader == "b" && s.Term == 2 })
}

// TestNews: what one member tells all hear, and of all topics something after the connection was lost.
func TestNews(t *testing.T) {
	t.Parallel()
	c, db := pgtest.Database(t)
	schema(t, c, db)
	a, b := join(t, Config{URL: c.DSN(db, "regard_broker"), Name: "a"}), join(t, Config{URL: c.DSN(db, "regard_broker"), Name: "b"})
	for _, topic := range []Topic{Changed, Signed} {
		await(t, "the first look", func() bool { return drain(b.Told(topic)) })
		if err := a.Tell(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
		await(t, string(topic), func() bool { return drain(b.Told(topic)) })
	}
	drain(b.Told(Changed))
	if err := c.SQL(t.Context(), db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"); err != nil {
		t.Fatal(err)
	}
	await(t, "news after the connection was lost", func() bool { return drain(b.Told(Changed)) })
}

// lead takes groups and gives them places, as the leader's store does in one transaction with the entries.
func lead(ctx context.Context, t *testing.T, m *Member, url string, next *int64) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-m.Told(Handed):
		case <-time.After(20 * time.Millisecond):
		}
		groups, err := m.Take(ctx, nil, 100, 1<<20)
		if err != nil {
			continue
		}
		for _, g := range groups {
			if bytes.HasPrefix(g.Body, []byte("bad")) {
				if err := m.Refuse(ctx, g.ID, "it is bad"); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				continue
			}
			*next++
			if _, err := conn.Exec(ctx, "UPDATE handed SET body = NULL, indexes = int8send($2::bigint) || int8send(octet_length(body)::bigint), epoch = 7 WHERE id = $1 AND body IS NOT NULL", g.ID[:], *next); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
		if err := m.Tell(ctx, Placed); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}
}

// TestHandOver: each group gets one place, or is refused, also if the leader dies on the way.
func TestHandOver(t *testing.T) {
	t.Parallel()
	url := database(t)
	a, b, c := join(t, Config{URL: url, Name: "a"}), join(t, Config{URL: url, Name: "b"}), join(t, Config{URL: url, Name: "c"})
	var next int64
	ctx, dies := context.WithCancel(t.Context())
	defer dies()
	var leaders sync.WaitGroup
	leaders.Go(func() { lead(ctx, t, a, url, &next) })
	const groups = 600
	var mu sync.Mutex
	seen := map[int64]int{}
	refused := 0
	var wg sync.WaitGroup
	for i := range groups {
		wg.Go(func() {
			body := make([]byte, 10+i)
			if i%10 == 0 {
				copy(body, "bad")
			}
			from := b
			if i%2 == 0 {
				from = c
			}
			p, err := from.Hand(t.Context(), body)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrRefused):
				refused++
				if !strings.Contains(err.Error(), "it is bad") {
					t.Errorf("refused without a reason: %v", err)
				}
			case err != nil:
				t.Error(err)
			case len(p.Indexes) != 2 || p.Indexes[1] != int64(len(body)) || p.Epoch != 7:
				t.Errorf("group %d got the place of another: %+v", i, p)
			default:
				seen[p.Indexes[0]]++
			}
			if len(seen) == groups/4 {
				dies()
			}
		})
	}
	<-ctx.Done()
	leaders.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	leaders.Go(func() { lead(ctx, t, b, url, &next) })
	wg.Wait()
	cancel()
	leaders.Wait()
	x, y := b.Stats(), c.Stats()
	if n := x.Handed + y.Handed; n != groups || x.Refused+y.Refused != groups/10 || x.Waiting+y.Waiting != 0 || x.Leads {
		t.Errorf("the counts are %+v, %+v", x, y)
	}
	if refused != groups/10 || len(seen) != groups-groups/10 {
		t.Errorf("%d of %d groups have a place, %d were refused", len(seen), groups, refused)
	}
	for i, n := range seen {
		if n != 1 {
			t.Errorf("%d groups stand at %d", n, i)
		}
	}
	if err := a.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := a.Take(t.Context(), nil, 10, 1<<20); err != nil || len(left) != 0 {
		t.Errorf("%d groups are left, %v", len(left), err)
	}
}

// TestHandedThoughNobodyWaits: what was handed over is there for the leader although the one that handed it is gone; and what the leader is at isn't taken twice.
func TestHandedThoughNobodyWaits(t *testing.T) {
	t.Parallel()
	url := database(t)
	a, b := join(t, Config{URL: url, Name: "a"}), join(t, Config{URL: url, Name: "b"})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := b.Hand(ctx, []byte("last words")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("without a leader: %v", err)
	}
	b.die()
	var got []Group
	await(t, "the group", func() bool {
		var err error
		if got, err = a.Take(t.Context(), nil, 10, 1<<20); err != nil {
			t.Fatal(err)
		}
		return len(got) == 1
	})
	if string(got[0].Body) != "last words" {
		t.Errorf("%q", got[0].Body)
	}
	if again, err := a.Take(t.Context(), [][16]byte{got[0].ID}, 10, 1<<20); err != nil || len(again) != 0 {
		t.Errorf("%d groups that the caller is at, %v", len(again), err)
	}
}

// TestGone: who isn't seen for a while is gone, and who was only away isn't any more.
func TestGone(t *testing.T) {
	t.Parallel()
	url := database(t)
	cfg := Config{URL: url, Lease: 500 * time.Millisecond, Gone: time.Second}
	a, b := join(t, cfg), join(t, cfg)
	all := []int64{a.ID(), b.ID(), 4711}
	await(t, "the unknown one alone", func() bool {
		gone, err := a.Gone(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Equal(gone, []int64{4711})
	})
	b.die()
	await(t, "the dead one, too", func() bool {
		gone, err := a.Gone(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(gone)
		return slices.Equal(gone, []int64{b.ID(), 4711})
	})
	// Its row was even removed: it comes back under its number.
	if _, err := a.pool.Exec(t.Context(), "DELETE FROM members WHERE id = $1", a.ID()); err != nil {
		t.Fatal(err)
	}
	await(t, "the one that was away", func() bool {
		gone, err := a.Gone(t.Context(), []int64{a.ID()})
		if err != nil {
			t.Fatal(err)
		}
		return len(gone) == 0
	})
}

// TestWrongURL: an error doesn't tell the URL, which may hold a password.
func TestWrongURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"postgres://u:geheim@[", "host=/nowhere user=u password=geheim dbname=d"} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := Join(ctx, Config{URL: url})
		cancel()
		if err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%v", err)
		}
	}
}

// TestAlone: nobody is alone beside a member that lives; one that died counts until it is gone. Then nobody else can lead, and the term is none that was ever used, whatever backup the database came from.
func TestAlone(t *testing.T) {
	t.Parallel()
	url := database(t)
	cfg := Config{URL: url, Name: "restore", Gone: 3 * time.Second}
	b := join(t, Config{URL: url, Name: "b", Gone: 3 * time.Second})
	b.Campaign()
	await(t, "a leader", b.Leads)
	before, over, err := b.Term()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Alone(t.Context(), cfg); !errors.Is(err, ErrNotAlone) || !strings.Contains(err.Error(), "b: stop") {
		t.Errorf("beside a member: %v", err)
	}
	select {
	case <-over:
		t.Error("whoever led was deposed")
	default:
	}
	b.die()
	m, err := Alone(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	term, over, err := m.Term()
	if err != nil || term < before+1_000_000_000_000 {
		t.Errorf("term %d after %d, %v", term, before, err)
	}
	c := join(t, Config{URL: url, Name: "c"})
	if c.ID() < b.ID()+1_000_000_000_000 {
		t.Errorf("member %d after %d", c.ID(), b.ID())
	}
	c.Campaign()
	await(t, "another lease", func() bool {
		u, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close(context.Background())
		var renewed bool // the one who joined has had its chance
		err = u.QueryRow(t.Context(), "SELECT l.until > m.joined + interval '5 seconds' FROM lease l, members m WHERE m.id = $1", c.ID()).Scan(&renewed)
		return err == nil && renewed
	})
	select {
	case <-over:
		t.Error("another one leads")
	default:
	}
	if c.Leads() {
		t.Error("two lead")
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the next leader", c.Leads)
	if next, _, err := c.Term(); err != nil || next <= term {
		t.Errorf("term %d after %d, %v", next, term, err)
	}
}

// TestLost: a group is handed over without a wait for the disk. Who waits for one that is gone when the server was started again is told, and nobody else is.
func TestLost(t *testing.T) {
	t.Parallel()
	url := database(t)
	a, b := join(t, Config{URL: url, Name: "a"}), join(t, Config{URL: url, Name: "b"})
	type answer struct {
		place Place
		err   error
	}
	answers := map[string]chan answer{"lost": make(chan answer, 1), "kept": make(chan answer, 1)}
	for body, to := range answers {
		go func() {
			p, err := b.Hand(t.Context(), []byte(body))
			to <- answer{p, err}
		}()
	}
	var got []Group
	await(t, "both groups", func() bool {
		var err error
		if got, err = a.Take(t.Context(), nil, 10, 1<<20); err != nil {
			t.Fatal(err)
		}
		return len(got) == 2
	})
	for _, g := range got {
		if string(g.Body) != "lost" {
			continue
		}
		if _, err := a.pool.Exec(t.Context(), "DELETE FROM handed WHERE id = $1", g.ID[:]); err != nil {
			t.Fatal(err)
		}
	}
	if x := <-answers["lost"]; !errors.Is(x.err, ErrLost) {
		t.Errorf("the lost one: %+v", x)
	}
	var next int64
	ctx, cancel := context.WithCancel(t.Context())
	var leader sync.WaitGroup
	leader.Go(func() { lead(ctx, t, a, url, &next) })
	if x := <-answers["kept"]; x.err != nil || len(x.place.Indexes) != 2 {
		t.Errorf("the other one: %+v", x)
	}
	cancel()
	leader.Wait()
	if n := b.Stats().Waiting; n != 0 {
		t.Errorf("%d are still waited for", n)
	}
}

// Package cluster lets several brokers share one log on PostgreSQL: it says who is there and who leads, wakes the others up, and carries groups of entries from those that follow to
// the one that leads.
//
// What it guarantees. At most one member leads in a term, and terms grow: whoever writes under a term in one transaction with a look at the lease (the store does, see Term) writes
// nothing once another one leads. A member that leads knows by its own clock when its lease ends ([Member.Leads]), and stops before another can begin. A group that was handed over
// gets its place in the log exactly once, or is refused, whichever members die on the way. When the database's server dies before it is on the disk, whoever handed it over is told ([ErrLost]).
//
// What it doesn't. Leads may be true for a moment too long in a process that was paused: the stores refuse such a leader, this package doesn't. A process that isn't seen counts as gone after
// [Config.Gone], also if it only can't reach the database; what it was at is refused then.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/regard-broker/regard/ledger/dsn"
)

// ErrNotLeading: another member leads, or nobody does at the moment.
var ErrNotLeading = errors.New("cluster: this broker doesn't lead")

// Topic is something that happens, of which members tell each other. A member may be told in vain, and must look by itself now and then.
type Topic string

// Topics.
const (
	Handed  Topic = "regard_handed"  // there is a group for the leader
	Placed  Topic = "regard_placed"  // a group has its place, or was refused
	Signed  Topic = "regard_signed"  // there is a new checkpoint
	Changed Topic = "regard_changed" // of the registry, the policy, or whose keys there are
	Lead    Topic = "regard_lead"    // somebody stopped leading
)

var topics = []Topic{Handed, Placed, Signed, Changed, Lead}

// Config of a member.
type Config struct {
	// URL or DSN of the store's database.
	URL string
	// Name of this broker, for people and logs.
	Name string
	// Lease is how long a leader leads without renewing, so the longest time that nobody does after one died; 0 means 2.5 seconds.
	Lease time.Duration
	// Gone is after how long without a sign a member counts as gone; 0 means 10 seconds.
	Gone   time.Duration
	Logger *slog.Logger
}

// Member is a broker's part in the cluster. It is safe for concurrent use.
type Member struct {
	cfg  Config
	pool *pgxpool.Pool
	id   int64
	// joined is when, by this process's clock.
	joined time.Time

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	wants  atomic.Bool               // to lead
	yields atomic.Pointer[time.Time] // it doesn't before
	lead   atomic.Pointer[term]
	look   atomic.Pointer[sight]
	mu     sync.Mutex
	told   map[Topic]chan struct{}
	hints  chan Topic
	// hands is for groups that wait to be handed over together, waiting are those whose place isn't known yet.
	hands   chan *handing
	waiting map[[16]byte]*handing
	// refusals wait to be stored together.
	refusals chan *refusal
	// counts for Stats
	handed, refused atomic.Int64
}

// term is a stretch of time in which this member leads.
type term struct {
	number int64
	until  atomic.Pointer[time.Time] // by this process's monotonic clock
	over   chan struct{}
	once   sync.Once
}

func (t *term) end() { t.once.Do(func() { close(t.over) }) }

const defaultGone = 10 * time.Second

// Join makes this process a member. It follows until it campaigns.
func Join(ctx context.Context, cfg Config) (*Member, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Lease == 0 {
		cfg.Lease = 2500 * time.Millisecond
	}
	if cfg.Gone == 0 {
		cfg.Gone = defaultGone
	}
	conn, err := dsn.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	pc, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	pc.ConnConfig = conn
	pc.MaxConns = 8 // one each for handing, collecting, taking, refusing, and hints; the rest for what is exclusive
	// A dead connection must be noticed within a lease.
	pc.ConnConfig.ConnectTimeout = cfg.Lease
	for name, value := range map[string]string{
		"synchronous_commit": "on", // whatever the server's default; handing over alone turns it off
		// Of a broker that vanished nothing may stay locked.
		"statement_timeout": "25s", "idle_in_transaction_session_timeout": "10s",
		"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3", "tcp_user_timeout": "10s",
	} {
		pc.ConnConfig.RuntimeParams[name] = value
	}
	m := &Member{cfg: cfg, joined: time.Now(), told: map[Topic]chan struct{}{}, hints: make(chan Topic, 8), hands: make(chan *handing, 1024), waiting: map[[16]byte]*handing{}, refusals: make(chan *refusal, handAtOnce)}
	for _, t := range topics {
		m.told[t] = make(chan struct{}, 1)
	}
	if m.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
		return nil, fmt.Errorf("cluster: connecting to the database: %w", err)
	}
	if err := m.pool.QueryRow(ctx, "INSERT INTO members (name) VALUES ($1) RETURNING id", cfg.Name).Scan(&m.id); err != nil {
		m.pool.Close()
		return nil, fmt.Errorf("cluster: joining: %w", err)
	}
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	m.work.Add(6)
	go m.hint()
	go m.listen(pc.ConnConfig.Copy())
	go m.beat(pc.ConnConfig.Copy())
	go m.refuse()
	go m.handOver()
	go m.collect()
	return m, nil
}

// ID is the number of this process's membership. It is never used again.
func (m *Member) ID() int64 { return m.id }

// Close leaves the cluster: another one can lead at once. What was handed over comes into the log all the same.
func (m *Member) Close(ctx context.Context) error {
	m.cancel()
	m.work.Wait()
	err := m.resign(ctx)
	if derr := m.exec(ctx, "DELETE FROM members WHERE id = $1", m.id); derr != nil {
		err = errors.Join(err, fmt.Errorf("cluster: leaving: %w", derr))
	}
	m.pool.Close()
	return err
}

// exec carries out a statement of somebody who ends, and whom nobody asks again; it may be carried out twice. A connection of the pool that has died is no reason not to: the next one, or a new one, is taken.
func (m *Member) exec(ctx context.Context, statement string, args ...any) error {
	for tries := m.pool.Config().MaxConns; ; tries-- {
		_, err := m.pool.Exec(ctx, statement, args...)
		if err == nil || tries == 0 || ctx.Err() != nil || errors.As(err, new(*pgconn.ConnectError)) {
			return err
		}
	}
}

// Campaign makes the member lead as soon as nobody else does, and again whenever it was deposed, until Withdraw or Resign.
func (m *Member) Campaign() {
	m.wants.Store(true)
	m.wake(Lead)
}

// Withdraw stops campaigning. A term in which the member leads goes on, until it ends in one way or another.
func (m *Member) Withdraw() { m.wants.Store(false) }

// Resign stops leading and campaigning.
func (m *Member) Resign(ctx context.Context) error {
	m.wants.Store(false)
	return m.resign(ctx)
}

// Yield stops leading for as long as a lease, so that another member can, and goes on campaigning.
func (m *Member) Yield() {
	until := time.Now().Add(m.cfg.Lease)
	m.yields.Store(&until)
	if t := m.lead.Load(); t != nil {
		m.End(t.number)
	}
}

// End ends a term in which this member leads, or led until a moment ago: a renewal that is answered late doesn't bring it back. The member goes on campaigning, for another term.
func (m *Member) End(number int64) {
	t := m.lead.Load()
	if t == nil || t.number != number || !m.lead.CompareAndSwap(t, nil) {
		return
	}
	t.end()
	m.work.Go(func() { // the lease ends by itself; sooner, if the database can be reached
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Lease)
		defer cancel()
		if err := m.free(ctx, number); err != nil && m.ctx.Err() == nil {
			m.cfg.Logger.Warn("a term is over here, and the others don't know yet", "term", number, "error", err)
		}
	})
}

func (m *Member) resign(ctx context.Context) error {
	t := m.lead.Swap(nil)
	if t == nil {
		return nil
	}
	t.end()
	return m.free(ctx, t.number)
}

// free lets another member lead at once.
func (m *Member) free(ctx context.Context, number int64) error {
	if err := m.exec(ctx, "UPDATE lease SET member = NULL, until = clock_timestamp() WHERE term = $1", number); err != nil {
		return fmt.Errorf("cluster: giving up the lease, which ends by itself: %w", err)
	}
	if err := m.exec(ctx, "SELECT pg_notify($1, '')", string(Lead)); err != nil {
		return fmt.Errorf("cluster: telling the others: %w", err)
	}
	return nil
}

// Leads says whether this member leads at this moment, and since its clock says so can go on for a moment.
func (m *Member) Leads() bool {
	t := m.lead.Load()
	return t != nil && time.Now().Before(*t.until.Load())
}

// Term returns the number of the term in which this member leads, and a channel that is closed when it ends. Whoever writes as the leader demands in the same transaction that lease.term still is
// this number. ErrNotLeading.
func (m *Member) Term() (number int64, over <-chan struct{}, err error) {
	t := m.lead.Load()
	if t == nil || !time.Now().Before(*t.until.Load()) {
		return 0, nil, ErrNotLeading
	}
	return t.number, t.over, nil
}

// Told returns a channel that gets something when members may have news about a topic. It has one reader.
func (m *Member) Told(t Topic) <-chan struct{} { return m.told[t] }

func (m *Member) wake(t Topic) {
	select {
	case m.told[t] <- struct{}{}:
	default:
	}
}

// Tell tells all members, this one too.
func (m *Member) Tell(ctx context.Context, t Topic) error {
	if _, err := m.pool.Exec(ctx, "SELECT pg_notify($1, '')", string(t)); err != nil {
		return fmt.Errorf("cluster: telling the others: %w", err)
	}
	return nil
}

// Hint is Tell without waiting for it: several in a row are one.
func (m *Member) Hint(t Topic) {
	select {
	case m.hints <- t:
	default: // many are on their way; whoever isn't told looks by itself
	}
}

func (m *Member) hint() {
	defer m.work.Done()
	for {
		select {
		case <-m.ctx.Done():
			return
		case t := <-m.hints:
			ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Lease)
			_ = m.Tell(ctx, t) // they look by themselves, too
			cancel()
		}
	}
}

// Exclusive waits until no other member is at something, and keeps them from it until done is called, or this process dies.
func (m *Member) Exclusive(ctx context.Context, what string) (done func(), err error) {
	c, err := m.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("cluster: connecting to the database: %w", err)
	}
	if _, err := c.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", "regard "+what); err != nil {
		// It may have been given the lock all the same.
		_ = c.Hijack().Close(context.Background())
		return nil, fmt.Errorf("cluster: waiting for the others: %w", err)
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), m.cfg.Lease)
		defer cancel()
		if _, err := c.Exec(ctx, "SELECT pg_advisory_unlock(hashtextextended($1, 0))", "regard "+what); err != nil {
			_ = c.Hijack().Close(context.Background()) // the lock goes with its session
			return
		}
		c.Release()
	}, nil
}

// there says that somebody was seen lately. Who was seen in the future was seen before the database's clock was set back, and not since: whoever lives shows it within a moment.
func there(seen, secs string) string {
	return seen + " BETWEEN clock_timestamp() - make_interval(secs => " + secs + ") AND clock_timestamp() + make_interval(secs => " + secs + ")"
}

// Gone lists which of some members are gone: what they were at, nobody is at any more.
func (m *Member) Gone(ctx context.Context, members []int64) ([]int64, error) {
	rows, err := m.pool.Query(ctx, "SELECT u.id FROM unnest($1::bigint[]) AS u (id) WHERE NOT EXISTS (SELECT FROM members m WHERE m.id = u.id AND "+there("m.seen", "$2")+")",
		members, m.cfg.Gone.Seconds())
	if err != nil {
		return nil, fmt.Errorf("cluster: asking who is there: %w", err)
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("cluster: asking who is there: %w", err)
	}
	return gone, nil
}

// A Status is a member as the others see it.
type Status struct {
	ID     int64     `json:"id"`
	Name   string    `json:"name"`
	Joined time.Time `json:"joined"`
	Leads  bool      `json:"leads"`
}

// Members lists who is there.
func (m *Member) Members(ctx context.Context) ([]Status, error) { return list(ctx, m.pool, m.cfg.Gone) }

// List lists who is there, for somebody who isn't.
func List(ctx context.Context, url string) ([]Status, error) {
	cfg, err := dsn.Parse(url)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster: connecting to the database: %w", err)
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	return list(ctx, c, defaultGone)
}

func list(ctx context.Context, db interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}, gone time.Duration) ([]Status, error) {
	rows, err := db.Query(ctx, `SELECT m.id, m.name, m.joined, coalesce(l.member = m.id AND l.until > clock_timestamp(), false) FROM members m CROSS JOIN lease l
		WHERE `+there("m.seen", "$1")+` ORDER BY m.id`, gone.Seconds())
	if err != nil {
		return nil, fmt.Errorf("cluster: asking who is there: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Status])
	if err != nil {
		return nil, fmt.Errorf("cluster: asking who is there: %w", err)
	}
	return out, nil
}

// sight is what a beat saw of the others.
type sight struct {
	term    int64
	leader  string
	renewed time.Time // by this process's clock; zero: nobody has led yet
	members int
}

// Stats is for monitoring: how a member takes part, as far as it knows at this moment. A member that can't reach the database knows what it saw last, and Renewed grows old.
type Stats struct {
	Leads bool
	// Term is the newest one, and Leader the name of who led in it then; empty: nobody.
	Term   int64
	Leader string
	// Renewed is when the lease was renewed last; zero: never.
	Renewed time.Time
	Members int
	// Handed counts the groups that this member handed over, Refused those of them that got no place; Waiting is how many have neither place nor refusal yet.
	Handed, Refused int64
	Waiting         int
}

func (s Stats) String() string {
	switch {
	case s.Leads:
		return fmt.Sprintf("leads, term %d", s.Term)
	case s.Leader == "":
		return fmt.Sprintf("follows, and nobody leads (the last term was %d)", s.Term)
	}
	return fmt.Sprintf("follows; %s leads, term %d", s.Leader, s.Term)
}

// Stats says how this member takes part.
func (m *Member) Stats() Stats {
	s := Stats{Leads: m.Leads(), Handed: m.handed.Load(), Refused: m.refused.Load()}
	if v := m.look.Load(); v != nil {
		s.Term, s.Leader, s.Renewed, s.Members = v.term, v.leader, v.renewed, v.members
	}
	m.mu.Lock()
	s.Waiting = len(m.waiting)
	m.mu.Unlock()
	return s
}

// lookAround is asked with each beat.
var lookAround = `SELECT l.term, extract(epoch FROM l.until - clock_timestamp())::float8, coalesce(m.name, ''), (SELECT count(*) FROM members WHERE ` + there("seen", "$1") + `)
	FROM lease l LEFT JOIN members m ON m.id = l.member AND l.until > clock_timestamp()`

// saw keeps what a beat saw, which asked at that time.
func (m *Member) saw(v sight, asked time.Time, left float64) {
	if old := m.look.Load(); old != nil {
		v.renewed = old.renewed
	}
	if left > 0 {
		v.renewed = asked.Add(min(time.Duration(left*float64(time.Second))-m.cfg.Lease, 0))
	}
	m.look.Store(&v)
}

// Vacant says for how long nobody has held the lease, once that is longer than a lease lasts: until then somebody is about to. A member that can't look knows of nobody.
func (m *Member) Vacant() time.Duration {
	since := m.joined
	if v := m.look.Load(); v != nil && !v.renewed.IsZero() {
		since = v.renewed.Add(m.cfg.Lease)
	}
	if d := time.Since(since); d > m.cfg.Lease && !m.Leads() {
		return d
	}
	return 0
}

// pulse is what beat goes on with from one time to the next.
type pulse struct {
	cfg *pgx.ConnConfig
	// conn is its own: what the others have to say to the database, and however much it is, doesn't hold up a renewal.
	conn *pgx.Conn
	// ahead is since when the lease has lasted for longer than any can.
	ahead time.Time
}

// close makes the next beat connect anew. That one doesn't wait for the end of this connection.
func (p *pulse) close() {
	if c := p.conn; c != nil {
		p.conn = nil
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = c.Close(ctx)
		}()
	}
}

// beat shows that this process lives, and keeps or takes the lease.
func (m *Member) beat(cfg *pgx.ConnConfig) {
	defer m.work.Done()
	cfg.RuntimeParams["statement_timeout"] = fmt.Sprintf("%dms", m.cfg.Lease.Milliseconds())
	p := &pulse{cfg: cfg}
	defer p.close()
	every := m.cfg.Lease / 5
	t := time.NewTicker(every)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-t.C:
		case <-m.told[Lead]:
		}
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Lease)
		err := m.beatOnce(ctx, p)
		cancel()
		if err != nil {
			p.close()
		}
		if err != nil && !failing && m.ctx.Err() == nil {
			m.cfg.Logger.Error("the cluster's database can't be reached; this broker doesn't lead without it", "error", err)
		}
		failing = err != nil
	}
}

const (
	renewLease = "UPDATE lease SET until = clock_timestamp() + make_interval(secs => $1) WHERE term = $2 AND member = $3 AND until > clock_timestamp() RETURNING term"
	takeLease  = "UPDATE lease SET term = term + 1, member = $2, until = clock_timestamp() + make_interval(secs => $1) WHERE until <= clock_timestamp() RETURNING term"
	// seizeLease is for one that nobody renews, and that the database's clock, which was set back, doesn't let end.
	seizeLease = "UPDATE lease SET term = term + 1, member = $2, until = clock_timestamp() + make_interval(secs => $1) WHERE until > clock_timestamp() + make_interval(secs => 2 * $1) RETURNING term"
)

func (m *Member) beatOnce(ctx context.Context, p *pulse) (err error) {
	t := m.lead.Load()
	defer func() {
		if err != nil && t != nil && !m.Leads() {
			m.depose(t)
		}
	}()
	if p.conn == nil {
		if p.conn, err = pgx.ConnectConfig(ctx, p.cfg); err != nil {
			p.conn = nil
			return err
		}
	}
	// Before the question: the lease is counted from then on, so it never lasts longer here than there.
	asked := time.Now()
	batch := &pgx.Batch{}
	batch.Queue("UPDATE members SET seen = clock_timestamp() WHERE id = $1", m.id)
	switch {
	case t != nil:
		batch.Queue(renewLease, m.cfg.Lease.Seconds(), t.number, m.id)
	case !m.wants.Load() || m.yielding():
	case !p.ahead.IsZero() && asked.Sub(p.ahead) > m.cfg.Lease: // whoever leads has had the time to renew it
		batch.Queue(seizeLease, m.cfg.Lease.Seconds(), m.id)
	default:
		batch.Queue(takeLease, m.cfg.Lease.Seconds(), m.id)
	}
	leasing := batch.Len() > 1
	batch.Queue(lookAround, m.cfg.Gone.Seconds())
	res := p.conn.SendBatch(ctx, batch)
	tag, err := res.Exec()
	var number int64
	none := false
	if err == nil && leasing {
		if err = res.QueryRow().Scan(&number); errors.Is(err, pgx.ErrNoRows) {
			none, err = true, nil
		}
	}
	var v sight
	var left float64
	if err == nil {
		err = res.QueryRow().Scan(&v.term, &left, &v.leader, &v.members)
	}
	if cerr := res.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	m.saw(v, asked, left)
	switch ahead := left > 2*m.cfg.Lease.Seconds(); {
	case !ahead:
		p.ahead = time.Time{}
	case p.ahead.IsZero():
		p.ahead = asked
	}
	if tag.RowsAffected() == 0 {
		// Somebody cleaned up behind a member that was thought gone. What it was at was refused; it goes on under its number, which nobody else has.
		if _, err := p.conn.Exec(ctx, "INSERT INTO members (id, name) OVERRIDING SYSTEM VALUE VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", m.id, m.cfg.Name); err != nil {
			return err
		}
	}
	until := asked.Add(m.cfg.Lease - m.cfg.Lease/10)
	switch {
	case t != nil && none:
		m.depose(t)
	case t != nil:
		t.until.Store(&until)
	case leasing && !none:
		t = &term{number: number, over: make(chan struct{})}
		t.until.Store(&until)
		m.lead.Store(t)
		if !m.wants.Load() { // any more: it was asked before
			m.End(number)
			return nil
		}
		m.cfg.Logger.Info("this broker leads", "term", number)
	}
	return nil
}

func (m *Member) yielding() bool {
	until := m.yields.Load()
	return until != nil && time.Now().Before(*until)
}

func (m *Member) depose(t *term) {
	if m.lead.CompareAndSwap(t, nil) {
		m.cfg.Logger.Warn("this broker doesn't lead any more", "term", t.number)
	}
	t.end()
}

// listen passes on what the members tell each other. After a pause in the connection anything may have happened.
func (m *Member) listen(cfg *pgx.ConnConfig) {
	defer m.work.Done()
	for m.ctx.Err() == nil {
		err := m.listenOn(cfg)
		if m.ctx.Err() != nil {
			return
		}
		m.cfg.Logger.Warn("the connection that carries news of the other brokers is lost; it is made again", "error", err)
		select {
		case <-m.ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func (m *Member) listenOn(cfg *pgx.ConnConfig) error {
	cfg.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) {
		if _, ok := m.told[Topic(n.Channel)]; ok {
			m.wake(Topic(n.Channel))
		}
	}
	c, err := pgx.ConnectConfig(m.ctx, cfg)
	if err != nil {
		return err
	}
	defer c.Close(context.Background()) //nolint:errcheck // nothing is under way on it
	for _, t := range topics {
		if _, err := c.Exec(m.ctx, "LISTEN "+string(t)); err != nil {
			return err
		}
	}
	for _, t := range topics {
		m.wake(t)
	}
	for {
		// A network that was cut says nothing: ask from time to time.
		ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
		err := c.PgConn().WaitForNotification(ctx)
		cancel()
		switch {
		case err == nil:
		case m.ctx.Err() != nil:
			return m.ctx.Err()
		case pgconn.Timeout(err):
			ping, cancel := context.WithTimeout(m.ctx, m.cfg.Lease)
			err := c.Ping(ping)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}

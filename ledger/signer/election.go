package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/trillian/util/election2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// tryEvery is how often one who isn't the master asks for the lock; a bad clock lets others go first.
	tryEvery    = 200 * time.Millisecond
	tryBadEvery = time.Second
	// beatEvery is how often the master shows that it is alive; silence is how long PostgreSQL waits for that before it ends the session, and with it the mastership.
	beatEvery = 500 * time.Millisecond
	silence   = "3s"
	// beatLimit bounds one such sign, behind a batch that is being integrated.
	beatLimit = 30 * time.Second
)

// Elections is an election2.Factory on PostgreSQL: the master for a resource is who holds an advisory lock of a session.
//
// What it guarantees. [Election.DB] is that very session: work that is done through it ends when the mastership does, whatever the process believes, so there are never two masters who both
// change something. A master that dies, falls silent or is cut off is followed within about 3 seconds, one that resigns at once.
//
// What it doesn't. It needs a session of its own: a pooler in between that gives transactions to different sessions (PgBouncer in transaction mode) breaks it.
type Elections struct {
	cfg   *pgxpool.Config
	clock func() time.Time
	log   *slog.Logger
	off   *atomic.Int64 // this clock minus PostgreSQL's, in nanoseconds, as of the last sign of life
	// standby is called when somebody else was found to be the master; nil: nothing is.
	standby func()
}

var _ election2.Factory = (*Elections)(nil)

// NewElections makes a factory. Nil clock is time.Now.
func NewElections(dsn string, clock func() time.Time, log *slog.Logger) (*Elections, error) {
	cfg, err := poolConfig(dsn, "regard signer master")
	if err != nil {
		return nil, err
	}
	if clock == nil {
		clock = time.Now
	}
	cfg.MaxConns, cfg.MinConns, cfg.MinIdleConns = 1, 0, 0
	cfg.MaxConnLifetime, cfg.MaxConnIdleTime = math.MaxInt64, math.MaxInt64
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	cfg.ConnConfig.RuntimeParams["idle_session_timeout"] = silence
	cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = silence
	return &Elections{cfg: cfg, clock: clock, log: log, off: new(atomic.Int64)}, nil
}

// Off is how far this clock is ahead of PostgreSQL's, as far as is known.
func (f *Elections) Off() time.Duration { return time.Duration(f.off.Load()) }

// NewElection implements election2.Factory.
func (f *Elections) NewElection(_ context.Context, resource string) (election2.Election, error) {
	return f.New(resource), nil
}

// New is NewElection for who needs the session.
func (f *Elections) New(resource string) *Election { return &Election{of: f, resource: resource} }

// Election is an election2.Election.
type Election struct {
	of       *Elections
	resource string

	mu     sync.Mutex
	held   context.Context // nil: never master
	cancel context.CancelCauseFunc
	db     *pgxpool.Pool
	beat   chan struct{} // closed when the signs of life have ended
}

var (
	_ election2.Election = (*Election)(nil)

	errLost     = errors.New("the session with PostgreSQL that held the mastership is gone")
	errResigned = errors.New("resigned")
)

// DB is the session that holds the lock: a pool of this one connection, which is never replaced. It is closed when the mastership ends; nil before the first Await.
func (e *Election) DB() *pgxpool.Pool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.db
}

// Await implements election2.Election.
func (e *Election) Await(ctx context.Context) error {
	if e.isMaster() {
		return nil
	}
	if err := e.Resign(ctx); err != nil {
		return err
	}
	cfg := e.of.cfg.Copy()
	var used atomic.Bool
	cfg.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
		if used.Swap(true) {
			return errLost
		}
		return nil
	}
	db, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return fmt.Errorf("opening the session of the election: %w", err)
	}
	if err := e.capture(ctx, db); err != nil {
		db.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("standing for election: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held, e.cancel = context.WithCancelCause(context.Background())
	e.db, e.beat = db, make(chan struct{})
	go e.live(e.held, e.cancel, db, e.beat)
	return nil
}

// capture asks for the lock until it has it.
func (e *Election) capture(ctx context.Context, db *pgxpool.Pool) error {
	// Nothing that is signed may be lost with the power, whatever the database's default is.
	if _, err := db.Exec(ctx, `SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)`); err != nil {
		return err
	}
	for {
		var got bool
		if err := e.of.ask(ctx, db, `SELECT clock_timestamp(), pg_try_advisory_lock(hashtextextended('regard signer ' || $1, 0))`, []any{e.resource}, &got); err != nil || got {
			return err
		}
		if e.of.standby != nil {
			e.of.standby()
		}
		every := tryEvery
		if off(e.of.Off()) {
			every = tryBadEvery
		}
		t := time.NewTimer(every)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// ask queries PostgreSQL's clock, and more, and compares the clocks.
func (f *Elections) ask(ctx context.Context, db *pgxpool.Pool, query string, args []any, more ...any) error {
	ctx, cancel := context.WithTimeout(ctx, beatLimit)
	defer cancel()
	var theirs time.Time
	conn, err := db.Acquire(ctx) // which may take as long as a batch
	if err != nil {
		return err
	}
	defer conn.Release()
	before := f.clock()
	if err := conn.QueryRow(ctx, query, args...).Scan(append([]any{&theirs}, more...)...); err != nil {
		return err
	}
	after := f.clock()
	// Theirs was read at some moment in between: that is no difference.
	d := time.Duration(0)
	if theirs.Before(before) {
		d = before.Sub(theirs)
	} else if theirs.After(after) {
		d = after.Sub(theirs)
	}
	was := time.Duration(f.off.Swap(int64(d)))
	if off(d) && !off(was) {
		f.log.Error("this machine's clock and PostgreSQL's differ: correct the wrong one", "ahead_of_postgresql", d)
	}
	return nil
}

// live shows PostgreSQL that the session is alive, and ends the mastership when it isn't.
func (e *Election) live(held context.Context, lose context.CancelCauseFunc, db *pgxpool.Pool, done chan<- struct{}) {
	defer close(done)
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		select {
		case <-held.Done():
			return
		case <-t.C:
		}
		if err := e.of.ask(held, db, `SELECT clock_timestamp()`, nil); err != nil {
			lose(fmt.Errorf("%w: %w", errLost, err))
			return
		}
	}
}

func (e *Election) isMaster() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.held != nil && e.held.Err() == nil
}

// WithMastership implements election2.Election.
func (e *Election) WithMastership(ctx context.Context) (context.Context, error) {
	e.mu.Lock()
	held := e.held
	e.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	if held == nil || held.Err() != nil {
		cancel(errLost)
		return ctx, nil
	}
	stop := context.AfterFunc(held, func() { cancel(context.Cause(held)) })
	context.AfterFunc(ctx, func() { stop() })
	return ctx, nil
}

// Resign implements election2.Election. When it returns, the session is closed.
func (e *Election) Resign(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.held == nil {
		return nil
	}
	e.cancel(errResigned)
	<-e.beat
	e.db.Close()
	e.held = nil
	return nil
}

// Close implements election2.Election.
func (e *Election) Close(ctx context.Context) error { return e.Resign(ctx) }

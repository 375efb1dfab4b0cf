// Package signer runs the half of Trillian that brings leaves into the tree, on Trillian's own PostgreSQL storage, beside Trillian's stock log server; it can also be that server itself, behind
// mutual TLS or a Unix socket, since the stock one knows no clients' certificates. It takes the place of Trillian's stock signer, which polls, and whose elections need etcd or Kubernetes.
//
// What it guarantees. Leaves are integrated as soon as they are added, whichever server took them: those that the master's own log server takes are in the tree when it answers; of others PostgreSQL tells (NOTIFY, by triggers of [Init]), and a poll each half second is only for
// when it can't. Of several signers one integrates ([Elections]): never two at a time, since the master works through the very session that holds the lock. When it dies, another goes on within
// 5 seconds. A root is durable before anybody sees it. A clock that steps back doesn't stop the tree: roots get artificial times, an alarm is raised (metric, error in the log, /healthz), and
// the signer leaves the mastership to another one if there is one.
//
// What it doesn't. It signs nothing, in spite of Trillian's name for it: checkpoints are signed by the broker, which trusts no root that its own order doesn't give. It doesn't choose the
// order. Trillian's stock signer must not run on the same database: it takes no part in the election, and two who integrate destroy the tree. Who can reach the database, or the stock server's
// port, can add leaves: the broker notices, but stops.
package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/log"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/storage/postgresql"
	"github.com/google/trillian/types"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/regard-broker/regard/ledger/engine"
)

// Config of a signer.
type Config struct {
	// DSN reaches the database that Init prepared, as the owner of its tables.
	DSN string
	// Tree is the log's id; 0 means the only one of the database.
	Tree int64
	// KeepRoots is how many of the newest roots are kept; 0 means 1000.
	KeepRoots int
	// Listen is where the log's RPCs are served: "host:port", for which TLS is needed, or "unix:/path". Empty: nowhere, Trillian's own server does it.
	Listen string
	// TLS says who may come. It has to demand clients' certificates; see ServerTLS.
	TLS *ServerTLS
	// Logger nil: nothing is logged.
	Logger *slog.Logger
	// Clock gives the times of roots; nil is time.Now.
	Clock func() time.Time
}

// integrateLimit bounds the memory and the duration of one transaction.
const integrateLimit = 1024

// pollEvery is for leaves of which PostgreSQL couldn't tell.
const pollEvery = 500 * time.Millisecond

// passLimit bounds one transaction. PostgreSQL has ended the session of a master that fell silent long before.
const passLimit = 30 * time.Second

// Signer is a running signer. It is safe for concurrent use.
type Signer struct {
	cfg       Config
	log       *slog.Logger
	db        *pgxpool.Pool
	tree      *trillian.Tree
	clock     *engine.Clock
	elections *Elections
	election  *Election
	watch     *watch
	metrics   *metrics
	spare     []byte     // see engine.SpareHeap
	rpc       *rpcServer // nil: none
	leads     atomic.Bool
	unknown   atomic.Bool // the database was prepared by an earlier version, which knows no batches
	apart     bool        // batches fail, which was said; of run alone
	batches   chan *batch // from the log server to the master

	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	ailing error // why nothing can be done, nil if all is well
}

// Start opens the database and takes part in the election, until Stop. It fails if the database isn't prepared or doesn't answer; what happens to it later is waited out.
func Start(ctx context.Context, cfg Config) (_ *Signer, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.KeepRoots == 0 {
		cfg.KeepRoots = 1000
	}
	if cfg.KeepRoots < 1 {
		return nil, errors.New("at least the latest root has to be kept")
	}
	engine.RedirectKlog(cfg.Logger)
	log.InitMetrics(nil) // once a process; IntegrateBatch panics without
	s := &Signer{cfg: cfg, log: cfg.Logger, batches: make(chan *batch), spare: engine.SpareHeap()}
	pool, err := poolConfig(cfg.DSN, "regard signer")
	if err != nil {
		return nil, err
	}
	pool.ConnConfig.ConnectTimeout = 5 * time.Second
	if s.elections, err = NewElections(cfg.DSN, cfg.Clock, cfg.Logger); err != nil {
		return nil, err
	}
	if s.db, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), pool); err != nil {
		return nil, fmt.Errorf("opening Trillian's database: %w", err)
	}
	defer func() {
		if err != nil {
			s.db.Close()
		}
	}()
	if s.tree, err = findTree(ctx, postgresql.NewAdminStorage(s.db), cfg.Tree); err != nil {
		return nil, fmt.Errorf("opening Trillian's database: %w", err)
	}
	s.elections.standby = s.well // it is up to the master
	s.clock = engine.NewClock(cfg.Clock, cfg.Logger)
	s.metrics = newMetrics(s)
	s.election = s.elections.New(strconv.FormatInt(s.tree.TreeId, 10))
	s.watch = newWatch(pool.ConnConfig, s.db, s.tree.TreeId, s.log)
	if cfg.Listen != "" {
		if s.rpc, err = s.newRPC(); err != nil {
			return nil, err
		}
	}
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Go(func() { s.watch.run(ctx) })
	s.done.Go(func() { s.run(ctx) })
	if s.rpc != nil {
		s.done.Go(s.rpc.serve)
	}
	return s, nil
}

// Tree is the id of the log.
func (s *Signer) Tree() int64 { return s.tree.TreeId }

// Stop finishes the requests in hand, until ctx ends, and resigns.
func (s *Signer) Stop(ctx context.Context) error {
	var err error
	if s.rpc != nil {
		err = s.rpc.stop(ctx)
	}
	s.cancel()
	s.done.Wait()
	s.db.Close()
	return err
}

// Healthy says why the tree doesn't grow, or why it soon may not.
func (s *Signer) Healthy() error {
	s.mu.Lock()
	err := s.ailing
	s.mu.Unlock()
	if b := s.clock.Behind(); b > 0 {
		err = errors.Join(err, fmt.Errorf("this machine's clock is %v behind the log's latest root: correct it", b.Round(time.Millisecond)))
	}
	if o := s.elections.Off(); off(o) {
		err = errors.Join(err, fmt.Errorf("this machine's clock and PostgreSQL's differ by %v: correct the wrong one", o.Round(time.Millisecond)))
	}
	return err
}

// tolerated is how far two clocks may differ.
const tolerated = 5 * time.Second

func off(d time.Duration) bool { return d.Abs() > tolerated }

func (s *Signer) fail(err error) {
	s.metrics.errors.Inc()
	s.mu.Lock()
	was := s.ailing
	s.ailing = err
	s.mu.Unlock()
	if was == nil || was.Error() != err.Error() {
		s.log.Error("the tree doesn't grow through this signer; it is tried again", "error", err)
	}
}

func (s *Signer) well() {
	s.mu.Lock()
	was := s.ailing
	s.ailing = nil
	s.mu.Unlock()
	if was != nil {
		s.log.Info("well again")
	}
}

// run stands for election, leads, and begins anew.
func (s *Signer) run(ctx context.Context) {
	gaveWay := false // left the mastership to others once for the sake of a bad clock
	for ctx.Err() == nil {
		if err := s.election.Await(ctx); err != nil {
			if ctx.Err() == nil {
				s.fail(err)
				sleep(ctx, tryEvery)
			}
			continue
		}
		s.metrics.master.Set(1)
		err := s.lead(ctx, gaveWay)
		s.metrics.master.Set(0)
		_ = s.election.Resign(ctx)
		if ctx.Err() != nil {
			return
		}
		gaveWay = errors.Is(err, errClock)
		if gaveWay {
			s.log.Warn("leaving the mastership to another signer, if there is one", "error", err)
			sleep(ctx, 2*tryBadEvery)
			continue
		}
		s.fail(err)
		sleep(ctx, tryEvery)
	}
}

var errClock = errors.New("this machine's clock is wrong")

// lead integrates until the mastership ends. With a clock that is wrong it doesn't, at first.
func (s *Signer) lead(ctx context.Context, gaveWay bool) error {
	held, err := s.election.WithMastership(ctx)
	if err != nil {
		return err
	}
	logs := newEdgeStorage(s.election.DB())
	root, err := s.root(held, logs)
	if err != nil {
		return err
	}
	size := root.TreeSize
	s.clock.StartAfter(int64(root.TimestampNanos))
	s.observe(size)
	bad := func() bool { return s.clock.Behind() > 0 || off(s.elections.Off()) }
	if bad() && !gaveWay {
		return errClock
	}
	s.log.Info("integrating", "tree", s.tree.TreeId, "size", size)
	u := &upkeep{s: s, analyzed: s.estimated(held), grown: make(chan uint64, 1)}
	beside, stop := context.WithCancel(held)
	var done sync.WaitGroup
	done.Go(func() { u.run(beside) })
	defer done.Wait()
	defer stop()
	u.told(size)
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	failures, wasBad := 0, bad()
	s.leads.Store(true)
	defer s.leads.Store(false)
	// What a batch whose answer was lost has brought shows when the root has been read again.
	grown := func() {
		if now := logs.root.TreeSize; now > size {
			size = now
			s.observe(size)
			u.told(size)
		}
	}
	for {
		n, err := s.pass(held, logs)
		switch {
		case held.Err() != nil:
			return context.Cause(held)
		case err != nil:
			if failures++; failures > 3 {
				return err // perhaps it is the session
			}
			s.fail(err)
			// Somebody else may have stored a root, with another time.
			if root, rerr := s.root(held, logs); rerr == nil {
				s.clock.StartAfter(int64(root.TimestampNanos))
				grown()
			}
			sleep(held, time.Duration(failures)*100*time.Millisecond)
			continue
		}
		failures = 0
		s.well()
		grown()
		if is := bad(); is != wasBad {
			if wasBad = is; is {
				return errClock
			}
		}
		if n == integrateLimit {
			continue
		}
		for waits := true; waits; {
			select {
			case b := <-s.batches:
				waits = s.grow(held, logs, b) > 0 // else look what is wrong
				grown()
				continue
			case <-s.watch.added:
			case <-t.C:
			case <-held.Done():
			}
			waits = false
		}
	}
}

// pass integrates what there is, up to the limit.
func (s *Signer) pass(ctx context.Context, logs *edgeStorage) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, passLimit)
	defer cancel()
	start := time.Now()
	n, err := log.IntegrateBatch(ctx, s.tree, integrateLimit, 0, 0, s.clock, logs, quota.Noop())
	if err != nil {
		return 0, fmt.Errorf("integrating leaves: %w", err)
	}
	if n > 0 {
		s.metrics.seconds.Observe(time.Since(start).Seconds())
		s.metrics.entries.Add(float64(n))
		s.log.Debug("integrated leaves", "count", n)
		s.watch.heard(logs.root) // sooner than PostgreSQL tells
	}
	return n, nil
}

func (s *Signer) observe(size uint64) { s.metrics.size.Set(float64(size)) }

func (s *Signer) root(ctx context.Context, logs *edgeStorage) (types.LogRootV1, error) {
	ctx, cancel := context.WithTimeout(ctx, passLimit)
	defer cancel()
	return logs.latest(ctx, s.tree.TreeId)
}

// estimated is how many leaves PostgreSQL's planner reckons with, 0 if it was never told.
func (s *Signer) estimated(ctx context.Context) uint64 {
	var n float64
	if err := s.db.QueryRow(ctx, `SELECT least((SELECT reltuples FROM pg_class WHERE oid = 'sequencedleafdata'::regclass), (SELECT reltuples FROM pg_class WHERE oid = 'leafdata'::regclass))`).Scan(&n); err != nil {
		return 0 // told again, which does no harm
	}
	return uint64(max(n, 0))
}

package store

import (
	"context"
	"errors"
	"runtime"
)

// A lane joins the writes that wait into transactions: all that wait while one is being synced go into the next. SQLite has one lane. On PostgreSQL each has a connection of its own, so that
// none of them waits for another's sync:
//
//	begins  Begin
//	order   Order.Commit
//	rest    everything else that the broker's role may do
//	keeper  what changes or deletes what is recorded
//
// What one process's only writer is to SQLite, locks of the database are to PostgreSQL. They are taken at the beginning of a transaction, in this order, and what it reads is read afterwards:
//
//	rest    nobody else's rest: what is read there and written together has no other writer
//	all     shared by everybody but who runs alone: the keeper, and what has to see all that is under way. So a key that was found is there until the end of the transaction.
//	order   one sequencer: whose batch isn't the next is refused
type lane struct {
	jobs     chan *job
	done     chan struct{}
	transact func([]*job) error
	conn     *conn  // SQLite's, for what runs outside a transaction
	end      func() // when all is written; may be nil
}

// lanes of a store. Some may be the same.
type lanes struct{ begins, order, rest, keeper *lane }

func oneLane(l *lane) lanes { return lanes{l, l, l, l} }

func (l *lanes) all() []*lane {
	var out []*lane
	for _, x := range []*lane{l.begins, l.order, l.rest, l.keeper} {
		if x != nil && (len(out) == 0 || out[0] != x) {
			out = append(out, x)
		}
	}
	return out
}

func (l *lanes) close() {
	for _, x := range l.all() {
		close(x.jobs)
	}
}

func (l *lanes) wait() {
	for _, x := range l.all() {
		<-x.done
	}
}

// job is one write.
type job struct {
	do    func(*tx) error
	begin *beginning        // instead of do, on PostgreSQL
	out   func(*conn) error // instead of do: runs alone, outside any transaction
	alone bool              // see lane
	done  chan error
}

// maxJobs bounds a transaction, so that a write never waits for an endless one.
const maxJobs = 512

func newLane(transact func([]*job) error, c *conn, end func()) *lane {
	l := &lane{jobs: make(chan *job, maxJobs), done: make(chan struct{}), transact: transact, conn: c, end: end}
	go l.write()
	return l
}

// do runs f in the next transaction and returns when that is durable. f may run twice: alone again, if another job of its transaction failed.
func (s *Store) do(ctx context.Context, f func(*tx) error) error {
	return s.submit(ctx, s.lanes.rest, &job{do: f, done: make(chan error, 1)})
}

// alone is do without any other transaction beside it.
func (s *Store) alone(ctx context.Context, f func(*tx) error) error {
	return s.submit(ctx, s.lanes.rest, &job{do: f, alone: true, done: make(chan error, 1)})
}

// keep is alone, as the keeper.
func (s *Store) keep(ctx context.Context, f func(*tx) error) error {
	if s.lanes.keeper == nil {
		return ErrNoKeeper
	}
	return s.submit(ctx, s.lanes.keeper, &job{do: f, alone: true, done: make(chan error, 1)})
}

// keepBeside is do, as the keeper.
func (s *Store) keepBeside(ctx context.Context, f func(*tx) error) error {
	if s.lanes.keeper == nil {
		return ErrNoKeeper
	}
	return s.submit(ctx, s.lanes.keeper, &job{do: f, done: make(chan error, 1)})
}

// outside runs f on SQLite's connection between two transactions.
func (s *Store) outside(ctx context.Context, f func(*conn) error) error {
	return s.submit(ctx, s.lanes.rest, &job{out: f, done: make(chan error, 1)})
}

func (s *Store) submit(ctx context.Context, l *lane, j *job) error {
	if err := ctx.Err(); err != nil { // or it might be written all the same
		return err
	}
	s.mu.RLock()
	if s.closed.Load() {
		s.mu.RUnlock()
		return ErrClosed
	}
	select {
	case l.jobs <- j:
		s.mu.RUnlock()
	case <-ctx.Done():
		s.mu.RUnlock()
		return ctx.Err()
	}
	// The write happens whether or not the caller still waits; its outcome must not be guessed, so the wait isn't cut short.
	return <-j.done
}

// write is the only goroutine that writes in this lane.
func (l *lane) write() {
	defer close(l.done)
	if l.end != nil {
		defer l.end()
	}
	batch := make([]*job, 0, maxJobs)
	for {
		j, ok := <-l.jobs
		if !ok {
			return
		}
		// Whoever can run now may have something to write, too.
		runtime.Gosched()
		batch = batch[:0]
		var alone *job
	more:
		for {
			if j.out != nil {
				alone = j
				break
			}
			if batch = append(batch, j); len(batch) == maxJobs {
				break
			}
			select {
			case j, ok = <-l.jobs:
				if !ok {
					break more
				}
			default:
				break more
			}
		}
		if len(batch) > 0 {
			l.commit(batch)
		}
		if alone != nil {
			alone.done <- classify(alone.out(l.conn))
		}
	}
}

func (l *lane) commit(batch []*job) {
	err := classify(l.transact(batch))
	if err != nil && len(batch) > 1 && !errors.Is(err, ErrUnavailable) { // of that nobody knows what was written
		// One job's failure is not the others': each gets a transaction of its own.
		for _, j := range batch {
			j.done <- classify(l.transact([]*job{j}))
		}
		return
	}
	for _, j := range batch {
		j.done <- err
	}
}

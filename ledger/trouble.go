package ledger

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// troubles are what keeps the stages from their work.
type troubles struct {
	mu                   sync.Mutex
	order, sign, publish trouble
}

type trouble struct {
	// since is when the first attempt began that failed and that none has succeeded after; zero: the last one succeeded.
	since time.Time
	err   error
	// step is when the attempt that is under way had its last answer; zero: none is, or it isn't watched.
	step time.Time
}

// ended says how an attempt ended.
func (ts *troubles) ended(t *trouble, began time.Time, err error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.step, t.err = time.Time{}, err
	switch {
	case err == nil:
		t.since = time.Time{}
	case t.since.IsZero():
		t.since = began
	}
}

// asks is the tiles.Watch of the publisher.
func (l *Log) asks(asked bool) {
	l.troubles.mu.Lock()
	defer l.troubles.mu.Unlock()
	l.troubles.publish.step = time.Time{}
	if asked {
		l.troubles.publish.step = time.Now()
	}
}

// asking runs f, which asks the directory of published files for one thing.
func (l *Log) asking(f func() error) error {
	l.asks(true)
	defer l.asks(false)
	return f()
}

// answered says that signing goes on.
func (l *Log) answered() {
	l.troubles.mu.Lock()
	defer l.troubles.mu.Unlock()
	l.troubles.sign.step = time.Now()
}

// ErrHangs: the directory of published files gives no answer. Whatever waits for one is left behind by Close, and ends when it comes.
var ErrHangs = errors.New("ledger: the directory of published files gives no answer")

var errNoAnswer = errors.New("signing waits for an answer")

// Trouble says for how long what waits couldn't be ordered, signed or published by this process, and why: one attempt after the other fails, or the one that signs or writes files gets no answer. It is 0 when the last
// attempt succeeded, however long it took: whoever is slow isn't in trouble. That witnesses are missing is no trouble of this process, either.
func (l *Log) Trouble() (time.Duration, error) {
	ts := &l.troubles
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var since time.Time
	var why error
	take := func(t time.Time, what string, err error) {
		if !t.IsZero() && (since.IsZero() || t.Before(since)) {
			since, why = t, fmt.Errorf("%s: %w", what, err)
		}
	}
	take(ts.order.since, "ordering", ts.order.err)
	take(ts.sign.since, "signing", ts.sign.err)
	take(ts.sign.step, "signing", errNoAnswer)
	take(ts.publish.since, "publishing", ts.publish.err)
	take(ts.publish.step, "publishing", ErrHangs)
	if since.IsZero() {
		return 0, nil
	}
	return time.Since(since), why
}

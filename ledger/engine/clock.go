package engine

import (
	"log/slog"
	"sync"
	"time"

	"github.com/google/trillian/util/clock"
)

// Clock is a clock.TimeSource whose time always increases: Trillian refuses a
// root that is not newer than the last, so a clock that steps back would
// otherwise stop the log until it has caught up. Times of roots are Trillian's
// own bookkeeping; nothing that Regard signs takes its time from here.
type Clock struct {
	clock  func() time.Time
	logger *slog.Logger

	mu     sync.Mutex
	last   int64 // nanoseconds since 1970
	behind time.Duration
}

var _ clock.TimeSource = (*Clock)(nil)

// Tolerance is how far the clock may lag behind the last root before it's worth a warning.
const Tolerance = time.Second

// NewClock makes a Clock of one that may jump. Nil is time.Now.
func NewClock(of func() time.Time, logger *slog.Logger) *Clock {
	if of == nil {
		of = time.Now
	}
	return &Clock{clock: of, logger: logger}
}

// StartAfter says that a root of that time, in nanoseconds since 1970, exists.
func (c *Clock) StartAfter(nanos int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, nanos)
	c.look(c.clock().UnixNano())
}

// Behind is how far the clock is behind the latest root that it heard of, zero
// within Tolerance.
func (c *Clock) Behind() time.Duration {
	now := c.clock().UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(now)
	return c.behind
}

// look compares the clock with the last time given out, and says once that it lags.
func (c *Clock) look(now int64) {
	lag := time.Duration(c.last - now)
	if lag <= Tolerance {
		lag = 0
	}
	if lag > 0 && c.behind == 0 {
		c.logger.Error("the clock is behind the log's latest root: correct it; roots continue with artificial times", "behind", lag)
	}
	c.behind = lag
}

// Now implements clock.TimeSource.
func (c *Clock) Now() time.Time {
	now := c.clock().UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(now)
	c.last = max(now, c.last+1)
	return time.Unix(0, c.last)
}

// NewTimer implements clock.TimeSource.
func (c *Clock) NewTimer(d time.Duration) clock.Timer { return clock.System.NewTimer(d) }

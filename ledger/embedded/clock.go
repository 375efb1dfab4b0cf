package embedded

import (
	"log/slog"
	"sync"
	"time"

	"github.com/google/trillian/util/clock"
)

// monotone is a clock.TimeSource whose time always increases: Trillian refuses a
// root that is not newer than the last, so a clock that steps back would
// otherwise stop the log until it has caught up. Times of roots are Trillian's
// own bookkeeping; nothing that Regard signs takes its time from here.
type monotone struct {
	clock  func() time.Time
	logger *slog.Logger

	mu     sync.Mutex
	last   int64 // nanoseconds since 1970
	behind bool  // warned about
}

var _ clock.TimeSource = (*monotone)(nil)

// tolerance is how far the clock may lag behind before it's worth a warning.
const tolerance = int64(time.Second)

func (m *monotone) startAfter(nanos int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = max(m.last, nanos)
}

// Now implements clock.TimeSource.
func (m *monotone) Now() time.Time {
	now := m.clock().UnixNano()
	m.mu.Lock()
	defer m.mu.Unlock()
	lag := m.last - now
	if behind := lag > tolerance; behind != m.behind {
		m.behind = behind
		if behind {
			m.logger.Warn("the clock is behind the log's latest root: correct it; roots continue with artificial times", "behind", time.Duration(lag))
		}
	}
	m.last = max(now, m.last+1)
	return time.Unix(0, m.last)
}

// NewTimer implements clock.TimeSource.
func (m *monotone) NewTimer(d time.Duration) clock.Timer { return clock.System.NewTimer(d) }

package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// clearEvery is how often a new leader that waits looks at what stands in its way, and how long that has to have been idle.
const clearEvery = 500 * time.Millisecond

// clear ends transactions that have the locks for which a new leader waits, wait for nothing, and do nothing, until ctx ends: their process was paused, or is cut off. Each of the two roles may end what it is at itself, at any broker with the same login.
func (s *Store) clear(ctx context.Context) {
	t := time.NewTicker(clearEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, cfg := range s.logins {
			n, err := s.terminate(ctx, cfg)
			if err != nil && ctx.Err() == nil {
				s.log.Warn("ending what an earlier leader left under way; its locks go by themselves within seconds", "error", err)
			}
			if n > 0 {
				s.log.Warn("ended what an earlier leader left under way", "transactions", n)
			}
		}
	}
}

func (s *Store) terminate(ctx context.Context, cfg *pgx.ConnConfig) (n int, err error) {
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way on it
	err = c.QueryRow(ctx, `SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid)) FROM pg_stat_activity a
		WHERE a.usename = current_user AND a.application_name <> current_setting('application_name') AND a.state LIKE 'idle in transaction%' AND a.state_change < clock_timestamp() - make_interval(secs => $1)
		AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.database = a.datid AND (l.classid::bigint << 32 | l.objid::bigint) IN ($2, $3) AND l.objsubid = 1 AND l.granted)`,
		clearEvery.Seconds(), int64(lockAll), int64(lockOrder)).Scan(&n)
	return n, err
}

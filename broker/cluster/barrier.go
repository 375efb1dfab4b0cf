package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// lostAfter is after how long without a sign nobody waits any more at a barrier for a member that may only be paused.
const lostAfter = time.Hour

// Barrier asks all members to say when all that is under way at them has ended (Landed). passed says for whom it still waits; for nobody: then nothing that a member had in hand when Barrier was called is on
// its way any more, neither in its memory nor as a group that was handed over.
//
// A member that died isn't waited for once it left, or wasn't seen for an hour: what it had in its memory is gone, unless it is only paused.
func (m *Member) Barrier(ctx context.Context) (passed func(context.Context) (waits []string, err error), err error) {
	var number int64
	var at time.Time
	// Its row stays locked until the number is there for everybody, so no two barriers have the same.
	if err := m.pool.QueryRow(ctx, "UPDATE changes SET number = number + 1 WHERE what = 'barrier' RETURNING number, clock_timestamp()").Scan(&number, &at); err != nil {
		return nil, fmt.Errorf("cluster: asking the others to finish: %w", err)
	}
	if err := m.Tell(ctx, Changed); err != nil {
		return nil, err
	}
	handed := int64(-1) // the last group that members handed over before they had landed
	return func(ctx context.Context) ([]string, error) {
		rows, err := m.pool.Query(ctx, "SELECT name FROM members WHERE landed < $1 AND joined < $2 AND seen > clock_timestamp() - make_interval(secs => $3) ORDER BY id", number, at, lostAfter.Seconds())
		if err != nil {
			return nil, fmt.Errorf("cluster: asking what the others are at: %w", err)
		}
		waits, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, fmt.Errorf("cluster: asking what the others are at: %w", err)
		}
		if len(waits) > 0 {
			return waits, nil
		}
		if handed < 0 {
			if err := m.pool.QueryRow(ctx, "SELECT coalesce(max(seq), 0) FROM handed WHERE body IS NOT NULL").Scan(&handed); err != nil {
				return nil, fmt.Errorf("cluster: asking what was handed over: %w", err)
			}
		}
		var left int64
		if err := m.pool.QueryRow(ctx, "SELECT count(*) FROM handed WHERE body IS NOT NULL AND seq <= $1", handed).Scan(&left); err != nil {
			return nil, fmt.Errorf("cluster: asking what was handed over: %w", err)
		}
		if left > 0 {
			waits = append(waits, fmt.Sprintf("whoever leads: %d groups of entries", left))
		}
		return waits, nil
	}, nil
}

// Landed says that nothing is under way any more of what was when the barrier of this number was set.
func (m *Member) Landed(ctx context.Context, number int64) error {
	if _, err := m.pool.Exec(ctx, "UPDATE members SET landed = $2 WHERE id = $1 AND landed < $2", m.id, number); err != nil {
		return fmt.Errorf("cluster: saying that nothing is under way: %w", err)
	}
	return nil
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNotAlone: brokers are at work on this database.
var ErrNotAlone = errors.New("cluster: brokers are at work on this store")

// Alone joins as the only member, and leads, so that nobody else can until it is closed. It is for whoever changes the store as a whole. Members that died count until they are gone; one that shows that it
// lives makes it fail with ErrNotAlone, which names it.
//
// The database may have been put back to an earlier moment: the term is greater than all that were used since, so that nothing of a leader of then is taken for something of this term, and so are the numbers of members that join later.
func Alone(ctx context.Context, cfg Config) (m *Member, err error) {
	if m, err = Join(ctx, cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close(context.WithoutCancel(ctx)))
			m = nil
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 2*m.cfg.Gone)
	defer cancel()
	first := map[int64]time.Time{}
	for campaigns := false; ; {
		others, living, err := m.others(ctx, first)
		switch {
		case err != nil:
			return m, err
		case len(living) > 0:
			return m, fmt.Errorf("%w: %s: stop them all, and see to it that none starts", ErrNotAlone, strings.Join(living, ", "))
		case m.Leads() && others == 0:
			return m, nil
		case others == 0 && !campaigns:
			// Numbers grow by one, and nothing is so fast as to reach the milliseconds since 1970.
			if _, err := m.pool.Exec(ctx, "SELECT setval('members_id_seq', greatest((SELECT last_value FROM members_id_seq), floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint))"); err != nil {
				return m, fmt.Errorf("cluster: numbering members anew: %w", err)
			}
			tag, err := m.pool.Exec(ctx, "UPDATE lease SET term = greatest(term, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) WHERE until <= clock_timestamp()")
			if err != nil {
				return m, fmt.Errorf("cluster: taking the lease: %w", err)
			}
			if campaigns = tag.RowsAffected() == 1; campaigns {
				m.Campaign()
			}
		}
		select {
		case <-ctx.Done():
			return m, fmt.Errorf("cluster: waiting for members to be gone and for the lease: %w", ctx.Err())
		case <-time.After(m.cfg.Lease / 10):
		}
	}
}

// others counts the other members, and names those that were seen since they were first looked at here.
func (m *Member) others(ctx context.Context, first map[int64]time.Time) (n int, living []string, err error) {
	rows, err := m.pool.Query(ctx, "SELECT id, name, seen FROM members WHERE id <> $1 AND "+there("seen", "$2")+" ORDER BY id", m.id, m.cfg.Gone.Seconds())
	if err != nil {
		return 0, nil, fmt.Errorf("cluster: asking who is there: %w", err)
	}
	var id int64
	var name string
	var seen time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &name, &seen}, func() error {
		n++
		if was, ok := first[id]; ok && seen.After(was) {
			living = append(living, name)
		} else if !ok {
			first[id] = seen
		}
		return nil
	})
	if err != nil {
		return 0, nil, fmt.Errorf("cluster: asking who is there: %w", err)
	}
	return n, living, nil
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// refusal is a group that the leader is about to refuse.
type refusal struct {
	id   [16]byte
	why  string
	done chan error
}

// Refuse tells the member that handed a group over that it gets no place.
func (m *Member) Refuse(ctx context.Context, id [16]byte, why string) error {
	r := &refusal{id: id, why: why, done: make(chan error, 1)}
	select {
	case m.refusals <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-m.ctx.Done():
		return errors.New("cluster: closed")
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-m.ctx.Done():
		return errors.New("cluster: closed")
	}
}

// refuse stores refusals: all that wait while some are being stored come next.
func (m *Member) refuse() {
	defer m.work.Done()
	for {
		var batch []*refusal
		select {
		case r := <-m.refusals:
			batch = append(batch, r)
		case <-m.ctx.Done():
			return
		}
	more:
		for len(batch) < handAtOnce {
			select {
			case r := <-m.refusals:
				batch = append(batch, r)
			default:
				break more
			}
		}
		ids, whys := make([][]byte, len(batch)), make([]string, len(batch))
		for i, r := range batch {
			ids[i], whys[i] = r.id[:], r.why
		}
		ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
		_, err := m.pool.Exec(ctx, `WITH h AS (UPDATE handed SET body = NULL, refused = r.why, at = clock_timestamp() FROM unnest($1::bytea[], $2::text[]) AS r (id, why)
			WHERE handed.id = r.id AND handed.body IS NOT NULL) SELECT pg_notify($3, '')`, ids, whys, string(Placed))
		cancel()
		if err != nil {
			err = fmt.Errorf("cluster: refusing groups: %w", err)
		}
		for _, r := range batch {
			r.done <- err
		}
	}
}

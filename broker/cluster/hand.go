package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ErrRefused: the leader refused the group, for good. See Refusal.
var ErrRefused = errors.New("cluster: the group was refused")

// Refusal is an ErrRefused with what the leader said.
type Refusal struct{ Why string }

func (r *Refusal) Error() string { return ErrRefused.Error() + ": " + r.Why }

// ErrLost: the group isn't in the database any more. Its server died before the group was on the disk, and so before it had a place; or this member was cut off for so long that its place was removed.
var ErrLost = errors.New("cluster: the group isn't in the database any more")

// Is makes a Refusal an ErrRefused.
func (r *Refusal) Is(target error) bool { return target == ErrRefused }

const (
	// handAtOnce bounds what is handed over in one statement, in groups and in bytes.
	handAtOnce = 512
	handBytes  = 8 << 20
	// lookEvery is how often a member looks by itself, without having been told.
	lookEvery = 250 * time.Millisecond
	// keepPlaced is how long the place of a group is kept for those who ask late.
	keepPlaced = 10 * time.Minute
)

// Place of a group in the log.
type Place struct {
	Indexes []int64 // of its entries, in their order
	Epoch   int64
}

// Group on its way to the leader.
type Group struct {
	ID   [16]byte
	Body []byte
}

type handing struct {
	id   [16]byte
	body []byte
	done chan handed
	// there: the database has it, and shows it to everybody.
	there atomic.Bool
}

type handed struct {
	place Place
	err   error
}

func (h *handing) end(x handed) {
	select {
	case h.done <- x:
	default: // it was told before
	}
}

// Hand hands a group to the leader, and returns when it has its place. When ctx ends before, or the database can't be reached, the group may still get one.
func (m *Member) Hand(ctx context.Context, body []byte) (Place, error) {
	h := &handing{id: uuid.Must(uuid.NewV7()), body: body, done: make(chan handed, 1)}
	select {
	case m.hands <- h:
	case <-ctx.Done():
		return Place{}, ctx.Err()
	case <-m.ctx.Done():
		return Place{}, errors.New("cluster: closed")
	}
	select {
	case x := <-h.done:
		return x.place, x.err
	case <-ctx.Done():
		m.forget(h)
		return Place{}, ctx.Err()
	case <-m.ctx.Done():
		return Place{}, errors.New("cluster: closed")
	}
}

func (m *Member) forget(h *handing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waiting, h.id)
}

// Abandon tells everybody who waits for the place of a group that this member can't wait for it any more. The groups may still get one.
func (m *Member) Abandon(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, h := range m.waiting {
		h.end(handed{err: why})
		delete(m.waiting, id)
	}
}

// insertHanded doesn't wait for the disk: nobody may rely on a group before it has its place, and the transaction that gives it one comes later in the write-ahead log, so a group with a durable place is durable, too.
const insertHanded = "WITH h AS (INSERT INTO handed (id, body) SELECT * FROM unnest($1::bytea[], $2::bytea[])) SELECT pg_notify($3, ''), set_config('synchronous_commit', 'off', true)"

// handOver stores groups: all that wait while some are being stored come next.
func (m *Member) handOver() {
	defer m.work.Done()
	for {
		var batch []*handing
		size := 0
		select {
		case h := <-m.hands:
			batch, size = append(batch, h), len(h.body)
		case <-m.ctx.Done():
			return
		}
	more:
		for len(batch) < handAtOnce && size < handBytes {
			select {
			case h := <-m.hands:
				batch, size = append(batch, h), size+len(h.body)
			default:
				break more
			}
		}
		ids, bodies := make([][]byte, len(batch)), make([][]byte, len(batch))
		m.mu.Lock()
		for i, h := range batch {
			ids[i], bodies[i] = h.id[:], h.body
			m.waiting[h.id] = h
		}
		m.mu.Unlock()
		ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
		_, err := m.pool.Exec(ctx, insertHanded, ids, bodies, string(Handed))
		cancel()
		if err == nil {
			m.handed.Add(int64(len(batch)))
		}
		for _, h := range batch {
			h.body = nil
			if h.there.Store(err == nil); err != nil {
				m.forget(h)
				h.end(handed{err: fmt.Errorf("cluster: handing over: %w", err)})
			}
		}
	}
}

// collect finds out what became of the groups that this member handed over.
func (m *Member) collect() {
	defer m.work.Done()
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		var lost bool // look for what isn't there any more, too
		select {
		case <-m.ctx.Done():
			return
		case <-m.told[Placed]:
		case <-t.C:
			lost = true
		}
		m.mu.Lock()
		ids := make([][]byte, 0, len(m.waiting))
		var there []*handing
		for id, h := range m.waiting {
			ids = append(ids, bytes.Clone(id[:]))
			if h.there.Load() {
				there = append(there, h)
			}
		}
		m.mu.Unlock()
		if len(ids) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
		err := m.collectOnce(ctx, ids)
		if err == nil && lost && len(there) > 0 {
			err = m.findLost(ctx, there)
		}
		cancel()
		if err != nil && m.ctx.Err() == nil {
			m.cfg.Logger.Warn("asking for the places of entries that were handed over; it is tried again", "error", err)
		}
	}
}

func (m *Member) collectOnce(ctx context.Context, ids [][]byte) error {
	rows, err := m.pool.Query(ctx, "SELECT id, indexes, coalesce(epoch, 0), refused FROM handed WHERE id = ANY($1) AND body IS NULL", ids)
	if err != nil {
		return err
	}
	var id, indexes []byte
	var x Place
	var refused *string
	_, err = pgx.ForEachRow(rows, []any{&id, &indexes, &x.Epoch, &refused}, func() error {
		if len(id) != 16 || len(indexes)%8 != 0 {
			return errors.New("cluster: a malformed place")
		}
		x.Indexes = nil
		for ; len(indexes) > 0; indexes = indexes[8:] {
			x.Indexes = append(x.Indexes, int64(binary.BigEndian.Uint64(indexes))) // #nosec G115 -- a log index
		}
		m.mu.Lock()
		h := m.waiting[[16]byte(id)]
		delete(m.waiting, [16]byte(id))
		m.mu.Unlock()
		switch {
		case h == nil:
		case refused != nil:
			m.refused.Add(1)
			h.end(handed{err: &Refusal{*refused}})
		default:
			h.end(handed{place: x})
		}
		return nil
	})
	return err
}

// findLost tells who waits for a group that was in the database and isn't any more.
func (m *Member) findLost(ctx context.Context, there []*handing) error {
	ids := make([][]byte, len(there))
	for i, h := range there {
		ids[i] = h.id[:]
	}
	rows, err := m.pool.Query(ctx, "SELECT u.id FROM unnest($1::bytea[]) AS u (id) WHERE NOT EXISTS (SELECT FROM handed h WHERE h.id = u.id)", ids)
	if err != nil {
		return err
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return err
	}
	for _, h := range there {
		if slices.ContainsFunc(gone, func(id []byte) bool { return bytes.Equal(id, h.id[:]) }) {
			m.forget(h)
			h.end(handed{err: ErrLost})
		}
	}
	return nil
}

// Take lists groups without a place, the oldest first, but for those that the caller is at: at most limit, and none after those that have so many bytes.
func (m *Member) Take(ctx context.Context, at [][16]byte, limit, bytes int) ([]Group, error) {
	ids := make([][]byte, len(at))
	for i := range at {
		ids[i] = at[i][:]
	}
	rows, err := m.pool.Query(ctx, `SELECT id, body FROM (SELECT *, sum(octet_length(body)) OVER (ORDER BY seq) - octet_length(body) AS before FROM (SELECT id, seq, body FROM handed WHERE body IS NOT NULL AND id <> ALL($1) ORDER BY seq LIMIT $2) w) g
		WHERE before < $3 ORDER BY seq`, ids, limit, bytes)
	if err != nil {
		return nil, fmt.Errorf("cluster: taking groups: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (g Group, err error) {
		var id []byte
		if err = r.Scan(&id, &g.Body); err == nil && len(id) != len(g.ID) {
			err = errors.New("a malformed id")
		}
		copy(g.ID[:], id)
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("cluster: taking groups: %w", err)
	}
	return out, nil
}

// Sweep removes what nobody asks for any more: places of groups, and members that are long gone. The leader calls it now and then.
func (m *Member) Sweep(ctx context.Context) error {
	batch := &pgx.Batch{}
	batch.Queue("DELETE FROM handed WHERE body IS NULL AND at < clock_timestamp() - make_interval(secs => $1)", keepPlaced.Seconds())
	batch.Queue("DELETE FROM members WHERE seen < clock_timestamp() - make_interval(secs => $1)", (24 * time.Hour).Seconds())
	if err := m.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("cluster: removing old places: %w", err)
	}
	return nil
}

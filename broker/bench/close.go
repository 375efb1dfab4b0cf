package bench

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// closing says of how many persons an epoch is to be closed, and under which load. A tenth of them come with the load.
type closing struct {
	records
	Writers int
	Before  time.Duration // of load before the close is near
}

// closed is how that went. Releases are disclosures made through the store's and the log's own interfaces; their latency is that of the log's part, until the checkpoint is signed.
type closed struct {
	Persons                 uint64        // rolls in the index
	Preparing               time.Duration // rolls and index, while entries were ordered
	Pause                   time.Duration // nothing was ordered
	Publishing              time.Duration // from the marker until the index and the checkpoint that shows it were published
	Before, During          histogram     // latency of releases, in a few seconds before and from the beginning of the preparation to the publication
	IndexBytes, FilingBytes int64         // of the published files, and of the rolls in the store
	Presence, Absence       histogram     // of making a proof
}

// lead is how long before the end of the epoch the load begins, with which the preparation falls.
func (c *closing) lead() time.Duration {
	return c.Before + time.Duration(c.Records)*40*time.Microsecond
}

func (p *preloader) closeEpoch(ctx context.Context, c *closing) (*closed, error) {
	m, err := p.past(&c.records)
	if err != nil {
		return nil, err
	}
	log := p.b.Log()
	if time.Until(log.OpenEpoch().Until) < time.Hour { // the records must fall into one epoch
		p.ahead.Add(int64(2 * time.Hour))
	}
	newcomers := c.Records / 10
	known := c.Records - newcomers
	if err := m.one(ctx, 0); err != nil {
		return nil, err
	}
	if err := atOnce(ctx, known-1, func(ctx context.Context, i int) error { return m.one(ctx, i+1) }); err != nil {
		return nil, fmt.Errorf("preloading records: %w", err)
	}
	if _, err := settle(ctx, p.b); err != nil {
		return nil, err
	}
	out := &closed{}
	open := log.OpenEpoch()
	var mu sync.Mutex
	at := &out.Before
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.released = func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		at.add(d)
	}
	var work sync.WaitGroup
	var next atomic.Int64
	stop := make(chan struct{})
	for range c.Writers {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// Half are about people who have a roll, half about others, as long as there are any.
				i := int(next.Add(1))
				if n := i / 2; i%2 == 0 && n <= newcomers {
					i = known + n - 1
				} else {
					i %= known
				}
				if err := m.one(ctx, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wait := func(what string, done func() bool) {
		limit := time.Now().Add(5 * time.Minute)
		for !done() && ctx.Err() == nil {
			if time.Now().After(limit) {
				cancel(fmt.Errorf("waiting in vain for %s", what))
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	begin := time.Now()
	wait("the first releases", func() bool { return time.Since(begin) > c.Before })
	mu.Lock()
	at = &out.During
	mu.Unlock()
	p.ahead.Add(int64(open.Until.Sub(p.now()) - c.lead()))
	wait("the end of the epoch", func() bool { return log.OpenEpoch().Number > open.Number })
	marker, turned := log.OpenEpoch().Marker, time.Now()
	wait("the publication of the marker", func() bool {
		cp, ok := log.Published()
		return ok && uint64(marker) < cp.Size()
	})
	out.Publishing = time.Since(turned)
	close(stop)
	work.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	metrics := log.Metrics()
	out.Preparing, out.Pause = metrics.LastPrepare, metrics.LastClose
	return out, p.measureIndex(ctx, open.Number, m, out)
}

// measureIndex asks for the size of a closed epoch's index and makes proofs from it.
func (p *preloader) measureIndex(ctx context.Context, n proof.Epoch, m *past, out *closed) error {
	e, err := store.Order{Store: p.b.Store()}.Epoch(ctx, n)
	if err != nil {
		return err
	}
	out.Persons = e.Items
	err = filepath.WalkDir(filepath.Join(p.b.PublicDir(), "index", n.String()), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		out.IndexBytes += info.Size()
		return err
	})
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", "file:"+store.FileIn(p.dir)+"?_pragma=query_only(1)&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer db.Close()
	for more := true; more; {
		if more, err = p.b.Store().Pack(ctx); err != nil {
			return err
		}
	}
	// Of the table of what isn't packed the epoch's part: the next one has begun.
	var packed, loose, rows, own int64
	err = errors.Join(
		db.QueryRowContext(ctx, "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name IN ('rolls', 'rolls_label')").Scan(&packed),
		db.QueryRowContext(ctx, "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name = 'filings'").Scan(&loose),
		db.QueryRowContext(ctx, "SELECT count(*) FROM filings").Scan(&rows),
		db.QueryRowContext(ctx, "SELECT count(*) FROM filings WHERE epoch = ?", int64(n)).Scan(&own),
	)
	if err != nil {
		return fmt.Errorf("measuring the rolls: %w", err)
	}
	out.FilingBytes = packed + loose*own/max(rows, 1)
	for i := range 2000 {
		h := &out.Presence
		who := i * 13 % (m.r.Records - m.r.Records/10)
		if i%2 == 1 {
			h, who = &out.Absence, maxPersons-1-i
		}
		subject, err := pivot(m.walk.at(int64(who))).Subject()
		if i%2 == 1 {
			subject, err = pivot(who).Subject()
		}
		if err != nil {
			return err
		}
		begin := time.Now()
		found, err := p.prove(ctx, e, subject)
		h.add(time.Since(begin))
		if err == nil && found != (i%2 == 0) {
			err = fmt.Errorf("a roll is there: %v", found)
		}
		if err != nil {
			return fmt.Errorf("a proof about person %d: %w", who, err)
		}
	}
	return nil
}

// prove makes what shows that a subject has a roll, or none: label, bucket, path, and the roll.
func (p *preloader) prove(ctx context.Context, e ledger.ClosedEpoch, s proof.Subject) (bool, error) {
	z, _, err := p.b.Ring().Labels().Prove(ctx, e.LabelKey, e.Number, s)
	if err != nil {
		return false, err
	}
	b, _, err := p.b.Log().Bucket(e, z)
	if err != nil {
		return false, err
	}
	root, ok := b.Find(z)
	if !ok {
		return false, nil
	}
	roll, err := p.b.Log().Roll(ctx, e, z)
	if err == nil && roll.Root() != root {
		err = errors.New("the roll isn't the one in the index")
	}
	return true, err
}

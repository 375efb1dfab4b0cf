package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// maxStepBack is how far the clock may be behind the log's own time before the log refuses to go on.
const maxStepBack = time.Hour

// maxStepAhead is how far the clock may be ahead of the log's own time before the log refuses to go on; a log with long epochs waits for two of them.
const maxStepAhead = 31 * 24 * time.Hour

// monotonic is a clock that never goes back within a log, so that no marker is older than the one before, nor far ahead: a marker can't be taken back, and one of a time
// that hasn't come would keep the log from going on until then.
type monotonic struct {
	last  time.Time // zero before the very first marker
	ahead time.Duration
	alarm bool
}

// leap reports an error if t is too far ahead to be believed.
func (m *monotonic) leap(t time.Time) error {
	if m.last.IsZero() || t.Sub(m.last) <= m.ahead {
		return nil
	}
	return fmt.Errorf("%w: the clock says %s, but the last time this log has seen is %s, more than %v before: set the clock right. If the log really stood still so long, start it once with the clock confirmed (ConfirmClock)",
		ErrUnavailable, t.UTC().Format(time.RFC3339), m.last.Format(time.RFC3339), m.ahead)
}

// now returns the log's time. A clock that is behind by little stands still; one that is behind or ahead by much is an error: the log won't back-date, nor
// close epochs before their time.
func (m *monotonic) now(t time.Time, logger *slog.Logger) (time.Time, error) {
	t = t.UTC()
	if err := m.leap(t); err != nil {
		return t, err
	}
	switch {
	case !t.Before(m.last):
		m.last, m.alarm = t, false
		return t, nil
	case m.last.Sub(t) > maxStepBack:
		return t, fmt.Errorf("%w: the clock says %s, but this log has seen %s: set the clock right", ErrUnavailable, t.Format(time.RFC3339), m.last.Format(time.RFC3339))
	case !m.alarm:
		m.alarm = true
		logger.Error("the clock stepped back; the log keeps its time until the clock has caught up", "clock", t, "log", m.last)
	}
	return m.last, nil
}

// boundary returns the end of the epoch that opens at t: the next multiple of every since 1970 in UTC, so that 24 hours end at midnight.
func boundary(t time.Time, every time.Duration) time.Time {
	n, ms := t.UnixMilli(), every.Milliseconds()
	return time.UnixMilli((n/ms + 1) * ms).UTC()
}

// turn is a marker that is about to be committed.
type turn struct {
	opens  OpenEpoch
	closes *ClosedEpoch
	roster *roster // of the closed epoch, for its files
}

// prepareTurn closes the open epoch, of which nothing may be ordered meanwhile, and makes the marker that opens the next. It can be repeated.
func (l *Log) prepareTurn(ctx context.Context, now time.Time) (*turn, error) {
	start := time.Now()
	key, public, err := l.cfg.Labeler.CurrentKey(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("asking for the label key of the next epoch: %w", err)
	}
	next := l.order.next(l)
	opened := now.Truncate(time.Millisecond)
	t := &turn{opens: OpenEpoch{Marker: next, Opened: opened, Until: boundary(opened, l.cfg.Epoch), LabelKey: key}}
	m := proof.Marker{Opened: proof.TimeOf(opened), Until: proof.TimeOf(t.opens.Until), VRF: proof.LabelPublicKey(public)}
	if open := l.order.open; open != nil {
		if t.closes, t.roster, err = l.closeEpoch(ctx, *open, next); err != nil {
			return nil, fmt.Errorf("closing epoch %d: %w", open.Number, err)
		}
		t.opens.Number = open.Number + 1
		m.Epoch = t.opens.Number
		m.Closed = &proof.Closed{
			Previous: proof.LeafHash(open.Text), First: open.Marker, Size: t.closes.Size,
			Items: t.closes.Items, Bits: t.closes.Bits, Index: t.closes.Root,
		}
		for kind, n := range l.order.counts {
			m.Closed.Counts = append(m.Closed.Counts, proof.Count{Kind: kind, N: n})
		}
		slices.SortFunc(m.Closed.Counts, func(a, b proof.Count) int {
			if a.Kind < b.Kind {
				return -1
			}
			return 1
		})
		l.count.closeNanos.Store(int64(time.Since(start)))
		l.cfg.Logger.Info("epoch closing", "epoch", uint64(open.Number), "entries", t.closes.Size, "rolls", t.closes.Items, "took", time.Since(start))
	}
	if t.opens.Text, err = m.AppendText(nil); err != nil {
		return nil, fmt.Errorf("writing the marker: %w", err)
	}
	return t, nil
}

// closeEpoch labels what is left and makes the index.
func (l *Log) closeEpoch(ctx context.Context, open OpenEpoch, next proof.Index) (*ClosedEpoch, *roster, error) {
	r, err := l.finishRoster(ctx, open)
	if err != nil {
		return nil, nil, err
	}
	sum, err := r.summary()
	if err != nil {
		return nil, nil, fmt.Errorf("building the index: %w", err)
	}
	return &ClosedEpoch{OpenEpoch: open, Closer: next, Size: uint64(next - open.Marker), Items: sum.Items, Bits: sum.Bits, Root: sum.Root}, r, nil
}

// publishIndexes makes the files of the indexes of all epochs that were closed since the last publication: before the checkpoint that shows their markers.
func (l *Log) publishIndexes(ctx context.Context) error {
	for open := l.OpenEpoch(); l.pub.indexed < open.Number; l.pub.indexed++ {
		e := l.pub.indexed
		c, err := l.cfg.Store.Epoch(ctx, e)
		if err != nil {
			return fmt.Errorf("publishing the index of epoch %d: %w", e, err)
		}
		r := l.pub.closed.Load()
		if r == nil || r.epoch != e {
			if err := l.restoreIndex(ctx, e); err != nil {
				return fmt.Errorf("publishing the index of epoch %d: %w", e, err)
			}
			continue
		}
		if err := r.write(l.indexDir(e), c.Root, l.advances, l.asks); err != nil {
			return fmt.Errorf("publishing the index of epoch %d: %w", e, err)
		}
		l.pub.closed.CompareAndSwap(r, nil) // another may have closed meanwhile
	}
	return nil
}

// advances says that the publication goes on, though its checkpoint is late: the index of millions takes longer than the lag that is bearable otherwise.
func (l *Log) advances() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lagSince.IsZero() {
		l.lagSince = time.Now()
	}
}

// restoreIndex makes the tiles of a closed epoch's index again if they are missing. ErrUnavailable: it may succeed later; otherwise something is lost.
func (l *Log) restoreIndex(ctx context.Context, e proof.Epoch) error {
	c, err := l.cfg.Store.Epoch(ctx, e)
	if err != nil {
		return err
	}
	err = l.asking(func() error {
		_, err := tiles.Resume(l.indexDir(e), 1<<c.Bits, c.Root)
		return err
	})
	if err == nil {
		return nil
	}
	seed, err := l.cfg.Labeler.RollSeed(ctx, c.LabelKey, e)
	if err != nil && !errors.Is(err, ErrLabelsOver) {
		return fmt.Errorf("%w: asking for the secret of the rolls: %w", ErrUnavailable, err)
	}
	if err != nil {
		return fmt.Errorf("asking for the secret of the rolls: %w", err)
	}
	r, err := l.readRoster(ctx, e, seed, 1)
	if err != nil {
		return err
	}
	l.advances()
	sum, err := r.summary()
	if err != nil {
		return err
	}
	l.advances()
	if sum.Root != c.Root {
		return fmt.Errorf("it has another root than the marker of epoch %d says", e+1)
	}
	// What an attempt left behind that ended on the way.
	if err := l.remove(l.indexDir(e)); err != nil {
		return fmt.Errorf("removing an unfinished index: %w", err)
	}
	return r.write(l.indexDir(e), c.Root, l.advances, l.asks)
}

// remove removes a published directory, if it is there, file by file: so many that one hang has to be told from all of them.
func (l *Log) remove(dir string) error {
	var list []os.DirEntry
	err := l.asking(func() (err error) {
		list, err = os.ReadDir(dir)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for i := 0; i < len(list) && err == nil; i++ {
		name := filepath.Join(dir, list[i].Name())
		switch {
		case l.deposed():
			err = ErrDeposed
		case list[i].IsDir():
			err = l.remove(name)
		default:
			err = l.asking(func() error { return os.Remove(name) })
		}
	}
	if err != nil {
		return err
	}
	l.advances()
	return l.asking(func() error { return os.Remove(dir) })
}

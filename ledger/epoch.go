package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

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
		if t.closes, err = l.closeEpoch(ctx, *open, next); err != nil {
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

// closeEpoch labels what is left, builds the index and writes its tiles.
func (l *Log) closeEpoch(ctx context.Context, open OpenEpoch, next proof.Index) (*ClosedEpoch, error) {
	if err := l.drainFiler(ctx, open); err != nil {
		return nil, err
	}
	seed, err := l.cfg.Labeler.RollSeed(ctx, open.LabelKey, open.Number)
	if err != nil {
		return nil, fmt.Errorf("asking for the secret of the rolls: %w", err)
	}
	items, filings, err := l.countItems(ctx, open.Number)
	if err != nil {
		return nil, err
	}
	var filed uint64
	for kind, n := range l.order.counts {
		if kind.Filed() {
			filed += n
		}
	}
	if filings != filed {
		// Each filed entry has exactly one place: anything else would hide one, or show it to a stranger.
		return nil, fmt.Errorf("%d filed entries but %d filings in the store", filed, filings)
	}
	sum, err := l.writeIndex(ctx, open.Number, seed, items)
	if err != nil {
		return nil, err
	}
	return &ClosedEpoch{OpenEpoch: open, Closer: next, Size: uint64(next - open.Marker), Items: sum.Items, Bits: sum.Bits, Root: sum.Root}, nil
}

func (l *Log) countItems(ctx context.Context, epoch proof.Epoch) (items, filings uint64, err error) {
	var last proof.Label
	err = l.cfg.Store.Filings(ctx, epoch, func(f Filing) error {
		if filings == 0 || f.Label != last {
			items++
		}
		filings++
		last = f.Label
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("counting filings: %w", err)
	}
	return items, filings, nil
}

func (l *Log) indexDir(epoch proof.Epoch) string {
	return filepath.Join(l.cfg.Dir, "index", epoch.String())
}

// writeIndex builds the index of an epoch from its filings, in memory bounded by the largest rolls, and its tiles with it.
func (l *Log) writeIndex(ctx context.Context, epoch proof.Epoch, seed [32]byte, items uint64) (proof.IndexSummary, error) {
	dir := l.indexDir(epoch)
	// What an attempt left behind that ended before its marker was committed.
	if err := os.RemoveAll(dir); err != nil {
		return proof.IndexSummary{}, fmt.Errorf("removing an unfinished index: %w", err)
	}
	w := tiles.Create(dir)
	var fail error
	sum, err := proof.BuildIndex(epoch, items, l.rolls(ctx, epoch, seed, &fail), func(_ uint64, leaf []byte) error {
		return w.Append(leaf)
	})
	if fail != nil {
		err = fail
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return sum, fmt.Errorf("building the index: %w", err)
	}
	if w.Root() != sum.Root {
		return sum, errors.New("building the index: the tiles have another root than the index")
	}
	return sum, nil
}

// rollBatch is how many rolls are computed at the same time: nothing is ordered meanwhile, so all processors may help.
const rollBatch = 512

// rolls gives all labels of an epoch, increasing, with the roots of their rolls.
func (l *Log) rolls(ctx context.Context, epoch proof.Epoch, seed [32]byte, fail *error) iter.Seq2[proof.Label, proof.Hash] {
	type roll struct {
		label   proof.Label
		indexes []proof.Index
		root    proof.Hash
	}
	return func(yield func(proof.Label, proof.Hash) bool) {
		var batch []roll
		stopped := errors.New("stopped")
		emit := func() error {
			var work errgroup.Group
			work.SetLimit(runtime.GOMAXPROCS(0))
			for chunk := range slices.Chunk(batch, rollBatch/16) {
				work.Go(func() error {
					for i := range chunk {
						r, err := proof.NewRoll(seed, chunk[i].label, chunk[i].indexes)
						if err != nil {
							return err
						}
						chunk[i].root = r.Root()
					}
					return nil
				})
			}
			if err := work.Wait(); err != nil {
				return err
			}
			for i := range batch {
				if !yield(batch[i].label, batch[i].root) {
					return stopped
				}
			}
			batch = batch[:0]
			return nil
		}
		err := l.cfg.Store.Filings(ctx, epoch, func(f Filing) error {
			if n := len(batch); n == 0 || batch[n-1].label != f.Label {
				if n == rollBatch {
					if err := emit(); err != nil {
						return err
					}
				}
				batch = append(batch, roll{label: f.Label})
			}
			last := &batch[len(batch)-1]
			last.indexes = append(last.indexes, f.Index)
			return nil
		})
		if err == nil {
			err = emit()
		}
		if err != nil && !errors.Is(err, stopped) {
			*fail = fmt.Errorf("making rolls: %w", err)
		}
	}
}

package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

const (
	// prepareFrom is the number of filed entries from which an epoch's rolls and index are made before it ends, while entries are ordered: fewer take less than a moment.
	prepareFrom = 20_000
	// leadPerEntry is how long before the end of the epoch that begins, for each entry.
	leadPerEntry = 30 * time.Microsecond
	// catchUpEvery is how often what was filed since is brought into the rolls.
	catchUpEvery = 250 * time.Millisecond
)

// preparation makes the rolls and the index of the open epoch while entries are still being ordered into it, so that its close has to do what changed in the last moment alone. It is in memory: a process
// that ends begins again.
type preparation struct {
	epoch proof.Epoch
	stop  context.CancelFunc
	took  time.Duration // until it was ready
	done  chan struct{} // closed when the goroutine has ended; what follows belongs to stage A then
	ready chan struct{} // closed when there is a roster, or none can be made

	roster *roster
	err    error
}

// touched are labels of the open epoch under which something was filed and that aren't in its roster yet.
type touched struct {
	mu     sync.Mutex
	epoch  proof.Epoch
	labels map[proof.Label]struct{} // nil: nobody wants to know
}

// note is called when the filings were stored, or perhaps not: whoever takes the labels finds them in the store.
func (t *touched) note(epoch proof.Epoch, filings []Filing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.labels == nil || t.epoch != epoch {
		return
	}
	for i := range filings {
		t.labels[filings[i].Label] = struct{}{}
	}
}

func (t *touched) begin(epoch proof.Epoch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.epoch, t.labels = epoch, map[proof.Label]struct{}{}
}

func (t *touched) take() []proof.Label {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := slices.Collect(maps.Keys(t.labels))
	clear(t.labels)
	return out
}

func (t *touched) giveBack(labels []proof.Label) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, z := range labels {
		t.labels[z] = struct{}{}
	}
}

// filedEntries counts the entries of the open epoch that stand in rolls.
func (o *orderer) filedEntries() (n uint64) {
	for kind, c := range o.counts {
		if kind.Filed() {
			n += c
		}
	}
	return n
}

// prepareAt is when the preparation of the open epoch's close begins: its end, if it needs none.
func (l *Log) prepareAt() time.Time {
	open := l.order.open
	n := l.order.filedEntries()
	if n < l.cfg.prepareFrom {
		return open.Until
	}
	lead := min(time.Duration(n)*leadPerEntry, open.Until.Sub(open.Opened)/2)
	return open.Until.Add(-lead)
}

// prepare begins to prepare the close of the open epoch when it is time, and reports whether it may be closed as far as that is concerned: a large epoch that is due goes on until its rolls are made.
func (l *Log) prepare(now time.Time) bool {
	p := l.order.preparing
	if p == nil {
		if l.order.atOnce || l.order.filedEntries() < l.cfg.prepareFrom {
			return true
		}
		if now.Before(l.prepareAt()) {
			return false
		}
		l.order.preparing = l.startPreparing(*l.order.open)
		return false
	}
	select {
	case <-p.ready:
		return true
	default:
		return false
	}
}

func (l *Log) startPreparing(open OpenEpoch) *preparation {
	ctx, cancel := context.WithCancel(l.ctx)
	p := &preparation{epoch: open.Number, stop: cancel, done: make(chan struct{}), ready: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer wake(l.wakeOrder)
		start := time.Now()
		if p.roster, p.err = l.newRoster(ctx, open, 1); p.err == nil {
			_, p.err = p.roster.summary()
		}
		if p.err == nil {
			p.err = l.catchUp(ctx, p.roster)
		}
		p.took = time.Since(start)
		close(p.ready)
		if p.err != nil {
			if ctx.Err() == nil {
				l.cfg.Logger.Error("preparing the end of the epoch failed; nothing is ordered while it closes", "epoch", uint64(open.Number), "error", p.err)
			}
			return
		}
		l.cfg.Logger.Info("epoch prepared to close", "epoch", uint64(open.Number), "rolls", p.roster.items(), "took", p.took)
		wake(l.wakeOrder)
		t := time.NewTicker(catchUpEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
			if err := l.catchUp(ctx, p.roster); err != nil {
				if ctx.Err() == nil {
					l.cfg.Logger.Warn("bringing the rolls of the open epoch up to date failed; it is tried again", "error", err)
				}
				continue
			}
			if _, err := p.roster.summary(); err != nil {
				p.err = err
				return
			}
		}
	}()
	return p
}

// end stops the preparation and returns its roster, nil if there is none.
func (p *preparation) end() *roster {
	p.stop()
	<-p.done
	if p.err != nil {
		return nil
	}
	return p.roster
}

// newRoster reads an epoch's filings; from here on what is filed is noted as well.
func (l *Log) newRoster(ctx context.Context, open OpenEpoch, workers int) (*roster, error) {
	l.touched.begin(open.Number)
	seed, err := l.cfg.Labeler.RollSeed(ctx, open.LabelKey, open.Number)
	if err != nil {
		return nil, fmt.Errorf("asking for the secret of the rolls: %w", err)
	}
	return l.readRoster(ctx, open.Number, seed, workers)
}

// catchUp makes those rolls again under whose labels something was filed since they were made.
func (l *Log) catchUp(ctx context.Context, r *roster) error {
	labels := l.touched.take()
	for i, z := range labels {
		indexes, err := l.cfg.Store.Roll(ctx, r.epoch, z)
		if err == nil && len(indexes) > 0 { // none: it was noted and not stored
			err = r.set(z, indexes)
		}
		if err != nil {
			l.touched.giveBack(labels[i:])
			return fmt.Errorf("reading a roll: %w", err)
		}
		if i%64 == 0 {
			runtime.Gosched()
		}
	}
	return nil
}

var errOtherFilings = errors.New("entries filed and entries in rolls are not the same number")

// finishRoster labels what is left and brings the rolls up to date with it. Nothing may be ordered meanwhile.
func (l *Log) finishRoster(ctx context.Context, open OpenEpoch) (*roster, error) {
	if err := l.drainFiler(ctx, open); err != nil {
		return nil, err
	}
	filed := l.order.filedEntries()
	if p := l.order.preparing; p != nil && p.epoch == open.Number {
		if r := p.end(); r != nil {
			if err := l.catchUp(ctx, r); err != nil {
				return nil, err
			}
			if r.filings == filed {
				l.count.prepareNanos.Store(int64(p.took))
				return r, nil
			}
			// Something was filed behind the log's back, as the operator's word on an unreadable entry is.
			l.cfg.Logger.Warn("the prepared rolls of the epoch are not all; they are made again", "epoch", uint64(open.Number), "filed", filed, "prepared", r.filings)
		}
		// Not again: whatever is wrong holds the log up.
		l.order.preparing, l.order.atOnce = nil, true
	}
	l.count.prepareNanos.Store(0)
	r, err := l.newRoster(ctx, open, runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	if r.filings != filed {
		// Each filed entry has exactly one place: anything else would hide one, or show it to a stranger.
		return nil, fmt.Errorf("%w: %d filed entries but %d filings in the store", errOtherFilings, filed, r.filings)
	}
	return r, nil
}

package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// waiter is a group whose Append waits, or waited.
type waiter struct {
	group  Group
	leaves []Leaf // set by stage A, in the order of group.Entries
	done   chan outcome
	told   bool
	// counted: it is part of Log.entries. Guarded by Log.mu.
	counted bool
}

type outcome struct {
	cp     proof.Checkpoint
	growth *growth
	err    error
}

// finish answers the waiter, the first time only. One stage owns a waiter at a time.
func (w *waiter) finish(o outcome) {
	if !w.told {
		w.told = true
		w.done <- o
	}
}

// ordered is a batch that is committed.
type ordered struct {
	leaves  []Leaf // by index
	hashes  []proof.Hash
	waiters []*waiter
}

func (o *ordered) first() uint64 { return uint64(o.leaves[0].Index) }

func (o *ordered) finish(res outcome) {
	for _, w := range o.waiters {
		w.finish(res)
	}
}

// orderer is the state of stage A, which only its goroutine (and Open before it) touches.
type orderer struct {
	open   *OpenEpoch // nil before the very first marker
	counts map[proof.Kind]uint64
	clock  monotonic
	// preparing is the close of the open epoch, if that has begun.
	preparing *preparation
	atOnce    bool // the open epoch is closed without, for its preparation failed
	// unsure is a batch of which it isn't known whether the Store has it.
	unsure *unsure
}

type unsure struct {
	batch   *Batch
	ordered *ordered
	counts  map[proof.Kind]uint64
	turn    *turn
}

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 3 * time.Second
	// aheadWait is how often stage A looks, at most, whether an epoch that is due can be closed yet.
	aheadWait = 20 * time.Millisecond
)

// runOrder is stage A.
func (l *Log) runOrder() {
	defer close(l.orderDone)
	defer wake(l.wakeSign)
	defer func() {
		if p := l.order.preparing; p != nil {
			p.end()
		}
	}()
	backoff := time.Duration(0)
	for {
		if backoff == 0 {
			wait := l.untilDue()
			if l.ahead() { // takePending wakes us
				wait = max(wait, aheadWait)
			}
			t := time.NewTimer(wait)
			select {
			case <-l.wakeOrder:
			case <-t.C:
			case <-l.stop:
			}
			t.Stop()
		} else {
			l.pause(backoff)
		}
		if l.isHalted() {
			<-l.stop
		}
		for !l.isHalted() {
			// Whoever can run now comes first: what they bring goes into this batch, and an idle machine waits for nobody.
			runtime.Gosched()
			if l.ahead() {
				backoff = 0
				break
			}
			ws := l.take()
			if len(ws) == 0 && !l.orderWork() {
				backoff = 0
				break
			}
			began := time.Now()
			rest, err := l.orderBatch(ws)
			l.troubles.ended(&l.troubles.order, began, err)
			if err != nil {
				l.failed(&l.count.orderErrors, "ordering entries failed; nothing is released, and it is tried again", err)
				l.mu.Lock()
				l.uncount(rest)
				l.mu.Unlock()
				for _, w := range rest {
					w.finish(outcome{err: unavailable(err)})
				}
				backoff = min(max(2*backoff, minBackoff), maxBackoff)
				break
			}
			backoff = 0
		}
		select {
		case <-l.stop:
			if backoff > 0 || l.isHalted() { // otherwise all that is left is ordered
				for _, w := range l.take() {
					w.finish(outcome{err: ErrClosed})
				}
			}
			if l.drained() {
				return
			}
		default:
		}
	}
}

// unavailable gives an error the class by which a caller decides.
func unavailable(err error) error {
	if errors.Is(err, ErrHalted) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRefused) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (l *Log) drained() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) == 0
}

// ahead says whether a batch is being signed, or waits for that. Another one ordered meanwhile would be signed sooner by its commit, which is less than what a larger batch spares: what each costs whatever its size is most
// of a round, and while processors are busy two stages at once are no faster. A log that closes orders all that is left.
func (l *Log) ahead() bool {
	select {
	case <-l.stop:
		return false
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) > 0 || l.signing
}

// take takes what waits, up to a batch.
func (l *Log) take() []*waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, entries := 0, 0
	for _, w := range l.waiting {
		if n > 0 && entries+len(w.group.Entries) > l.cfg.MaxBatch {
			break
		}
		n, entries = n+1, entries+len(w.group.Entries)
	}
	ws := slices.Clone(l.waiting[:n])
	clear(l.waiting[:n])
	l.waiting = l.waiting[n:]
	if len(l.waiting) == 0 {
		l.waiting = nil
	}
	return ws
}

// uncount takes waiters out of the number of those that wait to be ordered: they are, or they never will be. The caller holds l.mu.
func (l *Log) uncount(ws []*waiter) {
	for _, w := range ws {
		if w.counted {
			w.counted = false
			l.entries -= len(w.group.Entries)
		}
	}
}

// orderWork reports whether stage A has something to do without entries.
func (l *Log) orderWork() bool {
	select {
	case <-l.stop:
		return false // an epoch that is due now closes at the next start
	default:
	}
	now := l.cfg.Clock()
	return l.order.unsure != nil || l.prepare(now) && !now.Before(l.order.open.Until)
}

// untilDue returns how long to sleep until the epoch is due, or its close has to be prepared. At most a minute: the wall clock may be set meanwhile.
func (l *Log) untilDue() time.Duration {
	next := l.order.open.Until
	if p := l.order.preparing; p == nil {
		next = l.prepareAt()
	} else if !l.cfg.Clock().Before(next) {
		select {
		case <-p.ready:
		default:
			return time.Minute // it wakes us
		}
	}
	return min(max(next.Sub(l.cfg.Clock()), time.Millisecond), time.Minute)
}

// orderBatch gives groups their places and commits them, with a marker before them if the epoch is due. If it fails, the caller tells the waiters that it returns.
func (l *Log) orderBatch(ws []*waiter) ([]*waiter, error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.cfg.Timeout)
	defer cancel()
	if err := l.settleOrder(ctx); err != nil {
		return ws, err
	}
	now, err := l.order.clock.now(l.cfg.Clock(), l.cfg.Logger)
	if err != nil {
		return ws, err
	}
	var turn *turn
	if l.order.open == nil || l.prepare(now) && !now.Before(l.order.open.Until) {
		// Closing isn't bounded by the timeout of a batch: an epoch may be large.
		if turn, err = l.prepareTurn(l.ctx, now); err != nil {
			return ws, err
		}
		var cancelTurn context.CancelFunc
		ctx, cancelTurn = context.WithTimeout(l.ctx, l.cfg.Timeout)
		defer cancelTurn()
	}
	if len(ws) == 0 && turn == nil {
		return nil, nil // all there was to do was to find out about the last batch
	}
	err = l.commit(ctx, ws, turn)
	if err == nil || len(ws) == 0 || l.cant(err) {
		return ws, err
	}
	if len(ws) == 1 && turn == nil && !errors.Is(err, ErrRefused) {
		if errors.Is(err, ErrAlone) { // which is no trouble of the Store
			l.failAlone(ws[0], err)
			return nil, nil
		}
		return ws, err
	}
	// The Store refuses one of the groups, or fails at it, whatever we do: the others mustn't suffer.
	if turn != nil {
		if err := l.commit(ctx, nil, turn); err != nil {
			return ws, err
		}
	}
	return l.oneByOne(ws)
}

// cant says of an error of commit that it would befall any other batch, too: it isn't known what is stored, or another broker leads.
func (l *Log) cant(err error) bool {
	return !errors.Is(err, ErrRefused) && (l.order.unsure != nil || l.isHalted() || l.deposed())
}

const (
	// aloneTries is how many groups in a row may fail one by one before it is the Store that is to blame.
	aloneTries = 8
	// aloneTimeouts is how long the groups of a batch are committed one by one, in Config.Timeout: one that is to blame may take long to fail.
	aloneTimeouts = 4
)

// oneByOne commits each group in a batch of its own. One that the Store refuses is told so; one that fails in another way is to blame as well, if others don't (ErrAlone). If it fails, the caller
// tells the waiters that it returns.
func (l *Log) oneByOne(ws []*waiter) (rest []*waiter, err error) {
	ctx, cancel := context.WithTimeout(l.ctx, aloneTimeouts*l.cfg.Timeout)
	defer cancel()
	var errs []error // of rest
	stored := false
	// In any order: those that fail mustn't always be the first.
	ws = slices.Clone(ws)
	rand.Shuffle(len(ws), func(i, j int) { ws[i], ws[j] = ws[j], ws[i] }) // #nosec G404 -- it needn't be a secret
	for i, w := range ws {
		err := l.commit(ctx, []*waiter{w}, nil)
		switch {
		case err == nil:
			stored = true
		case errors.Is(err, ErrRefused):
			l.count.refused.Add(1)
			l.end(w, err)
		case l.cant(err) || ctx.Err() != nil:
			return append(rest, ws[i:]...), err
		case errors.Is(err, ErrAlone):
			l.failAlone(w, err)
		default:
			if rest, errs = append(rest, w), append(errs, err); !stored && len(rest) == aloneTries {
				return append(rest, ws[i+1:]...), err
			}
		}
	}
	if len(rest) == 0 || !stored {
		return rest, errors.Join(errs...)
	}
	for i, w := range rest {
		l.failAlone(w, fmt.Errorf("%w: %w", ErrAlone, errs[i]))
	}
	return nil, nil
}

// failAlone tells a waiter that its group is to blame, which is an ErrAlone.
func (l *Log) failAlone(w *waiter, err error) {
	l.count.alone.Add(1)
	l.cfg.Logger.Error("a group of entries can't be stored, and others can", "entries", len(w.group.Entries), "kind", string(w.group.Entries[0].Kind()), "error", err)
	l.end(w, err)
}

// end answers a waiter whose group is not stored.
func (l *Log) end(w *waiter, err error) {
	l.mu.Lock()
	l.uncount([]*waiter{w})
	l.mu.Unlock()
	w.finish(outcome{err: err})
}

// commit orders and commits one batch and hands it to stage B. Without an error, or if the waiters were handed over, they aren't the caller's any more.
func (l *Log) commit(ctx context.Context, ws []*waiter, t *turn) error {
	start := time.Now()
	b, o, counts, err := l.place(ws, t)
	if err != nil {
		return err
	}
	err = l.cfg.Store.Commit(ctx, b)
	if errors.Is(err, ErrRefused) {
		return err
	}
	if err != nil {
		l.order.unsure = &unsure{b, o, counts, t}
		if serr := l.settleOrder(ctx); serr != nil {
			return errors.Join(err, serr)
		}
		if uint64(l.order.next(l)) != o.first()+uint64(len(o.leaves)) {
			return err // nothing is stored
		}
		l.cfg.Logger.Warn("the store reported an error for a batch that it has", "error", err)
		return nil
	}
	l.committed(b, o, counts, t)
	l.count.batches.Add(1)
	l.count.orderNanos.Add(int64(time.Since(start)))
	return nil
}

func (*orderer) next(l *Log) proof.Index {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// place makes a batch: the entries of all groups in random order, so that neighbours in the log say nothing about who belongs together.
func (l *Log) place(ws []*waiter, t *turn) (*Batch, *ordered, map[proof.Kind]uint64, error) {
	b := &Batch{First: l.order.next(l)}
	epoch := l.order.open
	counts := maps.Clone(l.order.counts)
	var places []int // waiter<<32 | entry, shuffled
	for i, w := range ws {
		for j := range w.group.Entries {
			places = append(places, i<<32|j)
		}
	}
	n := len(places)
	if t != nil {
		epoch, counts = &t.opens, map[proof.Kind]uint64{}
		b.Opens, b.Closes = &t.opens, t.closes
		n++
	}
	random := make([]byte, 32*(n+1))
	if _, err := io.ReadFull(l.cfg.Rand, random); err != nil {
		return nil, nil, nil, fmt.Errorf("reading randomness: %w", err)
	}
	// ChaCha8 is a cryptographic generator; its seed is fresh for each batch.
	rand.New(rand.NewChaCha8([32]byte(random[:32]))).Shuffle( // #nosec G404 -- see above
		len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	random = random[32:]

	o := &ordered{leaves: make([]Leaf, 0, n), hashes: make([]proof.Hash, 0, n), waiters: ws}
	add := func(kind proof.Kind, text []byte) *Leaf {
		i := len(o.leaves)
		o.leaves = append(o.leaves, Leaf{
			Index: b.First + proof.Index(i), Epoch: epoch.Number, Kind: kind, Text: text, Identity: [32]byte(random[32*i : 32*i+32]),
		})
		o.hashes = append(o.hashes, proof.LeafHash(text))
		counts[kind]++
		return &o.leaves[i]
	}
	if t != nil {
		leaf := add(proof.KindEpoch, t.opens.Text)
		b.Groups = append(b.Groups, PlacedGroup{Leaves: []Leaf{*leaf}})
	}
	for _, w := range ws {
		w.leaves = make([]Leaf, len(w.group.Entries))
	}
	for _, p := range places {
		w, j := ws[p>>32], p&(1<<32-1)
		e := w.group.Entries[j].WithEpoch(epoch.Number)
		text, err := proof.EntryText(e)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("writing an entry that was checked before: %w", err)
		}
		w.leaves[j] = *add(e.Kind(), text)
	}
	for _, w := range ws {
		b.Groups = append(b.Groups, PlacedGroup{Leaves: w.leaves, Attach: w.group.Attach})
	}
	return b, o, counts, nil
}

// committed takes over the state that a committed batch leads to and wakes who comes next.
func (l *Log) committed(b *Batch, o *ordered, counts map[proof.Kind]uint64, t *turn) {
	l.order.counts = counts
	if b.Opens != nil {
		l.order.open, l.order.preparing, l.order.atOnce = b.Opens, nil, false
		l.pub.closed.Store(t.roster)
		l.cfg.Logger.Info("epoch opened", "epoch", uint64(b.Opens.Number), "marker", uint64(b.Opens.Marker), "until", b.Opens.Until)
		if b.Closes != nil {
			l.count.epochs.Add(1)
		}
	}
	l.mu.Lock()
	l.next += proof.Index(len(o.leaves))
	l.uncount(o.waiters)
	l.open = *l.order.open
	halted := l.halted
	if halted == nil {
		l.pending = append(l.pending, o)
	}
	l.mu.Unlock()
	if halted != nil { // meanwhile: nobody signs any more
		o.finish(outcome{err: halted})
	}
	l.count.entries.Add(int64(len(o.leaves)))
	for i := range o.leaves {
		if o.leaves[i].Kind.Filed() {
			l.count.toFile.Add(1)
		}
	}
	wake(l.wakeSign)
	wake(l.wakeFile)
}

// settleOrder finds out whether a batch whose commit failed is stored.
func (l *Log) settleOrder(ctx context.Context) error {
	u := l.order.unsure
	if u == nil {
		return nil
	}
	next, err := l.cfg.Store.Next(ctx)
	if err != nil {
		return fmt.Errorf("finding out whether the last batch is stored: %w", err)
	}
	first, end := u.batch.First, u.batch.First+proof.Index(len(u.ordered.leaves))
	switch next {
	case first:
		l.order.unsure = nil
		return nil
	case end:
	default:
		return l.halt("the store's order ends at log index %d, where this log left it at %d or %d: another process writes to it. Stop that process, then start again", next, first, end)
	}
	i := 0
	err = l.cfg.Store.Leaves(ctx, first, end, func(got Leaf) error {
		if want := &u.ordered.leaves[i]; got.Index != want.Index || got.Identity != want.Identity || string(got.Text) != string(want.Text) {
			return l.halt("log index %d in the store isn't what this log put there: another process writes to it. Stop that process, then start again", got.Index)
		}
		i++
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the last batch back: %w", err)
	}
	l.order.unsure = nil
	l.committed(u.batch, u.ordered, u.counts, u.turn)
	return nil
}

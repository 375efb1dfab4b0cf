package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/trillian"

	"github.com/regard-broker/regard/ledger/proof"
)

// Config of a log. Origin, Store, Signed, Trillian, TreeID, Signers, Policy, Labeler and Dir are mandatory.
type Config struct {
	// Origin names the log in its checkpoints; the names of its keys are the same. It can never change.
	Origin string
	Store  Store
	Signed SignedStore
	// Known are checkpoints of this log that were found elsewhere, at mirrors or witnesses, when it is opened. They count as the one in Signed does: the log goes on from the largest, and only if the
	// tree extends them all.
	Known [][]byte
	// Trillian holds the tree, a PREORDERED_LOG that nobody else writes to.
	Trillian trillian.TrillianLogClient
	TreeID   int64
	// Integrate has Trillian bring added leaves into the tree; nil if a signer process does that by itself: then the log follows the root.
	Integrate func(context.Context) error
	Signers   Signers
	// Policy knows the keys of this log whose checkpoints it accepts as its own: those of Signers, and while a key is being replaced the one before too.
	// Witnesses in it matter only for what Cosign returns.
	Policy  func(context.Context) (*proof.Policy, error)
	Labeler Labeler
	// Epoch is how long an epoch lasts, in whole milliseconds, aligned to UTC: 24 hours end at midnight. 0 means 24 hours.
	Epoch time.Duration
	// Dir is where checkpoint, tiles and blobs are published. It is created if missing, readable by all.
	Dir string
	// Cosign asks witnesses for their signatures before a checkpoint is published, and returns the note with those it got. It is off the release path: Append never waits for it. It decides itself
	// whether a missing quorum is an error: then the checkpoint isn't published, and the log stops with ErrBusy when that lasts longer than MaxLag. If it returns what there is, the log publishes that, and
	// goes on. It is called again, every PublishEvery, with the note that is published already, for the cosignatures that came late: it must not wait for them a second time. An error that wraps
	// ErrHalted halts the log: the witnesses saw another history. nil: published as signed by the log.
	Cosign func(ctx context.Context, note []byte) ([]byte, error)
	// Clock gives the times of markers; nil means time.Now.
	Clock func() time.Time
	// ConfirmClock says that Clock is right although it is more than 31 days (and more than two epochs) ahead of the last marker: Open refuses that otherwise. It is an
	// operator's word for one start, after the log really stood still so long, and no setting to keep.
	ConfirmClock bool
	// Rand draws identities and orders batches; nil means crypto/rand.
	Rand io.Reader
	// Leads says whether this process still leads the log, where several brokers share one; nil: there is no other. Once it is false, nothing more is published, and what would halt the log,
	// because another process writes to its stores, ends it with ErrDeposed instead. The stores themselves refuse what a deposed leader does: Leads may be late.
	Leads func() bool
	// Logger gets what the operator has to know; nil: nothing. No entry and no subject is ever logged.
	Logger *slog.Logger
	// MaxWaiting bounds the entries that are not under a signed checkpoint; 0 means 16384. Beyond it Append returns ErrBusy.
	MaxWaiting int
	// MaxBatch bounds the entries of a batch, but for a group that is larger; 0 means 1024.
	MaxBatch int
	// PublishEvery is the pause between publications; 0 means a second.
	PublishEvery time.Duration
	// MaxLag is the age of the oldest unpublished checkpoint beyond which Append returns ErrBusy; 0 means 10 seconds.
	MaxLag time.Duration
	// FileEvery is the least pause between two rounds of labelling; 0 means 250 milliseconds.
	FileEvery time.Duration
	// Timeout of one attempt to have a batch ordered or signed; 0 means 15 seconds.
	Timeout time.Duration

	// prepareFrom is the constant of that name, but in tests.
	prepareFrom uint64
}

// checkReader checks what everybody needs who reads the log.
func (c *Config) checkReader() error {
	switch {
	case c.Origin == "":
		return errors.New("ledger: no origin given")
	case c.Store == nil || c.Signed == nil:
		return errors.New("ledger: Store and Signed must be given")
	case c.Policy == nil || c.Labeler == nil:
		return errors.New("ledger: Policy and Labeler must be given")
	case c.Dir == "":
		return errors.New("ledger: no directory to publish in given")
	case c.Timeout < 0:
		return errors.New("ledger: the timeout is negative")
	}
	def(&c.Timeout, 15*time.Second)
	def(&c.MaxLag, 10*time.Second)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func (c *Config) check() error {
	if err := c.checkReader(); err != nil {
		return err
	}
	switch {
	case c.Trillian == nil || c.Signers == nil:
		return errors.New("ledger: Trillian and Signers must be given")
	case c.Epoch < 0 || c.Epoch%time.Millisecond != 0:
		return errors.New("ledger: the length of an epoch must be a positive number of whole milliseconds")
	case c.MaxWaiting < 0 || c.MaxBatch < 0 || c.PublishEvery < 0 || c.MaxLag < 0 || c.FileEvery < 0:
		return errors.New("ledger: a limit is negative")
	}
	def(&c.Epoch, 24*time.Hour)
	def(&c.MaxWaiting, 16384)
	def(&c.MaxBatch, 1024)
	def(&c.PublishEvery, time.Second)
	def(&c.FileEvery, 250*time.Millisecond)
	def(&c.prepareFrom, prepareFrom)
	return nil
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Log is a running log. It is safe for concurrent use. Only one may run on the same stores and Trillian tree.
//
// Stage A (order.go) gives entries their places and commits them; stage B (sign.go) has Trillian hash them and signs. One batch goes through both
// before the next is ordered: that one takes whatever came meanwhile, so batches grow with the load and nobody waits for a timer. The filer (file.go) labels entries, the publisher (publish.go) writes tiles.
type Log struct {
	view

	// ctx ends when nothing more may be done.
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	waiting  []*waiter
	entries  int // that wait to be ordered, or are being ordered
	next     proof.Index
	pending  []*ordered // committed, not signed
	signing  bool       // a round is under way with some of them
	signed   *signed    // last signed checkpoint; nil only within Open
	open     OpenEpoch
	closed   bool
	halted   error
	lagSince time.Time // when the oldest unpublished checkpoint was signed; zero if all are published

	order   orderer
	sign    signer
	files   filer
	touched touched
	pub     publisher

	troubles troubles

	wakeOrder, wakeSign, wakeFile chan struct{}
	orderDone, signDone, fileDone chan struct{}
	pubDone                       chan struct{}
}

// signed is a checkpoint of ours, durable.
type signed struct {
	cp   proof.Checkpoint
	note []byte
	edge edge
}

// Open recovers the log and starts it; on empty stores it makes a new log and signs its first checkpoint. ErrHalted says that the stores contradict each other,
// with what to do about it; nothing was signed then. ErrUnavailable: a part is down, or the clock is too far ahead to be believed (ConfirmClock).
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := newLog(cfg)
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := l.recover(ctx); err != nil {
		l.cancel()
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	go l.runOrder()
	go l.runSign()
	go l.runFile()
	go l.runPublish()
	return l, nil
}

func newLog(cfg Config) *Log {
	l := &Log{
		view:      view{cfg: cfg, stop: make(chan struct{})},
		wakeOrder: make(chan struct{}, 1), wakeSign: make(chan struct{}, 1), wakeFile: make(chan struct{}, 1),
		orderDone: make(chan struct{}), signDone: make(chan struct{}), fileDone: make(chan struct{}), pubDone: make(chan struct{}),
	}
	l.openEpoch = l.epoch
	return l
}

// Append puts a group into the log and returns when a checkpoint that covers it is signed and durable. Errors: ErrRefused, ErrBusy (nothing was committed),
// ErrUnavailable, ErrHalted (the group may be in the log). When ctx ends first, Append returns ErrUnavailable with ctx's error and the entries still go in.
func (l *Log) Append(ctx context.Context, g Group) (Appended, error) {
	if err := checkGroup(g); err != nil {
		return Appended{}, err
	}
	w := &waiter{group: g, done: make(chan outcome, 1)}
	if err := l.enqueue(w); err != nil {
		return Appended{}, err
	}
	var o outcome
	select {
	case o = <-w.done:
	case <-ctx.Done():
		return Appended{}, fmt.Errorf("%w: stopped waiting: %w", ErrUnavailable, ctx.Err())
	}
	if o.err != nil {
		return Appended{}, o.err
	}
	a := Appended{Checkpoint: o.cp, Entries: make([]proof.Proven, len(w.leaves))}
	for i := range w.leaves {
		leaf := &w.leaves[i]
		// Each caller computes its own proofs, so that the stage that signs needn't.
		path, err := o.growth.path(uint64(leaf.Index))
		if err != nil {
			return Appended{}, fmt.Errorf("%w: proving an entry: %v", ErrUnavailable, err)
		}
		a.Entries[i] = proof.Proven{Index: leaf.Index, Text: leaf.Text, Path: path}
	}
	return a, nil
}

// checkGroup refuses what would spoil a batch.
func checkGroup(g Group) error {
	if len(g.Entries) == 0 {
		return fmt.Errorf("%w: no entries", ErrRefused)
	}
	buf := make([]byte, 0, 256) // what most entries need
	for _, e := range g.Entries {
		if e == nil || e.Kind() == proof.KindEpoch {
			return fmt.Errorf("%w: a marker, or no entry", ErrRefused)
		}
		// The greatest epoch makes the longest text.
		if _, err := e.WithEpoch(1<<63 - 1).AppendText(buf); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return nil
}

func (l *Log) enqueue(w *waiter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ahead := l.entries + int(uint64(l.next)-l.signed.edge.size)
	switch {
	case l.halted != nil:
		return l.halted
	case l.closed:
		return ErrClosed
	case ahead > 0 && ahead+len(w.group.Entries) > l.cfg.MaxWaiting: // a single large group finds its way in when nobody waits
		l.count.busy.Add(1)
		return ErrBusy
	case l.lags():
		l.count.busy.Add(1)
		return errLag
	}
	l.waiting = append(l.waiting, w)
	w.counted = true
	l.entries += len(w.group.Entries)
	wake(l.wakeOrder)
	return nil
}

var errLag = fmt.Errorf("%w: publication is behind", ErrBusy)

// lags says whether publication is too far behind. The caller holds l.mu.
func (l *Log) lags() bool { return !l.lagSince.IsZero() && time.Since(l.lagSince) > l.cfg.MaxLag }

// Busy is the ErrBusy that Append would return now.
func (l *Log) Busy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.lags():
		return errLag
	case l.entries+int(uint64(l.next)-l.signed.edge.size) >= l.cfg.MaxWaiting:
		return ErrBusy
	}
	return nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// halt stops the log for good and tells everybody who waits.
func (l *Log) halt(format string, args ...any) error {
	return l.haltFor(fmt.Errorf("%w: %s", ErrHalted, fmt.Sprintf(format, args...)))
}

// haltFor does that for an error that wraps ErrHalted.
func (l *Log) haltFor(err error) error {
	l.mu.Lock()
	switch {
	case l.halted != nil:
	case l.deposed():
		l.halted = fmt.Errorf("%w (%v)", ErrDeposed, err)
		l.cfg.Logger.Warn("another broker leads the log: this one follows", "reason", err)
	default:
		l.halted = err
		l.cfg.Logger.Error("the log is halted and signs nothing more: the operator has to decide", "reason", err)
	}
	err = l.halted
	waiting, pending := l.waiting, l.pending
	l.uncount(waiting)
	l.waiting, l.pending = nil, nil
	l.mu.Unlock()
	for _, w := range waiting {
		w.finish(outcome{err: err})
	}
	for _, o := range pending {
		o.finish(outcome{err: err})
	}
	return err
}

// deposed says that another process leads the log by now.
func (l *Log) deposed() bool { return l.cfg.Leads != nil && !l.cfg.Leads() }

// failed counts and logs why a stage will try again. What a log leaves undone because it was deposed its successor does: that is nobody's trouble. Any other failure is told, whoever leads by now.
func (l *Log) failed(count *atomic.Int64, what string, err error) {
	if errors.Is(err, ErrDeposed) {
		l.cfg.Logger.Info("this broker doesn't lead the log any more: whoever does goes on", "reason", err)
		return
	}
	count.Add(1)
	l.cfg.Logger.Error(what, "error", err)
}

func (l *Log) isHalted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.halted != nil
}

// Err returns why the log is halted, or ErrDeposed; nil if it goes on.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.halted
}

// Checkpoint returns the last signed checkpoint. It may not be published yet.
func (l *Log) Checkpoint() proof.Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.signed.cp
}

func (l *Log) epoch() OpenEpoch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

func (l *Log) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.stop)
	}
}

// Finish accepts nothing more, and returns when what waits is ordered and signed, or can't be, or ctx ends. Close is still to be called; what that one does, another process that leads can do as well.
func (l *Log) Finish(ctx context.Context) error {
	l.shut()
	select {
	case <-l.signDone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("finishing what waits to be signed: %w", ctx.Err())
	}
}

// Close accepts nothing more, orders and signs what waits, labels what is unlabelled, publishes, and stops. If ctx ends before, it drops what is left to do: all
// of it is done at the next Open. The stores and Trillian stay open. Closing again does nothing.
//
// A directory that hangs doesn't hold it up for long: then something of the log is left that writes a file, if the directory answers again, as long as the process lives; whoever leads next looks for that.
func (l *Log) Close(ctx context.Context) error {
	l.shut()
	done := make(chan struct{})
	go func() {
		<-l.pubDone
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		l.cancel()
		err = fmt.Errorf("closing the log: %w", ctx.Err())
		if !within(done, closeWait) {
			err = fmt.Errorf("%w: %w", err, ErrHangs)
		}
	}
	l.cancel()
	return err
}

// closeWait is how long what has been told to end may take.
const closeWait = 10 * time.Second

// within waits, and reports whether it is done in time.
func within(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// pause waits, and reports whether the log goes on.
func (l *Log) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.stop:
		return false
	}
}

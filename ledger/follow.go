package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Ledger is what a broker uses of its log, whether it leads it ([Log]) or follows another broker that does ([Follower]).
type Ledger interface {
	Append(context.Context, Group) (Appended, error)
	Prove(ctx context.Context, indexes []proof.Index) (Appended, error)
	ProveWitnessed(ctx context.Context, indexes []proof.Index) (Appended, error)
	AwaitPublished(context.Context, proof.Index) (proof.Checkpoint, error)
	AwaitWitnessed(context.Context, proof.Index) (proof.Checkpoint, error)
	Receipt(context.Context, proof.Index, proof.Opening) (*proof.Receipt, error)
	History(ctx context.Context, subjects []proof.Subject, from, to proof.Epoch) (*HistoryDraft, error)
	Roll(context.Context, ClosedEpoch, proof.Label) (*proof.Roll, error)
	Bucket(ClosedEpoch, proof.Label) (proof.Bucket, []proof.Hash, error)
	Checkpoint() proof.Checkpoint
	Published() (proof.Checkpoint, bool)
	Witnessed() (proof.Checkpoint, bool)
	QuorumMissing() time.Duration
	OpenEpoch() OpenEpoch
	PutBlob(context.Context, []byte) (proof.Hash, error)
	Handler() http.Handler
	Forget(proof.Subject)
	Metrics() Metrics
	Err() error
	Busy() error
	Close(context.Context) error
}

var (
	_ Ledger = (*Log)(nil)
	_ Ledger = (*Follower)(nil)
)

// Hand gives a group to whoever leads the log, durably and exactly once, and returns its leaves in the order of Group.Entries when they are committed. Its errors are those of Append:
// after ErrUnavailable the group may still come in.
type Hand func(context.Context, Group) ([]Leaf, error)

const (
	// followEvery is how often a follower looks for a new checkpoint without being told.
	followEvery = 100 * time.Millisecond
	// keptSteps is how many steps of the tree a follower keeps, for those who hear late where their entries are.
	keptSteps = 32
	// followStep bounds the leaves that are read at a time.
	followStep = 1 << 14
)

// Follower reads a log that another process leads, and has its entries put into it by that one. It grows the tree of the Store's order itself, and takes no checkpoint whose root isn't the one
// of that tree, or that doesn't extend the ones before: what it hands out was proven here. It is safe for concurrent use.
type Follower struct {
	view
	hand   Hand
	told   <-chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	edge   edge
	signed proof.Checkpoint
	open   OpenEpoch
	steps  []step        // the last ones, oldest first
	news   chan struct{} // closed when one of the above changes
	halted error
	// underWay counts the calls of Append; idle, if somebody waits, is closed when there are none.
	underWay int
	idle     chan struct{}
	// heard is when the first of them began, or one ended with an answer of the one that leads since.
	heard time.Time
	// lagSince is when the first checkpoint was taken up that isn't published yet; zero if all are.
	lagSince time.Time

	// Of the loop, and of Follow before it.
	note []byte      // that gave signed
	seen fs.FileInfo // of the published checkpoint
}

// step is what a checkpoint added to the tree.
type step struct {
	cp     proof.Checkpoint
	growth *growth
}

// Follow begins to follow a log. Of cfg it needs what a reader does: Origin, Store, Signed, Policy, Labeler and Dir, where the one that leads publishes. told, which may be nil, says that there
// may be a new checkpoint. It waits, as long as ctx allows, for the first one: without it there is no log yet.
func Follow(ctx context.Context, cfg Config, hand Hand, told <-chan struct{}) (*Follower, error) {
	if err := cfg.checkReader(); err != nil {
		return nil, err
	}
	if hand == nil {
		return nil, errors.New("ledger: nobody to hand entries to")
	}
	f := &Follower{
		view: view{cfg: cfg, stop: make(chan struct{})}, hand: hand, told: told,
		done: make(chan struct{}), news: make(chan struct{}),
	}
	f.openEpoch = f.epoch
	for {
		err := f.begin(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("following the log: %w", err)
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return nil, fmt.Errorf("following the log: %w: nobody has begun it yet: %w", ErrUnavailable, ctx.Err())
		}
	}
	var run context.Context
	run, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go f.run(run)
	return f, nil
}

// begin takes the tree from the published files, or from the Store if there are none.
func (f *Follower) begin(ctx context.Context) error {
	last, err := f.cfg.Signed.Last(ctx)
	if err != nil {
		return fmt.Errorf("%w: reading the last signed checkpoint: %w", ErrUnavailable, err)
	}
	if last == nil {
		return ErrNotFound
	}
	if err := f.readPublished(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if cp, ok := f.Published(); ok {
		if f.edge, err = f.publishedEdge(ctx, cp); err != nil {
			return err
		}
		f.signed, f.note = cp, cp.Note()
	}
	tail, err := f.cfg.Store.Tail(ctx)
	if err != nil {
		return fmt.Errorf("%w: reading the end of the order: %w", ErrUnavailable, err)
	}
	if tail.Open == nil {
		return ErrNotFound
	}
	f.open = *tail.Open
	return f.follow(ctx)
}

// publishedEdge recovers the right edge of the published tree from its tiles.
func (f *Follower) publishedEdge(ctx context.Context, cp proof.Checkpoint) (edge, error) {
	if cp.Size() == 0 {
		return edge{}, nil
	}
	last := proof.Index(cp.Size() - 1)
	p, err := f.prove(ctx, cp, last)
	if err != nil {
		return edge{}, fmt.Errorf("%w: reading the published tree: %w", ErrUnavailable, err)
	}
	e, err := edgeFromLast(cp.Size(), proof.LeafHash(p.Text), p.Path)
	if err == nil && e.root() != cp.Root() {
		err = errors.New("its right edge doesn't give the root")
	}
	if err != nil {
		return edge{}, fmt.Errorf("%w: reading the published tree: %w", ErrUnavailable, err)
	}
	return e, nil
}

func (f *Follower) run(ctx context.Context) {
	defer close(f.done)
	t := time.NewTicker(followEvery)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-f.stop:
			return
		case <-f.told:
		case <-t.C:
		}
		round, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
		err := errors.Join(f.follow(round), f.readPublished(round))
		cancel()
		if err != nil && !failing && ctx.Err() == nil {
			f.cfg.Logger.Error("following the log failed; it is tried again", "error", err)
		}
		failing = err != nil
	}
}

// follow takes up the last signed checkpoint.
func (f *Follower) follow(ctx context.Context) error {
	if err := f.Err(); err != nil {
		return nil // the operator was told
	}
	last, err := f.cfg.Signed.Last(ctx)
	if err != nil {
		return fmt.Errorf("reading the last signed checkpoint: %w", err)
	}
	if bytes.Equal(last, f.note) {
		return nil
	}
	cp, err := f.ours(ctx, last)
	if err != nil {
		return fmt.Errorf("checking the last signed checkpoint: %w", err)
	}
	e, g := f.edge, (*growth)(nil)
	switch {
	case cp.Size() < e.size:
		// Whoever leads finds the newest one again, or halts. What is signed beside it doesn't extend what this process has.
		return fmt.Errorf("the stored checkpoint has %d entries, this broker has seen one of %d: the checkpoint store is an older copy", cp.Size(), e.size)
	case cp.Size() == e.size:
		if e.root() != cp.Root() {
			return f.halt("two checkpoints of this log, both of size %d, contradict each other: it was forked. Keep both, and tell the witnesses", cp.Size())
		}
	default:
		if e, g, err = f.grow(ctx, e, cp); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.edge, f.signed = e, cp
	f.note = last
	if published, ok := f.Published(); f.lagSince.IsZero() && (!ok || published.Size() < cp.Size()) {
		f.lagSince = time.Now()
	}
	if g != nil {
		if len(f.steps) == keptSteps {
			copy(f.steps, f.steps[1:])
			f.steps = f.steps[:keptSteps-1]
		}
		f.steps = append(f.steps, step{cp, g})
	}
	close(f.news)
	f.news = make(chan struct{})
	return nil
}

// grow reads the Store's order up to a checkpoint, whose root must come of it.
func (f *Follower) grow(ctx context.Context, e edge, cp proof.Checkpoint) (edge, *growth, error) {
	var g *growth
	open := f.OpenEpoch()
	for e.size < cp.Size() {
		end := min(e.size+followStep, cp.Size())
		hashes := make([]proof.Hash, 0, end-e.size)
		err := f.cfg.Store.Leaves(ctx, proof.Index(e.size), proof.Index(end), func(leaf Leaf) error {
			hashes = append(hashes, proof.LeafHash(leaf.Text))
			if leaf.Kind == proof.KindEpoch && leaf.Index > open.Marker {
				o, err := openedBy(leaf)
				open = o
				return err
			}
			return nil
		})
		if err != nil {
			return e, nil, fmt.Errorf("reading the order: %w", err)
		}
		g = e.grow(hashes)
		e = g.after
	}
	if e.root() != cp.Root() {
		return e, nil, f.halt("the store's entries don't give the signed root at size %d: the store was changed, or another process signs for this log", cp.Size())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = open
	return e, g, nil
}

// openedBy is the epoch that a marker opened, but for the name of its key, of which readers have no need.
func openedBy(leaf Leaf) (OpenEpoch, error) {
	e, err := proof.ParseEntry(leaf.Text)
	m, ok := e.(proof.Marker)
	if err != nil || !ok {
		return OpenEpoch{}, fmt.Errorf("reading the marker at log index %d: %w", leaf.Index, errors.Join(err, proof.ErrFormat))
	}
	return OpenEpoch{Number: m.Epoch, Marker: leaf.Index, Text: append([]byte(nil), leaf.Text...), Opened: m.Opened.Time(), Until: m.Until.Time()}, nil
}

// readPublished takes up the published checkpoint if its file has changed.
func (f *Follower) readPublished(ctx context.Context) error {
	name := filepath.Join(f.cfg.Dir, checkpointName)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for the published checkpoint: %w", err)
	}
	if f.seen != nil && os.SameFile(f.seen, info) && f.seen.ModTime().Equal(info.ModTime()) {
		return nil
	}
	n, err := os.ReadFile(name) // #nosec G304 -- our own directory
	if err != nil {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	cp, err := f.ours(ctx, n)
	if err != nil {
		return fmt.Errorf("checking the published checkpoint: %w", err)
	}
	if last, ok := f.Published(); !ok || cp.Size() >= last.Size() {
		f.published(cp)
		f.noteQuorum(cp)
		f.noteLag(!ok || cp.Size() > last.Size(), cp)
		if err := f.recoverWitnessed(ctx, cp); err != nil {
			return err
		}
	}
	f.seen = info
	return nil
}

// noteLag keeps since when the published checkpoint is behind the signed one. What moves is as old as now at most.
func (f *Follower) noteLag(moved bool, published proof.Checkpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case published.Size() >= f.edge.size:
		f.lagSince = time.Time{}
	case moved && !f.lagSince.IsZero():
		f.lagSince = time.Now()
	}
}

// heardWithin is how long the one that leads may say nothing to anybody who waits for it.
const heardWithin = 4 * time.Second

// Busy is an ErrBusy while whoever leads takes nothing that is handed over, or publishes nothing: what is asked for now would wait in vain. A single group that nobody answers for doesn't make the
// follower busy as long as others get their places.
func (f *Follower) Busy() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.underWay > 0 && time.Since(f.heard) > heardWithin:
		return fmt.Errorf("%w: nothing that was handed over has come into the log for %v", ErrBusy, time.Since(f.heard).Round(time.Second))
	case !f.lagSince.IsZero() && time.Since(f.lagSince) > f.cfg.MaxLag:
		return errLag
	}
	return nil
}

// Append hands the group to whoever leads, and returns when a checkpoint covers it that extends everything this process has seen. Errors: ErrRefused, ErrBusy (nothing was committed),
// ErrUnavailable, ErrHalted (the group may be in the log, or come there).
func (f *Follower) Append(ctx context.Context, g Group) (a Appended, err error) {
	if err := checkGroup(g); err != nil {
		return Appended{}, err
	}
	if err := f.Err(); err != nil {
		return Appended{}, err
	}
	select {
	case <-f.stop:
		return Appended{}, ErrClosed
	default:
	}
	f.mu.Lock()
	if f.underWay++; f.underWay == 1 {
		f.heard = time.Now()
	}
	f.mu.Unlock()
	defer func() { f.leave(err) }()
	// As long as one that leads would try to sign, and as long again to be heard: whoever waits holds up others.
	ctx, cancel := context.WithTimeout(ctx, 2*f.cfg.Timeout)
	defer cancel()
	leaves, err := f.hand(ctx, g)
	if err != nil {
		return Appended{}, err
	}
	if len(leaves) != len(g.Entries) {
		return Appended{}, fmt.Errorf("%w: %d places for %d entries", ErrUnavailable, len(leaves), len(g.Entries))
	}
	first, last := leaves[0].Index, leaves[0].Index
	for i := range leaves {
		first, last = min(first, leaves[i].Index), max(last, leaves[i].Index)
	}
	s, err := f.await(ctx, first, last)
	if err != nil {
		return Appended{}, err
	}
	a = Appended{Checkpoint: s.cp, Entries: make([]proof.Proven, len(leaves))}
	for i := range leaves {
		if s.growth == nil {
			break
		}
		path, err := s.growth.path(uint64(leaves[i].Index))
		if err != nil {
			return Appended{}, fmt.Errorf("%w: proving an entry: %v", ErrUnavailable, err)
		}
		a.Entries[i] = proof.Proven{Index: leaves[i].Index, Text: leaves[i].Text, Path: path}
	}
	if s.growth == nil { // this process heard of it too late
		indexes := make([]proof.Index, len(leaves))
		for i := range leaves {
			indexes[i] = leaves[i].Index
		}
		if a, err = f.Prove(ctx, indexes); err != nil {
			return Appended{}, fmt.Errorf("%w: proving entries: %w", ErrUnavailable, err)
		}
	}
	for i := range leaves {
		leaf := &leaves[i]
		// What stands in the tree must be what this process asked for.
		want, err := proof.EntryText(g.Entries[i].WithEpoch(leaf.Epoch))
		if err != nil || string(want) != string(a.Entries[i].Text) {
			return Appended{}, fmt.Errorf("%w: the entry at log index %d isn't the one that was handed over", ErrUnavailable, leaf.Index)
		}
		if _, err := proof.VerifyEntry(a.Checkpoint, a.Entries[i]); err != nil {
			return Appended{}, fmt.Errorf("%w: proving an entry: %w", ErrUnavailable, err)
		}
	}
	return a, nil
}

// leave ends a call of Append. An error that isn't of the group itself is no answer.
func (f *Follower) leave(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrHalted) {
		f.heard = time.Now()
	}
	if f.underWay--; f.underWay == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// await waits for a checkpoint that covers all of a group, and returns the step in which it came, without its growth if that is not at hand any more.
func (f *Follower) await(ctx context.Context, first, last proof.Index) (step, error) {
	for {
		f.mu.Lock()
		cp, news, halted := f.signed, f.news, f.halted
		i := slices.IndexFunc(f.steps, func(s step) bool { return uint64(first) >= s.growth.from && uint64(last) < s.growth.to })
		var s step
		if i >= 0 {
			s = f.steps[i]
		}
		f.mu.Unlock()
		switch {
		case halted != nil:
			return step{}, halted
		case i >= 0:
			return s, nil
		case uint64(last) < cp.Size():
			return step{cp: cp}, nil
		}
		select {
		case <-news:
		case <-f.stop:
			return step{}, fmt.Errorf("%w: this broker's part in the log changed before a checkpoint covered the entries, which come into it all the same", ErrUnavailable)
		case <-ctx.Done():
			return step{}, fmt.Errorf("%w: stopped waiting: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// halt stops taking up checkpoints, and tells everybody who waits.
func (f *Follower) halt(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.halted = fmt.Errorf("%w: %s", ErrHalted, fmt.Sprintf(format, args...))
	f.cfg.Logger.Error("the log that is followed can't be believed any more: nothing is released here, and the operator has to decide", "reason", f.halted)
	close(f.news)
	f.news = make(chan struct{})
	return f.halted
}

// Err returns why nothing is taken up any more, nil if something is.
func (f *Follower) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.halted
}

// Checkpoint returns the last signed checkpoint that was taken up.
func (f *Follower) Checkpoint() proof.Checkpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.signed
}

func (f *Follower) epoch() OpenEpoch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Forget does nothing: a follower remembers nobody.
func (*Follower) Forget(proof.Subject) {}

// Metrics returns what a follower knows: sizes, the open epoch, and whether it is halted.
func (f *Follower) Metrics() Metrics {
	m := f.reading()
	f.mu.Lock()
	defer f.mu.Unlock()
	m.Size, m.Epoch, m.Until, m.Halted = f.edge.size, f.open.Number, f.open.Until, f.halted != nil
	return m
}

// Close lets the calls of Append that are under way end, until ctx does, and stops following. Whoever waits then is told; what was handed over comes into the log all the same.
func (f *Follower) Close(ctx context.Context) error {
	f.mu.Lock()
	if f.underWay > 0 && f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle := f.idle
	f.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
		}
	}
	f.mu.Lock()
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	f.mu.Unlock()
	f.cancel()
	if !within(f.done, closeWait) {
		return fmt.Errorf("closing the log: %w", ErrHangs)
	}
	return nil
}

package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// publisher is the state of the goroutine that writes tiles. All of it can be made again from the Store.
type publisher struct {
	w *tiles.Writer // nil: to be recovered
	// indexed: the indexes of all epochs below are published.
	indexed proof.Epoch
	// closed is what stage A made of the last epoch that it closed; nil: published, or of an earlier process.
	closed atomic.Pointer[roster]
}

// runPublish publishes at most every PublishEvery, off the release path.
func (l *Log) runPublish() {
	defer close(l.pubDone)
	for pause := time.Duration(0); ; pause = l.cfg.PublishEvery { // at once at first: readers wait since the last run
		going := l.pause(pause)
		if !going {
			<-l.signDone
			<-l.fileDone
		}
		began := time.Now()
		err := l.publish(l.ctx)
		if errors.Is(err, errUncosigned) {
			l.troubles.ended(&l.troubles.publish, began, nil)
		} else {
			l.troubles.ended(&l.troubles.publish, began, err)
		}
		if err != nil {
			l.pub.w = nil // whatever it wrote: begin again from what is on the disk
			l.failed(&l.count.publishErrs, "publishing failed; it is tried again", err)
			if going && l.isHalted() {
				<-l.stop // once more at the end; every second would only fill the log
			}
		}
		if !going {
			return
		}
	}
}

// publish brings the files up to the last signed checkpoint: tiles first, durable, then the checkpoint that needs them.
func (l *Log) publish(ctx context.Context) error {
	if l.deposed() {
		return nil // what the other one publishes is newer
	}
	l.mu.Lock()
	s := l.signed
	l.mu.Unlock()
	start := time.Now()
	if l.pub.w == nil {
		if err := l.recoverTiles(ctx, s); err != nil {
			return err
		}
	}
	size := s.edge.size
	if last := l.last.Load(); last != nil && last.Size() >= size {
		if err := l.writeAgain(last); err != nil {
			return err
		}
		l.clearLag(s, start)
		return l.publishMore(ctx, *last)
	}
	w := l.pub.w
	if w.Size() < size {
		err := l.cfg.Store.Leaves(ctx, proof.Index(w.Size()), proof.Index(size), func(leaf Leaf) error { return w.Append(leaf.Text) })
		if err != nil {
			return fmt.Errorf("writing tiles from the store: %w", err)
		}
	}
	if w.Root() != s.cp.Root() {
		// The store says something else than what was signed: nothing of that may be published, and nothing more signed.
		return l.halt("the store's entries don't give the signed root at size %d: the store was changed. Restore it", size)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := l.publishIndexes(ctx); err != nil {
		return err
	}
	cp, err := l.cosign(ctx, s.cp)
	if err != nil {
		return err
	}
	if err := l.writeCheckpoint(cp); err != nil {
		return err
	}
	l.clearLag(s, start)
	l.count.publications.Add(1)
	l.count.publishNanos.Add(int64(time.Since(start)))
	return nil
}

// writeAgain puts the published checkpoint back if there is a smaller one: another broker, which led before, was paused in the middle of writing it. Readers take a log that shrinks for a fork. A larger one is
// that of a broker that leads by now.
func (l *Log) writeAgain(last *proof.Checkpoint) error {
	smaller := func(name string, than *proof.Checkpoint) bool {
		n, err := l.readFile(name)
		if err != nil || bytes.Equal(n, than.Note()) {
			return false // one that can't be read is nobody's older one
		}
		cp, err := l.ours(l.ctx, n)
		return err == nil && cp.Size() < than.Size()
	}
	for name, is := range map[string]*proof.Checkpoint{checkpointName: last, witnessedName: l.witnessed.Load()} {
		if is == nil || !smaller(name, is) || name == witnessedName && last.Witnessed() { // nobody reads that one then
			continue
		}
		if l.deposed() {
			return ErrDeposed
		}
		l.cfg.Logger.Warn("an older checkpoint had been published; it is replaced", "name", name, "size", is.Size())
		if err := l.writeFile(name, is.Note()); err != nil {
			return fmt.Errorf("publishing the checkpoint again: %w", err)
		}
	}
	return nil
}

// publishMore adds to the published checkpoint the cosignatures that came late.
func (l *Log) publishMore(ctx context.Context, last proof.Checkpoint) error {
	if l.cfg.Cosign == nil {
		return nil
	}
	cp, err := l.cosign(ctx, last)
	if err != nil {
		return err
	}
	if bytes.Equal(cp.Note(), last.Note()) {
		l.noteQuorum(cp)
		return nil
	}
	return l.writeCheckpoint(cp)
}

var errUncosigned = errors.New("having the checkpoint cosigned")

// cosign has a checkpoint cosigned, if there is somebody to ask, and makes sure that it still is what the log signed.
func (l *Log) cosign(ctx context.Context, cp proof.Checkpoint) (proof.Checkpoint, error) {
	note := cp.Note()
	if l.cfg.Cosign != nil {
		ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
		defer cancel()
		var err error
		note, err = l.cfg.Cosign(ctx, note)
		if errors.Is(err, ErrHalted) {
			return cp, l.haltFor(err)
		}
		if err != nil {
			return cp, fmt.Errorf("%w: %w", errUncosigned, err)
		}
	}
	got, err := l.ours(ctx, note)
	if err != nil {
		return cp, fmt.Errorf("checking the checkpoint before publishing it: %w", err)
	}
	if got.Size() != cp.Size() || got.Root() != cp.Root() {
		return cp, errors.New("the cosigned checkpoint is another one than the log's")
	}
	return got, nil
}

// writeCheckpoint shows a checkpoint to readers. The last one with the quorum stays at hand while there is none.
func (l *Log) writeCheckpoint(cp proof.Checkpoint) error {
	if l.deposed() {
		return ErrDeposed
	}
	if last := l.last.Load(); last != nil && last.Witnessed() && !cp.Witnessed() {
		if err := l.writeFile(witnessedName, last.Note()); err != nil {
			return fmt.Errorf("keeping the last witnessed checkpoint: %w", err)
		}
	}
	if err := l.writeFile(checkpointName, cp.Note()); err != nil {
		return fmt.Errorf("publishing the checkpoint: %w", err)
	}
	l.published(cp)
	l.noteQuorum(cp)
	if l.cfg.Cosign != nil && !cp.Witnessed() {
		l.count.unwitnessed.Add(1)
	}
	return nil
}

func (l *Log) readFile(name string) (n []byte, err error) {
	err = l.asking(func() error {
		n, err = os.ReadFile(filepath.Join(l.cfg.Dir, name))
		return err
	})
	return n, err
}

func (l *Log) writeFile(name string, data []byte) error {
	return l.asking(func() error { return tiles.WriteFile(l.cfg.Dir, name, data) })
}

// noteQuorum keeps since when the quorum is missing.
func (v *view) noteQuorum(cp proof.Checkpoint) {
	switch {
	case v.cfg.Cosign == nil:
	case cp.Witnessed():
		v.missing.Store(0)
	default:
		v.missing.CompareAndSwap(0, time.Now().UnixNano())
	}
}

// clearLag notes that all up to s is published; what was signed meanwhile is at most as old as start.
func (l *Log) clearLag(s *signed, start time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lagSince = time.Time{}
	if l.signed != s {
		l.lagSince = start
	}
}

// recoverTiles finds out how far the files go. If they are damaged or missing it makes all of them again.
func (l *Log) recoverTiles(ctx context.Context, s *signed) error {
	n, err := l.readFile(checkpointName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	if err == nil {
		cp, err := l.ours(ctx, n)
		if err == nil && cp.Size() <= s.edge.size {
			var w *tiles.Writer
			err := l.asking(func() error {
				w, err = tiles.Resume(l.cfg.Dir, cp.Size(), cp.Root())
				return err
			})
			if err == nil {
				w.Watched(l.asks)
				// The checkpoint that shows a marker comes after the index of the epoch that it closes.
				if l.pub.indexed, err = l.cfg.Store.EpochOf(ctx, proof.Index(cp.Size()-1)); err != nil {
					return fmt.Errorf("looking for the epoch of the published checkpoint: %w", err)
				}
				l.pub.w = w
				l.published(cp)
				return l.asking(func() error { return l.recoverWitnessed(ctx, cp) })
			}
			l.cfg.Logger.Warn("the published tiles are not usable and are made again from the store", "error", err)
		}
	}
	// A new log has nothing to make again, and says so by its first epoch.
	open := l.OpenEpoch()
	for e := proof.Epoch(0); e < open.Number; e++ {
		err := l.restoreIndex(ctx, e)
		if ctx.Err() != nil || errors.Is(err, ErrUnavailable) {
			// Behind a published checkpoint nobody would look for it again.
			return fmt.Errorf("making the index of epoch %d again: %w", e, err)
		}
		if err != nil {
			l.cfg.Logger.Error("the index of an epoch can't be made again; settlements of that epoch wait for it", "epoch", uint64(e), "error", err)
		}
	}
	l.pub.w, l.pub.indexed = tiles.Create(l.cfg.Dir), open.Number
	l.pub.w.Watched(l.asks)
	return nil
}

// recoverWitnessed finds the newest checkpoint with the quorum if the published one hasn't got it. That it is this log's, and extended by what was signed since, was checked by Open.
func (v *view) recoverWitnessed(ctx context.Context, last proof.Checkpoint) error {
	n, err := os.ReadFile(filepath.Join(v.cfg.Dir, witnessedName))
	if last.Witnessed() || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the last witnessed checkpoint: %w", err)
	}
	// Whether it has the quorum depends on the policy of now.
	if cp, err := v.ours(ctx, n); err == nil && cp.Witnessed() && cp.Size() <= last.Size() {
		v.witnessed.Store(&cp)
	}
	return nil
}

package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
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
	// last is what readers see.
	last atomic.Pointer[proof.Checkpoint]
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
		if err := l.publish(l.ctx); err != nil {
			l.count.publishErrs.Add(1)
			l.pub.w = nil // whatever it wrote: begin again from what is on the disk
			l.cfg.Logger.Error("publishing failed; it is tried again", "error", err)
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
	if last := l.pub.last.Load(); last != nil && last.Size() >= size {
		l.clearLag(s, start)
		return nil
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
	note := s.note
	if l.cfg.Cosign != nil {
		ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
		defer cancel()
		var err error
		if note, err = l.cfg.Cosign(ctx, bytes.Clone(s.note)); err != nil {
			return fmt.Errorf("having the checkpoint cosigned: %w", err)
		}
	}
	cp, err := l.ours(ctx, note)
	if err != nil {
		return fmt.Errorf("checking the checkpoint before publishing it: %w", err)
	}
	if cp.Size() != size || cp.Root() != s.cp.Root() {
		return errors.New("the cosigned checkpoint is another one than the log's")
	}
	if err := tiles.WriteFile(l.cfg.Dir, checkpointName, note); err != nil {
		return fmt.Errorf("publishing the checkpoint: %w", err)
	}
	l.published(cp)
	l.clearLag(s, start)
	l.count.publications.Add(1)
	l.count.publishNanos.Add(int64(time.Since(start)))
	return nil
}

func (l *Log) published(cp proof.Checkpoint) {
	l.pub.last.Store(&cp)
	l.count.publishedSize.Store(int64(cp.Size()))
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
	n, err := os.ReadFile(filepath.Join(l.cfg.Dir, checkpointName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	if err == nil {
		cp, err := l.ours(ctx, n)
		if err == nil && cp.Size() <= s.edge.size {
			w, err := tiles.Resume(l.cfg.Dir, cp.Size(), cp.Root())
			if err == nil {
				l.pub.w = w
				l.published(cp)
				return nil
			}
			l.cfg.Logger.Warn("the published tiles are not usable and are made again from the store", "error", err)
		}
	}
	// A new log has nothing to make again, and says so by its first epoch.
	open := l.OpenEpoch()
	for e := proof.Epoch(0); e < open.Number; e++ {
		if err := l.restoreIndex(ctx, e); err != nil {
			l.cfg.Logger.Error("the index of an epoch can't be made again; settlements of that epoch wait for it", "epoch", uint64(e), "error", err)
		}
	}
	l.pub.w = tiles.Create(l.cfg.Dir)
	return nil
}

// restoreIndex makes the tiles of a closed epoch's index again if they are missing.
func (l *Log) restoreIndex(ctx context.Context, e proof.Epoch) error {
	c, err := l.cfg.Store.Epoch(ctx, e)
	if err != nil {
		return err
	}
	if _, err := tiles.Resume(l.indexDir(e), 1<<c.Bits, c.Root); err == nil {
		return nil
	}
	seed, err := l.cfg.Labeler.RollSeed(ctx, c.LabelKey, e)
	if err != nil {
		return err
	}
	sum, err := l.writeIndex(ctx, e, seed, c.Items)
	if err != nil {
		return err
	}
	if sum.Root != c.Root {
		return fmt.Errorf("it has another root than the marker of epoch %d says", e+1)
	}
	return nil
}

// Published returns the checkpoint that readers see, with its cosignatures; false if there is none yet.
func (l *Log) Published() (proof.Checkpoint, bool) {
	cp := l.pub.last.Load()
	if cp == nil {
		return proof.Checkpoint{}, false
	}
	return *cp, true
}

// Handler serves what is published: see tiles.Handler.
func (l *Log) Handler() http.Handler { return tiles.Handler(l.cfg.Dir) }

// PutBlob publishes the bytes behind a digest that stands in a governance entry, at blob/<hex>, and returns the digest. It is durable when PutBlob returns. All of it
// is public.
func (l *Log) PutBlob(ctx context.Context, data []byte) (proof.Hash, error) {
	if err := ctx.Err(); err != nil {
		return proof.Hash{}, err
	}
	h := proof.Hash(sha256.Sum256(data))
	if err := tiles.WriteFile(l.cfg.Dir, "blob/"+hex.EncodeToString(h[:]), data); err != nil {
		return proof.Hash{}, fmt.Errorf("publishing a blob: %w", err)
	}
	return h, nil
}

package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// view is what can be read of a log by the process that leads it and by those that follow: from the published files, checked against a checkpoint, and from the Store.
type view struct {
	cfg  Config
	stop chan struct{} // closed when nothing more is accepted
	// openEpoch is the epoch in which the next entry would stand, as far as this process knows.
	openEpoch func() OpenEpoch
	// last is what readers see, witnessed the newest of what they saw with the quorum of witnesses.
	last, witnessed atomic.Pointer[proof.Checkpoint]
	// missing since: the last publication, or attempt to cosign it, ended without the quorum; in nanoseconds since 1970, 0 if it had it.
	missing atomic.Int64

	unsettled sync.Map // epochs of which it was said that receipts can't be settled
	count     counters
}

// OpenEpoch returns the epoch in which the next entry would stand.
func (v *view) OpenEpoch() OpenEpoch { return v.openEpoch() }

// Published returns the checkpoint that readers see, with its cosignatures; false if there is none yet.
func (v *view) Published() (proof.Checkpoint, bool) {
	cp := v.last.Load()
	if cp == nil {
		return proof.Checkpoint{}, false
	}
	return *cp, true
}

// Witnessed returns the newest published checkpoint that has the quorum of witnesses, which is older than Published's while the quorum is missing; false if there is none.
func (v *view) Witnessed() (proof.Checkpoint, bool) {
	cp := v.witnessed.Load()
	if cp == nil {
		return proof.Checkpoint{}, false
	}
	return *cp, true
}

// QuorumMissing returns for how long checkpoints have been published without the quorum of witnesses; 0 if the last one had it, or nobody is asked.
func (v *view) QuorumMissing() time.Duration {
	since := v.missing.Load()
	if since == 0 {
		return 0
	}
	return max(time.Since(time.Unix(0, since)), 1)
}

// best returns the checkpoint to prove an entry under: a witnessed one if there is one that covers it.
func (v *view) best(index proof.Index) (proof.Checkpoint, bool) {
	last, ok := v.Published() // once: the next may come at any moment, without the quorum
	if cp, ok := v.Witnessed(); ok && uint64(index) < cp.Size() && !last.Witnessed() {
		return cp, true
	}
	return last, ok && uint64(index) < last.Size()
}

func (v *view) published(cp proof.Checkpoint) {
	v.last.Store(&cp)
	v.count.publishedSize.Store(int64(cp.Size()))
	if cp.Witnessed() {
		v.witnessed.Store(&cp)
	}
}

// Handler serves what is published: see tiles.Handler.
func (v *view) Handler() http.Handler { return tiles.Handler(v.cfg.Dir) }

// PutBlob publishes the bytes behind a digest that stands in a governance entry, at blob/<hex>, and returns the digest. It is durable when PutBlob returns. All of it
// is public.
func (v *view) PutBlob(ctx context.Context, data []byte) (proof.Hash, error) {
	if err := ctx.Err(); err != nil {
		return proof.Hash{}, err
	}
	h := proof.Hash(sha256.Sum256(data))
	if err := tiles.WriteFile(v.cfg.Dir, "blob/"+hex.EncodeToString(h[:]), data); err != nil {
		return proof.Hash{}, fmt.Errorf("publishing a blob: %w", err)
	}
	return h, nil
}

// ours verifies a note as a checkpoint of this log.
func (v *view) ours(ctx context.Context, n []byte) (proof.Checkpoint, error) {
	policy, err := v.cfg.Policy(ctx)
	if err != nil {
		return proof.Checkpoint{}, fmt.Errorf("asking for the log's keys: %w", err)
	}
	cp, err := proof.VerifyCheckpoint(n, policy)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	if cp.Origin() != v.cfg.Origin {
		return proof.Checkpoint{}, errors.New("a checkpoint of another log")
	}
	return cp, nil
}

func (v *view) indexDir(epoch proof.Epoch) string {
	return filepath.Join(v.cfg.Dir, "index", epoch.String())
}

package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

const (
	// fileBatch is how many entries are labelled between two writes.
	fileBatch = 512
	// maxLabels bounds the labels kept in memory.
	maxLabels = 1 << 16
)

// filer labels entries: who they are about, in a form that only the keys can link to a person.
type filer struct {
	mu    sync.Mutex // one round at a time: the filer's own, or that of stage A when it closes an epoch
	epoch proof.Epoch
	known map[subject]proof.Label // labels are costly, and people appear more than once a day
}

// subject is a proof.Subject that can be looked up.
type subject struct {
	typ   proof.SubjectType
	value string
}

func key(s proof.Subject) subject { return subject{s.Type(), s.Value()} }

// Forget drops what the log keeps in memory about a subject that is being erased: its canonical form is needed for labels, and kept for as long as the epoch. It waits for
// the labelling that is under way. Call it when all entries about the subject are labelled, its erasure included: one that is labelled later brings it back.
func (l *Log) Forget(s proof.Subject) {
	l.files.mu.Lock()
	defer l.files.mu.Unlock()
	delete(l.files.known, key(s))
}

// runFile labels behind the release path, whenever something was ordered but not more often than FileEvery.
func (l *Log) runFile() {
	defer close(l.fileDone)
	backoff := time.Duration(0)
	for {
		select {
		case <-l.wakeFile:
		case <-l.stop:
			<-l.orderDone
			if err := l.drainFiler(l.ctx, l.OpenEpoch()); err != nil && l.ctx.Err() == nil { // who doesn't wait for it leaves it to the next one
				l.failed(&l.count.fileErrors, "labelling before the end failed; it is done at the next start", err)
			}
			return
		}
		if err := l.drainFiler(l.ctx, l.OpenEpoch()); err != nil {
			l.failed(&l.count.fileErrors, "labelling entries failed; no epoch closes until it works", err)
			wake(l.wakeFile)
			backoff = min(max(2*backoff, minBackoff), maxBackoff)
		} else {
			backoff = 0
		}
		l.pause(max(backoff, l.cfg.FileEvery))
	}
}

// drainFiler labels entries of an open epoch until none is left.
func (l *Log) drainFiler(ctx context.Context, open OpenEpoch) error {
	for {
		n, err := l.fileRound(ctx, open)
		l.count.filed.Add(int64(n))
		if err != nil {
			return err
		}
		if n < fileBatch {
			return nil
		}
	}
}

func (l *Log) fileRound(ctx context.Context, open OpenEpoch) (int, error) {
	f := &l.files
	f.mu.Lock()
	defer f.mu.Unlock()
	unfiled, unread := l.cfg.Store.Unfiled(ctx, open.Number, fileBatch)
	if unread != nil {
		unread = fmt.Errorf("looking for entries without a label: %w", unread)
	}
	if len(unfiled) == 0 {
		return 0, unread
	}
	if f.known == nil || f.epoch != open.Number || len(f.known) > maxLabels {
		f.epoch, f.known = open.Number, make(map[subject]proof.Label)
	}
	var ask []proof.Subject
	asked := map[subject]bool{}
	for _, u := range unfiled {
		if u.Subject.IsZero() {
			return 0, fmt.Errorf("entry %d has no subject", u.Index)
		}
		k := key(u.Subject)
		if _, ok := f.known[k]; !ok && !asked[k] {
			asked[k] = true
			ask = append(ask, u.Subject)
		}
	}
	if len(ask) > 0 {
		labels, err := l.cfg.Labeler.Label(ctx, open.LabelKey, open.Number, ask)
		if err != nil {
			return 0, fmt.Errorf("labelling: %w", err)
		}
		if len(labels) != len(ask) {
			return 0, fmt.Errorf("labelling: %d labels for %d subjects", len(labels), len(ask))
		}
		for i, s := range ask {
			f.known[key(s)] = labels[i]
		}
	}
	filings := make([]Filing, len(unfiled))
	for i, u := range unfiled {
		filings[i] = Filing{Index: u.Index, Label: f.known[key(u.Subject)]}
	}
	err := l.cfg.Store.File(ctx, open.Number, filings)
	l.touched.note(open.Number, filings)
	if err != nil {
		return 0, fmt.Errorf("storing labels: %w", err)
	}
	return len(filings), unread
}

package ledger

import (
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// counters are written by the stages.
type counters struct {
	entries, batches, rounds, again, busy, refused   atomic.Int64
	orderErrors, signErrors, fileErrors, publishErrs atomic.Int64
	filed, toFile, epochs, publications, unsettled   atomic.Int64
	unwitnessed, alone                               atomic.Int64
	orderNanos, addNanos, integrateNanos, signNanos  atomic.Int64
	publishNanos, closeNanos, prepareNanos           atomic.Int64
	publishedSize                                    atomic.Int64
}

// Metrics is a snapshot of what the log counts since it was opened. By design a round costs at most four fsyncs whatever the number of its entries: one each for
// Commit, AddSequencedLeaves, integration and the signed checkpoint; two rounds in a row share none. Labels and tiles come on top, off the release path.
type Metrics struct {
	// Entries ordered, in Batches (stage A); signed in Rounds (stage B), each of one batch or several.
	Entries, Batches, Rounds int64
	// Repeated leaves: Trillian had them from an attempt that failed.
	Repeated int64
	// Busy and Refused count groups that Append turned away, Alone those that failed while others were stored.
	Busy, Refused, Alone int64
	// Errors by stage; each was logged and the work repeated.
	OrderErrors, SignErrors, FileErrors, PublishErrors int64
	// Time spent, in total: Order is placing and committing, Add and Integrate are Trillian's, Sign is signing and storing the checkpoint.
	Order, Add, Integrate, Sign, Publish time.Duration
	// LastClose is how long the last epoch took to close; nothing was ordered meanwhile.
	LastClose time.Duration
	// LastPrepare is how long its rolls took before that, while entries were ordered; 0 if there was nothing to prepare.
	LastPrepare time.Duration
	// Filed entries were labelled; EpochsClosed and Publications count.
	Filed, EpochsClosed, Publications int64
	// Unwitnessed publications had no quorum of witnesses, where some are asked.
	Unwitnessed int64
	// Unsettled receipts were handed out of entries whose epoch is closed, because filings of it are lost.
	Unsettled int64

	// Gauges.
	Waiting   int    // entries in Append that aren't ordered yet
	Unsigned  uint64 // entries ordered and not signed
	Unfiled   int64  // entries ordered since Open and not labelled
	Size      uint64 // entries under the signed checkpoint
	Published uint64 // entries under the published checkpoint
	Witnessed uint64 // entries under the newest published checkpoint with the quorum of witnesses
	// QuorumMissing is for how long checkpoints have been published without the quorum.
	QuorumMissing time.Duration
	Lag           time.Duration
	Epoch         proof.Epoch
	Until         time.Time
	Halted        bool
}

// Metrics returns a snapshot.
func (l *Log) Metrics() Metrics {
	c := &l.count
	m := Metrics{
		Entries: c.entries.Load(), Batches: c.batches.Load(), Rounds: c.rounds.Load(), Repeated: c.again.Load(),
		Busy: c.busy.Load(), Refused: c.refused.Load(), Alone: c.alone.Load(),
		OrderErrors: c.orderErrors.Load(), SignErrors: c.signErrors.Load(), FileErrors: c.fileErrors.Load(), PublishErrors: c.publishErrs.Load(),
		Order: time.Duration(c.orderNanos.Load()), Add: time.Duration(c.addNanos.Load()), Integrate: time.Duration(c.integrateNanos.Load()),
		Sign: time.Duration(c.signNanos.Load()), Publish: time.Duration(c.publishNanos.Load()), LastClose: time.Duration(c.closeNanos.Load()), LastPrepare: time.Duration(c.prepareNanos.Load()),
		Filed: c.filed.Load(), EpochsClosed: c.epochs.Load(), Publications: c.publications.Load(), Unwitnessed: c.unwitnessed.Load(),
	}
	r := l.reading()
	m.Unsettled, m.Published, m.Witnessed, m.QuorumMissing = r.Unsettled, r.Published, r.Witnessed, r.QuorumMissing
	// What an earlier run left unlabelled is filed too, so this is a lower bound until the first epoch closes.
	m.Unfiled = max(0, c.toFile.Load()-m.Filed)
	l.mu.Lock()
	defer l.mu.Unlock()
	m.Waiting, m.Size, m.Unsigned = l.entries, l.signed.edge.size, uint64(l.next)-l.signed.edge.size
	m.Epoch, m.Until, m.Halted = l.open.Number, l.open.Until, l.halted != nil
	if !l.lagSince.IsZero() {
		m.Lag = time.Since(l.lagSince)
	}
	return m
}

// reading is the part that whoever reads the log knows.
func (v *view) reading() Metrics {
	m := Metrics{Unsettled: v.count.unsettled.Load(), Published: uint64(v.count.publishedSize.Load()), QuorumMissing: v.QuorumMissing()}
	if cp, ok := v.Witnessed(); ok {
		m.Witnessed = cp.Size()
	}
	return m
}

// Package mirror keeps a full copy of a log that can serve in its place: tiles, entries, indexes of closed epochs, what governance refers to, statements of auditors, and the checkpoint.
//
// What it guarantees. Every file was verified before it is kept: entries and tiles against a signed checkpoint that extends the mirror's own, indexes against markers that are in the log, blobs against their
// digests. The checkpoint is replaced last, when all that it needs is on the disk, and only by one that extends it; so the directory can be served all the time, by tiles.Handler or any static
// server, and a crash at any instant leaves it whole. Until it is replaced, the checkpoint whose entries were copied last counts as well: it stands in the file .ahead, so that a log which takes it back is
// found out by another process, too. If the log shows another history, nothing of it is kept but the two signed checkpoints that prove it, in the directory evidence.
//
// What it doesn't. A mirror isn't a witness: it vouches for nothing by a signature of its own. What the log doesn't serve (a missing blob or index) it can't have: it says so, keeps the rest, and
// asks again at each Sync. It holds what the log signed, also where that breaks rules: fsck says so. It holds in memory a few words for each closed epoch.
package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

// ErrFork: the log signed two histories. The checkpoints that prove it are in the mirror's directory evidence. Nothing else was changed. Tell everybody who relies on the log.
var ErrFork = errors.New("the log signed two histories")

// ErrLocked: another mirror works on the directory.
var ErrLocked = errors.New("another process works on this directory")

// Config of a mirror.
type Config struct {
	Source reader.Source
	Dir    string
	Policy *proof.Policy
	// AuditorKeys are verification keys of auditors, beyond those that the log publishes.
	AuditorKeys []string
	// Workers is how many files are read at the same time; 0 means 8.
	Workers int
	// Progress is told now and then how many entries of all are in the copy; may be nil.
	Progress func(done, total uint64)
}

// Result is what a Sync did.
type Result struct {
	Size, Before uint64
	// Behind: the log serves a smaller tree than the mirror has copied, of the same history.
	Behind bool
	// Missing are files that the log doesn't serve as it should. The mirror lacks them, too.
	Missing []Missing
	// Audits that were added.
	Audits int
}

// Missing is a file that the log doesn't serve as it should.
type Missing struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Mirror is a copy of a log. It is not safe for concurrent use; its directory may be served meanwhile.
type Mirror struct {
	cfg   Config
	own   proof.Checkpoint // zero: none yet
	ahead proof.Checkpoint // extends the own, and all its entries are copied, but not yet all else that it needs; zero: none
	name  string           // of the log
	w     *tiles.Writer
	lock  *os.File
	disk  reader.Source // the copy

	noted
	audited time.Time // when statements about all epochs were asked for
}

// noted is what the entries of the copy refer to.
type noted struct {
	closed   []proof.Marker          // that close an epoch, in order, the first of each
	auditors map[string][]proof.Hash // names that the log says, with digests of their keys
	lacks    map[string]want         // what the copy needs and doesn't have
}

func nothingNoted() noted { return noted{nil, map[string][]proof.Hash{}, map[string]want{}} }

// want is a file, or the tree below a prefix, that the copy needs.
type want struct {
	digest proof.Hash
	marker *proof.Marker
}

// Open opens a mirror, or begins one, and checks what it has: all of it, so that nothing is built on a damaged copy. What is damaged is fetched again by the next Sync.
func Open(ctx context.Context, cfg Config) (_ *Mirror, err error) {
	if cfg.Workers == 0 {
		cfg.Workers = 8
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil { // #nosec G301 -- what is published is for everybody
		return nil, fmt.Errorf("making the mirror's directory: %w", err)
	}
	m := &Mirror{cfg: cfg, noted: nothingNoted(), w: tiles.Create(cfg.Dir)}
	if m.lock, err = os.OpenFile(filepath.Join(cfg.Dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("locking the mirror: %w", err)
	}
	defer func() {
		if err != nil {
			m.lock.Close()
		}
	}()
	if err := syscall.Flock(int(m.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // #nosec G115 -- a descriptor
		return nil, fmt.Errorf("%s: %w", cfg.Dir, ErrLocked)
	}
	if m.disk, err = reader.Dir(cfg.Dir); err != nil {
		return nil, err
	}
	cp, err := reader.Checkpoint(ctx, m.disk, cfg.Policy)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the mirror's own checkpoint: %v", err) // not the log
	}
	m.own = cp
	if err := m.readAhead(ctx); err != nil {
		return nil, err
	}
	m.name = m.newest().Origin()
	if m.own.IsZero() {
		return m, nil
	}
	// From here on all is compared with the own checkpoint, whatever the files say.
	tr, err := reader.OpenTree(ctx, m.disk, "", cp.Size(), cp.Root())
	if err == nil {
		for b, e := range tr.Bundles(ctx, 0, cfg.Workers) {
			if err = e; err == nil {
				err = lowest(ctx, m.disk, "", b)
			}
			if err != nil {
				break
			}
			m.note(b)
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err == nil {
		m.w, err = tiles.Resume(cfg.Dir, cp.Size(), cp.Root())
	}
	if err != nil { // damaged: all is compared with the log again, and what is good is kept
		_ = m.again(err)
		return m, nil
	}
	return m, m.have(ctx)
}

// Close lets others work on the directory.
func (m *Mirror) Close() error { return m.lock.Close() }

// Checkpoint returns what the mirror serves; false if that is nothing yet.
func (m *Mirror) Checkpoint() (proof.Checkpoint, bool) { return m.own, !m.own.IsZero() }

// aheadPath is where the checkpoint stands that is ahead of the one that is served.
const aheadPath = ".ahead"

// readAhead reads what an earlier process copied and couldn't finish.
func (m *Mirror) readAhead(ctx context.Context) error {
	b, err := m.disk.Get(ctx, aheadPath, reader.MaxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the checkpoint that the mirror copied last: %v", err) // not the log
	}
	// One that the policy doesn't know proves nothing, and one that isn't larger was left when the process ended just after the own was written.
	if cp, err := proof.VerifyCheckpoint(b, m.cfg.Policy); err == nil && cp.Size() > m.own.Size() && (m.own.IsZero() || cp.Origin() == m.own.Origin()) {
		m.ahead = cp
	}
	return nil
}

// newest is the largest checkpoint whose entries are all copied; zero: none.
func (m *Mirror) newest() proof.Checkpoint {
	if m.ahead.IsZero() {
		return m.own
	}
	return m.ahead
}

// Sync brings the copy up to what the log serves.
func (m *Mirror) Sync(ctx context.Context) (Result, error) {
	res := Result{Before: m.own.Size(), Size: m.own.Size()}
	cp, err := reader.Checkpoint(ctx, m.cfg.Source, m.cfg.Policy)
	if err != nil {
		return res, fmt.Errorf("reading the log's checkpoint: %w", err)
	}
	if m.name != "" && cp.Origin() != m.name {
		return res, fmt.Errorf("the log is %s, the mirror of %s", cp.Origin(), m.name)
	}
	m.name = cp.Origin()
	switch newest := m.newest(); {
	case cp.Size() == newest.Size() && cp.Size() > 0 && cp.Root() != newest.Root(): // every history begins with the empty tree
		return res, m.evidence(newest, cp)
	case cp.Size() < newest.Size():
		res.Behind = true
		return res, m.behind(ctx, cp)
	case cp.Size() > m.w.Size():
		if err := m.extend(ctx, cp); err != nil {
			return res, err
		}
	}
	if err := m.have(ctx); err != nil { // of an earlier run that was cut off
		return res, err
	}
	if err := m.fetchLacking(ctx, &res); err != nil {
		return res, err
	}
	if res.Audits, err = m.audits(ctx); err != nil {
		return res, err
	}
	if m.better(cp) {
		if err := tiles.WriteFile(m.cfg.Dir, layout.CheckpointPath, cp.Note()); err != nil {
			return res, fmt.Errorf("writing the checkpoint: %w", err)
		}
		m.own, m.ahead = cp, proof.Checkpoint{}
		if err := os.Remove(filepath.Join(m.cfg.Dir, aheadPath)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return res, fmt.Errorf("writing the checkpoint: %w", err)
		}
	}
	res.Size = m.own.Size()
	return res, nil
}

// extend copies the entries up to a checkpoint that isn't smaller than the newest, after checking that its history is the mirror's.
func (m *Mirror) extend(ctx context.Context, cp proof.Checkpoint) error {
	tr, err := reader.OpenTree(ctx, m.cfg.Source, "", cp.Size(), cp.Root())
	if err != nil {
		return err
	}
	for _, ours := range []proof.Checkpoint{m.own, m.ahead} {
		if ours.Size() == 0 {
			continue
		}
		root, err := tr.RootAt(ctx, ours.Size())
		if err != nil {
			return err
		}
		if root != ours.Root() {
			return m.evidence(ours, cp)
		}
	}
	if err := m.entries(ctx, tr); err != nil {
		return err
	}
	if cp.Size() > m.newest().Size() {
		m.ahead = cp
		if err := tiles.WriteFile(m.cfg.Dir, aheadPath, cp.Note()); err != nil {
			return fmt.Errorf("writing the checkpoint: %w", err)
		}
	}
	return nil
}

// better reports whether a checkpoint of the same history is worth more than the own.
func (m *Mirror) better(cp proof.Checkpoint) bool {
	if m.own.IsZero() || cp.Size() > m.own.Size() {
		return true
	}
	if cp.Witnessed() != m.own.Witnessed() {
		return cp.Witnessed()
	}
	return len(cp.Witnesses()) > len(m.own.Witnesses())
}

// behind compares a smaller tree with the newest that is copied.
func (m *Mirror) behind(ctx context.Context, cp proof.Checkpoint) error {
	if m.w.Size() < m.own.Size() {
		return errors.New("the mirror is damaged, and the log serves a smaller tree than the mirror had: wait until it serves the newest again")
	}
	if cp.Size() == 0 {
		return nil
	}
	newest := m.newest()
	tr, err := reader.OpenTree(ctx, m.disk, "", newest.Size(), newest.Root())
	if err != nil {
		return fmt.Errorf("the mirror is damaged since it was opened: %v", err) // not the log
	}
	root, err := tr.RootAt(ctx, cp.Size())
	if err != nil {
		return fmt.Errorf("the mirror is damaged since it was opened: %v", err) // not the log
	}
	if root != cp.Root() {
		return m.evidence(newest, cp)
	}
	return nil
}

// evidence keeps two checkpoints that contradict each other.
func (m *Mirror) evidence(ours, theirs proof.Checkpoint) error {
	names, err := KeepEvidence(m.cfg.Dir, ours, theirs)
	if err != nil {
		return errors.Join(ErrFork, err)
	}
	return fmt.Errorf("%w: %s; keep them, and tell the witnesses and the supervisory authority", ErrFork, strings.Join(names, " and "))
}

// KeepEvidence writes signed checkpoints into the directory evidence below dir and returns the names of the files. They are named after what they say, so that none is kept twice.
func KeepEvidence(dir string, cps ...proof.Checkpoint) ([]string, error) {
	var names []string
	for _, cp := range cps {
		sum := sha256.Sum256(cp.Note())
		name := fmt.Sprintf("evidence/%d-%x.checkpoint", cp.Size(), sum[:8])
		if err := tiles.WriteFile(dir, name, cp.Note()); err != nil {
			return names, fmt.Errorf("keeping evidence of a fork: %w", err)
		}
		names = append(names, filepath.Join(dir, filepath.FromSlash(name)))
	}
	return names, nil
}

// entries copies the entries that the mirror lacks. Each bundle was checked against the log's root before it comes here.
func (m *Mirror) entries(ctx context.Context, tr *reader.Tree) error {
	from := m.w.Size()
	// An earlier run may have ended before it could name the checkpoint: what it left is taken from the disk, if it is good.
	tr = tr.Prefer(m.disk)
	for b, err := range tr.Bundles(ctx, from, m.cfg.Workers) {
		if err != nil {
			return m.again(err)
		}
		for _, e := range b.Entries {
			if err := m.w.Append(e); err != nil {
				return m.again(err)
			}
		}
		m.note(b)
		if m.cfg.Progress != nil {
			m.cfg.Progress(b.First+uint64(len(b.Entries)), tr.Size())
		}
	}
	if m.w.Root() != tr.Root() {
		return m.again(errors.New("the copy has another root than the log, though all its parts were checked"))
	}
	if err := m.w.Flush(); err != nil {
		return m.again(err)
	}
	return nil
}

// again makes the next Sync begin from what is on the disk: a writer that failed isn't used any more.
func (m *Mirror) again(err error) error {
	m.w, m.noted = tiles.Create(m.cfg.Dir), nothingNoted()
	return err
}

// note remembers what entries refer to.
func (m *Mirror) note(b reader.Bundle) {
	for i, text := range b.Entries {
		kind, _, err := proof.ParseHead(text)
		if err != nil || kind.Filed() {
			continue
		}
		e, err := proof.ParseEntry(text)
		if err != nil {
			continue // fsck says so
		}
		switch e := e.(type) {
		case proof.Marker:
			n := len(m.closed)
			// One that stands elsewhere than it says, or repeats an epoch, bounds nothing and must not take the place of what is there: fsck says so.
			if e.Closed == nil || e.At() != proof.Index(b.First)+proof.Index(i) || n > 0 && m.closed[n-1].Epoch >= e.Epoch { // #nosec G115 -- below 256
				continue
			}
			m.closed = append(m.closed, e)
			m.lacks[indexPrefix(e)] = want{marker: &e}
		case proof.PolicyActivated:
			m.lacks[fsck.BlobName(e.Bundle)] = want{digest: e.Bundle}
		case proof.AgreementChanged:
			m.lacks[fsck.BlobName(e.Digest)] = want{digest: e.Digest}
		case proof.ServiceChanged:
			m.lacks[fsck.BlobName(e.Digest)] = want{digest: e.Digest}
		case proof.KeyChanged:
			if name, ok := strings.CutPrefix(e.Key, string(proof.UseAuditor)+"."); ok && !slices.Contains(m.auditors[name], e.Public) {
				m.auditors[name] = append(m.auditors[name], e.Public)
			}
		}
	}
}

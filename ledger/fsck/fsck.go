// Package fsck checks a whole log as it is served: every file, every entry, every rule that the public log alone can show.
//
// What it guarantees. If a [Report] is complete and has no fault, then the entries that are served are those that the log signed; every tile, of the log and of each closed epoch's index, has the hashes
// that follow from them; markers, epochs and governance keep the rules of docs/formats.md; and what digests in the log stand for is served. It holds against any server: nothing is believed that doesn't
// follow from the signed checkpoint. Memory is bounded, whatever is served: by the files under way, the findings kept, and what is in force in the log (see [Rules]).
//
// What it doesn't. A log that keeps all its rules may still leave things out: that every filed entry is in the roll of its person is what auditors with access check, and persons with their histories. Without
// a quorum of witnesses the history may be one of several.
package fsck

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

// Config says what to check and how.
type Config struct {
	Source reader.Source
	Policy *proof.Policy
	// AllowProvisional: a checkpoint without the quorum of the policy is no fault.
	AllowProvisional bool
	// Earlier are signed checkpoints of the log that were kept: its history must have them.
	Earlier [][]byte
	// AuditorKeys are verification keys of auditors, beyond those that the log publishes.
	AuditorKeys []string
	// State is a file in which a run leaves how far it came; a later one goes on from there. Empty: every run begins at index 0.
	State string
	// Workers is how many files are read at the same time; 0 means 8.
	Workers int
	// Progress is told now and then how many entries of all were checked; may be nil.
	Progress func(done, total uint64)
}

// Report is what was found.
type Report struct {
	Log       string   `json:"log"`
	Origin    string   `json:"origin"`
	Size      uint64   `json:"size"`
	Root      string   `json:"root"`
	Witnessed bool     `json:"witnessed"`
	Witnesses []string `json:"witnesses"`
	// From is where this run began: 0, or where an earlier one ended.
	From uint64 `json:"from"`
	// Complete: all was looked at. Otherwise a finding says where it ended.
	Complete bool                  `json:"complete"`
	Epochs   uint64                `json:"closed_epochs"`
	Kinds    map[proof.Kind]uint64 `json:"entries"`
	Pending  int                   `json:"pending_deferrals"`
	Audited  uint64                `json:"index_audits"`
	Faults   uint64                `json:"faults"`
	Findings []Finding             `json:"findings"`
	// Omitted findings were counted and are not in the list, for which Count has all.
	Omitted uint64          `json:"omitted_findings"`
	Count   map[Code]uint64 `json:"count"`
}

// segment is how many entries are checked between two looks at what was claimed and two savings of the state.
const segment = 1 << 16

// RecentEpochs is how many closed epochs before the place where the last run ended are asked for statements of auditors again: these are made days after an epoch's end.
const RecentEpochs = 32

type run struct {
	cfg     Config
	cp      proof.Checkpoint
	tree    *reader.Tree // nil if its right end is damaged
	known   []known
	mu      sync.Mutex
	kept    Findings // of the history: they go into the state
	now     Findings // of this look
	state   state
	closed  []proof.Marker // of which statements are looked at
	audited uint64
}

// Check checks a log. An error means that it could not look, or not at all of it; the report then holds what was found so far.
func Check(ctx context.Context, cfg Config) (Report, error) {
	if cfg.Workers == 0 {
		cfg.Workers = 8
	}
	r := &run{cfg: cfg}
	cp, err := reader.Checkpoint(ctx, cfg.Source, cfg.Policy)
	if err != nil {
		return Report{Log: cfg.Source.String()}, fmt.Errorf("reading the checkpoint: %w", err)
	}
	r.cp = cp
	for _, n := range cfg.Earlier {
		if err := r.know(n); err != nil {
			return Report{Log: cfg.Source.String()}, err
		}
	}
	if err := r.state.load(cfg.State, cp.Origin()); err != nil {
		return Report{Log: cfg.Source.String()}, err
	}
	if r.state.Note != "" {
		if err := r.know([]byte(r.state.Note)); err != nil {
			return Report{Log: cfg.Source.String()}, err
		}
	}
	if e := &r.state.Edge; e.Size() > 0 {
		r.known = append(r.known, known{"where the last run ended", e.Size(), e.Root()})
	}
	r.kept = r.state.Findings.clone()
	r.closed = slices.Clone(r.state.Recent)
	from := r.state.Edge.Size()
	complete, err := r.check(ctx)
	return r.report(from, complete && err == nil), err
}

func (r *run) found(f Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept.add(f)
}

func (r *run) foundNow(f Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.add(f)
}

func (r *run) check(ctx context.Context) (complete bool, err error) {
	if r.cfg.Policy.Demands() && !r.cp.Witnessed() && !r.cfg.AllowProvisional {
		r.foundNow(finding(CheckpointUnwitnessed, "checkpoint", "cosigned by %d witnesses that the policy knows", len(r.cp.Witnesses())))
	}
	r.tree, err = reader.OpenTree(ctx, r.cfg.Source, "", r.cp.Size(), r.cp.Root())
	if err = unlessDamaged(err); err != nil {
		return false, err
	}
	same, err := r.history(ctx)
	if err != nil || !same {
		return false, err
	}
	if err := r.entries(ctx); errors.Is(err, errLost) {
		return false, nil // found already
	} else if err != nil {
		return false, err
	}
	if got := r.state.Edge.Root(); got != r.cp.Root() {
		r.foundNow(finding(RootMismatch, "checkpoint", "the entries have the root %s, the checkpoint %s", got, r.cp.Root()))
	} else {
		// Only what led to the signed root is a place to go on from.
		r.state.Note = string(r.cp.Note())
		if err := r.save(); err != nil {
			return false, err
		}
	}
	if e := r.state.Rules.Epoch; e != nil {
		for _, i := range r.state.Rules.Overdue(e.Opened) {
			r.foundNow(finding(DeferredOverdue, "entry "+i.String(), "the delay was until %s, and by the log's own time (%s) that month is over", r.state.Rules.Deferred[i].Month, e.Opened.Time()))
		}
	}
	return true, r.audits(ctx)
}

// known is what a tree was, of which the checkpoint must be the continuation.
type known struct {
	what string
	size uint64
	root proof.Hash
}

// know takes a checkpoint that was kept.
func (r *run) know(note []byte) error {
	cp, err := proof.VerifyCheckpoint(note, r.cfg.Policy)
	if err != nil {
		return fmt.Errorf("a checkpoint that was kept: %w", err)
	}
	if cp.Origin() != r.cp.Origin() {
		return fmt.Errorf("a checkpoint that was kept is of another log, %s", cp.Origin())
	}
	r.known = append(r.known, known{"a checkpoint that was kept", cp.Size(), cp.Root()})
	return nil
}

// history compares the checkpoint with all that is known from before; false if it is of another history.
func (r *run) history(ctx context.Context) (bool, error) {
	same := true
	for _, k := range r.known {
		switch {
		case k.size > r.cp.Size():
			r.foundNow(finding(CheckpointOlder, "checkpoint", "it has size %d; %s had %d", r.cp.Size(), k.what, k.size))
			same = false
		case k.size == r.cp.Size() && k.root != r.cp.Root():
			r.foundNow(finding(CheckpointHistory, "checkpoint", "it has another root than %s, at the same size %d", k.what, k.size))
			same = false
		case r.tree != nil:
			root, err := r.tree.RootAt(ctx, k.size)
			if err = unlessDamaged(err); err != nil {
				return false, err
			}
			if root != k.root && !root.IsZero() {
				r.foundNow(finding(CheckpointHistory, "checkpoint", "the tree of size %d doesn't extend %s, of size %d", r.cp.Size(), k.what, k.size))
				same = false
			}
		}
	}
	return same, nil
}

// entries checks all entries from where the state ends, and what they claim.
func (r *run) entries(ctx context.Context) error {
	rules := &r.state.Rules
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(r.cfg.Workers)
	claim := func(c Claim) {
		if c.Closed != nil {
			r.closed = append(r.closed, *c.Closed)
			r.state.Recent = r.closed[max(0, len(r.closed)-RecentEpochs):]
			r.state.Closed++
		}
		ctx := wctx
		work.Go(func() error { return c.Check(ctx, r.cfg.Source, r.tree, r.found) })
	}
	last := r.state.Edge.Size()
	err := walk(ctx, logWalker(r.cfg.Source, r.cp.Size(), r.cp.Root(), r.cfg.Workers, r.found), &r.state.Edge, Parse,
		func(first uint64, leaves []proof.Hash, n int, entries []Parsed) error {
			if entries == nil {
				rules.Skip(uint64(n)) // #nosec G115 -- at most 256
			}
			for i := range entries {
				rules.Step(leaves[i], entries[i], r.found, claim)
			}
			done := first + uint64(n) // #nosec G115 -- as above
			if r.cfg.Progress != nil {
				r.cfg.Progress(done, r.cp.Size())
			}
			if done-last < segment {
				return nil
			}
			last = done
			err := work.Wait()
			work, wctx = errgroup.WithContext(ctx)
			work.SetLimit(r.cfg.Workers)
			if err != nil || r.cfg.State == "" || r.tree == nil {
				return err
			}
			// What was checked so far must be of the signed history before it is built on.
			root, err := r.tree.RootAt(ctx, done)
			if err = unlessDamaged(err); err != nil || root != r.state.Edge.Root() {
				return err
			}
			return r.save()
		})
	return errors.Join(err, work.Wait())
}

// audits checks the statements of auditors about the indexes of the epochs that this run saw closing, and of the last ones before.
func (r *run) audits(ctx context.Context) error {
	keys, err := r.auditors(ctx)
	if err != nil {
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(r.cfg.Workers)
	for i := range r.closed {
		for name, vkeys := range keys {
			work.Go(func() error { return r.audit(ctx, &r.closed[i], name, vkeys) })
		}
	}
	return work.Wait()
}

func (r *run) audit(ctx context.Context, m *proof.Marker, auditor string, vkeys []string) error {
	name := AuditName(m.Epoch-1, auditor)
	b, err := r.cfg.Source.Get(ctx, name, reader.MaxAudit)
	switch {
	case reader.IsMissing(err):
		return nil
	case errors.Is(err, reader.ErrRefused):
		r.foundNow(finding(AuditStatement, name, "%v", err))
		return nil
	case err != nil:
		return err
	case len(vkeys) == 0:
		r.foundNow(finding(AuditUnverified, name, "no key of auditor %s is known", auditor))
		return nil
	}
	if err := VerifyAudit(b, r.cp.Origin(), *m, vkeys); err != nil {
		r.foundNow(finding(AuditStatement, name, "%v", err))
		return nil
	}
	r.mu.Lock()
	r.audited++
	r.mu.Unlock()
	return nil
}

// auditors returns the auditors that the log names, with the keys that are known of them.
func (r *run) auditors(ctx context.Context) (map[string][]string, error) {
	named, err := r.state.Rules.Auditors()
	if err != nil {
		return nil, err
	}
	return AuditorKeys(ctx, r.cfg.Source, named, r.cfg.AuditorKeys)
}

func (r *run) report(from uint64, complete bool) Report {
	all := r.kept.clone()
	all.Kept = append(all.Kept, r.now.Kept...)
	for c, n := range r.now.Count {
		all.Count[c] += n
	}
	slices.SortStableFunc(all.Kept, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Code, b.Code), cmp.Compare(len(a.Place), len(b.Place)), cmp.Compare(a.Place, b.Place))
	})
	witnesses := r.cp.Witnesses()
	return Report{
		Log: r.cfg.Source.String(), Origin: r.cp.Origin(), Size: r.cp.Size(), Root: r.cp.Root().String(), Witnessed: r.cp.Witnessed(), Witnesses: append([]string{}, witnesses...),
		From: from, Complete: complete, Epochs: r.state.Closed, Kinds: r.state.Rules.Kinds, Pending: len(r.state.Rules.Deferred), Audited: r.audited,
		Faults: all.Faults(), Findings: append([]Finding{}, all.Kept...), Omitted: all.Omitted(), Count: all.Count,
	}
}

// state is how far a run came.
type state struct {
	Format string     `json:"format"`
	Origin string     `json:"origin"`
	Note   string     `json:"checkpoint"` // the last one that was reached
	Edge   tiles.Edge `json:"edge"`
	Rules  Rules      `json:"rules"`
	Closed uint64     `json:"closed_epochs"`
	// Recent are the markers that closed the last epochs.
	Recent   []proof.Marker `json:"recent_markers,omitempty"`
	Findings Findings       `json:"findings"`
}

const stateFormat = "regard/fsck-state@v1"

// maxState bounds a state file, in bytes.
const maxState = 256 << 20

func (s *state) load(file, origin string) error {
	s.Format, s.Origin = stateFormat, origin
	if file == "" {
		return nil
	}
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Size() > maxState {
		return fmt.Errorf("%s is too large for a state of fsck", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the state: %w", err)
	}
	var in state
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil || in.Format != stateFormat || uint64(in.Rules.Next) != in.Edge.Size() {
		return fmt.Errorf("%s is not a state of fsck, or damaged: remove it to begin anew", file)
	}
	if in.Origin != origin {
		return fmt.Errorf("%s is of the log %s, not of %s", file, in.Origin, origin)
	}
	*s = in
	return nil
}

func (r *run) save() error {
	if r.cfg.State == "" {
		return nil
	}
	r.mu.Lock()
	r.state.Findings = r.kept.clone()
	r.mu.Unlock()
	b, err := json.Marshal(&r.state)
	if err == nil {
		err = tiles.WriteFile(filepath.Dir(r.cfg.State), filepath.Base(r.cfg.State), b)
	}
	if err != nil {
		return fmt.Errorf("saving the state: %w", err)
	}
	return nil
}

package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/mirror"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// Look asks every place, follows the log to its end, and raises and clears alarms. When it returns they are on the disk. If the log can't be followed to its end, alarms about it are as they
// were, and those are raised that the passing of time brings about; ErrBlind if no place could be read: then neither.
func (m *Monitor) Look(ctx context.Context) (Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.state
	now := m.cfg.Now()
	if err := m.acknowledged(); err != nil {
		return m.last, err
	}
	s.Book.begin(now, s.Origin)
	if !s.Looked.IsZero() && now.Before(s.Looked.Add(-m.cfg.Tolerance)) {
		s.Book.raise(OwnClock, "monitor", fmt.Sprintf("it says %s, and the last look was at %s", at(now), at(s.Looked)))
	}
	views := m.views(ctx)
	if ctx.Err() != nil {
		return m.last, ctx.Err()
	}
	status := Status{At: now.UTC(), Origin: s.Origin}
	var good []view
	for i := range views {
		v := &views[i]
		if v.err == nil && s.Origin != "" && v.cp.Origin() != s.Origin {
			v.err = fmt.Errorf("it has the log %s", v.cp.Origin())
		}
		if v.err == nil {
			good = append(good, *v)
			s.Origin = v.cp.Origin()
			s.Book.log, status.Origin = s.Origin, s.Origin
		}
	}
	size := s.Edge.Size()
	head, err := m.follow(ctx, good, now)
	if ctx.Err() != nil {
		return m.last, ctx.Err() // what was followed to the end is on the disk
	}
	for _, v := range views {
		status.Places = append(status.Places, m.reached(v, now))
	}
	if err != nil {
		// Whether alarms about the log itself go on can't be seen.
		s.Book.hold(func(c Code) bool { return c != Unreachable && c != Invalid && c != OwnClock })
		m.cfg.Logger.Error("could not follow the log", "error", err)
	} else {
		m.followed(head.cp, now)
		s.Looked = now.UTC()
		if s.Edge.Size() > size || !slices.ContainsFunc(views, func(v view) bool { return v.err != nil || v.cp.Size() > s.Edge.Size() }) {
			s.Newest = now.UTC()
		}
	}
	if !errors.Is(err, ErrBlind) {
		m.times(now)
	}
	s.Book.end()
	status.Size, status.Root = s.Edge.Size(), s.Edge.Root().String()
	if e := s.Rules.Epoch; e != nil {
		status.Epoch = uint64(e.Number)
	}
	status.Witnessed = err == nil && head.cp.Witnessed()
	status.Alarms, status.Events = s.Book.list(), append([]Event{}, s.Book.fresh...)
	if e := m.save(); e != nil {
		return status, errors.Join(err, e)
	}
	m.last = status
	m.show()
	return status, err
}

// follow picks the largest tree of the known history that can be read, compares every other with it, and reads what is new.
func (m *Monitor) follow(ctx context.Context, views []view, now time.Time) (view, error) {
	s := &m.state
	if len(views) == 0 {
		return view{}, ErrBlind
	}
	slices.SortStableFunc(views, func(a, b view) int {
		return cmp.Or(cmp.Compare(b.cp.Size(), a.cp.Size()), boolCompare(a.failing(), b.failing()), boolCompare(b.cp.Witnessed(), a.cp.Witnessed()))
	})
	m.remember(views, now)
	forked := map[string]bool{} // by history
	var fail error
	for _, v := range views {
		if v.cp.Size() < s.Edge.Size() {
			break // sorted: no other is large enough either
		}
		err := m.followAt(ctx, v, views, forked, now)
		var own ownError
		switch {
		case err == nil:
			s.Note = string(v.cp.Note())
			m.quorum(honest(views, forked), v.cp.Size(), now)
			return v, nil
		case ctx.Err() != nil:
			return view{}, ctx.Err()
		case errors.As(err, &own):
			return view{}, err
		case errors.Is(err, errForked):
			continue
		case !errors.Is(err, reader.ErrUnavailable):
			s.Book.raise(Damaged, v.src.String(), clean(err.Error()))
		}
		fail = err // another place may have what this one lacks
	}
	s.Heard = slices.DeleteFunc(s.Heard, func(h heard) bool { return forked[history(h.Note)] }) // the evidence is kept
	if fail != nil {
		if left := honest(views, forked); len(left) > 0 { // none, if what can't be read here is known elsewhere to be of another history
			m.quorum(left, left[0].cp.Size(), now)
		}
		return view{}, fail
	}
	if len(forked) == 0 {
		s.Book.raise(Rollback, "log", fmt.Sprintf("the largest has size %d, and size %d was followed", views[0].cp.Size(), s.Edge.Size()))
	}
	return view{}, errors.New("no place serves the tree that was followed before")
}

// honest are the views that aren't known to be of another history.
func honest(views []view, forked map[string]bool) []view {
	return slices.DeleteFunc(slices.Clone(views), func(v view) bool { return forked[history(string(v.cp.Note()))] })
}

// errForked: what a place serves is another history.
var errForked = errors.New("another history")

// ownError is an error of the monitor's own disk: no other place helps.
type ownError struct{ error }

// followAt compares the tree that one place serves with all that is known, and reads there what is new.
func (m *Monitor) followAt(ctx context.Context, v view, views []view, forked map[string]bool, now time.Time) error {
	s := &m.state
	tree, same, err := m.extends(ctx, v)
	if err != nil {
		return err
	}
	if !same {
		forked[history(string(v.cp.Note()))] = true
		if err := m.fork(s.Note, v.cp, v.src.String()); err != nil {
			return err
		}
		return errForked
	}
	delete(forked, history(string(v.cp.Note()))) // by a tree that then couldn't be read
	later, err := m.compare(ctx, tree, v.cp, views, forked, now)
	if err != nil {
		return err
	}
	if err := m.read(ctx, tree, now); err != nil {
		return err
	}
	s.Heard = later // not before: a tree that wasn't followed to its end is to be compared again
	return nil
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// extends opens the tree that a place serves and reports whether it extends what was followed.
func (m *Monitor) extends(ctx context.Context, v view) (*reader.Tree, bool, error) {
	t, err := reader.OpenTree(ctx, v.src, "", v.cp.Size(), v.cp.Root())
	if err != nil {
		return nil, false, err
	}
	root, err := t.RootAt(ctx, m.state.Edge.Size())
	if err != nil {
		return nil, false, err
	}
	return t, root == m.state.Edge.Root(), nil
}

// fork keeps two checkpoints that contradict each other, and raises the alarm.
func (m *Monitor) fork(ours string, theirs proof.Checkpoint, place string) error {
	cps := []proof.Checkpoint{theirs}
	if cp, err := proof.VerifyCheckpoint([]byte(ours), m.cfg.Policy); err == nil {
		cps = append(cps, cp)
	}
	names, err := mirror.KeepEvidence(m.cfg.Dir, cps...)
	if err != nil {
		return ownError{err}
	}
	m.state.Book.raise(Fork, fmt.Sprintf("size %d, root %s", theirs.Size(), theirs.Root()), fmt.Sprintf("seen at %s; the signed checkpoints are in %s", place, names))
	return nil
}

// history is the signed text of a note: two with the same are of the same tree, whoever cosigned them.
func history(note string) string {
	text, _, _ := strings.Cut(note, "\n\n")
	return text
}

// waiting tells of which trees the checkpoints are that couldn't be compared yet.
func (s *state) waiting() map[string]bool {
	out := map[string]bool{}
	for _, h := range s.Heard {
		out[history(h.Note)] = true
	}
	return out
}

// remember keeps the larger trees that places serve until they are compared: they may be of another history, whose files can't be read, and be gone at the next look.
func (m *Monitor) remember(views []view, now time.Time) {
	s := &m.state
	known := s.waiting()
	var n, bytes int
	for _, h := range s.Heard {
		if h.Place != "" {
			n, bytes = n+1, bytes+len(h.Note)
		}
	}
	for _, v := range views {
		text := string(v.cp.Note())
		if v.cp.Size() <= s.Edge.Size() || known[history(text)] || n >= maxServed || bytes >= maxServedBytes || len(s.Heard) >= maxHeard {
			continue
		}
		known[history(text)] = true
		n, bytes = n+1, bytes+len(text)
		s.Heard = append(s.Heard, heard{text, now.UTC(), v.src.String()})
	}
}

// compare proves every checkpoint that was seen or heard of to be of the head's history, and returns those that are beyond it.
func (m *Monitor) compare(ctx context.Context, tree *reader.Tree, head proof.Checkpoint, views []view, forked map[string]bool, now time.Time) (later []heard, err error) {
	s := &m.state
	all, known := slices.Clone(s.Heard), s.waiting()
	for _, v := range views {
		if text := string(v.cp.Note()); v.cp.Size() <= tree.Size() && !known[history(text)] {
			all = append(all, heard{text, now, v.src.String()})
		}
	}
	for _, h := range all {
		cp, err := proof.VerifyCheckpoint([]byte(h.Note), m.cfg.Policy)
		if err != nil || cp.Origin() != head.Origin() {
			continue // the policy is another one since: it says nothing any more
		}
		if forked[history(h.Note)] {
			continue
		}
		if cp.Size() > tree.Size() {
			later = append(later, h)
			if now.Sub(h.Since) >= m.cfg.Late {
				// One alarm a place: a log that grows there is one that can't be read.
				s.Book.raise(Hidden, cmp.Or(h.Place, fmt.Sprintf("size %d", cp.Size())), fmt.Sprintf("size %d is known since %s; the log publishes size %d", cp.Size(), at(h.Since), tree.Size()))
			}
			continue
		}
		root, err := tree.RootAt(ctx, cp.Size())
		if err != nil {
			return nil, err
		}
		if root != cp.Root() {
			forked[history(h.Note)] = true
			if err := m.fork(string(head.Note()), cp, cmp.Or(h.Place, "a checkpoint that was heard of")); err != nil {
				return nil, err
			}
		}
	}
	return later, nil
}

// segment is how many entries are read between two savings of the state.
const segment = 1 << 16

// read steps over the entries that are new, and looks at what they claim.
func (m *Monitor) read(ctx context.Context, tree *reader.Tree, now time.Time) error {
	s := &m.state
	var claims []fsck.Claim
	settle := func() error {
		all := append(s.Failed, claims...)
		failed, err := m.check(ctx, tree, all)
		if err != nil {
			return err
		}
		s.Failed, claims = failed, nil
		return nil
	}
	// Nothing of what follows is kept unless the claims of the same entries were looked at, too: edge and rules move with them.
	rules, edge := s.Rules.Clone(), s.Edge.Clone()
	keep := func() error {
		if err := settle(); err != nil {
			return err
		}
		s.Rules, s.Edge = *rules.Clone(), *edge.Clone()
		return nil
	}
	last := edge.Size()
	for b, err := range tree.Bundles(ctx, edge.Size(), m.cfg.Workers) {
		if err != nil {
			return err
		}
		for i, text := range b.Entries {
			p := fsck.Parse(text)
			before := rules.Epoch
			rules.Step(b.Leaves[i], p, m.raiseFinding, func(c fsck.Claim) { claims = append(claims, c) })
			if marker, ok := p.Entry.(proof.Marker); ok {
				m.marker(proof.Index(b.First)+proof.Index(i), marker, before, now) // #nosec G115 -- below 256
			}
			edge.Append(b.Leaves[i], nil)
		}
		if edge.Size()-last >= segment {
			last = edge.Size()
			if err := keep(); err != nil {
				return err
			}
			if err := m.save(); err != nil {
				return ownError{err}
			}
			m.show()
		}
	}
	return keep()
}

// check looks at claims and returns those that don't hold.
func (m *Monitor) check(ctx context.Context, tree *reader.Tree, claims []fsck.Claim) ([]fsck.Claim, error) {
	found := make([][]fsck.Finding, len(claims))
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(m.cfg.Workers)
	for i, c := range claims {
		work.Go(func() error {
			return c.Check(wctx, tree.Source(), tree, func(f fsck.Finding) {
				if len(found[i]) < maxAlarms {
					found[i] = append(found[i], f)
				}
			})
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	var failed []fsck.Claim
	for i, list := range found {
		standing := len(failed) >= maxFailed
		if len(list) > 0 && !standing {
			failed = append(failed, claims[i])
		}
		for _, f := range list {
			m.state.Book.put(Code(f.Code), f.Place, f.Text, standing)
		}
	}
	return failed, nil
}

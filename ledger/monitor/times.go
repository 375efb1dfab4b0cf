package monitor

import (
	"fmt"
	"time"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/proof"
)

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// marker compares the times of a new marker with the monitor's clock, with what it saw before, and with what was due.
func (m *Monitor) marker(i proof.Index, marker proof.Marker, before *fsck.Stretch, now time.Time) {
	s := &m.state
	place, opened := "entry "+i.String(), marker.Opened.Time()
	if opened.After(now.Add(m.cfg.Tolerance)) {
		s.Book.raise(MarkerAhead, place, fmt.Sprintf("it is of %s, and it is %s", at(opened), at(now)))
	}
	if !s.Newest.IsZero() && opened.Before(s.Newest.Add(-m.cfg.Tolerance)) {
		// It may have been made in time and published late. Nothing that can be seen tells the two apart: whoever back-dates a marker lets publication stand still.
		s.Book.raise(MarkerBehind, place, fmt.Sprintf("it is of %s, and wasn't in the log at %s", at(opened), at(s.Newest)))
	}
	m.long(marker.Epoch, marker.Opened, marker.Until)
	if before == nil || marker.Closed == nil {
		return
	}
	switch due := before.Until.Time(); {
	case opened.Before(due.Add(-m.cfg.Tolerance)):
		s.Book.raise(EpochEarly, "epoch "+before.Number.String(), fmt.Sprintf("at %s, due at %s", at(opened), at(due)))
	case opened.After(due.Add(m.cfg.Late)) && !s.Looked.IsZero(): // what was before the monitor began is history
		s.Book.raise(EpochLate, "epoch "+before.Number.String(), fmt.Sprintf("at %s, due at %s", at(opened), at(due)))
	}
}

// long looks at how long an epoch says that it lasts.
func (m *Monitor) long(epoch proof.Epoch, opened, until proof.Time) {
	if until.Time().Sub(opened.Time()) > proof.MaxEpoch {
		m.state.Book.raise(EpochLong, "epoch "+epoch.String(), fmt.Sprintf("from %s until %s", at(opened.Time()), at(until.Time())))
	}
}

// quorum follows which trees the witnesses cover. size is that of the published one.
func (m *Monitor) quorum(views []view, size uint64, now time.Time) {
	s := &m.state
	// Only those count that the policy names: one that never cosigned is missed as well, and one that was dropped isn't.
	seen, cosigned := map[string]time.Time{}, map[string]uint64{}
	for _, w := range m.cfg.Policy.Witnesses() {
		if seen[w.KeyName] = now.UTC(); !s.Witnesses[w.KeyName].IsZero() {
			seen[w.KeyName], cosigned[w.KeyName] = s.Witnesses[w.KeyName], s.Cosigned[w.KeyName]
		}
	}
	s.Witnesses, s.Cosigned = seen, cosigned
	var covered uint64
	for _, v := range views {
		if v.cp.Witnessed() {
			covered = max(covered, v.cp.Size())
		}
		for _, c := range v.cp.Cosignatures() {
			// A place that stands still goes on serving what a witness did long ago.
			if v.cp.Size() == size || v.cp.Size() > s.Cosigned[c.Name] {
				s.Witnesses[c.Name], s.Cosigned[c.Name] = now.UTC(), max(v.cp.Size(), s.Cosigned[c.Name])
			}
		}
	}
	if s.Unwitnessed != nil && covered >= s.Unwitnessed.Size {
		s.Unwitnessed = nil
	}
	if s.Unwitnessed == nil && covered < size && m.cfg.Policy.Demands() {
		s.Unwitnessed = &seenTree{size, now.UTC()}
	}
}

// times raises what only the passing of time brings about, from what is known: also when the log can't be followed to its end.
func (m *Monitor) times(now time.Time) {
	s := &m.state
	if e := s.Rules.Epoch; e != nil {
		m.long(e.Number, e.Opened, e.Until) // also if an earlier version read the marker
		if due := e.Until.Time(); now.After(due.Add(m.cfg.Late)) {
			s.Book.raise(Stalled, "epoch "+e.Number.String(), "it was due to end at "+at(due))
		}
	}
	if u := s.Unwitnessed; u != nil && now.Sub(u.Since) >= m.cfg.Quorum {
		s.Book.raise(NoQuorum, "log", fmt.Sprintf("size %d was seen at %s", u.Size, at(u.Since)))
	}
	for name, last := range s.Witnesses {
		if now.Sub(last) >= m.cfg.Silent {
			s.Book.raise(WitnessSilent, name, "seen last at "+at(last))
		}
	}
}

// followed raises what can be told once the log was followed to its end.
func (m *Monitor) followed(head proof.Checkpoint, now time.Time) {
	s := &m.state
	if e := s.Rules.Epoch; e != nil {
		for _, c := range head.Cosignatures() {
			t := time.Unix(int64(min(c.Unix, 1<<40)), 0) // #nosec G115 -- bounded
			switch {
			case c.Unix == 0: // it states none
			case t.After(now.Add(m.cfg.Tolerance)):
				s.Book.raise(WitnessClock, c.Name, fmt.Sprintf("it is of %s, and it is %s", at(t), at(now)))
			case t.Before(e.Opened.Time().Add(-m.cfg.Tolerance)):
				s.Book.raise(WitnessClock, c.Name, fmt.Sprintf("it is of %s, and the tree holds a marker of %s", at(t), at(e.Opened.Time())))
			}
		}
	}
	for _, i := range s.Rules.Overdue(proof.TimeOf(now)) {
		s.Book.put(Code(fsck.DeferredOverdue), "entry "+i.String(), "the delay was until "+s.Rules.Deferred[i].Month, false)
	}
}

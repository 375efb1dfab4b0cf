package proof

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// KeyNotice is a key@v1 entry with its place in the log.
type KeyNotice struct {
	Index Index
	// Opened is that of the marker which opens the epoch in which the notice
	// stands: it was not written before.
	Opened Time
	Key    KeyChanged
}

// RetentionOver reports whether the end of its retention explains that the
// record behind an entry can't be read any more (docs/formats.md, section 4).
// Which key sealed a record is not public, so the rule takes each of those that
// may have: an operator can make use of that to end a retention early, by a
// month and by one more for each end of a month that the epoch spans.
//
// opener and closing are the markers around the entry, or, for an Opened entry,
// around the Deferred entry that it names. That markers and notices are in the
// log, and that no notice of a record key was left out, is for the caller to see to.
func RetentionOver(entry Index, opener, closing Marker, notices []KeyNotice) bool {
	return retentionOver(entry, opener, closing, retentionsOver(notices))
}

func retentionOver(entry Index, opener, closing Marker, over []retention) bool {
	if closing.Closed == nil || closing.Epoch != opener.Epoch+1 {
		return false
	}
	first, last := monthOf(opener.Opened).AddDate(0, -1, 0), monthOf(closing.Opened)
	return slices.ContainsFunc(over, func(r retention) bool {
		return r.use == UseRecord && r.at > entry && !r.month.Before(first) && !r.month.After(last)
	})
}

// retention is one that was promised for a key and has ended.
type retention struct {
	use    KeyUse
	month  time.Time
	public Hash
	at     Index // of the last notice that says so
}

// retentionsOver lists the retentions that have ended, in one pass: a log can
// say as much about its keys as it likes.
func retentionsOver(notices []KeyNotice) []retention {
	type key struct {
		name   string
		public Hash
	}
	type promise struct {
		until Time // the longest so far
		told  bool // while its month lasted
		over  int  // position in the list; -1: not over
	}
	sorted := slices.SortedStableFunc(slices.Values(notices), func(a, b KeyNotice) int { return cmp.Compare(a.Index, b.Index) })
	promised := map[key]*promise{}
	var out []retention
	for _, n := range sorted {
		use := n.Key.Use
		if use != UseRecord && use != UseLabel {
			continue
		}
		month, ok := keyMonth(n.Key, use)
		if !ok {
			continue
		}
		k := key{n.Key.Key, n.Key.Public}
		p := promised[k]
		if p == nil {
			p = &promise{over: -1}
			promised[k] = p
		}
		if n.Key.State == Destroyed && p.told && n.Opened >= max(p.until, n.Key.Until) {
			if p.over < 0 {
				p.over = len(out)
				out = append(out, retention{use: use, month: month, public: n.Key.Public})
			}
			out[p.over].at = n.Index
		}
		p.until = max(p.until, n.Key.Until)
		end := TimeOf(month.AddDate(0, 1, 0))
		p.told = p.told || n.Key.State == Active && n.Opened < end && n.Key.Until >= end
	}
	return out
}

// keyMonth returns the beginning of the month whose administrative parts a key
// seals, or whose labels it makes; false for keys of other uses.
func keyMonth(k KeyChanged, use KeyUse) (time.Time, bool) {
	name, ok := strings.CutPrefix(k.Key, string(use)+".")
	if !ok || k.Use != use {
		return time.Time{}, false
	}
	t, err := time.Parse("2006-01", name)
	return t, err == nil
}

// monthOf returns the beginning of the month of t, UTC.
func monthOf(t Time) time.Time {
	y, m, _ := t.Time().Date()
	return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
}

// labelsOver reports whether the end of its retention explains that no label of
// the epoch which a marker opens can be proven any more.
func labelsOver(opener, closing Marker, over []retention) bool {
	return slices.ContainsFunc(over, func(r retention) bool {
		return r.use == UseLabel && r.public == Hash(opener.VRF) && r.at > closing.At()
	})
}

// monthOver reports whether a month of the form YYYY-MM is over.
func monthOver(month string, now Time) bool {
	t, err := time.Parse("2006-01", month)
	return err == nil && now >= TimeOf(t.AddDate(0, 1, 0))
}

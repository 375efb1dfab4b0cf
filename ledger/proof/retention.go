package proof

import (
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
	if closing.Closed == nil || closing.Epoch != opener.Epoch+1 {
		return false
	}
	first, last := monthOf(opener.Opened).AddDate(0, -1, 0), monthOf(closing.Opened)
	for _, d := range notices {
		month, ok := keyMonth(d.Key, UseRecord)
		if ok && d.Key.State == Destroyed && d.Index > entry && !month.Before(first) && !month.After(last) && keyOver(d, UseRecord, notices) {
			return true
		}
	}
	return false
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
func labelsOver(opener, closing Marker, notices []KeyNotice) bool {
	for _, d := range notices {
		if d.Key.Use == UseLabel && d.Key.State == Destroyed && d.Key.Public == Hash(opener.VRF) && d.Index > closing.At() && keyOver(d, UseLabel, notices) {
			return true
		}
	}
	return false
}

// keyOver reports whether a destruction is the end of the retention that was
// promised for the key, in time.
func keyOver(d KeyNotice, use KeyUse, notices []KeyNotice) bool {
	month, ok := keyMonth(d.Key, use)
	if !ok {
		return false
	}
	end := TimeOf(month.AddDate(0, 1, 0))
	promised, told := d.Key.Until, false
	for _, p := range notices {
		if p.Index < d.Index && p.Key.Key == d.Key.Key && p.Key.Public == d.Key.Public {
			promised = max(promised, p.Key.Until)
			told = told || p.Key.State == Active && p.Opened < end && p.Key.Until >= end
		}
	}
	return told && d.Opened >= promised
}

// monthOver reports whether a month of the form YYYY-MM is over.
func monthOver(month string, now Time) bool {
	t, err := time.Parse("2006-01", month)
	return err == nil && now >= TimeOf(t.AddDate(0, 1, 0))
}

package proof

import "time"

// HistoryOptions says what a reader accepts of a history.
type HistoryOptions struct {
	// Now is the reader's clock: which deferrals are overdue, how old the root is, and
	// that no marker is of a time that hasn't come (ErrAhead). 0: none of this is judged.
	Now Time
	// MaxAge is how old the root may be; 0: its age isn't judged.
	MaxAge time.Duration
	// AllowProvisional accepts a checkpoint that lacks the quorum.
	AllowProvisional bool
	// Older is another history of the same person, from the same log: nothing that
	// it shows may be gone, or be something else. nil: none.
	Older *History
	// Consistent shows that the tree of one checkpoint is the beginning of that of
	// another, larger one; its error wraps ErrFork if the log can't prove that. It
	// is asked about the checkpoints of Older and of this history. nil: nobody shows
	// it, and the verdict says so.
	Consistent func(smaller, larger Checkpoint) error
	// Progress is told how many of the epochs are verified, which takes nearly all of
	// the time; nil: nobody is.
	Progress func(done, of int)
}

// HistoryStep is a part of verifying a history. They are done in this order.
type HistoryStep uint8

// The steps of verifying a history.
const (
	StepCheckpoint HistoryStep = iota + 1 // the checkpoint is signed
	StepMarkers                           // the markers are a chain
	StepTree                              // what is shown stands in the log, and in its epoch
	StepRolls                             // the rolls are those of the index, and open
	StepEntries                           // the entries are those of the rolls
	StepRecords                           // what is shown of an entry is what it commits to
	StepDeferrals                         // no pending deferral is left out
	StepAudits                            // auditors signed what is said of them
	StepCompare                           // the older history doesn't contradict it
)

var historySteps = [...]string{"", "checkpoint", "markers", "tree", "rolls", "entries", "records", "deferrals", "audits", "compare"}

func (s HistoryStep) String() string {
	if int(s) < len(historySteps) {
		return historySteps[s]
	}
	return ""
}

// HistoryError says where verifying a history ended. Its text is that of Err.
type HistoryError struct {
	Step HistoryStep
	// Epoch is the one in question, nil if it can be any; Opened and Closed are its
	// times as the markers say, 0 if they don't.
	Epoch          *Epoch
	Opened, Closed Time
	Entry          *Index // in question, nil if there is none
	Err            error
}

func (e *HistoryError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *HistoryError) Unwrap() error { return e.Err }

// RecordState says what became of the record behind an entry.
type RecordState uint8

// The states of records.
const (
	RecordOpen    RecordState = iota + 1 // what the opening shows is what the entry commits to; not all has to be shown, see Withheld
	RecordErased                         // an erasure covers it: its person part is gone
	RecordErasing                        // as above, but whose the erasure is is the operator's word: it stands after the last epoch, or its details were lost
	RecordRetired                        // its retention has ended
	RecordLost                           // its details were lost: a restart in the log says so
	RecordUnknown                        // of a type that this version does not know
)

func (s RecordState) String() string {
	switch s {
	case RecordOpen:
		return "open"
	case RecordErased:
		return "erased"
	case RecordErasing:
		return "erasing"
	case RecordRetired:
		return "retired"
	case RecordLost:
		return "lost"
	case RecordUnknown:
		return "unknown"
	}
	return "unverified"
}

// VerifiedEntry is an entry in one of the person's rolls.
type VerifiedEntry struct {
	Index   Index
	Epoch   Epoch
	Kind    Kind
	Subject int // position in HistoryVerdict.Subjects
	State   RecordState
	Opening Opening // zero unless something is open
	// Withheld counts the fields that the person may read, that are there, and that
	// Opening hides all the same.
	Withheld int
	// Deferred is the entry whose delay ended with this one, nil if there was none;
	// it stands at Began.
	Deferred *Deferred
	Began    Index
	// Agreed: the record names an agreement that has this delay; an access is to a
	// record that was delayed likewise, and told no later. Otherwise nobody can tell.
	Agreed bool
	// Told is when the epoch was closed in which the delay ended. Late: the month of
	// the delay was over before that epoch was opened. Both as the log says.
	Told Time
	Late bool
}

// EpochRange are epochs From to To, both included.
type EpochRange struct{ From, To Epoch }

// AuditedIndexes says for which epochs an auditor found every filed entry in a
// roll of the index.
type AuditedIndexes struct {
	Auditor string // token, as the log registered the auditor
	Key     string // name of the verification key
	Epochs  []EpochRange
}

// Deferrals counts the disclosures of which somebody, nobody can tell who, will
// learn later.
type Deferrals struct {
	Pending uint64 // not opened when the last epoch was closed
	Overdue uint64 // among these: their month is over
	Lost    uint64 // among these: their details were lost, so they are never opened
	// Counted: the markers of all epochs since the beginning prove that these are
	// all. Otherwise that is the operator's word.
	Counted bool
}

// HistoryVerdict is what a history was shown to prove. The zero verdict proves
// nothing: its State is 0.
type HistoryVerdict struct {
	State      State // Witnessed or Provisional
	Origin     string
	Size       uint64 // of the checkpoint's tree
	Root       Hash
	Witnesses  []Cosignature
	Unverified []string
	// RootTime is how old the root is at most: when the quorum of witnesses signed
	// it or, without one, when the log says that the last epoch was closed.
	RootTime Time

	Subjects       []Subject
	Epochs         EpochRange
	Opened, Closed Time // when the first epoch was opened and the last one closed, as the operator says
	Due            Time // when the epoch after the last was due to close

	// Entries are all that are filed under the subjects in these epochs, by
	// increasing index; but for what Ended, LostRolls and LostEntries say.
	Entries []VerifiedEntry
	// Ended are epochs of which no label can be proven any more: their retention is
	// over.
	Ended []EpochRange
	// LostRolls counts rolls that the subjects have and that can't be opened.
	LostRolls int
	// LostEntries counts entries at most that are in nobody's roll because their
	// details were lost: each may be about anybody.
	LostEntries uint64

	Deferrals Deferrals
	Audits    []AuditedIndexes
	Unaudited uint64 // epochs whose index no auditor cosigned
	// UnauditedSince is when the first of these was closed that isn't of Ended; 0: there
	// is none.
	UnauditedSince Time
	// KeysCounted: the markers prove that no promise about a key is left out;
	// otherwise it is the operator's word that a longer retention wasn't promised.
	KeysCounted bool

	// Compared: nothing contradicts Older, so that in the epochs Common to both
	// nothing that it shows is gone or is something else. Extends: nor in any other,
	// for one tree is the beginning of the other.
	Compared, Extends bool
	Common            []EpochRange // one at most
}

// Complete reports whether Entries are all recorded requests about the subjects
// in the epochs, as far as rolls can show that.
func (v *HistoryVerdict) Complete() bool {
	return v.State != 0 && len(v.Ended) == 0 && v.LostRolls == 0 && v.LostEntries == 0
}

// Withheld returns how many entries hide fields that the person may read, and how
// many fields these are.
func (v *HistoryVerdict) Withheld() (entries, fields int) {
	for i := range v.Entries {
		if n := v.Entries[i].Withheld; n > 0 {
			entries, fields = entries+1, fields+n
		}
	}
	return entries, fields
}

// Count returns how many entries are in a state.
func (v *HistoryVerdict) Count(s RecordState) int {
	n := 0
	for i := range v.Entries {
		if v.Entries[i].State == s {
			n++
		}
	}
	return n
}

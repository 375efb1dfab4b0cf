// Package ledger turns entries into a transparency log: it orders them, has Trillian hash them, signs checkpoints, publishes
// C2SP tiles, and closes epochs with their rolls and index.
//
// # What it guarantees
//
// When [Log.Append] returns without an error, every entry of the group stands in the tree under a checkpoint that this log has signed
// and stored durably, together with whatever was attached to the group; the checkpoint extends every checkpoint signed before. An entry is committed with its
// log index and epoch in one transaction of the [Store] before Trillian hears of it, so a retry always rebuilds the same tree. Nothing is signed that is not
// proven to extend the last signed checkpoint.
//
// # What it doesn't
//
// An appended entry is not yet published (tiles follow within seconds), not yet witnessed, and not yet in a roll: labels and rolls are made off
// the release path and are complete when the epoch closes. An error of Append doesn't mean that the entries will never be in the log: once committed, they will.
// Trillian isn't trusted: its root is compared with the one that the order gives before anything is signed. The Store is: whoever can write to it before an entry is
// signed decides what is signed; after that a change shows.
//
// # Epochs
//
// An epoch ends on schedule, in UTC, by the log's own clock, also when nothing happens. Nothing is ordered while it closes: every filed entry gets its label first. The rolls of a large epoch are made before
// it ends, while entries are ordered, and what is filed meanwhile is added, so that the close itself is short; if there was no time for that, since the broker was down, the epoch takes entries for as long as it
// takes. The files of the index follow the marker, before the checkpoint that shows it. An entry that
// can't be labelled holds the log up, since leaving it out would hide it, until the Store says otherwise (the broker's does when the operator gives an entry up, and has the log say so). When the broker was down over one end or several, one long epoch is closed late, at the next start, and the
// epoch that opens then ends on schedule again: epochs are numbered, not dated. Times never go back within a log: while the clock is behind the log's last time by up to an
// hour the log keeps its time and says so; behind by more, it refuses with [ErrUnavailable] rather than back-date. While the clock is more than 31 days (or two epochs, if they are longer) ahead of
// the last time that the log has seen, it refuses too, and [Open] does, unless the operator has confirmed the clock ([Config].ConfirmClock): a marker can't be taken back.
//
// # Cost
//
// A round, of as many entries as gathered while the one before was under way, takes at most four fsyncs: commit of the order, leaves to Trillian, integration, signed checkpoint.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
)

// Errors of this package, by what the caller should do.
var (
	// ErrBusy: too many groups wait. Answer 503 with Retry-After; nothing was committed.
	ErrBusy = errors.New("ledger: too many entries are waiting")
	// ErrUnavailable: the log can't sign now (store, Trillian, keys or checkpoint store failed). The group may have been committed, and then it will be in
	// the log, but nothing may be released on it. Answer 503 with Retry-After.
	ErrUnavailable = errors.New("ledger: the log is not available")
	// ErrHalted: the log found that it can't prove its own history. It signs nothing more until the operator decides.
	ErrHalted = errors.New("ledger: halted")
	// ErrClosed is an ErrUnavailable: nothing of the group was taken. If the log goes on elsewhere, it can be given to that at once.
	ErrClosed = fmt.Errorf("%w: closed", ErrUnavailable)
	// ErrDeposed is an ErrUnavailable: another broker leads the log. What was committed will be signed by that one.
	ErrDeposed = fmt.Errorf("%w: another broker leads it", ErrUnavailable)
	// ErrTreeBehind is an ErrHalted of Open: Trillian lost entries that were signed, and the Store has them. Rebuild the tree, then open again.
	ErrTreeBehind = fmt.Errorf("%w: Trillian lost some entries", ErrHalted)
	// ErrAlone is an ErrUnavailable: the Store took other groups when they were committed one by one, and not this one, or its Commit wraps this, for it works and fails at what it was given. Nothing of the group was committed. Who would try for ever should give up after a few times.
	ErrAlone = fmt.Errorf("%w: the group can't be stored, and others can", ErrUnavailable)
	// ErrRefused: the group itself can't be stored: an entry that isn't valid, or an attachment that the Store refuses. Nothing of it was committed; a fault of the caller,
	// so trying again doesn't help. A Store's Commit wraps it when an attachment is to blame, and the log then commits the batch's groups one by one.
	ErrRefused = errors.New("ledger: the group was refused")
	// ErrNotFound: no such entry, or its epoch is still open where a closed one is needed.
	ErrNotFound = errors.New("ledger: not found")
)

// A Group is what enters the log together or not at all: the entries of one disclosure, or one governance entry.
type Group struct {
	// Entries, at least one. Their epoch is set by the log when it orders them. Markers are the log's own: a group can't hold one.
	Entries []proof.Entry
	// Attach goes to the Store with the entries' places, in the same transaction. The ledger doesn't look at it.
	Attach any
}

// Appended is what Append gives: the places of a group's entries in the order of Group.Entries, proven under one signed checkpoint.
type Appended struct {
	Checkpoint proof.Checkpoint
	Entries    []proof.Proven
}

// A Leaf is one ordered entry.
type Leaf struct {
	Index proof.Index
	Epoch proof.Epoch
	Kind  proof.Kind
	Text  []byte
	// Identity is Trillian's leaf identity value: random, the log's own, so that nobody can suppress an entry by reusing one.
	Identity [32]byte
}

// A PlacedGroup is a group with its leaves, in the order of Group.Entries. (Within a batch the leaves are in random order.)
type PlacedGroup struct {
	Leaves []Leaf
	Attach any
}

// A Batch is committed in one transaction: consecutive leaves from First on.
type Batch struct {
	First  proof.Index
	Groups []PlacedGroup
	// Closes is set when the first leaf of the batch is a marker.
	Closes *ClosedEpoch
	// Opens is set with Closes, and alone for the very first marker.
	Opens *OpenEpoch
}

// OpenEpoch is the state of the epoch that the log is in.
type OpenEpoch struct {
	Number proof.Epoch
	Marker proof.Index // index of the marker that opened it
	Text   []byte      // that marker
	Opened time.Time
	Until  time.Time
	// LabelKey names the VRF key of this epoch for the Labeler.
	LabelKey string
}

// ClosedEpoch is what is known when an epoch has been closed.
type ClosedEpoch struct {
	OpenEpoch
	Closer proof.Index // index of the marker that closed it
	Size   uint64      // entries
	Items  uint64      // rolls in its index
	Bits   uint8
	Root   proof.Hash // of its index
}

// Tail is the end of the order.
type Tail struct {
	Next proof.Index
	Open *OpenEpoch // nil if and only if Next is 0
	// Counts of the open epoch by kind, its marker included.
	Counts map[proof.Kind]uint64
}

// A Filing puts an entry into the roll of a label.
type Filing struct {
	Index proof.Index
	Label proof.Label
}

// An Unfiled entry has no label yet.
type Unfiled struct {
	Index   proof.Index
	Subject proof.Subject
}

// Store keeps the order of the log durably. Every method may be called concurrently with the others; Commit is called by one goroutine at a time.
// An error of Commit leaves it open whether the batch is stored: the log reads the tail again before it goes on.
type Store interface {
	// Tail returns the end of the order, all of it as of one moment. It may take time in proportion to the open epoch.
	Tail(context.Context) (Tail, error)
	// Next returns Tail's Next alone, in a time that does not depend on the size of the log.
	Next(context.Context) (proof.Index, error)
	// Commit stores the batch and the groups' attachments in one durable transaction, or nothing. It refuses a batch whose First isn't the tail's Next. If an attachment
	// can't be stored, whatever the state of the disk, the error wraps ErrRefused and nothing is stored: one bad group must not stop the others.
	Commit(context.Context, *Batch) error
	// Leaves calls fn for the leaves [from, to) in order. It returns an error if one is missing.
	Leaves(ctx context.Context, from, to proof.Index, fn func(Leaf) error) error
	// Unfiled lists filed-kind entries of the epoch that have no label, lowest index first. The log files exactly what it got, in that order, before it asks again. An entry whose
	// subject can't be read any more is an error, with which come the entries before it, if there are any.
	Unfiled(ctx context.Context, epoch proof.Epoch, limit int) ([]Unfiled, error)
	// File stores labels; filing an entry twice under the same label is no error.
	File(context.Context, proof.Epoch, []Filing) error
	// Filings calls fn for all filings of an epoch by increasing label, then index, as they were at one moment of the call; others may be stored meanwhile.
	Filings(ctx context.Context, epoch proof.Epoch, fn func(Filing) error) error
	// Roll lists the entries of one label in an epoch by increasing index, with all that was filed before the call.
	Roll(ctx context.Context, epoch proof.Epoch, label proof.Label) ([]proof.Index, error)
	// Epoch returns a closed epoch. ErrNotFound if it is open or unknown.
	Epoch(context.Context, proof.Epoch) (ClosedEpoch, error)
	// EpochOf returns the number of the epoch in which an index stands.
	EpochOf(context.Context, proof.Index) (proof.Epoch, error)
}

// SignedStore keeps the last signed checkpoint. It belongs to another failure domain than the Store and outside its backups: it is what keeps a restored backup from forking the log.
type SignedStore interface {
	// Last returns the last signed checkpoint note, nil if there was none yet.
	Last(context.Context) ([]byte, error)
	// Swap durably replaces old by new in one step and fails with ErrHalted if the stored note isn't old (nil: none).
	Swap(ctx context.Context, old, new []byte) error
}

// Labeler makes labels and the secrets of rolls. Keys are named by strings that the ledger stores with each epoch.
type Labeler interface {
	// CurrentKey names the key for an epoch that opens at t and returns its public half.
	CurrentKey(ctx context.Context, t time.Time) (name string, public [32]byte, err error)
	// Label computes labels under the named key, in the order of the subjects.
	Label(ctx context.Context, name string, epoch proof.Epoch, subjects []proof.Subject) ([]proof.Label, error)
	// Prove returns the label and its VRF proof.
	Prove(ctx context.Context, name string, epoch proof.Epoch, subject proof.Subject) (proof.Label, []byte, error)
	// RollSeed returns the secret from which the salts of the rolls of an epoch under the named key are derived.
	RollSeed(ctx context.Context, name string, epoch proof.Epoch) ([32]byte, error)
}

// Signers returns the signers of checkpoints in force: more than one while a key is being replaced.
type Signers func(context.Context) ([]note.Signer, error)

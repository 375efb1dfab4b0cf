// Package proof defines everything that leaves Regard and that somebody may
// have to check: log entries, record commitments and their openings, subjects,
// labels, rolls, the epoch index and receipts; and it checks them. The formats
// are specified in docs/formats.md, and testdata holds vectors of each.
//
// What it guarantees: a parser accepts canonical bytes only (what parses
// re-serialises to the same bytes) and bounds its memory by its input; a
// [Checkpoint] exists only if its log's signature was verified, a [Verified]
// only if every entry of the set was shown to be in the tree under such a
// checkpoint; zero values of both are refused wherever they are taken. The
// package is pure: no clock, no network, no global randomness.
//
// What it does not: a valid receipt says nothing about requests that are not
// in the log; only a settled receipt or an index proof speaks about the
// completeness of a closed epoch, and only for the labels it shows. A
// checkpoint without a quorum of witnesses may belong to a fork.
package proof

import (
	"errors"
	"fmt"
)

// Errors that callers distinguish. Every error of this package wraps one of
// them, with the place where it was found. None holds a value of a record or
// of a subject.
var (
	// ErrFormat: the bytes are not in the canonical form. Refuse them; asking
	// again for the same object will not help.
	ErrFormat = errors.New("not in canonical form")
	// ErrUnknown: an entry of a type that was defined after this version. It
	// wraps ErrFormat. The entry can be hashed, counted and proven to be in the
	// log (ParseHead), but not read: get a newer version.
	ErrUnknown = fmt.Errorf("type not known to this version: %w", ErrFormat)
	// ErrUnproven: well-formed, but what it claims is not shown: a hash path, a
	// VRF proof, a commitment or a link to a marker does not hold. Treat it as
	// evidence against whoever made it and keep the bytes.
	ErrUnproven = errors.New("not proven")
	// ErrSignature: the checkpoint is not signed by a log of the policy, or a
	// signature of a key that the policy names does not verify.
	ErrSignature = errors.New("not signed as the policy demands")
	// ErrOtherLog: the checkpoint has no signature of a log of the policy, so nothing
	// is known of it: it is another log's, or the policy is. It wraps ErrSignature,
	// which alone says that a signature is false.
	ErrOtherLog = fmt.Errorf("no log of the policy signed it: %w", ErrSignature)
	// ErrNotWitnessed: all that was claimed is shown, but the checkpoint lacks
	// the policy's quorum of witnesses. Ask the operator for the upgraded
	// receipt, or accept a provisional one explicitly.
	ErrNotWitnessed = errors.New("not witnessed: the checkpoint lacks the policy's quorum")
	// ErrAhead: all that was claimed is shown, but the log dates it in what is yet to
	// come by the reader's clock. Set that clock; if it was right, the log's is wrong,
	// and whoever has to watch over the log should know.
	ErrAhead = errors.New("the log is ahead of the clock")
	// ErrStale: all that was claimed is shown, but the root is older than the reader
	// accepts. Ask for a newer one; if there is none, something is kept from you.
	ErrStale = errors.New("stale")
	// ErrFork: two histories of one log contradict each other. Keep both, they are
	// evidence against whoever signed them.
	ErrFork = errors.New("the log has two histories")
	// ErrSubject: an identity or identifier has no canonical form: correct
	// the input.
	ErrSubject = errors.New("not a valid subject")
	// ErrHidden: the field or part is not available here (not for this reader,
	// or erased).
	ErrHidden = errors.New("not open")
)

// formatError returns an error that wraps ErrFormat. Arguments must not be
// personal data: callers pass positions, names of keys and lengths.
func formatError(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrFormat)
}

func unproven(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrUnproven)
}

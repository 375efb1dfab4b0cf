package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// maxSkipReason leaves room in the reason of restart@v1, a token, for what is said before it.
const maxSkipReason = 64 - len("unreadable.")

// Skip is the way out when the person part of an entry can't be read, so that nobody can tell into whose roll it belongs: nothing after it is filed then, and its epoch can't close. The entry
// goes into a roll that is nobody's, its details count as lost, and restart@v1 declares it in the log. Only the entry that holds up the filing is taken, and only if it really
// can't be read; keys that are out of reach for the moment are no reason.
func (b *Broker) Skip(ctx context.Context, index proof.Index, reason string) error {
	if !proof.IsToken(reason) || len(reason) > maxSkipReason {
		return invalid("/reason", "The reason is not a token, or too long.", fmt.Sprintf("Use lower-case letters, digits, '.', '_' and '-', at most %d: everybody reads it in the log.", maxSkipReason))
	}
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	// Nobody waits for the caller's patience in the middle of it.
	ctx = context.WithoutCancel(ctx)
	_, err = order{store.Order{Store: b.store}, b}.Unfiled(ctx, b.ledger().OpenEpoch().Number, 1)
	switch {
	case err == nil:
		return conflict("log.readable", "The next entry can be filed.", "Nothing is skipped that can be read. Look at the broker's log for what holds up the filing.")
	case !unreadable(err):
		return keysProblem(err)
	}
	if err := b.store.Skip(ctx, index, reason); errors.Is(err, store.ErrNotNext) {
		return conflict("log.not_next", fmt.Sprintf("Entry %d isn't the one that holds up the filing.", index), "The broker's log names it: \"labelling entries failed\".")
	} else if err != nil {
		return unavailable("store.unavailable", "The broker can't write to its store now.", err)
	}
	b.log.Error("an entry was filed in nobody's roll, because its record can't be read", "entry", uint64(index), "reason", reason)
	if err := b.declareSkipped(ctx); err != nil {
		return &Problem{Status: 503, Code: "log.unavailable", Title: "The entry is given up, and the log can't say so yet.", Detail: "The broker has it say so as soon as it can; there is nothing to repeat.", err: err}
	}
	return nil
}

// declareSkipped has the log say what was skipped. It comes after the skip: an epoch that is due closes before anything else is ordered.
func (b *Broker) declareSkipped(ctx context.Context) error {
	skipped, err := b.store.Skipped(ctx)
	if err != nil {
		return err
	}
	for _, k := range skipped {
		cp := b.ledger().Checkpoint()
		if cp.Size() <= uint64(k.Index) {
			return unavailable("log.unavailable", "The log hasn't signed the entry that was given up yet.", nil)
		}
		e := proof.Restart{Reason: "unreadable." + k.Reason, Size: cp.Size(), Root: cp.Root(), Lost: proof.Lost{From: k.Index, To: k.Index}}
		if _, err := b.append(ctx, ledger.Group{Entries: []proof.Entry{e}, Attach: &store.SkipDeclared{Index: k.Index}}); err != nil {
			return fmt.Errorf("declaring that entry %d was skipped: %w", k.Index, err)
		}
	}
	return nil
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// ErasedRequest asks for what is left of erased records of whole closed epochs.
type ErasedRequest struct {
	From, To       proof.Epoch // both included
	Reason         string      // token: everybody reads it
	IdempotencyKey string
}

// scanErased is how many entries a page of erased records looks at.
const scanErased = 512

// Erased opens the administrative parts of erased records for an auditor, the first page of them; ErasedPage gives the others. No access@v1 can be filed for these, so an audit@v1 entry says before that
// the auditor is shown all of these epochs. It covers nothing else: a record of these epochs that isn't erased stays closed, and is counted.
func (b *Broker) Erased(ctx context.Context, caller Caller, req *ErasedRequest) (*Openings, error) {
	if !caller.Auditor {
		return nil, errNotAuditor()
	}
	if !proof.IsToken(req.Reason) {
		return nil, invalid("/reason", "The reason is not a token.", "Use lower-case letters, digits, '.', '_' and '-': it stands in the public log.")
	}
	if req.From > req.To {
		return nil, invalid("/from_epoch", "This is no range of epochs.", "Send from_epoch and to_epoch, both included.")
	}
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	first, err := b.closedEpoch(ctx, "/from_epoch", req.From)
	if err != nil {
		return nil, err
	}
	last, err := b.closedEpoch(ctx, "/to_epoch", req.To)
	if err != nil {
		return nil, err
	}
	audit, err := b.audited(ctx, caller, req.IdempotencyKey, fmt.Appendf(nil, "erased\x00%d %d %s", req.From, req.To, req.Reason))
	if err != nil {
		return nil, err
	}
	entry := store.ErasedAudit{Auditor: caller.ID, From: first.Marker, To: last.Closer - 1, At: b.now(), Audit: audit}
	if audit != nil && len(audit.Before) == 1 {
		entry.Index = audit.Before[0].Access
		return b.erasedPage(ctx, &entry, entry.From)
	}
	if audit != nil {
		audit.Targets = []proof.Index{entry.From}
	}
	appended, err := b.ledger().Append(ctx, ledger.Group{Entries: []proof.Entry{proof.Audit{Auditor: caller.ID, From: entry.From, To: entry.To, Reason: req.Reason}}, Attach: &entry})
	if errors.Is(err, store.ErrExists) {
		return nil, errKeyInProgress()
	}
	if err != nil {
		return nil, unavailable("log.unavailable", "The log can't record now that records are read, so none was opened.", err)
	}
	if _, err := proof.VerifyEntry(appended.Checkpoint, appended.Entries[0]); err != nil {
		return nil, unavailable("log.unproven", "The log gave no valid proof that it recorded the audit, so no record was opened.", err)
	}
	entry.Index = appended.Entries[0].Index
	return b.erasedPage(ctx, &entry, entry.From)
}

func errKeyInProgress() *Problem {
	return &Problem{Status: 409, Code: "idempotency.in_progress", Title: "The first request with this Idempotency-Key is still running.", Detail: "Repeat the request shortly.", RetryAfter: time.Second}
}

// closedEpoch finds a closed epoch whose closing marker is published.
func (b *Broker) closedEpoch(ctx context.Context, parameter string, n proof.Epoch) (ledger.ClosedEpoch, error) {
	c, err := b.store.ClosedEpoch(ctx, n)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return c, &Problem{Status: 404, Code: "epoch.open", Title: "This epoch is open, or is yet to come.", Detail: "Ask when it is closed: the log's markers say so.", Parameter: parameter}
	case err != nil:
		return c, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	wait, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	if _, err := b.ledger().AwaitPublished(wait, c.Closer); err != nil {
		return c, unavailable("log.unavailable", "The log can't prove the epoch's marker now.", err)
	}
	return c, nil
}

// ErasedPage goes on with what Erased began, from a log index on, for a day.
func (b *Broker) ErasedPage(ctx context.Context, caller Caller, audit, from proof.Index) (*Openings, error) {
	if !caller.Auditor {
		return nil, errNotAuditor()
	}
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	entry, err := b.store.ErasedAudit(ctx, caller.ID, audit)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, &Problem{Status: 404, Code: "audit.unknown", Title: "There is no such audit of yours.", Detail: "Begin one with POST /v1/audit/erased."}
	case err != nil:
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	case b.now().Sub(entry.At) >= auditLife:
		return nil, &Problem{Status: 410, Code: "audit.expired", Title: "This audit was begun more than a day ago.", Detail: "Begin another with POST /v1/audit/erased: the log shall say when you read."}
	case from < entry.From || from > entry.To:
		return nil, invalid("/from", "The audit doesn't cover this index.", "Go on with next of the page before.")
	}
	if err := b.standing(ctx, entry.Index); err != nil {
		return nil, err
	}
	return b.erasedPage(ctx, &entry, from)
}

func (b *Broker) erasedPage(ctx context.Context, entry *store.ErasedAudit, from proof.Index) (*Openings, error) {
	rows, err := b.store.RowsIn(ctx, from, entry.To, scanErased+1)
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	out := &Openings{Audit: entry.Index, From: entry.From, To: entry.To}
	if len(rows) > scanErased {
		out.Next, rows = rows[scanErased].Index, rows[:scanErased]
	}
	v, err := b.viewOf(ctx, rows)
	if err != nil {
		return nil, err
	}
	if err := b.survey(ctx, v.glances); err != nil {
		return nil, err
	}
	// What isn't erased is left as it is; of the rest no more than a page.
	gone := &view{opened: v.opened}
	for i := range v.rows {
		g := (*glance)(nil)
		if v.of[i] >= 0 {
			g = &v.glances[v.of[i]]
		}
		if g != nil && (g.whole || g.delay != nil) || v.states[i] == OpeningOpened || v.states[i] == OpeningNone {
			out.Closed++
			continue
		}
		if len(gone.rows) == MaxOpenings {
			out.Next = v.rows[i].Index
			break
		}
		gone.rows, gone.states = append(gone.rows, v.rows[i]), append(gone.states, v.states[i])
		if g == nil {
			gone.of = append(gone.of, -1)
			continue
		}
		g.open = false
		gone.of, gone.glances = append(gone.of, len(gone.glances)), append(gone.glances, *g)
	}
	if err := b.explain(ctx, gone.glances); err != nil {
		return nil, err
	}
	for i := range gone.glances {
		if err := b.openRest(ctx, gone, &gone.glances[i]); err != nil {
			return nil, err
		}
	}
	out.Entries, err = b.shownTo(ctx, gone)
	return out, err
}

// openRest opens the administrative part of a record that was erased, and is what its entry commits to.
func (b *Broker) openRest(ctx context.Context, v *view, g *glance) error {
	state, err := b.openingState(ctx, g)
	if err != nil || state != OpeningErased {
		return err
	}
	rec, err := b.openEntry(ctx, g.row)
	switch {
	case errors.Is(err, keys.ErrNoKey): // the month has ended since
		g.entry.State = HistoryDamaged // unless that explains it
		if g.month, err = keys.KeyOf(g.row.Admin); err != nil {
			return err
		}
		retired, err := b.retired(ctx, g.row, g.month)
		if retired {
			g.entry.State = HistoryRetired
		}
		return err
	case unreadable(err):
		g.entry.State = HistoryDamaged
		return nil
	case err != nil:
		return keysProblem(err)
	}
	if !rec.Erased() || rec.Schema() != g.schema() {
		g.entry.State = HistoryDamaged
		return nil
	}
	g.entry.State = HistoryOpen
	v.opened[g.row.Index] = rec.Open(proof.ReaderAuditor)
	return nil
}

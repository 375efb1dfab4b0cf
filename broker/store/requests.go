package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// States of a request for erasure.
const (
	ErasureWaiting = "waiting"
	ErasureUndone  = "undone"
	ErasureDone    = "done"
)

// Events of an erasure that was undone because its identifier isn't the account's any more: it was taken from it, or a backup was restored.
const (
	ErasureDetached  = "detached"
	ErasureForgotten = "forgotten"
)

// Reasons why an erasure that is due waits.
const (
	BlockedByHold    = "hold"
	BlockedByContest = "contest"
)

// An ErasureRequest is a person's request to erase one identifier.
type ErasureRequest struct {
	ID         ID
	Request    ID // joins those made together
	Account    keys.Owner
	Owner      keys.Owner
	Type       proof.SubjectType
	Subject    []byte // sealed; empty unless it waits
	Ground     string
	Asked, Due time.Time
	State      string
	Blocked    string // why it waits though it is due; empty if nothing blocks it
	// Announced is when the person was told that it begins, zero until then; Ended when it was undone or done.
	Announced, Ended time.Time
	Index            proof.Index // of its entry, if done; 0 if that isn't known
}

const selectErasureRequest = "SELECT id, request, account, owner, type, subject, ground, asked, due, state, blocked, announced, ended, log_index FROM erasure_requests"

func scanErasureRequest(scan func(...any) error) (ErasureRequest, error) {
	var e ErasureRequest
	var id, request, account, owner []byte
	var typ string
	var asked, due int64
	var announced, ended, index sql.NullInt64
	if err := scan(&id, &request, &account, &owner, &typ, &e.Subject, &e.Ground, &asked, &due, &e.State, &e.Blocked, &announced, &ended, &index); err != nil {
		return e, classify(err)
	}
	e.ID, e.Request, e.Account, e.Owner, e.Type = idOf(id), idOf(request), ownerOf(account), ownerOf(owner), proof.SubjectType(typ)
	e.Asked, e.Due, e.Announced, e.Ended = time.UnixMilli(asked).UTC(), time.UnixMilli(due).UTC(), timeOf(announced), timeOf(ended)
	e.Index = proof.Index(index.Int64) // #nosec G115 -- a log index
	return e, nil
}

// RequestErasure stores requests that are made together, and tells the account. An identifier whose erasure the account has asked for already keeps its request; fresh is how many are new.
func (s *Store) RequestErasure(ctx context.Context, requests []ErasureRequest, sealed []*Sealed) (fresh int, err error) {
	err = s.do(ctx, func(t *tx) error {
		fresh = 0
		for i := range requests {
			e := &requests[i]
			if err := sealed[i].keep(t); err != nil {
				return err
			}
			n, err := t.exec("INSERT INTO erasure_requests (id, request, account, owner, type, subject, ground, asked, due, look, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, 'waiting') ON CONFLICT (owner, account) WHERE state = 'waiting' DO NOTHING",
				e.ID[:], e.Request[:], e.Account[:], e.Owner[:], string(e.Type), sealed[i].Blob, e.Ground, e.Asked.UnixMilli(), e.Due.UnixMilli())
			if err != nil {
				return err
			}
			fresh += int(n)
		}
		if fresh == 0 {
			return nil
		}
		return t.notify(&Notice{Account: requests[0].Account, Kind: NoticeErasure, Event: "asked", At: requests[0].Asked, Ref: requests[0].Request})
	})
	return fresh, err
}

// UndoErasure ends what of a request still waits; ErrNotFound if it isn't the account's, ErrEnded if nothing waits any more.
func (s *Store) UndoErasure(ctx context.Context, account keys.Owner, request ID, now time.Time) error {
	return s.do(ctx, func(t *tx) error {
		var all int64
		if err := t.row("SELECT count(*) FROM erasure_requests WHERE request = ? AND account = ?", request[:], account[:]).Scan(&all); err != nil {
			return err
		}
		if all == 0 {
			return ErrNotFound
		}
		// One that has begun is carried through.
		n, err := t.exec("UPDATE erasure_requests SET state = 'undone', subject = x'', blocked = '', ended = ? WHERE request = ? AND account = ? AND state = 'waiting' AND owner NOT IN (SELECT owner FROM erasures WHERE done = 0)",
			now.UnixMilli(), request[:], account[:])
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrEnded
		}
		return t.notify(&Notice{Account: account, Kind: NoticeErasure, Event: ErasureUndone, At: now, Ref: request})
	})
}

// undoDetached undoes the request of an account to erase an identifier that it gives up, and tells the account. One that has begun is carried through.
func undoDetached(t *tx, account, owner keys.Owner, now time.Time) error {
	var id, request []byte
	err := classify(t.row("SELECT id, request FROM erasure_requests WHERE account = ?1 AND owner = ?2 AND state = 'waiting' AND owner NOT IN (SELECT owner FROM erasures WHERE done = 0)", account[:], owner[:]).Scan(&id, &request))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := t.exec("UPDATE erasure_requests SET state = 'undone', subject = x'', blocked = '', ended = ? WHERE id = ?", now.UnixMilli(), id); err != nil {
		return err
	}
	return t.notify(&Notice{Account: account, Kind: NoticeErasure, Event: ErasureDetached, At: now, Ref: idOf(request)})
}

// undoOthers undoes what other accounts have asked to erase under an identifier that an account gets, however they lost it: it is no more theirs to erase.
func undoOthers(t *tx, account, owner keys.Owner, now time.Time) error {
	var others []keys.Owner
	err := t.rows("SELECT account FROM erasure_requests WHERE owner = ? AND account <> ? AND state = 'waiting'", func(r row) error {
		var b []byte
		err := r.Scan(&b)
		others = append(others, ownerOf(b))
		return err
	}, owner[:], account[:])
	if err != nil {
		return err
	}
	for _, other := range others {
		if err := undoDetached(t, other, owner, now); err != nil {
			return err
		}
	}
	return nil
}

// ErasureRequests lists an account's, newest first, those of one request together.
func (s *Store) ErasureRequests(ctx context.Context, account keys.Owner, limit int) ([]ErasureRequest, error) {
	return s.erasureRequests(ctx, selectErasureRequest+" WHERE account = ? ORDER BY request DESC, id LIMIT ?", account[:], limit)
}

// DueErasures lists requests that are due and have not been postponed, the oldest first. The account's own identifier comes last of those made together: with it goes the address to which mails are sent.
func (s *Store) DueErasures(ctx context.Context, now time.Time, limit int) ([]ErasureRequest, error) {
	return s.erasureRequests(ctx, selectErasureRequest+" WHERE state = 'waiting' AND look <= ? ORDER BY look, request, owner = account, id LIMIT ?", now.UnixMilli(), limit)
}

// Postpone has a request looked at later: it mustn't keep others from their turn.
func (s *Store) Postpone(ctx context.Context, id ID, look time.Time) error {
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE erasure_requests SET look = ? WHERE id = ? AND state = 'waiting'", look.UnixMilli(), id[:])
		return err
	})
}

func (s *Store) erasureRequests(ctx context.Context, query string, args ...any) ([]ErasureRequest, error) {
	var out []ErasureRequest
	err := s.each(ctx, query, func(scan func(...any) error) error {
		e, err := scanErasureRequest(scan)
		out = append(out, e)
		return err
	}, args...)
	return out, err
}

// Blocks says why an identifier can't be erased: by a hold or by a contest, or not at all (empty).
func (s *Store) Blocks(ctx context.Context, owner keys.Owner, now time.Time) (string, error) {
	var held, contested bool
	err := s.r.QueryRowContext(ctx, blocks, owner[:], now.UnixMilli()).Scan(&held, &contested)
	return blockedBy(held, contested), classify(err)
}

const blocks = `SELECT EXISTS (SELECT 1 FROM holds WHERE owner = ?1 AND (until IS NULL OR until > ?2)), EXISTS (SELECT 1 FROM contests WHERE state = 'open' AND owner = ?1) OR EXISTS (SELECT 1 FROM contests WHERE state = 'open' AND account = ?1)`

func blockedBy(held, contested bool) string {
	switch {
	case held:
		return BlockedByHold
	case contested:
		return BlockedByContest
	}
	return ""
}

// mayErase fails with ErrHeld or ErrContested if something keeps an identifier from being erased, and with ErrEnded if the request was undone. It belongs into the transaction that begins the erasure.
func mayErase(t *tx, owner keys.Owner, request ID, now time.Time) error {
	var held, contested bool
	if err := t.row(blocks, owner[:], now.UnixMilli()).Scan(&held, &contested); err != nil {
		return err
	}
	switch blockedBy(held, contested) {
	case BlockedByHold:
		return ErrHeld
	case BlockedByContest:
		return ErrContested
	}
	if request == (ID{}) {
		return nil
	}
	var waits int64
	if err := t.row("SELECT count(*) FROM erasure_requests WHERE id = ? AND state = 'waiting'", request[:]).Scan(&waits); err != nil {
		return err
	}
	if waits == 0 {
		return ErrEnded
	}
	return nil
}

// SetBlocked notes why a request waits though it is due, and tells the account if that is new.
func (s *Store) SetBlocked(ctx context.Context, e *ErasureRequest, why string, now time.Time) error {
	return s.do(ctx, func(t *tx) error {
		n, err := t.exec("UPDATE erasure_requests SET blocked = ? WHERE id = ? AND state = 'waiting' AND blocked <> ?1", why, e.ID[:])
		if err != nil || n == 0 || why == "" {
			return err
		}
		return t.notify(&Notice{Account: e.Account, Kind: NoticeErasure, Event: "blocked." + why, At: now, Ref: e.Request})
	})
}

// Announce tells the account that its erasure begins, once, and says whether the mails to it are out: after that nothing could be sent any more.
func (s *Store) Announce(ctx context.Context, e *ErasureRequest, now time.Time) (ready bool, err error) {
	err = s.do(ctx, func(t *tx) error {
		n, err := t.exec("UPDATE erasure_requests SET announced = ? WHERE account = ? AND request = ? AND state = 'waiting' AND announced IS NULL", now.UnixMilli(), e.Account[:], e.Request[:])
		if err != nil {
			return err
		}
		if n > 0 {
			if err := t.notify(&Notice{Account: e.Account, Kind: NoticeErasure, Event: "begun", At: now, Ref: e.Request}); err != nil {
				return err
			}
		}
		var waiting int64
		err = t.row("SELECT count(*) FROM outbox WHERE account = ? AND kind = ?", e.Account[:], string(LetterNews)).Scan(&waiting)
		ready = waiting == 0
		return err
	})
	return ready, err
}

// endRequests marks the requests about an owner as done whose erasure is.
func endRequests(t *tx, owner keys.Owner, now time.Time) error {
	var index sql.NullInt64
	if err := t.row("SELECT max(log_index) FROM erasures WHERE owner = ?", owner[:]).Scan(&index); err != nil {
		return err
	}
	_, err := t.exec("UPDATE erasure_requests SET state = 'done', subject = x'', blocked = '', ended = ?, log_index = ? WHERE owner = ? AND state = 'waiting'", now.UnixMilli(), index, owner[:])
	return err
}

// DropErasureRequests forgets requests that ended before t, at most limit, and returns how many there were.
func (s *Store) DropErasureRequests(ctx context.Context, t time.Time, limit int) (n int64, err error) {
	err = s.keep(ctx, func(tx *tx) error {
		n, err = tx.exec("DELETE FROM erasure_requests WHERE id IN (SELECT id FROM erasure_requests WHERE ended < ? AND ended IS NOT NULL LIMIT ?)", t.UnixMilli(), int64(limit))
		return err
	})
	return n, err
}

// CountErasures counts the requests that wait, and of these the ones that are due and blocked.
func (s *Store) CountErasures(ctx context.Context) (waiting, blocked int64, err error) {
	err = classify(s.r.QueryRowContext(ctx, "SELECT count(*), count(*) FILTER (WHERE blocked <> '') FROM erasure_requests WHERE state = 'waiting'").Scan(&waiting, &blocked))
	return waiting, blocked, err
}

// A Hold keeps one identifier from being erased; those with the same ID were ordered together.
type Hold struct {
	ID     ID
	Owner  keys.Owner
	Sealed []byte
	Since  time.Time
	Until  time.Time // zero: until it is removed
}

// AddHold stores the holds of one order. ErrEnded if an erasure of one of them has begun: that is carried through.
func (s *Store) AddHold(ctx context.Context, holds []Hold, sealed []*Sealed) error {
	return s.do(ctx, func(t *tx) error {
		for i := range holds {
			h := &holds[i]
			var begun int64
			if err := t.row("SELECT count(*) FROM erasures WHERE owner = ? AND done = 0", h.Owner[:]).Scan(&begun); err != nil {
				return err
			}
			if begun > 0 {
				return ErrEnded
			}
			if err := sealed[i].keep(t); err != nil {
				return err
			}
			if _, err := t.exec("INSERT INTO holds (id, owner, sealed, since, until) VALUES (?, ?, ?, ?, ?)", h.ID[:], h.Owner[:], sealed[i].Blob, h.Since.UnixMilli(), millis(h.Until)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Holds lists those of one owner, or of all if it is zero, with an ID of at least from.
func (s *Store) Holds(ctx context.Context, owner keys.Owner, from ID, limit int) ([]Hold, error) {
	query, args := "SELECT id, owner, sealed, since, until FROM holds WHERE id >= ?", []any{from[:]}
	if !owner.IsZero() {
		query, args = query+" AND owner = ?", append(args, owner[:])
	}
	var out []Hold
	err := s.each(ctx, query+" ORDER BY id, owner LIMIT ?", func(scan func(...any) error) error {
		var h Hold
		var id, o []byte
		var since int64
		var until sql.NullInt64
		err := scan(&id, &o, &h.Sealed, &since, &until)
		h.ID, h.Owner, h.Since, h.Until = idOf(id), ownerOf(o), time.UnixMilli(since).UTC(), timeOf(until)
		out = append(out, h)
		return err
	}, append(args, limit)...)
	return out, err
}

// RemoveHold ends the holds of one order; ErrNotFound if there is none.
func (s *Store) RemoveHold(ctx context.Context, id ID) error {
	return s.one(ctx, "DELETE FROM holds WHERE id = ?", id[:])
}

// restoreCitizens does to a restored backup what nobody can know to have happened since: an identifier may have been given up and be somebody else's, so none stays attached, and what was asked to be erased
// under it isn't; another erasure that was asked for may have been undone, so its time to think it over begins again; a delegation may have been revoked, so none stays in force. It returns how many delegations
// it ended.
func restoreCitizens(t *tx, now time.Time) (ended int64, err error) {
	if err := undoAttached(t, now); err != nil {
		return 0, err
	}
	var waiting []ErasureRequest
	err = t.rows(selectErasureRequest+" WHERE state = 'waiting'", func(r row) error {
		e, err := scanErasureRequest(r.Scan)
		waiting = append(waiting, e)
		return err
	})
	if err != nil {
		return 0, err
	}
	told := map[ID]bool{}
	for i := range waiting {
		e := &waiting[i]
		if _, err := t.exec("UPDATE erasure_requests SET due = ?1, look = ?1, announced = NULL WHERE id = ?2", now.Add(e.Due.Sub(e.Asked)).UnixMilli(), e.ID[:]); err != nil {
			return 0, err
		}
		if told[e.Request] {
			continue
		}
		told[e.Request] = true
		if err := t.notify(&Notice{Account: e.Account, Kind: NoticeErasure, Event: "restored", At: now, Ref: e.Request}); err != nil {
			return 0, err
		}
	}
	var live []ID
	err = t.rows("SELECT id FROM delegations WHERE ended IS NULL AND (until IS NULL OR until > ?)", func(r row) error {
		var b []byte
		err := r.Scan(&b)
		live = append(live, idOf(b))
		return err
	}, now.UnixMilli())
	if err != nil {
		return 0, err
	}
	for _, id := range live {
		if _, err := t.exec("UPDATE delegations SET ended = ?, ended_by = 'restored' WHERE id = ?", now.UnixMilli(), id[:]); err != nil {
			return 0, err
		}
		if err := t.tellDelegation(id, "revoked", now); err != nil {
			return 0, err
		}
	}
	return int64(len(live)), forgetAttached(t)
}

// undoAttached undoes what accounts have asked to erase under identifiers that were attached to them, and tells them, once for each request. What has begun is carried through.
func undoAttached(t *tx, now time.Time) error {
	const attached = " WHERE state = 'waiting' AND owner <> account AND owner NOT IN (SELECT owner FROM erasures WHERE done = 0)"
	var told []Notice
	err := t.rows("SELECT DISTINCT account, request FROM erasure_requests"+attached, func(r row) error {
		var account, request []byte
		err := r.Scan(&account, &request)
		told = append(told, Notice{Account: ownerOf(account), Kind: NoticeErasure, Event: ErasureForgotten, At: now, Ref: idOf(request)})
		return err
	})
	if err != nil {
		return err
	}
	if _, err := t.exec("UPDATE erasure_requests SET state = 'undone', subject = x'', blocked = '', ended = ?"+attached, now.UnixMilli()); err != nil {
		return err
	}
	for i := range told {
		if err := t.notify(&told[i]); err != nil {
			return err
		}
	}
	return nil
}

// forgetAttached forgets the identifiers that were attached to accounts, and that these are told of entries under them: both begin again when the person signs in.
func forgetAttached(t *tx) error {
	if _, err := t.exec("DELETE FROM watches WHERE type <> ? AND type <> ?", string(proof.TypePivot), string(proof.TypePerson)); err != nil {
		return err
	}
	_, err := t.exec("DELETE FROM identifiers")
	return err
}

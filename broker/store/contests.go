package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/regard-broker/regard/keys"
)

// States of a contest.
const (
	ContestOpen      = "open"
	ContestAnswered  = "answered"
	ContestWithdrawn = "withdrawn"
)

// A Contest of a disclosure by the person whom it concerns.
type Contest struct {
	ID         ID
	Account    keys.Owner
	Owner      keys.Owner // under which the entry is filed; zero once the person was erased
	Disclosure ID
	Agency     string
	Role       string // of the record
	Namesake   bool   // the entry is filed by names and birth date alone
	Lang       string
	Body       []byte // keyed digest of the text
	State      string
	Outcome    string
	// Text, Answer and Extension are sealed; empty if there is none, and once the person was erased.
	Text, Answer, Extension []byte
	Filed, Due              time.Time
	// Acknowledged, Extended and Ended are zero until then.
	Acknowledged, Extended, Ended time.Time
}

const selectContest = "SELECT id, account, owner, disclosure, agency, role, namesake, lang, body, text, state, filed, due, acknowledged, extended, extension, answered, outcome, answer FROM contests"

func scanContest(scan func(...any) error) (Contest, error) {
	var c Contest
	var id, account, owner, disclosure []byte
	var namesake, filed, due int64
	var acknowledged, extended, ended sql.NullInt64
	err := scan(&id, &account, &owner, &disclosure, &c.Agency, &c.Role, &namesake, &c.Lang, &c.Body, &c.Text, &c.State, &filed, &due, &acknowledged, &extended, &c.Extension, &ended, &c.Outcome, &c.Answer)
	if err != nil {
		return c, classify(err)
	}
	c.ID, c.Account, c.Owner, c.Disclosure, c.Namesake = idOf(id), ownerOf(account), ownerOf(owner), idOf(disclosure), namesake == 1
	c.Filed, c.Due = time.UnixMilli(filed).UTC(), time.UnixMilli(due).UTC()
	c.Acknowledged, c.Extended, c.Ended = timeOf(acknowledged), timeOf(extended), timeOf(ended)
	return c, nil
}

// FileContest stores a contest and has its agency told. The same text about the same entry again returns the contest that is open; another text, or another entry of the same disclosure, is ErrExists, and more than limit contests of an
// account since a time are ErrTooMany.
func (s *Store) FileContest(ctx context.Context, c *Contest, text *Sealed, since time.Time, limit int64) (filed Contest, err error) {
	err = s.do(ctx, func(t *tx) error {
		if err := text.keep(t); err != nil {
			return err
		}
		old, err := scanContest(t.row(selectContest+" WHERE account = ? AND disclosure = ? AND state = 'open'", c.Account[:], c.Disclosure[:]).Scan)
		switch {
		case err == nil && old.Owner == c.Owner && bytes.Equal(old.Body, c.Body):
			filed = old
			return nil
		case err == nil:
			return ErrExists
		case !errors.Is(err, ErrNotFound):
			return err
		}
		var n int64
		if err := t.row("SELECT count(*) FROM contests WHERE account = ? AND filed > ?", c.Account[:], since.UnixMilli()).Scan(&n); err != nil {
			return err
		}
		if n >= limit {
			return ErrTooMany
		}
		namesake := int64(0)
		if c.Namesake {
			namesake = 1
		}
		if _, err := t.exec("INSERT INTO contests (id, account, owner, disclosure, agency, role, namesake, lang, body, text, state, filed, due) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', ?, ?)",
			c.ID[:], c.Account[:], c.Owner[:], c.Disclosure[:], c.Agency, c.Role, namesake, c.Lang, c.Body, text.Blob, c.Filed.UnixMilli(), c.Due.UnixMilli()); err != nil {
			return err
		}
		filed = *c
		filed.State, filed.Text = ContestOpen, text.Blob
		return t.postAgency(LetterContest, c.Agency, c.ID, c.Filed)
	})
	return filed, err
}

// Contest finds one; ErrNotFound also if it is another agency's or, with an empty agency, another account's.
func (s *Store) Contest(ctx context.Context, id ID, agency string, account keys.Owner) (Contest, error) {
	if agency != "" {
		return scanContest(s.r.QueryRowContext(ctx, selectContest+" WHERE id = ? AND agency = ?", id[:], agency).Scan)
	}
	if account.IsZero() {
		return Contest{}, ErrNotFound
	}
	return scanContest(s.r.QueryRowContext(ctx, selectContest+" WHERE id = ? AND account = ?", id[:], account[:]).Scan)
}

// ContestOverdue is a state that follows from the time: open, and the deadline has passed.
const ContestOverdue = "overdue"

// Contests lists those of an agency, or of all if it is empty, in a state or in all if it is empty, with an id greater than after, by increasing id: that is by time.
func (s *Store) Contests(ctx context.Context, agency, state string, after ID, now time.Time, limit int) ([]Contest, error) {
	query, args := selectContest+" WHERE id > ?", []any{after[:]}
	if agency != "" {
		query, args = query+" AND agency = ?", append(args, agency)
	}
	switch state {
	case "":
	case ContestOverdue:
		query, args = query+" AND state = 'open' AND due <= ?", append(args, now.UnixMilli())
	default:
		query, args = query+" AND state = ?", append(args, state)
	}
	return s.contests(ctx, query+" ORDER BY id LIMIT ?", append(args, limit)...)
}

// ContestsOf lists those of an account, newest first.
func (s *Store) ContestsOf(ctx context.Context, account keys.Owner, limit int) ([]Contest, error) {
	return s.contests(ctx, selectContest+" WHERE account = ? ORDER BY id DESC LIMIT ?", account[:], limit)
}

func (s *Store) contests(ctx context.Context, query string, args ...any) ([]Contest, error) {
	var out []Contest
	err := s.each(ctx, query, func(scan func(...any) error) error {
		c, err := scanContest(scan)
		out = append(out, c)
		return err
	}, args...)
	return out, err
}

// A ContestMove is one step of an open contest: its agency acknowledges it, asks for more time or answers, or its person withdraws it.
type ContestMove struct {
	ID      ID
	Agency  string     // or
	Account keys.Owner // who moves
	Event   string     // acknowledged, extended, answered, withdrawn
	At      time.Time
	Due     time.Time // of extended: the new deadline
	Outcome string    // of answered
	Reply   []byte    // keyed digest of what is said, of extended and answered: the same again changes nothing
	Said    *Sealed   // nil but of extended and answered
}

// MoveContest carries it out and has the person told. The same move again changes nothing; ErrEnded if the contest has ended otherwise, ErrExists if it was extended otherwise.
func (s *Store) MoveContest(ctx context.Context, m *ContestMove) (c Contest, err error) {
	err = s.do(ctx, func(t *tx) error {
		query, who := " WHERE id = ? AND agency = ?", any(m.Agency)
		if m.Agency == "" {
			query, who = " WHERE id = ? AND account = ?", m.Account[:]
		}
		if m.Said != nil {
			if err := m.Said.keep(t); err != nil {
				return err
			}
		}
		var reply []byte
		if c, err = scanContest(t.row(selectContest+query, m.ID[:], who).Scan); err != nil {
			return err
		}
		if err := t.row("SELECT reply FROM contests WHERE id = ?", m.ID[:]).Scan(&reply); err != nil {
			return err
		}
		same := bytes.Equal(reply, m.Reply)
		switch at := m.At.UnixMilli(); {
		case m.Event == ContestAnswered && c.State == ContestAnswered && same && c.Outcome == m.Outcome, m.Event == ContestWithdrawn && c.State == ContestWithdrawn:
			return nil
		case c.State != ContestOpen:
			return ErrEnded
		case m.Event == "acknowledged":
			if !c.Acknowledged.IsZero() {
				return nil
			}
			c.Acknowledged = m.At
			_, err = t.exec("UPDATE contests SET acknowledged = ? WHERE id = ?", at, m.ID[:])
		case m.Event == "extended":
			if !c.Extended.IsZero() {
				if same {
					return nil
				}
				return ErrExists
			}
			c.Extended, c.Due, c.Extension = m.At, m.Due, m.Said.Blob
			_, err = t.exec("UPDATE contests SET extended = ?, due = ?, extension = ?, reply = ?, reminded = 0 WHERE id = ?", at, m.Due.UnixMilli(), m.Said.Blob, m.Reply, m.ID[:])
		case m.Event == ContestAnswered:
			c.State, c.Ended, c.Outcome, c.Answer = ContestAnswered, m.At, m.Outcome, m.Said.Blob
			_, err = t.exec("UPDATE contests SET state = 'answered', answered = ?, outcome = ?, answer = ?, reply = ? WHERE id = ?", at, m.Outcome, m.Said.Blob, m.Reply, m.ID[:])
		case m.Event == ContestWithdrawn:
			c.State, c.Ended = ContestWithdrawn, m.At
			_, err = t.exec("UPDATE contests SET state = 'withdrawn', answered = ? WHERE id = ?", at, m.ID[:])
		default:
			return fmt.Errorf("store: no such move of a contest: %q", m.Event)
		}
		if err != nil {
			return err
		}
		if m.Event != ContestWithdrawn {
			return t.notify(&Notice{Account: c.Account, Kind: NoticeContest, Event: m.Event, At: m.At, Ref: c.ID})
		}
		// Whoever withdraws needn't be told; a mail to the agency that waits has nothing to say any more.
		_, err = t.exec("DELETE FROM outbox WHERE ref = ? AND agency IS NOT NULL", c.ID[:])
		return err
	})
	return c, err
}

// RemindContests tells agencies and people of contests whose deadline has passed, once each, at most limit, and returns how many there were.
func (s *Store) RemindContests(ctx context.Context, now time.Time, limit int) (n int, err error) {
	err = s.do(ctx, func(t *tx) error {
		var late []Contest
		err := t.rows(selectContest+" WHERE state = 'open' AND due <= ? AND reminded = 0 ORDER BY due LIMIT ?", func(r row) error {
			c, err := scanContest(r.Scan)
			late = append(late, c)
			return err
		}, now.UnixMilli(), int64(limit))
		if err != nil {
			return err
		}
		n = len(late)
		for _, c := range late {
			if _, err := t.exec("UPDATE contests SET reminded = 1 WHERE id = ?", c.ID[:]); err != nil {
				return err
			}
			if err := t.postAgency(LetterOverdue, c.Agency, c.ID, now); err != nil {
				return err
			}
			if err := t.notify(&Notice{Account: c.Account, Kind: NoticeContest, Event: ContestOverdue, At: now, Ref: c.ID}); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// DropContests deletes contests that ended before t, at most limit, and returns how many there were.
func (s *Store) DropContests(ctx context.Context, t time.Time, limit int) (n int64, err error) {
	err = s.keep(ctx, func(tx *tx) error {
		n, err = tx.exec("DELETE FROM contests WHERE id IN (SELECT id FROM contests WHERE answered < ? AND answered IS NOT NULL LIMIT ?)", t.UnixMilli(), int64(limit))
		return err
	})
	return n, err
}

// CountContests counts those that are open, and of these the overdue ones.
func (s *Store) CountContests(ctx context.Context, now time.Time) (open, overdue int64, err error) {
	err = classify(s.r.QueryRowContext(ctx, "SELECT count(*), count(*) FILTER (WHERE due <= ?) FROM contests WHERE state = 'open'", now.UnixMilli()).Scan(&open, &overdue))
	return open, overdue, err
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// NoticeKind says what a notice is about; each kind can be switched off.
type NoticeKind string

// The kinds, in the order of their bits: never change it.
const (
	NoticeAccess     NoticeKind = "access"     // somebody asked for the person's data, or opened a record
	NoticeRefusal    NoticeKind = "refusal"    // somebody asked and policy refused
	NoticeContest    NoticeKind = "contest"    // a contest moved
	NoticeErasure    NoticeKind = "erasure"    // a step of an erasure
	NoticeDelegation NoticeKind = "delegation" // somebody may read a history, or may not any more
	NoticeDelay      NoticeKind = "delay"      // a lawful delay ended
)

// NoticeKinds are all kinds.
var NoticeKinds = []NoticeKind{NoticeAccess, NoticeRefusal, NoticeContest, NoticeErasure, NoticeDelegation, NoticeDelay}

// Bit of a kind in the columns of an account; 0 if there is no such kind.
func (k NoticeKind) Bit() int64 {
	for i, known := range NoticeKinds {
		if k == known {
			return 1 << i
		}
	}
	return 0
}

var (
	allKinds    int64 = 1<<len(NoticeKinds) - 1
	digestKinds       = NoticeAccess.Bit() | NoticeRefusal.Bit() // at most one mail a day
)

// MailEvery is the least time between two mails about accesses and refusals.
const MailEvery = 24 * time.Hour

// maxNotices are kept of one account; older ones make room.
const maxNotices = 1000

// A Notice tells an account that something happened. What it was is read where it stands.
type Notice struct {
	ID      int64
	Account keys.Owner
	Kind    NoticeKind
	Event   string // what of it: asked, refused, read; filed, acknowledged, extended, answered, …
	At      time.Time
	// Index of the entry; Entry is false if it is about none.
	Index proof.Index
	Entry bool
	Ref   ID    // of the disclosure, contest, request or delegation; zero: none
	Count int64 // how often since it was read
	Read  bool
}

// EventRead is a reading of a record; several are one notice.
const EventRead = "read"

// notify stores a notice if its account wants it, and has a mail sent if it wants that. An account that isn't there wants nothing.
func (t *tx) notify(n *Notice) error {
	var page, mail int64
	var address []byte
	var digest sql.NullInt64
	var last int64
	err := classify(t.row("SELECT page, mail, address, digest_due, digest_at FROM citizens WHERE account = ?", n.Account[:]).Scan(&page, &mail, &address, &digest, &last))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	bit := n.Kind.Bit()
	if page&bit != 0 {
		if err := t.show(n); err != nil {
			return err
		}
	}
	if mail&bit == 0 || address == nil {
		return nil
	}
	if bit&digestKinds == 0 {
		return t.post(&Letter{Kind: LetterNews, Account: n.Account, Created: n.At})
	}
	if digest.Valid {
		return nil
	}
	_, err = t.exec("UPDATE citizens SET digest_due = ? WHERE account = ?", max(n.At.UnixMilli(), last+MailEvery.Milliseconds()), n.Account[:])
	return err
}

func (t *tx) show(n *Notice) error {
	if n.Kind == NoticeAccess || n.Kind == NoticeRefusal || n.Kind == NoticeDelay {
		// A page of records that somebody opened is one piece of news; so is a disclosure that is filed under two of a person's identifiers.
		at, err := t.exec(`UPDATE notices SET count = count + 1, at = ?1, log_index = ?2 WHERE id = (SELECT max(id) FROM notices WHERE account = ?3) AND event = ?4 AND ?4 = '`+EventRead+`' AND read_at IS NULL`,
			n.At.UnixMilli(), int64(n.Index), n.Account[:], n.Event) // #nosec G115 -- a log index
		if err != nil || at > 0 {
			return err
		}
		if n.Ref != (ID{}) {
			var there int64
			if err := t.row("SELECT count(*) FROM notices WHERE account = ? AND ref = ? AND kind = ?", n.Account[:], n.Ref[:], string(n.Kind)).Scan(&there); err != nil || there > 0 {
				return err
			}
		}
	}
	var index, ref any
	if n.Entry {
		index = int64(n.Index) // #nosec G115 -- a log index
	}
	if n.Ref != (ID{}) {
		ref = n.Ref[:]
	}
	if _, err := t.exec("INSERT INTO notices (account, kind, event, at, log_index, ref, count) VALUES (?, ?, ?, ?, ?, ?, 1)", n.Account[:], string(n.Kind), n.Event, n.At.UnixMilli(), index, ref); err != nil {
		return err
	}
	_, err := t.exec("DELETE FROM notices WHERE account = ?1 AND id <= (SELECT id FROM notices WHERE account = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)", n.Account[:], int64(maxNotices))
	return err
}

// Notices of an account, newest first, those below before (0: from the newest).
func (s *Store) Notices(ctx context.Context, account keys.Owner, before int64, limit int) ([]Notice, error) {
	var out []Notice
	err := s.each(ctx, "SELECT id, kind, event, at, log_index, ref, count, read_at IS NOT NULL FROM notices WHERE account = ?1 AND (id < ?2 OR ?2 = 0) ORDER BY id DESC LIMIT ?3", func(scan func(...any) error) error {
		n := Notice{Account: account}
		var kind string
		var at int64
		var index sql.NullInt64
		var ref []byte
		err := scan(&n.ID, &kind, &n.Event, &at, &index, &ref, &n.Count, &n.Read)
		n.Kind, n.At, n.Index, n.Entry, n.Ref = NoticeKind(kind), time.UnixMilli(at).UTC(), proof.Index(index.Int64), index.Valid, idOf(ref)
		out = append(out, n)
		return err
	}, account[:], before, limit)
	return out, err
}

const countUnread = "SELECT count(*) FROM notices WHERE account = ? AND read_at IS NULL" // by the index notices_unread, which has no others

// Unread counts an account's notices that were not read.
func (s *Store) Unread(ctx context.Context, account keys.Owner) (n int64, err error) {
	err = classify(s.reads.unread.QueryRowContext(ctx, account[:]).Scan(&n))
	return n, err
}

// MarkRead marks notices of an account as read, up to one of them.
func (s *Store) MarkRead(ctx context.Context, account keys.Owner, upto int64, now time.Time) error {
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE notices SET read_at = ? WHERE account = ? AND id <= ? AND read_at IS NULL", now.UnixMilli(), account[:], upto)
		return err
	})
}

package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/regard-broker/regard/keys"
)

// LetterKind says which mail is to be sent.
type LetterKind string

// The kinds.
const (
	LetterConfirm LetterKind = "confirm" // to a person: is this address yours?
	LetterNews    LetterKind = "news"    // to a person: there is something new
	LetterDigest  LetterKind = "digest"  // the same, of accesses
	LetterContest LetterKind = "contest" // to an agency: there is a contest
	LetterOverdue LetterKind = "overdue" // to an agency: its deadline has passed
)

// Roles of an agency's addresses.
const (
	RoleContact = "contact"
	RoleDPO     = "dpo"
)

// A Letter is a mail that is to be sent. It names who gets it, never an address.
type Letter struct {
	ID      int64
	Kind    LetterKind
	Account keys.Owner // zero: to an agency
	Agency  string
	Role    string // of the agency's address
	Ref     ID     // of the contest
	Created time.Time
	Tries   int64
}

// post puts a letter into the outbox. A person's that waits already says the same.
func (t *tx) post(l *Letter) error {
	if !l.Account.IsZero() {
		_, err := t.exec("INSERT INTO outbox (kind, account, created, due) VALUES (?1, ?2, ?3, ?3) ON CONFLICT DO NOTHING", string(l.Kind), l.Account[:], l.Created.UnixMilli())
		return err
	}
	_, err := t.exec("INSERT INTO outbox (kind, agency, role, ref, created, due) VALUES (?1, ?2, ?3, ?4, ?5, ?5)", string(l.Kind), l.Agency, l.Role, l.Ref[:], l.Created.UnixMilli())
	return err
}

// postAgency has a mail sent to the addresses that an agency has, if mails are sent.
func (t *tx) postAgency(kind LetterKind, agency string, ref ID, now time.Time) error {
	var contact, dpo string
	if err := t.row("SELECT contact, dpo FROM agencies WHERE id = ?", agency).Scan(&contact, &dpo); err != nil || !t.mailing {
		return err
	}
	for role, address := range map[string]string{RoleContact: contact, RoleDPO: dpo} {
		if address == "" || role == RoleContact && contact == dpo {
			continue
		}
		if err := t.post(&Letter{Kind: kind, Agency: agency, Role: role, Ref: ref, Created: now}); err != nil {
			return err
		}
	}
	return nil
}

// Letters lists what is due, the oldest first.
func (s *Store) Letters(ctx context.Context, now time.Time, limit int) ([]Letter, error) {
	var out []Letter
	err := s.each(ctx, "SELECT id, kind, account, agency, role, ref, created, tries FROM outbox WHERE due <= ? ORDER BY due, id LIMIT ?", func(scan func(...any) error) error {
		var l Letter
		var kind string
		var account, ref []byte
		var agency sql.NullString
		var created int64
		err := scan(&l.ID, &kind, &account, &agency, &l.Role, &ref, &created, &l.Tries)
		l.Kind, l.Account, l.Agency, l.Ref, l.Created = LetterKind(kind), ownerOf(account), agency.String, idOf(ref), time.UnixMilli(created).UTC()
		out = append(out, l)
		return err
	}, now.UnixMilli(), limit)
	return out, err
}

// Waiting counts what is in the outbox.
func (s *Store) Waiting(ctx context.Context) (n int64, err error) {
	err = classify(s.r.QueryRowContext(ctx, "SELECT count(*) FROM outbox").Scan(&n))
	return n, err
}

// Sent takes a letter out of the outbox, also one that nobody will ever get.
func (s *Store) Sent(ctx context.Context, id int64) error {
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM outbox WHERE id = ?", id)
		return err
	})
}

// Retry has a letter tried again later.
func (s *Store) Retry(ctx context.Context, id int64, due time.Time) error {
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE outbox SET tries = tries + 1, due = ? WHERE id = ?", due.UnixMilli(), id)
		return err
	})
}

// Bounced takes a person's letter out of the outbox whose address was refused for good. After limit of them, one after the other, nothing more is sent there until the person confirms an address anew.
// A letter that got through ends the count.
func (s *Store) Bounced(ctx context.Context, l *Letter, limit int64) error {
	return s.do(ctx, func(t *tx) error {
		if _, err := t.exec("DELETE FROM outbox WHERE id = ?", l.ID); err != nil {
			return err
		}
		if l.Kind == LetterConfirm { // an address that was never in force
			_, err := t.exec("UPDATE citizens SET pending = NULL, confirm = NULL, confirm_until = NULL WHERE account = ?", l.Account[:])
			return err
		}
		_, err := t.exec(`UPDATE citizens SET failures = failures + 1,
			address = CASE WHEN failures + 1 >= ?2 THEN NULL ELSE address END, unsubscribe = CASE WHEN failures + 1 >= ?2 THEN NULL ELSE unsubscribe END,
			digest_due = CASE WHEN failures + 1 >= ?2 THEN NULL ELSE digest_due END WHERE account = ?1`, l.Account[:], limit)
		return err
	})
}

// Delivered takes a person's letter out of the outbox that got through.
func (s *Store) Delivered(ctx context.Context, l *Letter) error {
	return s.do(ctx, func(t *tx) error {
		if _, err := t.exec("DELETE FROM outbox WHERE id = ?", l.ID); err != nil {
			return err
		}
		_, err := t.exec("UPDATE citizens SET failures = 0 WHERE account = ? AND failures > 0", l.Account[:])
		return err
	})
}

// Digests puts the mails into the outbox that tell of accesses and are due, at most limit, and returns how many.
func (s *Store) Digests(ctx context.Context, now time.Time, limit int) (n int, err error) {
	err = s.do(ctx, func(t *tx) error {
		var due []keys.Owner
		err := t.rows("SELECT account FROM citizens WHERE digest_due <= ? AND digest_due IS NOT NULL ORDER BY digest_due LIMIT ?", func(r row) error {
			var b []byte
			err := r.Scan(&b)
			due = append(due, ownerOf(b))
			return err
		}, now.UnixMilli(), int64(limit))
		if err != nil {
			return err
		}
		for _, account := range due {
			if _, err := t.exec("UPDATE citizens SET digest_due = NULL, digest_at = ? WHERE account = ?", now.UnixMilli(), account[:]); err != nil {
				return err
			}
			if err := t.post(&Letter{Kind: LetterDigest, Account: account, Created: now}); err != nil {
				return err
			}
		}
		n = len(due)
		return nil
	})
	return n, err
}

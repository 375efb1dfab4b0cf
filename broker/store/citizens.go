package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// Errors of what people do, by what the caller should do.
var (
	// ErrTooMany: the account has as many as it may have, or did this too often; answer 429. Nothing was written.
	ErrTooMany = errors.New("store: too many of these")
	// ErrHeld: a legal hold keeps the identifier from being erased.
	ErrHeld = errors.New("store: a legal hold keeps this from being erased")
	// ErrContested: a contest is open that an erasure would make unreadable.
	ErrContested = errors.New("store: an open contest keeps this from being erased")
	// ErrEnded: it was answered, withdrawn, undone or carried out before; what is asked comes too late.
	ErrEnded = errors.New("store: this has ended")
)

// Sealed is something about a person that stands beside the log, sealed under a key of theirs: erasing the person makes it unreadable.
type Sealed struct {
	Blob  []byte
	Fresh *keys.StoredKey // has to be durable with it; nil: the key is stored
}

// keep makes sure that what is about to be stored can be opened. It fails with keys.ErrNoKey if the person was erased meanwhile.
func (s *Sealed) keep(t *tx) error {
	if s.Fresh != nil {
		return saveKeys(t, []*keys.StoredKey{s.Fresh})
	}
	id, err := keys.KeyOf(s.Blob)
	if err != nil {
		return err
	}
	return hasKey(t, id)
}

// A Citizen is how somebody who has signed in wants to be told.
type Citizen struct {
	Account  keys.Owner
	Lang     string
	Page     int64 // bits of NoticeKind
	Mail     int64
	Address  []byte // sealed; nil: none is confirmed
	Failures int64
	Pending  []byte // sealed; nil: none waits for its confirmation
	Until    time.Time
	// Unsubscribe and Confirm name the address in links.
	Unsubscribe, Confirm ID
}

const selectCitizen = "SELECT account, lang, page, mail, address, unsubscribe, failures, pending, confirm, confirm_until FROM citizens"

func scanCitizen(row interface{ Scan(...any) error }) (Citizen, error) {
	var c Citizen
	var account, unsubscribe, confirm []byte
	var until sql.NullInt64
	if err := row.Scan(&account, &c.Lang, &c.Page, &c.Mail, &c.Address, &unsubscribe, &c.Failures, &c.Pending, &confirm, &until); err != nil {
		return c, classify(err)
	}
	copy(c.Unsubscribe[:], unsubscribe)
	copy(c.Confirm[:], confirm)
	if copy(c.Account[:], account) != len(c.Account) {
		return c, fmt.Errorf("%w: a citizen's row is malformed", ErrCorrupt)
	}
	c.Until = timeOf(until)
	return c, nil
}

func timeOf(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}

// millis is null for the zero time.
func millis(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

// An Enrolled identifier is one of an account's.
type Enrolled struct {
	Owner keys.Owner
	Type  proof.SubjectType
}

// Enrol remembers that somebody has signed in and under which identifiers they are to be told of entries: from the next one on, of those that are new. Identifiers that they don't have any
// more are forgotten. A new account is told of everything in the page, and of nothing by mail.
func (s *Store) Enrol(ctx context.Context, account keys.Owner, lang string, under []Enrolled) error {
	return s.do(ctx, func(t *tx) error {
		if _, err := t.exec("INSERT INTO citizens (account, lang, page, mail) VALUES (?, ?, ?, ?) ON CONFLICT (account) DO UPDATE SET lang = excluded.lang", account[:], lang, allKinds, allKinds); err != nil {
			return err
		}
		var was []keys.Owner
		err := t.rows("SELECT owner FROM watches WHERE account = ?", func(r row) error {
			var b []byte
			err := r.Scan(&b)
			was = append(was, ownerOf(b))
			return err
		}, account[:])
		if err != nil {
			return err
		}
		still := map[keys.Owner]bool{}
		for _, e := range under {
			still[e.Owner] = true
			if _, err := t.exec("INSERT INTO watches (owner, account, type, since) SELECT ?, ?, ?, coalesce(max(log_index) + 1, 0) FROM leaves WHERE true ON CONFLICT DO NOTHING", e.Owner[:], account[:], string(e.Type)); err != nil {
				return err
			}
		}
		for _, o := range was {
			if still[o] {
				continue
			}
			if _, err := t.exec("DELETE FROM watches WHERE owner = ? AND account = ?", o[:], account[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// ownerOf is the zero Owner for anything that is none.
func ownerOf(b []byte) (o keys.Owner) {
	if len(b) == len(o) {
		copy(o[:], b)
	}
	return o
}

func idOf(b []byte) (id ID) {
	if len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

// Citizen finds an account; ErrNotFound if its person never signed in, or was erased.
func (s *Store) Citizen(ctx context.Context, account keys.Owner) (Citizen, error) {
	return scanCitizen(s.r.QueryRowContext(ctx, selectCitizen+" WHERE account = ?", account[:]))
}

// SetKinds says of which kinds an account is told, in the page and by mail.
func (s *Store) SetKinds(ctx context.Context, account keys.Owner, page, mail int64) error {
	return s.one(ctx, "UPDATE citizens SET page = ?, mail = ?, digest_due = CASE WHEN CAST(?2 AS BIGINT) & ? = 0 THEN NULL ELSE digest_due END WHERE account = ?", page, mail, digestKinds, account[:])
}

// one is a write that changes one row; ErrNotFound if there is none.
func (s *Store) one(ctx context.Context, query string, args ...any) error {
	return s.do(ctx, func(t *tx) error {
		n, err := t.exec(query, args...)
		if err == nil && n == 0 {
			return ErrNotFound
		}
		return err
	})
}

// SetAddress keeps an address that is to be confirmed until a time, and puts the mail that asks for it into the outbox. ErrTooMany after limit of them in a day: the mails go to whoever has the address.
func (s *Store) SetAddress(ctx context.Context, account keys.Owner, address *Sealed, confirm ID, now, until time.Time, limit int64) error {
	return s.do(ctx, func(t *tx) error {
		if err := address.keep(t); err != nil {
			return err
		}
		day := now.Add(-24 * time.Hour).UnixMilli()
		n, err := t.exec(`UPDATE citizens SET pending = ?, confirm = ?, confirm_until = ?,
			confirms = CASE WHEN confirms_at < ?4 THEN 1 ELSE confirms + 1 END, confirms_at = CASE WHEN confirms_at < ?4 THEN ?5 ELSE confirms_at END
			WHERE account = ?6 AND (confirms_at < ?4 OR confirms < ?7)`,
			address.Blob, confirm[:], until.UnixMilli(), day, now.UnixMilli(), account[:], limit)
		if err != nil {
			return err
		}
		if n == 0 {
			var there int64
			if err := t.row("SELECT count(*) FROM citizens WHERE account = ?", account[:]).Scan(&there); err != nil {
				return err
			}
			if there == 0 {
				return ErrNotFound
			}
			return ErrTooMany
		}
		// One that waits still asks for the address of before.
		if _, err := t.exec("DELETE FROM outbox WHERE account = ? AND kind = ?", account[:], string(LetterConfirm)); err != nil {
			return err
		}
		return t.post(&Letter{Kind: LetterConfirm, Account: account, Created: now})
	})
}

// ConfirmAddress puts the address in force that was named by confirm, once.
func (s *Store) ConfirmAddress(ctx context.Context, confirm, unsubscribe ID, now time.Time) error {
	return s.one(ctx, `UPDATE citizens SET address = pending, unsubscribe = ?, failures = 0, pending = NULL, confirm = NULL, confirm_until = NULL WHERE confirm = ? AND confirm_until > ?`,
		unsubscribe[:], confirm[:], now.UnixMilli())
}

// DropAddress forgets an account's addresses, and what was to be sent there.
func (s *Store) DropAddress(ctx context.Context, account keys.Owner) error {
	return s.do(ctx, func(t *tx) error {
		if _, err := t.exec("UPDATE citizens SET address = NULL, unsubscribe = NULL, failures = 0, pending = NULL, confirm = NULL, confirm_until = NULL, digest_due = NULL WHERE account = ?", account[:]); err != nil {
			return err
		}
		_, err := t.exec("DELETE FROM outbox WHERE account = ?", account[:])
		return err
	})
}

// Unsubscribe sends nothing more to the address that was named. It may be repeated.
func (s *Store) Unsubscribe(ctx context.Context, unsubscribe ID) error {
	return s.do(ctx, func(t *tx) error {
		var account []byte
		if err := t.row("SELECT account FROM citizens WHERE unsubscribe = ?", unsubscribe[:]).Scan(&account); err != nil {
			return err
		}
		if _, err := t.exec("UPDATE citizens SET mail = 0, digest_due = NULL WHERE account = ?", account); err != nil {
			return err
		}
		_, err := t.exec("DELETE FROM outbox WHERE account = ? AND kind <> ?", account, string(LetterConfirm))
		return err
	})
}

// forget removes what stands beside the log about somebody who is being erased: all of their account's with its sessions, and what others' accounts have under this identifier. Contests that were answered stay
// for their agency, with nothing in them that leads to the person. done is when.
func forget(t *tx, owner keys.Owner, done time.Time) error {
	// Accounts that have this identifier among others are told; this one's own is gone.
	var told []keys.Owner
	err := t.rows("SELECT account FROM watches WHERE owner = ?1 AND account <> ?1", func(r row) error {
		var b []byte
		err := r.Scan(&b)
		told = append(told, ownerOf(b))
		return err
	}, owner[:])
	if err != nil {
		return err
	}
	for _, account := range told {
		if err := t.notify(&Notice{Account: account, Kind: NoticeErasure, Event: "done", At: done}); err != nil {
			return err
		}
	}
	for _, column := range []string{"account", "owner"} { // each by its index: with OR all contests would be read
		if _, err := t.exec(`UPDATE contests SET account = x'', owner = x'', body = NULL, text = x'', extension = x'', reply = NULL, answer = x'', answered = coalesce(answered, ?2),
			state = CASE state WHEN 'open' THEN 'withdrawn' ELSE state END WHERE `+column+` = ?1`, owner[:], done.UnixMilli()); err != nil {
			return err
		}
	}
	var about []ID // delegations that may be about nobody then
	err = t.rows("SELECT delegation FROM delegated WHERE owner = ?", func(r row) error {
		var b []byte
		err := r.Scan(&b)
		about = append(about, idOf(b))
		return err
	}, owner[:])
	if err != nil {
		return err
	}
	for _, q := range []string{
		"DELETE FROM citizens WHERE account = ?",
		"DELETE FROM watches WHERE account = ?1 OR owner = ?1",
		"DELETE FROM notices WHERE account = ?",
		"DELETE FROM outbox WHERE account = ?",
		"DELETE FROM holds WHERE owner = ?",
		"DELETE FROM sessions WHERE account = ?",
		"DELETE FROM identifiers WHERE account = ?1 OR owner = ?1",
		"DELETE FROM identifier_checks WHERE account = ?",
		"DELETE FROM delegated WHERE owner = ?1 OR delegation IN (SELECT id FROM delegations WHERE delegate = ?1)",
		"DELETE FROM delegations WHERE delegate = ?",
	} {
		if _, err := t.exec(q, owner[:]); err != nil {
			return err
		}
	}
	for _, id := range about {
		if _, err := t.exec("DELETE FROM delegations WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM delegated WHERE delegation = ?1)", id[:]); err != nil {
			return err
		}
	}
	return nil
}

// SetAgencyAddresses says where mails about contests go; the addresses aren't in the log.
func (s *Store) SetAgencyAddresses(ctx context.Context, agency, contact, dpo string) error {
	return s.do(ctx, func(t *tx) error {
		n, err := t.exec("UPDATE agencies SET contact = ?, dpo = ? WHERE id = ?", contact, dpo, agency)
		if err == nil && n == 0 {
			return ErrNotFound
		}
		t.changed(changedRegistry)
		return err
	})
}

// watchedNote is the name under which the store remembers up to which log index accounts were told of entries.
const watchedNote = "notified"

// A WatchedEntry is an entry of which an account is to be told.
type WatchedEntry struct {
	Index      proof.Index
	Kind       proof.Kind
	Account    keys.Owner
	Type       proof.SubjectType // of the account's identifier under which it is filed
	Disclosure ID                // zero for accesses
	Admin      []byte            // sealed
}

// Watched looks at up to scan log indexes below upto, from where it was left, and finds the entries of which accounts are to be told. A deferred one isn't: its person learns of it when it is
// opened. Nor is one that is filed under names without a birth place, if the same disclosure is filed under another identifier of the account's. next is what Told takes; it is from if there was nothing left.
func (s *Store) Watched(ctx context.Context, upto proof.Index, scan int) (found []WatchedEntry, from, next proof.Index, err error) {
	var at sql.NullInt64
	var anybody bool
	err = classify(s.r.QueryRowContext(ctx, "SELECT (SELECT CAST(value AS BIGINT) FROM meta WHERE name = ?), EXISTS (SELECT 1 FROM watches)", watchedNote).Scan(&at, &anybody))
	if err != nil {
		return nil, 0, 0, err
	}
	from = proof.Index(at.Int64)
	next = min(upto, from+proof.Index(scan)) // #nosec G115 -- a small constant
	if next <= from {
		return nil, from, from, nil
	}
	if !anybody { // who enrols from now on is told of what comes after upto
		return nil, from, next, nil
	}
	// CROSS JOIN keeps SQLite's order: what it costs is the new records, not the accounts.
	cross, then := "CROSS ", ""
	if s.pg {
		cross, then = "", ", w.account" // as SQLite finds them
	}
	err = s.each(ctx, `SELECT r.log_index, l.kind, w.account, w.type, d.id, r.admin FROM records r `+cross+`JOIN watches w ON w.owner = r.owner JOIN leaves l ON l.log_index = r.log_index LEFT JOIN disclosures d ON d.seq = r.disclosure
		WHERE r.log_index >= ? AND r.log_index < ? AND w.since <= r.log_index AND l.kind IN ('`+string(proof.KindDisclosure)+`', '`+string(proof.KindAccess)+`', '`+string(proof.KindOpened)+`')
		AND NOT (w.type = '`+string(proof.TypePerson)+`' AND EXISTS (SELECT 1 FROM records o JOIN watches x ON x.owner = o.owner AND x.account = w.account WHERE o.disclosure = r.disclosure AND x.type <> w.type AND x.since <= o.log_index)) ORDER BY r.log_index`+then,
		func(scan func(...any) error) error {
			var w WatchedEntry
			var index int64
			var kind, typ string
			var account, id []byte
			err := scan(&index, &kind, &account, &typ, &id, &w.Admin)
			w.Index, w.Kind, w.Account, w.Type, w.Disclosure = proof.Index(index), proof.Kind(kind), ownerOf(account), proof.SubjectType(typ), idOf(id)
			found = append(found, w)
			return err
		}, int64(from), int64(next)) // #nosec G115 -- log indexes
	return found, from, next, err
}

// Told stores notices of entries from from to next, and that they are done. Nothing happens if somebody else was faster.
func (s *Store) Told(ctx context.Context, from, next proof.Index, notices []Notice) error {
	return s.do(ctx, func(t *tx) error {
		n, err := t.exec("INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE meta.value = ?3", watchedNote, next.String(), from.String())
		if err != nil || n == 0 {
			return err
		}
		for i := range notices {
			if err := t.notify(&notices[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

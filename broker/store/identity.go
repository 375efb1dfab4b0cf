package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// ErrTaken: the identifier is attached to another account, and belongs to one person only. Nothing was written.
var ErrTaken = errors.New("store: the identifier is attached to another account")

// A Session of the citizen's portal. Sealed can be opened with its token alone, of which ID is the SHA-256.
type Session struct {
	ID      [32]byte
	Account keys.Owner // of the pivot identity
	Sealed  []byte
	Created time.Time
	Seen    time.Time
	Until   time.Time // from then on it is ended, unless it is used before
}

// SpendSignIn remembers, until a time, that a sign-in came back from the identity provider. ErrExists if it did before.
func (s *Store) SpendSignIn(ctx context.Context, id [32]byte, until time.Time) error {
	return s.do(ctx, func(t *tx) error {
		n, err := t.exec("INSERT INTO spent_sign_ins (id, until) VALUES (?, ?) ON CONFLICT DO NOTHING", id[:], until.UnixMilli())
		if err == nil && n == 0 {
			err = ErrExists
		}
		return err
	})
}

// BeginSession stores a session and ends the one that it replaces, if that is there: in one transaction.
func (s *Store) BeginSession(ctx context.Context, in *Session, replaces [32]byte) error {
	return s.do(ctx, func(t *tx) error {
		if _, err := t.exec("DELETE FROM sessions WHERE id = ?", replaces[:]); err != nil {
			return err
		}
		_, err := t.exec("INSERT INTO sessions (id, account, sealed, created, seen, until) VALUES (?, ?, ?, ?, ?, ?)",
			in.ID[:], in.Account[:], in.Sealed, in.Created.UnixMilli(), in.Seen.UnixMilli(), in.Until.UnixMilli())
		return err
	})
}

// Session finds a session, ended or not; ErrNotFound if there is none.
func (s *Store) Session(ctx context.Context, id [32]byte) (Session, error) {
	out := Session{ID: id}
	var account []byte
	var created, seen, until int64
	err := classify(s.r.QueryRowContext(ctx, "SELECT account, sealed, created, seen, until FROM sessions WHERE id = ?", id[:]).Scan(&account, &out.Sealed, &created, &seen, &until))
	if err != nil {
		return Session{}, err
	}
	if copy(out.Account[:], account) != len(out.Account) {
		return Session{}, fmt.Errorf("%w: a session's row is malformed", ErrCorrupt)
	}
	out.Created, out.Seen, out.Until = time.UnixMilli(created).UTC(), time.UnixMilli(seen).UTC(), time.UnixMilli(until).UTC()
	return out, nil
}

// TouchSession says that a session is used. One that was ended meanwhile stays so.
func (s *Store) TouchSession(ctx context.Context, id [32]byte, seen, until time.Time) error {
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec("UPDATE sessions SET seen = ?, until = ? WHERE id = ?", seen.UnixMilli(), until.UnixMilli(), id[:])
		return err
	})
}

// EndSession ends a session; that there is none is no error.
func (s *Store) EndSession(ctx context.Context, id [32]byte) error {
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM sessions WHERE id = ?", id[:])
		return err
	})
}

// EndSessions ends all sessions of an account, and returns how many there were.
func (s *Store) EndSessions(ctx context.Context, account keys.Owner) (n int64, err error) {
	err = s.do(ctx, func(t *tx) (err error) {
		n, err = t.exec("DELETE FROM sessions WHERE account = ?", account[:])
		return err
	})
	return n, err
}

// An Identifier that a person attached to their account.
type Identifier struct {
	Account  keys.Owner // of the pivot identity
	Owner    keys.Owner // of the identifier
	Type     proof.SubjectType
	Proven   string // how: "claim" or "check"
	Sealed   []byte // under a key of each of the two owners
	Attached time.Time
}

// A NewIdentifier is to be attached.
type NewIdentifier struct {
	Identifier
	// Keys sealed it. If one is not stored its owner was erased since, and AttachIdentifier fails with keys.ErrNoKey.
	Keys []keys.KeyID
	// Fresh are data keys that have to be durable with it.
	Fresh []*keys.StoredKey // nil ones are skipped
	// Max bounds the identifiers of one account.
	Max int
}

// AttachIdentifier attaches an identifier to an account; one that is there already is replaced. ErrTaken if it is another account's, for every type but siren. What others have asked to erase under it, and waits, is undone.
func (s *Store) AttachIdentifier(ctx context.Context, in *NewIdentifier) error {
	return s.do(ctx, func(t *tx) error {
		var others, own int64
		if err := t.row("SELECT count(*) FROM identifiers WHERE owner = ? AND account <> ? AND type <> ?", in.Owner[:], in.Account[:], string(proof.TypeSIREN)).Scan(&others); err != nil {
			return err
		}
		if others > 0 {
			return ErrTaken
		}
		if err := t.row("SELECT count(*) FROM identifiers WHERE account = ? AND owner <> ?", in.Account[:], in.Owner[:]).Scan(&own); err != nil {
			return err
		}
		if own >= int64(in.Max) {
			return ErrTooMany
		}
		if err := saveKeys(t, in.Fresh); err != nil {
			return err
		}
		for _, id := range in.Keys {
			if !slices.ContainsFunc(in.Fresh, func(k *keys.StoredKey) bool { return k != nil && k.ID == id }) {
				if err := hasKey(t, id); err != nil {
					return err
				}
			}
		}
		if err := undoOthers(t, in.Account, in.Owner, in.Attached); err != nil {
			return err
		}
		_, err := t.exec("INSERT INTO identifiers (account, owner, type, proven, sealed, attached) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (account, owner) DO UPDATE SET proven = excluded.proven, sealed = excluded.sealed, attached = excluded.attached",
			in.Account[:], in.Owner[:], string(in.Type), in.Proven, in.Sealed, in.Attached.UnixMilli())
		return err
	})
}

// Identifiers lists those of an account, the oldest first.
func (s *Store) Identifiers(ctx context.Context, account keys.Owner) ([]Identifier, error) {
	var out []Identifier
	err := s.each(ctx, "SELECT owner, type, proven, sealed, attached FROM identifiers WHERE account = ? ORDER BY attached, owner", func(scan func(...any) error) error {
		i := Identifier{Account: account}
		var owner []byte
		var attached int64
		if err := scan(&owner, &i.Type, &i.Proven, &i.Sealed, &attached); err != nil {
			return err
		}
		if copy(i.Owner[:], owner) != len(i.Owner) {
			return fmt.Errorf("%w: an identifier's row is malformed", ErrCorrupt)
		}
		i.Attached = time.UnixMilli(attached).UTC()
		out = append(out, i)
		return nil
	}, account[:])
	return out, err
}

// DetachIdentifier removes an identifier from an account, and undoes what the account has asked to erase under it and waits: it may be somebody else's by then. ErrNotFound if it isn't there.
func (s *Store) DetachIdentifier(ctx context.Context, account, owner keys.Owner, now time.Time) error {
	return s.do(ctx, func(t *tx) error {
		n, err := t.exec("DELETE FROM identifiers WHERE account = ? AND owner = ?", account[:], owner[:])
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		if err != nil {
			return err
		}
		return undoDetached(t, account, owner, now)
	})
}

// CountCheck counts a check of an identifier, unless the account has had limit of them since a time: ErrTooMany.
func (s *Store) CountCheck(ctx context.Context, account keys.Owner, at, since time.Time, limit int) error {
	return s.do(ctx, func(t *tx) error {
		var n int64
		if err := t.row("SELECT count(*) FROM identifier_checks WHERE account = ? AND at > ?", account[:], since.UnixMilli()).Scan(&n); err != nil {
			return err
		}
		if n >= int64(limit) {
			return ErrTooMany
		}
		_, err := t.exec("INSERT INTO identifier_checks (account, at) VALUES (?, ?)", account[:], at.UnixMilli())
		return err
	})
}

// CheckLife is how long a check of an identifier is remembered.
const CheckLife = 24 * time.Hour

// DropSessions deletes sessions that have ended and what is only to be remembered for a while, at most limit of each, and returns how many there were.
func (s *Store) DropSessions(ctx context.Context, now time.Time, limit int) (total int64, err error) {
	err = s.do(ctx, func(t *tx) error {
		total = 0
		for _, d := range []struct {
			query string
			until time.Time
		}{
			{"DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE until <= ? ORDER BY until LIMIT ?)", now},
			{"DELETE FROM spent_sign_ins WHERE id IN (SELECT id FROM spent_sign_ins WHERE until <= ? ORDER BY until LIMIT ?)", now},
			{t.or("DELETE FROM identifier_checks WHERE rowid IN (SELECT rowid FROM identifier_checks WHERE at <= ? ORDER BY at LIMIT ?)",
				"DELETE FROM identifier_checks WHERE ctid = ANY (ARRAY(SELECT ctid FROM identifier_checks WHERE at <= ? ORDER BY at LIMIT ?))"), now.Add(-CheckLife)},
		} {
			n, err := t.exec(d.query, d.until.UnixMilli(), limit)
			if err != nil {
				return err
			}
			total += n
		}
		return nil
	})
	return total, err
}

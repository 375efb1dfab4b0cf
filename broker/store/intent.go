package store

import (
	"context"
	"fmt"
	"time"

	"github.com/regard-broker/regard/keys"
)

// An OpenIntent is a disclosure without an outcome, as it stands in the store. If the row isn't one that Begin wrote, Err wraps ErrCorrupt and only Seq, and perhaps ID, can be relied on.
type OpenIntent struct {
	Disclosure
	// Member is the process that is at it, or was: see Config.Member.
	Member int64
	Err    error
}

// One whose slot is gone or names another disclosure is listed, too, without its parts.
const (
	interrupted = "SELECT d.seq, d.id, d.agency, d.body, d.asked_at, d.owner, i.person, i.admin, 0 FROM disclosures d LEFT JOIN intents i ON i.disclosure = d.seq WHERE d.state = 0 AND d.seq > ? ORDER BY d.seq LIMIT ?"
	// PostgreSQL's intents go with the outcome alone, and find what is open.
	interruptedPostgres = "SELECT d.seq, d.id, d.agency, d.body, d.asked_at, d.owner, i.person, i.admin, i.member FROM intents i JOIN disclosures d ON d.seq = i.disclosure WHERE d.state = 0 AND i.disclosure > ? ORDER BY i.disclosure LIMIT ?"
	openIntents         = " AND seq IN (SELECT disclosure FROM intents)"
)

// MayBeInterrupted looks among the disclosures without an outcome that come after seq, the oldest limit of them, for one that isn't being worked on; next is the last of them, or 0 if there are
// none. Unlike Interrupted it doesn't read the intents, which have no index: most often there is nothing to read them for.
func (s *Store) MayBeInterrupted(ctx context.Context, after Seq, limit int, atWork func(ID) bool) (left bool, next Seq, err error) {
	query := "SELECT seq, id FROM disclosures WHERE state = 0 AND seq > ?"
	if s.pg {
		query += openIntents
	}
	err = s.each(ctx, query+" ORDER BY seq LIMIT ?", func(scan func(...any) error) error {
		var seq int64
		var column any
		if err := scan(&seq, &column); err != nil {
			return err
		}
		var id ID
		b, _ := column.([]byte)
		left = left || copy(id[:], b) < len(id) || len(b) > len(id) || !atWork(id)
		next = Seq(seq)
		return nil
	}, int64(after), limit)
	return left, next, err
}

// Interrupted lists disclosures without an outcome, oldest first, that come after seq. A row that was altered doesn't hide the others.
func (s *Store) Interrupted(ctx context.Context, after Seq, limit int) ([]OpenIntent, error) {
	var out []OpenIntent
	query := interrupted
	if s.pg {
		query = interruptedPostgres
	}
	err := s.each(ctx, query, func(scan func(...any) error) error {
		var seq, member int64
		var id, agency, body, at, owner, person, admin any // a column may hold anything, whatever the schema says (https://sqlite.org/datatype3.html)
		if err := scan(&seq, &id, &agency, &body, &at, &owner, &person, &admin, &member); err != nil {
			return err
		}
		d := OpenIntent{Disclosure: Disclosure{Seq: Seq(seq)}, Member: member}
		ms, ok := at.(int64)
		d.AskedAt = time.UnixMilli(ms).UTC()
		d.Agency, _ = agency.(string)
		d.Body, _ = body.([]byte)
		d.Person, _ = person.([]byte) // whether a sealed part is whole is seen when it is opened
		d.Admin, _ = admin.([]byte)
		i, _ := id.([]byte)
		o, _ := owner.([]byte)
		if copy(d.ID[:], i); len(i) != len(d.ID) || len(o) != len(d.Owner) || !ok {
			d.Err = fmt.Errorf("%w: disclosure %d is malformed", ErrCorrupt, seq)
		} else {
			copy(d.Owner[:], o)
		}
		out = append(out, d)
		return nil
	}, int64(after), limit)
	return out, err
}

const intentsOf = "SELECT seq FROM disclosures WHERE state = 0 AND owner = ? AND due IS NULL"

// IntentsOf lists the disclosures about an owner that have no outcome yet, but for deferred ones: nothing about these waits for their person.
func (s *Store) IntentsOf(ctx context.Context, owner keys.Owner) ([]Seq, error) {
	var out []Seq
	query := intentsOf
	if s.pg {
		query += openIntents
	}
	err := s.each(ctx, query, func(scan func(...any) error) error {
		var seq int64
		err := scan(&seq)
		out = append(out, Seq(seq))
		return err
	}, owner[:])
	return out, err
}

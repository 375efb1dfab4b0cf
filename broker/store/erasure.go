package store

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// An Erasure of one identifier that has been begun.
type Erasure struct {
	ID ID
	Record
	// Index of its entry; Logged is false until it has one.
	Index  proof.Index
	Logged bool
}

// ErrIntents: requests about the person have no outcome yet.
var ErrIntents = errors.New("store: requests about the person are under way")

// ShutOut lets no other process begin anything about an owner who is about to be erased, but for what is deferred, until the erasure is done or LetIn says that nothing comes of it: a person about whom
// somebody always asks would have to wait for ever. On SQLite the only process keeps itself from it.
func (s Order) ShutOut(ctx context.Context, owner keys.Owner) error {
	if !s.pg {
		return nil
	}
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec("INSERT INTO erasing AS x (owner, term) VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET term = excluded.term, since = clock_timestamp() WHERE x.term <= excluded.term", owner[:], s.Term)
		return err
	})
}

// LetIn undoes ShutOut, unless whoever leads by now keeps the owner out, too.
func (s Order) LetIn(ctx context.Context, owner keys.Owner) error {
	if !s.pg {
		return nil
	}
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM erasing WHERE owner = ? AND term <= ?", owner[:], s.Term)
		return err
	})
}

// letInAfter is how old what LetInLeft undoes is at least: who has just begun to shut somebody out isn't in the caller's list yet.
const letInAfter = 5 * time.Second

// LetInLeft undoes ShutOut for all who aren't being erased, but for those whom the caller, the only one who erases in this term, shuts out at this moment, and those of later terms.
func (s Order) LetInLeft(ctx context.Context, closing []keys.Owner) error {
	if !s.pg {
		return nil
	}
	at := make([][]byte, len(closing))
	for i := range closing {
		at[i] = closing[i][:]
	}
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM erasing x WHERE owner <> ALL (?) AND term <= ? AND since < clock_timestamp() - make_interval(secs => ?) AND NOT EXISTS (SELECT FROM erasures e WHERE e.owner = x.owner AND e.done = 0)", at, s.Term, letInAfter.Seconds())
		return err
	})
}

// BeginErasure remembers an erasure durably, so that a crash can't leave it half done. Nothing is begun while a hold or a contest keeps it (ErrHeld, ErrContested), or if the person has undone the
// request (zero: it isn't a person's) that it carries out (ErrEnded). Where other processes may begin requests it looks for these itself (ErrIntents): all but left (nil: none) have to have their outcome, at
// log indexes up to reach, and no other begins until the erasure is done. In another process's term nothing is begun (ErrTerm): whoever leads has seen what was begun before.
func (s Order) BeginErasure(ctx context.Context, e *Erasure, request ID, now time.Time, reach proof.Index, left func(Seq) bool) error {
	// Alone: what other processes have begun about the person is seen afterwards, and what they begin later sees this.
	return s.alone(ctx, func(t *tx) error {
		if err := s.inTerm(t); err != nil {
			return err
		}
		if err := mayErase(t, e.Owner, request, now); err != nil {
			return err
		}
		if t.pg != nil {
			err := t.rows(intentsOf+openIntents, func(r row) error {
				var seq int64
				if err := r.Scan(&seq); err != nil {
					return err
				}
				if left == nil || !left(Seq(seq)) {
					return ErrIntents
				}
				return nil
			}, e.Owner[:])
			if err != nil {
				return err
			}
			var last int64
			if err := t.row("SELECT coalesce(max(log_index), 0) FROM records WHERE owner = ?", e.Owner[:]).Scan(&last); err != nil {
				return err
			}
			if last > int64(reach) {
				return ErrIntents
			}
		}
		_, err := t.exec("INSERT INTO erasures (id, owner, person, admin) VALUES (?, ?, ?, ?)", e.ID[:], e.Owner[:], e.Person, e.Admin)
		return err
	})
}

// ErasureLogged is attached to an erasure@v1 entry: it gives the entry its record.
type ErasureLogged struct{ Erasure Erasure }

func (a *ErasureLogged) apply(t *tx, leaves []ledger.Leaf) error {
	n, err := t.exec("UPDATE erasures SET log_index = ? WHERE id = ? AND log_index IS NULL", int64(leaves[0].Index), a.Erasure.ID[:])
	if err != nil {
		return err
	}
	if n != 1 {
		return errors.New("store: this erasure has an entry already")
	}
	t.saveRecord(&a.Erasure.Record, leaves[0].Index, nil, 0)
	return nil
}

// CarryOut destroys what an erasure is about, once its entry is in the log: the owner's keys, the sealed answers of all disclosures that have a record of theirs, and what stands beside the log. It marks the
// erasure as done, any that was begun before it and couldn't be carried through, and what people have asked for of it. It returns how many keys it destroyed.
//
// What was done before ctx ended is done: the next call goes on there.
//
// Of several processes that carry the same erasure through, one does; to the others nothing is left to do. So no key is destroyed that was made when it was done: what it sealed came after the reach.
func (s *Store) CarryOut(ctx context.Context, e *Erasure, now time.Time) (n int64, err error) {
	open := func(t *tx) (bool, error) {
		var found int64
		err := t.row("SELECT count(*) FROM erasures WHERE id = ? AND done = 0 AND log_index IS NOT NULL", e.ID[:]).Scan(&found)
		return found == 1, err
	}
	end := func(t *tx) error {
		if err := endRequests(t, e.Owner, now); err != nil {
			return err
		}
		_, err := t.exec("UPDATE erasures SET done = 1 WHERE owner = ? AND done = 0", e.Owner[:])
		return err
	}
	// First beside everybody, a little at a time: of somebody about whom much is asked these are many, and all wait for what is done alone.
	ahead := s.carried.of(e.ID)
	for more := true; more; {
		next := ahead
		err := s.keepBeside(ctx, func(t *tx) error {
			more, next = false, ahead
			if ok, err := open(t); err != nil || !ok {
				return err
			}
			var n int64
			if err := t.row("SELECT count(*), coalesce(max(log_index) + 1, 0) FROM (SELECT log_index FROM records WHERE owner = ? AND log_index >= ? ORDER BY log_index LIMIT ?) r", e.Owner[:], ahead, answersAtOnce).Scan(&n, &next); err != nil {
				return err
			}
			if n == 0 {
				next = ahead
				return nil
			}
			more = true
			return dropAnswersOf(t, e.Owner, ahead, next)
		})
		if err != nil {
			return 0, err
		}
		ahead = next
		s.carried.set(e.ID, ahead)
	}
	// Alone, and what is read here is read afterwards: nobody else is at it, nor stores anything under a key that goes.
	err = s.keep(ctx, func(t *tx) error {
		if ok, err := open(t); err != nil || !ok {
			n = 0
			return err
		}
		if err := dropAnswersOf(t, e.Owner, ahead, math.MaxInt64); err != nil {
			return err
		}
		// Of those, too, that have no outcome, because their intents can't be read.
		if _, err := t.exec("UPDATE disclosures SET body = NULL WHERE state = 0 AND owner = ? AND due IS NULL AND body IS NOT NULL"+t.or("", openIntents), e.Owner[:]); err != nil {
			return err
		}
		if err := forget(t, e.Owner, now); err != nil {
			return err
		}
		if n, err = t.exec("DELETE FROM keys WHERE kind = ? AND owner = ?", string(keys.KindSubject), e.Owner[:]); err != nil || t.pg == nil {
			return err
		}
		t.changed(changedKeys)
		if _, err := t.exec("DELETE FROM erasing WHERE owner = ?", e.Owner[:]); err != nil {
			return err
		}
		return end(t)
	})
	defer func() {
		if err == nil {
			s.carried.set(e.ID, 0)
		}
	}()
	if err != nil || s.pg {
		return n, err
	}
	// On SQLite it isn't done before the files hold nothing of it any more. The only process keeps everybody else out meanwhile, but for what is attached beside the log, under a key that is gone.
	if err := s.cutWAL(ctx); err != nil {
		return n, err
	}
	err = s.keep(ctx, func(t *tx) error {
		if ok, err := open(t); err != nil || !ok {
			return err
		}
		if err := forget(t, e.Owner, now); err != nil {
			return err
		}
		return end(t)
	})
	return n, err
}

// carried is up to which log index the answers about people who are being erased have been dropped by this process, so that an erasure that is carried through a little at a time comes to its end.
type carried struct {
	mu    sync.Mutex
	ahead map[ID]int64
}

func (c *carried) of(e ID) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead[e]
}

// set forgets one that is at 0.
func (c *carried) set(e ID, ahead int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ahead, e)
	if ahead > 0 {
		if c.ahead == nil {
			c.ahead = map[ID]int64{}
		}
		c.ahead[e] = ahead
	}
}

// answersAtOnce is of how many records a step beside everybody drops the answers.
const answersAtOnce = 1000

// dropAnswersOf deletes the sealed answers of all disclosures that have a record of this owner at these log indexes, without the last, and the digests of the requests about them: who guesses what was asked
// could confirm it. Deferred ones are left as they are: an erasure doesn't reach them.
func dropAnswersOf(t *tx, owner keys.Owner, from, to int64) error {
	const theirs = "(SELECT disclosure FROM records WHERE owner = ?1 AND log_index >= ?2 AND log_index < ?3)"
	if _, err := t.exec("DELETE FROM payloads WHERE disclosure IN "+theirs, owner[:], from, to); err != nil {
		return err
	}
	_, err := t.exec("UPDATE disclosures SET body = NULL WHERE seq IN "+theirs+" AND owner = ?1 AND body IS NOT NULL", owner[:], from, to)
	return err
}

// OpenErasures lists erasures that were begun and are not done.
func (s *Store) OpenErasures(ctx context.Context) ([]Erasure, error) {
	var out []Erasure
	err := s.each(ctx, "SELECT id, owner, person, admin, log_index FROM erasures WHERE done = 0 ORDER BY id", func(scan func(...any) error) error {
		var e Erasure
		var id, owner []byte
		var index sql.NullInt64
		if err := scan(&id, &owner, &e.Person, &e.Admin, &index); err != nil {
			return err
		}
		copy(e.ID[:], id)
		copy(e.Owner[:], owner)
		e.Index, e.Logged = proof.Index(index.Int64), index.Valid
		out = append(out, e)
		return nil
	})
	return out, err
}

// Filed says whether every filed entry up to and including index has its label.
func (s *Store) Filed(ctx context.Context, index proof.Index) (bool, error) {
	var upto int64
	err := classify(s.r.QueryRowContext(ctx, "SELECT filed_upto FROM epochs WHERE closer IS NULL").Scan(&upto))
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil || upto > int64(index) {
		return upto > int64(index), err
	}
	// Nothing but governance may stand between the last filed entry and the index.
	var n int
	err = s.r.QueryRowContext(ctx, "SELECT count(*) FROM records WHERE log_index >= ? AND log_index <= ?", upto, int64(index)).Scan(&n)
	return n == 0, classify(err)
}

// LastIndex is the greatest log index, false if there is none.
func (s *Store) LastIndex(ctx context.Context) (proof.Index, bool, error) {
	var n sql.NullInt64
	err := s.r.QueryRowContext(ctx, "SELECT max(log_index) FROM leaves").Scan(&n)
	return proof.Index(n.Int64), n.Valid, classify(err)
}

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Copy writes a consistent copy of the store, as of one moment, to a new file at path, and syncs it. Writers go on meanwhile; only the write-ahead log can't be cut, so a key that is
// destroyed meanwhile is wiped from it after that. Deleted rows are not in the copy, nor intents of disclosures that are done, nor what is kept for a short time only: sessions, sealed answers with their keys, and, of
// disclosures that are done, the digests by which a repeat of a request is known.
func (s *Store) Copy(ctx context.Context, path string) (err error) {
	if s.pg {
		return ErrPostgres
	}
	// Made before SQLite does, so that it is never readable by others.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	// A connection of its own: the readers' are query_only, which VACUUM INTO counts as a write, and none of them should be away for so long.
	db, err := sql.Open("sqlite", "file:"+s.path+"?_pragma=busy_timeout(5000)&_pragma=temp_store(MEMORY)&_pragma=cache_size(-8000)")
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
		return fmt.Errorf("copying the store: %w", classify(err))
	}
	if err := emptyCopy(ctx, path); err != nil {
		return fmt.Errorf("emptying the copy of what it must not hold: %w", classify(err))
	}
	return f.Sync()
}

// shortLived deletes what a backup would keep, or bring back, beyond its time: who signed out since would be signed in again, and answers could be opened for as long as the backup is kept.
var shortLived = []string{
	"DELETE FROM sessions",
	"DELETE FROM payloads",
	"DELETE FROM keys WHERE kind = '" + string(keys.KindPayload) + "' AND owner IS NULL",
}

// dropBodies is for copies alone: it reads all disclosures. After a restoration the repeat of a request is one whose digest is too old; but who asked for what is open in the copy is told that it was interrupted.
const dropBodies = "UPDATE disclosures SET body = NULL WHERE body IS NOT NULL AND state <> 0"

// emptyCopy wipes what lies in the slots of intents until others take their place, and what isn't to be kept for as long as a copy is. One that fails, or that a crash leaves half changed, is none: nothing needs to be
// rolled back.
func emptyCopy(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(OFF)&_pragma=secure_delete(1)")
	if err != nil {
		return err
	}
	for _, query := range append([]string{emptyFreeIntents, dropBodies}, shortLived...) {
		if _, err = db.ExecContext(ctx, query); err != nil {
			break
		}
	}
	return errors.Join(err, db.Close())
}

// LockDir takes the lock of a store's directory without opening the store; false if there is no such directory. Closing the file releases it.
func LockDir(dir string) (*os.File, bool, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	f, err := lockDir(dir)
	return f, err == nil, err
}

// FileIn is the path of the database in a store's directory.
func FileIn(dir string) string { return filepath.Join(dir, "store.db") }

// restoredNote is the name under which the store remembers up to which number disclosures may have had their outcome among lost entries; see Restored.
const restoredNote = "open when restored"

// lostPrefix begins the names of notes about lost records; see Lost.
const lostPrefix = "lost "

// A Restoration is what the public log knows beyond a store that was restored from a backup.
type Restoration struct {
	// Lost are the leaves from the end of the store's order to the signed checkpoint: their records are lost. Their identities are new.
	Lost []ledger.Leaf
	// Turns are the markers among them.
	Turns []Turn
	// Filings puts the lost entries of the open epoch somewhere: nobody knows any more into whose roll they belong.
	Filings []ledger.Filing
	// Opened delays among them: what the store holds of these is of before.
	Opened []DelayEnded
	// Changes of agreements, services and bundles, with the leaves that tell of them.
	Changes []Change
	// Agencies' keys that were retired or revoked.
	AgencyKeys []AgencyKeyChange
	// Auditors' keys of which the log tells anything.
	AuditorKeys []AuditorKeyChange
	// Notes about keys that the log has told of.
	Notes []NoteAt
	// Destroyed periods, at the end of their retention.
	Destroyed []Period
	// Erased since the backup.
	Erased []Erased
	// Restart is the leaf that follows.
	Restart ledger.Leaf
	// Now is when.
	Now time.Time
	// Term in which the one who restores leads, where the store is shared: nothing is changed if somebody else does by now.
	Term int64
	// Delegations that were in force in the backup and are ended, since nobody knows whether they were revoked: set by Restore.
	Delegations int64
}

// Turn is a lost marker: the epoch that it closed, and the one that it opened.
type Turn struct {
	Closes ledger.ClosedEpoch
	Opens  ledger.OpenEpoch
}

// DelayEnded says that a lost opened@v1 entry ended the delay of a deferred@v1 entry. Its details are lost with it, as the log says; the record as it was before must not be opened again.
type DelayEnded struct{ Opened, Deferred proof.Index }

func (d *DelayEnded) apply(t *tx) error {
	return openDeferral(t, d.Opened, d.Deferred, 0, "")
}

// A Change is an attachment with its leaf.
type Change struct {
	Attachment
	Leaf ledger.Leaf
}

// AgencyKeyChange says what became of a certificate's key.
type AgencyKeyChange struct {
	Agency string
	SPKI   [32]byte
	State  string
}

// NoteAt is a Note with its log index.
type NoteAt struct {
	Name  string
	Index proof.Index
}

// Period names shared keys that were destroyed, as the entry at Index says.
type Period struct {
	Kind   keys.Kind
	Period string
	Index  proof.Index
}

// Erased is somebody whose erasure was begun: Logged says at which index it stands in the log.
type Erased struct {
	ID     ID
	Owner  keys.Owner
	Index  proof.Index
	Logged bool
}

// Knows says whether the store has an erasure, done or to be carried through, with its entry.
func (s *Store) Knows(ctx context.Context, id ID) (bool, error) {
	var n int
	err := s.r.QueryRowContext(ctx, "SELECT count(*) FROM erasures WHERE id = ? AND log_index IS NOT NULL", id[:]).Scan(&n)
	return n > 0, classify(err)
}

// Restore applies r in one transaction. It is for a store that nobody uses yet.
func (s *Store) Restore(ctx context.Context, r *Restoration) error {
	err := s.keep(ctx, func(t *tx) error {
		if err := s.takeOver(t, r.Term); err != nil {
			return err
		}
		for _, f := range []func(*tx) error{r.order, r.registry, r.keys, r.erase} {
			if err := f(t); err != nil {
				return err
			}
		}
		for _, query := range shortLived { // a dump of a shared store holds it
			if _, err := t.exec(query); err != nil {
				return err
			}
		}
		if _, err := t.exec(t.or(emptyFreeIntents, dropFreeIntents)); err != nil {
			return err
		}
		var err error
		if r.Delegations, err = restoreCitizens(t, r.Now); err != nil {
			return err
		}
		if !slices.ContainsFunc(r.Lost, func(l ledger.Leaf) bool { return l.Kind == proof.KindDisclosure || l.Kind == proof.KindDeferred }) {
			return nil
		}
		// Greater numbers are given to requests that are yet to come.
		_, err = t.exec("INSERT INTO meta (name, value) SELECT ?, CAST(max(seq) AS TEXT) FROM disclosures WHERE state = 0 HAVING max(seq) > 0 ON CONFLICT (name) DO UPDATE SET value = excluded.value", restoredNote)
		return err
	})
	if err != nil {
		return err
	}
	return s.cutWAL(ctx)
}

// takeOver drops what was on its way to the leader when a backup of a shared store was made, and who was there: groups that were put into the log since would be put there twice, and those
// that weren't are of requests that nobody waits for any more. Their intents are recorded as every other one that has no outcome.
func (s *Store) takeOver(t *tx, term int64) error {
	if t.pg == nil {
		return nil
	}
	if err := (Order{Store: s, Term: term}).inTerm(t); err != nil {
		return err
	}
	if _, err := t.exec("DELETE FROM handed"); err != nil {
		return err
	}
	_, err := t.exec("DELETE FROM members WHERE id <> ?", s.member)
	return err
}

func (r *Restoration) order(t *tx) error {
	var next int64
	if err := t.row("SELECT coalesce(max(log_index) + 1, 0) FROM leaves").Scan(&next); err != nil {
		return err
	}
	var leaves []any
	for _, l := range append(r.Lost[:len(r.Lost):len(r.Lost)], r.Restart) {
		if int64(l.Index) != next {
			return fmt.Errorf("store: leaf %d where %d was to come", l.Index, next)
		}
		next++
		leaves = appendLeaf(leaves, &l)
	}
	for i := range r.Turns { // first, as the month of a leaf is that of its epoch
		if err := closeEpoch(t, &r.Turns[i].Closes); err != nil {
			return err
		}
		if err := openEpoch(t, &r.Turns[i].Opens); err != nil {
			return err
		}
	}
	if err := t.insert(intoLeaves, leaves); err != nil {
		return err
	}
	for _, f := range r.Filings {
		if _, err := t.exec("INSERT INTO filings (epoch, label, log_index) SELECT epoch, ?, log_index FROM leaves WHERE log_index = ?", f.Label[:], int64(f.Index)); err != nil {
			return err
		}
	}
	for i := range r.Opened {
		if err := r.Opened[i].apply(t); err != nil {
			return err
		}
	}
	if n := len(r.Lost); n > 0 {
		_, err := t.exec("INSERT INTO meta (name, value) VALUES (?, ?)", fmt.Sprintf("%s%d", lostPrefix, r.Lost[0].Index), fmt.Sprint(uint64(r.Lost[n-1].Index)+1))
		return err
	}
	return nil
}

func (r *Restoration) registry(t *tx) error {
	for _, c := range r.Changes {
		if err := c.apply(t, []ledger.Leaf{c.Leaf}); err != nil {
			return fmt.Errorf("applying what entry %d says: %w", c.Leaf.Index, err)
		}
	}
	for _, k := range r.AgencyKeys {
		if _, err := t.exec("UPDATE agency_keys SET state = ? WHERE spki = ? AND agency = ?", k.State, k.SPKI[:], k.Agency); err != nil {
			return err
		}
		if k.State == Revoked { // keys are revoked with their agency, and only then
			if _, err := t.exec("UPDATE agencies SET state = ? WHERE id = ?", Revoked, k.Agency); err != nil {
				return err
			}
		}
	}
	for i := range r.AuditorKeys {
		if err := r.AuditorKeys[i].apply(t); err != nil {
			return err
		}
	}
	return nil
}

func (r *Restoration) keys(t *tx) error {
	for _, n := range r.Notes {
		if _, err := t.exec("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", n.Name, n.Index.String()); err != nil {
			return err
		}
	}
	for i := range r.Destroyed {
		if err := r.Destroyed[i].apply(t); err != nil {
			return err
		}
	}
	return nil
}

func (r *Restoration) erase(t *tx) error {
	for _, e := range r.Erased {
		// Nor does it reach what is deferred here.
		if _, err := t.exec("DELETE FROM keys WHERE owner = ? AND kind = ?", e.Owner[:], string(keys.KindSubject)); err != nil {
			return err
		}
		// A guess of what was asked could be confirmed by it.
		if _, err := t.exec("UPDATE disclosures SET body = NULL WHERE owner = ? AND due IS NULL", e.Owner[:]); err != nil {
			return err
		}
		// Before it was erased, every request about the person had its outcome: it is among the lost entries. The intent goes first: its disclosure's number is free afterwards.
		open := "FROM intents i " + t.or("CROSS ", "") + "JOIN disclosures d ON d.seq = i.disclosure WHERE d.state = 0 AND d.owner = ? AND d.due IS NULL"
		if _, err := t.exec(t.or("UPDATE intents SET disclosure = 0, person = x'', admin = x'' WHERE slot IN (SELECT i.slot "+open+")", "DELETE FROM intents WHERE disclosure IN (SELECT i.disclosure "+open+")"), e.Owner[:]); err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM disclosures WHERE state = 0 AND owner = ? AND due IS NULL", e.Owner[:]); err != nil {
			return err
		}
		// It is done, whether the backup has begun it or never heard of it; the record of its entry is lost, see LostErasure.
		if _, err := t.exec("INSERT INTO erasures (id, owner, person, admin, log_index, done) VALUES (?, ?, x'', x'', ?, 1) ON CONFLICT (id) DO UPDATE SET done = 1, log_index = excluded.log_index",
			e.ID[:], e.Owner[:], int64(e.Index)); err != nil {
			return err
		}
		if err := forget(t, e.Owner, r.Now); err != nil {
			return err
		}
		if err := endRequests(t, e.Owner, r.Now); err != nil {
			return err
		}
	}
	return nil
}

// LostErasure is the greatest log index of an erasure of this owner whose entry stands in the log and whose record was lost with a restoration; false if there is none. It reached whatever
// the backup held about the owner.
func (s *Store) LostErasure(ctx context.Context, owner keys.Owner) (proof.Index, bool, error) {
	var n sql.NullInt64
	err := s.r.QueryRowContext(ctx, "SELECT max(log_index) FROM erasures WHERE owner = ? AND log_index NOT IN (SELECT log_index FROM records)", owner[:]).Scan(&n)
	return proof.Index(n.Int64), n.Valid, classify(err)
}

// Restored says whether a disclosure without an outcome was open in a backup that was restored with a loss of disclosures: one of those lost entries may be its outcome.
func (s *Store) Restored(ctx context.Context, d Seq) (bool, error) {
	var yes bool
	err := s.r.QueryRowContext(ctx, "SELECT ? <= coalesce((SELECT CAST(value AS BIGINT) FROM meta WHERE name = ?), 0)", int64(d), restoredNote).Scan(&yes)
	return yes, classify(err)
}

// A Range of log indexes, From included, To not.
type Range struct{ From, To proof.Index }

// Lost lists the ranges of log indexes whose records were lost because the store was restored from a backup: whoever shows records must say so of them.
func (s *Store) Lost(ctx context.Context) ([]Range, error) {
	var out []Range
	err := s.each(ctx, "SELECT CAST(substr(name, 6) AS BIGINT), CAST(value AS BIGINT) FROM meta WHERE name >= 'lost 0' AND name < 'lost :' ORDER BY 1", func(scan func(...any) error) error {
		var from, to int64
		err := scan(&from, &to)
		out = append(out, Range{proof.Index(from), proof.Index(to)})
		return err
	})
	return out, err
}

// SizeOf is the number of entries in the order of a copy, of which every page is read and checked.
func SizeOf(ctx context.Context, path string) (uint64, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro&immutable=1")
	if err != nil {
		return 0, err
	}
	defer db.Close()
	var ok string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&ok); err != nil {
		return 0, classify(err)
	}
	if ok != "ok" {
		return 0, fmt.Errorf("%w: %s", ErrCorrupt, ok)
	}
	var n int64
	err = db.QueryRowContext(ctx, "SELECT coalesce(max(log_index) + 1, 0) FROM leaves").Scan(&n)
	return uint64(n), classify(err)
}

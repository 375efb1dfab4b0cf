package store

import (
	"context"
	"strconv"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Retirement is attached to the key@v1 entry that ends the retention of a month's records. It keeps the names of the keys that are about to be destroyed: a record whose key is gone is
// explained by this and by nothing that can be guessed from the key's age.
type Retirement struct {
	Note Note
	Keys []keys.KeyID
}

func (r *Retirement) apply(t *tx, leaves []ledger.Leaf) error {
	if err := r.Note.apply(t, leaves); err != nil {
		return err
	}
	return retireKeys(t, r.Keys, leaves[0].Index)
}

func retireKeys(t *tx, ids []keys.KeyID, at proof.Index) error {
	for i := range ids {
		if _, err := t.exec("INSERT INTO retired_keys (id, log_index) VALUES (?, ?) ON CONFLICT DO NOTHING", ids[i][:], int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// Retired finds the entry that announced a record key's destruction at the end of its retention; ErrNotFound if none did.
func (s *Store) Retired(ctx context.Context, id keys.KeyID) (entry []byte, err error) {
	err = s.r.QueryRowContext(ctx, "SELECT l.text FROM retired_keys k JOIN leaves l USING (log_index) WHERE k.id = ?", id[:]).Scan(&entry)
	return entry, classify(err)
}

// Endings tells one time from another by what had ended then: whoever keeps something of records, at whatever broker, keeps nothing that is sealed under a retired or missing key longer than these are the same.
type Endings struct {
	Told, Kept int64 // keys of records whose end was told in the log, and keys of months that are still there
	Underway   bool  // one was told, and isn't finished: each record may become unreadable at any moment
}

// Endings as they are now.
func (s *Store) Endings(ctx context.Context) (e Endings, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM retired_keys), (SELECT count(*) FROM keys WHERE owner IS NULL AND kind IN (?, ?, ?)), EXISTS (SELECT 1 FROM retired_keys r JOIN keys k ON k.id = r.id)`,
		string(keys.KindMonth), string(keys.KindLabel), string(keys.KindRoll)).Scan(&e.Told, &e.Kept, &e.Underway)
	return e, classify(err)
}

// RetiredKeys are the keys of records whose end was told in the log: those of the months that are over, and of any other none.
func (s *Store) RetiredKeys(ctx context.Context) (map[keys.KeyID]bool, error) {
	out := map[keys.KeyID]bool{}
	err := s.each(ctx, "SELECT id FROM retired_keys", func(scan func(...any) error) error {
		var id []byte
		if err := scan(&id); err != nil {
			return err
		}
		out[keys.KeyID(id)] = true
		return nil
	})
	return out, err
}

// PersonParts counts an owner's records between two log indexes, both included, that have their person part. The end of a retention takes these one after the other, before it takes the key.
func (s *Store) PersonParts(ctx context.Context, owner keys.Owner, from, to proof.Index) (n int, err error) {
	err = s.r.QueryRowContext(ctx, "SELECT count(*) FROM records WHERE owner = ? AND log_index >= ? AND log_index <= ? AND length(person) > 0", owner[:], int64(from), int64(to)).Scan(&n)
	return n, classify(err)
}

// A NoteEntry is the entry that a note is about.
type NoteEntry struct {
	Index  proof.Index
	Opened time.Time // of the entry's epoch
	Text   []byte
}

// NoteEntries lists the entries of the notes whose name begins with prefix.
func (s *Store) NoteEntries(ctx context.Context, prefix string) ([]NoteEntry, error) {
	var out []NoteEntry
	err := s.each(ctx, `SELECT l.log_index, e.opened, l.text FROM meta m JOIN leaves l ON l.log_index = CAST(m.value AS BIGINT) JOIN epochs e ON e.number = l.epoch
		WHERE m.name >= ?1 AND substr(m.name, 1, length(?1)) = ?1 ORDER BY 1`, func(scan func(...any) error) error {
		var n NoteEntry
		var index, opened int64
		err := scan(&index, &opened, &n.Text)
		n.Index, n.Opened = proof.Index(index), time.UnixMilli(opened).UTC()
		out = append(out, n)
		return err
	}, prefix)
	return out, err
}

// Markers are the markers that open and close the epoch of an entry. ErrNotFound if it is open.
func (s *Store) Markers(ctx context.Context, i proof.Index) (opener, closing []byte, err error) {
	err = s.r.QueryRowContext(ctx, "SELECT o.text, c.text FROM leaves l JOIN epochs o ON o.number = l.epoch JOIN epochs c ON c.number = l.epoch + 1 WHERE l.log_index = ?", int64(i)).Scan(&opener, &closing)
	return opener, closing, classify(err)
}

// EpochAt returns the last epoch that was open at a time in milliseconds since 1970, or began with it; ErrNotFound before the first. Its cost grows with the epochs since then.
func (s *Store) EpochAt(ctx context.Context, at int64) (proof.Epoch, error) {
	var n int64
	err := s.r.QueryRowContext(ctx, "SELECT number FROM epochs WHERE opened <= ? ORDER BY number DESC LIMIT 1", at).Scan(&n)
	return proof.Epoch(n), classify(err) // #nosec G115 -- numbers aren't negative
}

// Notes lists the notes whose name begins with prefix, by name.
func (s *Store) Notes(ctx context.Context, prefix string) ([]string, error) {
	var out []string
	err := s.each(ctx, "SELECT name FROM meta WHERE name >= ?1 AND substr(name, 1, length(?1)) = ?1 ORDER BY name", func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		out = append(out, name)
		return err
	}, prefix)
	return out, err
}

// DropRecords looks at up to limit records from a log index on and empties the person parts of those whose administrative part is sealed under one of the keys, with the digests by which a
// repeat of their request would be known. It returns where to go on, and false when there was nothing left up to and including upto. It may be repeated.
func (s *Store) DropRecords(ctx context.Context, under map[keys.KeyID]bool, from, upto proof.Index, limit int) (next proof.Index, more bool, err error) {
	drop, next, more, err := s.recordsUnder(ctx, under, from, upto, limit)
	if err != nil || len(drop) == 0 {
		return next, more, err
	}
	return next, more, s.keep(ctx, func(t *tx) error { return dropRecords(t, drop) })
}

// recordsUnder finds, among limit records, those that have a person part and are sealed under one of the keys.
func (s *Store) recordsUnder(ctx context.Context, under map[keys.KeyID]bool, from, upto proof.Index, limit int) (found []int64, next proof.Index, more bool, err error) {
	next, seen := from, 0
	err = s.each(ctx, "SELECT log_index, substr(admin, 1, ?), length(person) FROM records WHERE log_index >= ? AND log_index <= ? ORDER BY log_index LIMIT ?", func(scan func(...any) error) error {
		var index, person int64
		var admin []byte
		if err := scan(&index, &admin, &person); err != nil {
			return err
		}
		seen++
		next = proof.Index(index) + 1
		// One that is damaged beyond its key's name is left: nobody knows when its retention ends.
		if id, err := keys.KeyOf(admin); err == nil && under[id] && person > 0 {
			found = append(found, index)
		}
		return nil
	}, keys.Overhead, int64(from), int64(upto), limit)
	return found, next, seen == limit, err
}

// EmptyFreeIntents empties the slots of intents whose disclosures are done: what lies there is sealed under the same keys as their records.
func (s *Store) EmptyFreeIntents(ctx context.Context) error {
	if s.pg {
		return nil // each went with its outcome
	}
	return s.do(ctx, func(t *tx) error {
		_, err := t.exec(emptyFreeIntents)
		return err
	})
}

const emptyFreeIntents = "UPDATE intents SET disclosure = 0, person = x'', admin = x'' WHERE disclosure <> 0 AND disclosure NOT IN (SELECT seq FROM disclosures WHERE state = 0)"

// dropFreeIntents is the same on PostgreSQL, where Restore alone needs it.
const dropFreeIntents = "DELETE FROM intents WHERE disclosure NOT IN (SELECT seq FROM disclosures WHERE state = 0)"

func dropRecords(t *tx, indexes []int64) error {
	for _, i := range indexes {
		if _, err := t.exec("UPDATE records SET person = x'' WHERE log_index = ?", i); err != nil {
			return err
		}
		if _, err := t.exec("UPDATE disclosures SET idem = NULL, body = NULL WHERE seq = (SELECT disclosure FROM records WHERE log_index = ?) AND idem IS NOT NULL", i); err != nil {
			return err
		}
	}
	return nil
}

// apply does in a restored store what the end of retention did in the one that was lost. Slots of intents that are free by it are emptied by Restore.
func (p *Period) apply(t *tx) error {
	if p.Kind == keys.KindMonth {
		if _, err := t.exec("INSERT INTO retired_keys (id, log_index) SELECT id, ? FROM keys WHERE kind = ? AND period = ? AND owner IS NULL ON CONFLICT DO NOTHING", int64(p.Index), string(p.Kind), p.Period); err != nil {
			return err
		}
		// The key's name is where keys.KeyOf finds it.
		if _, err := t.exec("UPDATE records SET person = x'' WHERE substr(admin, 3, 16) IN (SELECT id FROM keys WHERE kind = ? AND period = ? AND owner IS NULL)", string(p.Kind), p.Period); err != nil {
			return err
		}
		if _, err := t.exec("UPDATE disclosures SET idem = NULL, body = NULL WHERE seq IN (SELECT disclosure FROM records WHERE length(person) = 0)"); err != nil {
			return err
		}
		// Requests of that month had their outcome: it is among the lost entries, and nobody can open the intent any more.
		if _, err := t.exec("DELETE FROM disclosures WHERE state = 0 AND seq IN (SELECT disclosure FROM intents WHERE substr(admin, 3, 16) IN (SELECT id FROM keys WHERE kind = ? AND period = ? AND owner IS NULL))", string(p.Kind), p.Period); err != nil {
			return err
		}
	}
	_, err := t.exec("DELETE FROM keys WHERE kind = ? AND period = ? AND owner IS NULL", string(p.Kind), p.Period)
	return err
}

// bodiesNote is the name under which the store remembers up to which disclosure the digests of requests were dropped.
const bodiesNote = "bodies dropped"

// DropBodies forgets the digests of requests that were asked before t, of at most limit disclosures, and returns of how many. Idem stays: the key was used.
func (s *Store) DropBodies(ctx context.Context, t time.Time, limit int) (int64, error) {
	var n int64
	err := s.keep(ctx, func(tx *tx) error {
		var from, to int64
		if err := tx.row("SELECT coalesce((SELECT CAST(value AS BIGINT) FROM meta WHERE name = ?), 0)", bodiesNote).Scan(&from); err != nil {
			return err
		}
		// Disclosures are stored nearly in the order of time; one that is a little younger goes with those after it.
		if err := tx.row("SELECT count(*), coalesce(max(seq), 0) FROM (SELECT seq, asked_at FROM disclosures WHERE seq > ? ORDER BY seq LIMIT ?) d WHERE asked_at < ?",
			from, limit, t.UnixMilli()).Scan(&n, &to); err != nil || n == 0 {
			return err
		}
		if _, err := tx.exec("UPDATE disclosures SET body = NULL WHERE seq > ? AND seq <= ? AND body IS NOT NULL", from, to); err != nil {
			return err
		}
		_, err := tx.exec("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", bodiesNote, strconv.FormatInt(to, 10))
		return err
	})
	return n, err
}

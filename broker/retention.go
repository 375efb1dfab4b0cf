package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Retention: a month's details are kept until the time that the log promised when the month's keys came into force, and then they are destroyed. The promise may be extended, by another
// entry; nothing shortens it.

// month is what there is of the keys of a calendar month.
type month struct {
	name          string // "2026-11"
	record, label []keys.StoredKey
	promised      map[proof.KeyUse]time.Time // by the log, until now
	until         time.Time                  // end of its retention: what was promised, or what is configured if that is later
	over          bool                       // the log has said that it ended
}

// keyNote is the name under which the store remembers that the log told of a key: all that the entry says, so that whatever changes is told too.
func keyNote(e proof.KeyChanged) string {
	return fmt.Sprintf("key %s %s %s %d", e.Key, e.State, e.Public, e.Until)
}

// parseKeyNote is the inverse of keyNote, but for what the key is for.
func parseKeyNote(name string) (e proof.KeyChanged, err error) {
	bad := errors.New("the store remembers an entry about a key in an unknown form: restore the store")
	f := strings.Fields(name)
	if len(f) != 5 {
		return e, bad
	}
	ms, err := strconv.ParseInt(f[4], 10, 64)
	if err != nil {
		return e, bad
	}
	if e.Public, err = proof.ParseHash(f[3]); err != nil {
		return e, bad
	}
	e.Key, e.State, e.Until = f[1], proof.Status(f[2]), proof.Time(ms)
	return e, nil
}

// kept lists the months of which there are keys, and the current one, with what the log promised about them.
func (b *Broker) kept(ctx context.Context) ([]*month, error) {
	months := map[string]*month{}
	of := func(name string) *month {
		if months[name] == nil {
			months[name] = &month{name: name, promised: map[proof.KeyUse]time.Time{}}
		}
		return months[name]
	}
	of(keys.MonthOf(b.now()))
	for _, kind := range []keys.Kind{keys.KindMonth, keys.KindLabel} {
		rows, err := b.store.ListKeys(ctx, kind, keys.KeyID{}, 10_000)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			if m := of(rows[i].Period); kind == keys.KindMonth {
				m.record = append(m.record, rows[i])
			} else {
				m.label = append(m.label, rows[i])
			}
		}
	}
	for name, m := range months {
		start, err := time.Parse("2006-01", name)
		if err != nil {
			return nil, fmt.Errorf("a key of the month %q: %w", name, err)
		}
		m.until = start.AddDate(0, 1, 0).Add(b.cfg.Retention)
		for _, use := range []proof.KeyUse{proof.UseRecord, proof.UseLabel} {
			until, ended, err := b.promised(ctx, use, name)
			if err != nil {
				return nil, err
			}
			m.promised[use] = until
			switch {
			case !ended.IsZero(): // what was said last stands, whatever is configured since
				m.over, m.until = true, ended
			case !m.over && until.After(m.until):
				m.until = until
			}
		}
	}
	return slices.SortedFunc(maps.Values(months), func(x, y *month) int { return cmp.Compare(x.name, y.name) }), nil
}

// promised is the latest end of retention that the log promised for a month's key, and the one that it gave when it told the key's destruction. They are zero if it did not.
func (b *Broker) promised(ctx context.Context, use proof.KeyUse, month string) (until, ended time.Time, err error) {
	notes, err := b.store.Notes(ctx, fmt.Sprintf("key %s.%s ", use, month))
	if err != nil {
		return until, ended, err
	}
	for _, name := range notes {
		e, err := parseKeyNote(name)
		if err != nil {
			return until, ended, err
		}
		switch t := e.Until.Time(); e.State {
		case proof.Destroyed:
			ended = t
		case proof.Active:
			if t.After(until) {
				until = t
			}
		}
	}
	return until, ended, nil
}

// logKeys logs the keys that came into force since it was last called: of checkpoints, of intents, of labels, of administrative parts. The end of retention is promised with the keys that it ends, and
// again when it is extended.
func (b *Broker) logKeys(ctx context.Context) error {
	b.telling.Lock()
	defer b.telling.Unlock()
	publics, err := b.cfg.Custodian.PublicKeys(ctx)
	if err != nil {
		return err
	}
	for _, k := range publics {
		e := proof.KeyChanged{Key: fmt.Sprintf("checkpoint.%d", k.Version), Use: proof.UseCheckpoint, State: proof.Active, Public: proof.Hash(k.Key)}
		if err := b.logKey(ctx, e, nil); err != nil {
			return err
		}
	}
	if err := b.logIntentKeys(ctx); err != nil {
		return err
	}
	if _, _, err := b.ring.Labels().CurrentKey(ctx, b.now()); err != nil {
		return err
	}
	months, err := b.kept(ctx)
	if err != nil {
		return err
	}
	for _, m := range months {
		// Of the current month the record key is promised before there is one.
		if !m.over && m.until.After(m.promised[proof.UseRecord]) && (len(m.record) > 0 || m.name == keys.MonthOf(b.now())) {
			if err := b.logKey(ctx, m.recordEntry(proof.Active), nil); err != nil {
				return err
			}
		}
		if !m.over && m.until.After(m.promised[proof.UseLabel]) {
			if err := b.logLabels(ctx, m, proof.Active); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *month) recordEntry(state proof.Status) proof.KeyChanged {
	return proof.KeyChanged{Key: "record." + m.name, Use: proof.UseRecord, State: state, Until: proof.TimeOf(m.until)}
}

func (b *Broker) logLabels(ctx context.Context, m *month, state proof.Status) error {
	for _, k := range m.label {
		key, err := b.ring.LabelKey(ctx, k.ID.String())
		if err != nil {
			return err
		}
		e := proof.KeyChanged{Key: "label." + m.name, Use: proof.UseLabel, State: state, Public: proof.Hash(key.Public()), Until: proof.TimeOf(m.until)}
		if err := b.logKey(ctx, e, nil); err != nil {
			return err
		}
	}
	return nil
}

// logKey logs what happens to a key, once. The attachment, if any, holds the note.
func (b *Broker) logKey(ctx context.Context, e proof.KeyChanged, attach store.Attachment) error {
	name := keyNote(e)
	if _, known := b.logged[name]; known {
		return nil
	}
	done, err := b.store.Noted(ctx, name)
	if err != nil {
		return err
	}
	if !done {
		if attach == nil {
			attach = &store.Note{Name: name}
		}
		if _, err := b.append(ctx, ledger.Group{Entries: []proof.Entry{e}, Attach: attach}); err != nil && !errors.Is(err, store.ErrExists) {
			return err // if another broker has just logged it, all is well
		}
	}
	b.logged[name] = struct{}{}
	return nil
}

// retentionRound is how long a round works at the end of a month's retention: the sweeper has other things to do.
const retentionRound = 2 * time.Second

// endRetention destroys what is left of months whose retention has ended: their records can't be read any more by anybody. The log says so first, so that a crash between the two never leaves
// records unreadable without an entry that explains it. The person parts go before the month's key, which is there for as long as there is something to do.
func (b *Broker) endRetention(ctx context.Context) error {
	b.telling.Lock()
	defer b.telling.Unlock()
	months, err := b.kept(ctx)
	if err != nil {
		return err
	}
	var ended []*month
	var waits error
	kept := keys.MonthOf(b.now()) // the first month that stays
	for _, m := range months {
		// The log's own time counts, too: keys don't come back when a clock is set right.
		if !m.over && (b.now().Before(m.until) || b.ledger().OpenEpoch().Opened.Before(m.until)) {
			kept = min(kept, m.name)
			continue
		}
		deferred, err := b.store.DeferredUnder(ctx, m.record)
		if err != nil {
			return err
		}
		if deferred {
			kept = min(kept, m.name)
			waits = errors.Join(waits, fmt.Errorf("month %s: a delay should have ended long ago, and the record's month isn't ended before it is: see docs/operate.md, Damaged records", m.name))
			continue
		}
		ended = append(ended, m)
	}
	if len(ended) == 0 {
		return waits
	}
	return errors.Join(waits, b.endMonths(ctx, ended, kept))
}

// endMonths is endRetention of these months; kept is the first one that stays.
func (b *Broker) endMonths(ctx context.Context, ended []*month, kept string) error {
	under := map[keys.KeyID]bool{}
	for _, m := range ended {
		for i := range m.record {
			under[m.record[i].ID] = true
		}
	}
	last, finished, err := b.allFiled(ctx, under)
	if err != nil || !finished {
		return err
	}
	for _, m := range ended {
		if err := b.logEnd(ctx, m); err != nil {
			return err
		}
	}
	// What is shown meanwhile rests on the published log: it has to say why a key is gone.
	if err := b.published(ctx, proof.Index(b.ledger().Checkpoint().Size()-1)); err != nil {
		return fmt.Errorf("waiting for the end of the retention to be published: %w", err)
	}
	if done, err := b.dropRecords(ctx, under, last); err != nil || !done {
		return err
	}
	for _, m := range ended {
		if _, err := b.ring.DestroyMonth(ctx, m.name); err != nil {
			return err
		}
		b.log.Info("destroyed the records of a month at the end of their retention", "month", m.name)
	}
	first, err := time.Parse("2006-01", kept)
	if err != nil {
		return fmt.Errorf("a key of the month %q: %w", kept, err)
	}
	before, err := b.markerUpTo(ctx, first)
	if err != nil {
		return err
	}
	return b.forgetErasures(ctx, before)
}

// detailsPause is how long the details of ended months are left alone after a failure: each attempt may look at all records of a month.
const detailsPause = 10 * time.Minute

// detailsKept is how long a month is left alone whose newest details are gone while some are to be kept: at a month's turn some were sealed under the next one's key, or a damaged one is left as it is.
const detailsKept = 24 * time.Hour

// details are dropped beside the sweeper, which has other things to do for as long as that takes.
type details struct {
	under atomic.Bool
	after atomic.Pointer[time.Time]
	// later has months of which some is still to be kept, and from when on they are looked at again. Only who is at it uses it.
	later map[int]time.Time
}

// begin drops them if nobody is at it, until the broker stops or another one leads.
func (x *details) begin(b *Broker) {
	if after := x.after.Load(); after != nil && time.Now().Before(*after) || !x.under.CompareAndSwap(false, true) {
		return
	}
	b.work.Go(func() {
		defer x.under.Store(false)
		ctx, cancel := b.untilStopping(context.Background())
		defer cancel()
		ctx, done := b.asLeader(ctx)
		defer done()
		if err := b.dropDetails(ctx); err != nil && ctx.Err() == nil {
			after := time.Now().Add(detailsPause)
			x.after.Store(&after)
			b.log.Error("dropping what is left of ended months", "error", err, "again in", detailsPause)
		}
	})
}

// dropDetails drops what is left on the disk of months whose retention has ended, where months lie apart. Histories go on telling of their records, that the log says their retention has ended.
func (b *Broker) dropDetails(ctx context.Context) error {
	months, err := b.store.Months(ctx)
	if err != nil {
		return err
	}
	return b.details.drop(ctx, months, b.store.DropDetail, b.log)
}

func (x *details) drop(ctx context.Context, months []int, drop func(context.Context, int) (int64, error), log *slog.Logger) error {
	var failed error // one month's trouble isn't the others'
	for _, m := range months {
		if time.Now().Before(x.later[m]) {
			continue
		}
		n, err := drop(ctx, m)
		switch {
		case errors.Is(err, store.ErrNotFound): // somebody else did
			continue
		case errors.Is(err, store.ErrExists):
			if x.later == nil {
				x.later = make(map[int]time.Time)
			}
			x.later[m] = time.Now().Add(detailsKept)
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("dropping what is left of the month %d: %w", m, err))
			continue
		}
		log.Info("dropped what was left of a month's records at the end of their retention", "month", m, "records", n)
	}
	return failed
}

// markerUpTo returns the marker of the last epoch that was opened at a time or before; 0 if there is none.
func (b *Broker) markerUpTo(ctx context.Context, t time.Time) (proof.Index, error) {
	open := b.ledger().OpenEpoch()
	if !open.Opened.After(t) {
		return open.Marker, nil
	}
	o := store.Order{Store: b.store}
	var failed error
	later := sort.Search(int(open.Number), func(n int) bool { // #nosec G115 -- epochs are days
		e, err := o.Epoch(ctx, proof.Epoch(n)) // #nosec G115 -- as above
		failed = errors.Join(failed, err)
		return e.Opened.After(t)
	})
	if failed != nil || later == 0 {
		return 0, failed
	}
	e, err := o.Epoch(ctx, proof.Epoch(later-1)) // #nosec G115 -- as above
	return e.Marker, err
}

// published waits for the publication of an entry, no longer than a round.
func (b *Broker) published(ctx context.Context, index proof.Index) error {
	ctx, cancel := context.WithTimeout(ctx, retentionRound)
	defer cancel()
	_, err := b.ledger().AwaitPublished(ctx, index)
	return err
}

// allFiled waits until every record that is sealed under the keys of ended months has been made and is in its roll, which takes its person part, and returns the last log index at which one can
// stand. It reports false while an erasure that was begun in one of the months isn't in the log.
func (b *Broker) allFiled(ctx context.Context, under map[keys.KeyID]bool) (last proof.Index, finished bool, err error) {
	if _, err := b.interrupted(ctx); err != nil {
		return 0, false, fmt.Errorf("recording interrupted requests first: %w", err)
	}
	erasures, err := b.store.OpenErasures(ctx)
	if err != nil {
		return 0, false, err
	}
	for i := range erasures {
		if id, err := keys.KeyOf(erasures[i].Admin); !erasures[i].Logged && err == nil && under[id] {
			return 0, false, nil
		}
	}
	if last, _, err = b.store.LastIndex(ctx); err != nil {
		return 0, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, retentionRound)
	defer cancel()
	if err := b.until(ctx, func() (bool, error) { return b.store.Filed(ctx, last) }); err != nil {
		return 0, false, fmt.Errorf("waiting for entries to be filed: %w", err)
	}
	// An index is made with the keys of its month, and published with the checkpoint that shows its epoch's end: without them it could never be published, nor anything after it.
	if err := b.published(ctx, b.ledger().OpenEpoch().Marker); err != nil {
		return 0, false, fmt.Errorf("waiting for the index of a closed epoch to be published: %w", err)
	}
	return last, true, nil
}

// logEnd tells the end of a month's retention, and which keys that ends.
func (b *Broker) logEnd(ctx context.Context, m *month) error {
	if len(m.record) > 0 {
		e := m.recordEntry(proof.Destroyed)
		attach := &store.Retirement{Note: store.Note{Name: keyNote(e)}}
		for i := range m.record {
			attach.Keys = append(attach.Keys, m.record[i].ID)
		}
		if err := b.logKey(ctx, e, attach); err != nil {
			return err
		}
	}
	return b.logLabels(ctx, m, proof.Destroyed)
}

// dropRecords empties the person parts of records that are sealed under the keys of ended months, and goes on in the next round where this one stops.
func (b *Broker) dropRecords(ctx context.Context, under map[keys.KeyID]bool, upto proof.Index) (done bool, err error) {
	if len(under) == 0 {
		return true, nil
	}
	if !maps.Equal(under, b.dropping.under) {
		b.dropping.under, b.dropping.next = under, 0
	}
	for end := time.Now().Add(retentionRound); time.Now().Before(end); {
		next, more, err := b.store.DropRecords(ctx, under, b.dropping.next, upto, 1000)
		if err != nil {
			return false, fmt.Errorf("deleting the person parts of ended months: %w", err)
		}
		if b.dropping.next = next; !more {
			if err := b.store.EmptyFreeIntents(ctx); err != nil {
				return false, fmt.Errorf("emptying the intents of what is done: %w", err)
			}
			b.dropping.under = nil
			return true, nil
		}
	}
	return false, nil
}

// retired says whether the log accounts for a record key that is gone and with it for a record that can't be read: an entry told its destruction, and whoever reads the log finds that this was
// the end of the retention that was promised in time (docs/formats.md, section 4).
func (b *Broker) retired(ctx context.Context, row *store.PlacedRecord, id keys.KeyID) (bool, error) {
	if id.IsZero() {
		return false, nil
	}
	over, err := b.retentionOver(ctx, row, id)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, proof.ErrFormat), errors.Is(err, proof.ErrUnknown):
		return false, nil // damaged
	case err != nil:
		return false, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	return over, nil
}

func (b *Broker) retentionOver(ctx context.Context, row *store.PlacedRecord, id keys.KeyID) (bool, error) {
	text, err := b.store.Retired(ctx, id)
	if err != nil {
		return false, err
	}
	entry, err := proof.ParseEntry(text)
	end, ok := entry.(proof.KeyChanged)
	if err != nil || !ok || end.Use != proof.UseRecord || end.State != proof.Destroyed {
		return false, err
	}
	// A stranger tries every key that may have sealed the record; the broker knows which one it was.
	told, err := b.store.NoteEntries(ctx, "key "+end.Key+" ")
	if err != nil {
		return false, err
	}
	notices := make([]proof.KeyNotice, 0, len(told))
	for i := range told {
		entry, err := proof.ParseEntry(told[i].Text)
		if err != nil {
			return false, err
		}
		if k, ok := entry.(proof.KeyChanged); ok {
			notices = append(notices, proof.KeyNotice{Index: told[i].Index, Opened: proof.TimeOf(told[i].Opened), Key: k})
		}
	}
	at := row.Index
	if entry, err = proof.ParseEntry(row.Text); err != nil {
		return false, err
	}
	if o, ok := entry.(proof.Opened); ok {
		at = o.Deferred
	}
	opener, closing, err := b.store.Markers(ctx, at)
	if err != nil {
		return false, err
	}
	var markers [2]proof.Marker
	for i, text := range [][]byte{opener, closing} {
		entry, err := proof.ParseEntry(text)
		if err != nil {
			return false, err
		}
		if markers[i], ok = entry.(proof.Marker); !ok {
			return false, nil
		}
	}
	return proof.RetentionOver(row.Index, markers[0], markers[1], notices), nil
}

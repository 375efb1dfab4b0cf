package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// PayloadLife is how long a sealed answer can be opened again after its minute has ended; Sweep then destroys the key of that minute.
const PayloadLife = 15 * time.Minute

const (
	monthForm  = "2006-01"
	windowForm = "2006-01-02T15:04Z"
)

// MonthOf names the calendar month of t, UTC: the period of month, label and roll keys.
func MonthOf(t time.Time) string { return t.UTC().Format(monthForm) }

func windowOf(t time.Time) string { return t.UTC().Format(windowForm) }

func payloadEnds(window string) (time.Time, error) {
	start, err := time.Parse(windowForm, window)
	if err != nil {
		return time.Time{}, fmt.Errorf("it has no period: %w", ErrAltered)
	}
	return start.Add(time.Minute + PayloadLife), nil
}

// periods holds the unwrapped keys that are nobody's in particular. There are few: it is bounded by the periods in use.
type periods struct {
	now func() time.Time
	age time.Duration

	mu      sync.Mutex
	gen     uint64 // counts destructions
	byName  map[periodName]*periodKey
	byID    map[KeyID]*periodKey
	flights map[periodName]*flight
}

type periodName struct {
	kind   Kind
	period string
}

// periodKey is immutable. Its secret isn't cleared while somebody may be using it; the collector frees it.
type periodKey struct {
	key    Key
	period string
	until  time.Time
	label  proof.LabelKey // of KindLabel
	ends   time.Time      // of KindPayload: from then on it opens nothing, swept or not
}

type flight struct {
	done chan struct{}
	key  *periodKey
	err  error
}

func newPeriods(age time.Duration, now func() time.Time) *periods {
	return &periods{now: now, age: age, byName: map[periodName]*periodKey{}, byID: map[KeyID]*periodKey{}, flights: map[periodName]*flight{}}
}

func (p *periods) generation() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gen
}

func (p *periods) put(e *periodKey, gen uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if gen != p.gen {
		return // it may have been destroyed meanwhile
	}
	for _, old := range p.byID { // nobody says of those of answers that they are gone
		if !old.ends.IsZero() && !p.now().Before(old.ends) {
			p.drop(old)
		}
	}
	p.byID[e.key.id] = e
	p.byName[periodName{e.key.kind, e.period}] = e
}

func (p *periods) get(id KeyID) *periodKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fresh(p.byID[id])
}

func (p *periods) fresh(e *periodKey) *periodKey {
	if e == nil || !p.now().After(e.until) {
		return e
	}
	p.drop(e)
	return nil
}

func (p *periods) drop(e *periodKey) {
	delete(p.byID, e.key.id)
	if n := (periodName{e.key.kind, e.period}); p.byName[n] == e {
		delete(p.byName, n)
	}
}

func (p *periods) forget(ids []KeyID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gen++
	for _, id := range ids {
		if e := p.byID[id]; e != nil {
			p.drop(e)
		}
	}
}

func (p *periods) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gen++
	clear(p.byID)
	clear(p.byName)
}

// period returns the key of a kind and period, creating it durably if there is none. Concurrent callers share one creation.
func (r *Ring) period(ctx context.Context, kind Kind, period string) (*periodKey, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	p, n := r.shared, periodName{kind, period}
	p.mu.Lock()
	if e := p.fresh(p.byName[n]); e != nil {
		p.mu.Unlock()
		return e, nil
	}
	f := p.flights[n]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		p.flights[n] = f
		// It serves all who wait, so no single one's context may end it.
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*r.timeout)
			defer cancel()
			f.key, f.err = r.loadPeriod(ctx, kind, period)
			p.mu.Lock()
			delete(p.flights, n)
			p.mu.Unlock()
			close(f.done)
		}()
	}
	p.mu.Unlock()
	select {
	case <-f.done:
		return f.key, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// present returns the key of a kind and period as period does, but makes none: ErrNoKey if there is none.
func (r *Ring) present(ctx context.Context, kind Kind, period string) (*periodKey, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	p := r.shared
	p.mu.Lock()
	e, gen := p.fresh(p.byName[periodName{kind, period}]), p.gen
	p.mu.Unlock()
	if e != nil {
		return e, nil
	}
	rows, err := r.store.LoadKeys(ctx, kind, Owner{}, period)
	if err != nil {
		return nil, fmt.Errorf("loading the %s key: %w", kind, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("the %s key of %s: %w", kind, period, ErrNoKey)
	}
	return r.adopt(ctx, &rows[0], gen)
}

func (r *Ring) loadPeriod(ctx context.Context, kind Kind, period string) (*periodKey, error) {
	// Twice: another process may create it between our look and our save.
	for range 2 {
		gen := r.shared.generation()
		rows, err := r.store.LoadKeys(ctx, kind, Owner{}, period)
		if err != nil {
			return nil, fmt.Errorf("loading the %s key: %w", kind, err)
		}
		if len(rows) > 0 {
			return r.adopt(ctx, &rows[0], gen) // the first, so that all processes take the same
		}
		e, err := r.createPeriod(ctx, kind, period)
		if !errors.Is(err, ErrKeyExists) {
			if err == nil {
				r.shared.put(e, gen)
			}
			return e, err
		}
	}
	return nil, fmt.Errorf("creating the %s key: the store has one and doesn't show it: %w", kind, ErrKeyExists)
}

func (r *Ring) adopt(ctx context.Context, row *StoredKey, gen uint64) (*periodKey, error) {
	k, err := r.unwrap(ctx, row)
	if err != nil {
		return nil, err
	}
	e, err := r.newPeriodKey(k, row.Period)
	if err == nil {
		r.shared.put(e, gen)
	}
	return e, err
}

func (r *Ring) newPeriodKey(k Key, period string) (*periodKey, error) {
	e := &periodKey{key: k, period: period, until: r.now().Add(r.shared.age)}
	var err error
	switch k.kind {
	case KindPayload:
		if e.ends, err = payloadEnds(period); err != nil {
			return nil, fmt.Errorf("payload key %s: %w", k.id, err)
		}
	case KindLabel:
		if e.label, err = proof.ParseLabelKey(k.secret[:]); err != nil {
			return nil, fmt.Errorf("label key %s: %w", k.id, ErrAltered)
		}
	}
	return e, nil
}

func (r *Ring) createPeriod(ctx context.Context, kind Kind, period string) (*periodKey, error) {
	row, err := r.newStored(kind, Owner{}, period)
	if err != nil {
		return nil, err
	}
	k := Key{id: row.ID, kind: kind}
	if kind == KindLabel {
		l, err := proof.NewLabelKey(r.rand)
		if err != nil {
			return nil, err
		}
		b := l.Bytes()
		copy(k.secret[:], b)
		clear(b)
	} else if _, err := io.ReadFull(r.rand, k.secret[:]); err != nil {
		return nil, fmt.Errorf("reading randomness for a key: %w", err)
	}
	if err := r.wrap(ctx, &k, row); err != nil {
		return nil, err
	}
	err = r.store.SaveKeys(ctx, []StoredKey{*row})
	r.unsaved.done(row.ID)
	if err != nil {
		return nil, fmt.Errorf("saving the %s key: %w", kind, err)
	}
	r.stats.created.Add(1)
	return r.newPeriodKey(k, period)
}

// periodByID returns a key that sealed something.
func (r *Ring) periodByID(ctx context.Context, kind Kind, id KeyID) (*periodKey, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	if e := r.shared.get(id); e != nil {
		if e.key.kind != kind {
			return nil, fmt.Errorf("%s key %s is of another kind: %w", kind, id, ErrAltered)
		}
		return e, nil
	}
	gen := r.shared.generation()
	row, err := r.find(ctx, kind, id)
	if err != nil {
		return nil, err
	}
	return r.adopt(ctx, row, gen)
}

// find finds a key of a kind, or of any if kind is empty.
func (r *Ring) find(ctx context.Context, kind Kind, id KeyID) (*StoredKey, error) {
	rows, err := r.store.FindKeys(ctx, []KeyID{id})
	if err != nil {
		return nil, fmt.Errorf("loading %s key %s: %w", kind, id, err)
	}
	for i := range rows {
		if rows[i].ID != id {
			continue
		}
		if kind != "" && rows[i].Kind != kind {
			return nil, fmt.Errorf("%s key %s is of another kind: %w", kind, id, ErrAltered)
		}
		return &rows[i], nil
	}
	return nil, fmt.Errorf("%s key %s: %w", kind, id, ErrNoKey)
}

// Sweep destroys the keys of answers that are older than PayloadLife, durably, and returns how many; what they sealed can't be opened any more. It also
// makes the keys that will be needed next, so that no request waits for them. Call it a few times a minute.
func (r *Ring) Sweep(ctx context.Context, now time.Time) (int, error) {
	if r.closed.Load() {
		return 0, ErrClosed
	}
	n, err := r.sweep(ctx, now)
	// A failure to prepare is no failure: the request that needs the key makes it, or tells why not.
	_, e1 := r.period(ctx, KindPayload, windowOf(now.Add(time.Minute)))
	var e2 error
	if soon := now.Add(time.Hour); MonthOf(soon) != MonthOf(now) {
		_, e2 = r.period(ctx, KindMonth, MonthOf(soon))
	}
	if e := errors.Join(e1, e2); e != nil {
		r.log.Warn("preparing the next keys", "error", e)
	}
	return n, err
}

func (r *Ring) sweep(ctx context.Context, now time.Time) (int, error) {
	var gone []KeyID
	var after KeyID
	var damaged error // of a key that can't be told to be old; the others are
	for {
		rows, err := r.store.ListKeys(ctx, KindPayload, after, maxBatch)
		if err != nil {
			return 0, fmt.Errorf("listing payload keys: %w", err)
		}
		for i := range rows {
			ends, err := payloadEnds(rows[i].Period)
			switch {
			case err != nil:
				damaged = fmt.Errorf("payload key %s: %w", rows[i].ID, err)
			case !now.Before(ends):
				gone = append(gone, rows[i].ID)
			}
		}
		if len(rows) < maxBatch {
			break
		}
		after = rows[len(rows)-1].ID
	}
	if err := r.destroy(ctx, gone); err != nil {
		return 0, err
	}
	return len(gone), damaged
}

func (r *Ring) destroy(ctx context.Context, ids []KeyID) error {
	// Not sure: an earlier call, perhaps before a restart, may have deleted rows and then failed to wipe them from the store's files.
	if len(ids) == 0 && !r.unsure.Load() {
		return nil
	}
	r.shared.forget(ids)
	r.unsure.Store(true)
	if err := r.store.DestroyKeys(ctx, ids); err != nil {
		return fmt.Errorf("destroying keys: %w", err)
	}
	r.unsure.Store(false)
	// Again: somebody may have loaded one between the two.
	r.shared.forget(ids)
	r.stats.destroyed.Add(int64(len(ids)))
	return nil
}

// DestroyMonth destroys, durably, what a month left: the keys of its administrative parts, labels and rolls. It is for the end of retention, cannot be undone, and refuses a
// month that isn't over. It returns the keys that it destroyed, to be told in the log; none if there were none.
func (r *Ring) DestroyMonth(ctx context.Context, month string) ([]StoredKey, error) {
	if r.closed.Load() {
		return nil, ErrClosed
	}
	t, err := time.Parse(monthForm, month)
	if err != nil {
		return nil, fmt.Errorf("keys: %q is not a month like 2026-11", month)
	}
	if r.now().Before(t.AddDate(0, 1, 0)) {
		return nil, fmt.Errorf("keys: the month %s isn't over; its keys are not destroyed", month)
	}
	var rows []StoredKey
	for _, kind := range []Kind{KindMonth, KindLabel, KindRoll} {
		k, err := r.store.LoadKeys(ctx, kind, Owner{}, month)
		if err != nil {
			return nil, fmt.Errorf("loading the %s keys: %w", kind, err)
		}
		rows = append(rows, k...)
	}
	gone := make([]KeyID, len(rows))
	for i := range rows {
		gone[i] = rows[i].ID
	}
	if err := r.destroy(ctx, gone); err != nil {
		return nil, err
	}
	return rows, nil
}

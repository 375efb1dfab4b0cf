package portal

import (
	"container/list"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// Bounds of what is kept in memory about those who are signed in.
const (
	// maxJournal bounds the entries of one person; older ones are in the file of their history.
	maxJournal = verdict.MaxListed
	// maxKept bounds the entries of all, at about 400 bytes each.
	maxKept = 250_000
	// journalAge is for how long an outline is used before it is made anew. New entries, erasures and ends of retentions are noticed at once; what isn't shows then: entries that another broker says are lost, and details that could not be
	// read and can be again, or the other way round.
	journalAge = 10 * time.Minute
	// journalRenew is at what age another is made in the background, while pages are asked for: that of ten thousand entries takes seconds, for which nobody should wait again and again.
	journalRenew = 6 * time.Minute
	// journalIdle is for how long one is kept of whom no page is asked.
	journalIdle = 20 * time.Minute
	// journalLook is for how long outlines are used before it is looked whether an end of a retention has changed them, and, while one is underway, what that took.
	journalLook = time.Second
	// journalPage is how many entries are read at once.
	journalPage = 200
)

// journals keep the outlines of the histories of those who are signed in, so that a page needs not open a person's every record. Each is brought up to date by log index before it is used.
type journals struct {
	broker Broker
	now    func() time.Time
	look   atomic.Pointer[look]

	mu   sync.Mutex
	by   map[string]*list.Element // *kept, by account
	used *list.List               // the most recently used first
	size int                      // entries
}

// look is what there was of ends of retentions at a time.
type look struct {
	endings store.Endings
	at      time.Time
}

// kept is one account's place.
type kept struct {
	account string
	used    time.Time // guarded by journals.mu
	size    int       // guarded by journals.mu
	gone    bool      // guarded by journals.mu: taken out, so its size counts no more

	mu      sync.Mutex              // held while it is brought up to date
	journal atomic.Pointer[journal] // nil at first
}

// journal is the outline of one person's history as of one moment. It is never changed.
type journal struct {
	subjects []proof.Subject
	newest   []proof.Index // by subject
	endings  store.Endings
	made     time.Time
	looked   time.Time // when it was known last that no end of a retention has changed it
	ending   ending
	entries  []broker.OwnEntry // by decreasing time
	cut      bool              // older ones are left out
	lost     bool              // details of some entries, nobody knows whose, were lost

	// forms are entries of which no two look alike but for their index and time, and form says for each entry like which of them it looks: a filter reads tens instead of tens of thousands.
	forms []*broker.OwnEntry
	form  []int32
	// What there is to filter by, each once.
	agencies, services, statuses []string
}

// ending is what there was of the entries of ended months when they were last read.
type ending struct {
	from, to proof.Index // among which they are
	details  int         // how many of those among which they are had details
	kept     int64       // keys of months, as in store.Endings
}

func newJournals(b Broker, now func() time.Time) *journals {
	return &journals{broker: b, now: now, by: map[string]*list.Element{}, used: list.New()}
}

// of returns the outline of somebody's history, as it is now.
func (j *journals) of(ctx context.Context, s *Session) (*journal, error) {
	return j.refresh(ctx, j.place(s.Account), s.Subjects)
}

// refresh brings an account's outline up to date.
func (j *journals) refresh(ctx context.Context, k *kept, subjects []proof.Subject) (*journal, error) {
	newest := make([]proof.Index, len(subjects))
	for i, subject := range subjects {
		var err error
		if newest[i], err = j.broker.NewestOwn(ctx, subject); err != nil {
			return nil, err
		}
	}
	endings, err := j.endings(ctx)
	if err != nil {
		return nil, err
	}
	if was := k.journal.Load(); was.usable(subjects, j.now()) && was.settled(endings, j.now()) && slices.Equal(was.newest, newest) {
		return was, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.journal.Load() // another request may have brought it up to date meanwhile
	if !was.usable(subjects, j.now()) {
		was = nil
	}
	if was != nil && !was.settled(endings, j.now()) {
		if was, err = j.revise(ctx, was, endings); err != nil {
			return nil, err
		}
	}
	if was == nil || !covers(was.newest, newest) {
		if was, err = j.read(ctx, subjects, endings, was); err != nil {
			return nil, err
		}
	}
	k.journal.Store(was)
	j.resize(k, len(was.entries))
	return was, nil
}

// endings are asked for by whoever comes first after a journalLook, and serve everybody: they change once a month.
func (j *journals) endings(ctx context.Context) (store.Endings, error) {
	now := j.now()
	if l := j.look.Load(); l != nil && recent(l.at, now, journalLook) {
		return l.endings, nil
	}
	e, err := j.broker.Endings(ctx)
	if err == nil {
		j.look.Store(&look{e, now})
	}
	return e, err
}

// usable says whether an outline is this person's and not too old.
func (was *journal) usable(subjects []proof.Subject, now time.Time) bool {
	return was != nil && slices.EqualFunc(was.subjects, subjects, proof.Subject.Equal) && recent(was.made, now, journalAge)
}

// settled says whether no end of a retention has changed an outline. That takes details away without any new entry, and one after the other while it is underway.
func (was *journal) settled(endings store.Endings, now time.Time) bool {
	return was.endings == endings && (!endings.Underway || recent(was.looked, now, journalLook))
}

func recent(at, now time.Time, age time.Duration) bool { return now.Sub(at) <= age && !at.After(now) }

// covers says whether an outline that has these entries has those, too.
func covers(have, want []proof.Index) bool {
	for i := range want {
		if have[i] < want[i] {
			return false
		}
	}
	return true
}

// revise reads the entries of ended months again, if some of them lost their details since they were read: a few of a person's years. It makes another outline, for nobody else is to see one change.
func (j *journals) revise(ctx context.Context, was *journal, endings store.Endings) (*journal, error) {
	n := *was
	n.endings, n.looked = endings, j.now()
	months := map[keys.KeyID]bool{}
	for i := range was.entries {
		if under := was.entries[i].Under; !under.IsZero() {
			months[under] = true
		}
	}
	lasting, err := j.broker.Lasting(ctx, slices.Collect(maps.Keys(months)))
	if err != nil {
		return nil, err
	}
	var at []int // the entries in question, by their places
	now := ending{kept: endings.Kept}
	for i := range was.entries {
		if e := &was.entries[i]; e.State != broker.HistoryRetired && !e.Under.IsZero() && !lasting[e.Under] {
			if len(at) == 0 || e.Index < now.from {
				now.from = e.Index
			}
			now.to = max(now.to, e.Index)
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return &n, nil
	}
	for _, subject := range was.subjects { // before they are read: what is lost meanwhile is noticed the next time
		details, err := j.broker.OwnDetails(ctx, subject, now.from, now.to)
		if err != nil {
			return nil, err
		}
		now.details += details
	}
	if now == was.ending {
		return &n, nil
	}
	fresh, err := j.between(ctx, was.subjects, now.from, now.to)
	if err != nil {
		return nil, err
	}
	n.ending, n.entries = now, slices.Clone(was.entries)
	for _, i := range at {
		if e, ok := fresh[n.entries[i].Index]; ok {
			n.entries[i] = e
		}
	}
	n.order()
	n.classify()
	return &n, nil
}

// between reads a person's entries between two log indexes, both included.
func (j *journals) between(ctx context.Context, subjects []proof.Subject, from, to proof.Index) (map[proof.Index]broker.OwnEntry, error) {
	words, out := newInterned(), map[proof.Index]broker.OwnEntry{}
	for _, subject := range subjects {
		for before := to + 1; before > from; {
			page, next, err := j.broker.OwnEntries(ctx, subject, before, journalPage)
			if err != nil {
				return nil, err
			}
			for k := range page {
				words.intern(&page[k])
				out[page[k].Index] = page[k]
			}
			before = next
		}
	}
	return out, nil
}

// read brings an outline up to date, or makes one if there is none. An erasure changes what can be read of older entries, so after one everything is read again.
func (j *journals) read(ctx context.Context, subjects []proof.Subject, endings store.Endings, was *journal) (*journal, error) {
	n := &journal{subjects: slices.Clone(subjects), newest: make([]proof.Index, len(subjects)), endings: endings, made: j.now()}
	n.looked = n.made
	lost, err := j.broker.OwnLost(ctx)
	if err != nil {
		return nil, err
	}
	n.lost = len(lost) > 0
	words := newInterned()
	for i, subject := range subjects {
		known := proof.Index(0)
		if was != nil {
			known = was.newest[i]
		}
		n.newest[i] = known
		for before, count := proof.Index(0), 0; ; {
			page, next, err := j.broker.OwnEntries(ctx, subject, before, journalPage)
			if err != nil {
				return nil, err
			}
			for k := range page {
				e := &page[k]
				if e.Index <= known {
					next = 0
					break
				}
				if was != nil && e.Kind == proof.KindErasure {
					return j.read(ctx, subjects, endings, nil)
				}
				n.newest[i] = max(n.newest[i], e.Index)
				words.intern(e)
				n.entries = append(n.entries, *e)
			}
			if count += len(page); next == 0 {
				break
			}
			if count >= maxJournal {
				n.cut = true
				break
			}
			before = next
		}
		if len(n.entries) > maxJournal { // before the next identifier's are read: somebody may have many
			n.order()
		}
	}
	if was != nil {
		n.made, n.looked, n.ending, n.cut = was.made, was.looked, was.ending, n.cut || was.cut
		n.entries = append(n.entries, was.entries...)
	}
	n.order()
	n.classify()
	return n, nil
}

// order sorts the entries by decreasing time, and leaves out the oldest of too many.
func (n *journal) order() {
	slices.SortStableFunc(n.entries, func(a, b broker.OwnEntry) int {
		return verdict.Newer(timeOf(a.At), a.Index, timeOf(b.At), b.Index)
	})
	if len(n.entries) > maxJournal {
		clear(n.entries[maxJournal:])
		n.entries, n.cut = n.entries[:maxJournal], true
	}
}

// timeOf is a time as records have it; 0: not known.
func timeOf(t time.Time) proof.Time {
	if t.IsZero() {
		return 0
	}
	return proof.TimeOf(t)
}

// shown is what a line shows of an entry but for its index and time. Entries with the same scopes share them (interned).
type shown struct {
	status, agency, service, provider, purpose, reader, role, reason string
	scopes                                                           *service.Scope
}

// classify finds the forms of the entries, and what there is to filter by.
func (n *journal) classify() {
	known := map[shown]int32{}
	n.forms = nil
	n.form = make([]int32, len(n.entries))
	for i := range n.entries {
		e := &n.entries[i]
		key := shown{status: statusOf(e), agency: e.Agency, service: e.Service, provider: e.Provider, purpose: e.Purpose, reader: e.Reader, role: e.ReaderRole, reason: e.Reason}
		if len(e.Scopes) > 0 {
			key.scopes = &e.Scopes[0]
		}
		form, ok := known[key]
		if !ok {
			form = int32(len(n.forms)) // #nosec G115 -- at most maxJournal
			known[key] = form
			n.forms = append(n.forms, e)
		}
		n.form[i] = form
	}
	n.agencies = distinct(n.forms, func(e *broker.OwnEntry) string { return e.Agency })
	n.services = distinct(n.forms, func(e *broker.OwnEntry) string { return serviceID(e.Service) })
	n.statuses = distinct(n.forms, statusOf)
}

func distinct(entries []*broker.OwnEntry, of func(*broker.OwnEntry) string) (out []string) {
	seen := map[string]bool{"": true}
	for _, e := range entries {
		if v := of(e); !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// place finds an account's place or makes one, and drops those that nobody used for long.
func (j *journals) place(account string) *kept {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.now()
	e, ok := j.by[account]
	if !ok {
		e = j.used.PushFront(&kept{account: account})
		j.by[account] = e
	}
	k := e.Value.(*kept)
	k.used = now
	j.used.MoveToFront(e)
	for old := j.used.Back(); old != e && now.Sub(old.Value.(*kept).used) > journalIdle; old = j.used.Back() {
		j.drop(old)
	}
	return k
}

// resize counts what an account's outline takes, and drops others, the least used first, while it is too much in all.
func (j *journals) resize(k *kept, size int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if k.gone {
		return
	}
	j.size += size - k.size
	k.size = size
	for old := j.used.Back(); j.size > maxKept && old != nil && old.Value.(*kept) != k; old = j.used.Back() {
		j.drop(old)
	}
}

// renew makes an outline anew before it is too old, beside the one that is used meanwhile. If that is brought up to date in the meantime, this one is behind in the same, and is brought up to date when it is used.
func (j *journals) renew(ctx context.Context, k *kept) error {
	endings, err := j.endings(ctx)
	if err != nil {
		return err
	}
	was := k.journal.Load()
	n, err := j.read(ctx, was.subjects, endings, nil)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.journal.Load(); !slices.EqualFunc(now.subjects, n.subjects, proof.Subject.Equal) || now.made.After(n.made) {
		return nil // an identifier was attached or given up, or it has been made anew
	}
	k.journal.Store(n)
	j.resize(k, len(n.entries))
	return nil
}

// sweep drops what nobody used for long, and brings the rest up to date: what was erased isn't kept because no page is asked for. Then what is in use is made anew before it is too old, the oldest first.
func (j *journals) sweep(ctx context.Context) error {
	var all []*kept
	active := map[*kept]bool{} // since its outline was made, or nearly so
	j.mu.Lock()
	now := j.now()
	for e := j.used.Back(); e != nil; {
		old := e
		e = e.Prev()
		if k := old.Value.(*kept); now.Sub(k.used) > journalIdle {
			j.drop(old)
		} else {
			all = append(all, k)
			active[k] = now.Sub(k.used) < journalRenew
		}
	}
	j.mu.Unlock()
	var errs []error
	var aging []*kept
	for _, k := range all {
		was := k.journal.Load()
		if was == nil {
			continue
		}
		if !was.usable(was.subjects, now) {
			j.forget(k.account)
			continue
		}
		if _, err := j.refresh(ctx, k, was.subjects); err != nil {
			j.forget(k.account)
			errs = append(errs, err)
			continue
		}
		if active[k] && now.Sub(k.journal.Load().made) >= journalRenew {
			aging = append(aging, k)
		}
	}
	slices.SortFunc(aging, func(a, b *kept) int { return a.journal.Load().made.Compare(b.journal.Load().made) })
	for _, k := range aging {
		if err := j.renew(ctx, k); err != nil {
			j.forget(k.account)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (j *journals) drop(e *list.Element) {
	k := e.Value.(*kept)
	j.used.Remove(e)
	delete(j.by, k.account)
	j.size -= k.size
	k.size, k.gone = 0, true
}

func (j *journals) forget(account string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e, ok := j.by[account]; ok {
		j.drop(e)
	}
}

// interned keeps each word once, and each list of scopes: ten thousand entries name a few agencies.
type interned struct {
	words  map[string]string
	scopes map[string][]service.Scope
}

func newInterned() interned { return interned{map[string]string{}, map[string][]service.Scope{}} }

func (m interned) intern(e *broker.OwnEntry) {
	for _, s := range []*string{&e.Role, &e.Agency, &e.Provider, &e.Service, &e.Purpose, &e.LegalBasis, &e.Outcome, &e.Reader, &e.ReaderRole, &e.Reason, (*string)(&e.Kind), (*string)(&e.State)} {
		if known, ok := m.words[*s]; ok {
			*s = known
		} else {
			m.words[*s] = *s
		}
	}
	if len(e.Scopes) == 0 {
		return
	}
	key := string(e.Scopes[0])
	for _, s := range e.Scopes[1:] {
		key += "," + string(s)
	}
	if known, ok := m.scopes[key]; ok {
		e.Scopes = known
	} else {
		m.scopes[key] = e.Scopes
	}
}

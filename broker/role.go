package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/trillian"
	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/cluster"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Shared says where several brokers, each with the same configuration, keep together what one alone keeps in its data directory. One of them leads: it orders the entries of all, speaks to Trillian,
// signs and publishes, and does what is done from time to time. When it dies another one leads within seconds.
type Shared struct {
	// Store is the address of the PostgreSQL database, as the role regard_broker; Keeper the same one as regard_keeper, who may do what the end of retention and erasures take.
	Store, Keeper string
	// Signed is the address of the database with the last signed checkpoint and the journal of erasures: another failure domain than Store, and in none of its backups.
	Signed string
	// PublicDir is a directory that all brokers see, where the log is published.
	PublicDir string
	// Trillian opens the tree. It is called by a broker that is about to lead.
	Trillian func(context.Context) (Tree, error)
	// Name of this broker, for people.
	Name string
}

// Tree is Trillian's tree, in this process or in another one that integrates by itself what is added.
type Tree interface {
	Client() trillian.TrillianLogClient
	TreeID() int64
	Close() error
}

// part is this broker's part in the log: it leads, or follows the one that does.
type part struct {
	ledger.Ledger
	leads bool
	tree  Tree // of one that leads
	keys  leaving
	// Of one that leads others:
	term  int64
	over  context.Context // ends with the term
	end   context.CancelFunc
	log   *ledger.Log
	relay *relay
}

// astray is why this broker can't take its part in the log.
type astray struct {
	err  error
	size uint64 // of the log as it was known then
}

// logErr says why nothing can be recorded through this broker's part in the log, nil if it can. A broker that may not lead because the log is halted doesn't take anything either: whoever leads would be
// as halted. If another one does lead, it sees that in the log.
func (b *Broker) logErr() error {
	p := b.part.Load()
	if a := b.astray.Load(); a != nil && (p.leads || p.Checkpoint().Size() <= a.size) {
		return a.err
	}
	return p.Err()
}

// takes says why a request would wait in vain for what is to be recorded of it, nil if it wouldn't.
func (b *Broker) takes() error {
	if err := b.logErr(); err != nil {
		return err
	}
	if b.member != nil {
		if d := b.member.Vacant(); d > 0 {
			return fmt.Errorf("%w: no broker has led it for %v", ledger.ErrUnavailable, d.Round(time.Second))
		}
		if b.part.Load().leads && !b.member.Leads() {
			return fmt.Errorf("%w: this broker doesn't lead any more, and doesn't follow yet", ledger.ErrUnavailable)
		}
	}
	return b.ledger().Busy()
}

// ledger is the log, through this broker's part in it.
func (b *Broker) ledger() ledger.Ledger { return b.part.Load().Ledger }

// leads says whether this broker leads the log, which one that is alone always does.
func (b *Broker) leads() bool {
	p := b.part.Load()
	return p != nil && p.leads && (b.member == nil || b.member.Leads())
}

// Leads says whether this broker leads its log: one that is alone always does.
func (b *Broker) Leads() bool { return b.leads() }

// Cluster says how this broker takes part in a log that several share; false: it is alone.
func (b *Broker) Cluster() (s cluster.Stats, shared bool) {
	if b.member == nil {
		return s, false
	}
	s = b.member.Stats()
	s.Leads = b.leads() // it may have the lease, and not the log yet
	return s, true
}

// asLeader is a context for what only a broker that leads may do: it ends when another one may lead. One that is alone leads until it stops.
func (b *Broker) asLeader(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	p := b.part.Load()
	if b.member == nil {
		return ctx, cancel
	}
	if !b.leads() || !p.leads {
		cancel()
		return ctx, cancel
	}
	stop := context.AfterFunc(p.over, cancel)
	return ctx, func() { stop(); cancel() }
}

// errFollows is what a broker that follows answers to what only the one that leads may do.
func (b *Broker) errFollows(ctx context.Context) error {
	leader := "another broker"
	if members, err := b.member.Members(ctx); err == nil {
		for _, m := range members {
			if m.Leads {
				leader = m.Name
			}
		}
	}
	return conflict("cluster.follows", fmt.Sprintf("This broker follows; %s leads.", leader), "Give the command there.")
}

// roleEvery is how often a broker looks whether it leads.
const roleEvery = 100 * time.Millisecond

// takePart makes this broker lead or follow, as it comes. It tries until ctx ends: the first to lead has to begin the log.
func (b *Broker) takePart(ctx context.Context) error {
	b.member.Campaign()
	for {
		err := b.follow(ctx)
		// One that would lead says at its start why it can't: nobody leads until then.
		for err == nil && !b.member.Leads() && b.member.Stats().Leader == "" && b.member.Vacant() == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(roleEvery):
			}
		}
		leads := b.member.Leads()
		if leads {
			if err = b.lead(ctx); err != nil {
				b.member.Yield() // let another one try: what is wrong may be wrong here alone
			}
		}
		if err == nil || errors.Is(err, ledger.ErrHalted) {
			return err
		}
		if !errors.Is(err, ledger.ErrUnavailable) || leads {
			b.log.Warn("this broker can't take its part in the log yet; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(roleEvery):
		}
	}
}

// hangWait is how much longer than its context an attempt to take part may last before nobody waits for it any more.
const hangWait = time.Second

// attempt makes a part and takes it. A share whose server is gone answers no call, whatever its context: then the attempt is left alone, and what it makes is closed. Until it has ended there is no other one, so at most one hangs.
func (b *Broker) attempt(ctx context.Context, open func() (*part, error)) error {
	hangs := func(what string) error {
		return fmt.Errorf("%w: %s gets no answer: see whether the directory of published files hangs", ledger.ErrUnavailable, what)
	}
	if !b.attempting.CompareAndSwap(false, true) {
		return hangs("an earlier attempt to take part in the log")
	}
	type made struct {
		p   *part
		err error
	}
	done, left := make(chan made), make(chan struct{})
	b.parts.Go(func() {
		p, err := open()
		select {
		case done <- made{p, err}:
			return
		case <-left:
		}
		if err == nil {
			now, cancel := context.WithCancel(context.Background())
			cancel()
			_ = p.close(now) // nobody used it
		}
		b.attempting.Store(false)
	})
	over := ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case m := <-done:
			b.attempting.Store(false)
			if m.err == nil {
				b.take(m.p)
			}
			return m.err
		case <-over:
			over, late = nil, time.After(hangWait)
		case <-late:
			close(left)
			return hangs("taking part in the log")
		}
	}
}

// follow makes this broker follow, once there is a log, unless it may lead.
func (b *Broker) follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, partWait)
	defer cancel()
	go func() {
		t := time.NewTicker(roleEvery)
		defer t.Stop()
		for !b.member.Leads() {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
		cancel()
	}()
	return b.attempt(ctx, func() (*part, error) {
		f, err := ledger.Follow(ctx, b.ledgerConfig(), b.hand, b.member.Told(cluster.Signed))
		if err != nil {
			return nil, err
		}
		return &part{Ledger: f}, nil
	})
}

// leadFor is how long this broker may take to lead: as patient as others are with one that leads and can't work (see watch), for nobody leads meanwhile. Alone, or with a new log, it isn't in a hurry.
func (b *Broker) leadFor() time.Duration {
	if b.part.Load() == nil || b.member.Stats().Members < 2 {
		return maxTrouble
	}
	return min(troubleFor<<min(b.late.Load(), 8), maxTrouble)
}

// lead makes this broker lead, for as long as its term lasts. No term is begun twice: what was ordered in the first attempt may come in during the second. Each time that it fails it is more patient: see leadFor.
func (b *Broker) lead(ctx context.Context) (err error) {
	term, ends, err := b.member.Term()
	if err != nil {
		return err
	}
	if term <= b.led.Load() {
		b.member.End(term)
		return fmt.Errorf("%w in term %d any more", cluster.ErrNotLeading, term)
	}
	b.led.Store(term)
	over, end := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		select {
		case <-ends:
			end()
		case <-over.Done():
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hurry := time.AfterFunc(b.leadFor(), cancel)
	defer hurry.Stop()
	defer context.AfterFunc(over, cancel)()
	defer func() {
		if err == nil {
			b.late.Store(0)
		} else if ctx.Err() != nil && over.Err() == nil {
			b.late.Add(1)
		}
	}()
	// Whose erasure the one before began is shut out before anything is recorded, and until this broker has its part.
	defer b.shuts.hold()()
	return b.attempt(ctx, func() (*part, error) {
		p, err := b.openLeading(ctx, term, func() { hurry.Stop() })
		if err != nil {
			end()
			return nil, err
		}
		p.over, p.end = over, end
		return p, nil
	})
}

// openLeading opens the log as the one that leads in a term. rebuilds is called before Trillian's tree is made again, which may take long.
func (b *Broker) openLeading(ctx context.Context, term int64, rebuilds func()) (*part, error) {
	tree, err := b.cfg.Shared.Trillian(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening Trillian: %w", err)
	}
	cfg := b.ledgerConfig()
	mine := store.Order{Store: b.store, Term: term}
	cfg.Store = order{mine, b}
	cfg.Signed = telling{b.signed, b.member}
	cfg.Leads = func() bool { now, _, err := b.member.Term(); return err == nil && now == term }
	// What the one before has begun to store is stored now or never.
	err = mine.Lead(ctx)
	if err == nil {
		err = b.shutErasures(ctx)
	}
	if err == nil {
		cfg.Known, err = b.atTakeOver(ctx)
	}
	var l *ledger.Log
	if err == nil {
		l, err = b.openTree(ctx, cfg, tree, nil, rebuilds)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("leading the log: %w", err), tree.Close())
	}
	p := &part{Ledger: l, leads: true, tree: tree, term: term, log: l}
	p.relay = newRelay(b, p)
	return p, nil
}

// partWait is how long the end of a part waits for what is under way in it.
const partWait = 15 * time.Second

// take puts a part in the place of the one before, which ends once what is under way in it has.
func (b *Broker) take(p *part) {
	old := b.part.Swap(p)
	if p.relay != nil {
		p.relay.start()
	}
	if old == nil {
		return
	}
	b.parts.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), partWait)
		defer cancel()
		if old.leads {
			cancel() // another broker signs: nothing that waits here can be
		}
		if err := old.close(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("ending the earlier part in the log", "error", err)
		}
	})
}

func (p *part) close(ctx context.Context) error {
	if p.relay != nil {
		p.relay.stop()
		p.end()
	}
	err := p.Ledger.Close(ctx)
	if p.tree != nil {
		err = errors.Join(err, p.tree.Close())
	}
	return err
}

// withdraw leaves the lease to others, unless this broker leads by it until it has finished: one that stops doesn't open the log any more.
func (b *Broker) withdraw() {
	b.member.Withdraw()
	p := b.part.Load()
	if term, _, err := b.member.Term(); err == nil && (p == nil || !p.leads || p.term != term) {
		b.member.End(term)
	}
}

// finishWait is how long the others wait for the signature of what was ordered here.
const finishWait = 5 * time.Second

// finish ends the last part of a broker that stops. If there are others, one of them leads as soon as all that was ordered here is signed: they wait for that, and can publish it as well.
func (b *Broker) finish(ctx context.Context, p *part) error {
	if p.relay != nil && !b.leads() {
		ctx, cancel := context.WithCancel(ctx)
		cancel() // another broker signs: nothing that waits here can be
		if err := p.close(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ledger.ErrHangs) {
			return err
		}
		return nil
	}
	if p.relay == nil || !b.others(ctx) {
		return p.close(ctx)
	}
	p.relay.stop()
	wait, cancel := context.WithTimeout(ctx, finishWait)
	defer cancel()
	if err := p.log.Finish(wait); err != nil {
		b.log.Warn("what is ordered is left to be signed by the broker that leads next", "error", err)
	}
	err := b.member.Resign(ctx)
	cancel()
	if cerr := p.close(wait); !errors.Is(cerr, context.Canceled) {
		err = errors.Join(err, cerr)
	}
	return err
}

// others says whether there is somebody else at this moment: what was seen a moment ago may have been a command, which publishes nothing.
func (b *Broker) others(ctx context.Context) bool {
	members, err := b.member.Members(ctx)
	if err != nil {
		return b.member.Stats().Members > 1
	}
	return len(members) > 1
}

// watch is what play goes on with from one look to the next.
type watch struct {
	failing bool // to take its part
	// patience is how long a leader may be in trouble while there are others; trouble is when it last was.
	patience time.Duration
	trouble  time.Time
}

const (
	// troubleFor is the patience of others with a leader that can't work, which is more than a part of the log needs that goes on with another server. If it is no better elsewhere, it grows with each
	// time, up to maxTrouble; after calmFor without any it is this again.
	troubleFor = 5 * time.Second
	maxTrouble = 2 * time.Minute
	calmFor    = time.Minute
)

// play changes this broker's part whenever the lease does, until the broker stops. It does nothing else: what takes its time would hold that up.
func (b *Broker) play(ctx context.Context) {
	defer b.work.Done()
	ctx, cancel := b.untilStopping(ctx)
	defer cancel()
	t := time.NewTicker(roleEvery)
	defer t.Stop()
	w := &watch{patience: troubleFor}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			b.look(ctx, w)
		}
	}
}

// look changes this broker's part if it has to.
func (b *Broker) look(ctx context.Context, w *watch) {
	p := b.part.Load()
	term, _, none := b.member.Term()
	leads, deposed := none == nil, errors.Is(p.Err(), ledger.ErrDeposed)
	var err error
	switch {
	case leads && (!p.leads || p.term != term):
		if err = b.lead(ctx); err == nil {
			b.log.Info("this broker leads from now on")
			b.work.Go(b.begin)
		} else if ctx.Err() == nil {
			b.member.Yield() // let another one try: what is wrong may be wrong here alone
		}
	case leads && !deposed && p.Err() != nil:
		// Halted. Another one, and later this one, begins anew from what is stored, as after a restart.
		err = p.Err()
		b.member.Yield()
	case leads && !deposed:
		b.endure(p, w)
		return
	case p.leads:
		if !w.failing {
			b.log.Warn("this broker doesn't lead any more; it follows")
		}
		b.member.End(p.term) // a renewal that is answered late mustn't bring it back
		if err = b.follow(ctx); err != nil && b.member.Leads() {
			return // in another term
		}
	default:
		return
	}
	switch {
	case err == nil:
		b.astray.Store(nil)
	case errors.Is(err, ledger.ErrHalted), p.leads && b.astray.Load() == nil: // one that follows can go on, else
		b.astray.Store(&astray{err, p.Checkpoint().Size()})
		b.member.Abandon(err) // nobody takes it soon; nothing was released on it
	}
	if err != nil && !w.failing && ctx.Err() == nil {
		b.log.Error("this broker can't take its part in the log; it is tried again", "error", err)
	}
	w.failing = err != nil
}

// endure lets another broker lead if this one can't work and there is one.
func (b *Broker) endure(p *part, w *watch) {
	d, why := p.log.Trouble()
	if w.tooLong(d, time.Now(), b.member.Stats().Members) {
		b.log.Warn("this broker can't work as the one that leads; another one tries", "for", d.Round(time.Millisecond), "error", why)
		b.member.Yield()
	}
}

// tooLong says whether a leader of so many members has been in trouble for too long.
func (w *watch) tooLong(trouble time.Duration, now time.Time, members int) bool {
	if trouble == 0 {
		if now.Sub(w.trouble) > calmFor {
			w.patience = troubleFor
		}
		return false
	}
	w.trouble = now
	if trouble < w.patience || members < 2 {
		return false
	}
	w.patience = min(2*w.patience, maxTrouble)
	return true
}

// begin does what whoever begins to lead has to do first, for as long as it does. One term's comes after the other's.
func (b *Broker) begin() {
	b.beginning.Lock()
	defer b.beginning.Unlock()
	ctx, cancel := b.untilStopping(context.Background())
	defer cancel()
	ctx, done := b.asLeader(ctx)
	defer done()
	b.try(ctx, "having the log signed by the keys in force", b.leaveRetired)
	b.try(ctx, "logging keys", b.logKeys)
}

const (
	// hearAgain is when what couldn't be taken up is tried again.
	hearAgain = time.Second
	// landEvery is how often it is looked whether what was under way at a barrier has ended.
	landEvery = 100 * time.Millisecond
)

// hear takes up what changes at other brokers, until the broker stops. What is told meanwhile is looked at afterwards.
func (b *Broker) hear(ctx context.Context) {
	defer b.work.Done()
	ctx, cancel := b.untilStopping(ctx)
	defer cancel()
	var again <-chan time.Time
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.member.Told(cluster.Changed):
		case <-again:
		}
		round, cancel := context.WithTimeout(ctx, time.Minute)
		err := b.changed(round)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if again = nil; err != nil {
			again = time.After(hearAgain)
			if !failed {
				b.log.Error("taking up what changed at another broker; it is tried again", "error", err)
			}
		} else if b.known.waits() {
			again = time.After(landEvery)
		}
		failed = err != nil
	}
}

// telling lets the brokers that follow know of each new checkpoint.
type telling struct {
	ledger.SignedStore
	member *cluster.Member
}

// Swap implements ledger.SignedStore.
func (t telling) Swap(ctx context.Context, old, new []byte) error {
	err := t.SignedStore.Swap(ctx, old, new)
	if err == nil {
		t.member.Hint(cluster.Signed)
	}
	return err
}

// hand gives a group to the broker that leads: see ledger.Hand.
func (b *Broker) hand(ctx context.Context, g ledger.Group) ([]ledger.Leaf, error) {
	body, err := store.EncodeGroup(g)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ledger.ErrRefused, err)
	}
	at, err := b.member.Hand(ctx, body)
	var refusal *cluster.Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Why == refusedErasing:
		return nil, errErasing
	case refusal != nil:
		return nil, store.DecodeRefusal(refusal.Why)
	case err != nil:
		return nil, fmt.Errorf("%w: handing entries to the broker that leads: %w", ledger.ErrUnavailable, err)
	case len(at.Indexes) != len(g.Entries):
		return nil, fmt.Errorf("%w: the broker that leads gave %d places for %d entries", ledger.ErrUnavailable, len(at.Indexes), len(g.Entries))
	}
	leaves := make([]ledger.Leaf, len(g.Entries))
	for i, e := range g.Entries {
		e = e.WithEpoch(proof.Epoch(at.Epoch)) // #nosec G115 -- it was written as one
		text, err := proof.EntryText(e)
		if err != nil {
			return nil, fmt.Errorf("%w: writing an entry that was checked before: %w", ledger.ErrUnavailable, err)
		}
		leaves[i] = ledger.Leaf{Index: proof.Index(at.Indexes[i]), Epoch: proof.Epoch(at.Epoch), Kind: e.Kind(), Text: text} // #nosec G115 -- see above
	}
	return leaves, nil
}

// relay puts groups of the brokers that follow into the log.
type relay struct {
	b    *Broker
	part *part
	ctx  context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	bounds bounds
	room   chan struct{} // told when there is some again

	mu    sync.Mutex
	at    map[[16]byte]int // sizes of groups that are on their way
	full  bool             // more may wait, for which there was no room
	alone map[[16]byte]int // how often groups failed while others didn't
}

// bounds of a relay.
type bounds struct {
	every         time.Duration
	atOnce, bytes int
}

const (
	// relayEvery is how often the relay looks without having been told.
	relayEvery = 250 * time.Millisecond
	// relayAtOnce bounds the groups on their way, relayBytes their size: an answer is in its group, and may be large.
	relayAtOnce = 1024
	relayBytes  = 64 << 20
	// relayAlone is how often a group may fail while others are stored: it would be tried for ever, and hold the others up each time.
	relayAlone = 3
)

func newRelay(b *Broker, p *part) *relay {
	r := &relay{b: b, part: p, bounds: bounds{relayEvery, relayAtOnce, relayBytes}, room: make(chan struct{}, 1), at: map[[16]byte]int{}, alone: map[[16]byte]int{}}
	if b.cfg.relay != nil {
		r.bounds = *b.cfg.relay
	}
	r.ctx, r.end = context.WithCancel(context.Background())
	return r
}

func (r *relay) start() {
	r.work.Go(func() {
		t := time.NewTicker(r.bounds.every)
		defer t.Stop()
		for {
			select {
			case <-r.ctx.Done():
				return
			case <-r.b.member.Told(cluster.Handed):
			case <-r.room:
			case <-t.C:
			}
			for more := true; more && r.ctx.Err() == nil; {
				var err error
				if more, err = r.take(); err != nil && r.ctx.Err() == nil {
					r.b.log.Warn("taking what the other brokers hand over; it is tried again", "error", err)
				}
			}
		}
	})
}

// stop takes nothing more. What is on its way stays where it is until the next leader finds it, unless it has its place.
func (r *relay) stop() {
	r.end()
	r.work.Wait()
}

// take puts what waits on its way, and reports whether there may be more.
func (r *relay) take() (more bool, err error) {
	r.mu.Lock()
	at := make([][16]byte, 0, len(r.at))
	bytes := r.bounds.bytes
	for id, size := range r.at {
		at = append(at, id)
		bytes -= size
	}
	room := r.bounds.atOnce - len(at)
	r.full = room <= 0 || bytes <= 0
	full := r.full
	r.mu.Unlock()
	if full {
		return false, nil
	}
	groups, err := r.b.member.Take(r.ctx, at, room, bytes)
	if err != nil {
		return false, err
	}
	for _, g := range groups {
		bytes -= len(g.Body)
		r.mu.Lock()
		r.at[g.ID] = len(g.Body)
		r.mu.Unlock()
		r.work.Go(func() {
			defer func() {
				r.mu.Lock()
				delete(r.at, g.ID)
				waited := r.full
				r.full = false
				r.mu.Unlock()
				if waited {
					select {
					case r.room <- struct{}{}:
					default:
					}
				}
			}()
			r.put(g)
		})
	}
	return len(groups) > 0 && (len(groups) == room || bytes <= 0), nil
}

// put appends one group. Only what is wrong with the group itself refuses it; anything else leaves it for later, or for another leader.
func (r *relay) put(h cluster.Group) {
	g, err := store.DecodeGroup(h.ID, h.Body)
	if err == nil {
		put := func() error {
			_, err := r.part.Append(r.ctx, g)
			return err
		}
		if owners := store.OwnersOf(g); len(owners) > 0 {
			err = r.b.gate.pass(owners, put)
		} else {
			err = put()
		}
	} else {
		err = fmt.Errorf("%w: %w", ledger.ErrRefused, err)
	}
	switch {
	case r.poisons(h.ID, err):
		r.b.log.Error("a group of entries that another broker handed over can't be stored, and others can; it is refused", "group", uuid.UUID(h.ID), "tries", relayAlone, "error", err)
		err = r.b.member.Refuse(r.ctx, h.ID, store.EncodeRefusal(err))
	case errors.Is(err, errErasing):
		err = r.b.member.Refuse(r.ctx, h.ID, refusedErasing)
	case errors.Is(err, ledger.ErrRefused):
		err = r.b.member.Refuse(r.ctx, h.ID, store.EncodeRefusal(err))
	case err != nil:
		select {
		case <-time.After(r.bounds.every):
		case <-r.ctx.Done():
		}
		return
	}
	if err != nil && r.ctx.Err() == nil {
		r.b.log.Warn("refusing what another broker handed over; it is tried again", "error", err)
	}
}

// poisons says whether a group has failed while others were stored as often as it may.
func (r *relay) poisons(id [16]byte, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(err, ledger.ErrAlone) {
		if err == nil {
			delete(r.alone, id)
		}
		return false
	}
	if r.alone[id]++; r.alone[id] < relayAlone {
		return false
	}
	delete(r.alone, id)
	return true
}

// refusedErasing tells the broker that handed a group over to wait, and seal anew.
const refusedErasing = "erasing"

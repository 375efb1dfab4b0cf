package broker

import (
	"context"
	"errors"
	"time"

	"github.com/regard-broker/regard/broker/cluster"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
)

// Campaign and Resign of a broker's membership.
func (b *Broker) Campaign()                        { b.member.Campaign() }
func (b *Broker) Resign(ctx context.Context) error { return b.member.Resign(ctx) }

// SetPatience sets how long mirrors and witnesses are waited for at a change of the leader.
func (c *Config) SetPatience(d time.Duration) { c.patience = d }

// SetRelay bounds the groups, and their bytes, that are taken at once from those that follow, and says how often it is looked for more without a cause.
func (c *Config) SetRelay(atOnce, bytes int, every time.Duration) {
	c.relay = &bounds{every, atOnce, bytes}
}

// HoldClosing makes the end of this broker wait, from when it has begun, until done.
func (b *Broker) HoldClosing() (done func()) {
	held := make(chan struct{})
	b.work.Go(func() { <-held })
	return func() { close(held) }
}

// Stopping is closed when the end of this broker has begun.
func (b *Broker) Stopping() <-chan struct{} { return b.stopping }

// Term in which this broker leads, 0: it doesn't.
func (b *Broker) Term() int64 {
	if p := b.part.Load(); p.leads && b.leads() {
		return p.term
	}
	return 0
}

// Follows says whether this broker's part is that of one that follows.
func (b *Broker) Follows() bool { return !b.part.Load().leads }

// LeadAgain begins to lead in the present term once more.
func (b *Broker) LeadAgain(ctx context.Context) error { return b.lead(ctx) }

// ShutsOut says whether nothing is recorded here about an owner.
func (b *Broker) ShutsOut(owner keys.Owner) bool {
	return errors.Is(b.gate.pass([]keys.Owner{owner}, func() error { return nil }), errErasing)
}

// AsLeader is the context of what only the broker that leads does.
func (b *Broker) AsLeader(ctx context.Context) (context.Context, context.CancelFunc) {
	return b.asLeader(ctx)
}

// HoldTelling makes everything wait that tells keys, until done.
func (b *Broker) HoldTelling() (done func()) {
	b.telling.Lock()
	return b.telling.Unlock
}

// Governing begins a change of the registry.
func (b *Broker) Governing(ctx context.Context) (done func(), err error) { return b.governing(ctx) }

// TellChange tells the other brokers that something changed.
func (b *Broker) TellChange(ctx context.Context) error { return b.member.Tell(ctx, cluster.Changed) }

// IntentVersions counts the versions of the intent key that this broker signs with.
func (b *Broker) IntentVersions() int { return len(*b.intents.Load()) }

// Readings reads files as those of mirrors are, and says how many are under way.
func Readings() (read func(context.Context, string) ([]byte, error), under func() int) {
	r := &readings{}
	return r.file, func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.under)
	}
}

// NotStored says whether an error says for certain that nothing was stored.
func NotStored(err error) bool { return notStored(err) }

// Patience is that of others with a leader in trouble.
func Patience() (tooLong func(trouble time.Duration, now time.Time, members int) bool) {
	return (&watch{patience: troubleFor}).tooLong
}

// leaves is a part that ends when something is to be appended.
type leaves struct {
	ledger.Ledger
	b *Broker
	p *part
}

func (l leaves) Append(context.Context, ledger.Group) (ledger.Appended, error) {
	l.b.part.Store(l.p)
	return ledger.Appended{}, ledger.ErrClosed
}

// LeaveAtAppend makes the part end that the next request finds when it is about to append: this broker has its own again then.
func (b *Broker) LeaveAtAppend() {
	p := b.part.Load()
	b.part.Store(&part{Ledger: leaves{p.Ledger, b, p}, leads: p.leads, tree: p.tree, term: p.term, over: p.over, end: p.end, log: p.log, relay: p.relay})
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// damage is what is to be recorded in the log and can't be read: somebody or something altered it, or its key is gone. An entry commits to the very record, so there is none without it.
// It is kept as evidence, alarmed about, and looked at again in every round: a repaired row or key is taken up by itself. Everything else goes on without it.
type damage struct {
	mu       sync.Mutex
	intents  map[store.Seq]struct{}
	erasures map[keys.Owner]struct{}
	delays   map[proof.Index]struct{}
}

// Damage counts what is in the store and can't be read. Anything but zero needs the operator: see docs/operate.md.
type Damage struct {
	Intents  int // requests without an outcome: a provider may have been asked, and the log can't say so
	Erasures int // erasures that were begun: until they are asked for again, nothing about the person is recorded
	Delays   int // disclosures whose delay is over: nobody can tell whom to tell
}

// Damage of the store, as the last round saw it.
func (b *Broker) Damage() Damage {
	b.damage.mu.Lock()
	defer b.damage.mu.Unlock()
	return Damage{Intents: len(b.damage.intents), Erasures: len(b.damage.erasures), Delays: len(b.damage.delays)}
}

func (d *damage) has(intent store.Seq) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.intents[intent]
	return ok
}

// errDamaged: the bytes themselves can't be read, and trying again won't help. Every other error is of the parts that read them.
var errDamaged = errors.New("the stored record is damaged, or its key is gone")

// unreadable says whether the bytes themselves can't be read: trying again won't help.
func unreadable(err error) bool {
	for _, e := range []error{keys.ErrAltered, keys.ErrNoKey, proof.ErrFormat, proof.ErrUnproven, proof.ErrSubject, store.ErrCorrupt} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// openWhole opens both parts of a record that has no entry yet. An entry can only be made of the whole: without the person part nobody could tell in whose roll it belongs.
func (b *Broker) openWhole(ctx context.Context, row *store.Record) (*proof.Record, error) {
	rec, err := b.openRecord(ctx, row)
	if err == nil && rec.Erased() {
		err = fmt.Errorf("opening the person part: %w", keys.ErrNoKey)
	}
	if unreadable(err) {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return rec, err
}

// damagedIntent alarms about an intent, once in the life of a process.
func (b *Broker) damagedIntent(d *store.OpenIntent, err error) {
	b.damage.mu.Lock()
	defer b.damage.mu.Unlock()
	if _, ok := b.damage.intents[d.Seq]; ok {
		return
	}
	if b.damage.intents == nil {
		b.damage.intents = map[store.Seq]struct{}{}
	}
	b.damage.intents[d.Seq] = struct{}{}
	b.log.Error("DAMAGED RECORD: a request can't be recorded in the log, because what the store holds of it can't be read. A provider may have been asked. The row is kept; see docs/operate.md, Damaged records",
		"disclosure", uuid.UUID(d.ID), "row", int64(d.Seq), "error", err)
}

// damagedErasure alarms about an erasure that was begun and has no entry yet. It doesn't say whose: who asked for it knows that it wasn't confirmed.
func (b *Broker) damagedErasure(o keys.Owner, err error) {
	b.damage.mu.Lock()
	defer b.damage.mu.Unlock()
	if _, ok := b.damage.erasures[o]; ok {
		return
	}
	if b.damage.erasures == nil {
		b.damage.erasures = map[keys.Owner]struct{}{}
	}
	b.damage.erasures[o] = struct{}{}
	b.log.Error("DAMAGED RECORD: an erasure that was begun can't be carried through, because what the store holds of it can't be read. Until it is asked for again nothing about that person is recorded; see docs/operate.md, Damaged records", "error", err)
}

// damagedDeferral alarms about a deferred record that can't be opened, once in the life of a process.
func (b *Broker) damagedDeferral(d *damagedDeferral) {
	b.damage.mu.Lock()
	defer b.damage.mu.Unlock()
	if _, ok := b.damage.delays[d.index]; ok {
		return
	}
	if b.damage.delays == nil {
		b.damage.delays = map[proof.Index]struct{}{}
	}
	b.damage.delays[d.index] = struct{}{}
	b.log.Error("DAMAGED RECORD: a delay is over, and nobody can tell whom it concerns, because what the store holds of it can't be read. Everybody sees in the log that it is overdue; see docs/operate.md, Damaged records", "entry", uint64(d.index), "error", d.err)
}

// mendedDeferrals forgets those that weren't seen in a whole round.
func (d *damage) mendedDeferrals(seen map[proof.Index]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.delays {
		if !seen[i] {
			delete(d.delays, i)
		}
	}
}

// erased forgets a damaged erasure: there is a whole one.
func (d *damage) erased(o keys.Owner) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.erasures, o)
}

// mended forgets damaged intents that are none any more: all but those that were seen in a whole round.
func (d *damage) mended(seen map[store.Seq]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for seq := range d.intents {
		if !seen[seq] {
			delete(d.intents, seq)
		}
	}
}

// damagedProblem is what the agency hears of its request.
func damagedProblem() *Problem {
	return &Problem{Status: 500, Code: "disclosure.damaged", Title: "The broker's own record of this request is damaged.", Detail: "Nothing was released; whether the provider was asked is not known. The operator is alarmed. Make a new request, with a new Idempotency-Key."}
}

package broker

import (
	"context"
	"errors"
	"sync"

	"github.com/regard-broker/regard/keys"
)

// gate keeps requests about a person from being recorded while that person is being erased. It belongs to one process: the only broker of its store.
//
// No lock is held while anything is stored: an erasure waits for what is under way about its own person, and nobody else waits for the erasure.
type gate struct {
	mu     sync.Mutex
	owners map[keys.Owner]*passage // of owners about whom something is under way; no others
}

// passage is what is under way about one owner.
type passage struct {
	phase    phase
	begins   int           // intents that are being stored
	passes   int           // outcomes and accesses that are being recorded
	finished chan struct{} // closed when one of the counts falls to 0; nil if nobody waits
}

// phase of an erasure. None waits for somebody who waits for it: while it is closing, every request that has begun is still recorded.
type phase int

const (
	phaseClosing phase = iota + 1 // nothing about the person begins; the erasure waits for what has begun
	phaseShut                     // nothing about the person is recorded: the erasure is at work
	phaseLeft                     // the same, but it failed: the sweeper carries it through
	phaseStuck                    // the same, but what the store holds of it can't be read: it may be asked for again
)

// errErasing: wait, then seal anew: the person's keys are being destroyed.
var errErasing = errors.New("the person is being erased")

// at returns the owner's passage. The caller holds g.mu, and drops it when it is done with it.
func (g *gate) at(o keys.Owner) *passage {
	p := g.owners[o]
	if p == nil {
		if g.owners == nil {
			g.owners = map[keys.Owner]*passage{}
		}
		p = &passage{}
		g.owners[o] = p
	}
	return p
}

// drop forgets a passage in which nothing is under way. The caller holds g.mu.
func (g *gate) drop(o keys.Owner, p *passage) {
	if *p == (passage{}) {
		delete(g.owners, o)
	}
}

// begin runs f, which stores an intent about the owner, unless its erasure has been asked for.
func (g *gate) begin(o keys.Owner, f func() error) error {
	g.mu.Lock()
	p := g.at(o)
	if p.phase != 0 {
		g.mu.Unlock()
		return errErasing
	}
	p.begins++
	g.mu.Unlock()
	defer g.end(o, p, &p.begins)
	return f()
}

// pass runs f, which records the outcome of a request that has begun, unless one of the owners is being erased. An owner may be named twice.
func (g *gate) pass(owners []keys.Owner, f func() error) error {
	g.mu.Lock()
	for _, o := range owners {
		if p := g.owners[o]; p != nil && p.phase >= phaseShut {
			g.mu.Unlock()
			return errErasing
		}
	}
	for _, o := range owners {
		p := g.at(o)
		p.passes++
		defer g.end(o, p, &p.passes)
	}
	g.mu.Unlock()
	return f()
}

// end counts one less, and tells who waits for the last.
func (g *gate) end(o keys.Owner, p *passage, count *int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if *count--; *count == 0 && p.finished != nil {
		close(p.finished)
		p.finished = nil
	}
	g.drop(o, p)
}

// close lets no intent about the owner begin any more; not ok if somebody else is at it. was is what to set again if nothing comes of it. See settled.
func (g *gate) close(o keys.Owner) (was phase, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.at(o)
	if was = p.phase; was != 0 && was != phaseStuck {
		return was, false
	}
	p.phase = phaseClosing
	return was, true
}

// set changes the phase of an owner whom the caller has closed or taken; 0 opens. See settled.
func (g *gate) set(o keys.Owner, to phase) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.at(o)
	p.phase = to
	g.drop(o, p)
}

// settled waits for what the owner's phase doesn't allow any more but had begun before: for intents if it is closing, for everything if it is shut.
func (g *gate) settled(ctx context.Context, stopping <-chan struct{}, o keys.Owner) error {
	for {
		g.mu.Lock()
		p := g.owners[o]
		if p == nil || p.begins == 0 && (p.passes == 0 || p.phase < phaseShut) {
			g.mu.Unlock()
			return nil
		}
		if p.finished == nil {
			p.finished = make(chan struct{})
		}
		finished := p.finished
		g.mu.Unlock()
		select {
		case <-finished:
		case <-stopping:
			return errStopping()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leave shuts out an owner whose erasure nobody here is at yet.
func (g *gate) leave(o keys.Owner) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.at(o); p.phase == 0 {
		p.phase = phaseLeft
	}
}

// forgetLeft opens for everybody whose erasure nobody here is at: another broker leads, and carries it through.
func (g *gate) forgetLeft() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for o, p := range g.owners {
		if p.phase >= phaseLeft {
			p.phase = 0
			g.drop(o, p)
		}
	}
}

// closing lists whose erasure waits for what is under way.
func (g *gate) closing() []keys.Owner {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []keys.Owner
	for o, p := range g.owners {
		if p.phase == phaseClosing || p.phase == phaseShut {
			out = append(out, o)
		}
	}
	return out
}

// left lists whose erasure nobody is at.
func (g *gate) left() []keys.Owner {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []keys.Owner
	for o, p := range g.owners {
		if p.phase >= phaseLeft {
			out = append(out, o)
		}
	}
	return out
}

// take is for whoever carries through what was left; not ok if it isn't left any more.
func (g *gate) take(o keys.Owner) (was phase, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.owners[o]
	if p == nil || p.phase < phaseLeft {
		return 0, false
	}
	was, p.phase = p.phase, phaseShut
	return was, true
}

package cosign

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Seen is what a witness answered when it was asked where the log stands.
type Seen struct {
	Name string
	// Size that it cosigned, if Err is nil.
	Size uint64
	// Contradicts: it cosigned another tree of the size that it was asked about. Err says so.
	Contradicts bool
	Err         error
}

// Ask asks all witnesses where they saw the log stand, within the timeout for all. cp is the newest checkpoint that the log knows to have signed. The protocol has no call for that: a witness that gets cp as a checkpoint that
// extends itself cosigns it if it stands there, and otherwise says where it stands.
func (c *Collector) Ask(ctx context.Context, cp proof.Checkpoint) []Seen {
	return c.AskUntil(ctx, cp, func([]Seen) bool { return false }, 0)
}

// errNotWaited is of a witness that said nothing until enough others had.
var errNotWaited = errors.New("it said nothing, and isn't waited for: enough others answered")

// AskUntil is Ask that doesn't wait for the slowest: once enough says that the answers so far are, the other witnesses have the rest of the time to say something else. Err says of whom didn't.
func (c *Collector) AskUntil(ctx context.Context, cp proof.Checkpoint, enough func([]Seen) bool, rest time.Duration) []Seen {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	type answer struct {
		i int
		s Seen
	}
	answers := make(chan answer, len(c.members)) // whoever isn't waited for can end
	out := make([]Seen, len(c.members))
	for i, m := range c.members {
		out[i] = Seen{Name: m.w.Name, Err: errNotWaited}
		go func() { answers <- answer{i, m.seen(ctx, cp)} }()
	}
	var over <-chan time.Time
	for range c.members {
		select {
		case a := <-answers:
			out[a.i] = a.s
		case <-over:
			return out
		}
		if over == nil && enough(out) {
			over = time.After(rest)
		}
	}
	return out
}

func (m *member) seen(ctx context.Context, cp proof.Checkpoint) Seen {
	s := Seen{Name: m.w.Name}
	a, err := m.post(ctx, cp.Size(), nil, cp.Note())
	switch {
	case err != nil:
	case a.status == http.StatusOK:
		// Only a cosignature shows that it speaks for the witness.
		if _, _, verr := m.w.Cosignature(cp, a.body); verr != nil {
			err = &failed{kind: Invalid, says: "it answered with something that is no cosignature of its key on this checkpoint: " + verr.Error()}
		}
		s.Size = cp.Size()
	default:
		s.Size, err = a.conflict()
	}
	if f, ok := err.(*failed); ok && f.kind == Conflict { //nolint:errorlint // ours, never wrapped
		s.Contradicts = true
	}
	if s.Err = err; err == nil {
		m.size.Store(min(s.Size, cp.Size()))
	}
	return s
}

package policy

import (
	"context"
	"errors"
	"time"
)

// A Replayer decides recorded inputs again under one recorded bundle. It is safe for concurrent use.
type Replayer struct {
	program *program
}

// replayLimit is generous: an auditor's machine may be slow, and the answer must not depend on it.
const replayLimit = time.Minute

// NewReplayer compiles a recorded bundle from the bytes that its digest is taken of. The caller compares Digest with the one in the
// log. Errors wrap ErrBundle.
func NewReplayer(ctx context.Context, bundle []byte) (*Replayer, error) {
	b, err := ParseBundle(bundle)
	if err != nil {
		return nil, err
	}
	p, err := compile(ctx, b, false)
	if err != nil {
		return nil, err
	}
	return &Replayer{p}, nil
}

// Digest returns the digest of the bundle.
func (r *Replayer) Digest() Digest { return r.program.bundle.digest }

// Replay returns what the bundle says to a recorded canonical input: what [Engine.Decide] said, whatever the time, the host and the
// other decisions. An input on which the bundle fails is refused with code policy.error, as it was then, and that is not an error.
func (r *Replayer) Replay(ctx context.Context, input []byte) (Recorded, error) {
	n, err := parseInput(input)
	if err != nil {
		return Recorded{}, err
	}
	d, err := r.program.decide(ctx, n, replayLimit)
	if err != nil && !errors.Is(err, ErrEvaluation) {
		return Recorded{}, err
	}
	return d.Recorded(), nil
}

// Replay decides one recorded input again; with many, use a [Replayer].
func Replay(ctx context.Context, bundle, input []byte) (Recorded, error) {
	r, err := NewReplayer(ctx, bundle)
	if err != nil {
		return Recorded{}, err
	}
	return r.Replay(ctx, input)
}

package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Activation is a bundle that is about to enter into force.
type Activation struct {
	Digest   Digest
	Revision string // a token
	Bytes    []byte // what the digest is taken of; must not be changed
}

// Config configures an [Engine].
type Config struct {
	// Source of the bundle. Zero: the one that is built in.
	Source Source
	// Activate is called with every bundle before the first decision under it, one call at a time. It stores the bytes and logs
	// `regard/policy@v1`, durably, and returns nil when that is done, or when this bundle is the one in force already. If it
	// returns an error the bundle does not enter into force; it may be called again with the same one. Required.
	Activate func(context.Context, Activation) error
	// Recorded is the bundle that was in force last, as Activate was given it; nil: there was none. If that of Source can't be activated at the start, this one decides, and Retry tries the other one again.
	Recorded []byte
	// Logger for what happens to bundles; never for decisions. Nil: nothing is logged.
	Logger *slog.Logger
	// Limit of the time of one evaluation, which takes microseconds: it stops a bundle that never ends. Zero: five seconds, so that a
	// machine that stalls does not reach it.
	Limit time.Duration
	// Debounce is how long files must have been quiet before Watch reloads them. Zero: 250 ms.
	Debounce time.Duration
	// Retry is how long after a failed activation Retry makes the first attempt. Zero: one second.
	Retry time.Duration
}

// An Engine decides under the bundle in force. It is safe for concurrent use.
type Engine struct {
	config Config
	log    *slog.Logger

	current atomic.Pointer[program]

	mu      sync.Mutex // one reload at a time
	problem atomic.Pointer[error]
	failed  chan struct{} // of capacity 1: an activation has failed, see Retry
	owed    atomic.Bool   // and nothing has come into force since
}

// New loads, checks and activates the bundle of config.Source. If only the activation fails and there is a recorded bundle, that one is in force, and Status tells the problem.
func New(ctx context.Context, config Config) (*Engine, error) {
	if config.Activate == nil {
		return nil, errors.New("policy: Config.Activate is required: a bundle that is not logged can't decide")
	}
	if config.Limit < 0 || config.Debounce < 0 || config.Retry < 0 {
		return nil, errors.New("policy: Config.Limit, Config.Debounce and Config.Retry can't be negative")
	}
	if config.Limit == 0 {
		config.Limit = 5 * time.Second
	}
	if config.Debounce == 0 {
		config.Debounce = 250 * time.Millisecond
	}
	if config.Retry == 0 {
		config.Retry = time.Second
	}
	e := &Engine{config: config, log: config.Logger, failed: make(chan struct{}, 1)}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	err := e.Reload(ctx)
	if errors.Is(err, ErrActivation) && config.Recorded != nil {
		err = e.resume(ctx)
	}
	if err != nil {
		return nil, err
	}
	e.config.Recorded = nil // it has served
	return e, nil
}

// resume puts in force at the start what was in force last.
func (e *Engine) resume(ctx context.Context) error {
	b, p, err := e.prepareRecorded(ctx, e.config.Recorded)
	if err != nil {
		return errors.Join(*e.problem.Load(), err)
	}
	e.current.Store(p)
	e.log.ErrorContext(ctx, "policy can't be recorded; the one that was in force last stays, and the other is tried again", "revision", b.revision, "digest", b.digest.Hex(), "error", *e.problem.Load())
	return nil
}

// Decide evaluates one input under the bundle in force.
//
// A refusal is not an error. On any error, nothing is granted: with ErrEvaluation comes a refusal (code policy.error) that is to be
// recorded like every other; with ErrInput and ErrUnavailable comes the zero Decision, which is none.
func (e *Engine) Decide(ctx context.Context, in Input) (Decision, error) {
	n, err := in.normal()
	if err != nil {
		return Decision{}, err
	}
	return e.current.Load().decide(ctx, n, e.config.Limit)
}

// Reload loads the bundle again and, if it is another one that compiles and passes its tests, activates it. Decisions go on
// meanwhile, under the bundle in force, which stays in force on every error (ErrBundle, ErrActivation). What could not be activated is tried again by Retry.
func (e *Engine) Reload(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.reload(ctx)
	e.problem.Store(&err)
	e.owed.Store(errors.Is(err, ErrActivation))
	if e.owed.Load() {
		select {
		case e.failed <- struct{}{}:
		default:
		}
	}
	return err
}

func (e *Engine) reload(ctx context.Context) error {
	b, err := e.config.Source.Load()
	if err != nil {
		return fmt.Errorf("loading policy from %s: %w", e.config.Source, err)
	}
	old := e.current.Load()
	if old != nil && old.bundle.digest == b.digest {
		return nil
	}
	p, tests, err := prepare(ctx, b, e.config.Limit)
	if err != nil {
		return fmt.Errorf("checking policy from %s: %w", e.config.Source, err)
	}
	if tests == 0 {
		e.log.WarnContext(ctx, "policy bundle has no tests", "source", e.config.Source.String())
	}
	if err := e.config.Activate(ctx, Activation{b.digest, b.revision, b.bytes}); err != nil {
		return fmt.Errorf("%w: revision %s: %w", ErrActivation, b.revision, err)
	}
	e.current.Store(p)
	e.log.InfoContext(ctx, "policy in force", "revision", b.revision, "digest", b.digest.Hex(), "tests", tests)
	return nil
}

// Adopt puts a recorded bundle in force that another engine with the same log has activated. Source stays as it is: the next Reload takes it, and activates it if it is another one. On an error the bundle
// in force stays (ErrBundle).
func (e *Engine) Adopt(ctx context.Context, bundle []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	b, p, err := e.prepareRecorded(ctx, bundle)
	if err != nil || p == nil {
		return err
	}
	if e.owed.Swap(false) { // what failed here is older, and mustn't come after it by itself
		e.problem.Store(new(error))
	}
	e.current.Store(p)
	e.log.InfoContext(ctx, "policy in force, as another broker activated it", "revision", b.revision, "digest", b.digest.Hex())
	return nil
}

// prepare does all that can be done before a bundle is activated.
func prepare(ctx context.Context, b *Bundle, limit time.Duration) (*program, int, error) {
	p, err := compile(ctx, b, true)
	if err != nil {
		return nil, 0, err
	}
	tests, err := b.check(ctx)
	if err != nil {
		return nil, 0, err
	}
	// A bundle that grants something to a stranger without an agreement, or that can't say no, is not worth trying.
	n, err := stranger().normal()
	if err != nil {
		return nil, 0, err
	}
	d, err := p.decide(ctx, n, limit)
	switch {
	case errors.Is(err, ErrUnavailable):
		return nil, 0, err
	case err != nil:
		return nil, 0, bundleError("trying it: %v", err)
	case d.grant.Valid():
		return nil, 0, bundleError("trying it: it grants to an unknown agency that has no agreement")
	}
	return p, tests, nil
}

// prepareRecorded does so for the bytes of a recorded bundle; p is nil if it is in force.
func (e *Engine) prepareRecorded(ctx context.Context, bundle []byte) (b *Bundle, p *program, err error) {
	if b, err = ParseBundle(bundle); err != nil {
		return nil, nil, fmt.Errorf("reading a recorded policy: %w", err)
	}
	if old := e.current.Load(); old != nil && old.bundle.digest == b.digest {
		return b, nil, nil
	}
	if p, _, err = prepare(ctx, b, e.config.Limit); err != nil {
		return nil, nil, fmt.Errorf("checking a recorded policy: %w", err)
	}
	return b, p, nil
}

// stranger is a request that every policy must refuse.
func stranger() Input {
	return Input{
		Agency:  Agency{State: AgencyUnknown},
		Service: Service{ID: "any", Version: 1, Provider: "any", SubjectTypes: []SubjectType{"person"}, Scopes: map[Scope][]Pointer{"any": {"/any"}}},
		Scopes:  []Scope{"any"}, Purpose: "any", LegalBasis: "any", SubjectType: "person", Channel: ChannelAPI, Time: time.UnixMilli(0),
	}
}

// Status says what is in force.
type Status struct {
	Digest   Digest
	Revision string
	// Problem is the error of the last reload, nil if it went well: the source may hold another bundle than the one in force.
	Problem error
}

// Status returns what is in force, for health checks and operators.
func (e *Engine) Status() Status {
	b := e.current.Load().bundle
	return Status{b.digest, b.revision, *e.problem.Load()}
}

// Bundle returns the bundle in force.
func (e *Engine) Bundle() *Bundle { return e.current.Load().bundle }

// Package witness is a server that cosigns checkpoints of transparency logs (c2sp.org/tlog-witness), for a body that doesn't run the log: a quorum of such bodies is what makes a log unable to show two histories.
//
// # What it guarantees
//
// It signs a checkpoint only if a key that it trusts for that log has signed it, and only if it is proven to extend the last checkpoint of that log that it signed. That state is on the disk, synced, before
// an answer leaves: killed at any instant, it never cosigns two roots of one size, or a tree that doesn't extend another one that it cosigned. Two processes can't work on one state. Requests are bounded in size,
// number and time. Statuses are those of the specification, to the letter.
//
// # What it doesn't
//
// The first checkpoint of a log that it hears of is taken as it is. Whoever puts an older copy of the state back makes it forget what it saw since: it belongs into no backup, and if it is lost, the witness begins anew with
// another key. It doesn't look at entries, keeps none, and doesn't say that they are right.
//
// The decisions are those of github.com/transparency-dev/witness, with its SQLite persistence; what is here makes it strict about what it reads, and a service.
package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/witness/persistence/sqlite"
	core "github.com/transparency-dev/witness/witness"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/time/rate"
)

// Errors by what the operator should do.
var (
	// ErrLocked: another process works on this state. Stop it; or give each witness a state, and a key, of its own.
	ErrLocked = errors.New("witness: another process uses this state")
	// ErrNoState: there is none. A witness that lost it must not go on under the same key: it would sign what contradicts what it signed before.
	ErrNoState = errors.New("witness: the state is not there")
	// ErrSharedKey: a log and the witness have the same key, so the witness would be no one else than the log.
	ErrSharedKey = errors.New("witness: a log has the key of this witness")
)

// Config of a witness. Key and State are mandatory.
type Config struct {
	// Key is the signing key as NewKey makes it. Nobody else may have it, and no log.
	Key string
	// State is the path of the database with the last checkpoint of each log; Create makes it.
	State string
	// Logs are cosigned; see ParseLogs.
	Logs []Log
	// ClientRate bounds the requests a second of one address (of one /64 of IPv6 addresses), ClientBurst those at once; 0 means 20 and 60. A witness behind a proxy sees the proxy's address alone.
	ClientRate  float64
	ClientBurst int
	// Logger gets what the operator has to know; nil: nothing.
	Logger *slog.Logger
	// Clock is for the rate limits; nil means time.Now. The times in cosignatures are the machine's.
	Clock func() time.Time

	// at is called when the state is durable and the answer hasn't left. Only tests of this package can set it: to die there.
	at func()
}

// A Log that is cosigned.
type Log struct {
	Origin string
	VKey   string
	// PerDay is how many checkpoints it may have cosigned a day; 0 means 345,600: 4 a second. The newest is signed again once a second at most, and whoever asks more often gets what was signed then.
	PerDay float64
}

const (
	defaultPerDay = 4 * 24 * 60 * 60
	logBurst      = 60
)

// Witness cosigns. It is safe for concurrent use.
type Witness struct {
	cfg     Config
	log     *slog.Logger
	signer  note.Signer
	vkey    string
	state   *state
	core    *core.Witness
	handler *core.HTTPHandler
	logs    atomic.Pointer[map[string]*known]
	clients clients
	metrics *Metrics
}

// known is what a witness knows of a log.
type known struct {
	verifiers []note.Verifier
	limit     *rate.Limiter // of checkpoints that are new
	again     *rate.Limiter // of the newest

	mu   sync.Mutex
	last answered
}

// Open starts a witness on its state. ErrLocked, ErrNoState, ErrSharedKey.
func Open(ctx context.Context, cfg Config) (_ *Witness, err error) {
	if cfg.ClientRate < 0 || cfg.ClientBurst < 0 {
		return nil, errors.New("witness: a limit is negative")
	}
	if cfg.ClientRate == 0 {
		cfg.ClientRate = 20
	}
	if cfg.ClientBurst == 0 {
		cfg.ClientBurst = 60
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	w := &Witness{cfg: cfg, log: cfg.Logger, metrics: newMetrics()}
	w.clients.init(rate.Limit(cfg.ClientRate), cfg.ClientBurst)
	if w.vkey, err = VKey(cfg.Key); err != nil {
		return nil, err
	}
	if w.signer, err = fnote.NewSignerForCosignatureV1(cfg.Key); err != nil {
		return nil, errors.New("witness: the key is not an Ed25519 signing key")
	}
	if err := w.SetLogs(cfg.Logs); err != nil {
		return nil, err
	}
	if w.state, err = openState(ctx, cfg.State); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.state.Close())
		}
	}()
	w.state.at = cfg.at
	w.core, err = core.New(ctx, core.Opts{Persistence: w.state, Signers: []note.Signer{w.signer}, VerifierForLog: verifierOf})
	if err != nil {
		return nil, fmt.Errorf("starting the witness: %w", err)
	}
	w.handler = core.NewHTTPHandler(w.core)
	return w, w.measure(ctx)
}

// measure shows in the metrics what the state holds.
func (w *Witness) measure(ctx context.Context) error {
	seen, err := w.Seen(ctx)
	for _, s := range seen {
		w.metrics.size.WithLabelValues(s.Origin).Set(float64(s.Size))
	}
	return err
}

// SetLogs replaces the logs that are cosigned. What was signed of a log that isn't among them any more is remembered.
func (w *Witness) SetLogs(logs []Log) error {
	byOrigin := map[string]*known{}
	for _, l := range logs {
		v, err := fnote.NewVerifier(l.VKey)
		if err != nil {
			return fmt.Errorf("witness: the key of log %q is not a vkey", l.Origin)
		}
		if !isOrigin(l.Origin) {
			return errors.New("witness: a log has no usable origin")
		}
		if rawKey(l.VKey) == rawKey(w.vkey) {
			return fmt.Errorf("%w (%s): make the witness a key of its own", ErrSharedKey, l.Origin)
		}
		perDay := l.PerDay
		if perDay == 0 {
			perDay = defaultPerDay
		}
		if !(perDay > 0 && perDay <= 1e9) {
			return fmt.Errorf("witness: the number of checkpoints a day of log %q is out of range", l.Origin)
		}
		k := byOrigin[l.Origin]
		if k == nil {
			k = &known{limit: rate.NewLimiter(rate.Limit(perDay/(24*60*60)), logBurst), again: rate.NewLimiter(1, 1)}
			byOrigin[l.Origin] = k
		}
		k.verifiers = append(k.verifiers, v)
	}
	w.logs.Store(&byOrigin)
	for origin := range byOrigin { // an alert on a count that first appears as 1 never sees it grow
		w.metrics.refused.WithLabelValues(origin)
	}
	return nil
}

// VKey is the witness's verification key, which logs and verifiers need.
func (w *Witness) VKey() string { return w.vkey }

// Seen is the last checkpoint of a log that was cosigned.
type Seen struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root,omitempty"` // base64; empty if there is none
	Note   []byte `json:"-"`
}

// Seen lists the logs that are cosigned, by origin, with what was cosigned last.
func (w *Witness) Seen(ctx context.Context) ([]Seen, error) {
	return seenBy(ctx, w.state.inner, *w.logs.Load())
}

func seenBy(ctx context.Context, p *sqlite.Persistence, logs map[string]*known) ([]Seen, error) {
	var out []Seen
	for origin := range logs {
		s := Seen{Origin: origin}
		n, err := p.Latest(ctx, origin)
		if err != nil {
			return nil, fmt.Errorf("reading what was cosigned: %w", err)
		}
		if n != nil {
			head, err := parseHead(n)
			if err != nil {
				return nil, fmt.Errorf("reading what was cosigned of %q: %w", origin, err)
			}
			s.Size, s.Root, s.Note = head.size, head.root, n
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Seen) int { return strings.Compare(a.Origin, b.Origin) })
	return out, nil
}

// ReadSeen lists the same from the files of a witness, whether or not it runs.
func ReadSeen(ctx context.Context, f *File) ([]Seen, error) {
	text, err := readBounded(f.Logs)
	if err != nil {
		return nil, configError("reading the list of logs: %v", err)
	}
	logs, err := ParseLogs(text)
	if err != nil {
		return nil, err
	}
	if err := present(f.State); err != nil {
		return nil, err
	}
	p, done, err := sqlite.New(ctx, sqlite.Opts{Path: f.State, MaxOpenConns: 1})
	if err != nil {
		return nil, fmt.Errorf("opening the witness's state: %w", err)
	}
	byOrigin := map[string]*known{}
	for _, l := range logs {
		byOrigin[l.Origin] = nil
	}
	seen, err := seenBy(ctx, p, byOrigin)
	return seen, errors.Join(err, done())
}

// Healthy says whether the state can be read.
func (w *Witness) Healthy(ctx context.Context) error {
	_, err := w.state.inner.Latest(ctx, "")
	return err
}

// Close closes the state. Requests must have ended.
func (w *Witness) Close() error { return w.state.Close() }

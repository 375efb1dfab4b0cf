package broker

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/cluster"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/embedded"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedfile"
	"github.com/regard-broker/regard/ledger/signedpg"
	"github.com/regard-broker/regard/policy"
)

// Config of a broker. Origin, Custodian, and DataDir or Shared are mandatory.
type Config struct {
	// DataDir holds everything durable: store/, log/ (Trillian's tree), public/ (what is published), and signed/ if SignedDir is empty.
	DataDir string
	// Shared takes the place of DataDir and SignedDir where several brokers share a log; nil: this one is alone.
	Shared *Shared
	// SignedDir holds the last signed checkpoint, and what else must never be put back from an older copy; empty: signed/ in DataDir. On a disk of its own, it shows that DataDir is an older copy.
	SignedDir string
	// Mirrors are copies of the published checkpoint elsewhere: base URLs of the public log, or files. New and Restore ask them where the log stands, and sign nothing that doesn't extend what they have. One must answer.
	Mirrors []string
	// IgnoreMirrors starts although no mirror and no witness answers. What one does say counts in any case.
	IgnoreMirrors bool
	// Witnesses cosign the log's checkpoints; nil: nobody does, and receipts stay provisional. New and Restore ask them, too, where the log stands.
	Witnesses *Witnesses
	// Origin names the log; it can never change.
	Origin string
	// Custodian holds the root keys. The broker closes it.
	Custodian keys.Custodian
	// Policy is where the bundle comes from; the zero Source is the one that is built in.
	Policy policy.Source
	// Epoch is how long an epoch lasts; 0 means a day.
	Epoch time.Duration
	// Retention is how long records are kept after their month; 0 means 3 years. The log promises it with each month's keys: a longer one is in force for all months at once, a shorter one
	// for those whose keys are yet to come.
	Retention time.Duration
	// Providers says how providers are called.
	Providers provider.Config
	// Development allows providers over plain http on this machine.
	Development bool
	// MaxInFlight bounds the requests that are being carried out; beyond it they get 503. 0 means 1024.
	MaxInFlight int
	// SweepEvery is the pause between rounds of cleaning up; 0 means 5 seconds.
	SweepEvery time.Duration
	// CoolOff is for how long a person can undo their request for erasure; 0 means 30 days.
	CoolOff time.Duration
	// Mail sends mails to people who confirmed an address, and to agencies; nil: nobody gets any.
	Mail Mailer
	// Portal is the base URL of the pages to which mails lead; needed with Mail.
	Portal string
	// ConfirmClock accepts a clock that is more than 31 days ahead of what the log saw last: of a start after a really long stop.
	ConfirmClock bool
	// CacheKeys bounds the unwrapped subject keys in memory; 0 means 131,072.
	CacheKeys int
	// Clock, nil: time.Now.
	Clock  func() time.Time
	Logger *slog.Logger

	// at is called when a stage of the pipeline has just ended. Only tests of this package can set it: to die there.
	at func(stage)
	// patience takes the place of how long mirrors and witnesses are waited for at a change of the leader, for tests of this package; 0: it doesn't.
	patience time.Duration
	// relay, likewise, bounds what is taken from those that follow; nil: as it should be.
	relay *bounds
}

// stage is an instant at which a crash must lose nothing.
type stage string

const (
	stageIntent    stage = "intent"    // the intent is durable, the provider was not asked
	stageProvider  stage = "provider"  // the provider answered, nothing is recorded
	stageOutcome   stage = "outcome"   // outcome and order are durable, Trillian knows nothing
	stageAdd       stage = "add"       // Trillian has the leaves
	stageIntegrate stage = "integrate" // and its root
	stageSign      stage = "sign"      // the checkpoint is signed, and not durable
	stageRelease   stage = "release"   // it is durable, nobody has an answer
)

func (b *Broker) at(s stage) {
	if b.cfg.at != nil {
		b.cfg.at(s)
	}
}

// Broker is a running broker. It is safe for concurrent use.
type Broker struct {
	cfg     Config
	now     func() time.Time
	log     *slog.Logger
	store   *store.Store
	ring    *keys.Ring
	signed  signedStore
	part    atomic.Pointer[part]
	astray  atomic.Pointer[astray] // nil: it has its part
	shuts   shuts                  // who is shut out by a broker that is about to lead
	late    atomic.Int32           // how often this broker couldn't lead in time
	hurried atomic.Int32           // how often a takeover failed because nobody said in time where the log stands
	parts   sync.WaitGroup         // that are being made, or are ending
	// attempting: a part is being made.
	attempting atomic.Bool
	readings   readings        // of mirrors
	led        atomic.Int64    // the last term that this broker began to lead in
	beginning  sync.Mutex      // of a term: one at a time
	member     *cluster.Member // nil: this broker is alone
	witnesses  *witnesses      // nil: none
	engine     *policy.Engine
	providers  *provider.Client

	own      ownPolicy
	registry atomic.Pointer[registry]
	reading  sync.Mutex // of the registry: what was read last is in force
	intents  atomic.Pointer[intentSigners]
	places   chan struct{} // one for each request that is being carried out
	known    known
	details  details
	begun    sync.Map // ids of disclosures that a request of this process is working on
	admin    turns    // one change at a time
	// statements of auditors are published one at a time
	statements turns
	opening    sync.Mutex // of what was deferred: one disclosure at a time
	gate       gate
	damage     damage
	replayers  sync.Map   // *policy.Replayer by digest of the bundle
	telling    sync.Mutex // of keys, in the log
	logged     map[string]struct{}
	dropping   struct { // the end of retention that the sweeper is at
		under map[keys.KeyID]bool
		next  proof.Index
	}
	mails    mailStats
	draining atomic.Bool // no request is taken any more
	stopping chan struct{}
	stop     sync.Once
	work     sync.WaitGroup // what runs beside the requests
}

// New opens a broker's stores, recovers what an earlier process left, and starts it.
func New(ctx context.Context, cfg Config) (b *Broker, err error) {
	if cfg.DataDir == "" && cfg.Shared == nil || cfg.Origin == "" || cfg.Custodian == nil {
		return nil, errors.New("broker: a data directory or shared stores, an origin and a custodian of keys must be given")
	}
	b = &Broker{cfg: cfg, now: cfg.Clock, log: cfg.Logger, stopping: make(chan struct{}), admin: make(turns, 1), statements: make(turns, 1), logged: map[string]struct{}{}}
	if b.now == nil {
		b.now = time.Now
	}
	clock := b.now
	b.now = func() time.Time { return clock().UTC().Truncate(time.Millisecond) }
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.cfg.Retention == 0 {
		b.cfg.Retention = 3 * 365 * 24 * time.Hour
	}
	if b.cfg.MaxInFlight == 0 {
		b.cfg.MaxInFlight = 1024
	}
	if b.cfg.SweepEvery == 0 {
		b.cfg.SweepEvery = 5 * time.Second
	}
	if b.cfg.CoolOff == 0 {
		b.cfg.CoolOff = defaultCoolOff
	}
	if b.cfg.CoolOff < 0 || b.cfg.Mail != nil && b.cfg.Portal == "" {
		return nil, errors.New("broker: the time to think an erasure over is negative, or mails have no portal to lead to")
	}
	b.places = make(chan struct{}, b.cfg.MaxInFlight)
	opened := b // what is returned with an error is nil
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	if err := b.openStores(ctx); err != nil {
		return nil, err
	}
	if err := b.openLog(ctx); err != nil {
		return nil, err
	}
	leads := b.leads() // if not, the one that does sees to what was left
	if leads {
		if err := b.leaveRetired(ctx); err != nil && !b.later(err) {
			return nil, fmt.Errorf("having the log signed by the keys in force: %w", err)
		}
	}
	if err := b.refresh(ctx); err != nil {
		return nil, err
	}
	last, err := b.store.LastBundle(ctx)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("reading the policy in force: %w", err)
	}
	b.engine, err = policy.New(ctx, policy.Config{Source: cfg.Policy, Activate: b.activate, Recorded: last.Bytes, Logger: b.log, Limit: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("starting the policy engine: %w", err)
	}
	if err := b.engine.Status().Problem; err != nil && !b.later(err) {
		return nil, fmt.Errorf("activating the policy: %w", err)
	}
	tell := b.logKeys
	if !leads {
		tell = b.knowIntentKeys
	}
	if err := tell(ctx); err != nil && !b.later(err) {
		return nil, fmt.Errorf("logging the keys in force: %w", err)
	}
	if b.providers, err = provider.New(cfg.Providers); err != nil {
		return nil, fmt.Errorf("preparing the calls to providers: %w", err)
	}
	if leads {
		if err := b.shutErasures(ctx); err != nil {
			return nil, fmt.Errorf("reading which erasures were begun: %w", err)
		}
		ctx, done := b.asLeader(ctx)
		defer done()
		if n, err := b.interrupted(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errErasing) && !b.later(err) {
			return nil, fmt.Errorf("recording what the last process left unfinished: %w", err)
		} else if n > 0 {
			b.log.Warn("requests of the last process were interrupted and are recorded as such", "count", n)
		}
		b.resumeErasures(ctx)
	}
	if b.member != nil {
		b.known.registry.Store(nothingKnown)
		if err := b.changed(ctx); err != nil {
			b.log.Error("taking up what changed at other brokers; it is tried again", "error", err)
		}
		b.work.Add(2)
		go b.play(context.WithoutCancel(ctx))
		go b.hear(context.WithoutCancel(ctx))
	}
	b.work.Add(4)
	go b.sendMails(context.WithoutCancel(ctx))
	go b.sweep(context.WithoutCancel(ctx))
	go b.watchPolicy(context.WithoutCancel(ctx))
	go b.retryPolicy(context.WithoutCancel(ctx))
	return b, nil
}

// later says whether a start may go on without something that couldn't be recorded, because the log takes nothing at the moment: no request is carried out then either, the sweeper tries
// again, and the operator's commands are there to help.
func (b *Broker) later(err error) bool {
	if AsProblem(err).Code != "log.unavailable" {
		return false
	}
	b.log.Error("the log can't record anything; the broker starts all the same, and carries out no request until it can", "error", err)
	return true
}

// watchPolicy has the policy engine take up changed files until the broker stops.
func (b *Broker) watchPolicy(ctx context.Context) {
	defer b.work.Done()
	ctx, cancel := b.untilStopping(ctx)
	defer cancel()
	if err := b.engine.Watch(ctx); err != nil {
		b.log.Error("changes of the policy's files are not taken up by themselves; reload it (SIGHUP or regard policy reload)", "error", err)
	}
}

// retryPolicy has it try again what couldn't be recorded, whether or not files are watched.
func (b *Broker) retryPolicy(ctx context.Context) {
	defer b.work.Done()
	ctx, cancel := b.untilStopping(ctx)
	defer cancel()
	b.engine.Retry(ctx)
}

func (b *Broker) openStores(ctx context.Context) (err error) {
	cfg := store.Config{Dir: filepath.Join(b.cfg.DataDir, "store"), Mailing: b.cfg.Mail != nil, Logger: b.log}
	if s := b.cfg.Shared; s != nil {
		if b.member, err = cluster.Join(ctx, cluster.Config{URL: s.Store, Name: s.Name, Logger: b.log}); err != nil {
			return err
		}
		cfg.Dir, cfg.Postgres, cfg.Keeper, cfg.Member = "", s.Store, s.Keeper, b.member.ID()
	}
	if b.store, err = store.Open(ctx, cfg); err != nil {
		return err
	}
	b.ring, err = keys.New(ctx, keys.Config{Custodian: b.cfg.Custodian, Store: b.store, CacheKeys: b.cfg.CacheKeys, Now: b.now, Logger: b.log})
	if err != nil {
		return fmt.Errorf("opening the keys: %w", err)
	}
	return nil
}

// signedStore is a ledger.SignedStore that can be closed.
type signedStore interface {
	ledger.SignedStore
	Close() error
}

func (b *Broker) openLog(ctx context.Context) (err error) {
	if s := b.cfg.Shared; s != nil {
		signed, err := signedpg.Open(ctx, s.Signed, b.cfg.Origin)
		if err != nil {
			return fmt.Errorf("opening the store of the signed checkpoint: %w", err)
		}
		b.signed = signed
	} else {
		signed, err := signedfile.Open(ctx, filepath.Join(b.cfg.signedDir(), "signed.db"))
		if err != nil {
			return fmt.Errorf("opening the store of the signed checkpoint: %w", err)
		}
		b.signed = signed
	}
	if err := b.openWitnesses(ctx); err != nil {
		return err
	}
	if b.member != nil {
		return b.takePart(ctx)
	}
	return b.openAlone(ctx)
}

// openAlone opens the log of a broker that shares it with nobody.
func (b *Broker) openAlone(ctx context.Context) (err error) {
	tree, err := embedded.Open(ctx, embedded.Config{Path: filepath.Join(b.cfg.DataDir, "log", "trillian.db"), Logger: b.log})
	if err != nil {
		return fmt.Errorf("opening Trillian (if its database is damaged, move log/ in the data directory away: it is rebuilt from the store): %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tree.Close())
		}
	}()
	cfg := b.ledgerConfig()
	cfg.Store = order{store.Order{Store: b.store}, b}
	if cfg.Known, err = b.elsewhere(ctx, elsewhereWait, elsewhereWait); err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	l, err := b.openTree(ctx, cfg, tree, tree.Integrate, func() {})
	if err != nil {
		return err
	}
	b.part.Store(&part{Ledger: l, leads: true, tree: tree})
	return nil
}

// ledgerConfig is what all parts in the log have in common.
func (b *Broker) ledgerConfig() ledger.Config {
	cfg := ledger.Config{
		Origin: b.cfg.Origin, Store: order{store.Order{Store: b.store}, b}, Signed: b.signed,
		Signers: func(ctx context.Context) ([]note.Signer, error) { return b.ring.CheckpointSigners(ctx, b.cfg.Origin) },
		Policy:  b.logPolicy, Labeler: labeler{b.ring.Labels()},
		Epoch: b.cfg.Epoch, Dir: b.PublicDir(), Clock: b.now, ConfirmClock: b.cfg.ConfirmClock, Logger: b.log,
	}
	if b.witnesses != nil {
		cfg.Cosign = b.witnesses.Cosign
	}
	return cfg
}

// openTree opens the log over a tree of Trillian. integrate is nil if it does that by itself. rebuilds is called before the tree is made again, which may take long.
func (b *Broker) openTree(ctx context.Context, cfg ledger.Config, tree Tree, integrate func(context.Context) error, rebuilds func()) (*ledger.Log, error) {
	cfg.Trillian, cfg.TreeID, cfg.Integrate = tree.Client(), tree.TreeID(), integrate
	if b.cfg.at != nil {
		cfg.Signed = stagedSigned{cfg.Signed, b}
		cfg.Trillian, cfg.Integrate = stagedTrillian{cfg.Trillian, b}, func(ctx context.Context) error {
			defer b.at(stageIntegrate)
			return integrate(ctx)
		}
	}
	l, err := ledger.Open(ctx, cfg)
	if errors.Is(err, ledger.ErrTreeBehind) {
		// Trillian is trusted with nothing and can be made again: what comes out must have the signed root.
		b.log.Warn("Trillian's tree is missing entries that were signed; it is rebuilt from the store", "error", err)
		rebuilds()
		var size uint64
		if size, err = ledger.Rebuild(ctx, cfg); err == nil {
			b.log.Warn("Trillian's tree is rebuilt", "entries", size)
			l, err = ledger.Open(ctx, cfg)
		}
	}
	return l, err
}

// PublicDir is where everything is that may be served to anybody.
func (b *Broker) PublicDir() string {
	if b.cfg.Shared != nil {
		return b.cfg.Shared.PublicDir
	}
	return filepath.Join(b.cfg.DataDir, "public")
}

// LogKeys returns the verification keys of the log, newest first, in the form of signed notes.
func (b *Broker) LogKeys(ctx context.Context) ([]string, error) {
	return b.ring.CheckpointVerifiers(ctx, b.cfg.Origin)
}

// Log is the transparency log; its Handler serves what is published.
func (b *Broker) Log() ledger.Ledger { return b.ledger() }

// TrustProviders sets whose signatures on providers' certificates count from now on; nil: those of the system.
func (b *Broker) TrustProviders(roots *x509.CertPool) { b.providers.Trust(roots) }

// Store is for metrics.
func (b *Broker) Store() *store.Store { return b.store }

// Ring is for metrics and key administration.
func (b *Broker) Ring() *keys.Ring { return b.ring }

// InFlight is the number of requests that are being carried out.
func (b *Broker) InFlight() int { return len(b.places) }

// errDraining is of a broker that is about to stop.
var errDraining = errors.New("the broker stops, and takes no more requests")

// Ready says whether a request would be carried out now.
func (b *Broker) Ready(ctx context.Context) error {
	if b.draining.Load() {
		return errDraining
	}
	if err := b.takes(); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if err := b.store.Check(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := b.known.behind.Load(); err != nil {
		return fmt.Errorf("changes of another broker: %w", *err)
	}
	if err := b.ring.Check(ctx); err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	return nil
}

// CodeStopping is the code of a broker that is about to stop: another one, or this one in a moment, takes the request.
const CodeStopping = "broker.stopping"

// enter takes one of the places for requests, or tells the caller to come back.
func (b *Broker) enter(context.Context) (leave func(), err error) {
	if b.draining.Load() {
		return nil, &Problem{Status: 503, Code: CodeStopping, Title: "The broker is being restarted.", Detail: "Repeat the request.", RetryAfter: time.Second}
	}
	if err := b.takes(); err != nil {
		return nil, unavailable("log.unavailable", "The log can't record requests now.", err)
	}
	select {
	case b.places <- struct{}{}:
		return func() { <-b.places }, nil
	default:
		return nil, &Problem{Status: 503, Code: "broker.busy", Title: "Too many requests are being carried out.", Detail: "Repeat the request shortly.", RetryAfter: time.Second}
	}
}

// Drain takes no more requests: whoever comes is told to come again, and Ready that there is somebody better to come to. Those in hand go on. Close follows.
func (b *Broker) Drain() { b.draining.Store(true) }

// Close lets the requests in hand finish, as long as ctx allows, and closes everything.
func (b *Broker) Close(ctx context.Context) error {
	b.Drain()
	b.stop.Do(func() { close(b.stopping) })
	if b.member != nil {
		b.withdraw()
	}
	late := ended(ctx, &b.work)
	for range cap(b.places) { // whoever has all places is alone
		select {
		case b.places <- struct{}{}:
			continue
		default: // a free place is taken whether or not there is time to wait for others
		}
		select {
		case b.places <- struct{}{}:
			continue
		case <-ctx.Done():
			late = errors.Join(late, errors.New("broker: some requests were cut off; they are recorded as interrupted at the next start"))
		}
		break
	}
	return errors.Join(late, b.close())
}

// behindWait is how long what should have ended is waited for still.
const behindWait = 5 * time.Second

// ended waits for work that has been told to end. A share whose server is gone lets nobody go.
func ended(ctx context.Context, work *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-done:
		return nil
	case <-time.After(behindWait):
		return errors.New("broker: something gets no answer and is left behind: see whether the directory of published files hangs")
	}
}

func (b *Broker) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	if b.providers != nil {
		b.providers.Close()
	}
	if p := b.part.Load(); p != nil {
		errs = append(errs, b.finish(ctx, p))
	}
	errs = append(errs, ended(ctx, &b.parts))
	if b.member != nil { // after the log, which it leads until then
		errs = append(errs, b.member.Close(ctx))
	}
	if b.witnesses != nil {
		b.witnesses.Close()
	}
	if b.signed != nil {
		errs = append(errs, b.signed.Close())
	}
	if b.ring != nil {
		errs = append(errs, b.ring.Close())
	}
	if b.store != nil {
		errs = append(errs, b.store.Close())
	}
	return errors.Join(append(errs, b.cfg.Custodian.Close())...)
}

// digest is a keyed digest of a request: what must be the same for an Idempotency-Key to be honoured. The trace isn't part of it.
func (b *Broker) digest(req *Request) ([]byte, error) {
	plain := struct {
		Service, Agreement, Purpose, LegalBasis, Recipient, Context, Object, Official string
		Scopes                                                                        []string
		Type, Value                                                                   string
		Pivot                                                                         [6]string
		Parameters                                                                    map[string]string
	}{
		req.Service, req.Agreement, req.Purpose, req.LegalBasis, req.Recipient, req.Context, req.Object, req.Official,
		req.Scopes, req.Subject.Type, req.Subject.Value,
		[6]string{req.Subject.Pivot.BirthName, req.Subject.Pivot.GivenNames, req.Subject.Pivot.BirthDate, req.Subject.Pivot.Sex, req.Subject.Pivot.BirthPlace, req.Subject.Pivot.BirthCountry},
		req.Parameters,
	}
	text, err := json.Marshal(plain) // maps are sorted
	if err != nil {
		return nil, err
	}
	defer clear(text)
	sum, err := b.ring.Digest("request", text)
	if err != nil {
		return nil, keysProblem(err)
	}
	return sum[:], nil
}

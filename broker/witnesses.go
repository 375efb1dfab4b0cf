package broker

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/cosign"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
	"github.com/regard-broker/regard/policy"
)

// Witnesses says who cosigns the log's checkpoints.
type Witnesses struct {
	// Policy is the text that names them, with their URLs, and the quorum (c2sp.org/tlog-policy). Log lines in it have to name this log.
	Policy []byte
	// Faulty is how many of them may be dishonest.
	Faulty int
	// Deadline, Timeout: see cosign.Config.
	Deadline, Timeout time.Duration
	// Wait is how long a request of a service that waits for the quorum does; 0 means 10 seconds. Longer than 12 seconds, which is the most that the configuration takes, its caller may be cut off before.
	Wait time.Duration
	// Roots: see cosign.Config.
	Roots *x509.CertPool
	// Distrust names witnesses whose word doesn't stop a start, though they say that they saw more: once, by an operator who knows that they are wrong.
	Distrust []string
}

const longestWitnessWait = 12 * time.Second // see Witnesses.Wait

// witnesses is the broker's part of that.
type witnesses struct {
	*cosign.Collector
	policy *proof.Policy // who they are and what their quorum is; not the keys of the log as they are now
	names  []string
	wait   time.Duration
	// places are for the requests that wait: they may not take all places from those that don't.
	places chan struct{}
}

func (b *Broker) openWitnesses(ctx context.Context) error {
	cfg := b.cfg.Witnesses
	if cfg == nil {
		return nil
	}
	p, err := b.logPolicy(ctx)
	if err != nil {
		return fmt.Errorf("reading the policy of the witnesses: %w", err)
	}
	w := &witnesses{policy: p, wait: cfg.Wait, places: make(chan struct{}, max(1, b.cfg.MaxInFlight/2))}
	if w.wait == 0 {
		w.wait = 10 * time.Second
	}
	for _, x := range p.Witnesses() {
		w.names = append(w.names, x.Name)
	}
	for _, name := range cfg.Distrust {
		if !slices.Contains(w.names, name) {
			return fmt.Errorf("the policy has no witness %q to distrust", name)
		}
	}
	w.Collector, err = cosign.New(cosign.Config{
		Witnesses: p, Policy: b.logPolicy, Faulty: cfg.Faulty, Deadline: cfg.Deadline, Timeout: cfg.Timeout, Roots: cfg.Roots, Logger: b.log,
		Leads: func() bool { return b.member == nil || b.member.Leads() },
		Prove: func(cp proof.Checkpoint, size uint64) ([]proof.Hash, error) {
			return tiles.Tree{Dir: b.PublicDir(), Size: cp.Size(), Root: cp.Root()}.Consistency(size)
		},
	})
	if err != nil {
		return err
	}
	b.witnesses = w
	return nil
}

// WitnessStats says what became of each witness; nil if there are none.
func (b *Broker) WitnessStats() []cosign.Stats {
	if b.witnesses == nil {
		return nil
	}
	return b.witnesses.Stats()
}

// askWitnesses asks the witnesses where they saw the log stand, and refuses to go on below that. notes are checkpoints that were found elsewhere. answered says that they are enough: those who are silent, with as many liars as there
// may be, are no quorum, so no checkpoint that had one can be larger than what is known. Under a quorum that is too weak to allow for liars, it allows for none.
func (b *Broker) askWitnesses(ctx context.Context, notes [][]byte, rest time.Duration) (answered bool, failed []error, err error) {
	if b.witnesses == nil {
		return false, nil, nil
	}
	last, err := b.newest(ctx, notes)
	if err != nil {
		return false, nil, err
	}
	var ahead []string
	p, liars := b.witnesses.policy, b.cfg.Witnesses.Faulty
	if p.Overlap() <= liars {
		liars = 0
	}
	vouch := func(s *cosign.Seen) bool { return s.Err == nil && s.Size <= last.Size() }
	enough := func(seen []cosign.Seen) bool { return p.Lacks(func(i int) bool { return !vouch(&seen[i]) }) > liars }
	seen := b.witnesses.AskUntil(ctx, last, enough, rest)
	for _, s := range seen {
		switch {
		case s.Contradicts:
			ahead = append(ahead, fmt.Sprintf("%s cosigned another tree of %d entries", s.Name, last.Size()))
		case s.Err != nil:
			failed = append(failed, fmt.Errorf("witness %s: %w", s.Name, s.Err))
			b.log.Warn("a witness doesn't say where the log stands", "witness", s.Name, "reason", s.Err)
			continue
		case s.Size > last.Size():
			ahead = append(ahead, fmt.Sprintf("%s cosigned %d entries", s.Name, s.Size))
		default:
			continue
		}
		if slices.Contains(b.cfg.Witnesses.Distrust, s.Name) {
			b.log.Warn("a witness says that it saw more than this broker signed, and is distrusted by the operator", "witness", s.Name, "size", last.Size())
			ahead = ahead[:len(ahead)-1]
		}
	}
	if len(ahead) > 0 {
		return false, failed, fmt.Errorf("%w: witnesses saw another history of this log than this broker has, whose last signed checkpoint has %d entries: %s. The data directory is an older copy, or another broker signs for this log, or the witness is wrong. "+
			"Nothing is signed. Put the newest directory back, or restore a backup on top of the newest published files (regard restore); docs/operate.md, \"When witnesses saw more\"", ledger.ErrHalted, last.Size(), strings.Join(ahead, "; "))
	}
	return enough(seen), failed, nil
}

// newest is the largest checkpoint that this log is known to have signed. If none is known it is that of the empty tree: it contradicts nothing, and whoever saw more says so.
func (b *Broker) newest(ctx context.Context, notes [][]byte) (best proof.Checkpoint, err error) {
	p, err := b.logPolicy(ctx)
	if err != nil {
		return best, fmt.Errorf("asking for the log's keys: %w", err)
	}
	last, err := b.signed.Last(ctx)
	if err != nil {
		return best, err
	}
	published, err := os.ReadFile(filepath.Join(b.PublicDir(), "checkpoint"))
	if err != nil && !os.IsNotExist(err) {
		return best, err
	}
	for _, n := range append([][]byte{last, published}, notes...) {
		// One that isn't this log's stops the start elsewhere.
		if cp, err := proof.VerifyCheckpoint(n, p); err == nil && cp.Origin() == b.cfg.Origin && (best.IsZero() || cp.Size() > best.Size()) {
			best = cp
		}
	}
	if !best.IsZero() {
		return best, nil
	}
	signers, err := b.ring.CheckpointSigners(ctx, b.cfg.Origin)
	if err != nil {
		return best, fmt.Errorf("asking for the signers: %w", err)
	}
	n, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n0\n%s\n", b.cfg.Origin, proof.Hash(rfc6962.DefaultHasher.EmptyRoot()))}, signers...)
	if err != nil {
		return best, fmt.Errorf("signing the empty tree: %w", err)
	}
	return proof.VerifyCheckpoint(n, p)
}

// mustWait says whether an answer under the grant is released on a witnessed receipt only: by the service's definition or by the agreement, whichever is stricter.
func mustWait(grant policy.Grant, def *service.Definition) bool {
	return def.Release == service.ReleaseWitnessed || grant.Obliges(policy.ObligationWaitForWitnesses)
}

// mustHaveWaited says it of a recorded disclosure, by what is in force now or was last.
func (b *Broker) mustHaveWaited(o proof.Opening) bool {
	if b.witnesses == nil {
		return false
	}
	reg := b.registry.Load()
	id, _, _ := strings.Cut(o.Text(proof.DisclosureService), "@")
	if reg.witnessed[id] {
		return true
	}
	id, _, _ = strings.Cut(o.Text(proof.DisclosureAgreement), "@")
	a := reg.byID[policy.AgreementID(id)]
	return a != nil && slices.Contains(a.agreement.Obligations, policy.ObligationWaitForWitnesses)
}

// enterWaiting takes a place for a request that will wait for witnesses. While they are known not to answer it refuses at once, before anything is asked or recorded.
func (b *Broker) enterWaiting() (leave func(), err error) {
	if b.ledger().QuorumMissing() > 0 {
		return nil, &Problem{Status: 503, Code: "witnesses.unavailable", Title: "Too few of the witnesses that this service waits for answer at the moment.",
			Detail: "Nothing is asked, recorded or released meanwhile. Repeat the request later, with the same Idempotency-Key if it had one.", RetryAfter: 5 * time.Second}
	}
	select {
	case b.witnesses.places <- struct{}{}:
		return func() { <-b.witnesses.places }, nil
	default:
		return nil, &Problem{Status: 503, Code: "broker.busy", Title: "Too many requests are waiting for witnesses.", Detail: "Repeat the request shortly.", RetryAfter: time.Second}
	}
}

// awaitWitnesses proves entries under a checkpoint that has the quorum.
func (b *Broker) awaitWitnesses(ctx context.Context, indexes []proof.Index) (ledger.Appended, error) {
	ctx, cancel := context.WithTimeout(ctx, b.witnesses.wait)
	defer cancel()
	a, err := b.ledger().ProveWitnessed(ctx, indexes)
	if errors.Is(err, ledger.ErrUnavailable) {
		return a, &Problem{Status: 503, Code: "witnesses.late", Title: "The request is recorded, and too few witnesses have answered in time for its answer to be released.",
			Detail: "Nothing was released. Repeat the request with the same Idempotency-Key, within 15 minutes: it gets its answer as soon as the witnesses have cosigned.", RetryAfter: 5 * time.Second, err: err}
	}
	if err != nil {
		return a, unavailable("log.unavailable", "The log can't prove the entries now.", err)
	}
	return a, nil
}

// Package cosign has the witnesses of a log cosign its checkpoints (c2sp.org/tlog-witness), and asks them where they saw the log stand.
//
// # What it guarantees
//
// All witnesses are asked at once, each by a worker of its own: one that is slow, dead or malicious delays nobody else, and Cosign not beyond its deadline. What is added to a checkpoint was verified under the witness's key in the
// policy; nothing else that a witness says is believed, and its answers are bounded. A witness that fails is asked again with growing pauses, and brought up to date with a consistency proof when it is back. A log that more witnesses contradict
// than may be dishonest is to be halted: Cosign says so with an error that wraps ledger.ErrHalted.
//
// # What it doesn't
//
// A missing quorum is no error: Cosign returns what there is. Whether something is released without the quorum is decided by those who release. Cosignatures of a checkpoint that has a successor are not collected any more.
package cosign

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Config of a Collector. Witnesses, Policy and Prove are mandatory.
type Config struct {
	// Witnesses is the policy with the witnesses and the quorum. Each witness needs a URL: https, or http on this machine.
	Witnesses *proof.Policy
	// Policy is the same with the log's keys as they are now.
	Policy func(context.Context) (*proof.Policy, error)
	// Prove returns the proof that a checkpoint extends the first size entries.
	Prove func(cp proof.Checkpoint, size uint64) ([]proof.Hash, error)
	// Leads says whether the checkpoints that this Collector gets are the newest of the log: of several brokers, only the one that leads signs. While it says no, no witness is asked, and what one still answers counts for nothing, for another
	// one has gone on. Nil: always.
	Leads func() bool
	// Faulty is how many witnesses may be dishonest.
	Faulty int
	// Deadline is how long Cosign waits for the quorum; 0 means 2 seconds.
	Deadline time.Duration
	// Timeout of one witness's answer, catching up included; 0 means 5 seconds.
	Timeout time.Duration
	// MinPause and MaxPause bound the pause after a witness failed, which doubles; 0 means 250 milliseconds and 10 seconds.
	MinPause, MaxPause time.Duration
	// Roots are the authorities that sign the witnesses' certificates; nil: those of the system.
	Roots *x509.CertPool
	// Logger gets what the operator has to know; nil: nothing.
	Logger *slog.Logger
}

// Collector collects cosignatures. It is safe for concurrent use.
type Collector struct {
	cfg     Config
	log     *slog.Logger
	members []*member

	ctx    context.Context //nolint:containedctx // of the workers
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	round *round
	quiet bool // the missing quorum is in the log already
}

// round is the collection for one checkpoint.
type round struct {
	cp     proof.Checkpoint
	lines  [][]byte // of each member; nil: none yet
	waited bool     // for as long as anybody may
	change chan struct{}
}

func (r *round) changed() {
	close(r.change)
	r.change = make(chan struct{})
}

func (r *round) has(i int) bool { return r.lines[i] != nil }

// New starts the workers. It warns if the quorum doesn't outvote dishonest witnesses.
func New(cfg Config) (*Collector, error) {
	if cfg.Witnesses == nil || cfg.Policy == nil || cfg.Prove == nil {
		return nil, errors.New("cosign: Witnesses, Policy and Prove must be given")
	}
	if cfg.Faulty < 0 || cfg.Deadline < 0 || cfg.Timeout < 0 || cfg.MinPause < 0 || cfg.MaxPause < 0 {
		return nil, errors.New("cosign: a limit is negative")
	}
	for d, v := range map[*time.Duration]time.Duration{&cfg.Deadline: 2 * time.Second, &cfg.Timeout: 5 * time.Second, &cfg.MinPause: 250 * time.Millisecond, &cfg.MaxPause: 10 * time.Second} {
		if *d == 0 {
			*d = v
		}
	}
	if cfg.Leads == nil {
		cfg.Leads = func() bool { return true }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Collector{cfg: cfg, log: cfg.Logger}
	for i, w := range cfg.Witnesses.Witnesses() {
		base, err := checkURL(w.URL)
		if err != nil {
			return nil, fmt.Errorf("cosign: witness %s: %w", w.Name, err)
		}
		c.members = append(c.members, newMember(c, i, w, base))
	}
	if len(c.members) == 0 || !cfg.Witnesses.Demands() {
		return nil, errors.New("cosign: the policy has no witnesses, or its quorum is none")
	}
	if w := Warning(cfg.Witnesses, cfg.Faulty); w != "" {
		c.log.Warn(w)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for _, m := range c.members {
		c.work.Go(func() { m.run(c.ctx) })
	}
	return c, nil
}

// Warning says in what a quorum is too weak for a number of dishonest witnesses, or "".
func Warning(p *proof.Policy, faulty int) string {
	overlap := p.Overlap()
	if overlap > faulty {
		return ""
	}
	return fmt.Sprintf("THE QUORUM OF WITNESSES DOES NOT KEEP THIS LOG FROM SHOWING TWO HISTORIES: two quorums have %d witnesses in common at the least, and that has to be more than the %d that may be dishonest "+
		"(for k of n witnesses it is 2k-n). Demand more of them, or name more", overlap, faulty)
}

func checkURL(s string) (*url.URL, error) {
	if s == "" {
		return nil, errors.New("the policy gives no URL for it, so it can't be asked")
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("its URL is none: want https://host/path, to which /add-checkpoint is added")
	}
	a, err := netip.ParseAddr(u.Hostname())
	if u.Scheme != "https" && !(u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && a.IsLoopback())) {
		return nil, errors.New("its URL has no TLS: use https://")
	}
	return u, nil
}

// transport is one for each witness, so that none uses up what the others need.
func transport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		MaxConnsPerHost: 4, MaxIdleConnsPerHost: 2, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 16 << 10, DisableCompression: true,
	}
}

// Close stops the workers.
func (c *Collector) Close() {
	c.cancel()
	c.work.Wait()
	for _, m := range c.members {
		m.client.CloseIdleConnections()
	}
}

// Cosign implements what ledger.Config.Cosign asks for. The first time it gets a checkpoint it waits until the quorum is there, can't be reached by the witnesses that answer at the moment, or the deadline is over; after that it
// returns what there is at once.
func (c *Collector) Cosign(ctx context.Context, note []byte) ([]byte, error) {
	policy, err := c.cfg.Policy(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the log's keys: %w", err)
	}
	cp, err := proof.VerifyCheckpoint(note, policy)
	if err != nil {
		return nil, fmt.Errorf("verifying the checkpoint to be cosigned: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.take(cp)
	c.wait(ctx, r)
	if err := c.contradicted(); err != nil {
		return nil, err
	}
	out := note
	for i, m := range c.members {
		if r.has(i) && !m.w.Cosigned(cp) {
			out = append(bytes.Clone(out), r.lines[i]...)
		}
	}
	c.tell(r)
	return out, nil
}

// take makes cp what is being cosigned, unless it is already. The caller holds c.mu.
func (c *Collector) take(cp proof.Checkpoint) *round {
	r := c.round
	if r == nil || r.cp.Size() != cp.Size() || r.cp.Root() != cp.Root() {
		r = &round{cp: cp, lines: make([][]byte, len(c.members)), change: make(chan struct{})}
		c.round = r
		for _, m := range c.members {
			if m.conflict != nil && m.conflict.within(cp) {
				m.conflict = nil // others of this log went so far meanwhile; if it is another history, the witness says so again
			}
		}
	}
	for i, m := range c.members {
		if r.lines[i] == nil && m.w.Cosigned(cp) {
			r.lines[i] = []byte{} // it stands there already
		}
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
	return r
}

// wait for the quorum, once for each round. The caller holds c.mu.
func (c *Collector) wait(ctx context.Context, r *round) {
	if r.waited {
		return
	}
	deadline := time.NewTimer(c.cfg.Deadline)
	defer deadline.Stop()
	for !r.waited && !c.cfg.Witnesses.Reached(r.has) && c.hopeful(r) {
		change := r.change
		c.mu.Unlock()
		over := false
		select {
		case <-change:
		case <-deadline.C:
			over = true
		case <-ctx.Done():
			over = true
		case <-c.ctx.Done():
			over = true
		}
		c.mu.Lock()
		r.waited = r.waited || over
	}
	r.waited = true
}

// hopeful says whether the quorum could be reached if all witnesses that aren't known to fail at the moment cosign. The caller holds c.mu.
func (c *Collector) hopeful(r *round) bool {
	return c.cfg.Witnesses.Reached(func(i int) bool { return r.has(i) || !c.members[i].failing })
}

// contradicted returns an error if more witnesses saw another history than may be dishonest. The caller holds c.mu.
func (c *Collector) contradicted() error {
	var says []string
	for _, m := range c.members {
		if m.conflict != nil {
			says = append(says, fmt.Sprintf("%s: %v", m.w.Name, m.conflict))
		}
	}
	if len(says) <= c.cfg.Faulty {
		return nil
	}
	return fmt.Errorf("%w: %d witnesses saw another history than this log's, and %d may be dishonest (%s). Another broker signs for this log, or this one works on an older copy. Stop every broker of it, and see docs/operate.md, \"When witnesses saw more\"",
		ledger.ErrHalted, len(says), c.cfg.Faulty, strings.Join(says, "; "))
}

// tell the operator when the quorum is lost, and when it is back. The caller holds c.mu.
func (c *Collector) tell(r *round) {
	reached := c.cfg.Witnesses.Reached(r.has)
	if reached == !c.quiet {
		return
	}
	c.quiet = !reached
	if reached {
		c.log.Info("the quorum of witnesses is there again", "size", r.cp.Size())
		return
	}
	var missing []string
	for i, m := range c.members {
		if !r.has(i) {
			missing = append(missing, m.w.Name)
		}
	}
	c.log.Error("the checkpoint is published without the quorum of witnesses; services that wait for it release nothing until it is back", "size", r.cp.Size(), "missing", missing)
}

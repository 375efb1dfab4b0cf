// Package monitor follows a log, at several places at once, and raises an alarm when it breaks a promise.
//
// What it guarantees. Every checkpoint that the monitor ever followed is of one history, and so is every one that a place served or that it was given (from receipts, mirrors, witnesses), as soon as the log is as large; two that
// contradict each other are kept, and are an alarm that only a person ends. Every entry is checked against the rules of docs/formats.md once, in order; every closed epoch's index is read and compared with its marker. All that it knows is on the disk
// before it says anything, so kill -9 loses no alarm and repeats none but those that were being delivered. An alarm is said when it is raised and when it is cleared, and not in between.
//
// What it doesn't. It sees what is served to it: a log that shows one history to the monitor and another to somebody else is found out when a checkpoint of the other one reaches it, or by witnesses, whose quorum
// it demands. Times are compared with the monitor's own clock. It can't tell a log that is down from one that is hidden from it, nor a marker that was
// published late from one that is back-dated.
package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

// ErrBlind: no place could be read, so nothing can be said.
var ErrBlind = errors.New("no place serves the log")

// ErrLocked: another monitor works on the directory.
var ErrLocked = errors.New("another monitor works on this directory")

// Config of a monitor.
type Config struct {
	// Sources are places of the same log: itself, mirrors. At least one.
	Sources []reader.Source
	Policy  *proof.Policy
	// Dir is where state and evidence are kept. It is made if it isn't there.
	Dir string

	// Tolerance is what clocks may differ; 0 means 5 minutes.
	Tolerance time.Duration
	// Late is how long after an epoch was due to end its marker may be missing, and how long a tree that somebody was shown may be unpublished; 0 means 10 minutes.
	Late time.Duration
	// Quorum is how long a published tree may lack the quorum; 0 means 10 minutes.
	Quorum time.Duration
	// Silent is how long a witness may not be seen that was seen before; 0 means an hour.
	Silent time.Duration
	// Away is how long a place may be unreachable; 0 means 10 minutes.
	Away time.Duration

	// Webhook is where events are sent; nil means nowhere.
	Webhook *Webhook
	// Workers is how many files are read at the same time; 0 means 4.
	Workers int
	// Now is the clock; nil means the system's.
	Now func() time.Time
	// Logger; nil means none.
	Logger *slog.Logger
}

// Monitor follows a log. It is safe for concurrent use: one call works at a time, and Status and the metrics wait for none.
type Monitor struct {
	cfg    Config
	places []*watched // cfg.Sources
	lock   *os.File

	mu    sync.Mutex
	state state
	last  Status

	shown atomic.Pointer[shown]
}

// state is what survives.
type state struct {
	Format string     `json:"format"`
	Origin string     `json:"origin"`
	Note   string     `json:"checkpoint"` // the last one followed
	Edge   tiles.Edge `json:"edge"`
	Rules  fsck.Rules `json:"rules"`
	// Looked is when the log was followed to its end last.
	Looked time.Time `json:"looked"`
	// Newest is when there was nothing newer than what was followed: no place was out of reach that may be ahead, or it had grown. A marker that comes later was made later.
	Newest time.Time `json:"newest"`
	// Failed are claims that didn't hold and are looked at again.
	Failed []fsck.Claim `json:"failed_claims,omitempty"`
	// Heard are checkpoints that couldn't be compared yet: somebody was shown a larger tree than is published, or than can be read.
	Heard []heard `json:"heard,omitempty"`
	// Unwitnessed is the oldest tree seen that no quorum covers yet.
	Unwitnessed *seenTree            `json:"unwitnessed,omitempty"`
	Witnesses   map[string]time.Time `json:"witnesses"` // when each was seen last
	// Cosigned is the size of the largest tree on which each was seen.
	Cosigned map[string]uint64    `json:"cosigned,omitempty"`
	Away     map[string]time.Time `json:"away"` // since when places are unreachable
	// Unread has, of places that serve their checkpoint, a file that could not be read.
	Unread map[string]string `json:"unread,omitempty"`
	Book   book              `json:"book"`
}

type heard struct {
	Note  string    `json:"note"`
	Since time.Time `json:"since"`
	Place string    `json:"place,omitempty"` // that served it; empty if it was given by Hear
}

type seenTree struct {
	Size  uint64    `json:"size"`
	Since time.Time `json:"since"`
}

const (
	stateFormat = "regard/monitor-state@v1"
	stateFile   = "state.json"
	maxState    = 256 << 20
	maxHeard    = 1000
	// What places may fill of it, whatever they serve: the rest is for what is given.
	maxServed      = maxHeard / 2
	maxServedBytes = 16 << 20
	maxFailed      = 100 // looked at again each time; what is beyond that stands
)

// Status is what a look showed.
type Status struct {
	Origin    string    `json:"origin"`
	At        time.Time `json:"at"`
	Size      uint64    `json:"size"`
	Root      string    `json:"root"`
	Witnessed bool      `json:"witnessed"`
	Epoch     uint64    `json:"open_epoch"`
	Places    []Place   `json:"places"`
	Alarms    []Alarm   `json:"alarms"`
	// Events are the alarms that this look raised and cleared.
	Events []Event `json:"events"`
}

// Place is what one place served.
type Place struct {
	Place   string `json:"place"`
	Size    uint64 `json:"size"`
	Problem string `json:"problem,omitempty"`
}

// Active returns the alarms that nobody acknowledged.
func (s Status) Active() (n int) {
	for _, a := range s.Alarms {
		if !a.Acknowledged {
			n++
		}
	}
	return n
}

// Open opens a monitor with the state that an earlier one left.
func Open(cfg Config) (*Monitor, error) {
	if len(cfg.Sources) == 0 || cfg.Policy == nil || cfg.Dir == "" {
		return nil, errors.New("monitor: a place, a policy and a directory are needed")
	}
	for i, s := range cfg.Sources {
		if slices.ContainsFunc(cfg.Sources[:i], func(o reader.Source) bool { return o.String() == s.String() }) {
			return nil, fmt.Errorf("monitor: %s is named twice", s)
		}
	}
	for _, d := range []struct {
		to    *time.Duration
		value time.Duration
	}{{&cfg.Tolerance, 5 * time.Minute}, {&cfg.Late, 10 * time.Minute}, {&cfg.Quorum, 10 * time.Minute}, {&cfg.Silent, time.Hour}, {&cfg.Away, 10 * time.Minute}} {
		if *d.to == 0 {
			*d.to = d.value
		}
	}
	if cfg.Workers == 0 {
		cfg.Workers = 4
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the monitor's directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(cfg.Dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the monitor's state: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // #nosec G115 -- a descriptor
		lock.Close()
		return nil, fmt.Errorf("%s: %w", cfg.Dir, ErrLocked)
	}
	m := &Monitor{cfg: cfg, lock: lock}
	for _, s := range cfg.Sources {
		m.places = append(m.places, &watched{Source: s})
	}
	if cfg.Webhook != nil {
		err = cfg.Webhook.Check()
	}
	if err == nil {
		err = m.state.load(filepath.Join(cfg.Dir, stateFile))
	}
	if err == nil && m.state.Note != "" {
		// Under another key the log would seem to have forked.
		if _, e := proof.VerifyCheckpoint([]byte(m.state.Note), cfg.Policy); e != nil {
			err = fmt.Errorf("%s is of another log, or the policy lacks the key that the log signed with then: the checkpoint that was followed last: %w", cfg.Dir, e)
		}
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	m.state.Book.queue = cfg.Webhook != nil
	m.last = Status{Origin: m.state.Origin, Size: m.state.Edge.Size(), Alarms: m.state.Book.list()}
	m.show()
	return m, nil
}

// Close lets others use the state.
func (m *Monitor) Close() error { return m.lock.Close() }

func (s *state) load(file string) error {
	s.Format = stateFormat
	s.Witnesses, s.Away, s.Unread = map[string]time.Time{}, map[string]time.Time{}, map[string]string{}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the monitor's state: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() > maxState {
		return fmt.Errorf("%s is too large, or can't be read: %w", file, errors.Join(err, errDamaged))
	}
	in := *s
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil || in.Format != stateFormat || uint64(in.Rules.Next) != in.Edge.Size() || in.Witnesses == nil || in.Away == nil {
		return fmt.Errorf("%s: %w", file, errDamaged)
	}
	if in.Newest.IsZero() {
		in.Newest = in.Looked // of a version that had nothing else
	}
	*s = in
	return nil
}

var errDamaged = errors.New("this is no state of a monitor, or it is damaged. Keep it, and begin anew in another directory: what was followed before is then not compared any more")

func (m *Monitor) save() error {
	b, err := json.Marshal(&m.state)
	if err == nil {
		err = tiles.WriteFile(m.cfg.Dir, stateFile, b)
	}
	if err != nil {
		return fmt.Errorf("saving the monitor's state: %w", err)
	}
	return nil
}

// Hear takes a signed checkpoint from elsewhere: from a receipt, another monitor, a witness. It is compared at the next Look. An error means that it isn't one of this log under the policy.
func (m *Monitor) Hear(note []byte) error {
	cp, err := proof.VerifyCheckpoint(note, m.cfg.Policy)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.Origin != "" && cp.Origin() != m.state.Origin {
		return fmt.Errorf("it is of the log %s, not of %s", cp.Origin(), m.state.Origin)
	}
	if slices.ContainsFunc(m.state.Heard, func(h heard) bool { return h.Note == string(note) }) {
		return nil
	}
	if len(m.state.Heard) >= maxHeard {
		return errors.New("too many checkpoints wait for a look at the log")
	}
	m.state.Heard = append(m.state.Heard, heard{Note: string(note), Since: m.cfg.Now().UTC()})
	return m.save()
}

// Acknowledge says, in the directory of a monitor that may be running, that somebody has seen an alarm, by its key ("log.fork@…"). Its next look takes it up: the alarm is kept, and doesn't count any more.
func Acknowledge(dir string, keys ...string) error {
	f, err := os.OpenFile(filepath.Join(dir, ackFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("acknowledging: %w", err)
	}
	for _, k := range keys {
		if _, err = f.WriteString(strings.ReplaceAll(k, "\n", " ") + "\n"); err != nil {
			break
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("acknowledging: %w", err)
	}
	return nil
}

const ackFile = "acknowledged"

// acknowledged takes up what was acknowledged.
func (m *Monitor) acknowledged() error {
	name := filepath.Join(m.cfg.Dir, ackFile)
	taken := name + ".taken"
	b, err := os.ReadFile(taken) // of a look that was cut off
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(name, taken) // what is written meanwhile goes into a new file
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			b, err = os.ReadFile(taken)
		}
	}
	if err != nil {
		return fmt.Errorf("reading what was acknowledged: %w", err)
	}
	for key := range strings.Lines(string(b)) {
		key = strings.TrimSuffix(key, "\n")
		if a, ok := m.state.Book.Alarms[key]; ok {
			a.Acknowledged = true
			m.state.Book.Alarms[key] = a
		}
	}
	if err := m.save(); err != nil {
		return err
	}
	return os.Remove(taken)
}

// Status returns what the last look showed.
func (m *Monitor) Status() Status { return m.shown.Load().status }

// raiseFinding turns a finding about entries, which don't change, into an alarm.
func (m *Monitor) raiseFinding(f fsck.Finding) {
	m.state.Book.put(Code(f.Code), f.Place, f.Text, true)
}

// Run looks at once and then every so often, sends what is to be sent, and returns when ctx ends. after is told each status; may be nil.
func (m *Monitor) Run(ctx context.Context, every time.Duration, after func(Status, error)) {
	for {
		status, err := m.Look(ctx)
		if ctx.Err() != nil {
			return
		}
		if after != nil {
			after(status, err)
		}
		if err := m.Deliver(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Error("alarms could not be sent; they are sent after the next look", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

func clean(text string) string { return strings.Map(printable, text) }

// printable keeps what a server sends from steering a terminal.
func printable(r rune) rune {
	if r < ' ' || r >= 0x7f && r < 0xa0 {
		return '·'
	}
	return r
}

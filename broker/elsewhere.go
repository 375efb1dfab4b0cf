package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// What is known of the log outside the data directory. A copy of the whole directory that is put back agrees with itself in every part: only what lies elsewhere shows that it is old.

// maxCheckpoint bounds a checkpoint from a mirror: a few lines, and one for each witness.
const maxCheckpoint = 64 << 10

func (c *Config) signedDir() string {
	if c.SignedDir != "" {
		return c.SignedDir
	}
	return filepath.Join(c.DataDir, "signed")
}

// elsewhere returns the checkpoints of this log that mirrors publish, and asks the witnesses. A mirror that can't be read, or has something else, vouches for nothing, nor does a witness that doesn't know the log. One mirror is enough, or so many witnesses that no quorum can have seen more. What
// mirrors say is compared by the log, before it signs anything; a witness says a size alone, and one that is larger than all that is known stops the start. All are asked at once, and none for longer than patience. What is enough isn't the end: whoever hasn't answered then has the rest of the time to know more, and counts as silent after it.
func (b *Broker) elsewhere(ctx context.Context, patience, rest time.Duration) ([][]byte, error) {
	tail, err := store.Order{Store: b.store}.Tail(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the end of the order: %w", err)
	}
	fresh := tail.Next <= 1 // its first marker may stand there before anything is signed
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type witnessed struct {
		answered bool
		silent   []error
		err      error
	}
	first := make(chan witnessed, 1)
	go func() {
		var w witnessed
		w.answered, w.silent, w.err = b.askWitnesses(asking, nil, rest)
		first <- w
	}()
	type mirrored struct {
		mirror string
		note   []byte
		err    error
	}
	mirrors := make(chan mirrored, len(b.cfg.Mirrors)) // whoever isn't waited for can end
	silent := map[string]bool{}
	for _, m := range b.cfg.Mirrors {
		silent[m] = true
		go func() {
			note, err := b.mirrored(asking, m)
			mirrors <- mirrored{m, note, err}
		}()
	}
	var notes [][]byte
	var failed []error
	fails := func(mirror string, err error) {
		failed = append(failed, fmt.Errorf("mirror %s: %w", mirror, err))
		b.log.Warn("a mirror doesn't say where the log stands", "mirror", mirror, "error", err)
	}
	var w witnessed
	var over <-chan time.Time
	for all, waiting := false, len(b.cfg.Mirrors); !all || waiting > 0; {
		select {
		case w = <-first:
			all = true
		case m := <-mirrors:
			waiting--
			delete(silent, m.mirror)
			switch {
			case m.err == nil:
				notes = append(notes, m.note)
			case errors.Is(m.err, fs.ErrNotExist) && fresh: // a new log, of which there is nothing to mirror yet
			default:
				fails(m.mirror, m.err)
			}
		case <-over:
			waiting = 0
			for m := range silent {
				fails(m, errors.New("it said nothing, and isn't waited for: enough others answered"))
			}
		}
		if all && over == nil && (len(notes) > 0 || w.answered) {
			over = time.After(rest)
		}
	}
	if more, err := b.knowMore(ctx, notes); err != nil {
		return nil, err
	} else if more { // what witnesses saw is judged by the newest that is known
		again, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		w.answered, w.silent, w.err = b.askWitnesses(again, notes, rest)
	}
	answered := w.answered
	if w.err != nil {
		return nil, w.err
	}
	apart := b.cfg.Shared != nil || b.cfg.signedDir() != filepath.Join(b.cfg.DataDir, "signed")
	if len(b.cfg.Mirrors) > 0 && len(failed) == len(b.cfg.Mirrors) && !answered && !b.cfg.IgnoreMirrors {
		return nil, fmt.Errorf("no mirror says where the log stands, nor do enough witnesses, so an old copy of the data directory would not be noticed and nothing is signed: %w. Bring one back, or name another copy of the published checkpoint under mirrors; "+
			"if you know that the data directory is the newest there is, give --ignore-mirrors once", errors.Join(append(failed, w.silent...)...))
	}
	if b.witnesses != nil && !answered && len(b.cfg.Mirrors) == 0 && !apart && !b.cfg.IgnoreMirrors {
		return nil, fmt.Errorf("too few witnesses say where the log stands: those who don't may have seen more, so an old copy of the data directory would not be noticed and nothing is signed: %w. Bring them back, or put signed_dir on another disk; "+
			"if you know that the data directory is the newest there is, give --ignore-mirrors once", errors.Join(w.silent...))
	}
	if !apart || b.cfg.Shared != nil && b.witnesses == nil || fresh || len(notes) > 0 || answered {
		return notes, nil // where brokers share a store, what is published lies elsewhere than that, and may stand in
	}
	// The published checkpoint, which stands in for a lost signed one, is part of the very directory that must not vouch for itself.
	last, err := b.signed.Last(ctx)
	if err != nil {
		return nil, err
	}
	if len(last) == 0 && b.cfg.Shared != nil {
		return nil, errors.New("the database of the signed checkpoint has none, and the store has a log: is it the right one? If it is lost, name a copy of the published checkpoint that isn't in the store under mirrors; nothing is signed until then")
	}
	if len(last) == 0 {
		return nil, fmt.Errorf("signed_dir (%s) has no checkpoint, and the store has a log: is its disk mounted? If you have just set signed_dir, stop the broker and move what is in %s there. "+
			"If it is lost, name a copy of the published checkpoint that isn't in the data directory under mirrors; nothing is signed until then", b.cfg.SignedDir, filepath.Join(b.cfg.DataDir, "signed"))
	}
	return notes, nil
}

// elsewhereWait is how long mirrors and witnesses are waited for, all of them at a start; takeOverWait is the same where another broker has just led, and everybody waits. takeOverRest is what is left to the others
// there, once those who answered are enough: more than one takes that can be reached.
const (
	elsewhereWait = 10 * time.Second
	takeOverWait  = 2 * time.Second
	takeOverRest  = 250 * time.Millisecond
)

// atTakeOver is elsewhere for a broker that is about to lead. Each time that it fails it is more patient.
func (b *Broker) atTakeOver(ctx context.Context) ([][]byte, error) {
	patience, rest := elsewhereWait, elsewhereWait
	if b.part.Load() != nil { // it followed, or leads already
		patience, rest = min(takeOverWait<<min(b.hurried.Load(), 8), elsewhereWait), takeOverRest
	}
	if b.cfg.patience != 0 {
		patience = b.cfg.patience
	}
	known, err := b.elsewhere(ctx, patience, rest)
	if err != nil {
		b.hurried.Add(1)
	} else {
		b.hurried.Store(0)
	}
	return known, err
}

// knowMore says whether one of these notes is of a larger tree than all that is known here.
func (b *Broker) knowMore(ctx context.Context, notes [][]byte) (bool, error) {
	if len(notes) == 0 || b.witnesses == nil {
		return false, nil
	}
	here, err := b.newest(ctx, nil)
	if err != nil {
		return false, err
	}
	all, err := b.newest(ctx, notes)
	return err == nil && all.Size() > here.Size(), err
}

// mirrored reads a mirror's checkpoint and verifies it; fs.ErrNotExist says that the mirror has none.
func (b *Broker) mirrored(ctx context.Context, mirror string) (note []byte, err error) {
	if strings.Contains(mirror, "://") {
		note, err = fetchCheckpoint(ctx, mirror)
	} else {
		note, err = b.readings.file(ctx, mirror)
	}
	if err != nil {
		return nil, err
	}
	policy, err := b.logPolicy(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the log's keys: %w", err)
	}
	if len(note) > maxCheckpoint {
		return nil, errors.New("what it has is too large for a checkpoint")
	}
	cp, err := proof.VerifyCheckpoint(note, policy)
	if err != nil {
		return nil, fmt.Errorf("what it has is no checkpoint of this log: %w", err)
	}
	if cp.Origin() != b.cfg.Origin {
		return nil, errors.New("it has the checkpoint of another log")
	}
	return note, nil
}

// readings are of files on shares, which may hang: of each file there is one at most, and whoever asks for it meanwhile gets its outcome.
type readings struct {
	mu    sync.Mutex
	under map[string]*reading
}

type reading struct {
	done chan struct{}
	data []byte
	err  error
}

// file reads a file, for as long as ctx allows.
func (r *readings) file(ctx context.Context, name string) ([]byte, error) {
	r.mu.Lock()
	x := r.under[name]
	if x == nil {
		if r.under == nil {
			r.under = map[string]*reading{}
		}
		x = &reading{done: make(chan struct{})}
		r.under[name] = x
		go func() {
			x.data, x.err = os.ReadFile(name) // #nosec G304 -- a mirror of the configuration
			r.mu.Lock()
			delete(r.under, name)
			r.mu.Unlock()
			close(x.done)
		}()
	}
	r.mu.Unlock()
	select {
	case <-x.done:
		return x.data, x.err
	case <-ctx.Done():
		return nil, fmt.Errorf("reading it: no answer: %w", ctx.Err())
	}
}

func fetchCheckpoint(ctx context.Context, base string) ([]byte, error) {
	u, err := url.JoinPath(base, "checkpoint")
	if err != nil {
		return nil, errors.New("this is not a URL")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, errors.New("this is not a URL")
	}
	req.Header.Set("Cache-Control", "no-cache") // of caches on the way, too: an old one shows nothing
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, fmt.Errorf("it has no checkpoint: %w", fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("it answered %d", res.StatusCode)
	}
	return io.ReadAll(io.LimitReader(res.Body, maxCheckpoint+1))
}
